"""An engine of Core that is held: by which first statement a transaction waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    DDL,
    Column,
    Connection,
    Integer,
    MetaData,
    Sequence,
    Table,
    event,
    func,
    insert,
    inspect,
    lambda_stmt,
    select,
    text,
)
from sqlalchemy.exc import (
    InvalidRequestError,
    ObjectNotExecutableError,
    OperationalError,
    ResourceClosedError,
)
from sqlalchemy.orm import Session

from sa_readonly import ConfigurationError, ReadOnlyError
from sa_readonly.refusals import refusals
from tests.app import RELEASE, SECONDS, WHICH, App, Book, make_app
from tests.async_app import AsyncApp
from tests.held import InThreads
from tests.postgres import wait_until


class Held(InThreads):
    """Transactions of Core of an application that is read-only, each in a thread of its own."""

    def __init__(self, app: App, *, hold: float = SECONDS, **options: Any) -> None:
        super().__init__()
        app.on()
        self.app = app.start(max_held=20, **options)
        self.engine = app.selector.engine(hold=hold)
        self.told: dict[str, Any] = {}

    def begin(self, name: str, work: Callable[[Connection], object]) -> None:
        def run() -> None:
            try:
                with self.engine.connect() as connection:
                    self.told[name] = work(connection)
                    connection.commit()
            except Exception as error:  # noqa: BLE001  # the test looks at it
                self.told[name] = error

        self.start(run)

    @property
    def failed(self) -> dict[str, Any]:
        return {name: one for name, one in self.told.items() if isinstance(one, Exception)}


@pytest.fixture
def waits(app: App) -> Iterator[Held]:
    made = Held(app)
    yield made
    app.selector.close()
    made.join()


def put(title: str) -> Any:
    return insert(Book).values(title=title)


def in_a_savepoint(connection: Connection) -> None:
    with connection.begin():
        connection.begin_nested().rollback()
        with connection.begin_nested(), connection.begin_nested():
            connection.execute(put("savepoint"))


def in_a_savepoint_of_what_autobegins(connection: Connection) -> None:
    with connection.begin_nested():
        connection.execute(put("autobegun"))


def undone(connection: Connection) -> None:
    with connection.begin():
        nested = connection.begin_nested()
        connection.execute(put("undone"))
        nested.rollback()
        connection.execute(put("after it"))


MADE = MetaData()
Table("made", MADE, Column("id", Integer, primary_key=True))

WRITES: dict[str, Callable[[Connection], object]] = {
    "dml": lambda one: one.execute(put("dml")),
    "many": lambda one: one.execute(insert(Book), [{"title": "many"}]),
    "lambda": lambda one: one.execute(lambda_stmt(lambda: insert(Book).values(title="lambda"))),
    "text": lambda one: one.execute(text("insert into book (title) values ('text')")),
    "driver": lambda one: one.exec_driver_sql("insert into book (title) values ('driver')"),
    "scalar": lambda one: one.scalar(put("scalar").returning(Book.title)),
    "scalars": lambda one: one.scalars(put("scalars").returning(Book.title)).all(),
    "savepoint": in_a_savepoint,
    "autobegun": in_a_savepoint_of_what_autobegins,
    "after it": undone,
    "session": lambda one: (
        (session := Session(one)).add(Book(title="session")),
        session.commit(),
    ),
    "ddl": lambda one: one.execute(DDL("create table made (id integer)")),
    "autocommit": lambda one: (
        one.execution_options(isolation_level="AUTOCOMMIT"),
        one.execute(put("autocommit")),
        one.rollback(),
    ),
}
if RELEASE < (2, 1):  # which takes no compiled statement
    WRITES["compiled"] = lambda one: one.execute(put("compiled").compile(one))


def test_each_first_statement_that_would_be_refused_waits_and_is_done_once(waits: Held) -> None:
    for name, work in WRITES.items():
        waits.begin(name, work)
    assert waits.number == len(WRITES)
    assert waits.app.statements == []
    assert waits.app.selector.report().report.connections == 0
    waits.end()
    assert waits.failed == {}
    assert waits.told["scalar"] == "scalar"
    assert waits.told["scalars"] == ["scalars"]
    assert waits.app.titles("rw") == sorted(set(WRITES) - {"ddl"})
    assert not any(refusals(waits.app.selector.switch).values())
    with waits.app.engines["rw"].begin() as connection:
        connection.execute(text("drop table made"))


READS: dict[str, Callable[[Connection], object]] = {
    "select": lambda one: one.execute(WHICH).scalar(),
    "scalar": lambda one: one.scalar(WHICH),
    "scalars": lambda one: one.scalars(WHICH).one(),
    "text": lambda one: one.scalar(text("select name from which")),
    "driver": lambda one: one.exec_driver_sql("select name from which").scalar(),
    "function": lambda one: (one.scalar(func.count(1)), one.scalar(WHICH))[1],
    "lambda": lambda one: one.scalar(lambda_stmt(lambda: WHICH)),
    "savepoint": lambda one: (one.begin_nested(), one.scalar(WHICH))[1],
    "streamed": lambda one: one.execution_options(stream_results=True).scalar(WHICH),
    "raw": lambda one: one.connection and one.scalar(WHICH),
    "inspected": lambda one: inspect(one).has_table("which") and one.scalar(WHICH),
    "session": lambda one: Session(one).scalar(WHICH),
}


def test_what_reads_goes_on_at_once_and_is_served_by_the_read_only_engine(waits: Held) -> None:
    for name, work in READS.items():
        waits.begin(name, work)
    waits.join()
    assert waits.told == dict.fromkeys(READS, "ro")
    with waits.engine.begin():  # which sends nothing
        pass
    assert waits.number == 0


def test_what_has_read_or_is_connected_is_refused_a_write_at_once(waits: Held) -> None:
    waits.begin("read", lambda one: (one.scalar(WHICH), one.execute(put("a"))))
    waits.begin("raw", lambda one: (one.connection, one.execute(put("b"))))
    waits.join()
    assert {type(one) for one in waits.told.values()} == {ReadOnlyError}
    assert "It was held" not in str(waits.told)
    assert waits.app.titles("rw") == []


def test_while_read_write_it_takes_a_connection_by_its_first_statement_too(waits: Held) -> None:
    waits.app.off()

    def late(connection: Connection) -> None:
        with connection.begin():
            waits.app.on()
            connection.execute(put("late"))

    with waits.engine.connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        connection.execute(put("at once"))
        connection.commit()
    waits.begin("late", late)
    assert waits.number == 1
    waits.end()
    assert waits.failed == {}
    assert waits.app.titles("rw") == ["at once", "late"]


def test_what_is_known_of_a_connection_before_its_first_statement_connects_nothing(
    lite: App,
) -> None:
    waits = Held(lite)
    with waits.engine.execution_options(mine=1).connect() as connection:
        assert connection.dialect.name == connection.engine.name == "sqlite"
        assert connection.execution_options(yours=2) is connection
        assert connection.get_execution_options() == {"mine": 1, "yours": 2}
        assert not any((connection.closed, connection.invalidated, connection.in_transaction()))
        with connection.begin() as transaction:
            assert transaction.is_valid
            assert connection.get_transaction() is transaction
            nested = connection.begin_nested()
            assert connection.get_nested_transaction() is nested
            transaction.rollback()
            with pytest.raises(InvalidRequestError, match="closed transaction inside"):
                connection.execute(put("a"))
        assert not hasattr(connection, "no_such_thing")
        assert not hasattr(connection, "_repr_html_")  # for which a notebook asks
        assert lite.selector.report().report.engines["read_only.primary"].in_use == 0
        assert connection.scalar(WHICH) == "ro"
        assert type(connection) is Connection
        assert connection.get_execution_options() == {"mine": 1, "yours": 2}
    assert connection.closed


def test_one_that_is_closed_before_its_first_statement_takes_none(lite: App) -> None:
    connection = Held(lite).engine.connect()
    transaction = connection.begin()
    connection.close()
    connection.close()
    assert connection.closed
    assert not transaction.is_active
    for use in (connection.begin, connection.begin_nested, lambda: connection.execute(put("a"))):
        with pytest.raises(ResourceClosedError):
            use()


def test_it_is_of_the_engine_that_gave_it_with_what_that_was_told_since(lite: App) -> None:
    waits, heard = Held(lite), []
    lite.off()
    for name in ("engine_connect", "begin", "before_cursor_execute"):
        event.listen(waits.engine, name, lambda one, *_, name=name: heard.append((name, one)))
    waits.engine.update_execution_options(mine=1)
    with waits.engine.connect() as connection:
        heard.clear()
        connection.execute(WHICH)
        assert connection.engine is waits.engine
        assert connection.get_execution_options() == {"mine": 1}
        assert [name for name, _ in heard] == ["engine_connect", "begin", "before_cursor_execute"]
        assert {one for _, one in heard} == {connection}
    lite.on()
    with waits.engine.connect() as connection:
        assert connection.scalar(WHICH) == "ro"
        assert connection.get_execution_options() == {"mine": 1}


def test_a_plain_session_has_one_connection_of_it_in_either_mode(app: App) -> None:
    waits = Held(app)
    for flip in (app.off, app.on):
        with Session(waits.engine) as session:
            connection = session.connection()
            for _ in range(2):
                assert session.scalars(WHICH).one()
                with session.begin_nested():
                    session.scalars(WHICH).one()
                    session.scalars(WHICH).one()
                assert not connection.in_nested_transaction()
                assert session.connection() is connection
            if app.selector.read_only:
                session.add(Book(title="pinned"))
                with pytest.raises(ReadOnlyError, match="INSERT is refused"):
                    session.flush()
        flip()
        app.selector.check()
    assert app.titles("rw") == []


@pytest.mark.parametrize("flip", [False, True])
def test_the_first_of_an_engine_knows_its_server(lite: App, flip: bool) -> None:
    waits = Held(lite)
    if flip:
        lite.off()
    assert inspect(waits.engine).default_schema_name == "main"
    with waits.engine.connect() as connection:
        assert connection.default_isolation_level == "SERIALIZABLE"
        assert connection.dialect.server_version_info
        assert inspect(connection).default_schema_name == "main"
        report = lite.selector.report().report
        assert not any(one.in_use for one in report.engines.values())


def test_what_waits_needs_no_server_to_read_from(lite: App) -> None:
    lite.urls["ro"] = lite.urls["ro"].set(database="/no/such/directory/ro.db")
    waits = Held(lite)
    waits.begin("read", lambda one: one.scalar(WHICH))
    waits.begin("write", lambda one: one.execute(put("a")))
    assert waits.number == 1
    waits.end()
    assert list(waits.failed) == ["read"]
    assert isinstance(waits.failed["read"], OperationalError)
    assert lite.titles("rw") == ["a"]


def test_methods_that_were_taken_before_it_has_connected_go_on_working(lite: App) -> None:
    connection = Held(lite).engine.connect()
    taken = [connection.execute, connection.scalar, connection.scalars]
    options, close = connection.execution_options, connection.close
    assert connection.exec_driver_sql("select name from which").scalar() == "ro"
    for one in taken:
        assert one(WHICH)
    assert options(mine=1).get_execution_options() == {"mine": 1}
    close()
    assert connection.closed
    assert lite.selector.report().report.engines["read_only.primary"].in_use == 0


def test_what_can_not_be_executed_waits_for_nothing(lite: App) -> None:
    with Held(lite).engine.connect() as connection:
        for use in (connection.execute, connection.scalar, connection.scalars):
            with pytest.raises(ObjectNotExecutableError):
                use("insert into book (title) values ('a')")
        assert not connection.in_transaction()


def test_an_isolation_level_is_refused_once_a_transaction_has_begun(lite: App) -> None:
    with Held(lite).engine.connect() as connection:
        transaction = connection.begin()
        with pytest.raises(InvalidRequestError, match="isolation_level may not be altered"):
            connection.execution_options(isolation_level="AUTOCOMMIT")
        transaction.rollback()
        connection.execution_options(isolation_level="AUTOCOMMIT")
        assert connection.scalar(WHICH) == "ro"


def test_a_flip_before_the_transaction_of_its_first_statement_begins_has_it_wait_on(
    waits: Held,
) -> None:
    app, flips = waits.app, []
    app.off()
    app.engines["rw"].connect().close()

    @event.listens_for(app.engines["rw"], "engine_connect")
    def flip(_: object) -> None:
        if len(flips) < 2:  # one for each
            flips.append(1)
            app.on()
            app.selector.check()

    waits.begin("read", lambda one: one.scalar(WHICH))
    app.off()
    waits.begin("write", lambda one: one.execute(put("a")))
    assert waits.number == 1
    waits.end()
    assert waits.failed == {}
    assert waits.told["read"] == "ro"
    assert app.titles("rw") == ["a"]


def test_what_a_listener_has_begun_as_it_connects_is_told_as_ever(lite: App) -> None:
    waits = Held(lite)
    event.listen(lite.engines["ro"], "engine_connect", lambda one: one.execute(WHICH))
    with waits.engine.connect() as connection:
        assert connection.scalar(WHICH) == "ro"
        connection.rollback()
    with waits.engine.connect() as connection:
        connection.begin()
        with pytest.raises(InvalidRequestError, match="has already initialized"):
            connection.scalar(WHICH)
        assert lite.selector.report().report.engines["read_only.primary"].in_use == 0


def test_a_metadata_is_created_by_an_engine_that_waits(lite: App) -> None:
    waits = Held(lite)
    waits.start(lambda: MADE.create_all(waits.engine))
    assert waits.number == 1
    waits.end()
    assert inspect(lite.engines["rw"]).has_table("made")


def test_an_engine_whose_hold_ends_refuses_by_the_words_of_what_was_first(lite: App) -> None:
    waits = Held(lite, hold=0.01)
    with pytest.raises(ReadOnlyError) as caught, waits.engine.begin() as connection:
        connection.execute(text("insert into book (title) values (:title)"), {"title": "a"})
    assert str(caught.value).startswith("INSERT is refused: the application is read-only since ")
    assert str(caught.value).endswith(" It was held for 0.01 s.")
    assert caught.value.statement == "insert into book (title) values (?)"
    assert refusals(lite.selector.switch) == {"statement": 1}


def test_a_refusal_names_what_writes_in_words_of_sql(lite: App) -> None:
    waits = Held(lite, hold=0.01)
    named = {
        "INSERT": lambda one: one.execute(put("a")),
        "DELETE": lambda one: one.query(Book).delete(),
        "A statement that writes": lambda one: one.execute(lambda_stmt(lambda: insert(Book))),
    }
    with waits.engine.connect() as connection, Session(connection) as session:
        for words, work in named.items():
            with pytest.raises(ReadOnlyError, match=rf"^{words} is refused: "):
                work(session)
            session.rollback()


def test_a_second_statement_of_a_transaction_that_was_refused_has_no_budget_of_its_own(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, given = Held(lite, hold=0.01), []
    ticket = lite.selector.held.ticket
    monkeypatch.setattr(
        lite.selector.held, "ticket", lambda hold: given.append(hold) or ticket(hold)
    )
    with waits.engine.connect() as connection:
        for _ in range(2):
            with pytest.raises(ReadOnlyError, match="It was held for"):
                connection.execute(put("a"))
        assert given == [0.01]
        connection.rollback()  # what comes then is another transaction
        with pytest.raises(ReadOnlyError), connection.begin():
            connection.execute(put("a"))
        assert given == [0.01] * 2


def test_a_flip_while_it_is_let_go_has_it_wait_on(waits: Held) -> None:
    app, flips = waits.app, []

    @event.listens_for(app.engines["rw"], "do_connect")
    def flip(*_: object) -> None:
        if not flips:
            flips.append(1)
            app.on()
            app.selector.check()

    waits.begin("one", in_a_savepoint)
    app.off()
    app.selector.check()
    wait_until(lambda: bool(flips) and waits.number == 1, "it waits on")
    waits.end()
    assert waits.failed == {}
    assert app.titles("rw") == ["savepoint"]


def test_listeners_hear_of_what_began_before_as_it_is_begun(lite: App) -> None:
    waits, heard = Held(lite), []
    for name in ("engine_connect", "begin", "savepoint", "release_savepoint", "commit"):
        event.listen(lite.engines["rw"], name, lambda *_, name=name: heard.append(name))
    waits.begin("one", in_a_savepoint)
    assert heard == []
    waits.end()
    assert heard == [
        *("engine_connect", "begin", "savepoint", "savepoint"),
        *("release_savepoint", "release_savepoint", "commit"),
    ]


def test_an_engine_of_core_is_held_with_its_execution_options(lite: App) -> None:
    waits = Held(lite)
    waits.engine = waits.engine.execution_options(isolation_level="AUTOCOMMIT")
    waits.engine = waits.engine.execution_options(mine=1)

    def work(connection: Connection) -> Any:
        connection.execute(put("core"))
        connection.rollback()  # of nothing
        return connection.get_execution_options()

    waits.begin("one", work)
    assert waits.number == 1
    waits.end()
    assert waits.told == {"one": {"isolation_level": "AUTOCOMMIT", "mine": 1}}
    assert lite.titles("rw") == ["core"]


def test_an_engine_of_core_needs_max_held_too(lite: App) -> None:
    lite.start()
    with pytest.raises(ConfigurationError, match=r"selector.engine\(hold\) needs EngineSelector"):
        lite.selector.engine(hold=1)
    assert lite.selector.engine("replica", hold=1) is lite.selector.engine("replica")


# -- PostgreSQL ------------------------------------------------------------------------------


@pytest.fixture
def pg(place: Path, pg_urls: Any) -> Iterator[App]:
    with make_app(place, dict(pg_urls)) as made:
        yield made


def in_two_phases(connection: Connection) -> None:
    transaction = connection.begin_twophase()
    with connection.begin_nested():
        connection.execute(put("two-phase"))
    transaction.prepare()
    transaction.commit()


POSTGRESQL: dict[str, Callable[[Connection], object]] = {
    "locked": lambda one: one.execute(select(Book).with_for_update()),
    "cte": lambda one: one.execute(select(put("cte").returning(Book.id).cte())),
    "nextval": lambda one: one.scalar(func.nextval("book_id_seq")),
    "sequence": lambda one: one.scalar(Sequence("book_id_seq")),
    "next value": lambda one: one.scalar(Sequence("book_id_seq").next_value()),
    "two-phase": in_two_phases,
    "driver": lambda one: one.exec_driver_sql("select nextval('book_id_seq')").scalar(),
}


def test_locks_sequences_dml_in_a_cte_and_two_phases_wait(pg: App) -> None:
    waits = Held(pg)
    for name, work in POSTGRESQL.items():
        waits.begin(name, work)
    assert waits.number == len(POSTGRESQL)
    waits.begin("two phases of a read", lambda one: (one.begin_twophase(), one.scalar(WHICH))[1])
    waits.end()
    assert waits.failed == {}
    assert waits.told["two phases of a read"] == "ro"
    assert pg.titles("rw") == ["cte", "two-phase"]


# -- asyncio ---------------------------------------------------------------------------------


@pytest.mark.parametrize("async_app", ["aiosqlite", "asyncpg"], indirect=True)
async def test_an_async_engine_is_held_by_its_first_statement_and_the_loop_goes_on(
    async_app: AsyncApp,
) -> None:
    app = async_app
    app.on()
    app.start()
    engine = app.selector.engine(hold=SECONDS).execution_options(mine=1)
    told: list[Any] = []

    async def write() -> None:
        async with engine.begin() as connection, connection.begin_nested():
            told.append((await connection.execution_options(yours=2)).sync_connection)
            await connection.execute(put("core"))

    async def run() -> None:
        async with engine.connect() as connection:
            await connection.run_sync(lambda one: one.execute(put("run_sync")))
            await connection.commit()

    tasks = [asyncio.ensure_future(one()) for one in (write, run)]
    async with engine.connect() as connection:
        assert await connection.scalar(WHICH) == "ro"
        result = await connection.stream(WHICH)
        assert (await result.scalars().all()) == ["ro"]
    while app.selector.held.held[0] < len(tasks):
        await asyncio.sleep(0)
    cancelled = asyncio.ensure_future(write())
    while app.selector.held.held[0] <= len(tasks):
        await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert app.selector.held.held[0] == len(tasks)
    app.off()
    app.selector.check()
    await asyncio.gather(*tasks)
    assert app.titles("rw") == ["core", "run_sync"]
    assert told[0].get_execution_options() == {"mine": 1, "yours": 2}
