#!/usr/bin/env bash
# ConnectorX, Polars and Dask: a read in partitions loses the rows whose partition column is NULL, or makes zeros of them.
#
# Guess: partition_on (or Dask's index_col) only says how the query is divided to be read in parallel; the rows are all
#     there, as with Spark's JDBC, whose first partition has the NULLs; or a column with NULLs is refused.
# Truth: each partition is a range, and NULL is in none. Arrow, polars.read_database_uri() and Dask's read_sql_table() leave
#     these rows out, in silence. ConnectorX' pandas frame has the right number of rows: it was made for COUNT(*), and what
#     is not filled is zeros: each row with a NULL comes as one whose columns are all 0, the primary key too. A check of the
#     count is green.
# Versions: connectorx 0.4.6, polars 2.1.0, dask 2026.8.0, pandas 3.1.1, pyarrow 26.0.1, on SQLite.
# Source: connectorx.partition_sql() shows the ranges; dask/dataframe/io/sql.py; the documentation of ConnectorX says of the
#     partition column that it must be numerical.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check connectorx==0.4.6 polars==2.1.0 'dask[dataframe]==2026.8.0' pandas==3.1.1 \
    pyarrow==26.0.1 SQLAlchemy==2.1.9

venv/bin/python - <<'PY'
import importlib.metadata
import pathlib
import sqlite3

import connectorx as cx
import dask.dataframe as dd
import polars as pl

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("connectorx", "polars", "dask", "pandas")))
path = pathlib.Path("data.db").absolute()
with sqlite3.connect(path) as connection:
    connection.execute("CREATE TABLE sale (id INTEGER PRIMARY KEY, region INTEGER, amount INTEGER)")
    connection.executemany("INSERT INTO sale VALUES (?, ?, 100)", [(n, n % 4 or None) for n in range(1, 101)])
QUERY, URI, PARTITIONS = "SELECT * FROM sale", f"sqlite://{path}", {"partition_on": "region", "partition_num": 3}


def told(ids, amounts):
    """Rows, rows with an id that is in the table, and the sum of the amounts."""
    ids = [int(each) for each in ids]
    return len(ids), sum(1 <= each <= 100 for each in ids), int(sum(amounts))


whole = cx.read_sql(URI, QUERY)
frame = cx.read_sql(URI, QUERY, **PARTITIONS)
arrow = cx.read_sql(URI, QUERY, return_type="arrow", **PARTITIONS)
polars = pl.read_database_uri(QUERY, URI, **PARTITIONS)
dask = dd.read_sql_table("sale", f"sqlite:///{path}", index_col="region", npartitions=3).compute()
seen = {
    "connectorx, pandas, whole": told(whole["id"], whole["amount"]),
    "connectorx, pandas, partition_on": told(frame["id"], frame["amount"]),
    "connectorx, Arrow, partition_on": told(arrow["id"].to_pylist(), arrow["amount"].to_pylist()),
    "polars, partition_on": told(polars["id"], polars["amount"]),
    "dask, index_col": told(dask["id"], dask["amount"]),
}
for name, (rows, real, total) in seen.items():
    print(f"{name}: {rows} rows, {real} of them are in the table, the sum is {total}")
print(f"a row that is not: {frame[~frame['id'].between(1, 100)].iloc[0].to_dict()}")
if list(seen.values()) != [(100, 100, 10000), (100, 75, 7500)] + [(75, 75, 7500)] * 3:
    raise SystemExit("it is no longer so")
PY
