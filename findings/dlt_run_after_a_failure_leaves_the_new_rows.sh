#!/usr/bin/env bash
# dlt: a run() after one that failed loads what that one had left, and drops its own rows, with success.
#
# Guess: `pipeline.run(rows)` loads these rows, before or behind what an earlier run could not load, or raises.
# Truth: while a package of an earlier run is pending, because the destination was away for a moment, run() loads that one
#     and never looks at its argument. It returns a LoadInfo of a load without failed jobs; a line of the log at WARNING
#     says that the data was not extracted. Whoever hands over rows that he has once, such as messages that he then
#     acknowledges, loses them. `pipeline.has_pending_data` tells, and a loop of run() until it is false.
# Versions: dlt 1.31.0, DuckDB 2.0.1.
# Source: dlt/pipeline/pipeline.py, Pipeline.run(), and its docstring.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check 'dlt[duckdb]==1.31.0' duckdb==2.0.1
export RUNTIME__DLTHUB_TELEMETRY=false RUNTIME__LOG_LEVEL=ERROR HOME="$work"

venv/bin/python - <<'PY'
import pathlib
import subprocess
import sys

import dlt
import duckdb
from dlt.pipeline.exceptions import PipelineStepFailed

print(f"dlt {dlt.__version__}, DuckDB {duckdb.__version__}")
database = str(pathlib.Path("store.duckdb").absolute())
pipeline = dlt.pipeline(
    "pipeline", pipelines_dir="pipelines", destination=dlt.destinations.duckdb(database), dataset_name="data"
)
HOLDER = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def run(name):
    try:
        info = pipeline.run([{"name": name}], table_name="message")
    except PipelineStepFailed as error:
        return f"fails at the step {error.step}"
    return "fails" if info.has_failed_jobs else "succeeds"


told = [run("first")]
command = [sys.executable, "-c", HOLDER, database]
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
    holder.stdout.readline()
    told.append(run("second"))
    holder.stdin.close()
told.append(run("third"))
told.append(run("fourth"))
with duckdb.connect(database) as connection:
    loaded = [name for (name,) in connection.execute("SELECT name FROM data.message ORDER BY _dlt_load_id").fetchall()]
print(f"four runs, while another process held the database in the second: {', '.join(told)}")
print(f"loaded: {loaded}, pending: {pipeline.has_pending_data}")
if (told, loaded, pipeline.has_pending_data) != (
    ["succeeds", "fails at the step load", "succeeds", "succeeds"],
    ["first", "second", "fourth"],
    False,
):
    raise SystemExit("it is no longer so")
PY
