"""Closing a connection when it is given back, and with it what is idle: its server is not trusted.

There is no event for that. A "checkin" listener stays, and one of the application's would be handed
a connection that is closed by then.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import QueuePool

from .. import forks
from . import privates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.pool import ConnectionPoolEntry, Pool

__all__ = ["EndingPool", "close_idle", "pooled"]

_SWEPT = 1.0  # seconds between two times at which a pool closes what is idle and not trusted

# Reentrant, as a garbage collection may give a connection back while it is held.
_lock = forks.PerProcess(threading.RLock)


class EndingPool(privates.ClosingPool):
    """A pool that can be told not to keep a connection that is in use."""

    _sa_readonly_hangs_up = False  # whether what it closes just now is hung up, without awaiting
    _sa_readonly_ends: Mapping[ConnectionPoolEntry, float] = {}  # since when, as wall-clock time
    _sa_readonly_hook: Callable[[ConnectionPoolEntry], None] | None = None
    # When what lies idle was closed last: by time.monotonic(), and by the wall clock.
    _sa_readonly_swept = (-math.inf, -math.inf)

    def sa_readonly_end(self, record: ConnectionPoolEntry) -> None:
        """Close a connection when it is given back, and with it what is idle and older than now.

        That is done once a second at most. What has connected since then is as good as a new one,
        and a server that stays read-only is not to be asked for connections all the time.
        """
        with _lock():
            self._sa_readonly_ends = {**self._sa_readonly_ends, record: time.time()}
            if "_do_return_conn" not in vars(self):  # else it closes all, after a dispose()
                self._do_return_conn = self._sa_readonly_hook = self._sa_readonly_returned  # type: ignore[method-assign]  # for this pool alone

    def _sa_readonly_returned(self, record: ConnectionPoolEntry) -> None:
        try:
            with _lock():
                since, closes = self._sa_readonly_take(record)
            if closes:
                self._sa_readonly_close(record, since)
        finally:
            type(self)._do_return_conn(self, record)

    def _sa_readonly_take(self, record: Any) -> tuple[float | None, bool]:
        """Decide what is closed as a record comes back.

        :return: before when an idle connection was made that is closed, None closing none of them;
            and whether the record's own is.
        """
        left = dict(self._sa_readonly_ends)
        since, now = left.pop(record, None), time.monotonic()
        swept, swept_at = self._sa_readonly_swept
        self._sa_readonly_ends, hook = left, self._sa_readonly_hook
        # Another thread may have taken it off already, which had its connection back first.
        if not left and hook is not None and vars(self).get("_do_return_conn") is hook:
            del self._do_return_conn, self._sa_readonly_hook  # a check-in is as quick as before
        if since is None or now < swept + _SWEPT:
            return None, since is not None and record.last_connect_time < swept_at
        self._sa_readonly_swept = now, time.time()
        return since, True

    def _sa_readonly_close(self, record: ConnectionPoolEntry, before: float | None) -> None:
        # Nothing is awaited meanwhile, so no task can come in between.
        self._sa_readonly_hangs_up = True
        try:
            record.close()
            if before is not None:
                close_idle(self, before)
        finally:
            self._sa_readonly_hangs_up = False


def close_idle(pool: Pool, before: float | None = None) -> None:
    """Close what is not in use, and that alone; ``Pool.dispose()`` would spoil the count.

    :param before: what has connected later stays, in wall-clock seconds.
    """
    if isinstance(pool, QueuePool):
        for record in privates.take_idle(pool, before):
            record.close()
        return
    idle: list[Any] = privates.idle_records(pool)
    for record in idle:
        if before is None or record.last_connect_time < before:
            record.close()


def pooled(connection: Any) -> tuple[Any, ConnectionPoolEntry | None]:
    """Return the pool that has given out a connection, and its record there, None if detached."""
    return getattr(connection, "_pool", None), getattr(connection, "_connection_record", None)
