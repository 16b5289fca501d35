"""This process as a worker: what it registers and reports, and when."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, text
from sqlalchemy.pool import AssertionPool, NullPool, SingletonThreadPool, StaticPool

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    guard,
)
from sa_readonly.directory import DirectoryRegistry
from sa_readonly.workers import Connections, Liveness, RegistryError, Seen, Verdict, look
from tests.app import WHICH, App, Book, make_app
from tests.postgres import wait_until
from tests.test_watcher import in_child

if not hasattr(os, "fork"):
    pytest.skip("directories of workers need POSIX", allow_module_level=True)


def registry(app: App) -> DirectoryRegistry:
    return DirectoryRegistry(f"{app.path}.workers")


def read(app: App) -> str:
    with app.sessions() as session:
        return str(session.scalar(WHICH))


def one(app: App) -> Seen:
    (entry,) = registry(app).read()
    return entry


def verdict(app: App, mode: Mode = Mode.READ_ONLY) -> Verdict:
    return look(app.selector.switch.identify, registry(app), mode)


def whys(app: App) -> list[str]:
    return [why for _, why in verdict(app).waiting]


# -- registering -----------------------------------------------------------------------------


def test_a_process_registers_at_its_first_transaction_and_not_before(lite: App) -> None:
    lite.start()
    assert not Path(f"{lite.path}.workers").exists()
    read(lite)
    entry = one(lite)
    assert (entry.liveness, entry.pid) == (Liveness.ALIVE, os.getpid())
    assert entry.report is not None
    assert entry.report.mode is Mode.READ_WRITE


def test_a_process_registers_before_its_first_look(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=3600)
    register = DirectoryRegistry.register

    def registered(self: DirectoryRegistry, identify: Any) -> Any:
        entry = register(self, identify)
        lite.on()  # the operator is faster than the look that follows
        return entry

    monkeypatch.setattr(DirectoryRegistry, "register", registered)
    assert read(lite) == "ro"


def test_who_connects_past_the_selector_is_registered_too(lite: App) -> None:
    lite.start(ttl=3600)
    with lite.engines["rw"].connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        assert one(lite).liveness is Liveness.ALIVE


def test_a_connection_that_finds_the_file_when_it_registers_is_refused(lite: App) -> None:
    lite.start(ttl=3600)
    lite.on()
    with pytest.raises(ReadOnlyError):
        lite.engines["rw"].connect()
    assert verdict(lite).holds


def test_a_forked_child_registers_for_itself_at_its_first_transaction(lite: App) -> None:
    lite.start(ttl=3600)
    read(lite)

    def child() -> None:
        assert [entry.pid for entry in registry(lite).read()] == [os.getppid()]
        assert read(lite) == "rw"
        pids = {entry.pid for entry in registry(lite).read()}
        assert pids == {os.getpid(), os.getppid()}

    in_child(child)
    assert {entry.liveness for entry in registry(lite).read()} == {Liveness.ALIVE, Liveness.DEAD}


def test_a_forked_child_registers_where_no_hooks_ran(lite: App) -> None:
    lite.start(ttl=3600)
    read(lite)
    worker = lite.selector._worker

    def child() -> None:
        # As under uWSGI: the answer of the parent is still fresh, and its pool is there.
        lite.selector.switch.fresh_until = time.monotonic() + 3600
        worker._begun = True
        lite.engines["rw"].dispose(close=False)
        with lite.engines["rw"].connect() as connection:
            assert connection.scalar(WHICH) == "rw"
        assert os.getpid() in {entry.pid for entry in registry(lite).read()}

    in_child(child)


def test_a_forked_child_begins_without_its_parents_connections(app: App) -> None:
    app.start(ttl=3600)
    read(app)
    parents = app.engines["rw"].pool

    def child() -> None:
        assert app.engines["rw"].pool is not parents
        assert read(app) == "rw"
        entry = next(entry for entry in registry(app).read() if entry.pid == os.getpid())
        assert entry.report is not None
        app.on()
        app.selector.check()
        assert app.selector._worker._report(app.selector.switch).connections == 0

    in_child(child)
    app.off()
    assert app.engines["rw"].pool is parents
    assert read(app) == "rw"


def test_selectors_with_one_switch_share_one_entry(lite: App) -> None:
    lite.start()
    second = EngineSelector(lite.selector.switch, read_write=lite.engine("two"), watch=False)
    read(lite)
    assert second.mode is Mode.READ_WRITE
    with second.engine().connect() as connection:
        connection.execute(text("select 1"))
        lite.on()
        second.check()
        assert one(lite).report is not None
        assert whys(lite) == ["1 connection out since 0 s, no watcher thread runs there"]
    second.check()
    assert verdict(lite).holds
    lite.selector.close()
    assert one(lite).liveness is Liveness.ALIVE
    second.close()
    assert registry(lite).read() == []


@pytest.fixture
def lite(lite: App) -> App:
    lite.urls["two"] = lite.urls["rw"].set(database=str(lite.path.parent / "two.db"))
    return lite


def test_selectors_with_one_switch_must_report_to_one_place(lite: App) -> None:
    lite.start()
    message = (
        r"EngineSelector\(workers=\.\.\.\) differs from that of another selector with the same "
        r"switch, with which it shares one entry\. Give the same to both\."
    )
    with pytest.raises(ConfigurationError, match=message):
        EngineSelector(lite.selector.switch, read_write=lite.engine("two"), workers=False)
    assert lite.engines["two"].connect().scalar(text("select 1")) == 1


def test_closing_the_selector_removes_the_entry(lite: App) -> None:
    lite.start()
    read(lite)
    lite.selector.close()
    assert registry(lite).read() == []


def test_a_selector_that_is_closed_over_a_transaction_leaves_its_entry(lite: App) -> None:
    lite.start()
    with lite.engines["rw"].connect() as connection:
        connection.scalar(WHICH)
        lite.selector.close()
    assert one(lite).liveness is Liveness.ALIVE
    lite.on()
    assert whys(lite) == ["has not noticed, no watcher thread runs there"]


def test_workers_false_registers_nobody(lite: App) -> None:
    lite.start(workers=False)
    read(lite)
    assert not Path(f"{lite.path}.workers").exists()


def test_workers_may_be_another_directory(lite: App, tmp_path: Path) -> None:
    lite.start(workers=tmp_path / "elsewhere")
    read(lite)
    assert len(DirectoryRegistry(tmp_path / "elsewhere").read()) == 1


def test_a_fixed_switch_registers_nobody_even_if_that_is_required(lite: App) -> None:
    with EngineSelector(
        FixedSwitch(Mode.READ_WRITE), read_write=lite.engine("rw"), workers="required"
    ) as selector:
        with selector.engine().connect() as connection:
            assert connection.scalar(WHICH) == "rw"
        assert os.listdir(lite.path.parent) != []
    assert not [name for name in os.listdir(lite.path.parent) if name.endswith(".workers")]


@pytest.mark.parametrize("value", [None, 1, "", object()])
def test_workers_that_make_no_sense_are_refused(lite: App, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"EngineSelector\(workers\) takes True, False"):
        lite.start(workers=value)


def test_a_registry_of_the_users_own_is_taken(lite: App) -> None:
    calls: list[str] = []

    class Entry:
        def ensure(self) -> bool:
            return False

        def closed(self) -> None:
            calls.append("closed")

        def report(self, snapshot: Any) -> bool:
            calls.append(str(snapshot().mode))
            return True

        def withdraw(self) -> None:
            calls.append("withdraw")

        def close(self) -> None:
            calls.append("close")

    class Registry:
        def register(self, identify: Any) -> Entry:
            calls.append(f"register {identify()}")
            return Entry()

        def sweep(self, identify: Any) -> None:
            pass

        def read(self) -> list[Seen]:
            return []

    lite.start(ttl=3600, workers=Registry())
    read(lite)
    lite.on()
    lite.selector.check()
    lite.off()
    lite.selector.check()
    lite.selector.close()
    order = list(dict.fromkeys(calls))
    assert order == ["register None", "read-write", "closed", "read-only", "withdraw", "close"]


def test_who_has_died_is_swept_now_and_then_by_who_lives(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start()
    read(lite)
    in_child(lambda: read(lite))
    assert len(registry(lite).read()) == 2
    read(lite)
    assert len(registry(lite).read()) == 2
    later = time.monotonic() + 301
    monkeypatch.setattr(time, "monotonic", lambda: later)
    lite.on()
    read(lite)
    assert len(registry(lite).read()) == 2  # it may have died after the file had appeared
    lite.off()
    read(lite)
    assert one(lite).pid == os.getpid()


# -- what was found by a review --------------------------------------------------------------


def test_what_was_connected_before_the_selector_was_made_counts(app: App) -> None:
    with app.engine("rw").connect() as connection:
        connection.scalar(WHICH)
        app.start()
        app.on()
        app.selector.check()
        assert whys(app) == ["1 connection out since 0 s, no watcher thread runs there"]
    app.selector.check()
    assert verdict(app).holds


@pytest.mark.parametrize("poolclass", [AssertionPool, SingletonThreadPool])
def test_a_pool_that_keeps_one_connection_does_not_keep_the_entry(
    lite: App, poolclass: Any
) -> None:
    lite.engine("rw", poolclass=poolclass)
    lite.start()
    read(lite)
    lite.selector.close()
    assert registry(lite).read() == []


def test_a_static_pool_that_is_no_database_in_memory_is_never_drained(lite: App) -> None:
    lite.engine("rw", poolclass=StaticPool)
    lite.start()
    read(lite)
    lite.on()
    read(lite)
    assert whys(lite) == ["1 connection out since 0 s, no watcher thread runs there"]


def test_a_selector_closed_over_a_transaction_keeps_the_other_from_being_drained(
    lite: App,
) -> None:
    lite.start()
    second = EngineSelector(lite.selector.switch, read_write=lite.engine("two"), watch=False)
    read(lite)
    with lite.engines["rw"].connect() as connection:
        connection.scalar(WHICH)
        lite.selector.close()
        lite.on()
        second.check()
        assert whys_of(lite, second) == ["has not noticed, no watcher thread runs there"]
    lite.engines["rw"].dispose()
    second.check()
    assert whys_of(lite, second) == []
    second.close()


def whys_of(app: App, selector: EngineSelector) -> list[str]:
    identify = selector.switch.identify
    return [why for _, why in look(identify, registry(app)).waiting]


def test_a_selector_without_workers_is_not_barred_by_one_that_is_closed(lite: App) -> None:
    lite.start(workers="required")
    switch = lite.selector.switch
    with unusable(lite):
        assert read(lite) == "ro"
        lite.selector.close()
        with (
            EngineSelector(
                switch, read_write=lite.engines["rw"], workers=False, watch=False
            ) as second,
            second.engine().begin() as connection,
        ):
            assert connection.scalar(WHICH) == "rw"


def test_where_no_thread_can_be_started_each_transaction_looks_for_itself(
    lite: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: object) -> None:
        raise RuntimeError("can't start new thread")

    lite.start(ttl=0, watch=True)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        assert [read(lite), read(lite)] == ["rw", "rw"]
        lite.on()
        assert read(lite) == "ro"
        assert verdict(lite).holds
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.getMessage() for one in errors] == [
        "No thread can watch for a flip (can't start new thread)."
    ]
    lite.off()
    read(lite)
    assert lite.selector._worker.watcher.running
    lite.selector.close()


def test_a_callback_that_exits_does_not_end_the_thread(lite: App) -> None:
    lite.start(ttl=0.02, watch=True)
    read(lite)
    called = threading.Event()

    @lite.selector.on_flip
    def leave(_old: object, _new: object) -> None:
        called.set()
        sys.exit(3)

    lite.on()
    assert called.wait(10)
    wait_until(lambda: verdict(lite).holds, "drained")
    assert lite.selector._worker.watcher.running
    lite.selector.close()


def test_a_refusal_inside_a_refusal_is_counted(lite: App) -> None:
    lite.on()
    lite.start()
    before = signal.signal(signal.SIGUSR1, lambda *_: refused())

    def refused() -> None:
        with pytest.raises(ReadOnlyError):
            lite.selector.require_read_write()

    try:
        guard = sys.modules["sa_readonly.guard"]
        lock = guard._counting.setdefault(os.getpid(), threading.RLock())
        with lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_forked_child_may_ask_for_the_mode_though_a_gate_was_being_turned(lite: App) -> None:
    lite.start(ttl=0)
    read(lite)
    worker = lite.selector._worker
    taken, release = threading.Event(), threading.Event()

    def turn() -> None:
        with worker._turning:
            taken.set()
            release.wait(10)

    thread = threading.Thread(target=turn)
    thread.start()
    assert taken.wait(10)
    lite.on()

    def child() -> None:
        signal.alarm(10)
        assert lite.selector.switch.check().read_only

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: a thread runs at the fork
        in_child(child)
    release.set()
    thread.join()


def test_a_selector_that_is_closed_while_another_thread_registers_leaves_no_entry(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=3600)
    register, registering, go_on = DirectoryRegistry.register, threading.Event(), threading.Event()

    def slow(self: DirectoryRegistry, identify: Any) -> Any:
        entry = register(self, identify)
        registering.set()
        go_on.wait(10)
        return entry

    monkeypatch.setattr(DirectoryRegistry, "register", slow)
    thread = threading.Thread(target=lite.selector._worker.attend)
    thread.start()
    assert registering.wait(10)
    lite.selector.close()
    go_on.set()
    thread.join(10)
    assert registry(lite).read() == []


@pytest.mark.parametrize("where", ["due", "report"])
def test_an_exception_of_a_signal_handler_loses_no_lock(lite: App, where: str) -> None:
    class Interrupt(BaseException):
        pass

    lite.start()
    read(lite)
    worker = lite.selector._worker
    lock = worker._doing if where == "due" else worker._entry._locks[os.getpid()]
    real = type(lock).acquire

    class Interrupted:
        """Acquires, and then an exception comes, as between two steps."""

        def acquire(self, *args: Any, **kwargs: Any) -> bool:
            real(lock, *args, **kwargs)
            raise Interrupt

        def __getattr__(self, name: str) -> Any:
            return getattr(lock, name)

    if where == "due":
        worker._doing = Interrupted()
    else:
        worker._entry._locks[os.getpid()] = Interrupted()
    with pytest.raises(Interrupt):
        worker.due()
    worker._doing = lock if where == "due" else worker._doing
    worker._entry._locks[os.getpid()] = lock if where == "report" else threading.RLock()
    assert not lock._is_owned()
    lite.on()
    lite.selector.check()
    assert verdict(lite).holds


# -- a forced process ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forced", "expected"),
    [("read-write", ["forced to read-write"]), ("read-only", [])],
)
def test_a_forced_process_registers_and_only_one_forced_to_read_only_is_drained(
    lite: App, monkeypatch: pytest.MonkeyPatch, forced: str, expected: list[str]
) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", forced)
    lite.start(watch=True)
    assert lite.selector.mode is Mode(forced)
    read(lite)
    lite.on()
    assert whys(lite) == expected
    assert verdict(lite).holds is (not expected)
    assert threading.active_count() == 1


# -- what it says ----------------------------------------------------------------------------


def test_drained_is_said_when_the_last_connection_is_closed(app: App) -> None:
    app.start()
    with app.sessions.begin() as session:
        session.add(Book(title="before"))
        session.flush()
        app.on()
        app.selector.check()
        assert whys(app) == ["1 connection out since 0 s, no watcher thread runs there"]
    app.selector.check()
    assert verdict(app).holds
    assert app.titles("rw") == ["before"]


def test_an_idle_process_is_drained_by_its_thread(app: App) -> None:
    app.start(ttl=0.02, watch=True)
    read(app)
    app.on()
    wait_until(lambda: verdict(app).holds, "drained")
    app.off()
    wait_until(lambda: verdict(app, Mode.READ_WRITE).holds, "read-write again")
    report = one(app).report
    assert report is not None
    assert (report.flips, report.watching) == (2, True)
    app.selector.close()


def test_without_a_thread_each_transaction_sees_to_the_report(app: App) -> None:
    app.start(watch=False)
    read(app)
    app.on()
    assert read(app) == "ro"
    assert verdict(app).holds


def test_a_thread_that_stands_still_counts_for_none(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=0.02, watch=True)
    read(lite)
    watcher = lite.selector._worker.watcher
    assert watcher.alive
    monkeypatch.setattr(watcher, "look", lambda: None)  # as under uWSGI without threads
    wait_until(lambda: not watcher.alive, "a second without a look")
    assert read(lite) == "rw"
    report = one(lite).report
    assert report is not None
    assert not report.watching
    lite.on()
    wait_until(lambda: read(lite) == "ro", "the end of ttl")
    assert verdict(lite).holds
    lite.selector.close()


def test_the_report_counts_what_was_refused_and_no_read(lite: App) -> None:
    lite.start()
    lite.on()

    def refuse(work: Callable[[], object]) -> None:
        with pytest.raises(ReadOnlyError):
            work()

    def flush() -> None:
        with lite.sessions.begin() as session:
            session.add(Book(title="x"))

    refuse(flush)
    refuse(lite.selector.require_read_write)
    refuse(lite.engines["rw"].connect)
    with lite.engines["ro"].connect() as connection:
        refuse(lambda: connection.execute(text("delete from book")))
    assert read(lite) == "ro"
    lite.off()
    with lite.sessions() as session:
        session.get_bind()
        lite.on()
        assert session.scalar(WHICH) == "ro"  # it had chosen the other one
    report = lite.selector._worker._report(lite.selector.switch)
    assert report.refused == 4
    assert report.kinds == dict.fromkeys(("flush", "beforehand", "connection", "statement"), 1)


def kinds(app: App, work: Callable[[], object]) -> dict[str, int]:
    """As what it is counted that this is refused."""
    before = app.selector.report().report.kinds
    with pytest.raises(ReadOnlyError):
        work()
    after = app.selector.report().report.kinds
    return {kind: number - before.get(kind, 0) for kind, number in after.items()}


def test_each_refusal_is_counted_as_its_kind(lite: App) -> None:
    lite.start(grace=0.0)

    def write(session: Any) -> None:
        session.bulk_insert_mappings(Book, [{"title": "x"}])

    with lite.sessions() as begun, lite.engines["rw"].connect() as held:
        assert begun.scalar(WHICH) == "rw"
        lite.on()
        lite.selector.check()
        assert kinds(lite, lambda: held.scalar(WHICH)) == {"transaction": 1}
        told = kinds(lite, lambda: begun.scalar(WHICH))
        assert told == {"transaction": 0, "grace": 1}
    with lite.sessions() as session:
        assert kinds(lite, lambda: write(session))["flush"] == 1
        assert kinds(lite, lambda: session.execute(insert(Book)))["statement"] == 1
        assert kinds(lite, lambda: session.execute(text("delete from book")))["statement"] == 1
    assert kinds(lite, lite.selector.require_read_write)["beforehand"] == 1
    report = lite.selector.report().report
    assert report.refused == sum(report.kinds.values()) == 6


WRITES = """
create function writes() returns int language sql as
'insert into book (title) values (''x'') returning id'
"""


def test_what_the_server_refuses_is_counted_as_that(place: Path, pg_urls: Any) -> None:
    engine = create_engine(pg_urls["ro"], isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with make_app(place, dict(pg_urls)) as app, engine.connect() as owner:
        owner.execute(text(WRITES))
        app.on()
        app.start()
        with app.sessions() as session:
            assert kinds(app, lambda: session.execute(text("select writes()"))) == {"server": 1}
        owner.execute(text("drop function writes()"))


def test_with_required_what_is_refused_is_counted_and_what_is_served_is_not(lite: App) -> None:
    lite.start(workers="required")
    with unusable(lite):
        assert kinds(lite, lite.engines["rw"].connect) == {"unregistered": 1}
        assert read(lite) == "ro"
        assert lite.selector.report().report.kinds == {"unregistered": 1}


def test_a_count_that_was_reported_does_not_fall(lite: App) -> None:
    lite.start()
    read(lite)
    switch = lite.selector.switch
    guard.count(switch, "connection")
    assert lite.selector.report().report.refused == 1
    guard.count(switch, "connection", -1)  # it was a read, which was served
    assert lite.selector.report().report.refused == 1
    guard.count(switch, "connection")
    assert lite.selector.report().report.refused == 1


def test_a_child_counts_its_own_refusals(lite: App) -> None:
    lite.start()
    read(lite)
    lite.on()
    for _ in range(3):
        kinds(lite, lite.selector.require_read_write)

    def child() -> None:
        kinds(lite, lite.selector.require_read_write)
        assert lite.selector.report().report.kinds == {"beforehand": 1}

    in_child(child)


def test_the_watcher_reports_what_was_refused_without_being_asked(lite: App) -> None:
    lite.on()
    lite.start(ttl=0.02, watch=True)
    read(lite)
    for _ in range(5):
        kinds(lite, lite.selector.require_read_write)
    wait_until(lambda: one(lite).report.kinds == {"beforehand": 5}, "the report")


def test_the_connections_of_each_engine_are_reported(lite: App) -> None:
    lite.start()
    read(lite)
    names = ["read_write.primary", "read_only.primary", "read_write.replica"]
    engines = lite.selector.report().report.engines
    assert list(engines) == names
    assert engines["read_write.primary"] == Connections(idle=1)
    with lite.sessions() as session, lite.sessions(role="replica") as replica:
        session.scalar(WHICH)
        replica.scalar(WHICH)
        report = lite.selector.report().report
        assert report.engines == {
            "read_write.primary": Connections(in_use=1),
            "read_only.primary": Connections(),
            "read_write.replica": Connections(in_use=1),
        }
        assert report.retired is None
        before = time.time()
        lite.on()
        lite.selector.check()
        report = one(lite).report
        assert report.engines["read_write.primary"] == Connections(retired=1)
        assert report.engines["read_write.replica"] == Connections(retired=1)
        assert before <= report.retired <= time.time()
        since = report.retired
        lite.off()
        with lite.sessions() as other:
            other.scalar(WHICH)
            report = lite.selector.report().report
            assert report.engines["read_write.primary"] == Connections(in_use=1, retired=1)
            assert report.retired == since
    report = lite.selector.report().report
    assert report.engines["read_write.primary"] == Connections(idle=1)
    assert report.retired is None
    lite.on()
    read(lite)
    assert one(lite).report.engines["read_only.primary"] == Connections()
    lite.selector.check()
    assert lite.selector.report().report.engines["read_only.primary"] == Connections(idle=1)


def test_an_engine_of_several_selectors_is_counted_once(lite: App) -> None:
    lite.start()
    switch = lite.selector.switch
    with EngineSelector(
        switch, read_write=lite.engines["rw"], read_only=lite.engines["ro"], watch=False
    ):
        read(lite)
        assert lite.selector.report().report.engines["read_write.primary"] == Connections(idle=1)


def test_who_has_no_watcher_tells_what_it_refused_and_holds_all_the_same(lite: App) -> None:
    rw, ro = lite.engine("rw"), lite.engine("ro")
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=rw, read_only=ro) as selector:
        with ro.connect(), pytest.raises(ReadOnlyError):
            selector.require_read_write()
        report = selector.report().report
        assert (report.refused, report.kinds) == (1, {"beforehand": 1})
        assert report.engines["read_only.primary"] == Connections(idle=1)


def test_an_edit_of_the_file_is_acknowledged_anew(lite: App) -> None:
    lite.start()
    lite.on()
    read(lite)
    assert verdict(lite).holds
    lite.on("another reason")
    assert whys(lite) == ["has not noticed, no watcher thread runs there"]
    lite.selector.check()
    assert verdict(lite).holds


def test_a_process_that_starts_read_only_is_drained_at_once(lite: App) -> None:
    lite.on()
    lite.start()
    assert read(lite) == "ro"
    assert verdict(lite).holds


def test_the_report_is_withdrawn_before_a_door_opens(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start()
    lite.on()
    read(lite)
    (door,) = lite.selector._worker._doors()[:1]
    opened, seen = door.open, []

    def look_first(by: object) -> None:
        seen.append(one(lite).acknowledged)
        opened(by)

    lite.off()
    with monkeypatch.context() as patch:
        patch.setattr(door, "open", look_first)
        assert lite.selector.check().mode is Mode.READ_WRITE
    assert seen[-1] is False
    assert seen


def test_what_cant_be_withdrawn_keeps_the_process_read_only(
    lite: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lite.start()
    lite.on()
    read(lite)
    entry = lite.selector._worker._entry

    def fail() -> None:
        raise RegistryError("It can't be taken back.")

    with monkeypatch.context() as patch:
        patch.setattr(entry, "withdraw", fail)
        lite.off()
        assert read(lite) == "ro"
        assert "this process stays read-only for now" in caplog.text
    assert read(lite) == "rw"


# -- other processes -------------------------------------------------------------------------


@pytest.fixture
def child(lite: App) -> Iterator[Callable[..., int]]:
    """Start processes with a selector of their own, which go on until they are killed."""
    pids: list[int] = []

    def start(*, holds: bool, **options: Any) -> int:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                lite.start(**options)
                session = lite.sessions()
                session.scalar(WHICH)
                if not holds:
                    session.close()
                os.write(writing, b"ready")
                signal.pause()
            finally:
                os._exit(1)
        pids.append(pid)
        os.close(writing)
        assert os.read(reading, 5) == b"ready"
        os.close(reading)
        return pid

    yield start
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def judged(app: App) -> list[str]:
    """Judge as `wait` does, which has no selector."""
    switch = FileSwitch(app.path)
    return [why for _, why in look(switch.identify, registry(app)).waiting]


def test_who_is_killed_in_a_transaction_is_unknown(lite: App, child: Callable[..., int]) -> None:
    pid = child(holds=True, ttl=0.02, watch=True)
    lite.on()
    wait_until(lambda: judged(lite)[0].startswith("1 connection out since"), "its report")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert judged(lite) == ["unknown: died with 1 connection out"]


def test_who_is_killed_before_it_noticed_is_unknown(lite: App, child: Callable[..., int]) -> None:
    pid = child(holds=False, ttl=3600, watch=False)
    lite.on()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert judged(lite) == ["unknown: died without a word"]


def test_who_is_stopped_has_not_noticed_until_it_goes_on(
    lite: App, child: Callable[..., int]
) -> None:
    pid = child(holds=False, ttl=0.02, watch=True)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    lite.on()
    assert judged(lite) == ["has not noticed"]
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not judged(lite), "drained")
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    assert judged(lite) == []


# -- a directory that can't be used ----------------------------------------------------------


@contextlib.contextmanager
def unusable(app: App) -> Iterator[None]:
    """A file stands where the directory should be made."""
    path = Path(f"{app.path}.workers")
    if path.exists():
        shutil.rmtree(path)
    path.touch()
    try:
        yield
    finally:
        path.unlink()


def test_who_cant_register_says_so_once_and_goes_on(
    lite: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sa_readonly")
    lite.start()
    with unusable(lite):
        for _ in range(3):
            assert read(lite) == "rw"
        lite.on()
        assert read(lite) == "ro"
        lite.off()
        assert read(lite) == "rw"
        (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "can't register in" in error.getMessage()
        assert lite.selector._worker.problem == error.getMessage()
    assert read(lite) == "rw"
    assert lite.selector._worker.problem is None
    assert caplog.records[-1].getMessage() == "This process is registered, and reports again."
    lite.on()
    read(lite)
    assert verdict(lite).holds


def test_who_must_register_and_cant_reads_and_writes_nothing(lite: App) -> None:
    lite.start(workers="required")
    with unusable(lite):
        assert read(lite) == "ro"
        with pytest.raises(ReadOnlyError) as caught, lite.sessions.begin() as session:
            session.add(Book(title="x"))
        assert str(caught.value).startswith(
            'A read-write transaction is refused: workers="required", and this process is not '
            "registered. Nothing was written. This process can't register in "
        )
        with pytest.raises(ReadOnlyError):
            lite.engines["rw"].raw_connection()
    assert read(lite) == "rw"
    with lite.sessions.begin() as session:
        session.add(Book(title="y"))
    assert lite.titles("rw") == ["y"]


def test_who_must_be_registered_and_is_no_more_begins_nothing_on_a_held_connection(
    lite: App,
) -> None:
    lite.start(workers="required")
    with lite.engines["rw"].connect() as connection:
        connection.scalar(WHICH)
        connection.commit()
        with unusable(lite):
            lite.selector.check()
            with pytest.raises(ReadOnlyError, match="is not registered"):
                connection.scalar(WHICH)
        lite.selector.check()
        assert connection.scalar(WHICH) == "rw"


def test_what_is_required_needs_a_place(lite: App) -> None:
    class Switch:
        def __init__(self, inner: FileSwitch) -> None:
            self.refresh, self.check, self.subscribe = inner.refresh, inner.check, inner.subscribe
            self.known, self.fresh_until = inner.known, inner.fresh_until

    with pytest.raises(ConfigurationError, match=r'workers="required"\) needs the path of a file'):
        EngineSelector(
            Switch(FileSwitch(lite.path)), read_write=lite.engine("rw"), workers="required"
        )


# -- races, each at its step -----------------------------------------------------------------


def test_flip_and_flip_back_at_once_leaves_no_acknowledgement(lite: App) -> None:
    lite.start()
    read(lite)
    for _ in range(20):
        lite.on()
        lite.selector.check()
        first = verdict(lite).generation
        lite.off()
        lite.on()
        assert verdict(lite).generation != first
        assert whys(lite) == ["has not noticed, no watcher thread runs there"]
        lite.selector.check()
        assert verdict(lite).holds
        lite.off()
        lite.selector.check()
        assert not one(lite).acknowledged


def test_a_connection_that_is_being_made_at_the_flip_keeps_it_from_being_drained(
    app: App,
) -> None:
    making, go_on = threading.Event(), threading.Event()
    app.engine("rw")

    @event.listens_for(app.engines["rw"], "do_connect")
    def slow(*_: Any) -> None:
        making.set()
        assert go_on.wait(10)

    app.start()
    errors: list[BaseException] = []

    def connect() -> None:
        try:
            app.engines["rw"].connect()
        except ReadOnlyError as error:
            errors.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    assert making.wait(10)
    app.on()
    app.selector.check()
    assert whys(app) == ["1 connection out since 0 s, no watcher thread runs there"]
    go_on.set()
    thread.join(10)
    assert len(errors) == 1
    app.selector.check()
    assert verdict(app).holds


def test_two_threads_that_begin_at_once_register_once(lite: App) -> None:
    lite.start(ttl=3600)
    barrier = threading.Barrier(8)
    seen: list[str] = []

    def begin() -> None:
        barrier.wait(10)
        seen.append(read(lite))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == ["rw"] * 8
    assert one(lite).liveness is Liveness.ALIVE


# -- what a process tells of itself ----------------------------------------------------------


def test_a_process_tells_of_itself_what_its_entry_tells(lite: App) -> None:
    lite.start()
    for flip in (lambda: None, lite.on, lite.off):
        flip()
        read(lite)
        lite.selector.check()
        told, entry = lite.selector.report(), one(lite)
        for name in ("pid", "host", "program", "acknowledged", "problem", "liveness"):
            assert getattr(told, name) == getattr(entry, name), name
        names = ["mode", "generation"]
        if lite.selector.read_only:  # what no verdict needs may be written later
            names += ["connections", "flips"]
        for name in names:
            assert getattr(told.report, name) == getattr(entry.report, name), name


def test_what_a_process_tells_of_itself_touches_no_file(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=3600)
    read(lite)
    shutil.rmtree(f"{lite.path}.workers")
    lite.on()
    told = lite.selector.report()
    assert told.report is not None
    assert (told.report.mode, told.report.connections) == (Mode.READ_WRITE, 1)


def test_a_selector_tells_where_its_process_reports(lite: App) -> None:
    lite.start()
    assert lite.selector.registry == registry(lite)
    lite.start(workers=False)
    assert lite.selector.registry is None
    assert "nobody can wait for it" in lite.selector.report().problem


def test_a_process_with_a_fixed_switch_tells_of_itself_too(lite: App) -> None:
    with EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=lite.engine("rw")) as selector:
        told = selector.report()
    assert told.report is not None
    assert (told.report.mode, told.pid) == (Mode.READ_ONLY, os.getpid())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_of_multiprocessing_that_ends_leaves_the_registry(
    place: Path, method: str
) -> None:
    program = place / "program.py"
    program.write_text(MULTIPROCESSING)
    done = subprocess.run(
        [sys.executable, program, method, place / "read-only.txt"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1 of 2 0\n", "", 0)


def test_a_process_of_multiprocessing_waits_for_its_threads_before_it_ends(place: Path) -> None:
    program = place / "program.py"
    program.write_text(THREADS_OF_A_CHILD)
    done = subprocess.run(
        [sys.executable, program, place / "read-only.txt"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("2 rows\n", "", 0)


THREADS_OF_A_CHILD = """
import multiprocessing, sys, threading
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import QueuePool
from sa_readonly import EngineSelector, RoutingSession

