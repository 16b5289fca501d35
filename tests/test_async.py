"""What only an async application does: loops, cancellation, AsyncSession, native roads."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import selectinload
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool
from sqlalchemy.util import greenlet_spawn

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    FileSwitch,
    Mode,
    ReadOnlyError,
    RoutingSession,
    Switch,
)
from sa_readonly.engines import loops
from sa_readonly.engines.checkins import close_idle
from sa_readonly.engines.doors import Door
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.verdict import judge
from tests.app import RELEASE, WHICH, Author, Book, in_thread
from tests.async_app import AsyncApp
from tests.postgres import Server, wait_until
from tests.test_switch_conformance import Kind, OfABaseSwitch, OfTheProtocol

SECONDS = 60.0


@pytest.fixture
def app(async_app: AsyncApp) -> AsyncApp:
    return async_app


async def until(condition: Callable[[], object], what: str) -> None:
    """Let the loop go on until it holds."""
    end = asyncio.get_running_loop().time() + SECONDS
    while not condition():
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"Not within {SECONDS} s: {what}.")
        await asyncio.sleep(0.005)


def door(app: AsyncApp) -> Door:
    return Door.of(app.engines["rw"])


async def read(app: AsyncApp, **options: Any) -> str:
    async with app.async_sessions(**options) as session:
        return str(await session.scalar(WHICH))


# -- AsyncSession ----------------------------------------------------------------------------


async def test_all_that_an_async_session_reads_by_is_of_one_database(app: AsyncApp) -> None:
    app.start()
    async with app.async_sessions.begin() as session:
        session.add(Author(id=2, name="Bob", books=[Book(title="one"), Book(title="two")]))
    app.statements.clear()
    async with app.async_sessions() as session:
        author = await session.get_one(Author, 2)
        app.on()
        app.selector.check()
        assert await session.run_sync(lambda sync: sync.scalar(WHICH)) == "rw"
        await session.refresh(author)
        books = (await session.scalars(select(Book).order_by(Book.id))).all()
        titles = [row.title async for row in await session.stream(select(Book.title))]
        loaded = await session.scalars(select(Author).options(selectinload(Author.books)))
        assert len(loaded.all()) == 2
        assert titles == ["one", "two"]
        assert [book.author_id for book in books] == [2, 2]
        assert (await session.connection()).engine.sync_engine is app.engines["rw"]
    assert {name for name, _ in app.statements} == {"rw"}
    assert await read(app) == "ro"


async def test_a_role_is_taken_by_an_async_session(app: AsyncApp) -> None:
    app.start()
    assert await read(app, role="replica") == "rw"
    async with app.async_sessions(role="replica") as session:
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError):
            await session.commit()
    assert app.titles("rw") == []


async def test_lazy_loading_keeps_the_database_of_its_transaction(app: AsyncApp) -> None:
    app.start()
    async with app.async_sessions.begin() as session:
        session.add(Book(title="one", author_id=1))
    async with app.async_sessions() as session:
        author = await session.get_one(Author, 1)
        app.on()
        app.selector.check()
        books = await session.run_sync(lambda _: list(author.books))
        assert [book.title for book in books] == ["one"]


async def test_an_async_scoped_session_takes_the_mode_anew(app: AsyncApp) -> None:
    app.start()
    session = async_scoped_session(app.async_sessions, scopefunc=asyncio.current_task)
    assert await session.scalar(WHICH) == "rw"
    app.on()
    assert await session.scalar(WHICH) == "rw"
    await session.remove()
    assert await session.scalar(WHICH) == "ro"
    await session.remove()


async def test_core_takes_the_async_engine_of_the_mode(app: AsyncApp) -> None:
    app.start()
    async with app.selector.engine().begin() as connection:
        await connection.execute(insert(Book).values(title="one"))
    app.on()
    app.selector.check()
    async with app.selector.engine().connect() as connection:
        assert await connection.scalar(WHICH) == "ro"
        assert [name async for (name,) in await connection.stream(WHICH)] == ["ro"]
        with pytest.raises(ReadOnlyError):
            await connection.execute(insert(Book).values(title="no"))
    with pytest.raises(ReadOnlyError):
        await app.async_engine("rw").connect()
    assert app.titles("rw") == ["one"]


# -- roads of writing that are native here ----------------------------------------------------


async def execute(driver: Any) -> None:
    await driver.execute("INSERT INTO book (title) VALUES ('road')")


async def execute_many(driver: Any) -> None:
    await driver.executemany("INSERT INTO book (title) VALUES ($1)", [("road",)])


async def fetch(driver: Any) -> None:
    await driver.fetch("INSERT INTO book (title) VALUES ('road') RETURNING id")


async def prepared(driver: Any) -> None:
    statement = await driver.prepare("INSERT INTO book (title) VALUES ('road') RETURNING id")
    await statement.fetch()


async def copy_records(driver: Any) -> None:
    await driver.copy_records_to_table("book", records=[("road",)], columns=["title"])


async def copy_of_a_write(driver: Any) -> None:
    query = "DELETE FROM author RETURNING id"
    await driver.copy_from_query(query, output=os.devnull)


async def transaction(driver: Any) -> None:
    async with driver.transaction(readonly=False):
        await driver.execute("INSERT INTO book (title) VALUES ('road')")


ASYNCPG = [execute, execute_many, fetch, prepared, copy_records, copy_of_a_write]


@pytest.mark.parametrize("road", ASYNCPG, ids=lambda road: road.__name__)
@pytest.mark.parametrize("separate", [True, False], ids=["separate", "twin"])
@pytest.mark.parametrize("async_app", ["asyncpg"], indirect=True)
async def test_a_native_call_of_asyncpg_is_refused_by_the_server(
    app: AsyncApp, road: Any, separate: bool
) -> None:
    if not separate:
        del app.urls["ro"]
    app.start()
    app.on()
    app.selector.check()
    async with app.selector.engine().connect() as connection:
        await connection.execute(text("SELECT 1"))  # which begins
        driver: Any = (await connection.get_raw_connection()).driver_connection
        with pytest.raises(Exception, match="read-only transaction") as caught:
            await road(driver)
        assert caught.value.sqlstate == "25006"
    engine = app.selector.engine()
    raw = await engine.raw_connection()
    try:
        with pytest.raises(Exception, match="read-only transaction"):
            await road(raw.driver_connection)  # in autocommit
    finally:
        await greenlet_spawn(raw.close)
    assert app.titles("rw") == app.titles("rw" if not separate else "ro") == []


@pytest.mark.parametrize("async_app", ["psycopg"], indirect=True)
async def test_a_native_call_of_psycopg_is_refused(app: AsyncApp) -> None:
    app.start()
    app.on()
    app.selector.check()
    async with app.selector.engine().connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        with pytest.raises(ReadOnlyError):
            await driver.execute("INSERT INTO book (title) VALUES ('road')")
        with pytest.raises(ReadOnlyError):
            async with driver.cursor().copy("COPY book (title) FROM STDIN"):
                pass
        with pytest.raises(ReadOnlyError):
            await driver.execute("SET TRANSACTION READ WRITE")
    assert app.titles("ro") == []


WRITES = {
    "function": "SELECT write_one()",
    "statement in a cursor": "WITH x AS (SELECT write_one()) SELECT * FROM x",
}


@pytest.mark.parametrize("statement", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("async_app", ["asyncpg", "psycopg"], indirect=True)
async def test_what_the_server_refuses_is_a_read_only_error(app: AsyncApp, statement: str) -> None:
    app.start()
    await greenlet_spawn(make_function, app)
    async with app.async_sessions() as session:
        app.on()
        app.selector.check()
        with pytest.raises(ReadOnlyError) as caught:
            async for _ in await session.stream(text(statement)):
                pass
        assert getattr(caught.value.__cause__, "sqlstate", None) == "25006"
    assert app.titles("ro") == []


def make_function(app: AsyncApp) -> None:
    engine = app.make_engine(app.urls["ro"], poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION write_one() RETURNS int LANGUAGE sql AS "
                "$$ INSERT INTO book (title) VALUES ('road') RETURNING 1 $$"
            )
        )


# -- flips -----------------------------------------------------------------------------------


async def test_an_idle_process_closes_its_connections_on_their_loop(app: AsyncApp) -> None:
    closed: list[int] = []
    app.start(ttl=0.02, watch=True)
    event.listen(app.engines["rw"].pool, "close", lambda *_: closed.append(threading.get_ident()))
    assert await read(app) == "rw"
    app.on()
    await until(lambda: closed and not door(app).connections, "the idle connection to be closed")
    assert closed == [threading.get_ident()]
    assert not door(app)._old.retired
    registry = DirectoryRegistry(f"{app.path}.workers")
    await until(lambda: judge(app.selector.switch.identify, registry).holds, "drained")
    app.off()
    await until(lambda: app.selector.mode is Mode.READ_WRITE, "read-write again")
    assert await read(app) == "rw"


@pytest.mark.parametrize("poolclass", [AsyncAdaptedQueuePool, NullPool])
async def test_a_connection_in_use_is_closed_when_it_comes_back(
    app: AsyncApp, poolclass: Any
) -> None:
    app.engine("rw", poolclass=poolclass)
    app.start()
    async with app.async_sessions.begin() as session:
        session.add(Book(title="one"))
        await session.flush()
        app.on()
        app.selector.check()
        assert door(app).connections == 1
    assert door(app).connections == 0
    assert app.titles("rw") == ["one"]
    app.selector.check()
    assert not door(app)._old.retired


@pytest.mark.parametrize("async_app", ["asyncpg", "psycopg"], indirect=True)
async def test_no_connection_is_left_at_the_server(app: AsyncApp, pg_server: Server) -> None:
    name = "server_settings" if app.urls["rw"].get_driver_name() == "asyncpg" else None
    argument = {"application_name": "the-application"}
    app.engine("rw", connect_args={name: argument} if name else argument)
    app.start()

    def connections() -> int:
        rows = pg_server.activity(app.urls["rw"])
        return sum(row.application_name == "the-application" for row in rows)

    async with app.async_sessions() as held:
        await held.scalar(WHICH)
        await asyncio.gather(*(read(app) for _ in range(3)))
        assert connections() > 1
        app.on()
        app.selector.check()
        await until(lambda: connections() == 1, "the idle connections to be closed")
    await until(lambda: connections() == 0, "the held connection to be closed")


async def test_who_waits_in_the_queue_of_a_retired_pool_comes_out_at_once(app: AsyncApp) -> None:
    app.engine("rw", pool_size=1, max_overflow=0, pool_timeout=30)
    app.start(ttl=0.02, watch=True)

    async def write() -> str:
        async with app.async_engine("rw").begin() as connection:
            return str(await connection.scalar(WHICH))

    async with app.async_sessions() as holder:
        assert await holder.scalar(WHICH) == "rw"
        queue = app.engines["rw"].pool._pool._queue
        tasks = [asyncio.create_task(work) for work in (read(app), read(app), write())]
        await until(lambda: len(queue._getters) == 3, "three that wait")
        tasks.append(asyncio.create_task(read(app)))
        await until(lambda: len(queue._getters) == 4, "one more")
        tasks.pop().cancel()
        app.on()  # the watcher's thread notices it
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert await holder.scalar(WHICH) == "rw"
    assert results[:2] == ["ro", "ro"]
    assert isinstance(results[2], ReadOnlyError)
    await until(lambda: not door(app)._old.retired, "the old pool to be forgotten")
    assert door(app).connections == 0


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")  # of the loop's owner
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_gone_leaves_no_connection_open(
    app: AsyncApp, request: Any, own_loop: None
) -> None:
    app.start()
    wild = asyncio.new_event_loop()
    wild.run_until_complete(read(app))
    wild.close()
    assert door(app).connections == 1
    in_thread(lambda: (app.on(), app.selector.check()))
    assert door(app).connections == 0
    if app.engines["rw"].dialect.name == "postgresql":
        server: Server = request.getfixturevalue("pg_server")
        wait_until(lambda: not server.activity(app.urls["rw"]), "the backend's end")
    app.loop.run_until_complete(read(app))


def test_a_loop_that_stands_still_leaves_no_connection_open(
    app: AsyncApp, request: Any, own_loop: None
) -> None:
    app.start()
    app.run(read(app))
    assert door(app).connections == 1
    in_thread(lambda: (app.on(), app.selector.check()))
    assert door(app).connections == 0
    if app.engines["rw"].dialect.name == "postgresql":
        server: Server = request.getfixturevalue("pg_server")
        wait_until(lambda: not server.activity(app.urls["rw"]), "the backend's end")
    app.run(read(app))


def test_a_loop_that_begins_to_run_while_a_connection_of_its_is_closed_loses_nothing(
    app: AsyncApp, own_loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.start()
    app.run(read(app))
    taken = threading.Event()
    real = loops._shut_socket

    def shut(driver: Any) -> bool:
        taken.set()
        wait_until(app.loop.is_running, "the loop to run")
        return real(driver)

    monkeypatch.setattr(loops, "_shut_socket", shut)
    closing = threading.Thread(target=lambda: (app.on(), app.selector.check()))
    closing.start()
    assert taken.wait(SECONDS)
    app.run(until(lambda: not closing.is_alive(), "the connection to be closed"))
    closing.join()
    assert door(app).connections == 0  # a lost transport would be seen when the loop is closed


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")  # of the loop's owner
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_ends_while_it_is_asked_leaves_no_connection_open(
    app: AsyncApp, own_loop: None
) -> None:
    app.start()

    async def go() -> None:
        await read(app)
        app.on()
        wild.stop()
        in_thread(app.selector.check)  # what it asks of this loop comes too late
        assert door(app).connections == 1

    wild = asyncio.new_event_loop()
    task = wild.create_task(go())
    wild.run_forever()
    task.result()
    wild.close()
    in_thread(app.selector.check)
    assert door(app).connections == 0


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")  # of the loop's owner
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_what_a_loop_that_has_ended_was_to_close_is_closed_at_the_next_look(
    app: AsyncApp, own_loop: None
) -> None:
    app.start()

    async def go() -> None:
        await read(app)
        pool = app.engines["rw"].pool
        wild.stop()
        in_thread(lambda: close_idle(pool))  # what it asks of this loop comes too late
        assert door(app).connections == 1

    wild = asyncio.new_event_loop()
    task = wild.create_task(go())
    wild.run_forever()
    task.result()
    wild.close()
    in_thread(app.selector.check)
    assert door(app).connections == 0


def test_two_loops_in_two_threads_close_their_own_connections(
    app: AsyncApp, own_loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.engine("rw", pool_size=2)
    app.start()
    connected = threading.Semaphore(0)
    both = threading.Barrier(3)
    closed: list[int] = []
    threads_of_loops: list[int] = []
    real = loops.hang_up

    def hang_up(*args: Any) -> None:
        closed.append(threading.get_ident())
        real(*args)

    monkeypatch.setattr(loops, "hang_up", hang_up)

    async def work() -> None:
        threads_of_loops.append(threading.get_ident())
        async with app.async_sessions() as session:
            await session.scalar(WHICH)
            connected.release()
            await asyncio.to_thread(both.wait, SECONDS)  # each has one of its own
        await asyncio.to_thread(both.wait, SECONDS)
        await until(lambda: door(app).connections == 0, "both to be closed")

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(2)]
    for thread in threads:  # one after the other: SQLAlchemy's lock for the first is of one loop
        thread.start()
        assert connected.acquire(timeout=SECONDS)
    both.wait(SECONDS)
    both.wait(SECONDS)
    app.on()
    app.selector.check()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert sorted(closed) == sorted(threads_of_loops)


async def test_a_selector_made_in_a_coroutine_closes_what_was_idle(app: AsyncApp) -> None:
    engine = app.engine("rw")
    async with app.async_engine("rw").connect() as connection:
        await connection.scalar(WHICH)
    assert engine.pool.checkedin() == 1
    app.start()  # or a connection would be open of which nobody knows
    assert (engine.pool.checkedin(), door(app).connections) == (0, 0)
    gc.collect()
    assert await read(app) == "rw"


# -- closing and checking ----------------------------------------------------------------------


@pytest.mark.parametrize("twin", [True, False], ids=["twin", "separate"])
async def test_a_selector_is_closed_by_async_with(app: AsyncApp, twin: bool) -> None:
    rw, ro = app.engine("rw"), app.engine("ro")
    async with EngineSelector(
        FileSwitch(app.path, ttl=0.02),
        read_write=app.async_engine("rw"),
        read_only=None if twin else app.async_engine("ro"),
    ) as selector:
        factory = async_sessionmaker(selector, sync_session_class=RoutingSession)
        async with factory() as session:
            assert await session.scalar(WHICH) == "rw"
        app.on()
        await asyncio.to_thread(selector.check)
        async with factory() as session:
            assert await session.scalar(WHICH) == ("rw" if twin else "ro")
        thread = selector._worker.watcher._thread
        reader = selector.engine().sync_engine
    assert not thread.is_alive()
    assert reader.pool.checkedin() == 0
    async with app.async_engine("rw").begin() as connection:
        await connection.execute(insert(Book).values(title="plain again"))
    assert (type(rw.dialect).__module__, type(ro.dialect).__module__) == (
        type(app.make_engine(app.urls["rw"]).dialect).__module__,
    ) * 2


@pytest.mark.parametrize("way", ["coroutine", "greenlet", "thread", "other loop"])
async def test_a_selector_is_closed_from_anywhere(app: AsyncApp, way: str) -> None:
    del app.urls["ro"]
    app.start(ttl=0.02, watch=True)
    await read(app)
    app.on()
    app.selector.check()
    await read(app)
    twin = app.selector.engine().sync_engine
    old = twin.pool
    assert old.checkedin() == 1
    close = app.selector.close
    if way == "coroutine":
        close()
    elif way == "greenlet":
        await greenlet_spawn(close)
    elif way == "thread":
        await asyncio.to_thread(close)
    else:

        async def elsewhere() -> None:
            close()

        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    await asyncio.sleep(0)
    assert old.checkedin() == 0
    gc.collect()


@pytest.mark.parametrize("way", ["coroutine", "greenlet", "thread"])
async def test_a_check_from_anywhere_closes_what_is_idle(app: AsyncApp, way: str) -> None:
    app.start(ttl=3600)
    await read(app)
    app.on("a reason")
    check = app.selector.check
    if way == "coroutine":
        state = check()
    elif way == "greenlet":
        state = await greenlet_spawn(check)
    else:
        state = await asyncio.to_thread(check)
    assert (state.mode, state.reason) == (Mode.READ_ONLY, "a reason")
    assert door(app).connections == 0


# -- the loop does not wait ------------------------------------------------------------------


@pytest.fixture
def who(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """Which threads read the file and do what belongs to the directory of workers."""
    seen: dict[str, set[int]] = {}

    def note(cls: Any, name: str) -> None:
        real = getattr(cls, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, set()).add(threading.get_ident())
            return real(*args, **kwargs)

        monkeypatch.setattr(cls, name, noted)

    from sa_readonly import switch  # noqa: PLC0415
    from sa_readonly.workers import directory  # noqa: PLC0415

    entry = next(
        cls
        for cls in vars(directory).values()
        if isinstance(cls, type) and hasattr(cls, "withdraw")
    )
    note(switch, "read")
    note(DirectoryRegistry, "register")
    for name in ("ensure", "report", "withdraw"):
        note(entry, name)
    return seen


@pytest.mark.parametrize("watch", [True, False])
async def test_nothing_but_a_stat_is_done_on_the_loop(
    app: AsyncApp, who: dict[str, set[int]], watch: bool
) -> None:
    app.start(ttl=0.02, watch=watch)
    told = who["on_flip"] = set()
    app.selector.on_flip(lambda *_: told.add(threading.get_ident()))
    assert app.selector.mode is Mode.READ_WRITE  # also before there is anything to await
    for _ in range(3):
        assert await read(app) == "rw"
        app.on("a reason")
        await until(lambda: app.selector.read_only, "read-only")
        await until(lambda: app.selector.state.reason == "a reason", "the reason")
        assert await read(app) == "ro"
        app.on("another reason")
        await until(lambda: app.selector.state.reason == "another reason", "the edit")
        async with app.async_sessions() as session:
            session.add(Book(title="no"))
            with pytest.raises(ReadOnlyError):
                await session.commit()
        app.off()
        await until(lambda: not app.selector.read_only, "read-write")
    assert set(who) == {"read", "register", "ensure", "report", "withdraw", "on_flip"}
    assert told
    assert not any(threading.get_ident() in threads for threads in who.values())


async def test_who_connects_past_the_selector_is_registered_in_a_thread(
    app: AsyncApp, who: dict[str, set[int]]
) -> None:
    app.start(ttl=3600)
    async with app.async_engine("rw").connect() as connection:
        assert await connection.scalar(WHICH) == "rw"
    assert "register" in who
    assert not any(threading.get_ident() in threads for threads in who.values())


async def test_a_flip_that_is_not_read_yet_is_told_as_read_only(app: AsyncApp) -> None:
    app.start(ttl=0)
    await read(app)
    app.on("a reason")
    assert app.selector.read_only  # at once, though there is nothing to await
    with pytest.raises(ReadOnlyError):
        app.selector.require_read_write()


@pytest.mark.parametrize("way", ["a session's bind", "a closed selector"])
@pytest.mark.parametrize("async_app", ["aiosqlite"], indirect=True)
async def test_what_asks_past_the_selector_and_can_not_await_has_a_thread_look(
    app: AsyncApp, who: dict[str, set[int]], way: str
) -> None:
    app.start(ttl=0)
    await read(app)
    switch, session = app.selector.switch, AsyncSession(sync_session_class=RoutingSession)
    if way == "a closed selector":
        await asyncio.to_thread(app.selector.close)
    app.on("a reason")
    if way == "a closed selector":
        assert app.selector.read_only
    else:
        with pytest.raises(ReadOnlyError):
            session.get_bind(bind=app.async_engine("rw").sync_engine)
    await until(lambda: switch.known.reason == "a reason", "a thread to look")
    assert threading.get_ident() not in who["read"]


async def test_a_switch_that_can_only_block_is_asked_in_a_thread(app: AsyncApp) -> None:
    class Slow(Switch):
        """A switch held elsewhere."""

        def __init__(self, inner: FileSwitch) -> None:
            self.inner = inner
            self.asked: set[int] = set()

        @property
        def known(self) -> Any:
            return self.inner.known

        def check(self) -> Any:
            return self.inner.check()

        def subscribe(self, gate: Any, flipped: Any) -> Any:
            return self.inner.subscribe(gate, flipped)

        def refresh(self) -> Any:
            self.asked.add(threading.get_ident())
            return self.inner.refresh()

    switch = Slow(FileSwitch(app.path, ttl=0))
    app.engine("rw")
    app.engine("ro")
    async with EngineSelector(
        switch, read_write=app.async_engine("rw"), read_only=app.async_engine("ro"), watch=False
    ) as selector:
        factory = async_sessionmaker(selector, sync_session_class=RoutingSession)
        async with factory() as session:
            assert await session.scalar(WHICH) == "rw"
        app.on()
        async with factory() as session:
            assert await session.scalar(WHICH) == "ro"
    assert switch.asked
    assert threading.get_ident() not in switch.asked


@pytest.mark.parametrize("kind", [OfABaseSwitch, OfTheProtocol])
async def test_a_switch_without_a_glance_of_its_own_is_not_told_read_only_while_it_is_not(
    app: AsyncApp, kind: type[Kind]
) -> None:
    source = kind(app.path)
    switch = source.make()
    app.engine("rw")
    app.engine("ro")
    async with EngineSelector(
        switch, read_write=app.async_engine("rw"), read_only=app.async_engine("ro"), watch=False
    ) as selector:
        for due in (-math.inf, 0.0) * 2:  # a look is asked for; or the answer is past ttl / 2
            switch.fresh_until = due
            assert not selector.read_only
            switch.fresh_until = due
            selector.require_read_write()
            switch.fresh_until = due
            async with selector.engine().begin() as connection:
                await connection.execute(insert(Book).values(title="one"))
        source.turn("upgrade")
        switch.fresh_until = -math.inf
        assert selector.state.reason == "upgrade"
    assert app.titles("rw") == ["one"] * 4


# -- cancellation ----------------------------------------------------------------------------


def held_up_choosing(app: AsyncApp, patch: pytest.MonkeyPatch, reached: asyncio.Event) -> None:
    real = RoutingSession.get_bind

    def get_bind(self: RoutingSession, *args: Any, **kwargs: Any) -> Any:
        bind = real(self, *args, **kwargs)
        stay(reached)
        return bind

    patch.setattr(RoutingSession, "get_bind", get_bind)


def stay(reached: asyncio.Event) -> None:
    from sqlalchemy.util import await_only  # noqa: PLC0415

    reached.set()
    await_only(asyncio.Event().wait())


def held_up_connecting(app: AsyncApp, patch: pytest.MonkeyPatch, reached: asyncio.Event) -> None:
    event.listen(app.engines["rw"], "do_connect", lambda *_: stay(reached))


def held_up_after_connecting(
    app: AsyncApp, patch: pytest.MonkeyPatch, reached: asyncio.Event
) -> None:
    event.listen(app.engines["rw"].pool, "connect", lambda *_: stay(reached))


def held_up_in_a_statement(
    app: AsyncApp, patch: pytest.MonkeyPatch, reached: asyncio.Event
) -> None:
    event.listen(app.engines["rw"], "before_cursor_execute", lambda *_: stay(reached))


def held_up_committing(app: AsyncApp, patch: pytest.MonkeyPatch, reached: asyncio.Event) -> None:
    event.listen(app.engines["rw"], "commit", lambda *_: stay(reached))


STATES = {
    "choosing": held_up_choosing,
    "connecting": held_up_connecting,
    "connected": held_up_after_connecting,
    "in a statement": held_up_in_a_statement,
    "committing": held_up_committing,
}


async def by_cancel(work: Any, reached: asyncio.Event) -> None:
    task = asyncio.create_task(work)
    await reached.wait()
    task.cancel()
    await task


async def by_timeout(work: Any, reached: asyncio.Event) -> None:
    async with asyncio.timeout(None) as limit:
        inner = asyncio.create_task(reached.wait())
        inner.add_done_callback(lambda _: limit.reschedule(asyncio.get_running_loop().time()))
        await work


async def by_group(work: Any, reached: asyncio.Event) -> None:
    async def fail() -> None:
        await reached.wait()
        raise ValueError

    async with asyncio.TaskGroup() as group:
        group.create_task(work)
        group.create_task(fail())


WAYS = {
    "task.cancel": (by_cancel, asyncio.CancelledError),
    "timeout": (by_timeout, TimeoutError),
    "group": (by_group, Exception),  # an ExceptionGroup
}


@pytest.mark.parametrize("flip", ["flip before", "flip after"])
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("state", STATES)
async def test_a_cancelled_task_leaves_nothing_in_flight(
    app: AsyncApp, monkeypatch: pytest.MonkeyPatch, state: str, how: str, flip: str
) -> None:
    if how != "task.cancel" and sys.version_info < (3, 11):
        pytest.skip("asyncio.timeout and TaskGroup came with Python 3.11")
    app.start()
    reached = asyncio.Event()
    pool = app.engines["rw"].pool

    async def work() -> None:
        async with app.async_sessions() as session:
            await session.execute(insert(Book).values(title="cancelled"))
            await session.commit()

    with monkeypatch.context() as patch:
        STATES[state](app, patch, reached)
        cancel, error = WAYS[how]
        with pytest.raises(error):
            await cancel(work(), Flipping(app, reached) if flip == "flip before" else reached)
    assert pool.checkedout() == 0
    if flip == "flip after":
        app.on()
        app.selector.check()
    assert door(app).connections == 0
    app.selector.check()
    assert not door(app)._old.retired
    assert app.titles("rw") == []
    assert await read(app) == "ro"


class Flipping(asyncio.Event):
    """Flips when it was reached, before anybody is told."""

    def __init__(self, app: AsyncApp, reached: asyncio.Event) -> None:
        super().__init__()
        self._app, self._reached = app, reached

    async def wait(self) -> bool:
        await self._reached.wait()
        self._app.on()
        await asyncio.to_thread(self._app.selector.check)
        return True


@pytest.mark.parametrize("async_app", ["asyncpg", "psycopg"], indirect=True)
async def test_a_statement_that_is_cancelled_at_the_server_leaves_nothing_in_flight(
    app: AsyncApp, pg_server: Server
) -> None:
    app.start()

    async def work() -> None:
        async with app.async_sessions() as session:
            await session.execute(text("SELECT pg_sleep(60)"))

    def sleeps() -> bool:
        return any("pg_sleep" in row.query for row in pg_server.activity(app.urls["rw"]))

    task = asyncio.create_task(work())
    await until(sleeps, "the statement")
    app.on()
    app.selector.check()
    assert door(app).connections == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert door(app).connections == 0
    await until(lambda: not pg_server.activity(app.urls["rw"]), "the backend's end")


async def test_a_cancelled_look_leaves_the_selector_usable(
    app: AsyncApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.start(ttl=3600)
    reached, go_on = threading.Event(), threading.Event()
    real = DirectoryRegistry.register

    def register(self: Any, identify: Any) -> Any:
        reached.set()
        assert go_on.wait(SECONDS)
        return real(self, identify)

    monkeypatch.setattr(DirectoryRegistry, "register", register)
    task = asyncio.create_task(read(app))
    await until(reached.is_set, "the registration")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await read(app) == "rw"
    assert door(app).connections == 1


async def test_after_its_grace_a_cancelled_task_is_counted_no_more(app: AsyncApp) -> None:
    app.start(grace=0)
    reached = asyncio.Event()

    async def work() -> None:
        async with app.async_sessions() as session:
            session.add(Book(title="no"))
            await session.flush()
            reached.set()
            try:
                await asyncio.Event().wait()
            finally:
                with pytest.raises(ReadOnlyError):
                    await session.commit()
                await session.rollback()
                assert door(app).connections == 0

    task = asyncio.create_task(work())
    await reached.wait()
    app.on()
    app.selector.check()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert app.titles("rw") == []


async def test_a_plain_async_session_refuses_a_selector_and_names_the_cure(app: AsyncApp) -> None:
    app.start()
    async with AsyncSession(app.selector) as session:
        with pytest.raises(ConfigurationError, match="sync_session_class=RoutingSession"):
            await session.scalar(WHICH)


@pytest.mark.parametrize("idle", [0, 1])
async def test_a_connection_in_use_when_the_selector_is_made_counts_until_it_comes_back(
    app: AsyncApp, idle: int
) -> None:
    app.engine("rw")
    engine = app.async_engine("rw")
    async with engine.connect() as connection:
        assert await connection.scalar(WHICH) == "rw"
        for _ in range(idle):
            async with engine.connect() as other:
                await other.scalar(WHICH)
        app.start()
        assert door(app).connections == 1
        app.on()
        app.selector.check()
        assert door(app).connections == 1
        app.off()
        app.selector.check()
    assert door(app).connections == 0
    async with engine.connect() as connection:
        assert await connection.scalar(WHICH) == "rw"
        assert door(app).connections == 1


async def test_a_detached_connection_is_counted_until_it_is_closed(app: AsyncApp) -> None:
    app.start()
    async with app.async_engine("rw").connect() as connection:
        assert await connection.scalar(WHICH) == "rw"
        driver = (await connection.get_raw_connection()).driver_connection
        await connection.run_sync(lambda sync: sync.detach())
        app.on()
        app.selector.check()
        assert door(app).connections == 1
    name = app.urls["rw"].get_driver_name()
    if name == "psycopg" or (name == "aiosqlite" and RELEASE < (2, 0, 46)):
        await driver.close()  # SQLAlchemy leaves it open
    del driver
    gc.collect()
    await until(lambda: door(app).connections == 0, "the end of the connection")
