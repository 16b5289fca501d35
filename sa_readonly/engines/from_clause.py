"""Whether a name after a point is a column, or PostgreSQL calls a function by it.

To PostgreSQL `x.name` is `name(x)` where x has no such column, and is no row but a value: that of a
function in FROM. What is no column for sure is taken for a call.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .statements import _Token

__all__ = ["FromClause"]

_NAMES = ("word", "quoted", "escaped")
_ENDS = frozenset(  # words that end FROM, and are no column's without AS
    [
        "WHERE",
        "GROUP",
        "HAVING",
        "WINDOW",
        "ORDER",
        "LIMIT",
        "OFFSET",
        "FETCH",
        "FOR",
        "UNION",
        "INTERSECT",
        "EXCEPT",
    ]
)
_NO_ALIAS = _ENDS | frozenset(
    ["JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL", "ON", "USING", "TABLESAMPLE"]
)
_WITHOUT_PARENTHESES = frozenset(
    [
        "CURRENT_DATE",
        "CURRENT_TIME",
        "CURRENT_TIMESTAMP",
        "LOCALTIME",
        "LOCALTIMESTAMP",
        "CURRENT_ROLE",
        "CURRENT_USER",
        "SESSION_USER",
        "SYSTEM_USER",
        "USER",
        "CURRENT_CATALOG",
        "CURRENT_SCHEMA",
    ]
)
# Without an alias these have another name than their own: CAST that of its type.
_NAMED_OTHERWISE = frozenset(["CAST", "TREAT", "TRIM", "EXTRACT", "ROWS"])
_COMPARED = 15  # characters: of a longer name the server reads 63 bytes


class FromClause:
    """What stands in FROM, anywhere in a statement; it is looked for when it is first asked for."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self.tokens = tokens

    @cached_property
    def sources(self) -> tuple[set[str], dict[str, set[str]]] | None:
        return _sources(self.tokens)

    def has_column(self, index: int) -> bool:
        """Return whether the name at an index, after a point, is that of a column for sure."""
        tokens = self.tokens
        root = index
        while root > 1 and _is(tokens, root - 1, ".") and tokens[root - 2].kind in _NAMES:
            root -= 2
        # Of an expression, or of $1, of which the number has the point.
        if root == index or (root and tokens[root - 1].text[-1:] == ".") or _bound(tokens, root):
            return False
        if root < index - 2:  # of a table with its schema
            return True
        if self.sources is None or tokens[root].kind == "escaped":
            return False
        tables, functions = self.sources
        name = _key(tokens[root])
        if name in functions:
            return tokens[index].name() in functions[name]
        return name in tables


def _bound(tokens: Sequence[_Token], index: int) -> bool:
    """Return whether the word at an index ends a placeholder: %s, %(a)s."""
    if tokens[index].text not in ("S", "B", "T"):
        return False
    start = index - 1
    if _is(tokens, start, ")"):
        while start > 0 and (
            tokens[start].text != "(" or tokens[start].depth > tokens[index].depth
        ):
            start -= 1
        start -= 1
    return start >= 0 and tokens[start].text == "%"


def _is(tokens: Sequence[_Token], index: int, text: str) -> bool:
    return index < len(tokens) and tokens[index].text == text and tokens[index].kind == "other"


def _compares(tokens: Sequence[_Token], index: int) -> bool:
    """Return whether the FROM at an index is that of IS DISTINCT FROM; it may be a name as well."""
    last = tokens[max(0, index - 4) : index]
    words = [token.text if token.kind in ("word", "other") else "" for token in last]
    if words[-2:] == ["NOT", "DISTINCT"]:
        words.pop(-2)
    return words[-2:] == ["IS", "DISTINCT"] and words[-3:-2] not in (["AS"], ["."])


def _key(token: _Token) -> str:
    return token.name()[:_COMPARED]


