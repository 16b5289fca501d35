"""sa_readonly.testing: either mode for one test, and what writes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, func, insert, select, text, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import StaticPool

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    PolledSwitch,
    ReadOnlyError,
    RoutingSession,
    State,
    Switch,
)
from sa_readonly.engines.doors import Door
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.etcd.operator import init, turn_on
from sa_readonly.etcd.switch import store_of
from sa_readonly.testing import read_only, read_write, writes_nothing
from sa_readonly.wsgi import ReadOnlyMiddleware
from tests.app import WHICH, App, Base, Book, in_thread, need, once
from tests.async_app import AsyncApp
from tests.etcd import Etcd
from tests.postgres import wait_until
from tests.test_calls import calls, reading, writing
from tests.test_readme import Thing
from tests.test_web_docs import call

MODES = {read_write: Mode.READ_WRITE, read_only: Mode.READ_ONLY}
ALL = insert(Book).values(title="x")


def write(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(Book(title="x"))


def which(app: App) -> str:
    with app.sessions() as session:
        return str(session.scalar(WHICH))


def can_write(app: App) -> bool:
    before = len(app.titles("rw"))
    try:
        write(app)
    except ReadOnlyError:
        assert len(app.titles("rw")) == before
        return False
    assert len(app.titles("rw")) == before + 1
    return True


def in_etcd(etcd: Etcd, mode: Mode) -> EtcdSwitch:
    store = store_of(etcd.urls, "/testing/mode")
    init(store, 10)
    if mode is Mode.READ_ONLY:
        turn_on(store)
    return EtcdSwitch(etcd.urls, key=store.key)


LINGERING = set[threading.Thread]()


@pytest.fixture(autouse=True)
def _know_the_lingering() -> None:
    """Those of an earlier test end in their own time."""
    LINGERING.clear()
    LINGERING.update(threading.enumerate())


def own_threads() -> set[str]:
    """The watchers' threads that this test has started."""
    running = set(threading.enumerate()) - LINGERING
    return {one.name for one in running if one.name == "sa_readonly"}


# -- either mode -----------------------------------------------------------------------------


@pytest.mark.parametrize("block", MODES)
@pytest.mark.parametrize(
    ("switch", "before"),
    [
        ("no file", Mode.READ_WRITE),
        ("a file", Mode.READ_ONLY),
        *[(name, mode) for name in ("fixed", "polled", "etcd") for mode in Mode],
        ("forced", Mode.READ_WRITE),
        ("forced", Mode.READ_ONLY),
    ],
)
def test_each_switch_is_held_in_either_mode_and_is_then_what_it_was(
    lite: App, request: pytest.FixtureRequest, block: Any, switch: str, before: Mode
) -> None:
    if switch == "a file":
        lite.on("a real one")
    elif switch == "forced":
        request.getfixturevalue("monkeypatch").setenv("SA_READONLY_FORCE", str(before))
    lite.start()
    other = {
        "fixed": lambda: FixedSwitch(before),
        "polled": lambda: PolledSwitch(lambda: None if before is Mode.READ_WRITE else "it"),
        "etcd": lambda: in_etcd(request.getfixturevalue("etcd"), before),
    }.get(switch)
    if other is not None:
        lite.selector.close()
        lite.selector = EngineSelector(
            other(), read_write=lite.engines["rw"], read_only=lite.engines["ro"]
        )
        lite.sessions = sessionmaker(lite.selector, class_=RoutingSession)
    state = lite.selector.state
    files = sorted(os.listdir(lite.path.parent))
    with block(lite.selector):
        assert lite.selector.mode is lite.selector.check().mode is MODES[block]
        assert lite.selector.report().report.mode is MODES[block]
        assert can_write(lite) is (block is read_write)
        assert which(lite) == ("rw" if block is read_write else "ro")
        assert sorted(os.listdir(lite.path.parent)) == files
    assert lite.selector.state == state
    assert lite.selector.check().mode is before
    assert can_write(lite) is (before is Mode.READ_WRITE)


