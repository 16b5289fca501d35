"""What the history tells: a line for each `on`, `off` and `wait`, and for what was found out.

Nothing is decided by it. What goes wrong with it is told, and stops nothing.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from ..etcd.errors import EtcdError
from ..mode import Mode, now
from ..text import parse_time
from ..workers import process
from .terminal import note
from .waiting import shortened

if TYPE_CHECKING:
    from ..mode import State
    from ..workers.status import Snapshot, WorkerStatus
    from .place import History, Place
    from .waiting import VerdictWait

Line = dict[str, Any]

LONGEST = 32768  # bytes of a line
_NAMED = 20  # workers that were forced to write, as a line names them
_SHORT = 300  # characters of a text in a line that would be too long
_DID = ("on", "off", "wait")


class Record:
    """What one run of a command adds to the history of a place.

    It is made before the switch is moved, as then the history and the switch show what was done
    otherwise, and written after that: on a full disk the flip has what room there is.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.before: State | None = None
        """What there was, or None if it can't be told."""
        self._found: list[Line] = []
        self._since: datetime | None = None
        self._workers: Line = {}
        with suppress(click.ClickException):  # the flip fails, too, and says so
            snapshot = place.snapshot()
            state = self.before = snapshot.state
            self._workers = _of_workers(snapshot)
            self._since = state.since
            with suppress(OSError, EtcdError):  # what is added to it fails, too, and says so
                lines, _ = lines_of(place.history)
                self._found = found_out(lines, state)
                self._since = _since([*lines, *self._found], state)

    def turned(self, did: str, *, changed: bool) -> None:
        """Add the line of an `on` or an `off`, after the switch was moved."""
        line: Line = {"did": did, "changed": changed}
        if did == "on":
            state = None
            with suppress(click.ClickException):  # it was moved all the same
                state = self._place.state()
            line |= _text(state if state is not None and state.generation is not None else None)
            line["forced"] = self._workers.get("forced", [])
        else:
            seconds = None
            if changed and self._since is not None and self._since <= now():  # by one clock
                seconds = round((now() - self._since).total_seconds(), 3)
            line |= {**_text(self.before), "seconds": seconds, **self._workers}
        self._write(line)

    def waited(self, made: VerdictWait, code: int) -> None:
        """Add the line of a `wait` that has ended."""
        progress = made.progress
        workers = () if progress is None else progress.workers
        self._write(
            {
                "did": "wait",
                "mode": str(made.mode),
                **_text(self.before),
                "seconds": progress and round(progress.seconds, 3),
                "code": code,
                "message": progress and str(progress),
                "not_drained": _whys(workers),
            }
        )

    def _write(self, line: Line) -> None:
        lines = [*self._found, line]
        self._found = []
        write(self._place, lines)


def write(place: Place, lines: Iterable[Line]) -> None:
    """Append lines, or say that they are lost."""
    try:
        place.history.append(b"".join(map(encoded, lines)))
    except (OSError, EtcdError) as error:
        why = getattr(error, "strerror", None) or error
        note(f"The line of {place.history.name} is lost, and nothing else ({why}).")


# -- a line ----------------------------------------------------------------------------------


def encoded(line: Line) -> bytes:
    """Return a line as bytes, with its time, user and host; no longer than :data:`LONGEST`."""
    whole = {"at": now().isoformat(), "user": _user(), "host": process.host(), **line}
    content = json.dumps(whole).encode() + b"\n"
    if len(content) > LONGEST:
        short = {name: _shortened(value) for name, value in whole.items()}
        content = json.dumps(short).encode() + b"\n"
    return content


def decoded(content: bytes) -> Line | None:
    """Read a line; None if it is none, as one that was torn or comes from another hand."""
    if len(content) > LONGEST:
        return None
    try:
        line = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not _is_plain(line) or line.get("did") not in _DID:
        return None
    if not isinstance(line.get("at"), str) or parse_time(line["at"]) is None:
        return None
    return line


