"""What was given to a read-write engine, and comes to its twin: options, and the creator."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, event, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine.characteristics import ConnectionCharacteristic
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sa_readonly import Engines, EngineSelector, FixedSwitch, Mode, ReadOnlyError
from sa_readonly.engines.doors import Door
from tests.app import App, need
from tests.postgres import Server, fresh_pair

OPTIONS: list[dict[str, object]] = [
    {"postgresql_readonly": False},
    {"postgresql_readonly": False, "isolation_level": "AUTOCOMMIT"},
    {"postgresql_deferrable": True, "isolation_level": "SERIALIZABLE"},
]


@pytest.fixture(scope="module")
def url(pg_server: Server) -> Iterator[URL]:
    """A database with a function that writes."""
    with fresh_pair(pg_server) as pair:
        engine = create_engine(pair.read_write, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE note (n int)"))
            connection.execute(
                text(
                    "CREATE FUNCTION write_one() RETURNS int LANGUAGE sql AS "
                    "'INSERT INTO note VALUES (1) RETURNING n'"
                )
            )
        yield pair.read_write


def notes(url: URL) -> int:
    engine = create_engine(url.set(drivername="postgresql"), poolclass=NullPool)
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM note")) or 0)


def engine_of(url: URL, driver: str, options: dict[str, object]) -> Any:
    make = create_async_engine if driver == "asyncpg" else create_engine
    return make(url.set(drivername=f"postgresql+{driver}"), execution_options=options)


def inside(engine: Any, work: Callable[[Any], object]) -> None:
    """Do what a sync program would, also with an AsyncEngine."""
    if not hasattr(engine, "sync_engine"):
        work(engine)
        return

    async def run() -> None:
        async with engine.connect() as connection:
            await connection.run_sync(lambda _: work(engine.sync_engine))
        await engine.dispose()

    asyncio.run(run())


def reads_and_never_writes(engine: Any) -> None:
    for _ in range(2):  # a new connection, and the same one once more
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        with engine.connect() as connection, pytest.raises(ReadOnlyError):
            connection.scalar(text("SELECT write_one()"))
        raw = engine.raw_connection()
        with pytest.raises((ReadOnlyError, DBAPIError, engine.dialect.loaded_dbapi.Error)):
            raw.cursor().execute("SELECT write_one()")
        raw.close()


@pytest.mark.parametrize("driver", ["pg8000", "psycopg2", "psycopg", "asyncpg"])
def test_options_of_an_engine_let_its_twin_read_and_never_write(url: URL, driver: str) -> None:
    need(driver)
    before = notes(url)
    for options in OPTIONS:
        engine = engine_of(url, driver, options)
        with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
            inside(selector.engine(), reads_and_never_writes)
        inside(engine, lambda engine: engine.dispose())
    assert notes(url) == before


@pytest.mark.parametrize("driver", ["pg8000", "psycopg"])
def test_options_of_an_engine_let_its_twin_never_write_after_close(url: URL, driver: str) -> None:
    before = notes(url)
    engine = engine_of(url, driver, OPTIONS[0])
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        twin = selector.engine()
    reads_and_never_writes(twin)
    twin.dispose()
    assert notes(url) == before


def test_options_that_an_engine_is_given_later_let_its_twin_never_write(url: URL) -> None:
    before = notes(url)
    engine = engine_of(url, "pg8000", {})
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        engine.update_execution_options(**OPTIONS[0])
        reads_and_never_writes(selector.engine())
    assert notes(url) == before


def test_options_hold_for_the_engine_itself_also_after_close(url: URL) -> None:
    engine = engine_of(url, "psycopg2", {"postgresql_readonly": True})
    show = text("SHOW transaction_read_only")
    with EngineSelector(FixedSwitch(Mode.READ_WRITE), read_write=engine), engine.connect() as one:
        assert one.scalar(show) == "on"
    with engine.connect() as one:
        assert one.scalar(show) == "on"
    engine.dispose()


class Own(ConnectionCharacteristic):
    """An option of the user's own, which does what it may not."""

    asked: list[Any] = []  # noqa: RUF012  # of the class, which SQLAlchemy has one of

    def reset_characteristic(self, dialect: Any, dbapi_conn: Any) -> None:
        self.asked.append(dialect)

    def set_characteristic(self, dialect: Any, dbapi_conn: Any, value: Any) -> None:
        self.asked.append(dialect)
        dialect.set_readonly(dbapi_conn, False)

    def get_characteristic(self, dialect: Any, dbapi_conn: Any) -> Any:
        return None


class OwnDialect(PGDialect_psycopg2):
    supports_statement_cache = True
    connection_characteristics = PGDialect_psycopg2.connection_characteristics.union(
        {"own_option": Own()}
    )


