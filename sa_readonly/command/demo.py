"""The main job, tried for real: an application turned read-only and back while it is at work."""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    String,
    Table,
    create_engine,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import registry, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool

from ..engines.pools import holds_database
from ..errors import ReadOnlyError
from ..selector import EngineSelector
from ..session import RoutingSession
from ..subscribers import FORCE
from ..switch import FileSwitch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Engine

    from ..mode import State

__all__ = ["Check", "DemoError", "Outcome", "Progress", "Report", "run"]

READ_WRITE, READ_ONLY = "read-write", "read-only"
PHASES = (READ_WRITE, READ_ONLY, READ_WRITE)  # in which mode each third of the time is

_ENOUGH = 5  # reads, and writes, that each phase must have had for the rest to tell anything
_SLACK = 1.0  # seconds beyond ttl after which a flip counts as not noticed: a busy machine's share
_PAUSE = 0.005  # seconds in each transaction, so that a flip finds some of them under way
_TICK = 0.1  # seconds between two calls of watch()
_PATIENCE = 30.0  # seconds for which a thread is waited for at the end
_MARKER = 0  # the id of the row that says which database this is
_PER_THREAD = 10**9  # ids

# What each driver needs so that it neither gives up on a lock too early nor waits for ever.
_CONNECT_ARGS: dict[str, dict[str, Any]] = {
    "pysqlite": {"timeout": 30},
    "psycopg2": {"connect_timeout": 10},
    "psycopg": {"connect_timeout": 10},
    "pymysql": {"connect_timeout": 10},
    "mysqldb": {"connect_timeout": 10},
}


class DemoError(Exception):
    """The demo can't be run so. The message names what is wrong, never a password."""


@dataclass(frozen=True)
class Progress:
    """Where the demo stands."""

    elapsed: float
    seconds: float
    phase: int
    """The index in :data:`PHASES`."""
    transactions: Mapping[str, int]
    """By the database that they really reached."""
    committed: int
    refused: int
    failed: int


@dataclass(frozen=True)
class Check:
    """Something that must hold, and the numbers that show whether it does."""

    name: str
    holds: bool
    numbers: str


@dataclass(frozen=True)
class Outcome:
    """What the threads saw, and what is in the databases by plain engines of their own."""

    ttl: float
    committed: frozenset[int]
    """The ids of the rows whose commit came back."""
    refused: frozenset[int]
    """The ids of the rows for which ReadOnlyError was raised."""
    in_read_write: frozenset[int]
    in_read_only: frozenset[int]
    reads: int
    failed_reads: tuple[str, ...]
    failed_writes: tuple[str, ...]
    """Of any error but ReadOnlyError."""
    transactions: Mapping[str, int]
    """By the database that they really reached."""
    mixed: int
    """Transactions whose statements reached two databases."""
    under_way: int
    """Transactions that had begun when the operator acted."""
    settled: Mapping[tuple[int, str, str], int]
    """By phase, kind and database reached: what began and ended inside a phase, and began more
    than ``ttl`` after the file had appeared or gone."""
    noticed: tuple[float | None, ...]
    """Seconds from each act of the operator to the flip; None where it was not noticed once."""


@dataclass(frozen=True)
class Report:
    """The outcome, judged."""

    outcome: Outcome

    @property
    def checks(self) -> tuple[Check, ...]:
        """What must hold."""
        return tuple(_judge(self.outcome))

    @property
    def holds(self) -> bool:
        """True if all of it does."""
        return all(check.holds for check in self.checks)


