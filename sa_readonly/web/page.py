"""The frame of an HTML page, which loads nothing else and works under the strictest policy.

Its style, and the script of a page that refreshes itself, are written into it. The policy allows
these two by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html

from ..text import printable

__all__ = ["POLICY", "document", "escaped"]

_EVERY = 2  # seconds between two refreshes of a page that refreshes itself

_STYLE = """
:root{color-scheme:light dark;--text:#1a1a1a;--back:#fff;--soft:#595959;--line:#c8c8c8;
--off:#7a3b00;--off-back:#fff1d6;--on:#0b5a2b;--on-back:#e3f6e8}
@media (prefers-color-scheme:dark){:root{--text:#ececec;--back:#131313;--soft:#b4b4b4;--line:#444;
--off:#ffd591;--off-back:#3d2a00;--on:#9be3b4;--on-back:#0c2e1a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:48rem;padding:1rem;font:1rem/1.5 system-ui,sans-serif;
color:var(--text);background:var(--back);overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.2;margin:.5rem 0 1rem}
h2{font-size:1.15rem;margin:1.5rem 0 .5rem}
.mode{padding:.6rem .9rem;border-left:.4rem solid;font-size:1.15rem;font-weight:600;margin:0 0 1rem}
.read-only{color:var(--off);background:var(--off-back)}
.read-write{color:var(--on);background:var(--on-back)}
.text{white-space:pre-line}
dl{margin:0 0 1rem}dt{font-weight:600}dd{margin:0 0 .5rem}
table{width:100%;border-collapse:collapse}
th,td{text-align:left;vertical-align:top;padding:.4rem .6rem .4rem 0;
border-bottom:1px solid var(--line)}
td{overflow-wrap:break-word}tbody th{font-weight:400}
.soft{color:var(--soft);font-size:.9rem}
"""

# It replaces the parts that have an id, and only where their text has changed: so nothing jumps,
# and a screen reader speaks only when the mode changes. When it can't refresh any more, the page
# says so.
_SCRIPT = """
(function(){"use strict";
async function look(){
 try{
  const answer=await fetch(location.href,{headers:{Accept:"text/html"},cache:"no-store",
   signal:AbortSignal.timeout(10000)});
  if(!answer.ok)throw new Error(answer.status);
  const page=new DOMParser().parseFromString(await answer.text(),"text/html");
  if(!page.getElementById("mode"))throw new Error("another page");
  for(const part of document.querySelectorAll("[id]")){
   const fresh=page.getElementById(part.id);
   if(fresh&&fresh.innerHTML!==part.innerHTML)part.innerHTML=fresh.innerHTML;
  }
  document.title=page.title;
 }catch(error){
  const part=document.getElementById("trouble");
  const text="The application can't be reached: what is shown here is old.";
  if(part.textContent!==text)part.textContent=text;
 }
 setTimeout(look,EVERY);
}
setTimeout(look,EVERY);
})();
""".replace("EVERY", str(_EVERY * 1000))


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
"""The Content-Security-Policy under which these pages work."""


def document(title: str, body: str, *, refreshes: bool = False) -> str:
    """Return a whole page.

    :param title: text; it is escaped here.
    :param body: HTML.
    :param refreshes: whether it refreshes itself: by its script, or else by loading anew.
    """
    head = script = ""
    if refreshes:
        head = f'<noscript><meta http-equiv="refresh" content="{_EVERY}"></noscript>\n'
        script = f"<script>{_SCRIPT}</script>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n'
        f"<title>{escaped(title)}</title>\n{head}<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n{script}</body>\n</html>\n"
    )


def escaped(text: str) -> str:
    """Return a text as HTML; its lines stay apart."""
    return html.escape("\n".join(printable(line) for line in text.splitlines()))
