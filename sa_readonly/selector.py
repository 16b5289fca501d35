"""The selector, which picks an engine by the mode and the role."""

from __future__ import annotations

import logging
import math
import sys
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.pool import QueuePool

from . import forks, refusals
from .asking import Asking
from .bind import Bind
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
    successors,
    switch_of,
    warn_of_one_url,
)
from .engines import loops, privates
from .engines.dialects import shown
from .engines.handover import NOT_READ_ONLY, GuardedEngines
from .hold.count import held
from .hold.engine import held_engine
from .hold.queue import Queue
from .hold.ticket import check_hold, check_max_held
from .mode import Mode, State, Switch
from .rehearsal.callsite import own
from .rehearsal.notes import notebook_of, wanted
from .telemetry import fields
from .workers.counts import counted
from .workers.process import myself
from .workers.protocol import Report
from .workers.worker import Worker, worker_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from typing_extensions import Self

    from .checks import AnyEngine, Engines
    from .workers.protocol import Registry, Seen

__all__ = ["EngineSelector"]

logger = logging.getLogger("sa_readonly")


class EngineSelector(Asking, Bind):
    """Picks the engine of a transaction by the mode and the role.

    It stands wherever a session takes a bind; the session must be a :class:`.RoutingSession`. It is
    a context manager, sync and async, that closes it. ::

        selector = EngineSelector(
            "/var/lib/myapp/read-only.txt",
            read_write=Engines(primary=create_engine(RW_URL), replica=create_engine(COPY_URL)),
            read_only=create_engine(RO_URL),
        )
        Session = sessionmaker(selector, class_=RoutingSession)

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
    :param max_held: how many requests and transactions may be held in this process at the same
        time, by whichever selector, when one of this one's comes; see ``hold`` of a session or a
        middleware. None means 100 where all are tasks of an event loop. Where threads wait it must
        be given: at most half of the server's threads.
    :param server_read_only: what is done where a read-write database says itself that it is
        read-only, as after a failover. ``"raise"`` raises :class:`.ReadOnlyError`, and closes the
        connection. ``"flip"`` also has this selector be read-only in this process, until a probe
        finds that the server would write. ``"error"`` leaves the driver's error as it is.
    :param rehearse: whether this process notes, while read-write, what a flip would refuse; see
        ``docs/rehearsal.md``. So does the environment variable ``SA_READONLY_REHEARSE=1``.
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
        max_held: int | None = None,
        server_read_only: Literal["raise", "error", "flip"] = "raise",
        rehearse: bool = False,
    ) -> None:
        given = given_engines(read_write, read_only)
        engines = check_engines(given)
        check_options(grace, watch, server_read_only)
        check_pooler(pooler, engines)
        rehearse = wanted(rehearse)
        self.switch = switch_of(switch)
        self._notebook = notebook_of(self.switch)
        own(sys._getframe(1))
        if rehearse:
            self._notebook.wish("process", on=True)
        self.held = Queue(self, check_max_held(max_held))
        registry = registry_of(workers, self.switch)
        required = is_required(workers, self.switch)
        warn_of_one_url(engines)
        self._registry = registry
        probes = server_read_only == "flip"
        self._worker = worker = _worker(self.switch, registry, required, probes=probes)
        self.is_async = not isinstance(given["read_write.primary"], Engine)
        self.direct = not self.is_async
        self._callbacks = []
        self.server = None
        self._changing = forks.PerProcess(threading.RLock)  # a signal handler may replace engines

        self._options: Any = {
            "grace": grace,
            "pooler": pooler,
            "server_read_only": server_read_only,
        }
        self._joins: Any = {"registry": registry, "watch": watch, "required": required}
        # All that it guards: its engines and, before them, those that they have replaced.
        self._sets: dict[GuardedEngines, Callable[[], None]] = {}
        self._engines: Mapping[Engine, AnyEngine] = {}
        self._guard(given, engines)
        self.routes: Mapping[str, Mapping[Mode, Engine]] = self._guarded.routes
        """For sessions: the sync engine by role and mode."""
        self._finalizer = weakref.finalize(self, _give_back, worker, self._sets)
        self._finalizer.atexit = False

    def _guard(self, given: Mapping[str, AnyEngine], engines: Mapping[str, Engine]) -> None:
        """Guard engines, in the place of those of until now if there are any."""
        before = next(reversed(self._sets), None)
        guarded = GuardedEngines(self.switch, engines, before=before, **self._options)
        if guarded.server is not None:
            guarded.server.told = weakref.WeakMethod(self._turned)
        primary, known = given["read_write.primary"], self._engines
        try:
            # One AsyncEngine for each engine, also for a twin that stands for several.
            as_given = {engine: like(primary, engine) for engine in guarded.engines.values()}
            as_given.update((engines[name], engine) for name, engine in given.items())
            self._engines = {**known, **as_given}
            if self._worker is not None:
                self._worker.join(self.switch, guarded, **self._joins)
            # The first one's is told of a flip for all.
            flipped = self._flipped if before is None else _nothing
            self._sets[guarded] = self.switch.subscribe(guarded.turn, flipped)
        except BaseException:
            self._engines = known
            _give_back(self._worker, {guarded: _nothing})
            raise
        self._given, self._guarded, self.server = given, guarded, guarded.server
        if before is not None and before.server is not None:
            before.server.close()  # the word of a server that was left closes nothing any more

    # -- what is told --------------------------------------------------------------------

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
            engines, retired = counted(one.engines for one in list(self._sets))
            report = Report(
                self.switch.known.mode,
                refused=sum(refused.values()),
                kinds=refused,
                engines=engines,
                retired=retired,
                **held(self.switch),
            )
            here = replace(here, report=report)
        if self._registry is None:
            here = replace(here, problem=kind_of(self.switch).unreported)
        return here

    # -- the engines ---------------------------------------------------------------------

    @property
    def spent(self) -> bool:
        """True if as many connections are out as the pool keeps by which the primary is written."""
        pool = self.routes["primary"][Mode.READ_WRITE].pool
        return isinstance(pool, QueuePool) and 0 < pool.size() <= pool.checkedout()

    def engine(self, role: str = "primary", *, hold: float | None = None) -> Any:
        """Return the engine for the mode now: ``with selector.engine().begin() as connection``.

        :param role: ``"primary"`` or ``"replica"``.
        :param hold: seconds for which a transaction of this engine may wait for read-write, in all,
            with the role ``"primary"``, if its first statement would be refused. Until that is
            there, its connection takes none of a pool. None waits for nothing.
        :return: an Engine or, where they were given, an AsyncEngine.
        :raises ConfigurationError: if there is no such role, or if ``hold`` is no number of seconds
            or needs ``max_held``.
        """
        check_role(role)
        if self._notebook.on:
            self._notebook.pick(sys._getframe(1))
        hold = check_hold("selector.engine(hold)", hold)
        if hold is not None and role == "primary":
            if not self.is_async:
                self.held.check_threads("selector.engine(hold)")
            return like(self._given["read_write.primary"], held_engine(self, hold))
        return self._engines[self.routes[role][self.state.mode]]

    def replace(self, *, read_write: Engines | AnyEngine) -> None:
        """While read-only, take other engines to write: for the next read-write time.

        They are gated first of all, and what they have idle is closed. Reads go on as before. When
        it is read-write again they are the engines of sessions, of :meth:`engine` and of a
        session's bind; where ``read_only`` was left out, it is made of them. A transaction keeps
        the connection that it has, and ``wait`` counts those of the old engines until they are
        closed. Called again, the last call counts; each process needs a call of its own.

        The engines that were replaced give out no connection any more, in either mode, until they
        are given here again or the selector is closed: code that still has one would write into the
        database that was left. An engine that another selector has, too, goes on by that one, and a
        replica that was read while read-only, too, is read on where code has kept it.

        :param read_write: the :class:`.Engines`, or a bare engine; also the same ones again.
        :raises sqlalchemy.exc.InvalidRequestError: while its switch is read-write, whatever its
            server says, or when it is closed.
        :raises ConfigurationError: if they make no sense, alone or with those of ``read_only``. One
            that is locked for reads, as a replica is, can't become a primary, nor the other way
            round: another engine of its URL can.
        """
        given = successors(read_write, self._given, is_async=self.is_async)
        self.check()
        if not self.switch.known.read_only:  # a server's word may end at any moment
            raise InvalidRequestError(NOT_READ_ONLY)
        with forks.locked(self._changing()):
            self.routes["primary"]  # one that is closed says so
            engines = check_engines(given)
            check_pooler(self._options["pooler"], engines)
            warn_of_one_url(engines)
            if given != self._given:  # a callback may give the same ones at each flip
                self._guard(given, engines)
        logger.warning(
            "sa_readonly: read_write.primary was replaced. It is %s from the flip back on.",
            primary := shown(engines["read_write.primary"]),
            extra=fields("replaced", switch=self.switch.name, engine=primary),
        )

    def close(self) -> None:
        """Give the engines back as they were. Nothing begins through the selector any more."""
        with forks.locked(self._changing()):
            self.routes = self._engines = _Closed()
        self.held.close()
        worker, self._worker = self._worker, None
        sets = list(self._sets)
        if worker is not None:
            for guarded in sets:
                worker.leave(guarded, join=True)
        self._finalizer()
        for guarded in sets:
            guarded.dispose_twins()

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

    def __repr__(self) -> str:
        kind = "" if self.is_async else "sync engines and "  # where an AsyncEngine is expected
        return f"<EngineSelector of {kind}{self.switch!r}, {self.switch.known.mode}>"

    def _flipped(self, old: State, new: State) -> None:
        refusals.remember(self.switch, new if new.read_only else old)
        try:
            for guarded in list(self._sets):
                if self._worker is None:  # a worker sweeps the retired pools; else it is done here
                    guarded.sweep()
                guarded.settle(new)
        finally:
            first = next(iter(self._sets), None)  # which is not there yet while this is being made
            if first is None or not first.closed_by_server:  # else it was read-only, and is
                self._tell(old, new)

    def _turned(self, old: State, new: State) -> None:
        refusals.remember(self.switch, new if new.read_only else old)
        if not self.switch.known.read_only:
            self._guarded.settle_server(new)
            self._tell(old, new)


class _Closed(dict[Any, Any]):
    """Takes the place of a selector's engines when it is closed."""

    def __missing__(self, key: object) -> NoReturn:
        raise InvalidRequestError("This EngineSelector is closed. Make a new one.")


def _give_back(worker: Worker | None, sets: dict[GuardedEngines, Callable[[], None]]) -> None:
    if worker is not None:
        for guarded in sets:
            worker.leave(guarded)
    for unsubscribe in sets.values():
        unsubscribe()
    for guarded in sets:
        guarded.release()


def _nothing(*_: object) -> None:
    pass


def _worker(
    switch: Switch, registry: Registry | None, required: bool, *, probes: bool
) -> Worker | None:
    """Return the worker of a switch, or None where nothing can flip and nothing is reported."""
    flips = switch.fresh_until != math.inf or switch.overridden or probes
    if registry is None and not flips:
        return None
    worker = worker_of(switch)
    worker.agree(registry, required)
    return worker


# sqlalchemy.inspect(session.bind): the tables of the mode of now.
privates.inspect_by(EngineSelector, lambda selector: inspect(selector.engine()))
