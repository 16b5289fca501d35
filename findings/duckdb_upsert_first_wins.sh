#!/usr/bin/env bash
# Given the same key twice, DuckDB's upsert keeps the FIRST row of the statement and drops the later ones in silence.
#
# Guess: either an error, as in PostgreSQL (21000, cannot affect row a second time), or row by row, so that the last
#     one wins, as in SQLite, whose syntax is the same.
# Truth: the first one wins, also over a row that was there before, and however far apart the two stand; no error, and
#     the count is that of the distinct keys. A batch of changes in their order (a queue, a change feed) leaves the
#     oldest state when it goes as one statement, and the newest when executemany() sends the same rows one by one.
# Versions: DuckDB 2.0.1, the sqlite3 of Python.
# Source: found by running it; duckdb's page on INSERT describes ON CONFLICT without a word on duplicates in one
#     statement.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check duckdb==2.0.1

venv/bin/python - <<'PY'
import sqlite3

import duckdb

print(f"DuckDB {duckdb.__version__}, SQLite {sqlite3.sqlite_version}")
TABLE = "CREATE TABLE state (id INTEGER PRIMARY KEY, value TEXT)"
ON_CONFLICT = "ON CONFLICT (id) DO UPDATE SET value = excluded.value"
ONE = f"INSERT INTO state VALUES (1, 'first'), (1, 'middle'), (1, 'last') {ON_CONFLICT}"
seen = []
for name, connect in (("SQLite", sqlite3.connect), ("DuckDB", duckdb.connect)):
    for before in (False, True):
        database = connect(":memory:")
        database.execute(TABLE)
        if before:
            database.execute("INSERT INTO state VALUES (1, 'before')")
        database.execute(ONE)
        seen.append(database.execute("SELECT value FROM state").fetchone()[0])
        print(f"{name}, one statement, {'over a row' if before else 'empty table'}: {seen[-1]!r} is left")

database = duckdb.connect(":memory:")
database.execute(TABLE)
rows = [(1, "first"), (1, "middle"), (1, "last")]
database.executemany(f"INSERT INTO state VALUES (?, ?) {ON_CONFLICT}", rows)
seen.append(database.execute("SELECT value FROM state").fetchone()[0])
print(f"DuckDB, executemany: {seen[-1]!r} is left")

database = duckdb.connect(":memory:")
database.execute(TABLE)
count = database.execute(f"""INSERT INTO state
    SELECT CASE n WHEN 100000 THEN 1 ELSE n END, CASE n WHEN 1 THEN 'first' ELSE 'later' END
    FROM range(1, 100001) AS r(n) {ON_CONFLICT}""").fetchone()[0]
seen.append(database.execute("SELECT value FROM state WHERE id = 1").fetchone()[0])
print(f"DuckDB, 100000 rows, the last one with the key of the first: {seen[-1]!r} is left, rows counted: {count}")
if (seen, count) != (["last", "last", "first", "first", "last", "first"], 99999):
    raise SystemExit("it is no longer so")
PY
