"""SQLite: what a "connect" listener of the user's does while read-only."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, Pool, QueuePool

from sa_readonly import EngineSelector, FixedSwitch, Mode, ReadOnlyError
from tests.app import need

READ = text("SELECT n FROM note")


def driver(name: str) -> Any:
    need(name.split(".", maxsplit=1)[0])
    return importlib.import_module(name)


@pytest.fixture
def path(place: Path) -> Path:
    """A database that was never analyzed, and is not in WAL."""
    path = place / "a.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE note (n int); CREATE INDEX ns ON note (n); INSERT INTO note VALUES (1)"
    )
    connection.close()
    return path


class Listening:
    """A selector whose read-only engine has one listener, and what that has seen."""

    def __init__(self, engine: Engine, listener: Callable[[Any], object]) -> None:
        self.engine = engine
        self.seen: list[object] = []
        event.listen(engine, "connect", lambda one, _: self.seen.append(listener(one)))

    def read(self, connections: int = 2) -> None:
        with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=self.engine) as selector:
            for _ in range(connections):
                with selector.engine().connect() as connection:
                    assert connection.scalars(READ).all() == [1]
                selector.engine().dispose()
        self.engine.dispose()


def execute(statement: str) -> Callable[[Any], object]:
    def listener(connection: Any) -> object:
        cursor = connection.cursor()
        cursor.execute(statement)
        rows = cursor.fetchall()
        cursor.close()
        return rows

    return listener


def engine_of(path: Path, module: Any = sqlite3, **options: Any) -> Engine:
    return create_engine(f"sqlite:///{path}", module=module, **options)


def skips(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "is skipped" in message]


@pytest.mark.parametrize("module", ["sqlite3", "pysqlite3"])
@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA journal_mode=WAL",
        "pragma main.Journal_Mode('wal')",
        "/* ! */ PRAGMA journal_mode = wal",
    ],
)
def test_journal_mode_in_a_listener_is_skipped_and_answered_with_the_mode_that_is_there(
    path: Path, module: str, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = path.read_bytes()
    for listener in (
        execute(statement),
        lambda connection: connection.execute(statement).fetchall(),
    ):
        caplog.clear()
        listening = Listening(engine_of(path, driver(module)), listener)
        listening.read()
        assert listening.seen == [[("delete",)]] * 2
        (message,) = skips(caplog)
        assert message.lower().startswith("`pragma journal_mode = wal`")
    assert path.read_bytes() == before


def test_optimize_in_a_listener_is_skipped_so_that_all_can_be_read(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = path.read_bytes()
    module = driver("pysqlite3")
    assert module.sqlite_version_info >= (3, 46)
    for statement in ("PRAGMA optimize", "PRAGMA optimize(0x10002)"):
        caplog.clear()
        listening = Listening(engine_of(path, module), execute(statement))
        listening.read()
        assert listening.seen == [[]] * 2
        assert len(skips(caplog)) == 1
    assert path.read_bytes() == before


def test_a_listener_does_not_take_a_file_out_of_wal(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    before = path.read_bytes()
    listening = Listening(engine_of(path), execute("PRAGMA journal_mode=DELETE"))
    listening.read()
    assert listening.seen == [[("wal",)]] * 2
    assert path.read_bytes() == before


def test_a_mode_that_is_there_already_is_not_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    listening = Listening(engine_of(path), execute("PRAGMA journal_mode=WAL"))
    listening.read()
    assert listening.seen == [[("wal",)]] * 2
    assert skips(caplog) == []


def test_in_a_script_of_a_listener_only_what_writes_is_skipped(path: Path) -> None:
    def listener(connection: Any) -> object:
        connection.executescript("PRAGMA foreign_keys=ON; PRAGMA journal_mode=WAL")
        return connection.execute("PRAGMA foreign_keys").fetchall()

    before = path.read_bytes()
    listening = Listening(engine_of(path), listener)
    listening.read()
    assert listening.seen == [[(1,)]] * 2
    assert path.read_bytes() == before


@pytest.mark.parametrize("statement", ["PRAGMA user_version=7", "DELETE FROM note", "ANALYZE"])
def test_nothing_else_in_a_listener_is_skipped(path: Path, statement: str) -> None:
    listening = Listening(engine_of(path), execute(statement))
    with pytest.raises(OperationalError, match="attempt to write a readonly database"):
        listening.read()


def test_temporary_tables_keep_the_journal_that_a_listener_sets(path: Path) -> None:
    listening = Listening(engine_of(path), execute("PRAGMA temp.journal_mode=OFF"))
    listening.read()
    assert listening.seen == [[("off",)]] * 2


def test_a_connection_of_ones_own_creator_skips_without_an_answer(path: Path) -> None:
    before = path.read_bytes()
    engine = engine_of(path, creator=lambda: sqlite3.connect(path))
    listening = Listening(engine, execute("PRAGMA journal_mode=WAL"))
    listening.read()
    assert listening.seen == [[]] * 2
    assert path.read_bytes() == before


def test_a_listener_of_an_encrypted_database_is_answered_and_its_raw_cursors_are_locked(
    place: Path,
) -> None:
    need("sqlcipher3")
    path = place / "secret.db"
    engine = create_engine(f"sqlite+pysqlcipher://:secret@/{path}")
    with engine.begin() as connection:
        for statement in ("CREATE TABLE note (n int)", "INSERT INTO note VALUES (1)"):
            connection.execute(text(statement))
    engine.dispose()
    before = path.read_bytes()
    listening = Listening(engine, execute("PRAGMA journal_mode=WAL"))
    listening.read()
    assert listening.seen == [[("delete",)]] * 2
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        raw = selector.engine().raw_connection()
        for statement in ("PRAGMA query_only = OFF", "DELETE FROM note"):
            with pytest.raises(engine.dialect.loaded_dbapi.DatabaseError):
                raw.cursor().execute(statement)
        raw.close()
        selector.engine().dispose()
    assert path.read_bytes() == before


def test_a_cursor_class_of_ones_own_is_kept_in_a_listener(path: Path) -> None:
    class Own(sqlite3.Cursor):
        pass

    listening = Listening(engine_of(path), lambda connection: type(connection.cursor(Own)))
    listening.read()
    assert listening.seen == [Own, Own]


def test_a_listener_of_read_write_connections_does_all(path: Path) -> None:
    listening = Listening(engine_of(path), execute("PRAGMA journal_mode=WAL"))
    engine = listening.engine
    with EngineSelector(FixedSwitch(Mode.READ_WRITE), read_write=engine), engine.connect() as one:
        assert one.scalars(READ).all() == [1]
    engine.dispose()
    assert listening.seen == [[("wal",)]]


def test_in_a_session_the_two_are_refused(path: Path) -> None:
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine_of(path)) as selector:
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA optimize"):
            with selector.engine().connect() as connection, pytest.raises(ReadOnlyError):
                connection.execute(text(statement))
        raw = selector.engine().raw_connection()
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            raw.cursor().execute("PRAGMA journal_mode=WAL")
        raw.close()


@pytest.mark.parametrize("name", ["checkin", "close"])
@pytest.mark.parametrize("poolclass", [QueuePool, NullPool])
@pytest.mark.parametrize("module", ["sqlite3", "pysqlite3.dbapi2"])
def test_what_optimizes_as_a_connection_is_given_back_or_closed_does_nothing(
    path: Path, module: str, poolclass: type[Pool], name: str
) -> None:
    """As SQLite's manual advises it; from 3.46 on it would write here."""
    before = path.read_bytes()
    engine = engine_of(path, driver(module), poolclass=poolclass)
    seen: list[object] = []
    event.listen(engine, name, lambda one, _: seen.append(execute("PRAGMA optimize")(one)))
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        with selector.engine().connect() as connection:
            assert connection.scalars(READ).all() == [1]
        selector.engine().dispose()
    assert seen == [[]]
    assert path.read_bytes() == before


def test_a_listener_of_an_async_engine_is_answered_too(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    need("aiosqlite")
    caplog.set_level(logging.WARNING, "sa_readonly")
    before = path.read_bytes()

    async def run() -> list[object]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        seen: list[object] = []

        @event.listens_for(engine.sync_engine, "connect")
        def listener(connection: Any, _: object) -> None:
            seen.append(execute("PRAGMA journal_mode=WAL")(connection))
            seen.append(execute("PRAGMA optimize")(connection))

        async with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
            for _ in range(2):
                async with selector.engine().connect() as connection:
                    assert (await connection.scalars(READ)).all() == [1]
                await selector.engine().dispose()
        await engine.dispose()
        return seen

    assert asyncio.run(run()) == [[("delete",)], []] * 2
    assert len(skips(caplog)) == 2
    assert path.read_bytes() == before
