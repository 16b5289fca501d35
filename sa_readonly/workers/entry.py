"""The entry of this process in a directory: its lock file and its report."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from typing import TYPE_CHECKING

from .. import forks
from . import memory, process
from .folder import LOCK, NEW, REPORT, SHEET, try_to_lock, why
from .protocol import Entry, RegistryError
from .reports import encoded, overwrite

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator, Mapping

    from .folder import Folder
    from .protocol import Identify, Report

__all__ = ["DirectoryEntry"]

_PATIENCE = 0.2  # seconds to wait for another thread: a gate may be waiting for this one
_PATIENCE_TO_REGISTER = 5.0  # seconds to wait for it to register, which no gate waits for
_NAMES = 10  # names that are tried for a new entry
_NO_FILE = (-1, -1)
_OFFSETS = 2**30  # of a lock file: above the size of most files, and in what every disk allows

# forks.py holds an entry weakly. But a selector that is collected while a connection is in use
# leaves its entry behind, and a forked child must close its copy of that lock file all the same.
_registered: set[DirectoryEntry] = set()


class DirectoryEntry(Entry):
    """The lock file and the report of one process, and of its forked children one each."""

    def __init__(self, folder: Folder, identify: Identify) -> None:
        self.name = ""
        self._folder = folder
        self._identify = identify
        self._descriptor = -1
        self._identity = _NO_FILE  # of the lock file: device and inode
        self._offset = -1  # of the open lock file, by which it is known
        self._memory: mmap.mmap | None = None
        self._about: Mapping[str, str | int | float | None] = {}
        self._lock = forks.PerProcess(threading.RLock)
        self._over = False
        self._may_acknowledge = False
        self._acknowledged = False  # whether a reader may find an acknowledgement
        self._asked_for_report = True  # whether the last question whether it stands was for that
        forks.subscribe(in_child=self._drop)

    def __repr__(self) -> str:
        return f"<DirectoryEntry {self.name}>"

    def ensure(self) -> bool:
        if self._over or self._is_whole():
            return False
        self._folder.sweep(self._identify)
        with self._locked(_PATIENCE_TO_REGISTER):
            if not self._over and not self._is_whole():  # another thread may have been here
                self._register()
            return not self._over

    def lives(self) -> bool:
        forks.follow()
        return self._over or self._is_held()

    def stands(self) -> bool:
        if self._over or not self._is_whole():
            return self._over
        # Every other time, as each question costs a stat(). A worker without a report is waited
        # for, so to miss it late is safe.
        self._asked_for_report = not self._asked_for_report
        return not self._asked_for_report or self._is_there(REPORT)

    def memory(self) -> mmap.mmap | None:
        return self._memory

    def closed(self) -> None:
        self._may_acknowledge = True

    def report(self, snapshot: Callable[[], Report]) -> None:
        with self._locked():
            if self._over:
                return
            self._require()
            may_acknowledge = self._may_acknowledge  # before it counts
            report = snapshot()
            acknowledged = may_acknowledge and report.may_acknowledge
            content = encoded(self.name, acknowledged, report, self._about)
            self._acknowledged = self._acknowledged or acknowledged
            self._write(content, REPORT)
            self._acknowledged = acknowledged

    def note(self, sheet: bytes) -> None:
        with self._locked():
            if not self._over:
                self._require()
                self._write(sheet, SHEET)

    def withdraw(self) -> None:
        with self._locked():
            if self._over:
                return
            self._may_acknowledge = False
            self._require()
            if not self._acknowledged:
                return
            path = self._path(REPORT)
            try:
                overwrite(path)
            except FileNotFoundError:
                pass
            except OSError:
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    raise RegistryError(
                        f"{path} says that this process is drained, and that can't be taken back "
                        f"({why(error)}): it stays read-only. Make the directory writable."
                    ) from error
            self._acknowledged = False

    def close(self) -> None:
        self._over = True
        # Without the lock if it can't be had: a garbage collection may call this in a thread that
        # holds it. What a report leaves then is swept.
        with contextlib.suppress(RegistryError), self._locked():
            pass
        if self._is_whole():
            for suffix in (LOCK, REPORT, SHEET):
                with contextlib.suppress(OSError):
                    os.unlink(self._path(suffix))
        if self._memory is not None:  # also where the directory has gone
            memory.remove(self.name)
        self._drop()

    # -- whether it is there ---------------------------------------------------------------

    def _is_whole(self) -> bool:
        """True if this very process is registered, and its file and descriptor are there."""
        forks.follow()
        return self._is_held() and self._is_in_place()

    def _is_in_place(self) -> bool:
        return self._is_there(LOCK, self._identity)

    def _is_there(self, suffix: str, identity: tuple[int, int] | None = None) -> bool:
        try:
            found = os.stat(self._path(suffix), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # it can't be seen now, which is no reason to make another
            return True
        return identity is None or _identity(found) == identity

    def _is_held(self) -> bool:
        # Code that makes a daemon closes all descriptors; the number of this one may then be that
        # of another file. The lock is of what was opened, and so is the offset, which nothing else
        # moves: unlike a stat(), this asks no disk, and tells it from the same file opened anew.
        try:
            return os.lseek(self._descriptor, 0, os.SEEK_CUR) == self._offset
        except OSError:
            return False

    def _require(self) -> None:
        if not self._is_whole():
            raise RegistryError(
                f"This process is not registered in {self._folder.path}, as it was forked, or "
                "its entry was removed. Nobody can wait for it; it registers at its next look."
            )

    def _path(self, suffix: str) -> str:
        return os.path.join(self._folder.path, self.name + suffix)

    @contextlib.contextmanager
    def _locked(self, patience: float = _PATIENCE) -> Iterator[None]:
        lock = self._lock()
        # It is not used as reentrant: a signal handler that withdraws in the middle of a report
        # would see it acknowledge afterwards.
        if forks.is_mine(lock):
            raise RegistryError(
                f"This thread was interrupted while it wrote into {self._folder.path}."
            )
        # Not without end, as a gate may wait for a disk that hangs.
        with forks.locked(lock, patience) as taken:
            if not taken:
                raise RegistryError(
                    f"Another thread has been writing into {self._folder.path} for {patience} s. "
                    "Is its disk slow?"
                )
            yield

    # -- registering -----------------------------------------------------------------------

    def _register(self) -> None:
        # An old entry is left to a sweep. It may be the parent's; and a reader that has listed the
        # directory already misses the new one, so it must find the old one, and believe nothing.
        if self._memory is not None:
            self._memory[0] = 1
            memory.remove(self.name)
        self._drop()
        try:
            self._enter()
        except OSError as error:
            raise RegistryError(
                f"This process can't register in {self._folder.path} ({why(error)}): nobody "
                "can wait for it. Make a directory there into which it may write."
            ) from error
        _registered.add(self)

    def _enter(self) -> None:
        self._folder.make()
        for _ in range(_NAMES):
            with self._folder.opened() as directory:
                if self._try_to_enter(directory):
                    return
        raise RegistryError(
            f"The entries of this process in {self._folder.path} are removed or locked as soon "
            "as they are made. Find who does that."
        )

    def _try_to_enter(self, directory: int) -> bool:
        mode = _file_mode(os.fstat(directory))
        self.name = f"{process.host()}-{os.getpid()}-{process.place()}-{secrets.token_hex(8)}"
        self._about = process.about_me()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._descriptor = os.open(self.name + LOCK, flags, mode, dir_fd=directory)
        entered = False
        try:
            os.fchmod(self._descriptor, mode)  # whatever the umask is
            found = os.fstat(self._descriptor)
            self._memory = memory.make(self.name, found, self._path(LOCK))
            # Until it is locked it looks dead, so a sweep may remove it. And a reader that tries
            # the lock has it for a moment, or for longer if it is stopped there.
            if try_to_lock(self._descriptor):
                self._offset = _OFFSETS + secrets.randbelow(_OFFSETS)
                os.lseek(self._descriptor, self._offset, os.SEEK_SET)
                self._identity = _identity(found)  # from now on it stands, if it is in place
                entered = self._is_in_place()
            return entered
        finally:
            if not entered:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.name + LOCK, dir_fd=directory)
                memory.remove(self.name)
                os.close(self._descriptor)
                self._descriptor, self._identity, self._offset = -1, _NO_FILE, -1
                self._memory = None

    def _drop(self) -> None:
        """Close the lock file, and never unlock it: in a child that would unlock the parent's.

        Whether a gate was closed stays: the gates of a child are as its parent's were.
        """
        if self._is_held():
            os.close(self._descriptor)
        else:
            memory.keep(self._memory)
        self._memory = None
        self._descriptor, self._identity, self._offset = -1, _NO_FILE, -1
        self._acknowledged = False
        _registered.discard(self)

    def _write(self, content: bytes, suffix: str) -> None:
        new, path = self._path(NEW), self._path(suffix)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)  # of a report that was interrupted
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            descriptor = os.open(new, flags, 0o600)
            try:
                os.fchmod(descriptor, stat.S_IMODE(os.fstat(self._descriptor).st_mode))
                if os.write(descriptor, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
            os.replace(new, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise RegistryError(
                f"The report {path} can't be written ({why(error)}): it tells nothing of what "
                "happened since. Make room, or make its directory writable."
            ) from error


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _file_mode(found: os.stat_result) -> int:
    """Return the mode of files in a directory: what may read that may read them."""
    return 0o600 | found.st_mode & (stat.S_IRGRP | stat.S_IROTH)
