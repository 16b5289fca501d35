"""PostgreSQL's own functions: those that act are refused, those that read are not.

What is known of them is in tests/functions.txt. A function that stands in neither list passes
the guard, as a function of the user's does, so a server that brings one must be noticed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import URL

from sa_readonly import ReadOnlyError
from sa_readonly.engines.statements import examine
from tests.app import App
from tests.postgres import Server

# What can be called at all: no trigger, no handler, nothing that takes or gives what is internal.
CALLABLE = """
    SELECT p.oid, p.proname, p.provolatile, p.pronargs, p.proargnames FROM pg_proc p
    WHERE p.prorettype::regtype::text !~ 'trigger|handler|internal'
        AND NOT 'internal'::regtype = ANY (p.proargtypes)
        AND p.pronamespace = ANY (%s::regnamespace[])
"""
# Stable ones that run a text, as far as a name can tell.
RUNS_A_TEXT = r"to_xml|^crosstab|^connectby$|^xpath_table$"


def lists() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"acts": [], "reads": []}
    kind = ""
    for line in (Path(__file__).parent / "functions.txt").read_text().splitlines():
        if line.startswith("# "):
            kind = line[2:].partition(":")[0]
        elif line and line != "#":
            found[kind].append(line)
    return found


LISTS = lists()


@pytest.fixture(scope="module")
def database(pg_server: Server) -> Iterator[URL]:
    """A database with every module that the server has."""
    url = pg_server.new_database()
    with closing(psycopg2.connect(**pg_server.dsn(database=url.database))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT name FROM pg_available_extensions ORDER BY name")
            for (name,) in cursor.fetchall():
                cursor.execute(f'CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE')
    yield url
    pg_server.drop_database(url)


def test_no_function_stands_in_both_lists_or_twice() -> None:
    names = LISTS["acts"] + LISTS["reads"]
    assert sorted(set(names)) == sorted(names)


def test_a_server_brings_no_function_that_is_in_neither_list(
    pg_server: Server, database: URL
) -> None:
    """Sort what this names into tests/functions.txt, and refuse it if it acts."""
    rows = pg_server.query(
        f"SELECT DISTINCT proname FROM ({CALLABLE}) p"
        " WHERE provolatile = 'v' OR (provolatile = 's' AND proname ~ %s)",
        ["pg_catalog", "public"],
        RUNS_A_TEXT,
        database=str(database.database),
    )
    known = {*LISTS["acts"], *LISTS["reads"]}
    assert len(rows) > 250
    assert {name for (name,) in rows} - known == set()


def test_each_stable_function_that_takes_a_transaction_id_is_known_to_act(
    pg_server: Server, database: URL
) -> None:
    takers = []
    with (
        closing(psycopg2.connect(**pg_server.dsn(database=database.database))) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            f"SELECT proname FROM ({CALLABLE}) p WHERE provolatile = 's' AND pronargs = 0",
            (["pg_catalog"],),
        )
        names = [name for (name,) in cursor.fetchall()]
        for name in names:
            connection.rollback()
            cursor.execute("SET TRANSACTION READ ONLY")
            try:
                cursor.execute(f'SELECT pg_catalog."{name}"()')
            except psycopg2.Error:  # it needs a replica, a trigger or a setting
                continue
            cursor.execute("SELECT pg_current_xact_id_if_assigned()")
            if cursor.fetchone() != (None,):
                takers.append(name)
    assert len(names) > 50
    assert sorted(takers) == ["pg_current_xact_id", "txid_current"]
    assert set(takers) <= set(LISTS["acts"])


@pytest.mark.parametrize("call", ["{}(1)", "pg_catalog.{} ( )", '"{}"(a, b)', "x.y + {}(a)"])
def test_a_function_that_acts_is_refused(call: str) -> None:
    passed = [
        one for one in LISTS["acts"] if examine(f"SELECT {call.format(one)}", "postgresql") is None
    ]
    assert passed == []


def test_a_function_that_reads_is_not_refused() -> None:
    refused = [
        one
        for one in LISTS["reads"]
        if examine(f"SELECT * FROM {one}('app.tenant', 'x', true)", "postgresql") is not None
    ]
    assert refused == []


@pytest.mark.parametrize("name", ["shop_total", "pg_import", "txid_currently", "my_pg_reload_conf"])
def test_a_function_in_neither_list_passes_as_one_of_the_users_does(name: str) -> None:
    assert examine(f"SELECT {name}(1)", "postgresql") is None


@pytest.mark.parametrize("app", ["postgresql"], indirect=True)
def test_what_a_read_only_transaction_lets_act_is_refused_before_it_is_sent(app: App) -> None:
    app.start().on()
    with closing(app.selector.engine().raw_connection()) as raw, raw.cursor() as cursor:
        for call in ("txid_current()", "pg_import_system_collations('pg_catalog')"):
            with pytest.raises(
                ReadOnlyError, match=re.escape(f"{call.partition('(')[0]}() is ref")
            ):
                cursor.execute(f"SELECT {call}")
