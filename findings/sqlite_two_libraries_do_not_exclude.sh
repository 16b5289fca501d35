#!/usr/bin/env bash
# SQLite: two copies of the library in one process (sqlite3 and apsw) do not exclude each other, and drop each other's locks.
#
# Guess: the lock of BEGIN IMMEDIATE is on the database file, whoever takes it: a second writer, in the same process or
#     another one, gets "database is locked".
# Truth: it is a POSIX lock, which belongs to the process. Python's sqlite3 and apsw have each an SQLite of their own, and
#     neither knows of the other's locks: both are granted BEGIN IMMEDIATE at once, both read 0, both write 1, both COMMIT
#     without an error (with a rollback journal; in WAL mode the later one gets "locking protocol"). And when apsw has read
#     the file and closes it, all locks of the process on it are gone: another process is let in beside the transaction
#     that sqlite3 has open. Any package that brings its own SQLite (GDAL's, another binding's) can be the second copy.
# Versions: sqlite3 of the interpreter (SQLite 3.40.1 with CPython 3.11.7), apsw 3.54.1.0.
# Source: sqlite.org/howtocorrupt.html, "Multiple copies of SQLite linked into the same application"; Python's
#     documentation of sqlite3 has no word on it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check apsw==3.54.1.0

venv/bin/python - <<'PY'
import pathlib
import sqlite3
import subprocess
import sys

import apsw

print(f"sqlite3 with SQLite {sqlite3.sqlite_version}, apsw with SQLite {apsw.sqlite_lib_version()}")
BEGIN = """
import sqlite3, sys
try:
    sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")
    print("let in")
except sqlite3.OperationalError as error:
    print(error)
"""


def database(name, journal):
    path = pathlib.Path(f"{name}_{journal}.db")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE counter (n)")
        connection.execute("INSERT INTO counter VALUES (0)")
    connection.close()
    return str(path)


def another_process(path):
    answer = subprocess.run([sys.executable, "-c", BEGIN, path], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def two_increments(path):
    """How two transactions that read before either has written end, and what is counted."""
    one, two = sqlite3.connect(path, timeout=0, isolation_level=None), apsw.Connection(path)
    told = []
    one.execute("BEGIN IMMEDIATE")
    (n,) = one.execute("SELECT n FROM counter").fetchone()
    try:
        two.execute("BEGIN IMMEDIATE")
        ((m,),) = two.execute("SELECT n FROM counter")
        two.execute("UPDATE counter SET n = ?", (m + 1,))
        two.execute("COMMIT")
        told.append("apsw: committed")
    except apsw.BusyError as error:
        told.append(f"apsw: {error}")
    try:
        one.execute("UPDATE counter SET n = ?", (n + 1,))
        one.execute("COMMIT")
        told.append("sqlite3: committed")
    except sqlite3.OperationalError as error:
        told.append(f"sqlite3: {error}")
    one.close()
    two.close()
    with sqlite3.connect(path) as connection:
        told.append(connection.execute("SELECT n FROM counter").fetchone()[0])
    connection.close()
    return told


def lock(path):
    """What another process is told while sqlite3 has its transaction open, before and after apsw looked at the file."""
    one = sqlite3.connect(path, isolation_level=None)
    one.execute("BEGIN IMMEDIATE")
    told = [another_process(path)]
    two = apsw.Connection(path)
    two.execute("SELECT * FROM counter").fetchall()
    two.close()
    told.append(another_process(path))
    one.execute("ROLLBACK")
    one.close()
    return told


increments = {journal: two_increments(database("increments", journal)) for journal in ("delete", "wal")}
locks = {journal: lock(database("lock", journal)) for journal in ("delete", "wal")}
for journal in ("delete", "wal"):
    print(f"journal_mode={journal}: two increments at once: {', '.join(map(str, increments[journal]))}")
    before, after = locks[journal]
    print(f"journal_mode={journal}: another process: {before}; after apsw has read the file: {after}")
if increments != {
    "delete": ["apsw: committed", "sqlite3: committed", 1],
    "wal": ["apsw: committed", "sqlite3: locking protocol", 1],
} or locks != dict.fromkeys(("delete", "wal"), ["database is locked", "let in"]):
    raise SystemExit("it is no longer so")
PY
