"""This process as a worker: threads, signals and flips that come between two steps."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from sa_readonly import ReadOnlyError, forks
from sa_readonly.engines.doors import Door
from sa_readonly.engines.uses import Trace
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import Liveness, Report
from sa_readonly.workers.reporting import Reporting
from sa_readonly.workers.verdict import judge
from tests.app import WHICH, App
from tests.postgres import wait_until
from tests.registries import MemoryRegistry
from tests.worker_app import lite, one, read, registry, verdict, whys

__all__ = ["lite"]  # a fixture


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
    own = worker._doing._lock if where == "due" else worker.reporting._entry._lock
    lock = own()
    real = type(lock).acquire

    class Interrupted:
        """Acquires, and then an exception comes, as between two steps."""

        def acquire(self, *args: Any, **kwargs: Any) -> bool:
            real(lock, *args, **kwargs)
            raise Interrupt

        def __getattr__(self, name: str) -> Any:
            return getattr(lock, name)

    worker.reporting.turns += 1  # so that there is something to report
    own._values[os.getpid()] = Interrupted()
    with pytest.raises(Interrupt):
        worker.due()
    own._values[os.getpid()] = lock
    assert not lock._is_owned()
    lite.on()
    lite.selector.check()
    assert verdict(lite).holds


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


@pytest.mark.parametrize("counted", [False, True])
def test_a_connection_that_is_asked_for_as_the_process_ends_is_one_of_a_registered_process(
    lite: App, counted: bool
) -> None:
    lite.start(ttl=3600)
    read(lite)
    lite.engines["rw"].dispose()  # so that none is idle
    door, asked = Door.of(lite.engines["rw"]), list[int]()

    def end() -> None:
        asked.append(door.connections)
        if len(asked) == 1 + counted:
            lite.selector._worker.end()
            assert len(registry(lite).read()) == counted

    door.before_connect = (*door.before_connect, end)
    with lite.engines["rw"].connect():
        assert one(lite).liveness is Liveness.ALIVE
    assert asked == [0, 1]


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


@pytest.mark.parametrize("what", ["connection in the making", "open door"])
def test_a_report_of_what_was_so_only_while_it_was_built_is_followed_by_another(
    lite: App, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    registry = MemoryRegistry()
    lite.start(ttl=3600, watch=False, workers=registry)
    read(lite)
    worker, switch = lite.selector._worker, lite.selector.switch
    door = worker.counts.doors[0]
    entry, passed = worker.reporting._entry, list[bool]()
    report = entry.report

    def meanwhile(snapshot: Callable[[], Report]) -> None:
        shut_by, key = dict(door._shut_by), object()
        if not passed:
            passed.append(True)
            if what == "open door":
                door._shut_by.clear()
            else:
                door.ledger.connections[key] = (None, None)
        report(snapshot)
        door._shut_by.update(shut_by)
        door.ledger.connections.pop(key, None)

    monkeypatch.setattr(entry, "report", meanwhile)
    lite.on()
    switch.check()
    assert passed
    assert not judge(switch.identify, registry).holds
    worker.watcher.tick()
    assert judge(switch.identify, registry).holds
    lite.selector.close()


def test_a_turn_of_the_gate_while_another_thread_registers_is_not_lost() -> None:
    class Counted(Reporting):
        """Notes each change of ``turns`` at which another thread could change it, too."""

        alone = True

        def __setattr__(self, name: str, value: object) -> None:
            if name == "turns" and "_entry" in vars(self):
                self.alone = self.alone and forks.is_mine(self._turning())
            super().__setattr__(name, value)

    reporting, registry = Counted(lambda: None), MemoryRegistry()
    reporting.begin(registry)
    counts = []
    for lost in (False, False, True):
        if lost:
            registry.entries.clear()
        reporting.ensure(lambda: True, Trace())
        counts.append(reporting.turns)
    reporting.turn(read_only=True)
    assert (counts, reporting.turns) == ([1, 1, 2], 3)
    assert reporting.alone


def test_a_process_that_ends_while_a_thread_registers_it_leaves_no_entry(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(watch=False)
    with lite.sessions() as session:
        session.scalar(WHICH)
    worker, registry = lite.selector._worker, lite.selector.registry
    register = registry.register

    def ends(identify: Any) -> Any:
        entry = register(identify)
        worker.end()
        return entry

    worker.reporting.close()  # as if its files had been removed
    monkeypatch.setattr(registry, "register", ends)
    worker.due()
    assert registry.read() == []
