"""A request that is held: before the application is called, and in which order it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert
from sqlalchemy.orm import sessionmaker

from sa_readonly import ConfigurationError, EngineSelector, RoutingSession, asgi, wsgi
from sa_readonly.mode import now
from tests.app import SECONDS, WHICH, App, Book, need
from tests.held import InThreads
from tests.postgres import wait_until


@pytest.fixture
def night(lite: App) -> Iterator[App]:
    lite.on()
    lite.start(max_held=4)
    yield lite
    lite.selector.close()


class Client(InThreads):
    """Asks a WSGI middleware, each time in a thread."""

    def __init__(self, app: App, answer: Callable[[], object] = int, **options: Any) -> None:
        super().__init__()
        self.app = app
        self.called: list[str] = []
        self.answers: dict[str, tuple[str, dict[str, str], bytes]] = {}
        self._answer = answer
        options.setdefault("hold", SECONDS)
        self.middleware = wsgi.ReadOnlyMiddleware(self._app, app.selector, **options)

    def _app(self, environ: Any, start_response: Any) -> list[bytes]:
        self.called.append(environ["PATH_INFO"])
        self._answer()
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    def ask(self, method: str, path: str = "/", **environ: Any) -> None:
        head: list[Any] = []
        asked = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "CONTENT_LENGTH": "4",
            "wsgi.input": io.BytesIO(b"body"),
            **environ,
        }

        def work() -> None:
            pieces = self.middleware(asked, lambda *given: head.extend(given))  # type: ignore[arg-type]
            body = b"".join(pieces)
            self.answers[path] = (head[0], dict(head[1]), body)

        self.start(work)


def test_requests_that_write_wait_before_the_application_is_called(night: App) -> None:
    client = Client(night)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        client.ask(method, f"/{method}")
    assert client.number == 4
    assert client.called == []
    client.ask("GET", "/reads")
    client.ask("GET", "/-/read-only")
    client.ask("GET", "/-/read-only/check", QUERY_STRING="mode=read-only")
    assert client.called == ["/reads"]
    assert client.answers["/-/read-only/check"][0] == "200 OK"
    client.end()
    assert client.called == ["/reads", "/POST", "/PUT", "/PATCH", "/DELETE"]
    assert client.answers["/POST"] == ("200 OK", {}, b"body")


def test_the_hold_ends_with_the_usual_503(night: App) -> None:
    client = Client(night, hold=0.02)
    client.ask("POST")
    client.join()
    status, headers, body = client.answers["/"]
    assert (status, headers["Retry-After"]) == ("503 Service Unavailable", "60")
    assert b"read-only" in body
    assert client.called == []


def test_where_until_is_later_it_is_refused_at_once_with_retry_after(night: App) -> None:
    night.selector.switch.enable("upgrade", now() + timedelta(seconds=100))
    client = Client(night, hold=50)
    client.ask("POST")
    client.join()
    status, headers, _ = client.answers["/"]
    assert status == "503 Service Unavailable"
    assert 90 < int(headers["Retry-After"]) <= 100


def test_only_hold_methods_and_paths_that_may_be_refused_are_held(night: App) -> None:
    client = Client(night, hold_methods=["PUT"], allow=["/search"])
    client.ask("POST")
    client.ask("PUT", "/search")
    client.join()
    assert client.called == ["/", "/search"]


def test_a_flip_back_while_it_is_let_go_has_it_wait_on(night: App) -> None:
    client = Client(night)
    client.ask("POST")
    wait, queue = night.selector.held.wait, night.selector.held
    flips: list[int] = []

    def turn_back(ticket: Any) -> Any:  # between its turn and the application's call
        why = wait(ticket)
        if not flips:
            flips.append(1)
            night.on()
        return why

    queue.wait = turn_back
    client.ask("PUT", "/second")
    night.off()
    night.selector.check()
    wait_until(lambda: client.called == ["/"] and flips and client.number == 1, "it waits again")
    client.end()
    assert client.called == ["/", "/second"]


def test_the_sessions_of_a_held_request_do_not_queue_again(night: App) -> None:
    sessions = sessionmaker(night.selector, class_=RoutingSession, hold=SECONDS)
    waiting: list[bool] = []

    def write() -> None:
        queue = night.selector.held
        waiting.append(queue.must_wait(night.selector.state))
        with sessions.begin() as session:
            session.add(Book(title="a"))
        waiting.append(queue.busy)

    client = Client(night, write)
    client.ask("POST")
    queue = night.selector.held
    ticket = queue.ticket(SECONDS)
    thread = threading.Thread(target=queue.wait, args=(ticket,))  # it keeps its turn
    thread.start()
    wait_until(lambda: client.number == 2, "both wait")
    client.end()
    thread.join(SECONDS)
    assert waiting[0] is False
    assert night.titles("rw") == ["a"]
    queue.end(ticket)


def test_a_held_request_whose_client_has_gone_is_not_passed_on(night: App) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = Client(night)
        client.ask("POST", "/gone", **{"gunicorn.socket": ours})
        theirs.close()
        client.end()
    assert client.called == []


def test_a_client_that_stays_is_not_waited_for_on_a_socket_of_gevents(night: App) -> None:
    need("gevent")
    import gevent.socket  # noqa: PLC0415  # where it is installed

    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        client = Client(night)
        client.ask("POST", **{"gunicorn.socket": ours})
        client.end()
        assert ours.gettimeout() is None
    assert client.called == ["/"]


def test_a_request_that_came_before_the_flip_is_held_as_its_session_connects(night: App) -> None:
    night.off()
    night.selector.check()

    def work() -> None:
        night.on()
        with night.sessions.begin() as session:  # which has no hold of its own
            assert session.scalar(WHICH) == "rw"
            session.add(Book(title="a"))

    client = Client(night, work)
    client.ask("POST")
    assert client.number == 1
    client.end()
    assert client.answers["/"][0] == "200 OK"
    assert night.titles("rw") == ["a"]


def test_such_a_request_is_held_as_a_held_engine_of_core_connects(night: App) -> None:
    night.off()
    night.selector.check()
    told: list[object] = []

    def work() -> None:
        night.on()
        with night.selector.engine(hold=SECONDS).begin() as connection:
            told.append(connection.scalar(WHICH))
            connection.execute(insert(Book).values(title="a"))

    client = Client(night, work)
    client.ask("POST")
    assert client.number == 1
    client.end()
    assert told == ["rw"]
    client = Client(night, lambda: (night.on(), told.append(reads())), hold=0.02)

    def reads() -> object:
        with night.selector.engine(hold=SECONDS).connect() as connection:
            return connection.scalar(WHICH)

    client.ask("POST", "/over")
    client.join()
    assert told == ["rw", "ro"]
    assert night.titles("rw") == ["a"]


@pytest.mark.parametrize("name", ["flush", "dml"])
def test_such_a_request_is_held_if_a_session_made_before_the_middleware_writes_first(
    night: App, name: str
) -> None:
    night.off()
    night.selector.check()
    session = night.sessions()

    def work() -> None:
        night.on()
        with session.begin():
            WORK[name](session)

    client = Client(night, work)
    client.ask("POST")
    assert client.number == 1
    client.end()
    assert client.answers["/"][0] == "200 OK"
    assert night.titles("rw") == [name]


def test_such_a_request_keeps_no_turn_while_it_connects(night: App) -> None:
    night.engines["rw"].dispose()
    night.off()
    night.selector.check()
    connecting, go_on = threading.Event(), threading.Event()

    @event.listens_for(night.engines["rw"], "do_connect")
    def connect(*_: Any) -> None:
        connecting.set()
        go_on.wait(SECONDS)

    def work() -> None:
        night.on()
        with night.sessions.begin() as session:
            session.scalar(WHICH)

    client = Client(night, work)
    client.ask("POST")
    night.off()
    night.selector.check()
    assert connecting.wait(SECONDS)
    assert not night.selector.held.busy
    go_on.set()
    client.join()


WORK: dict[str, Callable[[Any], object]] = {
    "flush": lambda session: session.add(Book(title="flush")),
    "dml": lambda session: session.execute(insert(Book).values(title="dml")),
    "read": lambda session: session.scalar(WHICH),
}


@pytest.mark.parametrize("name", WORK)
def test_if_its_hold_ends_it_may_read_and_is_refused_a_write(night: App, name: str) -> None:
    night.off()
    night.selector.check()

    def work() -> None:
        night.on()
        with night.sessions.begin() as session:
            WORK[name](session)

    client = Client(night, work, hold=0.02)
    client.ask("POST")
    client.join()
    assert client.answers["/"][0][:3] == ("200" if name == "read" else "503")
    client.ask("GET", "/reads")  # of no kind that is held
    client.join()
    assert client.answers["/reads"][0][:3] == client.answers["/"][0][:3]


# -- ASGI ------------------------------------------------------------------------------------


class Asgi:
    """Asks an ASGI middleware, each time in a task."""

    def __init__(self, app: App, **options: Any) -> None:
        self.app = app
        self.called: list[str] = []
        options.setdefault("hold", SECONDS)
        self.middleware = asgi.ReadOnlyMiddleware(self._app, app.selector, **options)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.called.append(scope["path"])
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    def ask(self, method: str, path: str, messages: asyncio.Queue[Any]) -> asyncio.Task[list[Any]]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def work() -> list[Any]:
            scope = {"type": "http", "method": method, "path": path, "headers": []}
            await self.middleware(scope, messages.get, send)
            return sent

        return asyncio.ensure_future(work())

    async def held(self, number: int) -> None:
        while self.app.selector.held.held[0] != number:
            await asyncio.sleep(0)


def body(*pieces: bytes) -> asyncio.Queue[Any]:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    for number, piece in enumerate(pieces, 1):
        more = number < len(pieces)
        queue.put_nowait({"type": "http.request", "body": piece, "more_body": more})
    return queue


def on_loop(work: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(work(), SECONDS))


def test_tasks_are_held_with_what_their_clients_send(night: App) -> None:
    async def work() -> None:
        client = Asgi(night)
        early, late = body(b"a", b"b"), body()
        tasks = [client.ask("POST", "/early", early), client.ask("PUT", "/late", late)]
        await client.held(2)
        sent = await client.ask("GET", "/reads", body(b""))
        assert sent[0]["status"] == 200
        assert client.called == ["/reads"]
        night.off()
        while len(client.called) < 3:  # a thread looks, and the loop goes on
            await asyncio.sleep(0)
        late.put_nowait({"type": "http.request", "body": b"c", "more_body": False})
        told = [[message.get("body") for message in one] for one in await asyncio.gather(*tasks)]
        assert told == [[None, b"ab"], [None, b"c"]]
        assert client.called == ["/reads", "/early", "/late"]

    on_loop(work)


def test_a_client_that_goes_away_ends_its_waiting(night: App) -> None:
    async def work() -> None:
        client = Asgi(night)
        gone, stays = body(b"a"), body(b"b")
        tasks = [client.ask("POST", "/gone", gone), client.ask("POST", "/stays", stays)]
        await client.held(2)
        gone.put_nowait({"type": "http.disconnect"})
        assert await tasks[0] == []
        assert night.selector.held.held[0] == 1
        night.off()
        await tasks[1]
        assert client.called == ["/stays"]

    on_loop(work)


def test_a_client_that_goes_away_as_its_turn_comes_is_not_passed_on(night: App) -> None:
    queue = night.selector.held
    wait = queue.wait_as_task

    async def wait_and_lose(ticket: Any) -> Any:
        why = await wait(ticket)
        queue.give_up(ticket)
        return why

    queue.wait_as_task = wait_and_lose

    async def work() -> None:
        client = Asgi(night)
        task = client.ask("POST", "/gone", body(b""))
        await client.held(1)
        night.off()
        assert await task == []
        assert client.called == []

    on_loop(work)
    assert not queue.busy


def test_the_task_of_a_held_request_is_cancelled_and_the_next_goes_on(
    night: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_readonly.hold.queue.TURN", 2 * SECONDS)  # its end is not waited for

    async def work() -> None:
        client = Asgi(night)
        tasks = [client.ask("POST", f"/{name}", body(b"")) for name in "ab"]
        await client.held(2)
        night.off()
        night.selector.check()
        tasks[0].cancel()
        await tasks[1]
        assert client.called == ["/b"]

    on_loop(work)
    assert not night.selector.held.busy


class Working(Asgi):
    """Its first request keeps a connection, and the second one works on without any."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self.ends = {"/0": asyncio.Event(), "/1": asyncio.Event()}

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        path, primary = scope["path"], self.app.engines["rw"]
        with primary.connect() if path == "/0" else contextlib.nullcontext():
            await super()._app(scope, receive, send)
            if path in self.ends:
                await self.ends[path].wait()


