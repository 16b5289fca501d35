"""The operator's text, a reason and a line ``until: <ISO 8601 time>``, and the file it is in."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigurationError

if TYPE_CHECKING:
    from .mode import State

__all__ = [
    "LIMIT",
    "Text",
    "absolute",
    "as_read",
    "described",
    "has_offset",
    "head",
    "opened",
    "parse",
    "parse_time",
    "printable",
    "read",
    "remove",
    "render",
    "write",
]

LIMIT = 4096  # bytes of a text that are read

_TIME = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T ]([01]\d|2[0-3])(?::?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?"
    r" ?(?:(Z)|([+-]\d\d)(?::?(\d\d))?)?)?",
    re.ASCII | re.IGNORECASE,
)


class Text(NamedTuple):
    """What the operator wrote."""

    reason: str | None = None
    until: datetime | None = None


def parse(content: bytes) -> Text:
    """Read a text; any bytes will do. The first line that is a good ``until`` is cut out."""
    until = None
    lines = []
    # Notepad puts a mark before the text.
    for line in content[:LIMIT].decode("utf-8-sig", "replace").splitlines():
        key, _, value = line.partition(":")
        if until is None and key.strip().lower() == "until":
            until = parse_time(value.strip())
            if until is not None:
                continue
        lines.append(line)
    return Text("\n".join(lines).strip() or None, until)


def as_read(reason: str | None) -> str | None:
    """Return a reason as it is read back from a text, or None if nothing is left of it."""
    return "\n".join((reason or "").splitlines()).strip() or None


def parse_time(text: str) -> datetime | None:
    """Read a time, in UTC; without an offset it is local time. None if it is no time.

    It is spelled out for ``datetime.fromisoformat()``, which reads other forms in each Python.
    """
    if not (match := _TIME.fullmatch(text)):
        return None
    year, month, day, hour, minute, second, fraction, utc, offset, offset_minute = match.groups("")
    date = f"{year}-{month}-{day}"
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}.{fraction[:6]:0<6}"
    zone = "+00:00" if utc else f"{offset}:{offset_minute or '00'}" if offset else ""
    try:
        return datetime.fromisoformat(f"{date}T{clock}{zone}").astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):  # no such day, or out of range
        return None


def has_offset(text: str) -> bool:
    """True if a time that :func:`parse_time` reads says in which time zone it is."""
    match = _TIME.fullmatch(text)
    return match is not None and bool(match[8] or match[9])


def render(reason: str | None, until: datetime | None) -> bytes:
    """Return the text that :func:`parse` reads back.

    :raises ValueError: if it is too long, is no Unicode, or would be read otherwise.
    """
    reason = (reason or "").strip()
    if parse(reason.encode()).until is not None:
        raise ValueError("reason has a line that would be read as until. Give until= instead.")
    lines = [reason] if reason else []
    if until is not None:
        try:
            line = f"until: {until.astimezone().isoformat()}"
        except (ValueError, OverflowError, OSError):
            line = ""
        if parse(line.encode()).until is None:
            raise ValueError(f"until is out of range: {until!r}.")
        lines.append(line)
    content = "".join(f"{line}\n" for line in lines).encode()
    if len(content) > LIMIT:
        raise ValueError(f"reason is too long: {len(content)} bytes, of which {LIMIT} are read.")
    return content


# -- in the file -----------------------------------------------------------------------------


def absolute(path: object) -> str:
    """Return the path of the operator's file, made absolute, or refuse one that can't be meant."""
    try:
        name = os.fspath(path)  # type: ignore[call-overload]  # what is no path raises TypeError
        os.fsencode(name)
    except (TypeError, UnicodeEncodeError):
        name = None
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigurationError(
            f"FileSwitch(path) takes the path of a file as a string or os.PathLike, not {path!r}."
        )
    if name != name.strip():
        raise ConfigurationError(
            f"The path {name!r} begins or ends with white space. A file without it would never be "
            "seen: strip what was read from a file or a variable."
        )
    absolute = os.path.abspath(name)
    if os.pardir in name.split(os.sep):
        # abspath() strikes out ".." with the name before it, which is wrong after a symlink.
        absolute = os.path.join(os.getcwd(), name)
    directory = os.path.dirname(absolute)
    try:
        found = os.stat(directory)
    except (FileNotFoundError, NotADirectoryError):
        found = None
    except OSError:  # it can't be looked at now, which the first look says
        return absolute
    if found is None or not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(
            f"The directory {directory} of the file {absolute} does not exist. A mistyped path "
            "would mean read-write for ever: create the directory, or correct the path."
        )
    return absolute


def read(path: str) -> tuple[Text, str | None]:
    """Read the text of a file, or say why not, where that could block or show another file."""
    try:
        real = os.path.realpath(path, strict=True)
        home = os.path.realpath(os.path.dirname(path))
        if os.path.commonpath((real, home)) != home:
            raise OSError(f"it leads out of its directory, to {real}")
        return parse(head(real)), None
    except (OSError, ValueError) as error:
        return Text(), f"has a text that is not read ({error})."


def head(path: str) -> bytes:
    """Return the first :data:`LIMIT` bytes of a regular file.

    :raises OSError: if it can't be read, or is anything else.
    """
    descriptor = opened(path, os.O_RDONLY)
    try:
        return os.read(descriptor, LIMIT)
    finally:
        os.close(descriptor)


def opened(path: str, flags: int, mode: int = 0o644) -> int:
    """Open a regular file so that it can't block and, whatever its name is, leads nowhere else.

    :raises OSError: if it can't be opened, or is anything else.
    """
    for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no regular file")
    return descriptor


def write(path: str, content: bytes) -> None:
    """Write the file beside its place, bring it to the disk and rename it.

    So no process reads half of it, and a crash leaves the old file or the new one.
    """
    directory = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(prefix=".sa_readonly-", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o644)  # every process must be able to read the reason
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync(directory)


def remove(path: str) -> None:
    """Remove the file, for good; none there is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    _sync(os.path.dirname(path))


def _sync(directory: str) -> None:
    """Bring a directory to the disk: until then a name in it may not outlive a crash."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows can't open one
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # it may be written into and yet not be listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without fsync for directories
            raise
    finally:
        os.close(descriptor)


# -- where it is shown -----------------------------------------------------------------------


def described(state: State) -> str:
    """Return the reason and the time of a read-only state, for a log record."""
    reason = "no reason given" if state.reason is None else f"reason {state.reason!r}"
    return reason if state.until is None else f"{reason}, until {state.until.isoformat()}"


def printable(text: str) -> str:
    """Return a line of text in which what could steer a terminal is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