def run(
    read_write: str | URL | None = None,
    read_only: str | URL | None = None,
    *,
    seconds: float = 6.0,
    threads: int = 4,
    watch: Callable[[Progress], object] | None = None,
) -> Report:
    """Run reader and writer threads, turn them read-only and back, and look what came of it.

    After a third of the time the file appears, after two thirds it goes. Without URLs it runs on
    two SQLite files that are removed at the end, with them in a table of its own in both databases,
    dropped at the end whatever happens.

    :param read_write: the URL of the read-write database, of a sync driver.
    :param read_only: the URL of another database, which stands for the read-only copy.
    :param seconds: how long the threads are at work.
    :param threads: how many; half of them write.
    :param watch: called with a :class:`Progress` some ten times a second.
    :raises DemoError: if it can't be run so.
    """
    if not math.isfinite(seconds) or seconds < 1 or threads < 2:
        raise DemoError("The demo takes at least one second and two threads.")
    if os.environ.get(FORCE) is not None:
        raise DemoError(f"{FORCE} forces the mode, so that no file could. Unset it for the demo.")
    if (read_write is None) != (read_only is None):
        raise DemoError("Give both URLs, read_write and read_only, or neither of them.")
    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory(prefix="sa-readonly-demo-"))
        if read_write is None or read_only is None:
            urls = [URL.create("sqlite", database=f"{directory}/{name}.db") for name in PHASES[:2]]
        else:
            urls = [_url(read_write, READ_WRITE), _url(read_only, READ_ONLY)]
        sides = [_Side(url, name) for url, name in zip(urls, PHASES[:2], strict=True)]
        model = _model(f"sa_readonly_demo_{secrets.token_hex(4)}")
        for side in sides:
            stack.callback(side.plain.dispose)
            if read_write is None:
                side.use_wal()
            side.create(model.__table__, stack)
        file = f"{directory}/read-only.txt"
        return _run(sides, model, file, seconds=seconds, threads=threads, watch=watch)


def _run(
    sides: list[_Side],
    model: Any,
    file: str,
    *,
    seconds: float,
    threads: int,
    watch: Callable[[Progress], object] | None,
) -> Report:
    with ExitStack() as stack:
        engines = [side.engine(threads) for side in sides]
        for engine in engines:
            stack.callback(engine.dispose)
        switch = FileSwitch(file)
        selector = stack.enter_context(
            EngineSelector(switch, read_write=engines[0], read_only=engines[1])
        )
        noticed: list[tuple[str, float]] = []

        def notice(_old: State, new: State) -> None:
            noticed.append((str(new.mode), time.monotonic()))

        selector.on_flip(notice)
        operator = _Operator(file, switch.ttl)
        session = sessionmaker(selector, class_=RoutingSession)
        workers = [
            _Worker(number, session, model, operator, writes=number % 2 == 0)
            for number in range(1, threads + 1)
        ]
        stack.callback(_end, workers, operator)
        for worker in workers:
            worker.start()
        progress = partial(_progress, workers, operator, seconds, watch)
        operator.work(seconds, progress)

    progress()

    # The application has gone. What is there now is asked by engines that it never had.
    found = [side.ids(model.__table__) for side in sides]
    total = _total(workers)
    for side in sides:
        total.failed_reads = [side.hide(failure) for failure in total.failed_reads]
        total.failed_writes = [side.hide(failure) for failure in total.failed_writes]
    return Report(
        Outcome(
            ttl=switch.ttl,
            committed=frozenset(total.committed),
            refused=frozenset(total.refused),
            in_read_write=found[0],
            in_read_only=found[1],
            reads=total.reads,
            failed_reads=tuple(total.failed_reads),
            failed_writes=tuple(total.failed_writes),
            transactions=dict(total.transactions),
            mixed=total.mixed,
            under_way=total.under_way,
            settled=dict(total.settled),
            noticed=_latencies(operator.acts, noticed),
        )
    )


# -- the databases ---------------------------------------------------------------------------


def _model(name: str) -> Any:
    mapped = registry()

    @mapped.mapped
    class Entry:
        __table__ = Table(
            name,
            mapped.metadata,
            Column("id", BigInteger, primary_key=True, autoincrement=False),
            Column("note", String(20), nullable=False),
        )

    return Entry


def _url(url: str | URL, name: str) -> URL:
    try:
        made = make_url(url)
        dialect = made.get_dialect()
        if dialect.is_async:
            raise DemoError(
                f"The URL of the {name} database names the asyncio driver {dialect.driver}; "
                "the demo runs threads. Give a URL with a sync driver."
            )
        dialect.import_dbapi()
    except NoSuchModuleError:
        raise DemoError(
            f"SQLAlchemy knows no {made.drivername}, which the URL of the {name} database begins "
            "with. Correct it, or install the package that brings it."
        ) from None
    except ImportError as error:
        raise DemoError(
            f"The driver of the {name} database is not installed ({error}). Install it with pip, "
            "or name another one in the URL."
        ) from None
    except (ArgumentError, ValueError):  # whose messages show the URL
        raise DemoError(
            f"What was given for the {name} database is no URL of SQLAlchemy, such as "
            "postgresql+psycopg2://user:password@host/database."
        ) from None
    return made


