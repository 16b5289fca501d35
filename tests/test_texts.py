"""Texts that a server takes as they stand: each past the guard, and on the server without it."""

# ruff: noqa: E501  # SQL is easier to read in one line
from __future__ import annotations

import sqlite3
from collections import UserString
from collections.abc import Callable, Iterator
from contextlib import closing
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import psycopg2
import pymysql
import pytest
from sqlalchemy import URL, create_engine, text

from sa_readonly import EngineSelector, FixedSwitch, Mode, ReadOnlyError
from tests.postgres import MariaDB, Server
from tests.roads import LITE, MY, PG

NEWER = "newer sqlite"  # than the one of Python
LOCK = "pg_try_advisory_lock"
X = "(7::bigint)"
SERIES = "generate_series(1::bigint, 1)"
P = "PREPARE p (bool) AS SELECT $1 AS a"
ROAD = "'road', 0"
GET_LOCK = f"GET_LOCK({ROAD})"


class Texts(NamedTuple):
    """Texts for some servers; the last of several, which go one by one, is the one that counts."""

    servers: tuple[str, ...]
    acts: bool
    texts: tuple[str | tuple[str, ...], ...]
    parameters: tuple[Any, ...] = ()


TABLE = (
    # EXPLAIN ANALYZE runs what stands in parentheses, too
    Texts(
        (PG,),
        True,
        (
            "EXPLAIN ANALYZE (SELECT 1 AS a INTO made)",
            f"EXPLAIN ANALYZE (SELECT {LOCK}(7))",
            f"EXPLAIN ANALYZE (((SELECT {LOCK}(7))))",
            f"EXPLAIN ANALYZE (SELECT 1) UNION (SELECT {LOCK}(7)::int)",
            f"EXPLAIN ANALYZE (WITH x AS (SELECT {LOCK}(7)) TABLE x)",
            f"EXPLAIN ANALYZE VERBOSE (VALUES ({LOCK}(7)))",
            "EXPLAIN ANALYZE (SELECT nextval('seq')) LIMIT 1",
            f"EXPLAIN (ANALYZE) (SELECT {LOCK}(7)) ORDER BY 1",
            "EXPLAIN ANALYZE CREATE TABLE made AS (SELECT 1)",
            f"EXPLAIN ANALYZE DECLARE c CURSOR FOR (SELECT {LOCK}(7))",
            # its options
            f'EXPLAIN ("analyze") SELECT {LOCK}(7)',
            f'EXPLAIN (COSTS off, "analyze" on) SELECT {LOCK}(7)',
            f'EXPLAIN (U&"\\0061nalyze") SELECT {LOCK}(7)',
            f"EXPLAIN (ANALYSE 1) SELECT {LOCK}(7)",
            f"EXPLAIN (ANALYZE 'true', FORMAT json) SELECT {LOCK}(7)",
            f"EXPLAIN (ANALYZE off, ANALYZE) SELECT {LOCK}(7)",
            f'EXPLAIN (ANALYZE 0, "analyze") (SELECT {LOCK}(7))',
        ),
    ),
    Texts(
        (PG,),
        False,
        (
            "EXPLAIN ANALYZE (SELECT 1)",
            "EXPLAIN ANALYZE (SELECT 1) UNION (SELECT 2)",
            "EXPLAIN ANALYZE (SELECT 1) LIMIT 1",
            "EXPLAIN ANALYZE (SELECT 1) ORDER BY 1",
            "EXPLAIN ANALYZE (WITH x AS (SELECT 1) TABLE x)",
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) ((SELECT 1) UNION (SELECT 2)) LIMIT 1",
            "EXPLAIN (VALUES (1)) LIMIT 1",
            "EXPLAIN (TABLE thing)",
            f"EXPLAIN (SELECT {LOCK}(7)) UNION (SELECT true)",
            "EXPLAIN SELECT 1 AS a INTO made",
            f"EXPLAIN DECLARE c CURSOR FOR SELECT {LOCK}(7)",
            f"EXPLAIN (ANALYZE 0) SELECT {LOCK}(7)",
            f"EXPLAIN (ANALYZE 00, VERBOSE) SELECT {LOCK}(7)",
            f"EXPLAIN (ANALYZE 'off') SELECT {LOCK}(7)",
            f'EXPLAIN (ANALYZE "OFF") SELECT {LOCK}(7)',
            f"EXPLAIN (ANALYZE $$False$$) SELECT {LOCK}(7)",
            f"EXPLAIN (COSTS off, ANALYZE false) (SELECT {LOCK}(7))",
            f'EXPLAIN ("analyze" off) SELECT {LOCK}(7)',
            f"EXPLAIN (ANALYZE, ANALYZE off) SELECT {LOCK}(7)",
        ),
    ),
    # expressions that are in no query
    Texts(
        (PG,),
        True,
        (
            (P, f"EXECUTE p ({LOCK}(7))"),
            (P, "EXECUTE p (nextval('seq') > 0)"),
            (P, f"EXECUTE p ({X}.{LOCK})"),
            (P, f"EXPLAIN EXECUTE p ({LOCK}(7))"),
            (P, f"EXPLAIN (COSTS off) EXECUTE p ({LOCK}(7))"),
            (P, f"EXPLAIN CREATE TABLE made AS EXECUTE p ({LOCK}(7))"),
            f"VALUES ({LOCK}(7))",
            f"VALUES (1), (2) ORDER BY {LOCK}(7)",
            "TABLE thing LIMIT (nextval('seq'))",
            "SELECT 1 FETCH FIRST (nextval('seq')) ROWS ONLY",
            "SELECT 1 FROM thing TABLESAMPLE system (nextval('seq'))",
        ),
    ),
    # what a backslash means depends on where the string begins
    Texts(
        (PG,),
        True,
        (
            f"SELECT U&'a'\n'b\\' UESCAPE '!', {LOCK}(7) --'",
            f"SELECT E'a'\n'\\'', {LOCK}(7) --'",
        ),
    ),
    Texts((PG,), False, (f"SELECT E'a'\n'b\\', {LOCK}(7) --'",)),
    # an executed comment is a comment to a server of another version, and changes what is none
    Texts(
        (MY,),
        True,
        (
            "/*!999999 EXPLAIN */ ANALYZE TABLE thing",
            "/*M!999999 EXPLAIN */ ANALYZE TABLE thing",
            "/*!50000 */ /*!999999 DESC */ ANALYZE TABLE thing",
            f"SELECT /*!999999 '*/ {GET_LOCK} /*!999999 ' */",
            f"SELECT 1 AS /*!50000 a, */ {GET_LOCK}",
        ),
    ),
    Texts(
        (MY,),
        False,
        (
            "SELECT /*!40001 SQL_NO_CACHE */ id FROM thing",
            "SELECT 1 /*!999999 , 4 */ /*M!100100 , 2 */ /*!50000 , 3 */",
            "SELECT 1 /*! , 2 */ AS a",
        ),
    ),
    # a character that ends as a quote or a backslash does
    Texts(
        (PG,),
        True,
        tuple(
            (*settings, f"SELECT E'\x83\\', {LOCK}(7), '...'")
            for settings in (
                ("SET client_encoding = 'SJIS'",),
                ("SET client_encoding TO sjis",),
                ("SET LOCAL client_encoding TO 'Shift-JIS'",),
                ('SET SESSION "client_encoding" = "win932"',),
                ("SET NAMES 'mskanji'",),
                ("SET LOCAL NAMES 'SJIS'",),
                ("SELECT set_config('client_encoding', 'SJIS', false)",),
            )
        ),
    ),
    Texts(
        (PG,),
        False,
        (
            "SET NAMES 'UTF8'",
            "SET NAMES",
            "SET client_encoding TO DEFAULT",
            "SET LOCAL client_encoding = 'LATIN1'",
            "RESET client_encoding",
            "SHOW client_encoding",
        ),
    ),
    Texts(
        (MY,),
        True,
        tuple(
            (*settings, f"SELECT '\u20ac\\', {GET_LOCK}, '\\''")
            for settings in (
                ("SET NAMES gbk",),
                ("SET NAMES 'GBK' COLLATE gbk_bin",),
                ("SET @b = 1, character_set_client = gbk",),
                ("SET @@session.character_set_client = `gbk`",),
                ("SET SESSION character_set_client = 28",),
                ("SET character_set_client = x'67626b'",),
                ("SET character_set_client = 'g' 'bk'",),
                ("SET @a = 'gbk'", "SET character_set_client = @a"),
            )
        ),
    ),
    Texts(
        (MY,),
        False,
        (
            "SET NAMES utf8mb4",
            "SET NAMES DEFAULT",
            "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_bin'",
            "SET NAMES utf8mb4, @b = 1",
            "SET CHARACTER SET 'utf8mb4'",
            "SET character_set_client = utf8mb4, @b := 'gbk'",
            "SET @@session.character_set_client = 'utf8mb4'",
        ),
    ),
    Texts(
        (PG,),
        False,
        (
            ("PREPARE p (int) AS SELECT $1", "EXECUTE p (abs(-1))"),
            ("PREPARE p (int) AS SELECT $1", "EXPLAIN ANALYZE EXECUTE p (abs(-1))"),
            ("PREPARE nextval (int) AS SELECT $1", "EXECUTE nextval (1)"),
            ("PREPARE p AS SELECT x.nextval FROM thing x", "EXECUTE p"),
            ("PREPARE p (numeric(10, 2)) AS (SELECT $1) UNION (SELECT 2)", "EXECUTE p (1.5)"),
            ("DECLARE c CURSOR FOR (SELECT 1) UNION (SELECT 2)", "FETCH ALL FROM c"),
            "VALUES (1, abs(2)) LIMIT (abs(1))",
            "SELECT * FROM (WITH x AS (SELECT 1 AS update) SELECT update FROM x) y",
        ),
    ),
    Texts(
        (MY,),
        True,
        (
            f"SET @a = {GET_LOCK}",
            f"SET @a := 1, @b := IF({GET_LOCK}, 1, 2)",
            f"SET @a = (SELECT {GET_LOCK})",
            f"SET max_statement_time = {GET_LOCK}",
            f"SET STATEMENT max_statement_time = {GET_LOCK} FOR SELECT 1",
            "SET @a = (SELECT id FROM thing WHERE id = 1 LOCK IN SHARE MODE)",
            f"EXECUTE IMMEDIATE 'SELECT ?' USING {GET_LOCK}",
            f"EXECUTE IMMEDIATE CONCAT('SELECT ', {GET_LOCK})",
            "EXECUTE IMMEDIATE 'SET @a = GET_LOCK(\"road\", 0)'",
            ("PREPARE p FROM 'SELECT ?'", f"EXECUTE p USING {GET_LOCK}"),
            f"PREPARE p FROM CONCAT('SELECT ', {GET_LOCK})",
            f"SHOW TABLES WHERE {GET_LOCK}",
            f"SHOW STATUS WHERE {GET_LOCK}",
            f"SHOW COLUMNS FROM thing WHERE (SELECT {GET_LOCK})",
            "SHOW TABLES WHERE (SELECT id FROM thing WHERE id = 1 LOCK IN SHARE MODE)",
            # a query that is no statement of its own locks what it reads, without a word of it
            "SET @a = (SELECT id FROM thing WHERE id = 1)",
            "SET @a := 1 + (SELECT MAX(id) FROM thing)",
            "SET @a = 1, @b = EXISTS (SELECT * FROM thing)",
            "SET max_statement_time = (SELECT COUNT(*) FROM thing)",
            "SET @a = (WITH x AS (SELECT * FROM thing) SELECT COUNT(*) FROM x)",
            "SET @a = (SELECT a FROM (SELECT 1 AS a) x JOIN thing LIMIT 1)",
            "SET STATEMENT max_statement_time = 9 FOR SET @a = (SELECT COUNT(*) FROM thing)",
            "EXECUTE IMMEDIATE 'SET @a = (SELECT COUNT(*) FROM thing)'",
            "/*!50000 SET */ @a = (SELECT COUNT(*) FROM thing)",
            "SHOW TABLES WHERE (SELECT COUNT(*) FROM thing)",
            "SHOW STATUS WHERE EXISTS (SELECT * FROM thing)",
            "SHOW COLUMNS FROM thing WHERE 1 IN (SELECT id FROM thing)",
            f"VALUES ({GET_LOCK})",
            f"DO {GET_LOCK}",
            f"IF {GET_LOCK} THEN SELECT 1; END IF",
            # EXPLAIN fills what is derived in FROM, and reads, and locks, a row by its key
            f"EXPLAIN SELECT * FROM (SELECT {GET_LOCK} AS a) x",
            f"DESC FORMAT=JSON SELECT * FROM (SELECT {GET_LOCK} AS a) x",
            f"EXPLAIN WITH x AS (SELECT {GET_LOCK} AS a) SELECT * FROM x",
            f"SET STATEMENT max_statement_time = 9 FOR EXPLAIN SELECT * FROM (SELECT {GET_LOCK} AS a) x",
            "EXPLAIN SELECT * FROM thing WHERE id = 1 LOCK IN SHARE MODE",
            "EXPLAIN SELECT * FROM (SELECT * FROM thing WHERE id = 1 LOCK IN SHARE MODE) x",
            # ANALYZE TABLE is no read; the replicas do it, too
            "ANALYZE TABLE thing",
            "ANALYZE TABLES thing",
            "ANALYZE LOCAL TABLE thing",
            "ANALYZE NO_WRITE_TO_BINLOG TABLE thing",
            "ANALYZE TABLE thing PERSISTENT FOR ALL",
            "SET STATEMENT max_statement_time = 9 FOR ANALYZE TABLE thing",
            "EXECUTE IMMEDIATE 'ANALYZE TABLE thing'",
            "/*!50000 ANALYZE */ TABLE thing",
            f"ANALYZE (SELECT {GET_LOCK})",
            f"ANALYZE FORMAT=JSON (SELECT 1) UNION (SELECT {GET_LOCK})",
            "ANALYZE (SELECT 2 AS id) UNION (SELECT id FROM thing WHERE id = 1 LOCK IN SHARE MODE)",
        ),
    ),
    Texts(
        (MY,),
        False,
        (
            "SET @a = 1, @b = CONCAT('GET_LOCK(', @a, ')')",
            "SET @a = (SELECT 1), @b = EXTRACT(YEAR FROM '2000-01-01')",
            "SET @a = (SELECT EXTRACT(YEAR FROM '2000-01-01'))",
            "SELECT MAX(id) INTO @a FROM thing",
            "SELECT @a := MAX(id) FROM thing",
            "SET STATEMENT max_statement_time = 9 FOR SELECT MAX(id) FROM thing",
            "SET STATEMENT max_statement_time = 9 FOR SELECT @@global.max_connections",
            # of several settings each counts, and what a value asks for is not set
            "SET @a = @@sql_mode, sql_mode = 'STRICT_ALL_TABLES', @b = 1",
            "SET SESSION sql_mode = CONCAT(@@sql_mode, ',IGNORE_SPACE'), max_statement_time = 0",
            "SET @a = @@tx_read_only, @b = @@global.tx_read_only",
            "SET NAMES utf8mb4, sql_mode = @@global.sql_mode",
            ("PREPARE p FROM 'SELECT ?'", "EXECUTE p USING CONCAT('a', 1)"),
            "EXECUTE IMMEDIATE 'SELECT ?' USING ABS(-1)",
            "SHOW TABLES WHERE INSTR(tables_in_{database}, 'get_lock') = 0",
            "SHOW TABLES WHERE tables_in_{database} = (SELECT 'thing')",
            "SHOW TABLE STATUS FROM {database} WHERE name = 'thing'",
            "SHOW INDEX FROM thing WHERE Key_name = 'PRIMARY'",
            "SHOW GRANTS FOR CURRENT_USER",
            "GET DIAGNOSTICS @a = NUMBER",
            "EXPLAIN (SELECT 1) UNION (SELECT 2)",
            "EXPLAIN SELECT * FROM (SELECT ABS(-1) AS a) x",
            "EXPLAIN EXTENDED SELECT * FROM thing WHERE id = 1",
            "EXPLAIN thing",
            "DESCRIBE thing 'id'",
            "ANALYZE SELECT 1",
            "ANALYZE FORMAT=JSON SELECT * FROM thing",
            "ANALYZE FORMAT='JSON' SELECT 1",
            "ANALYZE (SELECT 1)",
            "ANALYZE FORMAT=JSON (SELECT 1)",
            "ANALYZE (SELECT 1) UNION (SELECT 2)",
            "ANALYZE FORMAT=JSON (SELECT 1) UNION (SELECT 2)",
            "ANALYZE ((SELECT 1) UNION (SELECT 2)) LIMIT 1",
            "ANALYZE WITH x AS (SELECT 1) SELECT * FROM x",
            "ANALYZE (VALUES (1))",
            "SET STATEMENT max_statement_time = 9 FOR ANALYZE (SELECT 1)",
            "EXECUTE IMMEDIATE 'ANALYZE (SELECT 1) UNION (SELECT 2)'",
        ),
    ),
    # a function without a parenthesis after its name
    Texts(
        (PG,),
        True,
        (
            f"SELECT {X}.{LOCK}",
            f'SELECT {X} . /* */ "{LOCK}"',
            f'SELECT {X}.U&"pg_try_advisory_lo\\0063k"',
            "SELECT ('seq').nextval",
            "SELECT ('seq'::regclass).nextval",
            f"SELECT (SELECT 7::bigint).{LOCK}",
            f"SELECT (CASE WHEN true THEN 7::bigint END).{LOCK}",
            f"SELECT (ARRAY[7]::bigint[])[1].{LOCK}",
            f"SELECT x.a[1].{LOCK} FROM (SELECT ARRAY[7]::bigint[] AS a) x",
            f"SELECT 1 WHERE {X}.{LOCK}",
            f"SELECT 1 ORDER BY {X}.{LOCK}",
            f"TABLE thing ORDER BY {X}.{LOCK}",
            f"VALUES ({X}.{LOCK})",
            f"SELECT (id).{LOCK} FROM thing",
            f"SELECT ((thing).id).{LOCK} FROM thing",
            f"SELECT (x).{LOCK} FROM {SERIES} x",
            f"SELECT (x.x).{LOCK} FROM {SERIES} x",
            f"SELECT x.{LOCK} FROM {SERIES} x",
            f'SELECT x."{LOCK}" FROM {SERIES} AS "x"',
            f'SELECT "x".{LOCK} FROM {SERIES} X',
            f"SELECT x.{LOCK} FROM {SERIES} AS x (a)",
            f'SELECT x.{LOCK} FROM {SERIES} U&"\\0078"',
            f'SELECT U&"\\0078".{LOCK} FROM {SERIES} x',
            f'SELECT x.U&"pg_try_advisory_lo\\0063k" FROM {SERIES} x',
            f"SELECT {'x' * 63}.{LOCK} FROM {SERIES} {'x' * 70}",
            f"SELECT generate_series.{LOCK} FROM {SERIES}",
            f"SELECT generate_series.{LOCK} FROM thing, {SERIES} WHERE true",
            f"SELECT x.{LOCK} FROM pg_catalog.{SERIES} x",
            f"SELECT x.{LOCK} FROM ROWS FROM ({SERIES}) x",
            f"SELECT x.{LOCK} FROM thing, LATERAL {SERIES} x",
            f"SELECT x.{LOCK} FROM thing LEFT JOIN {SERIES} AS x ON true",
            f"SELECT x.{LOCK} FROM (thing CROSS JOIN {SERIES} x)",
            f"SELECT x.{LOCK} FROM thing a JOIN thing b USING (id), {SERIES} x",
            f"SELECT x.{LOCK} FROM thing a JOIN thing b USING (id) AS j CROSS JOIN {SERIES} AS x",
            f"SELECT x, x.{LOCK} FROM {SERIES} x",
            f"SELECT x.{LOCK} FROM CAST(7 AS bigint) x",
            f"SELECT int8, int8.{LOCK} FROM CAST(7 AS bigint)",
            f'SELECT "coalesce".{LOCK} FROM coalesce(7::bigint)',
            "SELECT x.nextval FROM regclass('seq') x",
            # where the same name is a table's elsewhere
            f"SELECT (SELECT x.{LOCK} FROM {SERIES} x) FROM thing x",
            f'SELECT (SELECT q FROM (SELECT x.{LOCK}, x.is distinct FROM {SERIES} x ("is")) q) FROM thing x',
            f"SELECT (SELECT x.{LOCK} FROM {SERIES} x), x.{LOCK} FROM {SERIES} x ({LOCK})",
            f'SELECT (SELECT x.{LOCK} FROM thing "AS" JOIN {SERIES} x ON true LIMIT 1) FROM thing x',
            f"SELECT (SELECT x.{LOCK} values FROM {SERIES} x) FROM thing x",
            f"SELECT (SELECT x.{LOCK} table FROM {SERIES} x) FROM thing x",
            f"SELECT (SELECT int8.{LOCK} FROM CAST(7 AS bigint)) FROM thing int8",
            f"SELECT 1 AS from, int8, int8.{LOCK} FROM CAST(7 AS bigint)",
            f"SELECT extract(year FROM date '2000-01-01'), int8.{LOCK} FROM CAST(7 AS bigint)",
            f"SELECT (SELECT x.{LOCK} AS distinct FROM {SERIES} x) FROM thing x",
            f"SELECT (SELECT x.{LOCK} distinct FROM {SERIES} x) FROM thing x",
            f"SELECT (SELECT x.{LOCK} FROM collation for (''::text) y, {SERIES} x) FROM thing x",
            f"SELECT (SELECT x.{LOCK} FROM {SERIES} x GROUP BY 1 HAVING percentile_disc(0) WITHIN GROUP (ORDER BY 1) = 1) FROM thing x",
            f"SELECT (SELECT percentile_disc(0) WITHIN GROUP (ORDER BY x.{LOCK}) FROM {SERIES} x) FROM thing x",
            (f"PREPARE p (bigint) AS SELECT $1.{LOCK}", "EXECUTE p (7)"),
            (f"PREPARE p (bigint) AS SELECT $1 . {LOCK}", "EXECUTE p (7)"),
            (f"PREPARE p (bigint[]) AS SELECT $1[1].{LOCK}", "EXECUTE p (ARRAY[7])"),
            (f"DECLARE c CURSOR FOR SELECT {X}.{LOCK}", "FETCH c"),
            f"EXPLAIN ANALYZE SELECT {X}.{LOCK}",
        ),
    ),
    Texts((PG,), True, (f"SELECT %s.{LOCK}", f"SELECT 1 WHERE %s.{LOCK}"), ((7,),)),
    Texts(
        (PG,),
        False,
        (
            "SELECT nextval, setval FROM thing",
            "SELECT thing.nextval, public.thing.nextval FROM thing",
            'SELECT "thing"."nextval" FROM public."thing"',
            'SELECT thing.U&"nextva\\006c" FROM thing',
            "SELECT x.nextval::text, (x.nextval), count(*) FROM thing AS x GROUP BY x.nextval HAVING x.nextval > 0",
            "SELECT x.nextval FROM ONLY (thing) x",
            "SELECT x.nextval FROM thing * x",
            "SELECT x.nextval FROM (SELECT * FROM thing) x",
            "SELECT x.nextval FROM LATERAL (TABLE thing) AS x ORDER BY x.nextval",
            "SELECT x.nextval FROM ((TABLE thing) UNION (TABLE thing)) x",
            "SELECT x.nextval FROM (VALUES (1)) AS x (nextval)",
            "SELECT x.nextval FROM (WITH y AS (TABLE thing) TABLE y) x",
            "WITH x AS (TABLE thing), y AS (SELECT x.nextval FROM x) SELECT x.nextval, y.nextval FROM x, y",
            "SELECT a.nextval, b.setval FROM thing a JOIN thing b ON a.id = b.id LEFT JOIN thing c ON c.id = a.id WHERE c.nextval > 0",
            "SELECT x.nextval FROM (thing y CROSS JOIN (SELECT 1) z) x",
            "SELECT x.nextval FROM (thing x CROSS JOIN thing y)",
            "SELECT a.nextval FROM thing a, generate_series(1, 2) g, thing b WHERE b.nextval = g",
            "SELECT a.nextval FROM thing a, CAST(7 AS bigint) b",
            "SELECT a.nextval FROM current_user u, thing a",
            "SELECT x.nextval FROM thing x WHERE EXISTS (SELECT 1 FROM thing y WHERE y.nextval = x.nextval)",
            "SELECT x.nextval IS DISTINCT FROM 5, x.id FROM thing x",
            "SELECT x.nextval IS NOT DISTINCT FROM 5, x.id FROM thing x",
            "SELECT (x.id) IS DISTINCT FROM 5, x.nextval FROM thing x",
            "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY t.nextval), t.setval FROM thing t GROUP BY t.setval",
            "SELECT DISTINCT ON (t.id) t.nextval FROM thing t",
            "SELECT max(x.nextval) OVER (PARTITION BY x.nextval) FROM thing x TABLESAMPLE system (50)",
            "TABLE thing ORDER BY thing.nextval",
            "SELECT x.nextval FROM thing x UNION SELECT y.nextval FROM thing y",
            "SELECT x.nextval FROM json_to_recordset('[]') AS x (id int, nextval int)",
            "SELECT x.nextval FROM unnest(ARRAY[1]) WITH ORDINALITY AS x (nextval, n)",
            f"SELECT x.{LOCK} FROM {SERIES} AS x ({LOCK})",
            "SELECT nextval.nextval FROM generate_series(1, 2) AS nextval",
            "SELECT (x).relname, (ARRAY[x])[1].relname FROM pg_class x LIMIT 1",
            "SELECT set_config.set_config FROM (SELECT 1 AS set_config) set_config",
            "SELECT j.nextval, j.id FROM thing a LEFT JOIN thing b USING (id, nextval) AS j WHERE j.nextval > 0",
            "EXPLAIN ANALYZE (SELECT x.nextval FROM thing x) LIMIT 1",
            "DECLARE c CURSOR FOR SELECT x.nextval FROM thing x",
        ),
    ),
    # SQLite obeys a PRAGMA as it explains it
    Texts(
        (LITE, NEWER),
        True,
        ("EXPLAIN PRAGMA query_only = 0", "EXPLAIN QUERY PLAN PRAGMA query_only = 0"),
    ),
    Texts(
        (LITE, NEWER),
        False,
        (
            "EXPLAIN PRAGMA query_only",
            "EXPLAIN PRAGMA cache_size = 77",
            "EXPLAIN SELECT load_extension('x')",
        ),
    ),
)

