"""RoutingSession: session classes of the user's own, and those of SQLAlchemy's extensions."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session, scoped_session

from sa_readonly import ConfigurationError, ReadOnlyError, RoutingSession
from tests.app import WHICH, App, Book


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
