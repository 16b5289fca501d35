"""What happened to a fleet of processes, checked at the end, as Jepsen does, for what may not be.

A history is lines of JSON, written by each process and by the operator, in any order. All times are
of `time.monotonic()`, one clock for all processes of a machine. Each line has

`at`, `process`, `kind`
    when, and a name of its own for each process, forked ones too; and one of these kinds:
`settings`
    `bound`: seconds after a turn was done within which each process has seen it (the ttl of a file,
    the fence of a key).
`start`
    `pid`: this process is there; it writes that first.
`begin`, `commit`
    `name`: a transaction is about to begin, or to be committed; `writes` tells which kind.
`done`, `refused`, `failed`
    `name`: it ended; `reached`: where its statements came to; of `failed`, `error` and its `why`, a
    word such as "connection". Where none of these comes, the process was killed meanwhile.
`flip`
    `to`: the mode, in a record that the process logged.
`turn`, `turned`
    `to`: the operator begins to turn the switch, and has done it.
`wait`
    `to`, `holds`, `pids`: a wait ended. It holds, so those processes are in that mode; or it gave
    up, and `why` says what it was waiting for.
`fault`
    `name`, `until`, `process` ("" means all), `explains`: what was done, and which of the failures
    that overlap with it are its effect: each the `why` of a transaction, "refused", "stale" (the
    switch could not be looked at), "killed" or "wait".
`row`
    `name`: what a transaction wrote, as the server has it at the end, and when it was committed.
`session`
    `place`, `began`: a connection that is open at the server of the read-write database.
"""

from __future__ import annotations

import bisect
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

READ_ONLY, READ_WRITE = "read-only", "read-write"
ENDS = ("done", "refused", "failed")


class Event(NamedTuple):
    """One line of a history."""

    at: float
    process: str
    kind: str
    told: dict[str, Any]

    def __str__(self) -> str:
        told = " ".join(f"{key}={value!r}" for key, value in self.told.items())
        return f"{self.at:.6f} {self.process or '-':<12} {self.kind:<8} {told}"

    def as_line(self) -> str:
        head = {"at": self.at, "process": self.process, "kind": self.kind}
        return json.dumps({**head, **self.told}, default=str) + "\n"


def event(at: float, process: str, kind: str, **told: Any) -> Event:
    return Event(at, process, kind, told)


def read(paths: Iterable[Path]) -> Iterator[Event]:
    """Read the lines of several files. The last one of a process that was killed may be torn."""
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    told = json.loads(line)
                    yield Event(told.pop("at"), told.pop("process"), told.pop("kind"), told)


class Violation(NamedTuple):
    """A property that did not hold, and the fewest events that show it."""

    rule: str
    said: str
    events: tuple[Event, ...]

    def __str__(self) -> str:
        shown = "\n".join(f"    {one}" for one in sorted(self.events, key=lambda one: one.at))
        return f"{self.rule}: {self.said}\n{shown}"


@dataclass
class Transaction:
    """The events of one transaction; what did not come is None."""

    begin: Event | None = None
    commit: Event | None = None
    end: Event | None = None
    row: Event | None = None

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(one for one in (self.begin, self.commit, self.end, self.row) if one)

    @property
    def acknowledged(self) -> bool:
        return self.end is not None and self.end.kind == "done"


class Window(NamedTuple):
    """A time in which something held, with the events that begin and end it."""

    since: float
    until: float
    events: tuple[Event, ...]


