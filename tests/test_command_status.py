"""`sa-readonly status`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from sa_readonly import FileSwitch, Mode
from tests.test_command_on_off import running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "read-only.txt"


def test_watch_tells_one_line_a_change_until_ctrl_c(file: Path) -> None:
    switch = FileSwitch(file)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running("status", "--watch", "--file", file, **pipes) as process:
        assert process.stdout is not None
        nothing = f"workers: {file}.workers; workers: 0, noticed: 0, drained: 0"
        line = process.stdout.readline()
        assert line.endswith(f" file: {file}; mode: read-write; {nothing}\n")
        switch.enable("Upgrade\nof 18")
        line = process.stdout.readline()
        assert "; mode: read-only; reason: Upgrade / of 18; until: not given; since: " in line
        switch.disable()
        assert "; mode: read-write; since: " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_watch_tells_when_it_is_overdue_though_the_file_does_not_change(file: Path) -> None:
    with running("status", "--watch", "--json", "--file", file, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["mode"] == "read-write"
        FileSwitch(file).enable(until=datetime.now(timezone.utc) + timedelta(seconds=1))
        before = file.stat()
        while not json.loads(process.stdout.readline())["overdue"]:
            pass
        assert file.stat() == before
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


def test_watch_tells_the_error_of_a_directory_that_goes_away(tmp_path: Path) -> None:
    directory = tmp_path / "mounted"
    directory.mkdir()
    file = directory / "read-only.txt"
    file.touch()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running("status", "--watch", "--file", file, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "; mode: read-only; " in process.stdout.readline()
        directory.rename(tmp_path / "unmounted")
        line = process.stderr.readline()
        assert line.startswith(f"ERROR {file} is gone together with its directory")
        process.send_signal(signal.SIGTERM)
        assert process.communicate() == ("", "")
    assert process.returncode == 128 + signal.SIGTERM


def test_watch_draws_the_state_again_on_a_terminal(file: Path) -> None:
    switch = FileSwitch(file)
    kept = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    ours, theirs = pty.openpty()
    terminal = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    environment = {**kept, "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "24"}
    arguments = ("status", "--watch", "--file", file)
    with running(*arguments, env=environment, **terminal) as process:
        os.close(theirs)
        output = ""

        def read_until(text: str) -> None:
            nonlocal output
            while text not in output:
                output += os.read(ours, 4096).decode()

        read_until("Ctrl-C ends this.")
        assert "mode     read-write" in output
        switch.enable("Upgrade")
        read_until("reason   Upgrade")
        assert "\x1b[2K" in output  # a line is drawn again
        process.send_signal(signal.SIGINT)
        read_until("\x1b[?25h")  # the cursor is back
        assert process.wait() == 0
    os.close(ours)
    assert switch.state.mode is Mode.READ_ONLY  # which watching leaves as it is
