#!/usr/bin/env bash
# pandas: read_sql() changes big integers of a column that has a NULL anywhere, and joins and updates by them hit other rows.
#
# Guess: a BIGINT is read as it is, as int64, or as objects where the column has NULLs too.
# Truth: one NULL makes the column float64, and above 2**53, where ids that are made of a time and a shard are, the numbers
#     are rounded, in silence: a foreign key points at another row or at none, and to_sql() writes that back. Without a NULL
#     the same column is exact, so of chunksize's chunks one is exact and the next is not. coerce_float=False makes no
#     difference; dtype_backend="numpy_nullable" or "pyarrow" is exact, and so is Polars.
# Versions: pandas 3.1.1, polars 2.1.0, on SQLite.
# Source: pandas/io/sql.py, _wrap_result(); the documentation of read_sql() says of coerce_float that it converts "values of
#     non-string, non-numeric objects (like decimal.Decimal)", and has no word on integers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1 polars==2.1.0

venv/bin/python - <<'PY'
import sqlite3

import pandas as pd
import polars as pl

print(f"pandas {pd.__version__}, polars {pl.__version__}, SQLite {sqlite3.sqlite_version}")
FIRST = 2**60 + 1
connection = sqlite3.connect(":memory:")
connection.execute("CREATE TABLE node (id INTEGER PRIMARY KEY, parent INTEGER)")
rows = [(FIRST - 1, FIRST), (FIRST, FIRST), (FIRST + 1, None)]
connection.executemany("INSERT INTO node VALUES (?, ?)", rows)
connection.commit()
QUERY = "SELECT id, parent FROM node ORDER BY id"


def off(parents):
    """How far off the numbers are from those that are stored."""
    return [None if pd.isna(each) else int(each) - FIRST for each in parents]


chunk = next(pd.read_sql(QUERY, connection, chunksize=2))
read = pd.read_sql(QUERY, connection)
seen = {
    "read_sql()": off(read["parent"]),
    "read_sql(), the first chunk": off(chunk["parent"]),
    "coerce_float=False": off(pd.read_sql(QUERY, connection, coerce_float=False)["parent"]),
    "dtype_backend=numpy_nullable": off(pd.read_sql(QUERY, connection, dtype_backend="numpy_nullable")["parent"]),
    "dtype_backend=pyarrow": off(pd.read_sql(QUERY, connection, dtype_backend="pyarrow")["parent"]),
    "polars": off(pl.read_database(QUERY, connection)["parent"].to_list()),
}
for name, told in seen.items():
    print(f"{name}: the parents are off by {told}")
read.to_sql("copy", connection, index=False)
parents = connection.execute(
    "SELECT node.id - ?, parent.id - ? FROM copy AS node JOIN node AS parent ON parent.id = node.parent", (FIRST, FIRST)
).fetchall()
print(f"after to_sql(), rows with their parents: {parents}; stored were {[(-1, 0), (0, 0)]}")
rounded, exact = [-1, -1, None], [0, 0, None]
if list(seen.values()) != [rounded, [0, 0], rounded, exact, exact, exact] or parents != [(-1, -1), (0, -1)]:
    raise SystemExit("it is no longer so")
PY
