"""Asking the server itself whether anybody is left in a database.

The registry knows the application's workers. The server knows everybody: psql, a cron job, a
service without this library. It is only asked; it is the operator who ends what is left.

What counts is whoever could still write there. On PostgreSQL that is each client's session in the
database, whatever it does, each subscription that writes into it, and each prepared transaction. On
MariaDB and MySQL it is each session that uses the database, each one without any database that has
a transaction open, replication from elsewhere, and each prepared transaction of the server, which
tells no database.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import SQLAlchemyError

from ..engines.poolers import told_pid
from ..text import printable
from .probe import (
    UnreachableError,
    attempt,
    connect,
    dialect_of,
    fetch,
    is_pgpool,
    make_engine,
    parse_url,
    reading,
    reason_of,
    run,
    shown_url,
)

__all__ = ["Answer", "Obstacle", "Server", "ServerError"]

_QUERY = 200  # letters of a query that are told


class ServerError(Exception):
    """The databases that are given can't be asked as they are; the message tells the cure."""


@dataclass(frozen=True)
class Obstacle:
    """Something at the server that is in the way. All text in it is printable.

    :param kind: ``"session"``, ``"prepared transaction"``, ``"replica"`` if that is behind, or
        ``"question"`` if the server did not answer, or not to this role.
    :param what: what it is, in one line without its query.
    :param ends: the statement that ends it, or what else does; or an empty string.
    :param pid: the session's process or thread at the server.
    :param application_name: what the session says that it is.
    :param user: its role or account.
    :param age: seconds since it began; on MariaDB and MySQL since its state began.
    :param state: what it is doing.
    :param query: its last statement, cut short.
    """

    kind: str
    what: str
    ends: str = ""
    pid: int | None = None
    application_name: str | None = None
    user: str | None = None
    age: float | None = None
    state: str | None = None
    query: str | None = None

    @property
    def lasting(self) -> tuple[object, ...]:
        """What is the same until something happens."""
        return (self.kind, self.pid, self.ends, self.state, self.query)

    def as_json(self) -> dict[str, object]:
        """Return it as what :mod:`json` takes."""
        return asdict(self)

    def as_lines(self) -> list[str]:
        """Return it as lines."""
        lines = [self.what]
        if self.query:
            lines.append(f"  its query: {self.query}")
        if self.ends:
            lines.append(f"  to end it: {self.ends}")
        return lines


@dataclass(frozen=True)
class Answer:
    """What a server said.

    :param obstacles: what is in the way; if there is nothing, it agrees.
    :param notes: what is there and does not count, each in a few words.
    :param replayed: whether a replica was asked, too, and has everything.
    """

    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()
    replayed: bool = False

    @property
    def agrees(self) -> bool:
        """True if nothing is in the way."""
        return not self.obstacles

    @property
    def caution(self) -> str | None:
        """What is to be known before what is told to end sessions is done, in one line."""
        ends = any(one.ends.startswith(_TERMINATE) for one in self.obstacles)
        return _CAUTION if ends else None

    @property
    def sums(self) -> str:
        """What is in the way, as one line."""
        counts = Counter(one.kind for one in self.obstacles)
        told = [
            f"{counts[kind]} {kind}{'s' if counts[kind] > 1 else ''}"
            for kind in ("session", "prepared transaction")
            if counts[kind]
        ]
        told += [one.what for one in self.obstacles if one.kind in ("replica", "question")]
        if told:
            return ", ".join(told)
        return "no session, no prepared transaction" + ", everything replayed" * self.replayed

    def as_json(self) -> dict[str, object]:
        """Return it as what :mod:`json` takes."""
        return {
            "agrees": self.agrees,
            "obstacles": [one.as_json() for one in self.obstacles],
            "notes": list(self.notes),
            "caution": self.caution,
            "replayed": self.replayed,
        }


