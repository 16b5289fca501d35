"""What a run did, as the tables of docs/proof.md."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from benchmarks.chaos.faults import FAULTS
from benchmarks.history import READ_ONLY, READ_WRITE, History, Violation, counted

if TYPE_CHECKING:
    from benchmarks.chaos.__main__ import Run


def spread(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return "-"
    parts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"{parts[49]:.2f} s, {parts[98]:.2f} s, {max(seconds):.2f} s"


def rows(run: Run, history: History, seconds: float) -> dict[str, object]:
    kinds = history.kinds
    ends: Counter[str] = Counter()
    for one in history.transactions.values():
        if one.begin is not None:
            what = "writes" if one.begin.told["writes"] else "reads"
            ends[f"{what} {one.end.kind if one.end else 'without an end'}"] += 1
    holding = Counter(one.told["to"] for one in kinds["wait"] if one.told["holds"])
    return {
        "flips": run.flips,
        "seconds": f"{seconds:.0f}",
        "turns of the file": len(kinds["turned"]),
        "processes": len(kinds["start"]),
        "flips logged": len(kinds["flip"]),
        "waits that said drained": holding[READ_ONLY],
        "... took (median, 99 of 100, longest)": spread(run.operator.took[READ_ONLY]),
        "waits that said read-write": holding[READ_WRITE],
        "... took": spread(run.operator.took[READ_WRITE]),
        **{name: ends[name] for name in sorted(ends)},
        "rows at the server": sum(one.row is not None for one in history.transactions.values()),
    }


def as_table(head: tuple[str, str], told: dict[str, object]) -> str:
    lines = [head, ("---", "---"), *((name, str(one)) for name, one in told.items())]
    return "\n".join(f"| {one} | {other} |" for one, other in lines)


def table(run: Run, history: History, violations: list[Violation], seconds: float) -> str:
    today = datetime.datetime.now(datetime.timezone.utc).date()
    head = (
        f"{today}, seed {run.ground.seed}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, PostgreSQL {run.ground.servers.primary.version}:"
    )
    faults = {name: run.done[name] for name in FAULTS if name in run.done}
    return "\n\n".join(
        (
            head,
            as_table(("what happened", "number"), rows(run, history, seconds)),
            as_table(("fault", "times"), dict(faults)),
            as_table(("property", "broken"), dict(counted(violations))),
        )
    )
