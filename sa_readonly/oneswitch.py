"""What the engines by URL of one file share in a process: the switch, the worker, the entry.

Programs make engines as others make strings, and close none. So there is one of this for each
absolute path, and for each key in etcd, in a weak table: the one exception to "no state is global".
It lingers for some seconds after the last engine, or a program that makes an engine for each
operation would register this process with each.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from . import forks, refusals
from .asking import Asking
from .checks import is_required, kind_of, registry_of
from .engines.pools import outlive
from .engines.single import of_engine
from .errors import ConfigurationError
from .etcd.switch import EtcdSwitch, store_of
from .hold.queue import Queue
from .rehearsal.notes import notebook_of, wanted
from .rehearsal.sheet import Sheet, sheet_of
from .selector import EngineSelector
from .switch import FileSwitch
from .text import absolute
from .workers.process import myself
from .workers.worker import worker_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .engines.doors import Door
    from .engines.handover import GuardedEngines
    from .engines.pools import Open
    from .mode import State, Switch
    from .workers.protocol import Registry, Seen
    from .workers.worker import Worker

    Connections = dict[object, Open]  # of one engine, by identity

__all__ = ["LINGER", "Asked", "OneSwitch", "asked", "of_file", "of_key", "sheets"]

LINGER = 5.0  # seconds for which the thread and the entry stay after the last engine


class OneSwitch(Asking):
    """What the engines of one switch share. It is asked of the mode as a selector is.

    :param make: makes the switch.
    :param workers: see :class:`.EngineSelector`.
    :param path: the absolute path of the file; None for a key in etcd.
    :param paths: those that go with a key, by the names of :class:`.EtcdSwitch`.
    """

    def __init__(
        self,
        make: Callable[[], Switch],
        workers: object,
        path: str | None,
        paths: Mapping[str, str | None] | None = None,
    ) -> None:
        wanted(False)  # what SA_READONLY_REHEARSE may be; at the first connection it would be late
        self.workers = workers
        self.path = path
        self.paths = paths or {}
        self._make = make
        self._switch: Switch | None = None
        self._callbacks = []
        self.server = None  # a server's word is raised, and turns none of these engines
        self._keepers: weakref.WeakSet[object] = weakref.WeakSet()  # for which it stays joined
        # Held weakly: an engine holds them, or a connection that outlives it.
        self._engines: dict[weakref.ref[GuardedEngines], list[Connections]] = {}
        # Of engines that are gone, where a driver's connection is not; and in which process.
        self._left: dict[int, tuple[Connections, int]] = {}
        self._last: State | None = None  # by which they were turned
        self._empty: float | None = None  # since when there are none, by time.monotonic()
        self._leave: Callable[[], None] | None = None  # set while it is joined to the worker
        # The second is taken while the switch holds its own, which joining takes: never the other
        # way round.
        self._joining = forks.PerProcess(threading.RLock)
        self._turning = forks.PerProcess(threading.RLock)

    @property
    def switch(self) -> Switch:  # type: ignore[override]  # a property, as it is made lazily
        """The switch, made when it is first asked for."""
        if self._switch is None:
            with self._joining():
                if self._switch is None:
                    self._switch = self._make()
        return self._switch

    @property
    def _worker(self) -> Worker:  # type: ignore[override]  # the same
        return worker_of(self.switch)

    @cached_property
    def held(self) -> Queue:  # type: ignore[override]  # made lazily as well
        """The requests that a middleware holds."""
        return Queue(self, None)  # type: ignore[arg-type]  # its switch is read only

    # -- what is asked of it ---------------------------------------------------------------

    def keep(self, by: object) -> OneSwitch:
        """Be joined as long as ``by`` lives, with or without engines: it answers for them."""
        with self._joining():
            self._keepers.add(by)
            if self._leave is None:
                self._join()
        return self

    @property
    def registry(self) -> Registry | None:
        """Where this process reports itself, and the others do; None if it does not."""
        return registry_of(self.workers, self.switch)

    def report(self) -> Seen:
        """Return what this process tells of itself; see :meth:`.EngineSelector.report`."""
        here = self._worker.tell(myself(), self.switch)
        if self.registry is None:
            here = replace(here, problem=kind_of(self.switch).unreported)
        return here

    # -- the engines ---------------------------------------------------------------------

    def join(self, engines: GuardedEngines) -> None:
        """Turn these engines from now on, as long as there are any, and count them.

        :raises ConfigurationError: if the worker reports itself elsewhere.
        """
        with self._joining():
            worker = self._worker
            if self._leave is None:
                self._join()
            self._empty = None  # it lingers after the last one, not after the first that went
            # Turned by what turned the others: on the way back that comes before it is known.
            with self._turning():
                found = [door.ledger.connections for door in engines.doors]
                self._engines[weakref.ref(engines, self._forget)] = found
                if self._last is not None:
                    engines.turn(self._last)
            for door in engines.doors:
                worker.look_after(door)

    def _join(self) -> None:
        switch = self.switch
        worker = self._worker
        registry, required = registry_of(self.workers, switch), is_required(self.workers, switch)
        worker.agree(registry, required)
        worker.join(switch, self, registry, watch=True, required=required)
        unsubscribe = switch.subscribe(self._turn, self._flipped)

        def leave() -> None:
            worker.leave(self)
            unsubscribe()

        self._leave, self._empty = leave, None

    def _forget(self, reference: weakref.ref[GuardedEngines]) -> None:
        # A garbage collection calls this anywhere: nothing waits here.
        for connections in self._engines.pop(reference, ()):
            outlive(connections)
            if connections:
                self._left[id(connections)] = connections, os.getpid()

    @property
    def outliving(self) -> int:
        """How many connections of engines that are gone are kept as the driver's own."""
        here = os.getpid()
        for key, (connections, process) in list(self._left.items()):
            if not connections or process != here:
                self._left.pop(key, None)
        return sum(len(connections) for connections, _ in list(self._left.values()))

    def rest(self) -> None:
        """Leave the worker, if there has been no engine for :data:`LINGER` seconds."""
        if self._engines or self._keepers or self.outliving:
            self._empty = None
        elif self._empty is None:
            self._empty = time.monotonic()
        elif time.monotonic() >= self._empty + LINGER:
            with self._joining():
                leave = self._leave
                if leave is not None and not (self._engines or self._keepers):
                    self._leave = None
                    leave()

    def _alive(self) -> list[GuardedEngines]:
        found = (reference() for reference in list(self._engines))
        return [engines for engines in found if engines is not None]

    @property
    def doors(self) -> list[Door]:
        """The doors of all engines."""
        return [door for engines in self._alive() for door in engines.doors]

    @property
    def sets(self) -> list[Mapping[str, Engine]]:
        """The two sides of each engine, by name."""
        return [engines.engines for engines in self._alive()]

    # -- flips ---------------------------------------------------------------------------

    def _turn(self, state: State) -> None:
        """Turn all of them, also after one that fails, whose error is raised then."""
        failed: Exception | None = None
        with self._turning():
            self._last = state
            for engines in self._alive():
                try:
                    engines.turn(state)
                except Exception as error:  # noqa: BLE001  # raised below
                    failed = error
        if failed is not None:
            raise failed

    def _flipped(self, old: State, new: State) -> None:
        refusals.remember(self.switch, new if new.read_only else old)
        for engines in self._alive():
            engines.settle(new)
        self._tell(old, new)


