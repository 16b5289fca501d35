"""All that is touched of SQLAlchemy's private names, each where its use is explained.

Each was seen, as it is used here, in 2.0.40 and in 2.1.9, the oldest and the newest release that is
supported. ``tests/test_privates.py`` has a test for each, which falls where another release does
otherwise. All else that is touched is public: events, ``Pool.recreate()``, methods of dialects.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine.base import Connection, OptionEngine
from sqlalchemy.engine.default import DefaultDialect, DefaultExecutionContext
from sqlalchemy.inspection import _inspects
from sqlalchemy.orm.session import SessionTransactionState
from sqlalchemy.pool import AssertionPool, Pool, QueuePool, SingletonThreadPool, StaticPool
from sqlalchemy.pool.base import _AdhocProxiedConnection, _ConnectionRecord
from sqlalchemy.util import EMPTY_DICT, await_only, greenlet_spawn, queue
from sqlalchemy.util.concurrency import in_greenlet as _in_greenlet

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy.engine import Dialect, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

    Creator = Callable[..., DBAPIConnection]

__all__ = [
    "CONNECTION_OF_ADAPTED_CURSOR",
    "INITIALIZES",
    "ClosingPool",
    "Ghost",
    "OwnPoolEngine",
    "add_to_isolation_level",
    "apply_options_by_own_dialect",
    "as_flushing",
    "await_only",
    "close_detached",
    "commits",
    "connected",
    "connections_out",
    "creator",
    "disconnect",
    "give_back",
    "greenlet_spawn",
    "idle_records",
    "in_greenlet",
    "initialize",
    "inspect_by",
    "kept_records",
    "loop_of_queue",
    "may_wait",
    "on_connection_of",
    "ping_statement",
    "put_ghost",
    "quoting",
    "refuse_creation",
    "set_creator",
    "take_idle",
    "tell_async_engines",
    "unwrapped",
]


def in_greenlet() -> bool:
    """True in a greenlet of SQLAlchemy's, which may await.

    SQLAlchemy 2.1 brings no greenlet, and its own function raises where it is not installed.
    """
    return sys.modules.get("greenlet") is not None and _in_greenlet()


# -- pools -----------------------------------------------------------------------------------


def creator(pool: Pool) -> Creator:
    """Return what a pool calls to connect: with a record, even if ``creator=`` takes none."""
    return pool._invoke_creator


def set_creator(pool: Pool, create: Creator) -> None:
    """Have a pool connect by ``create``, with a record, and what its ``recreate()`` makes."""
    # Not by SQLAlchemy's setter, which looks long at what ``create`` takes.
    pool._creator_arg = pool._invoke_creator = create


def refuse_creation(pool: Pool, refuse: Callable[..., Any]) -> None:
    """Have a pool refuse to connect. One that its ``recreate()`` makes keeps the creator."""
    pool._invoke_creator = refuse


class ClosingPool(Pool):
    """A pool that tells :meth:`sa_readonly_close` instead of closing a connection.

    There is no event in which a connection can be closed otherwise than SQLAlchemy does it.
    """

    def sa_readonly_close(
        self, connection: DBAPIConnection, gently: Callable[[], None], *, terminate: bool
    ) -> None:
        """Close a connection.

        :param gently: closes it as SQLAlchemy does, which for an async driver means awaiting.
        :param terminate: whether it may be in use, by a statement that is to be cancelled.
        """
        raise NotImplementedError

    def _close_connection(self, connection: DBAPIConnection, *, terminate: bool = False) -> None:
        gently = partial(super()._close_connection, connection, terminate=terminate)
        self.sa_readonly_close(connection, gently, terminate=terminate)

    def dispose(self) -> None:
        super().dispose()
        if isinstance(self, QueuePool):
            # SQLAlchemy would put what comes back into a queue that is asked no more. This is no
            # listener, as recreate() takes those along.
            self._do_return_conn = _ConnectionRecord.close  # type: ignore[assignment, method-assign]  # for this pool alone

    def _create_connection(self) -> ConnectionPoolEntry:
        if vars(self).get("_do_return_conn") is _ConnectionRecord.close:
            del self._do_return_conn  # the pool is used after its dispose() all the same
        record = _ConnectionRecord(self, connect=False)
        try:
            record.get_connection()
        except BaseException:
            # SQLAlchemy before 2.0.53 leaves open what a listener of "connect" failed on.
            connection, record.dbapi_connection = record.dbapi_connection, None
            if connection is not None:
                self._close_connection(connection, terminate=True)
            raise
        return record


def give_back(record: ConnectionPoolEntry) -> None:
    """Give a record its place in the pool back, where an interrupted check-in would lose it."""
    record._ConnectionRecord__pool._return_conn(record)  # type: ignore[attr-defined]


def connections_out(pool: Pool) -> int:
    """Return how many connections are checked out of a pool that it will keep: of NullPool none."""
    if isinstance(pool, QueuePool):
        return pool.checkedout()
    if isinstance(pool, SingletonThreadPool):
        return sum(record.in_use for record in list(pool._all_conns))
    if isinstance(pool, AssertionPool):
        return int(pool._checked_out)
    return 0


def kept_records(pool: Pool) -> list[ConnectionPoolEntry]:
    """Return the records of a pool that keeps connections otherwise than in a queue."""
    records: list[Any] = []
    if isinstance(pool, StaticPool):
        records = [vars(pool).get("connection")]  # reading it would connect
    elif isinstance(pool, SingletonThreadPool):
        records = list(pool._all_conns)
    elif isinstance(pool, AssertionPool):
        records = [pool._conn]
    return [record for record in records if record is not None]


def idle_records(pool: Pool) -> list[ConnectionPoolEntry]:
    """Return the kept records that are not in use; of a StaticPool none, as its one may be."""
    if isinstance(pool, StaticPool):
        return []
    checked_out = isinstance(pool, AssertionPool) and pool._checked_out
    return [record for record in kept_records(pool) if not (checked_out or record.in_use)]


def take_idle(pool: QueuePool, before: float | None = None) -> Iterator[ConnectionPoolEntry]:
    """Take the idle records out of a pool's queue, one by one; ghosts stay.

    The pool counts each as closed, so that its ``checkedout()`` is right all the time.

    :param before: those that have connected later stay, too; in wall-clock seconds.
    """
    kept = []
    try:
        while True:
            record: Any = pool._pool.get(False)
            if isinstance(record, Ghost) or (before and record.last_connect_time >= before):
                kept.append(record)
                continue
            yield record
            pool._dec_overflow()
    except queue.Empty:
        pass
    finally:
        for record in kept:
            pool._pool.put(record, False)


class Ghost(_ConnectionRecord):
    """A record without a connection: the thread that takes it asks the creator for one."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool, connect=False)


