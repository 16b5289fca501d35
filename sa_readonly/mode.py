"""What the mode is, what tells it, and the clock by which an answer ages."""

from __future__ import annotations

import enum
import math
import os
import time
from abc import abstractmethod
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Protocol

from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FORCE", "Announced", "Mode", "State", "Switch", "clock", "forced", "missing"]

FORCE = "SA_READONLY_FORCE"

# An answer goes on ageing while the machine sleeps: after a night in which a laptop or a virtual
# machine was suspended, time.monotonic() would call the answer of the evening fresh. A partial is
# called in C, which a function here would not be, and the hot path reads the clock each time.
clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else partial(time.monotonic)
)
"""The clock, in seconds, of ``Switch.fresh_until`` and ``Switch.checked``. All that compares with
them reads this clock. Timeouts and waits use :func:`time.monotonic`."""


class Mode(enum.Enum):
    """Whether the application may write."""

    READ_WRITE = "read-write"
    """It may."""
    READ_ONLY = "read-only"
    """It must not."""

    __hash__ = object.__hash__  # Enum's is a Python call, on the hot path

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Announced:
    """What an operator has announced. No mode changes by it.

    :param time: when it will be read-only (aware).
    :param until: when the operator expects to be done (aware), or None.
    :param reason: the operator's text, or None.
    """

    time: datetime
    until: datetime | None = None
    reason: str | None = None

    @property
    def over(self) -> bool:
        """True once ``until`` has passed: then it is told no more."""
        return self.until is not None and self.until <= now()


@dataclass(frozen=True)
class State:
    """What a switch told at one moment.

    :param mode: the mode.
    :param reason: the operator's text, or None.
    :param until: when the operator expects to be done (aware), or None.
        Nothing happens by itself when it has passed.
    :param since: since when it is the mode (aware), or None.
    :param generation: the identity of the file that is there, or of what else says read-only: the
        same in every process that sees it; of several, all, with " + " between. None while nothing
        does.
    :param announced: what is announced, see :class:`Announced`; or None.
    """

    mode: Mode
    reason: str | None = None
    until: datetime | None = None
    since: datetime | None = None
    generation: str | None = None
    announced: Announced | None = None

    @property
    def read_only(self) -> bool:
        """True while the application must not write."""
        return self.mode is Mode.READ_ONLY

    @property
    def overdue(self) -> bool:
        """True when it is read-only and ``until`` has passed."""
        return self.read_only and self.until is not None and self.until < now()


