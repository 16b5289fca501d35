"""The door of a read-write engine: shut while read-only, with the old pool retired for good."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import AssertionPool, Pool, QueuePool, SingletonThreadPool, StaticPool
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util import queue

from . import guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from .errors import ReadOnlyError

__all__ = ["Door", "TwinEngine", "holds_database"]


class ClosedPool(Pool):
    """The pool of a read-write engine while read-only: it refuses.

    It stands in ``engine.pool``, so that it covers the engine's clones and survives a
    ``dispose()``. Listeners that are added meanwhile go to its successor.
    """

    def __init__(self, successor: Pool, refuse: Callable[[], ReadOnlyError]) -> None:
        super().__init__(
            successor._creator,
            echo=successor.echo,
            logging_name=successor._orig_logging_name,
            dialect=successor._dialect,
        )
        self.successor = successor
        self.dispatch = successor.dispatch
        self._refuse = refuse

    def connect(self) -> PoolProxiedConnection:
        raise self._refuse()

    def _do_get(self) -> ConnectionPoolEntry:
        raise self._refuse()

    def recreate(self) -> ClosedPool:
        return self

    def dispose(self) -> None:
        """Do nothing: it holds nothing."""

    def status(self) -> str:
        return "ClosedPool: the application is read-only"

    def __getattr__(self, name: str) -> Any:
        # What a monitor asks a pool, such as checkedout(): the successor has nothing out either.
        if name == "successor":
            raise AttributeError(name)
        return getattr(self.successor, name)


class Door:
    """Shuts and opens one read-write engine, and sees its old pools off.

    It knows each connection from the moment at which it is asked for until it is closed: pooled,
    checked out, detached or of a pool that keeps none. That costs nothing a checkout.

    There is one for an engine, made by the first :meth:`of` and kept by the engine, whose clones
    share its pool, and so its door.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.before_connect: tuple[Callable[[], None], ...] = ()
        """What is called before each connection is made."""
        self._shut_by: dict[object, None] = {}
        self._retired: dict[Pool, None] = {}
        self._held: set[object] = set()  # the identity of each connection, or that of its creation
        self._pid = os.getpid()
        self._keep = holds_database(engine)
        if not self._keep:
            guard.forget_idle(engine)  # what was connected before was not counted
        self._count(engine.pool)
        _after_forks(self)

    @classmethod
    def of(cls, engine: Engine) -> Door:
        """Return the door of an engine or, which is the same, of its clones."""
        while isinstance(engine, OptionEngine) and not isinstance(engine, TwinEngine):
            engine = engine._proxied
        door: Door | None = vars(engine).get("_sa_readonly_door")
        if door is None:
            door = engine._sa_readonly_door = cls(engine)  # type: ignore[attr-defined]  # ours
        return door

    def _refuse(self) -> ReadOnlyError:
        return guard.refused_connection(self.engine)

    @property
    def is_shut(self) -> bool:
        """True if it gives out no connection."""
        return bool(self._shut_by)

    @property
    def held(self) -> int:
        """How many connections there are, or will be."""
        return 0 if self._keep else len(self._held)

    @property
    def idle(self) -> int:
        """How many of them are surely not in use."""
        pool = self.engine.pool
        return pool.checkedin() if isinstance(pool, QueuePool) and not self._keep else 0

    def shut(self, by: object) -> None:
        """Give out no connection from now on. Short: nothing is closed here.

        :param by: whose reason it is; it stays shut while there is any.
        """
        self._shut_by[by] = None
        pool = self.engine.pool
        if isinstance(pool, ClosedPool):
            return
        # The successor is made first: it takes the listeners along, and none of a retired pool.
        self.engine.pool = ClosedPool(pool if self._keep else pool.recreate(), self._refuse)
        if not self._keep:
            self._retire(pool)

    def open(self, by: object) -> None:
        """Take back one reason; without any, connections of a fresh pool are given out again."""
        self._shut_by.pop(by, None)
        pool = self.engine.pool
        if not self._shut_by and isinstance(pool, ClosedPool):
            self.engine.pool = pool.successor
            for other in list(self._shut_by):  # one that came in between found it shut still
                self.shut(other)

    def _count(self, pool: Pool) -> None:
        create = pool._invoke_creator
        held = self._held

        def counted(connection_record: ConnectionPoolEntry) -> DBAPIConnection:
            if self._pid != os.getpid():  # where no hook ran at the fork
                self._forget()
            for prepare in self.before_connect:
                prepare()
            creation = object()
            held.add(creation)
            try:
                if self.is_shut:
                    raise self._refuse()
                connection = create(connection_record)
                held.add(id(connection))
                return connection
            finally:
                held.discard(creation)

        def closed(connection: DBAPIConnection, *_: object) -> None:
            held.discard(id(connection))

        counted.uncounted = create  # type: ignore[attr-defined]  # for a twin
        # recreate() takes it along, as it does the listeners.
        pool._creator = counted  # type: ignore[assignment]  # the parameter has another name
        event.listen(pool, "close", closed)
        event.listen(pool, "close_detached", closed)

    def sweep(self) -> None:
        """Close what lies idle in the retired pools, and forget those that have nothing out."""
        for pool in list(self._retired):
            _close_idle(pool)
            if connections_out(pool) == 0:
                self._retired.pop(pool, None)

    def leave_to_parent(self) -> None:
        """In a forked child: begin without connections, as all there are are the parent's.

        It is what SQLAlchemy tells to do by hand: ``engine.dispose(close=False)``.
        """
        if self._pid != os.getpid():
            self._forget()
            if not self._keep:
                self.engine.dispose(close=False)

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._retired = {}
        self._held.clear()

    def _retire(self, pool: Pool) -> None:
        def refuse(*_: Any) -> Any:
            raise self._refuse()

        # A thread that has read ``engine.pool`` before may still come. It takes its record first
        # and looks for listeners then; so the listeners are put on before anything is counted. They
        # come with a dispatch of their own, as another thread may be walking through the old one.
        model = pool.recreate()
        event.listen(model, "checkout", refuse, insert=True)
        event.listen(model, "checkin", _close_returned)
        pool.dispatch = model.dispatch
        pool._invoke_creator = refuse  # type: ignore[assignment]  # it takes any argument
        self._retired[pool] = None
        _wake(pool)


