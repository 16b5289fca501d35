"""The application of benchmarks/hold.py: each write reads a user first, as nearly all requests do.

gunicorn 'benchmarks.hold_app:gunicorn()'
uvicorn --factory benchmarks.hold_app:uvicorn
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import URL, create_engine, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from sa_readonly import EngineSelector, FileSwitch, RoutingSession, asgi, wsgi

POOL = 8  # connections of a process: each is opened anew after a flip


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "held_user"

    id: Mapped[int] = mapped_column(primary_key=True)


class Written(Base):
    """A row for each request that was acknowledged, if all went well."""

    __tablename__ = "held_written"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]


def url() -> URL:
    return make_url(os.environ["HOLD_URL"])


def hold() -> dict[str, Any]:
    seconds = float(os.environ.get("HOLD_SECONDS", "0"))
    return {"hold": seconds or None}


def selector(engine: Any) -> EngineSelector:
    return EngineSelector(
        FileSwitch(os.environ["HOLD_FILE"]),
        read_write=engine,
        max_held=int(os.environ["HOLD_MAX"]),
    )


def gunicorn() -> Any:
    chosen = selector(create_engine(url(), pool_size=POOL, max_overflow=0))
    sessions = sessionmaker(chosen, class_=RoutingSession)

    def app(environ: Any, start_response: Any) -> Any:
        with sessions.begin() as session:
            session.scalars(select(User)).all()
            if environ["REQUEST_METHOD"] == "POST":
                session.add(Written(key=environ["PATH_INFO"]))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    return wsgi.ReadOnlyMiddleware(app, chosen, **hold())


def uvicorn() -> Any:
    engine = create_async_engine(
        url().set(drivername="postgresql+asyncpg"), pool_size=POOL, max_overflow=0
    )
    chosen = selector(engine)
    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(
        chosen, sync_session_class=RoutingSession
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        async with sessions.begin() as session:
            (await session.scalars(select(User))).all()
            if scope["method"] == "POST":
                session.add(Written(key=scope["path"]))
        head = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"ok"})

    return asgi.ReadOnlyMiddleware(app, chosen, **hold())
