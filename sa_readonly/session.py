"""The session that takes the mode once a transaction and keeps it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.session import SessionTransactionState

from .engines import guard
from .errors import ConfigurationError, ReadOnlyError
from .mode import Mode
from .selector import EngineSelector, check_role

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.orm import Mapper
    from sqlalchemy.orm.unitofwork import UOWTransaction

__all__ = ["RoutingSession"]


class RoutingSession(Session):
    """A Session whose binds may be selectors.

    The mode is taken when the root transaction gets its first connection and kept until that
    transaction ends, savepoints included; one mode for all selectors that have the same switch. In
    a read-only transaction a write raises :class:`.ReadOnlyError` before any SQL is sent.

    All other arguments are those of :class:`sqlalchemy.orm.Session`. A class of your own derives
    from it, or from it and your own Session class.

    :param role: ``"primary"`` or ``"replica"``. A transaction of the role ``"replica"`` never
        writes, in either mode.
    :raises ConfigurationError: if there is no such role.
    """

    _choice: _Choice | None = None
    _only: Any = None  # the selector that is all there is to choose from: it saves asking for it
    _role = "primary"
    _asks_session = True  # whether nothing but Session.get_bind() stands behind ours
    _inits_session = True  # whether nothing but Session.__init__() does
    _connects_session = True  # whether nothing but Session._connection_for_bind() does

    def __init__(
        self,
        bind: Any = None,
        *,
        binds: dict[Any, Any] | None = None,
        autoflush: bool | None = None,
        expire_on_commit: bool | None = None,
        role: str = "primary",
        **kwargs: Any,
    ) -> None:
        if role != "primary":
            check_role(role)
            self._role = role
        if autoflush is None or expire_on_commit is None or kwargs or not self._inits_session:
            if autoflush is not None:
                kwargs["autoflush"] = autoflush
            if expire_on_commit is not None:
                kwargs["expire_on_commit"] = expire_on_commit
            super().__init__(bind=bind, binds=binds, **kwargs)
        else:  # what a sessionmaker gives: keywords that need no dict cost half
            Session.__init__(
                self, bind, binds=binds, autoflush=autoflush, expire_on_commit=expire_on_commit
            )
        if bind.__class__ is EngineSelector and self._asks_session and not binds:
            self._only = bind

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._asks_session = _defining(cls, "get_bind") == [RoutingSession, Session]
        cls._inits_session = _defining(cls, "__init__")[-3:-1] == [RoutingSession, Session]
        connecting = _defining(cls, "_connection_for_bind")
        cls._connects_session = connecting == [RoutingSession, Session]

    @property
    def role(self) -> str:
        """The role of the next transaction and of those after it.

        :raises InvalidRequestError: on setting it inside a transaction.
        :raises ConfigurationError: on setting it to what is no role.
        """
        return self._role

    @role.setter
    def role(self, role: str) -> None:
        check_role(role)
        if role != self._role and self.in_transaction():
            raise InvalidRequestError(
                f"The role of a transaction that has begun can't be changed to {role!r}. Commit or "
                "roll back first, or use another session."
            )
        self._role = role

    def bind_mapper(self, mapper: Any, bind: Any) -> None:
        """See :meth:`.Session.bind_mapper`."""
        self._only = None
        super().bind_mapper(mapper, bind)

    def bind_table(self, table: Any, bind: Any) -> None:
        """See :meth:`.Session.bind_table`."""
        self._only = None
        super().bind_table(table, bind)

    # -- choosing ------------------------------------------------------------------------

    def get_bind(
        self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **kw: Any
    ) -> Engine | Connection:
        """Return the engine or connection of one statement; see :meth:`.Session.get_bind`.

        A selector among the binds gives the engine of the transaction's mode.

        :raises ReadOnlyError: if ``clause`` is an INSERT, UPDATE or DELETE that must not run, or if
            the bind is a read-write engine while the transaction is read-only.
        """
        selector: Any = self._only
        if bind is not None or selector is None or selector is not self.bind:
            selector = super().get_bind(mapper, clause=clause, bind=bind, **kw)
            if not isinstance(selector, EngineSelector):
                self._check_given(selector, clause)
                return selector  # type: ignore[no-any-return]  # as it was given
        transaction: Any = self._transaction
        # Where nothing can be pinned nothing is tried: an exception costs more than all the rest.
        first = transaction is None or (
            not transaction._connections and transaction._parent is None
        )
        found = None
        if not first:
            try:
                found = transaction._sa_readonly_pin[selector]
            except (AttributeError, KeyError):
                found = self._find_pinned(selector)
        if found is not None:
            engine, mode = found
        else:
            switch = selector.switch
            known = time.monotonic() < switch.fresh_until
            mode = (switch.known if known else selector.refresh()).mode
            engine = selector.routes[self._role][mode]
            self._choice = (engine, {switch: mode, selector: (engine, mode)}, selector, first)
        if (mode is _READ_ONLY or self._role != "primary") and getattr(clause, "is_dml", False):
            self._refuse(engine, type(clause).__name__.upper(), "statement")
        return engine  # type: ignore[no-any-return]  # what is pinned is untyped

    def connection(
        self,
        bind_arguments: Any = None,
        execution_options: Any = None,
    ) -> Connection:
        """See :meth:`.Session.connection`.

        :raises ReadOnlyError: if the bind is a read-write engine while the transaction is
            read-only.
        """
        if bind_arguments and bind_arguments.get("bind") is not None:
            # Session.connection() takes it as it is.
            bind_arguments = {**bind_arguments, "bind": self.get_bind(**bind_arguments)}
        return super().connection(bind_arguments, execution_options)

    def _find_pinned(self, selector: EngineSelector) -> tuple[Engine, Mode] | None:
        """Find the engine by the mode that is pinned for the selector's switch."""
        pin = self._pinned()
        if selector.switch not in pin:
            return None
        mode = pin[selector.switch]
        found: tuple[Engine, Mode] = (selector.routes[self._role][mode], mode)
        return pin.setdefault(selector, found)  # type: ignore[no-any-return]  # of Any

    def _pinned(self) -> _Pin:
        """Return what is pinned to the root of the transaction that goes on."""
        transaction, root = self._transaction, self.get_transaction()
        if transaction is None or root is None:
            return {}
        pin: _Pin = getattr(root, "_sa_readonly_pin", {})
        # A savepoint's next statement finds it at once.
        transaction._sa_readonly_pin = pin  # type: ignore[attr-defined]  # ours
        return pin

    def _check_given(self, bind: Engine | Connection, clause: Any) -> None:
        """Hold an engine or connection that the user gave to the transaction's mode."""
        engine = bind.engine
        gates = guard.gates(engine)
        switches = gates or guard.told(engine)
        if switches:
            pinned = self._pinned()
            modes: _Pin = {}
            for switch in switches:
                if switch in pinned:
                    modes[switch] = pinned[switch]
                elif gates and isinstance(bind, Connection) and bind.in_transaction():
                    modes[switch] = Mode.READ_WRITE  # it was begun before; it may go on
                else:
                    modes[switch] = guard.refresh(engine, switch).mode
            if gates and Mode.READ_ONLY in modes.values():
                what = "The use of a read-write engine"
                raise guard.refused(engine, what, "transaction", began=True)
            self._choice = (engine, modes, None, False)
        if gates and self._role != "primary" and not guard.read_only(engine):
            what = "The use of a read-write engine"
            raise guard.refused(engine, what, "transaction", self._role)
        if getattr(clause, "is_dml", False):
            self._refuse(bind, type(clause).__name__.upper(), "statement")

    def _connection_for_bind(  # type: ignore[override]  # nobody gives the other keywords
        self,
        engine: Engine | Connection,
        execution_options: Any = None,
    ) -> Connection:
        """Give a statement the read-only engine if a flip came before its first connection.

        A flush does not come here: it gets the error, which the read-only engine would raise too.
        """
        connect = None
        if self._connects_session:
            # What Session's does where all is well, without its calls for where it is not.
            transaction: Any = self._transaction
            context = self._trans_context_manager
            if transaction is None:
                if context is None:
                    connect = self._autobegin_t()._connection_for_bind
            elif transaction._state is _ACTIVE and (context is None or context is transaction):
                if not execution_options and engine in transaction._connections:
                    return transaction._connections[engine][0]  # type: ignore[no-any-return]
                connect = transaction._connection_for_bind
        try:
            return (connect or super()._connection_for_bind)(engine, execution_options)
        except ReadOnlyError as error:
            choice = self._choice
            if choice is None or choice[0] is not engine:
                raise
            selector = choice[2]
            if selector is None or choice[1][selector.switch] is Mode.READ_ONLY:
                raise
            guard.was_served(engine, error)
        mode = Mode.READ_ONLY
        engine = selector.routes[self._role][mode]
        pin = {selector.switch: mode, selector: (engine, mode)}
        self._choice = (engine, pin, selector, choice[3])
        return super()._connection_for_bind(engine, execution_options)

    # -- refusing ------------------------------------------------------------------------

    def bulk_save_objects(self, objects: Iterable[object], *args: Any, **kwargs: Any) -> None:
        """See :meth:`.Session.bulk_save_objects`.

        :raises ReadOnlyError: if there is something to save in a read-only transaction.
        """
        objects = list(objects)
        for cls in {type(one) for one in objects}:
            self._refuse(self.get_bind(cls), f"bulk_save_objects() of {cls.__name__}")
        super().bulk_save_objects(objects, *args, **kwargs)

    def bulk_insert_mappings(
        self, mapper: Any, mappings: Iterable[dict[str, Any]], *args: Any, **kwargs: Any
    ) -> None:
        """See :meth:`.Session.bulk_insert_mappings`.

        :raises ReadOnlyError: if there is something to insert in a read-only transaction.
        """
        mappings = list(mappings)
        if mappings:
            self._refuse(self.get_bind(mapper), "bulk_insert_mappings()")
        super().bulk_insert_mappings(mapper, mappings, *args, **kwargs)

    def bulk_update_mappings(self, mapper: Any, mappings: Iterable[dict[str, Any]]) -> None:
        """See :meth:`.Session.bulk_update_mappings`.

        :raises ReadOnlyError: if there is something to update in a read-only transaction.
        """
        mappings = list(mappings)
        if mappings:
            self._refuse(self.get_bind(mapper), "bulk_update_mappings()")
        super().bulk_update_mappings(mapper, mappings)

    def _refuses(self, bind: Engine | Connection) -> bool:
        if isinstance(bind, EngineSelector):
            raise ConfigurationError(
                f"get_bind() of {type(self).__name__} gives an EngineSelector to SQLAlchemy: it "
                "stands before RoutingSession. Derive from RoutingSession first: "
                "class MySession(RoutingSession, TheirSession)."
            )
        if guard.read_only(bind.engine):
            return True
        # A database in memory has no second engine that could refuse for the role.
        return self._role != "primary" and bool(guard.gates(bind.engine))

    def _refuse(self, bind: Engine | Connection, what: str, kind: str = "flush") -> None:
        if self._refuses(bind):
            raise guard.refused(bind.engine, what, kind, self._role)


