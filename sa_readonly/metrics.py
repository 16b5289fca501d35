"""Metrics for Prometheus: a collector that takes one snapshot at each scrape.

It shows what the processes report anyway, so between two scrapes it costs nothing. It needs
prometheus_client, which the extra ``prometheus`` brings.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from .errors import ConfigurationError
from .mode import Mode
from .oneswitch import asked, sheets
from .refusals import KINDS
from .rehearsal.notes import DRAIN, READ
from .rehearsal.sheet import Sheet
from .text import printable
from .workers.protocol import Liveness
from .workers.status import Snapshot, WorkerStatus, take

if TYPE_CHECKING:
    from .checks import AnyEngine
    from .oneswitch import Asked
    from .selector import EngineSelector
    from .workers.protocol import Report, Seen

__all__ = ["ReadOnlyCollector"]


class ReadOnlyCollector(Collector):
    """Collects the mode of one application, the state of its processes, and what they refused.

    ``REGISTRY.register(ReadOnlyCollector(selector))``. Registering it collects nothing. A scrape
    may hit any process: it answers for all that are registered in its registry and run on its host.
    Those of other hosts answer for themselves.

    :param selectors: the :class:`.EngineSelector` of the application, or an engine with
        ``plugin=sa_readonly``. Several go to one collector,
        as a metric's name can be registered only once: the label ``switch`` tells their switches
        apart. Selectors that share a switch share their processes, and count once.
    :raises ConfigurationError: if there is none, one is no selector, or two switches have the same
        name.
    """

    def __init__(self, *selectors: EngineSelector | AnyEngine) -> None:
        self._selectors: dict[str, Asked] = {}
        for selector in selectors:
            self._add(selector)
        if not selectors:
            raise ConfigurationError("ReadOnlyCollector() takes an EngineSelector, or several.")

    def _add(self, given: object) -> None:
        selector = asked(given, self)
        if selector is None:
            raise ConfigurationError(
                "ReadOnlyCollector() takes an EngineSelector, or an engine with "
                f"plugin=sa_readonly, not {type(given).__name__}."
            )
        switch = selector.switch
        name = printable(switch.name)
        known = self._selectors.setdefault(name, selector)
        if known.switch is not switch:
            raise ConfigurationError(
                f"ReadOnlyCollector() was given two selectors whose switches are both {name}. Make "
                "one switch and give it to both selectors, or give each switch a name of its own."
            )

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples; nothing is looked at."""
        return _Families().all

    def collect(self) -> Iterable[Metric]:
        """Look at the switch, read the registry, and return the samples. It uses no database."""
        families = _Families()
        for name, selector in self._selectors.items():
            selector.check()  # so that this process registers and reports, too
            seen = take(selector.switch, selector.registry, selector.report)
            families.add(name, seen, registers=selector.registry is not None)
            families.add_rehearsal(name, seen, sheets(selector))
        return families.all


