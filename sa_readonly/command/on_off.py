"""``sa-readonly on`` and ``sa-readonly off``: the file is created, or removed."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import click

from ..mode import Mode, now
from ..switch import FileSwitch
from ..text import parse_time
from ..workers.verdict import Verdict
from .options import Command, json_too, options, span, the_file, the_workers
from .place import Place, operate, show
from .terminal import Failed, local, note, shown
from .wait import finish, ignore_dead, limits, only_with_wait, the_server, wait_here

_NEXT = (
    "Processes notice within their ttl; each logs it once. "
    "`sa-readonly wait` tells when all have, and which have not."
)
_and_wait = click.option("--wait", is_flag=True, help="Then wait, as `sa-readonly wait` does.")
_about_the_file = options(the_file, the_workers, json_too)


def _until(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    if value[:1] == "+" and value[-1] in "smhd" and re.match(r"\+\d", value, re.ASCII):
        try:
            duration = span(value[1:])
            until = None if duration is None else (now() + duration).replace(microsecond=0)
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
        raise click.BadParameter(f"{value} is not in the future: it means {local(until)}.")
    return until


@click.command(cls=Command)
@click.option("--reason", metavar="TEXT", help="What people are told, on an error page, say.")
@click.option(
    "--until",
    metavar="TIME|+30m",
    callback=_until,
    help="When you expect to be done: in ISO 8601, local time if it has no offset, or from now: "
    "+90s, +30m, +2h. When it has passed nothing happens by itself.",
)
@_and_wait
@limits
@ignore_dead
@the_server
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

    That it is there already is no error. Then --reason and --until change its text, and what is not
    given stays.

    With --wait it exits as `sa-readonly wait` does.
    """
    only_with_wait(wait)
    with operate(file, workers, as_json) as place:
        then = wait_here(place, Mode.READ_ONLY, **how) if wait else None
        # A worker that is dead before the file is made needs no word of its own that it is drained.
        place.registry.sweep(place.switch.identify)
        changed = _enable(place.switch, reason, until)
        _check(place, Mode.READ_ONLY, changed, quiet=then is not None)
        _warn_of_nobody(place)
        if then is not None:
            finish(place, then, changed=changed)
    if not as_json:
        click.echo(_NEXT)


def _enable(switch: FileSwitch, reason: str | None, until: datetime | None) -> bool:
    """Create the file, or change of its text what is given; return if there was another one."""
    before = switch.known
    if before.read_only:
        reason = before.reason if reason is None else reason
        until = until or before.until
    text = "\n".join((reason or "").splitlines()).strip() or None  # as it is read from the file
    if before.read_only and (text, until) == (before.reason, before.until):
        return False
    try:
        switch.enable(reason, until)
    except ValueError as error:
        raise click.UsageError(shown(f"The file is not written: {error}")) from None
    except OSError as error:
        raise _failed(switch, "written", error) from None
    return True


@click.command(cls=Command)
@_and_wait
@limits
@_about_the_file
def off(*, wait: bool, file: str | None, workers: str | None, as_json: bool, **how: Any) -> None:
    """Let the application write again: remove the file.

    That it is not there is no error. With --wait it exits as `sa-readonly wait` does.
    """
    only_with_wait(wait)
    with operate(file, workers, as_json) as place:
        then = wait_here(place, Mode.READ_WRITE, **how) if wait else None
        changed = place.switch.known.read_only
        if changed:
            try:
                place.switch.disable()
            except OSError as error:
                raise _failed(place.switch, "removed", error) from None
        _check(place, Mode.READ_WRITE, changed, quiet=then is not None)
        if then is not None:
            finish(place, then, changed=changed)


def _failed(switch: FileSwitch, what: str, error: OSError) -> Failed:
    why, mode = error.strerror or error, switch.check().mode
    return Failed(f"{switch.name} can't be {what} ({why}): the mode is {mode}.")


def _check(place: Place, mode: Mode, changed: bool, *, quiet: bool) -> None:
    """Show the state that came of it. With JSON, a wait that follows tells it with its own end."""
    snapshot = place.snapshot()
    found = snapshot.state.mode
    if found is not mode or not (quiet and place.as_json):
        show(place, snapshot, changed=changed)
    if found is not mode:
        raise Failed(f"The mode is {found} all the same: somebody else has just moved it.")


def _warn_of_nobody(place: Place) -> None:
    if Verdict(None, tuple(place.registry.read())).nobody:
        note(
            f"Nobody is registered in {place.registry.name}: whether any process obeys is not "
            "known. If the application's workers report elsewhere, give --workers DIR."
        )