def _is_plain(value: object, depth: int = 3) -> bool:
    """True if it is no deeper than a line is, and has no number that JSON has not."""
    if isinstance(value, (dict, list)):
        several = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(one, depth - 1) for one in several)
    return not isinstance(value, float) or math.isfinite(value)


def lines_of(history: History) -> tuple[list[Line], int]:
    """Return the lines that can be read, and how many can't.

    What was found out by one command while another had not yet written its own line is left out.

    :raises OSError: if it can't be read; of a history in etcd, EtcdError.
    """
    read = [decoded(content) for content in history.read()]
    lines = [line for line in read if line is not None]
    told = {_what(line) for line in lines if line.get("changed")}
    kept = []
    for line in lines:
        what = _what(line)
        if line.get("found"):
            if what in told:
                continue
            told.add(what)
        kept.append(line)
    return kept, len(read) - len(lines)


def found_out(lines: Sequence[Line], state: State) -> list[Line]:
    """Return a line if what is there now is not what the last line has left."""
    if state.read_only and state.generation is None:  # it can't be told
        return []
    last = next((one for one in reversed(lines) if one["did"] != "wait"), None)
    left = last.get("generation") if last is not None and last["did"] == "on" else None
    if left == state.generation:
        return []
    if state.read_only:
        since = None if state.since is None else state.since.isoformat()
        return [{"did": "on", "found": True, **_text(state), "since": since}]
    return [{"did": "off", "found": True, "generation": left}]


def _what(line: Line) -> tuple[str, str]:
    return str(line["did"]), json.dumps(line.get("generation"))


def _since(lines: Sequence[Line], state: State) -> datetime | None:
    """Return since when it is read-only: an `on` that edits the text begins no other period.

    What was found may have come and gone before, so that it counts from its own time.
    """
    since = state.since
    for line in reversed(lines):
        if line["did"] == "off" and line.get("changed", True):
            break
        if line["did"] != "on":
            continue
        at = line.get("since") if line.get("found") else line["at"]
        time = parse_time(at) if isinstance(at, str) else None
        if time is not None and (since is None or time < since):
            since = time
        if line.get("found"):
            break
    return since


def _text(state: State | None) -> Line:
    if state is None:
        return {"reason": None, "until": None, "generation": None}
    until = None if state.until is None else state.until.isoformat()
    return {"reason": state.reason, "until": until, "generation": state.generation}


def _of_workers(snapshot: Snapshot) -> Line:
    """Return what an `off` tells of the workers."""
    forced = [
        {
            "worker": one.called,
            "transactions": one.report.begun,
            "first": _iso(one.report.begun_first),
            "last": _iso(one.report.begun_last),
        }
        for one in snapshot.workers
        if one.report is not None and one.report.forced is Mode.READ_WRITE
    ]
    return {"not_drained": _whys(snapshot.workers), "forced": forced[:_NAMED]}


def _whys(workers: Iterable[WorkerStatus]) -> list[str]:
    return shortened([f"{one.called}: {one.why}" for one in workers if one.why])


def _shortened(value: object) -> object:
    if isinstance(value, str):
        return value[:_SHORT]
    if isinstance(value, list):
        return [_shortened(one) for one in value[:5]]
    if isinstance(value, dict):
        return {name: _shortened(one) for name, one in value.items()}
    return value


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError):  # what no calendar has
        return None


def _user() -> str:
    """Return the user of this process, and the one that called it by sudo."""
    try:
        number = os.getuid()
        name: str = importlib.import_module("pwd").getpwuid(number).pw_name  # not on Windows
    except (ImportError, AttributeError):
        return os.environ.get("USERNAME", "?")
    except KeyError:
        name = f"user {number}"
    sudo = os.environ.get("SUDO_USER")
    return f"{sudo} as {name}" if sudo and number == 0 else name
