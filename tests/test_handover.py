"""The handover: what a selector gives, and what it gets back to pick from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from sa_readonly import EngineSelector, FileSwitch, FixedSwitch, Mode, ReadOnlyError
from sa_readonly.engines.handover import GuardedEngines
from sa_readonly.engines.readers import TwinEngine

RW, RW_REPLICA = "read_write.primary", "read_write.replica"
RO, RO_REPLICA = "read_only.primary", "read_only.replica"
SWITCH = FixedSwitch(Mode.READ_WRITE)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[dict[str, Engine]]:
    made = {
        name: create_engine(f"sqlite:///{tmp_path}/{name}.db")
        for name in (RW, RW_REPLICA, RO, RO_REPLICA)
    }
    yield made
    for engine in made.values():
        engine.dispose()


def names(engines: dict[str, Engine], found: Any) -> str:
    if isinstance(found, TwinEngine):
        return "twin"
    return next(name for name, engine in engines.items() if engine is found)


# For the names given: what the four routes are, in the order of RW, RW_REPLICA, RO, RO_REPLICA; and
# the engines that have doors.
@pytest.mark.parametrize(
    ("given", "routes", "doors"),
    [
        ([RW], [RW, "twin", "twin", "twin"], [RW]),
        ([RW, RW_REPLICA], [RW, RW_REPLICA, "twin", RW_REPLICA], [RW]),
        ([RW, RO], [RW, "twin", RO, RO], [RW, "twin"]),
        ([RW, RO, RO_REPLICA], [RW, "twin", RO, RO_REPLICA], [RW, "twin"]),
        (
            [RW, RW_REPLICA, RO, RO_REPLICA],
            [RW, RW_REPLICA, RO, RO_REPLICA],
            [RW, RW_REPLICA],
        ),
    ],
)
def test_what_was_not_given_is_a_twin_or_another_that_was(
    engines: dict[str, Engine], given: list[str], routes: list[str], doors: list[str]
) -> None:
    guarded = GuardedEngines(SWITCH, {name: engines[name] for name in given})
    found = [guarded.engines[name] for name in (RW, RW_REPLICA, RO, RO_REPLICA)]
    assert [names(engines, one) for one in found] == routes
    assert [names(engines, door.engine) for door in guarded.doors] == doors
    guarded.release()


def test_an_engine_of_both_modes_has_no_door_and_serves_in_both(
    engines: dict[str, Engine],
) -> None:
    both = engines[RO]
    guarded = GuardedEngines(SWITCH, {RW: engines[RW], RW_REPLICA: both, RO: both})
    assert guarded.routes["replica"] == {Mode.READ_WRITE: both, Mode.READ_ONLY: both}
    assert [door.engine for door in guarded.doors] == [engines[RW]]
    guarded.release()


def test_all_engines_are_as_they_were_after_the_release(
    engines: dict[str, Engine], tmp_path: Path
) -> None:
    classes = {name: type(engine.dialect) for name, engine in engines.items()}
    switch = FileSwitch(tmp_path / "read-only.txt", ttl=0)
    guarded = GuardedEngines(switch, engines)
    end = switch.subscribe(guarded.turn, lambda *_: None)
    (tmp_path / "read-only.txt").touch()
    switch.check()
    for engine in engines.values():
        with pytest.raises(ReadOnlyError), engine.begin() as connection:
            connection.exec_driver_sql("create table written (id int)")
    end()
    guarded.release()
    for name, engine in engines.items():
        with engine.begin() as connection:
            connection.exec_driver_sql("create table written (id int)")
        assert type(engine.dialect) is classes[name]


@pytest.mark.parametrize("given", [[RW], [RW, RO], [RW, RW_REPLICA, RO, RO_REPLICA]])
def test_after_a_flip_and_back_a_statement_costs_what_it_did(
    engines: dict[str, Engine], tmp_path: Path, given: list[str]
) -> None:
    file = tmp_path / "read-only.txt"
    switch = FileSwitch(file, ttl=0)
    guarded = GuardedEngines(switch, {name: engines[name] for name in given})
    end = switch.subscribe(guarded.turn, lambda *_: None)
    before = {name: type(engine.dialect) for name, engine in guarded.engines.items()}
    file.touch()
    switch.check()
    assert {type(door.engine.dialect) for door in guarded.doors}.isdisjoint(before.values())
    file.unlink()
    switch.check()
    assert {name: type(engine.dialect) for name, engine in guarded.engines.items()} == before
    end()
    guarded.release()


def test_a_selector_that_is_closed_leaves_another_ones_guard_on_a_shared_replica(
    engines: dict[str, Engine], tmp_path: Path
) -> None:
    switch = FileSwitch(tmp_path / "read-only.txt")
    given = {name: engines[name] for name in (RW, RW_REPLICA, RO)}
    first, second = GuardedEngines(switch, given), GuardedEngines(switch, given)
    first.release()
    dialect: Any = engines[RW_REPLICA].dialect
    assert (dialect._sa_readonly_gates, dialect._sa_readonly_told) == ((switch,), (switch,))
    with engines[RW_REPLICA].connect() as connection, pytest.raises(ReadOnlyError):
        connection.execute(text("CREATE TABLE t (x)"))
    second.release()
    with engines[RW_REPLICA].connect() as connection:
        connection.execute(text("CREATE TABLE t (x)"))


class Failing(FileSwitch):
    def subscribe(self, gate: Any, flipped: Any) -> Any:
        raise RuntimeError("no")


def test_a_selector_that_could_not_be_made_leaves_the_engines_as_they_were(
    engines: dict[str, Engine], tmp_path: Path
) -> None:
    switch = Failing(tmp_path / "read-only.txt")
    with pytest.raises(RuntimeError, match="no"):
        EngineSelector(switch, read_write=engines[RW], read_only=engines[RO])
    for engine in engines[RW], engines[RO]:
        assert type(engine.dialect).__mro__[0].__module__.startswith("sqlalchemy"), engine
    (tmp_path / "read-only.txt").touch()
    switch.check()
    with engines[RW].begin() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
