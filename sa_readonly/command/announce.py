"""``sa-readonly announce``: what people see before the night."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import click

from ..announced import as_json as announced_json
from ..announced import content_of, in_words
from ..mode import Announced, now
from ..text import as_read, has_offset, parse_time
from .operate import operate
from .options import Command, Where, from_now, json_too, span, the_switch_alone
from .place import Place
from .terminal import CannotRun, local, say, shown


def _at(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    later = from_now(value)
    time = later or parse_time(value)
    if time is None:
        raise click.BadParameter(
            f"{value!r} is neither an ISO 8601 time, such as 2030-01-31T23:30+01:00 or "
            "2030-01-31T22:30Z, nor a duration from now, such as +30m or +2h."
        )
    if later is None and not has_offset(value):
        raise click.BadParameter(
            f"{value} has no time zone, and is read by people in others: write it as "
            f"{time.astimezone().isoformat(timespec='minutes')}, if it is meant so."
        )
    if time <= now():
        raise click.BadParameter(f"{value} is not in the future: it means {local(time)}.")
    return time


def _for(_context: click.Context, _option: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    try:
        duration = span(value)
    except OverflowError:
        raise click.BadParameter("so long no calendar reaches.") from None
    if not duration:
        raise click.BadParameter(f"{value!r} is no duration, such as 90m, 2h or 1d.")
    return duration


def _no_until(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError("No --until here: tell how long it takes, as --for 2h.")


@click.command(cls=Command)
@click.option(
    "--at",
    metavar="TIME|+2h",
    callback=_at,
    help="When it will be read-only: in ISO 8601, with a time zone, or from now: +30m, +2h, +1d.",
)
@click.option(
    "--for",
    "duration",
    metavar="2h",
    callback=_for,
    help="How long you expect it to take: 90m, 2h. Then it is told no more.",
)
@click.option("--until", hidden=True, expose_value=False, callback=_no_until)  # as `on` has it
@click.option("--reason", metavar="TEXT", help="What people are told.")
@click.option("--cancel", is_flag=True, help="Take back what was announced.")
@the_switch_alone
@json_too
def announce(
    *,
    at: datetime | None,
    duration: timedelta | None,
    reason: str | None,
    cancel: bool,
    where: Where,
    as_json: bool,
) -> None:
    """Tell people when the application will be read-only. No mode changes by it, ever.

    The application, its status page and its responses tell it. `sa-readonly on` takes the reason
    and the time from it where none are given, and removes it.
    """
    if cancel and (at or duration or reason is not None):
        raise click.UsageError("--cancel goes alone: it takes back what was announced.")
    if not cancel and at is None:
        raise click.UsageError("Give --at TIME, when it will be read-only; or --cancel.")
    announced = None if at is None else _made(at, duration, reason)
    with operate(where, as_json) as place:
        before = place.announced()
        if announced != before or (cancel and before is None):
            place.announce(announced)
        _tell(place, announced, changed=announced != before)


def _made(at: datetime, duration: timedelta | None, reason: str | None) -> Announced:
    """Return what is announced, as it will be read.

    :raises CannotRun: if it would be read otherwise.
    """
    try:
        until = None if duration is None else at + duration
        announced = Announced(at, until, as_read(reason))
        content_of(announced)
    except OverflowError:
        raise click.BadParameter("so long no calendar reaches.", param_hint="'--for'") from None
    except ValueError as error:
        raise CannotRun(f"It is not announced: {shown(str(error))}") from None
    return announced


def _tell(place: Place, announced: Announced | None, *, changed: bool) -> None:
    mode = place.state().mode
    if place.as_json:
        told = {"announced": announced_json(announced), "mode": str(mode), "changed": changed}
        say(json.dumps({**place.facts(), **told}))
        return
    what = "nothing" if announced is None else in_words(announced, local)
    say(f"announced {what}\nmode      {mode}\nchanged   {'yes' if changed else 'no'}")
