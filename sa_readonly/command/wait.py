"""``sa-readonly wait``, and what ``on`` and ``off`` do with ``--wait``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import ConfigurationError
from ..mode import Mode, now
from ..workers.status import Snapshot
from .etcd_place import EtcdPlace
from .fleet import Fleet
from .fleet_wait import FleetProgress, FleetWait
from .hosts import read_hosts
from .operate import operate
from .options import (
    Command,
    Where,
    given,
    json_too,
    option_name,
    options,
    read_write_url,
    seconds,
    standby_url,
    the_switch,
)
from .place import Place, Row, document, table, worker_table
from .record import Record
from .server import Server, ServerError
from .terminal import CannotRun, Failed, Screen, local, note, say, terminable
from .waiting import HOLDS, Progress, VerdictWait, Wait

_NOT_TURNED = (
    "Nothing was changed: the mode stays as it is. `sa-readonly on` without --wait, or without "
    "that URL, turns it read-only all the same."
)

limits = options(
    click.option(
        "--timeout",
        metavar="SECONDS|5m",
        callback=seconds,
        default="60",
        show_default=True,
        help="How long to wait. Then it ends, and the switch is left as it is.",
    ),
    click.option(
        "--expect",
        metavar="N",
        type=click.IntRange(min=1),
        help="Wait until at least so many living workers are there, too.",
    ),
)
ignore_dead = click.option(
    "--ignore-dead",
    is_flag=True,
    help="Count workers that died without a word, or are lost, as drained: you know that nothing "
    "of them runs.",
)
the_server = options(
    read_write_url,
    standby_url,
    click.option(
        "--no-pooler",
        is_flag=True,
        help="With --etcd and --read-write: no pooler in transaction mode is before the database, "
        "or its clients are gone. Then the server's word counts for workers that are lost.",
    ),
)
_the_fleet = options(
    click.option(
        "--url",
        metavar="URL",
        help="Ask the status page of each host, such as https://{host}/-/read-only.",
    ),
    click.option(
        "--hosts",
        metavar="FILE",
        help="What to put for {host} in the URL: one host a line, with or without a port; - is "
        "standard input.",
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


@click.command(cls=Command)
@click.option(
    "--mode",
    type=click.Choice([str(mode) for mode in Mode]),
    default=str(Mode.READ_ONLY),
    show_default=True,
    help="What to wait for.",
)
@limits
@ignore_dead
@the_server
@_the_fleet
@the_switch
@json_too
def wait(
    *,
    mode: str,
    where: Where,
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
    nothing is known, and 4 if all are, but the server of --read-write disagrees.

    With --read-write it asks the server of the database, too, for sessions that are left there.

    With --etcd it is about the workers of all hosts. One that is lost is drained by its own word,
    by the server's or by yours.

    With --url it asks the status page of each host of --hosts, or of each address of the URL's
    name, instead of a file and a directory here.
    """
    if url is not None:
        if how.pop("no_pooler"):
            raise click.UsageError("--no-pooler needs --etcd.")
        fleet = _fleet(url, hosts, all_addresses, expect_hosts)
        made = FleetWait(fleet, expect_hosts, mode=Mode(mode), **_how(Mode(mode), **how))
        _end(made, as_json, "Nothing was changed: each host stays as it is.", made.as_json)
    for name in ("hosts", "all_addresses"):
        if given(name):
            raise click.UsageError(f"{option_name(name)} needs --url.")
    if expect_hosts is not None:
        how["expect_hosts"] = expect_hosts
    with operate(where, as_json) as place:
        finish(place, wait_here(place, Mode(mode), **how), changed=False)


def only_with_wait(waits: bool) -> None:
    """Refuse what says how to wait where it does not wait."""
    for name in ("timeout", "expect", "ignore_dead", "read_write", "standby", "no_pooler"):
        if not waits and given(name):
            raise click.UsageError(f"{option_name(name)} needs --wait.")


