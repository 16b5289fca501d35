"""RoutingSession: several engines, connections that are given to it, bind arguments and roles."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event, exc, insert, inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FileSwitch,
    ReadOnlyError,
    RoutingSession,
)
from tests.app import WHICH, App, Author, Base, Book, Which, make_app, sqlite_urls

# -- binds ------------------------------------------------------------------------------------


def test_a_plain_session_refuses_a_selector_and_names_the_cure(lite: App) -> None:
    lite.start()
    for factory in (sessionmaker(lite.selector), lambda: Session(lite.selector)):
        with factory() as session, pytest.raises(ConfigurationError, match="class_=RoutingSession"):
            session.scalar(WHICH)
        with factory() as session:
            session.add(Book(title="no"))
            with pytest.raises(ConfigurationError, match="class_=RoutingSession"):
                session.commit()
    assert lite.titles("rw") == []


@pytest.fixture
def other(place: Any) -> Any:
    """A second application in the same process, with databases of its own."""
    directory = place / "other"
    directory.mkdir()
    with make_app(directory, sqlite_urls(directory, "rw", "ro")) as made:
        yield made


def test_several_databases_in_one_session_share_the_mode_of_one_switch(
    lite: App, other: App
) -> None:
    lite.start()
    other.selector = EngineSelector(
        lite.selector.switch, read_write=other.engine("rw"), read_only=other.engine("ro")
    )
    factory = sessionmaker(
        class_=RoutingSession, binds={Author: lite.selector, Which: other.selector}
    )
    with factory() as session:
        session.get(Author, 1)
        lite.on()
        # The first connection has decided; the other read-write engine is closed by now.
        with pytest.raises(ReadOnlyError):
            session.scalar(WHICH)
        session.rollback()
        session.get(Author, 1)
        assert session.scalar(WHICH) == "ro"
        lite.off()
        assert session.scalar(WHICH) == "ro"
    with factory() as session:
        assert session.scalar(WHICH) == "rw"
        lite.selector.check()
        lite.statements.clear()
        session.get(Author, 1)
        assert {name for name, _ in lite.statements} == {"rw"}


def test_an_engine_of_a_get_bind_of_the_users_own_moves_no_mode_that_is_pinned(
    lite: App, other: App
) -> None:
    class Own(RoutingSession):
        def get_bind(self, mapper: Any = None, **kw: Any) -> Any:
            return (
                other.engines["ro"] if kw.get("clause") is WHICH else super().get_bind(mapper, **kw)
            )

    lite.start()
    lite.on()
    other.selector = EngineSelector(
        lite.selector.switch, read_write=other.engine("rw"), read_only=other.engine("ro")
    )
    with Own(binds={Author: lite.selector, Book: other.selector}) as session:
        session.get(Author, 1)  # which pins
        lite.off()
        lite.selector.check()
        assert session.scalar(WHICH) == "ro"
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError):
            session.flush()
    assert other.titles("rw") == []


def test_two_selectors_with_switches_of_their_own_know_nothing_of_each_other(
    lite: App, other: App
) -> None:
    lite.start()
    other.start()
    lite.on()
    factory = sessionmaker(
        class_=RoutingSession, binds={Book: lite.selector, Which: other.selector}
    )
    with factory() as session:
        assert session.scalar(WHICH) == "rw"
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError):
            session.commit()


def test_a_transaction_keeps_the_engine_of_each_switch_it_has_a_connection_by(
    lite: App, other: App
) -> None:
    lite.start()
    other.start()
    factory = sessionmaker(
        class_=RoutingSession, binds={Author: lite.selector, Which: other.selector}
    )
    with factory() as session:
        session.get(Author, 1)
        assert session.scalar(WHICH) == "rw"
        other.on()
        other.selector.check()
        assert session.scalar(WHICH) == "rw"
        lite.on()
        lite.selector.check()
        session.get(Author, 2)
        assert lite.statements[-1][0] == "rw"
        session.rollback()
        assert session.scalar(WHICH) == "ro"


def test_a_plain_engine_among_the_binds_is_written_to_while_read_only(
    lite: App, other: App
) -> None:
    lite.start()
    lite.on()
    factory = sessionmaker(
        class_=RoutingSession, binds={Which: lite.selector, Base: other.engine("rw")}
    )
    with factory.begin() as session:
        session.add(Book(title="log"))
        assert session.scalar(WHICH) == "ro"
    assert other.titles("rw") == ["log"]


def test_what_is_saved_in_bulk_is_refused_before_any_of_it_is_sent(lite: App, other: App) -> None:
    lite.start()
    lite.on()
    binds = {Author: other.engine("rw"), Book: lite.selector}
    refused = pytest.raises(ReadOnlyError, match=r"bulk_save_objects\(\) of Book")
    with sessionmaker(class_=RoutingSession, binds=binds)() as session, refused:
        session.bulk_save_objects([Author(name="Bob"), Book(title="no")])
    assert other.statements == []


class Own(DeclarativeBase):
    pass


class Title(Own):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Subtitle(Title):
    pass


@pytest.mark.parametrize("how", ["bulk_save_objects", "bulk_insert_mappings", "flush"])
def test_a_subclass_is_saved_by_the_bind_of_its_base_and_refused_by_that(
    lite: App, other: App, how: str
) -> None:
    def save(session: Session) -> None:
        if how == "flush":
            session.add(Subtitle(title="new"))
            session.flush()
        elif how == "bulk_save_objects":
            session.bulk_save_objects([Subtitle(title="new")])
        else:
            session.bulk_insert_mappings(inspect(Subtitle), [{"title": "new"}])

    lite.start()
    binds = {Title: lite.selector, Subtitle: other.engine("rw")}
    factory = sessionmaker(class_=RoutingSession, binds=binds)
    with factory.begin() as session:
        save(session)
    lite.on()
    with factory() as session, pytest.raises(ReadOnlyError, match=f"{how}.* is refused"):
        save(session)
    assert (lite.titles("rw"), other.titles("rw")) == (["new"], [])


def test_a_bind_added_later_is_used(lite: App, other: App) -> None:
    lite.start()
    other.start()
    with lite.sessions() as session:
        session.bind_mapper(Which, other.selector)
        other.on()
        assert session.scalar(WHICH) == "ro"
        session.get(Author, 1)
        assert lite.statements[-1][0] == "rw"


@pytest.mark.parametrize(
    "join", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]
)
def test_a_session_joins_a_transaction_that_was_begun_before_the_flip(app: App, join: Any) -> None:
    app.start()
    with app.engines["rw"].connect() as connection, connection.begin() as transaction:
        connection.execute(insert(Book).values(title="outer"))
        app.on()
        app.selector.check()
        with RoutingSession(connection, join_transaction_mode=join) as session:
            session.add(Book(title="inner"))
            session.commit()
        if transaction.is_active:
            transaction.commit()
    assert app.titles("rw") == ["inner", "outer"]


@pytest.mark.parametrize(
    "join", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]
)
def test_a_session_on_a_connection_begins_no_read_write_transaction_after_the_flip(
    app: App, join: Any
) -> None:
    app.start()
    with app.engines["rw"].connect() as connection:
        app.on()
        with RoutingSession(connection, join_transaction_mode=join) as session:
            with pytest.raises(ReadOnlyError):
                session.scalar(WHICH)
            session.rollback()
            app.off()
            assert session.scalar(WHICH) == "rw"


def test_a_session_on_a_read_only_connection_refuses_a_flush(app: App) -> None:
    app.start()
    with app.engines["ro"].connect() as connection, RoutingSession(connection) as session:
        assert session.scalar(WHICH) == "ro"
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError):
            session.flush()


def test_the_read_write_engine_given_by_bind_arguments_is_refused_while_read_only(app: App) -> None:
    app.start()
    arguments = {"bind": app.engines["rw"]}
    with app.sessions() as session:
        assert session.scalar(WHICH, bind_arguments=arguments) == "rw"
        app.on()
        assert session.scalar(WHICH, bind_arguments=arguments) == "rw"
        assert session.scalar(WHICH) == "rw"
        session.rollback()
        with pytest.raises(ReadOnlyError):
            session.scalar(WHICH, bind_arguments=arguments)
        session.rollback()
        assert session.scalar(WHICH) == "ro"
        app.off()
        with pytest.raises(ReadOnlyError):
            session.scalar(WHICH, bind_arguments=arguments)


def test_the_engine_of_each_moment_given_by_bind_arguments_does_not_straddle(app: App) -> None:
    app.start()
    app.on()
    with app.sessions() as session:

        def engine_now() -> dict[str, Any]:
            return {"bind": app.engine_now()}

        assert session.scalar(WHICH, bind_arguments=engine_now()) == "ro"
        app.off()
        assert app.engine_now() is app.engines["rw"]
        with pytest.raises(ReadOnlyError):
            session.scalar(WHICH, bind_arguments=engine_now())


def test_the_twin_given_by_bind_arguments_is_read_while_read_only(lite: App) -> None:
    del lite.urls["ro"]
    lite.start()
    lite.on()
    with lite.sessions() as session:
        arguments = {"bind": lite.selector.engine()}
        assert session.scalar(WHICH, bind_arguments=arguments) == "rw"


def test_a_listener_that_asks_for_the_bind_does_not_unpin(lite: App) -> None:
    lite.start()

    def ask(session: Session, *_: Any) -> None:
        session.get_bind()

    event.listen(Session, "after_begin", ask)
    try:
        with lite.sessions() as session:
            assert session.scalar(WHICH) == "rw"
            lite.on()
            assert session.scalar(WHICH) == "rw"
    finally:
        event.remove(Session, "after_begin", ask)


def test_an_engine_with_two_switches_pins_both(lite: App, place: Any) -> None:
    lite.start()
    switch = FileSwitch(place / "second.txt", ttl=0)
    second = EngineSelector(
        switch, read_write=lite.engines["rw"], read_only=lite.engines["ro"], watch=False
    )
    with lite.sessions() as session:
        arguments = {"bind": lite.engines["rw"]}
        assert session.scalar(WHICH, bind_arguments=arguments) == "rw"
        lite.on()
        switch.enable()
        assert session.scalar(WHICH) == "rw"
        assert session.scalar(WHICH, bind_arguments={"bind": second}) == "rw"
    switch.disable()
    second.close()


def test_a_sharded_session_finds_its_shard_by_the_instance(lite: App, other: App) -> None:
    from sqlalchemy.ext.horizontal_shard import ShardedSession  # noqa: PLC0415  # here alone

    class Shards(RoutingSession, ShardedSession):
        pass

    lite.start()
    other.start()
    with Shards(
        shards={"a": lite.selector, "b": other.selector},
        shard_chooser=lambda _mapper, instance, *_, **__: instance.title if instance else "a",
        identity_chooser=lambda *_, **__: ["a", "b"],
        execute_chooser=lambda _context: ["a", "b"],
    ) as session:
        session.add_all([Book(title="a"), Book(title="b")])
        session.commit()
        other.on()
        assert sorted(session.scalars(WHICH)) == ["ro", "rw"]
        session.commit()
        session.add(Book(title="b"))
        with pytest.raises(ReadOnlyError):
            session.commit()
    assert (lite.titles("rw"), other.titles("rw")) == (["a"], ["b"])


# -- roles ------------------------------------------------------------------------------------


def test_the_role_chooses_the_replica(lite: App, other: App) -> None:
    other.urls = {"replica": other.urls["rw"], "ro": other.urls["ro"]}
    replica = other.engine("replica")
    lite.start(read_write=Engines(lite.engine("rw"), replica))
    with lite.sessions(role="replica") as session:
        assert session.role == "replica"
        assert session.connection().engine is replica
        session.rollback()
        session.role = "primary"
        assert session.connection().engine is lite.engines["rw"]
        with pytest.raises(exc.InvalidRequestError, match="Commit or roll back first"):
            session.role = "replica"
        session.role = "primary"
        session.commit()
        lite.on()
        session.role = "replica"
        assert session.connection().engine is lite.engines["ro"]


@pytest.mark.parametrize("role", ["slave", "", None, 1])
def test_an_unknown_role_is_refused_at_once(lite: App, role: Any) -> None:
    lite.start()
    with pytest.raises(ConfigurationError, match='role is "primary" or "replica", not'):
        lite.sessions(role=role)
    with lite.sessions() as session, pytest.raises(ConfigurationError):
        session.role = role
    with pytest.raises(ConfigurationError):
        lite.selector.engine(role)


def test_the_role_replica_does_not_use_a_read_write_engine_that_is_given(app: App) -> None:
    app.start()
    with app.sessions(role="replica") as session, pytest.raises(ReadOnlyError, match="the role"):
        session.execute(
            text("insert into book (title) values ('no')"),
            bind_arguments={"bind": app.engines["rw"]},
        )
    with (
        RoutingSession(app.engines["rw"], role="replica") as session,
        pytest.raises(ReadOnlyError, match="the role"),
    ):
        session.execute(text("insert into book (title) values ('no')"))
    assert app.titles("rw") == []


def test_without_a_replica_the_role_reads_the_primary_and_writes_nothing(app: App) -> None:
    app.start()
    with app.sessions(role="replica") as session:
        assert session.scalar(WHICH) == "rw"
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError, match="the role 'replica', which never writes"):
            session.flush()
        session.rollback()
        with pytest.raises(ReadOnlyError, match="the role 'replica', which never writes"):
            session.execute(text("insert into book (title) values ('no')"))
    assert app.titles("rw") == []


# -- Session.connection -----------------------------------------------------------------------


@pytest.mark.parametrize("when", ["read-only", "flipped back", "replica"])
def test_connection_holds_the_bind_that_it_is_given_to_the_mode(app: App, when: str) -> None:
    app.start(ttl=0)
    role = "replica" if when == "replica" else "primary"
    if when != "replica":
        app.on("upgrade")
    with app.sessions(role=role) as session:
        session.scalar(WHICH)
        if when == "flipped back":
            app.off()
            app.selector.check()
        with pytest.raises(ReadOnlyError):
            session.connection(bind_arguments={"bind": app.engines["rw"]})
    assert app.titles("rw") == []


def test_connection_takes_the_engine_that_it_is_given_while_it_may(app: App) -> None:
    app.start(ttl=0)
    with app.sessions() as session:
        given = session.connection(bind_arguments={"bind": app.engines["rw"]})
        assert given is session.connection()
        assert given.scalar(WHICH) == "rw"
    with app.sessions() as session:
        given = session.connection({"bind": app.engines["ro"]}, {"stream_results": True})
        assert given.scalar(WHICH) == "ro"
