"""Roads through what the drivers offer: raw cursors, COPY, large objects, procedures."""

# ruff: noqa: E501, PLC0415  # SQL is easier to read in one line; drivers where they are needed
from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

from sqlalchemy import text

from tests.roads.model import LITE, MY, PG, Place, W, road


@road(raw=True)
def raw_executemany(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        mark = "?" if place.dialect == LITE else "%s"
        connection.cursor().executemany(W.replace("'road'", mark), [("road",), ("road",)])
        connection.commit()


@road(LITE, raw=True)
def executescript(place: Place) -> None:
    with place.session() as session:
        session.connection().connection.cursor().executescript(W)


@road(LITE, raw=True)
def executescript_that_lifts(place: Place) -> None:
    with place.session() as session:
        driver: Any = session.connection().connection.driver_connection
        driver.executescript(f"PRAGMA query_only = OFF; {W};")


@road(LITE, raw=True)
def executescript_that_attaches(place: Place) -> None:
    connection = place.engine().raw_connection()
    try:
        driver: Any = connection.driver_connection
        driver.executescript(f"ATTACH '{place.scratch}/road.db' AS road; CREATE TABLE road.x (i);")
    finally:
        connection.close()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def copy_expert_from(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.copy_expert("COPY thing (name) FROM STDIN", io.StringIO("road\n"))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def copy_expert_of_a_delete(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.copy_expert("COPY (DELETE FROM part RETURNING *) TO STDOUT", io.StringIO())
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def copy_expert_that_lifts(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.execute("SET TRANSACTION READ WRITE")
        cursor.copy_expert("COPY thing (name) FROM STDIN", io.StringIO("road\n"))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def copy_from(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.copy_from(io.StringIO("road\n"), "thing", columns=("name",))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def callproc(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.callproc("write_one")
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def callproc_that_lifts(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        cursor.callproc("set_config", ["transaction_read_only", "off", True])
        cursor.callproc("write_one")
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def bytes_that_lift(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        connection.cursor().execute(f"SET TRANSACTION READ WRITE; {W}".encode())
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def composed_sql_that_lifts(place: Place) -> None:
    from psycopg2 import sql

    with place.session() as session:
        connection = session.connection().connection
        connection.cursor().execute(sql.SQL(f"SET TRANSACTION READ WRITE; {W}"))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)))
def execute_values(place: Place) -> None:
    from psycopg2.extras import execute_values

    with place.session() as session:
        connection = session.connection().connection
        execute_values(connection.cursor(), "INSERT INTO thing (name) VALUES %s", [("road",)])
        connection.commit()


def by_a_value(place: Place, statement: str) -> None:
    """The value ends the literal, or the comment, into which the driver puts it."""
    free = "COMMIT; BEGIN READ WRITE; INSERT INTO thing (name) VALUES ($$road$$); COMMIT"
    with place.session() as session:
        value = (f"*/; {free}; /*" if "/*" in statement else f"; {free}; --",)
        session.connection().exec_driver_sql(statement, value)
        session.commit()


@road(PG, drivers=frozenset(("psycopg2",)))
def value_in_a_literal(place: Place) -> None:
    by_a_value(place, "SELECT '%s'")


@road(PG, drivers=frozenset(("psycopg2",)))
def value_in_a_comment(place: Place) -> None:
    by_a_value(place, "SELECT 10 %% 3 /* %s */")


@road(PG, drivers=frozenset(("psycopg2",)))
def values_in_a_literal(place: Place) -> None:
    with place.session() as session:
        value = "; COMMIT; BEGIN READ WRITE; INSERT INTO thing (name) VALUES ($$road$$); COMMIT; --"
        session.connection().exec_driver_sql("SELECT '%s'", [("; --",), (value,)])
        session.commit()


@road(PG, drivers=frozenset(("psycopg2",)))
def value_that_is_sql(place: Place) -> None:
    from psycopg2.extensions import AsIs

    with place.session() as session:
        session.execute(text("SET TRANSACTION :mode"), {"mode": AsIs("READ WRITE")})
        session.execute(text("SELECT write_one()"))
        session.commit()


@road(PG, drivers=frozenset(("psycopg2",)))
def value_beside_a_dollar_sign(place: Place) -> None:
    free = "COMMIT; BEGIN READ WRITE; INSERT INTO thing (name) VALUES ($$road$$); COMMIT"
    with place.session() as session:
        # Of 1 it makes $a1$, with which a string begins.
        statement = f"SELECT %(a)s, $a%(a)s$ ' $a1$; {free}; -- '"
        session.connection().exec_driver_sql(statement, {"a": 1})


@road(MY)
def name_of_a_variable_as_a_value(place: Place) -> None:
    with place.engine().connect() as connection:
        connection.exec_driver_sql("SET @@session.%s = 0", ("tx_read_only",))
        connection.commit()
        connection.execute(text("SELECT write_one()"))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def value_in_a_literal_of_a_copy(place: Place) -> None:
    from psycopg import ProgrammingError

    with place.session() as session:
        driver: Any = session.connection().connection.driver_connection
        value = ") TO STDOUT; COMMIT; BEGIN READ WRITE; INSERT INTO thing (name) VALUES ($$road$$); COMMIT; --"
        # psycopg notices that there were several statements when they have run.
        with suppress(ProgrammingError):
            driver.cursor().copy("COPY (SELECT '%s') TO STDOUT", (value,)).__enter__()


@road(PG, raw=True, drivers=frozenset(("psycopg2", "psycopg")))
def name_of_a_setting_as_a_keyword(place: Place) -> None:
    connection = place.engine().raw_connection()
    driver: Any = connection.driver_connection
    driver.autocommit = True
    try:
        key = "vars" if place.driver == "psycopg2" else "params"
        value = ("default_transaction_read_only",)
        driver.cursor().execute("SELECT set_config(%s, 'off', false)", **{key: value})
        driver.cursor().execute("SELECT write_one()")
    finally:
        connection.invalidate()
        connection.close()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def statement_that_the_driver_prepared(place: Place) -> None:
    connection = place.engine().raw_connection()
    driver: Any = connection.driver_connection
    driver.autocommit = True
    driver.prepare_threshold = 0
    try:
        driver.execute("SELECT set_config(%s, %s, false)", ("app.x", "off"))
        ((name,),) = driver.execute(
            "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%set_config%$1%' LIMIT 1"
        ).fetchall()
        driver.execute(f"EXECUTE {name} ('default_transaction_read_only', 'off')")
        driver.execute("SELECT write_one()")
    finally:
        connection.invalidate()
        connection.close()


@road(PG, raw=True, drivers=frozenset(("psycopg2",)), since=16)
def lobject(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        driver.lobject(0, "w").write("road")
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def psycopg_copy(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        cursor: Any = connection.cursor()
        with cursor.copy("COPY thing (name) FROM STDIN") as copy:
            copy.write_row(("road",))
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def psycopg_connection_execute(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        driver.execute(f"SET TRANSACTION READ WRITE; {W}")
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def psycopg_server_cursor(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        with driver.cursor("road") as cursor:
            cursor.execute("SELECT write_one()").fetchall()
        connection.commit()


@road(PG, raw=True, drivers=frozenset(("psycopg",)))
def psycopg_stream(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        driver.execute("SET TRANSACTION READ WRITE")
        list(driver.cursor().stream(W + " RETURNING id"))
        connection.commit()


@road(MY, raw=True)
def pymysql_query(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        driver: Any = connection.driver_connection
        driver.query(W)
        connection.commit()


@road(MY, raw=True)
def pymysql_callproc(place: Place) -> None:
    with place.session() as session:
        connection = session.connection().connection
        connection.cursor().callproc("write_proc")
        connection.commit()
