"""This process as a worker: its children, and processes that are killed, stopped or end."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sa_readonly import EngineSelector, FileSwitch, PolledSwitch
from sa_readonly.mode import clock
from sa_readonly.workers.protocol import Liveness
from sa_readonly.workers.verdict import judge
from tests.app import WHICH, App, once
from tests.night import Operator
from tests.postgres import wait_until
from tests.test_watcher import in_child
from tests.worker_app import lite, read, registry
from tests.worker_process import without_hooks

__all__ = ["lite"]  # a fixture


# -- children ---------------------------------------------------------------------------------


def test_a_forked_child_registers_for_itself_at_its_first_transaction(lite: App) -> None:
    lite.start(ttl=3600)
    read(lite)

    def child() -> None:
        assert [entry.pid for entry in registry(lite).read()] == [os.getppid()]
        assert read(lite) == "rw"
        pids = {entry.pid for entry in registry(lite).read()}
        assert pids == {os.getpid(), os.getppid()}

    in_child(child)
    assert {entry.liveness for entry in registry(lite).read()} == {Liveness.ALIVE, Liveness.DEAD}


def test_a_forked_child_goes_by_a_look_that_it_takes_once_it_is_registered(lite: App) -> None:
    seen: list[set[int | None]] = []

    def look() -> None:
        seen.append({entry.pid for entry in registry(lite).read()})

    switch = PolledSwitch(look, ttl=3600, fence=3600)
    engine, workers = lite.engine("rw"), f"{lite.path}.workers"
    with EngineSelector(switch, read_write=engine, workers=workers, watch=False) as selector:
        engine.connect().close()

        def child() -> None:
            seen.clear()
            assert not selector.read_only
            assert os.getpid() in seen[-1]

        in_child(child)


def test_a_forked_child_that_has_not_registered_has_nothing_to_withdraw(lite: App) -> None:
    lite.start(ttl=0)
    read(lite)
    lite.on()
    lite.selector.check()

    def child() -> None:
        lite.off()
        assert not lite.selector.switch.check().read_only

    in_child(child)


def test_a_forked_child_registers_where_no_hooks_ran(lite: App) -> None:
    def parent() -> None:
        lite.start(ttl=3600)
        read(lite)
        in_child(child, without_hooks)

    def child() -> None:
        assert clock() < lite.selector.switch.fresh_until  # by the look of the parent
        lite.engines["rw"].dispose(close=False)  # as the documentation of SQLAlchemy says
        with lite.engines["rw"].connect() as connection:
            assert connection.scalar(WHICH) == "rw"
        assert os.getpid() in {entry.pid for entry in registry(lite).read()}

    # In a process without the threads of other tests: where one of them runs as it is forked
    # without hooks, Python itself has been seen to crash.
    in_child(parent)


def test_a_forked_child_begins_without_its_parents_connections(app: App) -> None:
    app.start(ttl=3600)
    read(app)
    parents = app.engines["rw"].pool

    def child() -> None:
        assert app.engines["rw"].pool is not parents
        assert read(app) == "rw"
        entry = next(entry for entry in registry(app).read() if entry.pid == os.getpid())
        assert entry.report is not None
        app.on()
        app.selector.check()
        assert app.selector._worker._report(app.selector.switch).connections == 0

    in_child(child)
    app.off()
    assert app.engines["rw"].pool is parents
    assert read(app) == "rw"


def test_no_connection_of_a_parent_ends_in_a_forked_child(lite: App) -> None:
    program = [sys.executable, "-c", ENDS_NONE, str(lite.path), str(lite.urls["rw"].database)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["read-write", "read-only"]


ENDS_NONE = """
import gc, os, sqlite3, sys
from sqlalchemy import create_engine, text
from sa_readonly import EngineSelector
from sa_readonly.engines import pools

class Connection(sqlite3.Connection):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.pid = os.getpid()

    # Where a driver says good-bye to the server. It runs while the interpreter ends, too.
    def __del__(self, pid=os.getpid, write=os.write):
        if pid() != self.pid:
            write(1, b"ended in a child\\n")

