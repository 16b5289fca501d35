"""What the guard makes of texts, and what it leaves of the user's engines."""

# ruff: noqa: E501, PLC0415, PT022  # SQL is easier to read in one line
from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    AssertionPool,
    Engine,
    NullPool,
    SingletonThreadPool,
    StaticPool,
    create_engine,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import Pool

from sa_readonly import (
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    RoutingSession,
)
from sa_readonly.guard import is_refusal
from sa_readonly.statements import examine
from tests.app import App
from tests.postgres import Pair
from tests.roads import Base, Thing

# -- texts -----------------------------------------------------------------------------------

READ, WRITE = None, "refused"


@pytest.mark.parametrize(
    ("statement", "dialect", "what"),
    [
        ("", "postgresql", None),
        (";;", "postgresql", None),
        ("SELECT 1", "postgresql", None),
        ("INSERT INTO t VALUES (1)", "postgresql", "INSERT"),
        ("insert into t values (1)", "oracle", "INSERT"),
        ("FROBNICATE t", "postgresql", "FROBNICATE"),
        ("SELECT 1; DROP TABLE t", "postgresql", "DROP"),
        ("SELECT ';'; DROP TABLE t", "postgresql", "DROP"),
        ("SELECT '; DROP TABLE t", "postgresql", None),  # the server says that it never ends
        ("/* SELECT", "postgresql", None),
        ("/* /* */ DROP */ SELECT 1", "postgresql", None),
        ("/* /* */ DROP TABLE t -- */ SELECT 1", "sqlite", "DROP"),
        ("((SELECT 1)) UNION SELECT 2", "postgresql", None),
        ("((((((", "postgresql", None),
        ("$$ $$", "postgresql", None),
        ("WITH a AS (SELECT 1) UPDATE t SET a = 1", "postgresql", "UPDATE"),
        ("WITH a AS (SELECT 1), b AS (DELETE FROM t) SELECT 1", "postgresql", "DELETE"),
        ("WITH a AS (UPDATE t SET a = 1 RETURNING 1) SELECT 1", "postgresql", "UPDATE"),
        ("WITH a AS (SELECT 1) MERGE INTO t USING a ON true", "postgresql", "MERGE"),
        ("SELECT 1 INTO t", "postgresql", "SELECT INTO"),
        ("SELECT 1 INTO @a", "mysql", None),
        ("SELECT 1 INTO DUMPFILE 'x'", "mariadb", "SELECT INTO DUMPFILE"),
        ("SELECT 1 FOR NO KEY UPDATE", "postgresql", "SELECT ... FOR NO"),
        ("SELECT NEXT VALUE FOR s", "mssql", "NEXT VALUE FOR"),
        ("SELECT dblink('host=x', 'select 1')", "postgresql", "dblink()"),
        ("SELECT U&\"n\\0065xtval\"('s')", "postgresql", "A call of what can't be read"),
        ("SET TRANSACTION READ WRITE", "postgresql", "SET ... READ WRITE"),
        ("SET default_transaction_read_only = on", "postgresql", None),
        ("SET default_transaction_read_only = off", "postgresql", "SET default_transaction_read_only"),
        ("SET a = off, tx_read_only = 1", "mysql", "SET tx_read_only"),
        ("SET STATEMENT a = 1 FOR DELETE FROM t", "mariadb", "DELETE"),
        ("START SLAVE", "mysql", "START SLAVE"),
        ("BEGIN NOT ATOMIC SELECT 1; END", "mariadb", "BEGIN NOT"),
        ("BEGIN INSERT INTO t VALUES (1); END;", "oracle", "BEGIN INSERT"),
        ("BEGIN NOT DEFERRABLE", "postgresql", None),
        ("DECLARE @a int", "mssql", "DECLARE"),
        ("EXECUTE p", "mssql", "EXECUTE"),
        ("EXECUTE p", "postgresql", None),
        ("PREPARE TRANSACTION 'x'", "postgresql", "PREPARE"),
        ("PREPARE p FROM @a", "mysql", "PREPARE"),
        ("PREPARE p FROM 'SELECT 1'", "mysql", None),
        ("LOAD 'age'", "postgresql", None),
        ("LOAD DATA INFILE 'x' INTO TABLE t", "mysql", "LOAD"),
        ("COPY t TO STDOUT", "postgresql", None),
        ("COPY t FROM STDIN", "postgresql", "COPY"),
        ("COPY t TO 'x'", "postgresql", "COPY"),
        ("PRAGMA", "sqlite", None),
        ("PRAGMA query_only", "sqlite", None),
        ("PRAGMA main.query_only = off", "sqlite", "PRAGMA query_only"),
        ("PRAGMA wal_checkpoint", "sqlite", "PRAGMA wal_checkpoint"),
        ("ANALYZE t", "postgresql", "ANALYZE"),
        ("ANALYZE SELECT 1", "mariadb", None),
        ("EXPLAIN ANALYZE DELETE FROM t", "postgresql", "EXPLAIN ANALYZE DELETE"),
        ("EXPLAIN", "postgresql", None),
        ("RESET MASTER", "mysql", "RESET MASTER"),
        ("RESET ALL", "postgresql", "RESET ALL"),
        ("COMMIT PREPARED 'x'", "postgresql", "COMMIT PREPARED"),
        ("SELECT 1 AS \u00d7$$; DROP TABLE t; --$$", "postgresql", "DROP"),
        ("SELECT $\u00e4$; DROP TABLE t; $\u00e4$", "postgresql", None),
        ("SELECT E'a'\n'\\'' ; DROP TABLE t; --'", "postgresql", "DROP"),
        ("SELECT E'a', '\\' ; DROP TABLE t; --'", "postgresql", "DROP"),
        ("SELECT 'a'\n'\\', '; DROP TABLE t; --'", "postgresql", None),
        ("SELECT 1 \"AS\" INTO t", "postgresql", "SELECT INTO"),
        ("SELECT 1 AS into", "postgresql", None),
        ("SELECT 1.INTO t", "postgresql", "SELECT INTO"),
        ("COMMIT; SELECT 1", "postgresql", "What follows COMMIT in one text"),
        ("COMMIT;; -- end", "postgresql", None),
        ("ROLLBACK TO a; SELECT 1", "postgresql", None),
        ("COMMIT; SELECT 1", "mysql", None),
        ("SET U&\"a\" = 1", "postgresql", "SET of what can't be read"),
        ("SET a = U&'x'", "postgresql", None),
        ("SET a = E'x'", "postgresql", None),
        ("SET standard_conforming_strings = on", "postgresql", None),
        ("RESET standard_conforming_strings", "postgresql", "RESET standard_conforming_strings"),
        ("SELECT set_config('a'::text, 'x', true)", "postgresql", None),
        ("SELECT set_config('a'::text || 'b', 'x', true)", "postgresql", "set_config() of what protects the transaction"),
        ("SELECT set_config('app.' || %s::text, 'x', true)", "postgresql", None),
        ("SELECT set_config('a.'::jsonb ->> 'b', 'x', true)", "postgresql", "set_config() of what protects the transaction"),
        ("SELECT set_config(%(a)s::VARCHAR, 'x', true)", "postgresql", None),
        ("SELECT set_config(%s || %s, 'x', true)", "postgresql", "set_config() of what protects the transaction"),
        ("SET tx_read_only = 1 - 1", "mysql", "SET tx_read_only"),
        ("SET tx_read_only := 1", "mysql", None),
        ("SET sql_mode = 'TRADITIONAL'", "mysql", None),
        ("SET SESSION sql_mode = 'ansi'", "mysql", "SET sql_mode"),
        ("SET @@sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')", "mysql", None),
        ("SET sql_mode = CONCAT('NO_BACK', 'SLASH_ESCAPES')", "mysql", "SET sql_mode"),
        ("SET sql_mode = 4", "mysql", "SET sql_mode"),
        ("SET sql_mode = @a", "mysql", "SET sql_mode"),
        ("PREPARE p FROM \"SELECT 'a', '' INTO OUTFILE 'x'\"", "mysql", "SELECT INTO OUTFILE"),
        ("PREPARE p FROM 'SELECT ''INTO OUTFILE'''", "mysql", None),
        ("EXECUTE IMMEDIATE 'SELECT ?' USING 1", "mariadb", None),
        ("EXECUTE IMMEDIATE 'SELECT 1' 'x'", "mariadb", "EXECUTE"),
        ("SELECT /*!50000 'a', \"b\", */ 1", "mysql", None),
        ("SELECT /*!50000 'a */ ' */ 1", "mysql", "A comment that can't be read"),
        ("SELECT /*!50000 1", "mysql", "A comment that can't be read"),
        ("\u017felect 1", "mysql", "\u017felect"),
    ],
)  # fmt: skip
def test_a_text_is_refused_for_what_it_would_do(
    statement: str, dialect: str, what: str | None
) -> None:
    assert examine(statement, dialect) == what


