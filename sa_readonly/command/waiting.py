"""Waiting until all workers are where the operator wants them, and telling in a line how it went.

It draws nothing and knows nothing of directories and etcd: the commands do.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar

from ..mode import Mode
from ..workers.protocol import Identify, Liveness, Registry, process
from ..workers.status import WorkerStatus, judged
from ..workers.verdict import FILE_THERE, NO_FILE, Verdict, judge
from .obstacles import Reply
from .server import Server

HOLDS, NOT_YET, NOBODY, SERVER_DISAGREES = 0, 1, 3, 4  # the exit codes; 2 is for usage

PAUSE = 0.2  # seconds between two rounds
SERVER_PAUSE = 1.0  # seconds between two questions to the server
_NAMED = 20  # workers that the last line names

# Why no wait for this mode can end well: the switch was in the other one when the wait began, or
# was moved there while it went on.
_MOVED = {
    Mode.READ_ONLY: (
        "the {} is not there, it is read-write; turn it on first",
        "the {} has gone meanwhile, somebody turned it off",
    ),
    Mode.READ_WRITE: (
        "the {} is there, it is read-only; turn it off first",
        "the {} is there again, somebody turned it on",
    ),
}


@dataclass(frozen=True)
class Progress:
    """What one round of a wait found. A round fills in the first part, the wait the second.

    :param code: the exit code if the wait ended now.
    :param identity: what differs as soon as another file is there.
    :param workers: each of them.
    :param settled: how many of those that live are in the awaited mode.
    :param problem: why nothing can be said, or None.
    :param moved: whether that is because the switch was moved.
    :param died: how many died without a word and are ignored.
    :param thing: what tells the mode: the file, the key.

    :param mode: the mode that is waited for.
    :param expected: how many workers there must be, or None.
    :param seconds: since the wait began.
    :param over: whether the wait ends now.
    :param late: whether it ends because time is up.
    :param reply: what the server replied, or None if it was not asked.
    """

    code: int
    identity: object
    _: KW_ONLY
    workers: tuple[WorkerStatus, ...] = ()
    settled: int
    problem: str | None = None
    moved: bool = False
    died: int = 0
    thing: str = "file"

    mode: Mode = Mode.READ_ONLY
    expected: int | None = None
    seconds: float = 0.0
    over: bool = False
    late: bool = False
    reply: Reply | None = None

    @property
    def holds(self) -> bool:
        """True if all workers are where they should be, and the server agrees."""
        return self.code == HOLDS

    @property
    def drained(self) -> bool:
        """True if the workers are drained, whatever the server says."""
        return self.mode is Mode.READ_ONLY and self.code in (HOLDS, SERVER_DISAGREES)

    @property
    def reached(self) -> str:
        """The word for a worker that is where it should be."""
        return "drained" if self.mode is Mode.READ_ONLY else "read-write"

    @property
    def tally(self) -> str:
        """How many workers are in the awaited mode, of how many."""
        return f"{self.settled} of {len(self.workers)}"

    @property
    def obstacles(self) -> list[str]:
        """What the server names as being in the way, in lines."""
        if self.reply is None:
            return []
        lines = [line for one in self.reply.obstacles for line in one.as_lines()]
        return [*lines, *(self.reply.caution or "").splitlines()]

    @property
    def lasting(self) -> tuple[object, ...]:
        """Equal in two rounds between which nothing happened, though time has passed."""
        obstacles = () if self.reply is None else self.reply.obstacles
        return (
            *(self.code, self.problem, self.settled, self.reply is None),
            *(worker.lasting for worker in self.workers),
            *(obstacle.lasting for obstacle in obstacles),
        )

    def __str__(self) -> str:
        """Tell in one line how it ended, or how far it is."""
        after = f"after {self.seconds:.1f} s"
        reached = self.reached
        if self.code == SERVER_DISAGREES:
            said = "" if self.reply is None else f": {self.reply.sums}"
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
        if self.reply is None:
            return ""
        notes = ", ".join(self.reply.notes)
        uncounted = f" (not counted: {notes})" if notes else ""
        return f"; the server agrees: {self.reply.sums}{uncounted}"

    def _proviso(self) -> str:
        if self.expected is not None:
            return ""
        return " (only registered workers are known; --expect N tells how many there must be)"

    def _whys(self) -> list[str]:
        if self.problem is not None:
            return [self.problem]
        return self._missing() or [f"the {self.thing} was replaced meanwhile"]

    def _missing(self) -> list[str]:
        whys = shortened([f"{one.called}: {one.why}" for one in self.workers if one.why])
        living = {process(one.name) for one in self.workers if one.liveness is not Liveness.DEAD}
        if self.expected is not None and len(living) < self.expected:
            whys.append(f"{len(living)} of {self.expected} expected workers are registered")
        return whys


def shortened(whys: Sequence[str]) -> list[str]:
    """Return no more of them than a line should have."""
    more = len(whys) - _NAMED
    return [*whys[:_NAMED], f"and {more} more"] if more > 0 else list(whys)


@dataclass
class Wait(ABC):
    """A wait that goes on in rounds. A subclass knows the workers to read.

    :param mode: the mode that is waited for.
    :param expect: how many living workers there must be, or None.
    :param ignore_dead: see :func:`.drained`.
    :param timeout: seconds after which it is over.
    :param server: the database server that must agree in the end, or None.
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
    _asked: float = field(default=0.0, repr=False, init=False)
    _reply: Reply | None = field(default=None, repr=False, init=False)
    _identity: object = field(default=None, repr=False, init=False)

    @property
    def expects(self) -> bool:
        """True if a number is expected, so that it goes on while no worker is registered."""
        return self.expect is not None

    @property
    def reads_twice(self) -> bool:
        """True if what holds counts only once a second round has found the same."""
        return self.server is not None

    def restart(self) -> None:
        """Begin now."""
        self.began = time.monotonic()

    def run(self, show: Callable[[Progress], None]) -> Progress:
        """Go on until it is over.

        :param show: called with what each round found, also the last one.
        """
        while True:
            progress = self.progress = self.round()
            show(progress)
            if progress.over:
                return progress
            remaining = self.began + self.timeout - time.monotonic()
            self._rest(max(0.0, min(self.pause, remaining)))

    def round(self) -> Progress:
        """Read once how far all workers are, and ask the server if it is its turn."""
        found = self._read()
        if found.identity != self._identity or not found.holds:
            self._identity, self._reply = found.identity, None
        if found.holds and self.server is not None and not self._ask(self.server).agrees:
            found = replace(found, code=SERVER_DISAGREES)
        elif found.holds and self.reads_twice:
            again = self._read(again=True)
            if again.identity != found.identity:  # so that it did not hold all the while
                again = replace(again, code=NOT_YET)
            found = again
        seconds = time.monotonic() - self.began
        # A worker registers before it looks at the file, so one that comes now obeys anyway. There
        # is nothing to wait for, unless a number is expected.
        alone = found.code == NOBODY and not self.expects
        ends = found.holds or found.moved or alone
        late = seconds >= self.timeout
        return replace(
            found,
            mode=self.mode,
            expected=self.expect,
            seconds=seconds,
            over=ends or late,
            late=late and not ends,
            reply=self._reply,
        )

    def _rest(self, seconds: float) -> None:
        """Wait until the next round, at most so many seconds."""
        threading.Event().wait(seconds)

    def _ask(self, server: Server) -> Reply:
        if self._reply is None or time.monotonic() >= self._asked + SERVER_PAUSE:
            self._reply = server.ask()
            self._asked = time.monotonic()
        return self._reply

    @abstractmethod
    def _read(self, *, again: bool = False) -> Progress:
        """Read how far all workers are, as the first part of a progress.

        :param again: whether this is the second time in a round.
        """


