"""What the fleet stands on: two servers behind names that move, and the file's directory.

As root there are file systems of its own, so that a disk can be full and a directory unmounted.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import create_engine, insert
from sqlalchemy.pool import NullPool

from benchmarks.chaos.notes import Notes
from benchmarks.chaos.worker import APPLICATION
from sa_readonly.workers.process import born, has_ended
from tests.failover import Name, demote
from tests.fleet_process import SEEDS, Base, Seed
from tests.postgres import Server, Standby, wait_until

DATABASE = "chaos"
MORE = (
    " -c track_commit_timestamp=on -c wal_retrieve_retry_interval=200ms"
    " -c log_min_messages=fatal -c autovacuum=off"
)
FULL, LOGS = 256, 16 * 1024  # KiB of the registry's disk, and of that of the logs
TTL = 0.1


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


class Disks:
    """The directory of the file, that of the workers below it, and that of the logs."""

    def __init__(self, folder: Path) -> None:
        self._real = folder / "real"
        self.state, self.log = folder / "state", folder / "log"
        self.file = self.state / "read-only.txt"
        self.workers = Path(f"{self.file}.workers")
        for one in (self._real, self.state, self.log):
            one.mkdir()
        self.mounted: list[Path] = []
        try:
            self._mount_tmpfs(self._real, 8 * FULL)
            (self._real / self.workers.name).mkdir(mode=0o700)
            self._mount_tmpfs(self._real / self.workers.name, FULL)
            self._mount_tmpfs(self.log, LOGS)
            self.mount()
        except (OSError, subprocess.CalledProcessError):
            self.close()
        self.real = bool(self.mounted)

    def _mount_tmpfs(self, place: Path, size: int) -> None:
        _mount("-t", "tmpfs", "-o", f"size={size}k,mode=0755", "none", place)
        self.mounted.append(place)
        _mount("--make-private", place)

    def mount(self) -> None:
        _mount("--rbind", self._real, self.state)
        _mount("--make-rprivate", self.state)

    def unmount(self) -> None:
        subprocess.run(["umount", "-R", "-l", self.state], check=True, capture_output=True)

    def close(self) -> None:
        for one in (self.state, *reversed(self.mounted)):
            subprocess.run(["umount", "-R", "-l", one], check=False, capture_output=True)
        self.mounted.clear()

    @contextlib.contextmanager
    def full(self, place: Path) -> Any:
        """Have no room left on the disk of a directory."""
        filler = place / "filler"
        try:
            with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)
            yield
        finally:
            filler.unlink(missing_ok=True)


def free_port() -> int:
    """Return a port that is not given to other programs while a server is down.

    The system takes those of their connections from higher ones.
    """
    for port in random.SystemRandom().sample(range(12_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free")


class Servers:
    """A primary and its standby, which change places, each behind a name of its own."""

    def __init__(self) -> None:
        args = Server.DEFAULT_SETTINGS["postgres_args"] + MORE
        self.primary: Server = Server.launch(postgres_args=args, port=free_port())
        self.primary.create_database(DATABASE)
        self.standby: Server = Standby.launch(
            primary=self.primary, postgres_args=args, port=free_port()
        )
        self.rw, self.ro = Name(self.primary.port), Name(self.standby.port)
        engine = create_engine(self.primary.url(DATABASE), poolclass=NullPool)
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(insert(Seed), [{"id": number} for number in range(SEEDS)])
        self.catch_up()

    def url(self, name: Name, driver: str) -> str:
        url = self.primary.url(DATABASE, driver).set(port=name.port)
        return url.render_as_string(hide_password=False)

    def catch_up(self) -> None:
        ((target,),) = self.primary.query("SELECT pg_current_wal_flush_lsn()")
        replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_until(lambda: self.standby.query(replayed, target)[0][0], "the standby's replay")

    def promote(self) -> None:
        """Have the two change places, as in an upgrade: nothing writes meanwhile."""
        streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: self.primary.query(streams)[0][0], "the standby's connection")
        self.catch_up()
        old, new = self.primary, self.standby
        old.terminate()
        # The last that it wrote must be there, or it could not follow its successor for long.
        told = old.tool("pg_controldata", "-D", old.get_data_directory())
        (last,) = re.findall(r"^Latest checkpoint location: +(\S+)", told, re.MULTILINE)
        replayed = "SELECT pg_last_wal_replay_lsn() > %s::pg_lsn"
        wait_until(lambda: new.query(replayed, last)[0][0], "the replay of the last checkpoint")
        data = new.get_data_directory()
        new.tool("pg_ctl", "promote", "-w", "-t", "30", "-D", data)
        self.rw.move(new.port)
        self.primary, self.standby = new, old
        demote(old, new)
        self.ro.move(old.port)

    def stop(self, server: Server, *, at_once: bool) -> None:
        """Stop it as an administrator does, or as a crash does."""
        process = server.child_process
        process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
        process.wait(60)
        server.child_process = None

    def sessions(self) -> list[tuple[int, float]]:
        """Who is connected to write: the process at the server, and since when (wall clock)."""
        return self.primary.query(
            "SELECT pid, extract(epoch FROM backend_start)::float8 FROM pg_stat_activity"
            " WHERE application_name = %s",
            APPLICATION["rw"],
        )

    def rows(self) -> list[tuple[str, float]]:
        """All that was written, and when it was committed (wall clock)."""
        return self.primary.query(
            "SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM load",
            database=DATABASE,
        )

    def close(self) -> None:
        for name in (self.rw, self.ro):
            name.close()
        for server in (self.standby, self.primary):
            server.stop()


def wall_clock() -> float:
    """Return what is added to `time.monotonic()` to have the time of the wall clock."""
    found = []
    for _ in range(100):
        before = time.monotonic()
        wall = time.time()
        after = time.monotonic()
        found.append((after - before, wall - (before + after) / 2))
    return min(found)[1]


class Member:
    """One place in the fleet, and the process that has it now."""

    def __init__(self, slot: str, command: list[str], errors: Path) -> None:
        self.slot, self._command, self._errors = slot, command, errors
        self.killed = False
        self.start()

    def start(self) -> None:
        with open(self._errors, "ab") as errors:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True
            )
        self._orders: Any = self.process.stdin
        self.killed = False

    def order(self, do: str, **how: Any) -> None:
        with contextlib.suppress(OSError):  # it was killed
            self._orders.write(json.dumps({"do": do, **how}) + "\n")
            self._orders.flush()

    def have_it_end(self) -> None:
        with contextlib.suppress(OSError):
            self._orders.close()


ROOT = Path(__file__).parents[2]
FLEET = (
    ("sync-1", "psycopg2"),
    ("sync-2", "psycopg"),
    ("threads-1", "psycopg2"),
    ("threads-2", "psycopg"),
    ("asyncio-1", "asyncpg"),
    ("asyncio-2", "psycopg"),
    ("prefork-1", "psycopg2"),
    ("prefork-2", "psycopg"),
)


class Living(NamedTuple):
    """A process of the fleet, and when it was born, as another one may get its number."""

    name: str
    pid: int
    born: int

    @property
    def slot(self) -> str:
        return self.name.rpartition("-")[0].rpartition("-")[0]

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to this very process; say if it was there."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if born(self.pid) != self.born:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


class Ground:
    """All of it, with the history of the operator."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.folder = Path(tempfile.mkdtemp(prefix="sa-readonly-chaos-"))
        self.history = self.folder / "history"
        self.history.mkdir()
        self.disks = Disks(self.folder)
        self.notes = Notes(self.history, "operator", of_a_process=False)
        self.notes.note("settings", bound=TTL, seed=seed)
        self.clock = wall_clock()
        self.servers = Servers()
        self.members: dict[str, Member] = {}
        self.strange: list[str] = []

    def start(self) -> None:
        for slot, driver in FLEET:
            settings = {
                "slot": slot,
                "kind": slot.partition("-")[0],
                "seed": self.seed,
                "notes": str(self.history),
                "log": str(self.disks.log / slot),
                "file": str(self.disks.file),
                "ttl": TTL,
                "rw": self.servers.url(self.servers.rw, driver),
                "ro": self.servers.url(self.servers.ro, driver),
            }
            program = [sys.executable, "-m", "benchmarks.chaos.worker", json.dumps(settings)]
            self.members[slot] = Member(
                slot, [*unprivileged(), *program], self.folder / f"{slot}.err"
            )

    # -- which live

    def processes(self, slot: str = "", *, masters: bool = False) -> list[Living]:
        """Return those that have started and live."""
        found = []
        for path in sorted(self.history.glob(f"{slot or '*'}-*.jsonl")):
            one = Living(path.stem, *map(int, path.stem.split("-")[-2:]))
            if has_ended(one.pid, one.born):
                continue
            with contextlib.suppress(ValueError), open(path, encoding="utf-8") as file:
                # That it began read-only is noted before it.
                start = next((one for one in map(json.loads, file) if one["kind"] == "start"), None)
                if start is not None and (masters or start.get("works", True)):
                    found.append(one)
        return found

    def all_have_started(self) -> bool:
        """True if each member that was not killed has made its selector, which it notes."""
        started = {one.pid for one in self.processes(masters=True)}
        alive = (one.process for one in self.members.values() if one.process.poll() is None)
        return all(process.pid in started for process in alive)

    def tend(self) -> None:
        """Start those anew that were killed; note those that ended by themselves."""
        for member in self.members.values():
            code = member.process.poll()
            if code is not None:
                if not member.killed:
                    self.strange.append(f"{member.slot} ended by itself, with {code}")
                member.start()

    # -- the end

    def stop(self) -> None:
        """Have all processes end by themselves."""
        for member in self.members.values():
            member.have_it_end()
        for member in self.members.values():
            try:
                code = member.process.wait(60)
            except subprocess.TimeoutExpired:
                self.strange.append(f"{member.slot} did not end")
                member.process.kill()
                member.process.wait()
                continue
            if code:
                self.strange.append(f"{member.slot} ended with {code}")
        wait_until(lambda: not self.processes(masters=True), "the end of what was forked")

    def close(self, *, keep: bool) -> None:
        for member in self.members.values():
            member.process.kill()
            member.process.wait()
        for one in self.processes(masters=True):
            one.send(signal.SIGKILL)
        self.servers.close()
        self.disks.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def unprivileged() -> list[str]:
    """Return what is put before a command for whom a directory's rights hold, also as root."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() or setpriv is None:
        return []
    less = "-dac_override,-dac_read_search"
    return [setpriv, f"--bounding-set={less}", f"--inh-caps={less}"]
