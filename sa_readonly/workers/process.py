"""Which process this is: what it tells of itself, and where process ids and locks mean the same."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
import time
import uuid
from importlib import metadata

from ..text import printable
from .protocol import Liveness, Seen

__all__ = ["about_me", "born", "has_ended", "host", "is_gone", "myself", "place", "scope"]

_INITIAL_NAMESPACE = 0xEFFFFFFC  # the inode of Linux's first process namespace


def myself() -> Seen:
    """Return what this process can tell of itself without an entry."""
    return Seen("this process", Liveness.ALIVE, pid=os.getpid(), host=host(), program=_program())


def about_me() -> dict[str, str | int | float | None]:
    """Return what is the same in every report of this process, by its names there."""
    mine = born(os.getpid())
    return {
        "program": _program(),
        "version": _version(),
        "born": mine,
        "started": _started(mine),
    }


def host() -> str:
    """Return the name of this host, as it stands in the name of an entry."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:64] or "_"


def place() -> str:
    """Return what two processes have in common whose locks and process ids mean the same.

    In Linux's first namespace it is the same after a reboot: entries from before it are then told
    to be dead by their locks.
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


def scope(identity: str) -> str:
    """Return a digest of ``identity`` that differs with the host, its boot and :func:`place`."""
    return _digest(_text("/proc/sys/kernel/random/boot_id"), place(), identity)


def born(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot, or None if that is not told."""
    try:
        return int(_stat(pid)[19])
    except (ValueError, IndexError):
        return None


def is_gone(pid: int, when: int | None) -> bool:
    """True if no process with this id lives here that was born then. Only ever a reason for doubt.

    :param when: see :func:`born`; None leaves that open.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it is another user's
        pass
    now = born(pid)
    return when is not None and now is not None and when != now


def has_ended(pid: int, when: int | None) -> bool:
    """True if the process surely runs no more that was born then, though it may not be waited for.

    :param when: see :func:`born`; None leaves that open.
    """
    return is_gone(pid, when) or _stat(pid)[:1] in (["Z"], ["X"])


def _stat(pid: int) -> list[str]:
    """Return what Linux tells of a process, from its state on, or nothing."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _started(mine: int | None) -> float:
    """Return when this process started, in wall-clock seconds; at the latest, now."""
    try:
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - (mine or 0) / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError):
        return time.time()
    return time.time() - (age if mine is not None and age > 0 else 0)


def _program() -> str:
    path = sys.argv[0] if sys.argv else ""
    if os.path.basename(path) == "__main__.py":  # python -m
        path = os.path.dirname(path)
    return printable(os.path.basename(path))[:100]


def _version() -> str:
    try:
        return metadata.version("sa-readonly")
    except metadata.PackageNotFoundError:  # run from its sources
        return "?"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:12]


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""
