"""What each process reports, where that is kept, and who is drained.

*Drained* is a promise, on which an operator takes the database away. It stands on this:

- A worker registers, and then takes its first look at the file. A reader takes the identity of the
  file, reads the entries, takes the identity again, and starts over if it differs. So the file was
  there all the while. A worker that is missing among the entries registered after the reading had
  begun; it looks after that, and sees the file.
- A worker acknowledges a file after its gates are closed and its connections counted, so that the
  count can only fall. Before a gate opens the acknowledgement is withdrawn, and no report that was
  begun before can bring it back.
- What lives exactly as long as the process says that it lives: in a directory, a lock.
"""

from __future__ import annotations

import enum
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..mode import Mode

__all__ = [
    "Connections",
    "Entry",
    "Liveness",
    "Registry",
    "RegistryError",
    "Report",
    "Seen",
    "Verdict",
    "drained",
    "look",
    "process",
    "returned",
]

Identify = Callable[[], "str | None"]
"""Returns the generation that is there now, or None if there is surely no file. What it raises
means that this is not known."""

SILENT = "has not reported"
NO_FILE = "there is no file: it is read-write"
FILE_THERE = "the file is there: it is read-only"
_TRIES = 10  # looks of a reader while the file changes


class RegistryError(Exception):
    """The registry of workers can't be used. Nothing is acknowledged by it."""


# -- what is told ----------------------------------------------------------------------------


class Connections(NamedTuple):
    """The connections of one engine; each is counted once.

    :param in_use: checked out, detached, or being made.
    :param idle: in the pool.
    :param retired: of a pool that was retired by a flip, and not closed yet.
    """

    in_use: int = 0
    idle: int = 0
    retired: int = 0

    def plus(self, other: Connections) -> Connections:
        """Return the sum of both."""
        return Connections(*map(operator.add, self, other))


@dataclass(frozen=True)
class Report:
    """What a process says of itself. Times are wall-clock seconds since 1970.

    :param mode: the mode that it knows.
    :param generation: the identity of the file that it knows, or None.
    :param connections: read-write connections that it holds, counted with every gate closed;
        pooled, detached and those being made included.
    :param since: since when at least the oldest of them is held, or None.
    :param checked: when its newest look began, or None.
    :param flips: flips that it has seen.
    :param refused: writes that it has refused.
    :param kinds: the same by kind, see :data:`.refusals.KINDS`. While it lives none of them falls.
    :param engines: connections by the name of the engine, such as ``read_write.primary``; of the
        engines that are never taken away, too.
    :param retired: since when the oldest connection of a retired pool is that, or None.
    :param watching: whether a watcher thread runs there.
    :param forced: the mode that is forced upon it, or None.
    """

    mode: Mode
    generation: str | None = None
    connections: int = 0
    since: float | None = None
    checked: float | None = None
    flips: int = 0
    refused: int = 0
    watching: bool = False
    forced: Mode | None = None
    kinds: Mapping[str, int] = field(default_factory=dict, hash=False)
    engines: Mapping[str, Connections] = field(default_factory=dict, hash=False)
    retired: float | None = None


class Liveness(enum.Enum):
    """Whether a process lives, as far as a reader can tell."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Seen:
    """An entry as a reader sees it. All text in it is printable.

    :param name: what to call it.
    :param liveness: whether its process lives.
    :param doubt: why that is unknown, or None.
    :param problem: why there is no report or it is not believed, or None.
    :param acknowledged: whether, when it wrote that report, its gates were closed for good; False
        again once that was withdrawn.
    :param report: its newest report, or None if that can't be believed.
    :param pid: its process id there, or None if its name does not tell.
    :param host: its host's name, or None.
    :param program: the name of its program, or None.
    :param started: when it started, in wall-clock seconds since 1970, or None.
    :param written: when it wrote that report, likewise.
    :param version: its version of this library, or None.
    """

    name: str
    liveness: Liveness
    doubt: str | None = None
    problem: str | None = None
    acknowledged: bool = False
    report: Report | None = None
    pid: int | None = None
    host: str | None = None
    program: str | None = None
    started: float | None = None
    written: float | None = None
    version: str | None = None


class Entry(Protocol):
    """The place of one process in a registry. Each call may come in any thread."""

    def ensure(self) -> bool:
        """Be registered, anew in a forked child or if the entry was removed.

        :return: True if it is registered anew: the caller must look at the switch again before it
            uses any answer, and then report.
        :raises RegistryError: if it can't be.
        """

    def closed(self) -> None:
        """Note that a gate was closed: called in the gate. From now on a report acknowledges."""

    def report(self, snapshot: Callable[[], Report]) -> bool:
        """Tell how things stand, if a reader needs to know.

        :param snapshot: returns the report. It is called while no acknowledgement can be withdrawn,
            so that what it counts holds; it must neither look at the switch nor wait for it. Unless
            every gate is shut it must leave ``generation`` None.
        :return: True if it was written, False if nothing changed that is worth it.
        :raises RegistryError: if it can't be written. Nothing is acknowledged then that was not
            before; call it again later.
        """

    def withdraw(self) -> None:
        """Take the acknowledgement back: called before a gate opens.

        :raises RegistryError: if it can't be taken back: the gate must stay closed.
        """

    def close(self) -> None:
        """Be registered no more; only while it holds no read-write connection.

        One that still holds some is left as it is: its death will be seen.
        """


class Registry(Protocol):
    """Where processes register. A directory, or whatever has these members.

    It may have ``scope()``, too, which returns a string that is the same wherever the same entries
    are read, and means nothing else: who asks several hosts tells by it which are one.
    """

    def register(self, identify: Identify) -> Entry:
        """Register this process, after sweeping.

        :raises RegistryError: if it can't be registered.
        """

    def sweep(self, identify: Identify) -> None:
        """Forget the dead that no verdict on any file, now or later, can need.

        Called before a file is made, it keeps those who died before it from being held against it.
        """

    def read(self) -> list[Seen]:
        """Return every entry. It raises nothing: what can't be read is an entry with a problem."""


