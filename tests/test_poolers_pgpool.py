"""Behind a real Pgpool-II, before a primary and a standby."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import URL, create_engine, text

from sa_readonly import EngineSelector, FileSwitch, ReadOnlyError
from sa_readonly.command.server import Server as Asked
from sa_readonly.command.server import ServerError
from tests.app import need
from tests.doctor import look, shown, the
from tests.poolers import Pgpool, pgpool
from tests.postgres import Server, Standby, wait_until

__all__ = ["pgpool"]  # a fixture


@pytest.fixture
def url(pg_server: Server, pg_standby: Standby) -> Iterator[URL]:
    """A database with a function that writes, replayed by the standby."""
    url = pg_server.new_database()
    pg_server.query(
        """
        CREATE TABLE line (who text);
        CREATE FUNCTION write_ours() RETURNS int VOLATILE LANGUAGE sql
            AS $$ INSERT INTO line VALUES ('ours') RETURNING 1 $$
        """,
        database=url.database,
    )
    pg_standby.catch_up()
    yield url
    pg_server.drop_database(url)


def test_a_flip_leaves_nobody_there_and_writes_stay_refused(
    pg_server: Server, pgpool: Pgpool, url: URL, tmp_path: Path
) -> None:
    file = tmp_path / "read-only.txt"
    engine = create_engine(pgpool.through(url))

    def clients() -> int:
        rows = pgpool.query("SHOW pool_pools")
        return sum((row[5], row[15]) == (url.database, "1") for row in rows)

    switch = FileSwitch(file, ttl=0)
    with EngineSelector(switch, read_write=engine, watch=False, workers=False) as selector:
        with selector.engine().begin() as connection:
            connection.execute(text("INSERT INTO line VALUES ('before')"))
        assert clients() == 2  # one, at each of the two servers
        file.touch()
        selector.check()
        wait_until(lambda: clients() == 0, "the client's end")
        with selector.engine().connect() as connection:
            assert connection.scalar(text("SHOW default_transaction_read_only")) == "on"
            assert connection.scalar(text("SHOW transaction_read_only")) == "on"
            for sql in ("SELECT write_ours()", "INSERT INTO line VALUES ('ours')"):
                with pytest.raises(ReadOnlyError):
                    connection.execute(text(sql))
                connection.rollback()
        selector.engine().dispose()
        file.unlink()
        selector.check()
        with selector.engine().begin() as connection:
            connection.execute(text("INSERT INTO line VALUES ('after')"))
    engine.dispose()
    rows = pg_server.query("SELECT who FROM line", database=url.database)
    assert rows == [("before",), ("after",)]


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_wait_wants_the_server_itself(pgpool: Pgpool, url: URL, driver: str) -> None:
    need(driver)
    through = pgpool.through(url).set(drivername=f"postgresql+{driver}")
    with pytest.raises(ServerError) as caught:
        Asked(shown(through)).check()
    assert str(caught.value) == (
        "The database of --read-write is asked through Pgpool-II, behind which the server's list "
        "of sessions does not tell who may still write, and may name those that ask. Give the URL "
        "of the server itself."
    )


def test_the_printed_cure_sent_through_pgpool_ends_the_session_and_detaches_no_server(
    pg_server: Server, pgpool: Pgpool, url: URL
) -> None:
    with (
        contextlib.closing(client(pgpool, url, "one")) as one,
        contextlib.closing(client(pgpool, url, "other")) as other,
    ):
        (told, *_) = (
            each for each in Asked(shown(url)).ask().obstacles if each.application_name == "one"
        )
        assert "Send that through pgpool" in str(Asked(shown(url)).ask().caution)
        assert told.ends == f"SELECT pg_terminate_backend({told.pid})"
        pgpool.query(told.ends)
        wait_until(lambda: has_ended(one), "the session's end")
        other.cursor().execute("SELECT 1")
    assert pgpool.nodes() == [("up", "primary"), ("up", "standby")]


def has_ended(connection: Any) -> bool:
    try:  # it reads from the standby, and pgpool notices a moment later
        connection.cursor().execute("SELECT 1")
    except psycopg2.OperationalError:
        return True
    return False


def client(pgpool: Pgpool, url: URL, name: str) -> Any:
    made = psycopg2.connect(
        host="127.0.0.1",
        port=pgpool.port,
        user="postgres",
        dbname=url.database,
        application_name=name,
    )
    made.autocommit = True
    return made


def test_doctor_names_pgpool(pgpool: Pgpool, url: URL) -> None:
    found = the(look(url, pgpool.through(url)), "Pgpool-II is before")
    assert found.severity == "warning"
    assert "serves none for search_primary_node_timeout" in found.meaning
    assert "connect to the standby itself" in found.cure
