#!/usr/bin/env bash
# TinyDB: search() gives what a caller made of its former answer, and misses what another handle has inserted.
#
# Guess: each search() reads the file anew, as get() and all() do: a document that was changed in memory alone,
#     or that another handle of the file inserted, does not make a difference, or does.
# Truth: the table keeps the documents it found for a query and hands the same objects out again, so a change of one of
#     them, never saved, is what the next search() of that query finds, while get() finds what is in the file. And for
#     search() and count() a document which another handle inserted is not there, while for all() it is. The next write
#     through this handle ends both.
# Versions: tinydb 4.9.0.
# Source: tinydb/table.py, Table.search, the query cache. The documentation says that queries are cached for performance.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check tinydb==4.9.0

venv/bin/python - <<'PY'
import tinydb

print(f"tinydb {tinydb.__version__}")
one, other = tinydb.TinyDB("a.json"), tinydb.TinyDB("a.json")
red = tinydb.where("color") == "red"
one.insert({"color": "red", "price": 10})

found = one.search(red)[0]
found["price"] = 0
changed = one.search(red)[0]["price"], one.get(red)["price"], other.search(red)[0]["price"]
print(f"price after a change in memory: search() {changed[0]}, get() {changed[1]}; another handle {changed[2]}")

other.insert({"color": "red", "price": 20})
seen = len(one.search(red)), one.count(red), len(one.all())
print(f"after another handle's insert: search() {seen[0]}, count() {seen[1]}, all() {seen[2]}")
if changed != (0, 10, 10) or seen != (1, 1, 2):
    raise SystemExit("it is no longer so")
PY
