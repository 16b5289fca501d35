"""What a key in etcd costs beside a file: calls of the hot path, and what an idle worker asks.

And five hundred workers: when each notices a flip, when `wait` answers, what etcd spends on them
while nothing happens.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import sessionmaker

from benchmarks.measure import Rows, Tables, main, skipped
from sa_readonly import EngineSelector, FileSwitch, RoutingSession
from sa_readonly.cli import main as command
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.etcd.operator import init, turn_off, turn_on
from sa_readonly.etcd.switch import store_of
from tests.etcd import Etcd, programs
from tests.postgres import ServerUnavailableError
from tests.test_calls import calls

KEY = "/benchmark/read-only"
_FRESH = 15.0  # seconds of ttl, within which all is counted
_TTL = 0.2  # seconds, of the idle worker
_TTL_OF_MANY = 3.0  # seconds: what is watched need not be looked at more often
PROCESSES = 8


def _works(selector: EngineSelector) -> dict[str, Callable[[], object]]:
    sessions = sessionmaker(selector, class_=RoutingSession)

    def reading(statements: int) -> Callable[[], None]:
        def read() -> None:
            with sessions() as session:
                for _ in range(statements):
                    session.execute(select(1))

        return read

    return {
        "selector.read_only": lambda: selector.read_only,
        "a transaction of 1 statement": reading(1),
        "a transaction of 10 statements": reading(10),
    }


def _engines(folder: str, name: str) -> tuple[Engine, Engine]:
    one, two = (f"sqlite:///{folder}/{name}-{mode}.db" for mode in ("rw", "ro"))
    return create_engine(one), create_engine(two)


def _counted(folder: str, etcd: Etcd, *, read_only: bool) -> Rows:
    file = Path(folder) / "read-only.txt"
    store = store_of(etcd.urls, KEY)
    if read_only:
        file.touch()
        turn_on(store)
    switches: dict[str, Any] = {
        "file": FileSwitch(file, ttl=_FRESH),
        "etcd": EtcdSwitch(etcd.urls, key=KEY, ttl=_FRESH),
    }
    rows: Rows = {}
    for column, switch in switches.items():
        rw, ro = _engines(folder, column)
        with EngineSelector(switch, read_write=rw, read_only=ro, watch=False) as selector:
            selector.check()
            for name, work in _works(selector).items():
                rows.setdefault(name, {})[column] = calls(work)
        rw.dispose()
        ro.dispose()
    return rows


def _idle(folder: str, etcd: Etcd, rounds: int) -> Rows:
    """Count what a worker asks while nothing happens, each ttl."""
    switch = EtcdSwitch(etcd.urls, key=KEY, ttl=_TTL)
    rw, ro = _engines(folder, "idle")
    asked: Counter[str] = Counter()
    client: Any = switch.store.client
    real = client._ask  # all that is asked comes by it
    with EngineSelector(switch, read_write=rw, read_only=ro) as selector:
        selector.check()
        client._ask = lambda path, *args, **options: (  # as above
            asked.update([path]) or real(path, *args, **options)
        )
        number = max(5, rounds)
        time.sleep(number * _TTL)
        del client._ask  # as above
    rw.dispose()
    ro.dispose()
    return {path: {"a ttl": count / number} for path, count in sorted(asked.items())}


class Crowd:
    """Workers of several processes.

    :param number: of workers.
    :param ttl: that of each.
    """

    def __init__(self, etcd: Etcd, number: int, ttl: float, *, watch: bool) -> None:
        processes = min(PROCESSES, 1 + number // 20)
        share, more = divmod(number, processes)
        arguments = [etcd.urls, KEY, str(ttl), "watch" if watch else "look"]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.fleet_crowd", *arguments, str(share + one)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for one in [1] * more + [0] * (processes - more)
        ]

    def _answers(self) -> list[str]:
        return [str(process.stdout and process.stdout.readline()) for process in self._processes]

    def begin(self) -> None:
        if set(self._answers()) != {"ready\n"}:
            raise RuntimeError("a process did not start")

    def told(self) -> tuple[list[float], list[float]]:
        """When each worker noticed the last flip, and when it had reported it."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write("told\n")
                process.stdin.flush()
        found = [json.loads(line) for line in self._answers()]
        return [at for one in found for at in one[0]], [at for one in found for at in one[1]]

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@contextmanager
def _crowd(etcd: Etcd, number: int, ttl: float, *, watch: bool) -> Iterator[Crowd]:
    etcd.clear()
    init(store_of(etcd.urls, KEY), 10)
    crowd = Crowd(etcd, number, ttl, watch=watch)
    try:
        crowd.begin()
        time.sleep(2 * ttl)  # all have begun
        yield crowd
    finally:
        crowd.end()


def _spent(etcd: Etcd) -> float:
    """Seconds of processor time that etcd has taken."""
    process = etcd.node.process
    told = Path(f"/proc/{process.pid if process else 0}/stat").read_text().rpartition(")")[2]
    return sum(map(int, told.split()[11:13])) / os.sysconf("SC_CLK_TCK")


def _idle_crowd(etcd: Etcd, seconds: float) -> dict[str, float]:
    before, began = _spent(etcd), time.monotonic()
    time.sleep(seconds)
    return {"of a core": (_spent(etcd) - before) / (time.monotonic() - began)}


def _many(etcd: Etcd, number: int, flips: int, ttl: float = _TTL_OF_MANY) -> Tables:
    """Flip many workers, and wait for them as the operator does."""
    store = store_of(etcd.urls, KEY)
    rows: dict[str, dict[str, list[float]]] = {}
    idle: Rows = {}
    with _crowd(etcd, number, ttl, watch=False):
        idle["looks alone"] = _idle_crowd(etcd, 2 * ttl)
    with _crowd(etcd, number, ttl, watch=True) as crowd:
        idle["looks and watches"] = _idle_crowd(etcd, 2 * ttl)
        for to, turn in (("read-only", turn_on), ("read-write", turn_off)) * flips:
            began = time.monotonic()
            turn(store)
            arguments = ["--etcd", etcd.urls, "--key", KEY, "--mode", to]
            done = CliRunner().invoke(command, ["wait", *arguments])
            ended = time.monotonic()
            if done.exit_code:
                raise RuntimeError(done.output)
            noticed, reported = crowd.told()
            late = sorted(at - began for at in noticed)
            row = rows.setdefault(f"to {to}", {"p50 ms": [], "p99 ms": [], "wait ms": []})
            row["p50 ms"].append(1e3 * statistics.median(late))
            row["p99 ms"].append(1e3 * late[int(0.99 * len(late))])
            row["wait ms"].append(1e3 * (ended - max(reported)))
    flipped = {
        name: {column: statistics.median(all_) for column, all_ in row.items()}
        for name, row in rows.items()
    }
    return {f"{number} workers on etcd, idle": idle, f"{number} workers on etcd, flips": flipped}


def run(rounds: int) -> Tables:
    """Measure, if there is an etcd."""
    try:
        programs()
    except ServerUnavailableError as error:
        skipped("a fleet on etcd", str(error))
        return {}
    with Etcd() as etcd, tempfile.TemporaryDirectory() as folder:
        init(store_of(etcd.urls, KEY), 60)
        return {
            "Idle on etcd, requests": _idle(folder, etcd, rounds),
            "Calls while read-write": _counted(folder, etcd, read_only=False),
            "Calls while read-only": _counted(folder, etcd, read_only=True),
            **_many(etcd, *((500, 5) if rounds >= 30 else (40, 1, 0.5))),
        }


if __name__ == "__main__":
    main(run)
