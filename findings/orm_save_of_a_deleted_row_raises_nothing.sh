#!/usr/bin/env bash
# Django, peewee, Tortoise and Piccolo: save() of an object whose row was deleted meanwhile brings it back, or stores nothing.
#
# Guess: save() of an object that was read, and whose row another transaction has deleted, raises, as SQLAlchemy's flush does
#     with StaleDataError.
# Truth: none of the four does. Django's UPDATE finds no row, so it INSERTs one with the old key: an account that was erased
#     is there again. Peewee's, Tortoise's and Piccolo's UPDATE finds no row, and that's all: what was saved is nowhere, and
#     save() returns 0, None and []. For the same reason peewee's save() of a new object with a key of its own (a UUID, a
#     name) stores nothing, unless with force_insert=True. In Django save(force_update=True), or with update_fields, raises.
# Versions: Django 5.2.19, peewee 4.5.3, Tortoise ORM 1.1.9, Piccolo 1.38.0, SQLAlchemy 2.1.9, on SQLite.
# Source: Django's documentation, "How Django knows to UPDATE vs. INSERT"; peewee's, "Non-integer primary keys"; Tortoise's
#     and Piccolo's have no word on it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check Django==5.2.19 peewee==4.5.3 tortoise-orm==1.1.9 'piccolo[sqlite]==1.38.0' \
    SQLAlchemy==2.1.9

venv/bin/python - <<'PY'
import asyncio
import contextlib
import importlib.metadata
import sqlite3

import django
import peewee
import piccolo.columns
import sqlalchemy as sa
import tortoise.fields
from django.conf import settings
from piccolo.engine.sqlite import SQLiteEngine
from piccolo.table import Table
from sqlalchemy import orm
from tortoise import Tortoise, connections

packages = ("Django", "peewee", "tortoise-orm", "piccolo", "SQLAlchemy")
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db"}})
django.setup()
from django.db import connection, models


def execute(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        return other.execute(statement).fetchall()


def create(path):
    execute(path, "CREATE TABLE account (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    execute(path, "INSERT INTO account VALUES (1, 'old')")


class DjangoAccount(models.Model):
    name = models.TextField()

    class Meta:
        app_label = "bank"
        db_table = "account"


class PeeweeAccount(peewee.Model):
    name = peewee.TextField()

    class Meta:
        database = peewee.SqliteDatabase("peewee.db")
        table_name = "account"


class PeeweeNamed(peewee.Model):
    name = peewee.TextField(primary_key=True)
    amount = peewee.IntegerField()

    class Meta:
        database = peewee.SqliteDatabase("named.db")


class TortoiseAccount(tortoise.models.Model):
    id = tortoise.fields.IntField(primary_key=True)
    name = tortoise.fields.TextField()

    class Meta:
        table = "account"


class PiccoloAccount(Table, tablename="account", db=SQLiteEngine(path="piccolo.db")):
    name = piccolo.columns.Text()


class Base(orm.DeclarativeBase):
    pass


class SqlalchemyAccount(Base):
    __tablename__ = "account"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


def erase(path, account):
    """Another transaction deletes the row, and the object that was read before is changed."""
    execute(path, "DELETE FROM account")
    account.name = "new"


def save_django():
    account = DjangoAccount.objects.get(id=1)
    erase("django.db", account)
    return account.save()


def save_peewee():
    account = PeeweeAccount.get_by_id(1)
    PeeweeAccount._meta.database.close()
    erase("peewee.db", account)
    return account.save()


def save_tortoise():
    async def save():
        await Tortoise.init(db_url="sqlite://tortoise.db", modules={"models": [__name__]})
        account = await TortoiseAccount.get(id=1)
        erase("tortoise.db", account)
        try:
            return await account.save()
        finally:
            await connections.close_all()

    return asyncio.run(save())


def save_piccolo():
    async def save():
        account = await PiccoloAccount.objects().get(PiccoloAccount.id == 1)
        erase("piccolo.db", account)
        return await account.save()

    return asyncio.run(save())


def save_sqlalchemy():
    with orm.Session(sa.create_engine("sqlite:///sqlalchemy.db")) as session:
        account = session.get(SqlalchemyAccount, 1)
        erase("sqlalchemy.db", account)
        try:
            session.commit()
        except orm.exc.StaleDataError as error:
            return type(error).__name__


seen = {}
for save in (save_django, save_peewee, save_tortoise, save_piccolo, save_sqlalchemy):
    path = save.__name__.removeprefix("save_") + ".db"
    create(path)
    seen[path] = (save(), execute(path, "SELECT * FROM account"))
    print(f"{path}: save() gives {seen[path][0]!r}, stored are {seen[path][1]}")
PeeweeNamed.create_table()
named = PeeweeNamed(name="of its own", amount=1).save(), PeeweeNamed.select().count()
print(f"peewee, a new object with a key of its own: save() gives {named[0]!r}, stored are {named[1]} rows")
connection.close()
if list(seen.values()) != [(None, [(1, "new")]), (0, []), (None, []), ([], []), ("StaleDataError", [])] or named != (0, 0):
    raise SystemExit("it is no longer so")
PY
