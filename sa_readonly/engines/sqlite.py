"""The lock of SQLite, and what "connect" listeners do to it.

``PRAGMA query_only`` is the lock. The authorizer, which SQLite asks when it prepares a statement,
keeps it from being switched off. Where the driver lets us give the class of its connections, the
authorizer stays for good and nothing is to be done when one comes back to its pool.

Two statements are common in "connect" listeners of applications, and write. ``PRAGMA journal_mode``
rewrites the header of the file, which ``query_only`` permits; ``PRAGMA optimize`` may analyze,
which ``query_only`` refuses, so that no connection could be made at all. While such listeners run
on a new connection, SQLite is told to ignore the two.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

from .dialects import can_authorize, run
from .statements import writing_pragma

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = [
    "answer",
    "authorize",
    "connecting",
    "is_refusal",
    "keeps",
    "lock",
    "noting",
    "referable",
    "settle",
    "skipped",
    "unlock",
    "watch",
]

# SQLite's numbers: two actions that it asks an authorizer about, an answer, an error
_PRAGMA = 19
_ATTACH = 24
_IGNORE = 2
_READONLY = 8  # alone: SQLITE_READONLY_DIRECTORY and its like have other bits as well


# -- the lock --------------------------------------------------------------------------------


def lock(dbapi_connection: Any) -> None:
    """Have a connection refuse writes."""
    run(dbapi_connection, "PRAGMA query_only = ON")


def settle(dialect: Any, dbapi_connection: Any) -> None:
    """Lock a connection for good, after all "connect" listeners have run or in place of them."""
    authorize(dialect, dbapi_connection, answer)
    lock(dbapi_connection)
    inner = getattr(dialect.get_driver_connection(dbapi_connection), "_conn", None)
    for one in (dbapi_connection, inner):
        if isinstance(one, _Connecting):
            one.__class__ = one._sa_readonly_later
    if inner.__class__ in _keeping_classes:  # inside aiosqlite's
        adapter: Any = type(dbapi_connection)
        dbapi_connection.__class__ = _keeping(adapter, adapted=True)


def unlock(dialect: Any, dbapi_connection: Any) -> None:
    """Have a connection write again."""
    authorize(dialect, dbapi_connection, lambda *_: 0)  # None would do from Python 3.11 on
    run(dbapi_connection, "PRAGMA query_only = OFF")


def keeps(dbapi_connection: Any) -> bool:
    """True for a connection whose authorizer nothing but :func:`unlock` takes away."""
    return dbapi_connection.__class__ in _keeping_classes


def answer(action: int, first: str | None, second: str | None, *_: object) -> int:
    """Answer SQLite for a locked connection: 0 permits, 1 refuses, 2 has it do nothing.

    A connection that keeps its lock has this as ``_sa_readonly_answer`` while it is locked, so that
    a check-in costs no more than a look at that.
    """
    if action == _ATTACH:
        return 1
    if action == _PRAGMA and (first or "").lower() == "optimize":
        # It is advice, which a "checkin" or "close" listener gives: an error there fails each read.
        return _IGNORE
    return int(action == _PRAGMA and writing_pragma(first or "", second))


def authorize(dialect: Any, dbapi_connection: Any, by: Callable[..., int]) -> None:
    """Have SQLite ask ``by`` whether a statement of the connection is permitted."""
    if not can_authorize(dialect):
        return
    if hasattr(dbapi_connection, "run_async"):
        dbapi_connection.run_async(
            lambda connection: connection.set_authorizer(_put(connection._conn, by))
        )
    else:
        dbapi_connection.set_authorizer(_put(dbapi_connection, by))


def _put(connection: Any, by: Callable[..., int]) -> Callable[..., int] | None:
    """Return what to give to ``set_authorizer()`` of a connection, so that SQLite asks ``by``.

    That of :class:`_Keeping` takes the application's authorizer, and has ``by`` asked before it.
    """
    if not isinstance(connection, _Keeping):
        return by
    connection._sa_readonly_answer = by
    return connection._sa_readonly_theirs


class _Keeping:
    """A connection whose authorizer stays; one of the application's is asked after it."""

    _sa_readonly_answer: Callable[..., int] = staticmethod(lambda *_: 0)
    _sa_readonly_theirs: Callable[..., int] | None = None

    def set_authorizer(self, authorizer_callback: Callable[..., int] | None) -> None:
        ours, theirs = self._sa_readonly_answer, authorizer_callback
        self._sa_readonly_theirs = theirs
        both = ours if theirs is None else lambda *asked: ours(*asked) or theirs(*asked)
        super().set_authorizer(both)  # type: ignore[misc]  # the driver's


