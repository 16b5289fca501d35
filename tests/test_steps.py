"""The operator acts between any two lines of a process, which stands still meanwhile.

As if it were stopped there: by the scheduler, by a debugger, by SIGSTOP. Whatever `wait` says then
must hold when it goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy.orm import sessionmaker

import sa_readonly
from sa_readonly import EngineSelector, FileSwitch, Mode, ReadOnlyError, RoutingSession
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import Report
from sa_readonly.workers.verdict import judge
from tests.app import App, Book, once

if not hasattr(os, "fork"):
    pytest.skip("directories of workers need POSIX", allow_module_level=True)

pytestmark = once
PACKAGE = str(Path(sa_readonly.__file__).parent)


@contextlib.contextmanager
def at_line(number: int, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` before the line with that number of all that are run of the package.

    A line counts once for each way in which two callers reach it: what a loop does again is one.
    """
    passed = set()

    def line(frame: FrameType, event: str, _arg: object) -> Any:
        if event == "line":
            caller = frame.f_back
            above = caller.f_back
            callers = (caller.f_code, caller.f_lineno, above.f_code, above.f_lineno)
            before = len(passed)
            passed.add((frame.f_code, frame.f_lineno, *callers))
            if before + 1 == len(passed) == number:
                sys.settrace(None)
                act()
        return line

    def call(frame: FrameType, _event: str, _arg: object) -> Any:
        return line if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)


class Night:
    """A process under test, another worker that always acknowledges at once, and the operator."""

    def __init__(self, app: App, ttl: float, **options: Any) -> None:
        self.app = app
        app.path.unlink(missing_ok=True)
        app.statements.clear()
        directory = f"{app.path}.workers"
        shutil.rmtree(directory, ignore_errors=True)
        self.registry = DirectoryRegistry(directory)
        self.switch = FileSwitch(app.path, ttl=ttl)
        self.other = self.registry.register(self.switch.identify)
        for engine in app.engines.values():
            engine.dispose()
        self.selector = EngineSelector(
            self.switch,
            read_write=app.engines["rw"],
            read_only=app.engines["ro"],
            watch=False,
            **options,
        )
        self.sessions = sessionmaker(self.selector, class_=RoutingSession)
        self.drained: bool | None = None
        self.before = 0
        self.thread: threading.Thread | None = None

    def act(self) -> None:
        """Create the file and ask whether all are drained."""
        self.app.on()
        generation = self.switch.identify()
        self.other.closed()
        self.other.report(lambda: Report(Mode.READ_ONLY, generation, watching=True))
        self.drained = judge(self.switch.identify, self.registry).holds
        self.before = len(self.app.statements)

    def watch(self) -> None:
        """Have another thread report, as the watcher does; then try to connect."""
        self._meanwhile(self.selector._worker.due, 0.1)

    def look(self) -> None:
        """Have the file back and another thread look at it and report; then try to connect."""
        self.app.on()
        self._meanwhile(self.selector._worker.watcher.tick, 0.05)

    def _meanwhile(self, work: Callable[[], None], patience: float) -> None:
        self.thread = threading.Thread(target=work)
        self.thread.start()
        self.thread.join(patience)  # where the one that stands still has a lock, it waits for that
        self.drained = judge(self.switch.identify, self.registry).holds
        self.before = len(self.app.statements)
        if self.drained:
            with pytest.raises(ReadOnlyError):
                self.app.engines["rw"].raw_connection()

    def write(self) -> None:
        with contextlib.suppress(ReadOnlyError), self.sessions.begin() as session:
            session.add(Book(title="x"))

    def keeps_its_promise(self) -> None:
        after = [name for name, _ in self.app.statements[self.before :]]
        if self.drained:
            assert "rw" not in after
        if self.thread is not None:
            self.thread.join(10)
        self.selector.check()
        assert judge(self.switch.identify, self.registry).holds

    def close(self) -> None:
        self.selector.close()
        self.other.close()


@pytest.fixture
def two(lite: App) -> App:
    lite.engine("rw")
    lite.engine("ro")
    return lite


def each_line(
    prepare: Callable[[], Night],
    work: Callable[[Night], None],
    act: Callable[[Night], None] = Night.act,
    stride: int = 1,
) -> dict[object, int]:
    """Let the operator act before each line of ``work``; return how often what was said.

    A stride of 3 spares time where most lines are those of another test.
    """
    said: dict[object, int] = {}
    for number in itertools.count(1, stride):
        night = prepare()
        try:
            with at_line(number, partial(act, night)):
                work(night)
            if night.drained is None:  # all lines are through
                return said
            said[night.drained] = said.get(night.drained, 0) + 1
            night.keeps_its_promise()
        finally:
            night.close()
    return said


def test_drained_holds_from_each_line_of_a_first_transaction_on(two: App) -> None:
    said = each_line(lambda: Night(two, ttl=3600), Night.write)
    # True before it has registered, False from then on.
    assert said[True] > 3
    assert said[False] > 60


def test_drained_holds_from_each_line_of_a_later_transaction_on(two: App) -> None:
    def prepare() -> Night:
        night = Night(two, ttl=0)
        night.write()
        return night

    assert set(each_line(prepare, Night.write)) == {False}


def test_drained_holds_from_each_line_of_a_look_that_finds_the_file_gone_on(two: App) -> None:
    def prepare() -> Night:
        night = Night(two, ttl=0)
        two.on()
        night.selector.check()
        two.off()
        return night

    def come_back(night: Night) -> None:
        night.selector.check()
        night.write()

    assert False in each_line(prepare, come_back)


def test_drained_holds_from_each_line_of_a_look_at_a_file_edited_meanwhile_on(
    two: App,
) -> None:
    def prepare() -> Night:
        night = Night(two, ttl=0)
        night.write()
        two.on()
        return night

    def notice(night: Night) -> None:
        night.selector.check()
        night.write()

    said = each_line(prepare, notice, stride=3)
    assert said[False] > 20


def test_drained_holds_from_each_line_of_a_close_on(two: App) -> None:
    def prepare() -> Night:
        night = Night(two, ttl=0)
        night.write()
        return night

    def close(night: Night) -> None:
        night.selector.close()
        night.selector.check = lambda: None  # there is nothing left to look

    each_line(prepare, close)


def test_drained_holds_from_each_line_of_a_process_that_must_be_registered_on(two: App) -> None:
    def prepare() -> Night:
        night = Night(two, ttl=0, workers="required")
        night.write()
        shutil.rmtree(night.registry.path)
        night.other = night.registry.register(night.switch.identify)
        return night

    assert False in each_line(prepare, Night.write, stride=3)


def test_drained_is_said_only_when_every_door_is_shut(two: App) -> None:
    def prepare() -> Night:
        night = Night(two, ttl=0)
        night.write()
        night.other.close()
        two.engines["rw"].dispose()  # so that nothing is held but by who may still connect
        two.on()
        return night

    def notice(night: Night) -> None:
        night.selector.check()

    said = each_line(prepare, notice, Night.watch)
    assert said[True] > 15
    assert said[False] > 3


def test_drained_is_said_only_when_every_door_is_shut_again(two: App) -> None:
    def prepare() -> Night:
        night = Night(two, ttl=0)
        two.on()
        night.selector.check()
        night.other.close()
        two.off()
        return night

    def come_back(night: Night) -> None:
        night.selector.check()

    said = each_line(prepare, come_back, Night.look)
    assert said[True] > 3
    assert said[False] > 3
