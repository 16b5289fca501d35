"""What docs/web.md shows is run, with the testing modes of the frameworks off."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.pool import NullPool

from tests.app import App, need
from tests.test_readme import Base, Thing

WEB = (Path(__file__).parent.parent / "docs" / "web.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", WEB, re.DOTALL)
WSGI, FLASK, FASTAPI, STARLETTE, AIOHTTP, REFUSE, DETAILS = BLOCKS


class Shown:
    """The examples, run in one place as a reader would."""

    def __init__(self, app: App) -> None:
        self.app = app
        for url in app.urls.values():
            engine = create_engine(url, poolclass=NullPool)
            Base.metadata.create_all(engine)
        urls = {name: url.render_as_string() for name, url in app.urls.items()}
        self.names: dict[str, Any] = {
            "__name__": __name__,
            "Thing": Thing,
            "RW_URL": urls["rw"],
            "RO_URL": urls["ro"],
        }

    def run(self, *blocks: str) -> Any:
        for block in blocks:
            text = block.replace("/var/lib/myapp/read-only.txt", str(self.app.path))
            exec(text, self.names)  # our own text
        return self.names

    @property
    def things(self) -> int:
        engine = create_engine(self.app.urls["rw"], poolclass=NullPool)
        with engine.connect() as connection:
            return int(connection.scalar(select(func.count()).select_from(Thing)) or 0)


@pytest.fixture
def shown(lite: App) -> Iterator[Shown]:
    made = Shown(lite)
    yield made
    selector = made.names.get("selector")
    if selector is None:  # it was skipped
        return
    for flip in (lambda: None, lambda: lite.path.unlink(missing_ok=True)):
        flip()
        selector.check()
        for role in ("primary", "replica"):
            selector.engine(role).dispose()
    selector.close()


def call(app: Any, path: str = "/", method: str = "POST", **more: Any) -> tuple[str, Any, bytes]:
    """Ask a WSGI application, as a server would."""
    environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, **more}
    setup_testing_defaults(environ)
    told: list[Any] = []
    body = app(environ, lambda *start: told.append(start))
    content = b"".join(body)
    if hasattr(body, "close"):
        body.close()
    ((status, headers),) = told
    return status, dict(headers), content


def ask(app: Any, path: str, method: str = "POST") -> Any:
    """Ask an ASGI application, as a server would, which sees no exception but logs it."""
    import httpx  # noqa: PLC0415

    async def asking() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await client.request(method, path)

    return asyncio.run(asking())


def test_the_wsgi_example_answers(shown: Shown) -> None:
    application = shown.run(WSGI)["application"]
    assert call(application)[2] == b"saved"
    shown.app.on()
    shown.names["selector"].check()
    status, headers, body = call(application)
    assert (status, headers["X-Read-Only"]) == ("503 Service Unavailable", "true")
    assert b'"reason": "upgrade"' in body
    assert shown.things == 1


def test_the_flask_example_answers_with_testing_off_and_on(shown: Shown) -> None:
    need("flask")
    app = shown.run(WSGI, FLASK)["app"]
    assert call(app, "/things")[0] == "200 OK"
    shown.app.on()
    shown.names["selector"].check()
    for testing in (False, True):
        app.testing = testing
        status, headers, body = call(app, "/things", HTTP_ACCEPT="text/html")
        assert status == "503 Service Unavailable"
        assert headers["X-Read-Only"] == "true"
        assert headers["Retry-After"] == "60"
        assert b"<h1>Not saved</h1>" in body
    with app.app_context():
        (banner,) = [
            told["read_only"]
            for function in app.template_context_processors[None]
            if "read_only" in (told := function())
        ]
    assert banner.reason == "upgrade"
    assert shown.things == 1


def test_without_the_handler_flask_answers_500_and_the_middleware_503(shown: Shown) -> None:
    need("flask")
    handlers = re.sub(r"@app.errorhandler.*?\n\n\n", "", FLASK, flags=re.DOTALL)
    assert handlers != FLASK
    app = shown.run(WSGI, handlers)["app"]
    answers = [call(app.wsgi_app.app, "/things"), call(app, "/things")]
    shown.app.on()
    shown.names["selector"].check()
    answers += [call(app.wsgi_app.app, "/things"), call(app, "/things")]
    assert [status[:3] for status, _, _ in answers] == ["200", "200", "500", "503"]
    assert b'"reason": "upgrade"' in answers[-1][2]


@pytest.mark.parametrize(
    ("name", "needs", "block"),
    [("api", "fastapi", FASTAPI), ("starlette", "starlette", STARLETTE)],
    ids=["fastapi", "starlette"],
)
def test_the_asgi_examples_answer(shown: Shown, name: str, needs: str, block: str) -> None:
    need("httpx")
    need(needs)
    app = shown.run(WSGI, block)[name]
    assert ask(app, "/things").json() == {"saved": True}
    shown.app.on()
    shown.names["selector"].check()
    answer = ask(app, "/things")
    assert (answer.status_code, answer.json()["reason"]) == (503, "upgrade")
    assert answer.headers.get_list("X-Read-Only") == ["true"]
    assert ask(app, "/-/read-only", "GET").text.startswith("mode: read-only\n")
    assert shown.things == 1


def test_a_commit_after_the_yield_of_a_dependency_comes_too_late(
    shown: Shown, caplog: pytest.LogCaptureFixture
) -> None:
    need("httpx")
    need("fastapi")
    late = """
from fastapi import Depends

def session():
    with Session.begin() as session:
        yield session

@api.post("/late")
def late(session=Depends(session)):
    session.add(Thing())
    return {"saved": True}
"""
    app = shown.run(WSGI, FASTAPI, late)["api"]
    shown.app.on()
    shown.names["selector"].check()
    assert ask(app, "/late").status_code == 200  # which is why the docs warn of it
    assert "after the response was complete" in caplog.text
    assert shown.things == 0


def test_what_is_refused_beforehand_is_not_run(shown: Shown) -> None:
    careful = shown.run(WSGI, REFUSE)["careful"]
    shown.app.on()
    shown.names["selector"].check()
    assert call(careful)[0] == "503 Service Unavailable"


def test_the_details_are_for_the_addresses_that_are_shown(shown: Shown) -> None:
    private = shown.run(WSGI, DETAILS)["private"]
    page = "/-/read-only"
    assert b"this process" in call(private, page, "GET", REMOTE_ADDR="10.1.2.3")[2]
    assert b"this process" not in call(private, page, "GET", REMOTE_ADDR="192.0.2.1")[2]
    assert b"this process" not in call(private, page, "GET")[2]


def test_the_lines_that_are_shown_are_those_of_the_page(shown: Shown) -> None:
    application = shown.run(WSGI)["application"]
    (page,) = re.findall(r"```console\n\$ curl .*?\n(.*?)```", WEB, re.DOTALL)
    told = call(application, "/-/read-only", "GET")[2].decode()
    keys = [[line.partition(":")[0] for line in text.splitlines()] for text in (page, told)]
    assert keys[0] == keys[1]


def test_importing_the_package_imports_none_of_this() -> None:
    code = "import sys, sa_readonly; print(*(n for n in sys.modules if n in sys.argv))"
    names = [f"sa_readonly.{name}" for name in ("wsgi", "asgi", "web", "page", "status")]
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
