"""The snapshot: what a status page and `sa-readonly status` tell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

import sa_readonly
from sa_readonly import FixedSwitch, Mode
from sa_readonly.command.status import _show_workers
from sa_readonly.mode import State
from sa_readonly.web.status import as_html
from sa_readonly.workers.protocol import Liveness, Report, Seen
from sa_readonly.workers.status import UNTOLD, Snapshot, snapshot, take

ALIVE, DEAD, UNKNOWN = Liveness.ALIVE, Liveness.DEAD, Liveness.UNKNOWN
NOW = 1_900_000_000.0
SINCE = datetime(2030, 3, 17, 17, 0, tzinfo=timezone.utc)
UNTIL = datetime(2999, 1, 31, 22, 30, tzinfo=timezone.utc)
WRITING = State(Mode.READ_WRITE, since=SINCE)
READING = State(Mode.READ_ONLY, "Upgrade\nof 18", UNTIL, SINCE, "1.2.3.4")
REPORT = Report(Mode.READ_ONLY, "1.2.3.4", checked=NOW - 1, flips=1, refused=3, watching=True)
DRAINED = Seen(
    "one",
    ALIVE,
    acknowledged=True,
    report=REPORT,
    pid=11,
    host="web1",
    program="gunicorn",
    started=NOW - 100,
    written=NOW - 2,
    version="0.1.0",
)


def seen(name: str, **fields: Any) -> Seen:
    return replace(DRAINED, name=name, **fields)


def busy(name: str) -> Seen:
    return seen(name, pid=12, report=replace(REPORT, connections=2, since=NOW - 14))


def late(name: str) -> Seen:
    return seen(name, pid=13, acknowledged=False, report=Report(Mode.READ_WRITE, watching=True))


def told(state: State, *entries: Seen) -> Snapshot:
    return snapshot(state, entries, NOW)


def test_as_text_it_is_key_value_lines_a_line_a_worker_and_the_sums() -> None:
    shown = told(READING, DRAINED, busy("two"), late("three"))
    assert shown.as_text() == (
        "mode: read-only\n"
        "reason: Upgrade / of 18\n"
        "until: 2999-01-31T22:30:00+00:00\n"
        "generation: 1.2.3.4\n"
        "worker: gunicorn pid 11 on web1: read-only, drained\n"
        "worker: gunicorn pid 12 on web1: read-only, 2 connections out since 14 s\n"
        "worker: gunicorn pid 13 on web1: read-write, has not noticed\n"
        "workers: 3, noticed: 2, drained: 1\n"
    )


def test_without_details_it_tells_nothing_of_a_single_worker() -> None:
    shown = told(READING, DRAINED, busy("two"))
    text = shown.as_text(details=False)
    assert "worker:" not in text
    assert text.endswith("\nworkers: 2, noticed: 2, drained: 1\n")
    answer = shown.as_json(details=False)
    assert "workers" not in answer
    assert "web1" not in json.dumps(answer)


def test_while_read_write_what_is_not_there_is_empty_and_nobody_is_drained() -> None:
    back = seen("two", acknowledged=False, report=Report(Mode.READ_WRITE))
    assert told(WRITING, back, DRAINED).as_text() == (
        "mode: read-write\n"
        "reason:\n"
        "until:\n"
        "generation:\n"
        "worker: gunicorn pid 11 on web1: read-write\n"
        "worker: gunicorn pid 11 on web1: read-only, has not noticed\n"
        "workers: 2, noticed: 1, drained: 0\n"
    )


def test_as_json_it_tells_all_that_is_known() -> None:
    answer = told(READING, busy("two")).as_json()
    assert json.loads(json.dumps(answer)) == {
        "mode": "read-only",
        "reason": "Upgrade\nof 18",
        "until": "2999-01-31T22:30:00+00:00",
        "overdue": False,
        "since": "2030-03-17T17:00:00+00:00",
        "generation": "1.2.3.4",
        "announced": None,
        "at": "2030-03-17T17:46:40+00:00",
        "sums": {
            "workers": 1,
            "noticed": 1,
            "drained": 0,
            "died_without_a_word": 0,
            "waiting": 1,
            "settled": 0,
        },
        "held": {"now": 0, "longest": None},
        "workers": [
            {
                "name": "two",
                "host": "web1",
                "pid": 12,
                "program": "gunicorn",
                "version": "0.1.0",
                "liveness": "alive",
                "mode": "read-only",
                "noticed": True,
                "drained": False,
                "why": "2 connections out since 14 s",
                "connections": 2,
                "connections_since": "2030-03-17T17:46:26+00:00",
                "started": "2030-03-17T17:45:00+00:00",
                "reported": "2030-03-17T17:46:38+00:00",
                "checked": "2030-03-17T17:46:39+00:00",
                "flips": 1,
                "refused": 3,
                "held": 0,
                "watching": True,
                "forced": None,
                "server_read_only": False,
            }
        ],
    }


def test_those_that_are_held_are_told_with_the_longest(capsys: pytest.CaptureFixture[str]) -> None:
    holding = [
        seen(name, report=replace(REPORT, held=number, held_since=NOW - seconds))
        for name, number, seconds in (("one", 2, 3.2), ("two", 1, 7.0))
    ]
    shown = told(READING, *holding)
    assert shown.as_json()["held"] == {"now": 3, "longest": 7.0}
    assert "\nheld: 3, the longest for 7 s\n" in shown.as_text()
    _show_workers(shown)  # of `sa-readonly status`
    assert "\nheld: 3, the longest for 7 s\nworkers: 2, " in capsys.readouterr().out
    assert shown.lasting != told(READING, *holding[:1], seen("two")).lasting  # status --watch
    page = as_html(shown)
    assert "<p>3 writes wait until changes are saved again, the longest for 7 s.</p>" in page
    assert "the longest" not in as_html(told(READING, DRAINED))


def test_as_html_it_tells_each_worker_only_with_details() -> None:
    shown = told(READING, DRAINED, busy("two"), late("three"))
    page = as_html(shown, details=True)
    assert '<p class="mode read-only">Read-only: nothing can be saved for the moment.</p>' in page
    assert '<span class="text">Upgrade\nof 18</span>' in page
    assert '<time datetime="2999-01-31T22:30:00+00:00">2999-01-31 22:30 UTC</time>' in page
    assert "<p>Workers: 3, noticed: 2, drained: 1.</p>" in page
    assert (
        '<tr><th scope="row">gunicorn pid 12 on web1</th><td>read-only</td>'
        "<td>2 connections out since 14 s</td></tr>\n"
    ) in page
    assert "web1" not in as_html(shown)
    assert "<p>Workers: 3, noticed: 2, drained: 1.</p>" in as_html(shown)


def test_as_html_read_write_is_said_in_words_too() -> None:
    page = as_html(told(WRITING))
    assert '<p class="mode read-write">Read-write: changes are saved.</p>' in page
    assert "Expected until" not in page
    assert "Reason" not in page


def test_as_html_everything_that_comes_from_elsewhere_is_escaped() -> None:
    evil = "<script>alert('x')</script>&\x00"
    shown = snapshot(
        replace(READING, reason=evil, generation="1.2.3.4"),
        (
            seen("one", program=evil, host=evil),
            Seen(evil, UNKNOWN, problem=evil),
        ),
        NOW,
        here=seen("here", program=evil, problem=evil),
    )
    page = as_html(shown, details=True)
    assert "alert('x')" not in page
    assert "\x00" not in page
    assert page.count("<script>") == page.count("</script>") == 1
    assert page.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;\\x00") == 7


def test_as_html_overdue_is_said_and_the_dead_are_told_as_such() -> None:
    late_state = replace(READING, until=SINCE.replace(year=2020))
    page = as_html(told(late_state, seen("two", liveness=DEAD)), details=True)
    assert "</time> It takes longer than expected.</dd>" in page
    assert "<td>dead</td>" in page


def test_the_process_that_answers_is_told_first_and_does_not_count() -> None:
    shown = snapshot(READING, (DRAINED,), NOW, here=busy("here"))
    assert shown.as_text().splitlines()[4:] == [
        "this process: gunicorn pid 12 on web1: read-only, 2 connections out since 14 s",
        "worker: gunicorn pid 11 on web1: read-only, drained",
        "workers: 1, noticed: 1, drained: 1",
    ]
    answer = shown.as_json()
    assert (answer["registered"], answer["problem"]) == (True, None)
    assert isinstance(answer["here"], dict)
    assert answer["here"]["pid"] == 12


def test_that_it_is_not_registered_is_told_to_all_and_why_with_details() -> None:
    shown = snapshot(READING, (), NOW, here=seen("here", problem="No\nroom."))
    assert "registered: no\nproblem: No / room.\nthis process: gunicorn" in shown.as_text()
    plain = shown.as_text(details=False)
    assert "registered: no\n" in plain
    assert "room" not in plain + as_html(shown) + json.dumps(shown.as_json(details=False))
    assert "is not registered: No / room.</p>" in as_html(shown, details=True)


def test_the_dead_are_no_workers_and_those_without_a_word_are_counted_apart() -> None:
    clean = seen("two", liveness=DEAD)
    silent = seen(
        "three", liveness=DEAD, acknowledged=False, report=None, problem="has not reported"
    )
    shown = told(READING, DRAINED, clean, silent)
    assert shown.sums == "workers: 1, noticed: 1, drained: 1, died without a word: 1"
    lines = shown.as_text().splitlines()
    assert "worker: gunicorn pid 11 on web1: dead" in lines
    assert "worker: gunicorn pid 11 on web1: unknown: died without a word" in lines


def test_an_entry_that_tells_nothing_is_called_by_its_name() -> None:
    odd = Seen("odd", UNKNOWN, problem="is no entry of a worker; remove it")
    shown = told(READING, odd)
    assert "worker: odd: is no entry of a worker; remove it\n" in shown.as_text()
    assert shown.sums == "workers: 1, noticed: 0, drained: 0"


def test_an_entry_of_an_older_file_has_not_noticed_this_one() -> None:
    shown = told(replace(READING, generation="5.6.7.8"), DRAINED)
    assert (shown.noticed, shown.drained) == (0, 0)


def test_read_only_without_a_file_says_nothing_of_the_workers() -> None:
    shown = told(State(Mode.READ_ONLY, since=SINCE), DRAINED)
    (one,) = shown.workers
    assert (one.noticed, one.drained, one.why) == (False, False, UNTOLD)


def test_past_until_it_is_overdue() -> None:
    shown = told(replace(READING, until=SINCE.replace(year=2020)), DRAINED)
    assert "\noverdue: yes\n" in shown.as_text()
    assert shown.as_json()["overdue"] is True


def test_what_would_steer_a_terminal_is_escaped_and_a_reason_stays_in_its_line() -> None:
    shown = told(replace(READING, reason="a\r\nmode: read-write\x1b[31m\u2028b"))
    assert "reason: a / mode: read-write\\x1b[31m / b\n" in shown.as_text()


@pytest.mark.parametrize("seconds", [1e18, -1e18, float("inf")])
def test_a_time_that_no_calendar_has_is_not_told(seconds: float) -> None:
    (one,) = told(READING, seen("one", started=seconds)).workers
    assert one.as_json()["started"] is None


def test_only_what_happens_changes_what_lasts() -> None:
    before = told(READING, busy("two"))
    later = snapshot(READING, (busy("two"),), NOW + 5)
    assert later.workers != before.workers
    assert later.lasting == before.lasting
    assert before.changing
    assert told(READING, DRAINED).lasting != before.lasting
    assert not told(READING, DRAINED).changing


class Moving(FixedSwitch):
    """A switch that tells one state after another, and the last one for ever."""

    def __init__(self, *states: State) -> None:
        super().__init__(Mode.READ_WRITE)
        self.states = list(states)

    def check(self) -> State:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


class Listing:
    """A registry that is no directory."""

    def __init__(self, *entries: Seen) -> None:
        self.entries = list(entries)
        self.reads = 0

    def read(self) -> list[Seen]:
        self.reads += 1
        return self.entries

    register: Callable[..., Any]
    sweep: Callable[..., Any]


def test_it_is_taken_anew_when_the_switch_moves_in_between() -> None:
    registry = Listing(DRAINED)
    shown = take(Moving(WRITING, READING), registry)
    assert (shown.state, registry.reads) == (READING, 2)
    assert shown.drained == 1
    registry = Listing(DRAINED)
    edited = replace(READING, reason="edited")  # which is no flip
    assert take(Moving(READING, edited), registry).state == edited
    assert registry.reads == 1


def test_a_switch_that_moves_all_the_time_is_not_followed_for_ever() -> None:
    states = [replace(READING, generation=str(n)) for n in range(100)]
    assert take(Moving(*states), Listing(DRAINED)).drained == 0


def test_it_needs_neither_the_command_nor_a_file_nor_a_directory() -> None:
    code = (
        "import sys, types\n"
        "package = types.ModuleType('sa_readonly'); package.__path__ = sys.argv[1:]\n"
        "sys.modules['sa_readonly'] = package\n"  # which would import the rest
        "import sa_readonly.workers.status\n"
        "print(*sorted(n for n in sys.modules if n.startswith(('sa_readonly.', 'click', 'rich'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sa_readonly.__path__],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    known = ["announced", "errors", "forks", "mode", "refusals", "rehearsal"]
    known += ["rehearsal.callsite", "rehearsal.notes", "telemetry", "text", "workers"]
    known += [f"workers.{name}" for name in ROOMS]
    assert done.stdout.split() == [f"sa_readonly.{name}" for name in known]


ROOMS = ["protocol", "status", "verdict"]
