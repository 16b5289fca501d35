"""A watch that hastens what reads anyway: what it tells proves nothing, and it may be silent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .errors import EtcdError

if TYPE_CHECKING:
    from .records import Store
    from .watch import Watch

__all__ = ["Changes"]

_COALESCED = 0.1  # seconds within which several changes are one
_AGAIN = 1.0  # seconds until a watch that ended is begun again
_REQUEST = 5.0  # seconds for a request


class Changes:
    """Tells that an entry has changed: for what reads each second anyway, and need not sooner.

    Used as a context manager, in which a thread follows a watch.

    :param store: the key.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed, self._over = threading.Event(), threading.Event()
        self._watch: Watch | None = None
        self._thread = threading.Thread(
            target=self._follow, name="sa_readonly changes in etcd", daemon=True
        )

    def wait(self, timeout: float) -> bool:
        """Wait until something has changed since the last call; a burst of changes is one.

        :param timeout: seconds to wait at most.
        :return: whether something has changed.
        """
        if not self._changed.wait(timeout):
            return False
        self._over.wait(min(_COALESCED, timeout))
        self._changed.clear()
        return True

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        watch = self._watch
        if watch is not None:
            watch.close()
        self._thread.join(_REQUEST)

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                # Of the entries alone, as an operator's rights are on these, and not on all that
                # begins with the key.
                with self._store.client.watch(
                    self._store.workers, prefix=True, timeout=_REQUEST
                ) as watch:
                    self._watch = watch
                    self._changed.set()  # it may have come before the watch had begun
                    for events in watch:
                        if self._over.is_set():
                            return
                        if events:
                            self._changed.set()
            except EtcdError:  # it is away, or has compacted what the watch was at
                self._watch = None
            self._over.wait(_AGAIN)
