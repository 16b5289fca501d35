"""Texts of SQL, past the guard and through a server, beside each other.

A script, as psql reads them, is cut into statements. Each runs first in a read-only transaction of
the server, which is rolled back, and is watched there: a transaction id, a lock that stops writers
and a protection that is lifted are effects, whatever the statement calls itself. Then it runs as
the script has it, so that the next one finds its tables.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from psycopg import pq

from sa_readonly.engines.statements import examine

# -- cutting ---------------------------------------------------------------------------------

_PIECE = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<line>--[^\n]*)
    | (?P<block>/\*)
    | (?P<meta>\\[^\n]*)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9\x80-\U0010ffff]*)?\$)
    | (?P<cast>::)
    | (?P<variable>:(?:'\w+'|"\w+"|[A-Za-z_]\w*))
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9$\x80-\U0010ffff]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BACKSLASHED = re.compile(r"'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_EDGE = re.compile(r"/\*|\*/")
_ROUTINE = re.compile(r"create (or replace )?(function|procedure) ")
_SENDS = re.compile(r"\\(g|gx|gset|gdesc|gexec|crosstabview|watch|bind)\b")
_DATA_ENDS = re.compile(r"^\\\.[ \t]*\n?", re.MULTILINE)

CONNECT = "\\connect"  # in place of a statement: the script goes on over a new connection


class Script:
    """The statements of a script for psql; its conditions are not asked, all branches run.

    :param variables: what stands in the environment for ``\\getenv``.
    """

    def __init__(self, content: str, variables: dict[str, str] | None = None) -> None:
        self._content = content
        self._environment = variables or {}
        self._variables: dict[str, str] = {}
        self._position = 0
        self.backslash = (
            False  # whether it escapes in plain strings, for the server does not tell us
        )

    def __iter__(self) -> Iterator[str]:  # noqa: C901  # one case after the other
        parts: list[str] = []
        first = ""  # the words by which the statement begins
        depth = begins = 0
        while found := _PIECE.match(self._content, self._position):
            kind, piece = found.lastgroup, found.group()
            self._position = found.end()
            if kind == "block":
                piece = self._to_the_end_of_a_block(found)
            elif kind == "dollar":
                piece = self._to(piece, found)
            elif self.backslash and piece[0] == "'":
                if whole := _BACKSLASHED.match(self._content, found.start()):
                    piece, self._position = whole.group(), whole.end()
            elif kind == "variable":
                piece = self._value(piece)
            elif kind == "word":
                word = piece.lower()
                first += f"{word} " if len(first) < 30 else ""
                if _ROUTINE.match(first):  # BEGIN ATOMIC ... END, in which CASE has an END too
                    begins += word == "begin" or (word == "case" and begins > 0)
                    begins -= word == "end" and begins > 0
            elif kind == "meta":
                if piece.startswith("\\;"):  # one text of several statements
                    self._position = found.start() + 2
                    parts.append(";")
                    continue
                sends = _SENDS.match(piece)
                if statement := sends and self._statement(parts):
                    yield statement
                if sends or re.match(r"\\r(eset)?\b", piece):
                    parts, first, depth, begins = [], "", 0, 0
                if re.match(r"\\c(onnect)?\b", piece):
                    yield CONNECT
                self._command(piece)
                continue
            elif kind == "other":
                depth = max(depth + (piece == "(") - (piece == ")"), 0)
                if piece == ";" and not depth and not begins:
                    if statement := self._statement(parts):
                        yield statement
                    parts, first = [], ""
                    continue
            if kind != "line":
                parts.append(piece)
        if statement := self._statement(parts):
            yield statement

    def data(self) -> str:
        """The data that follows a COPY FROM STDIN, which is skipped."""
        begin = self._content.find("\n", self._position) + 1
        end = _DATA_ENDS.search(self._content, begin)
        if not begin or end is None:
            return ""
        self._position = end.end()
        return self._content[begin : end.start()]

    def _to(self, mark: str, found: re.Match[str]) -> str:
        end = self._content.find(mark, found.end())
        self._position = end + len(mark) if end >= 0 else len(self._content)
        return self._content[found.start() : self._position]

    def _to_the_end_of_a_block(self, found: re.Match[str]) -> str:
        nested = 1
        while nested and (edge := _EDGE.search(self._content, self._position)):
            nested += 1 if edge.group() == "/*" else -1
            self._position = edge.end()
        return self._content[found.start() : self._position]

    def _statement(self, parts: list[str]) -> str:
        statement = "".join(parts).strip()
        if found := re.fullmatch(
            r"(?:re)?set\s+standard_conforming_strings(?:\s*(?:=|\bto\b)\s*'?(\w+)'?)?",
            statement,
            re.IGNORECASE,
        ):
            self.backslash = (found[1] or "on").lower() in ("off", "false", "no", "0")
        return statement

    def _command(self, command: str) -> None:
        """Of all commands of psql those that give a variable its value."""
        name, *words = re.findall(r"'(?:[^']|'')*'|\S+", command)
        if name == "\\getenv" and len(words) == 2:
            self._variables[words[0]] = self._environment.get(words[1], "")
        elif name == "\\set" and words:
            self._variables[words[0]] = "".join(
                self._value(word).strip("'") if word[0] in ":'" else word for word in words[1:]
            )

    def _value(self, piece: str) -> str:
        value = self._variables.get(piece.strip(":'\""))
        if value is None:
            return piece  # as psql does
        quote = piece[1] if piece[1] in "'\"" else ""
        return quote + value.replace(quote, quote * 2) + quote if quote else value


# -- running ---------------------------------------------------------------------------------

# What a read leaves none of. Locks on tables that stop no writer are no effect: planning an INSERT
# takes one. Settings: what protects.
EFFECTS = b"""
    SELECT l.locktype || ' ' || l.mode FROM pg_catalog.pg_locks l
    WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
        AND (l.locktype IN ('advisory', 'transactionid') OR l.mode IN ('ShareUpdateExclusiveLock',
            'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            AND l.locktype IN ('relation', 'tuple'))
    UNION ALL SELECT 'may write' WHERE pg_catalog.current_setting('transaction_read_only') = 'off'
    UNION ALL SELECT 'will write'
        WHERE pg_catalog.current_setting('default_transaction_read_only') <> 'on'
"""
# These are only examined: they would reach past the database, or past the end of the test.
_NOT_RUN = re.compile(
    r"pg_(terminate|cancel)_backend|pg_(reload|promote|rotate|switch|sleep)|alter\s+system"
    r"|\b(create|drop|alter)\s+(database|tablespace)|\bprogram\b|checkpoint|pg_(wal|backup)_\w*(start"
    r"|stop|pause|resume)|\bsubscription\b|pg_\w+_slot",
    re.IGNORECASE,
)
# The script's own transactions, in which the others run, and modes of them; and what takes away for
# good what no rollback brings back.
_CONTROLS = re.compile(
    r"\s*(begin|start|commit|end|rollback|abort|savepoint|release|prepare\s+transaction"
    r"|set\s+(local\s+)?transaction|set\s+session\s+characteristics|set\s+constraints"
    r"|close|deallocate)\b",
    re.IGNORECASE,
)
_READS = re.compile(r"\s*(select|values|table|explain|show)\b", re.IGNORECASE)
_SETTINGS = "-c statement_timeout=2s -c lock_timeout=1s -c client_min_messages=error"

Guard = Callable[[str, bool], "str | None"]  # a statement, and whether a backslash escapes


def ours(statement: str, backslash: bool) -> str | None:
    return examine(statement, "postgresql", (), backslash=backslash)


class Compared(NamedTuple):
    """A statement, and what both said."""

    statement: str
    refused: str | None  # by the guard
    error: str  # the server's SQLSTATE in the read-only transaction, or nothing
    effects: frozenset[str]


# What the guard refuses to make, and can't see into once it is there.
_MADE = re.compile(
    r"\s*(?:create\s+(?:or\s+replace\s+)?(?:\w+\s+)?(?:function|procedure|view)|prepare|declare)"
    r"\s+(?:\w+\.)?\"?(\w+)",
    re.IGNORECASE,
)


@dataclass
class Result:
    """What a script, or several, came to."""

    statements: int = 0
    run: int = 0  # by the server, in a read-only transaction, without an error
    held: int = 0  # refused by the server because it would write
    # The server does it though it is to read only, and the guard lets it by.
    escaped: list[Compared] = field(default_factory=list)
    # The same, by a function, view, cursor or prepared statement that the guard refused to make.
    unseen: list[Compared] = field(default_factory=list)
    # The server only reads, and the guard refuses it.
    lost: list[Compared] = field(default_factory=list)
    _made: set[str] = field(default_factory=set)

    def add(self, one: Compared) -> None:
        self.run += not one.error
        self.held += one.error == "25006"
        if one.error:
            return
        if one.refused is None and one.effects:
            plain = self._made.isdisjoint(re.findall(r"\w+", one.statement.lower()))
            (self.escaped if plain else self.unseen).append(one)
        if one.refused is not None and not one.effects:
            self.lost.append(one)

    def note(self, statement: str) -> None:
        """Note what a statement that the guard refuses makes nevertheless."""
        if found := _MADE.match(statement):
            self._made.add(found[1].lower())

    def kinds(self) -> dict[str, int]:
        """How many reads the guard refused, by what it said."""
        return dict(Counter(str(one.refused) for one in self.lost).most_common())

    def __str__(self) -> str:
        return (
            f"{self.statements} statements: in a read-only transaction the server ran {self.run} "
            f"and refused {self.held} as writes; {len(self.escaped)} escaped, {len(self.unseen)} "
            f"acted by what the guard refuses to make, {len(self.lost)} only read and were refused"
        )


class Session:
    """One connection, over which scripts run.

    :param dsn: where to, as libpq has it.
    :param guard: what says which statements are refused.
    """

    def __init__(self, dsn: str, guard: Guard = ours) -> None:
        self._dsn = dsn
        self._guard = guard
        self.connect()

    def connect(self) -> None:
        self._connection = pq.PGconn.connect(f"{self._dsn} options='{_SETTINGS}'".encode())
        if self._connection.status != pq.ConnStatus.OK:
            raise RuntimeError(self._connection.get_error_message())

    def close(self) -> None:
        self._connection.finish()

    def play(self, script: Script, result: Result) -> None:
        """Run a script from its beginning to its end, and add to a result."""
        for statement in script:
            if statement == CONNECT:
                self.close()
                self.connect()
                continue
            result.statements += 1
            refused = self._guard(statement, script.backslash)
            if refused is not None:
                result.note(statement)
            if _NOT_RUN.search(statement):
                continue
            compared = self._try(statement, refused)
            if compared is not None:
                result.add(compared)
            if compared is None or not self._done(compared):
                self._execute(statement, script.data)
            if compared is not None and any(one.startswith("advisory") for one in compared.effects):
                self._execute("SELECT pg_catalog.pg_advisory_unlock_all()")
            if self._connection.status != pq.ConnStatus.OK:
                raise RuntimeError(f"The server hung up after: {statement}")

    def _done(self, one: Compared) -> bool:
        """True if it has done what it does: it only read, or made what outlives a rollback."""
        if one.error:
            return False
        if re.match(r"\s*prepare\b", one.statement, re.IGNORECASE):
            return True
        reads = one.refused is None and not one.effects
        return reads and bool(_READS.match(one.statement)) and "set_config" not in one.statement

    def _execute(self, statement: str | bytes, data: Callable[[], str] = str) -> str:
        """Return the SQLSTATE, or nothing.

        :param data: what to give to each COPY that asks for it.
        """
        sent = statement.encode() if isinstance(statement, str) else statement
        done: pq.abc.PGresult | None = self._connection.exec_(sent)
        code = b""
        while done is not None:
            code = done.error_field(pq.DiagnosticField.SQLSTATE) or code
            if done.status == pq.ExecStatus.COPY_OUT:
                while self._connection.get_copy_data(0)[0] > 0:
                    pass
            elif done.status == pq.ExecStatus.COPY_IN:
                self._connection.put_copy_data(data().encode())
                self._connection.put_copy_end()
            done = self._connection.get_result()
        return code.decode()

    def _effects(self) -> Counter[str]:
        done = self._connection.exec_(EFFECTS)
        return Counter((done.get_value(row, 0) or b"").decode() for row in range(done.ntuples))

    def _try(self, statement: str, refused: str | None) -> Compared | None:
        """Run a statement in a read-only transaction, and look what it has done there."""
        status = self._connection.transaction_status
        if status == pq.TransactionStatus.INERROR or _CONTROLS.match(statement):
            return None
        inside = status == pq.TransactionStatus.INTRANS
        if inside:
            before = self._effects()
            # which ends with the savepoint
            self._execute("SAVEPOINT differential; SET TRANSACTION READ ONLY")
            before.pop("may write", None)
        else:
            self._execute("BEGIN READ ONLY; SET LOCAL default_transaction_read_only = on")
            before = Counter()
        error = self._execute(statement)
        effects: frozenset[str] = frozenset()
        if not error:
            if self._connection.transaction_status == pq.TransactionStatus.INTRANS:
                effects = frozenset(self._effects() - before)
            elif not _CONTROLS.match(statement.rpartition(";")[2]):
                effects = frozenset({"the transaction ended"})
        self._execute("ROLLBACK TO differential; RELEASE differential" if inside else "ROLLBACK")
        return Compared(statement, refused, error, effects)


def play_files(directory: Path, dsn: str) -> Result:
    """Run PostgreSQL's regression files in the order of its schedule: some need others' tables.

    :param directory: that which has them in ``sql``, and what they load in ``data``.
    """
    names = re.findall(r"^test:(.*)$", _text(directory / "parallel_schedule"), re.MULTILINE)
    there = {path.stem: path for path in sorted((directory / "sql").glob("*.sql"))}
    listed = [name for line in names for name in line.split() if name in there]
    result = Result()
    for name in dict.fromkeys([*listed, *there]):
        session = Session(dsn)
        try:
            script = Script(_text(there[name]), {"PG_ABS_SRCDIR": str(directory)})
            session.play(script, result)
        finally:
            session.close()
    return result


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
