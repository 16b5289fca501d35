"""Which texts are refused, and for what; the examination reads them in linear time."""

# ruff: noqa: E501  # SQL is easier to read in one line
from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import UserString
from datetime import date
from enum import Enum
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sa_readonly.engines.guarded import Examining, has_passed
from sa_readonly.engines.statements import bare, examine, hides_a_parameter, reads_alike


class Told(Enum):
    """Its str() tells neither its name nor its value, of which psycopg sends the name."""

    def __str__(self) -> str:
        return "told"


@pytest.mark.parametrize(
    ("statement", "dialect", "what"),
    [
        ("", "postgresql", None),
        (";;", "postgresql", None),
        ("SELECT 1", "postgresql", None),
        ("INSERT INTO t VALUES (1)", "postgresql", "INSERT"),
        ("insert into t values (1)", "oracle", "INSERT"),
        ("FROBNICATE t", "postgresql", "FROBNICATE"),
        ("SELECT 1; DROP TABLE t", "postgresql", "DROP"),
        ("SELECT ';'; DROP TABLE t", "postgresql", "DROP"),
        ("SELECT '; DROP TABLE t", "postgresql", None),  # the server says that it never ends
        ("/* SELECT", "postgresql", None),
        ("/* /* */ DROP */ SELECT 1", "postgresql", None),
        ("/* /* */ DROP TABLE t -- */ SELECT 1", "sqlite", "DROP"),
        ("((SELECT 1)) UNION SELECT 2", "postgresql", None),
        ("((((((", "postgresql", None),
        ("$$ $$", "postgresql", None),
        ("WITH a AS (SELECT 1) UPDATE t SET a = 1", "postgresql", "UPDATE"),
        ("WITH a AS (SELECT 1), b AS (DELETE FROM t) SELECT 1", "postgresql", "DELETE"),
        ("WITH a AS (UPDATE t SET a = 1 RETURNING 1) SELECT 1", "postgresql", "UPDATE"),
        ("WITH a AS (SELECT 1) MERGE INTO t USING a ON true", "postgresql", "MERGE"),
        ("SELECT 1 INTO t", "postgresql", "SELECT INTO"),
        ("SELECT 1 INTO @a", "mysql", None),
        ("SELECT 1 INTO DUMPFILE 'x'", "mariadb", "SELECT INTO DUMPFILE"),
        ("SELECT 1 FOR NO KEY UPDATE", "postgresql", "SELECT ... FOR NO KEY UPDATE"),
        ("SELECT NEXT VALUE FOR s", "mssql", "NEXT VALUE FOR"),
        ("SELECT dblink('host=x', 'select 1')", "postgresql", "dblink()"),
        ("SELECT U&\"n\\0065xtval\"('s')", "postgresql", "A call of what can't be read"),
        ("SET TRANSACTION READ WRITE", "postgresql", "SET ... READ WRITE"),
        ("SET default_transaction_read_only = on", "postgresql", None),
        ("SET default_transaction_read_only = off", "postgresql", "SET default_transaction_read_only"),
        ("SET a = off, tx_read_only = 1", "mysql", None),
        ("SET @a = @@tx_read_only, @@session.tx_read_only = 1", "mysql", None),
        ("SET a = 1, tx_read_only = off", "mysql", "SET tx_read_only"),
        ("SET tx_read_only = 1, @@session.tx_read_only = @a", "mysql", "SET tx_read_only"),
        ("SET a = IF(1, 2, 3), `tx_read_only` = 0", "mysql", "SET tx_read_only"),
        ("SET a = 1, @@persist.b = 2", "mysql", "SET PERSIST"),
        ("SET a = @@global.a, global b = 2", "mysql", "SET GLOBAL"),
        ("SET DEFAULT ROLE a", "mariadb", "SET DEFAULT"),
        # MySQL 8 has TABLE as a query, which MariaDB has not
        ("SET @a = (TABLE t)", "mysql", "SET of a SELECT from a table"),
        ("SET @a = (SELECT 1 UNION ALL TABLE t)", "mysql", "SET of a SELECT from a table"),
        ("SET @a = (WITH x AS (SELECT 1) TABLE x)", "mysql", "SET of a SELECT from a table"),
        ("SET @a = (@table)", "mysql", None),
        ("SHOW CREATE TABLE t", "mysql", None),
        ("SET STATEMENT a = 1 FOR DELETE FROM t", "mariadb", "DELETE"),
        ("START SLAVE", "mysql", "START SLAVE"),
        ("BEGIN NOT ATOMIC SELECT 1; END", "mariadb", "BEGIN NOT"),
        ("BEGIN INSERT INTO t VALUES (1); END;", "oracle", "BEGIN INSERT"),
        ("BEGIN NOT DEFERRABLE", "postgresql", None),
        ("DECLARE @a int", "mssql", "DECLARE"),
        ("EXECUTE p", "mssql", "EXECUTE"),
        ("EXECUTE p", "postgresql", None),
        ("PREPARE TRANSACTION 'x'", "postgresql", "PREPARE"),
        ("PREPARE p FROM @a", "mysql", "PREPARE"),
        ("PREPARE p FROM 'SELECT 1'", "mysql", None),
        ("LOAD 'age'", "postgresql", None),
        ("LOAD DATA INFILE 'x' INTO TABLE t", "mysql", "LOAD"),
        ("COPY t TO STDOUT", "postgresql", None),
        ("COPY t FROM STDIN", "postgresql", "COPY"),
        ("COPY t TO 'x'", "postgresql", "COPY"),
        ("PRAGMA", "sqlite", None),
        ("PRAGMA query_only", "sqlite", None),
        ("PRAGMA main.query_only = off", "sqlite", "PRAGMA query_only"),
        ("PRAGMA wal_checkpoint", "sqlite", "PRAGMA wal_checkpoint"),
        ("ANALYZE t", "postgresql", "ANALYZE"),
        ("ANALYZE SELECT 1", "mariadb", None),
        ("EXPLAIN ANALYZE DELETE FROM t", "postgresql", "EXPLAIN ANALYZE DELETE"),
        ("EXPLAIN", "postgresql", None),
        ("RESET MASTER", "mysql", "RESET MASTER"),
        ("RESET ALL", "postgresql", "RESET ALL"),
        ("COMMIT PREPARED 'x'", "postgresql", "COMMIT PREPARED"),
        ("SELECT 1 AS \u00d7$$; DROP TABLE t; --$$", "postgresql", "DROP"),
        ("SELECT $\u00e4$; DROP TABLE t; $\u00e4$", "postgresql", None),
        ("SELECT E'a'\n'\\'' ; DROP TABLE t; --'", "postgresql", "DROP"),
        ("SELECT E'a', '\\' ; DROP TABLE t; --'", "postgresql", "DROP"),
        ("SELECT 'a'\n'\\', '; DROP TABLE t; --'", "postgresql", None),
        ("SELECT 1 \"AS\" INTO t", "postgresql", "SELECT INTO"),
        ("SELECT 1 AS into", "postgresql", None),
        ("SELECT 1.INTO t", "postgresql", "SELECT INTO"),
        ("COMMIT; SELECT 1", "postgresql", "What follows COMMIT in one text"),
        ("COMMIT;; -- end", "postgresql", None),
        ("ROLLBACK TO a; SELECT 1", "postgresql", None),
        ("COMMIT; SELECT 1", "mysql", None),
        ("SET U&\"a\" = 1", "postgresql", "SET of what can't be read"),
        ("SET a = U&'x'", "postgresql", None),
        ("SET a = E'x'", "postgresql", None),
        ("SET standard_conforming_strings = on", "postgresql", None),
        ("RESET standard_conforming_strings", "postgresql", "RESET standard_conforming_strings"),
        ("SELECT set_config('a'::text, 'x', true)", "postgresql", None),
        ("SELECT set_config('a'::text || 'b', 'x', true)", "postgresql", "set_config() of what protects the transaction"),
        ("SELECT substring((SELECT a FROM t FOR UPDATE) FROM 1 FOR 2)", "postgresql", "SELECT ... FOR UPDATE"),
        ("EXPLAIN (ANALYZE 0x1) SELECT 1 INTO t", "postgresql", "EXPLAIN ANALYZE SELECT"),
        ("SELECT set_config('app.' || %s::text, 'x', true)", "postgresql", None),
        ("SELECT set_config('a.'::jsonb ->> 'b', 'x', true)", "postgresql", "set_config() of what protects the transaction"),
        ("SELECT set_config(%(a)s::VARCHAR, 'x', true)", "postgresql", None),
        ("SELECT set_config(%s || %s, 'x', true)", "postgresql", "set_config() of what protects the transaction"),
        ("SELECT j.nextval FROM json_table('[1]', '$' COLUMNS (nextval int)) j", "postgresql", None),
        ("SELECT j.nextval FROM json_table(a, '$' AS p COLUMNS (nextval int)) AS j", "postgresql", None),
        ("SELECT j.nextval FROM a, XmlTable('/a' PASSING b COLUMNS nextval int) j", "postgresql", None),
        ("SELECT j.nextval FROM json_table(1) j", "postgresql", "nextval()"),  # a user's, up to 16
        ("SELECT j.nextval FROM json_table(NOT columns(1)) j", "postgresql", "nextval()"),
        ("SELECT j.nextval FROM json_table((SELECT 1 AS columns)) j", "postgresql", "nextval()"),
        ("SELECT j.nextval FROM \"xmltable\"(1) j", "postgresql", "nextval()"),
        ("SELECT j.nextval FROM xmltable.f(1) j", "postgresql", "nextval()"),
        ("SET tx_read_only = 1 - 1", "mysql", "SET tx_read_only"),
        ("SET tx_read_only := 1", "mysql", None),
        ("SET sql_mode = 'TRADITIONAL'", "mysql", None),
        ("SET SESSION sql_mode = 'ansi'", "mysql", "SET sql_mode"),
        ("SET @@sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')", "mysql", None),
        ("SET sql_mode = CONCAT('NO_BACK', 'SLASH_ESCAPES')", "mysql", "SET sql_mode"),
        ("SET sql_mode = 4", "mysql", "SET sql_mode"),
        ("SET a = 1, sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES'), b = 2", "mysql", "SET sql_mode"),
        ("SET NAMES utf8mb4, sql_mode = 'ANSI'", "mysql", "SET sql_mode"),
        ("SET sql_mode = @a", "mysql", "SET sql_mode"),
        ("PREPARE p FROM \"SELECT 'a', '' INTO OUTFILE 'x'\"", "mysql", "SELECT INTO OUTFILE"),
        ("PREPARE p FROM 'SELECT ''INTO OUTFILE'''", "mysql", None),
        ("SELECT 1 --\x7f '\n INTO OUTFILE 'x'", "mysql", "SELECT INTO OUTFILE"),
        ("SELECT 1 --' INTO OUTFILE 'x'", "mysql", None),
        ("EXECUTE IMMEDIATE 'SELECT ?' USING 1", "mariadb", None),
        ("EXECUTE IMMEDIATE 'SELECT 1' 'x'", "mariadb", "EXECUTE"),
        ("SELECT /*!50000 'a', \"b\", */ 1", "mysql", None),
        ("SELECT /*!50000 'a */ ' */ 1", "mysql", "A comment that can't be read"),
        ("SELECT /*!50000 1", "mysql", "A comment that can't be read"),
        ("\u017felect 1", "mysql", "\u017felect"),
        # What a driver makes of a value may be part of a token, or have parentheses.
        ("SELECT %(a)s, $a%(a)s$ ' $a$, f(1) -- '", "postgresql", "A dollar sign that can't be read"),
        ("SELECT $%s$ ' $$, f(1) -- '", "postgresql", "A dollar sign that can't be read"),
        ("SELECT $1, a$b, $$ $ $$, $a$ $b$ $a$, '$' FROM a WHERE b = $2", "postgresql", None),
        ("SELECT 1 /*!%s AS */ INTO OUTFILE 'x'", "mysql", "A comment that can't be read"),
        ("SELECT 1 /*!99999/*/* 2 -- */", "mysql", "A comment that can't be read"),
        ("SELECT 1 /*M!5? AS */ INTO OUTFILE 'x'", "mysql", "A comment that can't be read"),
        ("SELECT /*!50000 %s AS */ a", "mysql", None),
        ("SELECT get_lock%s", "mysql", "get_lock()"),
        ("SELECT pg_try_advisory_lock %(a)s", "postgresql", "pg_try_advisory_lock()"),
        ("SELECT set_config%s", "postgresql", "set_config() of what protects the transaction"),
        ("SELECT nextval FROM a WHERE nextval IN %s AND nextval = %s", "postgresql", None),
        ("SET @@session.'tx_read_only' = 0", "mysql", "SET of a name that can't be read"),
        ('SET @a = 1, @@local . "tx_read_only" = 0', "mariadb", "SET of a name that can't be read"),
        ("SET @@session.%s = 0", "mysql", "SET of a name that can't be read"),
        ("SET @@session.? = 0", "mysql", "SET of a name that can't be read"),
        ("SET @a = 1.5, @'b c' = 'd.e', @f = 1 + %s", "mysql", None),
    ],
)  # fmt: skip
def test_a_text_is_refused_for_what_it_would_do(
    statement: str, dialect: str, what: str | None
) -> None:
    assert examine(statement, dialect) == what


