"""The command ``sa-readonly``."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn, TypeVar

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
from .errors import ConfigurationError
from .mode import Mode, State, now
from .switch import FORCE, FileSwitch, parse_time

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


# -- on, off, status -------------------------------------------------------------------------

_NEXT = (
    "Processes notice within their ttl; each logs it once. "
    "Ask the server who is still connected before you take it away."
)
_PAUSE = 0.2  # seconds between two looks of `status --watch`
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _about_the_file(function: _Function) -> _Function:
    """Add the options that all commands on the file take."""
    file = click.option(
        "--file", metavar="PATH", envvar="SA_READONLY_FILE", show_envvar=True, help="The file."
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Tell the state as JSON.")
    return file(as_json(function))


def _until(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    if match := re.fullmatch(r"\+(\d+)([smhd])", value, re.ASCII):
        try:
            span = timedelta(**{_UNITS[match[2]]: int(match[1])})
            until = (now() + span).replace(microsecond=0)
        except (OverflowError, ValueError):  # int() refuses thousands of digits
            raise click.BadParameter("so far from now no calendar reaches.") from None
    elif (time := parse_time(value)) is not None:
        until = time
    else:
        raise click.BadParameter(
            f"{value!r} is neither an ISO 8601 time, such as 2030-01-31T23:30 (local time) or "
            "2030-01-31T22:30Z, nor a duration from now, such as +90s, +30m or +2h."
        )
    if until <= now():
        raise click.BadParameter(f"{value} is not in the future: it means {_local(until)}.")
    return until


@main.command()
@click.option("--reason", metavar="TEXT", help="What people are told, on an error page, say.")
@click.option(
    "--until",
    metavar="TIME|+30m",
    callback=_until,
    help="When you expect to be done: in ISO 8601, local time if it has no offset, or from now: "
    "+90s, +30m, +2h. When it has passed nothing happens by itself.",
)
@_about_the_file
def on(reason: str | None, until: datetime | None, file: str | None, as_json: bool) -> None:
    """Turn the application read-only: create the file.

    That it is there already is no error. Then another --reason or --until replaces its whole text:
    give both, or the one not given is gone. With neither of them the text stays.
    """
    with _operate(file) as switch:
        before = switch.known
        given = reason is not None or until is not None
        same = (_normal(reason), until) == (before.reason, before.until)
        changed = not before.read_only or (given and not same)
        if changed:
            try:
                switch.enable(reason, until)
            except ValueError as error:
                raise click.UsageError(_printable(f"The file is not written: {error}")) from None
            except OSError as error:
                raise _failed(switch, "written", error) from None
        _settled(switch, Mode.READ_ONLY, changed, as_json)
    if not as_json:
        click.echo(_NEXT)


@main.command()
@_about_the_file
def off(file: str | None, as_json: bool) -> None:
    """Let the application write again: remove the file.

    That it is not there is no error.
    """
    with _operate(file) as switch:
        changed = switch.known.read_only
        if changed:
            try:
                switch.disable()
            except OSError as error:
                raise _failed(switch, "removed", error) from None
        _settled(switch, Mode.READ_WRITE, changed, as_json)


@main.command()
@click.option("--watch", is_flag=True, help="Go on and tell each change, until Ctrl-C.")
@_about_the_file
def status(watch: bool, file: str | None, as_json: bool) -> None:
    """Tell the mode. Exits with 0 in either one."""
    with _operate(file) as switch:
        if watch:
            _watch(switch, as_json)
        else:
            _show(switch, switch.known, False, as_json)


class _Failed(click.ClickException):
    exit_code = 1


@contextmanager
def _operate(file: str | None) -> Iterator[FileSwitch]:
    """Give a switch that goes by the file, whatever this shell forces, and logs errors only."""
    if not file:
        raise _CannotRun("Give --file PATH, or set the environment variable SA_READONLY_FILE.")
    forced = os.environ.pop(FORCE, None)
    try:
        with _application_log(lambda _line: None):
            # A look is asked for each time. The ttl is long because a file system may be slow.
            switch = FileSwitch(file, ttl=60)
    except ConfigurationError as error:
        raise _CannotRun(_printable(str(error))) from None
    except OSError as error:  # the working directory is gone
        raise _CannotRun(_printable(f"{file} can't be made absolute: {error}.")) from None
    finally:
        if forced is not None:
            os.environ[FORCE] = forced
    if not switch.known.read_only:
        switch.known = replace(switch.known, since=None)  # which nobody keeps
    elif switch.known.generation is None:  # it could not look
        raise _Failed(_printable(f"{switch.known.reason}."))
    if forced is not None:
        note = "is set here. Processes that are started here obey it; this command, only the file."
        click.echo(_printable(f"{FORCE}={forced} {note}"), err=True)
    with _application_log(_log_errors):
        yield switch


def _log_errors(line: str) -> None:
    if line.startswith("ERROR "):
        click.echo(_printable(line), err=True)


def _failed(switch: FileSwitch, what: str, error: OSError) -> _Failed:
    why, mode = error.strerror or error, switch.check().mode
    return _Failed(_printable(f"{switch.path} can't be {what} ({why}): the mode is {mode}."))


def _settled(switch: FileSwitch, mode: Mode, changed: bool, as_json: bool) -> None:
    """Show the state that came of it."""
    state = switch.check()
    _show(switch, state, changed, as_json)
    if state.mode is not mode:
        raise _Failed(f"The mode is {state.mode} all the same: somebody else has just moved it.")


def _watch(switch: FileSwitch, as_json: bool) -> None:
    live = None
    if _is_terminal() and not as_json:
        live = Live(console=Console(highlight=False), auto_refresh=False)
    pause = threading.Event()
    last: tuple[State, bool] | None = None
    with _terminable(), suppress(KeyboardInterrupt), live or nullcontext():
        while True:
            state = switch.check()
            if last != (state, state.overdue):
                last = state, state.overdue
                if live is not None:
                    colour = "yellow" if state.read_only else "green"
                    shown = f"{_block(switch, state)}\n\nCtrl-C ends this."
                    live.update(Text(shown, colour), refresh=True)
                elif as_json:
                    _show(switch, state, False, as_json)
                else:
                    line = "; ".join(f"{name}: {text}" for name, text in _rows(switch, state))
                    click.echo(f"{_local(now())} {line}".replace("\n", " / "))
            pause.wait(_PAUSE)


def _show(switch: FileSwitch, state: State, changed: bool, as_json: bool) -> None:
    if not as_json:
        click.echo(f"{_block(switch, state)}\n{'changed':9}{'yes' if changed else 'no'}")
        return
    told = {
        "file": switch.path,
        "mode": str(state.mode),
        "reason": state.reason,
        "until": state.until and state.until.isoformat(),
        "overdue": state.overdue,
        "since": state.since and state.since.isoformat(),
        "changed": changed,
        "forced": os.environ.get(FORCE),
    }
    click.echo(json.dumps(told))


def _rows(switch: FileSwitch, state: State) -> list[tuple[str, str]]:
    rows = [("file", switch.path), ("mode", str(state.mode))]
    if state.read_only:
        rows.append(("reason", state.reason or "none given"))
        until = "not given" if state.until is None else _local(state.until)
        rows.append(("until", f"{until} (overdue)" if state.overdue else until))
    if state.since is not None:
        rows.append(("since", _local(state.since)))
    return [(name, _printable(text)) for name, text in rows]


def _block(switch: FileSwitch, state: State) -> str:
    rows = _rows(switch, state)
    return "\n".join(f"{name:9}{text}".replace("\n", f"\n{'':9}") for name, text in rows)


def _printable(text: str) -> str:
    """Return it without what would steer the terminal, or what its encoding lacks."""
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _normal(reason: str | None) -> str | None:
    """Return it as it is read back from the file."""
    return "\n".join((reason or "").splitlines()).strip() or None


def _local(time: datetime) -> str:
    with suppress(OverflowError, ValueError, OSError):  # at the ends of the calendar
        time = time.astimezone()
    return time.isoformat(" ", "seconds")


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
