"""What both middlewares share: their settings, the status page, and refusing beforehand."""

from __future__ import annotations

import fnmatch
import json
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Union
from urllib.parse import parse_qs

from ..errors import ConfigurationError, ReadOnlyError
from ..hold.ticket import check_hold
from ..mode import Mode, State
from ..oneswitch import asked, sheets
from ..refusals import record
from ..rehearsal.callsite import Site as Place
from ..rehearsal.notes import Key, notebook_of
from ..rehearsal.sheet import put_together
from ..workers.protocol import read_between
from ..workers.status import Snapshot, same_file, snapshot
from .accept import HTML, JSON, TEXT, choose
from .answers import Answer, Request, answer, not_saved
from .rehearsal import rendered
from .status import as_html

if TYPE_CHECKING:
    from ..checks import AnyEngine
    from ..hold.ticket import Ticket
    from ..selector import EngineSelector
    from ..workers.protocol import Seen

__all__ = ["HOLD_METHODS", "Pattern", "Site"]

HOLD_METHODS = ("POST", "PUT", "PATCH", "DELETE")
"""The methods of requests that are held, if any are."""

Pattern = Union[str, "re.Pattern[str]"]
"""A path: as a glob, or as a regular expression that matches the whole of it."""

_CACHED = 1.0  # seconds for which the entries of workers may be used again


class _Reading(NamedTuple):
    """What the registry held.

    :param until: the :func:`time.monotonic` time until which it may be used again.
    :param file: the mode, and the file, that were there before and after the reading.
    :param entries: every entry.
    """

    until: float
    file: tuple[Mode, str | None]
    entries: tuple[Seen, ...]


