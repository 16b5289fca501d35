#!/usr/bin/env bash
# Tortoise ORM's bulk_create with batch_size is not atomic: the batches before the one that fails are kept.
#
# Guess: as in Django, whose interface it follows, one bulk_create is all or nothing, whatever its batch_size.
# Truth: each batch is committed on its own. Without batch_size (and with one that is never reached) it is all or
#     nothing, so it shows only once there are more objects than that; a second try then fails at the first batch, as
#     its rows are there. Inside in_transaction() it is atomic.
# Versions: tortoise-orm 1.1.9, aiosqlite 0.22.1, Django 5.2.19, the sqlite3 of Python (PostgreSQL alike).
# Source: tortoise/queryset.py, BulkCreateQuery._execute_many: a loop over the batches, no transaction around it.
#     Django opens one for the whole in django/db/models/query.py, bulk_create.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check tortoise-orm==1.1.9 aiosqlite==0.22.1 Django==5.2.19

venv/bin/python - <<'PY'
import asyncio
import sqlite3
from importlib.metadata import version

import django
from tortoise import Tortoise, fields
from tortoise.exceptions import IntegrityError
from tortoise.models import Model
from tortoise.transactions import in_transaction

print(f"tortoise-orm {version('tortoise-orm')}, Django {django.__version__}, SQLite {sqlite3.sqlite_version}")
NUMBERS = [1, 2, 3, 4, 1]


class Item(Model):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)


async def attempt(batch_size):
    try:
        await Item.bulk_create([Item(number=number) for number in NUMBERS], batch_size=batch_size)
        raise SystemExit("no error")
    except IntegrityError:
        rows = sorted(await Item.all().values_list("number", flat=True))
    return rows


async def of_tortoise():
    await Tortoise.init(db_url="sqlite://a.db", modules={"models": [__name__]})
    await Tortoise.generate_schemas()
    seen = []
    for batch_size in (None, 2):
        seen.append(await attempt(batch_size))
        await Item.all().delete()
    try:
        async with in_transaction():
            await Item.bulk_create([Item(number=number) for number in NUMBERS], batch_size=2)
    except IntegrityError:
        seen.append(await Item.all().values_list("number", flat=True))
    await Tortoise.close_connections()
    return seen


def of_django():
    from django.conf import settings

    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "b.db"}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    )
    django.setup()
    from django.db import IntegrityError, connection, models

    class Thing(models.Model):
        number = models.IntegerField(unique=True)

        class Meta:
            app_label = "things"

    with connection.schema_editor() as editor:
        editor.create_model(Thing)
    try:
        Thing.objects.bulk_create([Thing(number=number) for number in NUMBERS], batch_size=2)
    except IntegrityError:
        return list(Thing.objects.values_list("number", flat=True))


whole, batched, within = asyncio.run(of_tortoise())
other = of_django()
print(f"bulk_create of {NUMBERS}, where the last is refused; rows afterwards:")
print(f"    Tortoise without batch_size: {whole}; with batch_size=2: {batched}; the same in in_transaction(): {within}")
print(f"    Django with batch_size=2: {other}")
if (whole, batched, within, other) != ([], [1, 2, 3, 4], [], []):
    raise SystemExit("it is no longer so")
PY
