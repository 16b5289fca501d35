"""A session that is held: which transactions wait, and what becomes of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import DDL, bindparam, event, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from sa_readonly import ConfigurationError, EngineSelector, ReadOnlyError, RoutingSession
from sa_readonly.refusals import refusals
from sa_readonly.workers.verdict import judge
from tests.app import SECONDS, WHICH, App, Author, Base, Book, Which, make_app, sqlite_urls
from tests.async_app import AsyncApp
from tests.held import InThreads
from tests.postgres import wait_until


class Held(InThreads):
    """Transactions of an application that is read-only, each in a thread of its own."""

    def __init__(self, app: App, *, hold: float = SECONDS, **options: Any) -> None:
        super().__init__()
        app.on()
        options.setdefault("max_held", 20)
        self.app = app.start(**options)
        self.sessions = sessionmaker(app.selector, class_=RoutingSession, hold=hold)
        self.failed: dict[str, BaseException] = {}
        self.done: list[str] = []

    def begin(self, name: str, work: Callable[[Any], object], **options: Any) -> None:
        def run() -> None:
            try:
                with self.sessions(**options) as session, session.begin():
                    work(session)
            except BaseException as error:  # noqa: BLE001  # the test looks at it
                self.failed[name] = error
            else:
                self.done.append(name)

        self.start(run)


@pytest.fixture
def waits(app: App) -> Iterator[Held]:
    made = Held(app)
    yield made
    app.selector.close()
    made.join()


def books(*titles: str) -> list[Book]:
    return [Book(title=title) for title in titles]


def add(title: str) -> Callable[[Any], None]:
    return lambda session: session.add(Book(title=title))


WRITES: dict[str, Callable[[Any], object]] = {
    "flush": add("flush"),
    "autoflush": lambda session: (session.add(Book(title="autoflush")), session.scalars(WHICH)),
    "dml": lambda session: session.execute(insert(Book).values(title="dml")),
    "many": lambda session: session.execute(insert(Book), [{"title": "many"}]),
    "text": lambda session: session.execute(
        text("insert into book (title) values (:title)"), {"title": "text"}
    ),
    "query": lambda session: session.query(Book).filter_by(title="no").update({"title": "x"}),
    "bulk mappings": lambda session: session.bulk_insert_mappings(
        Book, [{"title": "bulk mappings"}]
    ),
    "bulk objects": lambda session: session.bulk_save_objects(books("bulk objects")),
    "savepoint": lambda session: (
        session.begin_nested(),
        session.add(Book(title="savepoint")),
    ),
    "ddl": lambda session: session.execute(DDL("create table made (id integer)")),
}


def test_each_first_statement_that_would_be_refused_waits_and_is_done_once(waits: Held) -> None:
    for name, work in WRITES.items():
        waits.begin(name, work)
    assert waits.number == len(WRITES)
    assert waits.app.statements == []  # and nothing is connected
    assert waits.app.selector.report().report.connections == 0
    waits.end()
    assert waits.failed == {}
    assert sorted(waits.done) == sorted(WRITES)
    assert waits.app.titles("rw") == sorted(set(WRITES) - {"query", "ddl"})
    assert not any(refusals(waits.app.selector.switch).values())
    with waits.app.engines["rw"].begin() as connection:
        connection.execute(text("drop table made"))


READS: dict[str, Callable[[Any], object]] = {
    "select": lambda session: session.scalars(WHICH).all(),
    "in": lambda session: session.scalars(select(Book).where(Book.id.in_([1, 2]))).all(),
    "text": lambda session: session.scalars(text("select name from which")).all(),
    "function": lambda session: session.scalar(func.count(1)),  # which is sent in a SELECT
    "connection": lambda session: session.connection(),
    "get": lambda session: session.get(Author, 1),
}


def test_what_reads_goes_on_at_once(waits: Held) -> None:
    for name, work in READS.items():
        waits.begin(name, work)
    waits.begin("replica", READS["select"], role="replica")
    waits.join()
    assert waits.failed == {}
    assert {name for name, _ in waits.app.statements} == {"ro"}


REFUSED: dict[str, Callable[[Any], object]] = {
    "it has read": lambda session: (session.scalars(WHICH).all(), session.add(Book(title="a"))),
    "it is connected": lambda session: (session.connection(), session.execute(insert(Book))),
    "it has read a second": lambda session: (
        session.scalars(WHICH).all(),
        session.execute(text("insert into book (title) values ('a')")),
    ),
}


def test_a_transaction_that_holds_a_connection_is_refused_at_once(waits: Held) -> None:
    for name, work in REFUSED.items():
        waits.begin(name, work)
    waits.begin("replica", add("a"), role="replica")
    waits.join()
    assert {type(error) for error in waits.failed.values()} == {ReadOnlyError}
    assert len(waits.failed) == len(REFUSED) + 1


def test_a_connection_of_any_bind_keeps_a_transaction_from_waiting(lite: App) -> None:
    waits = Held(lite)
    plain = lite.make_engine(lite.urls["ro"])
    lite.made.append(plain)
    waits.sessions.configure(bind=None, binds={Book: lite.selector, Author: plain})
    for name in ("flush", "dml", "text"):
        statement = WRITES[name]
        waits.begin(
            name,
            lambda session, statement=statement: (
                session.get(Author, 1),
                statement(session) if statement is not WRITES["text"] else _text(session),
            ),
        )
        assert waits.number == 0  # it is refused at once
    waits.join()
    assert {type(error) for error in waits.failed.values()} == {ReadOnlyError}
    assert len(waits.failed) == 3


def test_a_flush_waits_that_writes_first_to_an_engine_of_the_applications_own(lite: App) -> None:
    waits = Held(lite)
    plain = lite.make_engine(lite.urls["ro"])
    lite.made.append(plain)
    waits.sessions.configure(bind=None, binds={Book: lite.selector, Author: plain})
    sent: list[Any] = []
    event.listen(plain, "before_cursor_execute", lambda *given: sent.append(given))
    waits.begin("a", lambda session: session.add_all([Author(name="Ann"), *books("a")]))
    assert waits.number == 1
    assert sent == []
    waits.end()
    assert waits.done == ["a"]
    assert lite.titles("rw") == ["a"]


def _text(session: Any) -> None:
    session.execute(text("delete from book"), bind_arguments={"mapper": Book})


POSTGRESQL: dict[str, Callable[[Any], object]] = {
    "for update": lambda session: session.scalars(select(Author).with_for_update()).all(),
    "nextval": lambda session: session.scalar(select(func.nextval("book_id_seq"))),
    "text": lambda session: session.scalar(text("select nextval('book_id_seq')")),
    "cte": lambda session: session.execute(
        select(insert(Book).values(title="cte").returning(Book.id).cte())
    ),
    "many": lambda session: session.get(Author, 1, with_for_update=True),
}


@pytest.fixture
def pg(place: Path, pg_urls: Any) -> Iterator[App]:
    with make_app(place, dict(pg_urls)) as made:
        yield made


def test_locks_sequences_and_dml_in_a_cte_wait(pg: App) -> None:
    waits = Held(pg)
    for name, work in POSTGRESQL.items():
        waits.begin(name, work)
    assert waits.number == len(POSTGRESQL)
    waits.sessions.configure(twophase=True)
    waits.begin("two-phase", add("two-phase"))
    waits.end()
    assert waits.failed == {}
    assert pg.titles("rw") == ["cte", "two-phase"]


def test_what_is_not_held_long_enough_is_refused_as_without(lite: App) -> None:
    waits = Held(lite, hold=0.01)
    waits.begin("flush", add("a"))
    waits.begin("text", WRITES["text"])
    waits.begin("dml", WRITES["dml"])
    waits.join()
    told = {name: str(error) for name, error in waits.failed.items()}
    assert told["flush"].startswith("The flush of INSERT for Book is refused: the application is")
    assert told["dml"].startswith("INSERT is refused: the application is read-only since ")
    assert all(text.endswith(" It was held for 0.01 s.") for text in told.values())
    assert len(told) == 3
    text_error: Any = waits.failed["text"]
    assert text_error.statement == "insert into book (title) values (?)"
    assert refusals(lite.selector.switch) == {"flush": 1, "statement": 2}


def test_a_flip_while_it_is_let_go_has_it_wait_on(waits: Held) -> None:
    app, flips = waits.app, []

    @event.listens_for(app.engines["rw"], "do_connect")
    def turn(*_: Any) -> None:
        if len(flips) < 2:
            flips.append(waits.number)
            app.on()

    waits.begin("a", add("a"))
    waits.begin("b", WRITES["text"])
    for _ in range(2):
        app.off()
        app.selector.check()
        wait_until(lambda: app.path.exists() and waits.number == 2, "both wait again")
    waits.end()
    assert waits.failed == {}
    assert app.titles("rw") == ["a", "text"]
    assert not any(refusals(app.selector.switch).values())


@pytest.mark.parametrize("when", ["do_connect", "checkout", "begin"])
def test_a_read_that_a_flip_meets_as_it_connects_is_served_as_without_hold(
    app: App, when: str
) -> None:
    selector = app.start(max_held=1).selector
    flips: list[object] = []

    @event.listens_for(app.engines["rw"], when)
    def turn(*_: Any) -> None:
        flips.append(app.on())
        selector.check()

    with RoutingSession(selector, hold=SECONDS) as session:
        assert session.scalars(WHICH).all() == ["ro"]
    assert flips == [None]
    assert not any(refusals(selector.switch).values())


def test_one_that_can_not_connect_passes_its_turn_on_at_once(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_readonly.hold.queue.TURN", SECONDS)
    waits = Held(lite)
    failed: list[object] = []

    @event.listens_for(lite.engines["rw"], "do_connect")
    def fail(*given: Any) -> None:
        if not failed:
            failed.append(given)
            raise OSError

    waits.begin("a", add("a"))
    waits.begin("b", add("b"))
    waits.end()
    assert list(waits.failed) == ["a"]
    assert waits.done == ["b"]


def test_none_writes_by_a_connection_that_was_made_before_a_flip(lite: App) -> None:
    waits = Held(lite)
    made: dict[Any, object] = {}
    wrote: list[object] = []
    primary = lite.engines["rw"]

    def now() -> object:
        return lite.selector.switch.known.since

    @event.listens_for(primary, "connect")
    def connect(connection: Any, _: Any) -> None:
        made[connection] = now()
        if len(made) == 1:  # the first is being made as it flips
            lite.on()
            lite.selector.check()

    @event.listens_for(primary, "before_cursor_execute")
    def execute(connection: Any, *_: Any) -> None:
        wrote.append(made[connection.connection.dbapi_connection] == now())

    waits.begin("a", add("a"))
    lite.off()
    lite.selector.check()
    wait_until(lambda: len(made) == 1 and waits.number == 1, "it waits again")
    waits.end()
    assert waits.done == ["a"]
    assert wrote == [True]


def test_what_a_flip_drives_from_the_queue_of_its_pool_is_held(lite: App) -> None:
    lite.engine("rw", pool_size=1, max_overflow=0)
    waits = Held(lite)
    lite.off()
    lite.selector.check()
    with lite.engines["rw"].connect() as connection:
        for name in "ab":
            waits.threads.append(
                threading.Thread(target=lambda name=name: _write(waits, name))  # type: ignore[misc]
            )
            waits.threads[-1].start()
        wait_until(lambda: _waiting_in(lite.engines["rw"].pool) == 2, "both wait in the pool")
        lite.on()
        lite.selector.check()
        wait_until(lambda: waits.number == 2, "both are held")
        connection.close()
    waits.end()
    assert waits.failed == {}
    assert lite.titles("rw") == ["a", "b"]
    assert not any(refusals(lite.selector.switch).values())


def _write(waits: Held, name: str) -> None:
    try:
        with waits.sessions.begin() as session:
            session.add(Book(title=name))
    except BaseException as error:  # noqa: BLE001  # the test looks at it
        waits.failed[name] = error


def _waiting_in(pool: Any) -> int:
    return len(pool._pool.not_empty._waiters)


def test_wait_says_drained_while_they_wait(waits: Held) -> None:
    selector = waits.app.selector
    waits.begin("flush", add("a"))
    assert waits.number == 1
    assert judge(selector.switch.identify, selector.registry).holds


def test_a_connection_that_is_held_elsewhere_in_its_thread_is_waited_for(lite: App) -> None:
    lite.start(max_held=1, grace=SECONDS)
    selector, waits = lite.selector, InThreads()
    waits.app = lite
    held = sessionmaker(selector, class_=RoutingSession, hold=SECONDS)

    def work() -> None:
        with lite.sessions.begin() as first:
            first.scalars(WHICH).all()
            lite.on()
            selector.check()
            with held.begin() as second:
                second.add(Book(title="second"))

    waits.start(work)
    assert waits.number == 1
    assert not judge(selector.switch.identify, selector.registry).holds
    waits.end()
    assert lite.titles("rw") == ["second"]


def test_two_databases_of_one_switch_are_written_in_one_transaction(lite: App, place: Path) -> None:
    second = sqlite_urls(place, "rw2", "ro2")
    with make_app(place, {"rw": second["rw2"], "ro": second["ro2"]}) as other:
        waits = Held(lite)
        other.selector = EngineSelector(
            lite.selector.switch,
            read_write=other.engine("rw"),
            read_only=other.engine("ro"),
            max_held=5,
            watch=False,
        )
        waits.sessions.configure(bind=None, binds={Book: lite.selector, Author: other.selector})
        waits.begin("both", lambda session: session.add_all([*books("a"), Author(id=2, name="b")]))
        waits.end()
        assert waits.failed == {}
        assert lite.titles("rw") == ["a"]
        with other.engines["rw"].connect() as connection:
            assert connection.scalar(select(func.count()).select_from(Author)) == 2


def test_a_second_statement_of_a_transaction_that_was_refused_has_no_budget_of_its_own(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Held(lite, hold=0.05)
    with waits.sessions() as session, session.begin():
        for _ in range(2):
            with pytest.raises(ReadOnlyError, match=r"It was held for 0\.05 s\."):
                session.execute(insert(Book).values(title="a"))
            monkeypatch.delattr("sa_readonly.hold.ticket.Sleeper.sleep", raising=False)


def test_a_sync_session_in_the_thread_of_a_loop_is_refused_at_once(lite: App) -> None:
    waits = Held(lite)

    async def work() -> None:
        with waits.sessions.begin() as session, pytest.raises(ReadOnlyError, match="event loop"):
            session.execute(insert(Book).values(title="a"))

    asyncio.run(work())


# -- asyncio ---------------------------------------------------------------------------------


two_drivers = pytest.mark.parametrize("async_app", ["aiosqlite", "asyncpg"], indirect=True)


@two_drivers
async def test_tasks_are_held_and_the_loop_goes_on(async_app: AsyncApp) -> None:
    app = async_app
    app.on()
    app.start()
    sessions = async_sessionmaker(app.selector, sync_session_class=RoutingSession, hold=SECONDS)

    async def write(title: str) -> None:
        async with sessions.begin() as session:
            session.add(Book(title=title))
            await session.flush()  # the end of the block is shielded by SQLAlchemy

    tasks = [asyncio.ensure_future(write(title)) for title in "abc"]
    while app.selector.held.held[0] < 3:
        await asyncio.sleep(0)
    tasks[0].cancel()
    async with AsyncSession(app.selector, sync_session_class=RoutingSession) as session:
        assert await session.scalar(select(Which.name)) == "ro"
    app.off()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError)
    assert app.titles("rw") == ["b", "c"]
    assert not app.selector.held.busy


# -- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [-1, "10", float("nan"), True])
def test_a_hold_that_is_no_number_of_seconds_is_refused(lite: App, hold: Any) -> None:
    lite.start(max_held=1)
    with pytest.raises(ConfigurationError, match=r"RoutingSession\(hold\) takes a number of seco"):
        lite.sessions(hold=hold)


def test_a_session_of_sync_engines_needs_max_held(lite: App) -> None:
    lite.start()
    for binds in ({"bind": lite.selector}, {"binds": {Base: lite.selector}}):
        with pytest.raises(ConfigurationError) as caught:
            RoutingSession(**binds, hold=1)
        assert str(caught.value) == (
            "RoutingSession(hold) needs EngineSelector(max_held=) where threads wait, as with sync "
            "sessions and in WSGI: all of a server's threads could wait, and none would be left "
            "for reads and health checks. Give at most half of the server's threads."
        )


def test_a_selector_that_is_found_later_needs_max_held_by_day_as_well(lite: App) -> None:
    class Found(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any:
            return lite.selector

    class Mine(RoutingSession, Found):  # type: ignore[misc]  # their get_bind()
        pass

    lite.start()
    with Mine(hold=1) as session, pytest.raises(ConfigurationError, match=r"needs EngineSelector"):
        session.scalar(WHICH)


def test_a_hold_of_0_holds_nothing(lite: App) -> None:
    waits = Held(lite, hold=0)
    waits.begin("a", add("a"))
    waits.join()
    assert "held" not in str(waits.failed["a"])


def test_while_read_write_it_changes_nothing(lite: App) -> None:
    lite.start(max_held=1)
    held = sessionmaker(lite.selector, class_=RoutingSession, hold=1)
    for _ in range(3):
        with held.begin() as session:
            session.add(Book(title="a"))
            session.execute(update(Book).values(title=bindparam("title")), {"title": "b"})
    assert lite.titles("rw") == ["b"] * 3
