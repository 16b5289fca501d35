"""A SQLite file: its permissions, and its tables."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from typing import NamedTuple
from urllib.parse import quote, unquote

from sqlalchemy import URL

from ..probe import TIMEOUT
from .databases import Database, can_not_be_written
from .findings import capital, note


class SQLiteFile(NamedTuple):
    """What a SQLite URL names: a file, or None for memory, and a URI's parameters."""

    path: str | None
    query: dict[str, str]


def sqlite_file(url: URL) -> SQLiteFile:
    """Read the URL as SQLite does, which knows parameters only if ``uri=true`` is among them."""
    name, query = url.database or "", {}
    if str(url.query.get("uri", "")).lower() in ("true", "1", "yes", "on"):
        query = {key: str(value) for key, value in url.query.items()}
        name = unquote(name.removeprefix("file:").partition("?")[0])
        name = re.sub(r"^//(localhost)?(?=/)", "", name)
    if name in ("", ":memory:") or query.get("mode") == "memory":
        return SQLiteFile(None, query)
    return SQLiteFile(os.path.abspath(name), query)


def examine_sqlite(url: URL, name: str) -> Database:
    """Examine a SQLite file without opening it for writing."""
    path, query = sqlite_file(url)
    found = Database(
        url,
        name,
        "SQLite",
        path or "in memory",
        account="this process's user",
        bypass='What gets through is code that, on purpose, sends "PRAGMA query_only = OFF" over '
        "the raw driver connection, and then writes.",
        cure="For the read-only URL use a file that this process's user can't write: another "
        "owner, mode 0644. mode=ro in the URL is not enough.",
    )
    if path is None:
        found.abilities = ["it is in this process's memory"]
        found.cure = "Use a file that this process's user can't write."
        return found
    status = os.stat(path)  # raises where there is no file, which connecting would make
    found.server = (status.st_dev, status.st_ino)
    given = {f"{key}={value}" for key, value in query.items()}
    option = next((one for one in ("mode=ro", "immutable=1") if one in given), None)
    if option is not None:
        what = f"The read-write database is opened with {option}."
        found.write_findings.append(can_not_be_written(what))
        # SQLite opens an attached file with the driver's flags, not with the URI's.
        found.bypass = (
            f"{option} holds for the connection, but code that, on purpose, sends "
            f"\"ATTACH '{path}' AS other\" over it, raw, opens the file anew and writes."
        )
    if os.access(path, os.W_OK):
        found.abilities = [f"the file's permissions allow it, {path}"]
    else:
        found.unwritable = f"{found.account} can't write {path}"
    _read_tables(found, path)
    return found


def _read_tables(found: Database, path: str) -> None:
    wal = os.path.exists(f"{path}-wal")
    if wal and not os.path.exists(f"{path}-shm"):
        found.findings.append(
            note(
                "interrupted-sqlite-file",
                f"{capital(found.name)} {path} was left in the middle of something.",
                "Its tables were not read: opening it would have repaired it.",
                "Let the application open it, then run the doctor again.",
            )
        )
        return
    # Opening a file in WAL mode makes files beside it, except "immutable". But that ignores what
    # other connections have in the WAL or the journal, so it is for a file that is not in use.
    in_use = wal or os.path.exists(f"{path}-journal")
    uri = f"file:{quote(path)}?mode=ro" + ("" if in_use else "&immutable=1")
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT)) as connection:
        connection.execute("PRAGMA query_only = ON")
        rows = connection.execute(
            "SELECT name FROM sqlite_master"
            " WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
        )
        found.tables = {name for (name,) in rows}
