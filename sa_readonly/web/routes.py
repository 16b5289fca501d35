"""The route of a request, where its framework tells it: never the path, which has values."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["route_in", "route_of"]

# Where frameworks for WSGI keep the route in the environ: keys or attributes, one after the other.
_WSGI = (
    ("werkzeug.request", "url_rule", "rule"),  # Flask
    ("bottle.route", "rule"),
    ("webob.adhoc_attrs", "matched_route", "pattern"),  # Pyramid
)


def route_of(environ: Mapping[str, Any]) -> str | None:
    """Return the route of a WSGI request as ``POST /entries/<id>``, or None."""
    for path in _WSGI:
        found: Any = environ
        with contextlib.suppress(Exception):  # what they keep there may fail to tell it
            for name in path:
                found = found.get(name) if hasattr(found, "get") else getattr(found, name, None)
        if isinstance(found, str):
            return f"{environ.get('REQUEST_METHOD')} {found}"
    return None


def route_in(scope: Mapping[str, Any]) -> str | None:
    """Return the route of an ASGI request, as Starlette and FastAPI tell it, or None."""
    path = getattr(scope.get("route"), "path", None)
    return f"{scope.get('method')} {path}" if isinstance(path, str) else None
