"""What only reads, which must go on working: a guard that refuses a read is broken."""

# ruff: noqa: E501  # SQL is easier to read in one line
from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    inspect,
    lambda_stmt,
    literal,
    literal_column,
    select,
    table,
    text,
    union_all,
    values,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, aliased, joinedload, selectinload

from tests.roads import ALL, LITE, MY, PG, Part, Place, Thing
from tests.test_roads import Town, sampled, town

__all__ = ["town"]

HOUSES = {
    "sqlite plain": LITE,
    "sqlite mode=ro": LITE,
    "sqlite twin": LITE,
    "sqlite twin as writer": LITE,
    "sqlite plain as replica": LITE,
    "psycopg2 writable": PG,
    "psycopg2 twin": PG,
    "psycopg2 standby": PG,
    "psycopg2 twin as writer": PG,
    "psycopg2 writable as replica": PG,
    "psycopg twin": PG,
    "psycopg twin as writer": PG,
    "mariadb writable": MY,
    "mariadb twin": MY,
    "mariadb twin as writer": MY,
    "sqlite URL": LITE,
    "sqlite URL as writer": LITE,
    "psycopg2 URL": PG,
    "psycopg2 URL as writer": PG,
    "psycopg URL": PG,
    "mariadb URL": MY,
}

# -- texts -----------------------------------------------------------------------------------

