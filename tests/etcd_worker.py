"""A worker on etcd as a process of its own, of any host: it does what its standard input says.

`python -m tests.etcd_worker URLS KEY HOST READ_WRITE_URL READ_ONLY_URL [TTL [FILE]]`; it answers
each line. `write` begins a transaction and commits it, `hold` keeps one, `release` commits that,
`look` looks and reports at once.
"""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy import Engine, create_engine, text

from sa_readonly import EngineSelector, ReadOnlyError
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.workers import process

WRITE = text("INSERT INTO written (n) VALUES (1)")


class Held:
    """What this process does with its engine; at most one connection is held."""

    def __init__(self, selector: EngineSelector, engine: Engine) -> None:
        self.selector, self.engine = selector, engine
        self.connection: Any = None

    def write(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(WRITE)

    def hold(self) -> None:
        self.connection = self.engine.connect()
        self.connection.begin()
        self.connection.execute(WRITE)

    def check_out(self) -> None:
        """Have a connection whose check is passed, and send no statement."""
        self.connection = self.engine.connect()
        self.connection.begin()

    def insert(self) -> None:
        self.connection.execute(WRITE)

    def release(self) -> None:
        self.connection.commit()
        self.connection.close()

    def look(self) -> str:
        return str(self.selector.check().mode)


def main() -> None:
    urls, key, host, read_write, read_only, *more = sys.argv[1:]
    process.host = lambda: host  # as a machine or container of this name has it
    options: dict[str, Any] = dict(zip(("ttl", "file"), more, strict=False))
    if "ttl" in options:
        options["ttl"] = float(options["ttl"])
    switch = EtcdSwitch(urls, key=key, **options)
    engine, other = create_engine(read_write), create_engine(read_only)
    with EngineSelector(switch, read_write=engine, read_only=other) as selector:
        held = Held(selector, engine)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while line := sys.stdin.readline():
            try:
                answer = getattr(held, line.strip())() or "ok"
            except ReadOnlyError as error:
                answer = f"refused: {error.reason}"
            sys.stdout.write(f"{answer}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
