"""What an application asks of the mode: what it is now, to be told of a flip, to wait for one."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
import weakref
from typing import TYPE_CHECKING

from . import refusals
from .engines import loops
from .errors import ConfigurationError
from .mode import Mode, State, Switch, clock
from .rehearsal.notes import notebook_of
from .telemetry import of_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .engines.server import ServerSwitch
    from .hold.queue import Queue
    from .workers.worker import Worker

__all__ = ["Asking"]

logger = logging.getLogger("sa_readonly")


class Asking:
    """Asks the switch of a selector, by its worker if it has one, and knows its server's word."""

    switch: Switch
    held: Queue
    """For sessions and middlewares: those that wait until it is read-write."""
    server: ServerSwitch | None
    """For sessions: what turns this selector by the word of its database server, or None."""
    direct = False
    """For sessions: False where they have to ask for more than the mode, as on an event loop, or
    where requests are held."""

    _worker: Worker | None
    _callbacks: list[Callable[[State, State], object]]

    def serve_requests(self) -> None:
        """Have sessions ask for the ticket of their request, as a middleware holds requests."""
        self.held.serves_requests, self.direct = True, False

    @property
    def state(self) -> State:
        """The mode, the reason and the times, by an answer that is not too old."""
        switch = self.switch
        state = switch.known if clock() < switch.fresh_until else self.refresh()
        server = self.server
        if server is not None and server.known.mode is not Mode.READ_WRITE:
            return server.over(state)
        return state

    def refresh(self) -> State:
        """Return an answer of the switch that may be used now, with this process registered.

        It is called when the answer that is known is no longer fresh. While a watcher's thread
        looks, that is hardly ever.
        """
        worker = self._worker
        return loops.refresh(self.switch) if worker is None else worker.refresh(self.switch)

    @property
    def known(self) -> State:
        """The last answer, whatever its age: for what sleeps until the flip."""
        known, server = self.switch.known, self.server
        return known if server is None else server.over(known)

    @property
    def watched(self) -> bool:
        """True if a thread looks at the switch, whatever the traffic does."""
        worker = self._worker
        return worker is not None and worker.watcher.alive

    @property
    def spent(self) -> bool:
        """True if what is let go would wait for a connection, where it writes by one pool."""
        return False

    @property
    def mode(self) -> Mode:
        """:attr:`.Mode.READ_WRITE` or :attr:`.Mode.READ_ONLY`."""
        return self.state.mode

    @property
    def read_only(self) -> bool:
        """True while nothing may be written."""
        return self.state.mode is Mode.READ_ONLY

    def check(self) -> State:
        """Look at the switch again now, and return the state."""
        worker = self._worker
        state = self.switch.check() if worker is None else worker.check(self.switch)
        return state if self.server is None else self.server.over(state)

    def require_read_write(self) -> None:
        """Go on only if the application may write now: call it before the card is charged.

        :raises ReadOnlyError: while read-only.
        """
        state = self.state
        if state.read_only:
            raise refusals.refusal(
                "What needs to write", state, kind="beforehand", switch=self.switch
            )
        notebook_of(self.switch).note_here("What needs to write", "beforehand")

    def on_flip(
        self, callback: Callable[[State, State], object]
    ) -> Callable[[State, State], object]:
        """Have ``callback(old, new)`` called once a flip, in the thread that notices it.

        What it raises is logged, and the other callbacks are called all the same. It can be used as
        a decorator.

        :return: the callback.
        :raises ConfigurationError: if it is not callable.
        """
        if not callable(callback):
            raise ConfigurationError(f"on_flip() takes a callable, not {callback!r}.")
        self._callbacks.append(callback)
        return callback

    def wait_until(self, mode: Mode, timeout: float | None = None) -> bool:
        """Wait for a mode: for a job that would rather wait than fail.

        :param mode: the :class:`.Mode` to wait for.
        :param timeout: seconds to wait at most; None waits without end.
        :return: True if the mode is there, False if time is up.
        :raises ConfigurationError: if ``mode`` is none, which would be waited for without end.
        """
        if not isinstance(mode, Mode):
            raise ConfigurationError(
                f"wait_until() takes Mode.READ_WRITE or Mode.READ_ONLY, not {mode!r}."
            )
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pause = min(max(self.switch.ttl, 0.01), 1.0)
        while self.check().mode is not mode:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
        return True

    def check_on_signal(self, signum: int) -> None:
        """Look again soon after this process is sent a signal, such as ``signal.SIGUSR2``.

        The handler only marks the answer as old, so that the next transaction looks, or the
        watcher's thread; then it calls the handler that was there before. Call this in the main
        thread, after the server has set its own handlers (gunicorn: in ``post_worker_init``).

        :raises ConfigurationError: outside the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "check_on_signal() sets a signal handler, which only the main thread may do."
            )
        reference = weakref.ref(self)
        before = signal.getsignal(signum)

        def handle(number: int, frame: FrameType | None) -> None:
            selector = reference()
            if selector is not None:
                selector.switch.fresh_until = -math.inf
            if callable(before):
                before(number, frame)

        signal.signal(signum, handle)

    def _tell(self, old: State, new: State) -> None:
        self.held.turned()  # before callbacks, which may take their time
        for callback in tuple(self._callbacks):
            try:
                callback(old, new)
            except Exception:
                extra = of_state("callback_failed", self.switch.name, new)
                logger.exception("The on_flip() callback %r failed.", callback, extra=extra)
