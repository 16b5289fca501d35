"""SQL as a grammar: statements are built of pieces, and pieces of pieces, for three servers.

A text is made as a list of tokens, and is joined with what may stand between tokens. Names are
those of :mod:`tests.feeds.servers`, so that most texts are run, and not only read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Union

from hypothesis import strategies as st

Piece = Union[str, "list[Piece]"]

# What a statement hides in: each of these is one token to its server, or none.
HIDDEN = "; DELETE FROM thing; --"


def flat(piece: Piece) -> list[str]:
    """Return the tokens of a piece: its strings are cut at spaces, other than those of literals."""
    if isinstance(piece, str):
        return [piece] if piece[:1] in QUOTES or "'" in piece else piece.split(" ")
    return [token for one in piece for token in flat(one)]


QUOTES = ("'", '"', "`", "$", "[", "/*", "--", "#")


class Grammar:
    """What the three have in common.

    :param choices: each byte chooses what comes next; after the last one, it is the simplest. So
        hypothesis, which draws one string of bytes for a text, makes a text simpler by smaller
        bytes.
    """

    dialect: ClassVar[str]
    NAMES: ClassVar[list[str]]
    VALUES: ClassVar[list[str]]
    SPACES: ClassVar[list[str]]
    FUNCTIONS: ClassVar[list[str]]
    COLUMNS: ClassVar[list[str]] = ["id", "name", "id", "thing.id", "t.name", '"id"']
    STATEMENTS: ClassVar[list[str]]
    """The names of the methods that make statements; the first ones are the simplest."""
    several: ClassVar[bool] = True  # whether a text may have several of them

    def __init__(self, choices: bytes) -> None:
        self.choices = iter(choices)
        self.named = False  # whether columns may stand here
        self.left = 5  # how deep pieces may still stand in pieces

    # -- drawing ---------------------------------------------------------------------------

    def one(self, *several: Any) -> Any:
        found = self.of(several)
        return found() if callable(found) else found

    def of(self, several: Sequence[Any]) -> Any:
        return several[next(self.choices, 0) % len(several)]

    def maybe(self, *piece: Any) -> Piece:
        return [one() if callable(one) else one for one in piece] if self.one(False, True) else []

    def rarely(self, *piece: Any) -> Piece:
        if self.one(False, False, False, False, True):
            return [one() if callable(one) else one for one in piece]
        return []

    def deeper(self, piece: Callable[[], Piece], otherwise: Piece) -> Piece:
        """Return a piece, unless pieces stand too deep in pieces already."""
        if self.left == 0:
            return otherwise
        self.left -= 1
        try:
            return piece()
        finally:
            self.left += 1

    # -- expressions -------------------------------------------------------------------------

    def value(self) -> Piece:
        return str(self.of(self.VALUES))

    def column(self) -> Piece:
        return str(self.one(*self.COLUMNS)) if self.named else self.value()

    def call(self) -> Piece:
        return str(self.of(self.FUNCTIONS))

    def expression(self) -> Piece:
        return self.deeper(
            lambda: self.one(
                self.value,
                self.column,
                self.call,
                lambda: ["(", self.expression(), ")"],
                lambda: ["(", self.query(), ")"],
                lambda: ["CASE WHEN", self.expression(), "IS NULL THEN", self.expression(), "END"],
                lambda: ["EXISTS (", self.query(), ")"],
                lambda: ["coalesce (", self.expression(), ",", self.value(), ")"],
            ),
            "1",
        )

    def name(self) -> str:
        return str(self.of(self.NAMES))

    # -- queries -----------------------------------------------------------------------------

    def source(self) -> Piece:
        return self.deeper(
            lambda: self.one(
                "thing",
                "thing AS t",
                "things",
                lambda: ["(", self.query(), ") AS q"],
                lambda: [self.source(), ",", self.source()],
                lambda: [self.source(), "CROSS JOIN", self.source()],
            ),
            "thing",
        )

    def select(self) -> Piece:
        outside, self.named = self.named, False
        source = self.maybe("FROM", self.source)
        self.named = bool(source)
        made = [
            "SELECT",
            self.rarely("DISTINCT"),
            self.expression(),
            self.rarely("AS", self.name),
            source,
            self.rarely("WHERE", self.expression, "IS NOT NULL") if source else "",
            self.rarely("ORDER BY 1"),
            self.rarely("LIMIT 1"),
            self.rarely(self.ending),
        ]
        self.named = outside
        return made

    def ending(self) -> Piece:
        raise NotImplementedError

    def query(self) -> Piece:
        return self.deeper(
            lambda: self.one(
                self.select,
                lambda: ["(", self.query(), ")"],
                lambda: ["VALUES (", self.expression(), ")"],
                lambda: [self.query(), "UNION ALL", self.query()],
                lambda: ["WITH", self.cte(), self.query()],
            ),
            "SELECT 1",
        )

    def cte(self) -> Piece:
        return [self.rarely("RECURSIVE"), "w AS", self.materialized(), "(", self.query(), ")"]

    def materialized(self) -> Piece:
        return []

    # -- what writes -------------------------------------------------------------------------

    def dml(self) -> Piece:
        return self.one(
            lambda: ["INSERT INTO thing VALUES ( 7 , 'seven' )"],
            lambda: ["INSERT INTO thing", self.query()],
            lambda: ["UPDATE thing SET name = 'x' WHERE id = 1"],
            lambda: ["DELETE FROM thing", self.maybe("WHERE id = 1")],
            lambda: ["WITH", self.cte(), self.dml()],
        )

    # -- texts -------------------------------------------------------------------------------

    def statement(self) -> Piece:
        return self.deeper(getattr(self, self.of(self.STATEMENTS)), "SELECT 1")

    def text(self) -> str:
        tokens = flat(self.statement())
        while self.several and self.one(False, False, False, False, False, True):
            tokens += [";", *flat(self.statement())]
        tokens += flat(self.rarely(";"))
        marks = [" "] * len(tokens)
        for _ in range(self.one(0, 0, 0, 1, 2)):
            marks[self.of(range(len(tokens)))] = self.of(self.SPACES)
        style = self.one("", "", "lower", "title")
        if style:  # of names it would make others
            tokens = [
                getattr(one, style)() if one.isupper() and one.isalpha() else one for one in tokens
            ]
        made = "".join(mark + token for mark, token in zip(marks, tokens, strict=True))
        return made.removeprefix(" ")


def texts(grammar: type[Grammar]) -> st.SearchStrategy[str]:
    """Texts of one grammar."""
    return st.binary(min_size=_CHOICES, max_size=_CHOICES).map(lambda drawn: grammar(drawn).text())


_CHOICES = 60  # bytes for a text


# -- PostgreSQL ------------------------------------------------------------------------------


class PostgreSQL(Grammar):
    """What psycopg2 sends as it is: several statements in one text, too."""

    dialect = "postgresql"
    NAMES: ClassVar = [
        "a",
        '"a"',
        '"nextval"',
        "nextval",
        '"INTO"',
        '"FOR UPDATE"',
        'U&"\\0061"',
        "value",
    ]
    VALUES: ClassVar = [
        "1",
        "NULL",
        "'a'",
        "1.5",
        "$$" + HIDDEN + "$$",
        "$q$" + HIDDEN + "$q$",
        "'" + HIDDEN + "'",
        "E'\\'" + HIDDEN + "'",
        "E'a\\\\'",
        "U&'\\0061'",
        "'a\\'",
        "ARRAY [ 1 ]",
        "7 :: bigint",
        "'x' :: text",
        "1.",
        "N'x'",
        "B'1'",
        "row ( 1 , 2 )",
        "true",
        "current_user",
    ]
    SPACES: ClassVar = [
        "\n",
        "\t",
        "/**/",
        "/* ' */",
        '/* " */',
        "/* /* */ ; */",
        "--'\n",
        "--\n",
        " -- ;\n",
        "\r",
        "\f",
    ]
    FUNCTIONS: ClassVar = [
        "count ( * )",
        "now ( )",
        "looks ( 1 )",
        "upper ( 'x' )",
        "current_setting ( 'transaction_read_only' )",
        "set_config ( 'app.tenant' , 'x' , true )",
        "generate_series ( 1 , 2 )",
        "substring ( 'abc' from 1 for 2 )",
        "extract ( year from now ( ) )",
        "trim ( both 'x' from 'xax' )",
        "pg_try_advisory_lock_shared ( 1 )",
        "writes ( 1 )",
        "nextval ( 'seq' )",
        "\"nextval\" ( 'seq' )",
        "pg_catalog . nextval ( 'seq' )",
        "( 'seq' :: regclass ) . nextval",
        "setval ( 'seq' , 9 )",
        "currval ( 'seq' )",
        "lastval ( )",
        "pg_advisory_lock ( 1 )",
        "pg_advisory_xact_lock ( 1 , 2 )",
        "( 7 :: bigint ) . pg_try_advisory_lock",
        "txid_current ( )",
        "pg_current_xact_id ( )",
        "txid_current_if_assigned ( )",
        "pg_notify ( 'a' , 'b' )",
        "lo_create ( 0 )",
        "lo_get ( 1 )",
        "set_config ( 'transaction_read_only' , 'off' , false )",
        "set_config ( 'default_transaction_read_only' , 'off' , false )",
        "set_config ( 'TRANSACTION_READ_ONLY' , 'off' , true )",
        "set_config ( 'transaction_' || 'read_only' , 'off' , true )",
        "set_config ( name , 'off' , true )",
        "U&\"n\\0065xtval\" ( 'seq' )",
        "query_to_xml ( 'SELECT 1' , true , true , '' )",
        "pg_stat_clear_snapshot ( )",
        "pg_export_snapshot ( )",
        "pg_sequence_last_value ( 'seq' )",
        "pg_logical_emit_message ( true , 'a' , 'b' )",
        "gin_clean_pending_list ( 'thing_pkey' )",
        "brin_summarize_new_values ( 'thing_pkey' )",
        "pg_stat_reset ( )",
    ]
    STATEMENTS: ClassVar = [
        "query",
        "query",
        "query",
        "plain",
        "explain",
        "explain",
        "dml",
        "writing_cte",
        "prepared",
        "executed",
        "cursor",
        "copied",
        "setting",
        "transaction",
        "schema",
        "others",
        "merged",
    ]

    def plain(self) -> Piece:
        return self.one(
            "TABLE thing",
            "SHOW transaction_read_only",
            "SHOW ALL",
            "FETCH 1 FROM there",
            "MOVE 1 IN there",
            "CLOSE there",
            "LISTEN a",
            "UNLISTEN *",
            "DEALLOCATE one",
            "SAVEPOINT s",
            "LOAD 'x'",
            "",
        )

    def source(self) -> Piece:
        return (
            self.rarely(
                lambda: self.one(
                    "generate_series ( 1 , 2 ) AS x ( nextval )",
                    "generate_series ( 1 , 2 ) AS x",
                    "nextval ( 'seq' ) AS x",
                    "ROWS FROM ( generate_series ( 1 , 2 ) , writes ( 1 ) ) AS x",
                    "ONLY thing",
                    "thing TABLESAMPLE SYSTEM ( 50 )",
                    "LATERAL ( SELECT 1 ) AS l",
                    "thing AS x ( nextval , name )",
                )
            )
            or super().source()
        )

    def expression(self) -> Piece:
        return (
            self.rarely(
                lambda: self.one(
                    "x . nextval",
                    "( x ) . nextval",
                    "( 1 , 2 ) IS DISTINCT FROM ( 3 , 4 )",
                    lambda: ["ARRAY (", self.query(), ")"],
                    lambda: [self.value(), ":: text"],
                    lambda: ["(", self.query(), ") . id"],
                    "( thing ) . id",
                    "count ( * ) FILTER ( WHERE true ) OVER ( PARTITION BY 1 )",
                )
            )
            or super().expression()
        )

    def ending(self) -> Piece:
        return self.one(
            "FOR UPDATE",
            "FOR NO KEY UPDATE",
            "FOR SHARE",
            "FOR KEY SHARE",
            "FOR UPDATE OF thing NOWAIT",
            "INTO made",
            "INTO TEMP made",
            "INTO UNLOGGED TABLE made",
            "FETCH FIRST 1 ROW ONLY",
            "OFFSET 0",
            "WINDOW w AS ( )",
        )

    def materialized(self) -> Piece:
        return self.one([], [], "MATERIALIZED", "NOT MATERIALIZED")

    def writing_cte(self) -> Piece:
        return [
            "WITH",
            self.rarely("RECURSIVE"),
            self.rarely("v AS (", self.query, ") ,"),
            "w AS",
            self.materialized(),
            "(",
            self.dml(),
            self.one("RETURNING 1", "RETURNING *", ""),
            ")",
            self.one(self.query, "SELECT 1", "TABLE thing"),
        ]

    def merged(self) -> Piece:
        return [
            self.rarely("WITH", self.cte),
            "MERGE INTO thing USING ( SELECT 1 AS n ) AS s ON thing.id = s.n",
            self.one(
                "WHEN MATCHED THEN UPDATE SET name = 'm'",
                "WHEN MATCHED THEN DELETE",
                "WHEN NOT MATCHED THEN DO NOTHING",
                "WHEN MATCHED THEN DO NOTHING",
            ),
        ]

    def explained(self) -> Piece:
        return self.one(
            self.query,
            self.query,
            self.dml,
            self.writing_cte,
            self.merged,
            self.executed,
            lambda: ["CREATE TABLE made AS", self.query()],
            lambda: ["CREATE TABLE made AS", self.executed()],
            lambda: ["CREATE MATERIALIZED VIEW made AS", self.query()],
            lambda: ["DECLARE c CURSOR FOR", self.query()],
            lambda: ["(", self.query(), ") LIMIT 1"],
            "REFRESH MATERIALIZED VIEW kept",
        )

    def explain(self) -> Piece:
        return [
            "EXPLAIN",
            self.one(
                "",
                "ANALYZE",
                "VERBOSE",
                "ANALYZE VERBOSE",
                "( ANALYZE )",
                "( ANALYZE off )",
                "( ANALYZE false , COSTS off )",
                "( COSTS off , ANALYZE on )",
                '( "analyze" )',
                "( ANALYSE 1 )",
                "( ANALYZE 0 , ANALYZE )",
                "( ANALYZE , ANALYZE off )",
                "( FORMAT json , BUFFERS off )",
                "( ANALYZE 'on' )",
                "ANALYZE",
            ),
            self.explained(),
        ]

    def prepared(self) -> Piece:
        return [
            "PREPARE p",
            self.one("", "( bigint )", "( text )"),
            "AS",
            self.one(self.query, self.query, self.dml, self.writing_cte),
        ]

    def executed(self) -> Piece:
        return self.one(
            "EXECUTE one",
            lambda: ["EXECUTE two (", self.expression(), ")"],
            "EXECUTE writing",
        )

    def cursor(self) -> Piece:
        return [
            "DECLARE c",
            self.one("", "BINARY", "SCROLL", "NO SCROLL", "INSENSITIVE"),
            "CURSOR",
            self.one("", "WITH HOLD", "WITHOUT HOLD"),
            "FOR",
            self.one(self.query, self.query, self.dml, self.writing_cte),
        ]

    def copied(self) -> Piece:
        return [
            "COPY",
            self.one(
                "thing",
                "thing ( id )",
                lambda: ["(", self.query(), ")"],
                lambda: ["(", self.dml(), "RETURNING 1 )"],
            ),
            self.one("TO STDOUT", "TO STDOUT", "FROM STDIN", "TO STDOUT WITH ( FORMAT csv )"),
        ]

    def setting(self) -> Piece:
        name = self.one(
            "transaction_read_only",
            "default_transaction_read_only",
            '"transaction_read_only"',
            "TRANSACTION_READ_ONLY",
            'U&"transaction_read_only"',
            "work_mem",
            "search_path",
            "app.tenant",
            "statement_timeout",
            "role",
            "standard_conforming_strings",
            "client_encoding",
        )
        value = self.one(
            "off",
            "on",
            "DEFAULT",
            "'off'",
            "'on'",
            "0",
            "1",
            "'64MB'",
            "public",
            "'UTF8'",
            "'SJIS'",
        )
        return self.one(
            lambda: ["SET", self.one("", "SESSION", "LOCAL"), name, self.one("=", "TO"), value],
            lambda: ["RESET", self.one(name, "ALL")],
            "SET TRANSACTION READ WRITE",
            "SET TRANSACTION READ ONLY",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE , READ WRITE",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET CONSTRAINTS ALL DEFERRED",
            "SET NAMES 'UTF8'",
            "SET TIME ZONE 'UTC'",
            "DISCARD PLANS",
            "DISCARD TEMP",
            "DISCARD ALL",
        )

    def transaction(self) -> Piece:
        """What ends a transaction, and what it begins then."""
        return self.one(
            ["COMMIT ;", self.one("", "BEGIN READ WRITE ;", "BEGIN ;"), self.dml()],
            ["ROLLBACK ; BEGIN READ WRITE ;", self.one(self.dml, self.query)],
            "COMMIT",
            "ROLLBACK",
            "END",
            "COMMIT AND CHAIN",
            "BEGIN READ WRITE",
            "BEGIN",
            "START TRANSACTION READ WRITE",
            "SAVEPOINT s ; ROLLBACK TO s",
            ["SAVEPOINT s ; ", self.statement(), "; RELEASE s"],
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
        )

    def schema(self) -> Piece:
        return self.one(
            "CREATE TABLE made ( id int )",
            "CREATE TEMP TABLE made ( id int )",
            lambda: ["CREATE TABLE made AS", self.query()],
            lambda: ["CREATE VIEW made AS", self.query()],
            "CREATE INDEX ON thing ( name )",
            "CREATE SEQUENCE made",
            "CREATE FUNCTION made ( ) RETURNS int LANGUAGE sql AS $$SELECT 1$$",
            "DROP TABLE IF EXISTS thing CASCADE",
            "DROP TABLE IF EXISTS missing",
            "ALTER TABLE thing ADD COLUMN made int",
            "TRUNCATE thing",
            "COMMENT ON TABLE thing IS 'x'",
            "GRANT SELECT ON thing TO PUBLIC",
            "REFRESH MATERIALIZED VIEW kept",
            "REINDEX TABLE thing",
            "CLUSTER thing USING thing_pkey",
            "ANALYZE thing",
            "ANALYZE ( VERBOSE ) thing",
            "VACUUM thing",
            "SECURITY LABEL ON TABLE thing IS 'x'",
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
            "REASSIGN OWNED BY CURRENT_USER TO CURRENT_USER",
        )

    def others(self) -> Piece:
        return self.one(
            "LOCK thing",
            "LOCK TABLE thing IN ACCESS SHARE MODE",
            "LOCK thing IN SHARE MODE NOWAIT",
            "NOTIFY a",
            "NOTIFY a , 'b'",
            "CALL acts ( )",
            "CALL rests ( )",
            "DO $$BEGIN PERFORM 1; END$$",
            "DO $$BEGIN INSERT INTO thing VALUES (8, 'x'); END$$",
            "CHECKPOINT",
            "IMPORT FOREIGN SCHEMA x FROM SERVER y INTO z",
            "FROBNICATE thing",
            "SELECT",
            "( ( (",
            "'",
        )


# -- MariaDB ---------------------------------------------------------------------------------


class MariaDB(Grammar):
    """Several statements in one text, too: a driver may allow them."""

    dialect = "mysql"
    NAMES: ClassVar = ["a", "`a`", "`FOR UPDATE`", "`INTO`", "'a'", "value"]
    COLUMNS: ClassVar = ["id", "name", "id", "thing.id", "`id`", "`thing` . `name`"]
    VALUES: ClassVar = [
        "1",
        "NULL",
        "'a'",
        '"a"',
        "1.5",
        "'" + HIDDEN + "'",
        '"' + HIDDEN + '"',
        "'\\'" + HIDDEN + "'",
        "'a''" + HIDDEN + "'",
        "x'41'",
        "0x41",
        "b'1'",
        "_utf8'a'",
        "N'a'",
        "@a",
        "@@session.tx_read_only",
        "current_user",
        "1e3",
        "- - 1",
    ]
    SPACES: ClassVar = [
        "\n",
        "\t",
        "/**/",
        "/* ' */",
        '/* " */',
        "-- '\n",
        "--\n",
        "# ;\n",
        "/*! */",
        "/*!50000 */",
        "/*M! */",
        "/*!99999 a */",
    ]
    FUNCTIONS: ClassVar = [
        "count ( * )",
        "now ( )",
        "upper ( 'x' )",
        "concat ( 'a' , 'b' )",
        "substring('abc' FROM 1 FOR 2)",
        "last_insert_id ( )",
        "is_free_lock ( 'road' )",
        "release_lock ( 'road' )",
        "looks ( 1 )",
        "writes ( 1 )",
        "get_lock('road', 0)",
        "GET_LOCK ( 'road' , 0 )",
        "`get_lock`('road', 0)",
        "nextval(seq)",
        "NEXT VALUE FOR seq",
        "lastval(seq)",
        "setval(seq, 9)",
        "@a := 1",
        "if ( 1 , 2 , 3 )",
        "json_extract ( '{}' , '$' )",
    ]
    STATEMENTS: ClassVar = [
        "query",
        "query",
        "query",
        "plain",
        "explain",
        "explain",
        "dml",
        "prepared",
        "setting",
        "transaction",
        "schema",
        "versioned",
        "others",
    ]

    def plain(self) -> Piece:
        return self.one(
            "SHOW TABLES",
            "SHOW VARIABLES LIKE 'tx_read_only'",
            "SHOW STATUS WHERE variable_name = 'Uptime'",
            # No query of this grammar's: some have been seen to end a server of 10.11 here.
            "SHOW TABLES WHERE EXISTS ( SELECT id FROM thing )",
            "SHOW TABLES WHERE ( SELECT COUNT(*) FROM thing WHERE id = 1 ) = 1",
            "SHOW CREATE TABLE thing",
            "DESCRIBE thing",
            "DESC thing id",
            "CHECKSUM TABLE thing",
            "USE information_schema",
            "EXECUTE there",
            "DEALLOCATE PREPARE there",
            "SAVEPOINT s",
            "HELP 'select'",
            "GET DIAGNOSTICS @a = NUMBER",
            "",
        )

    def ending(self) -> Piece:
        return self.one(
            "FOR UPDATE",
            "LOCK IN SHARE MODE",
            "FOR UPDATE NOWAIT",
            "FOR UPDATE SKIP LOCKED",
            "INTO @a",
            "PROCEDURE ANALYSE ( )",
            "OFFSET 0 ROWS",
        )

    def dml(self) -> Piece:
        return self.one(
            super().dml,
            "REPLACE INTO thing VALUES ( 1 , 'r' )",
            "INSERT INTO thing SELECT 8 , 'x' ON DUPLICATE KEY UPDATE name = 'y'",
            "INSERT INTO thing VALUES ( 9 , 'x' ) RETURNING id",
            "UPDATE thing AS t JOIN thing AS u ON t.id = u.id SET t.name = 'z'",
            "DELETE t FROM thing AS t",
        )

    def explain(self) -> Piece:
        return [
            self.one(
                "EXPLAIN",
                "EXPLAIN",
                "ANALYZE",
                "EXPLAIN EXTENDED",
                "EXPLAIN PARTITIONS",
                "EXPLAIN FORMAT = JSON",
                "ANALYZE FORMAT = JSON",
                "DESCRIBE",
                "DESC EXTENDED",
            ),
            self.one(self.query, self.query, self.query, self.dml),
        ]

    def prepared(self) -> Piece:
        inner = self.one(
            "SELECT 1",
            "SELECT * FROM thing",
            "SELECT 1 FOR UPDATE",
            "DELETE FROM thing",
            "INSERT INTO thing VALUES (7, 1)",
            "SET tx_read_only = 0",
            "SELECT ''a''",
            "SELECT /*! 1 */",
            "/*!DELETE FROM thing*/",
            "SELECT get_lock(''road'', 0)",
            "CALL acts()",
        )
        return self.one(
            f"PREPARE p FROM '{inner}'",
            f"EXECUTE IMMEDIATE '{inner}'",
            f"PREPARE p FROM '{inner}' ; EXECUTE p",
            f"EXECUTE IMMEDIATE 'SELECT ?' USING {self.value()}",
            "PREPARE p FROM @a",
            "EXECUTE IMMEDIATE @a",
            "EXECUTE writing",
            "EXECUTE IMMEDIATE concat ( 'DELETE ' , 'FROM thing' )",
        )

    def setting(self) -> Piece:
        name = self.one(
            "tx_read_only",
            "transaction_read_only",
            "`tx_read_only`",
            "@@tx_read_only",
            "@@session.tx_read_only",
            "sql_mode",
            "autocommit",
            "@a",
            "lock_wait_timeout",
            "character_set_client",
        )
        value = self.one(
            "0", "1", "OFF", "ON", "DEFAULT", "1 - 1", "'x'", "''", "'ANSI_QUOTES'", "utf8mb4"
        )
        return self.one(
            lambda: [f"SET {name} = {value}"],
            lambda: [f"SET SESSION {name} = {value}"],
            lambda: [f"SET @a = 1 , {name} = {value}"],
            lambda: [f"SET {name} = {value} , @a = @@tx_read_only , sql_mode = DEFAULT"],
            lambda: ["SET @a =", self.value(), f", {name} = {value}"],
            lambda: ["SET @a = (", self.query(), ")"],
            "SET SESSION TRANSACTION READ WRITE",
            "SET TRANSACTION READ WRITE",
            "SET TRANSACTION READ ONLY",
            "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE , READ WRITE",
            lambda: ["SET STATEMENT", f"{name} = {value}", "FOR", self.statement()],
            lambda: ["SET STATEMENT lock_wait_timeout = 1 FOR", self.statement()],
            "SET NAMES utf8mb4",
            "SET NAMES gbk",
            "SET CHARACTER SET utf8mb4",
            "RESET QUERY CACHE",
        )

    def transaction(self) -> Piece:
        return self.one(
            lambda: ["COMMIT ;", self.dml()],
            lambda: ["COMMIT ; START TRANSACTION READ WRITE ;", self.dml()],
            "START TRANSACTION READ WRITE",
            "START TRANSACTION",
            "START TRANSACTION READ ONLY",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT",
            "BEGIN",
            "BEGIN WORK",
            "COMMIT AND CHAIN",
            "ROLLBACK",
            "ROLLBACK TO SAVEPOINT s",
            "RELEASE SAVEPOINT s",
            "XA START 'x'",
            lambda: ["BEGIN NOT ATOMIC", self.one(self.dml, "SELECT 1"), "; END"],
        )

    def schema(self) -> Piece:
        return self.one(
            "CREATE TABLE made ( id int )",
            "CREATE TEMPORARY TABLE made ( id int )",
            lambda: ["CREATE TABLE made AS", self.query()],
            lambda: ["CREATE VIEW made AS", self.query()],
            "CREATE INDEX made ON thing ( name )",
            "CREATE SEQUENCE made",
            "CREATE FUNCTION made ( ) RETURNS int RETURN 1",
            "DROP TABLE IF EXISTS thing",
            "DROP TABLE IF EXISTS missing",
            "ALTER TABLE thing ADD COLUMN made int",
            "TRUNCATE thing",
            "RENAME TABLE thing TO made",
            "ANALYZE TABLE thing",
            "OPTIMIZE TABLE thing",
            "CHECK TABLE thing",
            "REPAIR TABLE thing",
            "FLUSH TABLES",
        )

    def versioned(self) -> Piece:
        """A comment that some servers execute, around what is read or written."""
        mark = self.one(
            "/*!", "/*!50000", "/*!100000", "/*!999999", "/*M!", "/*M!100000", "/*!00000"
        )
        return self.one(
            lambda: [mark, self.statement(), "*/"],
            lambda: ["SELECT 1", mark, self.ending(), "*/"],
            lambda: ["SELECT 1", mark, "INTO @a */"],
            lambda: ["SELECT 1", mark, "FOR UPDATE */"],
            lambda: ["SELECT", mark, "get_lock('road', 0) */ , 1"],
            lambda: ["SELECT 1", mark, "; DELETE FROM thing */"],
            lambda: [mark, "DELETE FROM thing */ WHERE 0"],
            lambda: ["SELECT", mark, self.value(), ", */ 1"],
        )

    def others(self) -> Piece:
        return self.one(
            "LOCK TABLES thing READ",
            "LOCK TABLES thing WRITE",
            "UNLOCK TABLES",
            "HANDLER thing OPEN",
            "HANDLER thing OPEN ; HANDLER thing READ FIRST ; HANDLER thing CLOSE",
            "CALL acts ( )",
            "CALL rests ( )",
            "DO 1",
            "DO get_lock('road', 0)",
            "DO sleep ( 0 )",
            "DO writes ( 1 )",
            "CACHE INDEX thing IN x",
            "LOAD INDEX INTO CACHE thing",
            "SIGNAL SQLSTATE '45000'",
            "FROBNICATE thing",
            "SELECT * FROM thing INTO OUTFILE '/x'",
            "SELECT 1 INTO DUMPFILE '/x'",
            "LOAD DATA INFILE '/x' INTO TABLE thing",
            "( ( (",
            "'",
        )


# -- SQLite ----------------------------------------------------------------------------------


class SQLite(Grammar):
    """One statement in a text, as its driver takes it."""

    dialect = "sqlite"
    several = False
    NAMES: ClassVar = ["a", '"a"', "[a]", "`a`", "'a'", '"FOR UPDATE"', "[INTO]"]
    COLUMNS: ClassVar = ["id", "name", "id", "thing.id", "[id]", "rowid"]
    VALUES: ClassVar = [
        "1",
        "NULL",
        "'a'",
        "1.5",
        "'" + HIDDEN + "'",
        "'a''" + HIDDEN + "'",
        "'a\\'",
        "x'41'",
        "current_timestamp",
        "TRUE",
        "1e3",
    ]
    SPACES: ClassVar = ["\n", "\t", "/**/", "/* ' */", "/* /* */", "--'\n", "-- ;\n", "\f"]
    FUNCTIONS: ClassVar = [
        "count ( * )",
        "upper ( 'x' )",
        "random ( )",
        "last_insert_rowid ( )",
        "changes ( )",
        "sqlite_version ( )",
        "printf ( '%d' , 1 )",
        "json ( '[]' )",
        "load_extension ( 'none' )",
        "zeroblob ( 1 )",
        "nextval ( 'seq' )",
    ]
    STATEMENTS: ClassVar = [
        "query",
        "query",
        "query",
        "explain",
        "dml",
        "pragma",
        "pragma",
        "transaction",
        "schema",
        "others",
    ]

    def source(self) -> Piece:
        return (
            self.rarely(
                lambda: self.one(
                    "sqlite_master",
                    "pragma_table_info ( 'thing' )",
                    "pragma_user_version",
                    "pragma_query_only",
                    "json_each ( '[1]' )",
                    "[thing]",
                )
            )
            or super().source()
        )

    def ending(self) -> Piece:
        return self.one("LIMIT 1 OFFSET 0", "GROUP BY 1", "FOR UPDATE", "INTO made")

    def materialized(self) -> Piece:
        return self.one("", "", "MATERIALIZED", "NOT MATERIALIZED")

    def dml(self) -> Piece:
        return self.one(
            super().dml,
            "REPLACE INTO thing VALUES ( 1 , 'r' )",
            "INSERT OR IGNORE INTO thing VALUES ( 9 , 'x' )",
            "INSERT INTO thing VALUES ( 1 , 'x' ) ON CONFLICT DO NOTHING",
            "DELETE FROM thing RETURNING id",
            "INSERT INTO thing DEFAULT VALUES",
        )

    def explain(self) -> Piece:
        return [
            self.one("EXPLAIN", "EXPLAIN QUERY PLAN"),
            self.one(self.query, self.query, self.dml, self.pragma, self.schema),
        ]

    def pragma(self) -> Piece:
        name = self.one(
            *("query_only", "user_version", "application_id", "journal_mode", "table_info"),
            *("schema_version", "auto_vacuum", "encoding", "page_size", "foreign_keys"),
            *("writable_schema", "incremental_vacuum", "optimize", "wal_checkpoint"),
            *("integrity_check", "quick_check", "cache_size", "locking_mode", "temp_store"),
            *("locking_mode", "synchronous", "shrink_memory", "data_version", "compile_options"),
            *("journal_size_limit", "secure_delete", "threads", "collation_list", "none"),
            *("trusted_schema", "defer_foreign_keys", "max_page_count", "wal_autocheckpoint"),
            "default_cache_size",
        )
        value = self.one(
            "1", "0", "off", "on", "'off'", "thing", "wal", "exclusive", "7", "'thing'"
        )
        schema = self.one("", "", "main.", "temp.", '"main" . ')
        return self.one(
            f"PRAGMA {schema}{name}",
            f"PRAGMA {schema}{name} = {value}",
            f"PRAGMA {schema}{name} ( {value} )",
            f'PRAGMA {schema}"{name}" = {value}',
        )

    def transaction(self) -> Piece:
        return self.one(
            "BEGIN",
            "BEGIN IMMEDIATE",
            "BEGIN EXCLUSIVE TRANSACTION",
            "BEGIN DEFERRED",
            "COMMIT",
            "END TRANSACTION",
            "ROLLBACK",
            "SAVEPOINT s",
            "RELEASE s",
            "ROLLBACK TO s",
        )

    def schema(self) -> Piece:
        return self.one(
            "CREATE TABLE made ( id int )",
            "CREATE TEMP TABLE made ( id int )",
            lambda: ["CREATE TABLE made AS", self.query()],
            lambda: ["CREATE VIEW made AS", self.query()],
            "CREATE INDEX made ON thing ( name )",
            "CREATE TRIGGER made AFTER INSERT ON thing BEGIN SELECT 1 ; END",
            "CREATE VIRTUAL TABLE made USING fts5 ( x )",
            "DROP TABLE IF EXISTS thing",
            "DROP TABLE IF EXISTS missing",
            "ALTER TABLE thing ADD COLUMN made int",
            "REINDEX",
            "ANALYZE",
            "ANALYZE thing",
            "VACUUM",
        )

    def others(self) -> Piece:
        return self.one(
            "ATTACH ':memory:' AS other",
            "ATTACH DATABASE '' AS other",
            "DETACH other",
            "VACUUM INTO 'x.db'",
            "ATTACH 'x.db' AS other",
            "FROBNICATE thing",
            "( ( (",
            "'",
            "[",
        )