CASES = [
    (server, some.acts, (text,) if isinstance(text, str) else text, some.parameters)
    for some in TABLE
    for server in some.servers
    for text in some.texts
]


class Place:
    """A server twice: past the guard of an application that is read-only, and without it."""

    def __init__(self, url: URL | str, control: Any, module: ModuleType | None = None) -> None:
        self.engine = create_engine(url, **({"module": module} if module else {}))
        self.selector = EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=self.engine)
        self.guarded = self.selector.engine().connect()
        self.control = control
        self.module: Any = module
        self.database = self.engine.url.database
        self.probe: Callable[[], object] = lambda: None
        self.reset: Callable[[], object] = lambda: None

    def run(self, sql: str, *parameters: object) -> Any:
        cursor = self.control.cursor()
        cursor.execute(sql, *parameters)
        return cursor.fetchall() if cursor.description else None

    def send(self, sql: str, parameters: tuple[Any, ...]) -> None:
        result = self.guarded.exec_driver_sql(sql, parameters or None)
        if result.returns_rows:
            result.all()

    def close(self) -> None:
        self.guarded.close()
        self.selector.close()
        self.engine.dispose()
        self.control.close()


THING = "(id bigint PRIMARY KEY, nextval int, setval int)"


def postgresql(request: pytest.FixtureRequest) -> Place:
    url = request.getfixturevalue("pg_server").new_database()
    # it must not wait for what gets past the guard
    control = psycopg2.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        dbname=url.database,
        options="-c lock_timeout=2s",
    )
    place = Place(url, control)
    place.run(
        f"CREATE TABLE thing {THING}; INSERT INTO thing VALUES (7, 1, 1); CREATE SEQUENCE seq"
    )
    control.commit()
    place.probe = lambda: place.run(
        "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
        " to_regclass('made')::text, last_value, is_called FROM seq"
    )

    def reset() -> None:
        control.rollback()
        place.run("SELECT pg_advisory_unlock_all(); DEALLOCATE ALL; ALTER SEQUENCE seq RESTART")
        control.commit()
        place.send("DEALLOCATE ALL; SELECT pg_advisory_unlock_all()", ())

    place.reset = reset
    return place


