"""FileSwitch: what at its path means read-only, and which paths it takes."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sa_readonly import switch as switch_module
from sa_readonly.errors import ConfigurationError
from sa_readonly.mode import Mode
from sa_readonly.switch import FileSwitch
from tests.switches import RO, RW, in_threads, join, log, path, stats

__all__ = ["log", "path", "stats"]  # fixtures


# -- what means read-only ---------------------------------------------------------------------


def _directory(path):
    path.mkdir()


def _fifo(path):
    os.mkfifo(path)


def _dangling(path):
    path.symlink_to("nowhere")


def _loop(path):
    path.symlink_to(path.name)


def _socket(path):
    before = os.getcwd()
    os.chdir(path.parent)  # a socket's path may be 107 bytes long at most
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def test_no_file_means_read_write(path):
    switch = FileSwitch(path)
    assert (switch.state.mode, switch.read_only) == (RW, False)
    assert (switch.state.reason, switch.state.until, switch.state.generation) == (None, None, None)


def test_an_empty_file_means_read_only_without_a_reason(path):
    path.touch()
    state = FileSwitch(path).state
    assert (state.mode, state.reason, state.until) == (RO, None, None)


@pytest.mark.parametrize("make", [_directory, _fifo, _dangling, _loop, _socket])
@pytest.mark.parametrize("early", [True, False])
def test_what_is_no_regular_file_means_read_only_with_a_warning(path, log, make, early):
    if early:
        make(path)
    switch = FileSwitch(path)
    if not early:
        make(path)
    state = switch.check()
    assert (state.mode, state.reason) == (RO, None)
    warning = f"{path} is not a regular file. It means read-only all the same."
    for _ in range(3):
        switch.check()
    assert [text for level, text in log() if level == "WARNING"].count(warning) == 1


def test_the_text_behind_a_symlink_to_the_same_directory_is_read(path):
    (path.parent / "other").write_text("moved")
    path.symlink_to("other")
    assert FileSwitch(path).state.reason == "moved"


@pytest.mark.parametrize("relative", [True, False])
def test_the_text_behind_a_symlink_out_of_the_directory_is_not_read(path, tmp_path, log, relative):
    secret = tmp_path / "secret"
    secret.write_text("password")
    path.symlink_to("../secret" if relative else secret)
    state = FileSwitch(path).state
    assert (state.mode, state.reason) == (RO, None)
    assert "password" not in str(log())
    assert any("leads out of its directory" in text for _, text in log())


def test_a_file_that_becomes_a_fifo_before_it_is_opened_blocks_nobody(path, monkeypatch, log):
    path.write_text("text")
    realpath = os.path.realpath

    def swap(name, **options):
        real = realpath(name, **options)
        if name == str(path):
            path.unlink()
            os.mkfifo(path)
        return real

    monkeypatch.setattr(os.path, "realpath", swap)
    threads, results = in_threads(1, lambda: FileSwitch(path).state)
    join(threads)
    assert (results[0].mode, results[0].reason) == (RO, None)
    assert any("no regular file" in text for _, text in log())


def test_a_file_whose_text_may_not_be_read_means_read_only(path, log):
    path.write_text("text")
    path.chmod(0)
    if os.geteuid() == 0:
        return  # permissions don't bind root
    assert FileSwitch(path).state == FileSwitch(path).state
    assert FileSwitch(path).state.mode is RO
    assert any("is not read" in text for _, text in log())


# -- the path and the settings ----------------------------------------------------------------


def test_a_relative_path_is_made_absolute_when_the_switch_is_made(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    switch = FileSwitch("read-only.txt")
    monkeypatch.chdir("/")
    assert switch.path == str(path)
    path.touch()
    assert switch.check().mode is RO


def test_dots_after_a_symlink_lead_where_the_kernel_goes(tmp_path):
    (tmp_path / "release" / "app").mkdir(parents=True)
    (tmp_path / "current").symlink_to("release/app")
    (tmp_path / "release" / "read-only.txt").touch()
    assert FileSwitch(tmp_path / "current" / ".." / "read-only.txt").read_only


def test_a_missing_parent_directory_is_a_configuration_error_that_names_it(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        FileSwitch(tmp_path / "typo" / "read-only.txt")
    assert str(caught.value) == (
        f"The directory {tmp_path}/typo of the file {tmp_path}/typo/read-only.txt does not exist. "
        "A mistyped path would mean read-write for ever: create the directory, or correct the path."
    )


def test_a_parent_that_is_a_file_is_a_configuration_error(path):
    path.touch()
    with pytest.raises(ConfigurationError, match="does not exist"):
        FileSwitch(path / "read-only.txt")


@pytest.mark.parametrize("wrong", ["", None, 7, b"/tmp/x", "/tmp/a\0b", "/tmp/\ud800", []])
def test_what_is_no_path_is_a_configuration_error(wrong):
    with pytest.raises(ConfigurationError, match=r"FileSwitch\(path\) takes the path"):
        FileSwitch(wrong)


@pytest.mark.parametrize("name", ["read-only.txt\n", " read-only.txt", "read-only.txt\r", "  "])
def test_a_path_with_white_space_around_it_is_a_configuration_error(path, name):
    with pytest.raises(ConfigurationError, match="begins or ends with white space"):
        FileSwitch(name if name.startswith(" ") else f"{path.parent}/{name}")


@pytest.mark.parametrize(
    "ttl", [-1, -0.001, math.nan, math.inf, -math.inf, True, "1", None, 10**400, 1j]
)
def test_a_ttl_that_is_no_number_of_seconds_is_a_configuration_error(path, ttl):
    with pytest.raises(ConfigurationError, match="ttl takes a number of seconds"):
        FileSwitch(path, ttl=ttl)


def test_a_name_that_is_too_long_means_read_only_and_one_error(path, log):
    switch = FileSwitch(path.parent / ("x" * 300))
    for _ in range(5):
        assert switch.check().mode is RO
    assert [level for level, _ in log()] == ["ERROR"]


@pytest.mark.parametrize("value", list(Mode))
def test_the_environment_forces_the_mode_with_one_warning_and_no_look(
    path, monkeypatch, log, stats, value
):
    monkeypatch.setenv("SA_READONLY_FORCE", str(value))
    switch = FileSwitch(path, ttl=0)
    stats.count = 0
    (path.touch if value is RW else path.unlink)(*([] if value is RW else [True]))
    stats.count = 0
    states = [switch.state, switch.check(), switch.refresh()]
    assert {state.mode for state in states} == {value}
    assert states[0].reason == f"SA_READONLY_FORCE={value}"
    assert stats.count == 0
    assert log() == [
        (
            "WARNING",
            f"SA_READONLY_FORCE={value} forces this process: {path} is not looked at.",
        )
    ]


def test_an_empty_variable_forces_nothing(path, monkeypatch):
    monkeypatch.setenv("SA_READONLY_FORCE", "")
    path.touch()
    switch = FileSwitch(path, ttl=0)
    assert (switch.forced, switch.known.mode) == (None, RO)
    path.unlink()
    assert switch.check().mode is RW


@pytest.mark.parametrize("value", ["readonly", "READ-ONLY", "1"])
def test_nonsense_in_the_environment_is_a_configuration_error(path, monkeypatch, value):
    monkeypatch.setenv("SA_READONLY_FORCE", value)
    with pytest.raises(ConfigurationError, match="Set it to read-write or read-only, or unset it"):
        FileSwitch(path)


def test_importing_touches_no_file_of_ours_and_starts_no_thread():
    code = """
import os, sys, threading, logging, tempfile, sqlalchemy.orm, sqlalchemy.ext.asyncio
done = []
def hook(event, args):
    if event == "_thread.start_new_thread":
        done.append(event)
    if event == "open" and not str(args[0]).endswith((".py", ".pyc")):
        done.append((event, args[0]))
sys.addaudithook(hook)
import sa_readonly.switch
assert not done, done
assert threading.active_count() == 1
"""
    root = Path(switch_module.__file__).parent.parent
    subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", code], cwd=root, check=True, timeout=60
    )


# -- which file it is -------------------------------------------------------------------------


def test_identify_asks_the_file_system_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "read-only.txt"
    switch = FileSwitch(path, ttl=60)
    known = switch.known
    assert switch.identify() is None
    path.touch()
    generation = switch.identify()
    assert switch.known is known
    assert generation == switch.check().generation
    path.write_text("another text")
    assert switch.identify() not in (None, generation)


def test_identify_raises_where_the_directory_is_gone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    switch = FileSwitch(tmp_path / "there" / "read-only.txt")
    (tmp_path / "there").rmdir()
    with pytest.raises(FileNotFoundError):
        switch.identify()
