"""A WSGI middleware: a refused write is answered with an explanation, and there is a status page.

>>> app = ReadOnlyMiddleware(app, selector)                                      # doctest: +SKIP
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, ReadOnlyError
from .web.answers import AFTERWARDS, DRAINED_BODY, TOO_LATE, Answer, Request, not_saved
from .web.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from .selector import EngineSelector
    from .web.site import Pattern

__all__ = ["ReadOnlyMiddleware", "Response", "response_for"]

logger = logging.getLogger("sa_readonly")


class Response(Answer):
    """An answer that is also a WSGI application: Flask takes that from an error handler."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(f"{self.status} {self.phrase}", list(self.headers))
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [self.body]


def response_for(error: ReadOnlyError, environ: WSGIEnvironment, *, status: int = 503) -> Response:
    """Return what the middleware answers, for a framework that catches errors first.

    In Flask: ``app.register_error_handler(ReadOnlyError, lambda e: response_for(e,
    request.environ))``. It is a WSGI application with ``status``, ``headers`` and ``body``.

    :param error: what was raised.
    :param environ: the request's.
    :param status: the status code.
    """
    return _response(not_saved(error, environ.get("HTTP_ACCEPT", ""), status))


class ReadOnlyMiddleware:
    """Answers a refused write with an explanation, and serves a status page.

    A :class:`.ReadOnlyError` that leaves the application before the response has begun becomes an
    answer; afterwards it is logged and goes on to the server, which closes the connection. While
    read-only each response carries ``X-Read-Only: true``, and begins with the first piece of its
    body that is not empty, so that a stream that is refused at once is answered properly.

    :param app: the application.
    :param selector: the :class:`.EngineSelector`.
    :param status_path: the path of the status page within the application; None has none. Below it,
        ``/check?mode=read-write`` answers 200 or 503.
    :param status: the status code of a refused write. Load balancers may eject a backend on 503.
    :param details: whether the status page names workers (host, pid, program): True, or a callable
        that is given the environ and says yes to this request.
    :param refuse: methods that are refused while read-only, before the application runs.
    :param allow: paths for which they are not refused: strings in which ``*`` stands for any text
        and ``?`` for a character, or compiled regular expressions that match the whole path.
    :raises ConfigurationError: if a setting makes no sense.
    """

    def __init__(
        self,
        app: WSGIApplication,
        selector: EngineSelector,
        *,
        status_path: str | None = "/-/read-only",
        status: int = 503,
        details: bool | Callable[[WSGIEnvironment], object] = False,
        refuse: Iterable[str] = (),
        allow: Iterable[Pattern] = (),
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
        )

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        site, request = self._site, _request(environ)
        if site.owns(request.path):
            return _response(site.page(request, details=self._details(environ)))(
                environ, start_response
            )
        if site.may_refuse(request):
            state = site.selector.state
            if state.read_only:
                _drain(environ)
                return _response(site.refusal(request, state))(environ, start_response)
        return _Exchange(self, environ, start_response).run()

    def response_for(self, error: ReadOnlyError, environ: WSGIEnvironment) -> Response:
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
    ) -> None:
        self._middleware = middleware
        self._environ = environ
        self._start_response = start_response
        self._kept: tuple[str, list[tuple[str, str]]] | None = None
        self._write: Callable[[bytes], object] | None = None  # the server's, once it has begun
        self._iterable: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] | None = None

    def run(self) -> Iterable[bytes]:
        try:
            iterable = self._middleware.app(self._environ, self._start)
        except ReadOnlyError as error:
            return self._refused(error)
        # A list or file can't raise any more, and servers have faster ways to send them.
        wrapper = self._environ.get("wsgi.file_wrapper")
        if type(iterable) in (list, tuple) or (
            isinstance(wrapper, type) and isinstance(iterable, wrapper)
        ):
            self._begin()
            return iterable
        self._iterable = iterable
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            piece = next(self._iterator)
            # An empty piece would begin a response that may still be refused.
            while not piece and self._write is None and self._read_only:
                piece = next(self._iterator)
        except ReadOnlyError as error:
            self._iterator = iter(self._refused(error))
            return next(self._iterator, b"")
        except StopIteration:
            self._begin()
            raise
        self._begin()
        return piece

    def close(self) -> None:
        """Close the application's iterable, as the server does with its own."""
        close = getattr(self._iterable, "close", None)
        if close is None:
            return
        try:
            close()
        except ReadOnlyError:
            logger.exception(TOO_LATE)
            raise

    @property
    def _read_only(self) -> bool:
        return self._middleware._site.selector.read_only

    def _start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Do what a server does when an application begins its response."""
        if exc_info is not None and self._write is not None:
            # The head is sent, so the server's start_response() raises what is in exc_info.
            return self._start_response(status, headers, exc_info)
        self._kept = status, headers
        return self._writing

    def _writing(self, data: bytes) -> object:
        self._begin()
        assert self._write is not None  # noqa: S101  # for the type: _start() came first
        return self._write(data)

    def _begin(self) -> None:
        kept, self._kept = self._kept, None
        if kept is None:  # it has begun, or start_response() is missing, which the server says
            return
        status, headers = kept
        marked = any(name.lower() == "x-read-only" for name, _ in headers)
        if not marked and self._read_only:
            headers = [*headers, ("X-Read-Only", "true")]
        self._write = self._start_response(status, headers)

    def _refused(self, error: ReadOnlyError) -> Iterable[bytes]:
        """Answer in place of the application, or raise if its response has begun."""
        if self._write is not None:
            logger.error(AFTERWARDS, exc_info=error)
            raise error
        self._kept = None
        return self._middleware.response_for(error, self._environ)(
            self._environ, self._start_response
        )


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
