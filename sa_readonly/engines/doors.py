"""The door of a read-write engine: shut while read-only, with the old pool retired for good."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import AssertionPool, Pool, QueuePool, SingletonThreadPool

from .. import forks
from ..errors import ReadOnlyError
from ..mode import Mode, clock
from ..telemetry import fields
from . import guard, privates, protection, rehearsing, shared
from .answers import to_ask
from .checkins import pooled
from .dialects import is_in_memory
from .pools import (
    CountedPool,
    Ledger,
    Open,
    count_by,
    has_connected_for_ever,
    holds_database,
    keep_for_parent,
)
from .retired import OldPools
from .uses import NotingPool, Trace, Use, hand_over, notes_uses

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from .guard import Limit

__all__ = ["AskingPool", "ClosedPool", "Door", "count"]

logger = logging.getLogger("sa_readonly")

_A_CONNECTION = ("A read-write connection", "connection")
_READ_ONLY_MODE = Mode.READ_ONLY  # an attribute of a class of enum is slow, in Python 3.11
_PATIENCE = 1.0  # seconds to wait for another switch that turns the same door


class AskingPool(NotingPool, CountedPool):
    """The pool of a read-write engine: it asks before it gives out a connection.

    It asks when it has the connection, as a thread may have waited for that for a long time.
    """

    def connect(self) -> PoolProxiedConnection:
        proxied = super().connect()
        door: Door = self._sa_readonly.door
        try:
            dialect: Any = door.engine.dialect  # to which this package adds what is asked for
            for switch in dialect._sa_readonly_gates:
                if clock() >= switch.fresh_until or switch.known.mode is _READ_ONLY_MODE:
                    door._prepare()  # a pool that is the database may have connected before
                    guard.ask(door.engine, *_A_CONNECTION)
            if dialect._sa_readonly_notebooks:
                rehearsing.checked_out(door.engine, proxied)
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
            privates.creator(successor),
            echo=successor.echo,
            logging_name=getattr(successor, "logging_name", None),
            dialect=door.engine.dialect,
        )
        self.sa_readonly_successor = successor
        self.dispatch = successor.dispatch
        self._door = door

    def connect(self) -> PoolProxiedConnection:
        engine = self._door.engine
        guard.ask(engine, *_A_CONNECTION)
        if engine.pool is self:
            raise self._door.refusal()
        return engine.pool.connect()  # ask() noticed the flip back, and opened the door

    def recreate(self) -> ClosedPool:
        return self

    def dispose(self) -> None:
        """Do nothing: it holds nothing."""

    def status(self) -> str:
        return "ClosedPool: the application is read-only"

    def __getattr__(self, name: str) -> Any:
        # A monitor may ask engine.pool for checkedout() and the like. The successor answers, which
        # has no connection either.
        if name == "sa_readonly_successor":
            raise AttributeError(name)
        return getattr(self.sa_readonly_successor, name)


class Door:
    """Shuts and opens one engine that is taken away, and sees its old pools off.

    It knows each connection from the moment it is asked for until it is closed: pooled, checked
    out, detached or of a pool that keeps none. That costs nothing at a checkout.

    There is one for an engine, made by the first :meth:`of` and kept by the engine. The engine's
    clones share its pool, and so its door.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.before_connect: tuple[Callable[[], None], ...] = ()
        """What is called before each connection is made."""
        self.after_refusal: tuple[Callable[[], None], ...] = ()
        """What is called when a connection was refused that counted until then."""
        self.said_no = -math.inf
        """The :func:`time.monotonic` time at which the server did not say that it would write."""
        self._shut_by: dict[object, None] = {}
        self.ledger = Ledger(engine.dialect)  # which may outlive the engine
        self._old = OldPools(engine, self.ledger)
        self._pid = os.getpid()
        self._lock = forks.PerProcess(threading.RLock)
        self._keep = holds_database(engine)
        self._in_memory = is_in_memory(engine.url)
        engine.dialect._sa_readonly_keeps = self._keep  # type: ignore[attr-defined]  # this package adds it
        if not self._keep:
            self._old.replace()
        count_by(engine.pool, self.ledger, self._counting(engine.pool), AskingPool, self)
        forks.subscribe(in_child=self.leave_to_parent)

    @classmethod
    def of(cls, engine: Engine) -> Door:
        """Return the door of an engine, which its clones share."""
        engine = privates.unwrapped(engine)
        door: Door | None = vars(engine).get("_sa_readonly_door")
        if door is None:
            door = engine._sa_readonly_door = cls(engine)  # type: ignore[attr-defined]  # this package adds it
        return door

    def refusal(self) -> ReadOnlyError:
        """Return the error that refuses a connection."""
        return guard.refused_connection(self.engine)

    # -- what there is -------------------------------------------------------------------

    @property
    def is_shut(self) -> bool:
        """True if it gives out no connection."""
        return bool(self._shut_by)

    @property
    def connections(self) -> int:
        """How many connections there are, or will be."""
        if self._in_memory:
            return 0
        counted = len(self.ledger.connections) + len(self._old.uncounted)
        return counted or int(has_connected_for_ever(self.engine))

    @property
    def idle(self) -> int:
        """How many of the connections are surely not in use."""
        pool = self.engine.pool
        if self._keep:
            return 0
        if isinstance(pool, QueuePool):
            return pool.checkedin()
        if isinstance(pool, (SingletonThreadPool, AssertionPool)):
            return len(self.ledger.connections) - privates.connections_out(pool)
        return 0

    @property
    def retired(self) -> list[float]:
        """The wall-clock times at which the connections of old pools, still open, were retired."""
        return self.ledger.retired + self._old.uncounted

    def trace(self, by: object, trace: Trace | None) -> None:
        """Note in a trace which connections are in use, or go on without.

        :param by: the worker that wants it.
        """
        if self._in_memory:
            return
        is_mine = self._pid == os.getpid()  # else what there is belongs to the parent
        self.ledger.trace(by, trace, also_open=is_mine)
        uncounted = has_connected_for_ever(self.engine) or (is_mine and self._old.uncounted)
        if trace is not None and uncounted:
            trace.doubt()

    # -- turning -------------------------------------------------------------------------

    def shut(
        self,
        by: object,
        *,
        limit: Limit | None = None,
        refuse: Callable[[], ReadOnlyError] | None = None,
    ) -> None:
        """Give out no connection from now on. Short: nothing is closed here.

        :param by: the selector, or the worker, that wants it; it stays shut while one does.
        :param limit: how what has begun may go on.
        :param refuse: returns the error where no switch is read-only: what has a connection is
            refused a transaction then, too.
        """
        if refuse is not None:
            protection.bar(self.engine, by, refuse)
        with self._turning():
            self._shut_by[by] = None
            pool = self.engine.pool
            if not isinstance(pool, ClosedPool):
                # The successor is made first: recreate() takes listeners along, and those of a
                # retired pool refuse.
                self.engine.pool = ClosedPool(pool if self._keep else pool.recreate(), self)
                if not self._keep:
                    self._old.retire(pool, self.refusal)
        if limit is not None:
            protection.limit(self.engine, by, limit)

    def open(self, by: object) -> None:
        """Take back all of one :meth:`shut`; after the last a fresh pool gives out connections."""
        protection.unlimit(self.engine, by)
        with self._turning():
            self._shut_by.pop(by, None)
            pool = self.engine.pool
            if not self._shut_by and isinstance(pool, ClosedPool):
                self.engine.pool = pool.sa_readonly_successor

    def close_idle(self) -> None:
        """Close what is not in use, and go on with a fresh pool: none that connects is refused."""
        with self._turning():
            if not self._keep and not self.is_shut:
                self._old.renew()
        self.sweep()

    def _turning(self) -> AbstractContextManager[bool]:
        """Let one switch at a time turn it, as an engine may stand in selectors of several.

        Not for ever: a log handler that the pool calls may wait for a switch that waits for this.
        """
        return forks.locked(self._lock(), _PATIENCE)

    def sweep(self) -> None:
        """Close what lies idle in the retired pools, and forget those that have nothing out."""
        self._old.sweep()

    # -- connections ---------------------------------------------------------------------

    def _counting(self, pool: Pool) -> Callable[..., DBAPIConnection]:
        """Return the creator of a pool, made to ask and to count."""
        create = privates.creator(pool)
        notes = notes_uses(pool)
        ledger = self.ledger
        connections, dialect = ledger.connections, self.engine.dialect

        # Without a record where code calls engine.pool._creator(), as it can without a selector.
        def counted(connection_record: ConnectionPoolEntry | None = None) -> DBAPIConnection:
            try:
                return connect(connection_record)
            except ReadOnlyError as error:
                self.tell_refusal(error)
                raise

        def connect(
            connection_record: ConnectionPoolEntry | None, but: object = None
        ) -> DBAPIConnection:
            if self._pid != os.getpid():
                # No hook ran at the fork. The pool stays, as it is just connecting: another one
                # would leave this connection to a pool that no flip retires.
                self._forget()
            self._prepare()
            creation, use = object(), Use()
            connections[creation] = Open(None, None, use)
            try:
                ledger.note(use)  # after it is counted
                # Once more: a worker that was leaving at this moment did not see this creation, and
                # the process may not be registered any more.
                self._prepare()
                if self._shut_by and set(self._shut_by) != {but}:
                    raise self.refusal()
                guard.ask(self.engine, *_A_CONNECTION, but)
                connection = create(connection_record)
                ledger.opened(connection, connection_record, use)
                use = hand_over(use, connection_record if notes else None)
                try:
                    guard.ask(self.engine, *_A_CONNECTION, but, made=True)
                    if not guard.read_only(self.engine):  # else its locks are new ones
                        shared.take_off(dialect, connection)
                except BaseException:
                    close = partial(dialect.do_close, connection)
                    # By the engine's pool of now: a reference to an older one would keep that.
                    ledger.close(self.engine.pool, connection, close, at_once=True)
                    raise
                return connection
            finally:
                del connections[creation]
                use.end()

        self._connect = connect
        return counted

    def ask(self, question: Callable[[Any, Any], bool], but: object = None) -> bool | None:
        """Ask the server on a new connection, which passes every check, is counted, and closed.

        :param question: called with the dialect and the connection.
        :param but: what may keep this door shut, and no other.
        :return: the answer; None where there is none.
        """
        dialect = self.engine.dialect
        record = privates.Ghost(self.engine.pool)  # for a listener that is told of one
        try:
            with to_ask():
                connection = self._connect(record, but)
        except ReadOnlyError as error:
            self.tell_refusal(error)
            guard.was_served(self.engine, error)  # it was no work of the application's
            return None
        except Exception as error:  # noqa: BLE001  # whatever it is, nothing is known
            logger.debug("%r could not be asked: %s", self.engine, error, extra=fields("unasked"))
            return None
        try:
            return question(dialect, connection)
        except Exception as error:  # noqa: BLE001  # the same
            logger.debug("%r gave no answer: %s", self.engine, error, extra=fields("unasked"))
            return None
        finally:
            close = partial(dialect.do_close, connection)
            with contextlib.suppress(Exception):
                self.ledger.close(self.engine.pool, connection, close, at_once=True)

    def end(self, connection: Any) -> None:
        """Close a connection when it is given back, as its server was found to be read-only."""
        pool, record = pooled(connection)
        if not self._keep and record is not None:
            pool.sa_readonly_end(record)

    def tell_refusal(self, error: ReadOnlyError) -> None:
        """Call ``after_refusal``: a connection is refused that counted until now."""
        with guard.uncounted(self.engine, error):  # a read may be served by another engine
            for tell in self.after_refusal:
                tell()

    def _prepare(self) -> None:
        for prepare in self.before_connect:
            prepare()

    # -- forks ---------------------------------------------------------------------------

    def leave_to_parent(self) -> None:
        """In a forked child: begin without connections, as all there are belong to the parent.

        It is what SQLAlchemy tells to do by hand: ``engine.dispose(close=False)``.
        """
        if self._pid != os.getpid():
            self._forget()
            if not self._keep:
                self.engine.dispose(close=False)

    def _forget(self) -> None:
        self._pid = os.getpid()
        keep_for_parent(*self._old.pools, self.engine.pool)
        self._old.leave()
        self.ledger.leave()


def count(engine: Engine) -> tuple[int, int, list[float]]:
    """Return how many connections of an engine are in use and idle, and since when others retired.

    Each is counted once. Of an engine that is never taken away those are known that its pool keeps.
    """
    engine = privates.unwrapped(engine)
    door: Door | None = vars(engine).get("_sa_readonly_door")
    if door is None:
        pool = engine.pool
        idle = pool.checkedin() if isinstance(pool, QueuePool) else 0
        return privates.connections_out(pool), idle, []
    connections, idle, retired = door.connections, door.idle, door.retired
    in_use = max(0, connections - idle - len(retired))  # they were not counted at one moment
    return in_use, idle, retired