@pytest.mark.parametrize(
    ("statement", "dialect", "backslash", "what"),
    [
        ("SELECT '\\'' ; DROP TABLE t; --'", "postgresql", False, None),
        ("SELECT '\\'' ; DROP TABLE t; --'", "postgresql", True, "DROP"),
        ("SELECT '\\' INTO OUTFILE 'x' -- '", "mysql", True, None),
        ("SELECT '\\' INTO OUTFILE 'x' -- '", "mysql", False, "SELECT INTO OUTFILE"),
        ('SELECT "\\" INTO OUTFILE \'x\' -- "', "mysql", False, "SELECT INTO OUTFILE"),
    ],
)
def test_a_backslash_escapes_where_the_server_says_so(
    statement: str, dialect: str, backslash: bool, what: str | None
) -> None:
    assert examine(statement, dialect, backslash=backslash) == what


@pytest.mark.parametrize(
    ("parameters", "refused"),
    [
        ({"name": "app.tenant"}, False),
        ({"name": " Transaction_Read_Only "}, True),
        ([{"name": "a"}, {"name": "default_transaction_read_only"}], True),
        (("transaction_read_only",), True),
        (None, True),
        ((), False),
    ],
)
def test_set_config_is_refused_by_the_name_that_is_bound(parameters: Any, refused: bool) -> None:
    what = examine("SELECT set_config(%(name)s, 'off', true)", "postgresql", parameters)
    assert (what is not None) == refused


