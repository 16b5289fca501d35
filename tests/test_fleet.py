"""A whole application under load, while an operator takes its database away and gives it back."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert, select
from sqlalchemy.pool import NullPool

from sa_readonly import Mode
from tests.app import once
from tests.fleet_process import READS, SEEDS, WRITES, Base, Row, Seed
from tests.night import PATIENCE, Commander, Operator, Watch
from tests.postgres import Pair, Server

ROOT = Path(__file__).parent.parent
pytestmark = once
THREADS = 4
FLIPS, SIZE = 50, 8


class Member:
    """One process, as the test holds it."""

    def __init__(self, **settings: Any) -> None:
        self.name = settings["name"]
        self.notes = Path(settings["notes"])
        self.control, child = multiprocessing.Pipe()
        with child:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fleet_process", str(child.fileno())],
                cwd=ROOT,
                pass_fds=[child.fileno()],
            )
        self.control.send(settings)

    def say(self, word: str) -> None:
        self.control.send(word)
        assert self.answer() == "ok"

    def answer(self) -> str:
        assert self.control.poll(PATIENCE), f"{self.name} does not answer"
        return self.control.recv()


@dataclass
class Fleet:
    members: list[Member] = field(default_factory=list)

    def tell(self, word: str) -> None:
        """Say a word to all of them at once, and return when each has answered."""
        for member in self.members:
            member.control.send(word)
        for member in self.members:
            assert member.answer() == "ok"

    def notes(self) -> dict[str, list[dict[str, Any]]]:
        return {
            member.name: [json.loads(line) for line in member.notes.read_text().splitlines()]
            for member in self.members
        }


@contextlib.contextmanager
def fleet_of(size: int, directory: Path, pair: Pair, **settings: Any) -> Iterator[Fleet]:
    for url in pair:
        engine = create_engine(url, poolclass=NullPool)
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(insert(Seed), [{"id": number} for number in range(SEEDS)])
    fleet = Fleet()
    try:
        for number in range(size):
            fleet.members.append(
                Member(
                    name=f"p{number}",
                    notes=str(directory / f"p{number}.notes"),
                    file=str(directory / "read-only.txt"),
                    rw=pair.read_write.render_as_string(hide_password=False),
                    ro=pair.read_only.render_as_string(hide_password=False),
                    threads=THREADS,
                    pool_size=THREADS - 1,  # so that threads wait in its queue, at a flip too
                    **settings,
                )
            )
        for member in fleet.members:
            assert member.answer() == "ready"
        yield fleet
    finally:
        for member in fleet.members:
            member.process.kill()
            member.process.wait()
            member.control.close()


def rows(url: Any) -> dict[str, Any]:
    """What was written into a database: when, by name."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return dict(connection.execute(select(Row.id, Row.written)).all())


TO_READ_ONLY, BACK = "WARNING read-write -> read-only", "WARNING read-only -> read-write"


def flips_in(records: list[str]) -> list[str]:
    """Which way each flip went that was logged; that the text was edited is logged too."""
    return [
        re.sub(r"^(\w+) sa_readonly: ([\w-]+ -> [\w-]+).*", r"\1 \2", record)
        for record in records
        if " -> " in record
    ]


def hold_over_the_flip(fleet: Fleet, operator: Operator) -> None:
    """Turn it read-only while one transaction is held, which then goes on and commits."""
    holder = fleet.members[0]
    holder.say("hold")
    operator.switch.enable("upgrade")
    verdict = operator.until(
        lambda verdict: (
            [why.partition(" since")[0] for _, why in verdict.waiting] == ["1 connection out"]
        )
    )
    assert verdict.waiting[0][0].pid == holder.process.pid
    holder.say("release")
    operator.wait(Mode.READ_ONLY)


def check(fleet: Fleet, pair: Pair, watches: list[Watch]) -> dict[str, list[str]]:
    """Check what must hold of every transaction, and return each process's log records."""
    notes = fleet.notes()
    done = [note for noted in notes.values() for note in noted if note["kind"] != "log"]
    outcomes: dict[str, Counter[str]] = {}
    for note in done:
        outcomes.setdefault(note["kind"], Counter())[note["outcome"]] += 1
    assert {kind: set(counted) for kind, counted in outcomes.items()} == {
        **{kind.__name__: {"done"} for kind in READS},
        **{kind.__name__: {"done", "refused"} for kind in WRITES},
        **({"held": {"done"}} if "held" in outcomes else {}),
    }
    assert [note for note in done if len(note["reached"]) > 1] == []

    reads = {kind.__name__ for kind in READS}
    committed = {
        name
        for note in done
        if note["outcome"] == "done" and note["kind"] not in reads
        for name in (
            [note["name"], note["name"] + "-again"] if note["kind"] == "held" else [note["name"]]
        )
    }
    written = rows(pair.read_write)
    assert set(written) == committed
    assert rows(pair.read_only) == {}
    for watch in watches:
        assert watch.looks > 0
        assert not [name for name, at in written.items() if watch.since <= at <= watch.until]
    return {
        name: [f"{note['level']} {note['message']}" for note in noted if note["kind"] == "log"]
        for name, noted in notes.items()
    }


def test_flips_under_load(pg_server: Server, pg_pair: Pair, place: Path) -> None:
    operator = Operator(place / "read-only.txt", SIZE)
    commander = Commander(place / "read-only.txt", SIZE, pg_pair.read_write, process=False)
    watches: list[Watch] = []
    with fleet_of(operator.expect, place, pg_pair, ttl=0.1) as fleet:
        fleet.tell("start")
        for number in range(FLIPS // 2):
            fleet.tell("round")
            by = commander if number % 5 == 1 else operator
            if number == 0:
                hold_over_the_flip(fleet, operator)
            else:
                by.on()
            with Watch(pg_server, pg_pair.read_write) as watch:
                watches.append(watch)
                fleet.tell("round")
            by.off()
        fleet.tell("round")
        fleet.tell("stop")
    logs = check(fleet, pg_pair, watches)
    assert {name: len(records) for name, records in logs.items()} == dict.fromkeys(logs, FLIPS)
    assert {name: flips_in(records) for name, records in logs.items()} == dict.fromkeys(
        logs, [TO_READ_ONLY, BACK] * (FLIPS // 2)
    )


def test_flips_that_nobody_waits_for(pg_server: Server, pg_pair: Pair, place: Path) -> None:
    operator = Operator(place / "read-only.txt", 4)
    with fleet_of(operator.expect, place, pg_pair, ttl=0.02) as fleet:
        fleet.tell("start")
        fleet.tell("round")
        for number in range(FLIPS):
            operator.switch.enable("upgrade")
            if number % 3 == 0:
                operator.switch.enable("another file in its place")
            if number % 5 == 0:
                fleet.tell("round")
            operator.switch.disable()
            if number % 4 == 0:
                fleet.tell("round")
        operator.on()
        with Watch(pg_server, pg_pair.read_write) as watch:
            fleet.tell("round")
        fleet.tell("stop")
    for records in check(fleet, pg_pair, [watch]).values():
        flips = flips_in(records)
        assert 1 <= flips.count(TO_READ_ONLY) <= FLIPS + 1
        assert flips == ([TO_READ_ONLY, BACK] * FLIPS)[: len(flips)]
        assert flips[-1] == TO_READ_ONLY
