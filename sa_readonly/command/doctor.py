"""``sa-readonly doctor``: looks, and writes nothing, at what protects an installation.

Whatever talks to a server runs in a read-only transaction, and sets nothing for the session: behind
a pooler the next client would get it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ..engines.poolers import POOLERS, takes_parameters, told_pid
from .options import (
    Command,
    json_too,
    options,
    read_only_replica_url,
    read_only_url,
    read_write_url,
    the_file,
    the_workers,
)
from .probe import (
    TIMEOUT,
    UnreachableError,
    attempt,
    connect,
    dialect_of,
    fetch,
    is_pgpool,
    make_engine,
    parse_url,
    read_only,
    reading,
    reason_of,
    run,
    shown_url,
)

__all__ = ["Finding", "doctor", "examine"]

Severity = Literal["ok", "note", "warning", "danger"]
LEVELS = ("AUTOCOMMIT", "READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
SEVERITIES: tuple[Severity, ...] = ("danger", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    :param severity: ``"danger"`` if by it a write could reach a database while read-only.
    :param what: the fact.
    :param meaning: what follows from it.
    :param cure: what to do, or an empty string.
    """

    severity: Severity
    what: str
    meaning: str
    cure: str = ""


@dataclass
class Seen:
    """What a look at one database found.

    :param name: what it is called in a finding: "the read-only database".
    :param server: what tells one running server from another; None if that can't be told.
    :param cluster: what a server shares with its standbys; None if that can't be told.
    :param refuses: why this database refuses every write by itself, or None.
    :param isolation: the default isolation of a PostgreSQL session, and where it is set.
    :param abilities: what the role may write.
    :param lift: what would open the library's locks, on purpose, on a raw connection.
    """

    url: URL
    name: str
    kind: str
    where: str
    role: str = ""
    database: str = ""
    server: tuple[object, ...] | None = None
    cluster: str | None = None
    version: str = ""
    major: str = ""
    standby: bool = False
    isolation: tuple[str, str] = ("", "")
    refuses: str | None = None
    abilities: list[str] = field(default_factory=list)
    lift: str = ""
    cure: str = ""
    tables: set[str] | None = None
    unreadable: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)  # whatever it is used for
    read_findings: list[Finding] = field(default_factory=list)  # if it is read while read-only
    write_findings: list[Finding] = field(default_factory=list)  # if it is the read-write database


def examine(
    read_write: str,
    read_only: str | None,
    file: str | None,
    *,
    read_only_replica: str | None = None,
    workers: str | None = None,
    pooler: str | None = None,
    isolation_level: str | None = None,
) -> list[Finding]:
    """Look at the databases and at the switch's file. Nothing is written.

    :param read_write: the URL of the read-write database.
    :param read_only: that of the read-only database; None if none is given to the selector either.
    :param file: the path of the switch's file.
    :param read_only_replica: the URL of another database that is read while read-only.
    :param workers: the workers' directory, if it is not ``<file>.workers``.
    :param pooler: the selector's option, if it is known.
    :param isolation_level: that of the engines that are read while read-only, if they have one.
    :raises UnreachableError: if a database can't be looked at.
    """
    urls = [parse_url(read_write, "read-write")]
    urls += [parse_url(read_only, "read-only")] if read_only else []
    urls += [parse_url(read_only_replica, "read-only replica")] if read_only_replica else []
    level = isolation_level or ""
    findings = run(urls, lambda: _examine_databases(*urls, read_only=bool(read_only), level=level))
    findings = [with_option(one, pooler) for one in findings]
    if file is not None:
        findings += examine_file(file, workers)
    return findings + examine_environment(os.environ)


# -- the databases together ------------------------------------------------------------------


def _examine_databases(
    read_write: URL, *readers: URL, read_only: bool, level: str
) -> list[Finding]:
    names = [*["the read-only database"] * read_only, "the read-only replica"][: len(readers)]
    rw = look(read_write, "the read-write database")
    findings = [*rw.findings, *rw.write_findings]
    if not read_only:
        findings.append(
            Finding(
                "note",
                "No read-only database is given.",
                "While read-only the application reads from the read-write database, in read-only "
                "transactions. That database can't be taken away.",
                "Give --read-only, and read_only= to the selector: a standby is the best.",
            )
        )
        findings += protection(rw, rw)
        findings += serializable(rw, level)
    for url, name in zip(readers, names, strict=True):
        reader = replace(rw, name=name) if url == read_write else look(url, name)
        if url != read_write:
            findings += reader.findings
        for compare in (identity, protection, versions, tables):
            findings += compare(rw, reader)
        findings += serializable(reader, level)
    return findings


def identity(rw: Seen, reader: Seen) -> Iterator[Finding]:
    """Same database or two, and which of them is a standby."""
    name = _begin(reader.name)
    if rw.kind != reader.kind:
        yield Finding(
            "note",
            f"{name} is {reader.kind}, the read-write database {rw.kind}.",
            "They are two databases; whether their data agrees can't be told.",
        )
        return
    if rw.server is None or reader.server is None:
        yield Finding(
            "note",
            f"Whether {reader.name} and the read-write database are one can't be told.",
            f"This {rw.kind} does not say who it is.",
            "Compare the addresses yourself.",
        )
        return
    if (rw.server, rw.database) == (reader.server, reader.database):
        yield Finding(
            "warning",
            f"{name} is the read-write database itself: {rw.where}.",
            "It can't be taken away while the application reads from it.",
            "Give a standby or a copy as the read-only database.",
        )
        return
    if rw.server == reader.server:
        yield Finding(
            "warning",
            f"{name} and the read-write database are on one server: {rw.where}.",
            "Two databases, but whoever stops the server takes both away.",
            "If the server itself is to be stopped, put the read-only database on another.",
        )
        return
    yield Finding("ok", f"{name} is another one: {reader.where}.", _relation(rw, reader))


def _relation(rw: Seen, reader: Seen) -> str:
    if rw.cluster is None or reader.cluster is None:
        return "Whether it is a copy of the read-write database can't be told."
    if rw.cluster != reader.cluster:
        return "Its data is not a physical copy of the read-write server's."
    if reader.standby:
        return "It is a standby of the read-write server, or of the same primary."
    return "It was copied from the read-write server and goes its own way."