def mysql(request: pytest.FixtureRequest) -> Place:
    url = request.getfixturevalue("mariadb").new_database()
    arguments: dict[str, Any] = {
        "host": url.host, "port": url.port, "user": url.username, "database": url.database
    }  # fmt: skip
    waits = "SET lock_wait_timeout = 2, innodb_lock_wait_timeout = 2"
    place = Place(url, pymysql.connect(**arguments, init_command=waits))
    other = pymysql.connect(**arguments, autocommit=True)
    request.addfinalizer(other.close)
    place.run(f"CREATE TABLE thing {THING} ENGINE=InnoDB STATS_AUTO_RECALC=0")
    place.run("INSERT INTO thing VALUES (1, 1, 1), (2, 2, 2)")
    place.control.commit()

    def probe() -> object:
        with other.cursor() as cursor:
            cursor.execute(
                "SELECT IS_FREE_LOCK('road'), n_rows, (SELECT COUNT(*) FROM mysql.table_stats)"
                " FROM mysql.innodb_table_stats WHERE table_name = 'thing' AND database_name = %s",
                (place.database,),
            )
            seen = cursor.fetchall()
            cursor.execute("SELECT id FROM thing FOR UPDATE SKIP LOCKED")
            return seen, cursor.fetchall()

    def reset() -> None:
        place.control.rollback()
        place.run("DO RELEASE_ALL_LOCKS()")
        place.run("SET NAMES utf8mb4")
        place.run("SET @a = NULL, @b = NULL, max_statement_time = 0")
        place.run("UPDATE mysql.innodb_table_stats SET n_rows = 0 WHERE table_name = 'thing'")
        place.run("DELETE FROM mysql.table_stats")
        place.control.commit()
        place.send("SELECT RELEASE_ALL_LOCKS()", ())

    place.probe, place.reset = probe, reset
    reset()
    return place


