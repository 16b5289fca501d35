"""What is touched of SQLAlchemy's private names does what ``engines/privates/`` relies on.

Each of these falls where a release of SQLAlchemy does otherwise; the cure is in that room alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.orm.session import SessionTransactionState
from sqlalchemy.pool import (
    AssertionPool,
    NullPool,
    Pool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
)

from sa_readonly.engines import privates
from sa_readonly.engines.privates.later import Later
from tests.app import Base, Book


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Make engines of one file of SQLite, and dispose of them."""
    with contextlib.ExitStack() as stack:

        def engine(poolclass: type[Pool] = QueuePool, **options: Any) -> Engine:
            made = create_engine(f"sqlite:///{tmp_path}/file.db", poolclass=poolclass, **options)
            stack.callback(made.dispose)
            return made

        yield engine


# -- pools -----------------------------------------------------------------------------------


@pytest.mark.parametrize("theirs", [False, True])
def test_a_creator_is_read_and_replaced_and_goes_along_with_recreate(
    make: Callable[..., Engine], theirs: bool
) -> None:
    engine, made = make(), []
    if theirs:  # a creator= that takes no record
        create = privates.creator(engine.pool)
        engine = make(creator=lambda: create(None))
    before = privates.creator(engine.pool)

    def counted(connection_record: Any = None) -> Any:
        made.append(connection_record)
        return before(connection_record)

    privates.set_creator(engine.pool, counted)
    engine.pool = engine.pool.recreate()
    engine.connect().close()
    assert [record is not None for record in made] == [True]


def test_a_pool_that_refuses_to_connect_does_not_tell_its_successor(
    make: Callable[..., Engine],
) -> None:
    pool = make().pool

    def refuse(*_: object) -> Any:
        raise ZeroDivisionError

    privates.refuse_creation(pool, refuse)
    with pytest.raises(ZeroDivisionError):
        pool.connect()
    successor = pool.recreate()
    successor.connect().close()
    successor.dispose()


class Closing(privates.ClosingPool, QueuePool):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.closed: list[bool] = []

    def sa_readonly_close(self, connection: Any, gently: Any, *, terminate: bool) -> None:
        self.closed.append(terminate)
        gently()


def closing(make: Callable[..., Engine]) -> Any:
    return make(Closing).pool


def test_a_pool_is_told_of_each_connection_that_is_to_be_closed(
    make: Callable[..., Engine],
) -> None:
    pool = closing(make)
    pool.connect().invalidate()
    assert len(pool.closed) == 1
    detached = pool.connect()
    detached.detach()
    detached.close()
    assert len(pool.closed) == 2
    pool.connect().close()
    pool.dispose()
    assert len(pool.closed) == 3


