"""MariaDB and MySQL: what an account may write, and whether its server refuses it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection

from .. import probe
from .databases import Database, can_not_be_written, owners_rights, prepared
from .findings import capital, listed, note, ok

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


def examine_mysql(url: URL, name: str) -> Database:
    """Examine a database of MariaDB or MySQL in one read-only transaction."""
    engine = probe.make_engine(url)
    try:
        with probe.connect(engine) as connection:
            connection.exec_driver_sql("START TRANSACTION READ ONLY")
            return _ask(connection, url, name)
    finally:
        engine.dispose()


def _ask(connection: Connection, url: URL, name: str) -> Database:
    ((version, database, account),) = probe.fetch(
        connection, "SELECT VERSION(), DATABASE(), CURRENT_USER()"
    )
    rows = probe.fetch(
        connection,
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN"
        " ('server_uuid', 'hostname', 'port', 'datadir', 'read_only', 'super_read_only')",
    )
    settings = {variable.lower(): str(value) for variable, value in rows}
    found = Database(
        url,
        name,
        "MariaDB" if "mariadb" in version.lower() else "MySQL",
        f"database {database} at {url.host}, port {settings.get('port', '?')}",
        account=f"account {account}",
        own_name=database or "",
        server=tuple(settings.get(one) for one in ("server_uuid", "hostname", "port", "datadir")),
        version=version.split("-")[0],
        bypass='What gets through is code that, on purpose, sends "SET SESSION TRANSACTION READ '
        'WRITE" over the raw driver connection, and then writes.',
        cure="Make an account that may only SELECT for the read-only URL, or give a replica with "
        "read_only=ON.",
    )
    privileges = _all_grants(connection, found)
    found.abilities += sorted({str(one) for one in privileges if one.privilege not in _HARMLESS})
    _server_read_only(found, settings, privileges)
    if any(one.privilege == "EXECUTE" for one in privileges):
        found.read_findings += owners_rights(found, ["EXECUTE is granted"])
    _replication(connection, found)
    names = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
    found.tables = {str(table) for (table,) in probe.fetch(connection, names)}
    found.write_findings += prepared(connection)
    return found


# -- grants ------------------------------------------------------------------------------------


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
            words = re.sub(r"\([^)]*\)", "", found["what"])  # without the names of columns
            privileges += [Grant(one.strip(), found["scope"]) for one in words.split(",")]
        elif found := _ROLE_GRANT.match(line):
            roles += [one.strip() for one in found["roles"].split(",")]
        elif not _NO_PRIVILEGE.match(line):
            # The line itself is not told: it may contain the hash of a password.
            privileges.append(Grant("what can't be told", "a grant of another form"))
    return privileges, roles


def _all_grants(connection: Connection, found: Database) -> list[Grant]:
    """Return what the account is granted, and what the roles are that it may set."""
    lines = [one for (one,) in probe.fetch(connection, "SHOW GRANTS FOR CURRENT_USER")]
    privileges, roles = grants(lines)
    for role in roles:  # a role that is granted further roles makes this list longer meanwhile
        if any(line.endswith(f" TO {role}") for line in lines):
            continue  # the role is active, and its grants are among the lines
        rows = _role_grants(connection, found.kind, role)
        if rows is None:
            found.abilities.append(f"whatever role {role} may, which can't be told")
            continue
        more, others = grants(row for (row,) in rows)
        privileges += more
        roles += [other for other in others if other not in roles]
    return privileges


def _role_grants(connection: Connection, kind: str, role: str) -> list[Any] | None:
    clause = f"FOR {role}" if kind == "MariaDB" else f"FOR CURRENT_USER() USING {role}"
    return probe.attempt(connection, f"SHOW GRANTS {clause}".replace(":", "\\:"))


# -- the server --------------------------------------------------------------------------------


def _server_read_only(
    found: Database, settings: Mapping[str, str], privileges: Iterable[Grant]
) -> None:
    on = [
        one
        for one in ("super_read_only", "read_only")
        if settings.get(one, "OFF").upper() not in ("OFF", "0")
    ]
    if not on:
        return
    what = f"The read-write database is a server with {on[-1]}=ON."
    found.write_findings.append(can_not_be_written(what))
    passes = [
        str(one) for one in privileges if one.privilege in _PAST_READ_ONLY and one.scope == "*.*"
    ]
    if not passes:
        found.unwritable = f"its server has {on[0]}=ON, and {found.account} can't pass it"
        return
    found.read_findings.append(
        note(
            "may-pass-read-only",
            f"{capital(found.name)} has {on[0]}=ON, but {found.account} may pass or lift it: "
            f"{listed(passes)}.",
            "The server does not refuse this account.",
            f"REVOKE {listed(passes)}.",
        )
    )


def _replication(connection: Connection, found: Database) -> None:
    for statement in ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS"):
        rows = probe.attempt(connection, statement)
        if rows is not None:
            break
    else:
        found.findings.append(
            note(
                "replica-unknown",
                f"Whether {found.name} is a replica could not be told.",
                f"{capital(found.account)} may not see the replication status.",
                "GRANT REPLICATION CLIENT (MariaDB: REPLICA MONITOR), or use another account.",
            )
        )
        return
    if rows:
        found.standby = True
        what = f"{capital(found.name)} is a replica."
        found.findings.append(ok("replica", what, "Its data comes from its source."))
