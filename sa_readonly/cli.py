"""The command ``sa-readonly``."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

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

from .command import demo as demonstration
from .command.demo import PHASES, READ_ONLY, READ_WRITE, DemoError, Report
from .command.demo import Progress as DemoProgress
from .command.fleet import Fleet, FleetProgress, FleetWaiting, Host, read_hosts
from .command.waiting import HOLDS, BaseWaiting, Progress, Waiting
from .errors import ConfigurationError
from .mode import Mode, State, now
from .subscribers import FORCE
from .switch import FileSwitch
from .text import parse_time
from .workers.directory import DirectoryRegistry
from .workers.status import Snapshot, WorkerStatus, take
from .workers.verdict import Verdict

if TYPE_CHECKING:
    from .command.server import Server

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
            from .command.doctor import doctor  # noqa: PLC0415  # see above

            return doctor
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="sa-readonly", message="%(prog)s %(version)s")
def main() -> None:
    """Turn an SQLAlchemy application read-only, and back, by a file."""


# -- on, off, status, wait -------------------------------------------------------------------

_NEXT = (
    "Processes notice within their ttl; each logs it once. "
    "`sa-readonly wait` tells when all have, and who has not."
)
_PAUSE = 0.2  # seconds between two looks of `status --watch` and of `run`
_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_READ_ONLY, _READ_WRITE = Mode.READ_ONLY, Mode.READ_WRITE

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Place(NamedTuple):
    """What a command is about."""

    switch: FileSwitch
    registry: DirectoryRegistry
    as_json: bool


def _span(text: str) -> timedelta | None:
    """Read a duration, ``90s`` or ``10m``, seconds if it has no unit; None if it is none.

    :raises OverflowError: if it is too long.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text, re.ASCII)
    return timedelta(**{_UNITS[match[2]]: float(match[1])}) if match else None


def _seconds(_context: click.Context, _option: click.Parameter, value: str) -> float:
    try:
        span = _span(value)
    except OverflowError:
        raise click.BadParameter("so long no calendar reaches.") from None
    if span is None:
        raise click.BadParameter(f"{value!r} is no duration, such as 90, 90s, 10m or 2h.")
    return span.total_seconds()


