"""What a server says of itself on a read-write engine: it is read-only, though no file says so."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool, StaticPool

from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession
from sa_readonly.refusals import refusals
from tests.app import App, Book, make_app, need
from tests.async_app import make_async_app
from tests.postgres import MariaDB, Pair, Server, wait_until
from tests.test_web_note import KINDS, Request

DRIVERS = ["psycopg2", "pg8000", "async asyncpg", "async psycopg"]  # a sync psycopg is the same
SAID = "the database server is read-only"


@contextlib.contextmanager
def closed(server: Server, url: URL) -> Iterator[None]:
    """A database that an administrator has closed, for the sessions that begin now."""
    name = f'ALTER DATABASE "{url.database}"'
    server.query(f"{name} SET default_transaction_read_only = on")
    try:
        yield
    finally:
        server.query(f"{name} RESET default_transaction_read_only")


@pytest.fixture(params=DRIVERS)
def word(request: pytest.FixtureRequest, pg_urls: dict[str, URL], place: Path) -> Iterator[App]:
    """Two databases of PostgreSQL, by each driver."""
    kind, _, name = request.param.rpartition(" ")
    need(name)
    urls = {key: url.set(drivername=f"postgresql+{name}") for key, url in pg_urls.items()}
    if kind:
        with make_async_app(place, dict(pg_urls), name) as app:
            yield app
        return
    with make_app(place, dict(pg_urls)) as app:
        app.urls = urls
        yield app


@pytest.fixture
def pg(pg_urls: dict[str, URL], place: Path) -> Iterator[App]:
    with make_app(place, dict(pg_urls)) as app:
        yield app


def write(app: App, title: str = "x") -> None:
    with app.sessions.begin() as session:
        session.add(Book(title=title))


def refused(app: App, work: Callable[[], object]) -> ReadOnlyError:
    """Do what is refused by the server's own word, and counted as that."""
    before = refusals(app.selector.switch).get("server", 0)
    with pytest.raises(ReadOnlyError) as caught:
        work()
    assert caught.value.reason == SAID
    assert isinstance(caught.value.__cause__, Exception)
    assert refusals(app.selector.switch)["server"] == before + 1
    return caught.value


# -- whose word it is ------------------------------------------------------------------------


def test_what_a_closed_server_refuses_is_our_error_with_the_drivers_as_its_cause(
    word: App, pg_server: Server
) -> None:
    word.start()
    with closed(pg_server, word.urls["rw"]):
        error = refused(word, lambda: write(word))
    assert str(error).startswith(f"The statement is refused: {SAID}. Nothing was written.")
    assert "INSERT INTO book" in str(error.statement)
    assert not word.selector.read_only
    write(word)
    assert word.titles("rw") == ["x"]


def test_it_may_be_left_as_it_is(word: App, pg_server: Server) -> None:
    word.start(server_read_only="error")
    with closed(pg_server, word.urls["rw"]), pytest.raises(DBAPIError):
        write(word)
    assert refusals(word.selector.switch) == {}


