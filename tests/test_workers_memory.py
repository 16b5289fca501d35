"""A directory of workers: the memory of an entry, which outlives its process."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sa_readonly.engines.uses import SIZE, Trace, Use
from sa_readonly.workers import memory
from sa_readonly.workers.protocol import Report
from tests.test_watcher import in_child
from tests.workers import DEAD, READ_WRITE, Place, die, memory_below, place
from tests.workers import in_child as as_user

__all__ = ["place"]  # a fixture

WORDLESS = ["unknown: died without a word"]


# -- an entry that is lost ----------------------------------------------------------------------


def test_an_entry_that_lost_its_lock_is_not_believed_while_its_process_runs(place: Place) -> None:
    entry = place.register()
    Trace().move(entry.memory())
    place.on()
    os.close(entry._descriptor)
    assert [place.one().liveness, place.one().at_rest] == [DEAD, False]
    assert place.whys() == WORDLESS


def test_an_entry_that_has_a_successor_is_not_believed(place: Place) -> None:
    def lose_it(entry: Any) -> None:
        Trace().move(entry.memory())
        place.on()
        os.close(entry._descriptor)
        assert entry.ensure()
        Trace().move(entry.memory())

    die(place, lose_it)
    assert sorted(one.at_rest for one in place.read()) == [False, True]


# -- the memory ---------------------------------------------------------------------------------


def path_of(entry: Any) -> str:
    return f"{memory.PLACE}/sa_readonly-{entry.name}"


@pytest.mark.parametrize("harm", ["none", "removed", "cut", "link", "other user", "new"])
def test_memory_that_is_not_whole_proves_nothing(place: Place, harm: str) -> None:
    if harm == "other user" and os.geteuid() != 0:
        pytest.skip("needs root")
    die(place, lambda entry: None if harm == "new" else Trace().move(entry.memory()))
    place.on()
    path = f"{memory.PLACE}/sa_readonly-{place.one().name}"
    if harm in ("removed", "link"):
        os.unlink(path)
    if harm == "link":
        os.symlink("/dev/zero", path)
    if harm == "cut":
        os.truncate(path, SIZE - 1)
    if harm == "other user":
        os.chown(path, 12345, -1)
    assert place.whys() == ([] if harm == "none" else WORDLESS)
    place.off()
    place.registry.sweep(place.identity)
    assert not os.path.lexists(path)


def test_memory_may_be_read_by_what_may_read_the_lock(place: Place) -> None:
    place.path.mkdir(0o750)
    os.chmod(place.path, 0o750)
    entry = place.register()
    found = os.stat(path_of(entry))
    assert (found.st_mode & 0o777, found.st_gid) == (0o640, os.stat(place.path).st_gid)
    entry.close()
    assert not os.path.exists(path_of(entry))


def test_a_process_registers_where_there_is_no_room_for_memory(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:1]))
    entry = place.register()
    monkeypatch.undo()
    assert entry.memory() is None
    assert not os.path.exists(path_of(entry))
    entry.report(lambda: Report(READ_WRITE))
    Trace().move(entry.memory())


def test_memory_of_which_the_entry_has_gone_otherwise_is_removed_by_the_next_sweep(
    place: Place,
) -> None:
    place.on()
    die(place)
    path = f"{memory.PLACE}/sa_readonly-{place.one().name}"
    place.registry.sweep(place.identity)
    assert os.path.exists(path)
    os.unlink(place.path / f"{place.one().name}.lock")
    place.registry.sweep(place.identity)
    assert not os.path.exists(path)


def made_for(lock: Path) -> str:
    """Make memory for a lock file that is made now, too, and return its name and path."""
    lock.touch()
    name = f"test-{secrets.token_hex(8)}"
    assert memory.make(name, os.stat(lock), str(lock)) is not None
    return name


def swept(name: str) -> bool:
    """Sweep the memory of this name, whose process is taken to be gone; True if it is removed."""
    memory.sweep(lambda other: other == name)
    return not os.path.exists(f"{memory.PLACE}/sa_readonly-{name}")


def test_memory_whose_lock_lies_in_a_directory_that_is_shut_to_us_is_not_swept() -> None:
    def work() -> None:  # not as root, to whom nothing is shut
        with tempfile.TemporaryDirectory() as directory:
            name = made_for(Path(directory, "lock"))
            os.chmod(directory, 0)
            assert not swept(name)
            os.chmod(directory, 0o700)
            os.unlink(Path(directory, "lock"))
            assert swept(name)

    as_user(work, user=None if os.geteuid() else 65534)


def test_memory_of_a_process_with_other_mounts_is_not_swept_by_what_sees_no_such_file(
    tmp_path: Path,
) -> None:
    libc, told = ctypes.CDLL(None, use_errno=True), tmp_path / "told"
    new_mounts, new_user, private, recursive = 0x20000, 0x10000000, 1 << 18, 0x4000

    inner = tmp_path / "inner"
    inner.mkdir()

    def work() -> None:
        user, group = os.geteuid(), os.getegid()
        if libc.unshare(new_mounts | (new_user if user else 0)):
            return
        if user:  # in a namespace of users that has this one
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        if libc.mount(None, b"/", None, private | recursive, None):
            return
        if not libc.mount(b"none", os.fsencode(inner), b"tmpfs", 0, None):
            told.write_text(made_for(inner / "lock"))

    def work_if_allowed() -> None:
        with contextlib.suppress(PermissionError):
            work()

    as_user(work_if_allowed)
    if not told.exists():
        pytest.skip("this user may have no mounts of its own")
    name = told.read_text()
    try:
        assert not swept(name)
    finally:
        memory.remove(name)


def test_memory_is_removed_with_its_entry_though_the_directory_has_gone(place: Place) -> None:
    entry = place.register()
    shutil.rmtree(place.path)
    entry.ensure()
    shutil.rmtree(place.path)
    entry.close()
    assert memory_below(place.path) == []


# -- a trace ---------------------------------------------------------------------------------------


def test_a_trace_that_is_full_doubts() -> None:
    trace, uses = Trace(), [Use() for _ in range(SIZE)]
    for use in uses[: SIZE - 1]:
        use.note(trace)
    assert not trace.memory[0]
    uses[-1].note(trace)
    assert trace.memory[0]
    for use in uses:
        use.end()
        use.end()
    assert sum(trace.memory) == 1
    moved = bytearray([1, *[0] * (SIZE - 1)])
    trace.move(moved)
    assert moved[0]


def test_a_trace_that_doubts_says_nothing_else_for_a_moment_while_it_is_moved() -> None:
    class Stores(bytearray):
        def __setitem__(self, place: Any, value: Any) -> None:
            stores.append((place, value))
            super().__setitem__(place, value)

    trace, stores = Trace(), list[tuple[Any, Any]]()
    trace.doubt()
    trace.move(Stores([1, *[0] * (SIZE - 1)]))
    assert stores
    assert (0, 0) not in stores


def test_memory_in_which_nothing_is_noted_any_more_is_in_doubt() -> None:
    trace, first = Trace(), bytearray(SIZE)
    trace.move(first)
    trace.move(first)
    assert not first[0]
    trace.move(None)
    assert first[0]


def test_a_child_that_closes_its_parents_connection_notes_nothing_of_it() -> None:
    trace, use = Trace(), Use()
    shared = mmap.mmap(-1, SIZE)
    shared[0] = 1
    trace.move(shared)
    use.note(trace)
    in_child(use.end)
    assert sum(shared[:]) == 1
    use.end()
    assert sum(shared[:]) == 0


def test_what_has_a_place_is_in_use_when_it_is_moved() -> None:
    trace, use = Trace(), Use()
    use.note(trace)
    ((_, taken),) = use.places
    trace.memory[taken] = 0
    moved = bytearray([1, *[0] * (SIZE - 1)])
    trace.move(moved)
    assert moved == bytes([*[0] * taken, 1, *[0] * (SIZE - taken - 1)])
    use.end()
    assert moved == bytes(SIZE)
