"""An engine of Core that is held: it waits for read-write before it connects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .. import refusals
from ..engines import guard
from ..errors import ReadOnlyError
from ..mode import Mode
from .queue import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Engine

    from ..mode import State
    from .queue import Queue
    from .ticket import Ticket

__all__ = ["TRIES", "Holding", "Work", "held_engine", "wait"]

TRIES = 3
"""How often it is tried to connect while read-write, where an engine refuses for another reason."""

Work = tuple[str, "str | None", str]
"""What would be refused: the words of the refusal, the text, and one of the refusals' kinds."""

_TRANSACTION: Work = ("A transaction of selector.engine(hold=...)", None, "transaction")


class Holding(Asked, Protocol):
    """What is asked of a selector whose transactions are held."""

    held: Queue
    routes: Mapping[str, Mapping[Mode, Engine]]

    @property
    def state(self) -> State:
        """The state, by an answer that is not too old."""


def held_engine(selector: Holding, hold: float, **options: Any) -> Engine:
    """Return an engine of the role "primary" whose connections wait for read-write.

    :param hold: seconds for which each may wait.
    :param options: its execution options.
    """
    engine: Any = selector.routes["primary"][Mode.READ_WRITE].execution_options(**options)
    # Of this clone alone. A clone of it would be one of an engine that does not wait.
    engine.connect = partial(_connect, selector, hold, options)
    engine.execution_options = lambda **more: held_engine(selector, hold, **{**options, **more})
    return engine  # type: ignore[no-any-return]  # the clone


def _connect(selector: Holding, hold: float, options: dict[str, Any]) -> Connection:
    queue, tries = selector.held, 0
    ticket = queue.ticket(hold)
    refused = False  # by a flip, or in the queue of the pool
    while True:
        if refused or queue.must_wait(selector.state):
            wait(selector, ticket, _TRANSACTION)
            if selector.state.read_only:  # by another flip
                queue.end(ticket)
                continue
        engine = selector.routes["primary"][Mode.READ_WRITE]
        if options:
            engine = engine.execution_options(**options)
        try:
            with queue.going(ticket):
                return engine.connect()
        except ReadOnlyError as error:
            refused = selector.state.read_only
            tries += not refused
            if tries > TRIES or error._kind == "unregistered":
                raise
            guard.was_served(engine, error)  # it is counted at the end, if it is refused


def wait(selector: Holding, ticket: Ticket, work: Work | None) -> bool:
    """Wait until it is read-write, and this one's turn.

    :param work: what would be refused, or None if it may only read.
    :return: whether it is read-write. Without ``work`` it may go on as well.
    :raises ReadOnlyError: if it is still read-only then.
    """
    why = selector.held.wait(ticket)
    state = selector.known
    if why is None or not state.read_only:
        return True
    if work is None:
        return False
    what, text, kind = work
    error = refusals.refusal(what, state, text, kind=kind, switch=selector.switch)
    error.args = (f"{error} {why}",)
    raise error
