"""What all queues of a process share: one lock, how many wait, and what a selector is asked."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Protocol, TypedDict

from .. import forks

if TYPE_CHECKING:
    from ..mode import State, Switch

__all__ = ["Asked", "add", "held", "lock", "total"]

lock = forks.PerProcess(threading.RLock)  # a signal handler may notice the flip
"""Of all queues, as ``max_held`` counts what waits in any of them."""


class Asked(Protocol):
    """What a queue asks of its selector."""

    switch: Switch

    @property
    def known(self) -> State:
        """The last answer, whatever its age."""

    @property
    def spent(self) -> bool:
        """True if what writes would wait for a connection, or open one above its pool's size."""

    def refresh(self) -> State:
        """Return an answer that may be used now; it may block."""

    @property
    def watched(self) -> bool:
        """True if a thread looks at the switch."""


class Counted(Protocol):
    """What is counted of a queue."""

    @property
    def held(self) -> tuple[int, float]:
        """How many wait, and for how many seconds the longest has."""


# Under the lock: a weak dictionary that one thread walks through may not grow in another.
_queues: weakref.WeakKeyDictionary[Switch, weakref.WeakSet[Counted]] = weakref.WeakKeyDictionary()


def add(switch: Switch, queue: Counted) -> None:
    """Count a queue from now on, as long as it lives."""
    with forks.locked(lock()):
        _queues.setdefault(switch, weakref.WeakSet()).add(queue)


def total() -> int:
    """Return how many are held in this process, whatever their switch."""
    with forks.locked(lock()):
        return sum(queue.held[0] for queues in _queues.values() for queue in queues)


class Held(TypedDict):
    """Those that are held, as in a report of a worker."""

    held: int
    held_since: float | None  # by the wall clock


def held(switch: Switch) -> Held:
    """Return how many are held for a switch in this process, and since when the longest is."""
    with forks.locked(lock()):
        told = [queue.held for queue in _queues.get(switch, ())]
    number, longest = sum(one for one, _ in told), max((one for _, one in told), default=0.0)
    return {"held": number, "held_since": time.time() - longest if number else None}
