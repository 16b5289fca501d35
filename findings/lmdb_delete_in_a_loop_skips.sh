#!/usr/bin/env bash
# LMDB: `for key, value in cursor: cursor.delete()` leaves every second entry.
#
# Guess: deleting the entry at which the cursor stands, while iterating over the cursor, deletes all entries; so does
#     the deletion by key through the transaction.
# Truth: delete() moves the cursor to the next entry, and the iteration then moves on from there: each deletion skips
#     one. Deleting by key through the transaction, in the same loop, skips none.
# Versions: lmdb (py-lmdb) 3.0.0, Python 3.11.
# Source: py-lmdb's reference tells of delete() that it moves on; that its iterator then moves once more, it does not.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check lmdb==3.0.0

venv/bin/python - <<'PY'
import sys

import lmdb

print(f"lmdb {lmdb.__version__} (library {'.'.join(map(str, lmdb.version()))}), Python {sys.version.split()[0]}")
environment = lmdb.open("store")


def left(delete):
    with environment.begin(write=True) as transaction:
        for number in range(8):
            transaction.put(b"%d" % number, b"")
    with environment.begin(write=True) as transaction:
        cursor = transaction.cursor()
        for key, _ in cursor:
            delete(transaction, cursor, key)
    with environment.begin() as transaction:
        return [key.decode() for key, _ in transaction.cursor()]


by_key = left(lambda transaction, cursor, key: transaction.delete(key))
by_cursor = left(lambda transaction, cursor, key: cursor.delete())
print(f"left of 0 to 7 after deleting each by its key: {by_key}")
print(f"left of 0 to 7 after deleting each by the cursor: {by_cursor}")
if by_key or by_cursor != ["1", "3", "5", "7"]:
    raise SystemExit("it is no longer so")
PY