PIECES = st.sampled_from(
    [
        "SELECT",
        "INSERT",
        "INTO",
        "UPDATE",
        "SET",
        "DELETE",
        "FROM",
        "WITH",
        "AS",
        "(",
        ")",
        ";",
        "'",
        '"',
        "`",
        "$$",
        "$a$",
        "E'",
        "U&'",
        'U&"',
        "/*",
        "*/",
        "/*!",
        "--",
        "--\r",
        "#",
        "\n",
        "\\",
        ",",
        ".",
        "::",
        "%",
        "?",
        "=",
        "@",
        "[",
        "]",
        "FOR",
        "READ",
        "WRITE",
        "EXPLAIN",
        "ANALYZE",
        "PRAGMA",
        "query_only",
        "set_config",
        "PREPARE",
        "DECLARE",
        "COPY",
        "TO",
        "STDOUT",
        "BEGIN",
        "START",
        "EXECUTE",
        "IMMEDIATE",
        "STATEMENT",
        "nextval",
        "1",
        "é",
        "\x00",
    ]
)
DIALECTS = st.sampled_from(("postgresql", "sqlite", "mysql", "mariadb", "mssql", "oracle"))


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(st.text(), st.lists(PIECES).map(" ".join), st.lists(PIECES).map("".join)), DIALECTS
)
def test_no_text_makes_the_examination_fail(statement: str, dialect: str) -> None:
    what = examine(statement, dialect)
    assert what is None or isinstance(what, str)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(blacklist_characters="'\\\x00")), DIALECTS)
