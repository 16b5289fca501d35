"""``url_file`` in a configuration: the URL of an engine stands in a file, which may change."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, event, inspect, text
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import sessionmaker

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    RoutingSession,
    selector_from_config,
)
from sa_readonly.engines.url_files import UrlFile
from tests.app import WHICH, App, Book, in_thread, make_app, need, sqlite_urls
from tests.test_calls import calls
from tests.test_forks import in_child

RW = "sa_readonly.read_write.primary"
RO = "sa_readonly.read_only.primary"


@pytest.fixture
def moving(place: Path) -> Iterator[App]:
    with make_app(place, sqlite_urls(place, "rw", "green", "ro", "ro2")) as made:
        yield made


def secret(app: App, key: str) -> Path:
    return app.path.parent / f"{key}.url"


def lead(app: App, key: str, name: str) -> None:
    """Have the file of an engine hold the URL of a database."""
    secret(app, key).write_text(f"  {app.urls[name].render_as_string(hide_password=False)}\n")


def start(app: App, **more: Any) -> EngineSelector:
    keys = {
        "sa_readonly.file": str(app.path),
        "sa_readonly.ttl": "0",
        f"{RW}.url_file": str(secret(app, "rw")),
        **more,
    }
    app.selector = selector_from_config(keys, watch=False, workers=False)
    app.sessions = sessionmaker(app.selector, class_=RoutingSession)
    return app.selector  # type: ignore[no-any-return]  # App has it as Any


def which(app: App, role: str = "primary") -> Any:
    with app.sessions(role=role) as session:
        return session.scalar(WHICH)


def test_the_file_is_read_again_at_the_flip_back_and_the_twin_follows(
    moving: App, caplog: pytest.LogCaptureFixture
) -> None:
    lead(moving, "rw", "rw")
    selector = start(moving)
    assert which(moving) == "rw"
    lead(moving, "rw", "green")
    assert which(moving) == "rw"
    moving.on()
    assert [which(moving), which(moving, "replica")] == [
        "rw",
        "rw",
    ]  # by a twin that has just begun
    twin = moving.engine_now()
    assert twin.url == moving.urls["rw"]
    moving.off()
    assert [which(moving, "replica"), which(moving)] == ["green", "green"]
    with moving.sessions.begin() as session:
        session.add(Book(title="new"))
    assert [moving.titles("rw"), moving.titles("green")] == [[], ["new"]]
    urls = {one.url for one in (selector, selector.engine(), twin)}
    assert urls == {moving.urls["green"]}
    changed = [one for one in caplog.records if "has changed" in one.message]
    assert [(one.levelno, one.message) for one in changed] == [
        (
            logging.WARNING,
            f"{RW}: the URL in {secret(moving, 'rw')} has changed. It is {moving.urls['green']} "
            "now.",
        )
    ]
    moving.on()
    assert which(moving) == "green"


def test_the_file_of_a_read_only_engine_is_read_again_at_the_flip_to_read_only(
    moving: App,
) -> None:
    lead(moving, "rw", "rw")
    lead(moving, "ro", "ro")
    start(moving, **{f"{RO}.url_file": secret(moving, "ro")})
    for name, other in (("ro", "ro2"), ("ro2", "ro")):
        moving.on()
        assert which(moving) == name
        pool: Any = moving.engine_now().pool
        assert pool.checkedin() == 1
        lead(moving, "ro", other)
        assert which(moving) == name
        moving.off()
        assert which(moving) == "rw"
    moving.on()
    assert which(moving) == "ro"
    assert pool.checkedin() == 0


def test_a_replica_that_serves_in_both_modes_follows_at_the_flip_back(moving: App) -> None:
    lead(moving, "rw", "rw")
    lead(moving, "replica", "ro")
    start(moving, **{"sa_readonly.read_write.replica.url_file": secret(moving, "replica")})
    assert which(moving, "replica") == "ro"
    lead(moving, "replica", "ro2")
    moving.on()
    assert which(moving, "replica") == "ro"
    moving.off()
    assert which(moving, "replica") == "ro2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_is_forked_in_the_night_reads_what_its_parent_reads(moving: App) -> None:
    lead(moving, "rw", "rw")
    start(moving)
    moving.on()
    assert which(moving) == "rw"
    lead(moving, "rw", "green")

    def child() -> None:
        assert which(moving) == "rw"
        moving.off()
        assert [which(moving), which(moving, "replica")] == ["green", "green"]

    in_child(child)


def test_dispose_reads_it_again(moving: App) -> None:
    lead(moving, "rw", "rw")
    selector = start(moving)
    lead(moving, "rw", "green")
    assert which(moving) == "rw"
    selector.engine().dispose()
    assert which(moving) == "green"


def test_the_dialect_learns_of_the_server_to_which_the_file_leads(
    place: Path, pg_urls: dict[str, URL]
) -> None:
    urls = {
        name: pg_urls["rw"].set(query={"options": f"-csearch_path={schema}"})
        for name, schema in (("rw", "information_schema"), ("green", "pg_catalog"))
    }
    app = App(place / "read-only.txt", urls)
    lead(app, "rw", "rw")
    with start(app) as selector:
        engine = selector.engine()
        engine.connect().close()
        app.on()
        selector.check()
        lead(app, "rw", "green")
        app.off()
        selector.check()
        found: list[Any] = []

        @event.listens_for(engine, "do_connect")
        def meanwhile(*_: Any) -> None:  # another one connects, and is first to ask the server
            if not found:
                found.append(engine.dialect.default_schema_name)
                in_thread(lambda: engine.connect().close())
                found.append(engine.dialect.default_schema_name)
                engine.dialect.default_schema_name = ""

        with engine.connect() as connection:
            # This one has asked, too: it was begun by a dialect that knew nothing of the server.
            found.append(inspect(connection).default_schema_name)
            engine.dialect.default_schema_name = "asked once"
            with engine.connect():
                found.append(engine.dialect.default_schema_name)
        assert found == ["information_schema", "pg_catalog", "pg_catalog", "asked once"]
        engine.dispose()


BROKEN = {
    "nothing": ("", "is empty"),
    "no URL": ("the secret", "holds no URL"),
    "two lines": ("sqlite:////x:secret\nsqlite:////y", "holds no URL"),
    "a port that is no number": ("postgresql://me:secret@db:x", "holds no URL"),
    "bytes": (b"\xff\xfe secret", "holds no URL"),
    "another dialect": (
        "postgresql+psycopg2://me:secret@db/app",
        "holds a URL of postgresql+psycopg2, and the engine is one of sqlite+pysqlite",
    ),
    "a dialect that is not known": (
        "nosuch://me:secret@db/app",
        "nosuch",
    ),
    "another driver": (
        "sqlite+aiosqlite:////secret",
        "holds a URL of sqlite+aiosqlite, and the engine is one of sqlite+pysqlite",
    ),
    "an option that is not understood": ("sqlite:////x?timeout=secret", "options that are not"),
    "no file": (None, "can't be read: No such file or directory"),
}


def hold(path: Path, content: Any) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("broken", list(BROKEN))
def test_what_is_no_url_at_the_flip_back_leaves_the_last_one_and_is_logged(
    moving: App, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    lead(moving, "rw", "rw")
    selector = start(moving)
    moving.on()
    selector.check()
    content, message = BROKEN[broken]
    hold(secret(moving, "rw"), content)
    moving.off()
    assert [which(moving), which(moving, "replica")] == ["rw", "rw"]
    (error,) = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert message in error.message
    assert error.message.endswith(f"The URL that it held before is used on: {moving.urls['rw']}.")
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "broken", [name for name in BROKEN if name not in ("another dialect", "another driver")]
)
def test_what_is_no_url_at_the_start_is_an_error_that_shows_no_secret(
    moving: App, broken: str
) -> None:
    content, message = BROKEN[broken]
    hold(secret(moving, "rw"), content)
    with pytest.raises(ConfigurationError) as caught:
        start(moving)
    error: Any = caught.value
    assert str(error).startswith(f"No engine can be made of {RW}.url_file: ")
    assert message in str(error) or "whose message is left out" in str(error)
    assert "secret" not in str(error)
    assert (error.__cause__, error.__context__) == (None, None)


def test_no_password_is_logged_nor_in_an_error(
    moving: App, caplog: pytest.LogCaptureFixture
) -> None:
    need("psycopg2")
    path = secret(moving, "rw")
    path.write_text("postgresql+psycopg2://me:secret1@127.0.0.1:1/app?password=secret2")
    selector = start(moving)
    moving.on()
    selector.check()
    path.write_text("postgresql+psycopg2://me:secret3@127.0.0.1:2/app?password=secret4")
    moving.off()
    with pytest.raises(Exception, match="port 2 failed") as caught:
        selector.engine().connect()
    assert "It is postgresql+psycopg2://me:***@127.0.0.1:2/app now." in caplog.text
    assert "secret" not in f"{caplog.text}{caught.value}{selector!r}"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a url, too": ({f"{RW}.url": "sqlite:////x"}, r"url_file and .*primary.url are both given"),
    "a creator, too": ({f"{RW}.creator": print}, r"url_file and .*creator are both given"),
    "no path": ({f"{RW}.url_file": ""}, r"url_file takes the path of a file that holds a URL"),
    "an option that is not known": (
        {f"{RW}.pool_sze": "1"},
        r"url_file: Invalid arg.*'pool_s",
    ),
    "what is no class of pools": (
        {f"{RW}.poolclass": False},
        r"url_file: AttributeError, whose message is left out",
    ),
    "a replica alone": (
        {"sa_readonly.read_only.replica.url": "sqlite:////x"},
        "is given without sa_readonly.read_only.primary.url",
    ),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_configuration_that_makes_no_sense_is_refused(moving: App, wrong: str) -> None:
    lead(moving, "rw", "rw")
    more, message = WRONG[wrong]
    with pytest.raises(ConfigurationError, match=message):
        start(moving, **more)


def test_the_arguments_and_listeners_of_the_application_count_as_ever(moving: App) -> None:
    lead(moving, "rw", "rw")
    selector = start(moving, **{f"{RW}.connect_args": {"timeout": 7.5}, f"{RW}.pool_size": "2"})
    engine = selector.engine()
    seen: list[Any] = []

    @event.listens_for(engine, "do_connect")
    def redirect(dialect: Any, record: Any, arguments: Any, keywords: Any) -> None:
        seen.append((dialect is engine.dialect, record is not None, keywords["timeout"]))
        arguments[0] = str(moving.urls["ro"].database)

    assert [which(moving), engine.pool.size()] == ["ro", 2]
    moving.on()
    assert which(moving) == "ro"  # the twin's
    with moving.sessions() as session, pytest.raises(ReadOnlyError):
        session.execute(text("delete from book"))
    assert seen == [(True, True, 7.5)] * 2


def test_a_statement_costs_nothing_more(moving: App) -> None:
    lead(moving, "rw", "rw")
    keys: dict[str, Any] = {f"{RW}.url_file": secret(moving, "rw")}
    told = []
    for more in (keys, {f"{RW}.url": moving.urls["rw"]}):
        with selector_from_config({"sa_readonly.file": moving.path, **more}, watch=False) as one:
            one.switch = FixedSwitch(Mode.READ_WRITE)
            with one.engine().connect() as connection:
                told.append(calls(lambda: connection.execute(text("select 1"))))  # called at once
    assert told[0] == told[1]


def test_an_async_engine_follows_the_file_which_is_read_in_a_thread(
    moving: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("aiosqlite")
    threads: set[threading.Thread] = set()
    real = UrlFile._read

    def read(self: UrlFile) -> URL:
        threads.add(threading.current_thread())
        return real(self)

    async def run() -> None:
        for name in ("rw", "green"):
            moving.urls[name] = moving.urls[name].set(drivername="sqlite+aiosqlite")
        lead(moving, "rw", "rw")
        async with start(moving) as selector:
            sessions: Any = async_sessionmaker(selector, sync_session_class=RoutingSession)
            monkeypatch.setattr(UrlFile, "_read", read)
            found = []
            for _ in range(3):
                async with sessions() as session, sessions(role="replica") as replica:
                    found.append((await session.scalar(WHICH), await replica.scalar(WHICH)))
                lead(moving, "rw", "green")
                moving.flip()
            assert found == [("rw", "rw"), ("rw", "rw"), ("green", "green")]
            moving.on()
            assert str(selector.url) == str(moving.urls["green"])
            for engine in selector._engines.values():
                await engine.dispose()  # type: ignore[misc]  # it is an AsyncEngine

    asyncio.run(run())
    assert threads
    assert threading.main_thread() not in threads
