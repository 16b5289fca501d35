"""`sa-readonly run`: a job that would rather wait than fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sa_readonly import FileSwitch
from tests.test_command_on_off import command, refused, running

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
PYTHON = (sys.executable, "-c")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "read-only.txt"


def ran(file: Path, *arguments: str, **options: Any) -> tuple[int, str, str]:
    with running("run", "--file", file, *arguments, **{**PIPES, **options}) as process:
        stdout, stderr = process.communicate()
        return process.returncode, stdout, stderr


def test_the_command_takes_its_place_with_its_pid_arguments_and_exit_code(file: Path) -> None:
    code = "import os, sys; print(os.getpid(), sys.argv[1:]); sys.exit(7)"
    arguments = ["--", *PYTHON, code, "--wait", "-x", "--", "a b"]
    with running("run", "--file", file, *arguments, **PIPES) as process:
        stdout, stderr = process.communicate()
    told = f"{process.pid} ['--wait', '-x', '--', 'a b']\n"
    assert (process.returncode, stdout, stderr) == (7, told, "")


def test_options_after_the_command_are_its_own_without_dashes_too(file: Path) -> None:
    assert ran(file, "echo", "--mode", "x") == (0, "--mode x\n", "")


def test_a_signal_reaches_the_command(file: Path) -> None:
    code = "import signal; print('ready', flush=True); signal.pause()"
    with running("run", "--file", file, "--", *PYTHON, code, **PIPES) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == -signal.SIGTERM


def test_the_command_ends_by_a_closed_pipe_as_in_a_shell(file: Path) -> None:
    assert ran(file, "grep", "SigIgn", "/proc/self/status") == ran(
        file, "sh", "-c", "grep SigIgn /proc/self/status"
    )
    stdout = ran(file, "grep", "SigIgn", "/proc/self/status")[1]
    assert not int(stdout.split()[1], 16) & (1 << (signal.SIGPIPE - 1))


def test_it_waits_until_the_file_goes(file: Path) -> None:
    switch = FileSwitch(file)
    switch.enable("Upgrade")
    ours, theirs = os.openpty()
    options = {**PIPES, "stderr": theirs}
    arguments = ("run", "--wait", "1m", "--file", file, "--", "echo", "done")
    with running(*arguments, **options) as process:
        os.close(theirs)
        # to a person it says that it waits, and to a log nothing
        said = os.read(ours, 1000).decode()
        assert said == "It is read-only. Waiting 60 s at most; Ctrl-C ends it.\r\n"
        switch.disable()
        assert process.communicate()[0] == "done\n"
    os.close(ours)
    assert process.returncode == 0


@pytest.mark.parametrize("wait", [[], ["--wait", "0.3"]])
def test_when_it_is_read_only_all_the_time_it_exits_with_75(file: Path, wait: list[str]) -> None:
    FileSwitch(file).enable("Upgrade\nof 18")
    said = "It is read-only (Upgrade / of 18): echo is not run.\n"
    assert ran(file, *wait, "--", "echo", "done") == (75, "", said)


def test_a_command_may_ask_for_read_only(file: Path) -> None:
    said = "It is read-write: echo is not run.\n"
    assert ran(file, "--mode", "read-only", "--", "echo", "done") == (75, "", said)
    file.touch()
    assert ran(file, "--mode", "read-only", "--", "echo", "done") == (0, "done\n", "")


def test_a_command_that_is_missing_exits_with_127_and_one_that_cannot_be_run_with_126(
    file: Path,
) -> None:
    said = "no-such-command: No such file or directory\n"
    assert ran(file, "--", "no-such-command") == (127, "", said)
    script = file.with_name("script")
    script.write_text("#!/bin/sh\n")
    assert ran(file, "--", str(script)) == (126, "", f"{script}: Permission denied\n")
    assert ran(file, "--", str(file.parent)) == (126, "", f"{file.parent}: Permission denied\n")


def test_a_file_that_cannot_be_looked_at_means_later(file: Path) -> None:
    said = refused(command("run", "--file", file.with_name("x" * 300), "--", "echo"), 75)
    assert "can't be looked at: " in said


def test_ctrl_c_ends_the_waiting_with_130(file: Path) -> None:
    file.touch()
    ours, theirs = os.openpty()
    arguments = ("run", "--wait", "1m", "--file", file, "--", "echo", "done")
    with running(*arguments, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        assert os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        assert process.communicate()[0] == ""
    os.close(ours)
    assert process.returncode == 130


def test_without_a_command_it_is_a_usage_error(file: Path) -> None:
    assert refused(command("run", "--file", file), 2) == "Missing argument 'COMMAND...'."
    said = refused(command("run", "--wait", "-1", "--file", file, "echo"), 2)
    assert said.startswith("Invalid value for '--wait': '-1' is no duration")
