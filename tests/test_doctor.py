"""``sa-readonly doctor``, on real databases and directories."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import pwd
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import DBAPIError

from sa_readonly.doctor import (
    Finding,
    Mount,
    doctor,
    examine,
    examine_environment,
    examine_file,
    examine_mount,
    grants,
    mounts,
    sqlite_file,
)
from sa_readonly.probe import UnreachableError, reading
from sa_readonly.probe import make_engine as probe
from tests.postgres import MariaDB, Pair, Server, Standby, fresh_pair, server_user, wait_until

ROOT = Path(__file__).parent.parent
SECRET = "s3cr3t p%ss@word"


def shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def look(read_write: URL, read_only: URL | None = None, **more: str) -> list[Finding]:
    return examine(shown(read_write), read_only and shown(read_only), None, **more)


def run(*arguments: str | URL) -> Result:
    return CliRunner().invoke(
        doctor, [shown(one) if isinstance(one, URL) else one for one in arguments]
    )


def dangers(findings: Iterable[Finding]) -> list[str]:
    return [one.what for one in findings if one.severity == "danger"]


def the(findings: Iterable[Finding], words: str) -> Finding:
    """The one finding that has these words."""
    known = list(findings)
    found = [one for one in known if words in one.what]
    assert len(found) == 1, known
    return found[0]


def has(findings: list[Finding], words: str) -> bool:
    return any(words in one.what for one in findings)


def sqlite_database(path: Path, *statements: str) -> URL:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in ("CREATE TABLE thing (n integer)", *statements):
            connection.execute(statement)
        connection.commit()
    return make_url(f"sqlite:///{path}")


def read_only_sqlite(url: URL) -> URL:
    return make_url(f"sqlite:///file:{url.database}?mode=ro&uri=true")


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Be a user without rights for a while, where we are root."""
    if os.geteuid():
        yield
        return
    groups = os.getgroups()
    user = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, 0)
    os.setresuid(user.pw_uid, user.pw_uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can look into, which tmp_path is not."""
    made = Path(tempfile.mkdtemp(prefix="sa-readonly-doctor-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def reader(pg_server: Server) -> Iterator[str]:
    """A role that may do nothing yet."""
    pg_server.query(f"CREATE ROLE reader LOGIN PASSWORD '{SECRET.replace('%', '%%')}'")
    yield "reader"
    for (name,) in pg_server.query("SELECT datname FROM pg_database WHERE datallowconn"):
        pg_server.query("DROP OWNED BY reader", database=name)
    pg_server.query("DROP ROLE reader")


def as_role(url: URL, role: str) -> URL:
    return url.set(username=role, password=SECRET)


# -- PostgreSQL: who may write ---------------------------------------------------------------


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
    assert the(findings, "the same 1 tables").severity == "ok"


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
    findings = look(pg_pair.read_write, replica=shown(pg_pair.read_only))
    assert the(findings, "The replica is writable").severity == "danger"


# -- PostgreSQL: settings, schema, prepared transactions -------------------------------------


def test_the_roles_default_transaction_read_only_is_seen(
    pg_server: Server, pg_pair: Pair, reader: str
) -> None:
    pg_server.query("ALTER ROLE reader SET default_transaction_read_only = on")
    url = as_role(pg_pair.read_only, reader)
    assert the(look(pg_pair.read_write, url), "is on for role reader").severity == "ok"
    swapped = the(look(url, pg_pair.read_write), "is on for role reader")
    assert swapped.severity == "warning"
    assert "source: user" in swapped.what


def test_a_plain_server_honours_start_up_options_and_has_no_pooler(pg_pair: Pair) -> None:
    findings = look(*pg_pair)
    assert the(findings, "The read-only database honours start-up options").severity == "ok"
    assert the(findings, "No pooler is before the read-only database").severity == "ok"


def test_options_of_the_url_are_kept(pg_pair: Pair) -> None:
    url = pg_pair.read_only.update_query_dict({"options": "-c default_transaction_read_only=on"})
    assert has(look(pg_pair.read_write, url), "default_transaction_read_only is on")


def test_tables_and_columns_that_differ_are_named(pg_server: Server, pg_pair: Pair) -> None:
    read_write, read_only = (str(url.database) for url in pg_pair)
    pg_server.query("CREATE TABLE thing (n integer, late text)", database=read_write)
    pg_server.query("CREATE TABLE thing (n integer)", database=read_only)
    pg_server.query("CREATE TABLE only_here (n integer)", database=read_write)
    what = the(look(*pg_pair), "has other tables").what
    assert "public.only_here (can't be seen there)" in what
    assert "public.thing (late text)" in what


def test_migrations_that_differ_are_named(pg_server: Server, pg_pair: Pair) -> None:
    for url, version in zip(pg_pair, ("new", "old"), strict=True):
        database = str(url.database)
        pg_server.query("CREATE TABLE alembic_version (version_num text)", database=database)
        pg_server.query("INSERT INTO alembic_version VALUES (%s)", version, database=database)
    what = the(look(*pg_pair), "The migrations differ").what
    assert "read-write database: public.alembic_version new" in what
    assert "read-only database: public.alembic_version old" in what


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
    assert "left behind of postgres" in finding.what


def test_an_url_of_several_hosts_is_a_warning(pg_pair: Pair) -> None:
    port = pg_pair.read_only.port
    url = pg_pair.read_only.set(host=None, port=None).update_query_pairs(
        [("host", f"127.0.0.1:{port}"), ("host", f"localhost:{port}")]
    )
    assert the(look(pg_pair.read_write, url), "names several hosts").severity == "warning"


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_other_drivers_see_the_same(pg_pair: Pair, driver: str) -> None:
    pytest.importorskip(driver)
    pytest.importorskip("greenlet")
    url = pg_pair.read_only.set(drivername=f"postgresql+{driver}")
    assert look(pg_pair.read_write, url) == look(*pg_pair)


# -- PgBouncer -------------------------------------------------------------------------------


@pytest.fixture
def pgbouncer() -> Path:
    """The program, skipped where it is not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip(
            "NOT TESTED with PgBouncer: it is not installed. Cure: apt-get install pgbouncer."
        )
    return Path(program)


@contextlib.contextmanager
def pooled(program: Path, place: Path, url: URL, mode: str, *settings: str) -> Iterator[URL]:
    """The URL of a database behind a PgBouncer."""
    user = server_user()
    lines = [
        "[databases]",
        f"* = host=127.0.0.1 port={url.port}",
        "[pgbouncer]",
        f"pool_mode = {mode}",
        "auth_type = trust",
        f"auth_file = {place}/users",
        f"unix_socket_dir = {place}",
        "listen_port = 6432",
        *settings,
    ]
    (place / "users").write_text('"postgres" ""\n')
    (place / "pgbouncer.ini").write_text("\n".join(lines))
    shutil.chown(place, user.pw_uid, user.pw_gid)
    drop = {} if os.geteuid() else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with subprocess.Popen(
        [program, place / "pgbouncer.ini"],
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        **drop,
    ) as process:
        try:
            wait_until((place / ".s.PGSQL.6432").exists, "PgBouncer's socket")
            yield url.set(host=None, port=None).update_query_dict(
                {"host": str(place), "port": "6432"}
            )
        finally:
            process.terminate()


def test_pgbouncer_in_transaction_mode_is_recognised(
    pg_pair: Pair, pgbouncer: Path, place: Path
) -> None:
    with pooled(pgbouncer, place, pg_pair.read_only, "transaction") as url:
        findings = look(pg_pair.read_write, url)
        engine = create_engine(url)
        with engine.connect() as connection:
            left = [
                connection.exec_driver_sql(f"SHOW {name}").scalar()
                for name in ("default_transaction_read_only", "statement_timeout")
            ]
        engine.dispose()
    assert left == ["off", "0"], "the doctor left a setting to the next client"
    assert the(findings, "A pooler in transaction mode").severity == "warning"
    assert the(findings, "refuses start-up options").severity == "warning"
    assert has(findings, "are on one server")


def test_pgbouncer_that_drops_start_up_options_is_recognised(
    pg_pair: Pair, pgbouncer: Path, place: Path
) -> None:
    setting = "ignore_startup_parameters = options"
    with pooled(pgbouncer, place, pg_pair.read_only, "session", setting) as url:
        findings = look(pg_pair.read_write, url)
    assert the(findings, "ignores start-up options").severity == "warning"
    assert the(findings, "its mode could not be told").severity == "note"


# -- MariaDB ---------------------------------------------------------------------------------


@pytest.fixture
def account(mariadb: MariaDB) -> Iterator[str]:
    mariadb.query("CREATE USER reader@'%' IDENTIFIED BY 'readers word'")
    yield "reader"
    mariadb.query("DROP USER reader@'%'")


def as_account(url: URL) -> URL:
    return url.set(username="reader", password="readers word")


def test_a_mariadb_account_that_may_write_is_a_danger(
    mariadb: MariaDB, mariadb_pair: Pair, account: str
) -> None:
    mariadb.query(f"GRANT SELECT, INSERT ON `{mariadb_pair.read_only.database}`.* TO reader@'%'")
    findings = look(mariadb_pair.read_write, as_account(mariadb_pair.read_only))
    danger = the(findings, "is writable, and account reader@% may write")
    assert f"INSERT on `{mariadb_pair.read_only.database}`.*" in danger.what
    assert "SET SESSION TRANSACTION READ WRITE" in danger.meaning
    assert has(findings, "are on one server")


def test_a_mariadb_account_that_may_only_select_is_no_danger(
    mariadb: MariaDB, mariadb_pair: Pair, account: str
) -> None:
    mariadb.query("GRANT SELECT ON *.* TO reader@'%'")
    findings = look(mariadb_pair.read_write, as_account(mariadb_pair.read_only))
    assert dangers(findings) == []
    assert the(findings, "may write nothing").severity == "ok"
    assert the(findings, "is a replica could not be told").severity == "note"


def test_a_mariadb_account_may_write_what_its_role_may(
    mariadb: MariaDB, mariadb_pair: Pair, account: str
) -> None:
    database = mariadb_pair.read_only.database
    mariadb.query("CREATE ROLE writer")
    try:
        mariadb.query(f"GRANT DELETE ON `{database}`.* TO writer")
        mariadb.query(f"GRANT SELECT ON `{database}`.* TO reader@'%'")
        mariadb.query("GRANT writer TO reader@'%'")
        (danger,) = dangers(look(mariadb_pair.read_write, as_account(mariadb_pair.read_only)))
        assert "whatever role `writer` may, which can't be told" in danger
        mariadb.query("SET DEFAULT ROLE writer FOR reader@'%'")
        (danger,) = dangers(look(mariadb_pair.read_write, as_account(mariadb_pair.read_only)))
        assert danger.endswith(f"may write into it: DELETE on `{database}`.*.")
    finally:
        mariadb.query("DROP ROLE writer")


def test_a_mariadb_server_that_is_read_only_refuses_accounts_that_can_not_pass(
    mariadb: MariaDB, mariadb_pair: Pair, account: str
) -> None:
    mariadb.query(f"GRANT ALL ON `{mariadb_pair.read_only.database}`.* TO reader@'%'")
    mariadb.query("SET GLOBAL read_only = ON")
    try:
        findings = look(mariadb_pair.read_write, as_account(mariadb_pair.read_only))
        as_root = look(*mariadb_pair)
    finally:
        mariadb.query("SET GLOBAL read_only = OFF")
    assert dangers(findings) == []
    assert the(findings, "refuses each write: its server has read_only=ON").severity == "ok"
    assert has(findings, "The read-write database is a server with read_only=ON")
    assert len(dangers(as_root)) == 1
    assert has(as_root, "may pass or lift it")


def test_mariadb_is_not_written(mariadb: MariaDB, mariadb_pair: Pair) -> None:
    def writes() -> dict[str, str]:
        return {
            name: value
            for name, value in mariadb.query("SHOW GLOBAL STATUS")
            if re.match(r"Com_(insert|update|delete|replace|create|drop|alter|grant|set_)", name)
        }

    before = writes()
    look(*mariadb_pair)
    # SQLAlchemy and PyMySQL set the session's character set and autocommit
    assert {**writes(), "Com_set_option": None} == {**before, "Com_set_option": None}


def test_a_grant_that_is_not_understood_counts_as_a_right_to_write() -> None:
    privileges, _ = grants(["GRANT something new TO `reader`@`%` IDENTIFIED BY PASSWORD '*HASH'"])
    assert [str(one) for one in privileges] == ["what can't be told on a grant of another form"]


def test_grants_of_every_form_are_understood() -> None:
    privileges, roles = grants(
        [
            "GRANT USAGE ON *.* TO `reader`@`%` IDENTIFIED BY PASSWORD '*HASH'",
            "GRANT SELECT, INSERT (`a`, `b`) ON `my shop`.`a table` TO `reader`@`%`",
            "GRANT EXECUTE ON PROCEDURE `shop`.`tidy` TO `reader`@`%`",
            "GRANT `one`@`%`,`two`@`%` TO `reader`@`%`",
            "GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION",
            "SET DEFAULT ROLE `one` FOR `reader`@`%`",
        ]
    )
    assert [str(one) for one in privileges] == [
        "USAGE on *.*",
        "SELECT on `my shop`.`a table`",
        "INSERT on `my shop`.`a table`",
        "EXECUTE on `shop`.`tidy`",
    ]
    assert roles == ["`one`@`%`", "`two`@`%`"]


# -- SQLite ----------------------------------------------------------------------------------


def test_a_writable_sqlite_file_is_a_danger(tmp_path: Path) -> None:
    findings = look(sqlite_database(tmp_path / "rw"), sqlite_database(tmp_path / "ro"))
    danger = the(findings, "is writable, and this process's user may write")
    assert danger.severity == "danger"
    assert "PRAGMA query_only = OFF" in danger.meaning
    assert "mode=ro" in danger.cure
    assert has(findings, "is another one")


def test_mode_ro_on_a_file_that_this_user_may_write_is_a_danger(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    findings = look(url, read_only_sqlite(url))
    assert "ATTACH" in the(findings, "is writable, and this process's user").meaning
    assert has(findings, "is the read-write database itself")


def test_attach_does_get_past_mode_ro(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    engine = create_engine(read_only_sqlite(url))
    with contextlib.closing(engine.raw_connection()) as raw:
        cursor = raw.cursor()
        with pytest.raises(sqlite3.OperationalError, match="readonly database"):
            cursor.execute("INSERT INTO thing VALUES (1)")
        raw.rollback()
        cursor.execute(f"ATTACH '{url.database}' AS other")
        cursor.execute("INSERT INTO other.thing VALUES (1)")
        raw.commit()
    engine.dispose()
    with contextlib.closing(sqlite3.connect(tmp_path / "one")) as connection:
        assert connection.execute("SELECT n FROM thing").fetchall() == [(1,)]


def test_a_sqlite_file_that_this_user_can_not_write_is_no_danger(place: Path) -> None:
    url = sqlite_database(place / "one")
    (place / "one").chmod(0o444)
    with nobody():
        findings = look(url, url)
    assert dangers(findings) == []
    assert the(findings, f"refuses each write: this process's user can't write {place}/one")


def test_a_symlink_to_the_same_sqlite_file_is_recognised(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    (tmp_path / "two").symlink_to("one")
    assert has(look(url, make_url(f"sqlite:///{tmp_path}/two")), "the read-write database itself")


def test_sqlite_tables_that_differ_are_named(tmp_path: Path) -> None:
    one = sqlite_database(tmp_path / "one", "CREATE TABLE alembic_version (version_num text)")
    two = sqlite_database(tmp_path / "two")
    findings = look(one, two)
    assert "alembic_version" in the(findings, "has other tables").what
    assert has(findings, "The migrations differ")


def test_sqlite_in_memory_can_be_looked_at() -> None:
    findings = look(make_url("sqlite://"), make_url("sqlite:///:memory:"))
    assert "in this process's memory" in dangers(findings)[0]
    assert dangers(look(make_url("sqlite://"))) == dangers(look(make_url("sqlite:///:memory:")))


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_nothing_is_written_beside_a_sqlite_file(tmp_path: Path, mode: str) -> None:
    url = sqlite_database(tmp_path / "one", f"PRAGMA journal_mode = {mode}")

    def snapshot() -> dict[str, tuple[int, bytes]]:
        return {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in tmp_path.iterdir()}

    before = snapshot()
    look(url, read_only_sqlite(url))
    assert snapshot() == before


def test_a_sqlite_file_in_use_is_looked_into(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    with contextlib.closing(sqlite3.connect(tmp_path / "one")) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE newer (n integer)")
        connection.commit()
        assert has(look(url, read_only_sqlite(url)), "the same 2 tables")


def test_a_sqlite_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="No such file"):
        look(make_url(f"sqlite:///{tmp_path}/none"))
    assert list(tmp_path.iterdir()) == []


def test_a_uri_needs_uri_true() -> None:
    assert sqlite_file(make_url("sqlite:///file:/a%20b?mode=ro&uri=true")) == (
        "/a b",
        {"mode": "ro", "uri": "true"},
    )
    assert sqlite_file(make_url("sqlite:////a?mode=ro")) == ("/a", {})


# -- the file --------------------------------------------------------------------------------


def test_a_directory_of_roots_is_in_order_for_the_applications_user(place: Path) -> None:
    if os.geteuid():
        pytest.skip("NOT TESTED: only root can make a directory that another user can't write")
    (place / "read-only.txt.workers").mkdir(mode=0o755)
    shutil.chown(place / "read-only.txt.workers", "nobody")
    with nobody():
        findings = [*examine_file(str(place / "read-only.txt"))]
    findings = [one for one in findings if "is on " not in one.what]  # wherever the tests run
    assert {one.severity for one in findings} == {"ok"}, findings
    assert has(findings, "can't change")
    assert the(examine_file(str(place / "read-only.txt")), "can be written by").severity == "note"


def test_an_application_that_can_flip_itself_is_a_note(place: Path) -> None:
    if not os.geteuid():
        shutil.chown(place, "nobody")
    with nobody():
        finding = the(examine_file(str(place / "read-only.txt")), "may make and remove the file")
    assert finding.severity == "note"


def test_a_directory_that_every_user_can_write_is_a_danger(place: Path) -> None:
    place.chmod(0o777)
    (place / "inner").mkdir()
    for path in (place / "read-only.txt", place / "inner" / "read-only.txt"):
        (danger,) = dangers(examine_file(str(path)))
        assert danger == f"Every user of this host may write in {place}."


def test_a_sticky_directory_is_a_warning(place: Path) -> None:
    place.chmod(0o1777)
    findings = [*examine_file(str(place / "read-only.txt"))]
    assert the(findings, "may make files").severity == "warning"
    assert dangers(findings) == []


def test_a_missing_directory_is_a_warning(tmp_path: Path) -> None:
    (finding,) = examine_file(str(tmp_path / "none" / "read-only.txt"))
    assert finding.severity == "warning"
    assert f"{tmp_path}/none" in finding.what


def test_the_mode_now_is_told(tmp_path: Path) -> None:
    path = tmp_path / "read-only.txt"
    assert the(examine_file(str(path)), "is not there.").severity == "ok"
    path.touch()
    assert the(examine_file(str(path)), "is there.").meaning == "The application is read-only now."
    path.unlink()
    path.symlink_to("nowhere")
    assert the(examine_file(str(path)), "is no regular file").severity == "warning"


def test_a_symlink_as_workers_directory_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "read-only.txt.workers").symlink_to("elsewhere")
    assert the(examine_file(str(tmp_path / "read-only.txt")), "is a symlink").severity == "warning"


def test_a_workers_directory_of_somebody_elses_is_a_warning(place: Path) -> None:
    workers = place / "read-only.txt.workers"
    workers.mkdir()
    if os.geteuid():
        workers.chmod(0o777)
    else:
        shutil.chown(workers, "daemon")
    with nobody():
        findings = [*examine_file(str(place / "read-only.txt"))]
    assert the(findings, "can be written by").severity == "warning"


def test_a_workers_directory_elsewhere_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir(mode=0o700)
    findings = [*examine_file(str(tmp_path / "read-only.txt"), str(tmp_path / "reports"))]
    assert the(findings, f"{tmp_path}/reports").severity == "ok"


def test_looking_at_the_file_changes_no_directory(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    examine_file(str(tmp_path / "read-only.txt"))
    assert tmp_path.stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == []


def test_a_bind_mounted_file_is_a_warning(place: Path) -> None:
    for name in ("source", "read-only.txt"):
        (place / name).touch()
    code = (
        "from sa_readonly.doctor import examine_file;"
        f"print([one.what for one in examine_file('{place}/read-only.txt')])"
    )
    done = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c"),
            'mount --bind "$1/source" "$1/read-only.txt" && shift && exec "$@"',
            *("sh", str(place), sys.executable, "-c", code),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"NOT TESTED with a bind-mounted file: {done.stderr.strip()}")
    assert "is itself a mount" in done.stdout, done.stderr


def test_a_config_map_mounted_as_a_sub_path_is_a_warning() -> None:
    text = (
        "100 90 8:1 /var/lib/kubelet/pods/0a/volumes/kubernetes.io~configmap/switch/..2026_11_22_1/"
        "x /etc/my\\040app ro,relatime master:1 - ext4 /dev/sda1 rw\n"
        "90 1 0:40 / / rw,relatime - overlay overlay rw\n"
    )
    assert mounts(text)[0].place == "/etc/my app"
    (finding,) = examine_mount("/etc/my app/read-only.txt", mounts(text))
    assert finding.what == "/etc/my app is a subPath of a volume."


@pytest.mark.parametrize("kind", ["nfs4", "tmpfs", "overlay"])
def test_file_systems_that_cache_forget_or_are_not_shared_are_a_warning(kind: str) -> None:
    known = [Mount("/", "/", "ext4"), Mount("/", "/no/such/place", kind)]
    (finding,) = examine_mount("/no/such/place/read-only.txt", known)
    assert finding.severity == "warning"
    assert finding.what.endswith(f"is on {kind}.")


def test_a_forced_mode_is_found() -> None:
    (danger,) = examine_environment({"SA_READONLY_FORCE": "read-write"})
    assert danger.severity == "danger"
    assert examine_environment({}) == []


# -- the command -----------------------------------------------------------------------------


def test_the_exit_code_is_1_where_a_write_could_get_through(pg_pair: Pair) -> None:
    done = run("--read-write", pg_pair.read_write, "--read-only", pg_pair.read_only)
    assert done.exit_code == 1
    assert done.stdout.startswith("danger   The read-only database is writable")
    assert "A write could reach a database while read-only (1 danger" in done.stdout


def test_the_exit_code_is_0_where_none_could(pg_server: Server, pg_standby: Standby) -> None:
    done = run("--read-write", pg_server.url(), "--read-only", pg_standby.url())
    assert done.exit_code == 0
    assert "No way was found" in done.stdout


def test_a_database_that_can_not_be_reached_is_one_sentence_and_exit_code_2() -> None:
    done = run("--read-write", "postgresql+psycopg2://me:hush@127.0.0.1:1/shop")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "The read-write database postgresql+psycopg2://me@127.0.0.1:1/shop can't be looked at: "
    )
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.output


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_no_driver_shows_a_traceback(pg_server: Server, driver: str) -> None:
    pytest.importorskip(driver)
    pytest.importorskip("greenlet")
    for url in (
        pg_server.url("nothing", driver),
        pg_server.url(driver=driver).set(port=1),
        pg_server.url(driver=driver).update_query_dict({"no_such_key": "x"}),
    ):
        done = run("--read-write", url)
        assert done.exit_code == 2, done.exception
        assert done.stderr.startswith("The read-write database ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--read-write", "postgresql://me:hush@host:port/shop"),
        ("--read-write", "mysql+pymysql://me:hush@127.0.0.1:1/shop?no_such_key=x"),
        ("--read-write", "no url"),
        ("--read-write", "nosuch://me:hush@host/shop"),
        ("--read-write", "sqlite:///no/such/file"),
        ("--config", "/no/such/file"),
    ],
)
def test_what_can_not_be_done_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr
    assert "hush" not in done.output
    assert "Traceback" not in done.output


