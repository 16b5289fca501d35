"""A name that moves from server to server, and an application that goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker

from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession
from tests.app import Book
from tests.postgres import Server, wait_until

SECONDS = 60.0
T = TypeVar("T")
WORKERS = 8
PAUSE = 0.002  # between two transactions of a worker, as the servers need the processors, too


class Name:
    """A port that leads to another one, as a name does that is resolved for each connection.

    Connections that are there stay where they are.
    """

    def __init__(self, port: int) -> None:
        self._leads_to = port
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._listening.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def move(self, port: int) -> None:
        self._leads_to = port

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._leads_to))
            except OSError:
                client.close()
                continue
            for one, other in ((client, server), (server, client)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.add(one)
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(KeyError, OSError):
            self._sockets.remove(source)
            source.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """End all connections that there are."""
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def name_of(port: int) -> Iterator[Name]:
    made = Name(port)
    try:
        yield made
    finally:
        made.close()


def demote(server: Server, primary: Server) -> None:
    """Start a primary anew as a hot standby of another server, which was its own."""
    server.terminate()
    data = server.get_data_directory()
    with open(f"{data}/postgresql.auto.conf", "a", encoding="utf-8") as file:
        file.write(f"\nprimary_conninfo = 'host=127.0.0.1 port={primary.port} user=postgres'\n")
    with open(f"{data}/standby.signal", "w", encoding="utf-8"):
        pass
    server.start()


def is_of_a_server(error: Exception) -> bool:
    """True for what comes of a server that goes. What asyncpg raises as it connects is bare."""
    return isinstance(error, (DBAPIError, OSError)) or type(error).__module__.startswith("asyncpg")


@dataclass
class Load:
    """Transactions that read, and that write a title each, until it is ended."""

    selector: EngineSelector
    ends: bool = False
    written: list[tuple[float, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # what became of them is not told
    kept: Counter[str] = field(default_factory=Counter)  # reads while read-only, by how they ended
    strange: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()

    def title(self) -> str:
        return f"title {next(self._numbers)}"

    @contextlib.contextmanager
    def writing(self, title: str) -> Iterator[None]:
        try:
            yield
        except ReadOnlyError:
            self.refused.append(title)
        except Exception as error:
            if not is_of_a_server(error):
                raise
            self.unknown.append(title)
        else:
            self.written.append((time.monotonic(), title))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        before = self.selector.read_only
        told = "served"
        try:
            yield
        except Exception as error:
            if not is_of_a_server(error):
                raise
            told = f"failed: {error}"
        if before and self.selector.read_only:
            self.kept[told] += 1

    def run(self) -> Callable[[], None]:
        """Begin; the function that is returned ends it."""
        work = self._run_async if self.selector.is_async else self._run_sync
        threads = [threading.Thread(target=self._noted, args=(work,)) for _ in range(WORKERS)]
        if self.selector.is_async:
            del threads[1:]
        for thread in threads:
            thread.start()

        def end() -> None:
            self.ends = True
            for thread in threads:
                thread.join(SECONDS)
            assert not any(thread.is_alive() for thread in threads)

        return end

    def _noted(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.strange.append(repr(error))
            raise

    def _run_sync(self) -> None:
        while not self.ends:
            with self.reading(), RoutingSession(self.selector) as session:
                session.scalar(select(Book.id).limit(1))
            title = self.title()
            with self.writing(title), RoutingSession(self.selector) as session, session.begin():
                session.add(Book(title=title))
            time.sleep(PAUSE)

    def _run_async(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        factory: Any = async_sessionmaker(self.selector, sync_session_class=RoutingSession)  # type: ignore[arg-type]  # a selector stands for a bind

        async def work() -> None:
            while not self.ends:
                with self.reading():
                    async with factory() as session:
                        await session.scalar(select(Book.id).limit(1))
                title = self.title()
                with self.writing(title):
                    async with factory.begin() as session:
                        session.add(Book(title=title))
                await asyncio.sleep(PAUSE)

        await asyncio.gather(*(work() for _ in range(WORKERS)))
        for engine in self.selector._engines.values():
            await engine.dispose()

    # -- what is waited for --------------------------------------------------------------

    def until_refused(self, number: int = 50) -> None:
        """Wait until it is read-only, and that many more writes were refused."""
        self._until(lambda: self.selector.read_only, "it is read-only")
        enough = len(self.refused) + number
        self._until(lambda: len(self.refused) >= enough, "writes are refused")

    def _until(self, condition: Callable[[], T], what: str) -> T:
        def check() -> T:
            assert self.strange == []  # then nothing goes on
            return condition()

        return wait_until(check, what, SECONDS)

    def until_written(self, since: float) -> float:
        """Wait for a write that was done after a moment; return how many seconds after."""
        done = self._until(
            lambda: next((when for when, _ in reversed(self.written) if when > since), None),
            "writes go on",
        )
        return min(when for when, _ in self.written if since < when <= done) - since
