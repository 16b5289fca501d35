"""A WSGI middleware: a refused write is answered with an explanation, and there is a status page.

>>> app = ReadOnlyMiddleware(app, selector)                                      # doctest: +SKIP
"""

from __future__ import annotations

import inspect
import logging
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, ReadOnlyError
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
from .web.routes import route_of
from .web.site import HOLD_METHODS, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from .checks import AnyEngine
    from .hold.ticket import Ticket
    from .selector import EngineSelector
    from .web.site import Pattern

__all__ = ["ReadOnlyMiddleware", "Response", "response_for"]

logger = logging.getLogger("sa_readonly")


class Response(Answer):
    """An answer that is also a WSGI application: Flask takes that from an error handler."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(f"{self.status} {self.phrase}", list(self.headers))
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [self.body]


def response_for(error: BaseException, environ: WSGIEnvironment, *, status: int = 503) -> Response:
    """Return what the middleware answers, for a framework that catches errors first.

    In Flask: ``app.register_error_handler(ReadOnlyError, lambda e: response_for(e,
    request.environ))``. It is a WSGI application with ``status``, ``headers`` and ``body``.

    :param error: what was raised: a :class:`.ReadOnlyError`, or an error that was made of one.
    :param environ: the request's.
    :param status: the status code.
    :raises BaseException: the error itself, if no refusal stands in its chain, or one that is the
        application's own fault, as it is refused in either mode.
    """
    return _response(not_saved(error, environ.get("HTTP_ACCEPT", ""), status))


class ReadOnlyMiddleware:
    """Answers a refused write with an explanation, and serves a status page.

    A :class:`.ReadOnlyError`, or an error that was made of one, that leaves the application before
    the response has begun becomes an answer; afterwards it is logged and goes on to the server,
    which closes the connection. A 500 that the application made of a refusal is replaced, too.
    While read-only each response carries ``X-Read-Only: true``, and begins with the first piece of
    its body that is not empty, so that a stream that is refused at once is answered properly. While
    it is announced, ``X-Read-Only-From`` and ``X-Read-Only-Until`` tell the times. Under Flask::

        app.wsgi_app = ReadOnlyMiddleware(app.wsgi_app, selector)

    :param app: the application.
    :param selector: the :class:`.EngineSelector`, or an engine with ``plugin=sa_readonly``.
    :param status_path: the path of the status page within the application; None has none. Below it,
        ``/check?mode=read-write`` answers 200 or 503.
    :param status: the status code of a refused write. Load balancers may eject a backend on 503.
    :param details: whether the status page names workers (host, pid, program): True, or a callable
        that is given the environ and says yes to this request.
    :param refuse: methods that are refused while read-only, before the application runs.
    :param allow: paths for which they are not refused: strings in which ``*`` stands for any text
        and ``?`` for a character, or compiled regular expressions that match the whole path. They
        are not held either.
    :param hold: seconds for which a request of ``hold_methods`` may wait for read-write, before the
        application is called. None refuses at once. Less than the time limits of the server, of
        proxies and of clients that try again.
    :param hold_methods: the methods of requests that are held.
    :raises ConfigurationError: if a setting makes no sense, or if ``hold`` needs
        :class:`.EngineSelector`'s ``max_held``.
    """

    def __init__(
        self,
        app: WSGIApplication,
        selector: EngineSelector | AnyEngine,
        *,
        status_path: str | None = "/-/read-only",
        status: int = 503,
        details: bool | Callable[[WSGIEnvironment], object] = False,
        refuse: Iterable[str] = (),
        allow: Iterable[Pattern] = (),
        hold: float | None = None,
        hold_methods: Iterable[str] = HOLD_METHODS,
    ) -> None:
        if inspect.iscoroutinefunction(details):
            raise ConfigurationError(
                "ReadOnlyMiddleware(details) takes no coroutine function in WSGI, as its answer "
                "would always count as yes."
            )
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
        if hold:
            self._site.selector.held.check_threads("ReadOnlyMiddleware(hold)")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        site, request = self._site, _request(environ)
        if site.owns(request.path):
            return _response(site.page(request, details=self._details(environ)))(
                environ, start_response
            )
        ticket = site.ticket(request) if site.holds else None
        if ticket is not None:
            refused = site.hold(ticket)
            if refused is not None:
                _drain(environ)
                return _response(site.refusal(request, *refused))(environ, start_response)
            if ticket.was_held and _has_gone(environ):
                site.selector.held.end(ticket)
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return []
        if site.may_refuse(request):
            state = site.selector.state
            if state.read_only:
                _drain(environ)
                return _response(site.refusal(request, state))(environ, start_response)
        return _Exchange(self, environ, start_response, ticket).run()

    def response_for(self, error: BaseException, environ: WSGIEnvironment) -> Response:
        """Return its answer to a refused write; see :func:`response_for`."""
        return response_for(error, environ, status=self._site.status)

    def _details(self, environ: WSGIEnvironment) -> bool:
        details = self._site.details
        return details if isinstance(details, bool) else bool(details(environ))


class _Exchange:
    """One request, and the iterable of its response.

    The head is kept back until the body begins, as not every server lets it be replaced: some send
    it with an empty piece, some add the headers of a second ``start_response()`` to the first.
    """

    def __init__(
        self,
        middleware: ReadOnlyMiddleware,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        ticket: Ticket | None,
    ) -> None:
        self._middleware = middleware
        self._ticket = ticket
        self._environ = environ
        self._start_response = start_response
        self._note = RequestNote(ticket, partial(route_of, environ))
        self._kept: tuple[str, list[tuple[str, str]]] | None = None
        self._error: BaseException | None = None  # of which the kept head tells
        self._outside = sys.exc_info()[1]
        self._begun = False
        self._write: Callable[[bytes], object] | None = None  # the server's, once it has begun
        self._muted = False  # whether what the application sends is dropped, as it was answered
        self._iterable: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] | None = None

    def run(self) -> Iterable[bytes]:
        try:
            with self._note:
                if self._ticket is not None:
                    self._middleware._site.selector.held.pass_on(self._ticket)
                iterable = self._middleware.app(self._environ, self._start)
        except Exception as error:  # noqa: BLE001  # _failed() raises it, unless it is a refusal
            return self._failed(error)
        finally:
            if self._ticket is not None:
                self._middleware._site.selector.held.through()
        # A list or file can't raise any more, and servers have faster ways to send them.
        wrapper = self._environ.get("wsgi.file_wrapper")
        if type(iterable) in (list, tuple) or (
            isinstance(wrapper, type) and isinstance(iterable, wrapper)
        ):
            body = self._begin()
            if body is None and not self._muted:
                return iterable
            self._iterator = iter(body or ())
        self._iterable = iterable
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._begun:
            return self._next()
        piece: bytes | None
        try:
            with self._note:
                piece = self._next()
                # An empty piece would begin a response that may still be refused.
                while not piece and not self._begun and self._may_be_refused:
                    piece = self._next()
        except StopIteration:
            piece = None
        body = self._begin()
        if body is not None:
            self._iterator = iter(body)
            return next(self._iterator, b"")
        if piece is None:
            raise StopIteration
        return piece

    def _next(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            piece = next(self._iterator)
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001  # _failed() raises it, unless it is a refusal
            self._iterator = iter(self._failed(error))
            return next(self._iterator, b"")
        if self._muted:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Close the application's iterable, as the server does with its own."""
        close = getattr(self._iterable, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as error:
            if passing(self._note.chain(error)) is not None:
                logger.exception(TOO_LATE, extra=fields("too_late"))
            raise

    @property
    def _read_only(self) -> bool:
        return self._middleware._site.selector.read_only

    @property
    def _may_be_refused(self) -> bool:
        return self._read_only or bool(self._note.refused)

    def _start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Do what a server does when an application begins its response."""
        if exc_info is not None and self._begun:
            # The head is sent, so the server's start_response() raises what is in exc_info.
            return self._start_response(status, headers, exc_info)
        self._kept = status, headers
        # An application that begins where it handles an error tells of that one.
        error = exc_info[1] if exc_info else sys.exc_info()[1]
        self._error = None if error is self._outside else error
        return self._writing

    def _writing(self, data: bytes) -> object:
        body = self._begin()
        for piece in () if body is None else body:
            self._write_on(piece)
        self._muted = self._muted or body is not None
        return None if self._muted else self._write_on(data)

    def _write_on(self, data: bytes) -> object:
        assert self._write is not None  # noqa: S101  # for the type: _start() came first
        return self._write(data)

    def _begin(self) -> Iterable[bytes] | None:
        """Begin the response; return a body that is sent in place of the application's, or None."""
        kept, self._kept = self._kept, None
        if kept is None:  # it has begun, or start_response() is missing, which the server says
            return None
        (status, headers), error, self._error = kept, self._error, None
        if status.startswith("500"):
            told = self._middleware._site.status
            refusal = in_place_of_500(self._note, told, error)
            if refusal is not None:
                return self._answer(refusal, [one for one in headers if is_kept(one[0])])
        self._note.close()
        state = self._middleware._site.selector.state
        headers = [*headers, *headers_of(state, (name for name, _ in headers))]
        self._begun = True
        self._write = self._start_response(status, headers)
        return None

    def _failed(self, error: Exception) -> Iterable[bytes]:
        """Answer an error of the application that a refusal caused, or raise it."""
        if not self._begun:
            refusal = cause_of(error, self._note)
            if refusal is not None:
                return self._answer(refusal)
            self._note.close()
        elif passing(self._note.chain(error)) is not None:
            if self._muted:
                return ()
            logger.error(AFTERWARDS, exc_info=error, extra=fields("answer_begun"))
        raise error

    def _answer(
        self, refusal: ReadOnlyError, more: Iterable[tuple[str, str]] = ()
    ) -> Iterable[bytes]:
        """Begin the answer in place of the application's, and return its body."""
        self._kept, self._begun = None, True
        self._note.close()
        response = self._middleware.response_for(refusal, self._environ)

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            self._write = self._start_response(status, [*headers, *more])
            return self._write

        return response(self._environ, start)


def _response(answer: Answer) -> Response:
    return Response(answer.status, answer.headers, answer.body)


def _request(environ: WSGIEnvironment) -> Request:
    path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
    return Request(
        environ["REQUEST_METHOD"],
        path,
        environ.get("HTTP_ACCEPT", ""),
        environ.get("QUERY_STRING", ""),
    )


def _has_gone(environ: WSGIEnvironment) -> bool:
    """True if the client of a request that was held is surely gone.

    Some servers give its socket, which tells unless it is encrypted or more was sent on it.
    """
    found = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if found is None:
        return False
    try:
        # By a timeout of its own: gevent's sockets wait whatever the flags of recv() say.
        timeout = found.gettimeout()
        found.settimeout(0)
        try:
            return not found.recv(1, socket.MSG_PEEK)
        finally:
            found.settimeout(timeout)
    except (OSError, ValueError, AttributeError):  # nothing to read; it is encrypted; no socket
        return False


def _drain(environ: WSGIEnvironment) -> None:
    """Read the body of a refused request, as a connection closed over it may lose the answer.

    It reads no body that the client sends only after a "100 Continue", and at most a megabyte.
    """
    if environ.get("HTTP_EXPECT"):
        return
    try:
        left = min(int(environ.get("CONTENT_LENGTH") or 0), DRAINED_BODY)
        while left > 0:
            piece = environ["wsgi.input"].read(min(left, 1 << 16))
            if not piece:
                return
            left -= len(piece)
    except (OSError, ValueError):  # the client has gone, or sent no number
        return
