#!/usr/bin/env bash
# ADBC's driver for SQLite executes the first of several statements in a string, and drops the others without an error.
#
# Guess: execute("INSERT ...; INSERT ...") either executes both, or is refused, as sqlite3 refuses it ("You can only
#     execute one statement at a time").
# Truth: what stands behind the first semicolon is neither executed nor looked at: even a text that is no SQL at all is
#     no error there. A script with two INSERTs, or "PRAGMA foreign_keys = on; DELETE ...", does half of its work and
#     succeeds.
# Versions: adbc-driver-sqlite 1.13.0, adbc-driver-manager 1.13.0.
# Source: SQLite's sqlite3_prepare_v2 compiles the first statement and points at the rest, which the driver doesn't look
#     at.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check adbc-driver-sqlite==1.13.0 adbc-driver-manager==1.13.0 pyarrow==26.0.1

venv/bin/python - <<'PY'
import importlib.metadata
import sqlite3

import adbc_driver_sqlite.dbapi

print(f"adbc-driver-sqlite {importlib.metadata.version('adbc-driver-sqlite')}")


def attempt(connection, statement):
    cursor = connection.cursor()
    cursor.execute("DELETE FROM entry")
    try:
        cursor.execute(statement)
        answer = "no error"
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    cursor.execute("SELECT count(*) FROM entry")
    count = cursor.fetchone()[0]
    cursor.close()
    return answer, count


seen = {}
for name, module in {"sqlite3": sqlite3, "ADBC": adbc_driver_sqlite.dbapi}.items():
    connection = module.connect(":memory:")
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE entry (id int)")
    cursor.close()
    seen[name] = [
        attempt(connection, "INSERT INTO entry VALUES (1); INSERT INTO entry VALUES (2)"),
        attempt(connection, "INSERT INTO entry VALUES (1); this is not SQL"),
    ]
    connection.close()
    print(f"{name}: two INSERTs: {seen[name][0]}; an INSERT and something that is not SQL: {seen[name][1]}")
refused = all("one statement" in answer and count == 0 for answer, count in seen["sqlite3"])
if not refused or seen["ADBC"] != [("no error", 1)] * 2:
    raise SystemExit("it is no longer so")
PY
