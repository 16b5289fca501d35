"""What the protocols of a registry and of its entries promise, by every implementation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from sa_readonly import Mode, ReadOnlyError
from sa_readonly.command.waiting import HOLDS, NOBODY, WorkersWait
from sa_readonly.workers.protocol import (
    Connections,
    Entry,
    Liveness,
    RegistryError,
    Report,
    missing,
    read_between,
)
from sa_readonly.workers.status import take
from sa_readonly.workers.verdict import judge
from sa_readonly.wsgi import ReadOnlyMiddleware
from tests.app import WHICH, App, Book, need
from tests.registries import KINDS, Kind
from tests.workers import BOUND, READ_ONLY, READ_WRITE, in_child

ALIVE, DEAD, UNKNOWN = Liveness.ALIVE, Liveness.DEAD, Liveness.UNKNOWN
BUSY = Report(READ_WRITE, connections=2, watching=True)
FULL = Report(
    READ_ONLY,
    "g",
    connections=3,
    since=1.5,
    checked=2.5,
    flips=4,
    refused=5,
    watching=True,
    forced=READ_ONLY,
    kinds={"flush": 5},
    engines={"read_write.primary": Connections(1, 2, 3)},
    retired=3.5,
)


class Shop:
    """A registry, and what the operator has done."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.registry = kind.open()
        self.generation: str | None = None
        self.entries: list[Entry] = []

    def identify(self) -> str | None:
        return self.generation

    def register(self) -> Any:
        self.entries.append(self.registry.register(self.identify))
        return self.entries[-1]

    def one(self) -> Any:
        (one,) = self.registry.read()
        return one

    def acknowledge(self, entry: Entry, **fields: Any) -> None:
        entry.closed()
        entry.report(lambda: Report(READ_ONLY, self.generation, **{"watching": True, **fields}))

    def whys(self) -> list[str]:
        return [why for _, why in judge(self.identify, self.registry).waiting]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.lower())
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(request.param.made(tmp_path, request))
    yield shop
    for entry in shop.entries:
        entry.close()


# -- the registry -----------------------------------------------------------------------------


def test_it_has_every_member_of_the_protocol(shop: Shop) -> None:
    assert missing(shop.registry) == []
    assert missing(object()) == ["name", "register", "sweep", "read", "sheets", "scope"]


def test_two_that_are_the_same_place_are_equal_and_have_one_scope(shop: Shop) -> None:
    other = shop.kind.open()
    assert other == shop.registry
    assert other != object()
    assert other.scope() == shop.registry.scope()
    assert isinstance(other.scope(), (str, type(None)))


def test_one_without_entries_reads_as_none(shop: Shop) -> None:
    assert shop.registry.read() == []
    shop.registry.sweep(shop.identify)
    shop.generation = "g"
    verdict = judge(shop.identify, shop.registry)
    assert (verdict.nobody, verdict.holds) == (True, False)


def test_a_worker_that_has_registered_is_read_everywhere_and_has_not_reported(shop: Shop) -> None:
    shop.register()
    (one,) = shop.kind.open().read()
    assert (one.liveness, one.acknowledged, one.report) == (ALIVE, False, None)
    assert one.problem == "has not reported"
    shop.generation = "g"
    assert shop.whys() == ["has not reported"]


def test_one_that_cant_be_used_raises_when_it_registers_and_is_read_as_a_problem(
    shop: Shop,
) -> None:
    shop.register()
    with shop.kind.broken():
        with pytest.raises(RegistryError):
            shop.registry.register(shop.identify)
        one = shop.one()
        assert one.liveness is UNKNOWN
        assert one.problem
        shop.registry.sweep(shop.identify)
        shop.generation = "g"
        assert not judge(shop.identify, shop.registry).holds
    assert shop.one().liveness is ALIVE


def test_what_died_with_a_connection_or_without_a_word_is_no_more_drained(shop: Shop) -> None:
    shop.generation = "g"
    shop.kind.die(shop.identify, lambda _: None)
    shop.kind.die(shop.identify, lambda entry: shop.acknowledge(entry, connections=1))
    shop.kind.die(shop.identify, shop.acknowledge)
    assert {one.liveness for one in shop.registry.read()} == {shop.kind.dies_as}
    assert len(shop.whys()) == 2
    assert any("1 connection out" in why for why in shop.whys())


