"""``sa-readonly doctor`` on PostgreSQL, where it writes nothing."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from sa_readonly.command.probe import make_engine as probe
from sa_readonly.command.probe import reading
from tests.doctor import as_role, dangers, look, reader, shown, the
from tests.postgres import Pair, Server, Standby, fresh_pair, wait_until

__all__ = ["reader"]  # a fixture


# -- who may write ----------------------------------------------------------------------------


def test_a_writable_read_only_database_with_a_writing_role_is_a_danger(
    pg_server: Server, pg_pair: Pair, reader: str
) -> None:
    pg_server.query("CREATE TABLE thing (n integer)", database=pg_pair.read_only.database)
    pg_server.query("GRANT INSERT ON thing TO reader", database=pg_pair.read_only.database)
    findings = look(pg_pair.read_write, as_role(pg_pair.read_only, reader))
    danger = the(findings, "is writable, and role reader may write into it")
    assert danger.severity == "danger"
    assert "table public.thing" in danger.what
    assert "SET TRANSACTION READ WRITE; INSERT" in danger.meaning
    assert "only SELECT" in danger.cure


def test_what_the_danger_names_does_get_through(pg_pair: Pair) -> None:
    engine = create_engine(
        pg_pair.read_only, connect_args={"options": "-c default_transaction_read_only=on"}
    ).execution_options(postgresql_readonly=True)
    with contextlib.closing(engine.raw_connection()) as raw:
        cursor = raw.cursor()
        cursor.execute("SET TRANSACTION READ WRITE; CREATE TABLE through (n integer)")
        raw.commit()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM through").scalar() == 0
    engine.dispose()


def test_a_role_that_may_only_select_is_no_danger(
    pg_server: Server, pg_pair: Pair, reader: str
) -> None:
    for url in pg_pair:
        pg_server.query("CREATE TABLE thing (n integer)", database=url.database)
        pg_server.query("GRANT SELECT ON thing TO reader", database=url.database)
    findings = look(pg_pair.read_write, as_role(pg_pair.read_only, reader))
    assert dangers(findings) == []
    assert the(findings, "Role reader may write nothing").severity == "ok"
    assert the(findings, "large objects").severity == "note"
    assert the(findings, "has the 1 tables").severity == "ok"


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("GRANT UPDATE (n) ON thing TO reader", "table public.thing"),
        ("GRANT TRUNCATE ON thing TO reader", "table public.thing"),
        ("GRANT USAGE ON SEQUENCE numbers TO reader", "sequence public.numbers"),
        ("ALTER TABLE thing OWNER TO reader", "table public.thing"),
        ("GRANT CREATE ON SCHEMA public TO reader", "may create tables in schema public"),
        ("GRANT CREATE ON DATABASE {database} TO reader", "may create schemas"),
        ("GRANT pg_write_all_data TO reader", "is a member of pg_write_all_data"),
        ("GRANT INSERT ON thing TO PUBLIC", "table public.thing"),
        ("ALTER ROLE reader CREATEROLE", "may create roles"),
        ("ALTER ROLE reader SUPERUSER", "is superuser"),
    ],
)
def test_every_way_in_which_a_role_may_write_is_named(
    pg_server: Server, pg_pair: Pair, reader: str, statement: str, named: str
) -> None:
    database = pg_pair.read_only.database
    pg_server.query("CREATE TABLE thing (n integer)", database=database)
    pg_server.query("CREATE SEQUENCE numbers", database=database)
    pg_server.query(statement.format(database=database), database=database)
    (danger,) = dangers(look(pg_pair.read_write, as_role(pg_pair.read_only, reader)))
    assert named in danger


def test_a_role_that_may_become_another_one_may_write_what_that_one_may(
    pg_server: Server, pg_pair: Pair, reader: str
) -> None:
    database = pg_pair.read_only.database
    pg_server.query("CREATE ROLE writer")
    try:
        pg_server.query("CREATE TABLE thing (n integer)", database=database)
        pg_server.query("GRANT INSERT ON thing TO writer", database=database)
        pg_server.query("ALTER ROLE reader NOINHERIT")
        pg_server.query("GRANT writer TO reader")
        (danger,) = dangers(look(pg_pair.read_write, as_role(pg_pair.read_only, reader)))
        assert "table public.thing" in danger
    finally:
        pg_server.query("DROP OWNED BY writer", database=str(database))
        pg_server.query("DROP ROLE writer")


def test_functions_with_their_owners_rights_are_a_warning(
    pg_server: Server, pg_pair: Pair, reader: str
) -> None:
    pg_server.query(
        "CREATE FUNCTION add_one() RETURNS integer LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        database=pg_pair.read_only.database,
    )
    findings = look(pg_pair.read_write, as_role(pg_pair.read_only, reader))
    assert dangers(findings) == []
    assert "add_one()" in the(findings, "run with their owner's rights").what


def test_a_function_can_write_past_a_read_only_transaction_with_dblink(
    pg_server: Server, pg_pair: Pair, reader: str
) -> None:
    database = str(pg_pair.read_only.database)
    if not pg_server.query("SELECT 1 FROM pg_available_extensions WHERE name = 'dblink'"):
        pytest.skip("NOT TESTED with dblink: this server does not have it")
    pg_server.query("CREATE EXTENSION dblink", database=database)
    pg_server.query("CREATE TABLE thing (n integer)", database=database)
    there = f"host=127.0.0.1 port={pg_server.port} user=postgres dbname={database}"
    pg_server.query(
        "CREATE FUNCTION note_it() RETURNS text LANGUAGE sql AS "
        f"$$ SELECT dblink_exec('{there}', 'INSERT INTO thing VALUES (1)') $$",
        database=database,
    )
    engine = create_engine(pg_pair.read_only).execution_options(postgresql_readonly=True)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT note_it()")
    engine.dispose()
    assert pg_server.query("SELECT n FROM thing", database=database) == [(1,)]
    findings = look(pg_pair.read_write, as_role(pg_pair.read_only, reader))
    finding = the(findings, "reach out of the read-only database")
    assert finding.severity == "warning"
    assert "note_it()" in finding.what


def test_a_standby_is_no_danger_whatever_the_role_may(
    pg_server: Server, pg_standby: Standby
) -> None:
    url = pg_standby.new_database()
    findings = look(pg_server.url(str(url.database)), url)
    assert dangers(findings) == []
    assert the(findings, "refuses each write: it is a standby").severity == "ok"
    assert "standby of the read-write server" in the(findings, "is another one").meaning
    assert the(findings, "superuser on the read-only database, a standby").severity == "warning"
    assert the(findings, "once it is promoted").severity == "note"
    pg_standby.drop_database(url)


def test_a_standby_given_as_the_read_write_database_is_a_warning(
    pg_server: Server, pg_standby: Standby
) -> None:
    findings = look(pg_standby.url(), pg_server.url())
    assert "swapped" in the(findings, "The read-write database is a standby").cure
    assert len(dangers(findings)) == 1


def test_a_promoted_standby_is_a_copy_that_goes_its_own_way(
    pg_server: Server,
) -> None:
    with pg_server.standby() as promoted:
        promoted.promote()
        findings = look(pg_server.url(), promoted.url())
    assert "goes its own way" in the(findings, "is another one").meaning
    assert len(dangers(findings)) == 1


def test_the_same_database_under_another_name_is_recognised(
    pg_server: Server, pg_pair: Pair, reader: str
) -> None:
    same = as_role(pg_pair.read_write, reader).set(host="localhost")
    assert the(look(pg_pair.read_write, same), "is the read-write database itself")


def test_two_databases_of_one_server_are_told_apart(pg_pair: Pair) -> None:
    assert the(look(*pg_pair), "are on one server")


def test_without_a_read_only_database_the_read_write_one_is_examined(pg_pair: Pair) -> None:
    findings = look(pg_pair.read_write)
    assert the(findings, "No read-only database is given").severity == "note"
    assert "that is to be left alone" in the(findings, "is writable").meaning
    assert len(dangers(findings)) == 1


def test_a_replica_is_examined_too(pg_pair: Pair) -> None:
    findings = look(pg_pair.read_write, read_only_replica=shown(pg_pair.read_only))
    assert the(findings, "The read-only replica is writable").severity == "danger"


# -- settings, schema, prepared transactions --------------------------------------------------


def test_the_roles_default_transaction_read_only_is_seen(
    pg_server: Server, pg_pair: Pair, reader: str
) -> None:
    pg_server.query("ALTER ROLE reader SET default_transaction_read_only = on")
    url = as_role(pg_pair.read_only, reader)
    assert the(look(pg_pair.read_write, url), "is on for role reader").severity == "ok"
    swapped = the(look(url, pg_pair.read_write), "is on for role reader")
    assert swapped.severity == "warning"
    assert "source: user" in swapped.what


def test_missing_tables_are_named(pg_server: Server, pg_pair: Pair) -> None:
    read_write, read_only = (str(url.database) for url in pg_pair)
    pg_server.query("CREATE TABLE only_here (n integer)", database=read_write)
    pg_server.query("CREATE TABLE only_there (n integer)", database=read_only)
    finding = the(look(*pg_pair), "lacks tables")
    assert finding.severity == "warning"
    assert finding.what.endswith("of the read-write database: public.only_here.")


def test_tables_that_the_role_can_not_read_are_named(
    pg_server: Server, pg_pair: Pair, reader: str
) -> None:
    pg_server.query("CREATE TABLE thing (n integer)", database=pg_pair.read_only.database)
    findings = look(pg_pair.read_write, as_role(pg_pair.read_only, reader))
    assert "public.thing" in the(findings, "Role reader can't read").what


def test_prepared_transactions_are_named(pg_server: Server, pg_pair: Pair) -> None:
    engine = create_engine(pg_pair.read_write)
    with engine.connect() as connection:
        transaction = connection.begin_twophase("left behind")
        connection.exec_driver_sql("CREATE TABLE thing (n integer)")
        transaction.prepare()
        finding = the(look(*pg_pair), "has prepared transactions")
        transaction.rollback()
    engine.dispose()
    assert finding.severity == "warning"
    assert "'left behind' of role postgres" in finding.what
    assert "ROLLBACK PREPARED 'left behind'" in finding.cure


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_other_drivers_see_the_same(pg_pair: Pair, driver: str) -> None:
    pytest.importorskip(driver)
    pytest.importorskip("greenlet")
    url = pg_pair.read_only.set(drivername=f"postgresql+{driver}")
    assert look(pg_pair.read_write, url) == look(*pg_pair)


# -- nothing is written -----------------------------------------------------------------------


READS = {"BEGIN", "SET TRANSACTION READ ONLY", "SET LOCAL", "SELECT", "WITH", "SHOW", "SAVEPOINT"}
ENDS = {"ROLLBACK", "COMMIT", "RELEASE"}


def test_postgresql_sees_reads_only_and_gives_out_no_transaction_number() -> None:
    arguments = Server.DEFAULT_SETTINGS["postgres_args"] + " -c autovacuum=off"
    with Server.launch(postgres_args=arguments) as server, fresh_pair(server) as pair:

        def state() -> list[object]:
            # a transaction that writes anything gets a number
            return [
                *server.query("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"),
                *server.query("SELECT setdatabase, setrole, setconfig FROM pg_db_role_setting"),
            ]

        server.query("CREATE TABLE thing (n integer)", database=pair.read_write.database)
        server.query("ALTER SYSTEM SET log_statement = 'all'")
        server.query("SELECT pg_reload_conf()")
        wait_until(lambda: server.query("SHOW log_statement") == [("all",)], "the reload")
        (log,) = Path(server.base_dir).glob("*.log")
        before, offset = state(), len(log.read_text())
        look(*pair)
        text = log.read_text()[offset:]
        assert state() == before
    statements = [one.strip() for one in re.findall(r"LOG:  statement: \s*(.+)", text)]
    assert len(statements) > 20
    for statement in statements:
        assert statement.upper().startswith(tuple(READS | ENDS)), statement


def test_the_looks_transactions_are_read_only(pg_pair: Pair) -> None:
    engine = probe(pg_pair.read_write)
    with reading(engine) as connection:
        with pytest.raises(DBAPIError) as caught:
            connection.exec_driver_sql("CREATE TABLE thing (n integer)")
        assert caught.value.orig is not None
        assert caught.value.orig.pgcode == "25006"
    engine.dispose()
