"""The fixtures of ``docs/testing.md``: pytest loads this wherever sa_readonly is installed.

It is no part of the package, which would be imported with it, and SQLAlchemy: in each run of pytest
in that environment, whether or not a test asks for a fixture. ``-p no:sa_readonly`` leaves it out.
(PYTEST_DONT_REWRITE: as in ``sa_readonly``.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sa_readonly import EngineSelector

__all__ = ["sa_read_only", "sa_read_write", "sa_readonly_selector"]


@pytest.fixture(scope="session")
def sa_readonly_selector() -> Any:
    """The application's selector: override this fixture to return it."""
    from sa_readonly import ConfigurationError  # noqa: PLC0415  # see above

    raise ConfigurationError(
        "The fixture sa_readonly_selector is not overridden. Define one of that name in your "
        "conftest.py that returns your EngineSelector."
    )


@pytest.fixture
def sa_read_only(sa_readonly_selector: EngineSelector) -> Iterator[EngineSelector]:
    """Be read-only for one test: the selector."""
    from sa_readonly.testing import read_only  # noqa: PLC0415  # see above

    with read_only(sa_readonly_selector):
        yield sa_readonly_selector


@pytest.fixture
def sa_read_write(sa_readonly_selector: EngineSelector) -> Iterator[EngineSelector]:
    """Be read-write for one test: the selector."""
    from sa_readonly.testing import read_write  # noqa: PLC0415  # see above

    with read_write(sa_readonly_selector):
        yield sa_readonly_selector
