#!/usr/bin/env bash
# libSQL's Python driver binds an integer of more than 32 bits as a float: another type, and above 2**53 another value.
#
# Guess: a parameter that fits SQLite's 64-bit INTEGER is stored as it is, as by sqlite3, whose interface the driver has.
# Truth: from 2**31 on the column holds a REAL (in a column without a type, or inside JSON); an INTEGER column converts it
#     back where it can, so that a key of 2**53 + 1 is stored as 2**53, without an error, and an INSERT of 2**53 and of
#     2**53 + 1 is a duplicate key. A row that another program stored right is read right, and not found by that number.
# Versions: libsql 0.1.11, Python 3.11 and its sqlite3.
# Source: libsql-python, src/lib.rs: a parameter is tried as a 32-bit integer, then as a float.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check libsql==0.1.11

venv/bin/python - <<'PY'
import sqlite3
import sys

from importlib.metadata import version

import libsql

print(f"libsql {version('libsql')}, sqlite3 {sqlite3.sqlite_version}, Python {sys.version.split()[0]}")
stored = {}
for module in (sqlite3, libsql):
    path = f"{module.__name__}.db"
    connection = module.connect(path)
    connection.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, payload)")
    for number in (2**31 - 1, 2**31, 2**53 + 1):
        connection.execute("INSERT INTO event VALUES (?, ?)", (number, number))
    connection.commit()
    reader = sqlite3.connect(path)
    stored[module] = reader.execute("SELECT id, payload, typeof(payload) FROM event ORDER BY id").fetchall()
    reader.close()
    print(f"stored by {module.__name__}: {stored[module]}")

with sqlite3.connect("libsql.db") as other:
    other.execute("INSERT INTO event VALUES (?, 'of another program')", (2**60 + 1,))
connection = libsql.connect("libsql.db")
read = connection.execute("SELECT id FROM event WHERE payload = 'of another program'").fetchall()
found = connection.execute("SELECT id FROM event WHERE id = ?", (2**60 + 1,)).fetchall()
print(f"2**60 + 1, stored by another program: read as {read}, found by that number: {found}")
try:
    connection.execute("INSERT INTO event VALUES (?, '')", (2**53,))
    twice = "stored"
except ValueError as error:
    twice = str(error)
print(f"2**53 beside 2**53 + 1: {twice}")
exact = [(number, number, "integer") for number in (2**31 - 1, 2**31, 2**53 + 1)]
changed = [exact[0], (2**31, float(2**31), "real"), (2**53, float(2**53), "real")]
if (stored[sqlite3], stored[libsql], read, found) != (exact, changed, [(2**60 + 1,)], []) or "UNIQUE" not in twice:
    raise SystemExit("it is no longer so")
PY
