"""The fixtures of ``docs/testing.md``: pytest loads this wherever sa_readonly is installed.

``-p no:sa_readonly`` leaves it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..errors import ConfigurationError
from ..testing import read_only, read_write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..selector import EngineSelector

__all__ = ["sa_read_only", "sa_read_write", "sa_readonly_selector"]


@pytest.fixture(scope="session")
def sa_readonly_selector() -> EngineSelector:
    """The application's selector: override this fixture to return it."""
    raise ConfigurationError(
        "The fixture sa_readonly_selector is not overridden. Define one of that name in your "
        "conftest.py that returns your EngineSelector."
    )


@pytest.fixture
def sa_read_only(sa_readonly_selector: EngineSelector) -> Iterator[EngineSelector]:
    """Be read-only for one test: the selector."""
    with read_only(sa_readonly_selector):
        yield sa_readonly_selector


@pytest.fixture
def sa_read_write(sa_readonly_selector: EngineSelector) -> Iterator[EngineSelector]:
    """Be read-write for one test: the selector."""
    with read_write(sa_readonly_selector):
        yield sa_readonly_selector
