"""This process as a worker: what it leaves behind when it ends by os._exit() or is killed."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, SingletonThreadPool, StaticPool

from sa_readonly import EngineSelector, FileSwitch, ReadOnlyError
from sa_readonly.workers import memory
from sa_readonly.workers.protocol import Liveness
from sa_readonly.workers.verdict import judge
from tests.app import WHICH, App, in_thread
from tests.test_watcher import in_child
from tests.worker_app import lite, one, read, registry, verdict, whys
from tests.workers import memory_below

__all__ = ["lite"]  # a fixture

WORDLESS = ["unknown: died without a word"]
kept: list[Any] = []  # so that no garbage collection gives it back


def ended(app: App, work: Callable[[], object]) -> list[str]:
    """Have a child do something and end before it notices the file that appears meanwhile."""

    def child() -> None:
        kept.append(work())
        app.on()

    in_child(child)
    try:
        return whys(app)
    finally:
        app.off()


def files(app: App) -> list[str]:
    return [*os.listdir(f"{app.path}.workers"), *memory_below(app.path.parent)]


# -- what had nothing under way ----------------------------------------------------------------


@pytest.mark.parametrize("poolclass", [QueuePool, NullPool, AssertionPool, SingletonThreadPool])
def test_a_child_that_ends_between_its_transactions_has_nothing_to_lose(
    lite: App, poolclass: Any
) -> None:
    lite.engine("rw", poolclass=poolclass)
    lite.start(ttl=3600)
    for times in range(3):

        def child(times: int = times) -> None:
            for _ in range(times):
                assert read(lite) == "rw"

        assert ended(lite, child) == []


def test_a_child_ends_well_that_had_got_its_connection_by_many_roads(lite: App) -> None:
    lite.start(ttl=3600)
    engine = lite.engines["rw"]

    def child() -> None:
        with engine.connect() as connection:
            connection.detach()
        engine.dispose()
        raw = engine.raw_connection()
        with contextlib.suppress(RuntimeError), engine.begin():
            raise RuntimeError
        raw.close()
        in_thread(lambda: read(lite))

    assert ended(lite, child) == []


def test_a_child_that_was_forked_in_a_transaction_counts_for_itself_alone(lite: App) -> None:
    lite.start(ttl=3600)
    with lite.sessions() as session:
        session.scalar(WHICH)
        assert ended(lite, lambda: read(lite)) == ["has not noticed, no watcher thread runs there"]
    assert {entry.liveness for entry in registry(lite).read()} == {Liveness.ALIVE, Liveness.DEAD}


def test_what_a_child_closes_of_its_parents_is_not_noted_as_its_own(lite: App) -> None:
    lite.start(ttl=3600)
    sessions = [lite.sessions()]
    sessions[0].scalar(WHICH)

    def child() -> Any:
        own = lite.sessions()
        own.scalar(WHICH)
        sessions.pop().close()
        gc.collect()
        return own

    assert WORDLESS[0] in ended(lite, child)
    sessions[0].close()


def test_the_report_of_what_has_come_back_since_does_not_count(lite: App) -> None:
    lite.start(ttl=0)

    def child() -> None:
        with lite.sessions() as session:
            session.scalar(WHICH)
            lite.on()
            assert lite.selector.check().read_only
        # and ends before its next look

    in_child(child)
    assert one(lite).report.connections == 1
    assert verdict(lite).holds
    assert one(lite).liveness is Liveness.DEAD


def test_one_that_left_nothing_is_forgotten_by_the_next_that_registers(lite: App) -> None:
    lite.start(ttl=3600)
    for _ in range(3):
        ended(lite, lambda: read(lite))
        assert len(registry(lite).read()) == 1
    read(lite)
    assert [entry.pid for entry in registry(lite).read()] == [os.getpid()]
    lite.selector.close()
    assert files(lite) == []


@pytest.mark.parametrize("where", ["/proc", "/nowhere"])
def test_where_no_memory_outlives_a_process_its_own_word_alone_counts(
    lite: App, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(memory, "PLACE", where)
    memory._is_in_memory.cache_clear()
    try:
        lite.start(ttl=3600)

        def reports() -> None:
            read(lite)
            lite.on()
            lite.selector.check()

        def leaves() -> None:
            read(lite)
            lite.selector.close()

        assert ended(lite, reports) == []
        assert ended(lite, leaves) == []
        assert ended(lite, lambda: read(lite)) == WORDLESS
        read(lite)  # whoever registers, as there is no file now, forgets who died before
        assert [entry.pid for entry in registry(lite).read()] == [os.getpid()]
    finally:
        memory._is_in_memory.cache_clear()


# -- what may have something under way ---------------------------------------------------------


def session(app: App) -> Any:
    session = app.sessions()
    session.scalar(WHICH)
    return session


def detached(app: App) -> Any:
    connection = app.engines["rw"].connect()
    connection.detach()
    return connection


def detached_while_another_fails(app: App) -> Any:
    """Its record goes back without a connection, and its next one can't be made."""
    connection = detached(app)
    app.engines["rw"].pool._creator = _fail
    with contextlib.suppress(RuntimeError):
        app.engines["rw"].connect()
    return connection


def _fail(*_: object) -> Any:
    raise RuntimeError


def given_up(app: App) -> None:
    with app.engines["rw"].connect() as connection:
        connection.scalar(WHICH)
        connection.invalidate()
    read(app)


def cut_short(app: App) -> None:
    """As by the signal of a job's timeout: the server is not told that the statement is to end."""
    engine = app.engines["rw"]
    event.listen(engine, "do_execute", _interrupt, once=True)
    with contextlib.suppress(KeyboardInterrupt), engine.connect() as connection:
        connection.scalar(WHICH)
    read(app)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def in_the_making(app: App) -> None:
    event.listen(app.engines["rw"], "connect", _end(app))
    app.engines["rw"].connect()