TEXTS: dict[frozenset[str], list[str]] = {
    ALL: [
        "SELECT 1",
        "select * from thing",
        "  \n\tSELECT * FROM thing  ",
        "SELECT * FROM thing;",
        "SELECT * FROM thing ; ",
        "/* INSERT INTO thing */ SELECT 1",
        "-- DELETE FROM thing\nSELECT 1",
        "SELECT 1 -- FOR UPDATE",
        "SELECT 1 /* FOR UPDATE; DROP TABLE thing */",
        "SELECT 1 -- it's an apostrophe\n, 2",
        "SELECT 1 WHERE 1 = 1",
        "SELECT 'insert; update'",
        "SELECT 'INSERT INTO thing', 'FOR UPDATE', 'it''s; DELETE FROM thing'",
        "SELECT name AS inserted, note AS updated FROM thing",
        "SELECT t.name FROM thing AS t JOIN part p ON p.thing_id = t.id",
        "SELECT count(*) FROM thing GROUP BY name HAVING count(*) > 0 ORDER BY 1 LIMIT 5",
        "WITH x AS (SELECT 1 AS a), y AS (SELECT * FROM x) SELECT * FROM y",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT * FROM n",
        "SELECT name, row_number() OVER (PARTITION BY note ORDER BY id) FROM thing",
        "SELECT name, sum(id) OVER w FROM thing WINDOW w AS (ORDER BY id)",
        "SELECT 1 UNION SELECT 2 EXCEPT SELECT 3",
        "SELECT * FROM (SELECT * FROM thing) x WHERE EXISTS (SELECT 1 FROM part)",
        "SELECT CASE WHEN name = 'delete' THEN 'update' ELSE 'insert' END FROM thing",
        "SELECT replace(name, 'a', 'b') FROM thing",
        "SELECT * FROM thing WHERE name LIKE 'a%' OR name LIKE '%update%'",
        "SELECT 10 % 3, 7 - -1",
        "EXPLAIN SELECT * FROM thing",
        "SELECT CURRENT_TIMESTAMP",
    ],
    frozenset((PG, LITE)): [
        "EXPLAIN DELETE FROM part",  # which MariaDB refuses itself
        'SELECT 1 AS "for update", 2 AS "insert into", 3 AS "a;""b"',
        'SELECT "delete", "update" FROM (SELECT 1 AS "delete", 2 AS "update") AS "insert"',
        "VALUES (1, 'insert'), (2, 'delete')",
        "SELECT * FROM (VALUES (1), (2)) AS v",
        "WITH x AS NOT MATERIALIZED (SELECT 1 AS a) SELECT * FROM x",
        "SELECT * FROM thing /* a */ -- b",
        "SELECT 'a' || 'b'",
    ],
    frozenset((PG, MY)): [
        "(SELECT 1)",
        "(SELECT 1) UNION (SELECT 2)",
        "SELECT * FROM information_schema.tables LIMIT 1",
        "SET TRANSACTION READ ONLY",
        "SELECT (SELECT 1)",
    ],
    frozenset((LITE,)): [
        "SELECT [update], [for update] FROM (SELECT 1 AS [update], 2 AS [for update])",
        "SELECT `delete` FROM (SELECT 1 AS `delete`)",
        "PRAGMA table_info(thing)",
        "PRAGMA main.table_xinfo('thing')",
        "PRAGMA foreign_key_list(part)",
        "PRAGMA user_version",
        "PRAGMA journal_mode",
        "PRAGMA query_only",
        "PRAGMA query_only = ON",
        "PRAGMA foreign_keys = ON",
        "PRAGMA busy_timeout = 1000",
        "PRAGMA cache_size = -2000",
        "PRAGMA temp_store",
        "PRAGMA integrity_check",
        "SELECT * FROM pragma_table_info('thing')",
        "SELECT json_extract('{\"update\": 1}', '$.update')",
        "SELECT name FROM sqlite_master",
        "SELECT 1 AS replace, 2 AS query_only",
        "SELECT glob('a*', 'abc'), hex(randomblob(2))",
        "EXPLAIN QUERY PLAN SELECT * FROM thing",
        "EXPLAIN QUERY PLAN UPDATE thing SET name = 'x'",
    ],
    frozenset((MY,)): [
        "# INSERT\nSELECT 1",
        "SELECT /*!40001 SQL_NO_CACHE */ * FROM thing",
        "SELECT 'it\\'s; DELETE FROM thing', \"it's; x\"",
        "SELECT `update`, `for update` FROM (SELECT 1 AS `update`, 2 AS `for update`) AS `delete`",
        "SELECT 5--1",
        "SHOW TABLES",
        "SHOW CREATE TABLE thing",
        "SHOW VARIABLES LIKE 'sql_mode'",
        "DESCRIBE thing",
        "DESC thing",
        "EXPLAIN FORMAT=JSON SELECT * FROM thing",
        "ANALYZE SELECT * FROM thing",
        "ANALYZE FORMAT=JSON SELECT * FROM thing",
        "SELECT @@version, @@session.tx_read_only",
        "SET @a = 1",
        "SELECT 1 INTO @a",
        "SET SESSION max_statement_time = 10",
        "SET STATEMENT max_statement_time = 10 FOR SELECT * FROM thing",
        "SET NAMES utf8mb4",
        "PREPARE p FROM 'SELECT ''insert'''",
        "SELECT IF(1, 'insert', 'update'), INSERT('abc', 1, 1, 'x')",
        "EXECUTE IMMEDIATE 'SELECT 1'",
        "SELECT * FROM thing USE INDEX (PRIMARY)",
        "SELECT PREVIOUS VALUE FOR seq",
        "SELECT JSON_EXTRACT('{\"delete\": 1}', '$.delete')",
        "SELECT GROUP_CONCAT(name SEPARATOR ';') FROM thing",
        "SELECT 'a' 'b', 'a\\\\', 'for update', 1e5, .5, 0x1F, _utf8mb4'x'",
        "SELECT 'ü', 1 AS größe FROM thing FORCE INDEX FOR ORDER BY (PRIMARY)",
        "SELECT name FROM thing WHERE name REGEXP 'a;b'",
        "SELECT 1 /*!50000 + 'a' */ /*M!100100 , \"b\" */",
        "SET sql_mode = 'STRICT_TRANS_TABLES,ONLY_FULL_GROUP_BY'",
        "SET SESSION sql_mode = (SELECT REPLACE(@@sql_mode, 'ONLY_FULL_GROUP_BY', ''))",
        "SET SESSION TRANSACTION READ ONLY",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        "PREPARE p2 FROM \"SELECT 1 WHERE 'a' = 'b'\"",
        "EXECUTE IMMEDIATE 'SELECT ?, ''x''' USING 'insert'",
        "CHECKSUM TABLE thing",
        "SELECT LAST_INSERT_ID(), FOUND_ROWS(), IS_FREE_LOCK('x'), TRUNCATE(1.5, 0)",
        "VALUES (1), (2)",
    ],
    frozenset((PG,)): [
        "TABLE thing",
        "SHOW transaction_read_only",
        "SHOW ALL",
        "SELECT current_setting('transaction_read_only'), current_setting('app.none', true)",
        "SELECT set_config('app.tenant', 'insert', true)",
        "SELECT set_config('app.tenant'::text, '7', false), set_config('search_path', 'public', true)",
        "SELECT pg_catalog.set_config('statement_timeout', '5000', true)",
        "SET LOCAL statement_timeout = 5000",
        "SET LOCAL lock_timeout TO '1s'",
        "SET LOCAL work_mem = '8MB'",
        "SET search_path TO public",
        "SET application_name = 'set transaction read write'",
        "SET LOCAL \"app.transaction_read_only\" = 'off'",
        "SET TIME ZONE 'UTC'",
        "SET LOCAL ROLE postgres",
        "RESET work_mem",
        "RESET ROLE",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET TRANSACTION READ ONLY",
        "SET transaction_read_only = on",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "EXPLAIN (COSTS OFF) SELECT * FROM thing",
        "EXPLAIN ANALYZE SELECT * FROM thing",
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) WITH x AS (SELECT 1) SELECT * FROM x",
        "EXPLAIN (ANALYZE off) INSERT INTO thing (name) VALUES ('x')",
        "EXPLAIN VALUES (1)",
        "DECLARE c CURSOR FOR SELECT * FROM thing",
        "DECLARE c2 NO SCROLL CURSOR WITH HOLD FOR SELECT 'for update'; FETCH 2 FROM c2; MOVE 1 FROM c2; CLOSE c2",
        "PREPARE r AS SELECT 'insert'; EXECUTE r; DEALLOCATE r",
        "PREPARE r2 (text) AS SELECT set_config('app.tenant', $1, true); EXECUTE r2('x'); DEALLOCATE ALL",
        "SAVEPOINT a; RELEASE SAVEPOINT a",
        "SELECT 1; SELECT 2",
        "UNLISTEN *",
        "SELECT update, delete, insert, share FROM (SELECT 1 AS update, 2 AS delete, 3 AS insert, 4 AS share) x",
        "SELECT x.update FROM (SELECT 1 AS update) x WHERE (update = 1) AND (update) > 0",
        "SELECT (delete) FROM (SELECT 1 AS delete) insert",
        "SELECT count(*) AS delete FROM thing",
        "WITH a AS (SELECT count(*) AS update FROM thing) SELECT max(update) AS insert FROM a",
        "WITH delete AS (SELECT 1 AS i), update (j) AS (SELECT 2) SELECT * FROM delete, update",
        "SELECT 1 AS into, 2 AS for, 3 AS update",
        "SELECT substring('abc' FROM 1 FOR 2), overlay('abc' PLACING 'x' FROM 1 FOR 1)",
        "SELECT substring('abc' from 1 for update) FROM (SELECT 2 AS update) x",
        "SELECT * FROM json_to_record('{\"update\": 1}') AS (update text, delete int)",
        "SELECT * FROM json_to_recordset('[]') AS x (insert text, nextval int)",
        "SELECT '{\"insert\": 1}'::jsonb ? 'insert', '{}'::jsonb @> '{}', '{\"a\": 1}'::jsonb -> 'a', '{\"a\": [1]}'::jsonb #> '{a,0}'",
        "SELECT '{\"a\": 1}'::jsonb ?| array['a'], '{\"a\": 1}'::jsonb ?& array['a']",
        "SELECT (ARRAY['insert', 'update'])[1], ARRAY[1, 2] || 3, array(SELECT 1)",
        "SELECT 'update'::text, cast('1' AS int), int '7', interval '1 day'",
        "SELECT $$insert; it's$$, $q$ $$delete$$ ; $q$",
        "SELECT E'it\\'s; insert', E'\\\\', U&'\\0061', B'01', X'1F', N'x'",
        'SELECT U&"\\0061" FROM (SELECT 1 AS a) x',
        "SELECT 'a\\', 'insert'",
        "/* a /* INSERT */ b */ SELECT 1",
        "SELECT 1 -- a\r, 2",
        "SELECT * FROM generate_series(1, 3) WITH ORDINALITY AS g (a, b)",
        "SELECT name FROM thing ORDER BY id FETCH FIRST 1 ROW ONLY",
        "SELECT currval IS NULL FROM (SELECT 1 AS currval) x",
        "SELECT last_value FROM seq",
        "SELECT * FROM pg_sequences",
        "SELECT pg_sequence_last_value('seq'::regclass)",
        "SELECT lo_get(1234)",
        "SELECT loread(lo_open(1234, 262144), 3)",
        "SELECT pg_advisory_unlock_all()",
        "SELECT pg_backend_pid(), pg_is_in_recovery(), version(), txid_current_if_assigned()",
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE pg_catalog.pg_table_is_visible(c.oid) LIMIT 3",
        "SELECT * FROM pg_locks",
        "SELECT * FROM pg_stat_activity",
        "SELECT has_table_privilege('thing', 'insert, update')",
        "SELECT * FROM thing TABLESAMPLE SYSTEM (50)",
        "SELECT DISTINCT ON (name) name FROM thing",
        "SELECT count(*) FILTER (WHERE name = 'x') FROM thing",
        "SELECT * FROM thing t, LATERAL (SELECT t.id + 1) x",
        "SELECT * FROM ROWS FROM (generate_series(1, 2), generate_series(1, 3)) x",
        "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3) SEARCH DEPTH FIRST BY i SET o CYCLE i SET c USING p SELECT * FROM n",
        "SELECT rank() OVER w FROM thing WINDOW w AS (PARTITION BY name ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
        "SELECT read_it(1)",
        "SELECT xmin, ctid FROM thing",
        "SELECT to_tsvector('insert update') @@ to_tsquery('insert')",
        "SELECT * FROM ts_stat('SELECT to_tsvector(name) FROM thing')",
        "SELECT '\N{GRINNING FACE}', 1 AS größe, 2 AS 日本, $ä$ ; DELETE $ä$",
        "SELECT 'a'\n'b; DELETE FROM thing', E'a'\n'\\'; DELETE FROM thing'",
        "SELECT 1::numeric(10, 2), 1.5e3, 1e-3, .5, 5.",
        "SELECT extract(year FROM now()), position('a' IN 'abc'), trim(both 'x' FROM 'xax')",
        "SELECT * FROM thing WHERE id IN (SELECT id FROM thing FOR READ ONLY)",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) FROM thing",
        "SELECT set_config('app.' || 'tenant', '7', true)",
        "SET standard_conforming_strings = on",
        "SET SESSION app.tenant TO DEFAULT",
        "BEGIN; SELECT 1; COMMIT",
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, DEFERRABLE",
        "ROLLBACK",
        "EXPLAIN (ANALYZE false) DELETE FROM thing",
        "EXPLAIN VERBOSE UPDATE thing SET name = 'x'",
    ],
}

