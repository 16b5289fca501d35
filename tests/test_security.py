"""Hostile content where workers register: the table of docs/security.md, tried without harm."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sa_readonly.workers import memory
from tests.test_workers_rights import NOBODY, needs_root
from tests.workers import BOUND, Place, place

__all__ = ["place"]  # a fixture


@pytest.mark.parametrize("kind", ["hard link", "symlink", "fifo", "another user's"])
def test_a_withdrawal_writes_into_nothing_that_was_put_in_the_place_of_the_report(
    place: Place, tmp_path: Path, kind: str
) -> None:
    if kind == "another user's" and os.geteuid() != 0:
        pytest.skip("needs root")
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    report, other = place.report_of(entry), tmp_path / "other"
    content = b"1" * 100
    other.write_bytes(content)
    report.unlink()
    reader = -1
    if kind == "hard link":
        os.link(other, report)
    elif kind == "symlink":
        report.symlink_to(other)
    elif kind == "fifo":
        os.mkfifo(report)
        reader = os.open(report, os.O_RDONLY | os.O_NONBLOCK)  # so that it can be opened to write
    else:
        report.write_bytes(content)
        os.chown(report, NOBODY, NOBODY)
        kept = os.open(report, os.O_RDONLY)
    entry.withdraw()
    assert other.read_bytes() == content
    assert not os.path.lexists(report)
    assert place.whys() == ["has not reported"]
    if kind == "fifo":
        assert os.read(reader, 1) == b""
        os.close(reader)
    if kind == "another user's":
        assert os.read(kept, 200) == content
        os.close(kept)


@needs_root
def test_no_path_is_looked_at_that_another_user_wrote_beside_the_memory_of_workers(
    place: Place,
) -> None:
    # A name that belongs to a process of this host which has ended.
    entry = place.register()
    host, _, rest = entry.name.rsplit("-", 3)[0], None, entry.name.rsplit("-", 2)[1]
    path = f"{memory.PLACE}/sa_readonly-{host}-{2**31 - 1}-{rest}-{'0' * 16}"
    try:
        Path(path).write_bytes(bytes(memory.SIZE) + memory._view() + b"/nowhere/at/all")
        os.chown(path, NOBODY, NOBODY)
        place.registry.sweep(place.identity)
        assert os.path.exists(path)  # it would have been removed, as nothing is at that path
        os.chown(path, os.geteuid(), -1)
        place.registry.sweep(place.identity)
        assert not os.path.exists(path)
    finally:
        if os.path.exists(path):
            os.unlink(path)


@pytest.mark.parametrize("suffix", [".lock", ".json", ".new"])
def test_a_huge_file_is_read_no_further_than_a_report_is_long(place: Place, suffix: str) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    path = place.path / f"{entry.name}{suffix}"
    with open(path, "ab") as file:
        file.truncate(2**40)  # which takes no room: it is a hole
    whys: list[str] = []
    reading = threading.Thread(target=lambda: whys.extend(place.whys()), daemon=True)
    reading.start()
    reading.join(BOUND)
    assert not reading.is_alive()
    assert whys == (["its report is damaged"] if suffix == ".json" else [])


@pytest.mark.parametrize("suffix", [".json", ".new"])
def test_a_directory_in_the_place_of_a_report_holds_wait_up_and_no_more(
    place: Place, suffix: str
) -> None:
    entry = place.register()
    path = place.path / f"{entry.name}{suffix}"
    path.mkdir()
    place.on()
    with pytest.raises(Exception, match="can't be written"):
        place.acknowledge(entry)
    assert len(place.whys()) == 1
    path.rmdir()
    place.acknowledge(entry)
    assert place.look().holds
