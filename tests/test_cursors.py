"""The guard: cursors and what they execute, and what becomes of a server's refusal."""

# ruff: noqa: E501, PLC0415  # SQL is easier to read in one line; drivers where they are needed
from __future__ import annotations

import asyncio
import sqlite3
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from sa_readonly import EngineSelector, FixedSwitch, Mode, ReadOnlyError, RoutingSession
from sa_readonly.engines import guarded
from sa_readonly.engines.locks import is_refusal
from tests.postgres import Pair


def test_a_user_cursor_factory_is_kept(pg_pair: Pair) -> None:
    from psycopg2.extras import DictCursor

    arguments = {"cursor_factory": DictCursor}
    engine = create_engine(pg_pair.read_write, connect_args=arguments)
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        raw = selector.engine().raw_connection()
        cursor = raw.cursor()
        assert isinstance(cursor, DictCursor)
        with pytest.raises(ReadOnlyError, match="READ WRITE is refused"):
            cursor.execute("SET TRANSACTION READ WRITE")
        raw.close()
    engine.dispose()


def test_cursors_of_a_connection_whose_class_chooses_theirs_are_kept(pg_pair: Pair) -> None:
    from psycopg2.extras import DictConnection

    arguments = {"connection_factory": DictConnection}
    engine = create_engine(pg_pair.read_write, connect_args=arguments)
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        raw = selector.engine().raw_connection()
        cursor: Any = raw.cursor()
        with pytest.raises(ReadOnlyError, match="READ WRITE is refused"):
            cursor.execute("SET TRANSACTION READ WRITE")
        cursor.execute("SELECT 1 AS one")
        assert cursor.fetchone()["one"] == 1
        raw.close()
    engine.dispose()


@pytest.mark.parametrize(
    ("driver", "lifted"),
    [
        ("psycopg2", "transaction"),
        ("psycopg2", "session"),
        ("psycopg", "transaction"),
        ("psycopg", "session"),
        ("asyncpg", "transaction"),
    ],
)
def test_a_text_that_was_executed_before_is_refused_once_a_lock_of_its_connection_is_open(
    pg_pair: Pair, driver: str, lifted: str
) -> None:
    pytest.importorskip(driver)

    def try_it(connection: Any) -> None:
        for _ in range(2):
            assert connection.scalar(text("SELECT 1")) == 1
        connection.rollback()
        opened = connection.connection.dbapi_connection
        if lifted == "transaction":
            setattr(opened, "read_only" if driver == "psycopg" else "readonly", False)
        else:
            opened.autocommit = True
            if driver == "psycopg2":
                from psycopg2.extensions import cursor

                unguarded = opened.cursor(cursor_factory=cursor)
            else:
                from psycopg import Cursor

                unguarded = Cursor(opened)
            unguarded.execute("SELECT set_config('default_transaction_read_only', 'off', false)")
            unguarded.close()
        with pytest.raises(ReadOnlyError, match=f"A {lifted} set to READ WRITE"):
            connection.scalar(text("SELECT 1"))
        connection.invalidate()

    async def try_async(selector: EngineSelector) -> None:
        async with selector.engine().connect() as connection:
            await connection.run_sync(try_it)

    url = pg_pair.read_write.set(drivername=f"postgresql+{driver}")
    given: Any = create_async_engine(url) if driver == "asyncpg" else create_engine(url)
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=given) as selector:
        if driver == "asyncpg":
            asyncio.run(try_async(selector))
            asyncio.run(given.dispose())
        else:
            with selector.engine().connect() as connection:
                try_it(connection)
            given.dispose()


class Proxy:
    """A cursor as tracing wraps it: it says that it is of the class behind it."""

    def __init__(self, cursor: Any, seen: list[str]) -> None:
        self.__dict__.update(behind=cursor, seen=seen)

    @property
    def __class__(self) -> Any:
        return type(self.behind)

    @__class__.setter
    def __class__(self, new: Any) -> None:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["behind"], name)

    def execute(self, query: Any, *args: Any) -> Any:
        self.seen.append(query)
        return self.behind.execute(query, *args)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("how", ["a proxy", "a patch"])
