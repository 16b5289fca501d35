"""What a worker reports, and what a registry of workers promises: the protocols of both sides."""

from __future__ import annotations

import enum
import operator
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from ..mode import Mode
from ..rehearsal.notes import MOST

if TYPE_CHECKING:
    from ..engines.uses import Memory
    from ..rehearsal.sheet import Sheet

__all__ = [
    "Connections",
    "Entry",
    "Liveness",
    "Registry",
    "RegistryError",
    "Report",
    "Seen",
    "missing",
    "process",
    "read_between",
]

T = TypeVar("T")

Identify = Callable[[], "str | None"]
"""``Switch.identify``: returns the generation that is there now, or None if there is surely none.
What it raises means that this is not known."""

SILENT = "has not reported"
_READINGS = 10  # of the registry, at most, while the switch moves


class RegistryError(Exception):
    """The registry can't be used now. Nothing is acknowledged in it that was not before."""


# -- what a worker reports -------------------------------------------------------------------


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
    """What a worker says of itself. Times are wall-clock seconds since 1970.

    :param mode: the mode that it knows.
    :param generation: the identity of the file that it knows, or None.
    :param connections: read-write connections that it holds, counted with every gate closed;
        pooled, detached and those being made included.
    :param since: since when at least the oldest of them is held, or None.
    :param checked: when the look behind the mode began, or None.
    :param flips: flips that it has seen.
    :param refused: writes that it has refused.
    :param watching: whether a watcher thread runs there.
    :param forced: the mode that is forced upon it, or None.
    :param kinds: ``refused`` by kind, see :data:`.refusals.KINDS`. In one process none of them
        falls.
    :param engines: connections by the name of the engine, such as ``read_write.primary``; also of
        the engines that are never taken away.
    :param retired: since when the oldest connection of a retired pool is that, or None.
    :param held: how many requests and transactions wait for read-write.
    :param held_since: since when the one does that has waited longest, or None.
    :param server: whether a selector there is read-only by the word of its database server alone.
    :param begun: how many transactions it began on read-write engines, if it is forced to
        read-write; else 0.
    :param begun_first: when the first of them began, or None.
    :param begun_last: when the last of them began, or None.
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
    held: int = 0
    held_since: float | None = None
    server: bool = False
    begun: int = 0
    begun_first: float | None = None
    begun_last: float | None = None

    @property
    def may_acknowledge(self) -> bool:
        """True if it tells of a state in which a closed gate stays closed."""
        if self.mode is not Mode.READ_ONLY or self.forced is Mode.READ_WRITE:
            return False
        return self.forced is Mode.READ_ONLY or self.generation is not None


class Liveness(enum.Enum):
    """Whether a process lives, as far as a reader can tell.

    What is lost has not been heard of lately, and may live all the same: on another host, which
    can't be reached. What it holds is known by its own word or by the database server's.
    """

    ALIVE = "alive"
    DEAD = "dead"
    LOST = "lost"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Seen:
    """An entry as a reader sees it. All text in it is printable.

    :param name: what the registry calls it; see :func:`process`.
    :param liveness: whether its process lives.
    :param doubt: why that is unknown, or None.
    :param problem: why there is no report or it is not believed, or None.
    :param acknowledged: whether, when that report was written, its gates were closed for good;
        False again once that was withdrawn.
    :param at_rest: whether it is dead, and had no read-write connection in use at its end.
    :param report: its newest report, or None if that can't be believed.
    :param pid: its process id on its host, or None if that is not known.
    :param host: the name of its host, or None.
    :param program: the name of its program, or None.
    :param started: when it started, in wall-clock seconds since 1970, or None.
    :param written: when that report was written, likewise.
    :param version: its version of this library, or None.
    :param fence: the seconds for which it uses an answer when no look can be had, where it tells.
    """

    name: str
    liveness: Liveness
    doubt: str | None = None
    problem: str | None = None
    acknowledged: bool = False
    at_rest: bool = False
    report: Report | None = None
    pid: int | None = None
    host: str | None = None
    program: str | None = None
    started: float | None = None
    written: float | None = None
    version: str | None = None
    fence: float | None = None

    def acknowledges(self, generation: str) -> bool:
        """True if its gates were closed for this file, or for every one."""
        report = self.report
        if report is None or not self.acknowledged:
            return False
        told = report.generation or ""
        return report.forced is Mode.READ_ONLY or generation in (told, *told.split(" + "))

    @property
    def left_nothing(self) -> bool:
        """True if its process, when it died, had nothing under way on a read-write connection."""
        if self.at_rest:
            return True
        return self.acknowledged and self.report is not None and self.report.connections == 0


def process(name: str) -> str:
    """Return what the names of all entries of one process have in common: all before the last "-".

    A process has an entry for each switch.
    """
    return name.rpartition("-")[0] or name


# -- the protocols ---------------------------------------------------------------------------


class Entry(Protocol):
    """The place of this process in a registry. Each call may come in any thread.

    After a fork the child has none: :meth:`ensure` registers it, and until then every other call
    leaves the parent's entry as it is.
    """

    remote: bool = False
    """True if :meth:`close` asks another machine: where a selector is collected, which may come in
    any thread and under any lock, a thread of its own calls it then."""

    sheet_every: float = 10.0
    """Seconds that lie between two calls of :meth:`note` at least."""

    sheet_most: int = MOST
    """How many places of a rehearsal it is given."""

    sheet_limit: int = 256 * 1024
    """How many bytes of it."""

    @abstractmethod
    def ensure(self) -> bool:
        """Register this process if it is not: after a fork, or when the entry was removed.

        :return: True if it is registered anew: the caller must look at the switch again before it
            uses any answer, and then report.
        :raises RegistryError: if it can't be registered.
        """

    def lives(self) -> bool:
        """True if this process still has what tells readers that it lives, such as its lock.

        It is asked at each look, so it asks nothing outside of this process; :meth:`ensure` is
        called after False. What seems dead may be swept, and is not waited for, though it is in a
        transaction. By default it is True: that nothing but its end makes a process seem dead.
        """
        return True

    def stands(self) -> bool:
        """True if readers still find the entry and its report, as far as a cheap question tells.

        It is asked once a second; :meth:`ensure` and :meth:`report` are called after False. By
        default it is True: that nothing but this process removes an entry.
        """
        return True

    def memory(self) -> Memory | None:
        """Return memory in which readers find, after the end of this process, what was in use.

        It is asked for after each :meth:`ensure` that returned True. There is one item for each
        connection, see :class:`.Trace`: where the process is seen to be dead and each is 0, it is
        ``at_rest``. The first of them is 1 and the others are 0 before the process seems to live.
        By default it is None: nothing is known of how a process ended.
        """
        return None

    @abstractmethod
    def closed(self) -> None:
        """Note that a gate was closed: called in the gate. From now on a report acknowledges.

        It must not wait for anything.
        """

    @abstractmethod
    def report(self, snapshot: Callable[[], Report]) -> None:
        """Tell readers how things stand. It is called when that has changed, or is 30 seconds old.

        The report acknowledges if ``closed`` was called after the last :meth:`withdraw` and before
        the snapshot is taken, and if the report has ``may_acknowledge``.

        :param snapshot: returns the report. Call it, and store what it returns, while a concurrent
            :meth:`withdraw` waits or fails: no gate can open between the count and the report. It
            does not ask the switch, the lock of which the gate that withdraws may hold. While a
            gate is open, the ``generation`` that it gives is None.
        :raises RegistryError: if it can't be told. Readers find the old report then, or none.
        """

    @abstractmethod
    def withdraw(self) -> None:
        """Take the acknowledgement back: called before a gate opens.

        After it a reader finds none, and a report that was begun before brings none back.

        :raises RegistryError: if it can't be taken back, at the latest after 0.2 seconds or so: the
            gate stays closed.
        """

    def note(self, sheet: bytes) -> None:
        """Tell readers what this process has noted in a rehearsal; see :meth:`Registry.sheets`.

        By default they are not told.

        :param sheet: at most ``sheet_limit`` bytes, which replace the last ones.
        :raises RegistryError: if it can't be told.
        """
        return

    @abstractmethod
    def close(self) -> None:
        """Remove the entry. It is called only while no read-write connection is in use.

        Later calls of any member do nothing. It raises nothing: what can't be removed is dead once
        this process ends.
        """


class Registry(Protocol):
    """Where workers register and report: a directory, or another registry that derives from this.

    Two registries are equal if they are the same place.
    """

    name: str = "the registry"
    """What an operator calls it, such as its path."""

    @abstractmethod
    def register(self, identify: Identify) -> Entry:
        """Register this process, after a :meth:`sweep`: from now on readers find its entry.

        :param identify: tells the generation that is there, see :data:`Identify`. The sweep needs
            it, and so does the entry for its own, later sweeps.
        :raises RegistryError: if it can't be registered.
        """

    @abstractmethod
    def sweep(self, identify: Identify) -> None:
        """Forget those dead entries that no verdict on any file, now or later, can need.

        These are the ones that left nothing, see :attr:`Seen.left_nothing`; and all that are dead
        while there is surely no file, as they died before any later one. It is called every 300
        seconds, and before the command makes a file. What can't be removed stays; it raises
        nothing. A registry in which nothing is ever known to be dead does nothing here.
        """

    @abstractmethod
    def read(self) -> list[Seen]:
        """Return every entry. It raises nothing: what can't be read is an entry with a problem."""

    def sheets(self) -> list[Sheet]:
        """Return what each process that is registered has noted in a rehearsal.

        It raises nothing: what can't be read is a sheet with a problem. By default there are none.
        """
        return []

    def scope(self) -> str | None:
        """Return a text that is the same wherever these entries are read, and nowhere else.

        ``wait --url`` asks several hosts, and tells by it which of them have one registry. By
        default it is None: each host is counted as one of its own.
        """
        return None


def missing(registry: object) -> list[str]:
    """Return the names of the members of :class:`Registry` that an object does not have."""
    return [name for name in vars(Registry) if name[0] != "_" and not hasattr(registry, name)]


# -- reading ---------------------------------------------------------------------------------


def read_between(
    look: Callable[[], T], registry: Registry | None, key: Callable[[T], object] | None = None
) -> tuple[T, tuple[Seen, ...], bool]:
    """Read every entry between two looks at the switch that bring the same answer.

    :param look: looks, each time. What it raises is raised.
    :param registry: without one, there are no entries.
    :param key: what must be the same of two answers; by default all of it.
    :return: the last answer, the entries, and whether it was the same before and after them. If
        not, the switch has moved during each of some readings.
    """
    answer, seen = look(), tuple[Seen, ...]()
    if registry is None:
        return answer, seen, True
    for _ in range(_READINGS):
        seen = tuple(registry.read())
        before, answer = answer, look()
        if (before == answer) if key is None else (key(before) == key(answer)):
            return answer, seen, True
    return answer, seen, False
