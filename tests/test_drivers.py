"""The drivers: what is examined on their own cursors, and which locks are put back."""

# ruff: noqa: E501  # SQL is easier to read in one line; drivers where they are needed
from __future__ import annotations

import asyncio
import importlib
import io
from collections import deque
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    ReadOnlyError,
)
from sa_readonly.engines.dialects import ATTRIBUTES
from sa_readonly.engines.doors import Door
from sa_readonly.workers.verdict import judge
from tests.app import need
from tests.test_calls import calls

POSTGRESQL = {
    "psycopg2": "psycopg2",
    "psycopg": "psycopg",
    "psycopg_async": "psycopg",
    "asyncpg": "asyncpg",
    "pg8000": "pg8000",
    "psycopg2cffi": "psycopg2cffi",
}
MYSQL = {
    "pymysql": "pymysql",
    "cymysql": "cymysql",
    "mysqldb": "MySQLdb",
    "mysqlconnector": "mysql",
    "mariadbconnector": "mariadb",
    "aiomysql": "aiomysql",
    "asyncmy": "asyncmy",
}
ASYNC = {"psycopg_async", "asyncpg", "aiomysql", "asyncmy"}

DRIVERS = {**POSTGRESQL, **MYSQL}

# lift() opens the session's lock from within the server, where no text tells of it.
SCHEMA = {
    "postgresql": [
        "CREATE TABLE t (i int)",
        "CREATE FUNCTION lift() RETURNS text LANGUAGE sql AS $$ SELECT set_config('default_transaction_read_only', 'off', false) $$",
        "CREATE FUNCTION w() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (1) RETURNING 1'",
    ],
    "mysql": [
        "CREATE TABLE t (i int)",
        "CREATE FUNCTION lift() RETURNS int BEGIN SET SESSION TRANSACTION READ WRITE; RETURN 1; END",
        "CREATE FUNCTION w() RETURNS int BEGIN INSERT INTO t VALUES (1); RETURN 1; END",
    ],
}
LIFTS = {
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "mysql": "SET SESSION TRANSACTION READ WRITE",
}


class Database:
    """A database with a function that opens its session's lock and one that writes."""

    def __init__(self, request: pytest.FixtureRequest, driver: str, kind: str = "") -> None:
        self.kind = kind or ("mysql" if driver in MYSQL else "postgresql")
        need(DRIVERS.get(driver, "psycopg2"))
        pair = request.getfixturevalue("pg_pair" if self.kind == "postgresql" else "mariadb_pair")
        self.driver, self.plain = driver, pair.read_write
        with self.connect_plainly() as connection:
            for statement in SCHEMA[self.kind]:
                connection.execute(text(statement))
            connection.commit()

    def connect_plainly(self) -> Connection:
        return create_engine(self.plain, poolclass=NullPool).connect()

    def rows(self) -> Any:
        with self.connect_plainly() as connection:
            return connection.scalar(text("SELECT count(*) FROM t"))

    def try_it(self, *steps: Any, listener: Any = None, **more: Any) -> None:
        """Call each with a connection that the pool has given out anew, which is always the same.

        :param listener: called with each new connection.
        :param more: for the selector.
        """
        url = self.plain.set(drivername=f"{self.kind}+{self.driver}")
        options = {"pool_size": 1, "max_overflow": 0}
        if self.driver not in ASYNC:
            engine = create_engine(url, **options)
            if listener is not None:
                event.listen(engine, "connect", listener)
            switch = FixedSwitch(Mode.READ_ONLY)
            with EngineSelector(switch, read_write=engine, **more) as selector:
                for step in steps:
                    with selector.engine().connect() as connection:
                        step(connection)
                selector.engine().dispose()
            return

        async def main() -> None:
            engine = create_async_engine(url, **options)
            if listener is not None:
                event.listen(engine.sync_engine, "connect", listener)
            async with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
                for step in steps:
                    async with selector.engine().connect() as connection:
                        await connection.run_sync(step)
                await selector.engine().dispose()

        asyncio.run(main())


@pytest.fixture(params=list(DRIVERS))
def database(request: pytest.FixtureRequest) -> Database:
    return Database(request, request.param)


