"""One look at etcd: the key, the marker and this process's own entry, as they are at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .errors import Full
from .records import ACK, acknowledged_by, announced, marker_of
from .values import get_op

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
    names = [store.key, store.marker]
    if place is not None:
        names += [place.key, place.key + ACK]
    client = store.client
    try:
        answer = client.txn([], [get_op(name) for name in names], timeout=timeout)
        found = [one.kv for one in answer.answers]
        cluster, revision = answer.cluster_id, answer.revision
    except Full:
        # etcd 3.5.1 refuses every transaction while its database is full, but no plain read.
        first = client.get(store.key, timeout=timeout)
        cluster, revision = first.cluster_id, first.revision
        found = [first.kv]
        found += [client.get(name, revision=revision, timeout=timeout).kv for name in names[1:]]
    key, marker, own, ack = (*found, None, None)[:4]
    return Sight(
        None if key is None else announced(key),
        marker_of(marker),
        cluster,
        0 if own is None else own.create_revision,
        None if place is None or ack is None else acknowledged_by(place.name, ack),
        revision,
    )