def wait_here(place: Place, mode: Mode, **how: Any) -> VerdictWait:
    """Return the wait for the workers of a registry, once it is known that a server replies.

    :param how: the options, and ``turning_on`` where the switch is about to be turned on.
    """
    of_etcd = {name: how.pop(name, False) for name in ("no_pooler", "expect_hosts", "turning_on")}
    if isinstance(place, EtcdPlace):
        how |= {name: value for name, value in of_etcd.items() if value}
    else:
        if of_etcd["expect_hosts"]:
            raise click.UsageError("--expect-hosts needs --url or --etcd.")
        if of_etcd["no_pooler"]:
            raise click.UsageError("--no-pooler needs --etcd.")
    try:
        how = _how(mode, **how)
    except CannotRun as error:  # the server can't be asked
        if not of_etcd["turning_on"]:
            raise
        raise CannotRun(f"{error.message} {_NOT_TURNED}") from None
    _check_the_servers_word(how)
    return place.waiting(mode, **how)


def _check_the_servers_word(how: dict[str, Any]) -> None:
    """Refuse --no-pooler where what one server says is not enough for what is lost."""
    if not how.get("no_pooler"):
        return
    server = how.get("server")
    if server is None:
        raise click.UsageError("--no-pooler needs --read-write.")
    servers = server.servers
    if len(servers) > 1:
        raise CannotRun(
            f"--read-write leads to several servers: {', '.join(servers)}. A worker that is lost "
            "may hold a connection to any of them. Give the URL of one, and wait once for each."
        )


def finish(place: Place, made: VerdictWait, *, changed: bool) -> NoReturn:
    """Wait from now on, tell how it went, and exit.

    :param changed: whether this command has moved the switch.
    """
    name = place.name
    if made.mode is Mode.READ_WRITE:
        stays = f"{name} is gone all the same: a process that notices that writes again."
    else:
        stays = f"{name} stays: the application is read-only until `sa-readonly off`."

    def documents() -> dict[str, object]:
        try:
            snapshot = place.snapshot()
        except Failed:  # it is away; what was waited for is told all the same
            snapshot = Snapshot(place.state(), (), now())
        if made.progress is not None:
            snapshot = replace(snapshot, workers=made.progress.workers)
        return document(place, snapshot, changed=changed)

    made.restart()
    _end(made, place.as_json, stays, documents, lambda code: Record(place).waited(made, code))


# -- how to wait -----------------------------------------------------------------------------


def _how(
    mode: Mode, *, read_write: str | None = None, standby: str | None = None, **how: Any
) -> dict[str, Any]:
    """Return how to wait: with the server that is to agree, if there is one."""
    if mode is Mode.READ_ONLY:
        return {**how, "server": _server(read_write, standby)}
    for name in ("read_write", "standby", "ignore_dead", "no_pooler"):
        if given(name):
            raise click.UsageError(f"{option_name(name)} is for --mode read-only only.")
    return how


def _server(read_write: str | None, standby: str | None) -> Server | None:
    """Return the server of the database, asked for the first time, or None without one."""
    if standby and not read_write:
        raise click.UsageError(
            "--standby (SA_READONLY_STANDBY_URL) needs --read-write (SA_READONLY_READ_WRITE_URL)."
        )
    if not read_write:
        return None
    try:
        server = Server(read_write, standby or None)
        server.check()
    except ServerError as error:
        raise CannotRun(str(error)) from None
    return server


