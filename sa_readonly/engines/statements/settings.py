"""What SET, RESET, a PRAGMA, and what begins or ends a transaction would change.

A function that examines returns what must be refused, in a few words, or None.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from .words import (
    AFTER_BEGIN,
    CHARSETS_WITH_QUOTES,
    ON,
    PRAGMAS,
    PRAGMAS_THAT_WRITE,
    PROTECTING,
    SQL_MODE_WORDS,
    SQL_MODES,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .tokens import Token

__all__ = ["ends", "examine_pragma", "examine_setting", "writing_pragma"]

_CHARSET_SETTINGS = frozenset(("character_set_client", "client_encoding"))


def examine_setting(tokens: list[Token], words: list[str], dialect: str) -> str | None:
    """Examine SET, RESET, and what begins or ends a transaction."""
    first, second = [*words, ""][:2]
    what = _examine_transaction(first, second, words, dialect) or _examine_lasting(
        tokens, first, second, dialect
    )
    if what is not None:
        return what
    if dialect == "mysql" and first == "SET" and second != "STATEMENT":
        return _examine_assignments(tokens)
    for token in tokens:
        if token.name() in PROTECTING and not (first == "SET" and _turned_on(tokens)):
            return f"{first} {token.name()}"
    return None


def _examine_assignments(tokens: list[Token]) -> str | None:
    """Examine MySQL's SET, in which a setting that a value only asks for is not set."""
    for part in _split(tokens[1:]):
        marks = [index for index, token in enumerate(part) if token.is_other("=")]
        names = [token.name() for token in part[: marks[0] if marks else None]]
        if "sql_mode" in names and not _harmless_sql_mode(part):
            return "SET sql_mode"
        for name in names:
            if name in ("global", "persist", "persist_only"):  # @@global.name, or after a comma
                return f"SET {name.upper()}"
            if name in PROTECTING and not _turned_on(part):
                return f"SET {name}"
    return None


def ends(tokens: list[Token]) -> str:
    """Return the word by which a statement of PostgreSQL ends the transaction, or ""."""
    first, *rest = [token.text for token in tokens if token.kind == "word"] or [""]
    return first if first in ("COMMIT", "END", "ROLLBACK", "ABORT") and "TO" not in rest else ""


def _examine_transaction(first: str, second: str, words: list[str], dialect: str) -> str | None:
    if ("READ", "WRITE") in pairwise(words):
        return f"{first} ... READ WRITE"
    if second == "PREPARED":  # it ends another transaction, which wrote
        return f"{first} PREPARED"
    if first == "START" and second != "TRANSACTION":  # START SLAVE
        return f"START {second}"
    # BEGIN may also open a block of statements
    known = second in AFTER_BEGIN or (second == "NOT" and dialect == "postgresql")
    if first == "BEGIN" and second and not known:
        return f"BEGIN {second}"
    return None


def _examine_lasting(tokens: list[Token], first: str, second: str, dialect: str) -> str | None:
    """Examine settings that outlive the transaction, or decide how the server reads a text."""
    if first == "RESET" and (second == "ALL" or dialect == "mysql"):
        return f"RESET {second}"
    if first == "SET" and second in ("GLOBAL", "PERSIST", "PERSIST_ONLY", "PASSWORD", "DEFAULT"):
        return f"SET {second}"
    if any(token.kind == "escaped" and token.text[-1:] == '"' for token in tokens):
        return f"{first} of what can't be read"
    # MariaDB takes @@session.'name', which may be bound.
    if dialect == "mysql" and any(
        before.is_other(".") and (token.kind == "string" or token.text in ("%", "?"))
        for before, token in pairwise(tokens)
    ):
        return f"{first} of a name that can't be read"
    if first == "SET" and not all(map(_harmless_charset, _split(tokens[1:]))):
        return "SET of a character set that can't be read"
    return None


def _turned_on(tokens: list[Token]) -> bool:
    """True if the statement is one assignment, of one token that means on.

    A longer value is not trusted: MariaDB calculates it.
    """
    marks = [index for index, token in enumerate(tokens) if token.text in ("=", "TO")]
    return tokens[-1].text.upper() in ON and marks == [len(tokens) - 2]


def _harmless_sql_mode(tokens: list[Token]) -> bool:
    """True if strings and quoted names are read as before."""
    for token in tokens:
        if token.kind == "word":
            known = token.text in SQL_MODE_WORDS
        elif token.kind == "string":
            known = {mode.strip().upper() for mode in token.text.split(",")} <= SQL_MODES
        else:
            known = token.kind == "other"
        if not known:
            return False
    return True


def _split(tokens: list[Token]) -> Iterator[list[Token]]:
    """Yield what stands between commas, but not those in parentheses."""
    part: list[Token] = []
    for token in tokens:
        if token.is_other(",") and token.depth == tokens[0].depth:
            yield part
            part = []
        else:
            part.append(token)
    yield part


def _harmless_charset(tokens: list[Token]) -> bool:
    """True if an assignment sets no character set, or one in which no character ends as a quote."""
    words = [token.text if token.kind in ("word", "other") else "" for token in tokens]
    start = int(words[:1] in (["SESSION"], ["LOCAL"]))
    names = words[start : start + 1] in (["NAMES"], ["CHARACTER"], ["CHARSET"])
    if not names and not any(token.name() in _CHARSET_SETTINGS for token in tokens):
        return True
    marks = [i for i, word in enumerate(words) if word in ("=", "TO", "NAMES", "SET", "CHARSET")]
    value = tokens[marks[0] + 1 :] if marks else []
    if not value:
        return True
    # One token, besides a COLLATE: a value that is put together is not known before it is.
    return (
        (len(value) == 1 or (len(value) == 3 and value[1].text == "COLLATE"))
        and value[0].kind in ("word", "quoted", "string")
        and not CHARSETS_WITH_QUOTES.match(re.sub(r"[^A-Za-z0-9]", "", value[0].text))
    )


# -- SQLite ----------------------------------------------------------------------------------


def examine_pragma(tokens: list[Token]) -> str | None:
    """Examine a PRAGMA, the name of which may have a schema before it."""
    rest = tokens[1:]
    if len(rest) > 2 and rest[1].text == ".":
        rest = rest[2:]
    name = rest[0].text.lower() if rest else ""  # SQLite takes a string as well
    value = rest[2].text if len(rest) > 2 else None
    return f"PRAGMA {name}" if writing_pragma(name, value) else None


def writing_pragma(name: str, value: str | None) -> bool:
    """Return whether a PRAGMA of SQLite writes, or lifts the protection."""
    name = name.lower()
    if name == "query_only":
        return value is not None and value.upper() not in ON
    return name in PRAGMAS_THAT_WRITE or (value is not None and name not in PRAGMAS)