def put_ghost(pool: QueuePool) -> None:
    """Wake a thread that waits in a pool's queue: give it a ghost.

    Where the creator refuses, SQLAlchemy puts the ghost back, and so the next thread wakes.
    """
    with pool._overflow_lock:
        pool._overflow += 1
    try:
        pool._pool.put(Ghost(pool), False)
    except queue.Full:
        pool._dec_overflow()


def may_wait(pool: QueuePool) -> bool:
    """True if a thread may wait in a pool's queue: there is a limit to its connections."""
    return pool._max_overflow >= 0


def loop_of_queue(pool: Pool) -> asyncio.AbstractEventLoop | None:
    """Return the loop in which a task has waited in the queue of an async pool, or None."""
    waiting = getattr(getattr(pool, "_pool", None), "_queue", None)  # a QueuePool's asyncio.Queue
    return getattr(waiting, "_loop", None)


# -- engines and connections -----------------------------------------------------------------

INITIALIZES = "_initialize"
"""The argument of ``create_engine()`` that ``create_pool_from_url()`` sets to False."""


class OwnPoolEngine(OptionEngine):
    """A clone of an engine, as by ``execution_options()``, with a pool and a dialect of its own."""

    def __init__(self, engine: Engine, dialect: Dialect, pool: Pool) -> None:
        super().__init__(engine, {})
        self.dialect = dialect
        pool._dialect = dialect
        self._own_pool = pool

    @property
    def pool(self) -> Pool:
        return self._own_pool

    @pool.setter
    def pool(self, pool: Pool) -> None:
        self._own_pool = pool


def unwrapped(engine: Engine) -> Engine:
    """Return the engine whose pool this one has: a clone shares that of its original."""
    while isinstance(engine, OptionEngine) and not isinstance(engine, OwnPoolEngine):
        engine = engine._proxied
    return engine


def disconnect(connection: Connection) -> None:
    """Have SQLAlchemy treat what is raised next as the loss of the connection.

    It would close the cursor first, of which the driver has no connection any more, and log that.
    """
    connection._is_disconnect = True


def close_detached(connection: Connection) -> None:
    """Close the driver's connection of one that is detached, through the pool that it had.

    ``invalidate()`` would let it go only, and so it would be open until a garbage collection.
    """
    proxied: Any = connection.connection
    if proxied.is_detached:
        proxied._pool._close_connection(proxied.dbapi_connection)