def test_the_dead_are_kept_while_a_file_may_need_them_and_swept_by_the_next_that_registers(
    shop: Shop,
) -> None:
    if not shop.kind.sweeps:
        return
    shop.generation = "g"
    shop.kind.die(shop.identify, lambda _: None)
    shop.kind.die(shop.identify, lambda entry: shop.acknowledge(entry, connections=1))
    shop.kind.die(shop.identify, shop.acknowledge)
    assert sorted(shop.whys()) == [
        "unknown: died with 1 connection out",
        "unknown: died without a word",
    ]

    def fails() -> str:
        raise PermissionError

    shop.registry.sweep(fails)
    assert len(shop.registry.read()) == 2  # the one that acknowledged had nothing
    shop.register()
    assert len(shop.registry.read()) == 3
    shop.generation = None
    shop.register()
    assert [one.liveness for one in shop.registry.read()] == [ALIVE, ALIVE]


# -- an entry ---------------------------------------------------------------------------------


def test_a_report_is_read_as_it_was_told(shop: Shop) -> None:
    entry = shop.register()
    for report in (BUSY, FULL, BUSY):
        entry.report(lambda report=report: report)
        assert (shop.one().report, shop.one().problem) == (report, None)


def test_a_report_acknowledges_only_after_a_gate_was_closed(shop: Shop) -> None:
    entry, shop.generation = shop.register(), "g"
    entry.report(lambda: Report(READ_ONLY, "g"))
    assert not shop.one().acknowledged

    def close_too_late() -> Report:
        entry.closed()
        return Report(READ_ONLY, "g")

    entry.report(close_too_late)
    assert not shop.one().acknowledged
    entry.report(lambda: Report(READ_ONLY, "g"))
    assert shop.one().acknowledged
    assert judge(shop.identify, shop.registry).holds


@pytest.mark.parametrize(
    "report",
    [
        Report(READ_WRITE),
        Report(READ_ONLY),  # a gate is open yet
        Report(READ_ONLY, "g", forced=READ_WRITE),
    ],
)
def test_a_report_of_a_gate_that_is_not_shut_for_good_does_not_acknowledge(
    shop: Shop, report: Report
) -> None:
    entry = shop.register()
    entry.closed()
    entry.report(lambda: report)
    assert not shop.one().acknowledged


def test_an_acknowledgement_that_is_withdrawn_is_gone_until_a_gate_closes_again(
    shop: Shop,
) -> None:
    entry, shop.generation = shop.register(), "g"
    shop.acknowledge(entry)
    entry.withdraw()
    assert not shop.one().acknowledged
    entry.report(lambda: Report(READ_ONLY, "g"))
    assert not shop.one().acknowledged
    shop.acknowledge(entry)
    assert shop.one().acknowledged


def test_a_report_that_was_begun_before_a_withdrawal_acknowledges_nothing_after_it(
    shop: Shop,
) -> None:
    entry, shop.generation = shop.register(), "g"
    entry.closed()
    inside, go_on = threading.Event(), threading.Event()

    def snapshot() -> Report:
        inside.set()
        assert go_on.wait(BOUND)
        return Report(READ_ONLY, "g")

    thread = threading.Thread(target=entry.report, args=(snapshot,))
    thread.start()
    assert inside.wait(BOUND)
    try:
        entry.withdraw()
    except RegistryError:  # then the gate stays closed, and the report may acknowledge
        withdrawn = False
    else:
        withdrawn = True
    go_on.set()
    thread.join()
    if not withdrawn:
        entry.withdraw()
    assert not shop.one().acknowledged


def test_an_entry_that_was_taken_away_is_missed_and_registered_anew(shop: Shop) -> None:
    entry, shop.generation = shop.register(), "g"
    shop.acknowledge(entry)
    assert entry.lives()
    assert entry.stands()
    assert not entry.ensure()
    shop.kind.lose(entry)
    assert not entry.stands()
    for act in (entry.withdraw, lambda: shop.acknowledge(entry)):
        with pytest.raises(RegistryError):
            act()
    assert shop.registry.read() == []
    assert entry.ensure()
    assert not entry.ensure()
    assert shop.whys() == ["has not reported"]
    shop.acknowledge(entry)
    assert judge(shop.identify, shop.registry).holds


