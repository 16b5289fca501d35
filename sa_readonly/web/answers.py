"""An HTTP answer, and the one to a request whose write was refused; a middleware sends it.

Which refusal that is, the request's note and the error's chain tell: a framework makes of a refusal
what it likes.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from ..mode import now
from ..refusals import chain_here, passing
from ..telemetry import fields
from ..text import printable
from .accept import HTML, JSON, PROBLEM, TEXT, choose
from .page import POLICY, document, escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ..errors import ReadOnlyError
    from ..mode import State
    from ..refusals import RequestNote

__all__ = [
    "AFTERWARDS",
    "DRAINED_BODY",
    "TOO_LATE",
    "Answer",
    "Request",
    "answer",
    "cause_of",
    "headers_of",
    "in_place_of_500",
    "is_kept",
    "not_saved",
]

logger = logging.getLogger("sa_readonly")

DRAINED_BODY = 1 << 20
"""How many bytes of a refused request's body are read. A connection that is closed over unread
bytes may be reset, and the client loses the answer."""

AFTERWARDS = (
    "A write was refused while read-only, after the response had begun: the connection is closed, "
    "so that no client takes it for complete. Write, and commit, before the response begins."
)
TOO_LATE = (
    "A write was refused while read-only, after the response was complete: the client was not "
    "told. Write, and commit, before the response."
)
_ANOTHER = (
    "A write was refused in a request that then failed with an error that is not its consequence, "
    "or was refused in either mode: that error goes on."
)
_FAULT = (
    "The application answered 500 to a request in which a write was refused that is refused in "
    "either mode."
)
_REPLACED = "The application answered 500 to a refused write, and its client is told %s. %s"
_RETRY_AFTER = 60  # seconds, where the operator gave no time, or it has passed


class Request(NamedTuple):
    """What an answer depends on.

    :param method: in capitals.
    :param path: within the application, decoded.
    :param accept: the Accept header, or "".
    :param query: the query string, as it was sent.
    """

    method: str
    path: str
    accept: str
    query: str


@dataclass(frozen=True)
class Answer:
    """A whole HTTP response.

    :param status: the status code.
    :param headers: names and values, both ASCII.
    :param body: the body; it is not sent in answer to a HEAD.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def phrase(self) -> str:
        """The words behind the status code."""
        return _phrase(self.status)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Read-only"


def answer(
    status: int, kind: str, body: str, *, read_only: bool, more: Sequence[tuple[str, str]] = ()
) -> Answer:
    """Return an answer that no cache keeps, and that no browser takes for another media type.

    :param kind: its media type.
    :param read_only: whether it carries ``X-Read-Only``.
    :param more: more headers.
    """
    content = body.encode()
    charset = "" if kind in (JSON, PROBLEM) else "; charset=utf-8"
    headers = [
        ("Content-Type", kind + charset),
        ("Content-Length", str(len(content))),
        ("Cache-Control", "no-store"),
        ("Vary", "Accept"),
        ("X-Content-Type-Options", "nosniff"),
        *more,
    ]
    if kind == HTML:
        headers.append(("Content-Security-Policy", POLICY))
    if read_only:
        headers.append(("X-Read-Only", "true"))
    return Answer(status, tuple(headers), content)


# -- a refused write -------------------------------------------------------------------------


def headers_of(state: State, there: Iterable[str]) -> list[tuple[str, str]]:
    """Return the headers that a response carries by the state, but those that it has.

    :param there: the names of those that it has.
    """
    told = {"X-Read-Only": "true"} if state.read_only else {}
    announced = state.announced
    if announced is not None:
        told["X-Read-Only-From"] = announced.time.isoformat()
        if announced.until is not None:
            told["X-Read-Only-Until"] = announced.until.isoformat()
    names = {name.lower() for name in there} if told else set()
    return [(name, value) for name, value in told.items() if name.lower() not in names]


