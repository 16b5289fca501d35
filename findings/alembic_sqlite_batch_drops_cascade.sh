#!/usr/bin/env bash
# An Alembic batch migration on SQLite removes ON DELETE CASCADE and DEFERRABLE, if they were written at the column.
#
# Guess: batch_alter_table() makes the table anew as it was, but for the change asked for; what it can't carry over
#     (CHECK constraints without a name, say) it warns of. `REFERENCES` at the column and `FOREIGN KEY` at the table
#     are two spellings of one thing, and PRAGMA foreign_key_list shows ON DELETE for both.
# Truth: SQLAlchemy reads the options of a foreign key from the table's text, and only from FOREIGN KEY clauses.
#     Written at the column they are not seen: the new table has a bare REFERENCES, without a warning. A delete of the
#     parent, which removed the children before, is an IntegrityError after the migration. Tables made by SQLAlchemy
#     are spelt the other way; hand-written ones, and those of other tools, are not.
# Versions: Alembic 1.20.1, SQLAlchemy 2.1.9, the sqlite3 of Python.
# Source: sqlalchemy/dialects/sqlite/base.py, get_foreign_keys: its pattern begins at FOREIGN KEY.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check alembic==1.20.1 SQLAlchemy==2.1.9

venv/bin/python - <<'PY'
import sqlite3
import warnings

import alembic
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

warnings.simplefilter("error")  # nothing is warned of below
print(f"Alembic {alembic.__version__}, SQLAlchemy {sa.__version__}, SQLite {sqlite3.sqlite_version}")
ACTION = "ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED"
spellings = {
    "at the column": f"parent INTEGER REFERENCES parent (id) {ACTION}",
    "at the table": f"parent INTEGER, FOREIGN KEY (parent) REFERENCES parent (id) {ACTION}",
}


def delete_parent(connection):
    connection.exec_driver_sql("INSERT INTO parent VALUES (1)")
    connection.exec_driver_sql("INSERT INTO child (parent, note) VALUES (1, 'x')")
    connection.commit()
    try:
        connection.exec_driver_sql("DELETE FROM parent")
        connection.commit()
    except sa.exc.IntegrityError as error:
        connection.rollback()
        return str(error.orig)
    return f"{connection.exec_driver_sql('SELECT count(*) FROM child').scalar()} children left"


seen = []
for place, columns in spellings.items():
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(f"CREATE TABLE child (id INTEGER PRIMARY KEY, note TEXT, {columns})")
        connection.commit()
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        pragma = connection.exec_driver_sql("PRAGMA foreign_key_list(child)").mappings().one()["on_delete"]
        reflected = sa.inspect(connection).get_foreign_keys("child")[0]["options"]
        before = delete_parent(connection)
        with Operations(MigrationContext.configure(connection)).batch_alter_table("child") as batch:
            batch.alter_column("note", nullable=False)
        connection.commit()
        after = delete_parent(connection)
    print(f"written {place}:\n    PRAGMA: ON DELETE {pragma}; SQLAlchemy reflects {reflected}")
    print(f"    DELETE of the parent before the migration: {before}; after it: {after}")
    seen.append((pragma, bool(reflected), before, after))
gone = "0 children left"
if seen != [("CASCADE", False, gone, "FOREIGN KEY constraint failed"), ("CASCADE", True, gone, gone)]:
    raise SystemExit("it is no longer so")
PY
