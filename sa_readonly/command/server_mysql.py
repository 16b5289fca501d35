"""Asking MariaDB and MySQL for what could still write, and a replica for what it has to apply."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from sqlalchemy import Connection

from .obstacles import KILL, Obstacle, Reply, one_line, prepared, question, since
from .probe import attempt, fetch, prepared_transactions

_THREADS = """
    SELECT id AS id, user AS user, host AS host, db AS db, command AS command, time AS time,
        state AS state, info AS info, db = DATABASE() AS here
    FROM information_schema.processlist WHERE id <> CONNECTION_ID() ORDER BY id
"""
# Not information_schema.innodb_trx: that is cached, and never made anew while it is read often.
_TRANSACTIONS = "SHOW ENGINE INNODB STATUS"
_NO_DATABASE = ", in a transaction without a database of its own"
# What the list of sessions calls the threads that write what is replicated. MySQL before 8 calls
# the thread that only fetches it so, too.
_APPLIES = ("Slave_SQL", "Slave_worker", "Query")


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
    applies = (*_APPLIES, "Connect") if _is_before(connection, 8) else _APPLIES
    for row in fetch(connection, _THREADS):
        unsure = in_transaction is None or row.id in in_transaction
        if row.user == "system user" and row.command in applies:
            obstacles.append(_replication(connection, row))
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
        f"{KILL} {row.id}",
        pid=row.id,
        user=user,
        age=None if row.time is None else float(row.time),
        state=state,
        query=one_line(row.info),
    )


def _replication(connection: Connection, row: Any) -> Obstacle:
    what = f"session {row.id}: writes what this server replicates from another one"
    return Obstacle("session", what, f"STOP {_word(connection)}", pid=row.id, state=row.command)


# -- what a replica has applied ----------------------------------------------------------------


class Gtids(NamedTuple):
    """What a server has written into its binary log, or a replica has applied, as its GTIDs say.

    Those of MariaDB count within a domain, ``0-1-4711``; those of MySQL, of one server, are ranges.

    :param server: which server it is: its ``server_id`` (MariaDB) or ``server_uuid`` (MySQL).
    """

    is_mariadb: bool
    server: str
    written: str


def gtids_of(connection: Connection) -> Gtids | Obstacle:
    """Return what a read-write server has written, or why no replica can be compared with it."""
    cure = "Leave out --standby, and compare by hand."
    is_mariadb = _is_mariadb(connection)
    if is_mariadb:
        ask = "SELECT @@log_bin, @@server_id, @@gtid_binlog_pos"
        ((logs, server, written),) = fetch(connection, ask)
        if not logs:
            return question("The server of --read-write writes no binary log", cure)
    else:
        ((told,),) = attempt(connection, "SELECT @@GLOBAL.gtid_mode") or (("unknown",),)
        if told != "ON":
            return question(f"The server of --read-write has gtid_mode {told}, not ON", cure)
        ask = "SELECT @@server_uuid, @@GLOBAL.gtid_executed"
        ((server, written),) = fetch(connection, ask)
    if not written:  # as after RESET MASTER, or in a copy, whatever its tables have
        return question("The binary log of the server of --read-write is empty", cure)
    return Gtids(is_mariadb, str(server), written)


def lacking(connection: Connection, of: Gtids, *, compares: bool) -> Obstacle | Gtids:
    """Return what is wrong with a replica, or what it has applied.

    :param of: what the read-write server had written after its last session.
    :param compares: False while there still are sessions, of which it can't have everything.
    """
    cure = "Give the URL of a replica, or leave out --standby."
    if _is_mariadb(connection) is not of.is_mariadb:
        what = "Of the servers of --read-write and --standby one is MariaDB, the other MySQL"
        return question(f"{what}, whose GTIDs can't be compared", cure)
    status = _status(connection)
    if of.is_mariadb:
        ((server, applied),) = fetch(connection, "SELECT @@server_id, @@gtid_slave_pos")
        has = _by_domain(applied)
        missing = ",".join(
            f"{domain}-{by}-{number}"
            for domain, (by, number) in _by_domain(of.written).items()
            if has.get(domain, ("", -1))[1] < number
        )
    else:
        ask = (
            "SELECT @@server_uuid, @@GLOBAL.gtid_executed,"
            " GTID_SUBTRACT(:written, @@GLOBAL.gtid_executed)"
        )
        ((server, applied, missing),) = fetch(connection, ask, written=of.written)
    # An account that may not ask for the status is told the position all the same.
    if status == [] or (status is None and not applied):
        return question("The server of --standby is no replica, and applies nothing", cure)
    if str(server) == of.server:
        return question("The server of --standby is that of --read-write", cure)
    if not compares or not missing:
        return Gtids(of.is_mariadb, str(server), applied)
    what = f"the replica has yet to apply {one_line(missing)}"
    if any(_is_stopped(row) for row in status or ()):
        return Obstacle("standby", f"{what}, and is stopped", f"START {_word(connection)}")
    cure = f"Wait; or look why it doesn't come: SHOW {_word(connection)} STATUS there."
    return Obstacle("standby", what, cure)


def strange(connection: Connection, applied: Gtids) -> Obstacle | None:
    """Return the obstacle that a replica has what its server has not written: it is of another one.

    Or that server's binary log was begun anew, and its GTIDs count from 1 again.

    :param connection: of the read-write server; made after the replica was asked.
    """
    now = gtids_of(connection)
    if isinstance(now, Obstacle):
        return now
    if now.is_mariadb:
        has = _by_domain(applied.written)
        is_strange = any(
            at > number or (at == number and of != server)
            for domain, (server, number) in _by_domain(now.written).items()
            for of, at in [has.get(domain, (server, -1))]
        )
    else:  # a replica may have some of its own
        ask = "SELECT GTID_SUBTRACT(:applied, @@GLOBAL.gtid_executed)"
        is_strange = now.server in fetch(connection, ask, applied=applied.written)[0][0]
    if not is_strange:
        return None
    what = "The server of --standby is a replica of another server"
    return question(what, "Give the URL of a replica of the database of --read-write.")


def _is_mariadb(connection: Connection) -> bool:
    return bool(connection.dialect.is_mariadb)  # type: ignore[attr-defined]  # a dialect of MySQL's


def _is_before(connection: Connection, *version: int) -> bool:
    """True if it is a server of MySQL before this version."""
    has = connection.dialect.server_version_info or version
    return not _is_mariadb(connection) and has < version


def _word(connection: Connection) -> str:
    """Return what a server's statements call a replica."""
    return "SLAVE" if _is_before(connection, 8, 0, 22) else "REPLICA"


def _status(connection: Connection) -> list[Any] | None:
    """Return the sources of a replica, or None where the account may not ask for them."""
    what = "ALL SLAVES" if _is_mariadb(connection) else _word(connection)
    return attempt(connection, f"SHOW {what} STATUS")


def _by_domain(position: str) -> dict[str, tuple[str, int]]:
    """Return by its domain the server and number of each GTID of MariaDB."""
    found = (one.strip().split("-") for one in position.split(",") if one.strip())
    return {domain: (server, int(number)) for domain, server, number in found}


def _is_stopped(row: Any) -> bool:
    names = (f"{one}_{what}_Running" for one in ("Slave", "Replica") for what in ("SQL", "IO"))
    return "No" in [getattr(row, name, None) for name in names]
