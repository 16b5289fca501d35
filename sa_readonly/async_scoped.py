"""The same for asyncio. It is a room of its own, as the package imports no asyncio."""

from __future__ import annotations

from typing import TypeVar

from sqlalchemy.ext import asyncio

from .scoped import routed

__all__ = ["async_scoped_session"]

_AS = TypeVar("_AS", bound=asyncio.AsyncSession)


class async_scoped_session(asyncio.async_scoped_session[_AS]):  # noqa: N801  # as SQLAlchemy's
    """SQLAlchemy's :class:`~sqlalchemy.ext.asyncio.async_scoped_session`, with a role."""

    @property
    def role(self) -> str:
        """The role of the current session; see :attr:`.scoped_session.role`."""
        return routed(self.registry().sync_session).role

    @role.setter
    def role(self, role: str) -> None:
        routed(self.registry().sync_session).role = role
