"""What an error says is what happened: whose it is, why, and what to do."""

from __future__ import annotations

import asyncio
import os
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, text
from sqlalchemy.exc import InvalidRequestError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sa_readonly import (
    Engines,
    EngineSelector,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    RoutingSession,
)
from sa_readonly.engines import guard
from sa_readonly.engines.locks import is_refusal
from tests.app import WHICH, App, Book, fill, sqlite_urls
from tests.async_app import AsyncApp

NOBODY = 65534
READONLY = "attempt to write a readonly database"


# -- SQLite can't read, which is no refusal --------------------------------------------------


@pytest.fixture
def wal(place: Path) -> Iterator[Path]:
    """A WAL database in a directory that this process may not write."""
    place.chmod(0o755)
    directory = place / "wal"
    directory.mkdir()
    path = directory / "ro.db"
    fill(sqlite_urls(directory, "ro")["ro"], "ro")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
    with unwritable(directory):
        yield path


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    root = os.geteuid() == 0
    directory.chmod(0o555)
    if root:  # who may write everywhere
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o755)


def routed(url: str, place: Path, make: Callable[..., Any]) -> EngineSelector:
    return EngineSelector(
        FixedSwitch(Mode.READ_ONLY),
        read_write=make(f"{url}/{place}/rw.db", poolclass=NullPool),
        read_only=make(url + f"/file:{place}/wal/ro.db?mode=ro&uri=true", poolclass=NullPool),
    )


def test_sqlite_that_can_not_read_is_told_by_its_own_error(wal: Path, place: Path) -> None:
    with (
        closing(routed("sqlite://", place, create_engine)) as selector,
        selector.engine().connect() as connection,
        pytest.raises(OperationalError, match=READONLY),
    ):
        connection.scalar(WHICH)
    assert wal.exists()


async def read_async(place: Path) -> None:
    async with (
        routed("sqlite+aiosqlite://", place, create_async_engine) as selector,
        selector.engine().connect() as connection,
    ):
        await connection.scalar(WHICH)


@pytest.mark.usefixtures("wal")
def test_so_is_it_under_aiosqlite(place: Path) -> None:
    with pytest.raises(OperationalError, match=READONLY):
        asyncio.run(read_async(place))


def test_where_sqlite_tells_no_code_it_is_asked_whether_it_can_read(wal: Path) -> None:
    error = sqlite3.OperationalError(READONLY)  # Python 3.10 gives no code
    with closing(sqlite3.connect(f"file:{wal}?mode=ro", uri=True)) as connection:
        assert not is_refusal(error, connection)
    with closing(sqlite3.connect(":memory:")) as connection:
        assert is_refusal(error, connection)


def test_what_sqlite_refuses_is_a_refusal(lite: App) -> None:
    lite.on()
    lite.start()
    with lite.selector.engine().connect() as connection:
        # Past Python's examination, so that the server alone is left.
        connection.dialect._sa_readonly_passed["delete from book"] = None
        with pytest.raises(ReadOnlyError, match="The statement is refused") as caught:
            connection.exec_driver_sql("delete from book")
    assert READONLY in str(caught.value.__cause__)


# -- a read-only transaction that goes on ----------------------------------------------------

OVER = "began while the application was read-only, which is over since "
REPLICA = "has the role 'replica', which never writes"
NOTHING = " Nothing was written. "
BEGIN = "Begin a new one."

WRITES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "text": ("DELETE", lambda session: session.execute(text("delete from book"))),
    "Core": ("INSERT", lambda session: session.execute(insert(Book).values(title="no"))),
    "driver SQL": (
        "DELETE",
        lambda session: session.connection().exec_driver_sql("delete from book"),
    ),
    "bulk": (
        "bulk_insert_mappings()",
        lambda session: session.bulk_insert_mappings(Book, [{"title": "no"}]),
    ),
}


def flushing(session: Any) -> None:
    session.add(Book(title="no"))
    session.flush()


WRITES["flush"] = ("The flush of INSERT for Book", flushing)


def message(what: str, since: Any) -> str:
    over = OVER + since.isoformat(timespec="seconds")
    return f"{what} is refused: the transaction {over}.{NOTHING}{BEGIN}"


def begun_read_only(app: App, kind: str, role: str = "primary") -> Any:
    """A session whose transaction has begun while read-only, which is over."""
    if kind == "twin":
        app.start(read_only=None)
    else:
        app.start()
    app.on("upgrade")
    session = app.sessions(role=role)
    session.scalar(WHICH)
    app.off()
    app.selector.check()
    return session


@pytest.mark.parametrize("kind", ["twin", "engine"])
def test_what_goes_on_after_the_flip_back_is_told_to_begin_anew(lite: App, kind: str) -> None:
    told_to_begin_anew(lite, kind)


def test_so_it_is_on_an_async_engine(async_app: AsyncApp) -> None:
    told_to_begin_anew(async_app, "engine")


def told_to_begin_anew(app: App, kind: str) -> None:
    with begun_read_only(app, kind) as session:
        for what, write in WRITES.values():
            with pytest.raises(ReadOnlyError) as caught:
                write(session)
            error = caught.value
            assert str(error) == message(what, app.selector.state.since)
            assert (error.reason, error.until) == ("upgrade", None)
            assert error.since < app.selector.state.since
            session.expunge_all()
        with pytest.raises(ReadOnlyError) as caught:
            session.connection(bind_arguments={"bind": app.engines["rw"]})
        told = message("The use of a read-write engine", app.selector.state.since)
        assert str(caught.value) == told
        session.rollback()
        session.add(Book(title="new"))  # begin a new one
        session.commit()
    assert app.titles("rw") == ["new"]


