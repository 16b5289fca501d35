"""Connections that belong to another pool: what is changed on one is changed back when it leaves.

A creator may lend connections of another pool, as ``creator=pool.getconn`` of psycopg_pool does.
Closing one gives it back to that pool, which may lend it next to an engine that writes. So for each
connection that the engine's own dialect has not made, what it had before is noted.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from ..telemetry import fields
from .privates import in_greenlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect

__all__ = ["borrow", "comes_back", "made", "put_on", "take_off", "take_off_leaving"]

logger = logging.getLogger("sa_readonly")

_made: WeakSet[Any] = WeakSet()  # connections that no other pool takes back when they are closed
_former: WeakKeyDictionary[Any, _Former] = WeakKeyDictionary()  # by connection

# Attributes by which connections of psycopg_pool, mariadb and MySQL's own driver know their pool.
_MARKS = ("_pool", "_Connection__pool", "_cnx_pool")


class _Former:
    """What a connection had before: attributes of the driver's, and the server's session."""

    def __init__(self, undo: Callable[[Any], None]) -> None:
        self.attributes: dict[str, Any] = {}
        self.undo = undo


def made(dialect: Dialect, dbapi_connection: Any) -> Any:
    """Note that a dialect has made this connection, and return it."""
    driver = dialect.get_driver_connection(dbapi_connection)
    if not comes_back(dialect, driver):
        with contextlib.suppress(TypeError):  # some can't be referred to
            _made.add(driver)
    return dbapi_connection


def comes_back(dialect: Dialect, driver: Any) -> bool:
    """True if closing a driver's connection is known to give it to another pool."""
    known = any(getattr(driver, mark, None) is not None for mark in _MARKS)
    return known or "_sa_readonly_lends" in vars(dialect)


def borrow(
    dialect: Dialect, dbapi_connection: Any, before: Callable[[], Callable[[Any], None]]
) -> None:
    """Begin to note what a connection had, unless its dialect has made it.

    :param before: returns what brings the server's session back to how it is now.
    """
    driver = dialect.get_driver_connection(dbapi_connection)
    if driver not in _made:
        with contextlib.suppress(TypeError):  # asyncpg's pool lends proxies, and closes for good
            _former[driver] = _Former(before())


def put_on(driver: Any, name: str, value: Any) -> None:
    """Set an attribute of a driver's connection, to be set back when the connection leaves."""
    former = _find(driver)
    if former is not None:
        former.attributes.setdefault(name, getattr(driver, name))
    setattr(driver, name, value)


def take_off(dialect: Dialect, dbapi_connection: Any) -> None:
    """Undo what is still changed on a connection that a creator lends once more."""
    driver, former = _found(dialect, dbapi_connection)
    if former is None:
        return
    # It was closed here and came again, so there is another pool, of a kind that comes_back() does
    # not know. From now on the locks at the server are taken off when a connection leaves: a round
    # trip that a mere close can save.
    vars(dialect)["_sa_readonly_lends"] = True
    _finish(driver, former, dbapi_connection)


def take_off_leaving(dialect: Dialect, dbapi_connection: Any) -> None:
    """Put back what a connection had that is about to be closed, or given back."""
    driver, former = _found(dialect, dbapi_connection)
    if former is None:
        return
    _take_off_here(driver, former)
    if not comes_back(dialect, driver) or (dialect.is_async and not in_greenlet()):
        return
    try:
        dialect.do_rollback(dbapi_connection)
        _finish(driver, former, dbapi_connection)
    except Exception as error:  # noqa: BLE001  # it is broken, or take_off() does it next time
        extra = fields("locks_left", error=str(error))
        logger.debug("%r is given back with its locks: %s", driver, error, extra=extra)


def _found(dialect: Dialect, dbapi_connection: Any) -> tuple[Any, _Former | None]:
    if not _former:  # nearly always: all connections were made by our dialects
        return None, None
    driver = dialect.get_driver_connection(dbapi_connection)
    return driver, _find(driver)


def _find(driver: Any) -> _Former | None:
    try:
        return _former.get(driver)
    except TypeError:  # it can't be referred to
        return None


def _take_off_here(driver: Any, former: _Former) -> None:
    while former.attributes:
        setattr(driver, *former.attributes.popitem())


def _finish(driver: Any, former: _Former, dbapi_connection: Any) -> None:
    _take_off_here(driver, former)
    former.undo(dbapi_connection)
    _former.pop(driver, None)
