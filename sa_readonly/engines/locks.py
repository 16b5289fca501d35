"""The locks at the server: how a connection is told to refuse writes, and how a refusal looks.

PostgreSQL has two, because each alone has been seen to be opened by code that has the driver's
connection in its hands: the session's default, best given in the start-up packet, and the attribute
of the driver's connection that makes each BEGIN a READ ONLY one. MySQL and MariaDB have one for the
session. SQLite has ``PRAGMA query_only`` and the authorizer that guards it, see :mod:`.sqlite`.

A further database needs its name in :data:`.dialects.LOCKED`, a branch in :func:`lock_again` and
:func:`unlock`, and its error in :func:`is_refusal`.
"""

from __future__ import annotations

import contextlib
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..errors import ReadOnlyError
from . import poolers, sqlite
from .dialects import ATTRIBUTES, can_authorize, row, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "SET_DEFAULT",
    "for_twin",
    "is_refusal",
    "lock_again",
    "lock_new",
    "lock_ready",
    "making_for_twin",
    "mysql_reads",
    "reported",
    "set_default",
    "start_up",
    "unlock",
]

SET_DEFAULT = f"SET {poolers.SETTING} = on"
# A stored function may undo this from within a harmless SELECT, and neither MySQL nor MariaDB
# reports that. So it is sent again at every check-in, without asking whether it still holds.
_SET_SESSION = "SET SESSION TRANSACTION READ ONLY"
_READ_ONLY_OPTION = re.compile(r"--[\w-]*read[-_]only\b", re.IGNORECASE)  # or --super-read-only


# -- a new connection ------------------------------------------------------------------------

for_twin: ContextVar[bool] = ContextVar("sa_readonly_for_twin", default=False)
"""Set while a connection is made for a twin, by the creator of its engine: that ends in
``connect()`` of the engine's dialect."""


@contextlib.contextmanager
def making_for_twin() -> Iterator[None]:
    """Have connections that are made inside the block start read-only."""
    token = for_twin.set(True)
    try:
        yield
    finally:
        for_twin.reset(token)


