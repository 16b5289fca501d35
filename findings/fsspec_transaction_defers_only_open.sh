#!/usr/bin/env bash
# fsspec: in `with fs.transaction:` only files that are written wait for its end; rm, mv and cp act at once, for good.
#
# Guess: a transaction of a file system covers what is done by that file system: after an error inside nothing has
#     changed.
# Truth: it defers the files that are opened for writing. rm(), mv(), cp() and makedirs() inside act at once and are not
#     undone by the error. So "write the new file, remove the old one" in a transaction that fails loses both: the old
#     one is removed, the new one is thrown away. And mv() inside of what was written inside doesn't find it.
# Versions: fsspec 2026.9.0.
# Source: fsspec/transaction.py: "Gathers files for deferred commit or discard, so that several write operations can be
#     finalized semi-atomically"; the documentation speaks of files being written, and of no other operation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check fsspec==2026.9.0

venv/bin/python - <<'PY'
import os

import fsspec

print(f"fsspec {fsspec.__version__}")
fs = fsspec.filesystem("file")
place = f"{os.getcwd()}/files"
os.mkdir(place)
for name in ("overwritten", "removed", "moved", "copied", "replaced"):
    fs.pipe(f"{place}/{name}", b"old")
try:
    with fs.transaction:
        fs.pipe(f"{place}/overwritten", b"new")
        fs.pipe(f"{place}/added", b"new")
        fs.rm(f"{place}/removed")
        fs.mv(f"{place}/moved", f"{place}/moved-away")
        fs.cp(f"{place}/copied", f"{place}/copy")
        fs.pipe(f"{place}/replaced-by", b"new")
        fs.rm(f"{place}/replaced")
        raise LookupError
except LookupError:
    pass
found = {name: fs.cat(f"{place}/{name}").decode() for name in sorted(os.listdir(place))}
print(f"after an error in the transaction there is {found}")
try:
    with fs.transaction:
        fs.pipe(f"{place}/temporary", b"new")
        fs.mv(f"{place}/temporary", f"{place}/final")
    move = "no error"
except FileNotFoundError as error:
    move = type(error).__name__
print(f"write a file and mv() it, in a transaction: {move}")
if found != {"copied": "old", "copy": "old", "moved-away": "old", "overwritten": "old"} or move != "FileNotFoundError":
    raise SystemExit("it is no longer so")
PY
