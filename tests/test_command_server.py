"""`sa-readonly wait --read-write`: what real servers say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pymysql
import pytest
import sqlalchemy
from click.testing import Result
from sqlalchemy import URL, make_url

from sa_readonly import FileSwitch, Mode
from sa_readonly.command.obstacles import Obstacle, Reply, one_line
from sa_readonly.command.server import Server as Asked
from sa_readonly.command.server import ServerError
from sa_readonly.command.server_mysql import _in_transaction
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import Report
from tests.app import once
from tests.postgres import MariaDB, Pair, Server, Standby, wait_until
from tests.test_command_on_off import command, refused, running
from tests.test_mysql_docs import servers

__all__ = ["servers"]  # a fixture

SECRET = "s3cr3t"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def ask(url: URL, standby: URL | None = None) -> Reply:
    return Asked(shown(url), standby and shown(standby)).ask()


def settled(server: Asked, seconds: float = 60) -> Reply:
    """Its answer once it has no obstacle."""
    wait_until(lambda: server.ask().agrees, "the server agrees", seconds)
    return server.ask()


@contextmanager
def session(url: URL, name: str = "shop", *statements: str) -> Iterator[Any]:
    """Somebody's session, in a transaction if there are statements."""
    connection = psycopg2.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        dbname=url.database,
        application_name=name,
    )
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        yield connection
    finally:
        connection.close()


@contextmanager
def thread(url: URL, **options: Any) -> Iterator[Any]:
    """Somebody's session on MariaDB."""
    options = {"user": "root", "database": url.database, **options}
    connection = pymysql.connect(host=url.host, port=url.port, **options)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """The file, and one worker, which is drained."""
    path = tmp_path / "read-only.txt"
    path.touch()
    switch = FileSwitch(path)
    entry = DirectoryRegistry(f"{path}.workers").register(switch.identify)
    entry.closed()
    entry.report(lambda: Report(Mode.READ_ONLY, switch.identify(), watching=True))
    yield path
    entry.close()


def waited(file: Path, *arguments: str | URL) -> Result:
    given = [shown(one) if isinstance(one, URL) else one for one in arguments]
    return command("wait", "--file", file, *given)


# -- PostgreSQL ------------------------------------------------------------------------------


def test_where_nobody_else_is_the_server_agrees(file: Path, pg_pair: Pair) -> None:
    with session(pg_pair.read_only):  # another database of that server
        done = waited(file, "--read-write", pg_pair.read_write)
    assert done.exit_code == 0, done.output
    assert re.search(
        r"^drained after .* s: 1 worker; the server agrees: no session, no prepared transaction",
        done.stdout,
    )


def test_each_session_is_told_with_what_ends_it(pg_server: Server, pg_pair: Pair) -> None:
    url = pg_pair.read_write
    with session(url, "idle"), session(url, "busy", "CREATE TABLE thing (n int)") as busy:
        pid = busy.get_backend_pid()
        idle, one = ask(url).obstacles
        assert (idle.application_name, idle.state) == ("idle", "idle")
        assert (one.kind, one.pid, one.user) == ("session", pid, "postgres")
        assert (one.application_name, one.state) == ("busy", "idle in transaction")
        assert (one.query, one.ends) == (
            "CREATE TABLE thing (n int)",
            f"SELECT pg_terminate_backend({pid})",
        )
        assert one.age is not None
        assert 0 <= one.age < 60
        assert re.fullmatch(
            rf"session {pid} of role postgres, application_name busy, from 127\.0\.0\.1: "
            r"idle in transaction since \d+ s, connected \d+ s ago",
            one.what,
        )
        pg_server.query(one.ends)
        wait_until(lambda: len(ask(url).obstacles) == 1, "the other one is left")


def test_it_waits_until_the_last_session_has_gone(file: Path, pg_pair: Pair) -> None:
    url = shown(pg_pair.read_write)
    with (
        session(pg_pair.read_write, "psql") as other,
        running("wait", "--read-write", url, "--file", file, **PIPES) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"session {other.get_backend_pid()} of ")
        assert "pg_terminate_backend" in process.stdout.readline()
        assert "from this same database" in process.stdout.readline()
        assert "failover_on_backend_shutdown" in process.stdout.readline()
        assert ", but the server disagrees after" in process.stdout.readline()
        other.close()
        stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    assert stdout.startswith("drained after ")
    assert stdout.count("\n") == 1


