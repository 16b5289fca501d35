"""Dialects that are not known: what they are asked for, and what is said of them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FixedSwitch,
    Mode,
    ReadOnlyError,
)
from sa_readonly.engines.dialects import family
from tests.app import need
from tests.by_url import nothing_lingers, shared_of
from tests.postgres import Pair, wait_until

__all__ = ["nothing_lingers"]  # a fixture

READ = text("SELECT n FROM note")
WRITE = text("INSERT INTO note VALUES (2)")


class Grandchild(PGDialect_asyncpg):
    """As CockroachDB's: another name, and a driver of PostgreSQL's."""

    name = "grandchild"
    supports_statement_cache = True


class Stranger(PGDialect_psycopg2):
    """As DuckDB's: a descendant, too, but with a driver of its own."""

    name = "stranger"
    driver = "strange"


class Unknown(SQLiteDialect_pysqlite):
    """One of which nothing is known but that it has a driver."""

    name = "unknown"
    driver = "unheard_of"
    supports_statement_cache = True


registry.register("grandchild", __name__, "Grandchild")
registry.register("unknown", __name__, "Unknown")


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is said when a selector is made."""
    caplog.set_level(logging.WARNING)
    return caplog


@pytest.fixture
def switch(place: Path) -> Path:
    return place / "read-only.txt"


def test_a_family_is_told_by_the_driver_that_a_dialect_has_inherited() -> None:
    grandchild: Any = Grandchild()
    stranger: Any = Stranger()
    assert family(grandchild) == "postgresql"
    assert family(stranger) == "stranger"
    assert family(create_engine("sqlite://").dialect) == "sqlite"


def test_an_unknown_dialect_is_told_once_where_read_only_is_left_out(
    place: Path, warned: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(f"unknown:///{place}/x.db")
    with EngineSelector(FixedSwitch(Mode.READ_WRITE), read_write=engine):
        (message,) = warned.messages
    assert message == (
        f"unknown:///{place}/x.db: sa_readonly has no lock at the server for unknown. Statements "
        "are examined before they are sent; what a function writes, or a raw cursor, is not "
        "refused. Connect as a role that may only read."
    )


def test_an_unknown_dialect_is_told_once_for_two_engines_of_it(
    place: Path, warned: pytest.LogCaptureFixture
) -> None:
    engines = [create_engine(f"unknown:///{place}/{name}.db") for name in "ab"]
    with EngineSelector(FixedSwitch(Mode.READ_WRITE), read_write=engines[0], read_only=engines[1]):
        (message,) = warned.messages
    assert message.startswith(f"unknown:///{place}/b.db: ")


def test_an_unknown_dialect_is_told_once_for_all_roles_and_all_engines_of_a_switch(
    place: Path, warned: pytest.LogCaptureFixture
) -> None:
    def engine() -> Engine:
        return create_engine(f"unknown:///{place}/{next(numbers)}.db")

    numbers = itertools.count()
    for switch in (FixedSwitch(Mode.READ_WRITE), FixedSwitch(Mode.READ_WRITE)):
        warned.clear()
        for _ in range(2):
            given = [Engines(primary=engine(), replica=engine()) for _ in range(2)]
            EngineSelector(switch, read_write=given[0], read_only=given[1]).close()
        assert len(warned.messages) == 1


def test_an_unknown_dialect_is_told_once_for_engines_by_url(
    place: Path, switch: Path, warned: pytest.LogCaptureFixture
) -> None:
    for name in "aba":
        url = f"unknown:///{place}/{name}.db?plugin=sa_readonly&sa_readonly_file={switch}"
        engine = create_engine(url)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        engine.dispose()
    (message,) = warned.messages
    assert message.startswith(f"unknown:///{place}/a.db: sa_readonly has no lock at the server")


def test_nothing_is_said_of_a_dialect_that_is_known(
    pg_pair: Pair, warned: pytest.LogCaptureFixture
) -> None:
    for url in ("sqlite:///x.db", pg_pair.read_write, "mysql+pymysql://localhost/x"):
        EngineSelector(FixedSwitch(Mode.READ_WRITE), read_write=create_engine(url)).close()
    assert warned.messages == []


def test_a_descendant_of_postgresql_with_its_driver_is_locked_as_that_is(
    pg_pair: Pair, switch: Path, warned: pytest.LogCaptureFixture
) -> None:
    url = pg_pair.read_write.set(drivername="grandchild")

    async def run() -> None:
        engine = create_async_engine(url)
        async with EngineSelector(switch, read_write=engine, watch=False) as selector:
            (message,) = warned.messages
            async with engine.begin() as connection:
                await connection.execute(text("CREATE TABLE note (n int)"))
                await connection.execute(
                    text(
                        "CREATE FUNCTION write_one() RETURNS int LANGUAGE sql AS "
                        "'INSERT INTO note VALUES (1) RETURNING n'"
                    )
                )
            switch.touch()
            selector.check()
            for _ in range(2):
                async with selector.engine().connect() as connection:
                    assert (await connection.scalars(READ)).all() == []
                    with pytest.raises(ReadOnlyError):
                        await connection.execute(text("SELECT write_one()"))
            await selector.engine().dispose()
        await engine.dispose()
        assert "sa_readonly does not know grandchild. It is locked as postgresql" in message

    asyncio.run(run())


@pytest.mark.parametrize("pooler", ["transaction", "session"])
def test_a_descendant_of_postgresql_with_its_driver_may_stand_behind_a_pooler(
    pg_pair: Pair, pooler: str
) -> None:
    url = pg_pair.read_write.set(drivername="grandchild")

    async def run() -> None:
        engine = create_async_engine(url)
        switch = FixedSwitch(Mode.READ_ONLY)
        async with EngineSelector(switch, read_write=engine, pooler=pooler) as selector:
            async with selector.engine().connect() as connection:
                shown = await connection.scalar(text("SHOW transaction_read_only"))
                default = await connection.scalar(text("SHOW default_transaction_read_only"))
            assert (shown, default) == ("on", "off" if pooler == "transaction" else "on")
            await selector.engine().dispose()

    asyncio.run(run())


def test_libsql_reads_and_says_that_its_raw_cursors_are_not_examined(
    place: Path, switch: Path, warned: pytest.LogCaptureFixture
) -> None:
    need("sqlalchemy_libsql")
    path = place / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE note (n int)")
    connection.close()
    engine = create_engine(f"sqlite+libsql:///{path}")
    with EngineSelector(switch, read_write=engine, watch=False) as selector:
        (message,) = warned.messages
        assert "the driver libsql has no set_authorizer()" in message
        with engine.begin() as one:
            one.execute(WRITE)
        switch.touch()
        selector.check()
        for _ in range(2):
            with selector.engine().connect() as one:
                assert one.scalars(READ).all() == [2]
                with pytest.raises(ReadOnlyError):
                    one.execute(WRITE)
            raw = selector.engine().raw_connection()
            with pytest.raises(ValueError, match="readonly database"):
                raw.cursor().execute(str(WRITE))
            raw.cursor().execute("PRAGMA query_only = OFF")  # which is put back when it returns
            raw.close()
        selector.engine().dispose()
    engine.dispose()


# -- DuckDB ----------------------------------------------------------------------------------


class Duck:
    """A database of DuckDB, and a selector of a writer and a reader of its file."""

    def __init__(self, place: Path, switch: Path, **options: Any) -> None:
        need("duckdb_engine")
        self.url = f"duckdb:///{place}/a.duckdb"
        self.switch = switch
        self.writer = self.engine()
        with self.writer.begin() as connection:
            connection.execute(text("CREATE TABLE note (n int)"))
        self.writer.dispose()  # which has the file
        self.selector = EngineSelector(switch, read_write=self.writer, watch=False, **options)

    def engine(self, **arguments: Any) -> Engine:
        return create_engine(self.url, connect_args=arguments)

    def write(self) -> None:
        with self.selector.engine().begin() as connection:
            connection.execute(WRITE)

    def flip(self) -> None:
        if self.switch.exists():
            self.switch.unlink()
        else:
            self.switch.touch()
        self.selector.check()

    def close(self) -> None:
        self.selector.close()
        self.writer.dispose()


def test_raw_cursors_of_duckdb_are_examined(
    place: Path, switch: Path, warned: pytest.LogCaptureFixture
) -> None:
    duck = Duck(place, switch)
    (message,) = warned.messages
    assert "no lock at the server for duckdb" in message
    assert message.endswith(
        "what a function writes, or the driver's connection itself, is not refused. DuckDB itself "
        'refuses it where read_only= is an engine with connect_args={"read_only": True}.'
    )
    duck.write()
    duck.flip()
    for _ in range(2):
        raw = duck.selector.engine().raw_connection()
        cursor = raw.cursor()
        for statement in (str(WRITE), "CREATE TABLE other (n int)"):
            with pytest.raises(ReadOnlyError):
                cursor.execute(statement)
            with pytest.raises(ReadOnlyError):
                cursor.executemany(statement, [[]])
        cursor.execute("SELECT n FROM note")
        assert cursor.fetchall() == [(2,)]
        raw.close()
    with duck.selector.engine().connect() as connection:
        assert connection.scalars(READ).all() == [2]
        with pytest.raises(ReadOnlyError):
            connection.execute(WRITE)
    duck.flip()
    duck.write()
    duck.close()


def test_a_reader_of_duckdb_lets_the_file_go_on_the_way_back(place: Path, switch: Path) -> None:
    reader = create_engine(
        f"duckdb:///{place}/a.duckdb", connect_args={"read_only": True}, pool_size=2
    )
    duck = Duck(place, switch, read_only=reader)
    for count in (1, 2):
        duck.write()
        duck.flip()
        with duck.selector.engine().connect() as one, duck.selector.engine().connect() as two:
            assert one.scalars(READ).all() == two.scalars(READ).all() == [2] * count
        assert reader.pool.checkedin() == 2  # they are kept as long as none would write
        duck.flip()
    duck.write()
    duck.close()


def test_a_read_of_duckdb_that_ends_after_the_way_back_lets_the_file_go(
    place: Path, switch: Path
) -> None:
    reader = create_engine(f"duckdb:///{place}/a.duckdb", connect_args={"read_only": True})
    duck = Duck(place, switch, read_only=reader)
    duck.flip()
    connection = duck.selector.engine().connect()
    assert connection.scalars(READ).all() == []
    duck.flip()
    with pytest.raises(OperationalError, match="different configuration"):
        duck.write()
    connection.close()
    duck.write()
    duck.close()


def test_what_reads_duckdb_by_url_lets_the_file_go_on_the_way_back(
    place: Path, switch: Path, warned: pytest.LogCaptureFixture
) -> None:
    Duck(place, switch).close()
    warned.clear()
    file = f"{place}/a.duckdb"
    engine = create_engine(
        f"duckdb:///{file}?plugin=sa_readonly",
        sa_readonly_file=str(switch),
        sa_readonly_url=f"duckdb:///{file}?access_mode=read_only",
    )
    shared = shared_of(engine)
    look = shared.switch.check
    held: list[Any] = []
    for count in (1, 2):
        with engine.begin() as connection:
            connection.execute(WRITE)
        switch.touch()
        look()
        # By the thread that watches, where that was the first to see it.
        wait_until(lambda: not any(door.connections for door in shared.doors), "what is idle")
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.scalars(READ).all() == [2] * count
                with pytest.raises(engine.dialect.loaded_dbapi.Error, match="read-only mode"):
                    connection.connection.driver_connection.execute(str(WRITE))
        held.append(engine.connect())  # one that is in use lets go as it comes back
        switch.unlink()
        look()
        with pytest.raises(DBAPIError, match="different configuration"):
            engine.connect()
        held.pop().close()
    with engine.begin() as connection:
        connection.execute(WRITE)
    engine.dispose()
    (message,) = (one for one in warned.messages if "no lock" in one)
    assert message.endswith("refuses it where sa_readonly_url has ?access_mode=read_only.")


@pytest.mark.parametrize("database", ["", "/:memory:", "/:memory:named"])
def test_duckdb_in_memory_is_asked_for_a_read_only_engine(switch: Path, database: str) -> None:
    need("duckdb_engine")
    engine = create_engine(f"duckdb://{database}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE note (n int)"))
        with pytest.raises(ConfigurationError, match="Give read_only= as well"):
            EngineSelector(switch, read_write=engine)
        other = create_engine("duckdb:///:memory:")
        with EngineSelector(switch, read_write=engine, read_only=other, watch=False) as selector:
            for write in (switch.touch, switch.unlink):
                write()
                selector.check()
    with engine.connect() as connection:  # it would be lost with its connections
        assert connection.scalars(READ).all() == []
    with pytest.raises(ConfigurationError, match="a database in memory"):
        create_engine(f"duckdb://{database}?plugin=sa_readonly", sa_readonly_file=str(switch))


def test_a_reader_of_duckdb_keeps_its_connections_again_after_close(
    place: Path, switch: Path
) -> None:
    reader = create_engine(f"duckdb:///{place}/a.duckdb", connect_args={"read_only": True})
    duck = Duck(place, switch, read_only=reader)
    duck.close()
    with reader.connect() as connection:
        assert connection.scalars(READ).all() == []
    assert reader.pool.checkedin() == 1
    assert reader.pool._pool.queue[0].dbapi_connection is not None
    reader.dispose()
