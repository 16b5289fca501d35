#!/usr/bin/env bash
# Kuzu: an error inside a transaction ends it in silence, and the statements after it commit by themselves.
#
# Guess: after a failed statement a manual transaction either goes on (as in SQLite) or refuses everything until it is
#     rolled back (as in PostgreSQL); in both, nothing is kept unless COMMIT succeeds.
# Truth: the transaction is rolled back at once, and the connection is in auto-commit mode again. A program that catches
#     the error and goes on has its earlier statements undone and its later ones kept; what fails is COMMIT, when half
#     of the work is there for good.
# Versions: kuzu 0.11.3, Python 3.11.
# Source: https://docs.kuzudb.com/cypher/transaction/ tells BEGIN, COMMIT and ROLLBACK, and nothing of errors.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check kuzu==0.11.3

venv/bin/python - <<'PY'
import sys
from importlib.metadata import version

import kuzu

print(f"kuzu {version('kuzu')}, Python {sys.version.split()[0]}")
connection = kuzu.Connection(kuzu.Database("graph"))


def run(statement):
    try:
        connection.execute(statement)
    except RuntimeError as error:
        answer = f"{error}"[:60]
    else:
        answer = "done"
    print(f"{statement:45} {answer}")
    return answer


run("CREATE NODE TABLE person(id INT64, PRIMARY KEY(id))")
run("CREATE (:person {id: 1})")
run("BEGIN TRANSACTION")
run("CREATE (:person {id: 2})")
failed = run("CREATE (:person {id: 1})")  # a duplicate key
after = run("CREATE (:person {id: 3})")
commit = run("COMMIT")
rows = connection.execute("MATCH (p:person) RETURN p.id ORDER BY p.id").get_all()
print(f"persons that are there: {[number for (number,) in rows]}")
if not (failed != "done" == after and "No active transaction" in commit and rows == [[1], [3]]):
    raise SystemExit("it is no longer so")
PY
