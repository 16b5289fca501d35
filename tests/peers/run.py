"""The tests of others, with `RoutingSession` in the place of `Session`: `python -m tests.peers.run`.

Their releases stand in `releases.txt`. What fails is compared with `differences.toml`: both what fails
and is not listed, and what is listed and does not fail, are errors. So are fewer tests, or fewer pinned
transactions, than a suite is known to have: a run that proves nothing must not be green.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.postgres import Server, memory_or_disk

HERE = Path(__file__).parent
# The others are not all ready for 2.1: the tests of two fail on it, also without us.
OLDER = "sqlalchemy==2.0.58"
KINDS = 12  # of differences, at most
LIMIT = 480  # seconds for one suite
NOTHING = "pytest ended without a result"
TAKEN = {"test", "tests", "lib", "src", "docs_src", "setup.cfg", "pyproject.toml"}  # of an sdist

ORM = [
    *("session", "session_state_change", "scoping", "bind", "transaction", "events"),
    *("unitofwork", "unitofworkv2"),
]
SESSIONS = ["test/orm/dml", *(f"test/orm/test_{name}.py" for name in ORM)]
REPOSITORIES = [
    *("repository", "filters", "unique_mixin", "models", "loader_and_execution_options"),
    *("association_proxy", "inheritance", "bigint_identity", "routing", "cache_repository"),
    "cache_bind_group",
]
ASYNC = ("-o", "asyncio_default_fixture_loop_scope=function")


class Suite(NamedTuple):
    sdist: str
    arguments: list[str]  # {NAME} becomes the URL of a new database
    passed: int  # tests, at least
    pinned: int  # transactions, at least
    environment: dict[str, str] = {}
    older: bool = True  # with SQLAlchemy 2.0


# The longest first: two run at a time.
SUITES = {
    "sqlakeyset": Suite(
        "sqlakeyset",
        [*ASYNC, "-k", "(sqlite or test_async) and not (mysql or psycopg)", "tests"],
        passed=0,
        pinned=0,
    ),
    "sqlalchemy, SQLite": Suite(
        "sqlalchemy", ["--db", "sqlite_file", *SESSIONS], passed=0, pinned=0, older=False
    ),
    "sqlalchemy, PostgreSQL": Suite(
        "sqlalchemy", ["--dburi", "{psycopg2}", *SESSIONS], passed=0, pinned=0, older=False
    ),
    "sqlalchemy, asyncpg": Suite(
        "sqlalchemy", ["--dburi", "{asyncpg}", "test/ext/asyncio"], passed=0, pinned=0, older=False
    ),
    "sqlalchemy, aiosqlite": Suite(
        "sqlalchemy",
        ["--db", "aiosqlite_file", "test/ext/asyncio"],
        passed=0,
        pinned=0,
        older=False,
    ),
    "advanced-alchemy": Suite(
        "advanced_alchemy",
        [
            *("-p", "databases", "-m", "sqlite or aiosqlite or psycopg_sync or psycopg_async"),
            *(f"tests/integration/test_{name}.py" for name in REPOSITORIES),
        ],
        passed=0,
        pinned=0,
    ),
    "flask-sqlalchemy": Suite("flask_sqlalchemy", ["tests"], passed=0, pinned=0),
    "sqlmodel": Suite(
        "sqlmodel",
        [
            "tests",
            # about the project itself: its documentation, its releases, its generated code
            *(f"--ignore=tests/test_{name}.py" for name in ("docs_cleanup", "prepare_release")),
            "--ignore=tests/test_select_gen.py",
            # they run under coverage, in a process of their own
            *("-k", "not test_run_tests and not test_create_db_and_table"),
        ],
        passed=0,
        pinned=0,
    ),
    "zope.sqlalchemy": Suite(
        "zope_sqlalchemy",
        ["--import-mode=importlib", "src/zope/sqlalchemy/tests.py"],
        passed=0,
        pinned=0,
        environment={"TEST_DSN": "{psycopg2}"},
    ),
    "zope.sqlalchemy, two-phase": Suite(
        "zope_sqlalchemy",
        ["--import-mode=importlib", "src/zope/sqlalchemy/tests.py"],
        passed=0,
        pinned=0,
        environment={"TEST_DSN": "{psycopg2}", "TEST_TWOPHASE": "1"},
    ),
}


class Outcome(NamedTuple):
    passed: set[str]
    failed: dict[str, str]  # with what each said
    pinned: int
    seconds: float


def pip(*arguments: str) -> None:
    """Run pip quietly; its output goes into the error, if there is one."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, check=False, stdout=-1, stderr=-2, text=True)
    if done.returncode:
        sys.exit(f"`pip {' '.join(arguments)}` failed:\n{done.stdout}")


def unpack(place: Path, kept: Path) -> None:
    """Unpack the tests of all sdists into `place`; `kept` has the sdists for the next time."""
    releases = HERE / "releases.txt"
    mark = kept / "releases.txt"
    if not mark.is_file() or mark.read_bytes() != releases.read_bytes():
        source = ("--no-deps", "--no-binary", ":all:", "-d", str(kept), "-r", str(releases))
        pip("download", *source)
        mark.write_bytes(releases.read_bytes())
    for sdist in {suite.sdist for suite in SUITES.values()}:
        newest = max(kept.glob(f"{sdist}-*.tar.gz"), key=lambda path: path.stat().st_mtime)
        with tarfile.open(newest) as archive:
            members = [
                one
                for one in archive
                if len(parts := Path(one.name).parts) > 1 and parts[1] in TAKEN
            ]
            archive.extractall(place, members, filter="data")
        next(place.glob(f"{sdist}-*")).rename(place / sdist)
    pip("install", "--no-deps", "--target", str(place / "older"), OLDER)


