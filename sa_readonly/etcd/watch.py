"""A watch: what changes, as etcd tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..mode import clock
from .errors import OUT_OF_RANGE, Compacted, Denied, EtcdError, Leaderless, Unreachable, failure
from .values import Event, key_value, number

if TYPE_CHECKING:
    from .connections import Stream

__all__ = ["HEADERS", "Watch", "asked"]

# A member that has lost its leader ends the watch, which would be silent for ever otherwise.
HEADERS = {"Grpc-Metadata-hasleader": "true"}


def asked(span: dict[str, Any], start_revision: int | None) -> bytes:
    """Return the request that begins a watch."""
    if start_revision is not None:
        span = {**span, "start_revision": str(start_revision)}
    return json.dumps({"create_request": span}).encode()


class Watch:
    """What changes below a key, as a context manager and an iterator of tuples of events.

    Each step takes ``step`` seconds at most, and is an empty tuple if nothing changed. A watch may
    be silent though all is lost: it may hasten a look, and proves nothing.

    :param stream: the answer, from its beginning.
    :param deadline: by when etcd must have said that the watch has begun.
    :raises EtcdError: if it has not, or was refused.
    """

    step = 1.0

    def __init__(self, stream: Stream, deadline: float) -> None:
        self._stream = stream
        self._text = b""
        self._ready: list[dict[str, Any]] = []
        self.revision = 0
        """That of the store when the watch last told something."""
        begun = False
        try:
            message = self._message(deadline)
            if message is None:
                raise Unreachable(f"{stream.url} did not begin the watch in time.")
            self._events(message)
            begun = True
        finally:
            if not begun:
                stream.close()

    def read(self, timeout: float) -> tuple[Event, ...]:
        """Return the next events; none if nothing changes within ``timeout`` seconds.

        :raises Compacted: if the watch can't begin where it should.
        :raises Leaderless: if the member has lost its leader.
        :raises EtcdError: if the watch has ended otherwise, save by :meth:`close`.
        """
        message = self._message(clock() + timeout)
        return () if message is None else self._events(message)

    def __iter__(self) -> Iterator[tuple[Event, ...]]:
        """Yield the events of each step, until it is closed."""
        while not self._stream.closed:
            yield self.read(self.step)

    def end(self) -> None:
        """Have what reads it come to its end, from any thread and without waiting for it."""
        self._stream.end()

    def close(self) -> None:
        """End it, from any thread."""
        self._stream.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _message(self, deadline: float) -> dict[str, Any] | None:
        """Return the next message, or None if there is none in time or the watch is closed."""
        while b"\n" not in self._text:
            piece = self._stream.read(deadline)
            if piece is None and not self._stream.closed:
                if self._text:  # the last line of an answer, an error, ends with the answer
                    break
                raise Unreachable(f"The watch at {self._stream.url} has ended.")
            if not piece:
                return None
            self._text += piece
        line, _, self._text = self._text.partition(b"\n")
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        if not isinstance(told, dict) or not isinstance(told.get("result"), dict):
            raise failure(self._stream.url, 200, line)
        result: dict[str, Any] = told["result"]
        return result

    def _events(self, message: dict[str, Any]) -> tuple[Event, ...]:
        self.revision = number(message.get("header", {}), "revision") or self.revision
        if message.get("canceled"):
            raise self._cancelled(message)
        return tuple(
            Event(event.get("type") == "DELETE", key_value(event.get("kv", {})))
            for event in message.get("events", ())
        )

    def _cancelled(self, message: dict[str, Any]) -> EtcdError:
        url, revision = self._stream.url, number(message, "compact_revision")
        if revision:
            return Compacted(
                f"The watch at {url} begins before revision {revision}, the oldest that is kept.",
                code=OUT_OF_RANGE,
                revision=revision,
            )
        reason = str(message.get("cancel_reason", "no reason is told"))
        if message.get("created"):
            return Denied(f"{url} refused the watch: {reason}.")
        if "no leader" in reason:
            return Leaderless(f"{url} ended the watch: {reason}.")
        return EtcdError(f"{url} ended the watch: {reason}.")