def protection(rw: Seen, reader: Seen) -> Iterator[Finding]:
    """What keeps a write out of a database that is read while read-only."""
    name = _begin(reader.name)
    yield from reader.read_findings
    if reader.refuses is not None:
        yield Finding(
            "ok", f"{name} refuses each write: {reader.refuses}.", "No lock can be opened."
        )
        if reader.standby and reader.abilities:
            yield Finding(
                "note",
                f"{_begin(reader.role)} could write into {reader.name} once it is promoted: "
                f"{_some(reader.abilities)}.",
                "A promotion while the application is read-only leaves it to the library's "
                "locks alone.",
                reader.cure,
            )
        return
    if not reader.abilities:
        yield Finding(
            "ok",
            f"{_begin(reader.role)} may write nothing into {reader.name}.",
            "No lock of the library's has to hold.",
        )
        return
    same = rw.url == reader.url or (
        rw.server is not None and (rw.server, rw.database) == (reader.server, reader.database)
    )
    target = (
        "in the very database that is to be left alone"
        if same
        else "in this database, and is lost or in conflict later"
    )
    yield Finding(
        "danger",
        f"{name} is writable, and {reader.role} may write into it: {_some(reader.abilities)}.",
        f"The library refuses what is executed through SQLAlchemy. {reader.lift} Such a write "
        f"ends up {target}.",
        reader.cure,
    )


def versions(rw: Seen, reader: Seen) -> Iterator[Finding]:
    """Whether both speak the same dialect of SQL."""
    if rw.kind != reader.kind or not rw.major:
        return
    if rw.major == reader.major:
        yield Finding("ok", f"Both are {rw.kind} {rw.major}.", "They read alike.")
        return
    yield Finding(
        "note",
        f"The read-write database is {rw.kind} {rw.version}, {reader.name} {reader.version}.",
        "A query may fail, or be planned otherwise, on one of them only.",
        "Run the application's tests against both.",
    )


def tables(rw: Seen, reader: Seen) -> Iterator[Finding]:
    """Whether each table of the read-write database is there, and can be read."""
    name = _begin(reader.name)
    if rw.kind != reader.kind:
        return  # their names are of other forms
    if rw.tables is None or reader.tables is None:
        what = f"Whether {reader.name} has the same tables can't be told."
        yield Finding("note", what, "Not both could be looked into.")
        return
    missing = sorted(rw.tables - reader.tables)
    if missing:
        yield Finding(
            "warning",
            f"{name} lacks tables of the read-write database: {_some(missing)}.",
            "Queries of them fail while the application is read-only.",
            "Migrate both, or wait until the copy has caught up.",
        )
    else:
        what = f"{name} has the {len(rw.tables)} tables of the read-write database."
        yield Finding("ok", what, "Every query finds its tables.")
    if reader.unreadable:
        yield Finding(
            "warning",
            f"{_begin(reader.role)} can't read {_some(reader.unreadable)} in {reader.name}.",
            "Queries fail there while the application is read-only.",
            "GRANT SELECT on them, and USAGE on their schemas.",
        )


# -- one database ----------------------------------------------------------------------------


def look(url: URL, name: str) -> Seen:
    """Look at one database, over read-only connections.

    :raises UnreachableError: if it can't be looked at.
    """
    looks: dict[str, Callable[[URL, str], Seen]] = {
        "postgresql": _look_postgresql,
        "mysql": _look_mysql,
        "mariadb": _look_mysql,
        "sqlite": _look_sqlite,
    }
    try:
        return looks.get(dialect_of(url).name, _look_other)(url, name)
    except (SQLAlchemyError, OSError, sqlite3.Error) as error:
        raise UnreachableError(
            f"{_begin(name)} {shown_url(url)} can't be looked at: {reason_of(error, url)}. Check "
            "its address and password, and that it runs."
        ) from error


def _names(connection: Connection, statement: str) -> list[str]:
    return sorted(str(one) for (one,) in fetch(connection, statement))


def _look_other(url: URL, name: str) -> Seen:
    engine = make_engine(url)
    try:
        with connect(engine):
            pass
    finally:
        engine.dispose()
    kind = dialect_of(url).name
    return Seen(
        url,
        name,
        kind,
        shown_url(url),
        role="the role of its URL",
        abilities=["what it may write can't be told"],
        lift=f"It has no lock at the server for {kind}: what a function writes, or a raw cursor, "
        "gets through.",
        cure="Connect as a role that may only read. The doctor can't look into this database.",
    )


# -- PostgreSQL ------------------------------------------------------------------------------

_READ_ONLY_SETTING = "default_transaction_read_only"
_ROLE = "Make a role that may only SELECT for the read-only URL, or give a standby."

# n: the schemas of the user's. r: the roles that the session may take, itself and what it may SET
# ROLE to.
_WITH = """
    WITH n AS (SELECT oid, nspname FROM pg_namespace
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
    r AS (SELECT * FROM pg_roles
        WHERE rolname = session_user OR pg_has_role(session_user, oid, '{member}'))
"""

_ABILITIES = (
    """
    SELECT CASE WHEN rolsuper THEN 'is superuser' WHEN rolcreaterole THEN 'may create roles'
        ELSE 'may create databases' END
        || CASE WHEN rolname = session_user THEN '' ELSE ' (as ' || rolname || ')' END
    FROM r WHERE rolsuper OR rolcreaterole OR rolcreatedb
    UNION SELECT 'is a member of ' || p.rolname FROM pg_roles p WHERE p.rolname IN
        ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program')
        AND pg_has_role(session_user, p.oid, 'MEMBER')
    UNION SELECT 'may create schemas' FROM r
        WHERE has_database_privilege(r.oid, current_database(), 'CREATE')
    """,
    """
    SELECT DISTINCT 'may create tables in schema ' || n.nspname FROM n, r
    WHERE has_schema_privilege(r.oid, n.oid, 'CREATE')
    """,
    """
    SELECT DISTINCT CASE WHEN c.relkind = 'S' THEN 'sequence ' ELSE 'table ' END
        || n.nspname || '.' || c.relname
    FROM pg_class c JOIN n ON n.oid = c.relnamespace, r
    WHERE c.relkind IN ('r', 'p', 'v', 'f', 'S')
        AND (pg_has_role(r.oid, c.relowner, 'USAGE') OR CASE WHEN c.relkind = 'S'
            THEN has_sequence_privilege(r.oid, c.oid, 'USAGE, UPDATE')
            ELSE has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
                OR has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE') END)
    """,
)

_DEFINERS = """
    SELECT DISTINCT p.oid::regprocedure::text FROM pg_proc p JOIN n ON n.oid = p.pronamespace, r
    WHERE p.prosecdef AND p.provolatile = 'v'
        AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
        AND NOT pg_has_role(r.oid, p.proowner, 'USAGE')
        AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
"""

