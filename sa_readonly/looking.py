"""What a switch whose looks may block is derived from: one thread takes its looks."""

from __future__ import annotations

import logging
import math
import threading
import weakref
from abc import abstractmethod
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from . import forks
from .announced import with_announced
from .mode import Mode, State, clock, now
from .subscribers import BaseSwitch
from .telemetry import fields

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Look", "LookingSwitch"]

logger = logging.getLogger("sa_readonly")

_JOIN = 1.0  # seconds for which a fork waits for a look and for its thread


class LookingSwitch(BaseSwitch):
    """A switch whose looks take their time: one thread takes them, one at a time.

    How long callers wait, and what they go by, is written at :class:`.polled.PolledSwitch`. What is
    derived writes :meth:`_ask`, :meth:`_state_after` and :meth:`_generation`, and calls
    :meth:`_begin` when it is made.
    """

    def __init__(self, name: str, *, ttl: float, fence: float) -> None:
        super().__init__(name, ttl=ttl, fence=fence)
        self._ill = False  # whether it was logged that it hangs or raises
        self._beginning = forks.PerProcess(threading.RLock)  # for the two below
        self._under_way: Look | None = None
        self._caller: _Caller | None = None
        forks.subscribe(before=self._before_fork)

    def _begin(self) -> None:
        """Take the first look, which is waited for."""
        if self.forced is None:
            self._wait_for(self._begin_look())
            self._tell()

    # -- what is derived ------------------------------------------------------------------

    @abstractmethod
    def _ask(self, look: Look) -> object:
        """Ask the source, in the thread for looks; what it returns is the answer of the look."""

    @abstractmethod
    def _state_after(self, look: Look, known: State) -> State | None:
        """Return the state to publish, ``known`` itself, or None to change nothing."""

    @abstractmethod
    def _generation(self, look: Look) -> str | None:
        """Return the generation by the answer of a look, or None if it surely is read-write.

        :raises OSError: if that is not known.
        """

    def _why_fenced(self) -> str:
        """Return the reason of a state that is read-only as no look has answered for too long."""
        return f"{self.name} has not answered for {self.fence:g} s"

    def _note_failure(self, error: BaseException) -> None:
        self._note("%s failed", self.name, exc_info=error)

    # -- the answer ----------------------------------------------------------------------

    def refresh(self) -> State:
        """Return an answer that may be used now; it waits for a look at most ``ttl``."""
        if self._is_dictated() or clock() < self.fresh_until:
            return self.known
        forks.follow()
        # Before the look: its answer may be there already, while its end is still to come.
        expired = self._is_expired()
        look = self._begin_look()
        if expired:
            self._wait_for(look)
        return self._usable()

    def glance(self) -> bool:
        """Begin a look if that is due; see :meth:`.Switch.glance`."""
        if self._is_dictated() or clock() < self.fresh_until:
            return True
        forks.follow()
        look = self._begin_look()
        if not self._is_expired():
            return True
        awaited = not look.ended.is_set() and clock() < look.began + self.ttl
        return not awaited and (self.known.read_only or clock() < self.checked + self.fence)

    def check(self) -> State:
        """Have a look begun after this call, wait for it at most ``ttl``, and return the answer."""
        if self._is_dictated():
            return self.known
        forks.follow()
        self._look_now()
        return self._usable()

    def identify(self) -> str | None:
        """Return the generation by a look that begins after this call; see :meth:`.identify`.

        :raises OSError: if the look raises, or does not end in time.
        """
        forks.follow()
        look = self._look_now()
        self._tell()
        if look.error is not None:
            raise OSError(f"{self.name} failed: {look.error!r}") from look.error
        if not look.ended.is_set():
            raise TimeoutError(f"{self.name} has not answered for {self.ttl} s")
        return self._generation(look)

    def _is_expired(self) -> bool:
        """True if a transaction waits for a look: what is known has aged, or a look is asked for.

        A fork, a signal or the end of a test asks for one by setting ``fresh_until``.
        """
        return self.fresh_until == -math.inf or clock() >= self._expires

    def _usable(self) -> State:
        """Return what is known, or read-only if that is too old."""
        # Read before ``known``: the other way round, a new time could be read with an old answer.
        checked = self.checked
        if not self.known.read_only and clock() >= checked + self.fence:
            self._shut_off()
        self._tell()
        return self.known

    def _shut_off(self) -> None:
        reason = self._why_fenced()
        state = State(Mode.READ_ONLY, reason, since=now())
        with self._state():
            known = self.known
            state = with_announced(state, known.announced)
            too_old = not known.read_only and clock() >= self.checked + self.fence
            if too_old and not self._turning and self.forced is None:
                self._turn(state, lambda state: self._answer(state, self.checked), reason)

    # -- looks ---------------------------------------------------------------------------

    def _begin_look(self) -> Look:
        """Return the look that is under way or, without one, have one begun."""
        with self._beginning():
            if self._under_way is not None:
                return self._under_way
            look = Look()
            try:
                if self._caller is None:
                    self._caller = _Caller(self._call)
                    weakref.finalize(self, self._caller.looks.put, None).atexit = False
            except RuntimeError as error:  # no thread can be started
                look.error = error
            else:
                # In this order: an interrupt in between leaves no look that never ends.
                self._caller.looks.put(look)
                self._under_way = look
                return look
        self._take(look)
        look.ended.set()
        return look

    def _look_now(self) -> Look:
        earlier = self._under_way
        look = self._begin_look()
        self._wait_for(look)
        if look is earlier and look.ended.is_set():
            look = self._begin_look()
            self._wait_for(look)
        return look

    def _wait_for(self, look: Look) -> None:
        """Wait for the end of a look, at most until it has taken ``ttl``."""
        caller = self._caller
        if caller is not None and threading.current_thread() is caller.thread:
            return  # look() itself asks for the mode, and can't end while it waits
        if forks.is_mine(self._state()):
            return  # a gate asks: this thread holds the lock that is needed to take the answer
        if forks.is_mine(self._beginning()):
            return  # a signal handler asks: this thread holds the lock that is needed to end a look
        with self._beginning():
            look.waiting += 1
        try:
            ended = look.ended.wait(max(0.0, look.began + self.ttl - clock()))
        finally:
            with self._beginning():
                look.waiting -= 1
        if not ended:
            self._note("%s takes longer than ttl=%s s", self.name, self.ttl)

    def _call(self, look: Look) -> None:
        """Take a look: in its thread, which goes on whatever that raises."""
        try:
            look.answer = self._ask(look)
        except BaseException as error:  # noqa: BLE001  # logged with its traceback
            look.error = error
        try:
            self._take(look)
        finally:
            with self._beginning():
                self._under_way = None
                alone = not look.waiting
            if alone:
                self._tell_aside()
            look.ended.set()

    def _take(self, look: Look) -> None:
        """Have what a look brought."""
        if look.error is None:
            if self._ill and clock() <= look.began + self.ttl:
                self._ill = False
                self._say(logging.INFO, "look_mended", "%s answers in time again.", self.name)
            self._learn(partial(self._state_after, look), look.began)
        else:
            self._note_failure(look.error)
            with self._state():
                self._schedule(clock())  # for ttl from now on nothing waits for another one

    def _note(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        with self._state():
            was, self._ill = self._ill, True
        if not was:
            if self.checked == -math.inf:
                message += ": it is read-only until one answers."
            else:
                message += ": the last answer stands until it is %s s old, then it is read-only."
                args = (*args, self.fence)
            self._say(logging.ERROR, "look_failed", message, *args, exc_info=exc_info)

    # -- what is known -------------------------------------------------------------------

    def _answer(self, state: State, asked: float) -> None:
        self.known = state
        self.checked = asked
        self._schedule(asked)

    def _schedule(self, looked: float) -> None:
        """Say when the next look is due, after one that began at ``looked``."""
        # Read-only is safe at any age, and anything else ends at the fence.
        end = math.inf if self.known.read_only else self.checked + self.fence
        self._expires = min(looked + self.ttl, end)
        self.fresh_until = min(looked + self.ttl / 2, end)

    # -- forks ---------------------------------------------------------------------------

    def _before_fork(self) -> None:
        # From Python 3.12 on a fork warns while another thread runs.
        look, caller = self._under_way, self._caller
        if caller is None or threading.current_thread() is caller.thread:
            return
        if look is not None:  # waited for until it is as old as ttl: then it may hang
            look.ended.wait(min(_JOIN, max(0.0, look.began + self.ttl - clock())))
        with self._beginning():
            if self._under_way is not None:
                return  # it hangs, so its thread can't be stopped
            self._caller = None
        caller.looks.put(None)
        caller.thread.join(_JOIN)

    def _after_fork(self) -> None:
        self._under_way = self._caller = None  # that thread runs in the parent
        super()._after_fork()


class Look:
    """One look. Its answer counts from before the source was asked for it."""

    def __init__(self) -> None:
        self.began = clock()
        self.ended = threading.Event()
        self.waiting = 0  # threads
        self.answer: Any = None
        self.error: BaseException | None = None


class _Caller:
    """The thread that calls ``look()``, until it is given None or its switch is gone."""

    def __init__(self, call: Callable[[Look], None]) -> None:
        self.looks: SimpleQueue[Look | None] = SimpleQueue()
        self.thread = threading.Thread(
            target=_call_each,
            args=(self.looks, weakref.WeakMethod(call)),
            name="sa_readonly look",
            daemon=True,
        )
        self.thread.start()


def _call_each(
    looks: SimpleQueue[Look | None],
    reference: weakref.WeakMethod[Callable[[Look], None]],
) -> None:
    while (look := looks.get()) is not None:
        call = reference()
        if call is None:
            return
        try:
            call(look)
        except BaseException:  # also a SystemExit that a gate raises: this thread must go on
            message = "What a look brought could not be taken; the next one goes on."
            logger.exception(message, extra=fields("look_lost"))
        del call  # or the switch could not be collected while this waits
