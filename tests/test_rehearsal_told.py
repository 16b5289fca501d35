"""How a rehearsal is begun and told: the file, the command, the page, metrics; the examples."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import URL, insert

from sa_readonly.cli import main
from sa_readonly.rehearsal.notes import notebook_of
from sa_readonly.wsgi import ReadOnlyMiddleware
from tests.app import App, Book, need, once
from tests.test_frameworks import lite as settings
from tests.test_frameworks import python
from tests.test_wsgi_servers import TABLE, execute

__all__ = ["settings"]  # a fixture


def sign(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(Book(title="x"))


def tick(app: App) -> None:
    """Have the watcher look, as if the last look for a rehearsal were long ago."""
    worker = app.selector._worker
    worker.reporting.rehearsing.follow_fork()
    worker.watcher.tick()


def command(app: App, *options: str) -> Any:
    return CliRunner().invoke(main, ["rehearsal", "--file", str(app.path), *options])


@pytest.fixture
def rehearsed(lite: App) -> Iterator[App]:
    """An application whose processes were asked to rehearse, and that has signed twice since."""
    lite.start()
    sign(lite)
    assert command(lite, "--start").exit_code == 0
    tick(lite)
    sign(lite)
    sign(lite)
    tick(lite)
    yield lite
    lite.selector.close()


def test_processes_that_run_begin_and_end_by_a_file(lite: App) -> None:
    lite.start()
    sign(lite)
    notebook = notebook_of(lite.selector.switch)
    for options, on in (("--start", True), ("--stop", False)) * 2:
        assert command(lite, options).exit_code == 0
        assert os.path.exists(f"{lite.path}.rehearsal") is on
        tick(lite)
        assert notebook.on is on
    assert lite.selector.mode.value == "read-write"


def test_a_file_that_cant_be_looked_at_changes_nothing(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start()
    sign(lite)
    command(lite, "--start")
    tick(lite)

    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sa_readonly.workers.rehearsing.os.lstat", refuse)
    tick(lite)
    assert notebook_of(lite.selector.switch).on


def test_the_command_prints_one_table_of_all_workers(rehearsed: App) -> None:
    lines = command(rehearsed).output.splitlines()
    assert lines[0].split() == ["Times", "Behind", "Kind", "Last", "Where", "What"]
    assert lines[1].split()[:3] == ["2", "0", "flush"]
    assert lines[1].endswith("The flush of INSERT for Book")
    assert f"{Path(__file__).name}:" in lines[1]
    assert lines[2] == f"below {Path(__file__).parent}/"
    assert lines[3] == "1 of 1 workers rehearse"
    assert lines[4].startswith("refused at 1 place, and behind that at 0 places")


def test_reports_that_may_lack_what_was_noted_last_are_said_to_be_up_to_ten_seconds_old(
    rehearsed: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = "these reports are up to 10 s old: look again"
    assert command(rehearsed).output.splitlines()[-1] == old  # it has begun just now
    began = notebook_of(rehearsed.selector.switch).since
    monkeypatch.setattr("sa_readonly.command.rehearsal.time.time", lambda: began + 11)
    assert old not in command(rehearsed).output
    assert old not in command(rehearsed, "--stop").output
    tick(rehearsed)
    rehearsed.selector._worker.reporting.rehearsing.follow_fork()
    tick(rehearsed)
    assert old not in command(rehearsed).output
    assert "up to 10 s later" in command(rehearsed, "--start").output
    assert command(rehearsed).output.splitlines()[-1] == old  # its report is of the time before


def test_an_empty_table_is_said_to_be_up_to_ten_seconds_old_however_long_it_is_rehearsed(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(rehearse=True).selector.check()
    tick(lite)
    began = notebook_of(lite.selector.switch).since
    monkeypatch.setattr("sa_readonly.command.rehearsal.time.time", lambda: began + 99)
    first, *_, last = command(lite).output.splitlines()
    assert first == "1 of 1 workers rehearse"
    assert last == "these reports are up to 10 s old: look again"


def test_the_command_tells_it_as_json(rehearsed: App) -> None:
    told = json.loads(command(rehearsed, "--json").output)
    assert (told["asked"], told["changed"], told["rehearsing"]) == (True, False, 1)
    (site,) = told["sites"]
    assert (site["file"], site["function"], site["kind"]) == (__file__, "sign", "flush")
    assert (site["first"], site["behind"], site["role"], site["route"]) == (2, 0, "primary", None)


def test_start_and_stop_together_are_one_error_before_anything_is_written(lite: App) -> None:
    done = command(lite, "--start", "--stop")
    assert done.exit_code == 2
    assert "--start and --stop are given together. Give one of them." in done.output
    assert not os.path.exists(f"{lite.path}.rehearsal")


def test_what_has_not_begun_is_told(lite: App) -> None:
    told = f"No worker in {lite.path}.workers has rehearsed: begin it with --start.\n"
    assert command(lite).output == told
    command(lite, "--start")
    assert "have not begun yet" in command(lite).output
    assert "already asked" in command(lite, "--start").output
    assert "no more" in command(lite, "--stop").output
    assert "were not asked" in command(lite, "--stop").output


def test_a_file_that_cant_be_written_is_one_error(lite: App) -> None:
    os.mkdir(f"{lite.path}.rehearsal")
    done = command(lite, "--stop")
    assert done.exit_code == 1
    wrong = f"{lite.path}.rehearsal can't be removed (Is a directory). Remove it by hand."
    assert wrong in done.output


def test_the_notes_go_with_their_worker(rehearsed: App) -> None:
    rehearsed.selector.close()
    assert os.listdir(f"{rehearsed.path}.workers") == []


def page(app: App, accept: str, *, details: bool) -> str:
    middleware = ReadOnlyMiddleware(None, app.selector, details=details)  # type: ignore[arg-type]
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/-/read-only/rehearsal",
        "HTTP_ACCEPT": accept,
    }
    return b"".join(middleware(environ, lambda *_: None)).decode()  # type: ignore[arg-type]


@pytest.mark.parametrize("accept", ["text/plain", "application/json", "text/html"])
def test_the_page_names_places_to_those_alone_that_see_details(rehearsed: App, accept: str) -> None:
    assert "test_rehearsal_told.py" in page(rehearsed, accept, details=True)
    told = page(rehearsed, accept, details=False)
    assert "test_rehearsal_told.py" not in told
    assert "efused at 1 place" in told


def test_a_scrape_counts_what_was_noted(rehearsed: App) -> None:
    need("prometheus_client")
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    from sa_readonly.metrics import ReadOnlyCollector  # noqa: PLC0415

    with rehearsed.sessions.begin() as session:
        for title in ("first", "behind"):
            session.add(Book(title=title))
            session.flush()
    tick(rehearsed)
    registry = CollectorRegistry()
    registry.register(ReadOnlyCollector(rehearsed.selector))
    lines = generate_latest(registry).decode().splitlines()
    labels = f'kind="flush",pid="{os.getpid()}",switch="{rehearsed.path}"'
    assert f"sa_readonly_rehearsed_total{{{labels}}} 4.0" in lines
    assert f'sa_readonly_workers_rehearsing{{switch="{rehearsed.path}"}} 1.0' in lines


def test_a_request_that_would_be_refused_beforehand_is_noted_without_its_path(lite: App) -> None:
    lite.start(rehearse=True)

    def application(_environ: Any, start: Any) -> list[bytes]:
        with lite.sessions.begin() as session:
            session.execute(insert(Book).values(title="x"))
        start("200 OK", [])
        return [b""]

    middleware = ReadOnlyMiddleware(application, lite.selector, refuse=["POST"])
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/a/secret"}
    middleware(environ, lambda *_: None)  # type: ignore[arg-type]
    noted = {(key.site.function, key.kind) for key in notebook_of(lite.selector.switch).entries}
    assert noted == {("POST", "beforehand"), ("application", "statement")}


# -- the examples ------------------------------------------------------------------------------

COMPARED = """
import json, os
from pathlib import Path
from app import selector
from client_of_it import ask, traces
from sa_readonly.rehearsal.notes import DRAIN, READ, notebook_of

