"""One process of the fleet under load, of one of four kinds, which notes all it does.

`python -m benchmarks.chaos.worker SETTINGS`. Each line of its standard input is an order; at the
end of those it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, ExceptionContext, create_engine, event, exc, insert, make_url, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.chaos.clocks import set_back
from benchmarks.chaos.notes import Flips, Notes
from sa_readonly import Engines, EngineSelector, FileSwitch, ReadOnlyError, RoutingSession
from tests.fleet_process import Reached, Row, add, look

APPLICATION = {"rw": "chaos-read-write", "ro": "chaos-read-only"}
THINKING = 0.1  # seconds between two transactions of a loop, on average
LOOPS = 3  # of a process with threads or tasks
CHILDREN = 2  # of a prefork server
PATIENCE = 2.0  # seconds in the queue of a pool; a connection is held for less, but for a fault

# -- transactions ------------------------------------------------------------------------------

Body = Callable[[Session, str, Reached], None]


def read(session: Session, _name: str, reached: Reached) -> None:
    look(session, reached)
    look(session, reached)


def write(session: Session, name: str, reached: Reached) -> None:
    add(session, name, reached)


def read_then_write(session: Session, name: str, reached: Reached) -> None:
    look(session, reached)
    add(session, name, reached)


def write_in_a_savepoint(session: Session, name: str, reached: Reached) -> None:
    look(session, reached)
    with session.begin_nested():
        add(session, name, reached)


def write_by_core(session: Session, name: str, reached: Reached) -> None:
    statement = insert(Row).values(id=name).returning(Row.place, Row.backend)
    place, backend = session.execute(statement).one()
    reached.add((place, backend))
    look(session, reached)


def hang(seconds: float) -> Body:
    def hangs(session: Session, name: str, reached: Reached) -> None:
        add(session, name, reached)
        session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
        look(session, reached)

    return hangs


READS = ((read, "primary"), (read, "replica"))
WRITES = tuple((one, "primary") for one in (write, read_then_write, write_in_a_savepoint))
KINDS = (*READS, *WRITES, (write_by_core, "primary"))


def why(error: BaseException, ports: dict[str, str]) -> str:
    """Return what became of a transaction, in a few words that a fault may explain.

    :param ports: of each engine, the port in its URL.
    """
    if isinstance(error, exc.TimeoutError):
        return "pool"
    found: BaseException | None = error
    state = None
    while found is not None and state is None:
        origin = found.orig if isinstance(found, exc.DBAPIError) else found
        state = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None)
        found = found.__cause__
    if state == "57014":
        return "cancelled"
    if state is None or state[:2] == "08" or state in ("57P01", "57P02", "57P03"):
        if not isinstance(error, (exc.DBAPIError, OSError)) and "onnect" not in str(type(error)):
            return "other"
        # What asyncpg raises as it connects comes by no listener, and names the port.
        named = next((name for name, port in ports.items() if port in str(error)), "?")
        return f"connection {getattr(error, 'chaos', named)}"
    return f"SQLSTATE {state}"


def tell(engine: Engine, name: str) -> None:
    """Have each error of an engine say of which it is."""

    @event.listens_for(engine, "handle_error")
    def note(context: ExceptionContext) -> None:
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.chaos = name  # type: ignore[attr-defined]  # why() reads it


# -- the process -------------------------------------------------------------------------------


class Process:
    """What all kinds have in common."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.notes = Notes(Path(settings["notes"]), settings["slot"])
        self.random = random.Random(f"{settings['seed']} {settings['slot']}")
        self.numbers = itertools.count()
        self.jobs: deque[Body] = deque()
        self.stopping = threading.Event()
        logger = logging.getLogger("sa_readonly")
        logger.setLevel(logging.INFO)
        logger.addHandler(Flips(self.notes))
        logger.addHandler(logging.FileHandler(settings["log"]))
        self.ports = {name: str(make_url(settings[name]).port) for name in APPLICATION}
        made = {name: self.engine(settings[name], name) for name in APPLICATION}
        for name, engine in made.items():
            tell(getattr(engine, "sync_engine", engine), name)
        self.engines = list(made.values())
        self.selector = EngineSelector(
            FileSwitch(settings["file"], ttl=settings["ttl"]),
            read_write=Engines(primary=made["rw"], replica=made["ro"]),
            read_only=made["ro"],
            workers="required",
        )

    def engine(self, url: str, name: str) -> Any:
        return create_engine(
            url, **POOL, connect_args={"application_name": APPLICATION[name], "connect_timeout": 10}
        )

    def start(self) -> None:
        self.notes.note("start", pid=os.getpid())
        threading.Thread(target=self.obey, daemon=True).start()

    # -- orders

    def obey(self) -> None:
        for line in sys.stdin:
            order = json.loads(line)
            getattr(self, order.pop("do"))(**order)
        self.stopping.set()

    def hang(self, seconds: float) -> None:
        self.jobs.append(hang(seconds))

    def clock(self, seconds: float) -> None:
        threading.Thread(target=set_back, args=(seconds,), daemon=True).start()

    def exhaust(self, seconds: float) -> None:
        threading.Thread(target=self._exhaust, args=(seconds,), daemon=True).start()

    def fork(self, seconds: float, exits: bool) -> None:
        threading.Thread(target=self._fork, args=(seconds, exits), daemon=True).start()

    # -- what it does

    def job(self) -> tuple[Body, str, bool]:
        """The next transaction: its statements, its role, and whether it writes."""
        with contextlib.suppress(IndexError):
            return self.jobs.popleft(), "primary", True
        one = self.random.choice(KINDS)
        return *one, one not in READS

    def thinking(self) -> float:
        return self.random.uniform(0, 2 * THINKING)

    def name(self) -> str:
        return f"{self.notes.process}-{next(self.numbers)}"

    @contextlib.contextmanager
    def noted(self, name: str, writes: bool, reached: Reached) -> Any:
        self.notes.note("begin", name=name, writes=writes)
        kind, told = "done", dict[str, Any]()
        try:
            yield
        except ReadOnlyError:
            kind = "refused"
        except Exception as error:  # noqa: BLE001  # whatever it is, it is judged at the end
            kind, told = (
                "failed",
                {"why": why(error, self.ports), "error": f"{type(error)}: {error}"[:500]},
            )
        self.notes.note(kind, name=name, reached=sorted(reached), **told)

    def _exhaust(self, seconds: float) -> None:
        raise NotImplementedError

    def _fork(self, seconds: float, exits: bool) -> None:
        raise NotImplementedError

    def exhausting(self, seconds: float) -> None:
        now = time.monotonic()
        until = now + seconds + PATIENCE + 1
        self.notes.fault("pool", "pool", at=now, until=until, process=self.notes.process)


