"""A clock, a counted os.stat, threads and children, for the tests of FileSwitch."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from datetime import timezone

import pytest
from hypothesis import HealthCheck, settings

from sa_readonly import looking
from sa_readonly.mode import Mode
from tests.app import set_clock

BOUND = 10  # seconds after which a thread that should have moved counts as stuck
RW, RO = Mode.READ_WRITE, Mode.READ_ONLY
UTC = timezone.utc
REAL_STAT = os.stat


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """A clock that only the test moves."""
    clock = Clock()
    with set_clock(clock):
        yield clock


@pytest.fixture
def path(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "read-only.txt"


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, "sa_readonly")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records]


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch):
    """The thread of a PolledSwitch ends with the test, whatever still refers to the switch."""
    made = []

    class Noted(looking._Caller):
        def __init__(self, call):
            super().__init__(call)
            made.append(self)

    monkeypatch.setattr(looking, "_Caller", Noted)
    yield
    for caller in made:
        caller.looks.put(None)
    join([caller.thread for caller in made])


class Stats:
    """Counts the calls of os.stat for the test's files, or has them do something else, too."""

    def __init__(self, monkeypatch, tmp_path):
        self.count = 0
        self.before = self.after = nothing
        self.place = str(tmp_path)
        monkeypatch.setattr(os, "stat", self)

    def __call__(self, path, **options):
        if str(path).startswith(self.place):  # pytest looks at files too, when a test fails
            self.count += 1
            self.before(path)
            found = REAL_STAT(path, **options)
            self.after(path)
            return found
        return REAL_STAT(path, **options)


@pytest.fixture
def stats(monkeypatch, tmp_path):
    return Stats(monkeypatch, tmp_path)


def raiser(number):
    def fail(path):
        raise OSError(number, os.strerror(number), path)

    return fail


def nothing(*args):
    pass


def in_threads(count, function):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(function()), daemon=True)
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads, results


def join(threads):
    end = time.perf_counter() + BOUND
    for thread in threads:
        thread.join(max(0, end - time.perf_counter()))
    assert not any(thread.is_alive() for thread in threads)


def in_child(function):
    """Run `function` in a forked child, bounded; return its exit code."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(BOUND)
        code = 99
        try:
            code = function()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Told:
    """A subscriber that notes what it was told, in order, with the mode known at that moment."""

    def __init__(self, switch):
        self.events = []
        self.switch = switch
        self.end = switch.subscribe(self.gate, self.flipped)
        self.events.clear()  # the gate is turned once at the start

    def gate(self, state):
        self.events.append(("gate", str(state.mode), str(self.switch.known.mode)))

    def flipped(self, old, new):
        self.events.append(("tell", str(old.mode), str(new.mode)))


quick = settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
