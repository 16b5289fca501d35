"""One dialect for connections of both kinds: it asks of each which one it is, and has that done.

An engine by URL gives out read-write and read-only connections by the mode, and SQLAlchemy has one
dialect for all of them: an engine's is asked to begin and to commit, a connection's to execute, and
a clone's is the same. So it does nothing by itself. Behind it stand the dialects of a read-write
and of a read-only engine, as a selector has them, to which each connection is of one kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import privates
from .answers import GatedContext, ReadOnlyContext
from .guard import Connecting, ReadOnly

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from sqlalchemy.engine import Connection

    from ..errors import ReadOnlyError

__all__ = ["ByKind", "ByKindContext", "ByKindOfLevel"]


class ByKind(Connecting):
    """The dialect of an engine by URL. All three of them share what they know."""

    _sa_readonly_readers: MutableMapping[object, Any]  # by identity, the read-only connections
    _sa_readonly_reader: Any  # the dialect of these
    _sa_readonly_writer: Any  # the dialect of all others

    def _sa_readonly_of(self, connection: object) -> Any:
        """Return the dialect of a connection, given as the driver's or as the pool's."""
        if id(getattr(connection, "dbapi_connection", connection)) in self._sa_readonly_readers:
            return self._sa_readonly_reader
        return self._sa_readonly_writing()

    def _sa_readonly_writing(self) -> Any:
        return self._sa_readonly_writer

    def _sa_readonly_in(self, context: Any) -> Any:
        # Without a context nothing of SQLAlchemy's executes. On a read-only connection the cursor
        # examines, or the server does.
        if context is None or not self._sa_readonly_readers:
            return self._sa_readonly_writing()
        return self._sa_readonly_of(privates.on_connection_of(context))

    def do_begin(self, dbapi_connection: Any) -> None:
        self._sa_readonly_of(dbapi_connection).do_begin(dbapi_connection)

    def do_commit(self, dbapi_connection: Any) -> None:
        self._sa_readonly_of(dbapi_connection).do_commit(dbapi_connection)

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        self._sa_readonly_in(context).do_execute(cursor, statement, parameters, context)

    def do_executemany(
        self, cursor: Any, statement: str, parameters: Any, context: Any = None
    ) -> None:
        self._sa_readonly_in(context).do_executemany(cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        self._sa_readonly_in(context).do_execute_no_params(cursor, statement, context)

    def set_readonly(self, connection: Any, value: bool) -> None:
        self._sa_readonly_of(connection).set_readonly(connection, value)

    def do_begin_twophase(self, connection: Connection, xid: Any) -> None:
        self._sa_readonly_of(connection.connection).do_begin_twophase(connection, xid)

    def do_prepare_twophase(self, connection: Connection, xid: Any) -> None:
        self._sa_readonly_of(connection.connection).do_prepare_twophase(connection, xid)

    def do_rollback_twophase(self, connection: Connection, *args: Any, **kwargs: Any) -> None:
        face = self._sa_readonly_of(connection.connection)
        face.do_rollback_twophase(connection, *args, **kwargs)

    def do_commit_twophase(self, connection: Connection, *args: Any, **kwargs: Any) -> None:
        face = self._sa_readonly_of(connection.connection)
        face.do_commit_twophase(connection, *args, **kwargs)

    def _sa_readonly_refusal(self, *args: Any, **kwargs: Any) -> ReadOnlyError:
        return self._sa_readonly_reader._sa_readonly_refusal(*args, **kwargs)  # type: ignore[no-any-return]  # untyped


class ByKindOfLevel(ByKind):
    """That of a connection which is under AUTOCOMMIT while the rest is not, or the other way."""

    def _sa_readonly_writing(self) -> Any:
        writer = self._sa_readonly_writer
        return vars(self)["_sa_readonly_kin"].get(writer, writer)


class ByKindContext(GatedContext):
    """Raises the server's refusal as ours: as the second lock's on the read-only connections."""

    def handle_dbapi_exception(self, e: BaseException) -> None:
        dialect: Any = self.dialect
        if isinstance(dialect._sa_readonly_of(privates.on_connection_of(self)), ReadOnly):
            ReadOnlyContext.handle_dbapi_exception(self, e)
        else:
            super().handle_dbapi_exception(e)
