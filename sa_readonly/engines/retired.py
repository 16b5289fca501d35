"""Old pools of an engine: what is idle in them is closed, and what is in use when it comes back.

``Engine.dispose()`` does not do that. It forgets the old pool, whose connections stay open when
they come back until a garbage collection, and its ``checkedout()`` is wrong from then on.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.pool import QueuePool

from . import loops, privates
from .checkins import close_idle
from .pools import CountedPool, count_by, forget_idle
from .readers import TwinEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, Pool

    from .pools import Ledger, Loop

__all__ = ["OldPools", "OneSet"]


class OldPools:
    """The pools that an engine had before."""

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self._engine = engine
        self._ledger = ledger
        self.retired: dict[Pool, Loop] = {}
        """Those that were retired, each with the event loop that was asked to sweep it, or None."""
        # The pools from before the engine was guarded, which count nothing, and the wall-clock
        # time at which each was retired.
        self._uncounted: dict[Pool, float] = {}

    @property
    def pools(self) -> list[Pool]:
        """All of them that may have connections out."""
        return [*self.retired, *self._uncounted]

    @property
    def uncounted(self) -> list[float]:
        """The times of retirement, one for each connection in use of a pool that did not count."""
        return [
            since
            for pool, since in list(self._uncounted.items())
            for _ in range(privates.connections_out(pool))
        ]

    def replace(self) -> None:
        """Begin with an empty pool, which can count each connection that it makes."""
        pool = self._engine.pool
        if not (privates.connections_out(pool) or privates.kept_records(pool)):
            forget_idle(self._engine)
            return
        self._engine.pool = pool.recreate()
        count_by(pool, self._ledger, privates.creator(pool))  # it closes through the ledger now
        pool._sa_readonly_retired = True  # type: ignore[attr-defined]  # it is a CountedPool
        event.listen(pool, "checkin", _close_returned)
        close_idle(pool)
        self._uncounted[pool] = time.time()

    def renew(self) -> None:
        """Have the engine go on with an empty pool; a thread that has come to the old is served."""
        pool = self._engine.pool
        self._engine.pool = pool.recreate()
        self.retire(pool, None)

    def retire(self, pool: Pool, refusal: Callable[[], Exception] | None) -> None:
        """Have a pool, which the engine has no more, keep nothing and, maybe, give out nothing.

        :param refusal: returns the error for the threads that still come to it; None serves them.
        """

        def refuse(*_: Any) -> Any:
            if refusal is not None:
                raise refusal()

        # A thread that has read ``engine.pool`` before may still come. It takes its record first
        # and looks for listeners then; so the listeners are put on before anything is counted. They
        # come with a dispatch of their own, as another thread may be walking through the old one.
        model: Any = CountedPool.recreate(pool)  # type: ignore[arg-type]  # it is one
        event.listen(model, "checkout", refuse, insert=True)
        event.listen(model, "checkin", _close_returned)
        pool.dispatch = model.dispatch
        if refusal is not None:
            privates.refuse_creation(pool, refuse)
        pool._sa_readonly_retired = True  # type: ignore[attr-defined]  # it is a CountedPool
        self.retired[pool] = None
        self._ledger.retire()
        if refusal is not None:
            self._wake(pool)

    def _wake(self, pool: Pool) -> None:
        """Let the threads that wait in a pool's queue come out, to be refused one by one."""
        if not isinstance(pool, QueuePool) or not privates.may_wait(pool):
            return
        if not self._engine.dialect.is_async:
            privates.put_ghost(pool)
        elif (loop := privates.loop_of_queue(pool)) is not None and loop.is_running():
            loops.call(loop, partial(privates.put_ghost, pool))

    def sweep(self) -> None:
        """Close what lies idle, and forget the pools that have nothing out.

        The queue of an async pool belongs to a loop; where one runs, it is swept there.
        """
        self._ledger.sweep()
        for pool in list(self._uncounted):
            if not privates.connections_out(pool):
                self._uncounted.pop(pool, None)
        for pool, asked in list(self.retired.items()):
            loop = privates.loop_of_queue(pool) or self._ledger.a_loop()
            if loop is None or not loop.is_running():
                self._sweep(pool)
            elif asked is not loop:  # else this loop was asked before, and has not come to it yet
                self.retired[pool] = loop
                loops.call(loop, partial(self._sweep, pool))

    def _sweep(self, pool: Pool) -> None:
        if pool not in self.retired:
            return
        self.retired[pool] = None
        close_idle(pool)
        if privates.connections_out(pool) == 0:
            self.retired.pop(pool, None)

    def leave(self) -> None:
        """In a forked child: know of none, as all are the parent's."""
        self.retired, self._uncounted = {}, {}


def _close_returned(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.close()


class OneSet:
    """The engines of a selector, as its worker counts them: one set, which does not leave alone."""

    engines: Mapping[str, Engine]

    outliving = 0
    """See :class:`.workers.counts.Member`: what holds a selector's engines holds it, too."""

    @property
    def sets(self) -> list[Mapping[str, Engine]]:
        """The engines by name; see :class:`.workers.counts.Member`."""
        return [self.engines]

    def rest(self) -> None:
        """Do nothing: the selector is closed when it goes."""

    def _twin(self, engine: Engine, *, gated: bool) -> TwinEngine:
        return TwinEngine(engine, gated=gated)