class Switch(Protocol):
    """What tells the mode: all that the rest of the package asks of a switch.

    A switch of your own derives from this class. It sets ``known`` and writes :meth:`check` and
    :meth:`subscribe`; every other member has a default that is safe. A switch whose mode changes
    has less to write as a :class:`.subscribers.BaseSwitch`, which brings :meth:`subscribe` and
    :meth:`override`.

    An answer has an age, which counts from before the look that brought it, on :func:`clock`. It is
    *fresh* for ``ttl`` seconds: an older one is used only if no look can be had. It is *usable* for
    ``fence`` seconds: an older one is never used, and the switch must say read-only by itself. So a
    transaction that begins more than ``fence`` after the source has turned read-only is read-only.
    """

    known: State
    """The last answer. It may be used without a call while ``clock() < fresh_until``, so the hot
    path costs one reading of the clock."""

    fresh_until: float = -math.inf
    """The time by :func:`clock` until which ``known`` may be used as it is; afterwards
    :meth:`refresh` is called for it. It lies no later than ``ttl`` after the look began, nor later
    than ``fence``. Whatever needs a new look, a signal or a fork, sets it to ``-math.inf``, which
    the switch must bear. By default :meth:`refresh` is called each time."""

    ttl: float = 0.1
    """For how many seconds an answer is fresh."""

    fence: float = 10.0
    """For how many seconds an answer is usable; it is not less than ``ttl``."""

    checked: float = -math.inf
    """The time by :func:`clock` at which the look behind ``known`` began; ``-math.inf`` before the
    first look, and for a switch that has nothing to look at."""

    forced: Mode | None = None
    """The mode that this process has whatever the source says (``SA_READONLY_FORCE``, or a test),
    or None."""

    overridden: bool = False
    """True while a test dictates the mode by :meth:`override`. No thread is started then, and the
    process is not registered."""

    confirms: bool = False
    """True if a read-write connection that was just made is given out after a :meth:`check` that
    began after that. A switch has it whose source is on other machines: to a server that is asked
    for its sessions, a connection that is older than the answer is there to be seen."""

    name: str = "the switch"
    """What messages and metrics call it: the path of the file, the key in a store."""

    def refresh(self) -> State:
        """Return an answer that may be used now, after a look if that is due.

        It may block for as long as a look takes. By default it is :meth:`check` once ``known`` is
        no longer fresh.
        """
        return self.known if clock() < self.fresh_until else self.check()

    def glance(self) -> bool:
        """Say whether ``known`` may be used now, without blocking: an event loop calls this.

        It may look, if that takes no longer than a ``stat()``. After False, :meth:`refresh` is
        called in a thread; where nothing can wait for a thread, read-only is assumed. By default it
        does not look, so after its False :meth:`refresh` is called on the loop itself there: a
        switch that can block writes a glance of its own.
        """
        return clock() < self.fresh_until

    @abstractmethod
    def check(self) -> State:
        """Look now, whatever the age of the answer, and return the answer."""

    def identify(self) -> str | None:
        """Look now, and return the generation that is there, or None if it is surely read-write.

        What judges the workers compares what they acknowledged with this. By default it is the
        generation of :meth:`check`.

        :raises OSError: if that is not known.
        """
        state = self.check()
        if state.read_only and state.generation is None:
            raise OSError(f"{self!r} is read-only without a generation")
        return state.generation

    @abstractmethod
    def subscribe(
        self,
        gate: Callable[[State], None],
        flipped: Callable[[State, State], None],
    ) -> Callable[[], None]:
        """Have every flip told; return a function that ends it.

        :param gate: called at once with the state that is known (what it raises then is raised
            here), and at each flip with the new state while no caller can use another answer: on
            the way to read-only after the new state is known, on the way back before. It must be
            short, and may be called again with the same mode. If it raises on the way back, the
            switch stays read-only and the gates already open are closed again.
        :param flipped: called with the old and the new state after that, in the order of the
            flips, by one thread at a time and without a lock.
        """

    def look_ahead(self) -> None:
        """Look whether anything is announced, and have ``known.announced`` tell it.

        It is called once a second at most, beside the looks, and raises nothing. By default nothing
        is ever announced.
        """
        return

    def override(self, state: State) -> Callable[[], None]:
        """Have this process know ``state``, whatever the source says: for tests.

        All that a flip turns is turned, ``overridden`` is True and ``forced`` is the mode of the
        state. No look is taken meanwhile. Of several overrides the newest counts.

        :return: a function that ends it. What was known before is known again then, and a look is
            due before it is used. It raises InvalidRequestError if a gate fails to open.
        :raises sqlalchemy.exc.InvalidRequestError: if a gate fails to open; nothing is overridden.
        :raises ConfigurationError: by default: the switch can't be overridden.
        """
        raise ConfigurationError(
            f"{self!r} can't be overridden for a test. Give the selector a FileSwitch or a "
            "FixedSwitch in your tests, or derive your switch from "
            "sa_readonly.subscribers.BaseSwitch."
        )


def missing(switch: object) -> list[str]:
    """Return the names of the members of :class:`Switch` that an object does not have."""
    names = dict.fromkeys((*Switch.__annotations__, *vars(Switch)))
    return [name for name in names if name[0] != "_" and not hasattr(switch, name)]


def now() -> datetime:
    """Return the wall-clock time, aware, in UTC."""
    return datetime.now(timezone.utc)


def forced() -> Mode | None:
    """Return the mode that the environment forces upon this process, or None.

    :raises ConfigurationError: if it forces one that there is not.
    """
    value = os.environ.get(FORCE)
    if not value:  # a template of an environment has it empty where it is not meant
        return None
    try:
        return Mode(value)
    except ValueError:
        raise ConfigurationError(
            f"{FORCE} is {value!r}. Set it to read-write or read-only, or unset it."
        ) from None
