#!/usr/bin/env bash
# SQLite: a write that is interrupted (interrupt(), a progress handler as a time limit) takes its whole transaction with it.
#
# Guess: a statement that is interrupted is undone, as one that fails, and the transaction goes on: what was written before
#     is committed or rolled back with the rest, or at least the COMMIT fails.
# Truth: the whole transaction is rolled back at once, savepoints and all. What follows begins anew or commits by itself, so
#     a program that catches the error and goes on commits the second half without the first, in silence: sqlite3's
#     commit() succeeds, and so does SQLAlchemy's. A SELECT that is interrupted, and a write that fails for another reason
#     (a constraint), leave the transaction.
# Versions: sqlite3 of the interpreter (SQLite 3.40.1 with CPython 3.11.7), SQLAlchemy 2.1.9.
# Source: sqlite.org/c3ref/interrupt.html has it in a sentence; Python's documentation of Connection.interrupt() and
#     set_progress_handler() says only that the query raises OperationalError.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check SQLAlchemy==2.1.9

venv/bin/python - <<'PY'
import contextlib
import sqlite3

import sqlalchemy as sa

print(f"SQLite {sqlite3.sqlite_version}, SQLAlchemy {sa.__version__}")
NUMBERS = "WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x WHERE n < 1000000) SELECT n FROM x"


@contextlib.contextmanager
def limit(connection):
    """No statement may take more than 1000 instructions of SQLite's machine."""
    connection.set_progress_handler(lambda: 1, 1000)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


def stored(name):
    with contextlib.closing(sqlite3.connect(name)) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM t")]


def with_sqlite3(name, statement):
    with contextlib.closing(sqlite3.connect(name)) as connection:
        connection.execute("CREATE TABLE t (n UNIQUE)")
        connection.execute("INSERT INTO t VALUES ('before')")
        with limit(connection), contextlib.suppress(sqlite3.OperationalError, sqlite3.IntegrityError):
            connection.execute(statement).fetchall()
            raise SystemExit("the statement has ended")
        connection.execute("INSERT INTO t VALUES ('after')")
        connection.commit()
    return stored(name)


def with_sqlalchemy(name):
    engine = sa.create_engine(f"sqlite:///{name}")

    @sa.event.listens_for(engine, "connect")
    def no_legacy_transactions(connection, _):
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")

    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n)")
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES ('before')")
        with contextlib.suppress(sa.exc.OperationalError), connection.begin_nested():
            with limit(connection.connection.dbapi_connection):
                connection.exec_driver_sql(f"INSERT INTO t {NUMBERS}")
                raise SystemExit("the statement has ended")
        connection.exec_driver_sql("INSERT INTO t VALUES ('after')")
    engine.dispose()
    return stored(name)


seen = {
    "an interrupted INSERT": with_sqlite3("insert.db", f"INSERT INTO t {NUMBERS}"),
    "an interrupted SELECT": with_sqlite3("select.db", NUMBERS),
    "an INSERT that breaks a constraint": with_sqlite3("unique.db", "INSERT INTO t VALUES ('before')"),
    "SQLAlchemy, an interrupted INSERT in begin_nested()": with_sqlalchemy("sqlalchemy.db"),
}
for name, rows in seen.items():
    print(f"{name}: committed are {rows}")
if list(seen.values()) != [["after"], ["before", "after"], ["before", "after"], ["after"]]:
    raise SystemExit("it is no longer so")
PY
