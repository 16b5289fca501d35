"""What is going on at the same time: small nights, each explored by itself."""

from __future__ import annotations

from collections.abc import Callable

from .machine import Process
from .night import FOREVER, Night

Scenario = Callable[[Night], None]


def first(night: Night) -> None:
    """A worker registers by its first transaction, while the file comes and is waited on."""
    other, operator = night.worker(), night.operator()
    night.do(other, night.look)
    worker = night.worker(ttl=FOREVER)
    add = night.machine.add
    add(worker, "worker", night.write_once)
    add(operator, "on", night.on)
    add(operator, "wait", night.wait)
    add(other, "other", night.when_on(night.tick))


def notice(night: Night) -> None:
    """A worker notices the file in one thread while another one writes, and is waited for."""
    worker, operator = night.worker(ttl=FOREVER), night.operator()
    night.do(worker, night.look)
    night.do(operator, night.on)
    add = night.machine.add
    add(worker, "look", night.look)
    add(worker, "writer", night.write_once)
    add(operator, "wait", night.wait)


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
    add = night.machine.add
    add(operator, "wait", night.wait)
    off = add(operator, "off", night.off)
    add(operator, "on", night.after(off, night.on))
    add(one, "one", night.write_once)
    add(two, "two", night.write_once)


def looks(night: Night) -> None:
    """Two threads of one worker look, one of them slowly, while the file comes again."""
    worker, operator = night.worker(ttl=FOREVER), night.operator()
    night.machine.slow = True
    night.do(worker, night.look)
    night.do(operator, night.on)
    night.do(worker, night.look)
    night.do(operator, night.off)
    add = night.machine.add
    add(worker, "slow", night.look)
    on = add(operator, "on", night.on)
    look = add(worker, "look", night.after(on, night.look))
    add(operator, "wait", night.after(look, night.wait))
    night.then = [(worker, night.write_once)]


def aged(night: Night) -> None:
    """An answer ages while a look takes its time."""
    worker, operator = night.worker(ttl=10.0), night.operator()
    night.machine.slow = True
    night.do(worker, night.look)
    night.do(operator, night.later(100))
    add = night.machine.add
    add(worker, "worker", night.write_twice)
    add(operator, "on", night.on)
    add(operator, "time", night.later(12))
    add(operator, "wait", night.when_on(night.wait))


def killed(night: Night) -> None:
    """A worker comes back in one thread, writes in another, and is killed; a later file comes."""
    worker, operator = night.worker(ttl=FOREVER), night.operator()
    night.do(worker, night.look)
    night.do(operator, night.on)
    night.do(worker, night.look)
    night.do(operator, night.off)
    add = night.machine.add
    add(worker, "look", night.look)
    add(worker, "writer", night.write_once)
    add(operator, "on and kill", night.both(night.on, night.crash(worker)))
    night.then = [(operator, night.wait)]


def dying(night: Night) -> None:
    """A worker is killed in a transaction while a sweep goes on and the file comes."""
    one, two, operator = night.worker(), night.worker(), night.operator()
    for process in one, two:
        night.do(process, night.look)
    add = night.machine.add
    add(one, "writer", night.write_once)
    add(operator, "sweep", night.sweep)
    add(operator, "on and kill", night.both(night.on, night.crash(one)))
    night.then = [(two, night.tick), (operator, night.wait)]


def forked(night: Night) -> None:
    """A worker forks, and is killed; its child does nothing yet."""
    parent, operator = night.worker(), night.operator()
    night.do(parent, night.look)

    def idle(_: Process) -> None:
        pass

    add = night.machine.add
    add(parent, "fork", night.fork(idle))
    add(parent, "parent", night.when_on(night.tick))
    add(operator, "on and kill", night.both(night.on, night.crash(parent)))
    night.then = [(operator, night.wait)]


def forking(night: Night) -> None:
    """A worker forks, and its child writes; the parent is in the middle of a transaction."""
    parent, operator = night.worker(ttl=FOREVER), night.operator()
    night.do(parent, night.look)
    add = night.machine.add
    add(parent, "parent", night.write_once)
    add(parent, "fork", night.fork(night.write_once))
    add(operator, "sweep and on", night.both(night.sweep, night.on))
    add(operator, "wait", night.when_on(night.wait))


def swept(night: Night) -> None:
    """A worker registers while a sweep goes on, and the file comes."""
    one, operator = night.worker(), night.operator()
    night.do(one, night.look)
    two = night.worker(ttl=FOREVER)
    add = night.machine.add
    add(two, "two", night.write_once)
    add(operator, "sweep", night.sweep)
    night.then = [(operator, night.on), (one, night.tick), (operator, night.wait)]


def ending(night: Night) -> None:
    """A worker comes to its end while another one registers, and the file comes."""
    one, two, operator = night.worker(), night.worker(), night.operator()
    night.do(one, night.write_once)
    add = night.machine.add
    add(one, "one", night.leave())
    add(two, "two", night.write_once)
    add(operator, "on", night.on)
    add(operator, "wait", night.when_on(night.wait))


def watched(night: Night) -> None:
    """Two workers with their threads, one of which forks, and an operator: by chance alone."""
    one, two = night.worker(watch=True, ticks=3), night.worker(ttl=FOREVER, watch=True, ticks=3)
    operator = night.operator()
    add = night.machine.add
    add(one, "one", night.write_twice)
    add(one, "fork", night.fork(night.write_twice))
    add(two, "two", night.write_twice)
    add(operator, "on, off and on", night.both(night.on, night.off_and_on))
    add(operator, "sweep", night.sweep)
    add(operator, "kill", night.crash(two))
    add(operator, "wait", night.when_on(night.wait))
    add(operator, "wait again", night.when_on(night.wait))


# Those with the fewest orders first.
SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (
        *(notice, killed, dying, swept, forked, ending),
        *(aged, reporting, back, first, forking, looks),
    )
}
BY_CHANCE: dict[str, Scenario] = {**SCENARIOS, "watched": watched}
