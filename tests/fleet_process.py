"""One process of an application under load, without garbage collection.

`python -m tests.fleet_process DESCRIPTOR`: over that connection come its settings, then a word at a
time, each of which is answered. It notes each transaction in a file of its own.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any, TextIO

from sqlalchemy import DateTime, create_engine, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sa_readonly import EngineSelector, FileSwitch, ReadOnlyError, RoutingSession

APPLICATION = "the-fleet"
SEEDS = 100
THINKING = 0.02  # seconds; without, the load leaves no time for the operator on two cores


class Base(DeclarativeBase):
    pass


class Seed(Base):
    """What is read: as many rows in either database."""

    __tablename__ = "seed"

    id: Mapped[int] = mapped_column(primary_key=True)


class Row(Base):
    """What is written. The server itself tells where it came to, by which backend, and when."""

    __tablename__ = "load"
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012  # as SQLAlchemy takes it

    id: Mapped[str] = mapped_column(primary_key=True)
    place: Mapped[str] = mapped_column(server_default=text("current_database()"))
    backend: Mapped[int] = mapped_column(server_default=text("pg_backend_pid()"))
    written: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=text("clock_timestamp()")
    )


# -- transactions ------------------------------------------------------------------------------
#
# Each adds to `reached`, for every statement, the database and the backend that answered it.

Reached = set[tuple[str, int]]
WHERE = select(func.current_database(), func.pg_backend_pid(), func.count(Seed.id))


def look(session: Session, reached: Reached) -> None:
    place, backend, count = session.execute(WHERE).one()
    reached.add((place, backend))
    assert count == SEEDS


def add(session: Session, name: str, reached: Reached) -> None:
    row = Row(id=name)
    session.add(row)
    session.flush()
    reached.add((row.place, row.backend))


def read(sessions: Any, _name: str, reached: Reached) -> None:
    with sessions() as session:
        look(session, reached)
        look(session, reached)


def read_from_the_replica(sessions: Any, _name: str, reached: Reached) -> None:
    with sessions(role="replica") as session:
        look(session, reached)
        look(session, reached)


def write(sessions: Any, name: str, reached: Reached) -> None:
    with sessions.begin() as session:
        add(session, name, reached)


def read_then_write(sessions: Any, name: str, reached: Reached) -> None:
    with sessions.begin() as session:
        look(session, reached)
        add(session, name, reached)
        look(session, reached)


def write_in_a_savepoint(sessions: Any, name: str, reached: Reached) -> None:
    with sessions.begin() as session:
        look(session, reached)
        with session.begin_nested():
            add(session, name, reached)


def write_by_core(sessions: Any, name: str, reached: Reached) -> None:
    with sessions.begin() as session:
        statement = insert(Row).values(id=name).returning(Row.place, Row.backend)
        reached.add(tuple(session.execute(statement).one()))


READS = (read, read_from_the_replica)
WRITES = (write, read_then_write, write_in_a_savepoint, write_by_core)
KINDS = (*READS[:1], *WRITES[:2], *READS[1:], *WRITES[2:])


# -- the process ---------------------------------------------------------------------------------


class Process:
    def __init__(self, settings: dict[str, Any]) -> None:
        options = {
            "pool_size": settings["pool_size"],
            "max_overflow": 0,
            "connect_args": {"application_name": APPLICATION},
        }
        self.name = settings["name"]
        self.notes: TextIO = open(settings["notes"], "w")  # noqa: SIM115  # until the end
        self.noting = threading.Lock()
        logging.getLogger("sa_readonly").addHandler(_Noted(self))
        logging.getLogger("sa_readonly").setLevel(logging.INFO)
        self.engines = [create_engine(settings[name], **options) for name in ("rw", "ro")]
        self.selector = EngineSelector(
            FileSwitch(settings["file"], ttl=settings["ttl"]),
            read_write=self.engines[0],
            read_only=self.engines[1],
        )
        self.sessions = sessionmaker(self.selector, class_=RoutingSession)
        self.stopping = threading.Event()
        self.changed = threading.Condition()
        self.done = [0] * settings["threads"]
        self.threads = [
            threading.Thread(target=self.work, args=(number,)) for number in range(len(self.done))
        ]
        self.held: tuple[threading.Thread, threading.Event] | None = None

    # -- what it is told

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def round(self) -> None:
        """Return when each thread has begun and ended two transactions more."""
        with self.changed:
            goals = [done + 3 for done in self.done]  # one may have begun before
            if not self.changed.wait_for(
                lambda: all(done >= goal for done, goal in zip(self.done, goals, strict=True)), 60
            ):
                raise TimeoutError(f"the threads stand still: {self.done}, not {goals}")

    def hold(self) -> None:
        """Begin a transaction in a thread of its own that goes on until it is told to end."""
        begun, release = threading.Event(), threading.Event()

        def held(sessions: Any, name: str, reached: Reached) -> None:
            with sessions.begin() as session:
                add(session, name, reached)
                begun.set()
                release.wait()
                look(session, reached)
                add(session, f"{name}-again", reached)

        thread = threading.Thread(target=self.do, args=(held, f"{self.name}-held"))
        thread.start()
        self.held = thread, release
        if not begun.wait(60):
            raise TimeoutError("the transaction to be held did not begin")

    def release(self) -> None:
        thread, release = self.held
        release.set()
        thread.join()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert not gc.isenabled()
        self.selector.close()
        for engine in self.engines:
            engine.dispose()
        self.notes.close()

    # -- what it does

    def work(self, number: int) -> None:
        count = 0
        while not self.stopping.wait(THINKING):
            self.do(KINDS[(2 * number + count) % len(KINDS)], f"{self.name}-{number}-{count}")
            count += 1
            with self.changed:
                self.done[number] += 1
                self.changed.notify_all()

    def do(self, kind: Callable[[Any, str, Reached], None], name: str) -> None:
        reached: Reached = set()
        begun, outcome = time.monotonic(), "done"
        try:
            kind(self.sessions, name, reached)
        except ReadOnlyError:
            outcome = "refused"
        except BaseException:  # noqa: BLE001  # whatever it is, it is noted
            outcome = traceback.format_exc()
        self.note(
            kind=kind.__name__,
            name=name,
            outcome=outcome,
            reached=sorted(reached),
            begun=begun,
            ended=time.monotonic(),
        )

    def note(self, **note: Any) -> None:
        line = json.dumps(note) + "\n"
        with self.noting:
            self.notes.write(line)


class _Noted(logging.Handler):
    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process

    def emit(self, record: logging.LogRecord) -> None:
        self.process.note(kind="log", level=record.levelname, message=record.getMessage())


def main() -> None:
    gc.disable()
    control = Connection(int(sys.argv[1]))
    process = Process(control.recv())
    control.send("ready")
    word = ""
    while word != "stop":
        word = control.recv()
        try:
            getattr(process, word)()
        except BaseException:
            control.send(traceback.format_exc())
            raise
        control.send("ok")


if __name__ == "__main__":
    main()
