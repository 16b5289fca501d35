"""The thread that notices a flip when no traffic does."""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import event, text

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    FixedSwitch,
    Mode,
    ReadOnlyError,
    State,
)
from sa_readonly.mode import clock
from sa_readonly.subscribers import BaseSwitch
from sa_readonly.workers.worker import worker_of
from tests.app import WHICH, App, make_app
from tests.postgres import wait_until


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sa_readonly"]


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    gc.collect()
    for thread in threads():  # of an earlier test
        thread.join(10)
    assert threads() == []
    yield
    gc.collect()
    for thread in threads():
        thread.join(10)
    assert threads() == []


def read(app: App) -> str:
    with app.sessions() as session:
        return str(session.scalar(WHICH))


def test_the_first_transaction_starts_it_and_closing_ends_it(lite: App) -> None:
    lite.start(ttl=0.02, watch=True)
    assert threads() == []
    assert read(lite) == "rw"
    (thread,) = threads()
    assert thread.daemon
    read(lite)
    assert threads() == [thread]
    lite.selector.close()
    assert threads() == []
    assert not thread.is_alive()


def test_an_idle_process_notices_a_flip_and_closes_its_connections(app: App) -> None:
    closed, noticed = threading.Event(), threading.Event()
    app.start(ttl=0.02, watch=True)
    event.listen(app.engines["rw"].pool, "close", lambda *_: closed.set())
    app.selector.on_flip(lambda _old, _new: noticed.set())
    assert read(app) == "rw"
    app.on()
    assert noticed.wait(10)
    assert closed.wait(10)
    with pytest.raises(ReadOnlyError):
        app.engines["rw"].connect()


def test_a_connection_that_comes_back_after_its_pool_was_retired_is_forgotten(lite: App) -> None:
    lite.start(ttl=0.02, watch=True)
    with lite.sessions() as session:
        session.scalar(WHICH)
        pool = weakref.ref(lite.engines["rw"].pool)
        lite.on()
        lite.selector.check()
    lite.selector.check()

    def forgotten() -> bool:
        gc.collect()
        return pool() is None

    wait_until(forgotten, "the end of a look that the thread has under way")


def test_selectors_with_one_switch_share_one_thread(lite: App) -> None:
    lite.start(ttl=0.02, watch=True)
    second = EngineSelector(
        lite.selector.switch, read_write=lite.engines["rw"], read_only=lite.engines["ro"]
    )
    assert (read(lite), second.mode) == ("rw", Mode.READ_WRITE)
    (thread,) = threads()
    lite.selector.close()
    assert threads() == [thread]
    second.close()
    assert threads() == []


def test_it_ends_when_the_selector_is_collected(lite: App) -> None:
    lite.start(ttl=0.02, watch=True)
    read(lite)
    (thread,) = threads()
    lite.selector = lite.sessions = None
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_watch_false_starts_none_and_the_mode_is_right_all_the_same(lite: App) -> None:
    lite.start(ttl=0, watch=False)
    assert read(lite) == "rw"
    lite.on()
    assert read(lite) == "ro"
    assert threads() == []


def test_a_fixed_switch_is_not_watched(lite: App) -> None:
    with EngineSelector(
        FixedSwitch(Mode.READ_WRITE), read_write=lite.engine("rw"), read_only=lite.engine("ro")
    ) as selector:
        assert not selector.read_only
        assert threads() == []


def test_an_idle_process_has_the_next_answer_before_the_last_one_is_as_old_as_ttl(
    lite: App,
) -> None:
    asked: list[float] = []
    four = threading.Event()

    class Slow(BaseSwitch):
        def __init__(self) -> None:
            super().__init__("slow", ttl=0.4, fence=10.0)
            self.learn(State(Mode.READ_WRITE), clock())

        def check(self) -> State:
            began = clock()
            if threading.current_thread().name == "sa_readonly":
                asked.append(began)
                threading.Event().wait(0.25)  # so long does a look take
            self.learn(State(Mode.READ_WRITE), began)
            if len(asked) == 4:
                four.set()
            return self.known

    switch = Slow()
    with EngineSelector(
        switch, read_write=lite.engine("rw"), read_only=lite.engine("ro")
    ) as selector:
        assert not selector.read_only
        assert four.wait(10)
    # The least, as a busy machine may delay a thread.
    assert min(after - before for before, after in pairwise(asked)) < switch.ttl


