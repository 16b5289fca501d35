"""A registry of workers that is a directory.

A lock that lives as long as the process says that it lives. It is a ``flock``, not a POSIX record
lock: that is lost as soon as any code of the process opens the file and closes it. The price is
that a forked child that does not close its copy keeps the lock of its dead parent. That errs on the
safe side, and where the process is seen to be gone the entry is believed no more.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import socket
import stat
import sys
import threading
import time
import uuid
from dataclasses import asdict, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigurationError
from ..mode import Mode
from .protocol import (
    SILENT,
    Connections,
    Liveness,
    RegistryError,
    Report,
    Seen,
    left_nothing,
    may_be_acknowledged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .protocol import Identify

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["DirectoryEntry", "DirectoryRegistry"]

_T = TypeVar("_T")
_FORMAT = 1
_LIMIT = 4096  # bytes of a report
_COUNTED = 0.25  # seconds between two reports that differ only in what was refused
_MINOR = 10.0  # seconds between two that differ only in connections no verdict depends on
_RENEWED = 30.0  # seconds after which one that tells nothing new tells that somebody still looks
_PATIENCE = 0.2  # seconds to wait for another thread: a gate may be waiting
_PATIENCE_OF_A_LOOK = 5.0  # the same, where none is
_FOREVER = 1e15  # seconds: no time is later
_NAMES = 10  # names tried by a worker
_INITIAL_NAMESPACE = 0xEFFFFFFC  # the inode of Linux's first process namespace

_NAME = re.compile(
    r"(?P<host>[A-Za-z0-9._-]{1,64})-(?P<pid>[1-9][0-9]{0,9})-(?P<place>[0-9a-f]{12})-[0-9a-f]{16}",
    re.ASCII,
)
_LOCK, _REPORT, _NEW = ".lock", ".json", ".new"


class DirectoryRegistry:
    """A directory with, for each worker, a lock file and a report.

    It is made when the first worker registers, for the same group as the directory above it where
    that is shared by a group. A symlink in its place is not followed; one that anybody may write
    into, or may have put there, is not used.

    :param path: the path of the directory; made absolute now.
    :raises ConfigurationError: if ``path`` is no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path = os.path.abspath(os.fsdecode(path))
            valid = bool(os.fspath(path)) and "\0" not in self.path
        except (TypeError, UnicodeError):
            valid = False
        if not valid:
            raise ConfigurationError(
                f"workers takes the path of a directory, True or False, not {path!r}."
            )

    def register(self, identify: Identify) -> DirectoryEntry:
        """Register this process; see :meth:`.Registry.register`."""
        entry = DirectoryEntry(self, identify)
        entry.ensure()
        return entry

    def sweep(self, identify: Identify) -> None:
        """Remove dead entries; see :meth:`.Registry.sweep`. What can't be removed stays."""
        with contextlib.suppress(OSError, RegistryError), self._opened() as directory:
            dead = {
                name: one
                for name, one in self._entries(directory)
                if one.liveness is Liveness.DEAD and _NAME.fullmatch(name)
            }
            # In this order: who is dead by now, and there is no file, died before any later one.
            try:
                unneeded = identify() is None
            except Exception:  # noqa: BLE001  # whatever it is, it is not known that there is none
                unneeded = False
            for name, one in dead.items():
                if unneeded or left_nothing(one):
                    with contextlib.suppress(OSError):
                        _remove(directory, name)
            self._sweep_orphans(directory)

    def _sweep_orphans(self, directory: int) -> None:
        # Reports first, locks second: a lock is made before its reports, and its name never again.
        orphans = [name for name in os.listdir(directory) if name.endswith((_REPORT, _NEW))]
        for name in orphans:
            stem = name.removesuffix(_REPORT).removesuffix(_NEW)
            if not _NAME.fullmatch(stem):
                continue
            try:
                os.stat(stem + _LOCK, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)

    def read(self) -> list[Seen]:
        """Return every entry; see :meth:`.Registry.read`."""
        try:
            with self._opened() as directory:
                return [one for _, one in self._entries(directory)]
        except FileNotFoundError:
            return []
        except (OSError, RegistryError) as error:
            problem = str(error) if isinstance(error, RegistryError) else _told(error)
            return [Seen(_printable(self.path), Liveness.UNKNOWN, problem=problem)]

    def scope(self) -> str:
        """Return a digest of which directory it is; see :class:`.Registry`.

        Whose locks mean another thing reads other entries in the same directory.
        """
        try:
            found = os.stat(self.path)
            identity = f"{found.st_dev} {found.st_ino}"
        except OSError:
            identity = self.path
        return _digest(_text("/proc/sys/kernel/random/boot_id"), _place(), identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DirectoryRegistry) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"DirectoryRegistry({self.path!r})"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the directory, if it is to be trusted."""
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

    def _make(self) -> None:
        """Make the directory if it is missing, for whom the one above it is meant for."""
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            return
        above = os.stat(os.path.dirname(self.path))
        own = os.stat(self.path, follow_symlinks=False)
        if own.st_gid == above.st_gid and not above.st_mode & stat.S_IWOTH:
            os.chmod(self.path, 0o700 | above.st_mode & (stat.S_ISGID | stat.S_IRWXG))

    def _entries(self, directory: int) -> Iterator[tuple[str, Seen]]:
        found = os.fstat(directory)
        place = _place()
        for name in sorted(os.listdir(directory)):
            if name.endswith(_LOCK):
                stem = name.removesuffix(_LOCK)
                with contextlib.suppress(FileNotFoundError):  # it has just been closed or swept
                    yield stem, _seen(directory, found, stem, place)


class DirectoryEntry:
    """The lock file and the report of one process, and of its forked children one each."""

    def __init__(self, registry: DirectoryRegistry, identify: Identify) -> None:
        self.name = ""
        self._registry = registry
        self._identify = identify
        self._descriptor = -1
        self._identity = (-1, -1)  # of the lock file: device and inode
        self._pid = -1
        # By process: who holds one in the parent is not in the child, and hooks may not run there.
        self._locks: dict[int, Any] = {}
        self._over = False
        self._version = _version()
        self._forget()

    def _forget(self) -> None:
        self._may_acknowledge = False
        self._acknowledged = False
        self._told: tuple[object, ...] | None = None
        self._told_at = -math.inf

    def __repr__(self) -> str:
        return f"<DirectoryEntry {self.name}>"

    def ensure(self) -> bool:
        """Be registered; see :meth:`.Entry.ensure`. It costs two stats where nothing is due."""
        if self._over or self._stands():
            return False
        self._registry.sweep(self._identify)
        with self._locked(_PATIENCE_OF_A_LOOK):
            if not self._over and not self._stands():  # another thread may have been here
                self._register()
            return not self._over

    def closed(self) -> None:
        """Note that a gate was closed; see :meth:`.Entry.closed`. It never waits."""
        self._may_acknowledge = True

    def report(self, snapshot: Callable[[], Report]) -> bool:
        """Write a report; see :meth:`.Entry.report`."""
        with self._locked():
            if self._over:
                return False
            self._require()
            may_acknowledge = self._may_acknowledge  # before it counts
            report = snapshot()
            acknowledged = may_acknowledge and may_be_acknowledged(report)
            told = (acknowledged, *_needed(report))
            if (
                self._told is not None
                and time.monotonic() < self._told_at + _pause(self._told, told)
                and os.path.lexists(self._path(_REPORT))
            ):
                return False
            self._acknowledged = self._acknowledged or acknowledged
            self._write(_encoded(self.name, acknowledged, report, self._version))
            self._acknowledged = acknowledged
            self._told = told
            self._told_at = time.monotonic()
            return True

    def withdraw(self) -> None:
        """Take the acknowledgement back; see :meth:`.Entry.withdraw`."""
        with self._locked():
            if self._over:
                return
            self._may_acknowledge = False
            self._require()
            self._told = None
            if not self._acknowledged:
                return
            path = self._path(_REPORT)
            try:
                _overwrite(path)
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
                        f"({_told(error)}): it stays read-only. Make the directory writable."
                    ) from error
            self._acknowledged = False

    def close(self) -> None:
        """Remove the entry; see :meth:`.Entry.close`. In a forked child it is the parent's."""
        self._over = True
        # Without the lock if it can't be had: a garbage collection may call this in a thread that
        # holds it. What a report leaves then is swept.
        with contextlib.suppress(RegistryError), self._locked():
            pass
        if self._stands():
            for suffix in (_LOCK, _REPORT):
                with contextlib.suppress(OSError):
                    os.unlink(self._path(suffix))
        self._drop()

    # -- below the lock --------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, patience: float = _PATIENCE) -> Iterator[None]:
        lock = self._locks.setdefault(os.getpid(), threading.RLock())
        # It is not used as reentrant: a signal handler that withdraws in the middle of a report
        # would see it acknowledge afterwards.
        if lock._is_owned():
            raise RegistryError(
                f"This thread was interrupted while it wrote into {self._registry.path}."
            )
        try:
            # Not for ever, as a gate may wait for a disk that hangs.
            if not lock.acquire(timeout=patience):
                raise RegistryError(
                    f"Another thread has been writing into {self._registry.path} for {patience} s. "
                    "Is its disk slow?"
                )
            yield
        finally:
            if lock._is_owned():  # an exception of a signal handler comes between any two steps
                lock.release()

    def _path(self, suffix: str) -> str:
        return os.path.join(self._registry.path, self.name + suffix)

    def _stands(self) -> bool:
        """True if this very process is registered, and nobody took its files or descriptor away."""
        return self._pid == os.getpid() and self._holds() and self._in_place()

    def _in_place(self) -> bool:
        try:
            found = os.stat(self._path(_LOCK), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # it can't be seen now, which is no reason to make another
            return True
        return (found.st_dev, found.st_ino) == self._identity

    def _holds(self) -> bool:
        # What closes all descriptors, as some who make daemons do, closes this one, too; its number
        # may then be somebody else's.
        try:
            found = os.fstat(self._descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _require(self) -> None:
        if not self._stands():
            raise RegistryError(
                f"This process is not registered in {self._registry.path}, as it was forked, or "
                "its entry was removed. Nobody can wait for it; it registers at its next look."
            )

    def _register(self) -> None:
        # The old entry, if there is one, is the parent's; or a reader may just be looking at it
        # that has missed the new one. It is left to a sweep.
        self._drop()
        try:
            self._enter()
        except OSError as error:
            self._drop()
            raise RegistryError(
                f"This process can't register in {self._registry.path} ({_told(error)}): nobody "
                "can wait for it. Make a directory there into which it may write."
            ) from error
        except BaseException:
            self._drop()
            raise
        _leave_after_forks(self)

    def _enter(self) -> None:
        if fcntl is not None:
            self._registry._make()
        for _ in range(_NAMES):
            with self._registry._opened() as directory:
                if self._try_to_enter(directory):
                    return
        raise RegistryError(
            f"The entries of this process in {self._registry.path} are removed or locked as soon "
            "as they are made. Find who does that."
        )

    def _try_to_enter(self, directory: int) -> bool:
        mode = _file_mode(os.fstat(directory))
        name = f"{_host()}-{os.getpid()}-{_place()}-{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._descriptor = os.open(name + _LOCK, flags, mode, dir_fd=directory)
        try:
            found = os.fstat(self._descriptor)
            self._identity = (found.st_dev, found.st_ino)
            self.name = name
            os.fchmod(self._descriptor, mode)  # whatever the umask is
            # Until it is locked it looks dead. A reader that is just trying the lock has it for a
            # moment, or for long if it was stopped there; a sweep may have removed the file.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._in_place():
                    self._pid = os.getpid()  # last: from now on it stands
                    return True
            return False
        finally:
            if self._pid != os.getpid():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name + _LOCK, dir_fd=directory)
                self._drop()

    def _drop(self) -> None:
        """Close the lock file, and never unlock it: in a child that would unlock the parent's."""
        if self._holds():
            os.close(self._descriptor)
        self._descriptor, self._pid, self._identity = -1, -1, (-1, -1)
        _entries.discard(self)
        may_acknowledge = self._may_acknowledge
        self._forget()
        self._may_acknowledge = may_acknowledge  # the gates of a child are as its parent's were

    def _write(self, content: bytes) -> None:
        new, path = self._path(_NEW), self._path(_REPORT)
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
                f"The report {path} can't be written ({_told(error)}): it tells nothing of what "
                "happened since. Make room, or make its directory writable."
            ) from error


