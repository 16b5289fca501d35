"""Programs that take nothing but a URL, each in its ordinary use, over a flip and back.

They are installed by the extra ``apps``; ``tox -e apps`` runs them. What each does then, and
what its operator should, stands in docs/programs.md. The name of this file keeps it out of a run of
all tests.
"""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from alembic import command
from alembic.config import Config
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from celery import Celery
from celery.exceptions import BackendStoreError
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from sa_readonly import ReadOnlyError, oneswitch
from tests.by_url import nothing_lingers
from tests.night import Operator
from tests.postgres import Server, fresh_pair, wait_until

__all__ = ["nothing_lingers"]


@dataclass
class Night:
    """Two databases, the file, and the URL of the first by which a program is told of it."""

    path: Path
    plain: URL
    other: URL

    def url(self, plain: URL | None = None, **query: str) -> str:
        file = {"plugin": "sa_readonly", "sa_readonly_file": str(self.path)}
        url = (plain or self.plain).update_query_dict({**file, **query})
        return url.render_as_string(hide_password=False)

    def on(self) -> None:
        self.path.write_text("upgrade")
        self._look()

    def off(self) -> None:
        self.path.unlink()
        self._look()

    @staticmethod
    def _look() -> None:
        for one in list(oneswitch._switches.values()):
            one.switch.check()

    def run(self, statement: str) -> list[Any]:
        """Execute past the plugin."""
        engine = create_engine(self.plain, poolclass=NullPool)
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []


@pytest.fixture(params=["sqlite", "postgresql"])
def night(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Night]:
    path = tmp_path / "read-only.txt"
    if request.param == "sqlite":
        one, two = (make_url(f"sqlite:///{tmp_path}/{name}.db") for name in ("one", "two"))
        yield Night(path, one, two)
        return
    server: Server = request.getfixturevalue("pg_server")
    with fresh_pair(server) as pair:
        yield Night(path, pair.read_write, pair.read_only)


# -- Alembic ---------------------------------------------------------------------------------

STEP = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = {revision!r}, {before!r}
def upgrade():
    op.create_table({table!r}, sa.Column("id", sa.Integer, primary_key=True))
def downgrade():
    op.drop_table({table!r})