CONNECTION_OF_ADAPTED_CURSOR = "_adapt_connection"
"""The attribute of a cursor, of SQLAlchemy's adapters of async drivers, that holds the adapter."""


def on_connection_of(context: DefaultExecutionContext) -> Any:
    """Return the connection, as its pool gave it out, on which a statement runs."""
    return context._dbapi_connection


def inspect_by(cls: type[Any], found: Callable[[Any], Any]) -> None:
    """Have ``sqlalchemy.inspect()`` return for objects of a class what a function does."""
    _inspects(cls)(found)


# -- dialects --------------------------------------------------------------------------------


def commits(dialect: Dialect) -> bool:
    """True if ``isolation_level="AUTOCOMMIT"`` was given to ``create_engine()``."""
    return getattr(dialect, "_on_connect_isolation_level", None) == "AUTOCOMMIT"


def initialize(engine: Engine, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Have a dialect learn of its server, as it does on the first connection of its engine."""
    off: Any = dict.fromkeys(("_has_events", "_allow_revalidate", "_allow_autobegin"), False)
    made: Any = Connection(engine, _AdhocProxiedConnection(connection, record), **off)
    made._execution_options = EMPTY_DICT
    engine.dialect.initialize(made)


def quoting(dialect: Dialect) -> tuple[bool | None, bool]:
    """Return whether a backslash escapes, if known, and whether ``"`` quotes identifiers (MySQL).

    SQLAlchemy found that out on the first connection.
    """
    return (
        getattr(dialect, "_backslash_escapes", None),
        getattr(dialect, "_server_ansiquotes", False),
    )


def ping_statement(dialect: DefaultDialect) -> Any:
    """Return the text by which a dialect pings."""
    return dialect._dialect_specific_select_one


def add_to_isolation_level(base: Any, mixin: type[Any]) -> Mapping[str, Any]:
    """Return the connection characteristics of a dialect's class, the isolation level with a mixin.

    Execution options of connections and of engines come to it, also of engines' clones that were
    made before.
    """
    theirs = base.connection_characteristics
    level = type(theirs["isolation_level"])
    made = type(level.__name__, (mixin, level), {})()
    return theirs.union({"isolation_level": made})  # type: ignore[no-any-return]  # untyped


def apply_options_by_own_dialect(dialect: Any) -> None:
    """Have the options of an engine applied by the dialect of the connection's own engine.

    SQLAlchemy asks the dialect of the engine to which they were given. A twin shares these options
    with its engine, whose dialect would let it write.
    """
    dialect.__dict__["_set_connection_characteristics"] = _apply_options


def _apply_options(connection: Connection, options: Mapping[str, Any]) -> None:
    dialect: Any = connection.engine.dialect
    type(dialect)._set_connection_characteristics(dialect, connection, options)


# -- sessions --------------------------------------------------------------------------------

_ACTIVE = SessionTransactionState.ACTIVE  # a member of an enum is slow to look up in Python 3.11


def connected(session: Any, engine: Engine | Connection) -> Connection | None:
    """Return the connection that a session's transaction has with an engine already, or None.

    Session._connection_for_bind() would return it after five more calls, or raise. They make a
    transaction of ten statements 5 % slower on SQLite.
    """
    transaction = session._transaction
    if (
        transaction is None
        or transaction._state is not _ACTIVE
        or session._trans_context_manager not in (None, transaction)
        or engine not in transaction._connections
    ):
        return None
    return transaction._connections[engine][0]  # type: ignore[no-any-return]  # untyped


@contextlib.contextmanager
def as_flushing(session: Any) -> Iterator[None]:
    """Have a session look inside the block as it does in a flush: a get_bind() may go by that."""
    before, session._flushing = session._flushing, True
    try:
        yield
    finally:
        session._flushing = before


def tell_async_engines(session: Any, engines: Iterable[Any]) -> Callable[[], Any]:
    """Have the AsyncSession of a session, if there is one, know AsyncEngines beside its binds.

    In 2.1 its get_async_bind() finds the AsyncEngine of an engine among its binds alone.

    :return: a reference to the AsyncSession; it gives None where there is none.
    """
    asyncio: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    found: Any = asyncio and asyncio.AsyncSession._retrieve_proxy_for_target(
        session, regenerate=False
    )
    if found is None:
        return lambda: None
    if hasattr(found, "_async_binds"):
        found._async_binds.update((engine, engine) for engine in engines)
        found._invalidate_translate_binds()
    return weakref.ref(found)
