"""A directory of workers: what each reports there, and who is drained."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest

from sa_readonly.workers.protocol import Liveness, Report, Seen
from sa_readonly.workers.verdict import drained, returned
from tests.workers import ALIVE, READ_ONLY, READ_WRITE, UNKNOWN, Place, die, place

__all__ = ["place"]  # a fixture


# -- what is seen -----------------------------------------------------------------------------


def test_a_worker_that_has_registered_lives_and_has_not_reported(place: Place) -> None:
    entry = place.register()
    one = place.one()
    assert (one.name, one.pid, one.liveness) == (entry.name, os.getpid(), ALIVE)
    assert (one.problem, one.report, one.acknowledged) == ("has not reported", None, False)
    place.on()
    assert place.whys() == ["has not reported"]


def test_a_report_is_read_as_it_was_written(place: Place) -> None:
    report = Report(READ_WRITE, None, 3, 1.5, 2.5, 4, 5, True, READ_WRITE)
    before = time.time()
    place.register().report(lambda: report)
    one = place.one()
    assert one.report == report
    assert not one.acknowledged
    assert one.program == os.path.basename(sys.argv[0]) or one.program == "pytest"
    assert one.started < before <= one.written <= time.time()
    assert one.version


def test_times_that_are_not_known_yet_are_none(place: Place) -> None:
    place.register().report(lambda: Report(READ_WRITE, since=float("nan"), checked=float("-inf")))
    assert (place.one().report.since, place.one().report.checked) == (None, None)


def test_closing_removes_every_file_of_the_entry(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    entry.close()
    assert place.names() == []
    entry.close()
    assert not entry.ensure()
    place.acknowledge(entry)
    entry.withdraw()
    assert place.names() == []


def test_a_missing_directory_has_nobody_in_it(place: Place) -> None:
    place.on()
    verdict = place.look()
    assert (verdict.seen, verdict.nobody, verdict.holds, verdict.problem) == ((), True, False, None)


# -- who is drained ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, None),
        ({"connections": 2, "since": 86.0}, "2 connections out since 14 s"),
        ({"connections": 1, "since": 200.0}, "1 connection out since 0 s"),
        ({"connections": 1}, "1 connection out"),
        (
            {"connections": 1, "watching": False},
            "1 connection out, no watcher thread runs there",
        ),
        ({"watching": False}, None),
        ({"generation": "older"}, "has not noticed"),
        (
            {"generation": "older", "watching": False},
            "has not noticed, no watcher thread runs there",
        ),
        ({"generation": None}, "has not noticed"),
        ({"mode": READ_WRITE}, "has not noticed"),
        ({"mode": READ_WRITE, "generation": None, "forced": READ_WRITE}, "forced to read-write"),
        ({"forced": READ_WRITE}, "forced to read-write"),
        ({"generation": None, "forced": READ_ONLY}, None),
        ({"generation": None, "forced": READ_ONLY, "connections": 1}, "1 connection out"),
    ],
)
def test_who_is_not_drained_and_why(place: Place, fields: dict[str, Any], why: str | None) -> None:
    entry = place.register()
    entry.closed()
    report = Report(**{"mode": READ_ONLY, "generation": "g", "watching": True, **fields})
    entry.report(lambda: report)
    one = place.one()
    verdict = drained("g", [one], 100.0)
    assert verdict.waiting == (() if why is None else ((one, why),))
    assert verdict.holds is (why is None)


def test_nobody_acknowledges_before_a_gate_was_closed(place: Place) -> None:
    generation = place.on()
    entry = place.register()
    entry.report(lambda: Report(READ_ONLY, generation, watching=True))
    assert place.whys() == ["has not noticed"]
    place.acknowledge(entry)
    assert place.look().holds


@pytest.mark.parametrize("liveness", Liveness)
@pytest.mark.parametrize("doubt", [None, "a doubt"])
def test_without_a_report_nobody_is_drained(liveness: Liveness, doubt: str | None) -> None:
    assert drained("g", [Seen("one", liveness, doubt)], 0.0).waiting


@pytest.mark.parametrize("problem", [None, "a problem"])
def test_who_may_live_or_not_is_not_drained_even_if_it_acknowledged(problem: str | None) -> None:
    report = Report(READ_ONLY, "g")
    one = Seen("one", UNKNOWN, problem=problem, acknowledged=True, report=report)
    assert drained("g", [one], 0.0).waiting == ((one, problem or "can't tell if it lives"),)


def test_without_a_file_or_without_anybody_nothing_holds(place: Place) -> None:
    entry = place.register()
    verdict = place.look()
    assert (verdict.holds, verdict.problem) == (False, "there is no file: it is read-write")
    assert not verdict.nobody
    entry.close()
    place.on()
    assert not place.look().holds


def test_all_are_back_when_each_that_lives_reports_read_write(place: Place) -> None:
    die(place)
    entry = place.register()
    assert [why for _, why in place.look(READ_WRITE).waiting] == ["has not reported"]
    entry.report(lambda: Report(READ_WRITE, watching=True))
    assert place.look(READ_WRITE).holds
    place.on()
    assert place.look(READ_WRITE).problem == "the file is there: it is read-only"
    place.acknowledge(entry)
    place.off()
    assert [why for _, why in place.look(READ_WRITE).waiting] == ["has not noticed"]
    entry.withdraw()
    assert [why for _, why in place.look(READ_WRITE).waiting] == ["has not noticed"]
    entry.report(lambda: Report(READ_ONLY, forced=READ_ONLY))
    assert [why for _, why in place.look(READ_WRITE).waiting] == ["forced to read-only"]
    one = Seen("one", UNKNOWN, "a doubt")
    assert returned([one]).waiting == ((one, "a doubt"),)
