"""A connection that is checked out while a process rehearses."""

from __future__ import annotations

import time
import weakref
from typing import Any

from ..refusals import route_here
from .callsite import here
from .notes import Key

__all__ = ["NAME", "Held", "hold"]

NAME = "_sa_readonly_held"
"""Where a connection, as its pool gave it out, has what is known of it."""


class Held:
    """Where a connection was checked out, and how far its transaction is.

    :param proxied: the connection, as its pool gave it out.
    """

    __slots__ = (
        "__weakref__",
        "_proxied",
        "barred",
        "begun",
        "call",
        "found",
        "noted",
        "refused",
        "role",
        "route",
        "running",
        "settled",
        "since",
    )

    def __init__(self, proxied: Any) -> None:
        self._proxied = weakref.ref(proxied)
        self.call = here("connection")
        self.since = time.monotonic()
        self.route = route_here()
        self.role = "primary"
        self.running: object = None  # the cursor of the statement that runs
        self.noted = self.found = self.begun = False
        self.barred = False  # whether it would not have been given out
        self.refused = False  # whether something of its transaction would have been refused
        self.settled = False  # whether what only reads is noted, or not to be noted

    def begin(self) -> None:
        """Take note that a transaction begins."""
        self.refused, self.settled, self.running = False, self.barred, None

    @property
    def proxied(self) -> Any:
        """The connection, as its pool gave it out; None once that is collected."""
        return self._proxied()

    def is_of(self, dbapi_connection: object) -> bool:
        """True if it is of this connection of the driver's."""
        proxied = self._proxied()
        return proxied is not None and proxied.dbapi_connection is dbapi_connection

    @property
    def is_over(self) -> bool:
        """True if the connection was given back."""
        proxied = self._proxied()
        return proxied is None or proxied.dbapi_connection is None

    def key(self, kind: str) -> Key:
        """Return what it is noted by."""
        return Key(self.call.site, self.route, self.role, kind)


def hold(proxied: Any) -> Held:
    """Begin to know a connection.

    :raises AttributeError: for one of SQLAlchemy's own, which belongs to no pool.
    """
    held = proxied.__dict__[NAME] = Held(proxied)
    return held
