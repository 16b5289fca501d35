"""Flask-SQLAlchemy, which makes its engines itself and chooses one by bind key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flask_sqlalchemy
import flask_sqlalchemy.session

from ..errors import ConfigurationError
from ..scoped import scoped_session
from ..session import RoutingSession

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ..selector import EngineSelector

__all__ = ["RoutedSession", "SQLAlchemy"]


class _SelectedByBindKey(flask_sqlalchemy.session.Session):
    """Gives the selector of the engine that Flask-SQLAlchemy chooses, if that has one."""

    def __init__(self, db: SQLAlchemy, **kwargs: Any) -> None:
        super().__init__(db, **kwargs)
        self._extension = db

    def get_bind(self, *args: Any, **kwargs: Any) -> Any:
        engine: Any = super().get_bind(*args, **kwargs)
        selectors = self._extension.selectors
        if not selectors:
            raise ConfigurationError(
                "No engine of this Flask-SQLAlchemy has a selector. Inside app.app_context() set "
                "db.selectors = {db.engine: EngineSelector(switch, read_write=db.engine)}."
            )
        return selectors.get(engine, engine)


class RoutedSession(RoutingSession, _SelectedByBindKey):  # type: ignore[misc]  # their get_bind()
    """The class of ``db.session``: a :class:`.RoutingSession`. Your own derives from it."""


class SQLAlchemy(flask_sqlalchemy.SQLAlchemy):
    """Flask-SQLAlchemy's extension, whose ``db.session`` is routed and has a ``role``.

    Its arguments are those of the class that it derives from. A ``class_`` among the
    ``session_options`` derives from :class:`RoutedSession`.

    :raises ConfigurationError: if it does not.
    """

    selectors: dict[Engine, EngineSelector]
    """By the engine that Flask-SQLAlchemy makes (``db.engine``, ``db.engines[key]``), its selector.
    An engine that has none is left as it is."""

    def __init__(
        self, *args: Any, session_options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.selectors = {}
        options = {"class_": RoutedSession, **(session_options or {})}
        cls = options["class_"]
        if not issubclass(cls, RoutedSession):
            raise ConfigurationError(
                "SQLAlchemy(session_options={'class_': ...}) takes a class that derives from "
                "sa_readonly.contrib.flask_sqlalchemy.RoutedSession, which "
                f"{cls.__name__} does not."
            )
        super().__init__(*args, session_options=options, **kwargs)
        # In place: what listens to it, and removes its sessions, keeps it.
        self.session.__class__ = scoped_session
