"""Rehearsing: a read-write engine on which what a flip would refuse is noted, and done.

The examination is the one that refuses on a read-only engine. What was noted is kept by
:mod:`.rehearsal.notes`, with the place in the application's code.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..refusals import route_here
from ..rehearsal import callsite
from ..rehearsal.held import NAME, hold
from ..rehearsal.notes import READ, Key
from . import guard, privates
from .grace import Judging
from .guard import Examining, ReadOnly

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from sqlalchemy.engine import Connection, Engine

    from ..rehearsal.held import Held

__all__ = ["FLUSH", "REFUSED", "SERVED", "Rehearsing", "checked_out", "refuse", "rehearses"]

logger = logging.getLogger("sa_readonly")

SERVED = "served"
"""The road of a connection in the place of which a read-only one would be given out."""
FLUSH = "flush"
"""The road of what a RoutingSession sends by itself, of a flush or a bulk method."""
REFUSED = "refused"
"""The key, in what a transaction keeps, of whether something in it would have been refused."""


class Rehearsing(Judging, Examining):
    """The dialect of a read-write engine while this process rehearses.

    It is taken from the dialect again as :class:`.Judging` is, in the middle of a method.
    """

    def do_begin(self, dbapi_connection: Any) -> None:
        Judging.do_begin(self, dbapi_connection)
        _begin(dbapi_connection)

    def do_begin_twophase(self, connection: Connection, xid: Any) -> None:
        Judging.do_begin_twophase(self, connection, xid)
        _begin(connection.connection)

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        with _sent(self, cursor, statement, parameters, context):
            Judging.do_execute(self, cursor, statement, parameters, context)

    def do_executemany(
        self, cursor: Any, statement: str, parameters: Any, context: Any = None
    ) -> None:
        with _sent(self, cursor, statement, parameters, context):
            Judging.do_executemany(self, cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        with _sent(self, cursor, statement, (), context):
            Judging.do_execute_no_params(self, cursor, statement, context)

    def do_rollback_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        _note_recovery(self, "ROLLBACK PREPARED", connection, recover=recover)
        Judging.do_rollback_twophase(self, connection, xid, is_prepared, recover)

    def do_commit_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        _note_recovery(self, "COMMIT PREPARED", connection, recover=recover)
        Judging.do_commit_twophase(self, connection, xid, is_prepared, recover)

    def _sa_readonly_refuse(self, what: str, statement: str, context: Any) -> None:
        _note(self, what, "statement", context and context.root_connection)

    def _sa_readonly_rehearse(self, cursor: Any, statement: str, parameters: Any) -> None:
        if id(cursor) in _sending or statement in self._sa_readonly_passed:
            return
        with contextlib.suppress(Exception):  # whatever it is, it is sent
            on: Any = getattr(cursor, privates.CONNECTION_OF_ADAPTED_CURSOR, None)
            on = on or cursor.connection
            held = (one for book in self._sa_readonly_notebooks for one in list(book.held))
            proxied = next((one.proxied for one in held if one.is_of(on)), None)
            context = SimpleNamespace(root_connection=SimpleNamespace(connection=proxied))
            Examining._sa_readonly_examine(self, statement, parameters, context)


# The cursors through which SQLAlchemy sends what was examined already, by identity.
_sending: set[int] = set()


class _sent:  # noqa: N801  # a context manager that costs less than a generator's
    """A statement of SQLAlchemy's is examined, and runs inside the block."""

    __slots__ = ("cursor", "held")

    def __init__(
        self, dialect: Any, cursor: Any, statement: str, parameters: Any, context: Any
    ) -> None:
        self.cursor = id(cursor)
        try:
            self.held = _examine(dialect, statement, parameters, context)
        except Exception:  # whatever it is, the statement is sent
            self.held = None
            logger.exception("What a rehearsal would note of a statement is not known.")

    def __enter__(self) -> None:
        _sending.add(self.cursor)

    def __exit__(self, *_: object) -> None:
        _sending.discard(self.cursor)
        if self.held is not None:
            self.held.running = False


def _begin(proxied: Any) -> None:
    held = vars(proxied).get(NAME)
    if held is not None:
        held.begin()


