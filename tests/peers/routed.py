"""A pytest plugin: the tests of another project run with `RoutingSession` in the place of `Session`.

Each engine that a session is bound to is given to a selector, so that its transactions are pinned and its
engine is guarded. It prints how many transactions were pinned: a run that pins none proves nothing.
"""

from __future__ import annotations

import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import pytest

PLACE = tempfile.TemporaryDirectory(prefix="peers-")
FILE = Path(PLACE.name) / "read-only.txt"
pinned = 0


def install() -> None:
    """Put `RoutingSession` where `Session` is looked up."""
    from sqlalchemy import Engine, event, orm
    from sqlalchemy.ext import asyncio as sa_asyncio

    from sa_readonly import ConfigurationError, EngineSelector, RoutingSession, session

    selectors: Any = weakref.WeakKeyDictionary()

    def select(bind: Any) -> Any:
        engine = getattr(bind, "sync_engine", bind)
        if not isinstance(engine, Engine):
            return bind
        if engine not in selectors:
            try:
                selectors[engine] = EngineSelector(
                    FILE, read_write=engine, watch=False, workers=False
                )
            except ConfigurationError:  # a database in memory has no second engine
                selectors[engine] = bind
        return selectors[engine]

    class Routed(RoutingSession):
        def __init__(self, bind: Any = None, *, binds: Any = None, **kwargs: Any) -> None:
            if binds:
                binds = {key: select(one) for key, one in binds.items()}
            super().__init__(select(bind), binds=binds, **kwargs)

        def bind_mapper(self, mapper: Any, bind: Any) -> None:
            super().bind_mapper(mapper, select(bind))

        def bind_table(self, table: Any, bind: Any) -> None:
            super().bind_table(table, select(bind))

    listeners = [
        ("after_begin", session._take_mode, {"insert": True}),
        ("before_flush", session._refuse_flush, {}),
    ]

    def count(*_: Any) -> None:
        global pinned
        pinned += 1

    def listen() -> None:
        for name, listener, options in listeners:
            if not event.contains(RoutingSession, name, listener):
                event.listen(RoutingSession, name, listener, propagate=True, **options)
        if not event.contains(RoutingSession, "after_begin", count):
            event.listen(RoutingSession, "after_begin", count, propagate=True)

    Routed.listen = staticmethod(listen)
    listen()
    testing = sys.modules.get("sqlalchemy.testing.config")
    for one in () if testing is None else testing.Config.all_dbs():
        # SQLAlchemy's own fixture removes a SQLite file when an engine of it is disposed of, which
        # happens to an engine that is given to a selector: so before there is anything in it.
        select(one)
    orm.Session = Routed
    orm.sessionmaker.__init__.__kwdefaults__["class_"] = Routed
    sa_asyncio.AsyncSession.sync_session_class = Routed
    global routed
    routed = Routed


routed: Any = None


@pytest.hookimpl(tryfirst=True)
def pytest_collectstart() -> None:
    if routed is None:
        install()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    routed.listen()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"pinned: {pinned} transactions")
