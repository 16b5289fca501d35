"""Celery: tasks that come back when their write was refused, and workers that pause."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.signals import worker_process_shutdown, worker_ready

from ..errors import ReadOnlyError
from .pauses import countdown

if TYPE_CHECKING:
    from celery import Celery

    from ..mode import State
    from ..selector import EngineSelector

__all__ = ["PatientTask", "pause_while_read_only"]


class PatientTask(Task):  # type: ignore[misc]  # untyped
    """Comes back, however often it takes, when its write was refused. Nothing of it was written.

    Give it as ``Celery(task_cls=PatientTask)``, or as ``@app.task(base=PatientTask)``.
    """

    max_retries = None
    longest = 300.0
    """The seconds between two attempts, at most. Keep it well below a broker's visibility timeout:
    what waits for longer is delivered twice."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. :raises celery.exceptions.Retry: if a write was refused."""
        try:
            return super().__call__(*args, **kwargs)
        except ReadOnlyError as error:
            pause = countdown(error, self.request.retries, self.longest)
            raise self.retry(exc=error, countdown=pause) from error


def pause_while_read_only(app: Celery, selector: EngineSelector) -> None:
    """Have the workers of an application take no message while read-only.

    What waits in the broker is never refused, so it need not come back. Call it where the module
    that a worker imports makes the application; it opens no connection. The main process of a
    worker is registered from then on, and its processes leave the registry when they end.

    :param app: the application.
    :param selector: the one of its sessions.
    """

    def pause(sender: Any, **_: Any) -> None:
        if sender.app is app:
            _pause(sender, selector)

    def leave(**_: Any) -> None:
        selector.close()

    worker_ready.connect(pause, weak=False)
    worker_process_shutdown.connect(leave, weak=False)


def _pause(consumer: Any, selector: EngineSelector) -> None:
    queues = list(consumer.app.amqp.queues.consume_from)
    main = os.getpid()

    def turn(_: State, new: State) -> None:
        if os.getpid() != main:
            return  # a process of the pool that was forked later has this, too, and no consumer
        # In the thread that noticed it; the consumer is touched in its own loop alone.
        change = consumer.cancel_task_queue if new.read_only else consumer.add_task_queue
        for queue in queues:
            consumer.call_soon(change, queue)

    selector.on_flip(turn)
    # This look registers the main process, too, and starts the thread that notices a flip here.
    state = selector.check()
    if state.read_only:
        turn(state, state)
