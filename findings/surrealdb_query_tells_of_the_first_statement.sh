#!/usr/bin/env bash
# SurrealDB's Python client: query() with several statements tells of the first alone; that a later one failed is silent.
#
# Guess: query() of several statements returns a result for each, as the server sends them, and raises if one failed.
# Truth: it returns the result of the first statement, and raises only for an error of that one. A CREATE behind it that a
#     unique index refused is neither raised nor returned, and the statements around it are stored; so a script of
#     statements "went through" with rows missing. query_raw() shows what the server answered. Inside BEGIN and COMMIT the
#     error does reach the first result.
# Versions: surrealdb 2.0.0 (the Python client, with its embedded database), Python 3.11.
# Source: surrealdb, the query() of its connections, which checks and returns the first of the results.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check surrealdb==2.0.0

venv/bin/python - <<'PY'
import sys

from importlib.metadata import version

from surrealdb import Surreal

print(f"surrealdb {version('surrealdb')}, Python {sys.version.split()[0]}")


def query(database, text):
    try:
        return database.query(text)
    except Exception as error:
        return f"raised: {error}"


with Surreal("mem://") as database:
    database.use("test", "test")
    database.query("DEFINE INDEX names ON account FIELDS name UNIQUE")
    several = query(
        database,
        "CREATE account:1 SET name = 'a'; CREATE account:2 SET name = 'a'; CREATE account:3 SET name = 'c';",
    )
    stored = database.query("SELECT VALUE name FROM account")
    print(f"three CREATE, of which the second repeats a unique name: {several}")
    print(f"stored: {stored}")
    alone = query(database, "CREATE account:2 SET name = 'a'")
    print(f"that statement alone: {alone}")
    behind = query(database, "RETURN 'done'; CREATE account:2 SET name = 'a';")
    print(f"behind a RETURN: {behind!r}")
    raw = [one["status"] for one in database.query_raw("RETURN 'done'; CREATE account:2 SET name = 'a';")["result"]]
    print(f"the same by query_raw: {raw}")
    whole = query(database, "BEGIN; CREATE account:4 SET name = 'd'; CREATE account:5 SET name = 'd'; COMMIT;")
    print(f"in a transaction: {whole}")
    after = database.query("SELECT VALUE name FROM account")
silent = [one["name"] for one in several] == ["a"] and behind == "done"
if not silent or stored != ["a", "c"] or raw != ["OK", "ERR"] or after != stored:
    raise SystemExit("it is no longer so")
if not (alone.startswith("raised") and whole.startswith("raised")):
    raise SystemExit("it is no longer so")
PY