def sqlite(path: Path, module: ModuleType) -> Place:
    """The control has the half of the protection that a text can lift."""
    control = module.connect(path, isolation_level=None)  # type: ignore[attr-defined]
    place = Place(f"sqlite:///{path}", control, module)
    place.run(f"CREATE TABLE thing {THING}")
    place.probe = lambda: (place.run("PRAGMA query_only"), path.read_bytes())
    place.reset = lambda: place.run("PRAGMA query_only = 1")
    place.reset()
    return place


def newer() -> ModuleType:
    reason = "NOT TESTED on a newer SQLite: pysqlite3-binary is not installed"
    module = pytest.importorskip("pysqlite3.dbapi2", reason=reason)
    assert module.sqlite_version_info >= (3, 46)
    return module  # type: ignore[no-any-return]  # Any, to mypy


@pytest.fixture(scope="module")
def places(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Place]]:
    made: dict[str, Place] = {}
    makers: dict[str, Callable[[], Place]] = {
        PG: lambda: postgresql(request),
        MY: lambda: mysql(request),
        LITE: lambda: sqlite(tmp_path_factory.mktemp("texts") / "a.db", sqlite3),
        NEWER: lambda: sqlite(tmp_path_factory.mktemp("texts") / "b.db", newer()),
    }

    def place(name: str) -> Place:
        if name not in made:
            made[name] = makers[name]()
        return made[name]

    yield place
    for one in made.values():
        one.close()


