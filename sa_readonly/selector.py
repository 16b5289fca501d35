"""The selector, which picks an engine by the mode and the role."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import InvalidRequestError

from . import refusals
from .checks import (
    check_engines,
    check_options,
    check_pooler,
    check_role,
    given_engines,
    is_required,
    kind_of,
    like,
    registry_of,
    switch_of,
    warn_of_one_url,
)
from .engines import loops, privates
from .engines.handover import GuardedEngines
from .errors import ConfigurationError
from .mode import Mode, State, Switch, clock
from .workers.counts import counted
from .workers.process import myself
from .workers.protocol import Report
from .workers.worker import Worker, worker_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from types import FrameType, TracebackType

    from typing_extensions import Self

    from .checks import AnyEngine, Engines
    from .workers.protocol import Registry, Seen

    # Whatever takes a bind must take a selector, and SQLAlchemy's annotations name its own
    # classes, of which it is neither an Engine nor an AsyncEngine.
    _Bind = Any
else:
    # pandas tells by it what is SQLAlchemy's, and would otherwise treat a selector as a connection
    # of SQLite's driver.
    from sqlalchemy.engine.interfaces import ConnectionEventsTarget as _Bind

__all__ = ["EngineSelector"]

logger = logging.getLogger("sa_readonly")


# What is known of an engine without a connection, and is the same in either mode: libraries read it
# of a session's bind when they are set up.
_FACTS = frozenset(("dialect", "driver", "echo", "name", "url"))


class _NoEngineError(ConfigurationError, AttributeError):
    """A selector stands where an engine is needed. To ``hasattr()`` it lacks the attribute."""


class EngineSelector(_Bind):  # type: ignore[misc]  # see _Bind
    """Picks the engine of a transaction by the mode and the role.

    It stands wherever a session takes a bind; the session must be a :class:`.RoutingSession`. It is
    a context manager, sync and async, that closes it.

    :param switch: the path of the file that means read-only, or any :class:`.Switch`.
    :param read_write: the :class:`.Engines` to use while read-write, or a bare engine.
    :param read_only: those to use while read-only, or a bare engine. None makes a second engine of
        the same database, with a pool of its own, where each transaction is read-only.
    :param grace: seconds that a read-write transaction which has begun may go on after a flip; then
        its next statement or commit raises :class:`.ReadOnlyError`, it is rolled back and its
        connection is closed. None sets no limit. What is sent past SQLAlchemy, on the driver's own
        connection, is not stopped by it.
    :param watch: whether a thread, started by the first transaction, notices a flip when no traffic
        does, so that an idle process closes its read-write connections too.
    :param workers: where this process reports itself, for ``sa-readonly wait``. True means the
        directory ``<file>.workers`` beside the file, a path another directory, False none. Any
        :class:`.Registry` will do. A process that can't register logs that as an error and goes on.
        ``"required"`` means what True does, but a process that can't register begins no read-write
        transaction.
    :param pooler: what stands between these engines and their PostgreSQL. ``"transaction"`` is a
        pooler in transaction mode, as PgBouncer has it: nothing is set for a session, each
        transaction of a read-only engine begins READ ONLY, and AUTOCOMMIT is refused there.
        ``"session"`` locks the session by a SET at each checkout. None locks it by the start-up
        packet, which poolers refuse or drop.
    :raises ConfigurationError: if a setting makes no sense; the message names it.
    """

    def __init__(
        self,
        switch: str | os.PathLike[str] | Switch,
        *,
        read_write: Engines | AnyEngine,
        read_only: Engines | AnyEngine | None = None,
        grace: float | None = None,
        watch: bool = True,
        workers: bool | str | os.PathLike[str] | Registry = True,
        pooler: Literal["transaction", "session"] | None = None,
    ) -> None:
        given = given_engines(read_write, read_only)
        engines = check_engines(given)
        check_options(grace, watch)
        check_pooler(pooler, engines)
        self.switch = switch_of(switch)
        registry = registry_of(workers, self.switch)
        required = is_required(workers, self.switch)
        warn_of_one_url(engines)
        self._registry = registry
        self._worker = worker = _worker(self.switch, registry, required)
        primary = given["read_write.primary"]
        self.is_async = not isinstance(primary, Engine)
        self._callbacks: list[Callable[[State, State], object]] = []

        self._guarded = guarded = GuardedEngines(self.switch, engines, grace=grace, pooler=pooler)
        self.routes: Mapping[str, Mapping[Mode, Engine]] = guarded.routes
        """For sessions: the sync engine by role and mode."""
        # One AsyncEngine for each engine, also for a twin that stands for several.
        as_given = {engine: like(primary, engine) for engine in guarded.engines.values()}
        as_given.update((engines[name], engine) for name, engine in given.items())
        self._engines: Mapping[tuple[Mode, str], AnyEngine] = {
            (mode, role): as_given[engine]
            for role, routes in guarded.routes.items()
            for mode, engine in routes.items()
        }
        try:
            if worker is not None:
                worker.join(self.switch, guarded, registry, watch=watch, required=required)
            unsubscribe = self.switch.subscribe(guarded.turn, self._flipped)
        except BaseException:
            _give_back(worker, None, guarded)
            raise
        self._finalizer = weakref.finalize(self, _give_back, worker, unsubscribe, guarded)
        self._finalizer.atexit = False

    # -- the mode ------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The mode, the reason and the times, by an answer that is not too old."""
        switch = self.switch
        return switch.known if clock() < switch.fresh_until else self.refresh()

    def refresh(self) -> State:
        """Return an answer that may be used now, after seeing that this process is registered.

        It is called when the answer that is known is no longer fresh. While a watcher's thread
        looks, that is hardly ever.
        """
        worker = self._worker
        return self.switch.refresh() if worker is None else worker.refresh(self.switch)

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
        return self.switch.check() if worker is None else worker.check(self.switch)

    def require_read_write(self) -> None:
        """Go on only if the application may write now: call it before the card is charged.

        :raises ReadOnlyError: while read-only.
        """
        state = self.state
        if state.read_only:
            raise refusals.refusal(
                "What needs to write", state, kind="beforehand", switch=self.switch
            )

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

    @property
    def registry(self) -> Registry | None:
        """Where this process reports itself, and the others do; None if it does not."""
        return self._registry

    def report(self) -> Seen:
        """Return what this process tells of itself. It comes from memory: no file is touched.

        Its ``problem`` says why ``sa-readonly wait`` can't wait for this process, or is None.
        """
        here, worker = myself(), self._worker
        if worker is not None:
            here = worker.tell(here, self.switch)
        else:
            refused = refusals.refusals(self.switch)
            engines, retired = counted([self._guarded.engines])
            report = Report(
                self.switch.known.mode,
                refused=sum(refused.values()),
                kinds=refused,
                engines=engines,
                retired=retired,
            )
            here = replace(here, report=report)
        if self._registry is None:
            here = replace(here, problem=kind_of(self.switch).unreported)
        return here

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

    # -- the engines ---------------------------------------------------------------------

    def engine(self, role: str = "primary") -> Any:
        """Return the engine for the mode now: ``with selector.engine().begin() as connection``.

        :param role: ``"primary"`` or ``"replica"``.
        :return: an Engine or, where they were given, an AsyncEngine.
        :raises ConfigurationError: if there is no such role.
        """
        check_role(role)
        return self._engines[self.state.mode, role]

    def close(self) -> None:
        """Give the engines back as they were. Nothing begins through the selector any more."""
        self.routes = self._engines = _Closed()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.leave(self._guarded, join=True)
        self._finalizer()
        self._guarded.dispose_twins()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await loops.in_thread(self.close)  # which waits for the watcher's thread to end

    if not TYPE_CHECKING:
        dispatch = property()  # it has no events of its own: reading it comes to __getattr__()

        def __getattr__(self, name: str) -> Any:
            if name in _FACTS:
                return getattr(self._guarded.engines["read_write.primary"], name)
            if name == "sync_engine":  # an AsyncSession asks its bind for it
                if self.is_async:
                    return self
                raise _NoEngineError(
                    "This EngineSelector has sync engines and can't serve an AsyncSession. Make "
                    "its engines with create_async_engine()."
                )
            if name not in _NAMES:
                raise AttributeError(f"'EngineSelector' object has no attribute {name!r}")
            raise _NoEngineError(
                f"An EngineSelector is no engine and has no {name}. In a session factory give "
                "class_=RoutingSession: sessionmaker(selector, class_=RoutingSession), or "
                "async_sessionmaker(selector, sync_session_class=RoutingSession). In the place of "
                "session.bind use session.connection(), and in Core selector.engine()."
            )

    def __repr__(self) -> str:
        kind = "" if self.is_async else "sync engines and "  # where an AsyncEngine is expected
        return f"<EngineSelector of {kind}{self.switch!r}, {self.switch.known.mode}>"

    def _flipped(self, old: State, new: State) -> None:
        refusals.remember(self.switch, new if new.read_only else old)
        if self._worker is None:  # a worker sweeps the retired pools; else it is done here
            self._guarded.sweep()
        for callback in tuple(self._callbacks):
            try:
                callback(old, new)
            except Exception:
                logger.exception("The on_flip() callback %r failed.", callback)


_NAMES = {
    name
    for cls in (Engine, Connection)
    for name in (*dir(cls), *cls.__annotations__)
    if not name.startswith("_")
}


class _Closed(dict[Any, Any]):
    """Takes the place of a selector's engines when it is closed."""

    def __missing__(self, key: object) -> NoReturn:
        raise InvalidRequestError("This EngineSelector is closed. Make a new one.")


def _give_back(
    worker: Worker | None, unsubscribe: Callable[[], None] | None, guarded: GuardedEngines
) -> None:
    if worker is not None:
        worker.leave(guarded)
    if unsubscribe is not None:
        unsubscribe()
    guarded.release()


def _worker(switch: Switch, registry: Registry | None, required: bool) -> Worker | None:
    """Return the worker of a switch, or None where nothing can flip and nothing is reported."""
    if switch.fresh_until == math.inf and registry is None and not switch.overridden:
        return None
    worker = worker_of(switch)
    worker.agree(registry, required)
    return worker


# sqlalchemy.inspect(session.bind): the tables of the mode of now.
privates.inspect_by(EngineSelector, lambda selector: inspect(selector.engine()))