# Those that a read-only transaction does not hold.
_OUTSIDE = """
    SELECT DISTINCT p.oid::regprocedure::text FROM pg_proc p JOIN n ON n.oid = p.pronamespace
        JOIN pg_language l ON l.oid = p.prolang, r
    WHERE (l.lanname IN ('plperlu', 'plpython3u', 'pltclu', 'plsh')
            OR (l.lanname NOT IN ('c', 'internal') AND p.prosrc ~* 'dblink|pg_background'))
        AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
"""

_TABLES = """
    SELECT n.nspname || '.' || c.relname,
        has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
    FROM pg_class c JOIN n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

_UNLOGGED = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'u'
"""


def _look_postgresql(url: URL, name: str) -> Seen:
    engine = make_engine(url)
    try:
        with reading(engine) as connection:
            seen = _ask_postgresql(connection, url, name)
        seen.findings += pooler(engine, name)
    finally:
        engine.dispose()
    seen.read_findings += start_up_options(url, name)
    seen.read_findings += several_hosts(url, seen)
    return seen


def _ask_postgresql(connection: Connection, url: URL, name: str) -> Seen:
    ((number, database, role, superuser, started, standby, port),) = fetch(
        connection,
        "SELECT current_setting('server_version_num')::int, current_database()::text,"
        " session_user::text, rolsuper, extract(epoch FROM pg_postmaster_start_time())::text,"
        " pg_is_in_recovery(), current_setting('port') FROM pg_roles WHERE rolname = session_user",
    )
    systems = attempt(connection, "SELECT system_identifier::text FROM pg_control_system()")
    cluster = systems[0][0] if systems else None
    seen = Seen(
        url,
        name,
        "PostgreSQL",
        f"database {database} at {url.host or 'the local socket'}, port {port}",
        role=f"role {role}",
        database=database,
        server=(started, port),
        cluster=cluster,
        version=f"{number // 10000}.{number % 10000}",
        major=str(number // 10000),
        standby=standby,
        refuses="it is a standby" if standby else None,
        lift='What gets through is code that, on purpose, sends "SET TRANSACTION READ WRITE; '
        'INSERT ..." as one text over the raw driver connection.',
        cure=_ROLE,
    )
    given = _WITH.format(member="SET" if number >= 160000 else "MEMBER")
    if superuser:
        seen.abilities = ["is superuser"]
        seen.cure = f"A superuser can't be refused. {_ROLE}"
    else:
        for statement in _ABILITIES:
            seen.abilities += _names(connection, f"{given} {statement}")
        seen.read_findings += _by_function(_names(connection, f"{given} {_DEFINERS}"), seen)
    readable: dict[str, bool] = dict(fetch(connection, f"{given} {_TABLES}"))
    seen.tables = set(readable)
    seen.unreadable = sorted(table for table, may in readable.items() if not may)
    seen.read_findings += _server_side(connection, seen)
    seen.read_findings += _outside(_names(connection, f"{given} {_OUTSIDE}"), seen)
    _defaults(connection, seen)
    seen.isolation = _isolation(connection)
    if standby:
        seen.read_findings += _unlogged(_names(connection, f"{given} {_UNLOGGED}"), seen)
    seen.write_findings += prepared(connection)
    if standby:
        seen.write_findings.append(
            Finding(
                "warning",
                "The read-write database is a standby.",
                "Nothing can be written in read-write mode.",
                "Check whether the two URLs are swapped.",
            )
        )
    return seen


def _by_function(functions: list[str], seen: Seen) -> Iterator[Finding]:
    if not functions or seen.standby:
        return
    yield Finding(
        "warning",
        f"{_begin(seen.role)} may call functions that run with their owner's rights in "
        f"{seen.name}: {_some(functions)}.",
        "What they do can't be told. In a read-only transaction they write nothing, but code "
        "that lifts it on purpose, on a raw connection, could write through them.",
        "REVOKE EXECUTE on them, from PUBLIC too.",
    )


def _server_side(connection: Connection, seen: Seen) -> Iterator[Finding]:
    """What a role can do to a standby, and what every role can."""
    powers = [
        one
        for one in seen.abilities
        if one.startswith(
            ("is superuser", "is a member of pg_execute", "is a member of pg_write_s")
        )
    ]
    if seen.standby and powers:
        yield Finding(
            "warning",
            f"{_begin(seen.role)} {_some(powers)} on {seen.name}, a standby.",
            "It writes no row there, but over a raw connection it could promote the standby, "
            "or write files and run programs on its host (COPY TO).",
            "Make a role that may only SELECT for the read-only URL.",
        )
        return
    if seen.standby or seen.abilities:
        return
    ((large_objects,),) = fetch(
        connection, "SELECT has_function_privilege('lo_creat(integer)', 'EXECUTE')"
    )
    if not large_objects:
        return
    yield Finding(
        "note",
        f"{_begin(seen.role)} may create large objects in {seen.name}, as every role may.",
        "They are in no table. The library refuses lo_creat() and its relatives; code that "
        "calls them on purpose, on a raw connection, gets through.",
        "REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), "
        "lo_from_bytea(oid, bytea) FROM PUBLIC.",
    )


def _outside(functions: list[str], seen: Seen) -> Iterator[Finding]:
    if not functions:
        return
    yield Finding(
        "warning",
        f"{_begin(seen.role)} may call functions that reach out of {seen.name}: "
        f"{_some(functions)}.",
        "A SELECT of one can write elsewhere, over a connection of its own, past every read-only "
        "transaction and also from a standby. Whether these do can't be told.",
        "Read them. REVOKE EXECUTE on those that write, from PUBLIC too.",
    )


def _defaults(connection: Connection, seen: Seen) -> None:
    """default_transaction_read_only, as a plain connection gets it."""
    ((value, source),) = fetch(
        connection,
        "SELECT setting, source FROM pg_settings WHERE name = :name",
        name=_READ_ONLY_SETTING,
    )
    setting = f"{_READ_ONLY_SETTING} is {value} for {seen.role} in {seen.name}"
    if value == "on":
        seen.write_findings.append(
            Finding(
                "warning",
                f"{setting} (source: {source}).",
                "Nothing can be written in read-write mode, unless each transaction says so.",
                f"ALTER ROLE or ALTER DATABASE ... RESET {_READ_ONLY_SETTING}, unless it is meant.",
            )
        )
        seen.read_findings.append(
            Finding("ok", f"{setting} (source: {source}).", "One more lock, though a SET opens it.")
        )
    elif not seen.standby and seen.abilities:
        role = seen.role.removeprefix("role ")
        seen.read_findings.append(
            Finding(
                "note",
                f"{setting}.",
                "A transaction that the library did not begin can write there: that of psql, of a "
                "script with the same URL.",
                f'For a role that only reads: ALTER ROLE "{role}" SET {_READ_ONLY_SETTING} = on.',
            )
        )


def _unlogged(tables: list[str], seen: Seen) -> Iterator[Finding]:
    if not tables:
        return
    yield Finding(
        "warning",
        f"{_begin(seen.name)}, a standby, has UNLOGGED tables: {_some(tables)}.",
        "A standby has no rows of them, and each read of one is an error there (SQLSTATE 0A000).",
        "On the primary: ALTER TABLE ... SET LOGGED, or have the application do without them while "
        "it is read-only.",
    )


_ISOLATION_SETTING = "default_transaction_isolation"


def _isolation(connection: Connection) -> tuple[str, str]:
    """The isolation of a transaction that asks for none, and where that is set."""
    ((value, source),) = fetch(
        connection,
        "SELECT setting, source FROM pg_settings WHERE name = :name",
        name=_ISOLATION_SETTING,
    )
    return value, source


# Where the default is set, as pg_settings has it, and what unsets it.
_UNSET = {
    "client": "Take it out of the options in the URL.",
    "user": 'On the primary: ALTER ROLE "{role}" RESET {setting}.',
    "database": 'On the primary: ALTER DATABASE "{base}" RESET {setting}.',
    "database user": 'On the primary: ALTER ROLE "{role}" IN DATABASE "{base}" RESET {setting}.',
}
_REPEATABLE = (
    'Or give the engine isolation_level="REPEATABLE READ", and with psycopg2 '
    "use_native_hstore=False too: it asks for hstore in a transaction of its own."
)


def serializable(seen: Seen, level: str) -> Iterator[Finding]:
    """Whether transactions would begin with an isolation that a hot standby does not have.

    :param level: the isolation_level of its engine, or an empty string.
    """
    if not seen.standby:
        return
    value, source = seen.isolation
    # psycopg2: see the cure
    overruled = level not in ("", "AUTOCOMMIT") and dialect_of(seen.url).driver != "psycopg2"
    if level == "SERIALIZABLE":
        what = f"The engine of {seen.name}, a standby, has the isolation_level SERIALIZABLE."
        cure = 'Give that engine isolation_level="REPEATABLE READ".'
    elif value == "serializable" and not overruled:
        what = (
            f"{_ISOLATION_SETTING} is {value} for {seen.role} in {seen.name}, a standby "
            f"(source: {source})."
        )
        unset = _UNSET.get(source, "Set {setting} otherwise in the standby's configuration file.")
        role = seen.role.removeprefix("role ")
        unset = unset.format(role=role, base=seen.database, setting=_ISOLATION_SETTING)
        cure = f"{unset} {_REPEATABLE}"
    else:
        return
    yield Finding(
        "warning",
        what,
        "A hot standby has no SERIALIZABLE: every read there is an error (SQLSTATE 0A000).",
        cure,
    )


def prepared(connection: Connection) -> Iterator[Finding]:
    """The prepared transactions of the read-write database, which no connection holds."""
    rows = fetch(
        connection,
        "SELECT gid, owner::text, prepared::timestamptz(0)::text FROM pg_prepared_xacts"
        " WHERE database = current_database() ORDER BY prepared",
    )
    if not rows:
        what = "The read-write database has no prepared transaction."
        yield Finding("ok", what, "What is drained stays drained.")
        return
    yield Finding(
        "warning",
        "The read-write database has prepared transactions: "
        + _some([f"{gid} of {owner} since {since}" for gid, owner, since in rows])
        + ".",
        "They hold locks, no connection holds them, and whoever commits one later writes then.",
        "Before the database is taken away: COMMIT PREPARED or ROLLBACK PREPARED each.",
    )


def start_up_options(url: URL, name: str) -> Iterator[Finding]:
    """Whether the library's first lock, in the start-up packet, arrives at the server."""
    driver = dialect_of(url).driver
    if driver == "asyncpg":
        arguments: dict[str, Any] = {"server_settings": {_READ_ONLY_SETTING: "on"}}
    elif driver in ("psycopg2", "psycopg", "psycopg_async"):
        given = url.query.get("options") or ""
        arguments = {"options": f"{given} -c {_READ_ONLY_SETTING}=on".strip()}
    elif driver == "pg8000" and takes_parameters(dialect_of(url).import_dbapi()):
        arguments = {"startup_params": {_READ_ONLY_SETTING: "on"}}
    else:
        yield Finding(
            "note",
            f"The driver {driver} has no way to begin read-only.",
            "The library's first lock is a SET for each new connection, and takes "
            "EngineSelector(pooler=...) where a pooler may be in between.",
            "Use psycopg, psycopg2 or asyncpg.",
        )
        return
    engine = make_engine(url, **arguments)
    cure = (
        f"{_POOLER} In a PgBouncer from 1.20 on also track_extra_parameters = IntervalStyle, "
        f"{_READ_ONLY_SETTING}. Or connect to the server itself."
    )
    try:
        with connect(engine) as connection:
            value = fetch(connection, f"SHOW {_READ_ONLY_SETTING}")[0][0]
    except (SQLAlchemyError, OSError) as error:
        yield Finding(
            "warning",
            f"{_begin(name)} refuses start-up options: {reason_of(error, url)}.",
            "Without the option pooler the library's read-only engine can't connect there: reads "
            "fail while read-only.",
            cure,
        )
        return
    finally:
        engine.dispose()
    if value == "on":
        yield Finding(
            "ok",
            f"{_begin(name)} honours start-up options.",
            "The library's first lock holds for the whole session.",
        )
        return
    yield Finding(
        "warning",
        f"{_begin(name)} ignores start-up options.",
        "Something between here and the server drops the library's first lock. Without the option "
        "pooler each connection of a read-only engine is an error: reads fail while read-only.",
        cure,
    )


def pooler(engine: Engine, name: str) -> Iterator[Finding]:
    """Whether a pooler is in between, and whether it changes the session under a connection.

    A pooler gives its own process number in the start-up packet; behind one in transaction mode,
    two connections that are both open have been served by the same process, or one by two.
    """
    with reading(engine) as connection:
        pgpool = is_pgpool(connection)
    if pgpool:
        yield Finding(
            "warning",
            f"Pgpool-II is before {name}.",
            "When it takes the primary for gone, it cuts all clients, readers of a standby too, "
            "and serves none for search_primary_node_timeout (five minutes).",
            "Have the read-only engine connect to the standby itself, and give the server itself "
            "to sa-readonly wait --read-write.",
        )
        return
    with connect(engine) as one:
        told = told_pid(one.dialect.driver, one.connection.driver_connection)
        first = _pid(one)
        if told == first:
            yield Finding("ok", f"No pooler is before {name}.", "A session is a session.")
            return
        with connect(engine) as two:
            pids = [(first, _pid(two)), *((_pid(one), _pid(two)) for _ in range(3))]
    ones, twos = (set(column) for column in zip(*pids, strict=True))
    if len(ones) > 1 or len(twos) > 1 or ones & twos:
        yield Finding(
            "warning",
            f"A pooler in transaction mode (PgBouncer, say) is before {name}.",
            "What is set for a session stays on a server connection that another client gets next. "
            "So each transaction must be READ ONLY by itself, and AUTOCOMMIT has no lock.",
            'Give EngineSelector(pooler="transaction"), and have psycopg (prepare_threshold=None) '
            "or asyncpg (statement_cache_size=0) prepare nothing. Or connect to the server itself.",
        )
        return
    what = f"is before {name}" if told is not None else f"may be before {name}"
    yield Finding(
        "note",
        f"A pooler {what}; its mode could not be told.",
        f"No sign of transaction mode was seen in {2 * len(pids)} transactions, which is no proof.",
        f"Ask its operator for pool_mode. {_POOLER}",
    )


def _pid(connection: Connection) -> int:
    with read_only(connection):
        return int(fetch(connection, "SELECT pg_backend_pid()")[0][0])


_POOLER = 'Give EngineSelector(pooler="transaction"), or "session", as it pools.'


def with_option(one: Finding, pooler: str | None) -> Finding:
    """Return a finding about a pooler as it is with the option for it."""
    if pooler in POOLERS and ("refuses start-up" in one.what or "ignores start-up" in one.what):
        return Finding("ok", one.what, f'With EngineSelector(pooler="{pooler}") none is sent.')
    if pooler == "transaction" and "A pooler in transaction mode" in one.what:
        return Finding("ok", one.what, "EngineSelector(pooler) is set: each transaction is locked.")
    return one


def several_hosts(url: URL, seen: Seen) -> Iterator[Finding]:
    """Whether the next connection may reach another server than the one that was looked at."""
    hosts = url.query.get("host", ())
    names = [
        host for part in ([hosts] if isinstance(hosts, str) else hosts) for host in part.split(",")
    ]
    if len(names) < 2 or url.query.get("target_session_attrs") in ("standby", "read-only"):
        return
    yield Finding(
        "warning",
        f"The URL of {seen.name} names several hosts: {_some(names)}.",
        "One was looked at. The next connection may reach another, which may be writable.",
        "Add target_session_attrs=standby to the read-only URL.",
    )


# -- MySQL and MariaDB -----------------------------------------------------------------------

_GRANT = re.compile(
    r"GRANT (?P<what>.+?) ON (?:(?:TABLE|FUNCTION|PROCEDURE|PACKAGE(?: BODY)?) )?"
    r"(?P<scope>\S.*?\..+?) TO ",
    re.DOTALL,
)
_ONE_ROLE = r"[`'][^`']*[`'](?:@[`'][^`']*[`'])?"
_ROLE_GRANT = re.compile(rf"GRANT (?P<roles>{_ONE_ROLE}(?:, ?{_ONE_ROLE})*) TO ")
_NO_PRIVILEGE = re.compile(r"GRANT PROXY ON |SET DEFAULT ROLE |REVOKE ")
_HARMLESS = frozenset(
    (
        *("USAGE", "SELECT", "SHOW DATABASES", "SHOW VIEW", "PROCESS", "CREATE TEMPORARY TABLES"),
        *("REPLICATION CLIENT", "REPLICATION SLAVE", "REPLICA MONITOR", "SLAVE MONITOR"),
        *("BINLOG MONITOR", "LOCK TABLES", "EXECUTE", "SHOW CREATE ROUTINE", "SHOW_ROUTINE"),
        *("XA_RECOVER_ADMIN", "GRANT OPTION"),
    )
)
_PAST_READ_ONLY = frozenset(
    ("ALL PRIVILEGES", "SUPER", "CONNECTION_ADMIN", "SYSTEM_VARIABLES_ADMIN", "READ_ONLY ADMIN")
)


class Grant(NamedTuple):
    """One privilege: ``INSERT`` on ```shop`.*``."""

    privilege: str
    scope: str

    def __str__(self) -> str:
        return f"{self.privilege} on {self.scope}"


def grants(lines: Iterable[str]) -> tuple[list[Grant], list[str]]:
    """Return the privileges and the roles that lines of SHOW GRANTS name."""
    privileges: list[Grant] = []
    roles: list[str] = []
    for line in lines:
        if found := _GRANT.match(line):
            words = re.sub(r"\([^)]*\)", "", found["what"])  # of columns
            privileges += [Grant(one.strip(), found["scope"]) for one in words.split(",")]
        elif found := _ROLE_GRANT.match(line):
            roles += [one.strip() for one in found["roles"].split(",")]
        elif not _NO_PRIVILEGE.match(line):
            # not the line, in which there may be the hash of a password
            privileges.append(Grant("what can't be told", "a grant of another form"))
    return privileges, roles


def _look_mysql(url: URL, name: str) -> Seen:
    engine = make_engine(url)
    try:
        with connect(engine) as connection:
            connection.exec_driver_sql("START TRANSACTION READ ONLY")
            return _ask_mysql(connection, url, name)
    finally:
        engine.dispose()


def _ask_mysql(connection: Connection, url: URL, name: str) -> Seen:
    ((version, database, role),) = fetch(connection, "SELECT VERSION(), DATABASE(), CURRENT_USER()")
    kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
    settings = {
        variable.lower(): str(value)
        for variable, value in fetch(
            connection,
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'hostname', 'port',"
            " 'server_id', 'datadir', 'read_only', 'super_read_only')",
        )
    }
    server = [settings.get(one, "") for one in ("server_uuid", "hostname", "port", "datadir")]
    seen = Seen(
        url,
        name,
        kind,
        f"database {database} at {url.host}, port {settings.get('port', '?')}",
        role=f"account {role}",
        database=database or "",
        server=tuple(server),
        version=version.split("-")[0],
        major=".".join(version.split(".")[:2]),
        lift='What gets through is code that, on purpose, sends "SET SESSION TRANSACTION READ '
        'WRITE" over the raw driver connection, and then writes.',
        cure="Make an account that may only SELECT for the read-only URL, or give a replica with "
        "read_only=ON.",
    )
    lines = [one for (one,) in fetch(connection, "SHOW GRANTS FOR CURRENT_USER")]
    privileges, roles = grants(lines)
    for one in roles:  # which grows, for a role may be granted others
        if any(line.endswith(f" TO {one}") for line in lines):
            continue  # it is active, and among those lines
        rows = _role_grants(connection, kind, one)
        if rows is None:
            seen.abilities.append(f"whatever role {one} may, which can't be told")
            continue
        more, others = grants(row for (row,) in rows)
        privileges += more
        roles += [other for other in others if other not in roles]
    seen.abilities += sorted({str(one) for one in privileges if one.privilege not in _HARMLESS})
    passes = [
        str(one) for one in privileges if one.privilege in _PAST_READ_ONLY and one.scope == "*.*"
    ]
    _server_read_only(seen, settings, passes)
    if any(one.privilege == "EXECUTE" for one in privileges) and not seen.refuses:
        seen.read_findings += _by_function(["EXECUTE is granted"], seen)
    _replication(connection, seen)
    seen.tables = set(
        _names(
            connection,
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
        )
    )
    seen.write_findings += _xa(connection)
    return seen


def _role_grants(connection: Connection, kind: str, role: str) -> list[Any] | None:
    clause = f"FOR {role}" if kind == "MariaDB" else f"FOR CURRENT_USER() USING {role}"
    return attempt(connection, f"SHOW GRANTS {clause}".replace(":", "\\:"))


def _server_read_only(seen: Seen, settings: Mapping[str, str], passes: list[str]) -> None:
    on = [
        one
        for one in ("super_read_only", "read_only")
        if settings.get(one, "OFF").upper() not in ("OFF", "0")
    ]
    if not on:
        return
    seen.write_findings.append(
        Finding(
            "warning",
            f"The read-write database is a server with {on[-1]}=ON.",
            "What does not have a right past it can't write in read-write mode.",
            "Check whether the two URLs are swapped.",
        )
    )
    if passes:
        seen.read_findings.append(
            Finding(
                "note",
                f"{_begin(seen.name)} has {on[0]}=ON, but {seen.role} may pass or lift it: "
                f"{_some(passes)}.",
                "The server does not refuse this account.",
                f"REVOKE {_some(passes)}.",
            )
        )
    else:
        seen.refuses = f"its server has {on[0]}=ON, and {seen.role} can't pass it"


def _replication(connection: Connection, seen: Seen) -> None:
    for statement in ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS"):
        rows = attempt(connection, statement)
        if rows is None:
            continue
        seen.standby = bool(rows)
        if rows:
            what = f"{_begin(seen.name)} is a replica."
            seen.findings.append(Finding("ok", what, "Its data comes from its source."))
        return
    seen.findings.append(
        Finding(
            "note",
            f"Whether {seen.name} is a replica could not be told.",
            f"{_begin(seen.role)} may not see the replication status.",
            "GRANT REPLICATION CLIENT (MariaDB: REPLICA MONITOR) to it, or ask as another account.",
        )
    )


def _xa(connection: Connection) -> Iterator[Finding]:
    rows = attempt(connection, "XA RECOVER")
    if rows is None:
        yield Finding(
            "note",
            "The read-write database's prepared transactions could not be seen.",
            "XA RECOVER is not allowed to this account.",
            "GRANT XA_RECOVER_ADMIN to it, or ask as another account.",
        )
        return
    if not rows:
        what = "The read-write server has no prepared transaction."
        yield Finding("ok", what, "What is drained stays drained.")
        return
    yield Finding(
        "warning",
        "The read-write server has prepared transactions: "
        f"{_some([str(row[-1]) for row in rows])}.",
        "They hold locks, no connection holds them, and whoever commits one later writes then.",
        "Before the database is taken away: XA COMMIT or XA ROLLBACK each.",
    )


# -- SQLite ----------------------------------------------------------------------------------


class SQLiteFile(NamedTuple):
    """What a SQLite URL names."""

    path: str | None  # None: in memory
    query: dict[str, str]


def sqlite_file(url: URL) -> SQLiteFile:
    """Return the file of a SQLite URL, with the parameters of a ``file:`` URI."""
    name, query = url.database or "", {}
    if str(url.query.get("uri", "")).lower() in ("true", "1", "yes", "on"):
        query = {key: str(value) for key, value in url.query.items()}
        name = unquote(name.removeprefix("file:").partition("?")[0])
        name = re.sub(r"^//(localhost)?(?=/)", "", name)
    if name in ("", ":memory:") or query.get("mode") == "memory":
        return SQLiteFile(None, query)
    return SQLiteFile(os.path.abspath(name), query)


def _look_sqlite(url: URL, name: str) -> Seen:
    path, query = sqlite_file(url)
    seen = Seen(
        url,
        name,
        "SQLite",
        path or "in memory",
        role="this process's user",
        lift='What gets through is code that, on purpose, sends "PRAGMA query_only = OFF" over the '
        "raw driver connection, and then writes.",
        cure="For the read-only URL use a file that this process's user can't write: another "
        "owner, mode 0644. mode=ro in the URL is not enough.",
    )
    if path is None:
        seen.abilities = ["it is in this process's memory"]
        seen.cure = "Use a file that this process's user can't write."
        return seen
    status = os.stat(path)  # a file that is not there is not made by looking
    seen.server = (status.st_dev, status.st_ino)
    option = next((one for one in ("mode=ro", "immutable=1") if _has(query, one)), None)
    if option is not None:
        seen.write_findings.append(
            Finding(
                "warning",
                f"The read-write database is opened with {option}.",
                "Nothing can be written in read-write mode.",
                "Check whether the two URLs are swapped.",
            )
        )
    if not os.access(path, os.W_OK):
        seen.refuses = f"{seen.role} can't write {path}"
        return _ask_sqlite(path, seen)
    seen.abilities = [f"the file's permissions allow it, {path}"]
    if option is not None:
        # SQLite gives ATTACH the flags that the driver asked for, not those of the URI
        seen.lift = (
            f"{option} holds for the connection, but code that, on purpose, sends "
            f"\"ATTACH '{path}' AS other\" over it, raw, opens the file anew and writes."
        )
    return _ask_sqlite(path, seen)


def _has(query: Mapping[str, str], option: str) -> bool:
    name, _, value = option.partition("=")
    return query.get(name) == value


def _ask_sqlite(path: str, seen: Seen) -> Seen:
    """Read the schema. To open a database in WAL mode makes files, unless it is "immutable"."""
    wal = os.path.exists(f"{path}-wal")
    if wal and not os.path.exists(f"{path}-shm"):
        seen.findings.append(
            Finding(
                "note",
                f"{_begin(seen.name)} {path} was left in the middle of something.",
                "It was not looked into, which would have repaired it.",
                "Let the application open it, then ask again.",
            )
        )
        return seen
    in_use = wal or os.path.exists(f"{path}-journal")
    uri = f"file:{quote(path)}?mode=ro" + ("" if in_use else "&immutable=1")
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT)) as connection:
        connection.execute("PRAGMA query_only = ON")
        rows = connection.execute(
            "SELECT name FROM sqlite_master"
            " WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
        )
        seen.tables = {name for (name,) in rows}
    return seen


