"""Every implementation of the protocol `Registry`, for the tests of what the protocol promises.

A further one is listed in `KINDS`, with how one of its entries is lost, dies, and how it breaks.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sa_readonly import forks
from sa_readonly.etcd.registry import EtcdRegistry
from sa_readonly.etcd.switch import store_of
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.process import myself
from sa_readonly.workers.protocol import (
    Entry,
    Identify,
    Liveness,
    Registry,
    RegistryError,
    Report,
    Seen,
)
from tests.etcd import Etcd, Proxy
from tests.workers import in_child


class Kind(ABC):
    """One implementation, in a directory that it may use."""

    dies_as = Liveness.DEAD  # what a process that has died is read as
    sweeps = True  # whether workers sweep what has died

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def made(cls, directory: Path, request: pytest.FixtureRequest) -> Kind:  # noqa: ARG003  # another kind asks for its server
        """Make one for a test."""
        return cls(directory)

    @abstractmethod
    def open(self) -> Registry:
        """Open the same registry, as another part of the program or another process does."""

    @abstractmethod
    def lose(self, entry: Any) -> None:
        """Have an entry taken away from outside."""

    @abstractmethod
    def die(self, identify: Identify, work: Callable[[Entry], object]) -> None:
        """Have a process register, do something, and die without a word."""

    @abstractmethod
    def broken(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which it can not be used."""


# -- a directory ------------------------------------------------------------------------------


class Directory(Kind):
    @property
    def path(self) -> Path:
        return self.directory / "workers"

    def open(self) -> Registry:
        return DirectoryRegistry(self.path)

    def lose(self, entry: Any) -> None:
        shutil.rmtree(self.path)

    def die(self, identify: Identify, work: Callable[[Entry], object]) -> None:
        in_child(lambda: work(self.open().register(identify)))

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        aside = self.path.with_name("aside")
        self.path.rename(aside)
        self.path.touch()
        yield
        self.path.unlink()
        aside.rename(self.path)


# -- the smallest that keeps every promise, in the memory of one process ----------------------


class MemoryRegistry(Registry):
    """A registry that is no directory: an object that is given to each selector."""

    def __init__(self) -> None:
        self.entries: dict[str, Seen] = {}
        self.is_broken = False
        self.reports = 0  # that were written
        self._numbers = itertools.count()

    def register(self, identify: Identify) -> MemoryEntry:
        entry = MemoryEntry(self, identify)
        entry.ensure()
        return entry

    def sweep(self, identify: Identify) -> None:
        dead = [one for one in self.entries.values() if one.liveness is Liveness.DEAD]
        try:
            unneeded = identify() is None
        except Exception:  # noqa: BLE001  # as the protocol has it
            unneeded = False
        for one in dead:
            if unneeded or one.left_nothing:
                self.entries.pop(one.name, None)

    def read(self) -> list[Seen]:
        if self.is_broken:
            return [Seen("memory", Liveness.UNKNOWN, problem="it is broken")]
        return list(self.entries.values())

    def new_name(self) -> str:
        return f"memory-{os.getpid()}-{next(self._numbers)}"


class MemoryEntry(Entry):
    def __init__(self, registry: MemoryRegistry, identify: Identify) -> None:
        self.name = ""
        self._registry, self._identify = registry, identify
        self._lock = forks.PerProcess(threading.RLock)
        self._may_acknowledge = self._over = False
        forks.subscribe(in_child=self._follow_fork)

    def _follow_fork(self) -> None:
        self.name = ""

    def ensure(self) -> bool:
        if self._over or self.stands():
            return False
        if self._registry.is_broken:
            raise RegistryError("It is broken.")
        self._registry.sweep(self._identify)
        self.name = self._registry.new_name()
        one = replace(myself(), name=self.name, problem="has not reported")
        self._registry.entries[self.name] = one
        return True

    def stands(self) -> bool:
        return self._over or (not self._registry.is_broken and self.name in self._registry.entries)

    def closed(self) -> None:
        self._may_acknowledge = True

    def report(self, snapshot: Callable[[], Report]) -> None:
        with self._locked():
            if not self._over:
                may_acknowledge = self._may_acknowledge
                self._require()
                report = snapshot()
                acknowledged = may_acknowledge and report.may_acknowledge
                self._tell(report=report, acknowledged=acknowledged, problem=None)
                self._registry.reports += 1

    def withdraw(self) -> None:
        with self._locked():
            if not self._over:
                self._may_acknowledge = False
                self._require()
                self._tell(acknowledged=False)

    def close(self) -> None:
        self._over = True
        self._registry.entries.pop(self.name, None)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with forks.locked(self._lock(), 0.2) as taken:
            if not taken:
                raise RegistryError("Another thread reports.")
            yield

    def _require(self) -> None:
        if not self.stands():
            raise RegistryError("This process is not registered.")

    def _tell(self, **fields: Any) -> None:
        entries = self._registry.entries
        entries[self.name] = replace(entries[self.name], **fields)


class Memory(Kind):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.registry = MemoryRegistry()

    def open(self) -> Registry:
        return self.registry

    def lose(self, entry: Any) -> None:
        del self.registry.entries[entry.name]

    def die(self, identify: Identify, work: Callable[[Entry], object]) -> None:
        entry = self.registry.register(identify)
        work(entry)
        self.registry.entries[entry.name] = replace(
            self.registry.entries[entry.name], liveness=Liveness.DEAD
        )

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        self.registry.is_broken = True
        yield
        self.registry.is_broken = False


# -- etcd, where no process is ever known to be dead ------------------------------------------


class InEtcd(Kind):
    dies_as = Liveness.LOST
    sweeps = False

    def __init__(self, directory: Path, etcd: Etcd) -> None:
        super().__init__(directory)
        self.proxy = Proxy(etcd.node.port)
        self.key = f"/shop/{directory.name}"
        self.store = store_of(etcd.urls, self.key)

    @classmethod
    def made(cls, directory: Path, request: pytest.FixtureRequest) -> Kind:
        kind = cls(directory, request.getfixturevalue("etcd"))
        request.addfinalizer(kind.proxy.close)
        return kind

    def open(self) -> Registry:
        return EtcdRegistry(store_of(self.proxy.url, self.key), "web1")

    def lose(self, entry: Any) -> None:
        self.store.client.delete(entry.place.key)
        self.store.client.delete(entry.place.key + "/ack")

    def die(self, identify: Identify, work: Callable[[Entry], object]) -> None:
        def child() -> None:
            entry = self.open().register(identify)
            work(entry)
            entry._hint.end()  # which ends by itself later

        in_child(child)

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        self.proxy.refuses = True
        self.proxy.cut()
        yield
        self.proxy.refuses = False


KINDS = (Directory, Memory, InEtcd)
