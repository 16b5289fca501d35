"""Asking the server itself whether anything is left in a database that could still write.

The registry knows the application's workers. The server knows every session: that of psql, of a
cron job, of a service without this library. It is only asked; the operator ends what is left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import SQLAlchemyError

from .obstacles import Reply, question
from .probe import (
    UnreachableError,
    dialect_of,
    is_pgpool,
    make_engine,
    parse_url,
    reading,
    reason_of,
    run,
    sentence,
    servers_of,
    shown_url,
)
from .server_mysql import Gtids, ask_mysql, gtids_of, lacking, strange
from .server_postgresql import ReplayTarget, ask_postgresql, behind, pooled, position_of


class ServerError(Exception):
    """The databases that are given can't be asked as they are; the message tells the cure."""


class Server:
    """The server of the read-write database, and maybe a standby, or replica, of it.

    :param read_write: the URL of the read-write database.
    :param standby: the URL of one in which everything must be replayed, or None.
    :raises ServerError: if such databases can't be asked.
    """

    def __init__(self, read_write: str, standby: str | None = None) -> None:
        try:
            self._url = parse_url(read_write, "--read-write")
            self._standby = None if standby is None else parse_url(standby, "--standby")
            kind, *others = (dialect_of(url).name for url in self._urls())
        except UnreachableError as error:
            raise ServerError(str(error)) from None
        if kind not in ("postgresql", "mysql", "mariadb"):
            raise ServerError(
                f"Only a server of PostgreSQL, MariaDB or MySQL can be asked, not {kind}. Leave "
                "out --read-write (SA_READONLY_READ_WRITE_URL)."
            )
        if others and ("postgresql" in (kind, *others)) != ({kind, *others} == {"postgresql"}):
            raise ServerError(
                f"A standby that is {others[0]} can't be compared with a database of {kind}. Leave "
                "out --standby (SA_READONLY_STANDBY_URL)."
            )
        self._kind = kind
        self._target = ReplayTarget()
        self._written: Gtids | None = None  # when no session was left; the same for MariaDB, MySQL
        self._direct = False  # whether it is known that no pgpool is in between

    @property
    def servers(self) -> list[str]:
        """The servers that the URL may lead to; one that answers speaks for itself alone."""
        return servers_of(self._url)

    def check(self) -> None:
        """Ask once, before anything depends on the reply.

        :raises ServerError: if a database can't be asked, or is not what is asked for.
        """
        never = [one for one in self.ask().obstacles if one.kind == "question"]
        if never:
            raise ServerError(" ".join(f"{sentence(one.what)} {one.ends}".strip() for one in never))
        self._target = ReplayTarget()
        self._written = None

    def ask(self) -> Reply:
        """Ask what could still write. What can't be asked is an obstacle."""
        try:
            return run(self._urls(), self._reply)
        except UnreachableError as error:
            return Reply((question(str(error)),))

    def _urls(self) -> list[URL]:
        return [self._url] if self._standby is None else [self._url, self._standby]

    def _reply(self) -> Reply:
        return self._of_mysql() if self._kind != "postgresql" else self._of_postgresql()

    def _of_mysql(self) -> Reply:
        with _asking(self._url, "read-write database") as connection:
            reply = ask_mysql(connection)
            # Taken after the list of sessions: what one had committed that has gone lies before it.
            found = None if self._standby is None else gtids_of(connection)
        if self._standby is None or found is None:
            return reply
        if isinstance(found, Gtids):
            # The first one is kept: other databases of the server may be written all the time.
            self._written = (self._written or found) if reply.agrees else None
            of = self._written or found
            with _asking(self._standby, "standby") as connection:
                found = lacking(connection, of, compares=reply.agrees)
        if isinstance(found, Gtids):
            with _asking(self._url, "read-write database") as connection:
                obstacle = strange(connection, found)
        else:
            obstacle = found
        if obstacle is None:
            return replace(reply, replayed=reply.agrees)
        return replace(reply, obstacles=(*reply.obstacles, obstacle))

    def _of_postgresql(self) -> Reply:
        with _asking(self._url, "read-write database") as connection:
            if not self._direct and is_pgpool(connection):
                return pooled("Pgpool-II")
            self._direct = True
            reply = ask_postgresql(connection)
            # Taken after the list of sessions: what one had committed that has gone lies before it.
            position = None if self._standby is None else position_of(connection)
        if self._standby is None or position is None:
            return reply
        if reply.agrees:
            self._target.take(position)
        else:
            self._target = ReplayTarget()  # the sessions that are left may write more
        with _asking(self._standby, "standby") as connection:
            obstacle = behind(connection, position.cluster, self._target.lsn)
        if obstacle is None:
            return replace(reply, replayed=self._target.lsn is not None)
        return replace(reply, obstacles=(*reply.obstacles, obstacle))


@contextlib.contextmanager
def _asking(url: URL, name: str) -> Iterator[Connection]:
    """Give a connection for one question: it is closed at once, as 20 hosts may be waiting."""
    engine = make_engine(url)
    try:
        with reading(engine) as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL application_name = 'sa-readonly wait'"))
            yield connection
    except (SQLAlchemyError, OSError) as error:
        raise UnreachableError(
            f"The {name} {shown_url(url)} can't be asked: {reason_of(error, url)}"
        ) from None
    finally:
        engine.dispose()
