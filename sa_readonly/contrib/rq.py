"""RQ: jobs that come back when their write was refused."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from rq import Queue

from .pauses import countdown, refusal_behind

if TYPE_CHECKING:
    from rq.job import Job

__all__ = ["come_back"]

_RETRIES = "sa_readonly_retries"


def come_back(job: Job, _kind: Any, error: BaseException, _traceback: Any) -> bool:
    """Put a job whose write was refused among those that are scheduled: an exception handler.

    Nothing of its transaction was written. It comes back however often it takes, where a scheduler
    runs: ``rq worker --with-scheduler --exception-handler sa_readonly.contrib.rq.come_back``.

    :return: whether the next handler is asked: not about a refusal.
    """
    refusal = refusal_behind(error)
    if refusal is None:
        return True
    retries = job.meta.get(_RETRIES, 0)
    job.meta[_RETRIES] = retries + 1
    moment = datetime.now(timezone.utc) + timedelta(seconds=countdown(refusal, retries))
    queue = Queue(job.origin, job.connection, job_class=type(job), serializer=job.serializer)
    with job.connection.pipeline() as pipeline:  # both or neither
        job.failed_job_registry.remove(job, pipeline=pipeline)
        queue.schedule_job(job, moment, pipeline=pipeline)
        pipeline.execute()
    return False
