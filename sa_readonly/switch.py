"""The switch that is a file: the only place that looks at it, writes it or removes it."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import os
import stat
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import NamedTuple, Union

from .errors import ConfigurationError
from .mode import Mode, State, now

__all__ = ["FileSwitch"]

logger = logging.getLogger("sa_readonly")

FORCE = "SA_READONLY_FORCE"
_TEXT_LIMIT = 4096  # bytes of the file that are read
_LOOKS = 3  # looks in a row that may each take longer than ttl


class FileSwitch:
    """Read-only while anything is at ``path``: a file, a directory, even a dangling symlink.

    The answer is the cached result of a ``stat()``. From ``ttl / 2`` on one thread looks again while
    the others go on with the old answer; an answer older than ``ttl`` is used by nobody. No thread
    is needed for that.

    A ``stat()`` that fails for any reason but "no such file" keeps the last known mode; at the
    start, where nothing is known, it means read-only. "No such file" ends read-only only in the
    directory in which the file was seen: an unmounted file system does not say "write".

    The environment variable ``SA_READONLY_FORCE`` (``read-write`` or ``read-only``) forces the mode
    of this one process; it is read when the switch is made, and logged as a warning.

    :param path: the path of the file; made absolute now. Its directory must exist.
    :param ttl: seconds for which an answer may be used.
    :raises ConfigurationError: if the directory does not exist, if ``ttl`` is no number of seconds,
        or if ``SA_READONLY_FORCE`` is neither of its two values.
    """

    def __init__(self, path: str | os.PathLike[str], *, ttl: float = 0.1) -> None:
        self.path = _absolute(path)
        self.ttl = _seconds("ttl", ttl)
        self.directory = os.path.dirname(self.path)
        self.forced = _forced()
        self._pid = os.getpid()
        self._new_locks()
        self._subscribers: list[_Subscriber] = []
        self._pending: deque[Callable[[], None]] = deque()  # what is to be logged and told
        self._seen: _Sighting | None = None
        # Where the file must be missing to mean read-write: the directory in which it was seen.
        self._home = self._directory_now()
        self._astray = self._failing = self._slow = False  # each is logged once
        self._checked = self._expires = self.fresh_until = -math.inf
        self.known = State(Mode.READ_WRITE, since=now())
        if self.forced is None:
            self._begin()
            return
        reason = f"{FORCE}={self.forced}"
        self.known = State(self.forced, reason, since=now())
        self._expires = self.fresh_until = math.inf
        logger.warning("%s forces this process: %s is not looked at.", reason, self.path)

    # -- the answer ----------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state now, by an answer that is not older than ``ttl``."""
        if time.monotonic() < self.fresh_until:
            return self.known
        return self.refresh()

    @property
    def read_only(self) -> bool:
        """True while the application must not write."""
        return self.state.mode is Mode.READ_ONLY

    @property
    def checked(self) -> float:
        """The :func:`time.monotonic` time, in seconds, at which the newest look began."""
        return self._checked

    def refresh(self) -> State:
        """Return an answer that is not older than ``ttl``.

        Before ``ttl`` is over, one thread looks again and the others get the answer that is known;
        after it each looks for itself, so that a ``stat()`` that hangs holds up no one else.
        """
        if self._pid != os.getpid():
            self._after_fork()
        if time.monotonic() >= self._expires:
            return self._look()
        if self._refreshing.acquire(blocking=False):
            try:
                # Another thread may have looked since this one read the clock.
                if time.monotonic() >= self.fresh_until:
                    return self._look()
            finally:
                self._refreshing.release()
        return self.known

    def check(self) -> State:
        """Look again now, whatever the age of the answer, and return the state."""
        if self.forced is not None:
            return self.known
        if self._pid != os.getpid():
            self._after_fork()
        return self._look()

    def subscribe(
        self,
        gate: Callable[[State], None],
        flipped: Callable[[State, State], None],
    ) -> Callable[[], None]:
        """Have every flip told; see :meth:`.Switch.subscribe`.

        Bound methods are held weakly: a subscriber that is collected is forgotten.
        """
        subscriber = _Subscriber(_weak(gate), _weak(flipped))
        with self._lock:
            self._subscribers = [*self._subscribers, subscriber]

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = [one for one in self._subscribers if one is not subscriber]

        return unsubscribe

    def __repr__(self) -> str:
        return f"FileSwitch({self.path!r}, ttl={self.ttl!r})"

    # -- the operator --------------------------------------------------------------------

    def enable(self, reason: str | None = None, until: datetime | None = None) -> State:
        """Write the file, which turns every process of the application read-only.

        It is written beside its place, brought to the disk and renamed, so that nobody sees half of
        it. A file that is there already is replaced.

        :param reason: a text for people.
        :param until: when you expect to be done; a naive time is local time.
        :return: the state of this process after it.
        :raises ValueError: if the reason is too long, or holds a line that would be read as "until".
        :raises OSError: if it can't be written; the file is then as it was.
        """
        content = _format(reason, until)
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{os.path.basename(self.path)}.", dir=self.directory
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                if hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), 0o644)  # every process must be able to read the reason
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._sync_directory()
        return self.check()

    def disable(self) -> State:
        """Remove the file, which lets the application write again. None there is no error.

        :return: the state of this process after it.
        :raises OSError: if it can't be removed (a directory at the path is never removed).
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._sync_directory()
        return self.check()

    def _sync_directory(self) -> None:
        # A name is durable only once its directory is on the disk. Windows can't open one.
        if not hasattr(os, "O_DIRECTORY"):
            return
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # -- looking -------------------------------------------------------------------------

    def _begin(self) -> None:
        """Take the first look, of which no subscriber is told."""
        started = time.monotonic()
        seen = self._examine()
        if isinstance(seen, OSError):
            reason = f"{self.path} can't be looked at: {seen}"
            self.known = State(Mode.READ_ONLY, reason, since=now())
        self._answer(self._state_after(seen), started)
        if self.known.read_only:
            self._say(logging.WARNING, "sa_readonly starts read-only: %s", self._told(self.known))
        self._tell()

    def _look(self) -> State:
        for _ in range(_LOOKS):
            started = time.monotonic()
            self._apply(self._examine(), started)
            known = self.known
            # Read-only is safe at any age. A ttl of 0 asks for one look each time, no less.
            in_time = known.read_only or self.ttl == 0 or time.monotonic() <= self._expires
            if in_time and self._slow:
                self._slow = False
                self._say(logging.INFO, "A look at %s is faster than ttl again.", self.path)
            if self._pending:
                self._tell()
            if in_time:
                return known
        reason = f"a look at {self.path} takes longer than ttl={self.ttl} s"
        if not self._slow:
            self._slow = True
            logger.error(
                "sa_readonly: %s, so its answer is too old when it comes and whoever asks is told "
                "read-only. Give a larger ttl.",
                reason,
            )
        return State(Mode.READ_ONLY, reason, since=now())

    def _examine(self) -> _Seen:
        """Ask the file system. It touches nothing of the switch, so that it may hang."""
        if not self.known.read_only:
            try:
                os.stat(self.path, follow_symlinks=False)
            except FileNotFoundError:
                return _Gone(None)
            except OSError as error:
                return error
        # The directory is asked before and after, so that it is known which one answered.
        for _ in range(_LOOKS):
            directory = self._directory_now()
            try:
                seen: _Seen = self._sighting(directory)
            except FileNotFoundError:
                seen = _Gone(directory)
            except OSError as error:
                return error
            if self._directory_now() == directory:
                return seen
        return OSError(f"{self.directory} is being swapped")

    def _sighting(self, directory: _Identity | None) -> _Sighting:
        own = os.stat(self.path, follow_symlinks=False)
        key = _key(own)
        regular = stat.S_ISREG(own.st_mode)
        if stat.S_ISLNK(own.st_mode):
            # In a ConfigMap the target moves, while the link's own stat stays as it was.
            with contextlib.suppress(OSError):
                target = os.stat(self.path)
                key = f"{key}-{_key(target)}"
                regular = stat.S_ISREG(target.st_mode)
        return _Sighting(key, regular, own.st_mtime, directory)

    def _directory_now(self) -> _Identity | None:
        try:
            found = os.stat(self.directory)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    # -- what is known -------------------------------------------------------------------

    def _apply(self, seen: _Seen, started: float) -> None:
        """Take what a look saw for the answer, unless a later look has answered already."""
        with self._lock:
            if started < self._checked:
                return
            old, new = self.known, self._state_after(seen)
            if new.mode is old.mode:
                self._answer(new, started)
                return
            if new.read_only:
                self._answer(new, started)
                for subscriber in self._subscribers:
                    subscriber.close_gate(new)
                flip, told = "sa_readonly: %s -> %s: %s", self._told(new)
                self._say(logging.WARNING, flip, old.mode, new.mode, told)
            else:
                if not all([subscriber.open_gate(new) for subscriber in self._subscribers]):
                    return  # it stays read-only, which is safe, and tries again at the next look
                self._answer(new, started)
                flip = "sa_readonly: %s -> %s: %s is gone"
                self._say(logging.INFO, flip, old.mode, new.mode, self.path)
            for subscriber in self._subscribers:
                self._pending.append(partial(subscriber.tell, old, new))

    def _answer(self, state: State, started: float) -> None:
        # ``known`` first: a reader that sees the new time must see the new answer.
        self.known = state
        self._checked = started
        self._expires = started + self.ttl
        self.fresh_until = started + self.ttl / 2

    def _state_after(self, seen: _Seen) -> State:
        known = self.known
        if isinstance(seen, OSError):
            if not self._failing:
                self._say(
                    logging.ERROR,
                    "%s can't be looked at (%s): the mode stays %s.",
                    self.path,
                    seen,
                    known.mode,
                )
            self._failing = True
            return known
        if self._failing:
            self._failing = False
            self._say(logging.INFO, "%s can be looked at again.", self.path)
        if isinstance(seen, _Gone):
            if not known.read_only or self._elsewhere(seen):
                return known
            self._seen = None
            return State(Mode.READ_WRITE, since=now())
        before, self._seen = self._seen, seen
        self._home, self._astray = seen.directory, False
        if before is not None and before.key == seen.key:
            return known
        reason, until = self._read(seen)
        if before is None:
            since = min(datetime.fromtimestamp(seen.modified, timezone.utc), now())
            return State(Mode.READ_ONLY, reason, until, since, seen.key)
        edited = replace(known, reason=reason, until=until, generation=seen.key)
        self._say(logging.INFO, "sa_readonly: still read-only, edited: %s", self._told(edited))
        return edited

    def _elsewhere(self, seen: _Gone) -> bool:
        """True if the file is missing in another directory than the one in which it was."""
        if self._home is None or seen.directory == self._home:
            return False
        if not self._astray:
            self._astray = True
            self._say(
                logging.ERROR,
                "%s is gone together with its directory, which was unmounted or swapped: the mode "
                "stays read-only. Bring the directory back, or create the file there and remove it.",
                self.path,
            )
        return True

    def _read(self, seen: _Sighting) -> tuple[str | None, datetime | None]:
        """Read the operator's text, unless that could block or lead to somebody's secrets."""
        if not seen.regular:
            self._say(
                logging.WARNING,
                "%s is not a regular file. It means read-only all the same.",
                self.path,
            )
            return None, None
        descriptor = -1
        try:
            real = os.path.realpath(self.path, strict=True)
            home = os.path.realpath(self.directory)
            if os.path.commonpath((real, home)) != home:
                raise OSError(f"it leads out of its directory, to {real}")
            flags = os.O_RDONLY
            for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_NOCTTY", "O_CLOEXEC"):
                flags |= getattr(os, name, 0)
            descriptor = os.open(real, flags)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is no regular file any more")
            return _parse(os.read(descriptor, _TEXT_LIMIT))
        except (OSError, ValueError) as error:
            self._say(
                logging.WARNING,
                "The text of %s is not read (%s). It means read-only all the same.",
                self.path,
                error,
            )
            return None, None
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    # -- telling -------------------------------------------------------------------------

    def _say(self, level: int, message: str, *args: object) -> None:
        # A log handler may itself ask for the mode, so nothing is logged under the lock.
        self._pending.append(partial(logger.log, level, message, *args))

    def _tell(self) -> None:
        """Log and tell what is pending: in order, by one thread at a time, under no lock."""
        while self._pending and self._telling.acquire(blocking=False):
            try:
                while self._pending:
                    self._pending.popleft()()
            finally:
                self._telling.release()

    def _told(self, state: State) -> str:
        """Describe a read-only state for the log."""
        reason = "no reason given" if state.reason is None else f"reason {state.reason!r}"
        until = "" if state.until is None else f", until {state.until.isoformat()}"
        return f"{self.path} is there ({reason}{until})"

    def _new_locks(self) -> None:
        self._lock = threading.Lock()  # what is known, and the gates; never while looking
        self._refreshing = threading.Lock()
        self._telling = threading.Lock()

    def _after_fork(self) -> None:
        # A thread of the parent may have held them; it is not here to release them.
        self._new_locks()
        self._pid = os.getpid()
        if self.known.read_only:
            for subscriber in self._subscribers:
                subscriber.close_gate(self.known)


_Identity = tuple[int, int]  # device and inode


class _Sighting(NamedTuple):
    """Something is at the path."""

    key: str
    regular: bool
    modified: float
    directory: _Identity | None


class _Gone(NamedTuple):
    """Nothing is at the path, in this directory (None where that was not asked)."""

    directory: _Identity | None


_Seen = Union[_Sighting, _Gone, OSError]


class _Subscriber(NamedTuple):
    gate: Callable[[], Callable[[State], None] | None]
    flipped: Callable[[], Callable[[State, State], None] | None]

    def close_gate(self, new: State) -> None:
        try:
            if gate := self.gate():
                gate(new)
        except Exception:
            logger.exception("A gate failed to close. Each BEGIN is refused all the same.")

    def open_gate(self, new: State) -> bool:
        try:
            if gate := self.gate():
                gate(new)
        except Exception:
            logger.exception("A gate failed to open: this process stays read-only for now.")
            return False
        return True

    def tell(self, old: State, new: State) -> None:
        try:
            if flipped := self.flipped():
                flipped(old, new)
        except Exception:
            logger.exception("What was to be done after a flip failed.")


def _weak(function: Callable[..., None]) -> Callable[[], Callable[..., None] | None]:
    if inspect.ismethod(function):
        return weakref.WeakMethod(function)
    return lambda: function


def _key(found: os.stat_result) -> str:
    """Return what tells a file from another that takes its place and its inode number.

    No device: it differs from host to host where a file is shared by them.
    """
    return f"{found.st_ino:x}.{found.st_ctime_ns:x}.{found.st_mtime_ns:x}"


def _absolute(path: object) -> str:
    try:
        name = os.fspath(path)  # type: ignore[call-overload]  # what is no path raises TypeError
    except TypeError:
        name = None
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigurationError(
            f"FileSwitch(path) takes the path of a file as a string or os.PathLike, not {path!r}."
        )
    absolute = os.path.abspath(name)
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


def _seconds(name: str, value: object) -> float:
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not math.isfinite(value)
        or value < 0
    ):
        raise ConfigurationError(
            f"{name} takes a number of seconds that is not negative, not {value!r}."
        )
    return float(value)


def _forced() -> Mode | None:
    value = os.environ.get(FORCE)
    if value is None:
        return None
    try:
        return Mode(value)
    except ValueError:
        raise ConfigurationError(
            f"{FORCE} is {value!r}. Set it to read-write or read-only, or unset it."
        ) from None


# -- the text of the file --------------------------------------------------------------------


def _parse(content: bytes) -> tuple[str | None, datetime | None]:
    """Return the reason and the time in a line ``until: <ISO 8601 time>``, which is cut out."""
    until = None
    lines = []
    for line in content.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(":")
        if until is None and key.strip().lower() == "until":
            until = _time(value.strip())
            if until is not None:
                continue
        lines.append(line)
    return "\n".join(lines).strip() or None, until


def _time(text: str) -> datetime | None:
    if text[-1:] in ("Z", "z"):
        text = text[:-1] + "+00:00"  # datetime.fromisoformat() reads it from Python 3.11 on
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        return None


def _format(reason: str | None, until: datetime | None) -> bytes:
    lines = [] if reason is None else [reason.strip()]
    if until is not None:
        lines.append(f"until: {until.astimezone().isoformat()}")
    content = "".join(f"{line}\n" for line in lines).encode()
    if len(content) > _TEXT_LIMIT:
        raise ValueError(
            f"reason is too long: {len(content)} bytes, of which {_TEXT_LIMIT} would be read."
        )
    if reason is not None and _parse(reason.encode())[1] is not None:
        raise ValueError("reason has a line that would be read as until. Give until= instead.")
    return content