def test_what_a_function_opens_at_the_server_is_shut_before_the_next_one_has_the_connection(
    database: Database,
) -> None:
    lifted: list[object] = []

    def lift(connection: Connection) -> None:
        assert connection.scalar(text("SELECT 1")) == 1
        if database.driver in ATTRIBUTES:
            lifted.append(connection.scalar(text("SELECT pg_backend_pid()")))
        connection.execute(text("SELECT lift()"))
        connection.commit()

    def write(connection: Connection) -> None:
        # What had the lock in its start-up packet is closed: a SET might reach a pooler's session.
        if database.driver in ATTRIBUTES:
            assert connection.scalar(text("SELECT pg_backend_pid()")) not in lifted
        if database.kind == "postgresql":  # which has another lock beside this one
            assert connection.scalar(text("SHOW default_transaction_read_only")) == "on"
        with pytest.raises(ReadOnlyError) as caught:
            connection.execute(text("SELECT w()"))
        assert caught.value._kind == "server"
        connection.rollback()

    database.try_it(write, lift, write, write)
    assert database.rows() == 0


def test_a_flip_takes_the_connections_of_each_driver_away_and_gives_them_back(
    database: Database, tmp_path: Path
) -> None:
    url = database.plain.set(drivername=f"{database.kind}+{database.driver}")
    file = tmp_path / "read-only.txt"
    switch = FileSwitch(file, ttl=3600)

    def use(selector: Any, engine: Any) -> Iterator[Any]:
        """Yield what is to be done on a connection, or what is to be called."""
        door, memory = (
            Door.of(getattr(engine, "sync_engine", engine)),
            selector._worker.counts.trace,
        )
        yield lambda connection: connection.execute(text("INSERT INTO t VALUES (1)"))
        assert (door.connections, sum(memory.memory[:])) == (1, 0)
        yield lambda connection: flip_in(connection, sum(memory.memory[:]))
        assert (door.connections, sum(memory.memory[:])) == (0, 0)
        selector._worker.due()
        assert [why for _, why in judge(switch.identify, selector.registry).waiting] == []
        yield refused
        file.unlink()
        selector.switch.check()
        yield lambda connection: connection.execute(text("INSERT INTO t VALUES (3)"))

    def flip_in(connection: Connection, in_use: int) -> None:
        connection.execute(text("INSERT INTO t VALUES (2)"))
        assert in_use == 1
        file.touch()
        assert switch.check().read_only
        connection.execute(text("INSERT INTO t VALUES (2)"))

    def refused(connection: Connection) -> None:
        with pytest.raises(ReadOnlyError):
            connection.execute(text("INSERT INTO t VALUES (4)"))
        connection.rollback()

    if database.driver not in ASYNC:
        engine = create_engine(url)
        with EngineSelector(switch, read_write=engine, watch=False) as selector:
            for step in use(selector, engine):
                with selector.engine().begin() as connection:
                    step(connection)
            selector.engine().dispose()
    else:

        async def main() -> None:
            engine = create_async_engine(url)
            async with EngineSelector(switch, read_write=engine, watch=False) as selector:
                for step in use(selector, engine):
                    async with selector.engine().begin() as connection:
                        await connection.run_sync(step)
                await selector.engine().dispose()

        asyncio.run(main())
    assert database.rows() == 4


def refuses(connection: Connection) -> None:
    """What a function writes is refused, and a read is not."""
    assert connection.scalar(text("SELECT count(*) FROM t")) == 0
    with pytest.raises(ReadOnlyError):
        connection.execute(text("SELECT w()"))
    connection.rollback()


