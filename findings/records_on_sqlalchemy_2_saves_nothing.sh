#!/usr/bin/env bash
# records on SQLAlchemy 2: bulk_query(), and a query() on a connection, raise nothing and save nothing.
#
# Guess: what Database.bulk_query() or a connection's query() has sent without an error is in the database, as it was
#     when the library was written; or the library refuses an SQLAlchemy with which it can't commit.
# Truth: records relies on the autocommit that SQLAlchemy 2 took out. Its release of 2024 asks for SQLAlchemy 2 and
#     commits nowhere but in transaction(), so each INSERT is rolled back as the connection returns to the pool. On
#     SQLite tables are made meanwhile, since its driver opens no transaction for them, which looks as if all worked.
# Versions: records 0.6.0, SQLAlchemy 2.0.58 and 2.1.9; SQLite.
# Source: records.py, Connection.query and bulk_query, where no commit() is; SQLAlchemy's "What's New in 2.0":
#     library-level autocommit is removed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check records==0.6.0 SQLAlchemy==2.1.9

cat >seen.py <<'PY'
import importlib.metadata
import sqlite3
import warnings

import sqlalchemy

warnings.simplefilter("ignore")
import records

print(f"records {importlib.metadata.version('records')}, SQLAlchemy {sqlalchemy.__version__}")
sqlite3.connect("a.db").execute("DROP TABLE IF EXISTS t").close()
db = records.Database("sqlite:///a.db")
db.query("CREATE TABLE t (a INTEGER)")
db.bulk_query("INSERT INTO t VALUES (:a)", [{"a": 2}, {"a": 3}])
with db.get_connection() as connection:
    connection.query("INSERT INTO t VALUES (4)")
with db.transaction() as connection:
    connection.query("INSERT INTO t VALUES (5)")
saved = [a for (a,) in sqlite3.connect("a.db").execute("SELECT a FROM t")]
print(f"saved of 2 to 5: {saved}")
if saved != [5]:
    raise SystemExit("It is no longer so.")
PY
venv/bin/python seen.py
venv/bin/pip install -q --disable-pip-version-check SQLAlchemy==2.0.58
venv/bin/python seen.py
