"""FileSwitch: a file or directory that can't be looked at, or vanishes."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from sa_readonly.switch import FileSwitch
from tests.switches import REAL_STAT, RO, RW, log, nothing, path, raiser, stats

__all__ = ["log", "path", "stats"]  # fixtures


@contextlib.contextmanager
def no_permission(directory):
    """Have the kernel answer EACCES below `directory`; root drops to another user for that."""
    os.chmod(directory, 0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        os.chmod(directory, 0o700)


@pytest.mark.parametrize("there", [True, False])
def test_permission_lost_keeps_the_mode_and_permission_regained_ends_it(path, log, there):
    if there:
        path.touch()
    switch = FileSwitch(path)
    mode = switch.state.mode
    with no_permission(path.parent):
        for _ in range(5):
            assert switch.check().mode is mode
    path.unlink() if there else path.touch()
    assert switch.check().mode is not mode
    texts = [text for level, text in log() if level == "ERROR"]
    assert len(texts) == 1
    assert texts[0].endswith(f": the mode stays {mode}.")
    assert ("INFO", f"{path} can be looked at again.") in log()


def test_at_the_start_a_stat_that_fails_means_read_only(path, log):
    with no_permission(path.parent):
        switch = FileSwitch(path)
        assert switch.state.mode is RO
        assert "can't be looked at" in switch.state.reason
        assert [level for level, _ in log()] == ["ERROR"]
    assert switch.check().mode is RW


def test_a_file_seen_after_a_start_in_trouble_tells_its_reason(path, log):
    path.write_text("upgrade")
    with no_permission(path.parent):
        switch = FileSwitch(path)
    state = switch.check()
    assert (state.mode, state.reason) == (RO, "upgrade")
    assert state.generation is not None
    assert any("upgrade" in text for _, text in log())


def test_a_stat_that_fails_anew_is_logged_anew(path, stats, log):
    switch = FileSwitch(path)
    for _ in range(2):
        stats.before = raiser(errno.EIO)
        switch.check()
        stats.before = nothing
        switch.check()
    assert [level for level, _ in log()] == ["ERROR", "INFO"] * 2


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT])
@pytest.mark.parametrize("there", [True, False])
def test_a_stat_that_fails_keeps_the_mode_and_makes_one_error_however_many_looks(
    path, stats, log, number, there
):
    if there:
        path.touch()
    switch = FileSwitch(path)
    mode = switch.state.mode
    stats.before = raiser(number)
    for _ in range(10):
        assert switch.check().mode is mode
    assert [level for level, _ in log()].count("ERROR") == 1


def test_start_in_trouble_in_a_directory_that_then_vanishes_stays_read_only(path, stats):
    stats.before = raiser(errno.EIO)
    switch = FileSwitch(path)
    stats.before = nothing
    path.parent.rmdir()
    assert switch.check().mode is RO


def test_a_file_gone_with_its_directory_does_not_mean_read_write(path, log):
    path.touch()
    switch = FileSwitch(path)
    away = path.parent.with_name("away")
    path.parent.rename(away)
    for _ in range(3):
        assert switch.check().mode is RO
    path.parent.mkdir()  # the empty mount point
    for _ in range(3):
        assert switch.check().mode is RO
    assert [level for level, _ in log()] == ["WARNING", "ERROR"]
    path.parent.rmdir()
    away.rename(path.parent)
    assert switch.check().mode is RO
    path.unlink()
    assert switch.check().mode is RW


def test_a_file_that_appears_and_goes_in_the_new_directory_ends_it(path):
    path.touch()
    switch = FileSwitch(path)
    path.parent.rename(path.parent.with_name("away"))
    path.parent.mkdir()
    assert switch.check().mode is RO
    path.touch()
    assert switch.check().mode is RO
    path.unlink()
    assert switch.check().mode is RW


def test_a_file_system_mounted_anew_holds_the_same_directory(path, monkeypatch):
    """A network file system has another device number then."""
    path.touch()
    switch = FileSwitch(path)

    class Mounted:
        def __init__(self, found):
            self.found, self.st_dev = found, found.st_dev + 1

        def __getattr__(self, name):
            return getattr(self.found, name)

    monkeypatch.setattr(os, "stat", lambda *a, **k: Mounted(REAL_STAT(*a, **k)))
    assert switch.check().mode is RO
    path.unlink()
    assert switch.check().mode is RW


def test_a_directory_swapped_during_the_look_does_not_mean_read_write(path, stats):
    path.touch()
    switch = FileSwitch(path)
    away, other = path.parent.with_name("away"), path.parent.with_name("other")
    other.mkdir()

    def hide(name):
        if name == str(path):
            path.parent.rename(away)
            other.rename(path.parent)

    stats.before = hide
    assert switch.check().mode is RO


def test_something_seen_means_read_only_even_while_its_directory_is_swapped(path, monkeypatch):
    switch = FileSwitch(path)
    path.touch()
    counter = iter(range(10**6))
    monkeypatch.setattr(switch, "_directory_now", lambda: (1, next(counter)))
    assert switch.check().mode is RO


@pytest.fixture
def releases(tmp_path):
    """Two releases with one file, by hard links, and a symlink to the current one."""
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "current").symlink_to("1")
    switch = FileSwitch(tmp_path / "current" / "ro.txt", ttl=0)
    (tmp_path / "1" / "ro.txt").touch()
    os.link(tmp_path / "1" / "ro.txt", tmp_path / "2" / "ro.txt")
    assert switch.check().mode is RO
    return switch


def make_current(tmp_path, release):
    (tmp_path / "new").symlink_to(release)
    os.replace(tmp_path / "new", tmp_path / "current")


def test_a_hard_link_seen_in_the_next_release_is_removed_there(releases, tmp_path):
    make_current(tmp_path, "2")
    assert releases.check().mode is RO
    (tmp_path / "current" / "ro.txt").unlink()
    assert releases.check().mode is RW


def test_a_hard_link_seen_in_the_next_release_is_not_removed_by_going_back(releases, tmp_path):
    make_current(tmp_path, "2")
    assert releases.check().mode is RO
    (tmp_path / "1" / "ro.txt").unlink()
    make_current(tmp_path, "1")
    assert releases.check().mode is RO