def test_what_a_connect_listener_opens_is_shut_before_the_connection_is_given_out(
    database: Database,
) -> None:
    def by_text(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(LIFTS[database.kind])
        cursor.close()
        connection.commit()

    def by_the_attribute(connection: Any, _: object) -> None:
        if database.driver == "psycopg_async":
            connection.set_read_only(False)
        else:
            setattr(connection, ATTRIBUTES[database.driver], False)

    def by_the_attribute_in_what_it_leaves_open(connection: Any, _: object) -> None:
        by_the_attribute(connection, _)
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM t")
        cursor.close()

    def in_what_it_leaves_open(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(LIFTS[database.kind])
        cursor.execute("SELECT count(*) FROM t")
        cursor.fetchall()
        cursor.close()

    database.try_it(refuses, listener=by_text)
    database.try_it(refuses, listener=in_what_it_leaves_open)
    if database.driver in ATTRIBUTES:
        database.try_it(refuses, listener=by_the_attribute)
        database.try_it(refuses, listener=by_the_attribute_in_what_it_leaves_open)
    assert database.rows() == 0


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "psycopg_async", "asyncpg"])
def test_after_a_text_that_ends_the_transaction_the_next_one_is_read_only_as_well(
    request: pytest.FixtureRequest, driver: str
) -> None:
    database = Database(request, driver)
    texts: list[tuple[str, Any]] = [("COMMIT", None), ("ROLLBACK AND CHAIN", None)]
    if driver == "psycopg2":  # which sends several in one, and puts a value into a literal
        texts += [("SELECT 1; ROLLBACK", None), ("SELECT '%s'", ("; COMMIT; --",)), ("COPY", None)]

    def send(connection: Connection, statement: str, values: Any) -> None:
        if statement == "COPY":
            cursor: Any = connection.connection.cursor()
            cursor.copy_expert("COPY (SELECT 1) TO STDOUT; COMMIT", io.StringIO())
        else:
            connection.exec_driver_sql(statement, values)

    def end(connection: Connection) -> None:
        for statement, values in texts:
            for _ in range(2):  # a text that was sent before is looked at as well
                assert connection.scalar(text("SELECT 1")) == 1
                send(connection, statement, values)
            connection.execute(text("SELECT lift()"))
            with pytest.raises(ReadOnlyError) as caught:
                connection.execute(text("SELECT w()"))
            assert caught.value._kind == "server"
            connection.rollback()

    database.try_it(end, end)
    assert database.rows() == 0


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async"])
def test_no_text_ends_a_transaction_in_a_pipeline(
    request: pytest.FixtureRequest, driver: str
) -> None:
    """There psycopg does not notice it before it fetches what the server says."""
    database = Database(request, driver)

    def end(connection: Connection) -> None:
        opened: Any = connection.connection.driver_connection
        cursor = opened.cursor()
        done(cursor.execute("COMMIT"))
        pipeline = opened.pipeline()
        done((pipeline.__enter__ if driver == "psycopg" else pipeline.__aenter__)())
        done(cursor.execute("SELECT 1"))
        with pytest.raises(ReadOnlyError, match="COMMIT in a text of a pipeline"):
            done(cursor.execute("COMMIT"))
        leave = pipeline.__exit__ if driver == "psycopg" else pipeline.__aexit__
        done(leave(None, None, None))
        connection.rollback()

    database.try_it(end)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_connection_whose_attribute_is_unset_is_asked_for_its_session(
    request: pytest.FixtureRequest, driver: str
) -> None:
    database = Database(request, driver)

    def unset(connection: Connection) -> None:
        setattr(connection.connection.dbapi_connection, ATTRIBUTES[driver], None)
        assert connection.scalar(text("SELECT 2")) == 2
        connection.execute(text("SELECT lift()"))
        connection.commit()
        with pytest.raises(ReadOnlyError, match="A session set to READ WRITE"):
            connection.execute(text("SELECT w()"))

    database.try_it(unset, unset)
    assert database.rows() == 0


def test_a_connection_of_ones_own_creator_that_is_reset_writes_no_more_than_before(
    request: pytest.FixtureRequest,
) -> None:
    """psycopg2's reset() takes both locks off: the attribute, and what a SET has set."""
    database = Database(request, "psycopg2")
    plain = create_engine(database.plain, poolclass=NullPool)
    arguments = plain.dialect.create_connect_args(plain.url)[1]
    engine = create_engine(database.plain, creator=lambda: plain.dialect.connect(**arguments))
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        raw = selector.engine().raw_connection()
        opened: Any = raw.driver_connection
        opened.reset()
        with pytest.raises(ReadOnlyError, match="A session set to READ WRITE"):
            opened.cursor().execute("SELECT w()")
        raw.close()
        with selector.engine().connect() as connection:
            refuses(connection)
        selector.engine().dispose()
    assert database.rows() == 0


HIDING = "*/ FOR UPDATE -- "


