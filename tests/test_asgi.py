"""The ASGI middleware, through a real server and in the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web_cases import Cases, Site, fresh, serving  # noqa: F401  # a fixture


@pytest.fixture(scope="module", params=["uvicorn"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(request.param) as started:
        yield started


class TestAsgi(Cases):
    pass
