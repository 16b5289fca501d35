"""The servers, as fixtures. See tests/postgres.py."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.app import LONG, app, clock, lite, pg_urls, place  # noqa: F401  # fixtures
from tests.async_app import async_app, own_loop, run_inside_a_greenlet  # noqa: F401  # fixtures
from tests.etcd import Etcd, programs
from tests.postgres import (
    MariaDB,
    Pair,
    Server,
    ServerUnavailableError,
    Standby,
    fresh_pair,
    memory_or_disk,
)


def pytest_configure() -> None:
    # What a shell or nohup starts in the background ignores them, and so would what is tested.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    pytest.register_assert_rewrite("tests.web_cases")
    # SQLite waits for a disk at each commit; pytest's own name for where its directories are
    if memory := memory_or_disk():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)
    # The tests start many programs, of which each would compile the package anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # what the operator has set for psql, or for this host, must not steer the tests
    for name in list(os.environ):
        if name.startswith("PG") or name == "SA_READONLY_FORCE":
            del os.environ[name]


def pytest_xdist_auto_num_workers() -> int:
    # Each worker starts servers of its own, so a large machine gets no more than it has use for.
    # One more than there are processors: many tests wait for a process or a clock.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(4, cores + 1)


# What stands below the command and the web. `.ci/run` runs it on the pairs of Python and SQLAlchemy
# between the oldest and the newest.
CORE = re.compile(
    "test_(async|calls|checks|config|cursors|doors|errors|failover|forks|grace|guard|handover|hold|house|mode|plugin|privates"
    "|readers|reads|replace|roads|scoped|selector|server|session|sqlite|staleness|statements|switch|texts|told|url|watcher|workers?)(_|$)"
)


def pytest_itemcollected(item: pytest.Item) -> None:
    if CORE.match(item.path.stem):
        item.add_marker("core")
    if not LONG and item.get_closest_marker("once"):
        item.add_marker(pytest.mark.skip("NOT RUN: .ci/run runs it once, by SA_READONLY_LONG=1"))


def pytest_collection_finish() -> None:
    # Many tests collect garbage on purpose, which need not walk through all that is imported.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    return run_inside_a_greenlet(pyfuncitem)


@pytest.fixture(scope="session")
def pg_server() -> Iterator[Server]:
    """One PostgreSQL for all tests. An error, not a skip, where none can be had."""
    server: Server = Server.launch()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def pg_pair(pg_server: Server) -> Iterator[Pair]:
    """Two fresh databases: `pg_pair.read_write` and `pg_pair.read_only`."""
    with fresh_pair(pg_server) as pair:
        yield pair


@pytest.fixture(scope="session")
def pg_standby(pg_server: Server) -> Iterator[Standby]:
    """A hot standby of `pg_server`. Never promote it: `pg_server.standby()` makes another."""
    standby = pg_server.standby()
    try:
        yield standby
    finally:
        standby.stop()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """One MariaDB for all tests, skipped where it is not installed: it comes in no wheel."""
    try:
        MariaDB.programs()
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    server: MariaDB = MariaDB.launch()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def mariadb_pair(mariadb: MariaDB) -> Iterator[Pair]:
    """Two fresh databases: `mariadb_pair.read_write` and `mariadb_pair.read_only`."""
    with fresh_pair(mariadb) as pair:
        yield pair


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[Etcd]:
    """One etcd of one node for all tests, skipped where its wheel can't be had."""
    try:
        programs()
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with Etcd() as server:
        yield server


@pytest.fixture
def etcd(etcd_server: Etcd) -> Etcd:
    """The etcd of all tests, empty. What a test does to it, it takes back."""
    etcd_server.clear()
    return etcd_server
