"""What a process has noted of a flip that did not come: by place in the code, never a value."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from .. import forks
from ..errors import ConfigurationError, ReadOnlyError
from ..mode import Switch
from ..refusals import hearing, route_here
from ..telemetry import fields
from .callsite import Site, callers, forget, frames, here

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

__all__ = [
    "DRAIN",
    "MOST",
    "READ",
    "REHEARSE",
    "Entry",
    "Key",
    "Notebook",
    "failed",
    "notebook_of",
    "unbroken",
    "wanted",
]

logger = logging.getLogger("sa_readonly")

T = TypeVar("T")
P = ParamSpec("P")

REHEARSE = "SA_READONLY_REHEARSE"
"""The environment variable that has a process rehearse from its start."""

MOST = 1000
"""Places that one process notes."""

READ = "read"
"""The kind of a transaction that would be served by the read-only engine, as it reads first."""
DRAIN = "drain"
"""The kind of a connection that was held for a second or longer: `wait` would wait for it."""

_HELD = 1.0  # seconds from which on a connection is noted as held
_PICKED = 10.0  # seconds for which an engine counts as just picked
_UNSURE = 1.0  # seconds after it began, in which an engine may have been picked before that
_MOST_PICKED = 1000  # frames that have just picked an engine


class Key(NamedTuple):
    """What is noted together.

    :param site: the place in the application's code.
    :param route: the route of the request, or None.
    :param role: the role of the session.
    :param kind: one of :data:`.refusals.KINDS`, :data:`READ` or :data:`DRAIN`.
    """

    site: Site
    route: str | None
    role: str
    kind: str


@dataclass
class Entry:
    """How often something was noted.

    :param what: a few words that tell what it was, the last time.
    :param first: how often it would be met in the night, as nothing in its transaction is refused
        before it.
    :param behind: how often something in its transaction would be refused before it.
    :param last: when it was noted last, in wall-clock seconds since 1970.
    :param longest: of what is held, for how many seconds at most.
    :param idle: of what was held longest, whether no statement was running.
    """

    what: str
    first: int = 0
    behind: int = 0
    last: float = 0.0
    longest: float = 0.0
    idle: bool = False


_failed: set[int] = set()  # the processes that have logged it


def failed(error: Exception) -> None:
    """Log, once a process, that something could not be noted."""
    if os.getpid() not in _failed:
        _failed.add(os.getpid())
        extra = fields("rehearsal_failed")
        logger.error("Something could not be noted in a rehearsal.", exc_info=error, extra=extra)


def unbroken(note: Callable[P, None]) -> Callable[P, None]:
    """Have a function that notes raise nothing: the application goes on, whatever it is."""

    @wraps(note)
    def noting(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            note(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever it is
            failed(error)

    return noting


class Notebook:
    """What one process notes for one switch, while it rehearses.

    :param switch: the switch; held weakly.
    """

    def __init__(self, switch: Switch) -> None:
        self._switch = weakref.ref(switch)
        self.on = False
        """Whether this process rehearses now."""
        self.since: float | None = None
        """When it began, in wall-clock seconds, or None if it never has."""
        self._wishes: set[str] = set()
        self._following: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = (
            weakref.WeakKeyDictionary()
        )
        self._turning = forks.PerProcess(threading.RLock)
        # Reentrant: a signal handler may write while the thread that it interrupts is noting.
        self._noting = forks.PerProcess(threading.RLock)
        self._forget()
        forks.subscribe(in_child=self._forget)

    def _forget(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self.dropped = 0
        """How often something was noted at a place for which there was no room."""
        self.changes = 0
        """Rises with each note."""
        self.held: dict[int, Any] = {}  # by the identity of what its pool has given out
        self._picked: dict[int, tuple[CodeType, _Pick]] = {}
        self._sure_from = -math.inf

    # -- being turned --------------------------------------------------------------------

    def follow(self, thing: T, turned: Callable[[T], object]) -> None:
        """Have a function called with a thing, held weakly, each time it is turned on or off."""
        self._following[thing] = turned

    def wish(self, by: str, *, on: bool) -> None:
        """Rehearse as long as one of several things wishes so; one that begins forgets the last.

        :param by: what wishes: the ``"process"``, or the ``"file"``.
        """
        with self._turning():
            (self._wishes.add if on else self._wishes.discard)(by)
            if self.on is bool(self._wishes):
                return
            if self._wishes:
                self._forget()
                if by == "file":
                    self._sure_from = time.monotonic() + _UNSURE
                self.since, self.on = time.time(), True
            else:
                self.on, self.held, self._picked = False, {}, {}
                forget()
            self.changes += 1
            for thing, turned in list(self._following.items()):
                turned(thing)

    # -- noting --------------------------------------------------------------------------

    def note(self, key: Key, what: str, *, behind: bool = False) -> None:
        """Note once more what would be refused, or is read."""
        with self._noting():
            entry = self._entry(key, what)
            if entry is not None and behind:
                entry.behind += 1
            elif entry is not None:
                entry.first += 1

    @unbroken
    def hear(self, error: ReadOnlyError, what: str) -> None:
        """Note what was refused, if it is refused in either mode, and so in the night."""
        switch = self._switch()
        if self.on and error._lasting and switch is not None and not switch.known.read_only:
            kind = error._kind or "statement"
            self.note(Key(here("error").site, route_here(), error._role, kind), what)

    @unbroken
    def note_here(self, what: str, kind: str) -> None:
        """Note what the application itself asks, and would be refused beforehand."""
        if self.on:
            self.note(Key(here("beforehand").site, route_here(), "primary", kind), what)

    @unbroken
    def note_held(self) -> None:
        """Note what has been held for long; called now and then."""
        now = time.monotonic()
        for key, held in list(self.held.items()):
            age = now - held.since
            if held.is_over:
                if self.held.get(key) is held:  # else the identity is another one's by now
                    self.held.pop(key, None)
            elif age >= _HELD:
                with self._noting():
                    entry = self._entry(held.key(DRAIN), "A connection that is held")
                    if entry is None:
                        continue
                    if not held.noted:
                        held.noted = True
                        entry.first += 1
                    if age >= entry.longest:
                        entry.longest, entry.idle = age, held.running is None

    def _entry(self, key: Key, what: str) -> Entry | None:
        self.changes += 1
        entry = self.entries.get(key)
        if entry is None:
            if len(self.entries) >= MOST:
                self.dropped += 1
                return None
            entry = self.entries[key] = Entry(what)
        entry.what, entry.last = what, time.time()
        return entry

    # -- engines that were picked ----------------------------------------------------------

    @unbroken
    def pick(self, frame: FrameType) -> None:
        """Note that a call has just asked the selector for an engine, by the mode of now.

        What connects soon in the same call, or in the one to which that has returned the engine,
        would be given the read-only engine in its place. Code that has kept one would not.
        """
        if len(self._picked) >= _MOST_PICKED:
            self._picked.clear()
        pick = _Pick(time.monotonic(), [])
        for one in callers(frame):
            # A module's frame is there as long as the program, where that is one file.
            if not pick.frames or one.f_code.co_name != "<module>":
                pick.frames.append(id(one))
                self._picked[id(one)] = one.f_code, pick

    def was_picked(self, frame: FrameType) -> bool:
        """True if a call on the stack has asked the selector for its engine, or may have."""
        if time.monotonic() < self._sure_from:
            return True
        oldest = time.monotonic() - _PICKED
        for one in frames(frame) if self._picked else ():
            code, pick = self._picked.get(id(one), (None, None))
            if pick is not None and code is one.f_code and pick.moment >= oldest:
                # It is this call that has the engine, and none of those that have called it.
                while pick.frames[-1] != id(one):
                    outer = pick.frames.pop()
                    if self._picked.get(outer, (None, None))[1] is pick:
                        self._picked.pop(outer, None)
                return True
        return False


class _Pick(NamedTuple):
    """An engine that was asked for.

    :param moment: when, by :func:`time.monotonic`.
    :param frames: the calls of the application that may have it, by identity, the innermost first.
    """

    moment: float
    frames: list[int]


_notebooks: weakref.WeakKeyDictionary[Switch, Notebook] = weakref.WeakKeyDictionary()
# Reentrant: a garbage collection may begin in it and end a selector, which leads here again.
_finding = forks.PerProcess(threading.RLock)


def notebook_of(switch: Switch) -> Notebook:
    """Return what this process notes for a switch."""
    with _finding():
        found = _notebooks.get(switch)
        if found is None:
            made = Notebook(switch)
            found = _notebooks.setdefault(switch, made)
            if found is made:
                hearing[switch] = found.hear
                if wanted(False):
                    found.wish("process", on=True)
        return found


def wanted(rehearse: object) -> bool:
    """Return whether a process is to rehearse from its start.

    :param rehearse: what was given to the selector.
    :raises ConfigurationError: if it is neither True nor False, or if ``SA_READONLY_REHEARSE`` is
        neither 1 nor 0.
    """
    if not isinstance(rehearse, bool):
        raise ConfigurationError(f"EngineSelector(rehearse) takes True or False, not {rehearse!r}.")
    variable = os.environ.get(REHEARSE, "")
    if variable not in ("", "0", "1"):
        raise ConfigurationError(
            f"The environment variable {REHEARSE} is {variable!r}. Set it to 1 to rehearse, or "
            "unset it."
        )
    return rehearse or variable == "1"