def run(name: str, place: Path, server: Server, plain: bool) -> Outcome:
    """Run one suite, by a process of its own in its own directory."""
    suite = SUITES[name]
    began = time.monotonic()
    home = place / name.replace(" ", "-").replace(",", "")
    (home / "tmp").mkdir(parents=True)
    result = home / "result.json"
    urls = {}
    if "{" in f"{suite.arguments}{suite.environment}":
        database = str(server.new_database().database)
        for schema in ("test_schema", "test_schema_2"):  # of SQLAlchemy
            server.query(f"CREATE SCHEMA {schema}", database=database)
        for driver in ("psycopg2", "asyncpg"):
            urls[driver] = server.url(database, driver).render_as_string()
    path = [place / "older"] * suite.older + [HERE, HERE / "stand_ins"]
    environment = {
        **os.environ,
        **{key: value.format(**urls) for key, value in suite.environment.items()},
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PEERS_RESULT": str(result),
        "PEERS_POSTGRESQL": server.url("postgres").set(drivername="postgresql").render_as_string(),
        "TMPDIR": str(home / "tmp"),
        **({"PEERS_PLAIN": "1"} if plain else {}),
    }
    # -s: SQLAlchemy's tests then take the installed SQLAlchemy, and not the one beside them
    command = [sys.executable, "-s", "-m", "pytest", "-p", "routed", "-p", "no:cacheprovider"]
    options = ["--maxfail=1000", "--tb=short", "-q"]
    arguments = [argument.format(**urls) for argument in suite.arguments]
    log = home / "log.txt"
    with log.open("w") as file:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*command, *options, *arguments],
                check=False,
                cwd=place / suite.sdist,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=LIMIT,
            )
    if not result.is_file():
        said = log.read_text(errors="replace")[-3000:]
        return Outcome(set(), {NOTHING: said}, 0, time.monotonic() - began)
    found = json.loads(result.read_text())
    return Outcome(set(found["passed"]), found["failed"], found["pinned"], time.monotonic() - began)


def listed(name: str, differences: list[dict[str, Any]]) -> Iterator[str]:
    """The tests of a suite that are known to fail."""
    for one in differences:
        for where in one["where"]:
            if name in where["suites"]:
                yield from where["tests"]


def compare(name: str, outcome: Outcome, expected: set[str]) -> Iterator[str]:
    """What is wrong with the outcome of a suite, a line each.

    A test that is listed without its parameters must fail with all of them.
    """
    suite = SUITES[name]

    def of(test: str, tests: Any) -> set[str]:
        return {one for one in tests if one == test or one.startswith(f"{test}[")}

    if NOTHING in outcome.failed:
        expected = set()
    known: set[str] = set()
    for test in sorted(expected):
        known |= of(test, outcome.failed)
        if not of(test, outcome.failed):
            yield f"{test}: it is listed as a difference and did not fail. Cure: take it off the list."
        for one in of(test, outcome.passed):
            yield f"{one}: it passed. Cure: list those parameters of it that fail."
    for test in sorted(outcome.failed.keys() - known):
        yield f"{test}: it failed.\n{outcome.failed[test][-2000:]}\n"
    if len(outcome.passed) < suite.passed:
        yield f"{len(outcome.passed)} tests passed, and {suite.passed} did before."
    if outcome.pinned < suite.pinned:
        yield (
            f"{outcome.pinned} transactions were pinned, and {suite.pinned} were before: our "
            "listeners did not stand, or the sessions were none of ours."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument(
        "--plain", action="store_true", help="with nothing of ours: what fails then?"
    )
    parser.add_argument("--kept", type=Path, default=Path(".tox/sdists"), help="where sdists stay")
    options = parser.parse_args()
    with (HERE / "differences.toml").open("rb") as file:
        differences = tomllib.load(file)["difference"]
    if len(differences) > KINDS:
        sys.exit(
            f"differences.toml has {len(differences)} kinds of differences; {KINDS} are allowed."
        )
    began = time.monotonic()
    options.kept.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="peers-", dir=memory_or_disk()) as made:
        place = Path(made)
        unpack(place, options.kept.absolute())
        server = Server.launch()
        print(f"{time.monotonic() - began:5.0f} s  sdists and a PostgreSQL are there", flush=True)
        try:
            server.create_database("advanced")  # which its stand-in for pytest-databases names
            names = [name for name in SUITES if not options.suites or name in options.suites]
            with ThreadPoolExecutor(2) as pool:
                outcomes = pool.map(lambda name: run(name, place, server, options.plain), names)
                for name, outcome in zip(names, outcomes, strict=True):
                    expected = set() if options.plain else set(listed(name, differences))
                    found = list(compare(name, outcome, expected))
                    wrong += len(found)
                    print(
                        f"{outcome.seconds:5.0f} s  {name}: {len(outcome.passed)} passed,"
                        f" {outcome.pinned} transactions pinned, {len(expected)} known differences,"
                        f" {len(found)} errors",
                        *found,
                        sep="\n         ",
                        flush=True,
                    )
        finally:
            server.stop()
    print(f"{time.monotonic() - began:5.0f} s  in all", flush=True)
    if wrong:
        sys.exit('See CONTRIBUTING.md, "The tests of others", for what to do with a difference.')


if __name__ == "__main__":
    main()
