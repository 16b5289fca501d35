"""Many workers of a fleet on etcd in one process, of which each looks, watches and reports.

`python -m benchmarks.fleet_crowd URLS KEY TTL WATCH NUMBER`; the first of them is a whole one, with
a selector and its threads, the rest have a switch and an entry each. On its standard input `told`
asks when each has noticed and reported the last flip, and the end of it ends all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from typing import Any

from sqlalchemy import create_engine

from sa_readonly import EngineSelector, State
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.workers.protocol import RegistryError, Report

_TICK = 0.55  # of ttl, as the watcher of a process has it


class One:
    """A worker without engines: what it asks of etcd is what any asks."""

    def __init__(self, urls: str, key: str, ttl: float, watch: bool) -> None:
        self.switch = EtcdSwitch(urls, key=key, ttl=ttl)
        self.noticed = self.reported = 0.0
        self._watch = watch
        self.entry: Any = self.switch.registry.register(self.switch.identify)
        self.switch.subscribe(self.gate, self.flipped)
        self.report(self.switch.known)

    def gate(self, state: State) -> None:
        if state.read_only:
            self.entry.closed()
        else:
            self.entry.withdraw()
        self.noticed = time.monotonic()

    def flipped(self, _old: State, _new: State) -> None:
        known = self.switch.known  # by a look, where a watch's word has turned it
        if known.read_only and known.generation is None:
            return
        with contextlib.suppress(RegistryError):  # it is tried again
            self.entry.ensure()
            self.report(known)
            self.reported = time.monotonic()

    def report(self, state: State) -> None:
        report = Report(state.mode, state.generation, watching=self._watch)
        self.entry.report(lambda: report)

    def tick(self) -> None:
        known = self.switch.refresh()
        self.entry.stands()  # renews its hint
        if self.reported < self.noticed:
            self.flipped(known, known)


def _nothing(_old: State, _new: State) -> None:
    pass


class Whole:
    """A process's one worker, as an application has it."""

    def __init__(self, urls: str, key: str, ttl: float, watch: bool) -> None:
        self.switch = EtcdSwitch(urls, key=key, ttl=ttl)
        self.noticed = self.reported = 0.0
        self.switch.subscribe(self.gate, _nothing)
        self.selector = EngineSelector(
            self.switch,
            read_write=create_engine("sqlite:///:memory:"),
            read_only=create_engine("sqlite:///:memory:"),
            watch=watch,
        )
        self.selector.check()
        entry: Any = self.switch.registry.entry
        real = entry.report

        def report(snapshot: Any) -> None:
            real(snapshot)
            known = self.switch.known
            if self.reported < self.noticed and not (known.read_only and known.generation is None):
                self.reported = time.monotonic()

        entry.report = report

    def gate(self, _state: State) -> None:
        self.noticed = time.monotonic()

    def tick(self) -> None:
        self.selector.state  # which looks, without a thread that does


def _ticking(crowd: list[One | Whole], ttl: float) -> None:
    """Have each look as often as it does by itself, one after the other."""
    while True:
        began = time.monotonic()
        for number, one in enumerate(crowd):
            one.tick()
            time.sleep(max(0.0, began + _TICK * ttl * (number + 1) / len(crowd) - time.monotonic()))


def main() -> None:
    logging.getLogger("sa_readonly").setLevel(logging.CRITICAL)
    urls, key, told, watched, number = sys.argv[1:]
    ttl, watch = float(told), watched == "watch"
    crowd: list[One | Whole] = [Whole(urls, key, ttl, watch)]
    crowd += [One(urls, key, ttl, watch) for _ in range(int(number) - 1)]
    threading.Thread(target=_ticking, args=(crowd, ttl), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while sys.stdin.readline():
        times = [[one.noticed for one in crowd], [one.reported for one in crowd]]
        sys.stdout.write(json.dumps(times) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