@pytest.mark.parametrize(
    ("server", "acts", "texts", "parameters"),
    CASES,
    ids=[f"{server}: {'; '.join(texts)}" for server, _, texts, _ in CASES],
)
def test_a_text_is_refused_if_it_does_more_than_read(
    places: Callable[[str], Place],
    server: str,
    acts: bool,
    texts: tuple[str, ...],
    parameters: tuple[Any, ...],
) -> None:
    place = places(server)
    *first, text = [one.replace("{database}", str(place.database)) for one in texts]
    try:
        # without the guard
        for one in first:
            place.run(one)
        before = place.probe()
        place.run(text, *([parameters] if parameters else []))
        assert (place.probe() != before) == acts, "what the table says of it is not so"
        place.reset()  # for what gets past the guard would wait for it
        # past the guard: a text that is prepared is refused when it is, or when it is executed
        refused = None
        try:
            for one in (*first, text):
                place.send(one, parameters)
        except ReadOnlyError as error:
            refused = error
        assert (refused is not None) == acts
        assert refused is None or refused.__cause__ is None, "it was left to the server"
    finally:
        place.guarded.rollback()
        place.reset()


def test_a_column_of_a_document_in_from_is_read(places: Callable[[str], Place]) -> None:
    place = places(PG)
    newest = place.control.server_version >= 170000
    document = (
        "json_table('[7]', '$[*]' COLUMNS (nextval int PATH '$'))"
        if newest  # which the wheel has; it can't read XML
        else "xmltable('/a' PASSING xmlparse(document '<a>7</a>') COLUMNS nextval int PATH '.')"
    )
    read = f"SELECT j.nextval FROM thing a, {document} AS j WHERE j.nextval > 1"
    assert place.guarded.exec_driver_sql(read).scalar() == 7
    place.guarded.rollback()


