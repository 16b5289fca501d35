#!/usr/bin/env bash
# In SQLite EXPLAIN PRAGMA foreign_keys = OFF switches the foreign keys off.
#
# Guess: EXPLAIN shows the program of a statement, or its plan, and runs nothing: the setting stays as it is.
# Truth: pragmas which are settings of the connection act while the statement is compiled, so EXPLAIN and EXPLAIN QUERY
#     PLAN carry them out: foreign_keys, query_only, synchronous, busy_timeout, locking_mode and others. Those which
#     write to the file (user_version, journal_mode) do not act. A console that explains whatever is typed, "as that
#     changes nothing", leaves a pooled connection with other settings, and orphans can be written.
# Versions: SQLite 3.40.1 (of Python) and 3.54.1 (apsw 3.54.1.0).
# Source: the page of PRAGMA in SQLite's documentation says, further down, that some pragmas run while the statement is
#     prepared and that EXPLAIN may then not keep them from acting.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check apsw==3.54.1.0

venv/bin/python - <<'PY'
import sqlite3

import apsw

SETTINGS = {
    "foreign_keys": (1, 0),
    "query_only": (1, 0),
    "synchronous": (2, 0),
    "busy_timeout": (5000, 77),
    "locking_mode": ("normal", "exclusive"),
    "recursive_triggers": (0, 1),
    "user_version": (0, 7),
    "application_id": (0, 7),
    "journal_mode": ("delete", "wal"),
}
KEPT = {"user_version", "application_id", "journal_mode"}


def changed(connect, explain):
    names = set()
    for name, (old, new) in SETTINGS.items():
        connection = connect()
        connection.execute(f"PRAGMA {name} = {old}").fetchall()
        connection.execute(f"{explain} PRAGMA {name} = {new}").fetchall()
        now = connection.execute(f"PRAGMA {name}").fetchone()[0]
        connection.close()
        assert now in (old, new), (name, now)
        if now == new:
            names.add(name)
    return names


good = True
for label, connect in (
    (f"sqlite3 {sqlite3.sqlite_version}", lambda: sqlite3.connect("a.db", isolation_level=None)),
    (f"apsw, SQLite {apsw.sqlite_lib_version()}", lambda: apsw.Connection("a.db")),
):
    for explain in ("EXPLAIN", "EXPLAIN QUERY PLAN"):
        names = changed(connect, explain)
        kept = set(SETTINGS) - names
        print(f"{label}, {explain} changed: {', '.join(sorted(names))}; not: {', '.join(sorted(kept))}")
        good = good and names == set(SETTINGS) - KEPT

connection = sqlite3.connect(":memory:", isolation_level=None)
connection.execute("PRAGMA foreign_keys = ON")
connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
connection.execute("CREATE TABLE child (parent INT REFERENCES parent)")
orphans = []
for number, statement in enumerate(("SELECT 1", "EXPLAIN PRAGMA foreign_keys = OFF")):
    connection.execute(statement).fetchall()
    try:
        connection.execute(f"INSERT INTO child VALUES ({98 + number})")  # not a statement that is prepared already
        orphans.append("written")
    except sqlite3.IntegrityError as error:
        orphans.append(str(error))
    print(f"an orphan after {statement}: {orphans[-1]}")
if not good or orphans != ["FOREIGN KEY constraint failed", "written"]:
    raise SystemExit("it is no longer so")
PY