_keeping_classes: set[type[Any]] = set()  # a check-in looks at nothing but the class


@cache
def _keeping(base: type[Any], *, adapted: bool = False) -> type[Any]:
    """Return the subclass of a driver's connections, or of their adapters, that keep the lock."""
    # The repr() stays that of the driver's class: filters of warnings go by it.
    body: dict[str, Any] = {"__module__": base.__module__}
    if adapted:
        # It has no answer of its own, and the pool of an async engine keeps none that was unlocked.
        body |= {"__slots__": (), "_sa_readonly_answer": staticmethod(answer)}
    made = type(base.__name__, (base,) if adapted else (_Keeping, base), body)
    _keeping_classes.add(made)
    return made


def is_refusal(error: BaseException, connection: Any) -> bool:
    """True if SQLite refuses a write by this error.

    It says the same where it can't read, as of a WAL database in a directory that it may not write.
    """
    if "attempt to write a readonly database" not in str(error.args[0] if error.args else None):
        return False
    code = getattr(error, "sqlite_errorcode", None)  # from Python 3.11 on
    if code is not None:
        return bool(code == _READONLY)
    return connection is None or _can_be_read(connection)


def _can_be_read(connection: Any) -> bool:
    """True if a query is answered for which SQLite must read its file."""
    try:
        run(connection, "SELECT 1 FROM sqlite_master")
    except Exception:  # noqa: BLE001  # whatever it is, it was no write
        return False
    return True


def referable(dialect: Any, cparams: dict[str, Any]) -> dict[str, Any]:
    """Return a driver's arguments for a connection to which there can be a weak reference.

    By that its end is noticed, as those of other drivers are.
    """
    if dialect.driver != "pysqlite" or not can_authorize(dialect):  # it has another module=
        return cparams
    return {"factory": _referable(dialect.loaded_dbapi.Connection), **cparams}


@cache
def _referable(base: type[Any]) -> type[Any]:
    body = {"__module__": base.__module__, "__slots__": ("__weakref__",)}
    return type(base.__name__, (base,), body)


# -- while "connect" listeners run -----------------------------------------------------------


class _Watch:
    """The authorizer while "connect" listeners run: it ignores and notes the two statements."""

    def __init__(self) -> None:
        self.skipped: list[tuple[str, str | None, str | None]] = []
        self.asked: str | None = None  # the query whose row answers what was skipped just now

    def __call__(
        self, action: int, first: str | None, second: str | None, schema: str | None, *_: object
    ) -> int:
        name = (first or "").lower() if action == _PRAGMA else ""
        # To any mode: leaving WAL rewrites the header too, and what only reads needs no journal.
        sets_mode = name == "journal_mode" and second is not None and schema != "temp"
        if not sets_mode and name != "optimize":
            return 0
        self.skipped.append((name, second, schema))
        if sets_mode:
            self.asked = _asking(schema)
        return _IGNORE


def _asking(schema: str | None) -> str:
    if schema is None:
        return "PRAGMA journal_mode"
    quoted = schema.replace('"', '""')
    return f'PRAGMA "{quoted}".journal_mode'


