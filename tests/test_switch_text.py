"""FileSwitch: the text in the file, its edits, and the parser."""

from __future__ import annotations

import errno
import itertools
import os
import string
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sa_readonly.mode import State
from sa_readonly.switch import FileSwitch
from sa_readonly.text import parse, render
from tests.switches import REAL_STAT, RO, RW, UTC, Told, in_threads, join, log, path, quick, raiser

__all__ = ["log", "path"]  # fixtures


# -- the text, and its edits ------------------------------------------------------------------


@pytest.mark.parametrize("replaced", [True, False])
def test_an_edit_is_followed_with_one_info_and_no_flip(path, log, replaced):
    path.write_text("one")
    switch = FileSwitch(path)
    told = Told(switch)
    before = switch.state
    if replaced:
        (path.parent / "new").write_text("two\nuntil: 2030-01-01T00:00Z")
        os.replace(path.parent / "new", path)
    else:
        path.write_text("two\nuntil: 2030-01-01T00:00Z")
    for _ in range(3):
        after = switch.check()
    assert (after.reason, after.until) == ("two", datetime(2030, 1, 1, tzinfo=UTC))
    assert after.since == before.since
    assert after.generation != before.generation
    assert told.events == []
    assert log()[1:] == [
        (
            "INFO",
            f"sa_readonly: still read-only: {path} is there (reason 'two', "
            "until 2030-01-01T00:00:00+00:00)",
        )
    ]


def test_a_text_that_comes_within_one_tick_of_the_file_system_clock_is_followed(path, monkeypatch):
    """The shell creates the file and then writes into it; both may bear the same time."""
    path.touch()
    empty = REAL_STAT(path)

    class SameTick:
        def __init__(self, found):
            self.found = found

        def __getattr__(self, name):
            if name.startswith(("st_mtime", "st_ctime")):
                return getattr(empty, name)
            return getattr(self.found, name)

    monkeypatch.setattr(os, "stat", lambda *a, **k: SameTick(REAL_STAT(*a, **k)))
    switch = FileSwitch(path)
    assert switch.state.reason is None
    with path.open("w") as file:
        file.write("text")
    assert switch.check().reason == "text"


def test_a_text_is_read_once_and_not_at_each_look(path, monkeypatch):
    path.write_text("text")
    switch = FileSwitch(path)
    monkeypatch.setattr(os, "open", raiser(errno.EIO))
    assert {switch.check().reason for _ in range(3)} == {"text"}


def test_two_processes_see_the_same_generation(path):
    path.write_text("text")
    one, other = FileSwitch(path), FileSwitch(path.parent / "." / path.name)
    assert one.state.generation == other.state.generation is not None
    path.unlink()
    path.write_text("text")
    assert one.check().generation == FileSwitch(path).state.generation


def test_a_file_with_a_time_that_no_calendar_has_means_read_only(path, monkeypatch):
    path.touch()

    class Odd:
        def __init__(self, found):
            self.found = found

        def __getattr__(self, name):
            return 1e15 if name in ("st_mtime", "st_ctime") else getattr(self.found, name)

    monkeypatch.setattr(os, "stat", lambda *a, **k: Odd(REAL_STAT(*a, **k)))
    switch = FileSwitch(path)
    assert switch.state.mode is RO
    assert abs(switch.state.since - datetime.now(UTC)) < timedelta(minutes=1)


def test_since_is_when_the_file_came_also_when_it_was_written_long_before(path):
    before = datetime.now(UTC) - timedelta(seconds=1)
    prepared = path.parent / "prepared"
    prepared.touch()
    os.utime(prepared, (1, 1))
    prepared.rename(path)
    assert before <= FileSwitch(path).state.since <= datetime.now(UTC)


def test_at_most_4_kib_are_read(path):
    path.write_bytes(b"x" * 4096 + b"secret")
    assert FileSwitch(path).state.reason == "x" * 4096


def test_a_configmap_symlink_swapped_under_the_name_is_followed(path, log):
    home = path.parent
    for name in ("one", "two"):
        (home / name).mkdir()
        (home / name / path.name).write_text(name)
    (home / "..data").symlink_to("one")
    path.symlink_to(f"..data/{path.name}")
    switch = FileSwitch(path)
    told = Told(switch)
    assert switch.state.reason == "one"
    (home / "..data").unlink()  # dangling for a moment
    assert switch.check().mode is RO
    (home / "..data").symlink_to("two")
    assert switch.check().reason == "two"
    (home / "..new").symlink_to("one")
    os.replace(home / "..new", home / "..data")
    assert switch.check().reason == "one"
    assert told.events == []
    path.unlink()
    assert switch.check().mode is RW


