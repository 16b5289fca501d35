#!/usr/bin/env bash
# huey: the result of a task with retries is its first failure, although the retry succeeds.
#
# Guess: result.get(blocking=True) of a task with retries=2 waits until the task has succeeded, or has failed for the last
#     time.
# Truth: each failed attempt stores its error as the task's result, so the caller gets TaskException from the first one,
#     while the task runs again and succeeds. The Result keeps that error for good: get() raises it again later, though
#     the value is in the store by then; only reset() lets it look anew. So who enqueues the task again, because it
#     failed, has its work done twice. With Huey(store_intermediate_errors=False) get() waits.
# Versions: huey 3.5.4.
# Source: huey issue 557 (closed); huey/api.py, _execute stores an Error whether a retry follows or not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check huey==3.5.4

venv/bin/python - <<'PY'
import importlib.metadata
import logging
import threading

from huey import SqliteHuey
from huey.exceptions import TaskException
from huey.signals import SIGNAL_COMPLETE

logging.disable(logging.CRITICAL)
print(f"huey {importlib.metadata.version('huey')}")
failed = "TaskException: ConnectionError('not yet')"


def get(result):
    try:
        return result.get(blocking=True, timeout=20)
    except TaskException as error:
        return f"TaskException: {error.metadata['error']}"


def tried(name, **options):
    queue = SqliteHuey(filename=f"{name}.db", **options)
    attempts = []
    completed = threading.Event()

    @queue.task(retries=2, retry_delay=1)
    def work():
        attempts.append(len(attempts) + 1)
        if len(attempts) < 2:
            raise ConnectionError("not yet")
        return "done"

    @queue.signal(SIGNAL_COMPLETE)
    def complete(signal, task):
        completed.set()

    consumer = queue.create_consumer(workers=1)
    consumer.start()
    result = work()
    first = get(result)
    ran = list(attempts)
    if not completed.wait(20):
        raise SystemExit("the retry has not run")
    again = get(result)
    if first == failed:
        result.reset()
    anew = get(result)
    consumer.stop(graceful=True)
    print(f"{name}: get() after attempt {ran}: {first}")
    print(f"    get() after attempts {attempts}, of which the last succeeded: {again}; after reset(): {anew}")
    return ran, first, attempts, again, anew


if tried("plain") != ([1], failed, [1, 2], failed, "done"):
    raise SystemExit("it is no longer so")
if tried("told", store_intermediate_errors=False)[1] != "done":
    raise SystemExit("the option no longer helps")
PY
