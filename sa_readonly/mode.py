"""What the mode is, and what tells it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Mode", "State", "Switch"]


class Mode(enum.Enum):
    """Whether the application may write."""

    READ_WRITE = "read-write"
    READ_ONLY = "read-only"

    __hash__ = object.__hash__  # Enum's is a Python call, on the hot path

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class State:
    """What a switch told at one moment.

    :param mode: the mode.
    :param reason: the operator's text, or None.
    :param until: when the operator expects to be done (aware), or None.
        Nothing happens by itself when it has passed.
    :param since: since when the mode holds (aware), or None.
    :param generation: the identity of the file that is there, the same in every process
        that sees it, or None while there is no file.
    """

    mode: Mode
    reason: str | None = None
    until: datetime | None = None
    since: datetime | None = None
    generation: str | None = None

    @property
    def read_only(self) -> bool:
        """True while the application must not write."""
        return self.mode is Mode.READ_ONLY

    @property
    def overdue(self) -> bool:
        """True when it is read-only and ``until`` has passed."""
        return self.read_only and self.until is not None and self.until < now()


class Switch(Protocol):
    """What an :class:`.EngineSelector` asks for the mode; anything with these members will do.

    ``known`` may be used without a call while ``time.monotonic() < fresh_until``; afterwards
    :meth:`refresh` is called for it. So the hot path costs one reading of the clock. A switch
    held in a coordination service would set ``fresh_until`` to the end of its lease. For
    ``sa_readonly.testing`` it needs what :class:`.FileSwitch` has as ``hold()`` and ``held``.
    """

    known: State
    """The last answer."""

    fresh_until: float
    """The :func:`time.monotonic` time, in seconds, until which ``known`` may be used."""

    def refresh(self) -> State:
        """Return an answer that may be used now, after looking again where that is due."""

    def check(self) -> State:
        """Look again now and return the answer."""

    def subscribe(
        self,
        gate: Callable[[State], None],
        flipped: Callable[[State, State], None],
    ) -> Callable[[], None]:
        """Have every flip told; return a function that ends it.

        :param gate: called at once with the state that is known (what it raises then is raised
            here), and at each flip with the new state while nobody can use another answer: on the
            way to read-only after the new state is known, on the way back before. It must be short,
            and may be called again with the same mode. If it raises on the way back, the switch
            stays read-only and the gates already open are closed again.
        :param flipped: called with the old and the new state after that, in the order of the
            flips, by one thread at a time and without a lock.
        """


def now() -> datetime:
    """Return the wall-clock time, aware, in UTC."""
    return datetime.now(timezone.utc)