class Server:
    """The server of the read-write database, and maybe a standby of it.

    :param database: the URL of the read-write database.
    :param replica: the URL of a standby in which everything must be replayed, or None.
    :raises ServerError: if such databases can't be asked.
    """

    def __init__(self, database: str, replica: str | None = None) -> None:
        try:
            self._url = parse_url(database, "--database")
            self._replica = None if replica is None else parse_url(replica, "--replica")
            kind, *others = (dialect_of(url).name for url in self._urls())
        except UnreachableError as error:
            raise ServerError(str(error)) from None
        if kind not in _ASKS:
            raise ServerError(
                f"Only a server of PostgreSQL, MariaDB or MySQL can be asked, not {kind}. Leave "
                "out --database (SA_READONLY_DATABASE)."
            )
        if others and {kind, *others} != {"postgresql"}:
            raise ServerError(
                "Only on PostgreSQL can be asked whether a replica has replayed everything. Leave "
                "out --replica (SA_READONLY_REPLICA)."
            )
        self._ask = _ASKS[kind]
        self._target = _Target()
        self._known = False  # that what answers is no pgpool

    def check(self) -> None:
        """Ask once, before anything depends on the answer.

        :raises ServerError: if a database can't be asked, or is not what is asked for.
        """
        never = [one for one in self.ask().obstacles if one.kind == "question"]
        if never:
            raise ServerError(" ".join(f"{one.what}. {one.ends}".strip() for one in never))
        self._target = _Target()

    def ask(self) -> Answer:
        """Ask who is there. What can't be asked is an obstacle."""
        try:
            return run(self._urls(), self._answer)
        except UnreachableError as error:
            return Answer((Obstacle("question", str(error)),))

    def _urls(self) -> list[URL]:
        return [self._url] if self._replica is None else [self._url, self._replica]

    def _answer(self) -> Answer:
        position = None
        with _asking(self._url, "read-write database") as connection:
            if not self._known and connection.dialect.name == "postgresql":
                if is_pgpool(connection):
                    return Answer((_pooled("Pgpool-II"),))
                self._known = True
            answer = self._ask(connection)
            if self._replica is not None:
                # After the sessions: what they have committed lies before it.
                position = _position(connection)
        if self._replica is None or position is None:
            return answer
        if answer.agrees:
            self._target.take(position)
        else:
            self._target = _Target()  # who is there may write more
        with _asking(self._replica, "replica") as connection:
            obstacle = _behind(connection, position.cluster, self._target.lsn)
        if obstacle is None:
            return replace(answer, replayed=self._target.lsn is not None)
        return replace(answer, obstacles=(*answer.obstacles, obstacle))


@contextlib.contextmanager
def _asking(url: URL, name: str) -> Iterator[Connection]:
    """A connection in a read-only transaction, of its own each time: 20 hosts may be waiting."""
    engine = make_engine(url)
    try:
        if dialect_of(url).name == "postgresql":
            with reading(engine) as connection:
                connection.execute(text("SET LOCAL application_name = 'sa-readonly wait'"))
                yield connection
        else:
            with connect(engine) as connection:
                connection.exec_driver_sql("START TRANSACTION READ ONLY")
                yield connection
    except (SQLAlchemyError, OSError) as error:
        raise UnreachableError(
            f"The {name} {shown_url(url)} can't be asked: {reason_of(error, url)}"
        ) from None
    finally:
        engine.dispose()


# -- PostgreSQL ------------------------------------------------------------------------------

