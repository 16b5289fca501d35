"""Explores the drain for some time and prints what it saw: ``python -m tests.interleavings``.

First all orders with no preemption, then with one, then with two, and so on as far as the time
goes; the rest of it by chance, from a seed that is printed. A problem is printed with its steps.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from . import explore, machine
from .scenarios import BY_CHANCE, SCENARIOS

_MOST = 4  # preemptions: with more the time is better spent by chance


def _all_orders(name: str, preemptions: int, until: float) -> tuple[str, int, explore.Found]:
    gc.disable()  # what a run leaves is let go by its end, and collecting takes a fifth of the time
    with machine.replaced():
        found = explore.explore(SCENARIOS[name], preemptions, until=until)
    gc.enable()
    gc.collect()
    return name, preemptions, found


def _by_chance(name: str, seed: int, until: float) -> tuple[str, int, explore.Found]:
    with machine.replaced():
        found = explore.by_chance(BY_CHANCE[name], lambda number: seed + number, until)
    return name, seed, found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interleavings", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long it may take")
    parser.add_argument(
        "--least", type=int, default=0, metavar="N", help="fail unless all orders with N are done"
    )
    parser.add_argument("--seed", type=int, help="of the orders by chance; by default the time")
    options = parser.parse_args()
    began = time.monotonic()
    seed = int(time.time()) if options.seed is None else options.seed
    until, end = began + 0.75 * options.seconds, began + options.seconds
    print(f"seed {seed}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    problems, complete = 0, dict.fromkeys(SCENARIOS, -1)

    def tell(found: explore.Found, what: str) -> None:
        nonlocal problems
        print(f"{what}: {found}", flush=True)
        if found.problem is not None:
            problems += 1
            print("\n".join(f"    {line}" for line in found.path))

    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for preemptions in range(_MOST + 1):
            if time.monotonic() > until or problems:
                break
            asked = [pool.submit(_all_orders, name, preemptions, until) for name in SCENARIOS]
            for future in as_completed(asked):
                name, _, found = future.result()
                if found.complete:
                    complete[name] = preemptions
                how = "all" if found.complete else "not all"
                tell(found, f"{name}, {how} orders with {preemptions} preemptions")
        rest = max(1.0, end - time.monotonic())
        cores = os.cpu_count() or 1
        share = rest * cores / len(BY_CHANCE)
        now = time.monotonic()
        asked = [
            pool.submit(_by_chance, name, seed, now + share * (1 + place // cores))
            for place, name in enumerate(BY_CHANCE)
        ]
        for future in as_completed(asked):
            name, _, found = future.result()
            tell(found, f"{name}, by chance")
    late = [name for name, number in complete.items() if number < options.least]
    if late:
        print(f"NOT DONE with {options.least} preemptions: {', '.join(late)}")
    print(f"{time.monotonic() - began:.0f} s, {problems} problems")
    return 1 if problems or late else 0


if __name__ == "__main__":
    raise SystemExit(main())
