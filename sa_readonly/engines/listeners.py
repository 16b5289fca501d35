"""What "connect" listeners of the user's do to a new read-only connection of SQLite.

Two statements are common there, and write. ``PRAGMA journal_mode`` rewrites the header of a file,
which ``PRAGMA query_only`` lets pass; ``PRAGMA optimize`` may analyze, which that refuses, so that
no connection could be made and nothing be read. SQLite is told to do nothing for these.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["Connecting", "Keeping", "connecting", "skipped", "watch"]

_PRAGMA = 19  # SQLite's number for it
_IGNORE = 2  # SQLite's answer for: do nothing


class _Watch:
    """The authorizer while listeners run. It permits all but those two, which it notes."""

    def __init__(self) -> None:
        self.skipped: list[tuple[str, str | None, str | None]] = []
        self.asked: str | None = None  # the query whose row is the answer to what was skipped

    def __call__(
        self, action: int, first: str | None, second: str | None, schema: str | None, *_: object
    ) -> int:
        name = (first or "").lower() if action == _PRAGMA else ""
        # Any mode: to leave WAL rewrites the header too, and what writes nothing needs no journal.
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


def watch(record: ConnectionPoolEntry) -> Callable[..., int]:
    """Return the authorizer of a new connection for as long as the user's listeners run."""
    made = _watches[record] = _Watch()
    return made


def skipped(record: ConnectionPoolEntry, value_of: Callable[[str], Any]) -> Iterator[str]:
    """Yield what listeners did not get done, when they have run.

    :param value_of: returns the value of a PRAGMA.
    """
    watched = _watches.pop(record, None)
    for name, value, schema in () if watched is None else watched.skipped:
        if name == "optimize":
            yield "PRAGMA optimize"
        elif value_of(_asking(schema)) != str(value).lower():  # or it was so already
            yield f"PRAGMA journal_mode = {value}"


class Keeping:
    """A connection of SQLite that keeps its lock, so that it is not put back at each check-in.

    An authorizer of the user's is asked after ours, and can't take its place.
    """

    _sa_readonly_answer: Callable[..., int] = staticmethod(lambda *_: 0)
    _sa_readonly_theirs: Callable[..., int] | None = None

    def set_authorizer(self, authorizer_callback: Callable[..., int] | None) -> None:
        ours, theirs = self._sa_readonly_answer, authorizer_callback
        self._sa_readonly_theirs = theirs
        both = ours if theirs is None else lambda *asked: ours(*asked) or theirs(*asked)
        super().set_authorizer(both)  # type: ignore[misc]  # the driver's


class Connecting(Keeping):
    """One whose cursors answer with the mode that is there. It is that until listeners have run."""

    _sa_readonly_later: type[Any]  # what it is afterwards
    _sa_readonly_cursor: type[Any]

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        if not (args or kwargs) and isinstance(self._sa_readonly_answer, _Watch):
            args = (self._sa_readonly_cursor,)
        return super().cursor(*args, **kwargs)  # type: ignore[misc]  # the driver's

    def execute(self, sql: str, *args: Any) -> Any:  # which from Python 3.12 on calls no cursor()
        return self.cursor().execute(sql, *args)


class _Cursor:
    def execute(self, sql: str, *args: Any) -> Any:
        watched: Any = self.connection._sa_readonly_answer  # type: ignore[attr-defined]  # ours
        watched.asked = None  # by an executescript()
        done = super().execute(sql, *args)  # type: ignore[misc]  # the driver's
        if watched.asked is not None:
            done = super().execute(watched.asked)  # type: ignore[misc]
        return done


@cache
def connecting(later: type[Any], driver: Any) -> type[Any]:
    """Return the class of new connections of a driver, which are to be ``later`` afterwards."""
    cursor = type("Cursor", (_Cursor, driver.Cursor), {"__module__": driver.Cursor.__module__})
    body = {
        "__module__": later.__module__,
        "_sa_readonly_later": later,
        "_sa_readonly_cursor": cursor,
    }
    return type(later.__name__, (Connecting, driver.Connection), body)
