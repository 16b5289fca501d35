"""What an error says is what happened: whose it is, why, and what to do."""

from __future__ import annotations

import asyncio
import os
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import InvalidRequestError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sa_readonly import EngineSelector, FixedSwitch, Mode, ReadOnlyError
from sa_readonly.guard import is_refusal
from tests.app import WHICH, App, Book, fill, sqlite_urls

NOBODY = 65534
READONLY = "attempt to write a readonly database"


# -- SQLite can't read, which is no refusal --------------------------------------------------


@pytest.fixture
def wal(place: Path) -> Iterator[Path]:
    """A WAL database in a directory that this process may not write."""
    place.chmod(0o755)
    directory = place / "wal"
    directory.mkdir()
    path = directory / "ro.db"
    fill(sqlite_urls(directory, "ro")["ro"], "ro")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
    with unwritable(directory):
        yield path


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    root = os.geteuid() == 0
    directory.chmod(0o555)
    if root:  # who may write everywhere
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o755)


def routed(url: str, place: Path, make: Callable[..., Any]) -> EngineSelector:
    return EngineSelector(
        FixedSwitch(Mode.READ_ONLY),
        read_write=make(f"{url}/{place}/rw.db", poolclass=NullPool),
        read_only=make(url + f"/file:{place}/wal/ro.db?mode=ro&uri=true", poolclass=NullPool),
    )


def test_sqlite_that_can_not_read_is_told_by_its_own_error(wal: Path, place: Path) -> None:
    with (
        closing(routed("sqlite://", place, create_engine)) as selector,
        selector.engine().connect() as connection,
        pytest.raises(OperationalError, match=READONLY),
    ):
        connection.scalar(WHICH)
    assert wal.exists()


async def read_async(place: Path) -> None:
    async with (
        routed("sqlite+aiosqlite://", place, create_async_engine) as selector,
        selector.engine().connect() as connection,
    ):
        await connection.scalar(WHICH)


@pytest.mark.usefixtures("wal")
def test_so_is_it_under_aiosqlite(place: Path) -> None:
    with pytest.raises(OperationalError, match=READONLY):
        asyncio.run(read_async(place))


def test_where_sqlite_tells_no_code_it_is_asked_whether_it_can_read(wal: Path) -> None:
    error = sqlite3.OperationalError(READONLY)  # Python 3.10 gives no code
    with closing(sqlite3.connect(f"file:{wal}?mode=ro", uri=True)) as connection:
        assert not is_refusal(error, connection)
    with closing(sqlite3.connect(":memory:")) as connection:
        assert is_refusal(error, connection)


def test_what_sqlite_refuses_is_a_refusal(lite: App) -> None:
    lite.on()
    lite.start()
    with lite.selector.engine().connect() as connection:
        # Past Python's examination, so that the server alone is left.
        connection.dialect._sa_readonly_passed["delete from book"] = None
        with pytest.raises(ReadOnlyError, match="The statement is refused") as caught:
            connection.exec_driver_sql("delete from book")
    assert READONLY in str(caught.value.__cause__)


# -- the code --------------------------------------------------------------------------------


def test_the_error_has_the_code_that_failover_looks_for(lite: App) -> None:
    lite.start()
    lite.on()
    with lite.sessions() as session, pytest.raises(ReadOnlyError) as caught:
        session.add(Book(title="no"))
        session.flush()
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value)), ReadOnlyError("no")):
        assert (error.sqlstate, error.pgcode) == ("25006", "25006")
        assert isinstance(error, InvalidRequestError)


def test_our_own_error_is_not_taken_for_the_servers(lite: App) -> None:
    lite.on()
    lite.start()
    told: list[BaseException] = []
    event.listen(lite.engines["ro"], "handle_error", told.append)
    with lite.selector.engine().connect() as connection, pytest.raises(ReadOnlyError) as caught:
        connection.execute(text("delete from book"))
    assert str(caught.value).startswith("DELETE is refused")
    assert caught.value.__cause__ is None
    assert not is_refusal(caught.value)
