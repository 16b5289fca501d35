"""A worker of a fleet on etcd under load: it notes all that it does in a file of its own.

`python -m benchmarks.fleet_app SETTINGS`, which are JSON. A word on its standard input ends it.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, create_engine, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from benchmarks.history import event
from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.workers import process

FLIP = re.compile(r"sa_readonly: [\w-]+ -> ([\w-]+)")


class Base(DeclarativeBase):
    pass


class Row(Base):
    """What is written; the server keeps when it was committed."""

    __tablename__ = "load"

    id: Mapped[str] = mapped_column(primary_key=True)
    written: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=text("clock_timestamp()")
    )


Place = tuple[str, int]
WHERE = select(func.current_database(), func.pg_backend_pid())


class Worker:
    """One process: some threads that read and write, each after a pause for thought."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.name: str = settings["name"]
        host: str = settings["host"]
        process.host = lambda: host  # as a machine or container of this name has it
        # a line at a time, so that what was noted is there however the process ends
        self._notes = open(settings["notes"], "w", buffering=1)  # noqa: SIM115  # until the end
        self._noting = threading.Lock()
        self.note(time.monotonic(), "start", pid=os.getpid())
        logger = logging.getLogger("sa_readonly")
        logger.addHandler(_Noted(self))
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        options = {"connect_args": {"application_name": settings["application"]}}
        self.engines = [create_engine(settings[name], **options) for name in ("rw", "ro")]
        self.selector = EngineSelector(
            EtcdSwitch(settings["etcd"], key=settings["key"], ttl=settings["ttl"]),
            read_write=self.engines[0],
            read_only=self.engines[1],
        )
        self._sessions = sessionmaker(self.selector, class_=RoutingSession)
        self._thinking: float = settings["thinking"]
        self._over = threading.Event()
        self._numbers = itertools.count()
        self._threads = [
            threading.Thread(target=self._work, args=(f"{settings['seed']}/{self.name}/{number}",))
            for number in range(settings["threads"])
        ]

    def note(self, at: float, kind: str, **told: Any) -> None:
        line = event(at, self.name, kind, **told).as_line()
        with self._noting:
            self._notes.write(line)

    def run(self) -> None:
        """Work until there is a word on the standard input."""
        for thread in self._threads:
            thread.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.selector.close()
        for engine in self.engines:
            engine.dispose()

    def _work(self, seed: str) -> None:
        choose = random.Random(seed)  # what is done is the same in each run of the seed
        while not self._over.wait(choose.uniform(0, 2 * self._thinking)):
            kind = choose.choice((self._read, self._write, self._read_and_write))
            self._do(kind, f"{self.name}-{next(self._numbers)}")

    def _do(self, kind: Callable[[str, set[Place]], None], name: str) -> None:
        reached: set[Place] = set()
        writes = kind != self._read
        self.note(time.monotonic(), "begin", name=name, writes=writes)
        try:
            kind(name, reached)
        except ReadOnlyError:
            self.note(time.monotonic(), "refused", name=name, reached=sorted(reached))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is noted
            said = f"{type(error).__name__}: {error}"
            self.note(time.monotonic(), "failed", name=name, error=said, why="error")
        else:
            self.note(time.monotonic(), "done", name=name, reached=sorted(reached))

    def _read(self, _name: str, reached: set[Place]) -> None:
        with self._sessions() as session:
            _where(session, reached)
            _where(session, reached)

    def _write(self, name: str, reached: set[Place]) -> None:
        with self._sessions() as session:
            session.execute(insert(Row).values(id=name))
            _where(session, reached)
            self._commit(session, name)

    def _read_and_write(self, name: str, reached: set[Place]) -> None:
        with self._sessions() as session:
            _where(session, reached)
            session.add(Row(id=name))
            session.flush()
            _where(session, reached)
            self._commit(session, name)

    def _commit(self, session: Session, name: str) -> None:
        self.note(time.monotonic(), "commit", name=name)
        session.commit()


def _where(session: Session, reached: set[Place]) -> None:
    database, backend = session.execute(WHERE).one()
    reached.add((database, backend))


class _Noted(logging.Handler):
    """Notes each flip, by the one record that each process logs of it."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        flip = FLIP.match(said)
        if flip is not None:
            self._worker.note(time.monotonic(), "flip", to=flip[1], said=said)
        else:
            self._worker.note(time.monotonic(), "log", said=f"{record.levelname}: {said}")


if __name__ == "__main__":
    Worker(json.loads(sys.argv[1])).run()
