"""A switch on etcd: one key turns the workers of all hosts."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from ..announced import FileAhead
from ..errors import ConfigurationError, seconds
from ..looking import Look, LookingSwitch
from ..mode import Mode, State, clock, now
from ..switch import FileSwitch
from .changes import Follower
from .entry import owner_of
from .history import EtcdAhead
from .looks import look as look_at
from .memory import Judgement, Memory
from .records import LONGEST_FENCE, Store, announced
from .registry import EtcdRegistry
from .rehearsal import Asking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .entry import EtcdEntry
    from .values import Event

__all__ = ["PASSWORD", "TRUST", "USER", "EtcdSwitch", "store_of"]

_FENCE = 10.0  # seconds, until a marker tells it; without one it is read-only at any age
_LONGEST_LOOK = 5.0  # seconds
_OVERTAKEN = 5  # looks in a row that may each be overtaken by a registration

PASSWORD = "SA_READONLY_ETCD_PASSWORD"  # noqa: S105  # the name of a variable
USER = "SA_READONLY_ETCD_USER"
TRUST = {name: f"SA_READONLY_ETCD_{name.upper()}" for name in ("ca", "cert", "cert_key")}
"""The variables that an engine by URL takes these from, as the command does."""


class EtcdSwitch(LookingSwitch):
    """Read-only while a key is in etcd, for the workers of all hosts; see ``docs/etcd.md``.

    ``sa-readonly init`` begins a fleet once: it puts the *marker*, ``KEY.fleet``, which tells the
    fence. A look brings the key by a linearizable read, and the marker and this process's own entry
    as they were then. Its answer is *fresh* for ``ttl`` and *usable* for the marker's fence, both
    counted from before it was asked for. Past ``ttl`` transactions wait for a look, at most
    ``ttl``; then, and for ``ttl`` after one that failed, the last answer is used while it is
    usable. Past the fence this process turns read-only by itself, until etcd answers again.

    - No marker, or another one than this process has taken, without the key beside it: it is not
      known whether etcd's data are those of the fleet, so it is read-only, until the key was there.
    - A connection that was just made is given out after a look that began after that.
    - ``EngineSelector(workers=True)`` means ``"required"`` with it: what is not registered in etcd
      does not write, and is waited for on all hosts.

    The environment variable ``SA_READONLY_FORCE`` counts as it does for a :class:`.FileSwitch`.

    :param urls: ``"https://etcd1:2379,https://etcd2:2379"``, or a sequence of such.
    :param key: the key; it begins with a slash, such as ``"/myapp/read-only"``.
    :param ttl: seconds for which an answer is fresh, and which a transaction waits at most. The
        fence must be longer than three of them.
    :param file: the path of a file that turns this host alone read-only, whatever etcd says; see
        :class:`.FileSwitch`. It is looked at with each look at etcd.
    :param ca: the path of a file with the certificates that are trusted; None trusts those of the
        system.
    :param cert: the path of a client certificate; without a CommonName if etcd has users.
    :param cert_key: the path of its key, if it is not in the same file.
    :param user: a user of etcd; None takes ``SA_READONLY_ETCD_USER`` from the environment, if set.
    :param password: likewise, from ``SA_READONLY_ETCD_PASSWORD``.
    :raises ConfigurationError: if one of them makes no sense, if ``sa-readonly[etcd]`` is not
        installed, if the fence is not longer than three ``ttl``, or if ``SA_READONLY_FORCE`` is
        neither of its two values.
    """

    confirms = True

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        key: str,
        ttl: float = 1.0,
        file: str | os.PathLike[str] | None = None,
        ca: str | None = None,
        cert: str | None = None,
        cert_key: str | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        ttl = seconds("ttl", ttl)
        if not 0 < 3 * ttl < LONGEST_FENCE:
            raise ConfigurationError(
                f"EtcdSwitch(ttl={ttl:g}): ttl must be more than 0 and less than "
                f"{LONGEST_FENCE / 3:g}."
            )
        self.store = store_of(
            urls, key, ca=ca, cert=cert, cert_key=cert_key, user=user, password=password
        )
        super().__init__(self.store.key, ttl=ttl, fence=max(_FENCE, 3 * ttl))
        owner = owner_of(user or os.environ.get(USER) or None)
        self.registry = EtcdRegistry(self.store, owner, looked=True)
        """Where ``workers=True`` has this process register."""
        self._follower = Follower(self.store, self.store.key, self._changed)
        self.registry.watching = self._follower.keep
        self._memory = Memory(self.store)
        self._file = None if file is None else _HostFile(file, ttl=ttl)
        host = None if self._file is None else FileAhead(self._file.path)
        self._ahead, self._ahead_rarer = EtcdAhead(self.store, host), max(1.0, ttl)
        self.rehearses = Asking(self.store)
        """Tells the watcher whether processes are asked to rehearse."""
        self._answered: Look | None = None  # the last look that etcd has answered
        self._trouble: str | None = None  # the last that was logged
        self._reached: datetime | None = None  # when etcd answered last, by the wall clock
        self._revision = 0  # of etcd, by the last look that it has answered
        self._told = 0, -math.inf  # that of the last put that a watch has told, and when it did
        self._hears = False  # whether the gates are being shut by a watch's word
        self._begin()
        marker = self._memory.marker
        if marker is not None and self._is_short(marker.fence):
            raise ConfigurationError(self._too_short(marker.fence))

    def __repr__(self) -> str:
        return f"EtcdSwitch(key={self.store.key!r}, ttl={self.ttl!r})"

    # -- looks ---------------------------------------------------------------------------

    def _ask(self, look: Look) -> Judgement:
        if self._file is not None:
            self._file.check()
        for _ in range(_OVERTAKEN):
            entry = self._entry()
            place = None if entry is None else entry.place
            began, puts = clock(), 0 if entry is None else entry.puts
            sight = look_at(self.store, place, self._patience())
            if entry is None or entry.place is place:
                break
        else:
            raise OSError("this process registers again and again")
        self._revision = sight.revision
        judgement = self._memory.judge(
            sight,
            place,
            acknowledged=None if entry is None else entry.acknowledged,
            withdrawing=entry is not None and entry.withdrawing,
            early=entry is not None and (puts % 2 == 1 or puts != entry.puts),
        )
        if entry is not None:
            judgement = self._settle_entry(entry, judgement, began)
        self._reached = now()
        self._take_fence(judgement)
        self._answered = look
        return judgement

    def _take(self, look: Look) -> None:
        answered = self._answered
        if self._file is not None and look is not answered and answered is not None:
            # Etcd has not answered this one, and the file may have come or gone.
            self._learn(partial(self._state_by_file, answered), answered.began)
        # A process that is forced takes no other look.
        self.store.answers = look.error is None or self.forced is not None
        super()._take(look)  # last: it says that nothing waits for another one for now

    def _settle_entry(self, entry: EtcdEntry, judgement: Judgement, began: float) -> Judgement:
        """Have the entry take note of a look.

        One after which it may write takes the acknowledgement back first.
        """
        place, marker = judgement.place, self._memory.marker
        if place is None:
            return judgement._replace(lost=True)  # it was forked, or lost its registration
        if judgement.lost:
            entry.lose(place)
            return judgement
        entry.vouch(place, began, None if marker is None else marker.fence)
        if judgement.key is not None:
            entry.sees_key()
        elif judgement.may_write and not self._host.read_only:
            entry.withdraw_after(place)
        return judgement

    def _take_fence(self, judgement: Judgement) -> None:
        marker, place = self._memory.marker, judgement.place
        if marker is not None:
            # Never longer than what the entry tells, by which the fleet is waited for.
            self.fence = min(marker.fence, math.inf if place is None else place.fence)

    def _patience(self) -> float:
        """Return for how many seconds a look may go on."""
        return min(max(self.ttl, self.fence / 4), _LONGEST_LOOK)

    def _entry(self) -> EtcdEntry | None:
        entry = self.registry.entry
        return None if entry is None or entry.is_over else entry

    def _changed(self, events: tuple[Event, ...]) -> None:
        """Look, as a watch has told of a change; where the key was put, shut the gates first.

        Read-only is safe on anyone's word. Nothing is acknowledged by it, as it has no generation,
        and the age of what is known stays. One that is older than the last look tells nothing.
        """
        last = events[-1] if events else None
        if last is not None and not last.deleted and last.kv.mod_revision > self._revision:
            self._told = revision, _ = last.kv.mod_revision, clock()
            shut = State(Mode.READ_ONLY, *announced(last.kv).text, since=now())

            def decide(known: State) -> State | None:
                return None if known.read_only or self._revision >= revision else shut

            self._hears = True
            try:
                self._learn(decide, self.checked)
            finally:
                self._hears = False
        self.check()

    # -- what is known -------------------------------------------------------------------

    def _state_after(self, look: Look, known: State) -> State | None:
        judgement: Judgement = look.answer
        new = self._shut_by(judgement, self._host)
        if new is not None:
            same = (new.reason, new.until, new.generation)
            if known.read_only and same == (known.reason, known.until, known.generation):
                return known
            return replace(new, since=known.since if known.read_only else now())
        entry = self._entry()
        if judgement.early or judgement.place is not (None if entry is None else entry.place):
            return None  # it has registered since: the next look is one by that
        revision, told = self._told
        if look.began < told and self._revision < revision:
            return None  # a watch has told of a key that was put since, however late this ends
        if clock() >= look.began + self.fence:
            return None  # such an old answer must not let anything write
        return State(Mode.READ_WRITE, since=now()) if known.read_only else known

    def _state_by_file(self, answered: Look, known: State) -> State | None:
        """Return the state once the file has come or gone while etcd does not answer."""
        state = self._state_after(answered, known)
        if state is None and known.generation is not None:  # that of a file that has gone
            return State(Mode.READ_ONLY, self._why_fenced(), since=known.since)
        return state

    def _shut_by(self, judgement: Judgement, host: State) -> State | None:
        """Return the state, without its time, if anything makes it read-only; else None."""
        key, trouble = judgement.key, None
        if key is None:
            trouble = self._trouble_of(judgement)
        self._say_trouble(trouble)
        if trouble is None and judgement.lost and key is None:
            trouble = f"this process is not registered below {self.store.workers} in etcd"
        generations = (None if key is None else key.generation, host.generation)
        generation = " + ".join(filter(None, generations)) or None
        if key is not None:
            return State(Mode.READ_ONLY, *key.text, generation=generation)
        if trouble is not None:
            return State(Mode.READ_ONLY, trouble, generation=generation)
        return replace(host, generation=generation) if host.read_only else None

    @property
    def _host(self) -> State:
        """What the file of this host says."""
        return _NO_FILE if self._file is None else self._file.known

    def _trouble_of(self, judgement: Judgement) -> str | None:
        """Return why it is read-only without the key until an operator acts, or None."""
        if judgement.unknown is None and self._is_short(self.fence):
            return self._too_short(self.fence)
        return judgement.unknown

    def _why(self, state: State) -> str:
        if state.read_only and state.generation is None and not self._hears:
            return str(state.reason)
        return super()._why(state)

    def _is_short(self, fence: float) -> bool:
        return fence <= 3 * self.ttl

    def _too_short(self, fence: float) -> str:
        return (
            f"the fence of {self.store.key} is {fence:g} s, which is not longer than three ttl of "
            f"{self.ttl:g} s. Give a smaller ttl, or run `sa-readonly init --fence` with a longer "
            "one while the key is there"
        )

    def _say_trouble(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            cure = "Run `sa-readonly on`, and then `off` once it is known that the data are right."
            if self._memory.marker is None:
                cure = (
                    f"Run `sa-readonly init` if no worker of {self.store.key} has ever run; else "
                    "`sa-readonly on`, and then `off`."
                )
            message = (
                "It is not known whether the application may write, so it is read-only: %s. %s"
            )
            self._say(logging.ERROR, "etcd_trouble", message, trouble, cure)
        self._trouble = trouble

    def _generation(self, look: Look) -> str | None:
        judgement: Judgement = look.answer
        if judgement.key is not None:
            return judgement.key.generation
        if judgement.unknown is not None:
            raise OSError(judgement.unknown)
        return None

    def _why_fenced(self) -> str:
        if self._reached is None:
            return "etcd can't be reached"
        since = self._reached.astimezone(timezone.utc).isoformat(timespec="seconds")
        return f"etcd can't be reached since {since}"

    def _note_failure(self, error: BaseException) -> None:
        self._note("A look at %s in etcd failed (%s)", self.name, str(error).rstrip("."))

    # -- forks ---------------------------------------------------------------------------

    def _after_fork(self) -> None:
        # The parent's answer is not the child's: it would be used for the rest of the fence by a
        # process that has registered nowhere.
        self.checked = self._expires = self.fresh_until = -math.inf
        super()._after_fork()


_NO_FILE = State(Mode.READ_WRITE)


class _HostFile(FileSwitch):
    """The file that turns one host read-only. Its flips are told by the switch that looks at it."""

    _forcible = False

    def _say(self, level: int, event: str, message: str, *args: object, **options: Any) -> None:
        if level >= logging.ERROR:
            super()._say(level, event, message, *args, **options)


def store_of(urls: object, key: object, **options: Any) -> Store:
    """Return a key in etcd, with a client of its own.

    :param options: ``ca``, ``cert``, ``cert_key``, ``user`` and ``password``; a user or password
        that is None is taken from the environment, if it is set there.
    :raises ConfigurationError: if one of them makes no sense, or the extra is not installed.
    """
    try:
        # They import ssl and urllib3, which is an extra; importing this package imports neither.
        from .addresses import parse  # noqa: PLC0415
        from .client import Client  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"A switch on etcd needs what is not installed ({error}). "
            "Cure: pip install sa-readonly[etcd]."
        ) from error
    for name, variable in (("user", USER), ("password", PASSWORD)):
        if options.get(name) is None:
            options[name] = os.environ.get(variable) or None
    client = Client(urls, **options)  # type: ignore[arg-type]  # it refuses what makes no sense
    return Store(client, key, parse(urls))
