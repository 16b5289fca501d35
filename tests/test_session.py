"""RoutingSession: which engine a transaction gets, and that it keeps it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine, delete, event, exc, func, insert, select, text, update
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool

from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    RoutingSession,
    guard,
)
from tests.app import WHICH, App, Author, Base, Book, Which, make_app, sqlite_urls

# -- the mode of a transaction ---------------------------------------------------------------


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


# -- binds -----------------------------------------------------------------------------------


def test_a_plain_session_refuses_a_selector_and_names_the_cure(lite: App) -> None:
    lite.start()
    for factory in (sessionmaker(lite.selector), lambda: Session(lite.selector)):
        with factory() as session, pytest.raises(ConfigurationError, match="class_=RoutingSession"):
            session.scalar(WHICH)
        with factory() as session:
            session.add(Book(title="no"))
            with pytest.raises(ConfigurationError, match="class_=RoutingSession"):
                session.commit()
    assert lite.titles("rw") == []


@pytest.fixture
def other(place: Any) -> Any:
    """A second application in the same process, with databases of its own."""
    directory = place / "other"
    directory.mkdir()
    with make_app(directory, sqlite_urls(directory, "rw", "ro")) as made:
        yield made


def test_several_databases_in_one_session_share_the_mode_of_one_switch(
    lite: App, other: App
) -> None:
    lite.start()
    other.selector = EngineSelector(
        lite.selector.switch, read_write=other.engine("rw"), read_only=other.engine("ro")
    )
    factory = sessionmaker(
        class_=RoutingSession, binds={Author: lite.selector, Which: other.selector}
    )
    with factory() as session:
        session.get(Author, 1)
        lite.on()
        # The first connection has decided; the other read-write engine is closed by now.
        with pytest.raises(ReadOnlyError):
            session.scalar(WHICH)
        session.rollback()
        session.get(Author, 1)
        assert session.scalar(WHICH) == "ro"
        lite.off()
        assert session.scalar(WHICH) == "ro"
    with factory() as session:
        assert session.scalar(WHICH) == "rw"
        lite.selector.check()
        lite.statements.clear()
        session.get(Author, 1)
        assert {name for name, _ in lite.statements} == {"rw"}


def test_two_selectors_with_switches_of_their_own_know_nothing_of_each_other(
    lite: App, other: App
) -> None:
    lite.start()
    other.start()
    lite.on()
    factory = sessionmaker(
        class_=RoutingSession, binds={Book: lite.selector, Which: other.selector}
    )
    with factory() as session:
        assert session.scalar(WHICH) == "rw"
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError):
            session.commit()


def test_a_plain_engine_among_the_binds_is_written_to_while_read_only(
    lite: App, other: App
) -> None:
    lite.start()
    lite.on()
    factory = sessionmaker(
        class_=RoutingSession, binds={Which: lite.selector, Base: other.engine("rw")}
    )
    with factory.begin() as session:
        session.add(Book(title="log"))
        assert session.scalar(WHICH) == "ro"
    assert other.titles("rw") == ["log"]


def test_a_session_class_of_the_users_own_works_in_either_order(lite: App) -> None:
    calls: list[str] = []

    class Own(Session):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("own")
            return super().get_bind(*args, **kwargs)

    class First(RoutingSession, Own):
        pass

    class Last(Own, RoutingSession):
        pass

    lite.start()
    for cls in (First, Last):
        with cls(lite.selector) as session:
            assert session.scalar(WHICH) == "rw"
        lite.on()
        with cls(lite.selector) as session:
            assert session.scalar(WHICH) == "ro"
            session.add(Book(title="no"))
            with pytest.raises(ReadOnlyError):
                session.flush()
        lite.off()
    assert len(calls) >= 6


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


def test_a_session_class_that_connects_in_its_own_way_is_asked_for_each_statement(
    lite: App,
) -> None:
    asked = []

    class Theirs(Session):
        def _connection_for_bind(self, engine: Any, *args: Any, **kwargs: Any) -> Any:
            asked.append(engine)
            return super()._connection_for_bind(engine, *args, **kwargs)

    class Ours(RoutingSession, Theirs):
        pass

    lite.start()
    with Ours(lite.selector) as session:
        session.scalar(WHICH)
        session.scalar(WHICH)
    assert asked == [lite.engines["rw"]] * 2


def test_a_session_class_that_finds_the_selector_itself_is_routed(lite: App) -> None:
    class Found(RoutingSession):
        def get_bind(self, mapper: Any = None, **kw: Any) -> Any:
            return super().get_bind(mapper, bind=lite.selector)

    class Behind(Session):
        def get_bind(self, mapper: Any = None, **kw: Any) -> Any:
            return lite.selector

    class InFront(RoutingSession, Behind):
        pass

    lite.start()
    for cls in (Found, InFront):
        with cls() as session:
            assert session.scalar(WHICH) == "rw"
            lite.on()
            assert session.scalar(WHICH) == "rw"
            session.rollback()
            assert session.scalar(WHICH) == "ro"
        lite.off()


def test_a_bind_added_later_is_used(lite: App, other: App) -> None:
    lite.start()
    other.start()
    with lite.sessions() as session:
        session.bind_mapper(Which, other.selector)
        other.on()
        assert session.scalar(WHICH) == "ro"
        session.get(Author, 1)
        assert lite.statements[-1][0] == "rw"


def test_scoped_session_works(app: App) -> None:
    app.start()
    session = scoped_session(app.sessions)
    assert session.scalar(WHICH) == "rw"
    app.on()
    session.remove()
    assert session.scalar(WHICH) == "ro"
    session.remove()


@pytest.mark.parametrize(
    "join", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]
)
def test_a_session_joins_a_transaction_that_was_begun_before_the_flip(app: App, join: Any) -> None:
    app.start()
    with app.engines["rw"].connect() as connection, connection.begin() as transaction:
        connection.execute(insert(Book).values(title="outer"))
        app.on()
        app.selector.check()
        with RoutingSession(connection, join_transaction_mode=join) as session:
            session.add(Book(title="inner"))
            session.commit()
        if transaction.is_active:
            transaction.commit()
    assert app.titles("rw") == ["inner", "outer"]


@pytest.mark.parametrize(
    "join", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]
)
def test_a_session_on_a_connection_begins_no_read_write_transaction_after_the_flip(
    app: App, join: Any
) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        app.on()
        with RoutingSession(connection, join_transaction_mode=join) as session:
            with pytest.raises(ReadOnlyError):
                session.scalar(WHICH)
            session.rollback()
            app.off()
            assert session.scalar(WHICH) == "rw"


def test_a_session_on_a_read_only_connection_refuses_a_flush(app: App) -> None:
    app.start()
    with app.engines["ro"].connect() as connection, RoutingSession(connection) as session:
        assert session.scalar(WHICH) == "ro"
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError):
            session.flush()


def test_the_read_write_engine_given_by_bind_arguments_is_refused_while_read_only(app: App) -> None:
    app.start()
    arguments = {"bind": app.engines["rw"]}
    with app.sessions() as session:
        assert session.scalar(WHICH, bind_arguments=arguments) == "rw"
        app.on()
        assert session.scalar(WHICH, bind_arguments=arguments) == "rw"
        assert session.scalar(WHICH) == "rw"
        session.rollback()
        with pytest.raises(ReadOnlyError):
            session.scalar(WHICH, bind_arguments=arguments)
        session.rollback()
        assert session.scalar(WHICH) == "ro"
        app.off()
        with pytest.raises(ReadOnlyError):
            session.scalar(WHICH, bind_arguments=arguments)


def test_the_engine_of_each_moment_given_by_bind_arguments_does_not_straddle(app: App) -> None:
    app.start()
    app.on()
    with app.sessions() as session:

        def engine_now() -> dict[str, Any]:
            return {"bind": app.engine_now()}

        assert session.scalar(WHICH, bind_arguments=engine_now()) == "ro"
        app.off()
        assert app.engine_now() is app.engines["rw"]
        with pytest.raises(ReadOnlyError):
            session.scalar(WHICH, bind_arguments=engine_now())


def test_the_twin_given_by_bind_arguments_is_read_while_read_only(lite: App) -> None:
    del lite.urls["ro"]
    lite.start()
    lite.on()
    with lite.sessions() as session:
        arguments = {"bind": lite.selector.engine()}
        assert session.scalar(WHICH, bind_arguments=arguments) == "rw"


def test_a_listener_that_asks_for_the_bind_does_not_unpin(lite: App) -> None:
    lite.start()

    def ask(session: Session, *_: Any) -> None:
        session.get_bind()

    event.listen(Session, "after_begin", ask)
    try:
        with lite.sessions() as session:
            assert session.scalar(WHICH) == "rw"
            lite.on()
            assert session.scalar(WHICH) == "rw"
    finally:
        event.remove(Session, "after_begin", ask)


def test_an_engine_chosen_by_a_get_bind_of_the_users_own_pins_the_mode(lite: App) -> None:
    class Own(RoutingSession):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            return lite.engines["rw"] if self._flushing else super().get_bind(*args, **kwargs)

    lite.start()
    with Own(lite.selector) as session:
        session.add(Book(title="one"))
        session.flush()
        lite.on()
        lite.selector.check()
        assert session.scalar(WHICH) == "rw"
        session.commit()
        assert session.scalar(WHICH) == "ro"
    assert lite.titles("rw") == ["one"]


def test_an_engine_with_two_switches_pins_both(lite: App, place: Any) -> None:
    lite.start()
    switch = FileSwitch(place / "second.txt", ttl=0)
    second = EngineSelector(
        switch, read_write=lite.engines["rw"], read_only=lite.engines["ro"], watch=False
    )
    with lite.sessions() as session:
        arguments = {"bind": lite.engines["rw"]}
        assert session.scalar(WHICH, bind_arguments=arguments) == "rw"
        lite.on()
        switch.enable()
        assert session.scalar(WHICH) == "rw"
        assert session.scalar(WHICH, bind_arguments={"bind": second}) == "rw"
    switch.disable()
    second.close()


def test_a_session_that_chooses_in_front_of_ours_is_refused_with_the_cure(lite: App) -> None:
    class InFront(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any:
            return lite.selector

    class Wrong(InFront, RoutingSession):
        pass

    lite.start()
    with Wrong() as session:
        session.add(Book(title="no"))
        with pytest.raises(ConfigurationError, match="Derive from RoutingSession first"):
            session.flush()


def test_a_session_class_behind_ours_may_take_arguments_of_its_own_first(lite: App) -> None:
    class Other(Session):
        def __init__(self, db: str, **kwargs: Any) -> None:
            self.db = db
            super().__init__(**kwargs)

    class Mine(RoutingSession, Other):
        pass

    lite.start()
    with Mine(lite.selector, db="x") as session:
        assert (session.db, session.scalar(WHICH)) == ("x", "rw")


def test_a_sharded_session_finds_its_shard_by_the_instance(lite: App, other: App) -> None:
    from sqlalchemy.ext.horizontal_shard import ShardedSession  # noqa: PLC0415  # here alone

    class Shards(RoutingSession, ShardedSession):
        pass

    lite.start()
    other.start()
    with Shards(
        shards={"a": lite.selector, "b": other.selector},
        shard_chooser=lambda _mapper, instance, *_, **__: instance.title if instance else "a",
        identity_chooser=lambda *_, **__: ["a", "b"],
        execute_chooser=lambda _context: ["a", "b"],
    ) as session:
        session.add_all([Book(title="a"), Book(title="b")])
        session.commit()
        other.on()
        assert sorted(session.scalars(WHICH)) == ["ro", "rw"]
        session.commit()
        session.add(Book(title="b"))
        with pytest.raises(ReadOnlyError):
            session.commit()
    assert (lite.titles("rw"), other.titles("rw")) == (["a"], ["b"])


# -- roles -----------------------------------------------------------------------------------


def test_the_role_chooses_the_replica(lite: App, other: App) -> None:
    other.urls = {"replica": other.urls["rw"], "ro": other.urls["ro"]}
    replica = other.engine("replica")
    lite.start(read_write=Engines(lite.engine("rw"), replica))
    with lite.sessions(role="replica") as session:
        assert session.role == "replica"
        assert session.connection().engine is replica
        session.rollback()
        session.role = "primary"
        assert session.connection().engine is lite.engines["rw"]
        with pytest.raises(exc.InvalidRequestError, match="Commit or roll back first"):
            session.role = "replica"
        session.role = "primary"
        session.commit()
        lite.on()
        session.role = "replica"
        assert session.connection().engine is lite.engines["ro"]


@pytest.mark.parametrize("role", ["slave", "", None, 1])
def test_an_unknown_role_is_refused_at_once(lite: App, role: Any) -> None:
    lite.start()
    with pytest.raises(ConfigurationError, match='role is "primary" or "replica", not'):
        lite.sessions(role=role)
    with lite.sessions() as session, pytest.raises(ConfigurationError):
        session.role = role
    with pytest.raises(ConfigurationError):
        lite.selector.engine(role)


def test_the_role_replica_does_not_use_a_read_write_engine_that_is_given(app: App) -> None:
    app.start()
    with app.sessions(role="replica") as session, pytest.raises(ReadOnlyError, match="the role"):
        session.execute(
            text("insert into book (title) values ('no')"),
            bind_arguments={"bind": app.engines["rw"]},
        )
    with (
        RoutingSession(app.engines["rw"], role="replica") as session,
        pytest.raises(ReadOnlyError, match="the role"),
    ):
        session.execute(text("insert into book (title) values ('no')"))
    assert app.titles("rw") == []


def test_without_a_replica_the_role_reads_the_primary_and_writes_nothing(app: App) -> None:
    app.start()
    with app.sessions(role="replica") as session:
        assert session.scalar(WHICH) == "rw"
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError, match="the role 'replica', which never writes"):
            session.flush()
        session.rollback()
        with pytest.raises(ReadOnlyError, match="the role 'replica', which never writes"):
            session.execute(text("insert into book (title) values ('no')"))
    assert app.titles("rw") == []


# -- the guard -------------------------------------------------------------------------------


def add(session: Session) -> None:
    session.add(Book(title="no"))
    session.flush()


def change(session: Session) -> None:
    session.get_one(Author, 1).name = "Bob"
    session.flush()


def remove(session: Session) -> None:
    session.delete(session.get_one(Author, 1))
    session.flush()


def append(session: Session) -> None:
    author = session.get_one(Author, 1)
    author.books.append(Book(title="no"))
    session.flush()


def merge(session: Session) -> None:
    session.merge(Author(id=1, name="Bob"))
    session.flush()


WRITES = {
    "add": add,
    "change": change,
    "delete": remove,
    "cascade": append,
    "merge": merge,
    "autoflush": lambda session: (session.add(Book(title="no")), session.scalar(WHICH)),
    "in a savepoint": lambda session: (session.begin_nested(), add(session)),
    "insert": lambda session: session.execute(insert(Book).values(title="no")),
    "insert many": lambda session: session.execute(insert(Book), [{"title": "no"}]),
    "insert returning": lambda session: session.scalars(
        insert(Book).values(title="no").returning(Book)
    ),
    "update": lambda session: session.execute(update(Author).values(name="Bob")),
    "update by key": lambda session: session.execute(update(Author), [{"id": 1, "name": "Bob"}]),
    "update, fetch": lambda session: session.execute(
        update(Author).values(name="Bob").execution_options(synchronize_session="fetch")
    ),
    "delete statement": lambda session: session.execute(delete(Author)),
    "table insert": lambda session: session.execute(insert(Book.__table__).values(title="no")),
    "Query.update": lambda session: session.query(Author).update({"name": "Bob"}),
    "Query.delete": lambda session: session.query(Author).delete(),
    "bulk_save_objects": lambda session: session.bulk_save_objects([Book(title="no")]),
    "bulk_insert_mappings": lambda session: session.bulk_insert_mappings(Book, [{"title": "no"}]),
    "bulk_update_mappings": lambda session: session.bulk_update_mappings(
        Author, [{"id": 1, "name": "Bob"}]
    ),
}


@pytest.mark.parametrize("how", WRITES)
def test_a_write_is_refused_before_any_sql_is_sent(app: App, how: str) -> None:
    app.start()
    app.on("upgrade to 18")
    with app.sessions() as session:
        with pytest.raises(ReadOnlyError) as caught:
            WRITES[how](session)
        assert caught.value.reason == "upgrade to 18"
        assert caught.value.since is not None
        sent = [
            text for _, text in app.statements if not text.lstrip().upper().startswith("SELECT")
        ]
        assert [one for one in sent if "SAVEPOINT" not in one] == []
        session.rollback()
        assert session.scalar(WHICH) == "ro"
        assert session.scalar(select(func.count()).select_from(Author)) == 1
    assert (app.titles("rw"), app.titles("ro")) == ([], [])


@pytest.mark.parametrize("how", WRITES)
def test_the_same_write_takes_effect_while_read_write(app: App, how: str) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        before = [connection.execute(select(t)).all() for t in Base.metadata.sorted_tables]
    with app.sessions() as session:
        WRITES[how](session)
        session.commit()
    with app.engines["rw"].connect() as connection:
        after = [connection.execute(select(t)).all() for t in Base.metadata.sorted_tables]
    assert before != after


def test_a_flush_without_a_net_change_is_no_write(app: App) -> None:
    app.start()
    app.on()
    with app.sessions() as session:
        author = session.get_one(Author, 1)
        author.name = "Bob"
        author.name = "Ann"
        session.bulk_insert_mappings(Book, [])
        session.bulk_save_objects([])
        session.commit()
        author.name = author.name
        session.flush()
        new = Book(title="no")
        session.add(new)
        session.expunge(new)
        session.commit()
        assert session.scalar(WHICH) == "ro"


def test_the_server_refuses_what_a_raw_cursor_writes(app: App) -> None:
    app.start()
    app.on()
    with app.sessions() as session:
        cursor = session.connection().connection.cursor()
        with pytest.raises(Exception, match=r"read-only|readonly"):
            cursor.execute("insert into book (title) values ('no')")
        cursor.close()
    assert app.titles("ro") == []


def test_without_a_read_only_database_the_same_one_is_read_and_not_written(app: App) -> None:
    del app.urls["ro"]
    app.start()
    with app.sessions.begin() as session:
        session.add(Book(title="one"))
    app.on()
    with app.sessions() as session:
        assert session.scalars(select(Book.title)).all() == ["one"]
        for write in WRITES.values():
            with pytest.raises(ReadOnlyError):
                write(session)
            session.rollback()
        cursor = session.connection().connection.cursor()
        with pytest.raises(Exception, match=r"read-only|readonly"):
            cursor.execute("insert into book (title) values ('no')")
        cursor.close()
    app.off()
    with app.sessions.begin() as session:
        session.add(Book(title="two"))
    assert app.titles("rw") == ["one", "two"]


def test_a_read_write_engine_gives_out_no_connection_while_read_only(app: App) -> None:
    app.start()
    engine = app.engines["rw"]
    clone = engine.execution_options(isolation_level="AUTOCOMMIT")
    app.on()
    app.selector.check()
    for reach in (engine.connect, engine.raw_connection, clone.connect, engine.begin().__enter__):
        with pytest.raises(ReadOnlyError):
            reach()
    engine.dispose()
    with pytest.raises(ReadOnlyError):
        engine.connect()
    app.off()
    app.selector.check()
    with clone.connect() as connection:
        assert connection.scalar(WHICH) == "rw"


def test_a_connection_held_over_the_flip_is_refused_its_next_begin(app: App) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        app.on()
        connection.commit()
        with pytest.raises(ReadOnlyError):
            connection.scalar(WHICH)


def test_connections_of_the_old_pool_are_closed_when_they_come_back(app: App) -> None:
    closed: list[Any] = []
    app.start()
    engine = app.engines["rw"]
    event.listen(engine.pool, "close", lambda connection, _record: closed.append(connection))
    with engine.connect() as idle:
        idle_connection = idle.connection.dbapi_connection
        with engine.connect() as held:
            held_connection = held.connection.dbapi_connection
            idle.close()
            app.on()
            app.selector.check()
            assert closed == [idle_connection]
    assert closed == [idle_connection, held_connection]


@pytest.mark.parametrize("poolclass", [QueuePool, NullPool])
def test_flipping_back_opens_a_fresh_pool_with_the_users_listeners(
    app: App, poolclass: Any
) -> None:
    connects: list[str] = []
    app.engine("rw", poolclass=poolclass)
    event.listen(app.engines["rw"], "connect", lambda *_: connects.append("before"))
    app.start()
    with app.sessions() as session:
        session.scalar(WHICH)
    app.on()
    app.selector.check()
    event.listen(app.engines["rw"], "connect", lambda *_: connects.append("while read-only"))
    app.off()
    with app.sessions() as session:
        assert session.scalar(WHICH) == "rw"
    assert isinstance(app.engines["rw"].pool, poolclass)
    assert connects == ["before", "before", "while read-only"]


def test_a_database_in_memory_is_never_retired(tmp_path: Any) -> None:
    rw, ro = create_engine("sqlite://"), create_engine("sqlite://")
    for engine, name in ((rw, "rw"), (ro, "ro")):
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(insert(Which).values(name=name))
    with EngineSelector(
        FileSwitch(tmp_path / "read-only.txt", ttl=0), read_write=rw, read_only=ro
    ) as selector:
        factory = sessionmaker(selector, class_=RoutingSession)
        for _ in range(2):
            with factory.begin() as session:
                assert session.scalar(WHICH) == "rw"
                session.add(Book(title="kept"))
            selector.switch.enable()
            with factory() as session:
                assert session.scalar(WHICH) == "ro"
            with pytest.raises(ReadOnlyError):
                rw.connect()
            selector.switch.disable()
        with factory() as session:
            assert session.scalar(select(func.count()).select_from(Book)) == 2
            session.close()
        with factory(role="replica") as session:
            session.add(Book(title="no"))
            with pytest.raises(ReadOnlyError):
                session.flush()
    rw.dispose()
    ro.dispose()


def test_a_fixed_switch_decides_for_a_script(lite: App) -> None:
    for mode, name in ((Mode.READ_ONLY, "ro"), (Mode.READ_WRITE, "rw")):
        with (
            EngineSelector(
                FixedSwitch(mode), read_write=lite.engine("rw"), read_only=lite.engine("ro")
            ) as selector,
            RoutingSession(selector) as session,
        ):
            assert session.scalar(WHICH) == name


def test_filling_again_is_possible_after_the_selector_is_closed(lite: App) -> None:
    lite.start()
    lite.on()
    lite.selector.check()
    lite.selector.close()
    fill_again = lite.engines["rw"]
    with fill_again.begin() as connection:
        connection.execute(insert(Book).values(title="by the script"))
    assert lite.titles("rw") == ["by the script"]
    with lite.sessions() as session, pytest.raises(exc.InvalidRequestError, match="is closed"):
        session.scalar(WHICH)


def test_what_is_refused_after_the_flip_back_tells_why_it_was_read_only(app: App) -> None:
    app.start(ttl=0)
    app.on("upgrade")
    with app.sessions() as session:
        assert session.scalar(WHICH) == "ro"
        app.off()
        assert app.selector.check().mode is Mode.READ_WRITE
        session.add(Book(title="late"))
        with pytest.raises(ReadOnlyError, match="while the application was read-only") as caught:
            session.flush()
        assert caught.value.reason == "upgrade"
        with pytest.raises(ReadOnlyError) as caught:
            session.execute(insert(Book).values(title="late"))
        assert caught.value.reason == "upgrade"
    assert guard.refused_connection(app.engines["rw"]).reason == "upgrade"
    with app.sessions(role="replica") as session:
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError, match="the role 'replica'") as caught:
            session.flush()
        assert caught.value.reason is None


@pytest.mark.parametrize("when", ["read-only", "flipped back", "replica"])
def test_connection_holds_the_bind_that_it_is_given_to_the_mode(app: App, when: str) -> None:
    app.start(ttl=0)
    role = "replica" if when == "replica" else "primary"
    if when != "replica":
        app.on("upgrade")
    with app.sessions(role=role) as session:
        session.scalar(WHICH)
        if when == "flipped back":
            app.off()
            app.selector.check()
        with pytest.raises(ReadOnlyError):
            session.connection(bind_arguments={"bind": app.engines["rw"]})
    assert app.titles("rw") == []


def test_connection_takes_the_engine_that_it_is_given_while_it_may(app: App) -> None:
    app.start(ttl=0)
    with app.sessions() as session:
        given = session.connection(bind_arguments={"bind": app.engines["rw"]})
        assert given is session.connection()
        assert given.scalar(WHICH) == "rw"
    with app.sessions() as session:
        given = session.connection({"bind": app.engines["ro"]}, {"stream_results": True})
        assert given.scalar(WHICH) == "ro"


def test_a_text_that_is_refused_after_the_flip_back_tells_why_it_was_read_only(app: App) -> None:
    app.start(ttl=0)
    app.on("upgrade")
    with app.sessions() as session:
        assert session.scalar(WHICH) == "ro"
        app.off()
        app.selector.check()
        with pytest.raises(ReadOnlyError, match="while the application was read-only") as caught:
            session.execute(text("insert into book (title) values ('late')"))
        assert caught.value.reason == "upgrade"
