"""The switches: the file, which is looked at, written and removed here alone, and a fixed one."""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import math
import os
import re
import stat
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy.exc import InvalidRequestError

from .errors import ConfigurationError
from .mode import Mode, State, Switch, clock, now

__all__ = ["FileSwitch", "FixedSwitch"]

logger = logging.getLogger("sa_readonly")

FORCE = "SA_READONLY_FORCE"
_TEXT_LIMIT = 4096  # bytes of the file that are read
# Looks in a row that may each take longer than ttl. With 32 threads that only compute, every sixth
# or so does, by waiting for the interpreter's lock: so few would tell a healthy one read-only.
_LOOKS = 10
_SWAPS = 3  # looks in a row during each of which the directory may change


class _Telling(Switch):
    """What both switches have: their subscribers, and the mode that a test dictates."""

    known: State

    def __init__(self) -> None:
        self.fresh_until = self._expires = -math.inf
        self._pid = os.getpid()
        self._locks = _Locks()
        self._locks_of = {self._pid: self._locks}
        # A dict, which a garbage collection may change at any moment without a lock.
        self._subscribers: dict[_Subscriber, None] = {}
        self._pending: deque[Callable[[], None]] = deque()  # what is to be logged and told
        self._jammed = False  # whether it was logged that a gate failed
        self._overrides: dict[object, State] = {}  # the newest last
        self._before: tuple[State, Mode | None] | None = None  # what was known before, and forced

    def subscribe(
        self,
        gate: Callable[[State], None],
        flipped: Callable[[State, State], None],
    ) -> Callable[[], None]:
        """Have every flip told; see :meth:`.Switch.subscribe`.

        Bound methods are held weakly: a subscriber that is collected is forgotten.
        """
        self._follow_fork()
        subscriber = _Subscriber(gate, flipped)
        with self._locks.state:
            subscriber.turn(self.known)
            self._subscribers[subscriber] = None

        def unsubscribe() -> None:
            self._follow_fork()
            # No gate is turned after this. Not for ever: a garbage collection may call it in a
            # thread that holds a lock for which a gate waits.
            state = self._locks.state
            locked = state.acquire(timeout=1)
            self._subscribers.pop(subscriber, None)
            if locked:
                state.release()

        return unsubscribe

    # -- a test --------------------------------------------------------------------------

    def override(self, state: State) -> Callable[[], None]:
        """Have this process know ``state``; see :meth:`.Switch.override`."""
        self._follow_fork()
        key = object()

        def end() -> None:
            self._follow_fork()
            settled = True
            with self._locks.state:
                if self._overrides.pop(key, None) is not None:
                    settled = self._settle("a test has ended")
            self._tell()
            if not settled:
                raise InvalidRequestError(
                    f"{self!r} stays {self.known.mode} after a test: a gate failed to open. The "
                    "log tells why. Override it once more, and end that."
                )

        with self._locks.state:
            if not self._overrides and self._before is None:
                self._before = self.known, self.forced
            self._overrides[key], done = state, False
            try:
                done = self._settle("a test dictates it")
            finally:
                if not done:
                    del self._overrides[key]
                    self.overridden = bool(self._overrides)
        self._tell()
        if not done:
            raise InvalidRequestError(
                f"{self!r} can't be overridden {state.mode}: a gate failed to open. The log tells "
                "why."
            )
        return end

    def _settle(self, why: str) -> bool:
        """Know what the newest override says or, without any, what was known before them."""
        self.overridden = bool(self._overrides)
        state, forced, until = self.known, self.forced, math.inf
        if self._overrides:
            state = list(self._overrides.values())[-1]
            forced = state.mode
        elif self._before is not None:
            (state, forced), until = self._before, -math.inf

        def answer(state: State) -> None:
            self.known, self.forced = state, forced
            self.fresh_until = self._expires = until

        done = self._turn(state, answer, why)
        if not self._overrides:
            if done:
                self._before = None
            else:
                answer(self.known)  # where there is a next look, it tries again then
        return done

    # -- the gates, under the lock --------------------------------------------------------

    def _turn(self, new: State, answer: Callable[[State], None], why: str) -> bool:
        """Have an answer, and turn the gates by it; False if they did not open for it."""
        old = self.known
        if new.mode is old.mode:
            answer(new)
            if new.read_only:
                self._close_gates()  # those that failed to close
        elif new.read_only:
            answer(new)
            self._jammed = False
            try:
                self._close_gates()
            finally:
                self._say_flip(logging.WARNING, old, new, why)
        elif self._open_gates(new):
            answer(new)
            self._say_flip(logging.INFO, old, new, why)
        else:
            return False
        return True

    def _close_gates(self) -> None:
        with self._turning():
            for subscriber in list(self._subscribers):
                if not subscriber.closed and subscriber in self._subscribers:
                    try:
                        subscriber.turn(self.known)
                    except Exception as error:  # noqa: BLE001  # logged, though not under the lock
                        self._say_jammed("A gate failed to close. Each BEGIN is refused.", error)

    def _open_gates(self, new: State) -> bool:
        """Open all gates, or none: when one fails, all are closed again."""
        try:
            with self._turning():
                for subscriber in list(self._subscribers):
                    if subscriber in self._subscribers:
                        subscriber.turn(new)
            return True
        except BaseException as error:
            self._close_gates()
            if not isinstance(error, Exception):
                raise
            self._say_jammed("A gate failed to open: this process stays read-only for now.", error)
            return False

    @contextlib.contextmanager
    def _turning(self) -> Iterator[None]:
        """Have a gate that asks for the mode get the one that holds, and not turn the gates."""
        locks = self._locks
        locks.turning = True
        try:
            yield
        finally:
            locks.turning = False

    # -- telling -------------------------------------------------------------------------

    def _say(self, level: int, message: str, *args: object, **options: Any) -> None:
        # A log handler may itself ask for the mode, so nothing is logged under the lock.
        self._pending.append(partial(logger.log, level, message, *args, **options))

    def _say_jammed(self, message: str, error: Exception) -> None:
        if not self._jammed:
            self._jammed = True
            self._say(logging.ERROR, message, exc_info=error)

    def _say_flip(self, level: int, old: State, new: State, why: str) -> None:
        self._say(level, "sa_readonly: %s -> %s: %s", old.mode, new.mode, why)
        for subscriber in list(self._subscribers):
            self._pending.append(partial(self._tell_flip, subscriber, old, new))

    def _tell_flip(self, subscriber: _Subscriber, old: State, new: State) -> None:
        flipped = subscriber.flipped()
        if flipped is None or subscriber not in self._subscribers:
            return
        try:
            flipped(old, new)
        except Exception:
            logger.exception("What was to be done after a flip failed.")

    def _tell(self) -> None:
        """Log and tell what is pending: in order, by one thread at a time, under no lock."""
        telling: Any = self._locks.telling
        if telling._is_owned():  # what is told asks for the mode; it goes on with the rest
            return
        try:
            while self._pending and telling.acquire(blocking=False):
                while self._pending:
                    self._pending.popleft()()
                telling.release()
        finally:
            if telling._is_owned():  # an exception of a signal handler comes between any two steps
                telling.release()

    # -- forking -------------------------------------------------------------------------

    def _follow_fork(self) -> None:
        """Make the locks anew in a forked child: who holds them in the parent is not here."""
        pid = os.getpid()
        if pid == self._pid:
            return
        # setdefault() gives two threads of the child the same ones.
        self._locks = self._locks_of.setdefault(pid, _Locks())
        self._pid = pid
        with self._locks.state:
            if self.known.read_only:  # the parent may have been about to close them
                self._close_gates()


