"""The ASGI middleware, through a real server and in the process."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from sqlalchemy import create_engine

from sa_readonly import EngineSelector, FileSwitch, FixedSwitch, Mode, ReadOnlyError
from sa_readonly.asgi import ReadOnlyMiddleware, response_for
from tests.app import App, need
from tests.web_cases import PAGE, Cases, Settings, Site, serving


@pytest.fixture(scope="module", params=["uvicorn"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(request.param) as started:
        yield started


class TestAsgi(Cases):
    def test_context_variables_survive(self, fresh: Site) -> None:
        assert fresh.ask("/variable").text == "kept"

    def test_lifespan_passes_through(self, site: Site) -> None:
        assert (site.place / "startup").exists()


class TestSettings(Settings):
    middleware = ReadOnlyMiddleware


# -- in the process --------------------------------------------------------------------------


@pytest.fixture(params=list(Mode), ids=str)
def either(request: pytest.FixtureRequest) -> Iterator[EngineSelector]:
    with of(request.param) as selector:
        yield selector


def of(mode: Mode) -> EngineSelector:
    return EngineSelector(FixedSwitch(mode), read_write=create_engine("sqlite:///unused.db"))


@pytest.fixture
def reading() -> Iterator[EngineSelector]:
    with of(Mode.READ_ONLY) as selector:
        yield selector


def scope(path: str = "/", **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": [], **more}


async def receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


class Sent:
    """What a server is sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


def asked(middleware: Any, *arguments: Any, **more: Any) -> Sent:
    sent = Sent()
    asyncio.run(middleware(scope(*arguments, **more), receive, sent))
    return sent