def test_all_that_a_flip_turns_is_turned(app: App, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sa_readonly")
    app.start()
    write(app)
    flips: list[Any] = []
    app.selector.on_flip(lambda old, new: flips.append((old.mode, new.mode, new.reason)))
    engine, until = app.engines["rw"], datetime(2026, 11, 23, 4, tzinfo=timezone.utc)
    door = Door.of(engine)
    assert (door.connections, door.is_shut) == (1, False)
    out = engine.connect()
    with read_only(app.selector, "upgrade", until):
        assert (door.connections, door.is_shut) == (1, True)
        out.close()
        assert door.connections == 0
        for use in (engine.connect, app.selector.require_read_write, lambda: write(app)):
            with pytest.raises(ReadOnlyError) as caught:
                use()
            assert (caught.value.reason, caught.value.until) == ("upgrade", until)
        assert app.selector.engine() is app.engines["ro"]
        assert app.selector.state.until == until
    assert not door.is_shut
    assert can_write(app)
    to, back = Mode.READ_ONLY, Mode.READ_WRITE
    assert flips == [(back, to, "upgrade"), (to, back, None)]
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition(". It was read-only for ")[0] for text in told] == [
        "sa_readonly: read-write -> read-only: a test dictates it",
        "sa_readonly: read-only -> read-write: a test has ended",
    ]


@pytest.mark.parametrize("mode", Mode)
def test_idle_connections_of_a_fixed_switch_are_closed(lite: App, mode: Mode) -> None:
    lite.start().selector.close()
    engine = lite.engines["rw"]
    with EngineSelector(FixedSwitch(mode), read_write=engine, read_only=lite.engines["ro"]) as one:
        with read_write(one):
            engine.connect().close()
            assert Door.of(engine).connections == 1
            with read_only(one):
                assert Door.of(engine).connections == 0
            engine.connect().close()
        assert Door.of(engine).is_shut is (mode is Mode.READ_ONLY)


def test_a_naive_until_is_local_time(lite: App) -> None:
    until = datetime.now() + timedelta(hours=1)
    lite.start()
    with read_only(lite.selector, until=until):
        assert lite.selector.state.until == until.astimezone()