def test_what_a_look_raises_is_logged_and_the_thread_goes_on(
    lite: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.start(ttl=0.02, watch=True)
    read(lite)
    again = threading.Event()
    real = type(lite.selector.switch).refresh
    broken = []

    def refresh(switch: Any) -> Any:
        if threading.current_thread().name == "sa_readonly":
            if not broken:
                broken.append(True)
                raise RuntimeError("broken")
            again.set()
        return real(switch)

    monkeypatch.setattr(type(lite.selector.switch), "refresh", refresh)
    assert again.wait(10)
    assert [r.levelname for r in caplog.records if "watcher's look failed" in r.message] == [
        "ERROR"
    ]


def test_watch_must_be_a_bool(lite: App) -> None:
    with pytest.raises(ConfigurationError, match=r"EngineSelector\(watch\) takes True or False"):
        lite.start(watch=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_gets_a_thread_of_its_own_and_the_parent_keeps_one(lite: App) -> None:
    lite.start(ttl=0.02, watch=True)
    read(lite)
    assert len(threads()) == 1

    def child() -> None:
        lite.engines["rw"].dispose(close=False)
        lite.engines["ro"].dispose(close=False)
        assert threads() == []
        noticed = threading.Event()
        lite.selector.on_flip(lambda _old, _new: noticed.set())
        assert read(lite) == "rw"
        assert len(threads()) == 1
        lite.on()
        assert noticed.wait(10)

    in_child(child)
    assert len(threads()) == 1
    deadline = time.monotonic() + 10
    while not lite.selector.switch.known.read_only:
        assert time.monotonic() < deadline
    assert read(lite) == "ro"


def test_a_fork_gives_no_warning_though_a_thread_runs(lite: App) -> None:
    # Python 3.12 warns, and warnings are errors here.
    lite.start(ttl=0.02, watch=True)
    read(lite)
    in_child(lambda: None)
    assert worker_of(lite.selector.switch).watcher.running


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_forks_more_often_than_it_looks_notices_a_flip(lite: App) -> None:
    lite.start(ttl=0.5, watch=True)
    read(lite)
    lite.on()
    end = time.monotonic() + 30
    while not lite.selector.switch.known.read_only:  # which does not look
        assert time.monotonic() < end
        in_child(lambda: None)  # far less than the ttl


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_thread_whose_look_hangs_over_a_fork_is_replaced(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_readonly.workers.watcher._JOIN", 0.01)
    lite.start(ttl=0.02, watch=True)
    read(lite)
    watcher: Any = worker_of(lite.selector.switch).watcher
    hangs, goes_on = threading.Event(), threading.Event()

    def tick() -> None:
        del watcher.tick
        hangs.set()
        goes_on.wait(30)

    watcher.tick = tick
    assert hangs.wait(30)
    in_child(lambda: None)
    goes_on.set()
    lite.on()
    wait_until(lambda: lite.selector.switch.known.read_only, "the flip to be noticed")


def in_child(work: Callable[[], None], fork: Callable[[], int] = os.fork) -> None:
    pid = fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # it must not go on as pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_forked_child_leaves_the_twins_connections_to_its_parent(
    pg_urls: Any, place: Any
) -> None:
    with make_app(place, {"rw": pg_urls["rw"]}) as app:
        app.start(ttl=0.02, watch=True)
        app.on()

        def backend() -> Any:
            with app.sessions() as session:
                return session.scalar(text("select pg_backend_pid()"))

        mine = backend()

        def child() -> None:
            assert backend() != mine
            app.selector.close()

        in_child(child)
        assert backend() == mine
