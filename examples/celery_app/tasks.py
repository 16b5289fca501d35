"""A Celery worker that pauses while its database is taken away, and loses no task.

Start it with ``python tasks.py && celery --app tasks worker``: the first makes the table.
Its settings are environment variables:

- ``GUESTBOOK_RW_URL``: the read-write database;
- ``GUESTBOOK_RO_URL``: what is read while read-only, a standby, say; without it, the same database;
- ``GUESTBOOK_FILE``: the file that means read-only;
- ``GUESTBOOK_BROKER``: the URL of the broker, or a directory that stands for one, to try it out.
"""

import os
from pathlib import Path

from celery import Celery
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from sa_readonly import EngineSelector, RoutingSession
from sa_readonly.contrib.celery import PatientTask, pause_while_read_only


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


app = Celery("tasks", task_cls=PatientTask, broker=os.environ["GUESTBOOK_BROKER"])
pause_while_read_only(app, selector)
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


if __name__ == "__main__":
    with selector.engine().begin() as connection:
        Base.metadata.create_all(connection)