@pytest.mark.parametrize(
    ("statement", "dialect", "backslash", "what"),
    [
        ("SELECT '\\'' ; DROP TABLE t; --'", "postgresql", False, None),
        ("SELECT '\\'' ; DROP TABLE t; --'", "postgresql", True, "DROP"),
        ("SELECT '\\' INTO OUTFILE 'x' -- '", "mysql", True, None),
        ("SELECT '\\' INTO OUTFILE 'x' -- '", "mysql", False, "SELECT INTO OUTFILE"),
        ('SELECT "\\" INTO OUTFILE \'x\' -- "', "mysql", False, "SELECT INTO OUTFILE"),
    ],
)
def test_a_backslash_escapes_where_the_server_says_so(
    statement: str, dialect: str, backslash: bool, what: str | None
) -> None:
    assert examine(statement, dialect, backslash=backslash) == what


@pytest.mark.parametrize(
    ("parameters", "refused"),
    [
        ({"name": "app.tenant"}, False),
        ({"name": " Transaction_Read_Only "}, True),
        ([{"name": "a"}, {"name": "default_transaction_read_only"}], True),
        (("transaction_read_only",), True),
        (None, True),
        ((), False),
        # psycopg sends the name of an Enum, and pg8000 its value, or str() of what it does not know
        ((Enum("E", "transaction_read_only").transaction_read_only,), True),
        ({"name": Enum("E", [("a", "Transaction_Read_Only")]).a}, True),
        ((UserString("client_encoding"),), True),
        ((Told("E", "transaction_read_only").transaction_read_only,), True),
        (
            {"name": "a", "value": Enum("E", "a").a, "x": date(2000, 1, 1), "y": UserString("b")},
            False,
        ),
    ],
)
def test_set_config_is_refused_by_the_name_that_is_bound(parameters: Any, refused: bool) -> None:
    what = examine("SELECT set_config(%(name)s, 'off', true)", "postgresql", parameters)
    assert (what is not None) == refused


