"""Asking MariaDB and MySQL for what could still write, and a replica for what it has to apply."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from sqlalchemy import Connection

from .obstacles import Obstacle, Reply, one_line, prepared, question, since
from .probe import attempt, fetch, prepared_transactions

_THREADS = """
    SELECT id AS id, user AS user, host AS host, db AS db, command AS command, time AS time,
        state AS state, info AS info, db = DATABASE() AS here
    FROM information_schema.processlist WHERE id <> CONNECTION_ID() ORDER BY id
"""
# Not information_schema.innodb_trx: that is cached, and never made anew while it is read often.
_TRANSACTIONS = "SHOW ENGINE INNODB STATUS"
_NO_DATABASE = ", in a transaction without a database of its own"


def ask_mysql(connection: Connection) -> Reply:
    """Ask which sessions and prepared transactions could still write into the database."""
    ((database, account),) = fetch(connection, "SELECT DATABASE(), CURRENT_USER()")
    if database is None:
        what = "The URL of --read-write names no database"
        return Reply((question(what, "Add it: mysql+pymysql://host/DATABASE."),))
    # It takes the privilege without which only the account's own sessions are shown.
    transactions = attempt(connection, _TRANSACTIONS)
    if transactions is None:
        what = f"Account {account} can't see the sessions of others"
        return Reply((question(what, "GRANT PROCESS ON *.* to it."),))
    in_transaction = _in_transaction(str(transactions[0][-1]))
    obstacles: list[Obstacle] = []
    others = Counter[str]()
    for row in fetch(connection, _THREADS):
        unsure = in_transaction is None or row.id in in_transaction
        if row.user == "system user" and row.command in ("Slave_SQL", "Slave_worker", "Query"):
            obstacles.append(_replication(row))
        elif row.here or (row.db is None and unsure):
            obstacles.append(_thread(row))
        elif row.user in ("system user", "event_scheduler") or row.command.startswith("Binlog"):
            others[f"{row.user} ({row.command})"] += 1
    found = prepared_transactions(connection)
    if found is None:
        what = f"Account {account} can't see prepared transactions"
        obstacles.append(question(what, "GRANT XA_RECOVER_ADMIN ON *.* to it."))
    obstacles += [prepared(one, ", of this database or another") for one in found or ()]
    return Reply(tuple(obstacles), others)


def _in_transaction(status: str) -> set[int] | None:
    """Return the threads that have a transaction open, or None if the list was cut short."""
    if "truncated..." in status:
        return None
    _, *transactions = status.split("---TRANSACTION ")
    found = (
        re.search(r"\b(?:MySQL|MariaDB) thread id (\d+)", one)
        for one in transactions
        if "ACTIVE" in one.partition("\n")[0]
    )
    return {int(match[1]) for match in found if match}


def _thread(row: Any) -> Obstacle:
    state = row.command if not row.state else f"{row.command}, {row.state}"
    if row.db is None:
        state += _NO_DATABASE
    user = f"{row.user}@{row.host}"
    return Obstacle(
        "session",
        f"session {row.id} of {user}: {state}{since(row.time)}",
        f"KILL {row.id}",
        pid=row.id,
        user=user,
        age=None if row.time is None else float(row.time),
        state=state,
        query=one_line(row.info),
    )


def _replication(row: Any) -> Obstacle:
    what = f"session {row.id}: writes what this server replicates from another one"
    return Obstacle("session", what, "STOP REPLICA", pid=row.id, state=row.command)


# -- what a replica has applied ----------------------------------------------------------------


class Gtids(NamedTuple):
    """What a server has written into its binary log, as its GTIDs say.

    Those of MariaDB count within a domain, ``0-1-4711``; those of MySQL, of one server, are ranges.
    """

    is_mariadb: bool
    written: str


def gtids_of(connection: Connection) -> Gtids | Obstacle:
    """Return what a read-write server has written, or why no replica can be compared with it."""
    cure = "Leave out --standby, and compare by hand."
    if connection.dialect.is_mariadb:  # type: ignore[attr-defined]  # a dialect of MySQL's
        ((logs, written),) = fetch(connection, "SELECT @@log_bin, @@gtid_binlog_pos")
        if not logs:
            return question("The server of --read-write writes no binary log", cure)
        if not written:  # as after RESET MASTER, or in a copy, whatever its tables have
            return question("The binary log of the server of --read-write is empty", cure)
        return Gtids(is_mariadb=True, written=written)
    mode, written = "SELECT @@GLOBAL.gtid_mode", "SELECT @@GLOBAL.gtid_executed"
    ((told,),) = attempt(connection, mode) or (("unknown",),)
    if told != "ON":
        return question(f"The server of --read-write has gtid_mode {told}, not ON", cure)
    return Gtids(is_mariadb=False, written=fetch(connection, written)[0][0])


def lacking(connection: Connection, of: Gtids, *, compares: bool) -> Obstacle | Gtids:
    """Return what is wrong with a replica, or what it has applied.

    :param of: what the read-write server had written after its last session.
    :param compares: False while there still are sessions, of which it can't have everything.
    """
    is_mariadb: bool = connection.dialect.is_mariadb  # type: ignore[attr-defined]  # see above
    cure = "Give the URL of a replica, or leave out --standby."
    if is_mariadb is not of.is_mariadb:
        what = "Of the servers of --read-write and --standby one is MariaDB, the other MySQL"
        return question(f"{what}, whose GTIDs can't be compared", cure)
    status = attempt(connection, "SHOW ALL SLAVES STATUS" if is_mariadb else "SHOW REPLICA STATUS")
    if is_mariadb:
        applied: str = fetch(connection, "SELECT @@gtid_slave_pos")[0][0]
        has = _by_domain(applied)
        missing = ",".join(
            f"{domain}-{server}-{number}"
            for domain, (server, number) in _by_domain(of.written).items()
            if has.get(domain, ("", -1))[1] < number
        )
    else:
        ask = "SELECT @@GLOBAL.gtid_executed, GTID_SUBTRACT(:written, @@GLOBAL.gtid_executed)"
        ((applied, missing),) = fetch(connection, ask, written=of.written)
    # An account that may not ask for the status is told the position all the same.
    if status == [] or (status is None and not applied):
        return question("The server of --standby is no replica, and applies nothing", cure)
    if not compares or not missing:
        return Gtids(is_mariadb, applied)
    what = f"the replica has yet to apply {one_line(missing)}"
    if any(_is_stopped(row) for row in status or ()):
        return Obstacle("standby", f"{what}, and is stopped", "START REPLICA")
    return Obstacle(
        "standby", what, "Wait; or look why it doesn't come: SHOW REPLICA STATUS there."
    )


def strange(applied: Gtids, written: Gtids) -> Obstacle | None:
    """Return the obstacle that a replica has what its server has not written: it is of another one.

    The GTIDs of MySQL are of one server in the world, and need no such question.

    :param written: as it is after the replica was asked.
    """
    has = _by_domain(applied.written) if applied.is_mariadb else {}
    for domain, (server, number) in (_by_domain(written.written) if has else {}).items():
        of, at = has.get(domain, (server, -1))
        if at > number or (at == number and of != server):
            what = "The server of --standby is a replica of another server"
            return question(what, "Give the URL of a replica of the database of --read-write.")
    return None


def _by_domain(position: str) -> dict[str, tuple[str, int]]:
    """Return by its domain the server and number of each GTID of MariaDB."""
    found = (one.strip().split("-") for one in position.split(",") if one.strip())
    return {domain: (server, int(number)) for domain, server, number in found}


def _is_stopped(row: Any) -> bool:
    names = (f"{one}_{what}_Running" for one in ("Slave", "Replica") for what in ("SQL", "IO"))
    return "No" in [getattr(row, name, None) for name in names]
