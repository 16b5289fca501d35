"""The package broken by hand: each order of steps on which *drained* stands, turned round.

Each is found by the exploration of one scenario; what it finds then is said in these words.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sa_readonly import FileSwitch, Mode, forks
from sa_readonly.workers import folder, verdict
from sa_readonly.workers.counts import Counts
from sa_readonly.workers.entry import DirectoryEntry
from sa_readonly.workers.protocol import Report
from sa_readonly.workers.reporting import Reporting
from sa_readonly.workers.worker import Worker

from . import scenarios
from .machine import Clock, this
from .scenarios import Scenario

_CONNECTIONS = "drained was said, and there are connections"
_MAY_WRITE = "drained was said, and what died may still write"
_FOR_EVER = "is waited for, and for ever"


class Breakage(NamedTuple):
    """One order turned round."""

    scenario: Scenario
    preemptions: int
    problem: str
    """What stands in the problem that is found."""
    replace: dict[tuple[Any, str], Any]

    @property
    def settles(self) -> bool:
        """Whether it is about what waits for ever, which is asked after all programs."""
        return self.problem == _FOR_EVER

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        before = {(where, name): getattr(where, name) for where, name in self.replace}
        for (where, name), value in self.replace.items():
            setattr(where, name, value)
        try:
            yield
        finally:
            for (where, name), value in before.items():
                setattr(where, name, value)


# -- register before the first look ----------------------------------------------------------


def _look_and_register(self: Worker) -> None:
    with self._beginning():
        switch = self._switch()
        if self._begun or self._begins or switch is None:
            return
        self._begins = True
        try:
            switch.fresh_until = -math.inf
            switch.check()
            self._ensure()
            self._begun = True
        finally:
            self._begins = False
        if self._is_watched():
            self.watcher.start()
    self.due()


# -- close the gate, then count, then report -------------------------------------------------


_look, _connections = FileSwitch._look, Counts.connections


def _count_and_look(self: FileSwitch) -> Any:
    root = this().process.root
    self._counted = 0 if root is None else root.door.connections  # type: ignore[attr-defined]  # of this breakage
    return _look(self)


def _as_counted(self: Counts, known: Any) -> tuple[bool, int]:
    shut, _ = _connections(self, known)
    return shut, this().process.root.switch._counted


def _report_and_look(self: FileSwitch) -> Any:
    root = this().process.root
    entry = None if root is None else root.worker.reporting._entry
    generation = self.identify()
    if entry is not None and generation is not None:
        entry.closed()
        number = root.door.connections
        entry.report(lambda: Report(Mode.READ_ONLY, generation, number))
    return _look(self)


# -- withdraw, then open ---------------------------------------------------------------------


_turn, _flipped = Reporting.turn, Worker._flipped


def _turn_without(self: Reporting, *, read_only: bool) -> None:
    if read_only:
        _turn(self, read_only=True)
        return
    with self._turning():
        self.since = None
        self.turns += 1


def _withdraw_when_told(self: Worker, old: Any, new: Any) -> None:
    entry = self.reporting._entry
    if entry is not None and not new.read_only:
        entry.withdraw()
    _flipped(self, old, new)


# -- the file's identity, before and after the entries ---------------------------------------


def _identity_before(
    look: Callable[[], Any], registry: Any, key: object = None
) -> tuple[Any, tuple[Any, ...], bool]:
    return look(), tuple(registry.read()), True


def _identity_after(
    look: Callable[[], Any], registry: Any, key: object = None
) -> tuple[Any, tuple[Any, ...], bool]:
    seen = tuple(registry.read())
    return look(), seen, True


# -- a forked child closes its lock first ----------------------------------------------------


_init, _ensure = DirectoryEntry.__init__, DirectoryEntry.ensure


def _init_without_hook(self: DirectoryEntry, *args: Any) -> None:
    _init(self, *args)
    for reference in list(forks._in_child):
        if reference() is self:
            del forks._in_child[reference]
    self._of = forks.os.getpid()  # type: ignore[attr-defined]  # of this breakage


def _close_late(self: DirectoryEntry) -> bool:
    if self._of != forks.os.getpid():  # type: ignore[attr-defined]  # the same
        self._of = forks.os.getpid()  # type: ignore[attr-defined]  # the same
        self._drop()
    return _ensure(self)


_drop = DirectoryEntry._drop


def _unlock(self: DirectoryEntry) -> None:
    if self._is_held():
        folder.fcntl.flock(self._descriptor, folder.fcntl.LOCK_UN)
    _drop(self)


# -- an answer's age counts from before the stat ---------------------------------------------


def _look_and_read_the_clock(self: FileSwitch) -> Any:
    seen = self._examine()
    started = Clock.answers()
    self._apply(seen, started)
    self._tell()
    return self.known


# -- more ------------------------------------------------------------------------------------


_sweep = folder.Folder.sweep


def _sweep_by_an_old_answer(self: folder.Folder, identify: Any) -> None:
    try:
        known = identify()
    except OSError:
        known = ""
    _sweep(self, lambda: known)


def _in_place_for_sure(_self: DirectoryEntry) -> bool:
    return True


BREAKAGES: dict[str, Breakage] = {
    "a worker looks, then registers": Breakage(
        scenarios.first, 1, _CONNECTIONS, {(Worker, "_begin"): _look_and_register}
    ),
    "connections are counted, then the gate is closed": Breakage(
        scenarios.notice,
        2,
        _CONNECTIONS,
        {(FileSwitch, "_look"): _count_and_look, (Counts, "connections"): _as_counted},
    ),
    "it is reported, then the gate is closed": Breakage(
        scenarios.notice, 2, _CONNECTIONS, {(FileSwitch, "_look"): _report_and_look}
    ),
    "the gate opens, then the acknowledgement is withdrawn": Breakage(
        scenarios.killed,
        2,
        _MAY_WRITE,
        {(Reporting, "turn"): _turn_without, (Worker, "_flipped"): _withdraw_when_told},
    ),
    "the file's identity is taken before the entries alone": Breakage(
        scenarios.back, 2, _CONNECTIONS, {(verdict, "read_between"): _identity_before}
    ),
    "the file's identity is taken after the entries alone": Breakage(
        scenarios.first, 2, _CONNECTIONS, {(verdict, "read_between"): _identity_after}
    ),
    "a forked child closes its lock when it registers": Breakage(
        scenarios.forked,
        1,
        _FOR_EVER,
        {(DirectoryEntry, "__init__"): _init_without_hook, (DirectoryEntry, "ensure"): _close_late},
    ),
    "a forked child unlocks its lock": Breakage(
        scenarios.forking, 1, "", {(DirectoryEntry, "_drop"): _unlock}
    ),
    "an answer's age counts from after the stat": Breakage(
        scenarios.aged,
        2,
        "after the file had come",
        {(FileSwitch, "_look"): _look_and_read_the_clock},
    ),
    "a late look overrules a later one": Breakage(
        scenarios.looks, 2, _CONNECTIONS, {(FileSwitch, "_look"): _look_and_read_the_clock}
    ),
    "a sweep goes by an answer from before it read": Breakage(
        scenarios.dying, 2, _MAY_WRITE, {(folder.Folder, "sweep"): _sweep_by_an_old_answer}
    ),
    "an entry is not looked for when it is locked": Breakage(
        scenarios.swept, 2, "", {(DirectoryEntry, "_is_in_place"): _in_place_for_sure}
    ),
}
