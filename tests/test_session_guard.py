"""RoutingSession: what is refused while read-only, and what becomes of the pools at a flip."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine, delete, event, exc, func, insert, select, text, update
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool

from sa_readonly import (
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    RoutingSession,
    State,
)
from sa_readonly.engines import guard
from sa_readonly.engines.doors import Door
from tests.app import WHICH, App, Author, Base, Book, Which


def add(session: Session) -> None:
    session.add(Book(title="no"))
    session.flush()


def change(session: Session) -> None:
    session.get_one(Author, 1).name = "Bob"
    session.flush()


def remove(session: Session) -> None:
    session.delete(session.get_one(Author, 1))
    session.flush()


def append(session: Session) -> None:
    author = session.get_one(Author, 1)
    author.books.append(Book(title="no"))
    session.flush()


def merge(session: Session) -> None:
    session.merge(Author(id=1, name="Bob"))
    session.flush()


WRITES = {
    "add": add,
    "change": change,
    "delete": remove,
    "cascade": append,
    "merge": merge,
    "autoflush": lambda session: (session.add(Book(title="no")), session.scalar(WHICH)),
    "in a savepoint": lambda session: (session.begin_nested(), add(session)),
    "insert": lambda session: session.execute(insert(Book).values(title="no")),
    "insert many": lambda session: session.execute(insert(Book), [{"title": "no"}]),
    "insert returning": lambda session: session.scalars(
        insert(Book).values(title="no").returning(Book)
    ),
    "update": lambda session: session.execute(update(Author).values(name="Bob")),
    "update by key": lambda session: session.execute(update(Author), [{"id": 1, "name": "Bob"}]),
    "update, fetch": lambda session: session.execute(
        update(Author).values(name="Bob").execution_options(synchronize_session="fetch")
    ),
    "delete statement": lambda session: session.execute(delete(Author)),
    "table insert": lambda session: session.execute(insert(Book.__table__).values(title="no")),
    "Query.update": lambda session: session.query(Author).update({"name": "Bob"}),
    "Query.delete": lambda session: session.query(Author).delete(),
    "bulk_save_objects": lambda session: session.bulk_save_objects([Book(title="no")]),
    "bulk_insert_mappings": lambda session: session.bulk_insert_mappings(Book, [{"title": "no"}]),
    "bulk_update_mappings": lambda session: session.bulk_update_mappings(
        Author, [{"id": 1, "name": "Bob"}]
    ),
}


@pytest.mark.parametrize("how", WRITES)
def test_a_write_is_refused_before_any_sql_is_sent(app: App, how: str) -> None:
    app.start()
    app.on("upgrade to 18")
    with app.sessions() as session:
        with pytest.raises(ReadOnlyError) as caught:
            WRITES[how](session)
        assert caught.value.reason == "upgrade to 18"
        assert caught.value.since is not None
        sent = [
            text for _, text in app.statements if not text.lstrip().upper().startswith("SELECT")
        ]
        assert [one for one in sent if "SAVEPOINT" not in one] == []
        session.rollback()
        assert session.scalar(WHICH) == "ro"
        assert session.scalar(select(func.count()).select_from(Author)) == 1
    assert (app.titles("rw"), app.titles("ro")) == ([], [])


@pytest.mark.parametrize("how", WRITES)
def test_the_same_write_takes_effect_while_read_write(app: App, how: str) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        before = [connection.execute(select(t)).all() for t in Base.metadata.sorted_tables]
    with app.sessions() as session:
        WRITES[how](session)
        session.commit()
    with app.engines["rw"].connect() as connection:
        after = [connection.execute(select(t)).all() for t in Base.metadata.sorted_tables]
    assert before != after


def test_a_flush_without_a_net_change_is_no_write(app: App) -> None:
    app.start()
    app.on()
    with app.sessions() as session:
        author = session.get_one(Author, 1)
        author.name = "Bob"
        author.name = "Ann"
        session.bulk_insert_mappings(Book, [])
        session.bulk_save_objects([])
        session.commit()
        author.name = author.name
        session.flush()
        new = Book(title="no")
        session.add(new)
        session.expunge(new)
        session.commit()
        assert session.scalar(WHICH) == "ro"


def test_a_text_is_refused_before_it_is_sent_by_whichever_method_of_the_driver(app: App) -> None:
    app.start()
    app.on()
    with app.engine_now().connect() as connection:
        bare = connection.execution_options(no_parameters=True)
        for send in (
            lambda: connection.execute(text("delete from book where id = :id"), {"id": 1}),
            lambda: connection.execute(text("delete from book where id = :id"), [{"id": 1}] * 2),
            lambda: bare.exec_driver_sql("delete from book"),
        ):
            with pytest.raises(ReadOnlyError) as caught:
                send()
            assert caught.value._kind == "statement"


def test_the_server_refuses_what_a_raw_cursor_writes(app: App) -> None:
    app.start()
    app.on()
    with app.sessions() as session:
        cursor = session.connection().connection.cursor()
        with pytest.raises(Exception, match=r"read-only|readonly"):
            cursor.execute("insert into book (title) values ('no')")
        cursor.close()
    assert app.titles("ro") == []


def test_without_a_read_only_database_the_same_one_is_read_and_not_written(app: App) -> None:
    del app.urls["ro"]
    app.start()
    with app.sessions.begin() as session:
        session.add(Book(title="one"))
    app.on()
    with app.sessions() as session:
        assert session.scalars(select(Book.title)).all() == ["one"]
        for write in WRITES.values():
            with pytest.raises(ReadOnlyError):
                write(session)
            session.rollback()
        cursor = session.connection().connection.cursor()
        with pytest.raises(Exception, match=r"read-only|readonly"):
            cursor.execute("insert into book (title) values ('no')")
        cursor.close()
    app.off()
    with app.sessions.begin() as session:
        session.add(Book(title="two"))
    assert app.titles("rw") == ["one", "two"]


def test_a_read_write_engine_gives_out_no_connection_while_read_only(app: App) -> None:
    app.start()
    engine = app.engines["rw"]
    clone = engine.execution_options(isolation_level="AUTOCOMMIT")
    app.on()
    app.selector.check()
    for reach in (engine.connect, engine.raw_connection, clone.connect, engine.begin().__enter__):
        with pytest.raises(ReadOnlyError):
            reach()
    engine.dispose()
    with pytest.raises(ReadOnlyError):
        engine.connect()
    app.off()
    app.selector.check()
    with clone.connect() as connection:
        assert connection.scalar(WHICH) == "rw"


def test_a_connection_held_over_the_flip_is_refused_its_next_begin(app: App) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        assert connection.scalar(WHICH) == "rw"
        app.on()
        connection.commit()
        with pytest.raises(ReadOnlyError):
            connection.scalar(WHICH)


def test_connections_of_the_old_pool_are_closed_when_they_come_back(app: App) -> None:
    closed: list[Any] = []
    app.start()
    engine = app.engines["rw"]
    event.listen(engine.pool, "close", lambda connection, _record: closed.append(connection))
    with engine.connect() as idle:
        idle_connection = idle.connection.dbapi_connection
        with engine.connect() as held:
            held_connection = held.connection.dbapi_connection
            idle.close()
            app.on()
            app.selector.check()
            assert closed == [idle_connection]
    assert closed == [idle_connection, held_connection]


@pytest.mark.parametrize("poolclass", [QueuePool, NullPool])
def test_flipping_back_opens_a_fresh_pool_with_the_users_listeners(
    app: App, poolclass: Any
) -> None:
    connects: list[str] = []
    app.engine("rw", poolclass=poolclass)
    event.listen(app.engines["rw"], "connect", lambda *_: connects.append("before"))
    app.start()
    with app.sessions() as session:
        session.scalar(WHICH)
    app.on()
    app.selector.check()
    event.listen(app.engines["rw"], "connect", lambda *_: connects.append("while read-only"))
    app.off()
    with app.sessions() as session:
        assert session.scalar(WHICH) == "rw"
    assert isinstance(app.engines["rw"].pool, poolclass)
    assert connects == ["before", "before", "while read-only"]


def test_a_database_in_memory_is_never_retired(tmp_path: Any) -> None:
    rw, ro = create_engine("sqlite://"), create_engine("sqlite://")
    for engine, name in ((rw, "rw"), (ro, "ro")):
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(insert(Which).values(name=name))
    with EngineSelector(
        FileSwitch(tmp_path / "read-only.txt", ttl=0), read_write=rw, read_only=ro
    ) as selector:
        factory = sessionmaker(selector, class_=RoutingSession)
        for _ in range(2):
            with factory.begin() as session:
                assert session.scalar(WHICH) == "rw"
                session.add(Book(title="kept"))
            selector.switch.enable()
            with factory() as session:
                assert session.scalar(WHICH) == "ro"
            with pytest.raises(ReadOnlyError):
                rw.connect()
            selector.switch.disable()
        with factory() as session:
            assert session.scalar(select(func.count()).select_from(Book)) == 2
            session.close()
        with factory(role="replica") as session:
            session.add(Book(title="no"))
            with pytest.raises(ReadOnlyError):
                session.flush()
    rw.dispose()
    ro.dispose()


def test_a_fixed_switch_decides_for_a_script(lite: App) -> None:
    for mode, name in ((Mode.READ_ONLY, "ro"), (Mode.READ_WRITE, "rw")):
        with (
            EngineSelector(
                FixedSwitch(mode), read_write=lite.engine("rw"), read_only=lite.engine("ro")
            ) as selector,
            RoutingSession(selector) as session,
        ):
            assert session.scalar(WHICH) == name


def test_a_fixed_switch_that_a_test_flips_closes_what_lies_idle(lite: App) -> None:
    engine = lite.engine("rw")
    switch = FixedSwitch(Mode.READ_WRITE)
    with EngineSelector(switch, read_write=engine):
        engine.connect().close()
        end = switch.override(State(Mode.READ_ONLY))
        assert Door.of(engine).connections == 0
        end()


def test_filling_again_is_possible_after_the_selector_is_closed(lite: App) -> None:
    lite.start()
    lite.on()
    lite.selector.check()
    lite.selector.close()
    fill_again = lite.engines["rw"]
    with fill_again.begin() as connection:
        connection.execute(insert(Book).values(title="by the script"))
    assert lite.titles("rw") == ["by the script"]
    with lite.sessions() as session, pytest.raises(exc.InvalidRequestError, match="is closed"):
        session.scalar(WHICH)


def test_what_is_refused_after_the_flip_back_tells_why_it_was_read_only(app: App) -> None:
    app.start(ttl=0)
    app.on("upgrade")
    with app.sessions() as session:
        assert session.scalar(WHICH) == "ro"
        app.off()
        assert app.selector.check().mode is Mode.READ_WRITE
        session.add(Book(title="late"))
        with pytest.raises(ReadOnlyError, match="while the application was read-only") as caught:
            session.flush()
        assert caught.value.reason == "upgrade"
        with pytest.raises(ReadOnlyError) as caught:
            session.execute(insert(Book).values(title="late"))
        assert caught.value.reason == "upgrade"
    assert guard.refused_connection(app.engines["rw"]).reason == "upgrade"
    with app.sessions(role="replica") as session:
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError, match="the role 'replica'") as caught:
            session.flush()
        assert caught.value.reason is None


def test_a_text_that_is_refused_after_the_flip_back_tells_why_it_was_read_only(app: App) -> None:
    app.start(ttl=0)
    app.on("upgrade")
    with app.sessions() as session:
        assert session.scalar(WHICH) == "ro"
        app.off()
        app.selector.check()
        with pytest.raises(ReadOnlyError, match="while the application was read-only") as caught:
            session.execute(text("insert into book (title) values ('late')"))
        assert caught.value.reason == "upgrade"