def test_an_option_of_ones_own_is_given_the_dialect_of_the_twin(url: URL) -> None:
    registry.register("postgresql.own_dialect", __name__, "OwnDialect")
    before = notes(url)
    engine = create_engine(
        url.set(drivername="postgresql+own_dialect"), execution_options={"own_option": 1}
    )
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        reads_and_never_writes(selector.engine())
        assert Own.asked
        assert all(dialect is selector.engine().dialect for dialect in Own.asked)
    assert notes(url) == before


def test_an_isolation_level_of_an_engine_on_sqlite_lets_its_twin_read(lite: App) -> None:
    lite.engine("rw", execution_options={"isolation_level": "READ UNCOMMITTED"})
    lite.on()
    lite.start(read_only=None)
    with lite.selector.engine().connect() as connection:
        assert connection.scalar(text("SELECT name FROM which")) == "rw"
        assert connection.scalar(text("PRAGMA read_uncommitted")) == 1
        with pytest.raises(ReadOnlyError):
            connection.execute(text("DELETE FROM which"))


# -- engine.pool._creator(), which some call without an argument as SQLAlchemy's own can be ---


def test_the_creator_of_a_pool_takes_no_argument_also_after_close(lite: App) -> None:
    engine = lite.engine("rw")
    lite.start(read_only=None)
    for _ in range(2):
        connection = engine.pool._creator()
        assert connection.execute("SELECT name FROM which").fetchone() == ("rw",)
        connection.close()
        lite.selector.close()


def test_the_creator_of_a_pool_makes_nothing_while_read_only(lite: App) -> None:
    engine = lite.engine("rw")
    lite.on()
    lite.start(read_only=None)
    with pytest.raises(ReadOnlyError):
        engine.pool._creator()


@pytest.mark.parametrize("given", [False, True])
def test_the_creator_of_a_read_only_pool_makes_what_is_locked(lite: App, given: bool) -> None:
    lite.start(read_only=lite.engine("ro") if given else None)
    lite.on()
    lite.selector.check()
    for _ in range(2):
        connection = lite.selector.engine().pool._creator()
        with pytest.raises(lite.engines["rw"].dialect.loaded_dbapi.OperationalError):
            connection.execute("DELETE FROM which")
        connection.close()
        lite.selector.engine().dispose()


def test_the_creator_of_a_read_only_pool_puts_both_locks_on(url: URL) -> None:
    engine = create_engine(url.set(drivername="postgresql+psycopg2"))
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        connection: Any = selector.engine().pool._creator()
        with connection.cursor() as cursor:
            cursor.execute("SHOW default_transaction_read_only")
            assert (cursor.fetchone(), connection.readonly) == (("on",), True)
        connection.close()
    engine.dispose()


def test_what_the_creator_of_a_pool_makes_is_counted_until_it_is_lost(url: URL) -> None:
    engine = create_engine(url.set(drivername="postgresql+psycopg2"))
    with EngineSelector(FixedSwitch(Mode.READ_WRITE), read_write=engine):
        connection = engine.pool._creator()
        assert Door.of(engine).connections == 1
        connection.close()
        del connection
        gc.collect()
        assert Door.of(engine).connections == 0


def test_the_creator_of_an_async_pool_takes_no_argument(place: Path) -> None:
    need("aiosqlite")

    async def run() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{place}/x.db")
        async with EngineSelector(place / "read-only.txt", read_write=engine, watch=False) as one:
            (place / "read-only.txt").touch()
            twin = one.engine().sync_engine
            one.check()
            async with one.engine().connect() as connection:

                def create(_: Any) -> None:
                    made: Any = twin.pool._creator()
                    with pytest.raises(twin.dialect.loaded_dbapi.OperationalError):
                        made.cursor().execute("CREATE TABLE t (n int)")
                    made.close()

                await connection.run_sync(create)
        await engine.dispose()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["twin", "gated twin", "read_only="])
def test_a_listener_of_the_first_connection_finds_it_locked(place: Path, kind: str) -> None:
    engine = create_engine(f"sqlite:///{place}/one.db", poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("create table note (n int)"))
    heard: list[bool] = []

    other = create_engine(engine.url, poolclass=NullPool)

    @event.listens_for(other if kind == "read_only=" else engine, "first_connect")
    def writes(connection: Any, _: object) -> None:
        try:
            connection.execute("insert into note values (1)")
            connection.commit()
            heard.append(True)
        except sqlite3.OperationalError:
            heard.append(False)

    mode = Mode.READ_WRITE if kind == "gated twin" else Mode.READ_ONLY
    read_only = {} if kind == "twin" else {"read_only": other}
    with (
        EngineSelector(FixedSwitch(mode), read_write=Engines(engine), **read_only) as selector,
        selector.engine("replica").connect() as connection,
    ):
        assert connection.scalar(text("select count(*) from note")) == 0
    assert heard == [False]
