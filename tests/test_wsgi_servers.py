"""Real web servers: the example application goes through the night of an upgrade under load."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import URL, create_engine, text
from sqlalchemy.pool import NullPool

from sa_readonly import Mode
from sa_readonly.workers.protocol import Liveness
from tests.app import make_app, need, once
from tests.night import PATIENCE, Commander, Operator, Watch
from tests.postgres import Pair, Server, wait_until
from tests.test_watcher import in_child

EXAMPLES = Path(__file__).parent.parent / "examples"
WORKERS = 4
CLIENTS = 6
THINKING = 0.02  # seconds; without, the load leaves no time for the workers on two cores
TABLE = "CREATE TABLE entry (id SERIAL PRIMARY KEY, text VARCHAR NOT NULL)"


class Load:
    """Clients that read and write by real requests, until the end of `with`."""

    def __init__(self, port: int, clients: int = CLIENTS) -> None:
        self.port = port
        self.accepted: set[str] = set()
        self.refused: set[str] = set()
        self.failed: list[str] = []
        self.workers: set[int] = set()
        self.stopping = threading.Event()
        self.changed = threading.Condition()
        self.done = [0] * clients
        self.threads = [
            threading.Thread(target=self.client, args=(number,)) for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self.threads)

    def round(self) -> None:
        """Return when each client has read and written once more."""
        with self.changed:
            goals = [done + 2 for done in self.done]
            assert self.changed.wait_for(
                lambda: all(done >= goal for done, goal in zip(self.done, goals, strict=True)),
                PATIENCE,
            ), f"the clients stand still; failed: {self.failed}"

    def client(self, number: int) -> None:
        count = 0
        while not self.stopping.wait(THINKING):
            self.noting(self.read)
            self.noting(self.write, f"{number}-{count}")
            count += 1
            with self.changed:
                self.done[number] += 1
                self.changed.notify_all()

    def noting(self, request: Callable[..., None], *arguments: str) -> None:
        try:
            request(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is noted
            self.failed.append(f"{request.__name__}: {error!r}")

    def read(self) -> None:
        status, page = ask(self.port, "GET")
        if status != 200 or not (told := re.search(r"worker (\d+)", page)):
            self.failed.append(f"read: {status} {page}")
        else:
            self.workers.add(int(told[1]))

    def write(self, name: str) -> None:
        status, page = ask(self.port, "POST", text=name)
        if status == 303:
            self.accepted.add(name)
        elif status == 503 and "Nothing can be written for now: upgrade." in page:
            self.refused.add(name)
        else:
            self.failed.append(f"write: {status} {page}")


def ask(port: int, method: str, **form: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        connection.request(method, "/", urlencode(form) or None, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


@dataclass
class Site:
    """The example application, behind a server of its own."""

    pair: Pair
    operator: Operator
    commander: Operator
    log: Path
    environment: dict[str, str]
    process: Any = None
    port: int = 0
    example: str = "flask_app"

    def start(self, command: list[str], bound: str, **environment: str) -> None:
        """Start a server; `bound` matches what it logs about its port."""
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=EXAMPLES / self.example,
                env={**self.environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def told() -> Any:
            assert self.process.poll() is None, self.log.read_text()
            return re.search(bound, self.log.read_text())

        self.port = int(wait_until(told, f"{command[0]} to tell its port", PATIENCE)[1])

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def registered(self) -> set[int]:
        """The workers that live: one that was restarted has another pid."""
        seen = self.operator.registry.read()
        return {one.pid for one in seen if one.liveness is Liveness.ALIVE and one.pid is not None}

    def all_registered(self, load: Load) -> set[int]:
        """Wait until each worker has served somebody, and return them."""
        try:
            wait_until(
                lambda: len(self.registered()) == self.operator.expect, "all workers", PATIENCE
            )
        except TimeoutError as error:
            lines = self.log.read_text().splitlines(keepends=True)
            log = "".join(line for line in lines if "HTTP/1." not in line)  # no requests
            told = f"Registered: {self.registered()}; failed: {load.failed}"
            raise TimeoutError(f"{error} {told}\n{log}") from None
        load.round()
        return self.registered()


@pytest.fixture
def site(pg_pair: Pair, place: Path) -> Iterator[Site]:
    for url in pg_pair:
        execute(url, TABLE)
    made = Site(
        pg_pair,
        Operator(place / "read-only.txt", WORKERS),
        Commander(place / "read-only.txt", WORKERS, pg_pair.read_write, process=True),
        place / "server.log",
        {
            **os.environ,
            "GUESTBOOK_RW_URL": pg_pair.read_write.render_as_string(hide_password=False),
            "GUESTBOOK_RO_URL": pg_pair.read_only.render_as_string(hide_password=False),
            "GUESTBOOK_FILE": str(place / "read-only.txt"),
        },
    )
    try:
        yield made
    finally:
        made.stop()


def execute(url: URL, sql: str) -> list[Any]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(sql))
        return list(result) if result.returns_rows else []


def texts(url: URL) -> set[str]:
    return {name for (name,) in execute(url, "SELECT text FROM entry")}


def night(site: Site, server: Server, kind: type[Load] = Load) -> None:
    """On, wait, off, under load; then see what came of it."""
    with kind(site.port) as load:
        workers = site.all_registered(load)
        for operator in (site.commander, site.operator):
            refused, accepted = len(load.refused), len(load.accepted)
            load.round()
            assert len(load.accepted) > accepted
            operator.on()
            with Watch(server, site.pair.read_write):
                load.round()
            assert len(load.refused) > refused
            operator.off()
        load.round()
    assert load.failed == []
    assert site.registered() == workers
    assert load.workers <= workers
    assert texts(site.pair.read_write) == load.accepted
    assert texts(site.pair.read_only) == set()
    assert not load.accepted & load.refused


# -- gunicorn ----------------------------------------------------------------------------------

GUNICORN = [sys.executable, "-m", "gunicorn", "app:app", "--bind", "127.0.0.1:0"]
LISTENING = r"Listening at: http://127\.0\.0\.1:(\d+)"


@once
@pytest.mark.parametrize(
    "kind", ["sync", pytest.param("gthread", marks=once), pytest.param("gevent", marks=once)]
)
def test_gunicorn_with_four_preloaded_workers(site: Site, pg_server: Server, kind: str) -> None:
    need("gunicorn", "flask", *(["gevent", "psycogreen"] if kind == "gevent" else []))
    threads = ["--threads", "4"] if kind == "gthread" else []
    site.start([*GUNICORN, "-k", kind, *threads], LISTENING)
    night(site, pg_server)


@once
@pytest.mark.parametrize("kind", ["sync", "gevent"])
def test_a_gunicorn_worker_that_is_sent_usr2_looks_at_once(site: Site, kind: str) -> None:
    need("gunicorn", "flask", *(["gevent", "psycogreen"] if kind == "gevent" else []))
    site.start([*GUNICORN, "-k", kind], LISTENING, GUESTBOOK_TTL="3600")
    with Load(site.port) as load:
        workers = site.all_registered(load)
    site.operator.switch.enable("upgrade")
    with Load(site.port) as unknowing:
        unknowing.round()
    for pid in workers:
        os.kill(pid, signal.SIGUSR2)
    site.operator.wait(Mode.READ_ONLY)
    with Load(site.port) as told:
        told.round()
    assert load.failed + unknowing.failed + told.failed == []
    assert (unknowing.refused, told.accepted) == (set(), set())
    assert site.registered() == workers


PROGRAM = """
import os, signal, sys
from sqlalchemy import create_engine
from sa_readonly import EngineSelector, FileSwitch