class FileSwitch(_Telling):
    """Read-only while anything is at ``path``: a file, a directory, even a dangling symlink.

    The answer is the cached result of a ``stat()``. From ``ttl / 2`` on one thread looks again
    while the others go on with the old answer; an answer older than ``ttl`` is used by nobody. No
    thread is needed for that.

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
        self.path = _absolute(path)
        self.name = self.path
        # Older answers are never used: whatever hangs or fails, a look can always be had.
        self.ttl = self.fence = seconds("ttl", ttl)
        self.directory = os.path.dirname(self.path)
        self.forced = _forced()
        super().__init__()
        # Where the file must be missing to mean read-write: the directory in which it was seen.
        self._home = self._directory_now()
        self._astray = self._failing = self._slow = False  # each is logged once
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
        if clock() < self.fresh_until:
            return self.known
        return self.refresh()

    @property
    def read_only(self) -> bool:
        """True while the application must not write."""
        return self.state.mode is Mode.READ_ONLY

    def refresh(self) -> State:
        """Return an answer that is not older than ``ttl``.

        Before ``ttl`` is over, one thread looks again and the others get the answer that is known;
        after it each looks for itself, so that a ``stat()`` that hangs holds up no one else.
        """
        if self.forced is not None:
            self.fresh_until = math.inf  # somebody wished to be asked once
            return self.known
        self._follow_fork()
        if clock() >= self._expires:
            return self._look()
        refreshing = self._locks.refreshing
        if refreshing.acquire(blocking=False):
            try:
                # Another thread may have looked since this one read the clock.
                if clock() >= self.fresh_until:
                    return self._look()
            finally:
                refreshing.release()
        return self.known

    def glance(self) -> bool:
        """Look, if a few calls of ``stat()`` are enough for it: for who must not wait, as a loop.

        :return: True if ``known`` may be used now. False if the file came, went or was edited, of
            which nothing is known yet: call :meth:`refresh` where it may read and tell.
        """
        if self.forced is not None:
            self.fresh_until = math.inf
            return True
        self._follow_fork()
        started, known = clock(), self.known
        if started < self.fresh_until:
            return True
        seen: _Seen = None
        try:
            if known.read_only:
                seen = self._same_sighting(known)
            else:
                os.stat(self.path, follow_symlinks=False)
            if seen is None:
                return False
        except FileNotFoundError:
            if known.read_only:
                return False
        except OSError as error:
            seen = error
        self._apply(seen, started)
        if self._pending:
            self._tell()
        return self.ttl == 0 or clock() <= self._expires

    def check(self) -> State:
        """Look again now, whatever the age of the answer, and return the state."""
        if self.forced is not None:
            return self.known
        self._follow_fork()
        return self._look()

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
        :raises ValueError: if the text is too long, is no Unicode, or would be read otherwise.
        :raises OSError: if it can't be written, and is then as it was; or if its directory can't be
            brought to the disk, and it may not outlive a crash.
        """
        content = _format(reason, until)
        descriptor, temporary = tempfile.mkstemp(prefix=".sa_readonly-", dir=self.directory)
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
        :raises OSError: if it can't be removed (a directory at the path is never removed), or if
            its directory can't be brought to the disk, and it may come back after a crash.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._sync_directory()
        return self.check()

    def _sync_directory(self) -> None:
        # A name is durable only once its directory is on the disk. Windows can't open one.
        if not hasattr(os, "O_DIRECTORY"):
            return
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:  # we may write into it and yet not list it
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system without fsync for directories
                raise
        finally:
            os.close(descriptor)

    # -- looking -------------------------------------------------------------------------

    def _begin(self) -> None:
        """Take the first look, of which no subscriber is told."""
        started = clock()
        seen = self._examine()
        if isinstance(seen, OSError):
            reason = f"{self.path} can't be looked at: {seen}"
            self.known = State(Mode.READ_ONLY, reason, since=now())
        self._answer(self._state_after(seen), started)
        if self.known.generation is not None:
            self._say(logging.WARNING, "sa_readonly starts read-only: %s", self._told(self.known))
        self._tell()

    def _look(self) -> State:
        for _ in range(_LOOKS):
            started = clock()
            self._apply(self._examine(), started)
            # In this order, so that ``known`` is no older than that; see _answer().
            expires, known = self._expires, self.known
            # A ttl of 0 asks for one look each time, no less.
            in_time = self.ttl == 0 or clock() <= expires
            if in_time and self._slow:
                self._note_slow(False)
            if self._pending:
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
        if not known.read_only:
            try:
                os.stat(self.path, follow_symlinks=False)
            except FileNotFoundError:
                return None
            except OSError as error:
                return error
        # The directory is asked before and after, so that it is known which one answered.
        seen: _Seen = None
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

    def identify(self) -> str | None:
        """Return the generation of the file that is there now, or None if there surely is none.

        It asks the file system, whatever is known, and changes nothing: for who judges workers.

        :raises OSError: if that can't be told.
        """
        try:
            return self._identified()[1]
        except FileNotFoundError:
            os.stat(self.directory)  # or it was the directory that is missing
            return None

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
        if key == known.generation:
            text = _Text(known.reason, known.until)
        elif regular:
            text = self._read()
        else:
            text = _Text(problem=f"{self.path} is not a regular file.")
        return _Sighting(key, text, _since(own), directory)

    def _same_sighting(self, known: State) -> _Sighting | None:
        """Return what is at the path if that is what is known, or None."""
        directory = self._directory_now()
        own, key, _ = self._identified()
        if key != known.generation or self._directory_now() != directory:
            return None
        return _Sighting(key, _Text(known.reason, known.until), _since(own), directory)

    def _directory_now(self) -> _Identity | None:
        try:
            found = os.stat(self.directory)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _read(self) -> _Text:
        """Read the operator's text, unless that could block or lead to somebody's secrets."""
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
            return _Text(problem=f"The text of {self.path} is not read ({error}).")
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    # -- what is known -------------------------------------------------------------------

    def _apply(self, seen: _Seen, started: float) -> None:
        """Take what a look saw for the answer, unless a later look has answered already."""
        locks = self._locks
        with locks.state:
            old = self.known
            if started < self.checked or locks.turning or self.forced is not None:
                return
            if seen is None and old.read_only:
                return  # it began before the flip and did not ask which directory answered
            new = self._state_after(seen)
            flips = new.read_only and not old.read_only
            why = self._told(new) if flips else f"{self.path} is gone"
            if not self._turn(new, lambda state: self._answer(state, started), why):
                self._answer(old, started)  # it tries again at the next look

    def _answer(self, state: State, started: float) -> None:
        # ``known`` first: a reader that sees the new time must see the new answer.
        self.known = state
        self.checked = started
        self._expires = started + self.ttl
        self.fresh_until = started + self.ttl / 2

    def _state_after(self, seen: _Seen) -> State:
        """Return the state to publish. Nothing of it is kept elsewhere: it may not get that far."""
        known = self.known
        if isinstance(seen, OSError):
            if not self._failing:
                self._failing = True
                message = "%s can't be looked at (%s): the mode stays %s."
                self._say(logging.ERROR, message, self.path, seen, known.mode)
            return known
        if self._failing:
            self._failing = False
            self._say(logging.INFO, "%s can be looked at again.", self.path)
        if not isinstance(seen, _Sighting):
            if not known.read_only or self._elsewhere(seen):
                return known
            return State(Mode.READ_WRITE, since=now())
        self._home, self._astray = seen.directory, False
        if seen.key == known.generation:
            return known
        (reason, until, problem), key = seen.text, seen.key
        if problem is not None:
            self._say(logging.WARNING, "%s It means read-only all the same.", problem)
        if not known.read_only:
            return State(Mode.READ_ONLY, reason, until, seen.since, key)
        edited = replace(known, reason=reason, until=until, generation=key)
        self._say(logging.INFO, "sa_readonly: still read-only: %s", self._told(edited))
        return edited

    def _elsewhere(self, seen: _Gone | None) -> bool:
        """True if the file is missing in another directory than the one in which it was."""
        directory = None if seen is None else seen.directory
        if directory is not None and self._home in (None, directory):
            return False
        if not self._astray:
            self._astray = True
            self._say(
                logging.ERROR,
                "%s is gone together with its directory, which was unmounted or swapped: the mode "
                "stays read-only. Bring the directory back, or create the file and remove it.",
                self.path,
            )
        return True

    def _note_slow(self, slow: bool) -> None:
        with self._locks.state:
            if slow is self._slow:
                return
            self._slow = slow
            if slow:
                message = (
                    "A look at %s takes longer than ttl=%s s, so its answer is too old when it "
                    "comes and whoever asks is told read-only. Give a larger ttl."
                )
                self._say(logging.ERROR, message, self.path, self.ttl)
            else:
                self._say(logging.INFO, "A look at %s is faster than ttl again.", self.path)

    def _told(self, state: State) -> str:
        """Describe a read-only state for the log."""
        reason = "no reason given" if state.reason is None else f"reason {state.reason!r}"
        until = "" if state.until is None else f", until {state.until.isoformat()}"
        return f"{self.path} is there ({reason}{until})"


