"""How old an answer may be: nothing but traffic looks here, no thread, and no transaction before.

Where a test looks each time (``ttl=0``) the file appears, and the very next step must know it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session
from sqlalchemy.pool import (
    AssertionPool,
    NullPool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
)

from sa_readonly import Engines, EngineSelector, FileSwitch, ReadOnlyError
from sa_readonly.engines.doors import Door
from sa_readonly.workers.verdict import judge
from tests.app import SECONDS, WHICH, App, Book, Clock, in_thread, make_app, sqlite_urls
from tests.async_app import DRIVERS, AsyncApp, make_async_app
from tests.postgres import Pair
from tests.test_calls import calls

A_CONNECTION = "^A read-write connection is refused: the application is read-only since"
UNDER_AUTOCOMMIT = "^A read-write statement under AUTOCOMMIT is refused: the application is"
A_TRANSACTION = "^A read-write transaction is refused: the application is read-only since"
AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT"}
A_BOOK = insert(Book).values(title="after")


@pytest.fixture(params=["sqlite", "postgresql", *DRIVERS])
def each(request: pytest.FixtureRequest, place: Path) -> Iterator[App]:
    """The application on each backend, and on each async driver."""
    if request.param in ("sqlite", "aiosqlite"):
        urls = sqlite_urls(place, "rw", "ro")
    else:
        urls = dict(request.getfixturevalue("pg_urls"))
    make: Any = make_app(place, urls)
    if request.param in DRIVERS:
        make = make_async_app(place, urls, request.param)
    with make as made:
        yield made


def begin(engine: Engine) -> None:
    with engine.begin():
        raise AssertionError("it has begun")


def ask_a_session(engine: Engine) -> None:
    with Session(engine) as session:
        session.connection()


ROADS: dict[str, Callable[[Engine], object]] = {
    "raw_connection": Engine.raw_connection,
    "connect": Engine.connect,
    "begin": begin,
    "pool": lambda engine: engine.pool.connect(),
    "clone": lambda engine: engine.execution_options(x=1).connect(),
    "raw clone": lambda engine: engine.execution_options(x=1).raw_connection(),
    "AUTOCOMMIT clone": lambda engine: engine.execution_options(**AUTOCOMMIT).connect(),
    "plain Session": ask_a_session,
    "inspect": lambda engine: inspect(engine).get_table_names(),
}


# -- checkouts -------------------------------------------------------------------------------


def test_by_no_road_a_connection_is_given_out_after_the_file_appeared(each: App) -> None:
    for name, go in ROADS.items():
        for kept in (True, False):
            each.start()
            engine = each.engines["rw"]
            if kept:
                engine.connect().close()
            each.on()
            with pytest.raises(ReadOnlyError, match=A_CONNECTION):
                go(engine)
            assert Door.of(engine).connections == 0, (name, kept)
            each.off()
            each.selector.close()
    assert not each.statements


@pytest.mark.parametrize(
    "poolclass", [QueuePool, NullPool, SingletonThreadPool, StaticPool, AssertionPool]
)
def test_each_kind_of_pool_refuses_and_goes_on_after_the_flip_back(
    app: App, poolclass: Any
) -> None:
    app.engine("rw", poolclass=poolclass)
    app.start()
    engine = app.engines["rw"]
    pool = engine.pool
    engine.connect().close()
    for _ in range(2):
        app.on()
        for give in (engine.raw_connection, engine.connect, pool.connect, engine.pool.connect):
            with pytest.raises(ReadOnlyError):
                give()
        assert Door.of(engine).connections == int(poolclass is StaticPool)  # which holds it
        app.off()
        with engine.begin() as connection:  # which notices it
            connection.execute(A_BOOK)
    assert app.titles("rw") == ["after", "after"]
    if poolclass is QueuePool:
        assert (pool.checkedout(), engine.pool.checkedout()) == (0, 0)


def test_a_second_checkout_of_a_thread_is_refused_and_the_first_one_goes_on(lite: App) -> None:
    lite.engine("rw", poolclass=SingletonThreadPool)
    lite.start()
    engine = lite.engines["rw"]
    with engine.begin() as connection:
        connection.execute(A_BOOK)
        lite.on()
        with pytest.raises(ReadOnlyError, match=A_CONNECTION):
            engine.raw_connection()
    assert lite.titles("rw") == ["after"]
    assert Door.of(engine).connections == 0


def test_a_pool_that_holds_the_database_refuses_and_loses_nothing(place: Path) -> None:
    # The first one is not a file's: what is closed of it is lost.
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        connection.execute(text("create table kept (x)"))
    file = place / "read-only.txt"
    with (
        closing(
            EngineSelector(
                FileSwitch(file, ttl=0),
                read_write=engine,
                read_only=create_engine(f"sqlite:///{place}/ro.db", poolclass=NullPool),
                watch=False,
            )
        ),
        engine.connect().execution_options(**AUTOCOMMIT) as connection,
    ):
        pool = engine.pool
        connection.execute(text("insert into kept values (1)"))
        file.touch()
        with pytest.raises(ReadOnlyError, match=UNDER_AUTOCOMMIT):
            connection.execute(text("insert into kept values (2)"))
        for give in (engine.connect, pool.connect):
            with pytest.raises(ReadOnlyError, match=A_CONNECTION):
                give()
        file.unlink()
        with engine.connect() as other:
            assert other.scalars(text("select x from kept")).all() == [1]
    engine.dispose()


def test_what_appears_while_a_connection_is_made_ready_is_seen(each: App) -> None:
    for late in ("connect", "checkout"):
        engine = each.engine("rw")
        each.start()
        event.listen(engine, late, lambda *_: each.on())
        with pytest.raises(ReadOnlyError, match=A_CONNECTION):
            engine.raw_connection()
        assert Door.of(engine).connections == 0, late
        each.off()
        each.selector.close()


def test_once_the_file_is_there_no_server_is_asked_for_a_connection(each: App) -> None:
    asked = list[Any]()
    each.start()
    engine = each.engines["rw"]
    engine.connect().close()  # so that the process is registered: that looks, too
    engine.dispose()
    event.listen(engine, "do_connect", lambda *_: asked.append("asked"))
    each.on()
    with pytest.raises(ReadOnlyError, match=A_CONNECTION):
        engine.connect()
    assert asked == []


def test_a_connection_that_was_long_in_the_making_is_closed_and_shown_to_none(each: App) -> None:
    each.start()
    engine = each.engines["rw"]
    made, shown = list[Any](), list[Any]()

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: Any, cargs: Any, cparams: Any) -> Any:
        made.append(dialect.connect(*cargs, **cparams))
        each.on()
        return made[0]

    event.listen(engine, "connect", lambda *_: shown.append("shown"))
    with pytest.raises(ReadOnlyError, match=A_CONNECTION):
        engine.connect()
    assert (len(made), shown, Door.of(engine).connections) == (1, [], 0)
    with pytest.raises(Exception, match=r"(?i)closed|no active connection"):
        made[0].cursor().execute("select 1")


@pytest.mark.parametrize("how", ["invalidate", "soft", "pre-ping"])
def test_a_connection_that_is_made_anew_is_refused(app: App, how: str) -> None:
    app.engine("rw", pool_pre_ping=how == "pre-ping")
    app.start()
    engine = app.engines["rw"]
    with engine.connect() as connection:
        if how == "soft":
            connection.connection.invalidate(soft=True)
        elif how == "invalidate":
            connection.invalidate()
            app.on()
            with pytest.raises(ReadOnlyError, match=A_CONNECTION):
                connection.execute(A_BOOK)
    app.path.touch()
    if how == "pre-ping":
        event.listen(engine, "checkout", lost_once())
    with pytest.raises(ReadOnlyError, match=A_CONNECTION):
        engine.connect()
    assert Door.of(engine).connections == 0


def lost_once() -> Callable[..., None]:
    """A listener by which SQLAlchemy connects anew, as after a ping that failed."""
    lost = [DisconnectionError()]

    def lose(*_: Any) -> None:
        while lost:
            raise lost.pop()

    return lose


def test_who_has_waited_in_the_queue_of_the_pool_is_refused(lite: App) -> None:
    lite.engine("rw", pool_size=1, max_overflow=0, pool_timeout=SECONDS)
    lite.start()
    engine = lite.engines["rw"]
    held = engine.raw_connection()
    pool: Any = engine.pool
    queue_get = pool._pool.get

    def get(*args: Any, **kwargs: Any) -> Any:  # it waits now
        lite.on()
        in_thread(held.close)
        return queue_get(*args, **kwargs)

    pool._pool.get = get
    with pytest.raises(ReadOnlyError, match=A_CONNECTION):
        engine.connect()
    assert (Door.of(engine).connections, pool.checkedout()) == (0, 0)


def test_a_checkout_goes_by_the_age_of_the_answer(lite: App, clock: Clock) -> None:
    lite.start(ttl=60)
    engine = lite.engines["rw"]
    lite.selector.check()
    lite.on()
    engine.raw_connection().close()  # the answer is young
    clock.ahead = 61
    with pytest.raises(ReadOnlyError, match=A_CONNECTION):
        engine.raw_connection()
    lite.off()
    with pytest.raises(ReadOnlyError, match=A_CONNECTION):
        engine.raw_connection()
    clock.ahead = 122
    engine.raw_connection().close()


def test_a_process_that_notices_the_flip_by_a_checkout_is_drained_at_once(each: App) -> None:
    for kept in (True, False):
        engine = each.engine("rw")
        each.start()
        if kept:
            engine.connect().close()
            each.on()
        else:
            event.listen(engine, "do_connect", lambda *_: each.on())
        with pytest.raises(ReadOnlyError, match=A_CONNECTION):
            engine.connect()
        selector = each.selector
        assert judge(selector.switch.identify, selector.registry).holds, kept
        each.off()
        selector.close()


def test_a_closed_selector_gives_the_checkouts_back(lite: App) -> None:
    lite.start()
    lite.selector.close()
    lite.on()
    lite.engines["rw"].raw_connection().close()


def test_a_replica_that_is_taken_away_is_asked_too(lite: App) -> None:
    for read_write in (
        Engines(lite.engine("rw"), lite.engine("ro")),
        Engines(lite.engine("rw")),  # whose replica is a second engine of the primary
    ):
        lite.start(read_write=read_write, read_only=create_engine(lite.urls["ro"]))
        replica = lite.selector.engine("replica")
        replica.raw_connection().close()
        lite.on()
        with pytest.raises(ReadOnlyError, match=A_CONNECTION):
            replica.raw_connection()
        lite.off()
        lite.selector.close()


# -- sessions --------------------------------------------------------------------------------


def test_a_read_that_has_chosen_its_engine_is_given_the_read_only_one(each: App) -> None:
    for late in ("connect", "checkout"):
        engine = each.engine("rw")
        each.start()
        event.listen(engine, late, lambda *_: each.on())
        with each.sessions() as session:
            assert session.scalar(WHICH) == "ro", late
            assert session.scalar(select(Book.title)) is None
        assert Door.of(engine).connections == 0
        assert each.selector.report().report.refused == 0
        each.off()
        each.selector.close()


def test_a_flush_that_has_chosen_its_engine_is_refused(each: App) -> None:
    each.start()
    event.listen(each.engines["rw"], "checkout", lambda *_: each.on())
    with each.sessions() as session:
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError):
            session.flush()
    assert (each.titles("rw"), each.titles("ro")) == ([], [])
    assert Door.of(each.engines["rw"]).connections == 0


# -- BEGIN -----------------------------------------------------------------------------------


def test_each_begin_of_a_connection_that_is_held_is_refused(each: App) -> None:
    each.start()
    twophase = each.engines["rw"].dialect.name != "sqlite"
    with each.engines["rw"].connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        connection.rollback()
        each.on()
        for go in (
            connection.begin,
            connection.begin_nested,
            *([connection.begin_twophase] if twophase else []),
            lambda: connection.execute(A_BOOK),
        ):
            with pytest.raises(ReadOnlyError, match=A_TRANSACTION):
                go()
    assert each.titles("rw") == []


# -- AUTOCOMMIT ------------------------------------------------------------------------------


def write(connection: Any) -> None:
    connection.execute(A_BOOK)


STATEMENTS: dict[str, Callable[[Any], object]] = {
    "Core": write,
    "text": lambda connection: connection.execute(text("delete from book")),
    "driver SQL": lambda connection: connection.exec_driver_sql("delete from book"),
    "executemany": lambda connection: connection.execute(
        text("insert into book (title) values (:title)"), [{"title": "a"}, {"title": "b"}]
    ),
    "insertmanyvalues": lambda connection: connection.execute(
        insert(Book).returning(Book.id), [{"title": "a"}, {"title": "b"}]
    ),
    "no parameters": lambda connection: connection.execution_options(
        no_parameters=True
    ).exec_driver_sql("delete from book"),
    "read": lambda connection: connection.scalar(WHICH),
}


def test_under_autocommit_each_statement_is_refused_after_the_file_appeared(each: App) -> None:
    for where in ("connection", "older clone", "clone", "update", "engine"):
        engine = each.engine("rw", **(AUTOCOMMIT if where == "engine" else {}))
        clone = engine
        if where == "older clone":
            clone = engine.execution_options(**AUTOCOMMIT)
        each.start()
        if where == "clone":
            clone = engine.execution_options(**AUTOCOMMIT)
        if where == "update":
            engine.update_execution_options(**AUTOCOMMIT)
        for name, send in STATEMENTS.items() if where == "connection" else [("Core", write)]:
            with clone.connect() as connection:
                if where == "connection":
                    connection.execution_options(**AUTOCOMMIT)
                connection.execute(insert(Book).values(title=f"before {where} {name}"))
                each.on()
                with pytest.raises(ReadOnlyError, match=UNDER_AUTOCOMMIT) as caught:
                    send(connection)
                assert caught.value.statement is not None
                assert Door.of(engine).connections == 0, (where, name)
            each.off()
        each.selector.close()
    titles = each.titles("rw")
    assert len(titles) == len(STATEMENTS) + 4
    assert all(title.startswith("before ") for title in titles)


def test_a_connection_that_is_held_goes_to_autocommit_in_vain(each: App) -> None:
    each.start()
    with each.engines["rw"].connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        connection.rollback()
        each.on()
        connection.execution_options(**AUTOCOMMIT)
        with pytest.raises(ReadOnlyError, match="is refused: the application is read-only since"):
            connection.execute(A_BOOK)
    assert each.titles("rw") == []


@pytest.mark.parametrize("engine_too", [False, True])
def test_a_connection_that_has_left_autocommit_has_its_grace(
    app: App, clock: Clock, engine_too: bool
) -> None:
    app.engine("rw", **(AUTOCOMMIT if engine_too else {}))
    app.start(grace=30)
    level = "SERIALIZABLE"
    with app.engines["rw"].connect().execution_options(**AUTOCOMMIT) as connection:
        connection.execute(insert(Book).values(title="one"))
        connection.rollback()
        connection.execution_options(isolation_level=level)
        connection.execute(insert(Book).values(title="two"))
        app.on()
        app.selector.check()
        connection.execute(insert(Book).values(title="three"))
        clock.ahead = 31
        with pytest.raises(ReadOnlyError, match="went on after its grace"):
            connection.execute(insert(Book).values(title="four"))
    assert app.titles("rw") == ["one"]


def test_under_autocommit_a_statement_goes_by_the_age_of_the_answer(app: App, clock: Clock) -> None:
    app.start(ttl=60)
    app.selector.check()
    with app.engines["rw"].connect().execution_options(**AUTOCOMMIT) as connection:
        write(connection)
        app.on()
        write(connection)  # the answer is young
        clock.ahead = 61
        with pytest.raises(ReadOnlyError, match=UNDER_AUTOCOMMIT):
            write(connection)
    assert app.titles("rw") == ["after", "after"]


def test_what_was_begun_under_autocommit_goes_on_where_the_file_was_gone_in_time(
    app: App, clock: Clock
) -> None:
    app.start(ttl=60)
    with app.engines["rw"].connect().execution_options(**AUTOCOMMIT) as connection:
        write(connection)
        app.on()
        app.selector.check()
        app.off()
        clock.ahead = 61  # nothing has looked since
        write(connection)
    assert app.titles("rw") == ["after", "after"]


def test_a_raw_connection_under_autocommit_is_refused_at_checkout(app: App) -> None:
    app.engine("rw", **AUTOCOMMIT)
    app.start()
    with closing(app.engines["rw"].raw_connection()) as raw:
        raw.cursor().execute("insert into book (title) values ('before')")
    app.on()
    with pytest.raises(ReadOnlyError, match=A_CONNECTION):
        app.engines["rw"].raw_connection()
    assert app.titles("rw") == ["before"]


async def test_an_async_engine_refuses_by_its_own_roads(async_app: AsyncApp) -> None:
    async_app.start()
    engine = async_app.async_engine("rw")
    async with engine.connect() as connection:
        await connection.execution_options(**AUTOCOMMIT)
        await connection.execute(insert(Book).values(title="before"))
        async_app.on()
        with pytest.raises(ReadOnlyError, match=UNDER_AUTOCOMMIT):
            await connection.execute(A_BOOK)
    for go in (engine.raw_connection, engine.connect().start, engine.begin().__aenter__):
        with pytest.raises(ReadOnlyError, match=A_CONNECTION):
            await go()
    assert Door.of(engine.sync_engine).connections == 0
    assert async_app.titles("rw") == ["before"]


def test_mariadb_is_asked_for_by_the_same_steps(mariadb_pair: Pair, place: Path) -> None:
    engine = create_engine(mariadb_pair.read_write)
    file = place / "read-only.txt"
    with (
        closing(
            EngineSelector(
                FileSwitch(file, ttl=0),
                read_write=engine,
                read_only=create_engine(mariadb_pair.read_only, poolclass=NullPool),
                watch=False,
            )
        ),
        engine.connect().execution_options(**AUTOCOMMIT) as connection,
        engine.connect() as other,
    ):
        connection.execute(text("create table kept (x int)"))
        connection.execute(text("insert into kept values (1)"))
        assert other.scalars(text("select x from kept")).all() == [1]
        other.rollback()
        file.touch()
        with pytest.raises(ReadOnlyError, match=UNDER_AUTOCOMMIT):
            connection.execute(text("insert into kept values (2)"))
        with pytest.raises(ReadOnlyError, match=A_TRANSACTION):
            other.execute(text("insert into kept values (2)"))
        with pytest.raises(ReadOnlyError, match=A_CONNECTION):
            engine.raw_connection()
        file.unlink()
        assert other.scalars(text("select x from kept")).all() == [1]
    engine.dispose()


# -- what it costs ---------------------------------------------------------------------------


def test_a_checkout_costs_two_calls_more_and_a_statement_none(lite: App) -> None:
    lite.start(ttl=3600)
    lite.urls["plain"] = lite.urls["rw"]
    ours, plain = lite.engines["rw"], lite.engine("plain")
    ours.connect().execution_options(**AUTOCOMMIT).close()  # which changes nothing for the others

    def checking_out(engine: Engine) -> Callable[[], object]:
        return lambda: engine.connect().close()

    def executing(engine: Engine, times: int) -> Callable[[], object]:
        def execute() -> None:
            with engine.connect() as connection:
                for _ in range(times):
                    connection.exec_driver_sql("select 1")

        return execute

    assert calls(checking_out(ours)) - calls(checking_out(plain)) == 2  # the clock is read in C
    for level in ({}, {"isolation_level": "SERIALIZABLE"}):
        one, ten = (
            calls(executing(ours.execution_options(**level), times))
            - calls(executing(plain.execution_options(**level), times))
            for times in (1, 10)
        )
        assert one == ten