def test_what_a_listener_fails_on_before_it_is_given_out_is_closed_once(
    make: Callable[..., Engine],
) -> None:
    pool = closing(make)
    event.listen(pool, "connect", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pool.connect()
    assert (pool.closed, pool.checkedout()) == ([True], 0)


def test_what_comes_back_after_a_dispose_is_closed(make: Callable[..., Engine]) -> None:
    pool = closing(make)
    out = pool.connect()
    pool.dispose()
    out.close()
    assert (len(pool.closed), pool.checkedin()) == (1, 0)
    pool.connect().close()
    assert (len(pool.closed), pool.checkedin()) == (1, 1)  # it is in use again


def test_a_record_is_given_back_by_hand(make: Callable[..., Engine]) -> None:
    pool: Any = make().pool
    proxied = pool.connect()
    record, proxied._connection_record = proxied._connection_record, None
    privates.give_back(record)
    assert (pool.checkedout(), pool.checkedin()) == (0, 1)
    proxied.dbapi_connection = None


@pytest.mark.parametrize(
    ("kind", "out"), [(QueuePool, 1), (SingletonThreadPool, 1), (AssertionPool, 1), (NullPool, 0)]
)
def test_what_is_out_of_a_pool_is_counted(
    make: Callable[..., Engine], kind: type[Pool], out: int
) -> None:
    pool = make(kind).pool
    assert privates.connections_out(pool) == 0
    proxied = pool.connect()
    assert privates.connections_out(pool) == out
    proxied.close()
    assert privates.connections_out(pool) == 0


@pytest.mark.parametrize("kind", [StaticPool, SingletonThreadPool, AssertionPool, QueuePool])
def test_the_records_that_a_pool_keeps_are_found_without_connecting(
    make: Callable[..., Engine], kind: type[Pool]
) -> None:
    pool = make(kind).pool
    assert privates.kept_records(pool) == []
    with contextlib.closing(pool.connect()) as proxied:
        kept = privates.kept_records(pool)
        assert [one.dbapi_connection for one in kept] == [proxied.dbapi_connection] * len(kept)
        assert len(kept) == (kind is not QueuePool)
        assert privates.idle_records(pool) == []
    idle = kind in (SingletonThreadPool, AssertionPool)
    assert privates.idle_records(pool) == (kept if idle else [])


def test_idle_records_are_taken_from_a_queue_and_counted_and_ghosts_stay(
    make: Callable[..., Engine],
) -> None:
    pool: Any = make(pool_size=3).pool
    for proxied in [pool.connect(), pool.connect()]:
        proxied.close()
    with contextlib.closing(pool.connect()):
        privates.put_ghost(pool)
        for record in privates.take_idle(pool):
            record.close()
        assert (pool.checkedin(), pool.checkedout()) == (1, 1)


def test_a_ghost_wakes_a_thread_that_waits_and_asks_the_creator(
    make: Callable[..., Engine],
) -> None:
    pool: Any = make(pool_size=1, max_overflow=0, pool_timeout=60).pool
    assert privates.may_wait(pool)
    assert not privates.may_wait(make(max_overflow=-1).pool)
    asked = threading.Event()
    create = privates.creator(pool)

    def counted(record: Any) -> Any:
        asked.set()
        return create(record)

    with contextlib.closing(pool.connect()):
        privates.set_creator(pool, counted)
        thread = threading.Thread(target=lambda: pool.connect().close())
        thread.start()
        privates.put_ghost(pool)
        thread.join(60)
        assert asked.is_set()


def test_the_loop_in_which_a_task_has_waited_is_found_in_the_queue(tmp_path: Path) -> None:
    async def go() -> None:
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{tmp_path}/file.db", pool_size=1, max_overflow=0
        )
        pool = engine.pool
        first = await engine.connect()
        assert privates.loop_of_queue(pool) is None
        second = asyncio.ensure_future(_connected(engine.connect()))
        while privates.loop_of_queue(pool) is None:
            await asyncio.sleep(0)
        assert privates.loop_of_queue(pool) is asyncio.get_running_loop()
        await first.close()
        await (await second).close()
        await engine.dispose()

    asyncio.run(asyncio.wait_for(go(), 60))


async def _connected(connection: Any) -> AsyncConnection:
    return await connection  # type: ignore[no-any-return]


def test_a_queue_of_a_sync_pool_has_no_loop(make: Callable[..., Engine]) -> None:
    assert privates.loop_of_queue(make().pool) is None
    assert privates.loop_of_queue(make(NullPool).pool) is None


# -- engines and connections -----------------------------------------------------------------


def test_a_clone_with_a_pool_of_its_own_has_the_events_and_options_of_its_engine(
    make: Callable[..., Engine],
) -> None:
    engine, seen = make(execution_options={"colour": "red"}), []
    event.listen(engine, "begin", seen.append)
    own = privates.OwnPoolEngine(engine, engine.dialect, engine.pool.recreate())
    with own.begin() as connection:
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        assert connection.get_execution_options()["colour"] == "red"
    assert len(seen) == 1
    own.dispose()