@pytest.mark.parametrize("turn", [SECONDS, 0.05])
def test_while_the_pool_is_spent_the_next_waits_until_one_is_through_or_its_turn_would_have_ended(
    lite: App, monkeypatch: pytest.MonkeyPatch, turn: float
) -> None:
    monkeypatch.setattr("sa_readonly.hold.queue.TURN", turn)
    lite.engine("rw", pool_size=1)
    lite.on()
    lite.start()

    async def work() -> None:
        client = Working(lite)
        tasks = [client.ask("POST", f"/{number}", body(b"")) for number in range(3)]
        await client.held(3)
        lite.off()
        began = time.monotonic()
        lite.selector.check()
        while len(client.called) < 2:
            await asyncio.sleep(0)
        if turn == SECONDS:
            for _ in range(20):
                await asyncio.sleep(0)
            assert client.called == ["/0", "/1"]
            client.ends["/1"].set()
        await tasks[2]
        assert turn == SECONDS or time.monotonic() - began > turn
        for end in client.ends.values():
            end.set()
        await asyncio.gather(*tasks)

    on_loop(work)
    lite.selector.close()


def test_more_than_max_held_get_the_usual_503_at_once(night: App) -> None:
    async def work() -> None:
        client = Asgi(night)
        tasks = [client.ask("POST", f"/{number}", body(b"")) for number in range(4)]
        await client.held(4)
        sent = await client.ask("POST", "/next", body(b""))
        assert sent[0]["status"] == 503
        night.off()
        await asyncio.gather(*tasks)

    on_loop(work)


