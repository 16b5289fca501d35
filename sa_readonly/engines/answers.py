"""What a server's error says: that something is read-only there, and by whose wish.

On a read-only engine that is the second lock, which has held. On a read-write engine it is the
server's own word: a failover has made a standby of the primary, or an administrator has closed it.
Only a transaction that the application itself began read-only gets the driver's error there.

A further database needs a row in :data:`_WISHES`, where it has transactions that an application can
make read-only by itself.
"""

from __future__ import annotations

import contextlib
import re
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine.default import DefaultExecutionContext

from ..mode import Mode, State
from ..refusals import refusal
from . import locks, privates
from .checkins import pooled
from .dialects import ATTRIBUTES, row, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..errors import ReadOnlyError

__all__ = [
    "LONGEST",
    "PROBED",
    "REASON",
    "GatedContext",
    "ReadOnlyContext",
    "answered",
    "bounded",
    "may_write",
    "to_ask",
    "told_by",
]

REASON = "the database server is read-only"

_TRUSTED = 1.0  # seconds for which a server's answer, that it is read-only, is not asked for again
_READ_ONLY_MODE = Mode.READ_ONLY  # an attribute of a class of enum is slow, in Python 3.11
_STATE = State(Mode.READ_ONLY, REASON)


class ReadOnlyContext(DefaultExecutionContext):
    """Raises the server's refusal as ours wherever SQLAlchemy meets it, also in a fetch."""

    def handle_dbapi_exception(self, e: BaseException) -> None:
        super().handle_dbapi_exception(e)
        if locks.is_refusal(e, privates.on_connection_of(self)):
            dialect: Any = self.dialect
            self._sa_readonly_raise(
                dialect._sa_readonly_refusal(
                    "The statement", self.statement, kind="server", **told_by(self)
                ),
                e,
            )

    def _sa_readonly_raise(self, refused: ReadOnlyError, error: BaseException) -> None:
        with contextlib.suppress(Exception):
            self.cursor.close()
        raise refused from error


class GatedContext(ReadOnlyContext):
    """Does so on a read-write engine, where it is the server's own word."""

    def handle_dbapi_exception(self, e: BaseException) -> None:
        super(ReadOnlyContext, self).handle_dbapi_exception(e)
        on = privates.on_connection_of(self)
        refused = answered(self.dialect, e, on, "The statement", self.statement)
        if refused is not None:
            self._sa_readonly_raise(refused, e)


def told_by(context: Any) -> dict[str, Any]:
    """Return what the session that sends a statement tells of its transaction, if there is one."""
    connection = context and context.root_connection
    return {
        "role": getattr(connection, "_sa_readonly_role", None),
        "began": _READ_ONLY_MODE in getattr(connection, "_sa_readonly_pin", {}).values(),
    }


# -- the server's own word -------------------------------------------------------------------


def answered(
    dialect: Any, error: BaseException, connection: Any, what: str, statement: str | None = None
) -> ReadOnlyError | None:
    """Return the error to raise for one of a driver's on a read-write engine; None if none is.

    The connection is closed when it is given back, as the next one may be another server's.

    :param connection: the one on which it was raised, as its pool gave it out.
    :param what: a few words that begin a sentence.
    """
    tells: Mapping[object, Callable[[], None]] = getattr(dialect, "_sa_readonly_answers", {})
    if not tells or not locks.is_refusal(error, connection):
        return None
    if _WISHES.get(dialect._sa_readonly_family, _is_no_wish)(dialect, error, connection):
        return None
    switch, state = dialect._sa_readonly_says()
    refused = refusal(
        what, state, statement, kind="server", switch=switch, fault="server", over=_STATE
    )
    if (door := _door_of(connection)) is not None:
        door.end(connection)
    for tell in tells.values():
        tell()
    return refused


def _door_of(connection: Any) -> Any:
    """Return the door of a connection's engine; None for one given out before there was a door."""
    return getattr(getattr(pooled(connection)[0], "_sa_readonly", None), "door", None)


# -- by whose wish ---------------------------------------------------------------------------


_FOR_READING = re.compile(r"\b(mode=ro|immutable=(1|on|true|yes))\b", re.IGNORECASE)


def _is_no_wish(_dialect: Any, _error: BaseException, _connection: Any) -> bool:
    return False


