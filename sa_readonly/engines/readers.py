"""The pools of read-only engines: each connection is locked when it is made, and when it returns.

There are two kinds of such engines: the application's own, and twins, which are made of a
read-write engine where there is none.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.pool import QueuePool

from .. import forks
from ..telemetry import fields
from . import guard, locks, loops, privates, protection, shared, sqlite
from .checkins import close_idle
from .cursors import guard_cursors
from .dialects import family, holds_file, row
from .pools import (
    CountedPool,
    Ledger,
    count_by,
    forget_idle,
    holds_database,
    keep_for_parent,
    open_pool,
    uncounted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, Pool

__all__ = ["Reader", "TwinEngine"]

logger = logging.getLogger("sa_readonly")


class Reader:
    """Locks the pool of a read-only engine of the application's, and unlocks it at the end.

    There is one for an engine, made by the first :meth:`of` and kept by the engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locking: _Locking | None = None
        self._old = _OldPools(Ledger(engine.dialect))
        if not holds_database(engine):
            forks.subscribe(in_child=self.leave_to_parent)
            if holds_file(engine):
                event.listen(engine.pool, "checkin", self._returned)

    @classmethod
    def of(cls, engine: Engine) -> Reader:
        """Return the reader of an engine."""
        reader: Reader | None = vars(engine).get("_sa_readonly_reader")
        if reader is None:
            reader = engine._sa_readonly_reader = cls(engine)  # type: ignore[attr-defined]  # this package adds it
        return reader

    def lock(self) -> None:
        """Lock what the pool has, when the engine has become a read-only one."""
        engine = self._engine
        self._forget()  # it was connected without the locks
        self._change_kept(_lock_kept)
        if self._locking is None:
            self._locking = _Locking(engine.pool, engine.dialect)
        self._locking.lock_at_checkout(engine.pool)

    def unlock(self) -> None:
        """Unlock it, when the engine is a read-only one no more."""
        self._forget()
        self._change_kept(sqlite.unlock)

    def _forget(self) -> None:
        """Have all connections made anew: what is in use is closed as it comes back."""
        pool = self._engine.pool
        in_use = isinstance(pool, QueuePool) and pool.checkedout() > 0
        if in_use and not holds_database(self._engine):
            self.renew()
            self.close_old()
        else:
            forget_idle(self._engine)

    def _change_kept(self, change: Callable[[Any, Any], None]) -> None:
        """Change what a pool keeps that can't be forgotten: it may be the database itself."""
        dialect: Any = self._engine.dialect
        for record in privates.kept_records(self._engine.pool):
            if record.dbapi_connection is None:
                continue
            if family(dialect) != "sqlite":
                record.invalidate(soft=True)  # it is made anew when it is next asked for
            elif privates.in_greenlet() or not dialect.is_async:
                # Another thread's connection can't be reached; it is changed when it comes back.
                with contextlib.suppress(dialect.dbapi.ProgrammingError):
                    change(dialect, record.dbapi_connection)

    def let_go(self) -> None:
        """Close what is idle of an engine that keeps writers from its file."""
        if holds_file(self._engine) and not guard.serves(self._engine):
            close_idle(self._engine.pool)

    def renew(self) -> None:
        """Go on with an empty pool. Short: nothing is closed here, but by :meth:`close_old`."""
        if not holds_database(self._engine):
            self._old.renew(self._engine)

    def close_old(self) -> None:
        """Close what is idle in the pools of before; what is in use is closed as it comes back."""
        self._old.close()

    def _returned(self, _: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        switches = () if guard.serves(self._engine) else guard.told(self._engine)
        if switches and not any(switch.known.read_only for switch in switches):
            record.close()  # as let_go() did with those that were idle at the flip

    def leave_to_parent(self) -> None:
        """In a forked child: see :meth:`.Door.leave_to_parent`."""
        self._old.leave()
        keep_for_parent(self._engine.pool)
        self._engine.dispose(close=False)


class TwinEngine(privates.OwnPoolEngine):
    """A read-only engine made of another one: its creator, events and options, and an own pool.

    It passes for one of SQLAlchemy's own: polars tells an engine by the module of its class.

    :param engine: a gated one.
    :param gated: whether it is taken away with the other one, or stays while read-only.
    :param create: what connects, if not the creator of the other one.
    :param shares: whether the two pools are one to whatever listens to them, also from now on.
    """

    __module__ = privates.OwnPoolEngine.__base__.__module__

    def __init__(
        self,
        engine: Engine,
        *,
        gated: bool,
        create: Callable[..., DBAPIConnection] | None = None,
        shares: bool = False,
    ) -> None:
        dialect, pool = protection.twin(engine, gated=gated), uncounted(engine)
        self._of = engine
        super().__init__(engine, dialect, pool)
        self.ledger = Ledger(dialect)
        if shares:
            pool.dispatch = open_pool(engine).dispatch
        connect = create or privates.creator(pool)

        def for_twin(connection_record: ConnectionPoolEntry | None) -> DBAPIConnection:
            with locks.making_for_twin():
                return connect(connection_record)

        privates.set_creator(pool, for_twin)
        self._old = _OldPools(self.ledger)
        among = self.ledger.connections if shares else None
        _Locking(pool, dialect, among).lock_at_checkout(pool)
        if not gated:  # a gated one has a door, which counts
            self._count(self._old.ledger)
        forks.subscribe(in_child=self.leave_to_parent)

    @property
    def url(self) -> URL:
        """The address of the engine that it is made of, which may change."""
        return self._of.url

    @url.setter
    def url(self, url: URL) -> None:
        """Do nothing: SQLAlchemy sets that of a clone once."""

    def _count(self, ledger: Ledger) -> None:
        """Note the loop of each connection, so that it can be closed from any thread."""
        pool = self.pool
        create = privates.creator(pool)

        def noted(connection_record: ConnectionPoolEntry | None = None) -> DBAPIConnection:
            connection = create(connection_record)
            ledger.opened(connection, connection_record)
            return connection

        count_by(pool, ledger, noted)

    def renew(self) -> None:
        """See :meth:`.Reader.renew`. It is for a twin that no door renews."""
        self._old.renew(self)

    def close_old(self) -> None:
        """See :meth:`.Reader.close_old`."""
        self._old.close()

    def leave_to_parent(self) -> None:
        """In a forked child: see :meth:`.Door.leave_to_parent`."""
        self._old.leave()
        keep_for_parent(self.pool)
        self.dispose(close=False)


class _OldPools:
    """The pools that a read-only engine had before: unlike a read-write one's, they go on serving.

    A transaction that has such a connection keeps it, and a thread that has just come to such a
    pool is given one; it is closed when it comes back.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._pools: deque[Pool] = deque()

    def renew(self, engine: Engine) -> None:
        pool: Any = engine.pool
        engine.pool = pool.recreate()
        if not isinstance(pool, CountedPool):  # so that a connection can be closed in any thread
            count_by(pool, self.ledger, privates.creator(pool))
        pool._sa_readonly_retired = True
        # A dispatch of its own, as another thread may be walking through the old one.
        model: Any = CountedPool.recreate(pool)
        event.listen(model, "checkin", _close_returned)
        pool.dispatch = model.dispatch
        self._pools.append(pool)

    def close(self) -> None:
        while self._pools:
            pool = self._pools.popleft()
            loop = privates.loop_of_queue(pool) or self.ledger.a_loop()
            loops.call(loop, partial(close_idle, pool))

    def leave(self) -> None:
        """In a forked child: leave all of them to the parent."""
        keep_for_parent(*self._pools)
        self._pools.clear()
        self.ledger.leave()


def _close_returned(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.close()


# -- locking ---------------------------------------------------------------------------------


def _lock_kept(dialect: Any, dbapi_connection: Any) -> None:
    locks.lock_again(dialect, dbapi_connection)
    guard_cursors(dialect, dbapi_connection)


class _Locking:
    """Locks the connections of a pool while its engine is a read-only one.

    It stays for good: ``Pool.recreate()`` takes listeners along.

    :param among: by identity, the connections that are to be locked, where the listeners are told
        of others, too.
    """

    def __init__(
        self, pool: Pool, dialect: Any, among: Mapping[object, object] | None = None
    ) -> None:
        self._dialect = dialect
        self._among = among
        self._at_checkout = False
        self._create = privates.creator(pool)
        privates.set_creator(pool, self._connect)
        event.listen(pool, "checkin", self._returned)
        event.listen(pool, "close", self._left)
        event.listen(pool, "close_detached", self._left)
        # Last: what the application's listeners send to a new connection is not examined.
        event.listen(pool, "connect", self._ready)

    @property
    def _is_on(self) -> bool:
        return isinstance(self._dialect, guard.ReadOnly)

    def _locks(self, dbapi_connection: object) -> bool:
        among = self._among
        return self._is_on and (among is None or id(dbapi_connection) in among)

    def _connect(self, connection_record: ConnectionPoolEntry | None = None) -> Any:
        connection = self._create(connection_record)
        if not self._is_on:
            return connection
        # Here, and not in a listener: one of the application's, for "first_connect" or put in
        # before all others later on, would come first, and may write, or leave a transaction open,
        # in which psycopg2's attribute can't be set.
        try:
            if connection_record is None:
                # It was asked for past the pool, and no listener will be told of it.
                locks.lock_new(self._dialect, connection)
                guard_cursors(self._dialect, connection)
            else:
                self._lock_new(connection, connection_record)
        except BaseException:
            with contextlib.suppress(Exception):  # what is raised tells more
                self._dialect.do_close(connection)
            raise
        return connection

    def _lock_new(self, dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        dialect = self._dialect
        shared.take_off(dialect, dbapi_connection)
        before = partial(locks.unlock, dialect, dbapi_connection)
        shared.borrow(dialect, dbapi_connection, before)
        locks.lock_new(dialect, dbapi_connection)
        if dialect._sa_readonly_family == "sqlite":
            sqlite.watch(dialect, dbapi_connection, record)

    def _ready(self, dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        dialect = self._dialect
        if not self._locks(dbapi_connection):
            return
        if dialect._sa_readonly_family != "sqlite":
            locks.lock_ready(dialect, dbapi_connection)
        guard_cursors(dialect, dbapi_connection)
        for what in sqlite.skipped(record, lambda ask: row(dbapi_connection, ask)[0]):
            if what not in dialect._sa_readonly_skipped:
                dialect._sa_readonly_skipped = (*dialect._sa_readonly_skipped, what)
                logger.warning(
                    '`%s` in a "connect" listener is skipped on read-only connections, as it may '
                    "write into the database. The rest of the listener is done.",
                    what,
                    extra=fields("listener_skipped", statement=what),
                )

    def lock_at_checkout(self, pool: Pool) -> None:
        """Lock each connection that is given out, too, where the pooler needs that.

        Elsewhere there is no such listener: it would cost each checkout.
        """
        if self._dialect._sa_readonly_pooler == "session" and not self._at_checkout:
            self._at_checkout = True
            event.listen(pool, "checkout", self._given_out, insert=True)

    def _given_out(
        self, dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry, _: object
    ) -> None:
        if self._locks(dbapi_connection) and self._dialect._sa_readonly_pooler == "session":
            locks.set_default(dbapi_connection)

    def _returned(
        self, dbapi_connection: DBAPIConnection | None, record: ConnectionPoolEntry
    ) -> None:
        dialect = self._dialect
        if dbapi_connection is None or not isinstance(dialect, guard.ReadOnly):
            return
        if self._among is not None and id(dbapi_connection) not in self._among:
            return
        put_back = locks.lock_again
        if dialect._sa_readonly_family == "sqlite":
            if getattr(dbapi_connection, "_sa_readonly_answer", None) is sqlite.answer:
                return  # nothing can have opened this lock
            if sqlite.keeps(dbapi_connection):
                put_back = _lock_kept
        try:
            put_back(dialect, dbapi_connection)
        except Exception as error:  # noqa: BLE001  # it would keep the record out for ever
            record.invalidate(error)
        except BaseException as error:  # an interrupt goes on, but the record keeps its place
            record.invalidate(error)
            privates.give_back(record)
            raise

    def _left(
        self, dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry | None = None
    ) -> None:
        # Also when the engine was released: another pool may take the connection back.
        dialect = self._dialect
        if self._among is not None and id(dbapi_connection) not in self._among:
            return
        if dialect._sa_readonly_family != "sqlite":
            shared.take_off_leaving(dialect, dbapi_connection)
        elif not sqlite.keeps(dbapi_connection) and (
            not dialect.is_async or privates.in_greenlet()
        ):
            with contextlib.suppress(Exception):  # it may be another thread's
                sqlite.unlock(dialect, dbapi_connection)
