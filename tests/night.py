"""The night of an upgrade, for tests: the operator, and a watch at the server."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
from click.testing import CliRunner
from sqlalchemy import URL
from typing_extensions import Self

from sa_readonly import FileSwitch, Mode
from sa_readonly.cli import main
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.verdict import Verdict, judge
from tests.postgres import Server, wait_until

PATIENCE = 60.0  # seconds: a machine that runs other tests too may be slow


class Operator:
    """Turns the application read-only and back, and looks at what its processes report.

    :param expect: how many processes there are.
    """

    def __init__(self, path: Path, expect: int) -> None:
        self.path = str(path)
        self.expect = expect
        self.switch = FileSwitch(path, ttl=3600)
        self.registry = DirectoryRegistry(f"{path}.workers")

    def on(self) -> None:
        """Turn it read-only, and return when it is drained."""
        self.switch.enable("upgrade")
        self.wait(Mode.READ_ONLY)

    def off(self) -> None:
        """Let it write again, and return when every process does."""
        self.switch.disable()
        self.wait(Mode.READ_WRITE)

    def look(self, mode: Mode = Mode.READ_ONLY) -> Verdict:
        return judge(self.switch.identify, self.registry, mode)

    def wait(self, mode: Mode) -> None:
        self.until(lambda verdict: verdict.holds and len(verdict.seen) >= self.expect, mode)

    def until(self, condition: Callable[[Verdict], bool], mode: Mode = Mode.READ_ONLY) -> Verdict:
        last: list[Verdict] = []

        def holds() -> bool:
            last[:] = [self.look(mode)]
            return condition(last[0])

        try:
            wait_until(holds, f"{mode} everywhere", PATIENCE)
        except TimeoutError as error:
            told = [(one.name, why) for one, why in last[0].waiting] or last[0]
            raise TimeoutError(f"{error} The last answer: {told}") from None
        return last[0]


class Commander(Operator):
    """Does it by the commands, which ask the server of the read-write database, too.

    :param process: whether in a process of its own, whose start takes long under load.
    """

    def __init__(self, path: Path, expect: int, database: URL, *, process: bool) -> None:
        super().__init__(path, expect)
        self.database = database.render_as_string(hide_password=False)
        self.process = process

    def on(self) -> None:
        self.command("on", "--reason", "upgrade", "--database", self.database)

    def off(self) -> None:
        self.command("off")

    def command(self, name: str, *options: str) -> None:
        wait = ["--wait", "--timeout", str(PATIENCE), "--expect", str(self.expect)]
        arguments = [name, "--file", self.path, *wait, *options]
        if self.process:
            program = Path(sys.executable).with_name("sa-readonly")
            done = subprocess.run(
                [program, *arguments], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            called = CliRunner().invoke(main, arguments)
            assert called.exit_code == 0, called.output


class Counters(NamedTuple):
    """A row of pg_stat_database: what was done there since the database was made."""

    sessions: int
    committed: int
    rolled_back: int
    inserted: int
    updated: int
    deleted: int


class Watch:
    """Looks at one database all the time, from `with` to its end, and notes who is there.

    A connection that was closed just before may be ending there still. Nothing else may be: no
    connection that is younger, no transaction, and once nobody is there, nobody comes.
    """

    def __init__(self, server: Server, url: URL) -> None:
        self.dsn = server.dsn(application_name="sa_readonly tests: the watch", connect_timeout=60)
        self.database = url.database
        self.seen: list[Any] = []
        self.looks = 0
        self.since: datetime
        self.until: datetime
        self._clear = threading.Event()
        self._end = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._clear.wait(PATIENCE), f"still there: {self.seen}"
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(PATIENCE)
        assert self._error is None, self._error
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with closing(psycopg2.connect(**self.dsn)) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    self._watch(cursor)
        except BaseException as error:  # noqa: BLE001  # raised by who waits for the end
            self._error = error
        finally:
            self._clear.set()

    def _watch(self, cursor: Any) -> None:
        cursor.execute("SELECT clock_timestamp()")
        ((self.since,),) = cursor.fetchall()
        bound = time.monotonic() + PATIENCE
        while ending := self._there(cursor):
            for one in ending:
                times = (one.backend_start, one.state_change or one.backend_start)
                assert (one.state, max(times) < self.since) == ("idle", True), f"in use: {one}"
            assert time.monotonic() < bound, f"never closed: {ending}"
        before = self._counters(cursor)
        self._clear.set()
        last = False
        while not last:
            last = self._end.wait(0.002)
            assert not (seen := self._there(cursor)), f"came: {seen}"
            self.looks += 1
        assert self._counters(cursor) == before
        cursor.execute("SELECT clock_timestamp()")
        ((self.until,),) = cursor.fetchall()

    def _there(self, cursor: Any) -> list[_Backend]:
        cursor.execute(
            "SELECT pid, application_name, state, query, backend_start, state_change"
            " FROM pg_stat_activity WHERE datname = %s",
            (self.database,),
        )
        return [_Backend(*row) for row in cursor.fetchall()]

    def _counters(self, cursor: Any) -> Counters:
        # A backend tells them at its end at the latest, before it leaves pg_stat_activity.
        cursor.execute(
            "SELECT sessions, xact_commit, xact_rollback, tup_inserted, tup_updated, tup_deleted"
            " FROM pg_stat_database WHERE datname = %s",
            (self.database,),
        )
        return Counters(*cursor.fetchone())


class _Backend(NamedTuple):
    pid: int
    application_name: str
    state: str | None
    query: str
    backend_start: datetime
    state_change: datetime | None
