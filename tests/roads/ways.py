"""Ways in which a text is sent: in sessions, connections and cursors, with and without options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import ResourceClosedError
from sqlalchemy.orm import Session

from tests.roads import texts, texts_postgresql
from tests.roads.model import LITE, MY, PG, ROADS, Place, Road
from tests.roads.texts import Text


def fill(statement: str, place: Place) -> str:
    values = {
        "scratch": place.scratch,
        "prepared": f"waiting_{place.engine().url.database}",
        "database": place.engine().url.database,
    }
    for name, value in values.items():
        statement = statement.replace("{" + name + "}", str(value))
    return statement


def bound(statement: str) -> Any:
    """The text, its colons those of casts only where they are."""
    return text(statement.replace("E':", "E'\\:"))


def consume(result: Any) -> None:
    with suppress(ResourceClosedError):  # it returned no rows
        result.all()


def by_session(t: Text, place: Place) -> None:
    with place.session() as session:
        for statement in t.statements:
            if statement == "COMMIT":
                session.commit()
            else:
                params = t.parameters if ":name" in statement else None
                consume(session.execute(bound(fill(statement, place)), params))
        place.probe()
        session.commit()


def by_connection(t: Text, place: Place) -> None:
    with place.session() as session:
        for statement in t.statements:
            if statement == "COMMIT":
                session.commit()
            else:
                sql = percent(fill(statement, place), place)
                consume(session.connection().exec_driver_sql(sql))
        place.probe()
        session.commit()


def by_options(t: Text, place: Place) -> None:
    """Options that turn the protection off."""
    options: dict[str, Any] = {"no_parameters": True}
    if place.dialect == PG:
        options["postgresql_readonly"] = False
    with place.session() as session:
        connection = session.connection(execution_options=options)
        for statement in t.statements:
            if statement == "COMMIT":
                session.commit()
                connection = session.connection(execution_options=options)
            else:
                consume(connection.exec_driver_sql(fill(statement, place)))
        place.probe()
        session.commit()


def by_core(t: Text, place: Place) -> None:
    with place.engine().connect() as connection:
        for statement in t.statements:
            if statement == "COMMIT":
                connection.commit()
            else:
                params = t.parameters if ":name" in statement else None
                consume(connection.execute(bound(fill(statement, place)), params))
        place.probe()
        connection.commit()


def by_autocommit(t: Text, place: Place) -> None:
    engine = place.engine().execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        try:
            if not t.autocommit:
                connection.exec_driver_sql("BEGIN")
            for statement in t.statements:
                if statement == "COMMIT" and not t.autocommit:
                    connection.exec_driver_sql("COMMIT")
                    connection.exec_driver_sql("BEGIN")
                else:
                    params = t.parameters if ":name" in statement else None
                    consume(connection.execute(bound(fill(statement, place)), params))
            if not t.autocommit:
                connection.exec_driver_sql("COMMIT")
        except Exception:
            if not t.autocommit:
                connection.exec_driver_sql("ROLLBACK")
            raise


def by_bare_autocommit(t: Text, place: Place) -> None:
    """Each statement is a transaction."""
    engine = place.engine().execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in t.statements:
            consume(connection.execute(bound(fill(statement, place)), t.parameters or None))


def by_plain_session(t: Text, place: Place) -> None:
    with place.session() as session, Session(session.get_bind()) as plain:
        for statement in t.statements:
            if statement == "COMMIT":
                plain.commit()
            else:
                consume(plain.execute(bound(fill(statement, place))))
        place.probe()
        plain.commit()


def by_stream(t: Text, place: Place) -> None:
    with place.engine().connect() as connection:
        for statement in t.statements:
            if statement == "COMMIT":
                connection.commit()
                continue
            streaming = connection.execution_options(stream_results=True)
            streaming.execute(bound(fill(statement, place))).all()
        connection.commit()


def raw_run(t: Text, place: Place, dbapi_connection: Any) -> None:
    for statement in t.statements:
        if statement == "COMMIT":
            dbapi_connection.commit()
            continue
        cursor = dbapi_connection.cursor()
        cursor.execute(fill(statement, place))
        if cursor.description:
            cursor.fetchall()
        cursor.close()
    place.probe()
    dbapi_connection.commit()


def by_session_cursor(t: Text, place: Place) -> None:
    with place.session() as session:
        raw_run(t, place, session.connection().connection)


def by_raw_connection(t: Text, place: Place) -> None:
    connection = place.engine().raw_connection()
    try:
        raw_run(t, place, connection)
    finally:
        connection.close()


def by_driver(t: Text, place: Place) -> None:
    connection = place.engine().raw_connection()
    try:
        raw_run(t, place, connection.driver_connection)
    finally:
        connection.rollback()
        connection.close()


def by_driver_autocommit(t: Text, place: Place) -> None:
    connection = place.engine().raw_connection()
    driver: Any = connection.driver_connection
    try:
        if place.dialect == LITE:
            driver.isolation_level = None
        elif place.dialect == MY:
            driver.autocommit(True)
        else:
            driver.autocommit = True
        raw_run(t, place, driver)
    finally:
        connection.invalidate()
        connection.close()


def by_driver_lifted(t: Text, place: Place) -> None:
    """The driver's own attribute, turned off."""
    connection = place.engine().raw_connection()
    driver: Any = connection.driver_connection
    try:
        if place.driver == "psycopg2":
            driver.set_session(readonly=False)
        else:
            driver.read_only = False
        raw_run(t, place, driver)
    finally:
        connection.rollback()
        connection.close()


