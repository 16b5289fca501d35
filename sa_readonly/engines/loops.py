"""Event loops: closing the connections of async drivers, and keeping work off a loop.

A connection of an async driver belongs to the loop on which it was opened, while a flip may be
noticed in any thread. So it is hung up, which needs no waiting, in the thread of its loop or, where
that loop does not run any more, in the thread that noticed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar

from ..mode import Mode, State, now
from ..subscribers import looks_at_a_glance
from ..telemetry import fields
from . import shared
from .privates import await_only, greenlet_spawn, in_greenlet

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from sqlalchemy.engine import Dialect

    from ..mode import Switch

__all__ = [
    "aside",
    "call",
    "hang_up",
    "in_thread",
    "on_a_loop",
    "refresh",
    "running",
    "trio",
    "unawaited",
    "wait_for",
]

logger = logging.getLogger("sa_readonly")

T = TypeVar("T")


def running() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, or None."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        return asyncio.get_running_loop()  # type: ignore[no-any-return]  # sys.modules has no types
    except (RuntimeError, AttributeError):  # or another thread is importing it
        return None


def trio() -> Any:
    """Return the module trio, if its loop runs in this thread, or None."""
    module = sys.modules.get("trio")
    if module is None:
        return None
    try:
        module.lowlevel.current_trio_token()
    except (RuntimeError, AttributeError):  # or another thread is just importing it
        return None
    return module


def call(loop: asyncio.AbstractEventLoop | None, function: Callable[[], object]) -> None:
    """Call in the thread of a loop; at once if that is this one, or if the loop does not run."""
    if loop is not None and loop.is_running() and loop is not running():
        with contextlib.suppress(RuntimeError):  # it has been closed just now
            loop.call_soon_threadsafe(function)
            return
    function()


# -- work that may block ---------------------------------------------------------------------
#
# Each piece of work has a thread of its own. There is hardly any between flips, and the executor of
# a loop may be busy with work of the application.


def in_thread(function: Callable[[], T]) -> Awaitable[T]:
    """Begin to call in a thread now; return what the running task may await for the result."""
    loop = running()
    if loop is None:
        raise RuntimeError("There is no running event loop.")
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], outcome: object) -> None:
        if not future.done():  # it is, where the task that awaits it was cancelled
            set_it(outcome)

    def work() -> None:
        outcome: tuple[Callable[[Any], None], object]
        try:
            outcome = future.set_result, function()
        except BaseException as error:  # noqa: BLE001  # raised where it is awaited
            outcome = future.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(settle, *outcome)

    _start(work)
    return future


def wait_for(function: Callable[[], T]) -> T:
    """Call what may block: in a thread, which is awaited, where SQLAlchemy can await."""
    if running() is None or not in_greenlet():
        return function()
    return await_only(in_thread(function))


def on_a_loop(function: Callable[[], T], timeout: float) -> T | None:
    """Call what SQLAlchemy can await, on a loop of its own, in a thread where none runs.

    :param timeout: the seconds after which it is cancelled, and None returned.
    """
    import asyncio  # noqa: PLC0415  # importing this package imports no asyncio

    async def bounded() -> T | None:
        try:
            return await asyncio.wait_for(greenlet_spawn(function), timeout)
        except asyncio.TimeoutError:  # in Python 3.10 it is none of the built-in ones
            return None

    return asyncio.run(bounded())


def aside(function: Callable[[], object]) -> threading.Thread:
    """Call in a thread without waiting for it; what that raises is logged.

    :return: the thread.
    """

    def work() -> None:
        try:
            function()
        except Exception:
            message = "What was done beside an event loop failed."
            logger.exception(message, extra=fields("aside_failed"))

    return _start(work)


def _start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, name="sa_readonly beside a loop", daemon=True)
    thread.start()
    return thread


def refresh(switch: Switch) -> State:
    """Refresh a switch; an event loop that runs in this thread is blocked for a stat() at most."""
    if running() is not None and switch.glance():
        return switch.known
    if running() is None or in_greenlet() or not looks_at_a_glance(switch):
        return wait_for(switch.refresh)
    aside(switch.refresh)
    return unawaited(switch.known)


def unawaited(known: State) -> State:
    """Return the safe answer where nothing can be awaited, and a flip may not be known yet."""
    return known if known.read_only else State(Mode.READ_ONLY, since=now())


# -- connections -----------------------------------------------------------------------------


def loop_of(dialect: Dialect, connection: Any) -> asyncio.AbstractEventLoop | None:
    """Return the loop of a connection: that which its driver knows, or that of this thread."""
    driver = dialect.get_driver_connection(connection)
    return getattr(driver, "_loop", None) or running()


def hang_up(dialect: Dialect, connection: Any, loop: asyncio.AbstractEventLoop | None) -> None:
    """Close an async driver's connection, which is not in use, at once.

    A connection of PostgreSQL says good-bye to the server and waits for no answer, so that no
    cancellation can come in between.

    :param loop: its loop. If that runs, it runs in this thread.
    """
    driver: Any = dialect.get_driver_connection(connection)
    abandoned = loop is None or not loop.is_running()
    end = _ENDS.get(dialect.driver)
    if not abandoned and shared.comes_back(dialect, driver):
        # It belongs to another pool, which would wait for ever for one that is hung up.
        if in_greenlet():
            dialect.do_close(connection)
        else:
            _close_in_task(dialect, connection, loop)
    elif end is not None and abandoned:
        shut = _shut_socket(driver)
        with contextlib.suppress(RuntimeError):  # the loop is closed, but the socket is shut
            if shut and loop is not None and not loop.is_closed():
                # The loop may run again, perhaps from now on, so its own part is left to it.
                loop.call_soon_threadsafe(end, driver)
            else:
                end(driver)
    elif end is not None:
        end(driver)
    elif in_greenlet():
        dialect.do_close(connection)
    elif dialect.has_terminate:
        dialect.do_terminate(connection)
    else:
        _close_in_task(dialect, connection, loop)


def _end_aiosqlite(driver: Any) -> None:
    # In a thread without a loop: elsewhere stop() makes a future of the loop there, which may be
    # closed by the time at which the future is done.
    _start(driver.stop).join()


# By driver, what hangs up one of its connections at once, without awaiting.
_ENDS: dict[str, Callable[[Any], object]] = {
    "asyncpg": methodcaller("terminate"),
    "psycopg": lambda driver: driver.pgconn.finish(),
    "aiosqlite": _end_aiosqlite,
    "aiomysql": methodcaller("close"),
    "asyncmy": methodcaller("close"),
}

_tasks: set[object] = set()  # a loop holds its tasks weakly


def _close_in_task(
    dialect: Dialect, connection: Any, loop: asyncio.AbstractEventLoop | None
) -> None:
    if loop is None or loop is not running():
        raise RuntimeError(f"The driver {dialect.driver} can close a connection in its loop only.")

    def close() -> None:
        shared.take_off_leaving(dialect, connection)
        dialect.do_close(connection)

    task = loop.create_task(greenlet_spawn(close))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _shut_socket(driver: Any) -> bool:
    """Shut the socket of a transport, which keeps it open for a loop that does not run.

    :return: whether it is shut.
    """
    transport = getattr(driver, "_transport", None)
    found = None if transport is None else transport.get_extra_info("socket")
    if found is None:
        return False
    try:
        try:
            found.shutdown(socket.SHUT_RDWR)
        except (AttributeError, TypeError):  # uvloop's has none
            with socket.socket(fileno=os.dup(found.fileno())) as own:
                own.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.EBADF)  # it is shut already
    return True