def test_of_bytes_no_text_is_made_which_python_may_refuse() -> None:
    asked = """
from enum import Enum
from sa_readonly.engines.statements import bare, examine, hides_a_parameter, reads_alike
for value in (b"a", bytearray(b"a"), memoryview(b"a"), Enum("E", [("a", b"b")]).a):
    assert examine("SELECT set_config(%s, %s, true)", "postgresql", ("a.b", value)) is None
"""
    subprocess.run([sys.executable, "-bb", "-c", asked], check=True)


PIECES = st.sampled_from(
    [
        "SELECT",
        "INSERT",
        "INTO",
        "UPDATE",
        "SET",
        "DELETE",
        "FROM",
        "WITH",
        "AS",
        "(",
        ")",
        ";",
        "'",
        '"',
        "`",
        "$$",
        "$a$",
        "E'",
        "U&'",
        'U&"',
        "/*",
        "*/",
        "/*!",
        "--",
        "--\r",
        "#",
        "\n",
        "\\",
        ",",
        ".",
        "::",
        "%",
        "?",
        "=",
        "@",
        "[",
        "]",
        "FOR",
        "READ",
        "WRITE",
        "EXPLAIN",
        "ANALYZE",
        "PRAGMA",
        "query_only",
        "set_config",
        "PREPARE",
        "DECLARE",
        "COPY",
        "TO",
        "STDOUT",
        "BEGIN",
        "START",
        "EXECUTE",
        "IMMEDIATE",
        "STATEMENT",
        "nextval",
        "1",
        "é",
        "\x00",
    ]
)
DIALECTS = st.sampled_from(("postgresql", "sqlite", "mysql", "mariadb", "mssql", "oracle"))


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(st.text(), st.lists(PIECES).map(" ".join), st.lists(PIECES).map("".join)), DIALECTS
)
def test_no_text_makes_the_examination_fail(statement: str, dialect: str) -> None:
    what = examine(statement, dialect)
    assert what is None or isinstance(what, str)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(blacklist_characters="'\\\x00")), DIALECTS)
