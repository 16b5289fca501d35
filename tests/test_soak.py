"""What many transactions leave behind: nothing."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, delete
from sqlalchemy.orm import sessionmaker

from sa_readonly import EngineSelector, RoutingSession
from sa_readonly.workers.directory import DirectoryRegistry
from tests.app import WHICH, Book, fill, once, opened, sqlite_urls

TRANSACTIONS = 100_000
BATCH = 2_000  # transactions between two flips
GARBAGE = BATCH // 10  # objects in a batch: one for each transaction would be ten times as many
SLACK = (
    500 + TRANSACTIONS // 100
)  # blocks of memory in all: caches grow a little, whatever the number


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def held() -> Counter[str]:
    """Return the threads of this process and, where the system tells, what it has open."""
    return Counter([*(f"thread {thread.name}" for thread in threading.enumerate()), *opened()])


def resident() -> int:
    """Return how many bytes of memory this process has, where the system tells."""
    with contextlib.suppress(FileNotFoundError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def run(sessions: Any, count: int) -> None:
    for number in range(count):
        with sessions.begin() as session:
            assert session.scalar(WHICH) == "rw"
            if number % 10 == 0:
                session.add(Book(title="soaked"))
    with sessions.begin() as session:
        session.execute(delete(Book))


def flip_there_and_back(selector: EngineSelector, sessions: Any, path: Path) -> None:
    path.touch()
    assert selector.check().read_only
    with sessions() as session:
        assert session.scalar(WHICH) == "ro"
    path.unlink()
    assert not selector.check().read_only
    with sessions() as session:
        assert session.scalar(WHICH) == "rw"


@once
def test_many_transactions_leave_nothing_behind(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "sa_readonly")  # or each record would be kept
    path, urls = place / "read-only.txt", sqlite_urls(place, "rw", "ro")
    for name, url in urls.items():
        fill(url, name)
    engines = [create_engine(url) for url in urls.values()]
    with EngineSelector(path, read_write=engines[0], read_only=engines[1]) as selector:
        sessions = sessionmaker(selector, class_=RoutingSession)
        for _ in range(2):
            run(sessions, BATCH)
            flip_there_and_back(selector, sessions, path)
        gc.collect()
        blocks, memory = sys.getallocatedblocks(), resident()
        others = held()
        for _ in range(TRANSACTIONS // BATCH):
            with uncollected():
                gc.collect()  # flips leave some
                run(sessions, BATCH)
                assert gc.collect() < GARBAGE  # transactions need no collector
            flip_there_and_back(selector, sessions, path)
        gc.collect()
        assert sys.getallocatedblocks() - blocks < SLACK
        assert resident() - memory < 4 * 2**20
        assert others["thread sa_readonly"] == 1
        assert held() - others == {}
        assert len(DirectoryRegistry(f"{path}.workers").read()) == 1
    for engine in engines:
        engine.dispose()
