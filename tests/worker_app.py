"""What the registry of an application holds, for the tests of this process as a worker."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sa_readonly import Mode
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.protocol import Seen
from sa_readonly.workers.verdict import Verdict, judge
from tests.app import WHICH, App

if not hasattr(os, "fork"):
    pytest.skip("directories of workers need POSIX", allow_module_level=True)


def registry(app: App) -> DirectoryRegistry:
    return DirectoryRegistry(f"{app.path}.workers")


def read(app: App) -> str:
    with app.sessions() as session:
        return str(session.scalar(WHICH))


def one(app: App) -> Seen:
    (entry,) = registry(app).read()
    return entry


def verdict(app: App, mode: Mode = Mode.READ_ONLY) -> Verdict:
    return judge(app.selector.switch.identify, registry(app), mode)


def whys(app: App) -> list[str]:
    return [why for _, why in verdict(app).waiting]


@pytest.fixture
def lite(lite: App) -> App:
    lite.urls["two"] = lite.urls["rw"].set(database=str(lite.path.parent / "two.db"))
    return lite


@contextlib.contextmanager
def unusable(app: App) -> Iterator[None]:
    """A file stands where the directory should be made."""
    path = Path(f"{app.path}.workers")
    if path.exists():
        shutil.rmtree(path)
    path.touch()
    try:
        yield
    finally:
        path.unlink()
