"""This process as a worker: when it registers, where, and when its entry goes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.pool import StaticPool

from sa_readonly import ConfigurationError, EngineSelector, FixedSwitch, Mode, ReadOnlyError
from sa_readonly.workers import protocol, reporting
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import Liveness, Seen
from tests.app import WHICH, App
from tests.test_watcher import in_child
from tests.worker_app import lite, one, read, registry, verdict, whys

__all__ = ["lite"]  # a fixture


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


def test_who_is_given_a_connection_that_a_pool_had_before_the_selector_is_registered_too(
    lite: App,
) -> None:
    engine = lite.engine("rw", poolclass=StaticPool)
    engine.connect().close()
    lite.start()
    with engine.connect():
        assert one(lite).liveness is Liveness.ALIVE


def test_a_connection_that_finds_the_file_when_it_registers_is_refused(lite: App) -> None:
    lite.start(ttl=3600)
    lite.on()
    with pytest.raises(ReadOnlyError):
        lite.engines["rw"].connect()
    assert verdict(lite).holds


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


def test_a_process_that_ends_over_a_transaction_leaves_its_entry(lite: App) -> None:
    lite.start()
    with lite.engines["rw"].connect() as connection:
        connection.scalar(WHICH)
        lite.selector._worker.end()
        assert one(lite).liveness is Liveness.ALIVE


def test_a_thread_that_connects_as_its_process_ends_is_refused_nothing(lite: App) -> None:
    lite.start()
    assert read(lite) == "rw"
    pool = lite.engines["rw"].pool
    lite.selector._worker.end()
    assert registry(lite).read() == []
    late = pool.connect()  # by a thread that had come to this pool
    assert one(lite).liveness is Liveness.ALIVE
    late.close()
    assert lite.selector.report().report.connections == 0


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


def test_a_word_that_is_not_known_is_no_directory_of_workers(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lite.path.parent)
    with pytest.raises(ConfigurationError) as caught:
        lite.start(workers="requird")
    assert str(caught.value) == (
        "EngineSelector(workers='requird') is no known word: is \"required\" meant? A directory is "
        "given as an absolute path, or as './requird'."
    )
    lite.start(workers="./requird")
    read(lite)
    assert len(DirectoryRegistry(lite.path.parent / "requird").read()) == 1


def test_a_registry_of_the_users_own_is_taken(lite: App) -> None:
    calls: list[str] = []

    class Entry(protocol.Entry):
        def ensure(self) -> bool:
            return False

        def closed(self) -> None:
            calls.append("closed")

        def report(self, snapshot: Any) -> None:
            calls.append(str(snapshot().mode))

        def withdraw(self) -> None:
            calls.append("withdraw")

        def close(self) -> None:
            calls.append("close")

    class Registry(protocol.Registry):
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


@pytest.mark.parametrize(
    ("forced", "expected"),
    [("read-write", ["forced to read-write"]), ("read-only", [])],
)
def test_a_forced_process_registers_and_only_one_forced_to_read_only_is_drained(
    lite: App, monkeypatch: pytest.MonkeyPatch, forced: str, expected: list[str]
) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", forced)
    before = set(threading.enumerate())
    lite.start(watch=True)
    assert lite.selector.mode is Mode(forced)
    read(lite)
    lite.on()
    assert whys(lite) == expected
    assert verdict(lite).holds is (not expected)
    # What is forced to read-write goes on writing, and a thread sees that its reports tell so.
    assert len(set(threading.enumerate()) - before) == (forced == "read-write")


@pytest.mark.parametrize("number", ["free", "of another file", "of the same file"])
def test_a_lock_that_other_code_closed_is_missed_at_the_next_look(
    lite: App, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    lite.start(ttl=3600, watch=False)
    read(lite)
    worker = lite.selector._worker
    worker.watcher.tick()
    now = time.monotonic()
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now)  # no second passes
    with lite.engines["rw"].connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        worker.watcher.tick()
        before = one(lite)
        descriptor = worker.reporting._entry._descriptor
        os.close(descriptor)
        if number != "free":
            lock = f"{lite.path}.workers/{before.name}.lock"
            opened = os.open(lock if number == "of the same file" else os.devnull, os.O_RDONLY)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
        assert one(lite).liveness is Liveness.DEAD
        worker.watcher.tick()
        found = one(lite)
        assert (found.liveness, found.name != before.name) == (Liveness.ALIVE, True)
        lite.on()
        lite.selector.switch.check()
        registry(lite).sweep(lite.selector.switch.identify)
        (why,) = whys(lite)
        assert why.startswith("1 connection out")
    if number != "free":
        os.close(descriptor)
    lite.selector.close()
