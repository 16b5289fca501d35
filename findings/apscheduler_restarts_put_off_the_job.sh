#!/usr/bin/env bash
# APScheduler: with a job store, add_job(..., "interval", id=..., replace_existing=True) at each start never runs.
#
# Guess: a persistent job store is there to keep when a job is due: after a restart the job runs when it was due, or at
#     once if that has passed. replace_existing=True, which the documentation demands for a job that is added at the
#     application's start, replaces what it does and not when it is due.
# Truth: the due time is counted anew from each start. A job of every 24 hours in an application that is deployed each
#     day (or of every hour in one whose worker is recycled each half hour) never runs; the stored due time is
#     overwritten before it is looked at, so neither misfire_grace_time nor coalesce helps. start_date, or a cron
#     trigger, does.
# Versions: APScheduler 3.11.3, SQLAlchemy 2.1.9.
# Source: apscheduler/schedulers/base.py, _real_add_job: next_run_time is computed if it was not given, then the store
#     updates the job. APScheduler's user guide: "If you schedule jobs in a persistent job store during your
#     application's initialization, you MUST define an explicit ID for the job and use replace_existing=True". Issue
#     696.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check APScheduler==3.11.3 SQLAlchemy==2.1.9

cat >jobs.py <<'PY'
def run(name):
    with open(name, "a") as file:
        file.write("x")
PY
cat >application.py <<'PY'
import sys
import time

import jobs
from apscheduler.schedulers.background import BackgroundScheduler

how, lives = sys.argv[1], float(sys.argv[2])
scheduler = BackgroundScheduler()
scheduler.add_jobstore("sqlalchemy", url=f"sqlite:///{how}.db")
scheduler.start(paused=True)
if how == "replaced" or scheduler.get_job("job") is None:
    options = {"id": "job", "replace_existing": True, "misfire_grace_time": 60}
    scheduler.add_job(jobs.run, "interval", [how], seconds=5, **options)
scheduler.resume()
time.sleep(lives)
scheduler.shutdown()
PY
cat >main.py <<'PY'
import importlib.metadata
import pathlib
import subprocess
import sys
import time

print(f"APScheduler {importlib.metadata.version('APScheduler')}, Python {sys.version.split()[0]}")
seen = {}
for how in ("replaced", "kept"):
    pathlib.Path(how).touch()
    began = time.monotonic()
    for _ in range(5):
        subprocess.run([sys.executable, "application.py", how, "3"], check=True)
    seen[how] = len(pathlib.Path(how).read_text())
    print(f"job of every 5 s, {how} at each of five starts within {time.monotonic() - began:.0f} s: runs {seen[how]} times")
if seen["replaced"] != 0 or seen["kept"] < 2:
    raise SystemExit("it is no longer so")
PY
venv/bin/python main.py