def test_a_literal_is_a_read_whatever_it_says(inside: str, dialect: str) -> None:
    assert examine(f"SELECT '{inside}'", dialect) is None


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(blacklist_characters="*/!M\\")), DIALECTS)
def test_a_write_after_a_comment_is_refused_whatever_the_comment_says(
    inside: str, dialect: str
) -> None:
    assert examine(f"/* {inside} */ DELETE FROM t", dialect) == "DELETE"


@pytest.mark.parametrize(
    "piece", ["(", "' ", "$$", "/*", "WITH a AS (UPDATE x ", "EXPLAIN ", "[", "E'"]
)
def test_a_long_text_takes_no_more_than_its_share(piece: str) -> None:
    for dialect in ("postgresql", "mysql", "sqlite"):
        examine(piece * 2000, dialect)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (sqlite3.OperationalError("attempt to write a readonly database"), True),
        (sqlite3.OperationalError("no such table"), False),
        (Exception(1792, "Cannot execute statement in a READ ONLY transaction"), True),
        (Exception(1836, "Running in read-only mode"), True),
        (Exception(1290, "running with the --read-only option"), True),
        (Exception(1290, "running with the --secure-file-priv option"), False),
        (Exception({"C": "25006"}), True),
        (Exception(), False),
    ],
)
def test_a_refusal_of_the_server_is_known_by_its_number(error: Exception, refused: bool) -> None:
    assert is_refusal(error) == refused


# -- engines ---------------------------------------------------------------------------------


class Flipper:
    """An application with a switch that can be turned."""

    def __init__(self, file: Path, read_write: Engine, read_only: Engine | None = None) -> None:
        self.file = file
        self.read_write = read_write
        self.others = read_only
        self.selector = EngineSelector(
            FileSwitch(file, ttl=60), read_write=read_write, read_only=read_only, watch=False
        )
        self.read()

    def read(self) -> None:
        self.file.write_text("")
        assert self.selector.check().read_only

    def write(self) -> None:
        self.file.unlink()
        assert not self.selector.check().read_only

    def session(self, **kwargs: Any) -> RoutingSession:
        return RoutingSession(self.selector, **kwargs)

    def writes(self) -> None:
        """The next read-write transaction does write, on each of the pooled connections."""
        for _ in range(2):
            with self.session() as session:
                session.add(Thing(name="x"))
                session.commit()

    def close(self) -> None:
        self.selector.close()
        self.read_write.dispose()
        if self.others is not None:
            self.others.dispose()


def is_refused(flipper: Flipper, **kwargs: Any) -> None:
    with flipper.session(**kwargs) as session, pytest.raises(ReadOnlyError):
        session.execute(text("INSERT INTO thing (name) VALUES ('x')"))


