"""The option ``pooler`` of a selector, without a pooler: what it takes, and what it sends."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    selector_from_config,
)
from sa_readonly.engines.statements import ends_transaction
from tests.app import need
from tests.postgres import Pair, Server

POSTGRESQL = "postgresql+psycopg2://h/d"


def select(engine: Any, pooler: Any, **options: Any) -> EngineSelector:
    switch = FixedSwitch(Mode.READ_ONLY)
    return EngineSelector(switch, read_write=engine, pooler=pooler, **options)


def test_it_takes_transaction_session_or_none() -> None:
    for wrong in ("statement", "", True, ["session"]):
        with pytest.raises(ConfigurationError) as caught:
            select(create_engine(POSTGRESQL), wrong)
        assert str(caught.value) == (
            f'EngineSelector(pooler) takes None, "transaction" or "session", not {wrong!r}.'
        )
    for right in (None, "session", "transaction"):
        select(create_engine(POSTGRESQL), right).close()


def test_it_is_about_postgresql() -> None:
    with pytest.raises(ConfigurationError) as caught:
        select(create_engine("sqlite:////tmp/x"), "session")
    assert str(caught.value) == (
        "EngineSelector(pooler) is about PostgreSQL, and read_write.primary is sqlite. Leave it "
        "out."
    )


def test_transaction_mode_needs_a_driver_that_begins_read_only_by_itself() -> None:
    need("pg8000")
    with pytest.raises(ConfigurationError) as caught:
        select(create_engine("postgresql+pg8000://h/d"), "transaction")
    assert str(caught.value) == (
        'EngineSelector(pooler="transaction") needs a driver that begins each transaction READ '
        "ONLY by itself, which pg8000 of read_write.primary does not. Use psycopg2, psycopg or "
        "asyncpg."
    )


def autocommitting() -> Engine:
    return create_engine(POSTGRESQL, isolation_level="AUTOCOMMIT")


@pytest.mark.parametrize(
    ("read_write", "read_only", "named"),
    [
        (autocommitting, None, "read_write.primary"),
        (
            lambda: create_engine(POSTGRESQL, execution_options={"isolation_level": "AUTOCOMMIT"}),
            None,
            "read_write.primary",
        ),
        (lambda: create_engine(POSTGRESQL), autocommitting, "read_only.primary"),
        # without a replica its sessions while read-write have an engine of the primary
        (autocommitting, lambda: create_engine(POSTGRESQL), "read_write.primary"),
    ],
)
def test_transaction_mode_has_no_engine_under_autocommit_that_reads(
    read_write: Any, read_only: Any, named: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        select(read_write(), "transaction", read_only=read_only and read_only())
    assert str(caught.value) == (
        f'{named} has isolation_level="AUTOCOMMIT", which EngineSelector(pooler="transaction") '
        "can't protect: no transaction is there to be READ ONLY. Give a read-only engine without "
        "it, or one that goes past the pooler."
    )


def test_a_read_write_engine_under_autocommit_of_which_no_reader_is_made_is_let_be() -> None:
    engines = Engines(autocommitting(), create_engine(POSTGRESQL))
    select(engines, "transaction", read_only=create_engine(POSTGRESQL)).close()


def test_two_selectors_with_one_engine_must_agree() -> None:
    engine = create_engine(POSTGRESQL)
    with select(engine, "session"):
        with pytest.raises(ConfigurationError) as caught:
            select(engine, "transaction")
        assert str(caught.value) == (
            "read_write.primary stands in another EngineSelector with pooler='session', here with "
            "'transaction'. Give both the same."
        )
    select(engine, "transaction").close()


def test_a_text_that_had_passed_without_it_is_looked_at_again(pg_pair: Pair) -> None:
    engine = create_engine(pg_pair.read_only)
    for pooler in (None, "transaction"):
        with select(engine, pooler) as selector, selector.engine().connect() as connection:
            refused = pytest.raises(ReadOnlyError) if pooler else contextlib.nullcontext()
            with refused:
                connection.exec_driver_sql("COMMIT")
    engine.dispose()


def test_it_is_a_key_of_the_configuration(tmp_path: Path) -> None:
    mapping = {
        "sa_readonly.file": str(tmp_path / "read-only.txt"),
        "sa_readonly.read_write.primary.url": POSTGRESQL,
        "sa_readonly.pooler": "statement",
    }
    with pytest.raises(ConfigurationError, match=r"EngineSelector\(pooler\) takes None"):
        selector_from_config(mapping)
    selector_from_config({**mapping, "sa_readonly.pooler": "transaction"}).close()


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_in_transaction_mode_nothing_is_set_for_the_session(
    pg_server: Server, pg_pair: Pair, driver: str
) -> None:
    need(driver)
    url = pg_pair.read_only.set(drivername=f"postgresql+{driver}")

    def last() -> str:
        (row,) = pg_server.activity(url)
        return row.query.rstrip(";")

    def use(selector: EngineSelector) -> None:
        engine = selector.engine()
        engine = getattr(engine, "sync_engine", engine)
        with engine.connect() as connection:
            assert connection.scalar(text("SHOW default_transaction_read_only")) == "off"
            assert connection.scalar(text("SHOW transaction_read_only")) == "on"
        assert last() == "ROLLBACK"
        # SQLAlchemy's own ping has psycopg2 send SET default_transaction_read_only TO DEFAULT
        with engine.connect() as connection:
            assert last() == "ROLLBACK"
            assert connection.scalar(text("SHOW transaction_read_only")) == "on"
        engine.dispose()

    if driver == "asyncpg":
        given: Any = create_async_engine(url, pool_pre_ping=True)
        with select(given, "transaction") as selector:
            asyncio.run(greenlet_spawn(use, selector))
    else:
        with select(create_engine(url, pool_pre_ping=True), "transaction") as selector:
            use(selector)


def test_pg8000_begins_a_session_read_only_too(pg_pair: Pair) -> None:
    need("pg8000")
    url = pg_pair.read_write.set(drivername="postgresql+pg8000")
    engine = create_engine(url, connect_args={"startup_params": {"search_path": "mine"}})
    with select(engine, None) as selector, selector.engine().connect() as connection:
        assert connection.scalar(text("SHOW search_path")) == "mine"
        asked = "SELECT setting, reset_val FROM pg_settings WHERE name = :name"
        found = connection.execute(text(asked), {"name": "default_transaction_read_only"})
        assert found.all() == [("on", "on")]
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "ends"),
    [
        ("SELECT 1", None),
        ("SAVEPOINT a", None),
        ("ROLLBACK TO SAVEPOINT a", None),
        ("RELEASE a; SELECT 'COMMIT'", None),
        ("SELECT $$; COMMIT;$$", None),
        ("/* a */ commit", "COMMIT in a text"),
        ("SELECT 1; End", "END in a text"),
        ("ROLLBACK AND CHAIN", "ROLLBACK in a text"),
        ("ABORT WORK;", "ABORT in a text"),
    ],
)
def test_a_text_that_ends_the_transaction_is_known(statement: str, ends: str | None) -> None:
    assert ends_transaction(statement) == ends
