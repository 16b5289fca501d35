"""RQ: jobs that come back when their write was refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .pauses import countdown, refusal_behind

if TYPE_CHECKING:
    from rq.job import Job

__all__ = ["come_back"]

_RETRIES = "sa_readonly_retries"


def come_back(job: Job, _kind: Any, error: BaseException, _traceback: Any) -> bool:
    """Have RQ retry a job whose write was refused, however often: an exception handler.

    Nothing of its transaction was written. It is scheduled, so a scheduler must run:
    ``rq worker --with-scheduler --exception-handler sa_readonly.contrib.rq.come_back``. What the
    job may retry by itself stays for other errors.

    :return: whether the next handler is asked: not about a refusal.
    """
    refusal = refusal_behind(error)
    if refusal is None:
        return True
    retries = job.meta.get(_RETRIES, 0)
    job.meta[_RETRIES] = retries + 1
    # RQ asks these after the handlers: one retry more, and the pause before those that were left.
    left, pauses = job.retries_left or 0, job.retry_intervals or []
    job.retries_left = left + 1
    pause = math.ceil(countdown(refusal, retries))
    job.retry_intervals = [pause, *pauses[max(len(pauses) - left, 0) :]]
    return False
