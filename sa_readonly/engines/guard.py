"""What refuses: the dialects of guarded engines, and what the rest of the package asks of them.

The guard sits in the dialect, below sessions, connections and event listeners: all that executes
through an engine passes it, also through clones made by ``execution_options()``, and where nothing
is refused it costs no more than an attribute. An engine's dialect becomes one of these in place,
see :mod:`.protection`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .. import refusals
from ..mode import Mode, clock
from ..refusals import refusal
from . import locks, poolers, shared, sqlite
from .answers import answered, bounded, told_by
from .cursors import SHUT, note_cursors, noting_start
from .guarded import Examining, Guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from ..errors import ReadOnlyError
    from ..mode import State, Switch

__all__ = [
    "Connecting",
    "Examining",
    "Gated",
    "GatedReadOnly",
    "Guarded",
    "Limit",
    "ReadOnly",
    "ask",
    "examines",
    "gates",
    "is_final",
    "read_only",
    "refresh",
    "refused",
    "refused_connection",
    "serves",
    "told",
    "uncounted",
    "was_served",
]

_A_TRANSACTION = "A read-write transaction"
_TRIES = 3  # how often a refused connection is asked for again, where it is read-write all the same
_READ_ONLY_MODE = Mode.READ_ONLY  # an attribute of a class of enum is slow, in Python 3.11


# -- read-write engines ----------------------------------------------------------------------


class Limit(NamedTuple):
    """How what had begun at a flip may go on.

    :param deadline: the :func:`time.monotonic` time, in seconds, from which on it is refused.
    :param reads: whether it lives on, whatever the deadline, and is refused what writes. A test
        needs that: it keeps one transaction around all that it does in both modes.
    """

    deadline: float
    reads: bool = False


class Connecting(Guarded):
    """The dialect by which connections of both kinds are made, its own and its twin's."""

    def connect(self, *cargs: Any, **cparams: Any) -> DBAPIConnection:
        if locks.for_twin.get():
            with poolers.told(self):
                connection = super().connect(*cargs, **locks.start_up(self, cparams))
        else:
            # Not of a replica, whose cursors refuse.
            rehearses = bool(self._sa_readonly_notebooks) and not self._sa_readonly_never_writes
            cparams = noting_start(self, cparams) if rehearses else sqlite.referable(self, cparams)
            connection = super().connect(*cargs, **bounded(self.driver, cparams))
            if rehearses:
                note_cursors(self, connection)
        return shared.made(self, connection)  # type: ignore[no-any-return]  # made() returns its argument


class Gated(Connecting):
    """The dialect of a read-write engine: no transaction begins while read-only."""

    _sa_readonly_begins: bool  # whether the dialect's own do_begin() does anything
    _sa_readonly_bars: Mapping[object, Callable[[], ReadOnlyError]] = {}  # see protection.bar()
    _sa_readonly_limits: Mapping[object, Limit] = {}  # what had begun, see grace.py
    _sa_readonly_keeps = False  # whether the pool holds the database itself: nothing is closed
    # What is told that the server says no, see answers.py. Its error is raised as ours if any is.
    _sa_readonly_answers: Mapping[object, Callable[[], None]] = {}
    _sa_readonly_begun: Callable[[], None] | None = None  # see protection.count_begins()
    _sa_readonly_commits: bool  # whether the dialect's own do_commit() does more than the driver's

    def do_begin(self, dbapi_connection: Any) -> None:
        for switch in self._sa_readonly_gates:
            if clock() >= switch.fresh_until or switch.known.mode is _READ_ONLY_MODE:
                self._sa_readonly_ask(_A_TRANSACTION, "transaction")
        if self._sa_readonly_bars:
            raise next(iter(self._sa_readonly_bars.values()))()
        if self._sa_readonly_begun is not None:
            self._sa_readonly_begun()
        if self._sa_readonly_begins:
            super().do_begin(dbapi_connection)

    def do_commit(self, dbapi_connection: Any) -> None:
        try:
            if self._sa_readonly_commits:
                super().do_commit(dbapi_connection)
            else:
                dbapi_connection.commit()
        except Exception as error:
            refused = answered(self, error, dbapi_connection, "The COMMIT")
            if refused is None:
                raise
            raise refused from error

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:
        self._sa_readonly_ask(_A_TRANSACTION, "transaction")
        if self._sa_readonly_begun is not None:
            self._sa_readonly_begun()
        super().do_begin_twophase(connection, xid)

    def _sa_readonly_ask(
        self,
        what: str,
        kind: str,
        statement: str | None = None,
        but: object = None,
        *,
        made: bool = False,
    ) -> None:
        """Refuse ``what`` while nothing may begin, by answers that are fresh; see :func:`ask`."""
        for switch in self._sa_readonly_gates:
            if switch is but:
                continue
            if made and switch.confirms:
                state = self._sa_readonly_confirm(switch)
            else:
                fresh = clock() < switch.fresh_until
                state = switch.known if fresh else self._sa_readonly_refresh(switch)
            if state.mode is _READ_ONLY_MODE:
                cure = self._sa_readonly_cure
                raise refusal(what, state, statement, kind=kind, switch=switch, cure=cure)
        if self._sa_readonly_bars:
            raise next(iter(self._sa_readonly_bars.values()))()


# -- read-only engines -----------------------------------------------------------------------


