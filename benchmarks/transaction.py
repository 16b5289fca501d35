"""A routed transaction beside a plain one and others: SQLite, PostgreSQL; sync, async."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL, Engine, create_engine, delete, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import QueuePool

from benchmarks.measure import Rows, Tables, Work, compare, main, one_processor, skipped
from sa_readonly import EngineSelector, FixedSwitch, Mode, RoutingSession

STATEMENT = select(1)
ROUTED, READ_ONLY = "RoutingSession", "RoutingSession while read-only"
REHEARSING = "RoutingSession in a rehearsal"


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "benchmark_row"

    id: Mapped[int] = mapped_column(primary_key=True)


class Plain(Session):
    """A Session class of the user's own, which does nothing: the fair thing to be beside."""


class Database:
    """Makes engines of one database, and forgets them at the end."""

    def __init__(self, url: URL | str, stack: ExitStack) -> None:
        self.url, self.stack = url, stack
        Base.metadata.create_all(self.engine())

    def engine(self) -> Engine:
        engine = create_engine(self.url, poolclass=QueuePool)
        self.stack.callback(engine.dispose)
        return engine

    def selector(self, switch: Any, *, rehearse: bool = False) -> EngineSelector:
        selector = EngineSelector(
            switch, read_write=self.engine(), read_only=self.engine(), rehearse=rehearse
        )
        return self.stack.enter_context(selector)


@contextmanager
def sqlite() -> Iterator[Database]:
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        yield Database(f"sqlite:///{directory}/benchmark.db", stack)


@contextmanager
def postgresql() -> Iterator[Database | None]:
    """A PostgreSQL of its own, or None where there is none to be had."""
    if find_spec("testing.postgresql") is None or find_spec("psycopg2") is None:
        skipped("PostgreSQL", "pip install 'sa-readonly[test]'")
        yield None
        return
    from tests.postgres import Server  # noqa: PLC0415  # it imports what may not be installed

    server: Server = Server.launch()
    try:
        with ExitStack() as stack:
            yield Database(server.url(), stack)
    finally:
        server.stop()


def reading(factory: Any, statements: int) -> Work:
    def work(number: int) -> None:
        for _ in range(number):
            with factory() as session:
                for _ in range(statements):
                    session.execute(STATEMENT).all()

    return work


def flushing(factory: Any) -> Work:
    def work(number: int) -> None:
        for _ in range(number):
            with factory() as session:
                session.add(Row())
                session.flush()  # rolled back: no disk is measured

    return work


def isfile_session(path: str, read_write: Engine, read_only: Engine) -> type[Session]:
    class IsFile(Session):
        def get_bind(self, *_: Any, **__: Any) -> Engine:
            return read_only if os.path.isfile(path) else read_write

    return IsFile


def factories(database: Database, path: str) -> dict[str, Callable[[], Any]]:
    return {
        "Session": sessionmaker(database.engine(), class_=Plain),
        "get_bind() with isfile(), as in 2010": sessionmaker(
            class_=isfile_session(path, database.engine(), database.engine())
        ),
        **peers(database),
        ROUTED: sessionmaker(database.selector(path), class_=RoutingSession),
        REHEARSING: sessionmaker(
            database.selector(f"{path}.rehearsed", rehearse=True), class_=RoutingSession
        ),
        READ_ONLY: sessionmaker(
            database.selector(FixedSwitch(Mode.READ_ONLY)), class_=RoutingSession
        ),
    }


