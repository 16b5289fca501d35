"""Engines whose URL stands in a file: it is read again each time a pool is opened anew.

It is done by the engine's ``creator``. A listener for "do_connect" or "engine_disposed" would cost
each statement some calls.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from .. import forks
from ..telemetry import fields
from . import loops, privates
from .dialects import shown
from .pools import open_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, Pool

__all__ = ["UrlFile", "UrlFileError", "has_url_file", "read_again"]

logger = logging.getLogger("sa_readonly")

_LONGEST = 65_536  # bytes of a file that may be a URL
_CHANGE = "sa_readonly_change"  # in a record's info, see UrlFile._made


class UrlFileError(ValueError):
    """A file holds no URL that can be used. The message shows nothing of what it holds."""


class UrlFile:
    """The URL of one engine, in a file.

    Its :meth:`connect` is the ``creator`` of the engine, which :meth:`serve` is told.

    :param path: of the file.
    :param name: what messages call the engine.
    :param connect_args: those of the engine, which count more than the URL.
    :raises UrlFileError: if there is no URL in the file.
    """

    def __init__(
        self, path: str | os.PathLike[str], name: str, connect_args: Mapping[str, Any]
    ) -> None:
        self._path = os.path.abspath(path)
        self._name = name
        self._connect_args = dict(connect_args)
        self._engine: Engine | None = None
        # How often the file has changed, and what connects to what it said then.
        self._made: tuple[int, list[Any], dict[str, Any]] = (0, [], {})
        self._learned = 0  # the one of these changes of whose server the dialect knows
        # The pool for which the file was read last.
        self._pool: Callable[[], Pool | None] = lambda: None
        self._reading = forks.PerProcess(threading.RLock)
        self.url = self._read()
        """What the file held when it was read last."""

    def serve(self, engine: Engine) -> None:
        """Make the connections of this engine.

        :raises UrlFileError: if its dialect can't make use of the URL.
        """
        self._made = (0, *self._arguments_of(engine, self.url))
        self._engine = engine
        self._pool = weakref.ref(engine.pool)
        event.listen(engine.pool, "connect", self._connected)
        engine._sa_readonly_url_file = self  # type: ignore[attr-defined]  # this package adds it

    def connect(self, connection_record: ConnectionPoolEntry | None) -> DBAPIConnection:
        """Connect to what the file says, as SQLAlchemy does to a URL."""
        engine: Any = self._engine
        pool = engine.pool
        # While the door is shut only a twin connects: the file is for when that is open again.
        if open_pool(engine) is pool and self._pool() is not pool:
            loops.wait_for(partial(self._read_anew, engine, pool))
        change, arguments, keywords = self._made
        arguments, keywords = list(arguments), dict(keywords)
        if connection_record is not None and change != self._learned:
            connection_record.info[_CHANGE] = change
        for listener in engine.dialect.dispatch.do_connect:
            connection = listener(engine.dialect, connection_record, arguments, keywords)
            if connection is not None:
                return connection  # type: ignore[no-any-return]  # as SQLAlchemy does
        return engine.dialect.connect(*arguments, **keywords)  # type: ignore[no-any-return]  # a dialect's

    def _connected(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        """Have the dialect learn of another server: its version, default schema, numbers of types.

        SQLAlchemy asks once an engine, and what it learned of the server before would be wrong.
        """
        engine, change = self._engine, record.info.pop(_CHANGE, None)
        # Not by a connection to the server before, which was in the making when the file was read.
        if engine is not None and change == self._made[0]:
            privates.initialize(engine, connection, record)
            engine.clear_compiled_cache()
            engine.dialect._sa_readonly_passed = {}  # type: ignore[attr-defined]  # this package adds it
            self._learned = change

    # -- reading -------------------------------------------------------------------------

    def read_again(self) -> None:
        """Use what the file says now, also for the connections of a pool that has begun."""
        engine: Any = self._engine
        with contextlib.suppress(UrlFileError):  # the next pool that is opened anew tells that
            if self._read() != self.url:
                self._pool = lambda: None
                self._read_anew(engine, engine.pool)

    def _read_anew(self, engine: Engine, pool: Pool) -> None:
        problem, changed = "", False
        with self._reading():
            if self._pool() is pool:
                return
            try:
                url = self._read()
                changed = url != self.url
                self._made = (self._made[0] + changed, *self._arguments_of(engine, url))
                self.url = engine.url = url
                engine.dialect._sa_readonly_shown = shown(engine)  # type: ignore[attr-defined]  # this package adds it
            except UrlFileError as error:
                problem = str(error)
            finally:
                self._pool = weakref.ref(pool)
        # A handler of logs may need a connection itself, so nothing is logged under the lock.
        if problem:
            logger.error(
                "%s: %s The URL that it held before is used on: %s.",
                *(self._name, problem, shown(engine)),
                extra=fields("url_unreadable", engine=shown(engine), error=problem),
            )
        elif changed:
            logger.warning(
                "%s: the URL in %s has changed. It is %s now.",
                *(self._name, self._path, shown(engine)),
                extra=fields("url_changed", engine=shown(engine)),
            )

    def _read(self) -> URL:
        problem = text = ""
        try:
            with open(self._path, "rb", opener=_open) as file:
                data = file.read(_LONGEST)
        except OSError as error:
            problem = f"can't be read: {error.strerror}"
        else:
            # No error of decoding, as that would hold the text.
            text = data.decode("utf-8-sig", errors="replace").strip()
        if not problem and not text:
            problem = "is empty"
        url = None
        if not problem and "\n" not in text:
            with contextlib.suppress(ArgumentError, ValueError):  # they may tell a part of the text
                url = make_url(text).difference_update_query(["plugin"])
        if url is None:
            raise UrlFileError(f"{self._path} {problem or 'holds no URL'}.")
        return url

    def _arguments_of(self, engine: Engine, url: URL) -> tuple[list[Any], dict[str, Any]]:
        ours, theirs = _kind(engine.url), _kind(url)
        if ours != theirs:
            raise UrlFileError(
                f"{self._path} holds a URL of {theirs}, and the engine is one of {ours}."
            )
        made = None
        with contextlib.suppress(ArgumentError, TypeError, ValueError):  # the same
            made = engine.dialect.create_connect_args(url)
        if made is None:
            raise UrlFileError(f"{self._path} holds a URL with options that are not understood.")
        return list(made[0]), {**made[1], **self._connect_args}


def _kind(url: URL) -> str:
    try:
        return f"{url.get_backend_name()}+{url.get_driver_name()}"
    except NoSuchModuleError:
        return url.drivername


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would be waited for


def has_url_file(engine: Engine) -> bool:
    """True if the URL of an engine stands in a file."""
    return "_sa_readonly_url_file" in vars(engine)


def read_again(engine: Engine) -> None:
    """Read the URL of an engine now, if it stands in a file: before its server is asked."""
    if has_url_file(engine):
        engine._sa_readonly_url_file.read_again()  # type: ignore[attr-defined]  # this package adds it