def test_a_literal_is_a_read_whatever_it_says(inside: str, dialect: str) -> None:
    assert examine(f"SELECT '{inside}'", dialect) is None


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(blacklist_characters="*/!M\\")), DIALECTS)
def test_a_write_after_a_comment_is_refused_whatever_the_comment_says(
    inside: str, dialect: str
) -> None:
    assert examine(f"/* {inside} */ DELETE FROM t", dialect) == "DELETE"


@pytest.mark.parametrize(
    ("statement", "hides"),
    [
        ("SELECT %s, %(a)s, %b", False),
        ("SELECT '%%s', %s", False),
        ("SELECT a % b, a %(b + 1) FROM t WHERE c LIKE '%x%'", True),  # it might be the name of one
        ("SELECT a % 2 FROM t WHERE c LIKE 'x%'", False),
        ("SELECT '%s'", True),
        ("SELECT '%(a)s'", True),
        ("SELECT '%-5.3s'", True),
        ("SELECT '%r'", True),
        ("SELECT '%t'", True),
        ("SELECT %s /* %s */", True),
        ("SELECT %(it's)s, '%s'", True),
        ("SELECT %s -- %s", True),
    ],
)
def test_a_placeholder_in_a_literal_or_comment_is_found_in_each_form_that_drivers_fill(
    statement: str, hides: bool
) -> None:
    assert hides_a_parameter(statement, "postgresql") is hides
    assert hides_a_parameter(statement, "mysql") is hides


