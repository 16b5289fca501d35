"""``server_read_only="flip"``: reads go on while a database's own server takes no writes."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, delete, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import sessionmaker

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    RoutingSession,
    State,
)
from sa_readonly.engines import answers
from sa_readonly.engines import server as server_room
from sa_readonly.engines.server import ServerSwitch
from sa_readonly.refusals import refusals
from sa_readonly.web.status import as_html
from sa_readonly.workers import watcher
from sa_readonly.workers.status import take
from sa_readonly.workers.verdict import judge
from tests.app import SECONDS, WHICH, App, Book, Clock, make_app, need, once
from tests.async_app import make_async_app
from tests.postgres import MariaDB, Server, wait_until
from tests.test_calls import calls, reading, writing
from tests.test_server_word import SAID, closed, maria, titles, write  # noqa: F401  # a fixture
from tests.test_web_note import KINDS, Request

READ_WRITE, READ_ONLY = Mode.READ_WRITE, Mode.READ_ONLY


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is asked again soon."""
    monkeypatch.setattr(server_room, "_SHORTEST", 0.02)


@pytest.fixture(params=["psycopg2", "asyncpg"])
def pg(request: pytest.FixtureRequest, pg_urls: dict[str, URL], place: Path) -> Iterator[App]:
    if request.param == "asyncpg":
        need("asyncpg")
        with make_async_app(place, dict(pg_urls), "asyncpg") as app:
            yield app
        return
    with make_app(place, dict(pg_urls)) as app:
        yield app


def start(app: App, **options: Any) -> App:
    return app.start(watch=True, server_read_only="flip", **options)


def read(app: App) -> str:
    with app.sessions() as session:
        return str(session.scalar(WHICH))


def flip(app: App) -> None:
    with pytest.raises(ReadOnlyError, match=SAID):
        write(app)
    assert app.selector.state.reason == SAID


def until_back(app: App) -> None:
    wait_until(lambda: not app.selector.read_only, "the server was asked")


def never_asked(app: App) -> None:
    """A probe is due when a test says so, and none is under way."""
    server = app.selector.server
    server._pause = server._due = math.inf
    worker_ticks(app, 2)
    server._due = math.inf


def ask_now(app: App) -> None:
    server = app.selector.server
    server._pause, server._due = 0.02, 0.0


def worker_ticks(app: App, number: int) -> None:
    thread = app.selector._worker.watcher
    for _ in range(number):
        looked = thread._looked
        wait_until(lambda looked=looked: thread._looked > looked, "a tick")  # type: ignore[misc]


def test_reads_go_on_and_writes_come_back_by_themselves(pg: App, pg_server: Server) -> None:
    start(pg)
    write(pg, "before")
    told: list[tuple[State, State]] = []
    pg.selector.on_flip(lambda old, new: told.append((old, new)))
    pg.engine_now().dispose()  # those that are there may go on to write
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        state = pg.selector.state
        assert (state.mode, state.generation, state.until) == (READ_ONLY, None, None)
        assert pg.selector.check() == state
        assert pg.selector.switch.state.mode is READ_WRITE
        assert read(pg) == "ro"
        assert refusals(pg.selector.server) == {}  # it was not sent to a door that is shut
        with pg.engine_now().connect() as connection:
            assert connection.scalar(WHICH) == "ro"
        with pytest.raises(ReadOnlyError) as caught:
            pg.selector.require_read_write()
        assert (caught.value.reason, caught.value.since) == (SAID, state.since)
        with pytest.raises(ReadOnlyError, match="the application is read-only since") as caught:
            write(pg)
        assert (caught.value.reason, caught.value.since) == (SAID, state.since)
        with pytest.raises(ReadOnlyError, match=SAID), pg.engines["rw"].connect():
            pass
        assert pg.engines["rw"].pool.checkedout() == 0
    until_back(pg)
    assert read(pg) == "rw"
    write(pg, "after")
    assert pg.titles("rw") == ["after", "before"]
    wait_until(lambda: len(told) > 1, "it is told")
    assert [(old.mode, new.mode) for old, new in told] == [
        (READ_WRITE, READ_ONLY),
        (READ_ONLY, READ_WRITE),
    ]


