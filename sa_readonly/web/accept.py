"""Which media type an answer has, by the client's Accept header."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HTML", "JSON", "PROBLEM", "TEXT", "choose"]

HTML, TEXT, JSON = "text/html", "text/plain", "application/json"
PROBLEM = "application/problem+json"  # RFC 9457: an error, as JSON


def choose(accept: str, offers: Sequence[str]) -> str:
    """Return the media type that a client prefers, or the first one if it takes none of them.

    Of types that it prefers alike, the one that it names most exactly counts, and then the one that
    it names first. So browsers get HTML, and a client that sends ``application/json, text/plain,
    */*`` gets JSON.
    """
    ranges = [_range(text) for text in accept.split(",")]
    return max(offers, key=lambda offer: _preference(ranges, offer))


def _preference(ranges: Sequence[tuple[str, float]], offer: str) -> tuple[float, int, int]:
    """Return what is greater for a preferred type; one that is refused comes after one unnamed."""
    found = [
        (exact, -place, quality)
        for place, (name, quality) in enumerate(ranges)
        if (exact := _exactness(name, offer))
    ]
    exact, place, quality = max(found, default=(0, 0, 0.0))
    return (-1.0 if found and not quality else quality), exact, place


def _range(text: str) -> tuple[str, float]:
    """Return the media range of one part of the header, and its quality."""
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
