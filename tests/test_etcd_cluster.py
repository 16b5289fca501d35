"""Each row of the table of faults in docs/fleet.md: three members, and workers that go by them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from sa_readonly.etcd.client import Client
from sa_readonly.etcd.errors import EtcdError, Full
from sa_readonly.etcd.operator import OperatorError
from sa_readonly.etcd.values import Answer, answer_of, get_op
from tests.app import App, once
from tests.etcd import Etcd, Node, programs
from tests.etcd_fleet import Fleet, Worker
from tests.postgres import ServerUnavailableError, wait_until
from tests.switches import log

__all__ = ["log"]  # a fixture

pytestmark = once
RW, RO = "read-write", "read-only"
# The longer one where nothing is to be refused: a busy machine may take its time for each look.
SHORT, LONG, TTL = 2.0, 10.0, 0.2
TOKEN = 2  # seconds for which a token is good, where that can be chosen


@pytest.fixture(scope="module")
def cluster() -> Iterator[Etcd]:
    try:
        chosen = (programs() / "etcdutl").is_file()  # as it came with 3.5, and so did the flag
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with Etcd(3, parted=True, flags=["--auth-token-ttl", str(TOKEN)] * chosen) as etcd:
        yield etcd


@pytest.fixture
def fleet(cluster: Etcd, lite: App, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet on three members; what a test has done to them is taken back."""
    cluster.clear()
    made = Fleet(cluster, lite, f"/{request.node.name[:40]}/mode")
    try:
        yield made
    finally:
        cluster.heal()
        made.close()


class Load:
    """Workers that write all the time, each in a thread, and what became of that."""

    def __init__(self, *workers: Worker) -> None:
        self.written, self.refused = [0] * len(workers), 0
        self.last = 0.0  # when the last that was written had begun
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=one) for one in enumerate(workers)
        ]

    def _write(self, number: int, worker: Worker) -> None:
        while not self._end.wait(0.005):
            began = time.monotonic()
            if worker.writes():
                self.written[number] += 1
                self.last = began
            else:
                self.refused += 1

    def goes_on(self) -> None:
        """Return when each has written some more."""
        before = list(self.written)
        wait_until(lambda: all(a > b + 20 for a, b in zip(self.written, before, strict=True)), "it")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)


def fill(fleet: Fleet) -> None:
    for number in range(200):
        fleet.client.put(f"/waste/{number}", os.urandom(50_000))


def at(node: Node, key: str) -> Answer:
    """What a member has of a key by itself, without asking the others."""
    status, body = node.request("POST", "/v3/kv/range", {**get_op(key).body, "serializable": True})
    assert status == 200, body
    return answer_of(json.loads(body))


def on(fleet: Fleet) -> None:
    """As an operator does it: once more where etcd has not answered."""
    end = time.monotonic() + 30
    while True:
        try:
            fleet.on()
        except (EtcdError, OperatorError):
            assert time.monotonic() < end
        else:
            return


def looked(mode: str, *workers: Worker) -> None:
    """Wait until they have seen it: on a busy machine a look may take longer than a ttl."""
    wait_until(lambda: {worker.look() for worker in workers} == {mode}, f"{mode} everywhere")


def night(fleet: Fleet, *workers: Worker) -> None:
    """Turn it read-only and back, each time everywhere."""
    on(fleet)
    looked(RO, *workers)
    assert fleet.drained()
    assert not any(worker.writes() for worker in workers)
    fleet.off()
    looked(RW, *workers)
    assert all(worker.writes() for worker in workers)


def led_by(etcd: Etcd, *among: Node) -> Node:
    """The leader, once there is one."""
    found: list[Node] = []

    def leads() -> bool:
        with contextlib.suppress(RuntimeError, OSError):
            found.append(etcd.leader(*among))
        return bool(found)

    wait_until(leads, "a leader")
    return found[0]


def test_no_write_is_refused_while_the_leader_is_killed_and_another_one_is_chosen(
    fleet: Fleet, cluster: Etcd
) -> None:
    fleet.init(LONG)
    workers = [fleet.worker(ttl=TTL) for _ in range(3)]
    with Load(*workers) as load:
        leader = cluster.leader()
        leader.kill()
        led_by(cluster, *cluster.others(leader))
        load.goes_on()
        assert load.refused == 0
    night(fleet, *workers)


