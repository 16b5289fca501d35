"""The errors of sa_readonly. Each message states the fact, names the thing and gives the cure."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import ArgumentError, DontWrapMixin, InvalidRequestError

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["ConfigurationError", "ReadOnlyError"]


class ConfigurationError(ArgumentError):
    """A setting makes no sense. Raised where it is given, never at the first transaction.

    Save what only a server can tell: whether a pooler is before it, at each connection.
    """


class ReadOnlyError(DontWrapMixin, InvalidRequestError):
    """A write was refused. Nothing of it has been written.

    :class:`sqlalchemy.exc.DontWrapMixin` keeps SQLAlchemy from wrapping it in a
    :class:`~sqlalchemy.exc.StatementError`.

    Its ``sqlstate`` and ``pgcode`` are ``"25006"``, read_only_sql_transaction, as of the drivers of
    PostgreSQL: code that looks for that after a failover goes on to do so, and then drops its pool.

    Its other arguments are attributes::

        try:
            session.commit()
        except ReadOnlyError as error:
            session.rollback()  # it reads on
            told = f"Not saved: {error.reason or 'maintenance'}, until {error.until or 'later'}"

    :param message: what was refused, why, and what to do.
    :param reason: what the operator wrote into the file, or None.
    :param until: when the operator expects to be done (aware), or None.
    :param since: when the application became read-only (aware), or None where that was not why,
        as in a session of the role ``"replica"`` while read-write.
    :param statement: the SQL text that was refused, or None where there was none yet.
    """

    sqlstate = "25006"
    pgcode = "25006"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        until: datetime | None = None,
        since: datetime | None = None,
        statement: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.until = until
        self.since = since
        self.statement = statement
        self._kind: str | None = None  # as which it was counted
        self._moment = math.inf  # of time.monotonic(), at which this process refused it
        self._lasting = False  # whether it is the application's fault, which no time mends
        self._role = "primary"  # "replica" if that is what is at fault

    # An exception is rebuilt from its ``args`` alone, which would lose the rest on
    # its way through a process pool or a task queue.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {**self.__dict__, "_moment": math.inf}


def seconds(name: str, value: object) -> float:
    """Return a setting that is a number of seconds and not negative, or refuse it.

    :raises ConfigurationError: if it is something else; the message names the setting.
    """
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not 0 <= value <= sys.float_info.max  # which NaN is not
    ):
        raise ConfigurationError(
            f"{name} takes a number of seconds that is not negative, not {value!r}."
        )
    return float(value)