assert [ask("POST"), ask("GET")] == [POSTED, 200]
keys = list(notebook_of(selector.switch).entries)
rehearsed = [(one.site.line, one.route) for one in keys if one.kind not in (READ, DRAIN)]
served = [one.route for one in keys if one.kind == READ]
Path(os.environ["GUESTBOOK_FILE"]).touch()
selector.check()
assert [ask("POST"), ask("GET")] == [503, 200]
night = [[one for one in trace if one.filename.endswith("/app.py")][-1].lineno for trace in traces]
print(json.dumps([rehearsed, night, served, sorted({one.site.file for one in keys})]))
selector.close()
"""

FLASK = """
import traceback
from app import app, not_saved, selector
from sa_readonly import ReadOnlyError
from sa_readonly.wsgi import ReadOnlyMiddleware

traces = []

@app.errorhandler(ReadOnlyError)
def see(error):
    traces.append(traceback.extract_tb(error.__traceback__))
    return not_saved(error)

app.wsgi_app = ReadOnlyMiddleware(app.wsgi_app, selector)
client = app.test_client()

def ask(method):
    return client.open("/", method=method, data={"text": "x"}).status_code
"""

FASTAPI = """
import asyncio, json, traceback
from app import app, not_saved, selector
from sa_readonly import ReadOnlyError
from sa_readonly.asgi import ReadOnlyMiddleware

