"""One look at etcd: the key, the marker and this process's own entry, as they are at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..mode import clock
from .records import ACK, acknowledged_by, announced, marker_of

if TYPE_CHECKING:
    from .records import Announcement, Marker, Place, Store

__all__ = ["Sight", "look"]


class Sight(NamedTuple):
    """What one look showed.

    :param key: the key, or None if it is not there.
    :param marker: the marker, or None if it is not there or is damaged.
    :param cluster: etcd's id of the cluster that answered.
    :param created: the revision that created the registration that was asked for; 0 without one.
    :param acknowledged: the generation that its acknowledgement is of; None without one.
    :param revision: that of the whole store.
    """

    key: Announcement | None
    marker: Marker | None
    cluster: int
    created: int
    acknowledged: str | None
    revision: int


def look(store: Store, place: Place | None, timeout: float) -> Sight:
    """Look once.

    :param place: the registration of this process, or None.
    :param timeout: seconds after which it has failed.
    :raises EtcdError: if it failed.
    """
    client, end = store.client, clock() + timeout
    first = client.get(store.key, timeout=timeout)

    # The others as they were then. Not all by one transaction: looks made so were seen to bring
    # down etcd 3.5.1 (3.5.7 has it mended), which also refuses them while its database is full.
    def left() -> float:
        return max(0.0, end - clock())

    marker = client.get(store.marker, revision=first.revision, timeout=left()).kv
    own = ack = None
    if place is not None:
        below = client.range(place.key, revision=first.revision, timeout=left()).kvs
        found = {kv.key: kv for kv in below}
        own, ack = found.get(place.key), found.get(place.key + ACK)
    return Sight(
        None if first.kv is None else announced(first.kv),
        marker_of(marker),
        first.cluster_id,
        0 if own is None else own.create_revision,
        None if place is None or ack is None else acknowledged_by(place.name, ack),
        first.revision,
    )