def read():
    with selector.engine().connect() as connection:
        connection.execute(text("SELECT 1"))

file, database = sys.argv[1:]
engine = create_engine("sqlite:///" + database, connect_args={"factory": Connection})
selector = EngineSelector(file, read_write=engine, watch=False)
for mode in ("read-write", "read-only"):
    if mode == "read-only":
        open(file, "w").close()
        selector.check()
    read()
    os.write(1, f"{selector.mode}\\n".encode())
    for end in (os._exit, sys.exit):
        pid = os.fork()
        if pid == 0:
            read()
            gc.collect()
            # Held by nobody, so not let go of while the interpreter ends, as drivers in C notice.
            pools.other = []
            assert sys.getrefcount(pools._parents) > sys.getrefcount(pools.other)
            end(0)
        assert os.waitpid(pid, 0)[1] == 0
os._exit(0)
"""


def test_a_forked_child_may_ask_for_the_mode_though_a_gate_was_being_turned(lite: App) -> None:
    lite.start(ttl=0)
    read(lite)
    worker = lite.selector._worker
    taken, release = threading.Event(), threading.Event()

    def turn() -> None:
        with worker.reporting._turning():
            taken.set()
            release.wait(10)

    thread = threading.Thread(target=turn)
    thread.start()
    assert taken.wait(10)
    lite.on()

    def child() -> None:
        signal.alarm(10)
        assert lite.selector.switch.check().read_only

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: a thread runs at the fork
        in_child(child)
    release.set()
    thread.join()


# -- processes that are killed or stopped -----------------------------------------------------


@pytest.fixture
def child(lite: App) -> Iterator[Callable[..., int]]:
    """Start processes with a selector of their own, which go on until they are killed."""
    pids: list[int] = []

    def start(*, holds: bool, **options: Any) -> int:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                lite.start(**options)
                session = lite.sessions()
                session.scalar(WHICH)
                if not holds:
                    session.close()
                os.write(writing, b"ready")
                signal.pause()
            finally:
                os._exit(1)
        pids.append(pid)
        os.close(writing)
        assert os.read(reading, 5) == b"ready"
        os.close(reading)
        return pid

    yield start
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def judged(app: App) -> list[str]:
    """Judge as `wait` does, which has no selector."""
    switch = FileSwitch(app.path)
    return [why for _, why in judge(switch.identify, registry(app)).waiting]


def test_who_is_killed_in_a_transaction_is_unknown(lite: App, child: Callable[..., int]) -> None:
    pid = child(holds=True, ttl=0.02, watch=True)
    lite.on()
    wait_until(lambda: judged(lite)[0].startswith("1 connection out since"), "its report")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert judged(lite) == ["unknown: died with 1 connection out"]


@pytest.mark.parametrize("holds", [True, False])
def test_who_is_killed_before_it_noticed_is_unknown_only_if_a_connection_was_in_use(
    lite: App, child: Callable[..., int], holds: bool
) -> None:
    pid = child(holds=holds, ttl=3600, watch=False)
    lite.on()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert judged(lite) == ["unknown: died without a word"] * holds


def test_who_is_stopped_has_not_noticed_until_it_goes_on(
    lite: App, child: Callable[..., int]
) -> None:
    pid = child(holds=False, ttl=0.02, watch=True)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    lite.on()
    assert judged(lite) == ["has not noticed"]
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not judged(lite), "drained")
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    assert judged(lite) == []


# -- processes that are made for one job ------------------------------------------------------


@once
@pytest.mark.parametrize("how", ["os.fork", "not waited for", "grandchild", "Process", "pool"])
def test_processes_that_are_made_for_one_job_are_drained_at_each_of_ten_flips(
    lite: App, how: str
) -> None:
    rows = lite.urls["rw"].database
    with closing(sqlite3.connect(rows)) as connection:
        connection.execute("CREATE TABLE done (number int)")
    refused = lite.path.with_name("refused")
    refused.touch()
    program = lite.path.with_name("program.py")
    program.write_text(ONE_JOB_EACH)
    operator = Operator(lite.path, 1)

    def done() -> int:
        with closing(sqlite3.connect(rows, timeout=60)) as connection:
            return int(connection.execute("SELECT count(*) FROM done").fetchone()[0])

    def grows(count: Callable[[], int], what: str) -> None:
        before = count()
        wait_until(lambda: count() > before + 1, what, 60)

    command = [sys.executable, program, how, lite.path, rows, refused]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(10):
            grows(done, "two jobs to be done")
            operator.on()
            drained = done()
            grows(lambda: refused.stat().st_size, "two jobs to be refused")
            assert done() == drained
            operator.off()
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()


ONE_JOB_EACH = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession

engine = create_engine("sqlite:///" + sys.argv[3], connect_args={"timeout": 60})
selector = EngineSelector(sys.argv[2], read_write=engine)
Session = sessionmaker(selector, class_=RoutingSession)

def work():
    try:
        with Session.begin() as session:
            session.execute(text("INSERT INTO done VALUES (1)"))
    except ReadOnlyError:
        with open(sys.argv[4], "a") as file:
            file.write(".")

def last():
    work()
    os._exit(0)

def forked(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid

def once(how, left=[]):
    if how == "os.fork":
        os.waitpid(forked(work), 0)
    elif how == "not waited for":
        left.append(forked(work))
        time.sleep(0.01)
        if len(left) > 9:
            os.waitpid(left.pop(0), 0)
    elif how == "grandchild":  # its parent ends first
        os.waitpid(forked(lambda: forked(work)), 0)
        time.sleep(0.03)
    elif how == "Process":
        process = multiprocessing.get_context("fork").Process(target=last)
        process.start()
        process.join()
    else:
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            list(pool.map(worked, range(4)))

def worked(number):
    work()

if __name__ == "__main__":
    selector.check()
    while True:
        once(sys.argv[1])
"""