def _fleet(url: str, hosts: str | None, all_addresses: bool, expect_hosts: int | None) -> Fleet:
    """Return the hosts to ask, if each of them is asked."""
    for name in ("file", "workers", "etcd", "key"):
        if given(name):
            raise click.UsageError(f"{option_name(name)} is not for --url: each host has its own.")
    if (hosts is None) is not all_addresses:
        raise click.UsageError(
            "With --url give either --hosts FILE and {host} in the URL, or --all-addresses. One "
            "URL may be answered by another host each time, as behind a load balancer: then those "
            "that are not asked would be taken for drained."
        )
    try:
        names = None if hosts is None else _listed(hosts)
        if names is not None and expect_hosts is not None and len(names) < expect_hosts:
            raise ConfigurationError(f"The list names {len(names)}, {expect_hosts} are expected.")
        return Fleet(url, names)
    except ConfigurationError as error:
        raise CannotRun(str(error)) from None


def _listed(path: str) -> list[str]:
    try:
        with click.open_file(path, encoding="utf-8-sig") as file:
            return read_hosts(file)
    except UnicodeDecodeError:
        raise ConfigurationError(f"--hosts: {path} is no text.") from None
    except OSError as error:
        raise ConfigurationError(f"--hosts: {path}: {error.strerror or error}.") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"--hosts: {path}: {error}") from None


# -- how it ends -----------------------------------------------------------------------------


def _end(
    made: Wait,
    as_json: bool,
    stays: str,
    documents: Callable[[], dict[str, object]],
    record: Callable[[int], None] | None = None,
) -> NoReturn:
    """Wait, tell how it went, and exit.

    :param stays: a sentence on what the end of the wait leaves as it is, printed if it fails.
    :param documents: returns what is told as JSON beside how it went.
    :param record: notes its exit code in the history, where there is one.
    """
    said = ""
    try:
        with terminable(), Screen(quiet=as_json) as screen:
            code = made.run(_shows(screen, as_json)).code
    except KeyboardInterrupt:
        said, code = "Interrupted. ", 130
    except SystemExit as ended:  # by a signal
        said, code = "Ended. ", int(str(ended.code))
    progress = made.progress
    if progress is not None and progress.late and not said:
        said = "Time is up. "
    if code != HOLDS and not (progress is not None and progress.moved):
        note(said + stays)
    if record is not None:
        record(code)
    if as_json:
        say(json.dumps({**documents(), **_ending(made, code)}))
    elif progress is not None:
        say(str(progress))
    raise SystemExit(code)


def _shows(screen: Screen, as_json: bool) -> Callable[[Progress], None]:
    """Return what shows each progress: a table for people, else a line at each change."""
    last: tuple[object, ...] | None = None

    def show(progress: Progress) -> None:
        nonlocal last
        if screen.draws:
            screen.draw(*_picture(progress, screen.console))
        elif last != progress.lasting and not as_json:
            last = progress.lasting
            for line in progress.obstacles:
                say(line)
            if not progress.over:  # the last one is told anyway
                say(f"{local(now())} {progress}")

    return show


def _picture(progress: Progress, console: Console) -> list[Table | Text]:
    head = f"{progress.tally} {progress.reached}, {progress.seconds:.1f} s"
    parts: list[Table | Text] = [Text(head, "green" if progress.holds else "yellow")]
    if isinstance(progress, FleetProgress):
        hosts = progress.hosts
        rows = [Row(one.called, one.mode, one.number, one.why, one.drained) for one in hosts]
        parts.append(table(rows, console, "Host", "Workers"))
    elif progress.workers:
        parts.append(worker_table(progress.workers, console))
    parts += [Text(line, "yellow") for line in progress.obstacles]
    if not progress.over:
        parts.append(Text("Ctrl-C ends the waiting; the mode stays as it is.", "dim"))
    return parts


def _ending(made: Wait, code: int) -> dict[str, object]:
    progress = made.progress
    return {
        "awaited": str(made.mode),
        "holds": code == HOLDS,
        "drained": progress is not None and progress.drained,
        "seconds": progress and round(progress.seconds, 3),
        "settled": progress and progress.settled,
        "expected": made.expect,
        "server": progress.reply.as_json() if progress and progress.reply else None,
        "code": code,
        "message": progress and str(progress),
    }
