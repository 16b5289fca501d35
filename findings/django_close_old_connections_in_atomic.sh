#!/usr/bin/env bash
# Django: close_old_connections() inside atomic() loses the transaction, and the block ends without an error.
#
# Guess: close_old_connections() closes connections that are unusable or past CONN_MAX_AGE, so inside of `with
#     transaction.atomic():` it leaves a good one alone; if it didn't, the end of the block, which has nothing left to
#     commit, would raise, as commit() inside of it does (TransactionManagementError).
# Truth: inside atomic() autocommit is off, which it takes for a setting that somebody forgot to restore, so it closes
#     the connection, new and good as it is. The database rolls back, and the block ends in silence; its on_commit()
#     callbacks are dropped. Only another query inside the block would raise. So a helper of a long-running job that
#     calls it, as such jobs are told to, loses what its caller has written, if it's called last. The same with
#     connection.close().
# Versions: Django 5.2.19, SQLite of the Python.
# Source: django/db/backends/base/base.py, close_if_unusable_or_obsolete ("If the application didn't restore the
#     original autocommit setting, don't take chances, drop the connection"); transaction.Atomic.__exit__ passes over a
#     connection that was closed. Ticket 30448, open (pull request 18393, open).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check Django==5.2.19

venv/bin/python - <<'PY'
import sqlite3

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "entry.db", "CONN_MAX_AGE": None}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
from django.contrib.contenttypes.models import ContentType as Entry
from django.core.management import call_command
from django.db import DatabaseError, close_old_connections, connection, transaction

print(f"Django {django.get_version()}, SQLite {sqlite3.sqlite_version}")
call_command("migrate", verbosity=0)


def attempt(what, last):
    called = []
    try:
        with transaction.atomic():
            Entry.objects.create(app_label=what, model="entry")
            transaction.on_commit(lambda: called.append(what))
            last()
        answer = "no error"
    except DatabaseError as error:
        answer = f"{type(error).__name__}: {error}"
    return answer, Entry.objects.filter(app_label=what).exists(), bool(called)


def close_and_read():
    close_old_connections()
    Entry.objects.count()


seen = {
    "nothing": attempt("a", lambda: None),
    "close_old_connections()": attempt("b", close_old_connections),
    "connection.close()": attempt("c", connection.close),
    "close_old_connections() and a query": attempt("d", close_and_read),
    "commit()": attempt("e", connection.commit),
}
for name, (answer, kept, called) in seen.items():
    print(f"{name} as the last of an atomic block: {answer}; the row is kept: {kept}; on_commit was called: {called}")
seen = list(seen.values())
if seen[:3] != [("no error", True, True)] + [("no error", False, False)] * 2:
    raise SystemExit("it is no longer so")
if any(answer == "no error" or kept or called for answer, kept, called in seen[3:]):
    raise SystemExit("it is no longer so")
PY
