"""What both middlewares answer; how it is sent is theirs. Only the standard library is needed."""

from __future__ import annotations

import fnmatch
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Union
from urllib.parse import parse_qs

from ..errors import ConfigurationError, ReadOnlyError
from ..mode import Mode, State, now
from ..refusals import record
from ..workers.protocol import read_between
from ..workers.status import Snapshot, same_file, snapshot
from .page import POLICY, document, escaped, printable
from .status import as_html

if TYPE_CHECKING:
    from datetime import datetime

    from ..selector import EngineSelector
    from ..workers.protocol import Seen

__all__ = ["Answer", "Request", "Site", "choose", "not_saved"]

RETRY_AFTER = 60  # seconds, where nobody said until when, or that has passed
CACHED = 1.0  # seconds for which the entries of workers may be used again
DRAINED_BODY = 1 << 20  # bytes of a refused body that are read, so that the answer is, too
HTML, TEXT, JSON = "text/html", "text/plain", "application/json"
PROBLEM = "application/problem+json"
ERROR_TYPES = (PROBLEM, HTML, TEXT)
PAGE_TYPES = (TEXT, JSON, HTML)
AFTERWARDS = (
    "A write was refused while read-only, after the response had begun: the connection is closed, "
    "so that nobody takes it for complete. Write, and commit, before the response begins."
)
TOO_LATE = (
    "A write was refused while read-only, after the response was complete: whoever asked was not "
    "told. Write, and commit, before the response."
)

Pattern = Union[str, "re.Pattern[str]"]


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
    :param body: also where the request is a HEAD, which is sent none.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def phrase(self) -> str:
        """The words behind the status code."""
        return phrase(self.status)


def phrase(status: int) -> str:
    """Return the words behind a status code."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Read-only"


def answer(
    status: int, kind: str, body: str, *, read_only: bool, more: Sequence[tuple[str, str]] = ()
) -> Answer:
    """Return an answer that nobody keeps, and that no browser takes for something else."""
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


# -- what the client takes -------------------------------------------------------------------


def choose(accept: str, offers: Sequence[str]) -> str:
    """Return the media type that a client likes best, or the first one if it takes none of them.

    Where it likes several as well, what it names exactly goes first, and of that what it names
    first: browsers, and clients with ``application/json, text/plain, */*``, get what they mean.
    """
    ranges = [_range(text) for text in accept.split(",")]
    return max(offers, key=lambda offer: _liking(ranges, offer))


def _liking(ranges: Sequence[tuple[str, float]], offer: str) -> tuple[float, int, int]:
    """Return what is the greater the better: not named at all is 0, refused is less."""
    found = [
        (exact, -place, quality)
        for place, (name, quality) in enumerate(ranges)
        if (exact := _exactness(name, offer))
    ]
    exact, place, quality = max(found, default=(0, 0, 0.0))
    return (-1.0 if found and not quality else quality), exact, place


def _range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return "", 0.0
            return name, quality if 0 <= quality <= 1 else 0.0
    return name, 1.0


def _exactness(name: str, offer: str) -> int:
    """Return how exactly a media range names a type; 0 if it does not."""
    if name == offer or (name == JSON and offer == PROBLEM):
        return 3
    if name == offer.partition("/")[0] + "/*":
        return 2
    return 1 if name == "*/*" else 0


# -- a refused write -------------------------------------------------------------------------


def not_saved(error: ReadOnlyError, accept: str, status: int = 503) -> Answer:
    """Return the answer to a request whose write was refused.

    Neither the statement nor the message of the error is in it: they are for developers.
    """
    kind = choose(accept, ERROR_TYPES)
    make = {PROBLEM: _as_problem, HTML: _as_html, TEXT: _as_text}[kind]
    seconds = _seconds_left(error)
    body = make(error, None if seconds is None else error.until, status)
    more = [("Retry-After", str(RETRY_AFTER if seconds is None else seconds))]
    return answer(status, kind, body, read_only=True, more=more)


def _seconds_left(error: ReadOnlyError) -> int | None:
    """Return the seconds that are left, or None if that is not known."""
    if error.until is None:
        return None
    left = math.ceil(error.until.timestamp() - now().timestamp())
    return left if left > 0 else None


def _as_problem(error: ReadOnlyError, until: datetime | None, status: int) -> str:
    told = {
        "type": "about:blank",
        "title": phrase(status),
        "status": status,
        "detail": "Not saved: the application is read-only. Try again later.",
        "read_only": True,
        "reason": error.reason,
        "until": None if until is None else until.isoformat(),
    }
    return json.dumps(told) + "\n"


def _as_text(error: ReadOnlyError, until: datetime | None, _status: int) -> str:
    lines = ["Not saved: the application is read-only. Try again later."]
    if error.reason:
        lines.append("reason: " + printable(" / ".join(error.reason.splitlines())))
    if until is not None:
        lines.append(f"until: {until.isoformat()}")
    return "\n".join([*lines, ""])


def _as_html(error: ReadOnlyError, until: datetime | None, _status: int) -> str:
    parts = [
        "<h1>Not saved</h1>\n",
        '<p class="mode read-only">What you have just tried was <strong>not saved</strong>: '
        "the application is read-only for the moment.</p>\n",
    ]
    if error.reason:
        parts.append(f'<p class="text">{escaped(error.reason)}</p>\n')
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


# -- the middlewares' common half ------------------------------------------------------------


