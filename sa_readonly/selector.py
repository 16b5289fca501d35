"""The engines by mode and role, and the selector that picks one."""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import threading
import time
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Union

from sqlalchemy import Engine, engine_from_config
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError

from . import refusals
from .engines import guard, loops, poolers
from .engines.handover import ROLES, GuardedEngines
from .engines.pools import holds_database
from .errors import ConfigurationError, seconds
from .mode import Mode, State, Switch
from .switch import FileSwitch, FixedSwitch
from .workers.counts import counted
from .workers.directory import DirectoryRegistry
from .workers.process import myself
from .workers.protocol import Report, missing
from .workers.worker import Worker, worker_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType, TracebackType

    from sqlalchemy.ext.asyncio import AsyncEngine
    from typing_extensions import Self

    from .workers.protocol import Registry, Seen

    # Whatever takes a bind must take a selector, and SQLAlchemy's annotations name its own
    # classes, of which it is neither an Engine nor an AsyncEngine.
    _Bind = Any
else:
    _Bind = object

__all__ = ["EngineSelector", "Engines", "selector_from_config"]

logger = logging.getLogger("sa_readonly")

AnyEngine = Union[Engine, "AsyncEngine"]


@dataclass(frozen=True)
class Engines:
    """The engines of one mode.

    :param primary: an :class:`~sqlalchemy.engine.Engine` or
        :class:`~sqlalchemy.ext.asyncio.AsyncEngine`.
    :param replica: another one, for transactions that never write; None means the primary.
    :raises ConfigurationError: if one of them is no engine.
    """

    primary: AnyEngine
    replica: AnyEngine | None = None

    def __post_init__(self) -> None:
        _sync(self.primary, "Engines(primary=...)")
        if self.replica is not None:
            _sync(self.replica, "Engines(replica=...)")


class _NoEngineError(ConfigurationError, AttributeError):
    """A selector was used where an engine is needed; to ``hasattr()``, it has no such attribute."""


