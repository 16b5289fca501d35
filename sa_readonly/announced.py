"""What is announced: that it will be read-only, from when and until when. No mode changes by it.

Its text is that of the file, with one more line, ``from: <ISO 8601 time>``.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from .mode import Announced, Switch
from .text import LIMIT, head, parse, parse_time, render

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from .mode import State

__all__ = [
    "SUFFIX",
    "Ahead",
    "FileAhead",
    "announced_in",
    "as_json",
    "content_of",
    "in_words",
    "with_announced",
]

_PAUSE = 0.95  # seconds between two looks, of a thread that comes once a second

SUFFIX = ".announced"
"""What follows the path of the file, or the key, where it is announced."""


def announced_in(content: bytes) -> Announced | None:
    """Read a text; None if no good time stands in its first line."""
    first, _, rest = content[:LIMIT].partition(b"\n")
    key, _, value = first.decode("utf-8-sig", "replace").partition(":")
    time = parse_time(value.strip())
    if key.strip().lower() != "from" or time is None:
        return None
    text = parse(rest)
    return Announced(time, text.until, text.reason)


def content_of(announced: Announced) -> bytes:
    """Return the text that :func:`announced_in` reads back.

    :raises ValueError: if it is too long, is no Unicode, or would be read otherwise.
    """
    content = f"from: {announced.time.isoformat()}\n".encode()
    content += render(announced.reason, announced.until)
    if len(content) > LIMIT:
        raise ValueError(f"reason is too long: {len(content)} bytes, of which {LIMIT} are read.")
    return content


def in_words(announced: Announced, shown: Callable[[datetime], str] | None = None) -> str:
    """Return what is announced in words.

    :param shown: how a time is told; by default as ISO 8601 has it.
    """
    tell = shown or datetime.isoformat
    until = "" if announced.until is None else f" until {tell(announced.until)}"
    reason = "" if announced.reason is None else f": {announced.reason}"
    return f"read-only from {tell(announced.time)}{until}{reason}"


def as_json(announced: Announced | None) -> dict[str, object] | None:
    """Return what is announced as what :mod:`json` takes."""
    if announced is None:
        return None
    return {
        "time": announced.time.isoformat(),
        "until": None if announced.until is None else announced.until.isoformat(),
        "reason": announced.reason,
    }


class FileAhead:
    """Looks at the file in which it is announced, by one ``stat()`` where it stays as it was.

    :param path: that of the switch's file.
    """

    def __init__(self, path: str) -> None:
        self.path = path + SUFFIX
        self._seen: tuple[int, ...] | None = None
        self._found: Announced | None = None

    def __call__(self) -> Announced | None:
        """Return what is announced; None if nothing is, or it can't be read."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError:
            self._seen = self._found = None
            return None
        seen = (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            try:
                self._found = announced_in(head(self.path))
                self._seen = seen
            except OSError:  # `doctor` tells; it is tried again, as descriptors may be short
                self._seen = self._found = None
        return self._found


class Ahead(Switch):
    """A switch that tells what is announced beside its answer."""

    known: State
    _ahead: Callable[[], Announced | None] | None = None  # looks; it raises nothing
    _ahead_at = -math.inf  # when the next look is due, by time.monotonic()
    _ahead_rarer = 1.0  # times _PAUSE between two looks, where each is a request
    _state: Callable[[], AbstractContextManager[object]]  # held while ``known`` is replaced

    def look_ahead(self) -> None:
        """Look whether anything is announced; see :meth:`.Switch.look_ahead`."""
        moment = time.monotonic()
        if self._ahead is None or self.forced is not None or moment < self._ahead_at:
            return
        self._ahead_at = moment + _PAUSE * self._ahead_rarer
        announced = self._ahead()
        with self._state():
            if self.forced is None:
                self.known = with_announced(self.known, announced)


def with_announced(state: State, announced: Announced | None) -> State:
    """Return a state that tells what is announced, too: no look at the switch brings that.

    What is over is told no more.
    """
    announced = None if announced is None or announced.over else announced
    return state if state.announced == announced else replace(state, announced=announced)
