"""The examples for frameworks go through a flip, each in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from sa_readonly import Mode
from tests.app import need, once
from tests.night import PATIENCE, Operator, Watch
from tests.postgres import Server, wait_until
from tests.test_wsgi_servers import (
    EXAMPLES,
    GUNICORN,
    LISTENING,
    TABLE,
    WORKERS,
    Load,
    Site,
    ask,
    execute,
    site,  # noqa: F401  # a fixture
    texts,
)

DOCS = (EXAMPLES.parent / "docs" / "frameworks.md").read_text()
BIN = Path(sys.executable).parent


class ProblemLoad(Load):
    """The same load, which is refused by the middleware's answer."""

    def write(self, name: str) -> None:
        status, page = ask(self.port, "POST", text=name)
        if status == 303:
            self.accepted.add(name)
        elif status == 503 and json.loads(page)["reason"] == "upgrade":
            self.refused.add(name)
        else:
            self.failed.append(f"write: {status} {page}")


def on_and_off(site: Site, server: Server) -> None:  # noqa: F811  # no fixture here
    """Under load, with a look at the server; then see what came of it."""
    with ProblemLoad(site.port) as load:
        workers = site.all_registered(load)
        site.operator.on()
        with Watch(server, site.pair.read_write):
            load.round()
        site.operator.off()
        load.round()
    assert load.failed == []
    assert load.refused
    assert load.workers <= site.registered() == workers
    assert texts(site.pair.read_write) == load.accepted
    assert texts(site.pair.read_only) == set()


def run(command: list[Any], place: Path, **environment: str) -> str:
    """Run a program to its end, and return what it wrote."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=place,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def python(code: str, example: str, **environment: str) -> list[str]:
    """Run a program in the directory of an example, and return the lines that it printed."""
    return run([sys.executable, "-c", code], EXAMPLES / example, **environment).splitlines()


@pytest.fixture
def lite(place: Path) -> dict[str, str]:
    """The settings of an example that needs no server."""
    return {
        "GUESTBOOK_RW_URL": f"sqlite:///{place}/rw.db",
        "GUESTBOOK_RO_URL": f"sqlite:///{place}/ro.db",
        "GUESTBOOK_FILE": str(place / "read-only.txt"),
        "GUESTBOOK_LOG": str(place / "guestbook.log"),
        "PLACE": str(place),
    }


# -- Flask-SQLAlchemy ------------------------------------------------------------------------------


def test_flask_sqlalchemy_under_gunicorn_goes_read_only_and_back(
    site: Site,  # noqa: F811  # the fixture
    pg_server: Server,
    place: Path,
) -> None:
    need("gunicorn", "flask_sqlalchemy")
    site.example = "flask_sqlalchemy_app"
    site.start(GUNICORN, LISTENING, GUESTBOOK_LOG=str(place / "guestbook.log"))
    on_and_off(site, pg_server)
    assert "Traceback" not in site.log.read_text() + (place / "guestbook.log").read_text()


@once
def test_flask_sqlalchemy_rotates_its_log_on_hup_and_looks_again_on_usr2(
    site: Site,  # noqa: F811  # the fixture
    place: Path,
) -> None:
    need("gunicorn", "flask_sqlalchemy")
    log, old = place / "guestbook.log", place / "guestbook.log.1"
    site.example = "flask_sqlalchemy_app"
    site.start(GUNICORN, LISTENING, GUESTBOOK_LOG=str(log), GUESTBOOK_TTL="3600")

    def written_by_all(load: Load) -> None:
        told = [f"[{pid}] INFO signed" for pid in workers]
        wait_until(lambda: all(line in log.read_text() for line in told), "all to log", PATIENCE)
        load.round()

    with ProblemLoad(site.port) as load:
        workers = site.all_registered(load)
        written_by_all(load)
        site.operator.switch.enable("upgrade")
        log.rename(old)
        for pid in workers:
            os.kill(pid, signal.SIGHUP)
        wait_until(log.exists, "a new log", PATIENCE)
        written_by_all(load)
    assert load.failed == []
    assert load.refused == set()  # nobody has looked again
    assert "read-only" not in ask(site.port, "GET")[1]
    for pid in workers:
        os.kill(pid, signal.SIGUSR2)
    site.operator.wait(Mode.READ_ONLY)
    with ProblemLoad(site.port) as load:
        load.round()
    assert (load.failed, load.accepted) == ([], set())
    page = ask(site.port, "GET")[1]
    assert '<p role="status">You can read, and not write, for now: upgrade.' in page
    assert site.registered() == workers
    assert log.read_text().count("read-write -> read-only") == WORKERS
    assert "read-only" not in old.read_text()


BINDS = """
import os, pathlib, sys
from flask import Flask
from sqlalchemy import MetaData, create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase
from sa_readonly import ReadOnlyError