def test_an_engine_is_found_by_its_clones_and_a_clone_with_a_pool_by_its_own(
    make: Callable[..., Engine],
) -> None:
    engine = make()
    clone = engine.execution_options(x=1).execution_options(y=2)
    assert privates.unwrapped(engine) is privates.unwrapped(clone) is engine
    own = privates.OwnPoolEngine(engine, engine.dialect, engine.pool.recreate())
    assert privates.unwrapped(own.execution_options(x=1)) is privates.unwrapped(own) is own


def test_an_error_is_made_the_loss_of_its_connection(make: Callable[..., Engine]) -> None:
    with make().connect() as connection:
        before = connection.connection.dbapi_connection
        privates.disconnect(connection)
        with pytest.raises(DBAPIError) as caught:
            connection.exec_driver_sql("no SQL")
        assert caught.value.connection_invalidated
        connection.rollback()
        assert connection.connection.dbapi_connection is not before


def test_a_detached_connection_is_closed_by_the_pool_that_it_had(
    make: Callable[..., Engine],
) -> None:
    engine = make(Closing)
    pool: Any = engine.pool
    with engine.connect() as connection:
        privates.close_detached(connection)
        assert pool.closed == []
        connection.detach()
        privates.close_detached(connection)
        assert len(pool.closed) == 1
        connection.invalidate()


def test_a_statement_tells_its_connection_of_the_pool(make: Callable[..., Engine]) -> None:
    engine, seen = make(), []

    @event.listens_for(engine, "before_cursor_execute")
    def note(*given: Any) -> None:
        seen.append(privates.on_connection_of(given[4]))

    with engine.connect() as connection:
        connection.exec_driver_sql("select 1")
        assert seen == [connection.connection]


def test_an_adapter_s_cursor_tells_its_connection(tmp_path: Path) -> None:
    def ask(connection: Any) -> None:
        adapter = connection.connection.dbapi_connection
        with contextlib.closing(adapter.cursor()) as cursor:
            assert getattr(cursor, privates.CONNECTION_OF_ADAPTED_CURSOR) is adapter

    async def go() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/file.db")
        async with engine.connect() as connection:
            await connection.run_sync(ask)
        await engine.dispose()

    asyncio.run(go())


# -- dialects --------------------------------------------------------------------------------


def test_autocommit_that_was_given_to_create_engine_is_seen(make: Callable[..., Engine]) -> None:
    assert privates.commits(make(isolation_level="AUTOCOMMIT").dialect)
    assert not privates.commits(make().dialect)
    assert not privates.commits(make(execution_options={"isolation_level": "AUTOCOMMIT"}).dialect)


def test_how_a_server_reads_quotes_is_what_its_dialect_found_out() -> None:
    postgresql: Any = create_engine("postgresql+psycopg2://").dialect
    mysql: Any = create_engine("mysql+pymysql://").dialect
    assert privates.quoting(postgresql) == (type(postgresql)._backslash_escapes, False)
    assert privates.quoting(mysql) == (
        type(mysql)._backslash_escapes,
        type(mysql)._server_ansiquotes,
    )
    postgresql._backslash_escapes = mysql._backslash_escapes = mysql._server_ansiquotes = True
    assert privates.quoting(postgresql) == (True, False)
    assert privates.quoting(mysql) == (True, True)
    assert privates.quoting(create_engine("sqlite://").dialect) == (None, False)


def test_a_ping_is_a_text_that_a_cursor_takes(make: Callable[..., Engine]) -> None:
    engine = make()
    with engine.connect() as connection:
        dialect: Any = engine.dialect
        text = privates.ping_statement(dialect)
        assert connection.exec_driver_sql(text).scalar() == 1


class Noting:
    levels: tuple[object, ...] = ()

    def set_connection_characteristic(
        self, dialect: Any, conn: Any, dbapi: Any, value: Any
    ) -> None:
        super().set_connection_characteristic(dialect, conn, dbapi, value)  # type: ignore[misc]
        Noting.levels = (*Noting.levels, value)


