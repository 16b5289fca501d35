"""What the engines by URL of one file share, and what many of them leave behind."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable
from operator import le, lt
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.event import registry
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sa_readonly import (
    FileSwitch,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    forks,
    oneswitch,
    testing,
    wsgi,
)
from sa_readonly.rehearsal import notes
from sa_readonly.workers import worker
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.status import take
from tests.app import LONG, longer, need
from tests.by_url import nothing_lingers, shared_of
from tests.postgres import wait_until
from tests.switches import BOUND, in_child
from tests.test_calls import calls

__all__ = ["nothing_lingers"]

MANY = 10_000 if LONG else 300


def by_url(place: Path, name: str = "one", **query: str) -> Engine:
    url = f"sqlite:///{place}/{name}.db?plugin=sa_readonly&sa_readonly_file={place}/read-only.txt"
    options = "".join(f"&{key}={value}" for key, value in query.items())
    return create_engine(url + options, poolclass=NullPool)


def use(engine: Engine, statement: str = "select 1") -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def entries(place: Path) -> list[str]:
    found = Path(f"{place}/read-only.txt.workers")
    return sorted(one.name for one in found.iterdir()) if found.exists() else []


def test_engines_of_one_switch_share_a_switch_a_thread_and_an_entry(place: Path) -> None:
    before = set(threading.enumerate())  # other tests' may linger
    engines = [by_url(place, name) for name in ("one", "two", "two")]
    for engine in engines:
        use(engine)
    assert len({shared_of(engine) for engine in engines}) == 1
    assert sum(name.endswith(".lock") for name in entries(place)) == 1
    assert len(set(threading.enumerate()) - before) == 1


@pytest.mark.parametrize("meanwhile", ["the first look", "the end of another"])
def test_a_loop_goes_on_while_its_engine_begins(
    place: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    need("aiosqlite")
    reached, go_on = threading.Event(), threading.Event()
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{place}/one.db?plugin=sa_readonly"
        f"&sa_readonly_file={place}/read-only.txt"
    )

    def hang() -> None:
        reached.set()
        assert go_on.wait(BOUND)

    examine = FileSwitch._examine

    def slow(self: FileSwitch) -> Any:
        hang()
        return examine(self)

    def leaving() -> None:
        with shared_of(engine.sync_engine)._joining():  # the thread of the worker has it so
            hang()

    async def connect() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("select 1"))

    async def go() -> None:
        other = None
        if meanwhile == "the first look":
            monkeypatch.setattr(FileSwitch, "_examine", slow)
        else:
            other = asyncio.create_task(asyncio.to_thread(leaving))
            await asyncio.to_thread(reached.wait, BOUND)
        task = asyncio.create_task(connect())
        await asyncio.sleep(0)  # it begins
        await asyncio.to_thread(reached.wait, BOUND)
        go_on.set()
        await task
        if other is not None:
            await other
        await engine.dispose()

    asyncio.run(go())


def test_each_has_its_own_grace(place: Path) -> None:
    short, long = by_url(place, sa_readonly_grace="0"), by_url(place, sa_readonly_grace="60")
    use(short, "create table thing (name)")
    with short.connect() as one, long.connect() as two:
        one.execute(text("select * from thing"))
        two.execute(text("select * from thing"))
        Path(f"{place}/read-only.txt").touch()
        shared_of(short).switch.check()
        with pytest.raises(ReadOnlyError, match="after its grace"):
            one.execute(text("insert into thing values (1)"))
        two.execute(text("insert into thing values (2)"))
        two.commit()
    with short.connect() as connection:
        assert connection.scalars(text("select name from thing")).all() == [2]


def test_an_engine_that_begins_while_read_only_begins_read_only(place: Path) -> None:
    first, second = by_url(place), by_url(place)
    use(first, "create table thing (name)")
    Path(f"{place}/read-only.txt").touch()
    shared_of(first).switch.check()
    with pytest.raises(ReadOnlyError):
        use(second, "insert into thing values (1)")
    counted = worker.worker_of(shared_of(first).switch).counts
    assert counted.connections(shared_of(first).switch.known) == (True, 0)
    Path(f"{place}/read-only.txt").unlink()
    shared_of(first).switch.check()
    use(second, "insert into thing values (1)")


def test_a_process_is_counted_with_all_that_its_engines_hold(place: Path) -> None:
    engines = [by_url(place) for _ in range(3)]
    held = [engine.connect() for engine in engines[:2]]
    outlives = engines[2].raw_connection()
    shared, directory = shared_of(engines[0]), DirectoryRegistry(f"{place}/read-only.txt.workers")
    del engines[2]
    gc.collect()
    Path(f"{place}/read-only.txt").touch()
    shared.switch.check()
    counted = worker.worker_of(shared.switch).counts
    assert counted.connections(shared.switch.known) == (True, 3)
    for connection in held:
        connection.close()
    assert counted.connections(shared.switch.known) == (True, 1)
    worker.worker_of(shared.switch).due()
    assert drained_in(shared, directory) == [False]
    outlives.close()
    worker.worker_of(shared.switch).due()
    assert drained_in(shared, directory) == [True]


@pytest.mark.parametrize("server", ["sqlite", "postgresql"])
@pytest.mark.parametrize("detaches", [False, True])
def test_a_drivers_connection_is_counted_that_outlives_all_that_was_around_it(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    place: Path,
    server: str,
    detaches: bool,
) -> None:
    file = place / "read-only.txt"
    query = {"plugin": "sa_readonly", "sa_readonly_file": str(file)}
    url = make_url(f"sqlite:///{place}/one.db")
    if server == "postgresql":
        url = request.getfixturevalue("pg_pair").read_write
    engine = create_engine(url.update_query_dict(query))
    shared, around = shared_of(engine), engine.raw_connection()
    kept = around.driver_connection
    assert kept is not None
    if detaches:
        around.detach()
    del engine, around
    gc.collect()
    assert shared.doors == []
    here = worker.worker_of(shared.switch)

    def in_use() -> int:
        memory: Any = here.counts.trace.memory
        return bytes(memory[:1024]).count(1)

    assert in_use() == 1, "it may be in use where it ends"
    file.touch()
    shared.switch.check()
    assert here.counts.connections(shared.switch.known) == (False, 1)
    kept.cursor().execute("select 1")
    monkeypatch.setattr(oneswitch, "LINGER", 0.0)
    shared.rest()
    shared.rest()
    assert shared._leave is not None, "it is told of as long as it counts"
    kept.close()
    del kept
    assert here.counts.connections(shared.switch.known) == (True, 0)
    assert in_use() == 1, "it may have been given up in the middle of a statement"


def drained_in(shared: Any, directory: DirectoryRegistry) -> list[bool]:
    return [one.drained for one in take(shared.switch, directory).workers]


def leftovers() -> tuple[int, ...]:
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    listeners = len(registry._key_to_collection)
    hooks = sum(len(methods) for methods in forks._ALL)
    tables = len(oneswitch._switches) + len(worker._workers)
    return descriptors, listeners, hooks, tables, threading.active_count()


@longer
def test_engines_that_were_dropped_leave_nothing_behind(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(create_engine(f"sqlite:///{place}/one.db", poolclass=NullPool))
    before = leftovers()
    for number in range(MANY):
        engine = by_url(place)
        if number % 10 == 0:
            use(engine)
    gc.collect()
    use(engine)
    shared, gone = shared_of(engine), weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None, "nothing holds it"
    assert entries(place), "it lingers"
    monkeypatch.setattr(oneswitch, "LINGER", 0.0)
    del shared
    wait_until(lambda: entries(place) == [], "the entry to go")
    wait_until(lambda: all(map(le, leftovers(), before)), "the rest to go")
    again = by_url(place)
    use(again)
    assert len(entries(place)) == 2, "it registers anew"


def test_an_engine_that_can_not_be_turned_keeps_no_other_from_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [by_url(place) for _ in range(3)]
    for engine in engines:
        use(engine)
    shared = shared_of(engines[0])

    def fail(_: object) -> None:
        raise RuntimeError("it can't be turned")

    monkeypatch.setattr(shared._alive()[0], "turn", fail)
    Path(f"{place}/read-only.txt").touch()
    assert shared.switch.check().read_only
    assert [door.is_shut for door in shared.doors] == [False, True, True]
    with pytest.raises(ReadOnlyError):
        use(engines[0], "create table thing (name)")


def test_it_lingers_after_the_last_engine_also_where_some_came_unseen(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = by_url(place)
    use(engine)
    shared = shared_of(engine)
    watcher = worker.worker_of(shared.switch).watcher
    watcher.stop()
    monkeypatch.setattr(watcher, "tick", lambda: None)  # it starts again, and would rest as well
    del engine
    gc.collect()
    shared.rest()
    use(by_url(place))
    gc.collect()
    monkeypatch.setattr(oneswitch, "LINGER", 0.0)  # for which it has been empty, if it counted on
    shared.rest()
    assert entries(place)
    shared.rest()
    assert entries(place) == []


def test_an_engine_costs_hardly_more_than_a_plain_one(place: Path) -> None:
    url, file = f"sqlite:///{place}/one.db", f"{place}/read-only.txt"
    query = f"?plugin=sa_readonly&sa_readonly_file={file}"
    for counted in (calls, lines):  # a loop makes no call
        plain = counted(lambda: create_engine(url))
        assert counted(lambda: create_engine(url + query)) < 1.3 * plain
        assert (
            counted(lambda: create_engine(url, plugins=["sa_readonly"], sa_readonly_file=file))
            < 1.14 * plain
        )


def lines(work: Callable[[], object]) -> int:
    """Count the lines of Python that ``work`` runs once it is warm, each time anew in a loop."""
    number = 0

    def count(_: object, kind: str, __: object) -> Any:
        nonlocal number
        number += kind == "line"
        return count

    for _ in range(5):
        work()
    before = sys.gettrace()
    gc.disable()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return number


def test_from_its_first_connection_on_its_attributes_are_read_by_place(place: Path) -> None:
    engine = by_url(place)
    waiting = [sys.getsizeof(vars(one)) for one in (engine, engine.pool)]
    use(engine)
    used = [sys.getsizeof(vars(one)) for one in (engine, engine.pool)]
    assert all(map(lt, waiting, used)), "see classes.grow(), which an engine does not wait for"


def test_the_first_pool_of_an_engine_is_gone_after_a_dispose(place: Path) -> None:
    engine = by_url(place)
    first = weakref.ref(engine.pool)
    use(engine)
    engine.dispose()
    gc.collect()
    assert first() is None


def test_a_dispose_that_the_first_connection_overtakes_puts_nothing_in_its_place(
    place: Path,
) -> None:
    engine = by_url(place)
    made = engine.pool.recreate()  # as dispose() does, in another thread
    use(engine)
    engine.pool = made
    shared = shared_of(engine)
    (door,) = shared.doors
    with engine.connect():
        assert door.connections == 1
    Path(f"{place}/read-only.txt").touch()
    assert shared.switch.check().read_only
    assert (door.is_shut, door.connections) == (True, 0)
    use(engine)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_connects_and_registers_for_itself(place: Path) -> None:
    engine = by_url(place)
    use(engine, "create table thing (name)")
    Path(f"{place}/read-only.txt").touch()
    shared_of(engine).switch.check()
    use(engine)

    def child() -> int:
        with pytest.raises(ReadOnlyError):
            use(engine, "insert into thing values (1)")
        Path(f"{place}/read-only.txt").unlink()
        shared_of(engine).switch.check()
        use(engine, "insert into thing values (1)")
        return len(entries(place))

    assert in_child(child) == 4


def test_a_middleware_and_a_test_take_such_an_engine(place: Path) -> None:
    engine = by_url(place)
    middleware = wsgi.ReadOnlyMiddleware(lambda *_: [b"served"], engine)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/-/read-only"}
    told: list[str] = []
    page = b"".join(middleware(environ, lambda status, *_: told.append(status)))
    assert told == ["200 OK"]
    assert b"read-write" in page
    assert len(entries(place)) == 2, "it registers before it connects"
    with testing.read_only(engine):
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/"}
        b"".join(middleware(environ, lambda status, *_: told.append(status)))
        with pytest.raises(ReadOnlyError):
            use(engine, "create table thing (name)")
    use(engine, "create table thing (name)")


def test_what_a_middleware_and_a_test_asked_goes_with_them(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oneswitch, "LINGER", 0.0)
    engine = by_url(place)
    with testing.read_write(engine):
        assert shared_of(engine)._leave is None, "a test registers nothing"
    middleware = wsgi.ReadOnlyMiddleware(lambda *_: [], engine)
    use(engine)
    shared = shared_of(engine)
    del engine
    gc.collect()
    shared.rest()
    shared.rest()
    assert entries(place)
    del middleware
    gc.collect()
    wait_until(lambda: entries(place) == [], "the entry to go")


def fixed() -> FixedSwitch:
    return FixedSwitch(Mode.READ_WRITE)


TABLES: dict[str, tuple[Any, str, Any, Any]] = {
    "workers": (worker, "_workers", worker.worker_of, weakref.WeakKeyDictionary),
    "notebooks": (notes, "_notebooks", notes.notebook_of, weakref.WeakKeyDictionary),
    "switches": (
        oneswitch,
        "_switches",
        lambda name: oneswitch._find(name, lambda: oneswitch.OneSwitch(fixed, None, None)),
        weakref.WeakValueDictionary,
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_what_is_shared_is_found_once_where_a_garbage_collection_leads_there_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, table, find, kind = TABLES[name]
    found: list[Any] = []

    class Collected(kind):  # type: ignore[misc]  # one of two classes
        def get(self, key: Any, default: Any = None) -> Any:
            there = super().get(key, default)
            if not found:  # as the finalizer of a selector comes here
                found.append(None)
                found[0] = find(key)
            return there

    monkeypatch.setattr(module, table, Collected())
    switch = fixed()
    thread = threading.Thread(target=lambda: found.append(find(switch)), daemon=True)
    thread.start()
    thread.join(BOUND)
    assert not thread.is_alive()
    assert found[0] is found[1]
    assert found[0] is not None
