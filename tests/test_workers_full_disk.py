"""A directory of workers: a disk that is full at any step of a report or a registration."""

from __future__ import annotations

import errno
import os

import pytest

from sa_readonly.workers.protocol import RegistryError, Report
from tests.workers import READ_ONLY, READ_WRITE, Place, fail, place

__all__ = ["place"]  # a fixture


def short_write(descriptor: int, content: bytes) -> int:
    return len(content) - 1


@pytest.mark.parametrize("step", ["open", "fchmod", "write", "short write", "close", "replace"])
def test_a_full_disk_at_any_step_of_a_report_is_one_error_and_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    entry = place.register()
    entry.report(lambda: Report(READ_WRITE, watching=True))
    place.on()
    before = place.report_of(entry).read_bytes()
    if step == "short write":
        monkeypatch.setattr(os, "write", short_write)
    elif step == "close":  # where NFS says it
        real = os.close

        def close(descriptor: int) -> None:
            real(descriptor)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "close", close)
    else:
        fail(step, monkeypatch)
    with pytest.raises(RegistryError) as caught:
        place.acknowledge(entry)
    monkeypatch.undo()
    assert str(caught.value) == (
        f"The report {place.report_of(entry)} can't be written (No space left on device): it tells "
        "nothing of what happened since. Make room, or make its directory writable."
    )
    assert place.report_of(entry).read_bytes() == before
    assert place.names() == [f"{entry.name}.json", f"{entry.name}.lock"]
    assert place.whys() == ["has not noticed"]
    place.acknowledge(entry)
    assert place.look().holds


@pytest.mark.parametrize("step", ["mkdir", "open", "fchmod"])
def test_a_full_disk_at_any_step_of_registering_is_one_error_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    fail(step, monkeypatch)
    descriptors = place.descriptors()
    with pytest.raises(RegistryError) as caught:
        place.register()
    monkeypatch.undo()
    assert str(caught.value) == (
        f"This process can't register in {place.path} (No space left on device): nobody can wait "
        "for it. Make a directory there into which it may write."
    )
    assert place.descriptors() == descriptors
    assert place.read() == []
    place.register()


def test_a_report_that_was_interrupted_after_its_last_step_is_withdrawn(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    real = os.replace

    def interrupted(*names: str) -> None:
        real(*names)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        place.acknowledge(entry)
    monkeypatch.undo()
    assert place.look().holds
    entry.withdraw()
    assert place.whys() == ["has not noticed"]


def test_a_report_too_long_to_be_read_is_refused(place: Place) -> None:
    entry = place.register()
    with pytest.raises(RegistryError, match=r"A report of \d+ bytes is too long: 4096 are read"):
        entry.report(lambda: Report(READ_ONLY, "g" * 4096))


def test_many_reports_keep_no_descriptor_and_no_file(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    before = place.descriptors()
    for connections in range(50):
        place.acknowledge(entry, connections)
        entry.withdraw()
        place.read()
        place.registry.sweep(place.identity)
    assert place.descriptors() == before != []
    assert len(place.names()) == 2
