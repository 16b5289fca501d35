"""Doors: what is counted, refused and closed of the connections of a read-write engine."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, SingletonThreadPool

from sa_readonly import ReadOnlyError
from sa_readonly.engines.doors import Door
from sa_readonly.engines.pools import Ledger
from tests.app import WHICH, App, make_app, once
from tests.postgres import Server, wait_until

POOLS = [QueuePool, NullPool, SingletonThreadPool, AssertionPool]


@pytest.mark.parametrize("poolclass", POOLS)
def test_each_connection_is_known_until_it_is_closed(app: App, poolclass: Any) -> None:
    app.engine("rw", poolclass=poolclass)
    app.start()
    engine = app.engines["rw"]
    door = Door.of(engine)
    assert door is Door.of(engine.execution_options(x=1))
    assert door.connections == 0
    with engine.connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        assert door.connections == 1
        app.on()
        app.selector.check()
        assert door.connections == 1
    assert door.connections == 0
    app.off()
    with app.sessions() as session:
        assert session.scalar(WHICH) == "rw"
        assert door.connections == 1


@pytest.mark.parametrize("poolclass", POOLS)
def test_idle_connections_are_closed_at_once(app: App, poolclass: Any) -> None:
    app.engine("rw", poolclass=poolclass)
    app.start()
    with app.sessions() as session:
        assert session.scalar(WHICH) == "rw"
    app.on()
    app.selector.check()
    assert Door.of(app.engines["rw"]).connections == 0


def test_a_detached_connection_is_counted_until_it_is_closed(app: App) -> None:
    app.start()
    connection = app.engines["rw"].connect()
    connection.detach()
    app.on()
    app.selector.check()
    door = Door.of(app.engines["rw"])
    assert (door.connections, len(door.retired)) == (1, 1)
    connection.close()
    assert (door.connections, door.retired) == (0, [])


def test_a_new_connection_is_not_retired_that_has_the_identity_of_a_retired_one(lite: App) -> None:
    ledger = Ledger(lite.engine("rw").dialect)
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        ledger.opened(connection, None)
        ledger.retire()
        ledger.close(lite.engines["rw"].pool, connection, lambda: None, at_once=True)
        ledger.opened(connection, None)
        assert (len(ledger.connections), ledger.retired) == (1, [])


def test_an_invalidated_connection_is_counted_no_more(app: App) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        connection.invalidate()
        assert Door.of(app.engines["rw"]).connections == 0


def test_connections_that_outlive_a_dispose_are_counted_until_they_come_back(app: App) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        app.engines["rw"].dispose()
        assert connection.scalar(WHICH) == "rw"
        assert Door.of(app.engines["rw"]).connections == 1
    assert Door.of(app.engines["rw"]).connections == 0


def test_a_pool_that_is_used_after_its_dispose_keeps_its_connections(app: App) -> None:
    app.start()
    pool = app.engines["rw"].pool
    pool.dispose()
    for _ in range(2):
        pool.connect().close()
        assert Door.of(app.engines["rw"]).connections == 1
    pool.dispose()


def test_a_connection_that_is_being_made_at_the_flip_is_refused_and_closed(app: App) -> None:
    app.start()
    door = Door.of(app.engines["rw"])
    held: list[int] = []

    @event.listens_for(app.engines["rw"], "do_connect")
    def flip(*_: Any) -> None:
        app.on()
        app.selector.check()
        held.append(door.connections)

    with pytest.raises(ReadOnlyError):
        app.engines["rw"].connect()
    assert (held, door.connections) == ([1], 0)


def test_what_lies_idle_in_a_pool_that_was_taken_away_is_not_given_out(app: App) -> None:
    app.start(ttl=3600)
    engine = app.engines["rw"]
    engine.connect().close()
    pool, door = engine.pool, Door.of(engine)
    door.shut(door, refuse=lambda: ReadOnlyError("not registered"))
    with pytest.raises(ReadOnlyError, match=r"^not registered$"):
        pool.connect()  # as a thread does that has read engine.pool before
    assert door.connections == 0
    door.open(door)


def test_a_listener_that_is_added_while_read_only_is_called_after_the_flip_back(lite: App) -> None:
    lite.start()
    lite.on()
    lite.selector.check()
    engine, heard = lite.engines["rw"], list[Any]()
    event.listen(engine, "checkout", lambda *given: heard.append(given))
    lite.off()
    lite.selector.check()
    with engine.connect():
        assert len(heard) == 1


def test_a_pool_that_was_taken_away_connects_no_more_after_the_flip_back(app: App) -> None:
    app.start()
    engine = app.engines["rw"]
    pool, asked = engine.pool, list[str]()
    for _ in range(2):
        app.flip()
        app.selector.check()
    event.listen(engine, "do_connect", lambda *_: asked.append("asked"))
    with pytest.raises(ReadOnlyError):
        pool.connect()
    assert asked == []
    engine.connect().close()
    assert asked == ["asked"]


def test_what_was_in_use_before_the_selector_was_made_is_closed_when_it_comes_back(
    app: App,
) -> None:
    engine, closed = app.engine("rw"), list[str]()
    event.listen(engine, "close", lambda *_: closed.append("closed"))
    with engine.connect():
        app.start()
        assert closed == []
    assert closed == ["closed"]


def test_after_the_flip_no_connection_is_left_at_the_server(
    pg_server: Server, pg_urls: Any, place: Path
) -> None:
    with make_app(place, dict(pg_urls)) as app:
        app.engine("rw", connect_args={"application_name": "the-application"})
        app.start()

        def connections() -> int:
            rows = pg_server.activity(app.urls["rw"])
            return sum(row.application_name == "the-application" for row in rows)

        with app.engines["rw"].connect() as held, app.engines["rw"].connect() as idle:
            held.scalar(WHICH)
            idle.scalar(WHICH)
            idle.close()
            app.on()
            app.selector.check()
            wait_until(lambda: connections() == 1, "the idle connection to be closed")
            held.close()
            wait_until(lambda: connections() == 0, "the held connection to be closed")


@once
def test_flipping_five_hundred_times_leaves_nothing_behind(lite: App) -> None:
    lite.start()
    door = Door.of(lite.engines["rw"])
    for _ in range(500):
        with lite.sessions() as session:
            session.scalar(WHICH)
        lite.flip()
        lite.selector.check()
    assert door.connections == 0 if lite.path.exists() else door.connections <= 1
    assert not door._old.retired
    listeners = len(list(lite.engines["rw"].pool.dispatch.checkin))
    assert listeners <= 1


@pytest.mark.parametrize("end", ["invalidate", "drop"])
def test_a_detached_connection_that_is_lost_counts_no_more_once_it_is_collected(
    pg_urls: Any, place: Path, end: str
) -> None:
    with make_app(place, dict(pg_urls)) as app:
        app.start()
        connection = app.engines["rw"].connect()
        connection.detach()
        if end == "invalidate":
            connection.invalidate()
        connection.close() if end == "invalidate" else None
        del connection
        gc.collect()
        assert Door.of(app.engines["rw"]).connections == 0


def test_a_pool_that_was_forgotten_counts_no_more_once_it_is_collected(app: App) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        connection.scalar(WHICH)
    app.engines["rw"].dispose(close=False)
    gc.collect()
    assert Door.of(app.engines["rw"]).connections == 0