def test_when_it_still_disagrees_it_exits_with_4_and_says_who_is_there(
    file: Path, pg_server: Server, pg_pair: Pair
) -> None:
    url = pg_pair.read_write
    with session(url, "cron") as other:
        other.tpc_begin("one's")
        with other.cursor() as cursor:
            cursor.execute("CREATE TABLE thing (n int)")
        other.tpc_prepare()
        done = waited(file, "--timeout", "0", "--read-write", url)
        assert done.exit_code == 4
        lines = done.stdout.splitlines()
        assert lines[-1].startswith("the workers are drained, but the server disagrees after ")
        assert lines[-1].endswith(" s: 1 session, 1 prepared transaction")
        assert "  to end it: ROLLBACK PREPARED 'one''s'" in lines
        assert f"{file} stays: " in done.stderr
        done = waited(file, "--timeout", "0", "--json", "--read-write", url)
        answer = json.loads(done.stdout)
        assert (done.exit_code, answer["code"]) == (4, 4)
        assert (answer["drained"], answer["holds"]) == (True, False)
        assert [one["kind"] for one in answer["server"]["obstacles"]] == [
            "session",
            "prepared transaction",
        ]
        other.close()
    wait_until(lambda: len(ask(url).obstacles) == 1, "the session has gone")
    (prepared,) = ask(url).obstacles
    with session(url) as other:
        other.autocommit = True
        other.cursor().execute(prepared.ends)
    settled(Asked(shown(url)))


def test_a_role_that_may_not_see_others_is_told_that_they_are_there(
    pg_server: Server, pg_pair: Pair
) -> None:
    pg_server.query(f"CREATE ROLE modest LOGIN PASSWORD '{SECRET}'")
    try:
        url = pg_pair.read_write.set(username="modest", password=SECRET)
        with session(pg_pair.read_write, "other", "SELECT 1") as other:
            (one,) = ask(url).obstacles
            assert (one.pid, one.query) == (other.get_backend_pid(), None)
            assert one.state == "its state is hidden: GRANT pg_read_all_stats to your role"
    finally:
        pg_server.query("DROP ROLE modest")


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_it_asks_over_each_driver_and_by_a_name_of_its_own(
    pg_server: Server, pg_pair: Pair, driver: str
) -> None:
    url = pg_pair.read_write.set(drivername=f"postgresql+{driver}")
    assert settled(Asked(shown(url))).notes == []
    # It is not itself among those that it sees: it looked several times.
    assert ask(url).agrees


def test_what_a_subscription_writes_counts_and_a_walsender_does_not() -> None:
    server: Server = Server.launch(
        postgres_args=Server.DEFAULT_SETTINGS["postgres_args"] + " -c wal_level=logical"
    )
    try:
        source, target = server.new_database(), server.new_database()
        for url in (source, target):
            server.query("CREATE TABLE thing (n int)", database=str(url.database))
        server.query("CREATE PUBLICATION p FOR TABLE thing", database=str(source.database))
        server.query(
            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
            database=str(source.database),
        )
        with session(target) as other:
            other.autocommit = True
            other.cursor().execute(
                f'CREATE SUBSCRIPTION "the sub" CONNECTION \'host=127.0.0.1 port={server.port} '
                f"user=postgres dbname={source.database}' PUBLICATION p "
                "WITH (create_slot=false, slot_name='s')"
            )
        answer = wait_until(
            lambda: next((a for a in [ask(source)] if "1 walsender" in a.notes), None),
            "a walsender",
        )
        assert answer.agrees
        one = wait_until(
            lambda: next((o for o in ask(target).obstacles if "subscribes" in o.what), None),
            "the subscription",
        )
        assert one.ends == 'ALTER SUBSCRIPTION "the sub" DISABLE'
        server.query(one.ends, database=str(target.database))
        settled(Asked(shown(target)))
    finally:
        server.stop()


# -- a standby -------------------------------------------------------------------------------


