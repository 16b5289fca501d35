"""Asking a database server, for `wait` and the doctor: connections, and questions that both have.

Every question runs in a read-only transaction and leaves no setting in the session: behind a pooler
the next client would get that session. No message contains a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, __version__, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from ..engines.poolers import told_pid

TIMEOUT = 10  # seconds, for a connection and for a statement

_T = TypeVar("_T")


class UnreachableError(Exception):
    """A database can't be asked; the message is one sentence, with no password in it."""


def parse_url(value: str, name: str) -> URL:
    """Return a URL of SQLAlchemy's. :raises UnreachableError: if the text is none."""
    try:
        return make_url(value)
    except (ArgumentError, ValueError):
        raise UnreachableError(  # the error and the value may show a password
            f"The {name} URL can't be read. Write it as "
            "postgresql+psycopg2://user:password@host:port/database."
        ) from None


def servers_of(url: URL) -> list[str]:
    """Return the servers that a connection by this URL may reach: hosts, or addresses of one."""
    named = url.normalized_query.get("host", (url.host or "",))  # drivers go by the former
    hosts = [host for host in ",".join(named).split(",") if host]
    if len(hosts) != 1 or hosts[0].startswith("/"):  # a directory of sockets
        return hosts
    with contextlib.suppress(OSError, UnicodeError):  # told where it is asked
        found = socket.getaddrinfo(hosts[0], None, type=socket.SOCK_STREAM)
        for family in (socket.AF_INET, socket.AF_INET6):  # one server may have one of each
            addresses = list(dict.fromkeys(str(to[0]) for kind, *_, to in found if kind == family))
            if len(addresses) > 1:
                return addresses
    return hosts


_PACKAGES = {  # that bring a driver, where their names differ
    "psycopg": "psycopg[binary]",
    "psycopg_async": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "mysqldb": "mysqlclient",
    "mysqlconnector": "mysql-connector-python",
    "mariadbconnector": "mariadb",
}


def dialect_of(url: URL) -> Any:
    """Return the dialect of a URL. :raises UnreachableError: if its driver is missing."""
    missing = f"The driver of {shown_url(url)} is not installed here"
    try:
        dialect = url.get_dialect()
        dialect.import_dbapi()
    except NoSuchModuleError:
        raise UnreachableError(f"{missing}. Install it, or name another one in the URL.") from None
    except ImportError as error:
        driver = url.get_driver_name()  # which another SQLAlchemy chooses otherwise
        raise UnreachableError(
            f"{missing}: SQLAlchemy {__version__} takes {driver} for it ({error}). "
            f"pip install '{_PACKAGES.get(driver, driver)}', or name one that is installed in the "
            f"URL: {url.get_backend_name()}+DRIVER://..."
        ) from None
    return dialect


_TIMEOUTS = {  # the arguments that limit how long connecting may take
    "psycopg2": ("connect_timeout",),
    "psycopg": ("connect_timeout",),
    "psycopg_async": ("connect_timeout",),
    "asyncpg": ("timeout",),
    "pg8000": ("timeout",),
    "pymysql": ("connect_timeout", "read_timeout"),  # the greeting is a read
    "mysqldb": ("connect_timeout", "read_timeout"),
    "aiomysql": ("connect_timeout",),
    "asyncmy": ("connect_timeout", "read_timeout"),
    "mysqlconnector": ("connection_timeout",),
    "mariadbconnector": ("connect_timeout", "read_timeout"),
}


# A standby refuses each question if its default is SERIALIZABLE. These drivers send another
# isolation with each BEGIN and set nothing for the session; psycopg2 asks for hstore before that.
_SENT = {"isolation_level": "READ COMMITTED"}
_ISOLATION: dict[str, dict[str, Any]] = {
    "psycopg2": {**_SENT, "use_native_hstore": False},
    "psycopg": _SENT,
    "psycopg_async": _SENT,
    "asyncpg": _SENT,
}


def make_engine(url: URL, **arguments: Any) -> Engine:
    """Return an engine that keeps no connection, and gives up soon where none is to be had."""
    driver = dialect_of(url).driver
    for timeout in _TIMEOUTS.get(driver, ()):
        if timeout not in url.query:
            arguments[timeout] = TIMEOUT
    options = _ISOLATION.get(driver, {})
    return create_engine(url, poolclass=NullPool, connect_args=arguments, **options)


class _NoConnectionError(OSError):
    """A driver could not connect. SQLAlchemy wraps only the errors that are of its classes."""


def connect(engine: Engine) -> Connection:
    """Connect. :raises OSError: or what SQLAlchemy makes of it, if that fails."""
    try:
        return engine.connect()
    except Exception as error:
        raise _NoConnectionError(_said(error)) from error


def fetch(connection: Connection, statement: str, **parameters: object) -> list[Any]:
    """Execute a statement and return its rows."""
    return list(connection.execute(text(statement), parameters))


def run(urls: Sequence[URL], function: Callable[[], _T]) -> _T:
    """Call a function that talks to these databases, also over asyncio's drivers."""
    if not any(dialect_of(url).is_async for url in urls):
        return function()
    # not at the top: without greenlet, sync drivers must go on working
    from sqlalchemy.util import greenlet_spawn  # noqa: PLC0415

    return asyncio.run(greenlet_spawn(function))


