"""An engine by URL under load, through flips: nothing is written once it is drained."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from sa_readonly import ReadOnlyError
from tests.app import SECONDS, once
from tests.by_url import nothing_lingers, shared_of
from tests.postgres import Pair, wait_until

__all__ = ["nothing_lingers"]

FLIPS, THREADS = 6, 8


class Load:
    """Threads that read, and write every other time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.stop = threading.Event()
        self.failed: list[Exception] = []
        self.done = {"read": 0, "refused": 0}
        self.threads = [threading.Thread(target=self.work) for _ in range(THREADS)]

    def work(self) -> None:
        while not self.stop.is_set():
            try:
                with self.engine.begin() as connection:
                    connection.execute(text("select count(*) from thing")).all()
                    self.done["read"] += 1
                    if random.random() < 0.5:
                        connection.execute(text("insert into thing values (1)"))
            except ReadOnlyError:
                self.done["refused"] += 1
            except Exception as error:  # noqa: BLE001  # asserted by the test
                self.failed.append(error)

    def until_more(self, what: str) -> None:
        before = self.done[what]
        wait_until(lambda: self.done[what] > before + 2 * THREADS, f"more to be {what}")


@once
@pytest.mark.parametrize(
    "options",
    [{}, {"poolclass": NullPool}, {"pool_size": 2, "max_overflow": 0, "pool_pre_ping": True}],
    ids=["queue", "none", "small"],
)
def test_what_is_drained_is_not_written(
    pg_pair: Pair, place: Path, options: dict[str, Any]
) -> None:
    file = place / "read-only.txt"
    query = {"plugin": "sa_readonly", "sa_readonly_file": str(file), "sa_readonly_grace": "0.05"}
    engine = create_engine(pg_pair.read_write.update_query_dict(query), **options)
    with engine.begin() as connection:
        connection.execute(text("create table thing (n int)"))
    load = Load(engine)
    plain = create_engine(pg_pair.read_write)

    def rows() -> Any:
        with plain.connect() as connection:
            return connection.scalar(text("select count(*) from thing"))

    for thread in load.threads:
        thread.start()
    try:
        doors = shared_of(engine).doors
        for _ in range(FLIPS):
            before = rows()
            wait_until(lambda before=before: rows() > before, "a row to be written")
            file.touch()
            wait_until(lambda: not sum(door.connections for door in doors), "it to be drained")
            drained = rows()
            load.until_more("read")
            load.until_more("refused")
            assert rows() == drained
            assert not sum(door.connections for door in doors)
            file.unlink()
    finally:
        load.stop.set()
        for thread in load.threads:
            thread.join(SECONDS)
        engine.dispose()
        plain.dispose()
    assert load.failed == []