WISHES = {
    "the execution option": ({"postgresql_readonly": True}, ""),
    "the transaction": ({}, "SET TRANSACTION READ ONLY"),
    "the session": ({}, "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
}


@pytest.mark.parametrize("wish", WISHES)
def test_what_the_application_has_begun_read_only_itself_is_the_drivers_error(
    word: App, wish: str
) -> None:
    word.start()
    options, statement = WISHES[wish]
    with word.engine_now().connect().execution_options(**options) as connection:
        if statement:
            connection.execute(text(statement))
        if wish == "the session":
            connection.commit()
        with pytest.raises(DBAPIError):
            connection.execute(Book.__table__.insert(), {"title": "x"})
        connection.invalidate()
    assert refusals(word.selector.switch) == {}


def test_a_wish_is_none_of_the_servers_where_that_gives_no_answer(word: App) -> None:
    word.start()

    def refuse(*_: Any) -> None:
        raise ConnectionRefusedError

    with word.engine_now().connect() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        event.listen(word.engines["rw"], "do_connect", refuse)
        with pytest.raises(DBAPIError):
            connection.execute(Book.__table__.insert(), {"title": "x"})
        connection.invalidate()


def test_the_wish_counts_at_a_closed_server_too(word: App, pg_server: Server) -> None:
    if word.urls["rw"].get_driver_name() == "pg8000":
        pytest.skip("it makes the session read-only, which a closed server does as well")
    word.start()
    with (
        closed(pg_server, word.urls["rw"]),
        word.engine_now().connect().execution_options(postgresql_readonly=True) as connection,
        pytest.raises(DBAPIError),
    ):
        connection.execute(Book.__table__.insert(), {"title": "x"})
    assert refusals(word.selector.switch) == {}


def test_a_url_that_has_each_session_read_only_is_a_wish(pg: App) -> None:
    pg.urls["rw"] = pg.urls["rw"].update_query_dict(
        {"options": "-cdefault_transaction_read_only=on"}
    )
    pg.start()
    with pytest.raises(DBAPIError):
        write(pg)
    assert refusals(pg.selector.switch) == {}


# -- the pool --------------------------------------------------------------------------------


def pids(app: App, server: Server) -> set[int]:
    return {one.pid for one in server.activity(app.urls["rw"])}


def soon(app: App, server: Server, left: set[int]) -> None:
    """The server ends what was closed in its own time."""
    wait_until(lambda: pids(app, server) == left, "the others are closed")


def pid(connection: Any) -> int:
    return int(connection.scalar(text("SELECT pg_backend_pid()")))


def test_the_connection_is_closed_as_it_is_given_back_with_what_lies_idle_from_before(
    word: App, pg_server: Server
) -> None:
    word.start()
    engine = word.engine_now()
    with closed(pg_server, word.urls["rw"]):
        with engine.connect() as one, engine.connect() as two, engine.connect() as three:
            pid(one), pid(two)
            two.rollback()
            refuses, stays = pid(three), pid(two)
            refused(word, lambda: three.execute(Book.__table__.insert(), {"title": "x"}))
            three.rollback()  # its transaction may go on after a savepoint, so it is there yet
            assert pid(three) == refuses
            three.rollback()
            one.close()  # it lies idle
            with engine.connect() as late:  # the same one, as the pool has it
                pid(late)
            three.close()
            soon(word, pg_server, {stays})
            assert engine.pool.checkedin() == 1  # without a connection
        assert engine.pool.checkedout() == 0
    write(word)


def test_what_has_connected_after_the_error_stays(pg: App, pg_server: Server) -> None:
    pg.start()
    engine = pg.engine_now()
    with closed(pg_server, pg.urls["rw"]), engine.connect() as one:
        refused(pg, lambda: one.execute(Book.__table__.insert(), {"title": "x"}))
        with engine.connect() as later:
            stays = pid(later)
        one.close()
        soon(pg, pg_server, {stays})


def test_all_connections_of_before_on_which_it_was_refused_are_closed_in_one_second(
    pg: App, pg_server: Server
) -> None:
    pg.start()
    engine = pg.engine_now()
    with closed(pg_server, pg.urls["rw"]):
        with engine.connect() as one, engine.connect() as two:
            for each in (one, two):
                insert = partial(each.execute, Book.__table__.insert(), {"title": "x"})
                refused(pg, insert)
        soon(pg, pg_server, set())


def test_connections_are_made_anew_once_a_second(pg: App, pg_server: Server, clock: Any) -> None:
    pg.start()
    engine = pg.engine_now()

    def use_two() -> set[int]:
        with engine.connect() as idle, engine.connect() as one:
            used = {pid(idle), pid(one)}
            refused(pg, lambda: one.execute(Book.__table__.insert(), {"title": "x"}))
            idle.close()
        return used

    with closed(pg_server, pg.urls["rw"]):
        use_two()
        soon(pg, pg_server, set())
        kept = use_two()
        assert use_two() == kept
        clock.ahead += 1.01
        use_two()
        soon(pg, pg_server, set())


def test_check_ins_are_as_quick_afterwards(pg: App, pg_server: Server) -> None:
    pg.start()
    pool = pg.engine_now().pool
    with closed(pg_server, pg.urls["rw"]):
        refused(pg, lambda: write(pg))
    assert "_do_return_conn" not in vars(pool)


def test_a_check_in_that_began_before_another_ended_keeps_its_connection(
    pg: App, pg_server: Server
) -> None:
    pg.start()
    engine = pg.engine_now()
    with engine.connect() as other:
        stays = pid(other)
        with closed(pg_server, pg.urls["rw"]), engine.connect() as one:
            refused(pg, lambda: one.execute(Book.__table__.insert(), {"title": "x"}))
            begun = vars(engine.pool)["_do_return_conn"]

        def late(
            record: Any,
        ) -> None:  # as another thread comes to it that had read the name before
            del vars(engine.pool)["_do_return_conn"]
            begun(record)

        vars(engine.pool)["_do_return_conn"] = late
        other.close()
    soon(pg, pg_server, {stays})


def test_a_pool_that_keeps_none_and_one_that_was_forgotten_bear_it(
    pg: App, pg_server: Server
) -> None:
    pg.engine("rw", poolclass=NullPool)
    pg.start()
    with closed(pg_server, pg.urls["rw"]):
        refused(pg, lambda: write(pg))
        with pg.engine_now().connect() as one:
            refused(pg, lambda: one.execute(Book.__table__.insert(), {"title": "x"}))
            one.detach()
    soon(pg, pg_server, set())


# -- SQLite ----------------------------------------------------------------------------------


def by_mode(app: App, mode: list[str]) -> Engine:
    """An engine whose file is opened so: as on a file system that is remounted."""
    path = app.urls["rw"].database
    return app.engine(
        "rw", creator=lambda: sqlite3.connect(f"file:{path}?mode={mode[0]}", uri=True)
    )


def test_a_file_that_can_not_be_written_is_the_servers_word(lite: App) -> None:
    mode = ["ro"]
    by_mode(lite, mode)
    lite.start()
    refused(lite, lambda: write(lite))
    mode[0] = "rw"
    write(lite)
    assert lite.titles("rw") == ["x"]


@pytest.mark.parametrize("handles", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_to_a_request_is_503_and_its_refusal_counts_once(
    lite: App, kind: str, handles: bool
) -> None:
    by_mode(lite, ["ro"])
    lite.start()
    ask = Request(kind, lite)

    def do() -> int:
        with contextlib.suppress(*[ReadOnlyError] * handles):
            write(lite)
        return 500

    answered = ask(do, method="POST")
    assert (answered.status, answered.raised) == (503, None)
    assert SAID.encode() in answered.body
    assert answered.headers["retry-after"] == ["60"]
    assert refusals(lite.selector.switch) == {"server": 1}


def test_what_opens_a_file_for_reading_on_purpose_gets_the_drivers_error(lite: App) -> None:
    url = f"sqlite:///file:{lite.urls['rw'].database}?mode=ro&uri=true"
    with EngineSelector(lite.path, read_write=create_engine(url), watch=False) as selector:
        sessions = sessionmaker(selector, class_=RoutingSession)
        with pytest.raises(DBAPIError), sessions.begin() as session:
            session.add(Book(title="x"))
    lite.start()
    with lite.engine_now().connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
        with pytest.raises(DBAPIError):
            connection.execute(Book.__table__.insert(), {"title": "x"})
        connection.exec_driver_sql("PRAGMA query_only = OFF")
    assert refusals(lite.selector.switch) == {}


def test_a_pool_that_is_the_database_keeps_it(lite: App) -> None:
    lite.engine(
        "rw",
        poolclass=StaticPool,
        creator=lambda: sqlite3.connect(
            f"file:{lite.urls['rw'].database}?mode=ro", uri=True, check_same_thread=False
        ),
    )
    lite.start()
    with lite.engine_now().connect() as connection:
        kept = connection.connection.dbapi_connection
    refused(lite, lambda: write(lite))
    with lite.engine_now().connect() as connection:
        assert connection.connection.dbapi_connection is kept


# -- MariaDB ---------------------------------------------------------------------------------


@pytest.fixture
def maria(mariadb: MariaDB, mariadb_pair: Pair, place: Path) -> Iterator[App]:
    """Two databases of MariaDB, and an account that read_only binds."""
    app = App(place / "read-only.txt", {})
    mariadb.query("CREATE OR REPLACE USER bound@'%'")
    for name, url in zip(("rw", "ro"), mariadb_pair, strict=True):
        in_it = f"`{url.database}`"
        mariadb.query(f"GRANT ALL ON {in_it}.* TO bound@'%'")
        mariadb.query(f"CREATE TABLE {in_it}.which (name VARCHAR(9))")
        mariadb.query(f"INSERT INTO {in_it}.which VALUES ('{name}')")
        columns = "id INT AUTO_INCREMENT PRIMARY KEY, title VARCHAR(99), author_id INT"
        mariadb.query(f"CREATE TABLE {in_it}.book ({columns})")
        app.urls[name] = url.set(username="bound")
    try:
        yield app
    finally:
        app.close()
        mariadb.query("SET GLOBAL read_only = 0, GLOBAL tx_read_only = 0")


def titles(app: App) -> list[str]:
    with app.sessions() as session:
        return list(session.scalars(select(Book.title)))


def test_mariadb_says_so_of_a_statement_and_of_a_commit(maria: App, mariadb: MariaDB) -> None:
    maria.start()
    mariadb.query("SET GLOBAL read_only = 1")
    refused(maria, lambda: write(maria))
    mariadb.query("SET GLOBAL read_only = 0")
    with maria.sessions() as session:
        session.add(Book(title="x"))
        session.flush()
        mariadb.query("SET GLOBAL read_only = 1")
        error = refused(maria, session.commit)
    assert str(error).startswith("The COMMIT is refused")
    mariadb.query("SET GLOBAL read_only = 0")
    assert titles(maria) == []


def test_mariadb_tells_new_sessions_from_a_wish(maria: App, mariadb: MariaDB) -> None:
    maria.start()
    with maria.engine_now().connect() as connection:
        connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
        with pytest.raises(DBAPIError):
            connection.execute(Book.__table__.insert(), {"title": "x"})
        connection.rollback()
        connection.exec_driver_sql("START TRANSACTION READ ONLY")
        with pytest.raises(DBAPIError):
            connection.execute(Book.__table__.insert(), {"title": "x"})
        connection.invalidate()
    mariadb.query("SET GLOBAL tx_read_only = 1")
    refused(maria, lambda: write(maria))
