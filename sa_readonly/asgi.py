"""An ASGI middleware: a refused write is answered with an explanation; there is a status page.

>>> app = ReadOnlyMiddleware(app, selector)                                      # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from .engines import loops
from .hold.ticket import Gone
from .mode import clock
from .refusals import RequestNote, passing
from .telemetry import fields
from .web.answers import (
    AFTERWARDS,
    DRAINED_BODY,
    TOO_LATE,
    Answer,
    Request,
    cause_of,
    headers_of,
    in_place_of_500,
    is_kept,
    not_saved,
)
from .web.listening import Listening
from .web.routes import route_in
from .web.site import HOLD_METHODS, Site

if TYPE_CHECKING:
    from .checks import AnyEngine
    from .errors import ReadOnlyError
    from .hold.ticket import Ticket
    from .mode import State
    from .selector import EngineSelector
    from .web.site import Pattern

__all__ = ["ReadOnlyMiddleware", "Response", "response_for"]

logger = logging.getLogger("sa_readonly")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_T = TypeVar("_T")

# They come before the response and begin none: HTTP's 103, a push, and what a test client is told.
_AHEAD = frozenset(f"http.response.{one}" for one in ("early_hint", "push", "debug"))


class Response(Answer):
    """An answer that is also an ASGI application: Starlette takes that from an error handler."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in _messages(self, scope):
            await send(message)


def response_for(error: BaseException, scope: Scope, *, status: int = 503) -> Response:
    """Return what the middleware answers, for a framework that catches errors first.

    In Starlette and FastAPI: ``app.add_exception_handler(ReadOnlyError, handler)`` with an ``async
    def handler(request, error): return response_for(error, request.scope)``. It is an ASGI
    application with ``status``, ``headers`` and ``body``.

    :param error: what was raised: a :class:`.ReadOnlyError`, or an error that was made of one.
    :param scope: the request's, of which it reads ``headers``.
    :param status: the status code.
    :raises BaseException: the error itself, if no refusal stands in its chain, or one that is the
        application's own fault, as it is refused in either mode.
    """
    return _response(not_saved(error, _header(scope, b"accept"), status))


