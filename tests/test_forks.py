"""Forks: what a child does first, and that it waits for no lock of a thread it does not have."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator

import pytest

from sa_readonly import forks
from tests.worker_process import without_hooks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

BOUND = 10  # seconds


class Subscriber:
    """Notes what it was told, and by which process."""

    def __init__(self) -> None:
        self.told: list[str] = []
        forks.subscribe(before=self.before, in_parent=self.in_parent, in_child=self.in_child)

    def before(self) -> None:
        self.told.append("before")

    def in_parent(self) -> None:
        self.told.append("parent")

    def in_child(self) -> None:
        self.told.append("child")


def in_child(work: Callable[[], None], fork: Callable[[], int] = os.fork) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: a thread runs at the fork
        pid = fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(BOUND)
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # it must not go on as pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def in_thread() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Enter context managers in a thread, which stays inside until the test ends."""
    end = threading.Event()
    threads = []

    def start(enter: Callable[[], object]) -> None:
        inside = threading.Event()

        def stay() -> None:
            with enter():
                inside.set()
                end.wait(BOUND)

        threads.append(threading.Thread(target=stay))
        threads[-1].start()
        assert inside.wait(BOUND)

    yield start
    end.set()
    for thread in threads:
        thread.join()


# -- the hook ---------------------------------------------------------------------------------


def test_a_subscriber_is_told_around_a_fork_on_both_sides() -> None:
    one = Subscriber()

    def child() -> None:
        forks.follow()  # once, by the hook
        assert one.told == ["before", "child"]

    in_child(child)
    forks.follow()
    assert one.told == ["before", "parent"]


def test_a_child_that_no_hook_tells_follows_when_it_is_asked_and_once() -> None:
    one = Subscriber()

    def child() -> None:
        assert one.told == []
        forks.follow()
        forks.follow()
        assert one.told == ["child"]

    in_child(child, without_hooks)
    assert one.told == []


def test_a_grandchild_is_told_as_a_child_is() -> None:
    one = Subscriber()

    def child() -> None:
        in_child(grandchild)
        assert one.told == ["before", "child", "before", "parent"]

    def grandchild() -> None:
        assert one.told == ["before", "child", "before", "child"]

    in_child(child)


def test_the_threads_of_a_child_go_on_when_all_subscribers_were_told() -> None:
    class Slow:
        def __init__(self) -> None:
            self.calls = 0
            self.begun, self.go_on = threading.Event(), threading.Event()
            forks.subscribe(in_child=self.follow)

        def follow(self) -> None:
            forks.follow()  # as what it calls may do, in this thread
            self.calls += 1
            self.begun.set()
            assert self.go_on.wait(BOUND)

    slow, last = Slow(), Subscriber()

    def child() -> None:
        done = threading.Event()

        def second() -> None:
            forks.follow()
            assert last.told == ["child"]
            done.set()

        threads = [threading.Thread(target=forks.follow), threading.Thread(target=second)]
        threads[0].start()
        assert slow.begun.wait(BOUND)
        threads[1].start()
        assert not done.is_set()
        slow.go_on.set()
        for thread in threads:
            thread.join()
        assert done.is_set()
        assert slow.calls == 1

    in_child(child, without_hooks)


def test_what_comes_last_in_a_child_comes_when_all_have_left_the_rest_to_the_parent() -> None:
    told: list[str] = []

    class Both:
        def __init__(self, name: str) -> None:
            self.name = name
            forks.subscribe(in_child=self.leave, last_in_child=self.use)

        def leave(self) -> None:
            told.append(f"{self.name} leaves")

        def use(self) -> None:
            told.append(f"{self.name} uses")

    both = Both("one"), Both("other")

    def child() -> None:
        forks.follow()
        assert told == ["one leaves", "other leaves", "one uses", "other uses"]

    for fork in (os.fork, without_hooks):
        in_child(child, fork)
    assert both
    assert told == []


def test_before_a_fork_the_last_subscriber_is_told_first_and_after_it_the_first() -> None:
    told: list[str] = []

    class Noting:
        def __init__(self, name: str) -> None:
            self.name = name
            forks.subscribe(before=self.before, in_parent=self.after, in_child=self.after)

        def before(self) -> None:
            told.append(f"{self.name} before")

        def after(self) -> None:
            told.append(f"{self.name} after")

    both = Noting("one"), Noting("other")

    def child() -> None:
        assert told == ["other before", "one before", "one after", "other after"]

    in_child(child)
    assert both
    child()


def test_what_a_subscriber_raises_is_logged_and_the_others_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def __init__(self) -> None:
            forks.subscribe(in_child=self.follow)

        def follow(self) -> None:
            raise RuntimeError("broken")

    broken, one = Broken(), Subscriber()

    def child() -> None:
        assert one.told == ["before", "child"]
        assert [r.message for r in caplog.records] == ["What was to be done at a fork failed."]

    in_child(child)
    assert broken is not None


