"""Rehearsing: a read-write engine on which what a flip would refuse is noted, and done.

The examination is the one that refuses on a read-only engine. What was noted is kept by
:mod:`.rehearsal.notes`, with the place in the application's code.
"""

from __future__ import annotations

import contextlib
import sys
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..refusals import route_here
from ..rehearsal import callsite
from ..rehearsal.held import NAME, hold
from ..rehearsal.notes import READ, Key, failed, unbroken
from . import guard, privates
from .grace import Judging, judge
from .guard import Gated, ReadOnly
from .guarded import PASSED, Examining, Guarded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from sqlalchemy.engine import Connection, Engine

    from ..rehearsal.held import Held

__all__ = [
    "FLUSH",
    "REFUSED",
    "SERVED",
    "Rehearsing",
    "RehearsingJudging",
    "checked_out",
    "refuse",
    "rehearses",
]

SERVED = "served"
"""The road of a connection in the place of which a read-only one would be given out."""
FLUSH = "flush"
"""The road of what a RoutingSession sends by itself, of a flush or a bulk method."""
REFUSED = "_sa_readonly_refused"
"""The key, in what a transaction keeps, of whether something in it would have been refused."""

_A_READ = "A transaction that begins with a read"


class Rehearsing(Gated, Examining):
    """The dialect of a read-write engine while this process rehearses.

    It is taken from the dialect again as :class:`.Judging` is, in the middle of a method, and at a
    selector's close all of the guard is. So how it is sent is settled before it is examined.
    """

    def do_begin(self, dbapi_connection: Any) -> None:
        Gated.do_begin(self, dbapi_connection)
        _begin(dbapi_connection)

    def do_begin_twophase(self, connection: Connection, xid: Any) -> None:
        Gated.do_begin_twophase(self, connection, xid)
        _begin(connection.connection)

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        straight: type[Any] | None
        try:
            held = privates.on_connection_of(context).__dict__[NAME]
            straight = self._sa_readonly_straight[cursor.__class__]  # its own would examine again
            if not held.settled or statement not in self._sa_readonly_passed:
                straight = None
        except (KeyError, AttributeError):
            straight = None
        if straight is None:
            _send(self, cursor, statement, parameters, context)
            return
        held.running = cursor
        try:
            straight.execute(cursor, statement, parameters)
        finally:
            held.running = None

    # What sends is taken before a text is examined: in that time the class may be taken away.

    def do_executemany(
        self, cursor: Any, statement: str, parameters: Any, context: Any = None
    ) -> None:
        send = super(Gated, self).do_executemany
        held = _examined(self, cursor, statement, parameters, context)
        try:
            if isinstance(self, Judging):
                judge(self, statement, parameters, context)
            send(cursor, statement, parameters, context)
        finally:
            held.running = None

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        send = super(Gated, self).do_execute_no_params
        held = _examined(self, cursor, statement, (), context)
        try:
            if isinstance(self, Judging):
                judge(self, statement, (), context)
            send(cursor, statement, context)
        finally:
            held.running = None

    def do_rollback_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        if recover:
            _note(self, "ROLLBACK PREPARED", "transaction", connection)
        super(Gated, self).do_rollback_twophase(connection, xid, is_prepared, recover)

    def do_commit_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        if recover:
            _note(self, "COMMIT PREPARED", "transaction", connection)
        super(Gated, self).do_commit_twophase(connection, xid, is_prepared, recover)

    def _sa_readonly_would(self, statement: str, parameters: Any) -> str | None:
        # Here a text that would be refused comes again and again.
        found = self.__dict__.setdefault("_sa_readonly_found", {})
        if statement in found:
            return found[statement]  # type: ignore[no-any-return]  # untyped
        what = Guarded._sa_readonly_would(self, statement, parameters)
        if what is not None and Examining._sa_readonly_may_remember(self, statement):
            if len(found) >= PASSED:
                found.clear()
            found[statement] = what
        return what

    def _sa_readonly_refuse(self, what: str, statement: str, context: Any) -> None:
        _note(self, what, "statement", context and context.root_connection)

    def _sa_readonly_rehearse(self, cursor: Any, statement: str, parameters: Any) -> None:
        if statement in self._sa_readonly_passed:
            return
        with contextlib.suppress(Exception):  # whatever it is, it is sent
            on = getattr(cursor, "_sa_readonly_connection", attrgetter("connection"))(cursor)
            several = (one for book in self._sa_readonly_notebooks for one in [*book.held.values()])
            held = next((one for one in several if one.is_of(on)), None)
            if held is None or held.running is not cursor:  # else SQLAlchemy sends it
                proxied = None if held is None else held.proxied
                context = SimpleNamespace(root_connection=SimpleNamespace(connection=proxied))
                Examining._sa_readonly_examine(self, statement, parameters, context)


class RehearsingJudging(Rehearsing, Judging):
    """The same, of connections under AUTOCOMMIT."""

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        _send(self, cursor, statement, parameters, context)


