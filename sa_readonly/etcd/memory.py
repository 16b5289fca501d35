"""What one process remembers of etcd, and what it makes of a look."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .looks import Sight
    from .records import Announcement, Marker, Place, Store

__all__ = ["Judgement", "Memory"]


class Judgement(NamedTuple):
    """What a look means.

    :param key: the key that is there, or None.
    :param unknown: without a key, why it is not known all the same that the application may write;
        None if it is.
    :param lost: whether the registration that this process has is not there.
    :param place: the registration by which it looked.
    :param early: whether it was overtaken by an acknowledgement on its way: then nothing is known
        by it but that the key is not there.
    """

    key: Announcement | None
    unknown: str | None
    lost: bool
    place: Place | None
    early: bool = False

    @property
    def may_write(self) -> bool:
        """True if the application may write."""
        return not (self.key or self.unknown or self.lost or self.early)


class Memory:
    """The marker that this process has taken, and the last key that it saw.

    Etcd's data may be lost, or be those of a snapshot: then its cluster id and its revisions are as
    they were. What tells it is the marker and, since a snapshot has the same one, this process's
    acknowledgement of a key that it saw. Nothing but the key itself ends the doubt.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.marker: Marker | None = None
        self._last: str | None = None  # the generation of the last key
        self._doubtful = False  # until a key is there

    def judge(
        self,
        sight: Sight,
        place: Place | None,
        *,
        acknowledged: str | None,
        withdrawing: bool,
        early: bool,
    ) -> Judgement:
        """Take in what a look showed, and say what it means.

        :param place: the registration that was asked for, or None.
        :param acknowledged: the generation of which an acknowledgement of this process may be
            there, or None.
        :param withdrawing: whether a look before this one has shown that it was there, and that the
            key was gone.
        :param early: whether an acknowledgement was put while this look was on its way.
        """
        lost = place is not None and sight.created != place.created
        marker = sight.marker
        mine = marker is not None and marker.cluster == sight.cluster
        if sight.key is not None:
            self._last, self._doubtful = sight.key.generation, False
            if mine:
                self.marker = marker
            return Judgement(sight.key, None, lost, place)
        unknown = self._why_unknown(sight)
        missing = self._is_in(acknowledged) and not self._is_in(sight.acknowledged)
        if missing and not (unknown or lost or withdrawing):
            if early:
                return Judgement(None, None, lost, place, early=True)
            self._doubtful = True
        if unknown is None and self._doubtful:
            unknown = (
                f"{self._store.key} is gone from etcd together with this process's acknowledgement "
                "of it: was an older snapshot restored?"
            )
        return Judgement(None, unknown, lost, place)

    def _is_in(self, acknowledged: str | None) -> bool:
        """True if what was acknowledged is the last key, perhaps beside a file."""
        return self._last is not None and self._last in (acknowledged or "").split(" + ")

    def _why_unknown(self, sight: Sight) -> str | None:
        name, marker, taken = self._store.marker, sight.marker, self.marker
        if marker is None:
            if taken is None:
                return f"{name} is not in etcd: it was never initialised, or its data were lost"
            return f"{name} is gone from etcd: were its data lost?"
        if marker.cluster != sight.cluster:
            return f"{name} is of another cluster than etcd now: were its data lost or moved?"
        if taken is not None and marker.id != taken.id:
            return f"{name} is another one than before: were etcd's data lost?"
        self.marker = marker  # the first that is seen, or the same
        return None
