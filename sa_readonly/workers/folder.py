"""The directory of a registry: opened if it is to be trusted, read, and swept.

A worker has a lock file there and, once it has reported, a report. The lock lasts as long as its
process. It is a ``flock``, as a POSIX record lock is lost as soon as any code of the process opens
the file and closes it. The price is that a forked child that does not close its copy keeps the lock
of its dead parent. That errs on the safe side: where the process is seen to be gone, it is unknown
whether the entry lives.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from ..rehearsal import sheet as sheets
from ..text import printable
from . import memory, process
from .protocol import SILENT, Liveness, RegistryError, Seen
from .reports import LIMIT, decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..rehearsal.sheet import Sheet
    from .protocol import Identify

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # without it the directory is refused

__all__ = ["LOCK", "NEW", "REPORT", "SHEET", "Folder", "try_to_lock", "why"]

LOCK, REPORT, SHEET, NEW = ".lock", ".json", ".sites", ".new"
"""What follows the name of an entry: its lock, its report, what it has noted in a rehearsal, and
one of the two that is being written."""

_NAME = re.compile(
    r"(?P<host>[A-Za-z0-9._-]{1,64})-(?P<pid>[1-9][0-9]{0,9})-(?P<place>[0-9a-f]{12})-[0-9a-f]{16}",
    re.ASCII,
)


class Folder:
    """A directory with, for each worker, a lock file and a report.

    It is made when the first worker registers, for the same group as the directory above it where
    that is shared by a group. A symlink in its place is not followed; a directory is not used if
    every user may write into it or may have put it there.

    :param path: its absolute path.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Open the directory, if it is to be trusted; yields the descriptor."""
        if fcntl is None:
            raise RegistryError(
                "A directory of workers is not supported on this platform, which has no flock(). "
                "Give workers=False."
            )
        if os.path.islink(self.path):
            raise RegistryError(
                f"The directory of workers {self.path} is a symlink, which is not followed. Give "
                "the path of the directory itself."
            )
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        directory = os.open(self.path, flags)
        try:
            doubt = _distrust(os.fstat(directory), os.stat(os.path.dirname(self.path)))
            if doubt is not None:
                raise RegistryError(f"The directory of workers {self.path} {doubt}")
            yield directory
        finally:
            os.close(directory)

    def make(self) -> None:
        """Make the directory if it is missing, for the users that share the one above it."""
        if fcntl is None:
            return
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            return
        above = os.stat(os.path.dirname(self.path))
        own = os.stat(self.path, follow_symlinks=False)
        if own.st_gid == above.st_gid and not above.st_mode & stat.S_IWOTH:
            os.chmod(self.path, 0o700 | above.st_mode & (stat.S_ISGID | stat.S_IRWXG))

    def entries(self, directory: int) -> Iterator[tuple[str, Seen]]:
        """Yield every entry by its name.

        :param directory: its descriptor.
        """
        found = os.fstat(directory)
        here = process.place()
        for name in sorted(os.listdir(directory)):
            if name.endswith(LOCK):
                stem = name.removesuffix(LOCK)
                with contextlib.suppress(FileNotFoundError):  # it has just been closed or swept
                    yield stem, _seen(directory, found, stem, here)

    def sheets(self, directory: int) -> Iterator[Sheet]:
        """Yield what each process has noted in a rehearsal."""
        for name in sorted(os.listdir(directory)):
            stem = name.removesuffix(SHEET)
            if stem != name and _NAME.fullmatch(stem):
                with contextlib.suppress(FileNotFoundError):
                    yield _sheet(directory, stem)

    def sweep(self, identify: Identify) -> None:
        """Remove dead entries; see :meth:`.Registry.sweep`."""
        with contextlib.suppress(OSError, RegistryError), self.opened() as directory:
            dead = {
                name: one
                for name, one in self.entries(directory)
                if one.liveness is Liveness.DEAD and _NAME.fullmatch(name)
            }
            # In this order: if there is no file now, they died before any later one.
            try:
                unneeded = identify() is None
            except Exception:  # noqa: BLE001  # whatever it is, it is not known that there is none
                unneeded = False
            for name, one in dead.items():
                if unneeded or one.left_nothing:
                    with contextlib.suppress(OSError):
                        _remove(directory, name)
            _sweep_orphans(directory)
            memory.sweep(_is_gone)


def try_to_lock(descriptor: int) -> bool:
    """Lock a worker's file for as long as its process has it open; False if it is locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def why(error: OSError) -> str:
    """Return what the operating system says of an error."""
    return error.strerror or str(error)


# -- what is to be trusted -------------------------------------------------------------------


def _distrust(found: os.stat_result, above: os.stat_result) -> str | None:
    """Return why a directory is not to be used, or None.

    An account that may put it there may also put the file there, and decides the mode anyway. So it
    may belong to root, to this user or to the owner of the directory above it; and to any user if
    not every user can make one there.
    """
    if found.st_mode & stat.S_IWOTH:
        return "may be written by anybody, who could remove entries. Take that away: chmod o-w."
    if found.st_uid in (0, os.geteuid(), above.st_uid) or not above.st_mode & stat.S_IWOTH:
        return None
    return (
        f"belongs to user {found.st_uid}, and anybody may have put it there. Remove it, or make "
        "root its owner."
    )


