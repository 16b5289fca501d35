"""The frame of an HTML page that needs no file from elsewhere, under the strictest policy.

It has one style and, where it refreshes itself, one script, both written into the page and allowed
by their hashes alone.
"""

from __future__ import annotations

import base64
import hashlib
import html

from ..workers.process import printable

__all__ = ["POLICY", "document", "escaped", "printable"]

EVERY = 2  # seconds between two looks of a page that refreshes itself

STYLE = """
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

# It takes the new text of each part that has an id, so that nothing jumps and a screen reader is
# told the mode only when it changes. A page that can't look any more says so.
SCRIPT = """
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
""".replace("EVERY", str(EVERY * 1000))


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


POLICY = (
    f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
"""The Content-Security-Policy under which these pages work."""


def document(title: str, body: str, *, refreshes: bool = False) -> str:
    """Return a whole page.

    :param title: text; it is escaped here.
    :param body: HTML.
    :param refreshes: whether it looks again by itself, without a script by loading anew.
    """
    head = script = ""
    if refreshes:
        head = f'<noscript><meta http-equiv="refresh" content="{EVERY}"></noscript>\n'
        script = f"<script>{SCRIPT}</script>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n'
        f"<title>{escaped(title)}</title>\n{head}<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n{script}</body>\n</html>\n"
    )


def escaped(text: str) -> str:
    """Return a text as HTML; its lines stay apart."""
    return html.escape("\n".join(printable(line) for line in text.splitlines()))
