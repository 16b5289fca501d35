"""One snapshot of the mode and of every worker, as text, JSON and HTML.

For the command and for whoever answers over HTTP: it knows the protocols of a switch and of a
registry, and neither a file nor a directory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ..mode import Mode, State
from ..text import printable
from ..web.page import document, escaped
from .protocol import Liveness, Registry, Seen, Verdict, acknowledges, drained, process, returned

if TYPE_CHECKING:
    from ..mode import Switch
    from .protocol import Connections

__all__ = ["Snapshot", "Worker", "snapshot", "take"]

_TRIES = 10  # looks while the switch moves
_SAID = {
    Mode.READ_WRITE: "Read-write: changes are saved.",
    Mode.READ_ONLY: "Read-only: nothing can be saved for the moment.",
}
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
    :param kinds: what it has refused, see :class:`.workers.Report`; so ``engines``.
    :param retired: since when the oldest connection of a retired pool is that.
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
    kinds: Mapping[str, int] = field(default_factory=dict, hash=False)
    engines: Mapping[str, Connections] = field(default_factory=dict, hash=False)
    retired: datetime | None = None
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

    def as_row(self) -> str:
        """Return it as a row of an HTML table."""
        how = self.why or ("drained" if self.drained else "")
        if self.liveness is Liveness.DEAD and self.why is None:
            how = "dead, held no connection"
        return (
            f'<tr><th scope="row">{escaped(self.called)}</th>'
            f"<td>{self.mode or 'not told'}</td><td>{escaped(how)}</td></tr>\n"
        )


@dataclass(frozen=True)
class Snapshot:
    """What held at one moment.

    :param state: what the switch told.
    :param workers: every entry of the registry.
    :param at: when they were read.
    :param here: the process that answers, from its memory, or None where nobody asked for it.
    :param problem: why that one is not registered or can't report, or None.
    """

    state: State
    workers: tuple[Worker, ...]
    at: datetime
    here: Worker | None = None
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
        """How many entries are not there yet, in either mode; who died without a word counts."""
        return sum(one.why is not None for one in self.workers)

    @property
    def settled(self) -> int:
        """How many processes live and are there, with each of their entries."""
        missing = {process(one.name) for one in self.workers if one.why is not None}
        living = {process(one.name) for one in self.workers if one.liveness is Liveness.ALIVE}
        return len(living - missing)

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
        if self.problem is not None:
            rows.append(("registered", "no"))
        if details:
            if self.problem is not None:
                rows.append(("problem", _one_line(self.problem)))
            if self.here is not None:
                rows.append(("this process", self.here.as_line()))
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
                "waiting": self.waiting,
                "settled": self.settled,
            },
        }
        if self.here is not None:
            told["registered"] = self.problem is None
            if details:
                told["problem"] = self.problem
                told["here"] = self.here.as_json()
        if details:
            told["workers"] = [one.as_json() for one in self.workers]
        return told

    def as_html(self, *, details: bool = False) -> str:
        """Return it as a page that needs no other file and refreshes itself.

        :param details: whether each worker is told. Others than the operators may see the page.
        """
        mode = self.state.mode
        parts = [
            "<h1>Read-only or not</h1>\n",
            f'<div id="mode" role="status"><p class="mode {mode}">{_SAID[mode]}</p></div>\n',
            f'<div id="state">{self._html_of_state()}</div>\n',
            f'<div id="workers">{self._html_of_workers(details=details)}</div>\n',
            f'<p id="at" class="soft">As of {_html_time(self.at, seconds=True)}.</p>\n',
            '<p id="trouble" role="alert"></p>\n',
        ]
        return document(f"{str(mode).capitalize()}", "".join(parts), refreshes=True)

    def _html_of_state(self) -> str:
        state = self.state
        rows: list[tuple[str, str]] = []
        if state.reason:
            rows.append(("Reason", f'<span class="text">{escaped(state.reason)}</span>'))
        if state.until is not None:
            late = " It takes longer than expected." if state.overdue else ""
            rows.append(("Expected until", _html_time(state.until) + late))
        if state.since is not None:
            rows.append(("Since", _html_time(state.since)))
        told = "".join(f"<dt>{name}</dt><dd>{value}</dd>\n" for name, value in rows)
        return f"<dl>\n{told}</dl>" if told else ""

    def _html_of_workers(self, *, details: bool) -> str:
        parts = [f"<h2>Workers</h2>\n<p>{escaped(_capital(self.sums))}.</p>\n"]
        if self.problem is not None:
            why = f": {_one_line(self.problem)}" if details else "."
            parts.append(f"<p>The process that answers is not registered{escaped(why)}</p>\n")
        if details and self.here is not None:
            parts.append(f"<p>This page comes from {escaped(self.here.as_line())}.</p>\n")
        if details and self.workers:
            heads = "".join(f'<th scope="col">{name}</th>' for name in ("Worker", "Mode", "State"))
            rows = "".join(one.as_row() for one in self.workers)
            parts.append(
                f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
            )
        return "".join(parts)


def take(
    switch: Switch, registry: Registry | None, here: Callable[[], Seen] | None = None
) -> Snapshot:
    """Look at the switch, read every entry, and judge them by what was there all the while.

    :param here: tells of the process that answers, where that is asked for.
    """
    state = switch.check()
    seen: Sequence[Seen] = ()
    for _ in range(_TRIES):
        seen = () if registry is None else registry.read()
        before, state = state, switch.check()
        if (before.mode, before.generation) == (state.mode, state.generation):
            break
    return snapshot(state, seen, time.time(), here=None if here is None else here())


def snapshot(
    state: State,
    seen: Sequence[Seen],
    now: float,
    *,
    ignore_dead: bool = False,
    here: Seen | None = None,
) -> Snapshot:
    """Judge the workers.

    :param state: what the switch told while they were read.
    :param seen: every entry.
    :param now: the wall-clock time, in seconds since 1970.
    :param ignore_dead: see :func:`.drained`.
    :param here: the process that answers, as it tells of itself, or None.
    """
    workers = judged(_verdict(state, seen, now, ignore_dead=ignore_dead), state.mode)
    at = _time(now) or datetime.now(timezone.utc)
    if here is None:
        return Snapshot(state, workers, at)
    (own,) = judged(_verdict(state, (here,), now), state.mode)
    return Snapshot(state, workers, at, own, here.problem)


def _verdict(
    state: State, seen: Sequence[Seen], now: float, *, ignore_dead: bool = False
) -> Verdict:
    if not state.read_only:
        return returned(seen)
    if state.generation is None:
        return Verdict(None, tuple(seen), tuple((one, UNTOLD) for one in seen))
    return drained(state.generation, seen, now, ignore_dead=ignore_dead)


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
        kinds=report.kinds,
        engines=report.engines,
        retired=_time(report.retired),
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


def _html_time(moment: datetime, *, seconds: bool = False) -> str:
    form = "%Y-%m-%d %H:%M:%S UTC" if seconds else "%Y-%m-%d %H:%M UTC"
    told = moment.astimezone(timezone.utc)
    return f'<time datetime="{moment.isoformat()}">{told.strftime(form)}</time>'


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
