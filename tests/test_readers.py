"""The guard: what it leaves of the user's engines, pools, listeners and connections."""

# ruff: noqa: PLC0415, PT022  # drivers where they are needed; `url` has nothing to end
from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
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
from sqlalchemy.pool import Pool

from sa_readonly import EngineSelector, FileSwitch, FixedSwitch, Mode, ReadOnlyError, RoutingSession
from tests.app import LONG, App, longer
from tests.postgres import Pair
from tests.roads import Base, Thing


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


@longer
@pytest.mark.parametrize("separate", [True, False], ids=["separate engines", "twin"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"isolation_level": "AUTOCOMMIT"},
        {"pool_size": 1, "max_overflow": 0},
        {"poolclass": NullPool},
        *LONG * ({}, {"pool_pre_ping": True}, {"poolclass": AssertionPool}),
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


@pytest.mark.parametrize("comment", ["", " /* traced */", " -- traced"])
def test_a_listener_that_begins_with_a_lock_begins_without_one_on_a_twin(
    tmp_path: Path, comment: str
) -> None:
    """As SQLAlchemy's and SQLite's documentation have it; a tool for tracing adds the comment."""
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    Base.metadata.create_all(engine)
    event.listen(engine, "connect", lambda c, _: setattr(c, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def trace(_c: Any, _: Any, statement: str, parameters: Any, *__: Any) -> tuple[str, Any]:
        return statement + comment, parameters

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


def test_what_a_connect_listener_writes_is_refused_on_a_read_only_connection(lite: App) -> None:
    refused = list[str]()

    @event.listens_for(lite.engine("rw"), "connect")
    def write(opened: Any, _: object) -> None:
        try:
            opened.execute("INSERT INTO book (title) VALUES ('listener')")
            opened.commit()
        except sqlite3.OperationalError as error:
            refused.append(str(error))

    lite.on()
    lite.start(read_only=None)
    with lite.sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM book")) == 0
    assert refused == ["attempt to write a readonly database"]


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


def test_a_dialect_that_has_no_lock_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("sqlalchemy")
    read_write = create_engine("sqlite://", creator=lambda: sqlite3.connect(":memory:"))
    read_only = create_engine("sqlite://", creator=lambda: sqlite3.connect(":memory:"))
    read_only.dialect.name = read_only.dialect.driver = "frobnicate"  # type: ignore[misc]
    with caplog.at_level(logging.WARNING, "sa_readonly"):
        EngineSelector(
            FixedSwitch(Mode.READ_ONLY), read_write=read_write, read_only=read_only
        ).close()
    (record,) = caplog.records
    assert "no lock at the server for frobnicate" in record.getMessage()


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


WITHOUT_GREENLET = """
import sys
sys.modules["greenlet"] = None
from sqlalchemy import create_engine, text
from sa_readonly import EngineSelector, FixedSwitch, Mode
engines = [create_engine("sqlite://"), create_engine("sqlite://")]
for engine in engines:
    engine.connect().close()
always = FixedSwitch(Mode.READ_ONLY)
with EngineSelector(always, read_write=engines[0], read_only=engines[1]) as one:
    with one.engine().connect() as connection:
        print(connection.scalar(text("SELECT 'read'")))
"""


def test_sync_engines_need_no_greenlet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GREENLET],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("read\n", "")
