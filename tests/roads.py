"""Ways to write into a database, as data. tests/test_roads.py tries each of them.

A road is tried from a `Place`: in tests/test_roads.py one that belongs to an application that is
read-only, and, as a control, one without any of ours, where it must take effect.
"""

# ruff: noqa: E501, ARG005, PLW0108, PLW2901, PLC0415  # SQL is easier to read in one line
from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    bindparam,
    delete,
    event,
    func,
    insert,
    lambda_stmt,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import ResourceClosedError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
)
from sqlalchemy.schema import CreateIndex, CreateSequence, CreateTable, DropTable, Index

from tests.app import in_thread

PG, LITE, MY = "postgresql", "sqlite", "mysql"
ALL = frozenset((PG, LITE, MY))


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    note: Mapped[str | None] = mapped_column(String(50))
    parts: Mapped[list[Part]] = relationship(cascade="all, delete-orphan", back_populates="thing")


class Part(Base):
    __tablename__ = "part"
    id: Mapped[int] = mapped_column(primary_key=True)
    thing_id: Mapped[int] = mapped_column(ForeignKey("thing.id"))
    name: Mapped[str] = mapped_column(String(50))
    thing: Mapped[Thing] = relationship(back_populates="parts")


thing = Thing.__table__
other = Table("other", MetaData(), Column("id", Integer, primary_key=True))
counted = Table(
    "counted",
    MetaData(),
    Column("id", Integer, Sequence("seq"), primary_key=True),
    Column("name", String(50)),
)


@dataclass(frozen=True)
class Place:
    """Where a road is tried.

    `engine` is what an application asks for in Core; `read_write` the engine that it made for
    writing, `scratch` a directory that the server can write. `probe` is called while the
    transaction is open, for what leaves no trace when it has ended.
    """

    dialect: str
    driver: str
    session: Callable[..., Session]
    engine: Callable[[], Engine]
    read_write: Engine
    scratch: str
    probe: Callable[[], object]


@dataclass(frozen=True)
class Road:
    name: str
    go: Callable[[Place], object]
    dialects: frozenset[str] = ALL
    raw: bool = False  # the driver's own error is right too
    around: bool = False  # it goes round the selector, to the read-write engine
    traceless: bool = False  # nothing is left of it; the control looks while it is under way
    drivers: frozenset[str] | None = None
    way: str | None = None  # how a text is sent
    since: int = 0  # the first version of PostgreSQL that has it, or refuses it


ROADS: list[Road] = []


def road(*dialects: str, **kwargs: Any) -> Callable[[Callable[[Place], object]], Any]:
    def add(function: Callable[[Place], object]) -> Callable[[Place], object]:
        name = function.__name__.replace("_", " ")
        ROADS.append(Road(name, function, frozenset(dialects) or ALL, **kwargs))
        return function

    return add


# -- texts, each sent in several ways ---------------------------------------------------------

W = "INSERT INTO thing (name) VALUES ('road')"


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


