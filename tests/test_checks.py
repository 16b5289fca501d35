"""What a selector refuses before anything has happened, and the kinds of switches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, StaticPool

from sa_readonly import (
    ConfigurationError,
    Engines,
    EngineSelector,
    FileSwitch,
    FixedSwitch,
    Mode,
    State,
    Switch,
)
from sa_readonly.checks import KINDS, make_switch, registry_of
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.workers.directory import DirectoryRegistry
from tests.app import App


def engine(name: str = "x") -> Any:
    return create_engine(f"sqlite:////nowhere/{name}.db", poolclass=NullPool)


def async_engine(name: str = "x") -> AsyncEngine:
    return create_async_engine(f"sqlite+aiosqlite:////nowhere/{name}.db", poolclass=NullPool)


SECRET = "postgresql://me:secret@host/db"


def make(**options: Any) -> EngineSelector:
    return EngineSelector("/tmp/read-only.txt", **options)


one = engine("one")
MISTAKES: dict[str, tuple[Any, str]] = {
    "a string for an engine": (
        lambda: make(read_write=SECRET),
        r"EngineSelector\(read_write=...\) takes an Engine or an AsyncEngine, not str",
    ),
    "a string in Engines": (lambda: Engines(SECRET), r"Engines\(primary=...\) takes an Engine"),
    "a string for a replica": (
        lambda: Engines(engine(), replica=SECRET),
        r"Engines\(replica=...\) takes an Engine",
    ),
    "a session for an engine": (lambda: make(read_write=Session()), "not Session"),
    "None for an engine": (lambda: make(read_write=None), "not NoneType"),
    "sync and async mixed": (
        lambda: make(read_write=engine(), read_only=async_engine()),
        "read_write.primary is a sync Engine and read_only.primary an AsyncEngine",
    ),
    "the same engine twice": (
        lambda: make(read_write=one, read_only=one),
        "read_write.primary and read_only.primary are the same engine",
    ),
    "the primary as a read-only replica": (
        lambda: make(read_write=one, read_only=Engines(engine(), one)),
        "read_write.primary and read_only.replica are the same engine",
    ),
    "an engine and its clone": (
        lambda: make(read_write=one, read_only=one.execution_options(x=1)),
        "read_write.primary and read_only.primary share a pool",
    ),
    "a primary and its clone as a replica": (
        lambda: make(read_write=Engines(one, one.execution_options(x=1))),
        "read_write.primary and read_write.replica share a pool",
    ),
    "one pool in two engines": (
        lambda: make(
            read_write=(first := create_engine("sqlite://", poolclass=StaticPool)),
            read_only=create_engine("sqlite://", pool=first.pool),
        ),
        "share a pool",
    ),
    "a database in memory without read_only": (
        lambda: make(read_write=create_engine("sqlite://")),
        "Give read_only= as well",
    ),
    "a number for a path": (lambda: EngineSelector(3, read_write=engine()), "or a Switch, not 3"),
    "a missing directory": (
        lambda: EngineSelector("/nowhere/at/all/read-only.txt", read_write=engine()),
        "The directory /nowhere/at/all of the file",
    ),
    "a negative ttl": (lambda: FileSwitch("/tmp/x", ttl=-1), "ttl takes a number of seconds"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_refused_when_it_is_made_and_changes_no_engine(what: str) -> None:
    mistake, message = MISTAKES[what]
    before = type(one.dialect)
    with pytest.raises(ConfigurationError, match=message) as caught:
        mistake()
    assert "secret" not in str(caught.value)
    assert type(one.dialect) is before


def test_an_engine_is_not_read_write_in_one_selector_and_read_only_in_another(lite: App) -> None:
    lite.start()
    with pytest.raises(ConfigurationError, match="is a read-only engine of an EngineSelector"):
        make(read_write=lite.engines["ro"], read_only=engine())
    with pytest.raises(ConfigurationError, match="is a read-write engine of another"):
        make(read_write=engine(), read_only=lite.engines["rw"])


def test_a_selector_in_the_place_of_an_engine_is_named(lite: App) -> None:
    lite.start()
    with pytest.raises(ConfigurationError) as caught:
        EngineSelector(lite.path, read_write=lite.selector)
    assert str(caught.value) == (
        "EngineSelector(read_write=...) takes an Engine or an AsyncEngine, not EngineSelector. "
        "Make one with create_engine() or create_async_engine()."
    )


def test_two_engines_of_one_url_are_warned_of_once_when_the_selector_is_made(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told(**options: Any) -> list[str]:
        caplog.clear()
        EngineSelector(place / "x", **options).close()
        return [record.getMessage() for record in caplog.records]

    (said,) = told(read_write=engine("a"), read_only=Engines(engine("a"), engine("a")))
    assert said == (
        "read_write.primary and read_only.primary and read_only.replica are engines of one URL, "
        "sqlite:////nowhere/a.db: while read-only the very database is read that is to be taken "
        "away. Correct the URL. If it is meant, leave read_only out, and a read-only engine of the "
        "same database is made."
    )
    assert told(read_write=engine("a"), read_only=engine("b")) == []
    assert told(read_write=Engines(engine("a"), engine("b")), read_only=engine("b")) == []
    memory = {"poolclass": StaticPool}
    two = [create_engine("sqlite://", **memory) for _ in range(2)]
    assert told(read_write=two[0], read_only=two[1]) == []


# -- switches and registries -----------------------------------------------------------------


class Own(Switch):
    """The least that a user's own switch has."""

    known = State(Mode.READ_WRITE)

    def check(self) -> State:
        return self.known

    def subscribe(self, gate: Any, flipped: Any) -> Any:
        gate(self.known)
        return lambda: None

    def __repr__(self) -> str:
        return "Own()"