def test_an_interrupt_at_our_check_in_leaves_no_hole_in_the_pool(tmp_path: Path) -> None:
    interrupts: list[type[BaseException]] = []

    class Interrupted(sqlite3.Connection):
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            if interrupts:
                raise interrupts.pop()
            return super().cursor(*args, **kwargs)

    engine = create_engine(
        f"sqlite:///{tmp_path}/one.db",
        connect_args={"factory": Interrupted},
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.1,
    )
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine) as selector:
        reader = selector.engine()
        for _ in range(2):
            connection = reader.connect()
            interrupts.append(KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt):
                connection.close()
            assert (reader.pool.checkedout(), reader.pool.checkedin()) == (0, 1)
        with reader.connect() as connection, pytest.raises(ReadOnlyError):
            connection.execute(text("DELETE FROM thing"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "psycopg2", "psycopg", "pymysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "sqlite":
        url: Any = f"sqlite:///{tmp_path}/a.db"
    elif request.param == "pymysql":
        url = request.getfixturevalue("mariadb_pair").read_write
    else:
        pytest.importorskip(request.param, reason=f"NOT TESTED with {request.param}: not installed")
        pair: Pair = request.getfixturevalue("pg_pair")
        url = pair.read_write.set(drivername=f"postgresql+{request.param}")
    engine = create_engine(url, poolclass=NullPool)
    Base.metadata.create_all(engine)
    yield url


@pytest.mark.parametrize("separate", [True, False], ids=["separate engines", "twin"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"pool_pre_ping": True},
        {"isolation_level": "AUTOCOMMIT"},
        {"pool_size": 1, "max_overflow": 0},
        {"poolclass": NullPool},
        {"poolclass": AssertionPool},
    ],
    ids=str,
)
def test_the_next_read_write_transaction_writes(
    url: Any, arguments: dict[str, Any], separate: bool, tmp_path: Path
) -> None:
    others = create_engine(url, **arguments) if separate else None
    flipper = Flipper(tmp_path / "read-only", create_engine(url, **arguments), others)
    try:
        for _ in range(2):
            with flipper.session() as session:
                session.scalars(select(Thing)).all()
            is_refused(flipper)
            with flipper.session() as session:
                session.connection().invalidate()
            is_refused(flipper)
            flipper.write()
            flipper.writes()
            is_refused(flipper, role="replica")
            with flipper.session() as session, pytest.raises(DBAPIError):
                session.execute(text("SELECT nothing FROM nowhere"))
            flipper.writes()
            flipper.read()
    finally:
        flipper.close()


@pytest.mark.parametrize("separate", [True, False], ids=["separate engines", "twin"])
def test_the_users_listeners_are_called_on_read_only_connections_too(
    url: Any, separate: bool, tmp_path: Path
) -> None:
    called: set[str] = set()

    def made(**kwargs: Any) -> Engine:
        engine = create_engine(url, **kwargs)
        for name in ("connect", "checkout", "checkin", "begin"):
            event.listen(engine, name, lambda *_, name=name: called.add(name))

        @event.listens_for(engine, "connect")
        def leave_a_transaction_open(dbapi_connection: Any, record: object) -> None:
            cursor = dbapi_connection.cursor()
            cursor.execute("SELECT 1")
            cursor.fetchall()
            cursor.close()

        return engine

    flipper = Flipper(tmp_path / "read-only", made(), made() if separate else None)
    try:
        is_refused(flipper)
        with flipper.session() as session:
            session.scalars(select(Thing)).all()
        assert called == {"connect", "checkout", "checkin", "begin"}
        flipper.write()
        flipper.writes()
    finally:
        flipper.close()


def test_a_listener_that_begins_with_a_lock_begins_without_one_on_a_twin(tmp_path: Path) -> None:
    """As SQLAlchemy's and SQLite's documentation have it."""
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    Base.metadata.create_all(engine)
    event.listen(engine, "connect", lambda c, _: setattr(c, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    flipper = Flipper(tmp_path / "read-only", engine)
    try:
        with closing(sqlite3.connect(tmp_path / "a.db")) as writer, flipper.session() as session:
            session.scalars(select(Thing)).all()
            writer.execute("BEGIN IMMEDIATE")
        is_refused(flipper)
        flipper.write()
        flipper.writes()
    finally:
        flipper.close()


def test_a_connect_listener_may_attach_a_file(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "b.db")) as other:
        other.execute("CREATE TABLE t (i)")
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    Base.metadata.create_all(engine)

    @event.listens_for(engine, "connect")
    def attach(dbapi_connection: Any, record: object) -> None:
        dbapi_connection.execute(f"ATTACH '{tmp_path}/b.db' AS other")

    engine.dispose()
    flipper = Flipper(tmp_path / "read-only", engine)
    try:
        with flipper.session() as session:
            assert session.execute(text("SELECT * FROM other.t")).all() == []
            with pytest.raises(ReadOnlyError):
                session.execute(text("INSERT INTO other.t VALUES (1)"))
    finally:
        flipper.close()


def test_a_creator_is_used_and_its_connections_are_read_only(pg_pair: Pair, tmp_path: Path) -> None:
    import psycopg2

    url = pg_pair.read_write
    called = []

    def creator() -> Any:
        called.append(1)
        return psycopg2.connect(
            host=url.host, port=url.port, user=url.username, dbname=url.database
        )

    engine = create_engine("postgresql+psycopg2://", creator=creator)
    Base.metadata.create_all(engine)
    before = len(called)
    flipper = Flipper(tmp_path / "read-only", engine)
    try:
        with flipper.selector.engine().connect() as connection:
            assert connection.scalar(text("SHOW default_transaction_read_only")) == "on"
            assert connection.scalar(text("SHOW transaction_read_only")) == "on"
        assert len(called) > before
        # opened by a raw cursor, which may reset, and put back at the check-in
        raw = flipper.selector.engine().raw_connection()
        raw.cursor().execute("RESET ALL")
        raw.commit()
        raw.close()
        with flipper.selector.engine().connect() as connection:
            assert connection.scalar(text("SHOW default_transaction_read_only")) == "on"
        flipper.write()
        flipper.writes()
        with engine.connect() as connection:
            assert connection.scalar(text("SHOW default_transaction_read_only")) == "off"
    finally:
        flipper.close()


def test_the_start_up_options_of_the_user_are_kept(pg_pair: Pair, tmp_path: Path) -> None:
    arguments = {"options": "-c application_name=mine"}
    flipper = Flipper(
        tmp_path / "read-only", create_engine(pg_pair.read_write, connect_args=arguments)
    )
    try:
        with flipper.session() as session:
            assert session.scalar(text("SHOW application_name")) == "mine"
            assert session.scalar(text("SHOW default_transaction_read_only")) == "on"
        flipper.write()
        with flipper.session() as session:
            assert session.scalar(text("SHOW application_name")) == "mine"
            assert session.scalar(text("SHOW default_transaction_read_only")) == "off"
    finally:
        flipper.close()


def test_a_closed_selector_gives_its_engines_back_as_they_were(
    pg_pair: Pair, tmp_path: Path
) -> None:
    read_write, read_only = create_engine(pg_pair.read_write), create_engine(pg_pair.read_only)
    kinds = type(read_write.dialect), type(read_only.dialect)
    for engine in (read_write, read_only):
        Base.metadata.create_all(engine)
    flipper = Flipper(tmp_path / "read-only", read_write, read_only)
    with flipper.session() as session:
        session.scalars(select(Thing)).all()
    flipper.selector.close()
    assert (type(read_write.dialect), type(read_only.dialect)) == kinds
    for engine in (read_write, read_only):
        with engine.begin() as connection:
            connection.execute(insert(Thing).values(name="x"))
    flipper.close()


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool, AssertionPool])
def test_a_connection_that_the_pool_keeps_is_locked_and_given_back_unlocked(
    pool: type[Pool], anew: bool, tmp_path: Path
) -> None:
    reader = create_engine(f"sqlite:///{tmp_path}/ro.db", poolclass=pool)
    Base.metadata.create_all(reader)  # it is connected before there is a selector
    writer = create_engine(f"sqlite:///{tmp_path}/rw.db")
    insert_one = "INSERT INTO thing (name) VALUES ('one')"
    selector = EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=writer, read_only=reader)
    if anew:
        reader.pool.dispose()
    with reader.connect() as connection, closing(connection.connection.cursor()) as cursor:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            cursor.execute(insert_one)
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            cursor.execute("PRAGMA query_only = OFF")
    selector.close()
    with reader.begin() as connection:
        connection.execute(text(insert_one))
        assert connection.scalars(select(Thing.name)).all() == ["one"]
    reader.dispose()