def test_what_a_value_would_end_is_seen_however_the_server_reads(mariadb: MariaDB) -> None:
    value = ", GET_LOCK(0x726f6164, 0), "
    for name in ("mysql", "mariadb"):
        url = mariadb.new_database().set(drivername=f"{name}+pymysql")
        for mode, held in (
            ("", "SELECT 'a\\' %s b'"),
            ("NO_BACKSLASH_ESCAPES", "SELECT '\\', ' %s b'"),
            ("ANSI_QUOTES", 'SELECT 1 AS "\\", \' %s \', 1 AS "b"'),
        ):
            engine = create_engine(url, connect_args={"sql_mode": mode})
            with (
                closing(EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine)) as selector,
                selector.engine().connect() as connection,
            ):
                cursor = connection.connection.cursor()
                with pytest.raises(ReadOnlyError, match=r"^get_lock\(\) is refused"):
                    cursor.execute(held, (value,))
            engine.dispose()


ENCODED = b"SELECT E'\x83\\', pg_try_advisory_lock(7), '...'"  # the first one ends in a backslash


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_bytes_are_read_in_the_encoding_of_the_connection(pg_server: Server, driver: str) -> None:
    url = pg_server.new_database().set(drivername=f"postgresql+{driver}")
    for encoding, codec in (("UTF8", "utf-8"), ("LATIN1", "latin-1"), ("SJIS", "cp932")):
        engine = create_engine(url, connect_args={"client_encoding": encoding})
        with (
            closing(EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine)) as selector,
            selector.engine().connect() as connection,
        ):
            cursor: Any = connection.connection.cursor()
            for read in ("a", "\u00b6"):
                cursor.execute(f"SELECT '{read}'".encode(codec))
                assert cursor.fetchall() == [(read,)]
            if encoding == "SJIS":
                with pytest.raises(ReadOnlyError, match=r"^pg_try_advisory_lock\(\) is refused"):
                    cursor.execute(ENCODED)
        engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "pg8000"])
