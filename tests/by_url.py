"""Engines by URL, and an end to what lingers of them: other tests count threads."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from sa_readonly import oneswitch
from sa_readonly.engines.single import of_engine
from sa_readonly.workers.worker import worker_of


def shared_of(engine: Engine) -> Any:
    """What an engine shares with the others of its file."""
    single = of_engine(engine)
    assert single is not None
    return single.shared


def end_lingering() -> None:
    gc.collect()
    for one in list(oneswitch._switches.values()):
        for door in one.doors:
            door.sweep()  # the next test may count the sessions of its server
        leave, one._leave = one._leave, None
        if leave is not None:
            thread = worker_of(one.switch).watcher._thread
            leave()
            if thread is not None:
                thread.join()


@pytest.fixture(autouse=True)
def nothing_lingers() -> Iterator[None]:
    yield
    end_lingering()
