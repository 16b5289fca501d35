"""What had begun when the mode flipped, and AUTOCOMMIT: statements that are judged one by one.

A transaction that began read-write may go on after a flip, for ever or for its grace. Under
AUTOCOMMIT each statement is a transaction of its own, so each is asked for. An engine's dialect is
one of these classes while it is read-only, or under AUTOCOMMIT; else nothing is asked of a
statement, and nothing reads the clock for it.
"""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..errors import ReadOnlyError
from ..mode import Mode, clock
from . import privates
from .guard import Gated, GatedReadOnly

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["Judging", "JudgingReadOnly", "judge"]

_READ_ONLY_MODE = Mode.READ_ONLY  # an attribute of a class of enum is slow, in Python 3.11


class Judging(Gated):
    """A dialect of a gated engine that judges each statement before it is sent.

    A flip in another thread may take this class from the dialect in the middle of a method. So what
    is called is a function, or found from :class:`.Gated` on.
    """

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        judge(self, statement, parameters, context)
        super(Gated, self).do_execute(cursor, statement, parameters, context)

    def do_executemany(
        self, cursor: Any, statement: str, parameters: Any, context: Any = None
    ) -> None:
        judge(self, statement, parameters, context)
        super(Gated, self).do_executemany(cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        judge(self, statement, (), context)
        super(Gated, self).do_execute_no_params(cursor, statement, context)

    def do_commit(self, dbapi_connection: Any) -> None:
        try:
            _expire(self, None, "COMMIT")
        except ReadOnlyError:
            self.do_rollback(dbapi_connection)  # its retired pool closes it when it comes back
            raise
        Gated.do_commit(self, dbapi_connection)

    def do_prepare_twophase(self, connection: Connection, xid: Any) -> None:
        # Some drivers send it by their tpc_prepare(), which no method for statements sees.
        _expire(self, connection, "PREPARE TRANSACTION")
        super(Gated, self).do_prepare_twophase(connection, xid)

    def do_commit_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        if not is_prepared:
            _expire(self, connection, "COMMIT")
        # What is prepared outlives its connection, and its other databases may have committed.
        token = _ending.set(is_prepared)
        try:
            super(Gated, self).do_commit_twophase(connection, xid, is_prepared, recover)
        finally:
            _ending.reset(token)

    def do_rollback_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        token = _ending.set(True)
        try:
            super(Gated, self).do_rollback_twophase(connection, xid, is_prepared, recover)
        finally:
            _ending.reset(token)


class JudgingReadOnly(Judging, GatedReadOnly):
    """Judges the statements of a replica that is taken away, and so is gated and read-only."""


# Set while a two-phase transaction ends that is prepared already, or is rolled back.
_ending: ContextVar[bool] = ContextVar("sa_readonly_ending", default=False)


def judge(dialect: Any, statement: str, parameters: Any, context: Any) -> None:
    """Refuse a statement that may not be sent any more."""
    if not isinstance(dialect, Gated):
        return  # its selector was closed in another thread
    limits = dialect._sa_readonly_limits
    if not limits and not dialect._sa_readonly_bars:
        now = clock()
        for switch in dialect._sa_readonly_gates:
            if now >= switch.fresh_until or switch.known.mode is _READ_ONLY_MODE:
                break
        else:
            return
    if any(limit.reads for limit in limits.values()):
        what = dialect._sa_readonly_would(statement, parameters)
        if what is not None:
            raise dialect._sa_readonly_refusal(what, statement, kind="statement")
        return
    _expire(dialect, context and context.root_connection, statement)


def _expire(dialect: Any, connection: Any, statement: str) -> None:
    """Refuse a statement if time is up, and close the connection: the server rolls back then.

    :param connection: SQLAlchemy's; None where it is not known, and is left open.
    """
    limits = dialect._sa_readonly_limits.values()
    if any(limit.reads for limit in limits):
        return
    if connection is not None and not connection.in_transaction():
        return  # SQLAlchemy asks the server for its version, on the first connection of an engine
    try:
        if connection is not None and _commits_itself(connection):
            what = "A read-write statement under AUTOCOMMIT"  # it would be a new transaction
            dialect._sa_readonly_ask(what, "transaction", statement)
            return
        deadline = min((limit.deadline for limit in limits), default=math.inf)
        ends = _ending.get() or statement.startswith("ROLLBACK")
        if ends or time.monotonic() < deadline:
            return
        what = "A read-write transaction that went on after its grace"
        raise dialect._sa_readonly_refusal(what, statement, kind="grace")
    except ReadOnlyError as error:
        if connection is not None and not dialect._sa_readonly_keeps:
            if dialect.is_async or dialect.name == "sqlite":
                privates.disconnect(connection)
            privates.close_detached(connection)
            connection.invalidate(error)
        raise


def _commits_itself(connection: Connection) -> bool:
    level = connection.get_execution_options().get("isolation_level")
    return privates.commits(connection.dialect) if level is None else bool(level == "AUTOCOMMIT")
