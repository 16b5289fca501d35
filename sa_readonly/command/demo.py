"""``sa-readonly demo``: an application turns read-only and back, and what held is shown."""

from __future__ import annotations

import math
import os
from functools import partial

import click
from rich.box import SIMPLE_HEAD
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..mode import FORCE
from .demo_application import Watch, run
from .demo_outcome import PHASES, READ_ONLY, Outcome
from .options import Command
from .terminal import CannotRun, Screen, application_log, note, terminable

_FILE = ("read-only.txt is not there", "read-only.txt is there", "read-only.txt is gone")


@click.command(cls=Command)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=6.0,
    show_default=True,
    help="How long the threads are at work.",
)
@click.option(
    "--threads",
    type=click.IntRange(2, 64),
    default=4,
    show_default=True,
    help="How many; half of them write.",
)
def demo(seconds: float, threads: int) -> None:
    """See an application turn read-only and back while it is at work.

    Threads read and write through a RoutingSession, in two SQLite files that are removed again.
    After a third of the time the file read-only.txt appears, after two thirds it goes. At the end
    the databases are asked what came of it. Exits with 0 if all held that must hold, and with 1 if
    something did not.
    """
    if math.isnan(seconds):  # it lies in every range
        raise click.BadParameter("nan is no time.", param_hint="--seconds")
    if os.environ.get(FORCE):
        raise CannotRun(f"{FORCE} forces the mode, so that no file could. Unset it for the demo.")
    screen = Screen()
    third = f"{seconds / 3:.3g} s"
    screen.line(
        f"In two SQLite files {threads - threads // 2} threads read and {threads // 2} write. "
        f"After {third} an operator creates read-only.txt, and removes it {third} later."
    )
    log = partial(_log, screen)
    watch = _drawing(screen, seconds) if screen.draws else _printing(screen, seconds)
    try:
        with terminable(), application_log(log), screen:
            outcome = run(seconds=seconds, threads=threads, watch=watch)
    except KeyboardInterrupt:
        note("Interrupted. What the demo had made is removed again.")
        raise SystemExit(130) from None
    _show(screen, outcome)
    if not outcome.holds:
        raise SystemExit(1)


def _log(screen: Screen, line: str) -> None:
    screen.line(f"log: {line}", "dim")


def _printing(screen: Screen, seconds: float) -> Watch:
    """Return a watch that prints a line at each change of the phase."""
    last = -1

    def watch(elapsed: float, phase: int, told: str) -> None:
        nonlocal last
        if phase != last or elapsed == seconds:
            last = phase
            screen.line(f"{elapsed:.1f} s: {_FILE[phase]}; {told}")

    return watch


def _drawing(screen: Screen, seconds: float) -> Watch:
    """Return a watch that draws a bar and a line."""

    def watch(elapsed: float, phase: int, told: str) -> None:
        colour = "yellow" if PHASES[phase] == READ_ONLY else "green"
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            ProgressBar(seconds, elapsed, width=40, complete_style=colour),
            Text(f"{elapsed:.1f} of {seconds:g} s"),
            Text(_FILE[phase], style=f"bold {colour}"),
        )
        screen.draw(grid, Text(told))

    return watch


def _show(screen: Screen, outcome: Outcome) -> None:
    checks = outcome.checks
    if screen.draws:
        table = Table("", "What must hold", "Numbers", box=SIMPLE_HEAD, pad_edge=False)
        for check in checks:
            held = Text("holds", "green") if check.holds else Text("does not hold", "bold red")
            table.add_row(held, Text(check.name), Text(check.numbers))
        screen.console.print(table)
    else:
        for check in checks:
            mark = "holds         " if check.holds else "DOES NOT HOLD "
            screen.line(f"{mark} {check.name} {check.numbers}")
    wrong = sum(not check.holds for check in checks)
    verdict = f"{wrong} of {len(checks)} do not hold." if wrong else f"All {len(checks)} hold."
    screen.line(verdict, "bold red" if wrong else "green")
