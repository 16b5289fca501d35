"""Protecting engines: each one's dialect becomes, in place, what is asked of it now.

An engine that is taken away while read-only is gated, one that is read-only in both modes is
protected, and a replica may be both. A flip puts limits on a gated engine, and a worker that is not
registered bars it. :func:`release` gives the dialect its own class back.
"""

from __future__ import annotations

import logging
import threading
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine.default import DefaultDialect

from ..forks import PerProcess
from ..rehearsal.notes import notebook_of
from ..telemetry import fields
from . import poolers, privates
from .answers import GatedContext, ReadOnlyContext
from .classes import become, grow
from .cursors import ADAPTED
from .dialects import LOCKED, can_authorize, family, holds_file, shown
from .grace import Judging, JudgingReadOnly
from .guard import Gated, GatedReadOnly, Guarded, ReadOnly
from .kinds import ByKind, ByKindContext, ByKindOfLevel
from .rehearsing import Rehearsing, RehearsingJudging

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Connection, Dialect, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection

    from ..errors import ReadOnlyError
    from ..mode import Switch
    from .guard import Limit

__all__ = [
    "answer",
    "bar",
    "behind",
    "by_kind",
    "count_begins",
    "gate",
    "is_used",
    "limit",
    "protect",
    "release",
    "twin",
    "unlimit",
    "use",
    "warn",
]

logger = logging.getLogger("sa_readonly")

_changing = PerProcess(threading.RLock)  # two switches may flip one engine


def behind(engine: Engine, pooler: str | None) -> None:
    """Note which pooler is before an engine's server, before it is gated or protected.

    :param pooler: one of :data:`.poolers.POOLERS`, or None.
    """
    dialect: Any = engine.dialect
    if getattr(dialect, "_sa_readonly_pooler", None) != pooler:
        dialect._sa_readonly_passed = {}  # another pooler refuses other texts
    dialect._sa_readonly_pooler = pooler
    dialect._sa_readonly_shown = shown(engine)


def gate(engine: Engine, switch: Switch) -> None:
    """Let no transaction begin on a read-write engine, nor on its clones, while read-only."""
    dialect: Any = engine.dialect
    notebook_of(switch).follow(dialect, _dress_anew)
    with _changing():
        dialect._sa_readonly_gates = (*getattr(dialect, "_sa_readonly_gates", ()), switch)
        _become(dialect)
        grow(engine)


def protect(engine: Engine, switch: Switch, *, serves: bool) -> None:
    """Let nothing write through a read-only engine, nor through its clones, in either mode.

    :param serves: whether it serves the role "replica" while read-write.
    """
    dialect: Any = engine.dialect
    dialect._sa_readonly_serves = serves or getattr(dialect, "_sa_readonly_serves", False)
    with _changing():
        dialect._sa_readonly_told = (*getattr(dialect, "_sa_readonly_told", ()), switch)
        if not isinstance(dialect, ReadOnly):
            dialect._sa_readonly_passed = {}
        _become(dialect)
        grow(engine)


def release(engine: Engine, switch: Switch, *, gated: bool, protected: bool) -> None:
    """Take back one :func:`gate`, one :func:`protect`, or both, that was done for this switch."""
    dialect: Any = engine.dialect
    with _changing():
        for name, done in (("_sa_readonly_gates", gated), ("_sa_readonly_told", protected)):
            switches = list(getattr(dialect, name, ()))
            if done and switch in switches:
                switches.remove(switch)  # once: another selector may have this engine, too
                setattr(dialect, name, tuple(switches))
        _become(dialect)


def limit(engine: Engine, by: object, limit: Limit | None) -> None:
    """Limit what has begun on a gated engine while read-only, or take that back.

    :param by: the selector that does so; of several limits the first deadline counts.
    :param limit: None when it is read-write again.
    """
    dialect: Any = engine.dialect
    with _changing():
        dialect._sa_readonly_limits = _with(getattr(dialect, "_sa_readonly_limits", {}), by, limit)
        _dress_anew(dialect)


def bar(engine: Engine, by: object, refuse: Callable[[], ReadOnlyError] | None) -> None:
    """Let no transaction begin on a gated engine in either mode, or take that back.

    :param by: the worker that does so.
    :param refuse: returns the error.
    """
    dialect: Any = engine.dialect
    with _changing():
        dialect._sa_readonly_bars = _with(getattr(dialect, "_sa_readonly_bars", {}), by, refuse)


def answer(engine: Engine, by: object, tell: Callable[[], None] | None) -> None:
    """Raise as ours what a server says of itself on a read-write engine, or take that back.

    :param by: the selector that does so.
    :param tell: called when the server has said that it is read-only.
    """
    dialect: Any = engine.dialect
    with _changing():
        dialect._sa_readonly_answers = _with(getattr(dialect, "_sa_readonly_answers", {}), by, tell)


