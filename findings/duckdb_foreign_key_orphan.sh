#!/usr/bin/env bash
# Two DuckDB transactions can leave a row whose foreign key points at nothing.
#
# Guess: a FOREIGN KEY that DuckDB accepts and checks holds at every commit: of the transaction that inserts a child
#     and the one that deletes its parent one is refused, at the statement or at COMMIT.
# Truth: each side looks at its own snapshot only. Both commit, in either order, and the child stays with a parent that
#     is not there; DuckDB offers no check that would find it later. Alone, each of the two is refused as it should be.
# Versions: DuckDB 2.0.1 (the issue is of 1.3).
# Source: duckdb issue 19002, "Possible to enter inconsistent foreign key state when concurrent transactions reference
#     and delete the same record", open.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check duckdb==2.0.1

venv/bin/python - <<'PY'
import duckdb

print(f"DuckDB {duckdb.__version__}")
database = duckdb.connect("a.db")
database.execute("CREATE TABLE parent (id INT PRIMARY KEY)")
database.execute("CREATE TABLE child (parent INT REFERENCES parent (id))")
ORPHANS = "SELECT count(*) FROM child WHERE parent NOT IN (SELECT id FROM parent)"


def attempt(connection, sql):
    try:
        connection.execute(sql)
    except duckdb.Error as error:
        return type(error).__name__
    return "done"


database.execute("INSERT INTO parent VALUES (1), (2), (3)")
database.execute("INSERT INTO child VALUES (1)")
alone = attempt(database, "DELETE FROM parent WHERE id = 1"), attempt(database, "INSERT INTO child VALUES (9)")
print(f"one after the other: DELETE of a parent in use: {alone[0]}; INSERT without a parent: {alone[1]}")

seen = []
for parent, order in ((2, (0, 1)), (3, (1, 0))):
    sides = database.cursor(), database.cursor()
    statements = f"INSERT INTO child VALUES ({parent})", f"DELETE FROM parent WHERE id = {parent}"
    for side in sides:
        side.execute("BEGIN")
    said = [attempt(sides[number], statements[number]) for number in order]
    said += [attempt(sides[number], "COMMIT") for number in order]
    orphans = database.execute(ORPHANS).fetchone()[0]
    print(f"at once: {statements[order[0]]}; {statements[order[1]]}; COMMIT; COMMIT: {said}, orphans: {orphans}")
    seen.append((set(said), orphans))
if alone != ("ConstraintException",) * 2 or seen != [({"done"}, 1), ({"done"}, 2)]:
    raise SystemExit("it is no longer so")
PY
