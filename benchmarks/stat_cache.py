"""One look at the mode inside ttl, beside the clock and the file system."""

from __future__ import annotations

import os
import tempfile
import time

from benchmarks.measure import Work, compare, main
from sa_readonly import FileSwitch


def run(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "read-only.txt")
        switch = FileSwitch(path, ttl=3600)
        switch.check()

        def clock(number: int) -> None:
            for _ in range(number):
                time.monotonic()

        def as_a_session_does(number: int) -> None:
            for _ in range(number):
                if time.monotonic() < switch.fresh_until:
                    switch.known.mode
                else:
                    switch.refresh()

        def read_only(number: int) -> None:
            for _ in range(number):
                switch.read_only

        def isfile(number: int) -> None:
            for _ in range(number):
                os.path.isfile(path)

        contenders: dict[str, Work] = {
            "time.monotonic()": clock,
            "a look, as a session does it": as_a_session_does,
            "switch.read_only": read_only,
            "os.path.isfile()": isfile,
        }
        return {"One look at the mode": compare(contenders, number=20_000, rounds=rounds)}


if __name__ == "__main__":
    main(run)
