"""Take the main database away while the application keeps serving.

An SQLAlchemy routing session and engine selector that picks the read-write or the read-only engines
per transaction, by the presence of a file.
"""

from .checks import Engines
from .config import selector_from_config
from .errors import ConfigurationError, ReadOnlyError
from .mode import Mode, State, Switch
from .polled import PolledSwitch
from .selector import EngineSelector
from .session import RoutingSession
from .switch import FileSwitch, FixedSwitch

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
    "selector_from_config",
]
