"""One engine by URL: what it gives out in each mode, and what a connection of it stays."""

from __future__ import annotations

import gc
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_pool_from_url, event, inspect, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool

from sa_readonly import ConfigurationError, ReadOnlyError, refusals
from sa_readonly.engines.pools import Open
from sa_readonly.engines.uses import Use
from tests.app import WHICH, App, Author, Book
from tests.async_app import AsyncApp
from tests.by_url import nothing_lingers, shared_of
from tests.postgres import MariaDB
from tests.test_server_word import maria

__all__ = ["maria", "nothing_lingers"]  # fixtures

INSERT = text("insert into book (title) values ('road')")
READ = text("select name from which")


def by_url(app: App, *names: str, **options: Any) -> Engine:
    """An engine by URL of the database "rw"; of "ro" as well, if that is named."""
    query = {
        "plugin": "sa_readonly",
        "sa_readonly_file": str(app.path),
        "sa_readonly_workers": "false",
    }
    if "ro" in names:
        query["sa_readonly_url"] = app.urls["ro"].render_as_string(hide_password=False)
    for name in list(options):
        if name.startswith("sa_readonly_"):
            query[name] = options.pop(name)
    is_async = isinstance(app, AsyncApp)
    options.setdefault("poolclass", AsyncAdaptedQueuePool if is_async else QueuePool)
    engine = app.make_engine(app.urls["rw"].update_query_dict(query), **options)
    app.made.append(engine)
    return engine


def look(engine: Engine) -> None:
    """Have its next connection look at the file, which is looked at every 0.1 s."""
    shared_of(engine).switch.check()


def flip(app: App, engine: Engine) -> None:
    app.flip()
    look(engine)


def test_it_gives_out_what_the_mode_asks_for(app: App) -> None:
    engine = by_url(app, "ro")
    with engine.begin() as connection:
        assert connection.scalar(READ) == "rw"
        connection.execute(INSERT)
    flip(app, engine)
    with engine.connect() as connection:
        assert connection.scalar(READ) == "ro"
        with pytest.raises(ReadOnlyError, match="the application is read-only"):
            connection.execute(INSERT)
    flip(app, engine)
    with engine.begin() as connection:
        connection.execute(INSERT)
    assert app.titles("rw") == ["road", "road"]
    assert app.titles("ro") == []


def test_a_session_reads_on_and_a_flush_is_refused(app: App) -> None:
    engine = by_url(app)
    flip(app, engine)
    with Session(engine) as session:
        assert session.scalars(WHICH).all() == ["rw"]
        session.add(Author(name="Bob"))
        with pytest.raises(InvalidRequestError, match="INSERT is refused"):
            session.commit()
    flip(app, engine)
    with Session(engine) as session:
        session.add(Book(title="after"))
        session.commit()
    assert app.titles("rw") == ["after"]


def test_a_transaction_that_began_goes_on_and_none_begins_on_its_connection(app: App) -> None:
    engine = by_url(app)
    with engine.connect() as connection:
        connection.execute(INSERT)
        flip(app, engine)
        connection.execute(INSERT)
        connection.commit()
        with pytest.raises(ReadOnlyError, match="close it, and take another one of the engine"):
            connection.execute(READ)
    assert app.titles("rw") == ["road", "road"]


def test_a_connection_that_was_taken_while_read_only_never_writes(app: App) -> None:
    engine = by_url(app)
    flip(app, engine)
    with engine.connect() as connection:
        assert connection.scalar(READ) == "rw"
        connection.rollback()
        flip(app, engine)
        assert connection.scalar(READ) == "rw"
        with pytest.raises(ReadOnlyError, match="taken while the application was read-only"):
            connection.execute(INSERT)
    assert app.titles("rw") == []


def test_a_transaction_ends_with_its_grace(app: App) -> None:
    engine = by_url(app, sa_readonly_grace="0")
    with engine.connect() as connection:
        connection.execute(INSERT)
        flip(app, engine)
        with pytest.raises(ReadOnlyError, match="after its grace"):
            connection.execute(INSERT)
    assert app.titles("rw") == []


def test_a_commit_after_the_grace_is_refused(app: App) -> None:
    engine = by_url(app, sa_readonly_grace="0")
    with engine.connect() as connection:
        connection.execute(INSERT)
        flip(app, engine)
        with pytest.raises(ReadOnlyError, match="after its grace"):
            connection.commit()
    assert app.titles("rw") == []


