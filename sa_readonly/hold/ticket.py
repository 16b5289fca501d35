"""One that waits: its place, its budget, and how it sleeps."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from .. import refusals
from ..engines import loops
from ..errors import ConfigurationError, seconds
from ..mode import now
from ..telemetry import on_span

if TYPE_CHECKING:
    import asyncio

    from ..mode import State

__all__ = [
    "Gone",
    "Sleeper",
    "Ticket",
    "check_hold",
    "check_max_held",
    "request_here",
    "task_sleeper",
]

_number = itertools.count()


class Gone(Exception):  # noqa: N818  # no error: it ends the waiting of a request
    """The client of a held request has gone."""


class Sleeper:
    """How a thread sleeps until it is woken."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        self._event.set()

    def sleep(self, pause: float) -> None:
        self._event.wait(min(pause, threading.TIMEOUT_MAX))
        self._event.clear()


class TaskSleeper(Sleeper):
    """How a task sleeps: its loop goes on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._woken = False
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        self._woken = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its tasks are gone
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def pause(self, pause: float) -> None:
        self._future = self._loop.create_future()
        timer = self._loop.call_later(pause, self._settle)
        try:
            if not self._woken:
                await self._future
        finally:
            timer.cancel()
            self._future, self._woken = None, False


class TrioSleeper(Sleeper):
    """How a task of trio's sleeps.

    :param trio: the module.
    """

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._loop = trio.lowlevel.current_trio_token()
        self._woken = trio.Event()

    def wake(self) -> None:
        with contextlib.suppress(self._trio.RunFinishedError):
            self._loop.run_sync_soon(self._settle)

    def _settle(self) -> None:
        self._woken.set()

    async def pause(self, pause: float) -> None:
        with self._trio.move_on_after(pause):
            await self._woken.wait()
        self._woken = self._trio.Event()


def task_sleeper() -> TaskSleeper | TrioSleeper:
    """Return how the task sleeps that runs here."""
    if (loop := loops.running()) is not None:
        return TaskSleeper(loop)
    if (trio := loops.trio()) is not None:
        return TrioSleeper(trio)
    raise RuntimeError("There is no running event loop.")


class Ticket:
    """The place and the budget of one request or transaction that may be held.

    :param hold: seconds for which it may wait, in all.
    :param request: that of the request in which a transaction runs: it keeps the place of that, and
        has what is left of its budget.
    """

    __slots__ = (
        "budget",
        "deadline",
        "given_up",
        "in_vain",
        "number",
        "request",
        "since",
        "sleeper",
    )

    def __init__(self, hold: float, request: Ticket | None = None) -> None:
        self.budget = hold
        self.deadline: float | None = None  # by time.monotonic(); it counts from the first waiting
        self.request = request
        self.number: int = next(_number) if request is None else request.number
        self.since = 0.0  # when it began to wait, likewise
        self.given_up = False  # whether its client has gone
        self.in_vain: str | None = None  # why it waits no longer, of what was found meanwhile
        self.sleeper = Sleeper()

    @property
    def was_held(self) -> bool:
        """True if it has waited."""
        return self.deadline is not None

    @property
    def left(self) -> float:
        """The seconds that are left of its budget."""
        left = self.budget if self.request is None else min(self.budget, self.request.left)
        return left if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def told(self, why: str | None) -> str | None:
        """Tell the trace how long it waited, and return why it is refused, as it was given."""
        waited = time.monotonic() - self.since if self.was_held else 0.0
        on_span(hold_duration=waited, hold_outcome="let go" if why is None else "refused")
        return why

    @property
    def over(self) -> str:
        """Why it is refused when its budget is used up."""
        return f"It was held for {self.budget:g} s."

    def vain(self, known: State) -> str | None:
        """Return why it waits in vain, or None: the end that is announced is later than its own.

        Past that end the real one may come at any moment.
        """
        if not known.read_only or known.until is None:
            return None
        ahead = (known.until - now()).total_seconds()
        if ahead <= 0 or ahead <= self.left:
            return None
        until = known.until.isoformat(timespec="seconds")
        return f"It was not held, as {until} is later than its hold of {self.budget:g} s would end."

    def begin(self, sleeper: Sleeper) -> float:
        """Have it wait from now on; return the time at which its budget ends."""
        at = time.monotonic()
        self.sleeper, self.since, self.in_vain = sleeper, self.since or at, None
        if self.deadline is None:
            self.deadline = at + self.budget
            if self.request is not None:
                self.deadline = min(self.deadline, self.request.begin(self.request.sleeper))
        return self.deadline


def request_here() -> Ticket | None:
    """Return the ticket of the request that runs here, if it is of a kind that is held."""
    found = refusals.held_request()
    return found if isinstance(found, Ticket) else None


def check_hold(name: str, hold: object) -> float | None:
    """Return a setting of seconds, or None where nothing is held.

    :raises ConfigurationError: if it is no number of seconds, or negative.
    """
    return None if hold is None else seconds(name, hold) or None


def check_max_held(value: object) -> int | None:
    """Return a setting of how many may be held.

    :raises ConfigurationError: if it is no number, or below 1.
    """
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(
            f"EngineSelector(max_held) takes a number from 1 on, or None, not {value!r}."
        )
    return value
