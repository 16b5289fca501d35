"""The door of a read-write engine: shut while read-only, with the old pool retired for good."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import AssertionPool, Pool, QueuePool, SingletonThreadPool, StaticPool
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util import queue
from sqlalchemy.util.concurrency import in_greenlet

from .. import forks
from ..errors import ReadOnlyError
from ..mode import Mode
from . import guard, loops, shared
from .dialects import holds_file

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Dialect, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    _Loop = asyncio.AbstractEventLoop | None
    _Held = tuple[_Loop, object]

__all__ = ["Door", "TwinEngine", "count", "holds_database"]

logger = logging.getLogger("sa_readonly")

_A_CONNECTION = ("A read-write connection", "connection")
_READ_ONLY = Mode.READ_ONLY  # an attribute of a class of enum is slow, in Python 3.11
_PATIENCE = 1.0  # seconds to wait for another switch that turns the same door


class _Ledger:
    """The connections of one engine, and the loop of each that has one."""

    def __init__(self) -> None:
        # By the identity of each connection, or that of its creation. A dict: one change is atomic.
        self.held: dict[object, _Held] = {}
        self._closing: dict[int, tuple[Pool, DBAPIConnection, _Loop]] = {}
        self._retired: dict[object, float] = {}

    def opened(
        self, dialect: Dialect, connection: DBAPIConnection, record: ConnectionPoolEntry | None
    ) -> None:
        """Count a connection until it is closed, or collected, which closes what somebody lost.

        :param record: None if it was asked for past the pool.
        """
        key = id(connection)
        self._retired.pop(key, None)  # another one had it, which is closed

        def dropped(reference: object) -> None:
            if self.held.get(key, (None, None))[1] is reference:
                del self.held[key]

        loop = None
        lost: Any = connection
        if dialect.is_async:
            loop, lost = loops.running(), dialect.get_driver_connection(connection)
        try:
            self.held[key] = (loop, weakref.ref(lost, dropped))
        except TypeError:  # sqlite3's can't be referred to; unless it is detached, its record can
            # Without one it is never known to be closed, and so is counted to the end.
            self.held[key] = (loop, record and weakref.ref(record, dropped))

    def detached(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        """Go on counting a connection whose record is used for another."""
        loop, reference = self.held.get(id(connection), (None, None))
        if isinstance(reference, weakref.ref) and reference() is record:
            self.held[id(connection)] = (loop, None)

    def close(
        self, pool: Pool, connection: DBAPIConnection, gently: Callable[[], None], *, at_once: bool
    ) -> None:
        """Close a connection wherever this is called, and count it until that is done.

        :param gently: closes it as SQLAlchemy does, which for an async driver means awaiting.
        :param at_once: whether nothing may be awaited.
        """
        key = id(connection)
        if not pool._dialect.is_async:
            try:
                gently()
            finally:
                self.held.pop(key, None)
            return
        loop = self.held.get(key, (None, None))[0] or loops.loop_of(_dialect(pool), connection)
        self._closing[key] = (pool, connection, loop)
        try:
            if not at_once and in_greenlet() and loop is loops.running():
                gently()
                self._closing.pop(key, None)
                self.held.pop(key, None)
        finally:  # or it was interrupted before it was closed
            loops.call(loop, partial(self._hang_up, key))

    def _hang_up(self, key: int) -> None:
        pool, connection, loop = self._closing.pop(key, (None, None, None))
        if pool is None or connection is None:
            return
        try:
            pool.logger.debug("Hanging up connection %r", connection)
            loops.hang_up(_dialect(pool), connection, loop)
        except Exception:
            logger.exception("Exception closing connection %r.", connection)
        finally:
            self.held.pop(key, None)

    def sweep(self) -> None:
        """Close here what a loop was to close that does not run any more."""
        for key, (_, _, loop) in list(self._closing.items()):
            if loop is None or not loop.is_running():
                self._hang_up(key)

    def retire(self) -> None:
        """Note that those of now belong to a retired pool."""
        now = time.time()
        for key in list(self.held):
            self._retired.setdefault(key, now)

    @property
    def retired(self) -> list[float]:
        """Since when each of those is that, in wall-clock seconds, unless it is closed."""
        for key in list(self._retired):
            if key not in self.held:
                self._retired.pop(key, None)
        return list(self._retired.values())

    def leave(self) -> None:
        """Know of nothing: all is the parent's."""
        self.held.clear()
        self._retired.clear()
        self._closing.clear()

    def a_loop(self) -> _Loop:
        """Return a loop that runs and has a connection, or None."""
        running = (loop for loop, _ in list(self.held.values()) if loop and loop.is_running())
        return next(running, None)


