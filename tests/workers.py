"""A directory of workers, and processes that register there, for the tests of it."""

from __future__ import annotations

import contextlib
import errno
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sa_readonly import Mode
from sa_readonly.workers import memory
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import Liveness, Report, Seen
from sa_readonly.workers.verdict import Verdict, judge
from tests.app import opened
from tests.worker_process import identity

if not hasattr(os, "fork"):
    pytest.skip("directories of workers need POSIX", allow_module_level=True)

READ_ONLY, READ_WRITE = Mode.READ_ONLY, Mode.READ_WRITE
ALIVE, DEAD, UNKNOWN = Liveness.ALIVE, Liveness.DEAD, Liveness.UNKNOWN


BOUND = 10  # seconds: none of the tests waits that long unless it fails


class Place:
    """A file and a directory of workers, and what is made there."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "read-only.txt"
        self.path = directory / "workers"
        self.registry = DirectoryRegistry(self.path)
        self.entries: list[Any] = []

    def identity(self) -> str | None:
        return identity(str(self.file))

    def on(self) -> str:
        self.file.touch()
        generation = self.identity()
        assert generation
        return generation

    def off(self) -> None:
        self.file.unlink()

    def register(self) -> Any:
        entry = self.registry.register(self.identity)
        self.entries.append(entry)
        return entry

    def read(self) -> list[Seen]:
        return self.registry.read()

    def one(self) -> Seen:
        (one,) = self.read()
        return one

    def whys(self) -> list[str]:
        return [why for _, why in self.look().waiting]

    def look(self, mode: Mode = READ_ONLY, **options: Any) -> Verdict:
        return judge(self.identity, self.registry, mode, **options)

    def descriptors(self) -> list[str]:
        """Return what this process has open here: what tests before have left may end meanwhile."""
        mine = str(self.path.parent), *(entry.name for entry in self.entries)
        return sorted(one for one in opened() if any(name in one for name in mine))

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def report_of(self, entry: Any) -> Path:
        return self.path / f"{entry.name}.json"

    def acknowledge(self, entry: Any, connections: int = 0, **fields: Any) -> None:
        entry.closed()
        report = Report(READ_ONLY, self.identity(), connections, **{"watching": True, **fields})
        entry.report(lambda: report)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for entry in place.entries:
        entry.close()


def in_child(work: Callable[[], None], user: int | None = None) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # it must not go on as pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def die(place: Place, work: Callable[[Any], None] = lambda _: None) -> None:
    """Have a process register, do something and die without a word."""
    in_child(lambda: work(place.registry.register(place.identity)))


def memory_below(directory: Path) -> list[str]:
    """The files of memory whose entries are, or were, below a directory."""
    found = []
    for path in Path(memory.PLACE).glob("sa_readonly-*"):
        with contextlib.suppress(OSError):  # another process removes its own
            if os.fsencode(directory) in path.read_bytes():
                found.append(path.name)
    return found


def fail(name: str, monkeypatch: pytest.MonkeyPatch, error: int = errno.ENOSPC) -> None:
    """Have a function of the operating system fail."""

    def function(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, name, function)