class _Nothing:
    """What is known of a connection that belongs to no pool."""

    running: Any = None
    settled = True


_NOTHING = _Nothing()
_NONE: dict[str, Any] = {}


def _send(dialect: Rehearsing, cursor: Any, statement: str, parameters: Any, context: Any) -> None:
    straight = dialect._sa_readonly_straight.get(cursor.__class__)
    send = super(Gated, dialect).do_execute if straight is None else None
    held = _examined(dialect, cursor, statement, parameters, context)
    try:
        if isinstance(dialect, Judging):
            judge(dialect, statement, parameters, context)
        if send is None:
            straight.execute(cursor, statement, parameters)  # type: ignore[union-attr]  # it is one of both
        else:
            send(cursor, statement, parameters, context)
    finally:
        held.running = None


def _begin(proxied: Any) -> None:
    held = getattr(proxied, "__dict__", _NONE).get(NAME)
    if held is not None:
        held.begin()


def _examined(
    dialect: Any, cursor: Any, statement: str, parameters: Any, context: Any
) -> Held | _Nothing:
    """Examine a statement, and take note that it runs; return what is known of its connection."""
    try:
        proxied = privates.on_connection_of(context)
        held: Held = proxied.__dict__.get(NAME) or hold(proxied)  # it was given out before
    except Exception:  # noqa: BLE001  # above all as SQLAlchemy asks a new server for its version
        return _NOTHING
    held.running = cursor
    try:
        _examine(dialect, held, statement, parameters, context)
    except Exception as error:  # noqa: BLE001  # whatever it is, the statement is sent
        if isinstance(dialect, Rehearsing):  # else it has ended in another thread
            failed(error)
    return held


def _examine(dialect: Any, held: Held, statement: str, parameters: Any, context: Any) -> None:
    if statement not in dialect._sa_readonly_passed:
        held.found = False
        Examining._sa_readonly_examine(dialect, statement, parameters, context)
        if held.found:
            return
    if held.settled:
        return
    held.settled = True
    connection = context.root_connection
    if REFUSED in getattr(connection, "_sa_readonly_pin", ()):
        return
    call = held.call
    if held.begun or SERVED not in call.roads:  # else it is this call that has checked it out
        call = callsite.here("read")
    held.begun = True
    for notebook in dialect._sa_readonly_notebooks:
        notebook.note(Key(call.site, held.route, _role_of(connection), READ), _A_READ)


@unbroken
def _note(dialect: Any, what: str, kind: str, connection: Any) -> None:
    """Note what is sent on a connection, and would be refused."""
    held = None
    proxied = getattr(connection, "connection", None)
    if proxied is not None:
        held = vars(proxied).get(NAME)
    if held is not None:
        held.found = True
    call = callsite.here("statement")
    if FLUSH in call.roads:
        return  # the flush was noted before it began
    kept: dict[Any, Any] = getattr(connection, "_sa_readonly_pin", {})
    behind = REFUSED in kept or (held is not None and (held.refused or held.barred))
    kept[REFUSED] = True
    if held is not None:
        held.refused = held.settled = True
    _write(dialect, call, what, kind, _role_of(connection), behind=behind)


def _write(
    dialect: Any, call: callsite.Call, what: str, kind: str, role: str, *, behind: bool
) -> None:
    key = Key(call.site, route_here(), role, kind)
    for notebook in dialect._sa_readonly_notebooks:
        notebook.note(key, what, behind=behind)


def _role_of(connection: Any) -> str:
    return getattr(connection, "_sa_readonly_role", "primary")


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
    _note_here(dialect, what, kind, role, behind=behind)


@unbroken
def _note_here(dialect: Any, what: str, kind: str, role: str, *, behind: bool) -> None:
    _write(dialect, callsite.here("session"), what, kind, role, behind=behind)


def rehearses(engine: Engine) -> bool:
    """True if what a flip would refuse on a read-write engine is noted."""
    return isinstance(engine.dialect, Rehearsing)


@unbroken
def checked_out(engine: Engine, proxied: Any) -> None:
    """Take note of a connection that is given out: code that has kept the engine is refused it."""
    dialect: Any = engine.dialect
    held = hold(proxied)
    for notebook in dialect._sa_readonly_notebooks:
        notebook.held[id(proxied)] = held
    if isinstance(dialect, ReadOnly):
        held.role = "replica"
    served = SERVED in held.call.roads or FLUSH in held.call.roads
    if served or _was_picked(dialect, sys._getframe(1)):
        if held.role == "replica":
            _write(dialect, held.call, "A connection", READ, held.role, behind=False)
        return
    held.barred = held.settled = True
    what = "A read-write connection"
    _write(dialect, held.call, what, "connection", held.role, behind=False)


def _was_picked(dialect: Any, frame: FrameType) -> bool:
    return any(notebook.was_picked(frame) for notebook in dialect._sa_readonly_notebooks)
