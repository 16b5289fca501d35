"""A thousand flips of a fleet under load and faults; the history of it is checked at the end.

`python -m benchmarks.chaos [--flips 1000] [--seed N]`. As root all faults are used; without, those
are left out that take a file system of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import signal
import sys
import threading
import time
from collections import Counter

from benchmarks.chaos.faults import FAULTS, Chosen, Scene, plan, usable
from benchmarks.chaos.ground import Ground, wall_clock
from benchmarks.chaos.operator import Operator, WaitedInVainError
from benchmarks.chaos.table import table
from benchmarks.history import READ_ONLY, READ_WRITE, History, check, read

WINDOW = 0.3  # seconds, of each phase


class Run:
    """Rounds of two flips each, with the faults that were chosen for them."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.operator = ground, Operator(ground)
        self.scene = Scene(ground, self.operator)
        self.done: Counter[str] = Counter()
        self.flips = 0
        self._threads: list[threading.Thread] = []

    def all(self, rounds: list[list[Chosen]], until: float) -> None:
        try:
            self.operator.begin()
            for chosen in rounds:
                if time.monotonic() > until:
                    break
                if sys.stderr.isatty():
                    print(f"\r{self.flips} flips ", end="", file=sys.stderr)
                self.round(chosen)
                if self.ground.strange:
                    break
        finally:
            self._join()

    def round(self, faults: list[Chosen]) -> None:
        operator = self.operator
        self._phase("writing", faults)
        time.sleep(WINDOW)
        if self._alone("writing", faults):
            operator.wait(READ_WRITE)
        self._phase("turning", faults)
        operator.on()
        operator.wait(READ_ONLY)
        self._phase("drained", faults)
        operator.watch(WINDOW)
        if self._alone("drained", faults):
            operator.wait(READ_ONLY)
        self._phase("returning", faults)
        operator.off()
        operator.wait(READ_WRITE)
        self._join()
        self.flips += 2

    def _phase(self, phase: str, faults: list[Chosen]) -> None:
        for one in faults:
            if one.phase == phase and not FAULTS[one.fault].alone:
                self._threads.append(threading.Thread(target=self._later, args=(one,)))
                self._threads[-1].start()

    def _later(self, one: Chosen) -> None:
        time.sleep(one.delay)
        self._do(one)

    def _alone(self, phase: str, faults: list[Chosen]) -> bool:
        """Do those that can't be done beside others; say if there was one."""
        due = [one for one in faults if one.phase == phase and FAULTS[one.fault].alone]
        if due:
            self._join()
        for one in due:
            self._do(one)
        return bool(due)

    def _do(self, one: Chosen) -> None:
        try:
            FAULTS[one.fault].run(self.scene, one)
        except Exception as error:  # noqa: BLE001  # the run goes on, and fails in the end
            self.ground.strange.append(f"{one}: {type(error).__name__}: {error}")
        self.done[one.fault] += 1

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        self._threads.clear()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so many")
    parser.add_argument("--keep", action="store_true", help="keep the histories")
    parser.add_argument("--only", action="append", help="use this fault only; may be repeated")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to leave nothing behind
    logging.getLogger("sa_readonly").setLevel(logging.CRITICAL)  # the operator's own switch
    began = time.monotonic()
    ground = Ground(seed)
    keep = True
    try:
        faults = usable(ground, given.only)
        for name in FAULTS:
            if name not in faults and not given.only:
                print(f"not used, as it needs {FAULTS[name].needs}: {name}")
        ground.start()
        run = Run(ground)
        with contextlib.suppress(WaitedInVainError):
            run.all(plan(seed, given.flips // 2, faults), began + given.seconds)
        ground.stop()
        for name, at in ground.servers.rows():
            ground.notes.note("row", at=at - ground.clock, name=name)
        if abs(wall_clock() - ground.clock) > 0.001:
            ground.strange.append("the clock of this machine was set: no row can be placed")
        history = History.of(read(sorted(ground.history.glob("*.jsonl"))))
        violations = check(history)
        print(table(run, history, violations, time.monotonic() - began))
        keep = given.keep or bool(violations or ground.strange)
    finally:
        ground.close(keep=keep)
    if keep:
        print(f"The histories are kept: {ground.history}")
    for line in ground.strange:
        print(line)
    shown = {one.rule: one for one in reversed(violations)}
    for one in shown.values():
        print(f"\n{one}")
    if violations or ground.strange:
        print(f"\nFAILED. The same choices again: --flips {given.flips} --seed {seed}")
    return 1 if violations or ground.strange else 0


if __name__ == "__main__":
    sys.exit(main())
