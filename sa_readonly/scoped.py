"""SQLAlchemy's scoped_session, with the role of its current session."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import orm

from .errors import ConfigurationError
from .session import RoutingSession

__all__ = ["routed", "scoped_session"]

_S = TypeVar("_S", bound=orm.Session)


class scoped_session(orm.scoped_session[_S]):  # noqa: N801  # as SQLAlchemy calls it
    """SQLAlchemy's :class:`~sqlalchemy.orm.scoped_session`, with the role of its current session.

    On SQLAlchemy's own, ``role = "replica"`` is set on the scoped_session itself and reaches no
    session: the transaction goes to the primary.
    """

    @property
    def role(self) -> str:
        """The role of the current session; see :attr:`.RoutingSession.role`.

        :raises ConfigurationError: if the sessions are not of the class RoutingSession, or on
            setting it to what is no role.
        """
        return routed(self.registry()).role

    @role.setter
    def role(self, role: str) -> None:
        routed(self.registry()).role = role


def routed(session: Any) -> RoutingSession:
    """Return a session of a scoped_session, or refuse one that has no role.

    :raises ConfigurationError: if it is no RoutingSession.
    """
    if not isinstance(session, RoutingSession):
        raise ConfigurationError(
            f"The sessions of this scoped_session are of the class {type(session).__name__}, which "
            "has no role. Give its session factory class_=RoutingSession or, to an "
            "async_sessionmaker(), sync_session_class=RoutingSession."
        )
    return session
