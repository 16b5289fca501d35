"""PolledSwitch: a look() that hangs, raises, comes late or returns something else.

What it has in common with every switch is in test_switch_conformance.py.
"""

from __future__ import annotations

import functools
import gc
import queue
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    PolledSwitch,
    ReadOnlyError,
    RoutingSession,
)
from sa_readonly.engines.doors import Door
from tests.app import WHICH, App, Book, lite, place, sqlite_urls
from tests.async_app import AsyncApp, make_async_app
from tests.postgres import wait_until
from tests.switches import (
    BOUND,
    RO,
    RW,
    Clock,
    Told,
    clock,
    in_child,
    in_threads,
    join,
    log,
    no_thread_is_left,
    nothing,
)

__all__ = ["clock", "lite", "log", "no_thread_is_left", "place"]  # fixtures

START = Clock().now
TOO_LONG = "flag() takes longer than ttl=1.0 s"
THEN = ": the last answer stands until it is 10.0 s old, then it is read-only."
NO_ANSWER = "flag() has not answered for 10 s"


class Flag:
    """A source whose answers wait for the test, once it is told to hang."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.error: BaseException | None = None
        self.hangs = False
        self.calls = 0
        self.threads: set[threading.Thread] = set()
        self.asked = threading.Semaphore(0)
        self.answers = threading.Semaphore(0)
        self.during: Callable[[], object] = nothing

    def __call__(self) -> Any:
        text = self.text  # what the source says as it is asked
        self.calls += 1
        self.threads.add(threading.current_thread())
        if self.hangs:
            self.asked.release()
            assert self.answers.acquire(timeout=BOUND)
        self.during()
        if self.error is not None:
            raise self.error
        return text

    def answer(self, switch: PolledSwitch) -> None:
        """Let the look that hangs go on, to its end."""
        look = switch._under_way
        self.answers.release()
        assert look.ended.wait(BOUND)
        join([thread for thread in threading.enumerate() if thread.name == "sa_readonly flip"])


@pytest.fixture
def flag() -> Iterator[Flag]:
    made = Flag()
    made.__name__ = "flag"  # as a function has one
    yield made
    made.answers.release(1000)  # no thread is left


@pytest.fixture
def switch(clock: Clock, flag: Flag) -> PolledSwitch:
    return PolledSwitch(flag)


def quick(flag: Flag) -> PolledSwitch:
    """One of a short ttl, which has answered: the first look may take longer on a busy machine."""
    switch = PolledSwitch(flag)
    switch.ttl = 0.02
    switch._schedule(switch.checked)
    return switch


def hang(switch: PolledSwitch, flag: Flag, clock: Clock) -> None:
    """Have a look under way that hangs, past ttl; what is known is a second old, and more."""
    flag.hangs = True
    clock.now += 0.6
    assert switch.refresh().mode is RW  # which waits for no look before ttl
    assert flag.asked.acquire(timeout=BOUND)
    clock.now += 1.1


# -- a look that hangs -----------------------------------------------------------------------


def test_while_a_look_hangs_no_second_one_begins_and_the_answer_stands_until_fence(
    switch: PolledSwitch, flag: Flag, clock: Clock, log: Any
) -> None:
    told = Told(switch)
    hang(switch, flag, clock)
    for ask in (switch.refresh, switch.check):
        assert ask().mode is RW
    assert switch.glance()
    clock.now = START + 9.9
    assert (switch.refresh().mode, told.events) == (RW, [])
    clock.now = START + 10.1
    assert not switch.glance()
    state = switch.refresh()
    assert (state.mode, state.reason, state.generation) == (RO, NO_ANSWER, None)
    for _ in range(3):
        assert switch.check() is switch.refresh() is state
    assert switch.glance()
    assert [event[0] for event in told.events] == ["gate", "tell"]
    assert flag.calls == 2
    assert log() == [
        ("ERROR", TOO_LONG + THEN),
        ("WARNING", f"sa_readonly: read-write -> read-only: {NO_ANSWER}"),
    ]


def test_it_goes_on_when_the_look_answers(
    switch: PolledSwitch, flag: Flag, clock: Clock, log: Any
) -> None:
    hang(switch, flag, clock)
    clock.now = START + 10.1
    assert switch.refresh().mode is RO
    flag.hangs = False
    flag.answer(switch)  # which is younger than fence
    assert switch.known.mode is RW
    assert switch.check().mode is RW
    assert [level for level, _ in log()] == ["ERROR", "WARNING", "WARNING", "INFO"]
    assert log()[-1] == ("INFO", "flag() answers in time again.")


def test_a_late_answer_counts_from_before_it_was_asked_for(
    switch: PolledSwitch, flag: Flag, clock: Clock
) -> None:
    hang(switch, flag, clock)
    began = switch._under_way.began
    clock.now = START + 8
    flag.answer(switch)
    assert switch.checked == began
    assert switch.fresh_until <= began + switch.ttl / 2
    flag.hangs, flag.error = False, OSError("no route")
    clock.now = START + 10.3  # the answer before it would be too old
    assert switch.refresh().mode is RW
    clock.now = START + 10.7
    assert switch.refresh().mode is RO


@pytest.mark.parametrize(("text", "reason"), [(None, NO_ANSWER), ("upgrade", "upgrade")])
def test_a_late_answer_that_is_older_than_fence_is_not_used_unless_it_is_read_only(
    switch: PolledSwitch, flag: Flag, clock: Clock, text: str | None, reason: str
) -> None:
    flag.text = text
    hang(switch, flag, clock)
    told = Told(switch)
    clock.now = START + 11
    assert switch.refresh().mode is RO
    flag.hangs = False
    flag.answer(switch)
    assert (switch.known.mode, switch.known.reason) == (RO, reason)
    assert [event[0] for event in told.events] == ["gate", "tell"]


def test_past_ttl_all_wait_for_the_one_look(switch: PolledSwitch, flag: Flag, clock: Clock) -> None:
    flag.text, flag.hangs = "upgrade", True
    clock.now += 1.1
    threads, states = in_threads(8, switch.refresh)
    assert flag.asked.acquire(timeout=BOUND)
    look = switch._under_way
    while look.waiting < 8:
        threading.Event().wait(0.001)
    assert states == []
    flag.answer(switch)
    join(threads)
    assert [state.mode for state in states] == [RO] * 8
    assert flag.calls == 2


def test_what_waits_for_a_look_that_hangs_waits_no_longer_than_ttl(flag: Flag, log: Any) -> None:
    switch = quick(flag)
    flag.hangs = True
    assert switch.check().mode is RW  # by the clock of the machine
    assert [level for level, _ in log()] == ["ERROR"]


def test_what_comes_to_a_look_that_hangs_waits_until_that_has_taken_ttl(
    switch: PolledSwitch, flag: Flag, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang(switch, flag, clock)
    look, waits = switch._under_way, list[float]()
    with monkeypatch.context() as patch:
        patch.setattr(look.ended, "wait", waits.append)
        for age in (0.75, 1.5):
            clock.now = look.began + age
            assert switch.refresh().mode is RW
    assert waits == [0.25, 0.0]


def test_a_signal_handler_waits_for_no_look_that_needs_a_lock_of_the_thread_it_interrupts(
    switch: PolledSwitch, log: Any
) -> None:
    with switch._beginning():  # where the handler interrupts
        assert switch.check().mode is switch.refresh().mode is RW
    assert log() == []  # after ttl it would be logged that the look takes longer


def test_half_of_ttl_before_it_is_due_a_look_goes_on_beside(
    switch: PolledSwitch, flag: Flag, clock: Clock
) -> None:
    flag.hangs = True
    clock.now += 0.4
    for _ in range(3):
        assert switch.refresh() is switch.known
    assert switch._under_way is None
    assert flag.calls == 1
    clock.now += 0.2
    for _ in range(3):
        assert switch.refresh().mode is RW
        assert switch.glance()
    assert flag.asked.acquire(timeout=BOUND)
    assert flag.calls == 2


def test_a_look_that_began_before_a_check_is_not_its_answer(
    switch: PolledSwitch, flag: Flag, clock: Clock
) -> None:
    flag.hangs = True
    clock.now += 0.6
    switch.refresh()
    assert flag.asked.acquire(timeout=BOUND)  # it has asked a source that is read-write
    flag.text = "upgrade"
    threads, states = in_threads(1, switch.check)
    flag.answers.release(2)
    join(threads)
    assert states[0].mode is RO
    assert flag.calls == 3


# -- a look that raises, or returns something else -------------------------------------------


def test_what_a_look_raises_keeps_the_answer_for_fence_and_is_logged_once(
    switch: PolledSwitch, flag: Flag, clock: Clock, log: Any
) -> None:
    flag.error = OSError("no route")
    for _ in range(4):
        clock.now += 2
        assert switch.refresh().mode is switch.check().mode is RW
    clock.now = START + 10.1
    assert (switch.refresh().mode, switch.known.reason) == (RO, NO_ANSWER)
    flag.error = None
    assert switch.check().mode is RW
    told = [(level, text.partition("\n")[0].partition(" for 0:00:")[0]) for level, text in log()]
    assert told == [
        ("ERROR", f"flag() failed{THEN}"),
        ("WARNING", f"sa_readonly: read-write -> read-only: {NO_ANSWER}"),
        ("INFO", "flag() answers in time again."),
        ("WARNING", "sa_readonly: read-only -> read-write: flag() says so. It was read-only"),
    ]


def test_while_looks_raise_one_begins_each_ttl_and_no_transaction_waits(
    switch: PolledSwitch, flag: Flag, clock: Clock
) -> None:
    def take_long() -> None:
        clock.now += 0.9

    flag.error, flag.during = SystemExit(), take_long
    clock.now += 1.1
    switch.refresh()  # this one waits
    assert flag.calls == 2
    clock.now += 0.4
    for _ in range(10):
        assert switch.refresh().mode is RW
    assert switch.fresh_until > switch.checked + switch.ttl
    assert flag.calls == 2


@pytest.mark.parametrize("wrong", [True, b"upgrade", 0, {}])
def test_an_answer_that_is_neither_none_nor_a_str_is_an_error_with_its_cure(
    switch: PolledSwitch, flag: Flag, clock: Clock, caplog: pytest.LogCaptureFixture, wrong: Any
) -> None:
    flag.text = wrong
    assert switch.check().mode is RW
    assert f"It returned {wrong!r}. Return None for read-write, or a str" in caplog.text
    clock.now += 11
    assert switch.refresh().mode is RO


def test_an_answer_that_would_have_to_be_awaited_is_an_error(
    switch: PolledSwitch, flag: Flag, caplog: pytest.LogCaptureFixture
) -> None:
    async def look() -> None:
        raise NotImplementedError

    switch._function = look
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        switch.check()
        gc.collect()
    assert "it can't be async" in caplog.text


@pytest.mark.parametrize("made", [functools.partial(str, "upgrade"), Flag(), lambda: None])
def test_any_callable_will_do_and_its_name_is_what_messages_call_it(made: Any) -> None:
    assert PolledSwitch(made).name in ("partial()", "Flag()", "<lambda>()")


async def _look() -> None:
    raise NotImplementedError


@pytest.mark.parametrize("wrong", [None, "redis", _look, functools.partial(_look)])
def test_what_is_no_function_is_a_configuration_error(wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PolledSwitch(wrong)
    assert str(caught.value) == (
        "PolledSwitch(look) takes a function that takes no arguments, is not async, and returns "
        f"None or a str; not {wrong!r}."
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": 0}, "ttl must be more than 0 and fence no less"),
        ({"ttl": 3, "fence": 2}, "ttl must be more than 0 and fence no less"),
        ({"ttl": "1"}, "ttl takes a number of seconds"),
        ({"fence": float("inf")}, "fence takes a number of seconds"),
    ],
)
def test_times_that_make_no_sense_are_a_configuration_error(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PolledSwitch(lambda: None, **options)


# -- its text --------------------------------------------------------------------------------


def test_an_empty_text_means_read_only_and_an_edit_is_no_flip(
    switch: PolledSwitch, flag: Flag, log: Any
) -> None:
    told = Told(switch)
    flag.text = ""
    first = switch.check()
    assert (first.mode, first.reason, first.until) == (RO, None, None)
    flag.text = "upgrade\nuntil: 2030-01-01T00:00Z"
    second = switch.check()
    assert (second.reason, second.since) == ("upgrade", first.since)
    assert first.generation != second.generation
    assert [event[0] for event in told.events] == ["gate", "tell"]
    assert [text for _, text in log()] == [
        "sa_readonly: read-write -> read-only: flag() says so (no reason given)",
        "sa_readonly: still read-only: flag() says so (reason 'upgrade', until "
        "2030-01-01T00:00:00+00:00)",
    ]


def test_a_text_may_be_long_and_hold_anything(switch: PolledSwitch, flag: Flag) -> None:
    flag.text = "\udc80" + "x" * 10_000
    state = switch.check()
    assert state.reason == "?" + "x" * 4095


# -- the start -------------------------------------------------------------------------------


def test_at_the_start_the_first_answer_is_no_flip(flag: Flag, log: Any) -> None:
    assert PolledSwitch(flag).known.mode is RW
    assert log() == []
    flag.text = "upgrade"
    assert PolledSwitch(flag).known.mode is RO
    assert log() == [("WARNING", "sa_readonly starts read-only: flag() says so (reason 'upgrade')")]


def test_until_the_first_answer_it_is_read_only(flag: Flag, log: Any) -> None:
    flag.hangs = True
    switch = PolledSwitch(flag, ttl=0.01)
    assert (switch.known.mode, switch.known.reason) == (RO, "flag() has not answered yet")
    assert switch.refresh() is switch.known
    flag.hangs = False
    flag.answer(switch)
    # On a busy machine a look may take longer than such a ttl.
    wait_until(lambda: switch.check().mode is RW and len(log()) > 1, "an answer in time")
    assert [level for level, _ in log()] == ["ERROR", "INFO"]  # the first answer is no flip


def test_a_first_look_that_raises_means_read_only(flag: Flag, log: Any) -> None:
    flag.error = KeyError("x")
    switch = PolledSwitch(flag)
    assert (switch.known.mode, switch.known.reason) == (RO, "flag() has not answered yet")
    flag.error = None
    assert switch.check().mode is RW
    assert [level for level, _ in log()] == ["ERROR", "INFO"]  # the first answer is no flip


def test_where_no_thread_can_be_started_the_answer_stands_for_fence(
    switch: PolledSwitch, flag: Flag, clock: Clock, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    switch._before_fork()  # which ends the one that there is
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        clock.now += 1.1
        assert switch.refresh().mode is RW
        clock.now += 10
        assert switch.refresh().mode is RO
    assert switch.check().mode is RW
    assert [level for level, _ in log()] == ["ERROR", "WARNING", "INFO", "WARNING"]


# -- its thread ------------------------------------------------------------------------------


def test_look_is_always_called_by_one_thread_that_is_none_of_the_callers(
    switch: PolledSwitch, flag: Flag, clock: Clock
) -> None:
    for _ in range(3):
        clock.now += 1.1
        switch.refresh()
        switch.check()
        join(in_threads(2, switch.check)[0])
    assert len(flag.threads) == 1
    assert flag.threads == {switch._caller.thread}


def test_the_thread_ends_with_the_switch(flag: Flag) -> None:
    switch = PolledSwitch(flag)
    thread, reference = switch._caller.thread, weakref.ref(switch)
    del switch
    gc.collect()
    assert reference() is None
    join([thread])


def test_no_thread_runs_during_a_fork_and_each_process_has_its_own(
    switch: PolledSwitch, flag: Flag
) -> None:
    thread = switch._caller.thread

    def child() -> int:
        flag.text = "upgrade"
        return 0 if switch.check().mode is RO and len(flag.threads) == 2 else 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_child(child) == 0
    assert not thread.is_alive()
    assert switch.check().mode is RW
    assert len(flag.threads) == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_looks_though_a_look_of_its_parent_hangs(
    switch: PolledSwitch, flag: Flag, clock: Clock
) -> None:
    hang(switch, flag, clock)

    def child() -> int:
        flag.hangs, flag.text = False, "upgrade"
        return 0 if switch.check().mode is RO else 1

    assert in_child(child) == 0
    assert flag.calls == 2
    flag.hangs = False
    flag.answer(switch)
    assert switch.check().mode is RW


def test_a_look_may_fork(clock: Clock, flag: Flag) -> None:
    codes: list[int] = []
    switch = PolledSwitch(flag, ttl=BOUND)  # within which the fork has to be over
    flag.during = lambda: codes.append(in_child(lambda: 0))
    assert switch.check().mode is RW
    assert codes == [0]


def test_a_look_that_asks_for_the_mode_gets_what_is_known(
    switch: PolledSwitch, flag: Flag, clock: Clock
) -> None:
    states = []
    flag.during = lambda: states.append(switch.refresh())
    clock.now += 1.1
    known = switch.known
    assert switch.refresh() is known
    assert states == [known]


def test_a_gate_that_asks_for_the_mode_gets_the_one_that_holds(
    switch: PolledSwitch, flag: Flag, log: Any
) -> None:
    asked = []
    end = switch.subscribe(lambda state: asked.append((state.mode, switch.check().mode)), nothing)
    for text in ("upgrade", None):
        flag.text = text
        switch.check()
    end()
    assert asked == [(RW, RW), (RO, RO), (RW, RO)]
    assert switch.known.mode is RW
    assert [level for level, _ in log()] == ["WARNING"] * 2  # and no look has hung


def test_looks_go_on_while_what_is_told_of_a_flip_takes_its_time(
    switch: PolledSwitch, flag: Flag, clock: Clock
) -> None:
    telling, go_on, told = threading.Event(), threading.Event(), []

    def flipped(_old: Any, new: Any) -> None:
        telling.set()
        assert go_on.wait(BOUND)
        told.append(new.mode)

    switch.subscribe(nothing, flipped)
    flag.text = "upgrade"
    clock.now += 0.6
    switch.refresh()  # it waits for no look, so no thread of a caller tells the flip
    assert telling.wait(BOUND)
    flag.text = None
    assert switch.check().mode is RW
    assert told == []
    thread = next(one for one in threading.enumerate() if one.name == "sa_readonly flip")
    go_on.set()
    join([thread])
    assert told == [RO, RW]


def test_a_gate_that_exits_does_not_end_the_thread(
    switch: PolledSwitch, flag: Flag, caplog: pytest.LogCaptureFixture
) -> None:
    def gate(state: Any) -> None:
        if not state.read_only and switch.known.read_only:
            raise SystemExit

    end = switch.subscribe(gate, nothing)
    for text in ("upgrade", None):
        flag.text = text
        switch.check()
    assert switch.known.mode is RO
    end()
    assert switch.check().mode is RW
    assert "What a look brought could not be taken" in caplog.text
    assert len(flag.threads) == 1


# -- an application --------------------------------------------------------------------------


@pytest.fixture
def start(lite: App) -> Callable[..., Any]:

    def start(switch: PolledSwitch, **options: Any) -> Any:
        engines = {"read_write": lite.engine("rw"), "read_only": lite.engine("ro")}
        lite.selector = EngineSelector(switch, **engines, **options)
        return sessionmaker(lite.selector, class_=RoutingSession)

    return start


def add(sessions: Any) -> None:
    with sessions.begin() as session:
        session.add(Book(title="x"))


def test_without_a_watcher_a_transaction_follows_the_flag(
    start: Any, flag: Flag, clock: Clock, lite: App
) -> None:
    switch = PolledSwitch(flag, ttl=BOUND, fence=10 * BOUND)  # a look has as long on a busy machine
    sessions = start(switch, watch=False)
    add(sessions)
    flag.text = "upgrade"
    clock.now += BOUND + 1
    with pytest.raises(ReadOnlyError, match="upgrade"):
        add(sessions)
    assert Door.of(lite.engines["rw"]).connections == 0
    flag.text = None
    clock.now += BOUND + 1
    add(sessions)
    assert lite.titles("rw") == ["x", "x"]
    assert switch._caller.thread.is_alive()


class Heard(threading.Event):
    """Notes whether it was waited for."""

    awaited = False

    def wait(self, timeout: float | None = None) -> bool:
        self.awaited = True
        return super().wait(timeout)


def test_a_look_that_was_due_has_ended_once_its_answer_is_used(
    switch: PolledSwitch, flag: Flag, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[Heard] = []
    real = switch._begin_look

    def answered() -> Any:
        look = real()
        began.append(Heard())
        look.ended = began[-1]
        flag.answers.release()
        # Its thread has published the answer, and may not have come to the end.
        wait_until(lambda: clock() < switch.fresh_until, "the answer", BOUND)
        return look

    monkeypatch.setattr(switch, "_begin_look", answered)
    clock.now += 1.1
    flag.hangs = True
    assert switch.refresh().mode is RW
    assert [one.awaited for one in began] == [True]


def test_with_a_watcher_an_idle_process_follows_the_flag(start: Any, flag: Flag, lite: App) -> None:
    sessions = start(quick(flag))
    flips: queue.SimpleQueue[Any] = queue.SimpleQueue()
    lite.selector.on_flip(lambda _old, new: flips.put(new.mode))
    add(sessions)
    for text, mode in (("upgrade", RO), (None, RW)):
        flag.text = text
        assert flips.get(timeout=BOUND) is mode
        assert Door.of(lite.engines["rw"]).connections == 0


def test_past_fence_while_a_look_hangs_by_no_road_a_connection_is_given_out(
    start: Any, switch: PolledSwitch, flag: Flag, clock: Clock, lite: App
) -> None:
    sessions = start(switch, watch=False)
    engine = lite.engines["rw"]
    with (
        sessions() as held,
        engine.connect() as other,
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as committing,
    ):
        assert held.scalar(WHICH) == "rw"
        committing.scalar(WHICH)
        hang(switch, flag, clock)
        add(sessions)
        clock.now = START + 10.1
        for go in (
            lambda: committing.scalar(WHICH),
            engine.connect,
            engine.raw_connection,
            other.begin,
            lambda: add(sessions),
            lite.selector.require_read_write,
        ):
            with pytest.raises(ReadOnlyError, match="flag\\(\\) has not answered for 10 s"):
                go()
        assert held.scalar(WHICH) == "rw"  # what has begun goes on
        with sessions() as session:
            assert session.scalar(WHICH) == "ro"
    assert Door.of(engine).connections == 0
    assert lite.titles("rw") == ["x"]


def test_an_idle_process_whose_look_hangs_is_read_only_past_fence(
    start: Any, flag: Flag, clock: Clock, lite: App
) -> None:
    switch = quick(flag)
    sessions = start(switch)
    add(sessions)
    engine, flipped = lite.engines["rw"], threading.Event()
    assert Door.of(engine).connections == 1
    lite.selector.on_flip(lambda _old, new: flipped.set() if new.read_only else None)
    flag.hangs = True
    clock.now += 0.015
    assert flag.asked.acquire(timeout=BOUND)  # the watcher has a look begun
    clock.now += 10.1
    assert flipped.wait(BOUND)
    assert Door.of(engine).connections == 0


def test_on_an_event_loop_a_look_is_awaited_and_none_is_called_there(
    place: Path, flag: Flag, clock: Clock
) -> None:
    switch = PolledSwitch(flag, ttl=BOUND, fence=10 * BOUND)

    async def use(app: AsyncApp) -> None:
        rw, ro = AsyncEngine(app.engine("rw")), AsyncEngine(app.engine("ro"))
        async with EngineSelector(switch, read_write=rw, read_only=ro, watch=False) as selector:
            factory = async_sessionmaker(selector, sync_session_class=RoutingSession)
            for text, name in ((None, "rw"), ("upgrade", "ro"), (None, "rw")):
                flag.text = text
                clock.now += BOUND + 1
                async with factory() as session:
                    assert await session.scalar(WHICH) == name

    with make_async_app(place, sqlite_urls(place, "rw", "ro"), "aiosqlite") as app:
        app.run(use(app))
    assert threading.current_thread() not in flag.threads


def test_every_selector_with_the_switch_shares_its_look(
    switch: PolledSwitch, flag: Flag, lite: App
) -> None:
    engines = [lite.engine(name) for name in ("rw", "ro")]
    with (
        closing(EngineSelector(switch, read_write=engines[0], watch=False)) as one,
        closing(EngineSelector(switch, read_write=engines[1], watch=False)) as other,
    ):
        flag.text = "upgrade"
        one.check()
        calls = flag.calls
        assert other.read_only
        assert flag.calls == calls
