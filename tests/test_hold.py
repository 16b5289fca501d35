"""The queue of those that are held: order, turns, budget, limit, and the one that looks for all."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakSet

import pytest

from sa_readonly import ConfigurationError, EngineSelector, FixedSwitch, Mode
from sa_readonly.engines import loops
from sa_readonly.hold import count
from sa_readonly.hold.count import add, held
from sa_readonly.hold.queue import Queue
from sa_readonly.hold.ticket import Gone, Sleeper, Ticket
from sa_readonly.mode import now
from sa_readonly.workers.status import take
from tests.app import SECONDS, App, make_app, need, sqlite_urls
from tests.postgres import wait_until
from tests.workers import in_child


class Night:
    """An application that is read-only, and what is held in it."""

    def __init__(self, app: App, **options: Any) -> None:
        app.on()
        options.setdefault("max_held", 10)
        self.app = app.start(**options)
        self.threads: list[threading.Thread] = []
        self.told: list[Any] = []

    @property
    def selector(self) -> EngineSelector:
        selector: EngineSelector = self.app.selector
        return selector

    @property
    def queue(self) -> Queue:
        return self.selector.held

    @property
    def number(self) -> int:
        return self.queue.held[0]

    def wait(self, name: object, hold: float = SECONDS, after: Callable[[], object] = int) -> None:
        """Have a thread wait, and tell its name, and why it was refused, when it is let go."""

        def work() -> None:
            ticket = self.queue.ticket(hold)
            why = self.queue.wait(ticket)
            self.told.append(name if why is None else (name, why))
            after()
            self.queue.end(ticket)

        before = self.number
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        wait_until(lambda: self.number > before or not self.threads[-1].is_alive(), "it waits")

    def end(self) -> list[Any]:
        """Have it read-write again, and return what was told."""
        self.app.off()
        self.selector.check()
        return self.join()

    def join(self) -> list[Any]:
        for thread in self.threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        return self.told


def running() -> Counter[str]:
    """The threads by name: one of an earlier test's selector is another one after a fork."""
    return Counter(one.name for one in threading.enumerate())


@pytest.fixture
def night(lite: App) -> Iterator[Night]:
    before = running()
    made = Night(lite)
    yield made
    lite.selector.close()  # where a test failed, too, no thread is left
    made.join()
    wait_until(lambda: not running() - before, "no thread is left")


def test_they_are_let_go_in_the_order_in_which_they_came(night: Night) -> None:
    for name in range(5):
        night.wait(name)
    assert night.end() == [0, 1, 2, 3, 4]
    assert not night.queue.busy


def test_one_has_a_turn_at_a_time(night: Night) -> None:
    going: list[int] = []

    def go() -> None:
        going.append(1)
        night.told.append(len(going))
        going.pop()

    for name in "ab":
        night.wait(name, after=go)
    assert night.end() == ["a", 1, "b", 1]


def test_a_turn_ends_after_100_ms_at_the_latest(night: Night) -> None:
    second = threading.Event()
    night.wait("slow", after=lambda: second.wait(SECONDS))
    night.wait("next", after=second.set)
    began = time.monotonic()
    assert night.end() == ["slow", "next"]
    assert 0.09 < time.monotonic() - began < 5


def test_a_hold_of_centuries_is_slept_through_as_well(night: Night) -> None:
    for name in "ab":  # the second only sleeps: the first one looks for both
        night.wait(name, hold=1e11)
    assert night.end() == ["a", "b"]


def test_one_whose_hold_ends_is_refused_and_the_others_wait_on(night: Night) -> None:
    night.wait("long")
    night.wait("short", hold=0.02)
    wait_until(lambda: night.told, "its hold ends")
    assert night.told == [("short", "It was held for 0.02 s.")]
    assert night.end()[1:] == ["long"]


