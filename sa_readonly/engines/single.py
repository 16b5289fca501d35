"""One engine that gives out connections of either kind by the mode: an engine by URL.

To the rest of this wing it is two engines, a read-write one and its twin, which are handed over as
those of a selector are. They are made when the first connection is asked for: programs make engines
by the thousand, of which most never connect.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from .. import forks
from ..errors import ConfigurationError, ReadOnlyError
from ..mode import Mode
from ..rehearsal.callsite import mark
from . import guard, loops, privates, protection
from .classes import grow
from .dialects import holds_file
from .doors import AskingPool, ClosedPool
from .handover import GuardedEngines
from .pools import CountedPool, mix_in, mixed, open_pool
from .readers import TwinEngine
from .rehearsing import SERVED

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from ..mode import State, Switch

__all__ = ["Shared", "Single", "of_engine"]

_SERVED = (
    "This connection is a read-write one: close it, and take another one of the engine to read."
)
_REFUSED = 'What only reads is refused, too, by sa_readonly_reads="refuse".'

_beginning = forks.PerProcess(threading.RLock)


class Shared(Protocol):
    """What all engines by URL of one file share in a process."""

    @property
    def switch(self) -> Switch:
        """The switch."""

    @property
    def state(self) -> State:
        """The state, by an answer that is not too old."""

    def join(self, engines: GuardedEngines) -> None:
        """Turn these engines from now on, as long as there are any, and count them."""


class Single:
    """The two sides of one engine. Its pools hold it, and so does what they have given out.

    :param engine: it has connected nothing yet, and is changed in place.
    :param serves: whether reads go on while read-only.
    :param grace: seconds for which what has begun may go on after a flip; None sets no limit.
    :param create: connects to another database to read meanwhile; None reads the same.
    :param alone: whether the engine is gone at once, and its pool is all that is used.
    :param url: returns the URL of the engine, which is made when it is asked for; None lets it be.
    """

    __slots__ = (
        "_begun",
        "_connect",
        "_create",
        "_engine",
        "_face",
        "_first",
        "_url",
        "alone",
        "grace",
        "serves",
        "shared",
    )

    def __init__(
        self,
        engine: Engine,
        shared: Shared,
        *,
        serves: bool = True,
        grace: float | None = None,
        create: Callable[..., DBAPIConnection] | None = None,
        alone: bool = False,
        url: Callable[[], URL] | None = None,
    ) -> None:
        self.serves = serves
        self._engine = engine
        self.shared = shared
        self.grace = grace
        self.alone = alone
        self._url: Any = url or engine.url
        self._create = create
        self._begun: _Sides | None = None
        made: Any = engine
        self._first: Any = engine.__dict__.pop("pool")
        waiting = mixed(type(self._first), _WaitingPool)  # type: ignore[arg-type]  # mypy doubts that a class can be a key of @cache
        self._first.__class__ = waiting  # it grows when it begins, and so does the engine
        self._first.sa_readonly_single = made._sa_readonly_single = self
        self._connect = privates.creator(self._first)  # until it has begun, the pool has another
        privates.set_creator(self._first, self._connect_by_mode)
        made.__class__ = _by_mode(type(engine))  # type: ignore[arg-type]  # mypy doubts that a class can be a key of @cache
        self._face: Any = None
        if alone:
            self._face = self._first.recreate()
            mix_in(self._face, _LonePool)

    @property
    def url(self) -> URL:
        """The URL of the engine, with all arguments."""
        url = self._url
        if callable(url):  # once read: another thread may be making it as well
            url = self._url = url()
        return url  # type: ignore[no-any-return]  # a URL by now

    @url.setter
    def url(self, url: URL) -> None:
        self._url = url

    @property
    def now(self) -> Pool:
        """The pool that is used now: another one after each flip."""
        first, begun = self._first, self._begun  # in this order, as another thread may begin
        if begun is None:
            return first  # type: ignore[no-any-return]  # a Pool
        pool = begun.writer.pool
        return begun.reader.pool if self.serves and isinstance(pool, ClosedPool) else pool

    @property
    def pool(self) -> Pool:
        """The pool of the engine: another one after each flip, unless it is alone."""
        return self.now if self._face is None else self._face

    @pool.setter
    def pool(self, pool: Pool) -> None:
        begun = self._begun
        if isinstance(pool, ClosedPool):
            return  # a dispose() while it is shut, which may have been opened meanwhile
        if not isinstance(pool, _ByMode):
            raise ConfigurationError(
                "engine.pool was set to a pool that gives out connections in either mode. Give "
                "pool= or poolclass= to create_engine()."
            )
        if begun is None:
            with _beginning():
                begun = self._begun
                if begun is None:
                    self._first = pool
                    return
        if isinstance(pool, _ReadingPool):
            begun.reader.pool = pool
        elif isinstance(pool, _WaitingPool):
            return  # a dispose() that was overtaken by the first connection
        elif not isinstance(begun.writer.pool, ClosedPool):  # else it was shut meanwhile
            begun.writer.pool = pool

    def disposed(self, pool: Pool) -> None:
        """Close what is idle of the reading side, too, when a pool of the writing one was disposed.

        While read-only there is nothing of the writing side that is idle.
        """
        begun = self._begun
        if begun is not None and pool is begun.writer.pool and begun.reader.ledger.connections:
            old = begun.reader.pool
            begun.reader.pool = old.recreate()
            CountedPool.dispose(old)

    def _connect_by_mode(self, connection_record: ConnectionPoolEntry | None = None) -> Any:
        """Connect past a pool: by the creator of the one that is used now."""
        if self._begun is None:
            loops.wait_for(self._begin)
        return privates.creator(self.now)(connection_record)

    def _connect_anew(self, connection_record: ConnectionPoolEntry | None = None) -> Any:
        made: Any = self._connect(connection_record)
        dialect: Any = self._engine.dialect
        # One that was collected without being closed may have had the same identity.
        dialect._sa_readonly_readers.pop(id(made), None)
        return made

    def give(self) -> PoolProxiedConnection:
        """Return a connection of the kind that the mode asks for."""
        sides = self._begun or loops.wait_for(self._begin)
        writer, tries = sides.writer, 0
        while not self.shared.state.read_only:
            pool: Any = writer.pool
            try:
                return (
                    pool.connect() if isinstance(pool, ClosedPool) else pool.sa_readonly_connect()
                )
            except ReadOnlyError as error:
                tries += 1
                read_only = self.shared.switch.known.read_only
                over = read_only or guard.is_final(error, tries)
                if over and not (read_only and self.serves):
                    raise
                guard.was_served(writer, error)  # the flip came in between, or two of them
                if read_only:
                    break
        if not self.serves:
            raise guard.refused_connection(writer)
        return sides.reader.pool.sa_readonly_connect()  # type: ignore[no-any-return]  # untyped

    def _begin(self) -> _Sides:
        switch = self.shared.switch  # made by its first look, for which no other engine waits
        with _beginning():
            if self._begun is None:
                sides = None
                privates.set_creator(self._first, self._connect_anew)
                try:
                    sides = _Sides(self, self._engine, switch, self.grace, self._create)
                    self.shared.join(sides)
                except BaseException:
                    if sides is not None:  # or it would be gated twice when this is tried again
                        sides.release()
                    privates.set_creator(self._first, self._connect_by_mode)
                    raise
                grow(self._engine)
                self._begun, self._first = sides, None  # or it would outlive a dispose()
            return self._begun


mark(Single.give, SERVED, lambda frame: frame.f_locals["self"].serves)


class _Sides(GuardedEngines):
    """The engines of a :class:`Single`, as this wing knows them."""

    writer: _WritingEngine
    reader: Any  # a TwinEngine whose pool is a _ReadingPool

    def __init__(
        self,
        single: Single,
        engine: Engine,
        switch: Switch,
        grace: float | None,
        create: Callable[..., DBAPIConnection] | None,
    ) -> None:
        self._create = create
        dialect = protection.by_kind(engine, _SERVED if single.serves else _REFUSED)
        self.writer = _WritingEngine(engine, dialect, single.now)
        super().__init__(switch, {"read_write.primary": self.writer}, grace=grace)
        pool: Any = open_pool(self.reader)
        mix_in(pool, _ReadingPool)
        pool.sa_readonly_single = single
        vars(dialect)["_sa_readonly_reader"] = self.reader.dialect
        vars(dialect)["_sa_readonly_readers"] = self.reader.ledger.connections
        if single.alone:  # its pool is one, which keeps those of one kind
            self._renewed[Mode.READ_WRITE].append(self.reader)

    def _open(self) -> None:
        if holds_file(self.reader):  # by the other configuration of sa_readonly_url
            self.reader.renew()
            self.reader.close_old()
        super()._open()

    def _twin(self, engine: Engine, *, gated: bool) -> TwinEngine:
        self.reader = twin = TwinEngine(engine, gated=gated, create=self._create, shares=True)
        return twin


class _WritingEngine(privates.OwnPoolEngine):
    """The read-write side of an engine. It passes for one of SQLAlchemy's own."""

    __module__ = privates.OwnPoolEngine.__base__.__module__


