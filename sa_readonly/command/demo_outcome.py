"""What must hold in the demo, and whether it does by what the threads and the databases tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["PHASES", "READ_ONLY", "READ_WRITE", "Check", "Outcome"]

READ_WRITE, READ_ONLY = "read-write", "read-only"
PHASES = (READ_WRITE, READ_ONLY, READ_WRITE)  # the mode in each third of the time

_ENOUGH = 5  # reads, and writes, that each phase must have had for the rest to tell anything
_SLACK = 1.0  # seconds beyond ttl after which a flip counts as missed; a busy machine needs some
_UNDER_PHASES = (
    "Until the file appeared, every transaction was read-write.",
    "From ttl after it appeared until it went, every transaction was read-only.",
    "From ttl after it was gone, every transaction was read-write.",
)


class Check(NamedTuple):
    """Something that must hold, and the numbers that show whether it does."""

    name: str
    holds: bool
    numbers: str


@dataclass
class Outcome:
    """What happened so far, and, once the threads have ended, what is in the databases.

    :param ttl: the switch's.
    :param reads: transactions that read and ended well.
    :param committed: the ids of the rows whose commit came back.
    :param refused: the ids of the rows for which ReadOnlyError was raised.
    :param failed_reads: the errors of transactions that read.
    :param failed_writes: the errors but ReadOnlyError of transactions that wrote.
    :param transactions: how many reached each database.
    :param mixed: how many had statements that reached two databases.
    :param under_way: how many had begun when the file appeared or went.
    :param settled: by phase, what came of it and the database reached, those that began and ended
        in one phase, and began more than ``ttl`` after the file had appeared or gone.
    :param in_read_write: the ids of the rows that are in the read-write database at the end.
    :param in_read_only: the ids of the rows that are in the read-only database at the end.
    :param noticed: the seconds after which the application noticed that the file had appeared, and
        had gone; None where it did not, once each.
    """

    ttl: float
    reads: int = 0
    committed: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    failed_reads: list[str] = field(default_factory=list)
    failed_writes: list[str] = field(default_factory=list)
    transactions: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    under_way: int = 0
    settled: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    in_read_write: set[int] = field(default_factory=set)
    in_read_only: set[int] = field(default_factory=set)
    noticed: Sequence[float | None] = (None, None)

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
        reads = self.reads + len(self.failed_reads)
        not_committed = len(self.refused) + len(self.failed_writes)
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
                not self.mixed,
                f"{self.mixed} of {self.transactions.total()}; a flip caught {self.under_way} "
                "half-way",
            ),
            *(self._check_phase(phase) for phase in range(len(PHASES))),
            self._check_notice("appear", self.noticed[0]),
            self._check_notice("go", self.noticed[1]),
        ]

    def _check_phase(self, phase: int) -> Check:
        """Judge what the transactions of a phase reached, and whether there were enough of them."""
        mode = PHASES[phase]
        write = "refused" if mode == READ_ONLY else "committed"
        counts: Counter[str] = Counter()
        total = right = 0
        for (of, kind, database), number in self.settled.items():
            if of == phase:
                counts[kind] += number
                total += number
                # A write that was refused before any statement was sent has reached no database.
                unsent = kind == "refused" and not database
                if kind in ("read", write) and (database == mode or unsent):
                    right += number
        numbers = f"{right} of {total}: {counts['read']} reads, {counts[write]} writes {write}"
        enough = min(counts["read"], counts[write]) >= _ENOUGH
        if not enough:
            numbers += f"; each must be at least {_ENOUGH} to tell"
        return Check(_UNDER_PHASES[phase], enough and right == total, numbers)

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
