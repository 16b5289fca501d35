"""Raw cursors: what code sends with the driver's connection in its hands is examined, too.

Such code goes round the dialect. Where a driver's connection says of which class its cursors are,
that becomes a subclass which examines; where an adapter or a method makes them, the connection's
class becomes one whose cursors do. SQLite needs neither: its authorizer is asked (:mod:`.sqlite`).

A further driver needs a row in one of the tables.
"""

from __future__ import annotations

import contextlib
import re
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine.default import DefaultDialect

from . import locks, poolers, privates, shared, sqlite
from .dialects import ATTRIBUTES, BLIND, may_render, plain_types, text_of
from .guarded import IN_QUOTES, has_passed
from .statements import may_hide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ADAPTED", "SHUT", "guard_cursors", "note_cursors", "noting_start"]

# By driver, the attributes of its connection that hold the classes of its cursors.
_CLASSES = {
    "psycopg2": ("cursor_factory",),
    "psycopg2cffi": ("cursor_factory",),
    "psycopg": ("cursor_factory", "server_cursor_factory"),
    "psycopg_async": ("cursor_factory", "server_cursor_factory"),
    "pymysql": ("cursorclass",),
    "mysqldb": ("cursorclass",),
    "aiomysql": ("cursorclass",),
    "asyncmy": ("_cursor_cls",),
}
ADAPTED = frozenset(("asyncpg", "aiomysql", "asyncmy", "duckdb_engine"))
"""Drivers before which an adapter stands that makes the cursors: SQLAlchemy's or its dialect's."""
# Drivers whose connection makes cursors in a method, and has no attribute that tells their class.
_MADE_BY_METHOD = frozenset(("mysqlconnector", "mariadbconnector", "cymysql", "pg8000"))
# Of these, those whose cursors are of Python alone, see _Roomy.
_ROOMY = frozenset(("cymysql", "pg8000"))
# Drivers to whose cursor() a class may be given, as DictCursor is. To psycopg2's, too, but nothing
# can be put before that: its connections are made in C.
_CLASS_GIVEN = frozenset(("psycopg2cffi", "pymysql", "mysqldb", "aiomysql", "asyncmy"))
# Drivers of PostgreSQL that are locked by the session alone, as their BEGIN can't be READ ONLY.
_BY_SESSION = frozenset(("psycopg2cffi", "pg8000"))
# The attribute of a cursor that holds its connection, where "connection" warns of itself.
_HOLDERS = {"pg8000": "_c"}

# Texts that an application's "reset" listener may send by a raw cursor, and that pass unexamined.
# They set the session's default back to that of the start-up packet. Where no lock was in that, the
# driver's attribute still holds, or the next statement is refused; the check-in locks again.
_RESETS = ("RESET ALL", "DISCARD ALL", "DISCARD TEMP")

# What pg8000's dialect sends for an isolation level, also before the check-in locks again.
_CHARACTERISTICS = re.compile(r"SET SESSION CHARACTERISTICS AS TRANSACTION [A-Z ]+")

SHUT = (True, False)
"""What the lock of a cursor of PostgreSQL reads while each statement is in a READ ONLY transaction:
the attribute of :data:`.dialects.ATTRIBUTES`, and autocommit."""

# Names that drivers have for the text in execute(), where it is not "query".
_TEXTS = ("operation", "sql", "statement")

_DO_EXECUTE = DefaultDialect.do_execute  # taken at import, before a tool for tracing patches it


def guard_cursors(dialect: Any, dbapi_connection: Any) -> None:
    """Have what is sent through cursors of a connection examined, where the driver has a way to."""
    if dialect._sa_readonly_family == "sqlite":
        sqlite.settle(dialect, dbapi_connection)
        return
    _change_cursors(dialect, dbapi_connection, notes=False)


def note_cursors(dialect: Any, dbapi_connection: Any) -> None:
    """Have what is sent through cursors of a new connection examined and noted, in a rehearsal."""
    if dialect._sa_readonly_family != "sqlite":
        writer = getattr(dialect, "_sa_readonly_writer", dialect)
        _change_cursors(writer, dbapi_connection, notes=True)


def noting_start(dialect: Any, cparams: dict[str, Any]) -> dict[str, Any]:
    """Return a driver's arguments for such a connection: SQLite's is made in a class that notes."""
    if dialect.driver != "pysqlite":
        return cparams
    known = dialect.__dict__
    if "_sa_readonly_noting" not in known:
        writer = getattr(dialect, "_sa_readonly_writer", dialect)
        made, cursor = sqlite.noting(dialect.loaded_dbapi, writer)
        known["_sa_readonly_noting"] = made
        _note_straight(writer, cursor, dialect.loaded_dbapi.Cursor)
    return {"factory": known["_sa_readonly_noting"], **cparams}