def _dialect(pool: Pool) -> Dialect:
    return pool._dialect  # type: ignore[return-value]  # typed as what a pool needs of it


class _Counted(Pool):
    """What a counted pool does otherwise: it closes through the ledger of its creator."""

    _sa_readonly_retired = False

    def _close_connection(self, connection: DBAPIConnection, *, terminate: bool = False) -> None:
        ledger: _Ledger = self._creator.ledger  # type: ignore[union-attr]  # ours
        gently = partial(super()._close_connection, connection, terminate=terminate)
        # What comes back to a retired pool is idle. What is terminated may be in the middle of a
        # statement, which the driver has the server cancel before it closes.
        at_once = self._sa_readonly_retired and not terminate
        ledger.close(self, connection, gently, at_once=at_once)

    def dispose(self) -> None:
        super().dispose()
        if isinstance(self, QueuePool):
            # Nobody would close what comes back now, but a garbage collection, which tells nobody.
            self._do_return_conn = _close_record  # type: ignore[method-assign]  # for this one

    def _create_connection(self) -> ConnectionPoolEntry:
        vars(self).pop("_do_return_conn", None)  # it is in use again
        return super()._create_connection()


def _close_record(record: ConnectionPoolEntry) -> None:
    record.close()


@cache
def _counted(base: type[Pool], kind: Any) -> type[Any]:
    """Return the subclass of a pool's class that counts; ``recreate()`` makes another of it."""
    theirs: Any = getattr(base, "_sa_readonly_base", base)
    if theirs is not base:
        return _counted(theirs, kind)
    # Its names name its logger.
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (kind, base), {"_sa_readonly_base": base, **names})


class _Asking(_Counted):
    """The pool of a read-write engine: what it gives out is given back if that is too late.

    It asks when it has the connection, for which one may wait for a long time.
    """

    def connect(self) -> PoolProxiedConnection:
        proxied = super().connect()
        door: Door = self._creator_arg.door  # type: ignore[union-attr]  # ours; no property
        try:
            for switch in door.engine.dialect._sa_readonly_gates:  # type: ignore[attr-defined]  # ours
                if time.monotonic() >= switch.fresh_until or switch.known.mode is _READ_ONLY:
                    guard.ask(door.engine, *_A_CONNECTION)
        except BaseException as error:
            proxied.close()
            if isinstance(error, ReadOnlyError):
                door.tell_refusal(error)
            raise
        return proxied


