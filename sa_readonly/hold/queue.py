"""The queue of those that wait for read-write before they take anything: requests, transactions.

They hold nothing meanwhile. They sleep until the flip, and are then let go in the order in which
they came, one turn after the other, so that a pool is not stormed. Where no thread watches the
switch, one of them looks at it for all.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import time
import weakref
from bisect import insort
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING

from .. import forks
from ..engines import loops
from ..engines.privates import await_only, in_greenlet
from ..errors import ConfigurationError
from ..telemetry import fields
from .count import Asked, add, lock, total
from .ticket import Gone, Sleeper, Ticket, request_here, task_sleeper

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from datetime import datetime

    from ..mode import State, Switch

__all__ = ["Queue"]

logger = logging.getLogger("sa_readonly")

TURN = 0.1
"""Seconds after which a turn ends at the latest. What is slow to connect, as a pool is exhausted,
holds up the others no longer."""

_HELD_ON_LOOPS = 100  # that are held at most, where max_held is not given and all are tasks
_SHORTEST, _LONGEST = 0.01, 1.0  # seconds between two looks of the one that looks for all


class _Next(enum.Enum):
    """What one that waits does next, if not sleep."""

    GO = enum.auto()
    OVER = enum.auto()
    CLOSED = enum.auto()
    GONE = enum.auto()


# Set in a thread or task while it has a turn: what it connects on the way must not queue behind it.
_has_turn: ContextVar[bool] = ContextVar("sa_readonly_has_turn", default=False)


class Queue:
    """Those of one selector that are held, in this process.

    :param selector: held weakly: what waits holds it.
    :param max_held: how many may be held in the process when one more comes here; None sets the
        limit for tasks of an event loop, and lets no thread wait.
    """

    def __init__(self, selector: Asked, max_held: int | None) -> None:
        self._selector = weakref.ref(selector)
        self._max_held = max_held
        self._most = most = _HELD_ON_LOOPS if max_held is None else max_held
        self._full = f"It was not held, as {most} are held in this process: max_held={most}."
        self._closed = False
        self.serves_requests = False
        """True if a middleware holds requests: then sessions ask for the ticket of theirs."""
        self._begin()
        add(selector.switch, self)
        forks.subscribe(in_child=self._begin)

    def _begin(self) -> None:
        """Begin empty; in a forked child those that wait are the parent's."""
        self._waiting: list[Ticket] = []  # in the order in which they came
        self._turn: Ticket | None = None
        self._turn_ends = 0.0
        self._paced_until = 0.0  # until when the next waits where the pool is spent
        self._held_to = math.inf  # the place of the last that was held at the flip back
        self._looker: Ticket | None = None  # the one that looks for all
        self._beside: threading.Thread | None = None  # in which a task has it looked
        self._told_full = False
        self._until: datetime | None = None  # that was looked at last

    # -- what there is -------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """True if one waits, or has a turn: then what would wait queues behind, in either mode."""
        return bool(self._waiting) or self._turn is not None

    @property
    def held(self) -> tuple[int, float]:
        """How many wait, and for how many seconds the longest has.

        A task that its loop has left behind waits no longer than it would have.
        """
        at = time.monotonic()
        since = [one.since for one in list(self._waiting) if (one.deadline or at) >= at]
        return len(since), at - min(since, default=at)

    # -- waiting -------------------------------------------------------------------------

    def must_wait(self, state: State) -> bool:
        """True if what would write has to wait now, or to queue behind what was held."""
        if state.read_only:
            return True
        first = (one for one in (self._turn, *self._waiting[:1]) if one is not None)
        behind = any(one.number <= self._held_to for one in first)
        return behind and not _has_turn.get() and request_here() is None

    def ticket(self, hold: float) -> Ticket:
        """Return a ticket of one that begins here; in a request that has one, a part of that."""
        return Ticket(hold, request_here())

    def wait(self, ticket: Ticket) -> str | None:
        """Wait for a turn: in this thread or, in a greenlet of SQLAlchemy's, as its task.

        :return: None when it may go on now; then :meth:`end` must be called. Otherwise why it is
            refused, as a sentence.
        :raises ConfigurationError: if this is a thread, and ``max_held`` was not given.
        """
        if in_greenlet():
            return await_only(self.wait_as_task(ticket))
        if loops.running() is not None or loops.trio() is not None:
            return (
                "It was not held, as that would block the event loop that runs in this thread. Use "
                "an AsyncSession there, or another thread."
            )
        if self._max_held is None and ticket.request is not None:  # it came by ASGI as a task
            return "It was not held, as a thread waits only with EngineSelector(max_held=)."
        self.check_threads("hold")
        why = self._enter(ticket, Sleeper())
        if why is not None:
            return ticket.told(why)
        try:
            while not isinstance(step := self._step(ticket), _Next):
                ticket.sleeper.sleep(step)
                self._look_for_all(ticket)
        except BaseException:
            self._leave(ticket)
            raise
        return ticket.told(self._done(ticket, step))

    async def wait_as_task(self, ticket: Ticket) -> str | None:
        """Wait for a turn as a task of the event loop that runs, which goes on.

        :raises Gone: after :meth:`give_up`.
        """
        sleeper = task_sleeper()
        why = self._enter(ticket, sleeper)
        if why is not None:
            return ticket.told(why)
        try:
            while not isinstance(step := self._step(ticket), _Next):
                await sleeper.pause(step)
                self._look_for_all(ticket, beside=True)
        except BaseException:
            self._leave(ticket)
            raise
        return ticket.told(self._done(ticket, step))

    def give_up(self, ticket: Ticket) -> None:
        """Have one wait no longer: its client has gone."""
        ticket.given_up = True
        ticket.sleeper.wake()

    def end(self, ticket: Ticket | None) -> None:
        """End a turn, if it is not over already, and give it to the next."""
        with forks.locked(lock()):
            if ticket is not None and self._turn is ticket:
                self._turn = None
                self._advance(time.monotonic())

    def pass_on(self, ticket: Ticket) -> None:
        """End the turn of a request, as its application is called.

        Its session may still have to wait in a pool, where the first to come is not the first to be
        served. So while the pool is spent the next one comes when one is :meth:`through`, or when
        this turn would have ended.
        """
        if self._turn is ticket:
            self._paced_until = self._turn_ends
            self.end(ticket)

    def through(self) -> None:
        """Let the next one go, as one that was let go has done its work."""
        if self._waiting:
            with forks.locked(lock()):
                self._paced_until = 0.0
                self._advance(time.monotonic())

    @contextlib.contextmanager
    def going(self, ticket: Ticket) -> Iterator[None]:
        """Go on inside the block by a turn, which ends with it, as does what else it left."""
        token = _has_turn.set(True)
        try:
            yield
        finally:
            _has_turn.reset(token)
            self.end(ticket)

    def turned(self) -> None:
        """Let them go, if it is read-write: called after each flip."""
        with forks.locked(lock()):
            self._told_full = False
            selector = self._selector()
            # While read-write any number may queue, for a moment; now they are held, or too many.
            if selector is not None and (known := selector.known).read_only:
                self._announce(known)
                others = total() - self.held[0]
                for one in self._waiting[max(0, self._most - others) :]:
                    one.in_vain = self._full
                    one.sleeper.wake()
                self._held_to = math.inf
            else:
                self._held_to = self._waiting[-1].number if self._waiting else -1
            self._advance(time.monotonic())

    def close(self) -> None:
        """Wake all; they are refused."""
        with forks.locked(lock()):
            self._closed = True
            for one in list(self._waiting):
                one.sleeper.wake()

    def check_threads(self, name: str) -> None:
        """Refuse ``hold`` where threads would wait and their number is not limited.

        :param name: the argument, for the error.
        :raises ConfigurationError: if ``max_held`` was not given.
        """
        if self._max_held is None:
            raise ConfigurationError(
                f"{name} needs EngineSelector(max_held=) where threads wait, as with sync sessions "
                "and in WSGI: all of a server's threads could wait, and none would be left for "
                "reads and health checks. Give at most half of the server's threads."
            )

    # -- under the lock ------------------------------------------------------------------

    def _enter(self, ticket: Ticket, sleeper: Sleeper) -> str | None:
        """Queue, or say why not."""
        forks.follow()
        selector = self._selector()
        if selector is None or self._closed:
            return _CLOSED
        known, left, switch = selector.known, ticket.left, selector.switch
        if known.read_only and switch.forced is not None and not switch.overridden:
            return "It was not held, as this process is forced to be read-only: that has no end."
        if known.read_only and left <= 0:
            return ticket.over
        if (late := ticket.vain(known)) is not None:
            return late
        with forks.locked(lock()):
            # While read-write the queue is about to be empty: what comes then only keeps the order.
            full = known.read_only and total() >= self._most
            if not full:
                ticket.begin(sleeper)
                insort(self._waiting, ticket, key=attrgetter("number"))
        if full:
            self._tell_full()
            return self._full
        return None

    def _step(self, ticket: Ticket) -> float | _Next:  # noqa: C901  # one case after the other
        """Return for how many seconds to sleep at most, or what else to do."""
        selector, at = self._selector(), time.monotonic()
        with forks.locked(lock()):
            if self._closed or selector is None:
                return _Next.CLOSED
            if ticket.given_up:
                return _Next.GONE
            if selector.known.until != self._until:
                self._announce(selector.known)
            if ticket.in_vain is not None:
                return _Next.OVER
            self._advance(at)
            if self._turn is ticket:
                return _Next.GO
            if ticket not in self._waiting:  # its turn was over before it woke
                return _Next.GO
            pause = (ticket.deadline or at) - at
            if pause <= 0:
                return _Next.OVER
            if self._waiting[0] is ticket and (self._turn is not None or at < self._paced_until):
                pause = min(pause, max(0.0, self._turn_ends - at))
            if self._looker is None:
                self._looker = ticket
            if self._looker is ticket:
                pause = min(pause, _LONGEST if selector.watched else _interval(selector.switch))
            return pause

    def _advance(self, at: float) -> None:
        """Give the next its turn, if that is due."""
        if self._turn is not None:
            if at < self._turn_ends:
                return
            self._turn = None
        selector = self._selector()
        if not self._waiting or (selector is not None and selector.known.read_only):
            return
        if at >= self._paced_until or self._closed or selector is None or not selector.spent:
            if self._waiting[0].number > self._held_to:  # those that came since: as many as ever
                came, self._waiting = self._waiting, []
                for one in came:
                    one.sleeper.wake()
                return
            self._turn, self._turn_ends = self._waiting.pop(0), at + TURN
            self._turn.sleeper.wake()
            if self._waiting:  # which now has to sleep no longer than this turn lasts
                self._waiting[0].sleeper.wake()

    def _announce(self, known: State) -> None:
        """Have those that wait in vain go, as another end is announced than before."""
        self._until = known.until
        for one in self._waiting:
            one.in_vain = one.vain(known)
            if one.in_vain is not None:
                one.sleeper.wake()

    def _done(self, ticket: Ticket, step: _Next) -> str | None:
        selector = self._selector()
        if step is not _Next.GO:
            self._leave(ticket)
        else:
            self._hand_on(ticket)
        if step is _Next.GONE:
            raise Gone
        if step is _Next.CLOSED or selector is None:
            return _CLOSED
        if step is _Next.OVER and selector.known.read_only:
            return ticket.in_vain or ticket.vain(selector.known) or ticket.over
        return None  # over, while it is read-write again: it need not wait any more

    def _leave(self, ticket: Ticket) -> None:
        """Wait no longer, for whatever reason; a turn that it has just been given goes on."""
        with forks.locked(lock()):
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                if self._waiting:  # it may be the first now, which sees that a turn ends
                    self._waiting[0].sleeper.wake()
        self._hand_on(ticket)
        self.end(ticket)

    # -- looking -------------------------------------------------------------------------

    def _hand_on(self, ticket: Ticket) -> None:
        """Have another one look for all, if this one did."""
        with forks.locked(lock()):
            if self._looker is ticket:
                self._looker = None
                if self._waiting:  # it becomes that as it wakes
                    self._waiting[0].sleeper.wake()

    def _look_for_all(self, ticket: Ticket, *, beside: bool = False) -> None:
        selector = self._selector()
        if self._looker is not ticket or selector is None or selector.watched:
            return
        if not beside:
            selector.refresh()
        elif self._beside is None or not self._beside.is_alive():
            self._beside = loops.aside(selector.refresh)

    def _tell_full(self) -> None:
        """Log it: under no lock, as a log handler may be held itself."""
        if not self._told_full:
            self._told_full = True
            logger.warning(
                "sa_readonly: %s are held in this process, which is max_held: until the flip the "
                "next ones are refused at once.",
                self._most,
                extra=fields("held_full", max_held=self._most),
            )


_CLOSED = "It is held no longer, as its EngineSelector was closed."


def _interval(switch: Switch) -> float:
    return min(max(switch.ttl, _SHORTEST), _LONGEST)
