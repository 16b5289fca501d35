"""What processes have noted, as bytes for a reader and as one table of all, the worst first."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..text import printable
from .callsite import Site
from .notes import DRAIN, MOST, READ, Entry, Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .notes import Notebook

__all__ = [
    "LIMIT",
    "Rehearsal",
    "Row",
    "Sheet",
    "decoded",
    "encoded",
    "put_together",
    "sheet_of",
    "told",
]

LIMIT = 256 * 1024
"""Bytes of one process's sheet."""

_FORMAT = 1
_LONGEST = 500  # characters of a text


class Row(NamedTuple):
    """One place, with what was noted there.

    :param key: the place, the route, the role and the kind.
    :param entry: how often, and when last.
    """

    key: Key
    entry: Entry

    @property
    def is_refusal(self) -> bool:
        """True if a flip would refuse something here."""
        return self.key.kind not in (READ, DRAIN)

    @property
    def rank(self) -> tuple[object, ...]:
        """By which rows are sorted: first what the night would refuse, then what would hold it."""
        kind, entry = self.key.kind, self.entry
        group = 3 if kind == READ else 1 if kind == DRAIN else 0 if entry.first else 2
        return group, -entry.longest, -entry.first, -entry.behind, self.key.site, self.key.kind

    def as_json(self) -> dict[str, object]:
        """Return it as what :mod:`json` takes."""
        site, entry = self.key.site, self.entry
        told: dict[str, object] = {**site._asdict(), **self.key._asdict(), **vars(entry)}
        del told["site"]
        if self.key.kind != DRAIN:
            del told["longest"], told["idle"]
        return told


@dataclass(frozen=True)
class Sheet:
    """What one process has noted.

    :param on: whether it rehearses now.
    :param since: when it began, in wall-clock seconds since 1970, or None if it never has.
    :param written: when this was told, likewise.
    :param rows: the places.
    :param left_out: how often something was noted at a place that is not among them, or how many of
        them are left out, as there was no room.
    :param name: what the registry calls the process.
    :param problem: why there is nothing of it, or None.
    """

    on: bool = False
    since: float | None = None
    written: float | None = None
    rows: Sequence[Row] = ()
    left_out: int = 0
    name: str = ""
    problem: str | None = None


def sheet_of(notebook: Notebook, most: int = MOST) -> Sheet:
    """Return what this process has noted.

    :param most: how many places are told, the worst ones.
    """
    rows = [Row(key, replace(entry)) for key, entry in list(notebook.entries.items())]
    rows.sort(key=lambda row: row.rank)
    left_out = notebook.dropped + len(rows[most:])
    return Sheet(notebook.on, notebook.since, time.time(), rows[:most], left_out)


# -- as bytes --------------------------------------------------------------------------------

_ENTRY = tuple(one.name for one in fields(Entry))


