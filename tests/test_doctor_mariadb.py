"""``sa-readonly doctor`` on MariaDB."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import URL, create_engine

from sa_readonly.command.doctor.mysql import grants
from tests.doctor import dangers, has, look, the
from tests.postgres import MariaDB, Pair


@pytest.fixture
def account(mariadb: MariaDB) -> Iterator[str]:
    mariadb.query("CREATE USER reader@'%' IDENTIFIED BY 'readers word'")
    yield "reader"
    mariadb.query("DROP USER reader@'%'")


def as_account(url: URL) -> URL:
    return url.set(username="reader", password="readers word")


def test_a_mariadb_account_that_may_write_is_a_danger(
    mariadb: MariaDB, mariadb_pair: Pair, account: str
) -> None:
    mariadb.query(f"GRANT SELECT, INSERT ON `{mariadb_pair.read_only.database}`.* TO reader@'%'")
    findings = look(mariadb_pair.read_write, as_account(mariadb_pair.read_only))
    danger = the(findings, "is writable, and account reader@% may write")
    assert f"INSERT on `{mariadb_pair.read_only.database}`.*" in danger.what
    assert "SET SESSION TRANSACTION READ WRITE" in danger.meaning
    assert has(findings, "are on one server")


def test_a_mariadb_account_that_may_only_select_is_no_danger(
    mariadb: MariaDB, mariadb_pair: Pair, account: str
) -> None:
    mariadb.query("GRANT SELECT ON *.* TO reader@'%'")
    findings = look(mariadb_pair.read_write, as_account(mariadb_pair.read_only))
    assert dangers(findings) == []
    assert the(findings, "may write nothing").severity == "ok"
    assert the(findings, "is a replica could not be told").severity == "note"


def test_a_mariadb_account_may_write_what_its_role_may(
    mariadb: MariaDB, mariadb_pair: Pair, account: str
) -> None:
    database = mariadb_pair.read_only.database
    mariadb.query("CREATE ROLE writer")
    try:
        mariadb.query(f"GRANT DELETE ON `{database}`.* TO writer")
        mariadb.query(f"GRANT SELECT ON `{database}`.* TO reader@'%'")
        mariadb.query("GRANT writer TO reader@'%'")
        (danger,) = dangers(look(mariadb_pair.read_write, as_account(mariadb_pair.read_only)))
        assert "whatever role `writer` may, which can't be told" in danger
        mariadb.query("SET DEFAULT ROLE writer FOR reader@'%'")
        (danger,) = dangers(look(mariadb_pair.read_write, as_account(mariadb_pair.read_only)))
        assert danger.endswith(f"may write into it: DELETE on `{database}`.*.")
    finally:
        mariadb.query("DROP ROLE writer")


def test_a_mariadb_server_that_is_read_only_refuses_accounts_that_can_not_pass(
    mariadb: MariaDB, mariadb_pair: Pair, account: str
) -> None:
    mariadb.query(f"GRANT ALL ON `{mariadb_pair.read_only.database}`.* TO reader@'%'")
    mariadb.query("SET GLOBAL read_only = ON")
    try:
        findings = look(mariadb_pair.read_write, as_account(mariadb_pair.read_only))
        as_root = look(*mariadb_pair)
    finally:
        mariadb.query("SET GLOBAL read_only = OFF")
    assert dangers(findings) == []
    assert the(findings, "refuses each write: its server has read_only=ON").severity == "ok"
    assert has(findings, "The read-write database is a server with read_only=ON")
    assert len(dangers(as_root)) == 1
    assert has(as_root, "may pass or lift it")


def test_mariadb_is_not_written(mariadb: MariaDB, mariadb_pair: Pair) -> None:
    def writes() -> dict[str, str]:
        return {
            name: value
            for name, value in mariadb.query("SHOW GLOBAL STATUS")
            if re.match(r"Com_(insert|update|delete|replace|create|drop|alter|grant|set_)", name)
        }

    before = writes()
    look(*mariadb_pair)
    # SQLAlchemy and PyMySQL set the session's character set and autocommit
    assert {**writes(), "Com_set_option": None} == {**before, "Com_set_option": None}


def test_a_grant_that_is_not_understood_counts_as_a_right_to_write() -> None:
    privileges, _ = grants(["GRANT something new TO `reader`@`%` IDENTIFIED BY PASSWORD '*HASH'"])
    assert [str(one) for one in privileges] == ["what can't be told on a grant of another form"]


def test_grants_of_every_form_are_understood() -> None:
    privileges, roles = grants(
        [
            "GRANT USAGE ON *.* TO `reader`@`%` IDENTIFIED BY PASSWORD '*HASH'",
            "GRANT SELECT, INSERT (`a`, `b`) ON `my shop`.`a table` TO `reader`@`%`",
            "GRANT EXECUTE ON PROCEDURE `shop`.`tidy` TO `reader`@`%`",
            "GRANT `one`@`%`,`two`@`%` TO `reader`@`%`",
            "GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION",
            "SET DEFAULT ROLE `one` FOR `reader`@`%`",
        ]
    )
    assert [str(one) for one in privileges] == [
        "USAGE on *.*",
        "SELECT on `my shop`.`a table`",
        "INSERT on `my shop`.`a table`",
        "EXECUTE on `shop`.`tidy`",
    ]
    assert roles == ["`one`@`%`", "`two`@`%`"]


def test_prepared_xa_transactions_of_the_server_are_named(mariadb_pair: Pair) -> None:
    engine = create_engine(mariadb_pair.read_write, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE thing (n integer)")
        for step in ("XA START 'left'", "INSERT INTO thing VALUES (1)", "XA END 'left'"):
            connection.exec_driver_sql(step)
        connection.exec_driver_sql("XA PREPARE 'left'")
        finding = the(look(*mariadb_pair), "The read-write server has prepared transactions")
        connection.exec_driver_sql("XA ROLLBACK 'left'")
    engine.dispose()
    assert finding.severity == "warning"
    assert "'left'" in finding.what
    assert "XA ROLLBACK 'left'" in finding.cure
