"""A report as the bytes of a file: ``{"acknowledged":1,"check":"...",...}`` and a line's end.

Its one byte after ``"acknowledged":`` is overwritten when the acknowledgement is withdrawn. The
check covers all the rest, and the name of the entry, so no damage to other bytes and no copy of
another report can acknowledge anything.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..mode import Mode
from ..text import printable
from .protocol import Connections, RegistryError, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .protocol import Seen

__all__ = ["LIMIT", "decoded", "encoded", "moment", "overwrite"]

T = TypeVar("T")

LIMIT = 4096  # bytes of a report
_FORMAT = 1
_FOREVER = 1e15  # seconds: no time is later
_MOST = 2**63  # nothing is counted so far; of a longer number Python may refuse to print a sum
_HEAD = b'{"acknowledged":'
_CONTENT = re.compile(
    re.escape(_HEAD) + rb'([01]),"check":"([0-9a-f]{32})",(.*)\}\n', re.ASCII | re.DOTALL
)


def encoded(
    name: str, acknowledged: bool, report: Report, about: Mapping[str, str | int | float | None]
) -> bytes:
    """Return a report as bytes.

    :param name: the entry's name, which goes into the check, so that a copy of another entry's
        report is damaged.
    :param about: facts of the process, see :func:`.process.about_me`.
    """
    fields = {"format": _FORMAT, **about, "written": time.time(), **asdict(report)}
    told = {name: _finite(value) for name, value in fields.items()}
    rest = json.dumps(told, default=str).encode()[1:-1]  # a mode is what its str() is
    content = b'%s%d,"check":"%s",%s}\n' % (_HEAD, acknowledged, _check(name, rest), rest)
    if len(content) > LIMIT:
        raise RegistryError(
            f"A report of {len(content)} bytes is too long: {LIMIT} are read. Is the switch's "
            "generation that long?"
        )
    return content


def overwrite(path: str) -> None:
    """Withdraw the acknowledgement in place, which takes no room on the disk.

    :raises OSError: if that can't be done; also where the file has another name, too, or is not
        this user's: what may write into the directory may have put some other file there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if found.st_nlink > 1 or found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if os.pwrite(descriptor, b"0", len(_HEAD)) != 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def decoded(one: Seen, content: bytes) -> tuple[Seen, int | None]:
    """Return an entry with what its report says, and when its process was born.

    :raises ValueError: if it is damaged; or KeyError, TypeError, RecursionError.
    """
    match = _CONTENT.fullmatch(content)
    if match is None or _check(one.name, match[3]) != match[2]:
        raise ValueError
    fields = json.loads(b"{%s}" % match[3])
    if fields["format"] != _FORMAT:
        return replace(one, problem="its report is of another version of sa_readonly"), None
    fields = {**_OLDER, **fields}
    told = {name: read(fields[name]) for name, read in _READ.items()}
    report = Report(**told)
    one = replace(
        one,
        acknowledged=match[1] == b"1" and report.may_acknowledge,
        report=report,
        program=printable(str(fields["program"])),
        version=printable(str(fields["version"])),
        started=moment(fields["started"]),
        written=moment(fields["written"]),
    )
    return one, None if fields["born"] is None else _count(fields["born"])


def _check(name: str, rest: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + rest).hexdigest()[:32].encode()


# -- the fields ------------------------------------------------------------------------------


def _finite(value: object) -> object:
    """Return what JSON has, as NaN is none."""
    return None if isinstance(value, float) and not abs(value) < _FOREVER else value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise TypeError
    return value


def moment(value: object) -> float | None:
    """Return a time of a report, in seconds since 1970; None if it tells none.

    :raises TypeError: if it is no time.
    """
    if value is None:
        return None
    if type(value) not in (int, float) or not abs(value) < _FOREVER:  # type: ignore[arg-type]  # no number but these
        raise TypeError
    return float(value)  # type: ignore[arg-type]  # int or float, see above


def _only(kind: type[T]) -> Callable[[Any], T]:
    def read(value: object) -> T:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return read


def _or_none(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else read(value)


def _by_name(read: Callable[[Any], T]) -> Callable[[Any], dict[str, T]]:
    return lambda value: {printable(name): read(one) for name, one in _only(dict)(value).items()}


def _connections(value: object) -> Connections:
    return Connections(*map(_count, _only(list)(value)))


# What a report of an older version does not tell.
_OLDER = {"server": False, "begun": 0, "begun_first": None, "begun_last": None}

_READ: dict[str, Callable[[Any], Any]] = {
    "mode": Mode,
    "generation": _or_none(_only(str)),
    "connections": _count,
    "since": moment,
    "checked": moment,
    "flips": _count,
    "refused": _count,
    "watching": _only(bool),
    "forced": _or_none(Mode),
    "kinds": _by_name(_count),
    "engines": _by_name(_connections),
    "retired": moment,
    "held": _count,
    "held_since": moment,
    "server": _only(bool),
    "begun": _count,
    "begun_first": moment,
    "begun_last": moment,
}
