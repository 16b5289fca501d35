"""The session that takes the mode once a transaction and keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, SessionTransaction

from .checks import check_role
from .engines import guard, privates
from .engines.handover import ROLES
from .engines.rehearsing import FLUSH, REFUSED, SERVED, refuse, rehearses
from .errors import ConfigurationError, ReadOnlyError
from .hold.engine import verb
from .holding import PIN, has_changed, reads_elsewhere
from .mode import Mode, clock
from .refusing import RefusingSession
from .rehearsal.callsite import bear, mark
from .selector import EngineSelector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Mapper
    from sqlalchemy.orm.unitofwork import UOWTransaction

__all__ = ["RoutingSession"]

_READ_ONLY = Mode.READ_ONLY  # a member of an enum is slow to look up in Python 3.11

# Kept on a root transaction, so that it ends with that however it ends: for each switch the mode,
# and for each selector the engine that was found by it, with the mode.
_Pin = dict[Any, Any]
_NOTHING: _Pin = {}


class RoutingSession(RefusingSession):
    """A Session that takes selectors as its binds.

    The mode is taken when the root transaction gets its first connection and kept until that
    transaction ends, savepoints included; one mode for all selectors that have the same switch. In
    a read-only transaction a write raises :class:`.ReadOnlyError` before any SQL is sent.

    All other arguments are those of :class:`sqlalchemy.orm.Session`. A class of your own derives
    from it, or from it and your own Session class::

        selector = EngineSelector("read-only.txt", read_write=primary, read_only=replica)
        Session = sessionmaker(selector, class_=RoutingSession)

        with Session.begin() as session:  # on either engine, by the mode of now
            session.add(Order(amount=3))  # while read-only the flush raises ReadOnlyError

    :param role: ``"primary"`` or ``"replica"``. A transaction of the role ``"replica"`` never
        writes, in either mode.
    :param hold: seconds for which a transaction may wait for read-write, in all, if its first
        statement or flush would be refused. None refuses at once.
    :raises ConfigurationError: if there is no such role, or if ``hold`` is no number of seconds or
        needs :class:`.EngineSelector`'s ``max_held``.
    """

    _role = "primary"
    # The engine that get_bind() chose last, what to pin when it connects, and the selector that it
    # was chosen by (None for an engine that the user gave).
    _choice: tuple[Engine, _Pin, EngineSelector | None] | None = None
    # The selector if it is the only bind, so that Session.get_bind() need not be called.
    _only: EngineSelector | None = None
    # The AsyncSession of this session, and the AsyncEngines of a selector that it knows.
    _async_session: Callable[[], Any]
    _told_of: Mapping[Engine, Any] | None = None
    # Whether the methods that are cut short here are Session's own and not overridden.
    _cuts_short = True

    def __init__(
        self,
        bind: Any = None,
        *,
        binds: dict[Any, Any] | None = None,
        role: str = "primary",
        hold: float | None = None,
        **kwargs: Any,
    ) -> None:
        if role != "primary":
            check_role(role)
            self._role = role
        super().__init__(bind=bind, binds=binds, **kwargs)
        if bind.__class__ is EngineSelector and self._cuts_short and not binds:
            self._only = bind
            if bind.is_async and bind._notebook.on:
                bear()
        if hold is not None:
            self._begin_holding(hold, (bind, *(binds or {}).values()))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._cuts_short = all(
            [base for base in cls.__mro__ if name in vars(base)] == [RoutingSession, Session]
            for name in ("get_bind", "_connection_for_bind")
        )

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
            selector = self._ask_session(mapper, clause, bind, kw)
            if not isinstance(selector, EngineSelector):
                self._check_given(selector, clause)
                return selector  # type: ignore[no-any-return]  # a bind of the application's own
        pin = getattr(self.get_transaction(), PIN, _NOTHING)
        if pin is not _NOTHING:
            engine, mode = pin[selector] if selector in pin else self._choose(selector, pin)
        elif selector.direct and self._hold is None:
            # What _choose() does, in fewer steps: each transaction comes by here.
            switch = selector.switch
            mode = (switch.known if clock() < switch.fresh_until else selector.refresh()).mode
            if (server := selector.server) is not None and server.known.mode is _READ_ONLY:
                engine, mode = self._choose(selector, pin)
            else:
                engine = selector.routes[self._role][mode]
                self._choice = (engine, {switch: mode, selector: (engine, mode)}, selector)
        else:
            engine, mode = self._choose(selector, pin)
            holds = self._hold is not None or selector.held.serves_requests
            if holds and self._may_be_held():
                self._asked = clause  # it is held, or refused, as it connects
                return engine
        if (mode is _READ_ONLY or self._role != "primary") and getattr(clause, "is_dml", False):
            self._refuse(engine, verb(clause), "statement")
        return engine

    # Not a part of get_bind(): a function in which another one is made is slower, made or not.
    def _ask_session(self, mapper: Any, clause: Any, bind: Any, kw: dict[str, Any]) -> Any:
        """Return what Session.get_bind(), or that of a class behind this one, finds."""
        # Such a class may know fewer arguments than SQLAlchemy's own: what was given is passed on,
        # and nothing else.
        given = {"mapper": mapper, "clause": clause, "bind": bind}
        kw.update({name: given[name] for name in given if given[name] is not None})
        return super().get_bind(**kw)

    def connection(
        self,
        bind_arguments: Any = None,
        execution_options: Any = None,
    ) -> Connection:
        """See :meth:`.Session.connection`.

        :raises ReadOnlyError: if the bind is a read-write engine while the transaction is
            read-only.
        """
        bind = bind_arguments.get("bind") if bind_arguments else None
        self._asked = None
        if bind is not None:
            # Session.connection() does not ask get_bind() about a bind that it is given.
            if isinstance(bind, EngineSelector):
                pin = getattr(self.get_transaction(), PIN, _NOTHING)
                bind = (pin[bind] if bind in pin else self._choose(bind, pin))[0]
            else:
                self._check_given(bind, None)
            bind_arguments = {**bind_arguments, "bind": bind}
        return super().connection(bind_arguments, execution_options)

    def _choose(
        self, selector: EngineSelector, pin: _Pin, mode: Mode | None = None
    ) -> tuple[Engine, Mode]:
        """Choose the engine of a selector that the transaction has no connection of yet.

        :param pin: what is pinned to the transaction.
        :param mode: the mode to choose by; None takes the one of now. It is pinned when the engine
            gives its connection.
        """
        if selector.is_async:
            self._meet_async_session(selector)
        switch = selector.switch
        if switch in pin:  # by another selector, which decided for both
            mode = pin[switch]
            if selector.server is not None and selector.server.known.mode is _READ_ONLY:
                mode = _READ_ONLY  # the other one's server takes writes, and this one's none
            found = pin[selector] = (selector.routes[self._role][mode], mode)
            return found
        if mode is None:
            mode = (switch.known if clock() < switch.fresh_until else selector.refresh()).mode
        told, server = mode, selector.server
        if server is not None and server.known.mode is _READ_ONLY:  # others go by the switch alone
            told, mode = switch.known.mode, _READ_ONLY
        engine = selector.routes[self._role][mode]
        self._choice = (engine, {switch: told, selector: (engine, mode)}, selector)
        return engine, mode

    def _meet_async_session(self, selector: EngineSelector) -> None:
        """Have the AsyncSession of this session know the AsyncEngines, and hear of its role."""
        if self._told_of is not selector._engines:
            self._told_of = selector._engines
            self._async_session = privates.tell_async_engines(self, selector._engines.values())
        found = self._async_session()
        role = None if found is None else vars(found).get("role")
        if role != self._role and role in ROLES:
            raise ConfigurationError(
                f"AsyncSession.role was set to {role!r}, which reaches no session: it is of the "
                f"role {self._role!r}. Set session.sync_session.role, or give role={role!r} to it."
            )

    def _check_given(self, bind: Engine | Connection, clause: Any) -> None:
        """Hold an engine or connection that the user gave to the mode of the transaction."""
        engine = bind.engine
        gates = guard.gates(engine)
        begun = isinstance(bind, Connection) and bind.in_transaction()
        pin = getattr(self.get_transaction(), PIN, _NOTHING)
        modes: _Pin = {}
        for switch in gates or guard.told(engine):
            if switch in pin:
                modes[switch] = pin[switch]
            elif gates and begun:  # before this session came to it: it may go on
                modes[switch] = Mode.READ_WRITE
            else:
                modes[switch] = guard.refresh(engine, switch).mode
        what = "The use of a read-write engine"
        if gates and (_READ_ONLY in modes.values() or reads_elsewhere(pin, engine)):
            raise guard.refused(engine, what, "transaction", began=True)
        if gates and self._role != "primary" and not guard.read_only(engine):
            raise guard.refused(engine, what, "transaction", self._role)
        if modes:
            if gates and not begun and pin is _NOTHING and rehearses(engine):
                refuse(engine, what, "transaction", self._role, kept=self._kept(modes))
            self._choice = (engine, modes, None)
        if getattr(clause, "is_dml", False):
            self._refuse(bind, verb(clause), "statement")

    def _connection_for_bind(  # type: ignore[override]  # no caller gives the other keywords
        self,
        engine: Engine | Connection,
        execution_options: Any = None,
    ) -> Connection:
        """Return the connection of a statement, which need not be of the engine that was chosen.

        If a flip took the engine away before it connected, the read-only one takes its place. The
        connections of a flush are got in another way: a flush is refused.
        """
        choice = self._choice
        if choice is None and self._cuts_short and not execution_options:
            connection = privates.connected(self, engine)
            if connection is not None:
                return connection
        if self._asked is not None or (choice and choice[2] and choice[2].held.serves_requests):
            held = self._connect_while_held(engine, execution_options)
            if held is not None:
                return held
        try:
            return super()._connection_for_bind(engine, execution_options)
        except ReadOnlyError as error:
            chosen, pin, selector = self._choice or (None, {}, None)
            if chosen is not engine or selector is None or pin[selector][1] is _READ_ONLY:
                raise
            guard.was_served(chosen, error)
            engine, _ = self._choose(selector, _NOTHING, _READ_ONLY)
        return super()._connection_for_bind(engine, execution_options)

    # Not a part of the one above, for the same reason.
    def _connect_while_held(
        self, engine: Engine | Connection, execution_options: Any
    ) -> Connection | None:
        connect = super()._connection_for_bind
        return self._connect_held(engine, lambda chosen: connect(chosen, execution_options))


# What a rehearsal goes by: which connections a session was given, and what a flush sends.
mark(RoutingSession._connection_for_bind, SERVED)
for _method in ("flush", "bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"):
    mark(
        getattr(Session, _method),
        FLUSH,
        lambda frame: isinstance(frame.f_locals.get("self"), RoutingSession),
    )


# -- listeners -------------------------------------------------------------------------------


# Inserted before the application's own listeners: one that calls session.get_bind() replaces
# session._choice, by which this connection was got.
@event.listens_for(RoutingSession, "after_begin", propagate=True, insert=True)
def _pin_mode(
    session: RoutingSession, transaction: SessionTransaction, connection: Connection
) -> None:
    """Pin the mode by which the root transaction got a connection."""
    if transaction.nested:  # a savepoint: its root has this connection, and has pinned its mode
        return
    connection._sa_readonly_role = session._role  # type: ignore[attr-defined]  # an error tells it
    choice, session._choice = session._choice, None
    engine = connection.engine
    chosen = choice[1] if choice is not None and choice[0] is engine else _modes_of(engine)
    # By no vars(), as elsewhere: after it each attribute is found by its name, which is slower.
    pin = getattr(transaction, PIN, None)
    if pin is None:
        transaction._sa_readonly_pin = pin = chosen  # type: ignore[attr-defined]  # this package adds it
        if session._has_noted and hasattr(transaction, REFUSED):  # a flush, before it had connected
            chosen[REFUSED] = True
    else:  # this is the connection of a second engine
        for key, value in chosen.items():
            pin.setdefault(key, value)
    connection._sa_readonly_pin = pin  # type: ignore[attr-defined]  # for an error


def _modes_of(engine: Engine) -> _Pin:
    """Return the mode by which an engine began that a get_bind() of the user's own has chosen."""
    # A read-write engine begins nothing while read-only.
    modes = dict.fromkeys(guard.gates(engine), Mode.READ_WRITE)
    return modes or {switch: switch.known.mode for switch in guard.told(engine)}