place = os.environ["PLACE"]
FILE = pathlib.Path(place, "read-only.txt")
RW_URL, RO_URL, AUDIT_URL, AUDIT_COPY_URL, MAIL_URL = (
    f"sqlite:///{place}/{name}.db" for name in ("rw", "ro", "audit", "copy", "mail")
)
exec(sys.argv[1])  # what the docs show
for selector in db.selectors.values():
    selector.switch.ttl = 0

class Thing(db.Model):
    id = db.Column(db.Integer, primary_key=True)

class Trail(db.Model):
    __bind_key__ = "audit"
    id = db.Column(db.Integer, primary_key=True)

class Letter(db.Model):
    __bind_key__ = "mail"
    id = db.Column(db.Integer, primary_key=True)

MODELS = Thing, Trail, Letter

def counts():
    with app.app_context():
        return [db.session.scalar(select(func.count()).select_from(model)) for model in MODELS]

def refused(function):
    with app.app_context():
        try:
            function()
        except ReadOnlyError:
            db.session.rollback()
            db.session.scalars(select(Thing)).all()
            return True
        return False

def add(*models):
    db.session.add_all([model() for model in models])
    db.session.commit()

with app.app_context():
    db.create_all()
    add(*MODELS)
    assert db.session.get_bind(Trail) is not db.session.get_bind(Thing) is db.engine
for url, model in (RO_URL, Thing), (AUDIT_COPY_URL, Trail):
    model.metadata.create_all(create_engine(url))
assert counts() == [1, 1, 1], counts()
FILE.touch()
assert counts() == [0, 0, 1], counts()  # and the third is no selector's
assert refused(lambda: add(Thing)) and refused(lambda: add(Trail))
assert refused(lambda: db.session.execute(db.insert(Thing.__table__).values(id=9)))
assert refused(db.create_all) and refused(lambda: db.engine.connect())
assert not refused(lambda: add(Letter))
with app.app_context():
    assert db.session.role == "primary"
    db.session.role = "replica"
    assert db.session().role == "replica"
    assert refused(lambda: add(Thing))
    before = db.session()
    db.session.remove()
    assert db.session() is not before
FILE.unlink()
assert not refused(lambda: add(*MODELS))
assert not refused(lambda: db.create_all("audit"))
assert counts() == [2, 2, 3], counts()
print("done")
"""


def blocks(section: str, language: str = "python") -> list[str]:
    """What is shown in one section of docs/frameworks.md."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", DOCS, re.DOTALL | re.MULTILINE)
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_bind_keys_of_flask_sqlalchemy_have_selectors_of_their_own(lite: dict[str, str]) -> None:
    need("flask_sqlalchemy")
    shown = blocks("Flask-SQLAlchemy")[0].replace(
        "/var/lib/myapp/read-only.txt", lite["GUESTBOOK_FILE"]
    )
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", BINDS, shown]
    assert run(command, EXAMPLES, **lite).splitlines()[-1] == "done"


@pytest.mark.parametrize(
    ("section", "example"),
    [
        ("Flask-SQLAlchemy", "flask_sqlalchemy_app/app.py"),
        ("Pyramid", "pyramid_app/app.py"),
        ("Celery", "celery_app/tasks.py"),
        ("Alembic", "alembic_recipe/migrations/env.py"),
        ("Alembic", "alembic_recipe/migrate.sh"),
    ],
)
def test_what_the_docs_show_is_of_the_example(section: str, example: str) -> None:
    shown = blocks(section, "sh" if example.endswith(".sh") else "python")
    if section == "Flask-SQLAlchemy":
        shown = shown[1:]  # the first is run by the test above
    source = (EXAMPLES / example).read_text()
    assert shown
    assert [block for block in shown if block not in source] == []