def encoded(sheet: Sheet, limit: int = LIMIT) -> bytes:
    """Return a sheet as at most so many bytes; the least of it is left out if need be."""
    rows = list(sheet.rows)
    while True:
        told = {
            "format": _FORMAT,
            "on": sheet.on,
            "since": sheet.since,
            "written": sheet.written,
            "left_out": sheet.left_out + len(sheet.rows) - len(rows),
            "rows": [_as_list(row) for row in rows],
        }
        content = json.dumps(told, separators=(",", ":")).encode()
        if len(content) <= limit:
            return content
        del rows[min(len(rows) - 1, len(rows) * limit // len(content)) :]


def _as_list(row: Row) -> list[object]:
    site, key, entry = row.key.site, row.key, row.entry
    values = [*site, key.route, key.role, key.kind, *(getattr(entry, name) for name in _ENTRY)]
    return [value[-_LONGEST:] if isinstance(value, str) else value for value in values]


def decoded(content: bytes, name: str) -> Sheet:
    """Return what another process has told; what can't be read is a problem of the sheet."""
    try:
        if len(content) > LIMIT:
            raise ValueError
        told = json.loads(content)
        if told["format"] != _FORMAT:
            return Sheet(name=name, problem="its notes are of another version of sa_readonly")
        return Sheet(
            bool(told["on"]),
            None if told["since"] is None else float(told["since"]),
            float(told["written"]),
            [_row(one) for one in told["rows"][:MOST]],
            int(told["left_out"]),
            name,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return Sheet(name=name, problem="its notes are damaged")


def _row(values: Any) -> Row:
    file, line, function, route, role, kind, *entry = values
    what, first, behind, last, longest, idle = entry
    site = Site(printable(file), int(line), printable(function))
    key = Key(site, None if route is None else printable(route), printable(role), printable(kind))
    return Row(
        key,
        Entry(printable(what), int(first), int(behind), float(last), float(longest), bool(idle)),
    )


# -- of all processes ------------------------------------------------------------------------


@dataclass(frozen=True)
class Rehearsal:
    """What all processes have noted.

    :param rows: the places, each once, the worst first.
    :param sheets: what each process has told.
    """

    rows: Sequence[Row]
    sheets: Sequence[Sheet]

    @property
    def on(self) -> int:
        """How many processes rehearse."""
        return sum(one.on for one in self.sheets)

    @property
    def left_out(self) -> int:
        """How much is left out, as a process had no room for it."""
        return sum(one.left_out for one in self.sheets)

    @property
    def base(self) -> str:
        """The directory that all the files are below, with a slash at its end, or nothing."""
        files = {row.key.site.file for row in self.rows if os.path.isabs(row.key.site.file)}
        try:
            common = os.path.commonpath([os.path.dirname(file) for file in files])
        except ValueError:
            return ""
        return common if common.endswith(os.sep) else common + os.sep

    def as_json(self) -> dict[str, object]:
        """Return it as what :mod:`json` takes."""
        return {
            "rehearsing": self.on,
            "workers": [
                {
                    "name": one.name,
                    "on": one.on,
                    "since": one.since,
                    "written": one.written,
                    "left_out": one.left_out,
                    "problem": one.problem,
                }
                for one in self.sheets
            ],
            "sites": [row.as_json() for row in self.rows],
        }

    @property
    def sums(self) -> list[str]:
        """Lines for people: what there is, and what is left out."""
        refused = sum(row.is_refusal and row.entry.first > 0 for row in self.rows)
        behind = sum(row.is_refusal and not row.entry.first for row in self.rows)
        holding = sum(row.key.kind == DRAIN for row in self.rows)
        reading = sum(row.key.kind == READ for row in self.rows)
        told = [
            f"{self.on} of {len(self.sheets)} workers rehearse",
            f"refused at {_places(refused)}, and behind that at {_places(behind)}; "
            f"held for long at {_places(holding)}; reads served at {_places(reading)}",
        ]
        if self.left_out:
            told.append(f"full: {self.left_out} more are left out")
        told += [f"{one.name}: {one.problem}" for one in self.sheets if one.problem]
        return told


def _places(number: int) -> str:
    return "1 place" if number == 1 else f"{number} places"


def told(row: Row) -> str:
    """Return what a row says beside its place, in a few words."""
    entry, kind = row.entry, row.key.kind
    if kind == DRAIN:
        return f"held {entry.longest:.1f} s, {'idle' if entry.idle else 'running'}"
    if kind == READ:
        return "is served by the read-only engine"
    return entry.what


def put_together(sheets: Iterable[Sheet]) -> Rehearsal:
    """Return what all processes have noted as one table, the worst first."""
    sheets = list(sheets)
    found: dict[Key, Entry] = {}
    for row in (row for sheet in sheets for row in sheet.rows):
        known = found.get(row.key)
        if known is None:
            found[row.key] = replace(row.entry)
            continue
        known.first += row.entry.first
        known.behind += row.entry.behind
        if row.entry.last >= known.last:
            known.last, known.what = row.entry.last, row.entry.what
        if row.entry.longest >= known.longest:
            known.longest, known.idle = row.entry.longest, row.entry.idle
    rows = [Row(key, entry) for key, entry in found.items()]
    return Rehearsal(sorted(rows, key=lambda row: row.rank), sheets)
