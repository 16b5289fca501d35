"""This process as a worker: what the selectors of one switch share."""

from __future__ import annotations

import math
import threading
import time
import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from .. import forks, refusals
from ..engines import loops
from ..engines.privates import in_greenlet
from ..errors import ConfigurationError, ReadOnlyError
from ..hold.count import held
from ..mode import State, clock
from ..subscribers import looks_at_a_glance
from .counts import Counts
from .ending import call_at_exit
from .protocol import Report
from .reporting import Mark, Reporting, identify_by
from .watcher import Watcher, is_watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..engines.doors import Door
    from ..mode import Switch
    from .counts import Member
    from .protocol import Registry, Seen

    _Hook = Callable[[], None]

__all__ = ["Worker", "worker_of"]

_JOIN = 1.0  # seconds for which a selector that closes waits for work beside a loop


class Worker:
    """What the selectors of this process that have one switch share: a thread and an entry.

    It registers before the first answer of the switch is used, in a forked child anew, and before
    a read-write connection is made, also past the selector. On the way to read-only its doors are
    shut, then connections are counted, then that is reported; on the way back the acknowledgement
    is withdrawn before a door opens.
    """

    def __init__(self, switch: Switch) -> None:
        self._switch = weakref.ref(switch)
        self.reporting = Reporting(identify_by(self._switch))
        self.required = False
        self._is_async = False  # whether an engine is, so that an event loop may wait for this
        self.counts = Counts(switch)
        self.watcher = Watcher(switch, self.due, self.counts.probe)
        self._unsubscribe: Callable[[], None] = _nothing
        self._barred = False
        self._beginning = forks.PerProcess(threading.RLock)  # an on_flip() callback may connect
        self._doing = forks.Latch()
        self._forget()
        forks.subscribe(in_child=self._follow_fork)

    def _forget(self) -> None:
        self._begun = self._begins = False
        self._beside: threading.Thread | None = None
        self._flips = 0

    def _follow_fork(self) -> None:
        self._forget()
        self.reporting.follow_fork()
        switch = self._switch()
        self.counts.begin(switch)
        if switch is not None and self.counts.members:
            switch.fresh_until = -math.inf  # so that the first transaction comes by refresh()

    # -- the selectors -------------------------------------------------------------------

    def agree(self, registry: Registry | None, required: bool) -> None:
        """Refuse a selector that would have this process report itself in another way.

        :raises ConfigurationError: if there is another selector with this switch and other workers.
        """
        mine = self.reporting.registry, self.required
        if self.counts.members and (registry, required) != mine:
            raise ConfigurationError(
                "EngineSelector(workers=...) differs from that of another selector with the same "
                "switch, with which it shares one entry. Give the same to both."
            )

    def join(
        self,
        switch: Switch,
        member: Member,
        registry: Registry | None,
        *,
        watch: bool,
        required: bool,
    ) -> None:
        """Look after the doors of one more selector."""
        if not self.counts.members:
            self.reporting.begin(registry)
            self.required = required
            self._begun = self._barred = False
            # First of all gates: before one opens, the report is withdrawn.
            self._unsubscribe = switch.subscribe(self._gate, self._flipped)
        self.counts.members[member] = watch
        for door in member.doors:
            self.look_after(door)
        switch.fresh_until = -math.inf  # so that the first transaction comes by refresh()

    def look_after(self, door: Door) -> None:
        """Look after one more door of a selector, before it gives out a connection."""
        self._is_async |= door.engine.dialect.is_async
        door.before_connect = (*door.before_connect, self.attend)
        door.after_refusal = (*door.after_refusal, self.refused)
        door.trace(self.counts, self.counts.trace)
        self.counts.note_begun(door, self._switch())
        if self._barred:
            self._bar(door)

    def leave(self, member: Member, *, join: bool = False) -> None:
        """Look after one selector no more; after the last, the thread ends and the entry goes.

        The entry stays while connections are in use: readers see when the process ends.

        :param join: whether to wait for the end of the thread.
        """
        forks.follow()
        if self.counts.members.pop(member, None) is not None:
            for door in member.doors:
                self.counts.leave(door)
                door.before_connect = _without(door.before_connect, self.attend)
                door.after_refusal = _without(door.after_refusal, self.refused)
                door.open(self)
        if not any(self.counts.members.values()):
            self.watcher.stop(None if join else 0)  # a garbage collection may call this anywhere
        if self.counts.members:
            return
        if join and self._beside is not None:
            self._beside.join(_JOIN)
        self._unsubscribe()
        self._unsubscribe = _nothing
        self._begun = False  # before the count: what connects after it registers anew
        if not self.counts.left:
            self.reporting.close(collected=not join)

    def end(self) -> None:
        """At the end of the process: remove the entry, unless a connection is in use.

        So `wait` does not wait for a process that ended by itself before it noticed a flip. What
        connects afterwards, in another function that is called at the end, registers anew.
        """
        forks.follow()
        if not self._begun:
            return
        doors = self.counts.doors
        for door in doors:
            door.close_idle()
        self._begun = False  # before the count: what connects after it registers anew
        if not self.counts.left and not any(door.connections for door in doors):
            self.reporting.close()

    # -- what is asked of it ---------------------------------------------------------------

    def attend(self) -> None:
        """Be registered, and have the thread started, before anything begins."""
        forks.follow()
        switch = self._switch()
        # While a test dictates the mode, the process is not registered.
        if not self._begun and switch is not None and not switch.overridden:
            loops.wait_for(self._begin) if self._is_async else self._begin()

    def _begin(self) -> None:
        with self._beginning():
            switch = self._switch()
            if self._begun or self._begins or switch is None:
                return
            self._begins = True  # the look may find a flip, whose callbacks may lead here again
            try:
                self._ensure()
                switch.fresh_until = -math.inf  # what is known is from before this registered
                switch.check()
                self._begun = True
            finally:
                self._begins = False
            if self._is_watched():
                self.watcher.start()
        call_at_exit(self)
        self.due()

    def refresh(self, switch: Switch) -> State:
        """Return an answer of the switch that may be used now, and see that all is watched."""
        if self._is_async and loops.running() is not None:
            return self._refresh_on_loop(switch)
        return self._refresh(switch)

    def _refresh(self, switch: Switch) -> State:
        self.attend()
        if not self.watcher.running and self._is_watched():
            self.watcher.start()
        state = switch.refresh()
        if not self.watcher.alive:
            self._due_now()
            switch.look_ahead()
            self.counts.probe()
        return state

    def _refresh_on_loop(self, switch: Switch) -> State:
        """Refresh while the loop waits for no more than a stat(); a thread does the rest."""
        forks.follow()
        work = partial(self._refresh, switch)
        awaits = in_greenlet()
        usable = (self._begun or not awaits) and switch.glance()
        if awaits and not usable:
            return loops.wait_for(work)
        known = switch.known
        if not usable and not looks_at_a_glance(switch):
            known, usable = switch.refresh(), True  # read-only would be told where nothing flips
        if not (usable and self._begun and self.watcher.alive):
            self._do_beside(work)
        return known if usable else loops.unawaited(known)

    def _do_beside(self, work: Callable[[], object]) -> None:
        """Have a thread do it, one at a time: while one is at work, the next look asks again."""
        beside = self._beside
        if beside is None or not beside.is_alive():
            self._beside = loops.aside(work)

    def check(self, switch: Switch) -> State:
        """Look again now, do what is due, and return the state."""
        work = partial(self._check, switch)
        return loops.wait_for(work) if self._is_async else work()

    def _check(self, switch: Switch) -> State:
        self.attend()
        state = switch.check()
        self._due_now()
        return state

    def tell(self, here: Seen, switch: Switch) -> Seen:
        """Complete what this process tells of itself; from its memory, and acknowledging nothing.

        :param here: what is known of it without a selector.
        """
        report = self._report(switch)
        done = self.reporting.since is not None and report.may_acknowledge
        return replace(here, acknowledged=done, report=report, problem=self.reporting.problem)

    def refused(self) -> None:
        """Report anew: a connection was in the making when the flip was reported."""
        loops.wait_for(self.due) if self._is_async else self.due()

    def due(self) -> None:
        """Close what lies idle in retired pools, be registered, and report: each if it is due."""
        self._doing.run(self._do)

    def _due_now(self) -> None:
        """Do what is due where no thread asks each second whether the entry is still there."""
        self.reporting.doubt()
        self.due()

    def _do(self) -> None:
        self.counts.rest()
        for door in self.counts.doors:
            door.sweep()
        switch, reporting = self._switch(), self.reporting
        if switch is None or not self._is_at_work():
            return
        reporting.rehearsing.look(switch)
        if reporting.registry is None:
            return
        due = reporting.is_due(self._mark(switch), lambda: self.counts.engines[0])
        due = due or not reporting.stands()  # then its report may be missing, too
        if due and self._ensure():
            switch.check()
        if not switch.known.read_only:
            reporting.sweep()
        if due:
            reporting.report(partial(self._report, switch))
        reporting.note(switch)

    def _is_at_work(self) -> bool:
        return self._begun and bool(self.counts.members)

    def _is_wanted(self) -> bool:
        # It may have ended, or its last selector may be closed, while a thread registered it.
        return (self._begun or self._begins) and bool(self.counts.members)

    def _is_watched(self) -> bool:
        return any(self.counts.members.values()) and is_watched(self._switch())

    # -- workers="required" ----------------------------------------------------------------

    def _ensure(self) -> bool:
        """Be registered; True if that is new."""
        new = self.reporting.ensure(self._is_wanted, self.counts.trace)
        barred = self.required and not self.reporting.registered
        if barred is not self._barred:
            self._barred = barred
            for door in self.counts.doors:
                self._bar(door) if barred else door.open(self)
        return new

    def _bar(self, door: Door) -> None:
        """Shut a door while this process is not registered: `wait` would miss its connections."""
        door.shut(self, refuse=self._refuse)

    def _refuse(self) -> ReadOnlyError:
        what = "A read-write transaction"
        error = ReadOnlyError(
            f'{what} is refused: workers="required", and this process is not registered. '
            f"Nothing was written. {self.reporting.problem}"
        )
        refusals.record(error, what, kind="unregistered", switch=self._switch())
        return error

    # -- what is reported ------------------------------------------------------------------

    def _mark(self, switch: Switch) -> Mark:
        shut, connections = self.counts.connections(known := switch.known)
        return Mark(
            self.reporting.turns,
            known.mode,
            known.generation if shut else None,
            connections if known.read_only else None,
            self._flips,
            self.watcher.alive,
            switch.forced,
            sum(self.counts.refused(switch).values()),
            held(switch)["held"],
            self.counts.closed_by_server,
            self.counts.begun.number,
        )

    def _report(self, switch: Switch) -> Report:
        shut, connections = self.counts.connections(known := switch.known)
        refused = self.counts.refused(switch)
        engines, retired = self.counts.engines
        return Report(
            mode=known.mode,
            generation=known.generation if shut else None,
            connections=connections,
            since=self.reporting.since if known.read_only and connections else None,
            checked=_wall_clock(switch.checked),
            flips=self._flips,
            refused=sum(refused.values()),
            watching=self.watcher.alive,
            forced=switch.forced,
            kinds=refused,
            engines=engines,
            retired=retired,
            **held(switch),
            server=self.counts.closed_by_server,
            **self.counts.begun.told,
        )

    # -- flips -----------------------------------------------------------------------------

    def _gate(self, state: State) -> None:
        forks.follow()
        self.reporting.turn(read_only=state.read_only)

    def _flipped(self, _old: State, _new: State) -> None:
        self._flips += 1
        self.due()


def _wall_clock(moment: float) -> float | None:
    """Return a time by the switch's clock in seconds since 1970; None if it has never been."""
    return None if moment == -math.inf else time.time() - clock() + moment


def _nothing() -> None:
    pass


def _without(several: tuple[_Hook, ...], one: _Hook) -> tuple[_Hook, ...]:
    """Return the hooks without ``one``; an equal one that another selector put in stays."""
    kept = list(several)
    if one in kept:  # else an interrupt came before it was put in
        kept.remove(one)
    return tuple(kept)


_workers: weakref.WeakKeyDictionary[Switch, Worker] = weakref.WeakKeyDictionary()
# Reentrant: a garbage collection may begin in it and end a selector, which leads here again.
_finding = forks.PerProcess(threading.RLock)


def worker_of(switch: Switch) -> Worker:
    """Return the worker that all selectors with this switch share in this process."""
    with _finding():
        worker = _workers.get(switch)
        return _workers.setdefault(switch, Worker(switch)) if worker is None else worker
