"""What a dialect can do, whoever wrote it: its ancestors and its driver tell, not its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect, Engine

__all__ = ["LOCKED", "can_authorize", "family", "holds_file"]

LOCKED = frozenset(("postgresql", "sqlite", "mysql", "mariadb"))
"""The databases that can be told to refuse writes."""


def family(dialect: Dialect) -> str:
    """Return which of those the driver of a dialect is for, or the dialect's own name.

    CockroachDB's descends from PostgreSQL's and has its drivers, and so its locks. DuckDB's does,
    too, but with a driver of its own, which has none of them.
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


def holds_file(engine: Engine) -> bool:
    """True if no writer can open the database while it is read, by whatever process."""
    database = engine.url.database or ":memory:"
    return engine.dialect.name == "duckdb" and not database.startswith(":memory:")
