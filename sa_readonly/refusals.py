"""What is refused: the words of its error, how often it was, and what a test notes of it.

It knows switches and their states, and no engine: what answers over HTTP, tells Prometheus or tests
an application counts and words a refusal here as the engines do.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING

from .errors import ReadOnlyError
from .forks import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .mode import State, Switch

__all__ = [
    "KINDS",
    "count",
    "last_read_only",
    "record",
    "refusal",
    "refusals",
    "remember",
    "take_back",
    "take_notes",
    "uncounted",
]

KINDS = (
    "flush",  # of a session, or one of its bulk methods
    "statement",  # by its text, before it is sent
    "server",  # a statement, by the server
    "transaction",  # that was to begin on a read-write engine
    "connection",  # of a read-write engine
    "grace",  # a transaction that went on after its grace
    "beforehand",  # by require_read_write(), or a request by the middleware
    "unregistered",  # a transaction or connection, with workers="required"
)
"""The kinds by which refusals are counted. They are labels in people's dashboards: keep them."""


# -- the error -------------------------------------------------------------------------------


def refusal(
    what: str,
    state: State,
    statement: str | None = None,
    *,
    kind: str,
    switch: Switch | None,
    fault: str = "role",
    over: State | None = None,
    cure: str | None = None,
) -> ReadOnlyError:
    """Return the error that refuses ``what``, counted and noted.

    :param what: a few words that begin a sentence.
    :param state: the state now.
    :param statement: the SQL text, if there is one.
    :param kind: one of the :data:`KINDS`.
    :param switch: the switch for which it is counted; None counts nothing.
    :param fault: what is at fault where the state is read-write, a key of :data:`_FAULTS`.
    :param over: the read-only state of before.
    :param cure: where what only reads is served, if not by a selector.
    """
    if state.read_only:
        error = _of_the_mode(what, state, statement, kind, cure)
    else:
        error = _of_the_fault(what, state, statement, fault, over)
    record(error, what, kind=kind, switch=switch)
    return error


def _of_the_mode(
    what: str, state: State, statement: str | None, kind: str, cure: str | None
) -> ReadOnlyError:
    reason = "" if state.reason is None else f" ({state.reason})"
    until = "" if state.until is None else f", until {state.until.isoformat(timespec='seconds')}"
    served = ""
    if kind in ("connection", "transaction"):  # it is met by code that has an engine of its own
        cure = (
            cure or "What only reads is served by selector.engine() or a RoutingSession(selector)."
        )
        served = f" {cure}"
    return ReadOnlyError(
        f"{what} is refused: the application is read-only{_since(state)}{reason}{until}. "
        f"Nothing was written. Roll back, and try again when it is read-write.{served}",
        reason=state.reason,
        until=state.until,
        since=state.since,
        statement=statement,
    )


_FAULTS = {
    "role": (
        "the transaction has the role 'replica', which never writes",
        'Use a session of the role "primary".',
    ),
    "began": (
        "the transaction began while the application was read-only, which is over{since}",
        "Begin a new one.",
    ),
    "engine": (
        "this engine is a read-only one of the selector{again}",
        "Write through selector.engine() or a RoutingSession(selector).",
    ),
    "taken": (
        "this connection was taken while the application was read-only, which is over{since}",
        "Close it, and take another one of the engine.",
    ),
    "ended": (
        "the application was read-only, which is over{since}",
        "Roll back, and try again.",
    ),
}
"""Why something is refused while read-write, with the cure."""


def _of_the_fault(
    what: str, state: State, statement: str | None, fault: str, over: State | None
) -> ReadOnlyError:
    why, cure = _FAULTS[fault]
    since = _since(state)
    again = f", and the application is read-write{since}" if over is not None else ""
    told = over if fault in ("began", "ended", "taken") else None
    return ReadOnlyError(
        f"{what} is refused: {why.format(since=since, again=again)}. Nothing was written. {cure}",
        reason=None if told is None else told.reason,
        since=None if told is None else told.since,
        statement=statement,
    )


def _since(state: State) -> str:
    return "" if state.since is None else f" since {state.since.isoformat(timespec='seconds')}"


_last: weakref.WeakKeyDictionary[Switch, State] = weakref.WeakKeyDictionary()


def remember(switch: Switch, state: State) -> None:
    """Remember the read-only state of a flip.

    A transaction that began in it may be refused after the flip back, and its error tells why.
    """
    _last[switch] = state


def last_read_only(switch: Switch) -> State | None:
    """Return the state that was remembered last, or None if there was no flip yet."""
    return _last.get(switch)


# -- counting --------------------------------------------------------------------------------

_counts: weakref.WeakKeyDictionary[Switch, dict[str, int]] = weakref.WeakKeyDictionary()
# Reentrant: a signal handler may be refused while the thread that it interrupts is counting.
_counting = PerProcess(threading.RLock)


def record(error: ReadOnlyError, what: str, *, kind: str, switch: Switch | None) -> None:
    """Count the refusal of ``what``, and note it for the tests that take notes of the switch."""
    error._kind = kind
    count(switch, kind)
    for noted_for, noted in list(_notes.values()):
        if noted_for is switch:
            noted[error] = what


def count(switch: Switch | None, kind: str, number: int = 1) -> None:
    """Add to how often something of this kind was refused for a switch."""
    if switch is not None:
        with _counting():
            counts = _counts.setdefault(switch, {})
            counts[kind] = counts.get(kind, 0) + number


def refusals(switch: Switch) -> dict[str, int]:
    """Return by kind how often something was refused for a switch.

    In a forked child the numbers begin with those of its parent.
    """
    return dict(_counts.get(switch, {}))


def take_back(switch: Switch | None, error: ReadOnlyError) -> None:
    """Undo :func:`record`: it was a read, which was then served by another engine."""
    _count_error(switch, error, -1)
    for _, noted in list(_notes.values()):
        noted.pop(error, None)


@contextlib.contextmanager
def uncounted(switch: Switch | None, error: ReadOnlyError) -> Iterator[None]:
    """Leave a refusal uncounted inside the block, as :func:`take_back` may follow.

    A report written meanwhile would have to be corrected downwards, and a counter must not fall.
    """
    _count_error(switch, error, -1)
    try:
        yield
    finally:
        _count_error(switch, error, 1)


def _count_error(switch: Switch | None, error: ReadOnlyError, number: int) -> None:
    if error._kind is not None:
        count(switch, error._kind, number)


# -- notes of tests --------------------------------------------------------------------------

_notes: dict[object, tuple[Switch, dict[ReadOnlyError, str]]] = {}


def take_notes(switch: Switch) -> tuple[dict[ReadOnlyError, str], Callable[[], object]]:
    """Note everything that is refused for a switch from now on, in whatever thread.

    :return: a dict that fills with each error and what it refused, and a function that ends it.
    """
    key, noted = object(), dict[ReadOnlyError, str]()
    _notes[key] = (switch, noted)
    return noted, partial(_notes.pop, key, None)
