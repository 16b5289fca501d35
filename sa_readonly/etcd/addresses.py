"""Where etcd's members are, and what TLS trusts: as it is given, checked before anything is asked.

Nothing of it is taken from the environment.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

from ..errors import ConfigurationError
from ..telemetry import fields

__all__ = ["Trust", "parse"]

logger = logging.getLogger("sa_readonly")


def parse(urls: object) -> list[str]:
    """Return the URLs of the members, each once.

    :param urls: ``"https://a:2379,https://b:2379"``, or a sequence of such.
    :raises ConfigurationError: if one of them is none.
    """
    listed = [urls] if isinstance(urls, str) else urls
    if not isinstance(listed, Sequence) or not all(isinstance(text, str) for text in listed):
        raise ConfigurationError(f"The URLs of etcd are a text or a list of such, not {urls!r}.")
    found = [url.strip() for text in listed for url in text.split(",") if url.strip()]
    if not found:
        raise ConfigurationError("No URL of etcd is given. Give one such as https://etcd1:2379.")
    checked = list(dict.fromkeys(map(_checked, found)))
    if len({url.partition(":")[0] for url in checked}) > 1:
        raise ConfigurationError("The URLs of etcd mix http and https. Give all with https.")
    return checked


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port or 2379
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    # Not a word of the URL before it is known that no password stands in it.
    if "@" in url:
        raise ConfigurationError(
            "An URL of etcd takes neither a user nor a password. Give user= and password=."
        )
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(f"{url!r} is no URL of etcd. Give one such as https://etcd1:2379.")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{url!r} has more than a host and a port. Give one such as https://etcd1:2379."
        )
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


class Trust:
    """What TLS trusts and shows, as the files have it: they are read anew when they change.

    A client certificate that is renewed on the disk would otherwise be the old one until the
    process ends, and be refused when it has expired.

    :param ca: a file of certificates; None trusts those of the system.
    :param cert: the file of a client certificate.
    :param cert_key: the file of its key, if it is not in the same one.
    :raises ConfigurationError: if one of them is not there, or is none.
    """

    def __init__(self, ca: str | None, cert: str | None, cert_key: str | None) -> None:
        if cert_key is not None and cert is None:
            raise ConfigurationError("cert_key= is given without cert=, the certificate with it.")
        self._files = {"ca": ca, "cert": cert, "cert_key": cert_key}
        self._seen = self._signature()
        self._context = self._made()
        self._trouble = ""

    def context(self) -> ssl.SSLContext:
        """Return it for a new connection."""
        try:
            if (seen := self._signature()) != self._seen:
                self._context, self._seen = self._made(), seen
                self._trouble = ""
        except ConfigurationError as error:  # it is just being written, or renewed wrongly
            if self._trouble != str(error):
                self._trouble = str(error)
                logger.warning(
                    "The certificates for etcd stay as they were: %s",
                    error,
                    extra=fields("certificates_kept", error=str(error)),
                )
        return self._context

    def _signature(self) -> list[tuple[int, int, int]]:
        found = []
        for name, path in self._files.items():
            if path is not None:
                try:
                    with open(path, "rb") as file:
                        stat = os.fstat(file.fileno())
                except OSError as error:
                    raise ConfigurationError(
                        f"{name}={path!r} can't be read: {error.strerror}."
                    ) from error
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found

    def _made(self) -> ssl.SSLContext:
        ca, cert, cert_key = self._files.values()
        try:
            made = ssl.create_default_context(cafile=ca)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"ca={ca!r} is no certificate in PEM: {error}.") from error
        if cert is not None:
            try:
                made.load_cert_chain(cert, cert_key, _no_passphrase)
            except (OSError, ValueError) as error:
                raise ConfigurationError(
                    f"cert={cert!r} and cert_key={cert_key!r} are no certificate in PEM with its "
                    f"key, without a passphrase: {error}."
                ) from error
        return made


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")  # OpenSSL would ask for it at the terminal