class Site:
    """What a middleware knows: the selector, and how it answers.

    :raises ConfigurationError: if a setting makes no sense; the message names it.
    """

    def __init__(
        self,
        selector: EngineSelector,
        *,
        status_path: str | None,
        status: int,
        details: bool | Callable[[Any], object],
        refuse: Iterable[str],
        allow: Iterable[Pattern],
    ) -> None:
        _check(selector, status_path, status, details)
        self.selector = selector
        self.status = status
        self.details = details
        self._page = None if status_path is None else status_path.rstrip("/") or "/"
        self._check_path = None if self._page is None else self._page.rstrip("/") + "/check"
        self._refuse = frozenset(_methods(refuse))
        self._allow = tuple(_patterns(allow))
        # Who read them when, by which answer of the switch: replaced as a whole, so no lock.
        self._read: tuple[float, tuple[Mode, str | None], tuple[Seen, ...]] | None = None

    # -- the status page -----------------------------------------------------------------

    def owns(self, path: str) -> bool:
        """True if the status page is at this path, or its check."""
        return self._page is not None and path in (self._page, self._check_path)

    def page(self, request: Request, *, details: bool) -> Answer:
        """Return the status page or the check. It looks at the file and reads the directory."""
        if request.method not in ("GET", "HEAD"):
            more = [("Allow", "GET, HEAD")]
            text = "The status page takes GET and HEAD.\n"
            return answer(405, TEXT, text, read_only=self.selector.read_only, more=more)
        if request.path == self._check_path:
            return self._checked(request)
        seen = self._snapshot()
        kind = choose(request.accept, PAGE_TYPES)
        if kind == HTML:
            body = as_html(seen, details=details)
        elif kind == JSON:
            told = {**seen.as_json(details=details), **self._whence(request)}
            body = json.dumps(told, indent=2) + "\n"
        else:
            body = seen.as_text(details=details)
        return answer(200, kind, body, read_only=seen.state.read_only)

    def _whence(self, request: Request) -> dict[str, object]:
        """Return what tells a machine that it was answered just now, and for which workers."""
        asked = parse_qs(request.query).get("asked", [""])[0]
        registry = self.selector.registry
        return {
            "registry": None if registry is None else registry.scope(),
            "asked": asked if re.fullmatch(r"[A-Za-z0-9]{1,64}", asked) else None,
        }

    def _checked(self, request: Request) -> Answer:
        state = self.selector.check()
        asked = parse_qs(request.query).get("mode", [])
        modes = {str(mode): mode for mode in Mode}
        if len(asked) != 1 or asked[0] not in modes:
            text = "Ask with ?mode=read-write or ?mode=read-only.\n"
            return answer(400, TEXT, text, read_only=state.read_only)
        status = 200 if state.mode is modes[asked[0]] else 503
        return answer(status, TEXT, f"mode: {state.mode}\n", read_only=state.read_only)

    def _snapshot(self) -> Snapshot:
        """Judge every worker by the mode that holds now.

        Entries that were read while the same file was there may be used again for a second: who
        registered since then saw that file, as it looks after it registers.
        """
        selector = self.selector
        state, read = selector.check(), self._read
        if read is not None and time.monotonic() < read[0] + CACHED and read[1] == same_file(state):
            seen = read[2]
        else:
            began = time.monotonic()
            state, seen, same = read_between(selector.check, selector.registry, same_file)
            if same:
                self._read = (began, same_file(state), seen)
        return snapshot(state, seen, time.time(), here=selector.report())

    # -- refusing beforehand -------------------------------------------------------------

    def may_refuse(self, request: Request) -> bool:
        """True if the application is not asked while read-only."""
        return request.method in self._refuse and not any(
            pattern.fullmatch(request.path) for pattern in self._allow
        )

    def refusal(self, request: Request, state: State) -> Answer:
        """Return the answer to a request that the application is not asked."""
        error = ReadOnlyError(
            "The request is refused: the application is read-only. Try again later.",
            reason=state.reason,
            until=state.until,
            since=state.since,
        )
        what = f"{request.method} {request.path}"
        record(error, what, kind="beforehand", switch=self.selector.switch)
        return not_saved(error, request.accept, self.status)


def _check(selector: Any, status_path: Any, status: Any, details: Any) -> None:
    # not "state": asking for that would register the process, which may fork later
    if not all(hasattr(selector, name) for name in ("switch", "check", "report")):
        raise ConfigurationError(
            f"ReadOnlyMiddleware(selector) takes an EngineSelector, not {type(selector).__name__}."
        )
    if status_path is not None and not (
        isinstance(status_path, str) and status_path.startswith("/")
    ):
        raise ConfigurationError(
            'ReadOnlyMiddleware(status_path) takes a path as "/-/read-only", or None for no page, '
            f"not {status_path!r}."
        )
    if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
        raise ConfigurationError(
            f"ReadOnlyMiddleware(status) takes a status code from 400 to 599, not {status!r}."
        )
    if not isinstance(details, bool) and not callable(details):
        raise ConfigurationError(
            "ReadOnlyMiddleware(details) takes True, False or a callable that is asked at each "
            f"request, not {details!r}."
        )


def _methods(given: Any) -> list[str]:
    methods = _several(given)
    if not all(isinstance(one, str) and re.fullmatch(r"[A-Za-z-]+", one) for one in methods):
        raise ConfigurationError(
            f'ReadOnlyMiddleware(refuse) takes methods as ("POST", "PUT"), not {given!r}.'
        )
    return [one.upper() for one in methods]


def _patterns(given: Any) -> list[re.Pattern[str]]:
    made = []
    for one in _several(given):
        if isinstance(one, str):
            made.append(re.compile(fnmatch.translate(one)))
        elif isinstance(one, re.Pattern) and isinstance(one.pattern, str):
            made.append(one)
        else:
            raise ConfigurationError(
                'ReadOnlyMiddleware(allow) takes a list of paths as ["/login", "/search/*"], or of '
                "compiled regular expressions."
            )
    return made


def _several(given: object) -> list[Any]:
    """Return what was given as a list; one text is no list of its letters, and makes no sense."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        return [None]
    return list(given)
