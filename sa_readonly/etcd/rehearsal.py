"""A rehearsal on etcd: the key that asks for one, and what the processes have noted.

``KEY.rehearsal`` is read by workers and put by an operator, in no transaction with the key. Each
process puts its sheet beside its hint, under the same lease: it goes when the process does.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from ..rehearsal.sheet import Sheet, decoded
from ..text import printable
from .errors import Denied, EtcdError
from .records import SHEET

if TYPE_CHECKING:
    from .records import Store

__all__ = ["Asking", "ask", "is_asked", "sheets"]

_EVERY = 5.0  # seconds between two questions of a worker
_DENIED = 60.0  # seconds after one that its user may not ask
_SHORT = 1.0  # seconds for a question of a worker, whose thread looks at the key as well
_REQUEST = 5.0  # seconds for a request of an operator
_NOTE = b"Processes note what a flip would refuse.\n"


class Asking:
    """Asks now and then whether there is a rehearsal.

    :param store: the key.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = -math.inf
        self._known: bool | None = None

    def __call__(self) -> bool | None:
        """Return whether there is one, as it was asked last; None if that is not known."""
        now = time.monotonic()
        if now >= self._next and self._store.answers:
            self._next = now + _EVERY
            try:
                self._known = is_asked(self._store, _SHORT)
            except Denied:
                self._known, self._next = False, now + _DENIED
            except EtcdError:
                self._known = None
        return self._known


def is_asked(store: Store, timeout: float = _REQUEST) -> bool:
    """Return whether processes are asked to rehearse.

    :raises EtcdError: if etcd can't be asked.
    """
    return store.client.get(store.rehearsal, timeout=timeout).kv is not None


def ask(store: Store, *, on: bool) -> bool:
    """Ask processes to rehearse, or no more; return whether that has changed anything.

    :raises EtcdError: if etcd refuses it.
    """
    before = is_asked(store)
    if on and not before:
        store.client.put(store.rehearsal, _NOTE, timeout=_REQUEST)
    elif before and not on:
        store.client.delete(store.rehearsal, timeout=_REQUEST)
    return before is not on


def sheets(store: Store) -> list[Sheet]:
    """Return what each process has noted.

    :raises EtcdError: if etcd can't be asked.
    """
    found = store.client.range(store.workers, timeout=_REQUEST).kvs
    names = {kv.key.removeprefix(store.workers): kv for kv in found}
    return [
        decoded(kv.value, printable(name.removesuffix(SHEET)))
        for name, kv in sorted(names.items())
        if name.endswith(SHEET)
    ]