@event.listens_for(RoutingSession, "before_flush", propagate=True)
def _refuse_flush(
    session: RoutingSession,
    flush_context: UOWTransaction,
    instances: Sequence[object] | None,
) -> None:
    """Refuse a flush that would write, before it begins."""
    holds = session._hold is not None or (session._only and session._only.held.serves_requests)
    held = holds and session._may_be_held()
    if not held and session._only is not None and not session._refuses(session.get_bind()):
        return
    binds: dict[Mapper[Any], Engine | Connection] = {}
    for what, objects in (
        ("INSERT", session.new),
        ("UPDATE", session.dirty),
        ("DELETE", session.deleted),
    ):
        for one in objects:
            mapper = inspect(one).mapper
            base = mapper.base_mapper  # by which a flush asks
            if session.connection_callable is not None:
                bind = session.get_bind(base, instance=one)  # a ShardedSession asks so, too
            elif base in binds and not held:  # what is held connects by what was chosen last
                bind = binds[base]
            else:
                bind = binds[base] = session.get_bind(base)
            if (held or session._refuses(bind)) and (what != "UPDATE" or has_changed(one)):
                told = f"The flush of {what} for {mapper.class_.__name__}"
                if held and session._connect_for_flush(bind, told):
                    _refuse_flush(session, flush_context, instances)  # by what is pinned now
                    return
                if not held or session._refuses(bind):  # else it is an engine that is not guarded
                    session._refuse(bind, told)
                    return  # of a rehearsal
