"""The WSGI middleware, through real servers and in the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web_cases import Cases, Site, fresh, serving  # noqa: F401  # a fixture


@pytest.fixture(scope="module", params=["wsgiref", "gunicorn-sync", "gunicorn-gthread"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(request.param) as started:
        yield started


class TestWsgi(Cases):
    pass
