"""The promises under load, on PostgreSQL with asyncpg."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.app import make_app, once
from tests.async_load import FLIPS


@once
def test_200_tasks_lose_nothing_over_flips(pg_urls: dict[str, Any], place: Path) -> None:
    with make_app(place, dict(pg_urls)) as app:
        urls = [
            url.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
            for url in (app.urls["rw"], app.urls["ro"])
        ]
        program = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.async_load"]
        done = subprocess.run(
            [*program, *urls, str(app.path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        written = app.titles("rw")
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert seen["complaints"] == []
    assert sorted(seen["committed"]) == sorted(written)
    assert len(set(written)) == len(written)
    assert seen["straddled"] == 0
    assert seen["left"] == [0] * (FLIPS // 2)
    assert seen["threads"] <= 0
    assert min(seen["reads"]["rw"], seen["reads"]["ro"], seen["refused"]) > 20 * FLIPS
