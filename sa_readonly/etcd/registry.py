"""The registry of workers in etcd, and all of it read as it was at one moment."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from ..rehearsal.sheet import Sheet
from ..text import printable
from ..workers.protocol import Liveness, Registry, RegistryError, Seen
from .entry import EtcdEntry
from .errors import Compacted, EtcdError, FutureRevision
from .records import ALIVE, LONGEST_FENCE, announced, marker_of, seen_of, split
from .rehearsal import sheets

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..workers.protocol import Identify
    from .records import Announcement, Marker, Store
    from .values import KeyValue

__all__ = ["EtcdRegistry", "Reading", "held_by_files", "read"]

_READINGS = 10  # at most, while the revision that is read is compacted
_REQUEST = 5.0  # seconds for a request


class Reading(NamedTuple):
    """The key, the marker and all entries as they were at one revision.

    :param key: the key, or None if it is not there.
    :param marker: the marker, or None if it is not there or is damaged.
    :param cluster: etcd's id of the cluster that answered.
    :param revision: the revision.
    :param seen: every process once, by its newest registration.
    :param fence: the longest that an entry tells, in seconds; 0 without entries.
    :param entries: the keys of all entries as they are in etcd, by name below ``KEY.workers/``.
    """

    key: Announcement | None
    marker: Marker | None
    cluster: int
    revision: int
    seen: tuple[Seen, ...]
    fence: float
    entries: dict[str, KeyValue]

    @property
    def generation(self) -> str | None:
        """The generation of the key, or None if it is not there."""
        return None if self.key is None else self.key.generation

    @property
    def is_whole(self) -> bool:
        """Whether the entries are those of all workers, as far as the marker tells.

        One that ``on`` made stands in the place of one that was lost.
        """
        marker = self.marker
        return marker is not None and marker.cluster == self.cluster and marker.by == "init"

    @property
    def problem(self) -> str | None:
        """Why no worker can know that it may write, where the key is not there; or None."""
        if self.key is not None:
            return None
        if self.marker is None:
            return "the marker is missing"
        return None if self.marker.cluster == self.cluster else "the marker is of another cluster"


def read(store: Store, timeout: float = _REQUEST) -> Reading:
    """Read the key, the marker and all entries at one revision.

    :param timeout: seconds for each request.
    :raises EtcdError: if that can't be had.
    """
    for _ in range(_READINGS - 1):
        # Etcd was compacted meanwhile, or its data were changed.
        with contextlib.suppress(Compacted, FutureRevision):
            return _read(store, timeout)
    return _read(store, timeout)


def _read(store: Store, timeout: float) -> Reading:
    client = store.client
    key = client.get(store.key, timeout=timeout)
    at = key.revision
    marker = marker_of(client.get(store.marker, revision=at, timeout=timeout).kv)
    below = client.range(store.workers, revision=at, timeout=timeout).kvs
    entries = {kv.key.removeprefix(store.workers): kv for kv in below}
    seen, fence = entries_seen(entries)
    return Reading(
        None if key.kv is None else announced(key.kv),
        marker,
        key.cluster_id,
        at,
        tuple(seen),
        fence,
        entries,
    )


def entries_seen(entries: dict[str, KeyValue]) -> tuple[list[Seen], float]:
    """Return each process by its highest number, and the longest fence that one tells."""
    highest: dict[str, str] = {}
    longest = 0.0
    for name, kv in sorted(entries.items()):
        parts = split(name)
        if parts is not None and not parts[2]:
            highest[parts[0]] = name
            told = seen_of(name, kv, None, alive=True).fence
            longest = max(longest, LONGEST_FENCE if told is None else told)
    seen = [
        seen_of(name, entries[name], entries.get(f"{name}/ack"), alive=process + ALIVE in entries)
        for process, name in highest.items()
    ]
    return sorted(seen, key=lambda one: (one.host or "", one.name)), longest


def held_by_files(reading: Reading) -> list[Seen]:
    """Return what a file of its host keeps read-only, by its last report."""
    held = []
    for one in reading.seen:
        told = "" if one.report is None else one.report.generation or ""
        if any(
            part != reading.generation and "-" not in part for part in told.split(" + ") if part
        ):
            held.append(one)
    return held


def _nothing(_watching: bool) -> None:
    pass


class EtcdRegistry(Registry):
    """The entries below ``KEY.workers/``; see :mod:`.records`.

    :param store: the key.
    :param owner: what the names of this process's entries begin with.
    :param looked: whether a switch looks by the entry. Then no process counts as registered before
        a look has shown that it is: an answer that is older may be used by none, as what waits for
        the workers may have found this one missing since.
    """

    def __init__(self, store: Store, owner: str, *, looked: bool = False) -> None:
        self.name = f"{store.workers} in etcd"
        self.entry: EtcdEntry | None = None
        """The entry of this process by which a switch looks; None until it has registered."""
        self.store = store
        self.watching: Callable[[bool], None] = _nothing
        """Told whether a thread of this process watches for flips."""
        self._owner, self._looked = owner, looked
        self._unborn: EtcdEntry | None = None

    def register(self, identify: Identify) -> EtcdEntry:
        # One that was not answered may be registered all the same, at any later time: then it must
        # be an older one of the same process, which does not count.
        entry = self._unborn = self._unborn or EtcdEntry(self.store, self._owner, self._tell)
        entry.ensure()
        self.entry = entry
        if self._looked:
            with contextlib.suppress(OSError):  # a look that is in doubt is one all the same
                identify()
            if not entry.was_seen:
                raise RegistryError(
                    f"This process is registered below {self.store.workers}, and etcd has not "
                    "answered a look since: it writes nothing until it has."
                )
        self._unborn = None
        return entry

    def _tell(self, watching: bool) -> None:
        self.watching(watching)

    def sweep(self, identify: Identify) -> None:
        """Do nothing: entries are swept by commands alone, see :mod:`.operator`."""

    def read(self) -> list[Seen]:
        try:
            return list(read(self.store).seen)
        except EtcdError as error:
            problem = f"etcd can't be asked: {error}"
            return [Seen(printable(self.name), Liveness.UNKNOWN, problem=problem)]

    def sheets(self) -> list[Sheet]:
        try:
            return sheets(self.store)
        except EtcdError as error:
            return [Sheet(name=printable(self.name), problem=f"etcd can't be asked: {error}")]

    def scope(self) -> str:
        """Return a digest of the key and of the members that are asked; see :meth:`.scope`."""
        return hashlib.sha256("\0".join(self.store.identity).encode()).hexdigest()[:12]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EtcdRegistry) and self.store.identity == other.store.identity

    def __hash__(self) -> int:
        return hash(self.store.identity)

    def __repr__(self) -> str:
        return f"EtcdRegistry({self.store.key!r})"