# -- forks -----------------------------------------------------------------------------------

_entries: set[DirectoryEntry] = set()  # those that stand, even if nobody else knows of one
_hooked = False


def _leave_after_forks(entry: DirectoryEntry) -> None:
    global _hooked  # noqa: PLW0603  # a hook can't be taken back, so it is set once a process
    _entries.add(entry)
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_leave_to_parent)


def _leave_to_parent() -> None:
    for entry in list(_entries):
        entry._drop()


# -- entries as a reader sees them -----------------------------------------------------------


def _seen(directory: int, found: os.stat_result, stem: str, place: str) -> Seen:
    """Look at one entry. :raises FileNotFoundError: if there is none any more."""
    name = _NAME.fullmatch(stem)
    if name is None:
        problem = "is no entry of a worker; remove it"
        return Seen(_printable(stem), Liveness.UNKNOWN, problem=problem)
    one = Seen(stem, Liveness.UNKNOWN, pid=int(name["pid"]), host=name["host"])
    try:
        descriptor = _open(directory, stem + _LOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = f"can't tell if it lives: its lock is not readable, {_told(error)}"
        return replace(one, doubt=why)
    try:
        lock = os.fstat(descriptor)
        doubt = _foreign(lock, found)
        if doubt is not None:
            return replace(one, doubt=doubt)
        # First whether it lives, then what it says: a dead one says nothing more.
        liveness, doubt = _liveness(descriptor, name["place"], place)
    finally:
        os.close(descriptor)
    return _read(directory, replace(one, liveness=liveness, doubt=doubt), lock)


def _liveness(descriptor: int, place: str, here: str) -> tuple[Liveness, str | None]:
    if place != here:
        return Liveness.UNKNOWN, "another host or process namespace: can't tell if it lives"
    try:
        # Shared: a forked child that keeps this descriptor must not make a dead one look alive.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Liveness.ALIVE, None
    except OSError as error:
        return Liveness.UNKNOWN, f"can't tell if it lives: {_told(error)}"
    return Liveness.DEAD, None


def _read(directory: int, one: Seen, lock: os.stat_result) -> Seen:
    """Add what the report says, or why it is not believed."""
    born = None
    try:
        descriptor = _open(directory, one.name + _REPORT)
        try:
            report = os.fstat(descriptor)
            content = os.read(descriptor, _LIMIT + 1)
        finally:
            os.close(descriptor)
        if report.st_uid != lock.st_uid or not stat.S_ISREG(report.st_mode):
            one = replace(one, problem="its report is foreign: not a file of who holds the lock")
        else:
            one, born = _decoded(one, content)
    except FileNotFoundError:
        one = replace(one, problem=SILENT)
    except OSError as error:
        one = replace(one, problem=f"its report is not readable, {_told(error)}")
    except (ValueError, KeyError, TypeError, RecursionError):
        one = replace(one, problem="its report is damaged")
    if one.liveness is Liveness.ALIVE and one.pid is not None and _is_gone(one.pid, born):
        doubt = "its process is gone, but a child of it keeps its lock: can't tell if that lives"
        return replace(one, liveness=Liveness.UNKNOWN, doubt=doubt)
    return one


def _remove(directory: int, stem: str) -> None:
    """Remove a dead entry with its lock held, so that one that was just being made sees it."""
    descriptor = _open(directory, stem + _LOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        for suffix in (_LOCK, _REPORT, _NEW):  # without a lock file it is no entry any more
            with contextlib.suppress(FileNotFoundError):
                os.unlink(stem + suffix, dir_fd=directory)
    finally:
        os.close(descriptor)


def _is_gone(pid: int, born: int | None) -> bool:
    """True if there is surely no such process here. Only ever a reason to believe an entry less."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it is somebody else's
        pass
    now = _born(pid)
    return born is not None and now is not None and born != now


def _open(directory: int, name: str) -> int:
    """Open a file to be read, so that it can't block and leads nowhere else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(name, flags, dir_fd=directory)


# -- what is to be trusted -------------------------------------------------------------------


def _distrust(found: os.stat_result, above: os.stat_result) -> str | None:
    """Return why a directory is not to be used, or None.

    Whoever may put it there may also put the file there, and rules over the mode anyway. So it is
    right in the hands of root, of this user, of the owner of the directory above it, and of
    anybody if not everybody can make one there.
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


def _file_mode(found: os.stat_result) -> int:
    """Return the mode of files in a directory: whoever may read that may read them."""
    return 0o600 | found.st_mode & (stat.S_IRGRP | stat.S_IROTH)


# -- which process it is ---------------------------------------------------------------------


def _place() -> str:
    """Return what two processes have in common whose locks and process ids mean the same.

    In Linux's first namespace that outlives a reboot, after which the entries from before it are
    dead by their locks.
    """
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # no Linux
        return _digest(socket.gethostname(), str(uuid.getnode()))
    machine = _text("/etc/machine-id")
    if namespace == _INITIAL_NAMESPACE and machine:
        return _digest(socket.gethostname(), machine)
    boot = _text("/proc/sys/kernel/random/boot_id") or f"{socket.gethostname()} {uuid.getnode()}"
    return _digest(boot, str(namespace))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:12]


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""


def myself() -> Seen:
    """Return what this process can tell of itself without an entry."""
    return Seen("this process", Liveness.ALIVE, pid=os.getpid(), host=_host(), program=_program())


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:64] or "_"


def _born(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot, or None if that is not told."""
    try:
        return int(_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])
    except (ValueError, IndexError):
        return None


def _started(born: int | None) -> float:
    """Return when this process started, in wall-clock seconds; at the latest, now."""
    try:
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - (born or 0) / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError):
        return time.time()
    return time.time() - (age if born is not None and age > 0 else 0)


