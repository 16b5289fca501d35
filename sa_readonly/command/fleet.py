"""Waiting for hosts that each have a file and workers of their own, by asking their status pages.

A host is there when a page of it says so that was made for this very question, by a process that is
registered. All hosts must be there at one moment: so what holds is asked once more, and each must
answer for the same file as before. What is not known, as of a host that does not answer, is not
there.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import queue
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigurationError
from ..mode import Mode
from ..text import printable
from ..workers.status import called, lasting
from .waiting import HOLDS, NOBODY, NOT_YET, BaseWaiting, Progress, shortened

__all__ = ["Fleet", "FleetProgress", "FleetWaiting", "Host", "Page", "Target", "read_hosts"]

REQUEST = 10.0  # seconds for an answer
PAUSE = 1.0  # seconds between two looks: each host notes them in its log
ROUND = 1.0  # seconds after which a look goes on without those that have not answered
AT_ONCE = 64  # requests under way
LIMIT = 4 << 20  # bytes of a page
_TEXT = 300  # letters of what a stranger says
_PLACE = "{host}"
_UNREGISTERED = "the process that answers is not registered: nobody can wait for it"
_NOBODY = "nobody is registered there"
_FORCED = "it is read-only by no file, so that nothing is known of its workers"
_BY_TURNS = (
    "several hosts answer there by turns, as behind a load balancer. Ask each by its own name or "
    "address"
)


# -- whom to ask -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A page to ask for.

    :param called: what people call the host.
    :param url: its URL.
    :param address: the family and the socket address to which to connect, or None: by the name.
    """

    called: str
    url: str
    address: tuple[int, tuple[Any, ...]] | None = None

    @property
    def parts(self) -> SplitResult:
        """The parts of the URL."""
        return urlsplit(self.url)


def read_hosts(lines: Iterable[str]) -> list[str]:
    """Return the hosts of a list: one a line, with or without a port. Each is named once.

    :raises ConfigurationError: if a line is none, or there is no host at all.
    """
    hosts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        host = _host(text)
        if host is None:
            raise ConfigurationError(
                f"Line {number} is no host: {printable(text[:_TEXT])!r}. Give one a line, such as "
                "web1, web1.example:8443, 192.0.2.7 or [2001:db8::7]:8443."
            )
        hosts.setdefault(host.lower(), host)
    if not hosts:
        raise ConfigurationError("The list names no host, so nothing would be known.")
    return list(hosts.values())


def _host(text: str) -> str | None:
    """Return a host as it stands in an URL, or None if it is none."""
    if "%" in text:  # an address of one link only
        return None
    with contextlib.suppress(ValueError):
        bare = ipaddress.ip_address(text)
        return f"[{bare}]" if bare.version == 6 else str(bare)
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", text)
    if match is None or not 0 < int(match[2] or 1) < 65536:
        return None
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(match[1][1:-1])
        except ValueError:
            return None
    return text


def _checked(url: str) -> SplitResult:
    """Return the parts of an URL that can be asked.

    :raises ConfigurationError: if it can't.
    """
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(
            f"{printable(url)!r} is no URL to ask. Give one such as https://{_PLACE}/-/read-only."
        )
    if parts.username is not None or parts.fragment:
        raise ConfigurationError("The URL takes neither a user and a password nor a #fragment.")
    return parts


# -- what a page tells -----------------------------------------------------------------------


class _NoPageError(Exception):
    """There is no page that could be believed; the message tells why."""