def count_begins(engine: Engine, begun: Callable[[], None] | None) -> None:
    """Have ``begun`` called at each transaction of a gated engine from now on; None calls none."""
    dialect: Any = engine.dialect
    dialect._sa_readonly_begun = begun


def use(engine: Engine, by: object, *, used: bool) -> None:
    """Note whether a gated engine is among those of ``by``; a twin's is noted with its engine's."""
    dialect: Any = engine.dialect
    with _changing():
        users = getattr(dialect, "_sa_readonly_users", {})
        dialect._sa_readonly_users = _with(users, by, True if used else None)


def is_used(engine: Engine) -> bool:
    """True if a gated engine, or the one that a twin is made of, is among those of a selector."""
    return bool(getattr(engine.dialect, "_sa_readonly_users", None))


def unlimit(engine: Engine, by: object) -> None:
    """Take back what was limited and barred, as far as it was."""
    limit(engine, by, None)
    bar(engine, by, None)


def _with(given: Mapping[object, Any], key: object, value: object) -> dict[object, Any]:
    """Return a copy with this value of a key, or without it: another thread may be iterating."""
    changed = {one: given[one] for one in given if one is not key}
    if value is not None:
        changed[key] = value
    return changed


# -- the class of a dialect ------------------------------------------------------------------


def _become(dialect: Any) -> None:
    """Give a dialect the class that fits what is asked of it now. ``_changing`` is held."""
    dialect._sa_readonly_family = family(dialect)
    _dress(dialect, read_only=bool(getattr(dialect, "_sa_readonly_told", ())))


def _dress_anew(dialect: Any) -> None:
    """Give a dialect the class that fits, as read-only as it is: a limit came, or a rehearsal."""
    with _changing():
        # A twin is read-only, which the attributes that it shares with its engine do not tell.
        _dress(dialect, read_only=isinstance(dialect, ReadOnly))


def _dress(dialect: Any, *, read_only: bool) -> None:
    gates = getattr(dialect, "_sa_readonly_gates", ())
    gated = bool(gates)
    limited = bool(getattr(dialect, "_sa_readonly_limits", ()))
    notebooks = tuple(one for one in map(notebook_of, gates) if one.on and not limited)
    dialect._sa_readonly_notebooks = notebooks
    if notebooks:
        dialect.__dict__.setdefault("_sa_readonly_passed", {})
    commits = privates.commits(dialect)
    base: Any = getattr(type(dialect), "_sa_readonly_base", type(dialect))
    for one, committing in ((dialect, commits), (_kin(dialect).get(dialect), not commits)):
        if one is not None and (gated or read_only):
            kind = _kind(gated=gated, read_only=read_only, judges=limited or committing)
            if notebooks and not read_only:
                kind = RehearsingJudging if committing else Rehearsing
            become(one, _guarded(_pooled(dialect, kind), base))
        elif one is not None:
            become(one, base)


def _kind(*, gated: bool, read_only: bool, judges: bool) -> Any:
    if not gated:
        return ReadOnly
    if judges:
        return JudgingReadOnly if read_only else Judging
    return GatedReadOnly if read_only else Gated


def _pooled(dialect: Any, kind: Any) -> Any:
    by_transaction = dialect._sa_readonly_pooler == "transaction" and issubclass(kind, ReadOnly)
    return poolers.by_transaction(kind) if by_transaction else kind


@cache
def _guarded(kind: type[Guarded], base: type[Dialect]) -> type[Any]:
    """Return the guarded subclass of a dialect's class."""
    body: dict[str, Any] = {"_sa_readonly_base": base, "__module__": base.__module__}
    if "supports_statement_cache" in vars(base):  # SQLAlchemy asks the very class for it
        body["supports_statement_cache"] = base.supports_statement_cache
    answers: type[Any] = ReadOnlyContext if issubclass(kind, ReadOnly) else GatedContext
    if issubclass(kind, ByKind):
        answers = ByKindContext
    context = base.execution_ctx_cls
    body["execution_ctx_cls"] = type(context.__name__, (answers, context), {})
    if issubclass(kind, Gated):
        body["_sa_readonly_commits"] = base.do_commit is not DefaultDialect.do_commit
        body["_sa_readonly_begins"] = base.do_begin is not DefaultDialect.do_begin
    if issubclass(kind, (Gated, ByKind)):
        body["connection_characteristics"] = privates.add_to_isolation_level(base, _Level)
    return type(base.__name__, (kind, base), body)


# -- AUTOCOMMIT ------------------------------------------------------------------------------


