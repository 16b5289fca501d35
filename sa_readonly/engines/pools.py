"""Pools that count: each connection is known from the moment it is asked for until it is closed.

``Pool.checkedout()`` is not enough for that. It knows nothing of what is detached, nor of what a
pool that keeps none has given out, and it starts anew with each pool, while connections of the one
before may still be in use.
"""

from __future__ import annotations

import logging
import time
import weakref
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool, StaticPool

from ..errors import ReadOnlyError
from ..telemetry import fields
from . import loops, privates
from .checkins import EndingPool
from .classes import become, grow
from .dialects import is_in_memory
from .uses import UNNOTED, Trace, Use

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, Pool

    Loop = asyncio.AbstractEventLoop | None

try:
    import ctypes
except ImportError:  # a Python that was built without libffi
    ctypes = None  # type: ignore[assignment]  # without it they are kept until the interpreter ends

__all__ = [
    "CountedPool",
    "Counting",
    "Ledger",
    "Open",
    "count_by",
    "forget_idle",
    "has_connected_for_ever",
    "holds_database",
    "keep_for_parent",
    "mix_in",
    "mixed",
    "open_pool",
    "outlive",
    "uncounted",
]

logger = logging.getLogger("sa_readonly")


class Open(NamedTuple):
    """A connection that is open or in the making.

    :param loop: its event loop, if it has one.
    :param reference: a weak reference by which its end is noticed, if there can be one.
    :param use: where it is noted that it is in use.
    """

    loop: Loop
    reference: object
    use: Use


