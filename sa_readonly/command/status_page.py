"""What a host's status page tells, and why by that its workers are not where they should be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..mode import Mode
from ..text import printable
from ..workers.status import called
from .waiting import shortened

NOBODY_THERE = "nobody is registered there"
_UNREGISTERED = "the process that answers is not registered: nobody can wait for it"
_FORCED = "it is read-only by no file, so that nothing is known of its workers"
_SUMS = ("workers", "noticed", "drained", "died_without_a_word", "waiting", "settled")
_TEXT = 300  # letters of what a stranger says


class NoPageError(Exception):
    """There is no page that could be believed; the message tells why."""


@dataclass(frozen=True)
class StatusPage:
    """What a host's status page told. All text in it is printable.

    :param mode: its mode.
    :param generation: the identity of its file, or None.
    :param registered: whether the process that answered is registered.
    :param registry: which workers it answers for, or None if it does not tell.
    :param sums: ``workers``, ``noticed``, ``drained``, ``died_without_a_word``, ``waiting`` and
        ``settled``.
    :param reason: its operator's text, or None.
    :param until: when it is expected back, or None.
    :param whys: which workers are not there and why, or None if it does not show them.
    """

    mode: Mode
    generation: str | None
    registered: bool
    registry: str | None
    sums: dict[str, int]
    reason: str | None = None
    until: str | None = None
    whys: tuple[str, ...] | None = None

    @property
    def by_file(self) -> bool:
        """True if a file is what tells the mode, or that there is none."""
        return self.mode is Mode.READ_WRITE or self.generation is not None

    def why_not(self, mode: Mode, *, ignore_dead: bool) -> str | None:
        """Return why its workers are not in the mode, or None if they are."""
        if self.mode is not mode:
            return f"it is {self.mode}" + (f" ({self.reason})" if self.reason else "")
        if not self.by_file:
            return _FORCED
        if not self.registered:
            return _UNREGISTERED
        sums = self.sums
        if sums["workers"] == 0:
            return NOBODY_THERE
        dead = sums["died_without_a_word"]
        waiting = sums["waiting"] - (dead if ignore_dead else 0)
        if mode is Mode.READ_ONLY:  # where it matters, two sums must say so
            waiting = max(waiting, sums["workers"] - sums["drained"])
        if waiting <= 0:
            return None
        if self.whys:
            return "; ".join(shortened(self.whys))
        short = waiting - (0 if ignore_dead else dead)
        of = f"of {sums['workers']} workers"
        reached = "drained" if mode is Mode.READ_ONLY else "read-write"
        told = [f"{short} {of} {'is' if short == 1 else 'are'} not {reached}"] if short > 0 else []
        if dead and not ignore_dead:
            told.append(f"{dead} died without a word")
        return ", ".join(told)


def read_page(body: bytes, asked: str) -> StatusPage:
    """Read a page.

    :param asked: what the request had as ``asked``, which the page must repeat.
    :raises NoPageError: if it can't be believed.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise NoPageError("what answers is no JSON, whatever it says") from None
    try:
        page, repeated = _page(told), told["asked"]
    except (KeyError, TypeError, ValueError):
        raise NoPageError(
            "what answers is no status page of this version of sa_readonly: update it there, or "
            "give the URL of the page"
        ) from None
    if repeated != asked:
        raise NoPageError("the answer was made for somebody else: a cache stands between")
    return page


def _page(told: dict[str, Any]) -> StatusPage:
    sums = {name: told["sums"][name] for name in _SUMS}
    if not all(type(number) is int and number >= 0 for number in sums.values()):
        raise ValueError("no sums")
    if not isinstance(told["registered"], bool):
        raise TypeError("nothing is known")
    whys = None
    if "workers" in told:
        whys = tuple(
            f"{_called(one)}: {printable_text(one['why'])}" for one in told["workers"] if one["why"]
        )
    return StatusPage(
        Mode(told["mode"]),
        printable_text(told["generation"]),
        told["registered"],
        printable_text(told["registry"]),
        sums,
        printable_text(told["reason"]),
        printable_text(told["until"]),
        whys,
    )


def _called(one: dict[str, Any]) -> str:
    pid = None if one["pid"] is None else int(one["pid"])
    names = (printable_text(one[key]) for key in ("program", "host", "name"))
    program, host, name = names
    return called(program, pid, host, name or "")


def printable_text(told: object) -> str | None:
    """Return a text of a stranger's, in one short line that does a terminal no harm, or None.

    :raises TypeError: if it is no text.
    """
    if told is None:
        return None
    if not isinstance(told, str):
        raise TypeError("no text")
    return printable(" / ".join(told.splitlines()))[:_TEXT]
