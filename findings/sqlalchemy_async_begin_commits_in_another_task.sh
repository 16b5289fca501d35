#!/usr/bin/env bash
# SQLAlchemy: `async with Session.begin()` commits in a task of its own: what its listeners set is lost.
#
# Guess: the end of the block commits where the block ran, as `await session.commit()` does. So a ContextVar that an
#     after_commit listener sets (an id of the transaction for the log, what is to be told after the commit) is set after
#     the block, and asyncio.current_task() in the listener is the task of the caller.
# Truth: the block of async_sessionmaker.begin() is ended by a task that is made for it and shielded, so that a
#     cancellation can't cut a commit short. A task has a copy of the context: what the listener sets is seen by nobody
#     outside. With `await session.commit()` it is seen. AsyncSession.begin() on a session that is there is not so.
# Versions: SQLAlchemy 2.1.9, aiosqlite 0.22.1, Python 3.11.
# Source: lib/sqlalchemy/ext/asyncio/session.py, _AsyncSessionContextManager.__aexit__: create_task and shield.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check 'SQLAlchemy[asyncio]==2.1.9' aiosqlite==0.22.1

venv/bin/python - <<'PY'
import asyncio
from contextvars import ContextVar

import sqlalchemy
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

committed = ContextVar("committed", default="not seen")
tasks = []


@event.listens_for(Session, "after_commit")
def told(session):
    committed.set("seen")
    tasks.append(asyncio.current_task())


async def by_factory(sessions):
    async with sessions.begin() as session:
        await session.execute(text("SELECT 1"))


async def by_session(sessions):
    async with sessions() as session, session.begin():
        await session.execute(text("SELECT 1"))


async def by_commit(sessions):
    async with sessions() as session:
        await session.execute(text("SELECT 1"))
        await session.commit()


async def main():
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    sessions = async_sessionmaker(engine)
    seen = {}
    for way in (by_factory, by_session, by_commit):
        committed.set("not seen")
        await way(sessions)
        seen[way.__name__] = committed.get(), tasks.pop() is asyncio.current_task()
    await engine.dispose()
    return seen


seen = asyncio.run(main())
print(f"SQLAlchemy {sqlalchemy.__version__}")
for way, (value, same) in seen.items():
    print(f"{way}: what after_commit set is {value}; it ran in {'the same' if same else 'another'} task")
if seen != {
    "by_factory": ("not seen", False),
    "by_session": ("seen", True),
    "by_commit": ("seen", True),
}:
    raise SystemExit("it is no longer so")
PY
