"""EngineSelector.replace(): other engines to write, for the next read-write time."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import QueuePool

from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FileSwitch,
    ReadOnlyError,
    RoutingSession,
)
from sa_readonly.engines import guard
from sa_readonly.engines.doors import Door
from sa_readonly.engines.handover import GuardedEngines
from sa_readonly.testing import read_only
from tests.app import SECONDS, WHICH, App, Base, Book, in_thread, make_app, need, sqlite_urls
from tests.test_forks import in_child


@pytest.fixture
def moving(place: Path) -> Iterator[App]:
    """Four databases: the old one, the new one, another new one, and one that is only read."""
    with make_app(place, sqlite_urls(place, "rw", "green", "other", "ro")) as made:
        yield made


def start(app: App, **options: Any) -> EngineSelector:
    """Make a selector whose read-only engine is a twin, unless another is given."""
    options = {"read_only": None, "workers": False, **options}
    selector: EngineSelector = app.start(**options).selector
    return selector


def replace(app: App, name: str) -> Engine:
    engine = app.engines.get(name) or app.engine(name)
    app.selector.replace(read_write=engine)
    return engine


def night(app: App, name: str) -> Engine:
    """Have a night in which the engine of this database takes the place of the one of now."""
    app.on()
    engine = replace(app, name)
    app.off()
    app.selector.check()
    return engine


def which(app: App, role: str = "primary") -> Any:
    with app.sessions(role=role) as session:
        return session.scalar(WHICH)


def write(app: App, title: str = "new") -> None:
    with app.sessions.begin() as session:
        session.add(Book(title=title))


# -- what takes whose place, and when --------------------------------------------------------


def test_the_new_engine_is_written_once_it_is_read_write_and_the_old_one_is_read_until_then(
    moving: App,
) -> None:
    start(moving)
    old = moving.engines["rw"]
    moving.on()
    green = replace(moving, "green")
    assert [which(moving), which(moving, "replica")] == ["rw", "rw"]
    assert moving.selector.url is old.url
    with pytest.raises(ReadOnlyError):
        write(moving)
    moving.off()
    moving.selector.check()
    assert [which(moving), which(moving, "replica")] == ["green", "green"]
    assert moving.selector.engine() is green
    assert [moving.selector.url, moving.selector.dialect] == [green.url, green.dialect]
    write(moving)
    assert [moving.titles("rw"), moving.titles("green")] == [[], ["new"]]


def test_each_process_logs_what_is_replaced_by_what(
    moving: App, caplog: pytest.LogCaptureFixture
) -> None:
    start(moving)
    moving.urls["green"] = moving.urls["green"].set(query={"timeout": "5"})
    night(moving, "green")
    assert [one.message for one in caplog.records if "replaced" in one.message] == [
        "sa_readonly: read_write.primary was replaced. It is "
        f"{moving.urls['green'].set(query={})} from the flip back on."
    ]


def test_the_next_night_reads_the_new_database(moving: App) -> None:
    start(moving)
    night(moving, "green")
    moving.on()
    assert [which(moving), which(moving, "replica")] == ["green", "green"]
    with pytest.raises(ReadOnlyError):
        moving.engines["green"].connect()


def test_an_engine_of_core_that_is_held_may_be_kept_over_flips_and_over_a_replacement(
    moving: App,
) -> None:
    kept = start(moving, read_only=moving.engine("ro"), max_held=1).engine(hold=SECONDS)

    def served() -> Any:
        with kept.connect() as connection:
            return connection.scalar(WHICH)

    assert served() == "rw"
    moving.on()
    assert served() == "ro"
    moving.off()
    assert served() == "rw"
    night(moving, "green")
    assert served() == "green"
    moving.on()
    assert served() == "ro"


def test_engines_that_are_only_read_stay_as_they_are(moving: App) -> None:
    start(moving, read_only=moving.engine("ro"))
    moving.on()
    replace(moving, "green")
    assert which(moving) == "ro"
    moving.off()
    assert which(moving) == "green"
    moving.on()
    assert which(moving) == "ro"


def test_a_new_replica_serves_from_the_next_read_write_time_on(moving: App) -> None:
    start(moving, read_write=Engines(moving.engine("rw"), moving.engine("other")))
    moving.on()
    moving.selector.replace(read_write=Engines(moving.engine("green"), moving.engine("ro")))
    assert [which(moving), which(moving, "replica")] == ["rw", "other"]
    moving.off()
    assert [which(moving), which(moving, "replica")] == ["green", "ro"]
    assert moving.engines["other"].pool.checkedin() == 0  # type: ignore[attr-defined]  # a QueuePool
    with moving.engines["other"].connect() as connection:  # code that has kept it may read
        assert connection.scalar(WHICH) == "other"
    with moving.engines["ro"].connect() as connection, pytest.raises(ReadOnlyError):
        connection.execute(text("delete from book"))


def test_the_binds_of_a_session_go_on(moving: App) -> None:
    selector = start(moving)
    factory = sessionmaker(class_=RoutingSession, binds={Base: selector})
    moving.on()
    replace(moving, "green")
    with factory() as session:
        assert session.scalar(WHICH) == "rw"
        session.rollback()
        moving.off()
        assert session.scalar(WHICH) == "green"
    assert inspect(selector).has_table("book")


def test_of_several_calls_in_a_night_the_last_one_counts(moving: App) -> None:
    start(moving)
    moving.on()
    other, green = replace(moving, "other"), replace(moving, "green")
    moving.off()
    write(moving)
    assert [moving.titles(name) for name in ("rw", "other", "green")] == [[], [], ["new"]]
    with pytest.raises(ReadOnlyError, match="was replaced"):
        other.connect()
    with green.connect():
        pass


def test_the_same_engine_may_be_given_again_which_changes_nothing(moving: App) -> None:
    selector = start(moving)
    moving.on()
    twin = selector.engine()
    replace(moving, "rw")
    moving.off()
    write(moving)
    assert [which(moving), moving.titles("rw")] == ["rw", ["new"]]
    moving.on()
    assert selector.engine() is twin


@pytest.mark.parametrize(("nights", "read_only"), [(1, None), (2, None), (2, "ro")])
def test_a_replaced_engine_that_is_given_again_is_as_before(
    moving: App, nights: int, read_only: str | None
) -> None:
    # With an engine to read, the twin for the role "replica" is taken away and replaced, too.
    selector = start(moving, grace=0.0, read_only=read_only and moving.engine(read_only))
    moving.on()
    green = replace(moving, "green")
    if nights == 2:
        moving.off()
        selector.check()
        moving.on()
    old = replace(moving, "rw")
    moving.off()
    write(moving)
    assert [which(moving), which(moving, "replica")] == ["rw", "rw"]
    assert len(guard.gates(old)) == 1  # each one is asked at each checkout
    with pytest.raises(ReadOnlyError, match="was replaced"):
        green.connect()
    with old.connect() as connection:
        connection.execute(text("delete from book"))
        moving.on()
        selector.check()
        with pytest.raises(ReadOnlyError, match="went on after its grace"):
            connection.commit()


# -- what becomes of the old -----------------------------------------------------------------


def test_a_replaced_engine_gives_out_no_connection_until_the_selector_is_closed(
    moving: App,
) -> None:
    selector = start(moving)
    old = moving.engines["rw"]
    cache: Any = old._compiled_cache
    assert (which(moving), len(cache)) == ("rw", 1)
    night(moving, "green")
    assert len(cache) == 0
    for _ in range(2):
        with pytest.raises(ReadOnlyError, match=r"its engine was replaced by EngineSelector\.repl"):
            old.connect()
        night(moving, "green")
    with pytest.raises(ReadOnlyError, match="was replaced"):
        old.raw_connection()
    selector.close()
    with old.begin() as connection:
        connection.execute(text("insert into book (title) values ('by hand')"))
    assert moving.titles("rw") == ["by hand"]


@pytest.mark.parametrize("level", [None, "AUTOCOMMIT"])
def test_a_connection_that_is_held_over_the_night_begins_nothing_on_the_old_database(
    moving: App, level: Any
) -> None:
    start(moving)
    options = {} if level is None else {"isolation_level": level}
    with moving.engines["rw"].connect().execution_options(**options) as connection:
        connection.execute(text("insert into book (title) values ('before')"))
        connection.commit()
        night(moving, "green")
        with pytest.raises(ReadOnlyError, match="was replaced"):
            connection.execute(text("insert into book (title) values ('after')"))
    assert moving.titles("rw") == ["before"]


def test_a_transaction_keeps_the_connection_that_it_has(moving: App) -> None:
    start(moving)
    with moving.sessions() as session:
        session.add(Book(title="begun before"))
        session.flush()
        moving.on()
        replace(moving, "green")
        session.commit()
    assert moving.titles("rw") == ["begun before"]
    moving.off()


def test_what_the_old_engine_has_in_use_is_counted_until_it_is_closed(moving: App) -> None:
    selector = start(moving, workers=moving.path.parent / "workers")
    session = moving.sessions()
    session.add(Book(title="begun before"))
    session.flush()
    moving.on()
    replace(moving, "green")
    report: Any = selector.report()
    assert report.report.connections == 1
    assert report.report.engines["read_write.primary"] == (0, 0, 1)
    session.commit()
    session.close()
    selector.check()
    report = selector.report()
    assert report.report.connections == 0
    moving.off()
    write(moving)
    assert selector.report().report.engines["read_write.primary"] == (0, 1, 0)  # type: ignore[union-attr]


def test_a_read_that_goes_on_over_the_flip_back_keeps_the_old_twin(moving: App) -> None:
    start(moving)
    moving.on()
    replace(moving, "green")
    with moving.sessions() as session:
        assert session.scalar(WHICH) == "rw"
        twin: Any = session.get_bind()
        with twin.connect():
            pass
        pool, ledger = twin.pool, twin.pool._sa_readonly.ledger
        assert pool.checkedin() == 1
        moving.off()
        assert which(moving) == "green"
        assert pool.checkedin() == 0
        assert session.scalar(WHICH) == "rw"
        with pytest.raises(ReadOnlyError, match="the transaction began while the"):
            session.execute(text("delete from book"))
    assert [pool.checkedout(), ledger.connections] == [0, {}]


def test_an_engine_that_another_selector_has_goes_on_there(moving: App) -> None:
    start(moving)
    old = moving.engines["rw"]
    with EngineSelector(moving.selector.switch, read_write=old, workers=False) as other:
        night(moving, "green")
        assert [which(moving), other.engine()] == ["green", old]
        for _ in range(2):
            with old.begin() as connection:
                assert connection.scalar(WHICH) == "rw"
            moving.on()
            with pytest.raises(ReadOnlyError, match="upgrade"):
                old.connect()
            moving.off()
            other.check()
        moving.on()
        other.replace(read_write=moving.engine("other"))
        moving.off()
        assert [which(moving), other.engine()] == ["green", moving.engines["other"]]
        with pytest.raises(ReadOnlyError, match="was replaced"):  # by both of them
            old.connect()
        moving.on()
        other.replace(read_write=old)
        moving.selector.close()  # it gives back what it has replaced, which the other one has
        other.replace(read_write=moving.engines["other"])
        moving.off()
        other.check()
        with pytest.raises(ReadOnlyError, match="was replaced"):
            old.connect()


# -- what is new -----------------------------------------------------------------------------


def test_a_new_engine_is_gated_at_once_and_what_it_has_idle_is_closed(moving: App) -> None:
    start(moving)
    green = moving.engine("green")
    with green.connect():
        pass
    pool: Any = green.pool
    assert pool.checkedin() == 1
    moving.on()
    replace(moving, "green")
    assert [pool.checkedin(), Door.of(green).connections] == [0, 0]
    with pytest.raises(ReadOnlyError, match="upgrade"):
        green.connect()


def test_closing_the_selector_gives_all_engines_back(moving: App) -> None:
    engines = [moving.engine(name) for name in ("rw", "other", "green")]
    classes = [type(engine.dialect) for engine in engines]
    selector = start(moving)
    moving.on()
    replace(moving, "other")
    replace(moving, "green")
    selector.close()
    assert [type(engine.dialect) for engine in engines] == classes
    for engine in engines:
        with engine.begin() as connection:
            connection.execute(text("insert into book (title) values ('x')"))


# -- what is refused -------------------------------------------------------------------------


def test_nothing_is_replaced_while_it_is_read_write(moving: App) -> None:
    start(moving)
    green = moving.engine("green")
    with pytest.raises(InvalidRequestError, match=r"it is read-write by its switch. Turn the ap"):
        moving.selector.replace(read_write=green)
    assert guard.gates(green) == ()
    assert which(moving) == "rw"


WRONG: dict[str, tuple[Callable[[App], Any], str]] = {
    "no engine": (lambda app: str(app.path), r"EngineSelector.replace\(read_write=...\) takes"),
    "an engine of the other kind": (
        lambda app: create_async_engine(f"sqlite+aiosqlite:///{app.path}"),
        "kind that the selector has, which is sync, and read_write.primary is an AsyncEngine",
    ),
    "the read-only engine": (
        lambda app: app.engines["ro"],
        r"read_write.primary and read_only.primary are the same engine",
    ),
    "the replica as primary": (
        lambda app: app.engines["other"],
        "read_write.primary is a read-only engine of an EngineSelector, as a replica is",
    ),
    "the primary as replica": (
        lambda app: Engines(app.engine("green"), app.engines["rw"]),
        "read_write.replica is the read-write primary of an EngineSelector",
    ),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_engines_that_make_no_sense_are_refused_and_all_stays_as_it_was(
    moving: App, wrong: str
) -> None:
    need("aiosqlite")
    rw = Engines(moving.engine("rw"), moving.engine("other"))
    start(moving, read_write=rw, read_only=moving.engine("ro"))
    moving.on()
    engine, message = WRONG[wrong]
    with pytest.raises(ConfigurationError, match=message):
        moving.selector.replace(read_write=engine(moving))
    assert which(moving) == "ro"
    moving.off()
    write(moving)
    assert [which(moving, "replica"), moving.titles("rw")] == ["other", ["new"]]


# -- at the same time ------------------------------------------------------------------------


class Meanwhile(FileSwitch):
    """Does something in the middle of a replacement, before it is under the lock, and after."""

    meanwhile: Callable[[], object] | None = None
    afterwards: Callable[[], object] | None = None

    def subscribe(self, gate: Any, flipped: Any) -> Any:
        if self.meanwhile is not None:
            self.meanwhile()
        unsubscribe = super().subscribe(gate, flipped)
        if self.afterwards is not None:
            self.afterwards()
        return unsubscribe


def start_meanwhile(
    app: App,
    meanwhile: Callable[[], object] | None = None,
    afterwards: Callable[[], object] | None = None,
) -> EngineSelector:
    switch = Meanwhile(app.path, ttl=0)
    app.selector = EngineSelector(switch, read_write=app.engine("rw"), watch=False)
    app.sessions = sessionmaker(app.selector, class_=RoutingSession)
    app.on()
    app.selector.check()
    switch.meanwhile, switch.afterwards = meanwhile, afterwards
    return app.selector  # type: ignore[no-any-return]  # App has it as Any


def test_a_flip_back_that_comes_first_leaves_the_old_engines_in_place(moving: App) -> None:
    def flip_back() -> None:
        moving.off()
        in_thread(moving.selector.check)

    selector = start_meanwhile(moving, flip_back)
    green = moving.engine("green")
    with pytest.raises(InvalidRequestError, match="it is read-write"):
        selector.replace(read_write=green)
    assert guard.gates(green) == ()
    with green.connect():
        write(moving)
    assert moving.titles("rw") == ["new"]
    assert list(selector._engines.values()).count(green) == 0


def test_a_process_that_is_drained_stays_so_while_engines_are_replaced(moving: App) -> None:
    told: list[Any] = []

    def tell() -> None:
        report: Any = moving.selector.report().report
        told.append((report.generation, report.connections))

    selector = start_meanwhile(moving, tell, tell)
    selector.replace(read_write=moving.engine("green"))
    assert told == [(selector.state.generation, 0)] * 2


def test_what_fails_in_the_end_leaves_the_old_engines_in_place(moving: App) -> None:
    selector = start_meanwhile(moving, afterwards=lambda: 1 / 0)
    green = moving.engine("green")
    with pytest.raises(ZeroDivisionError) as caught:
        selector.replace(read_write=green)
    assert guard.gates(green) == ()
    moving.off()
    write(moving)
    assert caught.tb is not None  # by it the engines of the failed call are still alive
    assert [which(moving), moving.titles("rw")] == ["rw", ["new"]]


def test_engines_whose_joining_was_interrupted_leave_the_worker(moving: App) -> None:
    selector = start(moving, workers=True)
    new = GuardedEngines(selector.switch, {"read_write.primary": moving.engine("green")})
    worker: Any = selector._worker
    worker.counts.members[new] = False  # as far as it came
    worker.leave(new)
    new.release()
    assert list(worker.counts.members) == [selector._guarded]


def test_a_selector_that_is_closed_meanwhile_gives_the_new_engines_back_too(moving: App) -> None:
    closing: list[threading.Thread] = []

    def close() -> None:
        closing.append(threading.Thread(target=moving.selector.close))
        closing[0].start()

    selector = start_meanwhile(moving, close)
    green = moving.engine("green")
    selector.replace(read_write=green)
    closing[0].join(10)
    assert [guard.gates(engine) for engine in (green, moving.engines["rw"])] == [(), ()]
    with green.connect():
        pass
    with pytest.raises(InvalidRequestError, match="is closed"):
        selector.replace(read_write=green)
    assert guard.gates(green) == ()


def test_a_callback_at_the_flip_may_replace_the_engines(moving: App) -> None:
    start(moving, workers=True)
    green = moving.engine("green")

    @moving.selector.on_flip  # type: ignore[untyped-decorator]  # App has it as Any
    def flipped(_old: Any, new: Any) -> None:
        if new.read_only:
            moving.selector.replace(read_write=green)

    write(moving, "before")
    moving.on()
    moving.selector.check()
    moving.off()
    write(moving)
    assert [moving.titles("rw"), moving.titles("green")] == [["before"], ["new"]]


def test_a_pool_that_cannot_be_made_anew_keeps_no_callback_from_being_called(
    moving: App, caplog: pytest.LogCaptureFixture
) -> None:
    class Pool(QueuePool):
        broken = False

        def recreate(self) -> Any:
            return 1 / 0 if self.broken else super().recreate()

    start(moving, read_write=moving.engine("rw", poolclass=Pool))
    told: list[Any] = []
    moving.selector.on_flip(lambda _, new: told.append(new.read_only))
    moving.on()
    assert which(moving) == "rw"
    replace(moving, "green")
    pool = moving.selector.engine().pool  # the twin's, which is left at the flip back
    pool.broken = True
    moving.off()
    assert [which(moving), told] == ["green", [True, False]]
    assert "What was to be done after a flip failed." in caplog.text
    pool.broken = False


def test_a_test_that_dictates_the_mode_may_replace_the_engines(moving: App) -> None:
    selector = start(moving)
    with read_only(selector):
        replace(moving, "green")
        assert which(moving) == "rw"
    assert which(moving) == "green"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_has_what_was_replaced_before_the_fork(moving: App) -> None:
    start(moving)
    moving.on()
    replace(moving, "green")

    def child() -> None:
        assert which(moving) == "rw"
        moving.off()
        moving.selector.check()
        write(moving)
        with pytest.raises(ReadOnlyError, match="was replaced"):
            moving.engines["rw"].connect()

    in_child(child)
    assert moving.titles("green") == ["new"]


# -- async -----------------------------------------------------------------------------------


def test_async_engines_are_replaced_and_known_to_sessions(moving: App) -> None:
    need("aiosqlite")

    def engine(name: str) -> Any:
        return create_async_engine(moving.urls[name].set(drivername="sqlite+aiosqlite"))

    async def run() -> None:
        engines = [engine(name) for name in ("rw", "green")]
        switch = FileSwitch(moving.path, ttl=0)
        async with EngineSelector(switch, read_write=engines[0], workers=False) as selector:
            factory = async_sessionmaker(selector, sync_session_class=RoutingSession)
            async with factory() as session:  # one that is used in both times
                assert await session.scalar(WHICH) == "rw"
                await session.rollback()
                moving.on()
                with pytest.raises(ConfigurationError, match="which is async"):
                    selector.replace(read_write=create_engine(moving.urls["green"]))
                selector.replace(read_write=engines[1])
                assert await session.scalar(WHICH) == "rw"
                await session.rollback()
                ledger = selector.engine().pool._sa_readonly.ledger
                assert len(ledger.connections) == 1
                moving.off()
                assert await session.scalar(WHICH) == "green"
                assert session.get_bind() is engines[1].sync_engine
                if hasattr(session, "get_async_bind"):  # SQLAlchemy 2.0 has none
                    assert session.get_async_bind() is engines[1]
            assert selector.engine() is engines[1]
            await asyncio.wait_for(becomes_empty(ledger.connections), SECONDS)
            with pytest.raises(ReadOnlyError, match="was replaced"):
                await engines[0].connect()
        for one in engines:
            await one.dispose()

    asyncio.run(run())


def test_an_engine_of_a_class_that_cannot_wrap_a_twin_is_given_back(moving: App) -> None:
    need("aiosqlite")

    class Labelled(AsyncEngine):
        def __init__(self, sync_engine: Engine, _label: str) -> None:
            super().__init__(sync_engine)

    rw, green = (
        create_async_engine(moving.urls[name].set(drivername="sqlite+aiosqlite"))
        for name in ("rw", "green")
    )
    moving.on()
    switch = FileSwitch(moving.path, ttl=0)
    with EngineSelector(switch, read_write=rw, workers=False, watch=False) as selector:
        with pytest.raises(TypeError, match="_label"):
            selector.replace(read_write=Labelled(green.sync_engine, "green"))
        assert guard.gates(green.sync_engine) == ()
        assert not Door.of(green.sync_engine).is_shut


async def becomes_empty(connections: Any) -> None:
    while connections:  # the old twin's, which the loop closes
        await asyncio.sleep(0)