def test_the_budget_is_one_however_often_it_waits(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = night.queue.ticket(0.02)
    assert night.queue.wait(ticket) == "It was held for 0.02 s."
    monkeypatch.delattr("sa_readonly.hold.ticket.Sleeper.sleep")  # it would fail where it waits
    assert night.queue.wait(ticket) == "It was held for 0.02 s."


def test_the_budget_goes_on_to_be_spent_while_it_goes_on(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = night.queue.ticket(SECONDS)
    night.threads.append(threading.Thread(target=night.queue.wait, args=(ticket,)))
    night.threads[-1].start()
    wait_until(lambda: night.number, "it waits")
    night.end()
    night.queue.end(ticket)
    night.app.on()
    night.selector.check()
    at = time.monotonic()
    monkeypatch.setattr("sa_readonly.hold.ticket.time.monotonic", lambda: at + SECONDS)
    assert night.queue.wait(ticket) == f"It was held for {SECONDS:g} s."


def test_one_that_waits_on_has_what_is_left_of_its_budget(night: Night) -> None:
    ticket, ends = night.queue.ticket(SECONDS), set()
    for _ in range(2):
        night.threads.append(threading.Thread(target=night.queue.wait, args=(ticket,)))
        night.threads[-1].start()
        wait_until(lambda: night.number, "it waits")
        ends.add(ticket.deadline)
        night.end()
        night.queue.end(ticket)
        night.app.on()
        night.selector.check()
    assert len(ends) == 1


def test_one_that_waits_on_has_its_old_place(night: Night) -> None:
    first = night.queue.ticket(SECONDS)
    night.wait("second")
    done = threading.Event()

    def wait_on() -> None:
        night.queue.wait(first)
        night.told.append("first")
        night.queue.end(first)
        done.set()

    night.threads.append(threading.Thread(target=wait_on))
    night.threads[-1].start()
    wait_until(lambda: night.number == 2, "both wait")
    assert night.end() == ["first", "second"]


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_more_than_max_held_are_refused_at_once(lite: App, kind: str) -> None:
    night = Night(lite, max_held=2)
    night.wait("a")
    night.wait("b")
    ticket, queue = night.queue.ticket(SECONDS), night.queue
    why = queue.wait(ticket) if kind == "threads" else asyncio.run(queue.wait_as_task(ticket))
    assert why == "It was not held, as 2 are held in this process: max_held=2."
    assert night.end() == ["a", "b"]


def test_what_other_selectors_of_the_process_hold_counts_for_max_held(
    lite: App, place: Path
) -> None:
    night = Night(lite, max_held=3)
    (place / "other").mkdir()
    with make_app(place / "other", sqlite_urls(place / "other", "rw", "ro")) as second:
        other = Night(second, max_held=2)
        night.wait("a")
        night.wait("b")
        other.wait("c")
        assert other.told == [("c", "It was not held, as 2 are held in this process: max_held=2.")]
        night.wait("d")
        assert night.end() == ["a", "b", "d"]
        other.wait("e")
        assert other.end()[1:] == ["e"]


def test_a_log_handler_that_is_held_itself_locks_nothing(lite: App) -> None:
    night = Night(lite, max_held=1)
    reached: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            del record
            other = threading.Thread(target=night.queue.turned, daemon=True)
            other.start()
            other.join(0.5)
            reached.append(other.is_alive())

    handler = Handler()
    logging.getLogger("sa_readonly").addHandler(handler)
    try:
        night.wait("a")
        night.wait("b")
        assert reached == [False]
    finally:
        logging.getLogger("sa_readonly").removeHandler(handler)
        night.end()


def test_a_flip_back_while_more_than_max_held_queue_refuses_the_last_of_them(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_readonly.hold.queue.TURN", SECONDS)
    night = Night(lite, max_held=2)
    slow = threading.Event()
    night.wait("slow", after=lambda: slow.wait(SECONDS))  # it keeps its turn: the next ones queue
    night.app.off()
    night.selector.check()
    wait_until(lambda: night.told, "it has its turn")
    for name in "abc":
        night.wait(name)
    assert night.number == 3
    night.app.on()
    night.selector.check()
    night.threads[-1].join(SECONDS)
    assert night.told[1:] == [("c", "It was not held, as 2 are held in this process: max_held=2.")]
    slow.set()
    assert night.end()[2:] == ["a", "b"]


def test_what_came_since_goes_on_at_once_when_the_last_that_was_held_has_had_its_turn(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_readonly.hold.queue.TURN", 2 * SECONDS)
    late = threading.Barrier(4)

    def others_come() -> None:
        night.selector.check()
        for name in "abc":
            night.wait(name, after=lambda: late.wait(SECONDS))

    night.wait("held", after=others_come)
    night.app.off()
    night.selector.check()
    late.wait(SECONDS)  # all three, and none has ended a turn
    assert not night.queue.must_wait(night.selector.known)
    assert sorted(night.join()) == ["a", "b", "c", "held"]


def test_what_comes_while_they_are_let_go_queues_behind(night: Night) -> None:
    seen: list[object] = []

    def look() -> None:
        state = night.selector.check()
        seen.append((state.read_only, night.queue.must_wait(state)))
        night.wait("late")

    night.wait("first", after=look)
    night.wait("second")
    assert night.end() == ["first", "second", "late"]
    assert seen == [(False, True)]


def test_what_has_a_turn_does_not_queue_behind_itself(night: Night) -> None:
    ticket = night.queue.ticket(SECONDS)
    night.app.off()
    night.wait("it ends at once")
    night.selector.check()
    night.join()
    with night.queue.going(ticket):
        assert not night.queue.must_wait(night.selector.known)


def test_what_is_held_in_a_request_has_no_more_than_its_own_budget_and_that() -> None:
    for ticket in (Ticket(1, Ticket(SECONDS)), Ticket(SECONDS, Ticket(1))):
        assert ticket.begin(Sleeper()) == pytest.approx(ticket.since + 1, abs=0.5)


def test_close_wakes_all_and_they_are_refused(night: Night) -> None:
    night.wait("a")
    night.selector.close()
    closed = "It is held no longer, as its EngineSelector was closed."
    assert night.join() == [("a", closed)]
    assert night.queue.wait(Ticket(1)) == closed


def test_until_decides_whether_it_is_worth_waiting(night: Night) -> None:
    switch: Any = night.selector.switch
    switch.enable("upgrade", now() + timedelta(seconds=60))
    why = night.queue.wait(night.queue.ticket(30))
    assert why is not None
    assert why.startswith("It was not held, as ")
    assert why.endswith(" is later than its hold of 30 s would end.")
    for until in (timedelta(seconds=20), timedelta(seconds=-1)):  # within it, and overdue
        switch.enable("upgrade", now() + until)
        night.wait("a", hold=30)
        assert night.number == 1
        assert night.end() == ["a"]
        night.told.clear()


def test_an_until_that_is_announced_meanwhile_ends_the_waiting_in_vain(night: Night) -> None:
    night.wait("a", hold=SECONDS * 3)  # longer than the next lines wait
    night.wait("b", hold=SECONDS * 9)
    switch: Any = night.selector.switch
    switch.enable("upgrade", now() + timedelta(seconds=SECONDS * 6))
    wait_until(lambda: night.told, "one is refused")
    assert night.told[0][0] == "a"
    assert f" is later than its hold of {SECONDS * 3:g} s would end." in night.told[0][1]
    assert night.end()[1:] == ["b"]


def test_an_end_that_was_announced_once_counts_no_more_at_the_next_flip(night: Night) -> None:
    async def work() -> None:
        ticket = night.queue.ticket(SECONDS)
        first = asyncio.ensure_future(night.queue.wait_as_task(ticket))
        await asyncio.sleep(0)
        night.queue._announce(replace(night.selector.known, until=now() + timedelta(hours=1)))
        night.app.off()
        night.selector.check()
        assert await first is None
        night.app.on()
        night.selector.check()
        again = asyncio.ensure_future(night.queue.wait_as_task(ticket))
        await asyncio.sleep(0)
        night.app.off()
        night.selector.check()
        assert await again is None
        night.queue.end(ticket)

    on_loop(work)


def test_where_the_environment_forces_read_only_nothing_is_held(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", "read-only")
    night = Night(lite)
    night.wait("a", hold=0.2)
    assert night.join() == [
        ("a", "It was not held, as this process is forced to be read-only: that has no end.")
    ]


def test_without_a_watcher_one_looks_for_all_and_hands_that_on(night: Night) -> None:
    looked: list[str] = []
    refresh = night.selector.refresh

    def note() -> Any:
        looked.append(threading.current_thread().name)
        return refresh()

    night.selector.refresh = note  # type: ignore[method-assign]  # the look of this one selector
    for name, hold in (("a", 0.1), ("b", SECONDS), ("c", SECONDS)):
        night.wait(name, hold=hold)
        night.threads[-1].name = name
    wait_until(lambda: night.told, "the one that looks leaves")
    others = len(looked)
    night.app.off()  # no other thread looks
    assert night.join()[1:] == ["b", "c"]
    assert len({*looked[:others]} - {"b", "c"}) == 1
    assert len(looked) > others


def test_with_a_watcher_those_that_wait_sleep_until_the_flip(lite: App) -> None:
    night = Night(lite, watch=True)
    lite.selector.switch.ttl = 0.01
    lite.selector.state  # noqa: B018  # starts the thread
    steps: list[object] = []
    step = night.queue._step

    def count(ticket: Ticket) -> Any:
        steps.append(ticket)
        return step(ticket)

    night.queue._step = count  # type: ignore[method-assign]  # to count how often they wake
    for name in range(4):
        night.wait(name)
    lite.off()
    assert night.join() == [0, 1, 2, 3]
    assert len(steps) <= 16


def test_while_any_wait_a_watcher_looks_twice_in_a_ttl(lite: App) -> None:
    night = Night(lite, watch=True, ttl=0.1)
    watcher = lite.selector._worker.watcher
    assert watcher.interval == 0.1
    night.wait("a")
    assert 0.05 < watcher.interval < 0.06
    night.end()


def test_a_forked_child_begins_with_an_empty_queue(night: Night) -> None:
    night.wait("a")

    def look() -> None:
        assert night.queue.held == (0, 0.0)
        assert not night.queue.busy

    in_child(look)
    assert night.end() == ["a"]


def test_those_held_are_counted_by_the_switch(night: Night) -> None:
    assert held(night.selector.switch) == {"held": 0, "held_since": None}
    before = time.time()
    night.wait("a")
    night.wait("b")
    told = held(night.selector.switch)
    assert told["held"] == 2
    since = told["held_since"]
    assert since is not None
    assert before - 1 < since < time.time()
    night.end()
    assert held(night.selector.switch) == {"held": 0, "held_since": None}


def test_metrics_and_the_report_count_them(night: Night) -> None:
    need("prometheus_client")
    from sa_readonly.metrics import ReadOnlyCollector  # noqa: PLC0415  # where it is installed

    def told() -> dict[str, float]:
        families = ReadOnlyCollector(night.selector).collect()
        return {one.name: one.value for family in families for one in family.samples}

    assert told()["sa_readonly_held"] == 0
    assert "sa_readonly_held_since_timestamp_seconds" not in told()
    before = time.time()
    night.wait("a")
    report = night.selector.report().report
    assert report is not None
    assert report.held == 1
    wait_until(lambda: told()["sa_readonly_held"] == 1, "it is reported")
    assert told()["sa_readonly_held_since_timestamp_seconds"] >= before - 1
    shown = take(night.selector.switch, night.selector.registry, night.selector.report)
    assert shown.held[0] == 1  # its entry, and not once more what it tells of itself
    assert take(night.selector.switch, None, night.selector.report).held[0] == 1
    assert shown.drained  # as they hold nothing
    night.end()


# -- tasks -----------------------------------------------------------------------------------


def on_loop(work: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(work(), SECONDS))


async def waiting(night: Night, *names: str) -> list[asyncio.Task[None]]:
    """Have tasks wait, and tell their names when they are let go."""

    async def wait(name: str, ticket: Ticket) -> None:
        why = await night.queue.wait_as_task(ticket)
        night.told.append(name if why is None else (name, why))
        await asyncio.sleep(0)
        night.queue.end(ticket)

    tasks = []
    for name in names:
        tasks.append(asyncio.ensure_future(wait(name, night.queue.ticket(SECONDS))))
        await asyncio.sleep(0)
    return tasks


def test_tasks_and_threads_stand_in_one_queue(night: Night) -> None:
    refresh = night.selector.refresh

    def off_the_loop() -> Any:
        assert loops.running() is None
        return refresh()

    night.selector.refresh = off_the_loop  # type: ignore[method-assign]  # the look of this selector

    async def work() -> None:
        tasks = await waiting(night, "a")
        await asyncio.to_thread(night.wait, "b")
        tasks += await waiting(night, "c")
        night.app.off()  # no thread of the loop looks: one is started for it
        await asyncio.gather(*tasks)
        await asyncio.to_thread(night.join)

    on_loop(work)
    assert night.told == ["a", "b", "c"]


def test_100_tasks_are_held_where_max_held_is_not_given(lite: App) -> None:
    night = Night(lite, max_held=None)

    async def work() -> None:
        tasks = await waiting(night, *map(str, range(100)))
        why = await night.queue.wait_as_task(night.queue.ticket(SECONDS))
        assert why == "It was not held, as 100 are held in this process: max_held=100."
        night.app.off()
        night.selector.check()
        await asyncio.gather(*tasks)

    on_loop(work)
    assert night.told == list(map(str, range(100)))


def test_a_task_that_is_cancelled_as_it_gets_its_turn_passes_it_on_at_once(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_readonly.hold.queue.TURN", 2 * SECONDS)  # its end is not waited for

    async def work() -> None:
        first, second = await waiting(night, "a", "b")
        night.app.off()
        night.selector.check()  # on the loop, so that the first is not awake yet
        first.cancel()
        await second
        assert first.cancelled()

    on_loop(work)
    assert night.told == ["b"]
    assert not night.queue.busy


def test_one_that_leaves_as_the_next_has_another_see_that_the_turn_ends(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = Night(lite, watch=True)
    monkeypatch.setattr("sa_readonly.hold.queue._LONGEST", 2 * SECONDS)
    lite.selector.state  # noqa: B018  # starts the thread: what looks for all hardly wakes then

    async def work() -> None:
        slow, leaves, behind = (night.queue.ticket(SECONDS) for _ in range(3))
        last = asyncio.ensure_future(night.queue.wait_as_task(behind))
        await asyncio.sleep(0)  # it looks for all, and now two come that have older places
        going = asyncio.ensure_future(night.queue.wait_as_task(slow))
        left = asyncio.ensure_future(night.queue.wait_as_task(leaves))
        await asyncio.sleep(0)
        night.app.off()
        night.selector.check()
        await going  # and its turn is not ended
        left.cancel()
        assert await last is None
        night.queue.end(behind)

    on_loop(work)


def test_a_task_that_is_cancelled_hands_the_looks_on(night: Night) -> None:
    async def work() -> None:
        first, second = await waiting(night, "a", "b")
        first.cancel()
        night.app.off()
        await second

    on_loop(work)
    assert night.told == ["b"]


def test_one_whose_client_has_gone_is_not_let_go(night: Night) -> None:
    async def work() -> None:
        ticket = night.queue.ticket(SECONDS)
        task = asyncio.ensure_future(night.queue.wait_as_task(ticket))
        await asyncio.sleep(0)
        night.app.off()
        night.queue.give_up(ticket)
        with pytest.raises(Gone):
            await task

    on_loop(work)
    assert not night.queue.busy


def test_the_thread_of_a_loop_is_refused_at_once(night: Night) -> None:
    async def work() -> str | None:
        return night.queue.wait(night.queue.ticket(SECONDS))

    why = asyncio.run(work())
    assert why is not None
    assert "event loop" in why


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_a_thread_waits_while_another_one_imports_a_library_of_loops(
    night: Night, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    night.wait("a")
    assert night.end() == ["a"]


def test_a_loop_that_is_closed_holds_up_nothing(night: Night) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(night.queue.wait_as_task(night.queue.ticket(SECONDS)))
    loop.run_until_complete(asyncio.sleep(0))
    night.wait("a")
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is destroyed on purpose
    loop.close()
    assert night.end() == ["a"]
    del task
    gc.collect()


def test_a_selector_may_come_while_what_is_held_is_counted() -> None:
    switch, queues = FixedSwitch(Mode.READ_WRITE), [Uncounted(), Uncounted()]
    add(switch, queues[0])
    thread = threading.Thread(target=add, args=(switch, queues[1]))

    def in_the_middle(frame: Any, event: str, _: object) -> Any:
        if frame.f_code is WeakSet.__iter__.__code__ and event == "return":
            sys.settrace(None)
            thread.start()
            thread.join(0.05)  # it is the counting that it waits for, then
        return in_the_middle

    before = sys.gettrace()
    sys.settrace(in_the_middle)
    try:
        assert held(switch)["held"] == 0
    finally:
        sys.settrace(before)
        thread.join(SECONDS)
    assert len(count._queues[switch]) == 2


class Uncounted:
    """A queue in which none waits."""

    held = (0, 0.0)


def test_a_trio_that_another_thread_is_importing_runs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))
    assert loops.trio() is None


def test_a_task_that_its_loop_left_behind_is_counted_until_its_hold_would_have_ended(
    night: Night,
) -> None:
    loop = asyncio.new_event_loop()
    ticket = night.queue.ticket(0.05)
    task = loop.create_task(night.queue.wait_as_task(ticket))
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is destroyed on purpose
    loop.close()
    assert night.number == 1
    wait_until(lambda: night.number == 0, "it is over")
    assert held(night.selector.switch) == {"held": 0, "held_since": None}
    night.end()
    del task
    gc.collect()


# -- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 1.5, "10", True])
def test_a_max_held_that_is_no_number_from_1_on_is_refused(lite: App, value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"EngineSelector\(max_held\) takes a number"):
        lite.start(max_held=value)


def test_without_max_held_no_thread_may_wait(lite: App) -> None:
    night = Night(lite, max_held=None)
    with pytest.raises(ConfigurationError, match=r"hold needs EngineSelector\(max_held=\)"):
        night.queue.wait(night.queue.ticket(1))