def say(text):
    os.write(1, text.encode() + b"\\n")  # print() refuses a handler that interrupts print()

def before(number, frame):
    say("the handler before")

signal.signal(signal.SIGUSR2, before)
signal.signal(signal.SIGHUP, lambda number, frame: say("rotated"))
selector = EngineSelector(
    FileSwitch(sys.argv[1], ttl=3600), read_write=create_engine("sqlite://"),
    read_only=create_engine("sqlite://"), watch=False,
)
selector.check_on_signal(signal.SIGUSR2)
for _ in sys.stdin:
    say(str(selector.mode))
"""


@once
def test_a_signal_calls_the_handler_before_and_leaves_the_rotation_of_logs_alone(
    place: Path,
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(place / "read-only.txt")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def told() -> str:
            return process.stdout.readline().strip()

        def mode() -> str:
            process.stdin.write("mode?\n")
            process.stdin.flush()
            return told()

        hanging = threading.Timer(PATIENCE, process.kill)
        hanging.start()
        assert mode() == "read-write"
        Operator(place / "read-only.txt", 1).switch.enable("upgrade")
        assert mode() == "read-write"
        process.send_signal(signal.SIGHUP)
        assert told() == "rotated"
        assert mode() == "read-write"
        process.send_signal(signal.SIGUSR2)
        assert told() == "the handler before"
        assert mode() == "read-only"
        process.stdin.close()
        assert process.wait() == 0
        hanging.cancel()


# -- uWSGI ---------------------------------------------------------------------------------------

UWSGI = (
    "uwsgi --master --processes 4 --http-socket 127.0.0.1:0 --module app:app --need-app"
    f" --home {sys.prefix}"
).split()
BOUND = r"bound to TCP address 127\.0\.0\.1:(\d+)"


@pytest.fixture
def uwsgi(site: Site) -> Callable[..., None]:
    """Starts uWSGI with some more options."""
    need("flask")
    program = shutil.which("uwsgi", path=os.path.dirname(sys.executable))
    if program is None:
        pytest.skip("NOT TESTED: uwsgi is not installed. Cure: pip install uwsgi (it compiles).")
    return lambda *options: site.start([program, *UWSGI[1:], *options], BOUND)


@pytest.mark.parametrize(
    "options",
    [(), ("--py-call-osafterfork",), ("--lazy-apps", "--py-call-uwsgi-fork-hooks")],
    ids=" ".join,
)
def test_uwsgi_with_threads(
    site: Site, pg_server: Server, uwsgi: Callable[..., None], options: tuple[str, ...]
) -> None:
    uwsgi("--enable-threads", *options)
    night(site, pg_server)


def test_uwsgi_without_threads_is_drained_by_its_traffic_alone(
    site: Site, pg_server: Server, uwsgi: Callable[..., None]
) -> None:
    uwsgi()
    wait_until(lambda: "spawned uWSGI worker 4" in site.log.read_text(), "the workers", PATIENCE)
    if "Python threads support is disabled" not in site.log.read_text():
        pytest.skip("NOT TESTED: this uWSGI always runs threads; releases up to 2.0.26 do not.")
    with Load(site.port) as load:
        site.all_registered(load)
    site.operator.switch.enable("upgrade")
    for _ in range(200):  # which takes many times as long as any thread would need
        whys = [why for _, why in site.operator.look().waiting]
        assert [why.partition(",")[0] for why in whys] == ["has not noticed"] * WORKERS
    with Load(site.port) as load:
        site.operator.wait(Mode.READ_ONLY)
        with Watch(pg_server, site.pair.read_write):
            load.round()
        site.operator.off()
    assert load.failed == []


# -- what servers do to their workers ------------------------------------------------------------


WARM = """
from app import Session, app
with Session() as session:
    session.connection()
