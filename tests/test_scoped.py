"""Scoped sessions, and AsyncSession: the role reaches the session, or is refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import orm
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext import asyncio as sa_asyncio
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

import sa_readonly
from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FileSwitch,
    ReadOnlyError,
    RoutingSession,
    async_scoped_session,
    scoped_session,
)
from tests.app import WHICH, App, Book, need

DOCS = (Path(__file__).parents[1] / "docs" / "asyncio.md").read_text()


def test_the_role_of_a_scoped_session_is_that_of_its_current_session(lite: App) -> None:
    lite.start(read_write=Engines(lite.engine("rw"), replica=lite.engine("ro")), read_only=None)
    session = scoped_session(lite.sessions)
    assert isinstance(session, orm.scoped_session)
    assert (session.role, session.scalar(WHICH)) == ("primary", "rw")
    with pytest.raises(InvalidRequestError, match="Commit or roll back first"):
        session.role = "replica"
    session.rollback()
    session.role = "replica"
    assert (session().role, session.scalar(WHICH)) == ("replica", "ro")
    session.remove()
    assert (session.role, session.scalar(WHICH)) == ("primary", "rw")
    with pytest.raises(ConfigurationError, match='role is "primary" or'):
        session.role = "master"
    session.remove()


def test_a_scoped_session_of_sessions_without_a_role_names_the_cure(lite: App) -> None:
    session = scoped_session(orm.sessionmaker(lite.engine("rw")))
    with pytest.raises(ConfigurationError, match="class Session, which has no role"):
        session.role = "replica"
    with pytest.raises(ConfigurationError, match="class_=RoutingSession"):
        session.role  # noqa: B018
    session.remove()


def test_the_package_has_no_other_attribute() -> None:
    assert set(sa_readonly.__all__) >= {"scoped_session", "async_scoped_session"}
    assert all(hasattr(sa_readonly, name) for name in sa_readonly.__all__)
    with pytest.raises(AttributeError, match="module 'sa_readonly' has no attribute 'nonsense'"):
        sa_readonly.nonsense  # noqa: B018


# -- asyncio ---------------------------------------------------------------------------------


async def with_selector(
    lite: App, path: Path, work: Callable[[EngineSelector], Coroutine[Any, Any, None]]
) -> None:
    rw, ro = (
        create_async_engine(lite.urls[name].set(drivername="sqlite+aiosqlite"), poolclass=NullPool)
        for name in ("rw", "ro")
    )
    async with EngineSelector(
        FileSwitch(path, ttl=0), read_write=Engines(rw, replica=ro), read_only=ro, watch=False
    ) as selector:
        await work(selector)


def run(lite: App, work: Callable[[EngineSelector], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(with_selector(lite, lite.path, work))


def test_the_role_of_an_async_scoped_session_is_that_of_its_current_session(lite: App) -> None:
    async def work(selector: EngineSelector) -> None:
        factory = async_sessionmaker(selector, sync_session_class=RoutingSession)
        session = async_scoped_session(factory, asyncio.current_task)
        assert isinstance(session, sa_asyncio.async_scoped_session)
        assert (session.role, await session.scalar(WHICH)) == ("primary", "rw")
        await session.rollback()
        session.role = "replica"
        assert (session().sync_session.role, await session.scalar(WHICH)) == ("replica", "ro")
        await session.remove()
        plain = async_scoped_session(async_sessionmaker(), asyncio.current_task)
        with pytest.raises(ConfigurationError, match="sync_session_class=RoutingSession"):
            plain.role = "replica"
        await plain.remove()

    run(lite, work)


def test_a_role_that_is_set_on_an_async_session_is_refused_with_the_cure(lite: App) -> None:
    async def work(selector: EngineSelector) -> None:
        sessions = async_sessionmaker(selector, sync_session_class=RoutingSession)
        async with sessions() as session:
            assert await session.scalar(WHICH) == "rw"
            await session.rollback()
            session.role = "replica"
            with pytest.raises(ConfigurationError) as caught:
                await session.scalar(WHICH)
            assert str(caught.value) == (
                "AsyncSession.role was set to 'replica', which reaches no session: it is of the "
                "role 'primary'. Set session.sync_session.role, or give role='replica' to it."
            )
            session.sync_session.role = "replica"
            assert await session.scalar(WHICH) == "ro"
        async with sessions() as session:
            session.role = "librarian"  # the application's own
            assert await session.scalar(WHICH) == "rw"

    run(lite, work)


def test_the_session_of_sqlmodel_executes_in_either_mode(lite: App) -> None:
    need("sqlmodel")
    (shown,) = re.findall(r"```python\n(import sqlmodel.*?)```", DOCS, re.DOTALL)

    async def work(selector: EngineSelector) -> None:
        names = {"selector": selector, "async_sessionmaker": async_sessionmaker}
        exec(shown, names)  # our own text
        sessions: Any = names["Session"]
        async with sessions() as session:
            assert (await session.exec(WHICH)).one() == ("rw",)
            await session.rollback()
            lite.on()
            assert (await session.exec(WHICH)).one() == ("ro",)
            session.add(Book(title="no"))
            with pytest.raises(ReadOnlyError):
                await session.commit()

    run(lite, work)