def start_up(dialect: Any, cparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return a driver's arguments with the first lock in them, where there is a place for it."""
    if dialect._sa_readonly_family == "sqlite" and can_authorize(dialect):
        return {"factory": sqlite.connecting(dialect), **cparams}
    packet = {}
    if dialect._sa_readonly_family == "postgresql" and dialect._sa_readonly_pooler is None:
        packet = poolers.start_up_packet(dialect.driver, lambda: dialect.loaded_dbapi, cparams)
        if packet:
            dialect._sa_readonly_offered = True
    return {**cparams, **packet}


def lock_new(dialect: Any, dbapi_connection: Any) -> None:
    """Put both locks on a new connection, the first one as far as the start-up packet did not."""
    if dialect._sa_readonly_family == "postgresql":
        if dialect._sa_readonly_pooler == "session":
            set_default(dbapi_connection)
        elif dialect._sa_readonly_pooler == "transaction":
            poolers.refuse_autocommit(dialect, dbapi_connection)
        else:
            _check_session(dialect, dbapi_connection)
    _lock(dialect, dbapi_connection)


def lock_ready(dialect: Any, dbapi_connection: Any) -> None:
    """Put back what "connect" listeners of the application's have opened on a new connection."""
    if dialect._sa_readonly_family == "postgresql":
        if dialect._sa_readonly_pooler == "transaction":
            poolers.refuse_autocommit(dialect, dbapi_connection)
        elif dialect._sa_readonly_pooler is None and _is_opened(dialect, dbapi_connection):
            _, pid = _asked(dbapi_connection)
            if not poolers.is_direct(dialect, dbapi_connection, pid):
                raise poolers.dropped(dialect, offered=dialect._sa_readonly_offered)
            set_default(dbapi_connection)
        if dialect.driver in ATTRIBUTES and not _has_attribute(dialect, dbapi_connection):
            dbapi_connection.rollback()  # in a transaction the attribute can't be set
    elif dialect._sa_readonly_family in ("mysql", "mariadb"):
        dbapi_connection.rollback()  # the lock holds from the next transaction on
    _lock(dialect, dbapi_connection)


def _check_session(dialect: Any, dbapi_connection: Any) -> None:
    """See to it that the session's default is on.

    The server is asked for it in a query: what it reports by itself may be a pooler's word.
    """
    value, pid = _asked(dbapi_connection)
    if value != "on":
        # A creator= knows no start-up packet of ours. A SET is right only where no pooler will give
        # the session to another client.
        offered = dialect._sa_readonly_offered
        if offered or not poolers.is_direct(dialect, dbapi_connection, pid):
            raise poolers.dropped(dialect, offered=offered)
        set_default(dbapi_connection)


def _asked(dbapi_connection: Any) -> Any:
    """Ask the server for the session's default, and for the process that serves the session."""
    try:
        return row(
            dbapi_connection, f"SELECT current_setting('{poolers.SETTING}'), pg_backend_pid()"
        )
    finally:
        dbapi_connection.commit()


# -- a connection that comes back ------------------------------------------------------------


def lock_again(dialect: Any, dbapi_connection: Any) -> None:
    """Put back the locks that code with the driver's connection in its hands may have opened."""
    if dialect._sa_readonly_family == "postgresql":
        pooler = dialect._sa_readonly_pooler
        if pooler == "transaction":
            poolers.refuse_autocommit(dialect, dbapi_connection)
        elif pooler is None and _is_opened(dialect, dbapi_connection):
            if dialect._sa_readonly_offered:
                raise poolers.dropped(dialect, offered=True)  # the pool closes it and makes another
            set_default(dbapi_connection)
    _lock(dialect, dbapi_connection)


def _lock(dialect: Any, dbapi_connection: Any) -> None:
    family = dialect._sa_readonly_family
    if family == "postgresql":
        # psycopg2 refuses to set it inside a transaction, also to the value that it has.
        if not _has_attribute(dialect, dbapi_connection):
            dialect.set_readonly(dbapi_connection, True)
    elif family == "sqlite":
        sqlite.lock(dbapi_connection)
    elif dialect.driver in ("pymysql", "mysqldb"):  # in fewer calls: this is done at each check-in
        dbapi_connection.query(_SET_SESSION)
    elif family in ("mysql", "mariadb"):
        run(dbapi_connection, _SET_SESSION)


def _has_attribute(dialect: Any, dbapi_connection: Any) -> bool:
    """True if a driver's attribute makes each transaction of PostgreSQL READ ONLY."""
    attribute = ATTRIBUTES.get(dialect.driver, "readonly")
    return getattr(dbapi_connection, attribute, None) is True


def _is_opened(dialect: Any, dbapi_connection: Any) -> bool:
    """True if the session's default was switched off.

    The server reports it, from PostgreSQL 14 on. A driver that keeps that to itself sets the
    session's default by its attribute, so there the server is asked.
    """
    told = reported(dialect, dbapi_connection)
    if told is None and dialect.driver not in ATTRIBUTES:
        return bool(_asked(dbapi_connection)[0] != "on")
    return told == "off"


def set_default(dbapi_connection: Any) -> None:
    """Lock a session of PostgreSQL by a SET."""
    run(dbapi_connection, SET_DEFAULT)
    dbapi_connection.commit()


def reported(dialect: Any, dbapi_connection: Any, name: str = poolers.SETTING) -> str | None:
    """Return a setting, the session's default, as the server reported it; None if it did not."""
    driver = getattr(dbapi_connection, "driver_connection", dbapi_connection)
    if dialect.driver in ("psycopg2", "psycopg2cffi"):
        value = driver.get_parameter_status(name)
    elif dialect.driver in ("psycopg", "psycopg_async"):
        value = driver.info.parameter_status(name)
    elif dialect.driver == "asyncpg":
        value = getattr(driver.get_settings(), name, None)
    elif dialect.driver == "pg8000":
        told = driver.parameter_statuses
        if isinstance(told, dict):
            value = told.get(name)
        else:  # up to 1.30.3 all that was ever told, in bytes
            value = dict(told).get(name.encode(), b"").decode() or None
    else:
        value = None
    return value  # type: ignore[no-any-return]  # a driver's


# -- a connection that leaves ----------------------------------------------------------------


def unlock(dialect: Any, dbapi_connection: Any) -> Callable[[Any], None]:
    """Return what will take the locks off a connection again, as far as it had none before."""
    base = getattr(type(dialect), "_sa_readonly_base", type(dialect))
    family = dialect._sa_readonly_family
    if family == "postgresql":
        attribute = ATTRIBUTES.get(dialect.driver, "readonly")
        theirs = getattr(dbapi_connection, attribute, None)
        locked = reported(dialect, dbapi_connection) == "on"
    elif family in ("mysql", "mariadb"):
        locked = mysql_reads(dbapi_connection)

    def undo(dbapi_connection: Any) -> None:
        plain = getattr(type(dbapi_connection), "_sa_readonly_adapted", None)
        if plain is not None:
            dbapi_connection.__class__ = plain
        if family == "postgresql":
            if not (locked and dialect.driver == "pg8000"):  # which has this lock alone
                base.set_readonly(dialect, dbapi_connection, theirs)
            if not locked and dialect._sa_readonly_pooler != "transaction":
                run(dbapi_connection, f"RESET {poolers.SETTING}")
                dbapi_connection.commit()
        elif family in ("mysql", "mariadb") and not locked:
            run(dbapi_connection, "SET SESSION TRANSACTION READ WRITE")

    return undo


def mysql_reads(dbapi_connection: Any, scope: str = "SESSION") -> bool:
    """True if transactions of a session begin read-only; of the scope GLOBAL, those of new ones."""
    cursor = dbapi_connection.cursor()
    try:  # transaction_read_only or tx_read_only: each server knows one of them, or both
        cursor.execute(f"SHOW {scope} VARIABLES LIKE 't%_read_only'")
        return any(value == "ON" for _, value in cursor.fetchall())
    finally:
        cursor.close()


# -- what a server says ----------------------------------------------------------------------


def is_refusal(error: BaseException, connection: Any = None) -> bool:
    """True if a server or driver raises this error because something that would write is read-only.

    :param connection: the DBAPI connection on which it was raised, if at hand. SQLite gives one
        message to writes and to reads that fail: before Python 3.11, which has an error's code, a
        query on this connection tells them apart.
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
        return first in (1792, 1836) or (
            first == 1290 and _READ_ONLY_OPTION.search(str(error.args[1:])) is not None
        )
    return sqlite.is_refusal(error, connection)