def test_what_traces_the_drivers_cursors_sees_each_execution_of_a_text(
    pg_pair: Pair, driver: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    module = pytest.importorskip("psycopg2.extensions" if driver == "psycopg2" else driver)
    base = module.cursor if driver == "psycopg2" else module.Cursor

    class Theirs(base):  # type: ignore[misc]  # of Any
        pass

    url = pg_pair.read_write.set(drivername=f"postgresql+{driver}")
    engine = create_engine(url, connect_args={"cursor_factory": Theirs})
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        routed = selector.engine()
        with routed.connect() as connection:
            connection.scalar(text("SELECT 42"))
            connection.scalar(text("SELECT 42"))
        if how == "a proxy":
            create = routed.dialect.execution_ctx_cls.create_default_cursor
            monkeypatch.setattr(
                routed.dialect.execution_ctx_cls,
                "create_default_cursor",
                lambda context: Proxy(create(context), seen),
            )
        else:
            run = base.execute

            def execute(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
                seen.append(query)
                return run(self, query, *args, **kwargs)

            monkeypatch.setattr(Theirs, "execute", execute, raising=False)
        with routed.connect() as connection:
            for _ in range(3):
                assert connection.scalar(text("SELECT 42")) == 42
        assert seen == ["SELECT 42"] * 3
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_text_with_a_trace_of_its_own_each_time_is_examined_once(
    pg_pair: Pair, monkeypatch: pytest.MonkeyPatch, driver: str, place: str
) -> None:
    examined: list[str] = []
    real = guarded.examine

    def examine(statement: str, *args: Any, **options: Any) -> str | None:
        examined.append(statement)
        return real(statement, *args, **options)

    def traced(statement: str) -> str:
        trace = f"/*traceparent='00-{uuid4().hex}-01',route='%%2Fbooks'*/"
        return f"{trace} {statement}" if place == "before" else f"{statement} {trace}"

    monkeypatch.setattr(guarded, "examine", examine)
    engine = create_engine(pg_pair.read_write.set(drivername=f"postgresql+{driver}"))
    event.listen(
        engine,
        "before_cursor_execute",
        lambda _conn, _cursor, statement, values, *_: (traced(statement), values),
        retval=True,
    )
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        for number in range(5):
            with selector.engine().connect() as connection:
                assert connection.scalar(text("SELECT :one"), {"one": number}) == number
                cursor = connection.connection.cursor()
                cursor.execute(traced("SELECT %s"), (number,))
                assert cursor.fetchone() == (number,)
                with pytest.raises(ReadOnlyError):
                    connection.execute(text("SELECT nextval('s')"))
    reads = [one for one in examined if "nextval" not in one and "traceparent" in one]
    assert len(reads) == 2
    engine.dispose()


def test_a_stream_goes_on_after_the_selector_is_closed(pg_pair: Pair) -> None:
    pytest.importorskip("asyncpg")
    engines = [create_async_engine(url.set(drivername="postgresql+asyncpg")) for url in pg_pair]

    async def main() -> list[Any]:
        switch = FixedSwitch(Mode.READ_ONLY)
        selector = EngineSelector(switch, read_write=engines[0], read_only=engines[1])
        async with selector.engine().connect() as connection:
            await connection.execute(text("SELECT 1"))
            selector.close()
            result = await connection.stream(text("SELECT 1"))
            rows = [tuple(row) async for row in result]
        for engine in engines:
            await engine.dispose()
        return rows

    assert asyncio.run(main()) == [(1,)]


def test_a_connection_reads_on_after_the_selector_is_closed_and_the_server_refuses_a_write(
    pg_pair: Pair,
) -> None:
    engines = [create_engine(url) for url in pg_pair]
    with engines[1].begin() as connection:
        connection.execute(text("CREATE TABLE t (i int)"))
    switch = FixedSwitch(Mode.READ_ONLY)
    selector = EngineSelector(switch, read_write=engines[0], read_only=engines[1])
    with selector.engine().connect() as connection:
        connection.execute(text("SELECT 1"))
        selector.close()
        assert connection.scalar(text("SELECT 2")) == 2
        cursor = connection.connection.cursor()
        cursor.execute("SELECT 3")
        assert cursor.fetchall() == [(3,)]
        with pytest.raises(DBAPIError, match="read-only transaction"):
            connection.execute(text("INSERT INTO t VALUES (1)"))
    with engines[1].begin() as connection:  # which is the application's own again
        connection.execute(text("INSERT INTO t VALUES (1)"))
    for engine in engines:
        engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_the_servers_refusal_has_the_drivers_exception_as_its_cause(
    pg_pair: Pair, driver: str
) -> None:
    pytest.importorskip(driver)
    engine = create_engine(pg_pair.read_write.set(drivername=f"postgresql+{driver}"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (i int)"))
        connection.execute(
            text(
                "CREATE FUNCTION w(int) RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES ($1) RETURNING 1'"
            )
        )
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        with RoutingSession(selector) as session:
            with pytest.raises(ReadOnlyError) as caught:
                session.execute(text("SELECT w(1)"))
            assert getattr(caught.value.__cause__, "sqlstate", None) == "25006" or (
                caught.value.__cause__.pgcode == "25006"
            )
            assert caught.value.statement == "SELECT w(1)"
            session.rollback()
            assert session.scalar(text("SELECT count(*) FROM t")) == 0
        with RoutingSession(selector) as session:
            rows = session.execute(
                text("SELECT CASE WHEN n > 3 THEN w(n) END FROM generate_series(1, 5) n"),
                execution_options={"yield_per": 1},
            )
            assert rows.fetchone() == (None,)
            with pytest.raises(ReadOnlyError) as caught:
                rows.all()
            assert caught.value.__cause__ is not None
    engine.dispose()


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (sqlite3.OperationalError("attempt to write a readonly database"), True),
        (sqlite3.OperationalError("no such table"), False),
        (Exception(1792, "Cannot execute statement in a READ ONLY transaction"), True),
        (Exception(1836, "Running in read-only mode"), True),
        (Exception(1290, "running with the --read-only option"), True),
        (Exception(1290, "running with the --super-read-only option"), True),
        (Exception(1290, "running with the --skip-thread-priority option"), False),
        (Exception(1290, "running with the --secure-file-priv option"), False),
        (Exception({"C": "25006"}), True),
        (Exception(), False),
    ],
)
def test_a_refusal_of_the_server_is_known_by_its_number(error: Exception, refused: bool) -> None:
    assert is_refusal(error) == refused
