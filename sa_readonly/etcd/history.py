"""What operators have announced and what they did, in keys of their own beside the one that flips.

None of them is ever in the transaction of ``on`` or ``off``, and no look needs one.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ..announced import announced_in
from ..telemetry import fields
from .errors import Denied, EtcdError

if TYPE_CHECKING:
    from ..announced import FileAhead
    from ..mode import Announced
    from .records import Store

__all__ = ["EtcdAhead", "EtcdHistory"]

logger = logging.getLogger("sa_readonly")

KEPT = 1000  # lines: what `doctor` takes for growth is ten times as many revisions
_SWEPT = 20  # lines that one command deletes at most, as each is a request
_REQUEST = 5.0  # seconds for a request of a command
_PATIENCE = 1.0  # seconds for one of a worker: its next look comes after it
_PAUSE = 60.0  # seconds for which a worker that may not read what is announced does not ask again


class EtcdHistory:
    """The history of a key in etcd: one key a line, for operators alone."""

    def __init__(self, store: Store) -> None:
        self._client = store.client
        self.name = store.history

    def append(self, lines: bytes) -> None:
        """Put whole lines, each as a key, and delete the oldest where there are too many.

        :raises EtcdError: if etcd refuses a line, or does not answer.
        """
        for line in lines.splitlines():
            name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
            self._client.put(self.name + name, line, timeout=_REQUEST)
        with suppress(EtcdError):  # no line is lost by that, and the next command deletes more
            there = self._client.range(self.name, keys_only=True, timeout=_REQUEST).kvs
            oldest = sorted(there, key=lambda kv: kv.create_revision)[: max(0, len(there) - KEPT)]
            for kv in oldest[:_SWEPT]:
                self._client.delete(kv.key, timeout=_REQUEST)

    def read(self) -> list[bytes]:
        """Return the lines, the oldest first.

        :raises EtcdError: if etcd can't be asked.
        """
        there = self._client.range(self.name, timeout=_REQUEST).kvs
        return [kv.value for kv in sorted(there, key=lambda kv: kv.create_revision)]


class EtcdAhead:
    """Looks at the key in which it is announced, for a worker. It raises nothing.

    :param store: the key of the switch.
    :param host: looks at what is announced for this host alone, or None.
    """

    def __init__(self, store: Store, host: FileAhead | None) -> None:
        self._store, self._host = store, host
        self._found: Announced | None = None
        self._denied = False
        self._next = 0.0  # when it may be asked again, by time.monotonic()

    def __call__(self) -> Announced | None:
        """Return what is announced in etcd; if nothing is, for this host."""
        found = self._asked()
        return self._host() if found is None and self._host is not None else found

    def _asked(self) -> Announced | None:
        """Return what is announced in etcd, or what was known last where it can't be asked."""
        if not self._store.answers or time.monotonic() < self._next:
            return self._found
        try:
            kv = self._store.client.get(self._store.announced, timeout=_PATIENCE).kv
        except EtcdError as error:
            self._next = time.monotonic() + _PAUSE * isinstance(error, Denied)
            if isinstance(error, Denied) and not self._denied:
                self._denied = True
                logger.info(
                    "What is announced can't be read (%s): no page tells it. docs/fleet.md has the "
                    "commands that grant it.",
                    error,
                    extra=fields("announced_denied", error=str(error)),
                )
            return self._found
        self._found = None if kv is None else announced_in(kv.value)
        return self._found
