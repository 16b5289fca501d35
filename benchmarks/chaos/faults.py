"""What goes wrong, by chance: each fault is done, undone, and noted with what it explains."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import psycopg2

from benchmarks.chaos.ground import FLEET, TTL, Ground, Living, unprivileged
from benchmarks.chaos.operator import Operator
from benchmarks.chaos.worker import APPLICATION
from tests.failover import Name
from tests.postgres import wait_until

PHASES = ("writing", "turning", "drained", "returning")


class Chosen(NamedTuple):
    """One fault of a round.

    :param phase: in which it begins.
    :param delay: seconds from the beginning of the phase.
    :param seconds: how long it lasts.
    :param number: decides what is left to decide, from 0 to 1.
    """

    fault: str
    phase: str
    slot: str
    delay: float
    seconds: float
    number: float

    def __str__(self) -> str:
        return (
            f"{self.fault} ({self.phase}, {self.slot}, +{self.delay:.2f} s, {self.seconds:.2f} s)"
        )


@dataclass
class Scene:
    """What a fault can do something to."""

    ground: Ground
    operator: Operator

    def some(self, chosen: Chosen, *, masters: bool = False) -> Living | None:
        """A process of the slot that was chosen."""
        found = self.ground.processes(chosen.slot, masters=masters)
        return found[int(chosen.number * len(found))] if found else None

    def order(self, chosen: Chosen, do: str, **how: object) -> None:
        self.ground.members[chosen.slot].order(do, **how)


Does = Callable[[Scene, Chosen], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """What is done until the context ends.

    :param explains: which failures it explains, of all processes.
    :param phases: in which it may begin.
    :param slots: which kinds of processes it is for.
    :param alone: whether it ends before the operator goes on, with no other fault beside it.
    :param needs: what it can't do without.
    :param lasts: seconds after its end until which it explains what comes.
    """

    does: Does
    explains: tuple[str, ...] = ()
    phases: tuple[str, ...] = PHASES
    slots: tuple[str, ...] = ("sync", "threads", "asyncio", "prefork")
    alone: bool = False
    needs: str = ""
    lasts: float = 0.0

    def run(self, scene: Scene, chosen: Chosen) -> None:
        at = time.monotonic()
        try:
            with self.does(scene, chosen):
                time.sleep(chosen.seconds)
        finally:
            until = time.monotonic() + self.lasts
            scene.ground.notes.fault(chosen.fault, *self.explains, at=at, until=until)


# -- processes ---------------------------------------------------------------------------------


@contextlib.contextmanager
def kill(scene: Scene, chosen: Chosen) -> Iterator[None]:
    ground, at = scene.ground, time.monotonic()
    one = scene.some(chosen, masters=True)
    if one is not None:
        for member in ground.members.values():
            if member.process.pid == one.pid:
                member.killed = True
        if one.send(signal.SIGKILL):
            ground.notes.fault(chosen.fault, "killed", at=at, process=one.name)
    yield


@contextlib.contextmanager
def stop(scene: Scene, chosen: Chosen) -> Iterator[None]:
    one, at = scene.some(chosen), time.monotonic()
    stopped = one is not None and one.send(signal.SIGSTOP)
    try:
        yield
    finally:
        if one is not None and stopped:
            one.send(signal.SIGCONT)
            told = {"at": at, "until": time.monotonic() + TTL}
            scene.ground.notes.fault(chosen.fault, "pool", **told, process=one.name)


def ordered(do: str) -> Does:
    @contextlib.contextmanager
    def does(scene: Scene, chosen: Chosen) -> Iterator[None]:
        how = {"exits": chosen.number < 0.5} if do == "fork" else {}
        scene.order(chosen, do, seconds=chosen.seconds, **how)
        yield

    return does


@contextlib.contextmanager
def hang_and_end(scene: Scene, chosen: Chosen) -> Iterator[None]:
    """A statement that hangs, and is ended as `sa-readonly wait` says, or cancelled."""
    scene.order(chosen, "hang", seconds=4 * chosen.seconds)
    yield
    ends = "pg_terminate_backend" if chosen.number < 0.5 else "pg_cancel_backend"
    with contextlib.suppress(psycopg2.OperationalError):
        scene.ground.servers.primary.query(
            f"SELECT {ends}(pid) FROM pg_stat_activity WHERE query LIKE '%%pg_sleep%%'"
            " AND state = 'active' AND pid <> pg_backend_pid()"
        )


# -- servers -----------------------------------------------------------------------------------


def cut(which: Callable[[Ground], Name]) -> Does:
    @contextlib.contextmanager
    def does(scene: Scene, _: Chosen) -> Iterator[None]:
        which(scene.ground).cut()
        yield
        which(scene.ground).cut()

    return does


def stop_server(which: str) -> Does:
    @contextlib.contextmanager
    def does(scene: Scene, chosen: Chosen) -> Iterator[None]:
        server = getattr(scene.ground.servers, which)
        scene.ground.servers.stop(server, at_once=chosen.number < 0.5)
        yield
        server.start()

    return does


@contextlib.contextmanager
def promote(scene: Scene, _: Chosen) -> Iterator[None]:
    """In an upgrade no read fails, but those whose connection stayed at the server it came from."""
    ground = scene.ground
    ground.servers.promote()
    at = time.monotonic()
    ground.servers.ro.cut()
    ground.notes.fault("readers moved to the new standby", *LOST["ro"], at=at)
    yield


# -- disks -------------------------------------------------------------------------------------


@contextlib.contextmanager
def full(scene: Scene, _: Chosen) -> Iterator[None]:
    with scene.ground.disks.full(scene.ground.disks.workers):
        yield


@contextlib.contextmanager
def log_full(scene: Scene, _: Chosen) -> Iterator[None]:
    with scene.ground.disks.full(scene.ground.disks.log):
        yield


@contextlib.contextmanager
def permission(scene: Scene, _: Chosen) -> Iterator[None]:
    folder = scene.ground.disks.state
    mode = folder.stat().st_mode
    folder.chmod(0)
    try:
        yield
    finally:
        folder.chmod(mode)


@contextlib.contextmanager
def unmount(scene: Scene, _: Chosen) -> Iterator[None]:
    # What starts meanwhile finds a directory without the file, and can't know that it is another
    # one: docs/usage.md says what an operator does about that.
    wait_until(scene.ground.all_have_started, "the start of what is just being started")
    scene.ground.disks.unmount()
    try:
        yield
    finally:
        scene.ground.disks.mount()


# -- the file ----------------------------------------------------------------------------------


@contextlib.contextmanager
def replace(scene: Scene, _: Chosen) -> Iterator[None]:
    scene.operator.on("another file in its place")
    yield


@contextlib.contextmanager
def edit(scene: Scene, _: Chosen) -> Iterator[None]:
    with open(scene.ground.disks.file, "a", encoding="utf-8") as file:
        file.write("and a line more\n")
    yield


@contextlib.contextmanager
def flap(scene: Scene, chosen: Chosen) -> Iterator[None]:
    for _ in range(3 + int(chosen.number * 5)):
        scene.operator.on("flapping")
        time.sleep(chosen.number * TTL)
        scene.operator.off()
        time.sleep((1 - chosen.number) * TTL)
    yield


# What asyncpg raises where a connection is reset as it is made does not tell by which server.
LOST = {name: (f"connection {name}", "connection ?") for name in APPLICATION}
REGISTER = ("refused",)
THREADED = ("sync", "threads", "asyncio")
FAULTS: dict[str, Fault] = {
    "kill -9": Fault(kill),
    "SIGSTOP": Fault(stop),
    "fork": Fault(ordered("fork"), slots=("sync", "threads")),
    "a statement hangs": Fault(ordered("hang"), slots=THREADED),
    "a statement hangs and is ended": Fault(
        hang_and_end, explains=(*LOST["rw"], "cancelled"), slots=THREADED
    ),
    "the pool exhausted": Fault(ordered("exhaust"), slots=("threads", "asyncio")),
    "the primary stopped": Fault(stop_server("primary"), explains=LOST["rw"]),
    "the standby stopped": Fault(stop_server("standby"), explains=LOST["ro"]),
    "the standby promoted": Fault(promote, phases=("drained",), alone=True),
    "connections to the primary cut": Fault(
        cut(lambda ground: ground.servers.rw), explains=LOST["rw"]
    ),
    "connections to the standby cut": Fault(
        cut(lambda ground: ground.servers.ro), explains=LOST["ro"]
    ),
    "the registry's disk full": Fault(full, explains=REGISTER, needs="mounts"),
    # A look that fails keeps what is known for a ttl more.
    "permission taken": Fault(permission, explains=("stale", *REGISTER), needs="root", lasts=TTL),
    "unmounted": Fault(
        unmount, explains=REGISTER, phases=("writing", "drained"), alone=True, needs="mounts"
    ),
    "the file replaced": Fault(replace, phases=("drained",), alone=True),
    "the file edited": Fault(edit, phases=("drained",), alone=True),
    "the file flapping": Fault(flap, phases=("writing",), alone=True),
    "the clock set back": Fault(ordered("clock"), slots=THREADED),
    "the log's disk full": Fault(log_full, needs="mounts"),
}


OFTEN = ("kill -9", "SIGSTOP", "fork", "a statement hangs")  # are dealt twice as often


def usable(ground: Ground, only: list[str] | None) -> dict[str, Fault]:
    """Those that can be done here, or of them those that are asked for."""
    there = {"", *(["mounts"] if ground.disks.real else []), *(["root"] if unprivileged() else [])}
    return {
        name: fault
        for name, fault in FAULTS.items()
        if fault.needs in there and (not only or name in only)
    }


def plan(seed: int, rounds: int, faults: dict[str, Fault]) -> list[list[Chosen]]:
    """Choose the faults of each round; the same seed chooses the same."""
    chance = random.Random(seed)
    deck: list[str] = []
    chosen = []
    for _ in range(rounds):
        dealt = []
        for _ in range(chance.choice((1, 2, 2, 3))):
            if not deck:
                deck = [*sorted(faults), *(name for name in OFTEN if name in faults)]
                chance.shuffle(deck)
            name = deck.pop()
            fault = faults[name]
            slots = [slot for slot, _ in FLEET if slot.partition("-")[0] in fault.slots]
            dealt.append(
                Chosen(
                    name,
                    chance.choice(fault.phases),
                    chance.choice(slots),
                    delay=chance.uniform(0, 0.3),
                    seconds=chance.uniform(0.1, 1.0),
                    number=chance.random(),
                )
            )
        chosen.append(dealt)
    return chosen
