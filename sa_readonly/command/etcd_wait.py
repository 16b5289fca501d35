"""Waiting for the workers of all hosts, as they are in etcd at one moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import ClassVar

from ..etcd.changes import Changes
from ..etcd.fence import Fence, judge
from ..etcd.records import Store
from ..workers.protocol import Liveness
from ..workers.status import WorkerStatus
from ..workers.verdict import NO_FILE, Verdict
from .waiting import HOLDS, NOT_YET, Progress, VerdictWait

__all__ = ["EtcdProgress", "EtcdWait"]

_SOON = 0.05  # seconds, so that the end of the fence is past when it is waited for


@dataclass(frozen=True)
class EtcdProgress(Progress):
    """What one round found, in etcd.

    :param hosts: the names of the hosts of the living workers in the awaited mode.
    :param expected_hosts: how many there must be, or None.
    :param left: seconds for which a worker may still go by an answer from before the key.
    :param lost: how many are lost, have not acknowledged and count as drained all the same.
    :param by_server: whether they do by the word of the database's server.
    :param pooled: whether that does not count, as a pooler may stand in between.
    """

    _: KW_ONLY
    hosts: tuple[str, ...] = ()
    expected_hosts: int | None = None
    left: float = 0.0
    lost: int = 0
    by_server: bool = False
    pooled: bool = False

    def _count(self) -> str:
        told = super()._count()
        if self.code != HOLDS:
            return told
        number = len(self.hosts)
        told += f" on {number} host{'' if number == 1 else 's'}"
        if self.lost:
            why = "by the server's word" if self.by_server else "ignored"
            told += f", {self.lost} lost and {why}"
        return told

    def _missing(self) -> list[str]:
        whys, number = super()._missing(), len(self.hosts)
        if self.expected_hosts is not None and number < self.expected_hosts:
            whys.append(f"{number} of {self.expected_hosts} expected hosts are there")
        if any(one.why and one.liveness is Liveness.LOST for one in self.workers):
            whys.append(self._about_the_lost())
        return whys

    def _about_the_lost(self) -> str:
        if self.left > 0:
            return f"for {self.left:.1f} s more one that can't be reached may be given a connection"
        if self.pooled:
            return (
                "the server's word counts for what is lost with --no-pooler only: behind a pooler "
                "in transaction mode one may hold a connection that the server does not see"
            )
        return (
            "what is lost is given no connection any more. Ask the server for those that it had by "
            "--read-write, or give --ignore-dead where you know that there are none"
        )


@dataclass
class EtcdWait(VerdictWait):
    """A wait for the workers of all hosts.

    :param store: the key.
    :param fence: begun when etcd had acknowledged the key, if this process has put it.
    :param no_pooler: whether the server's word counts for a worker that is lost.
    :param expect_hosts: how many hosts there must be, or None.
    """

    thing: ClassVar[str] = "key"
    pause: ClassVar[float] = 1.0  # a watch hastens it

    store: Store
    fence: Fence
    no_pooler: bool = False
    expect_hosts: int | None = None
    _left: float = field(default=0.0, repr=False, init=False)
    _unknown: bool = field(default=False, repr=False, init=False)
    _changes: Changes | None = field(default=None, repr=False, init=False)

    @property
    def expects(self) -> bool:
        """True if a number of workers or of hosts is expected."""
        return super().expects or self.expect_hosts is not None

    def run(self, show: Callable[[Progress], None]) -> Progress:
        """Go on until it is over; a change in etcd begins the next round at once."""
        with Changes(self.store) as self._changes:
            return super().run(show)

    def _rest(self, seconds: float) -> None:
        if 0 < self._left < seconds:
            seconds = self._left + _SOON
        if self._changes is not None:
            self._changes.wait(seconds)

    def _judge(self) -> Verdict:
        # The server is asked only once all others are drained and the fence is over, so that what
        # it says is later than the last connection that one that is lost may have been given.
        by_word = self.ignore_dead or (self.server is not None and self.no_pooler)
        verdict, reading, self._left = judge(self.store, self.fence, self.mode, ignore_dead=by_word)
        why = None if reading is None or verdict.problem != NO_FILE else reading.problem
        self._unknown = why is not None
        if why is not None:
            return Verdict(None, verdict.seen, problem=f"{why}; turn it on first")
        return verdict

    def _read(self, *, again: bool = False) -> Progress:
        found = super()._read(again=again)
        told = {one.name: getattr(found, one.name) for one in fields(found) if one.name != "_"}
        hosts = {str(one.entry.host) for one in found.workers if _is_there(one)}
        told["moved"] = found.moved or self._unknown
        if found.code == HOLDS and len(hosts) < (self.expect_hosts or 0):
            told["code"] = NOT_YET
        return EtcdProgress(
            **told,
            hosts=tuple(sorted(hosts)),
            expected_hosts=self.expect_hosts,
            left=self._left,
            lost=sum(map(_counts_all_the_same, found.workers)),
            by_server=self.server is not None and not self.ignore_dead,
            pooled=self.server is not None and not self.no_pooler,
        )


def _is_there(one: WorkerStatus) -> bool:
    return one.why is None and one.liveness is Liveness.ALIVE


def _counts_all_the_same(one: WorkerStatus) -> bool:
    return one.drained and one.liveness is Liveness.LOST and not one.noticed
