"""Requests to the middlewares, as a server hands them on: any headers, paths, methods, bodies."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import create_engine

from sa_readonly import EngineSelector, FileSwitch
from sa_readonly.asgi import ReadOnlyMiddleware as Asgi
from sa_readonly.wsgi import ReadOnlyMiddleware as Wsgi
from tests.feeds import Feed
from tests.feeds.texts import CONTENT, STEERS, Tags

PAGE = "/-/read-only"
HEADERS = ["accept", "expect", "content-length", "content-type", "cookie", "x-read-only", "host"]
VALUES = st.text(st.characters(max_codepoint=255), max_size=20) | st.sampled_from(
    [
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "application/json",
        "text/html;q=nan, text/plain;q=1e999, */*;q=-1",
        ";q=0,,;;=;q=,application/*;q=\xb2",
        "text/html;q=0.٣".encode().decode("latin-1"),
        "," * 2000,
        "100-continue",
        "-1",
        "1" * 5000,
        "0x10",
        " 7 ",
        "\xb2",
    ]
)
PATHS = st.one_of(
    st.sampled_from([PAGE, f"{PAGE}/check"]),
    st.sampled_from([PAGE, f"{PAGE}/check"]),
    st.sampled_from(["/", "", f"{PAGE}/", f"{PAGE}/check/", f"{PAGE}//", "*", "//x", "/login"]),
    st.builds(
        lambda start, text: start + text, st.sampled_from(["/", PAGE, ""]), st.text(max_size=20)
    ),
)
QUERIES = st.text(st.characters(max_codepoint=255), max_size=30) | st.sampled_from(
    [
        "mode=read-write",
        "mode=read-only",
        "mode=read-only&mode=read-only",
        "mode=%72ead-write",
        "asked=abc",
        "asked=%3Cb%3E",
        "asked=%ff%00",
        "asked=\xff",
        "&" * 3000,
        "mode",
        "=read-write",
    ]
)
METHODS = st.one_of(
    *[st.just("GET")] * 4,
    st.sampled_from(["HEAD", "POST", "PUT", "OPTIONS", "get", "PROPFIND", ""]),
    st.text(st.characters(max_codepoint=255), max_size=8),
)


@st.composite
def requests(draw: Any) -> dict[str, Any]:
    return {
        "method": draw(METHODS),
        "path": draw(PATHS),
        "query": draw(QUERIES),
        "headers": draw(
            st.lists(
                st.tuples(
                    st.sampled_from(HEADERS)
                    | st.text(st.characters(max_codepoint=127), max_size=5),
                    VALUES,
                ),
                max_size=4,
            )
        ),
        "body": draw(st.lists(st.binary(max_size=10), max_size=3)),
        "broken": draw(st.sampled_from(["", "", "", "gone", "raises", "long"])),
        "file": draw(st.none() | CONTENT),
        "root": draw(st.sampled_from(["", "", "/app", "/app/", "/", "/-"])),
        "left out": draw(st.lists(st.sampled_from(OPTIONAL), max_size=2)),
    }


OPTIONAL = ("PATH_INFO", "QUERY_STRING", "CONTENT_LENGTH", "headers", "query_string", "root_path")
"""What a server may leave out, by PEP 3333 and by ASGI."""


class Pages:
    """An application that always writes, behind both middlewares."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "read-only.txt"
        self.loop = asyncio.new_event_loop()
        engine = create_engine(f"sqlite:///{directory}/pages.db")
        switch = FileSwitch(self.file, ttl=0)
        self.selector = EngineSelector(switch, read_write=engine, watch=False)
        with self.selector.engine().begin() as connection:
            connection.exec_driver_sql("CREATE TABLE thing (id int)")
        settings: Any = {"refuse": ["PUT"], "allow": ["/login", "/search/*"]}
        self.wsgi = Wsgi(self._wsgi, self.selector, details=lambda _: True, **settings)
        self.asgi = Asgi(self._asgi, self.selector, details=True, **settings)

    def close(self) -> None:
        self.loop.close()
        self.selector.close()

    def _write(self) -> None:
        self.selector.require_read_write()

    def _wsgi(self, _environ: Any, start_response: Any) -> list[bytes]:
        self._write()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    async def _asgi(self, _scope: Any, _receive: Any, send: Any) -> None:
        self._write()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    @contextmanager
    def made(self, content: bytes | None) -> Iterator[None]:
        if content is not None:
            self.file.write_bytes(content)
        try:
            yield
        finally:
            self.file.unlink(missing_ok=True)


