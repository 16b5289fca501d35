"""A directory of workers: a report is withdrawn, whatever became of it."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from sa_readonly.workers.folder import Folder
from sa_readonly.workers.protocol import RegistryError, Report
from tests.workers import BOUND, READ_ONLY, Place, fail, place

__all__ = ["place"]  # a fixture


def test_a_withdrawal_overwrites_one_byte_and_makes_no_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    before = place.report_of(entry).stat()
    content = place.report_of(entry).read_bytes()
    for name in ("replace", "write", "mkdir", "unlink"):
        fail(name, monkeypatch)
    entry.withdraw()
    monkeypatch.undo()
    after = place.report_of(entry).stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert [
        (old, new)
        for old, new in zip(content, place.report_of(entry).read_bytes(), strict=True)
        if old != new
    ] == [(ord("1"), ord("0"))]
    one = place.one()
    assert (one.acknowledged, one.problem) == (False, None)
    assert place.whys() == ["has not noticed"]


def test_a_report_that_cant_be_overwritten_is_removed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    fail("pwrite", monkeypatch)
    entry.withdraw()
    monkeypatch.undo()
    assert place.whys() == ["has not reported"]
    place.acknowledge(entry)
    assert place.look().holds


def test_what_cant_be_withdrawn_is_an_error_until_it_can(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    fail("pwrite", monkeypatch, errno.EIO)
    fail("unlink", monkeypatch, errno.EROFS)
    for _ in range(2):
        with pytest.raises(RegistryError) as caught:
            entry.withdraw()
        assert str(caught.value) == (
            f"{place.report_of(entry)} says that this process is drained, and that can't be taken "
            "back (Read-only file system): it stays read-only. Make the directory writable."
        )
    monkeypatch.undo()
    assert place.look().holds
    entry.withdraw()
    assert place.whys() == ["has not noticed"]


def test_a_report_that_somebody_removed_is_written_again(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    place.report_of(entry).unlink()
    place.acknowledge(entry)
    assert place.look().holds


def test_a_report_that_somebody_removed_is_withdrawn(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    place.report_of(entry).unlink()
    entry.withdraw()
    assert place.whys() == ["has not reported"]


def test_a_report_begun_before_a_withdrawal_cant_acknowledge_after_it(place: Place) -> None:
    entry = place.register()
    place.on()
    entry.closed()
    inside, go_on = threading.Event(), threading.Event()

    def snapshot() -> Report:
        inside.set()
        go_on.wait(BOUND)
        return Report(READ_ONLY, place.identity(), watching=True)

    thread = threading.Thread(target=entry.report, args=(snapshot,))
    thread.start()
    assert inside.wait(BOUND)
    with pytest.raises(RegistryError, match="Another thread has been writing"):
        entry.withdraw()
    go_on.set()
    thread.join()
    entry.withdraw()
    assert place.whys() == ["has not noticed"]
    # One that comes late, between the withdrawal and the opening of the gate.
    entry.report(lambda: Report(READ_ONLY, place.identity(), watching=True))
    assert place.whys() == ["has not noticed"]
    place.acknowledge(entry)
    assert place.look().holds


def test_a_withdrawal_that_interrupts_a_report_in_its_own_thread_fails(place: Place) -> None:
    # as in a signal handler that looks at the switch
    entry = place.register()
    place.on()
    entry.closed()

    def snapshot() -> Report:
        with pytest.raises(RegistryError, match="This thread was interrupted"):
            entry.withdraw()
        return Report(READ_ONLY, place.identity())

    entry.report(snapshot)
    assert place.look().holds


def test_a_worker_whose_entry_was_removed_withdraws_nothing_and_registers_anew(
    place: Place,
) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    old = entry.name
    for name in place.names():
        (place.path / name).unlink()
    place.path.rmdir()
    for act in (entry.withdraw, lambda: place.acknowledge(entry)):
        with pytest.raises(RegistryError) as caught:
            act()
        assert str(caught.value) == (
            f"This process is not registered in {place.path}, as it was forked, or its entry was "
            "removed. Nobody can wait for it; it registers at its next look."
        )
    assert entry.ensure()
    assert not entry.ensure()
    assert entry.name != old
    assert place.whys() == ["has not reported"]
    place.acknowledge(entry)
    assert place.look().holds


def test_a_worker_that_lost_its_descriptor_registers_anew_and_closes_nobody_elses(
    place: Place,
) -> None:
    entry = place.register()
    place.on()
    number = entry._descriptor
    os.close(number)
    reading, writing = os.pipe()
    os.dup2(reading, number)
    assert entry.ensure()
    os.fstat(number)
    assert sorted(str(one.liveness) for one in place.read()) == ["alive", "dead"]
    for descriptor in {number, reading, writing}:
        os.close(descriptor)


def test_each_thread_that_finds_no_registration_must_look_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    (place.path / f"{entry.name}.lock").unlink()
    both = threading.Barrier(2, timeout=BOUND)
    monkeypatch.setattr(Folder, "sweep", lambda *_: both.wait())
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(entry.ensure())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True, True]
    assert len(place.read()) == 1
