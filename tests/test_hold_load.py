"""Flips under load behind real servers: each request is answered, each commit is there once."""

from __future__ import annotations

import pytest

from benchmarks.hold import KINDS, through_flips
from tests.app import need, once
from tests.postgres import Pair


@once
@pytest.mark.parametrize("name", KINDS)
def test_no_request_fails_and_each_acknowledged_commit_is_there_once(
    pg_pair: Pair, name: str
) -> None:
    need(*KINDS[name].command[:1], "asyncpg")
    load = through_flips(KINDS[name], pg_pair.read_write, flips=2, seconds=1.5)
    assert [one.status for one in load.failed] == []
    assert load.not_once == []
    assert len(load.held) >= KINDS[name].writers // 10  # on a machine that is busy, too


@once
def test_ten_flips_with_a_worker_killed_in_each_lose_nothing_that_was_acknowledged(
    pg_pair: Pair,
) -> None:
    name = "gunicorn, 64 threads"
    need("gunicorn")
    load = through_flips(KINDS[name], pg_pair.read_write, flips=10, seconds=1.0, kills=True)
    assert load.not_once == []
    assert {one.status for one in load.failed} <= {0}  # its connection was lost, and none refused
    assert len(load.held) >= 10
