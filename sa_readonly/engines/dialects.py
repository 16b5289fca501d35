"""What a dialect and its driver can do, whoever wrote them.

The ancestors of a dialect's class and its driver tell, not its name: CockroachDB's dialect descends
from PostgreSQL's and has its drivers, and so its locks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    "row",
    "run",
    "shown",
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
