"""Asking MariaDB and MySQL for what could still write."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

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
