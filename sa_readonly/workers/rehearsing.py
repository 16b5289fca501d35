"""What a worker does for a rehearsal: it sees whether there is one, and tells what was noted."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

from ..rehearsal.notes import notebook_of
from ..rehearsal.sheet import encoded, sheet_of
from ..switch import FileSwitch

if TYPE_CHECKING:
    from ..mode import Switch
    from .protocol import Entry

__all__ = ["SUFFIX", "Rehearsing"]

SUFFIX = ".rehearsal"
"""What follows the path of the file, or the key, where processes that run are asked to rehearse."""

_LOOKED = 1.0  # seconds between two looks whether there is one


class Rehearsing:
    """The rehearsal of one process, as far as others start it and read of it."""

    def __init__(self) -> None:
        self.follow_fork()

    def follow_fork(self) -> None:
        """Have nothing looked for and nothing told."""
        self._looked = self._told_at = -math.inf
        self._told: int | None = None  # what the notebook counted then

    def look(self, switch: Switch) -> None:
        """Once a second, see whether there is a rehearsal, and note what is held for long."""
        now = time.monotonic()
        if now < self._looked + _LOOKED:
            return
        self._looked = now
        asked = _is_asked(switch)
        notebook = notebook_of(switch)
        if asked is not None:
            notebook.wish("file", on=asked)
        if notebook.on:
            notebook.note_held()

    def tell(self, switch: Switch, entry: Entry) -> None:
        """Tell readers what was noted, if that is something new.

        :raises RegistryError: if it can't be told.
        """
        notebook = notebook_of(switch)
        if notebook.since is None or notebook.changes == self._told:
            return
        now = time.monotonic()
        if now < self._told_at + entry.sheet_every:
            return
        self._told_at, changes = now, notebook.changes
        entry.note(encoded(sheet_of(notebook, entry.sheet_most), entry.sheet_limit))
        self._told = changes


def _is_asked(switch: Switch) -> bool | None:
    """Return whether processes are asked to rehearse; None if that can't be told now."""
    if not isinstance(switch, FileSwitch):
        asks = getattr(switch, "rehearses", None)  # a switch of the application's own has none
        return False if asks is None else asks()
    try:
        os.lstat(switch.path + SUFFIX)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return True
