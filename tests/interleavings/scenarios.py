"""What is going on at the same time: small nights, each explored by itself."""

from __future__ import annotations

from collections.abc import Callable

from .night import FOREVER, Night

Scenario = Callable[[Night], None]


def first(night: Night) -> None:
    """A worker's first transaction, by which it registers, while the file comes and is waited on."""
    other, operator = night.worker(), night.operator()
    night.do(other, night.write_once)
    worker = night.worker(ttl=FOREVER)
    night.machine.add(worker, "worker", night.write_once)
    night.machine.add(operator, "operator", night.on)
    night.machine.add(night.operator(), "wait", night.wait)
    night.machine.add(other, "other", night.tick)


def notice(night: Night) -> None:
    """A worker notices the file in one thread while another one writes, and is waited for."""
    worker, operator = night.worker(ttl=FOREVER), night.operator()
    night.do(worker, night.look)
    night.do(operator, night.on)
    night.machine.add(worker, "check", night.look)
    night.machine.add(worker, "writer", night.write_once)
    night.machine.add(operator, "wait", night.wait)


def reporting(night: Night) -> None:
    """The same, and the worker's watcher reports meanwhile."""
    notice(night)
    worker, *_ = night.machine.processes
    night.machine.add(worker, "due", lambda process: process.root.worker.due())


def back(night: Night) -> None:
    """The file goes and comes back while workers come back, and is waited for all the while."""
    one, two, operator = night.worker(), night.worker(), night.operator()
    for process in one, two:
        night.do(process, night.write_once)
    night.do(operator, night.on)
    for process in one, two:
        night.do(process, night.tick)
    night.machine.add(night.operator(), "wait", night.wait)
    night.machine.add(operator, "off", night.off)
    night.machine.add(night.operator(), "on", night.on)
    night.machine.add(one, "one", night.write_once)
    night.machine.add(two, "two", night.write_once)


def looks(night: Night) -> None:
    """Two threads of one worker look, one of them slowly, while the file goes and comes."""
    worker, operator = night.worker(ttl=FOREVER), night.operator()
    night.machine.slow = True
    night.do(worker, night.look)
    night.do(operator, night.on)
    night.do(worker, night.tick)
    night.do(operator, night.off)
    night.machine.add(worker, "slow", night.look)
    night.machine.add(operator, "on", night.on)
    night.machine.add(worker, "check", night.look)
    night.machine.add(operator, "wait", night.wait)
    night.machine.add(worker, "writer", night.write_once)


def killed(night: Night) -> None:
    """A worker comes back in one thread, writes in another, and is killed; a later file comes."""
    worker, operator = night.worker(), night.operator()
    night.do(worker, night.look)
    night.do(operator, night.on)
    night.do(worker, night.tick)
    night.do(operator, night.off)
    night.machine.add(worker, "check", night.look)
    night.machine.add(worker, "writer", night.write_once)
    night.machine.add(operator, "on", night.on)
    night.machine.add(operator, "kill", night.crash(worker))
    night.machine.add(night.operator(), "wait", night.wait)


def dying(night: Night) -> None:
    """A worker is killed in the middle of a transaction while a sweep goes on and the file comes."""
    one, two, operator = night.worker(), night.worker(), night.operator()
    for process in one, two:
        night.do(process, night.look)
    night.machine.add(one, "writer", night.write_once)
    night.machine.add(operator, "sweep", night.sweep)
    night.machine.add(operator, "on", night.on)
    night.machine.add(operator, "kill", night.crash(one))
    night.machine.add(two, "two", night.tick)
    night.machine.add(operator, "wait", night.wait)


def forked(night: Night) -> None:
    """A worker forks, and ends; its child does nothing yet, or writes."""
    parent, operator = night.worker(), night.operator()
    night.do(parent, night.write_once)

    def idle(_: object) -> None:
        pass

    night.machine.add(parent, "fork", night.fork(idle))
    night.machine.add(parent, "parent", night.tick)
    night.machine.add(operator, "kill", night.crash(parent))
    night.machine.add(operator, "on", night.on)
    night.machine.add(night.operator(), "wait", night.wait)


def forking(night: Night) -> None:
    """A worker forks, and its child writes, and so does the parent."""
    parent, operator = night.worker(), night.operator()
    night.do(parent, night.write_once)
    night.machine.add(parent, "fork", night.fork(night.write_once))
    night.machine.add(parent, "parent", night.write_once)
    night.machine.add(operator, "on", night.on)
    night.machine.add(night.operator(), "sweep", night.sweep)
    night.machine.add(night.operator(), "wait", night.wait)


def swept(night: Night) -> None:
    """A worker registers while a sweep goes on, and the file comes and is waited on."""
    one, operator = night.worker(), night.operator()
    night.do(one, night.look)
    two = night.worker()
    night.machine.add(two, "two", night.write_once)
    night.machine.add(operator, "sweep", night.sweep)
    night.machine.add(operator, "on", night.on)
    night.machine.add(one, "one", night.tick)
    night.machine.add(operator, "wait", night.wait)


def ending(night: Night) -> None:
    """A worker comes to its end while another one registers, and the file comes."""
    one, two, operator = night.worker(), night.worker(), night.operator()
    night.do(one, night.write_once)
    night.machine.add(one, "one", night.leave())
    night.machine.add(two, "two", night.write_once)
    night.machine.add(operator, "on", night.on)
    night.machine.add(operator, "wait", night.wait)


def aged(night: Night) -> None:
    """An answer ages while a look takes its time."""
    worker, operator = night.worker(ttl=10.0), night.operator()
    night.machine.slow = True
    night.do(worker, night.look)
    night.do(operator, night.later(100))
    night.machine.add(worker, "worker", night.write_twice)
    night.machine.add(operator, "on", night.on)
    night.machine.add(operator, "time", night.later(12))
    night.machine.add(night.operator(), "wait", night.wait)


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (
        *(first, notice, reporting, back, looks, aged),
        *(killed, dying, forked, forking, swept, ending),
    )
}