@dataclass(frozen=True)
class Page:
    """What a host's status page told. All text in it is printable.

    :param mode: its mode.
    :param generation: the identity of its file, or None.
    :param registered: whether the process that answered is registered.
    :param registry: which workers it answers for, or None if it does not tell.
    :param sums: ``workers``, ``noticed``, ``drained``, ``died_without_a_word``, ``waiting`` and
        ``settled``.
    :param reason: its operator's text, or None.
    :param until: when it is expected back, or None.
    :param whys: which workers are not there and why, or None if it does not show them.
    """

    mode: Mode
    generation: str | None
    registered: bool
    registry: str | None
    sums: dict[str, int]
    reason: str | None = None
    until: str | None = None
    whys: tuple[str, ...] | None = None

    def why_not(self, mode: Mode, *, ignore_dead: bool) -> str | None:
        """Return why its workers are not there, or None."""
        if self.mode is not mode:
            return f"it is {self.mode}" + (f" ({self.reason})" if self.reason else "")
        if mode is Mode.READ_ONLY and self.generation is None:
            return _FORCED
        if not self.registered:
            return _UNREGISTERED
        sums = self.sums
        if sums["workers"] == 0:
            return _NOBODY
        dead = sums["died_without_a_word"]
        waiting = sums["waiting"] - (dead if ignore_dead else 0)
        if mode is Mode.READ_ONLY:  # where it matters, two sums must say so
            waiting = max(waiting, sums["workers"] - sums["drained"])
        if waiting <= 0:
            return None
        if self.whys:
            return "; ".join(shortened(list(self.whys)))
        short = waiting - (0 if ignore_dead else dead)
        of = f"of {sums['workers']} workers"
        reached = "drained" if mode is Mode.READ_ONLY else "read-write"
        told = [f"{short} {of} {'is' if short == 1 else 'are'} not {reached}"] if short > 0 else []
        if dead and not ignore_dead:
            told.append(f"{dead} died without a word")
        return ", ".join(told)


def _page(body: bytes, asked: str) -> Page:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise _NoPageError("what answers is no JSON, whatever it says") from None
    try:
        return _read(told, asked)
    except (KeyError, TypeError, ValueError):
        raise _NoPageError(
            "what answers is no status page of this version of sa_readonly: update it there, or "
            "give the URL of the page"
        ) from None


def _read(told: dict[str, Any], asked: str) -> Page:
    mode, sums = Mode(told["mode"]), dict(told["sums"])
    names = ("workers", "noticed", "drained", "died_without_a_word", "waiting", "settled")
    if not all(type(sums[name]) is int and sums[name] >= 0 for name in names):
        raise ValueError("no sums")
    if not isinstance(told["registered"], bool):
        raise TypeError("nothing is known")
    if told["asked"] != asked:
        raise _NoPageError("the answer was made for somebody else: a cache stands between")
    whys = None
    if "workers" in told:
        whys = tuple(
            f"{_called(one)}: {_text(one['why'])}" for one in told["workers"] if one["why"]
        )
    return Page(
        mode,
        _text(told["generation"]),
        told["registered"],
        _text(told["registry"]),
        {name: sums[name] for name in names},
        _text(told["reason"]),
        _text(told["until"]),
        whys,
    )


def _called(one: dict[str, Any]) -> str:
    pid = None if one["pid"] is None else int(one["pid"])
    return called(_text(one["program"]), pid, _text(one["host"]), _text(one["name"]) or "")


def _text(told: object) -> str | None:
    if told is None:
        return None
    if not isinstance(told, str):
        raise TypeError("no text")
    return printable(" / ".join(told.splitlines()))[:_TEXT]


# -- asking ----------------------------------------------------------------------------------