class ReadOnlyMiddleware:
    """Answers a refused write with an explanation, and serves a status page.

    A :class:`.ReadOnlyError`, or an error that was made of one, that leaves the application before
    the response has begun becomes an answer; afterwards it is logged and goes on to the server,
    which closes the connection. A 500 that the application made of a refusal is replaced, too.
    While read-only each response carries ``X-Read-Only: true``, and its head is sent with the
    first piece of its body, so that a stream that is refused at once is answered properly.
    ``X-Read-Only-From`` and ``-Until`` tell what is announced. Websockets and lifespan pass by. No
    look at the switch or the workers blocks a loop of asyncio or trio. In Starlette or FastAPI::

        app.add_middleware(ReadOnlyMiddleware, selector=selector)

    :param app: the application.
    :param selector: the :class:`.EngineSelector`, or an engine with ``plugin=sa_readonly``.
    :param status_path: the path of the status page within the application; None has none. Below it,
        ``/check?mode=read-write`` answers 200 or 503.
    :param status: the status code of a refused write. Load balancers may eject a backend on 503.
    :param details: whether the status page names workers (host, pid, program): True, or a callable,
        which may be a coroutine function, that is given the scope and says yes to this request.
    :param refuse: methods that are refused while read-only, before the application runs.
    :param allow: paths for which they are not refused: strings in which ``*`` stands for any text
        and ``?`` for a character, or compiled regular expressions that match the whole path. They
        are not held either.
    :param hold: seconds for which a request of ``hold_methods`` may wait for read-write, before the
        application is called. None refuses at once. Less than the time limits of the server, of
        proxies and of clients that try again.
    :param hold_methods: the methods of requests that are held.
    :raises ConfigurationError: if a setting makes no sense.
    """

    def __init__(
        self,
        app: Application,
        selector: EngineSelector | AnyEngine,
        *,
        status_path: str | None = "/-/read-only",
        status: int = 503,
        details: bool | Callable[[Scope], object] = False,
        refuse: Iterable[str] = (),
        allow: Iterable[Pattern] = (),
        hold: float | None = None,
        hold_methods: Iterable[str] = HOLD_METHODS,
    ) -> None:
        self.app = app
        self._site = Site(
            selector,
            status_path=status_path,
            status=status,
            details=details,
            refuse=refuse,
            allow=allow,
            hold=hold,
            hold_methods=hold_methods,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        site, request = self._site, _request(scope)
        if site.owns(request.path):
            details = await self._details(scope)
            answer = await _in_thread(lambda: site.page(request, details=details))
            await _response(answer)(scope, receive, send)
            return
        ticket = site.ticket(request) if site.holds else None
        if ticket is None or (loops.running() is None and loops.trio() is None):
            await self._run(request, scope, receive, send)
        else:
            await self._hold(ticket, request, scope, receive, send)

    def response_for(self, error: BaseException, scope: Scope) -> Response:
        """Return its answer to a refused write; see :func:`response_for`."""
        return response_for(error, scope, status=self._site.status)

    async def _hold(
        self, ticket: Ticket, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Run the application once it may write; meanwhile the client is listened to."""
        site = self._site
        listening = Listening(receive, ticket, site.selector.held)
        try:
            if loops.running() is None:
                refused = await self._wait_in_trio(ticket, listening)
            else:
                refused = await self._wait(ticket, listening)
            if refused is None:
                await self._run(request, scope, listening.receive, send, ticket)
            else:
                await _drain(scope, listening.receive)
                await _response(site.refusal(request, *refused))(scope, receive, send)
        except Gone:
            return
        finally:
            site.selector.held.end(ticket)
            site.selector.held.through()
            listening.end()

    async def _wait(self, ticket: Ticket, listening: Listening) -> tuple[State, str] | None:
        """Wait as :meth:`.Site.hold` does.

        :raises Gone: if the client has gone.
        """
        selector = self._site.selector
        queue = selector.held
        if not queue.must_wait(await self._state()):
            return None
        listening.begin()
        while True:
            why = await queue.wait_as_task(ticket)
            state = selector.known  # a fresh one may need a thread, for which the next would wait
            if ticket.given_up:
                raise Gone
            if not state.read_only:
                return None
            queue.end(ticket)
            if why is not None:
                return state, why

    async def _wait_in_trio(self, ticket: Ticket, listening: Listening) -> tuple[State, str] | None:
        """Do as :meth:`_wait`, where no task outlives the block in which it began."""
        refused, gone = None, False
        async with loops.trio().open_nursery() as nursery:
            listening.start = nursery.start_soon
            try:
                refused = await self._wait(ticket, listening)
            except Gone:  # a nursery would wrap it in a group
                gone = True
            nursery.cancel_scope.cancel()
        if gone:
            raise Gone
        return refused

    async def _run(
        self,
        request: Request,
        scope: Scope,
        receive: Receive,
        send: Send,
        ticket: Ticket | None = None,
    ) -> None:
        """Run the application, unless the request is refused beforehand."""
        site = self._site
        if site.may_refuse(request) and (state := await self._state()).read_only:
            await _drain(scope, receive)
            await _response(site.refusal(request, state))(scope, receive, send)
            return
        if ticket is not None:
            site.selector.held.pass_on(ticket)
        note = RequestNote(ticket, lambda: route_in(scope))
        head = _Head(self, scope, send, note)
        try:
            with note:
                await self.app(scope, receive, head.send)
        except Exception as error:
            refusal = passing(note.chain(error)) if head.begun else cause_of(error, note)
            if refusal is not None and not head.begun:
                await head.answer(refusal)
            elif refusal is None or not head.answered:
                if refusal is not None:
                    head.complain(error)
                raise
        else:
            await head.flush()
        finally:
            note.close()

    async def _state(self) -> State:
        selector = self._site.selector
        if clock() < selector.switch.fresh_until:
            return selector.known  # .state reads the clock again, and may look
        return await _in_thread(lambda: selector.state)

    async def _details(self, scope: Scope) -> bool:
        details = self._site.details
        if isinstance(details, bool):
            return details
        told = details(scope)
        return bool(await told if inspect.isawaitable(told) else told)


class _Head:
    """The head of one response: while read-only it is kept until the body begins."""

    def __init__(
        self, middleware: ReadOnlyMiddleware, scope: Scope, send: Send, note: RequestNote
    ) -> None:
        self._middleware, self._note = middleware, note
        self._scope, self._send = scope, send
        self._outside = sys.exc_info()[1]
        self._kept: Message | None = None
        self.begun = self.ended = self.answered = False

    async def send(self, message: Message) -> None:
        if self.answered:  # what the application sends is dropped
            return
        if message["type"] in _AHEAD:
            await self._send(message)
            return
        if message["type"] == "http.response.start":
            if message["status"] == 500:
                refusal = self._behind_500()
                if refusal is not None:
                    await self.answer(refusal, message.get("headers", ()))
                    return
            state = await self._middleware._state()
            message = _marked(message, state)
            if state.read_only:
                self._kept = message
                return
        await self.flush()
        await self._pass_on(message)

    def _behind_500(self) -> ReadOnlyError | None:
        """Return the refusal that answers in place of a 500.

        It is judged now: some applications raise after their 500, and some return only when the
        client has left. The former send it where they handle what they will raise.
        """
        error = sys.exc_info()[1]
        error = None if error is self._outside else error
        return in_place_of_500(self._note, self._middleware._site.status, error)

    async def answer(
        self, refusal: ReadOnlyError, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Answer in place of the application.

        :param headers: of its 500.
        """
        self._kept, self.answered = None, True
        told = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        stay = tuple(one for one in told if is_kept(one[0]))
        response = self._middleware.response_for(refusal, self._scope)
        whole = replace(response, headers=response.headers + stay)
        for message in _messages(whole, self._scope):
            await self._pass_on(message)

    def complain(self, error: Exception) -> None:
        if self.ended:
            logger.error(TOO_LATE, exc_info=error, extra=fields("too_late"))
        else:
            logger.error(AFTERWARDS, exc_info=error, extra=fields("answer_begun"))

    async def flush(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await self._pass_on(kept)

    async def _pass_on(self, message: Message) -> None:
        if not self.begun:
            self.begun = True
            self._note.close()
        await self._send(message)
        self.ended = not message.get("more_body") and message["type"] != "http.response.start"


def _marked(message: Message, state: State) -> Message:
    headers = list(message.get("headers", ()))
    told = headers_of(state, (name.decode("latin-1") for name, _ in headers))
    if not told:
        return message
    more = [(name.lower().encode(), value.encode()) for name, value in told]
    return {**message, "headers": [*headers, *more]}


def _response(answer: Answer) -> Response:
    return Response(answer.status, answer.headers, answer.body)


def _messages(answer: Answer, scope: Scope) -> tuple[Message, Message]:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    body = b"" if scope["method"] == "HEAD" else answer.body
    return (
        {"type": "http.response.start", "status": answer.status, "headers": headers},
        {"type": "http.response.body", "body": body},
    )


def _request(scope: Scope) -> Request:
    path, root = scope["path"], scope.get("root_path", "")
    if root and path.startswith(root.rstrip("/") + "/"):
        path = path[len(root.rstrip("/")) :]
    query = scope.get("query_string", b"").decode("latin-1")
    return Request(scope["method"], path, _header(scope, b"accept"), query)


def _header(scope: Scope, name: bytes) -> str:
    found = (value for key, value in scope.get("headers", ()) if key.lower() == name)
    return b", ".join(found).decode("latin-1")


async def _drain(scope: Scope, receive: Receive) -> None:
    """Read the body of a refused request, as a connection closed over it may lose the answer.

    It reads no body that the client sends only after a "100 Continue", and at most a megabyte.
    """
    if _header(scope, b"expect"):
        return
    left = DRAINED_BODY
    while left > 0:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return
        left -= len(message.get("body", b""))


async def _in_thread(function: Callable[[], _T]) -> _T:
    """Run a function that may block in a thread; on a loop that is none of these two here."""
    if loops.running() is not None:
        return await asyncio.to_thread(function)
    if (trio := loops.trio()) is not None:
        return await trio.to_thread.run_sync(function)  # type: ignore[no-any-return]  # untyped
    return function()