def _defining(cls: type, name: str) -> list[type]:
    return [base for base in cls.__mro__ if name in vars(base)]


# An attribute of a class of enum is slow, in Python 3.11.
_READ_ONLY = Mode.READ_ONLY
_ACTIVE = SessionTransactionState.ACTIVE
# What is pinned to a root transaction: the mode of each switch and, for each selector, the engine
# found by it with that mode. It is kept on the transaction itself: a session that held an ended one
# would be freed by the garbage collector alone.
_Pin = dict[Any, Any]
# The engine chosen last, what to pin, the selector (None where the user gave the engine), and
# whether it is known that nothing was pinned before.
_Choice = tuple[Engine, _Pin, EngineSelector | None, bool]


# The first of all listeners: another one may ask get_bind(), which chooses anew.
@event.listens_for(RoutingSession, "after_begin", propagate=True, insert=True)
def _take_mode(
    session: RoutingSession, transaction: SessionTransaction, connection: Connection
) -> None:
    """Pin the mode by which the root transaction got its connection."""
    if transaction.nested:
        return
    connection._sa_readonly_role = session._role  # type: ignore[attr-defined]  # ours, for an error
    choice, session._choice = session._choice, None
    if choice is None or choice[0] is not connection.engine:
        choice = _found_out(connection.engine)
    pin: _Pin | None = None if choice[3] else getattr(transaction, "_sa_readonly_pin", None)
    if pin is None:
        transaction._sa_readonly_pin = choice[1]  # type: ignore[attr-defined]  # ours
    else:  # a savepoint may have it too
        for key, value in choice[1].items():
            pin.setdefault(key, value)


