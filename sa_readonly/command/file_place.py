"""A file as the switch of a command, and the directory beside it, or another registry."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import click

from ..announced import FileAhead, content_of, with_announced
from ..checks import registry_of
from ..errors import ConfigurationError
from ..mode import FORCE, Announced, Mode, State
from ..rehearsal.sheet import Sheet
from ..switch import FileSwitch
from ..text import as_read, remove, render, write
from ..workers.protocol import Registry, Seen
from ..workers.rehearsing import SUFFIX
from ..workers.status import Snapshot, take
from .history_file import FileHistory
from .options import Where
from .place import Place
from .terminal import CannotRun, Failed, application_log, shown
from .waiting import WorkersWait

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TTL = 60  # seconds; commands look by check(), and this only has to be longer than a slow look


class FilePlace(Place):
    """The file at a path, whatever this shell forces.

    :param where: the path, and the directory of its workers.
    :param registry: where they report instead.
    :raises CannotRun: if there can be none.
    :raises Failed: if it can't be looked at.
    """

    thing = "file"

    def __init__(self, where: Where, *, as_json: bool, registry: Registry | None = None) -> None:
        self.as_json = as_json
        self.switch = _switch(str(where.file))
        workers: Any = os.path.abspath(where.workers) if where.workers else True
        # It is a directory, as a file flips.
        found: Any = registry_of(registry or workers, self.switch)
        self.registry: Registry = found
        self.name = self.switch.name
        self.history = FileHistory(self.name)
        self._ahead = FileAhead(self.name)
        self.registry_name = self.registry.name
        self.elsewhere = "If the application's workers report elsewhere, give --workers DIR."
        if registry is not None:
            self.elsewhere = "Does a worker of this host have file= and that key?"
        if not self.switch.known.read_only:
            # No file tells since when it is read-write, and this process has seen no flip.
            self.switch.known = replace(self.switch.known, since=None)
        elif self.switch.known.generation is None:  # the look failed
            raise Failed(f"{self.switch.known.reason}.")

    def state(self) -> State:
        return with_announced(self.switch.check(), self.announced())

    def snapshot(self) -> Snapshot:
        taken = take(self.switch, self.registry)
        return replace(taken, state=with_announced(taken.state, self.announced()))

    def read(self) -> Sequence[Seen]:
        return self.registry.read()

    def turn_on(self, reason: str | None, until: datetime | None) -> bool:
        # A worker that is dead before the file is made needs no word of its own that it is drained.
        self.registry.sweep(self.switch.identify)
        before = self.switch.known
        if before.read_only:
            reason = before.reason if reason is None else reason
            until = until or before.until
        text = as_read(reason)
        if before.read_only and (text, until) == (before.reason, before.until):
            return False
        try:
            self.switch.enable(reason, until)
        except ValueError as error:
            raise click.UsageError(shown(f"The file is not written: {error}")) from None
        except OSError as error:
            raise self._failed("written", error) from None
        return True

    def turn_off(self) -> bool:
        if not self.switch.known.read_only:
            return False
        try:
            self.switch.disable()
        except OSError as error:
            raise self._failed("removed", error) from None
        return True

    def announced(self) -> Announced | None:
        return self._ahead()

    def announce(self, announced: Announced | None) -> None:
        path, what = self._ahead.path, "removed"
        try:
            if announced is None:
                remove(path)
            else:
                what = "written"
                write(path, content_of(announced))
        except OSError as error:
            raise _failed(path, what, error) from None

    def rehearse(self, *, on: bool) -> bool:
        path, before = self.name + SUFFIX, self.is_rehearsed()
        try:
            if on and not before:
                write(path, render("Processes note what a flip would refuse.", None))
            elif not on:
                remove(path)
        except OSError as error:
            raise _failed(path, "written" if on else "removed", error) from None
        return before is not on

    def is_rehearsed(self) -> bool:
        return os.path.lexists(self.name + SUFFIX)

    def sheets(self) -> Sequence[Sheet]:
        return self.registry.sheets()

    def waiting(self, mode: Mode, **how: Any) -> WorkersWait:
        return WorkersWait(self.switch.identify, self.registry, mode=mode, **how)

    def facts(self) -> dict[str, object]:
        return {"file": self.name, "workers_directory": self.registry_name}

    def _failed(self, what: str, error: OSError) -> Failed:
        failed = _failed(self.name, what, error, f": the mode is {self.switch.check().mode}")
        if what == "removed" or error.errno not in _FULL:
            return failed
        touch = f"touch {shlex.quote(self.name)}"  # it needs no room
        return Failed(f"{failed.message} Or turn it on without a reason: {touch}")


def _failed(path: str, what: str, error: OSError, then: str = "") -> Failed:
    """Return the error that tells why a file can't be written or removed, and what cures it."""
    cure = ""
    if error.errno in _FULL:
        cure = " Make room on its disk."
    elif error.errno == errno.EROFS:
        cure = " Its file system is mounted to be read only: mount it otherwise."
    elif isinstance(error, PermissionError):
        cure = f" Run it as a user that may write in {os.path.dirname(path)}, as root say."
    elif isinstance(error, IsADirectoryError):
        cure = " Remove it by hand."
    return Failed(f"{path} can't be {what} ({error.strerror or error}){then}.{cure}")


def _switch(path: str) -> FileSwitch:
    """Return a switch that goes by the file, whatever this shell forces."""
    forced = os.environ.pop(FORCE, None)
    try:
        with application_log(lambda _line: None):
            return FileSwitch(path, ttl=_TTL)
    except ConfigurationError as error:
        raise CannotRun(str(error)) from None
    except OSError as error:  # the working directory is gone
        raise CannotRun(f"{path} can't be made absolute: {error}.") from None
    finally:
        if forced is not None:
            os.environ[FORCE] = forced
