"""Threads under load on PostgreSQL, through a flip: what they notice, and when it is over."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from sqlalchemy import URL, Engine, create_engine, select
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.measure import Tables, main
from benchmarks.transaction import Base, Row, postgresql
from sa_readonly import EngineSelector, FileSwitch, Mode, ReadOnlyError, RoutingSession, State

THREADS = 32
THINKING = 0.02  # seconds between two transactions of a thread: people don't ask all the time
TTL = 0.1
READ_WRITE = "benchmark of the flip: read-write"
HERE = "benchmark of the flip: the watch"


class Done(NamedTuple):
    """A transaction; times are those of time.monotonic()."""

    begin: float
    end: float
    write: bool
    failed: bool


class Load:
    """Threads that read, and write a row in every fourth transaction, until they are stopped."""

    def __init__(self, sessions: Callable[[], Session]) -> None:
        self.sessions = sessions
        self.done: list[list[Done]] = [[] for _ in range(THREADS)]
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in range(THREADS)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def run(self, number: int) -> None:
        done = self.done[number]
        while not self.stopped.wait(THINKING):
            begin, write, failed = time.monotonic(), len(done) % 4 == number % 4, False
            try:
                with self.sessions() as session, session.begin():
                    session.execute(select(Row.id).limit(1)).all()
                    if write:
                        session.add(Row())
            except ReadOnlyError:
                failed = not write  # a write is refused as it should be
            except Exception:  # noqa: BLE001  # it is counted, whatever it is
                failed = True
            done.append(Done(begin, time.monotonic(), write, failed))

    def between(self, begin: float, end: float) -> list[Done]:
        return [one for done in self.done for one in list(done) if begin <= one.begin < end]


class Watch:
    """When the last read-write connection was gone at the server."""

    def __init__(self, engine: Engine) -> None:
        self.connection = engine.raw_connection()
        driver_connection: Any = self.connection.driver_connection
        driver_connection.autocommit = True

    def gone(self, bound: float = 30.0) -> float:
        end = time.monotonic() + bound
        with closing(self.connection.cursor()) as cursor:
            while time.monotonic() < end:
                cursor.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE application_name = %s LIMIT 1",
                    (READ_WRITE,),
                )
                if cursor.fetchone() is None:
                    return time.monotonic()
        raise TimeoutError(f"After {bound} s there is still a read-write connection.")


def _measure(url: URL, path: str, flips: int, second: float) -> Tables:
    """Flip so often; ``second`` is how long each of the three phases is looked at."""
    sizes = {"pool_size": THREADS, "max_overflow": 0}
    with ExitStack() as stack:

        def engine(**more: Any) -> Engine:
            made = create_engine(url, **more)
            stack.callback(made.dispose)
            return made

        read_write = engine(connect_args={"application_name": READ_WRITE}, **sizes)
        read_only = engine(**sizes)
        Base.metadata.create_all(read_only)
        watch = Watch(engine(connect_args={"application_name": HERE}))
        switch = FileSwitch(path, ttl=TTL)
        told: list[float] = []

        def gate(state: State) -> None:
            if state.read_only:
                told.append(time.monotonic())

        # Before the selector's: from here on nothing begins, while its pool is still being closed.
        stack.callback(switch.subscribe(gate, lambda _old, _new: None))
        selector = stack.enter_context(
            EngineSelector(switch, read_write=read_write, read_only=read_only)
        )
        load = stack.enter_context(Load(sessionmaker(selector, class_=RoutingSession)))
        pause = threading.Event()
        noticed, gone = [], []
        phases: dict[str, list[Done]] = {"before": [], "in": [], "after": []}
        for turn in range(flips + 1):
            pause.wait(second)
            at = time.monotonic()
            with open(path, "w", encoding="utf-8"):
                pass
            closed = watch.gone()
            pause.wait(max(0.0, at + second - time.monotonic()))
            last = max(
                (one.end for one in load.between(at - 5, told[-1]) if one.write), default=told[-1]
            )
            pause.wait(second)
            if turn:  # the first one warms up: both pools fill
                noticed.append(told[-1] - at)
                gone.append(closed - max(told[-1], last))
                phases["before"] += load.between(at - second, at)
                phases["in"] += load.between(at, at + second)
                phases["after"] += load.between(at + second, at + 2 * second)
            os.unlink(path)
            selector.wait_until(Mode.READ_WRITE, timeout=10)
        title = f"{flips} flips under {THREADS} threads, PostgreSQL"
        return {
            f"{title}: reads": {
                f"the second {name}": _latencies([one for one in phase if not one.write])
                for name, phase in phases.items()
            },
            f"{title}: when": {
                f"noticed after (ttl {TTL * 1e3:.0f} ms)": _spread(noticed),
                "old connections gone after the last read-write end": _spread(gone),
            },
        }


def _latencies(reads: list[Done]) -> dict[str, float]:
    return {
        "reads": float(len(reads)),
        **_spread([one.end - one.begin for one in reads]),
        "failed": float(sum(one.failed for one in reads)),
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    if len(seconds) == 1:
        seconds = seconds * 2
    parts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50 ms": parts[49] * 1e3, "p99 ms": parts[98] * 1e3, "max ms": max(seconds) * 1e3}


def run(rounds: int) -> Tables:
    with tempfile.TemporaryDirectory() as directory, postgresql() as server:
        if server is None:
            return {}
        path = os.path.join(directory, "read-only.txt")
        return _measure(
            server.engine().url, path, flips=max(1, 2 * rounds // 3), second=min(1.0, rounds / 5)
        )


if __name__ == "__main__":
    main(run)
