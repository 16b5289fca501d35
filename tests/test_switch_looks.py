"""FileSwitch: how often it looks, and how old an answer may be."""

from __future__ import annotations

import os
import threading

import pytest

import sa_readonly.switch as switch_module
from sa_readonly.switch import FileSwitch
from tests.switches import (
    BOUND,
    REAL_STAT,
    RO,
    RW,
    Told,
    clock,
    in_threads,
    join,
    log,
    nothing,
    path,
    stats,
)

__all__ = ["clock", "log", "path", "stats"]  # fixtures


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


def test_one_look_in_read_only_mode_is_one_stat(path, clock, stats):
    path.touch()
    switch = FileSwitch(path, ttl=10)
    stats.count = 0
    for looks in range(1, 6):
        clock.now += 10
        assert switch.read_only
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


def test_an_answer_is_known_before_the_time_until_which_it_may_be_used(path, clock):
    """At each step of taking an answer another thread may use what is known."""
    switch = FileSwitch(path, ttl=10)
    used = []

    class Used(FileSwitch):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if path.exists() and clock() < self.fresh_until:
                used.append(self.known.mode)

    switch.__class__ = Used
    clock.now += 11
    path.touch()
    assert switch.check().mode is RO
    assert set(used) == {RO}


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
            "comes, and read-only is told instead. Give a larger ttl.",
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


def test_a_glance_counts_its_answer_from_before_the_stat(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    clock.now += 6

    def take(name):
        clock.now += 4

    stats.before = take
    assert switch.glance()
    stats.before, stats.count = nothing, 0
    clock.now += 2  # it is six seconds old by now, and a look is due
    assert switch.glance()
    assert stats.count == 1


def test_a_flip_that_another_thread_has_learned_is_not_told_by_a_glance(path, clock, monkeypatch):
    switch = FileSwitch(path, ttl=10)
    learned, go_on, told, tellers = threading.Event(), threading.Event(), threading.Event(), []

    def flipped(old, new):
        tellers.append(threading.get_ident())
        told.set()

    def between():  # learning it and telling it
        if switch.known.read_only and threading.current_thread() is looks:
            learned.set()
            assert go_on.wait(BOUND)
        return clock()

    end = switch.subscribe(nothing, flipped)
    monkeypatch.setattr(switch_module, "clock", between)
    path.touch()
    looks = threading.Thread(target=switch.check, daemon=True)
    looks.start()
    try:
        assert learned.wait(BOUND)
        clock.now += 6
        assert switch.glance()
        assert told.wait(BOUND)  # though that thread does not go on
        assert threading.get_ident() not in tellers
    finally:
        go_on.set()
        join([looks])
        end()


def test_a_glance_takes_back_nothing_that_was_learned_after_its_stat(path, clock, stats):
    path.touch()
    switch = FileSwitch(path, ttl=10)
    clock.now += 6

    def flip(name):
        stats.after = nothing
        path.unlink()
        clock.now -= 1  # this look began before that glance, and saw more
        switch.check()
        clock.now += 1

    stats.after = flip
    switch.glance()
    assert switch.known.mode is RW


def test_a_glance_does_not_wait_for_a_thread_that_turns_the_gates(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    turning, go_on, answers = threading.Event(), threading.Event(), []

    def gate(state):
        if state.read_only:
            turning.set()
            assert go_on.wait(BOUND)

    end = switch.subscribe(gate, nothing)
    path.touch()
    turns = threading.Thread(target=switch.check, daemon=True)
    turns.start()
    try:
        assert turning.wait(BOUND)
        clock.now += 20
        glances = threading.Thread(target=lambda: answers.append(switch.glance()), daemon=True)
        glances.start()
        join([glances])
        assert answers == [True]  # by its own stat(): the file is the one that is known
        assert switch.known.mode is RO
    finally:
        go_on.set()
        join([turns])
        end()


def test_a_glance_whose_stat_took_longer_than_ttl_lets_nothing_begin(path, clock, stats):
    switch = FileSwitch(path, ttl=10)
    clock.now += 6

    def take(name):
        clock.now += 11

    stats.before = take
    assert not switch.glance()
