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
    _sa_readonly_swept = -math.inf

    def sa_readonly_end(self, record: ConnectionPoolEntry) -> None:
        """Close a connection when it is given back, and with it what is idle and older than now."""
        with _lock():
            self._sa_readonly_ends = {**self._sa_readonly_ends, record: time.time()}
            if "_do_return_conn" not in vars(self):  # else it closes all, after a dispose()
                self._do_return_conn = self._sa_readonly_hook = self._sa_readonly_returned  # type: ignore[method-assign]  # for this pool alone

    def _sa_readonly_returned(self, record: ConnectionPoolEntry) -> None:
        try:
            with _lock():
                since, sweeps = self._sa_readonly_take(record)
            if since is not None:
                self._sa_readonly_close(record, since if sweeps else None)
        finally:
            type(self)._do_return_conn(self, record)

    def _sa_readonly_take(self, record: ConnectionPoolEntry) -> tuple[float | None, bool]:
        """Return since when a record is not trusted, and whether those that are idle are closed."""
        left = dict(self._sa_readonly_ends)
        since, now = left.pop(record, None), time.monotonic()
        self._sa_readonly_ends = left
        if not left and vars(self).get("_do_return_conn") is self._sa_readonly_hook:
            del self._do_return_conn, self._sa_readonly_hook  # a check-in is as quick as before
        sweeps = since is not None and now >= self._sa_readonly_swept + _SWEPT
        if sweeps:
            self._sa_readonly_swept = now
        return since, sweeps

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
