"""This process as a worker: its connections, and which keep it from being drained."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy.pool import AssertionPool, QueuePool, SingletonThreadPool, StaticPool

from sa_readonly import EngineSelector, Mode, State
from sa_readonly.engines.doors import Door
from sa_readonly.workers.protocol import Connections
from sa_readonly.workers.verdict import judge
from tests.app import WHICH, App
from tests.worker_app import lite, one, read, registry, unusable, verdict, whys

__all__ = ["lite"]  # a fixture


def test_what_was_connected_before_the_selector_was_made_counts(app: App) -> None:
    with app.engine("rw").connect() as connection:
        connection.scalar(WHICH)
        app.start()
        app.on()
        app.selector.check()
        assert whys(app) == ["1 connection out since 0 s, no watcher thread runs there"]
    app.selector.check()
    assert verdict(app).holds


@pytest.mark.parametrize("poolclass", [QueuePool, AssertionPool, SingletonThreadPool, StaticPool])
@pytest.mark.parametrize("past_the_selector", [False, True])
def test_what_had_lain_idle_before_the_selector_was_made_counts_once_it_is_used(
    app: App, poolclass: Any, past_the_selector: bool
) -> None:
    engine = app.engine("rw", poolclass=poolclass)
    engine.connect().close()
    app.start()
    with engine.connect() if past_the_selector else app.sessions() as used:
        assert used.scalar(WHICH) == "rw"
        app.on()
        app.selector.check()
        assert whys(app) == ["1 connection out since 0 s, no watcher thread runs there"]


def test_it_is_asked_whether_all_doors_are_shut_before_connections_are_counted(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start()
    read(lite)
    engine, counts, held = lite.engines["rw"], lite.selector._worker.counts, []
    engine.dispose()

    def connect_and_shut() -> None:
        held.append(engine.connect())
        for door in counts.doors:
            door.shut("a test")

    between = [connect_and_shut]

    def then(asked: Any) -> property:
        def ask(door: Door) -> Any:
            found = asked.fget(door)
            if between:
                between.pop()()
            return found

        return property(ask)

    for name in ("is_shut", "connections"):
        monkeypatch.setattr(Door, name, then(vars(Door)[name]))
    assert counts.connections(State(Mode.READ_ONLY)) == (False, 1)
    assert counts.connections(State(Mode.READ_ONLY)) == (True, 1)
    held[0].close()


@pytest.mark.parametrize("poolclass", [AssertionPool, SingletonThreadPool])
def test_a_pool_that_keeps_one_connection_does_not_keep_the_entry(
    lite: App, poolclass: Any
) -> None:
    lite.engine("rw", poolclass=poolclass)
    lite.start()
    read(lite)
    lite.selector.close()
    assert registry(lite).read() == []


def test_a_static_pool_that_is_no_database_in_memory_is_never_drained(lite: App) -> None:
    lite.engine("rw", poolclass=StaticPool)
    lite.start()
    read(lite)
    lite.on()
    read(lite)
    assert whys(lite) == ["1 connection out since 0 s, no watcher thread runs there"]


def test_a_selector_closed_over_a_transaction_keeps_the_other_from_being_drained(
    lite: App,
) -> None:
    lite.start()
    second = EngineSelector(lite.selector.switch, read_write=lite.engine("two"), watch=False)
    read(lite)
    with lite.engines["rw"].connect() as connection:
        connection.scalar(WHICH)
        lite.selector.close()
        lite.on()
        second.check()
        assert whys_of(lite, second) == ["has not noticed, no watcher thread runs there"]
    lite.engines["rw"].dispose()
    second.check()
    assert whys_of(lite, second) == []
    second.close()


def whys_of(app: App, selector: EngineSelector) -> list[str]:
    identify = selector.switch.identify
    return [why for _, why in judge(identify, registry(app)).waiting]


def test_a_selector_without_workers_is_not_barred_by_one_that_is_closed(lite: App) -> None:
    lite.start(workers="required")
    switch = lite.selector.switch
    with unusable(lite):
        assert read(lite) == "ro"
        lite.selector.close()
        with (
            EngineSelector(
                switch, read_write=lite.engines["rw"], workers=False, watch=False
            ) as second,
            second.engine().begin() as connection,
        ):
            assert connection.scalar(WHICH) == "rw"


def test_the_connections_of_each_engine_are_reported(lite: App) -> None:
    lite.start()
    read(lite)
    names = ["read_write.primary", "read_only.primary", "read_write.replica"]
    engines = lite.selector.report().report.engines
    assert list(engines) == names
    assert engines["read_write.primary"] == Connections(idle=1)
    with lite.sessions() as session, lite.sessions(role="replica") as replica:
        session.scalar(WHICH)
        replica.scalar(WHICH)
        report = lite.selector.report().report
        assert report.engines == {
            "read_write.primary": Connections(in_use=1),
            "read_only.primary": Connections(),
            "read_write.replica": Connections(in_use=1),
        }
        assert report.retired is None
        before = time.time()
        lite.on()
        lite.selector.check()
        report = one(lite).report
        assert report.engines["read_write.primary"] == Connections(retired=1)
        assert report.engines["read_write.replica"] == Connections(retired=1)
        assert before <= report.retired <= time.time()
        since = report.retired
        lite.off()
        with lite.sessions() as other:
            other.scalar(WHICH)
            report = lite.selector.report().report
            assert report.engines["read_write.primary"] == Connections(in_use=1, retired=1)
            assert report.retired == since
    report = lite.selector.report().report
    assert report.engines["read_write.primary"] == Connections(idle=1)
    assert report.retired is None
    lite.on()
    read(lite)
    assert one(lite).report.engines["read_only.primary"] == Connections()
    lite.selector.check()
    assert lite.selector.report().report.engines["read_only.primary"] == Connections(idle=1)


def test_an_engine_of_several_selectors_is_counted_once(lite: App) -> None:
    lite.start()
    switch = lite.selector.switch
    with EngineSelector(
        switch, read_write=lite.engines["rw"], read_only=lite.engines["ro"], watch=False
    ):
        read(lite)
        assert lite.selector.report().report.engines["read_write.primary"] == Connections(idle=1)
