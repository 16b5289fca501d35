"""`sa-readonly announce`, and what `on` makes of it."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from sa_readonly import FileSwitch
from sa_readonly.announced import announced_in
from sa_readonly.mode import Announced
from tests.test_command_on_off import command, file, refused, told

__all__ = ["file"]  # a fixture

SOON = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=1)
AT = SOON.isoformat()
AS_JSON = {"time": AT, "until": (SOON + timedelta(hours=2)).isoformat(), "reason": "Up / grade"}


def announced(file: Path) -> Announced | None:
    path = Path(f"{file}.announced")
    return announced_in(path.read_bytes()) if path.exists() else None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--at", "2026-01-01T02:00Z"], "'--at': 2026-01-01T02:00Z is not in the future: it means"),
        (["--at", "2999-01-01T02:00"], "'--at': 2999-01-01T02:00 has no time zone"),
        (["--at", "2999-01-01"], "'--at': 2999-01-01 has no time zone"),
        (["--at", "2999-13-01T02:00Z"], "'--at': '2999-13-01T02:00Z' is neither an ISO 8601 time"),
        (["--at", "+2"], "'--at': '+2' is neither an ISO 8601 time"),
        (["--at", "+0h"], "'--at': +0h is not in the future: it means"),
        (["--at", "+3000000d"], "'--at': so far from now no calendar reaches"),
        (["--at", ""], "'--at': '' is neither an ISO 8601 time"),
        (["--at", AT, "--for", "two hours"], "'--for': 'two hours' is no duration"),
        (["--at", AT, "--for", "-2h"], "'--for': '-2h' is no duration"),
        (["--at", AT, "--for", "0m"], "'--for': '0m' is no duration"),
        (["--at", AT, "--for", "9" * 30], "'--for': so long no calendar reaches"),
        (["--at", AT, "--for", "3000000d"], "'--for': so long no calendar reaches"),
        (["--at", AT, "--until", "+4h"], "No --until here: tell how long it takes, as --for 2h."),
        (["--at", AT, "--reason", "x" * 5000], "It is not announced: reason is too long"),
        (["--at", AT, "--reason", "until: 2999-01-01"], "read as until"),
        ([], "Give --at TIME, when it will be read-only; or --cancel."),
        (["--for", "2h"], "Give --at TIME"),
        (["--cancel", "--at", AT], "--cancel goes alone"),
        (["--cancel", "--reason", ""], "--cancel goes alone"),
    ],
)
def test_bad_input_is_one_error_before_anything_is_written(
    file: Path, given: list[str], why: str
) -> None:
    assert why in refused(command("announce", "--file", file, *given), 2)
    assert list(file.parent.iterdir()) == []


def test_it_is_announced_and_taken_back_and_no_mode_changes(file: Path) -> None:
    given = ("announce", "--file", file, "--at", AT, "--for", "2h", "--reason", "Up\ngrade")
    for changed in (True, False):
        answer = told(*given)
        assert answer["announced"] == {**AS_JSON, "reason": "Up\ngrade"}
        assert (answer["mode"], answer["changed"]) == ("read-write", changed)
    assert announced(file) == Announced(SOON, SOON + timedelta(hours=2), "Up\ngrade")
    assert os.stat(f"{file}.announced").st_mode & 0o777 == 0o644  # each process may read it
    assert told("status", "--file", file)["announced"]["time"] == AT
    for changed in (True, False):
        answer = told("announce", "--file", file, "--cancel")
        assert (answer["announced"], answer["changed"]) == (None, changed)
    assert list(file.parent.iterdir()) == []


def test_it_is_announced_by_the_time_from_now(file: Path) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=2)
    answer = told("announce", "--file", file, "--at", "+2h", "--for", "90m")["announced"]
    begins, ends = (datetime.fromisoformat(answer[name]) for name in ("time", "until"))
    assert before <= begins <= datetime.now(timezone.utc) + timedelta(hours=2)
    assert ends - begins == timedelta(minutes=90)


def test_on_takes_the_reason_and_the_time_where_none_are_given_and_removes_it(file: Path) -> None:
    until = SOON + timedelta(hours=2)
    for given, reason, end in (
        ([], "Upgrade", until),
        (["--reason", "Now"], "Now", until),
        (["--reason", ""], None, until),
        (["--until", "2999-01-01T00:00Z"], "Upgrade", datetime(2999, 1, 1, tzinfo=timezone.utc)),
    ):
        command("announce", "--file", file, "--at", AT, "--for", "2h", "--reason", "Upgrade")
        done = command("on", "--file", file, *given)
        assert done.exit_code == 0, done.stderr
        assert "It was announced, and is no more: read-only from " in done.stderr
        state = FileSwitch(file).state
        assert (state.reason, state.until) == (reason, end)
        assert announced(file) is None
        command("off", "--file", file)


def test_on_takes_nothing_of_what_is_over_nor_of_the_next_night(file: Path) -> None:
    past = "from: 2026-01-01T00:00Z\nOld\nuntil: 2026-01-01T02:00Z\n"
    Path(f"{file}.announced").write_text(past)
    command("on", "--file", file)
    assert FileSwitch(file).state.reason is None
    assert announced(file) is None
    # While it is read-only the next one is announced, and an edit of the text leaves it.
    command("announce", "--file", file, "--at", AT)
    command("on", "--file", file, "--reason", "Longer")
    assert announced(file) == Announced(SOON)
    assert told("status", "--file", file)["announced"] == {**AS_JSON, "until": None, "reason": None}


def test_what_can_not_be_written_or_removed_stops_no_flip(file: Path) -> None:
    directory = Path(f"{file}.announced")
    directory.mkdir()
    wrong = refused(command("announce", "--file", file, "--at", AT), 1)
    assert wrong == f"{directory} can't be written (Is a directory). Remove it by hand."
    assert command("on", "--file", file).exit_code == 0


def test_what_was_announced_is_shown_without_what_would_steer_a_terminal(file: Path) -> None:
    command("announce", "--file", file, "--at", AT, "--reason", "a\x1b[2J\nb")
    shown = command("status", "--file", file).stdout
    assert re.search(r"^announced read-only from .*: a\\x1b\[2J\n +b$", shown, re.MULTILINE)
