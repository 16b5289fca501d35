"""This process as a worker: what it does while nothing happens, and when it reports."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sa_readonly import Mode
from sa_readonly.engines.uses import Trace
from sa_readonly.mode import State
from sa_readonly.workers import reporting
from sa_readonly.workers.protocol import Connections, Report
from sa_readonly.workers.reporting import Mark, Reporting
from tests.app import WHICH, App, Book, in_thread, once
from tests.postgres import wait_until
from tests.registries import MemoryRegistry
from tests.test_worker_refusals import kinds
from tests.worker_app import lite, one, read, registry, verdict
from tests.workers import memory_below

__all__ = ["lite"]  # a fixture

TTL = 0.1  # the default


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often the watcher's thread asks the file system, by function."""
    counts: Counter[str] = Counter()

    def counting(name: str) -> None:
        real = getattr(os, name)

        def function(*args: Any, **options: Any) -> Any:
            if threading.current_thread().name == "sa_readonly":
                counts[name] += 1
            return real(*args, **options)

        monkeypatch.setattr(os, name, function)

    for name in ("stat", "lstat", "fstat", "open", "listdir"):
        counting(name)
    return counts


@pytest.mark.parametrize("mode", ["read-write", "read-only"])
def test_an_idle_second_costs_one_stat_a_ttl_and_four_more_at_most(
    lite: App, asked: Counter[str], mode: str
) -> None:
    if mode == "read-only":
        lite.on()
    lite.start(ttl=TTL, watch=True)
    read(lite)
    worker = lite.selector._worker
    ticks, ten = [0], threading.Event()
    tick = worker.watcher.tick

    def counted() -> None:
        tick()
        ticks[0] += 1
        if ticks[0] == 1:
            asked.clear()  # the first one may find something to do
        if ticks[0] == 11:
            ten.set()

    worker.watcher.tick = counted
    began = time.monotonic()
    assert ten.wait(30)
    seconds = time.monotonic() - began
    assert seconds >= 10 * TTL
    # One stat of the file at each look; of the entry, of what is announced and of a rehearsal's
    # file, one in each second, and of its report, one in each two. On a busy machine ten looks take
    # longer than a second.
    assert sum(asked.values()) <= 14 * seconds, asked
    lite.selector.close()


@once
def test_64_idle_children_cost_no_more_each_and_leave_no_file(
    lite: App, asked: Counter[str]
) -> None:
    lite.start(ttl=TTL, watch=True)
    read(lite)
    begin, begun = os.pipe()

    def child(writing: int) -> None:
        read(lite)
        worker, ticks = lite.selector._worker, [0]
        tick = worker.watcher.tick
        over = threading.Event()

        def counted() -> None:
            tick()
            ticks[0] += 1
            if ticks[0] == 1:
                began[:] = [time.monotonic()]
                asked.clear()
            elif time.monotonic() > began[0] + 5:
                over.set()

        began = [0.0]
        os.write(writing, b".")
        os.read(begin, 1)  # until all are there
        worker.watcher.tick = counted
        assert over.wait(60)
        seconds = time.monotonic() - began[0]
        # One more of each kind where the time began and ended at a look.
        assert sum(asked.values()) <= 14 * seconds + 5, (asked, seconds)

    ready, writing = os.pipe()
    pids = []
    for _ in range(64):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child(writing)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    for _ in pids:
        assert os.read(ready, 1) == b"."
    assert len(registry(lite).read()) == 65
    os.write(begun, b"." * 64)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 64
    lite.on()
    wait_until(lambda: verdict(lite).holds, "all that is left to be drained")
    lite.off()
    lite.selector.registry.sweep(lite.selector.switch.identify)  # as each process does now and then
    assert [entry.pid for entry in registry(lite).read()] == [os.getpid()]
    assert len(os.listdir(f"{lite.path}.workers")) == 2
    lite.selector.close()
    assert memory_below(lite.path.parent) == []
    for descriptor in (begin, begun, ready, writing):
        os.close(descriptor)