@pytest.mark.parametrize("driver", [one for one in MYSQL if one != "mariadbconnector"])
def test_a_value_that_ends_a_literal_is_refused_whoever_puts_it_there(
    request: pytest.FixtureRequest, driver: str
) -> None:
    database = Database(request, driver)

    def hide(connection: Connection) -> None:
        # mysql-connector-python fills %s alone, also in %%s; the others fill by Python's %.
        filled = (
            ["SELECT '%%s'"] if driver == "mysqlconnector" else ["SELECT '%20s'", "SELECT '%r'"]
        )
        values = (HIDING,)
        for statement in ("SELECT '%s'", "SELECT 1 /* %s */", *filled):
            with pytest.raises(ReadOnlyError):
                connection.exec_driver_sql(statement, values)
            with pytest.raises(ReadOnlyError):
                connection.exec_driver_sql(statement, [("1",), values])
            connection.rollback()
        assert str(connection.exec_driver_sql("SELECT '%s'", (5,)).scalar()) == "5"
        assert connection.exec_driver_sql("SELECT %s", (HIDING,)).scalar() == HIDING

    database.try_it(hide)
    assert database.rows() == 0


# By driver, the name that its execute() has for the text.
NAMED = {
    "psycopg2": "query",
    "asyncpg": "operation",
    "pg8000": "operation",
    "pymysql": "query",
    "mysqlconnector": "operation",
    "mariadbconnector": "sql",
    "aiomysql": "operation",
}


@pytest.mark.parametrize("driver", list(NAMED))
def test_a_text_that_is_given_by_its_name_is_examined_too(
    request: pytest.FixtureRequest, driver: str
) -> None:
    database, name = Database(request, driver), NAMED[driver]

    def use_raw(connection: Connection) -> None:
        cursor: Any = connection.connection.cursor()
        for method in (cursor.execute, cursor.executemany):
            with pytest.raises(ReadOnlyError, match="SET"):
                method(**{name: LIFTS[database.kind]})
        cursor.execute(**{name: "SELECT 1"})
        assert [tuple(row) for row in cursor.fetchall()] == [(1,)]
        with pytest.raises(TypeError):
            cursor.execute()
        cursor.close()
        connection.connection.rollback()

    database.try_it(use_raw)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async"])
def test_a_value_that_ends_a_literal_in_a_copy_is_refused(
    request: pytest.FixtureRequest, driver: str
) -> None:
    """psycopg's other texts are filled by the server; this one it fills itself."""
    database = Database(request, driver)

    def copy(connection: Connection) -> None:
        cursor: Any = connection.connection.driver_connection.cursor()  # type: ignore[union-attr]  # it is connected

        def read(statement: str, value: Any) -> Any:
            copying = cursor.copy(statement, (value,))
            if driver == "psycopg":
                with copying as rows:
                    return list(rows.rows())

            async def all_of_them() -> Any:
                async with copying as rows:
                    return [row async for row in rows.rows()]

            return await_only(all_of_them())

        with pytest.raises(ReadOnlyError, match="advisory"):
            read("COPY (SELECT '%s') TO STDOUT", "||pg_try_advisory_xact_lock(7)||")
        assert read("COPY (SELECT '%s') TO STDOUT", "||7||") == [("7",)]
        assert read("COPY (SELECT %s) TO STDOUT", "'||7||") == [("'||7||",)]
        connection.connection.rollback()

    database.try_it(copy)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg2cffi"])
def test_a_value_that_is_sql_is_examined(request: pytest.FixtureRequest, driver: str) -> None:
    """AsIs, and what an adapter makes of another class: the driver puts it into the text."""
    database = Database(request, driver)
    extensions = importlib.import_module(f"{driver}.extensions")

    class Expression(str):
        pass

    extensions.register_adapter(Expression, extensions.AsIs)

    def use(connection: Connection) -> None:
        raw: Any = connection.connection.cursor()
        query = text("SELECT :value")
        for kind in (extensions.AsIs, Expression):
            lock, lifts = kind("pg_try_advisory_xact_lock(7)"), kind("READ WRITE")
            # The text alone only reads, also one that has passed.
            assert connection.scalar(query, {"value": "a"}) == "a"
            for send in (
                lambda value: connection.execute(query, {"value": value}),
                lambda value: connection.execute(query, {"value": ["a", value]}),
                lambda value: connection.execute(query, [{"value": "a"}, {"value": value}]),
                lambda value: connection.exec_driver_sql("SELECT %s", (value,)),
                lambda value: raw.execute("SELECT %s", (value,)),
                lambda value: raw.execute("SELECT %(one)s", {"one": value}),
                lambda value: raw.executemany("SELECT %s", iter([("a",), (value,)])),
                lambda value: raw.callproc("quote_literal", [value]),
            ):
                with pytest.raises(ReadOnlyError, match="advisory"):
                    send(lock)
            with pytest.raises(ReadOnlyError, match="READ WRITE"):
                raw.execute("SET TRANSACTION %s", (lifts,))
            connection.connection.rollback()
            names = {"name": kind("w"), "table": kind("(SELECT 5 AS w) AS v")}
            assert connection.scalar(text("SELECT :name FROM :table"), names) == 5
            raw.executemany("SELECT %s", iter([("a",), (kind("now()"),)]))
            raw.callproc("quote_literal", [kind("7")])
            assert raw.fetchall() == [("'7'",)]
            connection.connection.rollback()

    database.try_it(use)


