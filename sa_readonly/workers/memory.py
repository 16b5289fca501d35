"""Memory that outlives its process: for each entry a file on tmpfs, mapped.

It is not in the directory of workers, which may be on a disk. There a store to mapped memory may
wait, for the journal or for a file system that is frozen for a backup; and where a file system
copies on write, a full disk would end the process (SIGBUS). On tmpfs it is a store to memory once
there is a page. Where there is no tmpfs an entry has no such memory, and nothing is known of how
its process ended.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import sys
from functools import cache
from typing import TYPE_CHECKING

from ..engines.uses import SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PLACE", "is_at_rest", "keep", "make", "remove", "sweep"]

PLACE = "/dev/shm"  # noqa: S108  # each file is new, has a name that can't be guessed and is checked
"""The directory of these files."""

_PREFIX = "sa_readonly-"
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_BEFORE = b"\1" + bytes(SIZE - 1)  # until it is known what is in use

_kept: list[mmap.mmap] = []


def make(name: str, lock: os.stat_result, lock_path: str) -> mmap.mmap | None:
    """Return the memory of an entry, or None where there can be none.

    :param name: the entry's.
    :param lock: its lock file; what may read that may read this.
    :param lock_path: the path of that, by which is known whether there still is an entry.
    """
    path = _path(name)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        if not _is_in_memory():
            return None
        content = _BEFORE + _view() + os.fsencode(lock_path)
        descriptor = os.open(path, flags, 0o600)
        try:
            # Not by ftruncate(): its pages must be there.
            if os.write(descriptor, content) != len(content):
                raise OSError
            if lock.st_gid != os.fstat(descriptor).st_gid:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, -1, lock.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(lock.st_mode))
            return _mapped(descriptor)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)
    except OSError:  # it is full, say
        return None


def keep(memory: mmap.mmap | None) -> None:
    """Keep memory for ever whose descriptor is not that of its file any more.

    Code that makes a daemon closes all descriptors. Before Python 3.13 a mapping has one and closes
    it at its end; it may be that of another file by then.
    """
    if memory is not None:
        _kept.append(memory)


def remove(name: str) -> None:
    """Remove the file of an entry; for a process that has it mapped the memory stays."""
    with contextlib.suppress(OSError):
        os.unlink(_path(name))


def is_at_rest(name: str, lock: os.stat_result) -> bool:
    """True if a process that has died says by it that none of its connections was in use.

    :param lock: the lock file of its entry.
    """
    try:
        descriptor = os.open(_path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            content = os.read(descriptor, SIZE)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    is_theirs = found.st_uid == lock.st_uid and stat.S_ISREG(found.st_mode)
    return is_theirs and content == bytes(SIZE)


def sweep(is_gone: Callable[[str], bool]) -> None:
    """Remove the files of processes whose entry has gone otherwise, with its directory, say.

    :param is_gone: whether the process is surely gone to which an entry of this name belonged.
    """
    with contextlib.suppress(OSError):
        for file in os.scandir(PLACE):
            name = file.name.removeprefix(_PREFIX)
            if name != file.name and file.is_file(follow_symlinks=False) and is_gone(name):
                with contextlib.suppress(OSError):
                    if _has_no_lock(file.path):
                        remove(name)


def _path(name: str) -> str:
    return os.path.join(PLACE, _PREFIX + name)


def _view() -> bytes:
    """Return what two processes have in common for which a path means the same file.

    Services and containers that share the place may have mounts of their own.
    """
    root = os.stat("/")
    names = os.stat("/proc/self/ns/mnt").st_ino
    return b"%d %d %d " % (names, root.st_dev, root.st_ino)


def _has_no_lock(path: str) -> bool:
    """True if the lock file of an entry has surely gone; a directory may only be shut to us."""
    told, view = _told(path), _view()
    if not told.startswith(view):
        return False
    try:
        os.lstat(told.removeprefix(view))
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


def _told(path: str) -> bytes:
    """Return what stands in the memory of this user; any user may put a file beside it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return os.pread(descriptor, 4096, SIZE)
    finally:
        os.close(descriptor)


def _mapped(descriptor: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, SIZE, trackfd=False)
    return mmap.mmap(descriptor, SIZE)


@cache
def _is_in_memory() -> bool:
    """True if files in the place are in memory and on no disk."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        lines = [line.split() for line in file]
    device = os.stat(PLACE).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(
        fields[fields.index("-") + 1] in _IN_MEMORY for fields in lines if fields[2] == number
    )