@pytest.mark.parametrize("answer", [sqlite3.SQLITE_OK, sqlite3.SQLITE_DENY])
def test_an_authorizer_of_the_user_is_asked_after_ours_and_takes_not_its_place(
    lite: App, answer: int
) -> None:
    lite.on()
    lite.start()
    asked = []

    def theirs(*action: Any) -> int:
        asked.append(action[0])
        return answer if action[0] == sqlite3.SQLITE_READ else sqlite3.SQLITE_OK

    with lite.selector.engine().connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.set_authorizer(theirs)
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            raw.execute("PRAGMA query_only = OFF")
        assert asked == []
        if answer == sqlite3.SQLITE_OK:
            raw.execute("SELECT name FROM which")
        else:
            with pytest.raises(sqlite3.DatabaseError, match="prohibited"):
                raw.execute("SELECT name FROM which")
        assert sqlite3.SQLITE_READ in asked
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            raw.execute("INSERT INTO which (name) VALUES ('x')")


def test_a_read_only_connection_of_sqlite_is_not_locked_again_at_each_check_in(lite: App) -> None:
    lite.on()
    lite.start()
    sent: list[str] = []
    with lite.selector.engine().connect() as connection:
        raw: Any = connection.connection.driver_connection
        raw.set_trace_callback(sent.append)
    with lite.selector.engine().connect() as connection:
        assert connection.connection.driver_connection is raw
        connection.scalar(text("SELECT name FROM which"))
    assert [text for text in sent if "PRAGMA" in text] == []