class _Side:
    """One of the two databases, by a plain engine that no selector ever sees."""

    def __init__(self, url: URL, name: str) -> None:
        self.url = url
        self.name = name
        # The query of a URL may hold a password too.
        self.shown = url.set(query={}).render_as_string(hide_password=True)
        arguments = _CONNECT_ARGS.get(url.get_dialect().driver, {})
        self._arguments = {key: arguments[key] for key in arguments if key not in url.query}
        self.plain = create_engine(url, poolclass=NullPool, connect_args=self._arguments)
        if holds_database(self.plain):
            raise DemoError(
                f"The {name} database is in memory, where each connection has one of its own. Give "
                "a file."
            )

    def engine(self, threads: int) -> Engine:
        """Return an engine for the application: a connection for each thread."""
        return create_engine(
            self.url, poolclass=QueuePool, pool_size=threads, connect_args=self._arguments
        )

    def use_wal(self) -> None:
        """Let readers and a writer of an SQLite file get along."""
        with self.plain.connect() as connection:
            connection.execute(text("PRAGMA journal_mode = WAL"))

    def create(self, table: Table, stack: ExitStack) -> None:
        try:
            if self.has(table):  # its name is random, so it is the one just made
                raise DemoError(
                    f"Both URLs lead to the same database, {self.shown}. Give a second, empty one "
                    "for the read-only copy."
                )
            stack.callback(self.drop, table)  # before it is there: Ctrl-C may come any time
            with self.plain.begin() as connection:
                table.create(connection)
                connection.execute(insert(table).values(id=_MARKER, note=self.name))
        except SQLAlchemyError as error:
            raise DemoError(
                f"The {self.name} database {self.shown} can't be prepared: {self._said(error)}. "
                "The demo must be able to connect, and to create a table of its own there."
            ) from None

    def ids(self, table: Table) -> frozenset[int]:
        try:
            with self.plain.connect() as connection:
                found = connection.scalars(select(table.c.id).where(table.c.id != _MARKER))
                return frozenset(found)
        except SQLAlchemyError as error:
            raise DemoError(
                f"What came of it can't be read from the {self.name} database {self.shown}: "
                f"{self._said(error)}. Was it taken away meanwhile? Run the demo again."
            ) from None

    def has(self, table: Table) -> bool:
        with self.plain.connect() as connection:
            return inspect(connection).has_table(table.name)

    def drop(self, table: Table) -> None:
        try:
            with self.plain.begin() as connection:
                table.drop(connection, checkfirst=True)
        except SQLAlchemyError as error:
            raise DemoError(
                f"The demo's table {table.name} is left in the {self.name} database {self.shown}: "
                f"{self._said(error)}. Drop it yourself."
            ) from None

    def _said(self, error: SQLAlchemyError) -> str:
        """Return the first line of what the driver said, without passwords."""
        said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        return self.hide(said.splitlines()[0].rstrip(".") if said else type(error).__name__)

    def hide(self, line: str) -> str:
        query = self.url.query
        for secret in (self.url.password, *(query[key] for key in query if "pass" in key)):
            if secret:
                line = line.replace(str(secret), "***")
        return line


# -- the application -------------------------------------------------------------------------


@dataclass
class _Tally:
    """What one thread saw."""

    reads: int = 0
    committed: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    failed_reads: list[str] = field(default_factory=list)
    failed_writes: list[str] = field(default_factory=list)
    transactions: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    under_way: int = 0
    settled: Counter[tuple[int, str, str]] = field(default_factory=Counter)