# -- trio ------------------------------------------------------------------------------------


def test_under_trio_requests_are_held_as_well(night: App) -> None:
    need("trio")
    import trio  # noqa: PLC0415  # where it is installed

    client = Asgi(night)
    sent: dict[str, list[Any]] = {}

    async def ask(path: str, receive: Any) -> None:
        async def send(message: Any) -> None:
            sent.setdefault(path, []).append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        await client.middleware(scope, receive, send)

    async def held(number: int) -> None:
        while night.selector.held.held[0] != number:
            await trio.sleep(0)

    async def work() -> None:
        stays, theirs = trio.open_memory_channel(2)
        leaves, gone = trio.open_memory_channel(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "/stays", theirs.receive)
            nursery.start_soon(ask, "/gone", gone.receive)
            await held(2)
            why = night.selector.held.wait(night.selector.held.ticket(1))
            assert why is not None
            assert "event loop" in why
            await stays.send({"type": "http.request", "body": b"a", "more_body": True})
            await leaves.send({"type": "http.disconnect"})
            await held(1)
            night.off()  # a thread looks, and the loop goes on
            await stays.send({"type": "http.request", "body": b"b", "more_body": False})
        short = Asgi(night, hold=0.01)
        client.middleware = short.middleware
        night.on()
        night.selector.check()
        await stays.send({"type": "http.request", "body": b"", "more_body": False})
        await ask("/late", theirs.receive)

    async def bounded() -> None:
        with trio.fail_after(SECONDS):
            await work()

    trio.run(bounded)
    assert client.called == ["/stays"]
    assert sent["/stays"][1]["body"] == b"ab"
    assert sent["/late"][0]["status"] == 503
    assert "/gone" not in sent


