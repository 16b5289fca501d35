"""A pytest plugin: the tests of another project run with `RoutingSession` in the place of `Session`.

Each engine that a session is bound to is given to a selector, so that its transactions are pinned and it
is guarded. What failed, and how many transactions were pinned, is written where `run.py` reads it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

PLACE = tempfile.TemporaryDirectory(prefix="peers-")
FILE = Path(PLACE.name) / "read-only.txt"
PLAIN = "PEERS_PLAIN" in os.environ  # nothing is replaced: what fails then is not of our making
RESULT = os.environ.get("PEERS_RESULT")
# SQLAlchemy puts the driver's and the server's version behind the name of a class of tests.
VERSION = re.compile(r"_(sqlite|postgresql)\+[^:\[]*")

pinned = 0
passed: list[str] = []
failed: dict[str, str] = {}


def select(bind: Any) -> Any:
    """The selector of an engine; of a connection, itself, with its engine guarded."""
    from sqlalchemy import Connection, Engine, create_engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

    from sa_readonly import EngineSelector
    from sa_readonly.checks import holds_database

    if isinstance(bind, Connection | AsyncConnection):
        return bind
    if not isinstance(bind, Engine | AsyncEngine):
        return bind
    engine = getattr(bind, "sync_engine", bind)
    kept = engine.__dict__
    kind = "peers_async" if isinstance(bind, AsyncEngine) else "peers_sync"
    if kind not in kept:
        other = None
        if holds_database(engine):  # of a database in memory there can be no second engine
            make = create_async_engine if kind == "peers_async" else create_engine
            other = make(engine.url)
        kept[kind] = EngineSelector(
            FILE, read_write=bind, read_only=other, watch=False, workers=False
        )
    return kept[kind]


def install() -> None:
    """Put `RoutingSession`, and the scoped sessions that go with it, where theirs are looked up."""
    from sqlalchemy import orm
    from sqlalchemy.ext import asyncio as sa_asyncio

    import sa_readonly

    class Routed(sa_readonly.RoutingSession):
        def __init__(self, bind: Any = None, *, binds: Any = None, **kwargs: Any) -> None:
            binds = binds and {key: select(one) for key, one in binds.items()}
            super().__init__(select(bind), binds=binds, **kwargs)

        def bind_mapper(self, mapper: Any, bind: Any) -> None:
            super().bind_mapper(mapper, select(bind))

        def bind_table(self, table: Any, bind: Any) -> None:
            super().bind_table(table, select(bind))

    into_flask()
    orm.Session = Routed
    orm.scoped_session = sa_readonly.scoped_session
    orm.sessionmaker.__init__.__kwdefaults__["class_"] = Routed
    into_async_session(sa_asyncio)
    sa_asyncio.AsyncSession.sync_session_class = Routed
    sa_asyncio.async_scoped_session = sa_readonly.async_scoped_session


def into_async_session(sa_asyncio: Any) -> None:
    """Give selectors to AsyncSession itself: other modules have imported it by its name."""
    session = sa_asyncio.AsyncSession

    def chosen(bind: Any) -> Any:
        # an Engine is refused, as it would be without us
        return select(bind) if isinstance(bind, sa_asyncio.AsyncEngine) else bind

    init = session.__init__

    def __init__(self: Any, bind: Any = None, *, binds: Any = None, **kwargs: Any) -> None:  # noqa: N807
        binds = binds and {key: chosen(one) for key, one in binds.items()}
        init(self, chosen(bind), binds=binds, **kwargs)

    session.__init__ = __init__
    for name in {"bind_mapper", "bind_table"} & vars(session).keys():  # of 2.1
        bound = getattr(session, name)
        setattr(session, name, lambda self, key, bind, bound=bound: bound(self, key, chosen(bind)))


def into_flask() -> None:
    """Put our Flask-SQLAlchemy in the place of theirs, with a selector for each of its engines.

    It comes before orm.Session is replaced: the class that it has for a Session is derived from that.
    """
    import flask_sqlalchemy

    from sa_readonly.contrib import flask_sqlalchemy as ours

    class SQLAlchemy(ours.SQLAlchemy):
        def _make_engine(self, *args: Any) -> Any:
            engine = super()._make_engine(*args)
            self.selectors[engine] = select(engine)
            return engine

    flask_sqlalchemy.SQLAlchemy = SQLAlchemy
    flask_sqlalchemy.session.Session = ours.RoutedSession


def listen() -> None:
    """Put our listeners back: SQLAlchemy's fixtures clear all listeners of sessions."""
    from sqlalchemy import event

    from sa_readonly import RoutingSession, session

    for name, listener, options in (
        ("after_begin", session._pin_mode, {"insert": True}),
        ("before_flush", session._refuse_flush, {}),
        ("after_begin", count, {}),
    ):
        if not event.contains(RoutingSession, name, listener):
            event.listen(RoutingSession, name, listener, propagate=True, **options)


def count(session: Any, transaction: Any, connection: Any) -> None:
    """Count the root transactions that a mode is pinned to."""
    global pinned
    pinned += bool(not transaction.nested and getattr(transaction, "_sa_readonly_pin", None))


import sqlalchemy.orm  # noqa: E402, F401  # before a directory of tests of that name can be taken for it

if not PLAIN:
    install()  # before a module of theirs imports what is replaced


def pytest_collection_finish() -> None:
    """Give SQLAlchemy's engines to selectors while there is nothing in their databases.

    A fixture of theirs removes a SQLite file when an engine of it is disposed of, which happens to
    an engine that is given to a selector.
    """
    testing = sys.modules.get("sqlalchemy.testing.config")
    for one in () if testing is None or PLAIN else testing.Config.all_dbs():
        select(one)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    if not PLAIN:
        listen()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    if not PLAIN:
        listen()


def pytest_runtest_logreport(report: Any) -> None:
    name = VERSION.sub("", report.nodeid)
    if report.failed:
        failed[name] = str(report.longrepr)
    elif report.when == "call" and report.passed:
        passed.append(name)


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        failed[report.nodeid] = str(report.longrepr)


def pytest_sessionfinish() -> None:
    if RESULT:
        Path(RESULT).write_text(json.dumps({"passed": passed, "failed": failed, "pinned": pinned}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"pinned: {pinned} transactions")