def _foreign(lock: os.stat_result, found: os.stat_result) -> str | None:
    """Return why a lock file is no worker's, or None."""
    if not stat.S_ISREG(lock.st_mode):
        return "its lock is no file; remove it"
    if found.st_mode & stat.S_IWGRP or lock.st_uid in (0, found.st_uid):
        return None
    return f"foreign: it belongs to user {lock.st_uid}, who may not register here"


# -- entries as a reader sees them -----------------------------------------------------------


def _seen(directory: int, found: os.stat_result, stem: str, here: str) -> Seen:
    """Read one entry. :raises FileNotFoundError: if there is none any more."""
    name = _NAME.fullmatch(stem)
    if name is None:
        problem = "is no entry of a worker; remove it"
        return Seen(printable(stem), Liveness.UNKNOWN, problem=problem)
    one = Seen(stem, Liveness.UNKNOWN, pid=int(name["pid"]), host=name["host"])
    try:
        descriptor = _open(directory, stem + LOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        unreadable = f"can't tell if it lives: its lock is not readable, {why(error)}"
        return replace(one, doubt=unreadable)
    try:
        lock = os.fstat(descriptor)
        doubt = _foreign(lock, found)
        if doubt is not None:
            return replace(one, doubt=doubt)
        # First whether it lives, then what it says: a dead one says nothing more.
        liveness, doubt = _liveness(descriptor, name["place"], here)
    finally:
        os.close(descriptor)
    return _with_report(directory, replace(one, liveness=liveness, doubt=doubt), lock)


def _liveness(descriptor: int, place: str, here: str) -> tuple[Liveness, str | None]:
    if place != here:
        return Liveness.UNKNOWN, "another host or process namespace: can't tell if it lives"
    try:
        # Shared: a forked child that keeps this descriptor must not make a dead one look alive.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Liveness.ALIVE, None
    except OSError as error:
        return Liveness.UNKNOWN, f"can't tell if it lives: {why(error)}"
    return Liveness.DEAD, None


def _with_report(directory: int, one: Seen, lock: os.stat_result) -> Seen:
    """Add what the report says, or why it is not believed."""
    born = None
    try:
        descriptor = _open(directory, one.name + REPORT)
        try:
            report = os.fstat(descriptor)
            content = os.read(descriptor, LIMIT + 1)
        finally:
            os.close(descriptor)
        if report.st_uid != lock.st_uid or not stat.S_ISREG(report.st_mode):
            one = replace(one, problem="its report is foreign: not a file of who holds the lock")
        else:
            one, born = decoded(one, content)
    except FileNotFoundError:
        one = replace(one, problem=SILENT)
    except OSError as error:
        one = replace(one, problem=f"its report is not readable, {why(error)}")
    except (ValueError, KeyError, TypeError, RecursionError):
        one = replace(one, problem="its report is damaged")
    if one.liveness is Liveness.ALIVE and one.pid is not None and process.is_gone(one.pid, born):
        doubt = "its process is gone, but a child of it keeps its lock: can't tell if that lives"
        return replace(one, liveness=Liveness.UNKNOWN, doubt=doubt)
    # A process that lost its lock alone may go on, until it registers anew.
    if one.liveness is Liveness.DEAD and one.pid is not None and process.has_ended(one.pid, born):
        return replace(one, at_rest=memory.is_at_rest(one.name, lock))
    return one


def _sheet(directory: int, stem: str) -> Sheet:
    """Read what a process has noted. :raises FileNotFoundError: if it has none, or has gone."""
    try:
        lock = os.stat(stem + LOCK, dir_fd=directory, follow_symlinks=False)
        descriptor = _open(directory, stem + SHEET)
        try:
            found = os.fstat(descriptor)
            content = os.read(descriptor, sheets.LIMIT + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        return sheets.Sheet(name=stem, problem=f"its notes are not readable, {why(error)}")
    if found.st_uid != lock.st_uid or not stat.S_ISREG(found.st_mode):
        return sheets.Sheet(name=stem, problem="its notes are foreign: of another user")
    return sheets.decoded(content, stem)


def _open(directory: int, name: str) -> int:
    """Open a file to be read, so that it can't block and leads nowhere else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(name, flags, dir_fd=directory)


def _is_gone(stem: str) -> bool:
    name = _NAME.fullmatch(stem)
    if name is None or name["place"] != process.place():
        return False
    return process.has_ended(int(name["pid"]), None)


# -- what is removed -------------------------------------------------------------------------


def _remove(directory: int, stem: str) -> None:
    """Remove a dead entry with its lock held, so that one that was just being made sees it."""
    descriptor = _open(directory, stem + LOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        for suffix in (LOCK, REPORT, SHEET, NEW):  # without a lock file it is no entry any more
            with contextlib.suppress(FileNotFoundError):
                os.unlink(stem + suffix, dir_fd=directory)
        memory.remove(stem)
    finally:
        os.close(descriptor)


def _sweep_orphans(directory: int) -> None:
    # Reports first, locks second: a lock is made before its reports, and its name never again.
    orphans = [name for name in os.listdir(directory) if name.endswith((REPORT, SHEET, NEW))]
    for name in orphans:
        stem = name.removesuffix(REPORT).removesuffix(SHEET).removesuffix(NEW)
        if not _NAME.fullmatch(stem):
            continue
        try:
            os.stat(stem + LOCK, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