traces = []

@app.exception_handler(ReadOnlyError)
async def see(request, error):
    traces.append(traceback.extract_tb(error.__traceback__))
    return await not_saved(request, error)

loop, whole = asyncio.new_event_loop(), ReadOnlyMiddleware(app, selector)
fixed = {"type": "http", "path": "/", "raw_path": b"/", "root_path": "", "query_string": b"",
         "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
         "scheme": "http", "server": None, "client": None}

def ask(method):
    statuses = []

    async def receive():
        return {"type": "http.request", "body": json.dumps({"text": "x"}).encode()}

    async def send(message):
        statuses.append(message.get("status"))

    loop.run_until_complete(whole({**fixed, "method": method}, receive, send))
    return statuses[0]
"""


@once
@pytest.mark.parametrize(
    ("example", "client"),
    [("flask_app", FLASK), ("fastapi_app", FASTAPI)],
    ids=["flask", "fastapi"],
)
def test_a_rehearsal_of_an_example_names_exactly_what_the_night_refuses(
    settings: dict[str, str], place: Path, example: str, client: str
) -> None:
    asynchronous = example == "fastapi_app"
    need(example.partition("_")[0], *["aiosqlite"] * asynchronous)
    for which in ("rw", "ro"):
        url = URL.create("sqlite", database=str(place / f"{which}.db"))
        execute(url, TABLE.replace("SERIAL", "INTEGER"))
    (place / "client_of_it.py").write_text(client)
    if asynchronous:
        settings = {name: settings[name].replace("e:", "e+aiosqlite:") for name in settings}
    settings |= {"SA_READONLY_REHEARSE": "1", "PYTHONPATH": f"{place}{os.pathsep}."}
    code = COMPARED.replace("POSTED", "201" if asynchronous else "303")
    rehearsed, night, served, files = json.loads(python(code, example, **settings)[-1])
    assert [line for line, _ in rehearsed] == night
    assert len(night) == 1
    assert [route for _, route in rehearsed] == ["POST /"]
    assert served == ["GET /"]
    assert [Path(file).name for file in files] == ["app.py"]
