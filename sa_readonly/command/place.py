"""The switch and the registry that a command is about, and how their state is told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..checks import make_switch, registry_of
from ..errors import ConfigurationError
from ..mode import Mode, State
from ..subscribers import FORCE
from ..switch import FileSwitch
from ..workers.protocol import Registry
from ..workers.status import Snapshot, WorkerStatus, take
from .terminal import CannotRun, Failed, application_log, local, note, say, shown

_MARGIN = 12  # lines of a terminal that are not the table's


class Place(NamedTuple):
    """What a command is about."""

    switch: FileSwitch
    registry: Registry
    as_json: bool

    def snapshot(self) -> Snapshot:
        """Look at the switch and read every worker's report."""
        return take(self.switch, self.registry)


@contextmanager
def operate(file: str | None, workers: str | None, as_json: bool) -> Iterator[Place]:
    """Give a switch that goes by the file, whatever this shell forces, and logs errors only."""
    if not file:
        raise CannotRun("Give --file PATH, or set the environment variable SA_READONLY_FILE.")
    forced = os.environ.pop(FORCE, None)
    try:
        with application_log(lambda _line: None):
            # Commands look by check(). The ttl only has to be longer than a slow look takes.
            switch: Any = make_switch(file, ttl=60)
        registry: Any = registry_of(os.path.abspath(workers) if workers else True, switch)
    except ConfigurationError as error:
        raise CannotRun(str(error)) from None
    except OSError as error:  # the working directory is gone
        raise CannotRun(f"{file} can't be made absolute: {error}.") from None
    finally:
        if forced is not None:
            os.environ[FORCE] = forced
    if not switch.known.read_only:
        # No file tells since when it is read-write, and this process has seen no flip.
        switch.known = replace(switch.known, since=None)
    elif switch.known.generation is None:  # the look failed
        raise Failed(f"{switch.known.reason}.")
    if forced:
        obeyed = "Processes that are started here obey it; this command, only the file."
        note(f"{FORCE}={forced} is set here. {obeyed}")
    with application_log(_note_errors):
        try:
            yield Place(switch, registry, as_json)
        except KeyboardInterrupt:
            state = switch.check()
            where = "is there" if state.read_only else "is not there"
            note(f"Interrupted. {switch.name} {where}: the mode is {state.mode}.")
            raise SystemExit(130) from None


def _note_errors(line: str) -> None:
    if line.startswith("ERROR "):
        note(line)


# -- how it is told --------------------------------------------------------------------------


def show(place: Place, snapshot: Snapshot, *, changed: bool) -> None:
    """Print the state, as text or as JSON."""
    if place.as_json:
        say(json.dumps(document(place, snapshot, changed=changed)))
    else:
        say(f"{block(place, snapshot.state)}\n{'changed':9}{'yes' if changed else 'no'}")


def document(place: Place, snapshot: Snapshot, *, changed: bool) -> dict[str, object]:
    """Return the state as what :mod:`json` takes."""
    return {
        "file": place.switch.name,
        "workers_directory": place.registry.name,
        **snapshot.as_json(),
        "changed": changed,
        "forced": os.environ.get(FORCE) or None,
    }


def rows(place: Place, state: State) -> list[tuple[str, str]]:
    """Return the state as names and printable values."""
    told = [("file", place.switch.name), ("mode", str(state.mode))]
    if state.read_only:
        told.append(("reason", state.reason or "none given"))
        until = "not given" if state.until is None else local(state.until)
        told.append(("until", f"{until} (overdue)" if state.overdue else until))
    if state.since is not None:
        told.append(("since", local(state.since)))
    told.append(("workers", place.registry.name))
    return [(name, shown(value)) for name, value in told]


def block(place: Place, state: State) -> str:
    """Return the state as lines for people."""
    lines = [f"{name:9}{value}" for name, value in rows(place, state)]
    return "\n".join(line.replace("\n", f"\n{'':9}") for line in lines)


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
