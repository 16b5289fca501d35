"""What is sent to etcd's JSON gateway, and what it answers.

Keys and values travel in base64, integers of 64 bits as strings, and what is zero or empty is left
out.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Alarm",
    "Answer",
    "Compare",
    "Event",
    "KeyValue",
    "Lease",
    "Member",
    "Op",
    "TxnAnswer",
    "absent",
    "created",
    "delete_op",
    "get_op",
    "modified",
    "put_op",
]


# -- what is asked ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a transaction: made by :func:`get_op`, :func:`put_op`, :func:`delete_op`.

    :param kind: ``range``, ``put`` or ``delete_range``.
    :param body: as the gateway takes it.
    """

    kind: str
    body: Mapping[str, Any]

    @property
    def writes(self) -> bool:
        """Whether it would change anything."""
        return self.kind != "range"

    def asked(self) -> dict[str, Any]:
        """The operation as a part of a transaction."""
        return {f"request_{self.kind}": self.body}


@dataclass(frozen=True, slots=True)
class Compare:
    """One comparison of a transaction: ``created(key) == 7``, ``modified(key) == 9``."""

    body: Mapping[str, Any]


class _Field:
    """A number that a key has; compared with another one it makes a :class:`Compare`."""

    __hash__ = None  # type: ignore[assignment]  # it equals nothing

    def __init__(self, key: str, target: str) -> None:
        self._key, self._target = key, target

    def __eq__(self, number: object) -> Compare:  # type: ignore[override]  # as in SQLAlchemy
        if not isinstance(number, int):
            return NotImplemented
        return self._compare("EQUAL", number)

    def __gt__(self, number: int) -> Compare:
        return self._compare("GREATER", number)

    def _compare(self, result: str, number: int) -> Compare:
        target = self._target
        return Compare(
            {
                "key": encoded(self._key),
                "target": target.removesuffix("_revision").upper(),
                "result": result,
                target: str(number),
            }
        )


def created(key: str) -> _Field:
    """The revision that created the key; 0 where there is none."""
    return _Field(key, "create_revision")


def modified(key: str) -> _Field:
    """The revision of the key's last write; 0 where there is none."""
    return _Field(key, "mod_revision")


def absent(key: str) -> Compare:
    """The comparison that holds where there is no such key."""
    return created(key) == 0


def get_op(
    key: str, *, prefix: bool = False, revision: int | None = None, keys_only: bool = False
) -> Op:
    """Read a key, or all keys below a prefix."""
    body = span(key, prefix=prefix)
    if revision is not None:
        body["revision"] = str(revision)
    if keys_only:
        body["keys_only"] = True
    return Op("range", body)


def put_op(key: str, value: str | bytes, *, lease: int | None = None) -> Op:
    """Write a key; without a lease it is no longer under the one that it may have had."""
    body: dict[str, Any] = {"key": encoded(key), "value": encoded(value)}
    if lease is not None:
        body["lease"] = str(lease)
    return Op("put", body)


def delete_op(key: str, *, prefix: bool = False, prev: bool = False) -> Op:
    """Delete a key, or all keys below a prefix.

    :param prev: whether the answer has what was deleted.
    """
    body = span(key, prefix=prefix)
    if prev:
        body["prev_kv"] = True
    return Op("delete_range", body)


def span(key: str, *, prefix: bool) -> dict[str, Any]:
    """Return the part of a request that names a key, or all keys that begin with it."""
    if not prefix:
        return {"key": encoded(key)}
    first = _bytes(key)
    return {"key": encoded(first or b"\0"), "range_end": encoded(_end_of(first))}


