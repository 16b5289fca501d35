#!/usr/bin/env bash
# SQLAlchemy: an ORM update or delete by a text that the database compares without case leaves the session's object as it was.
#
# Guess: `session.execute(update(User).where(User.name == "ANN").values(...))` brings the objects that the session has in
#     step with the rows it has changed, that's what synchronize_session="auto" is for; where that can't be evaluated in
#     Python it asks the database with RETURNING.
# Truth: "auto" evaluates in Python what it can, and == on text it can: "ann" is not "ANN", though the column's collation
#     says it is. The row is updated (rowcount 1), the object keeps its old value, and `user.credit += 1` writes that back:
#     the update is lost. After a delete the object stays persistent, session.get() gives it, and its next flush raises
#     StaleDataError. synchronize_session="fetch" is right.
# Versions: SQLAlchemy 2.1.9, SQLite of the interpreter (a column COLLATE NOCASE).
# Source: orm/evaluator.py compares with Python's operators, whatever the column's collation; the documentation, "Selecting a
#     Synchronization Strategy", has no word on collations.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check SQLAlchemy==2.1.9

venv/bin/python - <<'PY'
import sqlite3

import sqlalchemy as sa
from sqlalchemy import orm

print(f"SQLAlchemy {sa.__version__}, SQLite {sqlite3.sqlite_version}")


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(collation="NOCASE"))
    credit: orm.Mapped[int]


engine = sa.create_engine("sqlite://")
Base.metadata.create_all(engine)


def updated(strategy):
    """Rows that the update counts, and the credit that is stored after 100 are set and one is added."""
    with orm.Session(engine) as session:
        session.add(User(id=1, name="ann", credit=0))
        session.flush()
        user = session.get(User, 1)
        update = sa.update(User).where(User.name == "ANN").values(credit=100)
        count = session.execute(update, execution_options={"synchronize_session": strategy}).rowcount
        user.credit += 1
        session.flush()
        return count, session.scalar(sa.select(User.credit))


def deleted(strategy):
    """Rows that the delete counts, whether the session still gives the object, and what its next flush says."""
    with orm.Session(engine) as session:
        user = User(id=1, name="ann", credit=0)
        session.add(user)
        session.flush()
        delete = sa.delete(User).where(User.name == "ANN")
        count = session.execute(delete, execution_options={"synchronize_session": strategy}).rowcount
        given = session.get(User, 1) is user
        user.credit += 1
        try:
            session.flush()
            return count, given, "nothing"
        except orm.exc.StaleDataError as error:
            return count, given, type(error).__name__


seen = {}
for strategy in ("auto", "fetch"):
    seen[strategy] = (*updated(strategy), *deleted(strategy))
    count, credit, gone, given, flush = seen[strategy]
    print(f"{strategy}: {count} row set to 100, one added: {credit} is stored;", end=" ")
    print(f"{gone} row deleted: session.get() gives it: {given}, the next flush says {flush}")
if seen != {"auto": (1, 1, 1, True, "StaleDataError"), "fetch": (1, 101, 1, False, "nothing")}:
    raise SystemExit("it is no longer so")
PY