def test_an_idle_process_builds_no_report_until_the_last_one_is_old(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MemoryRegistry()
    lite.start(watch=False, workers=registry)
    read(lite)
    worker = lite.selector._worker
    built = []
    report = worker._report
    monkeypatch.setattr(worker, "_report", lambda switch: built.append(1) or report(switch))
    later = [time.monotonic() + 11]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: later[0])
    worker.watcher.tick()  # by now it tells that the connection is idle
    built.clear()
    reports = registry.reports
    for _ in range(29):
        worker.watcher.tick()
        later[0] += 1
    assert (len(built), registry.reports) == (0, reports)
    later[0] += 1
    worker.watcher.tick()
    worker.watcher.tick()
    assert (len(built), registry.reports) == (1, reports + 1)


@pytest.mark.parametrize("watch", [True, False])
def test_a_flip_reports_once(lite: App, watch: bool) -> None:
    registry = MemoryRegistry()
    lite.start(watch=watch, workers=registry, ttl=0.02 if watch else 0)
    read(lite)
    worker = lite.selector._worker
    for flip, mode in ((lite.on, "ro"), (lite.off, "rw")) * 2:
        before = registry.reports
        flip()
        if watch:  # no transaction is under way meanwhile, which a further report would tell
            wait_until(lambda before=before: registry.reports > before, "the report")
        assert read(lite) == mode
        worker.watcher.tick()
        assert registry.reports == before + 1, mode
    lite.selector.close()


def test_each_thing_that_a_verdict_needs_is_reported_at_the_next_look(lite: App) -> None:
    registry = MemoryRegistry()
    lite.start(ttl=3600, watch=False, workers=registry)
    read(lite)
    worker, switch = lite.selector._worker, lite.selector.switch

    def told() -> Report:
        (entry,) = registry.read()
        worker.watcher.tick()
        (entry,) = registry.read()
        return entry.report

    with lite.engines["rw"].connect() as first, lite.engines["rw"].connect() as second:
        assert first.scalar(WHICH) == second.scalar(WHICH) == "rw"
        lite.on()
        switch.check()
        assert told().connections == 2
        second.close()
        assert told().connections == 1
    assert told().connections == 0
    assert registry.read()[0].acknowledged
    lite.on("edited")
    switch.check()
    assert told().generation == switch.identify()
    worker.watcher.start()
    assert told().watching
    worker.watcher.stop()
    lite.selector.close()


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_process_that_could_not_open_acknowledges_again_at_the_next_look(
    lite: App, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    registry = MemoryRegistry()
    lite.on()
    lite.start(watch=False, workers=registry)
    read(lite)
    worker = lite.selector._worker
    assert registry.read()[0].acknowledged

    def stuck(state: State) -> None:
        if not state.read_only:
            raise RuntimeError("stuck")

    end = lite.selector.switch.subscribe(stuck, lambda *_: None)
    entry, closed = worker.reporting._entry, worker.reporting._entry.closed

    def closed_late() -> None:
        in_thread(worker.due)  # as the watcher, between the two steps of the gate
        assert not registry.read()[0].acknowledged
        closed()

    if meanwhile:
        monkeypatch.setattr(entry, "closed", closed_late)
    lite.off()
    assert lite.selector.check().read_only
    assert registry.read()[0].acknowledged
    end()


def test_the_last_connection_that_comes_back_is_seen_at_the_next_look(app: App) -> None:
    app.start(ttl=TTL, watch=True)
    with app.sessions.begin() as session:
        session.add(Book(title="before"))
        session.flush()
        app.on()
        wait_until(lambda: one(app).acknowledged, "the flip")
        assert not verdict(app).holds
        session.commit()
    began = time.monotonic()
    wait_until(lambda: verdict(app).holds, "drained")
    assert time.monotonic() - began < 5
    app.selector.close()


def test_what_was_refused_is_reported_soon(lite: App) -> None:
    registry = MemoryRegistry()
    lite.on()
    lite.start(ttl=0.02, watch=True, workers=registry)
    read(lite)
    kinds(lite, lite.selector.require_read_write)
    wait_until(lambda: registry.read()[0].report.refused == 1, "the report")
    lite.selector.close()


def test_an_entry_that_is_taken_away_is_missed_within_a_second_and_the_switch_looked_at_again(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MemoryRegistry()
    lite.start(ttl=3600, watch=False, workers=registry)
    read(lite)
    worker = lite.selector._worker
    later = [time.monotonic() + 1]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: later[0])
    worker.watcher.tick()
    registry.entries.clear()
    lite.on()  # which `wait` may have taken for noticed by all, as this one was missing
    worker.watcher.tick()
    assert registry.read() == []
    later[0] += 1
    worker.watcher.tick()
    assert lite.selector.switch.known.read_only
    assert len(registry.read()) == 1
    assert registry.read()[0].acknowledged


def test_a_report_that_is_taken_away_is_written_anew_within_two_seconds(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=3600, watch=False)
    read(lite)
    worker = lite.selector._worker
    worker.watcher.tick()
    later = [time.monotonic()]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: later[0])
    for _ in range(2):  # in either second of the two
        before = one(lite)
        later[0] += 1
        worker.watcher.tick()
        os.unlink(f"{lite.path}.workers/{before.name}.json")
        assert one(lite).report is None
        for _ in range(2):
            later[0] += 1
            worker.watcher.tick()
        found = one(lite)
        assert found.report is not None
        assert found.name == before.name
    lite.selector.close()


