"""The part of a session that refuses a write before it begins, or notes it in a rehearsal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect

from .engines import guard, privates
from .engines.rehearsing import refuse
from .errors import ConfigurationError
from .holding import PIN, HoldingSession
from .mode import Mode
from .selector import EngineSelector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Engine

__all__ = ["RefusingSession"]

_READ_ONLY = Mode.READ_ONLY  # a member of an enum is slow to look up in Python 3.11


class RefusingSession(HoldingSession):
    """What a :class:`.RoutingSession` does where nothing may be written."""

    _only: EngineSelector | None
    # Whether a transaction may keep that something in it was refused, in a rehearsal.
    _has_noted = False

    def bulk_save_objects(self, objects: Iterable[object], *args: Any, **kwargs: Any) -> None:
        """See :meth:`.Session.bulk_save_objects`.

        :raises ReadOnlyError: if there is something to save in a read-only transaction.
        """
        objects = list(objects)
        for cls in {type(one) for one in objects}:
            self._refuse_bulk(cls, f"bulk_save_objects() of {cls.__name__}")
        super().bulk_save_objects(objects, *args, **kwargs)

    def bulk_insert_mappings(
        self, mapper: Any, mappings: Iterable[dict[str, Any]], *args: Any, **kwargs: Any
    ) -> None:
        """See :meth:`.Session.bulk_insert_mappings`.

        :raises ReadOnlyError: if there is something to insert in a read-only transaction.
        """
        mappings = list(mappings)
        if mappings:
            self._refuse_bulk(mapper, "bulk_insert_mappings()")
        super().bulk_insert_mappings(mapper, mappings, *args, **kwargs)

    def bulk_update_mappings(self, mapper: Any, mappings: Iterable[dict[str, Any]]) -> None:
        """See :meth:`.Session.bulk_update_mappings`.

        :raises ReadOnlyError: if there is something to update in a read-only transaction.
        """
        mappings = list(mappings)
        if mappings:
            self._refuse_bulk(mapper, "bulk_update_mappings()")
        super().bulk_update_mappings(mapper, mappings)

    def _refuse_bulk(self, entity: Any, what: str) -> None:
        """Refuse to save in bulk, before it begins: get_bind() is asked as it will be then."""
        mapper = getattr(inspect(entity, raiseerr=False), "mapper", None)
        # SQLAlchemy has errors of its own for what is not mapped, and for a ShardedSession.
        if mapper is not None and self.connection_callable is None:
            with privates.as_flushing(self):
                bind = self.get_bind(mapper.base_mapper)
            holds = self._hold is not None or (self._only and self._only.held.serves_requests)
            if holds and self._may_be_held():
                self._connect_for_flush(bind, what)
                bind = self.get_bind(mapper.base_mapper)
            self._refuse(bind, what)

    def _refuse(self, bind: Engine | Connection, what: str, kind: str = "flush") -> None:
        """Refuse a write if nothing may be written through a bind of this session."""
        if self._refuses(bind):
            pin = getattr(self.get_transaction(), PIN, None)
            if pin is None:  # nothing is connected: it counts what was chosen
                pin = self._choice[1] if self._choice else {}
            began = any(pin.get(switch) is _READ_ONLY for switch in guard.told(bind.engine))
            began |= (bind.engine, _READ_ONLY) in pin.values()
            refuse(bind.engine, what, kind, self._role, began=began, kept=self._kept(pin))

    def _kept(self, pin: dict[Any, Any]) -> Sequence[dict[Any, Any]]:
        """Return what the transaction keeps, and what is pinned to it, or will be."""
        self._has_noted = True
        return getattr(self.get_transaction(), "__dict__", {}), pin

    def _refuses(self, bind: Engine | Connection) -> bool:
        if isinstance(bind, EngineSelector):
            raise ConfigurationError(
                f"get_bind() of {type(self).__name__} gives an EngineSelector to SQLAlchemy: it "
                "stands before RoutingSession. Derive from RoutingSession first: "
                "class MySession(RoutingSession, TheirSession)."
            )
        if guard.examines(bind.engine):
            return True
        # The role "replica" is served by the read-write engine itself where that holds the database
        # in its own pool (SQLite in memory), of which no read-only engine can be made.
        return self._role != "primary" and bool(guard.gates(bind.engine))