def head(**more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": [], **more}


def test_websockets_and_lifespan_are_left_alone(reading: EngineSelector) -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.extend(arguments)
        raise ReadOnlyError("no")

    for kind in ("websocket", "lifespan", "other"):
        given = ({"type": kind, "path": PAGE}, receive, Sent())
        with pytest.raises(ReadOnlyError):
            asyncio.run(ReadOnlyMiddleware(app, reading)(*given))
        assert all(one is other for one, other in zip(seen, given, strict=True))
        seen.clear()


def test_only_while_read_only_the_head_waits_for_the_body(either: EngineSelector) -> None:
    sent = Sent()
    before: list[int] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(head())
        before.append(len(sent.messages))
        await send({"type": "http.response.body", "body": b"a"})

    asyncio.run(ReadOnlyMiddleware(app, either)(scope(), receive, sent))
    assert before == [0 if either.read_only else 1]
    assert [message["type"] for message in sent.messages] == [
        "http.response.start",
        "http.response.body",
    ]
    marked = [(b"x-read-only", b"true")] if either.read_only else []
    assert sent.messages[0]["headers"] == marked


def test_a_head_without_a_body_is_sent_all_the_same(reading: EngineSelector) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(head(trailers=True))

    (message,) = asked(ReadOnlyMiddleware(app, reading)).messages
    assert message == head(trailers=True, headers=[(b"x-read-only", b"true")])


def test_the_headers_of_the_application_are_not_changed_in_place(reading: EngineSelector) -> None:
    mine = head()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(mine)

    asked(ReadOnlyMiddleware(app, reading))
    assert mine == head()


@pytest.mark.parametrize(
    ("more", "said"), [(True, "connection is closed"), (False, "response was complete")]
)
def test_what_is_refused_too_late_is_logged_and_given_on(
    reading: EngineSelector, caplog: pytest.LogCaptureFixture, more: bool, said: str
) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(head())
        await send({"type": "http.response.body", "body": b"a", "more_body": more})
        raise ReadOnlyError("no")

    with pytest.raises(ReadOnlyError), caplog.at_level(logging.ERROR):
        asked(ReadOnlyMiddleware(app, reading))
    (record,) = caplog.records
    assert said in record.message


def test_a_path_is_meant_within_the_application(reading: EngineSelector) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(head())

    made = ReadOnlyMiddleware(app, reading)
    for root in ("/api", "/api/"):
        assert b"mode: read-only" in asked(made, f"/api{PAGE}", root_path=root).body
    assert b"mode: read-only" in asked(made, PAGE, root_path="/api").body
    assert asked(made, f"/apix{PAGE}", root_path="/api").body == b""


def test_several_accept_headers_are_one(reading: EngineSelector) -> None:
    headers = [(b"accept", b"text/plain;q=0.5"), (b"accept", b"application/json")]
    error = ReadOnlyError("no")
    kinds = dict(response_for(error, scope(headers=headers)).headers)
    assert kinds["Content-Type"] == "application/problem+json"


def test_the_loop_goes_on_while_the_directory_of_workers_is_read(lite: App) -> None:
    reading, go_on = threading.Event(), threading.Event()

    class Slow:
        def register(self, _identify: Any) -> Any:
            raise AssertionError("not in the loop's thread")

        def sweep(self, _identify: Any) -> None: ...

        def read(self) -> list[Any]:
            reading.set()
            assert go_on.wait(10)
            return []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(head())

    lite.start(workers=False)
    lite.selector._registry = Slow()
    made = ReadOnlyMiddleware(app, lite.selector)

    async def both() -> tuple[Sent, Sent]:
        page, other = Sent(), Sent()
        task = asyncio.create_task(made(scope(PAGE), receive, page))
        await asyncio.to_thread(reading.wait, 10)
        await made(scope(), receive, other)
        assert not task.done()
        go_on.set()
        await task
        return page, other

    page, other = asyncio.run(both())
    assert (page.status, other.status) == (200, 200)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> set[threading.Thread]:
    """The threads that look at a file."""
    threads: set[threading.Thread] = set()
    examine = FileSwitch._examine

    def noting(self: Any) -> Any:
        threads.add(threading.current_thread())
        return examine(self)

    monkeypatch.setattr(FileSwitch, "_examine", noting)
    return threads


@pytest.mark.parametrize("rehearse", [False, True])
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_file_is_looked_at_in_a_thread(
    lite: App, looked: set[threading.Thread], loop: str, rehearse: bool
) -> None:
    need(loop)
    lite.start(ttl=3600, rehearse=rehearse)  # stale only as the process has not registered yet
    looked.clear()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(head())

    made = ReadOnlyMiddleware(app, lite.selector, refuse=["GET"])
    for path in ("/", PAGE):
        sent = Sent()
        if loop == "asyncio":
            asyncio.run(made(scope(path), receive, sent))
        else:
            import_module(loop).run(made, scope(path), receive, sent)
        assert sent.status == 200
    assert looked
    assert threading.main_thread() not in looked


def test_an_answer_that_ages_while_it_is_asked_for_is_not_asked_for_anew_on_the_loop(
    lite: App, looked: set[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=3600)
    lite.selector.check()
    looked.clear()
    ends = iter([math.inf])
    aging = property(lambda _: next(ends, -math.inf), lambda *_: None)
    monkeypatch.setattr(FileSwitch, "fresh_until", aging)

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(head())

    assert asked(ReadOnlyMiddleware(app, lite.selector)).status == 200
    assert next(ends, None) is None
    assert not looked


def test_it_works_where_no_asyncio_runs(reading: EngineSelector) -> None:
    sent = Sent()
    running = ReadOnlyMiddleware(None, reading)(scope(PAGE), receive, sent)
    with pytest.raises(StopIteration):
        running.send(None)
    assert sent.status == 200


@pytest.mark.parametrize(("headers", "left"), [([], 0), ([(b"expect", b"100-continue")], 3)])
def test_a_refused_body_is_read_unless_the_client_waits_with_it(
    reading: EngineSelector, headers: list[Any], left: int
) -> None:
    messages = [{"type": "http.request", "body": b"a", "more_body": more} for more in (0, 1, 1)]

    async def receive() -> Any:
        return messages.pop()

    sent = Sent()
    made = ReadOnlyMiddleware(None, reading, refuse=["POST"])
    asyncio.run(made(scope(method="POST", headers=headers), receive, sent))
    assert (sent.status, len(messages)) == (503, left)


def test_a_client_that_leaves_in_its_refused_body_is_not_waited_for(
    reading: EngineSelector,
) -> None:
    messages = iter(
        [
            {"type": "http.request", "body": b"a", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def leaving() -> Any:
        return next(messages)

    sent = Sent()
    made = ReadOnlyMiddleware(None, reading, refuse=["POST"])
    asyncio.run(made(scope(method="POST"), leaving, sent))
    assert sent.status == 503


# -- what comes before a response --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["early_hint", "push", "debug"])
def test_what_is_sent_ahead_of_a_response_begins_none(reading: EngineSelector, kind: str) -> None:
    ahead = {"type": f"http.response.{kind}", "links": [], "info": {}}

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(ahead)
        reading.require_read_write()

    first, start, _ = asked(ReadOnlyMiddleware(app, reading)).messages
    assert first == ahead
    assert start["status"] == 503


def test_a_request_that_a_loop_left_is_closed_in_another_context(reading: EngineSelector) -> None:
    class Never:
        def __await__(self) -> Any:
            yield

    async def app(*_: Any) -> None:
        await Never()

    running: Any = ReadOnlyMiddleware(app, reading)(scope(), receive, Sent())
    contextvars.copy_context().run(running.send, None)
    running.close()  # as a garbage collection does
