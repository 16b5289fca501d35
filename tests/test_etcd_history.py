"""The history and the announcement in etcd: keys of their own, in no transaction of a flip."""

from __future__ import annotations

import json
import logging
import re
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from sa_readonly.announced import content_of
from sa_readonly.etcd import history as etcd_history
from sa_readonly.etcd.history import EtcdHistory
from sa_readonly.etcd.switch import store_of
from sa_readonly.mode import Announced
from tests.app import once
from tests.doctor import ROOT
from tests.etcd_fleet import Fleet, bare, fleet
from tests.postgres import wait_until
from tests.test_doctor_etcd import codes, look
from tests.test_etcd_command import command, done, refused

__all__ = ["bare", "fleet"]  # fixtures

SOON = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=1)
NIGHT = Announced(SOON, SOON + timedelta(hours=2), "Upgrade")
AT = ("--at", SOON.isoformat(), "--for", "2h", "--reason", "Upgrade")


def lines(fleet: Fleet) -> list[dict[str, Any]]:
    answer = json.loads(done(fleet, "history", "--json").stdout)
    shown: list[dict[str, Any]] = answer["history"]
    return shown


def dids(fleet: Fleet) -> list[str]:
    return [line["did"] + " found" * line.get("found", False) for line in lines(fleet)]


def test_each_line_is_a_key_and_none_is_in_the_transaction_of_a_flip(fleet: Fleet) -> None:
    done(fleet, "on", "--reason", "Upgrade")
    flipped = fleet.client.get(fleet.store.key).kv
    assert flipped is not None
    done(fleet, "wait", "--timeout", "0", code=3)
    done(fleet, "off")
    kept = fleet.client.range(fleet.store.history).kvs
    assert [json.loads(kv.value)["did"] for kv in kept] == ["on", "wait", "off"]
    assert len({flipped.mod_revision, *(kv.mod_revision for kv in kept)}) == 4
    on, _, off = lines(fleet)
    assert on["generation"] == off["generation"]
    assert 0 <= off["seconds"] < 60  # from the line of the `on`, as no key tells since when
    assert (on["reason"], off["reason"]) == ("Upgrade", "Upgrade")


def test_by_another_hosts_clock_that_is_ahead_no_time_is_told(fleet: Fleet) -> None:
    done(fleet, "on")
    (kept,) = fleet.client.range(fleet.store.history).kvs
    fleet.client.put(kept.key, kept.value.replace(b'"at": "20', b'"at": "29'))
    done(fleet, "off")
    assert lines(fleet)[-1]["seconds"] is None


def test_a_key_put_and_deleted_by_hand_is_found_out(fleet: Fleet) -> None:
    fleet.client.put(fleet.store.key, b"by hand")
    assert dids(fleet) == ["on found"]
    fleet.client.delete(fleet.store.key)
    done(fleet, "off")
    assert dids(fleet) == ["on found", "off found", "off"]


def test_no_more_lines_are_kept_than_the_doctor_takes_for_growth(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_history, "KEPT", 3)
    for number in range(5):
        EtcdHistory(fleet.store).append(b"%d\n" % number)
    assert EtcdHistory(fleet.store).read() == [b"2", b"3", b"4"]


def test_a_full_etcd_loses_the_line_and_says_so_and_the_off_goes_through(fleet: Fleet) -> None:
    done(fleet, "on")
    with fleet.etcd.full():
        result = done(fleet, "off")
        assert f"The line of {fleet.store.history} is lost, and nothing else (" in result.stderr
        assert fleet.client.get(fleet.store.key).kv is None
    assert dids(fleet) == ["on", "off found"]


