"""Roads round the selector: the read-write engine itself, other sessions, other threads."""

from __future__ import annotations

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from tests.app import in_thread
from tests.roads.model import PG, Place, Thing, W, new, other, road, thing
from tests.roads.unit_of_work import add_and_commit


@road(around=True)
def read_write_engine_in_core(place: Place) -> None:
    with place.read_write.begin() as connection:
        connection.execute(insert(thing).values(new))


@road(around=True)
def read_write_engine_with_text(place: Place) -> None:
    with place.read_write.begin() as connection:
        connection.execute(text(W))


@road(around=True)
def clone_of_the_read_write_engine(place: Place) -> None:
    engine = place.read_write.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(W))


@road(around=True)
def raw_connection_of_the_read_write_engine(place: Place) -> None:
    connection = place.read_write.raw_connection()
    try:
        connection.cursor().execute(W)
        connection.commit()
    finally:
        connection.close()


@road(around=True)
def pool_of_the_read_write_engine(place: Place) -> None:
    connection = place.read_write.pool.connect()
    try:
        connection.cursor().execute(W)
        connection.commit()
    finally:
        connection.close()


@road(around=True)
def pool_of_the_read_write_engine_after_a_dispose(place: Place) -> None:
    place.read_write.dispose()
    connection = place.read_write.pool.connect()
    try:
        connection.cursor().execute(W)
        connection.commit()
    finally:
        connection.close()


@road(around=True)
def plain_session_on_the_read_write_engine(place: Place) -> None:
    with Session(place.read_write) as session:
        session.add(Thing(name="road"))
        session.commit()


@road(around=True)
def bind_arguments_with_the_read_write_engine(place: Place) -> None:
    with place.session() as session:
        session.execute(insert(thing).values(new), bind_arguments={"bind": place.read_write})
        session.commit()


@road(around=True)
def connection_with_bind_arguments(place: Place) -> None:
    with place.session() as session:
        session.connection(bind_arguments={"bind": place.read_write}).execute(text(W))
        session.commit()


@road(around=True)
def session_bound_to_the_read_write_engine(place: Place) -> None:
    with place.session(bind=place.read_write) as session:
        session.add(Thing(name="road"))
        session.commit()


@road(around=True)
def session_with_binds(place: Place) -> None:
    with place.session(binds={Thing: place.read_write}) as session:
        session.add(Thing(name="road"))
        session.commit()


@road(around=True)
def create_all_on_the_read_write_engine(place: Place) -> None:
    other.metadata.create_all(place.read_write)


@road(PG, around=True, traceless=True)
def advisory_lock_on_the_read_write_engine(place: Place) -> None:
    with place.read_write.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(7)))
        place.probe()


@road(around=True)
def thread_with_the_read_write_engine(place: Place) -> None:
    in_thread(lambda: read_write_engine_in_core(place))


@road(PG, around=True)
def twophase_on_the_read_write_engine(place: Place) -> None:
    with place.read_write.connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(text(W))
        transaction.prepare()
        transaction.commit()


@road()
def second_session(place: Place) -> None:
    with place.session() as first, place.session() as second:
        first.scalars(select(Thing)).all()
        second.add(Thing(name="road"))
        second.commit()


@road()
def thread_with_a_session(place: Place) -> None:
    in_thread(lambda: add_and_commit(place))


@road()
def session_joined_to_a_connection(place: Place) -> None:
    with place.engine().connect() as connection:
        with Session(connection) as session:
            session.add(Thing(name="road"))
            session.commit()
        connection.commit()


@road()
def session_of_object_session(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        found = Session.object_session(one)
        found.execute(text(W))
        found.commit()


@road()
def engine_of_the_connection(place: Place) -> None:
    with place.session() as session:
        engine = session.connection().engine
    with engine.begin() as connection:
        connection.execute(text(W))
