"""A guest book with Pyramid and zope.sqlalchemy that can be read while its database is taken away.

Start it with ``python app.py && gunicorn --workers 4 --preload app:app``; the first makes a table.
Its settings are environment variables:

- ``GUESTBOOK_RW_URL``: the read-write database;
- ``GUESTBOOK_RO_URL``: what is read while read-only, a standby, say; without it, the same database;
- ``GUESTBOOK_FILE``: the file that means read-only.
"""

import os
from html import escape

import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession
from sa_readonly.wsgi import ReadOnlyMiddleware, response_for


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


selector = EngineSelector(
    os.environ["GUESTBOOK_FILE"],
    read_write=create_engine(os.environ["GUESTBOOK_RW_URL"]),
    read_only=create_engine(url) if (url := os.environ.get("GUESTBOOK_RO_URL")) else None,
)
Session = sessionmaker(selector, class_=RoutingSession)


def session_of(request: Request) -> RoutingSession:
    """Return ``request.session``, which pyramid_tm commits when the view has returned."""
    session = Session()
    zope.sqlalchemy.register(session, transaction_manager=request.tm)
    return session


def show(request: Request) -> Response:
    entries = request.session.scalars(select(Entry.text).order_by(Entry.id.desc()).limit(20))
    state = selector.state
    banner = f"<p>You can read, and not write: {escape(state.reason or '')}</p>" * state.read_only
    entries = "".join(f"<li>{escape(entry)}</li>" for entry in entries)
    return Response(f"{banner}<ul>{entries}</ul><footer>worker {os.getpid()}</footer>")


def sign(request: Request) -> Response:
    request.session.add(Entry(text=request.POST["text"]))
    return HTTPSeeOther("/")  # returned, not raised: what is raised is rolled back


def not_saved(error: ReadOnlyError, request: Request) -> Response:
    # Asked for a refused commit, too. The middleware would answer the same, but where there is a
    # view for every Exception, that would come first. pyramid_retry does not retry this error.
    return request.get_response(response_for(error, request.environ))


def make_app() -> ReadOnlyMiddleware:
    settings = {"tm.manager_hook": "pyramid_tm.explicit_manager", "retry.attempts": 3}
    with Configurator(settings=settings) as config:
        config.include("pyramid_tm")
        config.include("pyramid_retry")
        config.add_request_method(session_of, "session", reify=True)
        config.add_route("book", "/")
        config.add_view(show, route_name="book", request_method="GET")
        config.add_view(sign, route_name="book", request_method="POST")
        config.add_exception_view(not_saved, context=ReadOnlyError)
        return ReadOnlyMiddleware(config.make_wsgi_app(), selector)


app = make_app()

if __name__ == "__main__":
    with selector.engine().begin() as connection:
        Base.metadata.create_all(connection)