PLAIN = """
import flask_sqlalchemy.session
from app import *
from sa_readonly import RoutingSession
class Plain(RoutingSession, flask_sqlalchemy.session.Session):
    pass
with app.app_context():
    for options in {}, {"bind": selector}, {"binds": {Base: selector}}:
        try:
            Plain(db=db, **options).scalars(select(Entry))
        except ReadOnlyError as error:
            print(error)
"""


def test_flask_sqlalchemy_needs_the_class_of_the_example_as_it_takes_no_bind(
    lite: dict[str, str],
) -> None:
    need("flask_sqlalchemy")
    Path(lite["GUESTBOOK_FILE"]).touch()
    told = python(PLAIN, "flask_sqlalchemy_app", **lite)
    assert sum("The use of a read-write engine is refused" in line for line in told) == 3, told


CONTRIB = """
import sys
from flask import Flask
from flask_sqlalchemy import SQLAlchemy as Theirs
from flask_sqlalchemy.session import Session
from sqlalchemy import text
from sa_readonly import ConfigurationError
from sa_readonly.contrib.flask_sqlalchemy import RoutedSession, SQLAlchemy

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"

def refused(function):
    try:
        function()
    except ConfigurationError as error:
        print(error)

class Own(RoutedSession):
    pass

db = SQLAlchemy(app, session_options={"class_": Own})
assert isinstance(db, Theirs)
with app.app_context():
    assert isinstance(db.session(), Own)
    refused(lambda: db.session.execute(text("select 1")))
refused(lambda: SQLAlchemy(app, session_options={"class_": Session}))
"""


@once
def test_the_extension_for_flask_sqlalchemy_names_what_it_lacks(lite: dict[str, str]) -> None:
    need("flask_sqlalchemy")
    assert python(CONTRIB, "flask_sqlalchemy_app", **lite) == [
        "No engine of this Flask-SQLAlchemy has a selector. Inside app.app_context() set "
        "db.selectors = {db.engine: EngineSelector(switch, read_write=db.engine)}.",
        "SQLAlchemy(session_options={'class_': ...}) takes a class that derives from "
        "sa_readonly.contrib.flask_sqlalchemy.RoutedSession, which Session does not.",
    ]


@once
def test_a_command_that_is_forced_to_read_write_migrates_meanwhile(lite: dict[str, str]) -> None:
    need("flask_sqlalchemy")
    Path(lite["GUESTBOOK_FILE"]).touch()
    init = [sys.executable, "-m", "flask", "init"]
    forced = {**lite, "SA_READONLY_FORCE": "read-write"}
    run(init, EXAMPLES / "flask_sqlalchemy_app", **forced)
    with pytest.raises(AssertionError, match="ReadOnlyError"):
        run(init, EXAMPLES / "flask_sqlalchemy_app", **lite)


# -- Pyramid ---------------------------------------------------------------------------------------


def test_pyramid_under_gunicorn_goes_read_only_and_back(
    site: Site,  # noqa: F811  # the fixture
    pg_server: Server,
) -> None:
    need("gunicorn", "pyramid", "pyramid_tm", "pyramid_retry", "zope.sqlalchemy")
    site.example = "pyramid_app"
    site.start([*GUNICORN, "--workers", str(WORKERS), "--preload"], LISTENING)
    on_and_off(site, pg_server)
    assert "Traceback" not in site.log.read_text()


