"""The command ``sa-readonly``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

try:
    import click
    from rich.box import SIMPLE_HEAD
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as missing:
    package = (missing.name or "").partition(".")[0]
    if package not in ("click", "rich"):
        raise
    # This module is imported by the command alone, and a traceback would help nobody.
    sys.stderr.write(
        f"sa-readonly: the command needs {package}, which is not installed: "
        "pip install 'sa-readonly[cli]'\n"
    )
    raise SystemExit(2) from None

from . import demo as demonstration
from .demo import PHASES, READ_ONLY, READ_WRITE, DemoError, Progress, Report

__all__ = ["main"]


def _version() -> str:
    try:
        return version("sa-readonly")
    except PackageNotFoundError:
        return "(not installed: run from a checkout)"


class _Commands(click.Group):
    """Imports the doctor, which imports much, only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "doctor"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "doctor":
            from .doctor import doctor  # noqa: PLC0415  # see above

            return doctor
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="sa-readonly", message="%(prog)s %(version)s")
def main() -> None:
    """Turn an SQLAlchemy application read-only, and back, by a file."""


# -- demo ------------------------------------------------------------------------------------


@main.command()
@click.option("--read-write", metavar="URL", help="Your own read-write database.")
@click.option("--read-only", metavar="URL", help="Another one, which stands for its copy.")
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
def demo(read_write: str | None, read_only: str | None, seconds: float, threads: int) -> None:
    """See an application turn read-only and back while it is at work.

    Threads read and write through a RoutingSession. After a third of the time the file
    read-only.txt appears, after two thirds it goes. At the end the databases are asked what came of
    it. Exits with 0 if all held that must hold, and with 1 if something did not.

    It uses two SQLite files that are removed again. With --read-write and --read-only, SQLAlchemy
    URLs, it uses your own databases: there it makes a table of its own and drops it at the end.
    """
    if (read_write is None) != (read_only is None):
        raise click.UsageError("Give both --read-write and --read-only, or neither of them.")
    screen = _Terminal() if _is_terminal() else _Plain()
    where = "two SQLite files" if read_write is None else "the two databases given"
    screen.say(
        f"In {where} {threads - threads // 2} threads read and {threads // 2} write. After "
        f"{seconds / 3:.3g} s an operator creates read-only.txt, and removes it "
        f"{seconds / 3:.3g} s later."
    )
    try:
        with _terminable(), _application_log(screen.log), screen:
            report = demonstration.run(
                read_write, read_only, seconds=seconds, threads=threads, watch=screen.watch
            )
    except DemoError as error:
        raise _CannotRun(str(error)) from None
    except KeyboardInterrupt:
        click.echo("Interrupted. What the demo had made is removed again.", err=True)
        raise SystemExit(130) from None
    screen.show(report)
    if not report.holds:
        raise SystemExit(1)


class _CannotRun(click.ClickException):
    exit_code = 2


def _is_terminal() -> bool:
    """True where colours and a line that moves are welcome."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()


@contextmanager
def _terminable() -> Iterator[None]:
    """Clean up when it is ended, or its terminal is closed, as on Ctrl-C."""

    def stop(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL  # nohup ignores the second
    ]
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _application_log(say: Callable[[str], None]) -> Iterator[None]:
    """Show what the application logs."""
    logger = logging.getLogger("sa_readonly")
    handler = _ApplicationLog(say)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _ApplicationLog(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say
        self._operator = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # The operator's switch, in the main thread, logs the same flips as the application's.
        if record.thread != self._operator or " -> " not in message:
            with suppress(OSError):  # a pipe that was closed must not fail a transaction
                self._say(f"{record.levelname} {message}")


_FILE = ("read-only.txt is not there", "read-only.txt is there", "read-only.txt is gone")


def _verdict(report: Report) -> str:
    wrong = sum(not check.holds for check in report.checks)
    if wrong:
        return f"{wrong} of {len(report.checks)} do not hold."
    return f"All {len(report.checks)} hold."


def _transactions(progress: Progress) -> str:
    reached = progress.transactions
    failed = f", {progress.failed} failed" if progress.failed else ""
    return (
        f"transactions: {reached[READ_WRITE]} read-write, {reached[READ_ONLY]} read-only; "
        f"writes: {progress.committed} committed, {progress.refused} refused{failed}"
    )


class _Plain:
    """For pipes, files and terminals that want it so: whole lines only."""

    def __init__(self) -> None:
        self._phase = -1

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, line: str) -> None:
        click.echo(line)

    def log(self, line: str) -> None:
        click.echo(f"log: {line}")

    def watch(self, progress: Progress) -> None:
        if progress.phase != self._phase or progress.elapsed == progress.seconds:
            self._phase = progress.phase
            click.echo(
                f"{progress.elapsed:.1f} s: {_FILE[progress.phase]}; {_transactions(progress)}"
            )

    def show(self, report: Report) -> None:
        for check in report.checks:
            mark = "holds         " if check.holds else "DOES NOT HOLD "
            click.echo(f"{mark} {check.name} {check.numbers}")
        click.echo(_verdict(report))


class _Terminal:
    """For people: a bar, a line that lives, and a table."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        self._console.print(Text(line))

    def log(self, line: str) -> None:
        self._console.print(Text(f"log: {line}", style="dim"))

    def watch(self, progress: Progress) -> None:
        colour = "yellow" if PHASES[progress.phase] == READ_ONLY else "green"
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            ProgressBar(progress.seconds, progress.elapsed, width=40, complete_style=colour),
            Text(f"{progress.elapsed:.1f} of {progress.seconds:g} s"),
            Text(_FILE[progress.phase], style=f"bold {colour}"),
        )
        self._live.update(Group(grid, Text(_transactions(progress))), refresh=True)

    def show(self, report: Report) -> None:
        table = Table("", "What must hold", "Numbers", box=SIMPLE_HEAD, pad_edge=False)
        for check in report.checks:
            mark = Text("holds", "green") if check.holds else Text("does not hold", "bold red")
            table.add_row(mark, Text(check.name), Text(check.numbers))
        self._console.print(table)
        self._console.print(Text(_verdict(report), "green" if report.holds else "bold red"))


if __name__ == "__main__":
    main(prog_name="sa-readonly")
