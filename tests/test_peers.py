"""Libraries of others that read a session's bind, or look at an engine, at work in either mode."""

from __future__ import annotations

import asyncio
import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from sa_readonly import EngineSelector, FileSwitch, ReadOnlyError, RoutingSession
from tests.app import App, Book, need

# -- advanced-alchemy ------------------------------------------------------------------------


def alchemy(module: str) -> Any:
    """A module of advanced-alchemy, whose import is deprecated to SQLAlchemy 2.1."""
    need("advanced_alchemy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"advanced_alchemy.{module}")


def test_a_repository_of_advanced_alchemy_writes_and_is_refused(app: App) -> None:
    repository = alchemy("repository")

    class Books(repository.SQLAlchemySyncRepository):
        model_type = Book

    app.start()
    with app.sessions() as session:
        books = Books(session=session)
        books.add(Book(title="one"), auto_commit=True)
        books.add_many([Book(title="two")], auto_commit=True)
        assert [book.title for book in books.get_many()] == ["one", "two"]
    app.on()
    with app.sessions() as session:
        books = Books(session=session)
        assert books.get_many() == []
        with pytest.raises(alchemy("exceptions").RepositoryError) as caught:
            books.add(Book(title="no"))
        assert isinstance(caught.value.__cause__, ReadOnlyError)
        session.rollback()
    assert app.titles("rw") == ["one", "two"]


def test_its_listeners_of_a_commit_find_no_engine_and_go_on(app: App) -> None:
    listener = alchemy("_listeners").SyncFileObjectListener
    app.start()
    with app.sessions() as session:
        event.listen(session, "after_commit", listener.after_commit)
        session.add(Book(title="one"))
        session.commit()
    assert app.titles("rw") == ["one"]


def test_an_async_repository_does_so_too(lite: App, place: Path) -> None:
    asyncio.run(use_async_repository(lite, place / "read-only.txt"))
    assert lite.titles("rw") == ["one"]


def async_engines(lite: App) -> list[AsyncEngine]:
    urls = [lite.urls[name].set(drivername="sqlite+aiosqlite") for name in ("rw", "ro")]
    return [create_async_engine(url, poolclass=NullPool) for url in urls]


async def use_async_repository(lite: App, path: Path) -> None:
    repository = alchemy("repository")

    class Books(repository.SQLAlchemyAsyncRepository):
        model_type = Book

    rw, ro = async_engines(lite)
    async with EngineSelector(
        FileSwitch(path, ttl=0), read_write=rw, read_only=ro, watch=False
    ) as selector:
        sessions = async_sessionmaker(selector, sync_session_class=RoutingSession)
        async with sessions() as session:
            await Books(session=session).add(Book(title="one"), auto_commit=True)
        path.touch()
        async with sessions() as session:
            books = Books(session=session)
            assert await books.get_many() == []
            with pytest.raises(alchemy("exceptions").RepositoryError) as caught:
                await books.add(Book(title="no"))
            assert isinstance(caught.value.__cause__, ReadOnlyError)
            await session.rollback()


# -- polars, which tells an engine by the module of its class ----------------------------------


@pytest.mark.parametrize("given", ["an engine", "a twin"])
def test_polars_reads_by_the_engine_of_the_mode(app: App, given: str) -> None:
    need("polars")
    import polars  # noqa: PLC0415  # here alone

    if given == "a twin":
        del app.urls["ro"]
    app.start()
    for name in ("rw", "rw" if given == "a twin" else "ro"):
        for role in ("primary", "replica"):
            frame = polars.read_database("select name from which", app.selector.engine(role))
            assert frame["name"].to_list() == [name]
        app.on()


def test_polars_reads_by_a_drivers_connection_of_a_read_only_engine(app: App) -> None:
    need("polars")
    import polars  # noqa: PLC0415  # here alone

    app.start()
    app.on()
    with app.selector.engine().connect() as connection:
        driver: Any = connection.connection.driver_connection
        theirs = connection.dialect.dbapi.__name__.partition(".")[0]
        assert type(driver).__module__.partition(".")[0] == theirs
        frame = polars.read_database("select name from which", driver)
        assert frame["name"].to_list() == ["ro"]


def test_the_classes_of_guarded_engines_and_dialects_pass_for_their_own(lite: App) -> None:
    plain = lite.engine("ro")
    engine, dialect = type(plain), type(plain.dialect)
    del lite.urls["ro"], lite.engines["ro"]
    lite.start()
    lite.on()
    for one in (lite.engines["rw"], lite.selector.engine()):
        assert type(one).__module__ == engine.__module__
        assert type(one.dialect).__module__ == dialect.__module__
        assert type(one.dialect).__name__ == dialect.__name__
