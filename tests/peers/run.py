"""The tests of others, with `RoutingSession` in place of `Session`: `python -m tests.peers.run`.

Their releases stand in `releases.txt`. What fails is compared with `differences.toml`: both what
fails and is not listed, and what is listed and does not fail, are errors. So are fewer tests, or
fewer pinned transactions, than a suite has: a run that proves nothing must not be green.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import tomllib  # of 3.11, which SQLAlchemy 2.1 asks for as well

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


class Suite(NamedTuple):
    sdist: str
    arguments: list[str]  # {NAME} becomes the URL of a new database
    passed: int  # tests, at least
    pinned: int  # transactions, at least
    environment: Mapping[str, str] = MappingProxyType({})
    older: bool = True  # with SQLAlchemy 2.0


# The longest first: two run at a time.
SUITES = {
    "sqlalchemy-sqlite": Suite(
        "sqlalchemy", ["--db", "sqlite_file", *SESSIONS], passed=1900, pinned=2200, older=False
    ),
    "sqlalchemy-postgresql": Suite(
        "sqlalchemy", ["--dburi", "{psycopg2}", *SESSIONS], passed=2000, pinned=2350, older=False
    ),
    "sqlalchemy-asyncpg": Suite(
        "sqlalchemy",
        ["--dburi", "{asyncpg}", "test/ext/asyncio"],
        passed=290,
        pinned=260,
        older=False,
    ),
    "sqlalchemy-aiosqlite": Suite(
        "sqlalchemy",
        ["--db", "aiosqlite_file", "test/ext/asyncio"],
        passed=275,
        pinned=120,
        older=False,
    ),
    "sqlakeyset": Suite(
        "sqlakeyset",
        [
            *("-k", "(sqlite or test_async) and not (mysql or psycopg)"),
            *(f"tests/test_{name}.py" for name in ("paging_20_style", "async")),
            # the others say the same in the style of SQLAlchemy 1, for a minute
            "tests/test_paging.py::test_orm_custom_session_bind",
        ],
        passed=22,
        pinned=360,
    ),
    "advanced-alchemy": Suite(
        "advanced_alchemy",
        [
            *("-p", "databases", "-m", "sqlite or aiosqlite or psycopg_sync or psycopg_async"),
            *(f"tests/integration/test_{name}.py" for name in REPOSITORIES),
        ],
        passed=360,
        pinned=530,
    ),
    "flask-sqlalchemy": Suite(
        "flask_sqlalchemy",
        [
            "tests",
            # a dataclass that SQLAlchemy refuses, also without us
            *("-k", "not (test_explicit_table and (db2 or db4))"),
        ],
        passed=440,
        pinned=260,
    ),
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
        passed=240,
        pinned=440,
    ),
    "zope.sqlalchemy": Suite(
        "zope_sqlalchemy",
        ["--import-mode=importlib", "src/zope/sqlalchemy/tests.py"],
        passed=24,
        pinned=34,
        environment={"TEST_DSN": "{psycopg2}"},
    ),
    "zope.sqlalchemy-two-phase": Suite(
        "zope_sqlalchemy",
        ["--import-mode=importlib", "src/zope/sqlalchemy/tests.py"],
        passed=25,
        pinned=36,
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


def fetch(kept: Path) -> None:
    """Have the sdists, and SQLAlchemy 2.0 as it is installed, in a directory."""
    releases = HERE / "releases.txt"
    wanted = f"{releases.read_text()}{OLDER}\n"
    mark = kept / "fetched.txt"
    if mark.is_file() and mark.read_text() == wanted:
        return
    shutil.rmtree(kept, ignore_errors=True)
    source = ("--no-deps", "--no-binary", ":all:", "-d", str(kept), "-r", str(releases))
    pip("download", *source)
    pip("install", "--no-deps", "--target", str(kept / "older"), OLDER)
    mark.write_text(wanted)


def unpack(sdist: Path, place: Path) -> Path:
    """Unpack what the tests need of an sdist; the directory that it went to."""
    with tarfile.open(sdist) as archive:
        members = [one for one in archive if (Path(one.name).parts[1:2] or ("",))[0] in TAKEN]
        archive.extractall(place, members, filter="data")
    return place / sdist.name.removesuffix(".tar.gz")


def run(name: str, place: Path, kept: Path, server: Server, plain: bool) -> Outcome:
    """Run one suite, by a process of its own in its own directory."""
    suite = SUITES[name]
    began = time.monotonic()
    home = place / name
    (home / "tmp").mkdir(parents=True)
    (sdist,) = kept.glob(f"{suite.sdist}-*.tar.gz")
    directory = unpack(sdist, home)
    result = home / "result.json"
    urls = {}
    if "{" in f"{suite.arguments}{dict(suite.environment)}":
        database = str(server.new_database().database)
        for schema in ("test_schema", "test_schema_2"):  # of SQLAlchemy
            server.query(f"CREATE SCHEMA {schema}", database=database)
        for driver in ("psycopg2", "asyncpg"):
            urls[driver] = server.url(database, driver).render_as_string()
    path = [kept / "older"] * suite.older + [HERE, HERE / "stand_ins"]
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
    options += ["-o", "asyncio_default_fixture_loop_scope=function"]  # else it warns
    arguments = [argument.format(**urls) for argument in suite.arguments]
    log = home / "log.txt"
    with log.open("w") as file, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*command, *options, *arguments],
            check=False,
            cwd=directory,
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


def compare(name: str, outcome: Outcome, expected: set[str], plain: bool) -> Iterator[str]:
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
            yield f"{test}: it is listed and did not fail. Cure: take it off the list."
        for one in of(test, outcome.passed):
            yield f"{one}: it passed. Cure: list those parameters of it that fail."
    for test in sorted(outcome.failed.keys() - known):
        yield f"{test}: it failed.\n{outcome.failed[test][-2000:]}\n"
    if len(outcome.passed) < suite.passed:
        yield f"{len(outcome.passed)} tests passed, and {suite.passed} did before."
    if outcome.pinned < suite.pinned and not plain:
        yield (
            f"{outcome.pinned} transactions were pinned, and {suite.pinned} were before: our "
            "listeners did not stand, or the sessions were none of ours."
        )


def say(*lines: str) -> None:
    print(*lines, sep="\n         ", flush=True)  # noqa: T201  # a CI's log is read as it grows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument(
        "--plain", action="store_true", help="with nothing of ours: what fails then?"
    )
    parser.add_argument(
        "--kept", type=Path, default=Path(".tox/peers/fetched"), help="where the sdists stay"
    )
    options = parser.parse_args()
    if not SUITES.keys() >= set(options.suites):
        parser.error(f"the suites are: {', '.join(SUITES)}")
    with (HERE / "differences.toml").open("rb") as file:
        differences = tomllib.load(file)["difference"]
    if len(differences) > KINDS:
        sys.exit(
            f"differences.toml has {len(differences)} kinds of differences; {KINDS} are allowed."
        )
    unknown = {
        name for one in differences for where in one["where"] for name in where["suites"]
    } - SUITES.keys()
    if unknown:
        sys.exit(f"differences.toml names what is no suite: {', '.join(sorted(unknown))}.")
    began = time.monotonic()
    wrong = 0
    kept = options.kept.absolute()
    fetch(kept)
    with tempfile.TemporaryDirectory(prefix="peers-", dir=memory_or_disk()) as made:
        place = Path(made)
        server = Server.launch()
        say(f"{time.monotonic() - began:5.0f} s  sdists and a PostgreSQL are there")
        try:
            server.create_database("advanced")  # which its stand-in for pytest-databases names
            names = [name for name in SUITES if not options.suites or name in options.suites]
            with ThreadPoolExecutor(2) as pool:
                outcomes = pool.map(
                    lambda name: run(name, place, kept, server, options.plain), names
                )
                for name, outcome in zip(names, outcomes, strict=True):
                    expected = set() if options.plain else set(listed(name, differences))
                    found = list(compare(name, outcome, expected, options.plain))
                    wrong += len(found)
                    say(
                        f"{outcome.seconds:5.0f} s  {name}: {len(outcome.passed)} passed,"
                        f" {outcome.pinned} transactions pinned, {len(expected)} known differences,"
                        f" {len(found)} errors",
                        *found,
                    )
        finally:
            server.stop()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = used.ru_utime + used.ru_stime
    say(f"{time.monotonic() - began:5.0f} s  in all; the processors worked for {worked:.0f} s")
    if wrong:
        sys.exit('See CONTRIBUTING.md, "The tests of others", for what to do with a difference.')


if __name__ == "__main__":
    main()