def _found_out(engine: Engine) -> _Choice:
    """Return the choice that somebody else has made, as a get_bind() of the user's own."""
    modes = dict.fromkeys(guard.gates(engine), Mode.READ_WRITE)  # else it had not begun
    modes = modes or {switch: switch.known.mode for switch in guard.told(engine)}
    return engine, modes, None, False


@event.listens_for(RoutingSession, "before_flush", propagate=True)
def _refuse_flush(
    session: RoutingSession,
    flush_context: UOWTransaction,  # noqa: ARG001  # the event gives it
    instances: Sequence[object] | None,  # noqa: ARG001  # the same
) -> None:
    """Refuse a flush with a net change before it has begun."""
    if session._only is not None and not session._refuses(session.get_bind()):
        return
    binds: dict[Mapper[Any], Engine | Connection] = {}
    for what, objects in (
        ("INSERT", session.new),
        ("UPDATE", session.dirty),
        ("DELETE", session.deleted),
    ):
        for one in objects:
            mapper = inspect(one).mapper
            if session.connection_callable is not None:
                bind = session.get_bind(mapper, instance=one)  # a ShardedSession asks so, too
            elif mapper in binds:
                bind = binds[mapper]
            else:
                bind = binds[mapper] = session.get_bind(mapper)
            if what != "UPDATE" or _changed(one):
                session._refuse(bind, f"The flush of {what} for {mapper.class_.__name__}")


def _changed(one: object) -> bool:
    """True if a flush would write for this persistent object."""
    state: Any = inspect(one)  # typed otherwise in 2.0 and in 2.1
    if not state.modified:
        return False
    for attribute in state.mapper.attrs:
        if getattr(attribute, "viewonly", False) or attribute.key in state.unloaded:
            continue
        if state.attrs[attribute.key].history.has_changes():
            return True
    return False