@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool, AssertionPool])
def test_a_servers_connection_that_the_pool_keeps_is_made_anew(
    pool: type[Pool], pg_pair: Pair
) -> None:
    reader = create_engine(pg_pair.read_only, poolclass=pool)
    Base.metadata.create_all(reader)
    writer = create_engine(pg_pair.read_write)
    show = text("SHOW default_transaction_read_only")
    selector = EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=writer, read_only=reader)
    with reader.connect() as connection:
        assert connection.scalar(show) == "on"
    selector.close()
    with reader.connect() as connection:
        assert connection.scalar(show) == "off"
    reader.dispose()


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


def test_a_dialect_that_has_no_lock_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("sqlalchemy")
    read_write = create_engine("sqlite://", creator=lambda: sqlite3.connect(":memory:"))
    read_only = create_engine("sqlite://", creator=lambda: sqlite3.connect(":memory:"))
    read_only.dialect.name = "frobnicate"  # type: ignore[misc]
    with caplog.at_level(logging.WARNING, "sa_readonly"):
        EngineSelector(
            FixedSwitch(Mode.READ_ONLY), read_write=read_write, read_only=read_only
        ).close()
    (record,) = caplog.records
    assert "no lock at the server for frobnicate" in record.getMessage()


# -- asyncio ---------------------------------------------------------------------------------


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


def test_a_thread_s_own_connection_is_locked_again_for_the_next_selector(tmp_path: Path) -> None:
    """SingletonThreadPool: what another thread's connection needs, waits for its check-in."""
    reader = create_engine("sqlite://")
    assert isinstance(reader.pool, SingletonThreadPool)
    writer = create_engine(f"sqlite:///{tmp_path}/rw.db")
    switch = FixedSwitch(Mode.READ_ONLY)

    def selector() -> EngineSelector:
        return EngineSelector(switch, read_write=writer, read_only=reader, workers=False)

    second = selector()
    second.close()
    steps = threading.Barrier(2, timeout=60)
    found: list[Any] = []

    def other() -> None:
        first = selector()
        with reader.connect() as connection:
            connection.execute(text("SELECT 1"))
        first.close()  # which unlocks this thread's own
        steps.wait()
        steps.wait()  # the main thread could not lock it
        for _ in range(2):
            with reader.connect() as connection:
                connection.execute(text("SELECT 1"))
        with reader.connect() as connection, closing(connection.connection.cursor()) as cursor:
            try:
                cursor.execute("CREATE TABLE t (x)")
            except sqlite3.OperationalError as error:
                found.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    steps.wait()
    again = selector()
    steps.wait()
    thread.join(60)
    assert found == ["attempt to write a readonly database"]
    again.close()
    reader.dispose()
    writer.dispose()
