"""What a statement does where it evaluates: clauses that lock or write, and calls of functions.

A function that examines returns what must be refused, in a few words, or None.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .from_clause import FromClause
from .tokens import NOTHING
from .words import DML, FUNCTIONS, PROTECTING, QUERIES

if TYPE_CHECKING:
    from .tokens import Token

__all__ = ["SET_CONFIG", "examine_tokens"]

SET_CONFIG = "set_config"

# After one of these a name is no function, though a parenthesis may follow it.
_BEFORE_NAME = frozenset(("AS", "INTO", "WITH", "RECURSIVE", "PREPARE", "EXECUTE"))
_KEY_LOCKS = frozenset((("NO", "KEY"), ("KEY", "SHARE")))
_TABLE = 12  # tokens that may stand between UPDATE and SET: ONLY a.b.c * AS d


def examine_tokens(tokens: list[Token], dialect: str, parameters: Any) -> str | None:  # noqa: C901  # one case after the other
    """Examine a whole statement, whatever its first word.

    A server evaluates expressions in more places than queries: in SET, SHOW, EXECUTE, USING.
    """
    sources = FromClause(tokens)
    query = False  # whether one has begun
    withs: set[int] = set()  # the depths at which the statement that belongs to a WITH is to come
    openers: list[str] = []  # what stands before each parenthesis that is open
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else NOTHING
        before_word = before.text if before.kind in ("word", "other") else ""
        after, second = [*tokens[index + 1 : index + 3], NOTHING, NOTHING][:2]
        if token.kind == "other":
            if token.text == "(":
                openers.append(before.text if before.kind in ("word", "quoted") else "")
            elif token.text == ")" and openers:
                openers.pop()
                withs.discard(token.depth + 1)
            continue
        # psycopg2 and drivers of MySQL make parentheses of a value that is a tuple: nextval%s.
        filled = after.is_other("%") and second.text in ("S", "(")
        called = (after.is_other("(") or filled) and before_word not in _BEFORE_NAME
        # PostgreSQL also calls by (value).name. In $1.name the point belongs to the number's token.
        point = before.text[-1:] == "." and before.kind in ("other", "number")
        if called or (point and dialect == "postgresql" and token.name() != SET_CONFIG):
            what = _examine_call(tokens, index, dialect, parameters)
            if what is not None and (called or not sources.has_column(index)):
                return what
        if token.kind != "word" or before_word in ("AS", "."):  # after these a word is a name
            continue
        query = query or token.text in QUERIES
        if token.text == "WITH" and (not index or before_word == "("):
            withs.add(token.depth)
        elif token.depth in withs and before.text not in ("WITH", "RECURSIVE", ","):
            if token.text in DML:
                return token.text
            if token.text in QUERIES:
                withs.discard(token.depth)
        opener = openers[-1] if openers else ""
        nested = before.text == "(" and opener in ("AS", "MATERIALIZED", "COPY")
        if nested and _is_dml(token, tokens[index + 1 : index + 1 + _TABLE]):
            return token.text
        what = None
        if query or token.text == "NEXT":  # SHOW GRANTS FOR share is no query
            what = _examine_clause(token, after, second, dialect)
        if what is not None and opener not in ("SUBSTRING", "OVERLAY"):  # ... (a FROM b FOR c)
            return what
    if dialect == "mysql" and _selects_from(tokens):
        return f"{tokens[0].text} of a SELECT from a table"
    return None


def _selects_from(tokens: list[Token]) -> bool:
    """Return whether SET or SHOW contains a query of a table: MySQL locks the rows that it reads.

    What is read by a statement that begins as a query is locked by none.
    """
    first, second = [token.text for token in [*tokens, NOTHING, NOTHING][:2]]
    if first not in ("SET", "SHOW") or second == "STATEMENT":
        return False
    queries: set[int] = set()  # the depths at which one may go on with FROM
    for before, token in pairwise(tokens):
        word = token.text if token.kind in ("word", "other") else ""
        if word == ")":
            queries.discard(token.depth + 1)
        elif word == "SELECT":
            queries.add(token.depth)
        elif (word == "FROM" and token.depth in queries) or (
            word == "TABLE" and token.depth > tokens[0].depth and before.text not in ("@", ".")
        ):
            return True
    return False


def _is_dml(token: Token, rest: list[Token]) -> bool:
    """True for a CTE that writes, and not for a column of such a name: ``AS (update text)``."""
    after = rest[0] if rest else NOTHING
    if token.text in ("INSERT", "MERGE"):
        return after.text == "INTO"
    if token.text == "DELETE":
        return after.text == "FROM"
    if token.text == "UPDATE":
        for later in rest:
            if later.text in (",", ")"):
                return False
            if later.text == "SET" and later.kind == "word":
                return True
    return False


def _examine_clause(token: Token, after: Token, second: Token, dialect: str) -> str | None:
    """Examine a word of a query by the two that follow it."""
    if token.text == "INTO":
        if dialect != "mysql":
            return "SELECT INTO"
        if after.text in ("OUTFILE", "DUMPFILE"):
            return f"SELECT INTO {after.text}"
    elif token.text == "FOR" and after.kind == "word":
        if after.text in ("UPDATE", "SHARE"):
            return f"SELECT ... FOR {after.text}"
        if (after.text, second.text) in _KEY_LOCKS:
            return (
                "SELECT ... FOR NO KEY UPDATE" if after.text == "NO" else "SELECT ... FOR KEY SHARE"
            )
    elif token.text == "LOCK" and dialect == "mysql":
        if after.text == "IN" and second.text == "SHARE":
            return "SELECT ... LOCK IN SHARE MODE"
    elif token.text == "NEXT" and after.text == "VALUE" and second.text == "FOR":
        return "NEXT VALUE FOR"
    return None


# -- functions -------------------------------------------------------------------------------


def _examine_call(tokens: list[Token], index: int, dialect: str, parameters: Any) -> str | None:
    """Examine a call of the function that is named at an index."""
    name = tokens[index].name()
    if tokens[index].kind == "escaped":
        return "A call of what can't be read"
    if name == SET_CONFIG and dialect == "postgresql":
        if _lifts(tokens[index + 2 :], parameters):
            return "set_config() of what protects the transaction"
    elif name and FUNCTIONS.fullmatch(name):
        return f"{name}()"
    return None


# What set_config() must not set. By the last the server would read a text otherwise than Python.
_NOT_CONFIGURED = PROTECTING | {"client_encoding"}
# A name is known if it is one literal or one parameter. One that is put together is not known, but
# it is harmless if it begins with a literal that has a point, as no protecting setting has.
_PARAMETER = r"(%S|%\(\w+\)S|:\w+|\?|\$\d+)"
_CAST = re.compile(r"(::\w+)?")
_BOUND = re.compile(rf"{_PARAMETER}(::\w+)?")
_AND_MORE = re.compile(rf"(::\w+)?(\|\|('|\w+|{_PARAMETER})(::\w+)?)+")


def _lifts(arguments: list[Token], parameters: Any) -> bool:
    """True if set_config() names, or may name, what protects the transaction.

    :param arguments: the tokens after its parenthesis, to the end of the statement.
    """
    name: list[Token] = []
    for token in arguments:
        if token.is_other(",") and token.depth == arguments[0].depth:
            break
        name.append(token)
    if name and name[0].kind == "string":
        if _CAST.fullmatch(_joined(name[1:])):
            return name[0].text.strip().lower() in _NOT_CONFIGURED
        return "." not in name[0].text or not _AND_MORE.fullmatch(_joined(name[1:]))
    if _BOUND.fullmatch(_joined(name)):
        return parameters is None or _mentions(parameters)
    return True


def _joined(tokens: list[Token]) -> str:
    return "".join(
        token.text if token.kind in ("word", "number", "other") else "'" for token in tokens
    )


def _mentions(parameters: Any) -> bool:
    """True if any bound value, however nested, names what protects, or may name it."""
    if isinstance(parameters, str):
        return parameters.strip().lower() in _NOT_CONFIGURED
    if isinstance(parameters, dict):
        parameters = parameters.values()
    elif not isinstance(parameters, (list, tuple)):
        # Of an Enum psycopg sends the name and pg8000 the value, and that str() of what it does not
        # know. Bytes are no text, and by python -bb str() of them is an error.
        several = (parameters, *(getattr(parameters, name, "") for name in ("name", "value")))
        sent = [str(one).lower() for one in several if not isinstance(one, (bytes, bytearray))]
        return any(name in one for name in _NOT_CONFIGURED for one in sent)
    return any(_mentions(value) for value in parameters)