# -- pools -----------------------------------------------------------------------------------


class _ByMode(Pool):
    """A pool that gives out what the mode asks for, be it of another pool.

    So one that was taken from an engine before a flip, or without the engine, is right as well.
    """

    sa_readonly_single: Single
    sa_readonly_counts: type[Any]  # what it is from its first connection on, see count_by()

    def connect(self) -> PoolProxiedConnection:
        return self.sa_readonly_single.give()

    def sa_readonly_connect(self) -> PoolProxiedConnection:
        """Return a connection of this very pool."""
        return super().connect()

    def dispose(self) -> None:
        super().dispose()
        self.sa_readonly_single.disposed(self)

    def recreate(self) -> Pool:
        made: Any = super().recreate()
        made.sa_readonly_single = self.sa_readonly_single
        # What is listened for later is heard of both kinds, and in both modes.
        made.dispatch = self.dispatch
        return made  # type: ignore[no-any-return]  # a Pool


class _WaitingPool(_ByMode):
    """The pool of an engine that has connected nothing yet."""

    def recreate(self) -> Pool:
        with _beginning():  # it begins before this or after, not in the middle
            waits = isinstance(self, _WaitingPool)
            return super().recreate() if waits else self.recreate()


class _LonePool(_ByMode):
    """The pool of ``create_pool_from_url()``: it is never swapped, and has what others keep."""

    @property
    def _now(self) -> Any:
        return self.sa_readonly_single.now

    def dispose(self) -> None:
        self._now.dispose()
        # As an engine does, which this has not: of the pool of now, as that may have been retired.
        self.sa_readonly_single.pool = self._now.recreate()

    def status(self) -> str:
        return self._now.status()  # type: ignore[no-any-return]  # untyped

    # A QueuePool has these.

    def checkedin(self) -> int:
        return self._now.checkedin()  # type: ignore[no-any-return]  # untyped

    def checkedout(self) -> int:
        return self._now.checkedout()  # type: ignore[no-any-return]  # untyped

    def overflow(self) -> int:
        return self._now.overflow()  # type: ignore[no-any-return]  # untyped


class _WritingPool(_ByMode, AskingPool):
    pass


_ByMode.sa_readonly_counts = _WritingPool


class _ReadingPool(_ByMode, CountedPool):
    pass


# -- engines ---------------------------------------------------------------------------------


@cache
def _by_mode(base: type[Engine]) -> type[Engine]:
    """Return the subclass of an engine's class whose pool is one by the mode."""

    def of_single(name: str) -> property:
        def get(self: Any) -> Any:
            return getattr(self._sa_readonly_single, name)

        def put(self: Any, value: object) -> None:
            setattr(self._sa_readonly_single, name, value)

        return property(get, put)

    body = {"__module__": base.__module__, "pool": of_single("pool"), "url": of_single("url")}
    return type(base.__name__, (base,), body)


def of_engine(engine: Engine) -> Single | None:
    """Return the two sides of an engine by URL, or of a clone of one; None of any other."""
    return vars(privates.unwrapped(engine)).get("_sa_readonly_single")