def test_a_report_is_due_when_a_reader_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: clock[0])
    mine = Reporting(lambda: None)
    registry = MemoryRegistry()
    mine.begin(registry)
    mine.ensure(lambda: True, Trace())
    report = replace(BARE, engines={"read_write.primary": Connections()})

    def tell(**fields: Any) -> bool:
        nonlocal report
        report = replace(report, **fields)
        if not mine.is_due(Mark.of(report, mine.turns), lambda: report.engines):
            return False
        mine.report(lambda: report)
        return True

    assert tell()
    assert not tell()
    assert tell(flips=1)
    assert not tell(engines={"read_write.primary": Connections(1)})
    clock[0] += 0.25
    assert not tell()
    assert tell(refused=7)  # soon
    assert not tell(refused=8)
    clock[0] += 0.25
    assert tell()
    assert not tell(engines={"read_write.primary": Connections(2)})
    clock[0] += 10
    assert tell()  # now and then
    clock[0] += 29
    assert not tell()
    clock[0] += 1
    assert tell()  # that it still looks
    assert not tell()
    registry.is_broken = True
    clock[0] += 30
    assert tell()
    assert mine.problem is not None
    assert tell()  # again and again, until it can
    registry.is_broken = False
    assert tell()
    assert mine.problem is None
    assert not tell()
    mine.close()


def test_what_is_in_use_is_noted_in_the_memory_of_the_entry_that_came_last() -> None:
    mine, registry, trace = Reporting(lambda: None), MemoryRegistry(), Trace()
    mine.begin(registry)
    mine.ensure(lambda: True, trace)
    entry: Any = mine._entry
    other = threading.Thread(target=lambda: mine.ensure(lambda: True, trace))
    memories = {}

    def memory() -> bytearray:
        found = memories.setdefault(entry.name, bytearray(1024))
        if len(memories) == 1:  # another thread registers anew before this one goes on
            registry.entries.clear()
            other.start()
            wait_until(lambda: registry.entries, "the new entry")
            other.join(0.05)
        return found

    entry.memory = memory
    registry.entries.clear()
    mine.ensure(lambda: True, trace)
    other.join()
    assert trace.memory is memories[entry.name]
    mine.close()


BARE = Report(Mode.READ_WRITE)
