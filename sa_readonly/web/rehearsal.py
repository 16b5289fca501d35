"""The page of a rehearsal: what a flip would refuse, as text, JSON and HTML."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ..rehearsal.sheet import told
from .accept import HTML, JSON
from .page import document, escaped

if TYPE_CHECKING:
    from ..rehearsal.sheet import Rehearsal, Row

__all__ = ["rendered"]

_HEADS = ("Where", "What", "Kind", "Times", "Behind", "Last")


def rendered(found: Rehearsal, kind: str, *, details: bool) -> str:
    """Return the page.

    :param kind: the media type.
    :param details: whether places in the code are told. Others than the operators may see the page.
    """
    sums = found.sums if details else found.sums[:2]
    if kind == JSON:
        told = found.as_json() if details else {"rehearsing": found.on, "sums": sums}
        return json.dumps(told, indent=2) + "\n"
    rows = found.rows if details else ()
    if kind != HTML:
        lines = ["; ".join(filter(None, _cells(row, found.base))) for row in rows]
        return "".join(f"{line}\n" for line in [*sums, *lines])
    parts = ["<h1>What read-only would refuse</h1>\n"]
    parts += [f"<p>{escaped(line[:1].upper() + line[1:])}.</p>\n" for line in sums]
    if rows:
        heads = "".join(f'<th scope="col">{name}</th>' for name in _HEADS)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{escaped(cell)}</td>" for cell in _cells(row, found.base))
            + "</tr>\n"
            for row in rows
        )
        parts.append(
            f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
        )
    return document("Rehearsal", "".join(parts))


def _cells(row: Row, base: str) -> tuple[str, ...]:
    (site, route, _, kind), entry = row.key, row.entry
    where = site.below(base)
    if route is not None:
        where += f"\n{route}"
    last = datetime.fromtimestamp(entry.last, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    return where, told(row), kind, str(entry.first), str(entry.behind), last
