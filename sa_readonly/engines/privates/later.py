"""A connection of Core that connects by its first statement, as a session does.

Until it connects, SQLAlchemy's own code begins and ends its transactions, which send
nothing. Then it becomes an ordinary connection, in which they are begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.engine import Connection
from sqlalchemy.engine.util import TransactionalContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.engine import RootTransaction

__all__ = ["DDL", "Later", "Sent"]


class Sent(NamedTuple):
    """A text for the driver, and its parameters."""

    text: str
    parameters: Any


DDL = Sent("DDL", ())
"""What comes first of ``metadata.create_all()``: that it looks first is a part of it."""


class Later(Connection):
    """A connection that has none of the driver's until it is told what for.

    :param engine: the engine that it is of until then.
    :param connect: is given what comes first, an element of SQL or a :class:`Sent`; None tells
        nothing, as where the driver's connection is asked for. It returns what is made by calling
        :meth:`sa_readonly_made`.
    """

    def __init__(self, engine: Engine, connect: Callable[[Later, Any], Connection]) -> None:
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
        """Connect, as an attribute is asked for that an ordinary connection has."""
        if not name.startswith("_") or name.startswith(("__", "_sa_")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._sa_readonly_become(None), name)

    # -- what comes first ----------------------------------------------------------------

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        return self._sa_readonly_become(statement).execute(statement, *args, **kwargs)

    def scalar(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        return self._sa_readonly_become(statement).scalar(statement, *args, **kwargs)

    def scalars(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        return self._sa_readonly_become(statement).scalars(statement, *args, **kwargs)

    def exec_driver_sql(
        self, statement: str, parameters: Any = None, execution_options: Any = None
    ) -> Any:
        made = self._sa_readonly_become(Sent(statement, parameters))
        return made.exec_driver_sql(statement, parameters, execution_options)

    def _run_ddl_visitor(self, *args: Any, **kwargs: Any) -> None:
        self._sa_readonly_become(DDL)._run_ddl_visitor(*args, **kwargs)

    def execution_options(self, **options: Any) -> Any:
        self._sa_readonly_options.append(options)
        self._execution_options = self._execution_options.union(options)
        return self

    # -- as it connects ------------------------------------------------------------------

    def sa_readonly_made(self, engine: Engine) -> Connection:
        """Return a connection of an engine in which all is begun that has begun here."""
        made = engine.connect()
        try:
            for options in self._sa_readonly_options:
                made.execution_options(**options)
            if self._transaction is not None:
                if hasattr(self._transaction, "xid"):
                    made.begin_twophase(self._transaction.xid)
                else:
                    made.begin()
            one = self._nested_transaction
            while one is not None:
                made.begin_nested()
                one = one._previous_nested
        except BaseException:
            made.close()
            raise
        return made

    def _sa_readonly_become(self, asked: Any) -> Any:
        """Become the connection that is made for what comes first, and return this."""
        TransactionalContext._trans_ctx_check(self)
        try:
            made = self._sa_readonly_connect(self, asked)
        except Exception:
            # SQLAlchemy begins before it sends, so what fails has begun, until it is rolled back.
            if self._transaction is None and asked is not None:
                self.begin()
            raise
        begun, nested = self._transaction, self._nested_transaction
        mine, theirs = nested, made._nested_transaction
        while mine is not None and theirs is not None:
            mine._savepoint = theirs._savepoint
            mine, theirs = mine._previous_nested, theirs._previous_nested
        listened = vars(self).get("_has_events") and self.dispatch
        vars(self).update(vars(made))
        self._transaction, self._nested_transaction = begun, nested
        if listened:
            self.dispatch, self._has_events = listened._join(made.engine.dispatch), True
        del self._sa_readonly_connect, self._sa_readonly_options, self.sa_readonly_kept
        self.__class__ = type(made)  # type: ignore[assignment]  # of which this is a subclass
        return self

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
        if self._transaction is not None:
            self._transaction.close()
        closed = {"_dbapi_connection": None, "_Connection__can_reconnect": False}
        vars(self).update(closed, _has_events=False)
        self.__class__ = Connection  # type: ignore[assignment]  # one that is closed

    @property
    def closed(self) -> bool:
        return False

    @property
    def invalidated(self) -> bool:
        return False
