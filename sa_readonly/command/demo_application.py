"""An application at work on two SQLite files while an operator turns it read-only and back."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine, create_engine, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool

from ..errors import ReadOnlyError
from ..mode import State
from ..selector import EngineSelector
from ..session import RoutingSession
from ..switch import FileSwitch
from .demo_outcome import HALF_WAY, PHASES, READ_ONLY, READ_WRITE, UNSETTLED, Kind, Outcome

Watch = Callable[[float, int, str], object]

_PAUSE = 0.005  # seconds in each transaction, so that a flip finds some of them under way
_TICK = 0.1  # seconds between two calls of watch()
_PATIENCE = 30.0  # seconds within which a thread must end
_LOCK_TIMEOUT = 30  # seconds for which SQLite waits for the lock of a file
_MARKER = 0  # the id of the row that has the name of its database as its note
_PER_THREAD = 10**9  # ids


class _Base(DeclarativeBase):
    pass


class _Entry(_Base):
    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    note: Mapped[str]


_WHICH = select(_Entry.note).where(_Entry.id == _MARKER)
_NEWEST = select(_Entry).order_by(_Entry.id.desc()).limit(10)


def run(*, seconds: float = 6.0, threads: int = 4, watch: Watch = lambda *_: None) -> Outcome:
    """Have threads read and write, create the file after a third of the time, remove it after two.

    :param seconds: how long the threads are at work.
    :param threads: how many; half of them write.
    :param watch: called some ten times a second, with the seconds that have passed, the index of
        the phase and what happened so far, in one line.
    """
    with TemporaryDirectory(prefix="sa-readonly-demo-") as directory:
        urls = [f"sqlite:///{directory}/{name}.db" for name in (READ_WRITE, READ_ONLY)]
        for url, name in zip(urls, (READ_WRITE, READ_ONLY), strict=True):
            _create(url, name)
        switch = FileSwitch(f"{directory}/read-only.txt")
        operator = _Operator(switch, seconds, watch)
        outcome = operator.outcome
        outcome.noticed = _work(switch, urls, operator, threads)
        operator.show()
        # The application has gone. Engines that it never had tell what is there now.
        outcome.in_read_write, outcome.in_read_only = map(_ids, urls)
        return outcome


def _work(
    switch: FileSwitch, urls: list[str], operator: _Operator, threads: int
) -> list[float] | tuple[None, None]:
    """Have the threads work; return the seconds from each act of the operator to its flip."""
    flips: list[tuple[str, float]] = []

    def notice(_old: State, new: State) -> None:
        flips.append((str(new.mode), time.monotonic()))

    with ExitStack() as stack:
        engines = [_engine(url, poolclass=QueuePool, pool_size=threads) for url in urls]
        for engine in engines:
            stack.callback(engine.dispose)
        selector = EngineSelector(switch, read_write=engines[0], read_only=engines[1])
        stack.enter_context(selector)
        selector.on_flip(notice)
        sessions = sessionmaker(selector, class_=RoutingSession)
        clients = [_Client(number, sessions, operator) for number in range(1, threads + 1)]
        stack.callback(_end, clients, operator)
        for client in clients:
            client.start()
        operator.work()
    if [mode for mode, _ in flips] != list(PHASES[1:]):
        return (None, None)
    # A flip may be noticed while the operator still waits for the disk.
    return [max(0.0, when - act) for act, (_, when) in zip(operator.acts, flips, strict=True)]


# -- the databases ---------------------------------------------------------------------------


def _engine(url: str, **options: Any) -> Engine:
    return create_engine(url, connect_args={"timeout": _LOCK_TIMEOUT}, **options)


def _create(url: str, name: str) -> None:
    with _engine(url, poolclass=NullPool).connect() as connection:
        connection.execute(text("PRAGMA journal_mode = WAL"))  # readers and a writer get along
        _Base.metadata.create_all(connection)
        connection.execute(insert(_Entry).values(id=_MARKER, note=name))
        connection.commit()


def _ids(url: str) -> set[int]:
    with _engine(url, poolclass=NullPool).connect() as connection:
        return set(connection.scalars(select(_Entry.id).where(_Entry.id != _MARKER)))


# -- the operator ----------------------------------------------------------------------------


class _Operator:
    """Creates the file and removes it, with a switch that the application does not know."""

    def __init__(self, switch: FileSwitch, seconds: float, watch: Watch) -> None:
        self.outcome = Outcome(switch.ttl)
        self.lock = threading.Lock()  # for what the threads add to the outcome
        self.stop = threading.Event()
        self.acts: list[float] = []  # when the file was surely there, and surely gone
        # The phase, and the time from which no transaction may begin by the one before. One tuple,
        # so that a thread reads both at once.
        self.stage = (0, time.monotonic())
        self._switch = FileSwitch(switch.path)
        self._seconds = seconds
        self._watch = watch
        self._started = time.monotonic()

    def work(self) -> None:
        """Go through the phases; a third of the time each."""
        self._started = time.monotonic()
        self._wait(1 / 3)
        self._act(lambda: self._switch.enable("sa-readonly demo"))
        self._wait(2 / 3)
        self._act(self._switch.disable)
        self._wait(1)

    def show(self) -> None:
        """Tell how far the demo is."""
        with self.lock:
            told = str(self.outcome)
        elapsed = min(time.monotonic() - self._started, self._seconds)
        self._watch(elapsed, self.stage[0], told)

    def _act(self, act: Callable[[], object]) -> None:
        phase = self.stage[0] + 1
        self.stage = (phase, math.inf)
        act()
        done = time.monotonic()
        self.acts.append(done)
        self.stage = (phase, done + self.outcome.ttl)

    def _wait(self, part: float) -> None:
        while (left := self._started + part * self._seconds - time.monotonic()) > 0:
            self.show()
            self.stop.wait(min(left, _TICK))


# -- the application -------------------------------------------------------------------------


class _Client(threading.Thread):
    """A thread of the application: it reads, or it writes, and knows nothing of modes."""

    def __init__(
        self, number: int, sessions: sessionmaker[RoutingSession], operator: _Operator
    ) -> None:
        self.writes = number % 2 == 0
        kind = "writer" if self.writes else "reader"
        super().__init__(name=f"sa-readonly-demo-{kind}-{number}", daemon=True)
        outcome = operator.outcome
        self.failures = outcome.failed_writes if self.writes else outcome.failed_reads
        self._sessions = sessions
        self._operator = operator
        self._ids = count(number * _PER_THREAD)
        self._reached: set[str] = (
            set()
        )  # the databases that the statements of a transaction reached

    def run(self) -> None:
        operator, outcome = self._operator, self._operator.outcome
        while not operator.stop.is_set():
            began = operator.stage
            phase = began[0] if time.monotonic() >= began[1] else UNSETTLED
            self._reached = set()
            number = next(self._ids)
            try:
                result = self._write(number) if self.writes else self._read()
            except Exception as error:  # noqa: BLE001  # the outcome tells each error
                result, failed = "failed", error
            ended = operator.stage
            if ended is not began:
                phase = UNSETTLED if ended[0] == began[0] else HALF_WAY
            with operator.lock:
                outcome.transactions[Kind(phase, result, frozenset(self._reached))] += 1
                if result == "failed":
                    # The first line of SQLAlchemy's text; the others have parameters and a link.
                    line = next(iter(str(failed).strip().splitlines()), "")
                    self.failures.append(f"{type(failed).__name__}: {line}")
                elif self.writes:
                    ids = outcome.refused if result == "refused" else outcome.committed
                    ids.add(number)
            if result == "failed":
                self._pause()

    def _read(self) -> str:
        with self._sessions.begin() as session:
            self._ask(session)
            self._pause()
            session.scalars(_NEWEST).all()
            self._ask(session)
        return "read"

    def _write(self, number: int) -> str:
        read_first = number % 2 == 0
        if not read_first:
            self._pause()
        try:
            with self._sessions.begin() as session:
                if read_first:
                    self._ask(session)
                    self._pause()
                session.add(_Entry(id=number, note="a write"))
                session.flush()
                if not read_first:
                    self._ask(session)
                self._ask(session)
        except ReadOnlyError:
            return "refused"
        return "committed"

    def _ask(self, session: RoutingSession) -> None:
        self._reached.add(str(session.scalar(_WHICH)))

    def _pause(self) -> None:
        self._operator.stop.wait(_PAUSE)


def _end(clients: list[_Client], operator: _Operator) -> None:
    operator.stop.set()
    end = time.monotonic() + _PATIENCE
    for client in clients:
        if client.ident is None:  # not started, because the start of another one failed
            continue
        client.join(max(0.0, end - time.monotonic()))
        if client.is_alive():
            client.failures.append(f"{client.name} did not end within {_PATIENCE:.0f} s")
