"""``sa-readonly history``: what operators did, and when and why."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta

import click

from ..etcd.errors import EtcdError
from ..text import parse_time
from .operate import operate
from .options import Command, Where, json_too, the_switch_alone
from .place import Place
from .record import Line, encoded, found_out, lines_of
from .terminal import Failed, local, note, say


@click.command(cls=Command)
@the_switch_alone
@json_too
def history(*, where: Where, as_json: bool) -> None:
    """Tell each `on`, `off` and `wait`, and by whom.

    Also when, why, and how it ended. What was made or removed otherwise is told as such. The
    oldest comes first.
    """
    with operate(where, as_json) as place:
        try:
            lines, damaged = lines_of(place.history)
        except (OSError, EtcdError) as error:
            why = getattr(error, "strerror", None) or error
            raise Failed(f"{place.history.name} can't be read: {why}") from None
        lines += _found_out(place, lines)
        if as_json:
            say(json.dumps({**place.facts(), "history": lines, "damaged": damaged}))
            return
        for line in lines:
            say(_in_words(line))
        if not lines:
            note(f"Nothing stands in {place.history.name} yet.")
        if damaged:
            note(f"{damaged} of the lines can't be read, and are left out.")


def _found_out(place: Place, lines: list[Line]) -> list[Line]:
    """Return what this very command finds out, and add it where this user may."""
    found = found_out(lines, place.state())
    if not found:
        return []
    content = b"".join(map(encoded, found))
    with suppress(OSError, EtcdError):  # the next one finds it out, too
        place.history.append(content)
    return [json.loads(one) for one in content.splitlines()]


def _in_words(line: Line) -> str:
    did = str(line["did"])
    by = f"by {line.get('user')} on {line.get('host')}"
    if did == "wait":
        head = f"wait for {line.get('mode')} {by}"
        told = [line.get("message") or f"exit code {line.get('code')}"]
    elif line.get("found"):
        head = f"{did}, which no command noted: found {by}"
        told = [*_text(line), line.get("since") and f"since {_local(line['since'])}"]
    else:
        head = f"{did} {by}" + ("" if line.get("changed") else ", which changed nothing")
        told = _text(line) if did == "on" else _of_off(line)
    said = "; ".join(str(one) for one in told if one)
    when = _local(line["at"])
    return " / ".join(f"{when} {head}{': ' * bool(said)}{said}".splitlines())


def _text(line: Line) -> list[object]:
    until = line.get("until")
    return [line.get("reason"), until and f"until {_local(until)}"]


def _of_off(line: Line) -> list[object]:
    told: list[object] = []
    seconds = line.get("seconds")
    if isinstance(seconds, (int, float)) and 0 <= seconds < 1e9:
        told.append(f"read-only for {timedelta(seconds=round(seconds))}")
    if missing := _listed(line, "not_drained"):
        told.append("not drained: " + ", ".join(map(str, missing)))
    told += [_forced(one) for one in _listed(line, "forced") if isinstance(one, dict)]
    return told


def _listed(line: Line, name: str) -> list[object]:
    value = line.get(name)
    return value if isinstance(value, list) else []


def _forced(one: Line) -> str:
    told = f"forced to read-write: {one.get('worker')}, {one.get('transactions')} transactions"
    if one.get("first") is None:
        return told
    return f"{told} from {_local(one['first'])} to {_local(one.get('last'))}"


def _local(value: object) -> str:
    time = parse_time(value) if isinstance(value, str) else None
    return str(value) if time is None else local(time)
