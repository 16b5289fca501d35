#!/usr/bin/env bash
# DuckDB: a process that copies (or reads) its own open database file drops the file's lock, and another process may write.
#
# Guess: as long as a process has a database open for writing, another process that opens it gets "Could not set lock on
#     file"; a copy of the file, for a backup or a checksum, changes nothing about that.
# Truth: the lock is a POSIX lock, which the kernel drops as soon as the process closes any descriptor of that file, the one
#     of shutil.copy() as well. From then on a second process opens the database for writing without an error. Each of the
#     two has its own picture of it: the row that the second has committed is not in the first, and is gone for good after
#     the first one's next checkpoint, with success on both sides.
# Versions: DuckDB 2.0.1, on Linux.
# Source: fcntl(2), "Advisory record locking"; DuckDB's documentation, "Concurrency", says that one process can read and
#     write, and has no word on reading the file beside it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check duckdb==2.0.1

venv/bin/python - <<'PY'
import shutil
import subprocess
import sys

import duckdb

print(f"DuckDB {duckdb.__version__}")
OTHER = """
import duckdb
try:
    with duckdb.connect("data.duckdb") as connection:
        connection.execute("INSERT INTO t VALUES ('of the other process')")
    print("its INSERT is committed")
except duckdb.IOException as error:
    print(str(error).split(" on file")[0])
"""


def another_process():
    return subprocess.run([sys.executable, "-c", OTHER], capture_output=True, text=True, check=True).stdout.strip()


def rows(connection):
    return [n for (n,) in connection.execute("FROM t").fetchall()]


with duckdb.connect("data.duckdb") as connection:
    connection.execute("CREATE TABLE t (n VARCHAR)")
    connection.execute("CHECKPOINT")
    before = another_process()
    shutil.copy("data.duckdb", "backup.duckdb")
    after = another_process()
    connection.execute("INSERT INTO t VALUES ('of the first process')")
    seen = rows(connection)
with duckdb.connect("data.duckdb") as connection:
    stored = rows(connection)
print(f"another process while the database is open: {before}")
print(f"another process after the file was copied: {after}")
print(f"rows in the first process: {seen}, in the file afterwards: {stored}")
if (before, after, seen, stored) != (
    "IO Error: Could not set lock",
    "its INSERT is committed",
    ["of the first process"],
    ["of the first process"],
):
    raise SystemExit("it is no longer so")
PY
