"""A directory of workers: who lives, who is dead, and of whom it can't be told."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from sa_readonly.workers import folder, process
from sa_readonly.workers.protocol import RegistryError, Report
from tests.forked import Forked
from tests.postgres import wait_until
from tests.workers import ALIVE, BOUND, DEAD, READ_WRITE, UNKNOWN, Place, die, in_child, place

__all__ = ["place"]  # a fixture


ELSEWHERE = "another host or process namespace: can't tell if it lives"


class Worker:
    """Another process, see worker_process.py."""

    def __init__(self, place: Place) -> None:
        self.children: list[int] = []
        self.process = Forked(
            "tests.worker_process",
            str(place.path),
            str(place.file),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
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
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
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


# -- who lives --------------------------------------------------------------------------------


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


def stopped(pid: int) -> bool:
    return subprocess.check_output(["ps", "-o", "stat=", "-p", str(pid)]).startswith(b"T")


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
        wait_until(partial(stopped, worker.pid), "the worker to stand still", BOUND)
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
    monkeypatch.setattr(process, "born", lambda _pid: 1)
    assert place.one().liveness is UNKNOWN
    monkeypatch.setattr(process, "born", lambda _pid: None)
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
    monkeypatch.setattr(process, "place", lambda: "0" * 12)
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

    monkeypatch.setattr(fcntl, "flock", flock)
    assert place.whys() == [f"can't tell if it lives: {os.strerror(error)}"]
    with pytest.raises(RegistryError, match="can't register"):
        place.register()
    monkeypatch.undo()
    assert len(place.read()) == 1


# -- which process it is ----------------------------------------------------------------------


def test_the_place_of_a_process_depends_on_its_namespace_and_its_boot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {"/etc/machine-id": "machine", "/proc/sys/kernel/random/boot_id": "boot"}
    namespace = [process._INITIAL_NAMESPACE]
    monkeypatch.setattr(process, "_text", lambda path: texts.get(path, ""))
    monkeypatch.setattr(process.socket, "gethostname", lambda: "host")
    real = os.stat

    def stat_of(path: Any, **options: Any) -> Any:
        if path != "/proc/self/ns/pid":
            return real(path, **options)
        if namespace[0] is None:
            raise FileNotFoundError
        return os.stat_result((0, namespace[0], *(0,) * 8))

    monkeypatch.setattr(os, "stat", stat_of)
    first = process.place()
    texts["/proc/sys/kernel/random/boot_id"] = "later"
    assert process.place() == first  # after a reboot the lock tells who is dead
    places = {first}
    texts["/etc/machine-id"] = "other"
    places.add(process.place())
    namespace[0] += 1
    places.add(process.place())
    namespace[0] += 1
    places.add(process.place())
    texts["/proc/sys/kernel/random/boot_id"] = "boot"
    places.add(process.place())
    namespace[0] = None
    places.add(process.place())
    assert len(places) == 6


def test_without_flock_the_module_imports_and_registering_says_what_to_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("sa_readonly.workers._no_flock", folder.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module.fcntl is None
    monkeypatch.setattr(folder, "fcntl", None)
    message = (
        "A directory of workers is not supported on this platform, which has no flock(). Give "
        "workers=False."
    )
    with pytest.raises(RegistryError) as caught:
        place.registry.register(place.identity)
    assert str(caught.value) == message
    assert not place.path.exists()
    assert [one.problem for one in place.read()] == [message]
