"""How ``sa-readonly doctor`` is run, and what it found, for the tests of it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, make_url

from sa_readonly.command.doctor import Finding, doctor, examine
from tests.postgres import Server

ROOT = Path(__file__).parent.parent
SECRET = "s3cr3t p%ss@word"


def shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def look(read_write: URL, read_only: URL | None = None, **more: str) -> list[Finding]:
    return examine(shown(read_write), read_only and shown(read_only), None, **more)


def dangers(findings: Iterable[Finding]) -> list[str]:
    return [one.what for one in findings if one.severity == "danger"]


def the(findings: Iterable[Finding], words: str) -> Finding:
    """The one finding that has these words."""
    known = list(findings)
    found = [one for one in known if words in one.what]
    assert len(found) == 1, known
    return found[0]


def has(findings: list[Finding], words: str) -> bool:
    return any(words in one.what for one in findings)


def sqlite_database(path: Path, *statements: str) -> URL:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in ("CREATE TABLE thing (n integer)", *statements):
            connection.execute(statement)
        connection.commit()
    return make_url(f"sqlite:///{path}")


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Be a user without rights for a while, where we are root."""
    if os.geteuid():
        yield
        return
    groups = os.getgroups()
    user = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, 0)
    os.setresuid(user.pw_uid, user.pw_uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can look into, which tmp_path is not."""
    made = Path(tempfile.mkdtemp(prefix="sa-readonly-doctor-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def reader(pg_server: Server) -> Iterator[str]:
    """A role that may do nothing yet."""
    pg_server.query(f"CREATE ROLE reader LOGIN PASSWORD '{SECRET.replace('%', '%%')}'")
    yield "reader"
    for (name,) in pg_server.query("SELECT datname FROM pg_database WHERE datallowconn"):
        pg_server.query("DROP OWNED BY reader", database=name)
    pg_server.query("DROP ROLE reader")


def as_role(url: URL, role: str) -> URL:
    return url.set(username=role, password=SECRET)


def run(*arguments: str | URL) -> Result:
    return CliRunner().invoke(
        doctor, [shown(one) if isinstance(one, URL) else one for one in arguments]
    )
