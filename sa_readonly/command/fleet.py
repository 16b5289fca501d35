"""Asking the status pages of many hosts at once, each in a thread that may hang."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import ClassVar, TypeVar
from urllib.parse import urlsplit

from .hosts import Target, addresses, targets_of
from .status_page import NoPageError, StatusPage, printable_text, read_page

_AT_ONCE = 64  # requests under way
_SIZE = 4 << 20  # bytes of a page

_T = TypeVar("_T")


def _in_daemon_thread(function: Callable[[], _T]) -> Future[_T]:
    """Have a thread call a function. Unlike an executor's, it is not joined when Python ends."""
    future: Future[_T] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001  # raised again by result()
            future.set_exception(error)

    threading.Thread(target=call, name="sa_readonly fleet", daemon=True).start()
    return future


class Fleet:
    """The hosts. A thread that hangs holds up no other, and nothing joins it.

    It makes no use of a proxy and follows no redirection: each host answers for itself.

    :param url: where the page is; ``{host}`` in it is each of the hosts.
    :param hosts: the hosts, or None: every address that the name in the URL has, each time.
    :raises ConfigurationError: if that can't be asked, or would not ask each host.
    """

    limit: ClassVar[float] = 10.0
    """Seconds within which a page must be there, from when its request has begun."""

    def __init__(self, url: str, hosts: Sequence[str] | None = None) -> None:
        self.url = url
        self.named = None if hosts is None else len(hosts)
        self._targets = targets_of(url, hosts)
        secure = urlsplit(url).scheme == "https"
        self._context = ssl.create_default_context() if secure else None
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        self._requests: dict[Target, _Request] = {}
        self._lookup: Future[list[Target]] | None = None

    def ask(self, patience: float) -> tuple[list[tuple[Target, StatusPage | str]], str | None]:
        """Ask every host, and return what each told, or why there is no page.

        One that has not answered yet is asked no second time meanwhile.

        :param patience: seconds to wait for the pages.
        :return: the pages, and why not all hosts are known, or None.
        """
        until = time.monotonic() + patience
        problem = None if self.named is not None else self._resolve(patience)
        for target in self._targets:
            if target not in self._requests:
                request = _Request(target, self._context, self.limit)
                request.page = _in_daemon_thread(partial(request.run, self._slots))
                self._requests[target] = request
        pages = [request.page for request in self._requests.values()]
        wait(pages, max(0.0, until - time.monotonic()))
        return [(target, self._taken(target)) for target in self._targets], problem

    def _taken(self, target: Target) -> StatusPage | str:
        request = self._requests[target]
        if request.page.done():
            del self._requests[target]
            return request.page.result()
        request.end_if_late()
        return f"no answer since {time.monotonic() - request.asked:.0f} s"

    def _resolve(self, patience: float) -> str | None:
        """Add the addresses that the name has now; return why they are not known, or None.

        A host that has lost its address meanwhile is asked all the same: it may hold a connection.
        """
        lookup = self._lookup or _in_daemon_thread(partial(addresses, self.url))
        wait([lookup], patience)
        self._lookup = None if lookup.done() else lookup
        if self._lookup is not None:
            return "no answer to which addresses the name has"
        try:
            found = lookup.result()
        except (OSError, UnicodeError) as error:
            name = urlsplit(self.url).hostname
            return f"the addresses of {name} are not known: {_why(error, self.limit)}"
        self._targets += [target for target in found if target not in self._targets]
        return None


class _Request:
    """A request that is under way.

    :param limit: seconds that it may take.
    """

    page: Future[StatusPage | str]

    def __init__(self, target: Target, context: ssl.SSLContext | None, limit: float) -> None:
        self.target = target
        self.asked = time.monotonic()
        self._context = context
        self._limit = limit
        self._begun: float | None = None
        self._socket: socket.socket | None = None
        self._late = False

    def end_if_late(self) -> None:
        """End it if it has begun and time is up, also where a byte comes now and then."""
        if self._begun is not None and time.monotonic() > self._begun + self._limit:
            self._late = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # it is closed already
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def run(self, slots: threading.BoundedSemaphore) -> StatusPage | str:
        """Return the page, or why there is none."""
        with slots:
            self._begun = time.monotonic()
            try:
                page: StatusPage | str = self._ask()
            except NoPageError as error:
                page = str(error)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is no page
                page = _why(error, self._limit)
        return _why(TimeoutError(), self._limit) if self._late else page

    def _ask(self) -> StatusPage:
        """Ask for the page, as a client that takes no old one."""
        parts = self.target.parts
        host, port = self.target.place
        with contextlib.ExitStack() as stack:
            connected = self._connect(stack)
            if self._context is not None:
                # The handshake comes after, so that it can be ended, too.
                connected = self._context.wrap_socket(
                    connected, server_hostname=host, do_handshake_on_connect=False
                )
                stack.callback(connected.close)
            self._socket = connected
            if isinstance(connected, ssl.SSLSocket):
                connected.do_handshake()
            connection = http.client.HTTPConnection(host, port)
            connection.sock = connected
            asked = secrets.token_hex(16)
            query = f"{parts.query}&asked={asked}" if parts.query else f"asked={asked}"
            headers = {
                "Host": parts.netloc,
                "Accept": "application/json",
                "Cache-Control": "no-cache",
                "User-Agent": "sa-readonly",
                "Connection": "close",
            }
            connection.request("GET", f"{parts.path or '/'}?{query}", headers=headers)
            response = connection.getresponse()
            stack.callback(response.close)
            _check_head(response)
            body = response.read(_SIZE + 1)
            if len(body) > _SIZE:
                raise NoPageError("what answers is too long for a status page")
            return read_page(body, asked)

    def _connect(self, stack: contextlib.ExitStack) -> socket.socket:
        if self.target.address is None:
            connected = socket.create_connection(self.target.place, self._limit)
            stack.callback(connected.close)
            return connected
        family, address = self.target.address
        connected = socket.socket(family, socket.SOCK_STREAM)
        stack.callback(connected.close)
        connected.settimeout(self._limit)
        connected.connect(address)
        return connected


def _check_head(response: http.client.HTTPResponse) -> None:
    status = response.status
    if status == 200:
        kind = response.headers.get_content_type()
        if kind != "application/json":
            told = printable_text(kind)
            raise NoPageError(f"what answers is {told} and no status page of sa_readonly")
        return
    to = response.headers.get("Location")
    if 300 <= status < 400 and to:
        told = printable_text(to)
        raise NoPageError(f"it redirects to {told}, which is not followed: give the URL itself")
    raise NoPageError(f"no status page: HTTP {status} {printable_text(response.reason)}".rstrip())


def _why(error: Exception, limit: float) -> str:
    """Return why there is no page."""
    if isinstance(error, TimeoutError):
        return f"it does not answer within {limit:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is refused: {printable_text(error.verify_message)} (SSL_CERT_FILE "
            "names the authorities to trust)"
        )
    if isinstance(error, http.client.HTTPException):
        said = str(error) or type(error).__name__
        return f"it speaks no HTTP: {printable_text(said)}"
    if isinstance(error, OSError):
        return f"it can't be reached: {printable_text(error.strerror or str(error))}"
    return f"{type(error).__name__}: {printable_text(str(error))}"
