"""A text of SQL as the tokens that its server reads.

The quotes and comments of each database are read by its own rules. Where Python would see the end
of a string or of a comment elsewhere than the server does, a statement could hide in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["NOTHING", "UNCLEAR", "VERSIONED_COMMENT", "Token", "tokenize"]


class Token(NamedTuple):
    """A token: ``SELECT``, a name, a string, a parenthesis.

    :param kind: "word", "quoted" (a name), "string", "escaped" (PostgreSQL's E'', U&'' and U&""),
        "number", "other", or "unclear", where the rest of the text can't be read.
    :param text: a word in upper case; of "quoted" and "string" what is inside the quotes; of
        "unclear" what it is, in a few words.
    :param depth: how many parentheses are open around it.
    """

    kind: str
    text: str
    depth: int

    def name(self) -> str:
        """Return what it names, in lower case, or "" if it can't be a name."""
        return self.text.lower() if self.kind in ("word", "quoted") else ""

    def is_other(self, text: str) -> bool:
        """True if it is this mark, and not the same text in quotes."""
        return self.text == text and self.kind == "other"


NOTHING = Token("other", "", 0)
"""What stands before the first token and after the last."""

UNCLEAR = "A comment that can't be read"
_DOLLAR = "A dollar sign that can't be read"

# To the servers, space is ASCII and each character beyond ASCII a letter. A number ends where a
# letter begins: 1.INTO is two tokens.
_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\n\r\f\v]+)
    | (?P<line>--)
    | (?P<block>/\*)
    | (?P<string>'[^']*(?:''[^']*)*'?)
    | (?P<quoted>"[^"]*(?:""[^"]*)*"?|`[^`]*(?:``[^`]*)*`?)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9$\x80-\U0010ffff]*)
    | (?P<number>[0-9]+(?:\.[0-9]*)?)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")

_Found = tuple[str, str, int]  # the kind ("comment" and "space" are no tokens), the text, its end


def tokenize(
    statement: str,
    dialect: str,
    backslash: bool,
    *,
    skipped: tuple[str, ...] = (),
    ansi_quotes: bool = False,
) -> Iterator[Token]:
    """Yield the tokens of a text; see :func:`.examine` for the parameters.

    :param skipped: the beginnings of the executed comments that are comments to MySQL's server.
    """
    special = _SPECIAL.get(dialect)
    string_quotes = "'" if ansi_quotes else "'\""  # MySQL's
    position = depth = 0
    executed_to = -1  # the end of the executed comment that is being read
    continued = False  # whether a string that follows continues an E'', and escapes as it does
    while position < len(statement):
        if position == executed_to:
            position += len("*/")
            continue
        escapes = backslash or continued
        found = special and special(statement, position, escapes, string_quotes)
        kind, text, position = found or _plain(statement, position, nested=dialect == "postgresql")
        if kind == "comment":
            continue
        if kind == "executed":
            executed_to = statement.find("*/", position)
            if text in skipped:
                position = executed_to
            continue
        continued = text[0] not in "uU" if kind == "escaped" else continued and kind == "space"
        if kind == "space":
            continue
        depth -= kind == "other" and text == ")"
        yield Token(kind, text, depth)
        depth += kind == "other" and text == "("


def _plain(statement: str, position: int, *, nested: bool) -> _Found:
    """Read what all databases read alike.

    :param nested: whether a comment may contain another.
    """
    found = _TOKEN.match(statement, position)
    assert found is not None  # noqa: S101  # for the type: the last alternative takes anything
    kind, text, end = found.lastgroup or "other", found.group(), found.end()
    if kind == "line":
        return "comment", "", _end_of(statement, "\n", end)
    if kind == "block":
        return "comment", "", _end_of_block(statement, end, nested=nested)
    if kind == "word" and text.isascii():  # upper() makes an S of the long s; a server does not
        text = text.upper()
    elif kind in ("string", "quoted"):
        text = text[1:-1].replace(text[0] * 2, text[0])
    return kind, text, end


def _end_of(statement: str, mark: str, position: int) -> int:
    end = statement.find(mark, position)
    return len(statement) if end < 0 else end + len(mark)


def _end_of_block(statement: str, position: int, *, nested: bool) -> int:
    open_blocks = 1
    while open_blocks and (edge := _BLOCK_EDGE.search(statement, position)):
        if edge.group() == "*/":
            open_blocks -= 1
        elif nested:
            open_blocks += 1
        position = edge.end()
    return len(statement) if open_blocks else position


# -- what one database alone reads -----------------------------------------------------------
#
# Each of these functions returns what it found at a position, or None for what is read alike.

# E'', U&'' and U&"". What an escape in them means is not looked at.
_PG_ESCAPED = re.compile(
    r"""[eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'?|[uU]&'[^']*(?:''[^']*)*'?|[uU]&"[^"]*(?:""[^"]*)*"?""",
    re.DOTALL,
)
# A plain string in which a backslash escapes: the continuation of an E'', and every one where
# standard_conforming_strings is off.
_PG_BACKSLASHED = re.compile(r"'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'?", re.DOTALL)
_PG_DOLLAR = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9\x80-\U0010ffff]*)?\$")
# Another dollar sign alone is an error to the server, and may be part of a string once a driver has
# put a value beside it: $a%s$.
_PG_PARAMETER = re.compile(r"\$[0-9]")
_PG_LINE = re.compile(r"--[^\r\n]*")