class ClosedPool(Pool):
    """The pool of a read-write engine while read-only: it refuses.

    It stands in ``engine.pool``, so that it covers the engine's clones and survives a
    ``dispose()``. Listeners that are added meanwhile go to its successor.
    """

    def __init__(self, successor: Pool, door: Door) -> None:
        super().__init__(
            successor._creator,
            echo=successor.echo,
            logging_name=successor._orig_logging_name,
            dialect=successor._dialect,
        )
        self.successor = successor
        self.dispatch = successor.dispatch
        self._door = door

    def connect(self) -> PoolProxiedConnection:
        engine = self._door.engine
        guard.ask(engine, *_A_CONNECTION)
        if engine.pool is self:
            raise self._door.refusal()
        return engine.pool.connect()  # it was over, and is noticed now

    def _do_get(self) -> ConnectionPoolEntry:
        raise self._door.refusal()

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
        self.after_refusal: tuple[Callable[[], None], ...] = ()
        """What is called when a connection is closed that came too late to be given out."""
        self._shut_by: dict[object, None] = {}
        self._retired: dict[Pool, _Loop] = {}  # with the loop that was asked to sweep it, or None
        # Pools of before that had something out, and since when they are retired.
        self._older: dict[Pool, float] = {}
        self._ledger = _Ledger()
        self._lock = forks.PerProcess(threading.RLock)
        self._keep = holds_database(engine)
        self._in_memory = _in_memory(engine)
        engine.dialect._sa_readonly_keeps = self._keep  # type: ignore[attr-defined]  # ours
        if not self._keep:
            self._replace_older(engine.pool)
        self._count(engine.pool)
        forks.subscribe(in_child=self.leave_to_parent)

    @classmethod
    def of(cls, engine: Engine) -> Door:
        """Return the door of an engine or, which is the same, of its clones."""
        engine = _unwrapped(engine)
        door: Door | None = vars(engine).get("_sa_readonly_door")
        if door is None:
            door = engine._sa_readonly_door = cls(engine)  # type: ignore[attr-defined]  # ours
        return door

    def refusal(self) -> ReadOnlyError:
        """Return the error that refuses a connection."""
        return guard.refused_connection(self.engine)

    @property
    def is_shut(self) -> bool:
        """True if it gives out no connection."""
        return bool(self._shut_by)

    @property
    def held(self) -> int:
        """How many connections there are, or will be."""
        if self._in_memory:
            return 0
        pool = self.engine.pool
        if isinstance(pool, ClosedPool):
            pool = pool.successor
        held = len(self._ledger.held) + sum(connections_out(older) for older in list(self._older))
        # A StaticPool may have connected before it was counted.
        return held or int(isinstance(pool, StaticPool) and "connection" in vars(pool))

    @property
    def idle(self) -> int:
        """How many of them are surely not in use."""
        pool = self.engine.pool
        if self._keep:
            return 0
        if isinstance(pool, QueuePool):
            return pool.checkedin()
        if isinstance(pool, (SingletonThreadPool, AssertionPool)):
            return len(self._ledger.held) - connections_out(pool)
        return 0

    @property
    def retired(self) -> list[float]:
        """Since when, in wall-clock seconds, each of those is retired that an old pool made."""
        retired = self._ledger.retired
        for pool, since in list(self._older.items()):
            retired += [since] * connections_out(pool)
        return retired

    def shut(self, by: object) -> None:
        """Give out no connection from now on. Short: nothing is closed here.

        :param by: whose reason it is; it stays shut while there is any.
        """
        with self._locked():
            self._shut_by[by] = None
            pool = self.engine.pool
            if isinstance(pool, ClosedPool):
                return
            # The successor is made first: it takes the listeners along, and none of a retired pool.
            self.engine.pool = ClosedPool(pool if self._keep else pool.recreate(), self)
            if not self._keep:
                self._retire(pool)

    def open(self, by: object) -> None:
        """Take back one reason; without any, connections of a fresh pool are given out again."""
        with self._locked():
            self._shut_by.pop(by, None)
            pool = self.engine.pool
            if not self._shut_by and isinstance(pool, ClosedPool):
                self.engine.pool = pool.successor

    def close_idle(self) -> None:
        """Close what is not in use, and go on with a fresh pool."""
        if not self._keep and not self.is_shut:
            self.shut(self)
            self.open(self)
            self.sweep()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one switch at a time turn it, as an engine may stand in selectors of several."""
        # Not for ever: a log handler of the pool's may wait for a switch that waits for this.
        with forks.locked(self._lock(), _PATIENCE):
            yield

    def _replace_older(self, pool: Pool) -> None:
        """Begin with a pool that counts each connection, and count what is out of the old one."""
        if self.engine.dialect.is_async or not connections_out(pool):
            guard.forget_idle(self.engine)
            return
        self.engine.pool = pool.recreate()
        event.listen(pool, "checkin", _close_returned)
        _close_idle(pool)
        self._older[pool] = time.time()

    def _count(self, pool: Pool) -> None:
        create: Callable[[Any], DBAPIConnection] = pool._invoke_creator
        ledger = self._ledger
        held, dialect = ledger.held, self.engine.dialect

        # Without a record where engine.pool._creator() is called, as SQLAlchemy's own may be.
        def counted(connection_record: ConnectionPoolEntry | None = None) -> DBAPIConnection:
            try:
                return connect(connection_record)
            except ReadOnlyError as error:
                self.tell_refusal(error)
                raise

        def connect(connection_record: ConnectionPoolEntry | None) -> DBAPIConnection:
            forks.follow()
            self._prepare()
            creation = object()
            held[creation] = (None, None)
            try:
                self._prepare()  # again: who was just forgetting this process has not seen it
                if self.is_shut:
                    raise self.refusal()
                guard.ask(self.engine, *_A_CONNECTION)
                connection = create(connection_record)
                ledger.opened(dialect, connection, connection_record)
                try:
                    guard.ask(self.engine, *_A_CONNECTION)
                    shared.take_off(dialect, connection)
                except BaseException:
                    close = partial(dialect.do_close, connection)
                    # Not the first pool, which this would keep.
                    ledger.close(self.engine.pool, connection, close, at_once=True)
                    raise
                return connection
            finally:
                del held[creation]

        counted.uncounted = create  # type: ignore[attr-defined]  # for a twin
        counted.door = self  # type: ignore[attr-defined]  # which the pool asks
        _write_down(pool, ledger, counted, _Asking)

    def tell_refusal(self, error: ReadOnlyError) -> None:
        """Have it told that a connection was refused, and is closed by now."""
        with guard.uncounted(self.engine, error):  # a read may be served elsewhere
            for tell in self.after_refusal:
                tell()

    def _prepare(self) -> None:
        for prepare in self.before_connect:
            prepare()

    def sweep(self) -> None:
        """Close what lies idle in the retired pools, and forget those that have nothing out.

        The queue of an async pool belongs to a loop; where one runs, it is swept there.
        """
        self._ledger.sweep()
        for pool in list(self._older):
            if not connections_out(pool):
                self._older.pop(pool, None)
        for pool, asked in list(self._retired.items()):
            loop = _loop_of(pool) or self._ledger.a_loop()
            if loop is None or not loop.is_running():
                self._sweep(pool)
            elif asked is not loop:  # or it has not come to that yet
                self._retired[pool] = loop
                loops.call(loop, partial(self._sweep, pool))

    def _sweep(self, pool: Pool) -> None:
        if pool not in self._retired:
            return
        self._retired[pool] = None
        _close_idle(pool)
        if connections_out(pool) == 0:
            self._retired.pop(pool, None)

    def leave_to_parent(self) -> None:
        """In a forked child: begin without connections, as all there are are the parent's.

        It is what SQLAlchemy tells to do by hand: ``engine.dispose(close=False)``.
        """
        self._forget()
        if not self._keep:
            self.engine.dispose(close=False)

    def _forget(self) -> None:
        if self.engine.dialect.is_async:
            # Collected, a connection of asyncpg would say good-bye to the server in the parent's
            # name; so it never is.
            _parents.extend((*self._retired, self.engine.pool))
        self._retired, self._older = {}, {}
        self._ledger.leave()

    def _retire(self, pool: Pool) -> None:
        def refuse(*_: Any) -> Any:
            raise self.refusal()

        # A thread that has read ``engine.pool`` before may still come. It takes its record first
        # and looks for listeners then; so the listeners are put on before anything is counted. They
        # come with a dispatch of their own, as another thread may be walking through the old one.
        model = pool.recreate()
        event.listen(model, "checkout", refuse, insert=True)
        event.listen(model, "checkin", _close_returned)
        pool.dispatch = model.dispatch
        pool._invoke_creator = refuse  # type: ignore[assignment]  # it takes any argument
        pool._sa_readonly_retired = True  # type: ignore[attr-defined]  # it is a _Counted
        self._retired[pool] = None
        self._ledger.retire()
        _wake(pool)


def _close_returned(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.close()


def _write_down(
    pool: Pool, ledger: _Ledger, creator: Callable[..., DBAPIConnection], kind: type[_Counted]
) -> None:
    """Have a pool connect by this creator, and close through its ledger."""
    creator.ledger = ledger  # type: ignore[attr-defined]  # recreate() takes the creator along
    pool._creator = creator
    event.listen(pool, "detach", ledger.detached)
    pool.__class__ = _counted(type(pool), kind)  # type: ignore[arg-type]  # it is hashable


def _loop_of(pool: Pool) -> _Loop:
    """Return the loop in which somebody has waited in the queue of an async pool, or None."""
    if isinstance(pool, QueuePool) and pool._is_asyncio:
        return getattr(pool._pool._queue, "_loop", None)  # type: ignore[attr-defined]  # asyncio's
    return None


def _wake(pool: Pool) -> None:
    """Let those who wait in the pool's queue come out, to be refused one by one."""
    if not isinstance(pool, QueuePool) or pool._max_overflow < 0:
        return
    if not pool._is_asyncio:
        _put_ghost(pool)
    elif (loop := _loop_of(pool)) is not None and loop.is_running():
        loops.call(loop, partial(_put_ghost, pool))