def _examine(dialect: Any, statement: str, parameters: Any, context: Any) -> Held | None:
    """Examine a statement, and take note that it runs."""
    try:
        proxied: Any = privates.on_connection_of(context)
        held: Held = proxied.__dict__.get(NAME) or hold(proxied)
    except AttributeError:  # SQLAlchemy asks a new server for its version
        return None
    held.running = True
    if statement not in dialect._sa_readonly_passed:
        held.found = False
        Examining._sa_readonly_examine(dialect, statement, parameters, context)
        if held.found:
            return held
    if not (held.read or held.refused or held.barred):
        held.read = True
        connection = context.root_connection
        if REFUSED not in getattr(connection, "_sa_readonly_pin", ()):
            call = callsite.here()
            key = Key(call.site, route_here(), _role_of(connection), READ)
            for notebook in dialect._sa_readonly_notebooks:
                notebook.note(key, "A transaction that begins with a read")
    return held


def _note(dialect: Any, what: str, kind: str, connection: Any) -> None:
    """Note what is sent on a connection, and would be refused."""
    held = None
    proxied = getattr(connection, "connection", None)
    if proxied is not None:
        held = vars(proxied).get(NAME)
    if held is not None:
        held.found = True
    call = callsite.here()
    if FLUSH in call.roads:
        return  # the flush was noted before it began
    kept: dict[Any, Any] = getattr(connection, "_sa_readonly_pin", {})
    behind = REFUSED in kept or (held is not None and (held.refused or held.barred))
    kept[REFUSED] = True
    if held is not None:
        held.refused = True
    _write(dialect, call, what, kind, _role_of(connection), behind=behind)


def _write(
    dialect: Any, call: callsite.Call, what: str, kind: str, role: str, *, behind: bool
) -> None:
    key = Key(call.site, route_here(), role, kind)
    for notebook in dialect._sa_readonly_notebooks:
        notebook.note(key, what, behind=behind)


def _role_of(connection: Any) -> str:
    return getattr(connection, "_sa_readonly_role", "primary")


def _note_recovery(dialect: Any, what: str, connection: Connection, *, recover: bool) -> None:
    if recover:
        _note(dialect, what, "transaction", connection)


# -- what is asked of it ---------------------------------------------------------------------


def refuse(
    engine: Engine,
    what: str,
    kind: str,
    role: str,
    *,
    began: bool = False,
    kept: Sequence[dict[Any, Any]] = (),
) -> None:
    """Refuse what a session would write through a guarded engine, or note it in a rehearsal.

    :param kind: one of :data:`.refusals.KINDS`.
    :param role: the role of the session.
    :param began: whether its transaction began read-only.
    :param kept: what its transaction keeps: where it is noted that something in it was refused.
    :raises ReadOnlyError: outside a rehearsal, and where it is refused in either mode.
    """
    dialect: Any = engine.dialect
    if role != "primary" or guard.read_only(engine):
        raise guard.refused(engine, what, kind, role, began=began)
    if kind == "statement":
        return  # it is noted as it is sent
    behind = any(REFUSED in one for one in kept)
    for one in kept:
        one[REFUSED] = True
    _write(dialect, callsite.here(), what, kind, role, behind=behind)


def rehearses(engine: Engine) -> bool:
    """True if what a flip would refuse on a read-write engine is noted."""
    return isinstance(engine.dialect, Rehearsing)


def checked_out(engine: Engine, proxied: Any) -> None:
    """Take note of a connection that is given out: code that has kept the engine is refused it."""
    dialect: Any = engine.dialect
    held = hold(proxied)
    for notebook in dialect._sa_readonly_notebooks:
        notebook.held.add(held)
    if isinstance(dialect, ReadOnly):
        held.role = "replica"
    served = SERVED in held.call.roads or FLUSH in held.call.roads
    if served or _was_picked(dialect, sys._getframe(1)):
        if held.role == "replica":
            _write(dialect, held.call, "A connection", READ, held.role, behind=False)
        return
    held.barred = True
    what = "A read-write connection"
    _write(dialect, held.call, what, "connection", held.role, behind=False)


def _was_picked(dialect: Any, frame: FrameType) -> bool:
    return any(notebook.was_picked(frame) for notebook in dialect._sa_readonly_notebooks)