# Asks the example, in one process, with views that write in several ways.
ASKING = """
import os, pathlib, sys
import app as example
from app import Entry, ReadOnlyError, Session, selector
from pyramid.httpexceptions import HTTPSeeOther
from pyramid_retry import IBeforeRetry
from sqlalchemy import func, insert, select, text
from webob import Request

Session.configure(twophase=sys.argv[1] == "twophase")
FILE = pathlib.Path(os.environ["GUESTBOOK_FILE"])
retried, ended = [], []

def on():
    FILE.touch()
    selector.check()

def off():
    FILE.unlink()
    selector.check()

def asked(view):
    def sign(request):
        request.tm.get().addAfterCommitHook(ended.append)
        return view(request) or HTTPSeeOther("/")

    retried.clear(), ended.clear()
    example.sign = sign
    app = example.make_app()
    app.app.registry.registerHandler(lambda event: retried.append(event.exception), [IBeforeRetry])
    request = Request.blank("/", POST={"text": "hello"})
    return request.get_response(app).status_int

def count():
    with Session() as session:
        return session.scalar(select(func.count()).select_from(Entry))

def adds(request):
    request.session.add(Entry(text="x"))

def flushes(request):
    adds(request)
    request.session.flush()

def inserts(request):
    request.session.execute(insert(Entry).values(text="x"))

def swallows(request):
    try:
        flushes(request)
    except ReadOnlyError:
        pass

assert asked(example.sign) == 303 and ended == [True] and count() == 1
on()
for view in adds, flushes, inserts, swallows:
    assert asked(view) == 503, view
    assert retried == [] and True not in ended, (view, retried, ended)
assert count() == 0  # in the other database
assert Request.blank("/").get_response(example.app).status_int == 200
off()

def conflicts(request, flip=False):
    flushes(request)
    if request.environ["retry.attempt"] == 0:
        if flip:
            on()
        request.session.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"))

assert asked(conflicts) == 303 and len(retried) == 1 and count() == 2
# A retry meets the flip: it is refused, and not tried again.
assert asked(lambda request: conflicts(request, flip=True)) == 503 and len(retried) == 1
off()
assert count() == 2

class Flips:
    # votes when the session has prepared its transaction, or committed it where there is one phase
    def __init__(self, manager):
        self.transaction_manager = manager
    def tpc_vote(self, transaction):
        on()
    abort = tpc_begin = commit = tpc_finish = tpc_abort = lambda self, transaction: None
    def sortKey(self):
        return "~~~"

def flips(request):
    adds(request)
    request.tm.get().join(Flips(request.tm))

assert asked(flips) == 303 and ended == [True]
off()
assert count() == 3
print("done")
"""


@pytest.mark.parametrize("phases", ["onephase", "twophase"])
def test_pyramid_answers_nothing_2xx_that_is_refused_and_retries_no_refusal(
    site: Site,  # noqa: F811  # the fixture
    phases: str,
) -> None:
    need("pyramid", "pyramid_tm", "pyramid_retry", "zope.sqlalchemy")
    command = [sys.executable, "-c", ASKING, phases]
    assert run(command, EXAMPLES / "pyramid_app", **site.environment).splitlines()[-1] == "done"
    left = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
    assert execute(site.pair.read_write, left) == []


# -- Celery ----------------------------------------------------------------------------------------

# kombu writes a message into a file that the worker sees already. The worker that looks just then
# reads an empty message, which it cannot decode, and ends (celery/kombu#1551). So each program of
# the tests writes beside it, and renames.
WHOLE = """
import os, time, uuid
from kombu.transport import filesystem
from kombu.utils.json import dumps

def put(self, queue, payload, **_):
    name = f"{time.monotonic() * 1000:.0f}_{uuid.uuid4()}.{queue}.msg"
    path = os.path.join(self.data_folder_out, name)
    with open(f"{path}.new", "w") as file:
        file.write(dumps(payload))
    os.rename(f"{path}.new", path)

filesystem.Channel._put = put
"""
# The example with one task more, that waits until a flip has come before it writes.
MORE = """
import os, pathlib, time
import whole
import tasks
from tasks import app, sign

@app.task(name="late", bind=True)
def late(self, text):
    pathlib.Path(os.environ["PLACE"], "started").touch()
    while not pathlib.Path(os.environ["PLACE"], "go").exists():
        time.sleep(0.01)
    sign.run(text)
"""
IMPATIENT = """
import whole
from celery.signals import worker_ready
from sa_readonly.contrib import pauses
pauses.random.uniform = lambda *_: 0.001
from tasks import app, PatientTask
worker_ready.receivers.clear()  # it does not pause
PatientTask.longest = 0.0
"""
SENDER = """
import sys, tasks, whole
for line in sys.stdin:
    name, retries, text = line.split()
    tasks.app.send_task(name, [text], retries=int(retries))
    print("sent", flush=True)
"""
COUNTDOWN = """
from datetime import datetime, timedelta, timezone
from sa_readonly import ReadOnlyError
from sa_readonly.contrib.pauses import countdown
from tasks import PatientTask, sign
def told(retries, until=None):
    until = until and datetime.now(timezone.utc) + timedelta(seconds=until)
    return countdown(ReadOnlyError("", until=until), retries)
assert PatientTask.max_retries is None and sign.max_retries is None
assert 1 <= told(0) <= 1.2 and 16 <= told(4) <= 16 * 1.2
assert all(300 <= told(*given) <= 360 for given in [(9,), (100000,), (0, 1e6)])
assert 99 <= told(7, 100) <= 120  # until it is there
assert 1 <= told(0, -100) <= 1.2 and 300 <= told(9, -100) <= 360  # it is overdue
try:
    sign("called, and by no worker")
except ReadOnlyError:
    print("done")
"""


