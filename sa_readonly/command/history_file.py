"""The history beside a file: lines are appended whole, or not at all, and never block a command."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator

from ..text import opened

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # without it two commands at once may lose a rotation

SUFFIX, BEFORE = ".history", ".history.1"
"""What follows the path of the file: the history, and the one before it, that was full."""

LIMIT = 1 << 20  # bytes, of which it is rotated
_READ = 2 * LIMIT  # bytes that are read at most: the last ones
_WAITS, _PAUSE = 20, 0.05  # for another command that writes a line: how often, and seconds each
_SWAPS = 5  # openings in a row during each of which another command may rotate it


class FileHistory:
    """The history beside a file.

    A line is one ``write()`` at the end. What a command that was killed left of one is ended by the
    next, so that it costs no other line.

    :param path: that of the switch's file.
    """

    def __init__(self, path: str) -> None:
        self.name = path + SUFFIX
        self._before = path + BEFORE

    def append(self, lines: bytes) -> None:
        """Append whole lines, and bring them to the disk.

        :raises OSError: if they can't be written; then none is.
        """
        with self._locked(len(lines)) as (descriptor, alone):
            end = os.fstat(descriptor).st_size
            torn = end > 0 and _read(descriptor, 1, end - 1) != b"\n"
            content = b"\n" * torn + lines
            try:
                if os.write(descriptor, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                if alone:  # else another command may have appended its own
                    with contextlib.suppress(OSError):
                        os.ftruncate(descriptor, end)
                raise

    def read(self) -> list[bytes]:
        """Return the lines, the oldest first; of a file that is too long the last ones.

        :raises OSError: if it can't be read, or is no regular file.
        """
        lines: list[bytes] = []
        for name in (self._before, self.name):
            with contextlib.suppress(FileNotFoundError):
                lines += _tail(name)
        return lines

    @contextlib.contextmanager
    def _locked(self, room: int) -> Iterator[tuple[int, bool]]:
        """Open it with room for so many bytes; yields the descriptor, and if it is locked."""
        for _ in range(_SWAPS):
            descriptor = self._open()
            try:
                alone = _lock(descriptor)
                if not self._is_it(descriptor):
                    continue  # it was rotated meanwhile
                if alone and os.fstat(descriptor).st_size + room > LIMIT:
                    os.replace(self.name, self._before)
                    continue
                yield descriptor, alone
                return
            finally:
                os.close(descriptor)
        raise OSError("it is rotated all the time")

    def _open(self) -> int:
        descriptor = opened(self.name, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        own = os.fstat(descriptor)
        if own.st_nlink > 1:
            os.close(descriptor)
            raise OSError("it has another name, too, and may be another file")
        if own.st_size == 0 and hasattr(os, "geteuid") and own.st_uid == os.geteuid():
            # For the operators that share the directory, and for no process that may only look.
            above = os.stat(os.path.dirname(self.name))
            if own.st_gid == above.st_gid and not above.st_mode & stat.S_IWOTH:
                os.fchmod(descriptor, 0o600 | above.st_mode & (stat.S_IRGRP | stat.S_IWGRP))
        return descriptor

    def _is_it(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.lstat(self.name), os.fstat(descriptor))
        except FileNotFoundError:
            return False


def _lock(descriptor: int) -> bool:
    """Lock it, or go on without: what is held for ever must not hold up a flip."""
    if fcntl is None:
        return False
    for _ in range(_WAITS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            threading.Event().wait(_PAUSE)
        else:
            return True
    return False


def _read(descriptor: int, size: int, start: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)  # what is written is appended all the same
    return os.read(descriptor, size)


def _tail(name: str) -> list[bytes]:
    descriptor = opened(name, os.O_RDONLY)
    try:
        start = max(0, os.fstat(descriptor).st_size - _READ)
        lines = _read(descriptor, _READ, start).split(b"\n")
    finally:
        os.close(descriptor)
    return [line for line in lines[start > 0 :] if line]