def texts() -> Iterator[Text]:
    def one(name: str, *statements: str, on: str = "", **kw: Any) -> Text:
        return Text(name, statements, frozenset(on.split()) or ALL, **kw)

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

    # PostgreSQL
    p: dict[str, Any] = {"on": PG}
    yield one("insert after a nested comment", "/* a /* SELECT */ b */ " + W, **p)
    yield one("insert after a carriage return", "-- a\r" + W, **p)
    yield one("insert after a select", "SELECT 1; " + W, many=True, **p)
    yield one("insert after a quoted semicolon", "SELECT 'it''s; \\'; " + W, many=True, **p)
    yield one("insert after a dollar quote", "SELECT $$'$$, $a$ $$; $a$; " + W, many=True, **p)
    yield one("insert after an escape string", "SELECT E'\\'; ' ; " + W, many=True, **p)
    yield one("insert after a quoted identifier", 'SELECT 1 AS "a;""\'" ; ' + W, many=True, **p)
    yield one("CTE that inserts", f"WITH x AS ({W} RETURNING id) SELECT * FROM x", **p)
    yield one(
        "CTE that updates",
        "WITH x AS MATERIALIZED (UPDATE ONLY thing AS t SET name = 'road' RETURNING id) SELECT * FROM x",
        **p,
    )
    yield one(
        "CTE that deletes",
        "WITH a AS (SELECT 1), x AS NOT MATERIALIZED (/* */ delete from part returning *) TABLE x",
        **p,
    )
    yield one("EXPLAIN ANALYZE", "EXPLAIN ANALYZE " + W, **p)
    yield one(
        "EXPLAIN in parentheses", "EXPLAIN (COSTS OFF, ANALYZE, VERBOSE) DELETE FROM part", **p
    )
    yield one(
        "EXPLAIN ANALYZE of a CTE",
        f"EXPLAIN (ANALYZE) WITH x AS ({W} RETURNING id) SELECT * FROM x",
        **p,
    )
    yield one("SELECT INTO", "SELECT * INTO road FROM thing", **p)
    yield one("SELECT INTO at the end of a line", "SELECT 1\nINTO\nroad", **p)
    yield one("SELECT INTO UNLOGGED", "SELECT 1 AS a INTO UNLOGGED road", **p)
    yield one(
        "MERGE",
        "MERGE INTO thing USING (SELECT 1) x ON false WHEN NOT MATCHED THEN INSERT (name) VALUES ('road')",
        **p,
    )
    yield one(
        "PREPARE and EXECUTE",
        "DEALLOCATE ALL",
        f"PREPARE road AS {W}",
        "EXECUTE road",
        "DEALLOCATE road",
        lifts=True,
        **p,
    )
    yield one(
        "PREPARE and EXECUTE of a function",
        "DEALLOCATE ALL",
        "PREPARE road (int) AS SELECT write_one(), $1",
        "EXECUTE road(1)",
        "DEALLOCATE road",
        lifts=True,
        **p,
    )
    yield one(
        "DECLARE for a function",
        "DECLARE road CURSOR FOR SELECT write_one()",
        "FETCH ALL FROM road",
        **p,
    )
    yield one(
        "DECLARE FOR UPDATE",
        "DECLARE road CURSOR FOR SELECT * FROM thing FOR UPDATE",
        traceless=True,
        **p,
    )
    yield one("COPY to a file", "COPY thing TO '{scratch}/road.csv'", **p)
    yield one("COPY to a program", "COPY (SELECT 1) TO PROGRAM 'cat > {scratch}/road.txt'", **p)
    yield one("COPY from a program", "COPY thing (name) FROM PROGRAM 'echo road'", **p)
    yield one("function in parentheses", "(SELECT write_one())", **p)
    yield one("function in VALUES", "VALUES (write_one())", **p)
    yield one("function in EXPLAIN ANALYZE", "EXPLAIN ANALYZE SELECT write_one()", **p)
    yield one("SECURITY DEFINER function", "SELECT * FROM write_definer()", lifts=True, **p)
    yield one("SECURITY DEFINER function with a setting", "SELECT write_setting()", lifts=True, **p)
    yield one("DO", "DO $$ BEGIN INSERT INTO thing (name) VALUES ('road'); END $$", lifts=True, **p)
    yield one(
        "DO that lifts",
        "DO $$ BEGIN SET TRANSACTION READ WRITE; END $$",
        "SELECT write_one()",
        lifts=True,
        **p,
    )
    yield one("nextval", "SELECT nextval('seq')", lifts=True, **p)
    yield one("nextval in a CTE", "WITH x AS (SELECT pg_catalog . nextval ('seq')) TABLE x", **p)
    yield one("nextval, quoted", "SELECT \"nextval\"('seq')", **p)
    yield one("setval", "SELECT setval('seq', 77)", **p)
    yield one("ALTER SEQUENCE", "ALTER SEQUENCE seq RESTART WITH 77", **p)
    yield one("CREATE SEQUENCE", "CREATE SEQUENCE road", **p)
    yield one("lo_create", "SELECT lo_create(0)", lifts=True, **p)
    yield one("lo_from_bytea", "SELECT lo_from_bytea(0, 'road')", **p)
    yield one("lo_put", "SELECT lo_put(1234, 0, 'road')", **p)
    yield one("lowrite", "SELECT lowrite(lo_open(1234, 131072), 'road')", **p)
    yield one("lo_unlink", "SELECT lo_unlink(1234)", **p)
    yield one("lo_import", "SELECT lo_import('{scratch}/other.db')", **p)
    yield one("lo_export", "SELECT lo_export(1234, '{scratch}/road.lo')", **p)
    yield one("pg_notify", "SELECT pg_notify('road', '')", traceless=True, **p)
    yield one("NOTIFY", "NOTIFY road", traceless=True, **p)
    yield one("LOCK TABLE", "LOCK TABLE thing", traceless=True, **p)
    yield one("LOCK TABLE IN ACCESS SHARE MODE", "lock thing in share mode", traceless=True, **p)
    for clause in (
        "NO KEY UPDATE",
        "SHARE",
        "KEY SHARE",
        "UPDATE OF thing NOWAIT",
        "SHARE SKIP LOCKED",
    ):
        yield one(f"FOR {clause}", f"SELECT * FROM thing FOR {clause}", traceless=True, **p)
    yield one(
        "FOR UPDATE in a subquery",
        "SELECT * FROM (SELECT * FROM thing FOR UPDATE) x",
        traceless=True,
        **p,
    )
    for name in ("lock", "lock_shared", "xact_lock", "xact_lock_shared"):
        for how in ("", "try_"):
            f = f"pg_{how}advisory_{name}"
            yield one(f, f"SELECT {f}(7)", traceless=True, **p)
    yield one(
        "CREATE FUNCTION", "CREATE FUNCTION road() RETURNS int LANGUAGE sql AS 'SELECT 1'", **p
    )
    yield one("CREATE TEMP TABLE", "CREATE TEMP TABLE road (i int)", traceless=True, **p)
    yield one("CREATE SCHEMA", "CREATE SCHEMA road", **p)
    yield one("CREATE TYPE", "CREATE TYPE road AS ENUM ('a')", **p)
    yield one("COMMENT ON", "COMMENT ON TABLE thing IS 'road'", **p)
    yield one("GRANT", "GRANT SELECT ON thing TO PUBLIC", **p)
    yield one("ALTER ROLE", "ALTER ROLE CURRENT_USER SET search_path = public", traceless=True, **p)
    yield one(
        "ALTER DATABASE",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$",
        traceless=True,
        **p,
    )
    yield one("REFRESH MATERIALIZED VIEW", "REFRESH MATERIALIZED VIEW mat", traceless=True, **p)
    yield one("VACUUM", "VACUUM thing", autocommit=True, traceless=True, **p)
    yield one("ANALYZE a table", "ANALYZE thing", traceless=True, **p)
    yield one("REINDEX", "REINDEX TABLE thing", traceless=True, **p)
    yield one("UPDATE through a view", "UPDATE seen SET name = 'road'", **p)
    yield one("COMMIT PREPARED", "COMMIT PREPARED '{prepared}'", autocommit=True, **p)
    yield one("ROLLBACK PREPARED", "ROLLBACK PREPARED '{prepared}'", autocommit=True, **p)
    yield one(
        "emit a message", "SELECT pg_logical_emit_message(true, 'road', 'x')", traceless=True, **p
    )
    yield one(
        "advance a replication origin",
        "SELECT pg_replication_origin_create('road_{database}')",
        **p,
    )

    # what lifts the protection, followed by what Python sees, and by what it does not see
    lifts: dict[str, tuple[str, ...]] = {
        "SET TRANSACTION READ WRITE": ("SET TRANSACTION READ WRITE",),
        "set transaction isolation level and read write": (
            "set transaction isolation level read committed, read/**/write",
        ),
        "SET transaction_read_only off": ("SET transaction_read_only = off",),
        "SET LOCAL transaction_read_only": ("SET LOCAL transaction_read_only TO 'off'",),
        "SET quoted transaction_read_only": ('SET SESSION "transaction_read_only" = 0',),
        "set_config": ("SELECT set_config('transaction_read_only', 'off', false)",),
        "set_config of a concatenation": (
            "SELECT set_config('transaction_' || 'read_only', 'off', true)",
        ),
        "set_config of an escape string": (
            "SELECT set_config(E'transaction_read\\x5fonly', 'off', true)",
        ),
        "set_config of a dollar quote": (
            "SELECT pg_catalog.\"set_config\"($$transaction_read_only$$::text, 'off', true)",
        ),
        "set_config by an escaped name": (
            "SELECT U&\"set\\005fconfig\"('transaction_read_only', 'off', true)",
        ),
        "set_config of the next": (
            "SELECT set_config('default_transaction_read_only', 'off', false)",
            "COMMIT",
        ),
        "set_config, prepared": (
            "DEALLOCATE ALL",
            "PREPARE lift (text) AS SELECT set_config($1, 'off', false)",
            "EXECUTE lift('transaction_read_only')",
            "DEALLOCATE lift",
        ),
        "SET SESSION CHARACTERISTICS": (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "COMMIT",
        ),
        "SET default_transaction_read_only": ("SET default_transaction_read_only = off", "COMMIT"),
        "SET default_transaction_read_only to default": (
            "SET default_transaction_read_only TO DEFAULT",
            "COMMIT",
            "SET TRANSACTION READ WRITE",
        ),
        "RESET default_transaction_read_only": (
            "RESET default_transaction_read_only",
            "COMMIT",
            "SET TRANSACTION READ WRITE",
        ),
        "BEGIN READ WRITE": ("COMMIT", "BEGIN READ WRITE"),
        "START TRANSACTION READ WRITE": (
            "COMMIT",
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE",
        ),
        "COMMIT AND CHAIN": ("SET TRANSACTION READ WRITE", "COMMIT AND CHAIN"),
        "UPDATE pg_settings": (
            "UPDATE pg_settings SET setting = 'off' WHERE name = 'transaction_read_only'",
        ),
    }
    for name, statements in lifts.items():
        yield one(f"{name}, then insert", *statements, W, **p)
        yield one(f"{name}, then a function", *statements, "SELECT write_one()", lifts=True, **p)
        yield one(
            f"{name}, then a function in one text",
            "; ".join((*statements, "SELECT write_one()", "COMMIT")),
            many=True,
            **p,
        )
    yield one(
        "set_config of a bound name",
        "SELECT set_config(:name, 'off', true)",
        "SELECT write_one()",
        parameters={"name": "transaction_read_only"},
        **p,
    )
    for first in ("COMMIT", "ROLLBACK", "END", "ABORT", "COMMIT; BEGIN"):
        yield one(f"{first} and insert in one text", f"{first}; {W}; COMMIT", many=True, **p)
        yield one(
            f"{first} and a function in one text",
            f"{first}; SELECT write_one(); COMMIT",
            many=True,
            lifts=True,
            **p,
        )
    free = f"COMMIT; BEGIN READ WRITE; {W}; COMMIT"
    for name, statement in {
        "a letter that is no word to Python": f"SELECT 1 AS \N{GRINNING FACE}$$; {free}; --$$",
        "a string that goes on": f"SELECT E'a'\n'\\'' ; {free}; --'",
        "a string that goes on after a comment": f"SELECT E'a' -- b\n'\\'' ; {free}; --'",
    }.items():
        yield one(f"insert after {name}", statement, many=True, **p)
    yield one(
        "SET standard_conforming_strings and insert",
        "SET standard_conforming_strings = off",
        f"SELECT '\\'' ; {free}; --'",
        many=True,
        **p,
    )
    yield one(
        "SET by an escaped name, then a function",
        'SET U&"transaction_read\\005fonly" = off',
        "SELECT write_one()",
        lifts=True,
        **p,
    )
    # The function runs a text, into which Python does not look.
    lift = "SELECT set_config('default_transaction_read_only', 'off', false)"
    stat = f"SELECT * FROM ts_stat($${lift} ::tsvector$$)"
    yield one(
        "ts_stat that lifts and a function",
        stat,
        "COMMIT",
        "SET TRANSACTION READ WRITE",
        "SELECT write_one()",
        lifts=True,
        **p,
    )
    yield one(
        "ts_stat that lifts and a function in one text",
        f"{stat}; COMMIT; SELECT write_one(); COMMIT",
        many=True,
        **p,
    )
    yield one(
        "set_config of a cast and more, then a function",
        "SELECT set_config('default_'::text || 'transaction_read_only', 'off', false)",
        "COMMIT",
        "SELECT write_one()",
        lifts=True,
        **p,
    )
    yield one(
        "pg_restore_relation_stats",
        "SELECT pg_restore_relation_stats('schemaname', 'public', 'relname', 'thing', 'relpages', 7)",
        traceless=True,
        since=18,
        **p,
    )
    yield one(
        "pg_clear_relation_stats",
        "SELECT pg_clear_relation_stats('public', 'thing')",
        traceless=True,
        since=18,
        **p,
    )
    yield one(
        "RESET ALL and a function",
        "RESET ALL",
        "SET TRANSACTION READ WRITE",
        "SELECT write_one()",
        lifts=True,
        **p,
    )


