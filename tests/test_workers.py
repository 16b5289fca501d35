"""What each process reports, where that is kept, and who is drained."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import itertools
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sa_readonly import ConfigurationError, Mode, directory, workers
from sa_readonly.directory import DirectoryRegistry
from sa_readonly.guard import KINDS
from sa_readonly.workers import (
    Connections,
    Liveness,
    RegistryError,
    Report,
    Seen,
    drained,
    look,
    returned,
)
from tests.worker_process import identity

if not hasattr(os, "fork"):
    pytest.skip("directories of workers need POSIX", allow_module_level=True)

READ_ONLY, READ_WRITE = Mode.READ_ONLY, Mode.READ_WRITE
ALIVE, DEAD, UNKNOWN = Liveness.ALIVE, Liveness.DEAD, Liveness.UNKNOWN
NOBODY = 65534
BOUND = 10  # seconds: none of the tests waits that long unless it fails
ELSEWHERE = "another host or process namespace: can't tell if it lives"


class Place:
    """A file and a directory of workers, and what is made there."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "read-only.txt"
        self.path = directory / "workers"
        self.registry = DirectoryRegistry(self.path)
        self.entries: list[Any] = []

    def identity(self) -> str | None:
        return identity(str(self.file))

    def on(self) -> str:
        self.file.touch()
        generation = self.identity()
        assert generation
        return generation

    def off(self) -> None:
        self.file.unlink()

    def register(self) -> Any:
        entry = self.registry.register(self.identity)
        self.entries.append(entry)
        return entry

    def read(self) -> list[Seen]:
        return self.registry.read()

    def one(self) -> Seen:
        (one,) = self.read()
        return one

    def whys(self) -> list[str]:
        return [why for _, why in self.look().waiting]

    def look(self, mode: Mode = READ_ONLY, **options: Any) -> workers.Verdict:
        return look(self.identity, self.registry, mode, **options)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def report_of(self, entry: Any) -> Path:
        return self.path / f"{entry.name}.json"

    def acknowledge(self, entry: Any, connections: int = 0, **fields: Any) -> bool:
        entry.closed()
        report = Report(READ_ONLY, self.identity(), connections, **{"watching": True, **fields})
        return bool(entry.report(lambda: report))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for entry in place.entries:
        entry.close()


