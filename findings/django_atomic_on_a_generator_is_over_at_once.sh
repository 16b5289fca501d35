#!/usr/bin/env bash
# Django: @transaction.atomic on a generator function is no transaction: what it wrote before an error stays.
#
# Guess: a decorated generator runs inside atomic() from its first step to its end, so that an error undoes what it has
#     written; or the decorator refuses it.
# Truth: calling a generator function runs nothing of it. The decorator begins a transaction, gets the generator, and
#     commits; the body runs later, step by step, in autocommit. Nothing tells: connection.in_atomic_block is False, each
#     write is committed by itself, select_for_update() alone would raise. Turning a view's helper into a generator, by a
#     yield, takes its transaction away. peewee's @database.atomic() does the same. `with transaction.atomic():` inside
#     the body holds (from step to step, whoever else uses the connection in between).
# Versions: Django 5.2.19, peewee 4.5.3, SQLite of the Python.
# Source: django/db/transaction.py, Atomic is a contextlib.ContextDecorator, which wraps the call; peewee.py, _atomic, a
#     decorator of the same kind. Neither documentation has a word on generators.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check Django==5.2.19 peewee==4.5.3

venv/bin/python - <<'PY'
import django
import peewee
from django.conf import settings

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db"}})
django.setup()
from django.db import connection, transaction

print(f"Django {django.__version__}, peewee {peewee.__version__}")
database = peewee.SqliteDatabase("peewee.db")


def in_django(query):
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def in_peewee(query):
    return database.execute_sql(query).fetchall()


def decorated(execute, decorator, inside):
    """What is stored, after an error, of a generator, and of a function, with the decorator; and whether each was inside."""
    execute("CREATE TABLE entry (text)")
    seen = {}

    @decorator
    def generator():
        execute("INSERT INTO entry VALUES ('generator')")
        seen["generator"] = inside()
        yield
        raise LookupError

    @decorator
    def function():
        execute("INSERT INTO entry VALUES ('function')")
        seen["function"] = inside()
        raise LookupError

    def with_block():
        with decorator:
            execute("INSERT INTO entry VALUES ('block')")
            seen["block"] = inside()
            yield
            raise LookupError

    for call in (lambda: list(generator()), function, lambda: list(with_block())):
        try:
            call()
        except LookupError:
            pass
    return seen, [text for (text,) in execute("SELECT text FROM entry")]


seen = {
    "Django": decorated(in_django, transaction.atomic(), lambda: connection.in_atomic_block),
    "peewee": decorated(in_peewee, database.atomic(), database.in_transaction),
}
for name, (inside, kept) in seen.items():
    print(f"{name}: in a transaction: {inside}; kept after the error: {kept}")
if any(outcome != ({"generator": False, "function": True, "block": True}, ["generator"]) for outcome in seen.values()):
    raise SystemExit("it is no longer so")
PY
