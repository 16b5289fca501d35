"""A small operating system in memory, in which processes can be stopped, forked and killed.

It has what a directory of workers needs of one: names and inodes, open files that a fork shares,
``flock`` with its life, memory that is mapped, and processes. `test_interleavings.py` holds it to
the kernel under the tests.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, NamedTuple

ROOT = "/srv"
FILE = f"{ROOT}/read-only.txt"
WORKERS = f"{FILE}.workers"
MEMORY = "/dev/shm"  # a name in this memory

LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN = 1, 2, 4, 8


class Stat(NamedTuple):
    """What ``stat()`` returns, as far as the package reads it."""

    st_mode: int
    st_ino: int
    st_nlink: int
    st_size: int
    st_ctime: int
    st_dev: int = 1
    st_uid: int = 0
    st_gid: int = 0

    @property
    def st_ctime_ns(self) -> int:
        return self.st_ctime

    @property
    def st_mtime_ns(self) -> int:
        return self.st_ctime


class Inode:
    """A file or directory. Its number tells which process made it, and as which of its own."""

    def __init__(self, number: int, mode: int) -> None:
        self.number, self.mode = number, mode
        self.content = bytearray()
        self.names = 1
        self.locks: dict[OpenFile, bool] = {}  # by an open file; whether it is exclusive

    def stat(self) -> Stat:
        return Stat(self.mode, self.number, self.names, len(self.content), self.number)


class OpenFile:
    """An open file: what descriptors point to, after a fork those of two processes."""

    def __init__(self, inode: Inode, path: str, number: int) -> None:
        self.inode, self.path, self.number = inode, path, number
        self.offset = 0
        self.references = 1


class Process:
    """A process: its descriptors, and a number by which what it makes is told apart."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.alive = True
        self.descriptors: dict[int, OpenFile] = {}
        self.made = 0

    def next_number(self) -> int:
        self.made += 1
        return self.pid * 10_000 + self.made