class Broken(io.RawIOBase):
    """A body whose client sends less than it said, or has gone."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.pieces = list(request["body"])
        self.kind = request["broken"]

    def read(self, size: int = -1) -> bytes:
        if self.kind == "raises":
            raise OSError("gone")
        if self.kind == "long":
            return b"x" * size
        return self.pieces.pop(0)[:size] if self.pieces else b""


def by_wsgi(pages: Pages, request: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
    path = request["path"].encode("utf-8", "surrogatepass").decode("latin-1")
    environ = {
        "REQUEST_METHOD": request["method"],
        "SCRIPT_NAME": request["root"],
        "PATH_INFO": path,
        "QUERY_STRING": request["query"],
        "wsgi.input": Broken(request),
    }
    for name, value in request["headers"]:
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_LENGTH" else f"HTTP_{key}"] = value
    for name in request["left out"]:
        environ.pop(name, None)
    begun: list[Any] = []

    def start(status: str, headers: Any, _: Any = None) -> Any:
        begun[:] = [int(status[:3]), headers]

    answered = pages.wsgi(environ, start)
    body = b"".join(answered)
    if hasattr(answered, "close"):
        answered.close()
    return begun[0], begun[1], body


async def by_asgi(pages: Pages, request: dict[str, Any]) -> tuple[int, Any, bytes]:
    # A server decodes the path; what is no UTF-8 in it, it replaces or refuses.
    path = request["path"].encode("utf-8", "replace").decode()
    root = request["root"]
    scope = {
        "type": "http",
        "method": request["method"],
        "path": root.rstrip("/") + path if root else path,
        "root_path": root,
        "query_string": request["query"].encode("latin-1"),
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in request["headers"]],
    }
    for name in request["left out"]:
        scope.pop(name, None)
    pieces = list(request["body"])
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if request["broken"] in ("gone", "raises"):
            return {"type": "http.disconnect"}
        if request["broken"] == "long":
            return {"type": "http.request", "body": b"x" * (1 << 18), "more_body": True}
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    await pages.asgi(scope, receive, send)
    start, *bodies = sent
    headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in start["headers"]]
    return start["status"], headers, b"".join(one.get("body", b"") for one in bodies)


def check_answer(
    request: dict[str, Any], status: int, headers: list[tuple[str, str]], body: bytes
) -> str:
    there = dict(headers)
    for name, value in headers:
        assert not STEERS.search(name + value)
        assert (name + value).isascii()
    if (status, body) == (200, b"ok"):
        assert request["file"] is None
        return "the application's"
    assert status in (200, 400, 405, 503)
    lower = {name.lower(): value for name, value in there.items()}
    assert (request["file"] is not None) == (lower.get("x-read-only") == "true")
    assert lower["cache-control"] == "no-store"
    if request["method"] != "HEAD":
        assert int(lower["content-length"]) == len(body)
    text = body.decode()
    kind = lower["content-type"].partition(";")[0]
    if kind.endswith("json"):
        json.loads(text or "null")
    elif kind == "text/html":
        tags = Tags(text).tags
        assert set(tags) <= TAGS
        assert tags.count("script") <= 1
        assert tags.count("h1") == bool(text)
    else:
        assert not STEERS.search(text.replace("\n", ""))
    return f"{status} {kind}"


TAGS = {
    *("html", "head", "meta", "title", "style", "script", "noscript", "body", "main", "h1", "h2"),
    *("p", "div", "dl", "dt", "dd", "span", "time", "strong"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


def through_wsgi(pages: Pages) -> Feed:
    def check(request: dict[str, Any]) -> str:
        with pages.made(request["file"]):
            return check_answer(request, *by_wsgi(pages, request))

    return Feed("requests through WSGI", requests(), check)


def through_asgi(pages: Pages) -> Feed:
    def check(request: dict[str, Any]) -> str:
        with pages.made(request["file"]):
            return check_answer(request, *pages.loop.run_until_complete(by_asgi(pages, request)))

    return Feed("requests through ASGI", requests(), check)
