"""Behind a real PgBouncer: a read-only engine writes nothing, and keeps nobody from writing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import psycopg2
import pytest
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool
from sqlalchemy.util import greenlet_spawn

from sa_readonly import ConfigurationError, EngineSelector, FixedSwitch, Mode, ReadOnlyError
from sa_readonly.command.server import Server as Asked
from sa_readonly.command.server import ServerError
from tests.app import need
from tests.doctor import look, shown, the
from tests.poolers import PgBouncer, bouncer
from tests.postgres import Pair, Server, fresh_pair, wait_until

__all__ = ["bouncer"]  # a fixture

DRIVERS = ["psycopg2", "psycopg", "asyncpg"]
UNPREPARED = {
    "psycopg2": {},
    "psycopg": {"prepare_threshold": None},
    "asyncpg": {"statement_cache_size": 0},
    "pg8000": {},
}
IGNORING = "ignore_startup_parameters = options, default_transaction_read_only"
SHOW = text("SHOW default_transaction_read_only")
FUNCTION = """
    CREATE TABLE line (who text);
    CREATE FUNCTION write_ours() RETURNS int VOLATILE LANGUAGE sql
        AS $$ INSERT INTO line VALUES ('ours') RETURNING 1 $$
"""

Start = Callable[..., PgBouncer]


@pytest.fixture(scope="module")
def database(pg_server: Server) -> Iterator[URL]:
    """A database with a function that writes, for all tests here."""
    with fresh_pair(pg_server) as pair:
        pg_server.query(FUNCTION, database=pair.read_write.database)
        yield pair.read_write


@pytest.fixture
def url(pg_server: Server, database: URL) -> URL:
    pg_server.query("TRUNCATE line", database=database.database)
    return database


@contextlib.contextmanager
def selected(url: URL, driver: str, *, own: bool = False, **options: Any) -> Iterator[Engine]:
    """The read-only engine of a selector that is read-only, sync or inside an AsyncEngine.

    :param own: whether it is given, or made of the read-write one.
    """
    need(driver)
    url = url.set(drivername=f"postgresql+{driver}")
    arguments = {"connect_args": UNPREPARED[driver], **options.pop("engine", {})}
    make: Any = create_async_engine if driver == "asyncpg" else create_engine
    if own:
        options["read_only"] = make(url, **arguments)
    switch, given = FixedSwitch(Mode.READ_ONLY), make(url, **arguments)
    with EngineSelector(switch, read_write=given, watch=False, **options) as selector:
        engine = selector.engine()
        yield engine.sync_engine if driver == "asyncpg" else engine


def run(driver: str, function: Callable[[], object]) -> None:
    """Call it as that driver's engines are used."""
    if driver == "asyncpg":
        asyncio.run(greenlet_spawn(function))
    else:
        function()


class Writer:
    """Another client of the same pool, which writes all the time, each time by a new connection."""

    def __init__(self, url: URL) -> None:
        self.dsn = {"host": url.host, "port": url.port, "user": "postgres", "dbname": url.database}
        self.written = 0
        self.error: Exception | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        try:
            while not self._over.is_set():
                with contextlib.closing(psycopg2.connect(**self.dsn)) as connection:
                    with connection.cursor() as cursor:
                        cursor.execute("INSERT INTO line VALUES ('theirs')")
                    connection.commit()
                self.written += 1
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told
            self.error = error

    def goes_on(self) -> None:
        """Return when it has written again."""
        before = self.written
        wait_until(lambda: self.written > before or self.error, "another write")

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)


def lines(server: Server, url: URL) -> dict[str, int]:
    rows = server.query("SELECT who, count(*) FROM line GROUP BY 1", database=url.database)
    return dict(rows)


# -- nothing of ours passes, nothing of theirs fails -------------------------------------------


@pytest.mark.parametrize(
    ("mode", "driver"),
    [
        *product(["transaction", "session"], [*DRIVERS, "psycopg2 as its own engine"]),
        ("session", "pg8000"),  # which is refused in the other mode
    ],
)
def test_a_read_only_engine_writes_nothing_and_no_other_client_is_refused(
    pg_server: Server, url: URL, bouncer: Start, mode: str, driver: str
) -> None:
    driver, own, _ = driver.partition(" as its own engine")
    pool = NullPool if mode == "session" else QueuePool  # so that sessions are exchanged
    if driver == "asyncpg" and pool is QueuePool:
        pool = AsyncAdaptedQueuePool
    arguments = {"poolclass": pool, "pool_pre_ping": pool is not NullPool}

    def use(engine: Engine, writer: Writer) -> None:
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM line")) is not None
            writer.goes_on()
            with pytest.raises(ReadOnlyError) as caught:
                connection.execute(text("INSERT INTO line VALUES ('ours')"))
            assert caught.value.__cause__ is None  # by Python
            with pytest.raises(ReadOnlyError) as caught:
                connection.scalar(text("SELECT write_ours()"))
            assert caught.value.__cause__ is not None  # by the server
        with engine.connect() as connection:
            raw = connection.connection
            with pytest.raises(Exception, match="read-only"):
                raw.cursor().execute("SELECT write_ours()")
            raw.rollback()
            writer.goes_on()
            assert connection.scalar(text("SELECT 1")) == 1

    def use_often() -> None:
        options = {"own": bool(own), "pooler": mode, "engine": arguments}
        with selected(pooler.through(url), driver, **options) as engine:
            for _ in range(5):
                use(engine, writer)
            engine.dispose()

    pooler = bouncer(mode)
    with Writer(pooler.through(url)) as writer:
        writer.goes_on()
        run(driver, use_often)
        writer.goes_on()
    assert writer.error is None
    assert lines(pg_server, url) == {"theirs": writer.written}


