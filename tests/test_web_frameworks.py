"""Each framework of docs/web.md answers 503 to a refused write, with and without a handler."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from sa_readonly import ReadOnlyError, asgi, wsgi
from tests.app import App, Book, need
from tests.test_web_docs import AIOHTTP, ask, call

REASON = "upgrade"


def theirs(name: str) -> Any:
    """Import a framework in the test that needs it: all of them take two seconds."""
    need(name.partition(".")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports itself
        return importlib.import_module(name)


@pytest.fixture
def write(lite: App) -> Callable[[], None]:
    """Write a book, which is refused: read-only."""
    lite.on(REASON)
    lite.start(workers=False)

    def writing() -> None:
        with lite.sessions.begin() as session:
            session.add(Book(title="new"))

    return writing


def told(answer: Any) -> tuple[int, Any, Any]:
    """Status, Retry-After and reason: of an answer of `call()`, or of `ask()`."""
    if isinstance(answer, tuple):
        status, headers, body = answer
        reason = re.search(rb'"reason": "(.*?)"', body)
        headers = {name.lower(): value for name, value in headers.items()}
        return int(status[:3]), headers.get("retry-after"), reason and reason[1].decode()
    reason = answer.json().get("reason") if "json" in answer.headers["content-type"] else None
    return answer.status_code, answer.headers.get("Retry-After"), reason


ANSWER = (503, "60", REASON)
PLAIN = (500, None, None)


def test_flask(lite: App, write: Any) -> None:
    flask = theirs("flask")

    def made() -> Any:
        app = flask.Flask(__name__)
        app.add_url_rule("/", view_func=write, methods=["POST"])
        app.add_url_rule("/after", view_func=lambda: "read", methods=["POST"])

        @app.after_request
        def after(response: Any) -> Any:
            if flask.request.path == "/after":
                write()  # as what saves a session there
            return response

        return app

    app = made()
    assert [told(call(app, path)) for path in ("/", "/after")] == [PLAIN, PLAIN]
    app.wsgi_app = wsgi.ReadOnlyMiddleware(app.wsgi_app, lite.selector)
    assert [told(call(app, path)) for path in ("/", "/after")] == [ANSWER, ANSWER]
    app = made()
    app.register_error_handler(
        ReadOnlyError, lambda error: wsgi.response_for(error, flask.request.environ)
    )
    # It does not come by what is raised after the view.
    assert [told(call(app, path)) for path in ("/", "/after")] == [ANSWER, PLAIN]


@pytest.mark.filterwarnings("ignore:'get_engine' is deprecated")  # Flask-Session calls both
@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
def test_flask_session_with_a_table(lite: App, monkeypatch: pytest.MonkeyPatch) -> None:
    need("flask_sqlalchemy")
    flask, flask_session = theirs("flask"), theirs("flask_session")
    extension = theirs("sa_readonly.contrib.flask_sqlalchemy")
    waits: list[float] = []
    monkeypatch.setattr(theirs("flask_session._utils").time, "sleep", waits.append)
    urls = {name: url.render_as_string() for name, url in lite.urls.items()}

    def made(**config: Any) -> Any:
        app = flask.Flask(__name__)
        app.config.from_mapping(
            SQLALCHEMY_DATABASE_URI=urls["rw"],
            SQLALCHEMY_BINDS={"sessions": urls["ro"]},
            SESSION_TYPE="sqlalchemy",
            **config,
        )
        db = extension.SQLAlchemy(app)
        app.config["SESSION_SQLALCHEMY"] = db
        with app.app_context():
            lite.made += db.engines.values()
            flask_session.Session(app)
            lite.start(read_write=db.engine, read_only=None, workers=False)
            db.selectors = {db.engine: lite.selector}
        app.add_url_rule("/", "page", lambda: f"of {flask.session.get('user')}")
        app.add_url_rule("/login", "login", lambda: flask.session.update(user="Ann") or "in")
        app.wsgi_app = wsgi.ReadOnlyMiddleware(app.wsgi_app, lite.selector)
        return app

    def asked(app: Any) -> list[Any]:
        client = app.test_client()
        assert client.get("/login").text == "in"
        assert client.get("/").text == "of Ann"
        lite.on(REASON)
        answers = [client.get(path) for path in ("/", "/login")]
        answers.append(app.test_client().get("/"))  # without a session
        lite.off()
        lite.selector.close()
        return [(one.status_code, one.headers.get("Retry-After")) for one in answers]

    assert asked(made()) == [(503, "60"), (503, "60"), (200, None)]
    assert sum(waits) == pytest.approx(4 * 0.9)  # it tries again, and for its 500 once more
    assert asked(made(SESSION_REFRESH_EACH_REQUEST=False)) == [
        (200, None),
        (503, "60"),
        (200, None),
    ]
    elsewhere = made(SESSION_SQLALCHEMY_BIND_KEY="sessions")
    assert asked(elsewhere) == [(200, None)] * 3


def test_pyramid(lite: App, write: Any) -> None:
    config_of = theirs("pyramid.config").Configurator

    def made(handler: Any = None) -> Any:
        with config_of() as config:
            config.add_route("book", "/")
            config.add_view(lambda _: write(), route_name="book")
            if handler:
                config.add_exception_view(handler, context=ReadOnlyError)
            return config.make_wsgi_app()

    def not_saved(error: Any, request: Any) -> Any:
        return request.get_response(wsgi.response_for(error, request.environ))

    with pytest.raises(ReadOnlyError):
        call(made())
    assert told(call(wsgi.ReadOnlyMiddleware(made(), lite.selector))) == ANSWER
    assert told(call(made(not_saved))) == ANSWER


def test_falcon(lite: App, write: Any) -> None:
    falcon = theirs("falcon")
    of_asgi = theirs("falcon.asgi")

    class Books:
        def on_post(self, *_: Any) -> None:
            write()

    class AsyncBooks:
        async def on_post(self, *_: Any) -> None:
            write()

    def not_saved(request: Any, response: Any, error: Any, _params: Any) -> None:
        answer = wsgi.response_for(error, request.env)
        response.status, response.data = answer.status, answer.body
        response.set_headers(answer.headers)

    async def not_saved_async(request: Any, response: Any, error: Any, _params: Any) -> None:
        answer = asgi.response_for(error, request.scope)
        response.status, response.data = answer.status, answer.body
        response.set_headers(answer.headers)

    app, async_app = falcon.App(), of_asgi.App()
    app.add_route("/", Books())
    async_app.add_route("/", AsyncBooks())
    assert [told(call(app)), told(ask(async_app, "/"))] == [PLAIN, PLAIN]
    assert told(call(wsgi.ReadOnlyMiddleware(app, lite.selector))) == ANSWER
    assert told(ask(asgi.ReadOnlyMiddleware(async_app, lite.selector), "/")) == ANSWER
    app.add_error_handler(ReadOnlyError, not_saved)
    async_app.add_error_handler(ReadOnlyError, not_saved_async)
    assert [told(call(app)), told(ask(async_app, "/"))] == [ANSWER, ANSWER]


def test_starlette(lite: App, write: Any) -> None:
    need("httpx")
    starlette = theirs("starlette.applications").Starlette
    route = theirs("starlette.routing").Route
    base = theirs("starlette.middleware.base").BaseHTTPMiddleware

    def view(request: Any) -> Any:
        if request.url.path == "/":
            return write()
        try:
            write()
        except ReadOnlyError as error:
            return asgi.response_for(error, request.scope)  # it may be returned

    async def passing_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    def made(**more: Any) -> Any:
        routes = [route(path, view, methods=["POST"]) for path in ("/", "/returned")]
        return starlette(routes=routes, **more)

    assert told(ask(made(), "/")) == PLAIN
    assert told(ask(made(), "/returned")) == ANSWER
    assert told(ask(asgi.ReadOnlyMiddleware(made(), lite.selector), "/")) == ANSWER
    app = made()
    app.add_middleware(base, dispatch=passing_on)
    app.add_middleware(asgi.ReadOnlyMiddleware, selector=lite.selector)
    assert told(ask(app, "/")) == ANSWER


def test_fastapi(lite: App, write: Any, caplog: pytest.LogCaptureFixture) -> None:
    httpx, fastapi = theirs("httpx"), theirs("fastapi")
    cors = theirs("fastapi.middleware.cors").CORSMiddleware

    def made() -> Any:
        app = fastapi.FastAPI()
        app.post("/")(write)

        def returned(request: Any) -> Any:
            try:
                write()
            except ReadOnlyError as error:
                return asgi.response_for(error, request.scope)

        def afterwards(tasks: Any) -> str:
            tasks.add_task(write)
            return "told"

        returned.__annotations__ = {"request": fastapi.Request}
        afterwards.__annotations__ = {"tasks": fastapi.BackgroundTasks}
        app.post("/returned")(returned)
        app.post("/afterwards")(afterwards)
        return app

    assert told(ask(made(), "/")) == PLAIN
    assert told(ask(asgi.ReadOnlyMiddleware(made(), lite.selector), "/")) == ANSWER
    app = made()
    app.add_middleware(asgi.ReadOnlyMiddleware, selector=lite.selector)
    app.add_middleware(cors, allow_origins=["*"])
    assert told(ask(app, "/")) == ANSWER

    async def from_elsewhere() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            return await client.post("http://shop/", headers={"Origin": "http://elsewhere"})

    headers = asyncio.run(from_elsewhere()).headers
    assert (headers["access-control-allow-origin"], headers["retry-after"]) == ("*", "60")
    caplog.clear()
    assert ask(app, "/afterwards").status_code == 200
    assert "after the response was complete: the client was not told" in caplog.text
    # FastAPI makes JSON of what it does not know, which is why the docs warn of it.
    assert (answer := ask(app, "/returned")).status_code == 200
    assert answer.json()["status"] == 503
    app = made()
    app.add_exception_handler(
        ReadOnlyError, lambda request, error: asgi.response_for(error, request.scope)
    )
    assert told(ask(app, "/")) == ANSWER


def test_litestar(lite: App, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    need("httpx")
    # Litestar imports it where it is installed, which takes as long as all the rest.
    monkeypatch.setitem(sys.modules, "advanced_alchemy", None)
    litestar = theirs("litestar")
    define = theirs("litestar.middleware").DefineMiddleware

    def made(**more: Any) -> Any:
        def view() -> None:
            write()

        handler = litestar.post("/", sync_to_thread=True)(view)
        return litestar.Litestar([handler], openapi_config=None, logging_config=None, **more)

    def not_saved(request: Any, error: Any) -> Any:
        answer = asgi.response_for(error, request.scope)
        return litestar.Response(
            answer.body, status_code=answer.status, headers=dict(answer.headers)
        )

    assert told(ask(made(), "/")) == PLAIN
    assert told(ask(asgi.ReadOnlyMiddleware(made(), lite.selector), "/")) == ANSWER
    inside = define(asgi.ReadOnlyMiddleware, selector=lite.selector)
    assert told(ask(made(middleware=[inside]), "/")) == ANSWER
    assert told(ask(made(exception_handlers={ReadOnlyError: not_saved}), "/")) == ANSWER


def test_quart(lite: App, write: Any) -> None:
    need("httpx")
    quart = theirs("quart")

    def made() -> Any:
        app = quart.Quart(__name__)
        app.add_url_rule("/", view_func=write, methods=["POST"])  # Quart runs it in a thread
        return app

    app = made()
    assert told(ask(app, "/")) == PLAIN
    app.asgi_app = asgi.ReadOnlyMiddleware(app.asgi_app, lite.selector)
    assert told(ask(app, "/")) == ANSWER
    app = made()

    @app.errorhandler(ReadOnlyError)
    async def not_saved(error: ReadOnlyError) -> Any:
        answer = asgi.response_for(error, quart.request.scope)
        return answer.body, answer.status, answer.headers

    assert told(ask(app, "/")) == ANSWER


def test_aiohttp(write: Any) -> None:
    web, utils = theirs("aiohttp.web"), theirs("aiohttp.test_utils")

    names: dict[str, Any] = {}
    exec(AIOHTTP, names)  # our own text

    class LibraryError(Exception):
        pass

    async def view(request: Any) -> Any:
        if request.path == "/other":
            raise LibraryError
        if request.path == "/begun":
            response = web.StreamResponse(headers={"Content-Length": "2000"})
            await response.prepare(request)
            await response.write(b"mine")
        try:
            write()
        except ReadOnlyError as error:
            raise LibraryError from error

    async def answers() -> list[Any]:
        app = names["app"]
        app.router.add_post("/", view)
        app.router.add_post("/other", view)
        app.router.add_post("/begun", view)
        async with utils.TestClient(utils.TestServer(app)) as client:
            told = [await client.post(path) for path in ("/", "/other", "/nowhere")]
            text = await client.post("/", headers={"Accept": "text/plain"})
            assert "reason: upgrade" in await text.text()
            begun = await client.post("/begun")
            assert await begun.content.readany() == b"mine"
            with pytest.raises(theirs("aiohttp").ClientPayloadError):  # no second head is sent
                await begun.content.read()
            return [(one.status, one.headers.get("Retry-After")) for one in told]

    assert isinstance(names["app"], web.Application)
    assert asyncio.run(answers()) == [(503, "60"), (500, None), (404, None)]
