"""The part of a session that is held: a transaction waits for read-write before it connects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from .engines import guard
from .errors import ReadOnlyError
from .hold.engine import wait, would_write
from .hold.ticket import check_hold, request_here
from .mode import Mode
from .selector import EngineSelector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection, Engine

    from .hold.engine import Work
    from .hold.ticket import Ticket

__all__ = ["PIN", "HoldingSession", "has_changed", "reads_elsewhere"]

_READ_ONLY = Mode.READ_ONLY  # a member of an enum is slow to look up in Python 3.11
PIN = "_sa_readonly_pin"
"""What a root transaction keeps from its first connection on."""

_TICKET = "_sa_readonly_ticket"  # of a root transaction that was held


class HoldingSession(Session):
    """What a :class:`.RoutingSession` does with ``hold=``."""

    _hold: float | None = None
    _role: str
    _choice: tuple[Engine, dict[Any, Any], EngineSelector | None] | None
    _choose: Callable[..., tuple[Engine, Mode]]
    # What the next connection is wanted for: the statement, or the words of a flush. None tells
    # nothing, as session.connection() does.
    _asked: Any = None

    def _begin_holding(self, hold: object, binds: Iterable[object]) -> None:
        """Take the setting, and refuse it where any thread could wait."""
        self._hold = check_hold("RoutingSession(hold)", hold)
        for bind in binds if self._hold is not None else ():
            if isinstance(bind, EngineSelector) and not bind.is_async:
                bind.held.check_threads("RoutingSession(hold)")

    def _may_be_held(self) -> bool:
        """True if the next connection is the first of a transaction that may wait for it.

        A transaction may by the ``hold`` of its session, and by that of the request in which it
        runs: one that came before the flip, and writes after it has read.
        """
        return (
            self._role == "primary"
            and not hasattr(self.get_transaction(), PIN)
            and (self._hold is not None or request_here() is not None)
        )

    def _connect_for_flush(self, bind: Any, what: str) -> bool:
        """Connect before a flush begins: in the middle of it, it could wait no more.

        :return: whether it has: not where no selector chose the engine.
        """
        choice = self._choice
        if choice is None or choice[0] is not bind or choice[2] is None:
            return False
        self._asked = what
        self._connection_for_bind(bind)
        return True

    def _connect_held(  # noqa: C901  # one case after the other
        self, engine: Engine | Connection, connect: Callable[[Engine], Connection]
    ) -> Connection | None:
        """Connect a transaction that holds no connection yet, once it may write.

        :param engine: the engine that was chosen.
        :param connect: connects the transaction to an engine.
        :return: None if it need not wait, as it reads, or if that can't be told.
        :raises ReadOnlyError: if it would write, and is not held or not long enough.
        """
        asked, self._asked = self._asked, None
        chosen, pin, selector = self._choice or (None, {}, None)
        if chosen is not engine or selector is None or not self._may_be_held():
            return None
        queue, mode, in_request = selector.held, pin[selector][1], request_here() is not None
        if self._hold is not None and selector is not self.bind and not selector.is_async:
            # A get_bind() has found it: this is told by day, not by the first flip.
            queue.check_threads("RoutingSession(hold)")
        work: Work | None = None
        ticket: Ticket | None = None
        tries = 0
        while True:
            if mode is _READ_ONLY or queue.busy:
                if queue.must_wait(selector.state):
                    work = work or would_write(selector, asked)
                    if work is None and not in_request:
                        return None
                    ticket = ticket or self._ticket(selector)
                    if not wait(selector, ticket, work):
                        return None
                    if in_request:  # whose turn would have ended as the application was called
                        queue.end(ticket)
                chosen, mode = self._choose(selector, {})
                if mode is _READ_ONLY:  # by another flip
                    queue.end(ticket)
                    continue
            try:
                if ticket is None:
                    return connect(chosen)
                with queue.going(ticket):
                    return connect(chosen)
            except ReadOnlyError as error:
                tries += not selector.state.read_only
                over = guard.is_final(error, tries)
                work = work or would_write(selector, asked)
                if over and work is not None:
                    raise
                guard.was_served(chosen, error)  # it is counted at the end, if it is refused
                if work is None and (over or not in_request):  # a read, as without hold
                    return connect(self._choose(selector, {}, _READ_ONLY)[0])
                mode = _READ_ONLY

    def _ticket(self, selector: EngineSelector) -> Ticket:
        """Return the ticket of this transaction: one for all that it waits."""
        transaction, request = self.get_transaction(), request_here()
        hold = self._hold
        if hold is None:
            hold = 0.0 if request is None else request.budget
        if transaction is None:  # it begins as it connects
            return selector.held.ticket(hold)
        kept = transaction.__dict__
        if _TICKET not in kept:
            kept[_TICKET] = selector.held.ticket(hold)
        return kept[_TICKET]  # type: ignore[no-any-return]  # what was kept


def reads_elsewhere(pin: dict[Any, Any], engine: Engine) -> bool:
    """True if a selector, closed by its server, gave the read-only one for this engine."""
    reads = (one for one in pin if isinstance(one, EngineSelector) and pin[one][1] is _READ_ONLY)
    # A clone, as by execution_options(), is that engine as well: it has its pool.
    return any(one.routes["primary"][Mode.READ_WRITE].pool is engine.pool for one in reads)


def has_changed(one: object) -> bool:
    """True if a flush would write for this persistent object."""
    state: Any = inspect(one)  # its type differs between SQLAlchemy 2.0 and 2.1
    if not state.modified:
        return False
    for attribute in state.mapper.attrs:
        if getattr(attribute, "viewonly", False) or attribute.key in state.unloaded:
            continue
        if state.attrs[attribute.key].history.has_changes():
            return True
    return False
