"""Which status pages to ask for: a list of hosts, an URL, the addresses of a name."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigurationError
from ..text import printable

_PLACE = "{host}"
_TEXT = 300  # letters of a line that are told
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """A status page to ask for.

    :param called: what people call the host.
    :param url: the page's URL.
    :param address: the family and the socket address to which to connect, or None: by the name.
    """

    called: str
    url: str
    address: tuple[int, tuple[Any, ...]] | None = None

    @property
    def parts(self) -> SplitResult:
        """The parts of the URL."""
        return urlsplit(self.url)

    @property
    def place(self) -> tuple[str, int]:
        """The host and the port of the URL."""
        return self.parts.hostname or "", self.parts.port or _PORTS[self.parts.scheme]


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
    if "%" in text:  # an address with a zone, which means something on one machine only
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


def check_url(url: str) -> None:
    """Refuse an URL that can't be asked.

    :raises ConfigurationError: if it can't.
    """
    try:
        parts = urlsplit(url)
        sound = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(
            f"{printable(url)!r} is no URL to ask. Give one such as https://{_PLACE}/-/read-only."
        )
    if parts.username is not None or parts.fragment:
        raise ConfigurationError("The URL takes neither a user and a password nor a #fragment.")


def targets_of(url: str, hosts: Sequence[str] | None) -> list[Target]:
    """Return the page of each host; none yet if the addresses of a name are to be asked.

    :param url: where the page is; ``{host}`` in it is each of the hosts.
    :param hosts: the hosts, or None: every address that the name in the URL has.
    :raises ConfigurationError: if that can't be asked, or would not ask each host.
    """
    if hosts is None:
        if _PLACE in url:
            raise ConfigurationError(f"Either {_PLACE} in the URL or all addresses of a name.")
        check_url(url)
        return []
    if _PLACE not in url.partition("://")[2].partition("/")[0]:
        raise ConfigurationError(
            f"The URL has no {_PLACE} where its host is, so the same would be asked each time. "
            f"Give one such as https://{_PLACE}/-/read-only."
        )
    targets = [Target(host, url.replace(_PLACE, host)) for host in hosts]
    for target in targets:
        check_url(target.url)
    return targets


def addresses(url: str) -> list[Target]:
    """Return the page at each address that the name in the URL has now.

    :raises OSError: or UnicodeError, if they are not known.
    """
    page = Target("", url)
    answers = socket.getaddrinfo(*page.place, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        Target(_address(to[0], page.parts.port), url, (family, tuple(to)))
        for family, _, _, _, to in dict.fromkeys(answers)
        if family in (socket.AF_INET, socket.AF_INET6)
    ]


def _address(address: object, port: int | None) -> str:
    told = f"[{address}]" if ":" in str(address) else str(address)
    return told if port is None else f"{told}:{port}"