def fill(statement: str, place: Place) -> str:
    values = {
        "scratch": place.scratch,
        "prepared": f"waiting_{place.engine().url.database}",
        "database": place.engine().url.database,
    }
    for name, value in values.items():
        statement = statement.replace("{" + name + "}", str(value))
    return statement


def bound(statement: str) -> Any:
    """The text, its colons those of casts only where they are."""
    return text(statement.replace("E':", "E'\\:"))


def consume(result: Any) -> None:
    with suppress(ResourceClosedError):  # it returned no rows
        result.all()


def by_session(t: Text, place: Place) -> None:
    with place.session() as session:
        for statement in t.statements:
            if statement == "COMMIT":
                session.commit()
            else:
                params = t.parameters if ":name" in statement else None
                consume(session.execute(bound(fill(statement, place)), params))
        place.probe()
        session.commit()


def by_connection(t: Text, place: Place) -> None:
    with place.session() as session:
        for statement in t.statements:
            if statement == "COMMIT":
                session.commit()
            else:
                sql = percent(fill(statement, place), place)
                consume(session.connection().exec_driver_sql(sql))
        place.probe()
        session.commit()


def by_options(t: Text, place: Place) -> None:
    """Options that turn the protection off."""
    options: dict[str, Any] = {"no_parameters": True}
    if place.dialect == PG:
        options["postgresql_readonly"] = False
    with place.session() as session:
        connection = session.connection(execution_options=options)
        for statement in t.statements:
            if statement == "COMMIT":
                session.commit()
                connection = session.connection(execution_options=options)
            else:
                consume(connection.exec_driver_sql(fill(statement, place)))
        place.probe()
        session.commit()


