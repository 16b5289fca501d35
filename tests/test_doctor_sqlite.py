"""``sa-readonly doctor`` on SQLite."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, make_url

from sa_readonly.command.doctor.sqlite import sqlite_file
from sa_readonly.command.probe import UnreachableError
from tests.doctor import dangers, has, look, nobody, place, sqlite_database, the
from tests.postgres import Pair

__all__ = ["place"]  # a fixture


def read_only_sqlite(url: URL) -> URL:
    return make_url(f"sqlite:///file:{url.database}?mode=ro&uri=true")


def test_a_writable_sqlite_file_is_a_danger(tmp_path: Path) -> None:
    findings = look(sqlite_database(tmp_path / "rw"), sqlite_database(tmp_path / "ro"))
    danger = the(findings, "is writable, and this process's user may write")
    assert danger.severity == "danger"
    assert "PRAGMA query_only = OFF" in danger.meaning
    assert "mode=ro" in danger.cure
    assert has(findings, "is another one")


def test_mode_ro_on_a_file_that_this_user_may_write_is_a_danger(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    findings = look(url, read_only_sqlite(url))
    assert "ATTACH" in the(findings, "is writable, and this process's user").meaning
    assert has(findings, "is the read-write database itself")


def test_attach_does_get_past_mode_ro(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    engine = create_engine(read_only_sqlite(url))
    with contextlib.closing(engine.raw_connection()) as raw:
        cursor = raw.cursor()
        with pytest.raises(sqlite3.OperationalError, match="readonly database"):
            cursor.execute("INSERT INTO thing VALUES (1)")
        raw.rollback()
        cursor.execute(f"ATTACH '{url.database}' AS other")
        cursor.execute("INSERT INTO other.thing VALUES (1)")
        raw.commit()
    engine.dispose()
    with contextlib.closing(sqlite3.connect(tmp_path / "one")) as connection:
        assert connection.execute("SELECT n FROM thing").fetchall() == [(1,)]


def test_a_sqlite_file_that_this_user_can_not_write_is_no_danger(place: Path) -> None:
    url = sqlite_database(place / "one")
    (place / "one").chmod(0o444)
    with nobody():
        findings = look(url, url)
    assert dangers(findings) == []
    assert the(findings, f"refuses each write: this process's user can't write {place}/one")


def test_a_symlink_to_the_same_sqlite_file_is_recognised(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    (tmp_path / "two").symlink_to("one")
    assert has(look(url, make_url(f"sqlite:///{tmp_path}/two")), "the read-write database itself")


def test_missing_sqlite_tables_are_named(tmp_path: Path) -> None:
    one = sqlite_database(tmp_path / "one", "CREATE TABLE newer (n integer)")
    two = sqlite_database(tmp_path / "two")
    assert the(look(one, two), "lacks tables").what.endswith("of the read-write database: newer.")
    assert the(look(two, one), "has the 1 tables").severity == "ok"


def test_the_tables_of_two_kinds_of_databases_are_not_compared(
    pg_pair: Pair, tmp_path: Path
) -> None:
    findings = look(pg_pair.read_write, sqlite_database(tmp_path / "one"))
    assert has(findings, "The read-only database is SQLite, the read-write database PostgreSQL")
    assert not has(findings, "lacks tables")


def test_sqlite_in_memory_can_be_examined() -> None:
    findings = look(make_url("sqlite://"), make_url("sqlite:///:memory:"))
    assert "in this process's memory" in dangers(findings)[0]
    assert dangers(look(make_url("sqlite://"))) == dangers(look(make_url("sqlite:///:memory:")))


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_nothing_is_written_beside_a_sqlite_file(tmp_path: Path, mode: str) -> None:
    url = sqlite_database(tmp_path / "one", f"PRAGMA journal_mode = {mode}")

    def snapshot() -> dict[str, tuple[int, bytes]]:
        return {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in tmp_path.iterdir()}

    before = snapshot()
    look(url, read_only_sqlite(url))
    assert snapshot() == before


def test_a_sqlite_file_in_use_is_read(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    with contextlib.closing(sqlite3.connect(tmp_path / "one")) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE newer (n integer)")
        connection.commit()
        assert has(look(url, read_only_sqlite(url)), "has the 2 tables")


@pytest.mark.parametrize("in_use", [False, True])
def test_a_sqlite_file_is_taken_for_immutable_only_while_nobody_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_use: bool
) -> None:
    url, real, opened = sqlite_database(tmp_path / "one"), sqlite3.connect, list[str]()

    def connect(name: str, **options: Any) -> Any:
        opened.append(name)
        return real(name, **options)

    with contextlib.closing(real(tmp_path / "one")) as connection:
        if in_use:
            connection.execute("BEGIN")
            connection.execute("CREATE TABLE newer (n integer)")
            assert (tmp_path / "one-journal").exists()
        monkeypatch.setattr(sqlite3, "connect", connect)
        assert has(look(url, read_only_sqlite(url)), "has the 1 tables")
    assert {"immutable" in one for one in opened if one.startswith("file:")} == {not in_use}


def test_a_sqlite_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="No such file"):
        look(make_url(f"sqlite:///{tmp_path}/none"))
    assert list(tmp_path.iterdir()) == []


def test_a_uri_needs_uri_true() -> None:
    assert sqlite_file(make_url("sqlite:///file:/a%20b?mode=ro&uri=true")) == (
        "/a b",
        {"mode": "ro", "uri": "true"},
    )
    assert sqlite_file(make_url("sqlite:////a?mode=ro")) == ("/a", {})
