"""What a dialect and its driver can do, whoever wrote them.

The ancestors of a dialect's class and its driver tell, not its name: CockroachDB's dialect descends
from PostgreSQL's and has its drivers, and so its locks.
"""

from __future__ import annotations

import codecs
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Dialect, Engine

__all__ = [
    "ATTRIBUTES",
    "BLIND",
    "LOCKED",
    "can_authorize",
    "family",
    "holds_file",
    "is_in_memory",
    "may_render",
    "plain_types",
    "row",
    "run",
    "shown",
    "text_of",
]

LOCKED = frozenset(("postgresql", "sqlite", "mysql", "mariadb"))
"""The families of databases that can be told to refuse writes."""

ATTRIBUTES = {
    "psycopg2": "readonly",
    "asyncpg": "readonly",
    "psycopg": "read_only",
    "psycopg_async": "read_only",
}
"""By driver, the attribute of a PostgreSQL connection that makes each BEGIN a READ ONLY one.

Drivers of PostgreSQL that are not in it have one that sets the session's default.
"""

BLIND = frozenset(("psycopg2", "asyncpg", "psycopg", "psycopg_async"))
"""Drivers that do not notice when a text ends the transaction; psycopg does but in a pipeline.

They would send what follows without a BEGIN, and so without READ ONLY.
"""


def family(dialect: Dialect) -> str:
    """Return which of :data:`LOCKED` the driver of a dialect is for, or the dialect's own name.

    DuckDB's dialect descends from PostgreSQL's, too, but has a driver of its own, and none of the
    locks.
    """
    if dialect.name in LOCKED:
        return dialect.name
    for cls in type(dialect).__mro__:
        name: str = getattr(cls, "name", "")
        if name in LOCKED and getattr(cls, "driver", None) == dialect.driver:
            return name
    return dialect.name


def can_authorize(dialect: Any) -> bool:
    """True if a driver of SQLite asks before it prepares a statement; libSQL's can't."""
    driver = getattr(dialect.loaded_dbapi, "sqlite", dialect.loaded_dbapi)  # aiosqlite has one
    return hasattr(getattr(driver, "Connection", None), "set_authorizer")


def is_in_memory(url: URL) -> bool:
    """True for a database of SQLite or DuckDB without a file."""
    backend, database = url.get_backend_name(), url.database or ""
    if backend != "sqlite":
        return backend == "duckdb" and (database == "" or database.startswith(":memory:"))
    return (
        database in ("", ":memory:")
        or database.startswith("file::memory:")
        or "mode=memory" in database
        or url.query.get("mode") == "memory"
    )


def holds_file(engine: Engine) -> bool:
    """True if a process that reads the database keeps all others from writing it, as DuckDB's."""
    return engine.dialect.name == "duckdb" and not is_in_memory(engine.url)


def shown(engine: Engine) -> str:
    """Return an engine's URL as messages show it: without password, and without options."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


# -- one statement on a connection -----------------------------------------------------------


def run(dbapi_connection: Any, statement: str) -> None:
    """Execute a statement on a driver's connection, past SQLAlchemy and its listeners."""
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


def row(dbapi_connection: Any, statement: str) -> Any:
    """Do the same, and return the first row."""
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchone()
    finally:
        cursor.close()


# -- what a driver is given as a text ----------------------------------------------------------


def text_of(query: Any, cursor: Any) -> str:
    """Return what a guarded cursor is given, as a text."""
    if isinstance(query, str):
        return query
    if isinstance(query, (bytes, bytearray)):
        return _decoded(bytes(query), cursor)
    return query.as_string(cursor)  # type: ignore[no-any-return]  # psycopg's sql.Composable


# In these encodings a character may end in the byte of a backslash. Python does not know all such
# characters, and a decoder that replaced one would leave its backslash alone.
_WITH_BACKSLASH = frozenset(
    ("big5", "big5hkscs", "gbk", "gb18030", "shift_jis", "shift_jis_2004", "cp932", "johab")
)


def _decoded(query: bytes, cursor: Any) -> str:
    """Return what the server reads, in the connection's encoding."""
    dialect, connection = cursor._sa_readonly, cursor.connection
    if dialect.driver == "psycopg2":
        name = dialect.dbapi.extensions.encodings.get(connection.encoding)
    else:
        name = getattr(getattr(connection, "info", connection), "encoding", None)
    codec = codecs.lookup(name or "utf-8")
    try:
        return codec.decode(query, "strict" if codec.name in _WITH_BACKSLASH else "replace")[0]
    except UnicodeDecodeError as error:
        what = f"A text that can't be read as {codec.name}"
        raise dialect._sa_readonly_refusal(what, kind="statement") from error


_TIMES = (date, datetime, time, timedelta)
_QUOTED = (str, bytes, bytearray, memoryview, type(None), bool, int, float, Decimal, UUID)


def plain_types(dialect: Any) -> frozenset[type[Any]] | None:
    """Return the types of the values that a driver puts into a text as literals, whatever they are.

    A value of another type may be SQL itself there, as psycopg2's ``AsIs``, also where it is what
    an adapter of the application's makes of it. None if a driver has no such values.
    """
    if dialect.driver not in ("psycopg2", "psycopg2cffi"):
        return None
    return frozenset((*_QUOTED, *_TIMES, dialect.loaded_dbapi.Binary))


def may_render(values: Any, plain: frozenset[type[Any]]) -> bool:
    """True if any of these values, however nested, may be SQL itself.

    :param values: a tuple, list or dict.
    """
    by_name = values.__class__ is dict
    for one in values:  # in few calls: a raw cursor asks each time
        value = values[one] if by_name else one
        if value.__class__ in plain:
            continue
        if value.__class__ not in (tuple, list, dict) or (value and may_render(value, plain)):
            return True
    return False