def _end_of(prefix: bytes) -> bytes:
    """The first key past all that begin with the prefix."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def _bytes(text: str | bytes) -> bytes:
    # A key that was put by hand may be no UTF-8, and must be found again by what was read.
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def encoded(text: str | bytes) -> str:
    """Return a key or value as the gateway takes it."""
    return b64encode(_bytes(text)).decode("ascii")


# -- what is answered ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key, its value and its revisions.

    :param lease: the id of its lease; 0 for none.
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int

    @property
    def text(self) -> str:
        """The value as text; what is no UTF-8 in it is replaced."""
        return self.value.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one operation.

    :param revision: that of the whole store, when it was asked.
    :param cluster_id: of the cluster; it outlives the data.
    :param kvs: what was read, by key.
    :param count: how many keys there are in what was read.
    :param deleted: how many keys were deleted.
    :param prev_kvs: what was deleted, if that was asked for.
    """

    revision: int
    cluster_id: int
    kvs: tuple[KeyValue, ...] = ()
    count: int = 0
    deleted: int = 0
    prev_kvs: tuple[KeyValue, ...] = ()

    @property
    def kv(self) -> KeyValue | None:
        """The one that was read, or None if it is not there."""
        return self.kvs[0] if self.kvs else None


@dataclass(frozen=True, slots=True)
class TxnAnswer:
    """The answer to a transaction: whether the comparisons held, and an answer for each operation.

    The header of each of its ``answers`` is that of the transaction.
    """

    succeeded: bool
    answers: tuple[Answer, ...]
    revision: int
    cluster_id: int


@dataclass(frozen=True, slots=True)
class Event:
    """What a watch saw: a key put, or deleted (then ``kv`` has no value)."""

    deleted: bool
    kv: KeyValue


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease, and for how many seconds it was granted: etcd may give more than was asked for."""

    id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Member:
    """What one member says of itself. Neither its quota nor whether it compacts can be asked for.

    :param url: where it was asked.
    :param trouble: why it can't serve, in etcd's words or those of the error; "" if it can.
    :param version: of the server; "" if it did not answer, as all that follows.
    :param leader: the id of the member that it takes for the leader; 0 for none.
    :param db_size: bytes of its database's file, which its quota is for.
    :param db_size_in_use: bytes of that which a defragmentation would leave.
    """

    url: str
    trouble: str
    version: str = ""
    member_id: int = 0
    leader: int = 0
    db_size: int = 0
    db_size_in_use: int = 0


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm of a member, such as NOSPACE or CORRUPT."""

    member_id: int
    kind: str


def key_value(told: Mapping[str, Any]) -> KeyValue:
    """Return a key as the gateway tells it."""
    return KeyValue(
        b64decode(told.get("key", "")).decode("utf-8", "surrogateescape"),
        b64decode(told.get("value", "")),
        *(number(told, name) for name in ("create_revision", "mod_revision", "version", "lease")),
    )


def number(told: Mapping[str, Any], name: str) -> int:
    """Return a number of an answer, where zero is left out."""
    return int(told.get(name, 0))


def _header(told: Mapping[str, Any]) -> tuple[int, int]:
    header = told.get("header", {})
    return number(header, "revision"), number(header, "cluster_id")


def answer_of(told: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> Answer:
    """Return the answer to one operation."""
    return Answer(
        *_header(told if header is None else header),
        kvs=tuple(map(key_value, told.get("kvs", ()))),
        count=number(told, "count"),
        deleted=number(told, "deleted"),
        prev_kvs=tuple(map(key_value, told.get("prev_kvs", ()))),
    )


def txn_answer_of(told: Mapping[str, Any]) -> TxnAnswer:
    """Return the answer to a transaction."""
    parts: list[Mapping[str, Any]]
    parts = [next(iter(part.values()), {}) for part in told.get("responses", ())]
    return TxnAnswer(
        bool(told.get("succeeded", False)),
        tuple(answer_of(part, told) for part in parts),
        *_header(told),
    )


def txn_of(
    compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op]
) -> dict[str, Any]:
    """Return a transaction as the gateway takes it."""
    return {
        "compare": [one.body for one in compare],
        "success": [op.asked() for op in success],
        "failure": [op.asked() for op in failure],
    }