# -- the switch's file -----------------------------------------------------------------------


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    root: str  # what of the file system is mounted
    place: str
    kind: str


def mounts(mountinfo: str) -> list[Mount]:
    """Read the text of /proc/self/mountinfo."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 6 or not right:
            continue
        root, place = (re.sub(r"\\([0-7]{3})", _character, one) for one in fields[3:5])
        found.append(Mount(root, place, right.split()[0]))
    return found


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1], 8))


def examine_file(file: str, workers: str | None = None) -> Iterator[Finding]:
    """Look at the switch's file, its directory and the workers' directory."""
    # as FileSwitch does: abspath() strikes out ".." with the name before it, wrong after a symlink
    path = os.path.abspath(file)
    if os.pardir in file.split(os.sep):
        path = os.path.join(os.getcwd(), file)
    directory = os.path.dirname(path)
    try:
        status = os.stat(directory)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError
    except OSError:
        yield Finding(
            "warning",
            f"The directory {directory} of the switch's file is not there, or can't be seen.",
            "A selector refuses to start: a mistyped path must not mean read-write for ever.",
            f"install -d -o root -m 0755 {directory}",
        )
        return
    yield from _now(path)
    mountinfo = Path("/proc/self/mountinfo")
    if mountinfo.exists():
        yield from examine_mount(path, mounts(mountinfo.read_text(errors="surrogateescape")))
    if os.name == "posix":
        yield from _directory(path, status)
        yield from _workers(workers or f"{path}.workers", directory)


def _now(path: str) -> Iterator[Finding]:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        yield Finding("ok", f"{path} is not there.", "The application is read-write now.")
        return
    except OSError as error:
        yield Finding(
            "warning",
            f"{path} can't be seen: {error.strerror}.",
            "A process that starts is read-only, others keep the mode that they know.",
            "Let the application's user search each directory of the path (chmod a+x).",
        )
        return
    meaning = "The application is read-only now."
    if stat.S_ISREG(status.st_mode):
        yield Finding("note", f"{path} is there.", meaning)
        return
    yield Finding(
        "warning", f"{path} is there, and is no regular file.", meaning, "Make it a file."
    )


def examine_mount(path: str, all_mounts: list[Mount]) -> Iterator[Finding]:
    """Whether the file can change at all where it is mounted, and who else sees it."""
    directory = os.path.realpath(os.path.dirname(path))
    real = os.path.join(directory, os.path.basename(path))
    if any(mount.place == real for mount in all_mounts):
        yield Finding(
            "warning",
            f"{path} is itself a mount: a bind-mounted file, or a subPath.",
            "It can never go away in here, whatever happens outside: the application is "
            "read-only for ever.",
            "Mount its directory, as a whole and without subPath.",
        )
        return
    # the longest one; of those at one place the last, which hides the others
    above = [
        m
        for m in all_mounts
        if directory == m.place or directory.startswith(f"{m.place.rstrip('/')}/")
    ]
    if not above:
        return
    mount = max(enumerate(above), key=lambda one: (len(one[1].place), one[0]))[1]
    if "volume-subpaths" in mount.root or re.search(r"/\.\.\d{4}_", mount.root):
        yield Finding(
            "warning",
            f"{mount.place} is a subPath of a volume.",
            "A ConfigMap mounted so never changes: the switch can't be flipped.",
            "Mount the whole directory of the ConfigMap, without subPath.",
        )
    if mount.kind in _KINDS:
        meaning, cure = _KINDS[mount.kind]
        yield Finding("warning", f"{directory} is on {mount.kind}.", meaning, cure)


_REMOTE = (
    "What a file server says is cached: a process may notice the file a minute late, and write "
    "until then. Locks there are emulated: whether another host's worker lives can't be told.",
    "Mount it with lookupcache=none,actimeo=1 (NFS), or use a directory of each host.",
)
_MEMORY = (
    "It is empty after a restart of the host: the application is read-write again, also in the "
    "middle of an upgrade.",
    "Use a directory on a disk, /var/lib/<application>, say.",
)
_KINDS = {
    **dict.fromkeys(
        ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph"), _REMOTE
    ),
    **dict.fromkeys(("tmpfs", "ramfs"), _MEMORY),
    "overlay": (
        "It is this container's own: no other container sees a file that is made here.",
        "Mount a directory that all of them share.",
    ),
}


def _directory(path: str, status: os.stat_result) -> Iterator[Finding]:
    """Who can make the file, and who can take it away."""
    directory = os.path.dirname(path)
    shown = f"{directory} (owner {_user(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o})"
    real = above = os.path.realpath(directory)
    found = False
    while not found:
        mode = os.stat(above).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield Finding(
                "danger",
                f"Every user of this host may write in {above}.",
                "Each can take the file away, or its directory, and so have the application write "
                "while it is to be read-only.",
                f"chmod o-w {above}",
            )
            return
        if mode & stat.S_IWOTH and above == real:
            yield Finding(
                "warning",
                f"Every user of this host may make files in {above}.",
                "Each can make the application read-only, by a file that others can't remove.",
                "Use a directory of its own for the file.",
            )
            return
        found, above = above == os.path.dirname(above), os.path.dirname(above)
    if os.geteuid() == 0:
        yield Finding(
            "note",
            f"The doctor runs as root, and looked at {shown} so.",
            "Root may do everything: whether the application can flip itself can't be told.",
            "Run the doctor as the application's user.",
        )
        return
    if os.access(directory, os.W_OK | os.X_OK):
        yield Finding(
            "note",
            f"{_begin(_user(os.geteuid()))} may make and remove the file in {shown}.",
            "If that is the application's user, the application can flip itself.",
            f"install -d -o root -m 0755 {directory}",
        )
        return
    who = _begin(_user(os.geteuid()))
    yield Finding("ok", f"{who} can't change {shown}.", "Only operators can flip.")


def _workers(workers: str, directory: str) -> Iterator[Finding]:
    try:
        status = os.lstat(workers)
    except OSError:
        if os.access(directory, os.W_OK | os.X_OK):
            what = f"The workers' directory {workers} is not there yet."
            yield Finding("ok", what, "The first worker makes it.")
            return
        yield Finding(
            "warning",
            f"The workers' directory {workers} is not there, and {_user(os.geteuid())} can't "
            "make it.",
            "No process can report: `sa-readonly wait` knows nothing of them.",
            f"install -d -o root -g <the application's group> -m 2770 {workers}",
        )
        return
    if stat.S_ISLNK(status.st_mode) or not stat.S_ISDIR(status.st_mode):
        kind = "a symlink" if stat.S_ISLNK(status.st_mode) else "no directory"
        meaning = "Whoever made it chooses what `sa-readonly wait` believes."
        cure = f"Make {workers} a directory, owned by root or by the application's user."
        yield Finding("warning", f"The workers' directory {workers} is {kind}.", meaning, cure)
        return
    what = f"The workers' directory {workers} (mode {stat.S_IMODE(status.st_mode):04o})"
    everybody = status.st_mode & stat.S_IWOTH
    if status.st_uid not in (0, os.geteuid()) or everybody:
        owner = "every user" if everybody else _user(status.st_uid)
        yield Finding(
            "note" if os.geteuid() == 0 and not everybody else "warning",
            f"{what} can be written by {owner}.",
            "Unless that is the application's user, reports can be removed or forged: `sa-readonly "
            "wait` may say drained too early.",
            f"chown root {workers}; chmod 2770 {workers}",
        )
        return
    if not os.access(workers, os.W_OK | os.X_OK):
        yield Finding(
            "warning",
            f"{what} can't be written by {_user(os.geteuid())}.",
            "If that is the application's user, no process can report.",
            f"chgrp <the application's group> {workers}; chmod 2770 {workers}",
        )
        return
    yield Finding("ok", f"{what} is in order.", "Processes can report there, and nobody else.")


def _user(uid: int) -> str:
    try:
        return f"user {importlib.import_module('pwd').getpwuid(uid).pw_name}"  # not on Windows
    except (ImportError, KeyError):
        return f"user {uid}"


def examine_environment(environment: Mapping[str, str]) -> list[Finding]:
    """Whether SA_READONLY_FORCE is set where the doctor runs."""
    value = environment.get("SA_READONLY_FORCE")
    if not value:
        return []
    return [
        Finding(
            "danger" if value == "read-write" else "warning",
            f"SA_READONLY_FORCE={value} is set in this environment.",
            "A process that has it never looks at the file, whatever is there.",
            "Unset it for the application.",
        )
    ]


# -- words -----------------------------------------------------------------------------------


def _begin(words: str) -> str:
    return words[:1].upper() + words[1:]


def _some(names: list[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


# -- the command -----------------------------------------------------------------------------

_STYLES = {"danger": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def ordered(findings: list[Finding]) -> list[Finding]:
    """The worst first."""
    return sorted(findings, key=lambda one: SEVERITIES.index(one.severity))


def table(findings: list[Finding]) -> Table:
    """The findings as a table for a terminal."""
    made = Table(show_lines=True, expand=True)
    made.add_column("", no_wrap=True)
    for title in ("Finding", "What it means", "Cure"):
        made.add_column(title, overflow="fold", ratio=1)
    for one in findings:
        cells = [Text(words) for words in (one.what, one.meaning, one.cure)]
        made.add_row(Text(one.severity, style=_STYLES[one.severity]), *cells)
    return made


def plain(findings: list[Finding]) -> str:
    """The findings as text, without a terminal's width."""
    lines = []
    for one in findings:
        lines.append(f"{one.severity:<8} {one.what}")
        lines.append(f"{'':<8} {one.meaning}")
        if one.cure:
            lines.append(f"{'':<8} Cure: {one.cure}")
    return "\n".join(lines)


