"""Connections that another pool takes back: what is put on one is taken off when it leaves.

A creator may lend what belongs to another pool, as ``creator=pool.getconn`` of psycopg_pool does;
closing it gives it back, and the next borrower may be one that writes. So what a connection had
before is kept for each that the engine's own dialect has not made.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from .privates import in_greenlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect

__all__ = ["borrow", "comes_back", "made", "put_on", "take_off", "take_off_leaving"]

logger = logging.getLogger("sa_readonly")

_made: WeakSet[Any] = WeakSet()  # the driver's: closing one of these closes it
_worn: WeakKeyDictionary[Any, _Worn] = WeakKeyDictionary()

# What a connection has that belongs to a pool of psycopg's, mariadb's and MySQL's own driver.
_MARKS = ("_pool", "_Connection__pool", "_cnx_pool")


class _Worn:
    """What is to be put back: attributes of the driver's connection, and what the server has."""

    def __init__(self, undo: Callable[[Any], None]) -> None:
        self.attributes: dict[str, Any] = {}
        self.undo = undo


def made(dialect: Dialect, dbapi_connection: Any) -> Any:
    """Note that a dialect has made this connection, and return it."""
    driver = dialect.get_driver_connection(dbapi_connection)
    if not comes_back(dialect, driver):
        with contextlib.suppress(TypeError):  # a plain sqlite3.Connection can't be referred to
            _made.add(driver)
    return dbapi_connection


def comes_back(dialect: Dialect, driver: Any) -> bool:
    """True if closing a driver's connection is known to give it to another pool."""
    known = any(getattr(driver, mark, None) is not None for mark in _MARKS)
    return known or "_sa_readonly_lends" in vars(dialect)


def borrow(
    dialect: Dialect, dbapi_connection: Any, before: Callable[[], Callable[[Any], None]]
) -> None:
    """Begin to keep what a connection had, unless its dialect has made it.

    :param before: returns what brings the server's session back to how it is now.
    """
    driver = dialect.get_driver_connection(dbapi_connection)
    if driver not in _made:
        with contextlib.suppress(TypeError):  # asyncpg's pool lends proxies, and closes for good
            _worn[driver] = _Worn(before())


def put_on(driver: Any, name: str, value: Any) -> None:
    """Set an attribute of a driver's connection, to be set back when that leaves."""
    worn = _find(driver)
    if worn is not None:
        worn.attributes.setdefault(name, getattr(driver, name))
    setattr(driver, name, value)


def take_off(dialect: Dialect, dbapi_connection: Any) -> None:
    """Put back all that a connection had, if it wears anything: it has come back meanwhile."""
    driver, worn = _found(dialect, dbapi_connection)
    if worn is None:
        return
    # That it does is first seen here, unless it is of a pool that is known. From now on the locks
    # at the server are taken off when one leaves: a round trip that a plain close can do without.
    vars(dialect)["_sa_readonly_lends"] = True
    _finish(driver, worn, dbapi_connection)


def take_off_leaving(dialect: Dialect, dbapi_connection: Any) -> None:
    """Put back what a connection had that is about to be closed, or given to another pool."""
    driver, worn = _found(dialect, dbapi_connection)
    if worn is None:
        return
    _take_off_here(driver, worn)
    if not comes_back(dialect, driver) or (dialect.is_async and not in_greenlet()):
        return
    try:
        dialect.do_rollback(dbapi_connection)
        _finish(driver, worn, dbapi_connection)
    except Exception as error:  # noqa: BLE001  # it is broken, or seen to when it comes back
        logger.debug("%r is given back with its locks: %s", driver, error)


def _found(dialect: Dialect, dbapi_connection: Any) -> tuple[Any, _Worn | None]:
    if not _worn:  # nearly always: no connection is anybody else's
        return None, None
    driver = dialect.get_driver_connection(dbapi_connection)
    return driver, _find(driver)


def _find(driver: Any) -> _Worn | None:
    try:
        return _worn.get(driver)
    except TypeError:  # it can't be referred to
        return None


def _take_off_here(driver: Any, worn: _Worn) -> None:
    while worn.attributes:
        setattr(driver, *worn.attributes.popitem())


def _finish(driver: Any, worn: _Worn, dbapi_connection: Any) -> None:
    _take_off_here(driver, worn)
    worn.undo(dbapi_connection)
    _worn.pop(driver, None)