def test_under_autocommit_each_statement_is_asked_for(app: App) -> None:
    engine = by_url(app)
    clone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with clone.connect() as connection:
        connection.execute(INSERT)
        flip(app, engine)
        with pytest.raises(ReadOnlyError, match="under AUTOCOMMIT"):
            connection.execute(INSERT)
    with clone.connect() as connection:
        assert connection.scalar(READ) == "rw"
        with pytest.raises(ReadOnlyError):
            connection.execute(INSERT)
    assert app.titles("rw") == ["road"]


def test_under_autocommit_a_statement_looks_for_itself(app: App) -> None:
    engine = by_url(app)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(INSERT)
        app.flip()
        shared_of(engine).switch.fresh_until = -math.inf
        with pytest.raises(ReadOnlyError, match="under AUTOCOMMIT"):
            connection.execute(INSERT)
    assert app.titles("rw") == ["road"]


def test_a_flip_while_it_connects_gives_a_read_only_connection(app: App) -> None:
    engine = by_url(app, "ro")

    @event.listens_for(engine, "connect")
    def flip_meanwhile(*_: object) -> None:
        app.path.write_text("upgrade")
        shared_of(engine).switch.fresh_until = -math.inf

    assert which(engine.raw_connection) == "ro"
    assert not any(refusals.refusals(shared_of(engine).switch).values())


def test_a_flip_and_the_one_back_while_it_connects_refuse_nothing(app: App) -> None:
    engine = by_url(app)
    flips: list[None] = []

    @event.listens_for(engine, "do_connect")
    def turn(*_: Any) -> None:
        if not flips:
            flips.extend((flip(app, engine), flip(app, engine)))

    with engine.begin() as connection:
        connection.execute(INSERT)
    assert flips == [None, None]
    assert app.titles("rw") == ["road"]
    assert not any(refusals.refusals(shared_of(engine).switch).values())


def test_what_the_server_refuses_is_the_same_error(app: App) -> None:
    engine = by_url(app)
    if engine.dialect.name != "postgresql":
        return  # SQLite has no functions that write
    with engine.begin() as connection:
        connection.execute(
            text(
                "create or replace function road() returns int language sql as "
                "$$ insert into book (title) values ('road') returning 1 $$"
            )
        )
    flip(app, engine)
    with engine.connect() as connection, pytest.raises(ReadOnlyError, match="The statement"):
        connection.execute(text("select road()"))


def test_a_lock_is_not_lifted_by_an_execution_option(app: App) -> None:
    engine = by_url(app)
    if engine.dialect.name != "postgresql":
        return  # SQLite has no such option
    flip(app, engine)
    dialect: Any = engine.dialect
    with engine.connect() as connection:
        connection.execution_options(postgresql_readonly=False)
        assert dialect.get_readonly(connection.connection.dbapi_connection) is True
    flip(app, engine)
    with engine.connect() as connection:
        connection.execution_options(postgresql_readonly=True)
        assert dialect.get_readonly(connection.connection.dbapi_connection) is True
    with engine.begin() as connection:
        connection.execute(INSERT)
    assert app.titles("rw") == ["road"]


def test_a_servers_own_word_is_heard(app: App) -> None:
    engine = by_url(app, poolclass=NullPool)
    if engine.dialect.name != "postgresql":
        return  # SQLite has no server
    name = app.urls["rw"].database
    with engine.begin() as connection:
        connection.execute(text(f"alter database {name} set default_transaction_read_only = on"))
    try:
        with engine.connect() as connection:
            assert connection.scalar(READ) == "rw"
            with pytest.raises(ReadOnlyError, match="the database server is read-only"):
                connection.execute(INSERT)
    finally:
        with engine.connect() as connection:
            connection.execute(text("set transaction read write"))
            connection.execute(text(f"alter database {name} reset default_transaction_read_only"))
            connection.commit()


def test_reads_can_be_refused_too(app: App) -> None:
    engine = by_url(app, sa_readonly_reads="refuse")
    flip(app, engine)
    with pytest.raises(ReadOnlyError, match="What only reads is refused, too"):
        engine.connect()
    flip(app, engine)
    with engine.connect() as connection:
        assert connection.scalar(READ) == "rw"


def test_the_old_pool_is_closed_at_a_flip(app: App) -> None:
    engine = by_url(app)
    with engine.connect() as connection:
        connection.execute(READ)
    before, (door,) = engine.pool, engine._sa_readonly_single._begun.doors  # type: ignore[attr-defined]  # our own
    assert (door.connections, door.idle) == (1, 1)
    flip(app, engine)
    door.sweep()
    assert door.connections == 0
    flip(app, engine)
    assert engine.pool is not before


