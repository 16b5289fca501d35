"""`sa-readonly demo`."""

from __future__ import annotations

import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result

from sa_readonly.cli import main
from sa_readonly.command.demo_application import Watch, run
from sa_readonly.command.demo_outcome import HALF_WAY, Kind, Outcome
from tests.app import once

ROOT = Path(__file__).parent.parent
# ResourceWarning too: what is not closed is told at the end, on stderr.
COMMAND = [sys.executable, "-W", "error", "-m", "sa_readonly.cli", "demo"]
SECONDS = 1.5
T = TypeVar("T")
CHECKS = [
    "Every committed write is in the read-write database, and nothing else.",
    "No write is in the read-only database.",
    "No read failed.",
    "Every write that was not committed raised ReadOnlyError, and wrote nothing.",
    "No transaction used two databases.",
    "Until the file appeared, every transaction was read-write.",
    "From ttl after it appeared until it went, every transaction was read-only.",
    "From ttl after it was gone, every transaction was read-write.",
    "The file was seen to appear.",
    "The file was seen to go.",
]


def environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM", "COLUMNS")}
    return {**kept, "TERM": "xterm-256color", **changes}


def demo(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def invoke(*arguments: str) -> Result:
    """The command in this process, which is faster."""
    return CliRunner().invoke(main, ["demo", *arguments], prog_name="sa-readonly")


def long_enough(work: Callable[[float], T], told: Callable[[T], str]) -> T:
    """Once more and for longer, where a busy machine has done too little to tell."""
    done = work(SECONDS)
    return work(10 * SECONDS) if "to tell" in told(done) else done


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo of this process makes its files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def meddling(place: Path, statement: str) -> Callable[..., Outcome]:
    """Return the demo with a stranger who sends a statement to its read-only database."""

    def meddled(*, watch: Watch, **how: Any) -> Outcome:
        sent: list[str] = []

        def meddle(elapsed: float, phase: int, told: str) -> None:
            watch(elapsed, phase, told)
            if phase == 1 and not sent:
                (file,) = place.glob("sa-readonly-demo-*/read-only.db")
                with closing(sqlite3.connect(file)) as connection, connection:
                    connection.execute(statement)
                sent.append(statement)

        return run(watch=meddle, **how)

    return meddled


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return long_enough(lambda seconds: run(seconds=seconds), lambda outcome: str(outcome.checks))


# -- what a user sees ------------------------------------------------------------------------


def test_the_demo_exits_with_0_and_shows_each_check(tmp_path: Path) -> None:
    done = long_enough(
        lambda seconds: demo("--seconds", str(seconds), TMPDIR=str(tmp_path)),
        lambda done: done.stdout,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    held = re.findall(r"^holds +(.+?\.) (?=\S)", done.stdout, re.MULTILINE)
    assert held == CHECKS
    assert done.stdout.endswith("\nAll 10 hold.\n")
    assert list(tmp_path.iterdir()) == []  # its files are gone


@once
def test_the_output_is_plain_when_it_is_not_a_terminal() -> None:
    done = invoke("--seconds", "3")
    assert done.exit_code == 0, done.output
    assert re.search(r"[^\n\x20-\x7e]", done.output) is None
    stages = re.findall(r"^\d\.\d s: (read-only.txt is [a-z ]+);", done.output, re.MULTILINE)
    there = ["read-only.txt is not there", "read-only.txt is there"]
    assert stages == [*there, "read-only.txt is gone", "read-only.txt is gone"]
    # and between them what the application, not the operator, logs
    flips = re.findall(r"^log: (\w+) sa_readonly: (\S+ -> \S+):", done.output, re.MULTILINE)
    assert flips == [("WARNING", "read-write -> read-only"), ("WARNING", "read-only -> read-write")]


def on_a_terminal(**changes: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--seconds", str(SECONDS)],
        cwd=ROOT,
        env=environment(**changes),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        output = bytearray()
        with open(ours, "rb", buffering=0) as terminal:
            try:
                while chunk := terminal.read(4096):
                    output += chunk
            except OSError:  # how Linux says that nobody holds the other end any more
                pass
        return process.wait(60), output.decode()


@once
def test_a_terminal_gets_a_bar_a_line_that_lives_and_a_table() -> None:
    code, output = on_a_terminal(COLUMNS="120")
    assert code == 0, output
    assert "\x1b[2K" in output  # a line is drawn again
    assert "\u2501" in output  # the bar
    assert "What must hold" in output
    for line in ("read-only.txt is not there", "transactions: ", "writes: ", "All 10 hold."):
        assert line in output


@once
@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, pytest.param({"TERM": "dumb"}, marks=once)])
def test_a_terminal_that_wants_it_plain_gets_it_plain(setting: dict[str, str]) -> None:
    code, output = on_a_terminal(**setting)
    assert code == 0, output
    assert "All 10 hold." in output
    assert "\x1b" not in output


# -- what does not hold ----------------------------------------------------------------------


def test_a_write_that_reaches_the_read_only_database_makes_it_exit_with_1(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = "INSERT INTO entry VALUES (7, 'foreign')"
    monkeypatch.setattr("sa_readonly.command.demo.run", meddling(place, insert))
    done = long_enough(lambda seconds: invoke("--seconds", str(seconds)), lambda done: done.stdout)
    assert done.exit_code == 1, done.output
    wrong = re.findall(r"^DOES NOT HOLD +(.+)$", done.stdout, re.MULTILINE)
    assert wrong == ["No write is in the read-only database. 1 found"]
    assert done.stdout.endswith("\n1 of 10 do not hold.\n")


def test_where_the_row_that_names_a_database_is_lost_it_does_not_hold(place: Path) -> None:
    outcome = meddling(place, "DELETE FROM entry")(seconds=SECONDS, watch=lambda *_: None)
    assert not outcome.holds
    wrong = [check.name for check in outcome.checks if not check.holds]
    # what is not known is not right
    assert "From ttl after it appeared until it went, every transaction was read-only." in wrong


def test_all_holds_in_the_outcome_of_an_ordinary_run(outcome: Outcome) -> None:
    assert [check for check in outcome.checks if not check.holds] == []
    assert outcome.holds
    assert any(
        kind.phase == HALF_WAY for kind in outcome.transactions
    )  # some transactions were caught half-way
    assert outcome.committed == outcome.in_read_write


def broken(outcome: Outcome) -> dict[str, tuple[dict[str, Any], set[int]]]:
    """For each way to break an outcome: what is changed, and the checks that then fail."""
    one, refused = min(outcome.committed), min(outcome.refused)
    seen = outcome.transactions
    thin = Counter({kind: 1 if kind.phase == 1 else n for kind, n in seen.items()})

    def more(phase: int, result: str, *databases: str) -> dict[str, Any]:
        return {"transactions": seen + Counter([Kind(phase, result, frozenset(databases))])}

    return {
        "a committed write is lost": ({"in_read_write": outcome.in_read_write - {one}}, {0}),
        "a write is there that nobody committed": (
            {"in_read_write": outcome.in_read_write | {-1}},
            {0},
        ),
        "a write is in the read-only database": ({"in_read_only": {one}}, {1}),
        "a read failed": ({"failed_reads": ["OperationalError: no"]}, {2}),
        "a write failed in another way": ({"failed_writes": ["OperationalError: no"]}, {3}),
        "a refused write was written": (
            {"in_read_write": outcome.in_read_write | {refused}},
            {0, 3},
        ),
        "a transaction used two databases": (
            more(HALF_WAY, "read", "read-write", "read-only"),
            {4},
        ),
        "a read came too early from the copy": (
            more(0, "read", "read-only"),
            {5},
        ),
        "a write was refused too early": (
            more(0, "refused", "read-write"),
            {5},
        ),
        "a read came too late from the main database": (
            more(1, "read", "read-write"),
            {6},
        ),
        "a write was committed while read-only": (
            more(1, "committed", "read-only"),
            {6},
        ),
        "a write was refused too late": (
            more(2, "refused"),
            {7},
        ),
        "too little happened to tell": ({"transactions": thin}, {6}),
        "nothing happened": ({"transactions": Counter()}, {5, 6, 7}),
        "the flips were not noticed": ({"noticed": (None, None)}, {8, 9}),
        "the first flip was noticed late": ({"noticed": (1.2, 0.1)}, {8}),
    }


def test_each_broken_outcome_is_found_by_its_check(outcome: Outcome) -> None:
    for what, (changes, failing) in broken(outcome).items():
        changed = replace(outcome, **changes)
        wrong = {number for number, check in enumerate(changed.checks) if not check.holds}
        assert wrong == failing, what
        assert not changed.holds


# -- what can't be run -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [("--seconds", "0.5"), ("--seconds", "nan"), ("--threads", "1"), ("--seconds", "soon")],
)
def test_numbers_that_make_no_sense_are_usage_errors(arguments: tuple[str, str]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "Error: " in done.stderr


def test_the_demo_refuses_to_run_in_a_forced_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", "read-write")
    done = invoke()
    assert done.exit_code == 2
    assert "SA_READONLY_FORCE forces the mode" in done.stderr


# -- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_demo_leaves_no_file(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [*COMMAND, "--seconds", "60"],
        cwd=ROOT,
        env=environment(PYTHONUNBUFFERED="1", TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if "read-only.txt is not there" in line:  # the threads are at work
                break
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(number)
        assert process.wait(60) == code
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_middle_leaves_no_file(place: Path) -> None:
    def fail(_elapsed: float, phase: int, _told: str) -> None:
        if phase == 1:
            raise RuntimeError("the screen is gone")

    with pytest.raises(RuntimeError, match="the screen is gone"):
        run(seconds=SECONDS, watch=fail)
    assert list(place.iterdir()) == []


@once
def test_a_closed_pipe_leaves_no_file_and_no_traceback(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--seconds", "30"],
        cwd=ROOT,
        env=environment(PYTHONUNBUFFERED="1", TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_run_tells_how_far_it_is() -> None:
    seen: list[tuple[float, int, str]] = []
    outcome = run(seconds=1, threads=2, watch=lambda *how: seen.append(how))
    assert [phase for _, phase, _ in seen] == sorted(phase for _, phase, _ in seen)
    assert seen[0][0] < 0.3
    assert seen[-1] == (1, 2, str(outcome))
    assert f" {len(outcome.committed)} committed, {len(outcome.refused)} refused" in str(outcome)