def test_a_mixin_is_told_of_the_isolation_level_of_connections_and_of_clones(
    make: Callable[..., Engine],
) -> None:
    engine = make()
    clone = engine.execution_options(isolation_level="SERIALIZABLE")  # before the dialect changes
    dialect: Any = engine.dialect
    body = {
        "supports_statement_cache": True,
        "connection_characteristics": privates.add_to_isolation_level(type(dialect), Noting),
    }
    dialect.__class__ = type("Noting", (type(dialect),), body)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
    with clone.connect():
        pass
    assert Noting.levels == ("AUTOCOMMIT", "SERIALIZABLE")


def test_options_of_an_engine_are_applied_by_the_dialect_of_the_connection_s_own(
    make: Callable[..., Engine],
) -> None:
    engine = make()
    dialect: Any = engine.dialect
    privates.apply_options_by_own_dialect(dialect)
    own = privates.OwnPoolEngine(
        engine.execution_options(isolation_level="AUTOCOMMIT"),
        twin_of(dialect),
        engine.pool.recreate(),
    )
    with own.connect():
        assert Twin.asked == [own.dialect]
    own.dispose()


class Twin(DefaultDialect):
    asked: list[object] = []  # noqa: RUF012  # one test's

    def _set_connection_characteristics(self, connection: Any, characteristics: Any) -> None:
        Twin.asked.append(self)


def twin_of(dialect: Any) -> Any:
    made = object.__new__(type("Twin", (Twin, type(dialect)), {"supports_statement_cache": True}))
    made.__dict__ = dialect.__dict__
    return made


# -- connections that connect by their first statement ---------------------------------------


@pytest.fixture
def later(make: Callable[..., Engine]) -> Later:
    engine = make()
    Base.metadata.create_all(engine)
    return Later(
        engine, lambda one, asked: one.sa_readonly_connect(engine, autobegin=asked is not None)
    )


def test_all_that_is_overridden_of_a_connection_is_there(later: Later) -> None:
    ours = {name for name, one in vars(Later).items() if callable(one) or isinstance(one, property)}
    added = {"__getattr__"} | {name for name in ours if "sa_readonly" in name}
    assert ours - added <= set(dir(Connection))
    impls = {name for name in vars(Connection) if name.endswith("_impl")}
    assert impls <= ours


def test_what_connected_late_is_as_one_that_connected_at_once(later: Later) -> None:
    with later.engine.connect() as other, later:
        assert later.scalar(select(1)) == other.scalar(select(1)) == 1
        assert type(later) is type(other)
        assert set(vars(later)) == set(vars(other))
        later.rollback()
        assert not later.in_transaction()


def test_transactions_that_began_before_a_connection_connects_end_as_they_should(
    later: Later,
) -> None:
    with later:
        for end in ("rollback", "commit"):  # of none
            getattr(later.begin(), end)()
        assert not later.in_transaction()
        root, kept, undone = later.begin(), later.begin_nested(), later.begin_nested()
        later.execute(insert(Book).values(title="undone"))
        assert [one.is_active for one in (root, kept, undone)] == [True] * 3
        undone.rollback()
        later.execute(insert(Book).values(title="kept"))
        kept.commit()
        root.commit()
        assert later.scalars(select(Book.title)).all() == ["kept"]


def test_what_listens_to_a_connection_before_it_connects_hears_its_first_statement(
    later: Later,
) -> None:
    heard = []
    for name, target in (("its own", later), ("its engine's", later.engine)):
        for what in ("begin", "before_execute"):
            event.listen(
                target, what, lambda one, *_, name=name, what=what: heard.append((what, name, one))
            )
    with later:
        later.execute(select(1))
    assert sorted(heard[:2]) == [("begin", "its engine's", later), ("begin", "its own", later)]
    assert [what for what, *_ in heard[2:]] == ["before_execute"] * 2


def test_a_listener_of_a_connection_that_has_not_connected_can_be_removed(later: Later) -> None:
    heard = []

    def listen(*_: object) -> None:
        heard.append(1)

    event.listen(later, "before_execute", listen)
    with later:
        later.execute(select(1))
        event.remove(later, "before_execute", listen)
        later.execute(select(1))
    assert heard == [1]