class FixedSwitch(_Telling):
    """A switch that never moves: for tests, and for a script that must write at night.

    :param mode: a :class:`Mode`.
    :raises ConfigurationError: if ``mode`` is not a :class:`Mode`.
    """

    name = "FixedSwitch"
    ttl = fence = math.inf

    def __init__(self, mode: Mode) -> None:
        if not isinstance(mode, Mode):
            raise ConfigurationError(
                f"FixedSwitch(mode) takes Mode.READ_WRITE or Mode.READ_ONLY, not {mode!r}."
            )
        super().__init__()
        self.known = State(mode, since=now())
        self.fresh_until = math.inf

    def refresh(self) -> State:
        """Return the one state there is."""
        self.fresh_until = math.inf  # somebody wished to be asked once
        return self.known

    def check(self) -> State:
        """Return the one state there is."""
        return self.refresh()

    def __repr__(self) -> str:
        return f"FixedSwitch({self.known.mode})"


class _Locks:
    """The locks of one process."""

    def __init__(self) -> None:
        # What is known, and the gates; never held while looking. A signal handler that asks for the
        # mode may come in the middle, so it is reentrant.
        self.state = threading.RLock()
        self.turning = False
        self.refreshing = threading.Lock()
        self.telling = threading.RLock()


_Identity = tuple[int, int]  # device and inode


