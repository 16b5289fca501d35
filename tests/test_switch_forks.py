"""FileSwitch: what a forked child inherits and what it does for itself."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest
from sqlalchemy.orm import sessionmaker

from sa_readonly import EngineSelector, RoutingSession, forks
from sa_readonly.switch import FileSwitch
from tests.app import WHICH, lite, place
from tests.switches import (
    BOUND,
    RO,
    Told,
    clock,
    in_child,
    in_threads,
    join,
    log,
    nothing,
    path,
)

__all__ = ["clock", "lite", "log", "path", "place"]  # fixtures


@pytest.fixture
def held(path):
    """A switch all of whose locks are held by a thread while the test forks."""
    switch = FileSwitch(path, ttl=0)
    ready, done = threading.Event(), threading.Event()

    def hold():
        with switch._state(), switch._refreshing(), switch._telling._lock():
            switch._turning = True
            ready.set()
            done.wait(BOUND)
            switch._turning = False

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
        return 0 if state.read_only and not held._turning else 1

    assert in_child(child) == 0


def test_a_forked_child_looks_ahead_though_a_thread_of_its_parent_did(path, clock):
    switch = FileSwitch(path, ttl=10)
    path.touch()
    clock.now += 7
    with switch._refreshing():
        assert in_child(lambda: 0 if switch.refresh().read_only else 1) == 0


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
                return 0 if known.read_only and turned[2:] == [RO] else 1

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


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_waits_for_no_lock_of_a_pool_of_its_parent(lite):
    forked = []

    def gate(state):
        if state.read_only and not forked:  # before the pool's gate is closed
            forked.append(True)
            with hold(lite.engines["rw"].pool._overflow_lock):
                forked.append(in_child(child))

    def child():
        with lite.sessions() as session:
            return 0 if session.scalar(WHICH) == "ro" else 1

    class Bounded:  # where a hook in the child hangs, os.fork() does not return there
        def __init__(self):
            forks.subscribe(in_child=self.bound)

        def bound(self):
            signal.alarm(BOUND)

    bounded = Bounded()
    switch = FileSwitch(lite.path, ttl=0)
    switch.subscribe(gate, nothing)
    engines = [lite.engine(name) for name in ("rw", "ro")]
    lite.selector = EngineSelector(switch, read_write=engines[0], read_only=engines[1], watch=False)
    lite.sessions = sessionmaker(lite.selector, class_=RoutingSession)
    with lite.sessions() as session:
        assert session.scalar(WHICH) == "rw"
    lite.on()
    lite.selector.check()
    assert forked == [True, 0]
    assert bounded


@contextlib.contextmanager
def hold(lock):
    """Have another thread hold a lock."""
    held, done = threading.Event(), threading.Event()

    def work():
        with lock:
            held.set()
            done.wait(BOUND)

    threads, _ = in_threads(1, work)
    assert held.wait(BOUND)
    yield
    done.set()
    join(threads)
