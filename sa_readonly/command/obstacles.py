"""What a database server replies when it is asked for sessions that could still write.

What counts is whatever could still write there. On PostgreSQL that is each client's session in the
database, whatever it does, each subscription that writes into it, and each prepared transaction. On
MariaDB and MySQL it is each session that uses the database, each one without any database that has
a transaction open, replication from elsewhere, and each prepared transaction of the server, which
does not tell to which database it belongs.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field

from ..text import printable
from .probe import Prepared

TERMINATE = "SELECT pg_terminate_backend"
KILL = "KILL"
# Whose sessions they are neither this command nor the server can tell.
_READERS = (
    "Where the application reads from this same database while read-only, leave --read-write out: "
    "its sessions come back."
)
# The server can't tell which session is pgpool's: it has the client's role and application_name.
_PGPOOL = (
    "Pgpool-II in front? Send that through pgpool: at the server it cuts every client "
    "(failover_on_backend_shutdown)."
)
_QUERY = 200  # letters of a query that are told
_SECRET = re.compile(r"(password|identified).*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Obstacle:
    """Something at the server that is in the way, in the words of the server.

    :param kind: ``"session"``, ``"prepared transaction"``, ``"standby"`` if that is behind, or
        ``"question"`` if the server did not reply, or not to this role.
    :param what: what it is, in one line without its query.
    :param ends: the statement that ends it, or what else does; or an empty string.
    :param pid: the session's process or thread at the server.
    :param application_name: what the session says that it is.
    :param user: its role or account.
    :param age: seconds since it began; on MariaDB and MySQL since its state began.
    :param state: what it is doing.
    :param query: its last statement, cut short.
    """

    kind: str
    what: str
    ends: str = ""
    pid: int | None = None
    application_name: str | None = None
    user: str | None = None
    age: float | None = None
    state: str | None = None
    query: str | None = None

    @property
    def lasting(self) -> tuple[object, ...]:
        """Equal in two rounds between which nothing happened, though time has passed."""
        return (self.kind, self.pid, self.ends, self.state, self.query)

    def as_lines(self) -> list[str]:
        """Return it as lines."""
        lines = [self.what]
        if self.query:
            lines.append(f"  its query: {self.query}")
        if self.ends:
            lines.append(f"  to end it: {self.ends}")
        return [printable(line) for line in lines]


@dataclass(frozen=True)
class Reply:
    """What a server replied.

    :param obstacles: what is in the way; if there is nothing, it agrees.
    :param others: how many there are of each kind of session that does not count.
    :param replayed: whether a standby was asked, too, and has everything.
    """

    obstacles: tuple[Obstacle, ...] = ()
    others: Counter[str] = field(default_factory=Counter)
    replayed: bool = False

    @property
    def agrees(self) -> bool:
        """True if nothing is in the way."""
        return not self.obstacles

    @property
    def notes(self) -> list[str]:
        """What is there and does not count, each in a few words."""
        return [printable(f"{number} {kind}") for kind, number in self.others.items()]

    @property
    def caution(self) -> str | None:
        """What is to be known, in lines, before the statements that end sessions are sent."""
        ends = [one.ends for one in self.obstacles if one.ends.startswith((TERMINATE, KILL))]
        pgpool = any(one.startswith(TERMINATE) for one in ends)
        return "\n".join([_READERS] * bool(ends) + [_PGPOOL] * pgpool) or None

    @property
    def sums(self) -> str:
        """What is in the way, as one line."""
        counts = Counter(one.kind for one in self.obstacles)
        told = [
            f"{counts[kind]} {kind}{'s' if counts[kind] > 1 else ''}"
            for kind in ("session", "prepared transaction")
            if counts[kind]
        ]
        told += [one.what for one in self.obstacles if one.kind in ("standby", "question")]
        if told:
            return printable(", ".join(told))
        return "no session, no prepared transaction" + ", everything replayed" * self.replayed

    def as_json(self) -> dict[str, object]:
        """Return it as what :mod:`json` takes."""
        return {
            "agrees": self.agrees,
            "obstacles": [asdict(one) for one in self.obstacles],
            "notes": self.notes,
            "caution": self.caution,
            "replayed": self.replayed,
        }


def question(what: str, cure: str = "") -> Obstacle:
    """Return the obstacle that a server can't be asked, and how it can."""
    return Obstacle("question", what, cure)


def prepared(one: Prepared, note: str = "") -> Obstacle:
    """Return the obstacle that a prepared transaction is."""
    what = f"prepared transaction {one}{note}"
    return Obstacle("prepared transaction", what, one.ends, user=one.role, age=one.age)


def since(seconds: float | None) -> str:
    """Return for how long something is so, or nothing."""
    return "" if seconds is None else f" since {max(0, int(seconds))} s"


def one_line(query: str | None) -> str | None:
    """Return a query in one line, cut short, and where a password may follow, cut there."""
    shown = " ".join(_SECRET.sub(r"\1 ***", query or "").split())
    return (shown[:_QUERY] + "..." if len(shown) > _QUERY else shown) or None