def test_a_file_that_flaps_ends_where_it_ends(path):
    switch = FileSwitch(path, ttl=0)
    told = Told(switch)
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            switch.state  # noqa: B018

    threads, _ = in_threads(4, ask)
    for _ in range(200):
        path.touch()
        path.unlink()
    path.touch()
    stop.set()
    join(threads)
    assert switch.check().mode is RO
    modes = [event for event in told.events if event[0] == "tell"]
    assert modes[0][1] == "read-write"
    assert modes[-1][2] == "read-only"
    assert all(one[2] == two[1] for one, two in itertools.pairwise(modes))
    assert all(one[1] != one[2] for one in modes)


# -- the parser -------------------------------------------------------------------------------


EIGHT = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "until: 2026-11-22T08:00:00Z",
        "until: 2026-11-22T08:00Z",
        "Until : 2026-11-22t08:00z",
        "  UNTIL:2026-11-22 08:00:00 Z  ",
        "until: 2026-11-22T08:00:00.000+00:00",
        "until: 2026-11-22T08:00:00,000000000+00:00",
        "until: 2026-11-22T10:00+02:00",
        "until: 2026-11-22T10:00:00+0200",
        "until: 2026-11-22T10+02",
        "until: 2026-11-22 02:30 -05:30",
        "until: 20261122T080000Z",
        "\ufeffuntil: 2026-11-22T08Z",
    ],
)
def test_until_is_read_in_each_iso_8601_spelling_and_told_in_utc(text):
    reason, until = parse(f"{text}\r\nwhy\r\n".encode())
    assert (reason, until) == ("why", EIGHT)
    assert until.tzinfo is UTC


def test_a_time_without_offset_is_local_time(monkeypatch):
    monkeypatch.setenv("TZ", "XXX-03")
    time.tzset()
    try:
        assert parse(b"until: 2026-11-22T11:00").until == EIGHT
        assert parse(b"until: 2026-11-22").until == EIGHT - timedelta(hours=11)
        assert render(None, datetime(2026, 11, 22, 11)) == b"until: 2026-11-22T11:00:00+03:00\n"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "garbage",
    [
        "tomorrow",
        "",
        "2026-13-01",
        "2026-02-30T00:00Z",
        "2026-11-22T24:00Z",
        "2026-11-22T08:60Z",
        "2026-11-22T08:00+99:00",
        "0001-01-01T00:00+14:00",
        "9999-12-31T23:00-14:00",
        "2026-11-22T08:00Z or so",
        "\u0662\u0660\u0662\u0666-11-22",
    ],
)
def test_an_until_that_is_no_time_stays_in_the_reason(garbage):
    text = f"why\nuntil: {garbage}".strip()
    assert parse(text.encode()) == (text, None)


def test_of_several_until_lines_the_first_good_one_counts():
    text = b"until: soon\nuntil: 2026-11-22T08:00Z\nuntil: 2027-01-01\n"
    assert parse(text) == ("until: soon\nuntil: 2027-01-01", EIGHT)


def test_bytes_that_are_no_utf_8_are_shown_as_such():
    assert parse(b"caf\xe9\xff ok").reason == "caf\ufffd\ufffd ok"


DATES = st.datetimes(
    min_value=datetime(1980, 1, 1),
    max_value=datetime(9990, 1, 1),
    timezones=st.just(UTC)
    | st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-1000, 1000)),
)


@quick
@given(st.binary() | st.builds(lambda b: b"until:" + b, st.binary()))
def test_no_bytes_at_all_make_the_parser_raise(content):
    reason, until = parse(content)
    assert reason is None or reason == reason.strip() != ""
    assert until is None or until.tzinfo is UTC


@quick
@given(st.text(alphabet="0123456789-+:.,TZ tz", max_size=30))
def test_nothing_that_resembles_a_time_makes_the_parser_raise(text):
    until = parse(f"until: {text}".encode()).until
    assert until is None or until.tzinfo is UTC


@quick
@given(st.none() | st.text(alphabet=string.printable + "äß€🎉:", max_size=200), st.none() | DATES)
def test_what_is_written_is_read_back(reason, until):
    read = parse(render(reason, until))
    lines = (reason or "").strip().splitlines()
    assert read.reason == ("\n".join(lines).strip() or None)
    assert read.until == until


def test_the_state_is_frozen_and_overdue_only_past_until(path):
    switch = FileSwitch(path)
    now = datetime.now(UTC)
    assert switch.enable(until=now - timedelta(hours=1)).overdue
    assert switch.check().mode is RO
    assert not switch.enable(until=now + timedelta(hours=1)).overdue
    assert not State(RW, until=now - timedelta(hours=1)).overdue
