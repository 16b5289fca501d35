"""A night of an upgrade: worker processes, the operator's commands, and what must hold.

The rooms of ``workers/``, the switch and what belongs to a fork are the package's own. A door,
which has SQLAlchemy's pools, is a small one here that does the same steps in the same order as
``engines/doors``, which `test_steps.py` stops at each of its lines.
"""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace
from typing import Any

from sa_readonly import FileSwitch, Mode
from sa_readonly.engines.uses import Use
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.verdict import Verdict, judge
from sa_readonly.workers.worker import Worker

from . import machine as machines
from .kernel import FILE, WORKERS, Inode
from .machine import Broken, Clock, Machine, Process, Thread, this

FOREVER = 3600.0  # a ttl that does not end in a night


class Refused(Exception):  # noqa: N818  # as ReadOnlyError, which the real doors raise
    """A read-write connection or transaction was refused."""


class Connection:
    """A connection, as its process knows it; at the server it has this number."""

    def __init__(self, number: tuple[int, int]) -> None:
        self.number = number
        self.use = Use()
        self.is_open = False


class Door:
    """The door of one engine, with a pool of what lies idle."""

    def __init__(self, night: Night, switch: FileSwitch) -> None:
        self.engine = SimpleNamespace(dialect=SimpleNamespace(is_async=False))
        self.before_connect: tuple[Any, ...] = ()
        self.after_refusal: tuple[Any, ...] = ()
        self._night, self._switch = night, switch
        self._shut_by: dict[object, None] = {}
        self._idle: list[Connection] = []  # of the pool of now
        self._retired: list[list[Connection]] = []
        self._known: dict[Connection, list[Connection]] = {}  # each, and its pool
        self._trace: Any = None
        self._made = 0
        self._pid = os.getpid()

    # -- what a worker asks --------------------------------------------------------------

    @property
    def is_shut(self) -> bool:
        self._touch()
        return bool(self._shut_by)

    @property
    def connections(self) -> int:
        self._touch()
        return len(self._known)

    @property
    def idle(self) -> int:
        return len(self._idle)

    def trace(self, _by: object, trace: Any) -> None:
        self._trace = trace
        for connection in list(self._known) if trace is not None else ():
            connection.use.note(trace)

    def shut(self, by: object, **_: object) -> None:
        self._touch()
        if not self._shut_by:
            self._retired.append(self._idle)
            self._idle = []
        self._shut_by[by] = None

    def open(self, by: object) -> None:
        self._touch()
        self._shut_by.pop(by, None)

    def sweep(self) -> None:
        for pool in list(self._retired):
            while pool:
                self._close(pool.pop())

    def close_idle(self) -> None:
        if not self._shut_by:
            self.shut(self)
            self.open(self)
            self.sweep()

    def leave_to_parent(self) -> None:
        for connection in self._known:
            connection.use.leave()
        self._known, self._idle, self._retired = {}, [], []

    # -- what a transaction asks ---------------------------------------------------------

    def checkout(self) -> Connection:
        if self._shut_by:
            self._ask()
            if self._shut_by:
                raise Refused
        pool = self._idle
        self._touch()
        if pool:
            connection = pool.pop()
            if self._trace is not None:
                connection.use.note(self._trace)
        else:
            connection = self._make(pool)
        try:
            if Clock.answers() >= self._switch.fresh_until or self._switch.known.read_only:
                self._prepare()
                self._ask()
            if any(pool is one for one in self._retired):
                raise Refused
        except BaseException:
            self._close(connection)
            self._tell_refusal()
            raise
        return connection

    def check_in(self, connection: Connection) -> None:
        pool = self._known[connection]
        self._touch()
        if any(pool is one for one in self._retired):
            self._close(connection)
            return
        connection.use.end()
        pool.append(connection)

    def _make(self, pool: list[Connection]) -> Connection:
        self._prepare()
        self._made += 1
        connection = Connection((this().process.pid, self._made))
        self._known[connection] = pool
        try:
            if self._trace is not None:
                connection.use.note(self._trace)
            self._prepare()
            self._touch()
            if self._shut_by:
                raise Refused
            self._ask()
            self._night.connect(connection)
            connection.is_open = True
            self._ask()
        except BaseException:
            self._close(connection)
            self._tell_refusal()
            raise
        return connection

    def _close(self, connection: Connection) -> None:
        if connection.is_open:
            self._night.disconnect(connection)
        self._known.pop(connection, None)
        connection.use.end()

    def _prepare(self) -> None:
        for prepare in self.before_connect:
            prepare()

    def _tell_refusal(self) -> None:
        for tell in self.after_refusal:
            tell()

    def _ask(self) -> None:
        switch = self._switch
        fresh = Clock.answers() < switch.fresh_until
        if (switch.known if fresh else switch.refresh()).read_only:
            raise Refused

    begin = _ask

    def _touch(self) -> None:
        """Be at a step, if another thread of this process may touch the door, too."""
        machines.machine().step("door", lambda: None, shared=this().process.is_threaded)


