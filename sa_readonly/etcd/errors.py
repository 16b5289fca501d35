"""What etcd answers where it does not do what was asked, told by its ``code`` alone.

The texts, the HTTP statuses and the forms of an error differ between etcd's versions; the code is
that of gRPC in all of them.
"""

from __future__ import annotations

import json
from typing import Any

from ..text import printable

__all__ = [
    "Compacted",
    "Denied",
    "EtcdError",
    "Full",
    "FutureRevision",
    "Leaderless",
    "NotFound",
    "Unreachable",
    "not_registered",
    "not_reported",
]

# gRPC's codes.
INVALID, NOT_FOUND, DENIED, EXHAUSTED = 3, 5, 7, 8
PRECONDITION, OUT_OF_RANGE, UNAVAILABLE, UNAUTHENTICATED = 9, 11, 14, 16
_UNDECIDED = {1, 2, 4, 13}  # cancelled, unknown, deadline exceeded, internal

_TEXT = 300  # letters of what a server says that are told


class EtcdError(Exception):
    """A request to etcd did not succeed.

    :param message: what was refused, by which server.
    :param code: gRPC's code in the answer, or None where there was none.
    """

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(EtcdError):  # noqa: N818  # the words of the protocol, as all of these
    """No endpoint answered in time, or none that could have done what was asked.

    :param may_be_done: whether the request may have been done, or may still be done at any later
        time; False if nothing of it has left this process.
    """

    def __init__(self, message: str, *, code: int | None = None, may_be_done: bool = True) -> None:
        super().__init__(message, code=code)
        self.may_be_done = may_be_done


class Leaderless(Unreachable):
    """The member has no leader, or another one than when it was asked (code 14)."""


class Full(EtcdError):  # noqa: N818
    """The database has no space left, or the request is more than etcd can take (code 8)."""


class Denied(EtcdError):  # noqa: N818
    """The user may not do that, or is not known (codes 7 and 16)."""


class Unauthenticated(EtcdError):  # noqa: N818
    """The request had no token, or one that etcd does not know: a login may help."""


class NotFound(EtcdError):  # noqa: N818
    """The lease is gone (code 5)."""


class Compacted(EtcdError):  # noqa: N818
    """The revision asked for is no longer kept (code 11, or a watch cancelled).

    :param revision: the oldest one that is kept, where etcd says so.
    """

    def __init__(self, message: str, *, code: int | None = None, revision: int = 0) -> None:
        super().__init__(message, code=code)
        self.revision = revision


class FutureRevision(EtcdError):  # noqa: N818
    """The revision asked for has not been yet (code 11): etcd may have lost what was seen."""


_BY_CODE: dict[int, type[EtcdError]] = {
    NOT_FOUND: NotFound,
    DENIED: Denied,
    EXHAUSTED: Full,
    UNAVAILABLE: Leaderless,
    UNAUTHENTICATED: Unauthenticated,
    **dict.fromkeys(_UNDECIDED, Unreachable),
}


def read(url: str, status: int, body: bytes) -> dict[str, Any]:
    """Return the answer in a response.

    :param url: the endpoint that gave it, for the message.
    :raises EtcdError: if it is an error, or none of etcd's answers.
    """
    if status == 200:
        answer = _parsed(body)
        if isinstance(answer, dict) and "error" not in answer:
            return answer
    raise failure(url, status, body)


def failure(url: str, status: int, body: bytes) -> EtcdError:
    """Return the error that a response tells: ``{"code": ..}``, ``{"error": {..}}`` or a text."""
    answer = _parsed(body)
    inner = answer.get("error") if isinstance(answer, dict) else None
    told = inner if isinstance(inner, dict) else answer if isinstance(answer, dict) else {}
    code = told.get("grpc_code", told.get("code"))
    said = told.get("message") or inner or told.get("reason")  # the last of /health
    text = _shown(str(said or body.decode("utf-8", "replace")))
    if not isinstance(code, int):
        if status == 200:
            return EtcdError(f"What answers at {url} is not etcd's gateway: {text!r}.")
        kind: type[EtcdError] = Unreachable if status >= 500 else EtcdError
        return kind(f"{url} answered {status}: {text}.")
    message = f"etcd at {url} answered with code {code}: {text}."
    if code == OUT_OF_RANGE:  # one code for both
        return (FutureRevision if "future" in text else Compacted)(message, code=code)
    return _BY_CODE.get(code, EtcdError)(message, code=code)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _shown(text: str) -> str:
    return printable(text[:_TEXT].strip().rstrip("."))


def not_registered(where: str, error: EtcdError) -> str:
    """Return what is told of a process that can't register, with the cure."""
    cure = _cure(error, "It registers as soon as etcd answers.")
    return f"This process can't register below {where} in etcd ({error}). {cure}"


def not_reported(where: str, error: EtcdError) -> str:
    """Return what is told of one that can't report, with the cure."""
    cure = _cure(error, "It is tried again.")
    return f"The report at {where} can't be put into etcd ({error}). {cure}"


def _cure(error: EtcdError, otherwise: str) -> str:
    if isinstance(error, Full):
        return "Its database is full: compact it, defragment it and disarm the alarm."
    return otherwise
