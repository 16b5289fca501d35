"""Texts that write, for every server, SQLite and MariaDB; each is sent in several ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.roads.model import ALL, LITE, MY, PG, W


@dataclass(frozen=True)
class Text:
    name: str
    statements: tuple[str, ...]  # COMMIT as a statement of its own ends the transaction
    dialects: frozenset[str] = ALL
    many: bool = False  # several statements in one text
    traceless: bool = False
    lifts: bool = False  # it goes through more ways
    autocommit: bool = False  # it can't run in a transaction
    parameters: dict[str, str] | None = None
    not_by: str | None = None  # a way in which no server would take it
    since: int = 0  # the first version of PostgreSQL that has it: older ones have no control


def one(name: str, *statements: str, on: str = "", **kw: Any) -> Text:
    return Text(name, statements, frozenset(on.split()) or ALL, **kw)


def texts() -> Iterator[Text]:
    yield one("insert", W, lifts=True)
    yield one(
        "insert in lower case",
        W.lower(),
    )
    yield one("insert with white space before it", "\n\t  " + W)
    yield one("insert after a comment", "/* SELECT */ " + W)
    yield one("insert after a line comment", "-- SELECT\n" + W)
    yield one("insert after two comments", "/* a */ -- b\n/* c */\n" + W)
    yield one("insert after a semicolon", ";" + W, on=f"{PG}")
    yield one("update", "UPDATE thing SET name = 'road'")
    yield one("delete", "DELETE FROM part")
    yield one("delete with a quoted table", 'DELETE FROM "part"', on=f"{PG} {LITE}")
    yield one("insert from select", "INSERT INTO thing (name) SELECT name FROM thing")
    yield one("insert returning", W + " RETURNING id")
    yield one("create table", "CREATE TABLE road (id integer)")
    yield one("create table as", "CREATE TABLE road AS SELECT * FROM thing")
    yield one("create index", "CREATE INDEX road ON thing (name)")
    yield one("create view", "CREATE VIEW road AS SELECT * FROM thing")
    yield one("alter table", "ALTER TABLE thing ADD COLUMN road integer")
    yield one("drop table", "DROP TABLE part")
    yield one(
        "create trigger",
        "CREATE TRIGGER road AFTER INSERT ON thing BEGIN DELETE FROM part; END",
        on=LITE,
    )
    yield one(
        "insert of a CTE", "INSERT INTO thing (name) WITH x AS (SELECT 'road' AS n) SELECT n FROM x"
    )
    yield one(
        "insert after a CTE",
        "WITH x AS (SELECT 'road' AS n) INSERT INTO thing (name) SELECT n FROM x",
        on=f"{PG} {LITE}",
    )
    yield one(
        "update after a CTE",
        "WITH x AS (SELECT 1) UPDATE thing SET name = 'road'",
        on=f"{PG} {LITE}",
    )
    yield one("delete after a CTE", "WITH x AS (SELECT 1) DELETE FROM part", on=f"{PG} {LITE}")
    yield one("replace", "REPLACE INTO thing (id, name) VALUES (77, 'road')", on=f"{LITE} {MY}")

    # SQLite
    yield one("PRAGMA user_version", "PRAGMA user_version = 7", on=LITE)
    yield one("PRAGMA journal_mode", "PRAGMA journal_mode = WAL", on=LITE, autocommit=True)
    yield one("PRAGMA query_only off and insert", "PRAGMA query_only = OFF", W, on=LITE, lifts=True)
    yield one("PRAGMA query_only(0) and insert", "PRAGMA query_only(0)", W, on=LITE, lifts=True)
    yield one(
        "PRAGMA main.query_only and insert",
        "/* */PRAGMA main . query_only='no'",
        W,
        on=LITE,
        lifts=True,
    )
    yield one(
        "ATTACH of a new file",
        "ATTACH '{scratch}/road.db' AS road",
        "CREATE TABLE road.x (i)",
        on=LITE,
        autocommit=True,
        lifts=True,
    )
    yield one(
        "ATTACH of another file",
        "ATTACH '{scratch}/other.db' AS road",
        "INSERT INTO road.t VALUES (1)",
        on=LITE,
        autocommit=True,
        lifts=True,
    )
    yield one("VACUUM INTO", "VACUUM INTO '{scratch}/copy.db'", on=LITE, autocommit=True)
    yield one("ANALYZE", "ANALYZE", on=LITE)
    yield one(
        "BEGIN IMMEDIATE and insert", "BEGIN IMMEDIATE", W, "COMMIT", on=LITE, autocommit=True
    )
    yield one(
        "REPLACE after a CTE",
        "WITH x AS (SELECT 1) REPLACE INTO thing (id, name) VALUES (1, 'road')",
        on=LITE,
    )

    # MariaDB
    yield one("insert after a hash comment", "# SELECT\n" + W, on=MY)
    yield one("insert in an executed comment", "/*!50000 " + W + " */", on=MY)
    yield one("insert in MariaDB's executed comment", "/*M! " + W + " */", on=MY)
    yield one(
        "START TRANSACTION READ WRITE and insert",
        "START TRANSACTION READ WRITE",
        W,
        "COMMIT",
        on=MY,
        lifts=True,
    )
    yield one(
        "SET TRANSACTION READ WRITE and insert",
        "COMMIT",
        "SET TRANSACTION READ WRITE",
        W,
        on=MY,
        not_by="AUTOCOMMIT",
        lifts=True,
    )
    yield one(
        "SET SESSION TRANSACTION READ WRITE and a function",
        "SET SESSION TRANSACTION READ WRITE",
        "COMMIT",
        "SELECT write_one()",
        on=MY,
        lifts=True,
    )
    yield one(
        "SET tx_read_only and insert",
        "SET @@session.tx_read_only = 0",
        "COMMIT",
        "SELECT write_one()",
        on=MY,
        lifts=True,
    )
    yield one(
        "SET of two variables and insert",
        "SET autocommit = 0, tx_read_only = 0",
        "COMMIT",
        "SELECT write_one()",
        on=MY,
        lifts=True,
    )
    yield one(
        "SET of a name in quotes and a function",
        "SET @@session.'tx_read_only' = 0",
        "COMMIT",
        "SELECT write_one()",
        on=MY,
        lifts=True,
    )
    yield one("SET STATEMENT for insert", "SET STATEMENT max_statement_time = 1 FOR " + W, on=MY)
    yield one(
        "PREPARE from a text",
        f"PREPARE road FROM '{W.replace(chr(39), chr(34))}'",
        "EXECUTE road",
        "DEALLOCATE PREPARE road",
        on=MY,
    )
    yield one("EXECUTE IMMEDIATE", f"EXECUTE IMMEDIATE '{W.replace(chr(39), chr(34))}'", on=MY)
    yield one(
        "EXECUTE IMMEDIATE of a concatenation", "EXECUTE IMMEDIATE CONCAT('COMMIT')", W, on=MY
    )
    yield one(
        "compound statement",
        "BEGIN NOT ATOMIC SET TRANSACTION READ WRITE; COMMIT; " + W + "; END",
        on=MY,
    )
    yield one("SELECT INTO OUTFILE", "SELECT * FROM thing INTO OUTFILE '{scratch}/road.txt'", on=MY)
    yield one("LOCK TABLES", "LOCK TABLES thing WRITE", "UNLOCK TABLES", on=MY, traceless=True)
    yield one(
        "SELECT LOCK IN SHARE MODE", "SELECT * FROM thing LOCK IN SHARE MODE", on=MY, traceless=True
    )
    yield one(
        "GET_LOCK",
        "SELECT GET_LOCK('road', 0)",
        "SELECT RELEASE_LOCK('road')",
        on=MY,
        traceless=True,
    )
    yield one("NEXT VALUE FOR", "SELECT NEXT VALUE FOR seq", on=MY)
    yield one("SET GLOBAL", "SET GLOBAL max_error_count = 65", on=MY)
    yield one("SET @@global", "SET @@global.max_error_count = 65", on=MY)
    yield one("TRUNCATE", "TRUNCATE TABLE part", on=f"{MY} {PG}")
    yield one(
        "insert from a multi-table update",
        "UPDATE thing t JOIN part p ON p.thing_id = t.id SET t.name = 'road'",
        on=MY,
    )
    yield one("ANALYZE of an update", "ANALYZE UPDATE thing SET name = 'road'", on=MY)
    yield one("RENAME TABLE", "RENAME TABLE part TO road", on=MY)
    yield one("procedure", "CALL write_proc()", on=f"{MY} {PG}", lifts=True)
    yield one("function", "SELECT write_one()", on=f"{MY} {PG}", lifts=True)
    yield one("FOR UPDATE", "SELECT * FROM thing FOR UPDATE", on=f"{MY} {PG}", traceless=True)
    outfile = "INTO OUTFILE '{scratch}/road.txt'"
    inner = 'SELECT 1 INTO OUTFILE "{scratch}/road.txt"'
    for name, statement in {
        "a control character": f"SELECT 1 --\x01' \n {outfile} -- '",
        "a space that is none": f"SELECT 1--\u00a0 {outfile} FROM (SELECT 1 AS `\u00a0`) x",
        "a comment of another version": f"SELECT 1 /*!999999 ' */ {outfile} -- '",
        "a string that says AS": f"SELECT 'AS' {outfile}",
        "a name that says AS": f"SELECT 1 `AS` {outfile}",
        "a number that ends in a point": f"SELECT 1.{outfile}",
        "a long s": f"SELECT 1 a\u017f {outfile}",
    }.items():
        yield one(f"SELECT INTO OUTFILE after {name}", statement, on=MY)
    yield one(
        "SELECT INTO OUTFILE after another sql_mode",
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
        f"SELECT '\\' {outfile} -- '",
        on=MY,
    )
    yield one(
        "EXECUTE IMMEDIATE with a value",
        f"EXECUTE IMMEDIATE '{inner.replace('1', '?')}' USING 'SELECT 1'",
        on=MY,
    )
    yield one(
        "EXECUTE IMMEDIATE of strings side by side",
        f"EXECUTE IMMEDIATE '{inner} -- ' 'SELECT 1'",
        on=MY,
    )
    yield one(
        "EXECUTE IMMEDIATE of a string with a backslash",
        f"EXECUTE IMMEDIATE 'SELECT 1 -- \\n {inner[8:]}'",
        on=MY,
    )
    yield one(
        "PREPARE from strings side by side",
        f"PREPARE road FROM '{inner} -- ' 'SELECT 1'",
        "EXECUTE road",
        "DEALLOCATE PREPARE road",
        on=MY,
    )
    yield one(
        "EXECUTE IMMEDIATE that lifts and a function",
        "EXECUTE IMMEDIATE 'SET SESSION TRANSACTION READ WRITE -- ' 'SELECT 1'",
        "COMMIT",
        "SELECT write_one()",
        on=MY,
    )
    yield one(
        "SET tx_read_only to a difference and a function",
        "SET SESSION tx_read_only = 1 - 1",
        "COMMIT",
        "SELECT write_one()",
        on=MY,
        lifts=True,
    )
