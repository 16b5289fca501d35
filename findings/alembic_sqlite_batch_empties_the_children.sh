#!/usr/bin/env bash
# Alembic on SQLite: a batch migration of a table deletes the rows that refer to it with ON DELETE CASCADE.
#
# Guess: batch_alter_table() makes the table anew and keeps all rows; where foreign keys are enforced it leaves them
#     alone, or fails.
# Truth: it drops the old table, and in SQLite a DROP TABLE is a DELETE of all rows first, foreign keys and their actions
#     included. So an application whose connect event sets PRAGMA foreign_keys = ON, and which migrates with the same
#     engine, loses every child row (or its reference, with SET NULL) by dropping a column of the parent, and the
#     migration succeeds. peewee's migrate does the same. The pragma has to be OFF before the transaction begins, inside
#     of one it does nothing; sqlite-utils' transform() does so by itself, and refuses inside a transaction.
# Versions: Alembic 1.20.1, SQLAlchemy 2.1.9, peewee 4.5.3, sqlite-utils 4.2.1, SQLite of the Python.
# Source: SQLite's documentation of foreign keys, on DROP TABLE. Alembic's on batch migrations says that the pragma has to be
#     disabled, since the drop raises an error otherwise: with CASCADE and SET NULL it does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check alembic==1.20.1 'SQLAlchemy==2.1.9' peewee==4.5.3 sqlite-utils==4.2.1

venv/bin/python - <<'PY'
import sqlite3

import alembic
import peewee
import sqlalchemy as sa
import sqlite_utils
from alembic.migration import MigrationContext
from alembic.operations import Operations
from playhouse.migrate import SqliteMigrator, migrate

print(f"Alembic {alembic.__version__}, peewee {peewee.__version__}, SQLite {sqlite3.sqlite_version}")


def tables(name):
    with sqlite3.connect(name) as connection:
        connection.executescript(
            """
            CREATE TABLE parent (id INTEGER PRIMARY KEY, a TEXT, b TEXT);
            CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id) ON DELETE CASCADE);
            INSERT INTO parent VALUES (1, 'x', 'y'), (2, 'x', 'y');
            INSERT INTO child VALUES (1, 1), (2, 1), (3, 2);
            """
        )
    connection.close()
    return name


def counted(name):
    connection = sqlite3.connect(name)
    seen = tuple(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("parent", "child"))
    connection.close()
    return seen


engine = sa.create_engine(f"sqlite:///{tables('alembic.db')}")
sa.event.listen(engine, "connect", lambda raw, record: raw.execute("PRAGMA foreign_keys = ON"))
with engine.begin() as connection:
    operations = Operations(MigrationContext.configure(connection))
    with operations.batch_alter_table("parent") as batch:
        batch.drop_column("b")
engine.dispose()

database = peewee.SqliteDatabase(tables("peewee.db"), pragmas={"foreign_keys": 1})
with database.atomic():
    migrate(SqliteMigrator(database).add_not_null("parent", "b"))
database.close()

raw = sqlite3.connect(tables("utils.db"))
raw.execute("PRAGMA foreign_keys = ON")
sqlite_utils.Database(raw)["parent"].transform(drop={"b"})
raw.close()

seen = {name: counted(f"{name}.db") for name in ("alembic", "peewee", "utils")}
print("rows of parent and child, 2 and 3 before the migration of the parent:", seen)
if seen != {"alembic": (2, 0), "peewee": (2, 0), "utils": (2, 3)}:
    raise SystemExit("it is no longer so")
PY