@dataclass
class VerdictWait(Wait):
    """A wait for the workers of one registry. A subclass judges them."""

    thing: ClassVar[str] = "file"
    """What tells the mode."""

    _began_well: bool = field(default=False, repr=False, init=False)

    @abstractmethod
    def _judge(self) -> Verdict:
        """Read every entry, and judge."""

    def _read(self, *, again: bool = False) -> Progress:
        verdict = self._judge()
        settled = _settled(verdict)
        problem = verdict.problem
        moved = problem in (NO_FILE, FILE_THERE)
        if moved:
            problem = _MOVED[self.mode][self._began_well].format(self.thing)
        elif problem is None:
            self._began_well = True
        enough = self.expect is None or settled >= self.expect
        code = HOLDS if verdict.holds and enough else NOT_YET
        if problem is None and verdict.nobody and not verdict.waiting:
            code = NOBODY
        return Progress(
            code,
            verdict.generation,
            workers=judged(verdict, self.mode),
            settled=settled,
            problem=problem,
            moved=moved,
            died=_died(verdict) if self.ignore_dead else 0,
            thing=self.thing,
        )


@dataclass
class WorkersWait(VerdictWait):
    """A wait for the workers of a registry of any kind.

    :param identify: tells the identity of the file. It must look, each time.
    :param registry: where the workers report.
    """

    identify: Identify
    registry: Registry

    def _judge(self) -> Verdict:
        return judge(self.identify, self.registry, self.mode, ignore_dead=self.ignore_dead)


def _settled(verdict: Verdict) -> int:
    """Count the living processes that are in the awaited mode by each of their entries."""
    missing = {process(one.name) for one, _ in verdict.waiting}
    living = {process(one.name) for one in verdict.seen if one.liveness is Liveness.ALIVE}
    return len(living - missing)


def _died(verdict: Verdict) -> int:
    """Count those that died and may have left something behind."""
    return sum(one.liveness is Liveness.DEAD and not one.left_nothing for one in verdict.seen)