class Member:
    """One selector, as its worker knows it."""

    sets: tuple[Any, ...] = ()
    server = None
    outliving = 0  # its engines stay

    def __init__(self, door: Door) -> None:
        self.doors = (door,)

    def rest(self) -> None:
        pass

    def turn(self, state: Any) -> None:
        (door,) = self.doors
        if state.read_only:
            door.shut(self)
        else:
            door.open(self)


class Application:
    """What a worker process has: one selector's worth, made in the order of ``EngineSelector``."""

    def __init__(self, night: Night, *, ttl: float, watch: bool) -> None:
        self.night = night
        self.switch = FileSwitch(FILE, ttl=ttl)
        self.worker = Worker(self.switch)
        self.door = Door(night, self.switch)
        self.member = Member(self.door)
        registry = DirectoryRegistry(WORKERS)
        self.worker.join(self.switch, self.member, registry, watch=watch, required=False)
        self.switch.subscribe(self.member.turn, lambda *_: None)
        machines.forks.subscribe(in_child=self._follow_fork)

    def _follow_fork(self) -> None:
        self.door.leave_to_parent()

    def transaction(self) -> None:
        """Write, if that is not refused: as a session does, from the choice to the end."""
        begun = self.night.begin()
        with contextlib.suppress(Refused):
            fresh = Clock.answers() < self.switch.fresh_until
            if (self.switch.known if fresh else self.worker.refresh(self.switch)).read_only:
                raise Refused
            connection = self.door.checkout()
            try:
                self.door.begin()
                self.night.write(connection, begun)
            finally:
                self.door.check_in(connection)
            return
        self.night.refused()

    def tick(self) -> None:
        """Do what the watcher's thread does, once."""
        self.worker.watcher.tick()


