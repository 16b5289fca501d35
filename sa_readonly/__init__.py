"""Take the main database away while the application keeps serving.

An SQLAlchemy routing session and engine selector that picks the read-write or the read-only engines
per transaction, by the presence of a file.

(PYTEST_DONT_REWRITE: without this word pytest, which rewrites what comes with a plugin of its own,
warns where this was imported before.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checks import Engines
from .config import selector_from_config
from .errors import ConfigurationError, ReadOnlyError
from .mode import Mode, State, Switch
from .polled import PolledSwitch
from .scoped import scoped_session
from .selector import EngineSelector
from .session import RoutingSession
from .switch import FileSwitch, FixedSwitch

if TYPE_CHECKING:
    from .async_scoped import async_scoped_session

__all__ = [
    "ConfigurationError",
    "EngineSelector",
    "Engines",
    "FileSwitch",
    "FixedSwitch",
    "Mode",
    "PolledSwitch",
    "ReadOnlyError",
    "RoutingSession",
    "State",
    "Switch",
    "async_scoped_session",
    "scoped_session",
    "selector_from_config",
]


def __getattr__(name: str) -> Any:
    if name == "async_scoped_session":
        # Imported when it is asked for: importing this package imports no asyncio.
        from .async_scoped import async_scoped_session  # noqa: PLC0415

        return async_scoped_session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