def test_a_subscriber_that_is_collected_is_forgotten() -> None:
    gc.collect()
    before = len(forks._before), len(forks._in_parent), len(forks._in_child)

    class Gone(Subscriber):  # whose class is collected with it
        pass

    one = Gone()
    del one, Gone
    gc.collect()
    # Those of earlier tests may be forgotten meanwhile.
    now = len(forks._before), len(forks._in_parent), len(forks._in_child)
    assert all(one <= other for one, other in zip(now, before, strict=True))


def test_importing_sets_no_hook() -> None:
    program = (
        "import os\n"
        "hooks = []\n"  # logging and random have theirs
        "os.register_at_fork = lambda **those: hooks.extend(f.__module__ for f in those.values())\n"
        "import sa_readonly.forks as forks\n"
        "assert 'sa_readonly.forks' not in hooks, hooks\n"
        "class One:\n"
        "    def told(self): pass\n"
        "one, two = One(), One()\n"
        "forks.subscribe(in_child=one.told); forks.subscribe(in_child=two.told)\n"
        "assert hooks.count('sa_readonly.forks') == 3, hooks  # before, and after on both sides\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# -- locks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fork", [os.fork, without_hooks])
def test_a_childs_lock_is_free_though_a_thread_of_the_parent_holds_its_own(
    in_thread: Callable[[Callable[[], object]], None], fork: Callable[[], int]
) -> None:
    own = forks.PerProcess(threading.RLock)
    in_thread(own)
    assert not own().acquire(blocking=False)

    def child() -> None:
        assert own().acquire(blocking=False)

    in_child(child, fork)


def test_the_threads_of_a_child_share_one_lock() -> None:
    barrier = threading.Barrier(4)
    parents = os.getpid()

    def make() -> object:
        if os.getpid() != parents:  # all have found none before one has made it
            barrier.wait(BOUND)
        return threading.RLock()

    own = forks.PerProcess(make)
    own()

    def child() -> None:
        got: list[object] = []
        threads = [threading.Thread(target=lambda: got.append(own())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 4
        assert len(set(got)) == 1
        assert list(own._values) == [os.getpid()]

    in_child(child)


def test_a_lock_that_is_not_had_in_time_is_not_released(
    in_thread: Callable[[Callable[[], object]], None],
) -> None:
    lock = threading.RLock()
    in_thread(lambda: lock)
    with forks.locked(lock, 0) as taken:
        assert not taken
    assert not lock.acquire(blocking=False)


def test_a_lock_inside_itself_is_released_as_often_as_it_was_acquired() -> None:
    lock = threading.RLock()
    with forks.locked(lock) as outer:
        with forks.locked(lock) as inner:
            assert outer
            assert inner
        assert forks.is_mine(lock)
    assert not forks.is_mine(lock)


# -- the latch --------------------------------------------------------------------------------


def test_a_thread_that_comes_to_a_latch_makes_the_one_at_work_do_it_once_more() -> None:
    latch, begun, go_on = forks.Latch(), threading.Event(), threading.Event()
    by: list[threading.Thread] = []

    def work() -> None:
        by.append(threading.current_thread())
        begun.set()
        assert go_on.wait(BOUND)

    worker = threading.Thread(target=latch.run, args=(work,))
    worker.start()
    assert begun.wait(BOUND)
    latch.run(work)  # without waiting for that thread
    latch.run(work)
    go_on.set()
    worker.join()
    assert by == [worker, worker]


def test_work_that_leads_to_its_own_latch_is_done_once_more_and_not_inside_itself() -> None:
    latch = forks.Latch()
    depth: list[str] = []

    def work() -> None:
        depth.append("begins")
        if len(depth) == 1:
            latch.run(work)
        depth.append("ends")

    latch.run(work)
    assert depth == ["begins", "ends"] * 2


def test_a_latch_whose_work_raised_works_again() -> None:
    latch, done = forks.Latch(), []
    with pytest.raises(ZeroDivisionError):
        latch.run(lambda: 1 / 0)
    latch.run(lambda: done.append(1))
    assert done == [1]


def test_a_childs_latch_is_free_though_a_thread_of_the_parent_is_at_work() -> None:
    latch, begun, go_on = forks.Latch(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(BOUND)

    worker = threading.Thread(target=latch.run, args=(work,))
    worker.start()
    assert begun.wait(BOUND)
    begun.clear()

    def child() -> None:
        go_on.set()
        latch.run(work)
        assert begun.is_set()

    in_child(child)
    go_on.set()
    worker.join()
