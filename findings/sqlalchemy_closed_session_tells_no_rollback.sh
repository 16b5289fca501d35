#!/usr/bin/env bash
# SQLAlchemy: a Session that is closed by the end of its `with` block rolls back without after_rollback and after_soft_rollback.
#
# Guess: an error in `with Session() as session:` rolls back what was flushed, and the session's after_rollback hooks run:
#     that's where files of the transaction are removed, a cache is emptied, messages that were to be sent are dropped.
# Truth: Session.close() ends the transaction, the database is rolled back, and neither of the hooks is called. They are
#     called by session.rollback(), in a `with Session.begin()` block and by a failing flush. scoped_session.remove(), the
#     usual end of a request, is a close() as well. Only after_transaction_end and the engine's own "rollback" event tell.
# Versions: SQLAlchemy 2.1.9 on SQLite.
# Source: the documentation of SessionEvents.after_rollback: "after a real DBAPI rollback has occurred";
#     SessionTransaction.close() in orm/session.py, which rolls the connections back and calls after_transaction_end only.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check SQLAlchemy==2.1.9

venv/bin/python - <<'PY'
import contextlib

import sqlalchemy as sa
from sqlalchemy import orm

print(f"SQLAlchemy {sa.__version__}")


class Base(orm.DeclarativeBase):
    pass


class Upload(Base):
    __tablename__ = "upload"
    id = orm.mapped_column(sa.Integer, primary_key=True)


engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
Base.metadata.create_all(engine)
Session = orm.sessionmaker(engine)
told = []
for name in ("after_rollback", "after_soft_rollback", "after_transaction_end"):
    sa.event.listen(Session, name, lambda *_, name=name: told.append(name))
sa.event.listen(engine, "rollback", lambda connection: told.append("rollback of the engine"))


def closed_by_the_block():
    with Session() as session:
        session.add(Upload())
        session.flush()
        raise LookupError


def removed():
    registry = orm.scoped_session(Session)
    try:
        registry.add(Upload())
        registry.flush()
        raise LookupError
    finally:
        registry.remove()


def rolled_back():
    with Session() as session:
        session.add(Upload())
        session.flush()
        session.rollback()
        raise LookupError


def begun():
    with Session.begin() as session:
        session.add(Upload())
        session.flush()
        raise LookupError


seen = {}
for way in (closed_by_the_block, removed, rolled_back, begun):
    told.clear()
    with contextlib.suppress(LookupError):
        way()
    seen[way.__name__] = [name for name in told if name != "after_transaction_end"]
    print(f"{way.__name__}: {', '.join(told)}")
with Session() as session:
    rows = session.scalar(sa.select(sa.func.count(Upload.id)))
print(f"rows that are stored: {rows}")
hooks = ["rollback of the engine", "after_rollback", "after_soft_rollback"]
if list(seen.values()) != [hooks[:1], hooks[:1], hooks, hooks] or rows:
    raise SystemExit("it is no longer so")
PY