@pytest.fixture
def common() -> Iterator[Place]:
    """A place which any user can reach; pytest's own is for one alone."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        place = Place(Path(directory))
        yield place
        for entry in place.entries:
            entry.close()


class Worker:
    """Another process, see worker_process.py."""

    def __init__(self, place: Place) -> None:
        self.children: list[int] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker_process", str(place.path), str(place.file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=Path(__file__).parent.parent,
        )
        self.pid = self.process.pid
        self.name = self._answer()

    def _answer(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            assert select.select([self.process.stdout], [], [], BOUND)[0], "no answer"
            chunk = os.read(self.process.stdout.fileno(), 1000)
            assert chunk, "it ended"
            line += chunk
        word, _, answer = line.decode().strip().partition(" ")
        assert word == "ok", answer
        return answer

    def say(self, line: str) -> str:
        self.process.stdin.write(line.encode() + b"\n")
        return self._answer()

    def fork(self, how: str = "") -> str:
        pid, _, answer = self.say(f"fork {how}").partition(" ")
        self.children.append(int(pid))
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(BOUND)

    def end(self) -> None:
        self.kill()
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def start(place: Place) -> Iterator[Callable[[], Worker]]:
    started: list[Worker] = []

    def start() -> Worker:
        started.append(Worker(place))
        return started[-1]

    yield start
    for worker in started:
        worker.end()


def in_child(work: Callable[[], None], user: int | None = None) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # it must not go on as pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def die(place: Place, work: Callable[[Any], None] = lambda _: None) -> None:
    """Have a process register, do something and die without a word."""
    in_child(lambda: work(place.registry.register(place.identity)))


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


# -- what is seen ----------------------------------------------------------------------------


def test_a_worker_that_has_registered_lives_and_has_not_reported(place: Place) -> None:
    entry = place.register()
    one = place.one()
    assert (one.name, one.pid, one.liveness) == (entry.name, os.getpid(), ALIVE)
    assert (one.problem, one.report, one.acknowledged) == ("has not reported", None, False)
    place.on()
    assert place.whys() == ["has not reported"]


def test_a_report_is_read_as_it_was_written(place: Place) -> None:
    report = Report(READ_WRITE, None, 3, 1.5, 2.5, 4, 5, True, READ_WRITE)
    before = time.time()
    assert place.register().report(lambda: report)
    one = place.one()
    assert one.report == report
    assert not one.acknowledged
    assert one.program == os.path.basename(sys.argv[0]) or one.program == "pytest"
    assert one.started < before <= one.written <= time.time()
    assert one.version


def test_times_that_are_not_known_yet_are_none(place: Place) -> None:
    place.register().report(lambda: Report(READ_WRITE, since=float("nan"), checked=float("-inf")))
    assert (place.one().report.since, place.one().report.checked) == (None, None)


def test_closing_removes_every_file_of_the_entry(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    entry.close()
    assert place.names() == []
    entry.close()
    assert not entry.ensure()
    assert not place.acknowledge(entry)
    entry.withdraw()
    assert place.names() == []


def test_a_missing_directory_has_nobody_in_it(place: Place) -> None:
    place.on()
    verdict = place.look()
    assert (verdict.seen, verdict.nobody, verdict.holds, verdict.problem) == ((), True, False, None)


def test_a_report_is_written_only_when_a_reader_needs_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, clock = place.register(), [100.0]
    monkeypatch.setattr(directory.time, "monotonic", lambda: clock[0])
    report = Report(READ_WRITE)

    def tell(**fields: Any) -> bool:
        nonlocal report
        report = replace(report, **fields)
        return bool(entry.report(lambda: report))

    assert tell()
    assert not tell()
    assert not tell(checked=1.0, since=2.0)
    assert not tell(connections=5)
    clock[0] += 0.25
    assert not tell(engines={"read_write.primary": Connections(1)}, retired=3.0)
    assert tell(refused=7, kinds={"flush": 7})  # soon
    assert not tell(refused=8, kinds={"flush": 8})
    clock[0] += 0.25
    assert tell()
    assert not tell(connections=6)
    clock[0] += 10
    assert tell()  # now and then
    clock[0] += 29
    assert not tell(checked=30.0)
    clock[0] += 1
    assert tell()  # that it still looks
    assert not tell()
    assert tell(watching=True)
    assert tell(mode=READ_ONLY, generation="g")
    assert tell(connections=4)
    assert tell(connections=3)
    entry.closed()
    assert tell()
    assert tell(flips=1)
    assert tell(generation="h")
    entry.withdraw()
    assert tell()


# -- who is drained --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, None),
        ({"connections": 2, "since": 86.0}, "2 connections out since 14 s"),
        ({"connections": 1, "since": 200.0}, "1 connection out since 0 s"),
        ({"connections": 1}, "1 connection out"),
        (
            {"connections": 1, "watching": False},
            "1 connection out, no watcher thread runs there",
        ),
        ({"watching": False}, None),
        ({"generation": "older"}, "has not noticed"),
        (
            {"generation": "older", "watching": False},
            "has not noticed, no watcher thread runs there",
        ),
        ({"generation": None}, "has not noticed"),
        ({"mode": READ_WRITE}, "has not noticed"),
        ({"mode": READ_WRITE, "generation": None, "forced": READ_WRITE}, "forced to read-write"),
        ({"forced": READ_WRITE}, "forced to read-write"),
        ({"generation": None, "forced": READ_ONLY}, None),
        ({"generation": None, "forced": READ_ONLY, "connections": 1}, "1 connection out"),
    ],
)
def test_who_is_not_drained_and_why(place: Place, fields: dict[str, Any], why: str | None) -> None:
    entry = place.register()
    entry.closed()
    report = Report(**{"mode": READ_ONLY, "generation": "g", "watching": True, **fields})
    entry.report(lambda: report)
    one = place.one()
    verdict = drained("g", [one], 100.0)
    assert verdict.waiting == (() if why is None else ((one, why),))
    assert verdict.holds is (why is None)


def test_nobody_acknowledges_before_a_gate_was_closed(place: Place) -> None:
    generation = place.on()
    entry = place.register()
    entry.report(lambda: Report(READ_ONLY, generation, watching=True))
    assert place.whys() == ["has not noticed"]
    place.acknowledge(entry)
    assert place.look().holds


@pytest.mark.parametrize("liveness", Liveness)
@pytest.mark.parametrize("doubt", [None, "a doubt"])
def test_without_a_report_nobody_is_drained(liveness: Liveness, doubt: str | None) -> None:
    assert drained("g", [Seen("one", liveness, doubt)], 0.0).waiting


@pytest.mark.parametrize("problem", [None, "a problem"])
def test_who_may_live_or_not_is_not_drained_even_if_it_acknowledged(problem: str | None) -> None:
    report = Report(READ_ONLY, "g")
    one = Seen("one", UNKNOWN, problem=problem, acknowledged=True, report=report)
    assert drained("g", [one], 0.0).waiting == ((one, problem or "can't tell if it lives"),)


def test_without_a_file_or_without_anybody_nothing_holds(place: Place) -> None:
    entry = place.register()
    verdict = place.look()
    assert (verdict.holds, verdict.problem) == (False, "there is no file: it is read-write")
    assert not verdict.nobody
    entry.close()
    place.on()
    assert not place.look().holds


def test_all_are_back_when_each_that_lives_reports_read_write(place: Place) -> None:
    die(place)
    entry = place.register()
    assert [why for _, why in place.look(READ_WRITE).waiting] == ["has not reported"]
    entry.report(lambda: Report(READ_WRITE, watching=True))
    assert place.look(READ_WRITE).holds
    place.on()
    assert place.look(READ_WRITE).problem == "the file is there: it is read-only"
    place.acknowledge(entry)
    place.off()
    assert [why for _, why in place.look(READ_WRITE).waiting] == ["has not noticed"]
    entry.withdraw()
    assert [why for _, why in place.look(READ_WRITE).waiting] == ["has not noticed"]
    entry.report(lambda: Report(READ_ONLY, forced=READ_ONLY))
    assert [why for _, why in place.look(READ_WRITE).waiting] == ["forced to read-only"]
    one = Seen("one", UNKNOWN, "a doubt")
    assert returned([one]).waiting == ((one, "a doubt"),)


# -- who lives -------------------------------------------------------------------------------


def test_a_killed_worker_is_dead_and_unknown_unless_it_had_acknowledged(
    place: Place, start: Callable[[], Worker]
) -> None:
    silent, busy, idle = start(), start(), start()
    silent.say("report read-write 1")
    place.on()
    for worker, connections in ((busy, 1), (idle, 0)):
        worker.say("closed")
        worker.say(f"report read-only {connections}")
    assert {one.liveness for one in place.read()} == {ALIVE}
    for worker in (silent, busy, idle):
        worker.kill()
    verdict = place.look()
    assert {one.liveness for one in verdict.seen} == {DEAD}
    assert {one.name: why for one, why in verdict.waiting} == {
        silent.name: "unknown: died without a word",
        busy.name: "unknown: died with 1 connection out",
    }
    assert verdict.nobody
    assert place.look(ignore_dead=True).holds


def test_a_stopped_worker_lives_and_what_it_said_holds(
    place: Place, start: Callable[[], Worker]
) -> None:
    silent, told = start(), start()
    silent.say("report read-write 0")
    place.on()
    told.say("closed")
    told.say("report read-only 0")
    for worker in (silent, told):
        os.kill(worker.pid, signal.SIGSTOP)
        os.waitpid(worker.pid, os.WUNTRACED)
    verdict = place.look()
    assert {one.liveness for one in verdict.seen} == {ALIVE}
    assert [(one.name, why) for one, why in verdict.waiting] == [(silent.name, "has not noticed")]
    place.off()
    place.on()
    assert place.whys() == ["has not noticed", "has not noticed"]


def test_a_dead_parent_is_dead_though_its_children_live(
    place: Place, start: Callable[[], Worker]
) -> None:
    worker = start()
    assert worker.fork() == "nothing"
    worker.children.append(int(worker.say("exec")))
    assert place.one().liveness is ALIVE
    worker.kill()
    assert place.one().liveness is DEAD


def test_a_dead_parent_whose_lock_a_child_keeps_is_unknown(
    place: Place, start: Callable[[], Worker]
) -> None:
    worker = start()
    place.on()
    worker.say("closed")
    worker.say("report read-only 0")
    worker.fork("unhooked")
    assert place.look().holds
    worker.kill()
    why = "its process is gone, but a child of it keeps its lock: can't tell if that lives"
    assert place.whys() == [why]
    os.kill(worker.children[0], signal.SIGKILL)


def test_a_process_id_that_is_somebody_elses_by_now_makes_an_entry_less_trusted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.on()
    place.acknowledge(place.register())
    assert place.look().holds
    monkeypatch.setattr(directory, "_born", lambda _pid: 1)
    assert place.one().liveness is UNKNOWN
    monkeypatch.setattr(directory, "_born", lambda _pid: None)
    assert place.look().holds


@pytest.mark.parametrize("how", ["registers", "registers unhooked"])
def test_a_forked_child_registers_for_itself_and_leaves_its_parents_lock(
    place: Place, start: Callable[[], Worker], how: str
) -> None:
    worker = start()
    assert worker.fork(how) == "True"
    parent, child = sorted(place.read(), key=lambda one: one.name != worker.name)
    assert (parent.pid, parent.liveness) == (worker.pid, ALIVE)
    assert (child.pid, child.liveness) == (worker.children[0], ALIVE)
    worker.kill()
    liveness = {one.pid: one.liveness for one in place.read()}
    assert liveness == {parent.pid: DEAD, child.pid: ALIVE}


def test_a_forked_child_that_has_not_registered_reports_nothing_and_removes_nothing(
    place: Place,
) -> None:
    entry = place.register()
    entry.report(lambda: Report(READ_WRITE))
    before = place.read()

    def child() -> None:
        with pytest.raises(RegistryError, match="not registered"):
            place.acknowledge(entry)
        with pytest.raises(RegistryError, match="not registered"):
            entry.withdraw()
        entry.close()

    in_child(child)
    assert place.read() == before


def test_a_fork_while_another_thread_reports_leaves_the_child_able_to_register(
    place: Place,
) -> None:
    entry = place.register()
    inside, go_on = threading.Event(), threading.Event()

    def snapshot() -> Report:
        inside.set()
        go_on.wait(BOUND)
        return Report(READ_WRITE)

    thread = threading.Thread(target=entry.report, args=(snapshot,))
    thread.start()
    assert inside.wait(BOUND)
    try:
        # Python 3.12 warns of a fork while a thread runs, which is what is tried here.
        with pytest.warns() if sys.version_info >= (3, 12) else contextlib.nullcontext():
            in_child(lambda: entry.ensure() or os._exit(2))
    finally:
        go_on.set()
        thread.join()


def test_an_entry_of_another_host_or_namespace_is_never_dead_nor_drained(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.on()
    monkeypatch.setattr(directory, "_place", lambda: "0" * 12)
    die(place)
    die(place, place.acknowledge)
    monkeypatch.undo()
    assert [one.liveness for one in place.read()] == [UNKNOWN, UNKNOWN]
    assert place.whys() == [ELSEWHERE, ELSEWHERE]
    place.off()
    place.registry.sweep(place.identity)
    assert len(place.read()) == 2


def test_a_dead_one_is_dead_though_somebody_keeps_the_descriptor_of_a_reader(
    place: Place,
) -> None:
    # as a child does that was forked in the middle of a reading
    place.on()
    die(place)
    (name,) = place.names()
    with open(place.path / name, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert place.one().liveness is DEAD


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_nobody_can_be_told_to_live(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)

    def flock(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(directory.fcntl, "flock", flock)
    assert place.whys() == [f"can't tell if it lives: {os.strerror(error)}"]
    with pytest.raises(RegistryError, match="can't register"):
        place.register()
    monkeypatch.undo()
    assert len(place.read()) == 1


# -- sweeping --------------------------------------------------------------------------------


def test_the_dead_are_swept_when_another_registers_and_no_file_is_there(place: Place) -> None:
    place.on()
    die(place)
    die(place, lambda entry: entry.report(lambda: Report(READ_WRITE)))
    place.off()
    assert [one.liveness for one in place.read()] == [DEAD, DEAD]
    entry = place.register()
    assert [one.name for one in place.read()] == [entry.name]
    assert place.names() == [f"{entry.name}.lock"]


def test_who_died_without_a_word_is_kept_while_a_file_is_there(place: Place) -> None:
    place.on()
    die(place)
    die(place, place.acknowledge)
    die(place, lambda entry: place.acknowledge(entry, connections=1))
    entry = place.register()
    place.acknowledge(entry)
    assert sorted(place.whys()) == [
        "unknown: died with 1 connection out",
        "unknown: died without a word",
    ]
    assert len(place.read()) == 3  # the one who acknowledged had nothing
    place.off()
    place.registry.sweep(place.identity)
    assert [one.name for one in place.read()] == [entry.name]


def test_who_had_acknowledged_an_earlier_file_and_died_had_nothing(place: Place) -> None:
    place.on()
    die(place, place.acknowledge)
    place.off()
    place.on()
    assert place.look().holds


def test_who_died_with_a_gate_that_was_not_shut_is_kept_while_a_file_is_there(
    place: Place,
) -> None:
    place.on()

    def report(entry: Any) -> None:
        entry.closed()
        entry.report(lambda: Report(READ_ONLY, None, 0))  # not every gate is shut

    die(place, report)
    place.registry.sweep(place.identity)
    assert place.whys() == ["unknown: died without a word"]


def test_nobody_is_swept_while_it_is_not_known_if_a_file_is_there(place: Place) -> None:
    die(place)

    def fails() -> str:
        raise PermissionError

    place.registry.sweep(fails)
    assert len(place.read()) == 1


def test_a_file_that_appears_in_the_middle_of_a_sweep_keeps_who_dies_after_it(
    place: Place,
) -> None:
    pids: list[int] = []

    def identify() -> str | None:
        if not pids:
            pids.append(os.getpid())
            place.on()
            die(place)  # after the sweep has seen who is dead
        return None  # as one that looked before

    die(place)
    place.registry.sweep(identify)
    assert place.whys() == ["unknown: died without a word"]


def test_what_is_left_of_a_report_is_swept(place: Place) -> None:
    entry = place.register()
    place.acknowledge(entry)
    left = entry.name[:-16] + "0" * 16
    for name in (f"{left}.json", f"{left}.new", "read.me", "other.json"):
        (place.path / name).touch()
    place.registry.sweep(place.identity)
    assert place.names() == sorted(
        [f"{entry.name}.lock", f"{entry.name}.json", "read.me", "other.json"]
    )


def before_flock(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Act once, between the making of a lock file and its locking."""
    real, acted = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and not acted:
            acted.append(True)
            act()
        real(descriptor, operation)

    monkeypatch.setattr(directory.fcntl, "flock", flock)