class _Text(NamedTuple):
    """What the operator wrote, or why that is not read."""

    reason: str | None = None
    until: datetime | None = None
    problem: str | None = None


class _Sighting(NamedTuple):
    """Something is at the path."""

    key: str
    text: _Text
    since: datetime
    directory: _Identity | None


class _Gone(NamedTuple):
    """Nothing is at the path, in this directory (None if that is missing or was being swapped)."""

    directory: _Identity | None


# None: nothing is at the path, and while read-write it does not matter in which directory.
_Seen = _Sighting | _Gone | OSError | None


class _Subscriber:
    def __init__(
        self, gate: Callable[[State], None], flipped: Callable[[State, State], None]
    ) -> None:
        self.gate = _weak(gate)
        self.flipped = _weak(flipped)
        self.closed = False

    def turn(self, state: State) -> None:
        """Turn the gate; when that raises, it counts as not closed."""
        self.closed = False
        if gate := self.gate():
            gate(state)
        self.closed = state.read_only


def _weak(function: Callable[..., None]) -> Callable[[], Callable[..., None] | None]:
    if inspect.ismethod(function):
        return weakref.WeakMethod(function)
    return lambda: function


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


def _absolute(path: object) -> str:
    try:
        name = os.fspath(path)  # type: ignore[call-overload]  # what is no path raises TypeError
        os.fsencode(name)
    except (TypeError, UnicodeEncodeError):
        name = None
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigurationError(
            f"FileSwitch(path) takes the path of a file as a string or os.PathLike, not {path!r}."
        )
    if name != name.strip():
        raise ConfigurationError(
            f"The path {name!r} begins or ends with white space. A file without it would never be "
            "seen: strip what was read from a file or a variable."
        )
    absolute = os.path.abspath(name)
    if os.pardir in name.split(os.sep):
        # abspath() strikes out ".." with the name before it, which is wrong after a symlink.
        absolute = os.path.join(os.getcwd(), name)
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


