"""What ``sa-readonly doctor`` finds between itself and a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from tests.doctor import has, look, the
from tests.poolers import PgBouncer, bouncer
from tests.postgres import Pair

__all__ = ["bouncer"]  # a fixture

Start = Callable[..., PgBouncer]


def test_a_plain_server_honours_start_up_options_and_has_no_pooler(pg_pair: Pair) -> None:
    findings = look(*pg_pair)
    assert the(findings, "The read-only database honours start-up options").severity == "ok"
    assert the(findings, "No pooler is before the read-only database").severity == "ok"


def test_options_of_the_url_are_kept(pg_pair: Pair) -> None:
    url = pg_pair.read_only.update_query_dict({"options": "-c default_transaction_read_only=on"})
    assert has(look(pg_pair.read_write, url), "default_transaction_read_only is on")


def test_of_a_service_file_it_is_told_that_no_option_is_sent(
    pg_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "services").write_text("[app]\noptions=-c search_path=app\n", encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    url = pg_pair.read_only.update_query_dict({"service": "app"})
    found = the(look(pg_pair.read_write, url), "have its start-up options from a service file")
    assert (found.severity, found.code) == ("note", "driver-without-start-up-options")


def test_an_url_of_several_hosts_is_a_warning(pg_pair: Pair) -> None:
    port = pg_pair.read_only.port
    url = pg_pair.read_only.set(host=None, port=None).update_query_pairs(
        [("host", f"127.0.0.1:{port}"), ("host", f"localhost:{port}")]
    )
    assert the(look(pg_pair.read_write, url), "names several hosts").severity == "warning"


def test_pgbouncer_in_transaction_mode_is_recognised(pg_pair: Pair, bouncer: Start) -> None:
    url = bouncer("transaction").through(pg_pair.read_only)
    findings = look(pg_pair.read_write, url)
    engine = create_engine(url)
    with engine.connect() as connection:
        left = [
            connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("default_transaction_read_only", "statement_timeout")
        ]
    engine.dispose()
    assert left == ["off", "0"], "the doctor left a setting to the next client"
    assert the(findings, "A pooler in transaction mode").severity == "warning"
    assert the(findings, "refuses start-up options").severity == "warning"
    assert has(findings, "are on one server")


def test_pgbouncer_that_drops_start_up_options_is_recognised(pg_pair: Pair, bouncer: Start) -> None:
    through = bouncer("session", "ignore_startup_parameters = options").through
    findings = look(pg_pair.read_write, through(pg_pair.read_only))
    assert the(findings, "ignores start-up options").severity == "warning"
    assert the(findings, "its mode could not be told").severity == "note"


@pytest.mark.parametrize("pooler", ["transaction", "session"])
def test_with_the_option_pooler_no_start_up_options_are_tried(
    pg_pair: Pair, bouncer: Start, pooler: str
) -> None:
    url = bouncer(pooler).through(pg_pair.read_only)
    findings = look(pg_pair.read_write, url, pooler=pooler)
    assert the(findings, "No start-up options are sent to the read-only database").severity == "ok"
    assert not has(findings, "refuses start-up options")