def being_checked_out(app: App) -> None:
    read(app)
    event.listen(app.engines["rw"], "checkout", _end(app))
    app.engines["rw"].connect()


def being_given_back(app: App) -> None:
    event.listen(app.engines["rw"], "checkin", _end(app))
    read(app)


def being_reset(app: App) -> None:
    event.listen(app.engines["rw"], "reset", _end(app))
    read(app)


def _end(app: App) -> Callable[..., None]:
    def listener(*_: object) -> None:
        app.on()
        os._exit(0)

    return listener


@pytest.mark.parametrize(
    "work",
    [
        session,
        detached,
        detached_while_another_fails,
        given_up,
        cut_short,
        in_the_making,
        being_checked_out,
        being_given_back,
        being_reset,
    ],
)
def test_a_child_that_ends_with_a_connection_in_use_is_unknown(
    lite: App, work: Callable[[App], Any]
) -> None:
    lite.start(ttl=3600)
    assert ended(lite, lambda: work(lite)) == WORDLESS


def test_a_pool_whose_connection_several_use_at_once_is_in_use_for_ever(lite: App) -> None:
    lite.engine("rw", poolclass=StaticPool)
    lite.start(ttl=3600)
    assert ended(lite, lambda: read(lite)) == WORDLESS


@pytest.mark.parametrize("poolclass", [QueuePool, StaticPool])
def test_what_was_connected_before_the_selector_was_made_is_in_use_for_ever(
    lite: App, poolclass: Any
) -> None:
    def child() -> Any:
        with lite.engine("rw", poolclass=poolclass).connect() as connection:
            connection.scalar(WHICH)
            lite.start(ttl=3600)
        read(lite)

    assert ended_alone(lite, child) == WORDLESS


def test_the_connection_of_a_static_pool_is_in_use_in_a_child_too(lite: App) -> None:
    lite.engine("rw", poolclass=StaticPool)
    lite.start(ttl=3600)
    read(lite)
    assert WORDLESS[0] in ended(lite, lambda: read(lite))


def test_each_switch_of_one_engine_is_told(lite: App) -> None:
    other = lite.path.with_name("other.txt")

    def child(*, holds: bool) -> Any:
        lite.start(ttl=3600)
        connection = lite.engines["rw"].connect()
        selector = EngineSelector(
            FileSwitch(other, ttl=3600), read_write=lite.engines["rw"], watch=False
        )
        with selector.engine().connect() as second:
            second.scalar(WHICH)
        if not holds:
            connection.close()
        return connection, selector

    assert ended_alone(lite, lambda: child(holds=True)) == WORDLESS
    assert ended_alone(lite, lambda: child(holds=False)) == []


def ended_alone(app: App, work: Callable[[], Any]) -> list[str]:
    """Have a child do something for which this process has made no selector."""

    def child() -> None:
        kept.append(work())
        app.on()

    in_child(child)
    switch = FileSwitch(app.path)
    try:
        return [why for _, why in judge(switch.identify, registry(app)).waiting]
    finally:
        app.off()


def test_a_connection_that_is_in_use_while_its_process_registers_anew_stays_so(lite: App) -> None:
    lite.start(ttl=3600)

    def child(*, uses: bool) -> Any:
        session = lite.sessions()
        session.scalar(WHICH)
        worker = lite.selector._worker
        os.close(worker.reporting._entry._descriptor)
        worker.watcher.tick()
        if not uses:
            session.close()
        return session

    assert ended(lite, lambda: child(uses=True)) == WORDLESS
    assert ended(lite, lambda: child(uses=False)) == []
    registry(lite).sweep(lite.selector.switch.identify)
    assert files(lite) == []


def test_what_a_ping_finds_broken_was_not_in_use(lite: App) -> None:
    lite.start(ttl=3600)
    engine = lite.engines["rw"]

    def child() -> None:
        read(lite)
        event.listen(engine, "checkout", _is_broken, once=True)
        with engine.connect() as connection:
            connection.scalar(WHICH)

    assert ended(lite, child) == []


def _is_broken(*_: object) -> None:
    raise DisconnectionError


def test_a_connection_that_is_closed_as_its_grace_is_over_is_in_use_no_more(lite: App) -> None:
    lite.start(ttl=3600, grace=0)

    def child() -> None:
        with lite.sessions() as session:
            session.scalar(WHICH)
            lite.on()
            lite.selector.check()
            with pytest.raises(ReadOnlyError):
                session.scalar(WHICH)
        lite.off()
        lite.selector.check()
        read(lite)

    assert ended(lite, child) == []


def test_a_detached_connection_that_is_given_up_was_in_use(app: App) -> None:
    app.start(ttl=3600)
    engine = app.engines["rw"]

    def child() -> None:
        read(app)
        event.listen(engine, "do_execute", _interrupt, once=True)
        with contextlib.suppress(KeyboardInterrupt), engine.connect() as connection:
            connection.detach()
            connection.scalar(WHICH)
        del connection
        gc.collect()

    assert ended(app, child) == WORDLESS


def test_a_ping_is_a_use(app: App) -> None:
    app.engine("rw", pool_pre_ping=True)
    app.start(ttl=3600)
    engine = app.engines["rw"]

    def child() -> None:
        read(app)
        engine.dialect.do_ping = lambda *_: _end(app)()
        engine.connect()

    assert ended(app, child) == WORDLESS
    assert ended(app, lambda: app.engines["rw"].connect().execute(text("select 1"))) == WORDLESS
    assert ended(app, lambda: read(app)) == []
