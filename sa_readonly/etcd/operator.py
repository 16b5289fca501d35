"""What an operator does in etcd: begin a fleet, turn it read-only, and back.

Each changes etcd by one transaction that compares what was read, so that two operators do not
undo each other unseen.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from ..announced import announced_in
from ..errors import seconds
from ..text import as_read
from .errors import EtcdError, Full, Unreachable
from .records import LONGEST_FENCE, MARGIN, Marker, announced, announcement, marker_of
from .values import KeyValue, delete_op, modified, put_op

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ..mode import Announced
    from .records import Announcement, Store
    from .values import Compare, Op

__all__ = [
    "Off",
    "On",
    "OperatorError",
    "announce",
    "init",
    "read_announced",
    "turn_off",
    "turn_on",
]

_TRIES = 10  # while other operators change the same
_FENCE = 10.0  # seconds, of a marker that is made in the place of one that was lost
_REQUEST = 5.0  # seconds for a request


class OperatorError(Exception):
    """What was asked for was not done, or it is not known whether it was."""


class _Both(NamedTuple):
    """The key and the marker, as they were at one moment."""

    key: KeyValue | None
    marker: KeyValue | None
    cluster: int


def _look(store: Store) -> _Both:
    # By no transaction, for the reason that stands at looks.look().
    key = store.client.get(store.key, timeout=_REQUEST)
    marker = store.client.get(store.marker, revision=key.revision, timeout=_REQUEST)
    return _Both(key.kv, marker.kv, key.cluster_id)


# -- init ------------------------------------------------------------------------------------


def init(store: Store, fence: object, *, pause: Callable[[float], object] = time.sleep) -> Marker:
    """Begin a fleet, or give it another fence while its key is there.

    A marker that ``on`` made tells that entries may have been lost, whose workers are waited for by
    the longest fence. Before one is put in its place that time is let pass.

    :param fence: for how many seconds a worker may use an answer.
    :param pause: waits for so many seconds.
    :return: the marker that was made.
    :raises ConfigurationError: if ``fence`` makes no sense.
    :raises OperatorError: if there is a marker, or a key, or any worker's entry; unless there are a
        key and a marker, which is renewed.
    :raises EtcdError: if etcd can't be asked.
    """
    length = seconds("fence", fence)
    if not 0 < length <= LONGEST_FENCE:
        raise OperatorError(
            f"A fence of {length:g} s makes no sense. Give one of more than three times the "
            f"workers' ttl, and of {LONGEST_FENCE:g} s at most."
        )
    waited: KeyValue | None = None
    for _ in range(_TRIES):
        both = _look(store)
        _refuse_to_begin(store, both)
        there = marker_of(both.marker)
        whole = there is not None and there.by == "init" and there.cluster == both.cluster
        if both.marker not in (None, waited) and not whole:
            waited = both.marker
            pause(MARGIN * LONGEST_FENCE)
            continue
        marker = Marker.new(both.cluster, length, "init")
        put = put_op(store.marker, marker.encoded())
        if _change(store, both, [put], "initialised"):
            return marker
    raise _raced(store)


def _refuse_to_begin(store: Store, both: _Both) -> None:
    if both.key is not None and both.marker is not None:
        return
    cure = "If workers run, `sa-readonly on` and then `off` is what makes a marker."
    if both.key is not None:
        raise OperatorError(f"{store.key} is there, so that it is read-only. {cure}")
    if both.marker is not None:
        raise OperatorError(
            f"{store.marker} is there: the fleet was initialised. Another fence can be given while "
            f"it is read-only. {cure}"
        )
    below = store.client.range(store.workers, keys_only=True, timeout=_REQUEST)
    if below.kvs:
        raise OperatorError(
            f"There are entries of workers below {store.workers}, and no marker: were etcd's data "
            f"lost? {cure}"
        )


# -- on and off ------------------------------------------------------------------------------


class On(NamedTuple):
    """What :func:`turn_on` did.

    :param key: the key that is there.
    :param made: whether it was made; if not, another operator has turned it on before.
    :param edited: whether the text of one that was there was changed.
    :param marker_made: whether the marker was missing, damaged or of another cluster, and was made.
    """

    key: Announcement
    made: bool
    edited: bool
    marker_made: bool


def turn_on(store: Store, reason: str | None = None, until: datetime | None = None) -> On:
    """Create the key, and the marker where that is missing or of another cluster.

    That the key is there already is no error. Then the text is changed, if one is given; what is
    not given stays.

    :param reason: a text for people.
    :param until: when you expect to be done; a naive time is local time.
    :raises ValueError: if the text is too long, is no Unicode, or would be read otherwise.
    :raises OperatorError: if etcd's database is full, if it is not known whether it was done, or if
        others change the same all the time.
    :raises EtcdError: if etcd refuses it otherwise.
    """
    for _ in range(_TRIES):
        both = _look(store)
        there = None if both.key is None else announced(both.key)
        puts: list[Op] = []
        value = _value(there, reason, until)
        if value is not None:
            puts.append(put_op(store.key, value))
        marker = marker_of(both.marker)
        makes_marker = marker is None or marker.cluster != both.cluster
        if makes_marker:
            puts.append(put_op(store.marker, Marker.new(both.cluster, _FENCE, "on").encoded()))
        if not puts and there is not None:
            return On(there, made=False, edited=False, marker_made=False)
        revision = _change(store, both, puts, "turned read-only")
        if revision:
            made, edited = there is None, there is not None and value is not None
            if value is not None:
                created = revision if both.key is None else both.key.create_revision
                there = announced(KeyValue(store.key, value, created, revision, 0, 0))
            if there is not None:
                return On(there, made, edited, makes_marker)
    raise _raced(store)


def _value(there: Announcement | None, reason: str | None, until: datetime | None) -> bytes | None:
    """Return the value to put, or None if the one that is there may stay."""
    if there is None:
        return announcement(reason, until)
    text = there.text
    reason = text.reason if reason is None else as_read(reason)
    until = until or text.until
    if (reason, until) == (text.reason, text.until):
        return None
    return announcement(reason, until, there.id)


class Off(NamedTuple):
    """What :func:`turn_off` did.

    :param key: the key that was deleted, or None if there was none.
    :param plainly: whether it was deleted without a comparison, as etcd's database is full.
    """

    key: Announcement | None
    plainly: bool = False


def turn_off(store: Store) -> Off:
    """Delete the key. That there is none is no error.

    :raises OperatorError: if it is not known whether it was deleted, or if others change the key
        all the time.
    :raises EtcdError: if etcd refuses it.
    """
    for _ in range(_TRIES):
        kv = store.client.get(store.key, timeout=_REQUEST).kv
        if kv is None:
            return Off(None)
        there = announced(kv)
        try:
            # No put in any branch: a full etcd refuses a transaction for that alone.
            answer = store.client.txn(
                [modified(store.key) == kv.mod_revision],
                [delete_op(store.key)],
                timeout=_REQUEST,
            )
            if answer.succeeded:
                return Off(there)
        except Full:
            try:
                deleted = store.client.delete(store.key, prev=True, timeout=_REQUEST).prev_kvs
            except Unreachable as error:
                raise _unanswered(store, error) from error
            return Off(announced(deleted[0]) if deleted else None, plainly=True)
        except Unreachable as error:
            raise _unanswered(store, error) from error
    raise _raced(store)


# -- what is announced -----------------------------------------------------------------------


def announce(store: Store, content: bytes | None) -> None:
    """Put what is announced, or delete it. It is no part of any transaction.

    :raises OperatorError: if it is not known whether it was done.
    :raises EtcdError: if etcd refuses it.
    """
    try:
        if content is None:
            store.client.delete(store.announced, timeout=_REQUEST)
        else:
            store.client.put(store.announced, content, timeout=_REQUEST)
    except Unreachable as error:
        if not error.may_be_done:
            raise
        raise OperatorError(
            f"It is not known whether {store.announced} was changed: etcd has not answered "
            f"({error}) Look with `sa-readonly status`."
        ) from error


def read_announced(store: Store) -> Announced | None:
    """Return what is announced; None if nothing is, or its text is none.

    :raises EtcdError: if etcd can't be asked.
    """
    kv = store.client.get(store.announced, timeout=_REQUEST).kv
    return None if kv is None else announced_in(kv.value)


# -- how it is done --------------------------------------------------------------------------


def _change(store: Store, both: _Both, puts: list[Op], what: str) -> int:
    """Put, unless the key or the marker has changed; return the revision, or 0 if one has."""
    compared: list[Compare] = [
        modified(store.key) == (0 if both.key is None else both.key.mod_revision),
        modified(store.marker) == (0 if both.marker is None else both.marker.mod_revision),
    ]
    try:
        answer = store.client.txn(compared, puts, timeout=_REQUEST)
        return answer.revision if answer.succeeded else 0
    except Full as error:
        raise OperatorError(
            f"{store.key} can't be {what}: {error} Compact it, defragment it and disarm the alarm. "
            "In an emergency deleting the marker turns the whole fleet read-only, as a full etcd "
            f"deletes: etcdctl del {store.marker}"
        ) from error
    except Unreachable as error:
        if not error.may_be_done:
            raise
        raise OperatorError(
            f"It is not known whether {store.key} was {what}: etcd has not answered ({error}) It "
            "may be done at any later time, until the member that was asked was restarted. Look "
            "with `sa-readonly status`."
        ) from error


def _unanswered(store: Store, error: Unreachable) -> EtcdError | OperatorError:
    if not error.may_be_done:
        return error
    return OperatorError(
        f"It is not known whether {store.key} was deleted: etcd has not answered ({error}) It may "
        "still be deleted later, also where it is that of the next `sa-readonly on`, until the "
        "member that was asked was restarted."
    )


def _raced(store: Store) -> OperatorError:
    return OperatorError(
        f"Other operators change {store.key} or {store.marker} all the time. Find who does that, "
        "and try again."
    )
