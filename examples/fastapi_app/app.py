"""A guest book with FastAPI and asyncio that can be read while its database is taken away.

Its settings are environment variables:

- ``GUESTBOOK_RW_URL``: the read-write database, for an asyncio driver (``postgresql+asyncpg://...``);
- ``GUESTBOOK_RO_URL``: what is read while read-only, a standby, say; without it, the same database;
- ``GUESTBOOK_FILE``: the file that means read-only.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


engines: list[AsyncEngine] = [create_async_engine(os.environ["GUESTBOOK_RW_URL"])]
if url := os.environ.get("GUESTBOOK_RO_URL"):
    engines.append(create_async_engine(url))
# Each worker process imports this and makes its own; the first transaction registers it.
selector = EngineSelector(
    os.environ["GUESTBOOK_FILE"],
    read_write=engines[0],
    read_only=engines[1] if len(engines) > 1 else None,
)
Session = async_sessionmaker(selector, sync_session_class=RoutingSession)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with selector:
        yield
    for engine in engines:
        await engine.dispose()


app = FastAPI(lifespan=lifespan)


class Text(BaseModel):
    text: str


@app.get("/")
async def show() -> dict[str, object]:
    async with Session() as session:
        entries = await session.scalars(select(Entry.text).order_by(Entry.id.desc()).limit(20))
    return {"worker": os.getpid(), "mode": str(selector.mode), "entries": list(entries)}


@app.post("/", status_code=201)
async def sign(entry: Text) -> Text:
    # The commit is here, not in a dependency after its yield: there it would come after the answer,
    # and who asked would be told 201 for what is not saved.
    async with Session.begin() as session:
        session.add(Entry(text=entry.text))
    return entry


@app.exception_handler(ReadOnlyError)
async def not_saved(_: Request, error: ReadOnlyError) -> Response:
    told = {"title": "Not saved", "detail": error.reason or "The application is read-only for now."}
    return JSONResponse(told, 503, {"Cache-Control": "no-store"})


async def make_tables() -> None:
    async with selector, selector.engine().begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    for engine in engines:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(make_tables())