def test_a_value_that_a_driver_makes_a_text_of_is_read_as_what_it_sends(
    pg_server: Server, driver: str
) -> None:
    setting = "default_transaction_read_only"
    value = Enum("Setting", setting)[setting] if driver == "psycopg" else UserString(setting)
    engine = create_engine(pg_server.new_database().set(drivername=f"postgresql+{driver}"))
    lifting = text("SELECT set_config(:name, 'off', false)")
    with engine.connect() as connection:
        connection.execute(lifting, {"name": value}).all()
        connection.commit()
        assert connection.scalar(text(f"SHOW {setting}")) == "off"
    with (
        closing(EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine)) as selector,
        selector.engine().connect() as connection,
    ):
        with pytest.raises(ReadOnlyError, match=r"^set_config\(\) of what protects"):
            connection.execute(lifting, {"name": value})
        assert connection.scalar(text(f"SHOW {setting}")) == "on"
    engine.dispose()


def test_bytes_that_python_can_not_read_are_refused(mariadb: MariaDB) -> None:
    url = mariadb.new_database().update_query_dict({"charset": "gbk"})
    engine = create_engine(url)
    with (
        closing(EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=engine)) as selector,
        selector.engine().connect() as connection,
    ):
        cursor: Any = connection.connection.cursor()
        text = f"SELECT 'XX', {GET_LOCK}, '\\''".encode()
        for character, what in (
            (b"\xac\\", r"get_lock\(\)"),
            (b"\xa2\\", "A text that can't be read as gbk"),  # to the server it is a character
        ):
            with pytest.raises(ReadOnlyError, match=f"^{what} is refused"):
                cursor.execute(text.replace(b"XX", character))
        cursor.execute("SELECT '\u7430'".encode("gbk"))
        assert cursor.fetchall() == (("\u7430",),)
    engine.dispose()


