#!/usr/bin/env bash
# SQLAlchemy-Continuum: after a savepoint that was rolled back the history names a transaction that is not there, or another's.
#
# Guess: what a savepoint has written is undone with it, and the versions of what is written after it, in the same
#     transaction, have their row in `transaction` (when, who), as all others.
# Truth: if the first change of the transaction was inside the savepoint, the row of `transaction` was inserted there, too,
#     and goes with it; Continuum keeps its number in memory. The version of the later change is stored with a number
#     without a row: version.transaction is None, so nobody knows when and by whom. On SQLite the next transaction gets that
#     very number: the change is then told to be of it, of the other user. If that changes the same object, its flush fails
#     with IntegrityError, and so does each later one, as the number is never used up. SAWarning "nested transaction already
#     deassociated" is all that one sees, and savepoints that go well give it, too.
# Versions: SQLAlchemy-Continuum 2.0.0, SQLAlchemy 2.1.9 on SQLite.
# Source: unit_of_work.py, create_transaction() runs at the first flush; manager.py, clear() is skipped in a nested
#     transaction, and nothing else takes notice of a savepoint's end. Issue 392 of Continuum has the warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check SQLAlchemy-Continuum==2.0.0 SQLAlchemy==2.1.9

venv/bin/python - <<'PY'
import contextlib
import importlib.metadata

import sqlalchemy as sa
import sqlalchemy_continuum
from sqlalchemy import orm
from sqlalchemy_continuum.plugins import Plugin

print(f"SQLAlchemy-Continuum {importlib.metadata.version('sqlalchemy-continuum')}, SQLAlchemy {sa.__version__}")


class Who(Plugin):
    def transaction_args(self, uow, session):
        return {"remote_addr": session.info["who"]}


sqlalchemy_continuum.make_versioned(user_cls=None, plugins=[Who()])


class Base(orm.DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    __versioned__ = {}
    id = orm.mapped_column(sa.Integer, primary_key=True)
    name = orm.mapped_column(sa.String)


orm.configure_mappers()
engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)


@sa.event.listens_for(engine, "connect")
def no_legacy_transactions(connection, _):
    connection.isolation_level = None


@sa.event.listens_for(engine, "begin")
def begin(connection):
    connection.exec_driver_sql("BEGIN")


Base.metadata.create_all(engine)


def transaction(who):
    return orm.Session(engine, info={"who": who})


def history():
    """The names that accounts were given, each with the number of its transaction and with who made that."""
    version = sqlalchemy_continuum.version_class(Account)
    with orm.Session(engine) as session:
        versions = session.scalars(sa.select(version).order_by(version.transaction_id, version.id))
        return [(each.name, each.transaction_id, each.transaction and each.transaction.remote_addr) for each in versions]


with transaction("ann") as session, session.begin():
    session.add(Account(id=1, name="ann's first"))


def change_after_a_try(name):
    with transaction("ann") as session, session.begin():
        with contextlib.suppress(LookupError), session.begin_nested():
            session.add(Account(id=2, name="ann's try"))
            session.flush()
            raise LookupError
        session.get(Account, 1).name = name


change_after_a_try("ann's second")
lost = history()
print(f"after a savepoint that was rolled back: {lost}")
with transaction("bob") as session, session.begin():
    session.add(Account(id=3, name="bob's"))
anothers = history()
print(f"after the next transaction: {anothers}")

change_after_a_try("ann's third")
told = []
for _ in range(2):
    try:
        with transaction("bob") as session, session.begin():
            session.get(Account, 1).name = "bob's"
    except sa.exc.IntegrityError as error:
        told.append(str(error.orig))
print(f"once more, and two transactions that change the same account: {told}")
if (lost, anothers, told) != (
    [("ann's first", 1, "ann"), ("ann's second", 2, None)],
    [("ann's first", 1, "ann"), ("ann's second", 2, "bob"), ("bob's", 2, "bob")],
    ["UNIQUE constraint failed: account_version.id, account_version.transaction_id"] * 2,
):
    raise SystemExit("it is no longer so")
PY
