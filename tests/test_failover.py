"""A primary that becomes a standby, and the other way round, while the application goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, select
from sqlalchemy.ext.asyncio import create_async_engine

from sa_readonly import EngineSelector, ReadOnlyError
from tests.app import Base, Book, make_app, need, once
from tests.failover import Load, demote, name_of
from tests.postgres import MariaDB, Server, Standby, wait_until
from tests.test_server_word import SAID, maria, titles  # noqa: F401  # a fixture

# Seconds after a server's return within which writes go on after the first flip. On a quiet machine
# two are enough, and this one may not be quiet.
BOUND = 3.0


def test_the_next_connection_goes_where_the_name_leads(
    pg_server: Server, pg_standby: Standby, pg_urls: dict[str, URL], place: Path
) -> None:
    with make_app(place, dict(pg_urls)) as app, name_of(pg_standby.port) as name:
        pg_standby.catch_up()
        app.urls["rw"] = app.urls["rw"].set(port=name.port)
        app.start()
        write_to = app.sessions
        with app.engine_now().connect(), app.engine_now().connect():
            pass  # a pool of two, both at what is a standby
        name.move(pg_server.port)
        with pytest.raises(ReadOnlyError, match=SAID), write_to.begin() as session:
            session.add(Book(title="refused"))
        for title in ("one", "two"):
            with write_to.begin() as session:
                session.add(Book(title=title))
        app.urls["rw"] = pg_urls["rw"]
        assert app.titles("rw") == ["one", "two"]
        assert not pg_standby.activity(pg_urls["rw"])


@pytest.fixture
def pair() -> Iterator[tuple[Server, Standby]]:
    """A primary and its standby, which may be promoted and demoted."""
    primary: Server = Server.launch()
    try:
        standby = primary.standby()
        try:
            yield primary, standby
        finally:
            standby.stop()
    finally:
        primary.stop()


def engine(url: URL, driver: str) -> Any:
    url = url.set(drivername=f"postgresql+{driver}")
    if driver == "psycopg2":
        return create_engine(url)
    return create_async_engine(url)


def rows(url: URL) -> list[str]:
    made: Engine = create_engine(url)
    with made.connect() as connection:
        found = list(connection.scalars(select(Book.title)))
    made.dispose()
    return found


def settle(load: Load, found: list[str]) -> None:
    """Nothing that was told to be written is lost, nothing refused is there, and none twice."""
    written = {title for _, title in load.written}
    assert load.strange == []
    assert len(found) == len(set(found))
    assert written <= set(found)
    assert set(found) <= written | set(load.unknown)
    assert not set(found) & set(load.refused)
    assert set(load.kept) == {"served"}


@once
@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg"])
def test_a_switchover_under_load_loses_nothing_and_reads_go_on(
    pair: tuple[Server, Standby], place: Path, driver: str
) -> None:
    need(driver)
    one, two = pair
    url = one.new_database()
    base = create_engine(url)
    Base.metadata.create_all(base)
    base.dispose()
    two.catch_up()
    with name_of(one.port) as name:
        selector = EngineSelector(
            place / "read-only.txt",
            read_write=engine(url.set(port=name.port), driver),
            read_only=engine(url.set(port=two.port), driver),
            server_read_only="flip",
        )
        load = Load(selector)
        end = load.run()
        try:
            wait_until(lambda: len(load.written) > 100, "the load is on")
            demote(one, two)  # the name still leads there
            load.until_refused()
            two.promote()
            load.until_refused()  # what was promoted elsewhere is not known
            moved = time.monotonic()
            name.move(two.port)
            first = load.until_written(moved)
            # An administrator closes it to the sessions that are there.
            two.query("ALTER SYSTEM SET default_transaction_read_only = on")
            two.query("SELECT pg_reload_conf()")
            load.until_refused()
            two.query("ALTER SYSTEM RESET default_transaction_read_only")
            two.query("SELECT pg_reload_conf()")
            opened = time.monotonic()
            second = load.until_written(opened)
        finally:
            end()
            selector.close()
        settle(load, rows(url.set(port=two.port)))
        assert first < BOUND
        assert second < BOUND + 1  # after a flip within a minute of the last it is asked every 2 s


@once
def test_mariadb_that_is_closed_under_load_loses_nothing(
    maria: Any,  # noqa: F811  # the fixture
    mariadb: MariaDB,
) -> None:
    maria.start(watch=True, server_read_only="flip")
    load = Load(maria.selector)
    end = load.run()
    try:
        for pause in (1, 2):
            wait_until(lambda: len(load.written) > 100 * pause, "the load is on")  # noqa: B023
            mariadb.query("SET GLOBAL read_only = 1")
            load.until_refused()
            mariadb.query("SET GLOBAL read_only = 0")
            opened = time.monotonic()
            after = load.until_written(opened)
            assert after < pause - 1 + BOUND
    finally:
        end()
    settle(load, titles(maria))
