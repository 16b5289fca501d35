"""An engine of Core that is held: what would be refused waits for read-write before it connects."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Connection, Sequence, select
from sqlalchemy.engine import Compiled
from sqlalchemy.sql.functions import FunctionElement

from .. import refusals
from ..engines import guard
from ..engines.privates.later import InPlaceEngine, LateEngine, Later, Sent
from ..errors import ReadOnlyError
from ..mode import Mode
from .count import Asked
from .ticket import request_here

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Engine

    from ..mode import State
    from .queue import Queue
    from .ticket import Ticket

__all__ = ["Holding", "Work", "held_engine", "verb", "wait", "would_write"]

Work = tuple[str, "str | None", str]
"""What would be refused: the words of the refusal, the text, and one of the refusals' kinds."""


class Holding(Asked, Protocol):
    """What is asked of a selector whose transactions are held."""

    held: Queue
    routes: Mapping[str, Mapping[Mode, Engine]]

    @property
    def state(self) -> State:
        """The state, by an answer that is not too old."""


def held_engine(selector: Holding, hold: float) -> Engine:
    """Return an engine of the role "primary" whose transactions wait for read-write.

    :param hold: seconds for which each may wait.
    """
    engine = selector.routes["primary"][Mode.READ_WRITE]
    return LateEngine(engine, {}, partial(_connect, selector, hold))


def _connect(selector: Holding, hold: float, held: LateEngine) -> Connection:
    """Return a connection that takes none of a pool yet, in either mode, as a session does."""
    engine = _now(selector, selector.state.mode, held)
    if not _is_known(engine) and _is_known(held):
        engine = held
    elif not _is_known(engine):
        # It has never connected. The dialect must know its server, as an application may ask it.
        try:
            Connection(engine).close()
        except ReadOnlyError as error:  # by a flip
            guard.was_served(engine, error)
        except Exception:  # noqa: BLE001, S110  # what connects for a statement raises it again
            pass
    return Later(engine, partial(_connect_for, selector, hold, held))


def _is_known(engine: Engine) -> bool:
    """True if the dialect of an engine has learned of its server, by a first connection."""
    return hasattr(engine.dialect, "default_isolation_level")


def _now(selector: Holding, mode: Mode, held: LateEngine) -> Engine:
    """Return the engine of a mode, with the execution options of one that is held."""
    engine = selector.routes["primary"][mode]
    return held if engine is held.sa_readonly_of else InPlaceEngine(engine, held)


def _connect_for(
    selector: Holding, hold: float, held: LateEngine, later: Later, asked: Any
) -> None:
    """Connect for a first statement, once that may be sent: a read is at once."""
    queue, in_request = selector.held, request_here() is not None
    work: Work | None = None
    ticket: Ticket | None = None
    refused, tries = False, 0  # by a flip, or in the queue of the pool
    while True:
        mode = Mode.READ_WRITE
        if refused or queue.must_wait(selector.state):
            work = work or would_write(selector, asked)
            if work is None and not in_request:
                mode = selector.state.mode
            else:
                ticket = later.sa_readonly_kept = later.sa_readonly_kept or queue.ticket(hold)
                if not wait(selector, ticket, work):
                    mode = Mode.READ_ONLY
                elif in_request:  # whose turn would have ended as the application was called
                    queue.end(ticket)
                if mode is Mode.READ_WRITE and selector.state.read_only:  # by another flip
                    queue.end(ticket)
                    continue
        engine = _now(selector, mode, held)
        try:
            with nullcontext() if ticket is None else queue.going(ticket):
                later.sa_readonly_connect(engine, autobegin=asked is not None)
            return
        except ReadOnlyError as error:
            refused = selector.state.read_only
            tries += not refused
            if mode is Mode.READ_ONLY or guard.is_final(error, tries):
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


def would_write(selector: Holding, asked: Any) -> Work | None:
    """Return what a read-only engine would refuse of a statement, or None if it only reads.

    :param asked: a statement, a text for the driver, or the words of a flush; None tells nothing.
    """
    if asked is None:
        return None
    if isinstance(asked, str):
        return asked, None, "flush"
    if getattr(asked, "is_dml", False):
        return verb(asked), None, "statement"
    dialect: Any = selector.routes["primary"][Mode.READ_ONLY].dialect
    try:
        text, parameters = _sent(asked, dialect)
    except Exception:  # noqa: BLE001  # it is raised again where the statement is executed
        return None
    what = dialect._sa_readonly_would(text, parameters)
    return None if what is None else (what, text, "statement")


def verb(clause: Any) -> str:
    """Return the words by which a refusal names an element of SQL that writes."""
    # Not by its class, which may be one of the ORM's, or a lambda's.
    name = getattr(clause, "__visit_name__", "")
    return name.upper() if name in ("insert", "update", "delete") else "A statement that writes"


def _sent(asked: Any, dialect: Any) -> tuple[str, Any]:
    """Return the text and the parameters that are sent of a statement."""
    if isinstance(asked, Sent):
        return asked
    if isinstance(asked, Sequence):
        asked = select(asked.next_value())
    if isinstance(asked, FunctionElement):  # which is sent in a SELECT
        asked = asked.select()
    if not isinstance(asked, Compiled):  # SQLAlchemy 2.0 takes these as well
        asked = asked.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    return str(asked), asked.params
