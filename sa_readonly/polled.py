"""A switch that asks a function: for a flag in Redis, Consul or a feature-flag service."""

from __future__ import annotations

import hashlib
import inspect
from typing import TYPE_CHECKING

from .errors import ConfigurationError, seconds
from .looking import Look, LookingSwitch
from .mode import Mode, State, clock, now
from .text import parse

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PolledSwitch"]


class PolledSwitch(LookingSwitch):
    """Read-only while ``look()`` returns a text.

    ::

        switch = PolledSwitch(lambda: flags.reason("read-only"), ttl=1.0, fence=10.0)

    ``look()`` is called by one thread of this switch, never on an event loop, and never twice at
    the same time. An answer is fresh for ``ttl`` and usable for ``fence``, both counted from before
    ``look()`` was called. From ``ttl / 2`` on a look goes on beside the transactions. Past ``ttl``
    they wait for it, until it has taken ``ttl``; then, and for ``ttl`` after one that raised, the
    last answer is used while it is usable. Past ``fence`` it is read-only, with a reason that says
    so, until ``look()`` answers again. So a transaction that begins more than ``fence`` after the
    source has turned read-only is read-only.

    - A ``look()`` that hangs can't be stopped and no second one is begun beside it, so give the
      client that it uses a timeout shorter than ``ttl``. That it hangs or raises is logged once.
    - The constructor waits for the first answer, at most ``ttl``. Until there is one it is
      read-only.
    - The thread is started by whatever needs a look, also with ``EngineSelector(watch=False)``, and
      is stopped before a fork. In a forked child another one calls ``look()``, with whatever client
      it made in the parent.
    - ``look()`` must not ask for the mode, nor use a session of the selector that has this switch.
    - The generation is a hash of the text, so that it is the same in every process. Two periods
      with the same text are one to what waits for the workers: where the flag is taken away and put
      back while it reads them, a worker may be called drained that was read-write in between. A
      text with a time or a number of its own prevents that.
    - *Drained* holds from ``fence`` after the flag was set. Until then a process that can't reach
      the source, and has not registered yet, may go by its last answer.

    The environment variable ``SA_READONLY_FORCE`` counts as it does for a :class:`.FileSwitch`;
    then ``look()`` is not called.

    :param look: any callable that takes no arguments, returns None for read-write or a str for
        read-only, and may raise. The str has the form of the file's text: a reason, and perhaps a
        line ``until: <ISO 8601 time>``. An empty one means read-only, too.
    :param ttl: seconds for which an answer is fresh, and which a transaction waits at most.
    :param fence: seconds for which an answer is usable; not less than ``ttl``.
    :raises ConfigurationError: if ``look`` is not callable or is a coroutine function, if ``ttl``
        or ``fence`` makes no sense, or if ``SA_READONLY_FORCE`` is neither of its two values.
    """

    def __init__(
        self, look: Callable[[], str | None], *, ttl: float = 1.0, fence: float = 10.0
    ) -> None:
        if not callable(look) or inspect.iscoroutinefunction(look):
            raise ConfigurationError(
                "PolledSwitch(look) takes a function that takes no arguments, is not async, and "
                f"returns None or a str; not {look!r}."
            )
        ttl, fence = seconds("ttl", ttl), seconds("fence", fence)
        if not 0 < ttl <= fence:
            raise ConfigurationError(
                f"PolledSwitch(ttl={ttl}, fence={fence}): ttl must be more than 0 and fence no "
                "less than ttl."
            )
        super().__init__(f"{_name(look)}()", ttl=ttl, fence=fence)
        self._function = look
        self._begin()

    def __repr__(self) -> str:
        return f"PolledSwitch({self.name[:-2]}, ttl={self.ttl!r}, fence={self.fence!r})"

    def _ask(self, look: Look) -> str | None:
        return _checked(self._function())

    def _state_after(self, look: Look, known: State) -> State | None:
        generation = self._generation(look)
        if look.answer is None or generation is None:
            if clock() >= look.began + self.fence:
                return None  # such an old answer must not let anything write
            return State(Mode.READ_WRITE, since=now()) if known.read_only else known
        if generation == known.generation:
            return known
        reason, until = parse(_encoded(look.answer))
        since = known.since if known.read_only else now()
        return State(Mode.READ_ONLY, reason, until, since, generation)

    def _generation(self, look: Look) -> str | None:
        if look.answer is None:
            return None
        return hashlib.sha256(_encoded(look.answer)).hexdigest()[:32]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _checked(answer: object) -> str | None:
    if answer is None or isinstance(answer, str):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()  # or Python warns that it was never awaited
    raise TypeError(
        f"It returned {answer!r}. Return None for read-write, or a str (bytes decoded) for "
        "read-only; it can't be async."
    )


def _name(look: object) -> str:
    return getattr(look, "__name__", None) or type(look).__name__
