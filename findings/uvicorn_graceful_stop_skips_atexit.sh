#!/usr/bin/env bash
# uvicorn: after a graceful stop by SIGTERM what was registered by atexit is not run.
#
# Guess: uvicorn handles SIGTERM, ends its requests and the lifespan, and returns from run(); so Python ends as usual, with
#     atexit, as it does where it is stopped by Ctrl-C.
# Truth: it shuts down gracefully, then puts the handlers back that were there before, and raises the signal once more at
#     itself. For SIGTERM that is the system's: the process ends by it (a shell says 143), without atexit, and without the
#     `finally` around run(). Only the lifespan's shutdown runs. For SIGINT it is Python's, so KeyboardInterrupt runs all of it.
# Versions: uvicorn 0.54.0, Python 3.11, Linux.
# Source: seen. The documentation of uvicorn says how a stop is begun and not how the process ends.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check uvicorn==0.54.0

cat >app.py <<'PY'
import atexit

import uvicorn


def tell(what):
    with open("told", "a") as file:
        file.write(what + "\n")


atexit.register(tell, "atexit")


async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    tell("lifespan")
    await send({"type": "lifespan.shutdown.complete"})


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print("ready", flush=True)


try:
    Server(uvicorn.Config(app, port=0, log_level="warning")).run()
finally:
    tell("finally")
PY

venv/bin/python - <<'PY'
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

print(f"uvicorn {version('uvicorn')}, Python {sys.version.split()[0]}")


def stopped_by(number):
    told = Path("told")
    told.unlink(missing_ok=True)
    server = subprocess.Popen([sys.executable, "app.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    server.send_signal(number)
    server.communicate(timeout=30)
    seen = server.returncode, told.read_text().split()
    print(f"{number.name}: status {seen[0]}, has run: {', '.join(seen[1])}")
    return seen


by_term = stopped_by(signal.SIGTERM)
by_int = stopped_by(signal.SIGINT)
if by_term != (-signal.SIGTERM, ["lifespan"]) or by_int[1] != ["lifespan", "finally", "atexit"]:
    raise SystemExit("it is no longer so")
PY
