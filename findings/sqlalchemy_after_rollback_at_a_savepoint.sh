#!/usr/bin/env bash
# SQLAlchemy's Session events after_commit and after_rollback also fire for a savepoint, while the transaction lives on.
#
# Guess: after_rollback ("after a real DBAPI rollback has occurred") is told of the end of the transaction; that a
#     savepoint was rolled back is what after_soft_rollback is for. Likewise after_commit: what it sees is stored.
# Truth: both fire at the end of every begin_nested(). A list of mails kept by the session and thrown away in
#     after_rollback is lost though the transaction commits; one that is sent in after_commit goes out at the RELEASE
#     of a savepoint, and the transaction may still be rolled back. Only after_transaction_end with
#     transaction.parent being None tells the end.
# Versions: SQLAlchemy 2.1.9, the sqlite3 of Python.
# Source: sqlalchemy/orm/session.py, SessionTransaction.commit and _rollback_impl: the condition is "no parent, or
#     nested".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check SQLAlchemy==2.1.9

venv/bin/python - <<'PY'
import sqlite3

import sqlalchemy as sa
from sqlalchemy.orm import Session

print(f"SQLAlchemy {sa.__version__}, SQLite {sqlite3.sqlite_version}")
engine = sa.create_engine("sqlite:///a.db")
table = sa.Table("entry", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
table.create(engine)


def stored():
    with engine.connect() as connection:
        return connection.execute(sa.select(table.c.id).order_by(table.c.id)).scalars().all()


def run(inner_fails, outer_fails):
    with engine.begin() as connection:
        connection.execute(table.delete())
    log = []
    with Session(engine) as session:
        sa.event.listen(session, "after_commit", lambda session: log.append("after_commit"))
        sa.event.listen(session, "after_rollback", lambda session: log.append("after_rollback"))
        try:
            with session.begin():
                session.execute(table.insert(), {"id": 1})
                try:
                    with session.begin_nested():
                        session.execute(table.insert(), {"id": 2})
                        if inner_fails:
                            raise KeyError
                except KeyError:
                    pass
                log.append(f"(in transaction: {session.in_transaction()})")
                if outer_fails:
                    raise ValueError
        except ValueError:
            pass
    return log, stored()


undone, released = run(True, False), run(False, True)
print(f"a savepoint is rolled back, the transaction commits: {' '.join(undone[0])}; rows: {undone[1]}")
print(f"a savepoint is released, the transaction is rolled back: {' '.join(released[0])}; rows: {released[1]}")
if undone != (["after_rollback", "(in transaction: True)", "after_commit"], [1]):
    raise SystemExit("it is no longer so")
if released != (["after_commit", "(in transaction: True)", "after_rollback"], []):
    raise SystemExit("it is no longer so")
PY
