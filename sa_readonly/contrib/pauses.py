"""How long a job whose write was refused waits before it is tried again."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ..errors import ReadOnlyError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["countdown", "refusal_behind"]

_SHORTEST = 1.0  # seconds


def countdown(error: ReadOnlyError, retries: int, longest: float = 300.0) -> float:
    """Return the seconds until the next attempt: to the file's ``until``, or more each time.

    It is up to a fifth longer, so that not all come at once.

    :param retries: how often it was tried again before.
    :param longest: the seconds at most: the database may be back earlier, and brokers with a
        visibility timeout deliver again what waits for longer than that.
    """
    left = 0.0
    if error.until is not None:
        left = (error.until - datetime.now(timezone.utc)).total_seconds()
    pause = min(left if left > 0 else 2 ** min(retries, 30), longest)
    return max(_SHORTEST, pause) * random.uniform(1, 1.2)  # noqa: S311  # no secret


def refusal_behind(error: BaseException) -> ReadOnlyError | None:
    """Return the refusal that an error is or was raised from, or None."""
    return next((one for one in _chain(error) if isinstance(one, ReadOnlyError)), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
