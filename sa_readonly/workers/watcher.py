"""The thread of a process that notices a flip when no traffic does."""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from typing import TYPE_CHECKING

from .. import forks
from ..hold.count import held
from ..mode import Mode
from ..switch import FileSwitch
from ..telemetry import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..mode import Switch

__all__ = ["Watcher", "is_watched"]

logger = logging.getLogger("sa_readonly")

_SHORTEST, _LONGEST = 0.01, 1.0  # seconds between two looks
_PAST_HALF = 0.55  # of ttl: a look is due from the half on, which a tick must not come just before
_JOIN = 1.0  # seconds for which a fork waits for a thread whose look hangs
_STARVED = 1.0  # seconds without a look after which a thread counts for nothing, or 10 intervals


class Watcher:
    """One daemon thread of one process, which looks at one switch and then does what is due.

    It is no part of what keeps the mode right: every transaction looks for itself. The thread ends
    when its owner is collected. A forked child has none until its own first :meth:`start`.

    From Python 3.12 on a fork warns while another thread runs. So the thread ends before a fork,
    and a new one is started in the parent.

    :param switch: what to look at, not less than once a second, as a signal may have asked for a
        look. A file is looked at once in each ``ttl``: an event loop looks at it by itself. Another
        switch is looked at soon after ``ttl / 2``, so that the next answer comes before the last
        one is as old as ``ttl``, past which an event loop that can't wait is told read-only. So is
        a file while any wait for the flip.
    :param due: a bound method, held weakly, that is called after each look.
    :param probe: another one, called last of all: it may wait for a server.
    """

    def __init__(self, switch: Switch, due: Callable[[], None], probe: Callable[[], None]) -> None:
        self._switch = weakref.ref(switch)
        self._due, self._probe = weakref.WeakMethod(due), weakref.WeakMethod(probe)
        self._soon = min(max(switch.ttl * _PAST_HALF, _SHORTEST), _LONGEST)
        ttl = switch.ttl if isinstance(switch, FileSwitch) else self._soon
        self._interval = min(max(ttl, _SHORTEST), _LONGEST)
        self._lock = forks.PerProcess(threading.Lock)
        self._forking = False
        self._forget()
        forks.subscribe(
            before=self._before_fork, in_parent=self._start_again, in_child=self._forget
        )

    def _forget(self) -> None:
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed = False  # whether it was logged that none can be started
        self._looked = -math.inf
        self._forking = False

    @property
    def running(self) -> bool:
        """True if the thread lives in this very process."""
        forks.follow()
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def alive(self) -> bool:
        """True if it runs and has looked lately, which it can't where threads stand still."""
        bound = max(_STARVED, 10 * self._interval)
        return self.running and time.monotonic() < self._looked + bound

    def start(self, looked: float | None = None) -> None:
        """Start the thread unless it runs.

        :param looked: when the thread looked that it replaces, on the monotonic clock: its first
            look is due by that, or where forks come faster than looks none would ever be taken.
        """
        with self._lock():
            if self.running:
                self._end.clear()  # it was to end, but hung in a look: then it goes on
                return
            now = time.monotonic()
            self._looked = now if looked is None else looked
            self._end = threading.Event()
            pause = self._looked + self.interval - now
            thread = threading.Thread(
                target=_watch,
                args=(weakref.ref(self), self._end, pause),
                name="sa_readonly",
                daemon=True,  # an exit does not wait for it
            )
            try:
                thread.start()
            except RuntimeError as error:  # there are too many; each transaction looks for itself
                self._looked = -math.inf
                if not self._failed:
                    self._failed = True
                    extra = fields("unwatched", error=str(error))
                    logger.error("No thread can watch for a flip (%s).", error, extra=extra)  # noqa: TRY400  # its traceback tells nothing
                return
            self._thread, self._failed = thread, False

    def stop(self, timeout: float | None = None) -> bool:
        """End the thread and wait until it has gone; True if there was one.

        :param timeout: seconds to wait at most; 0 does not wait.
        """
        thread = self._thread
        if not self.running or thread is None:
            return False
        self._end.set()
        if thread is not threading.current_thread() and timeout != 0:
            thread.join(timeout)
        return True

    def tick(self) -> None:
        """Look once and do what is due; what that raises is logged."""
        switch, due, probe = self._switch(), self._due(), self._probe()
        _do(None if switch is None else switch.refresh, due)
        self._looked = time.monotonic()
        _do(None if switch is None else switch.look_ahead, probe)

    @property
    def interval(self) -> float:
        """Seconds from one look to the next."""
        switch = self._switch()
        return self._soon if switch is not None and held(switch)["held"] else self._interval

    def _lets_go(self, end: threading.Event) -> bool:
        """True if a thread that is to end is not wanted again meanwhile; none runs from then on."""
        with self._lock():
            if end.is_set() and self._end is end:
                self._thread = None
            return end.is_set()

    def _is_orphaned(self) -> bool:
        return self._switch() is None or self._due() is None

    def _before_fork(self) -> None:
        self._forking = self.stop(_JOIN) or self._forking  # or another fork stopped it

    def _start_again(self) -> None:
        if self._forking:
            self._forking = False
            self.start(self._looked)


def is_watched(switch: Switch | None) -> bool:
    """True if a thread has anything to notice: what is forced never flips.

    What is forced to read-write goes on writing, and tells so in its reports.
    """
    if switch is None:
        return False
    forced_to_write = switch.forced is Mode.READ_WRITE and not switch.overridden
    return switch.forced is None or forced_to_write


def _do(*steps: Callable[[], object] | None) -> None:
    try:
        for step in steps:
            if step is not None:
                step()
    except BaseException:  # a callback of a flip may exit, and this thread must go on
        extra = fields("watcher_failed")
        logger.exception("The watcher's look failed; it goes on.", extra=extra)


def _watch(reference: weakref.ref[Watcher], end: threading.Event, pause: float) -> None:
    while True:
        over = pause > 0 and end.wait(pause)  # what is overdue is done though it is to end
        began = time.monotonic()  # an answer ages from here on, however long the tick takes
        watcher = reference()
        if watcher is None or watcher._is_orphaned() or (over and watcher._lets_go(end)):
            return
        watcher.tick()
        pause = max(_SHORTEST, began + watcher.interval - time.monotonic())
        del watcher  # or it could not be collected while this waits
