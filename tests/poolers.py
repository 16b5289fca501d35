"""Throwaway poolers in front of the servers of tests/postgres.py: PgBouncer and Pgpool-II.

They are in no wheel. Where they are not installed their tests are skipped, with how to get them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import psycopg2
import pytest
from sqlalchemy import URL

from tests.postgres import Server, Standby, Throwaway, give, server_user


def program(name: str, package: str) -> str:
    """The path of a program, or a skip that says how to get it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")  # Debian's
    if found is None:
        pytest.skip(
            f"NOT TESTED with {package}: {name} is not installed. Cure: apt-get install "
            f"--no-install-recommends {package}."
        )
    return found


class Pooler(Throwaway):
    """What both have: a configuration file, clients on TCP, and the server's user."""

    DEFAULT_SETTINGS: ClassVar[dict[str, Any]] = {
        "auto_start": 2,
        "port": None,
        "copy_data_from": None,
        "server": None,
        "lines": [],
    }
    subdirectories: ClassVar[list[str]] = []

    def initialize(self) -> None:
        self.user = server_user()

    def get_data_directory(self) -> str:
        return self.base_dir

    def initialize_database(self) -> None:
        """The configuration is written with the port, when that is known."""

    def configure(self, **files: str) -> None:
        for name, content in files.items():
            Path(self.base_dir, name).write_text(content)
        give(Path(self.base_dir), self.user)

    def through(self, url: URL) -> URL:
        """The URL of a server's database behind this pooler."""
        return url.set(port=self.port)

    def query(self, sql: str, database: str = "postgres") -> list[Any]:
        """Run one statement through it, in autocommit; its rows, if any."""
        dsn = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "dbname": database}
        with closing(psycopg2.connect(**dsn, connect_timeout=60)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []


class PgBouncer(Pooler):
    """A PgBouncer, ready when made, with two connections for each database."""

    def get_server_commandline(self) -> list[str]:
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={self.settings['server'].port}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = trust",
            f"auth_file = {self.base_dir}/users",
            "admin_users = postgres",
            "default_pool_size = 2",
            *self.settings["lines"],
        ]
        self.configure(ini="\n".join(lines), users='"postgres" ""\n')
        return self.become(program("pgbouncer", "pgbouncer"), f"{self.base_dir}/ini")

    def is_server_available(self) -> bool:
        try:
            rows = self.query("SHOW CONFIG", "pgbouncer")
        except psycopg2.OperationalError:
            return False
        return f"{self.base_dir}/users" in {row[1] for row in rows}  # it is ours


class Pgpool(Pooler):
    """A Pgpool-II, ready when made, before a primary, which gets no read, and a standby."""

    def stop(self, _signal: int = signal.SIGINT) -> None:
        super().stop(_signal)  # at SIGTERM it would wait for its clients

    def get_server_commandline(self) -> list[str]:
        primary: Server = self.settings["server"]
        standby: Standby = self.settings["standby"]
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.pcp_port = free.getsockname()[1]
        values = {
            "backend_clustering_mode": "streaming_replication",
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "pcp_listen_addresses": "127.0.0.1",
            "pcp_port": self.pcp_port,
            **dict.fromkeys(("socket_dir", "pcp_socket_dir", "wd_ipc_socket_dir"), self.base_dir),
            "logdir": self.base_dir,
            "pid_file_name": f"{self.base_dir}/pgpool.pid",
            "sr_check_user": "postgres",
            "sr_check_period": 0,
            "health_check_period": 0,
            "num_init_children": 6,
            "load_balance_mode": "on",
            "failover_on_backend_shutdown": "on",
        }
        for number, server in enumerate((primary, standby)):
            values |= {
                f"backend_hostname{number}": "127.0.0.1",
                f"backend_port{number}": server.port,
                f"backend_weight{number}": number,
                f"backend_flag{number}": "ALLOW_TO_FAILOVER",
            }
        self.configure(
            conf="".join(f"{name} = '{value}'\n" for name, value in values.items()),
            pcp="",
            hba="",
        )
        command = ["-n", "-D", "-f", "conf", "-F", "pcp", "-a", "hba"]
        return self.become(program("pgpool", "pgpool2"), *command)

    def is_server_available(self) -> bool:
        try:
            rows = self.query("SHOW pool_nodes")
        except psycopg2.OperationalError:
            return False
        return [int(row[2]) for row in rows] == [
            self.settings["server"].port,
            self.settings["standby"].port,
        ]

    def nodes(self) -> list[tuple[str, str]]:
        """The status and the role of each."""
        return [(row[3], row[6]) for row in self.query("SHOW pool_nodes")]


@pytest.fixture(scope="session")
def bouncer(pg_server: Server) -> Iterator[Callable[..., PgBouncer]]:
    """Starts a PgBouncer before `pg_server`, once for each mode and each of its settings."""
    program("pgbouncer", "pgbouncer")
    with ExitStack() as stack:

        @cache
        def start(mode: str, *lines: str) -> PgBouncer:
            made: PgBouncer = PgBouncer.launch(
                server=pg_server, lines=[f"pool_mode = {mode}", *lines]
            )
            stack.callback(made.stop)
            return made

        yield start


@pytest.fixture(scope="session")
def pgpool(pg_server: Server, pg_standby: Standby) -> Iterator[Pgpool]:
    program("pgpool", "pgpool2")
    pg_standby.catch_up()
    made: Pgpool = Pgpool.launch(server=pg_server, standby=pg_standby)
    try:
        yield made
    finally:
        made.stop()
