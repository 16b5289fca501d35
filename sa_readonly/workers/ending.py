"""What the workers of this process do when it ends: leave the registry."""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from typing import Any

from .. import forks

__all__ = ["call_at_exit"]


_ending: weakref.WeakSet[Any] = weakref.WeakSet()


def call_at_exit(one: Any) -> None:
    """Have ``end()`` called when this very process ends; the object is held weakly."""
    _ending.add(one)
    _hook()


def _set_hook() -> None:
    atexit.unregister(_end)  # a forked child inherits it
    atexit.register(_end)
    # Before Python 3.12 or so a child of multiprocessing ends without what is registered there.
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, _end_alone, exitpriority=0)


_hook = forks.PerProcess(_set_hook)


def _end_alone() -> None:
    # It is called before the threads of the child are waited for, which may be writing still.
    me = threading.current_thread()
    if all(thread is me or thread.daemon for thread in threading.enumerate()):
        _end()


def _end() -> None:
    for one in list(_ending):
        one.end()
