"""What etcd, its operators and the machines do to a fleet that goes by it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, event, text

from sa_readonly import EngineSelector, ReadOnlyError
from sa_readonly.command.server import Server
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.etcd.errors import Full
from sa_readonly.etcd.operator import turn_off
from sa_readonly.etcd.switch import store_of
from tests.app import App, once
from tests.etcd import Etcd
from tests.etcd_fleet import Fleet, bare, fleet
from tests.postgres import Pair, wait_until
from tests.switches import log

__all__ = ["bare", "fleet", "log"]  # fixtures

RW, RO = "read-write", "read-only"


def errors(log: Any) -> list[str]:
    return [text for level, text in log() if level == "ERROR"]


# -- etcd's data -----------------------------------------------------------------------------


def test_where_etcds_data_are_lost_all_are_read_only_until_on_and_off(
    fleet: Fleet, log: Any
) -> None:
    worker = fleet.worker()
    worker.write()
    cluster = fleet.client.get("/").cluster_id
    fleet.etcd.node.restart(lost=True)
    assert fleet.client.get("/").cluster_id == cluster  # which proves nothing
    started = fleet.worker()
    for one in (worker, started):
        assert one.look() == RO
        assert not one.writes()
    assert fleet.client.get(fleet.store.marker).kv is None
    assert len(fleet.read().seen) == 2  # the one that was lost has registered anew
    assert any("were its data lost?" in line for line in errors(log))
    fleet.on()
    for one in (worker, started):
        one.look()
    assert not fleet.drained()  # another one may have been lost with its entry
    fleet.fence._since -= 66
    assert fleet.drained()
    fleet.off()
    for one in (worker, started):
        assert one.look() == RW
        assert one.writes()


def test_a_snapshot_from_before_on_lets_nothing_write_that_has_acknowledged(
    fleet: Fleet, tmp_path: Path, log: Any
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.etcd.save(tmp_path / "snapshot")
    fleet.on()
    worker.look()
    assert fleet.drained()
    fleet.etcd.restore(tmp_path / "snapshot")
    reading = fleet.read()
    assert (reading.key, reading.problem, len(reading.seen)) == (None, None, 1)
    for _ in range(2):
        assert worker.look() == RO
    assert not worker.writes()
    assert "an older snapshot" in errors(log)[-1]
    fleet.on()
    worker.look()
    assert fleet.drained()
    fleet.off()
    assert worker.look() == RW


def test_a_restart_of_etcd_is_hardly_seen(fleet: Fleet, log: Any) -> None:
    worker = fleet.worker()
    assert worker.writes()
    fleet.etcd.node.kill()
    worker.switch.fresh_until = -float("inf")
    assert worker.writes()
    fleet.etcd.node.launch()
    fleet.etcd.wait()
    assert worker.look() == RW
    assert worker.writes()
    assert not any("->" in text for _, text in log())
    assert len(errors(log)) == 1


@pytest.fixture(scope="module")
def small() -> Iterator[Etcd]:
    """One with a quota of its own."""
    with Etcd(flags=["--quota-backend-bytes", "300000"]) as etcd:
        yield etcd


def fill(fleet: Fleet) -> None:
    for number in range(100):
        fleet.client.put(f"/waste/{number}", "x" * 50_000)


@once  # it needs a node of its own
def test_an_etcd_over_its_quota_answers_looks_and_lets_off_through(
    etcd: Etcd, small: Etcd, lite: App
) -> None:
    fleet = Fleet(small, lite, "/small/mode")
    fleet.init()
    worker = fleet.worker()
    assert worker.writes()
    fleet.on()
    worker.look()
    assert fleet.drained()
    with pytest.raises(Full):  # 3.5.1 may refuse each transaction then, also one that only reads
        fill(fleet)
    assert worker.look() == RO
    assert fleet.drained()
    assert turn_off(fleet.store).key is not None
    assert worker.look() == RW
    assert worker.writes()
    fleet.close()


def test_a_reading_that_a_compaction_overtakes_is_begun_anew(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.worker().write()
    client, real = fleet.client, fleet.client.get
    compacted = []

    def overtaken(key: str, **options: Any) -> Any:
        answer = real(key, **options)
        if not compacted:
            compacted.append(True)
            client.put("/more", "")
            fleet.etcd.compact(client.put("/more", "").revision)
        return answer

    monkeypatch.setattr(client, "get", overtaken)
    assert len(fleet.read().seen) == 1
    assert compacted


# -- the network -----------------------------------------------------------------------------


def test_an_answer_that_trickles_is_no_answer(fleet: Fleet, log: Any) -> None:
    worker = fleet.worker(proxied=True, ttl=0.2)
    assert worker.writes()
    worker.proxy.pause = 0.05
    worker.switch.fresh_until = -float("inf")
    began = time.monotonic()
    assert worker.writes()
    assert time.monotonic() - began < 2
    worker.proxy.pause = 0.0


# -- a process that is stopped ---------------------------------------------------------------


def test_a_process_that_was_stopped_past_its_fence_wakes_and_passes_no_check(
    bare: Fleet,
) -> None:
    bare.init(0.7)
    inward, outward = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            signal.alarm(20)
            worker = bare.worker(ttl=0.2)
            worker.write()
            held = worker.engine.connect()
            os.write(outward[1], b"r")
            os.read(inward[0], 1)
            code = 0 if not worker.writes() else 1
            try:
                held.begin()
                code = 2
            except ReadOnlyError:
                pass
        finally:
            os._exit(code)
    assert os.read(outward[0], 1) == b"r"
    os.kill(pid, signal.SIGSTOP)
    bare.on()
    reading = bare.read()
    wait_until(lambda: not bare.fence.left(reading), "the fence")
    os.write(inward[1], b"w")
    os.kill(pid, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_client_of_another_key_is_not_touched(fleet: Fleet) -> None:
    other = store_of(fleet.etcd.urls, fleet.store.key + ".workersx")
    other.client.put(other.key, "")
    assert fleet.worker().look() == RW
    assert len(fleet.read().seen) == 1


@once
def test_one_that_was_stopped_between_its_check_and_its_statement_is_named_until_it_has_ended(
    bare: Fleet, pg_pair: Pair
) -> None:
    bare.init(0.7)
    url = pg_pair.read_write
    own = create_engine(url, poolclass=NullPool)
    with own.begin() as connection:
        connection.execute(text("create table note (what text)"))
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            signal.alarm(20)
            switch = EtcdSwitch(bare.etcd.urls, key=bare.store.key, ttl=0.2)
            engine = create_engine(url)
            with EngineSelector(switch, read_write=engine, watch=False):

                @event.listens_for(engine, "before_cursor_execute")
                def stopped(*told: Any) -> None:
                    if "insert" in told[2]:
                        os.kill(os.getpid(), signal.SIGSTOP)

                with engine.begin() as connection:
                    connection.execute(text("insert into note values ('late')"))
                code = 0
        finally:
            os._exit(code)
    os.waitpid(pid, os.WUNTRACED)
    (name,) = [one for one in bare.read().entries if one.endswith("/alive")]
    bare.client.delete(bare.store.workers + name)  # which its lease does later
    bare.on()
    (why,) = bare.whys(ignore_dead=True)
    assert why.startswith("lost: read-write")
    wait_until(lambda: not bare.whys(ignore_dead=True), "the fence")
    server = Server(url.render_as_string(hide_password=False))
    assert not server.ask().agrees  # an idle session, as its driver has sent no BEGIN yet
    os.kill(pid, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with own.connect() as connection:  # it has committed
        assert connection.scalar(text("select what from note")) == "late"
    wait_until(lambda: server.ask().agrees, "the server's word")
    assert bare.read().seen == ()