def test_who_is_swept_while_it_registers_registers_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_flock(monkeypatch, lambda: place.registry.sweep(place.identity))
    entry = place.register()
    assert (place.one().name, place.one().liveness) == (entry.name, ALIVE)


def test_a_reader_that_was_stopped_with_the_lock_hinders_nobody_to_register(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def hold() -> None:
        (name,) = place.names()
        held.append(os.open(place.path / name, os.O_RDONLY))
        fcntl.flock(held[0], fcntl.LOCK_SH)

    before_flock(monkeypatch, hold)
    entry = place.register()
    assert (place.one().name, place.one().liveness) == (entry.name, ALIVE)
    os.close(held[0])


def test_a_sweep_that_was_stopped_removes_nobody_who_has_registered_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sweep sees a lock file that is not locked yet; it is, when the sweep goes on.
    stopped: list[threading.Thread] = []
    seen_dead, go_on = threading.Event(), threading.Event()

    def identify() -> None:
        seen_dead.set()
        go_on.wait(BOUND)

    def sweep_and_stop() -> None:
        stopped.append(threading.Thread(target=place.registry.sweep, args=(identify,)))
        stopped[0].start()
        assert seen_dead.wait(BOUND)

    before_flock(monkeypatch, sweep_and_stop)
    entry = place.register()
    go_on.set()
    stopped[0].join()
    assert (place.one().name, place.one().liveness) == (entry.name, ALIVE)


# -- withdrawing -----------------------------------------------------------------------------


def fail(name: str, monkeypatch: pytest.MonkeyPatch, error: int = errno.ENOSPC) -> None:
    """Have a function of the operating system fail."""

    def function(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(directory.os, name, function)


def test_a_withdrawal_overwrites_one_byte_and_makes_no_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    before = place.report_of(entry).stat()
    content = place.report_of(entry).read_bytes()
    for name in ("replace", "write", "mkdir", "unlink"):
        fail(name, monkeypatch)
    entry.withdraw()
    monkeypatch.undo()
    after = place.report_of(entry).stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert [
        (old, new)
        for old, new in zip(content, place.report_of(entry).read_bytes(), strict=True)
        if old != new
    ] == [(ord("1"), ord("0"))]
    one = place.one()
    assert (one.acknowledged, one.problem) == (False, None)
    assert place.whys() == ["has not noticed"]


def test_a_report_that_cant_be_overwritten_is_removed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    fail("pwrite", monkeypatch)
    entry.withdraw()
    monkeypatch.undo()
    assert place.whys() == ["has not reported"]
    place.acknowledge(entry)
    assert place.look().holds


def test_what_cant_be_withdrawn_is_an_error_until_it_can(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    fail("pwrite", monkeypatch, errno.EIO)
    fail("unlink", monkeypatch, errno.EROFS)
    for _ in range(2):
        with pytest.raises(RegistryError) as caught:
            entry.withdraw()
        assert str(caught.value) == (
            f"{place.report_of(entry)} says that this process is drained, and that can't be taken "
            "back (Read-only file system): it stays read-only. Make the directory writable."
        )
    monkeypatch.undo()
    assert place.look().holds
    entry.withdraw()
    assert place.whys() == ["has not noticed"]


def test_a_report_that_somebody_removed_is_written_again(place: Place) -> None:
    entry = place.register()
    place.on()
    assert place.acknowledge(entry)
    assert not place.acknowledge(entry)
    place.report_of(entry).unlink()
    assert place.acknowledge(entry)
    assert place.look().holds


def test_a_report_that_somebody_removed_is_withdrawn(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    place.report_of(entry).unlink()
    entry.withdraw()
    assert place.whys() == ["has not reported"]


def test_a_report_begun_before_a_withdrawal_cant_acknowledge_after_it(place: Place) -> None:
    entry = place.register()
    place.on()
    entry.closed()
    inside, go_on = threading.Event(), threading.Event()

    def snapshot() -> Report:
        inside.set()
        go_on.wait(BOUND)
        return Report(READ_ONLY, place.identity(), watching=True)

    thread = threading.Thread(target=entry.report, args=(snapshot,))
    thread.start()
    assert inside.wait(BOUND)
    with pytest.raises(RegistryError, match="Another thread has been writing"):
        entry.withdraw()
    go_on.set()
    thread.join()
    entry.withdraw()
    assert place.whys() == ["has not noticed"]
    # One that comes late, between the withdrawal and the opening of the gate.
    entry.report(lambda: Report(READ_ONLY, place.identity(), watching=True))
    assert place.whys() == ["has not noticed"]
    place.acknowledge(entry)
    assert place.look().holds


def test_a_withdrawal_that_interrupts_a_report_in_its_own_thread_fails(place: Place) -> None:
    # as in a signal handler that looks at the switch
    entry = place.register()
    place.on()
    entry.closed()

    def snapshot() -> Report:
        with pytest.raises(RegistryError, match="This thread was interrupted"):
            entry.withdraw()
        return Report(READ_ONLY, place.identity())

    entry.report(snapshot)
    assert place.look().holds


def test_a_worker_whose_entry_was_removed_withdraws_nothing_and_registers_anew(
    place: Place,
) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    old = entry.name
    for name in place.names():
        (place.path / name).unlink()
    place.path.rmdir()
    for act in (entry.withdraw, lambda: place.acknowledge(entry)):
        with pytest.raises(RegistryError) as caught:
            act()
        assert str(caught.value) == (
            f"This process is not registered in {place.path}, as it was forked, or its entry was "
            "removed. Nobody can wait for it; it registers at its next look."
        )
    assert entry.ensure()
    assert not entry.ensure()
    assert entry.name != old
    assert place.whys() == ["has not reported"]
    place.acknowledge(entry)
    assert place.look().holds


def test_a_worker_that_lost_its_descriptor_registers_anew_and_closes_nobody_elses(
    place: Place,
) -> None:
    entry = place.register()
    place.on()
    number = entry._descriptor
    os.close(number)
    reading, writing = os.pipe()
    os.dup2(reading, number)
    assert entry.ensure()
    os.fstat(number)
    assert sorted(str(one.liveness) for one in place.read()) == ["alive", "dead"]
    for descriptor in {number, reading, writing}:
        os.close(descriptor)


def test_each_thread_that_finds_no_registration_must_look_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    (place.path / f"{entry.name}.lock").unlink()
    both = threading.Barrier(2, timeout=BOUND)
    monkeypatch.setattr(DirectoryRegistry, "sweep", lambda *_: both.wait())
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(entry.ensure())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True, True]
    assert len(place.read()) == 1


# -- a disk that is full ---------------------------------------------------------------------


def short_write(descriptor: int, content: bytes) -> int:
    return len(content) - 1


@pytest.mark.parametrize("step", ["open", "fchmod", "write", "short write", "close", "replace"])
def test_a_full_disk_at_any_step_of_a_report_is_one_error_and_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    entry = place.register()
    entry.report(lambda: Report(READ_WRITE, watching=True))
    place.on()
    before = place.report_of(entry).read_bytes()
    if step == "short write":
        monkeypatch.setattr(directory.os, "write", short_write)
    elif step == "close":  # where NFS says it
        real = os.close

        def close(descriptor: int) -> None:
            real(descriptor)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(directory.os, "close", close)
    else:
        fail(step, monkeypatch)
    with pytest.raises(RegistryError) as caught:
        place.acknowledge(entry)
    monkeypatch.undo()
    assert str(caught.value) == (
        f"The report {place.report_of(entry)} can't be written (No space left on device): it tells "
        "nothing of what happened since. Make room, or make its directory writable."
    )
    assert place.report_of(entry).read_bytes() == before
    assert place.names() == [f"{entry.name}.json", f"{entry.name}.lock"]
    assert place.whys() == ["has not noticed"]
    assert place.acknowledge(entry)
    assert place.look().holds


@pytest.mark.parametrize("step", ["mkdir", "open", "fchmod"])
def test_a_full_disk_at_any_step_of_registering_is_one_error_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    fail(step, monkeypatch)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RegistryError) as caught:
        place.register()
    monkeypatch.undo()
    assert str(caught.value) == (
        f"This process can't register in {place.path} (No space left on device): nobody can wait "
        "for it. Make a directory there into which it may write."
    )
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert place.read() == []
    place.register()


def test_a_report_that_was_interrupted_after_its_last_step_is_withdrawn(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    real = os.replace

    def interrupted(*names: str) -> None:
        real(*names)
        raise KeyboardInterrupt

    monkeypatch.setattr(directory.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        place.acknowledge(entry)
    monkeypatch.undo()
    assert place.look().holds
    entry.withdraw()
    assert place.whys() == ["has not noticed"]


def test_a_report_too_long_to_be_read_is_refused(place: Place) -> None:
    entry = place.register()
    with pytest.raises(RegistryError, match=r"A report of \d+ bytes is too long: 4096 are read"):
        entry.report(lambda: Report(READ_ONLY, "g" * 4096))


def test_many_reports_keep_no_descriptor_and_no_file(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    before = len(os.listdir("/proc/self/fd"))
    for connections in range(50):
        place.acknowledge(entry, connections)
        entry.withdraw()
        place.read()
        place.registry.sweep(place.identity)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(place.names()) == 2


# -- damage ----------------------------------------------------------------------------------


@contextlib.contextmanager
def acknowledged() -> Iterator[tuple[Place, Path]]:
    with tempfile.TemporaryDirectory() as directory:
        place = Place(Path(directory))
        entry = place.register()
        place.on()
        place.acknowledge(entry)
        yield place, place.report_of(entry)
        entry.close()


def test_bytes_of_any_kind_raise_nothing_and_are_not_drained() -> None:
    with acknowledged() as (place, path):
        valid = path.read_bytes()

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.binary(max_size=5000))
        @example(b"")
        @example(b"[" * 5000)
        @example(b"\0" * len(valid))
        @example(b'{"acknowledged":1}')
        def check(content: bytes) -> None:
            path.write_bytes(content)
            assert place.whys() == ["its report is damaged"]

        check()


def test_a_report_with_any_change_raises_nothing_and_is_not_drained() -> None:
    with acknowledged() as (place, path):
        valid = path.read_bytes()

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.integers(0, len(valid)), st.integers(0, len(valid)), st.binary(max_size=20))
        @example(len(valid), len(valid), b"\n")
        @example(len(valid) // 2, len(valid), b"")
        @example(0, 0, b" ")
        def check(start: int, end: int, new: bytes) -> None:
            content = valid[:start] + new + valid[max(start, end) :]
            path.write_bytes(content)
            assert place.look().holds is (content == valid)

        check()


@given(
    mode=st.sampled_from(Mode),
    generation=st.none() | st.text(max_size=100),
    connections=st.integers(0, 10**9),
    since=st.none() | st.floats(),
    checked=st.none() | st.floats(-1e14, 1e14),
    flips=st.integers(0, 10**9),
    refused=st.integers(0, 10**9),
    watching=st.booleans(),
    forced=st.none() | st.sampled_from(Mode),
    kinds=st.dictionaries(st.sampled_from(KINDS), st.integers(0, 10**9)),
    engines=st.dictionaries(
        st.sampled_from(["read_write.primary", "read_only.replica"]),
        st.builds(Connections, *[st.integers(0, 10**6)] * 3),
    ),
    retired=st.none() | st.floats(-1e14, 1e14),
    acknowledges=st.booleans(),
)
def test_every_report_is_read_back(acknowledges: bool, **fields: Any) -> None:
    report = Report(**fields)
    one = Seen("one", ALIVE)
    content = directory._encoded("one", acknowledges, report, "1.0")
    seen, _ = directory._decoded(one, content)
    since = report.since
    if since is not None and not abs(since) < 1e15:
        since = None
    assert seen.report == replace(report, since=since)
    other = replace(one, name="two")
    with pytest.raises(ValueError):
        directory._decoded(other, content)


def test_a_report_of_an_older_version_is_read(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry, refused=3, kinds={"flush": 3})
    fields = directory.json.loads(place.report_of(entry).read_bytes())
    for name in ("acknowledged", "check", "kinds", "engines", "retired"):
        del fields[name]
    rest = directory.json.dumps(fields).encode()[1:-1]
    check = directory._check(entry.name, rest).decode()
    place.report_of(entry).write_bytes(
        b'{"acknowledged":1,"check":"%s",%s}\n' % (check.encode(), rest)
    )
    assert place.look().holds
    report = place.one().report
    assert report is not None
    assert (report.refused, report.kinds, report.engines, report.retired) == (3, {}, {}, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", '"read-mostly"'),
        ("mode", "[]"),
        ("generation", "7"),
        ("connections", "-1"),
        ("connections", "true"),
        ("connections", "1.0"),
        ("since", '"now"'),
        ("since", "NaN"),
        ("since", "1e999"),
        ("checked", "true"),
        ("watching", "1"),
        ("forced", '"no"'),
        ("born", '"yesterday"'),
        ("started", "[[]]"),
        ("kinds", "[]"),
        ("kinds", '{"flush": -1}'),
        ("engines", '{"read_write.primary": 1}'),
        ("engines", '{"read_write.primary": [1, 2, 3, 4]}'),
        ("engines", '{"read_write.primary": [1, 2, null]}'),
        ("retired", '"now"'),
        ("program", "[" * 2000 + "]" * 2000),
        ("format", '1, "mode": null'),
    ],
)
def test_a_report_that_somebody_made_up_is_damaged(place: Place, field: str, value: str) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    fields = directory.json.loads(place.report_of(entry).read_bytes())
    del fields["acknowledged"], fields["check"]
    text = ",".join(
        f'"{name}": {value if name == field else directory.json.dumps(old)}'
        for name, old in fields.items()
    )
    if field == "format":
        text += ', "mode": null'
    check = directory._check(entry.name, text.encode()).decode()
    content = f'{{"acknowledged":1,"check":"{check}",{text}}}\n'
    place.report_of(entry).write_text(content)
    assert place.whys() == ["its report is damaged"]


def test_a_report_of_another_format_is_named_and_not_drained(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = place.register()
    place.on()
    monkeypatch.setattr(directory, "_FORMAT", 2)
    place.acknowledge(entry)
    monkeypatch.undo()
    assert place.whys() == ["its report is of another version of sa_readonly"]


def test_a_report_copied_from_another_entry_is_damaged(place: Place) -> None:
    one, two = place.register(), place.register()
    place.on()
    place.acknowledge(one)
    place.report_of(two).write_bytes(place.report_of(one).read_bytes())
    assert place.whys() == ["its report is damaged"]


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo", "strange name"])
def test_what_is_no_lock_file_is_named_and_not_drained(place: Place, kind: str) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    path = place.path / f"{entry.name[:-16]}{'0' * 16}.lock"
    if kind == "symlink":
        path.symlink_to(f"{entry.name}.lock")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = place.path / "\x1b[2J.lock"
        path.touch()
    (why,) = place.whys()
    assert (
        why
        == {
            "symlink": "can't tell if it lives: its lock is not readable, "
            "Too many levels of symbolic links",
            "directory": "its lock is no file; remove it",
            "fifo": "its lock is no file; remove it",
            "strange name": "is no entry of a worker; remove it",
        }[kind]
    )
    assert all(one.name.isprintable() for one in place.read())
    place.off()
    place.registry.sweep(place.identity)
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_what_is_no_report_is_named_and_not_drained(place: Place, kind: str) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)
    path = place.report_of(entry)
    aside = path.rename(place.path / "aside")
    if kind == "symlink":
        path.symlink_to(aside)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    (why,) = place.whys()
    assert why.startswith("its report is ")
    if kind == "directory":
        path.rmdir()


def test_the_program_in_a_report_does_a_terminal_no_harm(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/srv/\x1b[2J\udc80evil"])
    place.register().report(lambda: Report(READ_WRITE))
    assert place.one().program == "?[2J?evil"
    monkeypatch.setattr(sys, "argv", ["/lib/gunicorn/__main__.py"])
    place.register().report(lambda: Report(READ_WRITE))
    assert "gunicorn" in [one.program for one in place.read()]


# -- who may do what -------------------------------------------------------------------------


@needs_root
def test_a_report_of_another_user_than_the_lock_is_foreign(common: Place) -> None:
    entry = common.register()
    common.on()
    common.acknowledge(entry)
    os.chown(common.report_of(entry), NOBODY, NOBODY)
    assert common.whys() == ["its report is foreign: not a file of who holds the lock"]


@needs_root
def test_an_entry_of_who_may_not_write_there_is_foreign(common: Place) -> None:
    entry = common.register()
    common.on()
    common.acknowledge(entry)
    for path in common.path.iterdir():
        os.chown(path, NOBODY, NOBODY)
    assert common.whys() == [f"foreign: it belongs to user {NOBODY}, who may not register here"]
    os.chmod(common.path, 0o770)
    assert common.look().holds


@needs_root
def test_who_may_not_read_an_entry_is_told_so_and_sees_nobody_drained(common: Place) -> None:
    entry = common.register()
    common.on()
    common.acknowledge(entry)
    os.chmod(common.path, 0o755)

    def child() -> None:
        why = "can't tell if it lives: its lock is not readable, Permission denied"
        assert common.whys() == [why]
        os.umask(0)

    in_child(child, user=NOBODY)
    os.chmod(common.path / f"{entry.name}.lock", 0o644)

    def child_that_may_lock() -> None:
        assert common.whys() == ["its report is not readable, Permission denied"]

    in_child(child_that_may_lock, user=NOBODY)
    os.chmod(common.path, 0o700)

    def child_outside() -> None:
        one = common.one()
        assert (one.name, one.problem) == (str(common.path), "Permission denied")
        assert common.whys() == ["Permission denied"]

    in_child(child_outside, user=NOBODY)


@needs_root
def test_a_worker_that_cant_write_into_the_directory_is_told_so(common: Place) -> None:
    os.chmod(common.file.parent, 0o755)

    def child() -> None:
        with pytest.raises(RegistryError) as caught:
            common.register()
        assert str(caught.value) == (
            f"This process can't register in {common.path} (Permission denied): nobody can wait "
            "for it. Make a directory there into which it may write."
        )

    in_child(child, user=NOBODY)
    common.path.mkdir(0o755)
    in_child(child, user=NOBODY)
    assert common.names() == []


@needs_root
def test_a_directory_that_becomes_read_only_stops_reports_but_no_withdrawal(common: Place) -> None:
    common.path.mkdir()
    os.chown(common.path, NOBODY, NOBODY)
    common.on()

    def child() -> None:
        entry = common.register()
        common.acknowledge(entry)
        os.chmod(common.path, 0o500)
        entry.withdraw()
        assert common.whys() == ["has not noticed"]
        with pytest.raises(RegistryError, match=r"can't be written \(Permission denied\)"):
            common.acknowledge(entry)
        assert common.whys() == ["has not noticed"]
        os.chmod(common.report_of(entry), 0o400)
        os.chmod(common.path, 0o700)
        common.acknowledge(entry)
        os.chmod(common.report_of(entry), 0o400)
        os.chmod(common.path, 0o500)
        with pytest.raises(RegistryError, match="can't be taken back"):
            entry.withdraw()

    in_child(child, user=NOBODY)


@needs_root
def test_workers_of_a_group_share_a_directory_that_root_made_for_it(common: Place) -> None:
    common.path.mkdir()
    os.chown(common.path, 0, NOBODY)
    os.chmod(common.path, 0o2770)
    entry = common.register()
    common.on()
    common.acknowledge(entry)
    found = (common.path / f"{entry.name}.lock").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, NOBODY)
    assert stat.S_IMODE(common.report_of(entry).stat().st_mode) == 0o640

    def child() -> None:
        mine = common.register()
        assert len(common.read()) == 2
        assert common.whys() == ["has not reported"]
        common.acknowledge(mine)
        assert common.look().holds

    in_child(child, user=NOBODY)
    assert common.look().holds  # the child is dead, and had acknowledged


@pytest.mark.parametrize(
    ("above", "made"), [(0o755, 0o750), (0o700, 0o700), (0o2775, 0o2770), (0o1777, 0o700)]
)
def test_the_directory_is_made_for_whom_the_one_above_is_meant(
    place: Place, above: int, made: int
) -> None:
    os.chmod(place.file.parent, above)
    place.register()
    assert stat.S_IMODE(place.path.stat().st_mode) == made


def test_a_symlink_in_the_place_of_the_directory_is_not_followed(place: Place) -> None:
    place.on()
    other = place.path.with_name("other")
    for target in ("missing", other):
        place.path.symlink_to(target)
        message = (
            f"The directory of workers {place.path} is a symlink, which is not followed. Give the "
            "path of the directory itself."
        )
        with pytest.raises(RegistryError) as caught:
            place.register()
        assert str(caught.value) == message
        assert place.whys() == [message]
        assert not (place.file.parent / "missing").exists()
        place.path.unlink()
        other.mkdir(exist_ok=True)


def test_a_directory_that_anybody_may_write_is_not_used(place: Place) -> None:
    place.path.mkdir()
    os.chmod(place.path, 0o1777)
    place.on()
    message = (
        f"The directory of workers {place.path} may be written by anybody, who could remove "
        "entries. Take that away: chmod o-w."
    )
    with pytest.raises(RegistryError) as caught:
        place.register()
    assert str(caught.value) == message
    assert place.whys() == [message]


@needs_root
def test_a_directory_of_somebody_else_below_one_for_everybody_is_not_used(place: Place) -> None:
    place.path.mkdir()
    os.chown(place.path, NOBODY, NOBODY)
    os.chmod(place.file.parent, 0o1777)
    place.on()
    with pytest.raises(RegistryError, match=f"belongs to user {NOBODY}, and anybody may have"):
        place.register()
    assert len(place.whys()) == 1
    os.chmod(place.file.parent, 0o755)  # where only root can have put it
    place.register()


def test_a_file_in_the_place_of_the_directory_is_named(place: Place) -> None:
    place.path.touch()
    place.on()
    with pytest.raises(RegistryError, match="Not a directory"):
        place.register()
    assert place.whys() == ["Not a directory"]


@pytest.mark.parametrize("path", [None, 7, "", b"", "a\0b", object()])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="workers takes the path of a directory"):
        DirectoryRegistry(path)


def test_a_relative_path_is_made_absolute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registry = DirectoryRegistry("workers")
    monkeypatch.chdir("/")
    assert registry.path == str(tmp_path / "workers")
    assert repr(registry) == f"DirectoryRegistry({registry.path!r})"


# -- looking while the world moves -----------------------------------------------------------


class Moved:
    """A registry in the middle of whose reading something happens."""

    def __init__(self, place: Place, *acts: Callable[[], object]) -> None:
        self.place, self.acts, self.reads = place, list(acts), 0

    def read(self) -> list[Seen]:
        seen = self.place.read()
        self.reads += 1
        if self.acts:
            self.acts.pop(0)()
        return seen


def test_a_look_starts_over_when_the_file_was_replaced(place: Place) -> None:
    entry = place.register()
    place.on()
    place.acknowledge(entry)

    def replaced() -> None:
        place.off()
        place.on()

    moved = Moved(place, replaced)
    verdict = look(place.identity, moved)
    assert moved.reads == 2
    assert [why for _, why in verdict.waiting] == ["has not noticed"]
    assert verdict.generation == place.identity()


def test_a_look_ends_when_the_file_goes_or_changes_all_the_time(place: Place) -> None:
    place.acknowledge(place.register(), forced=READ_ONLY)
    place.on()
    verdict = look(place.identity, Moved(place, place.off))
    assert (verdict.holds, verdict.problem) == (False, "there is no file: it is read-write")
    numbers = itertools.count()
    verdict = look(lambda: str(next(numbers)), place.registry)
    assert (verdict.holds, verdict.problem) == (False, "the file changes all the time")
    assert len(verdict.seen) == 1


def test_a_look_at_a_file_that_cant_be_looked_at_holds_nothing(place: Place) -> None:
    def fails() -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    verdict = look(fails, place.registry)
    assert not verdict.holds
    assert verdict.problem == "the file can't be looked at: [Errno 13] Permission denied"


def test_a_worker_that_starts_in_any_order_with_a_look_is_seen_or_sees_the_file(
    tmp_path: Path,
) -> None:
    """Every order of the steps: a worker registers and looks, `on`, and `wait` looks, twice."""
    worker, operator = ["register", "look"], ["on", "identify", "read", "identify again"]
    for number, slots in enumerate(itertools.combinations(range(6), 2)):
        directory = tmp_path / str(number)
        directory.mkdir()
        place = Place(directory)
        drained_one = place.register()
        mine, theirs = iter(worker), iter(operator)
        steps = [next(mine if slot in slots else theirs) for slot in range(6)]
        identities, seen, saw = [], [], None
        entry = None
        for step in steps:
            if step == "register":
                entry = place.register()
            elif step == "look":
                saw = place.identity()
            elif step == "on":
                place.on()
                place.acknowledge(drained_one)
            elif step == "read":
                seen = place.read()
            else:
                identities.append(place.identity())
        assert identities[0] == identities[1] is not None
        holds = drained(identities[0], seen, time.time()).holds
        assert saw is not None or not holds, steps
        assert holds or entry.name in [one.name for one in seen], steps
        for one in place.entries:
            one.close()


@pytest.mark.parametrize("when", ["before it opens", "after it opened"])
def test_an_entry_that_goes_while_it_is_read_is_no_entry(
    place: Place, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    entry, other = place.register(), place.register()
    real = directory._open

    def opened(directory: int, name: str) -> int:
        if name != f"{entry.name}.lock":
            return real(directory, name)
        monkeypatch.undo()
        if when == "before it opens":
            entry.close()
            return real(directory, name)
        descriptor = real(directory, name)
        entry.close()
        return descriptor

    monkeypatch.setattr(directory, "_open", opened)
    names = [one.name for one in place.read()]
    assert other.name in names
    assert (entry.name in names) is (when == "after it opened")
    assert [one.name for one in place.read()] == [other.name]


# -- which process it is ---------------------------------------------------------------------


def test_the_place_of_a_process_depends_on_its_namespace_and_its_boot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {"/etc/machine-id": "machine", "/proc/sys/kernel/random/boot_id": "boot"}
    namespace = [directory._INITIAL_NAMESPACE]
    monkeypatch.setattr(directory, "_text", lambda path: texts.get(path, ""))
    monkeypatch.setattr(directory.socket, "gethostname", lambda: "host")
    real = os.stat

    def stat_of(path: Any, **options: Any) -> Any:
        if path != "/proc/self/ns/pid":
            return real(path, **options)
        if namespace[0] is None:
            raise FileNotFoundError
        return os.stat_result((0, namespace[0], *(0,) * 8))

    monkeypatch.setattr(directory.os, "stat", stat_of)
    first = directory._place()
    texts["/proc/sys/kernel/random/boot_id"] = "later"
    assert directory._place() == first  # after a reboot the lock tells who is dead
    places = {first}
    texts["/etc/machine-id"] = "other"
    places.add(directory._place())
    namespace[0] += 1
    places.add(directory._place())
    namespace[0] += 1
    places.add(directory._place())
    texts["/proc/sys/kernel/random/boot_id"] = "boot"
    places.add(directory._place())
    namespace[0] = None
    places.add(directory._place())
    assert len(places) == 6


def test_without_flock_the_module_imports_and_registering_says_what_to_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("sa_readonly._no_flock", directory.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    registry = module.DirectoryRegistry(place.path)
    message = (
        "A directory of workers is not supported on this platform, which has no flock(). Give "
        "workers=False."
    )
    with pytest.raises(module.RegistryError) as caught:
        registry.register(place.identity)
    assert str(caught.value) == message
    assert not place.path.exists()
    assert [one.problem for one in registry.read()] == [message]