engine = create_engine(
    f"sqlite:///{sys.argv[1]}.db", poolclass=QueuePool, pool_size=1, max_overflow=0
)
selector = EngineSelector(sys.argv[1], read_write=engine)
Session = sessionmaker(selector, class_=RoutingSession)

def write(has_begun, go_on):
    with Session() as session:
        session.execute(text("INSERT INTO t VALUES (1)"))
        has_begun.set()
        go_on.wait(60)
        session.commit()

def work():
    has_begun, go_on = threading.Event(), threading.Event()
    threading.Thread(target=write, args=(has_begun, go_on)).start()
    has_begun.wait(60)
    threading.Thread(target=write, args=(threading.Event(), go_on)).start()  # waits for the other
    threading.Timer(0.2, go_on.set).start()  # this one has reached the end by then

if __name__ == "__main__":
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
    engine.dispose()
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    with engine.connect() as connection:
        print(connection.scalar(text("SELECT count(*) FROM t")), "rows")
"""


MULTIPROCESSING = """
import multiprocessing, sys
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from sa_readonly import EngineSelector, RoutingSession

selector = EngineSelector(sys.argv[2], read_write=create_engine(f"sqlite:///{sys.argv[2]}.db"))
Session = sessionmaker(selector, class_=RoutingSession)

def work():
    with Session() as session:
        session.execute(text("SELECT 1"))

if __name__ == "__main__":
    work()
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    process.start()
    process.join()
    print(len(selector.registry.read()), "of 2", process.exitcode)
"""
