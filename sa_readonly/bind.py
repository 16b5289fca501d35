"""What a selector is to code that takes it for an engine, as libraries read a session's bind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine

from .errors import ConfigurationError

if TYPE_CHECKING:
    from .engines.handover import GuardedEngines

    # Whatever takes a bind must take a selector, and SQLAlchemy's annotations name its own
    # classes, of which it is neither an Engine nor an AsyncEngine.
    _Bind = Any
else:
    # pandas tells by it what is SQLAlchemy's, and would otherwise treat a selector as a connection
    # of SQLite's driver.
    from sqlalchemy.engine.interfaces import ConnectionEventsTarget as _Bind

__all__ = ["Bind"]


# What is known of an engine without a connection, and is the same in either mode: libraries read it
# of a session's bind when they are set up.
_FACTS = frozenset(("dialect", "driver", "echo", "name", "url"))


class _NoEngineError(ConfigurationError, AttributeError):
    """A selector stands where an engine is needed. To ``hasattr()`` it lacks the attribute."""


class Bind(_Bind):  # type: ignore[misc]  # see _Bind
    """Stands wherever SQLAlchemy takes a bind, tells the facts of its engine, and is none."""

    is_async: bool
    _guarded: GuardedEngines

    if not TYPE_CHECKING:
        dispatch = property()  # it has no events of its own: reading it comes to __getattr__()

        def __getattr__(self, name: str) -> Any:
            if name in _FACTS:
                return getattr(self._guarded.facts, name)
            if name == "sync_engine":  # an AsyncSession asks its bind for it
                if self.is_async:
                    return self
                raise _NoEngineError(
                    "This EngineSelector has sync engines and can't serve an AsyncSession. Make "
                    "its engines with create_async_engine()."
                )
            if name not in _NAMES:
                raise AttributeError(f"'EngineSelector' object has no attribute {name!r}")
            raise _NoEngineError(
                f"An EngineSelector is no engine and has no {name}. In a session factory give "
                "class_=RoutingSession: sessionmaker(selector, class_=RoutingSession), or "
                "async_sessionmaker(selector, sync_session_class=RoutingSession). In the place of "
                "session.bind use session.connection(), and in Core selector.engine()."
            )


_NAMES = {
    name
    for cls in (Engine, Connection)
    for name in (*dir(cls), *cls.__annotations__)
    if not name.startswith("_")
}