def _options(*options: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    def add(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


_the_file = click.option(
    "--file", metavar="PATH", envvar="SA_READONLY_FILE", show_envvar=True, help="The file."
)
_about_the_file = _options(
    _the_file,
    click.option(
        "--workers",
        metavar="DIR",
        envvar="SA_READONLY_WORKERS",
        show_envvar=True,
        help="The directory where the workers report; else the file's path with .workers.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Tell it all as one JSON document."),
)
_the_bounds = _options(
    click.option(
        "--timeout",
        metavar="SECONDS|5m",
        callback=_seconds,
        default="60",
        show_default=True,
        help="How long to wait. Then the file stays as it is.",
    ),
    click.option(
        "--expect",
        metavar="N",
        type=click.IntRange(min=1),
        help="Wait until at least so many living workers are there, too.",
    ),
)
_ignore_dead = click.option(
    "--ignore-dead",
    is_flag=True,
    help="Count workers that died without a word as drained: you know that nothing of them runs.",
)
_the_server = _options(
    click.option(
        "--database",
        metavar="URL",
        envvar="SA_READONLY_DATABASE",
        show_envvar=True,
        help="Then ask the server of the read-write database, too, if anybody is left there.",
    ),
    click.option(
        "--replica",
        metavar="URL",
        envvar="SA_READONLY_REPLICA",
        show_envvar=True,
        help="And if everything has been replayed on this standby of it.",
    ),
)
_the_fleet = _options(
    click.option(
        "--url",
        metavar="URL",
        help="Ask the status page of each host, such as https://{host}/-/read-only.",
    ),
    click.option(
        "--hosts",
        metavar="FILE",
        help="Whom to put for {host} in the URL: one a line, with or without a port; - is standard "
        "input.",
    ),
    click.option(
        "--all-addresses",
        is_flag=True,
        help="Ask each address that the name in the URL has, by that name.",
    ),
    click.option(
        "--expect-hosts",
        metavar="N",
        type=click.IntRange(min=1),
        help="Wait until at least so many hosts are there, too; else as many as --hosts names.",
    ),
)
_and_wait = click.option("--wait", is_flag=True, help="Then wait, as `sa-readonly wait` does.")


def _until(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    if value[:1] == "+" and value[-1] in "smhd" and re.match(r"\+\d", value, re.ASCII):
        try:
            span = _span(value[1:])
            until = None if span is None else (now() + span).replace(microsecond=0)
        except OverflowError:
            raise click.BadParameter("so far from now no calendar reaches.") from None
    else:
        until = parse_time(value)
    if until is None:
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
@_and_wait
@_the_bounds
@_ignore_dead
@_the_server
@_about_the_file
def on(
    *,
    reason: str | None,
    until: datetime | None,
    wait: bool,
    file: str | None,
    workers: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Turn the application read-only: create the file.

    That it is there already is no error. Then another --reason or --until replaces its whole text:
    give both, or the one not given is gone. With neither of them the text stays.

    With --wait it exits as `sa-readonly wait` does.
    """
    _only_with_wait(wait)
    with _operate(file, workers, as_json) as place:
        waiting = _waiting(place, _READ_ONLY, **how) if wait else None
        # Before the file: who is dead by now can't have held anything against it.
        place.registry.sweep(place.switch.identify)
        changed = _enable(place.switch, reason, until)
        _settled(place, _READ_ONLY, changed, waiting)
    if not as_json:
        click.echo(_NEXT)


def _enable(switch: FileSwitch, reason: str | None, until: datetime | None) -> bool:
    """Create the file, or replace its text if there is another one; return if that was so."""
    before = switch.known
    given = reason is not None or until is not None
    same = (_normal(reason), until) == (before.reason, before.until)
    if before.read_only and (same or not given):
        return False
    try:
        switch.enable(reason, until)
    except ValueError as error:
        raise click.UsageError(_printable(f"The file is not written: {error}")) from None
    except OSError as error:
        raise _failed(switch, "written", error) from None
    return True


@main.command()
@_and_wait
@_the_bounds
@_about_the_file
def off(*, wait: bool, file: str | None, workers: str | None, as_json: bool, **how: Any) -> None:
    """Let the application write again: remove the file.

    That it is not there is no error. With --wait it exits as `sa-readonly wait` does.
    """
    _only_with_wait(wait)
    with _operate(file, workers, as_json) as place:
        waiting = _waiting(place, _READ_WRITE, **how) if wait else None
        changed = place.switch.known.read_only
        if changed:
            try:
                place.switch.disable()
            except OSError as error:
                raise _failed(place.switch, "removed", error) from None
        _settled(place, _READ_WRITE, changed, waiting)


@main.command()
@click.option("--watch", is_flag=True, help="Go on and tell each change, until Ctrl-C.")
@_about_the_file
def status(*, watch: bool, file: str | None, workers: str | None, as_json: bool) -> None:
    """Tell the mode, and how far each worker is. Exits with 0 in either mode."""
    with _operate(file, workers, as_json) as place:
        if watch:
            _watch(place)
        else:
            snapshot = take(place.switch, place.registry)
            _show(place, snapshot, changed=False)
            if not as_json:
                _show_workers(snapshot)


@main.command("wait")
@click.option(
    "--mode",
    type=click.Choice([str(mode) for mode in Mode]),
    default=str(_READ_ONLY),
    show_default=True,
    help="What to wait for.",
)
@_the_bounds
@_ignore_dead
@_the_server
@_the_fleet
@_about_the_file
def wait_command(
    *,
    mode: str,
    file: str | None,
    workers: str | None,
    as_json: bool,
    url: str | None,
    hosts: str | None,
    all_addresses: bool,
    expect_hosts: int | None,
    **how: Any,
) -> None:
    """Wait until every worker is drained, or read-write again.

    Drained: it holds no read-write connection and gets none until the file goes. Exits with 0 if
    all are, 1 if not (time is up, or somebody moved the switch), 3 if nobody is registered, so that
    nothing is known, and 4 if all are, but the server of --database disagrees.

    With --url it asks the status page of each host of --hosts, or of each address of the URL's
    name, instead of a file and a directory here.
    """
    if url is not None:
        fleet = _fleet(url, hosts, all_addresses, expect_hosts)
        _wait_for_fleet(fleet, Mode(mode), expect_hosts, as_json, **how)
    for name in ("hosts", "all_addresses", "expect_hosts"):
        if _given(name):
            raise click.UsageError(f"{_option(name)} needs --url.")
    with _operate(file, workers, as_json) as place:
        waiting = _waiting(place, Mode(mode), **how)
        stays = _what_stays(place, waiting.mode)
        _wait(waiting, as_json, stays, _documents(place, False, waiting))


class _Failed(click.ClickException):
    exit_code = 1


@contextmanager
def _operate(file: str | None, workers: str | None, as_json: bool) -> Iterator[_Place]:
    """Give a switch that goes by the file, whatever this shell forces, and logs errors only."""
    if not file:
        raise _CannotRun("Give --file PATH, or set the environment variable SA_READONLY_FILE.")
    forced = os.environ.pop(FORCE, None)
    try:
        with _application_log(lambda _line: None):
            # A look is asked for each time. The ttl is long because a file system may be slow.
            switch = FileSwitch(file, ttl=60)
        registry = DirectoryRegistry(workers or f"{switch.path}.workers")
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
        try:
            yield _Place(switch, registry, as_json)
        except KeyboardInterrupt:
            state = switch.check()
            where = "is there" if state.read_only else "is not there"
            said = f"Interrupted. {switch.path} {where}: the mode is {state.mode}."
            click.echo(_printable(said), err=True)
            raise SystemExit(130) from None


def _log_errors(line: str) -> None:
    if line.startswith("ERROR "):
        click.echo(_printable(line), err=True)


def _given(name: str) -> bool:
    """True if an option was given on the command line, not by the environment."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _only_with_wait(wait: bool) -> None:
    names = ("timeout", "expect", "ignore_dead", "database", "replica")
    for name in names:
        if not wait and _given(name):
            raise click.UsageError(f"{_option(name)} needs --wait.")


def _waiting(place: _Place, mode: Mode, **how: Any) -> Waiting:
    """Return what waits, once it is known that the server can be asked."""
    return Waiting(place.switch.identify, place.registry, mode=mode, **_how(mode, **how))


def _how(
    mode: Mode, *, database: str | None = None, replica: str | None = None, **how: Any
) -> dict[str, Any]:
    """Return how to wait: with the server that is to agree, if there is one."""
    if mode is _READ_ONLY:
        return {**how, "server": _server(database, replica)}
    for name in ("database", "replica", "ignore_dead"):
        if _given(name):
            raise click.UsageError(f"{_option(name)} is for --mode read-only only.")
    return how


def _server(database: str | None, replica: str | None) -> Server | None:
    """Return the server of the database, asked for the first time, or None without one."""
    if replica and not database:
        raise click.UsageError("--replica needs --database.")
    if not database:
        return None
    # It imports much.
    from .command.server import Server, ServerError  # noqa: PLC0415

    try:
        server = Server(database, replica or None)
        server.check()
    except ServerError as error:
        raise _CannotRun(_printable(str(error))) from None
    return server


def _fleet(url: str, hosts: str | None, all_addresses: bool, expect_hosts: int | None) -> Fleet:
    """Return whom to ask, if each host is asked."""
    for name in ("file", "workers"):
        if _given(name):
            raise click.UsageError(f"{_option(name)} is not for --url: each host has its own.")
    if (hosts is None) is not all_addresses:
        raise click.UsageError(
            "With --url give either --hosts FILE and {host} in the URL, or --all-addresses. One "
            "URL may be answered by another host each time, as behind a load balancer: then those "
            "that are not asked would be taken for drained."
        )
    try:
        names = None if hosts is None else _hosts(hosts)
        if names is not None and expect_hosts is not None and len(names) < expect_hosts:
            raise ConfigurationError(f"The list names {len(names)}, {expect_hosts} are expected.")
        return Fleet(url, names)
    except ConfigurationError as error:
        raise _CannotRun(_printable(str(error))) from None


def _hosts(path: str) -> list[str]:
    try:
        with click.open_file(path, encoding="utf-8-sig") as file:
            return read_hosts(file)
    except UnicodeDecodeError:
        raise ConfigurationError(f"--hosts: {path} is no text.") from None
    except OSError as error:
        raise ConfigurationError(f"--hosts: {path}: {error.strerror or error}.") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"--hosts: {path}: {error}") from None


def _wait_for_fleet(
    fleet: Fleet, mode: Mode, expect_hosts: int | None, as_json: bool, **how: Any
) -> NoReturn:
    waiting = FleetWaiting(fleet, expect_hosts, mode=mode, **_how(mode, **how))

    def documents() -> dict[str, object]:
        progress = waiting.progress
        hosts = progress.hosts if isinstance(progress, FleetProgress) else ()
        return {
            "url": fleet.url,
            "hosts": [host.as_json() for host in hosts],
            "expected_hosts": waiting.expected_hosts,
        }

    try:
        _wait(waiting, as_json, "Nothing was changed: each host stays as it is.", documents)
    finally:
        fleet.close()


def _warn_of_nobody(registry: DirectoryRegistry) -> None:
    if Verdict(None, tuple(registry.read())).nobody:
        warning = (
            f"Nobody is registered in {registry.path}: whether any process obeys is not known. "
            "If the application's workers report elsewhere, give --workers DIR."
        )
        click.echo(_printable(warning), err=True)


def _failed(switch: FileSwitch, what: str, error: OSError) -> _Failed:
    why, mode = error.strerror or error, switch.check().mode
    return _Failed(_printable(f"{switch.path} can't be {what} ({why}): the mode is {mode}."))


def _settled(place: _Place, mode: Mode, changed: bool, waiting: Waiting | None) -> None:
    """Show the state that came of it, and wait."""
    snapshot = take(place.switch, place.registry)
    moved = snapshot.state.mode is not mode
    if moved or waiting is None or not place.as_json:  # else it waits, and tells it all then
        _show(place, snapshot, changed)
    if moved:
        found = snapshot.state.mode
        raise _Failed(f"The mode is {found} all the same: somebody else has just moved it.")
    if mode is _READ_ONLY:
        _warn_of_nobody(place.registry)
    if waiting is not None:
        waiting.restart()
        stays = _what_stays(place, mode)
        _wait(waiting, place.as_json, stays, _documents(place, changed, waiting))


def _watch(place: _Place) -> None:
    live = None
    if _is_terminal() and not place.as_json:
        live = Live(console=Console(highlight=False), auto_refresh=False)
    pause = threading.Event()
    last: tuple[object, ...] | None = None
    with _terminable(), suppress(KeyboardInterrupt), live or nullcontext():
        while True:
            snapshot = take(place.switch, place.registry)
            if last != snapshot.lasting or (live is not None and snapshot.changing):
                last = snapshot.lasting
                if live is not None:
                    live.update(_drawn(place, snapshot, live.console), refresh=True)
                elif place.as_json:
                    _show(place, snapshot, False)
                else:
                    rows = [f"{name}: {text}" for name, text in _rows(place, snapshot.state)]
                    line = "; ".join([*rows, snapshot.sums])
                    click.echo(f"{_local(now())} {line}".replace("\n", " / "))
            pause.wait(_PAUSE)


def _drawn(place: _Place, snapshot: Snapshot, console: Console) -> Group:
    colour = "yellow" if snapshot.state.read_only else "green"
    return Group(
        Text(_block(place, snapshot.state), colour),
        _table(snapshot.workers, console),
        Text(f"{snapshot.sums}\n\nCtrl-C ends this."),
    )


def _show(place: _Place, snapshot: Snapshot, changed: bool) -> None:
    if place.as_json:
        click.echo(json.dumps(_document(place, snapshot, changed)))
    else:
        changes = "yes" if changed else "no"
        click.echo(f"{_block(place, snapshot.state)}\n{'changed':9}{changes}")


def _show_workers(snapshot: Snapshot) -> None:
    if _is_terminal() and snapshot.workers:
        Console(highlight=False).print(_table(snapshot.workers))
    else:
        for worker in snapshot.workers:
            click.echo(_printable(worker.as_line()))
    click.echo(snapshot.sums)


def _document(place: _Place, snapshot: Snapshot, changed: bool) -> dict[str, object]:
    return {
        "file": place.switch.path,
        "workers_directory": place.registry.path,
        **snapshot.as_json(),
        "changed": changed,
        "forced": os.environ.get(FORCE),
    }


def _rows(place: _Place, state: State) -> list[tuple[str, str]]:
    rows = [("file", place.switch.path), ("mode", str(state.mode))]
    if state.read_only:
        rows.append(("reason", state.reason or "none given"))
        until = "not given" if state.until is None else _local(state.until)
        rows.append(("until", f"{until} (overdue)" if state.overdue else until))
    if state.since is not None:
        rows.append(("since", _local(state.since)))
    rows.append(("workers", place.registry.path))
    return [(name, _printable(text)) for name, text in rows]


def _block(place: _Place, state: State) -> str:
    rows = _rows(place, state)
    return "\n".join(f"{name:9}{text}".replace("\n", f"\n{'':9}") for name, text in rows)


_MARGIN = 12  # lines of a terminal that are not the table's


def _table(
    rows: Sequence[WorkerStatus | Host],
    console: Console | None = None,
    heads: Sequence[str] = ("Worker", "Mode", "Connections", ""),
) -> Table:
    """Return a table, first who is not there yet; no higher than the terminal."""
    table = Table(*heads, box=SIMPLE_HEAD, pad_edge=False)
    shown = sorted(rows, key=lambda one: one.why is None)
    room = len(shown) if console is None else max(3, console.height - _MARGIN)
    for one in shown[:room]:
        state = Text(one.why, "yellow") if one.why else Text("drained" * one.drained, "green")
        held = one.held if isinstance(one, Host) else one.connections
        told = "" if held is None else str(held)
        table.add_row(Text(_printable(one.called)), str(one.mode or ""), told, state)
    if len(shown) > room:
        table.add_row(f"and {len(shown) - room} more", "", "", "")
    return table


# -- waiting ---------------------------------------------------------------------------------


def _wait(
    waiting: BaseWaiting[Any],
    as_json: bool,
    stays: str,
    documents: Callable[[], dict[str, object]],
) -> NoReturn:
    """Wait, tell how it went, and exit.

    :param stays: what is as it was, whatever comes of it.
    :param documents: returns what is told as JSON beside how it went.
    """
    note = ""
    try:
        with _terminable(), _screen(as_json) as show:
            code = waiting.run(show).code
    except KeyboardInterrupt:
        note, code = "Interrupted. ", 130
    except SystemExit as ended:  # by a signal
        note, code = "Ended. ", int(str(ended.code))
    progress = waiting.progress
    if progress is not None and progress.late and not note:
        note = "Time is up. "
    if code != HOLDS and not (progress is not None and progress.moved):
        click.echo(_printable(note + stays), err=True)
    if as_json:
        click.echo(json.dumps({**documents(), **_outcome(waiting, code)}))
    elif progress is not None:
        click.echo(_printable(str(progress)))
    raise SystemExit(code)


def _what_stays(place: _Place, mode: Mode) -> str:
    path = place.switch.path
    if mode is _READ_WRITE:
        return f"{path} is gone all the same: who notices that writes again."
    return f"{path} stays: the application is read-only until `sa-readonly off`."


def _screen(as_json: bool) -> AbstractContextManager[Callable[[Progress], None]]:
    if as_json:
        return nullcontext(lambda _progress: None)
    return _live() if _is_terminal() else _lines()


@contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    """For people: a table that lives."""
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        yield lambda progress: live.update(_picture(progress, console), refresh=True)


@contextmanager
def _lines() -> Iterator[Callable[[Progress], None]]:
    """For pipes and files: a line at each change."""
    last: tuple[object, ...] | None = None

    def show(progress: Progress) -> None:
        nonlocal last
        if last == progress.lasting:
            return
        last = progress.lasting
        for line in _obstacles(progress):
            click.echo(line)
        if not progress.over:  # the last one is told anyway
            click.echo(_printable(f"{_local(now())} {progress}"))

    yield show


def _picture(progress: Progress, console: Console) -> Group:
    head = f"{progress.tally} {progress.reached}, {progress.seconds:.1f} s"
    parts: list[Table | Text] = [Text(head, "green" if progress.holds else "yellow")]
    if isinstance(progress, FleetProgress):
        parts.append(_table(progress.hosts, console, heads=("Host", "Mode", "Workers", "")))
    elif progress.workers:
        parts.append(_table(progress.workers, console))
    parts += [Text(line, "yellow") for line in _obstacles(progress)]
    if not progress.over:
        parts.append(Text("Ctrl-C ends the waiting; the mode stays as it is.", "dim"))
    return Group(*parts)


def _obstacles(progress: Progress) -> list[str]:
    answer = progress.answer
    if answer is None:
        return []
    lines = [line for one in answer.obstacles for line in one.as_lines()]
    return [_printable(line) for line in (*lines, answer.caution) if line]


def _documents(place: _Place, changed: bool, waiting: Waiting) -> Callable[[], dict[str, object]]:
    def documents() -> dict[str, object]:
        snapshot = take(place.switch, place.registry)
        if waiting.progress is not None:
            snapshot = replace(snapshot, workers=waiting.progress.workers)
        return _document(place, snapshot, changed)

    return documents


def _outcome(waiting: BaseWaiting[Any], code: int) -> dict[str, object]:
    progress, server = waiting.progress, None
    if progress is not None and progress.answer is not None:
        server = progress.answer.as_json()
    return {
        "awaited": str(waiting.mode),
        "holds": code == HOLDS,
        "drained": progress is not None and progress.drained,
        "seconds": progress and round(progress.seconds, 3),
        "settled": progress and progress.settled,
        "expected": waiting.expect,
        "server": server,
        "code": code,
        "message": progress and str(progress),
    }


# -- run -------------------------------------------------------------------------------------

_NOT_NOW = 75  # EX_TEMPFAIL: try again later


class _NotNow(click.ClickException):
    exit_code = _NOT_NOW


@main.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--wait",
    metavar="SECONDS|10m",
    callback=_seconds,
    default="0",
    help="Wait so long at most: 90s, 10m, 2h, or seconds. Without it, don't wait.",
)
@click.option(
    "--mode",
    type=click.Choice([str(mode) for mode in Mode]),
    default=str(_READ_WRITE),
    show_default=True,
    help="The mode in which the command may run.",
)
@_the_file
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(*, wait: float, mode: str, file: str | None, command: tuple[str, ...]) -> None:
    """Run COMMAND once the application may write.

    For jobs that would rather wait than fail. COMMAND takes the place of this process: its pid,
    signals and exit code are COMMAND's. Exits with 75 if the mode is another one when time is up,
    127 if there is no such command and 126 if it can't be run.
    """
    try:
        with _operate(file, None, False) as place, suppress(KeyboardInterrupt):
            state = _wait_for(place.switch, Mode(mode), wait)
            if state.mode is Mode(mode):
                _execute(command)
            reason = "" if state.reason is None else f" ({' / '.join(state.reason.splitlines())})"
            said = f"It is {state.mode}{reason}: {command[0]} is not run."
            click.echo(_printable(said), err=True)
            raise SystemExit(_NOT_NOW)
    except _Failed as error:  # it can't be looked at now
        raise _NotNow(error.message) from None
    raise SystemExit(130)


def _wait_for(switch: FileSwitch, mode: Mode, seconds: float) -> State:
    end = time.monotonic() + seconds
    pause = threading.Event()
    state = switch.check()
    if state.mode is not mode and seconds and sys.stderr.isatty():
        click.echo(f"It is {state.mode}. Waiting {seconds:g} s at most; Ctrl-C ends it.", err=True)
    while state.mode is not mode and (remaining := end - time.monotonic()) > 0:
        pause.wait(min(_PAUSE, remaining))
        state = switch.check()
    return state


def _execute(command: tuple[str, ...]) -> NoReturn:
    """Become that command, as a shell's exec does."""
    for name in ("SIGPIPE", "SIGXFSZ"):  # which Python ignores, and whoever it becomes would, too
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606  # no shell is wanted
    except OSError as error:
        click.echo(_printable(f"{command[0]}: {error.strerror or error}"), err=True)
        raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from None


# -- words -----------------------------------------------------------------------------------


def _printable(text: str) -> str:
    """Return it without what would steer the terminal, or what its encoding lacks."""
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _normal(reason: str | None) -> str | None:
    """Return it as it is read back from the file."""
    return "\n".join((reason or "").splitlines()).strip() or None


def _local(moment: datetime) -> str:
    with suppress(OverflowError, ValueError, OSError):  # at the ends of the calendar
        moment = moment.astimezone()
    return moment.isoformat(" ", "seconds")


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


def _transactions(progress: DemoProgress) -> str:
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

    def watch(self, progress: DemoProgress) -> None:
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

    def watch(self, progress: DemoProgress) -> None:
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
