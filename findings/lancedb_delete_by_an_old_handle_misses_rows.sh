#!/usr/bin/env bash
# lancedb: delete() and update() by a handle that is behind miss rows which were there before the call, and succeed.
#
# Guess: a handle may read old data unless read_consistency_interval says otherwise, but a write acts on the table as it
#     is, or fails with a conflict: "this consistency only applies to read operations. Write operations are always
#     consistent", says the documentation.
# Truth: delete() finds its rows in what the handle has seen last. A row which another connection had committed before
#     the call is not found; the delete is committed on top of the other's version, says 0 rows, and the row stays. The
#     same call again deletes it, as the handle has come up to date by its own commit. update() is the same.
#     checkout_latest() first, or read_consistency_interval=timedelta(0), avoids it.
# Versions: lancedb 0.40.0, pyarrow 26.0.1.
# Source: lancedb.connect's docstring as quoted; append, delete and update of disjoint rows don't conflict in Lance.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check lancedb==0.40.0 pyarrow==26.0.1

venv/bin/python - <<'PY'
from datetime import timedelta

import lancedb
import pyarrow as pa

print(f"lancedb {lancedb.__version__}, pyarrow {pa.__version__}")


def content():
    rows = lancedb.connect("db").open_table("entry").to_arrow().to_pylist()
    return sorted((row["id"], row["text"]) for row in rows)


def attempt(name, change, fresh=False, **arguments):
    """What a change by an old handle says and leaves, made twice."""
    writer = lancedb.connect("db").create_table("entry", [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}], mode="overwrite")
    old = lancedb.connect("db", **arguments).open_table("entry")
    old.count_rows()
    writer.add([{"id": 3, "text": "secret"}])
    if fresh:
        old.checkout_latest()
    version = writer.version
    answers = []
    for _ in range(2):
        answer = change(old)
        answers.append((content()[2:], old.version > version))
        print(f"{name}: {answer}; of the added row is left: {answers[-1][0]}")
    return answers


gone = {"values": {"text": "gone"}}
seen = [
    attempt("delete", lambda table: table.delete("text = 'secret'")),
    attempt("update", lambda table: table.update(where="text = 'secret'", **gone)),
    attempt("delete, checkout_latest() before", lambda table: table.delete("text = 'secret'"), fresh=True),
    attempt("delete, interval 0", lambda table: table.delete("text = 'secret'"), read_consistency_interval=timedelta(0)),
]
kept = [(3, "secret")]
if [[left for left, _ in each] for each in seen] != [[kept, []], [kept, [(3, "gone")]], [[], []], [[], []]]:
    raise SystemExit("it is no longer so")
if not all(committed for each in seen[:2] for _, committed in each):
    raise SystemExit("it is no longer so")
PY
