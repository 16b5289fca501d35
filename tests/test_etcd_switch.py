"""A switch on etcd, on a real one: what it makes of the key, the marker and its own entry."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from sa_readonly import ConfigurationError, ReadOnlyError, State
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.etcd.looks import look
from sa_readonly.etcd.operator import init
from sa_readonly.etcd.records import Marker, marker_of
from sa_readonly.etcd.registry import held_by_files
from tests.app import Clock
from tests.etcd_fleet import Fleet, bare, fleet
from tests.postgres import wait_until
from tests.switches import in_child, join, log, nothing

__all__ = ["bare", "fleet", "log"]  # fixtures

RW, RO = "read-write", "read-only"


def errors(log: Any) -> list[str]:
    return [text for level, text in log() if level == "ERROR"]


# -- the key ---------------------------------------------------------------------------------


def test_the_key_turns_all_workers_whatever_it_holds_and_its_text_is_the_reason(
    fleet: Fleet,
) -> None:
    one, two = fleet.worker(), fleet.worker()
    assert one.which() == two.which() == "rw"
    for value in ("upgrade\nuntil: 2030-01-01T00:00Z", "", b"\xff"):
        fleet.client.put(fleet.store.key, value)
        assert one.look() == two.look() == RO
        assert one.which() == two.which() == "ro"
        assert not one.writes()
        fleet.client.delete(fleet.store.key)
        assert one.look() == two.look() == RW
        assert one.writes()
    generation = fleet.on("upgrade of the disks")
    one.look()
    assert (one.reason, one.switch.known.generation) == ("upgrade of the disks", generation)
    assert fleet.on("of all disks") == generation  # an edit is the same announcement
    one.look()
    assert (one.reason, one.switch.known.generation) == ("of all disks", generation)


def test_a_key_that_was_put_again_with_the_same_text_is_another_generation(fleet: Fleet) -> None:
    worker, told = fleet.worker(), set()
    for _ in range(2):
        fleet.client.put(fleet.store.key, "by hand")
        worker.look()
        told.add(worker.switch.known.generation)
        assert worker.switch.identify() in told
        fleet.client.delete(fleet.store.key)
    assert len(told) == 2


# -- the marker ------------------------------------------------------------------------------


def test_a_fleet_that_was_never_initialised_is_read_only_and_one_log_line_names_the_cure(
    bare: Fleet, log: Any
) -> None:
    worker = bare.worker()
    for _ in range(3):
        assert worker.look() == RO
    assert worker.which() == "ro"
    (line,) = errors(log)
    assert bare.store.marker in line
    assert "sa-readonly init" in line
    with pytest.raises(OSError, match="never initialised"):
        worker.switch.identify()
    bare.client.put(bare.store.marker, b"")  # one that is damaged is none
    assert worker.look() == RO
    bare.client.delete(bare.store.marker)
    worker.selector.close()
    bare.init()
    assert worker.switch.check().mode.value == RW  # the first that it sees is taken


@pytest.mark.parametrize("to", ["gone", "another", "another cluster"])
def test_a_marker_that_has_changed_without_the_key_beside_it_is_unknown_until_on_and_off(
    fleet: Fleet, log: Any, to: str
) -> None:
    worker = fleet.worker()
    assert worker.writes()
    cluster = fleet.client.get("/").cluster_id
    if to == "gone":
        fleet.client.delete(fleet.store.marker)
    else:
        other = Marker.new(cluster, 10, "init")
        if to == "another cluster":
            other = replace(marker_of(fleet.client.get(fleet.store.marker).kv), cluster=cluster + 1)
        fleet.client.put(fleet.store.marker, other.encoded())
    for _ in range(2):
        assert worker.look() == RO
    assert not worker.writes()
    assert worker.switch.known.generation is None
    (line,) = errors(log)
    assert "`sa-readonly on`, and then `off`" in line
    assert fleet.store.marker in line
    fleet.on()
    assert worker.look() == RO
    fleet.off()
    assert worker.look() == RW
    assert worker.writes()


def test_a_marker_that_was_missing_beside_the_key_was_not_forgotten(fleet: Fleet) -> None:
    worker = fleet.worker()
    assert worker.writes()
    fleet.client.delete(fleet.store.marker)
    fleet.client.put(fleet.store.key, "by hand")
    assert worker.look() == RO
    another = Marker.new(fleet.client.get("/").cluster_id, 10, "init")
    fleet.client.put(fleet.store.marker, another.encoded())
    fleet.client.delete(fleet.store.key)
    assert worker.look() == RO
    assert f"{fleet.store.marker} is another one than before" in worker.reason


def test_a_look_shows_the_marker_as_it_was_when_the_key_was_read(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fleet.client.get

    def lost_since(name: str, **options: Any) -> Any:
        found = real(name, **options)
        if name == fleet.store.key:
            fleet.client.delete(fleet.store.marker)
        return found

    monkeypatch.setattr(fleet.client, "get", lost_since)
    sight = look(fleet.store, None, 5)
    assert sight.marker is not None
    assert real(fleet.store.marker).kv is None


def test_a_marker_is_not_made_by_a_worker(bare: Fleet) -> None:
    bare.worker().look()
    assert bare.client.get(bare.store.marker).kv is None


def test_a_process_goes_by_the_fence_that_its_entry_tells(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    assert (worker.switch.fence, fleet.one().fence) == (10, 10)
    used, ask = [], worker.switch._ask

    def noted(look: Any) -> Any:
        judgement = ask(look)
        used.append((worker.switch.fence, fleet.one().fence))
        return judgement

    worker.switch._ask = noted
    fleet.on()
    for fence in (20, 5, 30):
        init(fleet.store, fence)
        worker.look()
        worker.look()
        assert used[-1] == (fence, fence)
    assert all(goes_by <= told for goes_by, told in used)


def test_a_fence_that_is_not_longer_than_three_ttl_is_refused(fleet: Fleet, log: Any) -> None:
    with pytest.raises(ConfigurationError, match="not longer than three ttl"):
        fleet.worker(ttl=3.5)
    worker = fleet.worker(ttl=2)
    fleet.on()
    init(fleet.store, 6)
    worker.look()
    fleet.off()
    assert worker.look() == RO
    assert "`sa-readonly init --fence`" in errors(log)[-1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"key": "myapp"}, "begins with a slash"),
        ({"key": "/myapp/"}, "begins with a slash"),
        ({"key": "/my app"}, "begins with a slash"),
        ({"key": 3}, "begins with a slash"),
        ({"key": "/a", "ttl": 0}, "ttl must be more than 0"),
        ({"key": "/a", "ttl": 20}, "less than 20"),
        ({"key": "/a", "ttl": None}, "number of seconds"),
        ({"key": "/a", "ca": "/none.pem"}, "is for https|are for https"),
        ({"key": "/a", "user": "x"}, "together"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        EtcdSwitch("http://127.0.0.1:1", **options)


# -- the fence -------------------------------------------------------------------------------


def test_a_worker_that_is_cut_off_goes_by_its_answer_until_the_fence_and_then_it_is_fenced(
    fleet: Fleet, clock: Clock, log: Any
) -> None:
    worker = fleet.worker(proxied=True)
    assert worker.writes()
    worker.cut_off()
    clock.ahead += 7  # a busy machine needs some of the rest
    assert worker.writes()
    fleet.on()
    assert worker.writes()
    clock.ahead += 3.1
    assert not worker.writes()
    assert worker.which() == "ro"
    assert worker.reason.startswith("etcd can't be reached since 20")
    with pytest.raises(ReadOnlyError), worker.engine.connect():
        pass
    assert worker.engine.pool.status().startswith("ClosedPool")
    flips = [text for _, text in log() if "->" in text]
    assert len(flips) == 1
    worker.connect_again()
    assert worker.look() == RO
    assert worker.reason == "upgrade"
    fleet.off()
    assert worker.look() == RW
    assert worker.writes()


def test_at_start_without_etcd_it_is_read_only_serves_reads_and_writes_once_etcd_is_there(
    fleet: Fleet,
) -> None:
    proxy = fleet.worker(proxied=True).proxy
    proxy.refuses = True
    proxy.cut()
    fleet.workers.clear()
    started = EtcdSwitch(proxy.url, key=fleet.store.key)
    assert started.known.read_only
    assert started.check().read_only
    proxy.refuses = False
    assert not started.check().read_only
    proxy.close()


def test_an_etcd_that_is_not_there_at_the_start_is_one_log_line(log: Any) -> None:
    switch = EtcdSwitch("http://127.0.0.1:1", key="/a")
    for _ in range(3):
        assert switch.check().read_only
    (line,) = [text for _, text in log()]
    assert line == (
        "A look at /a in etcd failed (http://127.0.0.1:1: Connection refused): it is read-only "
        "until one answers."
    )


def test_a_worker_that_starts_without_etcd_writes_once_it_has_registered(fleet: Fleet) -> None:
    worker = fleet.worker(proxied=True)
    worker.cut_off()
    worker.look()
    assert not worker.writes()  # its registration was not to be had
    with worker.other.connect():  # and it serves reads
        pass
    worker.connect_again()
    worker.look()
    assert worker.writes()
    assert fleet.one().liveness.value == "alive"


def test_an_answer_that_is_not_in_time_is_not_waited_for_longer_than_ttl(
    fleet: Fleet, log: Any
) -> None:
    worker = fleet.worker(proxied=True, ttl=0.2)
    assert worker.writes()
    worker.proxy.flows.clear()  # all stays connected, and nothing comes
    worker.switch.fresh_until = -float("inf")
    assert worker.writes()
    assert any("takes longer than ttl=0.2 s" in line for line in errors(log))
    worker.proxy.flows.set()


# -- connections -----------------------------------------------------------------------------


def test_a_new_connection_is_given_out_after_a_look_that_began_once_it_was_made(
    fleet: Fleet,
) -> None:
    worker = fleet.worker()
    assert worker.writes()
    worker.engine.dispose()
    looks, ask = [], worker.switch._ask

    def noted(look: Any) -> Any:
        looks.append(look)
        return ask(look)

    worker.switch._ask = noted

    @event.listens_for(worker.engine, "do_connect")
    def on_meanwhile(*_: Any) -> None:
        looks.append("made")
        fleet.on()

    assert worker.switch.known.mode.value == RW
    with pytest.raises(ReadOnlyError):
        worker.engine.connect()
    assert looks.index("made") < len(looks) - 1
    assert worker.look() == RO
    assert fleet.drained()


def test_all_that_connect_share_the_next_look(fleet: Fleet) -> None:
    worker = fleet.worker(ttl=3)
    assert worker.writes()
    worker.engine.dispose()
    looks, ask = [], worker.switch._ask
    made = threading.Barrier(5)

    def both_are_slow(look: Any) -> Any:
        looks.append(look)
        # The one that began the first is content with it, and so may one be that came just then.
        enough = {5} if len(looks) == 1 else {3, 4}
        wait_until(lambda: look.waiting in enough, "those that wait")
        return ask(look)

    worker.switch._ask = both_are_slow

    @event.listens_for(worker.engine, "do_connect")
    def together(*_: Any) -> None:
        made.wait(10)

    held = [threading.Thread(target=worker.engine.connect) for _ in range(5)]
    for thread in held:
        thread.start()
    join(held)
    assert len(looks) == 2


def test_if_etcd_cant_be_asked_a_new_connection_goes_by_the_usable_answer(fleet: Fleet) -> None:
    worker = fleet.worker(proxied=True)
    assert worker.writes()
    worker.engine.dispose()
    worker.cut_off()
    assert worker.writes()


# -- its registration ------------------------------------------------------------------------


def test_a_registration_that_is_gone_shuts_at_once_until_it_is_made_anew_and_looked(
    fleet: Fleet, log: Any
) -> None:
    worker, turned = fleet.worker(), []
    assert worker.writes()
    first, pool = worker.entry.place, worker.engine.pool

    def gate(state: State) -> None:
        turned.append((str(state.mode), state.reason, worker.entry.place))

    worker.switch.subscribe(gate, nothing)
    fleet.client.delete(first.key)
    assert worker.look() == RW
    _, (shut, why, missing), (opened, _, second) = turned
    assert (shut, missing, opened) == (RO, None, RW)
    assert "is not registered" in why
    assert second.key > first.key
    assert worker.engine.pool is not pool
    assert worker.writes()
    assert [name for name in fleet.read().entries if name.endswith("1")] == []
    assert errors(log) == []


def test_a_registration_by_the_same_name_that_is_not_its_own_shuts_too(fleet: Fleet) -> None:
    worker, turned = fleet.worker(), []
    assert worker.writes()
    place = worker.entry.place
    worker.switch.subscribe(lambda state: turned.append(str(state.mode)), nothing)
    value = fleet.client.get(place.key).kv.value
    fleet.client.delete(place.key)
    fleet.client.put(place.key, value)
    worker.look()
    assert turned == [RW, RO, RW]
    assert worker.entry.place.key != place.key


def test_a_look_opens_nothing_once_the_registration_that_it_showed_is_gone(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    fleet.off()
    entry, ask = worker.entry, worker.switch._ask

    def lost_after(look: Any) -> Any:
        judgement = ask(look)
        entry.lose(entry.place)
        return judgement

    worker.switch._ask = lost_after
    assert worker.switch.check().mode.value == RO


def test_an_answer_from_before_it_registered_is_used_by_no_process(fleet: Fleet) -> None:
    worker = fleet.worker()
    ask = worker.switch._ask
    assert not worker.switch.known.read_only  # by a look from before

    def fails(look: Any) -> Any:
        raise OSError("silent")

    worker.switch._ask = fails
    assert not worker.writes()
    assert "not answered a look since" in str(worker.selector.report().problem)
    assert len(fleet.read().seen) == 1
    with pytest.raises(ReadOnlyError), worker.engine.connect():
        pass
    worker.switch._ask = ask
    worker.look()
    assert worker.writes()
    assert len(fleet.read().seen) == 1


def test_a_process_that_is_not_registered_writes_nothing(fleet: Fleet) -> None:
    worker = fleet.worker(proxied=True)
    assert worker.selector._worker.required
    worker.cut_off()
    assert not worker.writes()
    worker.connect_again()
    assert worker.look() == RW
    assert worker.writes()


# -- a file beside it ------------------------------------------------------------------------


def test_a_file_turns_its_own_host_alone_and_is_told_beside_the_key(fleet: Fleet, log: Any) -> None:
    path = fleet.app.path
    here, elsewhere = fleet.worker(file=path), fleet.worker()
    assert here.writes()
    assert elsewhere.writes()
    fleet.app.on("of this host")
    assert (here.look(), elsewhere.look()) == (RO, RW)
    assert not here.writes()
    assert here.reason == "of this host"
    file = here.switch.known.generation
    assert here.switch.identify() is None  # what `wait` asks is etcd
    (one,) = [one for one in fleet.read().seen if one.acknowledged]
    assert one.acknowledges(file)
    key = fleet.on()
    for worker in (here, elsewhere):
        worker.look()
    assert here.switch.known.generation == f"{key} + {file}"
    assert here.switch.known.reason == "upgrade"
    assert fleet.drained()
    (one,) = [one for one in fleet.read().seen if one.acknowledges(file)]
    assert one.acknowledges(key)
    fleet.off()
    assert (here.look(), elsewhere.look()) == (RO, RW)
    assert [one.name for one in held_by_files(fleet.read())] == [here.entry._process]
    fleet.app.off()
    assert here.look() == RW
    assert here.writes()
    assert held_by_files(fleet.read()) == []
    here.look()
    fleet.app.on()
    fleet.on()
    here.look()
    fleet.app.off()
    assert here.look() == RO
    fleet.off()
    assert here.look() == RW
    flips = [text for _, text in log() if "->" in text]
    assert len(flips) == 6  # four of this host, two of the other one


def test_a_file_turns_its_host_also_while_etcd_does_not_answer(fleet: Fleet, clock: Clock) -> None:
    worker = fleet.worker(proxied=True, file=fleet.app.path)
    assert worker.writes()
    worker.cut_off()
    fleet.app.on()
    worker.look()
    assert not worker.writes()
    clock.ahead += 11
    assert worker.look() == RO
    fleet.app.off()
    assert worker.look() == RO
    assert worker.reason.startswith("etcd can't be reached since")
    worker.connect_again()
    assert worker.look() == RW


def test_with_a_file_too_nothing_waits_for_a_while_after_a_look_that_failed(
    fleet: Fleet, clock: Clock
) -> None:
    worker = fleet.worker(proxied=True, file=fleet.app.path)
    assert worker.writes()
    worker.cut_off()
    clock.ahead += 2
    assert worker.look() == RW
    assert worker.switch.fresh_until > clock()


# -- forks and loops -------------------------------------------------------------------------


def test_a_forked_child_has_no_answer_and_no_entry_of_its_parents(fleet: Fleet) -> None:
    worker = fleet.worker(proxied=True)
    assert worker.writes()
    parent = worker.entry.place.key

    def cut_off() -> int:
        worker.proxy = None
        worker.switch.store.client._endpoints.ask = _unreachable
        return 0 if not worker.writes() else 1

    assert in_child(cut_off) == 0

    def child() -> int:
        if not worker.switch.check().read_only:
            return 3
        worker.look()
        if not worker.writes():
            return 1
        mine = worker.entry.place.key
        return 0 if mine != parent and len(fleet.read().seen) == 2 else 2

    assert in_child(child) == 0
    assert worker.writes()
    assert worker.entry.place.key == parent


def test_a_forked_child_does_not_go_by_its_parents_answer(fleet: Fleet) -> None:
    switch = EtcdSwitch(fleet.etcd.urls, key=fleet.store.key)
    assert not switch.known.read_only

    def child() -> int:
        switch.store.client._endpoints.ask = _unreachable
        return 0 if switch.state.read_only else 1

    assert in_child(child) == 0
    assert in_child(lambda: 1 if switch.state.read_only else 0) == 0


def _unreachable(*_: Any, **__: Any) -> Any:
    from sa_readonly.etcd.errors import Unreachable  # noqa: PLC0415

    raise Unreachable("cut off")


def test_without_etcd_installed_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys  # noqa: PLC0415

    monkeypatch.setitem(sys.modules, "sa_readonly.etcd.client", None)
    with pytest.raises(ConfigurationError, match=r"pip install sa-readonly\[etcd\]"):
        EtcdSwitch("http://127.0.0.1:1", key="/a")