TRACES = st.sampled_from(
    (
        "/*traceparent='00-4bf9-01',route='%%2Fbooks'*/",
        "/* request 5, of user.name & co */",
        "/*dddbs='shop:main',ddps='web'*/",
    )
)
BROKEN = st.sampled_from(("'", '"', "`", "$$", "[", "--", "#", "/*", "*/", "/*!", "E'", "\\", "\n"))


@settings(deadline=None, max_examples=500)
@given(st.lists(st.one_of(PIECES, BROKEN), max_size=6), TRACES, TRACES, st.booleans(), DIALECTS)
def test_a_text_that_reads_alike_without_a_trace_reads_alike_with_any(
    pieces: list[str], trace: str, other: str, backslash: bool, dialect: str
) -> None:
    text = " ".join(pieces)

    def alike(one: str, two: str) -> bool:
        return reads_alike(one, two, dialect, backslash=backslash, ansi_quotes=False)

    assert alike(text, trace + text)
    if alike(text, text + trace):
        assert alike(text, text + other)
        assert alike(text, trace + text + other)
        what = examine(text, dialect, backslash=backslash)
        assert (what is None) is (examine(text + other, dialect, backslash=backslash) is None)


class Judge(Examining):
    """A dialect that examines, without a database."""

    driver = "none"

    def __init__(self, name: str, *, backslash: bool = False) -> None:
        super().__init__()
        self.name = self._sa_readonly_family = name
        self._backslash_escapes = backslash
        self._sa_readonly_passed = {}

    def see(self, statement: str) -> None:
        with contextlib.suppress(PermissionError):
            self._sa_readonly_examine(statement, ())

    def _sa_readonly_refuse(self, what: str, statement: str, context: Any) -> None:
        raise PermissionError(what)


