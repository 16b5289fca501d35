"""One member of etcd: its HTTP connections, and a deadline that holds.

No timeout of urllib3 bounds a whole request: it counts from the last byte, so a server that sends
one byte now and then is waited for without end. Here each read of a socket gets what is left until
the deadline. The stack of idle connections is ours, too: the pool of urllib3 has a lock, which
another thread may hold at a fork, and then the child waits for it for ever.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import ipaddress
import os
import socket
import ssl
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from ..forks import PerProcess, follow
from ..mode import clock
from .addresses import Trust
from .errors import Unreachable, failure, read

__all__ = ["Endpoint", "Stream"]

# The last of a name that can't be a host's.
_TROUBLE = (OSError, HTTPError, http.client.HTTPException, UnicodeError)
_IDLE = 4  # connections to one member that are kept

# A watch sends nothing, so the system asks whether the other end is still there: half a minute
# after a machine went without a word, the watch ends.
_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_SOCKET = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, k), v) for k, v in _ALIVE.items() if hasattr(socket, k)),
]


class _Wire(io.RawIOBase):
    """Reads a socket until a deadline, which may be moved."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._held = sock.makefile("rb", buffering=0)  # open until this is closed, too
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left(self.deadline))
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        self._held.close()
        super().close()


class _Reply(http.client.HTTPResponse):
    """A response, of which each read ends at the deadline."""

    def __init__(self, deadline: float, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()  # reads the socket with one timeout for each piece
        self.wire = _Wire(sock, deadline)
        self.fp = io.BufferedReader(self.wire)


def _left(deadline: float) -> float:
    left = deadline - clock()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


class _Lookup:
    """The addresses of a name, looked up in a thread: that takes no timeout, and may hang."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        self._found: list[str] = []
        self._error: Exception | None = None
        self.done = threading.Event()
        try:
            threading.Thread(target=self._run, name="sa_readonly-etcd-name", daemon=True).start()
        except RuntimeError:  # there is no other thread to be had, as at the end of the process
            self._run()

    def _run(self) -> None:
        try:
            answers = socket.getaddrinfo(*self._place, type=socket.SOCK_STREAM)
            self._found = list(dict.fromkeys(str(to[0]) for *_, to in answers))
        except Exception as error:  # noqa: BLE001  # raised where it is waited for
            self._error = error
        finally:
            self.done.set()

    def addresses(self, deadline: float) -> list[str]:
        """Return them.

        :raises OSError: or UnicodeError, if they are not known by the deadline.
        """
        if not self.done.wait(_left(deadline)):
            raise TimeoutError("the name is not looked up in time")
        if self._error is not None:
            raise self._error.with_traceback(None)  # several threads may wait for it
        return self._found


class Endpoint:
    """One member: its connections, and one request.

    :param url: as :func:`parse` returns it.
    :param tls: for https.
    """

    def __init__(self, url: str, tls: Trust | None) -> None:
        self.url = url
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 0)
        self._headers = {"Content-Type": "application/json", "Host": parts.netloc}
        self._tls = tls
        self._idle: deque[HTTPConnection] = deque()
        self._open: set[HTTPConnection] = set()  # in use or idle
        self._lookup: _Lookup | None = None  # the last one
        weakref.finalize(self, _drop, self._open)

    def ask(
        self,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
    ) -> dict[str, Any]:
        """Send one request and return the answer.

        :param body: for a POST; None is a GET.
        :param deadline: when all of it must be over, on :func:`clock`.
        :raises Unreachable: if there is none by then.
        :raises EtcdError: if the answer is an error.
        """
        connection = self._connection(deadline)
        answered = False
        try:
            self._send(connection, path, body, headers)
            response = connection.getresponse()
            content = response.data
            answered = True
        except _TROUBLE as error:
            raise Unreachable(f"{self.url}: {_told(error)}.") from error
        finally:
            # What is asked on a connection whose last answer is still to come would get that one.
            if answered and connection.sock is not None and len(self._idle) < _IDLE:
                self._idle.append(connection)
            else:
                self.end(connection)
        return read(self.url, response.status, content)

    def stream(self, path: str, body: bytes, headers: Mapping[str, str], deadline: float) -> Stream:
        """Send one request whose answer has no end.

        :raises EtcdError: as :meth:`ask`.
        """
        connection = self._connection(deadline)
        begun = False
        try:
            self._send(connection, path, body, headers)
            reply = http.client.HTTPConnection.getresponse(connection)
            if reply.status != 200 or not reply.chunked or connection.sock is None:
                raise failure(self.url, reply.status, reply.read(65536))
            begun = True
        except _TROUBLE as error:
            raise Unreachable(f"{self.url}: {_told(error)}.") from error
        finally:
            if not begun:
                self.end(connection)
        return Stream(self, connection, reply)

    def _send(
        self,
        connection: HTTPConnection,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> None:
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, {**self._headers, **headers})

    def _connection(self, deadline: float) -> HTTPConnection:
        """Return a connection that is connected, and whose next request ends by the deadline.

        :raises Unreachable: if there is none in time.
        """
        connection: HTTPConnection | None = None
        try:
            connection = self._kept() or self._connected(deadline)
            # A class by its type; what it is called with makes one.
            connection.response_class = functools.partial(  # type: ignore[assignment]
                _Reply, deadline
            )
            connection.timeout = _left(deadline)
        except _TROUBLE as error:
            if connection is not None:  # it came too late
                self.end(connection)
            raise Unreachable(f"{self.url}: {_told(error)}.", may_be_done=False) from error
        return connection

    def _kept(self) -> HTTPConnection | None:
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread took the last one
                connection = self._idle.pop()
                if connection.is_connected:
                    return connection
                self.end(connection)
        return None

    def _connected(self, deadline: float) -> HTTPConnection:
        addresses = self._addresses(deadline)
        for address in addresses[:-1]:
            with contextlib.suppress(*_TROUBLE):
                return self._connect(address, _left(deadline) / len(addresses))
        return self._connect(addresses[-1], _left(deadline))

    def _connect(self, address: str, timeout: float) -> HTTPConnection:
        connection: HTTPConnection
        if self._tls is None:
            connection = HTTPConnection(
                address, self._port, timeout=timeout, socket_options=_SOCKET
            )
        else:
            # The timeout holds for the connecting and once more for the whole handshake.
            connection = HTTPSConnection(
                address,
                self._port,
                timeout=timeout / 2,
                socket_options=_SOCKET,
                ssl_context=self._tls.context(),
                server_hostname=self._host,
            )
        self._open.add(connection)
        connected = False
        try:
            connection.connect()
            connected = True
        finally:
            if not connected:
                self.end(connection)
        return connection

    def _addresses(self, deadline: float) -> list[str]:
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(self._host))]
        lookup = self._lookup
        if lookup is None or lookup.done.is_set():  # one that hangs gets no company
            lookup = self._lookup = _Lookup(self._host, self._port)
        return lookup.addresses(deadline)

    def end(self, connection: HTTPConnection) -> None:
        """Close a connection of this process, also where a forked child has a copy of it."""
        if connection not in self._open:
            return  # it is closed, or was the parent's: a thread that is no more may hold its locks
        self._open.discard(connection)
        if connection.sock is not None:
            _shut(connection.sock)
        connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            with contextlib.suppress(IndexError):
                self.end(self._idle.pop())

    def forked(self) -> None:
        """In a forked child: close its copies; the parent's connections stay as they are."""
        self._idle, self._lookup = deque(), None
        _drop(self._open)


def _drop(connections: set[HTTPConnection]) -> None:
    """Close this process's side of connections, which may be those of a parent that goes on."""
    while connections:
        with contextlib.suppress(KeyError):
            sock = connections.pop().sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    os.close(sock.detach())  # close() would wait for what reads it


def _shut(sock: socket.socket) -> None:
    """End a connection for all that have its socket, a thread that reads it too."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # that of TLS takes away what is read by


def _told(error: BaseException) -> str:
    """What went wrong, in the fewest words."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the host's name is not known ({text})" if isinstance(error, socket.gaierror) else text


class Stream:
    """An answer without an end, piece by piece."""

    def __init__(self, endpoint: Endpoint, connection: HTTPConnection, reply: Any) -> None:
        self.url = endpoint.url
        self._endpoint, self._connection, self._reply = endpoint, connection, reply
        self._socket: socket.socket = connection.sock  # it is connected
        self._wire = b""  # what came and is no whole chunk yet
        self._reading = PerProcess(threading.Lock)
        self._ended = False
        self.closed = False

    def read(self, deadline: float) -> bytes | None:
        """Return what comes next, b"" if nothing has come by the deadline, None at the end.

        Nothing is lost where the deadline passes in the middle.
        """
        follow()
        with self._reading():
            # At least a moment, so that what has come is found however late it is.
            self._reply.wire.deadline = max(deadline, clock() + 0.001)
            while not (self.closed or self._ended):
                try:
                    came = self._reply.fp.read1(65536)
                    self._wire += came
                    piece = self._chunks()
                except TimeoutError:
                    return b""
                except (OSError, ValueError):  # closed meanwhile, or gone, or no chunks
                    break
                self._ended = self._ended or not came
                if piece:
                    return piece
        return None

    def _chunks(self) -> bytes:
        """Take the whole chunks of what came."""
        pieces: list[bytes] = []
        while not self._ended and b"\r\n" in self._wire:
            head, _, rest = self._wire.partition(b"\r\n")
            size = int(head.partition(b";")[0], 16)
            if len(rest) < size + 2:
                break
            pieces.append(rest[:size])
            self._wire = rest[size + 2 :]
            self._ended = size == 0
        return b"".join(pieces)

    def end(self) -> None:
        """Have a thread that waits in :meth:`read` come back, which then has to close it."""
        self.closed = True
        _shut(self._socket)

    def close(self) -> None:
        """Close it, from any thread: one that waits in :meth:`read` comes back."""
        follow()
        self.end()
        # A descriptor that is closed while it is read may be that of another file by then.
        with self._reading():
            self._endpoint.end(self._connection)