TEXT_READS = [
    (house, sql)
    for house, dialect in HOUSES.items()
    for dialects, sqls in TEXTS.items()
    if dialect in dialects
    for number, sql in enumerate(sqls)
    if sampled(house, number)
    # psycopg 3 knows no second statement beside a parameter, and prepares none
    if not (house.startswith("psycopg ") and "; " in sql.rstrip("; ") and "'" not in sql)
]


def the_place(town: Town, house: str) -> Place:
    return town.house(house).place


@pytest.mark.parametrize(("house", "sql"), TEXT_READS, ids=[f"{h}: {s}" for h, s in TEXT_READS])
def test_a_text_that_reads_is_not_refused(town: Town, house: str, sql: str) -> None:
    place = the_place(town, house)
    with place.session() as session:
        read(
            session.connection().exec_driver_sql,
            sql.replace("%", "%%") if place.dialect != LITE else sql,
        )
    if ":" not in sql:
        with place.session() as session:
            read(session.execute, text(sql))
    with place.session() as session:
        cursor = session.connection().connection.cursor()
        cursor.execute(sql)
        if cursor.description:
            cursor.fetchall()
        cursor.close()


def read(execute: Callable[..., Any], sql: Any) -> None:
    result = execute(sql)
    if result.returns_rows:
        result.all()