@dataclass
class History:
    """All events, sorted by what they are about."""

    transactions: dict[str, Transaction] = field(default_factory=lambda: defaultdict(Transaction))
    kinds: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        made = cls()
        for one in events:
            made.add(one)
        for some in made.kinds.values():
            some.sort(key=lambda one: one.at)
        return made

    def add(self, one: Event) -> None:
        if one.kind in ("begin", "commit", *ENDS, "row"):
            transaction = self.transactions[one.told["name"]]
            setattr(transaction, "end" if one.kind in ENDS else one.kind, one)
        else:
            self.kinds[one.kind].append(one)

    @cached_property
    def bound(self) -> float:
        return float(self._settings.told["bound"]) if self._settings else 0.0

    @cached_property
    def _settings(self) -> Event | None:
        return next(iter(self.kinds["settings"]), None)

    @property
    def settings(self) -> tuple[Event, ...]:
        return (self._settings,) if self._settings else ()

    @cached_property
    def drained(self) -> list[Window]:
        """From each wait that said drained to the next turn back."""
        return [
            self._until_turned_back(one, one.at)
            for one in self.kinds["wait"]
            if one.told["to"] == READ_ONLY and one.told["holds"]
        ]

    @cached_property
    def closed(self) -> list[Window]:
        """From when each process has seen that the switch was turned, to the next turn back."""
        return [
            self._until_turned_back(one, one.at + self.bound)
            for one in self.kinds["turned"]
            if one.told["to"] == READ_ONLY
        ]

    @cached_property
    def open(self) -> list[Window]:
        """From when each process has seen that the switch was turned back, to the next turn."""
        first = [Window(float("-inf"), self._next(READ_ONLY, float("-inf")), ())]
        return first + [
            Window(one.at + self.bound, self._next(READ_ONLY, one.at), (*self.settings, one))
            for one in self.kinds["turned"]
            if one.told["to"] == READ_WRITE
        ]

    def _until_turned_back(self, one: Event, since: float) -> Window:
        back = [turn for turn in self.kinds["turn"] if turn.told["to"] == READ_WRITE]
        after = bisect.bisect(back, one.at, key=lambda turn: turn.at)
        ends = tuple(back[after : after + 1])
        until = ends[0].at if ends else float("inf")
        return Window(since, until, (*(self.settings if since > one.at else ()), one, *ends))

    def _next(self, to: str, at: float) -> float:
        turns = (one.at for one in self.kinds["turn"] if one.told["to"] == to and one.at > at)
        return next(turns, float("inf"))

    def explained(self, why: str, process: str, since: float, until: float) -> bool:
        """True if a fault explains what happened to a process then."""
        return any(
            why in one.told["explains"]
            and one.process in ("", process)
            and one.at <= until
            and one.told["until"] >= since
            for one in self.kinds["fault"]
        )

    def process_of(self, pid: int, at: float) -> Event | None:
        """Return the start of the process that had this number then."""
        starts = [one for one in self.kinds["start"] if one.told["pid"] == pid and one.at <= at]
        return starts[-1] if starts else None


Found = Iterator[tuple[str, tuple[Event, ...]]]


def _within(windows: list[Window], at: float) -> Window | None:
    """Return the window in which a moment lies. They are in order, and don't overlap."""
    before = bisect.bisect(windows, at, key=lambda one: one.since)
    found = windows[before - 1] if before else None
    return found if found is not None and found.since < at < found.until else None


def no_commit_after_drained(history: History) -> Found:
    """Between drained and the turn back nothing is committed, as the server and the process say."""
    for name, one in history.transactions.items():
        if one.row is not None and (window := _within(history.drained, one.row.at)):
            yield f"the server committed {name}", (*window.events, one.row)
        elif (
            one.commit is not None
            and one.end is not None
            and one.acknowledged
            and (window := _within(history.drained, one.commit.at))
        ):
            yield f"{name} was committed", (*window.events, one.commit, one.end)


def no_session_after_drained(history: History) -> Found:
    """Between drained and the turn back the read-write database gets no new connection."""
    for one in history.kinds["session"]:
        if window := _within(history.drained, one.told["began"]):
            yield f"{one.told['place']} was opened", (*window.events, one)


def none_begins_late(history: History) -> Found:
    """What begins more than the bound after the switch was turned writes nothing."""
    for name, one in history.transactions.items():
        if one.begin is None or not (one.row or one.acknowledged) or not one.begin.told["writes"]:
            continue
        window = _within(history.closed, one.begin.at)
        ends = [event.at for event in (one.end, one.row) if event is not None]
        if window is None or min(ends) >= window.until:
            continue
        if not history.explained("stale", one.begin.process, window.since, window.until):
            yield f"{name} began and wrote", (*window.events, *one.events)


def nothing_acknowledged_is_missing(history: History) -> Found:
    """What was acknowledged is there in the end."""
    for name, one in history.transactions.items():
        if one.acknowledged and one.commit is not None and one.row is None:
            yield f"{name} is not there", one.events


def nothing_refused_is_there(history: History) -> Found:
    """What was refused is not there in the end."""
    for name, one in history.transactions.items():
        if one.end is not None and one.end.kind == "refused" and one.row is not None:
            yield f"{name} is there", one.events


