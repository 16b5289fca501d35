"""The client of etcd's JSON gateway, on a real etcd."""

from __future__ import annotations

import gc
import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from urllib3.connection import HTTPConnection

from sa_readonly.etcd import endpoints
from sa_readonly.etcd.client import Client
from sa_readonly.etcd.errors import (
    Compacted,
    EtcdError,
    Full,
    FutureRevision,
    Leaderless,
    NotFound,
    Unreachable,
    failure,
)
from sa_readonly.etcd.values import absent, created, delete_op, get_op, modified, put_op
from tests.app import Clock, once, opened
from tests.etcd import Etcd, Proxy, free_ports
from tests.postgres import wait_until
from tests.test_forks import in_child

BOUND = 10  # seconds, for what takes none


@pytest.fixture
def client(etcd: Etcd) -> Iterator[Client]:
    with Client(etcd.urls) as client:
        yield client


@pytest.fixture
def proxy(etcd: Etcd) -> Iterator[Proxy]:
    with Proxy(etcd.node.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The member that is given first is asked first; in an application it is any of them."""
    monkeypatch.setattr(endpoints.random, "randrange", lambda _: 0)


# -- keys ------------------------------------------------------------------------------------


def test_a_key_is_read_as_it_was_written(client: Client) -> None:
    written = client.put("/myapp/schlüssel", "grün\n\0")
    read = client.get("/myapp/schlüssel")
    assert read.kv.key == "/myapp/schlüssel"
    assert read.kv.value.decode() == read.kv.text == "grün\n\0"
    assert read.kv.create_revision == read.kv.mod_revision == read.revision == written.revision
    assert (read.kv.version, read.kv.lease, read.count) == (1, 0, 1)
    assert read.cluster_id == written.cluster_id > 2**53


def test_a_key_that_is_not_there_is_no_error(client: Client) -> None:
    read = client.get("/none")
    assert (read.kv, read.kvs, read.count) == (None, (), 0)
    assert client.delete("/none").deleted == 0


def test_a_key_that_is_no_text_is_found_again_by_what_was_read(client: Client, etcd: Etcd) -> None:
    etcd.ask("/v3/kv/put", {"key": "L2H/", "value": "/w=="})
    (kv,) = client.range("/a").kvs
    assert (kv.value, kv.text) == (b"\xff", "�")
    assert client.delete(kv.key, prev=True).prev_kvs == (kv,)


def test_a_range_is_all_that_begins_with_the_prefix_and_no_more(client: Client) -> None:
    for key in ("/a", "/a.workers/1", "/a.workers/2", "/a.workers0", "/b"):
        client.put(key, "x")
    assert [kv.key for kv in client.range("/a.workers/").kvs] == ["/a.workers/1", "/a.workers/2"]
    assert [kv.value for kv in client.range("/a.workers/", keys_only=True).kvs] == [b"", b""]
    assert client.range("").count == 5


def test_a_range_reads_the_past_until_it_is_compacted(client: Client, etcd: Etcd) -> None:
    before = client.put("/a/1", "old").revision
    now = client.put("/a/1", "new").revision
    assert client.range("/a/", revision=before).kvs[0].value == b"old"
    etcd.compact(now)
    with pytest.raises(Compacted) as caught:
        client.range("/a/", revision=before)
    assert caught.value.code == 11


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
    same = [created("/a") == made.revision, modified("/a") == made.revision]
    gone = client.txn(same, [delete_op("/a", prev=True)])
    assert gone.succeeded
    assert gone.answers[0].prev_kvs[0].value == b"1"
    assert client.txn([created("/a") > 0], []).succeeded is False


def test_a_full_etcd_refuses_to_put_and_goes_on_to_read(client: Client, etcd: Etcd) -> None:
    client.put("/a", "1")
    with etcd.full():
        for refused in (
            lambda: client.put("/a", "2"),
            lambda: client.grant(60),
            lambda: client.txn([absent("/b")], [get_op("/a")], [put_op("/a", "2")]),
        ):
            with pytest.raises(Full) as caught:
                refused()
            assert caught.value.code == 8
        assert client.get("/a").kv.value == b"1"
        assert client.delete("/a").deleted == 1


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
        assert watch.revision == client.get("/a").revision
        assert watch.read(0) == ()
        client.put("/a", "1")
        gone = client.delete("/a").revision
        events = [event for _ in range(2) for event in watch.read(BOUND)]
        assert [(event.deleted, event.kv.value) for event in events] == [(False, b"1"), (True, b"")]
        assert watch.revision == events[1].kv.mod_revision == gone


def test_a_watch_tells_what_has_changed_since_a_revision(client: Client) -> None:
    first = client.put("/a", "1").revision
    client.put("/a", "2")
    with client.watch("/a", start_revision=first) as watch:
        events = wait_until(lambda: watch.read(0), "what has changed", BOUND)
        assert [event.kv.text for event in events] == ["1", "2"]


def test_a_watch_loses_nothing_of_what_comes_in_pieces(proxy: Proxy, client: Client) -> None:
    with Client(proxy.url) as slow, slow.watch("/a") as watch:
        proxy.pause = 0.0005
        client.put("/a", "1")
        client.put("/a", "2")
        events = []
        wait_until(lambda: events.extend(watch.read(0.01)) or len(events) == 2, "both", BOUND)
        assert [event.kv.text for event in events] == ["1", "2"]


def test_a_watch_tells_large_changes_whole(client: Client) -> None:
    with client.watch("/a") as watch:
        client.put("/a", "x" * 500_000)
        (event,) = watch.read(BOUND)
        assert len(event.kv.value) == 500_000


def test_a_watch_from_a_compacted_revision_says_so(client: Client, etcd: Etcd) -> None:
    first = client.put("/a", "1").revision
    kept = client.put("/a", "2").revision
    etcd.compact(kept)
    with client.watch("/a", start_revision=first) as watch:
        with pytest.raises(Compacted) as caught:
            watch.read(BOUND)
        assert (caught.value.code, caught.value.revision) == (11, kept)


def test_each_step_of_a_watch_is_bounded(client: Client) -> None:
    with client.watch("/a") as watch:
        watch.step = 0.01
        began = time.monotonic()
        assert next(iter(watch)) == ()
        assert time.monotonic() - began < BOUND / 2


def test_a_watch_is_ended_from_another_thread(client: Client) -> None:
    watch = client.watch("/a")
    watch.step = BOUND
    steps: list[object] = []
    reader = threading.Thread(target=lambda: steps.extend(watch))
    reader.start()
    client.put("/a", "1")
    wait_until(lambda: steps, "the event", BOUND)
    began = time.monotonic()
    watch.close()
    reader.join(BOUND)
    assert time.monotonic() - began < BOUND / 2
    assert len(steps) == 2  # the event, and what the end interrupted
    assert list(watch) == []


def test_a_watch_whose_connection_ends_says_so(proxy: Proxy) -> None:
    with Client(proxy.url) as client, client.watch("/a") as watch:
        proxy.cut()
        with pytest.raises(Unreachable, match="has ended"):
            watch.read(BOUND)


def test_a_watch_that_does_not_begin_is_not_waited_for(proxy: Proxy) -> None:
    proxy.flows.clear()
    with Client(proxy.url) as client, pytest.raises(Unreachable, match="no answer in time"):
        client.watch("/a", timeout=0.05)


# -- without an answer -----------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0, 0.05])
def test_a_server_that_is_silent_or_trickles_is_waited_for_until_the_deadline(
    proxy: Proxy, pause: float
) -> None:
    with Client(proxy.url) as client:
        client.get("/a")
        proxy.pause = pause
        if not pause:
            proxy.flows.clear()
        began = time.monotonic()
        with pytest.raises(Unreachable, match="no answer in time"):
            client.get("/a", timeout=0.2)
        assert 0.2 <= time.monotonic() - began < BOUND / 2


def test_a_connection_without_an_answer_is_never_used_again(proxy: Proxy, client: Client) -> None:
    client.put("/a", "a")
    client.put("/b", "b")
    with Client(proxy.url) as slow:
        assert [slow.get(key).kv.text for key in ("/a", "/b")] == ["a", "b"]
        assert proxy.connected == 1
        proxy.flows.clear()
        with pytest.raises(Unreachable):
            slow.get("/a", timeout=0.05)
        proxy.flows.set()
        assert slow.get("/b").kv.text == "b"
        assert proxy.connected == 2


def test_a_connection_that_the_server_has_ended_is_not_used(proxy: Proxy) -> None:
    with Client(proxy.url) as client:
        client.put("/a", "1")
        proxy.cut()
        wait_until(lambda: not proxy._sockets, "its end", BOUND)
        client.put("/a", "2")
        assert proxy.connected == 2


def test_a_connection_ends_though_another_process_has_a_copy_of_it(proxy: Proxy) -> None:
    with Client(proxy.url) as client:
        client.get("/a")
        (connection,) = client._endpoints.each()[0]._idle
        copy = os.dup(connection.sock.fileno())
        try:
            client.close()
            wait_until(lambda: not proxy._sockets, "its end", BOUND)
        finally:
            os.close(copy)


def test_a_write_without_an_answer_is_not_sent_again_and_may_be_done(
    proxy: Proxy, etcd: Etcd, client: Client
) -> None:
    with Client([proxy.url, etcd.urls]) as cut_off:
        caught: list[Unreachable] = []

        def put() -> None:
            with pytest.raises(Unreachable) as error:
                cut_off.put("/a", "1", timeout=BOUND)
            caught.append(error.value)

        proxy.answers.clear()
        writer = threading.Thread(target=put)
        writer.start()
        wait_until(lambda: client.get("/a").kv, "the write", BOUND)
        proxy.cut()
        proxy.answers.set()
        writer.join(BOUND)
        assert [error.may_be_done for error in caught] == [True]
        assert client.get("/a").kv.version == 1


def test_a_write_that_was_not_sent_goes_to_another_member(etcd: Etcd) -> None:
    (closed,) = free_ports(1)
    with Client([f"http://127.0.0.1:{closed}", etcd.urls]) as client:
        client.put("/a", "1")
        assert client.get("/a").kv.text == "1"
    with Client(f"http://127.0.0.1:{closed},http://localhost:{closed}") as client:
        with pytest.raises(Unreachable, match="Connection refused") as caught:
            client.put("/a", "1")
        assert not caught.value.may_be_done


def test_a_silent_member_leaves_time_for_another_one_which_is_then_the_first(
    proxy: Proxy, etcd: Etcd
) -> None:
    with Client([proxy.url, etcd.urls]) as client:
        proxy.flows.clear()
        client.get("/a", timeout=0.4)
        began = time.monotonic()
        client.get("/a", timeout=60)
        assert time.monotonic() - began < BOUND
        assert proxy.connected == 1


def test_a_silent_member_is_left_soon_however_much_time_there_is(
    proxy: Proxy, etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "PATIENCE", 0.05)
    with Client([proxy.url, etcd.urls]) as client:
        proxy.flows.clear()
        began = time.monotonic()
        client.get("/a", timeout=60)
        assert time.monotonic() - began < BOUND


def test_all_members_together_have_one_deadline(proxy: Proxy, etcd: Etcd) -> None:
    proxy.flows.clear()
    with Proxy(etcd.node.port) as other, Client([proxy.url, other.url]) as client:
        other.flows.clear()
        began = time.monotonic()
        with pytest.raises(Unreachable) as caught:
            client.get("/a", timeout=0.2)
        assert 0.2 <= time.monotonic() - began < BOUND / 2
        assert str(caught.value) == (
            f"No member of etcd answered. {proxy.url}: no answer in time. "
            f"{other.url}: no answer in time."
        )


def test_a_name_is_looked_up_within_the_deadline_and_once_at_a_time(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, answers, asked = socket.getaddrinfo, threading.Event(), []

    def hangs(*args: object, **options: object) -> object:
        asked.append(args[0])
        answers.wait(BOUND)
        return look_up(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    with Client(f"http://localhost:{etcd.node.port}") as client:
        for _ in range(3):
            with pytest.raises(Unreachable, match="no answer in time") as caught:
                client.put("/a", "1", timeout=0.02)
            assert not caught.value.may_be_done
        assert asked == ["localhost"]

        def child() -> None:  # the thread that looks it up is the parent's
            answers.set()
            assert client.get("/a").kv is None
            client.close()

        in_child(child)
        answers.set()
        assert client.get("/a").kv is None


def test_a_name_is_looked_up_where_no_thread_can_be_started(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    with Client(f"http://localhost:{etcd.node.port}") as client:
        assert client.get("/a").kv is None


def test_a_name_that_can_be_none_is_told(etcd: Etcd) -> None:
    with Client(f"http://{64 * 'a'}:1") as client, pytest.raises(Unreachable, match="label"):
        client.get("/a")


def test_a_machine_that_is_gone_without_a_word_ends_a_watch(client: Client) -> None:
    with client.watch("/a") as watch:
        asked = watch._stream._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert asked


def test_a_host_that_is_not_known_is_named() -> None:
    with (
        Client("http://etcd.invalid:2379") as client,
        pytest.raises(
            Unreachable, match=r"^http://etcd.invalid:2379: the host's name is not known"
        ),
    ):
        client.get("/a")


def test_what_is_no_etcd_is_told() -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            with Client(f"http://127.0.0.1:{server.server_port}") as client:
                for ask in (client.get, client.watch):
                    with pytest.raises(EtcdError, match="not etcd's gateway: '<html>'"):
                        ask("/a")
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b'{"error":"gone","message":"gone","code":5}'),  # 3.4.23, 3.5.1
        (404, b'{"code":5, "message":"gone"}'),  # 3.5.16
        (404, b'{"error":{"grpc_code":5,"http_code":404,"message":"gone"}}'),  # a stream
        (200, b'{"error":{"code":5,"message":"gone"}}'),  # one of 3.5.16
    ],
)
def test_an_error_is_told_by_its_code_in_whatever_form(status: int, body: bytes) -> None:
    error = failure("http://etcd:2379", status, body)
    assert isinstance(error, NotFound)
    assert str(error) == "etcd at http://etcd:2379 answered with code 5: gone."


def test_what_an_error_says_can_steer_no_terminal() -> None:
    error = failure("http://etcd:2379", 502, b"\x1b[2J" + 1000 * b"x")
    assert isinstance(error, Unreachable)
    assert str(error).startswith("http://etcd:2379 answered 502: \\x1b[2Jxxx")
    assert len(str(error)) < 400


# -- many threads, and forks -----------------------------------------------------------------


def test_each_thread_gets_its_own_answers(client: Client) -> None:
    for number in range(8):
        client.put(f"/{number}", str(number))
    wrong: list[object] = []

    def ask(number: int) -> None:
        for _ in range(15):
            try:
                if client.get(f"/{number}").kv.text != str(number):
                    wrong.append(number)
            except Exception as error:  # noqa: BLE001  # told by the test
                wrong.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert wrong == []


def test_no_more_connections_are_kept_than_a_few(proxy: Proxy) -> None:
    with Client(proxy.url) as client:
        proxy.answers.clear()
        threads = [threading.Thread(target=client.get, args=("/a",)) for _ in range(7)]
        for thread in threads:
            thread.start()
        wait_until(lambda: proxy.connected == 7, "all requests", BOUND)
        proxy.answers.set()
        for thread in threads:
            thread.join(BOUND)
        wait_until(lambda: len(proxy._sockets) == 2 * 4, "the end of the others", BOUND)


def test_a_client_that_is_forgotten_leaves_no_connection(etcd: Etcd) -> None:
    def connections() -> set[str]:
        return {one for one in opened() if one.startswith("socket:")}

    client = Client(etcd.urls)
    gc.collect()  # what tests before have left goes now, or at any time
    before = connections()
    client.get("/a")
    (own,) = connections() - before
    del client
    gc.collect()
    assert own not in connections()


def test_a_connection_that_is_made_too_late_is_closed(
    etcd: Etcd, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[socket.socket] = []
    real = HTTPConnection.connect

    def connect(self: HTTPConnection) -> None:
        real(self)
        made.append(self.sock)
        clock.ahead += 60

    monkeypatch.setattr(HTTPConnection, "connect", connect)
    with Client(etcd.urls, timeout=5) as client, pytest.raises(Unreachable, match="in time"):
        client.get("/a")
    assert made
    assert all(one.fileno() == -1 for one in made)


def test_a_forked_child_has_connections_of_its_own(proxy: Proxy) -> None:
    with Client(proxy.url) as client, client.watch("/a") as watch:
        client.put("/a", "1")

        def child() -> None:
            with pytest.raises(Unreachable, match="has ended"):
                watch.read(0.1)
            watch.close()
            assert client.get("/a").kv.text == "1"
            client.close()

        made = proxy.connected
        in_child(child)
        assert proxy.connected == made + 1
        assert client.get("/a").kv.text == "1"
        assert watch.read(BOUND)[0].kv.text == "1"
        assert proxy.connected == made + 1


def test_a_child_waits_for_nothing_that_threads_of_its_parent_held(proxy: Proxy) -> None:
    with Client(proxy.url) as client, client.watch("/a") as watch:
        reader = threading.Thread(target=watch.read, args=(BOUND,))
        reader.start()
        wait_until(watch._stream._reading().locked, "the reader", BOUND)

        def child() -> None:
            watch.close()
            client.get("/a")
            client.close()
            gc.collect()

        in_child(child)
        assert reader.is_alive()
        client.put("/a", "1")
        reader.join(BOUND)
        assert not reader.is_alive()


# -- members ---------------------------------------------------------------------------------


def test_members_say_how_they_are(etcd: Etcd) -> None:
    (closed,) = free_ports(1)
    with Client([etcd.urls, f"http://127.0.0.1:{closed}"]) as client:
        well, away = client.members()
        assert (well.url, well.trouble) == (etcd.urls, "")
        assert well.version.startswith("3.")
        assert well.leader == well.member_id != 0
        assert 0 < well.db_size_in_use <= well.db_size
        assert away.trouble == f"http://127.0.0.1:{closed}: Connection refused."
        assert client.alarms() == ()
        with etcd.full():
            (alarm,) = client.alarms()
            assert (alarm.kind, alarm.member_id) == ("NOSPACE", well.member_id)
            # 3.4 gives no reason
            assert client.members()[0].trouble.startswith(f"{etcd.urls} answered 503: ")


@pytest.mark.usefixtures("etcd_server")  # for where there is none
def test_a_read_is_asked_again_when_the_leader_changes() -> None:
    with Etcd(3, flags=["--heartbeat-interval", "20", "--election-timeout", "200"]) as etcd:
        leader = etcd.leader()
        with Client(next(node.url for node in etcd.nodes if node is not leader)) as client:
            client.put("/a", "1")
            leader.stop()  # what the other members ask it has no answer until they elect another
            assert client.get("/a", timeout=BOUND).kv.text == "1"


@once
@pytest.mark.usefixtures("etcd_server")
def test_a_watch_at_a_member_without_a_leader_ends() -> None:
    with Etcd(3) as etcd, Client(etcd.node.url) as client, client.watch("/a") as watch:
        for node in etcd.nodes[1:]:
            node.kill()
        with pytest.raises(Leaderless) as caught:
            watch.read(BOUND)
        assert caught.value.code == 14