@dataclass
class _Job:
    """A question that is under way."""

    target: Target
    asked: float
    begun: float | None = None
    socket: socket.socket | None = None
    overdue: bool = False
    answer: Page | str | None = None

    def abort(self) -> None:
        """End it, if it has begun and time is up: also where a byte comes now and then."""
        if self.begun is not None and time.monotonic() > self.begun + REQUEST:
            self.overdue = True
            if self.socket is not None:
                with contextlib.suppress(OSError):  # it is closed already
                    socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class Fleet:
    """The hosts, asked by threads that nobody waits for: one that hangs holds up no other.

    It makes no use of a proxy and follows no redirection: each answers for itself.

    :param url: where the page is; ``{host}`` in it is each of the hosts.
    :param hosts: the hosts, or None: every address that the name in the URL has, each time.
    :raises ConfigurationError: if that can't be asked, or would not ask each host.
    """

    def __init__(self, url: str, hosts: Sequence[str] | None = None) -> None:
        self.url = url
        self.named = None if hosts is None else len(hosts)
        if hosts is None:
            if _PLACE in url:
                raise ConfigurationError(f"Either {_PLACE} in the URL or all addresses of a name.")
            _checked(url)
            self._targets: list[Target] = []
        else:
            if _PLACE not in url.partition("://")[2].partition("/")[0]:
                raise ConfigurationError(
                    f"The URL has no {_PLACE} where its host is, so the same would be asked each "
                    f"time. Give one such as https://{_PLACE}/-/read-only."
                )
            self._targets = [Target(host, url.replace(_PLACE, host)) for host in hosts]
            for target in self._targets:
                _checked(target.url)
        secure = urlsplit(url).scheme == "https"
        self._context = ssl.create_default_context() if secure else None
        self._jobs: dict[object, _Job] = {}
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._changed = threading.Condition()
        self._resolving = False
        self._resolved: list[Target] | str | None = None

    def close(self) -> None:
        """Have the threads end."""
        for _ in range(self._threads):
            self._queue.put(None)

    def ask(self, patience: float) -> tuple[list[tuple[Target, Page | str]], str | None]:
        """Ask every host, and return what each told, or why there is no page.

        One that has not answered yet is asked no second time meanwhile.

        :param patience: seconds to wait for the answers.
        :return: the answers, and why not all hosts are known, or None.
        """
        until = time.monotonic() + patience
        problem = self._resolve(until) if self.named is None else None
        with self._changed:
            for target in self._targets:
                if target not in self._jobs:
                    job = self._jobs[target] = _Job(target, time.monotonic())
                    self._queue.put(job)
            self._start()
            jobs = self._jobs
            self._changed.wait_for(
                lambda: all(job.answer is not None for job in jobs.values()),
                max(0.0, until - time.monotonic()),
            )
            return [(target, self._taken(target)) for target in self._targets], problem

    def _taken(self, target: Target) -> Page | str:
        job = self._jobs[target]
        if job.answer is not None:
            del self._jobs[target]
            return job.answer
        job.abort()
        return f"no answer since {time.monotonic() - job.asked:.0f} s"

    def _start(self) -> None:
        while self._threads < min(AT_ONCE, len(self._targets)):
            self._threads += 1
            threading.Thread(target=self._work, name="sa_readonly fleet", daemon=True).start()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.begun = time.monotonic()
            try:
                answer: Page | str = _ask(job, self._context)
            except _NoPageError as error:
                answer = str(error)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is no page
                answer = _told(error)
            with self._changed:
                job.answer = f"it does not answer within {REQUEST:g} s" if job.overdue else answer
                self._changed.notify_all()

    def _resolve(self, until: float) -> str | None:
        """Add the addresses that the name has now; return why they are not known, or None.

        Who has lost the address meanwhile is asked all the same: it may hold a connection.
        """
        with self._changed:
            if not self._resolving:
                self._resolving, self._resolved = True, None
                thread = threading.Thread(target=self._look_up, name="sa_readonly dns", daemon=True)
                thread.start()
            self._changed.wait_for(
                lambda: self._resolved is not None, max(0.0, until - time.monotonic())
            )
            found = self._resolved
            if found is None:
                return "no answer to which addresses the name has"
            self._resolving = False
            if isinstance(found, str):
                return found
            self._targets += [target for target in found if target not in self._targets]
            return None

    def _look_up(self) -> None:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        found: list[Target] | str
        try:
            answers = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
            found = [
                Target(_address(to[0], parts.port), self.url, (family, tuple(to)))
                for family, _, _, _, to in dict.fromkeys(answers)
                if family in (socket.AF_INET, socket.AF_INET6)
            ]
        except (OSError, UnicodeError) as error:
            found = f"the addresses of {host} are not known: {_told(error)}"
        with self._changed:
            self._resolved = found
            self._changed.notify_all()


