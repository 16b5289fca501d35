"""The benchmarks run; what they measure is judged by people."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_all_benchmarks_run_with_one_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rounds", "2", "--json"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    tables = json.loads(done.stdout)
    assert list(tables) == ["One look at the mode", "A transaction of 1", "A transaction of 10"]
    assert all(row["us"] > 0 for table in tables.values() for row in table.values())
