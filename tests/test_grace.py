"""What has begun before a flip: it may go on, or until its grace is over."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, insert, select, text
from sqlalchemy.exc import IllegalStateChangeError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sa_readonly import ConfigurationError, EngineSelector, FileSwitch, ReadOnlyError
from sa_readonly.engines.doors import Door
from tests.app import RELEASE, WHICH, App, Author, Book, Clock, make_app
from tests.postgres import Server, wait_until


def flip(app: App) -> None:
    app.on()
    app.selector.check()


MESSAGE = r"A read-write transaction that went on after its grace is refused: the application is"


def test_without_grace_what_has_begun_may_finish(app: App, clock: Clock) -> None:
    app.start()
    with app.sessions.begin() as session:
        session.add(Book(title="one"))
        session.flush()
        flip(app)
        clock.ahead = 3600
        session.add(Book(title="two"))
    assert app.titles("rw") == ["one", "two"]


def test_inside_its_grace_what_has_begun_may_finish(app: App, clock: Clock) -> None:
    app.start(grace=30)
    with app.sessions.begin() as session:
        session.add(Book(title="one"))
        session.flush()
        flip(app)
        clock.ahead = 29
        session.add(Book(title="two"))
    assert app.titles("rw") == ["one", "two"]


def test_after_its_grace_a_commit_is_refused_rolled_back_and_closed(app: App, clock: Clock) -> None:
    app.start(grace=30)
    session = app.sessions()
    session.add(Book(title="one"))
    session.flush()
    flip(app)
    clock.ahead = 31
    with pytest.raises(ReadOnlyError, match=MESSAGE) as caught:
        session.commit()
    session.rollback()
    assert caught.value.reason == "upgrade"
    assert caught.value.statement == "COMMIT"
    assert app.titles("rw") == []
    assert Door.of(app.engines["rw"]).connections == 0
    assert session.scalar(WHICH) == "ro"
    session.close()


def test_a_gate_that_fails_to_close_at_the_flip_gives_what_has_begun_no_longer_grace(
    lite: App, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError

    lite.start(grace=30)
    session = lite.sessions()
    session.add(Book(title="one"))
    session.flush()
    with monkeypatch.context() as patch:
        patch.setattr(Door, "shut", fail)
        flip(lite)
    clock.ahead = 20
    lite.selector.check()  # it is closed now
    clock.ahead = 31
    with pytest.raises(ReadOnlyError, match=MESSAGE):
        session.commit()
    session.close()
    assert lite.titles("rw") == []


def test_after_its_grace_a_server_side_cursor_is_ended_by_the_next_statement_or_the_server(
    pg_server: Server, pg_urls: dict[str, URL], place: Path, clock: Clock
) -> None:
    query = text("SELECT generate_series(1, 1000)").execution_options(yield_per=10)
    with make_app(place, pg_urls) as app:
        app.start(grace=30)
        for kind in ("statement", "server"):
            session = app.sessions()
            backend = session.scalar(text("SELECT pg_backend_pid()"))
            rows = session.scalars(query)
            flip(app)
            clock.ahead += 31
            assert [next(rows) for _ in range(100)][-1] == 100
            if kind == "statement":
                with pytest.raises(ReadOnlyError, match=MESSAGE):
                    session.scalar(WHICH)
            else:
                pg_server.query(f"SELECT pg_terminate_backend({backend})")
                with pytest.raises(OperationalError):
                    rows.all()
            session.close()
            assert Door.of(app.engines["rw"]).connections == 0
            app.off()
            app.selector.check()


@pytest.mark.parametrize(
    "work",
    [
        lambda session: session.execute(select(Author.id)),
        lambda session: session.flush(),
        lambda session: session.execute(text("delete from book")),
        lambda session: session.connection().exec_driver_sql("delete from book"),
        lambda session: session.execute(Book.__table__.insert(), [{"title": "x"}, {"title": "y"}]),
        lambda session: session.begin_nested(),
    ],
    ids=["select", "flush", "text", "driver", "many", "savepoint"],
)
def test_after_its_grace_the_next_statement_is_refused_rolled_back_and_closed(
    app: App, clock: Clock, work: Any
) -> None:
    app.start(grace=30)
    with app.sessions() as session:
        session.add(Book(title="one"))
        session.flush()
        session.add(Book(title="two"))
        flip(app)
        clock.ahead = 31
        with pytest.raises(ReadOnlyError, match=MESSAGE):
            work(session)
        assert Door.of(app.engines["rw"]).connections == 0
        session.rollback()
        assert session.scalar(WHICH) == "ro"
    assert app.titles("rw") == []


def test_after_its_grace_a_rollback_is_a_rollback(app: App, clock: Clock) -> None:
    app.start(grace=30)
    with app.sessions() as session:
        session.add(Book(title="one"))
        session.flush()
        with session.begin_nested() as savepoint:
            flip(app)
            clock.ahead = 31
            savepoint.rollback()
        session.rollback()
    assert app.titles("rw") == []
    assert Door.of(app.engines["rw"]).connections == 0


def test_a_core_transaction_has_its_grace_too(app: App, clock: Clock) -> None:
    app.start(grace=30)
    with app.engines["rw"].connect() as connection:
        connection.execute(text("delete from author"))
        flip(app)
        clock.ahead = 31
        with pytest.raises(ReadOnlyError, match=MESSAGE):
            connection.commit()
        connection.rollback()
        with pytest.raises(ReadOnlyError):
            connection.execute(WHICH)
    assert Door.of(app.engines["rw"]).connections == 0
    with app.engines["ro"].connect() as connection:
        assert connection.scalar(WHICH) == "ro"


def test_a_grace_of_zero_ends_at_the_flip(app: App) -> None:
    app.start(grace=0)
    with app.sessions() as session:
        session.add(Book(title="one"))
        session.flush()
        flip(app)
        with pytest.raises(ReadOnlyError, match=MESSAGE):
            session.commit()


def test_the_backend_of_what_is_refused_is_gone_at_the_server(
    pg_server: Server, pg_app: App, clock: Clock
) -> None:
    pg_app.engine("rw", poolclass=NullPool, connect_args={"application_name": "the-application"})
    pg_app.start(grace=30)
    with pg_app.sessions() as session:
        session.execute(text("lock table book in exclusive mode"))
        flip(pg_app)
        clock.ahead = 31
        with pytest.raises(ReadOnlyError):
            session.execute(text("select 1"))

        def connected() -> bool:
            rows = pg_server.activity(pg_app.urls["rw"])
            return any(row.application_name == "the-application" for row in rows)

        # while the session still holds what is left of it
        wait_until(lambda: not connected(), "the backend's end")


@pytest.fixture
def pg_app(place: Path, pg_urls: dict[str, URL]) -> Iterator[App]:
    with make_app(place, dict(pg_urls)) as made:
        yield made


def test_what_is_prepared_already_is_committed_also_after_its_grace(
    pg_app: App, clock: Clock
) -> None:
    pg_app.start(grace=30)
    session = pg_app.sessions(twophase=True)
    session.add(Book(title="one"))
    session.prepare()
    flip(pg_app)
    clock.ahead = 31
    session.commit()
    session.close()
    assert pg_app.titles("rw") == ["one"]


def test_what_is_prepared_already_is_committed_after_its_grace_where_that_is_a_text(
    pg_app: App, clock: Clock
) -> None:
    """For asyncpg SQLAlchemy sends COMMIT PREPARED as a statement."""
    url = pg_app.urls["rw"].set(drivername="postgresql+asyncpg")

    def begin(connection: Connection) -> Any:
        transaction = connection.begin_twophase()
        connection.execute(insert(Book).values(title="one"))
        transaction.prepare()
        pg_app.on()
        return transaction

    async def main() -> None:
        engine = create_async_engine(url)
        async with (
            EngineSelector(
                FileSwitch(pg_app.path, ttl=0), read_write=engine, grace=30, watch=False
            ) as selector,
            engine.connect() as connection,
        ):
            transaction = await connection.run_sync(begin)
            selector.switch.check()
            clock.ahead = 31
            await connection.run_sync(lambda _: transaction.commit())
        await engine.dispose()

    asyncio.run(main())
    assert pg_app.titles("rw") == ["one"]


def test_what_is_not_prepared_yet_is_refused_after_its_grace(pg_app: App, clock: Clock) -> None:
    pg_app.start(grace=30)
    session = pg_app.sessions(twophase=True)
    session.add(Book(title="one"))
    session.flush()
    flip(pg_app)
    clock.ahead = 31
    # SQLAlchemy before 2.0.51 raises this for whatever a prepare fails on, which is its context.
    theirs = () if RELEASE >= (2, 0, 51) else (IllegalStateChangeError,)
    with pytest.raises((ReadOnlyError, *theirs)) as caught:
        session.prepare()
    refusal = caught.value.__context__ if theirs else caught.value
    assert isinstance(refusal, ReadOnlyError)
    assert re.match(MESSAGE, str(refusal))
    session.close()
    assert Door.of(pg_app.engines["rw"]).connections == 0
    assert pg_app.titles("rw") == []
    with pg_app.engines["ro"].connect() as connection:
        query = text("select gid from pg_prepared_xacts where database = :name")
        here = {"name": pg_app.urls["rw"].database}  # other tests leave theirs in other databases
        assert connection.scalars(query, here).all() == []


def test_after_the_flip_back_nothing_is_limited(app: App, clock: Clock) -> None:
    app.start(grace=30)
    plain = type(app.engines["rw"].dialect)
    flip(app)
    assert type(app.engines["rw"].dialect) is not plain
    app.off()
    app.selector.check()
    assert type(app.engines["rw"].dialect) is plain
    clock.ahead = 31
    with app.sessions.begin() as session:
        session.add(Book(title="one"))
    assert app.titles("rw") == ["one"]
    flip(app)
    app.selector.close()
    with app.engines["rw"].begin() as connection:
        connection.execute(text("delete from book"))


def test_what_goes_on_over_a_flip_back_has_a_new_grace_at_the_next_one(
    app: App, clock: Clock
) -> None:
    app.start(grace=30)
    with app.sessions.begin() as session:
        session.add(Book(title="one"))
        session.flush()
        flip(app)
        app.off()
        app.selector.check()
        clock.ahead = 3600
        flip(app)
        session.add(Book(title="two"))
    assert app.titles("rw") == ["one", "two"]


@pytest.mark.parametrize("where", ["connection", "clone", "engine"])
def test_under_autocommit_what_is_held_over_the_flip_writes_no_more(app: App, where: str) -> None:
    level = {"isolation_level": "AUTOCOMMIT"}
    engine = app.engine("rw", **(level if where == "engine" else {}))
    app.start(grace=30)
    if where == "clone":
        engine = engine.execution_options(**level)
    with engine.connect() as connection:
        if where == "connection":
            connection = connection.execution_options(**level)  # noqa: PLW2901  # it is the same
        connection.execute(insert(Book).values(title="before"))
        flip(app)
        with pytest.raises(ReadOnlyError, match="A read-write statement under AUTOCOMMIT is"):
            connection.execute(insert(Book).values(title="after"))
        assert Door.of(app.engines["rw"]).connections == 0
    assert app.titles("rw") == ["before"]
    app.off()
    with app.sessions.begin() as session:
        session.add(Book(title="again"))
    assert app.titles("rw") == ["again", "before"]


def test_two_selectors_of_one_engine_have_the_shorter_grace(app: App, clock: Clock) -> None:
    from sa_readonly import EngineSelector  # noqa: PLC0415

    app.start(grace=300)
    with (
        EngineSelector(
            app.selector.switch, read_write=app.engines["rw"], grace=30, watch=False
        ) as second,
        app.sessions() as session,
    ):
        session.add(Book(title="one"))
        session.flush()
        flip(app)
        clock.ahead = 31
        with pytest.raises(ReadOnlyError, match=MESSAGE):
            session.commit()
        assert second.read_only


@pytest.mark.parametrize("value", [-1, "1", True, float("nan")])
def test_a_grace_that_is_no_number_of_seconds_is_refused(lite: App, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"EngineSelector\(grace\) takes a number of sec"):
        lite.start(grace=value)


def test_what_has_begun_costs_nothing_while_read_write(lite: App) -> None:
    lite.start(grace=30)
    for method in ("do_execute", "do_commit"):
        owner = next(cls for cls in type(lite.engines["rw"].dialect).__mro__ if method in vars(cls))
        assert owner.__module__ != "sa_readonly.engines.grace"