def cause_of(error: BaseException, note: RequestNote) -> ReadOnlyError | None:
    """Return the refusal that answers an error which left the application, or None.

    An error that is none of a refusal's consequence goes on, and is logged where there was one: it
    may be what the application made of it in another way.
    """
    found = note.chain(error)
    refusal = passing(found)
    if refusal is None and (found or note.refused) and note.is_outermost:
        logger.error(_ANOTHER, exc_info=error, extra=fields("another_error"))
    return refusal


def in_place_of_500(
    note: RequestNote, status: int, error: BaseException | None = None
) -> ReadOnlyError | None:
    """Return the refusal that answers in place of the application's 500, or None.

    :param status: the status code of the answer, for the log.
    :param error: that the 500 tells of, if the application told.
    """
    if error is not None:
        refusal = cause_of(error, note)
    else:
        refused = note.refused
        refusal = passing(refused)
        if refused and refusal is None and note.is_outermost:
            logger.error(_FAULT, exc_info=refused[-1], extra=fields("never_saved"))
    if refusal is not None:
        text = printable(str(refusal))
        logger.info(_REPLACED, status, text, extra=fields("answered", status=status, error=text))
    return refusal


def is_kept(name: str) -> bool:
    """True if a header of a 500 stays where its answer is replaced: a browser asks for it."""
    name = name.lower()
    return name == "vary" or name.startswith("access-control-")


def not_saved(error: BaseException, accept: str, status: int = 503) -> Answer:
    """Return the answer to a request whose write was refused.

    Neither the statement nor the message of the error is in it: they are for developers.

    :param error: the refusal, or its consequence.
    :raises BaseException: the error itself, if it is no refusal's consequence, or that refusal is
        the application's fault.
    """
    refusal = passing(chain_here(error))
    if refusal is None:
        raise error
    return _answer_to(refusal, accept, status)


def _answer_to(error: ReadOnlyError, accept: str, status: int) -> Answer:
    left = 0 if error.until is None else math.ceil(error.until.timestamp() - now().timestamp())
    until = error.until if left > 0 else None
    kind = choose(accept, (PROBLEM, HTML, TEXT))
    if kind == PROBLEM:
        body = _as_problem(error.reason, until, status)
    else:
        body = (_as_html if kind == HTML else _as_text)(error.reason, until)
    more = [("Retry-After", str(left if left > 0 else _RETRY_AFTER))]
    return answer(status, kind, body, read_only=True, more=more)


def _as_problem(reason: str | None, until: datetime | None, status: int) -> str:
    told = {
        "type": "about:blank",
        "title": _phrase(status),
        "status": status,
        "detail": "Not saved: the application is read-only. Try again later.",
        "read_only": True,
        "reason": reason,
        "until": None if until is None else until.isoformat(),
    }
    return json.dumps(told) + "\n"


def _as_text(reason: str | None, until: datetime | None) -> str:
    lines = ["Not saved: the application is read-only. Try again later."]
    if reason:
        lines.append("reason: " + printable(" / ".join(reason.splitlines())))
    if until is not None:
        lines.append(f"until: {until.isoformat()}")
    return "\n".join([*lines, ""])


def _as_html(reason: str | None, until: datetime | None) -> str:
    parts = [
        "<h1>Not saved</h1>\n",
        '<p class="mode read-only">What you have just tried was <strong>not saved</strong>: '
        "the application is read-only for the moment.</p>\n",
    ]
    if reason:
        parts.append(f'<p class="text">{escaped(reason)}</p>\n')
    if until is not None:
        told = f"{until:%Y-%m-%d %H:%M} {escaped(until.tzname() or '')}".rstrip()
        parts.append(
            f'<p>It is expected back at <time datetime="{until.isoformat()}">{told}</time>.</p>\n'
        )
    parts.append(
        "<p>You can go on reading. Go back with your browser, where what you typed may still be, "
        "and try again later.</p>\n"
    )
    return document("Not saved", "".join(parts))
