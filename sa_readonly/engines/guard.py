"""Refusing writes on read-only connections, and BEGIN on read-write ones while read-only.

The guard sits in the dialect, below sessions, connections and event listeners: whatever executes
through an engine passes it, clones made by ``execution_options()`` included, and where nothing is
refused it costs no more than an attribute. An engine's dialect is turned, in place, into a subclass
of its own class; :func:`release` turns it back.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import math
import os
import re
import threading
import time
from contextvars import ContextVar
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine.default import DefaultDialect, DefaultExecutionContext
from sqlalchemy.pool import AssertionPool, QueuePool, SingletonThreadPool, StaticPool
from sqlalchemy.util.concurrency import in_greenlet

from .. import refusals
from ..errors import ReadOnlyError
from ..mode import Mode, State
from ..refusals import refusal
from . import listeners, loops, poolers, shared
from .dialects import LOCKED, can_authorize, family, holds_file
from .listeners import Keeping
from .statements import SET_CONFIG, ends_transaction, examine, hides_a_parameter, writing_pragma

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from sqlalchemy.engine import Connection, Dialect, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, Pool

    from ..mode import Switch

__all__ = ["gate", "protect", "read_only", "release", "twin"]

logger = logging.getLogger("sa_readonly")

# Set while a connection is made for the twin of a read-write engine, which shares its creator.
_for_twin: ContextVar[bool] = ContextVar("sa_readonly_for_twin", default=False)


def refused(
    engine: Engine, what: str, kind: str, role: str = "primary", *, began: bool = False
) -> ReadOnlyError:
    """Return the error that refuses ``what`` on a guarded engine; see :func:`refusal`.

    :param role: that of the session.
    :param began: whether its transaction has begun read-only, though the engine is read-write.
    """
    dialect: Any = engine.dialect
    return dialect._sa_readonly_refusal(  # type: ignore[no-any-return]  # untyped
        what, kind=kind, role=role, began=began
    )


def refused_connection(engine: Engine) -> ReadOnlyError:
    """Return the error that refuses a connection of a gated engine."""
    dialect: Any = engine.dialect
    bars = dialect._sa_readonly_bars
    if bars and not dialect._sa_readonly_says()[1].read_only:
        return next(iter(bars.values()))()  # type: ignore[no-any-return]  # untyped
    return refused(engine, "A read-write connection", "connection")


def was_served(engine: Engine, error: ReadOnlyError) -> None:
    """Take back one refusal, after which a read was served elsewhere."""
    refusals.take_back(_counted_for(engine), error)


def uncounted(engine: Engine, error: ReadOnlyError) -> AbstractContextManager[None]:
    """Count a refusal later: what is reported meanwhile is never taken back."""
    return refusals.uncounted(_counted_for(engine), error)


def _counted_for(engine: Engine) -> Switch | None:
    dialect: Any = engine.dialect
    return dialect._sa_readonly_says()[0]  # type: ignore[no-any-return]  # untyped


_A_TRANSACTION = "A read-write transaction"
_READ_ONLY_MODE = Mode.READ_ONLY  # an attribute of a class of enum is slow, in Python 3.11
_PASSED = 1000  # texts that are remembered as examined
_LONG = 10_000  # characters; a longer text is not remembered
_RESETS = ("RESET ALL", "DISCARD ALL", "DISCARD TEMP")
_BEGIN_WRITING = re.compile(
    r"\s*BEGIN\s+(IMMEDIATE|EXCLUSIVE)(\s+TRANSACTION)?[\s;]*", re.IGNORECASE
)


# -- dialects --------------------------------------------------------------------------------


class _Guarded(DefaultDialect):
    """What both kinds of guarded dialects have."""

    _sa_readonly_base: type[Dialect]
    _sa_readonly_gates: tuple[Switch, ...] = ()  # those that let no transaction begin
    _sa_readonly_told: tuple[Switch, ...] = ()  # those that say why nothing is written
    _sa_readonly_family: str  # see family()
    _sa_readonly_serves = False  # whether a read-only engine serves replicas while read-write
    _sa_readonly_pooler: str | None = None  # see behind()
    _sa_readonly_offered = False  # whether the first lock goes into the start-up packet

    def _sa_readonly_says(self) -> tuple[Switch | None, State]:
        """The state to tell in an error, and whose it is: read-only if any switch says so."""
        switches = self._sa_readonly_told or self._sa_readonly_gates
        states = [(switch, switch.known) for switch in switches]
        if not states:  # a twin has outlived its selector
            return None, State(Mode.READ_ONLY, "the EngineSelector of this engine is closed")
        return next((one for one in states if one[1].read_only), states[0])

    def _sa_readonly_refusal(
        self,
        what: str,
        statement: str | None = None,
        *,
        kind: str,
        role: str | None = None,
        began: bool = False,
    ) -> ReadOnlyError:
        switch, state = self._sa_readonly_says()
        over = None if state.read_only or switch is None else refusals.last_read_only(switch)
        reads = isinstance(self, _ReadOnly)
        if role is None and not (
            reads and (self._sa_readonly_serves or not self._sa_readonly_told)
        ):
            # What is taken away is begun by no replica, and what is read meanwhile hardly ever. A
            # twin, which has its engine's switches, and a replica may serve both.
            role = "primary"
        if over is not None and role == "primary" and not (reads or began):
            state = over  # it flips back just now
        return refusal(what, state, statement, kind=kind, switch=switch, over=over, role=role)

    def _sa_readonly_look(self, switch: Switch) -> State:
        return loops.refresh(switch) if self.is_async else switch.refresh()

    def _sa_readonly_would(self, statement: str, parameters: Any) -> str | None:
        """Return what a text would do; SQLAlchemy finds out how the server reads its quotes."""
        return examine(
            statement,
            self._sa_readonly_family,
            parameters,
            backslash=getattr(self, "_backslash_escapes", None),
            ansi_quotes=getattr(self, "_server_ansiquotes", False),
        )


class _Gated(_Guarded):
    """The dialect of a read-write engine: no transaction begins while read-only."""

    _sa_readonly_begins: bool  # whether the dialect's own do_begin() does anything
    _sa_readonly_bars: Mapping[object, Callable[[], ReadOnlyError]] = {}  # other reasons not to
    _sa_readonly_deadlines: Mapping[object, float] = {}  # see limit()
    _sa_readonly_keeps = False  # whether the pool holds the database itself: nothing is closed

    def do_begin(self, dbapi_connection: Any) -> None:
        for switch in self._sa_readonly_gates:
            fresh = time.monotonic() < switch.fresh_until
            state = switch.known if fresh else self._sa_readonly_look(switch)
            if state.mode is _READ_ONLY_MODE:
                raise refusal(_A_TRANSACTION, state, kind="transaction", switch=switch)
        if self._sa_readonly_bars:
            raise next(iter(self._sa_readonly_bars.values()))()
        if self._sa_readonly_begins:
            super().do_begin(dbapi_connection)

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:
        self._sa_readonly_ask(_A_TRANSACTION, "transaction")
        super().do_begin_twophase(connection, xid)

    def _sa_readonly_ask(self, what: str, kind: str, statement: str | None = None) -> None:
        """Refuse ``what`` while nothing may begin, by answers that are not too old."""
        for switch in self._sa_readonly_gates:
            fresh = time.monotonic() < switch.fresh_until
            state = switch.known if fresh else self._sa_readonly_look(switch)
            if state.mode is _READ_ONLY_MODE:
                raise refusal(what, state, statement, kind=kind, switch=switch)
        if self._sa_readonly_bars:
            raise next(iter(self._sa_readonly_bars.values()))()

    # What follows is called by the classes that judge each statement. It stands here because a flip
    # in another thread may take such a class from a dialect in the middle of it.

    def _sa_readonly_judge(self, statement: str, parameters: Any, context: Any) -> None:
        if not self._sa_readonly_held():
            self._sa_readonly_expire(context and context.root_connection, statement)
            return
        # A test keeps one transaction around what an application would begin after the flip. So it
        # lives on, whatever the grace, and reads.
        what = self._sa_readonly_would(statement, parameters)
        if what is not None:
            raise self._sa_readonly_refusal(what, statement, kind="statement")

    def _sa_readonly_held(self) -> bool:
        return any(switch.overridden for switch in self._sa_readonly_gates)

    def _sa_readonly_expire(self, connection: Any, statement: str) -> None:
        """Raise if time is up; the connection is closed then, which rolls back at the server."""
        if connection is not None and not connection.in_transaction():
            return  # a dialect initializes, on the first connection of an engine
        try:
            if connection is not None and _commits_itself(connection):
                # which would be a new transaction
                what = "A read-write statement under AUTOCOMMIT"
                self._sa_readonly_ask(what, "transaction", statement)
                return
            deadline = min(self._sa_readonly_deadlines.values(), default=math.inf)
            if self._sa_readonly_held():
                deadline = math.inf
            ends = _prepared.get() or statement.startswith("ROLLBACK")
            if ends or time.monotonic() < deadline:
                return
            what = "A read-write transaction that went on after its grace"
            raise self._sa_readonly_refusal(what, statement, kind="grace")
        except ReadOnlyError as error:
            if connection is not None and not self._sa_readonly_keeps:
                if self.is_async or self.name == "sqlite":
                    # SQLAlchemy would close a cursor without a connection, and log how that fails.
                    connection._is_disconnect = True
                _close_detached(connection)
                connection.invalidate(error)
            raise

    def connect(self, *cargs: Any, **cparams: Any) -> DBAPIConnection:
        if _for_twin.get():
            with poolers.told(self):
                connection = super().connect(*cargs, **_start_up(self, cparams))
        else:
            connection = super().connect(*cargs, **cparams)
        return shared.made(self, connection)  # type: ignore[no-any-return]  # what it is given


class _ReadOnly(_Guarded):
    """The dialect of a read-only engine: each text is examined, the first time it is seen."""

    _sa_readonly_passed: dict[str, None]
    _sa_readonly_skipped: tuple[str, ...] = ()  # of what listeners do
    # The driver's own class behind each class of cursors that examines: not to do so twice.
    _sa_readonly_straight: Mapping[type[Any], type[Any]] = {}

    def connect(self, *cargs: Any, **cparams: Any) -> DBAPIConnection:
        with poolers.told(self):
            connection = super().connect(*cargs, **_start_up(self, cparams))
        return shared.made(self, connection)  # type: ignore[no-any-return]  # what it is given

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        if statement not in self._sa_readonly_passed:
            statement = self._sa_readonly_examine(statement, parameters, context)
        # Not by __class__: a proxy has that of the cursor behind it.
        elif (base := self._sa_readonly_straight.get(type(cursor))) is not None:
            attribute = cursor._sa_readonly_attribute
            if attribute is not None:
                connection = getattr(cursor, cursor._sa_readonly_holder)
                locked = getattr(connection, attribute, None) is True
            if attribute is None or (locked and connection.autocommit is not True):
                # Looked up each time, for what traces a driver by patching it.
                base.execute(cursor, statement, parameters)
                return
        super().do_execute(cursor, statement, parameters, context)

    def do_executemany(
        self, cursor: Any, statement: str, parameters: Any, context: Any = None
    ) -> None:
        if statement not in self._sa_readonly_passed:
            self._sa_readonly_examine(statement, parameters, context)
        super().do_executemany(cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        if statement not in self._sa_readonly_passed:
            statement = self._sa_readonly_examine(statement, (), context)
        super().do_execute_no_params(cursor, statement, context)

    def set_readonly(self, connection: Any, value: bool) -> None:
        # Both the execution option postgresql_readonly=False and SQLAlchemy's reset, which knows
        # no other value, come here.
        super().set_readonly(connection, True)  # type: ignore[misc]  # PostgreSQL's dialects have it

    # What only reads has nothing to prepare, and a standby could not.
    def do_begin_twophase(self, connection: Connection, xid: Any) -> None:
        self.do_begin(connection.connection)

    def do_prepare_twophase(self, connection: Connection, xid: Any) -> None:
        pass

    def do_rollback_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        self._sa_readonly_refuse_recovery("ROLLBACK PREPARED", recover)
        self.do_rollback(connection.connection)

    def do_commit_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        self._sa_readonly_refuse_recovery("COMMIT PREPARED", recover)
        self.do_commit(connection.connection)

    def _sa_readonly_refuse_recovery(self, what: str, recover: bool) -> None:
        if recover:  # of somebody else's transaction, which wrote
            raise self._sa_readonly_refusal(what, kind="transaction")

    def _sa_readonly_connected(
        self, dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry
    ) -> None:
        if isinstance(self, _ReadOnly):  # not when it was released
            shared.take_off(self, dbapi_connection)
            shared.borrow(self, dbapi_connection, partial(_before, self, dbapi_connection))
            _lock_now(self, dbapi_connection)  # SQLAlchemy closes it where this raises
            if self._sa_readonly_family == "sqlite":
                _authorize_by(self, dbapi_connection, listeners.watch(record))

    def _sa_readonly_ready(
        self, dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry
    ) -> None:
        if isinstance(self, _ReadOnly):
            if self._sa_readonly_pooler == "transaction":
                poolers.refuse_autocommit(self, dbapi_connection)
            _guard_cursors(self, dbapi_connection)
            for what in listeners.skipped(record, lambda ask: _row(dbapi_connection, ask)[0]):
                if what not in self._sa_readonly_skipped:
                    self._sa_readonly_skipped = (*self._sa_readonly_skipped, what)
                    logger.warning(
                        '`%s` in a "connect" listener is skipped on read-only connections, as it '
                        "may write into the database. The rest of the listener is done.",
                        what,
                    )

    def _sa_readonly_given_out(
        self, dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry, _: object
    ) -> None:
        if isinstance(self, _ReadOnly) and self._sa_readonly_pooler == "session":
            _set_default(dbapi_connection)

    def _sa_readonly_returned(
        self, dbapi_connection: DBAPIConnection | None, record: ConnectionPoolEntry
    ) -> None:
        if dbapi_connection is None or not isinstance(self, _ReadOnly):
            return
        put_back: Callable[[Any, Any], None] = _lock_again
        if dbapi_connection.__class__ in _KEEPING:
            # That of an adapter has no answer, and no pool keeps it when it is given back.
            if getattr(dbapi_connection, "_sa_readonly_answer", _authorize) is _authorize:
                return
            put_back = _lock_kept
        try:
            put_back(self, dbapi_connection)
        except Exception as error:  # noqa: BLE001  # it would keep the record out for ever
            record.invalidate(error)
        except BaseException as error:  # an interrupt goes on, but leaves its place in the pool
            record.invalidate(error)
            record._ConnectionRecord__pool._return_conn(record)  # type: ignore[attr-defined]
            raise

    def _sa_readonly_left(
        self, dbapi_connection: DBAPIConnection, record: ConnectionPoolEntry | None = None
    ) -> None:
        # Also when it was released: another pool may take the connection back.
        if self._sa_readonly_family != "sqlite":
            shared.take_off_leaving(self, dbapi_connection)
        elif dbapi_connection.__class__ not in _KEEPING and (not self.is_async or in_greenlet()):
            with contextlib.suppress(Exception):  # it may be another thread's
                _unlock_kept(self, dbapi_connection)

    def _sa_readonly_examine(self, statement: str, parameters: Any, context: Any = None) -> str:
        """Return the text to send, which is the one given, or raise."""
        what = self._sa_readonly_would(statement, parameters)
        if what is None and self._sa_readonly_pooler == "transaction":
            # Of that psycopg2 and asyncpg know nothing: what follows would be in no transaction.
            what = ends_transaction(statement, backslash=getattr(self, "_backslash_escapes", None))
        if what is not None:
            role = _role(context)
            raise self._sa_readonly_refusal(what, statement, kind="statement", role=role)
        if self.name == "sqlite" and _BEGIN_WRITING.fullmatch(statement):
            # In a listener that a twin shares; it would take the writers' lock.
            return "BEGIN"
        # The parameters of set_config() must be seen each time, and those that become text.
        seen_once = SET_CONFIG not in statement.lower() and not hides_a_parameter(
            statement, self._sa_readonly_family
        )
        if len(statement) <= _LONG and seen_once:
            if len(self._sa_readonly_passed) >= _PASSED:
                self._sa_readonly_passed.clear()
            self._sa_readonly_passed[statement] = None
        return statement


class _ReadOnlyContext(DefaultExecutionContext):
    """Raises the server's refusal as ours, wherever SQLAlchemy meets it: also in a fetch."""

    def handle_dbapi_exception(self, e: BaseException) -> None:
        super().handle_dbapi_exception(e)
        if is_refusal(e, self._dbapi_connection):
            with contextlib.suppress(Exception):
                self.cursor.close()
            dialect: Any = self.dialect
            raise dialect._sa_readonly_refusal(
                "The statement", self.statement, kind="server", role=_role(self)
            ) from e


