#!/usr/bin/env bash
# pyiceberg: two upserts of a new key at the same time both succeed, and the table has the key twice.
#
# Guess: an upsert is serializable, as the isolation level of updates is set to: the one that comes second finds the
#     other's row when its commit is tried again, or fails with ValidationException, as overwrite() and delete() do.
# Truth: what is to be inserted is found out once, from the snapshot that was loaded. When the commit finds that another
#     was first, it is tried again with the same files; if nothing was to be updated they are a plain append, which
#     conflicts with nothing. From then on each upsert of that key fails or goes on with two rows. Before 0.12, which
#     tries commits again, the second one failed with CommitFailedException.
# Versions: pyiceberg 0.12.0, pyarrow 26.0.1.
# Source: pyiceberg/table/__init__.py, Transaction.upsert ends in append(); pull request 3320 ("Add commit retry and
#     concurrency validation for writes") validates deletes and overwrites. upsert's documentation has no word on
#     others.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check 'pyiceberg[sql-sqlite,pyarrow]==0.12.0' pyarrow==26.0.1

venv/bin/python - <<'PY'
import importlib.metadata
import logging
import os
import warnings

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import ValidationException

logging.getLogger("pyiceberg").setLevel(logging.ERROR)  # it tells of the retry
warnings.filterwarnings("ignore", message="Delete operation did not match")
print(f"pyiceberg {importlib.metadata.version('pyiceberg')}, pyarrow {pa.__version__}")
os.mkdir("warehouse")


def catalog():
    return SqlCatalog("one", uri="sqlite:///catalog.db", warehouse=f"file://{os.getcwd()}/warehouse")


def rows(*pairs):
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("text", pa.string())])
    return pa.table({"id": [id for id, _ in pairs], "text": [text for _, text in pairs]}, schema=schema)


def content():
    return sorted((row["id"], row["text"]) for row in catalog().load_table("place.entry").scan().to_arrow().to_pylist())


def together(first, second):
    """What the second of two writers says, who had both loaded the table, and what is there then."""
    one, other = catalog().load_table("place.entry"), catalog().load_table("place.entry")
    first(one)
    try:
        second(other)
        answer = "no error"
    except ValidationException as error:
        answer = type(error).__name__
    return answer, content()


catalog().create_namespace("place")
catalog().create_table("place.entry", schema=rows().schema).append(rows((1, "old")))
seen = {
    "upsert of a new key by both": together(
        lambda table: table.upsert(rows((7, "first")), join_cols=["id"]),
        lambda table: table.upsert(rows((7, "second")), join_cols=["id"]),
    ),
    "upsert of a key that is there by both": together(
        lambda table: table.upsert(rows((1, "first")), join_cols=["id"]),
        lambda table: table.upsert(rows((1, "second")), join_cols=["id"]),
    ),
    "append, and delete of what was appended": together(
        lambda table: table.append(rows((9, "first"))),
        lambda table: table.delete("id = 9"),
    ),
}
for name, (answer, found) in seen.items():
    print(f"{name}: the second: {answer}; rows: {found}")
answers = [answer for answer, _ in seen.values()]
twice = seen["upsert of a new key by both"][1]
if answers != ["no error"] + ["ValidationException"] * 2 or twice != [(1, "old"), (7, "first"), (7, "second")]:
    raise SystemExit("it is no longer so")
PY
