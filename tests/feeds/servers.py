"""What a server makes of a text, beside what the guard says of it.

Each text runs twice: in a transaction that is read-only by the server, and in one that may write.
What it has done is looked for at the server itself, after each; then all is put back.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import pymysql
from psycopg import pq
from pymysql.constants import CLIENT

import tests.postgres
from sa_readonly.engines.statements import examine
from tests.differential import EFFECTS
from tests.feeds import Feed
from tests.feeds.grammar import Grammar, MariaDB, PostgreSQL, SQLite, texts


class Done(NamedTuple):
    """What a server did.

    :param error: its code for an error, or nothing.
    :param effects: what is other than before.
    """

    error: str
    effects: frozenset[str]


@dataclass
class Verdicts:
    """What the comparison of many texts came to.

    :param lost: what only reads, as the server says, and is refused, by what the guard said.
    :param example: one text of each of these.
    """

    texts: int = 0
    refused_writes: int = 0
    passed_reads: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)


class Judge:
    """Compares the guard with one server."""

    grammar: ClassVar[type[Grammar]]
    # What is only examined: what would write files, run programs or end other sessions.
    NOT_RUN: ClassVar[re.Pattern[str]]
    # What calls the user's code, which the guard can't see into: there the server's lock stands.
    LOCKED: ClassVar[re.Pattern[str]]

    def __init__(self) -> None:
        self.verdicts = Verdicts()

    def read_only(self, text: str) -> Done:
        """Run it where the server is to read only."""
        raise NotImplementedError

    def read_write(self, text: str) -> Done:
        """Run it where it may write."""
        raise NotImplementedError

    def check(self, text: str) -> str:
        dialect = self.grammar.dialect
        refused = examine(text, dialect)
        told = self.verdicts
        told.texts += 1
        if self.NOT_RUN.search(text):
            return "refused, and not run" if refused else "not run"
        locked, free = self.read_only(text), self.read_write(text)
        if refused is None:
            assert not locked.effects, f"The server, which is to read only, does it: {locked}"
            if not free.effects:
                told.passed_reads += not free.error
                return "passed: an error" if free.error else "passed: it reads"
            assert locked.error, f"It is lost, with no error: {free}"
            assert self.LOCKED.search(text), f"No lock but the server's stands: {free}, {locked}"
            return "passed: the server refuses it"
        if free.effects or locked.effects:
            told.refused_writes += 1
            return "refused: it acts"
        if free.error:
            return "refused: an error"
        told.lost[refused] += 1
        shortest = told.example.setdefault(refused, text)
        if len(text) < len(shortest):
            told.example[refused] = text
        return "refused: it reads"

    def feed(self) -> Feed:
        return Feed(f"texts for {self.grammar.__name__}", texts(self.grammar), self.check)


# -- PostgreSQL ------------------------------------------------------------------------------

_SCHEMA = b"""
    CREATE TABLE thing (id int PRIMARY KEY, name text);
    INSERT INTO thing VALUES (1, 'one'), (2, 'two');
    CREATE VIEW things AS SELECT * FROM thing;
    CREATE MATERIALIZED VIEW kept AS SELECT * FROM thing;
    CREATE SEQUENCE seq;
    CREATE FUNCTION looks(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT id FROM thing LIMIT 1';
    CREATE FUNCTION writes(int) RETURNS int LANGUAGE plpgsql AS
        'BEGIN INSERT INTO thing VALUES (nextval(''seq'') + 100, ''w''); RETURN 1; END';
    CREATE PROCEDURE acts() LANGUAGE plpgsql AS 'BEGIN DELETE FROM thing WHERE id = 2; END';
    CREATE PROCEDURE rests() LANGUAGE plpgsql AS 'BEGIN PERFORM 1; END';
"""
# What each text finds in its session.
_BEFORE = b"""
    PREPARE one AS SELECT 1; PREPARE two (bigint) AS SELECT $1;
    PREPARE writing AS INSERT INTO thing VALUES (5, 'five');
    DECLARE there CURSOR WITH HOLD FOR SELECT * FROM thing
"""
# What is other once something was written, also if that was rolled back.
_STATE = b"""
    SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text,
        (SELECT (last_value, is_called)::text FROM public.seq),
        (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts)
"""
# What is other once something was committed: another name, another row.
_KEPT = b"""
    SELECT pg_catalog.string_agg(t::text, ',' ORDER BY t.id),
        (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class),
        (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts)
    FROM public.thing t
"""
_SETTINGS = "-c statement_timeout=2s -c lock_timeout=1s -c client_min_messages=error"
_SAID = re.compile(r"may write|will write")


class OnPostgreSQL(Judge):
    """One server, on which nothing else is at work.

    :param dsn: a database of its own, as libpq has it; of a role that is no superuser, so that none
        of the files and programs of the server are in its reach.
    """

    grammar = PostgreSQL
    NOT_RUN = re.compile(
        r"pg_(terminate|cancel)_backend|pg_(reload|promote|rotate|switch|sleep)|\bprogram\b"
        r"|lo_(im|ex)port|pg_file_|dblink|(to|from)\s+'",
        re.IGNORECASE,
    )
    LOCKED = re.compile(r"writes\b|\bwriting\b", re.IGNORECASE)

    def __init__(self, dsn: str, role: str) -> None:
        super().__init__()
        self._dsn = dsn
        self._role = role
        self.connections = {one: self._connect(one) for one in ("on", "off")}
        self._fill()

    def _connect(self, read_only: str) -> pq.PGconn:
        options = f"{_SETTINGS} -c default_transaction_read_only={read_only}"
        made = pq.PGconn.connect(f"{self._dsn} user={self._role} options='{options}'".encode())
        if made.status != pq.ConnStatus.OK:
            raise RuntimeError(made.get_error_message())
        return made

    def close(self) -> None:
        for one in self.connections.values():
            one.finish()

    def read_only(self, text: str) -> Done:
        return self._done("on", b"BEGIN READ ONLY", text)

    def read_write(self, text: str) -> Done:
        done = self._done("off", b"BEGIN READ WRITE", text)
        # There it begins so.
        return done._replace(effects=frozenset(x for x in done.effects if not _SAID.search(x)))

    def _done(self, kind: str, begin: bytes, text: str) -> Done:
        connection = self.connections[kind]
        self._run(connection, _BEFORE)
        before = self._rows(connection, _STATE)
        self._run(connection, begin)
        error = self._run(connection, text.encode())
        effects: frozenset[str] = frozenset()
        ended = connection.transaction_status == pq.TransactionStatus.IDLE
        if not error or ended:
            effects = frozenset(row[0] for row in self._rows(connection, EFFECTS))
            if ended:  # a transaction of its own is read-only by the session
                effects -= {"may write"}
        if connection.transaction_status != pq.TransactionStatus.IDLE:
            self._run(connection, b"ROLLBACK")
        if not error or ended:
            after = self._rows(connection, _STATE)
            effects |= {"wrote"} if after != before else set()
        self._run(connection, b"DISCARD ALL")
        # A text of several statements may have committed, and begun again.
        if (ended or ";" in text) and self._rows(connection, _KEPT) != self._kept:
            self._run(self.connections["off"], b"ROLLBACK PREPARED 'x'")
            self._fill()
        return Done(error, effects)

    def _fill(self) -> None:
        """Make anew what was committed otherwise."""
        writer = self.connections["off"]
        self._run(writer, b"ROLLBACK")
        self._run(writer, b"DROP OWNED BY CURRENT_USER CASCADE")
        self._run(writer, b"CREATE SCHEMA IF NOT EXISTS public")
        if error := self._run(writer, _SCHEMA):
            raise RuntimeError(error)
        self._kept = self._rows(writer, _KEPT)

    def _rows(self, connection: pq.PGconn, query: bytes) -> list[tuple[str, ...]]:
        done = connection.exec_(query)
        return [
            tuple((done.get_value(row, one) or b"").decode() for one in range(done.nfields))
            for row in range(done.ntuples)
        ]

    def _run(self, connection: pq.PGconn, text: bytes) -> str:
        """Return the SQLSTATE, or nothing."""
        done: pq.abc.PGresult | None = connection.exec_(text)
        code = b""
        while done is not None:
            code = done.error_field(pq.DiagnosticField.SQLSTATE) or code
            if done.status == pq.ExecStatus.COPY_OUT:
                while connection.get_copy_data(0)[0] > 0:
                    pass
            elif done.status == pq.ExecStatus.COPY_IN:
                connection.put_copy_data(b"9\tnine\n")
                connection.put_copy_end()
            done = connection.get_result()
        if connection.status != pq.ConnStatus.OK:
            raise RuntimeError(f"The server hung up after: {text!r}")
        return code.decode()


@contextmanager
def on_postgresql(server: object) -> Iterator[OnPostgreSQL]:
    """A database and a role of its own on a server of :mod:`tests.postgres`."""
    url = server.new_database()  # type: ignore[attr-defined]  # it has no types
    role = f"role_{url.database}"
    server.query(f"CREATE ROLE {role} LOGIN")  # type: ignore[attr-defined]
    server.query(f"ALTER DATABASE {url.database} OWNER TO {role}")  # type: ignore[attr-defined]
    server.query("ALTER SCHEMA public OWNER TO " + role, database=url.database)  # type: ignore[attr-defined]
    made = OnPostgreSQL(f"host=127.0.0.1 port={server.port} dbname={url.database}", role)  # type: ignore[attr-defined]
    try:
        yield made
    finally:
        made.close()
        server.drop_database(url)  # type: ignore[attr-defined]
        server.query(f"DROP ROLE {role}")  # type: ignore[attr-defined]


# -- MariaDB ---------------------------------------------------------------------------------

_TABLES = (
    "CREATE TABLE thing (id int PRIMARY KEY, name text)",
    "CREATE TABLE probe (id int)",
    "INSERT INTO thing VALUES (1, 'one'), (2, 'two')",
    "CREATE VIEW things AS SELECT * FROM thing",
    "CREATE SEQUENCE seq",
    "CREATE FUNCTION looks(x int) RETURNS int READS SQL DATA RETURN (SELECT id FROM thing LIMIT 1)",
    "CREATE FUNCTION writes(x int) RETURNS int MODIFIES SQL DATA"
    " BEGIN INSERT INTO thing VALUES (UUID_SHORT() % 1000000 + 100, 'w'); RETURN 1; END",
    "CREATE PROCEDURE acts() DELETE FROM thing WHERE id = 2",
    "CREATE PROCEDURE rests() BEGIN END",
)
_SESSION = (
    "SET SESSION max_statement_time = 2, lock_wait_timeout = 1, innodb_lock_wait_timeout = 1",
    "SET @a = 'DELETE FROM thing'",
    "PREPARE there FROM 'SELECT 1'",
    "PREPARE writing FROM 'INSERT INTO thing VALUES (5, 5)'",
)
_WRITTEN = (
    "SHOW SESSION STATUS WHERE variable_name IN ('Handler_write', 'Handler_update', "
    "'Handler_delete')"
)
# What others see. Without a binary log the first one is empty.
_SEEN = (
    "SHOW MASTER STATUS",
    "SHOW FULL TABLES",
    "SELECT GROUP_CONCAT(id, name ORDER BY id) FROM thing",
    "SELECT next_not_cached_value FROM seq",
    "SELECT IS_USED_LOCK('road') IS NULL",
    "SELECT COUNT(*) FROM (SELECT id FROM thing FOR UPDATE SKIP LOCKED) AS free",
    "SHOW CREATE TABLE thing",
)


class OnMariaDB(Judge):
    """One server, on which nothing else is at work; a user who has nothing but a database.

    :param port: the server's, on which root has no password.
    """

    grammar = MariaDB
    # A function of the user's that reads locks its rows in SET, unseen: docs/mysql.md says so.
    NOT_RUN = re.compile(
        r"outfile|dumpfile|infile|load_file|\bset\b.*\blooks\b", re.IGNORECASE | re.DOTALL
    )
    LOCKED = re.compile(r"writes\b|\bwriting\b", re.IGNORECASE)

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._observer = self._connect("root", autocommit=True)
        # What is locked is seen at once.
        self._run(self._observer, "SET SESSION lock_wait_timeout = 0, innodb_lock_wait_timeout = 0")
        self._run(self._observer, "CREATE USER IF NOT EXISTS fed@127.0.0.1")
        self._run(self._observer, "GRANT ALL ON fed.* TO fed@127.0.0.1")
        self._fill()

    def _connect(self, user: str, **options: Any) -> Any:
        return pymysql.connect(
            host="127.0.0.1",
            port=self._port,
            user=user,
            client_flag=CLIENT.MULTI_STATEMENTS,
            connect_timeout=60,
            ssl_disabled=True,  # reading the certificates takes longer than all the rest
            **options,
        )

    def close(self) -> None:
        self._run(self._observer, "DROP DATABASE IF EXISTS fed")
        self._run(self._observer, "DROP USER fed@127.0.0.1")
        self._observer.close()

    def _fill(self) -> None:
        for one in ("DROP DATABASE IF EXISTS fed", "CREATE DATABASE fed", "USE fed", *_TABLES):
            if error := self._run(self._observer, one)[0]:
                raise RuntimeError(f"{one}: {error}")
        self._before = self._seen()

    def read_only(self, text: str) -> Done:
        return self._done(text, locked=True)

    def read_write(self, text: str) -> Done:
        return self._done(text, locked=False)

    def _done(self, text: str, *, locked: bool) -> Done:
        before = self._before
        effects = set()
        with closing(self._connect("fed", database="fed")) as connection:
            for one in _SESSION:
                self._run(connection, one)
            if locked:
                self._run(connection, "SET SESSION TRANSACTION READ ONLY")
            written = self._run(connection, _WRITTEN)
            error, _ = self._run(connection, text)
            if self._run(connection, _WRITTEN) != written:
                effects.add("wrote")
            seen = self._seen()
            effects |= {one for one, other in zip(_SEEN, seen, strict=True)
                        if other != before[_SEEN.index(one)]}  # fmt: skip
            if locked:
                for when in ("may write", "will write"):
                    probed, _ = self._run(connection, "INSERT INTO fed.probe VALUES (1)")
                    self._run(connection, "ROLLBACK")
                    if not probed:
                        effects.add(when)
            self._run(connection, "ROLLBACK")
        # What it held is let go, and its temporary tables go into the log, after it has hung up.
        session = (
            f"SELECT id FROM information_schema.processlist WHERE id = {connection.thread_id()}"
        )
        tests.postgres.wait_until(
            lambda: self._run(self._observer, session) == ("", []), "a session has ended"
        )
        if self._seen() != before:
            self._fill()
        if error and effects <= {"wrote", "SHOW MASTER STATUS"}:  # rolled back by the statement
            effects = set()
        return Done(error, frozenset(effects))

    def _seen(self) -> list[Any]:
        return [self._run(self._observer, one) for one in _SEEN]

    def _run(self, connection: Any, text: str) -> tuple[str, list[Any]]:
        """Return the code of an error, or nothing, and the rows of the last result."""
        rows: list[Any] = []
        with connection.cursor() as cursor:
            try:
                cursor.execute(text)
                rows = list(cursor.fetchall())
                while cursor.nextset():
                    rows = list(cursor.fetchall())
            except pymysql.err.Error as error:
                return str(error.args[0]), rows
        return "", rows


class Logged(tests.postgres.MariaDB):
    """A server with a binary log, in which all stands that its replicas would do."""

    def get_server_commandline(self) -> list[str]:
        return [
            *super().get_server_commandline(),
            f"--log-bin={self.base_dir}/log",
            "--server-id=1",
            "--binlog-format=row",
            "--log-bin-trust-function-creators=1",
        ]


@contextmanager
def on_mariadb(server: Any) -> Iterator[OnMariaDB]:
    """A database of its own on a server of :mod:`tests.postgres`."""
    with closing(OnMariaDB(server.port)) as made:
        yield made


# -- SQLite ----------------------------------------------------------------------------------


class OnSQLite(Judge):
    """A file of its own for each text. It is locked by ``query_only``, without the authorizer.

    :param module: a driver.
    :param directory: an empty one.
    """

    grammar = SQLite
    NOT_RUN = re.compile(r"(?is)vacuum\b.*\binto|attach\b.*x\.db|load_extension|store_directory")
    LOCKED = re.compile(r"begin\b.*(immediate|exclusive)", re.IGNORECASE | re.DOTALL)

    def __init__(self, module: ModuleType, directory: Path) -> None:
        super().__init__()
        self._driver: Any = module
        self._directory = directory
        self._file = directory / "fed.db"
        with closing(self._connect()) as connection:
            connection.executescript(
                "CREATE TABLE thing (id INTEGER PRIMARY KEY, name text);"
                "INSERT INTO thing VALUES (1, 'one'), (2, 'two');"
                "CREATE VIEW things AS SELECT * FROM thing;"
            )
        self._content = self._file.read_bytes()

    def _connect(self) -> Any:
        return self._driver.connect(str(self._file), isolation_level=None, timeout=0)

    def read_only(self, text: str) -> Done:
        return self._done(text, locked=True)

    def read_write(self, text: str) -> Done:
        return self._done(text, locked=False)

    def _done(self, text: str, *, locked: bool) -> Done:
        for path in self._directory.iterdir():
            path.unlink()
        self._file.write_bytes(self._content)
        effects, error = set(), ""
        with closing(self._connect()) as connection:
            if locked:
                connection.execute("PRAGMA query_only = ON")
            try:
                connection.execute(text).fetchall()
            except (self._driver.Error, self._driver.Warning) as found:
                error = type(found).__name__
            if self._file.read_bytes() != self._content:
                effects.add("wrote")
            with suppress(self._driver.Error):
                ((on,),) = connection.execute("PRAGMA query_only")
                if locked and not on:
                    effects.add("may write")
                there = {name for _, name, _ in connection.execute("PRAGMA database_list")}
                if there - {"main", "temp"}:
                    effects.add("attached")
                if connection.execute("SELECT * FROM temp.sqlite_master").fetchall():
                    effects.add("made")
            with closing(self._connect()) as other:
                try:
                    other.execute("BEGIN IMMEDIATE")
                except self._driver.Error:
                    effects.add("locked")
        there = {path.name for path in self._directory.iterdir()}
        if self._file.read_bytes() != self._content or there != {"fed.db"}:
            effects.add("wrote")
        return Done(error, frozenset(effects))


@contextmanager
def on_sqlite(directory: Path, module: ModuleType = sqlite3) -> Iterator[OnSQLite]:
    """Files below a directory."""
    place = directory / module.__name__
    place.mkdir()
    yield OnSQLite(module, place)
