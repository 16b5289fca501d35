"""A refusal reaches the one who asked, whatever the application made of it: both middlewares."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from sqlalchemy import insert

from sa_readonly import ReadOnlyError, RoutingSession, asgi, refusals, wsgi
from sa_readonly.refusals import chain
from tests.app import WHICH, App, Book, need

KINDS = ("wsgi", "asgi")
MINE = [("X-Mine", "mine"), ("Access-Control-Allow-Origin", "*"), ("Vary", "Origin")]


class Reply(NamedTuple):
    """What the client is sent, and what left the middleware."""

    status: int
    headers: dict[str, list[str]]
    body: bytes
    raised: BaseException | None = None

    @property
    def is_answer(self) -> bool:
        return (
            self.status == 503
            and self.raised is None
            and self.headers.get("retry-after") == ["60"]
            and b"upgrade" in self.body
        )


NOTHING = Reply(0, {}, b"")


def reply(status: int, headers: Any, body: bytes) -> Reply:
    told: dict[str, list[str]] = {}
    for name, value in headers:
        told.setdefault(name.lower(), []).append(value)
    return Reply(status, told, body)


def ask_wsgi(do: Callable[[], int], around: Callable[[Any], Any], method: str) -> Reply:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response(f"{do()} Whatever", MINE)
        return [b"mine"]

    return called(around(app), method)


def called(app: Any, method: str = "GET") -> Reply:
    """Ask a WSGI application as a server does."""
    told: list[Any] = []
    written: list[bytes] = []

    def start_response(*started: Any) -> Any:
        told.append(started)
        return written.append

    environ = {"REQUEST_METHOD": method, "PATH_INFO": "/"}
    try:
        body = app(environ, start_response)
        content = b"".join(body)
        if hasattr(body, "close"):
            body.close()
    except Exception as error:  # noqa: BLE001  # it is what the server meets
        return NOTHING._replace(raised=error)
    ((status, headers, *_),) = told
    return reply(int(status[:3]), headers, b"".join(written) + content)


def ask_asgi(do: Callable[[], int], around: Callable[[Any], Any], method: str) -> Reply:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, do())

    return asyncio.run(asked(around(app), method))


async def answer(send: Any, status: int, body: bytes = b"mine", *, more: bool = False) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in MINE]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def asked(app: Any, method: str = "GET") -> Reply:
    """Ask an ASGI application as a server does."""
    sent: list[Any] = []
    raised = None

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    try:
        await app({"type": "http", "method": method, "path": "/", "headers": []}, receive, send)
    except Exception as error:  # noqa: BLE001  # it is what the server meets
        raised = error
    if not sent:
        return NOTHING._replace(raised=raised)
    headers = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    assert [one["type"] for one in sent].count("http.response.start") == 1
    body = b"".join(one.get("body", b"") for one in sent)
    return reply(sent[0]["status"], headers, body)._replace(raised=raised)


class Request:
    """One application in both kinds of gateways; ``do`` is what it does for a request."""

    def __init__(self, kind: str, app: App) -> None:
        self.kind, self.app = kind, app
        self.middleware: Any = {"wsgi": wsgi, "asgi": asgi}[kind].ReadOnlyMiddleware

    def around(self, app: Any) -> Any:
        return self.middleware(app, self.app.selector)

    def __call__(
        self,
        do: Callable[[], int],
        around: Callable[[Any], Any] | None = None,
        method: str = "GET",
    ) -> Reply:
        ask = {"wsgi": ask_wsgi, "asgi": ask_asgi}[self.kind]
        return ask(do, around or self.around, method)

    def write(self, **options: Any) -> None:
        with self.app.sessions(**options) as session, session.begin():
            session.add(Book(title="new"))

    def refused(self, **options: Any) -> ReadOnlyError:
        with pytest.raises(ReadOnlyError) as caught:
            self.write(**options)
        return caught.value

    def handled(self) -> None:
        with contextlib.suppress(ReadOnlyError):
            self.write()


@pytest.fixture(params=KINDS)
def ask(request: pytest.FixtureRequest, lite: App) -> Request:
    """Read-only."""
    lite.on()
    lite.start()
    return Request(request.param, lite)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[Any]]:
    """What a call returns: level and message of each record since the last call, but of flips."""
    caplog.set_level(logging.INFO, "sa_readonly")

    def told() -> list[Any]:
        records = [one for one in caplog.records if one.levelno != logging.WARNING]
        caplog.clear()
        return records

    told()
    return told


# -- a 500 that the application made ---------------------------------------------------------


def test_a_500_that_the_application_made_of_a_refusal_is_replaced(ask: Request, log: Any) -> None:
    def do() -> int:
        ask.handled()
        return 500

    answered = ask(do)
    assert answered.is_answer
    assert "x-mine" not in answered.headers
    assert answered.headers["access-control-allow-origin"] == ["*"]  # else no script may read it
    assert answered.headers["vary"] == ["Accept", "Origin"]
    (record,) = log()
    assert record.levelno == logging.INFO
    assert "answered 500 to a refused write, and its client is told 503. " in record.message
    assert ask(do, method="HEAD").body == b""


@pytest.mark.parametrize("status", [200, 409, 503])
def test_a_refusal_that_the_application_answers_itself_stays_so(
    ask: Request, log: Any, status: int
) -> None:
    def do() -> int:
        ask.handled()
        return status

    answered = ask(do)
    assert (answered.status, answered.body) == (status, b"mine")
    assert log() == []


def test_a_500_of_another_request_is_not_replaced(ask: Request, log: Any) -> None:
    ask(lambda: (ask.handled(), 200)[1])
    answered = ask(lambda: 500)
    assert (answered.status, answered.body) == (500, b"mine")
    assert log() == []


def test_a_read_that_another_engine_serves_was_not_refused(ask: Request) -> None:
    ask.app.off()
    ask.app.selector.check()

    class Late(RoutingSession):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            chosen = super().get_bind(*args, **kwargs)
            ask.app.on()  # a flip comes before the first connection
            return chosen

    def do() -> int:
        with Late(ask.app.selector) as session:
            assert session.scalar(WHICH) == "ro"
        return 500

    assert ask(do).status == 500


def test_what_runs_in_a_thread_with_the_context_is_noted_and_without_it_is_not(
    ask: Request,
) -> None:
    def in_pool(run: Callable[..., Any]) -> int:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run, ask.handled).result()
        return 500

    assert ask(lambda: in_pool(contextvars.copy_context().run)).is_answer
    assert ask(lambda: in_pool(lambda work: work())).status == 500


# -- an error that leaves the application ----------------------------------------------------


class LibraryError(Exception):
    pass


def raised_from(error: BaseException) -> None:
    raise LibraryError from error


def raised_from_none(error: BaseException) -> None:
    try:
        raise error
    except ReadOnlyError:
        raise LibraryError from None


def raised_deep(error: BaseException) -> None:
    for _ in range(50):
        try:
            raise LibraryError from error
        except LibraryError as outer:
            error = outer
    raise error


def raised_in_a_circle(error: BaseException) -> None:
    one, two = LibraryError(), LibraryError()
    one.__cause__, two.__cause__ = two, one
    two.__context__ = error
    raise one


def raised_in_a_group(error: BaseException) -> None:
    class GroupError(Exception):  # as ExceptionGroup, which Python 3.10 has not
        exceptions = (KeyError(), LibraryError())

    GroupError.exceptions[1].__cause__ = error
    raise GroupError


@pytest.mark.parametrize(
    "made",
    [raised_from, raised_from_none, raised_deep, raised_in_a_circle, raised_in_a_group],
)
def test_an_error_in_whose_chain_a_refusal_stands_is_answered(
    ask: Request, log: Any, made: Callable[[BaseException], None]
) -> None:
    assert ask(lambda: made(ask.refused()) or 200).is_answer
    assert log() == []


def test_another_error_goes_on_and_is_logged_with_its_traceback(ask: Request, log: Any) -> None:
    def do() -> int:
        ask.handled()
        raise LibraryError

    answered = ask(do)
    assert answered.status == 0
    assert isinstance(answered.raised, LibraryError)
    (record,) = log()
    assert (record.levelno, record.exc_info[1]) == (logging.ERROR, answered.raised)
    assert "failed with an error that is not its consequence" in record.message


def test_an_error_without_a_refusal_goes_on_and_is_not_logged(ask: Request, log: Any) -> None:
    assert isinstance(ask(lambda: int("x")).raised, ValueError)
    assert log() == []


def test_an_error_that_is_raised_for_many_keeps_the_chain_of_its_first_request_alone(
    ask: Request,
) -> None:
    one = KeyError("made once")

    def first() -> int:
        try:
            ask.write()
        except ReadOnlyError:
            raise one  # noqa: B904  # its context is what is tried

    def later() -> int:
        with pytest.raises(KeyError):
            {"wsgi": wsgi, "asgi": asgi}[ask.kind].response_for(one, {"headers": ()})
        raise one

    assert ask(first).is_answer
    assert ask(later).raised is one


def test_a_chain_has_bounds_and_survives_what_an_error_calls_exceptions() -> None:
    class RudeError(Exception):
        @property
        def exceptions(self) -> Any:
            raise RuntimeError

    last: BaseException = RudeError()
    last.__cause__ = ReadOnlyError("near")
    assert [str(one) for one in chain(last)] == ["near"]
    for _ in range(1000):
        above = RudeError()
        above.__cause__, last = last, above
    assert chain(last) == []


# -- what is the application's own fault -----------------------------------------------------


def replica(ask: Request) -> ReadOnlyError:
    return ask.refused(role="replica")


def read_only_engine(ask: Request) -> ReadOnlyError:
    with pytest.raises(ReadOnlyError) as caught, ask.app.engines["ro"].begin() as connection:
        connection.execute(insert(Book).values(title="new"))
    return caught.value


@pytest.mark.parametrize("refused", [replica, read_only_engine])
def test_what_is_refused_while_read_write_stays_a_500(
    ask: Request, log: Any, refused: Callable[[Request], ReadOnlyError]
) -> None:
    ask.app.off()
    ask.app.selector.check()

    def do() -> int:
        raise refused(ask)

    answered = ask(do)
    assert (answered.status, type(answered.raised)) == (0, ReadOnlyError)
    (record,) = log()
    assert (record.levelno, record.exc_info[1]) == (logging.ERROR, answered.raised)

    answered = ask(lambda: (refused(ask), 500)[1])
    assert (answered.status, answered.body) == (500, b"mine")
    (record,) = log()
    assert (record.levelno, record.exc_info[0]) == (logging.ERROR, ReadOnlyError)
    assert record.exc_info[2] is not None


def test_an_engine_that_was_chosen_before_the_flip_back_in_the_request_is_no_fault(
    ask: Request,
) -> None:
    def do() -> int:
        engine = ask.app.engine_now()
        ask.app.off()
        ask.app.selector.check()
        with engine.begin() as connection:
            connection.execute(insert(Book).values(title="new"))
        return 200

    assert ask(do).status == 503


def test_response_for_answers_what_a_refusal_caused_and_raises_the_rest(ask: Request) -> None:
    response_for = {"wsgi": wsgi, "asgi": asgi}[ask.kind].response_for
    error = LibraryError()
    error.__cause__ = ask.refused()
    assert b"upgrade" in response_for(error, {}).body
    ask.app.off()
    for wrong in (LibraryError(), ask.refused(role="replica")):
        with pytest.raises(type(wrong)) as caught:
            response_for(wrong, {})
        assert caught.value is wrong
    with pytest.raises(ReadOnlyError):  # it says so also in another process
        response_for(pickle.loads(pickle.dumps(wrong)), {})


# -- more than one middleware ----------------------------------------------------------------


def test_a_refusal_reaches_each_of_several_middlewares(
    ask: Request, log: Any, place: Any, lite: App
) -> None:
    other = App(place / "other.txt", lite.urls)
    try:
        other.start()

        def around(app: Any) -> Any:  # the selector that refuses is the outer one's
            return ask.around(ask.middleware(app, other.selector, status=418))

        assert ask(lambda: (ask.handled(), 500)[1], around).status == 418
        assert len(log()) == 1

        def another() -> int:
            ask.handled()
            raise LibraryError

        assert isinstance(ask(another, around).raised, LibraryError)
        assert len(log()) == 1
    finally:
        other.close()


def test_a_gateway_answers_what_was_refused_to_the_request_that_it_made(ask: Request) -> None:
    def gateway() -> int:
        inner: list[Reply] = []
        thread = threading.Thread(  # as a client in the process, with the context of the request
            target=contextvars.copy_context().run,
            args=(lambda: inner.append(ask(lambda: (ask.handled(), 500)[1])),),
        )
        thread.start()
        thread.join(30)
        assert inner[0].is_answer
        return 500

    assert ask(gateway).is_answer


def test_a_replaced_500_is_counted_as_the_one_refusal_that_it_is(ask: Request) -> None:
    assert ask(lambda: raised_from(ask.refused()) or 200).is_answer
    assert ask(lambda: (ask.handled(), 500)[1]).is_answer
    assert refusals.refusals(ask.app.selector.switch) == {"flush": 2}


# -- its end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["answered", "refused", "failed"])
def test_nothing_is_noted_outside_a_request(ask: Request, end: str) -> None:
    contexts: list[contextvars.Context] = []

    def do() -> int:
        contexts.append(contextvars.copy_context())
        if end == "refused":
            ask.write()
        return int("x") if end == "failed" else 200

    ask(do)
    assert refusals._request.get() is None
    note: Any = contexts[0][refusals._request]
    assert note.closed  # a task that goes on has this context for as long as it lives
    contexts[0].run(ask.handled)
    assert note.refused == []
    assert contexts[0].run(refusals.RequestNote).is_outermost


def test_a_note_forgets_what_it_does_not_need(ask: Request) -> None:
    kept: list[Any] = []

    def do() -> int:
        for _ in range(40):
            ask.handled()
        kept.append(contextvars.copy_context())
        error = kept[0][refusals._request].refused[0]
        assert len(kept[0][refusals._request].refused) == 32
        kept.append(weakref.ref(error))
        return 200

    ask(do)
    gc.collect()
    assert kept[1]() is None


# -- WSGI ------------------------------------------------------------------------------------


@pytest.fixture
def behind(lite: App) -> Callable[[Any], Reply]:
    """Ask a WSGI application behind the middleware; read-only."""
    lite.on()
    lite.start()
    return lambda app: called(wsgi.ReadOnlyMiddleware(app, lite.selector))


def handled(app: App) -> None:
    with contextlib.suppress(ReadOnlyError), app.sessions.begin() as session:
        session.add(Book(title="new"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_is_handled_outside_of_the_application_tells_nothing(
    kind: str, lite: App
) -> None:
    lite.on()
    lite.start()
    ask = Request(kind, lite)
    try:
        raise LibraryError
    except LibraryError:
        assert ask(lambda: (ask.handled(), 500)[1]).is_answer


@pytest.mark.parametrize("given", [True, False])
def test_of_a_500_with_an_error_the_error_tells(
    behind: Any, lite: App, log: Any, given: bool
) -> None:
    def app(caused: bool) -> Any:
        def application(_environ: Any, start_response: Any) -> Any:
            handled(lite)
            try:
                if caused:
                    raised_from(ReadOnlyError("no", reason="upgrade"))
                raise LibraryError
            except LibraryError as error:
                more = [(LibraryError, error, error.__traceback__)] if given else []
                start_response("500 Oops", [], *more)
            return [b"mine"]

        return application

    assert behind(app(caused=True)).is_answer
    assert [one.levelno for one in log()] == [logging.INFO]
    assert behind(app(caused=False))[::2] == (500, b"mine")
    (record,) = log()
    assert (record.levelno, record.exc_info[0]) == (logging.ERROR, LibraryError)


@pytest.mark.parametrize("rest", [list, iter])
def test_what_is_written_to_a_replaced_500_is_dropped(
    behind: Any, lite: App, rest: Callable[[Any], Any]
) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        handled(lite)
        write = start_response("500 Oops", [])
        write(b"mine")
        write(b"mine")
        return rest([b"mine"])

    answered = behind(app)
    assert answered.is_answer
    assert b"mine" not in answered.body


def test_a_generator_that_writes_a_replaced_500_sends_nothing_of_its_own(
    behind: Any, lite: App
) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        handled(lite)
        start_response("500 Oops", [])(b"mine")
        yield b"mine"

    answered = behind(app)
    assert answered.is_answer
    assert b"mine" not in answered.body


def test_an_error_after_a_replaced_500_was_written_is_part_of_it(behind: Any, lite: App) -> None:
    def app(_environ: Any, start_response: Any) -> Any:
        handled(lite)
        start_response("500 Oops", [])(b"mine")
        raised_from(ReadOnlyError("no"))

    assert behind(app).is_answer


def test_a_generator_that_makes_a_500_of_a_refusal_is_replaced_and_closed(
    behind: Any, lite: App
) -> None:
    closed: list[int] = []

    def app(_environ: Any, start_response: Any) -> Any:
        try:
            start_response("200 OK", [])
            yield b""
            handled(lite)
            start_response("500 Oops", [], (LibraryError, raised(), None))
            yield b""
            yield b"mine"
        finally:
            closed.append(1)

    def raised() -> LibraryError:
        error = LibraryError()
        error.__cause__ = ReadOnlyError("no", reason="upgrade")
        return error

    assert behind(app).is_answer
    assert closed == [1]


def test_a_server_may_give_no_write(lite: App) -> None:
    lite.on()
    lite.start()

    def app(_environ: Any, start_response: Any) -> Any:
        handled(lite)
        start_response("500 Oops", [])
        yield b"mine"

    told: list[Any] = []
    made = wsgi.ReadOnlyMiddleware(app, lite.selector)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    body = b"".join(made(environ, lambda *started: told.append(started)))  # type: ignore[arg-type, return-value, func-returns-value]  # as a server does
    assert b"upgrade" in body
    assert [status for status, _ in told] == ["503 Service Unavailable"]


# -- ASGI ------------------------------------------------------------------------------------


@pytest.fixture
def beside(lite: App) -> Callable[[Any], Reply]:
    """Ask an ASGI application behind the middleware; read-only."""
    lite.on()
    lite.start()
    return lambda app: asyncio.run(asked(asgi.ReadOnlyMiddleware(app, lite.selector)))


def test_a_500_after_which_the_application_raises_is_judged_by_what_it_raises(
    beside: Any, lite: App, log: Any
) -> None:
    def app(make: Callable[[], None]) -> Any:
        async def application(_scope: Any, _receive: Any, send: Any) -> None:
            handled(lite)
            try:
                make()
            except LibraryError:  # as Starlette does
                await answer(send, 500)
                raise

        return application

    def another() -> None:
        raise LibraryError

    assert beside(app(lambda: raised_from(ReadOnlyError("no", reason="upgrade")))).is_answer
    assert [one.levelno for one in log()] == [logging.INFO]
    answered = beside(app(another))
    assert (answered.status, answered.body) == (500, b"mine")
    assert isinstance(answered.raised, LibraryError)
    (record,) = log()
    assert (record.levelno, record.exc_info[0]) == (logging.ERROR, LibraryError)


def test_a_500_is_replaced_before_the_application_returns(lite: App) -> None:
    lite.on()
    lite.start()
    sent: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        handled(lite)
        await answer(send, 500)
        await receive()  # as Quart, which waits for the client to leave

    async def receive() -> Any:
        assert len(sent) == 2  # a server tells that only after the response
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(asgi.ReadOnlyMiddleware(app, lite.selector)(scope, receive, send))
    assert sent[0]["status"] == 503


@pytest.mark.parametrize(("refused", "status"), [(True, 200), (True, 404), (False, 500)])
def test_no_other_response_waits_for_the_application(lite: App, refused: bool, status: int) -> None:
    lite.on()
    lite.start()
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if refused:
            handled(lite)
        await answer(send, status, more=True)
        assert len(sent) == 2
        note: Any = refusals._request.get()
        assert note.closed
        handled(lite)  # work after the answer

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await asgi.ReadOnlyMiddleware(app, lite.selector)(scope, None, send)  # type: ignore[arg-type]  # it receives nothing

    asyncio.run(ask())
    assert [one.get("status", one.get("body")) for one in sent] == [status, b"mine"]


def test_threads_and_tasks_of_asyncio_and_anyio_write_into_the_note(beside: Any, lite: App) -> None:
    need("anyio")
    from anyio import to_thread  # noqa: PLC0415

    async def in_task() -> None:
        handled(lite)

    async def in_loop_pool() -> None:
        await asyncio.get_running_loop().run_in_executor(None, handled, lite)

    def app(refuse: Callable[[], Any]) -> Any:
        async def application(_scope: Any, _receive: Any, send: Any) -> None:
            await refuse()
            await answer(send, 500)

        return application

    assert beside(app(lambda: asyncio.to_thread(handled, lite))).is_answer
    assert beside(app(lambda: to_thread.run_sync(handled, lite))).is_answer
    assert beside(app(lambda: asyncio.ensure_future(in_task()))).is_answer
    assert beside(app(in_loop_pool)).status == 500  # it has no context: docs/web.md says so


def test_requests_at_the_same_time_have_notes_of_their_own(lite: App) -> None:
    lite.on()
    lite.start()

    async def both() -> list[Reply]:
        done = asyncio.Event()

        async def first(_scope: Any, _receive: Any, send: Any) -> None:
            handled(lite)
            done.set()
            await answer(send, 500)

        async def second(_scope: Any, _receive: Any, send: Any) -> None:
            await done.wait()
            await answer(send, 500)

        made = [asgi.ReadOnlyMiddleware(one, lite.selector) for one in (second, first)]
        return list(await asyncio.gather(*map(asked, made)))

    assert [one.status for one in asyncio.run(both())] == [500, 503]
