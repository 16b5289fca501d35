"""What a key in etcd costs beside a file: calls of the hot path, and what an idle worker asks."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import sessionmaker

from benchmarks.measure import Rows, Tables, main, skipped
from sa_readonly import EngineSelector, FileSwitch, RoutingSession
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.etcd.operator import init, turn_on
from sa_readonly.etcd.switch import store_of
from tests.etcd import Etcd, programs
from tests.postgres import ServerUnavailableError
from tests.test_calls import calls

KEY = "/benchmark/read-only"
_FRESH = 15.0  # seconds of ttl, within which all is counted
_TTL = 0.2  # seconds, of the idle worker


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
        }


if __name__ == "__main__":
    main(run)