def test_a_leader_that_was_stopped_past_everything_wakes_and_lets_nothing_write(
    fleet: Fleet, cluster: Etcd
) -> None:
    fleet.init(SHORT)
    leader = cluster.leader()
    theirs, only = fleet.worker(ttl=TTL), fleet.worker(ttl=TTL, url=leader.url)
    assert theirs.writes()
    assert only.writes()
    leader.stop()
    led_by(cluster, *cluster.others(leader))
    on(fleet)
    looked(RO, theirs)
    assert not theirs.writes()
    (why,) = fleet.whys()
    assert "has not noticed" in why or "lost" in why
    wait_until(lambda: only.look() == RO, "the fence")
    assert only.reason.startswith("etcd can't be reached")
    leader.go_on()
    for _ in range(50):  # by its own last answer the key is not there
        assert not only.writes()
        only.look()
    wait_until(lambda: only.look() and only.reason == "upgrade", "its look")
    wait_until(lambda: only.look() and fleet.drained(), "its word")


def test_a_defragmented_leader_holds_up_no_look_at_the_others(fleet: Fleet, cluster: Etcd) -> None:
    fleet.init(LONG)
    workers = [fleet.worker(ttl=TTL) for _ in range(3)]
    for number in range(40):
        fleet.client.put(f"/waste/{number % 2}", os.urandom(300_000))
    cluster.compact(fleet.client.get("/").revision)
    with Load(*workers) as load:
        leader = cluster.leader()
        status, body = leader.request("POST", "/v3/maintenance/defragment", {})
        assert status == 200, body
        load.goes_on()
        heir = cluster.others(leader)[0]
        cluster.move_leader(leader, heir)
        assert led_by(cluster) is heir
        load.goes_on()
        assert load.refused == 0
    night(fleet, *workers)


def test_without_any_member_all_go_on_for_the_fence_and_are_then_read_only(
    fleet: Fleet, cluster: Etcd, log: Any
) -> None:
    fleet.init(SHORT)
    workers = [fleet.worker(ttl=TTL) for _ in range(2)]
    assert all(worker.writes() for worker in workers)
    with Load(*workers) as load:
        began = time.monotonic()
        for node in cluster.nodes:
            node.stop()
        wait_until(lambda: load.refused > 20, "the fence")
        assert 1 < load.last - began < SHORT + 0.2
    assert {worker.reason.partition(" since ")[0] for worker in workers} == {
        "etcd can't be reached"
    }
    for node in cluster.nodes:
        node.kill()
    (why,) = fleet.whys()
    assert why.startswith("etcd can't be asked")
    cluster.heal()
    for worker in workers:
        wait_until(lambda worker=worker: worker.look() == RW, "etcd's answer")
    night(fleet, *workers)


def test_a_worker_left_with_the_minority_writes_for_the_fence_and_is_lost_until_it_is_back(
    fleet: Fleet, cluster: Etcd
) -> None:
    fleet.init(SHORT)
    leader = cluster.leader()
    theirs = fleet.worker(ttl=TTL)
    parted = fleet.worker(ttl=TTL, url=leader.url)
    with Load(parted) as load:
        began = time.monotonic()
        cluster.part(leader)
        led_by(cluster, *cluster.others(leader))
        on(fleet)
        looked(RO, theirs)
        (why,) = fleet.whys()
        assert "has not noticed" in why
        wait_until(lambda: load.refused > 20, "the fence")
        assert 1 < load.last - began < SHORT + 0.2
    fleet.client.delete(f"{fleet.store.workers}{process_of(fleet, parted)}/alive")  # by its lease
    wait_until(lambda: not fleet.whys(ignore_dead=True), "the fence, for what is waited")
    (why,) = fleet.whys()
    assert why.startswith("lost: read-write")
    cluster.heal()
    wait_until(lambda: parted.look() and parted.reason == "upgrade", "its look")
    wait_until(lambda: parted.look() and fleet.drained(), "its word")


def process_of(fleet: Fleet, worker: Worker) -> str:
    place = worker.entry.place
    return str(place.name.partition("/")[0])


