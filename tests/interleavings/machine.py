"""Runs the package's own code one step at a time, in an order that is chosen from outside.

Each thread of each process is a greenlet. What it asks of the operating system, each lock and each
touch of what threads share is a step: there the greenlet stops until it is chosen. What runs
between two steps touches only what its own process has in memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

import greenlet

from sa_readonly import forks, subscribers, switch
from sa_readonly.engines import uses
from sa_readonly.text import Text
from sa_readonly.workers import directory as directory_room
from sa_readonly.workers import (
    entry,
    folder,
    memory,
    process,
    reporting,
    reports,
    verdict,
    watcher,
    worker,
)

from . import kernel
from .kernel import Kernel

_ADDED = -1  # in a history: no thread did a step, but one more was added
TICK = 1e-6  # seconds between two readings of the clock in one process


class Broken(Exception):  # noqa: N818  # it is no error of the program that raises it
    """A property does not hold; the message says which."""


class Thread:
    """One thread of a process: a greenlet, and the step for which it waits."""

    def __init__(self, process: Process, name: str, run: Callable[[], object]) -> None:
        self.process, self.name, self.run = process, name, run
        self.number = len(process.threads)
        process.threads.append(self)
        process.running += 1
        self.greenlet = greenlet.greenlet(self._run)
        self.effect: Callable[[], Any] | None = None
        self.kind = "begins"
        self.is_ready: Callable[[], bool] | None = None  # None: always
        self.give_up: Callable[[], Any] | None = None  # what it does when its patience ends
        self.waits_for_tick = False
        self.begun = self.over = False
        self.daemon = True

    def _run(self, _: object) -> None:
        with contextlib.suppress(greenlet.GreenletExit):
            self.run()
        self.end()

    def end(self) -> None:
        if not self.over:
            self.over = True
            self.process.running -= 1

    @property
    def ready(self) -> bool:
        return self.is_ready is None or self.is_ready()

    # as threading has them
    def is_alive(self) -> bool:
        return self.begun and not self.over


class Process:
    """A process of the package: what is global in its modules, its threads and its history."""

    def __init__(self, machine: Machine, pid: int, ticks: int = 0) -> None:
        self.machine, self.pid = machine, pid
        self.system = machine.kernel.start(pid)
        self.threads: list[Thread] = []
        # Of each step: the thread, what came of it, and the time that it was.
        self.history: list[tuple[int, Any, float]] = []
        self.seen = 0  # a digest of that
        self.ticks = ticks
        self.running = 0  # threads that have not come to their end
        self.names = 0
        self.readings = 0
        self.root: Any = None
        before: dict[Any, Any] = {}
        tables = before, {}, {}, {}
        self.globals: dict[tuple[Any, str], Any] = {
            (forks, "_before"): tables[0],
            (forks, "_in_parent"): tables[1],
            (forks, "_in_child"): tables[2],
            (forks, "_last_in_child"): tables[3],
            (forks, "_ALL"): tables,
            (forks, "_pid"): pid,
            (forks, "_following"): None,
            (forks, "_telling"): forks.PerProcess(Lock),
            (entry, "_registered"): set(),
        }

    def enter(self) -> None:
        for (room, name), value in self.globals.items():
            setattr(room, name, value)

    def leave(self) -> None:
        for room, name in self.globals:
            self.globals[room, name] = getattr(room, name)

    @property
    def alive(self) -> bool:
        return self.system.alive

    @property
    def is_threaded(self) -> bool:
        return self.running > 1


class Machine:
    """One run: which thread goes on next is asked of ``choose``."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.main = greenlet.getcurrent()
        self.processes: list[Process] = []
        self.now = 1000.0
        self.steps = 0
        self.current: Process | None = None  # whose modules' globals are in place
        self.running: Thread | None = None  # None where what is left of a run is being collected
        self.alone = False  # whether no other thread goes on before this one has come to its end
        self.slow = False  # whether an answer of the file system may take its time to arrive
        self.ends = False  # whether processes may end, so that the marks of living ones matter
        self.replaying: Process | None = None
        self.check: Callable[[], None] = lambda: None
        self.failed: BaseException | None = None

    # -- what runs in a thread -----------------------------------------------------------

    def step(
        self,
        kind: str,
        effect: Callable[[], Any],
        *,
        shared: bool = True,
        is_ready: Callable[[], bool] | None = None,
        give_up: Callable[[], Any] | None = None,
        waits_for_tick: bool = False,
    ) -> Any:
        """Have ``effect`` done when this thread is chosen, and return or raise what it does.

        :param shared: whether others can tell when it is done; if not, it is done at once.
        """
        thread = self.running
        if thread is None:
            raise greenlet.GreenletExit
        if self.replaying is None and not thread.process.alive:
            raise greenlet.GreenletExit
        if (shared and not (self.alone and (is_ready is None or is_ready()))) or self.replaying:
            thread.effect, thread.is_ready, thread.give_up = effect, is_ready, give_up
            thread.kind = kind
            thread.waits_for_tick = waits_for_tick
            outcome = self.main.switch()
        else:
            outcome = self.do(thread, effect)
        if isinstance(outcome, OSError):
            raise OSError(outcome.errno, outcome.strerror, outcome.filename)
        return outcome

    def do(self, thread: Thread, effect: Callable[[], Any]) -> Any:
        self.steps += 1
        try:
            outcome = effect()
        except OSError as error:
            outcome = error
        process = thread.process
        process.history.append((thread.number, outcome, self.now))
        process.seen = hash((process.seen, thread.number, _digest(outcome)))
        return outcome

    # -- what runs outside of all threads ------------------------------------------------

    def add(self, process: Process, name: str, program: Callable[[Any], object]) -> Thread:
        """Have a process run one more program, which is given its root, in a thread."""
        process.history.append((_ADDED, (name, program), self.now))
        return self.spawn(process, name, lambda: program(process))

    def spawn(self, process: Process, name: str, run: Callable[[], object]) -> Thread:
        thread = Thread(process, name, run)
        thread.greenlet.parent = self.main
        thread.begun = True
        thread.effect = _nothing
        return thread

    def go_on(self, thread: Thread, *, give_up: bool = False) -> None:
        """Do the step for which a thread waits, and run it until the next one."""
        effect = thread.give_up if give_up else thread.effect
        assert effect is not None
        self.enter(thread.process)
        outcome = self.do(thread, effect)
        self.resume(thread, outcome)
        self.check()

    def resume(self, thread: Thread, outcome: Any) -> None:
        before, self.running = self.running, thread
        try:
            thread.greenlet.switch(outcome)
        except Broken:
            raise
        except Exception as error:
            raise Broken(f"{thread.name} raised {error!r}") from error
        finally:
            self.running = before

    def enter(self, process: Process | None) -> None:
        if self.current is not process:
            if self.current is not None:
                self.current.leave()
            if process is not None:
                process.enter()
            self.current = process

    def kill(self, process: Process) -> None:
        """End a process as SIGKILL does. Its threads never go on."""
        self.kernel.kill(process.system)

    def clone(self, parent: Process, forking: Thread, pid: int) -> Process:
        """Fork: a process that has lived through the same, with the one thread that forks.

        It is run again from its beginning, where each step brings what it had brought, at the time
        that it was.
        """
        before, now = self.current, self.now
        child = Process(self, pid)
        # Until it has come so far it is the parent.
        child.pid = parent.pid
        child.globals[forks, "_pid"] = parent.pid
        self.replaying = child
        self.enter(child)
        for number, outcome, self.now in parent.history:
            if number == _ADDED:
                self.add(child, *outcome)
            else:
                self.resume(child.threads[number], outcome)
        self.replaying, self.now = None, now
        child.seen, child.history = parent.seen, list(parent.history)
        mine = child.threads[forking.number]
        for thread in child.threads:
            if thread is not mine:
                thread.end()
        child.pid, child.ticks = pid, 0
        child.system.descriptors = self.kernel.fork(parent.system, pid).descriptors
        self.kernel.processes[pid] = child.system
        mine.effect, mine.is_ready, mine.give_up = (lambda: 0), None, None
        self.processes.append(child)
        self.enter(before)
        return child

    def threads(self) -> list[Thread]:
        """All that may go on some time, in an order that is the same in each run."""
        return [
            thread
            for process in self.processes
            if process.alive
            for thread in process.threads
            if not thread.over
        ]

    def digest(self) -> int:
        told = tuple(
            (process.pid, process.seen, process.ticks)
            for process in self.processes
            if process.alive
        )
        return hash((told, self.kernel.digest(), self.now))

    def end(self) -> None:
        """Let go all that has not come to its end."""
        for one in self.processes:
            one.system.alive = False
        for thread in [thread for one in self.processes for thread in one.threads]:
            for _ in range(100):
                if thread.greenlet.dead or not thread.greenlet:
                    break
                with contextlib.suppress(BaseException):
                    thread.greenlet.throw()
        self.enter(None)


