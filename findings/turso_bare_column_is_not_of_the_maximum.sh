#!/usr/bin/env bash
# In Turso SELECT sensor, max(time), value .. GROUP BY sensor gives the maximum with the value of another row.
#
# Guess: SQLite promises that beside one max() or min() a bare column is taken from the row which has it; Turso, made
#     to stand in for SQLite, keeps that, or refuses the query.
# Truth: it takes the bare columns from a row of the group, here the first, and says nothing. The well-known query for
#     "the latest value of each" answers with a time and a value that were never together. ORDER BY with LIMIT 1,
#     a window function, or a join to the maximum are right.
# Versions: pyturso 0.8.3, the sqlite3 of Python.
# Source: found by trying. SQLite's page on SELECT has the promise under "bare columns in an aggregate query".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check pyturso==0.8.3

venv/bin/python - <<'PY'
import sqlite3
from importlib.metadata import version

import turso

print(f"SQLite {sqlite3.sqlite_version}, pyturso {version('pyturso')}")
QUERIES = {
    "max": "SELECT sensor, max(time), value FROM reading GROUP BY sensor ORDER BY sensor",
    "min": "SELECT sensor, min(time), value FROM reading GROUP BY sensor ORDER BY sensor",
    "max of all": "SELECT max(time), value FROM reading",
    "window": """SELECT sensor, time, value FROM (SELECT *, row_number() OVER (PARTITION BY sensor ORDER BY time DESC)
        AS place FROM reading) WHERE place = 1 ORDER BY sensor""",
}


def run(module):
    connection = module.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE reading (sensor TEXT, time INT, value TEXT)")
    connection.execute("""INSERT INTO reading VALUES
        ('a', 20, 'a at 20'), ('a', 30, 'a at 30'), ('a', 10, 'a at 10'),
        ('b', 20, 'b at 20'), ('b', 10, 'b at 10'), ('b', 40, 'b at 40')""")
    seen = {name: [tuple(row) for row in connection.execute(query).fetchall()] for name, query in QUERIES.items()}
    connection.close()
    return seen


lite, other = run(sqlite3), run(turso)
for name in QUERIES:
    print(f"{name}: SQLite {lite[name]}, Turso {other[name]}")
latest = [("a", 30, "a at 30"), ("b", 40, "b at 40")]
if lite["max"] != latest or lite["window"] != latest or other["window"] != latest or other["max"] == latest:
    raise SystemExit("it is no longer so")
if [row[:2] for row in other["max"]] != [("a", 30), ("b", 40)]:
    raise SystemExit("it is no longer so")
PY