@pytest.fixture
def standby(pg_server: Server) -> Iterator[Standby]:
    """A standby whose replay may be paused."""
    made = pg_server.standby()
    yield made
    made.stop()


def test_with_a_standby_it_waits_until_everything_is_replayed(
    file: Path, pg_server: Server, standby: Standby, pg_pair: Pair
) -> None:
    standby.catch_up()
    there = standby.url(str(pg_pair.read_write.database))
    given = ("--read-write", pg_pair.read_write, "--standby", there)
    standby.query("SELECT pg_wal_replay_pause()")
    name = str(pg_pair.read_write.database)
    pg_server.query("CREATE TABLE thing AS SELECT generate_series(1, 1000)", database=name)
    done = waited(file, "--timeout", "0.5", *given)
    assert done.exit_code == 4, done.output
    assert re.search(
        r" s: the standby has yet to replay \d+ bytes, and is paused$", done.stdout.strip()
    )
    assert "to end it: SELECT pg_wal_replay_resume()" in done.stdout
    standby.query("SELECT pg_wal_replay_resume()")
    done = waited(file, *given)
    assert done.exit_code == 0, done.output
    assert "no prepared transaction, everything replayed" in done.stdout
    assert standby.query("SELECT count(*) FROM thing", database=name) == [(1000,)]


def test_what_was_committed_without_waiting_for_the_disk_is_waited_for_too(
    pg_server: Server, standby: Standby, pg_pair: Pair
) -> None:
    name = str(pg_pair.read_write.database)
    pg_server.query("CREATE TABLE thing (n int)", database=name)
    standby.catch_up()
    server = Asked(shown(pg_pair.read_write), shown(standby.url(name)))
    for n in range(5):
        with session(pg_pair.read_write, "hasty", "SET synchronous_commit = off") as hasty:
            hasty.cursor().execute(f"INSERT INTO thing VALUES ({n})")
            hasty.commit()
        assert settled(server).replayed
        assert standby.query("SELECT max(n) FROM thing", database=name) == [(n,)]
        server.check()


def test_what_a_session_commits_that_comes_once_all_had_gone_is_waited_for_too(
    pg_server: Server, standby: Standby, pg_pair: Pair
) -> None:
    name = str(pg_pair.read_write.database)
    pg_server.query("CREATE TABLE thing (n int)", database=name)
    standby.catch_up()
    server = Asked(shown(pg_pair.read_write), shown(standby.url(name)))
    assert settled(server).replayed
    standby.query("SELECT pg_wal_replay_pause()")
    with session(pg_pair.read_write, "late") as late:
        late.cursor().execute("INSERT INTO thing VALUES (1)")
        late.commit()
        assert "session" in [one.kind for one in server.ask().obstacles]
    wait_until(lambda: "session" not in [one.kind for one in server.ask().obstacles], "its end")
    assert [one.kind for one in server.ask().obstacles] == ["standby"]
    standby.query("SELECT pg_wal_replay_resume()")
    wait_until(lambda: server.ask().replayed, "the standby")


def test_a_standby_that_is_none_is_refused_before_anything_is_changed(
    tmp_path: Path, pg_server: Server, pg_standby: Standby, pg_pair: Pair
) -> None:
    file = tmp_path / "read-only.txt"
    rw, ro = shown(pg_pair.read_write), shown(pg_pair.read_only)
    on = ("on", "--wait", "--file", file)
    said = refused(command(*on, "--read-write", rw, "--standby", ro), 2)
    assert said.startswith("The database of --standby is no standby, and replays nothing.")
    pg_standby.catch_up()
    there = shown(pg_standby.url(str(pg_pair.read_write.database)))
    said = refused(command(*on, "--read-write", there), 2)
    assert said.startswith("The database of --read-write is a standby, into which nobody writes.")
    other: Server = Server.launch()
    try:
        said = refused(command(*on, "--read-write", shown(other.url()), "--standby", there), 2)
        assert said.startswith("The database of --standby is a standby of another server.")
    finally:
        other.stop()
    assert not file.exists()


# -- what can't be asked ---------------------------------------------------------------------


