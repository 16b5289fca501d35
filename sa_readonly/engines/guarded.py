"""What all guarded dialects have, and the examination of a text.

What a class keeps on a dialect is named ``_sa_readonly_...``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine.default import DefaultDialect

from .. import refusals
from ..mode import Mode, State
from ..refusals import refusal
from . import loops, privates
from .dialects import BLIND
from .statements import (
    SET_CONFIG,
    bare,
    begins_writing,
    ends_transaction,
    examine,
    hides_a_parameter,
    may_hide,
    reads_alike,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Dialect

    from ..errors import ReadOnlyError
    from ..mode import Switch
    from ..rehearsal.notes import Notebook

__all__ = ["IN_QUOTES", "PASSED", "Examining", "Guarded", "has_passed"]

PASSED = 1000
"""Texts that are remembered as examined."""

IN_QUOTES = "A value within quotes or a comment, which it may end (put %s outside of them),"
"""What is refused where a driver does not tell what it will send."""

_LONG = 10_000  # characters; a longer text is not remembered
_PERCENTS = re.compile("%+")


class Guarded(DefaultDialect):
    """What all guarded dialects have."""

    _sa_readonly_base: type[Dialect]  # the class that the dialect had before
    _sa_readonly_gates: tuple[Switch, ...] = ()  # no transaction begins while one is read-only
    _sa_readonly_told: tuple[Switch, ...] = ()  # read-only in both modes of these
    _sa_readonly_family: str  # see dialects.family()
    _sa_readonly_never_writes = False  # whether it is read-only in both modes
    _sa_readonly_serves = False  # whether it serves the role "replica" while read-write
    _sa_readonly_pooler: str | None = None  # one of poolers.POOLERS
    _sa_readonly_offered = False  # whether the first lock goes into the start-up packet
    # The driver's own class behind each class of cursors that examines.
    _sa_readonly_straight: Mapping[type[Any], type[Any]] = {}
    _sa_readonly_notebooks: tuple[Notebook, ...] = ()  # see rehearsing.py
    _sa_readonly_cure: str | None = None  # see refusals.refusal(); an engine by URL has its own

    def _sa_readonly_says(self) -> tuple[Switch | None, State]:
        """Return the switch and state that an error tells: read-only ones, if there are any."""
        switches = self._sa_readonly_told or self._sa_readonly_gates
        states = [(switch, switch.known) for switch in switches]
        if not states:  # a twin has outlived its selector
            return None, State(Mode.READ_ONLY, "the EngineSelector of this engine is closed")
        return next((one for one in states if one[1].read_only), states[0])

    def _sa_readonly_refusal(
        self,
        what: str,
        statement: str | None = None,
        *,
        kind: str,
        role: str | None = None,
        began: bool = False,
    ) -> ReadOnlyError:
        switch, state = self._sa_readonly_says()
        over = None if switch is None else refusals.last_read_only(switch)
        fault = "ended"
        if self._sa_readonly_never_writes:
            fault = "engine" if self._sa_readonly_cure is None else "taken"
        if role == "replica":
            fault = "role"
        elif began:
            fault = "began"
        cure = self._sa_readonly_cure
        return refusal(
            what, state, statement, kind=kind, switch=switch, fault=fault, over=over, cure=cure
        )

    def _sa_readonly_refresh(self, switch: Switch) -> State:
        return loops.refresh(switch) if self.is_async else switch.refresh()

    def _sa_readonly_confirm(self, switch: Switch) -> State:
        return loops.wait_for(switch.check) if self.is_async else switch.check()

    def _sa_readonly_refuse(self, what: str, statement: str, context: Any) -> None:
        """Refuse what was found, or note it: not here, where a rehearsal has just ended."""

    def _sa_readonly_rehearse(self, cursor: Any, statement: str, parameters: Any) -> None:
        """Note what a raw cursor is given: not here, where a rehearsal has ended."""

    def _sa_readonly_would(self, statement: str, parameters: Any) -> str | None:
        """Return what a text would do, as words of a refusal, or None if it only reads."""
        backslash, ansi_quotes = privates.quoting(self)
        return examine(
            statement,
            self._sa_readonly_family,
            parameters,
            backslash=backslash,
            ansi_quotes=ansi_quotes,
        )


def has_passed(dialect: Any, statement: str) -> bool:
    """True if a text was examined and only read, whatever a tool for tracing tells around it."""
    passed: dict[str, None] = dialect._sa_readonly_passed
    return statement in passed or ((text := bare(statement)) is not statement and text in passed)


class Examining(Guarded):
    """What examines each text, the first time it is seen: it refuses, or notes in a rehearsal."""

    _sa_readonly_passed: dict[str, None]  # the texts that were examined and only read

    def _sa_readonly_examine(self, statement: str, parameters: Any, context: Any = None) -> str:
        """Return the text to send in place of this one, nearly always the same, or raise."""
        if has_passed(self, statement):
            return statement
        what = self._sa_readonly_would(statement, parameters)
        if what is None and self._sa_readonly_fills(statement, parameters, context):
            what = IN_QUOTES
        if what is None and self._sa_readonly_pooler == "transaction":
            what = self._sa_readonly_ends(statement)
        if what is not None:
            self._sa_readonly_refuse(what, statement, context)
            return statement  # of a rehearsal
        if self.name == "sqlite" and begins_writing(statement):
            # A "begin" listener sends it, which a twin shares with its engine. It would take the
            # lock of the one writer that SQLite admits.
            return "BEGIN"
        text = Examining._sa_readonly_kept_as(self, statement)
        if text is not None and Examining._sa_readonly_may_remember(self, text):
            if len(self._sa_readonly_passed) >= PASSED:
                self._sa_readonly_passed.clear()
            self._sa_readonly_passed[text] = None
        return statement

    def _sa_readonly_kept_as(self, statement: str) -> str | None:
        """Return what is remembered in place of a text that has passed: it without traces.

        None if it ends within a literal or a comment, where a trace behind it would be none.
        """
        backslash, ansi_quotes = privates.quoting(self)
        for text in (bare(statement), statement):
            if text == statement and "'" not in text and "/*" not in text:
                return text  # whatever else it ends in, no trace ends that
            if reads_alike(
                statement,
                f"{text}/**/",
                self._sa_readonly_family,
                backslash=backslash,
                ansi_quotes=ansi_quotes,
            ):
                return text
        return None

    def _sa_readonly_may_remember(self, statement: str) -> bool:
        """False if what the parameters are decides about a text, so that it is examined each time.

        What is long is not remembered either.
        """
        return len(statement) <= _LONG and not (
            SET_CONFIG in statement.lower()
            or self._sa_readonly_hides(statement)
            or (self.driver in BLIND and self._sa_readonly_ends(statement))
        )

    def _sa_readonly_fills(self, statement: str, parameters: Any, context: Any) -> bool:
        """Return whether a value may end a literal or comment, and no cursor of ours looks at it.

        As a driver that is not known may put it into the text.
        """
        cursor = getattr(context, "cursor", None)
        return (
            cursor is not None
            and self.paramstyle in ("format", "pyformat")
            and not hasattr(cursor, "_sa_readonly_examine")
            and self._sa_readonly_hides(statement)
            and may_hide(parameters)
        )

    def _sa_readonly_hides(self, statement: str) -> bool:
        """Return whether a driver may put a value into a literal or comment of a text."""
        if self.driver == "mysqlconnector":  # to which %%s is a placeholder, too
            statement = _PERCENTS.sub("%", statement)
        return hides_a_parameter(statement, self._sa_readonly_family)

    def _sa_readonly_ends(self, statement: str) -> str | None:
        """Return what of a text ends PostgreSQL's transaction, as words of a refusal, or None."""
        return ends_transaction(statement, backslash=privates.quoting(self)[0])