def test_nothing_is_looked_at_started_or_registered_while_held(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.start(ttl=0.01, watch=True, workers=True)
    files = sorted(os.listdir(app.path.parent))
    real, seen = os.stat, list[object]()

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        seen.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    with read_write(app.selector):
        write(app)
        app.selector.check()
        with read_only(app.selector):
            assert not can_write(app)
            assert which(app) == "ro"
        with app.selector.engine().begin() as connection:
            connection.execute(ALL)
        in_thread(lambda: write(app))
    assert app.path not in [Path(str(path)) for path in seen]
    assert not app.selector._worker._begun
    assert set(threading.enumerate()) <= LINGERING
    assert sorted(os.listdir(app.path.parent)) == files
    monkeypatch.undo()
    write(app)
    assert own_threads() == {"sa_readonly"}
    assert set(os.listdir(app.path.parent)) - set(files) == {"read-only.txt.workers"}


def test_a_process_that_is_registered_already_tells_what_it_is_held_in(lite: App) -> None:
    lite.start(ttl=0.01, watch=True, workers=True)
    write(lite)

    def told() -> tuple[Mode, Mode | None, int]:
        (seen,) = lite.selector.registry.read()
        return seen.report.mode, seen.report.forced, seen.report.connections

    # Where the watcher is at work on a report, the next one is left to it.
    with read_only(lite.selector):
        wait_until(lambda: told() == (Mode.READ_ONLY, Mode.READ_ONLY, 0), "its report")
        lite.on()
        lite.off()
    assert can_write(lite)
    wait_until(lambda: told()[:2] == (Mode.READ_WRITE, None), "its report")


def test_a_selector_made_while_its_switch_is_held_is_held_and_then_watched(lite: App) -> None:
    lite.start(workers=False)
    switch = FileSwitch(lite.path, ttl=0.01)
    engines = {"read_write": lite.engine("rw"), "read_only": lite.engines["ro"]}
    first = EngineSelector(switch, **engines, workers=False)
    with read_only(first):
        second = EngineSelector(
            switch, read_write=lite.engine("rw"), read_only=lite.engines["ro"], workers=False
        )
        with second.engine().connect() as connection, pytest.raises(ReadOnlyError):
            connection.execute(ALL)
        with pytest.raises(ReadOnlyError):
            lite.engines["rw"].connect()
        assert own_threads() == set()
    second.engine().connect().close()
    assert own_threads() == {"sa_readonly"}
    second.close()
    first.close()


def test_the_newest_block_counts_and_an_exception_ends_it(lite: App) -> None:
    lite.start()
    selector = lite.selector

    def nested() -> None:
        with read_only(selector, "outer"):
            with read_only(selector, "inner"):
                assert selector.state.reason == "inner"
            assert selector.state.reason == "outer"
            with read_write(selector):
                assert can_write(lite)
            assert not can_write(lite)
            raise ZeroDivisionError

    with read_write(selector):
        with pytest.raises(ZeroDivisionError):
            nested()
        assert can_write(lite)
    first, second = read_only(selector, "first"), read_write(selector)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # as fixtures of two tests that overlap
    assert can_write(lite)
    second.__exit__(None, None, None)
    assert can_write(lite)
    assert lite.selector.report().report.forced is None


def test_selectors_with_the_same_switch_are_held_together_and_no_other(lite: App) -> None:
    lite.start()
    switch = lite.selector.switch
    same = EngineSelector(
        switch, read_write=lite.engine("rw"), read_only=lite.engines["ro"], watch=False
    )
    other = EngineSelector(
        FileSwitch(lite.path), read_write=lite.engine("rw"), read_only=lite.engine("ro")
    )
    with read_only(lite.selector):
        assert same.read_only
        assert not other.read_only
        other.engine().connect().close()
    assert not same.read_only
    same.close()
    other.close()


def test_a_file_that_comes_or_goes_meanwhile_is_seen_after_the_block(lite: App) -> None:
    lite.start(ttl=3600)
    with read_write(lite.selector):
        lite.on("a real one")
        assert can_write(lite)
    assert lite.selector.state.reason == "a real one"
    assert not can_write(lite)
    with read_only(lite.selector):
        lite.off()
        assert not can_write(lite)
    assert can_write(lite)


def test_a_look_that_began_before_the_block_changes_nothing_in_it(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=3600)
    switch = lite.selector.switch
    block, examine = read_only(lite.selector, "a test"), switch._examine

    def flips_meanwhile() -> object:
        seen = examine()
        block.__enter__()
        return seen

    lite.on("a real one")
    monkeypatch.setattr(switch, "_examine", flips_meanwhile)
    assert switch.check().reason == "a test"
    assert switch.known.reason == "a test"
    monkeypatch.undo()
    block.__exit__(None, None, None)
    assert lite.selector.state.reason == "a real one"


def test_a_gate_that_fails_to_open_lets_nothing_be_held(
    lite: App, caplog: pytest.LogCaptureFixture
) -> None:
    lite.on()
    lite.start()

    def gate(state: Any) -> None:
        if not state.read_only:
            raise OSError("the disk is full")

    end = lite.selector.switch.subscribe(gate, lambda *_: None)
    with pytest.raises(InvalidRequestError) as caught, read_write(lite.selector):
        raise NotImplementedError
    assert str(caught.value) == (
        f"FileSwitch('{lite.path}', ttl=0.0) can't be overridden read-write: a gate failed to "
        "open. The log tells why."
    )
    assert not lite.selector.switch.overridden
    assert "A gate failed to open" in caplog.text
    assert not can_write(lite)
    end()
    with read_write(lite.selector):
        assert can_write(lite)


def test_a_switch_that_cant_be_overridden_is_a_configuration_error(lite: App) -> None:
    class Other(Switch):
        known = FixedSwitch(Mode.READ_WRITE).known

        def check(self) -> State:
            return self.known

        def subscribe(self, gate: Any, flipped: Any) -> Any:
            gate(self.known)
            return lambda: None

        def __repr__(self) -> str:
            return "Other()"

    selector = EngineSelector(Other(), read_write=lite.engine("rw"), read_only=lite.engine("ro"))
    for block in (read_only, read_write, writes_nothing):
        with pytest.raises(ConfigurationError) as caught, block(selector):
            raise NotImplementedError
        assert str(caught.value) == (
            "Other() can't be overridden for a test. Give the selector a FileSwitch or a "
            "FixedSwitch in your tests, or derive your switch from "
            "sa_readonly.subscribers.BaseSwitch."
        )
    selector.close()


def test_a_block_is_no_decorator_which_would_assert_nothing_of_a_coroutine(lite: App) -> None:
    lite.start()
    for block in (read_only, read_write, writes_nothing):
        assert not callable(block(lite.selector))


def test_a_transaction_costs_the_same_after_a_block(lite: App) -> None:
    lite.start(ttl=3600)
    for work in (reading(lite.sessions, 1), writing(lite.sessions)):
        before = calls(work)
        with read_only(lite.selector):
            pass
        assert calls(work) == before


# -- around each test: one transaction, one database in memory --------------------------------


@pytest.fixture
def outer(app: App) -> Any:
    """One connection and one transaction around a test, as SQLAlchemy's docs tell to do it."""
    engine = app.engine("rw")
    if engine.dialect.name == "sqlite":  # pysqlite's own BEGIN comes too late for a savepoint

        @event.listens_for(engine, "connect")
        def no_begin(connection: Any, _: Any) -> None:
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

    app.start()
    with engine.connect() as connection, connection.begin() as transaction:
        yield sessionmaker(
            connection, class_=RoutingSession, join_transaction_mode="create_savepoint"
        )
        assert transaction.is_active
        transaction.rollback()
    assert app.titles("rw") == []


@pytest.mark.parametrize("grace", [None, 0])
def test_a_transaction_around_a_test_reads_writes_nothing_and_lives_on(
    app: App, outer: Any, grace: float | None
) -> None:
    if grace is not None:
        app.selector._guarded._grace = grace
    with outer.begin() as session:
        session.add(Book(title="before"))
    with read_only(app.selector):
        with outer() as session:
            assert session.scalars(select(Book.title)).all() == ["before"]
            session.add(Book(title="x"))
            with pytest.raises(ReadOnlyError):
                session.commit()
            session.rollback()
            for statement in (ALL, update(Book).values(title="x"), text("delete from book")):
                with pytest.raises(ReadOnlyError):
                    session.execute(statement)
                session.rollback()
            assert session.scalars(select(Book.title)).all() == ["before"]
        with read_write(app.selector), outer.begin() as session:
            session.add(Book(title="between"))
    with outer.begin() as session:
        session.add(Book(title="after"))
        assert session.scalar(select(func.count()).select_from(Book)) == 3
    with pytest.raises(AssertionError, match="INSERT"), writes_nothing(app.selector):
        swallowing(outer)


def test_a_real_flip_lets_what_had_begun_go_on(lite: App) -> None:
    lite.start()
    with lite.sessions() as session:
        session.scalar(WHICH)
        lite.on()
        assert lite.selector.read_only
        session.add(Book(title="x"))
        session.commit()
    assert lite.titles("rw") == ["x"]


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///file:{}?mode=memory&cache=shared&uri=true"]
)
def test_a_database_in_memory_needs_a_name_for_its_read_only_engine(
    url: str, request: pytest.FixtureRequest
) -> None:
    url = url.format(f"test{id(request)}")
    engine, reader = (
        create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
        for _ in range(2)
    )
    Base.metadata.create_all(engine)
    switch = FixedSwitch(Mode.READ_WRITE)
    with pytest.raises(ConfigurationError, match="Give read_only= as well"):
        EngineSelector(switch, read_write=engine)
    with EngineSelector(switch, read_write=engine, read_only=reader) as selector:
        sessions = sessionmaker(selector, class_=RoutingSession)
        with sessions.begin() as session:
            session.add(Book(title="x"))
        with read_only(selector), sessions() as session:
            session.add(Book(title="y"))
            with pytest.raises(ReadOnlyError):
                session.commit()
            session.rollback()
            with contextlib.nullcontext() if "file:" in url else pytest.raises(Exception) as caught:
                assert session.scalars(select(Book.title)).all() == ["x"]
            assert caught is None or "no such table: book" in str(caught.value)
        with sessions() as session:
            assert session.scalars(select(Book.title)).all() == ["x"]
    engine.dispose()
    reader.dispose()


