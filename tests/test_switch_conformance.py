"""Every fact of the Switch protocol, for every switch. A further switch is one more kind below.

The facts are those of ``sa_readonly.mode.Switch``. A kind says how its source is turned, so the
tests know the protocol only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import sessionmaker

from sa_readonly import (
    ConfigurationError,
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    PolledSwitch,
    ReadOnlyError,
    RoutingSession,
    State,
    Switch,
)
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.etcd.operator import init
from sa_readonly.etcd.switch import store_of
from sa_readonly.mode import clock as age_clock
from sa_readonly.mode import missing
from sa_readonly.subscribers import BaseSwitch
from tests.app import WHICH, App, Book, in_thread, lite, place
from tests.etcd import Etcd
from tests.switches import (
    RO,
    RW,
    Clock,
    Told,
    clock,
    in_child,
    log,
    no_thread_is_left,
    nothing,
    path,
)

__all__ = ["clock", "lite", "log", "no_thread_is_left", "path", "place"]  # fixtures

WHY = "upgrade\nuntil: 2030-01-01T00:00Z"
UNTIL = datetime(2030, 1, 1, tzinfo=timezone.utc)


class Kind:
    """A kind of switch with its source, which is read-write at first.

    The switches that :meth:`make` returns have one source.
    """

    turns = True  # whether its mode changes
    forcible = False  # whether SA_READONLY_FORCE counts
    overridable = True  # whether a test can dictate the mode
    keeps_for_ever = False  # whether a look that fails counts as a look that brought the same
    tells_text = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text: str | None = None
        self.broken = False
        self.while_looking: Callable[[], object] = nothing

    @classmethod
    def made(cls, path: Path, request: pytest.FixtureRequest) -> Kind:  # noqa: ARG003  # another kind asks for its server
        return cls(path)

    def make(self) -> Switch:
        raise NotImplementedError

    def turn(self, text: str | None) -> None:
        self.text = text

    def look(self) -> str | None:
        self.while_looking()
        if self.broken:
            raise OSError("no route to host")
        return self.text


class OfAFile(Kind):
    forcible = keeps_for_ever = True
    stat = os.stat

    def make(self) -> Switch:
        return FileSwitch(self.path, ttl=1)

    def turn(self, text: str | None) -> None:
        self.path.unlink(missing_ok=True)
        if text is not None:
            self.path.write_text(text)

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def looked_at(name: Any, **options: Any) -> os.stat_result:
            if str(name).startswith(str(self.path.parent)):
                self.look()
            return OfAFile.stat(name, **options)

        monkeypatch.setattr(os, "stat", looked_at)


class Polled(Kind):
    forcible = True

    def make(self) -> Switch:
        return PolledSwitch(self.look)


class Derived(BaseSwitch):
    """A switch that is derived from BaseSwitch, as docs/switches.md shows it."""

    def __init__(self, kind: Kind) -> None:
        super().__init__("derived", ttl=1.0, fence=10.0)
        self.kind = kind
        self.check()

    def check(self) -> State:
        asked = age_clock()
        try:
            text = self.kind.look()
        except OSError:
            if age_clock() >= self.checked + self.fence:
                self.learn(State(RO, "it can't be reached"), asked)
            return self.known
        mode = RW if text is None else RO
        self.learn(State(mode, text, generation=text and f"of {text}"), asked)
        return self.known


class OfABaseSwitch(Kind):
    forcible = True
    tells_text = False

    def make(self) -> Switch:
        return Derived(self)


class Minimal(Switch):
    """As little as can be written: ``known``, ``check()`` and ``subscribe()``. For one thread."""

    known = State(RW)

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.subscribers: list[Any] = []
        self.check()

    def check(self) -> State:
        asked, old = age_clock(), self.known
        try:
            text = self.kind.look()
            new = State(RW) if text is None else State(RO, text, generation=f"of {text}")
        except OSError:
            new, asked = old, self.checked
        if age_clock() >= asked + self.fence:
            new = State(RO, "it can't be reached")
        if not new.read_only and not self.turn(new):
            return old
        self.known, self.checked, self.fresh_until = new, asked, asked + self.ttl
        if new.read_only:
            self.turn(new)
        if new.mode is not old.mode:
            for _, flipped in tuple(self.subscribers):
                flipped(old, new)
        return new

    def turn(self, state: State) -> bool:
        try:
            for gate, _ in tuple(self.subscribers):
                gate(state)
        except RuntimeError:
            for gate, _ in tuple(self.subscribers):
                gate(self.known)
            return False
        return True

    def subscribe(self, gate: Any, flipped: Any) -> Any:
        gate(self.known)
        self.subscribers.append((gate, flipped))

        def end() -> None:
            if (gate, flipped) in self.subscribers:
                self.subscribers.remove((gate, flipped))

        return end


class OfTheProtocol(Kind):
    overridable = tells_text = False

    def make(self) -> Switch:
        return Minimal(self)


class FixedReadWrite(Kind):
    turns = False
    mode: ClassVar = RW

    def make(self) -> Switch:
        return FixedSwitch(self.mode)


class FixedReadOnly(FixedReadWrite):
    mode = RO


class InEtcd(Kind):
    forcible = True

    def __init__(self, path: Path, etcd: Etcd) -> None:
        super().__init__(path)
        self.urls, self.store = etcd.urls, store_of(etcd.urls, f"/{path.parent.parent.name}/mode")
        init(self.store, 10)

    @classmethod
    def made(cls, path: Path, request: pytest.FixtureRequest) -> Kind:
        return cls(path, request.getfixturevalue("etcd"))

    def make(self) -> Switch:
        kind = self

        class Looked(EtcdSwitch):
            def _ask(self, look: Any) -> Any:
                kind.look()
                return super()._ask(look)

        return Looked(self.urls, key=self.store.key)

    def turn(self, text: str | None) -> None:
        client = self.store.client
        client.delete(self.store.key) if text is None else client.put(self.store.key, text)


KINDS = (OfAFile, Polled, InEtcd, OfABaseSwitch, OfTheProtocol, FixedReadWrite, FixedReadOnly)


def kinds(**wanted: bool) -> Any:
    return pytest.mark.parametrize(
        "kind",
        [one for one in KINDS if all(getattr(one, k) is v for k, v in wanted.items())],
        indirect=True,
        ids=lambda one: one.__name__,
    )


@pytest.fixture
def kind(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    made: Kind = request.param.made(path, request)
    if isinstance(made, OfAFile):
        made.patch(monkeypatch)
    return made


def age(clock: Clock, seconds: float) -> None:
    clock.now += seconds


# -- what it has -----------------------------------------------------------------------------


@kinds()
def test_it_has_each_member_of_the_protocol(kind: Kind) -> None:
    switch = kind.make()
    assert missing(switch) == []
    assert isinstance(switch.known, State)
    assert switch.name
    assert isinstance(switch.name, str)
    assert 0 < switch.ttl <= switch.fence
    assert (switch.forced, switch.overridden) == (None, False)
    hash(switch)  # it is a key of weak tables


@kinds(turns=True)
def test_the_mode_is_known_once_it_is_made_and_that_is_no_flip(kind: Kind, log: Any) -> None:
    assert kind.make().known.mode is RW
    kind.turn("upgrade")
    known = kind.make().known
    assert (known.mode, known.reason) == (RO, "upgrade")
    assert not any("->" in text for _, text in log())


@kinds(turns=False)
def test_what_never_moves_is_fresh_for_ever(kind: Kind, clock: Clock) -> None:
    switch = kind.make()
    known = switch.known
    assert switch.fresh_until == switch.ttl == switch.fence == math.inf
    assert switch.checked == -math.inf
    age(clock, 1e9)
    assert switch.refresh() is switch.check() is known
    assert switch.glance()


# -- looks -----------------------------------------------------------------------------------


@kinds(turns=True)
def test_check_tells_what_the_source_says_now(kind: Kind) -> None:
    switch = kind.make()
    for _ in range(2):
        kind.turn(WHY)
        state = switch.check()
        assert state is switch.known
        assert state.mode is RO
        assert state.reason.startswith("upgrade")
        if kind.tells_text:
            assert (state.reason, state.until) == ("upgrade", UNTIL)
        kind.turn(None)
        assert switch.check().mode is switch.known.mode is RW


@kinds(turns=True)
def test_no_look_is_taken_while_the_answer_is_fresh(kind: Kind) -> None:
    switch = kind.make()
    checked, known = switch.checked, switch.known
    kind.turn(WHY)
    assert age_clock() < switch.fresh_until
    assert switch.glance()
    assert (switch.refresh(), switch.known) == (known, known)
    assert switch.checked == checked


@kinds(turns=True)
def test_an_answer_older_than_ttl_is_not_used_where_a_look_can_be_had(
    kind: Kind, clock: Clock
) -> None:
    switch = kind.make()
    for text, mode in ((WHY, RO), (None, RW)) * 2:
        kind.turn(text)
        age(clock, switch.ttl + 0.01)
        assert age_clock() >= switch.fresh_until
        assert switch.refresh().mode is switch.known.mode is mode


@kinds(turns=True)
def test_an_answer_ages_from_before_its_look(kind: Kind, clock: Clock) -> None:
    switch = kind.make()
    before = age_clock()
    kind.while_looking = lambda: age(clock, 0.01)
    switch.check()
    assert before <= switch.checked <= before + 0.009
    assert switch.fresh_until <= switch.checked + switch.ttl


@kinds(turns=True)
def test_a_look_that_is_asked_for_by_the_time_is_taken(kind: Kind) -> None:
    switch = kind.make()
    kind.turn(WHY)
    switch.fresh_until = -math.inf
    assert switch.refresh().mode is RO
    assert age_clock() < switch.fresh_until


@kinds()
def test_a_glance_says_at_once_whether_what_is_known_may_be_used(kind: Kind, clock: Clock) -> None:
    switch = kind.make()
    assert switch.glance()
    if not kind.turns:
        return
    for text, mode in ((WHY, RO), (None, RW)):
        kind.turn(text)
        age(clock, switch.ttl + 0.01)
        assert not switch.glance() or switch.known.mode is mode
        switch.refresh()
        assert switch.glance()
        assert switch.known.mode is mode


@kinds(turns=True)
def test_a_look_that_fails_keeps_the_answer_and_no_longer_than_fence(
    kind: Kind, clock: Clock
) -> None:
    switch = kind.make()
    kind.broken = True
    age(clock, (switch.ttl + switch.fence) / 2 - 0.001)
    assert switch.refresh().mode is switch.check().mode is RW
    age(clock, switch.fence)
    assert switch.refresh().mode is switch.known.mode is (RW if kind.keeps_for_ever else RO)
    kind.broken = False
    assert switch.check().mode is RW
    kind.turn(WHY)
    switch.check()
    kind.broken = True
    age(clock, 10 * switch.fence)
    assert switch.refresh().mode is switch.check().mode is RO


# -- its generation --------------------------------------------------------------------------


@kinds(turns=True)
def test_identify_tells_the_generation_that_is_there_and_each_process_sees_the_same(
    kind: Kind,
) -> None:
    switch, other = kind.make(), kind.make()
    assert switch.identify() is None
    kind.turn("upgrade")
    generation = switch.identify()
    assert generation == switch.check().generation == other.identify() == other.check().generation
    assert generation is not None
    kind.turn("upgrade of the disks")
    assert switch.identify() not in (None, generation)
    kind.turn(None)
    assert switch.identify() is switch.check().generation is None


@kinds(turns=True)
def test_identify_raises_where_nothing_can_be_told(kind: Kind, clock: Clock) -> None:
    switch = kind.make()
    kind.broken = True
    age(clock, 10 * switch.fence)
    with pytest.raises(OSError):
        switch.identify()


# -- its subscribers -------------------------------------------------------------------------


@kinds()
def test_a_gate_is_turned_at_once_to_what_is_known(kind: Kind) -> None:
    for text in (None, WHY):
        kind.turn(text)
        turned: list[State] = []
        switch = kind.make()
        end = switch.subscribe(turned.append, nothing)
        assert turned == [switch.known]
        end()
        end()


@kinds()
def test_what_a_gate_raises_at_once_is_raised(kind: Kind) -> None:
    def gate(state: State) -> None:
        raise RuntimeError("stuck")

    with pytest.raises(RuntimeError, match="stuck"):
        kind.make().subscribe(gate, nothing)


@kinds(turns=True)
def test_a_flip_is_told_once_and_gates_close_after_it_is_known_and_open_before(
    kind: Kind,
) -> None:
    switch = kind.make()
    told = Told(switch)
    for text in (WHY, None):
        kind.turn(text)
        for _ in range(3):
            switch.check()
    first = list(dict.fromkeys(told.events))  # a gate may be turned again to the same mode
    assert first == [
        ("gate", "read-only", "read-only"),
        ("tell", "read-write", "read-only"),
        ("gate", "read-write", "read-only"),
        ("tell", "read-only", "read-write"),
        *first[4:],
    ]
    assert [event for event in told.events if event[0] == "tell"] == [first[1], first[3]]


@kinds(turns=True)
def test_once_a_subscription_has_ended_nothing_is_told(kind: Kind) -> None:
    switch = kind.make()
    told = Told(switch)
    told.end()
    kind.turn(WHY)
    assert switch.check().mode is RO
    assert told.events == []


@kinds(turns=True)
def test_while_a_gate_fails_to_open_it_stays_read_only_and_all_gates_are_closed(
    kind: Kind,
) -> None:
    kind.turn(WHY)
    switch = kind.make()
    broken, turned = False, {"first": [RO], "second": [RO], "third": [RO]}

    def gate(name: str, state: State) -> None:
        turned[name].append(state.mode)
        if broken and name == "second" and not state.read_only:
            raise RuntimeError("stuck half open")

    for name in turned:
        switch.subscribe(lambda state, name=name: gate(name, state), nothing)
    broken = True
    kind.turn(None)
    for _ in range(2):
        assert switch.check().mode is switch.known.mode is RO
        assert {modes[-1] for modes in turned.values()} == {RO}
    broken = False
    assert switch.check().mode is switch.known.mode is RW
    assert {modes[-1] for modes in turned.values()} == {RW}


# -- what dictates its mode ------------------------------------------------------------------


@kinds(overridable=True)
@pytest.mark.parametrize("mode", [RO, RW])
def test_a_test_dictates_the_mode_and_nothing_is_looked_at(
    kind: Kind, clock: Clock, mode: Mode
) -> None:
    kind.turn(WHY if mode is RW else None)
    switch = kind.make()
    before, checked, told = switch.known, switch.checked, Told(switch)
    dictated = State(mode, "a test")
    end = switch.override(dictated)
    age(clock, 10 * switch.fence if switch.fence < math.inf else 1)
    assert switch.known is switch.refresh() is switch.check() is dictated
    assert switch.glance()
    assert (switch.forced, switch.overridden, switch.checked) == (mode, True, checked)
    end()
    end()
    assert (switch.forced, switch.overridden, switch.known) == (None, False, before)
    flips = [] if before.mode is mode else [str(mode), str(before.mode)]
    assert [event[2] for event in told.events if event[0] == "tell"] == flips
    if kind.turns:
        kind.turn(WHY if mode is RO else None)
        assert switch.refresh().mode is mode  # by a look that is due at once


@kinds(overridable=True)
def test_of_several_overrides_the_newest_counts(kind: Kind) -> None:
    switch = kind.make()
    before = switch.known.mode
    first, second = State(RO), State(RW)
    end_first, end_second = switch.override(first), switch.override(second)
    assert switch.known is second
    end_first()
    assert (switch.known, switch.overridden) == (second, True)
    end_second()
    assert switch.known.mode is before


@kinds(overridable=True)
def test_an_override_that_a_gate_does_not_open_for_is_refused(kind: Kind) -> None:
    kind.turn(WHY)
    switch = kind.make()
    if not switch.known.read_only:
        return

    def gate(state: State) -> None:
        if not state.read_only:
            raise RuntimeError("stuck")

    switch.subscribe(gate, nothing)
    with pytest.raises(InvalidRequestError, match="a gate failed to open"):
        switch.override(State(RW))
    assert (switch.known.mode, switch.overridden, switch.forced) == (RO, False, None)


@kinds(overridable=False)
def test_what_cant_be_overridden_says_so_and_names_the_cure(kind: Kind) -> None:
    with pytest.raises(ConfigurationError, match="derive your switch from"):
        kind.make().override(State(RO))


@kinds(forcible=True)
@pytest.mark.parametrize("mode", [RO, RW])
def test_the_environment_forces_the_mode(
    kind: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch, log: Any, mode: Mode
) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", str(mode))
    kind.turn(WHY if mode is RW else None)
    switch = kind.make()
    age(clock, 1e6)
    switch.fresh_until = -math.inf
    assert switch.known is switch.refresh() is switch.check()
    assert (switch.known.mode, switch.forced) == (mode, mode)
    assert switch.known.reason == f"SA_READONLY_FORCE={mode}"
    assert switch.glance()
    assert age_clock() < switch.fresh_until
    assert [level for level, _ in log()] == ["WARNING"]
    if kind.tells_text:
        assert (switch.identify() is None) is (mode is RO)  # which looks all the same


# -- processes, threads and an application ---------------------------------------------------


@kinds(turns=True)
def test_a_forked_child_looks_and_tells_for_itself(kind: Kind) -> None:
    switch = kind.make()
    told = Told(switch)

    def child() -> int:
        kind.turn(WHY)
        switch.fresh_until = -math.inf
        return 0 if switch.refresh().read_only and told.events else 1

    assert in_child(child) == 0
    assert told.events == []
    kind.turn(None)
    assert switch.check().mode is RW


@kinds()
def test_it_may_be_asked_in_any_thread(kind: Kind) -> None:
    switch = kind.make()
    mode = switch.known.mode
    states: list[State] = []
    for ask in (switch.refresh, switch.check):
        in_thread(lambda ask=ask: states.append(ask()))
    assert {state.mode for state in states} == {mode}


@pytest.fixture
def sessions(kind: Kind, lite: App, clock: Clock) -> Iterator[Any]:
    switch = kind.make()
    engines = {"read_write": lite.engine("rw"), "read_only": lite.engine("ro")}
    with closing(EngineSelector(switch, watch=False, **engines)) as selector:
        yield sessionmaker(selector, class_=RoutingSession)


def add_book(sessions: Any) -> None:
    with sessions.begin() as session:
        session.add(Book(title="x"))


@kinds(turns=True)
def test_a_transaction_goes_by_an_answer_that_is_not_older_than_ttl(
    kind: Kind, sessions: Any, lite: App, clock: Clock
) -> None:
    switch = sessions.kw["bind"].switch
    add_book(sessions)
    for _ in range(2):
        kind.turn(WHY)
        age(clock, switch.ttl + 0.01)
        with pytest.raises(ReadOnlyError, match="upgrade"):
            add_book(sessions)
        with sessions() as session:
            assert session.scalar(WHICH) == "ro"
        kind.turn(None)
        age(clock, switch.ttl + 0.01)
        add_book(sessions)
    assert lite.titles("rw") == ["x"] * 3


@kinds(turns=True, keeps_for_ever=False)
def test_a_transaction_that_begins_past_fence_without_a_look_is_read_only(
    kind: Kind, sessions: Any, lite: App, clock: Clock
) -> None:
    switch = sessions.kw["bind"].switch
    add_book(sessions)
    kind.broken = True
    age(clock, switch.fence - 1)
    add_book(sessions)
    age(clock, 1.01)
    with pytest.raises(ReadOnlyError):
        add_book(sessions)
    with pytest.raises(ReadOnlyError):
        lite.engines["rw"].connect()
    assert lite.titles("rw") == ["x"] * 2
