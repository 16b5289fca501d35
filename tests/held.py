"""What waits for read-write in threads of its own: transactions, requests."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.app import SECONDS, App
from tests.postgres import wait_until


class InThreads:
    """What an application holds, each in a thread of its own."""

    app: App

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    @property
    def number(self) -> int:
        number: int = self.app.selector.held.held[0]
        return number

    def start(self, work: Callable[[], None]) -> None:
        """Begin one; return when it waits, or is through."""
        before = self.number
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        wait_until(lambda: self.number > before or not self.threads[-1].is_alive(), "it waits")

    def end(self) -> None:
        self.app.off()
        self.app.selector.check()
        self.join()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