def test_a_server_that_cannot_be_reached_is_refused_before_anything_is_changed(
    tmp_path: Path, pg_pair: Pair
) -> None:
    file = tmp_path / "read-only.txt"
    url = pg_pair.read_write.set(port=1, password=SECRET)
    said = refused(command("on", "--wait", "--file", file, "--read-write", shown(url)), 2)
    assert said.startswith("The read-write database postgresql+psycopg2://postgres@127.0.0.1:1/")
    assert SECRET not in said
    assert "?." not in said
    assert said.endswith(
        "accepting TCP/IP connections? Nothing was changed: the mode stays as it is. `sa-readonly "
        "on` without --wait, or without that URL, turns it read-only all the same."
    )
    assert not file.exists()


def test_a_server_that_stops_answering_in_between_is_an_obstacle(file: Path) -> None:
    server: Server = Server.launch()
    asked = Asked(shown(server.url().set(password=SECRET)))
    asked.check()
    server.stop()
    (one,) = asked.ask().obstacles
    assert one.kind == "question"
    assert "can't be asked: " in one.what
    assert SECRET not in one.what
    assert asked.ask().sums == one.what


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["--read-write", "sqlite:///x.db"],
            "Only a server of PostgreSQL, MariaDB or MySQL can be asked, not sqlite.",
        ),
        (["--read-write", "s3cr3t"], "The --read-write URL can't be read."),
        (
            ["--read-write", "mysql+pymysql://h/d", "--standby", "postgresql://h/d"],
            "A standby that is postgresql can't be compared with a database of mysql.",
        ),
        (
            ["--read-write", "postgresql+nosuch://h/d"],
            "The driver of postgresql+nosuch://h/d is not installed here.",
        ),
    ],
)
def test_databases_that_cannot_be_asked_are_a_usage_error(
    file: Path, arguments: list[str], error: str
) -> None:
    said = refused(waited(file, *arguments), 2)
    assert said.startswith(error)
    assert SECRET not in said


def test_a_driver_that_is_missing_is_named_as_sqlalchemy_chooses_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make_url("postgresql://").get_driver_name()  # psycopg2, and psycopg from 2.1 on
    monkeypatch.setitem(sys.modules, driver, None)
    said = refused(waited(file, "--read-write", f"postgresql://u:{SECRET}@h/d"), 2)
    assert said.startswith(
        "The driver of postgresql://u@h/d is not installed here: "
        f"SQLAlchemy {sqlalchemy.__version__} takes {driver} for it ("
    )
    assert f"pip install '{driver}" in said
    assert said.endswith("postgresql+DRIVER://...")


def test_urls_come_from_the_environment_too_which_keeps_passwords_out_of_ps(
    file: Path, pg_pair: Pair, pg_standby: Standby
) -> None:
    pg_standby.catch_up()
    environment = {
        "SA_READONLY_READ_WRITE_URL": shown(pg_pair.read_write),
        "SA_READONLY_STANDBY_URL": shown(pg_standby.url(str(pg_pair.read_write.database))),
    }
    done = command("wait", "--file", file, **environment)
    assert done.exit_code == 0, done.output
    assert "the server agrees" in done.stdout
    assert "everything replayed" in done.stdout
    # they are for read-only, and whoever waits for the other mode need not unset them
    done = command("wait", "--mode", "read-write", "--file", file, **environment)
    assert done.exit_code == 1
    assert "turn it off first" in done.stdout


def test_a_query_is_told_in_one_line_cut_short_and_without_a_password() -> None:
    assert one_line("SELECT 1\n  FROM x") == "SELECT 1 FROM x"
    assert one_line("ALTER ROLE a LOGIN PASSWORD 's3''cr3t'") == "ALTER ROLE a LOGIN PASSWORD ***"
    assert one_line("create user a identified by $$s3cr3t$$") == "create user a identified ***"
    assert one_line("SET PASSWORD FOR u = 's3cr3t'") == "SET PASSWORD ***"
    assert one_line("CONNECTION 'host=x password=s3cr3t'") == "CONNECTION 'host=x password ***"
    assert one_line("x" * 300) == "x" * 200 + "..."
    told = Obstacle("session", "session\n1", query=one_line("SELECT '\x1b[31m'")).as_lines()
    assert told == ["session\\n1", "  its query: SELECT '\\x1b[31m'"]
    assert one_line(None) is None


