"""The hint that a process is there: a key under a lease, for people.

Nothing stands on it. A leader of etcd that was stopped and wakes, or one that is defragmented, was
seen to drop leases that had just been renewed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .. import forks
from ..workers.protocol import RegistryError
from .errors import EtcdError
from .records import ALIVE, SHEET

if TYPE_CHECKING:
    from .records import Store
    from .values import Lease

__all__ = ["LEASE", "Hint"]

LEASE = 10  # seconds for which the hint stays when it is not renewed
_REQUEST = 1.0  # seconds for a request


class Hint:
    """The hint of this process.

    :param store: the key.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._forget()
        forks.subscribe(in_child=self._forget)

    def _forget(self) -> None:
        self._lease: Lease | None = None  # a child leaves its parent's alone
        self._renewed = 0.0
        self._sheet: bytes | None = None

    def renew(self, process: str) -> None:
        """Keep the hint there, if it is due; what can't be done is tried again the next time.

        :param process: the name of the process.
        """
        now, lease = time.monotonic(), self._lease
        if lease is not None and now < self._renewed + lease.ttl / 3:
            return
        client = self._store.client
        try:
            if lease is not None and client.keepalive(lease.id, timeout=_REQUEST) > 0:
                self._renewed = now
                return
            lease = client.grant(LEASE, timeout=_REQUEST)
            key = self._store.workers + process + ALIVE
            client.put(key, b"", lease=lease.id, timeout=_REQUEST)
            if self._sheet is not None:  # it went with the lease of before
                self._put_sheet(process, self._sheet, lease)
        except EtcdError:
            self._lease = None
        else:
            self._lease, self._renewed = lease, now

    def note(self, process: str, sheet: bytes) -> None:
        """Put what the process has noted in a rehearsal beside the hint, as long as that is there.

        :raises RegistryError: if it is not put.
        """
        self._sheet, lease = sheet, self._lease
        if lease is None:
            return
        try:
            self._put_sheet(process, sheet, lease)
        except EtcdError as error:
            raise RegistryError(f"etcd does not take {process}{SHEET}: {error}") from error

    def _put_sheet(self, process: str, sheet: bytes, lease: Lease) -> None:
        key = self._store.workers + process + SHEET
        self._store.client.put(key, sheet, lease=lease.id, timeout=_REQUEST)

    def end(self) -> None:
        """Take the hint away, as far as etcd can be asked."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                self._store.client.revoke(lease.id, timeout=_REQUEST)
            except EtcdError:
                return