# -- the table -------------------------------------------------------------------------------

_switches: weakref.WeakValueDictionary[object, OneSwitch] = weakref.WeakValueDictionary()
# Reentrant: a garbage collection may begin in it and end a selector, which leads here again.
_finding = forks.PerProcess(threading.RLock)


def of_file(path: Any, workers: object) -> OneSwitch:
    """Return what the engines of a file share.

    :raises ConfigurationError: if the path makes no sense, its directory does not exist, or other
        engines of the file have other ``workers``.
    """
    found = _switches.get(path) if isinstance(path, str) else None  # it is absolute then
    if found is None:
        path = absolute(path)
        found = _find(path, lambda: OneSwitch(lambda: FileSwitch(path), workers, path))
    return _agreed(found, workers)


def of_key(urls: Any, key: Any, workers: object, **settings: Any) -> OneSwitch:
    """Return what the engines of a key in etcd share: one switch, however its members are spelled.

    :param settings: further ones of :class:`.EtcdSwitch`: paths, or None.
    :raises ConfigurationError: if one of them makes no sense, or other engines of the key have
        other settings or ``workers``.
    """
    paths: dict[str, Any] = {
        name: path and (absolute(path) if name == "file" else os.path.abspath(path))
        for name, path in settings.items()
    }
    named = (str(urls), str(key), *paths.items())
    found = _switches.get(named)
    if found is None:
        trust = {name: path for name, path in paths.items() if name != "file"}
        store = store_of(urls, key, **trust)  # which refuses what makes no sense, and asks nothing
        make = partial(EtcdSwitch, urls, key=key, **paths)
        found = _find(store.identity, lambda: OneSwitch(make, workers, None, paths))
        for name, path in paths.items():
            if found.paths[name] != path:
                raise ConfigurationError(
                    f"sa_readonly_{name}={path!r} differs from {found.paths[name]!r} of another "
                    f"engine with the key {key!r}, with which it shares one switch. Give the same "
                    "to both."
                )
        _switches[named] = found
    return _agreed(found, workers)


def _find(name: object, make: Callable[[], OneSwitch]) -> OneSwitch:
    with _finding():
        found = _switches.get(name)
        if found is None:
            found = _switches.setdefault(name, make())
    return found


def _agreed(found: OneSwitch, workers: object) -> OneSwitch:
    if found.workers != workers:
        raise ConfigurationError(
            f"sa_readonly_workers={workers!r} differs from {found.workers!r} of another engine "
            "with this switch, with which it shares one entry. Give the same to both."
        )
    return found


Asked = EngineSelector | OneSwitch
"""What may be asked of the mode."""


def sheets(selector: Asked) -> list[Sheet]:
    """Return what the processes have noted in a rehearsal; without a registry, this one alone."""
    registry = selector.registry
    return [sheet_of(notebook_of(selector.switch))] if registry is None else registry.sheets()


def asked(value: object, by: object = None) -> Asked | None:
    """Return what may be asked of the mode: a selector, or what an engine by URL shares.

    :param by: what answers for this process by it, and is registered before an engine connects.
    :return: None for anything else.
    """
    if isinstance(value, EngineSelector):
        return value
    engine = getattr(value, "sync_engine", value)
    single = of_engine(engine) if isinstance(engine, Engine) else None
    shared: Any = single and single.shared
    return shared if shared is None or by is None else shared.keep(by)  # type: ignore[no-any-return]  # a OneSwitch