def test_the_server_is_not_asked_before_the_workers_are_drained(
    tmp_path: Path, pg_server: Server, pg_pair: Pair
) -> None:
    file = tmp_path / "read-only.txt"
    switch = FileSwitch(file)
    entry = DirectoryRegistry(f"{file}.workers").register(switch.identify)
    with session(pg_pair.read_write):
        url = shown(pg_pair.read_write)
        done = command("on", "--wait", "--timeout", "0.3", "--read-write", url, "--file", file)
    entry.close()
    assert done.exit_code == 1
    assert "server" not in done.stdout.splitlines()[-1]


# -- MariaDB ---------------------------------------------------------------------------------


def test_on_mariadb_each_session_is_told_with_what_ends_it(
    file: Path, mariadb: MariaDB, mariadb_pair: Pair
) -> None:
    url = mariadb_pair.read_write
    with thread(url) as one, thread(mariadb_pair.read_only):
        (told,) = ask(url).obstacles
        assert (told.pid, told.ends) == (one.thread_id(), f"KILL {one.thread_id()}")
        assert re.fullmatch(rf"session {one.thread_id()} of root@.*: Sleep since \d+ s", told.what)
        done = waited(file, "--timeout", "0", "--read-write", url)
        assert done.exit_code == 4
        *_, hint, last = done.stdout.splitlines()
        assert hint.startswith(
            "Where the application reads from this same database while read-only"
        )
        assert last.endswith(" s: 1 session")
        mariadb.query(told.ends)
        assert settled(Asked(shown(url))).sums == "no session, no prepared transaction"
        done = waited(file, "--read-write", url)
        assert done.exit_code == 0


def test_on_mariadb_a_transaction_without_a_database_of_its_own_counts(
    mariadb: MariaDB, mariadb_pair: Pair
) -> None:
    url = mariadb_pair.read_write
    mariadb.query(f"CREATE TABLE {url.database}.thing (n int) ENGINE=InnoDB")
    with thread(url, database=None) as one:
        assert ask(url).agrees
        with one.cursor() as cursor:
            cursor.execute(f"INSERT INTO {url.database}.thing VALUES (1)")
        (told,) = ask(url).obstacles
        assert "in a transaction without a database of its own" in told.what
        one.rollback()
        assert ask(url).agrees


def test_a_list_of_transactions_that_was_cut_short_is_not_believed() -> None:
    listed = "---TRANSACTION 19, ACTIVE 0 sec\nlocks\nMySQL thread id 6, OS thread handle 1\n"
    idle = "---TRANSACTION 421, not started\nMySQL thread id 7, OS thread handle 1\n"
    assert _in_transaction(listed + idle) == {6}
    assert _in_transaction(f"{listed}... truncated...\n{idle}") is None


def test_on_mariadb_a_prepared_transaction_counts(mariadb: MariaDB, mariadb_pair: Pair) -> None:
    url = mariadb_pair.read_write
    mariadb.query(f"CREATE TABLE {url.database}.thing (n int) ENGINE=InnoDB")
    with thread(url, autocommit=True) as one, one.cursor() as cursor:
        cursor.execute("XA START 'it''s', 'branch'")
        cursor.execute("INSERT INTO thing VALUES (1)")
        cursor.execute("XA END 'it''s', 'branch'")
        cursor.execute("XA PREPARE 'it''s', 'branch'")
    told = wait_until(
        lambda: next((o for o in ask(url).obstacles if o.kind != "session"), None), "it"
    )
    assert told.kind == "prepared transaction"
    wait_until(lambda: len(ask(url).obstacles) == 1, "its session has gone")
    mariadb.query(told.ends.replace("%", "%%"))
    assert settled(Asked(shown(url))).agrees


def test_on_mariadb_an_account_that_cannot_see_others_is_refused(
    file: Path, mariadb: MariaDB, mariadb_pair: Pair
) -> None:
    url = mariadb_pair.read_write
    mariadb.query(f"CREATE USER modest IDENTIFIED BY '{SECRET}'")
    try:
        mariadb.query(f"GRANT SELECT ON {url.database}.* TO modest")
        modest = url.set(username="modest", password=SECRET)
        said = refused(waited(file, "--read-write", modest), 2)
        assert said == (
            "Account modest@% can't see the sessions of others. GRANT PROCESS ON *.* to it."
        )
        mariadb.query("GRANT PROCESS ON *.* TO modest")
        with thread(url) as one:
            assert [o.pid for o in ask(modest).obstacles] == [one.thread_id()]
    finally:
        mariadb.query("DROP USER modest")


