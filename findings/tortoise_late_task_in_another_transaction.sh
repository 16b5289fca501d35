#!/usr/bin/env bash
# Tortoise ORM: a task that outlives the transaction it was started in writes into somebody else's later transaction.
#
# Guess: create_task() inside in_transaction() hands the transaction's connection to the task (it is a context
#     variable); once the transaction has ended, a query of the task is an error.
# Truth: on SQLite the wrapper of the ended transaction goes on using the one connection there is, past the lock that
#     keeps transactions apart. If another task has a transaction open, the late row belongs to that: create() is done
#     without an error, and the row is gone when the other rolls back. On PostgreSQL asyncpg's pool refuses ("has been
#     released back to the pool"). A "fire and forget" write of a log in a handler is such a task.
# Versions: tortoise-orm 1.1.9, aiosqlite 0.22.1, the sqlite3 of Python.
# Source: tortoise/backends/sqlite/client.py, SqliteTransactionWrapper: its lock is its own, not the one that keeps
#     transactions apart, and a query does not look whether it is finalized; asyncio copies the context into a task.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check tortoise-orm==1.1.9 aiosqlite==0.22.1

venv/bin/python - <<'PY'
import asyncio
import sqlite3
from importlib.metadata import version

from tortoise import Tortoise, fields
from tortoise.models import Model
from tortoise.transactions import in_transaction

print(f"tortoise-orm {version('tortoise-orm')}, aiosqlite {version('aiosqlite')}, SQLite {sqlite3.sqlite_version}")


class Note(Model):
    id = fields.IntField(primary_key=True)
    text = fields.CharField(9)


async def write_when(event):
    await event.wait()
    await Note.create(text="late")
    return "no error"


async def rolled_back_transaction(event, task):
    try:
        async with in_transaction():
            await Note.create(text="other")
            event.set()
            done, _ = await asyncio.wait([task], timeout=2)
            during = task.result() if done else "waits for the other transaction"
            raise ValueError
    except ValueError:
        return during


async def run(inside):
    await Note.all().delete()
    event = asyncio.Event()
    if inside:
        async with in_transaction():
            await Note.create(text="first")
            task = asyncio.create_task(write_when(event))
    else:
        await Note.create(text="first")
        task = asyncio.create_task(write_when(event))
    during = await rolled_back_transaction(event, task)
    answer = await task
    return during, answer, sorted(await Note.all().values_list("text", flat=True))


async def main():
    await Tortoise.init(db_url="sqlite://a.db", modules={"models": [__name__]})
    await Tortoise.generate_schemas()
    inside, outside = await run(True), await run(False)
    await Tortoise.close_connections()
    for label, (during, answer, rows) in (("in a transaction", inside), ("outside of any", outside)):
        print(f"task started {label}; its create() while another transaction is open: {during}")
        print(f"    answer: {answer}; rows after that one was rolled back: {rows}")
    if inside != ("no error", "no error", ["first"]):
        raise SystemExit("it is no longer so")
    if outside != ("waits for the other transaction", "no error", ["first", "late"]):
        raise SystemExit("it is no longer so")


asyncio.run(main())
PY
