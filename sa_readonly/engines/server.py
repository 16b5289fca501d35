"""A database that its server has closed: one selector of this process is read-only meanwhile.

The switch stands above it. While that is read-only, nothing here turns and nothing is asked.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from .. import forks
from ..announced import with_announced
from ..mode import Mode, State, Switch, now
from ..telemetry import of_state, on_span
from . import loops
from .answers import REASON

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ANSWERS", "ServerSwitch"]

logger = logging.getLogger("sa_readonly")

ANSWERS = ("raise", "error", "flip")
"""What ``EngineSelector(server_read_only=)`` may be."""

_SHORTEST, _LONGEST = 1.0, 30.0  # seconds between two probes
_PATIENCE = 1.0  # seconds to wait for another thread that turns it
_SOON = 60.0  # seconds after a flip back, within which another one doubles the pause


class ServerSwitch(Switch):
    """The mode of one selector's database by the word of its server.

    Its engines are gated by it only while it is read-only, so otherwise it costs nothing.

    :param switch: the one that stands above it.
    :param name: returns what messages call the database.
    :param shut: takes the engines away, and is short.
    :param reopen: gives them back.
    :param may_write: asks the server on a new connection; False if it is not known.
    """

    fresh_until = math.inf

    def __init__(
        self,
        switch: Switch,
        name: Callable[[], str],
        *,
        shut: Callable[[], None],
        reopen: Callable[[], None],
        may_write: Callable[[], bool],
    ) -> None:
        self.known = State(Mode.READ_WRITE)
        self.told: weakref.WeakMethod[Callable[[State, State], None]] | None = None
        """What is called after a flip: a method of the selector's, held weakly."""
        self._switch, self._name = switch, name
        self._shut, self._reopen, self._may_write = shut, reopen, may_write
        self._turning = forks.PerProcess(threading.RLock)
        self._asking = forks.PerProcess(threading.Lock)
        self._closed = False
        self._pause = 0.0
        self._due = self._back = -math.inf

    def check(self) -> State:
        """Return what is known: nothing is looked at here."""
        return self.known

    def subscribe(
        self,
        gate: Callable[[State], None],
        flipped: Callable[[State, State], None],
    ) -> Callable[[], None]:
        """See :meth:`.Switch.subscribe`. It has the subscriber that it was made for alone."""
        raise NotImplementedError

    def over(self, state: State) -> State:
        """Return the state of the selector: this one where the switch is read-write."""
        known = self.known
        if not known.read_only or state.read_only:
            return state
        return with_announced(known, state.announced)

    def turn(self) -> None:
        """Be read-only, as the server has said so just now."""
        switch = self._switch
        with self._turning():
            old = self.known
            # What is forced or dictated has no thread that would ask.
            if old.read_only or self._closed or switch.known.read_only or switch.forced is not None:
                return
            moment = time.monotonic()
            soon = moment < self._back + _SOON
            self._pause = min(2 * self._pause, _LONGEST) if soon else _SHORTEST
            self._due = moment + self._pause
            self.known = new = State(Mode.READ_ONLY, REASON, since=now())
            self._shut()
        self._say(old, new, f"{self._name()}: {REASON}. It is asked every {self._pause:g} s")

    def probe(self) -> None:
        """Ask the server if that is due, and be read-write again if it would write."""
        closed = self.known.read_only and not self._switch.known.read_only
        if not closed or time.monotonic() < self._due:
            return
        asking = self._asking()
        # Another thread that asks may wait for the server as long as a connection takes.
        if asking.acquire(blocking=False):
            try:
                may_write = self._may_write()
                self._due = time.monotonic() + self._pause
            finally:
                asking.release()
            if may_write:
                self.end()

    def end(self) -> None:
        """Be read-write again."""
        with self._turning():
            old = self.known
            if not old.read_only:
                return
            self._reopen()
            self.known = new = State(Mode.READ_WRITE, since=now())
            self._back = time.monotonic()
        lasted = timedelta(seconds=round((now() - (old.since or now())).total_seconds()))
        self._say(old, new, f"{self._name()} takes writes. It was read-only for {lasted}")

    def close(self) -> None:
        """Give the engines back, and turn no more: the selector is closed."""
        # Not for ever: a garbage collection may call this in a thread that holds a lock of a pool.
        with forks.locked(self._turning(), _PATIENCE):
            self._closed = True
            if self.known.read_only:
                self._reopen()
                self.known = State(Mode.READ_WRITE)

    def _say(self, old: State, new: State, why: str) -> None:
        extra = of_state("server_flip", self._name(), new)
        logger.warning("sa_readonly: %s -> %s: %s", old.mode, new.mode, why, extra=extra)
        on_span(mode=str(new.mode), flip_from=str(old.mode))
        told = None if self.told is None else self.told()
        if told is not None:
            loops.wait_for(partial(told, old, new))  # an event loop may have met the server's no

    def __repr__(self) -> str:
        return f"ServerSwitch({self._name()!r}, {self.known.mode})"
