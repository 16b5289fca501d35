"""What the checker of histories finds, in histories that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.history import RULES, Event, History, check, counted, event, read

BOUND = 0.1
# Two processes, and one flip from 10 to 20: turned, drained at 12, turned back, back at 22.
TURNS = (
    event(0, "operator", "settings", bound=BOUND),
    event(1, "a", "start", pid=1),
    event(1, "b", "start", pid=2),
    event(10.0, "operator", "turn", to="read-only"),
    event(10.1, "operator", "turned", to="read-only"),
    event(10.3, "a", "flip", to="read-only"),
    event(11.0, "b", "flip", to="read-only"),
    event(12.0, "operator", "wait", to="read-only", holds=True, pids=[1, 2], since=10.2),
    event(20.0, "operator", "turn", to="read-write"),
    event(20.1, "operator", "turned", to="read-write"),
    event(20.3, "a", "flip", to="read-write"),
    event(21.0, "b", "flip", to="read-write"),
    event(22.0, "operator", "wait", to="read-write", holds=True, pids=[1, 2], since=20.2),
)


def write(
    name: str, begin: float, commit: float, end: float, row: float | None = None
) -> list[Any]:
    """A write that was committed, of the process `a`."""
    made = [
        event(begin, "a", "begin", name=name, writes=True),
        event(commit, "a", "commit", name=name),
        event(end, "a", "done", name=name, reached=[["rw", 7]]),
        event(row, "", "row", name=name),
    ]
    return made if row else made[:3]


def ended(kind: str, begin: float, end: float, *, writes: bool = True, **told: Any) -> list[Event]:
    """A transaction that ended otherwise."""
    return [
        event(begin, "a", "begin", name="x", writes=writes),
        event(end, "a", kind, name="x", **told),
    ]


def fault(explains: str, since: float, until: float, process: str = "a") -> Event:
    told = {"name": "a fault", "until": until, "explains": [explains]}
    return Event(since, process, "fault", told)


def without(kind: str, at: float) -> list[Event]:
    return [one for one in TURNS if (one.kind, one.at) != (kind, at)]


GOOD = [
    *TURNS,
    *write("before", 9.0, 9.1, 9.2, 9.15),
    *write("over the flip", 9.9, 11.8, 12.1, 11.9),
    *write("not yet noticed", 10.15, 10.17, 10.19, 10.18),
    *write("after", 20.15, 20.2, 20.25, 20.2),
    *ended("refused", 12.0, 12.1),
    event(11.9, "operator", "session", place="rw", began=9.5),
]

LOST = {"error": "gone", "why": "connection"}
BAD: dict[str, list[list[Event]]] = {
    "no commit after drained and before off": [
        [*TURNS, *write("x", 9.9, 11.8, 12.3, row=12.2)],
        [*TURNS, *write("x", 9.9, 12.1, 12.3, row=11.9)],
    ],
    "no connection made after drained and before off": [
        [*TURNS, event(13.0, "operator", "session", place="rw", began=12.5)]
    ],
    "no write begun later than the bound": [
        [*TURNS, *write("x", 10.3, 10.4, 10.5, row=10.45)],
        [*TURNS, *write("x", 10.3, 10.4, 10.5, row=10.45), fault("stale", 10, 11, process="b")],
        [*TURNS, *write("x", 10.3, 10.4, 10.5, row=10.45), fault("stale", 8, 9)],
    ],
    "no acknowledged commit missing": [[*TURNS, *write("x", 9.0, 9.1, 9.2)]],
    "no refused write there": [
        [*TURNS, *ended("refused", 10.2, 10.3), event(10.25, "", "row", name="x")]
    ],
    "no transaction straddles": [
        [*TURNS, *ended("done", 9.0, 9.1, writes=False, reached=[["rw", 7], ["ro", 8]])]
    ],
    "no failure that no fault explains": [
        [*TURNS, *ended("failed", 9.0, 9.1, writes=writes, **LOST), *more]
        for writes in (True, False)
        for more in ([], [fault("timeout", 8, 10)], [fault("connection", 5, 8)])
    ],
    "no refusal that no flip or fault explains": [
        [*TURNS, *ended("refused", 9.0, 9.1)],
        [*TURNS, *ended("refused", 20.3, 20.4)],
        [*TURNS, *ended("refused", 13.0, 13.1, writes=False)],
    ],
    "no transaction without an end": [
        [*TURNS, event(9.0, "a", "begin", name="x", writes=False)],
        [*TURNS, event(9.0, "a", "begin", name="x", writes=False), fault("killed", 5, 8)],
    ],
    "every flip logged once a process": [
        without("flip", 10.3),
        without("flip", 21.0),
        [*TURNS, event(10.4, "a", "flip", to="read-only")],
        without("start", 1),
    ],
    "no wait in vain that no fault explains": [
        [*TURNS, event(40, "operator", "wait", to="read-only", holds=False, since=30, why="late")]
    ],
}
EXPLAINED = [
    [*TURNS, *write("x", 10.3, 10.4, 10.5, row=10.45), fault("stale", 10, 10.2)],
    [*TURNS, *ended("failed", 9.0, 9.1, **LOST), fault("connection", 9.05, 9.06)],
    [*TURNS, *ended("failed", 9.0, 9.1, **LOST), fault("connection", 5, 20, process="")],
    [*TURNS, *ended("refused", 20.3, 20.4), fault("refused", 20, 20.35)],
    [*TURNS, event(9.0, "a", "begin", name="x", writes=True), fault("killed", 9.5, 9.5)],
]


def broken(events: list[Event] | tuple[Event, ...]) -> set[str]:
    return {one.rule for one in check(History.of(events))}


def test_each_property_has_a_history_in_which_it_does_not_hold() -> None:
    assert set(BAD) == set(RULES)


@pytest.mark.parametrize("events", [list(TURNS), GOOD, GOOD[::-1], *EXPLAINED])
def test_nothing_is_found_where_all_holds(events: list[Event]) -> None:
    assert check(History.of(events)) == []


@pytest.mark.parametrize(("rule", "events"), [(name, one) for name in BAD for one in BAD[name]])
def test_what_does_not_hold_is_found_and_the_events_shown_are_enough_to_find_it(
    rule: str, events: list[Event]
) -> None:
    found = [one for one in check(History.of(events)) if one.rule == rule]
    assert found
    for one in found:
        assert rule in broken(one.events)
        assert len(one.events) <= 7


def test_histories_are_read_of_several_files_without_the_line_that_a_kill_has_torn(
    tmp_path: Path,
) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    lines = [one.as_line() for one in GOOD]
    files[0].write_text("".join(lines[::2]) + json.dumps({"at": 1})[:-1])
    files[1].write_text("".join(lines[1::2]))
    assert sorted(read(files), key=str) == sorted(GOOD, key=str)
    assert set(counted(check(History.of(read(files)))).values()) == {0}