def _of_postgresql(statement: str, position: int, escapes: bool, _quotes: str) -> _Found | None:
    character = statement[position]
    if character in "eEuU" and (found := _PG_ESCAPED.match(statement, position)):
        return "escaped", found.group(), found.end()
    if character == "'" and escapes and (found := _PG_BACKSLASHED.match(statement, position)):
        return "escaped", found.group(), found.end()
    if character == "$" and (found := _PG_DOLLAR.match(statement, position)):
        end = _end_of(statement, found.group(), found.end())
        return "string", statement[found.end() : end - len(found.group())], end
    if character == "$" and not _PG_PARAMETER.match(statement, position):
        return "unclear", _DOLLAR, len(statement)
    if character == "-" and (found := _PG_LINE.match(statement, position)):
        return "comment", "", found.end()
    return None


_MYSQL_STRING = re.compile(
    r"""'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'?|"[^"\\]*(?:(?:\\.|"")[^"\\]*)*"?""", re.DOTALL
)
_MYSQL_LINE = re.compile(r"--(?=[\x00-\x20\x7f]|$)")
_MYSQL_EXECUTED = re.compile(r"/\*M?!\d*(?P<bound>[%?])?")
# A text in which every quote ends and no comment begins: wherever a server looks for the end of the
# comment that contains it, it finds the same one.
_MYSQL_BALANCED = re.compile(
    r"""(?:(?!--|/\*|\*/)[^'"`\\#])*(?:(['"`])(?:(?!--|/\*)[^'"`\\#])*\1(?:(?!--|/\*)[^'"`\\#])*)*""",
    re.DOTALL,
)
VERSIONED_COMMENT = re.compile(r"/\*(?:M!\d*|!\d+)")
"""The beginning of an executed comment that some servers execute, and others skip as a comment."""


def _of_mysql(statement: str, position: int, escapes: bool, quotes: str) -> _Found | None:
    character = statement[position]
    if character in quotes and (escapes or character == '"'):
        found = (_MYSQL_STRING if escapes else _TOKEN).match(statement, position)
        if found:
            return "string", found.group()[1:-1].replace(character * 2, character), found.end()
    if character == "#" or (character == "-" and _MYSQL_LINE.match(statement, position)):
        return "comment", "", _end_of(statement, "\n", position)
    if character == "-":  # two of them alone begin no comment
        return "comment", "", position + 1
    if character == "/" and (found := _MYSQL_EXECUTED.match(statement, position)):
        end = statement.find("*/", found.end())
        begins = statement[end - 1] == "/"  # /*! ... /*/ begins a comment within, or ends this one
        balanced = _MYSQL_BALANCED.fullmatch(statement, found.end(), end)
        if balanced and not begins and not found["bound"]:
            return "executed", found.group(), found.end()
        return "unclear", UNCLEAR, len(statement)
    return None


def _in_brackets(statement: str, position: int, _escapes: bool, _quotes: str) -> _Found | None:
    if statement[position] != "[":
        return None
    end = _end_of(statement, "]", position)
    return "quoted", statement[position + 1 : end - 1], end


_SPECIAL: dict[str, Callable[[str, int, bool, str], _Found | None]] = {
    "postgresql": _of_postgresql,
    "mysql": _of_mysql,
    "sqlite": _in_brackets,
    "mssql": _in_brackets,
}