def _close_returned(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.close()


def _wake(pool: Pool) -> None:
    """Let the threads that wait in the pool's queue come out, to be refused one by one."""
    if isinstance(pool, QueuePool) and not pool._is_asyncio and pool._max_overflow > -1:
        with pool._overflow_lock:
            pool._overflow += 1
        try:
            pool._pool.put(_Ghost(pool), False)
        except queue.Full:
            pool._dec_overflow()


class _Ghost(_ConnectionRecord):
    """A record without a connection: whoever takes it asks the creator, which refuses."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool, connect=False)


def _close_idle(pool: Pool) -> None:
    """Close what is not in use, and that alone; ``Pool.dispose()`` would spoil the count."""
    if isinstance(pool, QueuePool):
        ghosts = []
        with contextlib.suppress(queue.Empty):
            while not pool._is_asyncio:
                record = pool._pool.get(False)
                if isinstance(record, _Ghost):
                    ghosts.append(record)
                    continue
                record.close()
                pool._dec_overflow()
        for ghost in ghosts:
            pool._pool.put(ghost, False)
    elif isinstance(pool, SingletonThreadPool):
        for record in list(pool._all_conns):
            if not record.in_use:
                record.close()
    elif isinstance(pool, AssertionPool) and pool._conn is not None and not pool._checked_out:
        pool._conn.close()


def connections_out(pool: Pool) -> int:
    """Return how many connections of a retired pool are checked out and will come back to it.

    A pool that keeps none, as NullPool, closes them itself when they come back.
    """
    if isinstance(pool, QueuePool):
        return pool.checkedout()
    if isinstance(pool, SingletonThreadPool):
        return sum(record.in_use for record in list(pool._all_conns))
    if isinstance(pool, AssertionPool):
        return int(pool._checked_out)
    return 0


def holds_database(engine: Engine) -> bool:
    """True if the pool *is* the database, which is lost with its connections."""
    pool = engine.pool
    if isinstance(pool, ClosedPool):
        pool = pool.successor
    if isinstance(pool, StaticPool):
        return True
    if engine.dialect.name != "sqlite":
        return False
    database = engine.url.database or ""
    return (
        database in ("", ":memory:")
        or database.startswith("file::memory:")
        or "mode=memory" in database
        or engine.url.query.get("mode") == "memory"
    )


class TwinEngine(OptionEngine):
    """A read-only engine beside another one: its creator, events and options, and an own pool.

    :param gated: whether it is taken away with the other one, or stays while read-only.
    """

    def __init__(self, engine: Engine, *, gated: bool) -> None:
        super().__init__(engine, {})
        self.dialect = guard.twin(engine, gated=gated)
        pool = engine.pool
        pool = (pool.successor if isinstance(pool, ClosedPool) else pool).recreate()
        pool._dialect = self.dialect
        create = getattr(pool._creator, "uncounted", pool._invoke_creator)
        pool._creator = guard.creator_for_twin(create)  # type: ignore[assignment]  # the parameter's name
        guard.lock(pool, self.dialect)
        self._own_pool = pool
        _after_forks(self)

    @property
    def pool(self) -> Pool:
        """The pool of this engine alone; an OptionEngine shares its parent's."""
        return self._own_pool

    @pool.setter
    def pool(self, pool: Pool) -> None:
        self._own_pool = pool

    def leave_to_parent(self) -> None:
        """In a forked child: begin with an empty pool, as the user's engines do by dispose()."""
        self.dispose(close=False)


# -- forks -----------------------------------------------------------------------------------

_left: weakref.WeakSet[Door | TwinEngine] = weakref.WeakSet()
_hooked = False


def _after_forks(one: Door | TwinEngine) -> None:
    global _hooked  # noqa: PLW0603  # a hook can't be taken back, so it is set once a process
    _left.add(one)
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked = True
        os.register_at_fork(after_in_child=_leave_to_parent)


def _leave_to_parent() -> None:
    for one in list(_left):
        one.leave_to_parent()
