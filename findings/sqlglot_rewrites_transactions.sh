#!/usr/bin/env bash
# sqlglot takes SAVEPOINT for a column with an alias, and turns ROLLBACK AND CHAIN into ROLLBACK, without a word.
#
# Guess: what sqlglot does not know it reads as an opaque Command, with a warning, and writes as it was; read and
#     written in the same dialect, a statement keeps its meaning.
# Truth: `SAVEPOINT a` parses as the column SAVEPOINT named a and comes out as `SAVEPOINT AS a`; RELEASE a and SQLite's
#     END TRANSACTION alike: no error, no warning, and no database takes the result. ROLLBACK AND CHAIN loses its chain
#     (COMMIT AND CHAIN keeps it), so the statements after it are committed one by one. INSERT IGNORE (MySQL) and
#     INSERT OR IGNORE (SQLite) go to PostgreSQL as they are, although that has an equal. BEGIN READ ONLY is a
#     ParseError in the PostgreSQL dialect and passes in MySQL's. A filter or proxy that passes statements through it
#     breaks these.
# Versions: sqlglot 30.30.0, the sqlite3 of Python.
# Source: sqlglot/parser.py: _parse_statement falls back to an expression with an alias; SAVEPOINT is no token of it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check sqlglot==30.30.0

venv/bin/python - <<'PY'
import logging
import sqlite3

import sqlglot
from sqlglot import exp

warnings = []
handler = logging.Handler()
handler.emit = lambda record: warnings.append(record.getMessage())
logging.getLogger("sqlglot").addHandler(handler)
logging.getLogger("sqlglot").propagate = False
print(f"sqlglot {sqlglot.__version__}, SQLite {sqlite3.sqlite_version}")


def through(sql, read, write):
    warnings.clear()
    try:
        out = sqlglot.transpile(sql, read=read, write=write)[0]
    except sqlglot.ParseError:
        out = "ParseError"
    print(f"{read} to {write}: {sql}  ->  {out}{'  (with a warning)' if warnings else ''}")
    return out, bool(warnings)


def sqlite(*statements):
    try:
        with sqlite3.connect(":memory:", isolation_level=None) as connection:
            for sql in statements:
                connection.execute(sql)
    except sqlite3.OperationalError as error:
        return str(error)
    return "taken"


seen = [
    through("SAVEPOINT a", "postgres", "postgres"),
    through("RELEASE a", "sqlite", "sqlite"),
    through("END TRANSACTION", "sqlite", "sqlite"),
    through("COMMIT AND CHAIN", "postgres", "postgres"),
    through("ROLLBACK AND CHAIN", "postgres", "postgres"),
    through("INSERT IGNORE INTO t VALUES (1)", "mysql", "postgres"),
    through("INSERT OR IGNORE INTO t VALUES (1)", "sqlite", "postgres"),
    through("BEGIN READ ONLY", "postgres", "postgres"),
    through("BEGIN READ ONLY", "mysql", "mysql"),
]
tree = type(sqlglot.parse_one("SAVEPOINT a", read="postgres"))
print(f"SAVEPOINT a is read as {tree.__name__}")
print(f"SQLite, SAVEPOINT a: {sqlite('SAVEPOINT a')}; what sqlglot made of it: {sqlite(seen[0][0])}")
expected = [
    "SAVEPOINT AS a", "RELEASE AS a", "END AS TRANSACTION", "COMMIT AND CHAIN", "ROLLBACK",
    "INSERT IGNORE INTO t VALUES (1)", "INSERT OR IGNORE INTO t VALUES (1)", "ParseError", "BEGIN READ ONLY",
]  # fmt: skip
if seen != [(sql, False) for sql in expected] or tree is not exp.Alias or "syntax error" not in sqlite(seen[0][0]):
    raise SystemExit("it is no longer so")
PY