@pytest.mark.parametrize("pg", ["asyncpg"], indirect=True)
def test_what_a_loop_meets_is_told_in_a_thread(pg: App, pg_server: Server) -> None:
    start(pg)
    told: list[tuple[Mode, int]] = []
    pg.selector.on_flip(lambda _, new: told.append((new.mode, threading.get_ident())))
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        assert [mode for mode, _ in told] == [READ_ONLY]
    until_back(pg)
    assert threading.get_ident() not in {thread for _, thread in told}


@pytest.mark.parametrize("pg", ["psycopg2"], indirect=True)
def test_a_held_write_waits_until_the_server_takes_writes(pg: App, pg_server: Server) -> None:
    start(pg, max_held=1)
    sessions = sessionmaker(pg.selector, class_=RoutingSession, hold=SECONDS)

    def work() -> None:
        with sessions.begin() as session:
            session.add(Book(title="held"))

    held = threading.Thread(target=work)
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        held.start()
        wait_until(lambda: pg.selector.held.held[0] or not held.is_alive(), "it waits")
        assert held.is_alive()
    held.join(SECONDS)
    assert pg.titles("rw") == ["held"]


def test_one_flip_is_one_record(
    pg: App, pg_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    start(pg)
    caplog.set_level(logging.WARNING, "sa_readonly")
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        for _ in range(3):
            with pytest.raises(ReadOnlyError):
                write(pg)
    until_back(pg)
    wait_until(lambda: len(caplog.records) > 1, "it is told")  # after the flip
    shown = pg.urls["rw"].render_as_string()
    assert [re.sub(r"0:00:\d\d$", "...", one.getMessage()) for one in caplog.records] == [
        f"sa_readonly: read-write -> read-only: {shown}: {SAID}. It is asked every 0.02 s",
        f"sa_readonly: read-only -> read-write: {shown} takes writes. It was read-only for ...",
    ]


def test_a_transaction_that_had_begun_is_refused_and_never_moved(
    pg: App, pg_server: Server
) -> None:
    start(pg)
    with closed(pg_server, pg.urls["rw"]), pg.sessions() as session:
        assert session.scalar(WHICH) == "rw"
        flip(pg)
        never_asked(pg)
        assert session.scalar(WHICH) == "rw"
        session.add(Book(title="x"))
        with pytest.raises(ReadOnlyError, match=SAID):
            session.flush()
        session.rollback()
        assert session.scalar(WHICH) == "ro"
    reading = pg.sessions()
    assert reading.scalar(WHICH) == "ro"
    pg.selector.server.end()
    assert reading.scalar(WHICH) == "ro"
    with pytest.raises(ReadOnlyError) as caught:
        reading.execute(Book.__table__.insert(), {"title": "x"})
    assert caught.value.reason == SAID
    assert "began while the application was read-only, which is over. " in str(caught.value)
    reading.rollback()
    assert reading.scalar(WHICH) == "rw"
    reading.close()


def test_status_and_page_tell_it(pg: App, pg_server: Server) -> None:
    start(pg)
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        never_asked(pg)
        selector = pg.selector
        wait_until(
            lambda: (
                [one.mode for one in take(selector.switch, selector.registry).workers]
                == [READ_ONLY]
            ),
            "the report tells it",
        )
        seen = take(selector.switch, selector.registry)
        assert seen.workers[0].as_line().endswith(": read-only, its database server is read-only")
        assert seen.workers[0].as_json()["server_read_only"] is True
        assert judge(selector.switch.identify, selector.registry, READ_WRITE).waiting
        with pytest.raises(ReadOnlyError):
            write(pg)
        assert selector.report().report.kinds == {"server": 1, "flush": 1}
        assert f'<span class="text">{SAID}</span>' in as_html(
            take(selector, selector.registry)  # it looks as the switch does
        )
    ask_now(pg)
    until_back(pg)
    wait_until(
        lambda: not judge(selector.switch.identify, selector.registry, READ_WRITE).waiting,
        "the report tells it",
    )


def connecting(app: App, work: Any) -> None:
    event.listen(app.engines["rw"], "do_connect", lambda *_: work())


def test_the_switch_stands_above_it_and_no_probe_begins_meanwhile(
    pg: App, pg_server: Server
) -> None:
    start(pg)
    selector = pg.selector
    told: list[Mode] = []
    selector.on_flip(lambda _old, new: told.append(new.mode))
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        never_asked(pg)
        pg.on("upgrade")
        state = selector.check()
        assert (state.reason, state.generation) == ("upgrade", selector.switch.identify())
        verdict = wait_until(
            lambda: (found := judge(selector.switch.identify, selector.registry)).holds and found,
            "it is acknowledged",
        )
        assert verdict.generation == state.generation
        tried: list[int] = []
        connecting(pg, lambda: tried.append(1))
        ask_now(pg)
        worker_ticks(pg, 3)
        selector.server.probe()
        assert tried == []
    pg.off()
    assert selector.check().reason in (SAID, None)
    until_back(pg)
    assert tried
    wait_until(lambda: len(told) > 1, "it is told")
    assert told == [READ_ONLY, READ_WRITE]  # it was read-only all the while
    write(pg)


def test_a_probe_passes_every_check_is_counted_and_closed(pg: App, pg_server: Server) -> None:
    start(pg)
    selector = pg.selector
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        never_asked(pg)
    door = selector._guarded.doors[0]
    assert door.is_shut
    counted: list[int] = []

    def announce() -> None:
        counted.append(door.connections)
        if len(counted) == 1:
            pg.on("in the night")

    before = dict(refusals(selector.switch))
    connecting(pg, announce)
    ask_now(pg)
    wait_until(lambda: counted, "a probe")
    wait_until(lambda: selector.check().reason == "in the night", "the file is noticed")
    wait_until(lambda: door.connections == 0, "the probe is closed")
    assert selector.server.known.read_only  # nothing was asked of it
    assert counted[0] >= 1
    wait_until(lambda: not pg_server.activity(pg.urls["rw"]), "it is closed at the server")
    assert +Counter(refusals(selector.switch)) == before
    pg.off()
    until_back(pg)
    wait_until(lambda: door.connections == 0, "the probe is closed")


def test_a_server_that_is_not_there_is_asked_again(pg: App, pg_server: Server) -> None:
    start(pg)
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        never_asked(pg)
    tried: list[int] = []

    def fail() -> None:
        tried.append(1)
        if len(tried) < 3:
            raise ConnectionRefusedError

    connecting(pg, fail)
    ask_now(pg)
    until_back(pg)
    assert len(tried) >= 3


@pytest.mark.parametrize(
    "driver",
    [pytest.param("postgresql+psycopg2", marks=once), "postgresql+asyncpg", "mysql+pymysql"],
)
def test_a_server_that_accepts_and_says_nothing_is_not_waited_for_long(
    place: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    need(driver.partition("+")[2])
    monkeypatch.setattr(answers, "LONGEST", 2 if "psycopg2" in driver else 0.05)  # libpq's least
    make: Any = create_async_engine if "asyncpg" in driver else create_engine
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        engine = make(f"{driver}://u:p@127.0.0.1:{silent.getsockname()[1]}/x")
        options: Any = {"watch": True, "server_read_only": "flip", "workers": False}
        with EngineSelector(FixedSwitch(READ_WRITE), read_write=engine, **options) as selector:
            selector.server.turn()
            selector.server._due = math.inf  # its thread does not ask, too
            asking = threading.Thread(target=selector._guarded._may_write, daemon=True)
            asking.start()
            asking.join(5)
            assert not asking.is_alive()
            assert selector.read_only
            assert selector._guarded.doors[0].connections == 0


def test_a_probe_has_a_record_as_each_connection_has(pg: App, pg_server: Server) -> None:
    start(pg)

    def note(_dialect: Any, record: Any, *_: Any) -> None:
        record.info["token"] = "new"

    event.listen(pg.engines["rw"], "do_connect", note)
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
    until_back(pg)


def test_where_no_thread_runs_the_transactions_ask(
    pg: App, pg_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher.Watcher, "start", lambda _: None)
    start(pg)
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        assert read(pg) == "ro"
    wait_until(lambda: read(pg) == "rw", "the server was asked")
    write(pg)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_to_a_request_is_503_when_it_flips_and_while_it_is_closed(
    pg_urls: dict[str, URL], place: Path, pg_server: Server, kind: str
) -> None:
    with make_app(place, dict(pg_urls)) as app:
        start(app)
        ask = Request(kind, app)
        switch, server = app.selector.switch, app.selector.server

        def through_a_session() -> None:
            write(app)

        def through_an_engine() -> None:
            app.engines["rw"].connect()

        with closed(pg_server, app.urls["rw"]):
            for number, work in enumerate(
                (through_a_session, through_a_session, through_an_engine)
            ):

                def do(work: Any = work) -> int:
                    with pytest.raises(ReadOnlyError):
                        work()
                    return 500

                answered = ask(do)
                assert (answered.status, answered.raised) == (503, None)
                assert SAID.encode() in answered.body
                counts = Counter(refusals(switch)) + Counter(refusals(server))
                assert counts.total() == number + 1
                never_asked(app)
            assert counts == {"server": 1, "flush": 1, "connection": 1}


def test_what_is_forced_or_dictated_by_a_test_does_not_flip(
    pg: App, pg_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", "read-write")
    start(pg)
    with closed(pg_server, pg.urls["rw"]):
        with pytest.raises(ReadOnlyError, match=SAID):
            write(pg)
        assert not pg.selector.read_only


@pytest.mark.parametrize("closed_first", [False, True])
def test_another_selector_with_that_switch_goes_on(
    pg_urls: dict[str, URL], place: Path, pg_server: Server, closed_first: bool
) -> None:
    with make_app(place, dict(pg_urls)) as app, make_app(place, dict(pg_urls)) as other:
        start(app)
        other.start(watch=True)
        other.selector.close()
        with closed(pg_server, app.urls["rw"]):
            flip(app)
            never_asked(app)
        with (
            EngineSelector(
                app.selector.switch, read_write=other.engine("rw"), read_only=other.engine("ro")
            ) as second,
            ExitStack() as stack,
        ):
            session = RoutingSession(second)
            stack.callback(session.close)
            of_closed: dict[str, Any] = {"bind": app.selector}
            if closed_first:
                assert session.scalar(WHICH, bind_arguments=of_closed) == "ro"
            assert session.scalar(WHICH) == "rw"
            session.add(Book(title="other"))
            # A read of the closed one in that transaction is served, too.
            assert session.scalar(WHICH, bind_arguments=of_closed) == "ro"
            session.flush()
            assert (second.read_only, app.selector.read_only) == (False, True)
            ask_now(app)
            until_back(app)
            # What it began it keeps, also where the engine is given.
            engine = app.selector.engine()
            for bind in (app.selector, engine, engine.execution_options(a=1)):
                with pytest.raises(ReadOnlyError, match="the transaction began while"):
                    session.execute(delete(Book), bind_arguments={"bind": bind})
            session.commit()


def test_without_a_read_only_engine_the_closed_server_is_read(pg: App, pg_server: Server) -> None:
    start(pg, read_only=None)
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        never_asked(pg)
        assert read(pg) == "rw"
        with pg.sessions(role="replica") as session:
            assert session.scalar(WHICH) == "rw"
        with pg.engine_now().connect() as connection, pytest.raises(ReadOnlyError) as caught:
            connection.execute(Book.__table__.insert(), {"title": "x"})
        assert caught.value.reason == SAID
    ask_now(pg)
    until_back(pg)
    write(pg)


def test_closing_gives_the_engines_back(
    pg: App, pg_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    start(pg)
    with closed(pg_server, pg.urls["rw"]):
        flip(pg)
        never_asked(pg)
    pg.selector.close()
    assert [record for record in caplog.records if "takes writes" in record.getMessage()] == []
    engine = pg.engines["rw"]
    with engine.begin() as connection:
        connection.execute(Book.__table__.insert(), {"title": "x"})
    assert not [
        name
        for name in ("_sa_readonly_gates", "_sa_readonly_answers")
        if vars(engine.dialect)[name]
    ]


def test_without_a_file_it_flips_as_well(
    pg_urls: dict[str, URL], place: Path, pg_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "_LONGEST", 0.02)  # a switch that never moves is looked at seldom
    with make_app(place, dict(pg_urls)) as app:
        app.start(ttl=0)
        app.selector.close()
        app.selector = EngineSelector(
            FixedSwitch(READ_WRITE),
            read_write=app.engine("rw"),
            read_only=app.engine("ro"),
            server_read_only="flip",
        )
        app.sessions = sessionmaker(app.selector, class_=RoutingSession)
        with closed(pg_server, app.urls["rw"]):
            flip(app)
            assert read(app) == "ro"
        until_back(app)
        write(app)


def test_a_forked_child_asks_by_itself(
    pg_urls: dict[str, URL], place: Path, pg_server: Server
) -> None:
    with make_app(place, dict(pg_urls)) as app:
        start(app)
        with closed(pg_server, app.urls["rw"]):
            flip(app)
            never_asked(app)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                told = [app.selector.state.reason]
                ask_now(app)
                read(app)
                until_back(app)
                write(app, "child")
                os.write(writing, json.dumps(told).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert json.loads(os.read(reading, 1000)) == [SAID]
        os.close(reading), os.close(writing)
        assert app.selector.read_only
        assert app.titles("rw") == ["child"]


# -- MariaDB and SQLite ----------------------------------------------------------------------


def test_on_mariadb_reads_go_on_and_writes_come_back(maria: App, mariadb: MariaDB) -> None:  # noqa: F811
    start(maria)
    write(maria, "before")
    mariadb.query("SET GLOBAL read_only = 1")
    flip(maria)
    assert read(maria) == "ro"
    worker_ticks(maria, 3)
    assert maria.selector.read_only
    mariadb.query("SET GLOBAL read_only = 0")
    until_back(maria)
    write(maria, "after")
    assert titles(maria) == ["before", "after"]


def test_on_sqlite_nothing_flips(lite: App) -> None:
    start(lite)
    assert lite.selector.server is None


# -- how often -------------------------------------------------------------------------------


def test_the_wait_doubles_after_a_flip_within_a_minute_of_the_last(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(server_room, "_SHORTEST", 1.0)
    answers = iter([False, True] * 20)
    asked: list[float] = []

    def may_write() -> bool:
        asked.append(clock.ahead)
        return next(answers)

    above = FixedSwitch(READ_WRITE)
    made = ServerSwitch(
        above,
        lambda: "a database",
        shut=lambda: None,
        reopen=lambda: None,
        may_write=may_write,
    )

    def waits() -> list[float]:
        """The seconds before each of the two probes of a flip."""
        made.turn()
        asked.clear()
        asked.append(clock.ahead)
        while made.known.read_only:
            clock.ahead += 0.5
            made.probe()
        return [round(two - one) for one, two in pairwise(asked)]

    assert [waits() for _ in range(7)] == [[n, n] for n in (1, 2, 4, 8, 16, 30, 30)]
    clock.ahead += 61
    assert waits() == [1, 1]
    made.turn()
    asked.clear()
    clock.ahead += 61
    end = above.override(State(READ_ONLY))
    made.probe()
    assert asked == []
    end()
    made.probe()
    assert len(asked) == 1


def test_it_costs_no_call_more(pg_urls: dict[str, URL], place: Path) -> None:
    counted = []
    for how in ("error", "raise", "flip"):
        with make_app(place, dict(pg_urls)) as app:
            app.start(ttl=3600, watch=True, server_read_only=how)
            works = (
                reading(app.sessions, 1),
                writing(app.sessions),
                app.selector.require_read_write,
            )
            counted.append([calls(work) for work in works])
    assert counted[0] == counted[1] == counted[2]


# -- what may be given -----------------------------------------------------------------------


def test_what_makes_no_sense_is_refused(lite: App) -> None:
    with pytest.raises(ConfigurationError, match=r'takes "raise", "error" or "flip", not True'):
        lite.start(server_read_only=True)
    with pytest.raises(ConfigurationError, match=r"needs the thread that watch=False leaves out"):
        lite.start(server_read_only="flip", watch=False)
