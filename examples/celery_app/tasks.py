"""A Celery worker that pauses while its database is taken away, and loses no task.

Start it with ``python tasks.py && celery --app tasks worker``: the first makes the table.
Its settings are environment variables:

- ``GUESTBOOK_RW_URL``: the read-write database;
- ``GUESTBOOK_RO_URL``: what is read while read-only, a standby, say; without it, the same database;
- ``GUESTBOOK_FILE``: the file that means read-only;
- ``GUESTBOOK_BROKER``: the URL of the broker, or a directory that stands for one, to try it out.
"""

import os
import random
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.signals import worker_process_shutdown, worker_ready
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession, State

LONGEST = 300  # seconds between two attempts; well below a broker's visibility timeout


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


# Made in the main process and forked with it. It opens no connection; each process of the pool
# registers, and has a pool of connections of its own, from its first task on.
selector = EngineSelector(
    os.environ["GUESTBOOK_FILE"],
    read_write=create_engine(os.environ["GUESTBOOK_RW_URL"]),
    read_only=create_engine(url) if (url := os.environ.get("GUESTBOOK_RO_URL")) else None,
)
Session = sessionmaker(selector, class_=RoutingSession)


def countdown(error: ReadOnlyError, retries: int) -> float:
    """Return the seconds until the next attempt: to the file's ``until``, or more each time."""
    left = 0.0
    if error.until is not None:
        left = (error.until - datetime.now(timezone.utc)).total_seconds()
    pause = min(left if left > 0 else 2**retries, LONGEST)
    return max(1, pause) * random.uniform(1, 1.2)  # noqa: S311  # so that not all come at once


class PatientTask(Task):
    """Comes back, however often it takes, when its write was refused. Nothing of it was written."""

    max_retries = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except ReadOnlyError as error:
            raise self.retry(exc=error, countdown=countdown(error, self.request.retries)) from error


app = Celery("tasks", task_cls=PatientTask, broker=os.environ["GUESTBOOK_BROKER"])
app.conf.broker_connection_retry_on_startup = True
if (directory := Path(os.environ["GUESTBOOK_BROKER"])).is_absolute():
    (directory / "messages").mkdir(exist_ok=True)
    app.conf.broker_url = "filesystem://"
    app.conf.broker_transport_options = {
        "data_folder_in": str(directory / "messages"),
        "data_folder_out": str(directory / "messages"),
        "control_folder": str(directory / "control"),
        "polling_interval": 0.1,
    }


@app.task
def sign(text: str) -> None:
    with Session.begin() as session:
        session.add(Entry(text=text))


@worker_ready.connect
def pause_while_read_only(sender: Any, **_: Any) -> None:
    """Take no message while read-only: what waits in the broker need not be retried."""
    queues = list(app.amqp.queues.consume_from)
    main = os.getpid()

    def turn(old: State, new: State) -> None:
        if os.getpid() != main:
            return  # a process of the pool that was forked later has this, too, and no consumer
        # In the thread that noticed it; the consumer is touched in its own loop alone.
        change = sender.cancel_task_queue if new.read_only else sender.add_task_queue
        for queue in queues:
            sender.call_soon(change, queue)

    selector.on_flip(turn)
    # This look registers the main process, too, and starts the thread that notices a flip here.
    state = selector.check()
    if state.read_only:
        turn(state, state)


@worker_process_shutdown.connect
def leave(**_: Any) -> None:
    """Leave the registry: a process of the pool ends without Python's exit functions."""
    selector.close()


if __name__ == "__main__":
    with selector.engine().begin() as connection:
        Base.metadata.create_all(connection)
