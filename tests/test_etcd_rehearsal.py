"""A rehearsal of a fleet on etcd: a key that asks for it, and what each worker tells there."""

from __future__ import annotations

import json

from sa_readonly.etcd.rehearsal import Asking
from sa_readonly.etcd.switch import store_of
from sa_readonly.rehearsal.callsite import Site
from sa_readonly.rehearsal.notes import Key, notebook_of
from sa_readonly.rehearsal.sheet import sheet_of
from tests.app import Clock, clock
from tests.etcd_fleet import Fleet, bare, fleet
from tests.test_etcd_command import done

__all__ = ["bare", "clock", "fleet"]  # fixtures


def test_a_fleet_is_asked_by_a_key_and_tells_the_worst_fifty_places(
    fleet: Fleet, clock: Clock
) -> None:
    workers = [fleet.worker(), fleet.worker()]
    for worker in workers:
        worker.write()
    assert "begin it with --start" in done(fleet, "rehearsal").output
    assert json.loads(done(fleet, "rehearsal", "--start", "--json").output)["changed"] is True
    clock.ahead += 6  # it is asked for every five seconds
    for worker in workers:
        assert worker.look() == "read-write"
        notebook = notebook_of(worker.switch)
        assert notebook.on
        worker.write()
        for line in range(60):
            notebook.note(Key(Site("/srv/shop.py", line, "f"), None, "primary", "flush"), "It")
        clock.ahead += 61
        worker.look()
    told = json.loads(done(fleet, "rehearsal", "--json").output)
    assert (told["asked"], told["rehearsing"], len(told["sites"])) == (True, 2, 50)
    assert all(len(kv.value) < 16 * 1024 for kv in fleet.read().entries.values())
    assert len(sheet_of(notebook_of(workers[0].switch)).rows) == 61
    assert len(fleet.read().seen) == 2  # what is beside an entry is none
    fleet.on()
    assert [worker.look() for worker in workers] == ["read-only"] * 2
    assert fleet.drained()
    fleet.off()
    assert done(fleet, "rehearsal", "--stop").exit_code == 0
    assert fleet.client.get(fleet.store.rehearsal).kv is None
    for worker in workers:
        clock.ahead += 6
        assert worker.look() == "read-write"
        assert not notebook_of(worker.switch).on
        worker.selector.close()
    assert fleet.read().entries == {}


def test_a_sheet_is_put_again_where_its_lease_was_lost(fleet: Fleet, clock: Clock) -> None:
    worker = fleet.worker(rehearse=True)
    worker.write()
    clock.ahead += 61
    worker.look()
    key = fleet.store.workers + worker.entry._process + "/sites"
    fleet.client.revoke(fleet.client.get(key).kv.lease)
    assert fleet.client.get(key).kv is None
    clock.ahead += 4
    worker.look()
    assert fleet.client.get(key).kv is not None


def test_a_worker_that_may_not_read_the_key_does_not_rehearse_and_asks_once_a_minute(
    fleet: Fleet, clock: Clock
) -> None:
    store = fleet.store
    fleet.client.put(store.rehearsal, b"")
    fleet.etcd.users(shop=("secret", [("READ", store.key, False)]))
    try:
        theirs = store_of(fleet.etcd.urls, store.key, user="shop", password="secret")
        asking = Asking(theirs)
        assert asking() is False
        theirs.client.close()
        clock.ahead += 50
        assert asking() is False
    finally:
        fleet.etcd.no_users()
