"""What a wait shows while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..mode import now
from .fleet_wait import FleetProgress
from .place import Row, table, worker_table
from .terminal import is_terminal, local, say, shown
from .waiting import Progress


def screen(as_json: bool) -> AbstractContextManager[Callable[[Progress], None]]:
    """Return what shows each progress: a table for people, lines for pipes, nothing beside JSON."""
    if as_json:
        return nullcontext(lambda _progress: None)
    return _live() if is_terminal() else _lines()


@contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    """Draw a table anew each time."""
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        yield lambda progress: live.update(_picture(progress, console), refresh=True)


@contextmanager
def _lines() -> Iterator[Callable[[Progress], None]]:
    """Print a line at each change."""
    last: tuple[object, ...] | None = None

    def show(progress: Progress) -> None:
        nonlocal last
        if last == progress.lasting:
            return
        last = progress.lasting
        for line in progress.obstacles:
            say(line)
        if not progress.over:  # the last one is told anyway
            say(f"{local(now())} {progress}")

    yield show


def _picture(progress: Progress, console: Console) -> Group:
    head = f"{progress.tally} {progress.reached}, {progress.seconds:.1f} s"
    parts: list[Table | Text] = [Text(head, "green" if progress.holds else "yellow")]
    if isinstance(progress, FleetProgress):
        rows = [
            Row(one.called, one.mode, one.count, one.why, one.drained) for one in progress.hosts
        ]
        parts.append(table(rows, console, "Host", "Workers"))
    elif progress.workers:
        parts.append(worker_table(progress.workers, console))
    parts += [Text(shown(line), "yellow") for line in progress.obstacles]
    if not progress.over:
        parts.append(Text("Ctrl-C ends the waiting; the mode stays as it is.", "dim"))
    return Group(*parts)
