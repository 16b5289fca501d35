"""The application of tests/app.py on async drivers.

Its engines are those inside AsyncEngines, so that what is written for a sync application runs in a
greenlet on a loop, as AsyncSession has it run: each test in two ways, and none copied.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool
from sqlalchemy.util import greenlet_spawn

from sa_readonly import Engines, RoutingSession
from tests.app import App, fill, sqlite_urls

DRIVERS = ["asyncpg", "psycopg", "aiosqlite"]
SECONDS = 60.0  # after which what waits is stuck
MONOTONIC = time.monotonic

T = TypeVar("T")


class Complaints(logging.Handler):
    """What nobody may hear: a WARNING of asyncio, an ERROR of a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        least = logging.WARNING if record.name == "asyncio" else logging.ERROR
        if record.levelno >= least:
            self.messages.append(record.getMessage() + (record.exc_text or ""))


@contextlib.contextmanager
def no_complaints() -> Iterator[Complaints]:
    complaints = Complaints()
    loggers = [logging.getLogger(name) for name in ("asyncio", "sqlalchemy.pool", "sa_readonly")]
    for logger in loggers:
        logger.addHandler(complaints)
    try:
        yield complaints
    finally:
        for logger in loggers:
            logger.removeHandler(complaints)
    assert complaints.messages == []


class AsyncApp(App):
    """The same with AsyncEngines, and a loop of its own."""

    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, SECONDS))

    def run_sync(self, function: Callable[[], T]) -> T:
        """Call it as AsyncSession.run_sync() would."""
        return self.run(greenlet_spawn(function))

    def engine(self, name: str, **options: Any) -> Engine:
        if options.get("poolclass") in (None, QueuePool):
            options["poolclass"] = AsyncAdaptedQueuePool
        return super().engine(name, **options)

    @staticmethod
    def make_engine(url: URL, **options: Any) -> Engine:
        return create_async_engine(url, **options).sync_engine

    def async_engine(self, name: str) -> AsyncEngine:
        return AsyncEngine(self.engines[name])

    def start(self, *, ttl: float = 0.0, **options: Any) -> App:
        for mode, name in (("read_write", "rw"), ("read_only", "ro")):
            if mode not in options and name in self.urls:
                options[mode] = self.engines.get(name) or self.engine(name)
            options[mode] = as_async(options.get(mode))
        super().start(ttl=ttl, **options)
        return self

    @property
    def async_sessions(self) -> async_sessionmaker[AsyncSession]:
        return async_sessionmaker(self.selector, sync_session_class=RoutingSession)


def as_async(engines: Any) -> Any:
    if isinstance(engines, Engine):
        return AsyncEngine(engines)
    if isinstance(engines, Engines):
        return Engines(as_async(engines.primary), as_async(engines.replica))
    return engines


@contextlib.contextmanager
def make_async_app(directory: Path, urls: dict[str, URL], driver: str) -> Iterator[AsyncApp]:
    # What lives before a test begins need not be walked at its end. What is frozen is never
    # collected, so this is no moment at which the engines of a test live.
    gc.collect()
    gc.freeze()
    for name, url in urls.items():
        fill(url, name)
    backend = "sqlite" if driver == "aiosqlite" else "postgresql"
    urls = {name: url.set(drivername=f"{backend}+{driver}") for name, url in urls.items()}
    with no_complaints():
        app = AsyncApp(directory / "read-only.txt", urls)
        app.loop = asyncio.new_event_loop()
        app.loop.time = MONOTONIC  # a test may move the clock of everybody else
        app.loop.set_debug(True)
        app.loop.slow_callback_duration = 5.0  # on a busy machine a task may wait for its turn
        try:
            yield app
        finally:
            app.run_sync(app.close)
            app.loop.run_until_complete(app.loop.shutdown_asyncgens())
            app.loop.run_until_complete(app.loop.shutdown_default_executor())  # as asyncio.run()
            app.loop.close()
            gc.collect()  # a connection that was lost is told now, and of this test


@pytest.fixture(params=DRIVERS)
def async_app(request: pytest.FixtureRequest, place: Path) -> Iterator[AsyncApp]:
    """Two databases, by each async driver: nothing is started yet."""
    if request.param == "aiosqlite":
        urls = sqlite_urls(place, "rw", "ro")
    else:
        urls = dict(request.getfixturevalue("pg_urls"))
    with make_async_app(place, urls, request.param) as made:
        yield made


@pytest.fixture
def own_loop() -> None:
    """For a test that runs loops itself."""


def run_inside_a_greenlet(item: pytest.Function) -> bool | None:
    """pytest_pyfunc_call: run a test of an AsyncApp on the loop of that."""
    app = next((one for one in item.funcargs.values() if isinstance(one, AsyncApp)), None)
    if app is None or "own_loop" in item.funcargs:
        return None
    names = item._fixtureinfo.argnames
    arguments = {name: item.funcargs[name] for name in names}
    if asyncio.iscoroutinefunction(item.obj):
        app.run(item.obj(**arguments))
    else:
        app.run_sync(lambda: item.obj(**arguments))
    return True
