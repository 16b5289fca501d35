"""What a command is about: a switch and the workers that go by it, and how they are told."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..announced import in_words
from ..mode import FORCE, Mode, State
from ..workers.protocol import Entry, Seen
from ..workers.status import Snapshot, WorkerStatus
from .terminal import local, say, shown

if TYPE_CHECKING:
    from ..mode import Announced
    from ..rehearsal.sheet import Sheet
    from .waiting import VerdictWait

_MARGIN = 12  # lines of a terminal that are not the table's


class History(Protocol):
    """Where it is kept what operators did, a line each. It raises OSError or EtcdError."""

    name: str

    def append(self, lines: bytes) -> None:
        """Append whole lines."""

    def read(self) -> list[bytes]:
        """Return the lines, the oldest first."""


class Place(ABC):
    """A switch, as an operator has it, and where its workers report. A kind of switch has one.

    What can't be done raises :class:`.Failed`, and what makes no sense :class:`.CannotRun`.
    """

    as_json: bool

    name: str
    """What people call the switch."""

    thing: str
    """What it is: the file, the key."""

    registry_name: str
    """Where the workers report."""

    elsewhere: str
    """What an operator may have to give where no worker reports there."""

    pause: float = 0.2
    """Seconds between two looks."""

    sheets_every: float = Entry.sheet_every
    """Seconds between two sheets of a process: how old what it has noted may be as it is read."""

    history: History
    """Where it is kept what operators did. Nothing is decided by it."""

    @abstractmethod
    def state(self) -> State:
        """Look now. What can't be told is read-only, without a generation."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """Look at the switch and read every worker's report."""

    @abstractmethod
    def read(self) -> Sequence[Seen]:
        """Return every entry of the workers."""

    @abstractmethod
    def turn_on(self, reason: str | None, until: datetime | None) -> bool:
        """Make the application read-only, or change of its text what is given.

        :return: whether that has changed anything.
        """

    @abstractmethod
    def turn_off(self) -> bool:
        """Let it write again; return whether that has changed anything."""

    @abstractmethod
    def announced(self) -> Announced | None:
        """Return what is announced; None if nothing is, or its text is none."""

    @abstractmethod
    def announce(self, announced: Announced | None) -> None:
        """Announce it, or take back what was announced. No mode changes by it."""

    @abstractmethod
    def rehearse(self, *, on: bool) -> bool:
        """Ask processes to rehearse, or no more; return whether that has changed anything."""

    @abstractmethod
    def is_rehearsed(self) -> bool:
        """Return whether they are asked to."""

    @abstractmethod
    def sheets(self) -> Sequence[Sheet]:
        """Return what each of them has noted."""

    @abstractmethod
    def waiting(self, mode: Mode, **how: object) -> VerdictWait:
        """Return a wait for its workers.

        :param how: as :class:`.Wait` has it.
        """

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """Return what it is about as what :mod:`json` takes."""

    def switch_rows(self) -> list[tuple[str, str]]:
        """Return what it is about as names and values for people."""
        return [(self.thing, self.name)]

    def turned_off(self) -> None:  # noqa: B027  # there is nothing to do by default
        """Do what is left to do once the application writes again, and tell what is."""


# -- how it is told --------------------------------------------------------------------------


def show(place: Place, snapshot: Snapshot, *, changed: bool) -> None:
    """Print the state, as text or as JSON."""
    if place.as_json:
        say(json.dumps(document(place, snapshot, changed=changed)))
    else:
        say(block(place, snapshot.state, ("changed", "yes" if changed else "no")))


def document(place: Place, snapshot: Snapshot, *, changed: bool) -> dict[str, object]:
    """Return the state as what :mod:`json` takes."""
    return {
        **place.facts(),
        **snapshot.as_json(),
        "changed": changed,
        "forced": os.environ.get(FORCE) or None,
    }


def rows(place: Place, state: State) -> list[tuple[str, str]]:
    """Return the state as names and printable values."""
    told = [*place.switch_rows(), ("mode", str(state.mode))]
    if state.read_only:
        told.append(("reason", state.reason or "none given"))
        until = "not given" if state.until is None else local(state.until)
        told.append(("until", f"{until} (overdue)" if state.overdue else until))
    if state.since is not None:
        told.append(("since", local(state.since)))
    if state.announced is not None:
        told.append(("announced", in_words(state.announced, local)))
    told.append(("workers", place.registry_name))
    return [(name, shown(value)) for name, value in told]


def block(place: Place, state: State, *more: tuple[str, str]) -> str:
    """Return the state, and more, as lines for people."""
    told = [*rows(place, state), *more]
    width = max(9, *(len(name) + 1 for name, _ in told))
    lines = [f"{name:{width}}{value}" for name, value in told]
    return "\n".join(line.replace("\n", f"\n{'':{width}}") for line in lines)


class Row(NamedTuple):
    """What stands in a row of a table: a worker and its connections, or a host and its workers."""

    called: str
    mode: Mode | None
    number: int | None
    why: str | None
    drained: bool


def table(
    told: Sequence[Row],
    console: Console | None = None,
    what: str = "Worker",
    of: str = "Connections",
) -> Table:
    """Return a table, first what is waited for; no higher than the terminal."""
    made = Table(what, "Mode", of, "", box=SIMPLE_HEAD, pad_edge=False)
    room = len(told) if console is None else max(3, console.height - _MARGIN)
    for row in sorted(told, key=lambda row: row.why is None)[:room]:
        state = Text(row.why, "yellow") if row.why else Text("drained" * row.drained, "green")
        number = "" if row.number is None else str(row.number)
        made.add_row(Text(shown(row.called)), str(row.mode or ""), number, state)
    if len(told) > room:
        made.add_row(f"and {len(told) - room} more", "", "", "")
    return made


def worker_table(workers: Sequence[WorkerStatus], console: Console | None = None) -> Table:
    """Return a table of workers."""
    told = [Row(one.called, one.mode, one.connections, one.why, one.drained) for one in workers]
    return table(told, console)
