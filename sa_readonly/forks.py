"""What belongs to a fork: one hook, locks of each process's own, and a latch.

A forked child has only the thread that forked. A lock that another thread of the parent held at
that moment stays locked in the child for ever, so each process makes its own. And what the parent
has open, connections and lock files, stays the parent's: the child leaves it alone.

The hook is :func:`os.register_at_fork`. A fork made by C code may run no hooks (uWSGI's, unless it
is told to), so whatever is used first in a child calls :func:`follow`, which does the same once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .telemetry import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Latch", "PerProcess", "follow", "is_mine", "locked", "subscribe"]

logger = logging.getLogger("sa_readonly")

T = TypeVar("T")


# -- locks -----------------------------------------------------------------------------------


class PerProcess(Generic[T]):
    """A value that each process makes for itself when it first asks: ``own = PerProcess(RLock)``.

    Calling it returns the value of this process: ``with own(): ...``. All threads get the same one.

    :param make: makes the value. Two threads that ask first at the same time may both call it; one
        of the two values is thrown away.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[int, T] = {}  # by process id

    def __call__(self) -> T:
        pid = os.getpid()
        try:
            return self._values[pid]
        except KeyError:
            pass
        value = self._values.setdefault(pid, self._make())
        for other in list(self._values):
            if other != pid:  # an ancestor's; its process id may be given out again
                self._values.pop(other, None)
        return value


def is_mine(lock: Any) -> bool:
    """True if this thread holds the ``RLock``."""
    return lock._is_owned()  # type: ignore[no-any-return]  # untyped; there since Python 2


@contextlib.contextmanager
def locked(lock: Any, timeout: float = -1) -> Iterator[bool]:
    """Hold an ``RLock``, and release it whatever happens; yields whether it was acquired in time.

    A signal handler may raise between any two steps of a ``with`` statement, so what decides about
    the release is whether the thread holds the lock.

    :param timeout: seconds to wait at most; -1 waits without end.
    """
    nested, taken = is_mine(lock), False
    try:
        taken = lock.acquire(timeout=timeout)
        yield taken
    finally:
        if taken or (not nested and is_mine(lock)):
            lock.release()


class Latch:
    """Has work done by one thread at a time without making any other wait.

    A thread that comes while another one is at work makes that one do it once more, and goes on. So
    does the working thread itself where the work leads here again.
    """

    def __init__(self) -> None:
        self._lock = PerProcess(threading.RLock)
        self._asked = False

    def run(self, work: Callable[[], object]) -> None:
        """Have the work done after this call began: by this thread, or by the one at work.

        :param work: the same for every call on one latch.
        """
        self._asked = True
        lock: Any = self._lock()
        if is_mine(lock):
            return
        try:
            while self._asked and lock.acquire(blocking=False):
                self._asked = False
                work()
                lock.release()
        finally:
            if is_mine(lock):  # the work raised, or a signal handler did between two steps
                lock.release()


# -- the hook --------------------------------------------------------------------------------

# By a reference to its object. Not a WeakMethod, which fails where its own callback lets it go
# while its class is collected, too.
_Methods = dict["weakref.ref[Any]", "Callable[[Any], object]"]

_before: _Methods = {}
_in_parent: _Methods = {}
_in_child: _Methods = {}
_last_in_child: _Methods = {}
_ALL = (_before, _in_parent, _in_child, _last_in_child)
_pid: int | None = None  # the process whose subscribers have been told; None before the first
_following: int | None = None  # the process that is just telling them
_telling = PerProcess(threading.RLock)


def subscribe(
    *,
    before: Callable[[], object] | None = None,
    in_parent: Callable[[], object] | None = None,
    in_child: Callable[[], object] | None = None,
    last_in_child: Callable[[], object] | None = None,
) -> None:
    """Have bound methods called around each fork, in the order in which they were subscribed.

    Their objects are held weakly: one that is collected is forgotten. What a method raises is
    logged.

    :param before: called before the fork, if hooks run: in the reverse order, as what subscribed
        later may use what did so earlier, and must not start it again.
    :param in_parent: called after it in the parent, if hooks run.
    :param in_child: called once in the child: by the hook or, without one, by :func:`follow`. The
        locks that it needs must be of this process, see :class:`PerProcess`.
    :param last_in_child: called after all ``in_child``, when no subscriber has anything left of the
        parent's: it may use the others.
    """
    global _pid  # noqa: PLW0603  # a hook can't be taken back, so it is set once a process
    told = (before, in_parent, in_child, last_in_child)
    for methods, method in zip(_ALL, told, strict=True):
        if method is not None:
            bound: Any = method
            methods[weakref.ref(bound.__self__, _forget)] = bound.__func__
    if _pid is None:
        _pid = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=lambda: _call(_before, last_first=True),
                after_in_parent=lambda: _call(_in_parent),
                after_in_child=follow,
            )


def follow() -> None:
    """In a forked child, have the subscribers told, once; it costs one ``getpid()`` elsewhere.

    It returns when they all have been told, unless one of them leads here.
    """
    global _pid, _following  # noqa: PLW0603  # as each process has one process id
    pid = os.getpid()
    if _pid is None or _pid == pid:
        return
    with _telling():
        if pid not in (_pid, _following):
            _following = pid
            _call(_in_child)
            _call(_last_in_child)
            _pid = pid  # last: until then another thread of the child waits here


def _call(methods: _Methods, *, last_first: bool = False) -> None:
    references = list(methods)  # a garbage collection may take one out at any moment
    for reference in reversed(references) if last_first else references:
        subscriber, method = reference(), methods.get(reference)
        if subscriber is not None and method is not None:
            try:
                method(subscriber)
            except BaseException:  # the others must be called all the same
                extra = fields("fork_failed")
                logger.exception("What was to be done at a fork failed.", extra=extra)


def _forget(reference: weakref.ref[Any]) -> None:
    for methods in _ALL:
        methods.pop(reference, None)
