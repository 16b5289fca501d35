"""The guard and a server, asked about the same texts: nothing escapes, and no read is lost unseen.

tests/corpus.sql is ours, and so is the grammar in tests/feeds, by which texts are made.
PostgreSQL's own regression files, which are not, are taken from where SA_READONLY_PG_REGRESS says;
.ci/regression fetches them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.app import LONG, longer
from tests.differential import CONNECT, Guard, Result, Script, Session, ours, play_files
from tests.feeds import feed
from tests.feeds.servers import Judge, Logged, on_mariadb, on_postgresql, on_sqlite
from tests.postgres import Server

REGRESS = os.environ.get("SA_READONLY_PG_REGRESS")

# -- cutting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "statements"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';', \"a;\", $$;$$, $q$ $$; $q$, E'\\';';", 1),
        ("SELECT 1 -- a; b\n; /* c; /* d; */ e; */ SELECT 2;", 2),
        ("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3;", 2),
        ("CREATE FUNCTION f() BEGIN ATOMIC; SELECT CASE WHEN a THEN b END; END; SELECT 1;", 2),
        ("CREATE TABLE t (begin int); BEGIN; END;", 3),
        ("SELECT 1\\; SELECT 2;", ["SELECT 1; SELECT 2"]),
        ("SELECT 1 \\gset\nSELECT 2 \\g\n\\d t\nSELECT 3", 3),
        ("SELECT 1 \\r\nSELECT 2;", ["SELECT 2"]),
        ("\\c other\nSELECT 1;", [CONNECT, "SELECT 1"]),
        ("\\set a 'x' :b\n\\set b :a /y\nSELECT :'b', :c, 1::int;", ["SELECT 'x:b/y', :c, 1::int"]),
        ("\\getenv home HOUSE\nCOPY t FROM :'home';", ["COPY t FROM '/house'"]),
        ("SET standard_conforming_strings = off; SELECT '\\';'; SELECT 2", 3),
        ("SELECT '\\'; SELECT 2", 2),
        ("", []),
    ],
)
def test_a_script_is_cut_where_psql_cuts_it(content: str, statements: list[str] | int) -> None:
    cut = list(Script(content, {"HOUSE": "/house"}))
    assert cut == statements if isinstance(statements, list) else len(cut) == statements


def test_the_data_of_a_copy_is_no_statement() -> None:
    script = Script("COPY t FROM stdin;\na;b\nDELETE FROM t;\n\\.\nSELECT 1;")
    cut = iter(script)
    assert next(cut) == "COPY t FROM stdin"
    assert script.data() == "a;b\nDELETE FROM t;\n"
    assert list(cut) == ["SELECT 1"]


# -- comparing -------------------------------------------------------------------------------


def play(server: Server, content: str, guard: Guard = ours) -> Result:
    url = server.new_database()
    result = Result()
    session = Session(conninfo(server, str(url.database)), guard)
    try:
        session.play(Script(content), result)
    finally:
        session.close()
        server.drop_database(url)
    return result


def conninfo(server: Server, database: str) -> str:
    return f"host=127.0.0.1 port={server.port} user=postgres dbname={database}"


# What only reads in the corpus and is refused, by what the guard says of it. Each is meant: a
# server might write by it, or tell others, or leave the session other than it was; and what would
# lift the protection is refused under any name.
REFUSED = {
    "DISCARD": 1,
    "INSERT": 1,
    "LOCK": 1,
    "MERGE": 1,
    "NOTIFY": 1,
    "SET transaction_read_only": 1,
    "brin_summarize_new_values()": 1,
    "bt_index_parent_check()": 1,
    "gin_clean_pending_list()": 1,
    "pg_log_backend_memory_contexts()": 1,
    "pg_notify()": 1,
    "pg_stat_reset()": 1,
    "pg_try_advisory_lock()": 1,
}


@pytest.fixture(scope="module")
def corpus() -> str:
    return (Path(__file__).parent / "corpus.sql").read_text()


def test_what_a_server_does_in_a_read_only_transaction_the_guard_refuses(
    pg_server: Server, corpus: str
) -> None:
    result = play(pg_server, corpus)
    print(result)  # noqa: T201  # what was compared is part of the answer
    assert result.statements > 300
    assert result.run > 150
    assert result.held > 100
    assert result.escaped == []
    assert [one.statement for one in result.unseen] == ["FETCH 1 FROM locking", "SELECT hold()"]
    assert result.kinds() == REFUSED


def test_without_a_guard_what_a_server_does_is_seen(pg_server: Server, corpus: str) -> None:
    result = play(pg_server, corpus, lambda *_: None)
    seen = {one.statement for one in result.escaped}
    assert result.lost == []
    assert {
        "EXPLAIN ANALYZE SELECT 1 AS n INTO made_eight",
        "SELECT pg_import_system_collations('pg_catalog')",
        "SELECT pg_current_xact_id() FROM customer",
        "SELECT pg_advisory_xact_lock(1, 2)",
        "LOCK customer",
        "ANALYZE customer",
        "SET transaction_read_only = off",
        "SET default_transaction_read_only TO off",
        "RESET ALL",
    } <= seen


# -- a grammar ---------------------------------------------------------------------------------


def agree(judge: Judge, few: int, many: int) -> None:
    """The guard passes nothing that acts, and some of what was made is of each kind."""
    ended = feed(judge.feed(), many if LONG else few)
    print(f"{judge}: {dict(ended)}")  # noqa: T201  # what was met is part of the answer
    assert ended["refused: it acts"]
    assert ended["passed: it reads"]


@longer
def test_a_text_of_the_grammar_that_postgresql_would_write_by_is_refused(pg_server: Server) -> None:
    with on_postgresql(pg_server) as judge:
        agree(judge, 60, 2500)


@longer
def test_a_text_of_the_grammar_that_mariadb_would_write_by_is_refused(
    request: pytest.FixtureRequest,
) -> None:
    server = request.getfixturevalue("mariadb")
    if not LONG:
        with on_mariadb(server) as judge:
            agree(judge, 15, 0)
        return
    with Logged.launch() as server, on_mariadb(server) as judge:
        agree(judge, 0, 800)


@longer
@pytest.mark.parametrize("driver", ["sqlite3", "pysqlite3"])
def test_a_text_of_the_grammar_that_sqlite_would_write_by_is_refused(
    place: Path, driver: str
) -> None:
    module = pytest.importorskip(driver, reason=f"NOT TESTED: {driver} is not installed.")
    with on_sqlite(place, module) as judge:
        agree(judge, 60, 1500)


# -- PostgreSQL's regression files -----------------------------------------------------------

# The same, and how many there may be at most: those of PostgreSQL 15.18 and some more, as a later
# release may have. Beside those above: what is done to a temporary table or to no row, blocks and
# procedures that happen to read, and locks that stop no writer.
REFUSED_THERE = {
    "ANALYZE": 20,
    "CALL": 30,
    "COPY": 35,
    "DELETE": 10,
    "DISCARD": 5,
    "DO": 35,
    "EXPLAIN ANALYZE CREATE": 10,
    "INSERT": 35,
    "LOCK": 20,
    "MERGE": 10,
    "NOTIFY": 5,
    "RESET standard_conforming_strings": 5,
    "SELECT ... FOR SHARE": 5,
    "SELECT ... FOR UPDATE": 10,
    "SET standard_conforming_strings": 10,
    "UPDATE": 10,
    "brin_desummarize_range()": 20,
    "brin_summarize_new_values()": 10,
    "brin_summarize_range()": 20,
    "gin_clean_pending_list()": 10,
    "lo_unlink()": 5,
    "nextval()": 10,
    "pg_log_backend_memory_contexts()": 5,
    "pg_notify()": 5,
    "pg_stat_reset()": 5,
    "pg_stat_reset_shared()": 10,
    "pg_stat_reset_single_table_counters()": 5,
    "pg_stat_reset_slru()": 5,
    "setval()": 30,
}


@pytest.mark.skipif(
    not REGRESS,
    reason="NOT TESTED on PostgreSQL's regression files: .ci/regression fetches them, or set "
    "SA_READONLY_PG_REGRESS to a directory that has them in sql/",
)
def test_nothing_in_postgresqls_regression_files_escapes() -> None:
    directory = Path(str(REGRESS)).resolve()
    assert list((directory / "sql").glob("*.sql")), f"{directory}/sql has no .sql file"
    # one of its own: the files make and drop roles, and change what all databases share
    with Server.launch() as server:
        result = play_files(directory, conninfo(server, str(server.new_database().database)))
    print(f"\n{result}")  # noqa: T201  # what was compared is part of the answer
    for kind, number in result.kinds().items():
        print(f"{number:5} {kind}")  # noqa: T201
    assert result.statements > 10_000
    assert result.run > 5_000
    assert result.escaped == []
    assert len(result.unseen) < 60
    kinds = result.kinds()
    assert {kind: n for kind, n in kinds.items() if n > REFUSED_THERE.get(kind, 0)} == {}
