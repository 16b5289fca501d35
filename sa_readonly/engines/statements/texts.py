"""What a whole text would do: each of its statements, and what stands in EXPLAIN or PREPARE.

A function that examines returns what must be refused, in a few words, or None.
"""

from __future__ import annotations

import re
from datetime import date, time, timedelta
from itertools import pairwise
from numbers import Number
from typing import TYPE_CHECKING, Any

from .queries import examine_tokens
from .settings import ends, examine_pragma, examine_setting
from .tokens import NOTHING, UNCLEAR, VERSIONED_COMMENT, Token, tokenize
from .words import EXPLAIN_OPTIONS, EXPLAINS, QUERIES, READS, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "bare",
    "begins_writing",
    "ends_transaction",
    "examine",
    "hides_a_parameter",
    "may_hide",
    "reads_alike",
]

_VERSIONS = 3  # kinds of versioned comments in one text; each doubles the ways to read it
# Drivers of MySQL fill a text by Python's %, which knows widths and %r; psycopg knows %b and %t. A
# value's name is plain: another may itself be read as something else.
_PLACEHOLDER = re.compile(
    r"%%|%(?:\([\w .:-]*\))?[-+ #0]*[0-9*]*(?:\.[0-9*]*)?[hlL]?[srabt]|%\(", re.ASCII
)
_VALUE = "SA_READONLY_VALUE"
# A comment as tools for tracing put it around a text: a server executes nothing of it, nothing in
# it ends it, a line or a literal, and no driver puts a value there.
_TRACE = re.compile(r"/\*[A-Za-z ](?:[\w =',.:&-]|%%[0-9A-F]{2})*\*/", re.ASCII)
# Without one of these words a text need not be read for what it may do.
_MAY_END = re.compile(r"\b(COMMIT|END|ROLLBACK|ABORT)\b", re.IGNORECASE)
_BEGINS_WRITING = [
    [kind, *transaction]
    for kind in ("IMMEDIATE", "EXCLUSIVE")
    for transaction in ([], ["TRANSACTION"])
]
_MAY_BEGIN_WRITING = re.compile(r"\bBEGIN\b.*\b(IMMEDIATE|EXCLUSIVE)\b", re.IGNORECASE | re.DOTALL)


def examine(
    statement: str,
    dialect: str,
    parameters: Any = (),
    *,
    backslash: bool | None = None,
    ansi_quotes: bool = False,
) -> str | None:
    """Return what a text would do that must be refused, in a few words, or None for a read.

    :param statement: the SQL text, of one or more statements.
    :param dialect: the name of SQLAlchemy's dialect.
    :param parameters: the bound values; they matter only where the text leaves it to them whether
        the protection is lifted. None stands for values that are not known yet.
    :param backslash: whether a backslash escapes in plain strings; None: as the database's default.
    :param ansi_quotes: whether MySQL has names in double quotes, not strings.
    """
    dialect, backslash = _settled(dialect, backslash)
    versions = set(VERSIONED_COMMENT.findall(statement)) if dialect == "mysql" else ()
    if len(versions) > _VERSIONS:
        return UNCLEAR
    # A server of another version or make skips such a comment, which may change what surrounds it:
    # the text is read with each choice of them skipped.
    choices: list[tuple[str, ...]] = [()]
    for version in versions:
        choices += [(*skipped, version) for skipped in choices]
    for skipped in choices:
        read = tokenize(statement, dialect, backslash, skipped=skipped, ansi_quotes=ansi_quotes)
        what = _examine_all(read, dialect, parameters)
        if what is not None:
            return what
    return None


def _settled(dialect: str, backslash: bool | None) -> tuple[str, bool]:
    dialect = "mysql" if dialect == "mariadb" else dialect
    return dialect, dialect == "mysql" if backslash is None else backslash


def ends_transaction(statement: str, *, backslash: bool | None = None) -> str | None:
    """Return what of a text for PostgreSQL ends the transaction, in a few words, or None."""
    if not _MAY_END.search(statement):
        return None
    for tokens in _statements(tokenize(statement, "postgresql", bool(backslash))):
        if word := ends(tokens):
            return f"{word} in a text"
    return None


def begins_writing(statement: str) -> bool:
    """Return whether a text for SQLite begins a transaction that may write, and does no more."""
    if not _MAY_BEGIN_WRITING.search(statement):
        return False
    tokens = list(tokenize(statement, "sqlite", backslash=False))
    while tokens and tokens[-1].is_other(";"):
        tokens.pop()
    words = [token.text if token.kind == "word" else "" for token in tokens]
    return words[:1] == ["BEGIN"] and words[1:] in _BEGINS_WRITING


def bare(statement: str) -> str:
    """Return a text without what a tool for tracing tells in a comment before or behind it.

    Mostly it tells something else each time, as an identifier of the request.
    """
    if statement.endswith("*/") and (
        found := _TRACE.fullmatch(statement, max(0, statement.rfind("/*")))
    ):
        statement = statement[: found.start()]
    if statement.startswith("/*") and (found := _TRACE.match(statement)):
        statement = statement[found.end() :]
    return statement


