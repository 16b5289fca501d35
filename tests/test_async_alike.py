"""The tests of the sync application, run on async drivers: see tests/async_app.py."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.pool import SingletonThreadPool

from tests import (
    test_doors,
    test_grace,
    test_plugin,
    test_session_binds,
    test_session_classes,
    test_session_guard,
    test_session_mode,
)
from tests.app import LONG, longer
from tests.async_app import AsyncApp
from tests.by_url import end_lingering

pytestmark = longer

_POOL = "an async engine is made with its pool"

# What makes no sense here, and why.
LEFT_OUT = {
    "test_a_transaction_that_waited_for_a_connection_looks_again": "threads; see test_async",
    "test_who_waits_in_the_queue_of_a_retired_pool_comes_out_at_once": "threads; see test_async",
    "test_an_interrupt_at_the_end_of_a_transaction_does_not_pin_the_next": (
        "it loses a connection on purpose, which async drivers say aloud"
    ),
    "test_a_detached_connection_is_counted_until_it_is_closed": (
        "SQLAlchemy does not close one of psycopg; see test_async"
    ),
    "test_a_pool_that_was_forgotten_counts_no_more_once_it_is_collected": (
        "what an async driver loses, it says aloud"
    ),
    "test_a_pool_without_its_engine_gives_out_by_the_mode_and_keeps_one_kind": _POOL,
    "test_a_pool_without_its_engine_is_disposed_of_and_goes_on": _POOL,
    "test_what_connects_past_a_new_pool_goes_by_the_mode": _POOL,
    "test_after_the_flip_no_connection_is_left_at_the_server": "it makes its own app",
}


@pytest.fixture
def app(async_app: AsyncApp) -> Iterator[AsyncApp]:
    yield async_app
    end_lingering()


@pytest.fixture(autouse=True)
def _fitting_pools(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    params = {} if callspec is None else callspec.params
    if params.get("poolclass") is SingletonThreadPool:
        pytest.skip("an async engine has no SingletonThreadPool")
    driver = params.get("async_app")
    if driver in ("psycopg", "aiosqlite") and not LONG:
        # Below its connections it is that of the sync tests; test_async asks it the rest.
        pytest.skip(f"NOT RUN with {driver}: .ci/run runs it once, by SA_READONLY_LONG=1")


def alike(module: ModuleType) -> dict[str, Any]:
    return {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_")
        and name not in LEFT_OUT
        and "app" in inspect.signature(test).parameters
    }


for each in (
    test_session_mode,
    test_session_binds,
    test_session_classes,
    test_session_guard,
    test_doors,
    test_grace,
    test_plugin,
):
    globals().update(alike(each))