def by_core(t: Text, place: Place) -> None:
    with place.engine().connect() as connection:
        for statement in t.statements:
            if statement == "COMMIT":
                connection.commit()
            else:
                params = t.parameters if ":name" in statement else None
                consume(connection.execute(bound(fill(statement, place)), params))
        place.probe()
        connection.commit()


def by_autocommit(t: Text, place: Place) -> None:
    engine = place.engine().execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        try:
            if not t.autocommit:
                connection.exec_driver_sql("BEGIN")
            for statement in t.statements:
                if statement == "COMMIT" and not t.autocommit:
                    connection.exec_driver_sql("COMMIT")
                    connection.exec_driver_sql("BEGIN")
                else:
                    params = t.parameters if ":name" in statement else None
                    consume(connection.execute(bound(fill(statement, place)), params))
            if not t.autocommit:
                connection.exec_driver_sql("COMMIT")
        except Exception:
            if not t.autocommit:
                connection.exec_driver_sql("ROLLBACK")
            raise


def by_bare_autocommit(t: Text, place: Place) -> None:
    """Each statement is a transaction."""
    engine = place.engine().execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in t.statements:
            consume(connection.execute(bound(fill(statement, place)), t.parameters or None))


def by_plain_session(t: Text, place: Place) -> None:
    with place.session() as session, Session(session.get_bind()) as plain:
        for statement in t.statements:
            if statement == "COMMIT":
                plain.commit()
            else:
                consume(plain.execute(bound(fill(statement, place))))
        place.probe()
        plain.commit()


def by_stream(t: Text, place: Place) -> None:
    with place.engine().connect() as connection:
        for statement in t.statements:
            if statement == "COMMIT":
                connection.commit()
                continue
            streaming = connection.execution_options(stream_results=True)
            streaming.execute(bound(fill(statement, place))).all()
        connection.commit()


def raw_run(t: Text, place: Place, dbapi_connection: Any) -> None:
    for statement in t.statements:
        if statement == "COMMIT":
            dbapi_connection.commit()
            continue
        cursor = dbapi_connection.cursor()
        cursor.execute(fill(statement, place))
        if cursor.description:
            cursor.fetchall()
        cursor.close()
    place.probe()
    dbapi_connection.commit()


def by_session_cursor(t: Text, place: Place) -> None:
    with place.session() as session:
        raw_run(t, place, session.connection().connection)


def by_raw_connection(t: Text, place: Place) -> None:
    connection = place.engine().raw_connection()
    try:
        raw_run(t, place, connection)
    finally:
        connection.close()


def by_driver(t: Text, place: Place) -> None:
    connection = place.engine().raw_connection()
    try:
        raw_run(t, place, connection.driver_connection)
    finally:
        connection.rollback()
        connection.close()


def by_driver_autocommit(t: Text, place: Place) -> None:
    connection = place.engine().raw_connection()
    driver: Any = connection.driver_connection
    try:
        if place.dialect == LITE:
            driver.isolation_level = None
        elif place.dialect == MY:
            driver.autocommit(True)
        else:
            driver.autocommit = True
        raw_run(t, place, driver)
    finally:
        connection.invalidate()
        connection.close()


def by_driver_lifted(t: Text, place: Place) -> None:
    """The driver's own attribute, turned off."""
    connection = place.engine().raw_connection()
    driver: Any = connection.driver_connection
    try:
        if place.driver == "psycopg2":
            driver.set_session(readonly=False)
        else:
            driver.read_only = False
        raw_run(t, place, driver)
    finally:
        connection.rollback()
        connection.close()


def percent(statement: str, place: Place) -> str:
    return statement.replace("%", "%%") if place.dialect != LITE else statement


def can_take_each(t: Text) -> bool:
    """Whether it can run with each statement in a transaction of its own."""
    return len(t.statements) == 1 and not t.traceless and not t.many


WAYS: list[tuple[str, Callable[[Text, Place], None], Callable[[Text], bool], bool]] = [
    ("text in a session", by_session, lambda t: not t.autocommit, False),
    ("driver SQL", by_connection, lambda t: not t.autocommit and not t.parameters, False),
    ("options", by_options, lambda t: t.lifts and not t.autocommit, False),
    ("Core", by_core, lambda t: t.lifts and not t.autocommit, False),
    ("AUTOCOMMIT", by_autocommit, lambda t: t.lifts or t.autocommit, False),
    ("bare AUTOCOMMIT", by_bare_autocommit, lambda t: t.lifts and can_take_each(t), False),
    ("plain Session", by_plain_session, lambda t: t.lifts and not t.autocommit, False),
    ("stream", by_stream, lambda t: t.name == "function", False),
    (
        "cursor of a session",
        by_session_cursor,
        lambda t: not t.autocommit and not t.parameters,
        True,
    ),
    ("raw connection", by_raw_connection, lambda t: t.lifts and not t.autocommit, True),
    ("driver connection", by_driver, lambda t: t.lifts and not t.autocommit, True),
    (
        "driver autocommit",
        by_driver_autocommit,
        lambda t: (t.lifts or t.autocommit) and (can_take_each(t) or t.autocommit),
        True,
    ),
]


