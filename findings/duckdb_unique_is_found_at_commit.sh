#!/usr/bin/env bash
# In DuckDB the loser of a race for a unique key hears of it only from COMMIT, and INSERT OR IGNORE does not help.
#
# Guess: as in every SQL database the second INSERT of the same key meets the first: it waits, or fails at once; and ON
#     CONFLICT DO NOTHING (INSERT OR IGNORE) is the way to never fail.
# Truth: neither waits and neither fails. Both INSERTs report one row, both transactions see their row, and the later
#     COMMIT raises TransactionException and rolls back everything else it wrote. With ON CONFLICT DO NOTHING and DO
#     UPDATE it is the same. A retry has to surround the whole transaction, COMMIT included, and catches another class
#     than a duplicate key alone (ConstraintException).
# Versions: DuckDB 2.0.1.
# Source: found by running it; duckdb's documentation of concurrency speaks of optimistic control for updates of a row.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check duckdb==2.0.1

venv/bin/python - <<'PY'
import duckdb

print(f"DuckDB {duckdb.__version__}")


def attempt(connection, sql):
    try:
        return connection.execute(sql).fetchall()
    except duckdb.Error as error:
        return type(error).__name__


seen = []
for number, ending in enumerate(("", "ON CONFLICT DO NOTHING", "ON CONFLICT (name) DO UPDATE SET owner = excluded.owner")):
    database = duckdb.connect(f"{number}.db")
    database.execute("CREATE TABLE lease (name TEXT PRIMARY KEY, owner INT)")
    database.execute("CREATE TABLE log (line TEXT)")
    one, two = database.cursor(), database.cursor()
    for side, owner in ((one, 1), (two, 2)):
        side.execute("BEGIN")
        side.execute("INSERT INTO log VALUES (?)", [f"owner {owner} was here"])
    inserts = [attempt(side, f"INSERT INTO lease VALUES ('x', {n}) {ending}") for side, n in ((one, 1), (two, 2))]
    views = [attempt(side, "SELECT owner FROM lease") for side in (one, two)]
    commits = [attempt(side, "COMMIT") for side in (one, two)]
    left = attempt(database, "SELECT owner, (SELECT count(*) FROM log) FROM lease")
    print(f"INSERT ... {ending or '(plain)'}:\n    INSERTs {inserts}, each sees {views}\n    COMMITs {commits}, left {left}")
    seen.append((inserts, views, commits, left))
    alone = attempt(database, "INSERT INTO lease VALUES ('x', 3)")
print(f"one after the other: {alone}")
expected = [[(1,)], [(1,)]], [[(1,)], [(2,)]], [[], "TransactionException"], [(1, 1)]
if seen != [expected] * 3 or alone != "ConstraintException":
    raise SystemExit("it is no longer so")
PY