_machine: Machine | None = None


def machine() -> Machine:
    assert _machine is not None
    return _machine


def this() -> Thread:
    thread = None if _machine is None else _machine.running
    if thread is None:
        raise greenlet.GreenletExit
    return thread


def _nothing() -> None:
    pass


def _digest(outcome: Any) -> Any:
    if isinstance(outcome, OSError):
        return outcome.errno
    if isinstance(outcome, kernel.Inode):
        return outcome.number
    return tuple(outcome) if isinstance(outcome, list) else outcome


# -- what the package's rooms find in the place of the modules that they import ---------------


class Lock:
    """A lock of :mod:`threading`; reentrant ones are the same with a count."""

    def __init__(self) -> None:
        self.owner: Thread | None = None
        self.count = 0

    def _take(self, me: Thread) -> bool:
        self.owner, self.count = me, self.count + 1
        return True

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = this()

        def is_free() -> bool:
            return self.owner in (None, me)

        def take() -> bool:
            return is_free() and self._take(me)

        return bool(
            machine().step(
                "lock",
                take,
                shared=me.process.is_threaded,
                is_ready=is_free if blocking else None,
                give_up=(lambda: False) if timeout >= 0 else None,
            )
        )

    def release(self) -> None:
        me = this()

        def give() -> None:
            self.count -= 1
            if not self.count:
                self.owner = None

        machine().step("unlock", give, shared=me.process.is_threaded)

    def _is_owned(self) -> bool:
        return self.owner is this()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Event:
    """An event of :mod:`threading`; a wait with a timeout ends as often as its process may tick."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        # A step, as in a process that is forked only what steps have brought is there again.
        return bool(machine().step("is_set", lambda: self._set, shared=False))

    def set(self) -> None:
        machine().step("set", lambda: setattr(self, "_set", True))

    def clear(self) -> None:
        machine().step("clear", lambda: setattr(self, "_set", False))

    def wait(self, _timeout: float | None = None) -> bool:
        process = this().process

        def is_ready() -> bool:
            return self._set or process.ticks > 0

        def end() -> bool:
            if not self._set:
                process.ticks -= 1
            return self._set

        return bool(machine().step("wait", end, is_ready=is_ready, waits_for_tick=True))


class StartedThread:
    """A thread of :mod:`threading` that the package starts."""

    def __init__(
        self, target: Callable[..., object], args: tuple[Any, ...] = (), **_options: object
    ) -> None:
        self._target, self._args = target, args
        self._thread: Thread | None = None

    def start(self) -> None:
        made = machine()
        process = this().process
        target, args = self._target, self._args
        self._thread = made.spawn(process, f"{process.pid} watcher", lambda: target(*args))

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        thread = self._thread
        assert thread is not None
        machine().step(
            "join",
            _nothing,
            is_ready=lambda: thread.over,
            give_up=None if timeout is None else _nothing,
        )


THREADING = types.SimpleNamespace(
    RLock=Lock, Lock=Lock, Event=Event, Thread=StartedThread, current_thread=lambda: None
)


class Clock:
    """The module :mod:`time`, and the clock of answers."""

    @staticmethod
    def time() -> float:
        return machine().now

    monotonic = time

    @staticmethod
    def answers() -> float:
        """A clock that no two looks of one process read the same of."""
        process = this().process
        process.readings += 1
        return machine().now + process.readings * TICK


class Calls:
    """The module :mod:`os`, with this memory in the place of the kernel's."""

    # What only touches what no other process and no other thread looks at when it is done.
    _OWN = frozenset({"fstat", "fchmod", "lseek", "fchown", "read_own", "islink", "geteuid"})

    def __init__(self) -> None:
        self.path = types.SimpleNamespace(
            **{name: getattr(os.path, name) for name in ("join", "dirname", "basename", "abspath")},
            islink=lambda _path: False,
            lexists=lambda path: self._call("stat", path, or_none=True) is not None,
        )

    def __getattr__(self, name: str) -> Any:
        if name in ("register_at_fork", "fork"):
            raise AttributeError(name)
        return getattr(os, name)

    def _call(self, name: str, *args: Any, or_none: bool = False, **options: Any) -> Any:
        made = machine()
        function = getattr(made.kernel, name)
        process = this().process
        shared = _is_shared(name, args, options, process)
        try:
            return made.step(
                name, lambda: function(process.system, *args, **options), shared=shared
            )
        except FileNotFoundError:
            if or_none:
                return None
            raise
        finally:
            if made.slow and args[0] == kernel.FILE:
                made.step("answered", _nothing)

    def getpid(self) -> int:
        return this().process.pid

    def geteuid(self) -> int:
        return 0

    def kill(self, pid: int, _signal: int) -> None:
        made = machine()
        made.step("kill", lambda: made.kernel.signal(pid), shared=made.ends)

    def fchown(self, *_: object) -> None:
        pass

    def scandir(self, path: str) -> list[Any]:
        return [
            types.SimpleNamespace(name=name, path=f"{path}/{name}", is_file=lambda **_: True)
            for name in self._call("listdir", path)
        ]


