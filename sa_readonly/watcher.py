"""The thread that notices a flip when no traffic does."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .mode import Switch

__all__ = ["Watcher", "watcher_of"]

logger = logging.getLogger("sa_readonly")

_JOIN = 1.0  # seconds for which a fork waits for a thread whose stat hangs


class Watcher:
    """One daemon thread of one process, which looks at one switch and then does what is due.

    It is no part of what keeps the mode right: every transaction looks for itself. The thread ends
    when the last subscriber has gone; waiting on a lock, it does not delay the exit. A forked child
    has none until its own first :meth:`start`.

    :param switch: what to look at, every half of its ``ttl`` (0.05 seconds where it has none).
    """

    def __init__(self, switch: Switch) -> None:
        self._switch = weakref.ref(switch)
        self._interval = max(getattr(switch, "ttl", 0.1) / 2, 0.01)
        self._due: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._thread: threading.Thread | None = None
        self._new_process()

    def _new_process(self) -> None:
        # Also in a forked child: a thread of the parent may hold what was there before.
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = None

    def subscribe(self, due: Callable[[], None]) -> None:
        """Have a bound method called after each look, while its owner lives."""
        self._due = [*self._due, weakref.WeakMethod(due)]

    def unsubscribe(self, due: Callable[[], None]) -> None:
        """Call it no more; without any subscriber the thread ends at once."""
        self._due = [one for one in self._due if one() not in (None, due)]
        if not self._due:
            self.stop()

    @property
    def running(self) -> bool:
        """True if the thread lives in this very process."""
        thread = self._thread
        return self._pid == os.getpid() and thread is not None and thread.is_alive()

    def start(self) -> None:
        """Start the thread unless it runs."""
        if self._pid != os.getpid():
            self._new_process()
        with self._lock:
            if self.running or not self._due:
                return
            self._end = threading.Event()
            self._thread = threading.Thread(
                target=_watch,
                args=(weakref.ref(self), self._end, self._interval),
                name="sa_readonly",
                daemon=True,
            )
            self._thread.start()
        _with_forks(self)

    def stop(self, timeout: float | None = None) -> bool:
        """End the thread and wait until it has gone; True if there was one."""
        thread = self._thread
        if not self.running or thread is None:
            return False
        self._end.set()
        if thread is not threading.current_thread():
            thread.join(timeout)
        return True

    def look(self) -> None:
        """Look once and do what is due; what that raises is logged."""
        switch = self._switch()
        try:
            if switch is not None:
                switch.refresh()
        except Exception:
            logger.exception("The watcher's look failed; it goes on.")
        for method in self._due:
            try:
                if due := method():
                    due()
            except Exception:
                logger.exception("What was due after the watcher's look failed; it goes on.")

    def _orphaned(self) -> bool:
        return self._switch() is None or all(method() is None for method in self._due)


def _watch(reference: weakref.ref[Watcher], end: threading.Event, interval: float) -> None:
    while not end.wait(interval):
        watcher = reference()
        if watcher is None or watcher._orphaned():
            return
        watcher.look()
        del watcher  # or it could not be collected while this waits


# -- one watcher a switch --------------------------------------------------------------------

_watchers: weakref.WeakKeyDictionary[Switch, Watcher] = weakref.WeakKeyDictionary()
_finding = threading.Lock()


def watcher_of(switch: Switch) -> Watcher:
    """Return the watcher that all selectors with this switch share in this process."""
    with _finding:
        watcher = _watchers.get(switch)
        if watcher is None:
            watcher = _watchers[switch] = Watcher(switch)
        return watcher


# -- forks -----------------------------------------------------------------------------------
#
# From Python 3.12 on a fork warns while another thread runs. So the threads stop before it, and
# start again in the parent. The hooks are set with the first thread: importing does nothing.

_started: weakref.WeakSet[Watcher] = weakref.WeakSet()
_stopped: list[Watcher] = []
_hooked = False


def _with_forks(watcher: Watcher) -> None:
    global _hooked  # noqa: PLW0603  # a hook can't be taken back, so it is set once a process
    _started.add(watcher)
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
        )


def _before_fork() -> None:
    _stopped.extend(watcher for watcher in list(_started) if watcher.stop(_JOIN))


def _after_in_parent() -> None:
    while _stopped:
        _stopped.pop().start()


def _after_in_child() -> None:
    global _finding  # noqa: PLW0603  # a thread of the parent may hold it
    _finding = threading.Lock()
    _stopped.clear()