# -- what writes nothing ---------------------------------------------------------------------


def test_what_only_reads_writes_nothing(app: App) -> None:
    app.start()
    with writes_nothing(app.selector):
        assert which(app) == "ro"
        with app.sessions() as session:
            session.add(Book(title="x"))  # and never flushes
            session.expunge_all()
    assert can_write(app)


def swallowing(sessions: Any) -> int:
    """Answer as an application that catches."""
    try:
        with sessions.begin() as session:
            session.add(Book(title="x"))
    except ReadOnlyError:
        return 503
    return 200


def test_each_write_is_named_also_where_the_application_has_caught_the_error(app: App) -> None:
    app.start()

    def request() -> None:
        assert swallowing(app.sessions) == 503
        with app.sessions() as session:
            with contextlib.suppress(ReadOnlyError):
                session.execute(ALL)
            session.rollback()
            with contextlib.suppress(ReadOnlyError):
                session.execute(text("delete from book"))
            session.rollback()
        with contextlib.suppress(ReadOnlyError):
            app.selector.require_read_write()
        with contextlib.suppress(ReadOnlyError):
            app.engines["rw"].connect()

    with pytest.raises(AssertionError) as caught, writes_nothing(app.selector):
        request()
    assert str(caught.value) == (
        "5 writes were refused where nothing was to be written:\n"
        "- The flush of INSERT for Book\n"
        "- INSERT\n"
        "- DELETE: delete from book\n"
        "- What needs to write\n"
        "- A read-write connection"
    )
    assert caught.value.__cause__ is None
    assert can_write(app)