def _program() -> str:
    path = sys.argv[0] if sys.argv else ""
    if os.path.basename(path) == "__main__.py":  # python -m
        path = os.path.dirname(path)
    return _printable(os.path.basename(path))[:100]


def _version() -> str:
    try:
        return metadata.version("sa-readonly")
    except metadata.PackageNotFoundError:  # run from its sources
        return "?"


# -- reports as bytes ------------------------------------------------------------------------

# The one byte after this is overwritten when the acknowledgement is withdrawn; the check covers all
# the rest, and the name, so that no other byte can be damaged into an acknowledgement.
_HEAD = b'{"acknowledged":'
_CONTENT = re.compile(
    re.escape(_HEAD) + rb'([01]),"check":"([0-9a-f]{32})",(.*)\}\n', re.ASCII | re.DOTALL
)


def _needed(report: Report) -> tuple[object, ...]:
    """Return what a verdict depends on, and last what is worth a report now and then."""
    connections = report.connections if report.mode is Mode.READ_ONLY else None
    return (
        report.mode,
        report.generation,
        report.flips,
        report.watching,
        report.forced,
        connections,
        report.refused,
        (report.connections, report.engines),
    )


def _pause(before: tuple[object, ...], told: tuple[object, ...]) -> float:
    """Return how many seconds there must be between two reports that tell this."""
    if before[:-2] != told[:-2]:
        return 0.0
    if before[-2] != told[-2]:
        return _COUNTED
    return _MINOR if before[-1] != told[-1] else _RENEWED


