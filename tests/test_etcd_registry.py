"""Entries in etcd, and its operator: acknowledging, taking it back, what is lost and swept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sa_readonly import ConfigurationError, Mode
from sa_readonly.etcd.errors import Full, Unreachable
from sa_readonly.etcd.operator import OperatorError, init, turn_off, turn_on
from sa_readonly.etcd.records import LONGEST_FENCE, Marker, marker_of, seen_of
from sa_readonly.etcd.registry import entries_seen
from sa_readonly.etcd.sweep import sweep_acknowledged, sweep_old
from sa_readonly.etcd.values import KeyValue
from sa_readonly.workers.protocol import Liveness
from tests.app import Clock, in_thread
from tests.etcd_fleet import Fleet, bare, fleet
from tests.switches import in_child, log, nothing

__all__ = ["bare", "fleet", "log"]  # fixtures

RW, RO = "read-write", "read-only"


def unanswered(client: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Have requests of one kind done, and their answers lost, until the test takes it back."""
    real, done = getattr(client, name), []

    def lost(*args: Any, **options: Any) -> Any:
        done.append(real(*args, **options))
        raise Unreachable("the answer was lost")

    monkeypatch.setattr(client, name, lost)
    return done


# -- acknowledging ---------------------------------------------------------------------------


def test_a_worker_acknowledges_the_key_and_takes_it_back_before_it_writes(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    first = worker.entry.place
    assert not fleet.drained()
    generation = fleet.on()
    assert fleet.whys() == ["has not noticed, no watcher thread runs there"]
    with worker.sessions() as session:
        session.connection()
    worker.look()
    assert fleet.drained()
    assert fleet.one().acknowledges(generation)
    assert worker.look() == RO
    fleet.off()
    assert worker.look() == RW
    one = fleet.one()
    assert (one.acknowledged, one.report.mode) == (False, Mode.READ_WRITE)
    assert worker.entry.place.key > first.key  # a new name each time
    assert sorted(fleet.read().entries) == [one.name + "/00000002", one.name + "/alive"]
    assert fleet.whys(mode=Mode.READ_WRITE) == []
    second = fleet.on()
    worker.look()
    assert (fleet.drained(), second != generation) == (True, True)


def test_without_its_own_acknowledgement_it_does_not_believe_that_the_key_is_gone(
    fleet: Fleet, log: Any
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    fleet.client.delete(worker.entry.place.key + "/ack")
    fleet.off()
    for _ in range(2):
        assert worker.look() == RO
    assert "an older snapshot" in worker.reason
    assert not worker.writes()
    (line,) = [text for level, text in log() if level == "ERROR"]
    assert "`sa-readonly on`, and then `off`" in line
    fleet.on()
    worker.look()
    assert fleet.drained()
    fleet.off()
    assert worker.look() == RW


@pytest.mark.parametrize("anew", [False, True])
def test_nothing_is_acknowledged_once_the_key_is_gone(fleet: Fleet, anew: bool) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    for name in (fleet.store.key, worker.entry.place.key + "/ack"):  # as an older snapshot has it
        fleet.client.delete(name)
    worker.entry._stale = anew  # as it registers after a put that was not answered
    reporting = worker.selector._worker.reporting
    reporting._told = None
    worker.selector._worker.due()
    assert reporting.problem is None
    assert worker.look() == RO
    assert "an older snapshot" in worker.reason


def test_an_entry_that_was_swept_while_read_only_leaves_it_unknown_too(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    for name in fleet.read().entries:
        fleet.client.delete(fleet.store.workers + name)
    fleet.off()
    for _ in range(3):
        assert worker.look() == RO
    assert fleet.one().acknowledged is False  # it has registered anew
    assert "an older snapshot" in worker.reason


def test_a_worker_that_has_not_acknowledged_goes_back_at_once(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.switch.check()
    with worker.sessions() as session:
        session.connection()
    fleet.off()
    assert worker.look() == RW


def test_after_a_put_without_an_answer_it_registers_anew_and_the_old_name_does_not_count(
    fleet: Fleet,
) -> None:
    worker = fleet.worker()
    worker.write()
    first = worker.entry.place
    fleet.on()
    client, real = worker.switch.store.client, worker.switch.store.client.txn

    def lost(compare: Any, success: Any, failure: Any = (), **options: Any) -> Any:
        answer = real(compare, success, failure, **options)
        if any(op.writes for op in success):
            client.txn = real
            raise Unreachable("the answer was lost")
        return answer

    client.txn = lost
    worker.switch.check()
    worker.selector._worker.due()
    assert worker.entry._stale or worker.entry.place is not first
    worker.look()
    assert worker.entry.place.key > first.key
    assert fleet.drained()
    names = fleet.read().entries
    assert not any(name.startswith(first.name) for name in names)
    # the old one turns up late, and with it what it acknowledged
    fleet.client.put(first.key, b"late")
    assert fleet.drained()
    fleet.off()
    assert worker.look() == RW
    assert worker.writes()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_key_that_goes_while_what_acknowledged_it_registers_anew_leaves_no_doubt(
    fleet: Fleet, moment: str
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    client, real = worker.switch.store.client, worker.switch.store.client.txn

    def with_off(compare: Any, success: Any, failure: Any = (), **options: Any) -> Any:
        client.txn = real
        if moment == "before":
            fleet.off()
        answer = real(compare, success, failure, **options)
        fleet.off()
        return answer

    init(fleet.store, 20)  # so that it registers anew
    client.txn = with_off
    worker.look()
    assert client.txn == real
    assert worker.look() == RW
    assert worker.writes()


def test_a_registration_that_is_made_while_it_is_closed_is_taken_away(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    entry = worker.entry
    client, real = worker.switch.store.client, worker.switch.store.client.txn

    def closing(*args: Any, **options: Any) -> Any:
        client.txn = real
        in_thread(entry.close)
        return real(*args, **options)

    client.txn, entry._stale = closing, True
    entry.ensure()
    assert client.txn == real
    assert fleet.read().entries == {}


def test_an_entry_goes_at_once_with_what_it_acknowledged(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    client, real = worker.switch.store.client, worker.switch.store.client.delete

    def drained_then(*args: Any, **options: Any) -> Any:
        assert fleet.drained()
        answer = real(*args, **options)
        assert fleet.read().seen == ()
        return answer

    monkeypatch.setattr(client, "delete", drained_then)
    worker.entry.close()


def test_a_child_forked_while_its_parent_acknowledges_knows_that_it_puts_nothing(
    fleet: Fleet,
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    client, real = worker.switch.store.client, worker.switch.store.client.txn
    codes = []

    def forking(*args: Any, **options: Any) -> Any:
        client.txn = real
        codes.append(in_child(lambda: worker.entry.puts))
        return real(*args, **options)

    client.txn = forking
    worker.look()
    assert codes == [0]


def test_a_look_while_an_acknowledgement_is_on_its_way_proves_nothing(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    client, looked = worker.switch.store.client, []
    real = client.txn

    def look_before(compare: Any, success: Any, failure: Any = (), **options: Any) -> Any:
        if any(op.writes for op in success):
            client.txn = real
            fleet.off()
            in_thread(lambda: looked.append(worker.switch.check()))
        return real(compare, success, failure, **options)

    fleet.on()
    client.txn = look_before
    worker.look()
    assert looked[0].read_only
    assert worker.look() == RW
    assert worker.writes()


def test_the_delete_that_takes_it_back_is_sent_until_it_is_answered_and_till_then_it_is_shut(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    fleet.off()
    with monkeypatch.context() as patched:
        done = unanswered(worker.switch.store.client, "delete", patched)
        for _ in range(3):
            assert worker.look() == RO
        assert not worker.writes()
        assert [one.deleted for one in done[:3]] == [1, 0, 0]
        acked = [name for name in fleet.read().entries if name.endswith("/ack")]
        assert acked == []
    assert worker.look() == RW
    assert worker.writes()


def test_a_key_that_is_there_again_before_the_delete_is_answered_is_acknowledged_anew(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    before = worker.entry.place
    fleet.off()
    with monkeypatch.context() as patched:
        unanswered(worker.switch.store.client, "delete", patched)
        worker.look()
    generation = fleet.on()
    worker.look()
    worker.look()
    assert worker.entry.place.key > before.key  # the delete may come yet
    assert fleet.one().acknowledges(generation)
    fleet.off()
    assert worker.look() == RW


def test_the_copy_of_an_acknowledgement_acknowledges_nothing(fleet: Fleet) -> None:
    one, two = fleet.worker(), fleet.worker()
    one.write()
    two.write()
    fleet.on()
    one.look()
    value = fleet.client.get(one.entry.place.key + "/ack").kv.value
    fleet.client.put(two.entry.place.key + "/ack", value)
    assert len(fleet.whys()) == 1


def test_while_read_write_what_is_only_counted_is_not_written(fleet: Fleet, clock: Clock) -> None:
    worker = fleet.worker()
    worker.write()
    worker.entry._hint.renew = nothing
    before = fleet.client.get("/").revision
    connections = [worker.engine.connect() for _ in range(3)]
    for _ in range(3):
        worker.look()
        clock.ahead += 31  # the last report is old
    assert fleet.client.get("/").revision == before
    for connection in connections:
        connection.close()


# -- what is lost ----------------------------------------------------------------------------


def test_a_worker_that_is_cut_off_is_lost_and_waited_for_until_it_acknowledges_or_the_fence(
    fleet: Fleet, clock: Clock
) -> None:
    worker, other = fleet.worker(proxied=True), fleet.worker()
    worker.write()
    other.write()
    worker.cut_off()
    fleet.client.delete(fleet.store.workers + worker.entry._process + "/alive")
    fleet.on()
    other.look()
    (why,) = fleet.whys()
    assert (
        why
        == "lost: read-write, with no connections out when it last reported, and maybe more since"
    )
    assert fleet.whys(ignore_dead=True) == [why]  # it may still be given one
    clock.ahead += 8  # a busy machine needs some of the rest
    assert fleet.whys(ignore_dead=True) == [why]
    clock.ahead += 3.1
    assert fleet.whys(ignore_dead=True) == []
    assert fleet.whys() == [why]
    worker.connect_again()
    worker.look()
    assert fleet.drained()
    fleet.client.delete(fleet.store.workers + worker.entry._process + "/alive")
    assert fleet.one_lost().liveness is Liveness.LOST
    assert fleet.drained()  # by its own word


def test_the_fence_is_the_longest_that_is_told_and_sixty_seconds_after_a_marker_of_on(
    fleet: Fleet,
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    assert 10.5 < fleet.fence.left(fleet.read()) <= 11
    init(fleet.store, 20)
    assert 20.5 < fleet.fence.left(fleet.read()) <= 22
    fleet.client.delete(fleet.store.marker)
    assert turn_on(fleet.store).marker_made
    assert 65 < fleet.fence.left(fleet.read()) <= 66
    paused: list[float] = []
    init(fleet.store, 5, pause=paused.append)
    assert paused == [pytest.approx(66)]
    assert 10 < fleet.fence.left(fleet.read()) <= 11  # the entry tells 10 yet
    fleet.client.delete(fleet.store.workers, prefix=True)  # its process may live all the same
    assert 6 < fleet.fence.left(fleet.read()) <= 11


def test_where_the_marker_was_lost_the_longest_fence_is_waited_for_as_entries_may_be_missing(
    fleet: Fleet,
) -> None:
    cut_off, worker = fleet.worker(proxied=True), fleet.worker()
    assert cut_off.writes()
    assert worker.writes()
    cut_off.cut_off()
    for name in fleet.read().entries:  # as where all data are lost
        fleet.client.delete(fleet.store.workers + name)
    fleet.client.delete(fleet.store.marker)
    assert fleet.client.get(fleet.store.marker).kv is None
    fleet.on()
    worker.look()
    worker.look()
    (one,) = [one for one in fleet.read().seen if one.report]
    assert one.acknowledged
    assert cut_off.writes()
    (why,) = fleet.whys()
    assert why.startswith("the marker was lost")
    fleet.fence._since -= 66
    assert fleet.drained()


# -- the operator ----------------------------------------------------------------------------


def test_init_is_refused_where_a_marker_a_key_or_an_entry_is(bare: Fleet) -> None:
    store, client = bare.store, bare.client
    for name in (store.key, store.marker, store.workers + "x"):
        client.put(name, "")
        with pytest.raises(OperatorError, match=r"`sa-readonly on` and then `off`"):
            init(store, 10)
        client.delete(name)
    for fence in (0, 61):
        with pytest.raises(OperatorError, match="of 60 s at most"):
            init(store, fence)
    with pytest.raises(ConfigurationError):
        init(store, "x")
    made = init(store, 10)
    assert marker_of(client.get(store.marker).kv) == made
    assert (made.by, made.fence, made.cluster) == ("init", 10, client.get("/").cluster_id)
    with pytest.raises(OperatorError):
        init(store, 10)
    bare.on()
    assert init(store, 20).fence == 20


def test_on_makes_the_key_and_a_missing_marker_and_says_what_another_operator_did(
    bare: Fleet,
) -> None:
    first = turn_on(bare.store, "upgrade")
    assert (first.made, first.edited, first.marker_made) == (True, False, True)
    second = turn_on(bare.store)
    assert (second.made, second.edited, second.marker_made) == (False, False, False)
    assert second.key == first.key
    third = turn_on(bare.store, "of the disks")
    assert (third.made, third.edited, third.key.text.reason) == (False, True, "of the disks")
    assert third.key.generation == first.key.generation
    bare.client.put(bare.store.marker, Marker.new(1, 10, "init").encoded())
    fourth = turn_on(bare.store)
    assert (fourth.made, fourth.edited, fourth.marker_made) == (False, False, True)
    deleted = turn_off(bare.store)
    assert deleted.key.generation == first.key.generation
    assert turn_off(bare.store).key is None


def test_once_on_was_answered_it_asks_nothing_more(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, real = fleet.client, fleet.client.txn

    def then_away(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(client, "get", unreachable)
        return real(*args, **options)

    def unreachable(*_: Any, **__: Any) -> Any:
        raise Unreachable("cut off")

    monkeypatch.setattr(client, "txn", then_away)
    done = turn_on(fleet.store, "upgrade")
    monkeypatch.undo()
    assert done.made
    assert done.key == fleet.read().key
    monkeypatch.setattr(client, "txn", then_away)
    done = turn_on(fleet.store, "longer")
    monkeypatch.undo()
    assert (done.made, done.edited) == (False, True)
    assert done.key == fleet.read().key


def test_an_operator_whose_request_is_not_answered_is_told_what_may_come(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fleet.client.txn

    def lost(compare: Any, success: Any, failure: Any = (), **options: Any) -> Any:
        answer = real(compare, success, failure, **options)
        if any(op.writes for op in success):
            raise Unreachable("the answer was lost.")
        return answer

    monkeypatch.setattr(fleet.client, "txn", lost)
    with pytest.raises(OperatorError, match=r"not known whether .* was turned read-only"):
        turn_on(fleet.store)
    with pytest.raises(OperatorError, match="that of the next `sa-readonly on`"):
        turn_off(fleet.store)


def test_a_full_etcd_stops_on_and_never_off(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    client = fleet.client
    started = fleet.worker()
    with fleet.etcd.full():
        assert worker.look() == RO
        started.look()
        assert not started.writes()

        def full(*_: Any, **__: Any) -> Any:  # as 3.5.1 says once its file is over the quota
            raise Full("etcd: database space exceeded.", code=8)

        for one in (client, worker.switch.store.client):
            monkeypatch.setattr(one, "txn", full)
        assert worker.look() == RO
        off = turn_off(fleet.store)
        assert (off.key is not None, off.plainly) == (True, True)
        assert worker.look() == RW
        assert worker.writes()
        assert not started.writes()
        with pytest.raises(OperatorError, match=f"etcdctl del {fleet.store.marker}"):
            turn_on(fleet.store)
        client.delete(fleet.store.marker)
        assert worker.look() == RO


# -- sweeping --------------------------------------------------------------------------------


def test_on_forgets_what_is_lost_and_had_acknowledged_and_held_nothing(fleet: Fleet) -> None:
    gone, busy, alive = fleet.worker(), fleet.worker(), fleet.worker()
    for worker in (gone, busy, alive):
        worker.write()
    fleet.on()
    gone.look()
    alive.look()
    held = [name for worker in (gone, busy) for name in [worker.entry._process + "/alive"]]
    for name in held:
        fleet.client.delete(fleet.store.workers + name)
    swept = sweep_acknowledged(fleet.store)
    assert [one.name for one in swept] == [gone.entry._process]
    assert {one.name for one in fleet.read().seen} == {
        worker.entry._process for worker in (busy, alive)
    }
    fleet.client.delete(fleet.store.workers + alive.entry._process + "/alive")
    fleet.off()  # and may write from now on
    assert sweep_acknowledged(fleet.store) == []
    assert alive.entry._process in {one.name for one in fleet.read().seen}


def test_what_shows_life_while_it_is_forgotten_stays(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    worker.look()
    hint = fleet.store.workers + worker.entry._process + "/alive"
    fleet.client.delete(hint)
    real = fleet.client.txn

    def late(*args: Any, **options: Any) -> Any:
        fleet.client.put(hint, "")
        return real(*args, **options)

    monkeypatch.setattr(fleet.client, "txn", late)
    assert sweep_acknowledged(fleet.store) == []
    assert len(fleet.read().seen) == 1


def test_off_forgets_what_is_lost_for_a_day_and_shows_no_life_meanwhile(
    fleet: Fleet, clock: Clock
) -> None:
    old, living, waking = fleet.worker(), fleet.worker(), fleet.worker()
    for worker in (old, living, waking):
        worker.write()
    for worker in (old, waking):
        fleet.client.delete(fleet.store.workers + worker.entry._process + "/alive")
    told: list[str] = []

    hint = fleet.store.workers + waking.entry._process + "/alive"

    def pause(seconds: float) -> None:  # it shows life for a moment
        clock.ahead += seconds
        there = fleet.client.get(hint).kv
        fleet.client.put(hint, "") if there is None else fleet.client.delete(hint)

    assert sweep_old(fleet.store, told.append, pause=pause) == []
    began = clock()
    swept = sweep_old(fleet.store, told.append, age=-1, pause=pause)
    assert [one.name for one in swept] == [old.entry._process]
    assert clock() - began >= 20
    assert len(told) == 1
    assert old.entry._process in told[0]
    assert {one.name for one in fleet.read().seen} == {
        worker.entry._process for worker in (living, waking)
    }
    assert old.look() == RW  # it lives all the same, and registers anew
    assert old.writes()


def test_a_damaged_entry_is_waited_for(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    place = worker.entry.place
    told = json.loads(fleet.client.get(place.key).kv.value)
    fleet.on()
    worker.look()
    for value in (b"", b"[]", b"{}", json.dumps({**told, "pid": "x"})):
        fleet.client.put(place.key, value)
        assert fleet.whys() == ["its entry is damaged"]


def test_a_number_that_can_be_no_time_and_no_fence_is_damage_and_no_error() -> None:
    told = {"format": 1, "host": "h", "pid": 1, "program": "p", "version": "1", "report": None}
    for field, value in [
        *(("started", value) for value in (10**400, float("nan"), "1.5", True)),
        *(("written", value) for value in (10**400, float("inf"))),
        *(("fence", value) for value in (10**400, float("nan"), -1, LONGEST_FENCE + 1)),
    ]:
        fields = {**told, "started": 1.0, "written": 1.0, "fence": 10.0, field: value}
        kv = KeyValue("p/00000001", json.dumps(fields).encode(), 1, 1, 1, 0)
        one = seen_of(kv.key, kv, None, alive=True)
        assert (one.liveness, one.problem) == (Liveness.UNKNOWN, "its entry is damaged")
        assert entries_seen({kv.key: kv})[1] == LONGEST_FENCE
