"""A flip of seconds under load, behind real servers on PostgreSQL: what its clients notice.

Each client writes, thinks, and writes again. All rows are counted at the end: one for each request
that was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import URL, create_engine, select

from benchmarks.hold_app import Base, User, Written
from benchmarks.measure import Tables, main, skipped
from benchmarks.transaction import postgresql

SECONDS = 60.0  # after which a server does not start any more
READERS = 4


class Kind(NamedTuple):
    """A server, and who asks it.

    :param writers: clients that write.
    :param thinking: seconds between two requests of one of them.
    """

    command: tuple[str, ...]
    writers: int
    thinking: float


KINDS = {
    "gunicorn, 64 threads": Kind(
        (
            *("gunicorn", "--worker-class", "gthread", "--workers", "{workers}"),
            *("--threads", "64", "--bind", "fd://{fd}", "benchmarks.hold_app:gunicorn()"),
        ),
        writers=32,
        thinking=0.1,
    ),
    "uvicorn": Kind(
        (
            *("uvicorn", "--fd", "{fd}", "--log-level", "warning"),
            *("--factory", "benchmarks.hold_app:uvicorn"),
        ),
        writers=200,
        thinking=2.0,
    ),
}


class Asked(NamedTuple):
    """A request; times are those of time.monotonic()."""

    begin: float
    end: float
    key: str  # of what it wrote, or ""
    status: int  # 0 where the connection was lost


@dataclass
class Load:
    """What clients saw.

    :param flips: when it turned read-only, and when that ended.
    """

    asked: list[Asked] = field(default_factory=list)
    flips: list[tuple[float, float]] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)

    @property
    def writes(self) -> list[Asked]:
        return [one for one in self.asked if one.key]

    @property
    def failed(self) -> list[Asked]:
        return [one for one in self.asked if one.status != 200]

    @property
    def held(self) -> list[tuple[float, float]]:
        """Of each write that waited for the end of a flip: how long it took, and how long after."""
        return [
            (one.end - one.begin, one.end - off)
            for on, off in self.flips
            for one in self.writes
            if on < one.begin < off < one.end and one.status == 200
        ]

    @property
    def reads(self) -> list[float]:
        """How long reads took while read-only."""
        return [
            one.end - one.begin
            for on, off in self.flips
            for one in self.asked
            if not one.key and on < one.begin < off
        ]

    @property
    def not_once(self) -> list[str]:
        """What was acknowledged and is not there once, or is there twice."""
        acknowledged = {one.key for one in self.writes if one.status == 200}
        twice = [key for key, number in self.rows.items() if number > 1]
        return [*(acknowledged - set(self.rows)), *twice]


@contextlib.contextmanager
def serving(
    kind: Kind, url: URL, file: Path, hold: float, workers: int
) -> Iterator[tuple[int, int]]:
    """Run a server; yields its process id and its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        listening.set_inheritable(True)
        # uvicorn takes it for a UNIX socket, and would leave this out.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        command = [one.format(fd=listening.fileno(), workers=workers) for one in kind.command]
        told = {
            "HOLD_URL": url.render_as_string(hide_password=False),
            "HOLD_FILE": str(file),
            "HOLD_SECONDS": str(hold),
            "HOLD_MAX": str(kind.writers),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **told},
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process.pid, listening.getsockname()[1]
        finally:
            process.terminate()
            process.wait(SECONDS)


class Client:
    """One connection after another to a server."""

    def __init__(self, port: int, load: Load) -> None:
        self._port = port
        self._load = load
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, key: str = "") -> int:
        begin, status = time.monotonic(), 0
        try:
            status = await self._ask("POST" if key else "GET", key or "/read")
        except (OSError, EOFError, ValueError, asyncio.IncompleteReadError):
            self.close()
        self._load.asked.append(Asked(begin, time.monotonic(), key, status))
        return status

    async def _ask(self, method: str, path: str) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        await reader.readexactly(length)
        if b"connection: close" in answer:
            self.close()
        return int(answer.split(b" ", 2)[1])

    def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()


