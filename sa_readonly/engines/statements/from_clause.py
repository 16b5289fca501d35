"""Whether a name after a point is a column, or PostgreSQL calls a function by it.

To PostgreSQL `x.name` is the call `name(x)` where x is a value and no row, as that of a function in
FROM may be, or where x has no such column. A name is taken for a call unless it is a column for
sure.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from .tokens import Token
from .words import FROM_ENDS, FROM_GOES_ON, FUNCTIONS_WITHOUT_PARENTHESES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FromClause"]

_NAMES = ("word", "quoted", "escaped")
_NO_ALIAS = FROM_ENDS | FROM_GOES_ON
# Without an alias these functions have another name than their own: CAST that of its type.
_NAMED_OTHERWISE = frozenset(("CAST", "TREAT", "TRIM", "EXTRACT", "ROWS"))
_ROWS = Token("other", "(", 0)  # opens what gives rows, as a subquery does
_COMPARED = 15  # characters, at most 60 bytes: the server cuts a name at 63


class FromClause:
    """The tables and functions in FROM, anywhere in a statement; they are read on first use."""

    def __init__(self, tokens: Sequence[Token]) -> None:
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
        # The name of an expression's field, or of $1, where the point belongs to the number's token
        if root == index or (root and tokens[root - 1].text[-1:] == ".") or _bound(tokens, root):
            return False
        if root < index - 2:  # schema.table.column
            return True
        if self.sources is None or tokens[root].kind == "escaped":
            return False
        tables, functions = self.sources
        name = _key(tokens[root])
        if name in functions:
            return tokens[index].name() in functions[name]
        return name in tables


def _bound(tokens: Sequence[Token], index: int) -> bool:
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


def _is(tokens: Sequence[Token], index: int, text: str) -> bool:
    return index < len(tokens) and tokens[index].is_other(text)


def _compares(tokens: Sequence[Token], index: int) -> bool:
    """Return whether the FROM at an index is that of IS DISTINCT FROM; DISTINCT may be a name."""
    last = tokens[max(0, index - 4) : index]
    words = [token.text if token.kind in ("word", "other") else "" for token in last]
    if words[-2:] == ["NOT", "DISTINCT"]:
        words.pop(-2)
    return words[-2:] == ["IS", "DISTINCT"] and words[-3:-2] not in (["AS"], ["."])


def _is_json_table(openers: Sequence[Token | None], last: Sequence[Token]) -> bool:
    """Return whether JSON_TABLE is open, whose COLUMNS follow these two tokens.

    Up to PostgreSQL 16 it may be a function of the user's. In its arguments nothing is named by AS,
    and no name follows a string.
    """
    if not openers or openers[0] is None or openers[0] != ("word", "JSON_TABLE", openers[0].depth):
        return False
    return last[1].kind == "string" or (last[0].kind == "word" and last[0].text == "AS")


def _key(token: Token) -> str:
    return token.name()[:_COMPARED]


def _sources(tokens: Sequence[Token]) -> tuple[set[str], dict[str, set[str]]] | None:  # noqa: C901  # one case after the other
    """Return the names of what stands in any FROM, or None if they can't be told.

    :return: the names of tables and subqueries, and those of functions with the columns that are
        named there. Where a name stands for a table and a function, the function counts.
    """
    tables: set[str] = set()
    functions: dict[str, set[str]] = {}
    clauses = [""]  # of each open parenthesis: "SELECT", "FROM", or "" for another
    openers: list[Token | None] = []  # the function or subquery in FROM to which each belongs
    opener: Token | None = None  # the function to which the next parenthesis belongs
    wanted = False  # whether the next name is that of a table or function
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index else ""
        if index and tokens[index - 1].kind not in ("word", "other"):
            before = ""  # "AS" is a name
        if token.kind == "other":
            if token.text == "(":
                joined = before == "USING" and clauses[-1] == "FROM"  # whose alias is a row's
                clauses.append("FROM" if wanted else "")
                openers.append(token if wanted or joined else opener)
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
        if word == "COLUMNS" and _is_json_table(openers[-1:], tokens[index - 2 : index]):
            openers[-1] = _ROWS
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
        elif word in FROM_ENDS or (wanted and word in ("WITH", "VALUES")):
            clauses[-1], wanted = "", False
        elif wanted and token.kind in _NAMES and word not in ("LATERAL", "ONLY"):
            wanted = False
            last = index
            while _is(tokens, last + 1, ".") and last + 2 < len(tokens):
                last += 2
            texts = [following.text for following in tokens[index : index + 3]]
            if _is(tokens, last + 1, "("):
                opener = _ROWS if word == "XMLTABLE" and last == index else tokens[last]
            elif texts == ["ROWS", "FROM", "("]:
                opener = token
            elif texts == ["COLLATION", "FOR", "("]:
                return None
            elif word in FUNCTIONS_WITHOUT_PARENTHESES:
                if not _add(functions, token, tokens, index + 1):
                    return None
            else:
                end = last + 1 + _is(tokens, last + 1, "*")  # with its descendants
                tables.update((_key(tokens[last]), *_alias(tokens, end)[:1]))
    return tables, functions


def _add(
    functions: dict[str, set[str]], function: Token, tokens: Sequence[Token], end: int
) -> bool:
    """Add a function in FROM, the alias and columns of which stand at an index.

    :return: False if its name can't be told.
    """
    alias, *columns = _alias(tokens, end) or [""]
    own = _key(function)
    if not own or not (alias or function.text not in _NAMED_OTHERWISE) or alias == "?":
        return False
    for name in (own, alias):  # the column of a value has the name of the value
        known = {*columns} or {name}
        functions[name] = functions.get(name, known) & known
    return True


def _alias(tokens: Sequence[Token], index: int) -> list[str]:
    """Return the alias at an index ("?" if it can't be read, "" if none), and its columns."""
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
        depth = tokens[index].depth
        for before, token in pairwise(tokens[index:]):
            if token.depth <= depth:
                break
            if token.depth == depth + 1 and before.text in ("(", ","):
                columns.append(token.name())
    return [alias, *columns]
