"""PostgreSQL: what a role may write, and what makes reads fail on a standby."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import URL, Connection

from ...engines.poolers import SETTING
from .. import probe
from .databases import Database, can_not_be_written, owners_rights, prepared
from .findings import Finding, capital, listed, note, ok, warning
from .poolers import pooler_before, several_hosts, start_up_options

_ROLE = "Make a role that may only SELECT for the read-only URL, or give a standby."

_SERVER = """
    SELECT current_setting('server_version_num')::int AS number, current_setting('port') AS port,
        current_database()::text AS database, session_user::text AS role, rolsuper AS superuser,
        extract(epoch FROM pg_postmaster_start_time())::text AS started,
        pg_is_in_recovery() AS standby,
        has_function_privilege('lo_creat(integer)', 'EXECUTE') AS large_objects
    FROM pg_roles WHERE rolname = session_user
"""

# n: the schemas that are not the server's own. r: the role, and those that it may SET ROLE to.
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
# What a role can do on a standby, too.
_POWERS = ("is superuser", "is a member of pg_execute", "is a member of pg_write_server")

_OWNERS_RIGHTS = """
    SELECT DISTINCT p.oid::regprocedure::text FROM pg_proc p JOIN n ON n.oid = p.pronamespace, r
    WHERE p.prosecdef AND p.provolatile = 'v'
        AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
        AND NOT pg_has_role(r.oid, p.proowner, 'USAGE')
        AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
"""

# Functions that may write over a connection of their own, or into files.
_REACHING_OUT = """
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


def examine_postgresql(
    url: URL, name: str, *, pooler: str | None, isolation_level: str | None
) -> Database:
    """Examine a database of PostgreSQL.

    :param pooler: what ``EngineSelector(pooler=)`` is given.
    :param isolation_level: that of the engine that reads it.
    """
    engine = probe.make_engine(url)
    try:
        with probe.reading(engine) as connection:
            found = _ask(connection, url, name)
            _settings(connection, found, isolation_level)
            found.write_findings += prepared(connection)
        found.findings.append(pooler_before(engine, name, pooler))
    finally:
        engine.dispose()
    found.read_findings.append(start_up_options(url, name, pooler))
    found.read_findings += several_hosts(url, name)
    return found


def _ask(connection: Connection, url: URL, name: str) -> Database:
    (row,) = probe.fetch(connection, _SERVER)
    given = _WITH.format(member="SET" if row.number >= 160000 else "MEMBER")

    def names(statement: str) -> list[str]:
        return sorted(str(one) for (one,) in probe.fetch(connection, f"{given} {statement}"))

    readable: dict[str, bool] = dict(probe.fetch(connection, f"{given} {_TABLES}"))
    found = Database(
        url,
        name,
        "PostgreSQL",
        f"database {row.database} at {url.host or 'the local socket'}, port {row.port}",
        account=f"role {row.role}",
        own_name=row.database,
        server=(row.started, row.port),
        cluster=probe.cluster_of(connection),
        version=f"{row.number // 10000}.{row.number % 10000}",
        standby=row.standby,
        unwritable="it is a standby" if row.standby else None,
        bypass='What gets through is code that, on purpose, sends "SET TRANSACTION READ WRITE; '
        'INSERT ..." as one text over the raw driver connection.',
        cure=_ROLE,
        tables=set(readable),
        unreadable=sorted(table for table, may in readable.items() if not may),
    )
    if row.superuser:
        found.abilities = ["is superuser"]
        found.cure = f"A superuser can't be refused. {_ROLE}"
    else:
        found.abilities = [one for statement in _ABILITIES for one in names(statement)]
        found.read_findings += owners_rights(found, names(_OWNERS_RIGHTS))
    found.read_findings += _reaching_out(found, names(_REACHING_OUT))
    if row.standby:
        what = "The read-write database is a standby."
        found.write_findings.append(can_not_be_written(what))
        found.read_findings += _of_standby(found, names(_UNLOGGED))
    elif row.large_objects and not found.abilities:
        found.read_findings.append(
            note(
                "large-objects",
                f"{capital(found.account)} may create large objects in {name}, as every role may.",
                "They are in no table. The library refuses lo_creat() and its relatives; code "
                "that calls them on purpose, on a raw connection, gets through.",
                "REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), "
                "lo_from_bytea(oid, bytea) FROM PUBLIC.",
            )
        )
    return found


