"""What a transaction costs, counted: Python calls, stats and locks, never seconds."""

from __future__ import annotations

import cProfile
import gc
import os
import pstats
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import sessionmaker

from sa_readonly import RoutingSession
from sa_readonly.engines import classes
from sa_readonly.engines.classes import become
from sa_readonly.rehearsal.notes import notebook_of
from tests.app import App, Book, set_clock

STATEMENT = select(1)


def calls(work: Callable[[], object]) -> int:
    """Count the calls, of Python and C functions, that ``work`` makes once it is warm."""
    for _ in range(5):
        work()
    profile = cProfile.Profile()
    gc.disable()  # a collection would call finalizers that are not ours
    try:
        profile.enable()
        work()
        profile.disable()
    finally:
        gc.enable()
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]  # untyped


def reading(factory: Any, statements: int) -> Callable[[], None]:
    def read() -> None:
        with factory() as session:
            for _ in range(statements):
                session.execute(STATEMENT)

    return read


def writing(factory: Any) -> Callable[[], None]:
    def write() -> None:
        with factory.begin() as session:
            session.add(Book(title="x"))

    return write


# No more for ten: a statement that is not the first finds its connection by a shorter way.
@pytest.mark.parametrize(("statements", "least", "most"), [(1, 1, 8), (10, -20, 0)])
def test_a_transaction_costs_a_handful_of_calls_more_than_a_plain_one(
    lite: App, statements: int, least: int, most: int
) -> None:
    lite.start(ttl=3600)
    plain = sessionmaker(lite.engine("rw"))
    lite.statements.clear()
    more = calls(reading(lite.sessions, statements)) - calls(reading(plain, statements))
    assert least <= more <= most


def test_a_flush_costs_a_handful_of_calls_more_than_a_plain_one(lite: App) -> None:
    lite.start(ttl=3600)
    plain = sessionmaker(lite.engine("rw"))
    more = calls(writing(lite.sessions)) - calls(writing(plain))
    assert 0 < more <= 27


def test_a_rehearsal_costs_one_look_at_the_stack_a_transaction_and_nothing_once_it_is_over(
    lite: App,
) -> None:
    lite.start(ttl=3600)
    notebook, work = notebook_of(lite.selector.switch), reading(lite.sessions, 10)
    before = calls(work)
    notebook.wish("process", on=True)
    assert 0 < calls(work) - before <= 130
    notebook.wish("process", on=False)
    assert calls(work) == before


@pytest.mark.parametrize(("read", "most"), [(True, 40), (False, 60)])
def test_a_hold_that_need_not_wait_costs_some_calls_at_the_first_statement_alone(
    lite: App, read: bool, most: int
) -> None:
    lite.start(ttl=3600, max_held=1)
    held = sessionmaker(lite.selector, class_=RoutingSession, hold=1)
    work = partial(reading, statements=10) if read else writing
    assert 0 < calls(work(held)) - calls(work(lite.sessions)) <= most


@pytest.mark.parametrize(("statements", "least", "most"), [(1, 1, 13), (10, 0, 31)])
def test_a_read_only_transaction_costs_a_handful_of_calls_more(
    lite: App, statements: int, least: int, most: int
) -> None:
    lite.on()
    lite.start(ttl=3600)
    plain = sessionmaker(lite.engine("rw"))
    more = calls(reading(lite.sessions, statements)) - calls(reading(plain, statements))
    assert least <= more <= most


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Collect each ``os.stat()``, with a clock that stands still."""
    seen: list[object] = []
    real = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        seen.append(path)
        return real(path, *args, **kwargs)

    now = time.monotonic()
    monkeypatch.setattr(os, "stat", stat)
    with set_clock(lambda: now):
        yield seen


@pytest.mark.parametrize("read_only", [False, True])
def test_inside_ttl_ten_thousand_looks_and_a_thousand_transactions_make_no_stat(
    lite: App, stats: list[object], read_only: bool
) -> None:
    if read_only:
        lite.on()
    lite.start(ttl=0.1)
    lite.selector.check()
    reading(lite.sessions, 1)()
    stats.clear()
    for _ in range(10_000):
        assert lite.selector.read_only is read_only
    for _ in range(1_000):
        reading(lite.sessions, 1)()
    # An engine by URL of an earlier test has a thread for some seconds, which looks at its file.
    assert [path for path in stats if str(path).startswith(str(lite.path.parent))] == []


def test_what_gets_another_class_keeps_its_attributes_in_a_dict_that_grows_where_it_is(
    lite: App,
) -> None:
    pool: Any = lite.engine("rw").pool
    attributes = vars(pool)
    before, size = dict(attributes), sys.getsizeof(attributes)
    become(pool, type("Other", (type(pool),), {}))
    assert type(pool).__name__ == "Other"
    assert vars(pool) is attributes
    assert attributes == before
    assert sys.getsizeof(attributes) > size


def test_a_pool_that_takes_the_place_of_another_has_grown_as_well(lite: App) -> None:
    lite.start()
    pool = lite.engines["rw"].pool
    assert sys.getsizeof(vars(pool.recreate())) >= sys.getsizeof(vars(pool))


def test_a_dict_may_grow_while_another_thread_has_it_grow(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = lite.engine("rw")
    before = dict(vars(engine))

    class Interrupted(dict[str, None]):
        def __iter__(self) -> Iterator[str]:
            monkeypatch.setattr(classes, "_FILL", dict(self))
            classes.grow(engine)
            return super().__iter__()

    monkeypatch.setattr(classes, "_FILL", Interrupted(classes._FILL))
    classes.grow(engine)
    assert vars(engine) == before
