"""Make the pictures of the site anew: ``python docs/pictures.py``, with the extra ``browser``.

The demo as it looks in a terminal, by rich's own export, and the status page in Chromium.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from rich.console import Console
from rich.text import Text
from sqlalchemy import create_engine

from sa_readonly import EngineSelector
from sa_readonly.wsgi import ReadOnlyMiddleware

DOCS = Path(__file__).parent
COLUMNS = 100


def _demo() -> None:
    printed = bytearray()

    def kept(fd: int) -> bytes:
        printed.extend(data := os.read(fd, 65536))
        return data

    os.environ |= {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    pty.spawn([str(Path(sys.executable).with_name("sa-readonly")), "demo"], kept)
    lines = [""]
    for part in re.split(r"(\r?\n|\r|\x1b\[1A|\x1b\[2K)", printed.decode()):
        if part.endswith("\n"):
            lines.append("")
        elif part == "\x1b[1A":  # up, to draw once more what moves
            lines.pop()
        elif part in ("\r", "\x1b[2K"):
            lines[-1] = ""
        else:
            lines[-1] += part
    text = "\n".join(lines)
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"))  # noqa: SIM115
    console.print(Text.from_ansi(text))
    console.save_svg(str(DOCS / "demo.svg"), title="sa-readonly demo")


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _nothing(_environ: object, start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [])
    return []


def _status() -> None:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # the demo needs none

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "read-only.txt")
        Path(folder, "read-only.txt.workers").mkdir()
        selector = EngineSelector(file, read_write=create_engine(f"sqlite:///{folder}/main.db"))
        app = ReadOnlyMiddleware(_nothing, selector)
        server = make_server("127.0.0.1", 0, app, handler_class=_Silent)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        selector.check()
        file.write_text("Upgrade to PostgreSQL 18")
        selector.check()
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 900, "height": 380})
            page.goto(f"http://127.0.0.1:{server.server_port}/-/read-only")
            page.screenshot(path=DOCS / "status.png")
            browser.close()
        server.shutdown()
        selector.close()


if __name__ == "__main__":
    _demo()
    _status()
