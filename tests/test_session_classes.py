"""RoutingSession: session classes of the user's own, and those of SQLAlchemy's extensions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Delete, Insert, Update, func, select
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Mapper, Session, scoped_session
from sqlalchemy.orm.exc import UnmappedClassError

from sa_readonly import ConfigurationError, ReadOnlyError, RoutingSession
from tests.app import WHICH, App, Author, Book, Which


def test_a_session_class_of_the_users_own_works_in_either_order(lite: App) -> None:
    calls: list[str] = []

    class Own(Session):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("own")
            return super().get_bind(*args, **kwargs)

    class First(RoutingSession, Own):
        pass

    class Last(Own, RoutingSession):
        pass

    lite.start()
    for cls in (First, Last):
        with cls(lite.selector) as session:
            assert session.scalar(WHICH) == "rw"
        lite.on()
        with cls(lite.selector) as session:
            assert session.scalar(WHICH) == "ro"
            session.add(Book(title="no"))
            with pytest.raises(ReadOnlyError):
                session.flush()
        lite.off()
    assert len(calls) >= 6


def test_a_session_class_that_connects_in_its_own_way_is_asked_for_each_statement(
    lite: App,
) -> None:
    asked = []

    class Theirs(Session):
        def _connection_for_bind(self, engine: Any, *args: Any, **kwargs: Any) -> Any:
            asked.append(engine)
            return super()._connection_for_bind(engine, *args, **kwargs)

    class Ours(RoutingSession, Theirs):
        pass

    lite.start()
    with Ours(lite.selector) as session:
        session.scalar(WHICH)
        session.scalar(WHICH)
    assert asked == [lite.engines["rw"]] * 2


def test_a_session_class_that_finds_the_selector_itself_is_routed(lite: App) -> None:
    class Found(RoutingSession):
        def get_bind(self, mapper: Any = None, **kw: Any) -> Any:
            return super().get_bind(mapper, bind=lite.selector)

    class Behind(Session):
        def get_bind(self, mapper: Any = None, **kw: Any) -> Any:
            return lite.selector

    class InFront(RoutingSession, Behind):
        pass

    lite.start()
    for cls in (Found, InFront):
        with cls() as session:
            assert session.scalar(WHICH) == "rw"
            lite.on()
            assert session.scalar(WHICH) == "rw"
            session.rollback()
            assert session.scalar(WHICH) == "ro"
        lite.off()


def test_the_get_bind_that_the_docs_show_is_routed(lite: App) -> None:
    page = (Path(__file__).parents[1] / "docs" / "adopting.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    lite.start()
    names: dict[str, Any] = {"north_selector": lite.selector, "south_selector": None}
    exec(block, names)
    with names["Regional"](info={"region": "north"}) as session:
        assert session.scalar(WHICH) == "rw"
        lite.on()
        assert session.scalar(WHICH) == "rw"
        session.rollback()
        assert session.scalar(WHICH) == "ro"


@pytest.mark.parametrize("order", ["mapper first", "clause first"])
def test_a_get_bind_that_knows_only_mapper_and_clause_works(lite: App, order: str) -> None:
    asked: list[Any] = []

    class Theirs(Session):
        if order == "mapper first":

            def get_bind(self, mapper: Any = None, clause: Any = None) -> Any:
                asked.append((mapper, clause))
                return lite.selector

        else:

            def get_bind(self, clause: Any = None, mapper: Any = None) -> Any:
                asked.append((mapper, clause))
                return lite.selector

    class Routed(RoutingSession, Theirs):
        pass

    lite.start()
    with Routed() as session:
        assert session.scalar(WHICH) == "rw"
        mapper, clause = asked.pop()
        assert (mapper.class_, clause) == (Which, WHICH)
        session.add(Book(title="one"))
        session.flush()
        session.bulk_insert_mappings(Book, [{"title": "two"}])
        session.connection()
        session.connection({"bind": lite.selector})
        session.connection({"bind": lite.engines["rw"]})
        session.commit()
        lite.on()
        assert session.scalar(WHICH) == "ro"
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError):
            session.flush()
    assert lite.titles("rw") == ["one", "two"]


BULK: dict[str, Any] = {
    "bulk_save_objects": lambda session: session.bulk_save_objects([Book(title="one")]),
    "bulk_insert_mappings": lambda s: s.bulk_insert_mappings(Book, [{"title": "one"}]),
    "bulk_update_mappings": lambda s: s.bulk_update_mappings(Author, [{"id": 1, "name": "Bob"}]),
}


def leader_and_follower(lite: App) -> Any:
    """The usual class of public recipes: a flush goes to the leader, a read to the follower."""

    class Theirs(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None) -> Any:
            asked.append(mapper)
            write = self._flushing or isinstance(clause, (Insert, Update, Delete))
            return lite.selector if write else lite.engines["ro"]

    class Routed(RoutingSession, Theirs):
        asked: list[Any]

    asked = Routed.asked = []
    return Routed


@pytest.mark.parametrize("how", BULK)
def test_what_is_saved_in_bulk_is_asked_about_as_its_flush_is(lite: App, how: str) -> None:
    lite.start()
    routed = leader_and_follower(lite)
    with routed() as session:
        BULK[how](session)
        session.commit()
        assert {type(mapper) for mapper in routed.asked} == {Mapper}
        assert session.scalar(WHICH) == "ro"
        session.rollback()
        lite.on()
        with pytest.raises(ReadOnlyError, match="the application is read-only since"):
            BULK[how](session)
        assert not session._flushing
    with lite.engines["ro"].connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Book)) == 0


@pytest.mark.parametrize("how", BULK)
def test_a_sharded_session_that_saves_in_bulk_gets_sqlalchemys_own_error(
    lite: App, how: str
) -> None:
    lite.start()
    lite.on()

    class Shards(RoutingSession, ShardedSession):
        pass

    with (
        Shards(
            shards={"a": lite.selector},
            shard_chooser=lambda *_, **__: "a",
            identity_chooser=lambda *_, **__: ["a"],
            execute_chooser=lambda _context: ["a"],
        ) as session,
        pytest.raises(NotImplementedError, match="per-instance sharding not supported"),
    ):
        BULK[how](session)


def test_what_is_not_mapped_gets_sqlalchemys_own_error(lite: App) -> None:
    lite.start()
    with lite.sessions() as session:
        with pytest.raises(UnmappedClassError):
            session.bulk_insert_mappings(App, [{}])
        with pytest.raises(AttributeError, match="_sa_instance_state"):
            session.bulk_save_objects([object()])


def test_scoped_session_works(app: App) -> None:
    app.start()
    session = scoped_session(app.sessions)
    assert session.scalar(WHICH) == "rw"
    app.on()
    session.remove()
    assert session.scalar(WHICH) == "ro"
    session.remove()


def test_an_engine_chosen_by_a_get_bind_of_the_users_own_pins_the_mode(lite: App) -> None:
    class Own(RoutingSession):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            return lite.engines["rw"] if self._flushing else super().get_bind(*args, **kwargs)

    lite.start()
    with Own(lite.selector) as session:
        session.add(Book(title="one"))
        session.flush()
        lite.on()
        lite.selector.check()
        assert session.scalar(WHICH) == "rw"
        session.commit()
        assert session.scalar(WHICH) == "ro"
    assert lite.titles("rw") == ["one"]


def test_a_session_that_chooses_in_front_of_ours_is_refused_with_the_cure(lite: App) -> None:
    class InFront(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any:
            return lite.selector

    class Wrong(InFront, RoutingSession):
        pass

    lite.start()
    with Wrong() as session:
        session.add(Book(title="no"))
        with pytest.raises(ConfigurationError, match="Derive from RoutingSession first"):
            session.flush()


def test_a_session_class_behind_ours_may_take_arguments_of_its_own_first(lite: App) -> None:
    class Other(Session):
        def __init__(self, db: str, **kwargs: Any) -> None:
            self.db = db
            super().__init__(**kwargs)

    class Mine(RoutingSession, Other):
        pass

    lite.start()
    with Mine(lite.selector, db="x") as session:
        assert (session.db, session.scalar(WHICH)) == ("x", "rw")
