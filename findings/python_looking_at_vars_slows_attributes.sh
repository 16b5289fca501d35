#!/usr/bin/env bash
# An object whose vars() were looked at once, or whose __class__ was assigned, reads its attributes twice as slowly, for good.
#
# Guess: `vars(pool).get("x")` reads a dict that is there anyway, and `pool.__class__ = Counting`, of a subclass that adds
#     one method, is an assignment. Reading the attributes of the object takes as long afterwards as before.
# Truth: from CPython 3.11 on a read is specialised to a place in what all instances of a class share. In 3.11 and 3.12
#     an object whose __dict__ was asked for once (vars(), a library's memoized property, pickle) leaves that, and every
#     read of it, in any code, looks a name up: 2 to 3 times as long. From 3.13 on vars() does no harm; assigning a class
#     does in all three. Only a dict that outgrows the shared table (some 40 names added and deleted again) is read fast
#     again: QueuePool of SQLAlchemy, which asks itself for its __dict__ as it is made, gets twice as fast by it.
# Versions: CPython 3.11.7, 3.12.1 and 3.13.0; in 3.10.13 nothing is specialised and all are alike. SQLAlchemy 2.0.45.
# Source: found by measuring, and a count of instructions under callgrind; Python/specialize.c, "split dict".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check sqlalchemy==2.0.45

venv/bin/python - <<'PY'
import sys
import timeit

import sqlalchemy
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

print(f"CPython {sys.version.split()[0]}, SQLAlchemy {sqlalchemy.__version__}")
NAMES = ["_timeout", "_overflow", "_dialect", "_pre_ping", "_recycle", "logger", "echo", "_creator"]


class Plain:
    def __init__(self):
        for name in NAMES:
            setattr(self, name, 1)


class Sub(Plain):
    def more(self):
        return "a method"


def looked_at(one):
    vars(one)
    return one


def changed(one):
    one.__class__ = Sub
    return one


def grown(one):
    attributes, more = vars(one), dict.fromkeys(f"more_{number}" for number in range(48))
    attributes.update(more)
    for name in more:
        del attributes[name]
    return one


def seconds(one):
    space = {}  # a function of its own for each, as what is specialised is the place in the code
    exec("def read(one):\n    " + "\n    ".join(f"one.{name}" for name in NAMES), space)
    read = space["read"]
    return min(timeit.repeat(lambda: read(one), number=50_000, repeat=9))


def ratios(title, **kinds):
    took = {kind: seconds(one) for kind, one in kinds.items()}
    found = {kind: took[kind] / next(iter(took.values())) for kind in kinds}
    print(title, *(f"{kind} {ratio:.2f}" for kind, ratio in found.items()), sep="  ")
    return found


plain = ratios(
    "a plain object:",
    untouched=Plain(),
    looked_at=looked_at(Plain()),
    changed=changed(Plain()),
    changed_and_grown=grown(changed(Plain())),
)
pool = ratios(
    "QueuePool:     ",
    untouched=create_engine("sqlite://", poolclass=QueuePool).pool,
    grown=grown(create_engine("sqlite://", poolclass=QueuePool).pool),
)
if sys.version_info < (3, 11):
    raise SystemExit("Choose CPython 3.11 or newer: PYTHON=python3.12")
early = sys.version_info < (3, 13)
so = plain["changed"] > 1.5 and plain["changed_and_grown"] < 1.35 and (plain["looked_at"] > 1.5) is early
if not so or (pool["grown"] < 0.75) is not early:
    raise SystemExit("it is no longer so")
PY
