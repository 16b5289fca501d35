"""The engine plugin: ``create_engine("postgresql://.../db?plugin=sa_readonly&sa_readonly_file=...")``.

One engine, which gives out read-write or read-only connections by the mode.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL, CreateEnginePlugin, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool
from sqlalchemy.util import immutabledict

from .checks import registry_of
from .engines import privates
from .engines.dialects import is_in_memory
from .engines.single import Single
from .errors import ConfigurationError, seconds
from .etcd.switch import TRUST
from .mode import Mode
from .oneswitch import of_file, of_key
from .switch import FixedSwitch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Engine
    from sqlalchemy.pool import Pool

    from .oneswitch import OneSwitch

__all__ = ["Plugin"]

_NAME = "sa_readonly"
_PREFIX = "sa_readonly_"
_TRUST = tuple(_PREFIX + name for name in TRUST)
_ARGUMENTS = tuple(
    _PREFIX + name for name in ("file", "etcd", "key", *TRUST, "url", "grace", "workers", "reads")
)
_READS = ("serve", "refuse")
_PASSWORDS = ("password", "passwd")  # of connect_args


class Plugin(CreateEnginePlugin):
    """Takes the arguments ``sa_readonly_...``, of the URL or by keyword, and changes the engine.

    ``sa_readonly_file`` is the path of the file that means read-only; without it the environment
    variable ``SA_READONLY_FILE`` is. ``sa_readonly_etcd`` (the URLs of the members) and
    ``sa_readonly_key`` name a fleet's switch in its place, with ``sa_readonly_ca``,
    ``sa_readonly_cert`` and ``sa_readonly_cert_key``. ``sa_readonly_url`` is another database,
    of the same dialect and driver, to be read while read-only. ``sa_readonly_grace`` and
    ``sa_readonly_workers`` are those of :class:`.EngineSelector`. ``sa_readonly_reads="refuse"``
    refuses reads, too, while read-only.

    :raises ConfigurationError: by ``create_engine()``, if an argument is unknown or makes no sense.
    """

    # Programs make engines by the thousand: nothing is done here that can wait.

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        self._url = url
        self._in_url: dict[str, Any] = {}
        self._keywords = {
            name: kwargs.pop(name) for name in list(kwargs) if name.startswith(_PREFIX)
        }
        etcd = self._keywords.get("sa_readonly_etcd")
        if isinstance(etcd, (list, tuple)):  # as a URL has them, in which they are to be found
            self._keywords["sa_readonly_etcd"] = ",".join(map(str, etcd))
        self._connect_args: Mapping[str, Any] = kwargs.get("connect_args") or {}
        self._has_pool = "pool" in kwargs
        self._creates = self._has_pool or "creator" in kwargs
        self._alone = not kwargs.get(privates.INITIALIZES, True)

    def update_url(self, url: URL) -> URL:
        """Return the URL as the driver knows it."""
        if not url.query:
            return url
        left: dict[str, Any] = {}
        for name, value in url.query.items():
            (self._in_url if name.startswith(_PREFIX) else left)[name] = value
        return _with_query(url, left) if self._in_url else url

    def engine_created(self, engine: Engine) -> None:
        """Have the engine give out connections by the mode."""
        if "_sa_readonly_single" in vars(engine):
            return  # named in the URL and in plugins=, it is made twice for one engine
        given = self._given()
        if isinstance(engine.pool, StaticPool) or is_in_memory(self._url):
            raise ConfigurationError(
                "plugin=sa_readonly: the engine holds its database in its own pool (a database in "
                "memory, StaticPool), of which no read-only connection can be made. Give the "
                "database a file, or leave the plugin out."
            )
        if self._has_pool:
            _check(engine.pool)
        reads = given.get("sa_readonly_reads", "serve")
        if reads not in _READS:
            raise ConfigurationError(f'sa_readonly_reads takes "serve" or "refuse", not {reads!r}.')
        create = None
        if given.get("sa_readonly_url") is not None:
            create = self._creator(engine, given["sa_readonly_url"])
        self._shared = _shared_of(given)
        Single(
            engine,
            self._shared,
            serves=reads == "serve",
            grace=_grace_of(given),
            create=create,
            alone=self._alone,
            url=self._full,
        )

    def _given(self) -> dict[str, Any]:
        """Return the arguments, those of the URL as strings."""
        in_url, given = self._in_url, self._keywords
        if in_url:
            for name, value in given.items():
                if name in in_url and in_url[name] != _as_in_url(value):
                    raise ConfigurationError(
                        f"{name} stands in the URL and is given by keyword, with another value. "
                        "Leave one of them out."
                    )
            given = {**in_url, **given}
        for name in given:
            if name not in _ARGUMENTS:
                raise ConfigurationError(
                    f"Unknown to the plugin sa_readonly: {name}. Known are {', '.join(_ARGUMENTS)}."
                )
            if isinstance(in_url.get(name), tuple):  # a URL by keyword is a tuple, too
                raise ConfigurationError(f"{name} stands more than once in the URL.")
        return given

    def _full(self) -> URL:
        """Return the URL with all arguments: what a program makes of it is guarded, too."""
        url, keywords = self._url, self._keywords
        named = url.query.get("plugin", ())
        names = (named,) if isinstance(named, str) else named
        query: dict[str, Any] = {**url.query, "plugin": (*names, _NAME)}
        if _NAME in names:
            query["plugin"] = named
        elif not names:
            query["plugin"] = _NAME
        for name, value in keywords.items():
            if name == "sa_readonly_url" and value is not None:
                other = make_url(value)
                if other.password is None:  # else it is left out: an engine's URL stands in logs
                    query[name] = _as_in_url(other)
            elif value is not None:
                query[name] = _as_in_url(value)
        shared = self._shared
        paths = {"file": shared.path, "workers": shared.workers, **shared.paths}
        for name, path in paths.items():
            given = query.get(_PREFIX + name)
            if given and isinstance(path, str) and os.path.isabs(path) and not os.path.isabs(given):
                query[_PREFIX + name] = path  # the process may go to another directory
        return url if query == url.query else _with_query(url, query)

    def _creator(self, engine: Engine, value: object) -> Callable[..., Any]:
        """Return what connects to the database that is read while read-only."""
        try:
            url = make_url(value)  # type: ignore[arg-type]  # checked by it
        except ArgumentError:
            raise ConfigurationError("sa_readonly_url is no URL of a database.") from None
        mine = (self._url.get_backend_name(), self._url.get_driver_name())
        theirs = (url.get_backend_name(), url.get_driver_name())
        if mine != theirs:
            raise ConfigurationError(
                f"sa_readonly_url is of {'+'.join(theirs)}, and the engine of {'+'.join(mine)}. "
                "Give a database of the same dialect and driver."
            )
        if "plugin" in url.query:
            raise ConfigurationError(
                "sa_readonly_url names a plugin. It is read with the engine's own: leave it out."
            )
        if self._creates:
            raise ConfigurationError(
                "sa_readonly_url stands beside creator= or pool=, which connect to one database. "
                "Leave one of them out."
            )
        if is_in_memory(url):
            raise ConfigurationError("sa_readonly_url is a database in memory. Give it a file.")
        dialect: Any = engine.dialect
        cargs, cparams = dialect.create_connect_args(url)
        _check_arguments(self._connect_args, dialect.create_connect_args(engine.url)[1], cparams)
        cparams = {**cparams, **self._connect_args}

        def create(connection_record: object = None) -> Any:
            arguments, parameters = list(cargs), dict(cparams)
            for function in dialect.dispatch.do_connect:
                connection = function(dialect, connection_record, arguments, parameters)
                if connection is not None:
                    return connection
            return dialect.connect(*arguments, **parameters)

        return create


# From here on SQLAlchemy finds it at once. It would have the entry point look up the module anew
# for each engine, which costs a tenth of one on Python 3.10.
plugins.register(_NAME, __name__, Plugin.__name__)


# -- arguments -------------------------------------------------------------------------------


def _with_query(url: Any, query: Mapping[str, Any]) -> URL:
    # Not by set(), which looks at each value, and costs as much as all the rest of the plugin.
    return url._make((*url[:-1], immutabledict(query)))  # type: ignore[no-any-return]  # a URL


def _as_in_url(value: object) -> str:
    """Return an argument that is given by keyword as a URL has it."""
    return value.render_as_string(hide_password=False) if isinstance(value, URL) else str(value)


def _check_arguments(
    both: Mapping[str, Any], own: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    """Refuse ``connect_args``, which go to both databases, of which each should have its own."""
    for name in both:
        if name in _PASSWORDS:
            raise ConfigurationError(
                "connect_args has a password, which would be sent to the database of "
                "sa_readonly_url, too. Put each into its URL."
            )
        if own.get(name) != other.get(name):
            raise ConfigurationError(
                f"connect_args has {name!r}, in which sa_readonly_url and the engine's URL differ, "
                "and it would replace both. Leave it to the URLs."
            )


def _check(pool: Pool) -> None:
    """Refuse a pool that was given, if it does not count from its first connection on."""
    if hasattr(pool, "sa_readonly_single"):
        raise ConfigurationError(
            "pool= is of another engine with plugin=sa_readonly. Leave the plugin out: that "
            "pool gives out connections by the mode itself."
        )
    if privates.connections_out(pool) or privates.kept_records(pool):
        raise ConfigurationError(
            "pool= has given out connections already, which are not counted. Give a new pool, "
            "or poolclass=."
        )


def _shared_of(given: Mapping[str, Any]) -> OneSwitch:
    workers = _workers_of(given)
    urls, key = given.get("sa_readonly_etcd"), given.get("sa_readonly_key")
    if urls is None and key is None:
        for name, value in given.items():
            if name in _TRUST and value:
                raise ConfigurationError(
                    f"{name} is of etcd, and without it a file alone would count. Give "
                    "sa_readonly_etcd and sa_readonly_key, or leave it out."
                )
        try:
            return of_file(_file_of(given), workers)
        except ConfigurationError as error:
            told = str(error).replace("FileSwitch(path)", "sa_readonly_file")
            raise ConfigurationError(told) from None
    if not urls or not key:
        raise ConfigurationError(
            "sa_readonly_etcd and sa_readonly_key need each other: give both, or neither."
        )
    trust = {
        name: given.get(_PREFIX + name) or os.environ.get(variable) or None
        for name, variable in TRUST.items()
    }
    return of_key(urls, key, workers, file=given.get("sa_readonly_file"), **trust)


def _file_of(given: Mapping[str, Any]) -> Any:
    path = given.get("sa_readonly_file") or os.environ.get("SA_READONLY_FILE")
    if not path:
        raise ConfigurationError(
            "plugin=sa_readonly needs the path of the file that means read-only: give "
            "sa_readonly_file, or set SA_READONLY_FILE in the environment. For a fleet on etcd "
            "give sa_readonly_etcd and sa_readonly_key."
        )
    return path


def _grace_of(given: Mapping[str, Any]) -> float | None:
    value = given.get("sa_readonly_grace")
    if value is None:
        return None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # refused by the next line
            value = float(value)
    return seconds("sa_readonly_grace", value)


def _workers_of(given: Mapping[str, Any]) -> Any:
    value = given.get("sa_readonly_workers", True)
    if value is True:
        return value
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    if value not in (True, False, "required"):
        try:
            registry_of(value, FixedSwitch(Mode.READ_WRITE))
        except ConfigurationError as error:
            told = str(error)
            for given_as in ("workers", f"workers={value!r}"):
                told = told.replace(f"EngineSelector({given_as})", f"sa_readonly_{given_as}")
            raise ConfigurationError(told) from None
        value = os.path.abspath(value) if isinstance(value, (str, os.PathLike)) else value
    return value