class EngineSelector(_Bind):  # type: ignore[misc]  # see _Bind
    """Picks the engine of a transaction by the mode and the role.

    It stands wherever a session takes a bind; the session must be a :class:`.RoutingSession`. It is
    a context manager, sync and async, that closes it.

    :param switch: the path of the file that means read-only, or any :class:`.Switch`.
    :param read_write: the :class:`.Engines` while the file is not there, or a bare engine.
    :param read_only: the :class:`.Engines` while it is, or a bare engine. None makes a second
        engine of the same database, with a pool of its own, whose transactions are read-only.
    :param grace: seconds that a read-write transaction which has begun may go on after a flip; then
        its next statement or commit raises :class:`.ReadOnlyError`, it is rolled back and its
        connection is closed. None sets no limit. What is sent past SQLAlchemy, on the driver's own
        connection, is not stopped by it.
    :param watch: whether a thread, started by the first transaction, notices a flip when no traffic
        does, so that an idle process closes its read-write connections too.
    :param workers: where this process reports itself, for ``sa-readonly wait``: True is the
        directory ``<file>.workers`` beside the file, a path is another one, False none. A process
        that can't register says so at ERROR and goes on; with ``"required"``, which is True
        otherwise, it begins no read-write transaction. Any :class:`.workers.Registry` will do.
    :param pooler: which pooler is before a PostgreSQL of these: ``"transaction"``, as PgBouncer in
        that mode, sets nothing for a session, begins each transaction of a read-only engine READ
        ONLY and refuses AUTOCOMMIT there; ``"session"`` locks the session by a SET at each
        checkout. None locks it by the start-up packet, which poolers refuse or drop.
    :raises ConfigurationError: if a setting makes no sense; the message names it.
    """

    def __init__(
        self,
        switch: str | os.PathLike[str] | Switch,
        *,
        read_write: Engines | AnyEngine,
        read_only: Engines | AnyEngine | None = None,
        grace: float | None = None,
        watch: bool = True,
        workers: bool | str | os.PathLike[str] | Registry = True,
        pooler: Literal["transaction", "session"] | None = None,
    ) -> None:
        rw = _engines(read_write, "read_write")
        ro = None if read_only is None else _engines(read_only, "read_only")
        _check(rw, ro)
        _check_options(grace, watch)
        _check_pooler(pooler, rw, ro)
        self.switch: Switch = _switch(switch)
        registry, required = _registry(workers, self.switch), workers == "required"
        self._registry = registry
        self._worker = worker = _worker(self.switch, registry, required)
        self.is_async = not isinstance(rw.primary, Engine)
        self._callbacks: list[Callable[[State, State], object]] = []

        given = {name: _sync(engine) for name, engine in _named(rw, ro).items()}
        self._guarded = guarded = GuardedEngines(self.switch, given, grace=grace, pooler=pooler)
        self.routes: Mapping[str, Mapping[Mode, Engine]] = guarded.routes
        """For sessions: the sync engine by role and mode."""
        as_given = {_sync(engine): engine for engine in _named(rw, ro).values()}
        self._engines: Mapping[tuple[Mode, str], AnyEngine] = {
            (mode, role): as_given.get(engine) or _like(rw.primary, engine)
            for role, engines in guarded.routes.items()
            for mode, engine in engines.items()
        }
        if worker is not None:
            worker.join(self.switch, guarded, registry, watch=watch, required=required)
        unsubscribe = self.switch.subscribe(guarded.turn, self._flipped)
        self._finalizer = weakref.finalize(self, _give_back, worker, unsubscribe, guarded)
        self._finalizer.atexit = False

    # -- the mode ------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The mode, the reason and the times, by an answer that is not too old."""
        switch = self.switch
        if time.monotonic() < switch.fresh_until:
            return switch.known
        return self.refresh()

    def refresh(self) -> State:
        """Return an answer that may be used now, and see to it that the process is registered.

        It comes here when an answer has aged: with a watcher, hardly ever.
        """
        worker = self._worker
        return self.switch.refresh() if worker is None else worker.refresh(self.switch)

    @property
    def mode(self) -> Mode:
        """:attr:`.Mode.READ_WRITE` or :attr:`.Mode.READ_ONLY`."""
        return self.state.mode

    @property
    def read_only(self) -> bool:
        """True while nothing may be written."""
        return self.state.mode is Mode.READ_ONLY

    def check(self) -> State:
        """Look at the switch again now, and return the state."""
        worker = self._worker
        return self.switch.check() if worker is None else worker.check(self.switch)

    def require_read_write(self) -> None:
        """Go on only if the application may write now: call it before the card is charged.

        :raises ReadOnlyError: while read-only.
        """
        state = self.state
        if state.read_only:
            raise refusals.refusal(
                "What needs to write", state, kind="beforehand", switch=self.switch
            )

    def on_flip(
        self, callback: Callable[[State, State], object]
    ) -> Callable[[State, State], object]:
        """Have ``callback(old, new)`` called once a flip, in the thread that notices it.

        What it raises is logged and harms nobody. It can be used as a decorator.

        :return: the callback.
        :raises ConfigurationError: if it is not callable.
        """
        if not callable(callback):
            raise ConfigurationError(f"on_flip() takes a callable, not {callback!r}.")
        self._callbacks.append(callback)
        return callback

    @property
    def registry(self) -> Registry | None:
        """Where this process reports itself, with all the others; None with ``workers=False``."""
        return self._registry

    def report(self) -> Seen:
        """Return what this process tells of itself, from its memory: no file is touched.

        Its ``problem`` says why nobody can wait for it, or is None.
        """
        here, worker = myself(), self._worker
        if worker is not None:
            here = worker.tell(here, self.switch)
        else:
            refused = refusals.refusals(self.switch)
            engines, retired = counted([self._guarded.engines])
            report = Report(
                self.switch.known.mode,
                refused=sum(refused.values()),
                kinds=refused,
                engines=engines,
                retired=retired,
            )
            here = replace(here, report=report)
        if self._registry is None:
            here = replace(here, problem="It has no directory of workers: nobody can wait for it.")
        return here

    def wait_until(self, mode: Mode, timeout: float | None = None) -> bool:
        """Wait for a mode: for a job that would rather wait than fail.

        :param mode: the :class:`.Mode` to wait for.
        :param timeout: seconds to wait at most; None waits without end.
        :return: True if the mode is there, False if time is up.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pause = min(max(self.switch.ttl, 0.01), 1.0)
        while self.check().mode is not mode:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
        return True

    def check_on_signal(self, signum: int) -> None:
        """Look again at once after this process was sent a signal, as ``signal.SIGUSR2``.

        The handler only lets the answer age, so that the next transaction or the watcher looks;
        then it calls the handler that was there before. Install it where signals are handled: in
        the main thread, after the server has set its own (gunicorn: in ``post_worker_init``).

        :raises ConfigurationError: outside the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "check_on_signal() sets a signal handler, which only the main thread may do."
            )
        reference = weakref.ref(self)
        before = signal.getsignal(signum)

        def handle(number: int, frame: FrameType | None) -> None:
            selector = reference()
            if selector is not None:
                selector.switch.fresh_until = -math.inf
            if callable(before):
                before(number, frame)

        signal.signal(signum, handle)

    # -- the engines ---------------------------------------------------------------------

    def engine(self, role: str = "primary") -> Any:
        """Return the engine for the mode now: ``with selector.engine().begin() as connection``.

        :param role: ``"primary"`` or ``"replica"``.
        :return: an Engine or, where they were given, an AsyncEngine.
        :raises ConfigurationError: if there is no such role.
        """
        check_role(role)
        return self._engines[self.state.mode, role]

    @property
    def sync_engine(self) -> EngineSelector:
        """Itself: what an :class:`~sqlalchemy.ext.asyncio.AsyncSession` asks of its bind."""
        if not self.is_async:
            raise ConfigurationError(
                "This EngineSelector has sync engines and can't serve an AsyncSession. Make its "
                "engines with create_async_engine()."
            )
        return self

    def close(self) -> None:
        """Give the engines back as they were. Nothing begins through the selector any more."""
        self.routes = self._engines = _Closed()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.leave(self._guarded, join=True)
        self._finalizer()
        self._guarded.dispose_twins()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await loops.in_thread(self.close)  # it waits for the watcher's thread

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if not hasattr(Engine, name) and name not in Engine.__annotations__:
                raise AttributeError(f"'EngineSelector' object has no attribute {name!r}")
            raise _NoEngineError(
                f"An EngineSelector is no engine and has no {name}. In a session factory give "
                "class_=RoutingSession: sessionmaker(selector, class_=RoutingSession), or "
                "async_sessionmaker(selector, sync_session_class=RoutingSession). In Core use "
                f"selector.engine().{name}."
            )

    def __repr__(self) -> str:
        return f"<EngineSelector of {self.switch!r}, {self.switch.known.mode}>"

    def _flipped(self, old: State, new: State) -> None:
        refusals.remember(self.switch, new if new.read_only else old)
        if self._worker is None:  # which closes what lies idle in the retired pools
            self._guarded.sweep()
        for callback in tuple(self._callbacks):
            try:
                callback(old, new)
            except Exception:
                logger.exception("The on_flip() callback %r failed.", callback)


