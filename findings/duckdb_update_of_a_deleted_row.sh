#!/usr/bin/env bash
# DuckDB lets one transaction update a row that another is deleting: both commit, and the update is lost.
#
# Guess: DuckDB's transactions are snapshots with optimistic checks, so of two that write the same row the second gets
#     a conflict: with update + update and delete + delete it does.
# Truth: update + delete is not checked, in either order. The UPDATE reports one row, both COMMITs succeed, the row is
#     gone; and where the deleting transaction writes the row anew (the old way of replacing it) the new row stands
#     without the update. No error, no count of 0 tells it. In PostgreSQL the UPDATE waits and then reports 0 rows.
# Versions: DuckDB 2.0.1 (the issue is of 1.2).
# Source: duckdb issue 17223, "Incorrect transaction isolation between UPDATE and DELETE", closed as stale.
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
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def race(name, *steps):
    """Two transactions take turns; returns what each statement said, and the rows afterwards."""
    database = duckdb.connect(f"{name}.db")
    database.execute("CREATE TABLE stock (id INT, amount INT)")
    database.execute("INSERT INTO stock VALUES (1, 10), (2, 20)")
    sides = database.cursor(), database.cursor()
    for side in sides:
        side.execute("BEGIN")
    print(f"{name}:")
    said = []
    for number, sql in (*steps, (0, "COMMIT"), (1, "COMMIT")):
        said.append(attempt(sides[number], sql))
        print(f"    transaction {number}: {sql}: {said[-1]}")
    rows = database.execute("SELECT * FROM stock ORDER BY ALL").fetchall()
    print(f"    afterwards: {rows}")
    return said, rows


delete, update = "DELETE FROM stock WHERE id = 1", "UPDATE stock SET amount = 11 WHERE id = 1"
insert = "INSERT INTO stock VALUES (1, 10)"
both = race("update_and_update", (0, update), (1, update))
first = race("delete_and_update", (0, delete), (1, update))
second = race("update_and_delete", (0, update), (1, delete))
replaced = race("replace_and_update", (0, delete), (0, insert), (1, update))
if not (
    "Conflict" in both[0][1]
    and first == ([[(1,)], [(1,)], [], []], [(2, 20)])
    and second == first
    and replaced == ([[(1,)], [(1,)], [(1,)], [], []], [(1, 10), (2, 20)])
):
    raise SystemExit("it is no longer so")
PY
