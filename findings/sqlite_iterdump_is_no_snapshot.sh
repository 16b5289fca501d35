#!/usr/bin/env bash
# sqlite3: Connection.iterdump() is no snapshot: what is committed while it runs is in the dump by halves.
#
# Guess: a dump is one state of the database, as that of pg_dump or of SQLite's shell; it begins with BEGIN TRANSACTION.
# Truth: that line is only text. iterdump() reads table after table without a transaction, so it has the tables that it
#     reads later as of later: a child whose parent is not in the dump, money that has left one account and is in neither.
#     The dump restores without an error. With `BEGIN` and a SELECT before it (or isolation by a copy, backup()) it is whole.
# Versions: sqlite3 of the interpreter (CPython 3.11.7, SQLite 3.40.1); journal and WAL mode alike.
# Source: Lib/sqlite3/dump.py: separate SELECTs, no BEGIN; the documentation calls it useful "for later restoration". SQLite's
#     shell takes a savepoint around .dump (shell.c).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv

venv/bin/python - <<'PY'
import contextlib
import platform
import sqlite3

print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}")


def dump(path, whole):
    """What a dump restores if another connection commits a parent with its child in the middle of it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE a_parent (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE b_child (id INTEGER PRIMARY KEY, parent REFERENCES a_parent)")
        connection.execute("INSERT INTO a_parent VALUES (1)")
        if whole:
            connection.execute("BEGIN")
            connection.execute("SELECT * FROM a_parent").fetchall()
        lines = []
        for line in connection.iterdump():
            lines.append(line)
            if "CREATE TABLE b_child" in line:
                with contextlib.closing(sqlite3.connect(path)) as other, other:
                    other.execute("INSERT INTO a_parent VALUES (2)")
                    other.execute("INSERT INTO b_child VALUES (20, 2)")
    with contextlib.closing(sqlite3.connect(":memory:")) as restored:
        restored.executescript("\n".join(lines))
        parents = [id for (id,) in restored.execute("SELECT id FROM a_parent")]
        children = restored.execute("SELECT id, parent FROM b_child").fetchall()
        return parents, children


alone, inside = dump("alone.db", whole=False), dump("inside.db", whole=True)
print(f"iterdump(): parents {alone[0]}, children (id, parent) {alone[1]}")
print(f"iterdump() inside of a read transaction: parents {inside[0]}, children {inside[1]}")
if (alone, inside) != (([1], [(20, 2)]), ([1], [])):
    raise SystemExit("it is no longer so")
PY