@pytest.mark.parametrize("driver", ["psycopg2", "pymysql"])
def test_a_text_that_ends_within_a_literal_is_not_taken_for_one_with_a_trace_behind_it(
    request: pytest.FixtureRequest, driver: str
) -> None:
    database = Database(request, driver)

    def use(connection: Connection) -> None:
        with pytest.raises(DBAPIError):
            connection.exec_driver_sql("SELECT 'a")
        connection.rollback()
        with pytest.raises(ReadOnlyError, match="FOR UPDATE"):
            connection.exec_driver_sql("SELECT 'a/*x' FROM t FOR UPDATE -- */")

    database.try_it(use)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "psycopg2cffi"])
def test_start_up_options_that_libpq_finds_elsewhere_are_kept(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str
) -> None:
    database = Database(request, driver)
    url = database.plain.set(drivername=f"postgresql+{driver}")
    options = "-c search_path=elsewhere,public"
    (tmp_path / "services").write_text(f"[app]\noptions={options}\n", encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    text_of_all = "conninfo" if driver == "psycopg" else "dsn"

    def look(*given: dict[str, Any]) -> None:
        for arguments in given:
            engine = create_engine(url, connect_args=arguments)
            with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
                with selector.engine().connect() as connection:
                    assert connection.scalar(text("SHOW search_path")) == "elsewhere,public"
                    assert connection.scalar(text("SHOW default_transaction_read_only")) == "on"
                selector.engine().dispose()

    look({"service": "app"}, {"options": options})
    if driver != "psycopg2cffi":  # which takes no user= beside it
        look({text_of_all: f"options='{options}'"})
    for name, value in (("PGSERVICE", "app"), ("PGOPTIONS", options)):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            look({})


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "psycopg_async", "asyncpg"])
def test_an_url_that_asks_for_a_server_that_writes_is_read_from(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """A session that begins read-only is none that target_session_attrs=read-write takes."""
    database = Database(request, driver)
    with monkeypatch.context() as context:
        context.setenv("PGTARGETSESSIONATTRS", "read-write")
        database.try_it(refuses)
    asked = {"target_session_attrs": "read-write"}
    database.plain = database.plain.update_query_dict(asked)
    database.try_it(refuses)


RESET_VALUE = "SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only'"


@pytest.mark.parametrize("driver", list(POSTGRESQL))
def test_a_session_is_read_only_from_its_start_up_packet_on_so_that_no_reset_opens_it(
    request: pytest.FixtureRequest, driver: str
) -> None:
    def look(connection: Connection) -> None:
        assert connection.scalar(text(RESET_VALUE)) == "on"

    Database(request, driver).try_it(look)


def done(value: Any) -> Any:
    return await_only(value) if hasattr(value, "__await__") else value


@pytest.mark.parametrize("driver", [one for one in DRIVERS if one != "asyncpg"])  # it has none
def test_what_opens_the_lock_is_refused_on_the_drivers_own_cursor(
    request: pytest.FixtureRequest, driver: str
) -> None:
    database = Database(request, driver)
    lifts = LIFTS[database.kind]

    def use_raw(connection: Connection) -> None:
        opened: Any = connection.connection.driver_connection
        cursor = opened.cursor()
        if not hasattr(cursor, "execute"):  # aiomysql's is awaited
            cursor = done(cursor)
        with pytest.raises(ReadOnlyError, match="SET"):
            done(cursor.execute(lifts))
        with pytest.raises(ReadOnlyError, match="SET"):
            done(cursor.executemany(lifts, [()]))
        done(cursor.execute("SELECT 1"))
        assert [tuple(row) for row in done(cursor.fetchall())] == [(1,)]
        done(cursor.close())
        connection.rollback()

    database.try_it(use_raw, use_raw)


class Traced:
    """A connection as a tool for tracing wraps it: all but its own class is that behind it."""

    def __init__(self, behind: Any) -> None:
        object.__setattr__(self, "behind", behind)

    @property
    def __class__(self) -> Any:
        return self.behind.__class__

    @__class__.setter
    def __class__(self, new: Any) -> None:
        self.behind.__class__ = new

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "behind"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.behind, name, value)


