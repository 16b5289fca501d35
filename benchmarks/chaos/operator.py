"""The operator: turns the fleet read-only and back, and waits, as `sa-readonly` does."""

from __future__ import annotations

import time

import psycopg2

from benchmarks.chaos.ground import TTL, Ground
from benchmarks.history import READ_ONLY, READ_WRITE
from sa_readonly import FileSwitch, Mode
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import Liveness
from sa_readonly.workers.verdict import Verdict, judge

PATIENCE = 90.0  # seconds of a wait; no fault lasts so long
STARTING = 300.0  # seconds until all processes have started, on a machine that is busy
PAUSE = 0.02


class WaitedInVainError(Exception):
    """A wait has ended without what it waited for, which is the end of the run."""


class Operator:
    def __init__(self, ground: Ground) -> None:
        self.ground, self.notes = ground, ground.notes
        self.switch = FileSwitch(ground.disks.file, ttl=3600)
        self.registry = DirectoryRegistry(ground.disks.workers)
        self.took: dict[str, list[float]] = {READ_ONLY: [], READ_WRITE: []}
        self.seen: set[tuple[int, float]] = set()

    def begin(self) -> None:
        """Wait until all have started, which says nothing of how long a flip takes."""
        self.wait(READ_WRITE, STARTING)
        self.took[READ_WRITE].clear()

    def on(self, reason: str = "upgrade") -> None:
        self.registry.sweep(self.switch.identify)
        self.notes.note("turn", to=READ_ONLY)
        self.switch.enable(reason)
        self.notes.note("turned", to=READ_ONLY)

    def off(self) -> None:
        self.notes.note("turn", to=READ_WRITE)
        self.switch.disable()
        self.notes.note("turned", to=READ_WRITE)

    # -- waiting

    def wait(self, to: str, patience: float = PATIENCE) -> None:
        """Wait until all are where they should be, and note it."""
        since = time.monotonic()
        while True:
            self.ground.tend()
            verdict, holds = self._drained() if to == READ_ONLY else self._returned()
            now = time.monotonic()
            if holds:
                living = [one for one in verdict.seen if one.liveness is Liveness.ALIVE]
                pids = [one.pid for one in living]
                self.notes.note("wait", at=now, to=to, holds=True, since=since, pids=pids)
                self.took[to].append(now - since)
                return
            if now > since + patience:
                why = [f"{one.name} ({one.liveness}): {why}" for one, why in verdict.waiting]
                why = [*filter(None, [verdict.problem]), *why]
                self.notes.note("wait", at=now, to=to, holds=False, since=since, pids=[], why=why)
                raise WaitedInVainError
            time.sleep(PAUSE)

    def _drained(self) -> tuple[Verdict, bool]:
        verdict = judge(self.switch.identify, self.registry)
        dead = [one for one, _ in verdict.waiting if one.liveness is Liveness.DEAD]
        if not dead or len(dead) < len(verdict.waiting):
            return verdict, verdict.holds
        # They died in a transaction. The server tells if anything of them is left.
        verdict = judge(self.switch.identify, self.registry, ignore_dead=True)
        try:
            return verdict, verdict.holds and not self.ground.servers.sessions()
        except psycopg2.OperationalError:
            return verdict, False

    def _returned(self) -> tuple[Verdict, bool]:
        verdict = judge(self.switch.identify, self.registry, Mode.READ_WRITE)
        living = {one.pid for one in verdict.seen if one.liveness is Liveness.ALIVE}
        everyone = self.ground.processes()
        there = {one.slot for one in everyone} >= set(self.ground.members)
        return verdict, verdict.holds and there and {one.pid for one in everyone} <= living

    # -- looking at the server

    def watch(self, seconds: float) -> None:
        """Note who is connected to write, for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                found = self.ground.servers.sessions()
            except psycopg2.OperationalError:  # it was stopped
                found = []
            for pid, began in found:
                if (pid, began) not in self.seen:
                    self.seen.add((pid, began))
                    place = f"the server's process {pid}"
                    at = began - self.ground.clock
                    self.notes.note("session", place=place, began=at)
            time.sleep(TTL)
