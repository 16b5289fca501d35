"""Workers on etcd in this process, each a selector with a switch of its own, and their operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.orm import sessionmaker

from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession
from sa_readonly.etcd import EtcdSwitch
from sa_readonly.etcd.fence import Fence, judge
from sa_readonly.etcd.operator import init, turn_off, turn_on
from sa_readonly.etcd.registry import Reading, read
from sa_readonly.etcd.switch import store_of
from tests.app import WHICH, App, Book
from tests.etcd import Etcd, Proxy


class Worker:
    """A selector on two SQLite databases, which looks by a proxy that can be cut.

    :param url: of the members that it knows; by default all.
    """

    def __init__(self, fleet: Fleet, proxied: bool, url: str | None = None, **options: Any) -> None:
        app = fleet.app
        self.proxy = Proxy(fleet.etcd.node.port) if proxied else None
        url = url or (fleet.etcd.urls if self.proxy is None else self.proxy.url)
        self.engine, self.other = app.make_engine(app.urls["rw"]), app.make_engine(app.urls["ro"])
        app.made += [self.engine, self.other]
        switched = {k: options.pop(k) for k in ("file", "ttl") if k in options}
        self.switch = EtcdSwitch(url, key=fleet.store.key, **switched)
        options.setdefault("watch", False)  # a test tells when to look
        self.selector = EngineSelector(
            self.switch, read_write=self.engine, read_only=self.other, **options
        )
        self.sessions = sessionmaker(self.selector, class_=RoutingSession)

    @property
    def entry(self) -> Any:
        return self.switch.registry.entry

    def which(self) -> str:
        with self.sessions() as session:
            return str(session.scalar(WHICH))

    def write(self) -> None:
        with self.sessions.begin() as session:
            session.add(Book(title="x"))

    def writes(self) -> bool:
        try:
            self.write()
        except ReadOnlyError:
            return False
        return True

    def look(self) -> str:
        """Look, do what is due, and tell the mode."""
        return str(self.selector.check().mode)

    @property
    def reason(self) -> str:
        return str(self.switch.known.reason)

    def cut_off(self) -> None:
        self.proxy.refuses = True
        self.proxy.cut()

    def connect_again(self) -> None:
        self.proxy.refuses = False

    def close(self) -> None:
        if self.proxy is not None:
            self.connect_again()
        self.selector.close()
        # What is under way must not be told of in the next test.
        self.switch._follower.join(10)
        if (look := self.switch._under_way) is not None:
            look.ended.wait(10)
        if self.proxy is not None:
            self.proxy.close()


class Fleet:
    def __init__(self, etcd: Etcd, app: App, key: str) -> None:
        self.etcd, self.app = etcd, app
        self.store = store_of(etcd.urls, key)
        self.client = self.store.client
        self.workers: list[Worker] = []
        self.fence = Fence()

    def init(self, fence: float = 10.0) -> None:
        init(self.store, fence)

    def worker(self, proxied: bool = False, **options: Any) -> Worker:
        self.workers.append(Worker(self, proxied, **options))
        return self.workers[-1]

    def on(self, reason: str = "upgrade") -> str:
        return turn_on(self.store, reason).key.generation

    def off(self) -> None:
        turn_off(self.store)

    def read(self) -> Reading:
        return read(self.store)

    def one(self) -> Any:
        (one,) = self.read().seen
        return one

    def one_lost(self) -> Any:
        (one,) = [one for one in self.read().seen if one.liveness.value == "lost"]
        return one

    def whys(self, **how: Any) -> list[str]:
        verdict, _, _ = judge(self.store, self.fence, **how)
        return [why for _, why in verdict.waiting] or ([verdict.problem] if verdict.problem else [])

    def drained(self) -> bool:
        return judge(self.store, self.fence)[0].holds

    def close(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(Exception):
                worker.close()


@pytest.fixture
def bare(etcd: Etcd, lite: App, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet that was not initialised."""
    fleet = Fleet(etcd, lite, f"/{request.node.name[:40]}/mode".replace("[", "_").replace("]", "_"))
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(bare: Fleet) -> Fleet:
    """One that was, with a fence of ten seconds."""
    bare.init()
    return bare
