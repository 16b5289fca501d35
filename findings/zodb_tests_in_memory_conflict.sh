#!/usr/bin/env bash
# ZODB's in-memory database of the tests refuses concurrent changes that a FileStorage merges.
#
# Guess: BTrees and counters (BTrees.Length) resolve conflicts by themselves, as their documentation says; which
#     storage lies below has no part in it, so that DB(None), the database in memory that tests use, behaves as the
#     real one.
# Truth: conflict resolution is the storage's work. FileStorage merges two inserts of different keys and adds up two
#     changes of a counter; MappingStorage, which is what DB(None) makes, raises ConflictError for both. So a test of
#     concurrency fails on what is fine in production, and the retry that it makes one write is never needed there.
#     DemoStorage over nothing, the other one in memory, merges.
# Versions: ZODB 6.4, BTrees 6.5.
# Source: ZODB/ConflictResolution.py (a mixin) and ZODB/MappingStorage.py, which does without it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check ZODB==6.4 BTrees==6.5

venv/bin/python - <<'PY'
import importlib.metadata

import BTrees.Length
import BTrees.OOBTree
import transaction
import ZODB
import ZODB.DemoStorage
import ZODB.FileStorage
import ZODB.POSException

print(f"ZODB {importlib.metadata.version('ZODB')}, BTrees {importlib.metadata.version('BTrees')}")


def race(database, one, two):
    """Both change what they see, then both commit."""
    sides = []
    for change in (one, two):
        manager = transaction.TransactionManager()
        connection = database.open(manager)
        change(connection.root())
        sides.append((manager, connection))
    said = []
    for manager, connection in sides:
        try:
            manager.commit()
            said.append("done")
        except ZODB.POSException.ConflictError as error:
            manager.abort()
            said.append(type(error).__name__)
        connection.close()
    return said


seen = {}
for name, storage in {
    "in memory, DB(None)": None,
    "in memory, DemoStorage": ZODB.DemoStorage.DemoStorage(),
    "FileStorage": ZODB.FileStorage.FileStorage("data.fs"),
}.items():
    database = ZODB.DB(storage)
    with database.transaction() as connection:
        connection.root()["tree"] = BTrees.OOBTree.OOBTree({"first": 0})
        connection.root()["count"] = BTrees.Length.Length()
    keys = race(database, lambda root: root["tree"].update({"a": 1}), lambda root: root["tree"].update({"b": 2}))
    counts = race(database, lambda root: root["count"].change(1), lambda root: root["count"].change(1))
    with database.transaction() as connection:
        left = sorted(connection.root()["tree"]), connection.root()["count"]()
    database.close()
    print(f"{name}: inserts of two keys: {keys}; two changes of a counter: {counts}; left: {left}")
    seen[name] = keys, counts, left
merged = ["done", "done"], ["done", "done"], (["a", "b", "first"], 2)
refused = ["done", "ConflictError"], ["done", "ConflictError"], (["a", "first"], 1)
if list(seen.values()) != [refused, merged, merged]:
    raise SystemExit("it is no longer so")
PY
