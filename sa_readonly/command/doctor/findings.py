"""What the doctor finds, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from rich.table import Table
from rich.text import Text

Severity = Literal["danger", "warning", "note", "ok"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # the worst first
_STYLES = dict(zip(SEVERITIES, ("bold red", "yellow", "cyan", "green"), strict=True))


@dataclass(frozen=True)
class Finding:
    """One fact about an installation.

    :param severity: ``"danger"`` if because of it a write could reach a database while read-only.
    :param code: names the kind of finding and never changes, so that scripts can rely on it.
        ``docs/doctor.md`` lists all codes, so each is written out where the finding is made.
    :param what: the fact.
    :param meaning: what follows from it.
    :param cure: what to do, or an empty string.
    """

    severity: Severity
    code: str
    what: str
    meaning: str
    cure: str = ""


danger = partial(Finding, "danger")
warning = partial(Finding, "warning")
note = partial(Finding, "note")
ok = partial(Finding, "ok")


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with the worst first."""
    return sorted(findings, key=lambda one: SEVERITIES.index(one.severity))


def table(findings: Iterable[Finding]) -> Table:
    """Return the findings as a table for a terminal."""
    made = Table(show_lines=True, expand=True)
    made.add_column("", no_wrap=True)
    for title in ("Finding", "What it means", "Cure"):
        made.add_column(title, overflow="fold", ratio=1)
    for one in findings:
        what = Text.assemble(one.what, " ", (f"[{one.code}]", "dim"))
        severity = Text(one.severity, style=_STYLES[one.severity])
        made.add_row(severity, what, Text(one.meaning), Text(one.cure))
    return made


def plain(findings: Iterable[Finding]) -> str:
    """Return the findings as lines that are not wrapped."""
    lines = []
    for one in findings:
        lines.append(f"{one.severity:<8} {one.what} [{one.code}]")
        lines.append(f"{'':<8} {one.meaning}")
        if one.cure:
            lines.append(f"{'':<8} Cure: {one.cure}")
    return "\n".join(lines)


def summary(findings: Iterable[Finding]) -> str:
    """Return one line that says whether a write could reach a database while read-only."""
    severities = [one.severity for one in findings]
    counts = ", ".join(f"{severities.count(one)} {one}" for one in SEVERITIES)
    if "danger" in severities:
        return f"A write could reach a database while read-only ({counts})."
    return f"No way was found for a write to reach a database while read-only ({counts})."


def capital(words: str) -> str:
    """Return words with the first letter as it begins a sentence."""
    return words[:1].upper() + words[1:]


def listed(names: list[str], most: int = 4) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
