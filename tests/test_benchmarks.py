"""The benchmarks run; what they measure is judged by people."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.app import once

TRANSACTIONS = [
    "A transaction of 1",
    "A transaction of 10",
    "A transaction of a flush",
    "A transaction of 1",  # async
]


@once
def test_all_benchmarks_run_with_one_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rounds", "2", "--json"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    tables = json.loads(done.stdout)
    assert [title.split(",")[0] for title in tables] == [
        "One look at the mode",
        "One look at the mode",
        "How old the answer is",
        *TRANSACTIONS,  # of SQLite
        *TRANSACTIONS,  # of PostgreSQL
        "1 flips under 32 threads",
        "1 flips under 32 threads",
        *["A flip of 0.5 s"] * 4,
        "Sessions that stay open",
        "Threads",
        "Workers in the directory",
        "What transactions leave behind",
        "Making an engine",
        "An engine for one statement",
        "A Session on an engine by URL",
        "A Session on an engine by URL",
        "Idle on etcd",
        "Calls while read-write",
        "Calls while read-only",
        "40 workers on etcd",  # idle
        "40 workers on etcd",  # flips
    ]
    rows = [row for table in tables.values() for row in table.values()]
    assert all(row["us"] > 0 and row["ratio"] > 0 for row in rows if "us" in row)
    assert [row["failed"] for row in rows if "failed" in row] == [0] * 5