class Kernel:
    """The files and processes of one run."""

    def __init__(self) -> None:
        self.files: dict[str, Inode] = {}
        self.processes: dict[int, Process] = {}
        for number, path in enumerate((ROOT, WORKERS, MEMORY), 1):
            self.files[path] = Inode(number, stat.S_IFDIR | 0o700)

    def digest(self) -> int:
        """Return a number that is the same of two equal states."""
        return hash(
            tuple(
                (
                    path,
                    inode.number,
                    inode.mode,
                    bytes(inode.content),
                    tuple(sorted((one.number, how) for one, how in inode.locks.items())),
                )
                for path, inode in sorted(self.files.items())
            )
        )

    # -- processes -----------------------------------------------------------------------

    def start(self, pid: int) -> Process:
        self.processes[pid] = process = Process(pid)
        return process

    def fork(self, parent: Process, pid: int) -> Process:
        child = self.start(pid)
        child.descriptors = dict(parent.descriptors)
        for one in child.descriptors.values():
            one.references += 1
        return child

    def kill(self, process: Process) -> None:
        """End a process, which gives back all that it had open."""
        process.alive = False
        for number in list(process.descriptors):
            self.close(process, number)

    # -- system calls --------------------------------------------------------------------

    def _at(self, process: Process, path: Any, dir_fd: int | None) -> str:
        name = os.fsdecode(path)
        return name if dir_fd is None else f"{process.descriptors[dir_fd].path}/{name}"

    def _inode(self, path: str) -> Inode:
        try:
            return self.files[path]
        except KeyError:
            raise _error(errno.ENOENT, path) from None

    def _opened(self, process: Process, number: int) -> OpenFile:
        try:
            return process.descriptors[number]
        except KeyError:
            raise _error(errno.EBADF) from None

    def open(
        self,
        process: Process,
        path: Any,
        flags: int,
        mode: int = 0o777,
        *,
        dir_fd: int | None = None,
    ) -> int:
        name = self._at(process, path, dir_fd)
        if flags & os.O_CREAT and name not in self.files:
            if os.path.dirname(name) not in self.files:
                raise _error(errno.ENOENT, name)
            self.files[name] = Inode(process.next_number(), stat.S_IFREG | mode)
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise _error(errno.EEXIST, name)
        inode = self._inode(name)
        if flags & os.O_DIRECTORY and not stat.S_ISDIR(inode.mode):
            raise _error(errno.ENOTDIR, name)
        number = 3
        while number in process.descriptors:
            number += 1
        process.descriptors[number] = OpenFile(inode, name, process.next_number())
        return number

    def close(self, process: Process, number: int) -> None:
        one = self._opened(process, number)
        del process.descriptors[number]
        one.references -= 1
        if not one.references:
            one.inode.locks.pop(one, None)

    def flock(self, process: Process, number: int, how: int) -> None:
        one = self._opened(process, number)
        locks = one.inode.locks
        if how & LOCK_UN:
            locks.pop(one, None)
            return
        exclusive = bool(how & LOCK_EX)
        if any(other is not one and (exclusive or held) for other, held in locks.items()):
            locks.pop(one, None)  # a lock that can't be converted is lost
            raise _error(errno.EWOULDBLOCK)
        locks[one] = exclusive

    def lseek(self, process: Process, number: int, offset: int, whence: int) -> int:
        one = self._opened(process, number)
        if whence == os.SEEK_SET:
            one.offset = offset
        return one.offset

    def read(self, process: Process, number: int, length: int) -> bytes:
        one = self._opened(process, number)
        content = bytes(one.inode.content[one.offset : one.offset + length])
        one.offset += len(content)
        return content

    def pread(self, process: Process, number: int, length: int, offset: int) -> bytes:
        return bytes(self._opened(process, number).inode.content[offset : offset + length])

    def write(self, process: Process, number: int, content: bytes) -> int:
        one = self._opened(process, number)
        written = self.pwrite(process, number, content, one.offset)
        one.offset += written
        return written

    def pwrite(self, process: Process, number: int, content: bytes, offset: int) -> int:
        before = self._opened(process, number).inode.content
        before.extend(bytes(max(0, offset - len(before))))
        before[offset : offset + len(content)] = content
        return len(content)

    def fstat(self, process: Process, number: int) -> Stat:
        return self._opened(process, number).inode.stat()

    def fchmod(self, process: Process, number: int, mode: int) -> None:
        inode = self._opened(process, number).inode
        inode.mode = stat.S_IFMT(inode.mode) | mode

    def stat(
        self,
        process: Process,
        path: Any,
        *,
        dir_fd: int | None = None,
        follow_symlinks: bool = True,  # there are none
    ) -> Stat:
        return self._inode(self._at(process, path, dir_fd)).stat()

    def unlink(self, process: Process, path: Any, *, dir_fd: int | None = None) -> None:
        name = self._at(process, path, dir_fd)
        self._inode(name).names -= 1
        del self.files[name]

    def replace(self, process: Process, old: Any, new: Any) -> None:  # as the others
        inode = self._inode(old)
        if old == new:
            return
        if new in self.files:
            self.files[new].names -= 1
        self.files[new] = inode
        del self.files[old]

    def mkdir(self, process: Process, path: Any, mode: int = 0o777) -> None:
        if path in self.files:
            raise _error(errno.EEXIST, path)
        self.files[path] = Inode(process.next_number(), stat.S_IFDIR | mode)

    def listdir(self, process: Process, place: Any) -> list[str]:
        path = self._opened(process, place).path if isinstance(place, int) else place
        self._inode(path)
        start = f"{path}/"
        return sorted(
            name.removeprefix(start)
            for name in self.files
            if name.startswith(start) and "/" not in name.removeprefix(start)
        )

    def signal(self, pid: int) -> None:
        found = self.processes.get(pid)
        if found is None or not found.alive:
            raise _error(errno.ESRCH)


def _error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)
