#!/usr/bin/env bash
# deltalake: after an overwrite the table may hold rows besides those written: what was appended in between stays.
#
# Guess: mode="overwrite" makes the table what was written; if another has committed since the handle was loaded, it
#     either replaces that too, or fails with a commit conflict, as an update or a delete of the same file does.
# Truth: it removes the files which it knew of, adds its own, and is committed after the other's append without
#     a conflict, as an overwrite reads nothing. The appended row is left beside the new content: neither of the two
#     orders would have given that. (Two overwrites do conflict, and so does one with a predicate that the appended row
#     meets.) Load the table anew right before, and let one writer do it.
# Versions: deltalake 1.6.6, pyarrow 26.0.1.
# Source: delta-rs, crates/core/src/kernel/transaction/conflict_checker.rs: files added by others conflict only with
#     what the transaction has read.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check deltalake==1.6.6 pyarrow==26.0.1

venv/bin/python - <<'PY'
import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError


def rows(*ids):
    return pa.table({"id": list(ids), "text": ["x"] * len(ids)})


def content():
    files = DeltaTable("t").file_uris()
    return sorted(id for file in files for id in pq.read_table(file, use_threads=False)["id"].to_pylist())


print(f"deltalake {deltalake.__version__}, pyarrow {pa.__version__}")
write_deltalake("t", rows(1, 2))
early = DeltaTable("t")
write_deltalake("t", rows(5), mode="append")
before = content()
write_deltalake(early, rows(100), mode="overwrite")
kept = content()
print(f"rows before: {before}; after an overwrite with [100] by a handle from before the append: {kept}")
print(f"the last two operations: {[entry['operation'] for entry in DeltaTable('t').history(2)]}")

write_deltalake("t", rows(1, 2), mode="overwrite")
early = DeltaTable("t")
write_deltalake("t", rows(100), mode="overwrite")
try:
    write_deltalake(early, rows(200), mode="overwrite")
    two = "no error"
except CommitFailedError as error:
    two = f"CommitFailedError: {error}".splitlines()[0]
print(f"two overwrites: {two}; rows: {content()}")

write_deltalake("t", rows(1, 2), mode="overwrite")
early = DeltaTable("t")
write_deltalake("t", rows(1), mode="append")
try:
    write_deltalake(early, rows(1), mode="overwrite", predicate="id = 1")
    part = "no error"
except CommitFailedError as error:
    part = f"CommitFailedError: {error}".splitlines()[0]
print(f"an append, then an overwrite with a predicate: {part}; rows: {content()}")
if before != [1, 2, 5] or kept != [5, 100] or "no error" in (two, part):
    raise SystemExit("it is no longer so")
PY