def test_a_request_that_the_middleware_refuses_beforehand_is_named_too(lite: App) -> None:
    lite.start()
    guarded = ReadOnlyMiddleware(None, lite.selector, refuse=["POST"])
    with pytest.raises(AssertionError) as caught, writes_nothing(lite.selector):
        assert call(guarded, "/order")[0] == "503 Service Unavailable"
    assert str(caught.value).endswith("\n- POST /order")


def test_what_the_server_refuses_is_named_too(pg_urls: Any) -> None:
    engine = create_engine(pg_urls["rw"])
    with engine.begin() as connection:
        connection.execute(text("create table if not exists put (id int)"))
        body = "insert into put values (1) returning id"
        connection.execute(
            text(f"create or replace function put() returns int language sql as '{body}'")
        )
    selector = EngineSelector(FixedSwitch(Mode.READ_WRITE), read_write=engine)

    def request() -> None:
        with selector.engine().connect() as connection, contextlib.suppress(ReadOnlyError):
            connection.execute(text("select put()"))

    with pytest.raises(AssertionError) as caught, writes_nothing(selector):
        request()
    assert str(caught.value).endswith("\n- The statement: select put()")
    selector.close()
    engine.dispose()


def test_the_error_that_leaves_the_block_is_the_cause(lite: App) -> None:
    lite.start()
    with pytest.raises(AssertionError) as caught, writes_nothing(lite.selector):
        write(lite)
    assert str(caught.value) == (
        "1 write was refused where nothing was to be written:\n- The flush of INSERT for Book"
    )
    assert isinstance(caught.value.__cause__, ReadOnlyError)
    with pytest.raises(AssertionError) as caught, writes_nothing(lite.selector):
        assert swallowing(lite.sessions) == 200
    assert "The flush of INSERT for Book" in str(caught.value)
    assert isinstance(caught.value.__cause__, AssertionError)


