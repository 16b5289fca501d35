"""The switch's file: its directory, its file system, and the workers' directory."""

from __future__ import annotations

import importlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ...announced import SUFFIX as ANNOUNCED
from ...announced import announced_in, in_words
from ...text import head
from ...workers.directory import DirectoryRegistry
from ...workers.protocol import Liveness
from ..history_file import SUFFIX as HISTORY
from .findings import Finding, capital, danger, note, ok, warning


def examine_file(file: str, workers: str | None = None) -> Iterator[Finding]:
    """Examine the switch's file, its directory and the workers' directory."""
    path = os.path.abspath(file)
    if os.pardir in file.split(os.sep):
        # As FileSwitch: abspath() would strike out ".." with a symlink that stands before it.
        path = os.path.join(os.getcwd(), file)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        yield warning(
            "file-directory-missing",
            f"The directory {directory} of the switch's file is not there, or can't be seen.",
            "A selector refuses to start: a mistyped path must not mean read-write for ever.",
            f"install -d -o root -m 0755 {directory}",
        )
        return
    yield _now(path)
    mountinfo = Path("/proc/self/mountinfo")
    if mountinfo.exists():
        yield from examine_mount(path, mounts(mountinfo.read_text(errors="surrogateescape")))
    if os.name == "posix":
        yield _directory(directory)
        yield _workers(workers or f"{path}.workers", directory)
        yield from _entries(workers or f"{path}.workers")
    yield from _history(path + HISTORY)
    yield from _announced(path + ANNOUNCED)


def _now(path: str) -> Finding:
    try:
        os.lstat(path)
    except FileNotFoundError:
        meaning = "The application is read-write now."
        return ok("file-absent", f"{path} is not there.", meaning)
    except OSError as error:
        return warning(
            "file-can-not-be-seen",
            f"{path} can't be seen: {error.strerror}.",
            "A process that starts is read-only, others keep the mode that they know.",
            "Let the application's user search each directory of the path (chmod a+x).",
        )
    meaning = "The application is read-only now."
    if os.path.isfile(path):  # a ConfigMap has a symlink to one
        return note("file-present", f"{path} is there.", meaning)
    what = f"{path} is there, and is no regular file."
    return warning("file-not-regular", what, meaning, "Make it a file.")


# -- what operators did, and what they announce ------------------------------------------------


def _history(path: str) -> Iterator[Finding]:
    try:
        status = os.lstat(path)
    except OSError:  # nothing was done yet, or this user may not see it
        return
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        yield warning(
            "history-not-a-file",
            f"{path} is {'no regular file' if status.st_nlink == 1 else 'two names of a file'}.",
            "Nothing is written there: what operators do is not kept. Flips go on all the same.",
            f"Look at what it is, and rm {path}",
        )
    elif status.st_mode & stat.S_IWOTH or (os.geteuid() and os.access(path, os.W_OK)):
        by = "every user" if status.st_mode & stat.S_IWOTH else _user(os.geteuid())
        yield note(
            "history-writable",
            f"{path} can be written by {by}.",
            "Unless that is an operator, what is kept of the nights can be forged.",
            f"chown root {path}; chmod 0640 {path}",
        )


def _announced(path: str) -> Iterator[Finding]:
    try:
        os.lstat(path)
    except OSError:
        return
    try:
        found, why = announced_in(head(path)), "it begins with no line `from: <ISO 8601 time>`"
    except OSError as error:
        found, why = None, error.strerror or str(error)
    if found is None:
        yield warning(
            "announcement-not-read",
            f"{path} is there, and is not read: {why}.",
            "Nothing is announced to people.",
            "Announce it by `sa-readonly announce`, or take it back by --cancel.",
        )
    else:
        late = " and is over" if found.over else ""
        yield note(
            "announced",
            f"It is announced{late}: {in_words(found)}.",
            "No mode changes by it. `sa-readonly on` takes the reason from it, and removes it.",
        )


# -- directories -------------------------------------------------------------------------------


