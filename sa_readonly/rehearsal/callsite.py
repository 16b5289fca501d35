"""Where in the application's own code something was asked for, told by the stack.

Frames of SQLAlchemy, of this package, of the standard library and of what is installed beside it
are skipped, but for the package that has made the selector. Some of them tell by which road a
connection is got, see :func:`mark`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

__all__ = [
    "Call",
    "Site",
    "bear",
    "callers",
    "forget",
    "frames",
    "here",
    "mark",
    "own",
]

_DEEPEST = 500  # frames that are looked at; a recursion may have made thousands
_APPLICATION, _LIBRARY, _SKIPPED = range(3)


class Site(NamedTuple):
    """A place in the code.

    :param file: the path of the file; of a library, if there is nothing else on the stack.
    :param line: its line, from 1 on; 0 if it is not known.
    :param function: the name of the function.
    """

    file: str
    line: int
    function: str

    def below(self, base: str) -> str:
        """Return it in words, with its file as seen from a directory."""
        return f"{self.file.removeprefix(base)}:{self.line} {self.function}"


class Call(NamedTuple):
    """Where something was asked for, and by which road.

    :param site: the innermost place that is the application's own.
    :param roads: what :func:`mark` told of the frames before it, the innermost first.
    """

    site: Site
    roads: tuple[str, ...]


_UNKNOWN = Site("?", 0, "?")
# By the identity of a code object: it is hashed anew each time, with all that is in it.
_roads: dict[int, tuple[CodeType, str, Callable[[FrameType], bool]]] = {}
_kinds: dict[str, int] = {}  # by the name of a file
_BESIDE = {"site-packages", "dist-packages"}
_owned: list[str] = []  # what is the application's of what is installed: packages, or modules


def _always(_: FrameType) -> bool:
    return True


def mark(function: Any, road: str, when: Callable[[FrameType], bool] = _always) -> None:
    """Have :func:`here` tell a road where a function is on the stack.

    :param when: is asked of the function's frame.
    """
    _roads[id(function.__code__)] = (function.__code__, road, when)
    _ROADS.add(function.__name__)


# Of the frames that tell a road in some calls only: the depth, what is asked, and the answer.
_Checks = tuple[tuple[int, "Callable[[FrameType], bool]", bool], ...]

# What was found, by what asked, the depth, and the call: the code of the application and where it
# is, and the code that it has called. Python makes an object of each frame that is looked at, so a
# walk costs more than all else that is noted. What is kept has the codes in it, so that they are.
_found: dict[tuple[str, int, int, int, int], tuple[CodeType, CodeType, Call, _Checks]] = {}
_depths: dict[str, tuple[int, ...]] = {}  # at which something was found, the last first
_MOST_FOUND = 1000
_MOST_DEPTHS = 3


def here(by: str) -> Call:
    """Return where in the application's code the present call was made.

    :param by: what asks; it asks from one place, or from several of one depth.
    """
    for depth in _depths.get(by, ()):
        try:
            one, inner = sys._getframe(depth), sys._getframe(depth - 1).f_code
        except ValueError:  # the stack is not so deep
            continue
        found = _found.get((by, depth, id(one.f_code), one.f_lasti, id(inner)))
        if found is not None and all(when(sys._getframe(at)) is was for at, when, was in found[3]):
            return found[2]
    return _walk(sys._getframe(1), by)


def own(frame: FrameType) -> None:
    """Count the package whose code makes a selector as the application's, where it is installed.

    An application may be a package beside the libraries: nothing else tells it from one.

    :param frame: the innermost frame that is looked at.
    """
    for one in frames(frame):
        kind = _kind_of(one)
        if kind == _LIBRARY:
            parts = os.path.normpath(one.f_code.co_filename).split(os.sep)
            beside = max(parts.index(name) for name in _BESIDE if name in parts)
            _owned.append(os.sep.join(parts[: beside + 2]))
            _kinds.clear()
            forget()
        if kind != _SKIPPED:
            return


def forget() -> None:
    """Keep no code of what was found."""
    _found.clear()
    _depths.clear()


def _keep(
    by: str | None,
    depth: int,
    frame: FrameType,
    inner: CodeType | None,
    *,
    call: Call,
    checks: _Checks,
) -> None:
    if by is None or inner is None:
        return
    if len(_found) >= _MOST_FOUND:
        _found.clear()
    code = frame.f_code
    _found[by, depth, id(code), frame.f_lasti, id(inner)] = code, inner, call, checks
    others = (one for one in _depths.get(by, ()) if one != depth)
    _depths[by] = (depth, *others)[:_MOST_DEPTHS]


def _walk(one: FrameType, by: str | None) -> Call:
    """Return it by looking at each frame, from this one on, and keep it for what has asked."""
    roads: tuple[str, ...] = ()
    library: FrameType | None = None
    greenlet: Any = None
    depth, inner = 1, None  # of what has called here()
    checks: _Checks = ()
    while True:
        code = one.f_code
        kind = _kind_of(one)
        if kind == _APPLICATION:
            call = Call(_site(one), roads)
            if greenlet is None:
                _keep(by, depth, one, inner, call=call, checks=checks)
            return call
        if kind == _LIBRARY:
            library = library or one
        elif code.co_name in _ROADS:
            found = _roads.get(id(code))
            if found is not None:
                holds = found[2](one)
                checks = checks if found[2] is _always else (*checks, (depth, found[2], holds))
                roads = (*roads, found[1]) if holds else roads
            elif (code.co_filename, code.co_name) in _LOOPS:
                break  # what has started the loop has not asked for this
        back = one.f_back
        if back is None:
            back, greenlet = _beyond(greenlet)
            if back is None:
                break
        one, inner = back, code
        depth += 1
    return Call(_born.get() if library is None else _site(library), roads)


_born: ContextVar[Site] = ContextVar("sa_readonly_born", default=_UNKNOWN)


def bear() -> None:
    """Take note of the present call for tasks that come of it.

    SQLAlchemy ends ``async with Session.begin()`` in a task of its own, on whose stack nothing of
    the application is. It is noted where the session is made: on the same line.
    """
    _born.set(_walk(sys._getframe(1), None).site)


def frames(frame: FrameType) -> Iterator[FrameType]:
    """Yield a frame and those that have called it, through the greenlets of SQLAlchemy's."""
    one: FrameType | None = frame
    greenlet: Any = None
    for _ in range(_DEEPEST):
        if one is None:
            return
        yield one
        one = one.f_back
        if one is None:
            one, greenlet = _beyond(greenlet)


