"""A directory of workers: entries of the dead are swept, but not while a file needs them."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sa_readonly.workers.protocol import Report
from tests.workers import ALIVE, BOUND, DEAD, READ_ONLY, READ_WRITE, Place, die, place

__all__ = ["place"]  # a fixture


def test_the_dead_are_swept_when_another_registers_and_no_file_is_there(place: Place) -> None:
    place.on()
    die(place)
    die(place, lambda entry: entry.report(lambda: Report(READ_WRITE)))
    place.off()
    assert [one.liveness for one in place.read()] == [DEAD, DEAD]
    entry = place.register()
    assert [one.name for one in place.read()] == [entry.name]
    assert place.names() == [f"{entry.name}.lock"]


def test_who_died_without_a_word_is_kept_while_a_file_is_there(place: Place) -> None:
    place.on()
    die(place)
    die(place, place.acknowledge)
    die(place, lambda entry: place.acknowledge(entry, connections=1))
    entry = place.register()
    place.acknowledge(entry)
    assert sorted(place.whys()) == [
        "unknown: died with 1 connection out",
        "unknown: died without a word",
    ]
    assert len(place.read()) == 3  # the one who acknowledged had nothing
    place.off()
    place.registry.sweep(place.identity)
    assert [one.name for one in place.read()] == [entry.name]


def test_who_had_acknowledged_an_earlier_file_and_died_had_nothing(place: Place) -> None:
    place.on()
    die(place, place.acknowledge)
    place.off()
    place.on()
    assert place.look().holds


def test_who_died_with_a_gate_that_was_not_shut_is_kept_while_a_file_is_there(
    place: Place,
) -> None:
    place.on()

    def report(entry: Any) -> None:
        entry.closed()
        entry.report(lambda: Report(READ_ONLY, None, 0))  # not every gate is shut

    die(place, report)
    place.registry.sweep(place.identity)
    assert place.whys() == ["unknown: died without a word"]


def test_nobody_is_swept_while_it_is_not_known_if_a_file_is_there(place: Place) -> None:
    die(place)

    def fails() -> str:
        raise PermissionError

    place.registry.sweep(fails)
    assert len(place.read()) == 1


def test_a_file_that_appears_in_the_middle_of_a_sweep_keeps_who_dies_after_it(
    place: Place,
) -> None:
    pids: list[int] = []

    def identify() -> str | None:
        if not pids:
            pids.append(os.getpid())
            place.on()
            die(place)  # after the sweep has seen who is dead
        return None  # as one that looked before

    die(place)
    place.registry.sweep(identify)
    assert place.whys() == ["unknown: died without a word"]


def test_what_is_left_of_a_report_is_swept(place: Place) -> None:
    entry = place.register()
    place.acknowledge(entry)
    left = entry.name[:-16] + "0" * 16
    for name in (f"{left}.json", f"{left}.new", "read.me", "other.json"):
        (place.path / name).touch()
    place.registry.sweep(place.identity)
    assert place.names() == sorted(
        [f"{entry.name}.lock", f"{entry.name}.json", "read.me", "other.json"]
    )


def before_flock(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Act once, between the making of a lock file and its locking."""
    real, acted = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and not acted:
            acted.append(True)
            act()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_who_is_swept_while_it_registers_registers_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_flock(monkeypatch, lambda: place.registry.sweep(place.identity))
    entry = place.register()
    assert (place.one().name, place.one().liveness) == (entry.name, ALIVE)


def test_a_reader_that_was_stopped_with_the_lock_hinders_nobody_to_register(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def hold() -> None:
        (name,) = place.names()
        held.append(os.open(place.path / name, os.O_RDONLY))
        fcntl.flock(held[0], fcntl.LOCK_SH)

    before_flock(monkeypatch, hold)
    entry = place.register()
    assert (place.one().name, place.one().liveness) == (entry.name, ALIVE)
    os.close(held[0])


def test_a_sweep_that_was_stopped_removes_nobody_who_has_registered_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sweep sees a lock file that is not locked yet; it is, when the sweep goes on.
    stopped: list[threading.Thread] = []
    seen_dead, go_on = threading.Event(), threading.Event()

    def identify() -> None:
        seen_dead.set()
        go_on.wait(BOUND)

    def sweep_and_stop() -> None:
        stopped.append(threading.Thread(target=place.registry.sweep, args=(identify,)))
        stopped[0].start()
        assert seen_dead.wait(BOUND)

    before_flock(monkeypatch, sweep_and_stop)
    entry = place.register()
    go_on.set()
    stopped[0].join()
    assert (place.one().name, place.one().liveness) == (entry.name, ALIVE)
