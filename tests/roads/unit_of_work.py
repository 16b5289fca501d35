"""Roads through a session's unit of work: adds, changes, deletes, merges and events."""

# ruff: noqa: ARG005  # listeners take what SQLAlchemy gives
from __future__ import annotations

from typing import Any

from sqlalchemy import event, insert, select, text

from tests.roads.model import Part, Place, Thing, W, road


@road()
def add_and_commit(place: Place) -> None:
    with place.session() as session:
        session.add(Thing(name="road"))
        session.commit()


@road()
def add_in_begin(place: Place) -> None:
    with place.session() as session, session.begin():
        session.add(Thing(name="road"))


@road()
def add_all_and_flush(place: Place) -> None:
    with place.session() as session:
        session.add_all([Thing(name="road"), Thing(name="road")])
        session.flush()
        session.commit()


@road()
def add_of_a_part_by_cascade(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        one.parts.append(Part(name="road"))
        session.commit()


@road()
def dirty_attribute(place: Place) -> None:
    with place.session() as session:
        session.get_one(Thing, 1).name = "road"
        session.commit()


@road()
def dirty_attribute_with_an_expression(place: Place) -> None:
    with place.session() as session:
        session.get_one(Thing, 1).name = Thing.name + "road"
        session.commit()


@road()
def delete_of_an_object(place: Place) -> None:
    with place.session() as session:
        session.delete(session.get_one(Part, 1))
        session.commit()


@road()
def delete_by_cascade(place: Place) -> None:
    with place.session() as session:
        session.delete(session.get_one(Thing, 1))
        session.commit()


@road()
def delete_of_an_orphan(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        one.parts.clear()
        session.commit()


@road()
def merge_of_a_new_object(place: Place) -> None:
    with place.session() as session:
        session.merge(Thing(id=99, name="road"))
        session.commit()


@road()
def merge_of_a_changed_object(place: Place) -> None:
    with place.session() as session:
        session.merge(Thing(id=1, name="road"))
        session.commit()


@road()
def autoflush_by_a_query(place: Place) -> None:
    with place.session() as session:
        session.add(Thing(name="road"))
        session.scalars(select(Thing)).all()
        session.commit()


@road()
def autoflush_by_a_lazy_load(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        one.name = "road"
        list(one.parts)
        session.commit()


@road()
def add_in_a_savepoint(place: Place) -> None:
    with place.session() as session:
        with session.begin_nested():
            session.add(Thing(name="road"))
        session.commit()


@road()
def core_insert_in_a_savepoint(place: Place) -> None:
    with place.session() as session:
        session.scalars(select(Thing)).all()
        with session.begin_nested():
            session.execute(insert(Thing).values(name="road"))
        session.commit()


@road()
def add_without_autoflush(place: Place) -> None:
    with place.session(autoflush=False) as session:
        session.add(Thing(name="road"))
        session.commit()


@road()
def text_in_before_commit(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "before_commit", lambda s: s.execute(text(W)))
        session.scalars(select(Thing)).all()
        session.commit()


@road()
def add_in_before_commit(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "before_commit", lambda s: s.add(Thing(name="road")))
        session.scalars(select(Thing)).all()
        session.commit()


@road()
def connection_in_after_flush(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "after_flush", lambda s, _: s.connection().execute(text(W)))
        session.add(Thing(name="road"))
        session.commit()


@road()
def add_in_before_flush(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "before_flush", lambda s, *_: s.add(Thing(name="road")))
        session.get_one(Thing, 1).note = "x"
        session.commit()


@road()
def text_in_after_begin(place: Place) -> None:
    with place.session() as session:
        event.listen(session, "after_begin", lambda s, t, connection: connection.execute(text(W)))
        session.scalars(select(Thing)).all()
        session.commit()


@road()
def connection_in_before_insert(place: Place) -> None:
    def also(mapper: Any, connection: Any, target: Thing) -> None:
        connection.execute(insert(Part).values(thing_id=1, name="road"))

    event.listen(Thing, "before_insert", also)
    try:
        with place.session() as session:
            session.add(Thing(name="road"))
            session.commit()
    finally:
        event.remove(Thing, "before_insert", also)
