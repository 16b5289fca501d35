"""What commands print, how they fail, and how a signal or a log record reaches them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, NoReturn

import click
from rich.console import Console, RenderableType
from rich.console import Group as Parts
from rich.live import Live
from rich.text import Text

from ..text import printable


class Failed(click.ClickException):
    """The command could not do its work. Exit code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class CannotRun(click.ClickException):
    """The command was asked for what can't be done, and has changed nothing. Exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class Group(click.Group):
    """A group of commands, of whose errors each is one line that does a terminal no harm.

    What is told of a mistake in the command line repeats what was typed, and click shows it as it
    is.
    """

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the command line as far as the name of a command."""
        with _plain_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Read the rest of it, and run the command."""
        with _plain_errors():
            return super().invoke(ctx)


_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # it came with click 8.2


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        told = error.format_message()
        if told.isprintable() or isinstance(error, _HELP):
            raise
        raise click.UsageError(shown(printable(told)), error.ctx) from None


def shown(text: str) -> str:
    """Return a text without what would steer the terminal, or what its encoding lacks."""
    printable = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return printable.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str) -> None:
    """Print a result on standard output."""
    click.echo(shown(text))


def note(text: str) -> None:
    """Print on standard error what is good to know beside the result."""
    click.echo(shown(text), err=True)


def local(moment: datetime) -> str:
    """Return a time in the time zone of this machine."""
    with suppress(OverflowError, ValueError, OSError):  # at the ends of the calendar
        moment = moment.astimezone()
    return moment.isoformat(" ", "seconds")


def is_terminal() -> bool:
    """True where colours and lines that are drawn anew are welcome."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()


class Screen:
    """Where a command shows what goes on: to people a picture that is drawn anew, else lines.

    :param quiet: whether nothing is drawn, as beside JSON.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(highlight=False)
        live = is_terminal() and not quiet
        self._live = Live(console=self.console, auto_refresh=False) if live else None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def draws(self) -> bool:
        """True if there are people to draw for."""
        return self._live is not None

    def draw(self, *parts: RenderableType) -> None:
        """Draw the picture anew."""
        if self._live is not None:
            self._live.update(Parts(*parts), refresh=True)

    def line(self, text: str, style: str = "") -> None:
        """Print a line, above the picture if there is one."""
        if self._live is None:
            say(text)
        else:
            self.console.print(Text(shown(text), style))


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that cleaning up happens as on Ctrl-C."""

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
def application_log(tell: Callable[[str], None]) -> Iterator[None]:
    """Hand each record of the library to a function, as a line, and keep it from other handlers."""
    logger = logging.getLogger("sa_readonly")
    handler = _Lines(tell)
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


class _Lines(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell
        self._operator = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # The demo's operator, in the main thread, logs the same flips as its application.
        if record.thread != self._operator or " -> " not in message:
            with suppress(OSError):  # a pipe that was closed must not fail a transaction
                self._tell(f"{record.levelname} {message}")
