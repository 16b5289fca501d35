"""A pooler between a read-only engine and its server: what is done otherwise, and its errors.

A pooler of PostgreSQL may refuse the start-up parameter that locks each session, or drop it. In
transaction mode it serves each transaction by another of its sessions at the server, so nothing may
be set for a session: the next client would get it.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine.default import DefaultDialect

from ..errors import ConfigurationError
from . import privates
from .dialects import ATTRIBUTES, family, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy.engine import Engine

__all__ = ["OF_LIBPQ", "POOLERS", "SETTING", "start_up_packet", "told_pid"]

POOLERS = ("transaction", "session")
SETTING = "default_transaction_read_only"
OF_LIBPQ = ("psycopg2", "psycopg2cffi", "psycopg", "psycopg_async")
_ELSEWHERE = ("service", "dsn", "conninfo")  # arguments of libpq's drivers that may bring options
_ATTRS, _ATTRS_FROM = "target_session_attrs", "PGTARGETSESSIONATTRS"
CURE = (
    'Give EngineSelector(pooler="transaction"), or "session" if it pools by session; or connect '
    "the read-only engine to the server itself."
)
_BETWEEN = f"A pooler stands in between. {CURE}"

_UNPROTECTED = "AUTOCOMMIT, which nothing protects behind a pooler in transaction mode,"


def told_pid(driver: str, connection: Any) -> int | None:
    """Return the number of the server process, as a connection was told it at the start.

    It was told so by the server, or by a pooler, which makes one up.

    :param driver: the name of SQLAlchemy's dialect for it.
    :param connection: the driver's own.
    :return: None where the driver keeps it to itself.
    """
    if driver in ("psycopg2", "psycopg2cffi"):
        return int(connection.get_backend_pid())
    if driver in ("psycopg", "psycopg_async"):
        return int(connection.info.backend_pid)
    if driver == "asyncpg":
        return int(connection.get_server_pid())
    if driver == "pg8000" and (key := getattr(connection, "_backend_key_data", None)):
        return int.from_bytes(key[:4], "big")  # it has no method for what the server has sent
    return None


def start_up_packet(
    driver: str, dbapi: Callable[[], Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that put the setting in PostgreSQL's start-up packet, or nothing.

    There must be nothing where an argument would replace what is given in a place that can't be
    read, as the ``options`` of a service file.

    :param driver: the name of SQLAlchemy's dialect for it.
    :param dbapi: returns the driver's module.
    :param given: the arguments that the driver is given otherwise.
    """
    more: dict[str, Any] = {}
    if driver in (*OF_LIBPQ, "asyncpg"):
        wanted = given.get(_ATTRS, os.environ.get(_ATTRS_FROM))
        if wanted == "read-write":  # no session that begins read-only is that
            more = {_ATTRS: "primary"}
    if driver in OF_LIBPQ:
        options = given.get("options")
        if not options:
            if "PGSERVICE" in os.environ or any(given.get(name) for name in _ELSEWHERE):
                return {}
            options = os.environ.get("PGOPTIONS")
        return {"options": f"{options or ''} -c {SETTING}=on".strip(), **more}
    if driver == "asyncpg":
        name = "server_settings"
    elif driver == "pg8000" and _takes_parameters(dbapi()):
        name = "startup_params"
    else:
        return {}
    return {name: {**(given.get(name) or {}), SETTING: "on"}, **more}


@cache
def _takes_parameters(dbapi: Any) -> bool:
    """True if this pg8000 can send start-up parameters, as it can from 1.31.3 on."""
    return "startup_params" in inspect.signature(dbapi.connect).parameters


def is_direct(dialect: Any, dbapi_connection: Any, pid: int) -> bool:
    """True if a connection surely is a session of its own, with no pooler in between.

    :param pid: the server's answer to ``pg_backend_pid()``. A pooler tells another number at start.
    """
    return told_pid(dialect.driver, dialect.get_driver_connection(dbapi_connection)) == pid


# -- errors ----------------------------------------------------------------------------------