def none_straddles(history: History) -> Found:
    """All statements of a transaction came to one place, by one connection."""
    for name, one in history.transactions.items():
        places = one.end.told.get("reached", ()) if one.end else ()
        if one.end is not None and len(places) > 1:
            yield f"{name} reached {len(places)} places", (one.end,)


def every_failure_is_explained(history: History) -> Found:
    """No read fails, and no write otherwise than refused, unless a fault explains it."""
    for name, one in history.transactions.items():
        begin, end = one.begin, one.end
        if begin is None or end is None or end.kind != "failed":
            continue
        if not history.explained(end.told["why"], begin.process, begin.at, end.at):
            yield f"{name} failed: {end.told['error']}", (begin, end)


def every_refusal_is_explained(history: History) -> Found:
    """A read is never refused; nor is a write that begins and ends while read-write."""
    for name, one in history.transactions.items():
        begin, end = one.begin, one.end
        if begin is None or end is None or end.kind != "refused":
            continue
        window = _within(history.open, begin.at)
        if begin.told["writes"] and (window is None or end.at >= window.until):
            continue
        if not history.explained("refused", begin.process, begin.at, end.at):
            yield f"{name} was refused", (*(window.events if window else ()), begin, end)


def every_end_is_told(history: History) -> Found:
    """What began ends, unless its process was killed."""
    for name, one in history.transactions.items():
        if (begin := one.begin) is None or one.end is not None:
            continue
        if not history.explained("killed", begin.process, begin.at, float("inf")):
            yield f"{name} never ended", one.events


def every_flip_is_logged_once(history: History) -> Found:
    """Each process logs each flip once: to read-only, and back, in turns, none too few."""
    by_process: dict[str, list[Event]] = defaultdict(list)
    for one in history.kinds["flip"]:
        by_process[one.process].append(one)
    for process, flips in by_process.items():
        before = [None, *flips[:-1]]
        for last, one in zip(before, flips, strict=True):
            if last is not None and last.told["to"] == one.told["to"]:
                yield f"{process} logged {one.told['to']} twice in a row", (last, one)
    for wait in history.kinds["wait"]:
        if wait.told["holds"]:
            yield from _not_logged(history, wait, by_process)


def _not_logged(history: History, wait: Event, by_process: dict[str, list[Event]]) -> Found:
    """Find processes that a wait found in a mode, and whose last record told of the other."""
    to = wait.told["to"]
    for pid in wait.told["pids"]:
        start = history.process_of(pid, wait.at)
        if start is None:
            yield f"{pid} never started", (wait,)
            continue
        flips = by_process[start.process]
        after = bisect.bisect(flips, wait.at, key=lambda one: one.at)
        last = flips[after - 1] if after else None
        if (last.told["to"] if last else READ_WRITE) != to:
            events = (start, wait) if last is None else (start, last, wait)
            yield f"{start.process} had not logged {to}", events


def every_wait_ends_well(history: History) -> Found:
    """No wait gives up unless a fault explains it."""
    for one in history.kinds["wait"]:
        if not one.told["holds"] and not history.explained("wait", "", one.told["since"], one.at):
            yield f"not {one.told['to']}: {one.told['why']}", (one,)


Rule = Callable[[History], Found]
RULES: dict[str, Rule] = {
    "no commit after drained and before off": no_commit_after_drained,
    "no connection made after drained and before off": no_session_after_drained,
    "no write begun later than the bound": none_begins_late,
    "no acknowledged commit missing": nothing_acknowledged_is_missing,
    "no refused write there": nothing_refused_is_there,
    "no transaction straddles": none_straddles,
    "no failure that no fault explains": every_failure_is_explained,
    "no refusal that no flip or fault explains": every_refusal_is_explained,
    "no transaction without an end": every_end_is_told,
    "every flip logged once a process": every_flip_is_logged_once,
    "no wait in vain that no fault explains": every_wait_ends_well,
}


def check(history: History) -> list[Violation]:
    """Find what did not hold, the shortest history of each property first."""
    found = [
        Violation(name, said, events)
        for name, rule in RULES.items()
        for said, events in rule(history)
    ]
    return sorted(found, key=lambda one: len(one.events))


def counted(violations: Iterable[Violation]) -> dict[str, int]:
    """How often each property did not hold."""
    counts = Counter(one.rule for one in violations)
    return {name: counts[name] for name in RULES}