class _Worker(threading.Thread):
    """A thread of the application: it reads, or it writes, and knows nothing of modes."""

    def __init__(
        self,
        number: int,
        session: sessionmaker[RoutingSession],
        model: Any,
        operator: _Operator,
        *,
        writes: bool,
    ) -> None:
        kind = "writer" if writes else "reader"
        super().__init__(name=f"sa-readonly-demo-{kind}-{number}", daemon=True)
        self.tally = _Tally()
        self.writes = writes
        self._session = session
        self._model = model
        self._which = select(model.note).where(model.id == _MARKER)
        self._newest = select(model).order_by(model.id.desc()).limit(10)
        self._operator = operator
        self._ids = count(number * _PER_THREAD)
        self._reached: list[str] = []  # what each statement of a transaction found

    def run(self) -> None:
        while not self._operator.stop.is_set():
            began = self._operator.stage
            settled = time.monotonic() >= began[1]
            self._reached = []
            kind = self._write() if self.writes else self._read()
            now = self._operator.stage
            tally = self.tally
            databases = set(self._reached)
            tally.mixed += len(databases) > 1
            tally.under_way += now[0] != began[0]
            for database in databases:
                tally.transactions[database] += 1
            if settled and now is began:
                for database in databases or {""}:
                    tally.settled[began[0], kind, database] += 1

    def _ask(self, session: RoutingSession) -> None:
        self._reached.append(str(session.scalar(self._which)))

    def _pause(self) -> None:
        self._operator.stop.wait(_PAUSE)

    def _read(self) -> str:
        try:
            with self._session.begin() as session:
                self._ask(session)
                self._pause()
                session.scalars(self._newest).all()
                self._ask(session)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what the report is about
            self.tally.failed_reads.append(_told(error))
            self._pause()
            return "failed"
        self.tally.reads += 1
        return "read"

    def _write(self) -> str:
        number = next(self._ids)
        read_first = number % 2 == 0
        if not read_first:
            self._pause()
        try:
            with self._session.begin() as session:
                if read_first:
                    self._ask(session)
                    self._pause()
                session.add(self._model(id=number, note="a write"))
                session.flush()
                if not read_first:
                    self._ask(session)
                self._ask(session)
        except ReadOnlyError:
            self.tally.refused.add(number)
            return "refused"
        except Exception as error:  # noqa: BLE001  # as above
            self.tally.failed_writes.append(_told(error))
            self._pause()
            return "failed"
        self.tally.committed.add(number)
        return "committed"


def _told(error: Exception) -> str:
    # The first line of SQLAlchemy's text; the others have the parameters and a link.
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}"


def _end(workers: list[_Worker], operator: _Operator) -> None:
    operator.stop.set()
    end = time.monotonic() + _PATIENCE
    for worker in workers:
        if worker.ident is None:  # never started: the start of another one failed
            continue
        worker.join(max(0.0, end - time.monotonic()))
        if worker.is_alive():
            failed = worker.tally.failed_writes if worker.writes else worker.tally.failed_reads
            failed.append(f"{worker.name} did not end within {_PATIENCE:.0f} s")


def _total(workers: list[_Worker]) -> _Tally:
    total = _Tally()
    for tally in (worker.tally for worker in workers):
        total.reads += tally.reads
        total.committed |= tally.committed
        total.refused |= tally.refused
        total.failed_reads += tally.failed_reads
        total.failed_writes += tally.failed_writes
        total.transactions += tally.transactions
        total.mixed += tally.mixed
        total.under_way += tally.under_way
        total.settled += tally.settled
    return total


# -- the operator ----------------------------------------------------------------------------


class _Operator:
    """Creates the file and removes it, with a switch that the application does not know."""

    def __init__(self, file: str, ttl: float) -> None:
        self._switch = FileSwitch(file)
        self._ttl = ttl
        self.stop = threading.Event()
        self.acts: list[float] = []  # when the file was surely there, and surely gone
        # The phase, and the time from which nobody may act by the one before. One tuple, so that
        # a thread reads both at once.
        self.stage = (0, time.monotonic())
        self.started = time.monotonic()

    def work(self, seconds: float, watch: Callable[[], None]) -> None:
        """Go through the phases; a third of the time each."""
        self.started = time.monotonic()
        self._wait(seconds / 3, watch)
        self._act(partial(self._switch.enable, reason="sa-readonly demo"))
        self._wait(seconds * 2 / 3, watch)
        self._act(self._switch.disable)
        self._wait(seconds, watch)

    def _act(self, act: Callable[[], object]) -> None:
        phase = self.stage[0] + 1
        self.stage = (phase, math.inf)
        act()
        done = time.monotonic()
        self.acts.append(done)
        self.stage = (phase, done + self._ttl)

    def _wait(self, until: float, watch: Callable[[], None]) -> None:
        while (left := self.started + until - time.monotonic()) > 0:
            watch()
            self.stop.wait(min(left, _TICK))


