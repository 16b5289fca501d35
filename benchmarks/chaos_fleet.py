"""A fleet on three members of etcd, of which something fails at each flip; then its history.

`python -m benchmarks.chaos_fleet --flips 200 --seed 1`: eight workers of two hosts on PostgreSQL,
one fault at a time for etcd and at times another one for a host or a worker. What each process did
is checked at the end by :mod:`.history`. docs/fleet.md says what each fault does to a fleet.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy import create_engine

from benchmarks.fleet_app import Base
from benchmarks.history import (
    READ_ONLY,
    READ_WRITE,
    Event,
    History,
    Violation,
    check,
    counted,
    event,
    read,
)
from sa_readonly import Mode
from sa_readonly.etcd.errors import EtcdError
from sa_readonly.etcd.fence import Fence, judge
from sa_readonly.etcd.operator import OperatorError, init, turn_off, turn_on
from sa_readonly.etcd.records import Store
from sa_readonly.etcd.switch import store_of
from sa_readonly.workers.protocol import Liveness
from tests.etcd import Etcd, Node, Proxy, programs
from tests.postgres import Pair, Server, fresh_pair

KEY = "/chaos/read-only"
APPLICATION = "the fleet"
HOSTS, EACH, THREADS = ("web1", "web2"), 4, 2
TTL, FENCE = 0.25, 4.0  # seconds
THINKING = 0.1
TOKEN = 2  # seconds for which a token of etcd is good, where that can be chosen
PATIENCE = 90.0  # seconds: each wait holds by then, as each fault ends
# Seconds after a fault within which it still explains a refused write: the spread of logins, three
# at a member that is silent, and a look.
RECOVERY = 6.0
RECENT = 2**20  # bytes of what a worker has noted, in which its last flip is
LATE = 10.0  # seconds after which a record of a flip that was reported is missing


@dataclass
class Fleet:
    """Etcd, the databases, the workers, and how each host reaches each member."""

    etcd: Etcd
    server: Server
    pair: Pair
    folder: Path
    seed: int
    ids: list[int]  # of the members
    roads: dict[str, list[Proxy]] = field(default_factory=dict)
    workers: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def note(self, at: float, kind: str, **told: Any) -> None:
        process = told.pop("process", "operator")
        self.events.append(event(at, process, kind, **told))

    @cached_property
    def store(self) -> Store:
        """The key, as its operator has it."""
        return store_of(self.etcd.urls, KEY, user="operator", password="operator")  # of a throwaway

    def token(self) -> str:
        """One of root's, who disarms alarms and defragments."""
        root = {"name": "root", "password": "root"}
        return str(self.etcd.ask("/v3/auth/authenticate", root)["token"])

    def version(self) -> str:
        told = json.loads(self.etcd.node.request("GET", "/version")[1])
        return f"etcd {told['etcdserver']}"

    def start(self, stack: ExitStack) -> None:
        environment = {"SA_READONLY_ETCD_USER": "worker", "SA_READONLY_ETCD_PASSWORD": "worker"}
        for host in HOSTS:
            self.roads[host] = [stack.enter_context(Proxy(n.port)) for n in self.etcd.nodes]
            for number in range(EACH):
                name = f"{host}-{number}"
                settings = {
                    "name": name,
                    "host": host,
                    "notes": str(self.folder / f"{name}.jsonl"),
                    "application": APPLICATION,
                    "rw": self.pair.read_write.render_as_string(hide_password=False),
                    "ro": self.pair.read_only.render_as_string(hide_password=False),
                    "etcd": ",".join(road.url for road in self.roads[host]),
                    "key": KEY,
                    "ttl": TTL,
                    "thinking": THINKING,
                    "threads": THREADS,
                    "seed": self.seed,
                }
                self.workers[name] = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.fleet_app", json.dumps(settings)],
                    env={**os.environ, **environment},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                stack.callback(self.workers[name].kill)
        for worker in self.workers.values():
            if worker.stdout is None or worker.stdout.readline() != "ready\n":
                raise RuntimeError("a worker did not start")

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.communicate("stop\n", timeout=60)

    def sessions(self) -> None:
        """Note the connections to the read-write database that are open."""
        dsn = self.server.dsn()
        with closing(psycopg2.connect(**dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid, extract(epoch FROM backend_start) FROM pg_stat_activity"
                " WHERE datname = %s AND application_name = %s",
                (self.pair.read_write.database, APPLICATION),
            )
            found = cursor.fetchall()
        for pid, began in found:
            place = f"session {pid}"
            self.note(time.monotonic(), "session", place=place, began=_monotonic(began))

    def logged(self) -> list[str]:
        """The mode that each worker's last record of a flip tells."""
        found = []
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - RECENT))
                modes = re.findall(rb'"kind": "flip", "to": "([\w-]+)"', file.read())
            found.append(modes[-1].decode() if modes else READ_WRITE)
        return found

    def rows(self) -> None:
        """Note what is there at the end, and when the server committed it."""
        dsn = self.server.dsn(database=self.pair.read_write.database)
        with closing(psycopg2.connect(**dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM load"
            )
            for name, at in cursor.fetchall():
                self.note(_monotonic(at), "row", name=name, process="")

    def history(self) -> list[Event]:
        """All that was noted."""
        return [*self.events, *read(sorted(self.folder.glob("*.jsonl")))]


def _monotonic(epoch: Any) -> float:
    """A time of the server's clock by ours, which is that of the same machine."""
    return float(epoch) - time.time() + time.monotonic()


# -- what fails ------------------------------------------------------------------------------
#
# Each fault begins, and returns when it is over.


def _leader(etcd: Etcd) -> Node:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return etcd.leader()
        except (RuntimeError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def leader_killed(fleet: Fleet, choose: random.Random) -> None:
    node = _leader(fleet.etcd)
    node.kill()
    time.sleep(choose.uniform(0, 3))
    fleet.etcd.heal()


def leader_stopped(fleet: Fleet, choose: random.Random) -> None:
    node = _leader(fleet.etcd)
    node.stop()
    time.sleep(choose.uniform(0.5, FENCE + 1))
    fleet.etcd.heal()


def leader_defragmented(fleet: Fleet, choose: random.Random) -> None:
    for number in range(choose.randrange(1, 20)):
        fleet.store.client.put(f"/waste/{number % 2}", os.urandom(300_000))
    fleet.etcd.ask_at(_leader(fleet.etcd), "/v3/maintenance/defragment", {}, fleet.token())


def members_stopped(fleet: Fleet, choose: random.Random) -> None:
    for node in fleet.etcd.nodes:
        node.stop()
    time.sleep(choose.uniform(0.5, FENCE + 1))
    fleet.etcd.heal()


def member_parted(fleet: Fleet, choose: random.Random) -> None:
    fleet.etcd.part(choose.choice(fleet.etcd.nodes))
    time.sleep(choose.uniform(0.5, FENCE + 1))
    fleet.etcd.heal()


def rolling_restart(fleet: Fleet, _choose: random.Random) -> None:
    for node in fleet.etcd.nodes:
        node.restart()


def member_full(fleet: Fleet, choose: random.Random) -> None:
    alarm = {"alarm": "NOSPACE", "memberID": str(choose.choice(fleet.ids))}
    token = fleet.token()
    fleet.etcd.ask("/v3/maintenance/alarm", {"action": "ACTIVATE", **alarm}, token)
    time.sleep(choose.uniform(0.5, FENCE))
    fleet.etcd.ask("/v3/maintenance/alarm", {"action": "DEACTIVATE", **alarm}, fleet.token())


def host_cut_off(fleet: Fleet, choose: random.Random) -> None:
    roads = fleet.roads[choose.choice(HOSTS)]
    silent = choose.random() < 0.5
    for road in roads:
        if silent:
            road.flows.clear()
        else:
            road.refuses = True
            road.cut()
    time.sleep(choose.uniform(0.5, FENCE + 1))
    for road in roads:
        road.refuses = False
        road.flows.set()


def member_out_of_reach(fleet: Fleet, choose: random.Random) -> None:
    road = choose.choice(fleet.roads[choose.choice(HOSTS)])
    road.flows.clear()
    time.sleep(choose.uniform(0.5, FENCE + 1))
    road.flows.set()


def worker_stopped(fleet: Fleet, choose: random.Random) -> None:
    worker = fleet.workers[choose.choice(sorted(fleet.workers))]
    worker.send_signal(signal.SIGSTOP)
    time.sleep(choose.uniform(0.5, FENCE + 1))
    worker.send_signal(signal.SIGCONT)


Fault = Callable[[Fleet, random.Random], None]
OF_ETCD: tuple[Fault, ...] = (
    *(leader_killed, leader_stopped, leader_defragmented, members_stopped, member_parted),
    *(rolling_restart, member_full),
)
OF_OTHERS: tuple[Fault, ...] = (host_cut_off, member_out_of_reach, worker_stopped)


class Trouble(threading.Thread):
    """One fault, after a while, beside what the operator does."""

    def __init__(self, fleet: Fleet, seed: str, faults: tuple[Fault, ...]) -> None:
        super().__init__()
        self._fleet, self._choose = fleet, random.Random(seed)
        self.fault = self._choose.choice(faults)
        self._error: BaseException | None = None

    def run(self) -> None:
        time.sleep(self._choose.uniform(0, 1))
        began, name = time.monotonic(), self.fault.__name__
        try:
            self.fault(self._fleet, self._choose)
        except BaseException as error:  # noqa: BLE001  # raised where it is joined
            self._error = error
        until = time.monotonic() + RECOVERY
        self._fleet.note(began, "fault", name=name, until=until, explains=["refused"], process="")

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self._error is not None:
            raise self._error


# -- the operator ----------------------------------------------------------------------------


class Operator:
    """Turns the fleet, again where etcd has not answered, and waits for all workers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._fence = fleet, Fence()
        self.turns: list[float] = []
        self.waits: dict[str, list[float]] = {READ_ONLY: [], READ_WRITE: []}

    def turn(self, to: str) -> None:
        began, store = time.monotonic(), self._fleet.store
        self._fleet.note(began, "turn", to=to)
        while True:
            try:
                turn_on(store, "chaos") if to == READ_ONLY else turn_off(store)
                break
            except (EtcdError, OperatorError):
                if time.monotonic() > began + PATIENCE:
                    raise
                time.sleep(0.1)
        now = time.monotonic()
        self.turns.append(now - began)
        self._fleet.note(now, "turned", to=to)

    def wait(self, to: str) -> None:
        began, expected = time.monotonic(), len(self._fleet.workers)
        why = ""
        while time.monotonic() < began + PATIENCE:
            verdict, *_ = judge(self._fleet.store, self._fence, Mode(to))
            alive = [one for one in verdict.seen if one.liveness is Liveness.ALIVE]
            counted = verdict.seen if to == READ_ONLY else alive  # what is lost is waited for once
            if verdict.holds and len(counted) >= expected:
                break
            waiting = [f"{one.host} pid {one.pid}: {why}" for one, why in verdict.waiting]
            why = "; ".join(waiting) or str(verdict.problem or f"{len(verdict.seen)} are there")
            time.sleep(0.05)
        else:
            self._fleet.note(
                time.monotonic(), "wait", to=to, holds=False, pids=[], why=why, since=began
            )
            return
        now, pids = time.monotonic(), [one.pid for one in verdict.seen]
        self.waits[to].append(now - began)
        self._fleet.note(now, "wait", to=to, holds=True, pids=[], since=began)
        # A record is logged under no lock, so it may come a moment after what is reported; and by
        # then a fault may have turned a worker by itself.
        end = now + LATE
        while time.monotonic() < end and set(self._fleet.logged()) != {to}:
            time.sleep(0.1)
        self._fleet.note(time.monotonic(), "wait", to=to, holds=True, pids=pids, since=began)


def flip(fleet: Fleet, operator: Operator, number: int, choose: random.Random) -> list[str]:
    """Turn it once, with a fault of etcd, and at times another one; return what failed."""
    to = (READ_ONLY, READ_WRITE)[number % 2]
    troubles = [Trouble(fleet, f"{fleet.seed}/{number}", OF_ETCD)]
    if choose.random() < 0.4:
        troubles.append(Trouble(fleet, f"{fleet.seed}/{number}/other", OF_OTHERS))
    for trouble in troubles:
        trouble.start()
    time.sleep(choose.uniform(0, 1.5))
    operator.turn(to)
    operator.wait(to)
    if to == READ_WRITE and choose.random() < 0.5:
        time.sleep(FENCE + 1)  # past what explains a refusal
    for trouble in troubles:
        trouble.join()
    if to == READ_ONLY:
        fleet.sessions()
    return [trouble.fault.__name__ for trouble in troubles]


@contextmanager
def running(seed: int) -> Iterator[Fleet]:
    """A fleet at work, of which all that it noted is there at the end."""
    arguments = Server.DEFAULT_SETTINGS["postgres_args"] + " -c track_commit_timestamp=on"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server: Server = Server.launch(postgres_args=arguments)
        stack.callback(server.stop)
        pair = stack.enter_context(fresh_pair(server))
        engine = create_engine(pair.read_write)
        Base.metadata.create_all(engine)
        engine.dispose()
        etcd = stack.enter_context(Etcd(3, parted=True, flags=_flags()))
        ids = [node.member_id for node in etcd.nodes]
        below = ("READWRITE", f"{KEY}.workers/", True)
        worker = [("READ", KEY, False), ("READ", f"{KEY}.fleet", False), below]
        etcd.users(worker=("worker", worker), operator=("operator", [("READWRITE", "/", True)]))
        fleet = Fleet(etcd, server, pair, folder, seed, ids)
        fleet.note(time.monotonic(), "settings", bound=FENCE)
        init(fleet.store, FENCE)
        fleet.start(stack)
        yield fleet


def _flags() -> list[str]:
    chosen = (programs() / "etcdutl").is_file()  # as it came with 3.5, and so did the flag
    return ["--auth-token-ttl", str(TOKEN)] * chosen


def run(flips: int, seed: int, keep: str | None = None) -> list[Violation]:
    """Flip it so often, and return what should not have been."""
    choose, done = random.Random(seed), Counter[str]()
    began = time.monotonic()
    with running(seed) as fleet:
        operator = Operator(fleet)
        operator.wait(READ_WRITE)
        for number in range(flips):
            done.update(flip(fleet, operator, number, choose))
            if number % 20 == 19:
                print(f"{number + 1} flips, {time.monotonic() - began:.0f} s", file=sys.stderr)
        fleet.stop()
        fleet.rows()
        events = fleet.history()
        version = fleet.version()
    if keep is not None:
        Path(keep).write_text(
            "".join(one.as_line() for one in sorted(events, key=lambda one: one.at))
        )
    history = History.of(events)
    violations = check(history)
    ends = Counter(one.end.kind for one in history.transactions.values() if one.end is not None)
    print(f"{flips} flips, seed {seed}, {version}, {time.monotonic() - began:.0f} s")
    for name, count in sorted(done.items()):
        print(f"  {count:4} x {name.replace('_', ' ')}")
    print(f"  transactions: {dict(ends)}")
    print(f"  a turn was answered within {max(operator.turns):.1f} s")
    for to, waits in operator.waits.items():
        print(f"  {to}: {statistics.median(waits):.2f} s in the middle, {max(waits):.1f} s at most")
    for name, count in counted(violations).items():
        print(f"  {count:4} {name}")
    reads = [
        one for one in history.transactions.values() if one.begin and not one.begin.told["writes"]
    ]
    refused = sum(one.end is not None and one.end.kind == "refused" for one in reads)
    print(f"  {refused:4} of {len(reads)} reads refused")
    return violations


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flips", type=int, default=20, help="how often it is turned (20)")
    parser.add_argument("--seed", type=int, default=0, help="another one chooses other faults (0)")
    parser.add_argument("--keep", metavar="FILE", help="write the whole history there")
    options = parser.parse_args()
    logging.getLogger("sa_readonly").setLevel(logging.CRITICAL)
    violations = run(options.flips, options.seed, options.keep)
    for one in violations[:20]:
        print(one)
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
