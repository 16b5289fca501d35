"""Which connections are in use, in memory that may outlive the process.

A process that is killed, or ends by ``os._exit()`` as a child that was forked for one job, tells
nothing at its end. What it noted before is all there is: a byte for each connection, which is 1
before it can be used and 0 once it lies idle in its pool. To note that is an assignment to an item,
and no system call.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.pool import AssertionPool, Pool, QueuePool, SingletonThreadPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["SIZE", "UNNOTED", "Memory", "NotingPool", "Trace", "Use", "hand_over", "notes_uses"]

SIZE = 1024
"""The bytes of a trace. The first is 1 while others may be missing."""


class Memory(Protocol):
    """As many bytes as :data:`SIZE`."""

    def __setitem__(self, place: int, value: int, /) -> None:
        """Store a 0 or a 1."""


class Trace:
    """The connections of one worker in one process. A forked child has one of its own.

    A place belongs to one connection from its making to its end, so two threads never write to one.
    """

    def __init__(self) -> None:
        self.memory: Memory = bytearray(SIZE)
        self._free = list(range(SIZE - 1, 0, -1))
        self._is_partial = False
        self._pid = os.getpid()

    def move(self, memory: Memory | None) -> None:
        """Have it in other memory from now on; until this returns, the first byte there is 1.

        What has a place is taken to be in use until it is noted the next time that it is not: a
        thread may be writing to the memory of before. That one is in doubt from now on.

        :param memory: as many bytes, the first 1 and the others 0; None takes some that do not
            outlive the process.
        """
        # It is let go and not closed: a thread may just have read the attribute.
        before, memory = self.memory, bytearray(SIZE) if memory is None else memory
        self.memory = memory
        if before is not memory:  # its entry may stay, and nothing is noted there any more
            before[0] = 1
        for place in set(range(1, SIZE)).difference(list(self._free)):
            memory[place] = 1
        if not self._is_partial:  # else a process that ends just now would have said so
            memory[0] = 0
        if self._is_partial or self.memory is not memory:  # another thread doubts, or moved it
            memory[0] = 1

    def doubt(self) -> None:
        """Note for good that a connection may be in use that has no place."""
        self._is_partial = True
        self.memory[0] = 1

    def take(self) -> int | None:
        """Return a place, which is 1 by now; or None if there is none left."""
        try:
            place = self._free.pop()
        except IndexError:
            self.doubt()
            return None
        self.memory[place] = 1
        return place

    def give_back(self, place: int) -> None:
        """Have a place given to another connection, unless it is the parent's.

        A hook of the application's may dispose of an engine in a child before any of this package.
        """
        if self._pid != os.getpid():
            return
        self.memory[place] = 0
        self._free.append(place)


class Use:
    """The places of one connection: one in each trace of its door."""

    __slots__ = ("is_detached", "places")

    def __init__(self) -> None:
        self.places: list[tuple[Trace, int]] = []
        self.is_detached = False

    def note(self, trace: Trace) -> None:
        """Have it noted there, too. Twice does no harm."""
        place = trace.take()
        if place is not None:
            self.places.append((trace, place))

    def begin(self) -> None:
        """Note that it is in use from now on, until it is closed."""
        for trace, place in self.places:
            trace.memory[place] = 1

    def end(self) -> None:
        """Give the places back, each once: the connection is closed."""
        while True:
            try:
                trace, place = self.places.pop()
            except IndexError:
                return
            trace.give_back(place)

    def leave(self) -> None:
        """Write to no place any more: in a forked child they are the parent's, or it stays 1."""
        self.places.clear()


UNNOTED = Use()
"""Of a connection that is taken to be in use until it is closed."""


def notes_uses(pool: Pool) -> bool:
    """True if what comes back to a pool is in use no more; that of a StaticPool may be."""
    return isinstance(pool, (QueuePool, SingletonThreadPool, AssertionPool))


def hand_over(use: Use, record: Any) -> Use:
    """Have the pool note it from now on; returns what is left to end, which is none.

    :param record: of the connection; None if it is taken to be in use until it is closed.
    """
    if record is not None:
        record.sa_readonly_use = use
    return UNNOTED


class NotingPool(Pool):
    """A pool that notes which of its connections are in use.

    It is done before a connection is pinged and before any listener is told of it, and again after
    the last one was: there is no event that comes so early, or so late. A detached connection does
    not come back, so it stays in use.
    """

    def _do_get(self) -> ConnectionPoolEntry:
        record: Any = super()._do_get()
        try:
            for trace, place in record.sa_readonly_use.places:
                trace.memory[place] = 1
        except AttributeError:  # it has not connected since the pool notes, or is no record of one
            pass
        return record  # type: ignore[no-any-return]  # a record, see above

    def _return_conn(self, record: Any) -> None:
        # Without a connection the use is that of one that was detached, or had been closed.
        if record.dbapi_connection is not None:
            try:
                for trace, place in record.sa_readonly_use.places:
                    trace.memory[place] = 0
            except AttributeError:  # see above
                pass
        give_back: Callable[[Any], None] = self._do_return_conn
        give_back(record)