class Night:
    """One run: what the server has, what was promised, and what the operator may do."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.open: dict[tuple[int, int], bool] = {}  # at the server: whether a statement runs
        self.orphans: set[int] = set()  # processes that died in a transaction while the file is
        self.promised = False
        self.on_at: float | None = None
        self.stale = ""
        self.ttl = 0.0
        self.writes = self.refusals = 0
        self.verdicts: list[bool] = []
        self.pids = 100
        self.then: list[tuple[Process, Any]] = []  # what is done after all, one after another
        machine.check = self.check

    # -- processes -----------------------------------------------------------------------

    def worker(self, *, ttl: float = 0.0, watch: bool = False, ticks: int = 0) -> Process:
        """Start a worker; it has made its selector when this returns."""
        self.ttl = ttl
        process = self._process(ticks)

        def boot(process: Process) -> None:
            process.root = Application(self, ttl=ttl, watch=watch)

        self.finish(self.machine.add(process, f"{process.pid} boots", boot))
        return process

    def operator(self) -> Process:
        process = self._process(0)

        def boot(process: Process) -> None:
            process.root = SimpleNamespace(
                switch=FileSwitch(FILE), registry=DirectoryRegistry(WORKERS)
            )

        self.finish(self.machine.add(process, f"{process.pid} operator", boot))
        return process

    def _process(self, ticks: int) -> Process:
        self.pids += 1
        process = Process(self.machine, self.pids, ticks)
        self.machine.processes.append(process)
        return process

    def do(self, process: Process, program: Any) -> None:
        """Have a process run a program to its end, with nothing else in between."""
        self.finish(self.machine.add(process, f"{process.pid}", program))

    def finish(self, thread: Thread) -> None:
        self.machine.alone = True
        while not thread.over:
            if not thread.ready:
                raise Broken(f"{thread.name} waits for ever")
            self.machine.go_on(thread)
        self.machine.alone = False

    # -- when a program begins -----------------------------------------------------------
    #
    # Orders in which nothing can be seen are not many more then. It begins all the same where
    # nothing else can go on, or where that counts as one more preemption.

    def when_on(self, program: Any) -> Any:
        """The program, which begins when the file is there."""
        return self._when(lambda: FILE in self.machine.kernel.files, program)

    def after(self, thread: Thread, program: Any) -> Any:
        """The program, which begins when that thread has come to its end."""
        return self._when(lambda: thread.over, program)

    def _when(self, is_ready: Any, program: Any) -> Any:
        def begin(process: Process) -> None:
            self.machine.step("until", _nothing, is_ready=is_ready, give_up=_nothing)
            program(process)

        return begin

    # -- programs of workers -------------------------------------------------------------

    @staticmethod
    def write_once(process: Process) -> None:
        process.root.transaction()

    @staticmethod
    def write_twice(process: Process) -> None:
        process.root.transaction()
        process.root.transaction()

    @staticmethod
    def look(process: Process) -> None:
        process.root.worker.check(process.root.switch)

    @staticmethod
    def tick(process: Process) -> None:
        process.root.tick()

    def fork(self, then: Any) -> Any:
        """A program that forks; ``then`` is what the child runs."""

        def program(process: Process) -> None:
            machine, parent = self.machine, this()
            forks = machines.forks
            forks._call(forks._before, last_first=True)

            def clone() -> int:
                self.pids += 1
                machine.clone(process, parent, self.pids)
                return self.pids

            if machine.step("fork", clone):
                forks._call(forks._in_parent)
                return
            forks.follow()
            then(process)

        return program

    def leave(self) -> Any:
        """A program that ends as one does that has come to its end."""
        self.machine.ends = True

        def program(process: Process) -> None:
            process.root.worker.end()
            self.machine.step("exit", lambda: self.bury(process))

        return program

    def crash(self, process: Process) -> Any:
        """A program for another process: kill that one."""

        self.machine.ends = True

        def program(_: Process) -> None:
            self.machine.step("kill -9", lambda: self.bury(process))

        return program

    def bury(self, process: Process) -> None:
        if not process.alive:
            return
        busy = [one for one, runs in self.open.items() if one[0] == process.pid and runs]
        if busy and FILE in self.machine.kernel.files:
            self.orphans.add(process.pid)
        self.open = {one: runs for one, runs in self.open.items() if one[0] != process.pid}
        self.machine.kill(process)

    # -- programs of the operator --------------------------------------------------------

    def on(self, process: Process) -> None:
        def make() -> None:
            files = self.machine.kernel.files
            if FILE not in files:
                files[FILE] = Inode(process.system.next_number(), 0o100644)
                self.on_at = self.machine.now

        self.machine.step("on", make)

    def off(self, process: Process) -> None:
        def remove() -> None:
            self.machine.kernel.files.pop(FILE, None)
            self.promised, self.on_at = False, None
            self.orphans.clear()  # they died before any later file

        self.machine.step("off", remove)

    def off_and_on(self, process: Process) -> None:
        self.off(process)
        self.on(process)

    @staticmethod
    def both(first: Any, then: Any) -> Any:
        """A program that runs one and then the other."""

        def program(process: Process) -> None:
            first(process)
            then(process)

        return program

    def sweep(self, process: Process) -> None:
        process.root.registry.sweep(process.root.switch.identify)

    def wait(self, process: Process) -> None:
        verdict = self.judge(process)
        self.verdicts.append(verdict.holds)
        # What was said is about a file that may be gone by now, and then it promises nothing.
        file = self.machine.kernel.files.get(FILE)
        if verdict.holds and file is not None:
            # Where answers arrive late, another file may be there by now; else it is said at once.
            same = f"{file.number:x}" == str(verdict.generation).partition(".")[0]
            self.promised |= same or not self.machine.slow

    @staticmethod
    def judge(process: Process, mode: Mode = Mode.READ_ONLY) -> Verdict:
        return judge(process.root.switch.identify, process.root.registry, mode)

    def later(self, seconds: float) -> Any:
        """A program that lets time pass."""

        def program(_: Process) -> None:
            def pass_by() -> None:
                self.machine.now += seconds

            self.machine.step("time", pass_by)

        return program

    # -- what the server sees ------------------------------------------------------------

    def begin(self) -> float:
        return self.machine.step("begin", lambda: self.machine.now, shared=False)  # type: ignore[no-any-return]  # what the effect returns

    def connect(self, connection: Connection) -> None:
        self.machine.step("connect", lambda: self.open.__setitem__(connection.number, False))

    def disconnect(self, connection: Connection) -> None:
        self.machine.step("disconnect", lambda: self.open.pop(connection.number, None))

    def write(self, connection: Connection, begun: float) -> None:
        def start() -> None:
            self.open[connection.number] = True
            self.writes += 1
            if self.on_at is not None and begun > self.on_at + self.ttl:
                self.stale = (
                    f"{connection.number[0]} began to write {begun - self.on_at:g} s after the "
                    f"file had come, with ttl={self.ttl:g}"
                )

        def end() -> None:
            self.open[connection.number] = False

        self.machine.step("write", start)
        self.machine.step("written", end)

    def refused(self) -> None:
        def count() -> None:
            self.refusals += 1

        self.machine.step("refused", count, shared=False)

    # -- what must hold ------------------------------------------------------------------

    def check(self) -> None:
        if self.stale:
            raise Broken(self.stale)
        if self.promised and self.open:
            raise Broken(f"drained was said, and there are connections: {sorted(self.open)}")
        if self.promised and self.orphans:
            raise Broken(f"drained was said, and what died may still write: {self.orphans}")

    def digest(self) -> int:
        told = tuple(sorted(self.open.items())), tuple(sorted(self.orphans))
        return hash((told, self.promised, self.on_at, self.machine.digest()))

    def finish_all(self) -> None:
        """After all programs: none waits for ever. Do what is to be done then."""
        for thread in self.machine.threads():
            if not thread.waits_for_tick:
                raise Broken(f"{thread.name} waits for ever")
        for process, program in self.then:
            self.do(process, program)

    def settle(self) -> None:
        """After all that, nothing is waited for for ever, and all come back."""
        machine = self.machine
        operator = self.operator()
        is_on = FILE in machine.kernel.files
        self._settle_in(operator, Mode.READ_ONLY if is_on else Mode.READ_WRITE)
        self.do(operator, self.off)
        self._settle_in(operator, Mode.READ_WRITE)
        before = self.writes
        workers = self._workers()
        for process in workers:
            self.do(process, self.write_once)
        if self.writes != before + len(workers):
            raise Broken("a worker does not write, and there is no file")
        self.do(operator, self.sweep)
        living = {process.pid for process in workers}
        for path in machine.kernel.files:
            pid = path.rpartition("host-")[2].partition("-")[0]
            if pid.isdigit() and int(pid) not in living:
                raise Broken(f"{path} is left of a process that is gone")
        self.do(operator, self.on)
        self._settle_in(operator, Mode.READ_ONLY)

    def _workers(self) -> list[Process]:
        return [
            process
            for process in self.machine.processes
            if process.alive and isinstance(process.root, Application)
        ]

    def _settle_in(self, operator: Process, mode: Mode) -> None:
        machine = self.machine
        for _ in range(2):
            machine.now += 2 * FOREVER
            for process in self._workers():
                # What holds a connection gives it back, and what has a thread ticks.
                self.do(process, self.tick)
        verdicts: list[Verdict] = []
        self.do(operator, lambda process: verdicts.append(self.judge(process, mode)))
        living = {process.pid for process in machine.processes if process.alive}
        for one, why in verdicts[0].waiting:
            if one.pid in living or not why.startswith("unknown: died"):
                raise Broken(f"{one.pid} is waited for, and for ever: {why}")
        if mode is Mode.READ_ONLY and not verdicts[0].waiting and verdicts[0].seen:
            self.do(operator, self.wait)


def _nothing() -> None:
    pass