# -- who is drained --------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether all workers are where the operator wants them.

    :param generation: the identity of the file that this is about, or None without one.
    :param seen: every entry.
    :param waiting: each entry that is not there yet, and why.
    :param problem: why nothing can be said at all, or None.
    """

    generation: str | None
    seen: tuple[Seen, ...] = ()
    waiting: tuple[tuple[Seen, str], ...] = ()
    problem: str | None = None

    @property
    def nobody(self) -> bool:
        """True if nobody is registered but the dead, so that nothing is known."""
        return all(one.liveness is Liveness.DEAD for one in self.seen)

    @property
    def holds(self) -> bool:
        """True if they all are, and there are any."""
        return self.problem is None and bool(self.seen) and not self.waiting


def drained(
    generation: str | None, seen: Sequence[Seen], now: float, *, ignore_dead: bool = False
) -> Verdict:
    """Judge whether no worker holds a read-write connection or can still get one.

    :param generation: the identity of the file that was there while they were read.
    :param seen: every entry.
    :param now: the wall-clock time, in seconds since 1970.
    :param ignore_dead: count those as drained that died without a word: the operator knows better.
    """
    if generation is None:
        return Verdict(None, tuple(seen), problem=NO_FILE)
    waiting = [(one, _why_not_drained(one, generation, now)) for one in seen]
    return Verdict(
        generation,
        tuple(seen),
        tuple(
            (one, why)
            for one, why in waiting
            if why and not (ignore_dead and one.liveness is Liveness.DEAD)
        ),
    )


def returned(seen: Sequence[Seen]) -> Verdict:
    """Judge whether every worker that lives is read-write again, when there is no file."""
    waiting = [(one, _why_not_returned(one)) for one in seen if one.liveness is not Liveness.DEAD]
    return Verdict(None, tuple(seen), tuple((one, why) for one, why in waiting if why))


def process(name: str) -> str:
    """Return what the entries of one process have in common: all but the random part."""
    return name.rpartition("-")[0] or name


def look(
    identify: Identify,
    registry: Registry,
    mode: Mode = Mode.READ_ONLY,
    *,
    ignore_dead: bool = False,
) -> Verdict:
    """Read every entry while the file stays the same, and judge. It raises nothing of the file.

    :param identify: tells the identity of the file. It must look, each time.
    :param registry: whom to read.
    :param mode: what they are waited for to be.
    :param ignore_dead: see :func:`drained`.
    """
    seen: tuple[Seen, ...] = ()
    for _ in range(_TRIES):
        try:
            generation = identify()
            seen = tuple(registry.read())
            same = identify() == generation
        except OSError as error:
            return Verdict(None, seen, problem=f"the file can't be looked at: {error}")
        if not same:
            continue
        if mode is Mode.READ_ONLY:
            return drained(generation, seen, time.time(), ignore_dead=ignore_dead)
        if generation is None:
            return returned(seen)
        return Verdict(generation, seen, problem=FILE_THERE)
    return Verdict(None, seen, problem="the file changes all the time")


def _why_not_drained(one: Seen, generation: str, now: float) -> str | None:
    """Return why an entry is not drained, or None. What is not known for sure is not drained."""
    report = one.report
    if one.liveness is Liveness.DEAD and left_nothing(one):
        return None
    if one.liveness is Liveness.UNKNOWN:
        # Even if it acknowledged: a reader elsewhere may be shown old entries and an old file.
        return one.doubt or one.problem or "can't tell if it lives"
    dead = one.liveness is Liveness.DEAD
    if report is None:
        if dead:
            return f"unknown: died without a word{_after(one.problem)}"
        return one.problem or "has not reported"
    unwatched = "" if report.watching else ", no watcher thread runs there"
    if not acknowledges(one, report, generation):
        if dead:
            return "unknown: died without a word"
        if report.forced is Mode.READ_WRITE:
            return "forced to read-write"
        return f"has not noticed{unwatched}"
    if report.connections:
        out = f"{report.connections} connection{'s' if report.connections > 1 else ''} out"
        if dead:
            return f"unknown: died with {out}"
        since = "" if report.since is None else f" since {max(0, int(now - report.since))} s"
        return f"{out}{since}{unwatched}"
    return None


def acknowledges(one: Seen, report: Report, generation: str) -> bool:
    """True if this report tells that its gates were closed for this file, or for every one."""
    return one.acknowledged and (report.forced is Mode.READ_ONLY or report.generation == generation)


def may_be_acknowledged(report: Report) -> bool:
    if report.mode is not Mode.READ_ONLY or report.forced is Mode.READ_WRITE:
        return False
    return report.forced is Mode.READ_ONLY or report.generation is not None


def _why_not_returned(one: Seen) -> str | None:
    if one.liveness is Liveness.UNKNOWN:
        return one.doubt or one.problem or "can't tell if it lives"
    report = one.report
    if report is None:
        return one.problem or "has not reported"
    if report.forced is Mode.READ_ONLY:
        return "forced to read-only"
    if report.mode is Mode.READ_WRITE and not one.acknowledged:
        return None
    return "has not noticed" + ("" if report.watching else ", no watcher thread runs there")


def _after(problem: str | None) -> str:
    return "" if problem in (None, SILENT) else f" ({problem})"


def left_nothing(one: Seen) -> bool:
    """True if the process of a dead entry had no connection and could get none."""
    return one.acknowledged and one.report is not None and one.report.connections == 0