# psycopg2's connections are not traced by a proxy.
@pytest.mark.parametrize(
    "driver", ["psycopg", "pg8000", *(one for one in MYSQL if one not in ASYNC)]
)
def test_a_connection_that_is_traced_reads_and_its_cursors_are_examined(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    database = Database(request, driver)
    module = create_engine(f"{database.kind}+{driver}://").dialect.loaded_dbapi
    connect = module.connect
    traced = wraps(connect)(lambda *args, **kwargs: Traced(connect(*args, **kwargs)))
    monkeypatch.setattr(module, "connect", traced)

    def use(connection: Connection) -> None:
        refuses(connection)
        with pytest.raises(ReadOnlyError, match="SET"):
            connection.connection.cursor().execute(LIFTS[database.kind])
        connection.rollback()

    database.try_it(use, use)
    assert database.rows() == 0


OF_A_CLASS: dict[str, list[tuple[tuple[str, ...], dict[str, Any]]]] = {
    "psycopg2cffi": [(("extras",), {"cursor_factory": "RealDictCursor"})],
    "pymysql": [(("cursors", "DictCursor"), {}), (("cursors", "SSCursor"), {})],
    "cymysql": [(("cursors", "DictCursor"), {})],
    "mysqldb": [(("cursors",), {"cursorclass": "DictCursor"}), (("cursors", "SSDictCursor"), {})],
    "mysqlconnector": [((), {"dictionary": True}), ((), {"raw": True})],
    "mariadbconnector": [((), {"dictionary": True}), ((), {"prepared": True})],
    "aiomysql": [(("cursors", "DictCursor"), {}), (("cursors", "DictCursor", "SSCursor"), {})],
    "asyncmy": [(("cursors", "DictCursor"), {}), (("cursors", "SSCursor"), {})],
}
"""By driver, how its connection is asked for further kinds of cursors: by a module and its classes."""


@pytest.mark.parametrize("driver", list(OF_A_CLASS))
def test_a_cursor_of_a_class_that_is_given_is_examined_too(
    request: pytest.FixtureRequest, driver: str
) -> None:
    database = Database(request, driver)
    lifts = LIFTS[database.kind]

    def use_raw(connection: Connection) -> None:
        opened: Any = connection.connection.driver_connection
        for (module, *names), named in [(one or ("",), two) for one, two in OF_A_CLASS[driver]]:
            of = importlib.import_module(f"{DRIVERS[driver]}.{module}") if module else None
            given = [getattr(of, name) for name in names]
            kwargs = {name: getattr(of, value) if of else value for name, value in named.items()}
            cursor = opened.cursor(*given, **kwargs)
            if not hasattr(cursor, "execute"):
                cursor = done(cursor)
            assert all(isinstance(cursor, one) for one in given)
            with pytest.raises(ReadOnlyError, match="SET"):
                done(cursor.execute(lifts))
            done(cursor.execute("SELECT 1 AS one"))
            ((value,),) = (
                row.values() if isinstance(row, dict) else row for row in done(cursor.fetchall())
            )
            assert int(value) == 1
            done(cursor.close())
        connection.rollback()

    database.try_it(use_raw, use_raw)


def test_what_a_cursor_is_given_beside_its_class_is_kept(request: pytest.FixtureRequest) -> None:
    def use(connection: Connection) -> None:
        opened: Any = connection.connection.driver_connection
        cursor = opened.cursor(dictionary=True, read_timeout=7)
        assert cursor.read_timeout == 7
        cursor.execute("SELECT 1 AS one")
        assert cursor.fetchall() == [{"one": 1}]

    Database(request, "mysqlconnector").try_it(use)


@pytest.mark.parametrize("driver", ["pymysql", "mysqldb"])
def test_a_cursor_is_made_in_as_many_calls_as_the_driver_makes_it(
    request: pytest.FixtureRequest, driver: str
) -> None:
    database = Database(request, driver)
    engine = create_engine(database.plain.set(drivername=f"mysql+{driver}"), poolclass=NullPool)
    with engine.connect() as plain:
        as_many = calls(plain.connection.dbapi_connection.cursor)

    def count(connection: Connection) -> None:
        made = connection.connection.dbapi_connection.cursor
        assert calls(made) == as_many

    database.try_it(count)


@pytest.mark.parametrize("driver", ["psycopg2cffi", "pg8000"])
def test_a_driver_without_a_read_only_transaction_is_asked_for_its_session_at_each_statement(
    request: pytest.FixtureRequest, driver: str
) -> None:
    database = Database(request, driver)

    def lift(connection: Connection) -> None:
        assert connection.scalar(text("SHOW default_transaction_read_only")) == "on"
        assert connection.scalar(text("SELECT 2")) == 2
        connection.execute(text("SELECT lift()"))
        connection.commit()
        for statement in ("SELECT 2", "SELECT w()"):
            with pytest.raises(ReadOnlyError, match="A session set to READ WRITE"):
                connection.execute(text(statement))
        connection.rollback()

    def lift_under_autocommit(connection: Connection) -> None:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("SELECT lift()"))
        with pytest.raises(ReadOnlyError, match="A session set to READ WRITE"):
            connection.execute(text("SELECT w()"))

    database.try_it(lift, lift, lift_under_autocommit, lift)
    assert database.rows() == 0


