#!/usr/bin/env bash
# Pony: `with db_session:` around an await is shared by all tasks, so that one's error undoes what another has saved.
#
# Guess: two tasks of a loop that each have a `with db_session:` block have a session each, or Pony, which knows nothing of
#     asyncio, refuses it, as it does with @db_session on an `async def` that awaits with unsaved changes (TransactionError).
# Truth: the session belongs to the thread. A block that begins while another task is in one counts as nested in that: its
#     end commits nothing, without a word, and the first one's end decides. If that is an error, what the second task has
#     left behind as saved is gone. In the other order the second's error, after the first has ended, takes back the
#     first's, whose block had ended well.
# Versions: Pony 0.7.20, SQLite of the Python.
# Source: pony/orm/core.py, DBSessionContextManager: a counter per thread; ponyorm/pony issue 47 (open) asks for asyncio.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check pony==0.7.20

venv/bin/python - <<'PY'
import asyncio
import importlib.metadata
import sqlite3

from pony.orm import Database, Required, TransactionError, db_session, select

print(f"Pony {importlib.metadata.version('pony')}, SQLite {sqlite3.sqlite_version}")
database = Database("sqlite", ":memory:")


class Entry(database.Entity):
    text = Required(str)


database.generate_mapping(create_tables=True)


def kept():
    with db_session:
        return sorted(select(entry.text for entry in Entry)[:])


async def save(text, inside, end, error=None):
    """Saves in a block of its own: tells that it is inside, and leaves when it may, with the error if there is one."""
    try:
        with db_session:
            Entry(text=text)
            inside.set()
            await end.wait()
            if error:
                raise error
    except LookupError:
        return f"{text}: failed"
    return f"{text}: saved"


async def overlapping(first_error, second_error, first_ends_first):
    inside, first_may_end, second_may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(save("first", inside, first_may_end, first_error))
    await inside.wait()
    inside.clear()
    second = asyncio.create_task(save("second", inside, second_may_end, second_error))
    await inside.wait()
    order = [(first, first_may_end), (second, second_may_end)]
    told = []
    for task, may_end in order if first_ends_first else order[::-1]:
        may_end.set()
        told.append(await task)
    return told, kept()


@db_session
async def decorated():
    Entry(text="decorated")
    await asyncio.sleep(0)


async def run_decorated():
    await decorated()


seen = [
    asyncio.run(overlapping(LookupError(), None, False)),
    asyncio.run(overlapping(None, LookupError(), True)),
]
try:
    asyncio.run(run_decorated())
    refused = False
except TransactionError as error:
    refused = True
    print(f"@db_session on an async def: TransactionError: {error}")
for told, rows in seen:
    print(f"two blocks that overlap, in the order of their ends: {told}; kept: {rows}")
if seen != [(["second: saved", "first: failed"], []), (["first: saved", "second: failed"], [])] or not refused:
    raise SystemExit("it is no longer so")
PY