def _reaching_out(found: Database, functions: list[str]) -> Iterator[Finding]:
    if functions:
        yield warning(
            "functions-reaching-out",
            f"{capital(found.account)} may call functions that reach out of {found.name}: "
            f"{listed(functions)}.",
            "A SELECT of one can write elsewhere, over a connection of its own, past every "
            "read-only transaction and also from a standby. Whether these do can't be told.",
            "Read them. REVOKE EXECUTE on those that write, from PUBLIC too.",
        )


def _of_standby(found: Database, unlogged: list[str]) -> Iterator[Finding]:
    if powers := [one for one in found.abilities if one.startswith(_POWERS)]:
        yield warning(
            "powers-on-standby",
            f"{capital(found.account)} {listed(powers)} on {found.name}, a standby.",
            "It writes no row there, but could promote it, write files and run programs (COPY TO).",
            "Make a role that may only SELECT for the read-only URL.",
        )
    if unlogged:
        yield warning(
            "unlogged-tables",
            f"{capital(found.name)}, a standby, has UNLOGGED tables: {listed(unlogged)}.",
            "A standby has no rows of them: each read of one is an error there (SQLSTATE 0A000).",
            "On the primary: ALTER TABLE ... SET LOGGED; or do without them while read-only.",
        )


# -- settings ----------------------------------------------------------------------------------

_ISOLATION = "default_transaction_isolation"
_DEFAULTS = "SELECT setting, source FROM pg_settings WHERE name = :name"

# What unsets a default, by the source that pg_settings names.
_UNSET = {
    "client": "Take it out of the options in the URL.",
    "user": 'On the primary: ALTER ROLE "{role}" RESET {setting}.',
    "database": 'On the primary: ALTER DATABASE "{base}" RESET {setting}.',
    "database user": 'On the primary: ALTER ROLE "{role}" IN DATABASE "{base}" RESET {setting}.',
}


def _settings(connection: Connection, found: Database, isolation_level: str | None) -> None:
    """Examine what a transaction gets that asks for nothing."""
    (read_only,) = probe.fetch(connection, _DEFAULTS, name=SETTING)
    _read_only_default(found, *read_only)
    if found.standby:
        (isolation,) = probe.fetch(connection, _DEFAULTS, name=_ISOLATION)
        found.read_findings += _serializable(found, isolation_level, *isolation)


def _read_only_default(found: Database, value: str, source: str) -> None:
    setting = f"{SETTING} is {value} for {found.account} in {found.name}"
    if value == "on":
        what = f"{setting} (source: {source})."
        cure = f"ALTER ROLE or DATABASE ... RESET {SETTING}, if no transaction says READ WRITE."
        found.write_findings.append(can_not_be_written(what, cure))
        meaning = "One more lock, though a SET opens it."
        found.read_findings.append(ok("default-is-read-only", what, meaning))
    elif not found.standby and found.abilities:
        role = found.account.removeprefix("role ")
        found.read_findings.append(
            note(
                "default-is-read-write",
                f"{setting}.",
                "psql, or a script with the same URL, begins transactions that can write there.",
                f'For a role that only reads: ALTER ROLE "{role}" SET {SETTING} = on.',
            )
        )


def _serializable(
    found: Database, isolation_level: str | None, value: str, source: str
) -> Iterator[Finding]:
    """Tell whether transactions would begin with an isolation that a hot standby does not have."""
    # AUTOCOMMIT leaves the default as it is. So does psycopg2 when it connects: it asks for hstore
    # before the engine's level is set.
    driver = probe.dialect_of(found.url).driver
    overruled = isolation_level not in (None, "AUTOCOMMIT") and driver != "psycopg2"
    if isolation_level == "SERIALIZABLE":
        what = f"The engine of {found.name}, a standby, has the isolation_level SERIALIZABLE."
        cure = 'Give that engine isolation_level="REPEATABLE READ".'
    elif value == "serializable" and not overruled:
        what = (
            f"{_ISOLATION} is {value} for {found.account} in {found.name}, a standby (source: "
            f"{source})."
        )
        unset = _UNSET.get(source, "Set {setting} otherwise in the standby's configuration file.")
        role = found.account.removeprefix("role ")
        cure = (
            unset.format(role=role, base=found.own_name, setting=_ISOLATION)
            + ' Or give the engine isolation_level="REPEATABLE READ", and with psycopg2 '
            "use_native_hstore=False too: it asks for hstore in a transaction of its own."
        )
    else:
        return
    meaning = "A hot standby has no SERIALIZABLE: every read there is an error (SQLSTATE 0A000)."
    yield warning("serializable-on-standby", what, meaning, cure)
