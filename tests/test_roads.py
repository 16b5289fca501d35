"""Each of the roads of tests/roads, tried where nothing may be written."""

# ruff: noqa: E501, BLE001  # SQL is easier to read in one line
from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg2
import pymysql
import pytest
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from sa_readonly import Engines, EngineSelector, FixedSwitch, Mode, ReadOnlyError, RoutingSession
from tests.app import LONG, longer
from tests.by_url import end_lingering
from tests.postgres import Standby, wait_until
from tests.roads import LITE, MY, PG, ROADS, Place, Road

SETUP = {
    PG: """
        DROP SCHEMA IF EXISTS public CASCADE;
        DROP SCHEMA IF EXISTS road CASCADE;
        CREATE SCHEMA public;
        CREATE TABLE thing (id serial PRIMARY KEY, name varchar(50), note varchar(50));
        CREATE TABLE part (id serial PRIMARY KEY, thing_id int REFERENCES thing, name varchar(50));
        CREATE SEQUENCE seq;
        CREATE TABLE waiting (id int);
        CREATE TABLE counted (id int PRIMARY KEY, name varchar(50));
        INSERT INTO thing (name) VALUES ('one'), ('two');
        INSERT INTO part (thing_id, name) VALUES (1, 'a'), (1, 'b');
        CREATE VIEW seen AS SELECT * FROM thing;
        CREATE MATERIALIZED VIEW mat AS SELECT * FROM thing;
        CREATE FUNCTION write_one() RETURNS int VOLATILE LANGUAGE sql
            AS $$ INSERT INTO public.thing (name) VALUES ('road') RETURNING id $$;
        CREATE FUNCTION write_definer() RETURNS int LANGUAGE plpgsql SECURITY DEFINER
            AS $$ BEGIN INSERT INTO public.thing (name) VALUES ('road'); RETURN 1; END $$;
        CREATE FUNCTION write_setting() RETURNS int LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = public
            AS $$ BEGIN UPDATE thing SET name = 'road'; RETURN 1; END $$;
        CREATE FUNCTION read_it(int) RETURNS bigint STABLE LANGUAGE sql
            AS $$ SELECT count(*) FROM public.thing $$;
        CREATE PROCEDURE write_proc() LANGUAGE plpgsql
            AS $$ BEGIN INSERT INTO public.thing (name) VALUES ('road'); END $$;
        SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
        SELECT lo_from_bytea(1234, 'one');
    """,
    MY: """
        SET foreign_key_checks = 0;
        DROP TABLE IF EXISTS part, thing, counted, road, other;
        DROP VIEW IF EXISTS road;
        DROP SEQUENCE IF EXISTS seq;
        CREATE TABLE thing (id int PRIMARY KEY AUTO_INCREMENT, name varchar(50), note varchar(50));
        CREATE TABLE part (id int PRIMARY KEY AUTO_INCREMENT, thing_id int REFERENCES thing (id),
            name varchar(50));
        CREATE SEQUENCE seq;
        INSERT INTO thing (name) VALUES ('one'), ('two');
        INSERT INTO part (thing_id, name) VALUES (1, 'a'), (1, 'b');
        SET GLOBAL max_error_count = 64;
        CREATE OR REPLACE FUNCTION write_one() RETURNS int
            BEGIN INSERT INTO thing (name) VALUES ('road')| RETURN 1| END;
        CREATE OR REPLACE PROCEDURE write_proc() INSERT INTO thing (name) VALUES ('road')
    """,
    LITE: """
        CREATE TABLE thing (id integer PRIMARY KEY, name varchar(50), note varchar(50));
        CREATE TABLE part (id integer PRIMARY KEY, thing_id int REFERENCES thing, name varchar(50));
        INSERT INTO thing (name) VALUES ('one'), ('two');
        INSERT INTO part (thing_id, name) VALUES (1, 'a'), (1, 'b');
    """,
}

