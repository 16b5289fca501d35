"""This process as a worker: the thread that notices a flip when no traffic does, and the entry."""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import threading
import time
import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.util.concurrency import in_greenlet

from .. import refusals
from ..engines import guard, loops
from ..engines.pools import count, leave_to_parent
from ..errors import ConfigurationError, ReadOnlyError
from ..mode import Mode, State, now
from .protocol import Connections, RegistryError, Report, may_be_acknowledged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import Engine

    from ..engines.pools import Door
    from ..mode import Switch
    from .protocol import Entry, Registry, Seen

    _Hook = Callable[[], None]

__all__ = ["Watcher", "Worker", "worker_of"]

logger = logging.getLogger("sa_readonly")

_WAKE = 1.0  # seconds between two looks at the most
_SWEEP = 300.0  # seconds after which a process sweeps those that have died
_JOIN = 1.0  # seconds for which a fork waits for a thread whose stat hangs
_STARVED = 1.0  # seconds without a look after which a thread counts for nothing, or 10 intervals


class Watcher:
    """One daemon thread of one process, which looks at one switch and then does what is due.

    It is no part of what keeps the mode right: every transaction looks for itself. The thread ends
    when its owner is gone; waiting on a lock, it does not delay the exit. A forked child has none
    until its own first :meth:`start`.

    :param switch: what to look at, every half of its ``ttl`` (0.05 seconds where it has none) and
        at least each second, as a signal may have asked for a look.
    :param due: a bound method, held weakly, to call after each look.
    """

    def __init__(self, switch: Switch, due: Callable[[], None]) -> None:
        self._switch = weakref.ref(switch)
        self._due = weakref.WeakMethod(due)
        self._interval = min(max(getattr(switch, "ttl", 0.1) / 2, 0.01), _WAKE)
        self._new_process()

    def _new_process(self) -> None:
        # Also in a forked child: a thread of the parent may hold what was there before.
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed = False  # whether it was said that none can be started
        self._looked = -math.inf

    @property
    def running(self) -> bool:
        """True if the thread lives in this very process."""
        thread = self._thread
        return self._pid == os.getpid() and thread is not None and thread.is_alive()

    @property
    def alive(self) -> bool:
        """True if it runs and has looked lately, which it can't where threads stand still."""
        bound = max(_STARVED, 10 * self._interval)
        return self.running and time.monotonic() < self._looked + bound

    def start(self) -> None:
        """Start the thread unless it runs."""
        if self._pid != os.getpid():
            self._new_process()
        with self._lock:
            if self.running:
                return
            self._looked = time.monotonic()
            self._end = threading.Event()
            thread = threading.Thread(
                target=_watch,
                args=(weakref.ref(self), self._end, self._interval),
                name="sa_readonly",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError as error:  # there are too many; each transaction looks for itself
                self._looked = -math.inf
                if not self._failed:
                    self._failed = True
                    logger.error("No thread can watch for a flip (%s).", error)  # noqa: TRY400  # its traceback tells nothing
                return
            self._thread, self._failed = thread, False
        _with_forks(self)

    def stop(self, timeout: float | None = None) -> bool:
        """End the thread and wait until it has gone; True if there was one.

        :param timeout: seconds to wait at most; 0 does not wait.
        """
        thread = self._thread
        if not self.running or thread is None:
            return False
        self._end.set()
        if thread is not threading.current_thread() and timeout != 0:
            thread.join(timeout)
        return True

    def look(self) -> None:
        """Look once and do what is due; what that raises is logged."""
        switch, due = self._switch(), self._due()
        try:
            if switch is not None:
                switch.refresh()
            if due is not None:
                due()
        except BaseException:  # what is told of a flip may exit, but this thread is ours
            logger.exception("The watcher's look failed; it goes on.")
        self._looked = time.monotonic()

    def _orphaned(self) -> bool:
        return self._switch() is None or self._due() is None


def _watch(reference: weakref.ref[Watcher], end: threading.Event, interval: float) -> None:
    while not end.wait(interval):
        watcher = reference()
        if watcher is None or watcher._orphaned():
            return
        watcher.look()
        del watcher  # or it could not be collected while this waits


# -- this process ----------------------------------------------------------------------------


class Member(Protocol):
    """One selector, as its worker knows it."""

    @property
    def doors(self) -> Sequence[Door]:
        """The doors of its engines that are taken away while read-only."""

    @property
    def engines(self) -> Mapping[str, Engine]:
        """All of its engines, by their names."""


class Worker:
    """What the selectors of this process that have one switch share: a thread and an entry.

    It registers before the first answer of the switch is used, in a forked child anew, and before
    a read-write connection is made, whoever asks for one. On the way to read-only its doors are
    shut, then what is held is counted, then that is reported; on the way back the report is
    withdrawn before a door opens.
    """

    def __init__(self, switch: Switch) -> None:
        self._switch = weakref.ref(switch)
        self.watcher = Watcher(switch, self.due)
        self.registry: Registry | None = None
        self.required = False
        self.problem: str | None = None
        """Why this process is not registered or can't report, or None."""
        self._is_async = False  # whether an event loop may wait for it
        self._members: dict[Member, bool] = {}  # whether each of them wants the thread
        self._unsubscribe: Callable[[], None] = _nothing
        self._entry: Entry | None = None
        self._barred = False
        self._since: float | None = None  # wall-clock seconds: when the doors were shut
        self._new_process()

    def _new_process(self) -> None:
        leave_to_parent()
        switch = self._switch()
        self._beginning = threading.RLock()  # what is told of a flip may connect
        self._doing = threading.RLock()
        self._turning = threading.RLock()  # the gate, against the making of the entry
        self._begun = self._begins = self._asked = False
        self._beside: threading.Thread | None = None
        self._registered = False
        self._sweeps = time.monotonic() + _SWEEP  # registering sweeps, too
        self._flips = 0
        self._parents = {} if switch is None else refusals.refusals(switch)
        self._refused: dict[str, int] = {}
        # Doors of members that have left, in use yet; in a child what is in use is the parent's.
        self._left: dict[Door, None] = {}
        self._pid = os.getpid()  # last: who sees it finds the locks of this process

    # -- the selectors -------------------------------------------------------------------

    def agree(self, registry: Registry | None, required: bool) -> None:
        """Refuse a selector that would have this process report itself in another way.

        :raises ConfigurationError: if there is another selector with this switch and other workers.
        """
        if self._members and (registry, required) != (self.registry, self.required):
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
        if not self._members:
            self.registry, self.required, self.problem = registry, required, None
            self._begun = self._registered = self._barred = False
            # First of all gates: before one opens, the report is withdrawn.
            self._unsubscribe = switch.subscribe(self._gate, self._flipped)
        self._members[member] = watch
        for door in member.doors:
            self._is_async = self._is_async or door.engine.dialect.is_async
            door.before_connect = (*door.before_connect, self.attend)
            door.after_refusal = (*door.after_refusal, self.refused)
            if self._barred:
                self._bar(door)
        switch.fresh_until = -math.inf  # so that the first transaction comes by refresh()

    def leave(self, member: Member, *, join: bool = False) -> None:
        """Look after them no more; without any, the thread ends and the entry is removed.

        An entry with connections in use is left: that the process ends will be seen.

        :param join: whether to wait for the end of the thread.
        """
        if self._pid != os.getpid():
            self._new_process()
        if self._members.pop(member, None) is not None:
            for door in member.doors:
                if door.held != door.idle:
                    self._left[door] = None
                door.before_connect = _without(door.before_connect, self.attend)
                door.after_refusal = _without(door.after_refusal, self.refused)
                self._unbar(door)
        if not any(self._members.values()):
            self.watcher.stop(None if join else 0)  # a garbage collection may call this anywhere
        if self._members:
            return
        if join and self._beside is not None:
            self._beside.join(_JOIN)
        self._unsubscribe()
        self._unsubscribe = _nothing
        with self._turning:
            self._begun = False
            if not self._in_use():
                self._close_entry()

    def end(self) -> None:
        """At the end of the process: be forgotten, unless a connection is in use.

        So nobody has to wait for one that ended by itself before it noticed a flip. Who connects
        afterwards, in another function that is called at the end, registers anew.
        """
        if self._pid != os.getpid() or not self._begun:
            return
        for door in self._doors():
            door.close_idle()
        with self._turning:
            self._begun = False  # before it counts
            if not self._in_use() and not any(door.held for door in self._doors()):
                self._close_entry()

    def _in_use(self) -> int:
        """Return how many connections are in use of doors that were left over one."""
        for door in list(self._left):
            if door.held == door.idle:
                self._left.pop(door, None)
        return sum(door.held - door.idle for door in list(self._left))

    def _close_entry(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.close()

    def _doors(self) -> list[Door]:
        return list({door: None for member in list(self._members) for door in member.doors})

    # -- what is asked of it ---------------------------------------------------------------

    def attend(self) -> None:
        """Be registered, and have the thread started, before anything begins."""
        if self._pid != os.getpid():
            self._new_process()
        if not self._begun and not self._is_held():
            loops.wait_for(self._begin) if self._is_async else self._begin()

    def _begin(self) -> None:
        with self._beginning:
            switch = self._switch()
            if self._begun or self._begins or switch is None:
                return
            self._begins = True  # what is told of a flip may come here again in this thread
            try:
                self._register()
                switch.fresh_until = -math.inf  # what is known is from before this registered
                switch.check()
                self._begun = True
            finally:
                self._begins = False
            if self._is_watched():
                self.watcher.start()
        _leave_at_exit(self)
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
            self.due()
        return state

    def _refresh_on_loop(self, switch: Switch) -> State:
        """Refresh while the loop waits for no more than a stat(); a thread does the rest."""
        work = partial(self._refresh, switch)
        begun = self._begun and self._pid == os.getpid()
        if (begun or not in_greenlet()) and loops.glance(switch):
            if not (begun and self.watcher.alive):
                self._do_beside(work)
            return switch.known
        if in_greenlet():
            return loops.wait_for(work)
        if not hasattr(switch, "glance"):
            return work()
        # A flip that is not known yet: nothing can be awaited here, so the safe answer is given.
        self._do_beside(work)
        known = switch.known
        return known if known.read_only else State(Mode.READ_ONLY, since=now())

    def _do_beside(self, work: Callable[[], object]) -> None:
        """Have a thread do it, one at a time: who finds one at work asks again at the next look."""
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
        self.due()
        return state

    def tell(self, here: Seen, switch: Switch) -> Seen:
        """Complete what this process tells of itself; from its memory, and acknowledging nothing.

        :param here: what is known of it without a selector.
        """
        report = self._report(switch)
        acknowledged = self._since is not None and may_be_acknowledged(report)
        return replace(here, acknowledged=acknowledged, report=report, problem=self.problem)

    def refused(self) -> None:
        """Report anew: the flip was noticed, and reported, by one that held a connection then."""
        loops.wait_for(self.due) if self._is_async else self.due()

    def due(self) -> None:
        """Close what lies idle in retired pools, be registered, and report."""
        self._asked = True
        doing: Any = self._doing
        if doing._is_owned():
            return
        # Who comes while another thread is at it makes that one go round once more.
        try:
            while self._asked and doing.acquire(blocking=False):
                self._asked = False
                self._do()
                doing.release()
        finally:
            if doing._is_owned():  # an exception of a signal handler comes between any two steps
                doing.release()

    def _do(self) -> None:
        for door in self._doors():
            door.sweep()
        switch = self._switch()
        if switch is None or not self._begun or not self._members:
            return
        if self._register():
            switch.check()
        if not switch.known.read_only and time.monotonic() >= self._sweeps:
            self._sweep()
        entry = self._entry
        if entry is not None and self._registered:
            try:
                entry.report(lambda: self._report(switch))
            except RegistryError as error:
                self._ill(error)
            else:
                self._well()

    def _is_watched(self) -> bool:
        switch = self._switch()  # what is forced never flips
        return any(self._members.values()) and getattr(switch, "forced", None) is None

    def _is_held(self) -> bool:
        switch = self._switch()
        return switch is not None and switch.overridden  # by a test, which nobody waits for

    # -- the entry -------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Forget who has died, now and then, so that no later file is held up by them."""
        self._sweeps = time.monotonic() + _SWEEP
        if self.registry is not None:
            self.registry.sweep(_identify(self._switch))

    def _register(self) -> bool:
        """Be registered; True if that is new."""
        if self.registry is None:
            return False
        new = False
        try:
            if self._entry is None:
                entry = self.registry.register(_identify(self._switch))
                with self._turning:
                    self._entry = entry
                    if self._since is not None:  # the gate was closed before
                        entry.closed()
                    if not self._members:  # the last one has left meanwhile
                        self._close_entry()
                        return False
                new = True
            else:
                new = self._entry.ensure()
            self._registered = True
        except RegistryError as error:
            self._registered = False
            self._ill(error)
        barred = self.required and not self._registered
        if barred is not self._barred:
            self._barred = barred
            for door in self._doors():
                self._bar(door) if barred else self._unbar(door)
        return new

    def _bar(self, door: Door) -> None:
        """Have a door shut and its held connections begin nothing, as nobody could wait for it."""
        guard.bar(door.engine, self, self._refuse)
        door.shut(self)

    def _unbar(self, door: Door) -> None:
        guard.bar(door.engine, self, None)
        door.open(self)

    def _refuse(self) -> ReadOnlyError:
        error = ReadOnlyError(
            'A read-write transaction is refused: workers="required", and this process is not '
            f"registered. Nothing was written. {self.problem}"
        )
        error._kind = "unregistered"
        refusals.count(self._switch(), error._kind)
        return error

    def _ill(self, error: RegistryError) -> None:
        if self.problem is None:
            logger.error("%s", error)
        self.problem = str(error)

    def _well(self) -> None:
        if self.problem is not None:
            self.problem = None
            logger.info("This process is registered, and reports again.")

    def _report(self, switch: Switch) -> Report:
        doors, known = self._doors(), switch.known
        left = self._in_use()
        shut = known.read_only and not left and all(door.is_shut for door in doors)
        held = left + sum(door.held for door in doors)
        checked = getattr(switch, "checked", None)
        refused = self._count_refused(switch)
        engines, retired = counted(member.engines for member in list(self._members))
        return Report(
            mode=known.mode,
            generation=known.generation if shut else None,
            connections=held,
            since=self._since if known.read_only and held else None,
            checked=None if checked is None else time.time() - time.monotonic() + checked,
            flips=self._flips,
            refused=sum(refused.values()),
            watching=self.watcher.alive,
            forced=getattr(switch, "forced", None),
            kinds=refused,
            engines=engines,
            retired=retired,
        )

    def _count_refused(self, switch: Switch) -> dict[str, int]:
        """Return what was refused in this process, by kind; never fewer than before.

        A read that is just being served elsewhere counts for a moment. Who has reported that does
        not take it back, as a count that falls means a new process to those who add them up.
        """
        told = self._refused
        for kind, number in refusals.refusals(switch).items():
            told[kind] = max(told.get(kind, 0), number - self._parents.get(kind, 0))
        return {kind: number for kind, number in told.items() if number}

    # -- flips -----------------------------------------------------------------------------

    def _gate(self, state: State) -> None:
        if self._pid != os.getpid():
            self._new_process()
        with self._turning:
            entry = self._entry
            if state.read_only:
                if self._since is None:
                    self._since = time.time()
                if entry is not None:
                    entry.closed()
                return
            if entry is not None and self._registered:  # otherwise it has acknowledged nothing
                entry.withdraw()
            self._since = None

    def _flipped(self, _old: State, _new: State) -> None:
        self._flips += 1
        self.due()


def counted(
    several: Iterable[Mapping[str, Engine]],
) -> tuple[dict[str, Connections], float | None]:
    """Return the connections by name of engine, and since when the oldest is retired, or None."""
    seen: set[Engine] = set()
    found: dict[str, Connections] = {}
    times: list[float] = []
    for engines in several:
        for name, engine in engines.items():
            if engine not in seen:
                seen.add(engine)
                in_use, idle, retired = count(engine)
                one = Connections(in_use, idle, len(retired))
                found[name] = one.plus(found.get(name, Connections()))
                times += retired
    return found, min(times, default=None)


def _nothing() -> None:
    pass


def _without(several: tuple[_Hook, ...], one: _Hook) -> tuple[_Hook, ...]:
    """Return them without one of those that are equal to this."""
    kept = list(several)
    kept.remove(one)
    return tuple(kept)


_ending: weakref.WeakSet[Worker] = weakref.WeakSet()
_ends: set[int] = set()  # the processes that see to it


def _leave_at_exit(worker: Worker) -> None:
    _ending.add(worker)
    if os.getpid() in _ends:
        return
    if not _ends:
        atexit.register(_end)  # which a forked child inherits
    _ends.add(os.getpid())
    # Before Python 3.12 or so a child of multiprocessing ends without what is registered there.
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, _end_alone, exitpriority=0)


def _end_alone() -> None:
    # It is called before the threads of the child are waited for, which may be writing still.
    me = threading.current_thread()
    if all(thread is me or thread.daemon for thread in threading.enumerate()):
        _end()


def _end() -> None:
    for worker in list(_ending):
        worker.end()


def _identify(reference: weakref.ref[Switch]) -> Callable[[], str | None]:
    def identify() -> str | None:
        """Return the generation that is there now; what it raises means that it is not known."""
        switch = reference()
        if switch is None:
            raise RegistryError("The switch is gone.")
        ask = getattr(switch, "identify", None)
        if ask is not None:
            return ask()  # type: ignore[no-any-return]  # a FileSwitch's
        state = switch.check()
        if state.read_only and state.generation is None:
            raise RegistryError(f"{switch!r} is read-only without a generation.")
        return state.generation

    return identify


_workers: weakref.WeakKeyDictionary[Switch, Worker] = weakref.WeakKeyDictionary()
_finding = threading.Lock()


def worker_of(switch: Switch) -> Worker:
    """Return the worker that all selectors with this switch share in this process."""
    with _finding:
        worker = _workers.get(switch)
        if worker is None:
            worker = _workers[switch] = Worker(switch)
        return worker


# -- forks -----------------------------------------------------------------------------------
#
# From Python 3.12 on a fork warns while another thread runs. So the threads stop before it, and
# start again in the parent. The hooks are set with the first thread: importing does nothing.

_started: weakref.WeakSet[Watcher] = weakref.WeakSet()
_stopped: list[Watcher] = []
_hooked = False


def _with_forks(watcher: Watcher) -> None:
    global _hooked  # noqa: PLW0603  # a hook can't be taken back, so it is set once a process
    _started.add(watcher)
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
        )


def _before_fork() -> None:
    _stopped.extend(watcher for watcher in list(_started) if watcher.stop(_JOIN))


def _after_in_parent() -> None:
    while _stopped:
        _stopped.pop().start()


def _after_in_child() -> None:
    global _finding  # noqa: PLW0603  # a thread of the parent may hold it
    _finding = threading.Lock()
    _stopped.clear()
    for watcher in list(_started):
        switch = watcher._switch()
        if switch is not None:
            switch.fresh_until = -math.inf  # so that its first transaction comes by refresh()