"""


def test_alembic_migrates_reads_and_writes_scripts(night: Night, tmp_path: Path) -> None:
    output = io.StringIO()
    config = Config(str(tmp_path / "alembic.ini"), stdout=output, output_buffer=output)
    command.init(config, str(tmp_path / "migrations"))
    config.set_main_option("sqlalchemy.url", night.url().replace("%", "%%"))
    for number in (1, 2):
        step = STEP.format(
            revision=f"r{number}",
            before=f"r{number - 1}" if number > 1 else None,
            table=f"table_{number}",
        )
        (tmp_path / "migrations" / "versions" / f"r{number}.py").write_text(step)
    command.upgrade(config, "r1")
    night.on()
    command.current(config)
    assert "r1" in output.getvalue()
    with pytest.raises(ReadOnlyError):
        command.upgrade(config, "head")
    assert night.run("select version_num from alembic_version") == [("r1",)]
    output.truncate(0)
    command.upgrade(config, "r1:head", sql=True)
    assert "CREATE TABLE table_2" in output.getvalue()
    night.off()
    command.upgrade(config, "head")
    assert night.run("select version_num from alembic_version") == [("r2",)]


# -- APScheduler -----------------------------------------------------------------------------

ran = threading.Semaphore(0)


def job() -> None:
    ran.release()


def test_apscheduler_waits_where_reads_are_refused_too(night: Night) -> None:
    store = SQLAlchemyJobStore(url=night.url(sa_readonly_reads="refuse"))
    scheduler = BackgroundScheduler(
        jobstores={"default": store},
        executors={"default": ThreadPoolExecutor(1)},
        jobstore_retry_interval=0.05,
        timezone="UTC",
    )
    scheduler.start()
    try:
        scheduler.add_job(job, "interval", seconds=0.5, id="job")
        due = night.run("select next_run_time from apscheduler_jobs")
        assert ran.acquire(timeout=30)
        # The scheduler is not in the middle of a job: see docs/programs.md.
        wait_until(lambda: night.run("select next_run_time from apscheduler_jobs") != due, "it")
        time.sleep(0.1)
        night.on()
        before = night.run("select next_run_time from apscheduler_jobs")
        with pytest.raises(ReadOnlyError):
            scheduler.add_job(job, "interval", seconds=1, id="another", replace_existing=True)
        while ran.acquire(blocking=False):
            pass
        assert not ran.acquire(timeout=1.2), "it runs no job meanwhile"
        assert night.run("select next_run_time from apscheduler_jobs") == before
        assert scheduler._thread.is_alive()
        night.off()
        assert ran.acquire(timeout=30), "it goes on"
    finally:
        scheduler.shutdown()


# -- Celery ----------------------------------------------------------------------------------


def test_celery_keeps_results_and_tells_them(night: Night) -> None:
    app = Celery(broker="memory://", backend=f"db+{night.url()}")
    app.conf.update(result_backend_always_retry=True, result_backend_max_retries=1)
    backend = app.backend
    backend.store_result("before", 1, "SUCCESS")
    night.on()
    assert app.AsyncResult("before").get(timeout=30) == 1
    assert app.AsyncResult("never").state == "PENDING"
    with pytest.raises(BackendStoreError) as told:
        backend.store_result("meanwhile", 2, "SUCCESS")
    assert isinstance(told.value.__cause__ or told.value.__context__, ReadOnlyError)
    night.off()
    backend.store_result("after", 3, "SUCCESS")
    assert night.run("select task_id from celery_taskmeta order by 1") == [("after",), ("before",)]


def test_celery_keeps_a_result_for_after_the_night(night: Night) -> None:
    app = Celery(broker="memory://", backend=f"db+{night.url()}")
    app.conf.update(
        result_backend_always_retry=True,
        result_backend_max_retries=100_000,
        result_backend_max_sleep_between_retries_ms=50,
    )
    app.backend.store_result("before", 1, "SUCCESS")
    night.on()
    thread = threading.Thread(target=app.backend.store_result, args=("late", 2, "SUCCESS"))
    thread.start()
    assert app.AsyncResult("late").state == "PENDING"
    night.off()
    thread.join(30)
    assert app.AsyncResult("late").get(timeout=30) == 2


# -- Flask-SQLAlchemy ------------------------------------------------------------------------


def test_flask_sqlalchemy_needs_its_urls_alone(night: Night) -> None:
    db = SQLAlchemy()

    class Post(db.Model):  # type: ignore[name-defined,misc]
        id = db.Column(db.Integer, primary_key=True)
        title = db.Column(db.String(50))

    class Visit(db.Model):  # type: ignore[name-defined,misc]
        __bind_key__ = "other"
        id = db.Column(db.Integer, primary_key=True)

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = night.url()
    app.config["SQLALCHEMY_BINDS"] = {"other": night.url(night.other)}
    db.init_app(app)

    @app.post("/<title>")
    def add(title: str) -> str:
        db.session.add_all([Post(title=title), Visit()])
        db.session.commit()
        return "added"

    @app.get("/")
    def show() -> str:
        return f"{[one.title for one in Post.query.order_by(Post.id)]} {Visit.query.count()}"

    with app.app_context():
        db.create_all()
    client = app.test_client()
    assert client.post("/before").text == "added"
    night.on()
    assert client.get("/").text == "['before'] 1"
    assert client.post("/meanwhile").status_code == 500
    assert client.get("/").text == "['before'] 1"
    night.off()
    assert client.post("/after").text == "added"
    assert client.get("/").text == "['before', 'after'] 2"


# -- pandas ----------------------------------------------------------------------------------


def test_pandas_reads_and_a_write_is_refused(night: Night) -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    frame.to_sql("frame", night.url(), index=False)
    night.on()
    assert pd.read_sql("select a from frame", night.url())["a"].tolist() == [1, 2]
    assert pd.read_sql_table("frame", night.url())["a"].tolist() == [1, 2]
    for exists in ("append", "replace"):
        with pytest.raises((ReadOnlyError, pd.errors.DatabaseError), match="is refused") as told:
            frame.to_sql("frame", night.url(), index=False, if_exists=exists)
        assert isinstance(told.value.__cause__ or told.value, ReadOnlyError)
    night.off()
    frame.to_sql("frame", night.url(), index=False, if_exists="append")
    assert night.run("select count(*) from frame") == [(4,)]


# -- Buildbot --------------------------------------------------------------------------------

MASTER = """
from buildbot.plugins import changes, schedulers, steps, util, worker
c = BuildmasterConfig = {{}}
c["workers"] = [worker.Worker("w", "password")]
c["protocols"] = {{"pb": {{"port": "tcp:{ports[0]}:interface=127.0.0.1"}}}}
c["change_source"] = [
    changes.PBChangeSource(port="tcp:{ports[1]}:interface=127.0.0.1", user="u", passwd="p")
]
c["builders"] = [util.BuilderConfig(
    name="b", workernames=["w"], factory=util.BuildFactory([steps.ShellCommand(command=["true"])])
)]
c["schedulers"] = [schedulers.SingleBranchScheduler(
    name="s", change_filter=util.ChangeFilter(branch="main"), builderNames=["b"]
)]
c["buildbotURL"] = "http://127.0.0.1/"
c["db"] = {{"db_url": {url!r}}}
c["buildbotNetUsageData"] = None
"""
BUILDBOT = str(Path(sys.executable).with_name("buildbot"))


def buildbot(*arguments: object) -> subprocess.CompletedProcess[str]:
    command_ = [BUILDBOT, *map(str, arguments)]
    return subprocess.run(command_, capture_output=True, text=True, timeout=120, check=False)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def test_buildbot_takes_changes_before_and_after(night: Night, tmp_path: Path) -> None:
    master, ports = tmp_path / "master", free_ports(2)
    assert buildbot("create-master", "-r", f"--db={night.url()}", master).returncode == 0
    (master / "master.cfg").write_text(MASTER.format(ports=ports, url=night.url()))
    assert buildbot("checkconfig", master).returncode == 0

    def change(comment: str) -> bool:
        where = ("-m", f"127.0.0.1:{ports[1]}", "-a", "u:p", "-W", "me", "-b", "main")
        return buildbot("sendchange", *where, "-c", comment, "file").returncode == 0

    log = master / "twistd.log"
    running = subprocess.Popen(
        [BUILDBOT, "start", "--nodaemon", str(master)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: log.exists() and "BuildMaster is running" in log.read_text(), "it")
        assert change("before")
        operator = Operator(night.path, 1)
        operator.on()
        assert not change("meanwhile")
        assert running.poll() is None
        operator.off()
        assert change("after")
    finally:
        running.terminate()
        running.wait(60)
    assert night.run("select comments from changes order by changeid") == [("before",), ("after",)]
    night.path.write_text("upgrade")
    started = buildbot("start", "--nodaemon", master)
    assert started.returncode == 0, "it says so, though its start failed"
    assert "is refused" in log.read_text().rpartition("Starting BuildMaster")[2]