class Site:
    """The selector, and how a middleware answers; see :class:`.wsgi.ReadOnlyMiddleware`.

    :raises ConfigurationError: if a setting makes no sense; the message names it.
    """

    def __init__(
        self,
        selector: EngineSelector | AnyEngine,
        *,
        status_path: str | None,
        status: int,
        details: bool | Callable[[Any], object],
        refuse: Iterable[str],
        allow: Iterable[Pattern],
        hold: float | None,
        hold_methods: Iterable[str],
    ) -> None:
        found = asked(selector, self)
        if found is None:
            raise ConfigurationError(
                "ReadOnlyMiddleware(selector) takes an EngineSelector, or an engine with "
                f"plugin=sa_readonly, not {type(selector).__name__}."
            )
        _check(status_path, status, details)
        self.selector = found
        self._notebook = notebook_of(found.switch)
        self.status = status
        self.details = details
        self._page = None if status_path is None else status_path.rstrip("/") or "/"
        self._check_path = None if self._page is None else self._page.rstrip("/") + "/check"
        self._rehearsal = None if self._page is None else self._page.rstrip("/") + "/rehearsal"
        self._refuse = frozenset(_methods("refuse", refuse))
        self._hold = check_hold("ReadOnlyMiddleware(hold)", hold)
        self.holds = self._hold is not None
        if self.holds:
            found.serve_requests()
        self._hold_methods = frozenset(_methods("hold_methods", hold_methods))
        self._allow = tuple(_patterns(allow))
        self._last: _Reading | None = None  # replaced as a whole, so it needs no lock

    # -- the status page -----------------------------------------------------------------

    def owns(self, path: str) -> bool:
        """True if the status page is at this path, its check, or the page of a rehearsal."""
        return self._page is not None and path in (self._page, self._check_path, self._rehearsal)

    def page(self, request: Request, *, details: bool) -> Answer:
        """Return the status page or the check. It looks at the switch and reads the registry."""
        if request.method not in ("GET", "HEAD"):
            more = [("Allow", "GET, HEAD")]
            text = "The status page takes GET and HEAD.\n"
            return answer(405, TEXT, text, read_only=self.selector.read_only, more=more)
        if request.path == self._check_path:
            return self._checked(request)
        kind = choose(request.accept, (TEXT, JSON, HTML))
        if request.path == self._rehearsal:
            found, read_only = put_together(sheets(self.selector)), self.selector.read_only
            text = rendered(found, kind, details=details)
            return answer(200, kind, text, read_only=read_only)
        seen = self._snapshot()
        if kind == HTML:
            body = as_html(seen, details=details)
        elif kind == JSON:
            told = {**seen.as_json(details=details), **self._whence(request)}
            body = json.dumps(told, indent=2) + "\n"
        else:
            body = seen.as_text(details=details)
        return answer(200, kind, body, read_only=seen.state.read_only)

    def _whence(self, request: Request) -> dict[str, object]:
        """Return the two JSON fields by which ``wait --url`` judges a page.

        ``asked`` repeats a text of the request, so a page that some cache kept is found out.
        ``registry`` tells which hosts answer for the same workers.
        """
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

        Entries may be used again for a second if the same file was there when they were read: a
        worker that has registered since then looks after it registers, and so saw that file.
        """
        selector, last = self.selector, self._last
        state = selector.check()
        if last is not None and time.monotonic() < last.until and last.file == same_file(state):
            entries = last.entries
        else:
            until = time.monotonic() + _CACHED
            state, entries, same = read_between(selector.check, selector.registry, same_file)
            if same:
                self._last = _Reading(until, same_file(state), entries)
        return snapshot(state, entries, time.time(), here=selector.report())

    # -- refusing beforehand -------------------------------------------------------------

    def may_refuse(self, request: Request) -> bool:
        """True if this request is refused, while read-only, before the application runs."""
        refuses = request.method in self._refuse and not self._allows(request)
        if refuses and self._notebook.on and not self.selector.known.read_only:
            site = Place("ReadOnlyMiddleware(refuse)", 0, request.method)
            self._notebook.note(Key(site, None, "primary", "beforehand"), "The request")
        return refuses

    def _allows(self, request: Request) -> bool:
        return any(pattern.fullmatch(request.path) for pattern in self._allow)

    def refusal(self, request: Request, state: State, why: str = "") -> Answer:
        """Return the answer to a request that is refused before the application runs.

        :param why: a sentence that tells why it was not held, or in vain.
        """
        error = ReadOnlyError(
            f"The request is refused: the application is read-only. Try again later. {why}".strip(),
            reason=state.reason,
            until=state.until,
            since=state.since,
        )
        what = f"{request.method} {request.path}"
        record(error, what, kind="beforehand", switch=self.selector.switch)
        return not_saved(error, request.accept, self.status)

    # -- holding -------------------------------------------------------------------------

    def ticket(self, request: Request) -> Ticket | None:
        """Return the ticket of a request that may be held, or None if it is of no such kind."""
        if self._hold is None or request.method not in self._hold_methods or self._allows(request):
            return None
        return self.selector.held.ticket(self._hold)

    def hold(self, ticket: Ticket) -> tuple[State, str] | None:
        """Hold a request in this thread, until the mode is read-write or its hold is over.

        :return: None when it may go on: as the application is called, its turn must be ended.
            Otherwise the state, and why it was not held any longer.
        """
        selector = self.selector
        queue = selector.held
        if not queue.must_wait(selector.state):
            return None
        while True:
            why = queue.wait(ticket)
            state = selector.state
            if not state.read_only:
                return None
            queue.end(ticket)
            if why is not None:
                return state, why


# -- settings --------------------------------------------------------------------------------


def _check(status_path: Any, status: Any, details: Any) -> None:
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


def _methods(name: str, given: Any) -> list[str]:
    methods = _several(given)
    if not all(isinstance(one, str) and re.fullmatch(r"[A-Za-z-]+", one) for one in methods):
        raise ConfigurationError(
            f'ReadOnlyMiddleware({name}) takes methods as ("POST", "PUT"), not {given!r}.'
        )
    return [method.upper() for method in methods]


def _patterns(given: Any) -> list[re.Pattern[str]]:
    made = []
    for pattern in _several(given):
        if isinstance(pattern, str):
            made.append(re.compile(fnmatch.translate(pattern)))
        elif isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
            made.append(pattern)
        else:
            raise ConfigurationError(
                'ReadOnlyMiddleware(allow) takes a list of paths as ["/login", "/search/*"], or of '
                "compiled regular expressions."
            )
    return made


def _several(given: object) -> list[Any]:
    """Return what was given as a list; of a text, [None], as its letters are never meant."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        return [None]
    return list(given)