def percent(statement: str, place: Place) -> str:
    return statement.replace("%", "%%") if place.dialect != LITE else statement


def can_take_each(t: Text) -> bool:
    """Whether it can run with each statement in a transaction of its own."""
    return len(t.statements) == 1 and not t.traceless and not t.many


WAYS: list[tuple[str, Callable[[Text, Place], None], Callable[[Text], bool], bool]] = [
    ("text in a session", by_session, lambda t: not t.autocommit, False),
    ("driver SQL", by_connection, lambda t: not t.autocommit and not t.parameters, False),
    ("options", by_options, lambda t: t.lifts and not t.autocommit, False),
    ("Core", by_core, lambda t: t.lifts and not t.autocommit, False),
    ("AUTOCOMMIT", by_autocommit, lambda t: t.lifts or t.autocommit, False),
    ("bare AUTOCOMMIT", by_bare_autocommit, lambda t: t.lifts and can_take_each(t), False),
    ("plain Session", by_plain_session, lambda t: t.lifts and not t.autocommit, False),
    ("stream", by_stream, lambda t: t.name == "function", False),
    (
        "cursor of a session",
        by_session_cursor,
        lambda t: not t.autocommit and not t.parameters,
        True,
    ),
    ("raw connection", by_raw_connection, lambda t: t.lifts and not t.autocommit, True),
    ("driver connection", by_driver, lambda t: t.lifts and not t.autocommit, True),
    (
        "driver autocommit",
        by_driver_autocommit,
        lambda t: (t.lifts or t.autocommit) and (can_take_each(t) or t.autocommit),
        True,
    ),
]


def text_roads() -> Iterator[Road]:
    for t in (*texts.texts(), *texts_postgresql.texts()):
        ways = [(way, send, raw) for way, send, fits, raw in WAYS if fits(t) and way != t.not_by]
        for way, send, raw in ways:
            yield Road(
                f"{t.name} - {way}",
                lambda place, send=send, t=t: send(t, place),
                t.dialects - ({LITE} if t.many else set()),
                raw=raw,
                traceless=t.traceless,
                way=way,
                since=t.since,
            )
        if t.lifts and PG in t.dialects and not t.autocommit:
            yield Road(
                f"{t.name} - driver attribute",
                lambda place, t=t: by_driver_lifted(t, place),
                frozenset((PG,)),
                raw=True,
                drivers=frozenset(("psycopg2", "psycopg")),
                way="driver attribute",
            )


ROADS += text_roads()