HARMFUL = st.sampled_from(
    ("/*x' FOR UPDATE -- */", "/* 2 FOR UPDATE -- */", "/* FOR UPDATE */", "/*x INTO a*/")
)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.one_of(PIECES, BROKEN), max_size=6), TRACES, HARMFUL, st.booleans(), DIALECTS)
@example(["SELECT 'a"], "", "/*x' FOR UPDATE -- */", False, "postgresql")
@example(["SELECT 1 /* *"], "", "/* FOR UPDATE */", False, "mysql")
@example(["SELECT 1 /*!99999/*"], "/* 2 -- */", "/* 2 FOR UPDATE -- */", True, "mysql")
def test_no_text_is_taken_for_one_that_has_passed_unless_it_passes_itself(
    pieces: list[str], trace: str, harmful: str, backslash: bool, dialect: str
) -> None:
    text = "".join(pieces)
    for first in (text, text + trace):
        judge = Judge(dialect, backslash=backslash)
        judge.see(first)
        for other in (text, text + harmful, harmful + text, trace + text + harmful):
            if has_passed(judge, other):
                assert examine(other, dialect, backslash=backslash) is None


@pytest.mark.parametrize("trace", ["/*a='1'*/", "/* a=1,b='2' */", "/*a='x%%2Fy'*/"])
def test_a_trace_is_taken_off_before_and_behind_a_text(trace: str) -> None:
    for text in (f"SELECT 1 {trace}", f"{trace}SELECT 1 ", f"{trace}SELECT 1 {trace}"):
        assert bare(text).strip() == "SELECT 1"


@pytest.mark.parametrize(
    "comment",
    [
        "/*!1*/",
        "/*M!1*/",
        "/*+ a */",
        "/*%s*/",
        "/*%(a)s*/",
        "/*a\n*/",
        "/*$1*/",
        "/*é*/",
    ],
)
def test_what_may_be_more_than_a_trace_is_not_taken_off(comment: str) -> None:
    for text in (f"SELECT 1 {comment}", f"{comment} SELECT 1"):
        assert bare(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "SELECT f(",
        "SELECT f(1), ",
        "' ",
        "$$",
        "/*",
        "/*! a */",
        "WITH a AS (UPDATE x ",
        "EXPLAIN ",
        "SET STATEMENT a=1 FOR ",
        "[",
        "E'",
    ],
)
def test_a_text_twice_as_long_takes_twice_as_many_steps(piece: str) -> None:
    for dialect in ("postgresql", "mysql", "sqlite"):
        short, long = (steps(piece * number, dialect) for number in (200, 400))
        assert long < 2.5 * short  # 4 if it is quadratic


def steps(text: str, dialect: str) -> int:
    """Count the lines that are run to examine a text."""
    count = 0

    def line(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    before = sys.gettrace()
    sys.settrace(line)
    try:
        examine(text, dialect)
    finally:
        sys.settrace(before)
    return count