_PORTS = {"http": 80, "https": 443}


def _address(address: object, port: int | None) -> str:
    told = f"[{address}]" if ":" in str(address) else str(address)
    return told if port is None else f"{told}:{port}"


def _ask(job: _Job, context: ssl.SSLContext | None) -> Page:
    """Ask for the page, as a client that takes no old one."""
    parts = job.target.parts
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    with contextlib.ExitStack() as stack:
        if job.target.address is None:
            connected = socket.create_connection((host, port), REQUEST)
            stack.callback(connected.close)
        else:
            family, address = job.target.address
            connected = socket.socket(family, socket.SOCK_STREAM)
            stack.callback(connected.close)
            connected.settimeout(REQUEST)
            connected.connect(address)
        if context is not None:
            connected = context.wrap_socket(
                connected, server_hostname=host, do_handshake_on_connect=False
            )
            stack.callback(connected.close)
        job.socket = connected
        if isinstance(connected, ssl.SSLSocket):
            connected.do_handshake()
        connection = http.client.HTTPConnection(host, port)
        connection.sock = connected
        asked = secrets.token_hex(16)
        query = f"{parts.query}&asked={asked}" if parts.query else f"asked={asked}"
        headers = {
            "Host": parts.netloc,
            "Accept": "application/json",
            "Cache-Control": "no-cache",
            "User-Agent": "sa-readonly",
            "Connection": "close",
        }
        connection.request("GET", f"{parts.path or '/'}?{query}", headers=headers)
        response = connection.getresponse()
        stack.callback(response.close)
        _check_head(response)
        body = response.read(LIMIT + 1)
        if len(body) > LIMIT:
            raise _NoPageError("what answers is too long for a status page")
        return _page(body, asked)


def _check_head(response: http.client.HTTPResponse) -> None:
    status = response.status
    if status == 200:
        kind = response.headers.get_content_type()
        if kind != "application/json":
            raise _NoPageError(f"what answers is {_text(kind)} and no status page of sa_readonly")
        return
    to = response.headers.get("Location")
    if 300 <= status < 400 and to:
        raise _NoPageError(
            f"it redirects to {printable(to[:_TEXT])}, which is not followed: give the URL itself"
        )
    phrase = printable(response.reason)[:_TEXT]
    raise _NoPageError(f"no status page: HTTP {status} {phrase}".rstrip())


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"it does not answer within {REQUEST:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is refused: {printable(error.verify_message)} (SSL_CERT_FILE names "
            "the authorities to trust)"
        )
    if isinstance(error, http.client.HTTPException):
        return f"it speaks no HTTP: {printable(str(error) or type(error).__name__)[:_TEXT]}"
    if isinstance(error, OSError):
        return f"it can't be reached: {printable(error.strerror or str(error))[:_TEXT]}"
    return printable(f"{type(error).__name__}: {error}")[:_TEXT]


# -- waiting ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Host:
    """A host, judged by its page.

    :param called: what people call it.
    :param url: the page that was asked for.
    :param why: why it is not there, or None.
    :param page: what its page told, or None without one.
    """

    called: str
    url: str
    why: str | None = None
    page: Page | None = None

    @property
    def mode(self) -> Mode | None:
        """Its mode, or None if that is not known."""
        return None if self.page is None else self.page.mode

    @property
    def drained(self) -> bool:
        """True if each of its workers is drained."""
        return self.why is None and self.mode is Mode.READ_ONLY

    @property
    def held(self) -> int | None:
        """How many workers are registered there, or None if that is not known."""
        return None if self.page is None else self.page.sums["workers"]

    @property
    def lasting(self) -> tuple[object, ...]:
        """What is the same until something happens."""
        sums = () if self.page is None else tuple(self.page.sums.values())
        return (self.called, self.mode, lasting(self.why or ""), sums)

    def as_json(self) -> dict[str, object]:
        """Return it as what :mod:`json` takes."""
        page = self.page
        return {
            "host": self.called,
            "url": self.url,
            "why": self.why,
            "drained": self.drained,
            "mode": page and str(page.mode),
            "reason": page and page.reason,
            "until": page and page.until,
            "generation": page and page.generation,
            "registry": page and page.registry,
            "sums": page and page.sums,
        }