def test_what_the_server_refuses_then_is_told_so_too(app: App) -> None:
    with begun_read_only(app, "engine") as session:
        dialect: Any = app.engines["ro"].dialect
        dialect._sa_readonly_passed["delete from book"] = None
        with pytest.raises(ReadOnlyError) as caught:
            session.execute(text("delete from book"))
    assert str(caught.value) == message("The statement", app.selector.state.since)


@pytest.mark.parametrize("kind", ["twin", "engine"])
def test_the_role_replica_is_told_of_its_role_as_before(lite: App, kind: str) -> None:
    with begun_read_only(lite, kind, role="replica") as session:
        for what, write in WRITES.values():
            with pytest.raises(ReadOnlyError) as caught:
                write(session)
            cure = 'Use a session of the role "primary".'
            assert (
                str(caught.value) == f"{what} is refused: the transaction {REPLICA}.{NOTHING}{cure}"
            )
            session.expunge_all()


def on_a_read_only_engine(what: str, state: Any = None) -> str:
    engine = "this engine is a read-only one of the selector"
    if state is not None:
        since = state.since.isoformat(timespec="seconds")
        engine += f", and the application is read-write since {since}"
    cure = "Write through selector.engine() or a RoutingSession(selector)."
    return f"{what} is refused: {engine}.{NOTHING}{cure}"


def test_a_connection_without_a_session_is_told_of_its_engine(lite: App) -> None:
    ro = create_engine(lite.urls["ro"], poolclass=NullPool)
    for options in (
        {},
        {"read_only": None},  # one engine stands for the replica and for the read-only primary
        {"read_only": None, "read_write": Engines(lite.engine("rw"), ro)},
    ):
        lite.start(**options)
        with lite.selector.engine("replica").connect() as connection:
            with pytest.raises(ReadOnlyError) as caught:
                connection.execute(text("delete from book"))
            assert str(caught.value) == on_a_read_only_engine("DELETE")
        lite.on("upgrade")
        lite.selector.check()
        with lite.selector.engine().connect() as connection:
            connection.scalar(WHICH)
            lite.off()
            lite.selector.check()
            with pytest.raises(ReadOnlyError) as caught:
                connection.execute(text("delete from book"))
            assert str(caught.value) == on_a_read_only_engine("DELETE", lite.selector.state)
        lite.selector.close()


def test_a_session_that_finds_a_read_only_engine_itself_is_told_of_the_engine(app: App) -> None:
    app.start()
    state = None
    for _ in range(2):
        with RoutingSession(app.engines["ro"]) as session:
            for what, write in WRITES.values():
                with pytest.raises(ReadOnlyError) as caught:
                    write(session)
                assert str(caught.value) == on_a_read_only_engine(what, state)
                assert caught.value.reason is None
                session.expunge_all()
        app.on("upgrade")  # and once more after a night
        app.selector.check()
        app.off()
        state = app.selector.check()


def test_code_with_an_engine_of_its_own_is_told_what_serves_it(lite: App) -> None:
    lite.start()
    held = lite.engines["rw"].connect()
    lite.on("upgrade")
    since = lite.selector.check().since.isoformat(timespec="seconds")
    with RoutingSession(lite.engines["rw"]) as bare, lite.sessions() as session:
        for what, use in {
            "A read-write connection": lite.engines["rw"].begin().__enter__,
            "A read-write transaction": held.begin,
            "The use of a read-write engine": lambda: bare.scalar(WHICH),
        }.items():
            with pytest.raises(ReadOnlyError) as caught:
                use()
            assert str(caught.value) == (
                f"{what} is refused: the application is read-only since {since} (upgrade).{NOTHING}"
                "Roll back, and try again when it is read-write. What only reads is served by "
                "selector.engine() or a RoutingSession(selector)."
            )
        for _, write in WRITES.values():  # which has a selector
            with pytest.raises(ReadOnlyError) as caught:
                write(session)
            assert "served by" not in str(caught.value)
            session.expunge_all()
    held.close()


def test_what_is_refused_just_when_it_ends_is_not_told_of_a_night_that_goes_on(lite: App) -> None:
    lite.start()
    lite.on("upgrade")
    lite.selector.check()
    lite.off()
    since = lite.selector.check().since.isoformat(timespec="seconds")
    error = guard.refused_connection(lite.engines["rw"])
    assert str(error) == (
        "A read-write connection is refused: the application was read-only, which is over since "
        f"{since}.{NOTHING}Roll back, and try again."
    )
    assert error.reason == "upgrade"


# -- the code --------------------------------------------------------------------------------


def test_the_error_has_the_code_that_failover_looks_for(lite: App) -> None:
    lite.start()
    lite.on()
    with lite.sessions() as session, pytest.raises(ReadOnlyError) as caught:
        flushing(session)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value)), ReadOnlyError("no")):
        assert (error.sqlstate, error.pgcode) == ("25006", "25006")
        assert isinstance(error, InvalidRequestError)


def test_our_own_error_is_not_taken_for_the_servers(lite: App) -> None:
    lite.on()
    lite.start()
    told: list[BaseException] = []
    event.listen(lite.engines["ro"], "handle_error", told.append)
    with lite.selector.engine().connect() as connection, pytest.raises(ReadOnlyError) as caught:
        connection.execute(text("delete from book"))
    assert str(caught.value).startswith("DELETE is refused")
    assert caught.value.__cause__ is None
    assert not is_refusal(caught.value)
