"""The snapshot as an HTML page that needs no other file and refreshes itself."""

from __future__ import annotations

from datetime import timezone
from typing import TYPE_CHECKING

from ..mode import Mode
from ..workers.status import one_line
from .page import document, escaped

if TYPE_CHECKING:
    from datetime import datetime

    from ..mode import State
    from ..workers.status import Snapshot

__all__ = ["as_html"]

_SAID = {
    Mode.READ_WRITE: "Read-write: changes are saved.",
    Mode.READ_ONLY: "Read-only: nothing can be saved for the moment.",
}


def as_html(shown: Snapshot, *, details: bool = False) -> str:
    """Return the page.

    :param details: whether each worker is told. Others than the operators may see the page.
    """
    mode = shown.state.mode
    parts = [
        "<h1>Read-only or not</h1>\n",
        f'<div id="mode" role="status"><p class="mode {mode}">{_SAID[mode]}</p></div>\n',
        f'<div id="state">{_state(shown.state)}</div>\n',
        f'<div id="workers">{_workers(shown, details=details)}</div>\n',
        f'<p id="at" class="soft">As of {_time(shown.at, seconds=True)}.</p>\n',
        '<p id="trouble" role="alert"></p>\n',
    ]
    return document(f"{str(mode).capitalize()}", "".join(parts), refreshes=True)


def _state(state: State) -> str:
    rows: list[tuple[str, str]] = []
    if state.reason:
        rows.append(("Reason", f'<span class="text">{escaped(state.reason)}</span>'))
    if state.until is not None:
        late = " It takes longer than expected." if state.overdue else ""
        rows.append(("Expected until", _time(state.until) + late))
    if state.since is not None:
        rows.append(("Since", _time(state.since)))
    if (announced := state.announced) is not None:
        told = f"read-only from {_time(announced.time)}"
        if announced.until is not None:
            told += f" until {_time(announced.until)}"
        if announced.reason:
            told += f': <span class="text">{escaped(announced.reason)}</span>'
        rows.append(("Announced", told))
    shown = "".join(f"<dt>{name}</dt><dd>{value}</dd>\n" for name, value in rows)
    return f"<dl>\n{shown}</dl>" if shown else ""


def _workers(shown: Snapshot, *, details: bool) -> str:
    sums = shown.sums[:1].upper() + shown.sums[1:]
    parts = [f"<h2>Workers</h2>\n<p>{escaped(sums)}.</p>\n"]
    number, longest = shown.held
    if number:
        parts.append(
            f"<p>{number} {'writes wait' if number > 1 else 'write waits'} until changes are saved "
            f"again, the longest for {longest or 0:.0f} s.</p>\n"
        )
    if shown.problem is not None:
        why = f": {one_line(shown.problem)}" if details else "."
        parts.append(f"<p>The process that answers is not registered{escaped(why)}</p>\n")
    if details and shown.here is not None:
        parts.append(f"<p>This page comes from {escaped(shown.here.as_line())}.</p>\n")
    if details and shown.workers:
        heads = "".join(f'<th scope="col">{name}</th>' for name in ("Worker", "Mode", "State"))
        rows = "".join(
            f'<tr><th scope="row">{escaped(one.called)}</th>'
            f"<td>{one.mode or 'not told'}</td><td>{escaped(one.state)}</td></tr>\n"
            for one in shown.workers
        )
        parts.append(
            f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
        )
    return "".join(parts)


def _time(moment: datetime, *, seconds: bool = False) -> str:
    form = "%Y-%m-%d %H:%M:%S UTC" if seconds else "%Y-%m-%d %H:%M UTC"
    told = moment.astimezone(timezone.utc)
    return f'<time datetime="{moment.isoformat()}">{told.strftime(form)}</time>'
