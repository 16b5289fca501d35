#!/usr/bin/env bash
# SQLAlchemy Core: of a list of dictionaries, a key that the first one has not is dropped from the later ones in silence.
#
# Guess: `connection.execute(insert(t), [{"a": 1}, {"a": 2, "b": 3}])` stores the 3, or says that the dictionaries differ,
#     as it does the other way round; a key that is no column of the table is an error, as it is for values().
# Truth: the statement is compiled for the first dictionary's keys. A later one that lacks one of them is an error, a later
#     one that has more loses what is more: NULL or the default is stored. insert().values([...]) is alike. So JSON records
#     whose optional fields come and go are stored whole or not as their order has it. A key that is no column, such as one
#     misspelt, is dropped anywhere, in a single dictionary too; only values() of one dictionary refuses it. The ORM's bulk
#     insert, session.execute(insert(Model), [...]), keeps all columns.
# Versions: SQLAlchemy 2.1.9 on SQLite.
# Source: SQLAlchemy's Core tutorial (1.x) says that each dictionary must have the same set of keys, that is not fewer; of
#     more it says nothing. sqlalchemy/sql/crud.py looks for unconsumed names in those of values() alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check SQLAlchemy==2.1.9

venv/bin/python - <<'PY'
import sqlalchemy as sa
from sqlalchemy import orm

print(f"SQLAlchemy {sa.__version__}")


class Base(orm.DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "row"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    a: orm.Mapped[int]
    b: orm.Mapped[int | None]


engine = sa.create_engine("sqlite://")
Base.metadata.create_all(engine)
table = Row.__table__


def stored(rows=None, values=None, model=False):
    """What is in the table after the rows are inserted, or the error; the transaction is rolled back at the end."""
    with orm.Session(engine) as session:
        statement = sa.insert(Row if model else table)
        execute = session.execute if model else session.connection().execute
        try:
            execute(statement if values is None else statement.values(values), rows)
        except (sa.exc.StatementError, sa.exc.CompileError) as error:
            return type(error).__name__
        return [tuple(each) for each in session.execute(sa.select(table.c.a, table.c.b).order_by(table.c.id))]


less, more, misspelt = {"a": 1}, {"a": 2, "b": 3}, {"a": 4, "bb": 5}
seen = {
    "the second has one more": stored([less, more]),
    "the second has one less": stored([more, less]),
    "values(), the second has one more": stored(values=[less, more]),
    "the ORM, the second has one more": stored([less, more], model=True),
    "one that is no column": stored(misspelt),
    "values(), one that is no column": stored(values=misspelt),
}
for name, told in seen.items():
    print(f"{name}: {told}")
dropped = [(1, None), (2, None)]
if list(seen.values()) != [dropped, "StatementError", dropped, [(1, None), (2, 3)], [(4, None)], "CompileError"]:
    raise SystemExit("it is no longer so")
PY
