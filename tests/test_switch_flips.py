"""FileSwitch: a flip is told and logged once and in order, and gates turn around it."""

from __future__ import annotations

import gc
import logging
import random
import signal
import threading
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sa_readonly.mode import State, now
from sa_readonly.switch import FileSwitch
from tests.switches import (
    BOUND,
    RO,
    RW,
    Told,
    clock,
    in_child,
    in_threads,
    join,
    log,
    nothing,
    path,
    quick,
)

__all__ = ["clock", "log", "path"]  # fixtures


def test_each_flip_is_logged_once_with_modes_reason_and_path(path, log):
    switch = FileSwitch(path)
    path.write_text("disk\nswap\n")
    for _ in range(3):
        switch.check()
    path.unlink()
    for _ in range(3):
        switch.check()
    there, gone = log()
    assert there == (
        "WARNING",
        f"sa_readonly: read-write -> read-only: {path} is there (reason 'disk\\nswap')",
    )
    back = f"sa_readonly: read-only -> read-write: {path} is gone. It was read-only for 0:00:"
    assert gone == ("WARNING", back + gone[1][-2:])


def test_the_way_back_tells_how_long_it_was_read_only(path, log):
    switch = FileSwitch(path)
    for since in (now() - timedelta(days=1, hours=3, minutes=12), None, now() + timedelta(hours=1)):
        switch.override(State(RO, since=since))()
    said = [text.partition(" has ended")[2] for _, text in log()[1::2]]
    assert said == [". It was read-only for 1 day, 3:12:00", "", ". It was read-only for 0:00:00"]


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
    assert [level for level, _ in log()] == ["WARNING"] * 6


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
    with switch._state():
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
    assert [level for level, _ in log()] == ["WARNING", "ERROR", "WARNING"] * 2


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
    assert [level for level, _ in log()] == ["WARNING"] * 3


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


@quick
@given(st.integers(0, 2**32))
def test_any_order_of_events_ends_in_the_truth(tmp_path_factory, seed):
    """Looks of many threads, interleaved at random with what happens to the file."""
    dice = random.Random(seed)
    path = tmp_path_factory.mktemp("any") / "ro"
    switch = FileSwitch(path, ttl=0)
    told = Told(switch)
    clock = switch.checked
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
