"""Event loops: closing the connections of async drivers, and keeping work off a loop.

What an async engine has open belongs to the loop on which it was opened, while a flip may be
noticed in any thread. So a connection is hung up, which nobody has to wait for, in the thread of
its loop; if nobody runs that loop any more, in any thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from . import shared
from .privates import await_only, greenlet_spawn, in_greenlet

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from sqlalchemy.engine import Dialect

    from ..mode import State, Switch

__all__ = ["aside", "call", "hang_up", "in_thread", "refresh", "running", "wait_for"]

logger = logging.getLogger("sa_readonly")

T = TypeVar("T")


def running() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, or None."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        return asyncio.get_running_loop()  # type: ignore[no-any-return]  # of a module
    except RuntimeError:
        return None


def call(loop: asyncio.AbstractEventLoop | None, function: Callable[[], object]) -> None:
    """Call in the thread of a loop: at once if that is this one; here if nobody runs the loop."""
    if loop is not None and loop.is_running() and loop is not running():
        with contextlib.suppress(RuntimeError):  # it was closed just now
            loop.call_soon_threadsafe(function)
            return
    function()


# -- work that may block ---------------------------------------------------------------------
#
# In threads of our own, one for each piece of work: there is hardly any between flips, and the
# executor of a loop may be full of what the application does.


def in_thread(function: Callable[[], T]) -> Awaitable[T]:
    """Have a thread call; the running loop awaits what it returns."""
    loop = running()
    if loop is None:
        raise RuntimeError("There is no running event loop.")
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], outcome: object) -> None:
        if not future.done():  # or who awaits it was cancelled
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


def aside(function: Callable[[], object]) -> threading.Thread:
    """Have a thread call, which is returned, and don't wait; what that raises is logged."""

    def work() -> None:
        try:
            function()
        except Exception:
            logger.exception("What was done beside an event loop failed.")

    return _start(work)


def _start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, name="sa_readonly beside a loop", daemon=True)
    thread.start()
    return thread


def refresh(switch: Switch) -> State:
    """Refresh a switch while a loop must not wait for longer than a stat()."""
    if running() is not None and glance(switch):
        return switch.known
    return wait_for(switch.refresh)


def glance(switch: Switch) -> bool:
    """Look without blocking; False if the switch can't, or if there is more to do."""
    look: Callable[[], bool] | None = getattr(switch, "glance", None)
    return look is not None and look()


# -- connections -----------------------------------------------------------------------------


def loop_of(dialect: Dialect, connection: Any) -> asyncio.AbstractEventLoop | None:
    """Return the loop of a connection that was made unseen, as far as that can be told."""
    driver = dialect.get_driver_connection(connection)
    return getattr(driver, "_loop", None) or running()


def hang_up(dialect: Dialect, connection: Any, loop: asyncio.AbstractEventLoop | None) -> None:
    """Close an async driver's connection, which is not in use, at once.

    A connection of PostgreSQL says good-bye to the server and waits for no answer, so that no
    cancellation can come in between.

    :param loop: its loop. This is the thread in which that runs, unless nobody runs it.
    """
    driver: Any = dialect.get_driver_connection(connection)
    abandoned = loop is None or not loop.is_running()
    end = _ENDS.get(dialect.driver)
    if not abandoned and shared.comes_back(dialect, driver):
        # Ended here it would be lost to its pool, which would wait for it for ever.
        if in_greenlet():
            dialect.do_close(connection)
        else:
            _close_in_task(dialect, connection, loop)
    elif end is not None and abandoned:
        shut = _shut_socket(driver)
        with contextlib.suppress(RuntimeError):  # it is closed: the socket is shut all the same
            if shut and loop is not None and not loop.is_closed():
                # It may run again, and begin to just now: what is the loop's is left to it.
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


def _end_asyncpg(driver: Any) -> None:
    driver.terminate()


def _end_psycopg(driver: Any) -> None:
    driver.pgconn.finish()


def _end_aiosqlite(driver: Any) -> None:
    # In a thread without a loop: it would have its own thread tell the loop, which may be gone.
    _start(driver.stop).join()


def _end_mysql(driver: Any) -> None:
    driver.close()


_ENDS: dict[str, Callable[[Any], None]] = {
    "asyncpg": _end_asyncpg,
    "psycopg": _end_psycopg,
    "aiosqlite": _end_aiosqlite,
    "aiomysql": _end_mysql,
    "asyncmy": _end_mysql,
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
    """Shut what a transport keeps open for a loop that does not run; False if that is not done."""
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