# -- what is built ---------------------------------------------------------------------------

READS: list[tuple[Callable[[Place], object], frozenset[str]]] = []


def reading(*dialects: str) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        READS.append((function, frozenset(dialects) or ALL))
        return function

    return add


@reading()
def orm_queries(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        assert [part.name for part in one.parts] == ["a", "b"]
        session.scalars(select(Thing).options(selectinload(Thing.parts))).all()
        session.scalars(select(Thing).options(joinedload(Thing.parts))).unique().all()
        other = aliased(Thing, name="update")
        session.execute(select(other, Part).join(other.parts).where(other.name == "insert")).all()
        session.refresh(one)
        session.scalar(select(func.count()).select_from(Thing))
        session.query(Thing).filter_by(name="delete").first()
        session.scalar(select(exists().where(Thing.name == "x")))
        session.commit()


@reading()
def a_session_with_nothing_to_write(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        one.name = one.name  # no net change
        session.flush()
        with session.begin_nested():
            session.scalars(select(Part)).all()
        session.commit()
        session.rollback()


@reading()
def core_constructs(place: Place) -> None:
    strange = table("thing", column("id"), column("name")).alias("delete")
    with place.engine().connect() as connection:
        for statement in (
            select(strange.c.name.label("for update")),
            select(literal("insert into thing"), literal_column("'update'").label("insert")),
            select(Thing.__table__).where(Thing.name == bindparam("update", "delete")),
            select(Thing.id).cte("delete").select(),
            union_all(select(Thing.id), select(Part.id)),
            select(case((Thing.name == "x", "insert"), else_="delete")),
            select(cast(Thing.id, String(10)), Thing.name.like("%update%")),
            lambda_stmt(lambda: select(Thing.id)),
            text("SELECT :insert AS a"),
        ):
            connection.execute(
                statement,
                {"insert": "x"}
                if "insert" in str(statement) and "SELECT :" in str(statement)
                else {},
            ).all()


@reading()
def names_that_are_writes(place: Place) -> None:
    with place.engine().connect() as connection:
        connection.execute(
            text("SELECT * FROM thing WHERE name = :insert OR name = :update"),
            {"insert": "; DELETE FROM thing", "update": "x"},
        ).all()
        connection.execute(select(Thing.name.label("delete from thing"))).all()


@reading()
def streaming(place: Place) -> None:
    with place.session() as session:
        list(session.scalars(select(Thing).execution_options(yield_per=1)))
    with place.engine().connect() as connection:
        options = {"stream_results": True, "max_row_buffer": 1}
        for _ in connection.execution_options(**options).execute(text("SELECT * FROM thing")):
            pass
        with connection.execute(select(Thing.id)) as result:
            for partition in result.partitions(1):
                assert partition


@reading()
def inspection(place: Place) -> None:
    inspector = inspect(place.engine())
    assert inspector.has_table("thing")
    assert not inspector.has_table("delete")
    assert {"thing", "part"} <= set(inspector.get_table_names())
    for name in ("thing", "part"):
        inspector.get_columns(name)
        inspector.get_indexes(name)
        inspector.get_pk_constraint(name)
        inspector.get_foreign_keys(name)
        inspector.get_unique_constraints(name)
        inspector.get_check_constraints(name)
    inspector.get_view_names()
    inspector.get_schema_names()
    with place.session() as session:
        assert inspect(session.connection()).has_table("part")


@reading()
def reflection(place: Place) -> None:
    metadata = MetaData()
    metadata.reflect(place.engine(), only=["part"])
    assert {"id", "thing_id", "name"} == set(metadata.tables["part"].c.keys())
    Table("thing", MetaData(), autoload_with=place.engine())


@reading()
def create_all_where_all_is_there(place: Place) -> None:
    Thing.metadata.create_all(place.engine())


@reading()
def isolation_levels(place: Place) -> None:
    levels = {
        LITE: ("SERIALIZABLE", "READ UNCOMMITTED", "AUTOCOMMIT"),
        MY: ("READ COMMITTED", "REPEATABLE READ", "AUTOCOMMIT"),
        PG: ("READ COMMITTED", "REPEATABLE READ", "AUTOCOMMIT"),
    }[place.dialect]
    for level in levels:
        engine = place.engine().execution_options(isolation_level=level)
        with engine.connect() as connection:
            assert connection.get_isolation_level() in (level, *levels)
            connection.execute(select(Thing.id)).all()
        with place.session() as session:
            session.connection(execution_options={"isolation_level": level})
            session.scalars(select(Thing)).all()


@reading()
def plain_sessions_and_raw_cursors(place: Place) -> None:
    with Session(place.engine()) as session:
        session.scalars(select(Thing)).all()
    connection = place.engine().raw_connection()
    cursor = connection.cursor()
    cursor.execute("SELECT 'insert' FROM thing")
    assert cursor.fetchall()
    cursor.close()
    connection.close()


@reading()
def what_pandas_sends(place: Place) -> None:
    pandas = pytest.importorskip("pandas", reason="NOT TESTED with pandas: it is not installed")
    engine = place.engine()
    assert len(pandas.read_sql("SELECT * FROM thing", engine)) >= 2
    assert len(pandas.read_sql_table("thing", engine, columns=["id", "name"])) >= 2
    with place.session() as session:
        connection = session.connection()
        statement = select(Thing.id).where(Thing.name != bindparam("update"))
        frame = pandas.read_sql(statement, connection, params={"update": "; DELETE FROM thing"})
        assert len(frame) >= 2
        chunks = pandas.read_sql_query(text("SELECT * FROM part"), connection, chunksize=1)
        assert sum(len(chunk) for chunk in chunks) >= 2


@reading(PG)
def postgresql_types(place: Place) -> None:
    with place.engine().connect() as connection:
        data = cast(literal('{"update": 1}'), JSONB)
        statement = select(data.has_key("update"), data["update"], cast([1, 2], ARRAY(Integer)))
        connection.execute(statement).all()
        rows = values(column("insert", Integer), name="update").data([(1,), (2,)])
        connection.execute(select(rows)).all()
        connection.execute(select(func.set_config("app.tenant", "7", True))).all()
        connection.execute(
            text("SELECT set_config(:name, :value, true)"), {"name": "app.tenant", "value": "x"}
        ).all()


@reading(PG)
def options_of_postgresql(place: Place) -> None:
    with place.session() as session:
        session.connection(execution_options={"postgresql_readonly": True})
        session.scalars(select(Thing)).all()
    with place.session() as session:
        session.connection(
            execution_options={"isolation_level": "REPEATABLE READ", "postgresql_deferrable": True}
        )
        session.scalars(select(Thing)).all()


@reading(PG)
def copy_out(place: Place) -> None:
    for sql in (
        "COPY thing TO STDOUT",
        "COPY (SELECT 'insert', update FROM (SELECT 1 AS update) x) TO STDOUT WITH (FORMAT csv)",
        "copy thing (id, name) to stdout",
    ):
        connection = place.engine().raw_connection()
        cursor: Any = connection.cursor()
        if place.driver == "psycopg2":
            cursor.copy_expert(sql, io.StringIO())
        else:
            with cursor.copy(sql) as copy:
                list(copy)
        cursor.close()
        connection.close()


@reading(PG)
def copy_to(place: Place) -> None:
    if place.driver == "psycopg2":
        connection = place.engine().raw_connection()
        cursor: Any = connection.cursor()
        cursor.copy_to(io.StringIO(), "thing")
        cursor.callproc("pg_backend_pid")
        connection.close()


@reading(PG)
def a_two_phase_session_that_reads(place: Place) -> None:
    with place.session(twophase=True) as session:
        session.scalars(select(Thing)).all()
        session.commit()
    with place.session(twophase=True) as session:
        session.scalars(select(Thing)).all()
        session.prepare()
        session.rollback()


@reading(PG)
def what_a_reset_listener_does(place: Place) -> None:
    connection = place.engine().raw_connection()
    cursor = connection.cursor()
    for sql in ("CLOSE ALL", "RESET ALL", "DISCARD TEMP"):
        cursor.execute(sql)
    connection.close()


BUILT = [
    (house, function)
    for house, dialect in HOUSES.items()
    for number, (function, dialects) in enumerate(READS)
    if dialect in dialects and sampled(house, number)
]


@pytest.mark.parametrize(
    ("house", "function"), BUILT, ids=[f"{h}: {f.__name__.replace('_', ' ')}" for h, f in BUILT]
)
def test_what_reads_is_not_refused(
    town: Town, house: str, function: Callable[[Place], object]
) -> None:
    function(the_place(town, house))
