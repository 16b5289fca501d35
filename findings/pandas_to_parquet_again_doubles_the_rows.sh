#!/usr/bin/env bash
# pandas: to_parquet() of the same frame to the same place replaces a file, but doubles the rows with partition_cols.
#
# Guess: to_parquet() overwrites what is there, with or without partition_cols, or says that there is something: a job that
#     is run again leaves the same data.
# Truth: with partition_cols, pyarrow writes files of new random names beside the old ones, in silence, and read_parquet()
#     reads all: each run adds all rows once more. Polars' partitioned write names its files by number, so the same frame
#     again replaces them, and a frame with fewer partitions leaves the others of the run before. pandas with
#     existing_data_behavior="delete_matching" replaces the partitions that the frame has, and leaves the others as well.
# Versions: pandas 3.1.1, pyarrow 26.0.1, polars 2.1.0.
# Source: pyarrow's documentation of parquet.write_to_dataset(): existing_data_behavior is "overwrite_or_ignore", with names
#     from a guid; pandas' documentation of to_parquet() has no word on it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1 polars==2.1.0

venv/bin/python - <<'PY'
import pathlib
import shutil

import pandas as pd
import polars as pl
import pyarrow as pa

print(f"pandas {pd.__version__}, pyarrow {pa.__version__}, polars {pl.__version__}")
first = pd.DataFrame({"day": ["mon", "tue"], "n": [1, 2]})
less = first[:1]
ways = {
    "pandas, a file": lambda frame: frame.to_parquet("data/file.parquet"),
    "pandas, partition_cols": lambda frame: frame.to_parquet("data", partition_cols=["day"]),
    "pandas, delete_matching": lambda frame: frame.to_parquet(
        "data", partition_cols=["day"], existing_data_behavior="delete_matching"
    ),
    "polars, partition_by": lambda frame: pl.from_pandas(frame).write_parquet("data", partition_by="day"),
}
seen = {}
for name, write in ways.items():
    pathlib.Path("data").mkdir()
    counts = []
    for frame in (first, first, less):
        write(frame)
        counts.append(len(pl.read_parquet("data") if "polars" in name else pd.read_parquet("data")))
    seen[name] = counts
    print(f"{name}: rows after 2 are written, the same 2 again, and 1 of them: {counts}")
    shutil.rmtree("data")
if list(seen.values()) != [[2, 2, 1], [2, 4, 5], [2, 2, 2], [2, 2, 2]]:
    raise SystemExit("it is no longer so")
PY
