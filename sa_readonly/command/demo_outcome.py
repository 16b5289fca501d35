"""What must hold in the demo, and whether it does by what the threads and the databases tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

READ_WRITE, READ_ONLY = "read-write", "read-only"
PHASES = (READ_WRITE, READ_ONLY, READ_WRITE)  # the mode in each third of the time
HALF_WAY, UNSETTLED = -1, -2  # instead of the phase of a transaction

_ENOUGH = 5  # reads, and writes, that each phase must have had for the rest to tell anything
_SLACK = 1.0  # seconds beyond ttl after which a flip counts as missed; a busy machine needs some
_OF_PHASES = (
    "Until the file appeared, every transaction was read-write.",
    "From ttl after it appeared until it went, every transaction was read-only.",
    "From ttl after it was gone, every transaction was read-write.",
)


class Check(NamedTuple):
    """Something that must hold, and the numbers that show whether it does."""

    name: str
    holds: bool
    numbers: str


class Kind(NamedTuple):
    """A kind of transactions.

    :param phase: the phase in which they began and ended, more than ``ttl`` after the file had
        appeared or gone. If it appeared or went meanwhile, ``HALF_WAY``; if it just had,
        ``UNSETTLED``.
    :param result: ``"read"``, ``"committed"``, ``"refused"`` (by ReadOnlyError) or ``"failed"``.
    :param databases: those that their statements reached.
    """

    phase: int
    result: str
    databases: frozenset[str]


@dataclass
class Outcome:
    """What happened so far, and, once the threads have ended, what is in the databases.

    :param ttl: the switch's.
    :param transactions: how many there were of each kind.
    :param committed: the ids of the rows for which the commit came back.
    :param refused: the ids of the rows that were refused.
    :param failed_reads: the errors of transactions that read.
    :param failed_writes: the errors but ReadOnlyError of transactions that wrote.
    :param in_read_write: the ids of the rows that are in the read-write database at the end.
    :param in_read_only: the ids of the rows that are in the read-only database at the end.
    :param noticed: the seconds after which the application noticed that the file had appeared, and
        had gone; None unless it noticed each once.
    """

    ttl: float
    transactions: Counter[Kind] = field(default_factory=Counter)
    committed: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    failed_reads: list[str] = field(default_factory=list)
    failed_writes: list[str] = field(default_factory=list)
    in_read_write: set[int] = field(default_factory=set)
    in_read_only: set[int] = field(default_factory=set)
    noticed: Sequence[float | None] = (None, None)

    def __str__(self) -> str:
        """Tell in one line what happened so far."""
        reached: Counter[str] = Counter()
        for kind, number in self.transactions.items():
            reached.update(dict.fromkeys(kind.databases, number))
        failed = len(self.failed_reads) + len(self.failed_writes)
        return (
            f"transactions: {reached[READ_WRITE]} read-write, {reached[READ_ONLY]} read-only; "
            f"writes: {len(self.committed)} committed, {len(self.refused)} refused"
            + (f", {failed} failed" if failed else "")
        )

    @property
    def holds(self) -> bool:
        """True if all holds that must."""
        return all(check.holds for check in self.checks)

    @property
    def checks(self) -> list[Check]:
        """All that must hold."""
        written = self.in_read_write & self.committed
        strange = self.in_read_write - self.committed
        written_all_the_same = self.refused & (self.in_read_write | self.in_read_only)
        reads = self._count(result="read") + len(self.failed_reads)
        not_committed = len(self.refused) + len(self.failed_writes)
        mixed = sum(n for kind, n in self.transactions.items() if len(kind.databases) > 1)
        return [
            Check(
                "Every committed write is in the read-write database, and nothing else.",
                self.in_read_write == self.committed,
                f"{len(written)} of {len(self.committed)}" + _more(strange, "not committed"),
            ),
            Check(
                "No write is in the read-only database.",
                not self.in_read_only,
                f"{len(self.in_read_only)} found",
            ),
            Check(
                "No read failed.",
                not self.failed_reads,
                f"{len(self.failed_reads)} of {reads}{_first(self.failed_reads)}",
            ),
            Check(
                "Every write that was not committed raised ReadOnlyError, and wrote nothing.",
                not self.failed_writes and not written_all_the_same,
                f"{len(self.refused)} of {not_committed}"
                + _more(written_all_the_same, "written all the same")
                + _first(self.failed_writes),
            ),
            Check(
                "No transaction used two databases.",
                not mixed,
                f"{mixed} of {self.transactions.total()}; a flip caught "
                f"{self._count(phase=HALF_WAY)} half-way",
            ),
            *(self._check_phase(phase) for phase in range(len(PHASES))),
            self._check_notice("appear", self.noticed[0]),
            self._check_notice("go", self.noticed[1]),
        ]

    def _count(self, **of: object) -> int:
        found = self.transactions.items()
        return sum(n for kind, n in found if of.items() <= kind._asdict().items())

    def _check_phase(self, phase: int) -> Check:
        """Judge what the transactions of a phase reached, and whether there were enough of them."""
        write = "refused" if PHASES[phase] == READ_ONLY else "committed"
        # A write that was refused before any statement was sent has reached no database.
        right = self._count(phase=phase, result="refused", databases=frozenset())
        right *= write == "refused"
        for result in ("read", write):
            databases = frozenset({PHASES[phase]})
            right += self._count(phase=phase, result=result, databases=databases)
        reads, writes = (self._count(phase=phase, result=one) for one in ("read", write))
        total = self._count(phase=phase)
        numbers = f"{right} of {total}: {reads} reads, {writes} writes {write}"
        enough = min(reads, writes) >= _ENOUGH
        if not enough:
            numbers += f"; each must be at least {_ENOUGH} to tell"
        return Check(_OF_PHASES[phase], enough and right == total, numbers)

    def _check_notice(self, what: str, seconds: float | None) -> Check:
        name = f"The file was seen to {what}."
        if seconds is None:
            return Check(name, False, "not once")
        numbers = f"after {seconds * 1000:.0f} ms (ttl is {self.ttl * 1000:.0f} ms)"
        return Check(name, seconds <= self.ttl + _SLACK, numbers)


def _more(ids: set[int], what: str) -> str:
    return f", {len(ids)} {what}" if ids else ""


def _first(failures: list[str]) -> str:
    return f"; the first: {failures[0]}" if failures else ""