def test_a_connection_that_can_not_begin_what_was_begun_is_given_back(later: Later) -> None:
    later.begin()
    kept = []  # so that no garbage collection gives it back

    @event.listens_for(later.engine, "begin")
    def fail(one: Connection) -> None:
        kept.append(one.connection)
        raise ZeroDivisionError

    with later:
        with pytest.raises(ZeroDivisionError):
            later.execute(select(1))
        assert privates.connections_out(later.engine.pool) == 0


# -- sessions --------------------------------------------------------------------------------


@pytest.fixture
def session(make: Callable[..., Engine]) -> Iterator[Session]:
    with Session(make()) as made:
        yield made


def test_a_session_is_known_to_be_connected_as_long_as_its_own_way_gives_the_connection(
    session: Session,
) -> None:
    engine = session.bind
    assert privates.connected(session, engine) is None
    session.begin()
    assert privates.connected(session, engine) is None
    for _ in range(2):
        with session.begin_nested():
            # A savepoint is begun by Session's own way.
            assert privates.connected(session, engine) is None
            connection = session.connection()
            assert privates.connected(session, engine) is connection
    assert privates.connected(session, engine) is session.connection() is connection
    session.commit()
    assert privates.connected(session, engine) is None


def test_a_session_is_not_known_to_be_connected_where_its_own_way_raises(session: Session) -> None:
    engine = session.bind
    with contextlib.suppress(ZeroDivisionError), session.begin():
        session.connection()
        with session.begin_nested():
            session.connection()
            session.get_nested_transaction().commit()
            assert privates.connected(session, engine) is None
            with pytest.raises(InvalidRequestError, match="closed transaction inside context"):
                session.connection()
            raise ZeroDivisionError
    session.connection()
    session.get_transaction()._state = SessionTransactionState.DEACTIVE  # as after a failed flush
    assert privates.connected(session, engine) is None
    with pytest.raises(InvalidRequestError, match="inactive"):
        session.connection()
    session.rollback()


def test_a_session_looks_as_in_a_flush_inside_a_block(session: Session) -> None:
    seen = []
    event.listen(session, "before_flush", lambda session, *_: seen.append(session._flushing))
    Base.metadata.create_all(session.bind)
    session.add(Book(title="one"))
    session.flush()
    with privates.as_flushing(session):
        seen.append(session._flushing)
    assert [*seen, session._flushing] == [True, True, False]


def test_a_dialect_that_asks_its_server_anew_begins_no_transaction() -> None:
    engine = create_engine("sqlite://", execution_options={"isolation_level": "AUTOCOMMIT"})
    engine.connect().close()
    event.listen(engine, "begin", lambda _: pytest.fail("it began"))
    event.listen(engine, "before_cursor_execute", lambda *_: pytest.fail("it told a listener"))
    seen: list[Any] = []

    @event.listens_for(engine.pool, "connect")
    def connected(connection: Any, record: Any) -> None:
        privates.initialize(engine, connection, record)
        seen.append(engine.dialect.default_schema_name)

    engine.dispose()
    engine.dialect.default_schema_name = ""
    engine.raw_connection().close()
    assert seen == ["main"]


def test_what_is_inspected_by_a_function_is_what_it_returns() -> None:
    class Inspected:
        pass

    one = Inspected()
    privates.inspect_by(Inspected, lambda subject: [subject])
    assert inspect(one) == [one]


def test_an_async_session_is_told_engines_beside_its_binds() -> None:
    bind, other = (create_async_engine("sqlite+aiosqlite://") for _ in range(2))
    session = AsyncSession(bind)
    privates.tell_async_engines(session.sync_session, [other])
    privates.tell_async_engines(Session(), [other])  # of no AsyncSession
    if hasattr(session, "get_async_bind"):  # SQLAlchemy 2.1
        assert session.get_async_bind() is bind
        session.sync_session.bind = other.sync_engine
        assert session.get_async_bind() is other