def test_what_double_quotes_hold_is_read_as_the_server_reads_it(mariadb: MariaDB) -> None:
    names = create_engine(mariadb.new_database(), connect_args={"sql_mode": "ANSI_QUOTES"})
    with (
        closing(EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=names)) as selector,
        selector.engine().connect() as connection,
    ):
        for what in (f'SELECT "GET_LOCK"({ROAD})', f'SELECT 1 AS "a\\", {GET_LOCK}, 1 AS "b"'):
            with pytest.raises(ReadOnlyError, match=r"^get_lock\(\) is refused"):
                connection.exec_driver_sql(what)
        prepared = f"PREPARE p FROM 'SELECT \"GET_LOCK\"({ROAD})'".replace("'road'", "''road''")
        with pytest.raises(ReadOnlyError, match=r"^get_lock\(\) is refused"):
            connection.exec_driver_sql(prepared)
        read = connection.exec_driver_sql('SELECT 1 AS "a; GET_LOCK()\\"')
        assert read.mappings().one() == {"a; GET_LOCK()\\": 1}
    names.dispose()


@pytest.mark.parametrize("server", [LITE, NEWER])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ignore_check_constraints", 1),
        ("checkpoint_fullfsync", 1),
        ("max_page_count", 100),
        ("secure_delete", 0),
        ("full_column_names", 1),
        ("short_column_names", 0),
        ("count_changes", 1),
    ],
)
def test_a_setting_of_the_session_alone_may_be_set(
    places: Callable[[str], Place], server: str, name: str, value: int
) -> None:
    place = places(server)
    path = Path(str(place.database))

    def elsewhere() -> object:
        with closing(place.module.connect(path)) as other:
            return other.execute(f"PRAGMA {name}").fetchall(), path.read_bytes()

    before = elsewhere()
    place.run(f"PRAGMA {name} = {value}")
    assert place.run(f"PRAGMA {name}") == [(value,)]
    place.send(f"PRAGMA main.{name}({value})", ())
    assert place.guarded.exec_driver_sql(f"PRAGMA {name}").scalar() == value
    place.guarded.rollback()
    assert elsewhere() == before
