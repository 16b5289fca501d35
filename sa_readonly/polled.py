"""A switch that asks a function: for a flag in Redis, Consul or a feature-flag service."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import math
import threading
import weakref
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from . import forks
from .errors import ConfigurationError, seconds
from .mode import Mode, State, clock, now
from .subscribers import BaseSwitch
from .text import parse

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PolledSwitch"]

logger = logging.getLogger("sa_readonly")

_JOIN = 1.0  # seconds for which a fork waits for a look and for its thread


class PolledSwitch(BaseSwitch):
    """Read-only while ``look()`` returns a text.

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
        self._ill = False  # whether it was logged that it hangs or raises
        self._beginning = forks.PerProcess(threading.RLock)  # for the two below
        self._under_way: _Look | None = None
        self._caller: _Caller | None = None
        forks.subscribe(before=self._before_fork)
        if self.forced is None:
            self._wait_for(self._begin_look())
            self._tell()

    # -- the answer ----------------------------------------------------------------------

    def refresh(self) -> State:
        """Return an answer that may be used now; it waits for a look at most ``ttl``."""
        if self._is_dictated() or clock() < self.fresh_until:
            return self.known
        forks.follow()
        look = self._begin_look()
        if self._is_expired():
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
        return look.generation

    def __repr__(self) -> str:
        return f"PolledSwitch({self.name[:-2]}, ttl={self.ttl!r}, fence={self.fence!r})"

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
        reason = f"{self.name} has not answered for {self.fence:g} s"
        state = State(Mode.READ_ONLY, reason, since=now())
        with self._state():
            known = self.known
            too_old = not known.read_only and clock() >= self.checked + self.fence
            if too_old and not self._turning and self.forced is None:
                self._turn(state, lambda state: self._answer(state, self.checked), reason)

    # -- looks ---------------------------------------------------------------------------

    def _begin_look(self) -> _Look:
        """Return the look that is under way or, without one, have one begun."""
        with self._beginning():
            if self._under_way is not None:
                return self._under_way
            look = _Look()
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

    def _look_now(self) -> _Look:
        earlier = self._under_way
        look = self._begin_look()
        self._wait_for(look)
        if look is earlier and look.ended.is_set():
            look = self._begin_look()
            self._wait_for(look)
        return look

    def _wait_for(self, look: _Look) -> None:
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

    def _call(self, look: _Look) -> None:
        """Call ``look()``: in its thread, which goes on whatever that raises."""
        try:
            look.answer = _checked(self._function())
        except BaseException as error:  # noqa: BLE001  # logged with its traceback
            look.error = error
        try:
            self._take(look)
        finally:
            with self._beginning():
                self._under_way = None
                alone = not look.waiting
            if self._pending and alone:
                self._tell_aside()
            look.ended.set()

    def _take(self, look: _Look) -> None:
        """Have what a look brought."""
        if look.error is None:
            if self._ill and clock() <= look.began + self.ttl:
                self._ill = False
                self._say(logging.INFO, "%s answers in time again.", self.name)
            self._learn(partial(self._state_after, look), look.began)
        else:
            self._note("%s failed", self.name, exc_info=look.error)
            with self._state():
                self._schedule(look.began)

    def _note(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        with self._state():
            was, self._ill = self._ill, True
        if not was:
            message += ": the last answer stands until it is %s s old, then it is read-only."
            self._say(logging.ERROR, message, *args, self.fence, exc_info=exc_info)

    def _tell_aside(self) -> None:
        # What is told of a flip may take its time, and the next look must not wait for it.
        thread = threading.Thread(target=self._tell, name="sa_readonly flip", daemon=True)
        with contextlib.suppress(RuntimeError):  # none can be started: the next caller tells it
            thread.start()

    # -- what is known -------------------------------------------------------------------

    def _state_after(self, look: _Look, known: State) -> State | None:
        generation = look.generation
        if look.answer is None or generation is None:
            if clock() >= look.began + self.fence:
                return None  # such an old answer must not let anything write
            return State(Mode.READ_WRITE, since=now()) if known.read_only else known
        if generation == known.generation:
            return known
        reason, until = parse(look.answer.encode("utf-8", "replace"))
        since = known.since if known.read_only else now()
        return State(Mode.READ_ONLY, reason, until, since, generation)

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


class _Look:
    """One call of ``look()``. Its answer counts from before it was asked for."""

    def __init__(self) -> None:
        self.began = clock()
        self.ended = threading.Event()
        self.waiting = 0  # threads
        self.answer: str | None = None
        self.error: BaseException | None = None

    @property
    def generation(self) -> str | None:
        if self.answer is None:
            return None
        return hashlib.sha256(self.answer.encode("utf-8", "replace")).hexdigest()[:32]


class _Caller:
    """The thread that calls ``look()``, until it is given None or its switch is gone."""

    def __init__(self, call: Callable[[_Look], None]) -> None:
        self.looks: SimpleQueue[_Look | None] = SimpleQueue()
        self.thread = threading.Thread(
            target=_call_each,
            args=(self.looks, weakref.WeakMethod(call)),
            name="sa_readonly look",
            daemon=True,
        )
        self.thread.start()


def _call_each(
    looks: SimpleQueue[_Look | None],
    reference: weakref.WeakMethod[Callable[[_Look], None]],
) -> None:
    while (look := looks.get()) is not None:
        call = reference()
        if call is None:
            return
        try:
            call(look)
        except BaseException:  # also a SystemExit that a gate raises: this thread must go on
            logger.exception("What a look brought could not be taken; the next one goes on.")
        del call  # or the switch could not be collected while this waits


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
