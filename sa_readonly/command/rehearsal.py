"""``sa-readonly rehearsal``: what a flip would refuse, as the processes that run have noted it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import datetime, timezone

import click

from ..rehearsal.notes import DRAIN, READ
from ..rehearsal.sheet import Rehearsal, Row, put_together, told
from .operate import operate
from .options import Command, Where, json_too, the_switch
from .place import Place
from .terminal import local, say

_HEAD = ("Times", "Behind", "Kind", "Last", "Where", "What")


@click.command(cls=Command)
@click.option("--start", is_flag=True, help="Have the processes that run rehearse from now on.")
@click.option("--stop", is_flag=True, help="Have them rehearse no more; what they noted stays.")
@the_switch
@json_too
def rehearsal(*, start: bool, stop: bool, where: Where, as_json: bool) -> None:
    """Tell what a flip would refuse, and where.

    By place in the application's code, the worst first. Nothing is refused in a rehearsal, and no
    mode changes. Times are those that the night would meet; what stands behind another write of its
    transaction would be refused once that is gone.
    """
    if start and stop:
        raise click.UsageError("--start and --stop are given together. Give one of them.")
    with operate(where, as_json) as place:
        changed = place.rehearse(on=start) if start or stop else False
        found = put_together(place.sheets())
        if as_json:
            told = {**place.facts(), "asked": place.is_rehearsed(), "changed": changed}
            say(json.dumps({**told, **found.as_json()}))
        elif start or stop:
            _say_turned(place, on=start, changed=changed)
        else:
            _show(place, found)


def _say_turned(place: Place, *, on: bool, changed: bool) -> None:
    if on:
        already = "" if changed else "already "
        say(
            f"The processes of {place.name} are {already}asked to rehearse; "
            "they see it within seconds."
        )
        say(
            f"See what they note: sa-readonly rehearsal, up to {place.sheets_every:g} s later. "
            "End it: sa-readonly rehearsal --stop."
        )
    else:
        say(
            f"The processes of {place.name} are asked to rehearse no more."
            if changed
            else f"The processes of {place.name} were not asked to rehearse."
        )


def _show(place: Place, found: Rehearsal) -> None:
    if not any(one.since for one in found.sheets):
        asked = "they are asked to, and have not begun yet"
        cure = asked if place.is_rehearsed() else "begin it with --start"
        say(f"No worker in {place.registry_name} has rehearsed: {cure}.")
    else:
        lines = [_HEAD, *(_cells(row, found.base) for row in found.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD) - 1)]
        for line in lines if found.rows else ():
            say("  ".join([*map(str.ljust, line, widths), line[-1]]).rstrip())
    for text in _footer(place, found):
        say(text)


def _footer(place: Place, found: Rehearsal) -> Iterable[str]:
    if found.rows and found.base:
        yield f"below {found.base}"
    yield from found.sums if found.sheets else ()
    if _has_just_begun(place, found):
        yield f"these reports are up to {place.sheets_every:g} s old: look again"


def _has_just_begun(place: Place, found: Rehearsal) -> bool:
    """Return whether the next sheet of a process may be the first to tell what it notes."""
    rehearse = [one.since for one in found.sheets if one.on and one.since is not None]
    late = place.is_rehearsed() and any(not one.on and not one.problem for one in found.sheets)
    begun = max(rehearse, default=0.0) > time.time() - place.sheets_every
    return late or begun or (bool(rehearse) and not found.rows)


def _cells(row: Row, base: str) -> tuple[str, ...]:
    key, entry = row.key, row.entry
    last = local(datetime.fromtimestamp(entry.last, timezone.utc))
    what = [told(row)]
    if key.role != "primary":
        what.append(f"role {key.role}")
    if key.route is not None:
        what.append(key.route)
    behind = "" if key.kind in (READ, DRAIN) else str(entry.behind)
    return str(entry.first), behind, key.kind, last, key.site.below(base), "; ".join(what)
