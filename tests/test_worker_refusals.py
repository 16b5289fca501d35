"""This process as a worker: what it refused is counted and reported by kind."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, text
from sqlalchemy.pool import NullPool

from sa_readonly import EngineSelector, FixedSwitch, Mode, ReadOnlyError, refusals
from sa_readonly.workers.protocol import Connections
from tests.app import WHICH, App, Book, make_app
from tests.postgres import wait_until
from tests.test_watcher import in_child
from tests.worker_app import lite, one, read, unusable

__all__ = ["lite"]  # a fixture


def test_a_refusal_inside_a_refusal_is_counted(lite: App) -> None:
    lite.on()
    lite.start()
    before = signal.signal(signal.SIGUSR1, lambda *_: refused())

    def refused() -> None:
        with pytest.raises(ReadOnlyError):
            lite.selector.require_read_write()

    try:
        with refusals._counting():
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_report_counts_what_was_refused_and_no_read(lite: App) -> None:
    lite.start()
    lite.on()

    def refuse(work: Callable[[], object]) -> None:
        with pytest.raises(ReadOnlyError):
            work()

    def flush() -> None:
        with lite.sessions.begin() as session:
            session.add(Book(title="x"))

    refuse(flush)
    refuse(lite.selector.require_read_write)
    refuse(lite.engines["rw"].connect)
    with lite.engines["ro"].connect() as connection:
        refuse(lambda: connection.execute(text("delete from book")))
    assert read(lite) == "ro"
    lite.off()
    with lite.sessions() as session:
        session.get_bind()
        lite.on()
        assert session.scalar(WHICH) == "ro"  # it had chosen the other one
    report = lite.selector._worker._report(lite.selector.switch)
    assert report.refused == 4
    assert report.kinds == dict.fromkeys(("flush", "beforehand", "connection", "statement"), 1)


def kinds(app: App, work: Callable[[], object]) -> dict[str, int]:
    """As what it is counted that this is refused."""
    before = app.selector.report().report.kinds
    with pytest.raises(ReadOnlyError):
        work()
    after = app.selector.report().report.kinds
    return {kind: number - before.get(kind, 0) for kind, number in after.items()}


def test_each_refusal_is_counted_as_its_kind(lite: App) -> None:
    lite.start(grace=0.0)

    def write(session: Any) -> None:
        session.bulk_insert_mappings(Book, [{"title": "x"}])

    with lite.sessions() as begun, lite.engines["rw"].connect() as held:
        assert begun.scalar(WHICH) == "rw"
        lite.on()
        lite.selector.check()
        assert kinds(lite, lambda: held.scalar(WHICH)) == {"transaction": 1}
        told = kinds(lite, lambda: begun.scalar(WHICH))
        assert told == {"transaction": 0, "grace": 1}
    with lite.sessions() as session:
        assert kinds(lite, lambda: write(session))["flush"] == 1
        assert kinds(lite, lambda: session.execute(insert(Book)))["statement"] == 1
        assert kinds(lite, lambda: session.execute(text("delete from book")))["statement"] == 1
    assert kinds(lite, lite.selector.require_read_write)["beforehand"] == 1
    report = lite.selector.report().report
    assert report.refused == sum(report.kinds.values()) == 6


WRITES = """
create function writes() returns int language sql as
'insert into book (title) values (''x'') returning id'
"""


def test_what_the_server_refuses_is_counted_as_that(place: Path, pg_urls: Any) -> None:
    engine = create_engine(pg_urls["ro"], isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with make_app(place, dict(pg_urls)) as app, engine.connect() as owner:
        owner.execute(text(WRITES))
        app.on()
        app.start()
        with app.sessions() as session:
            assert kinds(app, lambda: session.execute(text("select writes()"))) == {"server": 1}
        owner.execute(text("drop function writes()"))


def test_with_required_what_is_refused_is_counted_and_what_is_served_is_not(lite: App) -> None:
    lite.start(workers="required")
    with unusable(lite):
        assert kinds(lite, lite.engines["rw"].connect) == {"unregistered": 1}
        assert read(lite) == "ro"
        assert lite.selector.report().report.kinds == {"unregistered": 1}


def test_a_count_that_was_reported_does_not_fall(lite: App) -> None:
    lite.start()
    read(lite)
    switch = lite.selector.switch
    refusals.count(switch, "connection")
    assert lite.selector.report().report.refused == 1
    refusals.count(switch, "connection", -1)  # it was a read, which was served
    assert lite.selector.report().report.refused == 1
    refusals.count(switch, "connection")
    assert lite.selector.report().report.refused == 1


def test_a_child_counts_its_own_refusals(lite: App) -> None:
    lite.start()
    read(lite)
    lite.on()
    for _ in range(3):
        kinds(lite, lite.selector.require_read_write)

    def child() -> None:
        kinds(lite, lite.selector.require_read_write)
        assert lite.selector.report().report.kinds == {"beforehand": 1}

    in_child(child)


def test_the_watcher_reports_what_was_refused_without_being_asked(lite: App) -> None:
    lite.on()
    lite.start(ttl=0.02, watch=True)
    read(lite)
    for _ in range(5):
        kinds(lite, lite.selector.require_read_write)
    wait_until(lambda: one(lite).report.kinds == {"beforehand": 5}, "the report")


def test_who_has_no_watcher_tells_what_it_refused_and_holds_all_the_same(lite: App) -> None:
    rw, ro = lite.engine("rw"), lite.engine("ro")
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=rw, read_only=ro) as selector:
        with ro.connect(), pytest.raises(ReadOnlyError):
            selector.require_read_write()
        report = selector.report().report
        assert (report.refused, report.kinds) == (1, {"beforehand": 1})
        assert report.engines["read_only.primary"] == Connections(idle=1)
