"""What is between a client and a PostgreSQL server: poolers, and a choice of several hosts."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ...engines.poolers import OF_LIBPQ, SETTING, start_up_packet
from .. import probe
from .findings import Finding, capital, listed, note, ok, warning

_OPTION = 'Give EngineSelector(pooler="transaction"), or "session", as it pools.'


def start_up_options(url: URL, name: str, pooler: str | None) -> Finding:
    """Tell whether the library's first lock, in the start-up packet, arrives at the server."""
    if pooler is not None:
        what = f"No start-up options are sent to {name}."
        meaning = f'EngineSelector(pooler="{pooler}") locks each session or transaction otherwise.'
        return ok("start-up-options-not-sent", what, meaning)
    dialect = probe.dialect_of(url)
    names = ("options", "service", "target_session_attrs")
    given = {name: url.query[name] for name in names if name in url.query}
    arguments = start_up_packet(dialect.driver, dialect.import_dbapi, given)
    if not arguments:
        what, cure = (
            f"The driver {dialect.driver} has no way to begin read-only.",
            "Use psycopg, psycopg2 or asyncpg.",
        )
        if dialect.driver in OF_LIBPQ:
            what = f"{capital(name)} may have its start-up options from a service file."
            cure = "Give them in the URL: ?options=-c%20search_path%3Dapp, say."
        return note(
            "driver-without-start-up-options",
            what,
            "The library's first lock is a SET for each new connection, and takes "
            "EngineSelector(pooler=...) where a pooler may be in between.",
            cure,
        )
    engine = probe.make_engine(url, **arguments)
    try:
        with probe.connect(engine) as connection:
            value = probe.fetch(connection, f"SHOW {SETTING}")[0][0]
        fault = None if value == "on" else "ignores start-up options"
    except (SQLAlchemyError, OSError) as error:
        fault = f"refuses start-up options: {probe.reason_of(error, url)}"
    finally:
        engine.dispose()
    if fault is None:
        what = f"{capital(name)} honours start-up options."
        meaning = "The library's first lock holds for the whole session."
        return ok("start-up-options-honoured", what, meaning)
    return warning(
        "start-up-options-lost",
        probe.sentence(f"{capital(name)} {fault}"),
        "The library's first lock does not arrive at the server. Without the option pooler each "
        "connection of a read-only engine is an error: reads fail while read-only.",
        f"{_OPTION} In a PgBouncer from 1.20 on also track_extra_parameters = IntervalStyle, "
        f"{SETTING}. Or connect to the server itself.",
    )


def pooler_before(engine: Engine, name: str, pooler: str | None) -> Finding:
    """Tell whether a pooler is in between, and whether it changes the session under a connection.

    A pooler gives its own process number in the start-up packet. In transaction mode it serves two
    connections that are open at the same time by one process, or one connection by two.
    """
    with probe.reading(engine) as connection:
        pgpool = probe.is_pgpool(connection)
    if pgpool:
        return warning(
            "pgpool",
            f"Pgpool-II is before {name}.",
            "When it takes the primary for gone, it cuts all clients, readers of a standby too, "
            "and serves none for search_primary_node_timeout (five minutes).",
            "Have the read-only engine connect to the standby itself, and give the server itself "
            "to sa-readonly wait --read-write.",
        )
    with probe.connect(engine) as one:
        told, first = probe.told_pid_of(one), _pid(one)
        if told == first:
            what = f"No pooler is before {name}."
            return ok("no-pooler", what, "Each connection has a session of its own.")
        with probe.connect(engine) as two:
            pids = [(first, _pid(two)), *((_pid(one), _pid(two)) for _ in range(3))]
    ones, twos = (set(column) for column in zip(*pids, strict=True))
    if len(ones) == len(twos) == 1 and ones != twos:
        present = "may be" if told is None else "is"
        return note(
            "pooler-mode-unknown",
            f"A pooler {present} before {name}; its mode could not be told.",
            f"{2 * len(pids)} transactions showed no sign of transaction mode, which is no proof.",
            f"Ask its operator for pool_mode. {_OPTION}",
        )
    what = f"A pooler in transaction mode (PgBouncer, say) is before {name}."
    if pooler == "transaction":
        meaning = "EngineSelector(pooler) is set: each transaction is locked."
        return ok("pooler-as-given", what, meaning)
    return warning(
        "pooler-in-transaction-mode",
        what,
        "What is set for a session stays on a server connection that another client gets next. "
        "So each transaction must be READ ONLY by itself, and AUTOCOMMIT has no lock.",
        'Give EngineSelector(pooler="transaction"), and have psycopg (prepare_threshold=None) '
        "or asyncpg (statement_cache_size=0) prepare nothing. Or connect to the server itself.",
    )


def _pid(connection: Connection) -> int:
    with probe.read_only(connection):
        return probe.backend_pid(connection)


def several_hosts(url: URL, name: str) -> Iterator[Finding]:
    """Tell whether the next connection may reach another server than the one that was examined."""
    hosts = ",".join(url.normalized_query.get("host", ())).split(",")
    only_readers = url.query.get("target_session_attrs") in ("standby", "read-only")
    if len(hosts) > 1 and not only_readers:
        yield warning(
            "several-hosts",
            f"The URL of {name} names several hosts: {listed(hosts)}.",
            "One was examined. The next connection may reach another, which may be writable.",
            "Add target_session_attrs=standby to the read-only URL.",
        )