async def _drive(
    load: Load, kind: Kind, port: int, file: Path, *, flips: int, seconds: float, pid: int | None
) -> None:
    first, numbers = Client(port, load), itertools.count()
    for _ in range(int(SECONDS * 20)):
        if await first.ask() == 200:
            break
        await asyncio.sleep(0.05)
    load.asked.clear()
    stopped = asyncio.Event()

    async def work(number: int, *, writes: bool) -> None:
        client = Client(port, load)
        thinking = kind.thinking if writes else 0.02
        await asyncio.sleep(thinking * number / kind.writers)
        while not stopped.is_set():
            await client.ask(f"/{next(numbers)}" if writes else "")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stopped.wait(), thinking)
        client.close()

    clients = [
        asyncio.ensure_future(work(number, writes=number < kind.writers))
        for number in range(kind.writers + READERS)
    ]
    for _ in range(flips):
        await asyncio.sleep(max(1.0, kind.thinking))
        on = time.monotonic()
        file.write_text("failover")
        await asyncio.sleep(seconds / 2)
        if pid is not None:
            kill_one(pid)
        await asyncio.sleep(on + seconds - time.monotonic())
        file.unlink()
        load.flips.append((on, time.monotonic()))
    await asyncio.sleep(max(1.0, 2 * kind.thinking))
    stopped.set()
    await asyncio.gather(*clients)
    first.close()


def kill_one(pid: int) -> None:
    """Kill a worker of a server."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    os.kill(int(children[0]), signal.SIGKILL)


def through_flips(
    kind: Kind,
    url: URL,
    *,
    hold: float = 20.0,
    flips: int = 1,
    seconds: float = 5.0,
    kills: bool = False,
) -> Load:
    """Have clients write through flips, and count what they wrote.

    :param hold: seconds; 0 holds nothing.
    :param seconds: how long a flip lasts.
    :param kills: whether a worker of two is killed in each flip.
    """
    load = Load()
    engine = create_engine(url)
    try:
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(User.__table__.insert(), {"id": 1})  # type: ignore[attr-defined]  # a Table
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "read-only.txt")
            with serving(kind, url, file, hold, 1 + kills) as (pid, port):
                asyncio.run(
                    _drive(
                        load,
                        kind,
                        port,
                        file,
                        flips=flips,
                        seconds=seconds,
                        pid=pid if kills else None,
                    )
                )
        with engine.connect() as connection:
            load.rows.update(connection.scalars(select(Written.key)))
    finally:
        engine.dispose()
    return load


def run(rounds: int) -> Tables:
    seconds = min(5.0, rounds / 4)
    tables: Tables = {}
    with postgresql() as server:
        if server is None:
            return {}
        url = server.engine().url
        for name, kind in KINDS.items():
            if find_spec(kind.command[0]) is None:
                skipped(f"a flip behind {name}", f"pip install {kind.command[0]}")
                continue
            title = f"A flip of {seconds:g} s, {kind.writers} writers, {name}"
            held = through_flips(kind, url, seconds=seconds)
            without = through_flips(kind, url, seconds=seconds, hold=0)
            counts = {"failed": len(held.failed), "not once": len(held.not_once)}
            tables[f"{title}: {len(held.writes)} writes, {len(held.held)} held"] = {
                "those held": {**_spread([one for one, _ in held.held]), **counts},
                "after the end of the flip": _spread([one for _, one in held.held]),
            }
            tables[f"{title}: reads meanwhile"] = {
                "hold=20": _spread(held.reads),
                "without": _spread(without.reads),
            }
    return tables


def _spread(seconds: list[float]) -> dict[str, float]:
    parts = statistics.quantiles(seconds * 2, n=100, method="inclusive")
    return {"p50 ms": parts[49] * 1e3, "p99 ms": parts[98] * 1e3, "max ms": max(seconds) * 1e3}


if __name__ == "__main__":
    main(run)
