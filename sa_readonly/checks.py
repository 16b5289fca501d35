"""What a selector may be given, checked before anything is done with it; the kinds of switches."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from sqlalchemy import Engine

from .engines import guard, poolers
from .engines.dialects import holds_file, shown
from .engines.handover import ROLES
from .engines.pools import holds_database
from .engines.server import ANSWERS
from .engines.single import of_engine
from .errors import ConfigurationError, seconds
from .etcd.switch import EtcdSwitch
from .mode import Switch, missing
from .switch import FileSwitch, FixedSwitch
from .telemetry import fields
from .workers.directory import DirectoryRegistry
from .workers.protocol import Registry
from .workers.protocol import missing as lacking_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = [
    "KINDS",
    "Engines",
    "Kind",
    "check_engines",
    "check_options",
    "check_pooler",
    "check_role",
    "configured",
    "given_engines",
    "is_required",
    "kind_of",
    "like",
    "make_switch",
    "registry_of",
    "successors",
    "switch_of",
    "sync_of",
    "warn_of_one_url",
]

logger = logging.getLogger("sa_readonly")

AnyEngine = Union[Engine, "AsyncEngine"]


# -- the kinds of switches -------------------------------------------------------------------


class Kind(NamedTuple):
    """What has to be known of one kind of switch. A further kind is one more row of the table.

    :param cls: the class of its switches.
    :param made_of: the types that stand for one in ``EngineSelector(switch=)``, in the key ``file``
        of a configuration and in the command's ``--file``. None of them if users make it.
    :param registry: returns where ``workers=True`` has a process report itself. None if nowhere:
        then it reports itself only where a directory or a registry is given.
    :param flips: whether its mode can change. If not, the command has nothing to wait for, and a
        process reports itself to a registry that is given and to no directory.
    :param key: the key of a configuration that makes one, whose value is its first argument.
    :param options: its further arguments, which a configuration may give by these keys.
    :param needs: those of them that must be given.
    :param required: whether ``workers=True`` means ``workers="required"``.
    :param unreported: what the status page says of a process that reports itself nowhere.
    """

    cls: type[Any]
    made_of: tuple[type[Any], ...] = ()
    registry: Callable[[Any], Registry] | None = None
    flips: bool = True
    key: str | None = None
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    required: bool = False
    unreported: str = "It has no directory of workers: nobody can wait for it."


def _beside(switch: FileSwitch) -> Registry:
    return DirectoryRegistry(f"{switch.path}.workers")


def _in_etcd(switch: EtcdSwitch) -> Registry:
    return switch.registry


KINDS = (
    Kind(
        FileSwitch,
        made_of=(str, bytes, os.PathLike),
        registry=_beside,
        key="file",
        options=("ttl",),
    ),
    Kind(FixedSwitch, flips=False),
    Kind(
        EtcdSwitch,
        registry=_in_etcd,
        key="etcd",
        options=("key", "ttl", "file", "ca", "cert", "cert_key", "user", "password"),
        needs=("key",),
        required=True,
    ),
    Kind(  # any other Switch, such as a user's own
        object,
        unreported="Its switch brings no directory of workers: nobody can wait for it. Give "
        "EngineSelector(workers=) the path of a directory, or a Registry.",
    ),
)


def kind_of(switch: Switch) -> Kind:
    """Return the first row of the table for a switch."""
    return next(kind for kind in KINDS if isinstance(switch, kind.cls))


def configured(keys: Collection[str]) -> Kind:
    """Return the kind of switch that a configuration with these keys makes.

    Without any it is that of a file.
    """
    # The last row first: a file may be given beside etcd.
    kinds: list[Kind] = [kind for kind in reversed(KINDS) if kind.key is not None]
    return next((kind for kind in kinds if kind.key in keys), kinds[-1])


def make_switch(value: object, **options: Any) -> Switch | None:
    """Make the switch that a value stands for, as a path does; None if it stands for none.

    :param options: those of the class of the switch.
    """
    for kind in KINDS:
        if isinstance(value, kind.made_of):
            return kind.cls(value, **options)  # type: ignore[no-any-return]  # it is a Switch
    return None


def switch_of(value: object) -> Switch:
    """Return the switch that ``EngineSelector(switch=)`` is or stands for."""
    made = make_switch(value)
    if made is not None:
        return made
    lacking = missing(value)
    if "check" in lacking or "subscribe" in lacking:
        raise ConfigurationError(
            f"EngineSelector(switch) takes the path of a file or a Switch, not {value!r}."
        )
    if lacking:
        raise ConfigurationError(
            f"EngineSelector(switch): {value!r} is no whole Switch, as it has no "
            f"{', '.join(lacking)}. Derive its class from sa_readonly.Switch, which has a default "
            "for all but known, check() and subscribe()."
        )
    return value  # type: ignore[return-value]  # it has the members


def registry_of(workers: object, switch: Switch) -> Registry | None:
    """Return where ``EngineSelector(workers=)`` has a process report itself, or None."""
    kind = kind_of(switch)
    if workers is True or workers == "required":
        if kind.registry is not None:
            return kind.registry(switch)
        if workers is True or not kind.flips:
            return None
        raise ConfigurationError(
            f'EngineSelector(workers="required") needs the path of a file, which {switch!r} does '
            "not have. Give a Registry or the path of a directory."
        )
    if workers is False:
        return None
    if isinstance(workers, str) and workers and not set(workers) & {os.sep, os.altsep}:
        # A mistyped word would be a directory in which each process reports itself unseen.
        raise ConfigurationError(
            f'EngineSelector(workers={workers!r}) is no known word: is "required" meant? A '
            f"directory is given as an absolute path, or as {os.path.join(os.curdir, workers)!r}."
        )
    if isinstance(workers, (str, os.PathLike)) and workers:
        return DirectoryRegistry(workers) if kind.flips else None
    lacking = lacking_of(workers)
    if not lacking:
        return workers  # type: ignore[return-value]  # it has the members
    why = "" if "register" in lacking else f" It has no {', '.join(lacking)}."
    raise ConfigurationError(
        'EngineSelector(workers) takes True, False, "required", the path of a directory or a '
        f"Registry, not {workers!r}.{why}"
    )


def is_required(workers: object, switch: Switch) -> bool:
    """True if a process begins no read-write transaction while it is not registered."""
    return workers == "required" or (workers is True and kind_of(switch).required)


# -- engines ---------------------------------------------------------------------------------


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
        sync_of(self.primary, "Engines(primary=...)")
        if self.replica is not None:
            sync_of(self.replica, "Engines(replica=...)")


def sync_of(engine: object, name: str = "") -> Engine:
    """Return the Engine inside an AsyncEngine, or the Engine itself.

    :param name: the argument that it was given as.
    :raises ConfigurationError: if it is neither.
    """
    inner = engine if isinstance(engine, Engine) else getattr(engine, "sync_engine", None)
    if not isinstance(inner, Engine):
        # Its type, and not the value itself: the string of a URL shows a password.
        raise ConfigurationError(
            f"{name} takes an Engine or an AsyncEngine, not {type(engine).__name__}. Make one with "
            "create_engine() or create_async_engine()."
        )
    return inner


def like(engine: AnyEngine, sync_engine: Engine) -> AnyEngine:
    """Return a sync engine as one of the same kind as ``engine``."""
    return sync_engine if isinstance(engine, Engine) else type(engine)(sync_engine)


def given_engines(read_write: object, read_only: object) -> dict[str, AnyEngine]:
    """Return the engines that a selector is given, by names such as ``read_write.primary``."""
    given = given_of("EngineSelector", "read_write", read_write)
    if read_only is not None:
        given.update(given_of("EngineSelector", "read_only", read_only))
    return given


def given_of(caller: str, mode: str, value: object) -> dict[str, AnyEngine]:
    """Return the engines of one mode, by their names.

    :param caller: what they are given to, for an error.
    """
    if not isinstance(value, Engines):  # a bare engine
        sync_of(value, f"{caller}({mode}=...)")
        value = Engines(value)  # type: ignore[arg-type]  # it is an engine
    given = {f"{mode}.primary": value.primary}
    if value.replica is not None:
        given[f"{mode}.replica"] = value.replica
    return given


def check_engines(given: Mapping[str, AnyEngine]) -> dict[str, Engine]:
    """Refuse engines that make no sense together, and return the sync ones by name."""
    sync = [name for name, engine in given.items() if isinstance(engine, Engine)]
    if sync and len(sync) < len(given):
        mixed = ", ".join(name for name in given if name not in sync)
        raise ConfigurationError(
            f"{', '.join(sync)} is a sync Engine and {mixed} an AsyncEngine. "
            "Give engines of one kind."
        )
    engines = {name: sync_of(engine) for name, engine in given.items()}
    for name, engine in engines.items():
        if of_engine(engine) is not None:
            raise ConfigurationError(
                f"{name} has plugin=sa_readonly, and gives out connections by the mode itself. Use "
                "it as it is, or make it without the plugin."
            )
    _check_modes(engines)
    if "read_only.primary" not in engines and holds_database(engines["read_write.primary"]):
        raise ConfigurationError(
            "read_write.primary holds its database in its own pool (a database in memory, "
            "StaticPool), of which no second, read-only engine can be made. Give read_only= as "
            "well."
        )
    return engines


def _check_modes(engines: Mapping[str, Engine]) -> None:
    """Refuse an engine that would have to be read-write and read-only at the same time."""
    primary = engines["read_write.primary"]
    for (name, one), (other_name, two) in itertools.combinations(engines.items(), 2):
        if one is not two and (one.pool is two.pool or one.dialect is two.dialect):
            raise ConfigurationError(
                f"{name} and {other_name} share a pool or a dialect: is one made of the other by "
                "execution_options()? Make each with create_engine()."
            )
    for name, engine in engines.items():
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
            "read_write.primary is a read-only engine of an EngineSelector, as a replica is. Make "
            "another one of its URL."
        )
    replica = engines.get("read_write.replica", primary)
    if replica is not primary and guard.gates(replica) and not guard.read_only(replica):
        raise ConfigurationError(
            "read_write.replica is the read-write primary of an EngineSelector, which could not "
            "write any more. Make another one of its URL."
        )


def successors(
    read_write: object, given: Mapping[str, AnyEngine], *, is_async: bool
) -> dict[str, AnyEngine]:
    """Return the engines that a selector has once others take the place of its read-write ones.

    :param given: those that it has.
    :param is_async: whether they are async.
    """
    new = given_of("EngineSelector.replace", "read_write", read_write)
    if isinstance(new["read_write.primary"], Engine) is is_async:
        kinds = ("async", "a sync Engine") if is_async else ("sync", "an AsyncEngine")
        raise ConfigurationError(
            "EngineSelector.replace(read_write=...) takes engines of the kind that the selector "
            f"has, which is {kinds[0]}, and read_write.primary is {kinds[1]}."
        )
    return new | {name: one for name, one in given.items() if name.startswith("read_only")}


def warn_of_one_url(engines: Mapping[str, Engine]) -> None:
    """Say where two engines of one URL are given as read-write and as read-only."""
    primary = engines["read_write.primary"]
    url = primary.url
    if holds_database(primary) or holds_file(primary) or not (url.host or url.database):
        return  # the URL does not tell which database it is, or how it is opened
    same = [name for name in engines if name.startswith("read_only") and engines[name].url == url]
    if same:
        logger.warning(
            "read_write.primary and %s are engines of one URL, %s: while read-only the very "
            "database is read that is to be taken away. Correct the URL. If it is meant, leave "
            "read_only out, and a read-only engine of the same database is made.",
            " and ".join(same),
            shown(primary),
            extra=fields("one_url", engine=shown(primary)),
        )


def check_pooler(pooler: object, engines: Mapping[str, Engine]) -> None:
    """Refuse a pooler that these engines can't be behind."""
    # The read-write primary matters where a read-only engine will be made of it.
    twinned = "read_only.primary" not in engines or "read_write.replica" not in engines
    readers = {name for name in engines if twinned or name != "read_write.primary"}
    poolers.check(pooler, engines, readers)


# -- the other arguments ---------------------------------------------------------------------


def check_options(grace: object, watch: object, server_read_only: object) -> None:
    """Refuse a ``grace`` that is no time, a ``watch`` that is no bool, and the like."""
    if grace is not None:
        seconds("EngineSelector(grace)", grace)
    if not isinstance(watch, bool):
        raise ConfigurationError(f"EngineSelector(watch) takes True or False, not {watch!r}.")
    if server_read_only not in ANSWERS:
        raise ConfigurationError(
            'EngineSelector(server_read_only) takes "raise", "error" or "flip", not '
            f"{server_read_only!r}."
        )
    if server_read_only == "flip" and not watch:
        raise ConfigurationError(
            'EngineSelector(server_read_only="flip") needs the thread that watch=False leaves out: '
            "it asks whether the server would write again. Leave watch out, or give "
            'server_read_only="raise".'
        )


def check_role(role: object) -> None:
    """Refuse what is no role."""
    if role not in ROLES:
        raise ConfigurationError(f'role is "primary" or "replica", not {role!r}.')
