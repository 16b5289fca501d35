"""Roads of SQLAlchemy's constructs: bulk operations, statements, DDL, two-phase and options."""

# ruff: noqa: PLW0108, PLW2901  # each statement is made anew, by a lambda
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    Column,
    MetaData,
    Sequence,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    lambda_stmt,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateSequence, CreateTable, DropTable, Index

from tests.roads.model import (
    ALL,
    LITE,
    MY,
    PG,
    ROADS,
    Part,
    Place,
    Road,
    Thing,
    W,
    counted,
    new,
    other,
    road,
    thing,
)
from tests.roads.ways import consume, fill


@road()
def bulk_save_of_new_objects(place: Place) -> None:
    with place.session() as session:
        session.bulk_save_objects([Thing(name="road")])
        session.commit()


@road()
def bulk_save_of_dirty_objects(place: Place) -> None:
    with place.session() as session:
        one = session.get_one(Thing, 1)
        session.expunge(one)
        one.name = "road"
        session.bulk_save_objects([one])
        session.commit()


@road()
def bulk_insert_mappings(place: Place) -> None:
    with place.session() as session:
        session.bulk_insert_mappings(Thing, [{"name": "road"}])
        session.commit()


@road()
def bulk_update_mappings(place: Place) -> None:
    with place.session() as session:
        session.bulk_update_mappings(Thing, [{"id": 1, "name": "road"}])
        session.commit()


@road()
def legacy_query_update(place: Place) -> None:
    with place.session() as session:
        session.query(Thing).update({"name": "road"})
        session.commit()


@road()
def legacy_query_delete(place: Place) -> None:
    with place.session() as session:
        session.query(Part).delete(synchronize_session=False)
        session.commit()


def statement_road(name: str, make: Callable[[], Any], *dialects: str, **kwargs: Any) -> None:
    """A construct, executed by the session, by its connection and by Core."""

    def run(connection: Any, parameters: Any = None) -> None:
        consume(connection.execute(make(), *([parameters] if parameters else [])))

    def by_session(place: Place) -> None:
        with place.session() as session:
            run(session, kwargs.get("parameters"))
            place.probe()
            session.commit()

    def by_session_connection(place: Place) -> None:
        with place.session() as session:
            run(session.connection(), kwargs.get("parameters"))
            place.probe()
            session.commit()

    def by_core(place: Place) -> None:
        with place.engine().begin() as connection:
            run(connection, kwargs.get("parameters"))
            place.probe()

    on = frozenset(dialects) or ALL
    traceless = kwargs.get("traceless", False)
    ROADS.append(Road(f"{name} - session", by_session, on, traceless=traceless))
    ROADS.append(Road(f"{name} - connection", by_session_connection, on, traceless=traceless))
    ROADS.append(Road(f"{name} - Core", by_core, on, traceless=traceless))


statement_road("ORM insert", lambda: insert(Thing).values(new))
statement_road("ORM insert of many", lambda: insert(Thing), parameters=[new, new])
statement_road(
    "ORM insert returning", lambda: insert(Thing).values(new).returning(Thing.id), PG, LITE
)
statement_road(
    "ORM insert of many returning",
    lambda: insert(Thing).returning(Thing),
    PG,
    LITE,
    parameters=[new, new],
)
statement_road("ORM update", lambda: update(Thing).values(new))
statement_road("ORM update returning", lambda: update(Thing).values(new).returning(Thing), PG, LITE)
statement_road(
    "update of many",
    lambda: update(thing).where(thing.c.id == bindparam("i")).values(name=bindparam("n")),
    parameters=[{"i": 1, "n": "road"}, {"i": 2, "n": "road"}],
)
statement_road("ORM delete", lambda: delete(Part))
statement_road("ORM delete returning", lambda: delete(Part).returning(Part.id), PG, LITE)
statement_road("Core insert", lambda: insert(thing).values(new))
statement_road(
    "insert from select", lambda: insert(thing).from_select(["name"], select(literal("road")))
)
statement_road(
    "from_statement of an insert",
    lambda: select(Thing).from_statement(insert(Thing).values(new).returning(Thing)),
    PG,
    LITE,
)
statement_road(
    "from_statement of a text",
    lambda: select(Thing).from_statement(
        text(W + " RETURNING id, name, note").columns(thing.c.id, thing.c.name, thing.c.note)
    ),
    PG,
    LITE,
)
statement_road("lambda insert", lambda: lambda_stmt(lambda: insert(thing).values(name="road")))
statement_road(
    "insert in a CTE", lambda: select(insert(thing).values(new).returning(thing.c.id).cte("x")), PG
)
statement_road("delete in a CTE", lambda: select(delete(Part).returning(Part.id).cte("x").c.id), PG)
statement_road(
    "insert in an added CTE",
    lambda: select(literal(1)).add_cte(insert(thing).values(new).cte("x")),
    PG,
)
statement_road(
    "PostgreSQL upsert",
    lambda: (
        postgresql.insert(thing)
        .values(id=1, name="road")
        .on_conflict_do_update(index_elements=["id"], set_=new)
    ),
    PG,
)
statement_road(
    "SQLite upsert",
    lambda: (
        sqlite.insert(thing)
        .values(id=1, name="road")
        .on_conflict_do_update(index_elements=["id"], set_=new)
    ),
    LITE,
)
statement_road(
    "MySQL upsert",
    lambda: mysql.insert(thing).values(id=1, name="road").on_duplicate_key_update(**new),
    MY,
)
statement_road("prefixed insert", lambda: insert(thing).values(new).prefix_with("/* SELECT */"))
statement_road(
    "select with a writing prefix",
    lambda: select(thing).suffix_with("FOR UPDATE"),
    PG,
    MY,
    traceless=True,
)
statement_road("insert with a default sequence", lambda: insert(counted).values(name="road"), PG)
statement_road("next_value of a sequence", lambda: select(Sequence("seq").next_value()), PG, MY)
statement_road("func.nextval", lambda: select(func.nextval("seq")), PG)
statement_road("func.setval", lambda: select(func.setval("seq", 77)), PG)
statement_road("func of a writing function", lambda: select(func.write_one()), PG, MY)
statement_road("a bare writing function", lambda: func.write_one(), PG, MY)
statement_road("func.lo_create", lambda: select(func.lo_create(0)), PG)
statement_road(
    "func.pg_advisory_lock", lambda: select(func.pg_advisory_xact_lock(7)), PG, traceless=True
)
statement_road("func.pg_notify", lambda: select(func.pg_notify("road", "x")), PG, traceless=True)
statement_road("with_for_update", lambda: select(Thing).with_for_update(), PG, MY, traceless=True)
statement_road(
    "with_for_update skip locked",
    lambda: select(Thing).with_for_update(skip_locked=True),
    PG,
    MY,
    traceless=True,
)
statement_road(
    "with_for_update key share",
    lambda: select(Thing).with_for_update(read=True, key_share=True),
    PG,
    traceless=True,
)
statement_road(
    "with_for_update read", lambda: select(Thing).with_for_update(read=True), PG, MY, traceless=True
)
statement_road("CreateTable", lambda: CreateTable(other))
statement_road("DropTable", lambda: DropTable(Part.__table__))
statement_road("CreateIndex", lambda: CreateIndex(road_index()))
statement_road("CreateSequence", lambda: CreateSequence(Sequence("road")), PG)
statement_road(
    "set_config by func",
    lambda: select(func.set_config("transaction_read_only", "off", True), func.write_one()),
    PG,
)


