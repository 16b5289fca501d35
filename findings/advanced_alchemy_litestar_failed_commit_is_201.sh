#!/usr/bin/env bash
# advanced-alchemy's autocommit for Litestar: a commit that fails is logged at DEBUG, and the answer stays 201.
#
# Guess: with `before_send_handler="autocommit"` the commit comes before the answer is sent, so that one that fails (a
#     unique constraint at the flush, a deferred constraint, a server that went away) makes a 500.
# Truth: the hook in which it commits is run by Litestar, which catches what a hook raises, writes it to the log at DEBUG,
#     and sends the answer as it was: 201 with the object that was never stored. A flush in the handler itself does make
#     a 500.
# Versions: advanced-alchemy 1.12.0, Litestar 2.25.0, SQLAlchemy 2.1.9, Python 3.11.
# Source: advanced_alchemy/extensions/litestar, autocommit_before_send_handler; litestar/_asgi, where before_send hooks run.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check advanced-alchemy==1.12.0 litestar==2.25.0 sqlalchemy==2.1.9 httpx==0.28.1

venv/bin/python -W ignore - <<'PY'
import logging
import sqlite3
import sys

from importlib.metadata import version

from advanced_alchemy.extensions.litestar import SQLAlchemyPlugin, SQLAlchemySyncConfig
from litestar import Litestar, post
from litestar.testing import TestClient
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

names = ("advanced-alchemy", "litestar", "sqlalchemy")
print(", ".join(f"{name} {version(name)}" for name in names) + f", Python {sys.version.split()[0]}")


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


@post("/left-to-the-commit/{name:str}", sync_to_thread=False)
def left_to_the_commit(name: str, db_session: Session) -> str:
    db_session.add(Account(name=name))
    return "stored"


@post("/flushed/{name:str}", sync_to_thread=False)
def flushed(name: str, db_session: Session) -> str:
    db_session.add(Account(name=name))
    db_session.flush()
    return "stored"


config = SQLAlchemySyncConfig(
    connection_string="sqlite:///store.db",
    before_send_handler="autocommit",
    metadata=Base.metadata,
    create_all=True,
)
application = Litestar([left_to_the_commit, flushed], plugins=[SQLAlchemyPlugin(config)], logging_config=None)
logging.getLogger().setLevel(logging.WARNING)
with TestClient(application, raise_server_exceptions=False) as client:
    answers = [client.post(f"/{path}/Ann") for path in ("left-to-the-commit", "left-to-the-commit", "flushed")]
for said, answer in zip(("first", "again, the name is taken", "the same, flushed in the handler"), answers):
    print(f"{said}: {answer.status_code} {answer.text[:30]!r}")
stored = sqlite3.connect("store.db").execute("SELECT count(*) FROM account").fetchone()[0]
print(f"rows stored: {stored}")
if ([answer.status_code for answer in answers], answers[1].text, stored) != ([201, 201, 500], "stored", 1):
    raise SystemExit("it is no longer so")
PY
