"""``sa-readonly on`` and ``sa-readonly off``: the file or the key is created, or removed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from ..announced import in_words
from ..mode import Announced, Mode, State, now
from ..text import parse_time
from ..workers.verdict import Verdict
from .operate import operate
from .options import Command, Where, from_now, json_too, options, the_switch
from .place import Place, show
from .record import Record
from .terminal import Failed, local, note
from .wait import finish, ignore_dead, limits, only_with_wait, the_server, wait_here
from .waiting import HOLDS

_NEXT = (
    "Processes notice within their ttl; each logs it once. "
    "`sa-readonly wait` tells when all have, and which have not."
)
_and_wait = click.option("--wait", is_flag=True, help="Then wait, as `sa-readonly wait` does.")
_about_the_switch = options(the_switch, json_too)


def _until(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    until = from_now(value) or parse_time(value)
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
@_about_the_switch
def on(
    *,
    reason: str | None,
    until: datetime | None,
    wait: bool,
    where: Where,
    as_json: bool,
    **how: Any,
) -> None:
    """Turn the application read-only: create the file or the key.

    That it is there already is no error. Then --reason and --until change its text, and what is not
    given stays.

    With --wait it exits as `sa-readonly wait` does.
    """
    only_with_wait(wait)
    with operate(where, as_json) as place:
        then = wait_here(place, Mode.READ_ONLY, turning_on=True, **how) if wait else None
        record = Record(place)
        announced = _announced(place, record.before)
        if announced is not None and not announced.over:
            reason = announced.reason if reason is None else reason
            until = until or announced.until
        changed = place.turn_on(reason, until)
        record.turned("on", changed=changed)
        if announced is not None:
            _no_longer_announced(place, announced)
        _check(place, Mode.READ_ONLY, changed, quiet=then is not None)
        _warn_of_nobody(place)
        if then is not None:
            finish(place, then, changed=changed)
    if not as_json:
        click.echo(_NEXT)


@click.command(cls=Command)
@_and_wait
@limits
@_about_the_switch
def off(*, wait: bool, where: Where, as_json: bool, **how: Any) -> None:
    """Let the application write again: remove the file or the key.

    That it is not there is no error. With --wait it exits as `sa-readonly wait` does.
    """
    only_with_wait(wait)
    with operate(where, as_json) as place:
        then = wait_here(place, Mode.READ_WRITE, **how) if wait else None
        record = Record(place)
        changed = place.turn_off()
        record.turned("off", changed=changed)
        _check(place, Mode.READ_WRITE, changed, quiet=then is not None)
        if then is not None:
            try:
                finish(place, then, changed=changed)
            except SystemExit as ended:
                if ended.code == HOLDS:
                    place.turned_off()
                raise
        place.turned_off()


def _announced(place: Place, before: State | None) -> Announced | None:
    """Return what is announced, if it was read-write: then that is turned on now."""
    if before is None or before.read_only:
        return None
    try:
        return place.announced()
    except click.ClickException as error:
        note(f"What is announced is not taken: {error.message}")
        return None


def _no_longer_announced(place: Place, announced: Announced) -> None:
    told = in_words(announced, local)
    try:
        place.announce(None)
        note(f"It was announced, and is no more: {told}")
    except click.ClickException as error:
        note(f"It is still announced: {told}. {error.message}")


def _check(place: Place, mode: Mode, changed: bool, *, quiet: bool) -> None:
    """Show the state that came of it. With JSON, a wait that follows tells it with its own end."""
    snapshot = place.snapshot()
    found = snapshot.state.mode
    if found is not mode or not (quiet and place.as_json):
        show(place, snapshot, changed=changed)
    if found is not mode:
        why = "somebody else has just moved it"
        if snapshot.state.read_only and snapshot.state.generation is None:
            why = str(snapshot.state.reason)
        raise Failed(f"The mode is {found} all the same: {why}.")


def _warn_of_nobody(place: Place) -> None:
    if Verdict(None, tuple(place.read())).nobody:
        note(
            f"Nobody is registered in {place.registry_name}: whether any process obeys is not "
            f"known. {place.elsewhere}"
        )
