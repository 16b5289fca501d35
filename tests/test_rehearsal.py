"""A rehearsal: what it notes is what the night refuses, and the application goes on writing."""

from __future__ import annotations

import asyncio
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, func, insert, select, text, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    RoutingSession,
)
from sa_readonly.refusals import RequestNote
from sa_readonly.rehearsal import notes
from sa_readonly.rehearsal.callsite import Site
from sa_readonly.rehearsal.notes import DRAIN, READ, Entry, Key, Notebook, notebook_of
from sa_readonly.rehearsal.sheet import LIMIT, decoded, encoded, put_together, sheet_of
from tests.app import App, Author, Base, Book, Which, in_thread, need
from tests.by_url import end_lingering

HERE = __file__


# -- an application ----------------------------------------------------------------------------
# Each of these writes once, by a road of its own, or reads.


def flushes(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(Book(title="flush"))


def flushes_before_a_query(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(Book(title="autoflush"))
        session.scalars(select(Book)).all()


def changes(app: App) -> None:
    with app.sessions.begin() as session:
        session.scalars(select(Author)).one().name += "!"


def saves_in_bulk(app: App) -> None:
    with app.sessions.begin() as session:
        session.bulk_save_objects([Book(title="bulk")])


def inserts(app: App) -> None:
    with app.sessions.begin() as session:
        session.execute(insert(Book), [{"title": "one"}, {"title": "two"}])


def updates_after_a_read(app: App) -> None:
    with app.sessions.begin() as session:
        session.scalars(select(Which)).all()
        session.execute(update(Book).where(Book.title == "one").values(title="changed"))


def writes_text(app: App) -> None:
    with app.sessions.begin() as session:
        session.execute(text("insert into book (title) values ('text')"))


def writes_past_the_orm(app: App) -> None:
    with app.selector.engine().begin() as connection:
        connection.execute(insert(Book).values(title="core"))


def writes_as_a_driver_does(app: App) -> None:
    with app.selector.engine().begin() as connection:
        connection.exec_driver_sql("delete from book where title = 'none'")


def writes_under_autocommit(app: App) -> None:
    engine: Engine = app.selector.engine().execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(insert(Book).values(title="autocommit"))


def keeps_an_engine(app: App) -> None:
    with app.engines["rw"].begin() as connection:
        connection.execute(select(Which))


def gives_an_engine(app: App) -> None:
    with app.sessions.begin() as session:
        session.execute(select(Which), bind_arguments={"bind": app.engines["rw"]})


def has_a_plain_session(app: App) -> None:
    with Session(app.engines["rw"]) as session:
        session.add(Book(title="plain"))
        session.flush()


def asks_beforehand(app: App) -> None:
    app.selector.require_read_write()


def locks(app: App) -> None:
    sqlite = app.engines["rw"].name == "sqlite"  # which has no locks: a setting of its file
    with app.sessions.begin() as session:
        session.execute(text("pragma user_version = 1" if sqlite else "lock table book"))


def takes_a_number(app: App) -> None:
    if app.engines["rw"].name == "postgresql":
        with app.sessions.begin() as session:
            session.scalar(select(func.nextval("book_id_seq")))


def reads(app: App) -> None:
    with app.sessions() as session:
        session.scalars(select(Book)).all()


def reads_past_the_orm(app: App) -> None:
    with app.selector.engine().connect() as connection:
        connection.execute(select(Book)).all()


ROADS = (
    *(flushes, flushes_before_a_query, changes, saves_in_bulk, inserts, updates_after_a_read),
    *(writes_text, writes_past_the_orm, writes_as_a_driver_does, writes_under_autocommit),
    *(keeps_an_engine, gives_an_engine, has_a_plain_session, asks_beforehand, locks),
    *(takes_a_number, reads, reads_past_the_orm),
)


# -- what is compared --------------------------------------------------------------------------

Place = tuple[str, int, str, str]


def site_of(error: BaseException, kind: str | None) -> Place:
    """Where in this file an error was raised, told by its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    one = [frame for frame in frames if frame.filename == HERE][-1]
    return one.name, one.lineno or 0, HERE, str(kind)


def refused_in_the_night(app: App) -> set[Place]:
    found = set()
    app.on()
    for road in ROADS:
        try:
            road(app)
        except ReadOnlyError as error:
            found.add(site_of(error, error._kind))
    app.off()
    return found


def noted(app: App, *, kinds: bool = True) -> dict[Key, Entry]:
    entries = notebook_of(app.selector.switch).entries
    return {
        key: entry for key, entry in entries.items() if (key.kind not in (READ, DRAIN)) is kinds
    }


def place_of(key: Key) -> Place:
    return key.site.function, key.site.line, key.site.file, key.kind


def test_a_rehearsal_names_the_very_places_that_the_night_refuses(app: App) -> None:
    app.start(rehearse=True)
    for road in ROADS:
        road(app)
    rehearsed = {place_of(key) for key, entry in noted(app).items() if entry.first}
    reading = {key.site.function for key in noted(app, kinds=False)}
    assert rehearsed == refused_in_the_night(app)
    assert len({function for function, *_ in rehearsed}) == len(ROADS) - 2 - (
        app.engines["rw"].name == "sqlite"
    )
    assert {"reads", "reads_past_the_orm", "updates_after_a_read"} <= reading
    assert "flushes" not in reading
    assert {"text", "core", "autocommit", "flush", "bulk", "changed"} <= set(app.titles("rw"))
    assert app.titles("ro") == []


def test_what_stands_behind_another_write_of_its_transaction_is_named_as_such(lite: App) -> None:
    lite.start(rehearse=True)
    with lite.sessions.begin() as session:
        session.add(Book(title="first"))
        session.flush()
        session.execute(update(Book).values(title="second"))
    with lite.sessions.begin() as session:
        session.execute(text("delete from book"))
        session.add(Book(title="third"))
    lines = sorted((key.site.line, entry.first, entry.behind) for key, entry in noted(lite).items())
    assert [(first, behind) for _, first, behind in lines] == [(1, 0), (0, 1), (0, 1), (1, 0)]


def test_what_is_refused_in_either_mode_is_noted_with_its_role(lite: App) -> None:
    lite.start(rehearse=True)
    with lite.sessions(role="replica") as session, pytest.raises(ReadOnlyError):
        session.execute(insert(Book))
    ((key, entry),) = noted(lite).items()
    assert (key.role, key.kind, entry.first) == ("replica", "statement", 1)


def test_the_role_replica_writes_nothing_in_a_rehearsal_of_a_database_in_memory() -> None:
    engine, other = create_engine("sqlite://"), create_engine("sqlite://")
    Base.metadata.create_all(engine)
    switch, options = FixedSwitch(Mode.READ_WRITE), {"workers": False, "rehearse": True}
    with (
        EngineSelector(switch, read_write=engine, read_only=other, **options) as selector,
        RoutingSession(selector, role="replica") as session,
    ):
        session.add(Book(title="no"))
        with pytest.raises(ReadOnlyError, match="the role 'replica'"):
            session.flush()
    engine.dispose()
    other.dispose()


def test_no_value_is_noted(lite: App) -> None:
    lite.start(rehearse=True)
    with lite.sessions.begin() as session:
        session.add(Book(title="a secret"))
        session.execute(text("update book set title = 'another secret'"))
        session.execute(insert(Book).values(title="a third secret"))
    assert b"secret" not in encoded(sheet_of(notebook_of(lite.selector.switch)))


def test_a_raw_cursor_is_noted_where_its_connection_was_made_in_the_rehearsal(app: App) -> None:
    app.start(rehearse=True)
    with app.sessions() as session:
        cursor = session.connection().connection.cursor()
        cursor.execute("select name from which")
        cursor.fetchall()
        assert noted(app) == {}
        cursor.execute("insert into book (title) values ('raw')")
        session.commit()
    (key,) = noted(app)
    assert (key.site.file, key.kind) == (HERE, "statement")
    app.selector.close()
    with app.engines["rw"].connect() as connection:
        connection.connection.cursor().execute("insert into book (title) values ('after')")
        connection.connection.commit()
    assert app.titles("rw") == ["after", "raw"]


def test_after_a_rehearsal_an_engine_is_what_it_was(lite: App) -> None:
    lite.start()
    dialect: Any = lite.engines["rw"].dialect
    before, notebook = type(dialect), notebook_of(lite.selector.switch)
    for _ in range(2):
        notebook.wish("process", on=True)
        assert type(dialect) is not before
        flushes(lite)
        assert len(noted(lite)) == 1  # a new one begins with nothing
        notebook.wish("process", on=False)
        assert type(dialect) is before
        flushes(lite)
        assert len(noted(lite)) == 1  # what it has noted stays


def test_a_rehearsal_notes_nothing_while_it_is_read_only_and_goes_on_after_it(lite: App) -> None:
    lite.start(rehearse=True)
    lite.on()
    with pytest.raises(ReadOnlyError):
        flushes(lite)
    assert noted(lite) == {}
    lite.off()
    flushes(lite)
    assert [entry.first for entry in noted(lite).values()] == [1]


def test_a_connection_that_is_held_is_noted_as_idle_or_running(lite: App) -> None:
    lite.start(rehearse=True)
    notebook = notebook_of(lite.selector.switch)
    with lite.sessions() as session:
        session.scalars(select(Book)).all()
        notebook.note_held()
        assert DRAIN not in {key.kind for key in notebook.entries}
        (held,) = notebook.held.values()
        held.since -= 12
        notebook.note_held()
        notebook.note_held()
    notebook.note_held()
    (drain,) = [(key, one) for key, one in notebook.entries.items() if key.kind == DRAIN]
    assert (drain[0].site.file, drain[1].first, drain[1].idle) == (HERE, 1, True)
    assert 12 <= drain[1].longest < 13
    assert notebook.held == {}


def test_an_async_application_is_named_though_it_waits_in_greenlets_and_tasks(lite: App) -> None:
    need("aiosqlite")
    engine = create_async_engine(lite.urls["rw"].set(drivername="sqlite+aiosqlite"))
    selector = EngineSelector(lite.path, read_write=engine, workers=False, rehearse=True)
    sessions = async_sessionmaker(selector, sync_session_class=RoutingSession)

    async def commits() -> None:
        async with sessions() as session:
            await session.scalars(select(Book))
            session.add(Book(title="x"))
            await session.commit()

    async def ends_a_block() -> None:
        async with sessions.begin() as session:
            session.add(Book(title="x"))

    async def past_the_orm() -> None:
        async with selector.engine().begin() as connection:
            await connection.execute(insert(Book).values(title="x"))

    async def all_of_it() -> None:
        async with selector:
            await commits()
            await ends_a_block()
            await past_the_orm()
        await engine.dispose()

    asyncio.run(all_of_it())
    keys = notebook_of(selector.switch).entries
    assert {key.site.file for key in keys} == {HERE}
    assert sorted((key.site.function, key.kind) for key in keys) == [
        ("commits", "flush"),
        ("commits", READ),
        ("ends_a_block", "flush"),
        ("past_the_orm", "statement"),
    ]


def test_an_engine_by_url_rehearses(lite: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA_READONLY_REHEARSE", "1")
    url = lite.urls["rw"].update_query_dict(
        {"plugin": "sa_readonly", "sa_readonly_file": str(lite.path)}
    )
    engine = create_engine(url, poolclass=QueuePool)
    with engine.begin() as connection:
        connection.execute(select(Book)).all()
        connection.execute(insert(Book).values(title="by url"))
    notebook = notebook_of(engine._sa_readonly_single.shared.switch)  # type: ignore[attr-defined]
    assert {(key.site.file, key.kind) for key in notebook.entries} == {
        (HERE, READ),
        (HERE, "statement"),
    }
    engine.dispose()
    end_lingering()


def test_a_replica_that_is_taken_away_too_is_read_in_a_rehearsal_and_refuses(app: App) -> None:
    replica = app.make_engine(app.urls["ro"])
    app.start(rehearse=True, read_write=Engines(app.engine("rw"), replica))
    with app.sessions(role="replica") as session:
        assert session.scalar(select(Which.name)) == "ro"
        cursor = session.connection().connection.cursor()
        with pytest.raises((ReadOnlyError, sqlite3.OperationalError)):
            cursor.execute("insert into book (title) values ('raw')")
    replica.dispose()
    assert app.titles("ro") == []


def flips(app: App) -> None:
    app.on()
    app.selector.check()


def closes(app: App) -> None:
    app.selector.close()


@pytest.mark.parametrize("options", [{}, {"isolation_level": "AUTOCOMMIT"}])
@pytest.mark.parametrize("ends", [flips, closes])
def test_a_statement_in_flight_outlives_the_end_of_the_rehearsal(
    lite: App, ends: Callable[[App], None], options: dict[str, Any]
) -> None:
    engine = lite.engine("rw", **options)
    lite.start(rehearse=True, grace=60)

    class Ending(str):
        def lower(self) -> str:  # asked as the text is examined
            done.append(True)
            in_thread(lambda: ends(lite))
            return super().lower()

    done: list[bool] = []
    with engine.connect() as connection:
        connection.execute(select(Which))
        if options and ends is flips:
            with pytest.raises(ReadOnlyError):
                connection.exec_driver_sql(Ending("select 77"))
        else:
            assert connection.exec_driver_sql(Ending("select 77")).scalar() == 77
    assert done == [True]


INSTALLED = """
def make(cls, *args, **options):
    return cls(*args, **options)

def view(sessions, helper):
    with sessions.begin() as session:
        helper(session)
"""
HELPER = "def helper(session):\n    session.connection().exec_driver_sql('delete from book')"


def test_an_application_that_is_installed_beside_its_libraries_is_named_itself(lite: App) -> None:
    told: dict[str, Any] = {}
    for name, code in (("shop/views.py", INSTALLED), ("orm_helpers.py", HELPER)):
        exec(compile(code, f"/venv/lib/site-packages/{name}", "exec"), told)
    selector = told["make"](
        EngineSelector, lite.path, read_write=lite.engine("rw"), workers=False, rehearse=True
    )
    with selector:
        told["view"](sessionmaker(selector, class_=RoutingSession), told["helper"])
    (key,) = notebook_of(selector.switch).entries
    assert key.site == Site("/venv/lib/site-packages/shop/views.py", 7, "view")


def stores(session: Session) -> None:
    session.add(Book(title="stored"))
    session.flush()


def test_what_reads_on_an_engine_that_was_kept_is_not_noted_as_what_would_be_served(
    lite: App,
) -> None:
    lite.start(rehearse=True)
    with lite.engines["rw"].connect() as connection:
        for _ in range(2):
            connection.execute(select(Which))
            connection.commit()
    entries = notebook_of(lite.selector.switch).entries
    assert [(key.kind, one.first) for key, one in entries.items()] == [("connection", 1)]


def test_what_a_connection_writes_in_its_next_transaction_stands_behind_nothing(lite: App) -> None:
    lite.start(rehearse=True)
    with lite.selector.engine().connect() as connection:
        for title in ("one", "two"):
            connection.execute(insert(Book).values(title=title))
            connection.execute(text("delete from book where title = 'none'"))
            connection.commit()
    assert [(one.first, one.behind) for one in noted(lite).values()] == [(2, 0), (0, 2)]


def test_a_line_that_is_met_again_is_told_by_who_has_called_it(lite: App) -> None:
    lite.start(rehearse=True)
    for _ in range(3):
        with lite.sessions() as session:
            stores(session)
        with Session(lite.engines["rw"]) as plain:
            stores(plain)
    assert {key.kind: (entry.first, entry.behind) for key, entry in noted(lite).items()} == {
        "flush": (3, 0),
        "connection": (3, 0),
        "statement": (0, 3),
    }


def test_what_can_not_be_noted_does_not_break_the_application(
    lite: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(rehearse=True)
    monkeypatch.setattr(notes, "_failed", set())

    def route() -> str:
        raise ValueError("the application's own")

    with RequestNote(route=route):
        for road in ROADS:
            road(lite)
    assert {"text", "core", "autocommit", "flush", "bulk", "changed"} <= set(lite.titles("rw"))
    assert noted(lite) == {}
    (record,) = caplog.records
    assert record.getMessage() == "Something could not be noted in a rehearsal."


def test_code_of_a_relative_name_is_named_though_its_directory_was_removed(
    lite: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(rehearse=True)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code = "def road():\n    selector.require_read_write()"
    told: dict[str, Any] = {"selector": lite.selector}
    exec(compile(code, "relative.py", "exec"), told)
    told["road"]()
    assert [place_of(key) for key in noted(lite)] == [("road", 2, "relative.py", "beforehand")]


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_what_is_neither_true_nor_false_is_refused(lite: App, wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as raised:
        EngineSelector(lite.path, read_write=lite.engine("rw"), rehearse=wrong)
    assert str(raised.value) == f"EngineSelector(rehearse) takes True or False, not {wrong!r}."


def test_a_variable_that_is_neither_1_nor_0_is_refused(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA_READONLY_REHEARSE", "true")
    url = lite.urls["rw"].update_query_dict({"plugin": "sa_readonly"})
    with pytest.raises(ConfigurationError, match="SA_READONLY_REHEARSE"):
        create_engine(url, sa_readonly_file=str(lite.path))
    with pytest.raises(ConfigurationError) as raised:
        EngineSelector(lite.path, read_write=lite.engine("rw"))
    assert str(raised.value) == (
        "The environment variable SA_READONLY_REHEARSE is 'true'. Set it to 1 to rehearse, or "
        "unset it."
    )


# -- how much is kept, and told ----------------------------------------------------------------


def filled(number: int, length: int = 1) -> Notebook:
    notebook = Notebook(FixedSwitch(Mode.READ_WRITE))
    notebook.wish("process", on=True)
    for line in range(number):
        site = Site("/srv/" + "x" * length, line, "sign")
        notebook.note(Key(site, None, "primary", "flush"), "The flush")
    return notebook


def test_a_process_notes_a_thousand_places_and_says_what_it_leaves_out() -> None:
    sheet = sheet_of(filled(notes.MOST + 7))
    assert (len(sheet.rows), sheet.left_out) == (notes.MOST, 7)
    found = put_together([decoded(encoded(sheet), "one")])
    assert "full: 7 more are left out" in found.sums


def test_a_sheet_is_as_long_as_it_may_be_and_no_longer() -> None:
    content = encoded(sheet_of(filled(notes.MOST, length=450)))
    assert LIMIT * 0.9 < len(content) <= LIMIT
    told = decoded(content, "one")
    assert told.problem is None
    assert len(told.rows) + told.left_out == notes.MOST


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{}", b'{"format":1}', b"x" * (LIMIT + 1)])
def test_a_damaged_sheet_is_a_problem_of_its_own(damaged: bytes) -> None:
    assert decoded(damaged, "one").problem == "its notes are damaged"


def test_sheets_of_several_processes_make_one_table_the_worst_first() -> None:
    first, second = filled(2), filled(1)
    second.note(Key(Site("/srv/y", 1, "show"), None, "primary", READ), "A transaction")
    found = put_together([sheet_of(first), sheet_of(second)])
    assert [(row.key.site.line, row.entry.first, row.key.kind) for row in found.rows] == [
        (0, 2, "flush"),
        (1, 1, "flush"),
        (1, 1, READ),
    ]
    assert found.base == "/srv/"
