"""Telling a switch's subscribers: at a flip their gates are turned, and then it is told."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import threading
import weakref
from collections import deque
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import InvalidRequestError

from . import forks
from .announced import Ahead, with_announced
from .mode import FORCE, Mode, State, Switch, clock, forced, now
from .telemetry import of_state, on_span
from .text import described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BaseSwitch", "looks_at_a_glance"]

logger = logging.getLogger("sa_readonly")


class BaseSwitch(Ahead):
    """A switch that tells its subscribers, to derive a switch from whose mode changes.

    What is derived takes a look in ``check()``, notes :func:`.mode.clock` before it, and hands the
    state to :meth:`learn`. See ``docs/switches.md``. Where ``SA_READONLY_FORCE`` or a test dictates
    the mode, what it learns is dropped.

    :param name: see :attr:`.Switch.name`.
    :param ttl: seconds for which an answer is fresh.
    :param fence: seconds for which it is usable.
    """

    known: State
    _forcible = True  # whether SA_READONLY_FORCE counts

    def __init__(self, name: str, *, ttl: float, fence: float) -> None:
        self.name, self.ttl, self.fence = name, ttl, fence
        self.known = State(Mode.READ_ONLY, f"{name} has not answered yet", since=now())
        self._expires = -math.inf  # when the answer is as old as ttl; fresh_until comes before
        # What is known, and the gates. It is never held during a look. It is reentrant, as a signal
        # handler may ask for the mode in the middle of a flip.
        self._state = forks.PerProcess(threading.RLock)
        # A dict, which a garbage collection may change at any moment without a lock.
        self._subscribers: dict[_Subscriber, None] = {}
        self._turning = False  # whether gates are being turned
        self._jammed = False  # whether it was logged that a gate failed
        self._pending: deque[Callable[[], None]] = deque()  # what is to be logged and told
        self._telling = forks.Latch()
        self._overrides: dict[object, State] = {}  # the newest last
        self._before: tuple[State, Mode | None] | None = None  # what was known before, and forced
        forks.subscribe(in_child=self._after_fork, last_in_child=self._close_after_fork)
        if self._forcible:
            self._force()

    @property
    def state(self) -> State:
        """The state now, by an answer that may be used."""
        return self.known if clock() < self.fresh_until else self.refresh()

    @property
    def read_only(self) -> bool:
        """True while the application must not write."""
        return self.state.mode is Mode.READ_ONLY

    def refresh(self) -> State:
        """Return an answer that may be used now, after :meth:`check` if that is due."""
        return self.known if self._is_dictated() else super().refresh()

    def glance(self) -> bool:
        """Say whether ``known`` may be used now; see :meth:`.Switch.glance`.

        Between ``ttl / 2`` and ``ttl`` it may: a thread looks meanwhile.
        """
        return self._is_dictated() or (
            self.fresh_until != -math.inf and clock() < self._expires  # no look was asked for
        )

    def learn(self, state: State, asked: float) -> None:
        """Take what a look brought for the answer, and tell the subscribers if it is a flip.

        :param state: the state by that look. At a flip its ``since`` is now unless it is given;
            otherwise it stays what it was.
        :param asked: the time by :func:`.mode.clock` just before the look. An answer that comes
            after that of a later look is dropped.
        """

        def decide(known: State) -> State:
            same = state.mode is known.mode
            return replace(state, since=known.since if same else state.since or now())

        self._learn(decide, asked)
        self._tell()

    def _learn(self, decide: Callable[[State], State | None], asked: float) -> None:
        """Have ``decide`` make a state of what is known, under the lock; None changes nothing."""
        forks.follow()
        with self._state():
            old = self.known
            if asked < self.checked or self._turning or self.forced is not None:
                return
            new = decide(old)
            if new is None:
                return
            if self._ahead is not None:  # else the look itself may tell what is announced
                new = with_announced(new, old.announced)
            why = self._why(new)
            if self.checked == -math.inf and not self._subscribers:
                self._answer(new, asked)  # the first answer is no flip
                if new.read_only and new is not old:
                    self._say(logging.WARNING, "starts", "sa_readonly starts read-only: %s", why)
                return
            if not self._turn(new, lambda state: self._answer(state, asked), why):
                self._answer(old, asked)  # the gates are tried again at the next look
            elif new.read_only and old.read_only and _is_news(new, old):
                self._say(logging.INFO, "edited", "sa_readonly: still read-only: %s", why)

    def _answer(self, state: State, asked: float) -> None:
        # ``known`` first: a thread that reads the new time must read the new answer.
        self.known = state
        self.checked = asked
        self._expires = asked + self.ttl
        self.fresh_until = asked + self.ttl / 2

    def _why(self, state: State) -> str:
        """Return what the log says of the source of a state."""
        return f"{self.name} says so" + (f" ({described(state)})" if state.read_only else "")

    def _is_dictated(self) -> bool:
        """True if the environment or a test dictates the mode: then no look is taken."""
        if self.forced is None:
            return False
        # A worker or selector that wants a look sets it to -inf, but there is none to take.
        self.fresh_until = math.inf
        if self.forced is None:  # the test has ended just now, and asked for a look
            self.fresh_until = -math.inf
        return self.forced is not None

    def _force(self) -> None:
        """Have the mode that the environment forces upon this process, if it does."""
        self.forced = forced()
        if self.forced is not None:
            reason = f"{FORCE}={self.forced}"
            self.known = State(self.forced, reason, since=now())
            self._expires = self.fresh_until = math.inf
            extra = of_state("forced", self.name, self.known)
            message = "%s forces this process: %s is not looked at."
            logger.warning(message, reason, self.name, extra=extra)

    def _after_fork(self) -> None:
        self._turning = False

    def _close_after_fork(self) -> None:
        # Last, when the engines have pools of this process: a lock of a pool of the parent's may be
        # held for ever.
        with self._state():
            if self.known.read_only:  # the fork may have come before the parent closed all
                self._close_gates()

    # -- subscribers ---------------------------------------------------------------------

    def subscribe(
        self,
        gate: Callable[[State], None],
        flipped: Callable[[State, State], None],
    ) -> Callable[[], None]:
        """Have every flip told; see :meth:`.Switch.subscribe`.

        Bound methods are held weakly: a subscriber that is collected is forgotten.
        """
        forks.follow()
        subscriber = _Subscriber(gate, flipped)
        with self._state():
            subscriber.turn(self.known)
            self._subscribers[subscriber] = None

        def unsubscribe() -> None:
            forks.follow()
            # No gate is turned after this. The lock is not waited for without end: a garbage
            # collection may call this in a thread that holds a lock for which a gate waits.
            with forks.locked(self._state(), timeout=1):
                self._subscribers.pop(subscriber, None)

        return unsubscribe

    # -- a test --------------------------------------------------------------------------

    def override(self, state: State) -> Callable[[], None]:
        """Have this process know ``state``; see :meth:`.Switch.override`."""
        forks.follow()
        key = object()

        def end() -> None:
            forks.follow()
            settled = True
            with self._state():
                if self._overrides.pop(key, None) is not None:
                    settled = self._settle("a test has ended")
            self._tell()
            if not settled:
                raise InvalidRequestError(
                    f"{self!r} stays {self.known.mode} after a test: a gate failed to open. The "
                    "log tells why. Override it once more, and end that."
                )

        with self._state():
            if not self._overrides and self._before is None:
                self._before = self.known, self.forced
            self._overrides[key], done = state, False
            try:
                done = self._settle("a test dictates it")
            finally:
                if not done:
                    del self._overrides[key]
                    self.overridden = bool(self._overrides)
        self._tell()
        if not done:
            raise InvalidRequestError(
                f"{self!r} can't be overridden {state.mode}: a gate failed to open. The log tells "
                "why."
            )
        return end

    def _settle(self, why: str) -> bool:
        """Know what the newest override says or, once there is none, what was known before."""
        self.overridden = bool(self._overrides)
        state, forced, until = self.known, self.forced, math.inf
        if self._overrides:
            state = list(self._overrides.values())[-1]
            forced = state.mode
        elif self._before is not None:
            (state, forced), until = self._before, -math.inf

        def answer(state: State) -> None:
            self.known, self.forced = state, forced
            self.fresh_until = self._expires = until

        done = self._turn(state, answer, why)
        if not self._overrides:
            if done:
                self._before = None
            else:
                answer(self.known)  # where there is a next look, it tries again then
        return done

    # -- the gates, under the lock --------------------------------------------------------

    def _turn(self, new: State, answer: Callable[[State], None], why: str) -> bool:
        """Make ``new`` known by ``answer``, and turn the gates; False if they failed to open."""
        old = self.known
        if new.mode is old.mode:
            answer(new)
            if new.read_only:
                self._close_gates()  # again, as some may have failed to close
        elif new.read_only:
            answer(new)
            self._jammed = False
            try:
                self._close_gates()
            finally:
                self._say_flip(old, new, why)
        elif self._open_gates(new):
            answer(new)
            self._say_flip(old, new, f"{why}{_lasted(old)}")
        else:
            return False
        return True

    def _close_gates(self) -> None:
        with self._are_turning():
            for subscriber in list(self._subscribers):
                if not subscriber.closed and subscriber in self._subscribers:
                    try:
                        subscriber.turn(self.known)
                    except Exception as error:  # noqa: BLE001  # logged, though not under the lock
                        self._say_jammed("A gate failed to close. Each BEGIN is refused.", error)

    def _open_gates(self, new: State) -> bool:
        """Open all gates, or none: when one fails, all are closed again."""
        try:
            with self._are_turning():
                for subscriber in list(self._subscribers):
                    if subscriber in self._subscribers:
                        subscriber.turn(new)
            return True
        except BaseException as error:
            self._close_gates()
            if not isinstance(error, Exception):
                raise
            self._say_jammed("A gate failed to open: this process stays read-only for now.", error)
            return False

    @contextlib.contextmanager
    def _are_turning(self) -> Iterator[None]:
        """Mark that gates are being turned: a gate that asks for the mode must not turn them."""
        self._turning = True
        try:
            yield
        finally:
            self._turning = False

    # -- telling -------------------------------------------------------------------------

    def _say(self, level: int, event: str, message: str, *args: object, **options: Any) -> None:
        # A log handler may itself ask for the mode, so nothing is logged under the lock.
        extra = of_state(event, self.name, self.known)
        self._pending.append(partial(logger.log, level, message, *args, extra=extra, **options))

    def _say_jammed(self, message: str, error: Exception) -> None:
        if not self._jammed:
            self._jammed = True
            self._say(logging.ERROR, "gate_failed", message, exc_info=error)

    def _say_flip(self, old: State, new: State, why: str) -> None:
        # At WARNING both ways: servers as they come show nothing below it, and a night whose
        # beginning is in the log would have no end there.
        self._say(logging.WARNING, "flip", "sa_readonly: %s -> %s: %s", old.mode, new.mode, why)
        self._pending.append(partial(on_span, mode=str(new.mode), flip_from=str(old.mode)))
        for subscriber in list(self._subscribers):
            self._pending.append(partial(self._tell_flip, subscriber, old, new))

    def _tell_flip(self, subscriber: _Subscriber, old: State, new: State) -> None:
        flipped = subscriber.flipped()
        if flipped is None or subscriber not in self._subscribers:
            return
        try:
            flipped(old, new)
        except Exception:
            extra = of_state("flip_failed", self.name, new)
            logger.exception("What was to be done after a flip failed.", extra=extra)

    def _tell(self) -> None:
        """Log and tell what is pending: in order, by one thread at a time, under no lock."""
        if self._pending:
            self._telling.run(self._tell_pending)

    def _tell_aside(self) -> None:
        # What is told of a flip may take its time, and neither a look nor a loop must wait for it.
        if self._pending:
            thread = threading.Thread(target=self._tell, name="sa_readonly flip", daemon=True)
            with contextlib.suppress(RuntimeError):  # none can be started: the next caller tells it
                thread.start()

    def _tell_pending(self) -> None:
        while self._pending:
            self._pending.popleft()()


def _is_news(new: State, old: State) -> bool:
    """True if a state is read-only by another text than the one before, or was put anew."""
    same = (new.reason, new.until) == (old.reason, old.until)
    return new.generation != old.generation and not (same and old.generation is None)


def looks_at_a_glance(switch: Switch) -> bool:
    """True if the switch has a ``glance()`` of its own, which says False only where it must."""
    return getattr(type(switch), "glance", None) not in (Switch.glance, BaseSwitch.glance)


class _Subscriber:
    def __init__(
        self, gate: Callable[[State], None], flipped: Callable[[State, State], None]
    ) -> None:
        self.gate = _weak(gate)
        self.flipped = _weak(flipped)
        self.closed = False

    def turn(self, state: State) -> None:
        """Turn the gate; when that raises, it counts as not closed."""
        self.closed = False
        if gate := self.gate():
            gate(state)
        self.closed = state.read_only


def _weak(function: Callable[..., None]) -> Callable[[], Callable[..., None] | None]:
    if inspect.ismethod(function):
        return weakref.WeakMethod(function)
    return lambda: function


def _lasted(state: State) -> str:
    """Return how long it was read-only, for the log; nothing where that is not known."""
    if state.since is None:
        return ""
    seconds = max(0, round((now() - state.since).total_seconds()))
    return f". It was read-only for {timedelta(seconds=seconds)}"
