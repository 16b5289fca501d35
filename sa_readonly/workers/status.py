"""One snapshot of the mode and of every worker, as text and JSON.

For the command, and for what answers over HTTP: it knows the protocols of a switch and of a
registry, and neither a file nor a directory.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..announced import as_json as announced_json
from ..announced import in_words
from ..mode import Mode, State
from ..text import printable
from .protocol import Liveness, process, read_between
from .verdict import Verdict, drained, returned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..mode import Switch
    from .protocol import Registry, Report, Seen

__all__ = ["Snapshot", "WorkerStatus", "called", "judged", "lasting", "snapshot", "take"]

UNTOLD = "can't be told: no file that workers could notice makes it read-only"


@dataclass(frozen=True)
class WorkerStatus:
    """One entry of the registry, judged by the mode of the snapshot.

    :param entry: the entry.
    :param why: why it is not yet drained or, with no file, read-write again; or None if it is.
    :param noticed: whether it has told that it is in that mode, by that very file.
    :param drained: whether it is read-only, holds no read-write connection and can get none.
    """

    entry: Seen
    why: str | None
    noticed: bool
    drained: bool

    @property
    def name(self) -> str:
        """What the registry calls it."""
        return self.entry.name

    @property
    def liveness(self) -> Liveness:
        """Whether its process lives."""
        return self.entry.liveness

    @property
    def report(self) -> Report | None:
        """What it says of itself, or None if that is not told."""
        return self.entry.report

    @property
    def mode(self) -> Mode | None:
        """The mode that it knows, or None if that is not told."""
        if self.report is None:
            return None
        return Mode.READ_ONLY if self.report.server else self.report.mode

    @property
    def connections(self) -> int | None:
        """The read-write connections that it holds, or None if that is not told."""
        return None if self.report is None else self.report.connections

    @property
    def called(self) -> str:
        """What people call it: ``gunicorn pid 123 on web1``."""
        one = self.entry
        return called(one.program, one.pid, one.host, one.name)

    @property
    def state(self) -> str:
        """Why it is not drained, or read-write again, in a few words; else "drained", or ""."""
        if self.why is None and self.liveness is Liveness.DEAD:
            out = 0 if self.entry.at_rest else self.connections
            return (
                f"dead, with {out} connection{'s' * (out > 1)} out in its last report"
                if out
                else "dead"
            )
        return self.why or ("drained" if self.drained else "")

    @property
    def lasting(self) -> tuple[object, ...]:
        """Equal in two rounds between which nothing happened, though time has passed."""
        told = (self.liveness, self.mode, self.connections, self.noticed, self.drained)
        return (self.name, *told, lasting(self.why or ""))

    def as_json(self) -> dict[str, object]:
        """Return it as what :mod:`json` takes."""
        one = self.entry
        told: Mapping[str, Any] = {} if self.report is None else vars(self.report)
        forced = told.get("forced")
        return {
            "name": one.name,
            "host": one.host,
            "pid": one.pid,
            "program": one.program,
            "version": one.version,
            "liveness": str(one.liveness),
            "mode": self.mode and str(self.mode),
            "noticed": self.noticed,
            "drained": self.drained,
            "why": self.why,
            "connections": self.connections,
            "connections_since": _iso(_time(told.get("since"))),
            "started": _iso(_time(one.started)),
            "reported": _iso(_time(one.written)),
            "checked": _iso(_time(told.get("checked"))),
            "flips": told.get("flips"),
            "refused": told.get("refused"),
            "held": told.get("held"),
            "watching": told.get("watching"),
            "forced": forced and str(forced),
            "server_read_only": told.get("server"),
        }

    def as_line(self) -> str:
        """Return it as one line."""
        if self.why is None and self.liveness is Liveness.DEAD:
            return f"{self.called}: {self.state}"
        parts = (self.mode and str(self.mode), self.state)
        return f"{self.called}: {', '.join(part for part in parts if part)}"


@dataclass(frozen=True)
class Snapshot:
    """What held at one moment.

    :param state: what the switch told.
    :param workers: every entry of the registry.
    :param at: when they were read.
    :param here: the process that answers, from its memory, or None where that was not asked for.
    :param problem: why that one is not registered or can't report, or None.
    """

    state: State
    workers: tuple[WorkerStatus, ...]
    at: datetime
    here: WorkerStatus | None = None
    problem: str | None = None

    @property
    def registered(self) -> int:
        """How many are registered; the dead are not."""
        return sum(one.liveness is not Liveness.DEAD for one in self.workers)

    @property
    def noticed(self) -> int:
        """How many of those have noticed the mode."""
        return sum(one.noticed for one in self.workers if one.liveness is not Liveness.DEAD)

    @property
    def drained(self) -> int:
        """How many of those are drained; none while it is read-write."""
        return sum(one.drained for one in self.workers if one.liveness is not Liveness.DEAD)

    @property
    def unknown_dead(self) -> int:
        """How many died and may have left something behind."""
        return sum(one.liveness is Liveness.DEAD and one.why is not None for one in self.workers)

    @property
    def waiting(self) -> int:
        """How many entries are not drained, or read-write again; those that died silently count."""
        return sum(one.why is not None for one in self.workers)

    @property
    def settled(self) -> int:
        """How many living processes are drained, or read-write again, by each of their entries."""
        missing = {process(one.name) for one in self.workers if one.why is not None}
        living = {process(one.name) for one in self.workers if one.liveness is Liveness.ALIVE}
        return len(living - missing)

    @property
    def held(self) -> tuple[int, float | None]:
        """How many requests and transactions wait for read-write, and for how long the first has.

        In seconds; None where none waits.
        """
        told = [one.report for one in self.workers if one.liveness is not Liveness.DEAD]
        own = None if self.here is None else self.here.entry
        known = {(one.entry.host, one.entry.pid) for one in self.workers}
        if own is not None and (own.host, own.pid) not in known:  # it reports itself nowhere
            told.append(own.report)
        reports = [one for one in told if one is not None]
        since = min((one.held_since for one in reports if one.held_since), default=None)
        longest = None if since is None else max(0.0, self.at.timestamp() - since)
        return sum(one.held for one in reports), longest

    @property
    def told_held(self) -> str | None:
        """How many are held and the longest, in words; None where none is."""
        number, longest = self.held
        return f"{number}, the longest for {longest or 0:.0f} s" if number else None

    @property
    def sums(self) -> str:
        """The sums, as one line."""
        dead = f", died without a word: {self.unknown_dead}" if self.unknown_dead else ""
        return f"workers: {self.registered}, noticed: {self.noticed}, drained: {self.drained}{dead}"

    @property
    def lasting(self) -> tuple[object, ...]:
        """Equal in two rounds between which nothing happened, though time has passed."""
        told = (one.lasting for one in self.workers)
        return (self.state, self.state.overdue, self.held[0], *told)

    @property
    def changing(self) -> bool:
        """True if it tells seconds that pass."""
        return any(lasting(one.why or "") != (one.why or "") for one in self.workers)

    def as_text(self, *, details: bool = True) -> str:
        """Return it as key-value lines.

        :param details: whether each worker gets a line of its own.
        """
        state = self.state
        rows = [
            ("mode", str(state.mode)),
            ("reason", one_line(state.reason or "")),
            ("until", _iso(state.until) or ""),
            ("generation", state.generation or ""),
        ]
        if state.overdue:
            rows.insert(3, ("overdue", "yes"))
        if state.announced is not None:
            rows.append(("announced", one_line(in_words(state.announced))))
        if self.told_held is not None:
            rows.append(("held", self.told_held))
        if self.problem is not None:
            rows.append(("registered", "no"))
        if details:
            if self.problem is not None:
                rows.append(("problem", one_line(self.problem)))
            if self.here is not None:
                rows.append(("this process", self.here.as_line()))
            rows += [("worker", one.as_line()) for one in self.workers]
        lines = [f"{key}: {value}".rstrip() for key, value in rows]
        return "\n".join([*lines, self.sums, ""])

    def as_json(self, *, details: bool = True) -> dict[str, object]:
        """Return it as what :mod:`json` takes.

        :param details: whether each worker is told.
        """
        state, (number, longest) = self.state, self.held
        told: dict[str, object] = {
            "mode": str(state.mode),
            "reason": state.reason,
            "until": _iso(state.until),
            "overdue": state.overdue,
            "since": _iso(state.since),
            "generation": state.generation,
            "announced": announced_json(state.announced),
            "at": _iso(self.at),
            "sums": {
                "workers": self.registered,
                "noticed": self.noticed,
                "drained": self.drained,
                "died_without_a_word": self.unknown_dead,
                "waiting": self.waiting,
                "settled": self.settled,
            },
            "held": {"now": number, "longest": longest},
        }
        if self.here is not None:
            told["registered"] = self.problem is None
            if details:
                told["problem"] = self.problem
                told["here"] = self.here.as_json()
        if details:
            told["workers"] = [one.as_json() for one in self.workers]
        return told


def take(
    switch: Switch, registry: Registry | None, here: Callable[[], Seen] | None = None
) -> Snapshot:
    """Read every entry between two looks at the switch, and judge them.

    :param here: tells of the process that answers, where that is asked for.
    """
    state, seen, _ = read_between(switch.check, registry, same_file)
    return snapshot(state, seen, time.time(), here=None if here is None else here())


def same_file(state: State) -> tuple[Mode, str | None]:
    """Return what is the same of two states if no worker has anything to notice between them."""
    return state.mode, state.generation


def snapshot(
    state: State, seen: Sequence[Seen], now: float, *, here: Seen | None = None
) -> Snapshot:
    """Judge the workers.

    :param state: what the switch told while they were read.
    :param seen: every entry.
    :param now: the wall-clock time, in seconds since 1970.
    :param here: the process that answers, as it tells of itself, or None.
    """
    workers = judged(_verdict(state, seen, now), state.mode)
    at = _time(now) or datetime.now(timezone.utc)
    if here is None:
        return Snapshot(state, workers, at)
    (own,) = judged(_verdict(state, (here,), now), state.mode)
    return Snapshot(state, workers, at, own, here.problem)


def _verdict(state: State, seen: Sequence[Seen], now: float) -> Verdict:
    if not state.read_only:
        return returned(seen)
    if state.generation is None:
        return Verdict(None, tuple(seen), tuple((one, UNTOLD) for one in seen))
    return drained(state.generation, seen, now)


def judged(verdict: Verdict, mode: Mode) -> tuple[WorkerStatus, ...]:
    """Return the workers of a verdict on that mode."""
    whys = {one.name: why for one, why in verdict.waiting}
    return tuple(
        _judged(one, whys.get(one.name, verdict.problem), verdict.generation, mode)
        for one in verdict.seen
    )


def _judged(one: Seen, why: str | None, generation: str | None, mode: Mode) -> WorkerStatus:
    if mode is Mode.READ_WRITE:
        noticed = one.report is not None and one.report.mode is mode and not one.acknowledged
    else:
        noticed = generation is not None and one.acknowledges(generation)
    return WorkerStatus(one, why, noticed, why is None and mode is Mode.READ_ONLY)


def called(program: str | None, pid: int | None, host: str | None, name: str) -> str:
    """Return what people call a process."""
    if pid is None:
        return name
    return f"{program or 'a process'} pid {pid}" + (f" on {host}" if host else "")


def lasting(why: str) -> str:
    """Return the ``why`` of a worker without the seconds in it, which change each time."""
    return re.sub(r" since \d+ s", "", why)


def _time(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):  # what no calendar has
        return None


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def one_line(text: str) -> str:
    """Return a text of people as one line that does a terminal no harm."""
    return printable(" / ".join(text.splitlines()))
