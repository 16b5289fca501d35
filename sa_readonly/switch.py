"""The file, which is looked at, written and removed here alone; and a switch that never moves."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import stat
import threading
from datetime import datetime, timezone
from functools import partial
from typing import NamedTuple

from . import forks
from .announced import FileAhead
from .errors import ConfigurationError, seconds
from .mode import Mode, State, clock, now
from .subscribers import BaseSwitch
from .text import Text, absolute, described, read, remove, render, write

__all__ = ["FileSwitch", "FixedSwitch"]

# Looks in a row that may each take longer than ttl. With 32 threads that only compute, every sixth
# or so does, by waiting for the interpreter's lock: fewer would tell a healthy process read-only.
_LOOKS = 10
_SWAPS = 3  # looks in a row during each of which the directory may change


class FileSwitch(BaseSwitch):
    """Read-only while anything is at ``path``: a file, a directory, even a dangling symlink.

    The answer is the cached result of a ``stat()``. From ``ttl / 2`` on one thread looks again
    while the others go on with the old answer. An answer older than ``ttl`` is never used, as a
    look at a file can always be had: so ``fence`` is ``ttl``. No thread is needed for that.

    A ``stat()`` that fails for any reason but "no such file" keeps the last known mode; at the
    start, where nothing is known, it means read-only. "No such file" ends read-only only in the
    directory in which the file was seen: an unmounted file system does not say "write".

    The environment variable ``SA_READONLY_FORCE`` (``read-write`` or ``read-only``) forces the mode
    of this one process; it is read when the switch is made, and logged as a warning.

    :param path: the path of the file; made absolute now. Its directory must exist.
    :param ttl: seconds for which an answer may be used; 0 looks each time.
    :raises ConfigurationError: if ``path`` is no path, if its directory does not exist, if ``ttl``
        is no number of seconds, or if ``SA_READONLY_FORCE`` is neither of its two values.
    """

    def __init__(self, path: str | os.PathLike[str], *, ttl: float = 0.1) -> None:
        self.path = absolute(path)
        self.directory = os.path.dirname(self.path)
        ttl = seconds("ttl", ttl)
        super().__init__(self.path, ttl=ttl, fence=ttl)
        self._ahead = FileAhead(self.path)
        self._refreshing = forks.PerProcess(threading.Lock)
        # Where the file must be missing to mean read-write: the directory in which it was seen.
        self._home = self._directory_now()
        self._astray = self._failing = self._slow = False  # each is logged once
        if self.forced is None:
            self._begin()

    # -- the answer ----------------------------------------------------------------------

    def refresh(self) -> State:
        """Return an answer that is not older than ``ttl``.

        Before ``ttl`` is over, one thread looks again and the others get the answer that is known;
        after it each thread looks for itself, so that a ``stat()`` that hangs holds up its own
        thread alone.
        """
        if self._is_dictated():
            return self.known
        forks.follow()
        if clock() >= self._expires:
            return self._look()
        refreshing = self._refreshing()
        if refreshing.acquire(blocking=False):
            try:
                # Another thread may have looked since this one read the clock.
                if clock() >= self.fresh_until:
                    return self._look()
            finally:
                refreshing.release()
        return self.known

    def glance(self) -> bool:
        """Look, if a few calls of ``stat()`` are enough for it; see :meth:`.Switch.glance`.

        :return: True if ``known`` may be used now. False if the file came, went or was edited: its
            text is not read here. It waits for no thread that turns the gates, and tells no flip.
        """
        if self._is_dictated():
            return True
        forks.follow()
        started, known = clock(), self.known
        if started < self.fresh_until:
            return True
        enough, seen = self._stat(known)
        if not enough:
            return False
        with forks.locked(self._state(), 0) as taken:
            if taken and self.known is known:
                self._apply(seen, started)
        self._tell_aside()
        expires = started + self.ttl if self.known is known else self._expires
        return self.ttl == 0 or clock() <= expires

    def check(self) -> State:
        """Look now, whatever the age of the answer, and return the state."""
        if self._is_dictated():
            return self.known
        forks.follow()
        return self._look()

    def identify(self) -> str | None:
        """Return the generation of the file that is there now, or None if there surely is none.

        It asks the file system, whatever is known, and changes nothing.

        :raises OSError: if that can't be told.
        """
        try:
            return self._identified()[1]
        except FileNotFoundError:
            os.stat(self.directory)  # or it was the directory that is missing
            return None

    def __repr__(self) -> str:
        return f"FileSwitch({self.path!r}, ttl={self.ttl!r})"

    # -- the operator --------------------------------------------------------------------

    def enable(self, reason: str | None = None, until: datetime | None = None) -> State:
        """Write the file, which turns every process of the application read-only.

        It is written beside its place, brought to the disk and renamed, so that no process reads
        half of it. A file that is there already is replaced.

        :param reason: a text for people.
        :param until: when you expect to be done; a naive time is local time.
        :return: the state of this process after it.
        :raises ValueError: if the text is too long, is no Unicode, or would be read otherwise.
        :raises OSError: if it can't be written, and is then as it was; or if its directory can't be
            brought to the disk, and it may not outlive a crash.
        """
        write(self.path, render(reason, until))
        return self.check()

    def disable(self) -> State:
        """Remove the file, which lets the application write again. None there is no error.

        :return: the state of this process after it.
        :raises OSError: if it can't be removed (a directory at the path is never removed), or if
            its directory can't be brought to the disk, and it may come back after a crash.
        """
        remove(self.path)
        return self.check()

    # -- looking -------------------------------------------------------------------------

    def _begin(self) -> None:
        """Take the first look."""
        self.known = State(Mode.READ_WRITE, since=now())
        started = clock()
        seen = self._examine()
        if isinstance(seen, OSError):
            reason = f"{self.path} can't be looked at: {seen}"
            self.known = State(Mode.READ_ONLY, reason, since=now())
        self._apply(seen, started)
        self._tell()

    def _look(self) -> State:
        for _ in range(_LOOKS):
            started = clock()
            self._apply(self._examine(), started)
            # In this order, the reverse of _answer()'s: no new time is read with an old answer.
            expires, known = self._expires, self.known
            # A ttl of 0 asks for one look each time, no less.
            in_time = self.ttl == 0 or clock() <= expires
            if in_time and self._slow:
                self._note_slow(False)
            self._tell()
            if in_time or known.read_only:  # which is safe at any age
                return known
        self._note_slow(True)
        self._tell()
        reason = f"a look at {self.path} takes longer than ttl={self.ttl} s"
        return State(Mode.READ_ONLY, reason, since=now())

    def _examine(self) -> _Seen:
        """Ask the file system. It touches nothing of the switch, so that it may hang."""
        known = self.known
        enough, seen = self._stat(known)
        if enough:
            return seen
        # The directory is asked before and after, so that it is known which one answered.
        for _ in range(_SWAPS):
            directory = self._directory_now()
            try:
                seen = self._sighting(known, directory)
            except FileNotFoundError:
                seen = _Gone(directory)
            except OSError as error:
                return error
            if self._directory_now() == directory:
                return seen
        return seen if isinstance(seen, _Sighting) else _Gone(None)

    def _stat(self, known: State) -> tuple[bool, _Seen]:
        """Say if one ``stat()`` is enough, as the file is the same or none, and what it saw."""
        try:
            if known.read_only:
                seen = self._unchanged(known)
                return seen is not None, seen
            os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return not known.read_only, None
        except OSError as error:
            return True, error
        return False, None

    def _identified(self) -> tuple[os.stat_result, str, bool]:
        """Return the stat of what is at the path, its generation, and if it is a regular file."""
        own = os.stat(self.path, follow_symlinks=False)
        key = _key(own)
        regular = stat.S_ISREG(own.st_mode)
        if stat.S_ISLNK(own.st_mode):
            # In a ConfigMap the target moves, while the link's own stat stays as it was.
            with contextlib.suppress(OSError):
                target = os.stat(self.path)
                key = f"{key}-{_key(target)}"
                regular = stat.S_ISREG(target.st_mode)
        return own, key, regular

    def _sighting(self, known: State, directory: _Identity | None) -> _Sighting:
        own, key, regular = self._identified()
        text, problem = Text(known.reason, known.until), None
        if key != known.generation:
            text, problem = read(self.path) if regular else (Text(), "is not a regular file.")
        return _Sighting(key, text, problem, _since(own), directory)

    def _unchanged(self, known: State) -> _Sighting | None:
        """Return what is at the path if it is the file that is known, or None.

        A file that moves to another directory gets another key, and the directory that is mounted
        over another one lies on another device. What has several names may be in another directory
        of this device all the same: releases are deployed by hard links, and a symlink is swapped.
        """
        own, key, _ = self._identified()
        home = self._home
        if key != known.generation or home is None or own.st_dev != home[0]:
            return None
        if own.st_nlink != 1 and self._directory_now() != home:
            return None
        return _Sighting(key, Text(known.reason, known.until), None, _since(own), home)

    def _directory_now(self) -> _Identity | None:
        try:
            found = os.stat(self.directory)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    # -- what is known -------------------------------------------------------------------

    def _apply(self, seen: _Seen, started: float) -> None:
        """Take what a look saw for the answer, unless a later look has answered already."""
        self._learn(partial(self._state_after, seen), started)

    def _state_after(self, seen: _Seen, known: State) -> State | None:
        """Return the state to publish. Nothing of it is kept elsewhere: it may not get that far."""
        if isinstance(seen, OSError):
            if not self._failing:
                self._failing = True
                message = "%s can't be looked at (%s): the mode stays %s."
                self._say(logging.ERROR, "look_failed", message, self.path, seen, known.mode)
            return known
        if seen is None and known.read_only:
            return None  # this look began before the flip and did not ask which directory answered
        if self._failing:
            self._failing = False
            self._say(logging.INFO, "look_mended", "%s can be looked at again.", self.path)
        if not isinstance(seen, _Sighting):
            if not known.read_only or self._is_elsewhere(seen):
                return known
            return State(Mode.READ_WRITE, since=now())
        self._home, self._astray = seen.directory, False
        if seen.key == known.generation:
            return known
        reason, until = seen.text
        if seen.problem is not None:
            message = "%s %s It means read-only all the same."
            self._say(logging.WARNING, "no_regular_file", message, self.path, seen.problem)
        since = known.since if known.read_only else seen.since
        return State(Mode.READ_ONLY, reason, until, since, seen.key)

    def _is_elsewhere(self, seen: _Gone | None) -> bool:
        """True if the directory without the file is not the one in which the file was seen."""
        directory = None if seen is None else seen.directory
        if directory is not None and self._home in (None, directory):
            return False
        if not self._astray:
            self._astray = True
            message = (
                "%s is gone together with its directory, which was unmounted or swapped: the mode "
                "stays read-only. Bring the directory back, or create the file and remove it."
            )
            self._say(logging.ERROR, "directory_gone", message, self.path)
        return True

    def _note_slow(self, slow: bool) -> None:
        with self._state():
            was, self._slow = self._slow, slow
        if slow and not was:
            message = (
                "A look at %s takes longer than ttl=%s s, so its answer is too old when it comes, "
                "and read-only is told instead. Give a larger ttl."
            )
            self._say(logging.ERROR, "look_slow", message, self.path, self.ttl)
        elif was and not slow:
            self._say(logging.INFO, "in_time", "A look at %s is faster than ttl again.", self.path)

    def _why(self, state: State) -> str:
        return f"{self.path} is " + (f"there ({described(state)})" if state.read_only else "gone")


class FixedSwitch(BaseSwitch):
    """A switch that never moves: for tests, and for a script that must write at night.

    Its one answer never ages. A test may override it.

    :param mode: a :class:`.Mode`.
    :raises ConfigurationError: if ``mode`` is not a :class:`.Mode`.
    """

    _forcible = False

    def __init__(self, mode: Mode) -> None:
        if not isinstance(mode, Mode):
            raise ConfigurationError(
                f"FixedSwitch(mode) takes Mode.READ_WRITE or Mode.READ_ONLY, not {mode!r}."
            )
        super().__init__("FixedSwitch", ttl=math.inf, fence=math.inf)
        self.known = State(mode, since=now())
        self.fresh_until = math.inf

    def glance(self) -> bool:
        """Return True: the one state there is may always be used."""
        return True

    def check(self) -> State:
        """Return the one state there is."""
        # A worker or selector that wants a look sets it to -inf, but there is none to take.
        self.fresh_until = math.inf
        return self.known

    def __repr__(self) -> str:
        return f"FixedSwitch({self.known.mode})"


_Identity = tuple[int, int]  # device and inode


class _Sighting(NamedTuple):
    """Something is at the path. ``problem`` says why its text is not read, or is None."""

    key: str
    text: Text
    problem: str | None
    since: datetime
    directory: _Identity | None


class _Gone(NamedTuple):
    """Nothing is at the path, in this directory (None if that is missing or was being swapped)."""

    directory: _Identity | None


# None: nothing is at the path, and while read-write it does not matter in which directory.
_Seen = _Sighting | _Gone | OSError | None


def _key(found: os.stat_result) -> str:
    """Return what tells a file from another that takes its place and its inode number.

    No device: it differs from host to host where a file is shared by them. The size, because the
    clock of a file system may stand still between the creation of a file and its first line.
    """
    return f"{found.st_ino:x}.{found.st_ctime_ns:x}.{found.st_mtime_ns:x}.{found.st_size:x}"


def _since(found: os.stat_result) -> datetime:
    # Not the mtime: a file that is moved here brings an old one along.
    try:
        return min(datetime.fromtimestamp(found.st_ctime, timezone.utc), now())
    except (ValueError, OverflowError, OSError):  # what no calendar has
        return now()
