#!/usr/bin/env bash
# aiosqlite: an INSERT whose await timed out is executed afterwards, and the next commit() commits it.
#
# Guess: after asyncio.timeout() around `await connection.execute("INSERT ...")` it's not inserted: the call was
#     cancelled, as with asyncpg or psycopg, whose drivers cancel the query at the server.
# Truth: only the wait is cancelled. The statement stays with the connection's thread (waiting for a lock, or in the
#     queue behind a slow one), is executed when it can be, and stays in the open transaction; who goes on with the
#     connection and commits commits it too. A retry after the timeout inserts twice. It needs a rollback() first, which
#     waits for the statement.
# Versions: aiosqlite 0.22.1, SQLite of the Python (3.40 or newer).
# Source: aiosqlite/core.py, Connection._execute puts a function into the thread's queue and awaits a future; nothing
#     takes it out again. Its documentation has no word on cancellation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check aiosqlite==0.22.1

venv/bin/python - <<'PY'
import asyncio
import importlib.metadata
import sqlite3

import aiosqlite

print(f"aiosqlite {importlib.metadata.version('aiosqlite')}, SQLite {sqlite3.sqlite_version}")


async def timed_out(connection, text):
    try:
        async with asyncio.timeout(0.3):
            await connection.execute("INSERT INTO entry VALUES (?)", (text,))
    except TimeoutError:
        return True
    return False


async def main():
    other = sqlite3.connect("entry.db", isolation_level=None)
    other.execute("CREATE TABLE entry (text)")
    connection = await aiosqlite.connect("entry.db", timeout=30)
    seen = []

    other.execute("BEGIN IMMEDIATE")
    waited = await timed_out(connection, "waited for the lock")
    other.execute("ROLLBACK")
    await connection.execute("INSERT INTO entry VALUES ('another')")
    await connection.commit()
    seen.append((waited, sorted(text for (text,) in other.execute("SELECT text FROM entry"))))

    other.execute("DELETE FROM entry")
    slow = asyncio.create_task(
        connection.execute_fetchall(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000000) SELECT count(*) FROM n"
        )
    )
    await asyncio.sleep(0)
    waited = await timed_out(connection, "queued behind a slow one")
    await slow
    await connection.commit()
    seen.append((waited, sorted(text for (text,) in other.execute("SELECT text FROM entry"))))
    await connection.close()
    for waited, kept in seen:
        print(f"the INSERT timed out: {waited}; after the next commit there is: {kept}")
    if seen != [(True, ["another", "waited for the lock"]), (True, ["queued behind a slow one"])]:
        raise SystemExit("it is no longer so")


asyncio.run(main())
PY