def _change_cursors(dialect: Any, dbapi_connection: Any, *, notes: bool) -> None:
    driver_connection = dialect.get_driver_connection(dbapi_connection)
    # A proxy's __class__, as of a tool for tracing, is that of the connection behind it.
    if dialect.driver in ADAPTED:
        dbapi_connection.__class__ = _making(type(dbapi_connection), dialect, notes=notes)
    if dialect.driver in _MADE_BY_METHOD:
        made = _making(driver_connection.__class__, dialect, notes=notes)
        shared.put_on(driver_connection, "__class__", made)
    for name in _CLASSES.get(dialect.driver, ()):
        # psycopg2's is None by default, also where cursor() makes one of another class.
        base = getattr(driver_connection, name) or driver_connection.cursor().__class__
        shared.put_on(driver_connection, name, _examining(base, dialect, notes=notes))
    if dialect.driver in _CLASS_GIVEN:
        made = _taking(driver_connection.__class__, dialect, notes=notes)
        shared.put_on(driver_connection, "__class__", made)


# -- classes ---------------------------------------------------------------------------------


def _examining(base: type[Any], dialect: Any, *, notes: bool) -> type[Any]:
    """Return the subclass of a driver's cursors that examines; each dialect has its own.

    :param notes: whether it notes what it finds, in a rehearsal, and refuses nothing.
    """
    known = _classes(dialect, notes=notes)
    if issubclass(base, _Cursor):
        return base
    if base not in known:
        adapted, attribute = dialect.driver in ADAPTED, ATTRIBUTES.get(dialect.driver)
        holder = privates.CONNECTION_OF_ADAPTED_CURSOR if adapted else "connection"
        holder = _HOLDERS.get(dialect.driver, holder)
        body = {
            "__slots__": (),
            "__module__": base.__module__,  # by which libraries tell a driver
            "_sa_readonly": dialect,
            "_sa_readonly_notes": notes,
            "_sa_readonly_plain": plain_types(dialect),
            "_sa_readonly_connection": attrgetter(holder),
            "_sa_readonly_lock": attribute
            and attrgetter(f"{holder}.{attribute}", f"{holder}.autocommit"),
        }
        kind = _Streaming if getattr(base, "server_side", False) else _Cursor
        bases = (kind, base)
        if (adapted or dialect.driver in _ROOMY) and base.__dictoffset__:
            bases = (_Roomy, *bases)  # type: ignore[assignment]  # a third base
        made = known[base] = type(base.__name__, bases, body)
        if dialect.driver not in _BY_SESSION:
            _note_straight(dialect, made, base)
    return known[base]


def _note_straight(dialect: Any, made: type[Any], base: type[Any]) -> None:
    """Have do_execute() call the driver's own class where the dialect does no more than that."""
    # The dialect may have been released meanwhile, and have its own class again.
    theirs = getattr(type(dialect), "_sa_readonly_base", type(dialect))
    if theirs.do_execute is _DO_EXECUTE:
        dialect.__dict__.setdefault("_sa_readonly_straight", {})[made] = base


def _classes(dialect: Any, *, notes: bool) -> dict[type[Any], type[Any]]:
    """Return the classes that were made for a dialect, which shares all with its twin's."""
    kinds = dialect.__dict__.setdefault("_sa_readonly_classes", ({}, {}))
    return kinds[notes]  # type: ignore[no-any-return]  # untyped


