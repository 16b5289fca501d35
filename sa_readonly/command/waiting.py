"""Waiting until all workers are where the operator wants them, and saying in a line how it went.

It draws nothing and knows nothing of files: the command does.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from ..mode import Mode
from ..workers.protocol import Identify, Liveness, Registry, process
from ..workers.status import WorkerStatus, judged
from ..workers.verdict import FILE_THERE, NO_FILE, Verdict, judge

if TYPE_CHECKING:
    from .server import Answer, Server

__all__ = [
    "HOLDS",
    "NOBODY",
    "NOT_YET",
    "SERVER_DISAGREES",
    "BaseWaiting",
    "Progress",
    "Waiting",
    "shortened",
]

Found = TypeVar("Found")

HOLDS, NOT_YET, NOBODY, SERVER_DISAGREES = 0, 1, 3, 4  # the exit codes; 2 is for usage

PAUSE = 0.2  # seconds between two looks at the registry
SERVER_PAUSE = 1.0  # seconds between two questions to the server
_NAMED = 20  # workers that the last line names

# What is said of a switch that is not where it is waited for, from the beginning or meanwhile.
_MOVED = {
    Mode.READ_ONLY: (
        "the file is not there, it is read-write; turn it on first",
        "the file has gone meanwhile, somebody turned it off",
    ),
    Mode.READ_WRITE: (
        "the file is there, it is read-only; turn it off first",
        "the file is there again, somebody turned it on",
    ),
}


@dataclass(frozen=True)
class Progress:
    """How far it is.

    :param code: the exit code if it ended now.
    :param over: whether it ends now.
    :param late: whether that is that time is up.
    :param seconds: since it began.
    :param mode: what the workers are waited for to be.
    :param workers: each of them.
    :param settled: how many of those that live are there.
    :param expected: how many are waited for, or None.
    :param problem: why nothing can be said, or None.
    :param moved: whether that is that somebody moved the switch.
    :param died: how many died without a word and are ignored.
    :param answer: what the server said, or None if it was not asked.
    """

    code: int
    over: bool
    late: bool
    seconds: float
    mode: Mode
    workers: tuple[WorkerStatus, ...]
    settled: int
    expected: int | None
    problem: str | None = None
    moved: bool = False
    died: int = 0
    answer: Answer | None = None

    @property
    def holds(self) -> bool:
        """True if they all are there, the server agreeing."""
        return self.code == HOLDS

    @property
    def drained(self) -> bool:
        """True if the workers are drained, whatever the server says."""
        return self.mode is Mode.READ_ONLY and self.code in (HOLDS, SERVER_DISAGREES)

    @property
    def reached(self) -> str:
        """What the workers are waited for to be."""
        return "drained" if self.mode is Mode.READ_ONLY else "read-write"

    @property
    def tally(self) -> str:
        """How many are there, of how many."""
        return f"{self.settled} of {len(self.workers)}"

    @property
    def missing(self) -> tuple[WorkerStatus, ...]:
        """The workers that are not there yet."""
        return tuple(one for one in self.workers if one.why is not None)

    @property
    def lasting(self) -> tuple[object, ...]:
        """What is the same until something happens."""
        obstacles = () if self.answer is None else self.answer.obstacles
        return (
            *(self.code, self.problem, self.settled, self.answer is None),
            *(worker.lasting for worker in self.workers),
            *(obstacle.lasting for obstacle in obstacles),
        )

    def __str__(self) -> str:
        """Tell in one line how it ended, or how far it is."""
        after = f"after {self.seconds:.1f} s"
        reached = self.reached
        if self.code == SERVER_DISAGREES:
            said = "" if self.answer is None else f": {self.answer.sums}"
            return f"the workers are {reached}, but the server disagrees {after}{said}"
        if self.code == NOBODY:
            return f"not known {after}: {self._count()}, so nothing is known"
        if self.code == HOLDS:
            return f"{reached} {after}: {self._count()}{self._agreement()}{self._proviso()}"
        return f"not {reached} {after}: {'; '.join(self._whys())}"

    def _count(self) -> str:
        if self.code == NOBODY:
            of = "" if self.expected is None else f", {self.expected} are expected"
            return f"nobody is registered{of}"
        died = f", ignoring {self.died} that died" if self.died else ""
        return f"{self.settled} worker{'' if self.settled == 1 else 's'}{died}"

    def _agreement(self) -> str:
        if self.answer is None:
            return ""
        notes = ", ".join(self.answer.notes)
        uncounted = f" (not counted: {notes})" if notes else ""
        return f"; the server agrees: {self.answer.sums}{uncounted}"

    def _proviso(self) -> str:
        if self.expected is not None:
            return ""
        return " (only registered workers are known; --expect N tells how many there must be)"

    def _whys(self) -> list[str]:
        if self.problem is not None:
            return [self.problem]
        whys = shortened([f"{one.called}: {one.why}" for one in self.missing])
        living = {process(one.name) for one in self.workers if one.liveness is not Liveness.DEAD}
        if self.expected is not None and len(living) < self.expected:
            whys.append(f"{len(living)} of {self.expected} expected workers are registered")
        return whys or ["the file was replaced meanwhile"]


def shortened(whys: list[str]) -> list[str]:
    """Return no more of them than a line should have."""
    more = len(whys) - _NAMED
    return [*whys[:_NAMED], f"and {more} more"] if more > 0 else whys


@dataclass
class BaseWaiting(ABC, Generic[Found]):
    """A wait, of which each look tells how far it is. Who is looked at, a subclass knows.

    :param mode: what they are waited for to be.
    :param expect: how many living ones must be there, or None.
    :param ignore_dead: see :func:`.drained`.
    :param timeout: seconds after which it is over.
    :param server: who must agree in the end, or None.
    """

    pause: ClassVar[float] = PAUSE

    _: KW_ONLY
    mode: Mode = Mode.READ_ONLY
    expect: int | None = None
    ignore_dead: bool = False
    timeout: float = 60.0
    server: Server | None = None
    began: float = field(default_factory=time.monotonic)
    progress: Progress | None = None
    _asked: float = field(default=0.0, repr=False)
    _answer: Answer | None = field(default=None, repr=False)
    _identity: object = field(default=None, repr=False)

    def restart(self) -> None:
        """Begin now."""
        self.began = time.monotonic()

    def run(self, show: Callable[[Progress], None]) -> Progress:
        """Look until it is over.

        :param show: called with each progress, also the last one.
        """
        pause = threading.Event()
        while True:
            progress = self.progress = self.look()
            show(progress)
            if progress.over:
                return progress
            remaining = self.began + self.timeout - time.monotonic()
            pause.wait(max(0.0, min(self.pause, remaining)))

    def look(self) -> Progress:
        """Look once, and ask the server if that is due."""
        found = self._look()
        code = self._code(found)
        identity = self._identify(found)
        if identity != self._identity:
            self._identity, self._answer = identity, None
        if code != HOLDS:
            self._answer = None
        elif self._is_twice():
            if self.server is not None:
                code = self._ask(self.server)
            if code == HOLDS:
                found = self._look(again=True)  # it held all the while
                same = self._identify(found) == identity
                code = self._code(found) if same else NOT_YET
        return self._progress(found, code)

    def _is_twice(self) -> bool:
        """True if what holds must be seen to hold twice."""
        return self.server is not None

    def _ask(self, server: Server) -> int:
        answer = self._answer
        if answer is None or time.monotonic() >= self._asked + SERVER_PAUSE:
            answer = self._answer = server.ask()
            self._asked = time.monotonic()
        return HOLDS if answer.agrees else SERVER_DISAGREES

    @abstractmethod
    def _look(self, *, again: bool = False) -> Found:
        """Look at them, once more if that held."""

    @abstractmethod
    def _identify(self, found: Found) -> object:
        """Return what is another one once the file is."""

    @abstractmethod
    def _code(self, found: Found) -> int:
        """Return the exit code if it ended now, whatever the server says."""

    @abstractmethod
    def _progress(self, found: Found, code: int) -> Progress:
        """Return how far it is."""


@dataclass
class Waiting(BaseWaiting[Verdict]):
    """A wait for the workers of one registry.

    :param identify: tells the identity of the file. It must look, each time.
    :param registry: who is waited for.
    """

    identify: Identify
    registry: Registry
    _began_well: bool = field(default=False, repr=False, init=False)

    def _look(self, *, again: bool = False) -> Verdict:
        return judge(self.identify, self.registry, self.mode, ignore_dead=self.ignore_dead)

    def _identify(self, found: Verdict) -> str | None:
        return found.generation

    def _code(self, found: Verdict) -> int:
        if found.problem is not None:
            return NOT_YET
        if found.nobody and not found.waiting:
            return NOBODY
        enough = self.expect is None or _settled(found) >= self.expect
        return HOLDS if found.holds and enough else NOT_YET

    def _progress(self, found: Verdict, code: int) -> Progress:
        seconds = time.monotonic() - self.began
        moved = found.problem in (NO_FILE, FILE_THERE)
        problem = found.problem
        if moved:
            problem = _MOVED[self.mode][self._began_well]
        elif problem is None:
            self._began_well = True
        # Who is not registered now looks at the file after it registers. So waiting for nobody
        # brings nobody, unless somebody is expected.
        alone = code == NOBODY and self.expect is None
        late = seconds >= self.timeout
        return Progress(
            code,
            code == HOLDS or moved or alone or late,
            late and code != HOLDS and not moved and not alone,
            seconds,
            self.mode,
            judged(found, self.mode),
            _settled(found),
            self.expect,
            problem=problem,
            moved=moved,
            died=_died(found) if self.ignore_dead else 0,
            answer=self._answer,
        )


def _settled(verdict: Verdict) -> int:
    """Count the processes that live and are there, with each of their entries."""
    missing = {process(one.name) for one, _ in verdict.waiting}
    living = {process(one.name) for one in verdict.seen if one.liveness is Liveness.ALIVE}
    return len(living - missing)


def _died(verdict: Verdict) -> int:
    """Count those that died and may have left something behind."""
    return sum(one.liveness is Liveness.DEAD and not one.left_nothing for one in verdict.seen)