def _role(context: Any) -> str | None:
    """Return the role of the session whose statement this is, as far as that is known."""
    return getattr(context and context.root_connection, "_sa_readonly_role", None)


class _GatedReadOnly(_Gated, _ReadOnly):
    """The dialect of a replica beside the read-write primary: never written, and taken away too."""


class _Judging(_Gated):
    """A dialect of a gated engine that judges each statement before it is sent.

    What it calls then is found from :class:`_Gated` on, as a flip in another thread may take its
    own class from it meanwhile.
    """

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        self._sa_readonly_judge(statement, parameters, context)
        super(_Gated, self).do_execute(cursor, statement, parameters, context)

    def do_executemany(
        self, cursor: Any, statement: str, parameters: Any, context: Any = None
    ) -> None:
        self._sa_readonly_judge(statement, parameters, context)
        super(_Gated, self).do_executemany(cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        self._sa_readonly_judge(statement, (), context)
        super(_Gated, self).do_execute_no_params(cursor, statement, context)


class _Committing(_Judging):
    """The dialect of connections under AUTOCOMMIT, where each statement is a transaction."""

    def _sa_readonly_judge(self, statement: str, parameters: Any, context: Any) -> None:
        now = time.monotonic()
        for switch in self._sa_readonly_gates:
            if now >= switch.fresh_until or switch.known.mode is _READ_ONLY_MODE:
                break
        else:
            if not self._sa_readonly_bars:
                return
        _Gated._sa_readonly_judge(self, statement, parameters, context)


class _CommittingReadOnly(_Committing, _GatedReadOnly):
    """The same for a replica."""


class _Limited(_Judging):
    """The dialect of a gated engine while read-only: what had begun may go on, until its deadline.

    An engine has this class only then: between flips nobody asks for the time.
    """

    def do_commit(self, dbapi_connection: Any) -> None:
        try:
            self._sa_readonly_expire(None, "COMMIT")
        except ReadOnlyError:
            self.do_rollback(dbapi_connection)  # and it is closed when it comes back
            raise
        super(_Gated, self).do_commit(dbapi_connection)

    def do_prepare_twophase(self, connection: Connection, xid: Any) -> None:
        self._sa_readonly_expire(connection, "PREPARE TRANSACTION")  # some drivers' own method
        super(_Gated, self).do_prepare_twophase(connection, xid)

    def do_commit_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        if not is_prepared:
            self._sa_readonly_expire(connection, "COMMIT")
        # What is prepared outlives its connection, and the others may have committed by now.
        token = _prepared.set(is_prepared)
        try:
            super(_Gated, self).do_commit_twophase(connection, xid, is_prepared, recover)
        finally:
            _prepared.reset(token)

    def do_rollback_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        token = _prepared.set(True)
        try:
            super(_Gated, self).do_rollback_twophase(connection, xid, is_prepared, recover)
        finally:
            _prepared.reset(token)


class _LimitedReadOnly(_Limited, _GatedReadOnly):
    """The same for a replica."""


def _close_detached(connection: Connection) -> None:
    """Close what belongs to no pool any more, and what SQLAlchemy would only let go."""
    proxied: Any = connection.connection
    if proxied.is_detached:
        proxied._pool._close_connection(proxied.dbapi_connection)


def _commits_itself(connection: Connection) -> bool:
    level = connection.get_execution_options().get("isolation_level")
    return _commits(connection.dialect) if level is None else bool(level == "AUTOCOMMIT")


def _commits(dialect: Dialect) -> bool:
    """True if AUTOCOMMIT was given to create_engine()."""
    return getattr(dialect, "_on_connect_isolation_level", None) == "AUTOCOMMIT"


class _Level:
    """Has a connection that goes to AUTOCOMMIT, or leaves it, use the dialect for that.

    It is mixed into the isolation level's :class:`.ConnectionCharacteristic`, which execution
    options of connections and of engines come to, also of those that were made before the engine
    was gated.
    """

    def set_connection_characteristic(
        self, dialect: Dialect, conn: Connection, dbapi_conn: DBAPIConnection, value: Any
    ) -> None:
        super().set_connection_characteristic(dialect, conn, dbapi_conn, value)  # type: ignore[misc]  # the characteristic's
        conn.dialect = _of_level(conn.engine.dialect, value)


def _of_level(dialect: Any, level: object) -> Any:
    """Return the dialect of a gated engine's connections with this isolation level."""
    commits = level == "AUTOCOMMIT"
    if not isinstance(dialect, _Gated) or commits is _commits(dialect):
        return dialect
    with _changing():
        kin = _kin(dialect)
        if dialect not in kin:
            kin[dialect] = _sharing(dialect, type(dialect))
            _dress(dialect, read_only=isinstance(dialect, _ReadOnly))
        return kin[dialect]


def _kin(dialect: Dialect) -> dict[Dialect, Dialect]:
    """Return, by the dialect of a gated engine, the other one for its connections.

    It is for those that are under AUTOCOMMIT while the rest is not, or the other way round, and the
    same but for its class. A twin's stands in one dict with its engine's.
    """
    return dialect.__dict__.setdefault("_sa_readonly_kin", {})  # type: ignore[no-any-return]  # ours


# Set while a two-phase transaction ends that is prepared already, or rolled back.
_prepared: ContextVar[bool] = ContextVar("sa_readonly_prepared", default=False)


@cache
def _guarded(kind: type[_Guarded], base: type[Dialect]) -> type[Any]:
    """Return the guarded subclass of a dialect's class."""
    body: dict[str, Any] = {"_sa_readonly_base": base}
    if "supports_statement_cache" in vars(base):  # SQLAlchemy asks the very class for it
        body["supports_statement_cache"] = base.supports_statement_cache
    if issubclass(kind, _ReadOnly):
        context = base.execution_ctx_cls
        body["execution_ctx_cls"] = type(context.__name__, (_ReadOnlyContext, context), {})
    if issubclass(kind, _Gated):
        body["_sa_readonly_begins"] = base.do_begin is not DefaultDialect.do_begin
        theirs: Any = base
        level = type(theirs.connection_characteristics["isolation_level"])
        body["connection_characteristics"] = theirs.connection_characteristics.union(
            {"isolation_level": type(level.__name__, (_Level, level), {})()}
        )
    return type(base.__name__, (kind, base), body)


# -- engines ---------------------------------------------------------------------------------


def behind(engine: Engine, pooler: str | None) -> None:
    """Note which pooler is before an engine's server, before it is gated or protected.

    :param pooler: one of :data:`.poolers.POOLERS`, or None.
    """
    dialect: Any = engine.dialect
    if getattr(dialect, "_sa_readonly_pooler", None) != pooler:
        dialect._sa_readonly_passed = {}  # a text may be refused by now
    dialect._sa_readonly_pooler = pooler
    dialect._sa_readonly_shown = _shown(engine)


def _shown(engine: Engine) -> str:
    return engine.url.set(query={}).render_as_string(hide_password=True)


def gate(engine: Engine, switch: Switch) -> None:
    """Let no transaction begin on a read-write engine, nor on its clones, while read-only."""
    dialect: Any = engine.dialect
    dialect._sa_readonly_gates = (*getattr(dialect, "_sa_readonly_gates", ()), switch)
    _become(dialect)


def protect(engine: Engine, switch: Switch, *, serves: bool = False) -> None:
    """Let nothing write through a read-only engine, nor through its clones, in either mode.

    :param serves: whether it serves sessions of the role "replica" while read-write.
    """
    dialect: Any = engine.dialect
    dialect._sa_readonly_serves = serves or getattr(dialect, "_sa_readonly_serves", False)
    new = not read_only(engine)
    dialect._sa_readonly_told = (*getattr(dialect, "_sa_readonly_told", ()), switch)
    _become(dialect)
    if not new:
        return
    dialect._sa_readonly_passed = {}
    forget_idle(engine)  # what was connected before has no lock
    _change_kept(engine, _lock_kept)
    if not getattr(dialect, "_sa_readonly_listens", False):
        dialect._sa_readonly_listens = True  # for good: recreate() takes listeners along
        lock(engine.pool, dialect)
    if dialect._sa_readonly_pooler == "session" and "_sa_readonly_sets" not in vars(dialect):
        dialect._sa_readonly_sets = True  # for good, too
        set_at_checkout(engine.pool, dialect)
    _warn(engine)


def release(engine: Engine, switch: Switch) -> None:
    """Take back one :func:`gate` or :func:`protect`, or both, that was done for this switch."""
    dialect: Any = engine.dialect
    for name in ("_sa_readonly_gates", "_sa_readonly_told"):
        switches = list(getattr(dialect, name, ()))
        if switch in switches:
            switches.remove(switch)
            setattr(dialect, name, tuple(switches))
    was_read_only = read_only(engine)
    _become(dialect)
    if was_read_only and not read_only(engine):
        forget_idle(engine)  # what is connected stays locked
        _change_kept(engine, _unlock_kept)


def forget_idle(engine: Engine) -> None:
    """Have connections made anew."""
    pool = engine.pool
    if not isinstance(pool, QueuePool) or not pool.checkedin():
        return
    if not engine.dialect.is_async or in_greenlet():
        engine.dispose()
        return
    engine.dispose(close=False)
    while pool.checkedin():
        connection = pool._pool.get(False).dbapi_connection
        if connection is not None:
            loop = loops.loop_of(engine.dialect, connection)
            loops.call(loop, partial(loops.hang_up, engine.dialect, connection, loop))


def _change_kept(engine: Engine, change: Callable[[Any, Any], None]) -> None:
    """Lock or unlock what a pool keeps that can't be forgotten: it may be the database itself."""
    pool = engine.pool
    records: list[Any] = []
    if isinstance(pool, StaticPool):
        records = [vars(pool).get("connection")]
    elif isinstance(pool, SingletonThreadPool):
        records = list(pool._all_conns)
    elif isinstance(pool, AssertionPool):
        records = [pool._conn]
    for record in records:
        if record is None or record.dbapi_connection is None:
            continue
        if family(engine.dialect) != "sqlite":
            record.invalidate(soft=True)  # it is made anew when it is next asked for
        elif in_greenlet() or not engine.dialect.is_async:
            # Another thread's connection can't be reached; it is changed when it comes back.
            with contextlib.suppress(engine.dialect.dbapi.ProgrammingError):  # type: ignore[union-attr]
                change(engine.dialect, record.dbapi_connection)


def _lock_kept(dialect: Any, dbapi_connection: Any) -> None:
    _lock_again(dialect, dbapi_connection)
    _guard_cursors(dialect, dbapi_connection)


def _unlock_kept(dialect: Any, dbapi_connection: Any) -> None:
    _authorize_by(dialect, dbapi_connection, lambda *_: 0)  # None would do from Python 3.11 on
    _run(dbapi_connection, "PRAGMA query_only = OFF")


def limit(engine: Engine, by: object, deadline: float | None) -> None:
    """Let what has begun on a gated engine go on while read-only, or take that back.

    :param by: whose deadline it is; the first one counts.
    :param deadline: the :func:`time.monotonic` time, in seconds, after which a statement or a
        commit is refused, which may be infinite; None when it is read-write again.
    """
    dialect: Any = engine.dialect
    with _changing():  # two switches may flip one engine
        deadlines = dict(dialect._sa_readonly_deadlines)
        deadlines.pop(by, None)
        if deadline is not None:
            deadlines[by] = deadline
        dialect._sa_readonly_deadlines = deadlines
        # A twin is read-only, which what it shares with its engine does not tell.
        _dress(dialect, read_only=read_only(engine))


def bar(engine: Engine, by: object, refuse: Callable[[], ReadOnlyError] | None) -> None:
    """Let no transaction begin on a gated engine for a reason of its own, or no longer.

    :param by: whose reason it is.
    :param refuse: returns the error; None takes the reason back.
    """
    dialect: Any = engine.dialect
    with _changing():
        bars = dict(getattr(dialect, "_sa_readonly_bars", {}))
        bars.pop(by, None)
        if refuse is not None:
            bars[by] = refuse
        dialect._sa_readonly_bars = bars


_changes: dict[int, Any] = {}  # by process, as those that count


def _changing() -> Any:
    return _changes.setdefault(os.getpid(), threading.RLock())


def _become(dialect: Any) -> None:
    """Give the dialect the class that fits what is asked of it now."""
    dialect._sa_readonly_family = family(dialect)
    with _changing():
        _dress(dialect, read_only=bool(getattr(dialect, "_sa_readonly_told", ())))


def _dress(dialect: Any, *, read_only: bool) -> None:
    gated = bool(getattr(dialect, "_sa_readonly_gates", ()))
    limited = bool(getattr(dialect, "_sa_readonly_deadlines", ()))
    commits = _commits(dialect)
    base: Any = getattr(type(dialect), "_sa_readonly_base", type(dialect))
    for one, committing in ((dialect, commits), (_kin(dialect).get(dialect), not commits)):
        if one is not None and (gated or read_only):
            kind = _kind(gated=gated, read_only=read_only, limited=limited, commits=committing)
            one.__class__ = _guarded(_pooled(dialect, kind), base)
        elif one is not None:
            one.__class__ = base


def _kind(*, gated: bool, read_only: bool, limited: bool, commits: bool) -> Any:
    if not gated:
        return _ReadOnly
    if limited:
        return _LimitedReadOnly if read_only else _Limited
    if commits:
        return _CommittingReadOnly if read_only else _Committing
    return _GatedReadOnly if read_only else _Gated


def _pooled(dialect: Any, kind: Any) -> Any:
    by_transaction = dialect._sa_readonly_pooler == "transaction" and issubclass(kind, _ReadOnly)
    return poolers.by_transaction(kind) if by_transaction else kind


def twin(engine: Engine, *, gated: bool) -> Dialect:
    """Return a read-only dialect that shares all that the gated dialect of ``engine`` knows.

    What a dialect learns of its server when it first connects, it learns for both.

    :param gated: whether it, too, begins no transaction while read-only.
    """
    dialect: Any = engine.dialect
    kind = _kind(gated=gated, read_only=True, limited=False, commits=_commits(dialect))
    dialect.__dict__.setdefault("_sa_readonly_passed", {})
    if not gated:  # or read_only= was given, of which that is said
        _warn(engine)
    # For good: the twin has its engine's listeners also when the selector is closed.
    dialect.__dict__["_set_connection_characteristics"] = _apply_options
    return _sharing(dialect, _guarded(_pooled(dialect, kind), type(dialect)._sa_readonly_base))


def _apply_options(connection: Connection, options: Mapping[str, Any]) -> None:
    """Apply the options of an engine by the dialect of the connection's own engine.

    SQLAlchemy asks the dialect to which they were given. Of a twin that is its engine's, which
    would let it write.
    """
    dialect: Any = connection.engine.dialect
    type(dialect)._set_connection_characteristics(dialect, connection, options)


def _sharing(dialect: Dialect, cls: type[Any]) -> Dialect:
    """Return a dialect of this class that has all that the other one has, and gets."""
    shared: Dialect = object.__new__(cls)
    shared.__dict__ = dialect.__dict__
    return shared


def creator_for_twin(creator: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Have a creator that belongs to a gated engine make connections that start read-only."""

    def create(connection_record: ConnectionPoolEntry | None) -> Any:
        token = _for_twin.set(True)
        try:
            return creator(connection_record)
        finally:
            _for_twin.reset(token)

    return create


def lock(pool: Pool, dialect: Any) -> None:
    """Have each connection of a pool locked when it is made and whenever it comes back."""
    create: Callable[[Any], Any] = pool._invoke_creator

    def locked(connection_record: ConnectionPoolEntry | None = None) -> Any:
        connection = create(connection_record)
        if connection_record is None and isinstance(dialect, _ReadOnly):
            # It was asked for past the pool, whose listeners never see it.
            _lock_now(dialect, connection)
            _guard_cursors(dialect, connection)
        return connection

    pool._creator = locked
    # First of all listeners: one of the user's may leave a transaction open, in which psycopg2's
    # attribute can't be set.
    event.listen(pool, "connect", dialect._sa_readonly_connected, insert=True)
    event.listen(pool, "checkin", dialect._sa_readonly_returned)
    event.listen(pool, "close", dialect._sa_readonly_left)
    event.listen(pool, "close_detached", dialect._sa_readonly_left)
    # Last, so that what the user's listeners do to a new connection is the server's affair alone.
    event.listen(pool, "connect", dialect._sa_readonly_ready)


def set_at_checkout(pool: Pool, dialect: Any) -> None:
    """Have the first lock put on each connection of a pool that is given out, if it is to be."""
    if dialect._sa_readonly_pooler == "session":
        event.listen(pool, "checkout", dialect._sa_readonly_given_out, insert=True)


def _warn(engine: Engine) -> None:
    """Say what is not protected of a dialect that is not one of those that are known."""
    dialect: Any = engine.dialect
    name, kin = dialect.name, dialect._sa_readonly_family
    if kin not in LOCKED:
        raw = "the driver's connection itself" if dialect.driver in _ADAPTED else "a raw cursor"
        cure = "Connect as a role that may only read."
        if holds_file(engine):
            cure = 'Give as read_only= an engine with connect_args={"read_only": True}.'
        what = (
            f"sa_readonly has no lock at the server for {name}. Statements are examined before "
            f"they are sent; what a function writes, or {raw}, is not refused. {cure}"
        )
    elif name != kin:
        what = (
            f"sa_readonly does not know {name}. It is locked as {kin}, whose driver it has; where "
            "its server does not do as that one does, what a function writes is not refused. "
            "Connect as a role that may only read."
        )
    elif kin == "sqlite" and not can_authorize(dialect):
        what = (
            f"the driver {dialect.driver} has no set_authorizer(). Statements are examined before "
            "they are sent; a raw cursor is not, which can switch `PRAGMA query_only` off. Give "
            "the process a file that it may only read."
        )
    else:
        return
    logger.warning("%s: %s", _shown(engine), what)


def read_only(engine: Engine) -> bool:
    """True if nothing can be written through this engine, in either mode."""
    return isinstance(engine.dialect, _ReadOnly)


def serves(engine: Engine) -> bool:
    """True if a read-only engine serves replicas while read-write."""
    dialect: Any = engine.dialect
    return dialect._sa_readonly_serves  # type: ignore[no-any-return]  # untyped


def told(engine: Engine) -> tuple[Switch, ...]:
    """Return the switches for which an engine is read-only."""
    dialect = engine.dialect  # a twin has those of its read-write engine
    if not isinstance(dialect, _ReadOnly):
        return ()
    return dialect._sa_readonly_told or dialect._sa_readonly_gates


def look(engine: Engine, switch: Switch) -> State:
    """Refresh one of the switches of a guarded engine; an async one's loop does not wait for it."""
    dialect: Any = engine.dialect
    return dialect._sa_readonly_look(switch)  # type: ignore[no-any-return]  # untyped


def ask(engine: Engine, what: str, kind: str) -> None:
    """Refuse ``what`` of a gated engine while nothing may begin, by answers that are not too old.

    :param kind: as which of the :data:`.refusals.KINDS` it is counted.
    """
    dialect: Any = engine.dialect
    if isinstance(dialect, _Gated):  # not when it was released
        dialect._sa_readonly_ask(what, kind)


def gates(engine: Engine) -> tuple[Switch, ...]:
    """Return the switches that gate a read-write engine; none if it is no engine of ours."""
    dialect = engine.dialect
    return dialect._sa_readonly_gates if isinstance(dialect, _Gated) else ()


# -- locks at the server ---------------------------------------------------------------------

_READ_ONLY_SETTING = poolers.SETTING
_SET_DEFAULT = f"SET {_READ_ONLY_SETTING} = on"
# A function can open this lock, in a SELECT that is like any other, and no server tells of it.
_SET_SESSION = "SET SESSION TRANSACTION READ ONLY"


def _start_up(dialect: Any, cparams: Mapping[str, Any]) -> dict[str, Any]:
    """Add the first lock to a connection's start-up packet, where the driver has a way to."""
    if dialect.driver in ("pysqlite", "aiosqlite"):
        driver = getattr(dialect.loaded_dbapi, "sqlite", dialect.loaded_dbapi)  # aiosqlite has one
        keeping: Any = _keeping(driver.Connection)
        return {"factory": listeners.connecting(keeping, driver), **cparams}
    if dialect._sa_readonly_family == "postgresql" and dialect._sa_readonly_pooler is None:
        if dialect.driver in ("psycopg2", "psycopg2cffi", "psycopg", "psycopg_async"):
            dialect._sa_readonly_offered = True
            options = cparams.get("options") or ""
            return {**cparams, "options": f"{options} -c {_READ_ONLY_SETTING}=on".strip()}
        if dialect.driver == "asyncpg":
            dialect._sa_readonly_offered = True
            settings = cparams.get("server_settings") or {}
            return {**cparams, "server_settings": {**settings, _READ_ONLY_SETTING: "on"}}
        if dialect.driver == "pg8000" and poolers.takes_parameters(dialect.loaded_dbapi):
            dialect._sa_readonly_offered = True
            given = cparams.get("startup_params") or {}
            return {**cparams, "startup_params": {**given, _READ_ONLY_SETTING: "on"}}
    return dict(cparams)


def _lock_now(dialect: Any, dbapi_connection: Any) -> None:
    """Put both locks on a new connection, the first one as far as the start-up packet did not."""
    if dialect._sa_readonly_family == "postgresql":
        _lock_session(dialect, dbapi_connection)
    _lock_again(dialect, dbapi_connection, new=True)


def _lock_session(dialect: Any, dbapi_connection: Any) -> None:
    """See to the first lock of PostgreSQL's, by asking for it: a pooler's own word is no proof."""
    if dialect._sa_readonly_pooler == "session":
        _set_default(dbapi_connection)
    elif dialect._sa_readonly_pooler is None:
        value, pid = _asked(dbapi_connection)
        if value != "on":
            # A creator= gives no start-up packet of ours. Only what is no pooler's may be set.
            offered = dialect._sa_readonly_offered
            if offered or not poolers.is_direct(dialect, dbapi_connection, pid):
                raise poolers.dropped(dialect, offered=offered)
            _set_default(dbapi_connection)


def _asked(dbapi_connection: Any) -> Any:
    """Ask the server for the session's default, and by which process it is served."""
    try:
        return _row(
            dbapi_connection,
            f"SELECT current_setting('{_READ_ONLY_SETTING}'), pg_backend_pid()",
        )
    finally:
        dbapi_connection.commit()


def _lock_again(dialect: Any, dbapi_connection: Any, *, new: bool = False) -> None:
    """Put back the locks that code with the driver's connection in its hands can open."""
    if dialect._sa_readonly_family == "postgresql":
        pooler = dialect._sa_readonly_pooler
        if pooler is None and not new and _opened(dialect, dbapi_connection):
            if dialect._sa_readonly_offered:
                raise poolers.dropped(dialect, offered=True)  # it is closed, and made anew
            _set_default(dbapi_connection)
        elif pooler == "transaction":
            poolers.refuse_autocommit(dialect, dbapi_connection)
        attribute = _ATTRIBUTES.get(dialect.driver, "readonly")
        if getattr(dbapi_connection, attribute, None) is not True:  # psycopg2: not in a transaction
            dialect.set_readonly(dbapi_connection, True)
    elif dialect._sa_readonly_family == "sqlite":
        _run(dbapi_connection, "PRAGMA query_only = ON")
    elif dialect.driver in ("pymysql", "mysqldb"):  # in fewer calls, at each check-in
        dbapi_connection.query(_SET_SESSION)
    elif dialect._sa_readonly_family in ("mysql", "mariadb"):
        _run(dbapi_connection, _SET_SESSION)


def _opened(dialect: Any, dbapi_connection: Any) -> bool:
    """True if the session's default is off; a driver that is told nothing has the server asked."""
    reported = _reported(dialect, dbapi_connection)
    if reported is None and dialect.driver not in _ATTRIBUTES:
        return bool(_asked(dbapi_connection)[0] != "on")
    return reported == "off"


def _before(dialect: Any, dbapi_connection: Any) -> Callable[[Any], None]:
    """Return what takes both locks off a connection again, as far as they are not its own."""
    base = getattr(type(dialect), "_sa_readonly_base", type(dialect))
    if dialect._sa_readonly_family == "postgresql":
        attribute = _ATTRIBUTES.get(dialect.driver, "readonly")
        theirs = getattr(dbapi_connection, attribute, None)
        locked = _reported(dialect, dbapi_connection) == "on"
    elif dialect._sa_readonly_family in ("mysql", "mariadb"):
        locked = _mysql_reads(dbapi_connection)

    def undo(dbapi_connection: Any) -> None:
        plain = getattr(type(dbapi_connection), "_sa_readonly_adapted", None)
        if plain is not None:
            dbapi_connection.__class__ = plain
        if dialect._sa_readonly_family == "postgresql":
            base.set_readonly(dialect, dbapi_connection, theirs)
            if not locked and dialect._sa_readonly_pooler != "transaction":
                _run(dbapi_connection, f"RESET {_READ_ONLY_SETTING}")
                dbapi_connection.commit()
        elif dialect._sa_readonly_family in ("mysql", "mariadb") and not locked:
            _run(dbapi_connection, "SET SESSION TRANSACTION READ WRITE")

    return undo


def _mysql_reads(dbapi_connection: Any) -> bool:
    cursor = dbapi_connection.cursor()
    try:  # each server knows one of the two names, or both
        cursor.execute("SHOW SESSION VARIABLES LIKE 't%_read_only'")
        return any(value == "ON" for _, value in cursor.fetchall())
    finally:
        cursor.close()


def _set_default(dbapi_connection: Any) -> None:
    _run(dbapi_connection, _SET_DEFAULT)
    dbapi_connection.commit()


def _reported(dialect: Any, dbapi_connection: Any) -> str | None:
    """Return the setting as the server told it by itself, which PostgreSQL does from 14 on."""
    driver_connection = getattr(dbapi_connection, "driver_connection", dbapi_connection)
    if dialect.driver in ("psycopg2", "psycopg2cffi"):
        value = driver_connection.get_parameter_status(_READ_ONLY_SETTING)
    elif dialect.driver in ("psycopg", "psycopg_async"):
        value = driver_connection.info.parameter_status(_READ_ONLY_SETTING)
    elif dialect.driver == "asyncpg":
        value = getattr(driver_connection.get_settings(), _READ_ONLY_SETTING, None)
    else:
        value = None
    return value  # type: ignore[no-any-return]  # a driver's


# The attribute of a PostgreSQL connection that has its word in each BEGIN that the driver sends.
_ATTRIBUTES = {
    "psycopg2": "readonly",
    "asyncpg": "readonly",
    "psycopg": "read_only",
    "psycopg_async": "read_only",
}


def _run(dbapi_connection: Any, statement: str) -> None:
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


def _row(dbapi_connection: Any, statement: str) -> Any:
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchone()
    finally:
        cursor.close()


def is_refusal(error: BaseException, connection: Any = None) -> bool:
    """True if a server or a driver says that it refused a write because something is read-only.

    :param connection: the driver's, or the adapter's of it, on which the error was raised.
    """
    if isinstance(error, ReadOnlyError):  # it has a sqlstate, too
        return False
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    first = error.args[0] if error.args else None
    if state is None and isinstance(first, dict):
        state = first.get("C")  # pg8000
    if state == "25006":  # read_only_sql_transaction
        return True
    if isinstance(first, int):  # MySQL, MariaDB; 1290 is also about other options
        return first in (1792, 1836) or (first == 1290 and "read" in str(error.args[1:]).lower())
    if "attempt to write a readonly database" not in str(first):
        return False
    # SQLite says that, too, where it can't read: of a WAL database in a directory that it may not
    # write, for example. Its extended codes tell the one from the other.
    code = getattr(error, "sqlite_errorcode", None)  # from Python 3.11 on
    if code is not None:
        return bool(code == _SQLITE_READONLY)
    return connection is None or _can_be_read(connection)


_SQLITE_READONLY = 8  # SQLITE_READONLY_DIRECTORY and the like have other bits as well


def _can_be_read(connection: Any) -> bool:
    """True if a database of SQLite answers a query for which it must read its file."""
    try:
        _run(connection, "SELECT 1 FROM sqlite_master")
    except Exception:  # noqa: BLE001  # whatever it is, it was no write
        return False
    return True


# -- raw cursors -----------------------------------------------------------------------------
#
# Code that takes the driver's connection goes round the dialect. Where a connection knows of which
# class its cursors are, they are of one that examines as well; where SQLite can ask, it asks.

_CURSOR_CLASSES = {
    "psycopg2": ("cursor_factory",),
    "psycopg2cffi": ("cursor_factory",),
    "psycopg": ("cursor_factory", "server_cursor_factory"),
    "psycopg_async": ("cursor_factory", "server_cursor_factory"),
    "pymysql": ("cursorclass",),
    "mysqldb": ("cursorclass",),
    "aiomysql": ("cursorclass",),
    "asyncmy": ("_cursor_cls",),
}
# Adapters make their cursors: SQLAlchemy's, and duckdb_engine's.
_ADAPTED = frozenset(("asyncpg", "aiomysql", "asyncmy", "duckdb_engine"))
_MAKING = frozenset(("mysqlconnector", "mariadbconnector"))  # have no such attribute
_BY_SESSION = frozenset(("psycopg2cffi",))  # begin no transaction as READ ONLY

_DO_EXECUTE = DefaultDialect.do_execute  # before anybody patches it


class _Cursor:
    """A cursor that examines what it is given; its methods are those of all drivers together."""

    __slots__ = ()
    _sa_readonly: Any  # the dialect
    _sa_readonly_attribute: str | None  # of the connection, or None
    _sa_readonly_holder: str  # the attribute that holds the connection

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._sa_readonly_look(query, (args, kwargs))
        return super().execute(query, *args, **kwargs)  # type: ignore[misc]  # the driver's

    def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._sa_readonly_look(query, (args, kwargs), many=True)
        return super().executemany(query, *args, **kwargs)  # type: ignore[misc]

    def stream(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._sa_readonly_look(query, (args, kwargs))
        return super().stream(query, *args, **kwargs)  # type: ignore[misc]

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        self._sa_readonly_look(statement, (args, kwargs))
        return super().copy(statement, *args, **kwargs)  # type: ignore[misc]

    def copy_expert(self, sql: Any, *args: Any, **kwargs: Any) -> Any:
        self._sa_readonly_look(sql, ())
        return super().copy_expert(sql, *args, **kwargs)  # type: ignore[misc]

    def copy_from(self, *args: Any, **kwargs: Any) -> Any:
        self._sa_readonly_look("COPY FROM STDIN", ())

    def callproc(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        postgresql = self._sa_readonly._sa_readonly_family == "postgresql"
        verb = "SELECT" if postgresql else "CALL"
        self._sa_readonly_look(f"{verb} {name}()", ())
        return super().callproc(name, *args, **kwargs)  # type: ignore[misc]

    def _sa_readonly_look(self, query: Any, parameters: Any, *, many: bool = False) -> None:
        dialect = self._sa_readonly
        text = query if query.__class__ is str else _text_of(query, self)
        attribute = self._sa_readonly_attribute
        if attribute is not None:
            connection = getattr(self, self._sa_readonly_holder)
            if getattr(connection, attribute, None) is False:
                what = "A transaction set to READ WRITE"
                raise dialect._sa_readonly_refusal(what, text, kind="statement")
            if dialect._sa_readonly_pooler == "transaction" and (
                why := poolers.unlocked(connection, attribute)
            ):
                raise dialect._sa_readonly_refusal(why, text, kind="statement")
            # Where the driver begins no transaction the session decides; a function may set it.
            free = connection.autocommit is True and text != _SET_DEFAULT
        else:
            free = dialect.driver in _BY_SESSION and text != _SET_DEFAULT
            connection = self.connection if free else None  # type: ignore[attr-defined]  # the driver's
        if free and _reported(dialect, connection) == "off":
            what = "A session set to READ WRITE"
            raise dialect._sa_readonly_refusal(what, text, kind="statement")
        # Back to what the start-up packet said: in a listener that resets a connection.
        if text not in dialect._sa_readonly_passed and text not in _RESETS:
            dialect._sa_readonly_examine(text, parameters)
            if hasattr(self, "mogrify") and hides_a_parameter(text, dialect._sa_readonly_family):
                args, kwargs = parameters or ((), {})
                for values in (*args, *kwargs.values()):
                    for one in values if isinstance(values, list) and many else [values]:
                        dialect._sa_readonly_examine(_text_of(self.mogrify(text, one), self), ())


class _Roomy:
    """Comes first of the bases where cursors have a dict, so that theirs can be changed to it."""


class _Streaming(_Cursor):
    """A server-side cursor, in whose fetches SQLAlchemy's adapter lets pass what asyncpg raises."""

    __slots__ = ()

    def fetchone(self) -> Any:
        with self._sa_readonly_translated():
            return super().fetchone()  # type: ignore[misc]  # the adapter's

    def fetchmany(self, size: int | None = None) -> Any:
        with self._sa_readonly_translated():
            return super().fetchmany(size=size)  # type: ignore[misc]

    def fetchall(self) -> Any:
        with self._sa_readonly_translated():
            return super().fetchall()  # type: ignore[misc]

    @contextlib.contextmanager
    def _sa_readonly_translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_refusal(error):
                raise self._sa_readonly._sa_readonly_refusal(
                    "The statement", kind="server"
                ) from error
            raise


def _text_of(query: Any, cursor: Any) -> str:
    if isinstance(query, str):
        return query
    if isinstance(query, (bytes, bytearray)):
        return _decoded(bytes(query), cursor)
    return query.as_string(cursor)  # type: ignore[no-any-return]  # psycopg's sql.Composable


# In these a character may end in the byte of a backslash, also one that Python does not know.
_WITH_BACKSLASH = frozenset(
    ("big5", "big5hkscs", "gbk", "gb18030", "shift_jis", "shift_jis_2004", "cp932", "johab")
)


def _decoded(query: bytes, cursor: Any) -> str:
    """Return what the server reads, in the connection's encoding."""
    dialect, connection = cursor._sa_readonly, cursor.connection
    if dialect.driver == "psycopg2":
        name = dialect.dbapi.extensions.encodings.get(connection.encoding)
    else:
        name = getattr(getattr(connection, "info", connection), "encoding", None)
    codec = codecs.lookup(name or "utf-8")
    try:
        return codec.decode(query, "strict" if codec.name in _WITH_BACKSLASH else "replace")[0]
    except UnicodeDecodeError as error:
        what = f"A text that can't be read as {codec.name}"
        raise dialect._sa_readonly_refusal(what, kind="statement") from error


def _guard_cursors(dialect: Any, dbapi_connection: Any) -> None:
    """Have what is sent through a raw cursor examined too, where the driver has a way to."""
    if dialect._sa_readonly_family == "sqlite":
        _authorize_by(dialect, dbapi_connection, _authorize)
        _lock_again(dialect, dbapi_connection)
        inner = getattr(dialect.get_driver_connection(dbapi_connection), "_conn", None)
        for one in (dbapi_connection, inner):
            if isinstance(one, listeners.Connecting):
                one.__class__ = one._sa_readonly_later
        if inner.__class__ in _KEEPING:  # aiosqlite's own
            adapter: Any = type(dbapi_connection)
            dbapi_connection.__class__ = _keeping(adapter, adapted=True)
        return
    driver_connection = dialect.get_driver_connection(dbapi_connection)
    if dialect.driver in _ADAPTED:
        dbapi_connection.__class__ = _adapter(type(dbapi_connection), dialect)
    if dialect.driver in _MAKING:
        made = _adapter(type(driver_connection), dialect)
        shared.put_on(driver_connection, "__class__", made)
    for name in _CURSOR_CLASSES.get(dialect.driver, ()):
        base = getattr(driver_connection, name) or dialect.dbapi.extensions.cursor  # psycopg2's
        shared.put_on(driver_connection, name, _examining(base, dialect))


def _authorize_by(dialect: Any, dbapi_connection: Any, answer: Callable[..., int]) -> None:
    if not can_authorize(dialect):
        return
    if hasattr(dbapi_connection, "run_async"):
        dbapi_connection.run_async(
            lambda connection: connection.set_authorizer(_answering(connection._conn, answer))
        )
    else:
        dbapi_connection.set_authorizer(_answering(dbapi_connection, answer))


def _answering(connection: Any, answer: Callable[..., int]) -> Callable[..., int] | None:
    """Return what to give to the set_authorizer() of a connection, so that it answers this."""
    if not isinstance(connection, Keeping):
        return answer
    connection._sa_readonly_answer = answer
    return connection._sa_readonly_theirs


_KEEPING: set[type[Any]] = set()  # classes of connections; the class is all a check-in looks at


@cache
def _keeping(base: type[Any], *, adapted: bool = False) -> type[Any]:
    """Return a class of connections that keep their lock, or of SQLAlchemy's adapters of one."""
    # Its repr() stays that of the driver's, by which people filter warnings.
    body: dict[str, Any] = {"__module__": base.__module__}
    if adapted:
        body["__slots__"] = ()
    made = type(base.__name__, (base,) if adapted else (Keeping, base), body)
    _KEEPING.add(made)
    return made


def _examining(base: type[Any], dialect: Any) -> type[Any]:
    """Return a driver's class of cursors, made to examine; one for each dialect."""
    known = dialect.__dict__.setdefault("_sa_readonly_classes", {})
    if base not in known:
        body = {
            "__slots__": (),
            "_sa_readonly": dialect,
            "_sa_readonly_attribute": _ATTRIBUTES.get(dialect.driver),
            "_sa_readonly_holder": "_adapt_connection"
            if dialect.driver in _ADAPTED
            else "connection",
        }
        kind = _Streaming if getattr(base, "server_side", False) else _Cursor
        bases = (kind, base)
        if dialect.driver in _ADAPTED and base.__dictoffset__:
            bases = (_Roomy, *bases)  # type: ignore[assignment]  # one more
        made = known[base] = type(base.__name__, bases, body)
        # A dialect with a do_execute() of its own goes on through it. It may be released by now.
        theirs = getattr(type(dialect), "_sa_readonly_base", type(dialect))
        if theirs.do_execute is _DO_EXECUTE and dialect.driver not in _BY_SESSION:
            dialect.__dict__.setdefault("_sa_readonly_straight", {})[made] = base
    return known[base]  # type: ignore[no-any-return]  # made by type()


def _adapter(base: type[Any], dialect: Any) -> type[Any]:
    """Return a class of connections, or of SQLAlchemy's adapters, of which the cursors examine."""
    # One that MySQL's driver lends from its pool has the method of the connection behind it.
    theirs = getattr(base, "cursor", None) or (
        lambda self, *args, **kwargs: self.__getattr__("cursor")(*args, **kwargs)
    )

    def cursor(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = theirs(self, *args, **kwargs)
        if dialect.driver == "mysqlconnector":  # its cursors can't change their class
            return theirs(self, cursor_class=_examining(type(made), dialect))
        made.__class__ = _examining(type(made), dialect)
        return made

    known = dialect.__dict__.setdefault("_sa_readonly_classes", {})
    if base not in known:
        body = {"__slots__": (), "cursor": cursor, "_sa_readonly_adapted": base}
        known[base] = type(base.__name__, (base,), body)
    return known[base]  # type: ignore[no-any-return]  # made by type()


def _authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
    """Answer SQLite, which asks when it prepares a statement: 0 is yes, 1 is no."""
    if action == _SQLITE_ATTACH:
        return 1
    return int(action == _SQLITE_PRAGMA and writing_pragma(first or "", second))


_SQLITE_PRAGMA = 19
_SQLITE_ATTACH = 24