class _Families:
    """The metrics of one scrape."""

    def __init__(self) -> None:
        switch = ("switch",)
        self.read_only = _gauge("read_only", "1 while read-only, 0 while read-write.", switch)
        self.generation = InfoMetricFamily(
            "sa_readonly_generation",
            "The identity of the file that is there, the same in all processes that see it.",
            labels=switch,
        )
        self.since = _gauge("since_timestamp_seconds", "Since when the file is there.", switch)
        self.until = _gauge(
            "until_timestamp_seconds", "Until when the operator expects to be read-only.", switch
        )
        self.registered = _gauge(
            "registered",
            "0 if the process that answers can't register or report, so that `sa-readonly wait` "
            "does not see it; else 1.",
            switch,
        )
        self.workers = _gauge(
            "workers", "Processes of this host that are registered and live.", switch
        )
        self.noticed = _gauge(
            "workers_noticed", "Those that have noticed the mode that holds.", switch
        )
        self.drained = _gauge(
            "workers_drained",
            "Those that hold no read-write connection and can get none; 0 while read-write.",
            switch,
        )
        self.died = _gauge(
            "workers_died",
            "Processes that died without a word, and may have left a statement at the server.",
            switch,
        )
        self.unwatched = _gauge(
            "workers_unwatched", "Those in which no watcher thread looks at the switch.", switch
        )
        self.forced = _gauge(
            "workers_forced", "Those on which a mode is forced.", (*switch, "mode")
        )
        self.checked = _gauge(
            "last_check_timestamp_seconds",
            "The last look at the switch that was reported; of all processes, the oldest.",
            switch,
        )
        self.connections = _gauge(
            "connections",
            "Connections by engine, in all processes; retired are those of pools from before a "
            "flip that are open yet.",
            (*switch, "engine", "state"),
        )
        self.retired = _gauge(
            "retired_since_timestamp_seconds",
            "Since when the oldest connection is retired and not closed yet; absent without one.",
            switch,
        )
        self.held = _gauge(
            "held", "Requests and transactions that wait for read-write, in all processes.", switch
        )
        self.held_since = _gauge(
            "held_since_timestamp_seconds",
            "Since when the one is held that waits longest; absent without one.",
            switch,
        )
        self.flips = CounterMetricFamily(
            "sa_readonly_flips", "Flips that a process has seen.", labels=(*switch, "pid")
        )
        self.rehearsing = _gauge(
            "workers_rehearsing", "Processes that note what a flip would refuse.", switch
        )
        self.rehearsed = CounterMetricFamily(
            "sa_readonly_rehearsed",
            "What a process has noted in its rehearsal, by what would be refused; read is what "
            "would be served, drain what is held for a second or longer.",
            labels=(*switch, "kind", "pid"),
        )
        self.refused = CounterMetricFamily(
            "sa_readonly_refused_writes",
            "Writes that a process has refused, by what was refused.",
            labels=(*switch, "kind", "pid"),
        )

    @property
    def all(self) -> Sequence[Metric]:
        return list(vars(self).values())

    def add(self, name: str, seen: Snapshot, *, registers: bool) -> None:
        """Add the samples of one switch."""
        switch, state = (name,), seen.state
        self.read_only.add_metric(switch, state.read_only)
        if state.generation is not None:  # without a file, each process has a time of its own
            self.generation.add_metric(switch, {"generation": printable(state.generation)})
            _add_time(self.since, switch, state.since)
        _add_time(self.until, switch, state.until)
        if registers:
            self.registered.add_metric(switch, seen.problem is None)
        # A process of another host answers its own scrapes; a registry may show it here as well.
        here = None if seen.here is None else seen.here.entry
        ours = [one for one in seen.workers if here is None or one.entry.host == here.host]
        living = [one for one in ours if one.liveness is Liveness.ALIVE]
        died = [one for one in ours if one.liveness is Liveness.DEAD and one.why is not None]
        self.workers.add_metric(switch, len(living))
        self.noticed.add_metric(switch, sum(one.noticed for one in living))
        self.drained.add_metric(switch, sum(one.drained for one in living))
        self.died.add_metric(switch, len(died))
        told = list(_reporting(living, here))
        reports = [report for _, report in told]
        self.unwatched.add_metric(switch, sum(not one.watching for one in reports))
        for mode in Mode:
            forced = sum(one.forced is mode for one in reports)
            self.forced.add_metric((name, str(mode)), forced)
        _add_oldest(self.checked, switch, (one.checked for one in reports if not one.forced))
        _add_oldest(self.retired, switch, (one.retired for one in reports))
        self.held.add_metric(switch, sum(one.held for one in reports))
        _add_oldest(self.held_since, switch, (one.held_since for one in reports))
        self._add_connections(name, reports)
        self._add_counts(name, told)

    def add_rehearsal(self, name: str, seen: Snapshot, noted: Sequence[Sheet]) -> None:
        """Add what the processes of this host have noted in a rehearsal."""
        here = seen.here.entry if seen.here is not None else None
        pids = {"": os.getpid()} | {
            one.entry.name: one.entry.pid or 0
            for one in seen.workers
            if one.liveness is Liveness.ALIVE and (here is None or one.entry.host == here.host)
        }
        ours = [one for one in noted if one.name in pids and one.since is not None]
        self.rehearsing.add_metric((name,), sum(one.on for one in ours))
        for sheet in ours:
            counts = Counter(dict.fromkeys((*KINDS, READ, DRAIN), 0))
            for row in sheet.rows:
                counts[row.key.kind] += row.entry.first + row.entry.behind
            for kind, number in counts.items():
                labels = (name, printable(kind), str(pids[sheet.name]))
                self.rehearsed.add_metric(labels, number)

    def _add_connections(self, name: str, reports: Sequence[Report]) -> None:
        counts: Counter[tuple[str, str]] = Counter()
        for one in reports:
            for engine, connections in one.engines.items():
                for state, number in connections._asdict().items():
                    counts[engine, state] += number
        for (engine, state), number in counts.items():
            self.connections.add_metric((name, engine, state), number)

    def _add_counts(self, name: str, told: Sequence[tuple[str, Report]]) -> None:
        """Add the counters, by process: a sum would fall when a process ends, as at a restart."""
        flips: Counter[str] = Counter()
        refused: Counter[tuple[str, str]] = Counter()
        for pid, one in told:
            flips[pid] += one.flips
            for kind in KINDS:  # from 0 on, so that Prometheus sees the first increase
                refused[kind, pid] += 0
            for kind, number in one.kinds.items():
                refused[kind, pid] += number
        for pid, number in flips.items():
            self.flips.add_metric((name, pid), number)
        for (kind, pid), number in refused.items():
            self.refused.add_metric((name, kind, pid), number)


def _gauge(name: str, text: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"sa_readonly_{name}", text, labels=labels)


def _reporting(living: Iterable[WorkerStatus], here: Seen | None) -> Iterator[tuple[str, Report]]:
    """Yield pid and report of the processes that report, and this one's from memory if it does not.

    Where it has, its report is preferred to its memory, which is newer: the other processes answer
    with the report, and two scrapes in turn must not show a counter that falls.
    """
    own = here
    for one in living:
        if one.entry.pid == os.getpid():
            own = None
        if one.report is not None:
            yield str(one.entry.pid), one.report
    if own is not None and own.report is not None:
        yield str(own.pid), own.report


def _add_oldest(
    family: GaugeMetricFamily, labels: Sequence[str], times: Iterable[float | None]
) -> None:
    oldest = min((one for one in times if one is not None), default=None)
    if oldest is not None:
        family.add_metric(labels, oldest)


def _add_time(family: GaugeMetricFamily, labels: Sequence[str], moment: datetime | None) -> None:
    if moment is not None:
        family.add_metric(labels, moment.timestamp())