_TERMINATE = "SELECT pg_terminate_backend"
# Which session is pgpool's the server can't tell: it has the client's role and application_name.
_CAUTION = (
    "Pgpool-II in front? Send that through pgpool itself, not to the server: it would take the "
    "server for shut down, detach it and cut all clients (failover_on_backend_shutdown)."
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
_PREPARED = """
    SELECT gid, owner::text AS role, extract(epoch FROM now() - prepared)::float8 AS age
    FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""


def _ask_postgresql(connection: Connection) -> Answer:
    ((standby, pid),) = fetch(connection, "SELECT pg_is_in_recovery(), pg_backend_pid()")
    told = told_pid(connection.dialect.driver, connection.connection.driver_connection)
    if told not in (None, pid):
        return Answer((_pooled("a pooler"),))
    if standby:
        what = "The database of --database is a standby, into which nobody writes"
        return Answer((Obstacle("question", what, "Give the URL of the read-write database."),))
    obstacles, others = [], Counter[str]()
    for row in fetch(connection, _SESSIONS):
        # A role without pg_read_all_stats is not told what kind of session another one's is.
        if row.type in (None, "client backend") or row.subscription is not None:
            obstacles.append(_session(row))
        else:
            others[row.type] += 1
    obstacles += [_prepared(row) for row in fetch(connection, _PREPARED)]
    return Answer(tuple(obstacles), tuple(f"{n} {printable(kind)}" for kind, n in others.items()))


def _pooled(name: str) -> Obstacle:
    what = (
        f"The database of --database is asked through {name}, behind which the server's list of "
        "sessions does not tell who may still write, and may name those that ask"
    )
    return Obstacle("question", what, "Give the URL of the server itself.")


def _session(row: Any) -> Obstacle:
    ends = f"{_TERMINATE}({row.pid})"
    state = row.state or "its state is hidden: GRANT pg_read_all_stats to your role"
    if row.subscription is not None:
        ends = f"ALTER SUBSCRIPTION {_quoted(row.subscription)} DISABLE"
        state = "writes what it subscribes to"
    what = f"session {row.pid} of role {row.role}"
    if row.application:
        what += f", application_name {row.application}"
    if row.address:
        what += f", from {row.address}"
    what += f": {state}{_since(row.state_age)}"
    if row.age is not None:
        what += f", connected {row.age:.0f} s ago"
    return Obstacle(
        "session",
        printable(what),
        printable(ends),
        pid=row.pid,
        application_name=printable(row.application or "") or None,
        user=printable(row.role or "") or None,
        age=row.age,
        state=printable(state),
        query=_query(row.query if row.state else None),
    )


def _prepared(row: Any) -> Obstacle:
    gid = "'" + row.gid.replace("'", "''") + "'"
    what = f"prepared transaction {gid} of role {row.role}, {row.age:.0f} s old"
    return Obstacle(
        "prepared transaction",
        printable(what),
        printable(f"ROLLBACK PREPARED {gid}"),
        user=printable(row.role or "") or None,
        age=row.age,
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# -- what a standby has replayed --------------------------------------------------------------


class _Position(NamedTuple):
    """How far a primary has got."""

    cluster: str | None
    written: int
    inserted: int
    delay: float  # seconds until what is committed is surely written


class _Target:
    """How far a standby must get after the last session has gone.

    A commit with ``synchronous_commit=off`` is not written at once, so what was written by then is
    too little. What was inserted by then is enough, but some of it that commits nothing may not be
    written for long. So it is that, or what is written once every commit surely is.
    """

    def __init__(self) -> None:
        self.lsn: int | None = None
        self._settled = 0.0

    def take(self, position: _Position) -> None:
        if self.lsn is None:
            self.lsn = position.inserted
            self._settled = time.monotonic() + position.delay
        elif time.monotonic() >= self._settled:
            self.lsn = min(self.lsn, position.written)


def _position(connection: Connection) -> _Position | None:
    """Return how far a primary has got, or None if it is none."""
    if fetch(connection, "SELECT pg_is_in_recovery()")[0][0]:
        return None
    ((written, inserted, delay),) = fetch(
        connection,
        "SELECT pg_current_wal_lsn()::text, pg_current_wal_insert_lsn()::text, setting::int"
        " FROM pg_settings WHERE name = 'wal_writer_delay'",
    )
    # "The maximum delay is three times wal_writer_delay", says the manual.
    return _Position(_cluster(connection), _lsn(written), _lsn(inserted), 3 * delay / 1000)


def _behind(connection: Connection, cluster: str | None, target: int | None) -> Obstacle | None:
    """Return what is wrong with a replica, or None."""
    if not fetch(connection, "SELECT pg_is_in_recovery()")[0][0]:
        what = "The database of --replica is no standby, and replays nothing"
        return Obstacle("question", what, "Give the URL of a standby, or leave out --replica.")
    own = _cluster(connection)
    if None not in (own, cluster) and own != cluster:
        what = "The database of --replica is a standby of another server"
        return Obstacle("question", what, "Give the URL of a standby of --database.")
    ((replayed, paused),) = fetch(
        connection, "SELECT pg_last_wal_replay_lsn()::text, pg_is_wal_replay_paused()"
    )
    missing = 0 if target is None else target - (0 if replayed is None else _lsn(replayed))
    if missing <= 0:
        return None
    what = f"the replica has yet to replay {missing} bytes"
    if paused:
        return Obstacle("replica", f"{what}, and is paused", "SELECT pg_wal_replay_resume()")
    return Obstacle(
        "replica", what, "Wait; or look why it doesn't come: pg_stat_wal_receiver there."
    )


def _cluster(connection: Connection) -> str | None:
    rows = attempt(connection, "SELECT system_identifier::text FROM pg_control_system()")
    return None if rows is None else str(rows[0][0])


def _lsn(position: str) -> int:
    high, _, low = position.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


# -- MariaDB and MySQL -----------------------------------------------------------------------

_THREADS = """
    SELECT id AS id, user AS user, host AS host, db AS db, command AS command, time AS time,
        state AS state, info AS info, db = DATABASE() AS here
    FROM information_schema.processlist WHERE id <> CONNECTION_ID() ORDER BY id
"""
# Not information_schema.innodb_trx: that is cached, and never made anew for who reads it often.
_TRANSACTIONS = "SHOW ENGINE INNODB STATUS"


def _ask_mysql(connection: Connection) -> Answer:
    ((database, account),) = fetch(connection, "SELECT DATABASE(), CURRENT_USER()")
    if database is None:
        what = "The URL of --database names no database"
        return Answer((Obstacle("question", what, "Add it: mysql+pymysql://host/DATABASE."),))
    # It takes the privilege without which only the account's own sessions are shown.
    transactions = attempt(connection, _TRANSACTIONS)
    if transactions is None:
        what = f"Account {printable(account)} can't see the sessions of others"
        return Answer((Obstacle("question", what, "GRANT PROCESS ON *.* to it."),))
    busy = _busy(str(transactions[0][-1]))
    obstacles: list[Obstacle] = []
    others = Counter[str]()
    for row in fetch(connection, _THREADS):
        if row.user == "system user" and row.command in ("Slave_SQL", "Slave_worker", "Query"):
            obstacles.append(_replication(row))
        elif row.here or (row.db is None and (busy is None or row.id in busy)):
            obstacles.append(_thread(row))
        elif row.user in ("system user", "event_scheduler") or row.command.startswith("Binlog"):
            others[f"{row.user} ({row.command})"] += 1
    prepared = _xa(connection)
    if prepared is None:
        what = f"Account {printable(account)} can't see prepared transactions"
        obstacles.append(Obstacle("question", what, "GRANT XA_RECOVER_ADMIN ON *.* to it."))
    return Answer(
        (*obstacles, *(prepared or ())),
        tuple(f"{n} {printable(kind)}" for kind, n in others.items()),
    )


def _busy(status: str) -> set[int] | None:
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
        state += ", in a transaction without a database of its own"
    who = f"{row.user}@{row.host}"
    return Obstacle(
        "session",
        printable(f"session {row.id} of {who}: {state}{_since(row.time)}"),
        f"KILL {row.id}",
        pid=row.id,
        user=printable(who),
        age=None if row.time is None else float(row.time),
        state=printable(state),
        query=_query(row.info),
    )


def _replication(row: Any) -> Obstacle:
    what = f"session {row.id}: writes what this server replicates from another one"
    return Obstacle("session", what, "STOP REPLICA", pid=row.id, state=printable(row.command))


def _xa(connection: Connection) -> list[Obstacle] | None:
    rows = attempt(connection, "XA RECOVER FORMAT='SQL'")  # MariaDB
    if rows is not None:
        names = [str(row[-1]) for row in rows]
    else:
        rows = attempt(connection, "XA RECOVER")
        if rows is None:
            return None
        names = [f"'{data[:length]}','{data[length:]}',{form}" for form, length, _, data in rows]
    return [
        Obstacle(
            "prepared transaction",
            printable(f"prepared transaction {name}, of this database or another"),
            printable(f"XA ROLLBACK {name}"),
        )
        for name in names
    ]


# -- words -----------------------------------------------------------------------------------

_SECRET = re.compile(r"(password|identified).*", re.IGNORECASE | re.DOTALL)


def _query(query: str | None) -> str | None:
    """Return a query in one line, cut short, and where a password may follow, cut there."""
    shown = printable(" ".join(_SECRET.sub(r"\1 ***", query or "").split()))
    return (shown[:_QUERY] + "..." if len(shown) > _QUERY else shown) or None


def _since(seconds: float | None) -> str:
    return "" if seconds is None else f" since {max(0, int(seconds))} s"


_ASKS: dict[str, Callable[[Connection], Answer]] = {
    "postgresql": _ask_postgresql,
    "mysql": _ask_mysql,
    "mariadb": _ask_mysql,
}
