"""Bad input: what hypothesis feeds to the file, reports, HTTP, the command line and configurations.

`.ci/run` feeds more of the same, and `python -m tests.feeds` for as long as it is told.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app import LONG, longer
from tests.feeds import Feed, feed
from tests.feeds.commands import command_lines
from tests.feeds.configurations import configurations
from tests.feeds.reports import in_a_directory, in_etcd, keys, markers
from tests.feeds.requests import Pages, through_asgi, through_wsgi
from tests.feeds.texts import Lines, files, lines_of_a_terminal

pytestmark = longer


@pytest.fixture(autouse=True)
def every_record_is_a_line() -> Iterator[None]:
    handler, logger = Lines(), logging.getLogger("sa_readonly")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def fed(one: Feed, few: int, many: int) -> Counter[str]:
    """How they ended; shown with `-s`."""
    ended = feed(one, many if LONG else few)
    print(f"{one.name}: {dict(ended)}")  # noqa: T201  # what was met is part of the answer
    return ended


def test_a_file_with_any_bytes_is_read_only_and_steers_nothing(place: Path) -> None:
    assert set(fed(files(place), 25, 1000)) >= {"a reason"}
    fed(lines_of_a_terminal(), 25, 1000)


def test_a_report_of_another_version_or_a_torn_one_raises_nothing_and_drains_nobody() -> None:
    assert set(fed(in_a_directory(), 20, 1500)) >= {"damaged"}
    assert set(fed(in_etcd(), 20, 1500)) >= {"damaged"}
    fed(markers(), 10, 500)
    fed(keys(), 10, 500)


def test_a_request_of_any_kind_is_answered(place: Path) -> None:
    pages = Pages(place)
    try:
        fed(through_wsgi(pages), 15, 1500)
        fed(through_asgi(pages), 15, 1500)
    finally:
        pages.close()


def test_a_command_line_of_any_kind_ends_by_a_code_and_a_line(place: Path) -> None:
    assert set(fed(command_lines(place), 15, 500)) >= {"2"}


def test_any_mapping_makes_a_selector_or_a_configuration_error(place: Path) -> None:
    assert set(fed(configurations(place), 25, 500)) >= {"an error"}