class Fleet:
    """One Celery worker of the example, with a directory for a broker."""

    def __init__(self, place: Path, settings: dict[str, str]) -> None:
        self.place = place
        self.environment = {
            **os.environ,
            **settings,
            "GUESTBOOK_BROKER": str(place),
            "PYTHONPATH": os.pathsep.join(
                [str(EXAMPLES / "celery_app"), str(place), os.environ.get("PYTHONPATH", "")]
            ),
        }
        self.log = place / "worker.log"
        self.operator = Operator(Path(settings["GUESTBOOK_FILE"]), 1)
        self.process: Any = None
        self.sender: Any = None

    def start(self, pool: str, module: str = "more") -> None:
        options = ["--loglevel=INFO", "--concurrency=2", "--max-tasks-per-child=2"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [BIN / "celery", "--app", module, "worker", "--pool", pool, *options],
                cwd=self.place,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.says("ready.")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it holds. The error tells the log, also that of a worker that has ended."""

        def holds() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return condition()

        try:
            wait_until(holds, what, PATIENCE)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log.read_text()}") from None

    def says(self, what: str, times: int = 1) -> None:
        """Wait until its log has a line that often."""
        self.until(lambda: self.log.read_text().count(what) >= times, what)

    def signs(self, *texts: str) -> None:
        """Wait until these and no others are in the read-write database."""
        self.until(lambda: self.signed() == [*texts], f"{texts} to be signed")

    def send(self, name: str, *texts: str, retries: int = 0) -> None:
        """Send a task for each of the texts, as one that was retried that often."""
        if self.sender is None:
            self.sender = subprocess.Popen(
                [sys.executable, "-c", SENDER],
                cwd=self.place,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        for one in texts:
            self.sender.stdin.write(f"{name} {retries} {one}\n")
            assert self.sender.stdout.readline() == "sent\n"

    def signed(self, which: str = "rw") -> list[str]:
        url = URL.create("sqlite", database=str(self.place / f"{which}.db"))
        return sorted(name for (name,) in execute(url, "SELECT text FROM entry"))

    def messages(self) -> int:
        return len(list((self.place / "messages").iterdir()))

    def stop(self) -> None:
        if self.sender is not None:
            with self.sender:
                self.sender.stdin.close()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def fleet(place: Path, lite: dict[str, str]) -> Iterator[Fleet]:
    need("celery")
    made = Fleet(place, lite)
    for which in ("rw", "ro"):
        url = URL.create("sqlite", database=str(place / f"{which}.db"))
        execute(url, TABLE.replace("SERIAL", "INTEGER"))
    (place / "whole.py").write_text(WHOLE)
    (place / "more.py").write_text(MORE)
    (place / "impatient.py").write_text(IMPATIENT)
    try:
        yield made
    finally:
        made.stop()


@once
def test_a_celery_worker_pauses_at_its_start_and_at_a_flip(fleet: Fleet) -> None:
    fleet.operator.switch.enable("upgrade")
    fleet.send("tasks.sign", "a")
    fleet.start("solo")
    fleet.says("Canceling queue celery")
    assert fleet.messages() == 1
    fleet.operator.off()
    fleet.signs("a")
    fleet.operator.on()
    fleet.says("Canceling queue celery", times=2)
    fleet.send("tasks.sign", "b")
    fleet.operator.off()
    fleet.signs("a", "b")
    assert "Retry in" not in fleet.log.read_text()


@once
def test_a_celery_pool_of_processes_loses_no_task_over_a_flip(fleet: Fleet) -> None:
    fleet.start("prefork")
    fleet.send("tasks.sign", *"abcde")  # which need three processes, forked one after another
    fleet.signs(*"abcde")
    fleet.send("late", "late")
    fleet.until((fleet.place / "started").exists, "a task that has begun")
    fleet.operator.on()
    fleet.says("Canceling queue celery")
    fleet.send("tasks.sign", "f")
    (fleet.place / "go").touch()
    fleet.says("Retry in")  # it comes back to the broker, and waits there with the other
    assert fleet.messages() == 2
    assert (fleet.signed(), fleet.signed("ro")) == ([*"abcde"], [])
    fleet.operator.off()
    fleet.signs(*"abcdef", "late")
    assert fleet.messages() == 0
    assert "Traceback" not in fleet.log.read_text()
    fleet.process.terminate()
    assert fleet.process.wait(PATIENCE) == 0
    assert fleet.operator.registry.read() == [], fleet.log.read_text()  # each process has left


def test_a_celery_task_that_is_refused_is_retried_without_limit(fleet: Fleet) -> None:
    fleet.operator.switch.enable("upgrade")
    fleet.start("prefork", "impatient")
    fleet.send("tasks.sign", "a", retries=100)  # 3 would be Celery's limit
    fleet.says("Retry in")
    # Not `off()`, which waits for the report of a worker: here only the processes of the pool are
    # registered, and the last may end with this very task.
    fleet.operator.switch.disable()
    fleet.signs("a")


def test_the_countdown_of_a_celery_task_is_capped_and_goes_by_until(
    lite: dict[str, str], place: Path
) -> None:
    need("celery")
    Path(lite["GUESTBOOK_FILE"]).touch()
    told = python(COUNTDOWN, "celery_app", **lite, GUESTBOOK_BROKER=str(place))
    assert told[-1] == "done"


# -- Alembic ---------------------------------------------------------------------------------------


@once
def test_the_database_is_migrated_while_the_application_is_read_only(
    site: Site,  # noqa: F811  # the fixture
) -> None:
    need("gunicorn", "flask", "alembic")
    recipe = EXAMPLES / "alembic_recipe"
    environment = {
        **site.environment,
        "SA_READONLY_FILE": site.environment["GUESTBOOK_FILE"],
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
    }
    migrate = ["./migrate.sh", "--expect", WORKERS]
    for url in site.pair:
        execute(url, "DROP TABLE entry")
    copy = f"url={site.environment['GUESTBOOK_RO_URL']}"
    for options in ([], ["-x", copy]):
        run([BIN / "alembic", *options, "upgrade", "0001"], recipe, **environment)

    def columns(url: URL) -> list[str]:
        catalogue = "SELECT column_name FROM information_schema.columns WHERE table_name = 'entry'"
        return sorted(name for (name,) in execute(url, catalogue))

    site.start(GUNICORN, LISTENING)
    with Load(site.port) as first:
        workers = site.all_registered(first)
    with Load(site.port, clients=1) as load:
        load.round()
        execute(site.pair.read_write, "ALTER TABLE entry ADD signed int")  # which is in the way
        with pytest.raises(AssertionError, match="DuplicateColumn"):
            run(migrate, recipe, **environment)
        accepted, refused = set(load.accepted), len(load.refused)
        load.round()
        assert (load.accepted, len(load.refused) > refused) == (accepted, True)
        execute(site.pair.read_write, "ALTER TABLE entry DROP signed")
        run(migrate, recipe, **environment)
        load.round()
        assert len(load.accepted) > len(accepted)
    assert first.failed + load.failed == []
    assert site.registered() == workers
    assert columns(site.pair.read_write) == ["id", "signed", "text"]
    assert columns(site.pair.read_only) == ["id", "text"]
    written = [name for (name,) in execute(site.pair.read_write, "SELECT text FROM entry")]
    assert sorted(written) == sorted([*first.accepted, *load.accepted])
