#!/usr/bin/env bash
# On DuckDB, ibis's insert(overwrite=True) that fails leaves the table empty; on SQLite the old rows stay.
#
# Guess: replacing the rows of a table is one act: when the new ones are refused (a CHECK, a type), the old ones are
#     still there, whatever the backend.
# Truth: on DuckDB the table is emptied by a statement of its own, under autocommit, and then the INSERT fails: nothing is
#     left. The same call on SQLite is one transaction and keeps the old rows. Between raw_sql("BEGIN") and ROLLBACK
#     DuckDB keeps them as well. create_table(overwrite=True) keeps the old table on both.
# Versions: ibis-framework 12.0.0, DuckDB 1.5.6.
# Source: ibis/backends/sql/__init__.py, SQLBackend.insert: truncate_table(), then INSERT; SQLite's backend overrides it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check 'ibis-framework[duckdb,sqlite]==12.0.0' duckdb==1.5.6

venv/bin/python - <<'PY'
import duckdb
import ibis
import pandas as pd

print(f"ibis {ibis.__version__}, DuckDB {duckdb.__version__}")
refused = pd.DataFrame({"a": [2, 3], "b": [2, 300]})
seen = {}


def rows(backend):
    return backend.table("t").order_by("a").to_pandas().values.tolist()


def overwritten(backend):
    try:
        backend.insert("t", refused, overwrite=True)
    except Exception as error:
        return f"{type(error).__name__}"
    return "no error"


for name, backend in {
    "DuckDB": ibis.duckdb.connect("a.duckdb"),
    "SQLite": ibis.sqlite.connect("a.db"),
    "DuckDB, within BEGIN": ibis.duckdb.connect("b.duckdb"),
}.items():
    backend.raw_sql("CREATE TABLE t (a INTEGER, b INTEGER CHECK (b < 100))")
    backend.insert("t", pd.DataFrame({"a": [1], "b": [1]}))
    if "BEGIN" in name:
        backend.raw_sql("BEGIN")
    told = overwritten(backend)
    if "BEGIN" in name:
        backend.raw_sql("ROLLBACK")
    seen[name] = rows(backend)
    print(f"{name}: {told}; rows: {seen[name]}")
if seen != {"DuckDB": [], "SQLite": [[1, 1]], "DuckDB, within BEGIN": [[1, 1]]}:
    raise SystemExit("It is no longer so.")
PY
