"""A process as a worker on etcd: its threads and loops, what it costs, its rights and its host."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sa_readonly import EngineSelector, Mode, ReadOnlyError
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.etcd import switch as etcd_switch
from sa_readonly.etcd.changes import Changes
from sa_readonly.etcd.operator import turn_off, turn_on
from sa_readonly.etcd.registry import read
from sa_readonly.etcd.switch import store_of
from sa_readonly.etcd.values import Event
from sa_readonly.mode import clock
from sa_readonly.workers import process
from sa_readonly.workers.protocol import Report
from tests.app import WHICH, Clock, in_thread, need
from tests.etcd_fleet import Fleet, bare, fleet
from tests.postgres import wait_until
from tests.switches import BOUND, in_child, log
from tests.test_calls import calls, reading, writing

__all__ = ["bare", "fleet", "log"]  # fixtures

RW, RO = "read-write", "read-only"
DOCS = (Path(__file__).parent.parent / "docs" / "etcd.md").read_text()


def test_while_nothing_happens_it_sends_two_looks_each_ttl_and_its_lease_and_no_transaction(
    fleet: Fleet,
) -> None:
    ttl = 0.1
    worker = fleet.worker(ttl=ttl, watch=True)
    worker.write()
    asked: Counter[str] = Counter()
    client, real = worker.switch.store.client, worker.switch.store.client._ask
    client._ask = lambda path, *args, **options: (
        asked.update([path]) or real(path, *args, **options)
    )
    worker.look()
    asked.clear()
    began = time.monotonic()
    wait_until(lambda: asked.total() >= 24, "eight looks")
    seconds = time.monotonic() - began
    assert asked["/v3/kv/range"] <= 3 * (2 * seconds / ttl + 1)  # three reads each
    assert set(asked) <= {"/v3/kv/range", "/v3/lease/keepalive"}


def test_while_an_answer_is_fresh_a_transaction_costs_what_it_costs_with_a_file(
    bare: Fleet,
) -> None:
    bare.init(60)
    worker = bare.worker(ttl=19)
    bare.app.engines.update(rw=worker.engine, ro=worker.other)
    costs = [calls(make(worker.sessions)) for make in (partial(reading, statements=1), writing)]
    worker.selector.close()
    bare.app.start(ttl=3600)
    for make, cost in zip((partial(reading, statements=1), writing), costs, strict=True):
        assert cost == calls(make(bare.app.sessions))


def test_while_etcd_answers_no_look_no_transaction_asks_it_for_anything(
    bare: Fleet, clock: Clock
) -> None:
    bare.init(1)
    worker = bare.worker(proxied=True, ttl=0.2)
    assert worker.writes()
    worker.cut_off()
    worker.switch.check()
    asked: set[threading.Thread] = set()
    endpoints, real = (
        worker.switch.store.client._endpoints,
        worker.switch.store.client._endpoints.ask,
    )
    endpoints.ask = lambda *args, **how: asked.add(threading.current_thread()) or real(*args, **how)
    for _ in range(3):
        clock.ahead += 6  # past the fence, and past what else would be due
        assert not worker.writes()
    assert asked
    assert threading.current_thread() not in asked
    worker.connect_again()
    clock.ahead += 6
    worker.look()
    assert worker.writes()


def test_on_a_loop_a_look_is_awaited_and_a_new_connection_waits_for_one(fleet: Fleet) -> None:
    need("aiosqlite")
    worker = fleet.worker(proxied=True, ttl=0.3)
    url = fleet.app.urls
    engines = [create_async_engine(url[name].set(drivername="sqlite+aiosqlite")) for name in url]
    threads: set[int] = set()
    ask = worker.switch._ask

    def noted(look: Any) -> Any:
        threads.add(threading.get_ident())
        return ask(look)

    async def ticks(until: asyncio.Task[Any]) -> int:
        number = 0
        while not until.done():
            number += 1
            await asyncio.sleep(0.01)
        return number

    async def connect() -> str:
        async with engines[0].connect() as connection:
            return str(await connection.scalar(WHICH))

    async def main() -> None:
        options = {"read_write": engines[0], "read_only": engines[1], "watch": False}
        async with EngineSelector(worker.switch, **options) as selector:
            assert await connect() == "rw"
            worker.switch._ask = noted
            await engines[0].dispose()
            assert await connect() == "rw"
            assert threads
            assert threading.get_ident() not in threads
            await engines[0].dispose()
            worker.proxy.flows.clear()  # etcd is silent, and the loop goes on
            task = asyncio.create_task(connect())
            assert await ticks(task) > 5
            assert await task == "rw"
            worker.proxy.flows.set()
            fleet.on()
            with pytest.raises(ReadOnlyError):
                await asyncio.wait_for(_until_refused(connect), BOUND)
            assert selector.switch.known.reason == "upgrade"
        for engine in engines:
            await engine.dispose()

    worker.selector.close()
    asyncio.run(main())


def test_a_connection_whose_wait_for_a_look_is_cancelled_is_closed(fleet: Fleet) -> None:
    need("aiosqlite")
    worker = fleet.worker(proxied=True, ttl=3)
    worker.selector.close()
    url = fleet.app.urls
    engines = [create_async_engine(url[name].set(drivername="sqlite+aiosqlite")) for name in url]

    async def main() -> None:
        options = {"read_write": engines[0], "read_only": engines[1], "watch": False}
        async with EngineSelector(worker.switch, **options) as selector:
            async with engines[0].connect():
                pass
            await engines[0].dispose()
            door = selector._guarded.doors[0]
            worker.proxy.flows.clear()
            task = asyncio.create_task(engines[0].connect().start())
            while not worker.switch._under_way:
                await asyncio.sleep(0.001)
            assert door.connections
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert door.connections == 0
            worker.proxy.flows.set()
        for engine in engines:
            await engine.dispose()

    asyncio.run(main())


async def _until_refused(connect: Any) -> None:
    while True:
        await connect()


def test_with_users_a_worker_needs_no_more_rights_than_the_docs_give_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    store = fleet.store
    fleet.etcd.users(
        shop=(
            "secret",
            [
                ("READ", store.key, False),
                ("READ", store.marker, False),
                ("READWRITE", f"{store.workers}shop-", True),
            ],
        ),
        ops=(
            "secret too",
            [
                ("READWRITE", store.key, False),
                ("READWRITE", store.marker, False),
                ("READWRITE", store.workers, True),
            ],
        ),
    )
    try:
        monkeypatch.setenv("SA_READONLY_ETCD_USER", "shop")
        monkeypatch.setenv("SA_READONLY_ETCD_PASSWORD", "secret")
        worker = fleet.worker()
        assert worker.writes()
        assert worker.entry._process.startswith(f"shop-{process.host()}-")
        ops = store_of(fleet.etcd.urls, store.key, user="ops", password="secret too")
        turn_on(ops)
        assert worker.look() == RO
        (one,) = read(ops).seen
        assert one.acknowledged
        assert turn_off(ops).key is not None
        assert worker.look() == RW
        assert worker.writes()
        assert "secret" not in f"{worker.switch!r} {ops.client!r} {worker.switch.registry!r}"
        worker.selector.close()
        assert read(ops).entries == {}
        wrong = EtcdSwitch(fleet.etcd.urls, key=store.key, user="shop", password="guessed")
        assert wrong.known.read_only
        (line,) = [text for level, text in log() if level == "ERROR"]
        assert "the user 'shop'" in line
        assert not {"secret", "guessed"} & set(line.split())
    finally:
        monkeypatch.undo()
        fleet.etcd.no_users()


def test_workers_of_two_hosts_are_told_by_their_hosts(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in ("web2", "web1"):
        with monkeypatch.context() as there:
            there.setattr(process, "host", lambda host=host: host)
            fleet.worker().write()
    reading = fleet.read()
    assert [one.host for one in reading.seen] == ["web1", "web2"]
    assert all(one.name.startswith(f"{one.host}-") for one in reading.seen)
    fleet.on()
    for worker in fleet.workers:
        worker.look()
    assert fleet.drained()


def test_an_entry_goes_with_its_selector(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    worker.selector.close()
    assert fleet.read().entries == {}


def test_the_entry_of_a_selector_that_is_collected_is_taken_away_by_a_thread_of_its_own(
    fleet: Fleet,
) -> None:
    worker = fleet.worker()
    worker.write()
    asked: set[threading.Thread] = set()
    endpoints, real = (
        worker.switch.store.client._endpoints,
        worker.switch.store.client._endpoints.ask,
    )
    endpoints.ask = lambda *args, **how: asked.add(threading.current_thread()) or real(*args, **how)
    fleet.workers.clear()
    worker.selector = worker.sessions = None
    gc.collect()
    wait_until(lambda: not fleet.read().entries, "the entry has gone")
    assert threading.current_thread() not in asked


def test_the_hint_is_renewed_and_made_anew_where_that_fails(fleet: Fleet, clock: Clock) -> None:
    worker = fleet.worker()
    worker.write()
    key = fleet.store.workers + worker.entry._process + "/alive"
    lease = fleet.client.get(key).kv.lease
    clock.ahead += 4
    worker.look()
    assert fleet.client.get(key).kv.lease == lease
    fleet.client.revoke(lease)
    assert fleet.one().liveness.value == "lost"
    clock.ahead += 4
    worker.look()
    assert fleet.one().liveness.value == "alive"


def test_changes_are_told_and_a_burst_of_them_is_one(fleet: Fleet) -> None:
    with Changes(store_of(fleet.etcd.urls, fleet.store.key)) as changes:
        assert changes.wait(BOUND)  # the watch has begun
        assert not changes.wait(0.01)
        for number in range(5):
            fleet.client.put(f"{fleet.store.workers}{number}", "")
        assert changes.wait(BOUND)
        times = 1
        while changes.wait(0.05):
            times += 1
        assert times < 5
        fleet.worker().write()
        assert changes.wait(BOUND)


def test_no_watch_is_begun_while_etcd_does_not_answer_looks(fleet: Fleet) -> None:
    store = store_of(fleet.etcd.urls, fleet.store.key)
    store.answers = False  # the last look was in vain: a fork would wait for what asks, too
    with Changes(store) as changes:
        assert not changes.wait(0.2)


def followers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "sa_readonly changes"]


def test_where_a_thread_watches_a_flip_is_noticed_long_before_a_look_is_due(bare: Fleet) -> None:
    bare.init(60)
    worker = bare.worker(ttl=15.0, watch=True)
    worker.write()
    wait_until(followers, "the watch")
    for turn, mode in ((bare.on, RO), (bare.off, RW)):
        worker.switch.store.client.get("/")
        turn()
        wait_until(lambda mode=mode: str(worker.switch.known.mode) == mode, "the flip", 5)
        if mode == RO:
            wait_until(bare.drained, "its acknowledgement", 5)
    worker.close()
    wait_until(lambda: not followers(), "the end of its thread", 5)
    alone = bare.worker(ttl=15.0)
    alone.write()
    assert not followers()  # with watch=False none is to notice anything


def test_a_watchs_word_shuts_the_gates_and_what_a_look_shows_is_acknowledged(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    worker = fleet.worker(ttl=3.0, watch=True)
    worker.write()
    switch, goes_on = worker.switch, threading.Event()
    wait_until(lambda: switch._follower._watch, "the watch")
    real = switch._ask
    monkeypatch.setattr(switch, "_ask", lambda look: goes_on.wait(BOUND) and real(look))
    before = clock()
    fleet.on()
    # What a watch tells as it begins may wait a ttl for the look; past the fence no look is needed.
    wait_until(lambda: switch.known.read_only, "the flip", 9)
    assert (switch.known.reason, switch.known.generation) == ("upgrade", None)
    assert switch.checked < before  # no answer is younger for it
    assert not worker.writes()
    assert not fleet.drained()
    goes_on.set()
    wait_until(fleet.drained, "its acknowledgement", 5)
    assert len([line for _, line in log() if "-> read-only" in line]) == 1  # told once


def test_what_a_watch_tells_late_shuts_nothing_and_an_earlier_look_opens_nothing(
    fleet: Fleet, log: Any
) -> None:
    worker = fleet.worker(ttl=0.2)
    worker.write()
    fleet.on()
    worker.look()
    late = Event(False, fleet.client.get(fleet.store.key).kv)
    fleet.off()
    assert worker.look() == RW
    before = len(log())
    worker.switch._changed((late,))
    assert (str(worker.switch.known.mode), log()[before:]) == (RW, [])
    real, modes, ended = worker.switch._ask, [], threading.Event()

    def overtaken(look: Any) -> Any:
        answer = real(look)
        worker.switch._ask = real
        fleet.on()
        put = Event(False, fleet.client.get(fleet.store.key).kv)
        in_thread(lambda: worker.switch._changed((put,)))  # what it waits for takes longer than ttl
        ended.set()
        return answer

    forget = worker.switch.subscribe(lambda state: modes.append(str(state.mode)), lambda *_: None)
    worker.switch._ask = overtaken
    worker.switch.check()
    assert ended.wait(BOUND)
    worker.switch.check()
    assert worker.look() == RO
    assert modes[:2] == [RW, RO]
    assert RW not in modes[2:]
    assert fleet.drained()
    forget()


def test_a_put_that_a_look_overtakes_as_it_is_told_shuts_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    worker = fleet.worker(ttl=0.2)
    worker.write()
    fleet.on()
    put = Event(False, fleet.client.get(fleet.store.key).kv)
    fleet.off()
    real, overtaken = etcd_switch.announced, []

    def announced(kv: Any) -> Any:
        in_thread(worker.switch.check)
        overtaken.append(kv)
        return real(kv)

    before = len(log())
    with monkeypatch.context() as patch:
        patch.setattr(etcd_switch, "announced", announced)
        worker.switch._changed((put,))
    assert overtaken == [put.kv]
    assert (str(worker.switch.known.mode), log()[before:]) == (RW, [])


def test_a_watch_that_is_silent_or_ends_is_none_that_looks_wait_for(fleet: Fleet) -> None:
    worker = fleet.worker(proxied=True, watch=True, ttl=0.2)
    worker.write()
    wait_until(followers, "the watch")
    worker.proxy.cut()
    fleet.on()
    wait_until(lambda: str(worker.switch.known.mode) == RO, "the flip", 5)


def test_a_forked_child_has_a_watch_of_its_own_and_the_parent_keeps_one(fleet: Fleet) -> None:
    worker = fleet.worker(watch=True)
    worker.write()
    wait_until(followers, "the watch")

    def child() -> int:
        inherited = bool(followers())
        worker.look()
        wait_until(followers, "its own", 5)
        worker.selector.close()
        return int(inherited)

    assert in_child(child) == 0
    assert followers()


def test_the_rights_that_the_docs_give_are_enough(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = DOCS.partition("```bash\n")[2].partition("```")[0].splitlines()
    assert len(commands) == 14
    server, store = fleet.etcd, fleet.store
    server.users(myapp=("secret", ()), operator=("too", ()))
    try:
        for command in commands:
            words = command.replace("/myapp/read-only", store.key).split()[1:]
            if words[:2] != ["role", "add"]:  # they are there
                server.ctl(*words, user="root:root")
        worker = EtcdSwitch(server.urls, key=store.key, user="myapp", password="secret")
        entry = worker.registry.register(worker.identify)
        assert not worker.check().read_only
        assert len(read(worker.store).seen) == 1
        ops = store_of(server.urls, store.key, user="operator", password="too")
        key = turn_on(ops).key
        entry.closed()
        entry.report(lambda: Report(Mode.READ_ONLY, key.generation))
        assert read(ops).seen[0].acknowledged
        turn_off(ops)
        assert not worker.check().read_only
        entry.close()
        assert read(ops).entries == {}
    finally:
        server.no_users()