def _put_ghost(pool: QueuePool) -> None:
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
            while True:
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


def count(engine: Engine) -> tuple[int, int, list[float]]:
    """Return how many connections of an engine are in use and idle, and since when others retired.

    Each is counted once. Of an engine that is never taken away those are known that its pool keeps.
    """
    engine = _unwrapped(engine)
    door: Door | None = vars(engine).get("_sa_readonly_door")
    if door is None:
        pool = engine.pool
        idle = pool.checkedin() if isinstance(pool, QueuePool) else 0
        return connections_out(pool), idle, []
    held, idle, retired = door.held, door.idle, door.retired
    in_use = max(0, held - idle - len(retired))  # they were not counted at one moment
    return in_use, idle, retired


def _unwrapped(engine: Engine) -> Engine:
    """Return the engine whose pool this one has."""
    while isinstance(engine, OptionEngine) and not isinstance(engine, TwinEngine):
        engine = engine._proxied
    return engine


def holds_database(engine: Engine) -> bool:
    """True if the pool *is* the database, which is lost with its connections."""
    pool = engine.pool
    if isinstance(pool, ClosedPool):
        pool = pool.successor
    return isinstance(pool, StaticPool) or _in_memory(engine)


def _in_memory(engine: Engine) -> bool:
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
        guard.set_at_checkout(pool, self.dialect)
        if not gated:  # or its door counts
            _note(pool, self.dialect)
        self._own_pool = pool
        forks.subscribe(in_child=self.leave_to_parent)

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


