"""The history that a process writes of itself, a line for each event, which outlives a kill."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.history import Event
from sa_readonly.workers.process import born


class Notes:
    """A file of its own for each process, forked ones too.

    :param folder: where the histories are.
    :param slot: which member of the fleet it is; with the number of the process, its name.
    """

    def __init__(self, folder: Path, slot: str, *, of_a_process: bool = True) -> None:
        self._folder, self.slot = folder, slot
        self._begin(_name(slot) if of_a_process else slot)

    def begin_anew(self) -> None:
        """Have a file of its own in a forked child."""
        parent = self.process
        os.close(self._file)
        self._begin(_name(self.slot))
        self.note("start", pid=os.getpid(), parent=parent)

    def _begin(self, process: str) -> None:
        self.process = process
        how = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(self._folder / f"{self.process}.jsonl", how, 0o644)

    def note(self, kind: str, *, at: float | None = None, **told: Any) -> None:
        one = Event(time.monotonic() if at is None else at, self.process, kind, told)
        os.write(self._file, one.as_line().encode())  # whole, and without a lock

    def fault(
        self, name: str, *explains: str, at: float, until: float | None = None, process: str = ""
    ) -> None:
        """Note a fault, which lasted until now; without a process it is one of all."""
        until = time.monotonic() if until is None else until
        told = {"name": name, "until": until, "explains": explains}
        os.write(self._file, Event(at, process, "fault", told).as_line().encode())


def _name(slot: str) -> str:
    """Return a name of this process that no later one gets with its number."""
    return f"{slot}-{os.getpid()}-{born(os.getpid())}"


class Flips(logging.Handler):
    """Notes each flip that the process logs, and that it begins read-only."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self._notes = notes
        # Until then one that can't look at the file tells by that record that it is read-only.
        self._events = {"flip", "starts", "look_failed"}

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "sa_readonly_event", None) in self._events:
            self._events.discard("look_failed")
            self._notes.note("flip", to=vars(record)["sa_readonly_mode"])