def seconds(name: str, value: object) -> float:
    """Return a number of seconds that is not negative, or refuse what is none."""
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not 0 <= value <= sys.float_info.max  # which NaN is not
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

_TIME = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T ]([01]\d|2[0-3])(?::?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?"
    r" ?(?:(Z)|([+-]\d\d)(?::?(\d\d))?)?)?",
    re.ASCII | re.IGNORECASE,
)


def _parse(content: bytes) -> _Text:
    """Return the reason and the time in a line ``until: <ISO 8601 time>``, which is cut out."""
    until = None
    lines = []
    # Notepad puts a mark before the text.
    for line in content.decode("utf-8-sig", "replace").splitlines():
        key, _, value = line.partition(":")
        if until is None and key.strip().lower() == "until":
            until = parse_time(value.strip())
            if until is not None:
                continue
        lines.append(line)
    return _Text("\n".join(lines).strip() or None, until)


def parse_time(text: str) -> datetime | None:
    """Read the time, in UTC; without an offset it is local time.

    It is spelled out for ``datetime.fromisoformat()``, which reads other forms in each Python.
    """
    if not (match := _TIME.fullmatch(text)):
        return None
    year, month, day, hour, minute, second, fraction, utc, offset, offset_minute = match.groups("")
    date = f"{year}-{month}-{day}"
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}.{fraction[:6]:0<6}"
    zone = "+00:00" if utc else f"{offset}:{offset_minute or '00'}" if offset else ""
    try:
        return datetime.fromisoformat(f"{date}T{clock}{zone}").astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):  # no such day, or out of range
        return None


def _format(reason: str | None, until: datetime | None) -> bytes:
    reason = (reason or "").strip()
    if _parse(reason.encode()).until is not None:
        raise ValueError("reason has a line that would be read as until. Give until= instead.")
    lines = [reason] if reason else []
    if until is not None:
        try:
            line = f"until: {until.astimezone().isoformat()}"
        except (ValueError, OverflowError, OSError):
            line = ""
        if _parse(line.encode()).until is None:
            raise ValueError(f"until is out of range: {until!r}.")
        lines.append(line)
    content = "".join(f"{line}\n" for line in lines).encode()
    if len(content) > _TEXT_LIMIT:
        raise ValueError(
            f"reason is too long: {len(content)} bytes, of which {_TEXT_LIMIT} would be read."
        )
    return content
