"""How the cost grows with sessions, threads, workers and time."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import sessionmaker

from benchmarks.measure import Rows, Tables, Work, compare, main
from benchmarks.transaction import STATEMENT, Database, Plain, reading, sqlite
from sa_readonly import FileSwitch, Mode, RoutingSession
from sa_readonly.command.waiting import WorkersWait
from sa_readonly.workers import status
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import Report

TRANSACTIONS = 1_000_000


def _sessions(routed: Any, rounds: int) -> Rows:
    """One transaction in each of many sessions that stay open, in turn."""

    def work(count: int) -> Work:
        turns = itertools.cycle([routed() for _ in range(count)])

        def transactions(number: int) -> None:
            for session in itertools.islice(turns, number):
                session.execute(STATEMENT).all()
                session.rollback()

        return transactions

    contenders = {f"{count} sessions": work(count) for count in (1, 10, 100, 1000)}
    return compare(contenders, number=100, rounds=3 * rounds)


def _threads(plain: Any, routed: Any, rounds: int) -> Rows:
    """Microseconds a transaction, on the wall's clock, where all threads do the same."""

    def taken(factory: Any, count: int) -> float:
        number = max(1, 20 * rounds // count)
        work = reading(factory, 1)
        threads = [threading.Thread(target=work, args=(number,)) for _ in range(count)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - begin) / (number * count) * 1e6

    rows: Rows = {}
    for count in (1, 4, 16, 64):
        pairs = [(taken(plain, count), taken(routed, count)) for _ in range(5)]
        ratios = sorted(after / before for before, after in pairs)
        rows[f"{count} threads"] = {
            "Session us": sorted(before for before, _ in pairs)[2],
            "Routing us": sorted(after for _, after in pairs)[2],
            "ratio": ratios[2],
        }
    return rows


def _workers(directory: str, rounds: int) -> Rows:
    """What ``sa-readonly status`` and one look of ``wait`` take, without starting Python."""
    rows: Rows = {}
    # to register 500 takes longer than to ask them; what only shows that it runs asks fewer
    for count in (1, 10, 100, 500) if rounds > 2 else (1, 10):
        path = os.path.join(directory, f"{count}.txt")
        switch = FileSwitch(path, ttl=0)
        switch.enable("benchmark")
        registry = DirectoryRegistry(f"{path}.workers")
        generation = switch.identify()
        report = Report(Mode.READ_ONLY, generation, checked=time.time(), watching=True)
        with ExitStack() as stack:
            for _ in range(count):
                entry = registry.register(switch.identify)
                stack.callback(entry.close)
                entry.closed()
                entry.report(partial(_same, report))
            taken: dict[str, list[float]] = {"status": [], "wait": []}
            for _ in range(max(2, rounds // 5)):
                begin = time.perf_counter()
                text = status.take(switch, registry).as_text()
                middle = time.perf_counter()
                progress = WorkersWait(switch.identify, registry).round()
                taken["status"].append(middle - begin)
                taken["wait"].append(time.perf_counter() - middle)
            if f"drained: {count}\n" not in text or not progress.drained:
                raise RuntimeError(f"Of {count} workers not all were found drained: {progress}")
        rows[f"{count} workers"] = {
            f"{name} ms": sorted(seconds)[len(seconds) // 2] * 1e3
            for name, seconds in taken.items()
        }
    return rows


def _same(report: Report) -> Report:
    return report


def _leaks(routed: Any, transactions: int) -> Rows:
    """What many transactions leave behind."""
    work = reading(routed, 1)
    work(transactions // 50 + 1000)  # caches fill
    gc.collect()
    before, blocks = _held(), sys.getallocatedblocks()
    work(transactions)
    gc.collect()
    after = _held()
    return {
        f"{transactions} transactions": {
            "KiB more": (after[0] - before[0]) / 1024,
            "blocks more": float(sys.getallocatedblocks() - blocks),
            "descriptors more": float(after[1] - before[1]),
            "threads more": float(after[2] - before[2]),
        }
    }


def _held() -> tuple[int, int, int]:
    """Bytes, descriptors and threads; the first two where the system tells."""
    statm, descriptors = Path("/proc/self/statm"), "/proc/self/fd"
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    opened = len(os.listdir(descriptors)) if os.path.isdir(descriptors) else 0
    return pages * os.sysconf("SC_PAGE_SIZE"), opened, threading.active_count()


def _routed(database: Database, directory: str) -> Any:
    selector = database.selector(os.path.join(directory, "read-only.txt"))
    return sessionmaker(selector, class_=RoutingSession)


def run(rounds: int) -> Tables:
    with tempfile.TemporaryDirectory() as directory, sqlite() as database:
        plain = sessionmaker(database.engine(), class_=Plain)
        routed = _routed(database, directory)
        return {
            "Sessions that stay open, SQLite": _sessions(routed, rounds),
            "Threads, SQLite": _threads(plain, routed, rounds),
            "Workers in the directory": _workers(directory, rounds),
            "What transactions leave behind": _leaks(
                routed, min(TRANSACTIONS, rounds**2 * TRANSACTIONS // 900)
            ),
        }


if __name__ == "__main__":
    main(run)
