"""Contenders in turn; medians of paired ratios, with the noise beside them."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import socket
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

Work = Callable[[int], None]
Rows = dict[str, dict[str, float]]  # by what is measured: a number by the name of its column
Tables = dict[str, Rows]


def compare(contenders: dict[str, Work], *, number: int, rounds: int, alone: bool = False) -> Rows:
    """Time each contender once a round, and hold each against the first one of the same round.

    Returns microseconds for one of ``number`` repetitions, and the ratio with its quartiles. The
    first contender comes twice, so that "again" shows the noise. With ``alone`` each has a process
    of its own.
    """
    first = next(iter(contenders))
    turns = contenders | {f"{first}, again": contenders[first]}
    gc.collect()
    gc.freeze()  # what was made so far is not walked through in the middle of a contender
    with apart(turns) if alone else nullcontext(turns) as those:
        times = _take_turns(those, number, rounds)
    gc.unfreeze()
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


def _take_turns(turns: dict[str, Work], number: int, rounds: int) -> dict[str, list[float]]:
    names = list(turns)
    times: dict[str, list[float]] = {name: [] for name in turns}
    order = random.Random(0)  # the same in each run
    for turn in range(rounds + 1):
        order.shuffle(names)  # who comes after whom matters to the processor's caches
        for name in names:
            begin = time.perf_counter()
            turns[name](number)
            if turn:  # the first round warms up
                times[name].append((time.perf_counter() - begin) / number * 1e6)
    return times


@contextmanager
def apart(contenders: dict[str, Work]) -> Iterator[dict[str, Work]]:
    """Run each in a process of its own, forked before it has connected, where there are forks.

    CPython fits its code to the classes that come by. Where all ran in one process each would be
    slowed down by the others, which no application sees.
    """
    if not hasattr(os, "fork"):
        yield contenders
        return
    ours: list[socket.socket] = []
    try:
        yield {name: _apart(work, ours) for name, work in contenders.items()}
    finally:
        for one in ours:
            one.close()
            os.wait()


def _apart(work: Work, ours: list[socket.socket]) -> Work:
    here, there = socket.socketpair()
    if os.fork() == 0:
        try:
            for one in (here, *ours):
                one.close()
            while number := there.recv(8):
                work(int.from_bytes(number, "big"))
                there.send(b"!")
        except BaseException:  # noqa: BLE001  # whatever it is, it is told
            traceback.print_exc()
        finally:
            os._exit(0)  # it must not go on as its parent
    there.close()
    ours.append(here)

    def ask(number: int) -> None:
        here.send(number.to_bytes(8, "big"))
        if not here.recv(1):
            raise RuntimeError("A contender has failed: what it says stands above.")

    return ask


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep this process, and what it starts, on one processor, where the system can.

    A client and its server wait for each other, so they run no slower; but on two processors an
    answer takes twice as long as on one, and which it is changes as the scheduler likes.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def show(title: str, rows: Rows) -> None:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    wide = max(map(len, rows))
    print(f"\n{title}\n{'':{wide}}" + "".join(f"  {column:>9}" for column in columns))
    for name, row in rows.items():
        numbers = "".join(
            f"  {_short(row.get(column)):>{max(9, len(column))}}" for column in columns
        )
        print(f"{name:{wide}}{numbers}")


def _short(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:.0f}" if number == int(number) or number >= 1000 else f"{number:.3f}"


def skipped(what: str, cure: str) -> None:
    """Say what is not measured here, and why."""
    print(f"NOT MEASURED: {what}. Cure: {cure}.", file=sys.stderr)


def plot(tables: Tables, path: str) -> None:
    """Draw the transactions in which all contenders took part: medians, with the middle halves."""
    try:
        import matplotlib  # noqa: PLC0415  # of the extra `bench`
    except ImportError:
        sys.exit("--plot needs matplotlib. Cure: pip install 'sa-readonly[bench]'.")
    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    drawn = {
        title: rows
        for title, rows in tables.items()
        if title.startswith("A transaction") and len(rows) > 4
    }
    if not drawn:
        sys.exit("--plot draws transactions. Cure: python -m benchmarks.transaction --plot FILE.")
    height = sum(len(rows) + 2 for rows in drawn.values()) * 0.22
    figure, axes = pyplot.subplots(
        len(drawn),
        squeeze=False,
        figsize=(9, height),
        gridspec_kw={"height_ratios": [len(rows) + 1 for rows in drawn.values()]},
        layout="constrained",
    )
    for axis, (title, rows) in zip(axes[:, 0], drawn.items(), strict=True):
        names = list(rows)[::-1]
        ratios = [rows[name]["ratio"] for name in names]
        spans = [
            [rows[name]["ratio"] - rows[name]["low"] for name in names],
            [rows[name]["high"] - rows[name]["ratio"] for name in names],
        ]
        for row, name in enumerate(names):
            colour = "#01497c" if "Routing" in name else "#6c757d"
            span = [[spans[0][row]], [spans[1][row]]]
            axis.errorbar(ratios[row], row, xerr=span, fmt="o", color=colour, markersize=5)
        axis.set_yticks(range(len(names)), names)
        axis.axvline(1, color="#495057", linewidth=0.8)
        axis.grid(axis="x", color="#dee2e6", linewidth=0.6)
        axis.set_xlim(0.9, 1.5)
        axis.set_title(f"{title}: time, as a ratio to a plain Session's", fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=110)


def main(run: Callable[[int], Tables]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30, help="how long to measure (30)")
    parser.add_argument("--json", action="store_true", help="print numbers for a program")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the transactions")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be 2 or more, to tell how much they differ")
    logging.getLogger("sa_readonly").setLevel(logging.ERROR)  # a flip is no news here
    tables = run(options.rounds)
    if options.plot:
        plot(tables, options.plot)
    if options.json:
        print(json.dumps(tables, indent=1))
        return
    for title, rows in tables.items():
        show(title, rows)