def test_what_an_older_pg8000_was_told_of_the_session_is_read_too(
    request: pytest.FixtureRequest,
) -> None:
    database = Database(request, "pg8000")

    def tell(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        known = driver.parameter_statuses
        # as up to 1.30.3
        told = deque(((name.encode(), value.encode()) for name, value in known.items()), 100)
        driver.parameter_statuses = told
        assert connection.scalar(text("SELECT 2")) == 2
        told.append((b"default_transaction_read_only", b"off"))
        with pytest.raises(ReadOnlyError, match="A session set to READ WRITE"):
            connection.execute(text("SELECT 2"))
        driver.parameter_statuses = known

    database.try_it(tell)


class UnknownPostgreSQL(PGDialect_psycopg2):
    driver = "unknown"
    supports_statement_cache = True


class UnknownMySQL(MySQLDialect_pymysql):
    driver = "unknown"
    supports_statement_cache = True


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_lock_is_put_back_with_a_driver_that_is_not_known(
    request: pytest.FixtureRequest, kind: str
) -> None:
    registry.register("postgresql.unknown", __name__, "UnknownPostgreSQL")
    registry.register("mysql.unknown", __name__, "UnknownMySQL")
    database = Database(request, "unknown", kind)

    def lift(connection: Connection) -> None:
        # Its cursors are not examined.
        with connection.connection.cursor() as cursor:
            cursor.execute(LIFTS[kind])
        connection.connection.commit()

    def look(connection: Connection) -> None:
        with pytest.raises(ReadOnlyError):
            connection.execute(text("SELECT w()"))
        connection.rollback()
        if kind == "postgresql":  # which has another lock beside this one
            assert connection.scalar(text("SHOW default_transaction_read_only")) == "on"

    if kind == "mysql":
        database.try_it(look, lift, look)
    else:
        # It is given no start-up parameter, and does not tell which process serves it.
        with pytest.raises(ConfigurationError, match='or "session" if it pools by session'):
            database.try_it(look)
        database.try_it(look, lift, look, pooler="session")
    assert database.rows() == 0


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_value_within_quotes_is_refused_with_a_driver_that_is_not_known(
    request: pytest.FixtureRequest, kind: str
) -> None:
    registry.register("postgresql.unknown", __name__, "UnknownPostgreSQL")
    registry.register("mysql.unknown", __name__, "UnknownMySQL")
    database = Database(request, "unknown", kind)

    def hide(connection: Connection) -> None:
        for values in ((HIDING,), [("1",), (HIDING,)]):
            with pytest.raises(ReadOnlyError, match="A value within quotes"):
                connection.exec_driver_sql("SELECT 1 /* %s */", values)
        assert str(connection.exec_driver_sql("SELECT '%s'", (5,)).scalar()) == "5"
        assert connection.exec_driver_sql("SELECT %s", (HIDING,)).scalar() == HIDING

    database.try_it(hide, **({"pooler": "session"} if kind == "postgresql" else {}))