def text_roads() -> Iterator[Road]:
    for t in texts():
        ways = [(way, send, raw) for way, send, fits, raw in WAYS if fits(t) and way != t.not_by]
        for way, send, raw in ways:
            yield Road(
                f"{t.name} - {way}",
                lambda place, send=send, t=t: send(t, place),
                t.dialects - ({LITE} if t.many else set()),
                raw=raw,
                traceless=t.traceless,
                way=way,
                since=t.since,
            )
        if t.lifts and PG in t.dialects and not t.autocommit:
            yield Road(
                f"{t.name} - driver attribute",
                lambda place, t=t: by_driver_lifted(t, place),
                frozenset((PG,)),
                raw=True,
                drivers=frozenset(("psycopg2", "psycopg")),
                way="driver attribute",
            )


ROADS += text_roads()


# -- the unit of work -------------------------------------------------------------------------


@road()
def add_and_commit(place: Place) -> None:
    with place.session() as session:
        session.add(Thing(name="road"))
        session.commit()


@road()
def add_in_begin(place: Place) -> None:
    with place.session() as session, session.begin():
        session.add(Thing(name="road"))


@road()
def add_all_and_flush(place: Place) -> None:
    with place.session() as session:
        session.add_all([Thing(name="road"), Thing(name="road")])
        session.flush()
        session.commit()


