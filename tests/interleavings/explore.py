"""Explores the orders of steps: all up to a number of preemptions, or some by chance."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import machine as machines
from .machine import Broken, Thread
from .night import Night
from .scenarios import Scenario

Choice = tuple[int, int, bool]  # the process, its thread, and whether that gives up waiting


@dataclass
class Found:
    """What an exploration found."""

    runs: int = 0
    states: int = 0
    steps: int = 0
    depth: int = 0
    writes: int = 0
    drained: int = 0
    complete: bool = False
    problem: str | None = None
    path: list[str] = field(default_factory=list)
    preemptions: int = 0

    def __str__(self) -> str:
        told = (
            f"{self.runs} runs, {self.states} states, {self.steps} steps, at most {self.depth} in "
            f"one run; {self.drained} times drained was said"
        )
        return f"{told}; {self.problem}" if self.problem else told


class _Run:
    """One run of a scenario."""

    def __init__(self, machine: machines.Machine, scenario: Scenario) -> None:
        self.machine = machine
        self.night = Night(machine)
        scenario(self.night)
        self.last: Choice | None = None
        self.path: list[str] = []
        self._by_choice: dict[Choice, Thread] = {}

    def choices(self) -> tuple[list[Choice], list[Choice]]:
        """Return what may go on, and what may give up waiting."""
        self._by_choice = {}
        ready, late = [], []
        for thread in self.machine.threads():
            choice = (thread.process.pid, thread.number, False)
            if thread.ready:
                ready.append(choice)
            elif thread.give_up is not None:
                choice = (thread.process.pid, thread.number, True)
                late.append(choice)
            self._by_choice[choice] = thread
        return ready, late

    def go_on(self, choice: Choice) -> None:
        thread = self._by_choice[choice]
        self.path.append(f"{thread.name}: {thread.kind}{' gives up' * choice[2]}")
        self.last = choice
        self.machine.go_on(thread, give_up=choice[2])


def explore(
    scenario: Scenario,
    preemptions: int,
    *,
    until: float = float("inf"),
    settle: bool = True,
) -> Found:
    """Take all orders with at most so many preemptions, those with fewer first.

    A thread is preempted where another one is chosen though it could go on. A state that was seen
    before with as many preemptions left is not entered again: the files, what each process has
    lived through, and what the server has are the same.

    :param until: the :func:`time.monotonic` time at which it ends all the same.
    """
    exploration = _Exploration(scenario, preemptions, settle=settle)
    found = exploration.found
    for made, paths in enumerate(exploration.todo):
        while paths:
            if time.monotonic() > until:
                return found
            exploration.take(paths.pop(), made)
            if found.problem is not None:
                found.preemptions = made
                return found
    found.complete = True
    return found


class _Exploration:
    """What was seen, and what is to be taken yet: paths by how many preemptions they have.

    A path is a pair of the path before it and its last choice; None is the empty one.
    """

    def __init__(self, scenario: Scenario, preemptions: int, *, settle: bool) -> None:
        self.scenario, self.settle = scenario, settle
        self.found = Found()
        self.seen: dict[Any, int] = {}
        self.todo: list[list[Any]] = [[] for _ in range(preemptions + 1)]
        self.todo[0].append(None)

    def take(self, path: Any, made: int) -> None:
        """Go a path, and from its end on to where no thread can go on, or all was seen."""
        found = self.found
        found.runs += 1
        with machines.run() as machine:
            run = _Run(machine, self.scenario)
            try:
                for choice in _choices_of(path):
                    run.choices()
                    run.go_on(choice)
                if self._go_on(run, path, made):
                    self._finish(run)
            except Broken as error:
                found.problem, found.path = str(error), run.path
            finally:
                found.steps += machine.steps
                found.depth = max(found.depth, len(run.path))

    def _go_on(self, run: _Run, path: Any, made: int) -> bool:
        """Go on with the same thread where that can; False if all that follows was seen."""
        while True:
            ready, late = run.choices()
            if not ready and not late:
                return True
            last = run.last if run.last in ready else None
            if len(ready) + len(late) > 1 and self._was_seen(run, last, made):
                return False
            choice = last or (ready or late)[0]
            for other in (*ready, *late):
                # To give up waiting takes time, in which the others stand still.
                cost = made + (last is not None or (other[2] and bool(ready)))
                if other != choice and cost < len(self.todo):
                    self.todo[cost].append((path, other))
            run.go_on(choice)
            path = path, choice

    def _was_seen(self, run: _Run, last: Choice | None, made: int) -> bool:
        left = len(self.todo) - 1 - made
        key = run.night.digest(), last
        if self.seen.get(key, -1) >= left:
            return True
        self.found.states += key not in self.seen
        self.seen[key] = left
        return False

    def _finish(self, run: _Run) -> None:
        end = "end", run.night.digest()  # what comes after it depends on nothing else
        if end not in self.seen:
            self.seen[end] = 0
            run.night.finish_all()
            if self.settle:
                run.night.settle()
        self.found.drained += sum(run.night.verdicts)
        self.found.writes += run.night.writes


def _choices_of(path: Any) -> list[Choice]:
    choices: list[Choice] = []
    while path is not None:
        path, choice = path
        choices.append(choice)
    return choices[::-1]


def walk(scenario: Scenario, seed: int, *, settle: bool = True) -> Found:
    """Take one order by chance: each seed is another one, and always the same."""
    chance = random.Random(seed)
    changes = chance.choice((0.02, 0.1, 0.3))
    found = Found(runs=1)
    with machines.run() as machine:
        run = _Run(machine, scenario)
        try:
            while True:
                ready, late = run.choices()
                if not ready and not late:
                    break
                stays = run.last in ready and chance.random() > changes
                choice = run.last if stays else None
                if choice is None:
                    choice = chance.choice(
                        ready if ready and chance.random() > 0.05 else ready + late
                    )
                run.go_on(choice)
            run.night.finish_all()
            found.drained = sum(run.night.verdicts)
            if settle:
                run.night.settle()
        except Broken as error:
            found.problem, found.path = f"seed {seed}: {error}", run.path
        finally:
            found.steps, found.depth = machine.steps, len(run.path)
    return found


def by_chance(scenario: Scenario, seeds: Callable[[int], int], until: float) -> Found:
    """Walk until it is time, or something is broken."""
    found = Found()
    while time.monotonic() < until and found.problem is None:
        one = walk(scenario, seeds(found.runs))
        found.runs += 1
        found.steps += one.steps
        found.drained += one.drained
        found.depth = max(found.depth, one.depth)
        found.problem, found.path = one.problem, one.path
    return found