# -- processes of multiprocessing -------------------------------------------------------------


@once
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_of_multiprocessing_that_ends_leaves_the_registry(
    place: Path, method: str
) -> None:
    program = place / "program.py"
    program.write_text(MULTIPROCESSING)
    done = subprocess.run(
        [sys.executable, program, method, place / "read-only.txt"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1 of 2 0\n", "", 0)


def test_a_process_of_multiprocessing_waits_for_its_threads_before_it_ends(place: Path) -> None:
    program = place / "program.py"
    program.write_text(THREADS_OF_A_CHILD)
    done = subprocess.run(
        [sys.executable, program, place / "read-only.txt"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("2 rows\n", "", 0)


THREADS_OF_A_CHILD = """
import multiprocessing, sys, threading
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import QueuePool
from sa_readonly import EngineSelector, RoutingSession

engine = create_engine(
    f"sqlite:///{sys.argv[1]}.db", poolclass=QueuePool, pool_size=1, max_overflow=0
)
selector = EngineSelector(sys.argv[1], read_write=engine)
Session = sessionmaker(selector, class_=RoutingSession)

def write(has_begun, go_on):
    with Session() as session:
        session.execute(text("INSERT INTO t VALUES (1)"))
        has_begun.set()
        go_on.wait(60)
        session.commit()

def work():
    has_begun, go_on = threading.Event(), threading.Event()
    threading.Thread(target=write, args=(has_begun, go_on)).start()
    has_begun.wait(60)
    threading.Thread(target=write, args=(threading.Event(), go_on)).start()  # waits for the other
    threading.Timer(0.2, go_on.set).start()  # this one has reached the end by then

if __name__ == "__main__":
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
    engine.dispose()
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    with engine.connect() as connection:
        print(connection.scalar(text("SELECT count(*) FROM t")), "rows")
"""


MULTIPROCESSING = """
import multiprocessing, sys
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from sa_readonly import EngineSelector, RoutingSession

selector = EngineSelector(sys.argv[2], read_write=create_engine(f"sqlite:///{sys.argv[2]}.db"))
Session = sessionmaker(selector, class_=RoutingSession)

def work():
    with Session() as session:
        session.execute(text("SELECT 1"))

if __name__ == "__main__":
    work()
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    process.start()
    process.join()
    print(len(selector.registry.read()), "of 2", process.exitcode)
"""
