"""The drain step by step: the memory that stands for the kernel, and each order turned round.

`python -m tests.interleavings` takes far more orders; `docs/proof.md` tells what it has seen.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app import once
from tests.interleavings import explore, kernel, machine
from tests.interleavings.broken import BREAKAGES, Breakage
from tests.interleavings.scenarios import SCENARIOS

SEEDS = (
    1,
    7,
    42,
)  # of orders by chance that are taken each time; one that found a fault stays here


@pytest.fixture
def in_memory() -> Iterator[None]:
    """Have the package's rooms run on the machine."""
    with machine.replaced():
        yield


on_the_machine = pytest.mark.usefixtures("in_memory")


@on_the_machine
@pytest.mark.parametrize("name", ["notice", "killed", "swept"])
def test_nothing_is_broken_by_any_order_without_a_preemption(name: str) -> None:
    found = explore.explore(SCENARIOS[name], 0)
    assert found.problem is None, found.path
    assert found.complete
    assert found.drained


@on_the_machine
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_broken_by_an_order_of_a_seed(seed: int) -> None:
    found = explore.walk(SCENARIOS["back"], seed)
    assert found.problem is None, found.path


@once
@on_the_machine
@pytest.mark.parametrize("name", BREAKAGES)
def test_an_order_that_is_turned_round_is_found(name: str) -> None:
    breakage: Breakage = BREAKAGES[name]
    with breakage.broken():
        found = explore.explore(breakage.scenario, breakage.preemptions, settle=breakage.settles)
    assert breakage.problem in (found.problem or "")
    assert found.problem is not None


# -- the kernel in memory answers as the one below the tests --------------------------------------


class Real:
    """The same calls of the real kernel, in a directory of its own; two processes are one here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers: dict[tuple[int, int], int] = {}

    def __call__(self, process: int, name: str, *args: Any) -> object:
        number = self.numbers.get((process, args[0])) if isinstance(args[0], int) else None
        if isinstance(args[0], str):
            args = tuple(
                f"{self.directory}{one.removeprefix(kernel.WORKERS)}"
                if isinstance(one, str)
                else one
                for one in args
            )
        if name == "flock":
            return fcntl.flock(_there(number), args[1])
        if name == "open":
            made = os.open(args[0], args[1], 0o600)
            taken = {one for who, one in self.numbers if who == process}
            free = next(one for one in range(3, 99) if one not in taken)
            self.numbers[process, free] = made
            return free
        if name == "close":
            os.close(_there(number))
            return self.numbers.pop((process, args[0])) and None
        if name == "listdir":
            return sorted(os.listdir(args[0]))
        rest = args if number is None and isinstance(args[0], str) else (_there(number), *args[1:])
        answer = getattr(os, name)(*rest)
        return answer.st_size if name in ("stat", "fstat") else answer


def _there(number: int | None) -> int:
    if number is None:
        raise OSError(9, os.strerror(9))
    return number


class InMemory:
    """The calls of the kernel in memory."""

    def __init__(self) -> None:
        self.kernel = kernel.Kernel()
        self.processes = [self.kernel.start(pid) for pid in (1, 2)]

    def __call__(self, process: int, name: str, *args: Any) -> object:
        answer = getattr(self.kernel, name)(self.processes[process], *args)
        return answer.st_size if name in ("stat", "fstat") else answer


def _calls(chance: random.Random) -> Iterator[tuple[Any, ...]]:
    path = f"{kernel.WORKERS}/{chance.choice('ab')}"
    number = chance.randrange(3, 6)
    how = kernel.LOCK_NB | chance.choice((kernel.LOCK_SH, kernel.LOCK_EX, kernel.LOCK_UN))
    flags = chance.choice((os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    yield chance.choice(
        [
            *([("open", path, flags)] * 4),
            *([("flock", number, how)] * 4),
            ("close", number),
            ("stat", path),
            ("fstat", number),
            ("unlink", path),
            ("replace", path, f"{kernel.WORKERS}/{chance.choice('ab')}"),
            ("listdir", kernel.WORKERS),
            ("write", number, b"xyz"),
            ("pwrite", number, b"0", 1),
            ("read", number, 2),
            ("pread", number, 9, 0),
            ("lseek", number, 5, os.SEEK_SET),
            ("lseek", number, 0, os.SEEK_CUR),
        ]
    )


def _outcome(call: Any, process: int, calls: tuple[Any, ...]) -> object:
    try:
        return call(process, *calls)
    except OSError as error:
        return f"errno {error.errno}"


@pytest.mark.parametrize("seed", range(8))
def test_the_kernel_in_memory_answers_as_the_one_below(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    directory = tmp_path / "workers"
    directory.mkdir()
    real, in_memory = Real(directory), InMemory()
    try:
        for _ in range(200):
            for call in _calls(chance):
                process = chance.randrange(2)
                expected, got = (_outcome(one, process, call) for one in (real, in_memory))
                assert (process, call, got) == (process, call, expected)
    finally:
        for number in real.numbers.values():
            os.close(number)
        shutil.rmtree(directory)
