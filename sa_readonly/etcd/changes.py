"""A watch that hastens what reads anyway: what it tells proves nothing, and it may be silent."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import weakref
from typing import TYPE_CHECKING

from .. import forks
from .errors import EtcdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .records import Store
    from .values import Event
    from .watch import Watch

    Tell = Callable[[tuple[Event, ...]], object]

__all__ = ["Changes", "Follower"]

_COALESCED = 0.05  # seconds within which several changes are one
_AGAIN, _LONGEST = 1.0, 30.0  # seconds until a watch that ended is begun again: the first, the last
_REQUEST = 5.0  # seconds for a request
_STEP = 10.0  # seconds after which a thread looks whether it is still wanted
_JOIN = 1.0  # seconds for which a fork waits for the thread


class Follower:
    """One daemon thread of one process, which follows a watch while it is kept.

    It tells nothing, an empty tuple, when the watch has just begun, as a change may have come
    before. A forked child has no thread until it is kept there, too.

    :param store: the client that is asked.
    :param key: what is watched.
    :param tell: a bound method that is called in the thread with what has changed. It is held
        weakly: once its object is collected, the thread ends.
    :param prefix: whether all keys that begin with it are watched.
    """

    def __init__(self, store: Store, key: str, tell: Tell, *, prefix: bool = False) -> None:
        self._store, self._key, self._prefix = store, key, prefix
        self._tell = weakref.WeakMethod(tell)
        self._lock = forks.PerProcess(threading.Lock)
        self._forget()
        forks.subscribe(
            before=self._before_fork, in_parent=self._start_again, in_child=self._forget
        )

    def _forget(self) -> None:
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._watch: Watch | None = None
        self._kept = False

    def keep(self, kept: bool) -> None:
        """Have the thread run, or end."""
        self._kept = kept
        thread = self._thread
        if not kept:
            self._end()
        elif thread is None or not thread.is_alive() or self._over.is_set():
            self._start()

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread, which is over."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _start(self) -> None:
        with self._lock():
            if self._thread is not None and self._thread.is_alive() and not self._over.is_set():
                return
            self._over, self._watch = threading.Event(), None
            thread = threading.Thread(
                target=self._follow, args=(self._over,), name="sa_readonly changes", daemon=True
            )
            with contextlib.suppress(RuntimeError):  # none can be started: nothing is hastened
                thread.start()
                self._thread = thread

    def _end(self) -> None:
        self._over.set()
        watch = self._watch
        if watch is not None:
            watch.end()

    def _before_fork(self) -> None:
        # From Python 3.12 on a fork warns while another thread runs.
        self._end()
        self.join(_JOIN)

    def _start_again(self) -> None:
        if self._kept:
            self._start()

    def _follow(self, over: threading.Event) -> None:
        pause = _AGAIN
        while not over.is_set():
            if not self._store.answers:  # a fork would wait while this asks in vain
                over.wait(_AGAIN * random.uniform(0.5, 1.5))  # noqa: S311  # spreads them, no secret
                continue
            client = self._store.client
            try:
                with client.watch(self._key, prefix=self._prefix, timeout=_REQUEST) as watch:
                    if over is self._over:  # else another thread has begun since
                        self._watch = watch
                    events: tuple[Event, ...] | None = ()
                    while not over.is_set():
                        tell = self._tell()
                        if tell is None:
                            return
                        if events is not None:
                            tell(events)
                        del tell  # or its object could not be collected while this waits
                        events = watch.read(_STEP) or None
                        pause = _AGAIN
            except EtcdError:  # it is away, or the member has lost its leader, or it is not allowed
                pass
            # Many processes lose their watch at once where a member goes.
            over.wait(pause * random.uniform(0.5, 1.5))  # noqa: S311  # spreads them, no secret
            pause = min(_LONGEST, 2 * pause)


class Changes:
    """Tells that an entry has changed: for what reads each second anyway, and need not sooner.

    Used as a context manager, in which a thread follows a watch.

    :param store: the key.
    """

    def __init__(self, store: Store) -> None:
        self._changed = threading.Event()
        # Of the entries alone, as an operator's rights are on these, and not on all that begins
        # with the key.
        self._follower = Follower(store, store.workers, self._tell, prefix=True)

    def wait(self, timeout: float) -> bool:
        """Wait until something has changed since the last call; a burst of changes is one.

        :param timeout: seconds to wait at most.
        :return: whether something has changed.
        """
        if not self._changed.wait(timeout):
            return False
        time.sleep(min(_COALESCED, timeout))
        self._changed.clear()
        return True

    def __enter__(self) -> Changes:
        self._follower.keep(True)
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.keep(False)
        self._follower.join(_REQUEST)

    def _tell(self, _events: tuple[Event, ...]) -> None:
        self._changed.set()