def summary(findings: list[Finding]) -> str:
    """One line that says whether a write could get through."""
    counts = {one: sum(f.severity == one for f in findings) for one in SEVERITIES}
    told = ", ".join(f"{counts[one]} {one}" for one in SEVERITIES)
    if counts["danger"]:
        return f"A write could reach a database while read-only ({told})."
    return f"No way was found for a write to reach a database while read-only ({told})."


@click.command(cls=Command)
@options(read_write_url, read_only_url, read_only_replica_url, the_file, the_workers)
@click.option(
    "--pooler",
    type=click.Choice(POOLERS),
    help="What EngineSelector(pooler=) is given, where a pooler is in between.",
)
@click.option(
    "--isolation-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    metavar="LEVEL",
    help="The isolation_level of the engines that are read while read-only, if they have one.",
)
@json_too
def doctor(
    *,
    read_write: str | None,
    read_only: str | None,
    read_only_replica: str | None,
    file: str | None,
    workers: str | None,
    pooler: str | None,
    isolation_level: str | None,
    as_json: bool,
) -> None:
    """Look, and write nothing, at what protects this installation.

    Exits 1 where a write could reach a database while read-only, 0 otherwise, and 2 where a
    database can't be reached.
    """
    if not read_write:
        raise click.UsageError("Give --read-write URL, or set SA_READONLY_READ_WRITE_URL.")
    try:
        findings = ordered(
            examine(
                read_write,
                read_only,
                file,
                read_only_replica=read_only_replica,
                workers=workers,
                pooler=pooler,
                isolation_level=isolation_level,
            )
        )
    except UnreachableError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    worst = findings[0].severity if findings else "ok"
    if as_json:
        click.echo(
            json.dumps({"severity": worst, "findings": [asdict(f) for f in findings]}, indent=2)
        )
    else:
        console = Console()
        if console.is_terminal:
            console.print(table(findings))
        else:
            click.echo(plain(findings))
        click.echo(summary(findings))
    sys.exit(int(worst == "danger"))