@once
def test_an_operator_with_the_rights_of_before_flips_and_is_told_what_is_lost(fleet: Fleet) -> None:
    store = fleet.store
    flips = [("READWRITE", name, False) for name in (store.key, store.marker)]
    fleet.etcd.users(ops=("x", [*flips, ("READWRITE", store.workers, True)]))
    try:
        user = {"SA_READONLY_ETCD_USER": "ops", "SA_READONLY_ETCD_PASSWORD": "x"}
        result = command(fleet, "on", **user)
        assert result.exit_code == 0, result.stderr
        assert f"The line of {store.history} is lost" in result.stderr
        assert "What is announced is not taken: " in result.stderr
        assert command(fleet, "status", **user).exit_code == 0
        assert command(fleet, "off", **user).exit_code == 0
        result = command(fleet, "history", **user)
        assert (result.exit_code, result.stdout) == (1, "")
        result = command(fleet, "announce", *AT, **user)
        assert (result.exit_code, result.stdout) == (2, "")
    finally:
        fleet.etcd.no_users()


@once
def test_a_line_that_is_put_is_not_told_as_lost_where_the_old_ones_stay(fleet: Fleet) -> None:
    fleet.etcd.users(ops=("x", [("WRITE", fleet.store.history, True)]))
    try:
        store = store_of(fleet.etcd.urls, fleet.store.key, user="ops", password="x")
        EtcdHistory(store).append(b"a line\n")
    finally:
        fleet.etcd.no_users()
    assert EtcdHistory(fleet.store).read() == [b"a line"]


def test_it_is_announced_to_each_worker_and_on_takes_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_readonly.announced._PAUSE", 0)
    told = fleet.worker(ttl=0.1)
    watched = fleet.worker(ttl=0.1, watch=True)
    for worker in (told, watched):
        worker.write()
    assert "mode      read-write" in done(fleet, "announce", *AT).stdout
    told.switch.look_ahead()
    assert told.selector.state.announced == NIGHT
    wait_until(lambda: watched.selector.state.announced == NIGHT, "it to be told", 10)
    assert told.writes()
    assert "announced read-only from " in done(fleet, "status").stdout
    done(fleet, "on")
    assert told.look() == "read-only"
    assert (told.selector.state.reason, told.selector.state.until) == (NIGHT.reason, NIGHT.until)
    told.switch.look_ahead()
    assert told.selector.state.announced is None
    assert fleet.client.get(fleet.store.announced).kv is None