def check(pooler: object, engines: Mapping[str, Engine], readers: set[str]) -> None:
    """Refuse a setting of EngineSelector(pooler=) that makes no sense for its engines.

    :param engines: the engines by name.
    :param readers: the names of those that are read-only, or of which a read-only one is made.
    """
    if pooler is not None and pooler not in POOLERS:
        raise ConfigurationError(
            f'EngineSelector(pooler) takes None, "transaction" or "session", not {pooler!r}.'
        )
    for name, engine in engines.items():
        dialect: Any = engine.dialect
        others = getattr(dialect, "_sa_readonly_pooler", pooler)
        in_use = getattr(dialect, "_sa_readonly_gates", ()) or getattr(
            dialect, "_sa_readonly_told", ()
        )
        if in_use and others != pooler:
            raise ConfigurationError(
                f"{name} stands in another EngineSelector with pooler={others!r}, here with "
                f"{pooler!r}. Give both the same."
            )
        if pooler is None or name not in readers:
            continue
        if family(dialect) != "postgresql":
            raise ConfigurationError(
                f"EngineSelector(pooler) is about PostgreSQL, and {name} is {dialect.name}. Leave "
                "it out."
            )
        if pooler == "session":
            continue
        if dialect.driver not in ATTRIBUTES:
            raise ConfigurationError(
                f'EngineSelector(pooler="transaction") needs a driver that begins each transaction '
                f"READ ONLY by itself, which {dialect.driver} of {name} does not. Use psycopg2, "
                "psycopg or asyncpg."
            )
        level = engine.get_execution_options().get("isolation_level")
        if privates.commits(dialect) or level == "AUTOCOMMIT":
            raise ConfigurationError(
                f'{name} has isolation_level="AUTOCOMMIT", which EngineSelector(pooler='
                '"transaction") can\'t protect: no transaction is there to be READ ONLY. Give a '
                "read-only engine without it, or one that goes past the pooler."
            )


@contextlib.contextmanager
def told(dialect: Any) -> Iterator[None]:
    """Add the cure to the error by which a server, or a pooler, refuses the start-up parameter."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())
        if "unsupported startup parameter" not in said:
            raise
        said = said[said.index("unsupported startup parameter") :]
        raise _error(dialect, f"is refused there: {said}. {_BETWEEN}") from error


def dropped(dialect: Any, *, offered: bool) -> ConfigurationError:
    """Return the error for a connection whose session is not read-only by default.

    :param offered: whether the start-up parameter was sent.
    """
    if offered:
        return _error(dialect, f"has no effect there. {_BETWEEN}")
    return _error(
        dialect,
        "is not given by its creator= or driver, and a SET is sent to no session that may be a "
        f"pooler's. Have it given, or {CURE[0].lower()}{CURE[1:]}",
    )


def _error(dialect: Any, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{dialect._sa_readonly_shown}: the start-up parameter {SETTING}, which locks each "
        f"session of a read-only engine, {what}"
    )


def refuse_autocommit(dialect: Any, dbapi_connection: Any) -> None:
    """Refuse a new connection that the driver has in autocommit, in transaction mode."""
    if dbapi_connection.autocommit is True:
        raise ConfigurationError(
            f"{dialect._sa_readonly_shown}: the driver has this connection in autocommit (by "
            'connect_args=, creator= or a listener), which EngineSelector(pooler="transaction") '
            "can't protect: no transaction is there to be READ ONLY. Leave it out."
        )


# -- transaction mode ------------------------------------------------------------------------


class _ByTransaction(DefaultDialect):
    """What a read-only dialect does otherwise where each transaction may have another session."""

    _sa_readonly_refusal: Any

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        if level == "AUTOCOMMIT":
            raise self._sa_readonly_refusal(_UNPROTECTED, kind="transaction")
        super().set_isolation_level(dbapi_connection, level)

    def do_ping(self, dbapi_connection: Any) -> bool:
        if self.driver == "asyncpg":  # which pings in a transaction
            return super().do_ping(dbapi_connection)
        # SQLAlchemy pings under autocommit. psycopg2 leaves that with a SET for the session, which
        # the pooler would give to another client.
        run(dbapi_connection, privates.ping_statement(self))
        dbapi_connection.rollback()
        return True


@cache
def by_transaction(kind: type[Any]) -> type[Any]:
    """Return a class of read-only dialects for transaction mode."""
    return type(kind.__name__, (_ByTransaction, kind), {})


def unlocked(*, autocommit: bool) -> str:
    """Return what a statement is that would be in no READ ONLY transaction."""
    return _UNPROTECTED if autocommit else "A transaction that is not READ ONLY"
