"""A guest book that can be read while its database is taken away.

Its settings are environment variables:

- ``GUESTBOOK_RW_URL``: the read-write database;
- ``GUESTBOOK_RO_URL``: what is read while read-only, a standby, say; without it, the same database;
- ``GUESTBOOK_FILE``: the file that means read-only;
- ``GUESTBOOK_TTL``: how old an answer about it may be, in seconds.
"""

import os
from datetime import datetime, timezone

from flask import Flask, redirect, render_template, request
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from werkzeug.wrappers import Response

from sa_readonly import EngineSelector, FileSwitch, ReadOnlyError, RoutingSession

environ = os.environ


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


# This runs where the module is imported: with preloading in the server's master, before the workers
# are forked. It opens no connection, and starts no thread; a worker's first transaction does.
selector = EngineSelector(
    FileSwitch(environ["GUESTBOOK_FILE"], ttl=float(environ.get("GUESTBOOK_TTL", "0.1"))),
    read_write=create_engine(environ["GUESTBOOK_RW_URL"]),
    read_only=create_engine(url) if (url := environ.get("GUESTBOOK_RO_URL")) else None,
)
Session = sessionmaker(selector, class_=RoutingSession)

app = Flask(__name__)


@app.get("/")
def show() -> str:
    with Session() as session:
        entries = session.scalars(select(Entry).order_by(Entry.id.desc()).limit(20)).all()
    return render_template(
        "guestbook.html", entries=entries, state=selector.state, worker=os.getpid()
    )


@app.post("/")
def sign() -> Response:
    with Session.begin() as session:
        session.add(Entry(text=request.form["text"]))
    return redirect("/", 303)


@app.errorhandler(ReadOnlyError)
def not_saved(error: ReadOnlyError) -> tuple[str, int, dict[str, str]]:
    headers = {}
    if error.until is not None:
        left = error.until - datetime.now(timezone.utc)
        headers["Retry-After"] = str(max(1, int(left.total_seconds())))
    text = request.form.get("text", "")
    return render_template("not_saved.html", error=error, text=text), 503, headers


@app.cli.command("init")
def init() -> None:
    """Make the table: ``flask init``."""
    with selector.engine().begin() as connection:
        Base.metadata.create_all(connection)
