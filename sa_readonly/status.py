"""One snapshot of the mode and of every worker, as text and as JSON.

For the command and for whoever answers over HTTP: it knows the protocols of a switch and of a
registry, and neither a file nor a directory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from .mode import Mode, State
from .workers import Liveness, Registry, Seen, Verdict, acknowledges, drained, returned

if TYPE_CHECKING:
    from .mode import Switch

__all__ = ["Snapshot", "Worker", "snapshot", "take"]

_TRIES = 10  # looks while the switch moves
UNTOLD = "can't be told: no file that workers could notice makes it read-only"


@dataclass(frozen=True)
class Worker:
    """One entry of the registry, judged by the mode of the snapshot. Text in it is printable.

    :param name: what the registry calls it.
    :param liveness: whether its process lives.
    :param noticed: whether it has told that it is in that mode, by that very file.
    :param drained: whether it is read-only, holds no read-write connection and can get none.
    :param why: why it is not there yet, or None: drained, or read-write again.
    :param mode: the mode that it knows, or None if that is not told, as all that follows.
    :param connections: the read-write connections that it holds.
    :param connections_since: since when the oldest of them is held.
    """

    name: str
    liveness: Liveness
    noticed: bool = False
    drained: bool = False
    why: str | None = None
    mode: Mode | None = None
    connections: int | None = None
    connections_since: datetime | None = None
    host: str | None = None
    pid: int | None = None
    program: str | None = None
    version: str | None = None
    started: datetime | None = None
    reported: datetime | None = None
    checked: datetime | None = None
    flips: int | None = None
    refused: int | None = None
    watching: bool | None = None
    forced: Mode | None = None

    @property
    def called(self) -> str:
        """What people call it: ``gunicorn pid 123 on web1``."""
        return called(self.program, self.pid, self.host, self.name)

    @property
    def lasting(self) -> tuple[object, ...]:
        """What is the same until something happens; the seconds in ``why`` are not."""
        told = (self.liveness, self.mode, self.connections, self.noticed, self.drained)
        return (self.name, *told, lasting(self.why or ""))

    def as_json(self) -> dict[str, object]:
        """Return it as what :mod:`json` takes."""
        return {
            "name": self.name,
            "host": self.host,
            "pid": self.pid,
            "program": self.program,
            "version": self.version,
            "liveness": str(self.liveness),
            "mode": self.mode and str(self.mode),
            "noticed": self.noticed,
            "drained": self.drained,
            "why": self.why,
            "connections": self.connections,
            "connections_since": _iso(self.connections_since),
            "started": _iso(self.started),
            "reported": _iso(self.reported),
            "checked": _iso(self.checked),
            "flips": self.flips,
            "refused": self.refused,
            "watching": self.watching,
            "forced": self.forced and str(self.forced),
        }

    def as_line(self) -> str:
        """Return it as one line."""
        if self.liveness is Liveness.DEAD and self.why is None:
            return f"{self.called}: dead, held no connection"
        parts = (self.mode and str(self.mode), self.why, "drained" if self.drained else None)
        return f"{self.called}: {', '.join(part for part in parts if part)}"


@dataclass(frozen=True)
class Snapshot:
    """What held at one moment.

    :param state: what the switch told.
    :param workers: every entry of the registry.
    :param at: when they were read.
    """

    state: State
    workers: tuple[Worker, ...]
    at: datetime

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
    def sums(self) -> str:
        """The sums, as one line."""
        dead = f", died without a word: {self.unknown_dead}" if self.unknown_dead else ""
        return f"workers: {self.registered}, noticed: {self.noticed}, drained: {self.drained}{dead}"

    @property
    def lasting(self) -> tuple[object, ...]:
        """What is the same until something happens."""
        return (self.state, self.state.overdue, *(one.lasting for one in self.workers))

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
            ("reason", _one_line(state.reason or "")),
            ("until", _iso(state.until) or ""),
            ("generation", state.generation or ""),
        ]
        if state.overdue:
            rows.insert(3, ("overdue", "yes"))
        if details:
            rows += [("worker", one.as_line()) for one in self.workers]
        lines = [f"{key}: {value}".rstrip() for key, value in rows]
        return "\n".join([*lines, self.sums, ""])

    def as_json(self, *, details: bool = True) -> dict[str, object]:
        """Return it as what :mod:`json` takes.

        :param details: whether each worker is told.
        """
        state = self.state
        told: dict[str, object] = {
            "mode": str(state.mode),
            "reason": state.reason,
            "until": _iso(state.until),
            "overdue": state.overdue,
            "since": _iso(state.since),
            "generation": state.generation,
            "at": _iso(self.at),
            "sums": {
                "workers": self.registered,
                "noticed": self.noticed,
                "drained": self.drained,
                "died_without_a_word": self.unknown_dead,
            },
        }
        if details:
            told["workers"] = [one.as_json() for one in self.workers]
        return told


def take(switch: Switch, registry: Registry) -> Snapshot:
    """Look at the switch, read every entry, and judge them by what was there all the while."""
    state = switch.check()
    for _ in range(_TRIES):
        seen = registry.read()
        before, state = state, switch.check()
        if (before.mode, before.generation) == (state.mode, state.generation):
            break
    return snapshot(state, seen, time.time())


def snapshot(
    state: State, seen: Sequence[Seen], now: float, *, ignore_dead: bool = False
) -> Snapshot:
    """Judge the workers.

    :param state: what the switch told while they were read.
    :param seen: every entry.
    :param now: the wall-clock time, in seconds since 1970.
    :param ignore_dead: see :func:`.drained`.
    """
    if not state.read_only:
        verdict = returned(seen)
    elif state.generation is None:
        verdict = Verdict(None, tuple(seen), tuple((one, UNTOLD) for one in seen))
    else:
        verdict = drained(state.generation, seen, now, ignore_dead=ignore_dead)
    return Snapshot(state, judged(verdict, state.mode), _time(now) or datetime.now(timezone.utc))


def judged(verdict: Verdict, mode: Mode) -> tuple[Worker, ...]:
    """Return the workers of a verdict on that mode."""
    whys = {one.name: why for one, why in verdict.waiting}
    return tuple(
        _worker(one, whys.get(one.name, verdict.problem), verdict.generation, mode)
        for one in verdict.seen
    )


def called(program: str | None, pid: int | None, host: str | None, name: str) -> str:
    """Return what people call a process."""
    if pid is None:
        return name
    return f"{program or 'a process'} pid {pid}" + (f" on {host}" if host else "")


def lasting(why: str) -> str:
    """Return why one is not there yet without what changes each second."""
    return re.sub(r" since \d+ s", "", why)


def _worker(one: Seen, why: str | None, generation: str | None, mode: Mode) -> Worker:
    worker = Worker(
        one.name,
        one.liveness,
        why=why,
        drained=why is None and mode is Mode.READ_ONLY,
        host=one.host,
        pid=one.pid,
        program=one.program,
        version=one.version,
        started=_time(one.started),
        reported=_time(one.written),
    )
    report = one.report
    if report is None:
        return worker
    if mode is Mode.READ_WRITE:
        noticed = report.mode is mode and not one.acknowledged
    else:
        noticed = generation is not None and acknowledges(one, report, generation)
    return replace(
        worker,
        noticed=noticed,
        mode=report.mode,
        connections=report.connections,
        connections_since=_time(report.since),
        checked=_time(report.checked),
        flips=report.flips,
        refused=report.refused,
        watching=report.watching,
        forced=report.forced,
    )


def _time(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):  # what no calendar has
        return None


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _one_line(text: str) -> str:
    return printable(" / ".join(text.splitlines()))


def printable(text: str) -> str:
    """Return a text that does a terminal no harm."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
