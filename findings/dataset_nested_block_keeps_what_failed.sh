#!/usr/bin/env bash
# dataset: a nested `with db` block that fails, and whose error is caught outside, leaves its rows: the outer commits them.
#
# Guess: nested `with db as tx` blocks, which its documentation offers, are savepoints: the failed inner one is undone and
#     the outer goes on; or, without savepoints, the inner rollback undoes the whole transaction.
# Truth: neither. The inner rollback only counts the nesting down; what the inner block wrote is committed with the rest,
#     and so it is by rollback() between begin() and commit(). A rollback of the outermost block alone undoes anything.
# Versions: dataset 2.0.0, SQLAlchemy 2.1.9, Python 3.11.
# Source: dataset's quickstart tells of nested transactions; Database.rollback() acts at the last level alone.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check dataset==2.0.0 sqlalchemy==2.1.9

venv/bin/python - <<'PY'
import sys

import dataset
import sqlalchemy

print(f"dataset {dataset.__version__}, SQLAlchemy {sqlalchemy.__version__}, Python {sys.version.split()[0]}")
db = dataset.connect("sqlite:///store.db")
db["account"].insert({"name": "before"})


def names():
    return [row["name"] for row in dataset.connect("sqlite:///store.db")["account"]]


with db as outer:
    outer["account"].insert({"name": "outer"})
    try:
        with db as inner:
            inner["account"].insert({"name": "inner, failed"})
            raise ValueError("the inner block fails")
    except ValueError:
        pass
nested = names()
print(f"committed after an inner block that failed: {nested}")

db.begin()
db.begin()
db["account"].insert({"name": "rolled back by hand"})
db.rollback()
db.commit()
by_hand = names()
print(f"and after begin(), begin(), insert, rollback(), commit(): {by_hand[len(nested):]}")

try:
    with db as outer:
        outer["account"].insert({"name": "outermost, failed"})
        raise ValueError("the only block fails")
except ValueError:
    pass
alone = names()
print(f"and after an outermost block that failed: {alone[len(by_hand):]}")
if (nested, by_hand[3:], alone[4:]) != (["before", "outer", "inner, failed"], ["rolled back by hand"], []):
    raise SystemExit("it is no longer so")
PY