def attempt(connection: Connection, statement: str, **parameters: object) -> list[Any] | None:
    """Return the rows, or None where the role may not ask; the transaction goes on either way."""
    try:
        with connection.begin_nested():
            return fetch(connection, statement, **parameters)
    except DBAPIError:
        return None


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection in a read-only transaction."""
    with connect(engine) as connection:
        if engine.dialect.name == "postgresql":
            with read_only(connection):
                yield connection
        else:
            connection.exec_driver_sql("START TRANSACTION READ ONLY")
            yield connection


@contextlib.contextmanager
def read_only(connection: Connection) -> Iterator[None]:
    """Be in a read-only transaction of PostgreSQL, of which no statement may take long."""
    with connection.begin() as transaction:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        connection.execute(text(f"SET LOCAL statement_timeout = '{TIMEOUT}s'"))
        yield
        transaction.rollback()


def shown_url(url: URL) -> str:
    """Return the URL without a password, also one among its parameters."""
    return URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database
    ).render_as_string()


def reason_of(error: BaseException, url: URL) -> str:
    """Return what a driver says, in one line, without the password."""
    said = _said(error)
    secrets = [url.password, *(v for k, v in url.query.items() if "pass" in k.lower())]
    forms = {form for secret in secrets for form in _forms(str(secret or ""))}
    for form in sorted(forms, key=len, reverse=True):
        shown = re.escape(form)
        # Within the words of a message a mask would tell what it hides: "Acce*** denied".
        said = re.sub(shown if len(form) > 3 else rf"(?<!\w){shown}(?!\w)", "***", said)
    return said


def _forms(secret: str) -> set[str]:
    """Return how a message may have a secret: as it is, in a URL, in SQLAlchemy's, or quoted."""
    several = (secret, quote(secret, safe=""), quote(secret, safe=" +"), repr(secret)[1:-1])
    return {plain for form in several if (plain := _plain(form))}


def sentence(said: str) -> str:
    """Return what was said with a full stop, unless it ends as a sentence does: drivers ask."""
    return said if said.endswith((".", "?", "!")) else f"{said}."


def _said(error: BaseException) -> str:
    error = getattr(error, "orig", None) or error
    return _plain(str(error)) or type(error).__name__


def _plain(said: str) -> str:
    return " ".join(said.split()).rstrip(".")


# -- what both ask ---------------------------------------------------------------------------


class Prepared(NamedTuple):
    """A prepared transaction. No connection holds it, so that it outlives every session.

    :param name: its name, quoted as the server takes it.
    :param ends: the statement that rolls it back.
    :param role: the role that prepared it, or None where the server does not tell.
    :param age: seconds since then, or None where the server does not tell.
    """

    name: str
    ends: str
    role: str | None = None
    age: float | None = None

    def __str__(self) -> str:
        """Return it in one line."""
        role = "" if self.role is None else f" of role {self.role}"
        return f"{self.name}{role}" + ("" if self.age is None else f", {self.age:.0f} s old")


_PREPARED = """
    SELECT quote_literal(gid) AS name, owner::text AS role,
        extract(epoch FROM now() - prepared)::float8 AS age
    FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""


def prepared_transactions(connection: Connection) -> list[Prepared] | None:
    """Return the prepared transactions, or None where the account may not ask for them.

    PostgreSQL tells those of the database. MariaDB and MySQL tell those of the whole server, and
    not of which database each is.
    """
    if connection.dialect.name == "postgresql":
        return [
            Prepared(row.name, f"ROLLBACK PREPARED {row.name}", row.role, row.age)
            for row in fetch(connection, _PREPARED)
        ]
    rows = attempt(connection, "XA RECOVER FORMAT='SQL'")  # which only MariaDB knows
    if rows is not None:
        names = [str(row[-1]) for row in rows]
    elif (rows := attempt(connection, "XA RECOVER")) is not None:
        names = [f"'{data[:length]}','{data[length:]}',{form}" for form, length, _, data in rows]
    else:
        return None
    return [Prepared(name, f"XA ROLLBACK {name}") for name in names]


def is_standby(connection: Connection) -> bool:
    """True if a PostgreSQL server only replays what another one writes."""
    return bool(fetch(connection, "SELECT pg_is_in_recovery()")[0][0])


def cluster_of(connection: Connection) -> str | None:
    """Return what a PostgreSQL server has in common with its standbys alone.

    :return: None where the role may not ask for it.
    """
    rows = attempt(connection, "SELECT system_identifier::text FROM pg_control_system()")
    return None if rows is None else str(rows[0][0])


def backend_pid(connection: Connection) -> int:
    """Return the number of the PostgreSQL server process that answers."""
    return int(fetch(connection, "SELECT pg_backend_pid()")[0][0])


def told_pid_of(connection: Connection) -> int | None:
    """Return the number that the driver was given when it connected.

    A pooler gives another one than :func:`backend_pid`.

    :return: None where the driver keeps it to itself.
    """
    return told_pid(connection.dialect.driver, connection.connection.driver_connection)


def is_pgpool(connection: Connection) -> bool:
    """True if Pgpool-II answers, which may give its clients the numbers of the server's processes.

    A server of its own logs the question as an error.
    """
    ask = "SHOW pool_version"
    try:
        with connection.begin_nested():
            # fetch() has asyncpg prepare, and what is prepared pgpool passes on to the server.
            if connection.dialect.driver == "asyncpg":
                adapted: Any = connection.connection.dbapi_connection
                adapted.run_async(lambda driver: driver.execute(ask))
            else:
                fetch(connection, ask)
    except Exception:  # noqa: BLE001  # asyncpg's own, there
        return False
    return True
