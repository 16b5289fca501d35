"""One look at the mode inside ttl, beside the clock and the file system; and what a ttl buys."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial

from benchmarks.measure import Rows, Tables, Work, compare, main
from sa_readonly import FileSwitch


class _Empty:
    def look(self) -> None:
        pass


def _calling(function: Callable[[], object]) -> Work:
    def work(number: int) -> None:
        for _ in range(number):
            function()

    return work


def _work(path: str) -> dict[str, Work]:
    switch = FileSwitch(path, ttl=3600)
    switch.check()

    def as_a_session_does(number: int) -> None:
        for _ in range(number):
            if time.monotonic() < switch.fresh_until:
                switch.known.mode
            else:
                switch.refresh()

    def read_only(number: int) -> None:
        for _ in range(number):
            switch.read_only

    return {
        "time.monotonic()": _calling(time.monotonic),
        "an empty method": _calling(_Empty().look),
        "a look, as a session does it": as_a_session_does,
        "switch.read_only": read_only,
        "os.stat() of what is there": _calling(partial(os.stat, os.path.dirname(path))),
        "os.path.isfile()": _calling(partial(os.path.isfile, path)),
    }


def _in_threads(path: str, rounds: int) -> Rows:
    """A look in each of several threads at once: what one costs, on the wall's clock."""
    look = _work(path)["a look, as a session does it"]
    number = 400 * rounds
    rows: Rows = {}
    for count in (1, 2, 4, 8, 16, 32):
        threads = [threading.Thread(target=look, args=(number,)) for _ in range(count)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - begin
        rows[f"{count} threads"] = {"us a look": taken / (number * count) * 1e6}
    return rows


def _ages(path: str, rounds: int) -> Rows:
    """How old the answer is that a busy process uses, and how often that process asks."""
    rows: Rows = {}
    for ttl in (0.0, 0.01, 0.1, 1.0):
        switch = FileSwitch(path, ttl=ttl)
        switch.check()
        ages, looks = [], 0
        begin = time.monotonic()
        end = begin + max(0.02 * rounds, 2.5 * ttl if rounds > 2 else 0.0)
        checked, stats = switch.checked, 0
        while (moment := time.monotonic()) < end:
            switch.read_only
            looks += 1
            if switch.checked != checked:
                checked, stats = switch.checked, stats + 1
            ages.append(moment - checked)
        seconds = time.monotonic() - begin
        rows[f"ttl={ttl:g}"] = {
            "median ms": statistics.median(ages) * 1e3,
            "oldest ms": max(ages) * 1e3,
            "stats/s": stats / seconds,
            "looks/s": looks / seconds,
        }
    return rows


def run(rounds: int) -> Tables:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "read-only.txt")
        return {
            "One look at the mode": compare(_work(path), number=20_000, rounds=rounds),
            "One look at the mode, in threads": _in_threads(path, rounds),
            "How old the answer is": _ages(path, rounds),
        }


if __name__ == "__main__":
    main(run)