def peers(database: Database) -> dict[str, Callable[[], Any]]:
    """Others that route: they promise less, so this is what their way costs."""
    found: dict[str, Callable[[], Any]] = {}
    if find_spec("advanced_alchemy") is None:
        skipped("advanced-alchemy", "pip install 'sa-readonly[bench]'")
    else:
        from advanced_alchemy.config.routing import RoutingConfig  # noqa: PLC0415
        from advanced_alchemy.routing import RoutingSyncSessionMaker  # noqa: PLC0415

        url = database.engine().url.render_as_string(hide_password=False)
        found["advanced-alchemy's routing"] = RoutingSyncSessionMaker(
            RoutingConfig(primary_connection_string=url, read_replicas=[url]),
            create_engine_callable=lambda _: database.engine(),
        )
    if find_spec("oslo_db") is None:
        skipped("oslo.db", "pip install 'sa-readonly[bench]'")
    else:
        from oslo_db.sqlalchemy import enginefacade  # noqa: PLC0415

        facade = enginefacade.transaction_context()
        engine = database.engine()
        facade.configure(connection=engine.url.render_as_string(hide_password=False))
        facade.patch_engine(engine)  # with the pool that all the others have

        @enginefacade.transaction_context_provider
        class Context:
            pass

        context = Context()
        # Its reader, as what is measured reads.
        found["oslo.db's reader"] = lambda: facade.reader.using(context)
    return found


def _sync(name: str, database: Database, path: str, rounds: int, number: int) -> Tables:
    made = factories(database, path)
    tables = {
        f"A transaction of {statements}, {name}": compare(
            {one: reading(factory, statements) for one, factory in made.items()},
            number=number // statements,
            rounds=rounds,
            alone=True,
        )
        for statements in (1, 10)
    }
    writers = {one: made[one] for one in ("Session", ROUTED, REHEARSING)}
    tables[f"A transaction of a flush, {name}"] = compare(
        {one: flushing(factory) for one, factory in writers.items()},
        number=number,
        rounds=rounds,
        alone=True,
    )
    with Session(database.engine()) as session:
        session.execute(delete(Row))
        session.commit()
    return tables


def _async(driver: str, url: Any, path: str, rounds: int, number: int) -> Rows:
    """Each contender runs in the same loop, one transaction after the other."""
    loop = asyncio.new_event_loop()
    engines = [create_async_engine(url) for _ in range(5)]

    def work(factory: Any) -> Work:
        async def transactions(number: int) -> None:
            for _ in range(number):
                async with factory() as session:
                    (await session.execute(STATEMENT)).all()

        return lambda number: loop.run_until_complete(transactions(number))

    routed = EngineSelector(path, read_write=engines[1], read_only=engines[2])
    reading_only = EngineSelector(
        FixedSwitch(Mode.READ_ONLY), read_write=engines[3], read_only=engines[4]
    )

    class PlainAsync(AsyncSession):
        sync_session_class = Plain

    def routing(selector: EngineSelector) -> Any:
        return async_sessionmaker(selector, sync_session_class=RoutingSession)

    async def close() -> None:
        for selector in (routed, reading_only):
            async with selector:
                pass
        for engine in engines:
            await engine.dispose()

    try:
        return compare(
            {
                f"AsyncSession, {driver}": work(async_sessionmaker(engines[0], class_=PlainAsync)),
                ROUTED: work(routing(routed)),
                READ_ONLY: work(routing(reading_only)),
            },
            number=number,
            rounds=rounds,
        )
    finally:
        loop.run_until_complete(close())
        loop.close()


def run(rounds: int) -> Tables:
    tables: Tables = {}
    with one_processor(), tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "read-only.txt")
        with sqlite() as database:
            tables |= _sync("SQLite", database, path, rounds, number=200)
            if find_spec("aiosqlite") is None:
                skipped("aiosqlite", "pip install aiosqlite")
            else:
                url = database.engine().url.set(drivername="sqlite+aiosqlite")
                title = "A transaction of 1, async, SQLite"
                tables[title] = _async("aiosqlite", url, path, rounds, number=50)
        with postgresql() as server:
            if server is not None:
                tables |= _sync("PostgreSQL", server, path, rounds, number=50)
                if find_spec("asyncpg") is None:
                    skipped("asyncpg", "pip install asyncpg")
                else:
                    url = server.engine().url.set(drivername="postgresql+asyncpg")
                    title = "A transaction of 1, async, PostgreSQL"
                    tables[title] = _async("asyncpg", url, path, rounds, number=50)
    return tables


if __name__ == "__main__":
    main(run)
