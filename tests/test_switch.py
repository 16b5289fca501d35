"""FileSwitch: each test is one fact of the contract, tried on real files."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import logging
import math
import os
import random
import signal
import socket
import stat
import string
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sa_readonly import switch as switch_module
from sa_readonly.errors import ConfigurationError
from sa_readonly.mode import Mode, State
from sa_readonly.switch import FileSwitch, _format, _parse

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
def clock(monkeypatch):
    """A monotonic clock that only the test moves."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def path(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "read-only.txt"


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, "sa_readonly")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records]


class Stats:
    """Counts the calls of os.stat for the test's files, or has them do something else first."""

    def __init__(self, monkeypatch, tmp_path):
        self.count = 0
        self.before = nothing
        self.place = str(tmp_path)
        monkeypatch.setattr(os, "stat", self)

    def __call__(self, path, **options):
        if str(path).startswith(self.place):  # pytest looks at files too, when a test fails
            self.count += 1
            self.before(path)
        return REAL_STAT(path, **options)


@pytest.fixture
def stats(monkeypatch, tmp_path):
    return Stats(monkeypatch, tmp_path)


@contextlib.contextmanager
def no_permission(directory):
    """Have the kernel answer EACCES below `directory`; root drops to another user for that."""
    os.chmod(directory, 0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        os.chmod(directory, 0o700)


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


# -- what means read-only ---------------------------------------------------------------------


def _directory(path):
    path.mkdir()


def _fifo(path):
    os.mkfifo(path)


def _dangling(path):
    path.symlink_to("nowhere")


def _loop(path):
    path.symlink_to(path.name)


def _socket(path):
    before = os.getcwd()
    os.chdir(path.parent)  # a socket's path may be 107 bytes long at most
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def test_no_file_means_read_write(path):
    switch = FileSwitch(path)
    assert (switch.state.mode, switch.read_only) == (RW, False)
    assert (switch.state.reason, switch.state.until, switch.state.generation) == (None, None, None)


def test_an_empty_file_means_read_only_without_a_reason(path):
    path.touch()
    state = FileSwitch(path).state
    assert (state.mode, state.reason, state.until) == (RO, None, None)


@pytest.mark.parametrize("make", [_directory, _fifo, _dangling, _loop, _socket])
@pytest.mark.parametrize("early", [True, False])
def test_what_is_no_regular_file_means_read_only_with_a_warning(path, log, make, early):
    if early:
        make(path)
    switch = FileSwitch(path)
    if not early:
        make(path)
    state = switch.check()
    assert (state.mode, state.reason) == (RO, None)
    warning = f"{path} is not a regular file. It means read-only all the same."
    for _ in range(3):
        switch.check()
    assert [text for level, text in log() if level == "WARNING"].count(warning) == 1


def test_the_text_behind_a_symlink_to_the_same_directory_is_read(path):
    (path.parent / "other").write_text("moved")
    path.symlink_to("other")
    assert FileSwitch(path).state.reason == "moved"


@pytest.mark.parametrize("relative", [True, False])
def test_the_text_behind_a_symlink_out_of_the_directory_is_not_read(path, tmp_path, log, relative):
    secret = tmp_path / "secret"
    secret.write_text("password")
    path.symlink_to("../secret" if relative else secret)
    state = FileSwitch(path).state
    assert (state.mode, state.reason) == (RO, None)
    assert "password" not in str(log())
    assert any("leads out of its directory" in text for _, text in log())


def test_a_file_that_becomes_a_fifo_before_it_is_opened_blocks_nobody(path, monkeypatch, log):
    path.write_text("text")
    realpath = os.path.realpath

    def swap(name, **options):
        real = realpath(name, **options)
        if name == str(path):
            path.unlink()
            os.mkfifo(path)
        return real

    monkeypatch.setattr(os.path, "realpath", swap)
    threads, results = in_threads(1, lambda: FileSwitch(path).state)
    join(threads)
    assert (results[0].mode, results[0].reason) == (RO, None)
    assert any("no regular file any more" in text for _, text in log())


def test_a_file_whose_text_may_not_be_read_means_read_only(path, log):
    path.write_text("text")
    path.chmod(0)
    if os.geteuid() == 0:
        return  # permissions don't bind root
    assert FileSwitch(path).state == FileSwitch(path).state
    assert FileSwitch(path).state.mode is RO
    assert any("is not read" in text for _, text in log())


# -- the path and the settings ----------------------------------------------------------------


def test_a_relative_path_is_made_absolute_when_the_switch_is_made(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    switch = FileSwitch("read-only.txt")
    monkeypatch.chdir("/")
    assert switch.path == str(path)
    path.touch()
    assert switch.check().mode is RO


def test_dots_after_a_symlink_lead_where_the_kernel_goes(tmp_path):
    (tmp_path / "release" / "app").mkdir(parents=True)
    (tmp_path / "current").symlink_to("release/app")
    (tmp_path / "release" / "read-only.txt").touch()
    assert FileSwitch(tmp_path / "current" / ".." / "read-only.txt").read_only


def test_a_missing_parent_directory_is_a_configuration_error_that_names_it(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        FileSwitch(tmp_path / "typo" / "read-only.txt")
    assert str(caught.value) == (
        f"The directory {tmp_path}/typo of the file {tmp_path}/typo/read-only.txt does not exist. "
        "A mistyped path would mean read-write for ever: create the directory, or correct the path."
    )


def test_a_parent_that_is_a_file_is_a_configuration_error(path):
    path.touch()
    with pytest.raises(ConfigurationError, match="does not exist"):
        FileSwitch(path / "read-only.txt")


@pytest.mark.parametrize("wrong", ["", None, 7, b"/tmp/x", "/tmp/a\0b", "/tmp/\ud800", []])
def test_what_is_no_path_is_a_configuration_error(wrong):
    with pytest.raises(ConfigurationError, match=r"FileSwitch\(path\) takes the path"):
        FileSwitch(wrong)


@pytest.mark.parametrize("name", ["read-only.txt\n", " read-only.txt", "read-only.txt\r", "  "])
def test_a_path_with_white_space_around_it_is_a_configuration_error(path, name):
    with pytest.raises(ConfigurationError, match="begins or ends with white space"):
        FileSwitch(name if name.startswith(" ") else f"{path.parent}/{name}")


@pytest.mark.parametrize(
    "ttl", [-1, -0.001, math.nan, math.inf, -math.inf, True, "1", None, 10**400, 1j]
)
def test_a_ttl_that_is_no_number_of_seconds_is_a_configuration_error(path, ttl):
    with pytest.raises(ConfigurationError, match="ttl takes a number of seconds"):
        FileSwitch(path, ttl=ttl)


def test_a_name_that_is_too_long_means_read_only_and_one_error(path, log):
    switch = FileSwitch(path.parent / ("x" * 300))
    for _ in range(5):
        assert switch.check().mode is RO
    assert [level for level, _ in log()] == ["ERROR"]


@pytest.mark.parametrize("value", list(Mode))
def test_the_environment_forces_the_mode_with_one_warning_and_no_look(
    path, monkeypatch, log, stats, value
):
    monkeypatch.setenv("SA_READONLY_FORCE", str(value))
    switch = FileSwitch(path, ttl=0)
    stats.count = 0
    (path.touch if value is RW else path.unlink)(*([] if value is RW else [True]))
    stats.count = 0
    states = [switch.state, switch.check(), switch.refresh()]
    assert {state.mode for state in states} == {value}
    assert states[0].reason == f"SA_READONLY_FORCE={value}"
    assert stats.count == 0
    assert log() == [
        (
            "WARNING",
            f"SA_READONLY_FORCE={value} forces this process: {path} is not looked at.",
        )
    ]


@pytest.mark.parametrize("value", ["", "readonly", "READ-ONLY", "1"])
def test_nonsense_in_the_environment_is_a_configuration_error(path, monkeypatch, value):
    monkeypatch.setenv("SA_READONLY_FORCE", value)
    with pytest.raises(ConfigurationError, match="Set it to read-write or read-only, or unset it"):
        FileSwitch(path)


def test_importing_touches_no_file_of_ours_and_starts_no_thread():
    code = """
import os, sys, threading, logging, tempfile, sqlalchemy.orm, sqlalchemy.ext.asyncio
done = []
def hook(event, args):
    if event == "_thread.start_new_thread":
        done.append(event)
    if event == "open" and not str(args[0]).endswith((".py", ".pyc")):
        done.append((event, args[0]))
sys.addaudithook(hook)
import sa_readonly.switch
assert not done, done
assert threading.active_count() == 1
"""
    root = Path(switch_module.__file__).parent.parent
    subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", code], cwd=root, check=True, timeout=60
    )


# -- how often it looks -----------------------------------------------------------------------


def test_inside_ttl_ten_thousand_questions_make_no_stat(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    stats.count = 0
    clock.now += 4.9
    assert not any(switch.read_only for _ in range(10_000))
    assert stats.count == 0


def test_one_look_in_read_write_mode_is_one_stat(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    stats.count = 0
    for looks in range(1, 6):
        clock.now += 10
        assert not switch.read_only
        assert stats.count == looks


def test_a_ttl_of_zero_looks_each_time(path, stats):
    switch = FileSwitch(path, ttl=0)
    stats.count = 0
    for looks in range(1, 6):
        assert not switch.read_only
        assert stats.count == looks
    path.touch()
    assert switch.read_only
    path.unlink()
    assert not switch.read_only


def test_a_huge_ttl_looks_only_when_asked_to(path, stats):
    switch = FileSwitch(path, ttl=1e300)
    stats.count = 0
    path.touch()
    stats.count = 0
    assert not switch.read_only
    assert stats.count == 0
    assert switch.check().mode is RO


def test_past_half_of_ttl_one_thread_looks_and_the_others_do_not_wait(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    path.touch()
    clock.now += 7
    stats.count = 0
    hanging, go_on = threading.Event(), threading.Event()

    def hang(name):
        hanging.set()
        assert go_on.wait(BOUND)

    stats.before = hang
    looker, looked = in_threads(1, lambda: switch.read_only)
    assert hanging.wait(BOUND)
    others, answers = in_threads(31, lambda: switch.read_only)
    join(others)
    assert answers == [False] * 31
    assert stats.count == 1
    go_on.set()
    join(looker)
    assert looked == [True]


def test_with_32_threads_at_a_stale_answer_exactly_one_looks(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    clock.now += 7
    stats.count = 0
    barrier = threading.Barrier(32)

    def ask():
        barrier.wait(BOUND)
        return switch.read_only

    threads, answers = in_threads(32, ask)
    join(threads)
    assert (len(answers), stats.count) == (32, 1)


def test_while_a_stat_hangs_nobody_uses_an_answer_older_than_ttl(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    path.touch()
    clock.now += 7
    stats.count = 0
    go_on = threading.Event()
    arrived = threading.Semaphore(0)

    def hang(name):
        arrived.release()
        assert go_on.wait(BOUND)

    stats.before = hang
    threads, answers = in_threads(1, lambda: switch.read_only)
    assert arrived.acquire(timeout=BOUND)
    clock.now += 3  # exactly ttl
    more, answers_late = in_threads(8, lambda: switch.read_only)
    for _ in range(8):
        assert arrived.acquire(timeout=BOUND)
    assert answers + answers_late == []
    go_on.set()
    join(threads + more)
    assert answers + answers_late == [True] * 9


def test_a_stat_that_hangs_in_one_thread_holds_up_no_other(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    hanging, go_on = threading.Event(), threading.Event()
    hanger = []

    def hang(name):
        if threading.current_thread() in hanger:
            hanging.set()
            assert go_on.wait(BOUND)

    stats.before = hang
    clock.now += 20
    thread = threading.Thread(target=switch.check)
    hanger.append(thread)
    thread.start()
    assert hanging.wait(BOUND)
    path.touch()
    assert switch.check().mode is RO
    path.unlink()
    assert switch.check().mode is RW
    go_on.set()
    join([thread])


@pytest.mark.parametrize("there", [True, False])
def test_the_late_answer_of_a_stat_that_hung_does_not_override_a_newer_one(
    path, clock, monkeypatch, there
):
    if there:
        path.touch()
    switch = FileSwitch(path, ttl=10)
    told = Told(switch)
    answered, go_on = threading.Event(), threading.Event()
    late = threading.Thread(target=switch.check, daemon=True)

    def stat_then_hang(name, **options):
        try:
            return REAL_STAT(name, **options)
        finally:
            if threading.current_thread() is late:
                answered.set()
                assert go_on.wait(BOUND)

    real_examine = switch._examine

    def examine():
        seen = real_examine()
        if threading.current_thread() is late:
            answered.set()
            assert go_on.wait(BOUND)
        return seen

    if there:  # it has seen the file, in its directory, and is held up then
        monkeypatch.setattr(switch, "_examine", examine)
    else:
        monkeypatch.setattr(os, "stat", stat_then_hang)
    clock.now += 1
    late.start()
    assert answered.wait(BOUND)
    clock.now += 1
    path.unlink() if there else path.touch()
    new = RW if there else RO
    assert switch.check().mode is new
    go_on.set()
    join([late])
    assert switch.known.mode is new
    assert [event[0] for event in told.events] == ["gate", "tell"]


def test_a_look_that_saw_the_time_before_the_flip_reports_no_swapped_directory(path, clock, log):
    """It began later than the look that saw the file, and yet saw nothing: it was quicker."""
    switch = FileSwitch(path, ttl=10)
    clock.now += 2
    quick = switch._examine()
    path.touch()
    clock.now -= 1
    assert switch.check().mode is RO
    switch._apply(quick, 1002.0)
    switch._tell()
    assert switch.known.mode is RO
    assert [level for level, _ in log()] == ["WARNING"]


def test_who_reads_the_time_of_an_answer_never_gets_an_older_answer(path, clock, monkeypatch):
    """Between its look and its use a thread is held up; meanwhile another one flips."""
    switch = FileSwitch(path, ttl=10)
    flipping = threading.local()

    class Held(FileSwitch):
        @property
        def _expires(self):
            if getattr(flipping, "armed", False):
                flipping.armed = False
                clock.now += 100
                path.touch()
                join(in_threads(1, switch.check)[0])
            return self.__dict__["_expires"]

        @_expires.setter
        def _expires(self, value):
            self.__dict__["_expires"] = value

    switch.__class__ = Held
    clock.now += 10
    real_apply = switch._apply

    def apply(seen, started):
        real_apply(seen, started)
        flipping.armed = threading.current_thread() is threading.main_thread()

    monkeypatch.setattr(switch, "_apply", apply)
    assert switch.check().mode is RO


def test_looks_that_all_take_longer_than_ttl_mean_read_only_and_one_error(path, clock, stats, log):
    switch = FileSwitch(path, ttl=10)

    def crawl(name):
        clock.now += 10.1

    stats.before = crawl
    clock.now += 10
    for _ in range(3):
        state = switch.state
        assert state.mode is RO
        assert state.reason == f"a look at {path} takes longer than ttl=10.0 s"
    stats.before = nothing
    assert switch.state.mode is RW
    assert log() == [
        (
            "ERROR",
            f"A look at {path} takes longer than ttl=10.0 s, so its answer is too old when it "
            "comes and whoever asks is told read-only. Give a larger ttl.",
        ),
        ("INFO", f"A look at {path} is faster than ttl again."),
    ]


def test_an_answer_that_comes_too_late_is_asked_for_again(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    slow = iter([True])

    def hang(name):
        if next(slow, False):
            clock.now += 50

    clock.now += 10
    stats.before = hang
    stats.count = 0
    assert switch.state.mode is RW
    assert stats.count == 2


# -- flips: once, and in order ----------------------------------------------------------------


def test_each_flip_is_logged_once_with_modes_reason_and_path(path, log):
    switch = FileSwitch(path)
    path.write_text("disk\nswap\n")
    for _ in range(3):
        switch.check()
    path.unlink()
    for _ in range(3):
        switch.check()
    assert log() == [
        (
            "WARNING",
            f"sa_readonly: read-write -> read-only: {path} is there (reason 'disk\\nswap')",
        ),
        ("INFO", f"sa_readonly: read-only -> read-write: {path} is gone"),
    ]


def test_a_start_in_read_only_mode_is_logged_once(path, log):
    path.write_text("night\nuntil: 2026-11-23T02:00Z")
    FileSwitch(path).check()
    assert log() == [
        (
            "WARNING",
            f"sa_readonly starts read-only: {path} is there (reason 'night', "
            "until 2026-11-23T02:00:00+00:00)",
        )
    ]


def test_with_32_threads_a_flip_is_told_and_logged_once(path, log):
    switch = FileSwitch(path, ttl=0)
    told = Told(switch)
    for mode in (RO, RW) * 3:
        path.touch() if mode is RO else path.unlink()
        told.events.clear()
        barrier = threading.Barrier(32)

        def ask(barrier=barrier):
            barrier.wait(BOUND)
            return switch.state.mode

        threads, answers = in_threads(32, ask)
        join(threads)
        assert set(answers) == {mode}
        old = RW if mode is RO else RO
        assert told.events == [("gate", str(mode), "read-only"), ("tell", str(old), str(mode))]
    assert [level for level, _ in log()] == ["WARNING", "INFO"] * 3


def test_gates_close_after_publishing_and_open_before_it(path):
    switch = FileSwitch(path)
    told = Told(switch)
    path.touch()
    switch.check()
    path.unlink()
    switch.check()
    assert told.events == [
        ("gate", "read-only", "read-only"),
        ("tell", "read-write", "read-only"),
        ("gate", "read-write", "read-only"),
        ("tell", "read-only", "read-write"),
    ]


def test_a_subscriber_has_its_gate_turned_at_once_to_what_is_known(path):
    path.touch()
    turned = []
    FileSwitch(path).subscribe(lambda state: turned.append(state.mode), print)
    assert turned == [RO]


def test_who_has_unsubscribed_is_told_nothing_more(path):
    switch = FileSwitch(path)
    told = Told(switch)
    switch.subscribe(nothing, lambda *_: other.end())
    other = Told(switch)
    told.end()
    told.end()
    path.touch()
    switch.check()
    path.unlink()
    switch.check()
    assert told.events == []
    assert other.events == [("gate", "read-only", "read-only")]


def test_a_gate_is_not_turned_once_its_subscription_has_ended_in_the_same_flip(path):
    switch = FileSwitch(path)
    ends, turned = [], []
    switch.subscribe(lambda _: ends and ends.pop()(), nothing)
    for change in (path.touch, path.unlink):
        end = switch.subscribe(lambda state: turned.append(state.mode), nothing)
        turned.clear()
        ends.append(end)
        change()
        switch.check()
        assert (turned, ends) == ([], [])


def test_ending_a_subscription_does_not_wait_for_ever(path):
    switch = FileSwitch(path)
    end = switch.subscribe(nothing, nothing)
    with switch._locks.state:
        join(in_threads(1, end)[0])
    assert not switch._subscribers


def test_a_subscriber_that_is_collected_is_forgotten(path):
    switch = FileSwitch(path)
    told = Told(switch)
    events = told.events
    del told
    gc.collect()
    path.touch()
    assert switch.check().mode is RO
    assert events == []


def test_a_subscription_can_end_in_a_garbage_collection_amid_a_flip(path):
    """A selector's finalizer runs wherever a collection happens: also under our lock."""
    switch = FileSwitch(path)
    end = switch.subscribe(print, print)
    switch.subscribe(lambda _: end(), nothing)
    path.touch()
    threads, results = in_threads(1, switch.check)
    join(threads)
    assert results[0].mode is RO


def test_a_gate_that_fails_to_open_keeps_it_read_only_and_all_are_closed(path, log):
    switch = FileSwitch(path)
    turned = {"first": [], "broken": [], "last": []}
    broken = False

    def gate(name, state):
        turned[name].append(state.mode)
        if name == "broken" and broken and not state.read_only:
            raise RuntimeError("stuck half open")

    told = Told(switch)
    for name in turned:
        switch.subscribe(lambda state, name=name: gate(name, state), nothing)
    for _ in range(2):
        path.touch()
        switch.check()
        path.unlink()
        broken = True
        for _ in range(3):
            assert switch.check().mode is RO
            assert {modes[-1] for modes in turned.values()} == {RO}
        broken = False
        assert switch.check().mode is RW
        assert {modes[-1] for modes in turned.values()} == {RW}
    tells = [event for event in told.events if event[0] == "tell"]
    assert tells == [("tell", "read-write", "read-only"), ("tell", "read-only", "read-write")] * 2
    assert [level for level, _ in log()] == ["WARNING", "ERROR", "INFO"] * 2


def test_a_gate_that_fails_to_open_is_tried_again_no_sooner_than_a_look_is_due(path, clock):
    switch = FileSwitch(path, ttl=10)
    tries = []

    def gate(state):
        if not state.read_only and switch.known.read_only:
            tries.append(state)
            raise RuntimeError("stuck")

    switch.subscribe(gate, nothing)
    path.touch()
    switch.check()
    path.unlink()
    clock.now += 20
    assert all(switch.read_only for _ in range(100))
    assert len(tries) == 1


def test_an_interrupt_while_the_gates_open_closes_them_again(path):
    switch = FileSwitch(path)
    turned = []

    def gate(state):
        if not state.read_only and switch.known.read_only:
            raise KeyboardInterrupt

    switch.subscribe(lambda state: turned.append(state.mode), nothing)
    end = switch.subscribe(gate, nothing)
    path.touch()
    switch.check()
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        switch.check()
    assert (switch.known.mode, turned[-1]) == (RO, RO)
    end()
    assert (switch.check().mode, turned[-1]) == (RW, RW)


def test_a_gate_that_fails_to_close_is_closed_at_the_next_look(path, log):
    switch = FileSwitch(path)
    told = Told(switch)
    tries = []

    def gate(state):
        if state.read_only:
            tries.append(state.mode)
            if len(tries) < 3:
                raise RuntimeError("stuck")

    switch.subscribe(gate, nothing)
    path.touch()
    for _ in range(5):
        assert switch.check().mode is RO
    assert len(tries) == 3
    assert [event[0] for event in told.events] == ["gate", "tell"]
    assert [level for level, _ in log()] == ["ERROR", "WARNING"]


def test_an_interrupt_while_the_gates_close_loses_neither_the_flip_nor_a_gate(path, log):
    switch = FileSwitch(path)
    interrupts = [KeyboardInterrupt]

    def gate(state):
        if state.read_only and interrupts:
            raise interrupts.pop()

    switch.subscribe(gate, nothing)
    told = Told(switch)
    path.touch()
    with pytest.raises(KeyboardInterrupt):
        switch.check()
    assert switch.check().mode is RO
    assert sorted(event[0] for event in told.events) == ["gate", "tell"]
    assert [level for level, _ in log()] == ["WARNING"]


def test_what_fails_after_a_flip_is_logged_and_harms_nobody(path, log):
    switch = FileSwitch(path)

    def fail(old, new):
        raise RuntimeError("oops")

    switch.subscribe(nothing, fail)
    told = Told(switch)
    path.touch()
    assert switch.check().mode is RO
    assert [event[0] for event in told.events] == ["gate", "tell"]
    assert [level for level, _ in log()] == ["WARNING", "ERROR"]


def test_a_log_handler_may_ask_for_the_mode_and_look_again(path):
    switch = FileSwitch(path, ttl=0)
    seen = []
    broken = True

    class Asking(logging.Handler):
        def emit(self, record):
            # also from another thread that is waited for, as a lock's owner can't be
            threads, results = in_threads(1, switch.check)
            join(threads)
            seen.append((switch.read_only, results[0].read_only))

    def gate(state):
        if broken:
            raise RuntimeError("stuck")

    handler = Asking()
    switch.subscribe(nothing, nothing)
    logger = logging.getLogger("sa_readonly")
    logger.addHandler(handler)
    try:
        path.touch()
        threads, results = in_threads(1, switch.check)
        join(threads)
        assert results[0].mode is RO
        broken = False
        switch.subscribe(gate, nothing)
        broken = True
        path.unlink()
        threads, results = in_threads(1, switch.check)
        join(threads)
        assert results[0].mode is RO
    finally:
        logger.removeHandler(handler)
    assert seen == [(True, True), (True, True)]


def test_a_gate_that_asks_for_the_mode_gets_the_one_that_holds(path):
    switch = FileSwitch(path, ttl=0)
    asked = []
    switch.subscribe(lambda state: asked.append((state.mode, switch.check().mode)), nothing)
    asked.clear()
    path.touch()
    join(in_threads(1, switch.check)[0])
    path.unlink()
    join(in_threads(1, switch.check)[0])
    assert asked == [(RO, RO), (RW, RO)]
    assert switch.known.mode is RW


def test_flips_made_by_a_subscriber_are_told_in_their_order(path, log):
    switch = FileSwitch(path)
    told = []

    def flipped(old, new):
        told.append((old.mode, new.mode))
        if len(told) == 1:
            assert switch.disable().mode is RW
            assert switch.enable("again").mode is RO

    switch.subscribe(nothing, flipped)
    last = []
    switch.subscribe(nothing, lambda old, new: last.append((old.mode, new.mode)))
    threads, _ = in_threads(1, lambda: switch.enable("once"))
    join(threads)
    assert told == last == [(RW, RO), (RO, RW), (RW, RO)]
    assert [level for level, _ in log()] == ["WARNING", "INFO", "WARNING"]


def test_while_one_thread_tells_the_others_do_not_wait_and_lose_nothing(path):
    switch = FileSwitch(path)
    telling, go_on = threading.Event(), threading.Event()
    told = []

    def flipped(old, new):
        told.append(new.mode)
        telling.set()
        assert go_on.wait(BOUND)

    switch.subscribe(nothing, flipped)
    path.touch()
    teller, _ = in_threads(1, switch.check)
    assert telling.wait(BOUND)
    path.unlink()
    assert switch.check().mode is RW
    assert told == [RO]
    go_on.set()
    join(teller)
    assert told == [RO, RW]


def test_what_is_said_while_the_teller_stops_is_told_by_it(path, log):
    """The other thread finds the lock taken, after the teller found nothing more to tell."""
    switch = FileSwitch(path)
    lock = switch._locks.telling
    late = [("WARNING", "late")]

    class Telling:
        acquire = lock.acquire
        _is_owned = lock._is_owned

        @staticmethod
        def release():
            if late:
                late.pop()
                switch._say(logging.WARNING, "late")
                join(in_threads(1, switch._tell)[0])
            lock.release()

    switch._locks.telling = Telling
    path.touch()
    switch.check()
    assert [text for _, text in log()][1:] == ["late"]


def test_a_signal_handler_may_look_in_the_middle_of_a_flip(path):
    def child():  # where a deadlock of the main thread has an end
        switch = FileSwitch(path)
        looked, told = [], []
        signal.signal(signal.SIGUSR1, lambda *_: looked.append(switch.check().mode))
        switch.subscribe(
            lambda _: signal.raise_signal(signal.SIGUSR1), lambda _, new: told.append(new.mode)
        )
        path.touch()
        modes = [switch.check().mode]
        path.unlink()
        modes.append(switch.check().mode)
        return 0 if modes == told == [RO, RW] and looked == [RW, RO, RO] else 1

    assert in_child(child) == 0


def test_an_interrupted_look_leaves_nothing_half_known(path, monkeypatch, log):
    switch = FileSwitch(path)
    path.write_text("text")

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(switch, "_answer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            switch.check()
    assert switch.known.mode is RW
    assert switch.check().mode is RO
    assert [level for level, _ in log()] == ["WARNING"]


# -- the text, and its edits ------------------------------------------------------------------


@pytest.mark.parametrize("replaced", [True, False])
def test_an_edit_is_followed_with_one_info_and_no_flip(path, log, replaced):
    path.write_text("one")
    switch = FileSwitch(path)
    told = Told(switch)
    before = switch.state
    if replaced:
        (path.parent / "new").write_text("two\nuntil: 2030-01-01T00:00Z")
        os.replace(path.parent / "new", path)
    else:
        path.write_text("two\nuntil: 2030-01-01T00:00Z")
    for _ in range(3):
        after = switch.check()
    assert (after.reason, after.until) == ("two", datetime(2030, 1, 1, tzinfo=UTC))
    assert after.since == before.since
    assert after.generation != before.generation
    assert told.events == []
    assert log()[1:] == [
        (
            "INFO",
            f"sa_readonly: still read-only: {path} is there (reason 'two', "
            "until 2030-01-01T00:00:00+00:00)",
        )
    ]


def test_a_text_that_comes_within_one_tick_of_the_file_system_clock_is_followed(path, monkeypatch):
    """The shell creates the file and then writes into it; both may bear the same time."""
    path.touch()
    empty = REAL_STAT(path)

    class SameTick:
        def __init__(self, found):
            self.found = found

        def __getattr__(self, name):
            if name.startswith(("st_mtime", "st_ctime")):
                return getattr(empty, name)
            return getattr(self.found, name)

    monkeypatch.setattr(os, "stat", lambda *a, **k: SameTick(REAL_STAT(*a, **k)))
    switch = FileSwitch(path)
    assert switch.state.reason is None
    with path.open("w") as file:
        file.write("text")
    assert switch.check().reason == "text"


def test_a_text_is_read_once_and_not_at_each_look(path, monkeypatch):
    path.write_text("text")
    switch = FileSwitch(path)
    monkeypatch.setattr(os, "open", raiser(errno.EIO))
    assert {switch.check().reason for _ in range(3)} == {"text"}


def test_two_processes_see_the_same_generation(path):
    path.write_text("text")
    one, other = FileSwitch(path), FileSwitch(path.parent / "." / path.name)
    assert one.state.generation == other.state.generation is not None
    path.unlink()
    path.write_text("text")
    assert one.check().generation == FileSwitch(path).state.generation


def test_a_file_with_a_time_that_no_calendar_has_means_read_only(path, monkeypatch):
    path.touch()

    class Odd:
        def __init__(self, found):
            self.found = found

        def __getattr__(self, name):
            return 1e15 if name in ("st_mtime", "st_ctime") else getattr(self.found, name)

    monkeypatch.setattr(os, "stat", lambda *a, **k: Odd(REAL_STAT(*a, **k)))
    switch = FileSwitch(path)
    assert switch.state.mode is RO
    assert abs(switch.state.since - datetime.now(UTC)) < timedelta(minutes=1)


def test_since_is_when_the_file_came_also_when_it_was_written_long_before(path):
    before = datetime.now(UTC) - timedelta(seconds=1)
    prepared = path.parent / "prepared"
    prepared.touch()
    os.utime(prepared, (1, 1))
    prepared.rename(path)
    assert before <= FileSwitch(path).state.since <= datetime.now(UTC)


def test_at_most_4_kib_are_read(path):
    path.write_bytes(b"x" * 4096 + b"secret")
    assert FileSwitch(path).state.reason == "x" * 4096


def test_a_configmap_symlink_swapped_under_the_name_is_followed(path, log):
    home = path.parent
    for name in ("one", "two"):
        (home / name).mkdir()
        (home / name / path.name).write_text(name)
    (home / "..data").symlink_to("one")
    path.symlink_to(f"..data/{path.name}")
    switch = FileSwitch(path)
    told = Told(switch)
    assert switch.state.reason == "one"
    (home / "..data").unlink()  # dangling for a moment
    assert switch.check().mode is RO
    (home / "..data").symlink_to("two")
    assert switch.check().reason == "two"
    (home / "..new").symlink_to("one")
    os.replace(home / "..new", home / "..data")
    assert switch.check().reason == "one"
    assert told.events == []
    path.unlink()
    assert switch.check().mode is RW


def test_a_file_that_flaps_ends_where_it_ends(path):
    switch = FileSwitch(path, ttl=0)
    told = Told(switch)
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            switch.state  # noqa: B018

    threads, _ = in_threads(4, ask)
    for _ in range(200):
        path.touch()
        path.unlink()
    path.touch()
    stop.set()
    join(threads)
    assert switch.check().mode is RO
    modes = [event for event in told.events if event[0] == "tell"]
    assert modes[0][1] == "read-write"
    assert modes[-1][2] == "read-only"
    assert all(one[2] == two[1] for one, two in itertools.pairwise(modes))
    assert all(one[1] != one[2] for one in modes)


# -- trouble ----------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_permission_lost_keeps_the_mode_and_permission_regained_ends_it(path, log, there):
    if there:
        path.touch()
    switch = FileSwitch(path)
    mode = switch.state.mode
    with no_permission(path.parent):
        for _ in range(5):
            assert switch.check().mode is mode
    path.unlink() if there else path.touch()
    assert switch.check().mode is not mode
    texts = [text for level, text in log() if level == "ERROR"]
    assert len(texts) == 1
    assert texts[0].endswith(f": the mode stays {mode}.")
    assert ("INFO", f"{path} can be looked at again.") in log()


def test_at_the_start_a_stat_that_fails_means_read_only(path, log):
    with no_permission(path.parent):
        switch = FileSwitch(path)
        assert switch.state.mode is RO
        assert "can't be looked at" in switch.state.reason
        assert [level for level, _ in log()] == ["ERROR"]
    assert switch.check().mode is RW


def test_a_file_seen_after_a_start_in_trouble_tells_its_reason(path, log):
    path.write_text("upgrade")
    with no_permission(path.parent):
        switch = FileSwitch(path)
    state = switch.check()
    assert (state.mode, state.reason) == (RO, "upgrade")
    assert state.generation is not None
    assert any("upgrade" in text for _, text in log())


def test_a_stat_that_fails_anew_is_logged_anew(path, stats, log):
    switch = FileSwitch(path)
    for _ in range(2):
        stats.before = raiser(errno.EIO)
        switch.check()
        stats.before = nothing
        switch.check()
    assert [level for level, _ in log()] == ["ERROR", "INFO"] * 2


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT])
@pytest.mark.parametrize("there", [True, False])
def test_a_stat_that_fails_keeps_the_mode_and_makes_one_error_however_many_looks(
    path, stats, log, number, there
):
    if there:
        path.touch()
    switch = FileSwitch(path)
    mode = switch.state.mode
    stats.before = raiser(number)
    for _ in range(10):
        assert switch.check().mode is mode
    assert [level for level, _ in log()].count("ERROR") == 1


def test_start_in_trouble_in_a_directory_that_then_vanishes_stays_read_only(path, stats):
    stats.before = raiser(errno.EIO)
    switch = FileSwitch(path)
    stats.before = nothing
    path.parent.rmdir()
    assert switch.check().mode is RO


def test_a_file_gone_with_its_directory_does_not_mean_read_write(path, log):
    path.touch()
    switch = FileSwitch(path)
    away = path.parent.with_name("away")
    path.parent.rename(away)
    for _ in range(3):
        assert switch.check().mode is RO
    path.parent.mkdir()  # the empty mount point
    for _ in range(3):
        assert switch.check().mode is RO
    assert [level for level, _ in log()] == ["WARNING", "ERROR"]
    path.parent.rmdir()
    away.rename(path.parent)
    assert switch.check().mode is RO
    path.unlink()
    assert switch.check().mode is RW


def test_a_file_that_appears_and_goes_in_the_new_directory_ends_it(path):
    path.touch()
    switch = FileSwitch(path)
    path.parent.rename(path.parent.with_name("away"))
    path.parent.mkdir()
    assert switch.check().mode is RO
    path.touch()
    assert switch.check().mode is RO
    path.unlink()
    assert switch.check().mode is RW


def test_a_directory_swapped_during_the_look_does_not_mean_read_write(path, stats):
    path.touch()
    switch = FileSwitch(path)
    away, other = path.parent.with_name("away"), path.parent.with_name("other")
    other.mkdir()

    def hide(name):
        if name == str(path):
            path.parent.rename(away)
            other.rename(path.parent)

    stats.before = hide
    assert switch.check().mode is RO


def test_something_seen_means_read_only_even_while_its_directory_is_swapped(path, monkeypatch):
    switch = FileSwitch(path)
    path.touch()
    counter = iter(range(10**6))
    monkeypatch.setattr(switch, "_directory_now", lambda: (1, next(counter)))
    assert switch.check().mode is RO


# -- the operator -----------------------------------------------------------------------------


def test_enable_writes_what_is_read_back_and_disable_removes_it(path):
    switch = FileSwitch(path)
    until = datetime(2030, 5, 6, 7, 8, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    state = switch.enable("upgrade\nof the disks", until)
    assert (state.mode, state.reason, state.until) == (RO, "upgrade\nof the disks", until)
    assert state.until.tzinfo is UTC
    assert FileSwitch(path).state.reason == "upgrade\nof the disks"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == [path.name]
    assert switch.disable().mode is RW
    assert switch.disable().mode is RW
    assert os.listdir(path.parent) == []


def test_enable_replaces_a_file_that_is_there(path):
    path.write_text("old")
    assert FileSwitch(path).enable("new").reason == "new"


def test_enable_replaces_a_symlink_and_not_what_it_leads_to(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("password")
    path.symlink_to(secret)
    assert FileSwitch(path).enable("new").reason == "new"
    assert secret.read_text() == "password"
    assert not path.is_symlink()


def test_enable_over_a_directory_fails_and_leaves_it(path):
    path.mkdir()
    switch = FileSwitch(path)
    with pytest.raises(OSError):
        switch.enable("new")
    with pytest.raises(OSError):
        switch.disable()
    assert os.listdir(path.parent) == [path.name]
    assert switch.check().mode is RO


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_enable_on_a_full_disk_leaves_the_old_state_and_no_temporary_file(
    path, monkeypatch, old, call
):
    if old is not None:
        path.write_text(old)
    switch = FileSwitch(path)
    before = switch.state

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space"):
            switch.enable("new")
    assert os.listdir(path.parent) == ([] if old is None else [path.name])
    assert switch.check() == before


def test_enable_works_for_the_longest_name_there_is(path):
    long = path.parent / ("x" * 255)
    assert FileSwitch(long).enable("new").reason == "new"


def test_enable_works_in_a_directory_that_may_not_be_listed(path, monkeypatch):
    opened = os.open

    def deny(name, flags, *args, **options):
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(name, flags, *args, **options)

    monkeypatch.setattr(os, "open", deny)
    switch = FileSwitch(path)
    assert switch.enable("new").mode is RO
    assert switch.disable().mode is RW


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_directory_that_fails_to_reach_the_disk_is_an_error_where_it_could(
    path, monkeypatch, number, raised
):
    fsync = os.fsync

    def fail(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    switch = FileSwitch(path)
    with pytest.raises(OSError, match="Input/output") if raised else contextlib.nullcontext():
        switch.enable("new")
    assert switch.check().reason == "new"


def test_enable_and_disable_bring_the_directory_to_the_disk(path, monkeypatch):
    synced = []
    fsync = os.fsync

    def note(descriptor):
        synced.append(
            os.path.isdir(f"/proc/self/fd/{descriptor}") if os.path.isdir("/proc") else None
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    switch = FileSwitch(path)
    switch.enable()
    switch.disable()
    assert synced == [False, True, True]


@pytest.mark.parametrize(
    ("reason", "until", "message"),
    [
        ("x" * 4096, None, "reason is too long: 4097 bytes, of which 4096 would be read."),
        ("a\nUntil: 2030-01-01", None, "reason has a line that would be read as until."),
        ("a\udc80", None, "surrogates not allowed"),
        ("a", datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))), "until is out of range"),
    ],
)
def test_enable_refuses_what_would_be_read_otherwise_and_writes_nothing(
    path, reason, until, message
):
    with pytest.raises(ValueError, match=message):
        FileSwitch(path).enable(reason, until)
    assert os.listdir(path.parent) == []


# -- forking ----------------------------------------------------------------------------------


@pytest.fixture
def held(path):
    """A switch all of whose locks are held by a thread while the test forks."""
    switch = FileSwitch(path, ttl=0)
    ready, done = threading.Event(), threading.Event()

    def hold():
        with switch._locks.state, switch._locks.refreshing, switch._locks.telling:
            switch._locks.turning = True
            ready.set()
            done.wait(BOUND)
            switch._locks.turning = False

    threads, _ = in_threads(1, hold)
    assert ready.wait(BOUND)
    yield switch
    done.set()
    join(threads)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("first", ["check", "refresh", "subscribe"])
def test_a_forked_child_waits_for_no_lock_of_a_thread_it_does_not_have(held, path, first):
    def child():
        path.touch()
        if first == "subscribe":
            held.subscribe(nothing, nothing)
        state = held.state if first == "refresh" else held.check()
        return 0 if state.read_only and not held._locks.turning else 1

    assert in_child(child) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_threads_of_a_forked_child_share_their_locks(held):
    def child():
        make, barrier = switch_module._Locks, threading.Barrier(4)

        def make_together():  # all have compared the pid before one has noted it
            barrier.wait(BOUND)
            return make()

        def ask():
            held._follow_fork()
            return held._locks

        switch_module._Locks = make_together
        threads, results = in_threads(4, ask)
        join(threads)
        return 0 if len(set(results)) == 1 else 1

    assert in_child(child) == 0


def test_a_forked_child_closes_the_gates_its_parent_was_about_to_close(path):
    switch = FileSwitch(path)
    turned = []
    forked = []

    def gate(state):
        turned.append(state.mode)
        if state.read_only and not forked:  # the fork comes between publishing and this gate
            forked.append(True)
            known = switch.known

            def child():
                turned.clear()
                switch._follow_fork()
                return 0 if known.read_only and turned == [RO] else 1

            forked.append(in_child(child))

    switch.subscribe(gate, nothing)
    path.touch()
    switch.check()
    assert forked == [True, 0]


def test_a_forked_child_looks_and_tells_for_itself(path, log):
    switch = FileSwitch(path)
    told = Told(switch)

    def child():
        path.touch()
        switch.check()
        return len([event for event in told.events if event[0] == "tell"])

    assert in_child(child) == 1
    assert told.events == []
    assert switch.check().mode is RO
    assert [level for level, _ in log()] == ["WARNING"]


# -- the parser -------------------------------------------------------------------------------

EIGHT = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "until: 2026-11-22T08:00:00Z",
        "until: 2026-11-22T08:00Z",
        "Until : 2026-11-22t08:00z",
        "  UNTIL:2026-11-22 08:00:00 Z  ",
        "until: 2026-11-22T08:00:00.000+00:00",
        "until: 2026-11-22T08:00:00,000000000+00:00",
        "until: 2026-11-22T10:00+02:00",
        "until: 2026-11-22T10:00:00+0200",
        "until: 2026-11-22T10+02",
        "until: 2026-11-22 02:30 -05:30",
        "until: 20261122T080000Z",
        "\ufeffuntil: 2026-11-22T08Z",
    ],
)
def test_until_is_read_in_each_iso_8601_spelling_and_told_in_utc(text):
    reason, until, _ = _parse(f"{text}\r\nwhy\r\n".encode())
    assert (reason, until) == ("why", EIGHT)
    assert until.tzinfo is UTC


def test_a_time_without_offset_is_local_time(monkeypatch):
    monkeypatch.setenv("TZ", "XXX-03")
    time.tzset()
    try:
        assert _parse(b"until: 2026-11-22T11:00").until == EIGHT
        assert _parse(b"until: 2026-11-22").until == EIGHT - timedelta(hours=11)
        assert _format(None, datetime(2026, 11, 22, 11)) == b"until: 2026-11-22T11:00:00+03:00\n"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "garbage",
    [
        "tomorrow",
        "",
        "2026-13-01",
        "2026-02-30T00:00Z",
        "2026-11-22T24:00Z",
        "2026-11-22T08:60Z",
        "2026-11-22T08:00+99:00",
        "0001-01-01T00:00+14:00",
        "9999-12-31T23:00-14:00",
        "2026-11-22T08:00Z or so",
        "\u0662\u0660\u0662\u0666-11-22",
    ],
)
def test_an_until_that_is_no_time_stays_in_the_reason(garbage):
    text = f"why\nuntil: {garbage}".strip()
    assert _parse(text.encode()) == (text, None, None)


def test_of_several_until_lines_the_first_good_one_counts():
    text = b"until: soon\nuntil: 2026-11-22T08:00Z\nuntil: 2027-01-01\n"
    assert _parse(text) == ("until: soon\nuntil: 2027-01-01", EIGHT, None)


def test_bytes_that_are_no_utf_8_are_shown_as_such():
    assert _parse(b"caf\xe9\xff ok").reason == "caf\ufffd\ufffd ok"


quick = settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
DATES = st.datetimes(
    min_value=datetime(1980, 1, 1),
    max_value=datetime(9990, 1, 1),
    timezones=st.just(UTC)
    | st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-1000, 1000)),
)


@quick
@given(st.binary() | st.builds(lambda b: b"until:" + b, st.binary()))
def test_no_bytes_at_all_make_the_parser_raise(content):
    reason, until, problem = _parse(content)
    assert reason is None or reason == reason.strip() != ""
    assert until is None or until.tzinfo is UTC
    assert problem is None


@quick
@given(st.text(alphabet="0123456789-+:.,TZ tz", max_size=30))
def test_nothing_that_resembles_a_time_makes_the_parser_raise(text):
    until = _parse(f"until: {text}".encode()).until
    assert until is None or until.tzinfo is UTC


@quick
@given(st.none() | st.text(alphabet=string.printable + "äß€🎉:", max_size=200), st.none() | DATES)
def test_what_is_written_is_read_back(reason, until):
    read = _parse(_format(reason, until))
    lines = (reason or "").strip().splitlines()
    assert read.reason == ("\n".join(lines).strip() or None)
    assert read.until == until


@quick
@given(st.integers(0, 2**32))
def test_any_order_of_events_ends_in_the_truth(tmp_path_factory, seed):
    """Looks of many threads, interleaved at random with what happens to the file."""
    dice = random.Random(seed)
    path = tmp_path_factory.mktemp("any") / "ro"
    switch = FileSwitch(path, ttl=0)
    told = Told(switch)
    clock = switch._checked
    looks = []
    for _ in range(12):
        what = dice.choice(("touch", "unlink", "begin", "end", "end"))
        if what == "touch":
            path.touch()
        elif what == "unlink":
            path.unlink(missing_ok=True)
        elif what == "begin":
            clock += 1
            looks.append((switch._examine(), clock))
        elif looks:
            switch._apply(*looks.pop(dice.randrange(len(looks))))
            switch._tell()
    clock += 1
    switch._apply(switch._examine(), clock)
    clock += 1
    switch._apply(switch._examine(), clock)
    switch._tell()
    assert switch.known.read_only is path.exists()
    assert [event[0] for event in told.events] == ["gate", "tell"] * (len(told.events) // 2)
    tells = [event for event in told.events if event[0] == "tell"]
    before = "read-write"
    for _, old, new in tells:
        assert (old, old != new) == (before, True)
        before = new
    assert before == str(switch.known.mode)


def test_the_state_is_frozen_and_overdue_only_past_until(path):
    switch = FileSwitch(path)
    now = datetime.now(UTC)
    assert switch.enable(until=now - timedelta(hours=1)).overdue
    assert switch.check().mode is RO
    assert not switch.enable(until=now + timedelta(hours=1)).overdue
    assert not State(RW, until=now - timedelta(hours=1)).overdue


def test_identify_asks_the_file_system_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "read-only.txt"
    switch = FileSwitch(path, ttl=60)
    known = switch.known
    assert switch.identify() is None
    path.touch()
    generation = switch.identify()
    assert switch.known is known
    assert generation == switch.check().generation
    path.write_text("another text")
    assert switch.identify() not in (None, generation)


def test_identify_raises_where_the_directory_is_gone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    switch = FileSwitch(tmp_path / "there" / "read-only.txt")
    (tmp_path / "there").rmdir()
    with pytest.raises(FileNotFoundError):
        switch.identify()
