#!/usr/bin/env bash
# Edgy on SQLite: what a model creates or changes in `database.transaction()` stays when the transaction is rolled back.
#
# Guess: `async with database.transaction()` that ends by an error undoes what was done inside, as it does on PostgreSQL.
# Truth: create() and update() of a model open a transaction inside the transaction: a savepoint. Python's sqlite3 begins a
#     transaction at an INSERT, not at a SAVEPOINT, so that savepoint is the outermost transaction, its RELEASE commits, and
#     the rollback that follows finds nothing. A statement sent before by execute(), which makes sqlite3 begin, heals it: the
#     same create() is then undone. A savepoint by hand that fails is undone as well, so tests of nested blocks pass.
# Versions: edgy 0.37.0, databasez 0.13.0, SQLAlchemy 2.0.58, aiosqlite 0.22.1, Python 3.11.
# Source: SQLAlchemy's pages on pysqlite tell of SAVEPOINT and the late BEGIN; databasez and Edgy do not take up the cure.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check edgy==0.37.0 databasez==0.13.0 sqlalchemy==2.0.58 aiosqlite==0.22.1

venv/bin/python -W ignore - <<'PY'
import asyncio
import sqlite3
import sys

from importlib.metadata import version

import edgy

names = ("edgy", "databasez", "sqlalchemy", "aiosqlite")
print(", ".join(f"{name} {version(name)}" for name in names) + f", Python {sys.version.split()[0]}")
database = edgy.Database("sqlite:///store.db")
registry = edgy.Registry(database=database)


class Account(edgy.Model):
    number = edgy.IntegerField()

    class Meta:
        registry = registry
        tablename = "account"


def committed():
    return [number for (number,) in sqlite3.connect("store.db").execute("SELECT number FROM account ORDER BY number")]


async def rolled_back(*steps):
    await Account.query.delete()
    kept = await Account.query.create(number=0)
    try:
        async with database.transaction():
            for step in steps:
                await step(kept)
            raise ValueError("the transaction fails")
    except ValueError:
        return committed()


async def create(kept):
    await Account.query.create(number=1)


async def update(kept):
    await kept.update(number=2)


async def execute(kept):
    await database.execute("INSERT INTO account (number) VALUES (3)")


async def main():
    async with registry:
        await registry.create_all()
        seen = [
            await rolled_back(create),
            await rolled_back(update),
            await rolled_back(execute),
            await rolled_back(execute, create, update),
        ]
    steps = ("create()", "update()", "execute()", "execute(), create(), update()")
    for step, rows in zip(steps, seen):
        print(f"[0], then {step} in a transaction that is rolled back: {rows}")
    return seen == [[0, 1], [2], [0], [0]]


if not asyncio.run(main()):
    raise SystemExit("it is no longer so")
PY
