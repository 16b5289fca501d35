#!/usr/bin/env bash
# fasteners: a second thread that acquires the same InterProcessLock object gets it, and its release frees the file.
#
# Guess: a lock between processes also keeps two threads apart that use one lock object: the second one waits, or with
#     blocking=False is told False.
# Truth: acquire() returns True to both at once. When either of them releases, the lock on the file is gone for all other
#     processes, though the first thread still believes that it holds it; and its own release raises ThreadError.
# Versions: fasteners 0.20, Python 3.11, Linux.
# Source: fasteners' guide says of its process locks that threads are not their matter; not that both are told True.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check fasteners==0.20

venv/bin/python - <<'PY'
import subprocess
import sys
import threading
from importlib.metadata import version

import fasteners

print(f"fasteners {version('fasteners')}, Python {sys.version.split()[0]}")
OTHER = "import fasteners; print(fasteners.InterProcessLock('lock').acquire(blocking=False))"


def another_process():
    done = subprocess.run([sys.executable, "-c", OTHER], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


lock = fasteners.InterProcessLock("lock")
seen = {"the first thread acquires": lock.acquire(blocking=False)}
seen["another process acquires"] = another_process()


def second():
    seen["a second thread acquires the same object"] = lock.acquire(blocking=False)
    lock.release()


thread = threading.Thread(target=second)
thread.start()
thread.join()
seen["another process acquires, after the second thread's release"] = another_process()
try:
    lock.release()
    seen["the first thread releases without an error"] = True
except threading.ThreadError as error:
    seen["the first thread releases without an error"] = False
    print(f"the first thread's release: {error}")
for what, answer in seen.items():
    print(f"{what}: {answer}")
if list(seen.values()) != [True, False, True, True, False]:
    raise SystemExit("it is no longer so")
PY