@dataclass(frozen=True)
class FleetProgress(Progress):
    """How far it is, by hosts.

    :param hosts: each of them.
    :param expected_hosts: how many are waited for, or None.
    """

    hosts: tuple[Host, ...] = ()
    expected_hosts: int | None = None

    @property
    def tally(self) -> str:
        """How many are there, of how many."""
        return f"{sum(host.why is None for host in self.hosts)} of {len(self.hosts)} hosts"

    @property
    def lasting(self) -> tuple[object, ...]:
        """What is the same until something happens."""
        return (*super().lasting, *(host.lasting for host in self.hosts))

    @property
    def missing_hosts(self) -> tuple[Host, ...]:
        """The hosts that are not there yet."""
        return tuple(host for host in self.hosts if host.why is not None)

    def _count(self) -> str:
        if self.code == NOBODY:
            names = ", ".join(shortened([host.called for host in self.missing_hosts]))
            return f"nobody is registered on {names}"
        groups = _groups(self.hosts)
        hosts = f"{len(groups)} host{'' if len(groups) == 1 else 's'}"
        ignoring = f", ignoring {self.died} that died" if self.died else ""
        workers = f"{self.settled} worker{'' if self.settled == 1 else 's'}"
        return f"{hosts}{_same(groups)}, {workers}{ignoring}"

    def _proviso(self) -> str:
        if self.expected_hosts is None:
            return (
                " (only the addresses that the name has are known; --expect-hosts N tells how many "
                "there must be)"
            )
        return super()._proviso()

    def _whys(self) -> list[str]:
        if self.moved:
            return [self.problem or ""]
        whys = [] if self.problem is None else [self.problem]
        whys += shortened([f"{host.called}: {host.why}" for host in self.missing_hosts])
        groups = _groups(self.hosts)
        if self.expected_hosts is not None and len(groups) < self.expected_hosts:
            known = f"{len(groups)} of {self.expected_hosts} expected hosts are known"
            whys.append(known + _same(groups))
        if not whys and self.expected is not None and self.settled < self.expected:
            whys.append(f"{self.settled} of {self.expected} expected workers are registered")
        return whys or ["a file was replaced meanwhile, or a host restarted"]


def _groups(hosts: Iterable[Host]) -> list[list[str]]:
    """Return the names of each host: of those that answer for the same workers together."""
    groups: dict[object, list[str]] = {}
    for host in hosts:
        registry = None if host.page is None else host.page.registry
        groups.setdefault(registry or host, []).append(host.called)
    return list(groups.values())


def _same(groups: Iterable[list[str]]) -> str:
    """Tell which names are those of one host."""
    same = [" and ".join(shortened(group)) + " are one" for group in groups if len(group) > 1]
    return f" ({'; '.join(shortened(same))})" if same else ""


@dataclass(frozen=True)
class _Round:
    """What one look found."""

    hosts: tuple[Host, ...]
    problem: str | None
    moved: bool = False