class Ledger:
    """The connections of one engine, and the event loop of each that has one."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        # By the identity of each connection, or that of its creation. A dict: one change is atomic.
        self.connections: dict[object, Open] = {}
        self._closing: dict[int, tuple[Pool, DBAPIConnection, Loop]] = {}
        self._retired: dict[object, float] = {}
        self._traces: dict[object, Trace] = {}

    def trace(self, by: object, trace: Trace | None, *, also_open: bool) -> None:
        """Note in a trace which connections are in use, or go on without.

        :param by: the worker that wants it.
        :param also_open: whether those, too, that are open already.
        """
        if trace is None:
            self._traces.pop(by, None)
            return
        self._traces[by] = trace  # first: what is asked for from now on notes it by itself
        for found in list(self.connections.values()) if also_open else ():
            found.use.note(trace)

    def note(self, use: Use) -> None:
        """Note a connection in every trace, which is asked for and stands among the others."""
        for trace in list(self._traces.values()):
            use.note(trace)

    def opened(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry | None,
        use: Use | None = None,
    ) -> None:
        """Count a connection until it is closed, or collected as garbage, which closes it too.

        :param record: None if it was asked for past the pool.
        :param use: where it is noted that it is in use, until then.
        """
        key, connections = id(connection), self.connections
        self._closed(key)  # a closed connection had the same identity
        self._retired.pop(key, None)

        # It holds no ledger, as that is held by what may outlive the engine.
        def dropped(reference: object) -> None:
            if connections.get(key, _NONE).reference is reference:
                _give_up(connections, key)

        loop = None
        watched: Any = connection
        if self._dialect.is_async:
            loop, watched = loops.running(), self._dialect.get_driver_connection(connection)
        try:
            reference: object = weakref.ref(watched, dropped)
        except TypeError:  # as sqlite3's of a creator=; unless it is detached, its record can be
            # Without a reference it is counted until it is closed through its pool.
            reference = record and weakref.ref(record, dropped)
        self.connections[key] = Open(loop, reference, use or Use())

    def detached(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        """Go on counting a connection whose record is used for another."""
        found = self.connections.get(id(connection), _NONE)
        found.use.is_detached = True
        if isinstance(found.reference, weakref.ref) and found.reference() is record:
            self.connections[id(connection)] = found._replace(reference=None)

    def lost(
        self, connection: DBAPIConnection, _: ConnectionPoolEntry, error: BaseException | None
    ) -> None:
        """Have it noted for good that a connection was in use that is closed as of no more use.

        An error, or what stopped its user, may have come in the middle of a statement, which the
        server goes on with. What a ping finds broken was idle, and what is refused was not sent.
        """
        if not isinstance(error, (DisconnectionError, ReadOnlyError)):
            self.connections.get(id(connection), _NONE).use.leave()

    def close(
        self, pool: Pool, connection: DBAPIConnection, gently: Callable[[], None], *, at_once: bool
    ) -> None:
        """Close a connection in whatever thread this is called, and count it until that is done.

        :param gently: closes it as SQLAlchemy does, which for an async driver means awaiting.
        :param at_once: whether nothing may be awaited.
        """
        key = id(connection)
        if not self._dialect.is_async:
            try:
                gently()
            finally:
                self._closed(key)
            return
        loop = self.connections.get(key, _NONE).loop
        loop = loop or loops.loop_of(self._dialect, connection)
        self._closing[key] = (pool, connection, loop)
        try:
            if not at_once and privates.in_greenlet() and loop is loops.running():
                gently()
                self._closing.pop(key, None)
                self._closed(key)
        finally:  # a cancellation may have come before it was closed
            loops.call(loop, partial(self._hang_up, key))

    def _hang_up(self, key: int) -> None:
        pool, connection, loop = self._closing.pop(key, (None, None, None))
        if pool is None or connection is None:
            return
        try:
            pool.logger.debug("Hanging up connection %r", connection)
            loops.hang_up(self._dialect, connection, loop)
        except Exception:
            extra = fields("close_failed")
            logger.exception("Exception closing connection %r.", connection, extra=extra)
        finally:
            self._closed(key)

    def _closed(self, key: int) -> None:
        found = self.connections.pop(key, None)
        if found is not None:
            found.use.end()

    def sweep(self) -> None:
        """Close in this thread what was left to a loop that does not run any more."""
        for key, (_, _, loop) in list(self._closing.items()):
            if loop is None or not loop.is_running():
                self._hang_up(key)

    def retire(self) -> None:
        """Note that all connections of now belong to a retired pool."""
        now = time.time()
        for key in list(self.connections):
            self._retired.setdefault(key, now)

    @property
    def retired(self) -> list[float]:
        """The wall-clock times at which the connections that are still open were retired."""
        for key in list(self._retired):
            if key not in self.connections:
                self._retired.pop(key, None)
        return list(self._retired.values())

    def leave(self) -> None:
        """In a forked child: count nothing that is the parent's."""
        for found in self.connections.values():
            found.use.leave()
        self.connections.clear()
        self._retired.clear()
        self._closing.clear()

    def a_loop(self) -> Loop:
        """Return a loop that runs and has a connection, or None."""
        for loop, *_ in list(self.connections.values()):
            if loop is not None and loop.is_running():
                return loop
        return None


_NONE = Open(None, None, UNNOTED)


def _give_up(connections: dict[object, Open], key: object) -> None:
    """Count a connection no more that was collected, or of which nothing can be known any more."""
    use = connections.pop(key, _NONE).use
    if use.is_detached:  # it may have been given up: see Ledger.lost()
        use.leave()
    use.end()


def outlive(connections: dict[object, Open]) -> None:
    """Go on counting, of an engine that is gone with its pools, what is kept as the driver's own.

    It may be in use, by code that has it without all that SQLAlchemy had around it.
    """
    for key, found in list(connections.items()):
        if isinstance(found.reference, weakref.ref) and found.reference() is not None:
            found.use.begin()
            found.use.is_detached = True
        else:
            _give_up(connections, key)


# -- pools -----------------------------------------------------------------------------------


class Counting(NamedTuple):
    """What this package attaches to a counted pool, and ``recreate()`` hands to the new one."""

    ledger: Ledger
    create: Callable[..., DBAPIConnection]  # the creator that does not count
    door: Any = None  # see doors.py


