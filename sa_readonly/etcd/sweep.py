"""Forgetting entries in etcd: by commands alone, and each only if it is still as it was read."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from .errors import EtcdError
from .hint import LEASE
from .records import ACK, ALIVE, split
from .registry import read
from .values import absent, delete_op, modified

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..workers.protocol import Seen
    from .records import Store
    from .registry import Reading

__all__ = ["sweep_acknowledged", "sweep_old"]

_A_DAY = 86400.0  # seconds
_REQUEST = 5.0  # seconds for a request


def sweep_acknowledged(store: Store) -> list[Seen]:
    """Forget what is lost and had acknowledged a key, without connections: by ``on``.

    The key must be there: what has acknowledged and lives still looks before it writes, and then
    registers anew.

    :return: what was forgotten.
    :raises EtcdError: if etcd can't be asked.
    """
    reading = read(store)
    if reading.key is None:
        return []
    return [
        one for name, one in _lost(reading) if one.left_nothing and _remove(store, reading, name)
    ]


def sweep_old(
    store: Store,
    tell: Callable[[str], object],
    *,
    age: float = _A_DAY,
    pause: Callable[[float], object] | None = None,
) -> list[Seen]:
    """Forget what is lost and has written nothing for a day: by ``off``, once the key is gone.

    A full etcd, or one that is defragmented, takes the hints from the living. So this grants a
    lease itself, and then looks for two lease times whether a hint comes back.

    :param tell: called with a line for each that is forgotten.
    :param age: seconds since its last write.
    :param pause: waits for so many seconds between two looks.
    :return: what was forgotten.
    :raises EtcdError: if etcd can't be asked, or grants no lease.
    """
    reading = read(store)
    if reading.key is not None:
        return []
    old = {name: one for name, one in _lost(reading) if _is_old(one, age)}
    if not old:
        return []
    wait = threading.Event().wait if pause is None else pause
    lease = store.client.grant(LEASE, timeout=_REQUEST)
    store.client.revoke(lease.id, timeout=_REQUEST)
    end = time.monotonic() + 2 * max(lease.ttl, LEASE)
    while time.monotonic() < end:
        wait(1.0)
        reading = read(store)
        if reading.key is not None:
            return []
        there = dict(_lost(reading))
        old = {name: there[name] for name in old if name in there and _is_old(there[name], age)}
        if not old:
            return []
    swept = []
    for name, one in old.items():
        if _remove(store, reading, name):
            tell(f"Forgotten: {one.program or 'a process'} pid {one.pid} on {one.host} ({name})")
            swept.append(one)
    return swept


def _is_old(one: Seen, age: float) -> bool:
    return one.written is not None and one.written < time.time() - age


def _lost(reading: Reading) -> list[tuple[str, Seen]]:
    """Return what has no hint, by the name of its registration."""
    by_process = {one.name: one for one in reading.seen}
    highest: dict[str, str] = {}
    for name in sorted(reading.entries):
        parts = split(name)
        if parts is not None and not parts[2]:
            highest[parts[0]] = name
    return [
        (name, by_process[process])
        for process, name in highest.items()
        if process in by_process and process + ALIVE not in reading.entries
    ]


def _remove(store: Store, reading: Reading, name: str) -> bool:
    """Delete an entry, and what older ones of its process left, if it is as it was read."""
    process = name.partition("/")[0]
    keys = [key for key in reading.entries if key.partition("/")[0] == process]
    compared = [modified(store.workers + key) == reading.entries[key].mod_revision for key in keys]
    if name + ACK not in keys:
        compared.append(absent(store.workers + name + ACK))
    compared.append(absent(store.workers + process + ALIVE))
    try:
        return store.client.txn(
            compared, [delete_op(store.workers + key) for key in keys], timeout=_REQUEST
        ).succeeded
    except EtcdError:  # it stays; a full etcd refuses some transactions
        return False
