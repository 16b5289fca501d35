#!/usr/bin/env bash
# pandas, pyarrow and DuckDB: of a directory of Parquet files, a column that only later files have is left out, in silence.
#
# Guess: files of one dataset whose columns differ are read with all columns, NULL where a file has none, or not at all.
# Truth: the first file by name gives the schema. A column that came later, in day two's file, is not read as long as day
#     one's file is there, and once the data is written back it is lost. Polars raises SchemaError; DuckDB has
#     union_by_name=true. Records are alike: pyarrow's Table.from_pylist() takes the first one's keys, polars.from_dicts()
#     those of the first hundred, and what comes later is dropped (with ten records, as in a test, it is there).
# Versions: pandas 3.1.1, pyarrow 26.0.1, DuckDB 2.0.1, polars 2.1.0.
# Source: pyarrow's documentation of dataset(): the schema is inspected from the first file; pandas' documentation of
#     read_parquet() has no word on it. DuckDB's, "Combining Schemas". polars.from_dicts(): infer_schema_length.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1 duckdb==2.0.1 polars==2.1.0
mkdir data

venv/bin/python - <<'PY'
import importlib.metadata

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pandas", "pyarrow", "duckdb", "polars")))
pd.DataFrame({"id": [1]}).to_parquet("data/day1.parquet")
pd.DataFrame({"id": [2], "paid": [100]}).to_parquet("data/day2.parquet")


def attempt(read):
    try:
        return sorted(read())
    except pl.exceptions.SchemaError as error:
        return type(error).__name__


records = [{"id": n} for n in range(100)] + [{"id": 100, "paid": 100}]
seen = {
    "pandas": attempt(lambda: pd.read_parquet("data").columns),
    "pyarrow": attempt(lambda: pq.read_table("data").column_names),
    "duckdb": attempt(lambda: duckdb.sql("FROM 'data/*.parquet'").columns),
    "duckdb, union_by_name": attempt(lambda: duckdb.sql("FROM read_parquet('data/*.parquet', union_by_name=true)").columns),
    "polars": attempt(lambda: pl.read_parquet("data").columns),
    "pyarrow, records": attempt(lambda: pa.Table.from_pylist(records).column_names),
    "polars, records": attempt(lambda: pl.from_dicts(records).columns),
    "polars, the last ten records": attempt(lambda: pl.from_dicts(records[-10:]).columns),
}
for name, columns in seen.items():
    print(f"{name}: {columns}")
first, both = ["id"], ["id", "paid"]
if list(seen.values()) != [first] * 3 + [both, "SchemaError", ["id"], ["id"], ["id", "paid"]]:
    raise SystemExit("it is no longer so")
PY
