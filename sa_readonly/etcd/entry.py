"""The entry of this process in etcd: its registration, its acknowledgement, and a hint."""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from .. import forks
from ..mode import Mode, clock
from ..workers import process
from ..workers.protocol import Entry, RegistryError
from ..workers.reports import encoded
from .errors import EtcdError, Unreachable, not_registered, not_reported
from .hint import Hint
from .records import ACK, LONGEST_FENCE, Place, marker_of, numbered, registration, revision_of
from .values import absent, created, get_op, put_op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..workers.protocol import Report
    from .records import Store

__all__ = ["EtcdEntry", "owner_of"]

_PATIENCE = 0.2  # seconds to wait for another thread, and for etcd: a gate may be waiting for this
_REQUEST = 2.0  # seconds for a request for which no gate waits
_SILENT = Unreachable("it has not answered the last look", may_be_done=False)
_VOUCHED = 5.0  # seconds for which a look that has shown the registration is enough


class EtcdEntry(Entry):
    """What one process has below ``KEY.workers/``, and each of its forked children on its own.

    A request that was not answered may be done at any later time. So after a put of which that is
    true, and after each acknowledgement that was taken back, the process registers anew, under the
    next number: whatever turns up later has a lower one, and does not count.

    :param store: the key.
    :param owner: what the names of entries begin with.
    :param watching: told whether a thread of this process watches for flips.
    """

    remote, sheet_every, sheet_most, sheet_limit = True, 60.0, 50, 16 * 1024

    def __init__(self, store: Store, owner: str, watching: Callable[[bool], None]) -> None:
        self.place: Place | None = None
        """The registration; None before there is one, and once it is known to be gone."""
        self.acknowledged: str | None = None
        """The generation of which an acknowledgement of this process may be there, or None."""
        self.withdrawing = False
        """Whether the acknowledgement is being taken back, or was, as the key is gone; until the
        next key is seen, none is put."""
        self._store, self._owner, self._watching = store, owner, watching
        self._hint = Hint(store)
        self._lock = forks.PerProcess(threading.RLock)
        self._over = self._may_acknowledge = False
        self._forget()
        forks.subscribe(in_child=self._forget)

    def _forget(self) -> None:
        """Have nothing of the parent's; whether a gate was closed stays, as the gates do."""
        self.place, self.acknowledged, self.withdrawing = None, None, False
        self.puts = 0
        """Counts each put of an acknowledgement twice, before it is sent and after it has ended, so
        that it is odd while one is on its way."""
        self._process = _name(self._owner)
        self._number = 0
        self._old: list[str] = []  # names that are to be deleted
        self._left = False  # whether an acknowledgement may be there by its present name
        self._last: Report | None = None  # the last that acknowledged
        self._stale = False  # whether it is to register anew, though its registration stands
        self._told: tuple[Mode, str | None, Mode | None, bool] | None = None
        self._begun = 0, -math.inf  # how many transactions were told, and when
        self._vouched = -math.inf  # when the last look that showed the registration began
        self._about: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<EtcdEntry {self._process}>"

    # -- being registered ------------------------------------------------------------------

    def ensure(self) -> bool:
        forks.follow()
        if self._over or (self.place is not None and not self._stale):
            return False
        with self._locked(2 * _REQUEST):
            place = self.place
            if self._over or (place is not None and not self._stale):
                return False  # another thread has been here
            try:
                return self._register()
            except RegistryError:
                if place is None or place is not self.place:
                    raise
                return False  # the old one stands: it is tried again

    @property
    def is_over(self) -> bool:
        """True once it was closed: the process has no entry then."""
        return self._over

    def lives(self) -> bool:
        forks.follow()
        return self._over or self.place is not None

    def stands(self) -> bool:
        place = self.place
        if self._over or place is None:
            return self._over
        if not self._store.answers:
            return self.was_seen  # then it is for the switch to say how long
        self._hint.renew(self._process)
        if self._stale:
            return False
        if clock() < self._vouched + _VOUCHED:
            return True
        try:
            kv = self._store.client.get(place.key, timeout=_REQUEST).kv
        except EtcdError:
            return self.was_seen
        if kv is None or kv.create_revision != place.created:
            self.lose(place)
        return self.place is place

    def _register(self, report: Report | None = None) -> bool:
        """Register under a new name, and then delete the old ones.

        What is acknowledged goes along in the same transaction: if the key goes in between, a look
        finds neither the old acknowledgement nor a new one, and nothing could be believed.

        :param report: one that acknowledges; by default the last one, if that still counts.
        :return: False if the key that is acknowledged has gone: then the old name stands.
        """
        store, old = self._store, self.place
        if not store.answers:
            raise RegistryError(not_registered(store.workers, _SILENT))
        self._number += 1
        name = numbered(self._process, self._number)
        key = store.workers + name
        try:
            fence = self._fence_now()
            value = registration(fence, self._facts(), None)
            compared, puts = [absent(key)], [put_op(key, value)]
            report = self._carried(report)
            if report is not None:
                compared.append(created(store.key) == revision_of(report.generation))
                puts.append(put_op(key + ACK, self._told_at(name, fence, report, True)))
            self._old.append(name)  # if it is not answered, it may be there all the same
            answer = store.client.txn(compared, puts, timeout=_REQUEST)
        except EtcdError as error:
            if not (isinstance(error, Unreachable) and error.may_be_done):
                self._forget_old(name)
            raise RegistryError(not_registered(store.workers, error)) from error
        self._forget_old(name)
        if not answer.succeeded:
            if report is not None:
                return False
            raise RegistryError(f"{key} is there already, and can't be this process's.")
        if old is not None:
            self._old.append(old.name)
        self._left, self._stale, self._told, self._vouched = False, False, None, -math.inf
        if report is not None:
            self._left, self.acknowledged, self._last = True, report.generation, report
        self.place = Place(name, key, answer.revision, fence)
        if self._over:  # it was closed meanwhile
            self._end()
            return True
        self._delete_old()
        self._hint.renew(self._process)
        return True

    def _fence_now(self) -> float:
        marker = marker_of(self._store.client.get(self._store.marker, timeout=_REQUEST).kv)
        return LONGEST_FENCE if marker is None else marker.fence

    def _carried(self, report: Report | None) -> Report | None:
        """Return the report that acknowledges a key, or else the last one while that stands."""
        if report is None and self.place is not None and self._left and not self.withdrawing:
            report = self._last
        known = report is not None and revision_of(report.generation) is not None
        return report if known else None

    def _delete_old(self) -> None:
        """Delete the old names, as far as etcd can be asked; what stays does not count."""
        with contextlib.suppress(EtcdError):
            for name in list(self._old):
                # With its acknowledgement, at once: without that it would be waited for.
                self._store.client.delete(self._store.workers + name, prefix=True, timeout=_REQUEST)
                self._forget_old(name)

    def _forget_old(self, name: str) -> None:
        self._old = [one for one in self._old if one != name]  # close() may iterate over it

    def _told_at(self, name: str, fence: float, report: Report, acknowledged: bool) -> bytes:
        facts = self._facts()
        about = {one: facts[one] for one in ("program", "version", "born", "started")}
        return registration(fence, facts, encoded(name, acknowledged, report, about))

    def _facts(self) -> dict[str, Any]:
        if not self._about:
            about = process.about_me()
            self._about = {"host": process.host(), "pid": os.getpid(), **about}
        return {**self._about, "written": time.time()}

    def _require(self) -> Place:
        place = self.place
        if place is None:
            raise RegistryError(
                f"This process is not registered below {self._store.workers} in etcd, as it was "
                "forked, or its entry was deleted. It registers at its next look."
            )
        return place

    # -- what looks tell -------------------------------------------------------------------

    @property
    def was_seen(self) -> bool:
        """True if a look has shown the registration."""
        return self._vouched != -math.inf

    def vouch(self, place: Place, looked: float, fence: float | None) -> None:
        """Take note that a look has shown the registration.

        :param looked: when that look began, by :func:`.mode.clock`.
        :param fence: the marker's, or None without one. If the registration tells another one, it
            is made anew.
        """
        if self.place is place:
            self._vouched = looked
            if fence is not None and fence != place.fence:
                self._stale = True

    def lose(self, place: Place) -> None:
        """Take note that a registration is gone: what is put by its name is not believed."""
        if self.place is place:
            self.place = None

    def sees_key(self) -> None:
        """Take note that a key is there: it may be acknowledged, also where one was withdrawn."""
        self.withdrawing = False

    def withdraw_after(self, place: Place) -> None:
        """Take the acknowledgement back, after a look that showed that it may be.

        No gate is open yet, and none waits for this.

        :raises EtcdError: if etcd has not answered: it may still be there.
        """
        with self._locked(2 * _REQUEST):
            if self.place is place and (self._left or self.acknowledged is not None):
                self.withdrawing = True
                self._take_back(place, _REQUEST)

    def _take_back(self, place: Place, timeout: float) -> None:
        # Whatever it finds: one that was asked for before and not answered may have been done.
        try:
            self._store.client.delete(place.key + ACK, timeout=timeout)
            for name in self._old:  # one that was not answered may have taken it along
                self._store.client.delete(self._store.workers + name, prefix=True, timeout=timeout)
        except EtcdError:
            self._stale = True
            raise
        self._left, self._stale, self.acknowledged = False, True, None

    # -- reporting -------------------------------------------------------------------------

    def note(self, sheet: bytes) -> None:
        self._hint.note(self._process, sheet)

    def closed(self) -> None:
        self._may_acknowledge = True

    def report(self, snapshot: Callable[[], Report]) -> None:
        with self._locked():
            if self._over:
                return
            self._require()
            may_acknowledge = self._may_acknowledge and not self.withdrawing  # before it counts
            report = snapshot()
            self._watching(report.watching)
            acknowledged = may_acknowledge and report.may_acknowledge
            # While read-write nothing is decided by what is counted, and etcd keeps all that is put
            # until it is compacted: what a forced process began is told once a minute.
            told = (report.mode, report.generation, report.forced, acknowledged)
            if self._stale and acknowledged:
                stands = self._register(report)
                if not stands or self._left:
                    self._told = told if stands else None
                    return
            minute = report.begun != self._begun[0] and clock() >= self._begun[1] + 60.0
            if told != self._told or report.mode is Mode.READ_ONLY or minute:
                self._begun = report.begun, clock() if report.begun else -math.inf
                self._told = told if self._put(report, acknowledged) else None

    def _put(self, report: Report, acknowledged: bool) -> bool:
        """Put a report; False if it acknowledges a key that has gone."""
        place = self._require()
        if not self._store.answers:
            raise RegistryError(not_reported(place.key, _SILENT))
        value = self._told_at(place.name, place.fence, report, acknowledged)
        put = put_op(place.key + ACK * acknowledged, value)
        compared = [created(place.key) == place.created]
        before = self._left, self.acknowledged
        if acknowledged:
            revision = revision_of(report.generation)
            if revision is not None:
                # Only beside the key: where it went with an older snapshot, a look must not find
                # what was put since.
                compared.append(created(self._store.key) == revision)
            self.puts += 1
            self._left, self.acknowledged, self._last = True, report.generation, report
        try:
            answer = self._store.client.txn(compared, [put], [get_op(place.key)], timeout=_REQUEST)
            if answer.succeeded:
                return True
            self._left, self.acknowledged = before
        except EtcdError as error:
            if isinstance(error, Unreachable) and error.may_be_done:
                self._stale = True
            else:
                self._left, self.acknowledged = before
            raise RegistryError(not_reported(place.key, error)) from error
        finally:
            self.puts += acknowledged
        kv = answer.answers[0].kv
        if kv is None or kv.create_revision != place.created:
            self.lose(place)
            self._require()
        return False

    def withdraw(self) -> None:
        with self._locked():
            if self._over:
                return
            self._may_acknowledge = False
            place = self._require()
            if not self._left and self.acknowledged is None:
                return
            try:
                self._take_back(place, _PATIENCE)
            except EtcdError as error:
                raise RegistryError(
                    f"{place.key}{ACK} says that this process is drained, and that can't be taken "
                    f"back ({error}): it stays read-only until etcd answers."
                ) from error

    def close(self) -> None:
        self._over = True
        with contextlib.suppress(RegistryError), self._locked():
            pass
        self._end()

    def _end(self) -> None:
        self._watching(False)
        place, self.place = self.place, None
        if place is not None:
            self._old.append(place.name)
        self._delete_old()
        self._hint.end()

    @contextlib.contextmanager
    def _locked(self, patience: float = _PATIENCE) -> Iterator[None]:
        forks.follow()
        lock = self._lock()
        if forks.is_mine(lock):
            raise RegistryError("This thread was interrupted while it wrote into etcd.")
        with forks.locked(lock, patience) as taken:
            if not taken:
                raise RegistryError(
                    f"Another thread has been writing into etcd for {patience} s. Does it answer?"
                )
            yield


def _name(owner: str) -> str:
    """Return a new name of this process; all before its last "-" is that of each of its entries."""
    return f"{owner}-{os.getpid()}-{process.place()}-{secrets.token_hex(8)}"


def owner_of(user: str | None) -> str:
    """Return what the names of this process begin with, so that etcd's rights can go by it."""
    names = [process.host()] if user is None else [re.sub(r"[^\w.-]", "_", user), process.host()]
    return "-".join(names)