def _directory(directory: str) -> Finding:
    """Tell which users can make the file, and which can take it away."""
    real = Path(directory).resolve()
    for above in (real, *real.parents):
        mode = above.stat().st_mode
        if not mode & stat.S_IWOTH:
            continue
        if not mode & stat.S_ISVTX:
            return danger(
                "directory-writable-by-all",
                f"Every user of this host may write in {above}.",
                "Each can take away the file, or its directory, and the application writes again.",
                f"chmod o-w {above}",
            )
        if above == real:
            return warning(
                "directory-sticky",
                f"Every user of this host may make files in {above}.",
                "Each can make the application read-only, by a file that others can't remove.",
                "Use a directory of its own for the file.",
            )
    status = os.stat(directory)
    shown = f"{directory} (owner {_user(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o})"
    user = capital(_user(os.geteuid()))
    if os.geteuid() == 0:
        return note(
            "examined-as-root",
            f"The doctor runs as root, and examined {shown} so.",
            "Root may do everything: whether the application can flip itself can't be told.",
            "Run the doctor as the application's user.",
        )
    if os.access(directory, os.W_OK | os.X_OK):
        return note(
            "application-can-flip",
            f"{user} may make and remove the file in {shown}.",
            "If that is the application's user, the application can flip itself.",
            f"install -d -o root -m 0755 {directory}",
        )
    what = f"{user} can't change {shown}."
    return ok("only-operators-flip", what, "Only operators can flip.")


def _workers(workers: str, directory: str) -> Finding:
    user = _user(os.geteuid())
    what = f"The workers' directory {workers}"
    try:
        status = os.lstat(workers)
    except OSError:
        if os.access(directory, os.W_OK | os.X_OK):
            meaning = "The first worker makes it."
            return ok("workers-directory-to-come", f"{what} is not there yet.", meaning)
        return _no_reports(f"{what} is not there, and {user} can't make it.", workers)
    if not stat.S_ISDIR(status.st_mode):  # of a symlink, too, which is not followed
        return warning(
            "workers-not-a-directory",
            f"{what} is {'a symlink' if stat.S_ISLNK(status.st_mode) else 'no directory'}.",
            "Its owner chooses what `sa-readonly wait` believes.",
            f"Make {workers} a directory, owned by root or by the application's user.",
        )
    what += f" (mode {stat.S_IMODE(status.st_mode):04o})"
    for_all = bool(status.st_mode & stat.S_IWOTH)
    if status.st_uid not in (0, os.geteuid()) or for_all:
        return Finding(
            "note" if os.geteuid() == 0 and not for_all else "warning",
            "workers-directory-of-another",
            f"{what} can be written by {'every user' if for_all else _user(status.st_uid)}.",
            "Unless that is the application's user, reports can be removed or forged: `sa-readonly "
            "wait` may say drained too early.",
            f"chown root {workers}; chmod 2770 {workers}",
        )
    if not os.access(workers, os.W_OK | os.X_OK):
        return _no_reports(f"{what} can't be written by {user}.", workers)
    meaning = "Processes of the application can report there, and no others."
    return ok("workers-directory-in-order", f"{what} is in order.", meaning)


def _no_reports(what: str, workers: str) -> Finding:
    meaning = "If that is the application's user, no process can report: `wait` knows of none."
    cure = f"install -d -o root -g <the application's group> -m 2770 {workers}"
    return warning("workers-directory-not-writable", what, meaning, cure)


def _entries(workers: str) -> Iterator[Finding]:
    """Tell of what `wait` would wait for without end."""
    registry = DirectoryRegistry(workers)
    entries = [one for one in registry.read() if one.liveness is Liveness.UNKNOWN]
    # What is told of the directory itself, that it can't be read, has its path for a name.
    told = [f"{one.name}: {one.doubt or one.problem}" for one in entries if "/" not in one.name]
    if told:
        more = [f"and {len(told) - 3} more"] if len(told) > 3 else []
        yield warning(
            "workers-in-doubt",
            f"Nobody can tell here whether these workers live: {'; '.join(told[:3] + more)}.",
            "`sa-readonly wait` waits for them without end.",
            "Run the commands where those processes run. If they are gone for good, as with a "
            f"container, remove the files in {registry.path} that begin with those names.",
        )


