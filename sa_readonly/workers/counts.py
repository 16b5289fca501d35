"""The connections of the selectors of this process, and what they refused."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from .. import refusals
from ..engines.doors import count
from ..engines.protection import count_begins
from ..engines.uses import Trace
from ..mode import Mode
from .protocol import Connections

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Engine

    from ..engines.doors import Door
    from ..engines.server import ServerSwitch
    from ..mode import State, Switch

__all__ = ["Begun", "Counts", "Member", "counted"]


class Member(Protocol):
    """One selector, as its worker knows it."""

    @property
    def doors(self) -> Sequence[Door]:
        """The doors of its engines that are taken away while read-only."""

    @property
    def sets(self) -> Sequence[Mapping[str, Engine]]:
        """Its engines by their names; in several sets, if it has several of one name."""

    @property
    def outliving(self) -> int:
        """How many connections there are of engines of its that are gone."""

    def rest(self) -> object:
        """Leave its worker, if there is nothing left for it to look after."""

    @property
    def server(self) -> ServerSwitch | None:
        """What its database server turns, or None."""


class Counts:
    """The selectors of this process with one switch, and their connections and refusals."""

    def __init__(self, switch: Switch) -> None:
        self.members: dict[Member, bool] = {}
        """Each selector, and whether it wants the watcher's thread."""
        self.begin(switch)

    def begin(self, switch: Switch | None) -> None:
        """Count anew; in a child, connections in use and what was refused are the parent's."""
        self._left: dict[Door, None] = {}  # of selectors that have gone, with connections in use
        self._before = {} if switch is None else self._refusals(switch)
        self._refused: dict[str, int] = {}
        self.begun = Begun()
        """The transactions that began in a process that is forced to read-write."""
        self.trace = Trace()
        """Notes which connections are in use."""
        for door in self.doors:
            door.trace(self, self.trace)

    def rest(self) -> None:
        """Have those that have nothing left to look after leave."""
        for member in list(self.members):
            member.rest()

    @property
    def doors(self) -> list[Door]:
        """The doors of all selectors, each once."""
        return list({door: None for member in list(self.members) for door in member.doors})

    @property
    def engines(self) -> tuple[dict[str, Connections], float | None]:
        """The connections of all engines; see :func:`counted`."""
        return counted(engines for member in list(self.members) for engines in member.sets)

    @property
    def servers(self) -> list[ServerSwitch]:
        """What the servers of all selectors turn."""
        members = list(self.members)
        return [member.server for member in members if member.server is not None]

    @property
    def closed_by_server(self) -> bool:
        """True if a selector is read-only by the word of its server alone."""
        return any(server.known.read_only for server in self.servers)

    def note_begun(self, door: Door, switch: Switch | None) -> None:
        """Have the transactions of a door counted, if this process is forced to read-write."""
        if switch is not None and switch.forced is Mode.READ_WRITE and not switch.overridden:
            count_begins(door.engine, self._begin_one)

    def _begin_one(self) -> None:
        self.begun.one()

    def probe(self) -> None:
        """Ask the servers that were read-only by their own word, as far as that is due."""
        for server in self.servers:
            server.probe()

    def leave(self, door: Door) -> None:
        """Go on counting the connections in use of a door whose selector goes."""
        if door.connections != door.idle:
            self._left[door] = None
        if door not in self.doors:  # of another selector
            door.trace(self, None)
            count_begins(door.engine, None)

    @property
    def left(self) -> int:
        """How many connections are in use of what has gone: a selector, or an engine."""
        for door in list(self._left):
            if door.connections == door.idle:
                self._left.pop(door, None)
        outliving = sum(member.outliving for member in list(self.members))
        return outliving + sum(door.connections - door.idle for door in list(self._left))

    def connections(self, known: State) -> tuple[bool, int]:
        """Return whether every door is shut, and how many read-write connections there are."""
        doors, left = self.doors, self.left
        # First whether they are shut, then the number, which can only fall from then on.
        shut = known.read_only and not left and all(door.is_shut for door in doors)
        return shut, left + sum(door.connections for door in doors)

    def refused(self, switch: Switch) -> dict[str, int]:
        """Return what was refused in this process, by kind; never fewer than before.

        A read that is just being served elsewhere counts for a moment. Once that was reported it is
        not taken back, as a count that falls means a new process to what adds them up.
        """
        told = self._refused
        for kind, number in self._refusals(switch).items():
            told[kind] = max(told.get(kind, 0), number - self._before.get(kind, 0))
        return {kind: number for kind, number in told.items() if number}

    def _refusals(self, switch: Switch) -> Counter[str]:
        """Return by kind what was refused, for the switch or by the word of a server."""
        counts = Counter(refusals.refusals(switch))
        for server in self.servers:
            counts.update(refusals.refusals(server))
        return counts


class Begun:
    """The transactions that began: how many, and when the first one and the last."""

    def __init__(self) -> None:
        self.number = 0
        self._lock = threading.RLock()  # a signal handler may begin a transaction, too
        self._first: float | None = None
        self._last: float | None = None

    def one(self) -> None:
        """Count one more."""
        moment = time.time()
        with self._lock:
            self.number += 1
            self._last = moment
            if self._first is None:
                self._first = moment

    @property
    def told(self) -> dict[str, Any]:
        """What a report tells of them."""
        with self._lock:
            return {"begun": self.number, "begun_first": self._first, "begun_last": self._last}


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