class _Closed(dict[Any, Any]):
    """Where a closed selector has its engines."""

    def __missing__(self, key: object) -> NoReturn:
        raise InvalidRequestError("This EngineSelector is closed. Make a new one.")


def _give_back(
    worker: Worker | None, unsubscribe: Callable[[], None], guarded: GuardedEngines
) -> None:
    if worker is not None:
        worker.leave(guarded)
    unsubscribe()
    guarded.release()


def selector_from_config(
    mapping: Mapping[str, Any], prefix: str = "sa_readonly.", **kwargs: Any
) -> EngineSelector:
    """Make a selector of configuration keys, as :func:`sqlalchemy.engine_from_config` does.

    ``file`` (required), ``ttl`` (seconds) and ``pooler``; then for each of ``read_write.primary``
    (required), ``read_write.replica``, ``read_only.primary`` and ``read_only.replica`` a ``url``
    and the other options of :func:`sqlalchemy.engine_from_config`:
    ``read_write.primary.pool_size``. An URL of an asyncio driver makes an AsyncEngine.

    :param mapping: keys and values, which may be strings; keys without the prefix are left alone.
    :param prefix: what the keys begin with.
    :param kwargs: passed on to :class:`EngineSelector`.
    :raises ConfigurationError: if a key is unknown or missing, or its value makes no sense.
    """
    ours = {
        key[len(prefix) :]: mapping[key]
        for key in mapping
        if isinstance(key, str) and key.startswith(prefix)
    }
    names = [f"{mode}.{role}" for mode in ("read_write", "read_only") for role in ROLES]
    unknown = [
        prefix + key
        for key in ours
        if key not in ("file", "ttl", "pooler")
        and not key.startswith(tuple(f"{name}." for name in names))
    ]
    if unknown:
        raise ConfigurationError(
            f"Unknown configuration: {', '.join(sorted(unknown))}. Known are {prefix}file, "
            f"{prefix}ttl, {prefix}pooler and, below each of "
            f"{', '.join(prefix + name for name in names)}, url and the options of "
            "engine_from_config()."
        )
    for key in ("file", "read_write.primary.url"):
        if not ours.get(key):
            raise ConfigurationError(f"{prefix}{key} is missing in the configuration.")
    engines = {name: _engine_from(ours, f"{name}.", prefix) for name in names}
    if engines["read_only.replica"] is not None and engines["read_only.primary"] is None:
        raise ConfigurationError(
            f"{prefix}read_only.replica.url is given without {prefix}read_only.primary.url."
        )
    options: dict[str, Any] = {}
    if "ttl" in ours:
        try:
            options["ttl"] = seconds(f"{prefix}ttl", float(ours["ttl"]))
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"{prefix}ttl takes a number of seconds, not {ours['ttl']!r}."
            ) from None
    if "pooler" in ours:
        kwargs.setdefault("pooler", ours["pooler"])
    read_only = engines["read_only.primary"]
    return EngineSelector(
        FileSwitch(ours["file"], **options),
        read_write=Engines(engines["read_write.primary"], engines["read_write.replica"]),
        read_only=read_only and Engines(read_only, engines["read_only.replica"]),
        **kwargs,
    )