class _Level:
    """Has a connection that goes to AUTOCOMMIT, or leaves it, use the dialect for that.

    It is mixed into the isolation level's :class:`.ConnectionCharacteristic`.
    """

    def set_connection_characteristic(
        self, dialect: Dialect, conn: Connection, dbapi_conn: DBAPIConnection, value: Any
    ) -> None:
        super().set_connection_characteristic(dialect, conn, dbapi_conn, value)  # type: ignore[misc]  # the characteristic's
        conn.dialect = _of_level(conn.engine.dialect, value)


def _of_level(dialect: Any, level: object) -> Any:
    """Return the dialect of a gated engine's connections with this isolation level."""
    if isinstance(dialect, ByKind):
        writer = dialect._sa_readonly_writer
        if _of_level(writer, level) is writer:
            return dialect
        base: Any = type(dialect)._sa_readonly_base
        kind = _guarded(ByKindOfLevel, base)
        return _kin(dialect).setdefault(dialect, _sharing(dialect, kind))
    commits = level == "AUTOCOMMIT"
    if not isinstance(dialect, Gated) or commits is privates.commits(dialect):
        return dialect
    with _changing():
        kin = _kin(dialect)
        if dialect not in kin:
            kin[dialect] = _sharing(dialect, type(dialect))
            _dress(dialect, read_only=isinstance(dialect, ReadOnly))
        return kin[dialect]


def _kin(dialect: Dialect) -> dict[Dialect, Dialect]:
    """Return, by the dialect of a gated engine, its other one, which differs in the class alone.

    It is for the connections that are under AUTOCOMMIT while the rest is not, or the other way
    round. A twin shares this dict with its engine.
    """
    return dialect.__dict__.setdefault("_sa_readonly_kin", {})  # type: ignore[no-any-return]  # this package adds it


# -- twins -----------------------------------------------------------------------------------


def twin(engine: Engine, *, gated: bool) -> Dialect:
    """Return a read-only dialect that shares all that the gated dialect of ``engine`` knows.

    What a dialect learns of its server on the first connection, it learns for both.

    :param gated: whether it, too, begins no transaction while read-only.
    """
    dialect: Any = engine.dialect
    kind = _kind(gated=gated, read_only=True, judges=privates.commits(dialect))
    dialect.__dict__.setdefault("_sa_readonly_passed", {})
    # For good: the twin has its engine's listeners also when the selector is closed.
    privates.apply_options_by_own_dialect(dialect)
    return _sharing(dialect, _guarded(_pooled(dialect, kind), type(dialect)._sa_readonly_base))


def by_kind(engine: Engine, cure: str) -> Dialect:
    """Have the dialect of an engine do by each connection's kind; return that of the writing kind.

    It shares all with the engine's own, and is gated as that of a selector's engine is.

    :param cure: what the refusal of a connection or transaction tells to do.
    """
    dialect: Any = engine.dialect
    base: Any = getattr(type(dialect), "_sa_readonly_base", type(dialect))
    dialect._sa_readonly_cure = cure
    dialect._sa_readonly_family = family(dialect)
    dialect._sa_readonly_readers = {}
    dialect._sa_readonly_writer = writer = _sharing(dialect, base)
    become(dialect, _guarded(ByKind, base))
    return writer


def _sharing(dialect: Dialect, cls: type[Any]) -> Dialect:
    """Return a dialect of this class that has all that the other one has, and gets."""
    shared: Dialect = object.__new__(cls)
    shared.__dict__ = dialect.__dict__
    return shared


# -- what is not protected -------------------------------------------------------------------


_warned: weakref.WeakKeyDictionary[Switch, set[str]] = weakref.WeakKeyDictionary()


def warn(engine: Engine, switch: Switch) -> None:
    """Say what is not refused on a read-only engine of a database that has not all the locks.

    It is said once for a switch: programs make engines by URL by the thousand.
    """
    dialect: Any = engine.dialect
    name, kin = dialect.name, dialect._sa_readonly_family
    if kin not in LOCKED:
        raw = "the driver's connection itself" if dialect.driver in ADAPTED else "a raw cursor"
        cure = "Connect as a role that may only read."
        if holds_file(engine):
            # Whether an engine that is given has that can't be seen before it connects.
            reader = 'read_only= is an engine with connect_args={"read_only": True}'
            if hasattr(dialect, "_sa_readonly_readers"):  # of an engine by URL
                reader = "sa_readonly_url has ?access_mode=read_only"
            cure = f"DuckDB itself refuses it where {reader}."
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
    told = _warned.setdefault(switch, set())
    if what in told:
        return
    told.add(what)
    extra = fields("less_protected", engine=shown(engine))
    logger.warning("%s: %s", shown(engine), what, extra=extra)
