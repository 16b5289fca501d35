#!/usr/bin/env bash
# Shillelagh: rollback() leaves what was inserted into a CSV file, and commit() leaves what was deleted.
#
# Guess: the connection is one of the DB-API (and of SQLAlchemy), with transactions: a rollback undoes what was written to
#     the file or, if the files have no transactions, is an error; after commit() the file is as the table.
# Truth: an INSERT appends to the file while it is executed, and rollback(), as an error in a block of engine.begin(), does
#     not take it back. A DELETE or UPDATE is noted in memory: the deleted row, or the old one beside the new, is in the
#     file after commit() and close(), until the table's object has been destroyed or many are deleted. A process that
#     ends before that leaves both. Nothing warns.
# Versions: Shillelagh 1.4.5.
# Source: shillelagh/adapters/file/csvfile.py: insert_row appends at once, delete_row notes the row, and close collects
#     garbage; transactions are apsw's, for SQLite's own tables.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check shillelagh==1.4.5

venv/bin/python - <<'PY'
import gc
import importlib.metadata
import pathlib

import sqlalchemy as sa
from shillelagh.backends.apsw.db import connect

print(f"Shillelagh {importlib.metadata.version('shillelagh')}, SQLAlchemy {sa.__version__}")


def table(name):
    path = pathlib.Path(f"{name}.csv").absolute()
    path.write_text('"id","color"\n1.0,"red"\n2.0,"blue"\n')
    return path


def rows(path):
    return [line.replace('"', "") for line in path.read_text().split()[1:]]


seen = {}
path = table("inserted")
connection = connect(":memory:", adapters=["csvfile"])
connection.cursor().execute(f"""INSERT INTO "{path}" VALUES (3.0, 'green')""")
connection.rollback()
seen["INSERT, rollback()"] = rows(path)
connection.close()

path = table("engine")
engine = sa.create_engine("shillelagh://", adapters=["csvfile"])
try:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"""INSERT INTO "{path}" VALUES (3.0, 'green')""")
        raise LookupError
except LookupError:
    pass
seen["INSERT, error in engine.begin()"] = rows(path)
engine.dispose()

for statement in ("DELETE FROM", "UPDATE"):
    path = table(statement.split()[0].lower())
    connection = connect(":memory:", adapters=["csvfile"])
    cursor = connection.cursor()
    cursor.execute(f"""{statement} "{path}" {"SET color = 'pink'" if statement == "UPDATE" else ""} WHERE id = 1""")
    connection.commit()
    connection.close()
    seen[f"{statement.split()[0]}, commit(), close()"] = rows(path)
    del connection, cursor
    gc.collect()
    seen[f"{statement.split()[0]}, and the objects are destroyed"] = rows(path)
for name, content in seen.items():
    print(f"{name}: {content}")
if list(seen.values()) != [
    ["1.0,red", "2.0,blue", "3.0,green"],
    ["1.0,red", "2.0,blue", "3.0,green"],
    ["1.0,red", "2.0,blue"],
    ["2.0,blue"],
    ["1.0,red", "2.0,blue", "1.0,pink"],
    ["2.0,blue", "1.0,pink"],
]:
    raise SystemExit("it is no longer so")
PY