class Half:
    """A switch that does not derive from Switch."""

    known, fresh_until = State(Mode.READ_WRITE), 0.0
    refresh = check = Own.check
    subscribe = Own.subscribe

    def __repr__(self) -> str:
        return "Half()"


def test_a_switch_that_lacks_members_is_told_which() -> None:
    with pytest.raises(ConfigurationError) as caught:
        EngineSelector(Half(), read_write=one)
    assert str(caught.value) == (
        "EngineSelector(switch): Half() is no whole Switch, as it has no ttl, fence, checked, "
        "forced, overridden, confirms, name, glance, identify, look_ahead, override. Derive its "
        "class from sa_readonly.Switch, which has a default for all but known, check() and "
        "subscribe()."
    )


def test_a_switch_that_knows_nothing_yet_is_told_so() -> None:
    class Blank(Switch):
        check, subscribe = Own.check, Own.subscribe

    with pytest.raises(ConfigurationError, match="is no whole Switch, as it has no known"):
        EngineSelector(Blank(), read_write=one)


def test_workers_true_means_the_directory_beside_a_file_and_none_for_any_other_switch(
    place: Path,
) -> None:
    switch = FileSwitch(place / "read-only.txt")
    registry = registry_of(True, switch)
    assert isinstance(registry, DirectoryRegistry)
    assert registry.path == f"{place}/read-only.txt.workers"
    assert registry_of(False, switch) is None
    for other in (Own(), FixedSwitch(Mode.READ_WRITE)):
        assert registry_of(True, other) is None


def test_a_process_that_reports_itself_nowhere_says_what_to_give(lite: App) -> None:
    lite.start(workers=False)
    assert lite.selector.report().problem == (
        "It has no directory of workers: nobody can wait for it."
    )
    with EngineSelector(Own(), read_write=one) as selector:
        assert selector.report().problem == (
            "Its switch brings no directory of workers: nobody can wait for it. Give "
            "EngineSelector(workers=) the path of a directory, or a Registry."
        )


def test_a_switch_that_never_flips_reports_to_a_registry_alone(tmp_path: Path) -> None:
    fixed, given = FixedSwitch(Mode.READ_WRITE), DirectoryRegistry(tmp_path)
    assert registry_of("required", fixed) is registry_of(tmp_path, fixed) is None
    assert registry_of(given, fixed) is registry_of(given, Own()) is given
    assert registry_of(tmp_path, Own()).path == str(tmp_path)


def test_a_registry_that_lacks_members_is_told_which(place: Path) -> None:
    class Half:
        def register(self, identify: Any) -> None: ...

        def __repr__(self) -> str:
            return "Half()"

    for workers, more in ((Half(), " It has no name, sweep, read"), (3, ""), ("", "")):
        with pytest.raises(ConfigurationError) as caught:
            EngineSelector(place / "x", read_write=one, workers=workers)
        assert str(caught.value).startswith(
            'EngineSelector(workers) takes True, False, "required", the path of a directory or a '
            f"Registry, not {workers!r}.{more}"
        )


def test_every_switch_is_of_a_kind_and_a_path_is_a_file_switch(place: Path) -> None:
    assert [kind.cls for kind in KINDS] == [FileSwitch, FixedSwitch, EtcdSwitch, object]
    assert make_switch(place / "x", ttl=3).ttl == 3
    assert make_switch(3) is None