@pytest.mark.parametrize("driver", DRIVERS)
def test_in_session_mode_an_autocommitted_function_is_refused_after_other_clients_too(
    pg_server: Server, url: URL, bouncer: Start, driver: str
) -> None:
    pooler = bouncer("session")
    arguments = {"poolclass": NullPool, "isolation_level": "AUTOCOMMIT"}

    def use() -> None:
        with selected(pooler.through(url), driver, pooler="session", engine=arguments) as engine:
            for _ in range(3):
                with engine.connect() as connection:
                    assert connection.scalar(SHOW) == "on"
                    with pytest.raises(ReadOnlyError):
                        connection.scalar(text("SELECT write_ours()"))
                # the same session of the server, for another client
                assert pooler.query("SHOW default_transaction_read_only", str(url.database)) == [
                    ("off",)
                ]

    run(driver, use)
    assert lines(pg_server, url) == {}


@pytest.mark.parametrize("driver", DRIVERS)
def test_in_session_mode_the_lock_is_put_back_at_each_checkout(
    url: URL, bouncer: Start, driver: str
) -> None:
    def use() -> None:
        with selected(bouncer("session").through(url), driver, pooler="session") as engine:
            with engine.connect() as connection:
                raw = connection.connection
                raw.cursor().execute("RESET ALL")
                raw.commit()
                assert connection.scalar(SHOW) == "off"
            with engine.connect() as connection:
                assert connection.scalar(SHOW) == "on"
            engine.dispose()

    run(driver, use)


# -- what can't be protected in transaction mode ----------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
def test_in_transaction_mode_what_would_be_in_no_transaction_is_refused(
    pg_server: Server, url: URL, bouncer: Start, driver: str
) -> None:
    attribute = "read_only" if driver == "psycopg" else "readonly"

    def use() -> None:
        with selected(bouncer("transaction").through(url), driver, pooler="transaction") as engine:
            with engine.connect() as connection:
                with pytest.raises(ReadOnlyError, match="AUTOCOMMIT, which nothing protects"):
                    connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.execution_options(isolation_level="REPEATABLE READ")
                assert connection.scalar(text("SHOW transaction_isolation")) == "repeatable read"
                assert connection.scalar(text("SHOW transaction_read_only")) == "on"
                for end in ("COMMIT", "SELECT 1; END", "ROLLBACK AND CHAIN", "ABORT"):
                    with pytest.raises(ReadOnlyError, match="in a text is refused"):
                        connection.exec_driver_sql(end)
                    with pytest.raises(ReadOnlyError, match="in a text is refused"):
                        connection.connection.cursor().execute(end)
                connection.exec_driver_sql("SAVEPOINT one")
                connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one")
                assert connection.scalar(text("SHOW transaction_read_only")) == "on"
            for name, value in (("autocommit", True), (attribute, None)):
                with engine.connect() as connection:
                    connection.scalar(text("SELECT 1"))
                    connection.rollback()
                    setattr(connection.connection.dbapi_connection, name, value)
                    for sql in ("SELECT 1", "SELECT write_ours()"):
                        with pytest.raises(ReadOnlyError, match=r"AUTOCOMMIT|not READ ONLY"):
                            connection.scalar(text(sql))
                        with pytest.raises(ReadOnlyError, match=r"AUTOCOMMIT|not READ ONLY"):
                            connection.connection.cursor().execute(sql)
                with engine.connect() as connection:  # it was closed, or put back
                    assert connection.scalar(text("SHOW transaction_read_only")) == "on"
            engine.dispose()

    run(driver, use)
    assert lines(pg_server, url) == {}


def test_in_transaction_mode_a_connection_that_its_driver_has_in_autocommit_is_an_error(
    url: URL, bouncer: Start
) -> None:
    need("psycopg")
    arguments = {"connect_args": {"autocommit": True}}
    pooler = bouncer("transaction")
    with (
        selected(pooler.through(url), "psycopg", pooler="transaction", engine=arguments) as engine,
        pytest.raises(ConfigurationError, match="has this connection in autocommit"),
    ):
        engine.connect()


