"""The guard: async sessions and drivers are guarded alike."""

# ruff: noqa: E501  # SQL is easier to read in one line
from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sa_readonly import EngineSelector, FileSwitch, FixedSwitch, Mode, ReadOnlyError, RoutingSession
from tests.postgres import Pair
from tests.roads import Base, Thing


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "aiosqlite"])
@pytest.mark.parametrize("separate", [True, False], ids=["separate engines", "twin"])
def test_an_async_session_is_guarded_alike(
    request: pytest.FixtureRequest, driver: str, separate: bool, tmp_path: Path
) -> None:
    pytest.importorskip(driver, reason=f"NOT TESTED with {driver}: it is not installed")
    if driver == "aiosqlite":
        url: Any = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    else:
        pair = request.getfixturevalue("pg_pair")
        url = pair.read_write.set(drivername=f"postgresql+{driver}")
    file = tmp_path / "read-only"

    async def go() -> None:
        read_write = create_async_engine(url)
        read_only = create_async_engine(url) if separate else None
        async with read_write.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await read_write.dispose()
        async with EngineSelector(
            FileSwitch(file, ttl=60), read_write=read_write, read_only=read_only, watch=False
        ) as selector:

            def session() -> AsyncSession:
                return AsyncSession(selector, sync_session_class=RoutingSession)

            for _ in range(2):
                file.write_text("")
                selector.check()
                async with session() as one:
                    (await one.scalars(select(Thing))).all()
                    one.add(Thing(name="x"))
                    with pytest.raises(ReadOnlyError):
                        await one.commit()
                async with session() as one:
                    with pytest.raises(ReadOnlyError):
                        await one.execute(text("INSERT INTO thing (name) VALUES ('x')"))
                for lift in (
                    ("PRAGMA query_only = OFF", "ATTACH 'x' AS y")
                    if driver == "aiosqlite"
                    else ("SET TRANSACTION READ WRITE", "SET default_transaction_read_only = off")
                ):
                    async with selector.engine().connect() as connection:
                        raw = await connection.get_raw_connection()
                        with pytest.raises((ReadOnlyError, sqlite3.DatabaseError)):
                            await connection.run_sync(
                                lambda _, raw=raw, lift=lift: raw.cursor().execute(lift)
                            )
                if driver != "aiosqlite":
                    async with selector.engine().connect() as connection:
                        assert (
                            await connection.scalar(text("SHOW default_transaction_read_only"))
                            == "on"
                        )
                        assert await connection.scalar(text("SHOW transaction_read_only")) == "on"
                        with pytest.raises(ReadOnlyError):
                            await connection.execute(text("SELECT lo_import('/etc/passwd')"))
                    async with session() as one:
                        with pytest.raises(ReadOnlyError):
                            await one.execute(select(Thing).with_for_update())
                file.unlink()
                selector.check()
                async with session() as one:
                    one.add(Thing(name="x"))
                    await one.commit()
                    if driver != "aiosqlite":
                        assert await one.scalar(text("SHOW default_transaction_read_only")) == "off"
                await read_write.dispose()
        await read_write.dispose()
        if read_only is not None:
            await read_only.dispose()

    asyncio.run(go())


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_an_async_drivers_refusal_is_ours(pg_pair: Pair, driver: str) -> None:
    pytest.importorskip(driver, reason=f"NOT TESTED with {driver}: it is not installed")
    url = pg_pair.read_write.set(drivername=f"postgresql+{driver}")

    async def go() -> None:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE t (i int)"))
            await connection.execute(
                text(
                    "CREATE FUNCTION w() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (1) RETURNING 1'"
                )
            )
        await engine.dispose()
        async with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
            for level in ("READ COMMITTED", "AUTOCOMMIT"):
                reading = selector.engine().execution_options(isolation_level=level)
                async with reading.connect() as connection:
                    with pytest.raises(ReadOnlyError) as caught:
                        await connection.execute(text("SELECT w()"))
                    assert getattr(caught.value.__cause__, "sqlstate", None) == "25006"
        await engine.dispose()

    asyncio.run(go())
