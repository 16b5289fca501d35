"""A process as a worker on etcd: its threads and loops, what it costs, its rights and its host."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import sessionmaker

from sa_readonly import EngineSelector, FileSwitch, ReadOnlyError, RoutingSession
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.etcd.changes import Changes
from sa_readonly.etcd.operator import turn_off, turn_on
from sa_readonly.etcd.registry import read
from sa_readonly.etcd.switch import store_of
from sa_readonly.workers import process
from tests.app import WHICH, Clock, need
from tests.etcd_fleet import Fleet, bare, fleet
from tests.postgres import wait_until
from tests.switches import BOUND
from tests.test_calls import calls, reading

__all__ = ["bare", "fleet"]  # fixtures

RW, RO = "read-write", "read-only"


def test_while_nothing_happens_it_sends_two_looks_each_ttl_and_its_lease(fleet: Fleet) -> None:
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
    wait_until(lambda: asked.total() >= 8, "eight looks")
    seconds = time.monotonic() - began
    assert asked["/v3/kv/txn"] <= 2 * seconds / ttl + 1
    assert set(asked) <= {"/v3/kv/txn", "/v3/lease/keepalive"}


@pytest.mark.parametrize("read_only", [False, True])
def test_a_transaction_costs_the_calls_that_it_costs_with_a_file(
    bare: Fleet, read_only: bool
) -> None:
    bare.init(60)
    app, worker = bare.app, bare.worker(ttl=15)
    engines = [app.make_engine(app.urls[name]) for name in ("rw", "ro")]
    app.made += engines
    if read_only:
        app.on()
        bare.on()
    options = {"read_write": engines[0], "read_only": engines[1]}
    with EngineSelector(FileSwitch(app.path, ttl=15), watch=False, **options) as selector:
        sessions = sessionmaker(selector, class_=RoutingSession)
        for one in (selector, worker.selector):
            one.check()
        for statements in (1, 10):
            by_etcd = calls(reading(worker.sessions, statements))
            assert by_etcd == calls(reading(sessions, statements))
        assert calls(lambda: worker.selector.read_only) == calls(lambda: selector.read_only)


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


async def _until_refused(connect: Any) -> None:
    while True:
        await connect()


def test_with_users_a_worker_needs_no_more_rights_than_the_docs_give_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
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