def _beyond(greenlet: Any) -> tuple[FrameType | None, Any]:
    """Return where what awaits stands: another greenlet, in which the coroutines are."""
    module: Any = sys.modules.get("greenlet")
    if module is None:
        return None, None
    parent = (module.getcurrent() if greenlet is None else greenlet).parent
    return None if parent is None else parent.gr_frame, parent


def _kind_of(frame: FrameType) -> int:
    """Return ``_APPLICATION`` for a frame of the application's own code."""
    name = frame.f_code.co_filename
    kind = _kinds.get(name)
    if kind is None:
        kind = _kinds[name] = _judge(name)
    return kind


def callers(frame: FrameType) -> list[FrameType]:
    """Return the frames on the stack that are the application's own, the innermost first.

    If there are none, the application may be installed beside the libraries, or be a text that was
    given to ``exec()`` or ``python -c``. Then it is all frames that may be its.
    """
    several = list(frames(frame))
    return [one for one in several if _kind_of(one) == _APPLICATION] or [
        one
        for one in several
        if _kind_of(one) == _LIBRARY
        or (one.f_code.co_filename[:1] == "<" and one.f_code.co_filename[:7] != "<frozen")
    ]


def _site(frame: FrameType) -> Site:
    return Site(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name)


_OURS = tuple(
    os.path.join(os.path.dirname(os.path.abspath(path)), "")
    for path in (os.path.dirname(__file__), sqlalchemy.__file__)
)
_STANDARD = tuple(
    os.path.join(os.path.abspath(sysconfig.get_path(name)), "")
    for name in ("stdlib", "platstdlib", "scripts")  # such as bin/gunicorn
)
_LOOPS = {
    (sys.modules[cls.__module__].__file__, name)
    for cls, name in (
        (asyncio.Handle, "_run"),
        (asyncio.BaseEventLoop, "run_forever"),
        (asyncio.BaseEventLoop, "run_until_complete"),
    )
} | {(sys.modules[asyncio.run.__module__].__file__, "run")}
_ROADS = {name for _, name in _LOOPS}  # the names of what tells a road, and of loops


def _judge(name: str) -> int:
    if name.startswith("<"):  # what was made by exec(), or is frozen
        return _SKIPPED
    # Not by abspath(), which fails where the directory of the process was removed.
    path = os.path.normpath(name)
    if path.startswith(_OURS):
        return _SKIPPED
    if _BESIDE & set(path.split(os.sep)):
        owned = any(path == one or path.startswith(one + os.sep) for one in _owned)
        return _APPLICATION if owned else _LIBRARY
    return _SKIPPED if path.startswith(_STANDARD) else _APPLICATION