def road_index() -> Index:
    table = Table("thing", MetaData(), Column("name", String(50)))
    return Index("road", table.c.name)


@road(PG, MY)
def scalar_of_a_sequence(place: Place) -> None:
    with place.session() as session:
        session.scalar(Sequence("seq"))
        session.commit()


@road(PG, MY)
def scalar_of_a_sequence_in_core(place: Place) -> None:
    with place.engine().begin() as connection:
        connection.scalar(Sequence("seq"))


@road()
def get_with_for_update(place: Place) -> None:
    with place.session() as session:
        if place.dialect == LITE:  # which has no such lock
            session.execute(text(W))
        session.get(Thing, 1, with_for_update=True)
        place.probe()
        session.commit()


ROADS[-1] = Road("get with for update", get_with_for_update, frozenset((PG, MY)), traceless=True)


@road()
def create_all_on_the_engine(place: Place) -> None:
    other.metadata.create_all(place.engine())


@road()
def create_all_on_the_connection(place: Place) -> None:
    with place.session() as session:
        other.metadata.create_all(session.connection())
        session.commit()


@road()
def drop_all(place: Place) -> None:
    with place.engine().begin() as connection:
        Part.__table__.drop(connection)


@road(PG)
def create_all_of_an_enum(place: Place) -> None:
    postgresql.ENUM("a", name="road").create(place.engine())


@road()
def executemany(place: Place) -> None:
    with place.session() as session:
        session.connection().exec_driver_sql(
            W.replace("'road'", "?" if place.dialect == LITE else "%s"), [("road",), ("road",)]
        )
        session.commit()


@road(PG, traceless=True)
def twophase_begin_prepare_in_core(place: Place) -> None:
    with place.engine().connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(text(W))
        transaction.prepare()
        transaction.commit()


@road(PG)
def twophase_session(place: Place) -> None:
    with place.session(twophase=True) as session:
        session.add(Thing(name="road"))
        session.prepare()
        session.commit()


@road(PG)
def twophase_session_of_a_function(place: Place) -> None:
    with place.session(twophase=True) as session:
        session.execute(select(func.write_one()))
        session.commit()


@road(PG)
def commit_of_a_prepared_transaction(place: Place) -> None:
    with place.engine().connect() as connection:
        connection.commit_prepared(fill("{prepared}", place), recover=True)


@road(PG)
def rollback_of_a_prepared_transaction(place: Place) -> None:
    with place.engine().connect() as connection:
        connection.rollback_prepared(fill("{prepared}", place), recover=True)


@road(PG)
def change_that_a_fetch_finds(place: Place) -> None:
    """A server-side cursor runs the function no sooner than its row is fetched."""
    with place.session() as session:
        result = session.execute(
            text("SELECT CASE WHEN n > 5 THEN write_one() END FROM generate_series(1, 10) n"),
            execution_options={"yield_per": 2},
        )
        for _ in result:
            pass
        session.commit()


@road(PG)
def options_of_the_engine(place: Place) -> None:
    engine = place.engine().execution_options(
        postgresql_readonly=False, isolation_level="REPEATABLE READ"
    )
    with engine.begin() as connection:
        connection.execute(select(func.write_one()))


@road(PG)
def options_of_the_engine_autocommit(place: Place) -> None:
    engine = place.engine().execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection = connection.execution_options(postgresql_readonly=False)
        connection.execute(select(func.write_one()))


@road(PG)
def options_in_the_next_transaction(place: Place) -> None:
    with place.session() as session:
        session.connection(execution_options={"postgresql_readonly": False})
        session.execute(select(Thing)).all()
        session.commit()
        session.execute(select(func.write_one()))
        session.commit()