def reads_alike(
    statement: str, other: str, dialect: str, *, backslash: bool | None, ansi_quotes: bool
) -> bool:
    """Return whether two texts are the same but for comments; see :func:`examine`."""
    dialect, backslash = _settled(dialect, backslash)
    one, two = (
        list(tokenize(text, dialect, backslash, ansi_quotes=ansi_quotes))
        for text in (statement, other)
    )
    return one == two


def hides_a_parameter(statement: str, dialect: str) -> bool:
    """Return whether a placeholder stands in a literal or comment.

    psycopg2 and PyMySQL put each value into the text, in quotes of its own, which may end what
    surrounds it.
    """
    marked = _PLACEHOLDER.sub(_mark, statement)
    there = marked.count(_VALUE)
    if not there:
        return False
    readings = [tokenize(marked, dialect, backslash=False)]
    if dialect in ("mysql", "mariadb"):  # however the server reads quotes and comments
        skipped = tuple(VERSIONED_COMMENT.findall(statement))
        readings = [
            tokenize(marked, "mysql", backslash, skipped=skipped, ansi_quotes=ansi_quotes)
            for backslash in (False, True)
            for ansi_quotes in (False, True)
        ]
    return any(sum(token[:2] == ("word", _VALUE) for token in read) < there for read in readings)


def _mark(placeholder: re.Match[str]) -> str:
    """Put a word in the place of a placeholder, so that it is a token where it stands outside."""
    found = placeholder.group()
    if found == "%(":
        return f"'{_VALUE}'"  # it is taken for hidden
    return found if found == "%%" else f" {_VALUE} "


def may_hide(values: Any) -> bool:
    """Return whether any of a text's values, however nested, may be more than a number or date."""
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return not (values is None or isinstance(values, (Number, date, time, timedelta)))
    return any(map(may_hide, values))


# -- statements ------------------------------------------------------------------------------


def _statements(read: Iterator[Token]) -> Iterator[list[Token]]:
    """Yield each statement of a text; empty ones too."""
    tokens: list[Token] = []
    for token in read:
        if token.is_other(";"):
            yield tokens
            tokens = []
        else:
            tokens.append(token)
    yield tokens


def _examine_all(read: Iterator[Token], dialect: str, parameters: Any) -> str | None:
    ended = ""  # the word by which the text has ended the transaction
    for tokens in _statements(read):
        if tokens and tokens[-1].kind == "unclear":
            return tokens[-1].text
        if ended and tokens:  # it runs in a transaction that only the server knows
            return f"What follows {ended} in one text"
        what = _examine_one(tokens, dialect, parameters)
        if what is not None:
            return what
        if dialect == "postgresql":
            ended = ends(tokens)
    return None


def _examine_one(tokens: list[Token], dialect: str, parameters: Any) -> str | None:
    opened = (index for index, token in enumerate(tokens) if not token.is_other("("))
    tokens = tokens[next(opened, len(tokens)) :]
    if not tokens or tokens[0].kind != "word":
        return None  # no statement; the server says so
    first = tokens[0].text
    if first not in READS:
        return first
    if first == "PRAGMA":
        return examine_pragma(tokens)
    words = [token.text if token.kind == "word" else "" for token in tokens]
    if first in EXPLAINS:
        return _examine_explain(tokens, words, dialect, parameters)
    what = None
    if words[:2] == ["SET", "STATEMENT"]:
        what = _examine_one(_inside_set_statement(tokens), dialect, parameters)
    if first in SETTINGS:
        what = what or examine_setting(tokens, words, dialect)
    elif first in ("DECLARE", "PREPARE", "EXECUTE"):
        what = _examine_prepared(tokens, words, dialect, parameters)
    elif first == "COPY":
        base = tokens[0].depth
        outer = [token.text for token in tokens if token.depth == base and token.kind == "word"]
        what = None if ("TO", "STDOUT") in pairwise(outer) else "COPY"
    elif first == "LOAD" and dialect != "postgresql":  # LOAD DATA; PostgreSQL loads a library
        what = "LOAD"
    return what or examine_tokens(tokens, dialect, parameters)


def _inside_set_statement(tokens: list[Token]) -> list[Token]:
    """Return the statement that MariaDB's SET STATEMENT name = value FOR is about."""
    while [token.text for token in tokens[:2]] == ["SET", "STATEMENT"]:  # it may be one again
        tokens = _from(tokens, "FOR")[1:]
    return tokens


def _from(tokens: list[Token], word: str) -> list[Token]:
    """Return the tokens from ``word`` on, where that follows the first token at the same depth."""
    for index, token in enumerate(tokens):
        found = index and token.kind == "word" and token.text == word
        if found and token.depth == tokens[0].depth:
            return tokens[index:]
    return []