def _note(pool: Pool, dialect: Dialect) -> None:
    """Note the loop of each connection, so that it can be closed from anywhere."""
    create: Callable[[Any], DBAPIConnection] = pool._invoke_creator
    ledger = _Ledger()

    def noted(connection_record: ConnectionPoolEntry | None = None) -> DBAPIConnection:
        connection = create(connection_record)
        ledger.opened(dialect, connection, connection_record)
        return connection

    _write_down(pool, ledger, noted, _Counted)


# -- forks -----------------------------------------------------------------------------------


class Reader:
    """A read-only engine of the user's: in a forked child it begins without connections, too."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        if not holds_database(engine) and not hasattr(engine, "_sa_readonly_reader"):
            engine._sa_readonly_reader = self  # type: ignore[attr-defined]  # ours
            forks.subscribe(in_child=self.leave_to_parent)
            if holds_file(engine):
                event.listen(engine.pool, "checkin", self._returned)

    def _returned(self, _: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        engine = self._engine()
        switches = () if engine is None or guard.serves(engine) else guard.told(engine)
        if switches and not any(switch.known.read_only for switch in switches):
            record.close()  # as let_go() did with those that were idle at the flip

    def let_go(self) -> None:
        """Close what is idle of an engine that keeps writers from its file."""
        engine = self._engine()
        if engine is not None and holds_file(engine) and not guard.serves(engine):
            _close_idle(engine.pool)

    def leave_to_parent(self) -> None:
        """See :meth:`Door.leave_to_parent`."""
        engine = self._engine()
        if engine is not None:
            if engine.dialect.is_async:
                _parents.append(engine.pool)
            engine.dispose(close=False)


_parents: list[Pool] = []
