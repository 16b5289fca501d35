"""The wall clock of one process, set back for a while."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from sa_readonly import mode

BACK = 3600.0  # seconds


def set_back(seconds: float) -> None:
    """Have `time.time()` and the package's `now()` tell an earlier hour, for so many seconds."""
    real: Any = time.time
    now: Any = mode.now

    def put(told: Any, told_now: Any, was_now: Any) -> None:
        time.time = told
        for name, module in list(sys.modules.items()):
            if name.startswith("sa_readonly") and getattr(module, "now", None) is was_now:
                module.now = told_now  # type: ignore[attr-defined]  # each has imported it

    def earlier() -> Any:
        return now() - timedelta(seconds=BACK)

    put(lambda: real() - BACK, earlier, now)
    try:
        time.sleep(seconds)
    finally:
        put(real, now, earlier)
