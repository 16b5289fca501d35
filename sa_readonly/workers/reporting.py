"""The entry of this process: registered, told how things stand when that has changed, withdrawn."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from .. import forks
from ..mode import Mode
from ..telemetry import fields
from .protocol import RegistryError, Report
from .rehearsing import Rehearsing

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from ..engines.uses import Trace
    from ..mode import Switch
    from .protocol import Entry, Identify, Registry

__all__ = ["Mark", "Reporting", "identify_by"]

logger = logging.getLogger("sa_readonly")

# Seconds between two reports.
_COUNTED = 0.25  # that differ only in what was refused or is held
_MINOR = 10.0  # that differ only in connections and begun transactions on which no verdict depends
_RENEWED = 30.0  # that say the same: so that readers see that the process still looks

_ENSURED = 1.0  # seconds after which an idle process asks whether its entry is still there
_SWEPT = 300.0  # seconds after which it sweeps entries of processes that have died


class Mark(NamedTuple):
    """What a report would say. It is made at each look, so it is cheap: no report is built for it.

    A verdict depends on all but ``refused``, ``held`` and ``begun``.

    :param turns: see :attr:`Reporting.turns`.
    :param connections: as in a report; None while read-write, when no verdict depends on them.

    The others are as in a :class:`.Report`.
    """

    turns: int
    mode: Mode
    generation: str | None
    connections: int | None
    flips: int
    watching: bool
    forced: Mode | None
    refused: int
    held: int
    server: bool
    begun: int

    @classmethod
    def of(cls, report: Report, turns: int) -> Mark:
        """Return what a report says; ``turns`` are from before it was built."""
        return cls(
            turns,
            report.mode,
            report.generation,
            report.connections if report.mode is Mode.READ_ONLY else None,
            report.flips,
            report.watching,
            report.forced,
            report.refused,
            report.held,
            report.server,
            report.begun,
        )


class Reporting:
    """What a :class:`.Worker` has in a registry, and what it told there.

    :param identify: see :meth:`.Registry.register`.
    """

    def __init__(self, identify: Identify) -> None:
        self._identify = identify
        self.registry: Registry | None = None
        self.problem: str | None = None
        """Why this process is not registered or can't report, or None."""
        self.since: float | None = None
        """Since when the gate is shut, in wall-clock seconds, or None."""
        self.turns = 0
        """How often a new report became due whatever is counted: a gate was turned, or this process
        registered. Each :class:`Mark` has it."""
        # Taken to turn the gate, and to note a new entry: no entry misses that the gate was shut,
        # and no turn is lost.
        self._turning = forks.PerProcess(threading.RLock)
        self._entry: Entry | None = None
        self._mute = False  # whether it was logged that a rehearsal's notes can't be told
        self.begin(None)

    def begin(self, registry: Registry | None) -> None:
        """Register in this registry from now on; None is none."""
        if registry != self.registry:
            self._entry = None  # in that registry it stays, if a connection was in use
        self.registry, self.problem = registry, None
        self.follow_fork()

    def follow_fork(self) -> None:
        """Have nothing registered and nothing told: in a child, what there is is the parent's."""
        self.registered = False
        self._sweep_at = time.monotonic() + _SWEPT  # registering sweeps, too
        self.rehearsing = Rehearsing()
        self._told: tuple[Mark, Report] | None = None
        self._told_at = self._ensured_at = -math.inf

    # -- being registered ------------------------------------------------------------------

    def stands(self) -> bool:
        """True if it is registered and its entry is still there.

        At each look it is asked whether readers see that this process lives: they would take it for
        dead at once. Whether they find the entry and its report is asked once a second.
        """
        entry = self._entry
        if entry is None or not self.registered or not entry.lives():
            return False
        if time.monotonic() < self._ensured_at + _ENSURED:
            return True
        self._ensured_at = time.monotonic()
        return entry.stands()

    def doubt(self) -> None:
        """Ask the next time whether the entry is there, however lately that was asked."""
        self._ensured_at = -math.inf

    def ensure(self, is_wanted: Callable[[], bool], trace: Trace) -> bool:
        """Be registered; True if that is new.

        :param is_wanted: whether there still is a selector, asked once it is registered.
        :param trace: what notes which connections are in use.
        """
        if self.registry is None:
            return False
        self._ensured_at = time.monotonic()
        new = False
        try:
            entry = self._entry
            if entry is None:
                entry = self.registry.register(self._identify)
                with self._turning():
                    self._entry = entry
                    if self.since is not None:  # the gate was shut before
                        entry.closed()
                    if not is_wanted():
                        self.close()
                        return False
                new = True
            else:
                new = entry.ensure()
            self.registered = True
            if new:
                with self._turning():  # two threads may both have registered it anew
                    trace.move(entry.memory())
                    self.turns += 1
        except RegistryError as error:
            self.registered = False
            self._fall_ill(error)
        return new

    def close(self, *, collected: bool = False) -> None:
        """Have no entry any more.

        :param collected: whether a garbage collection calls this.
        """
        with self._turning():
            entry, self._entry = self._entry, None
            if entry is not None and not (collected and entry.remote):
                entry.close()
                return
        if entry is not None:
            with contextlib.suppress(RuntimeError):  # none can be started: the entry stays
                threading.Thread(target=entry.close, name="sa_readonly end", daemon=True).start()

    def sweep(self) -> None:
        """Now and then forget processes that have died, so that no later file waits for them."""
        if self.registry is not None and time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + _SWEPT
            self.registry.sweep(self._identify)

    # -- the gate --------------------------------------------------------------------------

    def turn(self, *, read_only: bool) -> None:
        """Acknowledge from now on, or take that back: called in the first of all gates.

        :raises RegistryError: if it can't be taken back: no gate may open.
        """
        with self._turning():
            entry = self._entry
            if read_only:
                if self.since is None:
                    self.since = time.time()
                if entry is not None:
                    entry.closed()
            else:
                if entry is not None and self.registered:  # else it has acknowledged nothing
                    entry.withdraw()
                self.since = None
            self.turns += 1  # last: a report under way has the old number, so another is due

    # -- reporting -------------------------------------------------------------------------

    def is_due(self, mark: Mark, connections: Callable[[], object]) -> bool:
        """True if a report would tell something new that is worth it, or the last one is old.

        :param connections: returns what stands in a report as ``engines``.
        """
        if self._told is None:
            return True
        last, report = self._told
        last = last._replace(begun=mark.begun)
        if last._replace(refused=mark.refused, held=mark.held) != mark:
            return True
        age = time.monotonic() - self._told_at
        if last != mark:
            return age >= _COUNTED
        if age < _MINOR:
            return False
        return age >= _RENEWED or report.begun != mark.begun or report.engines != connections()

    def report(self, snapshot: Callable[[], Report]) -> None:
        """Report. What has changed after the snapshot, or differs from it, is told the next time.

        :param snapshot: see :meth:`.Entry.report`.
        """
        entry, built, turns = self._entry, list[Report](), self.turns
        if entry is None or not self.registered:
            return

        def build() -> Report:
            built.append(snapshot())
            return built[-1]

        try:
            entry.report(build)
        except RegistryError as error:
            self._fall_ill(error)
            return
        if built:
            # Of what it says, and not of what the look saw before: a connection may have been in
            # the making only while it was built.
            self._told = Mark.of(built[-1], turns), built[-1]
            self._told_at = time.monotonic()
        if self.problem is not None:
            self.problem = None
            extra = fields("reports_again")
            logger.info("This process is registered, and reports again.", extra=extra)

    def note(self, switch: Switch) -> None:
        """Tell what was noted in a rehearsal, if there is something new."""
        entry = self._entry
        if entry is not None and self.registered:
            try:
                self.rehearsing.tell(switch, entry)
                self._mute = False
            except RegistryError as error:
                if not self._mute:
                    self._mute = True
                    extra = fields("rehearsal_untold", error=str(error))
                    message = "What a rehearsal has noted can't be told: %s"
                    logger.warning(message, error, extra=extra)

    def _fall_ill(self, error: RegistryError) -> None:
        self._told = None  # readers may find no report: it is tried again at the next look
        if self.problem is None:
            logger.error("%s", error, extra=fields("unreported", error=str(error)))
        self.problem = str(error)


def identify_by(reference: weakref.ref[Switch]) -> Identify:
    """Return what identifies the file of a switch that is held weakly."""

    def identify() -> str | None:
        switch = reference()
        if switch is None:
            raise RegistryError("The switch is gone.")
        return switch.identify()

    return identify