def test_an_entry_that_is_closed_is_gone_and_does_nothing_more(shop: Shop) -> None:
    entry = shop.register()
    entry.report(lambda: BUSY)
    for _ in range(2):
        entry.close()
        entry.closed()
        entry.report(lambda: BUSY)
        entry.withdraw()
        assert entry.lives()
        assert entry.stands()
        assert not entry.ensure()
        assert shop.registry.read() == []


def test_a_forked_child_has_no_entry_until_it_registers_and_leaves_its_parents_alone(
    shop: Shop,
) -> None:
    entry = shop.register()
    entry.report(lambda: BUSY)

    def child() -> None:
        assert not entry.stands()
        with pytest.raises(RegistryError):
            entry.report(lambda: FULL)
        with pytest.raises(RegistryError):
            entry.withdraw()
        assert entry.ensure()
        entry.report(lambda: FULL)
        told = [one.report for one in shop.registry.read() if one.liveness is ALIVE]
        assert BUSY in told
        assert FULL in told
        entry.close()

    in_child(child)
    assert shop.one().report == BUSY


def test_a_registry_is_read_between_two_looks_that_bring_the_same(shop: Shop) -> None:
    shop.register()
    looks = iter(["a", "b", "b"])
    assert read_between(lambda: next(looks), shop.registry)[::2] == ("b", True)
    assert next(looks, None) is None
    steps = iter(range(100))
    last, seen, same = read_between(lambda: next(steps), shop.registry)
    assert (last, len(seen), same) == (10, 1, False)
    assert read_between(lambda: next(steps), shop.registry, lambda _: 0)[0] == 12
    assert read_between(lambda: "a", None) == ("a", (), True)


# -- all that asks a registry -----------------------------------------------------------------


def test_selector_and_session_report_there_and_wait_and_status_read_it(
    shop: Shop, lite: App
) -> None:
    lite.start(workers=shop.registry)
    switch = lite.selector.switch
    with lite.sessions() as session:
        assert session.scalar(WHICH) == "rw"
        lite.on()
        lite.selector.check()
        waiting = WorkersWait(switch.identify, shop.registry, timeout=0)
        assert "1 connection out" in str(waiting.round())
    lite.selector.check()
    assert waiting.round().code == HOLDS
    shown = take(switch, shop.registry)
    assert (shown.registered, shown.noticed, shown.drained) == (1, 1, 1)
    with pytest.raises(ReadOnlyError), lite.sessions.begin() as session:
        session.add(Book(title="x"))
    lite.off()
    lite.selector.check()
    back = WorkersWait(switch.identify, shop.registry, mode=Mode.READ_WRITE)
    assert back.round().code == HOLDS
    lite.selector.close()
    assert back.round().code == NOBODY


def test_with_required_nothing_is_written_while_it_is_broken(shop: Shop, lite: App) -> None:
    shop.register()
    lite.start(workers=shop.registry, ttl=0)
    worker = lite.selector._worker
    worker.required = True  # which a registry of one's own can't be asked for by name
    with shop.kind.broken(), pytest.raises(ReadOnlyError), lite.sessions.begin() as session:
        session.add(Book(title="x"))
    with lite.sessions.begin() as session:
        session.add(Book(title="y"))
    assert lite.titles("rw") == ["y"]


def test_the_status_page_and_metrics_tell_of_it(shop: Shop, lite: App) -> None:
    need("prometheus_client")
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    from sa_readonly.metrics import ReadOnlyCollector  # noqa: PLC0415

    lite.start(workers=shop.registry)
    lite.on()
    with lite.sessions() as session:
        assert session.scalar(WHICH) == "ro"
    page = get(ReadOnlyMiddleware(_nothing, lite.selector, details=True), "/-/read-only")
    assert "workers: 1, noticed: 1, drained: 1" in page
    collectors = CollectorRegistry()
    collectors.register(ReadOnlyCollector(lite.selector))
    assert "sa_readonly_workers_drained" in generate_latest(collectors).decode()


def _nothing(_environ: Any, _start: Any) -> list[bytes]:
    return []


def get(app: Callable[..., Any], path: str) -> str:
    environ: dict[str, Any] = {"PATH_INFO": path, "HTTP_ACCEPT": "text/plain"}
    setup_testing_defaults(environ)
    return b"".join(app(environ, lambda *_: None)).decode()
