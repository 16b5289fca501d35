"""A guest book with Flask-SQLAlchemy that can be read while its database is taken away.

Start it with ``flask init && gunicorn app:app``. Its settings are environment variables:

- ``GUESTBOOK_RW_URL``: the read-write database;
- ``GUESTBOOK_RO_URL``: what is read while read-only, a standby, say; without it, the same database;
- ``GUESTBOOK_FILE``: the file that means read-only;
- ``GUESTBOOK_TTL``: how old an answer about it may be, in seconds;
- ``GUESTBOOK_LOG``: the file of its log.
"""

import logging
import os
from typing import Any

from flask import Flask, redirect, render_template, request
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.wrappers import Response

from sa_readonly import EngineSelector, FileSwitch, ReadOnlyError
from sa_readonly.contrib.flask_sqlalchemy import SQLAlchemy
from sa_readonly.wsgi import ReadOnlyMiddleware, response_for

environ = os.environ


class RotatedFileHandler(logging.FileHandler):
    """A log file that is opened anew after ``rotated`` was set, as a signal handler may."""

    rotated = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.rotated:
            self.rotated = False
            self.close()  # it opens it again by itself
        super().emit(record)


# With delay each worker opens it, and not the master that preloads.
log = RotatedFileHandler(environ.get("GUESTBOOK_LOG", "guestbook.log"), delay=True)
log.setFormatter(logging.Formatter("%(asctime)s [%(process)d] %(levelname)s %(message)s"))
for name in ("app", "sa_readonly"):
    logging.getLogger(name).addHandler(log)
    logging.getLogger(name).setLevel(logging.INFO)


class Base(DeclarativeBase):
    pass


app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = environ["GUESTBOOK_RW_URL"]
db = SQLAlchemy(app, model_class=Base)
with app.app_context():
    # db.engine is the read-write one, and gives out no connection while read-only. Each bind key
    # whose database is taken away has a selector of its own here, with the same switch.
    selector = EngineSelector(
        FileSwitch(environ["GUESTBOOK_FILE"], ttl=float(environ.get("GUESTBOOK_TTL", "0.1"))),
        read_write=db.engine,
        read_only=create_engine(url) if (url := environ.get("GUESTBOOK_RO_URL")) else None,
    )
    db.selectors = {db.engine: selector}
app.wsgi_app = ReadOnlyMiddleware(app.wsgi_app, selector)


class Entry(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@app.context_processor
def banner() -> dict[str, Any]:
    return {"state": selector.state}


@app.get("/")
def show() -> str:
    entries = db.session.scalars(select(Entry).order_by(Entry.id.desc()).limit(20))
    return render_template("guestbook.html", entries=entries, worker=os.getpid())


@app.post("/")
def sign() -> Response:
    db.session.add(Entry(text=request.form["text"]))
    db.session.commit()  # here, and not in a teardown function: that comes after the answer
    app.logger.info("signed: %s", request.form["text"])
    return redirect("/", 303)


@app.errorhandler(ReadOnlyError)
def not_saved(error: ReadOnlyError) -> Response:
    # Flask would answer 500 itself before the middleware sees it. db.session is removed with the
    # request, and so rolled back.
    app.logger.info("not saved: %s", request.form.get("text"))
    return response_for(error, request.environ)


@app.cli.command("init")
def init() -> None:
    """Make the table: ``flask init``."""
    db.create_all()
