"""What stands in etcd: the key, the marker and the entries, their names and their values.

Below ``KEY.workers/`` each process has a name of its own, and under it::

    PROCESS/NUMBER        its registration, with its last report
    PROCESS/NUMBER/ack    its acknowledgement, with the report that acknowledges
    PROCESS/alive         a hint for people, under a lease
    PROCESS/sites         what it has noted in a rehearsal, under the same lease

Of one process the highest number counts.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..announced import SUFFIX
from ..errors import ConfigurationError
from ..text import Text, parse, printable, render
from ..workers.protocol import SILENT, Liveness, Seen
from ..workers.reports import decoded, moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from .client import Client
    from .values import KeyValue

__all__ = [
    "ACK",
    "ALIVE",
    "LONGEST_FENCE",
    "MARGIN",
    "SHEET",
    "Announcement",
    "Marker",
    "Place",
    "Store",
    "acknowledged_by",
    "announced",
    "announcement",
    "marker_of",
    "numbered",
    "registration",
    "revision_of",
    "seen_of",
    "split",
]

LONGEST_FENCE = 60.0  # seconds
MARGIN = 1.1  # of a fence that is waited for, as clocks are slewed
ACK, ALIVE, SHEET = "/ack", "/alive", "/sites"
"""What follows the name of a registration, and that of a process: its hint, and its sheet."""

_FORMAT = 1
_ID = re.compile(rb"(?:\A|\n)id: ([0-9a-f]{32})\n?\Z")
_NUMBER = re.compile(r"(?P<process>[^/]+)/(?P<number>\d{8})(?P<ack>/ack)?", re.ASCII)


class Store:
    """One key in etcd, and the names of all that belongs to it.

    :param client: what asks etcd.
    :param key: it begins with a slash.
    :param urls: those of etcd: with the key, what is the same for all that ask the same one.
    :raises ConfigurationError: if ``key`` makes no sense.
    """

    def __init__(self, client: Client, key: object, urls: Sequence[str] = ()) -> None:
        if not isinstance(key, str) or not re.fullmatch(r"/[^\s\x00-\x1f]*[^\s/\x00-\x1f]", key):
            raise ConfigurationError(
                f"key is {key!r}. Give a name that begins with a slash, does not end with one and "
                'has no white space, such as "/myapp/read-only".'
            )
        self.client, self.key = client, key
        self.identity = (key, *sorted(urls))
        self.marker = f"{key}.fleet"
        self.rehearsal = f"{key}.rehearsal"
        self.workers = f"{key}.workers/"
        self.announced = f"{key}{SUFFIX}"
        self.history = f"{key}.history/"
        self.answers = True
        """False while etcd does not answer looks: what may wait for another look then waits for
        that, as what it would ask for may be asked for in the thread of a transaction."""


# -- the key ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Announcement:
    """The key as it is there.

    :param text: what people are told.
    :param generation: its identity: an edit of its text by the command is none.
    :param id: the random one that the command gave it, or None if it was put by hand.
    """

    text: Text
    generation: str
    id: str | None
    create_revision: int
    mod_revision: int


def announcement(reason: str | None, until: datetime | None, identity: str | None = None) -> bytes:
    """Return the value of a key.

    :param identity: that of the key whose text is changed; by default a new one.
    :raises ValueError: if the text is too long, is no Unicode, or would be read otherwise.
    """
    return render(reason, until) + b"id: %s\n" % (identity or secrets.token_hex(16)).encode()


def announced(kv: KeyValue) -> Announcement:
    """Read a key; any value will do."""
    match = _ID.search(kv.value)
    identity = None if match is None else match[1].decode()
    text = kv.value if match is None else kv.value[: match.start()]
    hashed = identity or hashlib.sha256(kv.value).hexdigest()[:32]
    generation = f"{hashed}-{kv.create_revision}"
    return Announcement(parse(text), generation, identity, kv.create_revision, kv.mod_revision)


def revision_of(generation: str | None) -> int | None:
    """Return the revision that created the key of a generation; None where that is of no key."""
    for part in (generation or "").split(" + "):
        if match := re.fullmatch(r"[0-9a-f]{32}-(\d+)", part):
            return int(match[1])
    return None


# -- the marker ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marker:
    """What tells that etcd's data are those in which this fleet was begun.

    :param id: a random one.
    :param cluster: etcd's id of the cluster. It alone proves nothing: where the data were lost and
        etcd was started again with its old flags, it is the same.
    :param fence: for how many seconds an answer is usable.
    :param by: the command that made it: ``init`` or ``on``, which knows no fence of workers that
        registered in what was lost.
    """

    id: str
    cluster: int
    fence: float
    by: str

    @classmethod
    def new(cls, cluster: int, fence: float, by: str) -> Marker:
        """Return another marker."""
        return cls(secrets.token_hex(16), cluster, fence, by)

    @property
    def longest_fence(self) -> float:
        """The longest fence by which a worker may go of which nothing else is known."""
        return self.fence if self.by == "init" else LONGEST_FENCE

    def encoded(self) -> bytes:
        """Return the marker as a value."""
        return json.dumps({"format": _FORMAT, **vars(self)}).encode()


def marker_of(kv: KeyValue | None) -> Marker | None:
    """Read the marker; None if there is none, or if it can't be read."""
    try:
        told = _fields(b"" if kv is None else kv.value)
        identity, cluster, fence, by = (told[name] for name in ("id", "cluster", "fence", "by"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (isinstance(identity, str) and type(cluster) is int and isinstance(by, str)):
        return None
    if type(fence) not in (int, float) or not 0 < fence <= LONGEST_FENCE:
        return None
    return Marker(identity, cluster, float(fence), by)


# -- the entries -----------------------------------------------------------------------------


class Place(NamedTuple):
    """One registration of this process.

    :param name: ``PROCESS/NUMBER``.
    :param key: its key in etcd.
    :param created: the revision that created it.
    :param fence: the fence that it tells, in seconds.
    """

    name: str
    key: str
    created: int
    fence: float


def numbered(process: str, number: int) -> str:
    """Return the name of a registration."""
    return f"{process}/{number:08d}"


def registration(fence: float, about: Mapping[str, Any], report: bytes | None) -> bytes:
    """Return the value of a registration, or of an acknowledgement.

    :param fence: the one that it tells.
    :param about: ``host``, ``pid``, ``program``, ``version``, ``started`` and ``written``.
    :param report: what :func:`.reports.encoded` made, or None before the first report.
    """
    told = None if report is None else report.decode()
    return json.dumps({"format": _FORMAT, "fence": fence, **about, "report": told}).encode()


def split(name: str) -> tuple[str, int, bool] | None:
    """Return the process, the number, and if it is an acknowledgement; None if it is neither."""
    match = _NUMBER.fullmatch(name)
    return None if match is None else (match["process"], int(match["number"]), bool(match["ack"]))


def seen_of(name: str, registered: KeyValue, acknowledged: KeyValue | None, *, alive: bool) -> Seen:
    """Return an entry as a reader sees it.

    :param name: ``PROCESS/NUMBER``.
    :param alive: whether the hint is there.
    """
    liveness = Liveness.ALIVE if alive else Liveness.LOST
    one = Seen(printable(name), liveness, problem=SILENT)
    try:
        one = _with_value(name, one, registered.value)
        if acknowledged is not None:
            told = _with_value(name, one, acknowledged.value)
            one = told if told.acknowledged else one
        elif one.acknowledged:  # only the other key acknowledges
            one = replace(one, acknowledged=False)
    except (ValueError, KeyError, TypeError, RecursionError):
        one = replace(one, liveness=Liveness.UNKNOWN, problem="its entry is damaged")
    return replace(one, name=printable(name.partition("/")[0]))


def acknowledged_by(name: str, kv: KeyValue) -> str | None:
    """Return the generation that a registration's acknowledgement is of; None if it is no such.

    :param name: ``PROCESS/NUMBER``, which a value that was copied from elsewhere does not bear out.
    """
    try:
        one = _with_value(name, Seen(name, Liveness.ALIVE), kv.value)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return one.report.generation if one.acknowledged and one.report is not None else None


def _with_value(name: str, one: Seen, value: bytes) -> Seen:
    told = _fields(value)
    pid, fence = told["pid"], told["fence"]
    # A fence that can't be is that of no worker: its longest one counts where it is not known.
    if type(pid) is not int or type(fence) not in (int, float) or not 0 <= fence <= LONGEST_FENCE:
        raise TypeError
    one = replace(
        one,
        pid=pid,
        host=printable(str(told["host"])),
        program=printable(str(told["program"])),
        version=printable(str(told["version"])),
        started=moment(told["started"]),
        written=moment(told["written"]),
        fence=float(fence),
    )
    if told["report"] is None:
        return one
    found, _ = decoded(replace(one, name=name), str(told["report"]).encode())
    return replace(found, name=one.name, problem=None if found.report else found.problem)


def _fields(value: bytes) -> dict[str, Any]:
    told = json.loads(value)
    if not isinstance(told, dict) or told["format"] != _FORMAT:
        raise ValueError
    return told