def test_on_mariadb_what_is_replicated_from_elsewhere_counts(
    mariadb: MariaDB, mariadb_pair: Pair
) -> None:
    url = mariadb_pair.read_write
    mariadb.query("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='x'")
    try:
        mariadb.query("START SLAVE SQL_THREAD")
        told = wait_until(
            lambda: next((o for o in ask(url).obstacles if "replicates" in o.what), None), "it"
        )
        mariadb.query(told.ends)
        assert settled(Asked(shown(url))).agrees
    finally:
        mariadb.query("STOP SLAVE")
        mariadb.query("RESET SLAVE ALL")


def test_on_mariadb_a_url_without_a_database_is_refused(mariadb: MariaDB) -> None:
    with pytest.raises(ServerError, match=r"names no database\. Add it"):
        Asked(shown(mariadb.url().set(database=""))).check()


# -- a replica of MariaDB --------------------------------------------------------------------


@once
def test_with_a_replica_it_waits_until_everything_is_applied(
    file: Path, servers: tuple[MariaDB, MariaDB], mariadb_pair: Pair
) -> None:
    primary, replica = servers
    primary.query("CREATE USER replica@'127.0.0.1' IDENTIFIED BY 'x'")
    primary.query("GRANT REPLICATION SLAVE ON *.* TO replica@'127.0.0.1'")
    replica.query(
        "CHANGE MASTER TO master_host='127.0.0.1', master_user='replica', master_password='x',"
        f" master_use_gtid=slave_pos, master_port={primary.port}"
    )
    rw = primary.new_database()
    primary.query(f"CREATE TABLE {rw.database}.thing (n int)")
    there = replica.url()
    given = ("--read-write", rw, "--standby", there)
    replica.query("START REPLICA SQL_THREAD")
    done = waited(file, *given, "--timeout", 0)
    assert done.exit_code == 4, done.output
    assert re.search(
        r": the replica has yet to apply 0-1-\d+, and is stopped$", done.stdout.strip()
    )
    assert [one.ends for one in ask(rw, there).obstacles] == ["START REPLICA"]
    replica.query("START REPLICA")
    with thread(rw) as open_, open_.cursor() as cursor:
        cursor.execute("INSERT INTO thing VALUES (1)")
        assert [one.kind for one in ask(rw, there).obstacles] == ["session"]
        open_.commit()
    done = waited(file, *given)
    assert done.exit_code == 0, done.output
    assert "no prepared transaction, everything replayed" in done.stdout
    assert replica.query(f"SELECT * FROM {rw.database}.thing") == [(1,)]
    replica.query("CREATE USER shop@'127.0.0.1'")
    replica.query(f"GRANT SELECT ON {rw.database}.* TO shop@'127.0.0.1'")  # and no status
    modest = there.set(username="shop", database=rw.database)
    assert ask(rw, modest).replayed
    itself = [one.what for one in ask(there, modest).obstacles if one.kind == "question"]
    assert itself == ["The server of --standby is that of --read-write"]

    for url, message in (
        (mariadb_pair.read_only, "The server of --standby is no replica, and applies nothing"),
        (rw, "The server of --standby is no replica, and applies nothing"),
    ):
        assert [one.what for one in ask(rw, url).obstacles] == [message]
    (no_log,) = ask(mariadb_pair.read_write, there).obstacles
    assert no_log.what == "The server of --read-write writes no binary log"
    replica.query("STOP REPLICA")
    replica.query("SET GLOBAL gtid_slave_pos = '0-1-4711'")
    assert [one.what for one in ask(rw, there).obstacles] == [
        "The server of --standby is a replica of another server"
    ]
    primary.query("RESET MASTER")
    assert [one.what for one in ask(rw, there).obstacles] == [
        "The binary log of the server of --read-write is empty"
    ]