def _progress(
    workers: list[_Worker],
    operator: _Operator,
    seconds: float,
    watch: Callable[[Progress], object] | None,
) -> None:
    if watch is None:
        return
    tallies = [worker.tally for worker in workers]
    watch(
        Progress(
            elapsed=min(time.monotonic() - operator.started, seconds),
            seconds=seconds,
            phase=operator.stage[0],
            transactions={
                name: sum(tally.transactions[name] for tally in tallies) for name in PHASES[:2]
            },
            committed=sum(len(tally.committed) for tally in tallies),
            refused=sum(len(tally.refused) for tally in tallies),
            failed=sum(len(tally.failed_reads) + len(tally.failed_writes) for tally in tallies),
        )
    )


def _latencies(acts: list[float], noticed: list[tuple[str, float]]) -> tuple[float | None, ...]:
    """Return the seconds from each act to its flip, None for all if they are not one to one."""
    if [mode for mode, _ in noticed] != list(PHASES[1:]):
        return (None,) * len(acts)
    # It may be noticed while the operator still waits for the disk.
    return tuple(max(0.0, when - act) for act, (_, when) in zip(acts, noticed, strict=True))


# -- the judgement ---------------------------------------------------------------------------


def _judge(outcome: Outcome) -> list[Check]:
    written = outcome.in_read_write & outcome.committed
    strange = outcome.in_read_write - outcome.committed
    astray = outcome.in_read_only
    refused_there = outcome.refused & (outcome.in_read_write | outcome.in_read_only)
    transactions = sum(outcome.transactions.values())
    checks = [
        Check(
            "Every committed write is in the read-write database, and nothing else.",
            written == outcome.committed and not strange,
            f"{len(written)} of {len(outcome.committed)}" + _others(len(strange), "not committed"),
        ),
        Check("No write is in the read-only database.", not astray, f"{len(astray)} found"),
        Check(
            "No read failed.",
            not outcome.failed_reads,
            f"{len(outcome.failed_reads)} of {outcome.reads + len(outcome.failed_reads)}"
            + _first(outcome.failed_reads),
        ),
        Check(
            "Every write that was not committed raised ReadOnlyError, and wrote nothing.",
            not outcome.failed_writes and not refused_there,
            f"{len(outcome.refused)} of {len(outcome.refused) + len(outcome.failed_writes)}"
            + _others(len(refused_there), "written all the same")
            + _first(outcome.failed_writes),
        ),
        Check(
            "No transaction used two databases.",
            not outcome.mixed,
            f"{outcome.mixed} of {transactions}; a flip caught {outcome.under_way} half-way",
        ),
        *(_phase(outcome, phase) for phase in range(len(PHASES))),
    ]
    for what, seconds in zip(("appear", "go"), outcome.noticed, strict=True):
        checks.append(
            Check(
                f"The file was seen to {what}.",
                seconds is not None and seconds <= outcome.ttl + _SLACK,
                f"after {seconds * 1000:.0f} ms (ttl is {outcome.ttl * 1000:.0f} ms)"
                if seconds is not None
                else "not once",
            )
        )
    return checks


def _phase(outcome: Outcome, phase: int) -> Check:
    """Judge what the transactions of a phase reached, and whether there were enough of them."""
    mode = PHASES[phase]
    name = (
        "Until the file appeared, every transaction was read-write.",
        "From ttl after it appeared until it went, every transaction was read-only.",
        "From ttl after it was gone, every transaction was read-write.",
    )[phase]
    write = "refused" if mode == READ_ONLY else "committed"
    of_phase = [(key, number) for key, number in outcome.settled.items() if key[0] == phase]
    reads = sum(number for (_, kind, _), number in of_phase if kind == "read")
    writes = sum(number for (_, kind, _), number in of_phase if kind == write)
    # A write that was refused before any statement was sent has reached no database.
    right = sum(
        number
        for (_, kind, database), number in of_phase
        if kind in ("read", write) and (database == mode or (kind == "refused" and not database))
    )
    total = sum(number for _, number in of_phase)
    numbers = f"{right} of {total}: {reads} reads, {writes} writes {write}"
    if min(reads, writes) < _ENOUGH:
        return Check(name, False, f"{numbers}; each must be at least {_ENOUGH} to tell")
    return Check(name, right == total, numbers)


def _others(number: int, what: str) -> str:
    return f", {number} {what}" if number else ""


def _first(failures: tuple[str, ...]) -> str:
    return f"; the first: {failures[0]}" if failures else ""