class CountedPool(EndingPool):
    """A pool that closes its connections through the ledger."""

    _sa_readonly: Counting
    _sa_readonly_retired = False

    def sa_readonly_close(
        self, connection: DBAPIConnection, gently: Callable[[], None], *, terminate: bool
    ) -> None:
        # What comes back to a retired pool is idle. What is terminated may be in the middle of a
        # statement, which the driver has the server cancel before it closes.
        at_once = (self._sa_readonly_retired or self._sa_readonly_hangs_up) and not terminate
        self._sa_readonly.ledger.close(self, connection, gently, at_once=at_once)

    def recreate(self) -> Pool:
        made: Any = super().recreate()
        made._sa_readonly = self._sa_readonly
        grow(made)
        return made  # type: ignore[no-any-return]  # a Pool


def count_by(
    pool: Pool,
    ledger: Ledger,
    create: Callable[..., DBAPIConnection],
    kind: type[CountedPool] = CountedPool,
    door: Any = None,
) -> None:
    """Have a pool connect by this creator, which counts, and close through the ledger.

    :param kind: the class that is mixed into the pool's.
    """
    made: Any = pool
    made._sa_readonly = Counting(ledger, privates.creator(pool), door)
    privates.set_creator(pool, create)
    event.listen(pool, "detach", ledger.detached)
    event.listen(pool, "invalidate", ledger.lost)
    # At once what it will be: another thread may be making one like it.
    mix_in(pool, getattr(pool, "sa_readonly_counts", kind))


def mix_in(pool: Pool, kind: type[Any]) -> None:
    """Give a pool the class that is its own with another one mixed in, which takes what was."""
    become(pool, mixed(type(pool), kind))  # type: ignore[arg-type]  # mypy doubts that a class can be a key of @cache


def uncounted(engine: Engine) -> Pool:
    """Return a new pool that is as an engine's was before it counted."""
    made: Any = open_pool(engine).recreate()
    counting: Counting | None = vars(made).pop("_sa_readonly", None)
    if counting is not None:
        become(made, getattr(made, "_sa_readonly_base", type(made)))
        privates.set_creator(made, counting.create)
    return made  # type: ignore[no-any-return]  # a Pool


@cache
def mixed(base: type[Pool], kind: Any) -> type[Any]:
    """Return the subclass of a pool's class with another one mixed in, in the place of a former."""
    theirs: Any = getattr(base, "_sa_readonly_base", base)
    if theirs is not base:
        return mixed(theirs, kind)
    # SQLAlchemy names a pool's logger after the module and name of its class.
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (kind, base), {"_sa_readonly_base": base, **names})


# -- what is done to a pool ------------------------------------------------------------------


def open_pool(engine: Engine) -> Pool:
    """Return the pool of an engine; while its door is shut, the one that is used afterwards."""
    return getattr(engine.pool, "sa_readonly_successor", engine.pool)


def holds_database(engine: Engine) -> bool:
    """True if the pool *is* the database, which is lost with its connections."""
    return isinstance(open_pool(engine), StaticPool) or is_in_memory(engine.url)


def has_connected_for_ever(engine: Engine) -> bool:
    """True if there is the one connection of a StaticPool.

    It may have been made before the pool counted, or by the process that forked this one.
    """
    pool = open_pool(engine)
    return isinstance(pool, StaticPool) and bool(privates.kept_records(pool))


def forget_idle(engine: Engine) -> None:
    """Have the connections that lie idle made anew."""
    pool = engine.pool
    if not isinstance(pool, QueuePool) or not pool.checkedin():
        return
    if not engine.dialect.is_async or privates.in_greenlet():
        engine.dispose()
        return
    engine.dispose(close=False)
    for record in privates.take_idle(pool):
        connection = record.dbapi_connection
        if connection is not None:
            loop = loops.loop_of(engine.dialect, connection)
            loops.call(loop, partial(loops.hang_up, engine.dialect, connection, loop))


_parents: list[Pool] = []


def keep_for_parent(*pools: Pool) -> None:
    """In a forked child, keep the parent's pools for ever, also while the interpreter ends.

    Collected as garbage, a connection of asyncpg, mysqlclient or MySQL Connector would say good-bye
    to the server in the parent's name, or shut the socket that the two share.
    """
    if not _parents and ctypes is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_parents))
    _parents.extend(pools)
