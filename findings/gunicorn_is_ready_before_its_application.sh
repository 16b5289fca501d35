#!/usr/bin/env bash
# gunicorn tells systemd that it is ready before any worker has imported the application.
#
# Guess: under Type=notify READY=1 means that requests can be served, so that a module that is missing, or that fails as
#     it is imported, fails the start of the unit.
# Truth: the master sends READY=1 as soon as its socket is bound. Workers are forked and import the application after
#     that. One whose application can't be loaded ends the master with status 3 a moment later, when systemd has told
#     whoever started the unit that it runs, and units ordered after it have begun. With preload_app the import comes
#     first, and nothing is told.
# Versions: gunicorn 27.0.1; sd_notify as systemd reads it, on a socket of our own.
# Source: gunicorn/arbiter.py: start() binds and notifies, run() manages the workers afterwards.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check gunicorn==27.0.1

venv/bin/python - <<'PY'
import importlib.metadata
import os
import socket
import subprocess

print(f"gunicorn {importlib.metadata.version('gunicorn')}")
seen = {}
for name, more in {"as it comes": [], "with --preload": ["--preload"]}.items():
    place = os.path.abspath(f"notify-{len(seen)}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(place)
        notified.settimeout(0.2)
        process = subprocess.Popen(
            ["venv/bin/gunicorn", "--bind", "127.0.0.1:0", *more, "missing:application"],
            env={**os.environ, "NOTIFY_SOCKET": place},
            stderr=subprocess.DEVNULL,
        )
        status = process.wait(60)
        told = []
        try:
            while True:
                told += notified.recv(4096).decode().splitlines()
        except TimeoutError:
            pass
    seen[name] = ("READY=1" in told, status)
    print(f"{name}: told {told}; ended with {status}")
if seen != {"as it comes": (True, 3), "with --preload": (False, 1)}:
    raise SystemExit(f"it is no longer so: {seen}")
PY