PG_SNAPSHOT = """
    SELECT 'class', relname, relkind::text, relfilenode::text, coalesce(relacl::text, ''),
           coalesce(obj_description(oid, 'pg_class'), '')
        FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'column', attrelid::regclass::text, attname, '', '', '' FROM pg_attribute
        WHERE attrelid IN ('thing'::regclass, to_regclass('part')) AND attnum > 0
    UNION ALL SELECT 'function', proname, '', '', '', '' FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'type', typname, '', '', '', '' FROM pg_type
        WHERE typnamespace = 'public'::regnamespace
    UNION ALL SELECT 'schema', nspname, '', '', '', '' FROM pg_namespace
        WHERE nspname !~ '^pg_(toast_)?temp_'
    UNION ALL SELECT 'thing', t::text, '', '', '', '' FROM thing t
    UNION ALL SELECT 'waiting', t::text, '', '', '', '' FROM waiting t
    UNION ALL SELECT 'counted', t::text, '', '', '', '' FROM counted t
    UNION ALL SELECT 'sequence', sequencename, last_value::text, '', '', '' FROM pg_sequences
    UNION ALL SELECT 'object', loid::text, encode(data, 'hex'), '', '', '' FROM pg_largeobject
    UNION ALL SELECT 'object', oid::text, '', '', '', '' FROM pg_largeobject_metadata
    UNION ALL SELECT 'prepared', gid, '', '', '', '' FROM pg_prepared_xacts
        WHERE database = current_database()
    UNION ALL SELECT 'setting', setconfig::text, '', '', '', '' FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL SELECT 'origin', roname, '', '', '', '' FROM pg_replication_origin
        WHERE roname LIKE '%' || current_database()
    ORDER BY 1, 2, 3
"""