"""


@once
def test_a_master_that_has_begun_a_transaction_is_a_worker_too(
    site: Site, pg_server: Server, place: Path
) -> None:
    need("gunicorn", "flask")
    warm(site, place)
    gunicorn = ["warm:app" if word == "app:app" else word for word in GUNICORN]
    site.start([*gunicorn, "--pythonpath", str(place)], LISTENING)
    night(site, pg_server)
    assert site.process.pid in site.registered()


def test_a_master_under_uwsgi_that_has_begun_a_transaction_is_a_worker_too(
    site: Site, pg_server: Server, place: Path, uwsgi: Callable[..., None]
) -> None:
    warm(site, place)
    # uWSGI forks while the master's thread may hold the interpreter's lock. No thread gives it back
    # in the worker, which then hangs at once (unbit/uwsgi#2387). `--py-call-osafterfork` comes too
    # late for that; with the fork hooks uWSGI takes the lock before it forks.
    options = ("--enable-threads", "--py-call-uwsgi-fork-hooks", "--pythonpath", str(place))
    uwsgi(*options, "--module", "warm:app")
    night(site, pg_server)
    assert site.process.pid in site.registered()


def warm(site: Site, place: Path) -> None:
    """Make a module that begins a transaction where it is imported."""
    (place / "warm.py").write_text(WARM)
    site.operator.expect = site.commander.expect = WORKERS + 1


def test_a_forked_child_leaves_the_read_only_engines_connections_to_its_parent(
    pg_urls: Any, place: Path
) -> None:
    with make_app(place, dict(pg_urls)) as app:
        app.start(ttl=0.02, watch=True)
        app.on()  # a server that was started while read-only, and preloads

        def backend() -> Any:
            with app.sessions() as session:
                return session.scalar(text("select pg_backend_pid()"))

        mine = backend()

        def child() -> None:
            assert backend() != mine

        in_child(child)


ENDS = """
import sys
from sqlalchemy import create_engine, text
from sa_readonly import EngineSelector, FileSwitch
engines = [create_engine(f"sqlite:///{sys.argv[1]}.{name}") for name in ("rw", "ro")]
selector = EngineSelector(
    FileSwitch(sys.argv[1], ttl=3600), read_write=engines[0], read_only=engines[1], watch=False
)
with selector.engine().connect() as connection:
    print(connection.scalar(text("select 1")), flush=True)
sys.stdin.read()
"""


@once
def test_a_worker_that_ends_by_itself_before_it_has_noticed_is_not_waited_for(place: Path) -> None:
    # gunicorn's max_requests, a rolling restart, a job that is through
    operator = Operator(place / "read-only.txt", 1)
    with subprocess.Popen(
        [sys.executable, "-c", ENDS, operator.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"1\n"
        operator.switch.enable("upgrade")
    assert process.returncode == 0
    assert [why for _, why in operator.look().waiting] == []
