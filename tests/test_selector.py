"""EngineSelector: what it picks, tells and waits for, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, inspect, text
from sqlalchemy.exc import ArgumentError, InvalidRequestError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import NullPool

import sa_readonly
from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FileSwitch,
    Mode,
    ReadOnlyError,
    RoutingSession,
)
from tests.app import WHICH, App, Book, need


def engine(name: str = "x") -> Any:
    return create_engine(f"sqlite:////nowhere/{name}.db", poolclass=NullPool)


# -- picking ---------------------------------------------------------------------------------


def test_four_engines_are_picked_by_mode_and_role(lite: App) -> None:
    rw, rw_replica, ro, ro_replica = (engine(str(n)) for n in range(4))
    lite.start(read_write=Engines(rw, rw_replica), read_only=Engines(ro, replica=ro_replica))
    selector = lite.selector
    assert (selector.engine(), selector.engine("replica")) == (rw, rw_replica)
    assert (selector.mode, selector.read_only) == (Mode.READ_WRITE, False)
    lite.on("upgrade")
    assert (selector.engine(role="primary"), selector.engine(role="replica")) == (ro, ro_replica)
    assert (selector.mode, selector.read_only) == (Mode.READ_ONLY, True)
    assert selector.state.reason == "upgrade"


def test_a_bare_engine_stands_for_engines_and_a_missing_replica_means_the_primary(
    lite: App,
) -> None:
    lite.start()
    with lite.selector.engine("replica").connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        # The role never writes, so this is not the engine that does.
        with pytest.raises(ReadOnlyError, match="this engine is a read-only one"):
            connection.execute(insert(Book).values(title="no"))
    lite.on()
    assert lite.selector.engine("replica") is lite.engines["ro"]


def test_a_replica_that_is_the_primary_writes_nothing_either(lite: App) -> None:
    rw = lite.engine("rw")
    lite.start(read_write=Engines(rw, rw))
    with lite.selector.engine("replica").connect() as connection, pytest.raises(ReadOnlyError):
        connection.execute(insert(Book).values(title="no"))


def test_an_engine_that_outlives_its_selector_says_so(lite: App) -> None:
    del lite.urls["ro"]
    lite.start()
    lite.on()
    twin = lite.selector.engine()
    lite.selector.close()
    with twin.connect() as connection, pytest.raises(ReadOnlyError, match="EngineSelector"):
        connection.execute(insert(Book).values(title="no"))


def test_without_read_only_a_second_engine_of_the_same_database_is_picked(lite: App) -> None:
    del lite.urls["ro"]
    lite.start()
    lite.on()
    twin = lite.selector.engine()
    assert twin is not lite.engines["rw"]
    assert twin.url == lite.engines["rw"].url
    assert twin.pool is not lite.engines["rw"].pool
    with twin.connect() as connection:
        assert connection.scalar(WHICH) == "rw"


def test_an_engine_in_both_sets_is_always_read_only_and_never_closed(lite: App) -> None:
    shared = lite.engine("ro")
    lite.start(
        read_write=Engines(lite.engine("rw"), shared), read_only=Engines(shared, replica=shared)
    )
    with shared.connect() as held:
        for _ in range(2):
            with pytest.raises(ReadOnlyError):
                held.execute(insert(Book).values(title="no"))
            held.rollback()
            lite.on()
            lite.selector.check()
            with shared.connect() as connection:
                assert connection.scalar(WHICH) == "ro"
        assert held.scalar(WHICH) == "ro"


def test_core_writes_through_the_engine_of_the_mode(app: App) -> None:
    app.start()
    with app.selector.engine().begin() as connection:
        connection.execute(insert(Book).values(title="one"))
    app.on()
    with app.selector.engine().begin() as connection, pytest.raises(ReadOnlyError):
        connection.execute(insert(Book).values(title="no"))
    assert (app.titles("rw"), app.titles("ro")) == (["one"], [])


def test_a_selector_is_no_engine_and_says_what_is(lite: App) -> None:
    lite.start()
    told = (
        "An EngineSelector is no engine and has no {}. In a session factory give "
        "class_=RoutingSession: sessionmaker(selector, class_=RoutingSession), or "
        "async_sessionmaker(selector, sync_session_class=RoutingSession). In the place of "
        "session.bind use session.connection(), and in Core selector.engine()."
    )
    for name in ("connect", "begin", "pool", "raw_connection", "execute", "dispatch"):
        assert not hasattr(lite.selector, name)
        with pytest.raises(ConfigurationError) as caught:
            getattr(lite.selector, name)
        assert str(caught.value) == told.format(name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lite.selector.nonsense  # noqa: B018
    with pytest.raises(InvalidRequestError, match="No such event"):
        event.listen(lite.selector, "before_execute", print)


def test_what_is_known_without_a_connection_is_read_of_the_primary_in_either_mode(app: App) -> None:
    app.start()
    primary = app.engines["rw"]
    for _ in range(2):
        with app.sessions() as session:
            bind = session.bind
            assert (bind.dialect, bind.name) == (primary.dialect, primary.name)
            assert (bind.driver, bind.echo) == (primary.driver, primary.echo)
            assert bind.url == primary.url
        assert app.statements == []
        app.on()


def test_the_password_in_the_url_of_a_selector_is_not_shown(place: Path) -> None:
    secret = create_engine("postgresql+psycopg2://me:secret@host/db")
    with EngineSelector(place / "x", read_write=secret) as selector:
        assert str(selector.url) == "postgresql+psycopg2://me:***@host/db"
        assert "secret" not in repr(selector.url)


def test_a_sync_selector_has_no_sync_engine_to_getattr(lite: App) -> None:
    lite.start()
    assert getattr(lite.selector, "sync_engine", "default") == "default"


def test_a_selector_is_inspected_as_the_engine_of_the_mode(app: App) -> None:
    app.start()
    with app.engine("ro").begin() as connection:
        connection.execute(text("create table only_here (x int)"))
    try:
        with app.sessions() as session:
            for read_only in (False, True):
                tables = inspect(session.bind).get_table_names()
                assert ("only_here" in tables, "book" in tables) == (read_only, True)
                app.flip()
        app.path.unlink(missing_ok=True)
    finally:
        app.selector.close()
        with app.engines["ro"].begin() as connection:
            connection.execute(text("drop table only_here"))


@pytest.mark.parametrize("query", ["select name from which", WHICH])
def test_pandas_is_told_the_cure_and_reads_by_it(lite: App, query: Any) -> None:
    need("pandas")
    import pandas as pd  # noqa: PLC0415  # here alone

    lite.start()
    for name in ("rw", "ro"):
        with lite.sessions() as session:
            with pytest.raises(ConfigurationError, match=r"session.connection\(\), and in Core"):
                pd.read_sql(query, session.bind)
            for bind in (session.connection(), lite.selector.engine()):
                assert pd.read_sql(query, bind)["name"].tolist() == [name]
        lite.flip()


def test_an_async_session_tells_the_async_engine_of_the_mode(lite: App, place: Path) -> None:
    if not hasattr(AsyncSession, "get_async_bind"):
        pytest.skip("SQLAlchemy 2.0 has no get_async_bind()")
    urls = {name: url.set(drivername="sqlite+aiosqlite") for name, url in lite.urls.items()}
    asyncio.run(_tell_async_engines(place / "read-only.txt", urls))


async def _tell_async_engines(path: Path, urls: Any) -> None:
    given = [create_async_engine(urls[name], poolclass=NullPool) for name in ("rw", "ro")]
    for read_only in (given[1], None):
        async with EngineSelector(
            FileSwitch(path, ttl=0), read_write=given[0], read_only=read_only, watch=False
        ) as selector:
            sessions = async_sessionmaker(selector, sync_session_class=RoutingSession)
            async with sessions() as session:
                assert session.bind is selector
                assert session.bind.dialect is given[0].dialect
                assert session.get_async_bind() is given[0]
                await session.connection()
                path.touch()
                assert session.get_async_bind() is given[0]  # of the transaction that goes on
                await session.rollback()
                assert session.get_async_bind() is selector.engine()
                assert isinstance(selector.engine(), AsyncEngine)
                assert selector.engine() is not given[0]
                path.unlink()


def test_require_read_write_refuses_before_anything_else_is_done(lite: App) -> None:
    lite.start()
    lite.selector.require_read_write()
    lite.selector.switch.enable("upgrade to 18")
    with pytest.raises(ReadOnlyError) as caught:
        lite.selector.require_read_write()
    state = lite.selector.state
    assert str(caught.value) == (
        "What needs to write is refused: the application is read-only since "
        f"{state.since.isoformat(timespec='seconds')} (upgrade to 18). Nothing was written. "
        "Roll back, and try again when it is read-write."
    )
    assert (caught.value.reason, caught.value.since) == ("upgrade to 18", state.since)
    assert caught.value.statement is None


def test_a_refused_statement_is_in_the_error(lite: App) -> None:
    lite.start()
    lite.on()
    with lite.sessions() as session, pytest.raises(ReadOnlyError) as caught:
        session.connection().exec_driver_sql("delete from book")
    assert caught.value.statement == "delete from book"


# -- flips -----------------------------------------------------------------------------------


def test_each_callback_is_called_once_a_flip_and_what_it_raises_harms_nobody(
    lite: App, caplog: pytest.LogCaptureFixture
) -> None:
    lite.start()
    told: list[tuple[Mode, Mode]] = []

    @lite.selector.on_flip
    def broken(old: Any, new: Any) -> None:
        raise RuntimeError("broken")

    lite.selector.on_flip(lambda old, new: told.append((old.mode, new.mode)))
    for _ in range(2):
        lite.on()
        for _ in range(3):
            lite.selector.check()
        lite.off()
        lite.selector.check()
    there, back = (Mode.READ_WRITE, Mode.READ_ONLY), (Mode.READ_ONLY, Mode.READ_WRITE)
    assert told == [there, back, there, back]
    assert sum("on_flip() callback" in record.message for record in caplog.records) == 4
    with pytest.raises(ConfigurationError, match="takes a callable"):
        lite.selector.on_flip("no")


def test_a_flip_is_one_log_record_however_many_threads_and_selectors_notice_it(
    lite: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sa_readonly")
    lite.start()
    other = EngineSelector(lite.selector.switch, read_write=engine(), read_only=engine("y"))
    lite.on("upgrade")
    barrier = threading.Barrier(8)

    def look() -> None:
        barrier.wait(10)
        for _ in range(20):
            with lite.sessions() as session:
                session.scalar(WHICH)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    lite.off()
    assert (other.read_only, lite.selector.read_only) == (False, False)
    records = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in records] == ["WARNING", "WARNING"]
    assert "read-write -> read-only" in records[0][1]
    assert str(lite.path) in records[0][1]
    assert "'upgrade'" in records[0][1]
    assert "read-only -> read-write" in records[1][1]
    other.close()


def test_a_selector_made_while_read_only_begins_read_only(lite: App) -> None:
    lite.on()
    lite.start()
    with pytest.raises(ReadOnlyError):
        lite.engines["rw"].connect()
    with lite.sessions() as session:
        assert session.scalar(WHICH) == "ro"
    lite.off()
    with lite.sessions() as session:
        assert session.scalar(WHICH) == "rw"


def test_two_selectors_on_one_engine_both_have_to_allow_it(lite: App, place: Path) -> None:
    lite.start()
    second = EngineSelector(
        FileSwitch(place / "second.txt", ttl=0),
        read_write=lite.engines["rw"],
        read_only=lite.engines["ro"],
    )
    (place / "second.txt").touch()
    second.check()
    with pytest.raises(ReadOnlyError):
        lite.engines["rw"].connect()
    lite.on()
    lite.selector.check()
    (place / "second.txt").unlink()
    second.check()
    with pytest.raises(ReadOnlyError):
        lite.engines["rw"].connect()
    lite.off()
    lite.selector.check()
    with lite.engines["rw"].connect() as connection:
        assert connection.scalar(WHICH) == "rw"
    second.close()


def test_a_job_waits_for_the_mode(lite: App) -> None:
    lite.start(ttl=0.02)
    assert lite.selector.wait_until(Mode.READ_WRITE, timeout=0)
    assert not lite.selector.wait_until(Mode.READ_ONLY, timeout=0)
    lite.on()
    threading.Timer(0.05, lite.off).start()
    assert lite.selector.wait_until(Mode.READ_WRITE, timeout=10)


def test_a_mode_that_never_comes_is_not_waited_for(lite: App) -> None:
    lite.start()
    with pytest.raises(ConfigurationError) as caught:
        lite.selector.wait_until("read-only")
    assert str(caught.value) == (
        "wait_until() takes Mode.READ_WRITE or Mode.READ_ONLY, not 'read-only'."
    )


def test_a_signal_lets_it_look_again_and_calls_the_handler_before(lite: App) -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _frame: called.append(number))
    try:
        lite.start(ttl=3600)
        lite.selector.check_on_signal(signal.SIGUSR2)
        assert not lite.selector.read_only
        lite.on()
        assert not lite.selector.read_only
        signal.raise_signal(signal.SIGUSR2)
        assert lite.selector.read_only
        assert called == [signal.SIGUSR2]
        lite.selector.close()
        lite.selector = lite.sessions = None
        gc.collect()
        signal.raise_signal(signal.SIGUSR2)
        assert len(called) == 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_signal_is_refused_outside_the_main_thread(lite: App) -> None:
    lite.start()
    errors: list[BaseException] = []

    def install() -> None:
        try:
            lite.selector.check_on_signal(signal.SIGUSR2)
        except ConfigurationError as error:
            errors.append(error)

    thread = threading.Thread(target=install)
    thread.start()
    thread.join(10)
    assert "only the main thread" in str(errors[0])


# -- the end ---------------------------------------------------------------------------------


def test_closing_gives_the_engines_back_as_they_were(lite: App) -> None:
    rw, ro = lite.engine("rw"), lite.engine("ro")
    dialects = [type(rw.dialect), type(ro.dialect)]
    lite.on()
    for _ in range(2):
        with EngineSelector(FileSwitch(lite.path), read_write=rw, read_only=ro) as selector:
            assert selector.read_only
            assert type(ro.dialect) is not dialects[1]
        assert [type(rw.dialect), type(ro.dialect)] == dialects
    for one in (rw, ro):
        with one.begin() as connection:
            connection.execute(insert(Book).values(title="written"))
    selector.close()


def test_a_selector_that_is_forgotten_gives_the_engines_back(lite: App) -> None:
    lite.start()
    lite.on()
    lite.selector.check()
    forgotten = weakref.ref(lite.selector)
    lite.selector = lite.sessions = None
    gc.collect()
    assert forgotten() is None
    with lite.engines["rw"].begin() as connection:
        connection.execute(insert(Book).values(title="written"))


def test_an_async_session_is_routed_too(lite: App) -> None:
    assert asyncio.run(use_it_async(lite)) == ["rw", "ro"]
    assert lite.titles("ro") == []


async def use_it_async(lite: App) -> list[str]:
    urls = {name: url.set(drivername="sqlite+aiosqlite") for name, url in lite.urls.items()}
    rw, ro = (create_async_engine(urls[name], poolclass=NullPool) for name in ("rw", "ro"))
    found = []
    async with EngineSelector(
        FileSwitch(lite.path, ttl=0), read_write=rw, read_only=ro
    ) as selector:
        factory = async_sessionmaker(selector, sync_session_class=RoutingSession)
        assert selector.engine() is rw
        async with factory() as session:
            found.append(await session.scalar(WHICH))
        lite.on()
        assert selector.engine() is ro
        async with factory(role="replica") as session:
            found.append(await session.scalar(WHICH))
            session.add(Book(title="no"))
            with pytest.raises(ReadOnlyError):
                await session.flush()
        with pytest.raises(ReadOnlyError):
            async with rw.connect():
                pass
        async with async_sessionmaker(selector)() as session:
            with pytest.raises(ConfigurationError, match="sync_session_class=RoutingSession"):
                await session.scalar(WHICH)
    return found


def test_an_async_session_on_sync_engines_is_refused(lite: App) -> None:
    lite.start()
    with pytest.raises(ArgumentError, match="EngineSelector of sync engines and Fi") as caught:
        AsyncSession(lite.selector, sync_session_class=RoutingSession)
    assert "Make its engines with create_async_engine()" in str(caught.value.__cause__)


# -- importing -------------------------------------------------------------------------------


def test_importing_the_package_does_nothing() -> None:
    code = """
import sys, threading
import sqlalchemy, sqlalchemy.orm
before = set(sys.modules)
opened = []
sys.addaudithook(lambda name, args: name == "open" and not str(args[0]).endswith((".py", ".pyc"))
                 and opened.append(args[0]))
import sa_readonly
new = set(sys.modules) - before
heavy = {"click", "rich", "asyncio", "asyncpg", "psycopg", "psycopg2", "aiosqlite", "flask",
         "starlette", "fastapi", "prometheus_client", "greenlet", "sqlalchemy.ext.asyncio"}
print(sorted(heavy & new), threading.active_count(), opened)
"""
    root = Path(sa_readonly.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", code],  # -B: no bytecode is written
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == ("[] 1 []", "")
