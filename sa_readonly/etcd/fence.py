"""From when on no worker anywhere is given a read-write connection, whether it can be reached."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ..mode import Mode
from ..workers.verdict import FILE_THERE, Verdict, drained, returned
from .errors import EtcdError
from .records import LONGEST_FENCE, MARGIN
from .registry import read

if TYPE_CHECKING:
    from .records import Store
    from .registry import Reading

__all__ = ["Fence", "judge"]

_ENTRIES_LOST = (
    "the marker was lost, and so may be entries of workers that still go by an older answer: it is "
    "known once the longest fence is over"
)


class Fence:
    """The time that has to pass until each worker has looked since, or is read-only by itself.

    It counts from when the key was first known to be there: a worker's answer that was asked for
    after that shows the key, and an older one is no longer usable.
    """

    def __init__(self) -> None:
        self._generation: str | None = None
        self._since = 0.0  # by time.monotonic(), which is never ahead of the true time that passed
        self._longest = 0.0  # of the entries

    def begin(self, generation: str) -> None:
        """Count from now on: etcd has just answered that the key is there."""
        if generation != self._generation:
            self._generation, self._since, self._longest = generation, time.monotonic(), 0.0

    def left(self, reading: Reading) -> float:
        """Return for how many seconds a worker may still go by an answer from before the key.

        :param reading: a newer one than each before it. Its marker tells the fence, or another one
            was told by an entry that has gone since.
        """
        if reading.generation is None:
            return LONGEST_FENCE
        self.begin(reading.generation)
        self._longest = max(self._longest, reading.fence)
        marker = reading.marker
        told = LONGEST_FENCE if marker is None else marker.longest_fence
        end = self._since + MARGIN * max(told, self._longest)
        return max(0.0, end - time.monotonic())


def judge(
    store: Store, fence: Fence, mode: Mode = Mode.READ_ONLY, *, ignore_dead: bool = False
) -> tuple[Verdict, Reading | None, float]:
    """Read all as it was at one moment, and judge. It raises nothing of etcd.

    :param fence: kept from one call to the next.
    :param mode: where the workers are expected to be.
    :param ignore_dead: whether what is lost counts as drained once the fence is over: the operator
        knows that it left nothing, or the database's server is asked after this.
    :return: the verdict, what was read or None, and the seconds until the fence is over.
    """
    try:
        reading = read(store)
    except EtcdError as error:
        verdict = Verdict(None, problem=f"etcd can't be asked: {error}")
        return verdict, None, LONGEST_FENCE
    left = fence.left(reading)
    seen, generation = reading.seen, reading.generation
    if mode is Mode.READ_ONLY:
        verdict = drained(generation, seen, time.time(), ignore_dead=ignore_dead, fenced=left == 0)
        if verdict.holds and left and not reading.is_whole:
            verdict = replace(verdict, problem=_ENTRIES_LOST)
    elif generation is not None:
        verdict = Verdict(generation, seen, problem=FILE_THERE)
    elif reading.problem is not None:
        verdict = Verdict(None, seen, problem=f"{reading.problem}: run `on`, and then `off`")
    else:
        verdict = returned(seen)
    return verdict, reading, left
