#!/usr/bin/env bash
# distributed.Lock: a holder in one long call of C code loses the lock, and its release() returns True all the same.
#
# Guess: a process that lives and is connected keeps its lock until it releases it; if it ever loses it, it's told: by
#     release(), at the latest.
# Truth: the lock is a lease of 30 s which a timer on the event loop's thread refreshes. A single call that keeps the
#     GIL for longer (a big sum, a regular expression, many an extension) stops it; the scheduler gives the lock to the
#     next one, who works beside the first. The first is told nothing: release() returns True, as for a lock that was
#     held. The word of it is in the scheduler's log alone. (This script shortens the lease to 3 s.)
# Versions: distributed 2026.8.0, dask 2026.8.0.
# Source: the docstring of distributed.Lock warns that a lease which times out lets two hold the lock, and not when it
#     does; that of Semaphore.release says that it returns whether a lease was released. In distributed/semaphore.py the
#     scheduler's release() answers nothing, in either case.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export TMPDIR=$work
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check distributed==2026.8.0 dask==2026.8.0

cat >holder.py <<'PY'
import sys
import time

from distributed import Client, Lock

address, long = sys.argv[1], sys.argv[2] == "one call"
client = Client(address)
lock = Lock("job")
print(lock.acquire(timeout=10), flush=True)
began = time.monotonic()
sum(range(10**7))
each = time.monotonic() - began
if long:
    sum(range(int(10**7 * 15 / each)))  # about 15 s on this machine
while time.monotonic() - began < 8:
    sum(range(10**6))
print(f"{time.monotonic() - began:.0f} s", flush=True)
print(lock.release(), flush=True)
client.close()
PY
cat >main.py <<'PY'
import select
import subprocess
import sys

import dask
import distributed
from distributed import Client, LocalCluster, Lock


def attempt(address, kind):
    """Is the lock given to us while its holder still works, and what does the holder's release() say then?"""
    holder = subprocess.Popen([sys.executable, "holder.py", address, kind], stdout=subprocess.PIPE, text=True)
    held = holder.stdout.readline().strip()
    lock = Lock("job")
    given = lock.acquire(timeout=100)
    early = not select.select([holder.stdout], [], [], 0)[0]  # it has not yet said how long its work took
    took, released = holder.communicate(timeout=100)[0].split("\n")[:2]
    lock.release()
    print(f"{kind}, {took}: another is given the lock while the holder works: {early}; the holder's release(): {released}")
    return held, given, early, released


if __name__ == "__main__":
    print(f"distributed {distributed.__version__}, dask {dask.__version__}, Python {sys.version.split()[0]}")
    with (
        LocalCluster(n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster),
    ):
        seen = [attempt(cluster.scheduler_address, kind) for kind in ("many calls", "one call")]
    if seen != [("True", True, False, "True"), ("True", True, True, "True")]:
        raise SystemExit("it is no longer so")
PY
export DASK_DISTRIBUTED__SCHEDULER__LOCKS__LEASE_TIMEOUT=3s
export DASK_DISTRIBUTED__SCHEDULER__LOCKS__LEASE_VALIDATION_INTERVAL=500ms
venv/bin/python main.py
