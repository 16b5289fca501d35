"""A directory of workers: looking while files, entries and reports come and go."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sa_readonly.workers import folder
from sa_readonly.workers.protocol import Seen
from sa_readonly.workers.verdict import drained, judge
from tests.workers import READ_ONLY, Place, place

__all__ = ["place"]  # a fixture


class Moved:
    """A registry in the middle of whose reading something happens."""

    def __init__(self, place: Place, *acts: Callable[[], object]) -> None:
        self.place, self.acts, self.reads = place, list(acts), 0

    def read(self) -> list[Seen]:
        seen = self.place.read()
        self.reads += 1
        if self.acts:
            self.acts.pop(0)()
        return seen


def test_a_look_starts_over_when_the_file_was_replaced(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)

    def replaced() -> None:
        place.off()
        place.on()

    moved = Moved(place, replaced)
    verdict = judge(place.identity, moved)
    assert moved.reads == 2
    assert [why for _, why in verdict.waiting] == ["has not noticed"]
    assert verdict.generation == place.identity()


def test_a_look_ends_when_the_file_goes_or_changes_all_the_time(place: Place) -> None:
    place.acknowledge(place.register(), forced=READ_ONLY)
    place.on()
    verdict = judge(place.identity, Moved(place, place.off))
    assert (verdict.holds, verdict.problem) == (False, "there is no file: it is read-write")
    numbers = itertools.count()
    verdict = judge(lambda: str(next(numbers)), place.registry)
    assert (verdict.holds, verdict.problem) == (False, "the file changes all the time")
    assert len(verdict.seen) == 1


def test_a_look_at_a_file_that_cant_be_looked_at_holds_nothing(place: Place) -> None:
    def fails() -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    verdict = judge(fails, place.registry)
    assert not verdict.holds
    assert verdict.problem == "the file can't be looked at: [Errno 13] Permission denied"


def test_a_worker_that_starts_in_any_order_with_a_look_is_seen_or_sees_the_file(
    tmp_path: Path,
) -> None:
    """Every order of the steps: a worker registers and looks, `on`, and `wait` looks, twice."""
    worker, operator = ["register", "look"], ["on", "identify", "read", "identify again"]
    for number, slots in enumerate(itertools.combinations(range(6), 2)):
        directory = tmp_path / str(number)
        directory.mkdir()
        place = Place(directory)
        drained_one = place.register()
        mine, theirs = iter(worker), iter(operator)
        steps = [next(mine if slot in slots else theirs) for slot in range(6)]
        identities, seen, saw = [], [], None
        entry = None
        for step in steps:
            if step == "register":
                entry = place.register()
            elif step == "look":
                saw = place.identity()
            elif step == "on":
                place.on()
                place.acknowledge(drained_one)
            elif step == "read":
                seen = place.read()
            else:
                identities.append(place.identity())
        assert identities[0] == identities[1] is not None
        holds = drained(identities[0], seen, time.time()).holds
        assert saw is not None or not holds, steps
        assert holds or entry.name in [one.name for one in seen], steps
        for one in place.entries:
            one.close()


@pytest.mark.parametrize("when", ["before it opens", "after it opened"])
def test_an_entry_that_goes_while_it_is_read_is_no_entry(
    place: Place, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    entry, other = place.register(), place.register()
    real = folder._open

    def opened(directory: int, name: str) -> int:
        if name != f"{entry.name}.lock":
            return real(directory, name)
        monkeypatch.undo()
        if when == "before it opens":
            entry.close()
            return real(directory, name)
        descriptor = real(directory, name)
        entry.close()
        return descriptor

    monkeypatch.setattr(folder, "_open", opened)
    names = [one.name for one in place.read()]
    assert other.name in names
    assert (entry.name in names) is (when == "after it opened")
    assert [one.name for one in place.read()] == [other.name]