@road()
def add_of_a_part_by_cascade(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        one.parts.append(Part(name="road"))
        session.commit()


@road()
def dirty_attribute(place: Place) -> None:
    with place.session() as session:
        session.get_one(Thing, 1).name = "road"
        session.commit()


@road()
def dirty_attribute_with_an_expression(place: Place) -> None:
    with place.session() as session:
        session.get_one(Thing, 1).name = Thing.name + "road"
        session.commit()


@road()
def delete_of_an_object(place: Place) -> None:
    with place.session() as session:
        session.delete(session.get_one(Part, 1))
        session.commit()


@road()
def delete_by_cascade(place: Place) -> None:
    with place.session() as session:
        session.delete(session.get_one(Thing, 1))
        session.commit()


@road()
def delete_of_an_orphan(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        one.parts.clear()
        session.commit()


@road()
def merge_of_a_new_object(place: Place) -> None:
    with place.session() as session:
        session.merge(Thing(id=99, name="road"))
        session.commit()


@road()
def merge_of_a_changed_object(place: Place) -> None:
    with place.session() as session:
        session.merge(Thing(id=1, name="road"))
        session.commit()


@road()
def autoflush_by_a_query(place: Place) -> None:
    with place.session() as session:
        session.add(Thing(name="road"))
        session.scalars(select(Thing)).all()
        session.commit()


@road()
def autoflush_by_a_lazy_load(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        one.name = "road"
        list(one.parts)
        session.commit()


@road()
def add_in_a_savepoint(place: Place) -> None:
    with place.session() as session:
        with session.begin_nested():
            session.add(Thing(name="road"))
        session.commit()


@road()
def core_insert_in_a_savepoint(place: Place) -> None:
    with place.session() as session:
        session.scalars(select(Thing)).all()
        with session.begin_nested():
            session.execute(insert(Thing).values(name="road"))
        session.commit()


@road()
def add_without_autoflush(place: Place) -> None:
    with place.session(autoflush=False) as session:
        session.add(Thing(name="road"))
        session.commit()


@road()
def text_in_before_commit(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "before_commit", lambda s: s.execute(text(W)))
        session.scalars(select(Thing)).all()
        session.commit()


@road()
def add_in_before_commit(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "before_commit", lambda s: s.add(Thing(name="road")))
        session.scalars(select(Thing)).all()
        session.commit()


@road()
def connection_in_after_flush(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "after_flush", lambda s, _: s.connection().execute(text(W)))
        session.add(Thing(name="road"))
        session.commit()


@road()
def add_in_before_flush(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "before_flush", lambda s, *_: s.add(Thing(name="road")))
        session.get_one(Thing, 1).note = "x"
        session.commit()


@road()
def text_in_after_begin(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "after_begin", lambda s, t, connection: connection.execute(text(W)))
        session.scalars(select(Thing)).all()
        session.commit()


@road()
def connection_in_before_insert(place: Place) -> None:
    def also(mapper: Any, connection: Any, target: Thing) -> None:
        connection.execute(insert(Part).values(thing_id=1, name="road"))

    event.listen(Thing, "before_insert", also)
    try:
        with place.session() as session:
            session.add(Thing(name="road"))
            session.commit()
    finally:
        event.remove(Thing, "before_insert", also)


# -- bulk and statements ----------------------------------------------------------------------


@road()
def bulk_save_of_new_objects(place: Place) -> None:
    with place.session() as session:
        session.bulk_save_objects([Thing(name="road")])
        session.commit()


@road()
def bulk_save_of_dirty_objects(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        session.expunge(one)
        one.name = "road"
        session.bulk_save_objects([one])
        session.commit()


@road()
def bulk_insert_mappings(place: Place) -> None:
    with place.session() as session:
        session.bulk_insert_mappings(Thing, [{"name": "road"}])
        session.commit()


@road()
def bulk_update_mappings(place: Place) -> None:
    with place.session() as session:
        session.bulk_update_mappings(Thing, [{"id": 1, "name": "road"}])
        session.commit()


@road()
def legacy_query_update(place: Place) -> None:
    with place.session() as session:
        session.query(Thing).update({"name": "road"})
        session.commit()


@road()
def legacy_query_delete(place: Place) -> None:
    with place.session() as session:
        session.query(Part).delete(synchronize_session=False)
        session.commit()


def statement_road(name: str, make: Callable[[], Any], *dialects: str, **kwargs: Any) -> None:
    """A construct, executed by the session, by its connection and by Core."""

    def run(connection: Any, parameters: Any = None) -> None:
        consume(connection.execute(make(), *([parameters] if parameters else [])))

    def by_session(place: Place) -> None:
        with place.session() as session:
            run(session, kwargs.get("parameters"))
            place.probe()
            session.commit()

    def by_session_connection(place: Place) -> None:
        with place.session() as session:
            run(session.connection(), kwargs.get("parameters"))
            place.probe()
            session.commit()

    def by_core(place: Place) -> None:
        with place.engine().begin() as connection:
            run(connection, kwargs.get("parameters"))
            place.probe()

    on = frozenset(dialects) or ALL
    traceless = kwargs.get("traceless", False)
    ROADS.append(Road(f"{name} - session", by_session, on, traceless=traceless))
    ROADS.append(Road(f"{name} - connection", by_session_connection, on, traceless=traceless))
    ROADS.append(Road(f"{name} - Core", by_core, on, traceless=traceless))


new = {"name": "road"}
statement_road("ORM insert", lambda: insert(Thing).values(new))
statement_road("ORM insert of many", lambda: insert(Thing), parameters=[new, new])
statement_road(
    "ORM insert returning", lambda: insert(Thing).values(new).returning(Thing.id), PG, LITE
)
statement_road(
    "ORM insert of many returning",
    lambda: insert(Thing).returning(Thing),
    PG,
    LITE,
    parameters=[new, new],
)
statement_road("ORM update", lambda: update(Thing).values(new))
statement_road("ORM update returning", lambda: update(Thing).values(new).returning(Thing), PG, LITE)
statement_road(
    "update of many",
    lambda: update(thing).where(thing.c.id == bindparam("i")).values(name=bindparam("n")),
    parameters=[{"i": 1, "n": "road"}, {"i": 2, "n": "road"}],
)
statement_road("ORM delete", lambda: delete(Part))
statement_road("ORM delete returning", lambda: delete(Part).returning(Part.id), PG, LITE)
statement_road("Core insert", lambda: insert(thing).values(new))
statement_road(
    "insert from select", lambda: insert(thing).from_select(["name"], select(literal("road")))
)
statement_road(
    "from_statement of an insert",
    lambda: select(Thing).from_statement(insert(Thing).values(new).returning(Thing)),
    PG,
    LITE,
)
statement_road(
    "from_statement of a text",
    lambda: select(Thing).from_statement(
        text(W + " RETURNING id, name, note").columns(thing.c.id, thing.c.name, thing.c.note)
    ),
    PG,
    LITE,
)
statement_road("lambda insert", lambda: lambda_stmt(lambda: insert(thing).values(name="road")))
statement_road(
    "insert in a CTE", lambda: select(insert(thing).values(new).returning(thing.c.id).cte("x")), PG
)
statement_road("delete in a CTE", lambda: select(delete(Part).returning(Part.id).cte("x").c.id), PG)
statement_road(
    "insert in an added CTE",
    lambda: select(literal(1)).add_cte(insert(thing).values(new).cte("x")),
    PG,
)
statement_road(
    "PostgreSQL upsert",
    lambda: (
        postgresql.insert(thing)
        .values(id=1, name="road")
        .on_conflict_do_update(index_elements=["id"], set_=new)
    ),
    PG,
)
statement_road(
    "SQLite upsert",
    lambda: (
        sqlite.insert(thing)
        .values(id=1, name="road")
        .on_conflict_do_update(index_elements=["id"], set_=new)
    ),
    LITE,
)
statement_road(
    "MySQL upsert",
    lambda: mysql.insert(thing).values(id=1, name="road").on_duplicate_key_update(**new),
    MY,
)
statement_road("prefixed insert", lambda: insert(thing).values(new).prefix_with("/* SELECT */"))
statement_road(
    "select with a writing prefix",
    lambda: select(thing).suffix_with("FOR UPDATE"),
    PG,
    MY,
    traceless=True,
)
statement_road("insert with a default sequence", lambda: insert(counted).values(name="road"), PG)
statement_road("next_value of a sequence", lambda: select(Sequence("seq").next_value()), PG, MY)
statement_road("func.nextval", lambda: select(func.nextval("seq")), PG)
statement_road("func.setval", lambda: select(func.setval("seq", 77)), PG)
statement_road("func of a writing function", lambda: select(func.write_one()), PG, MY)
statement_road("a bare writing function", lambda: func.write_one(), PG, MY)
statement_road("func.lo_create", lambda: select(func.lo_create(0)), PG)
statement_road(
    "func.pg_advisory_lock", lambda: select(func.pg_advisory_xact_lock(7)), PG, traceless=True
)
statement_road("func.pg_notify", lambda: select(func.pg_notify("road", "x")), PG, traceless=True)
statement_road("with_for_update", lambda: select(Thing).with_for_update(), PG, MY, traceless=True)
statement_road(
    "with_for_update skip locked",
    lambda: select(Thing).with_for_update(skip_locked=True),
    PG,
    MY,
    traceless=True,
)
statement_road(
    "with_for_update key share",
    lambda: select(Thing).with_for_update(read=True, key_share=True),
    PG,
    traceless=True,
)
statement_road(
    "with_for_update read", lambda: select(Thing).with_for_update(read=True), PG, MY, traceless=True
)
statement_road("CreateTable", lambda: CreateTable(other))
statement_road("DropTable", lambda: DropTable(Part.__table__))
statement_road("CreateIndex", lambda: CreateIndex(road_index()))
statement_road("CreateSequence", lambda: CreateSequence(Sequence("road")), PG)
statement_road(
    "set_config by func",
    lambda: select(func.set_config("transaction_read_only", "off", True), func.write_one()),
    PG,
)


def road_index() -> Index:
    table = Table("thing", MetaData(), Column("name", String(50)))
    return Index("road", table.c.name)


@road(PG, MY)
def scalar_of_a_sequence(place: Place) -> None:
    with place.session() as session:
        session.scalar(Sequence("seq"))
        session.commit()


@road(PG, MY)
def scalar_of_a_sequence_in_core(place: Place) -> None:
    with place.engine().begin() as connection:
        connection.scalar(Sequence("seq"))


@road()
def get_with_for_update(place: Place) -> None:
    with place.session() as session:
        if place.dialect == LITE:  # which has no such lock
            session.execute(text(W))
        session.get(Thing, 1, with_for_update=True)
        place.probe()
        session.commit()


ROADS[-1] = Road("get with for update", get_with_for_update, frozenset((PG, MY)), traceless=True)


@road()
def create_all_on_the_engine(place: Place) -> None:
    other.metadata.create_all(place.engine())


@road()
def create_all_on_the_connection(place: Place) -> None:
    with place.session() as session:
        other.metadata.create_all(session.connection())
        session.commit()


@road()
def drop_all(place: Place) -> None:
    with place.engine().begin() as connection:
        Part.__table__.drop(connection)


@road(PG)
def create_all_of_an_enum(place: Place) -> None:
    postgresql.ENUM("a", name="road").create(place.engine())


@road()
def executemany(place: Place) -> None:
    with place.session() as session:
        session.connection().exec_driver_sql(
            W.replace("'road'", "?" if place.dialect == LITE else "%s"), [("road",), ("road",)]
        )
        session.commit()


@road(PG, traceless=True)
def twophase_begin_prepare_in_core(place: Place) -> None:
    with place.engine().connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(text(W))
        transaction.prepare()
        transaction.commit()


@road(PG)
def twophase_session(place: Place) -> None:
    with place.session(twophase=True) as session:
        session.add(Thing(name="road"))
        session.prepare()
        session.commit()


@road(PG)
def twophase_session_of_a_function(place: Place) -> None:
    with place.session(twophase=True) as session:
        session.execute(select(func.write_one()))
        session.commit()


@road(PG)
def commit_of_a_prepared_transaction(place: Place) -> None:
    with place.engine().connect() as connection:
        connection.commit_prepared(fill("{prepared}", place), recover=True)


@road(PG)
def rollback_of_a_prepared_transaction(place: Place) -> None:
    with place.engine().connect() as connection:
        connection.rollback_prepared(fill("{prepared}", place), recover=True)


@road(PG)
def change_that_a_fetch_finds(place: Place) -> None:
    """A server-side cursor runs the function no sooner than its row is fetched."""
    with place.session() as session:
        result = session.execute(
            text("SELECT CASE WHEN n > 5 THEN write_one() END FROM generate_series(1, 10) n"),
            execution_options={"yield_per": 2},
        )
        for _ in result:
            pass
        session.commit()


@road(PG)
def options_of_the_engine(place: Place) -> None:
    engine = place.engine().execution_options(
        postgresql_readonly=False, isolation_level="REPEATABLE READ"
    )
    with engine.begin() as connection:
        connection.execute(select(func.write_one()))


@road(PG)
def options_of_the_engine_autocommit(place: Place) -> None:
    engine = place.engine().execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection = connection.execution_options(postgresql_readonly=False)
        connection.execute(select(func.write_one()))


@road(PG)
def options_in_the_next_transaction(place: Place) -> None:
    with place.session() as session:
        session.connection(execution_options={"postgresql_readonly": False})
        session.execute(select(Thing)).all()
        session.commit()
        session.execute(select(func.write_one()))
        session.commit()


# -- raw cursors ------------------------------------------------------------------------------


@road(raw=True)
def raw_executemany(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        mark = "?" if place.dialect == LITE else "%s"
        connection.cursor().executemany(W.replace("'road'", mark), [("road",), ("road",)])
        connection.commit()


@road(LITE, raw=True)
def executescript(place: Place) -> None:
    with place.session() as session:
        session.connection().connection.cursor().executescript(W)


@road(LITE, raw=True)
def executescript_that_lifts(place: Place) -> None:
    with place.session() as session:
        driver: Any = session.connection().connection.driver_connection
        driver.executescript(f"PRAGMA query_only = OFF; {W};")


@road(LITE, raw=True)
def executescript_that_attaches(place: Place) -> None:
    connection = place.engine().raw_connection()
    try:
        driver: Any = connection.driver_connection
        driver.executescript(f"ATTACH '{place.scratch}/road.db' AS road; CREATE TABLE road.x (i);")
    finally:
        connection.close()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def copy_expert_from(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.copy_expert("COPY thing (name) FROM STDIN", io.StringIO("road\n"))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def copy_expert_of_a_delete(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.copy_expert("COPY (DELETE FROM part RETURNING *) TO STDOUT", io.StringIO())
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def copy_expert_that_lifts(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.execute("SET TRANSACTION READ WRITE")
        cursor.copy_expert("COPY thing (name) FROM STDIN", io.StringIO("road\n"))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def copy_from(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.copy_from(io.StringIO("road\n"), "thing", columns=("name",))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def callproc(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.callproc("write_one")
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def callproc_that_lifts(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.callproc("set_config", ["transaction_read_only", "off", True])
        cursor.callproc("write_one")
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def bytes_that_lift(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        connection.cursor().execute(f"SET TRANSACTION READ WRITE; {W}".encode())
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def composed_sql_that_lifts(place: Place) -> None:
    from psycopg2 import sql

    with place.session() as session:
        connection = session.connection().connection
        connection.cursor().execute(sql.SQL(f"SET TRANSACTION READ WRITE; {W}"))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def execute_values(place: Place) -> None:
    from psycopg2.extras import execute_values

    with place.session() as session:
        connection = session.connection().connection
        execute_values(connection.cursor(), "INSERT INTO thing (name) VALUES %s", [("road",)])
        connection.commit()


def by_a_value(place: Place, statement: str) -> None:
    """The value ends the literal, or the comment, into which the driver puts it."""
    free = "COMMIT; BEGIN READ WRITE; INSERT INTO thing (name) VALUES ($$road$$); COMMIT"
    with place.session() as session:
        value = (f"*/; {free}; /*" if "/*" in statement else f"; {free}; --",)
        session.connection().exec_driver_sql(statement, value)
        session.commit()


@road(PG, drivers=frozenset(("psycopg2",)))
def value_in_a_literal(place: Place) -> None:
    by_a_value(place, "SELECT '%s'")


@road(PG, drivers=frozenset(("psycopg2",)))
def value_in_a_comment(place: Place) -> None:
    by_a_value(place, "SELECT 10 %% 3 /* %s */")


@road(PG, drivers=frozenset(("psycopg2",)))
def values_in_a_literal(place: Place) -> None:
    with place.session() as session:
        value = "; COMMIT; BEGIN READ WRITE; INSERT INTO thing (name) VALUES ($$road$$); COMMIT; --"
        session.connection().exec_driver_sql("SELECT '%s'", [("; --",), (value,)])
        session.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2", "psycopg")))
def name_of_a_setting_as_a_keyword(place: Place) -> None:
    connection = place.engine().raw_connection()
    driver: Any = connection.driver_connection
    driver.autocommit = True
    try:
        key = "vars" if place.driver == "psycopg2" else "params"
        value = ("default_transaction_read_only",)
        driver.cursor().execute("SELECT set_config(%s, 'off', false)", **{key: value})
        driver.cursor().execute("SELECT write_one()")
    finally:
        connection.invalidate()
        connection.close()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def statement_that_the_driver_prepared(place: Place) -> None:
    connection = place.engine().raw_connection()
    driver: Any = connection.driver_connection
    driver.autocommit = True
    driver.prepare_threshold = 0
    try:
        driver.execute("SELECT set_config(%s, %s, false)", ("app.x", "off"))
        ((name,),) = driver.execute(
            "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%set_config%$1%' LIMIT 1"
        ).fetchall()
        driver.execute(f"EXECUTE {name} ('default_transaction_read_only', 'off')")
        driver.execute("SELECT write_one()")
    finally:
        connection.invalidate()
        connection.close()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)), since=16)
def lobject(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        driver.lobject(0, "w").write("road")
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def psycopg_copy(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        with cursor.copy("COPY thing (name) FROM STDIN") as copy:
            copy.write_row(("road",))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def psycopg_connection_execute(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        driver.execute(f"SET TRANSACTION READ WRITE; {W}")
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def psycopg_server_cursor(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        with driver.cursor("road") as cursor:
            cursor.execute("SELECT write_one()").fetchall()
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def psycopg_stream(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        driver.execute("SET TRANSACTION READ WRITE")
        list(driver.cursor().stream(W + " RETURNING id"))
        connection.commit()


@road(MY, raw=True)
def pymysql_query(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        driver.query(W)
        connection.commit()


@road(MY, raw=True)
def pymysql_callproc(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        connection.cursor().callproc("write_proc")
        connection.commit()


# -- round the selector -----------------------------------------------------------------------


@road(around=True)
def read_write_engine_in_core(place: Place) -> None:
    with place.read_write.begin() as connection:
        connection.execute(insert(thing).values(new))


@road(around=True)
def read_write_engine_with_text(place: Place) -> None:
    with place.read_write.begin() as connection:
        connection.execute(text(W))


@road(around=True)
def clone_of_the_read_write_engine(place: Place) -> None:
    engine = place.read_write.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(W))


@road(around=True)
def raw_connection_of_the_read_write_engine(place: Place) -> None:
    connection = place.read_write.raw_connection()
    try:
        connection.cursor().execute(W)
        connection.commit()
    finally:
        connection.close()


@road(around=True)
def pool_of_the_read_write_engine(place: Place) -> None:
    connection = place.read_write.pool.connect()
    try:
        connection.cursor().execute(W)
        connection.commit()
    finally:
        connection.close()


@road(around=True)
def pool_of_the_read_write_engine_after_a_dispose(place: Place) -> None:
    place.read_write.dispose()
    connection = place.read_write.pool.connect()
    try:
        connection.cursor().execute(W)
        connection.commit()
    finally:
        connection.close()


@road(around=True)
def plain_session_on_the_read_write_engine(place: Place) -> None:
    with Session(place.read_write) as session:
        session.add(Thing(name="road"))
        session.commit()


@road(around=True)
def bind_arguments_with_the_read_write_engine(place: Place) -> None:
    with place.session() as session:
        session.execute(insert(thing).values(new), bind_arguments={"bind": place.read_write})
        session.commit()


@road(around=True)
def connection_with_bind_arguments(place: Place) -> None:
    with place.session() as session:
        session.connection(bind_arguments={"bind": place.read_write}).execute(text(W))
        session.commit()


@road(around=True)
def session_bound_to_the_read_write_engine(place: Place) -> None:
    with place.session(bind=place.read_write) as session:
        session.add(Thing(name="road"))
        session.commit()


@road(around=True)
def session_with_binds(place: Place) -> None:
    with place.session(binds={Thing: place.read_write}) as session:
        session.add(Thing(name="road"))
        session.commit()


@road(around=True)
def create_all_on_the_read_write_engine(place: Place) -> None:
    other.metadata.create_all(place.read_write)


@road(PG, around=True, traceless=True)
def advisory_lock_on_the_read_write_engine(place: Place) -> None:
    with place.read_write.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(7)))
        place.probe()


@road(around=True)
def thread_with_the_read_write_engine(place: Place) -> None:
    in_thread(lambda: read_write_engine_in_core(place))


@road(PG, around=True)
def twophase_on_the_read_write_engine(place: Place) -> None:
    with place.read_write.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(text(W))
        transaction.prepare()
        transaction.commit()


@road()
def second_session(place: Place) -> None:
    with place.session() as first, place.session() as second:
        first.scalars(select(Thing)).all()
        second.add(Thing(name="road"))
        second.commit()


@road()
def thread_with_a_session(place: Place) -> None:
    in_thread(lambda: add_and_commit(place))


@road()
def session_joined_to_a_connection(place: Place) -> None:
    with place.engine().connect() as connection:
        with Session(connection) as session:
            session.add(Thing(name="road"))
            session.commit()
        connection.commit()


@road()
def session_of_object_session(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        found = Session.object_session(one)
        found.execute(text(W))
        found.commit()


@road()
def engine_of_the_connection(place: Place) -> None:
    with place.session() as session:
        engine = session.connection().engine
    with engine.begin() as connection:
        connection.execute(text(W))
