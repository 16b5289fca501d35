#!/usr/bin/env bash
# apsw: executemany("INSERT ... RETURNING ...") inserts one row until its rows are read; the transaction commits that.
#
# Guess: executemany() has executed the statement for all of the bindings when it returns, RETURNING or not, as
#     execute() has inserted all rows of one statement; or a commit before all was executed is an error.
# Truth: with RETURNING it stops at the first row that comes back, and goes on as the rows are read. If nobody reads
#     them, one row is inserted, and `with connection:` commits that in silence. Likewise the statements behind a SELECT
#     (or a PRAGMA that answers) in one execute(). Only using that same cursor again raises IncompleteExecutionError.
#     Without RETURNING all are inserted, so adding RETURNING to a statement that works loses rows.
# Versions: apsw 3.54.1.0.
# Source: apsw's documentation of Cursor.execute: "Execution returns when the first row is available or all statements
#     have completed."
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check apsw==3.54.1.0

venv/bin/python - <<'PY'
import apsw

print(f"apsw {apsw.apsw_version()}, SQLite {apsw.sqlite_lib_version()}")
ROWS = [("a",), ("b",), ("c",)]


def inserted(action):
    connection = apsw.Connection("entry.db")
    connection.execute("CREATE TABLE IF NOT EXISTS entry (id integer PRIMARY KEY, text)")
    connection.execute("DELETE FROM entry")
    with connection:
        action(connection)
    connection.close()
    return apsw.Connection("entry.db").execute("SELECT count(*) FROM entry").get


INSERT = "INSERT INTO entry (text) VALUES (?)"
seen = {
    "executemany, without RETURNING": lambda c: c.executemany(INSERT, ROWS),
    "executemany, RETURNING": lambda c: c.executemany(f"{INSERT} RETURNING id", ROWS),
    "executemany, RETURNING, rows read": lambda c: c.executemany(f"{INSERT} RETURNING id", ROWS).fetchall(),
    "one INSERT of three rows, RETURNING": lambda c: c.execute("INSERT INTO entry (text) VALUES (1), (2), (3) RETURNING id"),
    "execute('SELECT 1; INSERT ...')": lambda c: c.execute("SELECT 1; INSERT INTO entry (text) VALUES ('a')"),
}
for name, action in seen.items():
    seen[name] = inserted(action)
    print(f"{name}: {seen[name]} rows are committed")
if list(seen.values()) != [3, 1, 3, 3, 0]:
    raise SystemExit("it is no longer so")
PY
