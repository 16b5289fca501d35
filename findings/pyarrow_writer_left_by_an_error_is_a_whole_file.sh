#!/usr/bin/env bash
# pyarrow: a ParquetWriter whose `with` block raises leaves a valid file that holds a part of the rows.
#
# Guess: an error in the block leaves a file without a footer, which no reader takes for data (or no file).
# Truth: __exit__ closes the writer whether the block raised or not, and close() writes the footer. What is left cannot be
#     told from a finished file: readers, and a dataset of the directory, give the rows that came before the error. So does
#     IPC's file format. A job that failed half-way and is not run again has published half of its rows. Write under
#     another name and rename after the block.
# Versions: pyarrow 26.0.1.
# Source: pyarrow/parquet/core.py, ParquetWriter.__exit__ calls close() and returns False; pyarrow/ipc.pxi alike.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check pyarrow==26.0.1

venv/bin/python - <<'PY'
import contextlib

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

print(f"pyarrow {pa.__version__}")
schema = pa.schema([("id", pa.int64())])


def parts():
    yield pa.table({"id": [1, 2]}, schema=schema)
    yield pa.table({"id": [3, 4]}, schema=schema)
    raise ConnectionError("the source is gone")


with contextlib.suppress(ConnectionError), pq.ParquetWriter("a.parquet", schema) as writer:
    for part in parts():
        writer.write_table(part)
with contextlib.suppress(ConnectionError), pa.OSFile("a.arrow", "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
    for part in parts():
        writer.write_table(part)

file = pq.ParquetFile("a.parquet")
seen = {
    "Parquet": file.read()["id"].to_pylist(),
    "a dataset of it": ds.dataset("a.parquet").to_table()["id"].to_pylist(),
    "IPC": pa.ipc.open_file("a.arrow").read_all()["id"].to_pylist(),
}
print(f"after an error before the third part; rows in the footer: {file.metadata.num_rows}; read: {seen}")
if file.metadata.num_rows != 4 or any(rows != [1, 2, 3, 4] for rows in seen.values()):
    raise SystemExit("it is no longer so")
PY
