"""A directory of workers: which user may register, read and be believed, and where."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sa_readonly import ConfigurationError
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import RegistryError
from tests.workers import Place, in_child, place

__all__ = ["place"]  # a fixture


NOBODY = 65534


@pytest.fixture
def common() -> Iterator[Place]:
    """A place which any user can reach; pytest's own is for one alone."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        place = Place(Path(directory))
        yield place
        for entry in place.entries:
            entry.close()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
def test_a_report_of_another_user_than_the_lock_is_foreign(common: Place) -> None:
    entry = common.register()
    common.on()
    common.acknowledge(entry)
    os.chown(common.report_of(entry), NOBODY, NOBODY)
    assert common.whys() == ["its report is foreign: not a file of who holds the lock"]


@needs_root
def test_an_entry_of_who_may_not_write_there_is_foreign(common: Place) -> None:
    entry = common.register()
    common.on()
    common.acknowledge(entry)
    for path in common.path.iterdir():
        os.chown(path, NOBODY, NOBODY)
    assert common.whys() == [f"foreign: it belongs to user {NOBODY}, who may not register here"]
    os.chmod(common.path, 0o770)
    assert common.look().holds


@needs_root
def test_who_may_not_read_an_entry_is_told_so_and_sees_nobody_drained(common: Place) -> None:
    entry = common.register()
    common.on()
    common.acknowledge(entry)
    os.chmod(common.path, 0o755)

    def child() -> None:
        why = "can't tell if it lives: its lock is not readable, Permission denied"
        assert common.whys() == [why]
        os.umask(0)

    in_child(child, user=NOBODY)
    os.chmod(common.path / f"{entry.name}.lock", 0o644)

    def child_that_may_lock() -> None:
        assert common.whys() == ["its report is not readable, Permission denied"]

    in_child(child_that_may_lock, user=NOBODY)
    os.chmod(common.path, 0o700)

    def child_outside() -> None:
        one = common.one()
        assert (one.name, one.problem) == (str(common.path), "Permission denied")
        assert common.whys() == ["Permission denied"]

    in_child(child_outside, user=NOBODY)


@needs_root
def test_a_worker_that_cant_write_into_the_directory_is_told_so(common: Place) -> None:
    os.chmod(common.file.parent, 0o755)

    def child() -> None:
        with pytest.raises(RegistryError) as caught:
            common.register()
        assert str(caught.value) == (
            f"This process can't register in {common.path} (Permission denied): nobody can wait "
            "for it. Make a directory there into which it may write."
        )

    in_child(child, user=NOBODY)
    common.path.mkdir(0o755)
    in_child(child, user=NOBODY)
    assert common.names() == []


@needs_root
def test_a_directory_that_becomes_read_only_stops_reports_but_no_withdrawal(common: Place) -> None:
    common.path.mkdir()
    os.chown(common.path, NOBODY, NOBODY)
    common.on()

    def child() -> None:
        entry = common.register()
        common.acknowledge(entry)
        os.chmod(common.path, 0o500)
        entry.withdraw()
        assert common.whys() == ["has not noticed"]
        with pytest.raises(RegistryError, match=r"can't be written \(Permission denied\)"):
            common.acknowledge(entry)
        assert common.whys() == ["has not noticed"]
        os.chmod(common.report_of(entry), 0o400)
        os.chmod(common.path, 0o700)
        common.acknowledge(entry)
        os.chmod(common.report_of(entry), 0o400)
        os.chmod(common.path, 0o500)
        with pytest.raises(RegistryError, match="can't be taken back"):
            entry.withdraw()

    in_child(child, user=NOBODY)


@needs_root
def test_workers_of_a_group_share_a_directory_that_root_made_for_it(common: Place) -> None:
    common.path.mkdir()
    os.chown(common.path, 0, NOBODY)
    os.chmod(common.path, 0o2770)
    entry = common.register()
    common.on()
    common.acknowledge(entry)
    found = (common.path / f"{entry.name}.lock").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, NOBODY)
    assert stat.S_IMODE(common.report_of(entry).stat().st_mode) == 0o640

    def child() -> None:
        mine = common.register()
        assert len(common.read()) == 2
        assert common.whys() == ["has not reported"]
        common.acknowledge(mine)
        assert common.look().holds

    in_child(child, user=NOBODY)
    assert common.look().holds  # the child is dead, and had acknowledged


@pytest.mark.parametrize(
    ("above", "made"), [(0o755, 0o750), (0o700, 0o700), (0o2775, 0o2770), (0o1777, 0o700)]
)
def test_the_directory_is_made_for_whom_the_one_above_is_meant(
    place: Place, above: int, made: int
) -> None:
    os.chmod(place.file.parent, above)
    place.register()
    assert stat.S_IMODE(place.path.stat().st_mode) == made


def test_a_symlink_in_the_place_of_the_directory_is_not_followed(place: Place) -> None:
    place.on()
    other = place.path.with_name("other")
    for target in ("missing", other):
        place.path.symlink_to(target)
        message = (
            f"The directory of workers {place.path} is a symlink, which is not followed. Give the "
            "path of the directory itself."
        )
        with pytest.raises(RegistryError) as caught:
            place.register()
        assert str(caught.value) == message
        assert place.whys() == [message]
        assert not (place.file.parent / "missing").exists()
        place.path.unlink()
        other.mkdir(exist_ok=True)


def test_a_directory_that_anybody_may_write_is_not_used(place: Place) -> None:
    place.path.mkdir()
    os.chmod(place.path, 0o1777)
    place.on()
    message = (
        f"The directory of workers {place.path} may be written by anybody, who could remove "
        "entries. Take that away: chmod o-w."
    )
    with pytest.raises(RegistryError) as caught:
        place.register()
    assert str(caught.value) == message
    assert place.whys() == [message]


@needs_root
def test_a_directory_of_somebody_else_below_one_for_everybody_is_not_used(place: Place) -> None:
    place.path.mkdir()
    os.chown(place.path, NOBODY, NOBODY)
    os.chmod(place.file.parent, 0o1777)
    place.on()
    with pytest.raises(RegistryError, match=f"belongs to user {NOBODY}, and anybody may have"):
        place.register()
    assert len(place.whys()) == 1
    os.chmod(place.file.parent, 0o755)  # where only root can have put it
    place.register()


def test_a_file_in_the_place_of_the_directory_is_named(place: Place) -> None:
    place.path.touch()
    place.on()
    with pytest.raises(RegistryError, match="Not a directory"):
        place.register()
    assert place.whys() == ["Not a directory"]


@pytest.mark.parametrize("path", [None, 7, "", b"", "a\0b", object()])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="workers takes the path of a directory"):
        DirectoryRegistry(path)


def test_a_relative_path_is_made_absolute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registry = DirectoryRegistry("workers")
    monkeypatch.chdir("/")
    assert registry.path == str(tmp_path / "workers")
    assert repr(registry) == f"DirectoryRegistry({registry.path!r})"