def test_a_pool_that_was_taken_before_a_flip_gives_out_by_the_mode(app: App) -> None:
    engine = by_url(app, "ro")
    pool = engine.pool
    pool.connect().close()
    flip(app, engine)
    assert which(pool.connect) == "ro"
    flip(app, engine)
    assert which(pool.connect) == "rw"


def which(connect: Callable[[], Any]) -> Any:
    connection = connect()
    try:
        cursor = connection.cursor()
        cursor.execute("select name from which")
        return cursor.fetchone()[0]
    finally:
        connection.close()


@pytest.mark.parametrize("reads", ["serve", "refuse"])
def test_a_pool_without_its_engine_gives_out_by_the_mode_and_keeps_one_kind(
    app: App, reads: str
) -> None:
    pool = pool_of_url(app, sa_readonly_reads=reads)
    closed: list[str] = []
    event.listen(pool, "close", lambda *_: closed.append("close"))
    single = pool.sa_readonly_single
    for times in range(2):
        held = pool.connect()
        assert which(pool.connect) == "rw"
        assert (pool.checkedout(), pool.checkedin(), len(closed)) == (1, 1, 4 * times)
        flip_pool(app, pool)
        assert len(closed) == 4 * times + 1, "what is idle"
        held.close()
        assert len(closed) == 4 * times + 2, "what comes back"
        if reads == "refuse":
            with pytest.raises(ReadOnlyError, match="What only reads is refused, too"):
                pool.connect()
            closed += "aa"
        else:
            held = pool.connect()
            assert which(pool.connect) == "ro"
            assert (pool.checkedout(), pool.checkedin()) == (1, 1)
        flip_pool(app, pool)
        held.close()
        assert len(closed) == 4 * times + 4, "and so of the read-only ones"
        assert single._begun.reader.ledger.connections == {}


def flip_pool(app: App, pool: Any) -> None:
    app.flip()
    pool.sa_readonly_single.shared.switch.check()
    for door in pool.sa_readonly_single._begun.doors:
        door.sweep()


def pool_of_url(app: App, **query: str) -> Any:
    query |= {"plugin": "sa_readonly", "sa_readonly_file": str(app.path)}
    query["sa_readonly_url"] = app.urls["ro"].render_as_string(hide_password=False)
    pool: Any = create_pool_from_url(app.urls["rw"].update_query_dict(query), poolclass=QueuePool)
    gc.collect()
    app.made.append(pool)
    return pool


def test_a_pool_without_its_engine_is_disposed_of_and_goes_on(app: App) -> None:
    pool = pool_of_url(app)
    pool.dispose()
    for name in ("rw", "ro", "rw"):
        assert which(pool.connect) == name
        assert "Connections in pool: 1" in pool.status()
        pool.dispose()
        assert (pool.checkedin(), pool.overflow()) == (0, -5)
        assert which(pool.recreate().connect) == name
        flip_pool(app, pool)
        pool.dispose()


def test_a_flip_while_such_a_pool_is_disposed_of_leaves_nothing_that_refuses(lite: App) -> None:
    pool = pool_of_url(lite)
    pool.connect().close()
    event.listen(pool, "close", lambda *_: flip_pool(lite, pool), once=True)
    pool.dispose()
    for name in ("ro", "rw"):
        assert which(pool.connect) == name
        flip_pool(lite, pool)


@pytest.mark.parametrize("alone", [False, True])
def test_what_connects_past_a_new_pool_goes_by_the_mode(app: App, alone: bool) -> None:
    pool: Any = pool_of_url(app) if alone else by_url(app, "ro").pool
    app.flip()
    create = pool.recreate()._creator
    connection = create()
    try:
        cursor = connection.cursor()
        cursor.execute("select name from which")
        assert cursor.fetchone()[0] == "ro"
        with pytest.raises(Exception, match=r"refused|readonly"):
            cursor.execute("insert into book (title) values ('road')")
    finally:
        connection.close()
    app.flip()
    pool.sa_readonly_single.shared.switch.check()
    assert which(pool.connect) == "rw"


