"""The client of etcd's JSON gateway, on a real etcd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sa_readonly.etcd.client import Client
from sa_readonly.etcd.errors import Denied, FutureRevision, NotFound, Unreachable
from sa_readonly.etcd.values import absent, created, delete_op, get_op, put_op
from tests.etcd import Etcd, Proxy


@pytest.fixture
def client(etcd: Etcd) -> Iterator[Client]:
    with Client(etcd.urls) as client:
        yield client


# -- keys ------------------------------------------------------------------------------------


def test_a_key_is_read_as_it_was_written(client: Client) -> None:
    written = client.put("/myapp/schlüssel", "grün\n\0")
    read = client.get("/myapp/schlüssel")
    assert read.kv.key == "/myapp/schlüssel"
    assert read.kv.value.decode() == read.kv.text == "grün\n\0"
    assert read.kv.create_revision == read.kv.mod_revision == read.revision == written.revision
    assert (read.kv.version, read.kv.lease, read.count) == (1, 0, 1)


def test_a_key_that_is_not_there_is_no_error(client: Client) -> None:
    read = client.get("/none")
    assert (read.kv, read.kvs, read.count) == (None, (), 0)
    assert client.delete("/none").deleted == 0


def test_a_range_is_all_that_begins_with_the_prefix_and_no_more(client: Client) -> None:
    for key in ("/a", "/a.workers/1", "/a.workers/2", "/a.workers0", "/b"):
        client.put(key, "x")
    assert [kv.key for kv in client.range("/a.workers/").kvs] == ["/a.workers/1", "/a.workers/2"]
    assert [kv.value for kv in client.range("/a.workers/", keys_only=True).kvs] == [b"", b""]


def test_a_range_reads_the_past(client: Client) -> None:
    before = client.put("/a/1", "old").revision
    client.put("/a/1", "new")
    assert client.range("/a/", revision=before).kvs[0].value == b"old"


def test_a_revision_that_has_not_been_yet_is_told(client: Client) -> None:
    with pytest.raises(FutureRevision) as caught:
        client.range("/a/", revision=client.get("/a").revision + 10)
    assert caught.value.code == 11


def test_a_transaction_does_one_branch(client: Client) -> None:
    made = client.txn([absent("/a")], [put_op("/a", "1"), get_op("/b")], [get_op("/a")])
    assert made.succeeded
    assert [answer.count for answer in made.answers] == [0, 0]
    again = client.txn([absent("/a")], [put_op("/a", "2")], [get_op("/a")])
    assert not again.succeeded
    assert again.answers[0].kv.value == b"1"
    assert again.answers[0].cluster_id == again.cluster_id != 0
    gone = client.txn([created("/a") == made.revision], [delete_op("/a", prev=True)])
    assert gone.succeeded
    assert gone.answers[0].prev_kvs[0].value == b"1"


# -- leases ----------------------------------------------------------------------------------


def test_a_lease_holds_a_key_until_it_is_revoked(client: Client) -> None:
    lease = client.grant(60)
    assert lease.ttl == 60
    client.put("/a", "1", lease=lease.id)
    assert client.get("/a").kv.lease == lease.id
    assert client.keepalive(lease.id) == 60
    client.revoke(lease.id)
    assert client.get("/a").kv is None


def test_a_lease_that_is_gone_is_told(client: Client) -> None:
    lease = client.grant(60)
    client.revoke(lease.id)
    client.revoke(lease.id)
    assert client.keepalive(lease.id) == 0
    with pytest.raises(NotFound):
        client.put("/a", "1", lease=lease.id)


# -- watches ---------------------------------------------------------------------------------


def test_a_watch_tells_what_changes(client: Client) -> None:
    with client.watch("/a", prefix=True) as watch:
        assert watch.read(0) == ()
        client.put("/a", "1")
        client.delete("/a")
        events = [event for _ in range(2) for event in watch.read(10)]
        assert [(event.deleted, event.kv.value) for event in events] == [(False, b"1"), (True, b"")]


# -- without an answer -----------------------------------------------------------------------


@pytest.mark.parametrize("pause", [None, 0.05])
def test_a_server_that_is_silent_or_trickles_is_waited_for_until_the_deadline(
    etcd: Etcd, pause: float | None
) -> None:
    with Proxy(etcd.node.port) as proxy, Client(proxy.url) as client:
        client.get("/a")
        if pause is None:
            proxy.flows.clear()
        else:
            proxy.pause = pause
        with pytest.raises(Unreachable, match="no answer in time"):
            client.get("/a", timeout=0.2)


# -- users -----------------------------------------------------------------------------------


def test_a_user_may_what_the_role_says(etcd: Etcd) -> None:
    etcd.users(worker=("geheim", [("READ", "/a", False)]))
    try:
        with Client(etcd.urls, user="worker", password="geheim") as client:
            assert client.get("/a").kv is None
            with pytest.raises(Denied) as caught:
                client.put("/a", "1")
            assert caught.value.code == 7
    finally:
        etcd.no_users()