def _making(base: type[Any], dialect: Any, *, notes: bool) -> type[Any]:
    """Return the subclass of connections, or of SQLAlchemy's adapters, whose cursors examine."""
    # A connection that MySQL's driver lends from its pool has the cursor() of the one behind it.
    theirs = getattr(base, "cursor", None) or (
        lambda self, *args, **kwargs: self.__getattr__("cursor")(*args, **kwargs)
    )

    def cursor(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = theirs(self, *args, **kwargs)
        if dialect.driver == "mysqlconnector":  # its cursors can't change their class
            given = {**kwargs, "cursor_class": _examining(type(made), dialect, notes=notes)}
            return theirs(self, **given)
        made.__class__ = _examining(type(made), dialect, notes=notes)
        return made

    return _with_cursor(base, cursor, _classes(dialect, notes=notes))


def _taking(base: type[Any], dialect: Any, *, notes: bool) -> type[Any]:
    """Return the subclass of a driver's connections that examines by a class that is given, too."""
    theirs: Any = base.cursor
    # No call more for each statement: these do nothing else where no class is given.
    is_short = theirs.__module__ in ("pymysql.connections", "MySQLdb.connections")

    def examining(given: Any) -> Any:
        is_class = isinstance(given, type)
        return _examining(given, dialect, notes=notes) if is_class else given

    def cursor(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            named = {name: examining(value) for name, value in kwargs.items()}
            return theirs(self, *map(examining, args), **named)
        return self.cursorclass(self) if is_short else theirs(self)

    return _with_cursor(base, cursor, _classes(dialect, notes=notes))


def _with_cursor(base: type[Any], cursor: Any, known: dict[type[Any], type[Any]]) -> type[Any]:
    """Return the subclass of connections that has this method, made once."""
    if base not in known:
        body = {
            "__slots__": (),
            "__module__": base.__module__,
            "cursor": cursor,
            "_sa_readonly_adapted": base,
        }
        known[base] = type(base.__name__, (base,), body)
    return known[base]


class _Cursor:
    """A cursor that examines what it is given; its methods are those of all drivers together."""

    __slots__ = ()
    _sa_readonly: Any  # the dialect
    _sa_readonly_notes: bool
    _sa_readonly_plain: frozenset[type[Any]] | None  # see dialects.plain_types()
    _sa_readonly_connection: Callable[[Any], Any]
    _sa_readonly_lock: Callable[[Any], Any] | None  # returns SHUT while the connection is locked

    def execute(self, query: Any = None, *args: Any, **kwargs: Any) -> Any:
        if query is None:
            return self.execute(_by_keyword(kwargs), **kwargs)
        ends = self._sa_readonly_examine(query, (args, kwargs))
        done = super().execute(query, *args, **kwargs)  # type: ignore[misc]  # the driver's
        return self._sa_readonly_end(done) if ends else done

    def executemany(self, query: Any = None, *args: Any, **kwargs: Any) -> Any:
        if query is None:
            return self.executemany(_by_keyword(kwargs), **kwargs)
        if self._sa_readonly_plain is not None:  # an iterator can be looked at but once
            args, kwargs = tuple(map(list, args)), {key: list(kwargs[key]) for key in kwargs}
        ends = self._sa_readonly_examine(query, (args, kwargs), many=True)
        done = super().executemany(query, *args, **kwargs)  # type: ignore[misc]
        return self._sa_readonly_end(done) if ends else done

    def stream(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._sa_readonly_examine(query, (args, kwargs))
        return super().stream(query, *args, **kwargs)  # type: ignore[misc]

    def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        # psycopg fills this text itself, whatever the class of the cursor.
        filling = self._sa_readonly.loaded_dbapi.ClientCursor(self._sa_readonly_connection(self))
        self._sa_readonly_examine(statement, (args, kwargs), filling=filling)
        return super().copy(statement, *args, **kwargs)  # type: ignore[misc]

    def copy_expert(self, sql: Any, *args: Any, **kwargs: Any) -> Any:
        ends = self._sa_readonly_examine(sql, ())
        done = super().copy_expert(sql, *args, **kwargs)  # type: ignore[misc]
        return self._sa_readonly_end(done) if ends else done

    def copy_from(self, *args: Any, **kwargs: Any) -> Any:
        self._sa_readonly_examine("COPY FROM STDIN", ())
        return super().copy_from(*args, **kwargs)  # type: ignore[misc]

    def callproc(self, procname: Any, *args: Any, **kwargs: Any) -> Any:
        dialect = self._sa_readonly
        selects = dialect._sa_readonly_family == "postgresql" and dialect.driver != "pg8000"
        verb = "SELECT" if selects else "CALL"
        values = (args[0] if args else kwargs.get("parameters")) or ()
        values = list(values.values() if isinstance(values, dict) else values)
        marks = ", ".join(["%s"] * len(values))
        self._sa_readonly_examine(f"{verb} {procname}({marks})", ((values,), {}))
        return super().callproc(procname, *args, **kwargs)  # type: ignore[misc]

    def _sa_readonly_examine(
        self, query: Any, parameters: Any, *, many: bool = False, filling: Any = None
    ) -> bool:
        """Refuse what would write; return whether the text ends the transaction unseen.

        :param filling: the cursor that tells how values are put into the text, if another one.
        """
        dialect = self._sa_readonly
        if self._sa_readonly_notes:  # whatever goes wrong, it is sent
            with contextlib.suppress(Exception):
                text = query if query.__class__ is str else text_of(query, self)
                dialect._sa_readonly_rehearse(self, text, parameters)
            return False
        text = query if query.__class__ is str else text_of(query, self)
        opened, plain = self._sa_readonly_opened(text), self._sa_readonly_plain
        renders = plain is not None and may_render(parameters, plain)
        if opened is None and not renders and (has_passed(dialect, text) or text in _RESETS):
            return False
        if not hasattr(dialect, "_sa_readonly_examine"):
            return False  # the selector is closed; the server has its locks until the check-in
        if opened is not None:
            raise dialect._sa_readonly_refusal(opened, text, kind="statement")
        dialect._sa_readonly_examine(text, parameters)
        texts = [text]
        if renders or dialect._sa_readonly_hides(text):
            args, kwargs = parameters or ((), {})
            for values in (*args, *kwargs.values()):
                several = isinstance(values, (list, tuple)) and many
                for one in values if several else [values]:
                    texts += self._sa_readonly_examine_filled(text, one, filling or self)
        return dialect.driver in BLIND and self._sa_readonly_ends(texts)

    def _sa_readonly_ends(self, texts: list[str]) -> bool:
        """Return whether one of these ends the transaction, and the driver does not notice it."""
        dialect = self._sa_readonly
        for text in texts:
            what = dialect._sa_readonly_ends(text)
            if what and dialect.driver in ("psycopg2", "asyncpg"):
                return True
            if what and self._sa_readonly_connection(self).pgconn.pipeline_status:
                what = f"{what} of a pipeline (call commit() or rollback() of the connection),"
                raise dialect._sa_readonly_refusal(what, text, kind="statement")
        return False

    def _sa_readonly_examine_filled(self, text: str, values: Any, filling: Any) -> Iterator[str]:
        """Examine a text in which a value may end a literal or comment, or be SQL; yield that."""
        dialect = self._sa_readonly
        mogrify = getattr(filling, "mogrify", None)
        if mogrify is not None:
            filled = text_of(mogrify(text, values), self)
            dialect._sa_readonly_examine(filled, ())
            yield filled
        elif dialect._sa_readonly_family in ("mysql", "mariadb") and may_hide(values):
            # Such a driver tells what it sends when it has sent it.
            raise dialect._sa_readonly_refusal(IN_QUOTES, text, kind="statement")

    def _sa_readonly_end(self, done: Any) -> Any:
        """Have the driver begin a transaction anew, as a text has ended the one it believes in."""
        connection = self._sa_readonly_connection(self)
        if not connection.autocommit:
            connection.rollback()
        return done

    def _sa_readonly_opened(self, text: str) -> str | None:
        """Return what is open of the locks of PostgreSQL, as words of a refusal, or None."""
        dialect = self._sa_readonly
        if self._sa_readonly_lock is not None:
            lock = read_only, autocommit = self._sa_readonly_lock(self)
            if lock == SHUT:
                return None
            if read_only is False:
                return "A transaction set to READ WRITE"
            if dialect._sa_readonly_pooler == "transaction":
                return poolers.unlocked(autocommit=autocommit)
        elif dialect.driver not in _BY_SESSION:
            return None
        # The driver's BEGIN is not READ ONLY, so the session decides. A function may have set it.
        if text in (locks.SET_DEFAULT, "COMMIT") or _CHARACTERISTICS.fullmatch(text):
            return None
        told = locks.reported(dialect, self._sa_readonly_connection(self))
        return "A session set to READ WRITE" if told == "off" else None


def _by_keyword(given: dict[str, Any]) -> Any:
    """Take the text out of arguments that are given by name."""
    for name in _TEXTS:
        if name in given:
            return given.pop(name)
    raise TypeError("execute() is to be given a text.")


class _Roomy:
    """Comes first of the bases where cursors have a dict.

    Python lets a cursor change its class only to one of the same layout.
    """


class _Streaming(_Cursor):
    """A server-side cursor of asyncpg's adapter, which lets pass what a fetch raises.

    SQLAlchemy translates what the driver raises in the other methods alone.
    """

    __slots__ = ()

    def fetchone(self) -> Any:
        with self._sa_readonly_translated():
            return super().fetchone()  # type: ignore[misc]  # the adapter's

    def fetchmany(self, size: int | None = None) -> Any:
        with self._sa_readonly_translated():
            return super().fetchmany(size=size)  # type: ignore[misc]

    def fetchall(self) -> Any:
        with self._sa_readonly_translated():
            return super().fetchall()  # type: ignore[misc]

    @contextlib.contextmanager
    def _sa_readonly_translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            refusal = getattr(self._sa_readonly, "_sa_readonly_refusal", None)
            if refusal is not None and locks.is_refusal(error):
                raise refusal("The statement", kind="server") from error
            raise
