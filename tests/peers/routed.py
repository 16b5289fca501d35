"""A pytest plugin: the tests of another project run with `RoutingSession` in place of `Session`.

Each engine that a session is bound to is given to a selector, so that its transactions are pinned
and it is guarded. What failed, and how many transactions were pinned, is written for `run.py`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import flask_sqlalchemy
import pytest
from sqlalchemy import Engine, create_engine, event, orm
from sqlalchemy.ext import asyncio as sa_asyncio

import sa_readonly
from sa_readonly import EngineSelector, RoutingSession, session
from sa_readonly.checks import holds_database
from sa_readonly.contrib import flask_sqlalchemy as our_flask_sqlalchemy

PLACE = tempfile.TemporaryDirectory(prefix="peers-")
FILE = Path(PLACE.name) / "read-only.txt"
PLAIN = "PEERS_PLAIN" in os.environ  # nothing is replaced: what fails then is not of our making
# SQLAlchemy puts the driver's and the server's version behind the name of a class of tests.
VERSION = re.compile(r"_(sqlite|postgresql)\+[^:\[]*")

failed: dict[str, str] = {}
passed: list[str] = []
pinned: list[int] = []  # the transactions


def select(bind: Any) -> Any:
    """The selector of an engine; anything else, a connection among them, is left as it is."""
    if not isinstance(bind, Engine | sa_asyncio.AsyncEngine):
        return bind
    engine = getattr(bind, "sync_engine", bind)
    kept = engine.__dict__  # on the engine, so that both go at the same time
    kind = "peers_sync" if bind is engine else "peers_async"
    if kind not in kept:
        other = None
        if holds_database(engine):  # of a database in memory there is no twin
            make = create_engine if bind is engine else sa_asyncio.create_async_engine
            other = make(engine.url)
        kept[kind] = EngineSelector(
            FILE, read_write=bind, read_only=other, watch=False, workers=False
        )
    return kept[kind]


def select_all(binds: Any) -> Any:
    return binds and {key: select(bind) for key, bind in binds.items()}


class Routed(RoutingSession):
    def __init__(self, bind: Any = None, *, binds: Any = None, **kwargs: Any) -> None:
        super().__init__(select(bind), binds=select_all(binds), **kwargs)

    def bind_mapper(self, mapper: Any, bind: Any) -> None:
        super().bind_mapper(mapper, select(bind))

    def bind_table(self, table: Any, bind: Any) -> None:
        super().bind_table(table, select(bind))


class Flask(our_flask_sqlalchemy.SQLAlchemy):
    def _make_engine(self, *args: Any) -> Any:
        engine = super()._make_engine(*args)
        self.selectors[engine] = select(engine)
        return engine


def install() -> None:
    """Put what is ours where theirs is looked up."""
    orm.Session = Routed
    orm.scoped_session = sa_readonly.scoped_session
    orm.sessionmaker.__init__.__kwdefaults__["class_"] = Routed
    into_async_session(sa_asyncio.AsyncSession)
    sa_asyncio.async_scoped_session = sa_readonly.async_scoped_session
    flask_sqlalchemy.SQLAlchemy = Flask
    flask_sqlalchemy.session.Session = our_flask_sqlalchemy.RoutedSession


def into_async_session(cls: Any) -> None:
    """Give selectors to AsyncSession itself: other modules have imported it by its name."""

    def chosen(bind: Any) -> Any:
        # a sync engine is refused, as it would be without us
        return select(bind) if isinstance(bind, sa_asyncio.AsyncEngine) else bind

    init = cls.__init__

    def __init__(self: Any, bind: Any = None, *, binds: Any = None, **kwargs: Any) -> None:  # noqa: N807  # it becomes one
        binds = binds and {key: chosen(one) for key, one in binds.items()}
        init(self, chosen(bind), binds=binds, **kwargs)

    cls.__init__ = __init__
    cls.sync_session_class = Routed
    for name in {"bind_mapper", "bind_table"} & vars(cls).keys():  # of 2.1
        bound = getattr(cls, name)
        setattr(cls, name, lambda self, key, bind, bound=bound: bound(self, key, chosen(bind)))


def listen() -> None:
    """Put our listeners back: SQLAlchemy's fixtures clear all listeners of sessions."""
    for name, listener, options in (
        ("after_begin", session._pin_mode, {"insert": True}),
        ("before_flush", session._refuse_flush, {}),
        ("after_begin", count, {}),
    ):
        if not event.contains(RoutingSession, name, listener):
            event.listen(RoutingSession, name, listener, propagate=True, **options)


def count(session: Any, transaction: Any, connection: Any) -> None:
    """Count the root transactions that a mode is pinned to."""
    if not transaction.nested and getattr(transaction, "_sa_readonly_pin", None):
        pinned.append(1)


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
    found = {"passed": passed, "failed": failed, "pinned": len(pinned)}
    Path(os.environ["PEERS_RESULT"]).write_text(json.dumps(found))
