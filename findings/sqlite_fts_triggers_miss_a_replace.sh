#!/usr/bin/env bash
# SQLite: with the triggers that FTS5's documentation gives, INSERT OR REPLACE leaves the old words in the search's index.
#
# Guess: an index of full-text search that triggers for INSERT, UPDATE and DELETE keep in step is in step after each write.
# Truth: the row that REPLACE removes fires no DELETE trigger (PRAGMA recursive_triggers is off), so its words stay in the
#     index: who searches for a word that was replaced (a name, a secret) gets the row that has it no more, and count()s of
#     matches are too high. FTS5's integrity check says "database disk image is malformed". ON CONFLICT DO UPDATE fires
#     UPDATE's triggers and is right, and so is REPLACE with recursive_triggers on, which is set for each connection anew.
# Versions: SQLite of the interpreter (3.40.1 with CPython 3.11.7).
# Source: sqlite.org/fts5.html, "External Content Tables", has the triggers and not a word on REPLACE; sqlite.org/
#     lang_conflict.html has the rule.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv

venv/bin/python - <<'PY'
import contextlib
import platform
import sqlite3

print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
SCHEMA = """
CREATE TABLE note (id INTEGER PRIMARY KEY, text);
CREATE VIRTUAL TABLE note_fts USING fts5(text, content='note', content_rowid='id');
CREATE TRIGGER note_i AFTER INSERT ON note BEGIN
    INSERT INTO note_fts (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER note_d AFTER DELETE ON note BEGIN
    INSERT INTO note_fts (note_fts, rowid, text) VALUES ('delete', old.id, old.text);
END;
CREATE TRIGGER note_u AFTER UPDATE ON note BEGIN
    INSERT INTO note_fts (note_fts, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO note_fts (rowid, text) VALUES (new.id, new.text);
END;
INSERT INTO note VALUES (1, 'ann');
"""


def found(write, pragma=""):
    """What a search for the old word finds after that write, and what the integrity check says."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA + pragma)
        connection.execute(write)
        rows = [text for (text,) in connection.execute("SELECT text FROM note_fts WHERE note_fts MATCH 'ann'")]
        try:
            connection.execute("INSERT INTO note_fts (note_fts, rank) VALUES ('integrity-check', 1)")
            return rows, "in step"
        except sqlite3.DatabaseError as error:
            return rows, str(error)


replace = "INSERT OR REPLACE INTO note VALUES (1, 'bob')"
upsert = "INSERT INTO note VALUES (1, 'bob') ON CONFLICT (id) DO UPDATE SET text = excluded.text"
seen = {
    "UPDATE": found("UPDATE note SET text = 'bob'"),
    "ON CONFLICT DO UPDATE": found(upsert),
    "INSERT OR REPLACE": found(replace),
    "INSERT OR REPLACE, recursive_triggers": found(replace, "PRAGMA recursive_triggers = on"),
}
for name, (rows, told) in seen.items():
    print(f"{name}: a search for the old word finds {rows}, the integrity check: {told}")
right, replaced = ([], "in step"), seen.pop("INSERT OR REPLACE")
if list(seen.values()) != [right] * 3 or replaced[0] != ["bob"] or replaced[1] == "in step":
    raise SystemExit("it is no longer so")
PY
