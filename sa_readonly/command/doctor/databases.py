"""What was found out about a database, and what two databases together mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import URL, Connection

from ..probe import prepared_transactions
from .findings import Finding, capital, danger, listed, note, ok, warning


@dataclass
class Database:
    """A database as it was found.

    :param name: what findings call it: "the read-only database".
    :param kind: "PostgreSQL", "MariaDB".
    :param where: its address, for people.
    :param account: what the server takes the doctor for: "role shop".
    :param own_name: its name at its server.
    :param server: equal only at one running server; None if that can't be told.
    :param cluster: equal at a primary and its standbys; None if that can't be told.
    :param unwritable: why nothing can be written into it, whatever the account may do; or None.
    :param abilities: what the account may write.
    :param bypass: how code could get past the library's locks.
    :param cure: what would take the abilities away.
    :param unreadable: the tables that the account may not read.
    :param findings: those that count whatever the database is used for.
    :param read_findings: those that count if it is read while read-only.
    :param write_findings: those that count if it is the read-write database.
    """

    url: URL
    name: str
    kind: str
    where: str
    account: str
    bypass: str
    cure: str
    own_name: str = ""
    server: tuple[object, ...] | None = None
    cluster: str | None = None
    version: str = ""
    standby: bool = False
    unwritable: str | None = None
    abilities: list[str] = field(default_factory=list)
    tables: set[str] | None = None
    unreadable: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    read_findings: list[Finding] = field(default_factory=list)
    write_findings: list[Finding] = field(default_factory=list)

    @property
    def major(self) -> str:
        """The version without its last number."""
        return self.version.rpartition(".")[0]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal if two of these are one database, as far as that can be told."""
        return (self.server, self.own_name) if self.server else (self.url,)


# -- findings that several kinds of databases have ---------------------------------------------


def can_not_be_written(what: str, cure: str = "Check whether the two URLs are swapped.") -> Finding:
    """Return a finding about a read-write database into which nothing can be written."""
    meaning = "Nothing can be written in read-write mode."
    return warning("read-write-is-read-only", what, meaning, cure)


def owners_rights(database: Database, functions: list[str]) -> Iterator[Finding]:
    """Tell of functions that may write what the account itself may not."""
    if functions and not database.unwritable:
        yield warning(
            "functions-with-owners-rights",
            f"{capital(database.account)} may call functions that run with their owner's rights in "
            f"{database.name}: {listed(functions)}.",
            "What they do can't be told. In a read-only transaction they write nothing, but code "
            "that lifts it on purpose, on a raw connection, could write through them.",
            "REVOKE EXECUTE on them, from PUBLIC too.",
        )


def prepared(connection: Connection) -> Iterator[Finding]:
    """Tell of prepared transactions at the read-write database."""
    owner = "database" if connection.dialect.name == "postgresql" else "server"
    found = prepared_transactions(connection)
    if found is None:
        yield note(
            "prepared-transactions-unknown",
            f"The prepared transactions of the read-write {owner} can't be seen.",
            "XA RECOVER is not allowed to this account.",
            "GRANT XA_RECOVER_ADMIN to it, or run the doctor with another account.",
        )
    elif found:
        yield warning(
            "prepared-transactions",
            f"The read-write {owner} has prepared transactions: {listed([*map(str, found)])}.",
            "They hold locks, no connection holds them, and each writes when it is committed.",
            "Before the database is taken away, commit each or roll it back: "
            f"{listed([one.ends for one in found])}.",
        )
    else:
        what = f"The read-write {owner} has no prepared transaction."
        yield ok("no-prepared-transactions", what, "What is drained stays drained.")


# -- two databases -----------------------------------------------------------------------------


def compare(read_write: Database, reader: Database) -> Iterator[Finding]:
    """Compare the read-write database with one that is read while read-only."""
    yield identity(read_write, reader)
    yield from protection(read_write, reader)
    if read_write.kind == reader.kind:
        yield from versions(read_write, reader)
        yield from tables(read_write, reader)