def _engine_from(ours: Mapping[str, Any], name: str, prefix: str) -> Any:
    keys = [key for key in ours if key.startswith(name)]
    if not keys:
        return None
    url = ours.get(f"{name}url")
    if not url:
        others = [prefix + key for key in keys if key != f"{name}url"]
        what = f"missing, though {others[0]} is given" if others else "empty"
        raise ConfigurationError(f"{prefix}{name}url is {what}. Give the URL of a database.")
    try:
        if make_url(url).get_dialect().is_async:
            # Imported here: importing this package imports no asyncio.
            from sqlalchemy.ext.asyncio import async_engine_from_config  # noqa: PLC0415

            return async_engine_from_config(dict(ours), prefix=name)
        return engine_from_config(dict(ours), prefix=name)
    except (TypeError, ValueError, ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError(
            f"No engine can be made of {', '.join(sorted(prefix + key for key in keys))}: {error}"
        ) from error


# -- what makes sense ------------------------------------------------------------------------


def check_role(role: object) -> None:
    """Refuse what is no role."""
    if role not in ROLES:
        raise ConfigurationError(f'role is "primary" or "replica", not {role!r}.')


def _sync(engine: object, name: str = "") -> Engine:
    """Return the Engine inside an AsyncEngine, or the Engine itself."""
    inner = engine
    if not isinstance(engine, (Engine, EngineSelector)):
        inner = getattr(engine, "sync_engine", None)
    if not isinstance(inner, Engine):
        # Not the value itself: an URL has a password.
        raise ConfigurationError(
            f"{name} takes an Engine or an AsyncEngine, not {type(engine).__name__}. Make one with "
            "create_engine() or create_async_engine()."
        )
    return inner


def _like(engine: AnyEngine, sync_engine: Engine) -> AnyEngine:
    """Return a sync engine as one of the same kind as ``engine``."""
    return sync_engine if isinstance(engine, Engine) else type(engine)(sync_engine)


def _check_options(grace: object, watch: object) -> None:
    if grace is not None:
        seconds("EngineSelector(grace)", grace)
    if not isinstance(watch, bool):
        raise ConfigurationError(f"EngineSelector(watch) takes True or False, not {watch!r}.")


def _engines(value: object, name: str) -> Engines:
    if isinstance(value, Engines):
        return value
    _sync(value, f"EngineSelector({name}=...)")
    return Engines(value)  # type: ignore[arg-type]  # _sync() has seen that it is an engine


def _switch(value: object) -> Any:
    if isinstance(value, (str, bytes, os.PathLike)):
        return FileSwitch(value)  # type: ignore[arg-type]  # which refuses bytes itself
    if all(
        hasattr(value, name) for name in ("known", "fresh_until", "refresh", "check", "subscribe")
    ):
        return value
    raise ConfigurationError(
        f"EngineSelector(switch) takes the path of a file or a Switch, not {value!r}."
    )


def _worker(switch: Switch, registry: Registry | None, required: bool) -> Worker | None:
    # What never flips has nothing to watch and, without a file, nobody to tell.
    if switch.fresh_until == math.inf and registry is None and not switch.overridden:
        return None
    worker = worker_of(switch)
    worker.agree(registry, required)
    return worker


def _registry(workers: object, switch: Switch) -> Registry | None:
    """Return the registry that is meant, or None."""
    if (
        isinstance(switch, FixedSwitch)
        and workers
        and isinstance(workers, (bool, str, os.PathLike))
    ):
        return None  # it never moves, so nobody waits for it
    if workers is True or workers == "required":
        path = getattr(switch, "path", None)
        if path is not None:
            return DirectoryRegistry(f"{path}.workers")
        if workers is True:
            return None
        raise ConfigurationError(
            f'EngineSelector(workers="required") needs the path of a file, which {switch!r} does '
            "not have. Give a Registry or the path of a directory."
        )
    if workers is False:
        return None
    if isinstance(workers, (str, os.PathLike)) and workers:
        return DirectoryRegistry(workers)
    if not missing(workers):
        return workers  # type: ignore[return-value]  # it has its members
    raise ConfigurationError(
        'EngineSelector(workers) takes True, False, "required", the path of a directory or a '
        f"Registry, not {workers!r}."
    )


def _check(rw: Engines, ro: Engines | None) -> None:
    """Refuse engines that make no sense together, before anything is done to one of them."""
    named = _named(rw, ro)
    sync = [name for name, engine in named.items() if isinstance(engine, Engine)]
    if sync and len(sync) < len(named):
        mixed = ", ".join(name for name in named if name not in sync)
        raise ConfigurationError(
            f"{', '.join(sync)} is a sync Engine and {mixed} an AsyncEngine. "
            "Give engines of one kind."
        )
    _check_kinds({name: _sync(engine) for name, engine in named.items()})
    if ro is None and holds_database(_sync(rw.primary)):
        raise ConfigurationError(
            "read_write.primary holds its database in its own pool (SQLite in memory, StaticPool), "
            "of which no second, read-only engine can be made. Give read_only= as well."
        )


def _check_pooler(pooler: object, rw: Engines, ro: Engines | None) -> None:
    """Refuse a pooler that makes no sense for these engines."""
    named = {name: _sync(engine) for name, engine in _named(rw, ro).items()}
    made = ro is None or rw.replica is None  # a read-only engine, of the primary
    poolers.check(pooler, named, {name for name in named if made or name != "read_write.primary"})


def _named(rw: Engines, ro: Engines | None) -> dict[str, AnyEngine]:
    named: dict[str, AnyEngine] = {"read_write.primary": rw.primary}
    if rw.replica is not None:
        named["read_write.replica"] = rw.replica
    if ro is not None:
        named["read_only.primary"] = ro.primary
        if ro.replica is not None:
            named["read_only.replica"] = ro.replica
    return named


def _check_kinds(named: Mapping[str, Engine]) -> None:
    """Refuse an engine that would have to be read-write and read-only."""
    primary = named["read_write.primary"]
    for (name, one), (other_name, two) in itertools.combinations(named.items(), 2):
        if one is not two and (one.pool is two.pool or one.dialect is two.dialect):
            raise ConfigurationError(
                f"{name} and {other_name} share a pool or a dialect: is one made of the other by "
                "execution_options()? Make each with create_engine()."
            )
    for name, engine in named.items():
        if not name.startswith("read_only"):
            continue
        if engine is primary:
            raise ConfigurationError(
                f"read_write.primary and {name} are the same engine, so that nothing could ever be "
                "written. Leave read_only out to have a read-only engine made of it."
            )
        if guard.gates(engine):
            raise ConfigurationError(f"{name} is a read-write engine of another EngineSelector.")
    if guard.read_only(primary):
        raise ConfigurationError(
            "read_write.primary is a read-only engine of another EngineSelector."
        )