# -- settings --------------------------------------------------------------------------------


def test_in_wsgi_it_needs_max_held(lite: App) -> None:
    lite.start()
    with pytest.raises(ConfigurationError, match=r"ReadOnlyMiddleware\(hold\) needs EngineSelecto"):
        wsgi.ReadOnlyMiddleware(lambda *_: [], lite.selector, hold=1)
    asgi.ReadOnlyMiddleware(Asgi._app, lite.selector, hold=1)


@pytest.mark.parametrize("options", [{"hold": -1}, {"hold": "1"}, {"hold_methods": "POST"}])
@pytest.mark.parametrize("made", [wsgi.ReadOnlyMiddleware, asgi.ReadOnlyMiddleware])
def test_bad_values_are_refused(lite: App, made: Any, options: dict[str, Any]) -> None:
    lite.start(max_held=1)
    selector: EngineSelector = lite.selector
    name = next(iter(options))
    with pytest.raises(ConfigurationError, match=rf"ReadOnlyMiddleware\({name}\) takes "):
        made(None, selector, **options)


# -- docs/hold.md ----------------------------------------------------------------------------


def test_what_the_page_shows_is_held(lite: App) -> None:
    page = (Path(__file__).parent.parent / "docs" / "hold.md").read_text(encoding="utf-8")
    middleware, session, core = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path, lite_urls = str(lite.path), lite.urls
    names: dict[str, Any] = {
        "create_engine": create_engine,
        "sessionmaker": sessionmaker,
        "RW_URL": lite_urls["rw"],
        "RO_URL": lite_urls["ro"],
        "application": None,
        "Thing": Book,
        "insert": insert,
    }
    exec(middleware.replace("/var/lib/myapp/read-only.txt", path), names)  # our own text
    with names["selector"]:
        lite.on()
        names["selector"].check()
        shown = InThreads()
        shown.app = App(lite.path, {}, selector=names["selector"])
        for text in (session, core):
            shown.start(partial(exec, text.replace("name=", "title="), names))
        assert shown.number == 2
        shown.end()
    assert lite.titles("rw") == ["a", "a"]
