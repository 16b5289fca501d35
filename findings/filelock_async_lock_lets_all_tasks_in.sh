#!/usr/bin/env bash
# filelock: tasks that share an AsyncFileLock are all inside of it at once.
#
# Guess: `async with lock:` in three tasks lets one in after the other, as asyncio.Lock does: the class is made for asyncio,
#     and keeps processes apart besides.
# Truth: the lock is reentrant, and counts who has it by the object, not by the task. The first task takes the file, the
#     others only count up, without waiting, and the file is given back when the last one leaves. With an object for each
#     task they are let in one by one. And @FileLock(...) on an `async def` holds nothing while it runs: the lock is given
#     back before the coroutine is awaited.
# Versions: filelock 3.32.7.
# Source: filelock/asyncio.py, BaseAsyncFileLock.acquire: the counter of the lock's context; FileLock as a decorator is a
#     contextlib.ContextDecorator, which wraps the call.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check filelock==3.32.7

venv/bin/python - <<'PY'
import asyncio
import fcntl

import filelock

print(f"filelock {filelock.__version__}")


def is_free(path):
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


async def at_once(locks):
    """How many tasks are inside at the same time at most, if each takes its lock and stays for three others to come."""
    inside, most = 0, 0

    async def task(lock):
        nonlocal inside, most
        async with lock:
            inside += 1
            most = max(most, inside)
            for _ in range(20):
                await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(task(lock) for lock in locks))
    return most


@filelock.FileLock("decorated.lock")
async def decorated():
    return is_free("decorated.lock")


@filelock.FileLock("decorated.lock")
def plain():
    return is_free("decorated.lock")


async def main():
    shared = filelock.AsyncFileLock("shared.lock")
    return {
        "AsyncFileLock that three tasks share": await at_once([shared] * 3),
        "asyncio.Lock that three tasks share": await at_once([asyncio.Lock()] * 3),
        "an AsyncFileLock for each": await at_once([filelock.AsyncFileLock("own.lock") for _ in range(3)]),
    }, (await decorated(), plain())


seen, free = asyncio.run(main())
for name, most in seen.items():
    print(f"{name}: {most} inside at once")
print(f"the file is free inside of a decorated async def: {free[0]}, of a def: {free[1]}")
if list(seen.values())[0] != 3 or list(seen.values())[2] != 1 or free != (True, False):
    raise SystemExit("it is no longer so")
PY
