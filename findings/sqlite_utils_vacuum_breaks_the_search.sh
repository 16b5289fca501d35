#!/usr/bin/env bash
# sqlite-utils: after rows were deleted, vacuum() makes full-text search find other rows than those that match, or none.
#
# Guess: VACUUM changes how a database is stored, and no answer; with triggers, as enable_fts(create_triggers=True) makes
#     them, the search index follows its table.
# Truth: the index refers to rows by rowid, and VACUUM numbers the rows of a table anew that has no INTEGER PRIMARY KEY and
#     no other index, as one that was inserted without pk=. No trigger fires. Afterwards a search for a word finds the row
#     which has the number by now, whatever its text, or nothing. rebuild_fts() mends it; a pk= avoids it.
# Versions: sqlite-utils 4.2.1, SQLite of the Python (3.40 or newer).
# Source: SQLite's documentation of VACUUM says that it may change rowids, and that of FTS5's external content tables that
#     the index must be kept the same; sqlite-utils' has no warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check sqlite-utils==4.2.1

venv/bin/python - <<'PY'
import importlib.metadata
import sqlite3

import sqlite_utils

print(f"sqlite-utils {importlib.metadata.version('sqlite-utils')}, SQLite {sqlite3.sqlite_version}")
words = ("apple", "banana", "cherry", "date", "elder")
kept = words[2:]


def found(table):
    return {word: [row["title"] for row in table.search(word)] for word in kept}


seen = {}
for name, pk in (("without_pk", None), ("with_pk", "id")):
    database = sqlite_utils.Database(f"{name}.db")
    table = database["fruit"]
    table.insert_all(({"id": number, "title": word} for number, word in enumerate(words, 1)), pk=pk)
    table.enable_fts(["title"], create_triggers=True)
    table.delete_where("title IN ('apple', 'banana')")
    before = found(table)
    database.vacuum()
    after = found(table)
    table.rebuild_fts()
    seen[name] = before, after, found(table)
    print(f"{name}: searches before VACUUM: {before}\n    after: {after}; rebuilt: {seen[name][2]}")
right = {word: [word] for word in kept}
if seen["with_pk"] != (right, right, right):
    raise SystemExit("a pk no longer avoids it")
before, after, rebuilt = seen["without_pk"]
if before != right or rebuilt != right or after == right:
    raise SystemExit("it is no longer so")
if after != {"cherry": ["elder"], "date": [], "elder": []}:
    raise SystemExit("it goes wrong in another way")
PY
