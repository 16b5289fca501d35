#!/usr/bin/env bash
# A Session whose COMMIT the database refuses does not roll back, and says that it is in 'prepared' state.
#
# Guess: as after a failed flush: the transaction has been rolled back in the database, and the Session says so, with
#     the cause, until rollback() is called. 'prepared' is a word of two-phase commit, which is not used here.
# Truth: after an error of COMMIT itself (a deferred foreign key) nothing is rolled back. The Session refuses SQL with
#     "This session is in 'prepared' state", which hides the cause, and on SQLite the transaction is still open in the
#     database, with its lock: every other writer waits until rollback() or close(). (Session.begin() as a context
#     manager calls it.) A Session that is kept, as by a scoped_session, locks the others out.
# Versions: SQLAlchemy 2.1.9 (2.0.58 alike), the sqlite3 of Python.
# Source: sqlalchemy/orm/session.py, SessionTransaction.commit and _prepare_impl: every commit passes by that state,
#     and only the flush before it is guarded by a rollback.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check 'SQLAlchemy==2.1.9'

venv/bin/python - <<'PY'
import sqlite3

import sqlalchemy as sa
from sqlalchemy.orm import Session

print(f"SQLAlchemy {sa.__version__}, SQLite {sqlite3.sqlite_version}")
engine = sa.create_engine("sqlite:///a.db")
sa.event.listen(engine, "connect", lambda raw, record: raw.execute("PRAGMA foreign_keys = ON"))
with engine.begin() as connection:
    connection.exec_driver_sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    connection.exec_driver_sql(
        "CREATE TABLE child (id INTEGER PRIMARY KEY, parent INT REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
    )
metadata = sa.MetaData()
metadata.reflect(engine)
engine.dispose()


class Child:
    pass


sa.orm.registry().map_imperatively(Child, metadata.tables["child"])


def attempt(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:85]}"
    return "done"


def lock():
    other = sqlite3.connect("a.db", timeout=0)
    try:
        other.execute("BEGIN IMMEDIATE")
    finally:
        other.close()


seen = []
for what in ("flush", "commit"):
    session = Session(engine)
    child = Child()
    child.id, child.parent = 1, 99
    if what == "flush":
        child.id = object()  # no type of the driver
    session.add(child)
    print(f"{what} fails: {attempt(session.commit)}")
    next_sql = attempt(session.execute, sa.text("SELECT 1"))
    other = attempt(lock)
    print(f"    next statement: {next_sql}\n    another writer: {other}")
    session.rollback()
    print(f"    another writer after rollback(): {attempt(lock)}")
    seen.append((next_sql.split(":")[0], "'prepared' state" in next_sql, other.split(":")[0]))
if seen != [("PendingRollbackError", False, "done"), ("InvalidRequestError", True, "OperationalError")]:
    raise SystemExit("it is no longer so")
PY
