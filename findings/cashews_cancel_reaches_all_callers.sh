#!/usr/bin/env bash
# cashews: when one of several callers of a cached function is cancelled, all the others get CancelledError.
#
# Guess: calls for the same key that come while one is running share its work, and the cancellation of one caller (its
#     client went away, its timeout struck) is its own affair: the others get the value, or one of them does the
#     work anew.
# Truth: all of them await one task without a shield, so to cancel any caller, the first or the last to come, cancels
#     the work, and callers that nobody has cancelled get CancelledError. One client that hangs up fails the requests
#     of all others; a server's `except Exception` does not see it, and a TaskGroup takes its task for one that was
#     cancelled on purpose, says nothing and goes on without the value. async_lru shields the work.
# Versions: cashews 7.6.0, async_lru 2.4.0.
# Source: cashews/decorators/locked.py, thunder_protection, which the decorators of cashews use.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check cashews==7.6.0 async-lru==2.4.0

venv/bin/python - <<'PY'
import asyncio
from importlib.metadata import version

from async_lru import alru_cache
from cashews import cache

print(f"cashews {version('cashews')}, async_lru {version('async_lru')}")
cache.setup("mem://")


async def five_callers(decorate, cancelled=0):
    runs = []

    @decorate
    async def work():
        runs.append(1)
        await asyncio.sleep(0.3)
        return "value"

    tasks = []
    for _ in range(5):
        tasks.append(asyncio.create_task(work()))
        await asyncio.sleep(0.02)
    tasks[cancelled].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [result if isinstance(result, str) else type(result).__name__ for result in results], len(runs)


async def in_a_group():
    @cache(ttl="1m", key="group")
    async def work():
        await asyncio.sleep(0.3)
        return "value"

    got = []

    async def caller():
        got.append(await work())

    first = asyncio.create_task(work())
    await asyncio.sleep(0.02)
    async with asyncio.TaskGroup() as group:
        group.create_task(caller())
        await asyncio.sleep(0.02)
        first.cancel()
    return got


async def main():
    shared = await five_callers(cache(ttl="1m", key="k"))
    print(f"cashews, the first of five is cancelled: {shared[0]}, runs: {shared[1]}")
    last = await five_callers(cache(ttl="1m", key="l"), cancelled=4)
    print(f"    the last of five: {last[0]}, runs: {last[1]}")
    other = await five_callers(alru_cache())
    print(f"async_lru, the same: {other[0]}, runs: {other[1]}")
    got = await in_a_group()
    print(f"cashews, a caller in a TaskGroup: the group ends without an error, values: {got}")
    if not shared == last == (["CancelledError"] * 5, 1) or got:
        raise SystemExit("it is no longer so")
    if other != (["CancelledError"] + ["value"] * 4, 1):
        raise SystemExit("it is no longer so")


asyncio.run(main())
PY