def test_an_error_without_a_write_leaves_as_it_is(lite: App) -> None:
    lite.start()
    with pytest.raises(ZeroDivisionError), writes_nothing(lite.selector):
        raise ZeroDivisionError

    def interrupted() -> None:
        swallowing(lite.sessions)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writes_nothing(lite.selector):
        interrupted()
    assert can_write(lite)


def test_a_write_before_or_after_the_block_is_none_of_it(lite: App) -> None:
    lite.start()
    with read_only(lite.selector):
        assert swallowing(lite.sessions) == 503
        with writes_nothing(lite.selector):
            which(lite)
        assert swallowing(lite.sessions) == 503


def test_a_read_that_is_given_the_read_only_engine_instead_is_no_write(lite: App) -> None:
    lite.start()
    block = contextlib.ExitStack()

    class Late(RoutingSession):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            chosen = super().get_bind(*args, **kwargs)
            if not lite.selector.read_only:  # a flip comes before the first connection
                block.enter_context(writes_nothing(lite.selector))
            return chosen

    with block, Late(lite.selector) as session:
        assert session.scalar(WHICH) == "ro"


def test_a_refusal_counts_for_its_own_switch_alone(lite: App) -> None:
    lite.on()
    lite.start()
    one, same = (
        EngineSelector(switch, read_write=lite.engine("rw"), read_only=lite.engine("ro"))
        for switch in (FixedSwitch(Mode.READ_WRITE), lite.selector.switch)
    )
    with writes_nothing(one):
        assert swallowing(lite.sessions) == 503
    with pytest.raises(AssertionError, match="The flush of INSERT for Book"), writes_nothing(same):
        assert swallowing(lite.sessions) == 503
    one.close()
    same.close()


# -- asyncio ---------------------------------------------------------------------------------


async def test_a_coroutine_holds_a_mode_by_a_plain_with(async_app: AsyncApp) -> None:
    async_app.start(ttl=0.01, watch=True, workers=True)
    selector, sessions = async_app.selector, async_app.async_sessions
    files = sorted(os.listdir(async_app.path.parent))

    async def add() -> None:
        async with sessions.begin() as session:
            session.add(Book(title="x"))

    with read_write(selector):
        await add()
        with read_only(selector, "upgrade"):
            assert Door.of(async_app.engines["rw"]).connections == 0
            async with sessions() as session:
                assert await session.scalar(WHICH) == "ro"
            refused = await asyncio.gather(*(add() for _ in range(3)), return_exceptions=True)
            assert [type(one) for one in refused] == [ReadOnlyError] * 3
        await add()
        with pytest.raises(AssertionError) as caught, writes_nothing(selector):
            await add()
        assert isinstance(caught.value.__cause__, ReadOnlyError)
        assert own_threads() == set()
        assert sorted(os.listdir(async_app.path.parent)) == files
    await add()
    assert async_app.titles("rw") == ["x"] * 3


def test_a_mode_is_held_outside_of_the_loop(async_app: AsyncApp, own_loop: None) -> None:
    async_app.start(watch=True, workers=True)

    async def add() -> None:
        async with async_app.async_sessions.begin() as session:
            session.add(Book(title="x"))

    with read_write(async_app.selector):  # as a fixture does, around what runs on a loop
        async_app.run(add())
        with read_only(async_app.selector), pytest.raises(ReadOnlyError):
            async_app.run(add())
        async_app.run(add())
        assert own_threads() == set()
    assert async_app.titles("rw") == ["x", "x"]


# -- pytest ----------------------------------------------------------------------------------