class ReadOnly(Examining):
    """The dialect of a read-only engine: each text is examined, the first time it is seen."""

    _sa_readonly_never_writes = True
    _sa_readonly_skipped: tuple[str, ...] = ()  # told once each, see sqlite.skipped()

    def connect(self, *cargs: Any, **cparams: Any) -> DBAPIConnection:
        with poolers.told(self):
            connection = super().connect(*cargs, **locks.start_up(self, cparams))
        return shared.made(self, connection)  # type: ignore[no-any-return]  # made() returns its argument

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        if statement not in self._sa_readonly_passed:
            statement = self._sa_readonly_examine(statement, parameters, context)
        # Not by __class__: a proxy, as of a tool for tracing, has that of the cursor behind it.
        elif (base := self._sa_readonly_straight.get(type(cursor))) is not None:
            # The cursor examines, too. It would find nothing where the text has passed, the lock is
            # shut and no value can be SQL, so the driver's own method is called. That is looked up
            # each time, as tools for tracing patch it.
            lock, plain = cursor._sa_readonly_lock, cursor._sa_readonly_plain
            if lock is None or lock(cursor) == SHUT:
                straight = plain is None
                if plain is not None:  # as may_render(), without its call
                    by_name = parameters.__class__ is dict
                    straight = by_name or parameters.__class__ in (tuple, list)
                    for one in parameters:
                        straight = straight and (
                            (parameters[one] if by_name else one).__class__ in plain
                        )
                if straight:
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
        # The execution option postgresql_readonly=False comes here, and so does SQLAlchemy's reset
        # after it, which sets False whatever it was before.
        super().set_readonly(connection, True)  # type: ignore[misc]  # PostgreSQL's dialects have it

    # A two-phase transaction that only reads has nothing to prepare, and a standby could not. So it
    # is an ordinary one.
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

    def _sa_readonly_refuse(self, what: str, statement: str, context: Any) -> None:
        raise self._sa_readonly_refusal(what, statement, kind="statement", **told_by(context))

    def _sa_readonly_refuse_recovery(self, what: str, recover: bool) -> None:
        if recover:  # the transaction was prepared on another connection, and wrote
            raise self._sa_readonly_refusal(what, kind="transaction")


class GatedReadOnly(Gated, ReadOnly):
    """The dialect of a replica that is taken away with the primary, and is never written."""


# -- what is asked of an engine --------------------------------------------------------------


def read_only(engine: Engine) -> bool:
    """True if nothing can be written through this engine, in either mode."""
    return isinstance(engine.dialect, ReadOnly)


def examines(engine: Engine) -> bool:
    """True if a write through this engine is refused, or noted in a rehearsal."""
    return isinstance(engine.dialect, Examining)


def serves(engine: Engine) -> bool:
    """True if a read-only engine serves the role "replica" while read-write."""
    dialect: Any = engine.dialect
    return dialect._sa_readonly_serves  # type: ignore[no-any-return]  # untyped


def gates(engine: Engine) -> tuple[Switch, ...]:
    """Return the switches by which an engine is taken away; none if it is not guarded."""
    dialect = engine.dialect
    return dialect._sa_readonly_gates if isinstance(dialect, Gated) else ()


def told(engine: Engine) -> tuple[Switch, ...]:
    """Return the switches for which an engine is read-only; a twin's are its engine's."""
    dialect = engine.dialect
    if not isinstance(dialect, ReadOnly):
        return ()
    return dialect._sa_readonly_told or dialect._sa_readonly_gates


def refresh(engine: Engine, switch: Switch) -> State:
    """Refresh one of these switches; the event loop of an async engine does not wait for it."""
    dialect: Any = engine.dialect
    return dialect._sa_readonly_refresh(switch)  # type: ignore[no-any-return]  # untyped


def ask(engine: Engine, what: str, kind: str, but: object = None, *, made: bool = False) -> None:
    """Refuse ``what`` of a gated engine while nothing may begin, by answers that are fresh.

    :param kind: one of :data:`.refusals.KINDS`.
    :param but: a switch that is not asked.
    :param made: whether it is a connection that has just been made; see :attr:`.Switch.confirms`.
    """
    dialect: Any = engine.dialect
    if isinstance(dialect, Gated):  # it may have been released meanwhile
        dialect._sa_readonly_ask(what, kind, but=but, made=made)


def refused(
    engine: Engine, what: str, kind: str, role: str = "primary", *, began: bool = False
) -> ReadOnlyError:
    """Return the error that refuses ``what`` on a guarded engine; see :func:`.refusals.refusal`.

    :param role: the role of the session.
    :param began: whether its transaction began read-only.
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


def is_final(error: ReadOnlyError, tries: int) -> bool:
    """True if it helps no more to connect again while read-write: it was no flip that refused it.

    :param tries: how often a connection was refused although it is read-write.
    """
    return tries > _TRIES or error._kind == "unregistered"


def was_served(engine: Engine, error: ReadOnlyError) -> None:
    """Take back a refusal: the read was served by another engine."""
    refusals.take_back(_switch_of(engine), error)


def uncounted(engine: Engine, error: ReadOnlyError) -> AbstractContextManager[None]:
    """Leave a refusal uncounted inside the block; see :func:`.refusals.uncounted`."""
    return refusals.uncounted(_switch_of(engine), error)


def _switch_of(engine: Engine) -> Switch | None:
    dialect: Any = engine.dialect
    return dialect._sa_readonly_says()[0]  # type: ignore[no-any-return]  # untyped