def test_json_has_the_worst_severity_and_every_finding(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    done = run("--read-write", url, "--file", str(tmp_path / "read-only.txt"), "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 1
    assert set(told) == {"severity", "findings"}
    assert told["severity"] == "danger"
    assert all(set(one) == {"severity", "what", "meaning", "cure"} for one in told["findings"])
    severities = [one["severity"] for one in told["findings"]]
    assert severities == sorted(severities, key=["danger", "warning", "note", "ok"].index)


def test_on_a_terminal_there_is_a_table(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    parent, child = pty.openpty()
    with subprocess.Popen(
        [
            *(sys.executable, "-c", "from sa_readonly.doctor import doctor; doctor()"),
            *("--read-write", shown(url)),
        ],
        cwd=ROOT,
        stdout=child,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(child)
        told = b""
        with contextlib.suppress(OSError):  # the terminal's other end was closed
            while more := os.read(parent, 4096):
                told += more
    os.close(parent)
    assert process.returncode == 1
    for words in ("What it means", "Cure", "danger", "┃"):
        assert words in told.decode()


def test_no_password_is_ever_printed(pg_server: Server, pg_pair: Pair, reader: str) -> None:
    urls = [
        as_role(pg_pair.read_write, reader),
        as_role(pg_pair.read_write, "nobody_there"),
        as_role(pg_pair.read_write, reader).set(port=1),
        as_role(pg_pair.read_write, reader).set(host="no.such.host.invalid"),
        pg_pair.read_write.set(port=1).update_query_dict({"password": SECRET, "sslmode": "wrong"}),
        make_url(f"mysql+pymysql://me:{SECRET.replace('@', '%40')}@127.0.0.1:1/x"),
    ]
    for url in urls:
        for more in ((), ("--json",)):
            done = run("--read-write", url, "--read-only", url, *more)
            assert done.exit_code in (0, 1, 2)
            assert not done.exception or isinstance(done.exception, SystemExit)
            for form in (SECRET, "s3cr3t", shown(url)):
                assert form not in done.output


def configuration(kind: str, url: str, directory: Path) -> str:
    if kind == "json":
        return json.dumps(
            {"sa_readonly": {"file": f"{directory}/flag", "read_write": {"primary": {"url": url}}}}
        )
    if kind == "toml":
        return f'[sa_readonly]\nfile = "{directory}/flag"\nread_write.primary.url = "{url}"\n'
    return (
        "[loggers]\nkeys = root\n[app:main]\nsa_readonly.file = %(here)s/flag\n"
        f"sa_readonly.read_write.primary.url = {url}\n"
    )


@pytest.mark.parametrize("kind", ["ini", "json", "toml"])
def test_a_configuration_file_gives_urls_and_the_file(tmp_path: Path, kind: str) -> None:
    if kind == "toml" and sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    url = shown(sqlite_database(tmp_path / "one"))
    config = tmp_path / f"app.{kind}"
    config.write_text(configuration(kind, f"{url}?timeout=%35", tmp_path))
    done = run("--config", str(config))
    assert done.exit_code == 1, done.output
    assert f"{tmp_path}/flag is not there" in done.stdout


def test_a_configuration_that_can_not_be_read_shows_no_line_of_it(tmp_path: Path) -> None:
    for name in ("app.ini", "app.json"):
        config = tmp_path / name
        config.write_text("sa_readonly.read_write.primary.url postgresql://me:hush@host/shop")
        done = run("--config", str(config))
        assert done.exit_code == 2
        assert name in done.stderr
        assert "hush" not in done.output


def test_a_configuration_without_the_keys_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "app.ini").write_text("[app]\nkey = value\n")
    assert (
        "no key that begins with sa_readonly." in run("--config", str(tmp_path / "app.ini")).stderr
    )


# -- nothing is written ----------------------------------------------------------------------

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
