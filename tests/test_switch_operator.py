"""FileSwitch: enable and disable, by which an operator writes the file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from datetime import datetime, timedelta, timezone

import pytest

from sa_readonly.switch import FileSwitch
from tests.switches import RO, RW, UTC, path

__all__ = ["path"]  # a fixture


def test_enable_writes_what_is_read_back_and_disable_removes_it(path):
    switch = FileSwitch(path)
    until = datetime(2030, 5, 6, 7, 8, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    state = switch.enable("upgrade\nof the disks", until)
    assert (state.mode, state.reason, state.until) == (RO, "upgrade\nof the disks", until)
    assert state.until.tzinfo is UTC
    assert FileSwitch(path).state.reason == "upgrade\nof the disks"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == [path.name]
    assert switch.disable().mode is RW
    assert switch.disable().mode is RW
    assert os.listdir(path.parent) == []


def test_enable_replaces_a_file_that_is_there(path):
    path.write_text("old")
    assert FileSwitch(path).enable("new").reason == "new"


def test_enable_replaces_a_symlink_and_not_what_it_leads_to(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("password")
    path.symlink_to(secret)
    assert FileSwitch(path).enable("new").reason == "new"
    assert secret.read_text() == "password"
    assert not path.is_symlink()


def test_enable_over_a_directory_fails_and_leaves_it(path):
    path.mkdir()
    switch = FileSwitch(path)
    with pytest.raises(OSError):
        switch.enable("new")
    with pytest.raises(OSError):
        switch.disable()
    assert os.listdir(path.parent) == [path.name]
    assert switch.check().mode is RO


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_enable_on_a_full_disk_leaves_the_old_state_and_no_temporary_file(
    path, monkeypatch, old, call
):
    if old is not None:
        path.write_text(old)
    switch = FileSwitch(path)
    before = switch.state

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space"):
            switch.enable("new")
    assert os.listdir(path.parent) == ([] if old is None else [path.name])
    assert switch.check() == before


def test_enable_works_for_the_longest_name_there_is(path):
    long = path.parent / ("x" * 255)
    assert FileSwitch(long).enable("new").reason == "new"


def test_enable_works_in_a_directory_that_may_not_be_listed(path, monkeypatch):
    opened = os.open

    def deny(name, flags, *args, **options):
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(name, flags, *args, **options)

    monkeypatch.setattr(os, "open", deny)
    switch = FileSwitch(path)
    assert switch.enable("new").mode is RO
    assert switch.disable().mode is RW


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_directory_that_fails_to_reach_the_disk_is_an_error_where_it_could(
    path, monkeypatch, number, raised
):
    fsync = os.fsync

    def fail(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    switch = FileSwitch(path)
    with pytest.raises(OSError, match="Input/output") if raised else contextlib.nullcontext():
        switch.enable("new")
    assert switch.check().reason == "new"


def test_enable_and_disable_bring_the_directory_to_the_disk(path, monkeypatch):
    synced = []
    fsync = os.fsync

    def note(descriptor):
        synced.append(
            os.path.isdir(f"/proc/self/fd/{descriptor}") if os.path.isdir("/proc") else None
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    switch = FileSwitch(path)
    switch.enable()
    switch.disable()
    assert synced == [False, True, True]


@pytest.mark.parametrize(
    ("reason", "until", "message"),
    [
        ("x" * 4096, None, "reason is too long: 4097 bytes, of which 4096 are read."),
        ("a\nUntil: 2030-01-01", None, "reason has a line that would be read as until."),
        ("a\udc80", None, "surrogates not allowed"),
        ("a", datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))), "until is out of range"),
    ],
)
def test_enable_refuses_what_would_be_read_otherwise_and_writes_nothing(
    path, reason, until, message
):
    with pytest.raises(ValueError, match=message):
        FileSwitch(path).enable(reason, until)
    assert os.listdir(path.parent) == []
