#!/usr/bin/env bash
# duckdb: what a cursor of a connection executes is not part of the connection's transaction.
#
# Guess: as in any other DB-API 2.0 driver ("cursors created from the same connection are not isolated", PEP 249), a
#     cursor works in its connection's transaction: rollback() undoes what it did, and it sees what is not yet
#     committed.
# Truth: cursor() opens another connection to the same database. Inside `connection.begin()` a cursor doesn't see what
#     the connection has written, what the cursor writes is committed at once, and connection.rollback() leaves it. Code
#     that was written for sqlite3 or psycopg (one cursor per helper, commit() at the end) has no transaction here.
# Versions: duckdb 2.0.1.
# Source: the docstring of cursor(): "Create a duplicate of the current connection". duckdb.apilevel is "2.0", and its
#     documentation calls the API compliant with PEP 249 and similar to that of sqlite3.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check duckdb==2.0.1

venv/bin/python - <<'PY'
import sqlite3

import duckdb

print(f"duckdb {duckdb.__version__}, apilevel {duckdb.apilevel}")
seen = {}
for name, connection in {"sqlite3": sqlite3.connect(":memory:", isolation_level=None), "duckdb": duckdb.connect()}.items():
    connection.execute("CREATE TABLE entry (text varchar)")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO entry VALUES ('by the connection')")
    cursor = connection.cursor()
    sees = [text for (text,) in cursor.execute("SELECT text FROM entry").fetchall()]
    cursor.execute("INSERT INTO entry VALUES ('by a cursor')")
    connection.rollback()
    kept = [text for (text,) in connection.execute("SELECT text FROM entry").fetchall()]
    seen[name] = sees, kept
    print(f"{name}: the cursor sees {sees}; after connection.rollback() there is {kept}")
if seen != {"sqlite3": (["by the connection"], []), "duckdb": ([], ["by a cursor"])}:
    raise SystemExit("it is no longer so")
PY
