"""200 tasks and 20 flips, as a program of its own: it tells what it saw as JSON.

python -X dev -W error -m tests.async_load RW_URL RO_URL FILE
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from contextlib import closing
from typing import Any

import psycopg2
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from sa_readonly import EngineSelector, FileSwitch, Mode, ReadOnlyError, RoutingSession
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.verdict import judge
from tests.app import WHICH, Book

TASKS, FLIPS = 200, 20
BOUND = 10.0  # seconds; on a quiet machine one is enough, and this one may not be quiet
SOME = 50  # transactions between two flips, at least
FLIP = ("sa_readonly: read-write -> read-only", "sa_readonly: read-only -> read-write")
NAME = "sa_readonly load"

complaints: list[str] = []
seen: dict[str, Any] = {"reads": {"rw": 0, "ro": 0}, "refused": 0, "straddled": 0, "left": []}
committed: list[str] = []


class Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and not record.getMessage().startswith(FLIP):
            complaints.append(f"{record.name}: {record.getMessage()} {record.exc_text or ''}")


async def transact(factory: async_sessionmaker[AsyncSession], title: str) -> None:
    """One that reads, and one that writes."""
    async with factory() as session:
        names = {await session.scalar(WHICH) for _ in range(3)}
    seen["straddled"] += len(names) > 1
    seen["reads"][names.pop()] += 1
    try:
        async with factory.begin() as session:
            first = await session.scalar(WHICH)
            session.add(Book(title=title))
            await session.flush()
            seen["straddled"] += await session.scalar(WHICH) != first
        committed.append(title)
    except ReadOnlyError:
        seen["refused"] += 1


async def task(number: int, factory: Any, end: asyncio.Event) -> None:
    turn = 0
    while not end.is_set():
        turn += 1
        try:
            await transact(factory, f"{number}.{turn}")
        except Exception as error:  # noqa: BLE001  # told
            complaints.append(f"task {number}: {error!r}")


def ask(url: Any, database: str, query: str, *parameters: object) -> int:
    """Ask the server for a number."""
    where = {"host": url.host, "port": url.port, "user": url.username, "dbname": database}
    with closing(psycopg2.connect(**where)) as connection, connection.cursor() as cursor:
        cursor.execute(query, parameters)
        (number,) = cursor.fetchone()
    return int(number)


def connections(url: Any) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = %s"
    return ask(url, "postgres", query, url.database, NAME)


def written(url: Any) -> int:
    return ask(url, url.database, "SELECT count(*) FROM book")


def wait_for(condition: Any, what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            complaints.append(f"not within {seconds} s: {what}")
            return
        time.sleep(0.005)


def operate(selector: EngineSelector, rw: Any, path: str) -> None:
    """The operator, in a thread: on, wait until drained, ask the server, off."""
    registry = DirectoryRegistry(f"{path}.workers")
    for number in range(FLIPS // 2):
        before = sum(seen["reads"].values())
        with open(path, "w") as file:
            file.write(f"flip {number}")
        wait_for(lambda: judge(selector.switch.identify, registry).holds, "drained")
        wait_for(lambda: connections(rw) == 0, "no connection at the server", BOUND)
        seen["left"].append(connections(rw))
        done = written(rw)
        reads = seen["reads"]["ro"]
        wait_for(lambda reads=reads: seen["reads"]["ro"] > reads + SOME, "reads while read-only")
        if written(rw) != done:
            complaints.append("a commit came after it was drained")
        done = len(committed)
        os.unlink(path)
        wait_for(lambda: judge(selector.switch.identify, registry, Mode.READ_WRITE).holds, "back")
        wait_for(lambda done=done: len(committed) > done + SOME, "commits")
        if sum(seen["reads"].values()) == before:
            complaints.append("nothing was read")


async def main(rw_url: str, ro_url: str, path: str) -> None:
    asyncio.get_running_loop().slow_callback_duration = 5.0  # two busy cores; not a hang
    options = {"server_settings": {"application_name": NAME}}

    def engine(url: str, size: int) -> Any:
        return create_async_engine(url, pool_size=size, max_overflow=5, connect_args=options)

    rw, ro = engine(rw_url, 20), engine(ro_url, 20)
    threads = threading.active_count()
    async with EngineSelector(FileSwitch(path, ttl=0.05), read_write=rw, read_only=ro) as selector:
        factory = async_sessionmaker(selector, sync_session_class=RoutingSession)
        await transact(factory, "first")
        end = asyncio.Event()
        tasks = [asyncio.create_task(task(number, factory, end)) for number in range(TASKS)]
        await asyncio.to_thread(operate, selector, make_url(rw_url), path)
        end.set()
        await asyncio.gather(*tasks)
    await rw.dispose()
    await ro.dispose()
    seen["threads"] = threading.active_count() - threads - 1  # the executor's


if __name__ == "__main__":
    logging.getLogger().addHandler(Listener())
    sys.unraisablehook = lambda one: complaints.append(f"unraisable: {one.exc_value!r}")
    asyncio.run(main(*sys.argv[1:]))
    json.dump({**seen, "committed": committed, "complaints": complaints[:20]}, sys.stdout)
