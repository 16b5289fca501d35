"""A connection of Core that connects by its first statement, as a session does.

Until it connects, SQLAlchemy's own code begins and ends its transactions, which sends nothing. Then
it becomes an ordinary connection, in which they begin once more: all that has a reference to it, or
to them, goes on with the same objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.engine import Connection, TwoPhaseTransaction
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.engine.util import TransactionalContext

from . import inspect_by

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Engine
    from sqlalchemy.engine import RootTransaction

__all__ = ["DDL", "InPlaceEngine", "LateEngine", "Later", "Sent"]

# What a connection has once it has connected, if only to be closed.
_MISSING = {
    "_Connection__can_reconnect": False,
    "_Connection__savepoint_seq": 0,
    "_dbapi_connection": None,
    "_echo": False,
}


class Sent(NamedTuple):
    """A text for the driver, and its parameters."""

    text: str
    parameters: Any


DDL = Sent("DDL", ())
"""What comes first of ``metadata.create_all()``: that it looks first is a part of it."""


class LateEngine(OptionEngine):
    """A clone of an engine, as by ``execution_options()``, whose connections connect late.

    :param engine: the engine, or a clone of this kind.
    :param connect: is called by ``connect()`` with this one.
    """

    def __init__(
        self,
        engine: Engine,
        options: Mapping[str, Any],
        connect: Callable[[LateEngine], Connection],
    ) -> None:
        late = engine if isinstance(engine, LateEngine) else None
        self.sa_readonly_of: Engine = late.sa_readonly_of if late else engine
        """The engine of which this is a clone."""
        self.sa_readonly_options: dict[str, Any] = {**late.sa_readonly_options} if late else {}
        """The execution options that it has beside those of that engine."""
        self._sa_readonly_connect = connect
        super().__init__(engine, options)

    def connect(self) -> Connection:
        return self._sa_readonly_connect(self)

    def update_execution_options(self, **options: Any) -> None:
        super().update_execution_options(**options)
        self.sa_readonly_options.update(options)

    def execution_options(self, **options: Any) -> Any:
        return LateEngine(self, options, self._sa_readonly_connect)


class InPlaceEngine(OptionEngine):
    """A clone of an engine that connects in the place of a late one, and equals that.

    A session looks its connection up by that connection's engine: of another one than it asked, it
    would find none, and take a new connection for each statement.
    """

    def __init__(self, engine: Engine, late: LateEngine) -> None:
        super().__init__(engine, late.sa_readonly_options)
        self._sa_readonly_late = late

    def __eq__(self, other: object) -> bool:
        late = self._sa_readonly_late
        return late is (other._sa_readonly_late if isinstance(other, InPlaceEngine) else other)

    def __hash__(self) -> int:
        return hash(self._sa_readonly_late)


def _inspect(engine: LateEngine) -> Inspector:
    """Return an inspector of the engine for the mode now, as only that may know its server."""
    return Inspector._construct(Inspector._init_engine, engine.connect().engine)


inspect_by(LateEngine, _inspect)


class Later(Connection):
    """A connection that has none of the driver's until it is told what for.

    Its methods may be called as well once it has connected: an application may have taken them
    before, as ``stack.callback(connection.close)`` does.

    :param engine: the engine that it is of until then.
    :param connect: is given this and what comes first, an element of SQL or a :class:`Sent`; None
        tells nothing, as where the driver's connection is asked for. It calls
        :meth:`sa_readonly_connect`.
    """

    def __init__(self, engine: Engine, connect: Callable[[Later, Any], None]) -> None:
        # Not SQLAlchemy's own, which connects. What is missing here is there once it has connected.
        self.engine = engine
        self.dialect = engine.dialect
        self._execution_options = engine.get_execution_options()
        self._transaction = self._nested_transaction = None
        self._allow_autobegin = True
        vars(self)["_Connection__in_begin"] = False
        self._sa_readonly_options: list[dict[str, Any]] = []  # that it is given until then
        self._sa_readonly_connect = connect
        self.sa_readonly_kept: Any = None
        """What ``connect`` keeps for the transaction that has begun here."""

    def __getattr__(self, name: str) -> Any:
        """Connect, as an attribute is asked for that a connection has from then on."""
        if name not in _MISSING:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(_connected(self, None), name)

    # -- what comes first ----------------------------------------------------------------

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        return _connected(self, _asked(statement)).execute(statement, *args, **kwargs)

    def scalar(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        return _connected(self, _asked(statement)).scalar(statement, *args, **kwargs)

    def scalars(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        return _connected(self, _asked(statement)).scalars(statement, *args, **kwargs)

    def exec_driver_sql(
        self, statement: str, parameters: Any = None, execution_options: Any = None
    ) -> Any:
        made = _connected(self, Sent(statement, parameters))
        return made.exec_driver_sql(statement, parameters, execution_options)

    def _run_ddl_visitor(self, *args: Any, **kwargs: Any) -> None:
        _connected(self, DDL)._run_ddl_visitor(*args, **kwargs)

    def _prepare_twophase_impl(self, xid: Any) -> None:
        _connected(self, None)._prepare_twophase_impl(xid)

    def execution_options(self, **options: Any) -> Any:
        if not _is_late(self):
            return Connection.execution_options(self, **options)
        dialect: Any = self.dialect
        known = dialect.connection_characteristics
        if self.in_transaction() and any(known[one].transactional for one in {*options} & {*known}):
            dialect.set_connection_execution_options(self, options)  # which refuses them now
        self._sa_readonly_options.append(options)
        self._execution_options = self._execution_options.union(options)
        return self

    # -- as it connects ------------------------------------------------------------------

    def sa_readonly_connect(self, engine: Engine, *, autobegin: bool) -> None:
        """Become an ordinary connection of an engine, in which all begins that has begun here.

        :param autobegin: whether a statement comes next. Its transaction begins here: a flip before
            that is seen by the one that can try again.
        """
        before, root, one = dict(vars(self)), self._transaction, self._nested_transaction
        nested: list[Any] = []
        while one is not None:
            nested.insert(0, one)
            one = one._previous_nested
        self.__class__ = Connection  # type: ignore[assignment]  # of which this is a subclass
        try:
            Connection.__init__(self, engine)
            if "_has_events" in before:  # SQLAlchemy 2.0 sets it anew
                self._has_events = True
            for options in before["_sa_readonly_options"]:
                self.execution_options(**options)
            if root is None:
                if autobegin and self._transaction is None:
                    self.begin()
            elif self._transaction is not None:  # of a listener, which has executed something
                self.begin()  # which raises
            else:
                xid = (root.xid,) if isinstance(root, TwoPhaseTransaction) else ()
                type(root).__init__(root, self, *xid)
            for one in nested:
                type(one).__init__(one, self)
        except BaseException:
            self._transaction = self._nested_transaction = None
            try:
                if "_dbapi_connection" in vars(self):
                    self.close()
            finally:
                vars(self).clear()
                vars(self).update(before)
                self.__class__ = Later
            raise
        Later._sa_readonly_forget(self)

    def _sa_readonly_forget(self) -> None:
        del self._sa_readonly_connect, self._sa_readonly_options, self.sa_readonly_kept

    # -- transactions, which send nothing before it connects -----------------------------

    def _begin_impl(self, transaction: RootTransaction) -> None:
        pass

    def _begin_twophase_impl(self, transaction: RootTransaction) -> None:
        pass

    def _savepoint_impl(self, name: str | None = None) -> str:
        return ""  # it has a name once it is begun

    def _release_savepoint_impl(self, name: str) -> None:
        pass

    def _rollback_to_savepoint_impl(self, name: str) -> None:
        pass

    def _commit_impl(self) -> None:
        self.sa_readonly_kept = None

    def _rollback_impl(self) -> None:
        self.sa_readonly_kept = None

    def _commit_twophase_impl(self, xid: Any, is_prepared: bool) -> None:
        self.sa_readonly_kept = None

    def _rollback_twophase_impl(self, xid: Any, is_prepared: bool) -> None:
        self.sa_readonly_kept = None

    def close(self) -> None:
        if not _is_late(self):
            Connection.close(self)
            return
        if self._transaction is not None:
            self._transaction.close()
        vars(self).update(_MISSING, _has_events=False)
        self._sa_readonly_forget()
        self.__class__ = Connection  # type: ignore[assignment]  # one that is closed

    @property
    def closed(self) -> bool:
        return False

    @property
    def invalidated(self) -> bool:
        return False


def _is_late(connection: Connection) -> bool:
    return isinstance(connection, Later)


def _connected(connection: Connection, asked: Any) -> Any:
    """Connect for what comes first, if it has not connected, and return the connection."""
    if isinstance(connection, Later):
        TransactionalContext._trans_ctx_check(connection)
        try:
            connection._sa_readonly_connect(connection, asked)
        except Exception:
            # SQLAlchemy begins before it sends, so what fails has begun, until it is rolled back.
            if connection._transaction is None and asked is not None:
                connection.begin()
            raise
    return connection


def _asked(statement: Any) -> Any:
    """Return what comes first; what SQLAlchemy refuses to execute, as a string, tells nothing."""
    return statement if hasattr(statement, "_execute_on_connection") else None
