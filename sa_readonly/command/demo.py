"""``sa-readonly demo``: an application that turns read-only and back while one watches."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager, nullcontext

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..switch import FORCE
from .demo_application import run
from .demo_outcome import PHASES, READ_ONLY, Outcome
from .options import Command
from .terminal import CannotRun, application_log, is_terminal, note, terminable

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
    if math.isnan(seconds):  # which no range refuses
        raise click.BadParameter("nan is no time.", param_hint="--seconds")
    if os.environ.get(FORCE) is not None:
        raise CannotRun(f"{FORCE} forces the mode, so that no file could. Unset it for the demo.")
    screen = _Terminal(seconds) if is_terminal() else _Plain(seconds)
    screen.say(
        f"In two SQLite files {threads - threads // 2} threads read and {threads // 2} write. "
        f"After {seconds / 3:.3g} s an operator creates read-only.txt, and removes it "
        f"{seconds / 3:.3g} s later."
    )
    try:
        with terminable(), application_log(screen.log), screen.live:
            outcome = run(seconds=seconds, threads=threads, watch=screen.watch)
    except KeyboardInterrupt:
        note("Interrupted. What the demo had made is removed again.")
        raise SystemExit(130) from None
    screen.show(outcome)
    if not outcome.holds:
        raise SystemExit(1)


class _Plain:
    """For pipes, files and terminals that want it so: whole lines only."""

    live: AbstractContextManager[object] = nullcontext()

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._phase = -1

    def say(self, line: str) -> None:
        click.echo(line)

    def log(self, line: str) -> None:
        self.say(f"log: {line}")

    def watch(self, elapsed: float, phase: int, told: str) -> None:
        if phase != self._phase or elapsed == self.seconds:
            self._phase = phase
            self.say(f"{elapsed:.1f} s: {_FILE[phase]}; {told}")

    def show(self, outcome: Outcome) -> None:
        for check in outcome.checks:
            mark = "holds         " if check.holds else "DOES NOT HOLD "
            self.say(f"{mark} {check.name} {check.numbers}")
        self.say(_verdict(outcome))


class _Terminal(_Plain):
    """For people: a bar, a line that is drawn anew, and a table."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self._console = Console(highlight=False)
        self.live: Live = Live(console=self._console, auto_refresh=False)

    def say(self, line: str) -> None:
        self._console.print(Text(line))

    def log(self, line: str) -> None:
        self._console.print(Text(f"log: {line}", style="dim"))

    def watch(self, elapsed: float, phase: int, told: str) -> None:
        colour = "yellow" if PHASES[phase] == READ_ONLY else "green"
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            ProgressBar(self.seconds, elapsed, width=40, complete_style=colour),
            Text(f"{elapsed:.1f} of {self.seconds:g} s"),
            Text(_FILE[phase], style=f"bold {colour}"),
        )
        self.live.update(Group(grid, Text(told)), refresh=True)

    def show(self, outcome: Outcome) -> None:
        table = Table("", "What must hold", "Numbers", box=SIMPLE_HEAD, pad_edge=False)
        for check in outcome.checks:
            mark = Text("holds", "green") if check.holds else Text("does not hold", "bold red")
            table.add_row(mark, Text(check.name), Text(check.numbers))
        self._console.print(table)
        self._console.print(Text(_verdict(outcome), "green" if outcome.holds else "bold red"))


def _verdict(outcome: Outcome) -> str:
    checks = outcome.checks
    wrong = sum(not check.holds for check in checks)
    return f"{wrong} of {len(checks)} do not hold." if wrong else f"All {len(checks)} hold."