def _sources(tokens: Sequence[_Token]) -> tuple[set[str], dict[str, set[str]]] | None:  # noqa: C901  # one case after the other
    """Return the names of what stands in any FROM, or None if they can't be told.

    They are those of tables and subqueries, and those of functions with the columns that are named
    there. A name that is taken for one too many is no harm to a table.
    """
    tables: set[str] = set()
    functions: dict[str, set[str]] = {}
    clauses = [""]  # of each open parenthesis: SELECT, FROM or another
    openers: list[_Token | None] = []  # the function or subquery in FROM that each belongs to
    opener: _Token | None = None  # the same of the next parenthesis
    wanted = False  # whether the next name is that of a table or function
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index else ""
        if index and tokens[index - 1].kind not in ("word", "other"):
            before = ""  # "AS" is a name
        if token.kind == "other":
            if token.text == "(":
                clauses.append("FROM" if wanted else "")
                openers.append(token if wanted else opener)
                opener = None
            elif token.text == ")" and openers:
                clauses.pop()
                source = openers.pop()
                if source is not None and source.text == "(":
                    tables.update(_alias(tokens, index + 1)[:1])
                elif source is not None and not _add(functions, source, tokens, index + 1):
                    return None
                wanted = False
            elif token.text == ",":
                wanted = clauses[-1] == "FROM"
            continue
        word = token.text if token.kind == "word" else ""
        if before == "." or (before == "AS" and word != "SELECT"):
            continue
        if word == "SELECT":
            clauses[-1], wanted = word, False
        elif (
            (word == "TABLE" and (wanted or not clauses[-1]))
            or (word == "JOIN" and clauses[-1] == "FROM")
            or (word == "FROM" and clauses[-1] == "SELECT" and not _compares(tokens, index))
        ):
            clauses[-1], wanted = "FROM", True
        elif word == "GROUP" and before == "WITHIN":
            continue
        elif word in _ENDS or (wanted and word in ("WITH", "VALUES")):
            clauses[-1], wanted = "", False
        elif wanted and token.kind in _NAMES and word not in ("LATERAL", "ONLY"):
            wanted = False
            last = index
            while _is(tokens, last + 1, ".") and last + 2 < len(tokens):
                last += 2
            if _is(tokens, last + 1, "("):
                opener = tokens[last]
            elif [one.text for one in tokens[index : index + 3]] == ["ROWS", "FROM", "("]:
                opener = token
            elif [one.text for one in tokens[index : index + 3]] == ["COLLATION", "FOR", "("]:
                return None
            elif word in _WITHOUT_PARENTHESES:
                if not _add(functions, token, tokens, index + 1):
                    return None
            else:
                tables.update((_key(tokens[last]), *_alias(tokens, last + 1)[:1]))
    return tables, functions


def _add(
    functions: dict[str, set[str]], function: _Token, tokens: Sequence[_Token], end: int
) -> bool:
    """Note a function by its names, which stand from an index on; False if one can't be told."""
    alias, *columns = _alias(tokens, end) or [""]
    own = _key(function)
    if not own or not (alias or function.text not in _NAMED_OTHERWISE) or alias == "?":
        return False
    for name in (own, alias):  # a column of a value has the name of the value
        known = {*columns} or {name}
        functions[name] = functions.get(name, known) & known
    return True


def _alias(tokens: Sequence[_Token], index: int) -> list[str]:
    """Return the alias that stands at an index ("?" if it can't be read), and its columns."""
    texts = [token.text for token in tokens[index : index + 3]]
    index += 2 if texts[:2] == ["WITH", "ORDINALITY"] else 0
    explicit = tokens[index : index + 1] and tokens[index].text == "AS"
    index += bool(explicit)
    if index >= len(tokens):
        return []
    found = tokens[index]
    alias = ""
    if found.kind == "escaped":
        alias = "?"
    elif found.kind == "quoted" or (found.kind == "word" and found.text not in _NO_ALIAS):
        alias = _key(found)
    index += bool(alias)
    columns = []
    if (alias or explicit) and _is(tokens, index, "("):
        for later in range(index + 1, len(tokens)):
            if tokens[later].depth <= tokens[index].depth:
                break
            if tokens[later].depth == tokens[index].depth + 1 and tokens[later - 1].text in (
                "(",
                ",",
            ):
                columns.append(tokens[later].name())
    return [alias, *columns]
