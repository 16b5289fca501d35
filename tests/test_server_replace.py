"""The server's word and engines in the place of others: ``replace()``, ``url_file``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, insert
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import sessionmaker

from sa_readonly import Mode, ReadOnlyError, RoutingSession, selector_from_config
from sa_readonly.engines import guard
from sa_readonly.engines.doors import Door
from tests.app import App, Book, make_app
from tests.async_app import as_async
from tests.postgres import Server, wait_until
from tests.test_server_flip import (  # noqa: F401  # fixtures
    ask_now,
    flip,
    never_asked,
    pg,
    read,
    soon,
    until_back,
)
from tests.test_server_word import SAID, closed, write


def start(app: App, **options: Any) -> App:
    """Make a selector of the first database; the other one is to take its place."""
    options = {"read_only": None, "workers": False, **options}
    return app.start(watch=True, server_read_only="flip", **options)


def replace(app: App, name: str = "ro") -> Engine:
    engine = app.engines.get(name) or app.engine(name)
    app.selector.replace(read_write=as_async(engine) if app.selector.is_async else engine)
    return engine


def off(app: App) -> None:
    app.off()
    app.selector.check()


def test_replacing_what_its_server_has_closed_leaves_its_word_behind(
    pg: App,  # noqa: F811  # a fixture
    pg_server: Server,
) -> None:
    start(pg)
    old = pg.engines["rw"]
    told: list[tuple[Mode, Mode]] = []
    pg.selector.on_flip(lambda before, now: told.append((before.mode, now.mode)))
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        never_asked(pg)
        left = pg.selector.server
        pg.on()
        assert pg.selector.check().reason == "upgrade"
        green = replace(pg)
        assert not left.known.read_only
        assert [guard.gates(one) for one in (old, green)] == [(pg.selector.switch,)] * 2
        assert read(pg) == "rw"
        with pytest.raises(ReadOnlyError, match="upgrade"):
            write(pg)
        off(pg)
        assert (read(pg), pg.selector.read_only) == ("ro", False)
        write(pg, "new")
    wait_until(lambda: len(told) > 1, "it is told")
    assert told == [(Mode.READ_WRITE, Mode.READ_ONLY), (Mode.READ_ONLY, Mode.READ_WRITE)]
    with pytest.raises(ReadOnlyError, match="its engine was replaced"):
        old.connect()
    assert [pg.titles("rw"), pg.titles("ro")] == [[], ["new"]]


def test_while_the_server_alone_says_no_nothing_is_replaced(
    pg: App,  # noqa: F811  # a fixture
    pg_server: Server,
) -> None:
    start(pg)
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        never_asked(pg)
        server = pg.selector.server
        with pytest.raises(InvalidRequestError, match="it is read-write by its switch"):
            replace(pg)
        assert (pg.selector.server, pg.selector.state.reason) == (server, SAID)
        assert guard.gates(pg.engines["ro"]) == ()
        assert "_sa_readonly_door" not in vars(pg.engines["ro"])  # it was not touched at all
    ask_now(pg)
    until_back(pg)
    write(pg)
    assert pg.titles("rw") == ["x"]


def test_the_new_engines_have_the_word_of_their_own_server(
    pg: App,  # noqa: F811  # a fixture
    pg_server: Server,
) -> None:
    start(pg)
    write(pg, "before")
    pg.on()
    replace(pg)
    off(pg)
    with closed(pg_server, pg.urls["ro"]):
        flip(pg)
        never_asked(pg)
        assert read(pg) == "ro"
        with pytest.raises(ReadOnlyError, match=SAID):
            pg.engines["ro"].connect()
        with pytest.raises(ReadOnlyError, match="its engine was replaced"):
            pg.engines["rw"].connect()
    ask_now(pg)
    until_back(pg)
    write(pg, "after")
    assert [pg.titles("rw"), pg.titles("ro")] == [["before"], ["after"]]


def test_an_engine_that_is_given_again_hears_its_server_as_before(
    pg: App,  # noqa: F811  # a fixture
    pg_server: Server,
) -> None:
    start(pg, read_only=pg.engine("ro") if not hasattr(pg, "loop") else as_async(pg.engine("ro")))
    old_twin = pg.selector.routes["replica"][Mode.READ_WRITE]
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        never_asked(pg)
        pg.on()
        pg.engines["rw2"] = pg.make_engine(pg.urls["rw"])
        replace(pg, "rw2")
        replace(pg, "rw")
        off(pg)
        assert not pg.selector.read_only  # the server has not said it of the new set yet
        pg.engines["rw"].pool.dispose()
        flip(pg)
        never_asked(pg)
        assert (len(guard.gates(pg.engines["rw"])), read(pg)) == (2, "ro")
        # A gate by the server's word does not pass for another selector that has the engine.
        pg.on()
        pg.selector.check()
        off(pg)
        assert Door.of(old_twin).is_shut
        assert pg.selector.state.reason == SAID
    ask_now(pg)
    until_back(pg)
    write(pg)
    assert pg.titles("rw") == ["x"]


def test_closing_gives_back_what_was_replaced_and_what_its_server_has_closed(
    pg: App,  # noqa: F811  # a fixture
    pg_server: Server,
) -> None:
    start(pg)
    with closed(pg_server, pg.urls["rw"]), closed(pg_server, pg.urls["ro"]):
        flip(pg)
        never_asked(pg)
        pg.on()
        replace(pg)
        off(pg)
        flip(pg)
        never_asked(pg)
    pg.selector.close()
    for name in ("rw", "ro"):
        engine = pg.engines[name]
        with engine.begin() as connection:
            connection.execute(insert(Book), {"title": name})
        assert pg.titles(name) == [name]
        names = ("_sa_readonly_gates", "_sa_readonly_answers", "_sa_readonly_bars")
        assert not [one for one in names if vars(engine.dialect)[one]]


def test_what_fails_in_the_end_leaves_the_old_server_heard(
    pg: App,  # noqa: F811  # a fixture
    pg_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start(pg)
    server = pg.selector.server
    pg.on()

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(pg.selector.switch, "subscribe", fail)
        with pytest.raises(MemoryError):
            replace(pg)
    off(pg)
    assert pg.selector.server is server
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        assert server.known.read_only
    until_back(pg)


def test_a_url_in_a_file_is_read_before_the_server_is_asked(
    pg_urls: dict[str, URL], place: Path, pg_server: Server
) -> None:
    file = place / "url"

    def lead(name: str) -> None:
        file.write_text(app.urls[name].render_as_string(hide_password=False))

    with make_app(place, dict(pg_urls)) as app:
        lead("rw")
        app.selector = selector_from_config(
            {
                "sa_readonly.file": str(app.path),
                "sa_readonly.ttl": "0",
                "sa_readonly.server_read_only": "flip",
                "sa_readonly.read_write.primary.url_file": str(file),
            },
            workers=False,
        )
        app.sessions = sessionmaker(app.selector, class_=RoutingSession)
        with closed(pg_server, app.urls["rw"]):
            flip(app)
            never_asked(app)
            assert read(app) == "rw"
            lead("ro")
            ask_now(app)
            until_back(app)
            write(app, "after")
            assert app.titles("ro") == ["after"]
            app.on()
            assert read(app) == "ro"  # what the twin had idle was of the old server