def test_what_a_member_answers_from_the_past_is_no_look(fleet: Fleet, cluster: Etcd) -> None:
    fleet.init(SHORT)
    behind = cluster.others(cluster.leader())[0]
    worker = fleet.worker(ttl=TTL, url=behind.url)
    assert worker.writes()
    cluster.part(behind)
    on(fleet)
    with closing(Client(behind.url, timeout=1.0)) as client:
        assert at(behind, fleet.store.key).kv is None  # it answers, and the key has been put
        assert at(behind, fleet.store.marker).kv is not None
        with pytest.raises(EtcdError):
            client.get(fleet.store.key)
    wait_until(lambda: not worker.writes(), "the fence")
    for _ in range(5):
        assert at(behind, fleet.store.key).kv is None
        assert worker.look() == RO
    cluster.heal()
    wait_until(lambda: worker.look() == RO and worker.reason == "upgrade", "its look")


def test_a_token_that_has_expired_at_the_other_members_is_got_anew(
    fleet: Fleet, cluster: Etcd, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    fleet.init(LONG)
    if not any("--auth-token-ttl" in flag for flag in cluster.flags):
        pytest.skip("NOT TESTED: before etcd 3.5 a token is good for 300 s.")
    key, workers = fleet.store.key, fleet.store.workers
    rights = [("READ", key, False), ("READ", fleet.store.marker, False)]
    cluster.users(app=("secret", [*rights, ("READWRITE", workers, True)]))
    try:
        monkeypatch.setenv("SA_READONLY_ETCD_USER", "app")
        monkeypatch.setenv("SA_READONLY_ETCD_PASSWORD", "secret")
        worker = fleet.worker(ttl=TTL)
        client: Any = worker.switch.store.client
        first = client._endpoints._first
        end = time.monotonic() + 2 * TOKEN
        while time.monotonic() < end:  # its member prolongs it at each look, and no other one does
            assert worker.look() == RW
            time.sleep(TTL)
        token = client._login._token
        assert client._endpoints._first == first
        elsewhere = cluster.others(cluster.nodes[first])[0]
        assert elsewhere.request("POST", "/v3/kv/range", get_op(key).body, token)[0] == 401
        cluster.nodes[first].kill()
        worker.switch.fresh_until = -float("inf")
        assert worker.writes()
        wait_until(lambda: worker.look() and client._login._token not in (None, token), "a login")
        assert worker.writes()
        assert not any("->" in text for _, text in log())
    finally:
        cluster.heal()
        cluster.no_users()


def test_a_rolling_restart_refuses_no_write(fleet: Fleet, cluster: Etcd) -> None:
    fleet.init(LONG)
    workers = [fleet.worker(ttl=TTL) for _ in range(3)]
    with Load(*workers) as load:
        for node in cluster.nodes:
            node.restart()
            load.goes_on()
        assert load.refused == 0
    night(fleet, *workers)


def test_a_member_without_space_stops_what_writes_and_no_look(fleet: Fleet, cluster: Etcd) -> None:
    fleet.init(LONG)
    full = cluster.others(cluster.leader())[0]
    workers = [fleet.worker(ttl=TTL) for _ in range(2)]
    assert all(worker.writes() for worker in workers)  # what starts later can't register
    full.flags = ["--quota-backend-bytes", "400000"]
    full.restart()
    with pytest.raises(Full):
        fill(fleet)
    assert {alarm.member_id for alarm in fleet.client.alarms()} == {full.member_id}
    assert all(worker.writes() for worker in workers)
    with pytest.raises(OperatorError, match="In an emergency deleting the marker"):
        fleet.on()
    fleet.client.delete(fleet.store.marker)
    looked(RO, *workers)
    fleet.client.delete("/waste/", prefix=True)
    cluster.compact(fleet.client.get("/").revision)
    full.request("POST", "/v3/maintenance/defragment", {})
    for alarm in fleet.client.alarms():
        told = {"action": "DEACTIVATE", "alarm": alarm.kind, "memberID": str(alarm.member_id)}
        cluster.ask("/v3/maintenance/alarm", told)
    full.flags = []
    full.restart()
    on(fleet)
    looked(RO, *workers)
    fleet.off()
    looked(RW, *workers)
    assert all(worker.writes() for worker in workers)