def test_what_is_for_tests_needs_no_pytest() -> None:
    script = (
        "import sys\n"
        "sys.modules['pytest'] = None\n"
        "import sa_readonly.testing as testing\n"
        "print(testing.__all__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['read_only', 'read_write', 'writes_nothing']\n"


ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
BRIEFLY, CONFTEST, SHOP, ASYNC, TRANSACTION, MEMORY = BLOCKS
MYAPP = """
import os
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sa_readonly import EngineSelector, RoutingSession
from sa_readonly.wsgi import ReadOnlyMiddleware


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)


selector = EngineSelector(
    os.environ["MYAPP_FILE"], read_write=create_engine(os.environ["MYAPP_URL"])
)
Session = sessionmaker(selector, class_=RoutingSession)


def application(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        with Session.begin() as session:
            session.add(Thing())
    with Session() as session:
        names = [str(thing.id) for thing in session.scalars(select(Thing))]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(selector.state.reason).encode(), *(name.encode() for name in names)]


application = ReadOnlyMiddleware(application, selector)
"""
MORE = """
import threading
import pytest
from myapp import application
from werkzeug.test import Client


@pytest.fixture
def client():
    yield Client(application)
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("sa_readonly") for name in names), names
"""


def run_pytest(directory: Path, *options: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *options],
        cwd=directory,
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(ROOT),
            **environment,
        },
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@once
def test_the_examples_of_the_docs_run_in_several_processes_and_leave_nothing(
    tmp_path: Path, pg_urls: Any
) -> None:
    need("werkzeug", "xdist")
    engine = create_engine(pg_urls["rw"])
    Thing.__table__.create(engine, checkfirst=True)
    (tmp_path / "var").mkdir()
    files = {"myapp.py": MYAPP, "conftest.py": CONFTEST + MORE, "pytest.ini": "[pytest]\n"}
    for block in (SHOP, TRANSACTION):
        files[block.splitlines()[0].removeprefix("# ")] = block
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    try:
        code, output = run_pytest(
            tmp_path,
            *("-p", "xdist", "-n", "2", "-p", "sa_readonly"),
            MYAPP_FILE=str(tmp_path / "var" / "read-only.txt"),
            MYAPP_URL=pg_urls["rw"].render_as_string(hide_password=False),
        )
        assert "6 passed" in output, output
        assert code == 0
        with engine.connect() as connection:
            assert connection.scalars(select(Thing.id)).all() == []
    finally:
        Thing.__table__.drop(engine)
        engine.dispose()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "var"])
    assert list((tmp_path / "var").iterdir()) == []


@pytest.mark.parametrize("loaded", ["sa_readonly", "no:sa_readonly"])
def test_the_fixture_that_is_not_overridden_says_what_to_do_and_one_can_opt_out(
    tmp_path: Path, loaded: str
) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(sa_read_only): pass\n")
    code, output = run_pytest(tmp_path, *("-p", loaded))
    assert code == 1
    told = "The fixture sa_readonly_selector is not overridden. Define one"
    assert (told if loaded == "sa_readonly" else "fixture 'sa_read_only' not found") in output


def test_the_other_examples_of_the_docs_run(lite: App, place: Path) -> None:
    names: dict[str, Any] = {"pytest": pytest, "ReadOnlyError": ReadOnlyError, "Thing": Thing}
    exec(MEMORY, names)  # our own text
    names["four_o_clock"] = datetime.now()
    exec(BRIEFLY, names)
    engines = [names["selector"].engine()]
    with read_only(names["selector"]):
        engines.append(names["selector"].engine())
    Thing.__table__.create(engines[0])
    with engines[1].connect() as connection:
        assert connection.scalars(select(Thing.id)).all() == []
    names["selector"].close()
    for engine in engines:
        engine.dispose()
    exec(ASYNC, names)
    Thing.__table__.create(lite.engine("rw"))
    url = lite.urls["rw"].set(drivername="sqlite+aiosqlite")

    async def main() -> None:
        engine = create_async_engine(url)
        async with EngineSelector(lite.path, read_write=engine) as selector:
            factory = async_sessionmaker(selector, sync_session_class=RoutingSession)
            await names["test_an_order_is_refused"](selector, factory)
        await engine.dispose()

    asyncio.run(main())