@dataclass
class FleetWaiting(BaseWaiting[_Round]):
    """A wait for the workers of every host.

    :param fleet: whom to ask.
    :param expect_hosts: how many hosts there must be, or None: as many as are named. Two that
        answer for the same workers are one.
    """

    pause: ClassVar[float] = PAUSE

    fleet: Fleet
    expect_hosts: int | None = None
    _seen: dict[Target, list[str]] = field(default_factory=dict, repr=False, init=False)
    _were: set[Target] = field(default_factory=set, repr=False, init=False)
    _mixed: set[Target] = field(default_factory=set, repr=False, init=False)

    @property
    def expected_hosts(self) -> int | None:
        """How many hosts there must be, or None: that is not known."""
        return self.fleet.named if self.expect_hosts is None else self.expect_hosts

    def _is_twice(self) -> bool:
        """It must: what one host told first may have ended before another one told it."""
        return True

    def _look(self, *, again: bool = False) -> _Round:
        left = self.began + self.timeout - time.monotonic()
        # The last look and the one that counts are worth waiting for.
        patience = REQUEST if again or left <= ROUND else ROUND
        answers, problem = self.fleet.ask(patience)
        hosts = tuple(self._judged(target, answer) for target, answer in answers)
        back = [
            target.called
            for target, answer in answers
            if target in self._were and isinstance(answer, Page) and answer.mode is not self.mode
        ]
        if back:
            names = ", ".join(shortened(back))
            return _Round(hosts, f"{names}: somebody has turned it back meanwhile", moved=True)
        self._were.update(
            target
            for target, answer in answers
            if isinstance(answer, Page) and answer.mode is self.mode and _by_file(answer)
        )
        return _Round(hosts, problem)

    def _judged(self, target: Target, answer: Page | str) -> Host:
        if isinstance(answer, str):
            return Host(target.called, target.url, answer)
        why = answer.why_not(self.mode, ignore_dead=self.ignore_dead)
        if self._by_turns(target, answer):
            why = _BY_TURNS
        return Host(target.called, target.url, why, answer)

    def _by_turns(self, target: Target, page: Page) -> bool:
        """True if one answers there, then another, then the first again: no restart does that."""
        if page.registry is not None:
            seen = self._seen.setdefault(target, [])
            if page.registry not in seen:
                seen.append(page.registry)
            elif page.registry != seen[-1]:
                self._mixed.add(target)
        return target in self._mixed

    def _identify(self, found: _Round) -> object:
        return tuple(
            (host.called, None if host.page is None else (host.page.registry, host.page.generation))
            for host in found.hosts
        )

    def _code(self, found: _Round) -> int:
        missing = [host for host in found.hosts if host.why is not None]
        if found.problem is not None or not found.hosts:
            return NOT_YET
        if missing:
            return NOBODY if all(host.why == _NOBODY for host in missing) else NOT_YET
        if len(_groups(found.hosts)) < (self.expected_hosts or 0):
            return NOT_YET
        enough = self.expect is None or _workers(found.hosts) >= self.expect
        return HOLDS if enough else NOT_YET

    def _progress(self, found: _Round, code: int) -> FleetProgress:
        seconds = time.monotonic() - self.began
        alone = code == NOBODY and self.expect is None and self.expect_hosts is None
        late = seconds >= self.timeout
        dead = sum(host.page.sums["died_without_a_word"] for host in found.hosts if host.page)
        return FleetProgress(
            code,
            code == HOLDS or found.moved or alone or late,
            late and code != HOLDS and not found.moved and not alone,
            seconds,
            self.mode,
            (),
            _workers(found.hosts),
            self.expect,
            problem=found.problem,
            moved=found.moved,
            died=dead if self.ignore_dead else 0,
            answer=self._answer,
            hosts=found.hosts,
            expected_hosts=self.expected_hosts,
        )


def _by_file(page: Page) -> bool:
    return page.mode is Mode.READ_WRITE or page.generation is not None


def _workers(hosts: Iterable[Host]) -> int:
    """Count the living workers of the hosts that are there; those of two that are one once."""
    counts: dict[object, int] = {}
    for host in hosts:
        if host.page is not None and host.why is None:
            key = host.page.registry or host
            counts[key] = max(counts.get(key, 0), host.page.sums["settled"])
    return sum(counts.values())
