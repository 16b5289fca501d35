"""A pytest plugin in the place of pytest-databases, which starts containers.

advanced-alchemy's tests ask it for servers. Its PostgreSQL is ours; a test that asks for another
server is not among those that run.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import routed
from sqlalchemy import make_url


class StandIn(ModuleType):
    """A module, and a package, that has all names but the hooks of pytest."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "pytest")):
            raise AttributeError(name)
        return StandIn(name) if name.islower() else type(name, (), {})


class Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name.startswith(("pytest_databases", "google")):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


sys.meta_path.append(Finder())


@pytest.fixture(scope="session")
def postgres_service() -> SimpleNamespace:
    url = make_url(os.environ["PEERS_POSTGRESQL"])
    return SimpleNamespace(
        host=url.host, port=url.port, user=url.username, password="", database="advanced"
    )


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Any:
    """Give each engine to a selector: the sessions are bound to connections, not to engines."""
    made = yield
    if not routed.PLAIN:
        routed.select(made)
    return made