def identity(read_write: Database, reader: Database) -> Finding:
    """Tell whether there are two databases, and whether the server can be taken away."""
    name = capital(reader.name)
    if read_write.kind != reader.kind:
        return note(
            "other-kind",
            f"{name} is {reader.kind}, the read-write database {read_write.kind}.",
            "They are two databases; whether their data agrees can't be told.",
        )
    if read_write.server is None or reader.server is None:
        return note(
            "identity-unknown",
            f"Whether {reader.name} and the read-write database are one can't be told.",
            f"This {read_write.kind} does not identify itself.",
            "Compare the addresses yourself.",
        )
    if read_write.server != reader.server:
        what = f"{name} is another one: {reader.where}."
        return ok("another-server", what, _relation(read_write, reader))
    if read_write.key == reader.key:
        return warning(
            "same-database",
            f"{name} is the read-write database itself: {read_write.where}.",
            "It can't be taken away while the application reads from it.",
            "Give a standby or a copy as the read-only database.",
        )
    return warning(
        "same-server",
        f"{name} and the read-write database are on one server: {read_write.where}.",
        "Stopping the server takes both away.",
        "If the server itself is to be stopped, put the read-only database on another.",
    )


def _relation(read_write: Database, reader: Database) -> str:
    if read_write.cluster is None or reader.cluster is None:
        return "Whether it is a copy of the read-write database can't be told."
    if read_write.cluster != reader.cluster:
        return "Its data is not a physical copy of the read-write server's."
    if reader.standby:
        return "It is a standby of the read-write server, or of the same primary."
    return "It was copied from the read-write server and goes its own way."


def protection(read_write: Database, reader: Database) -> Iterator[Finding]:
    """Tell what keeps a write out of a database that is read while read-only."""
    name, account = capital(reader.name), capital(reader.account)
    yield from reader.read_findings
    if reader.unwritable is not None:
        what = f"{name} refuses each write: {reader.unwritable}."
        yield ok("database-refuses-writes", what, "No lock can be opened.")
        if reader.standby and reader.abilities:
            yield note(
                "writable-once-promoted",
                f"{account} could write into {reader.name} once it is promoted: "
                f"{listed(reader.abilities)}.",
                "After a promotion while read-only, the library's locks alone prevent a write.",
                reader.cure,
            )
    elif reader.abilities:
        if read_write.key == reader.key:
            target = "in the very database that is to be left alone"
        else:
            target = "in this database, and is lost or in conflict later"
        yield danger(
            "writable",
            f"{name} is writable, and {reader.account} may write into it: "
            f"{listed(reader.abilities)}.",
            f"The library refuses what is executed through SQLAlchemy. {reader.bypass} Such a "
            f"write ends up {target}.",
            reader.cure,
        )
    else:
        what = f"{account} may write nothing into {reader.name}."
        meaning = "Nothing depends on the library's locks."
        yield ok("account-may-not-write", what, meaning)


def versions(read_write: Database, reader: Database) -> Iterator[Finding]:
    """Tell whether both understand the same SQL."""
    if not reader.version:
        return
    if read_write.major == reader.major:
        what = f"Both are {reader.kind} {reader.major}."
        yield ok("same-version", what, "They understand the same queries.")
        return
    yield note(
        "other-version",
        f"The read-write database is {reader.kind} {read_write.version}, {reader.name} "
        f"{reader.version}.",
        "A query may fail, or be planned otherwise, on one of them only.",
        "Run the application's tests against both.",
    )


def tables(read_write: Database, reader: Database) -> Iterator[Finding]:
    """Tell whether each table of the read-write database is there, and can be read."""
    name, failing = capital(reader.name), "Queries of them fail while the application is read-only."
    if read_write.tables is None or reader.tables is None:
        what = f"Whether {reader.name} has the same tables can't be told."
        yield note("tables-unknown", what, "The tables of one of the two could not be read.")
    elif missing := sorted(read_write.tables - reader.tables):
        what = f"{name} lacks tables of the read-write database: {listed(missing)}."
        cure = "Migrate both, or wait until the copy has caught up."
        yield warning("tables-missing", what, failing, cure)
    else:
        what = f"{name} has the {len(read_write.tables)} tables of the read-write database."
        yield ok("tables-there", what, "Every query finds its tables.")
    if reader.unreadable:
        what = f"{capital(reader.account)} can't read {listed(reader.unreadable)} in {reader.name}."
        cure = "GRANT SELECT on them, and USAGE on their schemas."
        yield warning("tables-unreadable", what, failing, cure)
