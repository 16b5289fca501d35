"""What an application's own tests need: either mode for one test, and "this writes nothing".

A block has the selector's switch overridden in this process: no file is touched, no thread starts
and the process is not registered, so it works under ``pytest -n 8``. Everything else is as after a
real flip. See ``docs/testing.md``.

The fixtures are in ``contrib.pytest_plugin``, which pytest loads by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConfigurationError
from .mode import Mode, State, now
from .oneswitch import asked
from .refusals import take_notes

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType

    from .checks import AnyEngine
    from .errors import ReadOnlyError
    from .selector import EngineSelector

__all__ = ["read_only", "read_write", "writes_nothing"]


# Classes, as a context manager of contextlib would be a decorator as well: on a coroutine function
# its block ends before the coroutine has run, and would assert nothing.


class _Block:
    """A block in which the selector's switch is overridden."""

    def __init__(self, selector: EngineSelector | AnyEngine, state: State) -> None:
        found = asked(selector)
        if found is None:
            raise ConfigurationError(
                "A test dictates the mode of an EngineSelector, or of an engine with "
                f"plugin=sa_readonly, not of {type(selector).__name__}."
            )
        self._switch = found.switch
        self._state = state
        self._ends: list[Callable[[], object]] = []

    def __enter__(self) -> None:
        self._ends.append(self._switch.override(self._state))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ends.pop()()


class read_only(_Block):  # noqa: N801  # it reads as a function, as contextlib.suppress does
    """Be read-only inside the block, and afterwards as before.

    ::

        with read_only(selector, reason="Upgrade"):
            assert client.post("/things").status_code == 503

    All selectors with the same switch are read-only, in all threads. Blocks may be nested or
    overlap, also with those of :class:`read_write`: the newest one counts. In a coroutine it is a
    plain ``with``, too.

    A transaction that has begun before the block may read and end, and writes nothing inside.

    :param selector: the application's :class:`.EngineSelector`, or an engine with
        ``plugin=sa_readonly``.
    :param reason: what the operator would have written.
    :param until: when the operator would expect to be done; a naive time is local time.
    :raises ConfigurationError: if the selector's switch can't be overridden.
    """

    def __init__(
        self,
        selector: EngineSelector | AnyEngine,
        reason: str | None = None,
        until: datetime | None = None,
    ) -> None:
        until = until and until.astimezone()
        super().__init__(selector, State(Mode.READ_ONLY, reason, until, since=now()))


class read_write(_Block):  # noqa: N801  # it reads as a function, too
    """Be read-write inside the block, and afterwards as before; see :class:`read_only`.

    Around a whole test run it keeps the selector from looking at its file, from starting its thread
    and from registering this process.

    :param selector: the application's :class:`.EngineSelector`, or an engine with
        ``plugin=sa_readonly``.
    :raises ConfigurationError: if the selector's switch can't be overridden.
    :raises sqlalchemy.exc.InvalidRequestError: if a gate fails to open; the log tells why.
    """

    def __init__(self, selector: EngineSelector | AnyEngine) -> None:
        super().__init__(selector, State(Mode.READ_WRITE, since=now()))


class writes_nothing(read_only):  # noqa: N801  # it reads as a function, too
    """Assert that nothing inside the block writes.

    ::

        with writes_nothing(selector):
            client.get("/things")

    The block is :class:`read_only`, so that each write is refused. Every refusal for the same
    switch counts, in any thread, also one that the application has caught and answered.

    :param selector: the application's :class:`.EngineSelector`, or an engine with
        ``plugin=sa_readonly``.
    :raises AssertionError: at the end of the block, if something was refused in it. It names each
        write. Its cause is the :class:`.ReadOnlyError`, or other Exception, that left the block.
    :raises ConfigurationError: if the selector's switch can't be overridden.
    """

    def __init__(self, selector: EngineSelector | AnyEngine) -> None:
        super().__init__(selector, "writes_nothing()")

    def __enter__(self) -> None:
        super().__enter__()
        self._refused, end = take_notes(self._switch)
        self._ends.append(end)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True  # what pytest shows ends in the test
        self._ends.pop()()
        super().__exit__(kind, error, traceback)
        if self._refused and (error is None or isinstance(error, Exception)):
            raise AssertionError(_listed(self._refused)) from error


def _listed(refused: dict[ReadOnlyError, str]) -> str:
    lines = [
        f"- {what}" if error.statement is None else f"- {what}: {error.statement}"
        for error, what in refused.items()
    ]
    many = "1 write was" if len(lines) == 1 else f"{len(lines)} writes were"
    return "\n".join((f"{many} refused where nothing was to be written:", *lines))