def _is_wish_in_postgresql(dialect: Any, _: BaseException, connection: Any) -> bool:
    """True if the transaction is read-only by the application: its option, SQL or URL.

    The transaction has failed, so nothing can be asked in it. What the server has reported by
    itself tells a standby; for the rest a new connection is asked how it would be served.
    """
    if getattr(connection, ATTRIBUTES.get(dialect.driver, "readonly"), None) is True:
        return True
    standby = locks.reported(dialect, connection, "in_hot_standby")
    if standby == "on":
        return False
    door, moment = _door_of(connection), time.monotonic()
    if door is None or moment < door.said_no + _TRUSTED:
        return False
    writes = door.ask(may_write)
    if writes is None:  # as where no connection is free: then what it has reported counts
        return standby == locks.reported(dialect, connection) == "off"
    if not writes:
        door.said_no = moment
        return False
    # What is old enough to report nothing may be the session of a server that was left behind.
    return standby is not None or dialect._sa_readonly_pooler is not None


def _is_wish_in_mysql(_: Any, error: BaseException, connection: Any) -> bool:
    """True if the session or transaction is read-only, and new sessions are not.

    Only 1792 says so. The others are about the server.
    """
    if error.args[0] != 1792:
        return False
    try:
        return not all(locks.mysql_reads(connection, scope) for scope in ("SESSION", "GLOBAL"))
    except Exception:  # noqa: BLE001  # as of a cursor that is being read: then it can't be told
        return True


def _is_wish_in_sqlite(_dialect: Any, _error: BaseException, connection: Any) -> bool:
    """True if ``query_only`` is on, or the URL opens the file for reading."""
    door = _door_of(connection)
    if door is not None and _FOR_READING.search(door.engine.url.render_as_string()):
        return True
    try:
        return bool(row(connection, "PRAGMA query_only")[0])
    except Exception:  # noqa: BLE001  # whatever it is, it is no answer
        return False


_WISHES: Mapping[str, Callable[[Any, BaseException, Any], bool]] = {
    "postgresql": _is_wish_in_postgresql,
    "mysql": _is_wish_in_mysql,
    "mariadb": _is_wish_in_mysql,
    "sqlite": _is_wish_in_sqlite,
}


# -- what a server says when it is asked -----------------------------------------------------

_ASKED_POSTGRESQL = (
    "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'off' OR source = "
    "'client' FROM pg_settings WHERE name = 'default_transaction_read_only'"
)
_ASKED_MYSQL = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only', "
    "'innodb_read_only', 'tx_read_only', 'transaction_read_only') AND Value NOT IN ('OFF', '0')"
)


LONGEST = 5
"""Whole seconds for which a server that is asked may be silent, if the application sets none."""

_BOUNDS: Mapping[str, tuple[str, ...]] = {
    "psycopg2": ("connect_timeout",),
    "psycopg2cffi": ("connect_timeout",),
    "psycopg": ("connect_timeout",),
    "psycopg_async": ("connect_timeout",),
    "pg8000": ("timeout",),
    "asyncpg": ("timeout", "command_timeout"),
    "pymysql": ("connect_timeout", "read_timeout"),
    "mysqldb": ("connect_timeout", "read_timeout"),
    "mariadbconnector": ("connect_timeout", "read_timeout"),
    "mysqlconnector": ("connection_timeout",),
}
"""By driver, its arguments that bound the wait for a server. Other async ones are cancelled."""

_to_ask: ContextVar[bool] = ContextVar("sa_readonly_to_ask", default=False)


@contextlib.contextmanager
def to_ask() -> Iterator[None]:
    """Have connections that are made inside the block wait for a server that is silent no longer.

    A host that was lost, or a proxy without a server behind it, accepts and says nothing: without a
    bound the thread that asks would never look again, at the file neither.
    """
    token = _to_ask.set(True)
    try:
        yield
    finally:
        _to_ask.reset(token)


def bounded(driver: str, cparams: dict[str, Any]) -> dict[str, Any]:
    """Return a driver's arguments, with bounds that the application has not set, in a block."""
    if not _to_ask.get():
        return cparams
    return {**dict.fromkeys(_BOUNDS.get(driver, ()), LONGEST), **cparams}


PROBED = frozenset(("postgresql", "mysql", "mariadb"))
"""The families of databases that can be asked whether they would write."""


def may_write(dialect: Any, connection: Any) -> bool:
    """Ask a server, on a new connection, whether it would write. It writes and locks nothing.

    :raises Exception: the driver's, where that is not known.
    """
    family = dialect._sa_readonly_family
    if family == "postgresql":
        recovers, writes = row(connection, _ASKED_POSTGRESQL)
        connection.rollback()
        return bool(writes and not recovers)
    if family in ("mysql", "mariadb"):
        if row(connection, _ASKED_MYSQL) is not None:
            return False
        run(connection, "START TRANSACTION READ WRITE")  # refused where read_only binds the account
        connection.rollback()
    return True
