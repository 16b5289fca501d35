"""Connections that another pool takes back: to it, ours leave as they came."""

# ruff: noqa: PLC0415  # drivers where they are needed
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, QueuePool

from sa_readonly import Engines, EngineSelector, FileSwitch, ReadOnlyError
from tests.app import SECONDS, need
from tests.postgres import MariaDB, Pair

WRITE = text("INSERT INTO t VALUES (1)")
READ = text("SELECT count(*) FROM t")
SETTING = "default_transaction_read_only"


def conninfo(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def make_table(url: URL) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (i int)"))


@pytest.fixture
def lender(pg_pair: Pair) -> Iterator[Any]:
    """A pool of psycopg's that has one connection, which a close gives back."""
    need("psycopg_pool")
    from psycopg_pool import ConnectionPool

    make_table(pg_pair.read_write)
    dsn = conninfo(pg_pair.read_write)
    sizes = {"min_size": 1, "max_size": 1}
    with ConnectionPool(dsn, close_returns=True, timeout=5, open=False, **sizes) as pool:
        yield pool


def engine_of(creator: Callable[[], Any], driver: str = "psycopg", **options: Any) -> Engine:
    options.setdefault("poolclass", NullPool)
    return create_engine(f"postgresql+{driver}://", creator=creator, **options)


@contextlib.contextmanager
def selector_of(place: Path, given: Any, read_only: Any = None) -> Iterator[EngineSelector]:
    switch = FileSwitch(place / "read-only.txt", ttl=0.0)
    options: dict[str, Any] = {"workers": False, "watch": False}
    if read_only is not None:
        options["read_only"] = read_only
    with EngineSelector(switch, read_write=given, **options) as selector:
        yield selector


def write(selector: EngineSelector) -> None:
    with selector.engine().begin() as connection:
        connection.execute(WRITE)


def read(selector: EngineSelector, role: str = "primary") -> Any:
    with selector.engine(role).connect() as connection:
        return connection.scalar(READ)


def use_in_both_modes_and_roles(selector: EngineSelector, file: Path) -> None:
    for _ in range(2):
        write(selector)
        for _ in range(2):
            assert read(selector, "replica") == read(selector)
        write(selector)
        file.touch()
        for _ in range(2):
            with pytest.raises(ReadOnlyError):
                write(selector)
            assert read(selector, "replica") == read(selector)
        file.unlink()


def assert_is_as_it_came(connection: Any) -> None:
    import psycopg

    assert connection.cursor_factory is psycopg.Cursor
    assert connection.server_cursor_factory is psycopg.ServerCursor
    assert connection.read_only is None
    assert connection.execute(f"SHOW {SETTING}").fetchone() == ("off",)


def test_a_connection_of_another_pool_serves_both_modes_and_roles_and_leaves_as_it_came(
    lender: Any, place: Path
) -> None:
    engine = engine_of(lender.getconn)
    with selector_of(place, engine) as selector:
        use_in_both_modes_and_roles(selector, place / "read-only.txt")
        assert read(selector, "replica") == 4
        with lender.connection() as connection:
            assert_is_as_it_came(connection)
    with engine.begin() as connection:
        connection.execute(WRITE)


def test_a_read_only_engine_of_another_pool_gives_back_what_the_writers_take(
    lender: Any, place: Path
) -> None:
    pair = Engines(primary=engine_of(lender.getconn), replica=engine_of(lender.getconn))
    with selector_of(place, pair, engine_of(lender.getconn)) as selector:
        use_in_both_modes_and_roles(selector, place / "read-only.txt")


@pytest.mark.parametrize("how", ["kept", "detached", "in use", "ended"])
def test_what_leaves_by_another_way_leaves_as_it_came(lender: Any, place: Path, how: str) -> None:
    engine = engine_of(lender.getconn, poolclass=QueuePool)
    with selector_of(place, engine) as selector:
        (place / "read-only.txt").touch()
        reads = selector.engine()
        connection = reads.connect()
        with pytest.raises(ReadOnlyError):
            connection.execute(WRITE)
        if how == "detached":
            connection.detach()
        if how == "ended":
            connection.invalidate()
        if how == "in use":
            selector.close()
        connection.close()
        reads.dispose()
        with lender.connection() as lent:
            assert_is_as_it_came(lent)


def test_a_connection_that_its_pool_lends_read_only_stays_so(lender: Any, place: Path) -> None:
    with lender.connection() as connection:
        connection.execute(f"SET {SETTING} = on")
        connection.commit()
        connection.read_only = True
    with selector_of(place, engine_of(lender.getconn)) as selector:
        for _ in range(2):
            assert read(selector, "replica") == 0
    with lender.connection() as connection:
        assert connection.read_only is True
        assert connection.execute(f"SHOW {SETTING}").fetchone() == ("on",)


def test_a_pool_of_an_unknown_kind_is_known_once_a_connection_has_come_back(
    pg_pair: Pair, place: Path
) -> None:
    lent: list[Any] = []

    class Lent(psycopg2.extensions.connection):
        def close(self) -> None:
            lent.append(self)

    def lend() -> Any:
        if lent:
            return lent.pop()
        return psycopg2.connect(conninfo(pg_pair.read_write), connection_factory=Lent)

    make_table(pg_pair.read_write)
    with selector_of(place, engine_of(lend, "psycopg2")) as selector:
        read(selector, "replica")
        write(selector)  # with the connection that lies there with its locks
        use_in_both_modes_and_roles(selector, place / "read-only.txt")
        read(selector, "replica")
    (connection,) = lent
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {SETTING}")
        assert cursor.fetchone() == ("off",)
    assert connection.readonly is None
    super(Lent, connection).close()


async def write_async(selector: EngineSelector) -> None:
    async with selector.engine().begin() as connection:
        await connection.execute(WRITE)


async def assert_alike_async(selector: EngineSelector, *roles: str) -> None:
    counts = []
    for role in roles or ("replica", "primary", "replica", "primary"):
        async with selector.engine(role).connect() as connection:
            counts.append(await connection.scalar(READ))
    assert len(set(counts)) == 1


async def use_async_in_both_modes(selector: EngineSelector, file: Path) -> None:
    for _ in range(3):
        await write_async(selector)
        await assert_alike_async(selector)
        async with selector.engine().connect() as connection:
            await connection.execute(READ)
            file.touch()  # while one is out, which comes back to a retired pool
            assert selector.check().read_only
        with pytest.raises(ReadOnlyError):
            await write_async(selector)
        await assert_alike_async(selector)
        file.unlink()
        assert not selector.check().read_only
    await write_async(selector)
    await selector.engine("replica").dispose()


async def assert_came_back(pool: Any, number: int) -> None:
    from psycopg import AsyncCursor

    connections = [await pool.getconn() for _ in range(number)]
    for connection in connections:
        assert connection.cursor_factory is AsyncCursor
        assert connection.read_only is None
        shown = await connection.execute(f"SHOW {SETTING}")
        assert await shown.fetchone() == ("off",)
    for connection in connections:
        await connection.close()


@pytest.mark.parametrize(
    "options", [{"poolclass": NullPool}, {"pool_size": 1, "max_overflow": 0}], ids=["none", "one"]
)
def test_a_connection_of_another_async_pool_serves_both_modes_and_is_never_lost(
    pg_pair: Pair, place: Path, options: dict[str, Any]
) -> None:
    need("psycopg_pool")
    from psycopg_pool import AsyncConnectionPool

    make_table(pg_pair.read_write)
    sizes = {"min_size": 2, "max_size": 2, "timeout": 5}

    async def main() -> None:
        dsn = conninfo(pg_pair.read_write)
        async with AsyncConnectionPool(dsn, close_returns=True, open=False, **sizes) as pool:
            engine = create_async_engine(
                "postgresql+psycopg://", async_creator=pool.getconn, **options
            )
            with selector_of(place, engine) as selector:
                await use_async_in_both_modes(selector, place / "read-only.txt")
            await engine.dispose()
            await assert_came_back(pool, 2)

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_an_idle_connection_of_another_async_pool_comes_back_to_it_at_the_flip(
    pg_pair: Pair, place: Path
) -> None:
    need("psycopg_pool")
    from psycopg_pool import AsyncConnectionPool

    make_table(pg_pair.read_write)
    sizes = {"min_size": 1, "max_size": 1, "timeout": 5}

    async def main() -> None:
        dsn = conninfo(pg_pair.read_write)
        async with AsyncConnectionPool(dsn, close_returns=True, open=False, **sizes) as pool:
            engines = [
                create_async_engine("postgresql+psycopg://", async_creator=pool.getconn)
                for _ in range(2)
            ]
            with selector_of(place, *engines) as selector:
                await assert_alike_async(selector, "replica")
                (place / "read-only.txt").touch()
                assert selector.check().read_only
                await assert_came_back(pool, 1)

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_a_connection_of_the_drivers_own_pool_leaves_as_it_came(
    mariadb_pair: Pair, mariadb: MariaDB, place: Path
) -> None:
    need("mysql")
    url = mariadb_pair.read_write.set(drivername="mysql+mysqlconnector")
    make_table(mariadb_pair.read_write)
    query = {"pool_name": f"of_{mariadb.port}", "pool_size": "1", "pool_reset_session": "false"}
    engine = create_engine(url.update_query_dict(query), poolclass=NullPool)
    with selector_of(place, engine) as selector:
        use_in_both_modes_and_roles(selector, place / "read-only.txt")
    with engine.begin() as connection:
        connection.execute(WRITE)


@pytest.mark.parametrize("default", ["off", "on"])
def test_a_connection_of_pg8000_leaves_as_it_came(pg_pair: Pair, place: Path, default: str) -> None:
    need("pg8000")
    import pg8000

    url = pg_pair.read_write
    make_table(url)
    lent: Any = pg8000.connect(
        url.username,
        host=url.host,
        port=url.port,
        database=url.database,
        startup_params={SETTING: default},
    )
    plain, close = type(lent), lent.close
    lent.close = lambda: None  # as that of a pool
    engine = engine_of(lambda: lent, "pg8000")
    with selector_of(place, engine) as selector:
        if default == "off":
            use_in_both_modes_and_roles(selector, place / "read-only.txt")
        for mode in ("read-write", "read-only") * 2 + ("read-write",):
            with selector.engine().connect() as connection:
                set_to = connection.scalar(text(f"SHOW {SETTING}"))
                assert set_to == ("on" if mode == "read-only" else default)
                if mode == "read-only":
                    with pytest.raises(ReadOnlyError, match="SET"):
                        connection.connection.cursor().execute(f"SET {SETTING} = off")
            if mode == "read-write":
                (place / "read-only.txt").touch()
            else:
                (place / "read-only.txt").unlink()
    assert type(lent) is plain
    cursor = lent.cursor()
    cursor.execute(f"SHOW {SETTING}")
    assert list(cursor.fetchone()) == [default]
    close()
