"""A selector made of configuration keys, such as those of a settings file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sqlalchemy import engine_from_config
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from .checks import Engines, configured, sync_of
from .engines.handover import ROLES
from .engines.url_files import UrlFile, UrlFileError
from .errors import ConfigurationError, seconds
from .selector import EngineSelector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import URL

    from .mode import Switch

__all__ = ["selector_from_config"]

_OPTIONS = ("pooler", "server_read_only")  # beside those of the switch
_ENGINES = tuple(f"{mode}.{role}" for mode in ("read_write", "read_only") for role in ROLES)


def selector_from_config(
    mapping: Mapping[str, Any], prefix: str = "sa_readonly.", **kwargs: Any
) -> EngineSelector:
    """Make a selector of configuration keys, as :func:`sqlalchemy.engine_from_config` does.

    ``file`` (required), ``ttl`` (seconds), ``pooler`` and ``server_read_only``; in the place of
    ``file``, or beside it, ``etcd`` (the URLs of its members) with ``key`` and, as
    :class:`.EtcdSwitch` has them, ``ca``, ``cert``, ``cert_key``, ``user`` and ``password``; then
    for each of ``read_write.primary`` (required), ``read_write.replica``, ``read_only.primary`` and
    ``read_only.replica`` a ``url`` and the other options of
    :func:`sqlalchemy.engine_from_config`: ``read_write.primary.pool_size``. A URL of an asyncio
    driver makes an AsyncEngine.

    In the place of a ``url``, ``url_file`` is the path of a file that holds it. It is read again
    each time a pool is opened anew: of a read-write engine at each flip back, of a read-only one at
    each flip to read-only, after ``dispose()`` and in a forked child. What can't be used then is
    logged as an error, and the last URL is used on. Dialect and driver stay the same.

    ::

        selector = selector_from_config({
            "sa_readonly.file": "/var/lib/myapp/read-only.txt",
            "sa_readonly.read_write.primary.url": RW_URL,
            "sa_readonly.read_write.primary.pool_size": "10",
            "sa_readonly.read_only.primary.url": RO_URL,
        })

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
    _check_keys(ours, prefix)
    engines = {name: _engine_from(ours, f"{name}.", prefix) for name in _ENGINES}
    if engines["read_only.replica"] is not None and engines["read_only.primary"] is None:
        raise ConfigurationError(
            f"{prefix}read_only.replica.url is given without {prefix}read_only.primary.url."
        )
    for name in _OPTIONS:
        if name in ours:
            kwargs.setdefault(name, ours[name])
    switch = _switch_from(ours, prefix)
    read_only = engines["read_only.primary"]
    return EngineSelector(
        switch,
        read_write=Engines(engines["read_write.primary"], engines["read_write.replica"]),
        read_only=read_only and Engines(read_only, engines["read_only.replica"]),
        **kwargs,
    )


def _switch_from(ours: Mapping[str, Any], prefix: str) -> Switch:
    kind = configured(ours)
    options = {name: ours[name] for name in kind.options if name in ours}
    if "ttl" in options:
        options["ttl"] = _seconds(options["ttl"], f"{prefix}ttl")
    value = ours[str(kind.key)]
    if kind.made_of and not isinstance(value, kind.made_of):
        raise ConfigurationError(f"{prefix}file takes the path of a file, not {value!r}.")
    return kind.cls(value, **options)  # type: ignore[no-any-return]  # it is a Switch


def _check_keys(ours: Mapping[str, Any], prefix: str) -> None:
    below = tuple(f"{name}." for name in _ENGINES)
    kind = configured(ours)
    known = (str(kind.key), *kind.options, *_OPTIONS)
    unknown = [prefix + key for key in ours if key not in known and not key.startswith(below)]
    if unknown:
        options = ", ".join(prefix + name for name in known)
        raise ConfigurationError(
            f"Unknown configuration: {', '.join(sorted(unknown))}. Known are {options} and, below "
            f"each of {', '.join(prefix + name for name in _ENGINES)}, url, url_file and the "
            "options of engine_from_config()."
        )
    for key in (str(kind.key), *kind.needs):
        if not ours.get(key):
            raise ConfigurationError(f"{prefix}{key} is missing in the configuration.")
    primary = "read_write.primary.url"
    if not ours.get(primary) and f"{primary}_file" not in ours:
        raise ConfigurationError(
            f"{prefix}{primary} is missing in the configuration, and {prefix}{primary}_file, too."
        )


def _seconds(value: Any, name: str) -> float:
    try:
        return seconds(name, float(value))
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} takes a number of seconds, not {value!r}.") from None


def _engine_from(ours: Mapping[str, Any], name: str, prefix: str) -> Any:
    keys = [key for key in ours if key.startswith(name)]
    if not keys:
        return None
    if f"{name}url_file" in ours:
        return _engine_of_file(ours, name, prefix)
    url = ours.get(f"{name}url")
    if not url:
        others = [prefix + key for key in keys if key != f"{name}url"]
        what = f"missing, though {others[0]} is given" if others else "empty"
        raise ConfigurationError(f"{prefix}{name}url is {what}. Give the URL of a database.")
    try:
        return _make_engine(make_url(url), ours, name)
    except Exception as error:  # SQLAlchemy and drivers raise what they like of what makes no sense
        told = str(error)
        if not isinstance(error, (TypeError, ValueError, ArgumentError, NoSuchModuleError)):
            told = f"{type(error).__name__}: {error}"  # which alone may say little
        raise ConfigurationError(
            f"No engine can be made of {', '.join(sorted(prefix + key for key in keys))}: {told}"
        ) from error


def _engine_of_file(ours: Mapping[str, Any], name: str, prefix: str) -> Any:
    key = f"{prefix}{name}url_file"
    path = ours[f"{name}url_file"]
    if not isinstance(path, (str, os.PathLike)) or not path:
        raise ConfigurationError(f"{key} takes the path of a file that holds a URL, not {path!r}.")
    for other in ("url", "creator", "async_creator"):
        if f"{name}{other}" in ours:
            raise ConfigurationError(f"{key} and {prefix}{name}{other} are both given. Give one.")
    problem = ""
    try:
        file = UrlFile(path, f"{prefix}{name[:-1]}", ours.get(f"{name}connect_args") or {})
        options = {one: ours[one] for one in ours if one != f"{name}url_file"}
        made = _make_engine(file.url, options, name, creator=file.connect)
        file.serve(sync_of(made))
        return made
    except (UrlFileError, NoSuchModuleError, TypeError) as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001  # of any class, and it may show a part of the URL
        problem = f"{type(error).__name__}, whose message is left out, as it may show a password."
    # After the handlers, so that no error stands behind this one.
    raise ConfigurationError(f"No engine can be made of {key}: {problem}")


def _make_engine(url: URL, ours: Mapping[str, Any], name: str, **options: Any) -> Any:
    options["url"] = url
    if url.get_dialect().is_async:
        # Imported here: importing this package imports no asyncio.
        from sqlalchemy.ext.asyncio import async_engine_from_config  # noqa: PLC0415

        return async_engine_from_config(dict(ours), prefix=name, **options)
    return engine_from_config(dict(ours), prefix=name, **options)