for _name in (
    *("open", "close", "fstat", "stat", "fchmod", "lseek", "read", "pread", "write", "pwrite"),
    *("unlink", "replace", "mkdir", "listdir"),
):
    setattr(
        Calls,
        _name,
        lambda self, *args, _name=_name, **options: self._call(_name, *args, **options),
    )


def _is_shared(name: str, args: tuple[Any, ...], options: Any, process: Process) -> bool:
    """True if another process or thread can tell when a call is done, before or after its own."""
    if name in Calls._OWN:
        return False
    if name in ("stat", "open", "mkdir") and args[0] in (kernel.ROOT, kernel.WORKERS):
        return False  # they are always there
    if name in ("open", "unlink", "listdir") and str(args[0]).startswith(kernel.MEMORY):
        return machine().ends  # it is asked of a process that has died
    if name in ("open", "unlink") and str(args[0]).endswith(".new") and not options:
        return process.is_threaded  # a sweep alone looks for it, where there is no lock any more
    if name in ("close", "write"):
        one = process.system.descriptors.get(args[0])
        if one is not None:
            return bool(one.inode.locks) if name == "close" else False
    return True


class Mapped:
    """Memory of a file."""

    def __init__(self, inode: kernel.Inode) -> None:
        self._inode = inode

    def __setitem__(self, place: int, value: int) -> None:
        def store() -> None:
            self._inode.content[place] = value

        made = machine()
        made.step("store", store, shared=made.ends)