def _encoded(name: str, acknowledged: bool, report: Report, version: str) -> bytes:
    born = _born(os.getpid())
    fields: dict[str, Any] = {
        "format": _FORMAT,
        "program": _program(),
        "version": version,
        "born": born,
        "started": _started(born),
        "written": time.time(),
        **asdict(report),
        "since": _finite(report.since),
        "checked": _finite(report.checked),
        "retired": _finite(report.retired),
        "mode": report.mode.value,
        "forced": report.forced and report.forced.value,
    }
    rest = json.dumps(fields).encode()[1:-1]
    content = b'%s%d,"check":"%s",%s}\n' % (_HEAD, acknowledged, _check(name, rest), rest)
    if len(content) > _LIMIT:
        raise RegistryError(
            f"A report of {len(content)} bytes is too long: {_LIMIT} are read. Is the switch's "
            "generation that long?"
        )
    return content


def _check(name: str, rest: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + rest).hexdigest()[:32].encode()


def _overwrite(path: str) -> None:
    """Withdraw in place, which takes no room on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if os.pwrite(descriptor, b"0", len(_HEAD)) != 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _decoded(one: Seen, content: bytes) -> tuple[Seen, int | None]:
    """Read a report and when its process was born. :raises ValueError: as others, if damaged."""
    match = _CONTENT.fullmatch(content)
    if match is None or _check(one.name, match[3]) != match[2]:
        raise ValueError
    fields = json.loads(b"{%s}" % match[3])
    if fields["format"] != _FORMAT:
        return replace(one, problem="its report is of another version of sa_readonly"), None
    generation, watching = fields["generation"], fields["watching"]
    if not isinstance(generation, (str, type(None))) or not isinstance(watching, bool):
        raise TypeError
    report = Report(
        mode=Mode(fields["mode"]),
        generation=generation,
        connections=_count(fields["connections"]),
        since=_seconds(fields["since"]),
        checked=_seconds(fields["checked"]),
        flips=_count(fields["flips"]),
        refused=_count(fields["refused"]),
        watching=watching,
        forced=None if fields["forced"] is None else Mode(fields["forced"]),
        # What a process does not tell yet that runs an older version.
        kinds=_by_name(fields.get("kinds", {}), _count),
        engines=_by_name(fields.get("engines", {}), _connections),
        retired=_seconds(fields.get("retired")),
    )
    one = replace(
        one,
        acknowledged=match[1] == b"1" and may_be_acknowledged(report),
        report=report,
        program=_printable(str(fields["program"])),
        version=_printable(str(fields["version"])),
        started=_seconds(fields["started"]),
        written=_seconds(fields["written"]),
    )
    return one, None if fields["born"] is None else _count(fields["born"])


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def _by_name(value: object, what: Callable[[Any], _T]) -> dict[str, _T]:
    if not isinstance(value, dict):
        raise TypeError
    return {_printable(name): what(one) for name, one in value.items()}


def _connections(value: object) -> Connections:
    if not isinstance(value, list):
        raise TypeError
    return Connections(*map(_count, value))


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not abs(value) < _FOREVER:  # type: ignore[arg-type]
        raise TypeError
    return float(value)  # type: ignore[arg-type]


def _finite(seconds: float | None) -> float | None:
    return seconds if seconds is not None and abs(seconds) < _FOREVER else None


def _printable(text: str) -> str:
    """Return a text that does a terminal no harm."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _told(error: OSError) -> str:
    return error.strerror or str(error)
