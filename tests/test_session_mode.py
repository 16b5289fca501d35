"""RoutingSession: which mode a transaction gets, and that it keeps it whenever the flip comes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, exc, insert

from sa_readonly import Mode, ReadOnlyError, RoutingSession
from tests.app import WHICH, App, Author, Book


def test_a_transaction_goes_to_the_database_of_the_mode(app: App) -> None:
    app.start()
    with app.sessions() as session:
        assert session.scalar(WHICH) == "rw"
    app.on()
    with app.sessions() as session:
        assert session.scalar(WHICH) == "ro"
    app.off()
    with app.sessions() as session:
        assert session.scalar(WHICH) == "rw"


def test_a_write_is_committed_in_the_read_write_database_alone(app: App) -> None:
    app.start()
    with app.sessions.begin() as session:
        session.add(Book(title="one"))
    assert (app.titles("rw"), app.titles("ro")) == (["one"], [])


STEPS = {
    "select": lambda session: session.scalar(WHICH),
    "add and flush": lambda session: (session.add(Book(title="new")), session.flush()),
    "core insert": lambda session: session.execute(insert(Book).values(title="core")),
    "savepoint": lambda session: setattr(session, "point", session.begin_nested()),
    "select in the savepoint": lambda session: session.scalar(WHICH),
    "add in the savepoint": lambda session: (session.add(Book(title="lost")), session.flush()),
    "rollback to the savepoint": lambda session: session.point.rollback(),
    "connection": lambda session: session.connection().scalar(WHICH),
    "get": lambda session: session.get(Author, 1),
    "commit": lambda session: session.commit(),
}


@pytest.mark.parametrize("before", [*STEPS, None])
def test_a_read_write_transaction_stays_so_whenever_the_flip_comes(
    app: App, before: str | None
) -> None:
    app.start()
    with app.sessions() as session:
        session.scalar(WHICH)
        app.statements.clear()
        for name, step in STEPS.items():
            if name == before:
                app.on()
                app.selector.check()
            step(session)
        assert {name for name, _ in app.statements} == {"rw"}
    assert (app.titles("rw"), app.titles("ro")) == (["core", "new"], [])


@pytest.mark.parametrize("before", [name for name in STEPS if "add" not in name])
def test_a_read_only_transaction_stays_so_whenever_the_flip_comes(app: App, before: str) -> None:
    app.start()
    app.on()
    steps = {name: step for name, step in STEPS.items() if "add" not in name and "core" not in name}
    with app.sessions() as session:
        session.scalar(WHICH)
        app.statements.clear()
        for name, step in steps.items():
            if name == before:
                app.off()
                app.selector.check()
            step(session)
            if before in list(steps)[: list(steps).index(name) + 1] and name != "commit":
                with pytest.raises(ReadOnlyError):
                    session.execute(insert(Book).values(title="no"))
        assert {name for name, _ in app.statements} == {"ro"}
    assert (app.titles("rw"), app.titles("ro")) == ([], [])


@contextmanager
def flip_at(app: App, point: str) -> Any:
    """Flip once, between choosing an engine and the first statement on its connection."""
    done = []

    def flip(*_: Any) -> None:
        if not done:
            done.append(True)
            app.flip()
            if point.endswith("noticed"):
                app.selector.check()

    if point.startswith("chosen"):
        get_bind = RoutingSession.get_bind

        def choose(self: RoutingSession, *args: Any, **kwargs: Any) -> Any:
            found = get_bind(self, *args, **kwargs)
            flip()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RoutingSession, "get_bind", choose)
            yield
        return
    engines = list(app.engines.values())
    for engine in engines:
        if point.startswith("connected"):
            event.listen(engine.pool, "checkout", flip)
        else:
            event.listen(engine, "begin", flip)
    try:
        yield
    finally:
        assert done


POINTS = ["chosen", "chosen and noticed", "connected", "connected and noticed", "beginning"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("mode", Mode)
def test_a_read_in_whose_beginning_the_flip_falls_reads_one_database(
    app: App, point: str, mode: Mode
) -> None:
    app.start()
    if mode is Mode.READ_ONLY:
        app.on()
    app.selector.check()
    with app.sessions() as session, flip_at(app, point):
        first = session.scalar(WHICH)
        assert first in ("rw", "ro")
        if mode is Mode.READ_WRITE:
            assert first == "ro"  # the connection had not come yet, so it looked again
        app.statements.clear()
        assert session.scalars(WHICH).all() == [first]
        assert {name for name, _ in app.statements} == {first}


@pytest.mark.parametrize("point", POINTS)
def test_a_flush_in_whose_beginning_the_flip_falls_is_refused_and_nothing_is_lost_in_silence(
    app: App, point: str
) -> None:
    app.start()
    with app.sessions() as session:
        session.add(Book(title="one"))
        with flip_at(app, point), pytest.raises(ReadOnlyError):
            session.commit()
        session.rollback()
        assert session.scalar(WHICH) == "ro"
    assert (app.titles("rw"), app.titles("ro")) == ([], [])


def test_a_transaction_that_waited_for_a_connection_looks_again(app: App) -> None:
    app.engine("rw", pool_size=1, max_overflow=0, pool_timeout=30)
    app.start(ttl=0.0)
    waiting = threading.Event()
    found: list[str] = []

    class Waiting(RoutingSession):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            bind = super().get_bind(*args, **kwargs)
            waiting.set()
            return bind

    def read() -> None:
        with Waiting(app.selector) as session:
            found.append(session.scalar(WHICH))

    with app.sessions() as holder:
        assert holder.scalar(WHICH) == "rw"
        thread = threading.Thread(target=read)
        thread.start()
        assert waiting.wait(10)
        app.on()  # nobody has noticed it when the connection comes back
    thread.join(10)
    assert found == ["ro"]


def test_who_waits_in_the_queue_of_a_retired_pool_comes_out_at_once(app: App) -> None:
    app.engine("rw", pool_size=1, max_overflow=0, pool_timeout=30)
    app.start()
    results: list[object] = []

    def read() -> None:
        with app.sessions() as session:
            results.append(session.scalar(WHICH))

    def write() -> None:
        try:
            with app.engines["rw"].begin() as connection:
                connection.execute(insert(Book).values(title="no"))
        except ReadOnlyError as error:
            results.append(type(error))

    with app.sessions() as holder:
        assert holder.scalar(WHICH) == "rw"
        pool = app.engines["rw"].pool
        threads = [threading.Thread(target=work) for work in (read, read, write)]
        for thread in threads:
            thread.start()
        while len(pool._pool.not_empty._waiters) < 3:  # they queue behind the holder
            assert all(thread.is_alive() for thread in threads)
        app.on()
        app.selector.check()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert holder.scalar(WHICH) == "rw"
    assert sorted(map(str, results)) == sorted(map(str, ["ro", "ro", ReadOnlyError]))
    assert app.titles("rw") == []


def test_commit_then_new_work_takes_the_mode_anew(app: App) -> None:
    app.start()
    with app.sessions() as session:
        session.add(Book(title="one"))
        session.commit()
        app.on()
        assert session.scalar(WHICH) == "ro"
        session.commit()
        app.off()
        session.add(Book(title="two"))
        session.commit()
    assert app.titles("rw") == ["one", "two"]


def test_objects_that_wait_are_flushed_under_the_mode_of_the_transaction_that_flushes_them(
    app: App,
) -> None:
    app.start()
    with app.sessions(autoflush=False) as session:
        assert session.scalar(WHICH) == "rw"
        book = Book(title="late")
        session.add(book)
        session.commit()
        session.rollback()
        app.on()
        book.title = "later"
        with pytest.raises(ReadOnlyError):
            session.commit()
        session.rollback()
    app.off()
    with app.sessions.begin() as session:
        session.merge(Book(id=1, title="at last"))
    assert app.titles("rw") == ["at last"]


def test_a_session_that_is_closed_or_reset_takes_the_mode_anew(app: App) -> None:
    app.start()
    session = app.sessions()
    for end in (session.close, session.reset, session.invalidate, session.rollback):
        app.path.unlink(missing_ok=True)
        assert session.scalar(WHICH) == "rw"
        app.on()
        assert session.scalar(WHICH) == "rw"
        end()
        assert session.scalar(WHICH) == "ro"
        session.close()


def test_an_interrupt_at_the_end_of_a_transaction_does_not_pin_the_next(app: App) -> None:
    app.start()
    session = app.sessions()
    assert session.scalar(WHICH) == "rw"
    left: Any = session.connection().connection.driver_connection

    class Interrupt(BaseException):
        pass

    def interrupt(*_: Any) -> None:
        event.remove(app.engines["rw"].pool, "checkin", interrupt)
        raise Interrupt

    event.listen(app.engines["rw"].pool, "checkin", interrupt)
    with pytest.raises(Interrupt):
        session.close()
    app.on()
    assert session.scalar(WHICH) == "ro"
    session.close()
    app.off()
    with app.sessions.begin() as other:
        other.add(Book(title="after"))
    left.close()  # the interrupt has lost it
    assert app.titles("rw") == ["after"]


def test_two_phase_transactions_keep_their_mode(app: App) -> None:
    if "sqlite" in app.urls["rw"].drivername:
        pytest.skip("SQLite has no two-phase commit")
    app.start()
    with app.sessions(twophase=True) as session:
        session.add(Book(title="one"))
        session.flush()
        app.on()
        session.prepare()
        session.commit()
        assert session.scalar(WHICH) == "ro"
        session.prepare()
        session.commit()
    assert app.titles("rw") == ["one"]


def test_no_two_phase_transaction_begins_on_a_connection_that_is_held_over_the_flip(
    app: App,
) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        connection.commit()
        app.on()
        with pytest.raises(ReadOnlyError):
            connection.begin_twophase()


def test_a_two_phase_transaction_of_a_process_that_is_forced_is_counted(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sqlite" in app.urls["rw"].drivername:
        pytest.skip("SQLite has no two-phase commit")
    monkeypatch.setenv("SA_READONLY_FORCE", "read-write")
    app.start()
    with app.engines["rw"].connect() as connection:
        begun = app.selector.report().report.begun
        with connection.begin_twophase():
            pass
    assert app.selector.report().report.begun > begun  # with asyncpg as two: by its BEGIN, too


def test_without_autobegin_a_closed_transaction_is_named_before_it(lite: App) -> None:
    lite.start()
    with lite.sessions(autobegin=False) as session, session.begin() as transaction:
        session.scalar(WHICH)
        transaction.commit()
        with pytest.raises(exc.InvalidRequestError, match="closed transaction"):
            session.scalar(WHICH)


@pytest.mark.parametrize("savepoint", [False, True])
def test_nothing_is_executed_after_a_commit_inside_the_context_manager(
    app: App, savepoint: bool
) -> None:
    app.start()
    with app.sessions() as session, session.begin() as transaction:
        if savepoint:
            with session.begin_nested() as transaction:  # noqa: PLW2901  # the inner one ends
                session.scalar(WHICH)
                transaction.commit()
                with pytest.raises(exc.InvalidRequestError, match="closed transaction"):
                    session.scalar(WHICH)
            assert session.scalar(WHICH) == "rw"
        else:
            session.scalar(WHICH)
            transaction.commit()
            with pytest.raises(exc.InvalidRequestError, match="closed transaction"):
                session.scalar(WHICH)


def test_nothing_is_executed_after_a_flush_failed_until_the_rollback(app: App) -> None:
    app.start()
    with app.sessions() as session:
        session.add(Book(id=1, title="one"))
        session.flush()
        session.expunge_all()
        session.add(Book(id=1, title="the same"))
        with pytest.raises(exc.IntegrityError):
            session.flush()
        with pytest.raises(exc.PendingRollbackError):
            session.scalar(WHICH)
        session.rollback()
        assert session.scalar(WHICH) == "rw"