def _user(uid: int) -> str:
    try:
        return f"user {importlib.import_module('pwd').getpwuid(uid).pw_name}"  # not on Windows
    except (ImportError, KeyError):
        return f"user {uid}"


# -- mounts ------------------------------------------------------------------------------------

_REMOTE = warning(
    "file-system-remote",
    "",
    "What a file server says is cached: a process may notice the file a minute late, and write "
    "until then. Locks there are emulated: whether another host's worker lives can't be told.",
    "Mount it with lookupcache=none,actimeo=1 (NFS), or use a directory of each host.",
)
_IN_MEMORY = warning(
    "file-system-in-memory",
    "",
    "It is empty after a restart of the host: read-write again, also in the middle of an upgrade.",
    "Use a directory on a disk, /var/lib/<application>, say.",
)
_OF_CONTAINER = warning(
    "file-system-of-container",
    "",
    "It is this container's own: no other container sees a file that is made here.",
    "Mount a directory that all of them share.",
)
_FILE_SYSTEMS = {
    **dict.fromkeys(
        ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph"), _REMOTE
    ),
    **dict.fromkeys(("tmpfs", "ramfs"), _IN_MEMORY),
    "overlay": _OF_CONTAINER,
}


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo.

    :param root: the directory of the file system that is mounted.
    :param place: the directory where it is mounted.
    :param kind: the file system.
    """

    root: str
    place: str
    kind: str


def mounts(mountinfo: str) -> list[Mount]:
    """Read the text of /proc/self/mountinfo."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 6 or not right:
            continue
        root, place = (
            re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), one) for one in fields[3:5]
        )
        found.append(Mount(root, place, right.split()[0]))
    return found


def examine_mount(path: str, all_mounts: list[Mount]) -> Iterator[Finding]:
    """Tell whether the file can change at all where it is mounted, and what else sees it."""
    directory = os.path.realpath(os.path.dirname(path))
    real = os.path.join(directory, os.path.basename(path))
    if any(mount.place == real for mount in all_mounts):
        yield warning(
            "file-is-a-mount",
            f"{path} is itself a mount: a bind-mounted file, or a subPath.",
            "It can never go away in here, whatever happens outside: read-only for ever.",
            "Mount its directory, as a whole and without subPath.",
        )
        return
    above = [one for one in all_mounts if f"{directory}/".startswith(f"{one.place.rstrip('/')}/")]
    if not above:
        return
    # The innermost one. Of several at one place the last hides the others.
    mount = max(enumerate(above), key=lambda one: (len(one[1].place), one[0]))[1]
    if "volume-subpaths" in mount.root or re.search(r"/\.\.\d{4}_", mount.root):
        yield warning(
            "directory-is-a-sub-path",
            f"{mount.place} is a subPath of a volume.",
            "A ConfigMap mounted so never changes: the switch can't be flipped.",
            "Mount the whole directory of the ConfigMap, without subPath.",
        )
    if known := _FILE_SYSTEMS.get(mount.kind):
        yield replace(known, what=f"{directory} is on {mount.kind}.")
        if known is _REMOTE and mount.place == directory:
            yield warning(
                "directory-is-a-mount-point",
                f"{directory} is where the {mount.kind} is mounted.",
                "A process that starts while it is not mounted finds the directory under it, "
                "without the file, and writes.",
                "Put the file in a directory below it: without that no selector is made.",
            )


# -- the environment ---------------------------------------------------------------------------


def examine_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Tell whether SA_READONLY_FORCE is set where the doctor runs."""
    if value := environment.get("SA_READONLY_FORCE"):
        yield Finding(
            "danger" if value == "read-write" else "warning",
            "mode-forced",
            f"SA_READONLY_FORCE={value} is set in this environment.",
            "A process that has it keeps that mode, whatever the file says.",
            "Unset it for the application.",
        )
