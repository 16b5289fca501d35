"""Texts that write into PostgreSQL; each is sent in several ways."""

# ruff: noqa: E501  # SQL is easier to read in one line
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.roads.model import PG, W
from tests.roads.texts import Text, one


def texts() -> Iterator[Text]:
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
