"""What makes reads fail on a hot standby, as ``sa-readonly doctor`` sees it: on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from sa_readonly.command.doctor import doctor
from tests.doctor import as_role, has, look, reader, run, shown, the
from tests.postgres import Pair, Server, Standby, wait_until

__all__ = ["reader"]

SETTING = "default_transaction_isolation"


@pytest.fixture
def both(pg_server: Server, pg_standby: Standby) -> Iterator[Pair]:
    """A database as the primary has it, and as the standby has it."""
    url = pg_standby.new_database()
    yield Pair(pg_server.url(str(url.database)), url)
    pg_standby.drop_database(url)


def refused(url: URL, statement: str = "SELECT 1", **options: object) -> str:
    """The SQLSTATE with which the server refuses it, or nothing."""
    engine = create_engine(url, poolclass=NullPool, **options)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    except DBAPIError as error:
        # psycopg2's and psycopg's
        return str(getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlstate", None))
    return ""


def test_unlogged_tables_of_a_standby_are_a_warning(
    pg_server: Server, pg_standby: Standby, both: Pair
) -> None:
    database = str(both.read_write.database)
    pg_server.query("CREATE UNLOGGED TABLE hurried (n integer)", database=database)
    pg_server.query("CREATE TABLE logged (n integer)", database=database)
    pg_standby.catch_up()
    assert refused(both.read_only, "SELECT * FROM hurried") == "0A000"
    finding = the(look(*both), "The read-only database, a standby, has UNLOGGED tables")
    assert finding.severity == "warning"
    assert finding.what.endswith("tables: public.hurried.")
    assert "SET LOGGED" in finding.cure


@pytest.mark.parametrize(
    ("where", "source", "cure", "driver"),
    [
        ("ROLE reader", "user", 'ALTER ROLE "reader" RESET', "asyncpg"),
        ("DATABASE {database}", "database", 'ALTER DATABASE "{database}" RESET', "psycopg2"),
        (
            "ROLE reader IN DATABASE {database}",
            "database user",
            'IN DATABASE "{database}"',
            "psycopg",
        ),
    ],
)
def test_a_default_of_serializable_is_a_warning_on_a_standby(  # noqa: PLR0917  # fixtures
    pg_server: Server,
    pg_standby: Standby,
    both: Pair,
    reader: str,
    where: str,
    source: str,
    cure: str,
    driver: str,
) -> None:
    names = {"database": str(both.read_only.database)}
    pg_server.query(f"ALTER {where.format(**names)} SET {SETTING} = serializable")
    pg_standby.catch_up()
    url = as_role(both.read_only, reader)
    assert refused(url) == "0A000"
    findings = look(both.read_write, url.set(drivername=f"postgresql+{driver}"))
    finding = the(findings, f"{SETTING} is serializable for role reader in the read-only database")
    assert finding.severity == "warning"
    assert f"a standby (source: {source})" in finding.what
    assert cure.format(**names) in finding.cure
    assert "0A000" in finding.meaning


def test_a_default_in_the_url_is_seen(both: Pair) -> None:
    url = both.read_only.update_query_dict({"options": f"-c {SETTING}=serializable"})
    assert refused(url) == "0A000"
    finding = the(look(both.read_write, url), f"{SETTING} is serializable")
    assert "(source: client)" in finding.what
    assert "options in the URL" in finding.cure


def test_a_default_of_the_standbys_own_configuration_is_seen(
    pg_standby: Standby, both: Pair
) -> None:
    file = Path(pg_standby.get_data_directory()) / "postgresql.conf"

    def configure(content: str, value: str) -> None:
        file.write_text(content)
        pg_standby.tool("pg_ctl", "reload", "-D", pg_standby.get_data_directory())
        wait_until(lambda: pg_standby.query(f"SHOW {SETTING}") == [(value,)], "the reload")

    before = file.read_text()
    try:
        configure(f"{before}\n{SETTING} = serializable\n", "serializable")
        assert refused(both.read_only) == "0A000"
        finding = the(look(*both), f"{SETTING} is serializable")
    finally:
        configure(before, "read committed")
    assert "(source: configuration file)" in finding.what
    assert "the standby's configuration file" in finding.cure
    assert not has(look(*both), SETTING)


def test_both_are_no_finding_on_a_primary(pg_server: Server, pg_pair: Pair) -> None:
    database = str(pg_pair.read_only.database)
    pg_server.query("CREATE UNLOGGED TABLE hurried (n integer)", database=database)
    url = pg_pair.read_only.update_query_dict({"options": f"-c {SETTING}=serializable"})
    assert refused(url, "SELECT * FROM hurried") == ""
    findings = look(pg_pair.read_write, url)
    assert not has(findings, SETTING)
    assert not has(findings, "UNLOGGED")


@pytest.mark.parametrize(
    ("level", "driver", "words"),
    [
        ("SERIALIZABLE", "psycopg", "The engine of the read-only database, a standby, has the iso"),
        ("AUTOCOMMIT", "psycopg", f"{SETTING} is serializable"),
        ("REPEATABLE READ", "psycopg", ""),
        # which asks for hstore when it connects
        ("REPEATABLE READ", "psycopg2", f"{SETTING} is serializable"),
    ],
)
def test_an_engines_isolation_level_counts_before_the_default(
    both: Pair, level: str, driver: str, words: str
) -> None:
    url = both.read_only.set(drivername=f"postgresql+{driver}").update_query_dict(
        {"options": f"-c {SETTING}=serializable"}
    )
    assert (refused(url, isolation_level=level) == "0A000") == bool(words)
    findings = look(both.read_write, url, isolation_level=level)
    found = [one.what for one in findings if "SERIALIZABLE" in one.meaning]
    assert len(found) == bool(words)
    assert words in "".join(found)


def test_the_cure_for_psycopg2_is_one(both: Pair) -> None:
    url = both.read_only.update_query_dict({"options": f"-c {SETTING}=serializable"})
    assert refused(url, isolation_level="REPEATABLE READ", use_native_hstore=False) == ""


def test_the_isolation_level_of_the_read_only_engines_is_an_option(both: Pair) -> None:
    urls = ("--read-write", both.read_write, "--read-only", both.read_only)
    done = run(*urls, "--isolation-level", "serializable")
    assert "has the isolation_level SERIALIZABLE" in done.stdout


def test_the_replica_is_examined_as_the_read_only_database_is(both: Pair) -> None:
    url = both.read_only.update_query_dict({"options": f"-c {SETTING}=serializable"})
    findings = look(both.read_write, read_only_replica=shown(url))
    assert the(findings, f"{SETTING} is serializable").what.count(
        "in the read-only replica, a standby"
    )


def test_a_standby_that_wait_would_refuse_is_a_warning(
    pg_server: Server, pg_standby: Standby, both: Pair
) -> None:
    refuses = {
        both.read_write: "The database of --standby is no standby, and replays nothing.",
        both.read_only.set(port=1): "The standby postgresql+psycopg2://postgres@127.0.0.1:1/",
    }
    for url, words in refuses.items():
        done = run("--read-write", both.read_write, "--standby", url)
        assert f"warning  {words}" in done.stdout
        assert done.stdout.count("[standby-refused]") == 1
    environment = {"SA_READONLY_STANDBY_URL": shown(both.read_only)}
    done = CliRunner().invoke(doctor, ["--read-write", shown(both.read_write)], env=environment)
    assert "[standby-accepted]" in done.stdout
    done = CliRunner().invoke(doctor, ["--etcd", "http://127.0.0.1:1"], env=environment)
    assert "Give --read-write URL" in done.stderr
