"""What a log record and a trace carry beside their text: fields by name, in ``docs/logs.md``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .mode import State

__all__ = ["fields", "of_state", "on_span"]


def fields(event: str, **more: object) -> dict[str, object]:
    """Return what a log record is given as ``extra``.

    :param event: what the record is about: people filter by it, so keep it.
    :param more: further fields.
    """
    told: dict[str, object] = {"sa_readonly_event": event}
    return told | {f"sa_readonly_{name}": value for name, value in more.items()}


def of_state(event: str, switch: str, state: State) -> dict[str, object]:
    """Return what a log record about a switch is given: its name, and the mode with what it has."""
    return fields(
        event,
        switch=switch,
        mode=str(state.mode),
        reason=state.reason,
        until=None if state.until is None else state.until.isoformat(),
        since=None if state.since is None else state.since.isoformat(),
        generation=state.generation,
    )


def on_span(**attributes: str | float) -> None:
    """Put attributes on the span that runs here, if the application traces by OpenTelemetry.

    An application that traces has imported that: it is never imported here.

    :param attributes: in their names an underscore stands for a dot.
    """
    # It has no such name yet while another thread imports it.
    current = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    span = None if current is None else current()
    if span is not None and span.is_recording():
        for name, value in attributes.items():
            span.set_attribute(f"sa_readonly.{name.replace('_', '.')}", value)