def _verb(tokens: list[Token]) -> str:
    """Return the text of the first token that is no opening parenthesis."""
    return next((token.text for token in tokens if token.text != "("), "")


# -- EXPLAIN ---------------------------------------------------------------------------------


def _examine_explain(
    tokens: list[Token], words: list[str], dialect: str, parameters: Any
) -> str | None:
    """Examine EXPLAIN and its like by what they explain, which some run and some run in part."""
    runs, rest = _explained(tokens, words)
    verb = _verb(rest)
    analyze = words[0] == "ANALYZE"  # MariaDB's, which runs a statement; else it writes statistics
    if analyze and (dialect != "mysql" or verb not in ("SELECT", "WITH", "VALUES")):
        return "ANALYZE"
    if runs or analyze:
        if verb not in EXPLAINS and _examine_one(rest, dialect, parameters) is None:
            return None
        return f"{'' if analyze else words[0] + ' '}ANALYZE {verb}"
    if dialect == "mysql":  # it fills what is derived in FROM, and reads, and locks, single rows
        return examine_tokens(rest, dialect, parameters)
    if verb == "PRAGMA":  # which SQLite obeys as it explains
        return examine_pragma(rest)
    # PostgreSQL evaluates the arguments of EXECUTE, also in CREATE TABLE AS EXECUTE.
    if verb == "CREATE":
        rest = _from(rest, "EXECUTE")
    elif verb != "EXECUTE":
        rest = []
    return examine_tokens(rest, dialect, parameters)


def _explained(tokens: list[Token], words: list[str]) -> tuple[bool, list[Token]]:
    """Return whether EXPLAIN also runs what it explains, and the tokens of that."""
    runs = False
    start = 1
    if _has_options(tokens):
        base = tokens[1].depth
        for start in range(2, len(tokens)):
            name = tokens[start]
            if name.is_other(")") and name.depth == base:
                break
            if tokens[start - 1].text in ("(", ","):
                on = not _is_off(tokens[start + 1 : start + 3])
                if name.name() in ("analyze", "analyse"):
                    runs = on  # the last of them counts
                elif name.kind == "escaped":
                    runs |= on
        return runs, tokens[start + 1 :]
    while start < len(tokens):
        value = "=" in (tokens[start].text, tokens[start - 1].text)  # FORMAT = JSON
        if words[start] in ("ANALYZE", "ANALYSE"):
            runs = True
        elif words[start] not in EXPLAIN_OPTIONS and not value:
            break
        start += 1
    return runs, tokens[start:]


def _has_options(tokens: list[Token]) -> bool:
    """True if EXPLAIN is followed by options in parentheses, and not by a query in them."""
    if len(tokens) < 3 or tokens[1].text != "(":
        return False
    first = tokens[2]
    return first.kind != "other" and not (first.kind == "word" and first.text in QUERIES)


def _is_off(tokens: list[Token]) -> bool:
    """True if an option's value, given with the token after it, is false for sure."""
    value, after = [*tokens, NOTHING, NOTHING][:2]
    if after.text not in (",", ")"):  # 0x1 is two tokens here
        return False
    if value.kind == "number":
        return not value.text.strip("0")
    return value.kind in ("word", "quoted", "string") and value.text.upper() in ("OFF", "FALSE")


# -- PREPARE ---------------------------------------------------------------------------------


def _examine_prepared(
    tokens: list[Token], words: list[str], dialect: str, parameters: Any
) -> str | None:
    """Examine DECLARE and PREPARE by the query that they contain, and EXECUTE."""
    if dialect == "mysql":
        return _examine_prepared_text(tokens, words)
    if words[0] == "EXECUTE":
        return None if dialect == "postgresql" else "EXECUTE"
    rest = _from(tokens, "FOR" if words[0] == "DECLARE" else "AS")[1:]
    if _verb(rest) not in QUERIES:
        return _verb(rest) or words[0]
    # The values of a prepared query are given later.
    return _examine_one(rest, dialect, parameters if words[0] == "DECLARE" else None)


def _examine_prepared_text(tokens: list[Token], words: list[str]) -> str | None:
    """Examine MySQL's PREPARE name FROM 'text' and EXECUTE IMMEDIATE 'text' USING values."""
    if words[0] == "EXECUTE" and words[1:2] != ["IMMEDIATE"]:
        return None
    prepared = words[0] == "PREPARE"
    inner = tokens[3:] if prepared else tokens[2:]
    using = not prepared and words[3:4] == ["USING"]
    alone = bool(inner) and inner[0].kind == "string" and (len(inner) == 1 or using)
    # Strings side by side are one string; what a backslash makes of it is not looked at.
    if not alone or (prepared and words[2] != "FROM") or "\\" in inner[0].text:
        return words[0]
    text = inner[0].text
    return examine(text, "mysql", None) or examine(text, "mysql", None, ansi_quotes=True)