_watches: weakref.WeakKeyDictionary[ConnectionPoolEntry, _Watch] = weakref.WeakKeyDictionary()


def watch(dialect: Any, dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
    """Watch a new connection until :func:`settle`."""
    made = _watches[record] = _Watch()
    authorize(dialect, dbapi_connection, made)


def skipped(record: ConnectionPoolEntry, value_of: Callable[[str], Any]) -> Iterator[str]:
    """Yield the statements of "connect" listeners that were ignored, and would have had an effect.

    :param value_of: returns the value of a PRAGMA.
    """
    watched = _watches.pop(record, None)
    for name, value, schema in () if watched is None else watched.skipped:
        if name == "optimize":
            yield "PRAGMA optimize"
        elif value_of(_asking(schema)) != str(value).lower():  # else that mode is there anyway
            yield f"PRAGMA journal_mode = {value}"


class _Connecting(_Keeping):
    """A new connection: a ``PRAGMA journal_mode`` that is skipped returns the mode that is there.

    SQLite returns no row for what it ignores, and listeners read one.
    """

    _sa_readonly_later: type[Any]  # the class it has from settle() on
    _sa_readonly_cursor: type[Any]

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        if not (args or kwargs) and isinstance(self._sa_readonly_answer, _Watch):
            args = (self._sa_readonly_cursor,)
        return super().cursor(*args, **kwargs)  # type: ignore[misc]  # the driver's

    def execute(self, sql: str, *args: Any) -> Any:  # the driver's calls no cursor() from 3.12 on
        return self.cursor().execute(sql, *args)


class _Cursor:
    def execute(self, sql: str, *args: Any) -> Any:
        watched: Any = self.connection._sa_readonly_answer  # type: ignore[attr-defined]  # this package adds it
        watched.asked = None  # an executescript() may have left it
        done = super().execute(sql, *args)  # type: ignore[misc]  # the driver's
        if watched.asked is not None:
            done = super().execute(watched.asked)  # type: ignore[misc]
        return done


def noting(driver: Any, dialect: Any) -> tuple[type[Any], type[Any]]:
    """Return the classes of connections, and of their cursors, that note what these are given.

    :param dialect: the one that is told of each text.
    """
    module = {"__module__": driver.Cursor.__module__}
    sent = ("execute", "executemany", "executescript")
    body = {name: _noted(getattr(driver.Cursor, name), dialect) for name in sent}
    made = type("Cursor", (driver.Cursor,), {**module, **body})

    def cursor(self: Any, factory: Any = made) -> Any:
        return driver.Connection.cursor(self, factory)

    body = {name: _by_cursor(name) for name in sent}
    return type("Connection", (driver.Connection,), {**module, "cursor": cursor, **body}), made


def _noted(theirs: Any, dialect: Any) -> Callable[..., Any]:
    def method(self: Any, sql: Any, *args: Any) -> Any:
        if hasattr(dialect, "_sa_readonly_rehearse"):  # else its selector is closed
            dialect._sa_readonly_rehearse(self, sql, args)
        return theirs(self, sql, *args)

    return method


def _by_cursor(name: str) -> Callable[..., Any]:
    # From Python 3.12 on the driver's calls no cursor() of a subclass.
    return lambda self, *args: getattr(self.cursor(), name)(*args)


def connecting(dialect: Any) -> type[Any]:
    """Return the class in which the driver of a dialect of SQLite is to make new connections."""
    return _connecting(getattr(dialect.loaded_dbapi, "sqlite", dialect.loaded_dbapi))


@cache
def _connecting(driver: Any) -> type[Any]:
    later = _keeping(driver.Connection)
    cursor = type("Cursor", (_Cursor, driver.Cursor), {"__module__": driver.Cursor.__module__})
    body = {
        "__module__": later.__module__,
        "_sa_readonly_later": later,
        "_sa_readonly_cursor": cursor,
    }
    return type(later.__name__, (_Connecting, driver.Connection), body)