def test_a_pool_that_is_made_anew_before_a_flip_and_set_after_it_opens_nothing(lite: App) -> None:
    engine: Any = by_url(lite, "ro")
    engine.connect().close()
    pool = engine.pool.recreate()
    lite.flip()
    look(engine)
    engine.pool = pool
    assert engine._sa_readonly_single._begun.doors[0].is_shut
    lite.flip()
    look(engine)
    assert engine.pool is not pool
    assert which(engine.raw_connection) == "rw"


def test_an_engine_whose_switch_can_not_be_made_connects_not_past_its_pool_either(
    lite: App, tmp_path: Path
) -> None:
    (tmp_path / "soon").mkdir()
    engine: Any = by_url(lite, sa_readonly_file=str(tmp_path / "soon" / "read-only.txt"))
    (tmp_path / "soon").rmdir()
    with pytest.raises(ConfigurationError, match="does not exist"):
        engine.connect()
    with pytest.raises(ConfigurationError, match="does not exist"):
        engine.pool._creator()


def test_an_engine_whose_first_connection_failed_half_way_begins_anew(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = by_url(lite)
    shared = shared_of(engine)

    def fail(_: object) -> None:
        raise ConfigurationError("It reports itself elsewhere.")

    with monkeypatch.context() as patched:
        patched.setattr(shared, "join", fail)
        with pytest.raises(ConfigurationError, match="elsewhere"):
            engine.connect()
        with pytest.raises(ConfigurationError, match="elsewhere"):
            engine.pool._creator()  # type: ignore[call-arg]  # without a record
    assert which(engine.raw_connection) == "rw"
    assert engine.dialect._sa_readonly_gates == (shared.switch,)  # type: ignore[attr-defined]  # our own
    flip(lite, engine)
    with engine.connect() as connection, pytest.raises(ReadOnlyError):
        connection.execute(INSERT)


def test_a_read_write_connection_is_none_of_the_read_only_ones_that_are_gone(lite: App) -> None:
    path = str(lite.urls["rw"].database)
    made = [sqlite3.connect(path) for _ in range(2)]
    engine = by_url(lite, creator=made.pop, poolclass=NullPool)
    assert which(engine.raw_connection) == "rw"
    readers: Any = engine.dialect._sa_readonly_readers  # type: ignore[attr-defined]  # our own
    readers[id(made[0])] = Open(None, None, Use())  # one that was collected had the same identity
    with engine.begin() as connection:
        connection.execute(INSERT)
    assert lite.titles("rw") == ["road"]


def test_dispose_leaves_an_engine_that_works_in_either_mode(app: App) -> None:
    engine = by_url(app, "ro")
    engine.dispose()
    for name in ("rw", "ro", "rw"):
        assert which(engine.raw_connection) == name
        engine.dispose()
        assert which(engine.raw_connection) == name
        flip(app, engine)


def test_dispose_closes_what_is_idle_of_both_kinds(app: App) -> None:
    engine = by_url(app)
    flip(app, engine)
    assert which(engine.raw_connection) == "rw"
    flip(app, engine)
    assert which(engine.raw_connection) == "rw"
    sides: Any = engine._sa_readonly_single._begun  # type: ignore[attr-defined]  # our own
    assert [len(sides.reader.ledger.connections), sides.doors[0].connections] == [1, 1]
    engine.dispose()
    assert [len(sides.reader.ledger.connections), sides.doors[0].connections] == [0, 0]
    assert which(engine.raw_connection) == "rw"


def test_a_pool_that_keeps_nothing_is_counted_and_given_by_the_mode(app: App) -> None:
    engine = by_url(app, "ro", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(INSERT)
        flip(app, engine)
        (door,) = engine._sa_readonly_single._begun.doors  # type: ignore[attr-defined]  # our own
        assert (door.connections, len(door.retired)) == (1, 1)
        assert which(engine.raw_connection) == "ro"
        connection.commit()
    assert door.connections == 0


def test_listeners_that_are_added_later_hear_of_both_kinds(app: App) -> None:
    engine = by_url(app)
    heard: list[str] = []
    with engine.connect() as connection:
        connection.execute(READ)
    flip(app, engine)
    event.listen(engine, "checkout", lambda *_: heard.append("checkout"))
    event.listen(engine, "begin", lambda *_: heard.append("begin"))
    event.listen(engine.pool, "connect", lambda *_: heard.append("connect"))
    for _ in range(2):
        with engine.connect() as connection:
            connection.execute(READ)
        flip(app, engine)
    assert heard == ["connect", "checkout", "begin"] * 2


def test_a_listener_that_comes_first_finds_a_read_only_connection_locked(app: App) -> None:
    engine = by_url(app, poolclass=NullPool)
    flip(app, engine)
    heard: list[str] = []

    def writes(connection: Any, _: object) -> None:
        try:
            connection.cursor().execute("insert into book (title) values ('road')")
            connection.commit()
        except Exception as error:  # noqa: BLE001  # each driver has its own
            heard.append(str(error))
            connection.rollback()

    event.listen(engine, "first_connect", writes)
    with engine.connect() as connection:
        assert connection.scalar(READ) == "rw"
    event.listen(engine, "connect", writes, insert=True)
    with engine.connect() as connection:
        assert connection.scalar(READ) == "rw"
    assert len(heard) == 2
    assert app.titles("rw") == []


def test_a_pool_that_goes_by_no_mode_is_refused(app: App) -> None:
    engine = by_url(app)
    with pytest.raises(ConfigurationError, match="Give pool= or poolclass="):
        engine.pool = NullPool(lambda: None)  # type: ignore[arg-type, return-value]  # it connects nothing
    assert which(engine.raw_connection) == "rw"


def test_a_dispose_during_a_flip_leaves_no_shut_pool(app: App) -> None:
    engine = by_url(app, sa_readonly_reads="refuse")
    assert which(engine.raw_connection) == "rw"
    flip(app, engine)
    made = engine.pool.recreate()
    flip(app, engine)
    engine.pool = made  # as Engine.dispose() ends
    assert which(engine.raw_connection) == "rw"


def test_a_clone_a_reflection_and_an_attribute_are_those_of_one_engine(app: App) -> None:
    engine: Any = by_url(app, "ro")
    engine.mine = 1
    clone = engine.execution_options(logging_token="clone")
    for name in ("rw", "ro"):
        assert which(clone.raw_connection) == name
        assert "book" in inspect(engine).get_table_names()
        assert clone.pool is engine.pool
        assert engine.mine == 1
        assert isinstance(engine, Engine)
        flip(app, engine)


def test_a_savepoint_and_a_two_phase_transaction_keep_their_kind(app: App) -> None:
    engine = by_url(app)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            with connection.begin_twophase() as transaction:
                connection.execute(INSERT)
                transaction.rollback()
        with connection.begin(), connection.begin_nested():
            connection.execute(INSERT)
            flip(app, engine)
    with engine.connect() as connection:
        with connection.begin_twophase() as transaction:
            connection.execute(READ)
            transaction.prepare()
        with connection.begin(), connection.begin_nested(), pytest.raises(ReadOnlyError):
            connection.execute(INSERT)
    assert app.titles("rw") == ["road"]


def test_two_engines_in_one_session_have_each_their_mode(app: App) -> None:
    one, two = by_url(app), by_url(app, sa_readonly_file=f"{app.path}.other")
    with Session(binds={Author: one, Book: two}) as session:
        session.add_all([Author(name="Bob"), Book(title="both")])
        flip(app, one)
        with pytest.raises(ReadOnlyError):
            session.commit()
        session.rollback()
        session.add(Book(title="alone"))
        session.commit()
    assert app.titles("rw") == ["alone"]


def test_on_mariadb_it_is_so_too(maria: App, mariadb: MariaDB) -> None:
    engine = by_url(maria, "ro")
    with engine.connect() as connection:
        connection.execute(INSERT)
        flip(maria, engine)
        connection.execute(INSERT)  # what has begun goes on
        connection.commit()
        with pytest.raises(ReadOnlyError, match="close it, and take another one of the engine"):
            connection.execute(READ)
    with Session(engine) as session:
        assert session.scalars(WHICH).all() == ["ro"]
        with pytest.raises(ReadOnlyError):
            session.execute(INSERT)
    raw = engine.raw_connection()
    with pytest.raises(ReadOnlyError):
        raw.cursor().execute("insert into book (title) values ('raw')")
    raw.close()
    flip(maria, engine)
    with engine.begin() as connection:
        connection.execute(INSERT)
    engine.dispose()
    pool = pool_of_url(maria, sa_readonly_workers="false")
    for name in ("rw", "ro", "rw", "ro"):
        assert which(pool.connect) == name
        assert pool.checkedin() == 1
        flip_pool(maria, pool)
    for name, number in (("rw", 3), ("ro", 0)):
        assert mariadb.query(f"select count(*) from {maria.urls[name].database}.book") == [
            (number,)
        ]
