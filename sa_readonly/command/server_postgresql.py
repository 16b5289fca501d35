"""Asking PostgreSQL for what could still write, and a standby for what it has yet to replay."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, NamedTuple

from sqlalchemy import Connection

from .obstacles import TERMINATE, Obstacle, Reply, one_line, prepared, question, since
from .probe import (
    backend_pid,
    cluster_of,
    fetch,
    is_standby,
    prepared_transactions,
    told_pid_of,
)

_SESSIONS = """
    SELECT a.pid, a.usename::text AS role, a.application_name AS application,
        host(a.client_addr) AS address, a.backend_type AS type, a.state, a.query,
        extract(epoch FROM clock_timestamp() - a.backend_start)::float8 AS age,
        extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS state_age,
        (SELECT min(s.subname) FROM pg_stat_subscription s WHERE s.pid = a.pid) AS subscription
    FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
    ORDER BY a.backend_start NULLS FIRST, a.pid
"""


def ask_postgresql(connection: Connection) -> Reply:
    """Ask which sessions and prepared transactions could still write into the database."""
    if told_pid_of(connection) not in (None, backend_pid(connection)):
        return pooled("a pooler")
    if is_standby(connection):
        what = "The database of --read-write is a standby, into which nobody writes"
        return Reply((question(what, "Give the URL of the read-write database."),))
    obstacles, others = [], Counter[str]()
    for row in fetch(connection, _SESSIONS):
        # A role without pg_read_all_stats is not told what kind of session another one's is.
        if row.type in (None, "client backend") or row.subscription is not None:
            obstacles.append(_session(row))
        else:
            others[row.type] += 1
    obstacles += [prepared(one) for one in prepared_transactions(connection) or ()]
    return Reply(tuple(obstacles), others)


def pooled(name: str) -> Reply:
    """Return the reply that there is no asking through a pooler."""
    what = (
        f"The database of --read-write is asked through {name}, behind which the server's list of "
        "sessions does not tell who may still write, and may name those that ask"
    )
    return Reply((question(what, "Give the URL of the server itself."),))


def _session(row: Any) -> Obstacle:
    ends = f"{TERMINATE}({row.pid})"
    state = row.state or "its state is hidden: GRANT pg_read_all_stats to your role"
    if row.subscription is not None:
        quoted = '"' + row.subscription.replace('"', '""') + '"'
        ends = f"ALTER SUBSCRIPTION {quoted} DISABLE"
        state = "writes what it subscribes to"
    what = f"session {row.pid} of role {row.role}"
    if row.application:
        what += f", application_name {row.application}"
    if row.address:
        what += f", from {row.address}"
    what += f": {state}{since(row.state_age)}"
    if row.age is not None:
        what += f", connected {row.age:.0f} s ago"
    return Obstacle(
        "session",
        what,
        ends,
        pid=row.pid,
        application_name=row.application or None,
        user=row.role,
        age=row.age,
        state=state,
        query=one_line(row.query if row.state else None),
    )


# -- what a standby has replayed --------------------------------------------------------------


class Position(NamedTuple):
    """How far a primary has written.

    :param delay: seconds until what is committed is surely written.
    """

    cluster: str | None
    written: int
    inserted: int
    delay: float


class ReplayTarget:
    """How far a standby must have replayed, once the last session has gone.

    The position that is written by then may lack a commit with ``synchronous_commit=off``, which is
    written up to ``delay`` seconds later. The position that is inserted by then lacks none, but its
    end may commit nothing, and stay unwritten for long. So the inserted one is the target at first,
    and after the delay the written one, if that is less.
    """

    def __init__(self) -> None:
        self.lsn: int | None = None
        self._settled = 0.0

    def take(self, position: Position) -> None:
        """Take the position of the primary at a moment at which no session was left."""
        if self.lsn is None:
            self.lsn = position.inserted
            self._settled = time.monotonic() + position.delay
        elif time.monotonic() >= self._settled:
            self.lsn = min(self.lsn, position.written)


def position_of(connection: Connection) -> Position | None:
    """Return how far a primary has written, or None if it is none."""
    if is_standby(connection):
        return None
    ((written, inserted, delay),) = fetch(
        connection,
        "SELECT pg_current_wal_lsn()::text, pg_current_wal_insert_lsn()::text, setting::int"
        " FROM pg_settings WHERE name = 'wal_writer_delay'",
    )
    # "The maximum delay is three times wal_writer_delay", says the manual.
    return Position(cluster_of(connection), _lsn(written), _lsn(inserted), 3 * delay / 1000)


def behind(connection: Connection, cluster: str | None, target: int | None) -> Obstacle | None:
    """Return what is wrong with a standby, or None.

    :param cluster: that of its primary, or None if it may not be asked for.
    :param target: what it must have replayed, or None if that is not known yet.
    """
    if not is_standby(connection):
        what = "The database of --standby is no standby, and replays nothing"
        return question(what, "Give the URL of a standby, or leave out --standby.")
    own = cluster_of(connection)
    if None not in (own, cluster) and own != cluster:
        what = "The database of --standby is a standby of another server"
        return question(what, "Give the URL of a standby of the database of --read-write.")
    ((replayed, paused),) = fetch(
        connection, "SELECT pg_last_wal_replay_lsn()::text, pg_is_wal_replay_paused()"
    )
    missing = 0 if target is None else target - (0 if replayed is None else _lsn(replayed))
    if missing <= 0:
        return None
    what = f"the standby has yet to replay {missing} bytes"
    if paused:
        return Obstacle("standby", f"{what}, and is paused", "SELECT pg_wal_replay_resume()")
    return Obstacle(
        "standby", what, "Wait; or look why it doesn't come: pg_stat_wal_receiver there."
    )


def _lsn(position: str) -> int:
    high, _, low = position.partition("/")
    return (int(high, 16) << 32) | int(low, 16)
