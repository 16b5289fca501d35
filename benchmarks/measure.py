"""Contenders in turn in one process; medians of paired ratios, with the noise beside them."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable

Work = Callable[[int], None]


def compare(
    contenders: dict[str, Work], *, number: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Time each contender once a round, and hold each against the first one of the same round.

    Returns microseconds for one of ``number`` repetitions, and the ratio with its quartiles. The
    first contender comes twice, so that "again" shows the noise.
    """
    first = next(iter(contenders))
    turns = {**contenders, f"{first}, again": contenders[first]}
    times: dict[str, list[float]] = {name: [] for name in turns}
    gc.collect()
    for turn in range(rounds + 1):
        for name, work in turns.items():
            begin = time.perf_counter()
            work(number)
            if turn:  # the first round warms up
                times[name].append((time.perf_counter() - begin) / number * 1e6)
    results = {}
    for name, taken in times.items():
        ratios = [one / base for one, base in zip(taken, times[first], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        results[name] = {
            "us": statistics.median(taken),
            "ratio": middle,
            "low": low,
            "high": high,
        }
    return results


def show(title: str, results: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}\n{'':34}{'us':>9}{'ratio':>9}   middle half")
    for name, row in results.items():
        span = f"{row['low']:.3f} to {row['high']:.3f}"
        print(f"{name:34}{row['us']:9.2f}{row['ratio']:9.3f}   {span}")


def main(run: Callable[[int], dict[str, dict[str, dict[str, float]]]]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be 2 or more, to tell how much they differ")
    tables = run(options.rounds)
    if options.json:
        print(json.dumps(tables, indent=1))
        return
    for title, results in tables.items():
        show(title, results)