class Database:
    """One database and a directory that its server can write, over connections of our own."""

    def __init__(self, url: URL, scratch: Path) -> None:
        self.url = url
        self.dialect = url.get_backend_name()
        self.scratch = scratch
        self.seen: list[Any] = []

    @cached_property
    def connection(self) -> Any:
        if self.dialect == LITE:
            return sqlite3.connect(str(self.url.database), isolation_level=None)
        arguments: dict[str, Any] = {
            "host": self.url.host, "port": self.url.port, "user": self.url.username
        }  # fmt: skip
        if self.dialect == PG:
            options = "-c lock_timeout=5s -c client_min_messages=error"
            connection = psycopg2.connect(dbname=self.url.database, options=options, **arguments)
        else:
            connection = pymysql.connect(database=self.url.database, **arguments)
        if self.dialect == PG:
            connection.autocommit = True
        if self.dialect == MY:
            connection.autocommit(True)
        return connection

    def run(self, sql: str) -> list[Any]:
        cursor = self.connection.cursor()
        cursor.execute(sql)
        rows = list(cursor.fetchall()) if cursor.description else []
        cursor.close()
        return rows

    def reset(self) -> None:
        """What was made is removed, what was changed is changed back."""
        self.clear()
        self.before = self.snapshot()

    def clear(self) -> None:
        shutil.rmtree(self.scratch)
        self.scratch.mkdir()
        self.scratch.chmod(0o777)
        (self.scratch / "other.db").touch()
        with closing(sqlite3.connect(self.scratch / "other.db")) as other:
            other.execute("CREATE TABLE t (i)")
        if self.dialect == LITE:
            for name in [
                name for (name,) in self.run("SELECT name FROM sqlite_master WHERE type = 'view'")
            ]:
                self.run(f"DROP VIEW {name}")
            for (name,) in self.run(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            ):
                self.run(f"DROP TABLE {name}")
            self.run("PRAGMA user_version = 0")
            self.run("PRAGMA journal_mode = DELETE")
            self.connection.executescript(SETUP[LITE])
        elif self.dialect == PG:
            for (gid,) in self.run(
                "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            ):
                self.run(f"ROLLBACK PREPARED '{gid}'")
            for (name,) in self.run(
                f"SELECT roname FROM pg_replication_origin WHERE roname LIKE '%{self.url.database}'"
            ):
                self.run(f"SELECT pg_replication_origin_drop('{name}')")
            self.run(SETUP[PG])
            self.run(f"DEALLOCATE ALL; PREPARE snapshot AS {PG_SNAPSHOT}")
            self.run(
                f"BEGIN; INSERT INTO waiting VALUES (1); PREPARE TRANSACTION 'waiting_{self.url.database}'"
            )
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for statement in SETUP[MY].split(";"):
                    self.run(statement.replace("|", ";"))

    def changed(self) -> bool:
        return self.snapshot() != self.before

    def snapshot(self) -> object:
        files = {
            path.name: path.read_bytes() if os.access(path, os.R_OK) else b""
            for path in self.scratch.iterdir()
        }
        if self.dialect == LITE:
            pragmas = [self.run(f"PRAGMA {name}") for name in ("user_version", "journal_mode")]
            return files, list(self.connection.iterdump()), pragmas
        if self.dialect == PG:
            rows = self.run("EXECUTE snapshot")  # to plan it takes longer than to run it
            there = any(row[:2] == ("class", "part") for row in rows)
            return files, rows, self.run("SELECT * FROM part ORDER BY id") if there else None
        tables = self.run(
            "SELECT table_name, table_type FROM information_schema.tables"
            " WHERE table_schema = database() ORDER BY 1"
        )
        return (
            files,
            tables,
            [self.run(f"SELECT * FROM `{name}`") for name, _ in tables],
            self.run("SHOW INDEX FROM thing"),
            self.run("SELECT @@global.max_error_count"),
        )

    def look(self) -> None:
        """Note what a transaction that is open holds; on MariaDB that shows where one waits only."""
        if self.dialect == PG:
            self.seen += self.run(
                "SELECT locktype, mode FROM pg_locks WHERE database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
                " AND mode <> 'AccessShareLock'"
            )

    def notified(self) -> bool:
        """Whether a notification has come to a connection that listens."""
        self.run("SELECT 1")
        return bool(self.connection.notifies)


class House:
    """An application on two databases, or on one, which may not write."""

    def __init__(
        self,
        databases: list[Database],
        read_write: URL | str,
        read_only: URL | str | None,
        *,
        role: str = "primary",
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self.databases = databases
        self.role = role
        self.loop = (
            asyncio.new_event_loop() if make_url(read_write).get_dialect().is_async else None
        )
        self.read_write = self.make_engine(read_write)
        others = self.make_engine(read_only) if read_only is not None else None
        read_write_mode = role in ("replica", "writer")
        self.switch = FixedSwitch(Mode.READ_WRITE if read_write_mode else Mode.READ_ONLY)
        role = "primary" if role == "writer" else role
        self.others = others
        self.selector = EngineSelector(
            self.switch,
            read_write=Engines(self.outer(self.read_write)),
            read_only=others and self.outer(others),
        )
        self.reached: list[object] = []
        event.listen(self.read_write, "before_cursor_execute", self._reach)
        if role == "primary":
            event.listen(self.read_write, "connect", self._reach)
        self.place = Place(
            dialect=self.read_write.dialect.name,
            driver=self.read_write.dialect.driver,
            session=lambda **kw: RoutingSession(**{"bind": self.selector, "role": role, **kw}),
            engine=lambda: getattr(
                self.selector.engine(role), "sync_engine", self.selector.engine(role)
            ),
            read_write=self.read_write,
            scratch=str(databases[0].scratch),
            probe=lambda: None,
        )
        prepare()

    def make_engine(self, url: URL | str) -> Engine:
        if self.loop is None:
            return create_engine(url)
        url = make_url(url)
        if url.get_driver_name() == "asyncpg":  # of which some roads deallocate its statements
            url = url.update_query_dict({"prepared_statement_cache_size": "0"})
        return create_async_engine(url).sync_engine

    def outer(self, engine: Engine) -> Any:
        return engine if self.loop is None else AsyncEngine(engine)

    def run(self, function: Callable[[], object]) -> None:
        """Call it; on an async driver in a greenlet, as AsyncSession.run_sync() would."""
        if self.loop is None:
            function()
        else:
            self.loop.run_until_complete(asyncio.wait_for(greenlet_spawn(function), 60))

    def _reach(self, connection: Any, *_: object) -> None:
        # The twin has the listeners of the engine of which it was made.
        if getattr(connection, "engine", None) not in (None, self.read_write):
            return
        self.reached.append(connection)

    def close(self) -> None:
        self.run(self._close)
        if self.loop is not None:
            self.loop.close()

    def _close(self) -> None:
        self.selector.close()
        for engine in (self.read_write, self.others):
            if engine is not None:
                engine.dispose()


class UrlHouse(House):
    """An application of one engine, by URL, and of no session of ours."""

    def __init__(
        self,
        databases: list[Database],
        read_write: URL,
        read_only: URL | None,
        path: Path,
        *,
        role: str = "primary",
    ) -> None:
        self.databases = databases
        self.role = role
        self.others = None
        self.reached = []
        if role != "writer":
            path.write_text("upgrade")
        self.loop = asyncio.new_event_loop() if read_write.get_dialect().is_async else None
        arguments = {
            "plugin": "sa_readonly", "sa_readonly_file": str(path), "sa_readonly_workers": "false"
        }  # fmt: skip
        if read_only is not None:
            arguments["sa_readonly_url"] = read_only.render_as_string(hide_password=False)
        self.read_write = engine = self.make_engine(read_write.update_query_dict(arguments))
        self.place = Place(
            dialect=engine.dialect.name,
            driver=engine.dialect.driver,
            session=lambda **kw: Session(**{"bind": engine, **kw}),
            engine=lambda: engine,
            read_write=engine,
            scratch=str(databases[0].scratch),
            probe=lambda: None,
        )

    def _close(self) -> None:
        self.read_write.dispose()
        end_lingering()


def plain_place(database: Database, url: URL) -> Place:
    """The control: one engine, and none of ours."""
    arguments = {"options": "-c lock_timeout=5s"} if url.get_backend_name() == PG else {}
    engine = create_engine(url, connect_args=arguments)
    if url.get_backend_name() == PG:
        event.listen(engine, "checkin", forget)
    return Place(
        dialect=engine.dialect.name,
        driver=engine.dialect.driver,
        session=lambda **kw: Session(**{"bind": engine, **kw}),
        engine=lambda: engine,
        read_write=engine,
        scratch=str(database.scratch),
        probe=database.look,
    )


def forget(dbapi_connection: Any, _: object) -> None:
    """Leave nothing of a road in its session."""
    if dbapi_connection is not None:
        dbapi_connection.autocommit = True
        dbapi_connection.cursor().execute("DISCARD ALL")
        dbapi_connection.autocommit = False


SERVERS = {
    "sqlite": (None, "sqlite"),
    "aiosqlite": (None, "sqlite+aiosqlite"),
    "psycopg2": ("pg_server", "postgresql+psycopg2"),
    "psycopg": ("pg_server", "postgresql+psycopg"),
    "psycopg_async": ("pg_server", "postgresql+psycopg_async"),
    "asyncpg": ("pg_server", "postgresql+asyncpg"),
    "mariadb": ("mariadb", "mysql+pymysql"),
}


class Town:
    """The databases, each made when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.request = request
        self.tmp_path = tmp_path
        self.made: dict[str, Database] = {}
        self.houses: dict[str, House] = {}
        self.controls: dict[str, Place] = {}

    def database(self, name: str, server: str | None = None) -> Database:
        if name not in self.made:
            if server is None:
                url = make_url(f"sqlite:///{self.tmp_path}/{name}.db")
                scratch = self.tmp_path / f"{name}.d"
            else:
                running = self.request.getfixturevalue(server)
                url = running.new_database()
                scratch = Path(tempfile.mkdtemp(prefix="roads-", dir=running.base_dir))
            scratch.mkdir(exist_ok=True)
            self.made[name] = Database(url, scratch)
            self.made[name].reset()
        return self.made[name]

    def house(self, name: str) -> House:
        if name not in self.houses:
            self.houses[name] = self.build(name)
        return self.houses[name]

    def build(self, name: str) -> House:
        kind, _, role = name.partition(" as ")
        role = role or "primary"
        backend, _, shape = kind.partition(" ")
        if shape.startswith("URL"):
            return self.build_by_url(backend, shape, role)
        if backend == "sqlite":
            one = self.database("sqlite_one")
            if shape == "twin":
                return House([one], one.url, None, role=role)
            two = self.database("sqlite_two")
            if shape == "async":
                names = {"drivername": "sqlite+aiosqlite"}
                return House([one, two], one.url.set(**names), two.url.set(**names), role=role)
            read_only: URL | str = two.url
            if shape == "mode=ro":
                read_only = f"sqlite:///file:{two.url.database}?mode=ro&uri=true"
            return House([one, two], one.url, read_only, role=role)
        server, driver = SERVERS[backend]
        one = self.database(f"{server}_one", server)
        url = one.url.set(drivername=driver)
        if shape == "twin":
            return House([one], url, None, role=role)
        if shape == "standby":
            standby: Standby = self.request.getfixturevalue("pg_standby")
            copy = standby.url(str(one.url.database)).set(drivername=driver)
            return House([one], url, copy, role=role, prepare=standby.catch_up)
        two = self.database(f"{server}_two", server)
        return House([one, two], url, two.url.set(drivername=driver), role=role)

    def build_by_url(self, backend: str, shape: str, role: str) -> House:
        server, driver = SERVERS[backend]
        names = [f"{server or 'sqlite'}_one", f"{server or 'sqlite'}_two"]
        databases = [self.database(name, server) for name in names[: 1 + shape.endswith("two")]]
        one, *others = [database.url.set(drivername=driver) for database in databases]
        path = self.tmp_path / f"{backend} {shape} {role}.txt"
        return UrlHouse(databases, one, others[0] if others else None, path, role=role)

    def control(self, backend: str) -> tuple[Place, Database]:
        server = {"sqlite": None, "mariadb": "mariadb"}.get(backend, "pg_server")
        database = self.database(f"{server}_control", server)
        if backend not in self.controls:
            driver = {"sqlite": "sqlite", "mariadb": "mysql+pymysql"}.get(
                backend, f"postgresql+{backend}"
            )
            self.controls[backend] = plain_place(database, database.url.set(drivername=driver))
        return self.controls[backend], database

    def close(self) -> None:
        for house in self.houses.values():
            house.close()
        for place in self.controls.values():
            place.read_write.dispose()
        for database in self.made.values():
            database.connection.close()


@pytest.fixture(scope="module")
def town(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Town]:
    town = Town(request, tmp_path_factory.mktemp("town"))
    try:
        yield town
    finally:
        town.close()


HOUSES = {
    "sqlite plain": LITE,
    "sqlite mode=ro": LITE,
    "sqlite twin": LITE,
    "sqlite plain as replica": LITE,
    "psycopg2 writable": PG,
    "psycopg2 twin": PG,
    "psycopg2 standby": PG,
    "psycopg2 writable as replica": PG,
    "psycopg writable": PG,
    "psycopg twin": PG,
    "sqlite async": LITE,
    "asyncpg writable": PG,
    "asyncpg twin": PG,
    "psycopg_async twin": PG,
    "mariadb writable": MY,
    "mariadb twin": MY,
    "mariadb twin as replica": MY,
    "sqlite URL": LITE,
    "sqlite URL two": LITE,
    "aiosqlite URL": LITE,
    "psycopg2 URL": PG,
    "psycopg2 URL two": PG,
    "psycopg URL": PG,
    "psycopg_async URL": PG,
    "asyncpg URL": PG,
    "mariadb URL": MY,
}


# Each text by each way that it can be sent. Elsewhere each text is sent once, by another way in each
# house, so that there too every text and every way is tried; what is no text is tried where the server
# or the role decides, and not once more for each driver.
FULL = ("sqlite twin", "psycopg2 twin", "mariadb twin")
TEXTS_ONLY = (
    "sqlite mode=ro",
    "psycopg writable",
    "psycopg twin",
    "asyncpg writable",
    "psycopg_async twin",
)


# What goes past SQLAlchemy's adapters must be awaited: tests/test_async.py.
ASYNC = (
    *("sqlite async", "asyncpg writable", "asyncpg twin", "psycopg_async twin"),
    *("aiosqlite URL", "asyncpg URL", "psycopg_async URL"),
)
SOME = 12  # of so many texts one is tried on each engine by URL; .ci/run tries all, once


def awaited(road: Road) -> bool:
    way = road.way or ""
    return (way.startswith("driver") and way != "driver SQL") or "executescript" in road.name


def possible(house: str, road: Road) -> bool:
    driver = house.partition(" ")[0]
    return (
        HOUSES[house] in road.dialects
        and (road.drivers is None or driver in road.drivers)
        and not (house in ASYNC and awaited(road))
        # it reads by a connection, for which there is no greenlet in a thread
        and not (house in ASYNC and " URL" in house and road.name.startswith(("thread", "raw")))
        # in read-write mode the read-write engine writes
        and not (road.around and house.endswith("as replica"))
    )


def by_text(roads: list[Road]) -> Iterator[list[Road]]:
    """The ways of each text."""
    sent = (road for road in roads if road.way is not None)
    for _, ways in itertools.groupby(sent, lambda road: road.name.rpartition(" - ")[0]):
        yield list(ways)


def sampled(house: str, number: int) -> bool:
    """Whether a text, or what reads, is tried here in each run of the tests."""
    return LONG or " URL" not in house or number % SOME == sum(house.encode()) % SOME


def tried(house: str) -> Iterator[Road]:
    """The roads that are tried in a house."""
    fits = [road for road in ROADS if possible(house, road)]
    if house in FULL:
        yield from fits
        return
    if house not in TEXTS_ONLY and not (" URL" in house and not LONG):
        yield from (road for road in fits if road.way is None)
    turn = list(HOUSES).index(house)
    for number, ways in enumerate(by_text(fits)):
        if sampled(house, number):
            yield ways[(number + turn) % len(ways)]


TRIALS = [(house, road) for house in HOUSES for road in tried(house)]


@pytest.mark.parametrize(
    ("name", "road"), TRIALS, ids=[f"{house}: {road.name}" for house, road in TRIALS]
)
def test_nothing_writes_where_nothing_may(town: Town, name: str, road: Road) -> None:
    house = town.house(name)
    if road.raw:  # there is nobody to refuse it but the server
        skip_older(road, house.databases[0])
    house.reached.clear()
    refused: BaseException | None = None
    try:
        house.run(lambda: road.go(house.place))
    except Exception as error:
        refused = error
    changed = [database for database in house.databases if database.changed()]
    for database in changed:
        database.reset()
    assert not changed, "it wrote"
    assert refused is not None, "it was lost in silence"
    # Such an engine gives out a read-only connection, where a selector's gives none.
    raw = road.raw or (" URL" in name and road.name.startswith(("raw connection", "pool of")))
    if not raw:
        assert isinstance(refused, ReadOnlyError), repr(refused)
        # A session's transaction is told of its role, and what goes by the engine, of that.
        faults = ("the role 'replica'", "this engine is a read-only one")
        assert any(fault in str(refused) for fault in faults) == (house.role == "replica")
    assert not house.reached, "it reached the read-write engine"


# Of these PostgreSQL shows nothing in the database, nor a lock while they run.
UNSEEN = ("ALTER ROLE", "ALTER DATABASE", "VACUUM", "emit a message")


def skip_older(road: Road, database: Database) -> None:
    if road.since and database.connection.server_version < road.since * 10_000:
        pytest.skip(f"Before PostgreSQL {road.since} it is otherwise: docs/protection.md")


def controlled(house: str) -> Iterator[Road]:
    """Each text by its first way and by another one, and all that is no text."""
    fits = [road for road in ROADS if possible(house, road)]
    yield from (road for road in fits if road.way is None)
    for number, (first, *others) in enumerate(by_text(fits)):
        yield first
        if others:
            yield others[number % len(others)]


# The servers are tried once by `.ci/run`.
CONTROLLED = ("sqlite plain", *LONG * ("psycopg2 twin", "mariadb twin", "psycopg twin"))
CONTROLS = [
    (house, road)
    for house in CONTROLLED
    for road in controlled(house)
    if not house.startswith("psycopg ") or road.drivers == {"psycopg"}
]


@longer
@pytest.mark.parametrize(
    ("house", "road"), CONTROLS, ids=[f"{house}: {road.name}" for house, road in CONTROLS]
)
def test_each_road_writes_where_it_may(town: Town, house: str, road: Road) -> None:
    place, database = town.control(house.partition(" ")[0])
    skip_older(road, database)
    notifies = database.dialect == PG and "notify" in road.name.lower()
    if notifies:
        database.run("LISTEN road")
        database.connection.notifies.clear()
    database.seen.clear()
    road.go(place)
    if notifies:
        wait_until(database.notified, "a notification")
    if database.dialect != PG:
        place.read_write.dispose()
    changed = database.changed()
    if changed:
        database.reset()
    assert changed or road.traceless
    if database.dialect == PG and not changed and not notifies:
        assert database.seen or road.name.startswith(UNSEEN)
