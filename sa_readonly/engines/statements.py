"""What a text of SQL would do.

It is Python's part of the guard. It need not catch each write, which the server refuses; it must
catch what the server lets through: what would lift the protection, take a lock or reach past the
transaction. So a text whose leading keyword it does not know as a read is refused.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from .from_clause import FromClause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SET_CONFIG", "ends_transaction", "examine", "hides_a_parameter", "writing_pragma"]

SET_CONFIG = "set_config"

# To the servers, space is ASCII and each character beyond it a letter. A number ends where it does:
# 1.INTO is two tokens.
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
# PostgreSQL's E'', U&'' and U&"" (of which the contents are not looked at), $$, line comments.
_ESCAPED = re.compile(
    r"""[eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'?|[uU]&'[^']*(?:''[^']*)*'?|[uU]&"[^"]*(?:""[^"]*)*"?""",
    re.DOTALL,
)
# A string with backslashes: what goes on after E'', and all with standard_conforming_strings off.
_BACKSLASHED = re.compile(r"'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'?", re.DOTALL)
_DOLLAR = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9\x80-\U0010ffff]*)?\$")
_LINE = re.compile(r"--[^\r\n]*")
# MySQL's strings, of either quote, and comments.
_MYSQL_STRING = re.compile(
    r"""'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'?|"[^"\\]*(?:(?:\\.|"")[^"\\]*)*"?""", re.DOTALL
)
_MYSQL_EXECUTED = re.compile(r"/\*M?!\d*")
_MYSQL_VERSIONED = re.compile(r"/\*(?:M!\d*|!\d+)")
_MYSQL_LINE = re.compile(r"--(?=[\x00-\x20\x7f]|$)")
_BALANCED = re.compile(
    r"""(?:(?!--|/\*|\*/)[^'"`\\#])*(?:(['"`])(?:(?!--|/\*)[^'"`\\#])*\1(?:(?!--|/\*)[^'"`\\#])*)*""",
    re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")

_READS = frozenset(
    (
        "SELECT",
        "WITH",
        "VALUES",
        "TABLE",
        "SHOW",
        "DESCRIBE",
        "DESC",
        "CHECKSUM",
        "EXPLAIN",
        "ANALYZE",
        "DECLARE",
        "FETCH",
        "MOVE",
        "CLOSE",
        "COPY",
        "SET",
        "RESET",
        "BEGIN",
        "START",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
        "SAVEPOINT",
        "RELEASE",
        "PREPARE",
        "EXECUTE",
        "DEALLOCATE",
        "PRAGMA",
        "USE",
        "LOAD",
        "LISTEN",
        "UNLISTEN",
        "HELP",
        "GET",
    )
)
_QUERIES = frozenset(("SELECT", "WITH", "VALUES", "TABLE"))
_WRITES = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"))
_SETTINGS = frozenset(
    (
        "SET",
        "RESET",
        "BEGIN",
        "START",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
    )
)
_AFTER_BEGIN = frozenset(
    (
        "TRANSACTION",
        "TRAN",
        "WORK",
        "DEFERRED",
        "IMMEDIATE",
        "EXCLUSIVE",
        "CONCURRENT",
        "ISOLATION",
        "READ",
        "DEFERRABLE",
    )
)
_EXPLAINS = frozenset(("EXPLAIN", "DESCRIBE", "DESC", "ANALYZE"))
_EXPLAIN_WORDS = frozenset(("VERBOSE", "EXTENDED", "PARTITIONS", "FORMAT", "QUERY", "PLAN"))
_KEY_LOCKS = frozenset((("NO", "KEY"), ("KEY", "SHARE")))
_READ_ONLY_NAMES = frozenset(  # the last: off, a text is no more what Python reads in it
    (
        "transaction_read_only",
        "default_transaction_read_only",
        "tx_read_only",
        "query_only",
        "standard_conforming_strings",
    )
)
# What set_config() does not set: a text may be no more what Python reads in it, either.
_NOT_CONFIGURED = _READ_ONLY_NAMES | {"client_encoding"}
_ON = frozenset(("ON", "1", "TRUE", "YES"))
# What may stand in a value of sql_mode, which can change what a quote or a backslash means.
_SQL_MODE_WORDS = frozenset(
    ("SQL_MODE", "SESSION", "GLOBAL", "DEFAULT", "SELECT", "CONCAT", "REPLACE")
)
# In these a character may end in the byte of a quote or a backslash. PostgreSQL reads letters and
# digits alone.
_CHARSETS_WITH_QUOTES = re.compile(
    r"big5|gbk|gb18030|s(hift)?jis|mskanji|uhc|johab|(cp|win|windows)9\d\d", re.IGNORECASE
)
_CHARSET_SETTINGS = frozenset(("character_set_client", "client_encoding"))
_SQL_MODES = frozenset(
    (
        "",
        "ALLOW_INVALID_DATES",
        "ERROR_FOR_DIVISION_BY_ZERO",
        "HIGH_NOT_PRECEDENCE",
        "NO_AUTO_CREATE_USER",
        "NO_AUTO_VALUE_ON_ZERO",
        "NO_ENGINE_SUBSTITUTION",
        "NO_UNSIGNED_SUBTRACTION",
        "NO_ZERO_DATE",
        "NO_ZERO_IN_DATE",
        "ONLY_FULL_GROUP_BY",
        "PAD_CHAR_TO_FULL_LENGTH",
        "PIPES_AS_CONCAT",
        "REAL_AS_FLOAT",
        "STRICT_ALL_TABLES",
        "STRICT_TRANS_TABLES",
        "TIME_ROUND_FRACTIONAL",
        "TIME_TRUNCATE_FRACTIONAL",
        "TRADITIONAL",
    )
)
# Functions that write, lock or reach another server, and that a server runs in a read-only
# transaction, or that are clearer refused here.
_FUNCTIONS = re.compile(
    r"nextval|setval|lo_(creat|create|from_bytea|import|put|unlink|truncate|truncate64|export)"
    r"|lowrite|pg_notify|pg_(try_)?advisory_(xact_)?lock(_shared)?|dblink\w*"
    r"|pg_logical_emit_message|pg_logical_slot_get_\w+|pg_switch_wal|pg_promote|pg_create_\w+"
    r"|pg_drop_\w+|pg_copy_\w+_slot|pg_replication_slot_advance"
    r"|pg_replication_origin_(create|drop|advance|session_setup|session_reset|xact_setup)"
    r"|pg_file_\w+|get_lock|load_extension"
    # these write into the catalog or into an index past a read-only transaction
    r"|pg_(restore|clear)_\w+_stats|pg_stat_(statements_)?reset\w*|gin_clean_pending_list"
    r"|brin_(summarize|desummarize)_\w+|pg_truncate_visibility_map|heap_force_\w+"
    r"|pg_import_system_collations|pg_extension_config_dump|pg_nextoid|binary_upgrade_\w+"
    # these take a transaction id, which is a record in the log, or a lock that stops writers
    r"|txid_current|pg_current_xact_id|bt_index_parent_check"
    # these steer the server or other sessions, whatever becomes of the transaction
    r"|pg_(cancel|terminate)_backend|pg_reload_conf|pg_rotate_logfile(_old)?"
    r"|pg_log_(backend_memory_contexts|standby_snapshot)|pg_sync_replication_slots"
    r"|pg_backup_(start|stop)|pg_(start|stop)_backup|pg_(wal|xlog)_replay_(pause|resume)"
    r"|pg_switch_xlog|pg_replication_origin_xact_reset|pg_stop_making_pinned_objects"
    r"|autoprewarm_\w+|pg_buffercache_evict\w*"
)
_PRAGMAS = frozenset(  # those that may be given an argument or a value
    [
        "analysis_limit",
        "automatic_index",
        "busy_timeout",
        "cache_size",
        "cache_spill",
        "case_sensitive_like",
        "cell_size_check",
        "checkpoint_fullfsync",
        "count_changes",
        "defer_foreign_keys",
        "foreign_key_check",
        "foreign_key_list",
        "foreign_keys",
        "full_column_names",
        "fullfsync",
        "hard_heap_limit",
        "ignore_check_constraints",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "journal_size_limit",
        "legacy_alter_table",
        "max_page_count",
        "mmap_size",
        "quick_check",
        "read_uncommitted",
        "recursive_triggers",
        "reverse_unordered_selects",
        "secure_delete",
        "short_column_names",
        "soft_heap_limit",
        "synchronous",
        "table_info",
        "table_list",
        "table_xinfo",
        "temp_store",
        "threads",
        "trusted_schema",
        "wal_autocheckpoint",
    ]
)
_PRAGMAS_THAT_WRITE = frozenset(("incremental_vacuum", "optimize", "wal_checkpoint"))


class _Token(NamedTuple):
    kind: str  # "word", "quoted", "string", "escaped", "number", "other", "unclear"
    text: str  # a word in upper case; the inside of what is quoted
    depth: int  # of parentheses

    def name(self) -> str:
        return self.text.lower() if self.kind in ("word", "quoted") else ""


_NOTHING = _Token("other", "", 0)


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
    :param parameters: what is bound; it is looked at only where the text leaves it open whether
        the protection is to be lifted.
    :param backslash: whether a backslash escapes in plain strings; None: as the database's default.
    :param ansi_quotes: whether what MySQL has in double quotes is a name, not a string.
    """
    dialect = "mysql" if dialect == "mariadb" else dialect
    if backslash is None:
        backslash = dialect == "mysql"
    versions = set(_MYSQL_VERSIONED.findall(statement)) if dialect == "mysql" else ()
    if len(versions) > _VERSIONS:
        return _UNCLEAR
    # To a server of another version, or make, each of them is a comment, and changes what is not.
    choices: list[tuple[str, ...]] = [()]
    for version in versions:
        choices += [(*skipped, version) for skipped in choices]
    for skipped in choices:
        read = _tokens(statement, dialect, backslash, skipped=skipped, ansi_quotes=ansi_quotes)
        what = _examine_all(read, dialect, parameters)
        if what is not None:
            return what
    return None


def _examine_all(read: Iterator[_Token], dialect: str, parameters: Any) -> str | None:
    """What the statements of one text do, which stand beside each other."""
    tokens: list[_Token] = []
    ended = ""  # the word by which the text has ended the transaction
    for token in (*read, _Token("other", ";", 0)):
        if token.kind == "unclear":
            return token.text
        if token.text != ";" or token.kind != "other":
            tokens.append(token)
            continue
        if ended and tokens:  # in a transaction of which nobody knows but the server
            return f"What follows {ended} in one text"
        what = _examine_one(tokens, dialect, parameters)
        if what is not None:
            return what
        if dialect == "postgresql":
            ended = _ends(tokens)
        tokens = []
    return None


def ends_transaction(statement: str, *, backslash: bool | None = None) -> str | None:
    """Return what of a text for PostgreSQL ends the transaction, in a few words, or None."""
    tokens: list[_Token] = []
    for token in (*_tokens(statement, "postgresql", bool(backslash)), _Token("other", ";", 0)):
        if token.kind != "other" or token.text != ";":
            tokens.append(token)
        elif word := _ends(tokens):
            return f"{word} in a text"
        else:
            tokens = []
    return None


def _ends(tokens: list[_Token]) -> str:
    """Return the word by which a statement ends the transaction, or nothing."""
    first, *rest = [token.text for token in tokens if token.kind == "word"] or [""]
    return first if first in ("COMMIT", "END", "ROLLBACK", "ABORT") and "TO" not in rest else ""


def _tokens(  # noqa: C901  # one case after the other
    statement: str,
    dialect: str,
    backslash: bool,
    *,
    skipped: tuple[str, ...] = (),
    ansi_quotes: bool = False,
) -> Iterator[_Token]:
    """Return what a server reads.

    :param skipped: by what begin those of MySQL's executed comments that are comments to it.
    """
    position = depth = 0
    executed_to = -1  # where such a comment ends
    after_escaped = False  # PostgreSQL's string goes on in the next, by the same rules
    while position < len(statement):
        if position == executed_to:
            position += len("*/")
            continue
        rules = backslash or (after_escaped and dialect == "postgresql")
        if special := _special(statement, position, dialect, rules, "'" if ansi_quotes else "'\""):
            kind, text, position = special
            if kind == "executed":
                executed_to = statement.find("*/", position)
                if text in skipped:
                    position = executed_to
            elif kind:
                after_escaped = kind == "escaped" and text[0] not in "uU"
                yield _Token(kind, text, depth)
            continue
        found = _TOKEN.match(statement, position)
        if found is None:  # never: the last alternative takes any character
            return
        kind, text = found.lastgroup or "other", found.group()
        position = found.end()
        if kind == "line":
            position = _end_of(statement, "\n", position)
            continue
        if kind == "block":
            position = _end_of_block(statement, position, nested=dialect == "postgresql")
            continue
        after_escaped = after_escaped and kind == "space"
        if kind == "word":
            # ASCII alone: the long s is no S to a server
            yield _Token("word", text.upper() if text.isascii() else text, depth)
        elif kind in ("string", "quoted"):
            yield _Token(kind, text[1:-1].replace(text[0] * 2, text[0]), depth)
        elif kind == "number":
            yield _Token("number", text, depth)
        elif kind != "space":
            depth -= text == ")"
            yield _Token("other", text, depth)
            depth += text == "("


_VERSIONS = 3  # that may stand in one text, which is read in each way
_UNCLEAR = "A comment that can't be read"
_PLACEHOLDER = re.compile(r"%%|%s|%\(")


def hides_a_parameter(statement: str, dialect: str) -> bool:
    """True if a placeholder stands in a literal or comment, which its value may end.

    psycopg2 and PyMySQL put each value into the text, with quotes of its own.
    """
    there = sum(found != "%%" for found in _PLACEHOLDER.findall(statement))
    if not there:
        return False
    readings = [_tokens(statement, dialect, backslash=False)]
    if dialect in ("mysql", "mariadb"):  # however the server reads quotes and comments
        skipped = tuple(_MYSQL_VERSIONED.findall(statement))
        readings = [
            _tokens(statement, "mysql", backslash, skipped=skipped, ansi_quotes=ansi_quotes)
            for backslash in (False, True)
            for ansi_quotes in (False, True)
        ]
    return any(_placeholders(tokens) < there for tokens in readings)


def _placeholders(read: Iterator[_Token]) -> int:
    """Return how many stand in no literal and no comment."""
    found = 0
    for (zero, one), (_, two) in pairwise(pairwise([_NOTHING, *read])):
        starts = two.text == "(" or two.text.startswith("S")
        found += one.text == "%" and zero.text != "%" and starts
    return found


def _special(  # noqa: C901  # one case after the other
    statement: str, position: int, dialect: str, backslash: bool, quotes: str
) -> tuple[str, str, int] | None:
    """Return what one database alone reads here: a kind ("" is nothing), the text and its end.

    :param quotes: those of MySQL's strings.
    """
    character = statement[position]
    if dialect == "postgresql":
        if character in "eEuU" and (found := _ESCAPED.match(statement, position)):
            return "escaped", found.group(), found.end()
        if backslash and character == "'" and (found := _BACKSLASHED.match(statement, position)):
            return "escaped", found.group(), found.end()
        if character == "$" and (found := _DOLLAR.match(statement, position)):
            end = _end_of(statement, found.group(), found.end())
            return "string", statement[found.end() : end - len(found.group())], end
        if character == "-" and (found := _LINE.match(statement, position)):
            return "", "", found.end()
    elif dialect == "mysql":
        found = _MYSQL_STRING.match(statement, position) if backslash else None
        if found and character in quotes:
            text = found.group()[1:-1]
            return "string", text.replace(character * 2, character), found.end()
        if character == '"' in quotes and (found := _TOKEN.match(statement, position)):
            return "string", found.group()[1:-1].replace('""', '"'), found.end()
        if character == "#" or (character == "-" and _MYSQL_LINE.match(statement, position)):
            return "", "", _end_of(statement, "\n", position)
        if character == "-":  # two of them alone are no comment
            return "", "", position + 1
        if character == "/" and (found := _MYSQL_EXECUTED.match(statement, position)):
            # To another version of the server it is a comment: it must end at the same place.
            if _BALANCED.fullmatch(statement, found.end(), statement.find("*/", found.end())):
                return "executed", found.group(), found.end()
            return "unclear", _UNCLEAR, len(statement)
    elif character == "[" and dialect in ("sqlite", "mssql"):
        end = _end_of(statement, "]", position)
        return "quoted", statement[position + 1 : end - 1], end
    return None


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


def _is_opening(token: _Token) -> bool:
    return token.text == "(" and token.kind == "other"


def _examine_one(tokens: list[_Token], dialect: str, parameters: Any) -> str | None:
    opened = (index for index, token in enumerate(tokens) if not _is_opening(token))
    tokens = tokens[next(opened, len(tokens)) :]
    if not tokens or tokens[0].kind != "word":
        return None  # no statement, which the server says
    first = tokens[0].text
    if first not in _READS:
        return first
    if first == "PRAGMA":
        return _examine_pragma(tokens)
    words = [token.text if token.kind == "word" else "" for token in tokens]
    if first in _EXPLAINS:
        return _examine_explain(tokens, words, dialect, parameters)
    what = None
    if first in _SETTINGS:
        what = _examine_setting(tokens, words, dialect, parameters)
    elif first in ("DECLARE", "PREPARE", "EXECUTE"):
        what = _examine_prepared(tokens, words, dialect, parameters)
    elif first == "COPY":
        base = tokens[0].depth
        outer = [token.text for token in tokens if token.depth == base and token.kind == "word"]
        what = None if ("TO", "STDOUT") in pairwise(outer) else "COPY"
    elif first == "LOAD" and dialect != "postgresql":  # MySQL's LOAD DATA; there a library
        what = "LOAD"
    return what or _examine_tokens(tokens, dialect, parameters)


def _from(tokens: list[_Token], wanted: Callable[[_Token], bool]) -> list[_Token]:
    """Return the tokens from the first wanted word after the leading one, at its depth."""
    for index, token in enumerate(tokens):
        if index and token.kind == "word" and token.depth == tokens[0].depth and wanted(token):
            return tokens[index:]
    return []


def _verb(tokens: list[_Token]) -> str:
    """Return the first text that is no parenthesis."""
    return next((token.text for token in tokens if token.text != "("), "")


def _examine_explain(
    tokens: list[_Token], words: list[str], dialect: str, parameters: Any
) -> str | None:
    """EXPLAIN and its sisters, by what they explain, which some run and some run in part."""
    runs, rest = _explained(tokens, words)
    verb = _verb(rest)
    if words[0] == "ANALYZE" and (dialect != "mysql" or verb not in ("SELECT", "WITH", "VALUES")):
        return "ANALYZE"
    if runs or words[0] == "ANALYZE":
        if verb not in _EXPLAINS and _examine_one(rest, dialect, parameters) is None:
            return None
        return f"{'' if words[0] == 'ANALYZE' else words[0] + ' '}ANALYZE {verb}"
    if dialect == "mysql":  # it fills what is derived in FROM, and reads, and locks, single rows
        return _examine_tokens(rest, dialect, parameters)
    if verb == "PRAGMA":  # which SQLite obeys as it explains
        return _examine_pragma(rest)
    # PostgreSQL evaluates what is given to a prepared statement, also in CREATE TABLE AS EXECUTE.
    if verb != "EXECUTE":
        rest = _from(rest, lambda token: token.text == "EXECUTE") if verb == "CREATE" else []
    return _examine_tokens(rest, dialect, parameters)


def _explained(tokens: list[_Token], words: list[str]) -> tuple[bool, list[_Token]]:
    """Return whether EXPLAIN also runs what it explains, and the tokens of that."""
    runs = False
    start = 1
    if _has_options(tokens):
        base = tokens[1].depth
        for start in range(2, len(tokens)):
            name = tokens[start]
            if name.text == ")" and name.kind == "other" and name.depth == base:
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
        elif words[start] not in _EXPLAIN_WORDS and not value:
            break
        start += 1
    return runs, tokens[start:]


def _has_options(tokens: list[_Token]) -> bool:
    """True if what stands in parentheses after EXPLAIN is no query."""
    if len(tokens) < 3 or tokens[1].text != "(":
        return False
    first = tokens[2]
    return first.kind != "other" and not (first.kind == "word" and first.text in _QUERIES)


def _is_off(tokens: list[_Token]) -> bool:
    """True if this value of an option, with what stands after it, is false for sure."""
    value, after = [*tokens, _NOTHING, _NOTHING][:2]
    if after.text not in (",", ")"):  # 0x1 is two tokens here
        return False
    if value.kind == "number":
        return not value.text.strip("0")
    return value.kind in ("word", "quoted", "string") and value.text.upper() in ("OFF", "FALSE")


def _examine_prepared(
    tokens: list[_Token], words: list[str], dialect: str, parameters: Any
) -> str | None:
    """DECLARE and PREPARE, by the query they contain, and EXECUTE."""
    if dialect == "mysql":
        # PREPARE name FROM 'text', EXECUTE IMMEDIATE 'text' USING values
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
        return examine(text, dialect, None) or examine(text, dialect, None, ansi_quotes=True)
    if words[0] == "EXECUTE":
        return None if dialect == "postgresql" else "EXECUTE"
    mark = "FOR" if words[0] == "DECLARE" else "AS"
    rest = _from(tokens, lambda token: token.text == mark)[1:]
    if _verb(rest) not in _QUERIES:
        return _verb(rest) or words[0]
    # What set_config() is given later is not seen here.
    return _examine_one(rest, dialect, parameters if words[0] == "DECLARE" else None)


def _examine_setting(  # noqa: C901  # one case after the other
    tokens: list[_Token], words: list[str], dialect: str, parameters: Any
) -> str | None:
    """SET, RESET and what begins and ends transactions."""
    first, second = [*words, ""][:2]
    if ("READ", "WRITE") in pairwise(words):
        return f"{first} ... READ WRITE"
    if second == "PREPARED":  # of another transaction, which wrote
        return f"{first} PREPARED"
    if first == "RESET" and (second == "ALL" or dialect == "mysql"):
        return f"RESET {second}"
    if first == "START" and second != "TRANSACTION":
        return f"START {second}"
    known = second in _AFTER_BEGIN or (second == "NOT" and dialect == "postgresql")
    if first == "BEGIN" and second and not known:
        return f"BEGIN {second}"
    if first == "SET" and second in ("GLOBAL", "PERSIST", "PERSIST_ONLY", "PASSWORD"):
        return f"SET {second}"
    if first == "SET" and second == "STATEMENT":  # SET STATEMENT name = value FOR statement
        rest = tokens
        while [token.text for token in rest[:2]] == ["SET", "STATEMENT"]:
            rest = _from(rest, lambda token: token.text == "FOR")[1:]
        what = _examine_one(rest, dialect, parameters)
        if what is not None:
            return what
    if any(token.kind == "escaped" and token.text[-1:] == '"' for token in tokens):
        return f"{first} of what can't be read"
    names = [token.name() for token in tokens]
    if "sql_mode" in names and second != "STATEMENT" and not _harmless_sql_mode(tokens):
        return f"{first} sql_mode"
    if dialect == "mysql":
        for name in ("global", "persist", "persist_only"):
            if name in names:
                return f"SET {name.upper()}"
    if first == "SET" and not all(map(_harmless_charset, _split(tokens[1:]))):
        return "SET of a character set that can't be read"
    for name in names:
        if name in _READ_ONLY_NAMES and not (first == "SET" and _turned_on(tokens)):
            return f"{first} {name}"
    return None


def _turned_on(tokens: list[_Token]) -> bool:
    """True for one assignment, of a value that means on."""
    return tokens[-1].text.upper() in _ON and _is_one_assignment(tokens)


def _is_one_assignment(tokens: list[_Token]) -> bool:
    marks = [index for index, token in enumerate(tokens) if token.text in ("=", "TO")]
    return marks == [len(tokens) - 2]  # of one token: MariaDB calculates


def _harmless_sql_mode(tokens: list[_Token]) -> bool:
    """True if strings and quoted names are read as before."""
    for token in tokens[1:]:
        if token.kind == "word":
            known = token.text in _SQL_MODE_WORDS
        elif token.kind == "string":
            known = {one.strip().upper() for one in token.text.split(",")} <= _SQL_MODES
        else:
            known = token.kind == "other"
        if not known:
            return False
    return True


def _split(tokens: list[_Token]) -> Iterator[list[_Token]]:
    """Return what stands between commas."""
    part: list[_Token] = []
    for token in tokens:
        if token.text == "," and token.kind == "other":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def _harmless_charset(tokens: list[_Token]) -> bool:
    """True if this sets no character set, or one in which no character ends as a quote does."""
    words = [token.text if token.kind in ("word", "other") else "" for token in tokens]
    start = int(words[:1] in (["SESSION"], ["LOCAL"]))
    names = words[start : start + 1] in (["NAMES"], ["CHARACTER"], ["CHARSET"])
    if not names and not any(token.name() in _CHARSET_SETTINGS for token in tokens):
        return True
    marks = [i for i, word in enumerate(words) if word in ("=", "TO", "NAMES", "SET", "CHARSET")]
    value = tokens[marks[0] + 1 :] if marks else []
    if not value:
        return True
    return (  # one token, for what is put together is not seen
        (len(value) == 1 or (len(value) == 3 and value[1].text == "COLLATE"))
        and value[0].kind in ("word", "quoted", "string")
        and not _CHARSETS_WITH_QUOTES.match(re.sub(r"[^A-Za-z0-9]", "", value[0].text))
    )


def _examine_pragma(tokens: list[_Token]) -> str | None:
    rest = tokens[1:]
    if len(rest) > 2 and rest[1].text == ".":
        rest = rest[2:]
    name = rest[0].text.lower() if rest else ""  # which may be a string, too
    value = rest[2].text if len(rest) > 2 else None
    return f"PRAGMA {name}" if writing_pragma(name, value) else None


def writing_pragma(name: str, value: str | None) -> bool:
    """Return whether a PRAGMA of SQLite writes, or lifts the protection."""
    name = name.lower()
    if name == "query_only":
        return value is not None and value.upper() not in _ON
    return name in _PRAGMAS_THAT_WRITE or (value is not None and name not in _PRAGMAS)


def _examine_tokens(tokens: list[_Token], dialect: str, parameters: Any) -> str | None:  # noqa: C901  # one case after the other
    """What a statement does beside reading, wherever in it that stands.

    A server evaluates expressions in more places than queries: in SET, SHOW, EXECUTE, USING.
    """
    sources = FromClause(tokens)
    query = False  # whether one has begun
    withs: set[int] = set()  # the depths where WITH has not led to its statement yet
    openers: list[str] = []  # what stands before each parenthesis that is open
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else _NOTHING
        before_word = before.text if before.kind in ("word", "other") else ""
        after, second = [*tokens[index + 1 : index + 3], _NOTHING, _NOTHING][:2]
        if token.kind == "other":
            if token.text == "(":
                openers.append(before.text if before.kind in ("word", "quoted") else "")
            elif token.text == ")" and openers:
                openers.pop()
                withs.discard(token.depth + 1)
            continue
        called = after.text == "(" and after.kind == "other" and before_word not in _BEFORE_NAME
        # PostgreSQL calls by (value).name too; of $1.name the number has taken the point.
        point = before.text[-1:] == "." and before.kind in ("other", "number")
        if called or (point and dialect == "postgresql" and token.name() != SET_CONFIG):
            what = _examine_call(token, tokens, index, dialect, parameters)
            if what is not None and (called or not sources.has_column(index)):
                return what
        if token.kind != "word" or before_word in ("AS", "."):  # the latter are names
            continue
        query = query or token.text in _QUERIES
        if token.text == "WITH" and (not index or before_word == "("):
            withs.add(token.depth)
        elif token.depth in withs and before.text not in ("WITH", "RECURSIVE", ","):
            if token.text in _WRITES:
                return token.text
            if token.text in _QUERIES:
                withs.discard(token.depth)
        opener = openers[-1] if openers else ""
        nested = before.text == "(" and opener in ("AS", "MATERIALIZED", "COPY")
        if nested and _is_dml(token, tokens[index + 1 : index + 1 + _TABLE]):
            return token.text
        what = None
        if query or token.text == "NEXT":  # not SHOW GRANTS FOR share
            what = _examine_clause(token, after, second, dialect)
        if what is not None and opener not in ("SUBSTRING", "OVERLAY"):  # ... (a FROM b FOR c)
            return what
    return None


_TABLE = 12  # tokens that may stand between UPDATE and SET: ONLY a.b.c * AS d
_BEFORE_NAME = frozenset(("AS", "INTO", "WITH", "RECURSIVE", "PREPARE", "EXECUTE"))


def _is_dml(token: _Token, rest: list[_Token]) -> bool:
    """True for a writing CTE; no column of that name, as in ``AS (update text)``."""
    after = rest[0] if rest else _NOTHING
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


def _examine_clause(token: _Token, after: _Token, second: _Token, dialect: str) -> str | None:
    """What a query does beside reading."""
    if token.text == "INTO":
        if dialect != "mysql":
            return "SELECT INTO"
        if after.text in ("OUTFILE", "DUMPFILE"):
            return f"SELECT INTO {after.text}"
    elif token.text == "FOR" and after.kind == "word":
        if after.text in ("UPDATE", "SHARE") or (after.text, second.text) in _KEY_LOCKS:
            return f"SELECT ... FOR {after.text}"
    elif token.text == "LOCK" and dialect == "mysql":
        if after.text == "IN" and second.text == "SHARE":
            return "SELECT ... LOCK IN SHARE MODE"
    elif token.text == "NEXT" and after.text == "VALUE" and second.text == "FOR":
        return "NEXT VALUE FOR"
    return None


def _examine_call(
    token: _Token, tokens: list[_Token], index: int, dialect: str, parameters: Any
) -> str | None:
    name = token.name()
    if token.kind == "escaped":
        return "A call of what can't be read"
    if name == SET_CONFIG and dialect == "postgresql":
        if _lifts(tokens[index + 2 :], parameters):
            return "set_config() of what protects the transaction"
    elif name and _FUNCTIONS.fullmatch(name):
        return f"{name}()"
    return None


def _lifts(arguments: list[_Token], parameters: Any) -> bool:
    """True if set_config() names, or may name, what protects the transaction."""
    name: list[_Token] = []
    for token in arguments:
        if token.kind == "other" and token.text == "," and token.depth == arguments[0].depth:
            break
        name.append(token)
    if name and name[0].kind == "string":
        if _CAST.fullmatch(_joined(name[1:])):
            return name[0].text.strip().lower() in _NOT_CONFIGURED
        # The names that protect have no point.
        return "." not in name[0].text or not _AND_MORE.fullmatch(_joined(name[1:]))
    if _BOUND.fullmatch(_joined(name)):
        return parameters is None or _mentions(parameters)
    return True


# One literal or one parameter alone, for what is put together is not seen.
_PARAMETER = r"(%S|%\(\w+\)S|:\w+|\?|\$\d+)"
_CAST = re.compile(r"(::\w+)?")
_BOUND = re.compile(rf"{_PARAMETER}(::\w+)?")
_AND_MORE = re.compile(rf"(::\w+)?(\|\|('|\w+|{_PARAMETER})(::\w+)?)+")


def _joined(tokens: list[_Token]) -> str:
    return "".join(
        token.text if token.kind in ("word", "number", "other") else "'" for token in tokens
    )


def _mentions(parameters: Any) -> bool:
    if isinstance(parameters, str):
        return parameters.strip().lower() in _NOT_CONFIGURED
    if isinstance(parameters, dict):
        parameters = parameters.values()
    elif not isinstance(parameters, (list, tuple)):
        return False
    return any(_mentions(one) for one in parameters)
