"""What is refused: the words of its error, how often it was, and where it is noted.

It knows switches and their states, and no engine: what answers over HTTP, tells Prometheus or tests
an application counts and words a refusal here as the engines do.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING

from .errors import ReadOnlyError
from .forks import PerProcess
from .telemetry import on_span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextvars import Token

    from .mode import State, Switch

__all__ = [
    "KINDS",
    "RequestNote",
    "chain",
    "chain_here",
    "count",
    "hearing",
    "held_request",
    "last_read_only",
    "passing",
    "record",
    "refusal",
    "refusals",
    "remember",
    "route_here",
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
        error._lasting = fault in _LASTING and not _turned_in_the_request(state, over)
        error._role = "replica" if fault == "role" else "primary"
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
    "server": (
        "the database server is read-only",
        "Roll back, and try again when it takes writes.",
    ),
    "ended": (
        "the application was read-only, which is over{since}",
        "Roll back, and try again.",
    ),
}
"""Why something is refused while read-write, with the cure."""

_LASTING = frozenset({"role", "engine"})
"""The faults that no time mends: the application's own."""


def _of_the_fault(
    what: str, state: State, statement: str | None, fault: str, over: State | None
) -> ReadOnlyError:
    why, cure = _FAULTS[fault]
    # What was read-only by the word of its server was so while the switch had long been read-write.
    newer = over and over.since and state.since and over.since > state.since
    since = "" if newer else _since(state)
    again = f", and the application is read-write{since}" if over is not None else ""
    told = over if fault in ("began", "server", "ended", "taken") else None
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
hearing: weakref.WeakKeyDictionary[object, Callable[..., None]] = weakref.WeakKeyDictionary()
"""By switch, what is told of each refusal."""
# Reentrant: a signal handler may be refused while the thread that it interrupts is counting.
_counting = PerProcess(threading.RLock)


def record(error: ReadOnlyError, what: str, *, kind: str, switch: Switch | None) -> None:
    """Count the refusal of ``what``, and note it for its request and for tests.

    Every error that refuses something comes by here just before it is raised.
    """
    error._kind, error._moment = kind, time.monotonic()
    count(switch, kind)
    for noted_for, noted in list(_notes.values()):
        if noted_for is switch:
            noted[error] = what
    for note in _request_notes():
        note._add(error)
    on_span(refusal_kind=kind, **({} if switch is None else {"mode": str(switch.known.mode)}))
    if switch in hearing:
        hearing[switch](error, what)


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
    for note in _request_notes():
        note._refused.pop(error, None)
    on_span(refusal_kind="taken back")


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


# -- the note of a request -------------------------------------------------------------------

_NOTED = 32  # refusals of one request; one of them is enough for its answer
_CHAINED = 200  # errors of one chain that are looked at

_request: ContextVar[RequestNote | None] = ContextVar("sa_readonly_request", default=None)


class RequestNote:
    """What one request was refused, until its response has begun; a middleware opens it.

    As ``with note:`` it is open in the context that runs the application. A task, or a thread that
    was given a copy of the context, writes into the same note. Of middlewares within each other
    each has a note of its own, and a refusal is written into all of them.
    """

    __slots__ = ("_began", "_opened", "_outer", "_refused", "_route", "_token", "closed", "held")

    def __init__(self, held: object = None, route: Callable[[], str | None] = str) -> None:
        self.closed = False
        self._route = route
        self.held = held
        """The ticket of the request, if it is of a kind that is held."""
        outer = _request.get()
        self._outer: RequestNote | None = None if outer is None or outer.closed else outer
        self._opened, self._began = time.time(), time.monotonic()
        self._refused: dict[ReadOnlyError, None] = {}
        self._token: Token[RequestNote | None] | None = None

    def __enter__(self) -> None:
        self._token = _request.set(self)

    def __exit__(self, *_: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            # A coroutine that a loop left unfinished is closed in another context than its task's.
            with contextlib.suppress(ValueError):
                _request.reset(token)

    def close(self) -> None:
        """Note nothing more, and forget: a task that outlives the request keeps its context."""
        self.closed = True
        self._refused.clear()

    def chain(self, error: BaseException) -> list[ReadOnlyError]:
        """Return what :func:`chain` does, but for what another request was refused before.

        An error that is made once and raised for many keeps the context of the first.
        """
        return [one for one in chain(error) if one is error or one._moment >= self._began]

    @property
    def refused(self) -> list[ReadOnlyError]:
        """What was refused, the latest last."""
        return list(self._refused)

    @property
    def is_outermost(self) -> bool:
        """True if no other middleware sees the request after this one."""
        return self._outer is None

    def _add(self, error: ReadOnlyError) -> None:
        if len(self._refused) < _NOTED and not self.closed:
            self._refused[error] = None


def _request_notes() -> Iterator[RequestNote]:
    """Yield the notes of the request that runs here, the innermost first."""
    note = _request.get()
    while note is not None:
        yield note
        note = note._outer


def held_request() -> object:
    """Return the ticket of the request that runs here, or None if it is of no kind that is held."""
    note = _request.get()
    while note is not None and (note.held is None or note.closed):
        note = note._outer
    return None if note is None else note.held


def route_here() -> str | None:
    """Return the route of the request that runs here, as far as a middleware can tell it."""
    told = () if _request.get() is None else (note._route() for note in _request_notes())
    return next((route for route in told if route), None)


def _turned_in_the_request(state: State, over: State | None) -> bool:
    """True if the mode was read-only when the request began, so that it chose rightly then."""
    note = _request.get()
    if note is None or over is None or state.since is None:
        return False
    return state.since.timestamp() >= note._opened


def chain_here(error: BaseException) -> list[ReadOnlyError]:
    """Return what the note of the request that runs here does; without one, the whole chain."""
    note = _request.get()
    return chain(error) if note is None else note.chain(error)


def passing(errors: Iterable[ReadOnlyError]) -> ReadOnlyError | None:
    """Return the last refusal that time mends, or None; the others are the application's fault."""
    return next((one for one in reversed([*errors]) if not one._lasting), None)


def chain(error: BaseException) -> list[ReadOnlyError]:
    """Return the refusals in whose consequence an error was raised, the latest last.

    They are looked for in its causes and contexts, also suppressed ones (``raise ... from None``),
    and in those of the errors of a group; in a few hundred errors at most.
    """
    found: list[ReadOnlyError] = []
    seen: set[int] = set()
    ahead: list[object] = [error]
    while ahead and len(seen) < _CHAINED:
        one = ahead.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, ReadOnlyError):
            found.append(one)
        inner: object = None
        with contextlib.suppress(Exception):  # another error may have anything of this name
            inner = getattr(one, "exceptions", None)
        if isinstance(inner, (list, tuple)):
            ahead.extend(inner[:_CHAINED])
        ahead += [one.__context__, one.__cause__]
    return found[::-1]


# -- notes of tests --------------------------------------------------------------------------

_notes: dict[object, tuple[Switch, dict[ReadOnlyError, str]]] = {}


def take_notes(switch: Switch) -> tuple[dict[ReadOnlyError, str], Callable[[], object]]:
    """Note everything that is refused for a switch from now on, in whatever thread.

    :return: a dict that fills with each error and what it refused, and a function that ends it.
    """
    key, noted = object(), dict[ReadOnlyError, str]()
    _notes[key] = (switch, noted)
    return noted, partial(_notes.pop, key, None)