def test_a_worker_that_may_not_read_it_says_so_once_and_asks_no_more_for_a_while(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sa_readonly.announced._PAUSE", 0)
    store = fleet.store
    reads = [("READ", name, False) for name in (store.key, store.marker)]
    fleet.etcd.users(shop=("x", [*reads, ("READWRITE", store.workers, True)]))
    try:
        monkeypatch.setenv("SA_READONLY_ETCD_USER", "shop")
        monkeypatch.setenv("SA_READONLY_ETCD_PASSWORD", "x")
        with caplog.at_level(logging.INFO, logger="sa_readonly"):
            worker = fleet.worker(ttl=0.5)
            worker.write()
            client, asked = worker.switch.store.client, list[str]()
            get = client.get
            monkeypatch.setattr(
                client, "get", lambda key, **how: asked.append(key) or get(key, **how)
            )
            for next_at, times in ((0.0, 1), (time.monotonic() + 60, 0)):
                worker.switch._ahead._next = next_at
                asked.clear()
                worker.switch.look_ahead()
                worker.switch.look_ahead()
                assert asked == [store.announced] * times
        said = "What is announced can't be read"
        (record,) = [one for one in caplog.records if one.getMessage().startswith(said)]
        assert record.levelname == "INFO"
        assert worker.writes()
        worker.close()
    finally:
        fleet.etcd.no_users()


def test_what_was_announced_is_told_on_while_etcd_is_away(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_readonly.announced._PAUSE", 0)
    worker = fleet.worker(proxied=True, ttl=0.2)
    fleet.client.put(fleet.store.announced, content_of(NIGHT))
    worker.switch.look_ahead()
    worker.cut_off()
    worker.switch.look_ahead()
    worker.look()
    assert not worker.switch.store.answers
    worker.switch.look_ahead()
    assert worker.switch.known.announced == NIGHT


def test_it_is_asked_for_once_in_a_ttl(fleet: Fleet) -> None:
    worker = fleet.worker(ttl=3.0)
    began = time.monotonic()
    worker.switch.look_ahead()
    assert worker.switch._ahead_at > began + 2.5  # with many workers each request counts
    worker.look()


def test_a_file_beside_etcd_announces_to_its_host(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_readonly.announced._PAUSE", 0)
    path = fleet.app.path
    worker = fleet.worker(file=path)
    done(fleet, "announce", "--file", path, *AT)
    worker.switch.look_ahead()
    assert worker.switch.known.announced == NIGHT
    other = Announced(SOON + timedelta(days=1))
    fleet.client.put(fleet.store.announced, content_of(other))
    worker.switch.look_ahead()
    assert worker.switch.known.announced == other


def test_nothing_is_announced_where_no_fleet_is(bare: Fleet) -> None:
    assert refused(bare, "announce", *AT).startswith("No fleet was initialised at ")
    assert bare.client.get(bare.store.announced).kv is None


@once
def test_text_of_another_hand_announces_nothing_and_can_be_cancelled(fleet: Fleet) -> None:
    fleet.client.put(fleet.store.announced, b"\xff[" * 100_000)
    assert "announced" not in done(fleet, "status").stdout
    done(fleet, "announce", "--cancel")
    assert fleet.client.get(fleet.store.announced).kv is None


@once
def test_the_rights_in_the_docs_are_all_that_a_worker_and_an_operator_need(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    rights: dict[str, list[tuple[str, str, bool]]] = {"worker": [], "operator": []}
    docs = (ROOT / "docs" / "fleet.md").read_text()
    granted = r"grant-permission shop-(\w+) (--prefix=true )?(\w+) /shop/read-only(\S*)"
    for role, prefix, right, rest in re.findall(granted, docs):
        rights[role].append((right.upper(), fleet.store.key + rest, bool(prefix)))
    fleet.etcd.users(shop=("x", rights["worker"]), ops=("x", rights["operator"]))
    user = {"SA_READONLY_ETCD_USER": "ops", "SA_READONLY_ETCD_PASSWORD": "x"}
    monkeypatch.setenv("SA_READONLY_ETCD_PASSWORD", "x")
    try:
        told = {name: codes(look(fleet, user=name)) for name in ("shop", "ops")}
        assert told["shop"]["etcd-rights-in-order"] == "ok"
        wrong = {"etcd-announcement-not-read", "etcd-history-of-others", "etcd-entries-of-others"}
        assert wrong.isdisjoint(told["shop"])
        assert "etcd-operator-rights-missing" not in told["ops"]
        for arguments in (("announce", *AT), ("on",), ("off",), ("history",)):
            result = done(fleet, *arguments, **user)
            assert "lost" not in result.stderr
        assert [line.split()[2] for line in result.stdout.splitlines()] == ["on", "off"]
    finally:
        fleet.etcd.no_users()


def test_an_off_tells_what_a_forced_worker_of_any_host_began(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", "read-write")
    worker = fleet.worker(ttl=0.5)
    worker.write()
    monkeypatch.delenv("SA_READONLY_FORCE")
    done(fleet, "on")

    def told() -> int:
        report = fleet.one().report
        assert report is not None
        return int(report.begun)

    def report() -> None:
        monkeypatch.setattr("sa_readonly.workers.reporting._MINOR", 0)
        worker.look()

    report()
    assert told() == 1
    worker.write()
    report()
    assert told() == 1, "it is told once a minute"
    worker.entry._begun = 1, worker.entry._begun[1] - 60
    worker.write()
    report()
    assert told() == 3
    done(fleet, "off")
    (forced,) = lines(fleet)[-1]["forced"]
    assert forced["transactions"] == 3
