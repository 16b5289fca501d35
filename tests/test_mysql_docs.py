"""docs/mysql.md: what it shows, on MariaDB with a replica."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.app import once
from tests.postgres import MariaDB, wait_until

DOCS = (Path(__file__).parent.parent / "docs" / "mysql.md").read_text(encoding="utf-8")
SECTION = DOCS.partition("## What proves")[2].partition("\nOn MySQL")[0]
POSITION, WAIT = re.findall(r"^(SELECT .*?);", SECTION, re.MULTILINE)


class Primary(MariaDB):
    """It keeps a binary log."""

    options = ("--server-id=1", "--log-bin=log")

    def get_server_commandline(self) -> list[str]:
        return [*super().get_server_commandline(), *self.options]


class Replica(Primary):
    """It may be replicated into."""

    options = ("--server-id=2", "--read-only=ON")


@pytest.fixture
def servers(mariadb: MariaDB) -> Iterator[tuple[Any, Any]]:
    primary, replica = Primary.launch(), Replica.launch()
    try:
        yield primary, replica
    finally:
        primary.stop()
        replica.stop()


@once
def test_a_gtid_tells_whether_a_copy_has_caught_up(servers: tuple[Any, Any]) -> None:
    primary, replica = servers
    primary.query("CREATE USER copy@'%' IDENTIFIED BY 'word'")
    primary.query("GRANT REPLICATION SLAVE ON *.* TO copy@'%'")
    for grant in re.findall(r"^  ((?:CREATE USER|GRANT) .*reads.*);", DOCS, re.MULTILINE):
        primary.query(grant.replace("%", "%%").replace("'...'", "'reads'"))
    replica.query(
        f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port}, "
        "MASTER_USER='copy', MASTER_PASSWORD='word', MASTER_USE_GTID=slave_pos"
    )
    replica.query("START SLAVE")

    def as_reader(server: Any, sql: str) -> Any:
        options = {"host": "127.0.0.1", "user": "shop_reads", "password": "reads"}
        with closing(pymysql.connect(port=server.port, **options)) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return cursor.fetchone()[0]

    primary.query("CREATE DATABASE shop")
    has_account = "SELECT 1 FROM mysql.user WHERE User = 'shop_reads'"
    wait_until(lambda: bool(replica.query(has_account)), "the replica to begin")
    wait = WAIT.replace(", 60", ", {}")
    position = as_reader(primary, POSITION)
    assert as_reader(replica, wait.format(10).replace("0-1-4711", position)) == 0
    replica.query("STOP SLAVE SQL_THREAD")
    primary.query("CREATE TABLE shop.orders (n int)")
    assert as_reader(primary, POSITION) != position
    behind = wait.format(0.1).replace("0-1-4711", as_reader(primary, POSITION))
    assert as_reader(replica, behind) == -1
