"""The documentation site: `tox -e docs`, or `sphinx-build -W docs site`. Read by Sphinx alone."""

from __future__ import annotations

import re
import tempfile
import zlib
from configparser import ConfigParser
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
_setup = ConfigParser()
_setup.read(ROOT / "setup.cfg", encoding="utf-8")

project = "sa_readonly"
author = _setup["metadata"]["author"]
copyright = author  # noqa: A001  # the name that Sphinx asks for
release = version = _setup["metadata"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]

# -- pages -----------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"sa_readonly {release}"
html_theme_options = {"navigation_with_keys": True}
# Links go to headings as GitHub names them, so that they work there, too.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["site"]
# Prompts and what was printed are not copied with the commands.
copybutton_exclude = ".linenos, .gp, .go"
# Blocks that show a part of a file, or three dots, are no whole text of their language.
suppress_warnings = ["misc.highlighting_failure"]

# -- the public API --------------------------------------------------------------------------

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True


def _empty_inventory() -> str:
    """What stands in for other projects' inventories where they can't be had: no name is linked."""
    path = Path(tempfile.mkdtemp(prefix="sa-readonly-docs-")) / "objects.inv"
    head = b"# Sphinx inventory version 2\n# Project: none\n# Version: 0\n"
    path.write_bytes(head + b"# The remainder of this file is compressed using zlib.\n")
    with path.open("ab") as file:
        file.write(zlib.compress(b""))
    return str(path)


_offline = _empty_inventory()
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", (None, _offline)),
    "sqlalchemy": ("https://docs.sqlalchemy.org/en/20", (None, _offline)),
}
intersphinx_timeout = 10

# -- links that leave docs/ ------------------------------------------------------------------

_LINK = re.compile(r"\]\(\.\./(?P<path>[\w./-]+?)/?(?P<anchor>#[\w-]+)?\)")
_ELSEWHERE = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "project/security.md",
    "findings/README.md": "project/findings.md",
}


def _inside(link: re.Match[str]) -> str:
    """The link to a file beside docs/, as one to the page that shows this file."""
    path, anchor = link["path"], link["anchor"] or ""
    wing, _, rest = path.partition("/")
    if wing == "examples":
        name = rest.partition("/")[0]
        return f"](examples.md#{name})" if name else "](examples.md)"
    return f"]({_ELSEWHERE[path]}{anchor})" if path in _ELSEWHERE else link[0]


def _read(_app: Sphinx, docname: str, source: list[str]) -> None:
    if "/" not in docname:
        source[0] = _LINK.sub(_inside, source[0])


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _read)