POOL: dict[str, Any] = {
    "pool_size": LOOPS,
    "max_overflow": 0,
    "pool_timeout": PATIENCE,
    "pool_pre_ping": True,
}


class Threads(Process):
    """Threads, or one loop in the main thread."""

    loops = LOOPS

    def run(self) -> None:
        self.sessions = sessionmaker(self.selector, class_=RoutingSession)
        self.start()
        threads = [threading.Thread(target=self.work) for _ in range(self.loops - 1)]
        for thread in threads:
            thread.start()
        self.work()
        for thread in threads:
            thread.join()
        self.selector.close()
        for engine in self.engines:
            engine.dispose()

    def work(self, until: float = float("inf")) -> None:
        while not self.stopping.wait(self.thinking()) and time.monotonic() < until:
            self.do(*self.job())

    def do(self, body: Body, role: str, writes: bool) -> None:
        name, reached = self.name(), set[tuple[str, int]]()
        with self.noted(name, writes, reached), self.sessions(role=role) as session:
            if writes:
                with session.begin():
                    body(session, name, reached)
                    self.notes.note("commit", name=name)
            else:
                body(session, name, reached)

    def _exhaust(self, seconds: float) -> None:
        self.exhausting(seconds)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(Exception):
                for _ in range(LOOPS):
                    stack.enter_context(self.sessions()).connection()
            time.sleep(seconds)

    def _fork(self, seconds: float, exits: bool) -> None:
        if os.fork():
            return
        self.notes.begin_anew()
        self.numbers = itertools.count()
        try:
            self.work(time.monotonic() + seconds)
            if exits:
                self.selector.close()
        finally:
            os._exit(0)


class Sync(Threads):
    loops = 1


class Prefork(Sync):
    """A master that has children work, and replaces those that die."""

    def run(self) -> None:
        self.sessions = sessionmaker(self.selector, class_=RoutingSession)
        self.selector.check()  # as an application does that looks at the mode while it is loaded
        self.notes.note("start", pid=os.getpid(), works=False)
        threading.Thread(target=self.obey, daemon=True).start()
        children: set[int] = set()
        while not self.stopping.wait(0.05):
            while len(children) < CHILDREN:
                if not (pid := os.fork()):
                    self.child()
                children.add(pid)
            while children and (ended := os.waitpid(-1, os.WNOHANG)[0]):
                children.discard(ended)
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        for pid in children:
            os.waitpid(pid, 0)

    def child(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.stopping.set())
        self.notes.begin_anew()
        self.random = random.Random(f"{self.random.random()} {os.getpid()}")
        master = os.getppid()
        while not self.stopping.wait(self.thinking()) and os.getppid() == master:
            self.do(*self.job())
        self.selector.close()
        os._exit(0)


class Asyncio(Process):
    """Tasks on one event loop."""

    def engine(self, url: str, name: str) -> Any:
        key = "server_settings" if "asyncpg" in url else None
        told: dict[str, Any] = {"application_name": APPLICATION[name]}
        return create_async_engine(url, **POOL, connect_args={key: told} if key else told)

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        bind: Any = self.selector
        self.sessions: Any = async_sessionmaker(bind, sync_session_class=RoutingSession)
        self.start()
        await asyncio.gather(*(self.work() for _ in range(LOOPS)))
        await self.selector.__aexit__(None, None, None)
        for engine in self.engines:
            await engine.dispose()

    async def work(self) -> None:
        while not self.stopping.is_set():
            await asyncio.sleep(self.thinking())
            await self.do(*self.job())

    async def do(self, body: Body, role: str, writes: bool) -> None:
        name, reached = self.name(), set[tuple[str, int]]()
        with self.noted(name, writes, reached):
            async with self.sessions(role=role) as session:
                if writes:
                    async with session.begin():
                        await session.run_sync(body, name, reached)
                        self.notes.note("commit", name=name)
                else:
                    await session.run_sync(body, name, reached)

    def exhaust(self, seconds: float) -> None:
        asyncio.run_coroutine_threadsafe(self._exhaust_here(seconds), self.loop)

    async def _exhaust_here(self, seconds: float) -> None:
        self.exhausting(seconds)
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.suppress(Exception):
                for _ in range(LOOPS):
                    session = await stack.enter_async_context(self.sessions())
                    await session.connection()
            await asyncio.sleep(seconds)


PROCESSES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sync": Sync,
    "threads": Threads,
    "asyncio": Asyncio,
    "prefork": Prefork,
}


def main() -> None:
    settings = json.loads(sys.argv[1])
    kind = settings["kind"]
    if kind in ("sync", "threads"):
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forked children are waited for by none
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is meant for the operator
    PROCESSES[kind](settings).run()


if __name__ == "__main__":
    main()