# -- without the option -----------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("settings", [(), (IGNORING,)], ids=["refused", "dropped"])
def test_without_the_option_the_first_connection_is_an_error_and_sets_nothing(
    url: URL, bouncer: Start, settings: tuple[str, ...], driver: str
) -> None:
    pooler = bouncer("transaction", *settings)

    def use() -> None:
        with selected(pooler.through(url), driver) as engine:
            for _ in range(2):
                with pytest.raises(ConfigurationError) as caught:
                    engine.connect()
            what = "has no effect there."
            if not settings:
                name = "default_transaction_read_only" if driver == "asyncpg" else "options"
                what = f"is refused there: unsupported startup parameter: {name}."
            assert str(caught.value) == (
                f"postgresql+{driver}://postgres@127.0.0.1:{pooler.port}/{url.database}: the "
                "start-up parameter default_transaction_read_only, which locks each session of a "
                f"read-only engine, {what} A pooler stands in between. Give "
                'EngineSelector(pooler="transaction"), or "session" if it pools by session; or '
                "connect the read-only engine to the server itself."
            )

    run(driver, use)
    assert pooler.query("SHOW default_transaction_read_only", str(url.database)) == [("off",)]


def test_what_pgbouncer_tells_of_the_setting_is_not_believed(
    pg_server: Server, pg_pair: Pair, bouncer: Start
) -> None:
    url = pg_pair.read_write
    pooler, name = bouncer("transaction", IGNORING), url.database
    setting = f'ALTER DATABASE "{name}" {{}} default_transaction_read_only'
    pg_server.query(setting.format("SET") + " = on")
    pooler.query("SELECT 1", str(name))  # it keeps what this session was told
    pg_server.query(setting.format("RESET"))
    for row in pg_server.activity(url):
        pg_server.query(f"SELECT pg_terminate_backend({row.pid})")
    wait_until(lambda: not pg_server.activity(url), "the sessions' end")

    through = pooler.through(url)
    with contextlib.closing(
        psycopg2.connect(host="127.0.0.1", port=through.port, user="postgres", dbname=name)
    ) as connection:
        assert connection.get_parameter_status("default_transaction_read_only") == "on"
        with connection.cursor() as cursor:
            cursor.execute("SHOW default_transaction_read_only")
            assert cursor.fetchone() == ("off",)
    for driver in DRIVERS:

        def use(driver: str = driver) -> None:
            with (
                selected(through, driver) as engine,
                pytest.raises(ConfigurationError, match="has no effect there"),
            ):
                engine.connect()

        run(driver, use)


def test_a_creators_session_is_set_only_where_it_surely_is_its_own(
    url: URL, bouncer: Start
) -> None:
    def selector(port: int | None) -> EngineSelector:
        def creator() -> Any:
            return psycopg2.connect(
                host="127.0.0.1", port=port, user="postgres", dbname=url.database
            )

        given = create_engine("postgresql+psycopg2://", creator=creator)
        return EngineSelector(FixedSwitch(Mode.READ_ONLY), read_write=given)

    with selector(url.port) as one, one.engine().connect() as connection:
        assert connection.scalar(SHOW) == "on"
    pooler = bouncer("transaction")
    with (
        selector(pooler.port) as two,
        pytest.raises(ConfigurationError, match="not given by its creator= or driver"),
    ):
        two.engine().connect()
    assert pooler.query("SHOW default_transaction_read_only", str(url.database)) == [("off",)]


# -- the commands -----------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_wait_wants_the_server_itself(url: URL, bouncer: Start, mode: str, driver: str) -> None:
    need(driver)
    through = bouncer(mode).through(url).set(drivername=f"postgresql+{driver}")
    if driver == "asyncpg":  # or PgBouncer mixes up what it prepares
        through = through.update_query_dict({"prepared_statement_cache_size": "0"})
    with pytest.raises(ServerError) as caught:
        Asked(shown(through)).check()
    assert str(caught.value) == (
        "The database of --read-write is asked through a pooler, behind which the server's list of "
        "sessions does not tell who may still write, and may name those that ask. Give the URL of "
        "the server itself."
    )


def test_doctor_says_when_the_option_is_needed_and_when_it_is_given(
    pg_pair: Pair, bouncer: Start
) -> None:
    through = bouncer("transaction").through(pg_pair.read_only)
    findings = look(pg_pair.read_write, through)
    for words in ("refuses start-up options", "A pooler in transaction mode"):
        one = the(findings, words)
        assert one.severity == "warning"
        assert 'EngineSelector(pooler="transaction")' in one.cure
    given = look(pg_pair.read_write, through, pooler="transaction")
    assert the(given, "No start-up options are sent to the read-only database").severity == "ok"
    assert the(given, "A pooler in transaction mode").severity == "ok"
    wrong = look(pg_pair.read_write, through, pooler="session")
    assert the(wrong, "A pooler in transaction mode").severity == "warning"
