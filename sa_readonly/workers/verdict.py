"""Whether all workers are drained, or read-write again.

*Drained* is a promise, on which an operator takes the database away. It stands on this:

- A worker registers, and takes its first look at the switch afterwards. A reader takes the identity
  of the file, reads the entries, takes the identity again, and starts over if it differs. So the
  file was there all the while. A worker that is missing among the entries registered after the
  reading had begun; it looks after that, and sees the file.
- A worker acknowledges a file after its gates are closed and its connections counted, so that the
  count can only fall. Before a gate opens the acknowledgement is withdrawn, and no report that was
  begun before can bring it back.
- A mark that lasts exactly as long as the process tells that the process lives: in a directory, a
  lock. Where none does, as among hosts, a process is never judged dead, but lost: then its own
  acknowledgement of this very file alone counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..mode import Mode
from .protocol import SILENT, Liveness, Report, Seen, read_between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .protocol import Identify, Registry

__all__ = ["Verdict", "drained", "judge", "returned"]

NO_FILE = "there is no file: it is read-write"
FILE_THERE = "the file is there: it is read-only"


@dataclass(frozen=True)
class Verdict:
    """Whether all workers are where the operator wants them.

    :param generation: the identity of the file that this is about, or None without one.
    :param seen: every entry.
    :param waiting: each entry that is not drained or, with no file, read-write again; and why.
    :param problem: why nothing can be said at all, or None.
    """

    generation: str | None
    seen: tuple[Seen, ...] = ()
    waiting: tuple[tuple[Seen, str], ...] = ()
    problem: str | None = None

    @property
    def nobody(self) -> bool:
        """True if no entry is there but dead ones, so that nothing is known."""
        return all(one.liveness is Liveness.DEAD for one in self.seen)

    @property
    def holds(self) -> bool:
        """True if no entry is waited for, and there is at least one entry."""
        return self.problem is None and bool(self.seen) and not self.waiting


def drained(
    generation: str | None,
    seen: Sequence[Seen],
    now: float,
    *,
    ignore_dead: bool = False,
    fenced: bool = False,
) -> Verdict:
    """Judge whether no worker holds a read-write connection or can still get one.

    :param generation: the identity of the file that was there while they were read.
    :param seen: every entry.
    :param now: the wall-clock time, in seconds since 1970.
    :param ignore_dead: whether those count as drained that died without a word, or are lost: the
        operator knows that they left nothing, or the database's server is asked.
    :param fenced: whether what is lost can get no connection any more, wherever it is.
    """
    if generation is None:
        return Verdict(None, tuple(seen), problem=NO_FILE)
    whys = [
        (one, _why_not_drained(one, generation, now))
        for one in seen
        if not (ignore_dead and _is_gone(one, fenced=fenced))
    ]
    return Verdict(generation, tuple(seen), tuple((one, why) for one, why in whys if why))


def returned(seen: Sequence[Seen]) -> Verdict:
    """Judge whether every worker that lives is read-write again, when there is no file."""
    gone = (Liveness.DEAD, Liveness.LOST)
    whys = [(one, _why_not_returned(one)) for one in seen if one.liveness not in gone]
    return Verdict(None, tuple(seen), tuple((one, why) for one, why in whys if why))


def judge(
    identify: Identify,
    registry: Registry,
    mode: Mode = Mode.READ_ONLY,
    *,
    ignore_dead: bool = False,
) -> Verdict:
    """Read every entry while the file stays the same, and judge. It raises nothing of the file.

    :param identify: tells the identity of the file, by a look each time.
    :param mode: where the workers are expected to be.
    :param ignore_dead: see :func:`drained`.
    """
    try:
        generation, seen, same = read_between(identify, registry)
    except OSError as error:
        return Verdict(None, problem=f"the file can't be looked at: {error}")
    if not same:
        return Verdict(None, seen, problem="the file changes all the time")
    if mode is Mode.READ_ONLY:
        return drained(generation, seen, time.time(), ignore_dead=ignore_dead)
    if generation is None:
        return returned(seen)
    return Verdict(generation, seen, problem=FILE_THERE)


def _is_gone(one: Seen, *, fenced: bool) -> bool:
    return one.liveness is Liveness.DEAD or (fenced and one.liveness is Liveness.LOST)


def _why_not_drained(one: Seen, generation: str, now: float) -> str | None:
    """Return why an entry is not drained, or None. What is not known for sure is not drained."""
    if one.liveness is Liveness.UNKNOWN:
        # Even if it acknowledged: a reader elsewhere may be shown old entries and an old file.
        return _doubt(one)
    if one.liveness is Liveness.LOST:
        return _why_lost(one, generation)
    if one.liveness is Liveness.DEAD:
        return _why_dead(one, generation)
    report = one.report
    if report is None:
        return one.problem or SILENT
    if not one.acknowledges(generation):
        if report.forced is Mode.READ_WRITE:
            return "forced to read-write"
        return f"has not noticed{_unwatched(report)}"
    if not report.connections:
        return None
    since = "" if report.since is None else f" since {max(0, int(now - report.since))} s"
    return f"{_out(report.connections)}{since}{_unwatched(report)}"


def _why_dead(one: Seen, generation: str) -> str | None:
    report = one.report
    if one.left_nothing:
        return None
    if report is None:
        after = "" if one.problem in (None, SILENT) else f" ({one.problem})"
        return f"unknown: died without a word{after}"
    if not one.acknowledges(generation):
        return "unknown: died without a word"
    return f"unknown: died with {_out(report.connections)}"


def _why_lost(one: Seen, generation: str) -> str | None:
    """Return why what may live elsewhere is not drained, or None. It is by its own word alone."""
    report = one.report
    if report is None:
        return f"lost: {one.problem or SILENT}"
    if one.acknowledges(generation) and not report.connections:
        return None
    # While read-write a worker tells of connections when it registers, and hardly ever after that.
    since = ", and maybe more since" if report.mode is Mode.READ_WRITE else ""
    return f"lost: {report.mode}, with {_out(report.connections)} when it last reported{since}"


def _out(connections: int) -> str:
    return f"{connections or 'no'} connection{'' if connections == 1 else 's'} out"


def _why_not_returned(one: Seen) -> str | None:
    if one.liveness is Liveness.UNKNOWN:
        return _doubt(one)
    report = one.report
    if report is None:
        return one.problem or SILENT
    if report.forced is Mode.READ_ONLY:
        return "forced to read-only"
    if report.server and report.mode is Mode.READ_WRITE:
        return "its database server is read-only"
    if report.mode is Mode.READ_WRITE and not one.acknowledged:
        return None
    return f"has not noticed{_unwatched(report)}"


def _doubt(one: Seen) -> str:
    return one.doubt or one.problem or "can't tell if it lives"


def _unwatched(report: Report) -> str:
    return "" if report.watching else ", no watcher thread runs there"
