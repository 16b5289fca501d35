"""An application behind the middleware, in a server of its own: `python -m tests.web_server KIND`.

It serves at the socket that it inherits as SA_TEST_FD, with what SA_TEST_PLACE holds: two SQLite
files, and the file. The header X-Variant of a request chooses one of several middlewares.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from sa_readonly import EngineSelector, FileSwitch, ReadOnlyError, RoutingSession
from sa_readonly.asgi import ReadOnlyMiddleware as Asgi
from sa_readonly.wsgi import ReadOnlyMiddleware as Wsgi
from tests.app import WHICH, Book

PLACE = Path(os.environ.get("SA_TEST_PLACE", "."))
FD = int(os.environ.get("SA_TEST_FD", "-1"))
LEFT = PLACE / "left"  # made when a response was closed that had no end
ASKED = PLACE / "asked"  # made when the application was asked to write
PIECE = b"x" * 65536

selector = EngineSelector(
    FileSwitch(PLACE / "read-only.txt", ttl=0),
    read_write=create_engine(f"sqlite:///file:{PLACE}/rw.db?uri=true&secret=hunter2"),
    read_only=create_engine(f"sqlite:///file:{PLACE}/ro.db?uri=true&secret=hunter2"),
)
sessions = sessionmaker(selector, class_=RoutingSession)
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="lost")

VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "details": {"details": True},
    "refuse": {"refuse": ("POST", "PUT", "PATCH", "DELETE"), "allow": ["/login", "/search/*"]},
    "status": {"status": 409},
    "no page": {"status_path": None},
}


def read() -> bytes:
    with sessions() as session:
        return f"read from {session.scalar(WHICH)}".encode()


def write() -> None:
    with sessions.begin() as session:
        session.add(Book(title="new"))


def made_of_a_refusal() -> str:
    """The status that an application makes of a refusal, as Flask does."""
    try:
        write()
    except ReadOnlyError:
        return "500 Internal Server Error"
    return "200 OK"


def wsgi_app(environ: Any, start_response: Any) -> Any:  # noqa: C901  # a table
    headers = [("Content-Type", "text/plain")]

    def start(*more: tuple[str, str]) -> Any:
        return start_response("200 OK", [*headers, *more])

    match environ["PATH_INFO"]:
        case "/write":
            ASKED.touch()
            length = int(environ.get("CONTENT_LENGTH") or 0)
            body = environ["wsgi.input"].read(length) if length else b""
            write()
            start()
            return [b"saved %d" % len(body)]
        case "/started":
            start(("X-Mine", "stale"))
            write()
            return [b"saved"]
        case "/lazy":
            start(("X-Mine", "stale"))
            return lazily()
        case "/stream":
            start(("Content-Length", "1000"))
            return streaming()
        case "/written":
            start(("Content-Length", "1000"))(b"first")
            write()
        case "/closing":
            start(("Content-Length", "5"))
            return Closing()
        case "/endless":
            start()
            return endless()
        case "/marked":
            start(("X-Read-Only", "mine"))
            return [b"marked"]
        case "/error":
            raise ValueError("an error of its own")
        case "/made":
            return start_response(made_of_a_refusal(), headers) and [b"sorry"]
        case "/file":
            start(("Content-Length", "3"))
            path = PLACE / "file"
            path.write_bytes(b"abc")
            return environ["wsgi.file_wrapper"](path.open("rb"))
    body = read()
    start(("Content-Length", str(len(body))))
    return [body]


def lazily() -> Iterator[bytes]:
    yield b""
    write()
    yield b"saved"


def streaming() -> Iterator[bytes]:
    yield b"first"
    write()
    yield b"saved"


def endless() -> Iterator[bytes]:
    try:
        while True:
            yield PIECE
    finally:
        LEFT.touch()


class Closing:
    """A response after which something is written."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"whole"])

    def close(self) -> None:
        write()


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    else:
        await http(scope, receive, send)


async def lifespan(receive: Any, send: Any) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        (PLACE / phase).touch()
        await send({"type": f"lifespan.{phase}.complete"})


async def websocket(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    try:
        write()
    except ReadOnlyError:
        await send({"type": "websocket.send", "text": "refused"})
    await send({"type": "websocket.close"})


async def http(scope: Any, receive: Any, send: Any) -> None:  # noqa: C901  # a table
    async def start(**headers: str) -> None:
        lines = [(b"content-type", b"text/plain")]
        lines += [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": lines})

    async def piece(body: bytes, *, more: bool = False) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})

    match scope["path"]:
        case "/write":
            ASKED.touch()
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            write()
            await start()
            return await piece(b"saved %d" % len(body))
        case "/started" | "/lazy":
            await start(x_mine="stale")
            write()
            return await piece(b"saved")
        case "/stream" | "/written":
            await start(content_length="1000")
            await piece(b"first", more=True)
            write()
            return await piece(b"saved")
        case "/closing":
            await start(content_length="5")
            await piece(b"whole")
            return write()
        case "/endless":
            await start()
            with_end = never_ending()
            async for _ in with_end:
                await piece(PIECE, more=True)
                if await gone(receive):
                    break
            return LEFT.touch()
        case "/marked":
            await start(x_read_only="mine")
            return await piece(b"marked")
        case "/error":
            raise ValueError("an error of its own")
        case "/made":
            status = int(made_of_a_refusal()[:3])
            await send({"type": "http.response.start", "status": status, "headers": []})
            return await piece(b"sorry")
        case "/variable":
            await start()
            return await piece(variable.get().encode())
    body = read()
    await start(content_length=str(len(body)))
    return await piece(body)


async def never_ending() -> AsyncIterator[None]:
    while True:
        yield None


async def gone(receive: Any) -> bool:
    try:
        message = await asyncio.wait_for(receive(), 0.01)
    except TimeoutError:
        return False
    except asyncio.TimeoutError:  # another class in Python 3.10
        return False
    return bool(message["type"] == "http.disconnect")


def validated(app: Any) -> Any:
    from wsgiref.validate import validator  # noqa: PLC0415

    return validator(app)


def wsgi_site(around: Any = lambda app: app) -> Any:
    made = {name: around(Wsgi(around(wsgi_app), selector, **how)) for name, how in VARIANTS.items()}
    made["operator"] = Wsgi(
        wsgi_app, selector, details=lambda environ: environ.get("HTTP_X_OPERATOR") == "yes"
    )
    return lambda environ, start: made[environ.get("HTTP_X_VARIANT", "")](environ, start)


async def is_operator(scope: Any) -> bool:
    return (b"x-operator", b"yes") in scope["headers"]


def asgi_site() -> Any:
    made: dict[str, Any] = {name: Asgi(asgi_app, selector, **how) for name, how in VARIANTS.items()}
    made["operator"] = Asgi(asgi_app, selector, details=is_operator)

    async def site(scope: Any, receive: Any, send: Any) -> None:
        variable.set("kept")
        name = dict(scope.get("headers", ())).get(b"x-variant", b"").decode()
        await made[name](scope, receive, send)

    return site


def wsgiref_main() -> None:
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer  # noqa: PLC0415

    server = WSGIServer(("127.0.0.1", 0), WSGIRequestHandler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=FD)
    server.server_address = server.socket.getsockname()
    server.server_name, server.server_port = "localhost", server.server_address[1]
    server.setup_environ()
    server.set_app(wsgi_site(validated))
    server.serve_forever()


if __name__ == "__main__":
    assert sys.argv[1:] == ["wsgiref"]
    wsgiref_main()
