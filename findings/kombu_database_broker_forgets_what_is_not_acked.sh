#!/usr/bin/env bash
# Kombu (Celery's brokers): with the SQLAlchemy and the filesystem transport a message is gone as soon as it is received.
#
# Guess: a message is kept until it is acknowledged; if the consumer is killed before that, another gets it. Celery's
#     acks_late relies on it, and a table in the database, or a folder, is what survives a kill.
# Truth: the SQLAlchemy transport marks the row as not visible and commits, the filesystem transport deletes the file, both
#     when the message is received; what is not acknowledged is only in the consumer's memory, which gives it back when it
#     ends by itself. A consumer that is killed takes the message with it. The row stays in the table, but nothing makes it
#     visible again; the rows of acknowledged messages stay in the same way.
# Versions: Kombu 5.7.0, SQLAlchemy 2.1.9 on SQLite.
# Source: kombu/transport/sqlalchemy and kombu/transport/filesystem.py, Channel._get(); Kombu's documentation lists what each
#     transport supports, and acknowledgement is not in that list.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check kombu==5.7.0 SQLAlchemy==2.1.9
mkdir folder control

cat >connect.py <<'PY'
import kombu

FOLDERS = {"data_folder_in": "folder", "data_folder_out": "folder", "control_folder": "control"}


def connect(transport):
    if transport == "filesystem":
        return kombu.Connection("filesystem://", transport_options=FOLDERS)
    return kombu.Connection("sqla+sqlite:///data.db")
PY
cat >consumer.py <<'PY'
import os
import signal
import sys

from connect import connect

message = connect(sys.argv[1]).SimpleQueue("jobs").get(timeout=10)
print(message.payload, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
PY
venv/bin/python - <<'PY'
import queue
import sqlite3
import subprocess
import sys

import kombu
import sqlalchemy
from connect import connect

print(f"Kombu {kombu.__version__}, SQLAlchemy {sqlalchemy.__version__}")


def consumed(transport, end):
    """What a consumer receives that ends without an ack, and what is there for the next one."""
    with connect(transport) as connection, connection.SimpleQueue("jobs") as jobs:
        jobs.put(f"for a consumer that is {end}")
    command = [sys.executable, "consumer.py", transport, end]
    got = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
    with connect(transport) as connection, connection.SimpleQueue("jobs") as jobs:
        try:
            message = jobs.get(timeout=3)
        except queue.Empty:
            return got, "nothing"
        message.ack()
        return got, message.payload


seen = []
for transport in ("SQLAlchemy", "filesystem"):
    for end in ("ended", "killed"):
        got, again = consumed(transport, end)
        seen.append((got == f"for a consumer that is {end}", again == got))
        print(f"{transport}: received {got!r}, there for the next one: {again!r}")
rows = sqlite3.connect("data.db").execute("SELECT visible FROM kombu_message ORDER BY id").fetchall()
print(f"visible, of the rows in the database: {[visible for (visible,) in rows]}")
if seen != [(True, True), (True, False)] * 2 or set(rows) != {(0,)}:
    raise SystemExit("it is no longer so")
PY