def _mapped(descriptor: int) -> Mapped:
    descriptors = this().process.system.descriptors
    return Mapped(machine().step("map", lambda: descriptors[descriptor].inode, shared=False))


def _flock(descriptor: int, how: int) -> None:
    made, process = machine(), this().process
    made.step("flock", lambda: made.kernel.flock(process.system, descriptor, how))


def _token(_size: int) -> str:
    process = this().process
    process.names += 1
    return f"{process.pid:08x}{process.names:08x}"


def _status_of(path: str) -> str:
    """What ``/proc/<pid>/stat`` says."""
    _, _, pid, last = (*path.split("/"), "", "")[:4]
    made = machine()
    if last != "stat" or not pid.isdigit():
        return ""
    found = made.kernel.processes.get(int(pid))
    if found is None or not found.alive:
        return ""
    return f"{pid} (worker) S " + " ".join(["1"] * 18) + f" {pid} 0"


_CALLS = Calls()
_REPLACED: dict[Any, dict[str, Any]] = {
    forks: {"os": _CALLS, "threading": THREADING},
    subscribers: {"threading": THREADING, "clock": Clock.answers},
    switch: {
        "os": _CALLS,
        "threading": THREADING,
        "clock": Clock.answers,
        "absolute": lambda path: path,
        "read": lambda _path: (Text("maintenance"), None),
    },
    uses: {"os": _CALLS},
    entry: {
        "os": _CALLS,
        "threading": THREADING,
        "secrets": types.SimpleNamespace(token_hex=_token, randbelow=lambda _limit: 7),
    },
    folder: {
        "os": _CALLS,
        "fcntl": types.SimpleNamespace(
            flock=_flock,
            **{
                name: getattr(kernel, name) for name in ("LOCK_SH", "LOCK_EX", "LOCK_NB", "LOCK_UN")
            },
        ),
    },
    directory_room: {"os": _CALLS},
    memory: {"os": _CALLS, "_mapped": _mapped, "_is_in_memory": lambda: True},
    process: {
        "os": _CALLS,
        "_text": _status_of,
        "_started": lambda _mine: 0.0,
        "_program": lambda: "worker",
        "_version": lambda: "0",
        "host": lambda: "host",
        "place": lambda: "0" * 12,
    },
    reporting: {"time": Clock, "threading": THREADING},
    reports: {"os": _CALLS, "time": Clock},
    verdict: {"time": Clock},
    watcher: {"time": Clock, "threading": THREADING},
    worker: {
        "time": Clock,
        "threading": THREADING,
        "clock": Clock.answers,
        "call_at_exit": lambda _worker: None,
    },
}


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """Have the rooms of the package find a machine in the place of the operating system."""
    before = {room: {name: getattr(room, name) for name in new} for room, new in _REPLACED.items()}
    kept = {
        (forks, name): getattr(forks, name)
        for name in (
            *("_before", "_in_parent", "_in_child", "_last_in_child"),
            *("_ALL", "_pid", "_following", "_telling"),
        )
    }
    kept[entry, "_registered"] = entry._registered
    logger = logging.getLogger("sa_readonly")
    disabled, logger.disabled = logger.disabled, True
    for room, new in _REPLACED.items():
        for name, value in new.items():
            setattr(room, name, value)
    try:
        yield
    finally:
        for room, old in before.items():
            for name, value in old.items():
                setattr(room, name, value)
        for (room, name), value in kept.items():
            setattr(room, name, value)
        logger.disabled = disabled


@contextlib.contextmanager
def run() -> Iterator[Machine]:
    """A machine to be run, which is let go afterwards."""
    global _machine  # noqa: PLW0603  # the rooms of the package are of one process, too
    _machine = made = Machine()
    try:
        yield made
    finally:
        made.end()
        _machine = None
